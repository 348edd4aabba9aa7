//! Messages written out by hand, read and written again.

use std::sync::Arc;

use bytes::BytesMut;
use margay_bgp::asn::Asn;
use margay_bgp::codec::{
    AddPath, AddPathMode, Announcement, AsPath, Capability, CodecContext, Community, ErrorCode,
    ExtendedNextHop, GracefulRestartCapability, GracefulRestartFamily, HoldTime, LargeCommunity,
    LocalPref, Message, NextHop, Nlri, Notification, Open, Origin, PathAttributes, PathId,
    RefreshKind, RouteRefresh, Update, decode,
};
use margay_bgp::family::{Afi, Family, FamilySet};

use crate::{bytes_of, external, internal};

/// The file reads as `expected`, and `expected` is written as the file.
#[track_caller]
fn both_ways(name: &str, context: &CodecContext, expected: Message) {
    let octets = bytes_of(name);
    assert_eq!(decode(&octets, context).as_ref(), Ok(&expected), "{name}");
    let written = expected.to_bytes(context).unwrap();
    assert_eq!(
        format!("{:02x?}", &*written),
        format!("{octets:02x?}"),
        "{name}"
    );
}

fn nlri(text: &str) -> Nlri {
    Nlri::from(text.parse::<margay_bgp::prefix::Prefix>().unwrap())
}

fn announce(next_hop: NextHop, prefixes: &[&str], attributes: PathAttributes) -> Message {
    let nlri = prefixes.iter().map(|text| nlri(text)).collect();
    Message::Update(Update {
        announced: [Announcement { next_hop, nlri }].into_iter().collect(),
        attributes: Some(Arc::new(attributes)),
        ..Update::default()
    })
}

fn withdraw(prefixes: &[&str]) -> Message {
    Message::Update(Update {
        withdrawn: prefixes.iter().map(|text| nlri(text)).collect(),
        ..Update::default()
    })
}

fn end_of_rib(family: Family) -> Message {
    Message::Update(Update {
        end_of_rib: Some(family),
        ..Update::default()
    })
}

fn path(asns: &[u32]) -> AsPath {
    AsPath::from_sequence(asns.iter().copied().map(Asn))
}

fn next_hop() -> NextHop {
    NextHop::V4("192.0.2.1".parse().unwrap())
}

fn any_first_as() -> CodecContext {
    CodecContext {
        enforce_first_as: None,
        ..external()
    }
}

#[test]
fn keepalive() {
    both_ways("keepalive", &internal(), Message::Keepalive);
}

#[test]
fn open_with_every_capability() {
    let family = |family| GracefulRestartFamily {
        family,
        forwarding: true,
    };
    let both = |family| AddPath {
        family,
        mode: AddPathMode::Both,
    };
    both_ways(
        "open-full",
        &CodecContext::before_open(),
        Message::Open(Open {
            contradicting_as: None,
            asn: Asn(64512),
            hold_time: HoldTime::default(),
            router_id: "10.0.0.1".parse().unwrap(),
            capabilities: vec![
                Capability::Multiprotocol(Family::IPV4_UNICAST),
                Capability::Multiprotocol(Family::IPV6_UNICAST),
                Capability::RouteRefresh,
                Capability::ExtendedNextHop(vec![ExtendedNextHop {
                    family: Family::IPV4_UNICAST,
                    next_hop_afi: Afi::IPV6,
                }]),
                Capability::ExtendedMessage,
                Capability::GracefulRestart(GracefulRestartCapability {
                    restarting: false,
                    notification: true,
                    restart_time: 120,
                    families: Family::ALL.map(family).to_vec(),
                }),
                Capability::FourOctetAs(Asn(64512)),
                Capability::AddPath(Family::ALL.map(both).to_vec()),
                Capability::EnhancedRouteRefresh,
            ],
        }),
    );
}

#[test]
fn open_of_a_four_octet_as() {
    both_ways(
        "open-as-trans",
        &CodecContext::before_open(),
        Message::Open(Open {
            contradicting_as: None,
            asn: Asn(4_200_000_001),
            hold_time: HoldTime::default(),
            router_id: "10.0.0.1".parse().unwrap(),
            capabilities: vec![
                Capability::Multiprotocol(Family::IPV4_UNICAST),
                Capability::FourOctetAs(Asn(4_200_000_001)),
            ],
        }),
    );
}

