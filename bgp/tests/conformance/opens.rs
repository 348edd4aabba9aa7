//! OPEN: what is refused and how, and what is settled.

use std::net::Ipv4Addr;

use margay_bgp::asn::Asn;
use margay_bgp::codec::{HoldTime, Message, Role};
use margay_bgp::speaker::snapshot::Unusable;

use super::{
    KEEPALIVE, Lab, OWN_ASN, USUAL, address_of, announce, attribute, message, nlri, open, over_tcp,
    paced, plain_open, update, usual_but,
};

/// A connection on which `a` (or `c`, an internal one) said this OPEN.
fn opened(name: &'static str, octets: &[u8]) -> Lab {
    let mut lab = Lab::new();
    lab.connect(name);
    lab.say(name, octets);
    lab
}

#[track_caller]
fn refused(octets: &[u8], code: u8, subcode: u8, data: &[u8]) {
    opened("a", octets).assert_ended("a", code, subcode, data);
}

#[track_caller]
fn accepted(octets: &[u8]) -> Lab {
    let mut lab = opened("a", octets);
    lab.say("a", &KEEPALIVE);
    lab.assert_established("a");
    lab
}

fn id() -> Ipv4Addr {
    address_of("a")
}

#[test]
fn o1_another_version_is_refused_with_2_1_and_ours() {
    for version in [3, 5] {
        refused(&plain_open(version, 64600, id(), 90, &[]), 2, 1, &[0, 4]);
    }
}

#[test]
fn o2_o3_another_as_or_none_is_refused_with_2_2() {
    refused(&open(64601, id(), 90, USUAL), 2, 2, &[]);
    refused(&plain_open(4, 0, id(), 90, &[]), 2, 2, &[]);
    refused(&open(0, id(), 90, USUAL), 2, 2, &[]);
}

#[test]
fn an_open_that_is_refused_is_counted_and_kept_as_it_came() {
    let as_provider = [9, 1, 0];
    let wrong = [
        (open(64601, id(), 90, USUAL), "peer-as"),
        (open(64600, id(), 90, &as_provider), "role"),
        (open(64600, id(), 90, &[1, 4, 0, 25, 0, 70]), "families"),
    ];
    for (octets, reason) in wrong {
        let mut lab = Lab::with(|config| config.peers[0].role = Some(Role::Provider));
        lab.connect("a");
        lab.say("a", &octets);
        let peer = lab.peer("a");
        let [kind] = &peer.errors[..] else {
            panic!("{:?}", peer.errors);
        };
        assert_eq!(
            (&*kind.class, &*kind.reason, &*kind.action),
            ("open", reason, "reset")
        );
        assert_eq!(peer.offences[0].0, octets);
        assert_eq!(lab.totals().errors, 1);
    }
}

#[test]
fn o4_the_capabilitys_as_counts_behind_as_trans() {
    let mut parameters = vec![2, 6, 65, 4];
    parameters.extend(64600_u32.to_be_bytes());
    accepted(&plain_open(4, 23_456, id(), 90, &parameters));
}

#[test]
fn o5_o6_o7_identifiers() {
    refused(&open(64600, Ipv4Addr::UNSPECIFIED, 90, USUAL), 2, 3, &[]);
    accepted(&open(64600, Ipv4Addr::new(192, 0, 2, 1), 90, USUAL));
    let own = open(OWN_ASN, Ipv4Addr::new(192, 0, 2, 1), 90, USUAL);
    opened("c", &own).assert_ended("c", 2, 3, &[]);
}

#[test]
fn o8_hold_times_of_one_and_two_seconds_are_refused_with_2_6() {
    for hold_time in [1, 2] {
        refused(&open(64600, id(), hold_time, USUAL), 2, 6, &[]);
    }
}

