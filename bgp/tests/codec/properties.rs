//! What holds for every message: reading never fails in other ways than its error type says,
//! writing keeps to every limit, and the two undo each other.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use margay_bgp::asn::Asn;
use margay_bgp::codec::{
    Aggregator, AsPath, AttributeCode, AttributeFlags, CodecContext, Community, Decoder,
    EncodeError, ExtendedCommunity, LargeCommunity, LocalPref, Med, Message, NextHop, Nlri,
    Notification, Origin, PartialBits, PathAttributes, PathId, UnknownAttribute, Update,
    attributes_block, decode, encode_announcements, encode_withdrawals, framing,
};
use margay_bgp::family::{Family, FamilySet};
use margay_bgp::prefix::{Ipv4Prefix, Ipv6Prefix, Prefix};
use margay_bgp::router_id::RouterId;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::reference::hold_against_reference;
use crate::{bytes_of, message};

/// Contexts in which both directions agreed to the same.
pub(crate) fn contexts() -> impl Strategy<Value = CodecContext> {
    any::<[bool; 11]>().prop_map(
        |[
            wide,
            v4_ids,
            v6_ids,
            long,
            enhe,
            local,
            enhanced,
            external,
            sets,
            strict,
            disables,
        ]| {
            let mut ids = FamilySet::empty();
            ids.set(FamilySet::IPV4_UNICAST, v4_ids);
            ids.set(FamilySet::IPV6_UNICAST, v6_ids);
            CodecContext {
                four_octet_as: wide,
                families: FamilySet::all(),
                add_path_receive: ids,
                add_path_send: ids,
                extended_message_receive: long,
                extended_message_send: long,
                extended_next_hop: enhe,
                link_local_next_hop: local,
                enhanced_route_refresh: enhanced,
                peer_is_external: external,
                enforce_first_as: None,
                allow_as_set: sets,
                strict_attributes: strict,
                afi_safi_disable: disables,
            }
        },
    )
}

pub(crate) fn asns() -> impl Strategy<Value = Asn> {
    // AS_TRANS is nobody's number and in many paths.
    prop_oneof![1 => Just(23_456_u32), 5 => 1..70_000_u32, 5 => 1..=u32::MAX].prop_map(Asn)
}

pub(crate) fn router_ids() -> impl Strategy<Value = RouterId> {
    (1..=u32::MAX).prop_map(|number| RouterId::new(number).unwrap())
}

/// Attributes as they can be known in some context.
pub(crate) fn attributes() -> impl Strategy<Value = PathAttributes> {
    (whole_attributes(), any::<u8>()).prop_map(|(mut attributes, bits)| {
        let mut partial = PartialBits::from_bits_truncate(bits);
        partial.set(PartialBits::IPV6_EXTENDED_COMMUNITIES, false);
        let present = [
            (PartialBits::AGGREGATOR, attributes.aggregator.is_some()),
            (PartialBits::COMMUNITIES, !attributes.communities.is_empty()),
            (
                PartialBits::EXTENDED_COMMUNITIES,
                !attributes.extended_communities.is_empty(),
            ),
            (
                PartialBits::LARGE_COMMUNITIES,
                !attributes.large_communities.is_empty(),
            ),
            (
                PartialBits::ONLY_TO_CUSTOMER,
                attributes.only_to_customer.is_some(),
            ),
        ];
        for (bit, present) in present {
            partial.set(bit, present && partial.contains(bit));
        }
        attributes.partial = partial;
        attributes
    })
}

