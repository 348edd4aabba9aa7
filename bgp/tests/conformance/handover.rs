//! A caller from a range that is configured by its address while it is here, one that no longer is, and a peer whose name changes.

use std::net::SocketAddr;
use std::sync::Arc;

use margay_bgp::codec::HoldTime;
use margay_bgp::fsm::State;
use margay_bgp::policy::{Condition, Policy, Rule, Verdict};
use margay_bgp::speaker::Accepted;
use margay_bgp::speaker::config::{Listen, PeerConfig, Remote, SpeakerConfig};
use margay_bgp::speaker::events::PeerEventKind;

use super::ranges::{announce_of, call, caller, helps, ranged};
use super::refresh::GRACEFUL;
use super::{
    KEEPALIVE, Lab, SECOND, USUAL, announce, message, nlri, open, over_tcp, own_address, prefix,
    update, usual,
};

const FIRST: &str = "10.1.0.0/16";
const SECOND_ROUTE: &str = "10.2.0.0/16";

/// The peer `named` at 10.9.0.1, configured as callers from the range are, but for `change`.
fn named(config: &mut SpeakerConfig, change: impl FnOnce(&mut PeerConfig)) {
    let mut peer = config.peers[0].clone();
    peer.name = "named".to_owned();
    peer.remote = Remote::Address(SocketAddr::from(([10, 9, 0, 1], 179)));
    peer.passive = false;
    // One neighbour is one.
    peer.dynamic_limit = config.peers[1].dynamic_limit;
    change(&mut peer);
    config.peers.push(peer);
}

/// Caller 1 has a session with these capabilities, and `b` was told its route.
fn called(capabilities: &[u8]) -> Lab {
    let mut lab = ranged(|_| ());
    call(&mut lab, 1);
    lab.say("a", &open(64600, [10, 9, 0, 1].into(), 90, capabilities));
    lab.say("a", &KEEPALIVE);
    lab.say("a", &announce("a", &[FIRST]));
    lab.holds("b", FIRST);
    lab.told("b");
    lab
}

/// Neighbours of 10.9.0.0/24: their names, and whether they called from a range.
fn those_of_the_range(lab: &Lab) -> Vec<(String, bool)> {
    let mut known = lab.known();
    known.retain(|(name, dynamic)| *dynamic || name == "named" || name.starts_with("a-"));
    known.sort();
    known
}

fn assert_only(lab: &Lab, name: &str, dynamic: bool) {
    assert_eq!(those_of_the_range(lab), [(name.to_owned(), dynamic)]);
}

#[test]
fn a_caller_that_is_given_a_name_keeps_its_session_and_is_dialled_by_nobody() {
    let mut lab = called(USUAL);
    lab.configure(|config| named(config, |_| ()));
    lab.rename("a", "named");
    assert_only(&lab, "named", false);
    let peer = lab.peer("named");
    assert_eq!(
        (peer.state, peer.established_count),
        (State::Established, 1)
    );
    assert!(lab.told("b").is_empty());
    // It goes on as before, and now that it has a name it is dialled when it is lost.
    lab.say("named", &announce("a", &[SECOND_ROUTE]));
    lab.holds("b", SECOND_ROUTE);
    if over_tcp() {
        return;
    }
    lab.advance(5 * SECOND, &[]);
    assert!(lab.dialled.is_empty());
    lab.cut("named");
    lab.lacks("b", FIRST);
    lab.advance(2 * SECOND, &[]);
    assert_eq!(lab.dialled.len(), 1);
}

#[test]
fn what_is_configured_for_the_name_holds_for_the_caller_that_is_here() {
    let mut lab = called(USUAL);
    lab.configure(|config| {
        named(config, |peer| peer.import = Arc::new(Policy::reject_all()));
    });
    lab.lacks("b", FIRST);
    lab.rename("a", "named");
    lab.assert_established("named");
    let mut lab = called(USUAL);
    lab.configure(|config| named(config, |peer| peer.enabled = false));
    lab.assert_ended("a", 6, 2, &[]);
    lab.lacks("b", FIRST);
    assert_only(&lab, "named", false);
}