#[test]
fn open_in_extended_framing_reads_like_any_other() {
    let Ok(Message::Open(open)) = decode(&bytes_of("open-extended"), &CodecContext::before_open())
    else {
        panic!("expected an OPEN");
    };
    assert_eq!(
        open.capabilities,
        [Capability::Multiprotocol(Family::IPV4_UNICAST)]
    );
}

#[test]
fn ipv4_update_to_an_external_peer() {
    both_ways(
        "update-ipv4",
        &any_first_as(),
        announce(
            next_hop(),
            &[
                "10.65.0.0/26",
                "10.65.0.64/26",
                "10.65.1.128/25",
                "10.66.0.0/16",
                "0.0.0.0/0",
            ],
            PathAttributes {
                as_path: path(&[64512]),
                communities: [Community::new(64512, 100)].into_iter().collect(),
                ..PathAttributes::default()
            },
        ),
    );
}

#[test]
fn ipv4_update_to_an_internal_peer() {
    let attributes = PathAttributes {
        local_pref: Some(LocalPref(100)),
        ..PathAttributes::default()
    };
    both_ways(
        "update-internal",
        &internal(),
        announce(next_hop(), &["10.65.0.0/26"], attributes),
    );
}

#[test]
fn reflected_update() {
    let attributes = PathAttributes {
        local_pref: Some(LocalPref(100)),
        originator_id: Some("10.0.0.1".parse().unwrap()),
        cluster_list: vec!["10.255.0.12".parse().unwrap()],
        ..PathAttributes::default()
    };
    both_ways(
        "update-reflected",
        &internal(),
        announce(next_hop(), &["10.65.0.0/26"], attributes),
    );
}

#[test]
fn ipv6_update_with_two_next_hops() {
    both_ways(
        "update-ipv6",
        &any_first_as(),
        announce(
            NextHop::V6 {
                global: Some("2001:db8::1".parse().unwrap()),
                link_local: Some("fe80::1".parse().unwrap()),
            },
            &["fd00:10:65::/64", "fd00:10:65:1:8000::/66"],
            PathAttributes {
                as_path: path(&[64512]),
                ..PathAttributes::default()
            },
        ),
    );
}

#[test]
fn ipv4_update_with_a_link_local_next_hop() {
    let context = CodecContext {
        extended_next_hop: true,
        link_local_next_hop: true,
        ..any_first_as()
    };
    both_ways(
        "update-ipv4-over-ipv6",
        &context,
        announce(
            NextHop::V6 {
                global: None,
                link_local: Some("fe80::1".parse().unwrap()),
            },
            &["10.65.0.0/26"],
            PathAttributes {
                as_path: path(&[64512]),
                ..PathAttributes::default()
            },
        ),
    );
}

#[test]
fn withdrawals_of_both_families() {
    both_ways(
        "withdraw-ipv4",
        &internal(),
        withdraw(&["10.65.0.0/26", "10.66.0.0/16"]),
    );
    both_ways("withdraw-ipv6", &internal(), withdraw(&["fd00:10:65::/64"]));
}

#[test]
fn end_of_rib_markers() {
    both_ways(
        "end-of-rib-ipv4",
        &internal(),
        end_of_rib(Family::IPV4_UNICAST),
    );
    both_ways(
        "end-of-rib-ipv6",
        &internal(),
        end_of_rib(Family::IPV6_UNICAST),
    );
    assert_eq!(
        decode(&bytes_of("end-of-rib-ipv4-mp"), &internal()),
        Ok(end_of_rib(Family::IPV4_UNICAST))
    );
}

