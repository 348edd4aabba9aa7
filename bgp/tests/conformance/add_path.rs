//! Several paths of a prefix from one peer (RFC 7911).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use margay_bgp::codec::Message;
use margay_bgp::family::Family;
use margay_bgp::speaker::config::AddPathSend;

use super::{Lab, attribute, nlri, update, usual, usual_but};

const ROUTE: &str = "10.1.0.0/16";
/// Both families; ADD-PATH for IPv4 in both directions.
const ADD_PATH: &[u8] = &[1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0, 69, 4, 0, 1, 1, 3];

fn with_id(id: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &nlri(&[ROUTE])].concat()
}

fn other_with_id(id: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &nlri(&["10.2.0.0/16"])].concat()
}

fn path(id: u32, med: u8) -> Vec<u8> {
    let med = attribute(0x80, 4, &[0, 0, 0, med]);
    update(&[], &usual_but("a", &med), &with_id(id))
}

fn lab() -> Lab {
    let mut lab = Lab::established(&["c"]);
    lab.establish_with("a", ADD_PATH);
    lab
}

#[track_caller]
fn assert_med(lab: &Lab, med: u32) {
    assert_eq!(lab.holds("c", ROUTE).0.med.map(|value| value.0), Some(med));
}

#[test]
fn p1_p3_paths_come_and_go_by_their_identifier() {
    let mut lab = lab();
    lab.say("a", &path(7, 10));
    lab.say("a", &path(8, 20));
    assert_eq!(lab.peer("a").families[0].received, 2);
    assert_med(&lab, 10);
    lab.say("a", &update(&with_id(7), &[], &[]));
    assert_med(&lab, 20);
    lab.say("a", &update(&with_id(8), &[], &[]));
    lab.lacks("c", ROUTE);
}

#[test]
fn p2_p4_the_same_identifier_replaces_and_zero_is_one() {
    let mut lab = lab();
    lab.say("a", &path(0, 10));
    lab.say("a", &path(0, 20));
    assert_eq!(lab.peer("a").families[0].received, 1);
    assert_med(&lab, 20);
}

/// How often the neighbour was asked for its routes since this was last looked at.
fn asked(lab: &mut Lab) -> usize {
    let told = lab.told("a");
    let refreshes = told
        .iter()
        .filter(|message| matches!(message, Message::RouteRefresh(_)));
    refreshes.count()
}

fn is_warned(lab: &Lab) -> bool {
    !lab.peer("a").warnings.is_empty()
}

/// The neighbour has as many paths of a prefix as are kept, said two more, better ones, and took one of them back.
fn crowded() -> Lab {
    let mut lab = lab();
    for id in 1..=64 {
        lab.say("a", &path(id, 10));
    }
    assert!(!is_warned(&lab));
    lab.say("a", &path(65, 1));
    lab.say("a", &path(66, 1));
    assert!(is_warned(&lab), "{:?}", lab.peer("a").warnings);
    assert_eq!(lab.peer("a").excess_paths, 2);
    assert_med(&lab, 10);
    // Room elsewhere is none for these.
    lab.say("a", &update(&[], &usual("a").concat(), &other_with_id(1)));
    lab.say("a", &update(&other_with_id(1), &[], &[]));
    assert_eq!(asked(&mut lab), 0);
    lab.say("a", &update(&with_id(7), &[], &[]));
    lab
}

#[test]
fn more_paths_of_a_prefix_than_are_kept_are_told_of_and_asked_for_when_there_is_room() {
    let mut lab = crowded();
    assert_eq!(asked(&mut lab), 1);
    assert!(!is_warned(&lab));
    // It repeats what it has; one path is still too many.
    for id in [65, 66] {
        lab.say("a", &path(id, 1));
    }
    assert!(is_warned(&lab));
    assert_med(&lab, 1);
    // Nobody is asked all the time.
    lab.say("a", &update(&with_id(8), &[], &[]));
    assert_eq!(asked(&mut lab), 0);
}