#[test]
fn a_name_whose_session_is_another_one_resets_the_caller_which_is_taken_as_that_then() {
    let mut lab = called(GRACEFUL);
    lab.configure(|config| {
        named(config, |peer| {
            peer.hold_time = HoldTime::from_secs(30).unwrap();
            peer.passive = true;
        });
    });
    lab.assert_ended("a", 6, 6, &[]);
    // It is the same neighbour, so its routes are kept for its return.
    lab.holds("b", FIRST);
    lab.put_aside("a");
    announce_of(&mut lab, 1, &[FIRST]);
    assert_only(&lab, "named", false);
    assert_eq!(lab.peer("named").hold_time, Some(30 * SECOND));
}

#[test]
fn the_name_of_a_peer_that_goes_is_free_for_one_that_stays() {
    let mut lab = Lab::with(|_| ());
    lab.establish(&["a", "b", "c"]);
    lab.say("b", &announce("b", &[FIRST]));
    lab.holds("c", FIRST);
    lab.told("c");
    lab.configure(|config| {
        config.peers.remove(0);
        "a".clone_into(&mut config.peers[0].name);
    });
    lab.assert_ended("a", 6, 3, &[]);
    lab.put_aside("a");
    lab.rename("b", "a");
    lab.assert_established("a");
    assert_eq!(lab.peer("a").established_count, 1);
    assert!(lab.told("c").is_empty());
}

#[test]
fn a_name_taken_back_leaves_the_session_to_the_range() {
    let mut lab = ranged(|_| ());
    lab.configure(|config| named(config, |peer| peer.passive = true));
    announce_of(&mut lab, 1, &[FIRST]);
    lab.holds("b", FIRST);
    lab.told("b");
    lab.configure(|config| config.peers.retain(|peer| peer.name != "named"));
    assert_only(&lab, "a-10.9.0.1", true);
    assert!(lab.told("b").is_empty());
    lab.say("a", &announce("a", &[SECOND_ROUTE]));
    lab.holds("b", SECOND_ROUTE);
    // And it is what any caller is: gone when its connection is.
    lab.cut("a");
    lab.lacks("b", FIRST);
    assert_eq!(those_of_the_range(&lab), []);
}

/// `named` has a session and announced [`FIRST`].
fn named_session(with_range: bool) -> Lab {
    let mut lab = ranged(|_| ());
    lab.configure(|config| {
        named(config, |peer| peer.passive = true);
        if !with_range {
            config.peers.retain(|peer| peer.name != "a");
        }
    });
    announce_of(&mut lab, 1, &[FIRST]);
    lab.holds("b", FIRST);
    lab.told("b");
    lab
}

fn of(config: &SpeakerConfig, name: &str) -> usize {
    let mut peers = config.peers.iter();
    peers.position(|peer| peer.name == name).unwrap()
}

#[test]
fn a_peer_that_is_given_another_name_keeps_its_session_whatever_range_holds_it() {
    for with_range in [true, false] {
        let mut lab = named_session(with_range);
        lab.configure(|config| {
            let place = of(config, "named");
            config.peers[place].name = "a-new".to_owned();
            config.peers[place].passive = false;
        });
        lab.rename("a", "a-new");
        assert_only(&lab, "a-new", false);
        lab.assert_established("a-new");
        assert!(lab.told("b").is_empty());
        // It is this one's policy that holds, and nobody else is dialled.
        lab.configure(|config| {
            let place = of(config, "a-new");
            config.peers[place].import = Arc::new(Policy::reject_all());
        });
        lab.lacks("b", FIRST);
        if !over_tcp() {
            lab.advance(5 * SECOND, &[]);
            assert!(lab.dialled.is_empty());
        }
    }
}

#[test]
fn a_name_for_another_port_of_the_same_host_is_another_peer() {
    let mut lab = named_session(true);
    lab.configure(|config| {
        let place = of(config, "named");
        let peer = &mut config.peers[place];
        peer.name = "a-new".to_owned();
        peer.remote = Remote::Address(SocketAddr::from(([10, 9, 0, 1], 1179)));
    });
    lab.assert_ended("a", 6, 3, &[]);
    lab.lacks("b", FIRST);
    assert_only(&lab, "a-new", false);
}

