//! Callers from a range: what is held against them when they left, and whom they keep out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use margay_bgp::codec::{Capability, Message};
use margay_bgp::fsm::State;
use margay_bgp::policy::Policy;
use margay_bgp::speaker::config::{LimitAction, MaximumPrefixes, PeerConfig, Remote};
use margay_bgp::speaker::events::PeerEventKind;

use super::{
    KEEPALIVE, Lab, Reception, SECOND, USUAL, announce, message, nlri, open, over_tcp, own_address,
    paced, prefix, update, usual,
};

/// Neighbour `a` is anybody of 10.9.0.0/24.
pub(super) fn ranged(change: impl FnOnce(&mut PeerConfig)) -> Lab {
    let mut lab = Lab::with(|config| {
        config.peers[0].remote = Remote::Range(prefix("10.9.0.0/24"));
        change(&mut config.peers[0]);
    });
    lab.establish(&["b"]);
    lab
}

pub(super) fn caller(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 9, 0, number], 40_000))
}

pub(super) fn call(lab: &mut Lab, number: u8) {
    lab.connect_from("a", caller(number), own_address());
}

/// Calls, is a neighbour, and announces so many prefixes.
pub(super) fn announce_of(lab: &mut Lab, number: u8, prefixes: &[&str]) {
    call(lab, number);
    let id = Ipv4Addr::new(10, 9, 0, number);
    lab.say("a", &open(64600, id, 90, USUAL));
    lab.say("a", &KEEPALIVE);
    lab.say("a", &update(&[], &usual("a").concat(), &nlri(prefixes)));
}

/// Calls and says what is no message.
fn misbehave(lab: &mut Lab, number: u8) {
    call(lab, number);
    lab.say("a", &message(9, &[]));
    lab.assert_ended("a", 1, 3, &[9]);
    lab.put_aside("a");
}

fn is_taken(lab: &mut Lab, number: u8) -> bool {
    lab.reception(caller(number).ip()) == Reception::Taken
}

fn callers(lab: &Lab) -> usize {
    lab.known().iter().filter(|(_, dynamic)| *dynamic).count()
}

#[test]
fn f18_a_caller_over_its_limit_stays_out_as_long_as_a_neighbour_with_a_name_would() {
    for (action, pause) in [
        (LimitAction::Close, None),
        (LimitAction::Restart(paced(30, 4)), Some(30)),
    ] {
        let mut lab = ranged(|peer| {
            peer.maximum_prefixes = Some(MaximumPrefixes { limit: 2, action });
        });
        announce_of(&mut lab, 1, &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]);
        lab.assert_ended("a", 6, 1, &[0, 1, 1, 0, 0, 0, 2]);
        lab.put_aside("a");
        lab.lacks("b", "10.1.0.0/16");
        lab.advance(paced(29, 1), &[]);
        assert!(!is_taken(&mut lab, 1));
        lab.advance(paced(1, 3), &[]);
        assert_eq!(is_taken(&mut lab, 1), pause.is_some());
    }
}

#[test]
fn f18_an_operator_clears_a_caller_over_its_limit_by_the_name_of_its_range() {
    let mut lab = ranged(|peer| {
        peer.maximum_prefixes = Some(MaximumPrefixes {
            limit: 1,
            action: LimitAction::Close,
        });
    });
    announce_of(&mut lab, 1, &["10.1.0.0/16", "10.2.0.0/16"]);
    lab.put_aside("a");
    lab.advance(paced(3_600, 1), &[]);
    assert!(!is_taken(&mut lab, 1));
    lab.clear("a");
    assert_eq!(callers(&lab), 0);
    announce_of(&mut lab, 1, &["10.1.0.0/16"]);
    lab.holds("b", "10.1.0.0/16");
}

#[test]
fn f18_another_limit_or_policy_for_a_range_takes_back_what_was_held_against_its_callers() {
    let limit = |limit| {
        Some(MaximumPrefixes {
            limit,
            action: LimitAction::Close,
        })
    };
    let mut lab = ranged(|peer| peer.maximum_prefixes = limit(1));
    announce_of(&mut lab, 1, &["10.1.0.0/16", "10.2.0.0/16"]);
    lab.put_aside("a");
    lab.configure(|config| {
        config.peers[0].import = Arc::new(Policy::reject_all());
    });
    assert!(!is_taken(&mut lab, 1), "that is another matter");
    lab.configure(|config| {
        config.peers[0].import = Arc::new(Policy::accept_all());
        config.peers[0].maximum_prefixes = limit(2);
    });
    assert_eq!(callers(&lab), 0);
    announce_of(&mut lab, 1, &["10.1.0.0/16", "10.2.0.0/16"]);
    lab.holds("b", "10.2.0.0/16");
}