fn whole_attributes() -> impl Strategy<Value = PathAttributes> {
    let scalars = (
        prop_oneof![
            Just(Origin::Igp),
            Just(Origin::Egp),
            Just(Origin::Incomplete)
        ],
        vec(asns(), 0..20),
        option::of(any::<u32>().prop_map(Med)),
        any::<u32>().prop_map(LocalPref),
        any::<bool>(),
        option::of((asns(), any::<u32>())),
        option::of(router_ids()),
        vec(router_ids(), 0..4),
        option::of(asns()),
    );
    let sets = (
        vec(any::<u32>().prop_map(Community), 0..100),
        vec(any::<u64>().prop_map(ExtendedCommunity), 0..4),
        vec((asns(), any::<u32>(), any::<u32>()), 0..4),
        vec((36..=255_u8, vec(any::<u8>(), 0..300)), 0..3),
    );
    (scalars, sets).prop_map(|(scalars, sets)| {
        let (
            origin,
            path,
            med,
            local_pref,
            atomic_aggregate,
            aggregator,
            originator_id,
            cluster_list,
            otc,
        ) = scalars;
        let (communities, extended, large, unknown) = sets;
        let unknown: BTreeMap<u8, Vec<u8>> = unknown.into_iter().collect();
        PathAttributes {
            origin,
            as_path: AsPath::from_sequence(path),
            med,
            local_pref: Some(local_pref),
            atomic_aggregate,
            aggregator: aggregator.map(|(asn, addr)| Aggregator {
                asn,
                addr: addr.into(),
            }),
            communities: communities.into_iter().collect(),
            originator_id,
            cluster_list,
            extended_communities: extended.into_iter().collect(),
            large_communities: large
                .into_iter()
                .map(|(asn, a, b)| LargeCommunity::new(asn, a, b))
                .collect(),
            only_to_customer: otc,
            unknown: unknown
                .into_iter()
                .map(|(code, value)| UnknownAttribute {
                    code: AttributeCode(code),
                    flags: AttributeFlags::OPTIONAL
                        | AttributeFlags::TRANSITIVE
                        | AttributeFlags::PARTIAL,
                    value: Bytes::from(value),
                })
                .collect(),
            ..PathAttributes::default()
        }
    })
}

/// What is left of attributes at a peer of this kind.
pub(crate) fn as_received(
    mut attributes: PathAttributes,
    context: &CodecContext,
) -> PathAttributes {
    if context.peer_is_external {
        attributes.local_pref = None;
        attributes.originator_id = None;
        attributes.cluster_list.clear();
    }
    attributes
}

fn ipv4(bits: u32, len: u8) -> Prefix {
    Ipv4Prefix::new(bits.into(), len).unwrap().into()
}

fn ipv6(bits: u128, len: u8) -> Prefix {
    Ipv6Prefix::new(bits.into(), len).unwrap().into()
}

pub(crate) fn lists(max: usize) -> impl Strategy<Value = (Family, Vec<(Prefix, u32)>)> {
    let v4 = vec(((any::<u32>(), 0..=32_u8), any::<u32>()), 1..max)
        .prop_map(|list| {
            list.into_iter()
                .map(|((bits, len), id)| (ipv4(bits, len), id))
                .collect()
        })
        .prop_map(|list| (Family::IPV4_UNICAST, list));
    let v6 = vec(((any::<u128>(), 0..=128_u8), any::<u32>()), 1..max)
        .prop_map(|list| {
            list.into_iter()
                .map(|((bits, len), id)| (ipv6(bits, len), id))
                .collect()
        })
        .prop_map(|list| (Family::IPV6_UNICAST, list));
    prop_oneof![v4, v6]
}

pub(crate) fn nlri_for(
    list: &[(Prefix, u32)],
    family: Family,
    context: &CodecContext,
) -> Vec<Nlri> {
    let with_id = context.sends_path_ids(family);
    list.iter()
        .map(|&(prefix, id)| Nlri {
            prefix,
            path_id: with_id.then_some(PathId(id)),
        })
        .collect()
}

pub(crate) fn next_hop_for(family: Family, context: &CodecContext, choice: u8) -> NextHop {
    let global = Some("2001:db8::1".parse().unwrap());
    let link_local = Some("fe80::1".parse().unwrap());
    match (family, choice % 4) {
        (Family::IPV4_UNICAST, choice) if !context.extended_next_hop || choice == 0 => {
            NextHop::V4("192.0.2.1".parse().unwrap())
        }
        (_, 1) => NextHop::V6 { global, link_local },
        (_, 2) => NextHop::V6 {
            global: None,
            link_local,
        },
        _ => NextHop::V6 {
            global,
            link_local: None,
        },
    }
}

