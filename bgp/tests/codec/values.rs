//! Whatever can be said in an OPEN, a NOTIFICATION or a ROUTE-REFRESH is read as it was meant; and UPDATEs of several
//! attribute sets are no more messages than their prefixes need.

use bytes::{Bytes, BytesMut};
use margay_bgp::asn::Asn;
use margay_bgp::codec::{
    AddPath, AddPathMode, Capability, CodecContext, ErrorCode, ExtendedNextHop,
    GracefulRestartCapability, GracefulRestartFamily, HoldTime, LongLivedFamily, Message, Nlri,
    Notification, Open, PathAttributes, RefreshKind, Role, RouteRefresh, attributes_block, decode,
    encode_announcements, encode_withdrawals,
};
use margay_bgp::family::{Afi, Family, Safi};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::properties::{
    asns, attributes, contexts, lists, messages, next_hop_for, nlri_for, router_ids,
};

fn families() -> impl Strategy<Value = Family> {
    prop_oneof![
        Just(Family::IPV4_UNICAST),
        Just(Family::IPV6_UNICAST),
        (any::<u16>(), any::<u8>()).prop_map(|(afi, safi)| Family::new(Afi(afi), Safi(safi))),
    ]
}

fn roles() -> impl Strategy<Value = Role> {
    prop_oneof![
        Just(Role::Provider),
        Just(Role::RouteServer),
        Just(Role::RouteServerClient),
        Just(Role::Customer),
        Just(Role::Peer),
        (5..=255_u8).prop_map(Role::Other),
    ]
}

/// Every kind, with values its form can hold. The four-octet AS is not among them: it is said once, by `opens`.
fn capabilities() -> impl Strategy<Value = Capability> {
    let mode = prop_oneof![
        Just(AddPathMode::Receive),
        Just(AddPathMode::Send),
        Just(AddPathMode::Both),
    ];
    let next_hop = (families(), any::<u16>()).prop_map(|(family, afi)| ExtendedNextHop {
        family,
        next_hop_afi: Afi(afi),
    });
    let kept = (families(), any::<bool>())
        .prop_map(|(family, forwarding)| GracefulRestartFamily { family, forwarding });
    let long_lived =
        (families(), any::<bool>(), 0..1_u32 << 24).prop_map(|(family, forwarding, stale_time)| {
            LongLivedFamily {
                family,
                forwarding,
                stale_time,
            }
        });
    prop_oneof![
        4 => families().prop_map(Capability::Multiprotocol),
        1 => Just(Capability::RouteRefresh),
        1 => vec(next_hop, 0..6).prop_map(Capability::ExtendedNextHop),
        1 => Just(Capability::ExtendedMessage),
        1 => roles().prop_map(Capability::Role),
        2 => (any::<[bool; 2]>(), 0..4096_u16, vec(kept, 0..6)).prop_map(
            |([restarting, notification], restart_time, families)| {
                Capability::GracefulRestart(GracefulRestartCapability {
                    restarting,
                    notification,
                    restart_time,
                    families,
                })
            }
        ),
        2 => vec((families(), mode).prop_map(|(family, mode)| AddPath { family, mode }), 0..6)
            .prop_map(Capability::AddPath),
        1 => Just(Capability::EnhancedRouteRefresh),
        1 => vec(long_lived, 0..6).prop_map(Capability::LongLivedGracefulRestart),
        1 => ("[a-zé]{0,40}", "[a-z.]{0,40}").prop_map(|(host, domain)| Capability::Fqdn { host, domain }),
        1 => Just(Capability::LinkLocalNextHop),
        2 => (200..=255_u8, vec(any::<u8>(), 0..255)).prop_map(|(code, data)| Capability::Unknown {
            code,
            data: Bytes::from(data),
        }),
    ]
}

fn opens() -> impl Strategy<Value = Open> {
    let hold = any::<u16>().prop_filter_map("one and two seconds", HoldTime::from_secs);
    (
        asns(),
        any::<bool>(),
        hold,
        router_ids(),
        vec(capabilities(), 0..12),
    )
        .prop_filter_map(
            "nobody's own number",
            |(asn, wide, hold_time, router_id, mut capabilities)| {
                // Without the capability there is only the field of two octets.
                let asn = if wide { asn } else { Asn(asn.0 & 0xffff) };
                if asn.is_reserved_zero() || asn == Asn::AS_TRANS {
                    return None;
                }
                if wide {
                    capabilities.insert(capabilities.len() / 2, Capability::FourOctetAs(asn));
                }
                Some(Open {
                    asn,
                    contradicting_as: None,
                    hold_time,
                    router_id,
                    capabilities,
                })
            },
        )
}

