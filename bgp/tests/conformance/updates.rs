//! UPDATE as RFC 7606 wants it, seen from the neighbours: what is withdrawn, what stays, whose session ends.

use margay_bgp::codec::Community;
use margay_bgp::policy::Policy;
use margay_bgp::speaker::snapshot::Unusable;

use super::seen::SeenEvent;
use super::{
    Lab, announce, as_path, attribute, nlri, own_address, prefix, update, usual, usual_but,
    withdraw,
};

pub(super) const FIRST: &str = "10.1.0.0/16";
pub(super) const SECOND_PREFIX: &str = "10.2.0.0/16";

/// What tells the routes of a [`lab`] from what an UPDATE says later.
const EARLIER: Community = Community::new(64600, 999);

/// `a` announced both prefixes, `b` and `c` hold them.
pub(super) fn lab() -> Lab {
    let mut lab = Lab::established(&["a", "b", "c"]);
    let earlier = attribute(0xc0, 8, &EARLIER.0.to_be_bytes());
    let prefixes = nlri(&[FIRST, SECOND_PREFIX]);
    lab.say("a", &update(&[], &usual_but("a", &earlier), &prefixes));
    assert!(lab.holds("b", FIRST).0.communities.contains(&EARLIER));
    lab.holds("b", SECOND_PREFIX);
    lab
}

/// The UPDATE takes its prefix from everybody, and nothing else.
#[track_caller]
pub(super) fn withdraws(case: &str, octets: &[u8]) {
    let mut lab = lab();
    lab.say("a", octets);
    assert!(!lab.ends["a"].closed, "{case}: {:?}", lab.told("a"));
    lab.assert_established("a");
    for name in ["b", "c"] {
        assert!(
            !lab.ends[name].table.contains_key(&prefix(FIRST)),
            "{case}: {name} holds {FIRST}"
        );
        lab.holds(name, SECOND_PREFIX);
        lab.assert_established(name);
    }
}

/// The session of `a` ends so; the others lose its routes and nothing else.
#[track_caller]
pub(super) fn resets(octets: &[u8], code: u8, subcode: u8, data: &[u8]) {
    let mut lab = lab();
    lab.say("c", &announce("c", &["10.3.0.0/16"]));
    lab.say("a", octets);
    lab.assert_ended("a", code, subcode, data);
    lab.assert_established("b");
    lab.lacks("b", FIRST);
    lab.holds("b", "10.3.0.0/16");
}

/// The route is used; the attributes are those that `b` is told.
#[track_caller]
pub(super) fn passes(octets: &[u8]) -> margay_bgp::codec::PathAttributes {
    let mut lab = lab();
    lab.say("a", octets);
    lab.assert_established("a");
    let passed = lab.holds("b", FIRST).0.clone();
    assert!(!passed.communities.contains(&EARLIER), "nothing came of it");
    passed
}

pub(super) fn with(replacement: &[u8]) -> Vec<u8> {
    update(&[], &usual_but("a", replacement), &nlri(&[FIRST]))
}

#[test]
fn u1_u2_lengths_past_the_end_reset_with_3_1() {
    resets(&super::message(2, &[0, 9, 0, 0]), 3, 1, &[]);
    resets(&super::message(2, &[0, 0, 0, 9]), 3, 1, &[]);
}

#[test]
fn u3_u5_an_attribute_list_cut_off_withdraws() {
    let mut overrun = usual("a").concat();
    overrun.extend([0x80, 4, 9, 0]);
    withdraws("overrun", &update(&[], &overrun, &nlri(&[FIRST])));
    let mut stray = usual("a").concat();
    stray.push(0x40);
    withdraws("stray octet", &update(&[], &stray, &nlri(&[FIRST])));
}

#[test]
fn u4_an_attribute_list_cut_off_without_prefixes_resets_with_3_1() {
    resets(&update(&[], &[0x40, 1, 9, 0], &[]), 3, 1, &[]);
}