/// Every message of `octets`, each checked to be what speakers from before RFC 7606 accept.
pub(crate) fn messages(octets: &[u8], context: &CodecContext) -> Vec<Update> {
    let mut buffer = BytesMut::from(octets);
    let mut updates = Vec::new();
    while let Some(frame) = framing::split(&mut buffer, context.max_receive_len()).unwrap() {
        strict(&frame.octets, context.add_path_send);
        match decode(&frame.octets, context) {
            Ok(Message::Update(update)) => updates.push(update),
            other => panic!("expected an UPDATE, got {other:?}"),
        }
    }
    assert!(buffer.is_empty());
    updates
}

/// Written without the codec: lengths add up, the multiprotocol attribute is first and the others
/// ascend, flags are exact, one kind of prefixes, no host bits.
fn strict(message: &[u8], path_ids: FamilySet) {
    let length = |at: usize| usize::from(u16::from_be_bytes([message[at], message[at + 1]]));
    assert_eq!(length(16), message.len());
    let withdrawn = length(19);
    let attributes_at = 21 + withdrawn + 2;
    let attributes = length(21 + withdrawn);
    let nlri = message.len() - attributes_at - attributes;
    let mut kinds = usize::from(withdrawn > 0) + usize::from(nlri > 0);
    strict_prefixes(&message[21..21 + withdrawn], 1, path_ids);
    strict_prefixes(&message[message.len() - nlri..], 1, path_ids);
    let mut at = attributes_at;
    // Type 0 is reserved, not forbidden: damage may make one, and it is passed on as any unknown attribute.
    let mut last = None;
    while at < attributes_at + attributes {
        let (flags, code) = (message[at], message[at + 1]);
        let value = if flags & 0x10 == 0 {
            at += 3;
            usize::from(message[at - 1])
        } else {
            at += 4;
            length(at - 2)
        };
        assert_eq!(flags & 0x10 != 0, value > 255, "short length where it fits");
        assert_eq!(flags & 0x0f, 0);
        let expected = match code {
            1..=3 | 5 | 6 => 0x40,
            4 | 9 | 10 | 14 | 15 => 0x80,
            7 | 8 | 16..=18 | 25 | 32 | 35 => 0xc0,
            _ => 0xe0,
        };
        // Partial stays where it was set on the way.
        let may_be_partial = matches!(code, 7 | 8 | 16 | 25 | 32 | 35);
        let kind = flags & if may_be_partial { 0xc0 } else { 0xe0 };
        assert_eq!(kind, expected, "flags of {code}");
        if code == 14 || code == 15 {
            assert_eq!(last, None, "multiprotocol attribute first");
            kinds += 1;
            let octets = &message[at..at + value];
            let next_hop = if code == 14 {
                2 + usize::from(octets[3])
            } else {
                0
            };
            strict_prefixes(&octets[3 + next_hop..], octets[1], path_ids);
        } else {
            assert!(Some(code) > last, "{code} after {last:?}");
            last = Some(code);
        }
        at += value;
    }
    assert_eq!(at, attributes_at + attributes);
    assert!(kinds <= 1, "one kind of prefixes");
}

/// Prefixes of the AFI end where the list ends, and what is behind their length is zero.
fn strict_prefixes(mut octets: &[u8], afi: u8, path_ids: FamilySet) {
    let family = [Family::IPV4_UNICAST, Family::IPV6_UNICAST][usize::from(afi) - 1];
    let id_len = if path_ids.has(family) { 4 } else { 0 };
    while !octets.is_empty() {
        let length = octets[id_len];
        assert!(length <= [32, 128][usize::from(afi) - 1]);
        let end = id_len + 1 + usize::from(length.div_ceil(8));
        if !length.is_multiple_of(8) {
            assert_eq!(octets[end - 1] << (length % 8), 0, "host bits");
        }
        octets = &octets[end..];
    }
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort_unstable();
    list
}

