//! Attributes by type, each with the malformations and the values that matter (RFC 7606 §7).

use margay_bgp::codec::{NextHop, PathAttributes};
use margay_bgp::speaker::config::PeerConfig;

use super::updates::{FIRST, SECOND_PREFIX, lab, passes, resets, with, withdraws};
use super::{
    KEEPALIVE, Lab, USUAL, address_of, announce, as_path, attribute, nlri, plain_open, update,
    usual, usual_but,
};

/// An attribute of any length.
fn long(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    let mut octets = vec![flags | 0x10, code];
    octets.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
    octets.extend(value);
    octets
}

/// From `c`, inside our AS: the prefix goes from `b`, another one stays, and so does the session.
#[track_caller]
fn withdraws_inside(bad: &[u8]) {
    let mut lab = Lab::established(&["b", "c"]);
    lab.say("c", &announce("c", &[FIRST, SECOND_PREFIX]));
    lab.holds("b", FIRST);
    lab.say("c", &update(&[], &usual_but("c", bad), &nlri(&[FIRST])));
    lab.lacks("b", FIRST);
    lab.holds("b", SECOND_PREFIX);
    lab.assert_established("c");
}

/// The route is used and nothing is left of the attribute of that kind.
#[track_caller]
fn discards(bad: &[u8], is_gone: impl Fn(&PathAttributes) -> bool) {
    let passed = passes(&with(bad));
    assert!(is_gone(&passed), "{bad:02x?}: {passed:?}");
}

fn configured(change: impl FnOnce(&mut PeerConfig)) -> Lab {
    let mut lab = Lab::with(|config| change(&mut config.peers[0]));
    lab.establish(&["a", "b"]);
    lab.say("a", &announce("a", &[FIRST, SECOND_PREFIX]));
    lab
}

#[test]
fn a2_three_hundred_hops_in_two_sequences_are_fine() {
    let mut value = Vec::new();
    for count in [255_u8, 45] {
        value.extend([2, count]);
        for hop in 0..u32::from(count) {
            let asn = if value.len() == 2 {
                64600
            } else {
                65_000 + hop
            };
            value.extend(asn.to_be_bytes());
        }
    }
    let passed = passes(&with(&long(0x40, 2, &value)));
    // Ours and theirs.
    assert_eq!(passed.as_path.hop_count(), 301);
}

#[test]
fn a5_inside_a_malformed_local_pref_withdraws_and_a_missing_one_is_a_hundred() {
    withdraws_inside(&attribute(0x40, 5, &[0, 0, 100]));
    withdraws_inside(&attribute(0x80, 5, &[0, 0, 0, 100]));
    let mut lab = Lab::established(&["c", "d"]);
    let mut without = usual("c");
    without.retain(|attribute| attribute[1] != 5);
    lab.say("c", &update(&[], &without.concat(), &nlri(&[FIRST])));
    assert_eq!(
        lab.holds("d", FIRST).0.local_pref.map(|value| value.0),
        Some(100)
    );
}

#[test]
fn a6_an_atomic_aggregate_with_a_value_is_discarded_and_with_wrong_flags_withdraws() {
    discards(&attribute(0x40, 6, &[1]), |passed| !passed.atomic_aggregate);
    withdraws("flags", &with(&attribute(0xc0, 6, &[])));
}

#[test]
fn a7_aggregators_of_any_other_length_or_of_as_0_are_discarded() {
    for value in [
        &[0; 5][..],
        &[0, 0, 0, 1, 1, 1, 1],
        &[0, 0, 0, 1, 1, 1, 1, 1, 1],
        &[0, 1, 1, 1, 1, 1],
        &[0, 0, 0, 0, 1, 1, 1, 1],
    ] {
        discards(&attribute(0xc0, 7, value), |passed| {
            passed.aggregator.is_none()
        });
    }
}

#[test]
fn a8_a_thousand_communities_with_duplicates_are_taken_once_each() {
    let values: Vec<u8> = (0..1000_u16)
        .flat_map(|number| {
            let [high, low] = (number % 500).to_be_bytes();
            [0xfc, 0, high, low]
        })
        .collect();
    let passed = passes(&with(&long(0xc0, 8, &values)));
    assert_eq!(passed.communities.len(), 500);
}

#[test]
fn a9_a10_inside_malformed_reflection_attributes_withdraw() {
    withdraws_inside(&attribute(0x80, 9, &[1, 2, 3]));
    withdraws_inside(&attribute(0x80, 9, &[1, 2, 3, 4, 5]));
    withdraws_inside(&attribute(0x80, 10, &[]));
    withdraws_inside(&attribute(0x80, 10, &[1, 2, 3, 4, 5]));
    // Well-formed, and yet loops: not usable.
    withdraws_inside(&attribute(0x80, 9, &[192, 0, 2, 1]));
    withdraws_inside(&attribute(0x80, 10, &[192, 0, 2, 1]));
}