#[test]
fn paths_there_was_no_room_for_are_asked_for_once_a_minute() {
    let mut lab = crowded();
    for id in [65, 66] {
        lab.say("a", &path(id, 1));
    }
    lab.say("a", &update(&with_id(8), &[], &[]));
    assert_eq!(asked(&mut lab), 1);
    lab.advance(Duration::from_secs(60), &[]);
    assert_eq!(asked(&mut lab), 1);
    lab.say("a", &path(66, 1));
    assert!(!is_warned(&lab));
    assert_eq!(lab.peer("a").families[0].received, 64);
}

#[test]
fn p5_a_family_without_add_path_has_no_identifiers() {
    let mut lab = lab();
    let mut reach = vec![0, 2, 1, 16];
    reach.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    reach.extend(nlri(&["fd01::/16"]));
    lab.say(
        "a",
        &update(&[], &usual_but("a", &attribute(0x80, 14, &reach)), &[]),
    );
    lab.holds("c", "fd01::/16");
}

#[test]
fn p6_without_sending_configured_nothing_goes_out_with_an_identifier() {
    let mut lab = lab();
    lab.say("c", &super::announce("c", &[ROUTE]));
    lab.holds("a", ROUTE);
}

/// `d` is told several paths, for IPv4; of `c`, `a` and `b` come the paths.
fn sending(which: AddPathSend) -> Lab {
    let mut lab = Lab::with(|config| config.peers[3].add_path_send = Some(which));
    lab.establish(&["a", "b", "c"]);
    // ADD-PATH for IPv4: it takes them.
    let takes = &[1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0, 69, 4, 0, 1, 1, 1];
    lab.establish_with("d", takes);
    lab.told("d");
    lab
}

/// What `d` holds of a prefix after these messages: the next hop by identifier.
fn take(held: &mut BTreeMap<u32, IpAddr>, messages: Vec<Message>) {
    for message in messages {
        let Message::Update(update) = message else {
            panic!("{message:?}");
        };
        for nlri in &update.withdrawn {
            let id = nlri.path_id.expect("an identifier");
            assert!(held.remove(&id.0).is_some(), "withdrawn twice: {id:?}");
        }
        for announcement in &update.announced {
            for nlri in &announcement.nlri {
                let id = nlri.path_id.expect("an identifier");
                held.insert(id.0, announcement.next_hop.addr());
            }
        }
    }
}

fn hops(held: &BTreeMap<u32, IpAddr>) -> BTreeSet<IpAddr> {
    held.values().copied().collect()
}

fn via(names: &[&str]) -> BTreeSet<IpAddr> {
    names
        .iter()
        .map(|name| IpAddr::V4(super::address_of(name)))
        .collect()
}

#[test]
fn p6_identifiers_go_out_to_a_peer_that_takes_them_and_none_come_in() {
    let mut lab = sending(AddPathSend::All);
    // Without identifiers, as it only takes them.
    lab.say("d", &super::announce("d", &["10.9.0.0/16"]));
    lab.holds("a", "10.9.0.0/16");
    lab.say("a", &super::announce("a", &[ROUTE]));
    lab.say("b", &super::announce("b", &[ROUTE]));
    let mut held = BTreeMap::new();
    take(&mut held, lab.told("d"));
    assert_eq!(hops(&held), via(&["a", "b"]));
}

#[test]
fn p7_identifiers_stay_over_changes_of_the_best_path_and_repetitions() {
    let mut lab = sending(AddPathSend::All);
    lab.say("a", &super::announce("a", &[ROUTE]));
    lab.say("b", &super::announce("b", &[ROUTE]));
    let mut held = BTreeMap::new();
    take(&mut held, lab.told("d"));
    let first = held.clone();
    // A third path becomes the best, and changes nothing for the others.
    lab.say("c", &super::announce("c", &[ROUTE]));
    take(&mut held, lab.told("d"));
    assert_eq!(hops(&held), via(&["a", "b", "c"]));
    assert!(first.iter().all(|(id, hop)| held.get(id) == Some(hop)));
    // What was the best is worse now: announced again under its own identifier, and nothing else is said.
    let long = super::as_path(&[64600, 64600, 64600]);
    lab.say("a", &update(&[], &usual_but("a", &long), &nlri(&[ROUTE])));
    let before = held.clone();
    let said = lab.told("d");
    assert_eq!(said.len(), 1);
    take(&mut held, said);
    assert_eq!(held, before);
    // The same once more is no news.
    lab.say("a", &update(&[], &usual_but("a", &long), &nlri(&[ROUTE])));
    assert!(lab.told("d").is_empty());
    // A path that goes is withdrawn under its identifier; the others stay untold.
    lab.say("b", &super::withdraw(&[ROUTE]));
    let said = lab.told("d");
    assert_eq!(said.len(), 1);
    take(&mut held, said);
    assert_eq!(hops(&held), via(&["a", "c"]));
    // A refresh repeats the same identifiers.
    let refresh = super::message(5, &[0, 1, 0, 1]);
    lab.say("d", &refresh);
    let before = held.clone();
    let repeated = lab.told("d");
    assert_eq!(repeated.len(), 2);
    take(&mut held, repeated);
    assert_eq!(held, before);
}