/// Reads, writes and reads again; the second reading must say what the first said.
fn reread(octets: &[u8], context: &CodecContext) {
    let result = decode(octets, context);
    if octets[18] == 2 && octets.len() >= 23 {
        hold_against_reference(octets, context, &result);
    }
    let first = match result {
        Ok(message) => message,
        Err(error) => {
            // Every error has an answer a peer can be sent.
            let mut out = BytesMut::new();
            Notification::from(&error).encode(context, &mut out);
            assert!(out.len() <= context.max_send_len());
            return;
        }
    };
    let mut out = BytesMut::new();
    match first.encode(context, &mut out) {
        Ok(()) => {}
        // LOCAL_PREF and AS4_PATH may have been added to a message that was full before.
        Err(EncodeError::AttributesTooLong { .. }) => return,
        Err(error) => panic!("{error}: {first:?}"),
    }
    let Message::Update(first) = first else {
        assert_eq!(decode(&out, context).as_ref(), Ok(&first));
        return;
    };
    if first.was_treated_as_withdraw() {
        assert!(first.announced.is_empty());
    }
    assert_eq!(first.attributes.is_some(), !first.announced.is_empty());
    let mut again = Update::default();
    for update in messages(&out, context) {
        assert_eq!(update.faults, []);
        again.withdrawn.extend(update.withdrawn);
        again.announced.extend(update.announced);
        again.attributes = again.attributes.or(update.attributes);
        again.end_of_rib = again.end_of_rib.or(update.end_of_rib);
    }
    assert_eq!(sorted(again.withdrawn), sorted(first.withdrawn));
    let routes = |announced: &[margay_bgp::codec::Announcement]| {
        let each = announced.iter();
        sorted(
            each.flat_map(|one| one.nlri.iter().map(|nlri| (one.next_hop, *nlri)))
                .collect(),
        )
    };
    assert_eq!(routes(&again.announced), routes(&first.announced));
    assert_eq!(again.attributes, first.attributes);
    assert_eq!(again.end_of_rib, first.end_of_rib);
}

const EXAMPLES: [&str; 12] = [
    "open-full",
    "open-as-trans",
    "open-extended",
    "update-ipv4",
    "update-internal",
    "update-reflected",
    "update-ipv6",
    "update-ipv4-over-ipv6",
    "withdraw-ipv6",
    "update-add-path",
    "update-two-octet",
    "refresh-begin",
];