#[test]
fn peers_inside_a_range_that_swap_names_begin_anew_and_are_nobody_elses() {
    let mut lab = named_session(true);
    lab.rename("a", "first");
    lab.configure(|config| {
        named(config, |peer| {
            peer.name = "a-second".to_owned();
            peer.remote = Remote::Address(SocketAddr::from(([10, 9, 0, 2], 179)));
            peer.passive = true;
        });
    });
    announce_of(&mut lab, 2, &[SECOND_ROUTE]);
    lab.holds("b", SECOND_ROUTE);
    lab.configure(|config| {
        let (first, second) = (of(config, "named"), of(config, "a-second"));
        config.peers[first].name = "a-second".to_owned();
        config.peers[second].name = "named".to_owned();
    });
    lab.assert_ended("first", 6, 3, &[]);
    lab.assert_ended("a", 6, 3, &[]);
    lab.put_aside("a");
    let both = [("a-second".to_owned(), false), ("named".to_owned(), false)];
    assert_eq!(those_of_the_range(&lab), both);
    announce_of(&mut lab, 1, &[FIRST]);
    lab.holds("b", FIRST);
    assert_eq!(those_of_the_range(&lab), both);
}

/// One range for each of two addresses of ours.
fn at_two_addresses(own: [SocketAddr; 2]) -> Lab {
    let mut lab = Lab::with(|config| {
        config.listen = vec![Listen::from(SocketAddr::from(([0; 4], 179)))];
        config.peers[0].remote = Remote::Range(prefix("10.9.0.0/24"));
        let mut other = config.peers[0].clone();
        other.name = "a-else".to_owned();
        config.peers[0].local_address = Some(own[0].ip());
        other.local_address = Some(own[1].ip());
        config.peers.push(other);
    });
    lab.establish(&["b"]);
    lab
}

#[test]
fn of_a_caller_at_two_addresses_of_ours_one_session_goes_on_under_its_name() {
    let own = [[192, 0, 2, 1], [192, 0, 2, 9]].map(|own| SocketAddr::from((own, 179)));
    let mut lab = at_two_addresses(own);
    for (name, own, route) in [("c", own[0], FIRST), ("d", own[1], SECOND_ROUTE)] {
        lab.connect_from(name, caller(1), own);
        lab.say(name, &open(64600, [10, 9, 0, 1].into(), 90, USUAL));
        lab.say(name, &KEEPALIVE);
        lab.say(name, &announce("a", &[route]));
        lab.holds("b", route);
    }
    let callers = ["a-10.9.0.1", "a-else-10.9.0.1"].map(|name| (name.to_owned(), true));
    assert_eq!(those_of_the_range(&lab), callers);
    lab.configure(|config| {
        named(config, |peer| {
            (peer.passive, peer.local_address) = (true, None);
        });
    });
    lab.assert_ended("d", 6, 3, &[]);
    lab.lacks("b", SECOND_ROUTE);
    lab.holds("b", FIRST);
    assert_only(&lab, "named", false);
    // And it is that peer's alone.
    lab.configure(|config| {
        config
            .peers
            .retain(|peer| !peer.name.starts_with(['a', 'n']))
    });
    lab.assert_ended("c", 6, 3, &[]);
    lab.lacks("b", FIRST);
    assert_eq!(those_of_the_range(&lab), []);
}

#[test]
fn a_caller_takes_the_name_of_a_peer_that_was_looked_for_elsewhere_in_vain() {
    let mut lab = called(USUAL);
    lab.configure(|config| {
        named(config, |peer| {
            peer.remote = Remote::Address(SocketAddr::from(([10, 9, 0, 7], 179)));
            peer.passive = true;
        });
    });
    lab.configure(|config| {
        let place = of(config, "named");
        config.peers[place].remote = Remote::Address(SocketAddr::from(([10, 9, 0, 1], 179)));
    });
    lab.rename("a", "named");
    assert_only(&lab, "named", false);
    assert_eq!(lab.peer("named").established_count, 1);
    assert!(lab.told("b").is_empty());
}

#[test]
fn of_a_caller_at_two_addresses_of_ours_the_one_with_a_session_goes_on() {
    let own = [[192, 0, 2, 1], [192, 0, 2, 9]].map(|own| SocketAddr::from((own, 179)));
    let mut lab = at_two_addresses(own);
    lab.connect_from("c", caller(1), own[0]);
    lab.connect_from("d", caller(1), own[1]);
    lab.say("d", &open(64600, [10, 9, 0, 1].into(), 90, USUAL));
    lab.say("d", &KEEPALIVE);
    lab.say("d", &announce("a", &[SECOND_ROUTE]));
    lab.holds("b", SECOND_ROUTE);
    lab.configure(|config| {
        named(config, |peer| {
            (peer.passive, peer.local_address) = (true, None);
        });
    });
    lab.assert_ended("c", 6, 3, &[]);
    lab.holds("b", SECOND_ROUTE);
    assert_only(&lab, "named", false);
}

