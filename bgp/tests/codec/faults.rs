//! RFC 7606, case by case: what is sent, and what becomes of session, routes and attributes.

use hex_literal::hex;
use margay_bgp::asn::Asn;
use margay_bgp::codec::{
    AttributeCode, CodecContext, DecodeError, FaultAction, FaultKind, LocalPref, NextHop,
    Notification, Update, decode,
};
use margay_bgp::family::{Afi, Family, FamilySet, Safi};

use crate::{decode_update, external, internal, message, update_message};

const ORIGIN: [u8; 4] = hex!("400101 00");
/// From the peer of [`external`].
const AS_PATH: [u8; 9] = hex!("400206 0201 0000fc58");
const NEXT_HOP: [u8; 7] = hex!("400304 c0000201");
const PREFIX: [u8; 5] = hex!("1a 0a410000");
/// MP_REACH_NLRI of fd00:10:65::/64.
const MP_REACH: [u8; 33] =
    hex!("800e1e 0002 01 10 20010db8000000000000000000000001 00 40 fd00001000650000");

fn attribute(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    let mut octets = vec![flags, code, u8::try_from(value.len()).unwrap()];
    octets.extend(value);
    octets
}

/// A good announcement of 10.65.0.0/26 in which `replacement` stands for the attribute of its
/// type, or is added.
fn with(replacement: &[u8]) -> Vec<u8> {
    let mut attributes = Vec::new();
    for good in [&ORIGIN[..], &AS_PATH, &NEXT_HOP] {
        if good[1] != replacement[1] {
            attributes.extend(good);
        }
    }
    attributes.extend(replacement);
    update_message(&[], &attributes, &PREFIX)
}

#[track_caller]
fn withdraws(octets: &[u8], context: &CodecContext, code: u8, kind: FaultKind) {
    let update = decode_update(octets, context);
    assert!(update.was_treated_as_withdraw(), "{update:?}");
    assert!(update.announced.is_empty() && update.attributes.is_none());
    let withdrawn: Vec<_> = update.withdrawn.iter().map(ToString::to_string).collect();
    assert_eq!(withdrawn, ["10.65.0.0/26"]);
    let strongest = update
        .faults
        .iter()
        .max_by_key(|fault| fault.action)
        .unwrap();
    assert_eq!(
        (strongest.code, strongest.kind),
        (AttributeCode(code), kind)
    );
}

/// The route is used; says why the attribute was not.
#[track_caller]
fn discards(octets: &[u8], context: &CodecContext, code: u8, kind: FaultKind) -> Update {
    let update = decode_update(octets, context);
    assert_eq!(update.announced.len(), 1, "{update:?}");
    assert!(update.withdrawn.is_empty());
    let [fault] = update.faults[..] else {
        panic!("expected one fault: {:?}", update.faults);
    };
    assert_eq!(
        (fault.code, fault.kind, fault.action),
        (AttributeCode(code), kind, FaultAction::AttributeDiscard)
    );
    update
}

#[track_caller]
fn accepts(octets: &[u8], context: &CodecContext) -> Update {
    let update = decode_update(octets, context);
    assert_eq!(update.faults, []);
    assert!(update.attributes.is_some(), "{update:?}");
    update
}

#[track_caller]
fn resets(octets: &[u8], context: &CodecContext, code: u8, subcode: u8) -> Notification {
    let error = decode(octets, context).expect_err("the session must not survive");
    let notification = Notification::from(&error);
    assert_eq!(
        (notification.code.code, notification.code.subcode),
        (code, subcode),
        "{error}"
    );
    notification
}

#[test]
fn lengths_that_contradict_the_message_reset() {
    resets(&message(2, &hex!("0005 0000")), &external(), 3, 1);
    resets(&message(2, &hex!("0000 0001")), &external(), 3, 1);
    resets(&message(2, &hex!("0002 0000")), &external(), 3, 1);
}