#[test]
fn u6_u7_malformed_ipv4_prefixes_reset_with_3_10() {
    resets(
        &update(&[], &usual("a").concat(), &[33, 10, 1, 0, 0, 0]),
        3,
        10,
        &[],
    );
    resets(&update(&[], &usual("a").concat(), &[24, 10, 1]), 3, 10, &[]);
}

#[test]
fn u8_a14_a15_malformed_multiprotocol_attributes_reset_with_3_9() {
    let mut long = vec![0, 2, 1, 16];
    long.extend([
        0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 129,
    ]);
    long.extend([0; 17]);
    for bad in [
        attribute(0x80, 14, &long),
        attribute(0x80, 14, &[0, 2, 1, 0]),
        attribute(0x80, 14, &[0, 2, 1, 5, 1, 2, 3, 4, 5, 0]),
        attribute(0x80, 15, &[0, 2]),
        attribute(0x80, 15, &[0, 2, 1, 64, 0xfd]),
    ] {
        resets(&with(&bad), 3, 9, &bad);
    }
}

#[test]
fn u9_host_bits_are_masked() {
    let mut lab = lab();
    lab.say("a", &update(&[], &usual("a").concat(), &[12, 10, 0x3f]));
    lab.holds("b", "10.48.0.0/12");
}

#[test]
fn u10_a_prefix_both_withdrawn_and_announced_is_announced() {
    let mut lab = lab();
    lab.say(
        "a",
        &update(&nlri(&[FIRST]), &usual("a").concat(), &nlri(&[FIRST])),
    );
    lab.holds("b", FIRST);
}

#[test]
fn u11_withdrawing_what_was_never_announced_tells_nobody_anything() {
    let mut lab = lab();
    lab.told("b");
    lab.say("a", &withdraw(&["10.99.0.0/16"]));
    lab.assert_established("a");
    assert!(lab.told("b").is_empty());
}

#[test]
fn u12_of_two_origins_the_first_counts() {
    let mut attributes = usual("a").concat();
    attributes.extend(attribute(0x40, 1, &[2]));
    let passed = passes(&update(&[], &attributes, &nlri(&[FIRST])));
    assert_eq!(passed.origin, margay_bgp::codec::Origin::Igp);
}

#[test]
fn u13_multiprotocol_attributes_twice_reset_with_3_1() {
    let reach = attribute(0x80, 14, &reach(&nlri(&["fd01::/16"])));
    let unreach = attribute(0x80, 15, &[0, 2, 1]);
    for twice in [[reach.as_slice(); 2], [unreach.as_slice(); 2]] {
        let rest = usual("a").concat();
        let all = [twice.concat(), rest].concat();
        resets(&update(&[], &all, &[]), 3, 1, &[]);
    }
}

#[test]
fn u14_a_missing_mandatory_attribute_withdraws() {
    for code in [1, 2, 3] {
        let mut list = usual("a");
        list.retain(|attribute| attribute[1] != code);
        withdraws(
            &format!("without {code}"),
            &update(&[], &list.concat(), &nlri(&[FIRST])),
        );
    }
}

/// The value of an MP_REACH_NLRI of IPv6 by a next hop that serves.
fn reach(nlri: &[u8]) -> Vec<u8> {
    let mut value = vec![0, 2, 1, 16];
    value.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    value.extend(nlri);
    value
}

#[test]
fn u15_u20_an_update_about_no_prefix_changes_nothing() {
    for attributes in [
        attribute(0x40, 1, &[0]),
        usual_but("a", &attribute(0x80, 14, &reach(&[]))),
    ] {
        let mut lab = lab();
        lab.told("b");
        lab.say("a", &update(&[], &attributes, &[]));
        lab.assert_established("a");
        assert!(lab.told("b").is_empty(), "{attributes:02x?}");
        assert!(lab.holds("b", FIRST).0.communities.contains(&EARLIER));
    }
}