#[test]
fn o9_hold_time_zero_means_no_keepalives_and_no_end() {
    let mut lab = accepted(&open(64600, id(), 0, USUAL));
    // Neither is asked of the connection, nor said by the speaker beyond the one that confirms the OPEN.
    let seen = lab.peer("a");
    assert_eq!(
        (seen.keepalive, seen.hold_time),
        (None, Some(std::time::Duration::ZERO))
    );
    lab.advance(paced(2_000, 4), &["a"]);
    lab.assert_established("a");
    let said = lab.ends["a"].told.iter();
    let keepalives = said.filter(|message| **message == Message::Keepalive);
    assert_eq!(keepalives.count(), 1);
}

#[test]
fn o9_an_open_with_hold_time_zero_and_no_keepalive_ends_all_the_same() {
    let mut lab = Lab::new();
    lab.connect("a");
    lab.say("a", &open(64600, id(), 0, USUAL));
    lab.await_end("a", 240 * super::SECOND);
    lab.assert_ended("a", 4, 0, &[]);
}

#[test]
fn o10_the_smaller_hold_time_counts() {
    let lab = accepted(&open(64600, id(), 3, USUAL));
    assert_eq!(lab.peer("a").hold_time, Some(3 * super::SECOND));
    assert_eq!(lab.peer("a").keepalive, Some(super::SECOND));
}

#[test]
fn o12_an_unknown_parameter_is_refused_with_2_4() {
    refused(
        &plain_open(4, 64600, id(), 90, &[1, 1, 0]),
        2,
        4,
        &[1, 1, 0],
    );
}

#[test]
fn o13_o14_parameters_and_capabilities_that_overrun_are_refused_with_2_0() {
    refused(&plain_open(4, 64600, id(), 90, &[2, 9, 1]), 2, 0, &[]);
    refused(&plain_open(4, 64600, id(), 90, &[2, 3, 1, 4, 0]), 2, 0, &[]);
}

#[test]
fn o11_a_hold_time_below_the_configured_minimum_is_refused_with_2_6() {
    let minimum = HoldTime::from_secs(30).unwrap();
    for (hold_time, taken) in [(29, false), (30, true), (0, true)] {
        let mut lab = Lab::with(|config| config.peers[0].minimum_hold_time = minimum);
        lab.connect("a");
        lab.say("a", &open(64600, id(), hold_time, USUAL));
        if taken {
            lab.say("a", &KEEPALIVE);
            lab.assert_established("a");
        } else {
            lab.assert_ended("a", 2, 6, &[]);
        }
    }
}

#[test]
fn o23_the_extended_framing_is_none_behind_another_parameter() {
    let parameters = [2, 2, 2, 0, 255, 1, 0];
    refused(
        &plain_open(4, 64600, id(), 90, &parameters),
        2,
        4,
        &[255, 1, 0],
    );
}

#[test]
fn o25_without_parameters_after_2_4_and_for_ten_minutes() {
    let mut lab = Lab::with(|config| config.peers[0].passive = false);
    let answer_2_4 = |lab: &mut Lab| {
        lab.answer("a");
        assert!(
            matches!(&lab.told("a")[..], [Message::Open(open)] if !open.capabilities.is_empty())
        );
        lab.say("a", &message(3, &[2, 4]));
    };
    answer_2_4(&mut lab);
    lab.advance(2 * super::SECOND, &[]);
    lab.answer("a");
    assert!(matches!(&lab.told("a")[..], [Message::Open(open)] if open.capabilities.is_empty()));
    lab.say("a", &plain_open(4, 64600, id(), 90, &[]));
    lab.say("a", &KEEPALIVE);
    lab.assert_established("a");
    let warnings = lab.peer("a").warnings;
    assert!(warnings[0].contains("capabilities"), "{warnings:?}");
    // Nobody offered to answer that.
    lab.told("a");
    lab.say("a", &super::refresh::refresh(1, 0));
    assert!(lab.told("a").is_empty());
    lab.assert_established("a");
    // Remembered with the next connection.
    lab.cut("a");
    lab.advance(2 * super::SECOND, &[]);
    lab.answer("a");
    assert!(matches!(&lab.told("a")[..], [Message::Open(open)] if open.capabilities.is_empty()));
    lab.say("a", &plain_open(4, 64600, id(), 0, &[]));
    lab.say("a", &KEEPALIVE);
    // Nothing shortens that.
    if over_tcp() {
        return;
    }
    lab.advance(600 * super::SECOND, &[]);
    lab.cut("a");
    lab.advance(2 * super::SECOND, &[]);
    answer_2_4(&mut lab);
}