#[test]
fn an_attribute_list_cut_off_withdraws_what_is_announced() {
    for tail in [
        &hex!("c00805 fc000064")[..],
        &hex!("c0"),
        &hex!("c008"),
        &hex!("d00800"),
    ] {
        let attributes = [&ORIGIN[..], &AS_PATH, &NEXT_HOP, tail].concat();
        let update = decode_update(&update_message(&[], &attributes, &PREFIX), &external());
        assert!(update.was_treated_as_withdraw());
        assert_eq!(update.withdrawn.len(), 1);
        resets(&update_message(&[], &attributes, &[]), &external(), 3, 1);
    }
}

#[test]
fn malformed_prefixes_reset() {
    let good = [&ORIGIN[..], &AS_PATH, &NEXT_HOP].concat();
    resets(
        &update_message(&[], &good, &hex!("21 0a410000 00")),
        &external(),
        3,
        10,
    );
    resets(
        &update_message(&[], &good, &hex!("1a 0a4100")),
        &external(),
        3,
        10,
    );
    resets(
        &update_message(&hex!("28 0a410000 00"), &[], &[]),
        &external(),
        3,
        10,
    );
    let mut cut = good;
    cut.extend(hex!(
        "800e19 0002 01 10 20010db8000000000000000000000001 00 81 fd00 00"
    ));
    let notification = resets(&update_message(&[], &cut, &[]), &external(), 3, 9);
    assert_eq!(notification.data[..3], hex!("800e19"));
}

#[test]
fn multiprotocol_attributes_that_cannot_be_read_reset() {
    let reset = |attribute: &[u8]| {
        let attributes = [&ORIGIN[..], &AS_PATH, attribute].concat();
        let notification = resets(&update_message(&[], &attributes, &[]), &external(), 3, 9);
        assert_eq!(notification.data, attribute);
    };
    for next_hop_len in [0, 4, 5, 15, 17, 31, 33] {
        let mut value = hex!("0002 01 00").to_vec();
        value[3] = next_hop_len;
        value.resize(4 + usize::from(next_hop_len) + 1, 0);
        reset(&attribute(0x80, 14, &value));
    }
    reset(&attribute(0x80, 14, &hex!("0002 01 10")));
    reset(&attribute(0x80, 14, &hex!("0002 01 10 20010db8 00")));
    reset(&attribute(0xc0, 14, &MP_REACH[3..]));
    reset(&attribute(0x40, 14, &MP_REACH[3..]));
    reset(&attribute(0x80, 14, &hex!("0002")));
    reset(&attribute(0x80, 15, &hex!("0002")));
    reset(&attribute(0x80, 15, &hex!("0002 01 40 fd00")));
    reset(&attribute(0xc0, 15, &hex!("0002 01")));
}

#[test]
fn multiprotocol_attributes_twice_reset() {
    let reach = [&MP_REACH[..], &MP_REACH, &ORIGIN, &AS_PATH].concat();
    resets(&update_message(&[], &reach, &[]), &external(), 3, 1);
    resets(
        &update_message(&[], &hex!("800f03 000201 800f03 000201"), &[]),
        &external(),
        3,
        1,
    );
}

#[test]
fn the_octet_behind_the_next_hop_may_say_anything() {
    let mut reach = MP_REACH;
    reach[23] = 1;
    let update = accepts(
        &update_message(&[], &[&reach[..], &ORIGIN, &AS_PATH].concat(), &[]),
        &external(),
    );
    assert_eq!(update.announced[0].nlri[0].to_string(), "fd00:10:65::/64");
}