#[test]
fn f15_a_caller_rests_longer_after_each_error_and_fills_no_log() {
    let mut lab = ranged(|_| ());
    for rest in [1, 2, 4, 8, 16, 32, 60] {
        misbehave(&mut lab, 1);
        lab.advance((rest - 1) * SECOND, &[]);
        for _ in 0..100 {
            assert!(!is_taken(&mut lab, 1), "after {rest} s");
        }
        lab.advance(SECOND, &[]);
    }
    let told = lab.speaker.events_after(0);
    let of = |wanted: fn(&PeerEventKind) -> bool| {
        told.iter().filter(|event| wanted(&event.kind)).count()
    };
    assert_eq!(of(|kind| matches!(kind, PeerEventKind::Removed(_))), 0);
    // Seven errors within ten seconds of each other at first.
    let malformed = of(|kind| matches!(kind, PeerEventKind::Malformed { .. }));
    assert_eq!(malformed, 4);
    // It is forgotten in the end.
    lab.advance(61 * SECOND, &[]);
    assert_eq!(callers(&lab), 0);
}

#[test]
fn callers_that_did_wrong_keep_nobody_out() {
    let mut lab = ranged(|peer| {
        peer.dynamic_limit = 2;
        peer.half_open_limit = 1;
        peer.idle_hold = 60 * SECOND;
    });
    misbehave(&mut lab, 1);
    lab.advance(SECOND, &[]);
    misbehave(&mut lab, 2);
    assert_eq!(callers(&lab), 2);
    announce_of(&mut lab, 3, &["10.1.0.0/16"]);
    lab.holds("b", "10.1.0.0/16");
    assert_eq!(callers(&lab), 2);
    // The one that did so last is still out.
    assert!(!is_taken(&mut lab, 2));
}

#[test]
fn one_caller_more_than_there_may_be_is_told_nothing() {
    let mut lab = ranged(|peer| peer.dynamic_limit = 1);
    announce_of(&mut lab, 1, &["10.1.0.0/16"]);
    // It keeps its connection while others try.
    lab.rename("a", "first");
    assert_eq!(lab.reception(caller(2).ip()), Reception::Silence);
    // As is a stranger.
    let stranger = IpAddr::from([10, 8, 0, 1]);
    assert_eq!(lab.reception(stranger), Reception::Silence);
    lab.rename("first", "a");
    assert!(lab.known().contains(&("a-10.9.0.1".to_owned(), true)));
    lab.say("a", &announce("a", &["10.2.0.0/16"]));
    lab.holds("b", "10.2.0.0/16");
}

/// Caller 1 comes, only to help us restart: whether it is told that our forwarding went on.
pub(super) fn helps(lab: &mut Lab, name: &str) -> bool {
    call(lab, 1);
    let told = lab.told("a");
    let [Message::Open(ours)] = &told[..] else {
        panic!("{told:?}");
    };
    let families = ours.capabilities.iter().find_map(|capability| {
        if let Capability::GracefulRestart(restart) = capability {
            Some(&restart.families)
        } else {
            None
        }
    });
    let helper = [USUAL, &[64, 2, 0, 120]].concat();
    lab.say("a", &open(64600, [10, 9, 0, 1].into(), 90, &helper));
    lab.say("a", &KEEPALIVE);
    if !over_tcp() {
        assert_eq!(lab.peer(name).state, State::Established);
    }
    families.unwrap().iter().all(|family| family.forwarding)
}

/// The same, and it leaves.
fn comes_to_help(lab: &mut Lab) -> bool {
    let forwarding = helps(lab, "a-10.9.0.1");
    lab.cut("a");
    lab.soon("nothing of it is here", |lab| callers(lab) == 0);
    forwarding
}

#[test]
fn g16_a_caller_that_was_here_is_told_that_what_it_keeps_of_ours_is_still_forwarded() {
    let mut lab = ranged(|_| ());
    assert!(!comes_to_help(&mut lab), "that may be of an earlier life");
    assert!(comes_to_help(&mut lab));
    // Nothing shortens that.
    if over_tcp() {
        return;
    }
    lab.advance(119 * SECOND, &[]);
    assert!(comes_to_help(&mut lab));
    // It keeps nothing for so long.
    lab.advance(121 * SECOND, &[]);
    assert!(!comes_to_help(&mut lab));
}

#[test]
fn a_caller_is_no_neighbour_that_is_expected_to_call() {
    let mut lab = ranged(|_| ());
    misbehave(&mut lab, 1);
    lab.advance(60 * SECOND, &[]);
    let snapshot = lab.speaker.snapshot(lab.now);
    let caller = snapshot.peers.iter().find(|peer| peer.dynamic).unwrap();
    assert!(caller.warnings.is_empty(), "{:?}", caller.warnings);
}