/// A neighbour that is dialled and refuses capabilities, dialled once more. What it is to us is the other end of `role`.
fn refused_2_4(role: Role, strict: bool) -> Lab {
    let mut lab = Lab::with(|config| {
        let peer = &mut config.peers[0];
        (peer.passive, peer.role, peer.strict_role) = (false, Some(role), strict);
    });
    lab.establish(&["b", "c"]);
    lab.answer("a");
    lab.say("a", &message(3, &[2, 4]));
    let mark = lab.mark();
    lab.rest(mark, "a");
    lab
}

#[test]
fn o26_our_role_holds_as_well_where_the_peer_knows_no_capabilities() {
    // Two-octet AS numbers, as nothing else was settled.
    let told = |role: Role, asn: u16, more: &[u8]| {
        let mut lab = refused_2_4(role, false);
        assert!(
            matches!(&lab.told("a")[..], [Message::Open(open)] if open.capabilities.is_empty())
        );
        lab.say("a", &plain_open(4, 64600, id(), 90, &[]));
        lab.say("a", &KEEPALIVE);
        lab.assert_established("a");
        let path = [&[2, 1][..], &asn.to_be_bytes()].concat();
        let mut attributes = usual_but("a", &attribute(0x40, 2, &path));
        attributes.extend(more);
        lab.say("a", &update(&[], &attributes, &nlri(&["10.1.0.0/16"])));
        lab
    };
    let only_to_customer = attribute(0xc0, 35, &3356_u32.to_be_bytes());
    let lab = told(Role::Provider, 64600, &only_to_customer);
    let unusable = lab.paths_of("10.1.0.0/16")[0].unusable;
    assert_eq!(unusable, Some(Unusable::RouteLeak));
    let lab = told(Role::Customer, 64600, &[]);
    let (inside, _) = lab.holds("c", "10.1.0.0/16");
    assert_eq!(inside.only_to_customer, Some(Asn(64600)));
    // A route server leaves its own AS out.
    told(Role::RouteServerClient, 3356, &[]).holds("c", "10.1.0.0/16");
}

#[test]
fn o26_a_peer_that_has_to_say_its_role_gets_no_open_without_capabilities() {
    let mut lab = refused_2_4(Role::Provider, true);
    assert!(matches!(&lab.told("a")[..], [Message::Open(open)] if !open.capabilities.is_empty()));
    lab.say("a", &plain_open(4, 64600, id(), 90, &[]));
    lab.assert_ended("a", 2, 11, &[]);
}

#[test]
fn o27_add_path_of_a_mode_that_does_not_exist_is_left_out() {
    for mode in [0, 4] {
        let mut capabilities = USUAL.to_vec();
        capabilities.extend([69, 4, 0, 1, 1, mode]);
        let mut lab = accepted(&open(64600, id(), 90, &capabilities));
        lab.establish(&["b"]);
        // Without path identifiers.
        lab.say("a", &announce("a", &["10.1.0.0/16"]));
        lab.holds("b", "10.1.0.0/16");
        lab.assert_established("a");
    }
}

#[test]
fn o28_a_four_octet_as_of_two_octets_is_refused_with_2_0() {
    refused(
        &plain_open(4, 64600, id(), 90, &[2, 4, 65, 2, 0, 1]),
        2,
        0,
        &[],
    );
}

#[test]
fn o29_of_two_graceful_restart_capabilities_the_last_counts() {
    for (first, second, kept) in [(&[0x80][..], &[0; 0][..], false), (&[], &[0x80], true)] {
        let capability = |families: &[u8]| match families {
            [] => vec![64, 2, 0, 120],
            [flags, ..] => vec![64, 6, 0, 120, 0, 1, 1, *flags],
        };
        let capabilities = [USUAL, &capability(first), &capability(second)].concat();
        let mut lab = accepted(&open(64600, id(), 90, &capabilities));
        lab.establish(&["b"]);
        lab.say("a", &announce("a", &["10.1.0.0/16"]));
        lab.cut("a");
        if kept {
            lab.holds("b", "10.1.0.0/16");
        } else {
            lab.lacks("b", "10.1.0.0/16");
        }
    }
}