#[test]
fn ipv4_over_ipv6_needs_its_capability() {
    let reach = hex!("800e1a 0001 01 10 fe800000000000000000000000000001 00 1a 0a410000");
    let octets = update_message(&[], &[&reach[..], &ORIGIN, &AS_PATH].concat(), &[]);
    resets(&octets, &external(), 3, 9);
    let context = CodecContext {
        extended_next_hop: true,
        ..external()
    };
    assert_eq!(
        accepts(&octets, &context).announced[0].next_hop,
        NextHop::V6 {
            global: None,
            link_local: Some("fe80::1".parse().unwrap())
        }
    );
    // The old next hop in the new attribute is fine either way.
    let reach = hex!("800e0e 0001 01 04 c0000201 00 1a 0a410000");
    let octets = update_message(&[], &[&reach[..], &ORIGIN, &AS_PATH].concat(), &[]);
    for context in [external(), context] {
        let update = accepts(&octets, &context);
        assert_eq!(
            update.announced[0].next_hop,
            NextHop::V4("192.0.2.1".parse().unwrap())
        );
    }
}

#[test]
fn families_not_negotiated_are_ignored() {
    let foreign = hex!("800e08 0019 46 00 00 abcdef");
    let octets = update_message(
        &[],
        &[&foreign[..], &ORIGIN, &AS_PATH, &NEXT_HOP].concat(),
        &PREFIX,
    );
    let family = Family::new(Afi(25), Safi(70));
    discards(&octets, &external(), 14, FaultKind::Family(family));
    let unreach = update_message(&[], &hex!("800f05 0019 46 ffff"), &[]);
    let update = decode_update(&unreach, &external());
    assert_eq!((update.withdrawn, update.end_of_rib), (vec![], None));
    // Not even malformed attributes beside them are a reason to end the session.
    let broken = update_message(&[], &[&foreign[..], &hex!("400101 05")].concat(), &[]);
    assert!(decode(&broken, &external()).is_ok());
}

#[test]
fn ipv4_fields_are_ignored_where_ipv4_was_not_negotiated() {
    let context = CodecContext {
        families: FamilySet::IPV6_UNICAST,
        ..external()
    };
    let good = [&ORIGIN[..], &AS_PATH, &NEXT_HOP].concat();
    let update = decode_update(&update_message(&PREFIX, &good, &PREFIX), &context);
    assert!(
        update.withdrawn.is_empty() && update.announced.is_empty() && update.attributes.is_none()
    );
    resets(&update_message(&hex!("40"), &[], &[]), &context, 3, 10);
    assert_eq!(
        decode_update(&update_message(&[], &[], &[]), &context).end_of_rib,
        None
    );
}

#[test]
fn duplicates_are_discarded_and_the_first_wins() {
    let attributes = [&ORIGIN[..], &AS_PATH, &NEXT_HOP, &hex!("400101 02")].concat();
    let update = discards(
        &update_message(&[], &attributes, &PREFIX),
        &external(),
        1,
        FaultKind::Duplicate,
    );
    assert_eq!(
        update.attributes.unwrap().origin,
        margay_bgp::codec::Origin::Igp
    );
}

#[test]
fn missing_mandatory_attributes_withdraw() {
    let all = [&ORIGIN[..], &AS_PATH, &NEXT_HOP];
    for missing in 0..3 {
        let attributes: Vec<u8> = all
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != missing)
            .flat_map(|(_, octets)| octets.iter().copied())
            .collect();
        let code = u8::try_from(missing + 1).unwrap();
        withdraws(
            &update_message(&[], &attributes, &PREFIX),
            &external(),
            code,
            FaultKind::Missing,
        );
    }
    // MP_REACH_NLRI has a next hop of its own, which does not help the NLRI field.
    let both = [&MP_REACH[..], &ORIGIN, &AS_PATH].concat();
    let update = decode_update(&update_message(&[], &both, &PREFIX), &external());
    assert_eq!((update.withdrawn.len(), update.announced.len()), (2, 0));
}

#[test]
fn an_update_without_prefixes_is_no_error() {
    let update = decode_update(&update_message(&[], &ORIGIN, &[]), &external());
    assert_eq!(update, Update::default());
    let empty_reach = hex!("800e15 0002 01 10 20010db8000000000000000000000001 00");
    let attributes = [&empty_reach[..], &ORIGIN, &AS_PATH].concat();
    let update = decode_update(&update_message(&[], &attributes, &[]), &external());
    assert_eq!(update, Update::default());
}