/// MP_REACH_NLRI of IPv6 with this next hop, for `fd01::/16`.
fn reach(next_hop: &[u8], reserved: u8) -> Vec<u8> {
    let mut value = vec![0, 2, 1, u8::try_from(next_hop.len()).unwrap()];
    value.extend(next_hop);
    value.push(reserved);
    value.extend([16, 0xfd, 0x01]);
    value
}

const GLOBAL: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// MP_REACH_NLRI and MP_UNREACH_NLRI that cannot be read.
fn unreadable() -> Vec<Vec<u8>> {
    let mut overrun = vec![0, 2, 1, 200];
    overrun.extend(GLOBAL);
    vec![
        attribute(0x80, 14, &[0, 2, 1, 0]),
        attribute(0x80, 14, &reach(&[], 0)),
        attribute(0x80, 14, &reach(&[1, 2, 3, 4, 5], 0)),
        attribute(0x80, 14, &reach(&[7; 31], 0)),
        attribute(0x80, 14, &overrun),
        attribute(0xc0, 14, &reach(&GLOBAL, 0)),
        attribute(0x80, 15, &[0, 2, 1, 64, 0xfd]),
        attribute(0xc0, 15, &[0, 2, 1]),
    ]
}

#[test]
fn a14_a15_multiprotocol_attributes_that_cannot_be_read_reset_with_3_9_and_the_attribute() {
    let mut all = unreadable();
    all.push(attribute(0x80, 15, &[0, 2]));
    for bad in all {
        resets(&with(&bad), 3, 9, &bad);
    }
}

#[test]
fn a14_a15_with_the_option_they_cost_the_family_and_no_more() {
    for bad in unreadable() {
        let mut lab = configured(|peer| peer.afi_safi_disable = true);
        let v6 = attribute(0x80, 14, &reach(&GLOBAL, 0));
        let announces = update(&[], &[v6, usual("a").concat()].concat(), &[]);
        lab.say("a", &announces);
        lab.holds("b", "fd01::/16");
        lab.say("a", &update(&[], &[bad, usual("a").concat()].concat(), &[]));
        lab.lacks("b", "fd01::/16");
        lab.say("a", &announces);
        lab.lacks("b", "fd01::/16");
        lab.assert_established("a");
        lab.holds("b", FIRST);
        lab.say("a", &announce("a", &["10.9.0.0/16"]));
        lab.holds("b", "10.9.0.0/16");
    }
}

#[test]
fn a14_the_reserved_octet_and_what_is_no_link_local_address_are_ignored() {
    let mut two = GLOBAL.to_vec();
    two.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
    for value in [reach(&GLOBAL, 1), reach(&two, 0)] {
        let mut lab = lab();
        lab.say("a", &with(&attribute(0x80, 14, &value)));
        lab.holds("b", "fd01::/16");
        // Inside the AS it is told as it came: the first of the two, and no other.
        let first = NextHop::V6 {
            global: Some(GLOBAL.into()),
            link_local: None,
        };
        assert_eq!(lab.holds("c", "fd01::/16").1, first);
        lab.assert_established("a");
    }
}

#[test]
fn a14_an_ipv6_next_hop_of_ipv4_prefixes_needs_its_capability() {
    let mut value = vec![0, 1, 1, 16];
    value.extend(GLOBAL);
    value.extend([0, 16, 10, 9]);
    let mut attributes = attribute(0x80, 14, &value);
    attributes.extend(attribute(0x40, 1, &[0]));
    attributes.extend(as_path(&[64600]));
    let octets = update(&[], &attributes, &[]);
    resets(&octets, 3, 9, &attribute(0x80, 14, &value));
    let mut lab = Lab::with(|config| {
        for peer in &mut config.peers[..2] {
            peer.extended_next_hop = true;
        }
    });
    let mut capabilities = USUAL.to_vec();
    capabilities.extend([5, 6, 0, 1, 0, 1, 0, 2]);
    lab.establish_with("a", &capabilities);
    lab.establish_with("b", &capabilities);
    lab.say("a", &octets);
    lab.holds("b", "10.9.0.0/16");
    lab.assert_established("a");
}

#[test]
fn a16_a25_a32_communities_with_wrong_flags_withdraw_and_unknown_kinds_pass() {
    for (code, size) in [(16, 8), (25, 20), (32, 12)] {
        let bad = attribute(0x80, code, &vec![0; size]);
        withdraws(&format!("{bad:02x?}"), &with(&bad));
    }
    // Transitive, of a type nobody assigned.
    let passed = passes(&with(&attribute(0xc0, 16, &[0x3f, 0x3f, 1, 2, 3, 4, 5, 6])));
    assert_eq!(passed.extended_communities.len(), 1);
}