#[test]
fn p8_end_of_rib_has_no_identifier() {
    let mut lab = Lab::with(|config| config.peers[3].add_path_send = Some(AddPathSend::All));
    lab.establish(&["a"]);
    lab.say("a", &super::announce("a", &[ROUTE]));
    lab.establish_with("d", &[1, 4, 0, 1, 0, 1, 2, 0, 69, 4, 0, 1, 1, 1]);
    let told = lab.told("d");
    let ends: Vec<_> = told.iter().filter_map(super::is_end_of_rib).collect();
    assert_eq!(ends, [Family::IPV4_UNICAST]);
    assert_eq!(
        told.last().and_then(super::is_end_of_rib),
        Some(Family::IPV4_UNICAST)
    );
}

#[test]
fn the_best_two_are_told_and_the_next_best_takes_the_place_of_one_that_goes() {
    let mut lab = sending(AddPathSend::Best(2.try_into().unwrap()));
    for (name, length) in [("a", 3), ("b", 2), ("c", 1)] {
        let path = super::as_path(&vec![super::asn_of(name); length]);
        let path = if name == "c" {
            super::as_path(&[65_000])
        } else {
            path
        };
        lab.say(name, &update(&[], &usual_but(name, &path), &nlri(&[ROUTE])));
    }
    let mut held = BTreeMap::new();
    take(&mut held, lab.told("d"));
    assert_eq!(hops(&held), via(&["b", "c"]));
    lab.say("c", &super::withdraw(&[ROUTE]));
    take(&mut held, lab.told("d"));
    assert_eq!(hops(&held), via(&["a", "b"]));
}

#[test]
fn a_change_of_what_is_told_says_only_the_difference_and_needs_no_new_session() {
    let mut lab = sending(AddPathSend::All);
    lab.say("a", &super::announce("a", &[ROUTE]));
    lab.say("b", &super::announce("b", &[ROUTE]));
    let mut held = BTreeMap::new();
    take(&mut held, lab.told("d"));
    let all = held.clone();
    for (which, hold) in [
        (AddPathSend::Best(1.try_into().unwrap()), 1),
        (AddPathSend::All, 2),
    ] {
        lab.configure(|config| config.peers[3].add_path_send = Some(which));
        take(&mut held, lab.told("d"));
        assert_eq!(held.len(), hold);
        assert!(held.iter().all(|(id, hop)| all.get(id) == Some(hop)));
    }
    assert_eq!(lab.peer("d").established_count, 1);
}

#[test]
fn a_peer_is_not_told_its_own_paths_among_the_others() {
    let mut lab = Lab::with(|config| config.peers[3].add_path_send = Some(AddPathSend::All));
    lab.establish(&["a"]);
    lab.establish_with("d", ADD_PATH);
    lab.told("d");
    lab.say("a", &super::announce("a", &[ROUTE]));
    lab.say("d", &update(&[], &usual("d").concat(), &with_id(5)));
    let mut held = BTreeMap::new();
    take(&mut held, lab.told("d"));
    assert_eq!(hops(&held), via(&["a"]));
}

#[test]
fn p9_an_identifier_cut_off_resets_with_3_10() {
    let mut lab = lab();
    lab.say("a", &update(&[], &usual("a").concat(), &[0, 0, 0]));
    lab.assert_ended("a", 3, 10, &[]);
}