#[test]
fn malformed_attributes_without_prefixes_reset() {
    resets(
        &update_message(&[], &hex!("400101 05"), &[]),
        &external(),
        3,
        1,
    );
    resets(
        &update_message(&PREFIX, &hex!("400101 05"), &[]),
        &external(),
        3,
        1,
    );
}

#[test]
fn a_family_is_disabled_also_where_a_weaker_fault_stands_beside() {
    let context = CodecContext {
        afi_safi_disable: true,
        ..external()
    };
    // A prefix of 200 bits, and no such ORIGIN.
    let reach = hex!("800e16 0002 01 10 20010db8000000000000000000000001 00 c8");
    for attributes in [
        [&reach[..], &hex!("400101 05"), &AS_PATH].concat(),
        [&hex!("800f04 0002 01 c8")[..], &hex!("400101 05"), &AS_PATH].concat(),
    ] {
        let update = decode_update(&update_message(&[], &attributes, &[]), &context);
        assert_eq!(update.disabled, FamilySet::IPV6_UNICAST);
        assert!(update.announced.is_empty() && update.withdrawn.is_empty());
    }
}

#[test]
fn everything_in_one_message_is_applied() {
    let attributes = [
        &ORIGIN[..],
        &AS_PATH,
        &NEXT_HOP,
        &hex!("800f0c 0002 01 40 fd00001000660000"),
        &MP_REACH,
    ]
    .concat();
    let update = accepts(
        &update_message(&hex!("10 0a42"), &attributes, &PREFIX),
        &external(),
    );
    let withdrawn: Vec<_> = update.withdrawn.iter().map(ToString::to_string).collect();
    assert_eq!(withdrawn, ["10.66.0.0/16", "fd00:10:66::/64"]);
    let announced: Vec<_> = update
        .announced
        .iter()
        .flat_map(|one| &one.nlri)
        .map(ToString::to_string)
        .collect();
    assert_eq!(announced, ["fd00:10:65::/64", "10.65.0.0/26"]);
}

#[test]
fn the_order_of_attributes_does_not_matter() {
    let forward = [
        &ORIGIN[..],
        &AS_PATH,
        &NEXT_HOP,
        &hex!("e06302 abcd"),
        &hex!("e06402 abcd"),
    ];
    let backward: Vec<_> = forward.iter().rev().copied().collect();
    assert_eq!(
        accepts(
            &update_message(&[], &forward.concat(), &PREFIX),
            &external()
        ),
        accepts(
            &update_message(&[], &backward.concat(), &PREFIX),
            &external()
        )
    );
}

#[test]
fn a_prefix_both_withdrawn_and_announced_ends_announced() {
    let good = [&ORIGIN[..], &AS_PATH, &NEXT_HOP].concat();
    let update = accepts(&update_message(&PREFIX, &good, &PREFIX), &external());
    assert_eq!(update.withdrawn, update.announced[0].nlri);
}

#[test]
fn origin() {
    for (octets, kind) in [
        (attribute(0x40, 1, &[]), FaultKind::Length),
        (attribute(0x40, 1, &[0, 0]), FaultKind::Length),
        (attribute(0x40, 1, &[3]), FaultKind::Value),
        (attribute(0x40, 1, &[255]), FaultKind::Value),
        (attribute(0xc0, 1, &[0]), FaultKind::Flags),
        (attribute(0x00, 1, &[0]), FaultKind::Flags),
    ] {
        withdraws(&with(&octets), &external(), 1, kind);
    }
    // Neither the partial bit nor the unused ones make a difference.
    accepts(&with(&attribute(0x6f, 1, &[0])), &external());
}