#[test]
fn u19_end_of_rib_is_understood_in_each_of_its_forms_and_said_once() {
    for (marker, family) in [
        (update(&[], &[], &[]), 0),
        (update(&[], &attribute(0x80, 15, &[0, 1, 1]), &[]), 0),
        (update(&[], &attribute(0x80, 15, &[0, 2, 1]), &[]), 1),
    ] {
        let mut lab = lab();
        lab.say("a", &marker);
        let ended = |lab: &Lab| {
            let families = lab.peer("a").families;
            [
                families[0].end_of_rib_received,
                families[1].end_of_rib_received,
            ]
        };
        assert_eq!(ended(&lab), [family == 0, family == 1]);
        lab.say("a", &marker);
        lab.assert_established("a");
        lab.holds("b", FIRST);
    }
}

#[test]
fn u16_a_family_we_do_not_speak_is_ignored_and_counted() {
    let foreign = attribute(0x80, 14, &[0, 25, 70, 4, 1, 2, 3, 4, 0, 1, 2, 3]);
    passes(&with(&foreign));
    let mut lab = lab();
    for count in 1..=2 {
        lab.say("a", &with(&foreign));
        assert_eq!(lab.peer("a").attribute_faults, count);
    }
}

#[test]
fn u17_all_of_one_message_is_applied() {
    let mut lab = lab();
    let before = attribute(0x80, 14, &reach(&nlri(&["fd02::/16"])));
    lab.say("a", &update(&[], &usual_but("a", &before), &[]));
    lab.holds("b", "fd02::/16");
    let gone = [&[0, 2, 1][..], &nlri(&["fd02::/16"])].concat();
    let mut attributes = attribute(0x80, 14, &reach(&nlri(&["fd01::/16"])));
    attributes.extend(attribute(0x80, 15, &gone));
    attributes.extend(usual("a").concat());
    lab.say(
        "a",
        &update(
            &nlri(&[SECOND_PREFIX]),
            &attributes,
            &nlri(&["10.3.0.0/16"]),
        ),
    );
    lab.lacks("b", SECOND_PREFIX);
    lab.lacks("b", "fd02::/16");
    lab.holds("b", "10.3.0.0/16");
    lab.holds("b", "fd01::/16");
}

#[test]
fn u18_the_order_of_attributes_does_not_matter() {
    let mut list = usual("a");
    list.reverse();
    passes(&update(&[], &list.concat(), &nlri(&[FIRST])));
}

#[test]
fn u21_an_update_in_open_confirm_counts_as_keepalive() {
    let mut lab = Lab::new();
    lab.connect("a");
    lab.say(
        "a",
        &super::open(64600, super::address_of("a"), 90, super::USUAL),
    );
    lab.say("a", &announce("a", &[FIRST]));
    lab.assert_established("a");
    lab.establish(&["b"]);
    lab.holds("b", FIRST);
}

#[test]
fn a1_a2_a3_a4_malformed_mandatory_attributes_and_med_withdraw() {
    let cases: &[(u8, u8, &[u8])] = &[
        (0x40, 1, &[]),
        (0x40, 1, &[0, 0]),
        (0x40, 1, &[3]),
        (0x40, 1, &[255]),
        (0xc0, 1, &[0]),
        (0x00, 1, &[0]),
        (0x40, 2, &[0, 1, 0, 0, 0xfc, 0x58]),
        (0x40, 2, &[5, 1, 0, 0, 0xfc, 0x58]),
        (0x40, 2, &[2, 0]),
        (0x40, 2, &[2, 2, 0, 0, 0xfc, 0x58]),
        (0x40, 2, &[2, 1, 0, 0, 0xfc, 0x58, 2]),
        (0x40, 2, &[2, 2, 0, 0, 0xfc, 0x58, 0, 0, 0, 0]),
        (0x40, 2, &[2, 1, 0, 0, 0xfc, 0x58, 1, 1, 0, 0, 0, 9]),
        (0x40, 2, &[3, 1, 0, 0, 0xfc, 0x58]),
        (0x40, 2, &[2, 1, 0, 0, 0xfc, 0x59]),
        (0xc0, 2, &[2, 1, 0, 0, 0xfc, 0x58]),
        (0x40, 2, &[]),
        (0x40, 3, &[192, 0, 2]),
        (0x40, 3, &[192, 0, 2, 2, 0]),
        (0x80, 4, &[]),
        (0x80, 4, &[0, 0, 1]),
        (0x80, 4, &[0, 0, 0, 0, 1]),
        (0xc0, 4, &[0, 0, 0, 1]),
    ];
    for (flags, code, value) in cases {
        let bad = attribute(*flags, *code, value);
        withdraws(&format!("{bad:02x?}"), &with(&bad));
    }
}