#[test]
fn update_with_path_identifier_and_large_community() {
    let context = CodecContext {
        peer_is_external: true,
        add_path_receive: FamilySet::IPV4_UNICAST,
        add_path_send: FamilySet::IPV4_UNICAST,
        ..internal()
    };
    let nlri = Nlri {
        path_id: Some(PathId(7)),
        ..nlri("10.65.0.0/26")
    };
    let attributes = PathAttributes {
        large_communities: [LargeCommunity::new(Asn(64512), 1, 2)]
            .into_iter()
            .collect(),
        ..PathAttributes::default()
    };
    both_ways(
        "update-add-path",
        &context,
        Message::Update(Update {
            announced: [Announcement {
                next_hop: next_hop(),
                nlri: vec![nlri],
            }]
            .into_iter()
            .collect(),
            attributes: Some(Arc::new(attributes)),
            ..Update::default()
        }),
    );
}

#[test]
fn update_to_a_two_octet_peer() {
    let context = CodecContext {
        four_octet_as: false,
        ..any_first_as()
    };
    let attributes = PathAttributes {
        origin: Origin::Igp,
        as_path: path(&[64512, 4_200_000_001]),
        ..PathAttributes::default()
    };
    both_ways(
        "update-two-octet",
        &context,
        announce(next_hop(), &["10.65.0.0/26"], attributes),
    );
}

#[test]
fn route_refresh_and_its_bounds() {
    let context = CodecContext {
        enhanced_route_refresh: true,
        ..internal()
    };
    let refresh = |kind| {
        Message::RouteRefresh(RouteRefresh {
            family: Family::IPV4_UNICAST,
            kind,
        })
    };
    both_ways("refresh-request", &context, refresh(RefreshKind::Request));
    both_ways("refresh-begin", &context, refresh(RefreshKind::Begin));
    both_ways("refresh-end", &context, refresh(RefreshKind::End));
    // The octet is reserved where RFC 7313 was not negotiated.
    assert_eq!(
        decode(&bytes_of("refresh-end"), &internal()),
        Ok(refresh(RefreshKind::Request))
    );
}

#[test]
fn notifications() {
    let shutdown = Notification::with_text(ErrorCode::ADMINISTRATIVE_SHUTDOWN, "rebooting node-7");
    let all = [
        ("notification-shutdown", shutdown.clone()),
        ("notification-hard-reset", shutdown.into_hard_reset()),
        (
            "notification-hold-timer",
            Notification::new(ErrorCode::HOLD_TIMER_EXPIRED),
        ),
        (
            "notification-maximum-prefixes",
            Notification::maximum_prefixes(Family::IPV4_UNICAST, 5000),
        ),
    ];
    for (name, notification) in all {
        both_ways(name, &internal(), Message::Notification(notification));
    }
}

#[test]
fn shutdown_text_is_found_inside_a_hard_reset() {
    let Ok(Message::Notification(notification)) =
        decode(&bytes_of("notification-hard-reset"), &internal())
    else {
        panic!("expected a NOTIFICATION");
    };
    assert_eq!(notification.text().as_deref(), Some("rebooting node-7"));
    assert_eq!(
        notification.hard_reset_cause().map(|cause| cause.code),
        Some(ErrorCode::ADMINISTRATIVE_SHUTDOWN)
    );
}

#[test]
fn shutdown_text_is_cut_at_a_character() {
    let notification =
        Notification::with_text(ErrorCode::ADMINISTRATIVE_SHUTDOWN, &"é".repeat(200));
    assert_eq!(notification.text(), Some("é".repeat(127)));
}

#[test]
fn shutdown_text_that_lies_about_its_length_is_not_read() {
    for data in [&b"\x05abc"[..], b"\x00", b"", b"\x02\xff\xff"] {
        let notification =
            Notification::with_data(ErrorCode::ADMINISTRATIVE_SHUTDOWN, data.to_vec().into());
        assert_eq!(notification.text(), None, "{data:?}");
    }
}

#[test]
fn notification_data_is_cut_to_what_the_peer_takes() {
    let notification =
        Notification::with_data(ErrorCode::OPTIONAL_ATTRIBUTE, vec![0; 10_000].into());
    let mut out = BytesMut::new();
    notification.encode(&internal(), &mut out);
    assert_eq!(out.len(), 4096);
    assert!(decode(&out, &internal()).is_ok());
}