#[test]
fn as_path() {
    for (value, kind) in [
        (&hex!("0001 0000fc58")[..], FaultKind::Value),
        (&hex!("0501 0000fc58"), FaultKind::Value),
        (&hex!("0200"), FaultKind::Length),
        (&hex!("0202 0000fc58"), FaultKind::Length),
        (&hex!("0201 0000fc58 02"), FaultKind::Length),
        (&hex!("0202 0000fc58 00000000"), FaultKind::Value),
        (&hex!("0201 0000fc58 0101 0000fc59"), FaultKind::AsSet),
        (&hex!("0301 0000fc58"), FaultKind::Value),
        (&hex!("0201 0000fc58 0401 0000fc58"), FaultKind::AsSet),
        (&hex!("0201 0000fc59"), FaultKind::FirstAs),
        (&hex!(""), FaultKind::FirstAs),
    ] {
        withdraws(&with(&attribute(0x40, 2, value)), &external(), 2, kind);
    }
    withdraws(
        &with(&attribute(0xc0, 2, &AS_PATH[3..])),
        &external(),
        2,
        FaultKind::Flags,
    );
    accepts(&with(&attribute(0x40, 2, &[])), &internal());
}

#[test]
fn as_set_is_used_where_configured() {
    let context = CodecContext {
        allow_as_set: true,
        ..external()
    };
    let octets = with(&attribute(
        0x40,
        2,
        &hex!("0201 0000fc58 0102 0000fc59 0000fc5a"),
    ));
    let path = accepts(&octets, &context)
        .attributes
        .unwrap()
        .as_path
        .clone();
    assert_eq!(path.to_string(), "64600 {64601,64602}");
    assert_eq!((path.hop_count(), path.origin()), (2, None));
}

#[test]
fn long_paths_in_several_segments_are_one_sequence() {
    let mut value = Vec::new();
    for count in [255_u8, 45] {
        value.extend([2, count]);
        for _ in 0..count {
            value.extend(64600_u32.to_be_bytes());
        }
    }
    let mut octets = hex!("500204b4").to_vec();
    octets.extend(&value);
    let path = accepts(&with(&octets), &external())
        .attributes
        .unwrap()
        .as_path
        .clone();
    assert_eq!((path.hop_count(), path.segments().count()), (300, 1));
}

#[test]
fn next_hop() {
    withdraws(
        &with(&attribute(0x40, 3, &[1, 2, 3])),
        &external(),
        3,
        FaultKind::Length,
    );
    withdraws(
        &with(&attribute(0x40, 3, &[1, 2, 3, 4, 5])),
        &external(),
        3,
        FaultKind::Length,
    );
    for octets in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
        let update = accepts(&with(&attribute(0x40, 3, &octets)), &external());
        assert!(update.announced[0].next_hop.is_martian());
    }
}

#[test]
fn med() {
    for value in [&[][..], &[0; 3], &[0; 5]] {
        withdraws(
            &with(&attribute(0x80, 4, value)),
            &external(),
            4,
            FaultKind::Length,
        );
    }
    withdraws(
        &with(&attribute(0xc0, 4, &[0; 4])),
        &external(),
        4,
        FaultKind::Flags,
    );
}

#[test]
fn local_pref() {
    for octets in [
        attribute(0x40, 5, &[0; 3]),
        attribute(0x80, 5, &[0; 4]),
        attribute(0x40, 5, &[0; 4]),
    ] {
        let update = discards(&with(&octets), &external(), 5, FaultKind::Unexpected);
        assert_eq!(update.attributes.unwrap().local_pref, None);
    }
    withdraws(
        &with(&attribute(0x40, 5, &[0; 3])),
        &internal(),
        5,
        FaultKind::Length,
    );
    withdraws(
        &with(&attribute(0x80, 5, &[0; 4])),
        &internal(),
        5,
        FaultKind::Flags,
    );
    let absent = accepts(&with(&ORIGIN), &internal());
    assert_eq!(absent.attributes.unwrap().local_pref, Some(LocalPref(100)));
}

#[test]
fn atomic_aggregate() {
    discards(
        &with(&attribute(0x40, 6, &[0])),
        &external(),
        6,
        FaultKind::Length,
    );
    withdraws(
        &with(&attribute(0xc0, 6, &[])),
        &external(),
        6,
        FaultKind::Flags,
    );
    assert!(
        accepts(&with(&attribute(0x40, 6, &[])), &external())
            .attributes
            .unwrap()
            .atomic_aggregate
    );
}