#[test]
fn a3_next_hops_of_nobody_make_the_route_unusable_and_the_session_goes_on() {
    for hop in [
        [0, 0, 0, 0],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [255, 255, 255, 255],
        [192, 0, 2, 1],
    ] {
        let octets = with(&attribute(0x40, 3, &hop));
        withdraws(&format!("{hop:?}"), &octets);
        let mut lab = lab();
        lab.say("a", &octets);
        let paths = lab.paths_of(FIRST);
        let unusable = paths.iter().map(|path| path.unusable);
        assert!(unusable.eq([Some(Unusable::NextHop)]), "{hop:?}: {paths:?}");
    }
}

#[test]
fn a_prefix_of_which_no_address_is_ever_elsewhere_is_ignored_and_the_session_goes_on() {
    let announce_any = |text: &str| {
        let list = nlri(&[text]);
        if prefix(text).addr().is_ipv4() {
            return update(&[], &usual("a").concat(), &list);
        }
        let mut reach = vec![0, 2, 1, 16];
        reach.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
        reach.extend(list);
        update(&[], &usual_but("a", &attribute(0x80, 14, &reach)), &[])
    };
    let never = [
        "0.0.0.0/8",
        "0.1.2.3/32",
        "127.0.0.0/8",
        "127.0.0.1/32",
        "224.0.0.0/4",
        "239.255.0.0/16",
        "::/128",
        "::1/128",
        "fe80::/10",
        "fe80::/64",
        "febf::1/128",
        "ff00::/8",
        "ff02::1/128",
    ];
    let sometimes = [
        "0.0.0.0/0",
        "0.0.0.0/1",
        "126.0.0.0/7",
        "128.0.0.0/8",
        "223.0.0.0/8",
        "224.0.0.0/3",
        "240.0.0.0/4",
        "169.254.0.0/16",
        "::/0",
        "::/127",
        "64:ff9b::/96",
        "fc00::/7",
        "fec0::/10",
        "fe00::/9",
        "fe80::/9",
        "fe00::/7",
    ];
    let mut lab = Lab::established(&["a", "b"]);
    for text in never.into_iter().chain(sometimes) {
        lab.say("a", &announce_any(text));
    }
    let check = |lab: &Lab| {
        for text in never {
            let paths = lab.paths_of(text);
            let unusable = paths.iter().map(|path| path.unusable);
            assert!(unusable.eq([Some(Unusable::Prefix)]), "{text}: {paths:?}");
            lab.lacks("b", text);
        }
        for text in sometimes {
            lab.holds("b", text);
        }
        let families = lab.peer("a").families;
        let rejected = families.into_iter().map(|family| family.rejected);
        assert!(rejected.eq([vec![(Unusable::Prefix, 6)], vec![(Unusable::Prefix, 7)]]));
        lab.assert_established("a");
    };
    check(&lab);
    // No policy makes a destination of it.
    lab.configure(|config| {
        config.peers[0].import = Policy::reject_all().into();
    });
    lab.configure(|config| config.peers[0].import = Policy::accept_all().into());
    check(&lab);
    lab.say("a", &withdraw(&["224.0.0.0/4"]));
    assert!(lab.paths_of("224.0.0.0/4").is_empty());
}