#[test]
fn a_name_taken_back_where_no_range_has_room_is_told_6_3() {
    for with_range in [true, false] {
        let mut lab = ranged(|peer| peer.dynamic_limit = 1);
        announce_of(&mut lab, 2, &[SECOND_ROUTE]);
        lab.rename("a", "other");
        lab.configure(|config| named(config, |peer| peer.passive = true));
        announce_of(&mut lab, 1, &[FIRST]);
        lab.configure(|config| {
            let goes = |name: &str| name == "named" || name == "a" && !with_range;
            config.peers.retain(|peer| !goes(&peer.name));
        });
        lab.assert_ended("a", 6, 3, &[]);
        lab.lacks("b", FIRST);
    }
}

#[test]
fn who_is_only_remembered_gives_way_to_a_neighbour_whose_name_is_taken_back() {
    let mut lab = ranged(|peer| {
        (peer.dynamic_limit, peer.idle_hold) = (1, 60 * SECOND);
    });
    call(&mut lab, 2);
    lab.say("a", &message(9, &[]));
    lab.assert_ended("a", 1, 3, &[9]);
    lab.put_aside("a");
    assert_only(&lab, "a-10.9.0.2", true);
    lab.configure(|config| named(config, |peer| peer.passive = true));
    announce_of(&mut lab, 1, &[FIRST]);
    lab.configure(|config| config.peers.retain(|peer| peer.name != "named"));
    lab.soon("its place", |lab| {
        those_of_the_range(lab) == [("a-10.9.0.1".to_owned(), true)]
    });
    lab.holds("b", FIRST);
}

#[test]
fn a_peer_that_is_named_as_a_caller_is_starts_and_the_caller_is_found_another_name() {
    let mut lab = ranged(|_| ());
    announce_of(&mut lab, 1, &[FIRST]);
    lab.configure(|config| {
        named(config, |peer| {
            peer.name = "a-10.9.0.1".to_owned();
            peer.remote = Remote::Address(SocketAddr::from(([10, 9, 0, 2], 179)));
            peer.passive = true;
        });
    });
    assert_only(&lab, "a-10.9.0.1", false);
    lab.put_aside("a");
    announce_of(&mut lab, 1, &[FIRST]);
    lab.holds("b", FIRST);
    let both = [
        ("a-10.9.0.1".to_owned(), false),
        ("a-10.9.0.1+".to_owned(), true),
    ];
    assert_eq!(those_of_the_range(&lab), both);
    // Neither is touched by a configuration that says the same.
    lab.configure(|_| ());
    assert_eq!(those_of_the_range(&lab), both);
    lab.rename("a", "a-10.9.0.1+");
    lab.assert_established("a-10.9.0.1+");
}

#[test]
fn a_call_is_that_of_the_peer_configured_by_its_address_before_it_is_anybodys_of_a_range() {
    let mut lab = called(GRACEFUL);
    // Old enough to give way to a call of its own after a restart.
    lab.rename("a", "a-10.9.0.1");
    lab.advance(10 * SECOND, &[]);
    let own = SocketAddr::from(([192, 0, 2, 77], 179));
    lab.configure(|config| {
        named(config, |peer| peer.local_address = Some(own.ip()));
    });
    // Whoever is here called another address of ours.
    let known = those_of_the_range(&lab);
    assert_eq!(known.len(), 2, "{known:?}");
    let Accepted::Peer(peer, _) = lab.speaker.accept(caller(1), own, lab.now) else {
        panic!("it is refused");
    };
    assert_eq!(lab.speaker.peer_config(peer).unwrap().name, "named");
    let Accepted::Peer(peer, _) = lab.speaker.accept(caller(1), own_address(), lab.now) else {
        panic!("it is refused");
    };
    assert_eq!(lab.speaker.peer_config(peer).unwrap().name, "a-10.9.0.1");
}