#[test]
fn aggregator() {
    for length in [5, 6, 7, 9] {
        discards(
            &with(&attribute(0xc0, 7, &vec![1; length])),
            &external(),
            7,
            FaultKind::Length,
        );
    }
    discards(
        &with(&attribute(0xc0, 7, &hex!("00000000 0a000001"))),
        &external(),
        7,
        FaultKind::Value,
    );
}

#[test]
fn communities() {
    for value in [&[][..], &[0; 5]] {
        withdraws(
            &with(&attribute(0xc0, 8, value)),
            &external(),
            8,
            FaultKind::Length,
        );
    }
    withdraws(
        &with(&attribute(0x80, 8, &[0; 4])),
        &external(),
        8,
        FaultKind::Flags,
    );
    let mut many = hex!("d0080fa0").to_vec();
    for number in (0..500_u32).rev() {
        many.extend(number.to_be_bytes());
        many.extend(number.to_be_bytes());
    }
    let communities = accepts(&with(&many), &external())
        .attributes
        .unwrap()
        .communities
        .clone();
    assert_eq!(communities.len(), 500);
    assert!(communities.is_sorted());
}

#[test]
fn reflection_attributes() {
    for code in [9, 10] {
        for value in [&[1; 4][..], &[], &[1; 5]] {
            discards(
                &with(&attribute(0x80, code, value)),
                &external(),
                code,
                FaultKind::Unexpected,
            );
        }
        for value in [&[][..], &[1; 3], &[1; 5]] {
            withdraws(
                &with(&attribute(0x80, code, value)),
                &internal(),
                code,
                FaultKind::Length,
            );
        }
        withdraws(
            &with(&attribute(0x80, code, &[0; 4])),
            &internal(),
            code,
            FaultKind::Value,
        );
    }
}

#[test]
fn wider_communities() {
    for (code, width) in [(16, 8), (25, 20), (32, 12)] {
        for length in [0, width + 1] {
            withdraws(
                &with(&attribute(0xc0, code, &vec![1; length])),
                &external(),
                code,
                FaultKind::Length,
            );
        }
        withdraws(
            &with(&attribute(0x80, code, &vec![1; width])),
            &external(),
            code,
            FaultKind::Flags,
        );
        accepts(&with(&attribute(0xc0, code, &vec![1; width])), &external());
    }
}

#[test]
fn four_octet_attributes_from_a_two_octet_peer() {
    let old = CodecContext {
        four_octet_as: false,
        ..external()
    };
    let path = hex!("400206 0202 fc58 5ba0");
    let with_path = |attribute: &[u8]| {
        update_message(
            &[],
            &[&ORIGIN[..], &path, &NEXT_HOP, attribute].concat(),
            &PREFIX,
        )
    };
    for (code, value, kind) in [
        (17, &hex!("0201 fa56ea01 00")[..], FaultKind::Length),
        (17, &hex!("0201 00000000"), FaultKind::Value),
        (17, &hex!("0202 fa56ea"), FaultKind::Length),
        (17, &hex!(""), FaultKind::Length),
        (17, &hex!("0301 fa56ea01"), FaultKind::Length),
        (18, &hex!("00000000 0a000001"), FaultKind::Value),
        (18, &hex!("fa56ea01 0a0000"), FaultKind::Length),
    ] {
        discards(&with_path(&attribute(0xc0, code, value)), &old, code, kind);
        withdraws(
            &with_path(&attribute(0x80, code, value)),
            &old,
            code,
            FaultKind::Flags,
        );
    }
    withdraws(
        &with_path(&attribute(0xc0, 17, &hex!("0101 fa56ea01"))),
        &old,
        17,
        FaultKind::AsSet,
    );
    for code in [17, 18] {
        discards(
            &with(&attribute(0xc0, code, &[1; 8])),
            &external(),
            code,
            FaultKind::Unexpected,
        );
    }
}