#[test]
fn a5_a9_a10_attributes_of_the_inside_from_outside_are_discarded() {
    for bad in [
        attribute(0x40, 5, &[0, 0, 0, 200]),
        attribute(0x80, 5, &[1, 2, 3]),
        attribute(0x80, 9, &[1, 2, 3, 4]),
        attribute(0x80, 9, &[1]),
        attribute(0x80, 10, &[1, 2, 3, 4]),
        attribute(0x80, 10, &[]),
    ] {
        let mut lab = lab();
        lab.say("a", &with(&bad));
        let (inside, _) = lab.holds("c", FIRST);
        assert_eq!(
            inside.local_pref.map(|value| value.0),
            Some(100),
            "{bad:02x?}"
        );
        assert!(
            inside.originator_id.is_none() && inside.cluster_list.is_empty(),
            "{bad:02x?}"
        );
    }
}

#[test]
fn a6_a7_a26_attributes_nobody_needs_are_discarded() {
    for bad in [
        attribute(0x40, 6, &[1]),
        attribute(0xc0, 7, &[0, 0, 0, 1, 1, 1, 1]),
        attribute(0xc0, 7, &[0, 1, 1, 1, 1, 1]),
        attribute(0xc0, 7, &[0, 0, 0, 0, 1, 1, 1, 1]),
        attribute(0x80, 26, &[9]),
        attribute(0xc0, 17, &[1, 2, 3]),
        attribute(0xc0, 18, &[0, 0, 0, 1, 1, 1, 1]),
    ] {
        let passed = passes(&with(&bad));
        assert!(
            !passed.atomic_aggregate && passed.aggregator.is_none(),
            "{bad:02x?}"
        );
    }
}

#[test]
fn a8_a16_a25_a32_a35_malformed_communities_withdraw() {
    for (code, values) in [
        (8_u8, [&[][..], &[0; 5]]),
        (16, [&[], &[0; 9]]),
        (25, [&[], &[0; 21]]),
        (32, [&[], &[0; 13]]),
        (35, [&[0; 3], &[0; 5]]),
    ] {
        for value in values {
            let bad = attribute(0xc0, code, value);
            withdraws(&format!("{bad:02x?}"), &with(&bad));
        }
    }
    withdraws("flags", &with(&attribute(0x80, 8, &[0xfc, 0, 0, 1])));
}

#[test]
fn a8_communities_are_sorted_and_none_is_said_twice() {
    let passed = passes(&with(&attribute(
        0xc0,
        8,
        &[0, 2, 0, 2, 0, 1, 0, 1, 0, 2, 0, 2],
    )));
    let text: Vec<_> = passed.communities.iter().map(ToString::to_string).collect();
    assert_eq!(text, ["1:1", "2:2"]);
}

#[test]
fn a99_unknown_attributes_pass_by_their_flags() {
    assert!(
        passes(&with(&attribute(0x80, 200, &[1])))
            .unknown
            .is_empty()
    );
    for flags in [0xc0, 0xe0] {
        let passed = passes(&with(&attribute(flags, 200, &[1])));
        assert_eq!(passed.unknown.len(), 1);
        assert!(
            passed.unknown[0].flags.bits() & 0x20 != 0,
            "not marked as partial"
        );
    }
    withdraws("well-known", &with(&attribute(0x40, 200, &[1])));
}

#[test]
fn loops_replace_the_earlier_path_and_end_nothing() {
    withdraws("own AS", &with(&as_path(&[64600, 64512])));
    // From inside: our own ORIGINATOR_ID, our own cluster.
    for bad in [
        attribute(0x80, 9, &[192, 0, 2, 1]),
        attribute(0x80, 10, &[192, 0, 2, 1]),
    ] {
        let mut lab = Lab::established(&["b", "c"]);
        lab.say("c", &announce("c", &[FIRST, SECOND_PREFIX]));
        lab.say("c", &update(&[], &usual_but("c", &bad), &nlri(&[FIRST])));
        lab.lacks("b", FIRST);
        lab.holds("b", SECOND_PREFIX);
        lab.assert_established("c");
    }
}