/// `a` speaks two-octet AS numbers and announced both prefixes; `b` listens.
fn old_speaker() -> Lab {
    let mut lab = Lab::new();
    lab.connect("a");
    lab.say("a", &plain_open(4, 64600, address_of("a"), 90, &[]));
    lab.say("a", &KEEPALIVE);
    lab.establish(&["b"]);
    lab.say("a", &from_old(&[], &[FIRST, SECOND_PREFIX]));
    lab.holds("b", FIRST);
    lab
}

fn from_old(more: &[u8], prefixes: &[&str]) -> Vec<u8> {
    let attributes = [
        attribute(0x40, 1, &[0]),
        attribute(0x40, 2, &[2, 2, 0xfc, 0x58, 0x5b, 0xa0]),
        attribute(0x40, 3, &address_of("a").octets()),
        more.to_vec(),
    ];
    update(&[], &attributes.concat(), &nlri(prefixes))
}

#[test]
fn a17_a18_four_octet_attributes_of_an_old_speaker_are_discarded_when_malformed() {
    let good = attribute(0xc0, 17, &[2, 1, 0xfa, 0x56, 0xea, 1]);
    let mut lab = old_speaker();
    lab.say("a", &from_old(&good, &[FIRST]));
    let path = lab.holds("b", FIRST).0.as_path.to_string();
    assert_eq!(path, "64512 64600 4200000001");
    for bad in [
        attribute(0xc0, 17, &[2, 1, 0xfa, 0x56, 0xea]),
        attribute(0xc0, 17, &[2, 1, 0, 0, 0, 0]),
        attribute(0xc0, 18, &[0, 0, 0, 1, 1, 1, 1]),
        attribute(0xc0, 18, &[0, 0, 0, 0, 1, 1, 1, 1]),
    ] {
        let mut lab = old_speaker();
        lab.say("a", &from_old(&bad, &[FIRST]));
        let (passed, _) = lab.holds("b", FIRST);
        assert_eq!(
            passed.as_path.to_string(),
            "64512 64600 23456",
            "{bad:02x?}"
        );
        assert!(passed.aggregator.is_none(), "{bad:02x?}");
        lab.assert_established("a");
    }
    for bad in [
        attribute(0x80, 17, &[2, 1, 0xfa, 0x56, 0xea, 1]),
        attribute(0x80, 18, &[0, 0, 0, 1, 1, 1, 1, 1]),
    ] {
        let mut lab = old_speaker();
        lab.say("a", &from_old(&bad, &[FIRST]));
        lab.lacks("b", FIRST);
        lab.holds("b", SECOND_PREFIX);
        lab.assert_established("a");
    }
}

#[test]
fn a17_a18_four_octet_attributes_of_a_modern_speaker_are_discarded_whatever_they_say() {
    for bad in [
        attribute(0xc0, 17, &[2, 1, 0xfa, 0x56, 0xea, 1]),
        attribute(0xc0, 17, &[1, 2, 3]),
        attribute(0xc0, 18, &[0, 0, 0, 1, 1, 1, 1, 1]),
    ] {
        discards(&bad, |passed| {
            passed.as_path.to_string() == "64512 64600" && passed.aggregator.is_none()
        });
    }
}

#[test]
fn a26_a35_a40_aigp_goes_otc_withdraws_when_malformed_and_prefix_sids_pass_as_partial() {
    for value in [&[1, 0, 11, 0, 0, 0, 0, 0, 0, 0, 1][..], &[9]] {
        discards(&attribute(0x80, 26, value), |passed| {
            passed.unknown.is_empty()
        });
    }
    for bad in [
        attribute(0xc0, 35, &[0, 0, 1]),
        attribute(0xc0, 35, &[0, 0, 0, 0, 1]),
        attribute(0x80, 35, &[0, 0, 0, 1]),
    ] {
        withdraws(&format!("{bad:02x?}"), &with(&bad));
    }
    for value in [&[1, 0, 7, 0, 0, 0, 0, 0, 0, 9][..], &[0xff]] {
        let passed = passes(&with(&attribute(0xc0, 40, value)));
        let [sid] = &passed.unknown[..] else {
            panic!("{passed:?}");
        };
        assert_eq!((sid.flags.bits(), &sid.value[..]), (0xe0, value));
    }
}

#[test]
fn a99_a_long_length_field_of_a_short_value_passes() {
    let passed = passes(&with(&[0xd0, 200, 0, 3, 1, 2, 3]));
    assert_eq!(&passed.unknown[0].value[..], [1, 2, 3]);
}

#[test]
fn a99_with_the_option_an_unknown_well_known_attribute_ends_with_3_2_and_the_attribute() {
    let mut lab = configured(|peer| peer.strict_attributes = true);
    let bad = attribute(0x40, 200, &[1]);
    lab.say("a", &with(&bad));
    lab.assert_ended("a", 3, 2, &bad);
    lab.lacks("b", FIRST);
}