#[test]
fn as4_path_replaces_the_end_it_knows_of() {
    let old = CodecContext {
        four_octet_as: false,
        ..external()
    };
    let merged = |path: &[u8], rest: &[u8]| {
        let attributes = [&ORIGIN[..], &attribute(0x40, 2, path), &NEXT_HOP, rest].concat();
        let update = accepts(&update_message(&[], &attributes, &PREFIX), &old);
        let attributes = update.attributes.unwrap();
        (
            attributes.as_path.to_string(),
            attributes.aggregator.map(|one| one.asn),
        )
    };
    let as4_path = attribute(0xc0, 17, &hex!("0202 fa56ea01 0000fc00"));
    let path = hex!("0203 fc58 5ba0 fc00");
    assert_eq!(merged(&path, &as4_path).0, "64600 4200000001 64512");
    // Longer than the path it should be part of: about something else.
    assert_eq!(merged(&hex!("0201 fc58"), &as4_path).0, "64600");
    let as4_aggregator = attribute(0xc0, 18, &hex!("fa56ea01 0a000001"));
    let trans = attribute(0xc0, 7, &hex!("5ba0 0a000001"));
    let both = [&trans[..], &as4_path, &as4_aggregator].concat();
    assert_eq!(
        merged(&path, &both),
        (
            "64600 4200000001 64512".to_owned(),
            Some(Asn(4_200_000_001))
        )
    );
    // Aggregated again by a speaker that does not know the four-octet attributes.
    let own = attribute(0xc0, 7, &hex!("fc58 0a000001"));
    let stale = [&own[..], &as4_path, &as4_aggregator].concat();
    assert_eq!(
        merged(&path, &stale),
        ("64600 23456 64512".to_owned(), Some(Asn(64600)))
    );
    assert_eq!(
        merged(&path, &[&own[..], &as4_path].concat()).0,
        "64600 4200000001 64512"
    );
}

#[test]
fn attributes_not_spoken_are_discarded_and_others_pass() {
    for flags in [0x80, 0xc0] {
        discards(
            &with(&attribute(flags, 26, &[1; 11])),
            &external(),
            26,
            FaultKind::Unexpected,
        );
    }
    discards(
        &with(&attribute(0x80, 29, &[1; 4])),
        &external(),
        29,
        FaultKind::Unexpected,
    );
    for value in [&[][..], &[0; 3], &[0; 5]] {
        withdraws(
            &with(&attribute(0xc0, 35, value)),
            &external(),
            35,
            FaultKind::Length,
        );
    }
    withdraws(
        &with(&attribute(0x80, 35, &[1; 4])),
        &external(),
        35,
        FaultKind::Flags,
    );
    for flags in [0xc0, 0xe0] {
        let unknown = accepts(&with(&attribute(flags, 40, &[1, 2, 3])), &external())
            .attributes
            .unwrap()
            .unknown
            .clone();
        assert_eq!(
            (unknown[0].flags.bits(), &*unknown[0].value),
            (0xe0, &[1, 2, 3][..])
        );
    }
    let short = accepts(&with(&hex!("d0630003 010203")), &external())
        .attributes
        .unwrap()
        .unknown
        .clone();
    assert_eq!((short[0].flags.bits(), short[0].value.len()), (0xe0, 3));
    assert!(
        accepts(&with(&attribute(0x80, 99, &[1])), &external())
            .attributes
            .unwrap()
            .unknown
            .is_empty()
    );
    withdraws(
        &with(&attribute(0x40, 99, &[1])),
        &external(),
        99,
        FaultKind::UnrecognisedWellKnown,
    );
}

#[test]
fn frames_that_are_not_one_message_are_refused() {
    let good = with(&ORIGIN);
    assert_eq!(
        decode(&good[..good.len() - 1], &external()),
        Err(DecodeError::Frame(good.len() - 1))
    );
    assert_eq!(decode(&[], &external()), Err(DecodeError::Frame(0)));
}