/// What a peer got wrong is counted by kind and shown with the octets, and every change of state is an event with its reason.
#[test]
fn what_a_peer_gets_wrong_is_counted_and_kept_as_it_came() {
    let mut lab = Lab::established(&["a"]);
    let octets = update(
        &[],
        &usual_but("a", &attribute(0x40, 1, &[9])),
        &nlri(&[FIRST]),
    );
    lab.say("a", &octets);
    lab.say("a", &[0; 19]);

    let peer = lab.peer("a");
    let kinds: Vec<String> = peer
        .errors
        .iter()
        .map(|kind| format!("{} {} {}", kind.class, kind.reason, kind.action))
        .collect();
    assert_eq!(
        kinds,
        ["header marker reset", "attribute value treat-as-withdraw",]
    );
    assert_eq!(peer.offences.first(), Some(&(octets, 1)), "kept");
    assert_eq!(lab.totals().errors, 2);

    let said = lab.events("a");
    let is_malformed = |event: &SeenEvent| {
        matches!(event, SeenEvent::Malformed { reason, action, .. }
        if reason == "ORIGIN: invalid value" && action == "treat-as-withdraw")
    };
    assert!(said.iter().any(is_malformed), "{said:?}");
    let is_end = |event: &SeenEvent| {
        matches!(event, SeenEvent::State { from, to, reason }
        if from == "Established" && to == "Idle" && reason.starts_with("notification sent: "))
    };
    assert!(said.last().is_some_and(is_end), "{said:?}");
}

#[test]
fn what_is_worse_is_told_however_much_else_a_peer_gets_wrong() {
    let mut lab = Lab::established(&["a"]);
    let mild = usual_but("a", &attribute(0x40, 5, &[0, 0, 0, 1]));
    let mild = update(&[], &mild, &nlri(&[FIRST]));
    let worse = update(
        &[],
        &usual_but("a", &attribute(0x40, 1, &[9])),
        &nlri(&[FIRST]),
    );
    for octets in [&mild, &mild, &worse, &mild, &mild, &mild, &mild] {
        lab.say("a", octets);
    }
    let peer = lab.peer("a");
    assert_eq!(peer.offences.len(), 2);
    assert_eq!(peer.offences[0].0, worse);
    let told: Vec<(u64, usize)> = lab
        .events("a")
        .iter()
        .filter_map(|event| {
            let SeenEvent::Malformed { more, length, .. } = event else {
                return None;
            };
            Some((*more, *length))
        })
        .collect();
    assert_eq!(told, [(0, mild.len()), (1, worse.len())]);
}

#[test]
fn paths_that_are_not_used_are_counted_by_what_is_wrong_with_them() {
    let mut lab = Lab::established(&["a", "c"]);
    let looped = as_path(&[super::asn_of("a"), super::OWN_ASN]);
    let ours = own_address();
    let std::net::IpAddr::V4(own) = ours.ip() else {
        panic!("an IPv4 address");
    };
    lab.say(
        "a",
        &update(
            &[],
            &usual_but("a", &looped),
            &nlri(&[FIRST, SECOND_PREFIX]),
        ),
    );
    lab.say(
        "a",
        &update(
            &[],
            &usual_but("a", &attribute(0x40, 3, &own.octets())),
            &nlri(&["10.9.0.0/16"]),
        ),
    );
    let counted = |lab: &Lab, name| {
        let family = lab.peer(name).families[0].clone();
        (family.received, family.accepted, family.rejected)
    };
    assert_eq!(
        counted(&lab, "a"),
        (3, 0, vec![(Unusable::AsLoop, 2), (Unusable::NextHop, 1)])
    );
    lab.say("a", &announce("a", &[FIRST]));
    lab.say("a", &withdraw(&[SECOND_PREFIX]));
    assert_eq!(counted(&lab, "a"), (2, 1, vec![(Unusable::NextHop, 1)]));
    lab.configure(|config| config.peers[0].import = Policy::reject_all().into());
    assert_eq!(
        counted(&lab, "a"),
        (
            2,
            0,
            vec![(Unusable::RejectedByPolicy, 1), (Unusable::NextHop, 1)]
        )
    );
    lab.cut("a");
    assert_eq!(counted(&lab, "a"), (0, 0, vec![]));
}