/// Sets the length field to what it should be, if there is one.
fn repair(octets: &mut [u8]) {
    let length = u16::try_from(octets.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes();
    if let Some(field) = octets.get_mut(16..18) {
        field.copy_from_slice(&length);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn announcements_arrive_as_they_were_sent(
        attributes in attributes(),
        (family, list) in lists(2000),
        choice in any::<u8>(),
        context in contexts(),
    ) {
        let nlri = nlri_for(&list, family, &context);
        let next_hop = next_hop_for(family, &context, choice);
        let block = attributes_block(&attributes, &context).unwrap();
        let mut out = BytesMut::new();
        encode_announcements(&block, next_hop, family, nlri.iter().copied(), &context, &mut out).unwrap();
        let updates = messages(&out, &context);
        let expected = as_received(attributes, &context);
        let mut received: Vec<Nlri> = Vec::new();
        for update in &updates {
            prop_assert_eq!(&update.faults, &[]);
            prop_assert_eq!(update.attributes.as_deref(), Some(&expected));
            for announcement in &update.announced {
                prop_assert_eq!(announcement.next_hop, next_hop);
                received.extend(&announcement.nlri);
            }
        }
        prop_assert_eq!(&received, &nlri);
        // No message but the last had room for one more of the longest prefixes.
        let room = context.max_send_len() - block.len() - 100;
        let octets: usize = nlri.iter().map(|one| 5 + usize::from(one.prefix.len().div_ceil(8))).sum();
        prop_assert!(updates.len() <= octets.div_ceil(room - 21));
    }

    #[test]
    fn withdrawals_arrive_as_they_were_sent((family, list) in lists(2000), context in contexts()) {
        let nlri = nlri_for(&list, family, &context);
        let mut out = BytesMut::new();
        encode_withdrawals(family, nlri.iter().copied(), &context, &mut out).unwrap();
        let received: Vec<_> = messages(&out, &context).into_iter().flat_map(|update| update.withdrawn).collect();
        prop_assert_eq!(received, nlri);
    }

    /// Two speakers of four-octet numbers with some between them that know two octets only and put themselves in front
    /// of AS_PATH, as RFC 6793 §4.2.3 expects of them.
    #[test]
    fn a_path_survives_speakers_of_two_octets(path in vec(asns(), 1..20), between in vec(prop_oneof![1 => Just(23_456_u16), 4 => 1..=u16::MAX], 0..6)) {
        let old = CodecContext {
            families: FamilySet::all(),
            ..CodecContext::default()
        };
        let attributes = PathAttributes {
            as_path: AsPath::from_sequence(path.iter().copied()),
            ..PathAttributes::default()
        };
        let block = attributes_block(&attributes, &old).unwrap();
        let mut out = BytesMut::new();
        let nlri = [Nlri::from(ipv4(0x0a00_0000, 8))];
        let next_hop = NextHop::V4("192.0.2.1".parse().unwrap());
        encode_announcements(&block, next_hop, Family::IPV4_UNICAST, nlri, &old, &mut out).unwrap();
        // ORIGIN is four octets, then AS_PATH: flags, code, length, kind, count, two octets for each AS.
        let mut octets = out.to_vec();
        assert_eq!(octets[27..31], [0x40, 2, u8::try_from(2 + 2 * path.len()).unwrap(), 2]);
        let added = u8::try_from(between.len()).unwrap();
        octets[29] += 2 * added;
        octets[31] += added;
        octets[22] += 2 * added;
        let front: Vec<u8> = between.iter().flat_map(|asn| asn.to_be_bytes()).collect();
        octets.splice(32..32, front);
        repair(&mut octets);
        let Ok(Message::Update(update)) = decode(&octets, &old) else {
            panic!("not an UPDATE");
        };
        prop_assert_eq!(&update.faults, &[]);
        let whole: Vec<Asn> = between.iter().map(|asn| Asn(u32::from(*asn))).chain(path).collect();
        prop_assert_eq!(update.attributes.unwrap().as_path.clone(), AsPath::from_sequence(whole));
    }

    #[test]
    fn a_message_is_read_alike_whatever_the_connection_read_before(
        sets in vec(attributes(), 1..3),
        (family, list) in lists(20),
        order in vec((any::<prop::sample::Index>(), 0..7_u8, any::<prop::sample::Index>(), any::<u8>()), 2..12),
        context in contexts(),
    ) {
        let nlri = nlri_for(&list, family, &context);
        let mut decoder = Decoder::new(context);
        for (set, kind, index, value) in order {
            let block = attributes_block(&sets[set.index(sets.len())], &context).unwrap();
            let mut out = BytesMut::new();
            let next_hop = next_hop_for(family, &context, kind / 6);
            let some = nlri.iter().copied().take(1 + index.index(nlri.len().max(1)));
            encode_announcements(&block, next_hop, family, some, &context, &mut out).unwrap();
            let mut octets = out.to_vec();
            // One in seven is damaged somewhere, one has a withdrawal too.
            if kind == 0 && octets.len() > 20 {
                let at = 19 + index.index(octets.len() - 19);
                octets[at] = value;
            }
            if kind == 1 && octets.len() > 21 && !context.add_path_receive.has(family) {
                octets[20] = 4;
                octets.splice(21..21, [24, 10, 9, 8]);
                repair(&mut octets);
            }
            let mut stream = BytesMut::from(&*octets);
            while let Ok(Some(frame)) = framing::split(&mut stream, context.max_receive_len()) {
                prop_assert_eq!(decoder.decode(&frame.octets), decode(&frame.octets, &context));
            }
        }
    }

    #[test]
    fn arbitrary_octets_are_read_without_panic(octets in vec(any::<u8>(), 0..200), context in contexts()) {
        let _ = decode(&octets, &context);
        for number in 1..=5 {
            reread(&message(number, &octets), &context);
        }
    }

    #[test]
    fn damaged_examples_are_read_without_panic(
        example in 0..EXAMPLES.len(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..6),
        context in contexts(),
    ) {
        let mut octets = bytes_of(EXAMPLES[example]);
        for (index, value, kind) in damage {
            // The header stays: it is judged elsewhere.
            let at = 19 + index.index((octets.len() - 19).max(1));
            match kind {
                0 if at < octets.len() => octets[at] = value,
                1 if at < octets.len() => octets[at] ^= 1 << (value & 7),
                2 if at <= octets.len() => octets.insert(at, value),
                _ if at < octets.len() && octets.len() > 20 => { octets.remove(at); }
                _ => {}
            }
        }
        repair(&mut octets);
        reread(&octets, &context);
    }

    #[test]
    fn damaged_updates_are_read_without_panic(
        attributes in attributes(),
        (family, list) in lists(20),
        choice in any::<u8>(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        context in contexts(),
    ) {
        let nlri = nlri_for(&list, family, &context);
        let next_hop = next_hop_for(family, &context, choice);
        let block = attributes_block(&attributes, &context).unwrap();
        let mut out = BytesMut::new();
        encode_announcements(&block, next_hop, family, nlri, &context, &mut out).unwrap();
        let length = out.len().min(usize::from(u16::from_be_bytes([out[16], out[17]])));
        let mut octets = out[..length].to_vec();
        for (index, value) in damage {
            let at = 19 + index.index(octets.len() - 19);
            octets[at] = value;
        }
        reread(&octets, &context);
    }
}

#[test]
fn attributes_that_leave_no_room_are_refused() {
    let context = CodecContext {
        four_octet_as: true,
        families: FamilySet::all(),
        ..CodecContext::default()
    };
    let attributes = PathAttributes {
        communities: (0..1100).map(Community).collect(),
        ..PathAttributes::default()
    };
    let block = attributes_block(&attributes, &context).unwrap();
    let mut out = BytesMut::from(&b"before"[..]);
    let next_hop = NextHop::V4("192.0.2.1".parse().unwrap());
    let nlri = [Nlri::from(ipv4(0x0a00_0000, 8))];
    let mut encode = |context: &CodecContext| {
        encode_announcements(
            &block,
            next_hop,
            Family::IPV4_UNICAST,
            nlri,
            context,
            &mut out,
        )
    };
    assert!(matches!(
        encode(&context),
        Err(EncodeError::AttributesTooLong { .. })
    ));
    let extended = CodecContext {
        extended_message_send: true,
        ..context
    };
    assert_eq!(encode(&extended), Ok(()));
    assert!(out.starts_with(b"before"));
}

#[test]
fn prefixes_that_do_not_belong_are_refused_and_nothing_is_written() {
    let context = CodecContext {
        families: FamilySet::all(),
        ..CodecContext::default()
    };
    let good = Nlri::from(ipv4(0x0a00_0000, 8));
    let with_id = Nlri {
        path_id: Some(PathId(1)),
        ..good
    };
    let mut out = BytesMut::new();
    for bad in [Nlri::from(ipv6(0, 0)), with_id] {
        let result = encode_withdrawals(Family::IPV4_UNICAST, [good, bad], &context, &mut out);
        assert_eq!(result, Err(EncodeError::Nlri(bad)));
        assert!(out.is_empty());
    }
}

#[test]
fn next_hops_of_the_wrong_family_are_refused() {
    let context = CodecContext {
        families: FamilySet::all(),
        ..CodecContext::default()
    };
    let block = attributes_block(&PathAttributes::default(), &context).unwrap();
    let v4 = NextHop::V4("192.0.2.1".parse().unwrap());
    let v6 = NextHop::from("2001:db8::1".parse::<std::net::IpAddr>().unwrap());
    for (family, next_hop) in [(Family::IPV6_UNICAST, v4), (Family::IPV4_UNICAST, v6)] {
        let mut out = BytesMut::new();
        let result = encode_announcements(&block, next_hop, family, [], &context, &mut out);
        assert_eq!(result, Err(EncodeError::NextHop { next_hop, family }));
    }
}