#[test]
fn o30_an_extended_next_hop_of_ipv4_for_ipv4_means_nothing() {
    let mut lab = Lab::with(|config| config.peers[0].extended_next_hop = true);
    let mut capabilities = USUAL.to_vec();
    capabilities.extend([5, 6, 0, 1, 0, 1, 0, 1]);
    lab.establish_with("a", &capabilities);
    let mut value = vec![0, 1, 1, 16];
    value.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    value.extend([0, 16, 10, 9]);
    let reach = attribute(0x80, 14, &value);
    lab.say("a", &update(&[], &reach, &[]));
    lab.assert_ended("a", 3, 9, &reach);
}

#[test]
fn o15_o16_o17_several_parameters_duplicates_and_unknown_capabilities_change_nothing() {
    // IPv4 twice, one that nobody knows with another behind it, and last what the session cannot be without: the AS.
    let mut parameters = vec![
        2, 6, 1, 4, 0, 1, 0, 1, 2, 6, 1, 4, 0, 1, 0, 1, 2, 11, 200, 3, 9, 9, 9, 1, 4, 0, 2, 0, 1,
        2, 6, 65, 4,
    ];
    parameters.extend(64600_u32.to_be_bytes());
    let lab = accepted(&plain_open(4, 23_456, id(), 90, &parameters));
    assert_eq!(negotiated(&lab), [true, true]);
}

/// Which of IPv4 and IPv6 the session carries.
fn negotiated(lab: &Lab) -> Vec<bool> {
    let families = lab.peer("a").families;
    families.iter().map(|family| family.negotiated).collect()
}

#[test]
fn o18_no_capabilities_mean_ipv4_and_two_octet_as_numbers() {
    let mut lab = accepted(&plain_open(4, 64600, id(), 90, &[]));
    assert_eq!(negotiated(&lab), [true, false]);
    lab.establish(&["b"]);
    lab.ends.get_mut("a").unwrap().reading.four_octet_as = false;
    let path = super::as_path(&[64700, 4_200_000_001]);
    lab.say(
        "b",
        &update(&[], &usual_but("b", &path), &nlri(&["10.1.0.0/16"])),
    );
    let (attributes, _) = lab.holds("a", "10.1.0.0/16");
    // E32: AS_TRANS in the path, the whole of it in AS4_PATH.
    assert_eq!(attributes.as_path.to_string(), "64512 64700 4200000001");
}

#[test]
fn o19_a_peer_of_ipv6_alone_is_sent_no_ipv4() {
    let mut lab = Lab::new();
    lab.establish_with("a", &[1, 4, 0, 2, 0, 1]);
    lab.establish(&["b"]);
    lab.say("b", &announce("b", &["10.1.0.0/16"]));
    assert!(lab.ends["a"].table.is_empty());
}

#[test]
fn o20_no_common_family_is_refused_with_2_7_and_what_we_need() {
    refused(
        &open(64600, id(), 90, &[1, 4, 0, 25, 0, 70]),
        2,
        7,
        &[1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1],
    );
}

#[test]
fn o21_o22_extended_framing_is_taken_with_any_length_before_it() {
    for length in [255, 9] {
        // Without what is in it, the session would be another AS's, and of IPv4.
        let mut capability = vec![1, 4, 0, 2, 0, 1, 65, 4];
        capability.extend(64600_u32.to_be_bytes());
        let mut body = vec![4];
        body.extend(23_456_u16.to_be_bytes());
        body.extend(90_u16.to_be_bytes());
        body.extend(id().octets());
        body.extend([length, 255, 0, 15, 2, 0, 12]);
        body.extend(capability);
        assert_eq!(negotiated(&accepted(&message(1, &body))), [false, true]);
    }
}
