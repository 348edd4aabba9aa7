//! Which path is used, and which are used beside it.

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use margay_bgp::asn::Asn;
use margay_bgp::codec::LocalPref;
use margay_bgp::decision::Step;
use margay_bgp::policy::{Action, Policy, Rule, Verdict};
use margay_bgp::rib::NextHopInterest;
use margay_bgp::speaker::TableEvent;
use margay_bgp::speaker::config::{Originate, Remote, SpeakerConfig};
use margay_bgp::speaker::snapshot::Unusable;

use super::forwarding::hop_of;
use super::{
    KEEPALIVE, Lab, USUAL, address_of, announce, as_path, attribute, nlri, open, own_address,
    prefix, update, usual, withdraw,
};

const ROUTE: &str = "10.1.0.0/16";

/// Whose path is the best, and by what.
fn best(lab: &Lab) -> (String, Option<Step>) {
    let best = lab.paths_of(ROUTE).into_iter().find(|path| path.best);
    best.map_or_else(
        || ("nobody".to_owned(), None),
        |path| (path.from, path.step),
    )
}

/// Whose paths are used for forwarding.
fn used(lab: &Lab) -> BTreeSet<String> {
    let used = lab.paths_of(ROUTE).into_iter().filter(|path| path.used);
    used.map(|path| path.from).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// An announcement of [`ROUTE`] in which some attributes are others; paths of internal neighbours come from AS 65000.
fn say(lab: &mut Lab, name: &'static str, others: &[Vec<u8>]) {
    let mut list = usual(name);
    if super::asn_of(name) == super::OWN_ASN {
        list[1] = as_path(&[65_000]);
    }
    for other in others {
        list.retain(|attribute| attribute[1] != other[1]);
        list.push(other.clone());
    }
    lab.say(name, &update(&[], &list.concat(), &nlri(&[ROUTE])));
}

/// Two internal neighbours whose paths differ in these attributes only, announced in either order: `d`, whose identifier and
/// address lose otherwise, wins by `step`.
#[track_caller]
fn d_wins_by(
    step: Step,
    change: impl Fn(&mut SpeakerConfig) + Copy,
    of_c: &[Vec<u8>],
    of_d: &[Vec<u8>],
) {
    for first in ["c", "d"] {
        let mut lab = Lab::with(change);
        lab.establish(&["c", "d"]);
        for name in [first, if first == "c" { "d" } else { "c" }] {
            say(&mut lab, name, if name == "c" { of_c } else { of_d });
        }
        assert_eq!(best(&lab), ("d".to_owned(), Some(step)), "{first} first");
    }
}

fn med(value: u8) -> Vec<u8> {
    attribute(0x80, 4, &[0, 0, 0, value])
}

fn community(value: u32) -> Vec<u8> {
    attribute(0xc0, 8, &value.to_be_bytes())
}

fn preferring(action: Action) -> Arc<Policy> {
    Arc::new(Policy {
        rules: vec![Rule {
            conditions: Vec::new(),
            actions: vec![action],
            verdict: None,
        }],
        default: Verdict::Accept,
    })
}

const LLGR_STALE: u32 = 0xffff_0006;

#[test]
fn d1_a_long_lived_stale_path_loses_to_any_other() {
    let better = attribute(0x40, 5, &[0, 0, 3, 0]);
    d_wins_by(
        Step::LongLivedStale,
        |_| (),
        &[community(LLGR_STALE), better],
        &[],
    );
}

#[test]
fn d2_the_higher_weight_wins() {
    let weighted = |config: &mut SpeakerConfig| {
        config.peers[3].import = preferring(Action::SetWeight(7));
    };
    d_wins_by(Step::Weight, weighted, &[], &[]);
}

#[test]
fn d3_the_higher_local_pref_wins() {
    let higher = attribute(0x40, 5, &[0, 0, 0, 101]);
    d_wins_by(Step::LocalPref, |_| (), &[], &[higher]);
}

#[test]
fn d4_a_route_of_our_own_wins() {
    let mut lab = Lab::with(|config| config.originate.push(Originate::new(prefix(ROUTE))));
    lab.establish(&["c"]);
    say(&mut lab, "c", &[as_path(&[])]);
    assert_eq!(best(&lab), ("local".to_owned(), Some(Step::Local)));
}

#[test]
fn d5_the_shorter_as_path_wins() {
    let long = as_path(&[65_000, 65_000]);
    d_wins_by(Step::AsPathLength, |_| (), &[long], &[]);
}

#[test]
fn d6_the_lower_origin_wins() {
    d_wins_by(Step::Origin, |_| (), &[attribute(0x40, 1, &[2])], &[]);
}

#[test]
fn d7_the_lower_med_wins() {
    d_wins_by(Step::Med, |_| (), &[med(2)], &[med(1)]);
}

#[test]
fn d8_external_wins_over_internal() {
    let mut lab = Lab::established(&["b", "c"]);
    // Its identifier and address would lose: they are made lower than b's by an originator.
    say(&mut lab, "c", &[attribute(0x80, 9, &[1, 0, 0, 1])]);
    lab.say("b", &announce("b", &[ROUTE]));
    assert_eq!(best(&lab), ("b".to_owned(), Some(Step::External)));
}

#[test]
fn d9_the_nearer_next_hop_wins() {
    let mut lab = tracking(&["c", "d"], |_| ());
    for name in ["c", "d"] {
        say(&mut lab, name, &[]);
    }
    lab.tell(&[("c", Some(10)), ("d", Some(5))]);
    assert_eq!(best(&lab), ("d".to_owned(), Some(Step::NextHopMetric)));
    assert_eq!(used(&lab), names(&["d"]));
    lab.tell(&[("d", Some(10))]);
    assert_eq!(best(&lab), ("c".to_owned(), Some(Step::RouterId)));
}

#[test]
fn d10_paths_equal_up_to_the_next_hop_are_used_together() {
    let mut lab = Lab::established(&["c", "d"]);
    for name in ["c", "d"] {
        say(&mut lab, name, &[]);
    }
    assert_eq!(best(&lab), ("c".to_owned(), Some(Step::RouterId)));
    assert_eq!(used(&lab), names(&["c", "d"]));
}

#[test]
fn d11_between_external_paths_the_one_used_so_far_stays_where_that_is_asked_for() {
    for (oldest, wanted) in [
        (false, ("a", Step::RouterId)),
        (true, ("b", Step::Incumbent)),
    ] {
        let mut lab = Lab::with(|config| config.prefer_oldest_external = oldest);
        lab.establish(&["a", "b"]);
        lab.say("b", &announce("b", &[ROUTE]));
        lab.say("a", &announce("a", &[ROUTE]));
        assert_eq!(best(&lab), (wanted.0.to_owned(), Some(wanted.1)));
        // It is no better than a path that wins by any step before.
        say(&mut lab, "b", &[as_path(&[64_700, 64_700])]);
        assert_eq!(best(&lab).0, "a");
    }
}

/// Pairwise, each of three paths loses to another: the first of `c` to the second by MED, that one to `d`'s by identifier, and
/// that to the first of `c` in the same way.
#[test]
fn d12_med_counts_inside_one_as_and_an_inversion_has_one_winner_in_six_orders() {
    let orders = [
        [1, 2, 3],
        [1, 3, 2],
        [2, 1, 3],
        [2, 3, 1],
        [3, 1, 2],
        [3, 2, 1],
    ];
    let originator = |id: u8| attribute(0x80, 9, &[id, 0, 0, 1]);
    for order in orders {
        let mut lab = Lab::established(&["d"]);
        lab.establish_with("c", &[1, 4, 0, 1, 0, 1, 2, 0, 69, 4, 0, 1, 1, 3]);
        for path in order {
            if path == 3 {
                say(&mut lab, "d", &[as_path(&[2]), originator(2)]);
                continue;
            }
            let (value, id) = if path == 1 { (10, 1) } else { (5, 9) };
            let mut list = usual("c");
            list[1] = as_path(&[1]);
            list.extend([med(value), originator(id)]);
            let nlri = [&[0, 0, 0, path][..], &nlri(&[ROUTE])].concat();
            lab.say("c", &update(&[], &list.concat(), &nlri));
        }
        assert_eq!(
            best(&lab),
            ("d".to_owned(), Some(Step::RouterId)),
            "{order:?}"
        );
    }
}

#[test]
fn d13_a_missing_med_is_zero_or_where_configured_the_worst() {
    let lab = |worst| {
        let mut lab = Lab::with(|config| config.missing_med_as_worst = worst);
        lab.establish(&["c", "d"]);
        say(&mut lab, "c", &[]);
        say(&mut lab, "d", &[med(1)]);
        lab
    };
    assert_eq!(best(&lab(false)), ("c".to_owned(), Some(Step::Med)));
    assert_eq!(best(&lab(true)), ("d".to_owned(), Some(Step::Med)));
}

#[test]
fn med_counts_between_different_ass_only_where_configured() {
    let lab = |always| {
        let mut lab = Lab::with(|config| config.always_compare_med = always);
        lab.establish(&["c", "d"]);
        say(&mut lab, "c", &[med(2)]);
        say(&mut lab, "d", &[as_path(&[65_001]), med(1)]);
        lab
    };
    let without = lab(false);
    assert_eq!(best(&without), ("c".to_owned(), Some(Step::RouterId)));
    assert_eq!(used(&without), names(&["c", "d"]));
    let with = lab(true);
    assert_eq!(best(&with), ("d".to_owned(), Some(Step::Med)));
    assert_eq!(used(&with), names(&["d"]));
}

#[test]
fn d14_the_originator_stands_for_the_identifier_of_the_peer() {
    let originator = attribute(0x80, 9, &[10, 0, 0, 9]);
    d_wins_by(Step::RouterId, |_| (), &[], &[originator]);
}

#[test]
fn d15_the_shorter_cluster_list_wins_between_equal_originators() {
    let originator = attribute(0x80, 9, &[10, 0, 0, 9]);
    let clusters = |count: u8| {
        let list: Vec<u8> = (1..=count).flat_map(|number| [9, 9, 9, number]).collect();
        attribute(0x80, 10, &list)
    };
    d_wins_by(
        Step::ClusterListLength,
        |_| (),
        &[originator.clone(), clusters(2)],
        &[originator, clusters(1)],
    );
}

// ---- next hops ----------------------------------------------------------------------------------------------------

/// A speaker that tracks next hops, of which it knows nothing yet.
fn tracking(names: &[&'static str], change: impl Fn(&mut SpeakerConfig)) -> Lab {
    let mut lab = Lab::forwarding(|config| {
        config.next_hop_tracking = true;
        change(config);
    });
    lab.establish(names);
    lab
}

fn asked(lab: &mut Lab) -> Vec<NextHopInterest> {
    std::iter::from_fn(|| lab.speaker.poll_next_hop()).collect()
}

#[test]
fn d16_a_lost_next_hop_gives_way_to_the_next_path_and_comes_back() {
    let mut lab = tracking(&["b", "c", "d"], |_| ());
    for name in ["c", "d"] {
        say(&mut lab, name, &[]);
    }
    // Nobody has said anything: nothing is used, and nobody told.
    assert_eq!(best(&lab).0, "nobody");
    lab.lacks("b", ROUTE);
    lab.tell(&[("c", Some(0)), ("d", Some(0))]);
    assert_eq!(best(&lab).0, "c");
    lab.holds("b", ROUTE);
    lab.tell(&[("c", None)]);
    assert_eq!(best(&lab).0, "d");
    let lost = lab.paths_of(ROUTE);
    let lost = lost.iter().find(|path| path.from == "c");
    assert_eq!(
        lost.and_then(|path| path.unusable),
        Some(Unusable::Unreachable)
    );
    lab.tell(&[("c", Some(0))]);
    assert_eq!(best(&lab).0, "c");
    lab.tell(&[("c", None), ("d", None)]);
    lab.lacks("b", ROUTE);
}

#[test]
fn each_next_hop_is_asked_about_once() {
    let mut lab = tracking(&["b", "c", "d"], |_| ());
    for name in ["c", "d"] {
        say(&mut lab, name, &[]);
    }
    let asked = asked(&mut lab);
    assert_eq!(asked.len(), 2);
    for name in ["c", "d"] {
        assert!(asked.contains(&NextHopInterest::Watch(hop_of(name))));
    }
}

#[test]
fn only_routes_by_a_next_hop_that_changed_are_decided_anew() {
    let mut lab = tracking(&["c", "d"], |_| ());
    say(&mut lab, "c", &[]);
    lab.say("d", &announce("d", &["10.2.0.0/16"]));
    lab.tell(&[("c", Some(0)), ("d", Some(0))]);
    lab.forwarded();
    lab.tell(&[("c", None), ("d", Some(0))]);
    let changed: Vec<_> = lab.forwarded().iter().map(|told| told.prefix).collect();
    assert_eq!(changed, [prefix(ROUTE)]);
}

#[test]
fn what_nobody_names_any_more_is_forgotten() {
    let mut lab = tracking(&["c"], |_| ());
    say(&mut lab, "c", &[]);
    assert_eq!(asked(&mut lab), [NextHopInterest::Watch(hop_of("c"))]);
    lab.say("c", &withdraw(&[ROUTE]));
    assert_eq!(asked(&mut lab), [NextHopInterest::Forget(hop_of("c"))]);
}

#[test]
fn tracking_begins_and_ends_under_running_sessions() {
    let mut lab = Lab::forwarding(|_| ());
    lab.establish(&["c"]);
    say(&mut lab, "c", &[]);
    assert_eq!(best(&lab).0, "c");
    for (tracking, wanted) in [(true, "nobody"), (false, "c")] {
        lab.configure(|config| config.next_hop_tracking = tracking);
        assert_eq!(best(&lab).0, wanted);
    }
    assert_eq!(lab.peer("c").established_count, 1);
}

#[test]
fn d17_a_default_route_reaches_a_next_hop_only_where_allowed() {
    for (allowed, wanted) in [(true, "c"), (false, "nobody")] {
        let mut lab = tracking(&["c"], |config| config.resolve_via_default = allowed);
        say(&mut lab, "c", &[]);
        lab.tell_default("c");
        assert_eq!(best(&lab).0, wanted);
    }
}

// ---- several paths at once ----------------------------------------------------------------------------------------

#[test]
fn d19_paths_through_different_ass_are_equal_only_when_relaxed() {
    for (relax, wanted) in [(true, names(&["a", "b"])), (false, names(&["a"]))] {
        let mut lab = Lab::with(|config| config.multipath_relax = relax);
        lab.establish(&["a", "b"]);
        for name in ["a", "b"] {
            lab.say(name, &announce(name, &[ROUTE]));
        }
        assert_eq!(used(&lab), wanted);
    }
}

#[test]
fn d20_one_next_hop_counts_once() {
    let mut lab = Lab::established(&["c", "d"]);
    let third = attribute(0x40, 3, &[192, 0, 2, 77]);
    for name in ["c", "d"] {
        say(&mut lab, name, std::slice::from_ref(&third));
    }
    assert_eq!(used(&lab), names(&["c"]));
}

#[test]
fn d22_external_and_internal_paths_are_not_mixed() {
    let mut lab = Lab::established(&["a", "c", "d"]);
    lab.say("a", &announce("a", &[ROUTE]));
    for name in ["c", "d"] {
        say(&mut lab, name, &[]);
    }
    assert_eq!(used(&lab), names(&["a"]));
}

#[test]
fn d23_a_fresh_path_is_used_without_the_long_lived_stale_ones() {
    let mut lab = Lab::established(&["a", "c", "d"]);
    say(&mut lab, "c", &[community(LLGR_STALE)]);
    say(&mut lab, "d", &[community(LLGR_STALE)]);
    // Between themselves they are equal.
    assert_eq!(used(&lab), names(&["c", "d"]));
    lab.say("a", &announce("a", &[ROUTE]));
    assert_eq!(used(&lab), names(&["a"]));
}

/// Two neighbours by whose paths the route is forwarded.
fn shared(of_c: &[Vec<u8>], of_d: &[Vec<u8>]) -> Lab {
    let mut lab = Lab::forwarding(|_| ());
    lab.establish(&["c", "d"]);
    lab.tell(&[("c", Some(0)), ("d", Some(0))]);
    say(&mut lab, "c", of_c);
    say(&mut lab, "d", of_d);
    lab
}

#[test]
fn d24_a_member_that_goes_is_one_change_that_keeps_the_others() {
    let mut lab = shared(&[], &[]);
    let both = ["c", "d"].map(|name| hop_of(name).address);
    let before = lab.forwarded().pop().expect("a change");
    assert_eq!(before.next_hops, both);
    // The best of the two, so that more than its place among the next hops changes.
    lab.say("c", &withdraw(&[ROUTE]));
    let changes = lab.forwarded();
    let [change] = changes.as_slice() else {
        panic!("{changes:?}");
    };
    assert_eq!(change.next_hops, both[1..]);
}

#[test]
fn whoever_forwards_is_told_the_local_pref_of_the_best_path() {
    let mut lab = shared(&[], &[attribute(0x40, 5, &[0, 0, 0, 99])]);
    lab.news.clear();
    lab.say("c", &withdraw(&[ROUTE]));
    let [TableEvent::Changes(changes)] = &lab.news[..] else {
        panic!("{:?}", *lab.news);
    };
    let best = changes[0].best.as_ref().expect("a route");
    assert_eq!(best.local_pref, LocalPref(99));
}

#[test]
fn traffic_is_shared_by_link_bandwidth_where_every_path_has_one_and_that_is_asked_for() {
    let bandwidth = |octets: f32| {
        let mut value = vec![0x40, 4, 0xfd, 0xe8];
        value.extend(octets.to_be_bytes());
        attribute(0xc0, 16, &value)
    };
    let mut lab = shared(&[bandwidth(1e9)], &[bandwidth(4e9)]);
    let weights = |lab: &mut Lab| {
        let last = lab.forwarded().pop().expect("a change");
        assert_eq!(last.next_hops.len(), 2);
        last.weights
    };
    assert!(weights(&mut lab).is_empty());
    lab.configure(|config| config.weighted_multipath = true);
    assert_eq!(weights(&mut lab), [64, 255]);
    // Another bandwidth is another share, although the next hops stay.
    say(&mut lab, "c", &[bandwidth(2e9)]);
    assert_eq!(weights(&mut lab), [128, 255]);
    say(&mut lab, "c", &[]);
    assert!(weights(&mut lab).is_empty());
}

#[test]
fn d25_of_two_paths_of_one_peer_the_lower_identifier_wins() {
    let mut lab = Lab::new();
    lab.establish_with(
        "a",
        &[1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0, 69, 4, 0, 1, 1, 3],
    );
    for id in [8_u32, 7, 9] {
        let nlri = [&id.to_be_bytes()[..], &nlri(&[ROUTE])].concat();
        lab.say("a", &update(&[], &usual("a").concat(), &nlri));
    }
    let paths = lab.paths_of(ROUTE);
    let best = paths.iter().find(|path| path.best).expect("a path");
    assert_eq!((best.path_id, best.step), (Some(7), Some(Step::PathId)));
}

#[test]
fn one_router_over_two_links_is_chosen_by_name_whatever_came_first() {
    const OVER: &str = "fd01::/16";
    const LINKED: [(&str, u32); 2] = [("a", 8), ("b", 7)];
    let on = |link, last, port| {
        let address = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last);
        SocketAddr::V6(SocketAddrV6::new(address, port, 0, link))
    };
    for order in [LINKED, [LINKED[1], LINKED[0]]] {
        let mut lab = Lab::with(|config| {
            config.peers.truncate(LINKED.len());
            for (peer, (_, link)) in config.peers.iter_mut().zip(LINKED) {
                peer.remote = Remote::Address(on(link, 2, 179));
                peer.next_hop_address = Some(own_address().ip());
                peer.asn = Asn(64600).into();
            }
        });
        for (name, link) in order {
            lab.connect_from(name, on(link, 2, 40_000), on(link, 1, 179));
            lab.say(name, &open(64600, address_of("a"), 90, USUAL));
            lab.say(name, &KEEPALIVE);
            let mut reach = vec![0, 2, 1, 16, 0xfe, 0x80];
            reach.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
            reach.extend(nlri(&[OVER]));
            let mut list = usual("a");
            list.push(attribute(0x80, 14, &reach));
            lab.say(name, &update(&[], &list.concat(), &[]));
        }
        let paths = lab.paths_of(OVER);
        let best = paths.iter().find(|path| path.best).expect("a path");
        assert_eq!(paths.len(), 2);
        assert_eq!((&*best.from, best.step), ("a", Some(Step::PeerName)));
        // Under another name its session goes on, and counts as that.
        lab.configure(|config| "c".clone_into(&mut config.peers[0].name));
        lab.rename("a", "c");
        let paths = lab.paths_of(OVER);
        let best = paths.iter().find(|path| path.best).expect("a path");
        assert_eq!(paths.len(), 2);
        assert_eq!((&*best.from, best.step), ("b", Some(Step::PeerName)));
        assert_eq!(lab.peer("c").established_count, 1);
        // Another link under a name is another neighbour, and the name of one whose link is not there any more is free.
        lab.configure(|config| {
            config.peers[0].remote = Remote::Address(on(9, 2, 179));
            "d".clone_into(&mut config.peers[0].name);
            "c".clone_into(&mut config.peers[1].name);
        });
        assert!(lab.ends["c"].closed);
        lab.put_aside("c");
        lab.rename("b", "c");
        assert_eq!(lab.paths_of(OVER).len(), 1);
        assert_eq!(lab.peer("c").established_count, 1);
        lab.assert_established("c");
    }
}