#[track_caller]
fn survives(message: &Message, context: &CodecContext) {
    let octets = message.to_bytes(context).unwrap();
    assert_eq!(decode(&octets, context).as_ref(), Ok(message));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn opens_arrive_as_they_were_sent(open in opens(), context in contexts()) {
        survives(&Message::Open(open), &context);
    }

    #[test]
    fn notifications_arrive_as_they_were_sent(
        code in any::<u8>(), subcode in any::<u8>(), data in vec(any::<u8>(), 0..4075), context in contexts(),
    ) {
        let notification = Notification::with_data(ErrorCode::new(code, subcode), Bytes::from(data));
        survives(&Message::Notification(notification.clone()), &context);
        let hard = notification.into_hard_reset();
        prop_assert_eq!(hard.hard_reset_cause().map(|cause| cause.code), Some(ErrorCode::new(code, subcode)));
    }

    #[test]
    fn a_text_arrives_as_far_as_it_may_be_long(text in "\\PC{0,300}", context in contexts()) {
        for code in [ErrorCode::ADMINISTRATIVE_SHUTDOWN, ErrorCode::ADMINISTRATIVE_RESET] {
            let notification = Notification::with_text(code, &text);
            survives(&Message::Notification(notification.clone()), &context);
            let arrived = notification.text().unwrap_or_default();
            prop_assert!(arrived.len() <= 255 && text.starts_with(&arrived));
            // No more is cut off than the last character takes.
            prop_assert!(arrived.len() == text.len() || arrived.len() > 251);
            prop_assert_eq!(notification.into_hard_reset().text().unwrap_or_default(), arrived);
        }
    }

    #[test]
    fn refreshes_arrive_as_they_were_sent(family in families(), subtype in any::<u8>(), context in contexts()) {
        let kind = match subtype {
            _ if !context.enhanced_route_refresh => RefreshKind::Request,
            0 => RefreshKind::Request,
            1 => RefreshKind::Begin,
            2 => RefreshKind::End,
            other => RefreshKind::Other(other),
        };
        survives(&Message::RouteRefresh(RouteRefresh { family, kind }), &context);
    }

    /// As many sets of attributes as there are lists, one after the other in one buffer, and what is withdrawn before them.
    #[test]
    fn several_sets_take_no_more_messages_than_their_prefixes_need(
        sets in vec((attributes(), lists(700), any::<u8>()), 1..5),
        (gone_family, gone) in lists(1500),
        context in contexts(),
    ) {
        let mut out = BytesMut::new();
        let gone = nlri_for(&gone, gone_family, &context);
        encode_withdrawals(gone_family, gone.iter().copied(), &context, &mut out).unwrap();
        let octets = |list: &[Nlri]| -> usize {
            let each = list.iter().map(|one| {
                4 * usize::from(one.path_id.is_some()) + 1 + usize::from(one.prefix.len().div_ceil(8))
            });
            each.sum()
        };
        // A message is left as soon as the next prefix does not fit, so less than the longest one is wasted. What comes
        // before the prefixes, at most: header, lengths, MP attribute with its next hops, NEXT_HOP.
        let room = |block: usize| context.max_send_len() - block - (19 + 4 + 4 + 37 + 7) - (4 + 16);
        let mut bound = octets(&gone).div_ceil(room(0));
        let mut expected: Vec<(Option<PathAttributes>, Nlri)> = Vec::new();
        for (attributes, (family, list), choice) in sets {
            let nlri = nlri_for(&list, family, &context);
            let next_hop = next_hop_for(family, &context, choice);
            let block = attributes_block(&attributes, &context).unwrap();
            encode_announcements(&block, next_hop, family, nlri.iter().copied(), &context, &mut out).unwrap();
            bound += octets(&nlri).div_ceil(room(block.len()));
            let attributes = crate::properties::as_received(attributes, &context);
            expected.extend(nlri.into_iter().map(|nlri| (Some(attributes.clone()), nlri)));
        }
        let updates = messages(&out, &context);
        prop_assert!(updates.len() <= bound, "{} messages, not {bound}", updates.len());
        let mut withdrawn = Vec::new();
        let mut announced = Vec::new();
        for update in updates {
            withdrawn.extend(update.withdrawn);
            for one in &update.announced {
                announced.extend(one.nlri.iter().map(|nlri| (update.attributes.as_deref().cloned(), *nlri)));
            }
        }
        prop_assert_eq!(withdrawn, gone);
        prop_assert!(announced == expected, "other routes than were meant");
    }
}