#[test]
fn a_change_of_hands_is_told_under_both_names() {
    let mut lab = called(USUAL);
    let told = |lab: &Lab, name: &str| -> Vec<String> {
        let events = lab.speaker.events_after(0);
        let of_name = events.iter().filter(|event| &*event.peer == name);
        of_name.map(|event| event.kind.to_string()).collect()
    };
    lab.configure(|config| named(config, |_| ()));
    let last = told(&lab, "a-10.9.0.1").pop().unwrap();
    assert_eq!(
        last,
        "removed: goes on as the peer that is configured by its address"
    );
    assert_eq!(told(&lab, "named"), ["Idle -> Established"]);
    lab.configure(|config| config.peers.retain(|peer| peer.name != "named"));
    let last = told(&lab, "named").pop().unwrap();
    assert!(last.starts_with("removed: no longer configured"), "{last}");
    let ended = |kind: &PeerEventKind| matches!(kind, PeerEventKind::State { from, .. } if *from == State::Established);
    let events = lab.speaker.events_after(0);
    assert!(!events.iter().any(|event| ended(&event.kind)));
}

#[test]
fn what_policies_say_of_a_name_holds_from_the_change_of_hands_on() {
    let mut lab = called(USUAL);
    lab.configure(|config| {
        let mut export = Policy::accept_all();
        export.rules.push(Rule {
            conditions: vec![Condition::Peer("named".into())],
            actions: Vec::new(),
            verdict: Some(Verdict::Reject),
        });
        config.peers[1].export = Arc::new(export);
    });
    lab.holds("b", FIRST);
    lab.configure(|config| named(config, |_| ()));
    lab.lacks("b", FIRST);
    lab.say(
        "a",
        &update(&[], &usual("a").concat(), &nlri(&[SECOND_ROUTE])),
    );
    lab.lacks("b", SECOND_ROUTE);
}

/// The helper leaves, and nothing of it is here but a peer with this name, if any.
fn leaves(lab: &mut Lab) {
    lab.cut("a");
    lab.soon("nothing of it is here", |lab| {
        let known = those_of_the_range(lab);
        let here = |name: &str| lab.peer(name).state == State::Established;
        known.iter().all(|(name, dynamic)| !dynamic && !here(name))
    });
}

#[test]
fn a_caller_that_is_given_a_name_while_it_is_away_is_told_that_its_routes_of_ours_are_forwarded() {
    let mut lab = ranged(|_| ());
    let forwarded = helps(&mut lab, "a-10.9.0.1");
    assert!(!forwarded, "that may be of an earlier life");
    leaves(&mut lab);
    lab.configure(|config| named(config, |peer| peer.passive = true));
    assert!(helps(&mut lab, "named"));
}

#[test]
fn a_peer_whose_name_goes_or_changes_while_it_is_away_is_told_that_its_routes_of_ours_are_forwarded()
 {
    for (name, then) in [(None, "a-10.9.0.1"), (Some("a-new"), "a-new")] {
        let mut lab = ranged(|_| ());
        lab.configure(|config| named(config, |peer| peer.passive = true));
        assert!(!helps(&mut lab, "named"));
        leaves(&mut lab);
        lab.configure(|config| {
            let place = of(config, "named");
            match name {
                Some(name) => config.peers[place].name = name.to_owned(),
                None => drop(config.peers.remove(place)),
            }
        });
        assert!(helps(&mut lab, then));
    }
}

#[test]
fn who_begins_anew_before_its_kept_routes_are_gone_is_told_that_its_routes_of_ours_are_forwarded() {
    // What is between two configurations is the speaker's own.
    if over_tcp() {
        return;
    }
    let mut lab = called(GRACEFUL);
    lab.cut("a");
    lab.holds("b", FIRST);
    let mut config = lab.speaker.config().clone();
    let range = config.peers.remove(0);
    let now = lab.now;
    lab.speaker.configure(config.clone(), now);
    config.peers.insert(0, range);
    named(&mut config, |peer| peer.passive = true);
    lab.speaker.configure(config, now);
    lab.settle();
    assert!(helps(&mut lab, "named"));
}

#[test]
fn a_call_that_comes_to_nothing_is_not_what_a_caller_is_remembered_by() {
    let mut lab = ranged(|_| ());
    helps(&mut lab, "a-10.9.0.1");
    leaves(&mut lab);
    call(&mut lab, 1);
    leaves(&mut lab);
    assert!(helps(&mut lab, "a-10.9.0.1"));
}
