//! RFC 4271 §6.8 and RFC 6286 §2.3: which of two connections survives. Our identifier is 100.

use super::*;
use crate::speaker::config::PeerAs;

fn open_from(router_id: u32) -> Open {
    Open {
        router_id: id(router_id),
        ..their_open()
    }
}

/// Both connections in OpenSent.
fn two_connections(config: PeerConfig) -> Lab {
    let mut lab = Lab::new(config);
    lab.event(Event::Start);
    lab.up(Outgoing);
    lab.up(Incoming);
    lab.outputs.clear();
    lab
}

/// OPENs on both connections in the given order, then a KEEPALIVE on the survivor.
#[track_caller]
fn assert_survivor(open: Open, order: [Direction; 2], survivor: Direction) {
    let mut lab = two_connections(config());
    for direction in order {
        lab.message(direction, Message::Open(open.clone()));
    }
    let loser = if survivor == Outgoing {
        Incoming
    } else {
        Outgoing
    };
    lab.assert_notified(loser, ErrorCode::CONNECTION_COLLISION);
    assert_eq!(lab.closes(survivor), None);
    lab.message(survivor, Message::Keepalive);
    lab.assert_state(State::Established);
    assert_eq!(lab.negotiated().direction, survivor);
}

#[test]
fn c1_c6_our_identifier_is_higher_so_our_connection_survives_in_either_order() {
    assert_survivor(open_from(99), [Outgoing, Incoming], Outgoing);
    assert_survivor(open_from(99), [Incoming, Outgoing], Outgoing);
}

#[test]
fn c2_c6_our_identifier_is_lower_so_the_peers_connection_survives_in_either_order() {
    assert_survivor(open_from(101), [Outgoing, Incoming], Incoming);
    assert_survivor(open_from(101), [Incoming, Outgoing], Incoming);
}

#[test]
fn identifiers_compare_as_unsigned_numbers() {
    assert_survivor(open_from(0xff00_0000), [Outgoing, Incoming], Incoming);
}

#[test]
fn c3_between_equal_identifiers_the_higher_as_survives() {
    // Ours is 64512, theirs 64600.
    assert_survivor(open_from(100), [Outgoing, Incoming], Incoming);
    assert_survivor(open_from(100), [Incoming, Outgoing], Incoming);
    let mut lab = two_connections(PeerConfig {
        asn: Asn(100).into(),
        ..config()
    });
    let open = Open {
        asn: Asn(100),
        ..open_from(100)
    };
    lab.message(Incoming, Message::Open(open.clone()));
    lab.message(Outgoing, Message::Open(open));
    lab.assert_notified(Incoming, ErrorCode::CONNECTION_COLLISION);
}

#[test]
fn an_open_aborts_a_mere_attempt_silently() {
    let mut lab = Lab::connecting();
    lab.up(Incoming);
    lab.outputs.clear();
    lab.message(Incoming, Message::Open(open_from(1)));
    assert_eq!(lab.closes(Outgoing), Some(false));
    assert!(lab.sent(Outgoing).is_empty());
    lab.assert_state(State::OpenConfirm);
}

#[test]
fn nothing_is_decided_before_the_other_connection_has_its_open() {
    let mut lab = two_connections(config());
    lab.message(Outgoing, Message::Open(open_from(101)));
    assert_eq!(lab.closes(Outgoing), None);
    assert_eq!(lab.closes(Incoming), None);
}

#[test]
fn c4_an_open_beside_an_established_session_is_answered_6_7() {
    let mut lab = Lab::established();
    lab.wait(SECOND * 2);
    assert!(admits(&lab));
    lab.up(Incoming);
    lab.outputs.clear();
    lab.message(Incoming, Message::Open(their_open()));
    lab.assert_notified(Incoming, ErrorCode::CONNECTION_COLLISION);
    lab.assert_state(State::Established);
    assert_eq!(lab.down(), None);
}

#[test]
fn an_incoming_connection_beside_an_incoming_session_is_refused_as_a_collision() {
    let mut lab = Lab::active();
    lab.up(Incoming);
    lab.message(Incoming, Message::Open(their_open()));
    assert_eq!(lab.peer.admit(lab.now), Admission::Collide);
    lab.message(Incoming, Message::Keepalive);
    assert_eq!(lab.peer.admit(lab.now + SECOND * 3), Admission::Collide);
}

/// A graceful session on a connection of either direction, some seconds old.
fn graceful_session(direction: Direction) -> Lab {
    let mut lab = if direction == Outgoing {
        Lab::established_with(config(), graceful_open(false))
    } else {
        let mut lab = Lab::active();
        lab.up(Incoming);
        lab.message(Incoming, Message::Open(graceful_open(false)));
        lab.message(Incoming, Message::Keepalive);
        lab
    };
    lab.wait(SECOND * 10);
    lab.outputs.clear();
    lab
}

#[test]
fn c5_a_new_session_of_a_gracefully_restarting_peer_replaces_the_old_one_silently() {
    for (old, new) in [(Outgoing, Incoming), (Incoming, SecondIncoming)] {
        let mut lab = graceful_session(old);
        assert_eq!(admitted(&lab), Some(new));
        lab.up(new);
        lab.message(new, Message::Open(graceful_open(false)));
        assert_eq!(lab.closes(old), Some(false));
        assert!(lab.sent(old).is_empty());
        assert!(lab.down().expect("down").keep_routes);
        lab.message(new, Message::Keepalive);
        lab.assert_state(State::Established);
        assert_eq!(lab.negotiated().direction, new);
    }
}

#[test]
fn places_of_incoming_sessions_take_turns() {
    let mut lab = graceful_session(Incoming);
    for (old, new) in [(Incoming, SecondIncoming), (SecondIncoming, Incoming)] {
        lab.wait(SECOND * 10);
        assert_eq!(admitted(&lab), Some(new));
        lab.up(new);
        lab.message(new, Message::Open(graceful_open(false)));
        lab.message(new, Message::Keepalive);
        assert_eq!(lab.closes(old), Some(false));
        assert_eq!(lab.negotiated().direction, new);
        lab.outputs.clear();
    }
}

#[test]
fn a_bare_connection_from_the_peers_address_leaves_the_session_alone() {
    for (old, new) in [(Outgoing, Incoming), (Incoming, SecondIncoming)] {
        let mut lab = graceful_session(old);
        lab.up(new);
        lab.assert_state(State::Established);
        lab.closed(new);
        lab.up(new);
        lab.wait(SECOND * 11);
        assert_eq!(lab.closes(new), Some(true), "it said nothing for too long");
        assert_eq!((lab.down(), lab.closes(old)), (None, None));
        lab.assert_state(State::Established);
    }
}

#[test]
fn a_caller_from_the_peers_address_that_is_somebody_else_leaves_the_session_alone() {
    let other_as = Open {
        asn: Asn(1),
        ..graceful_open(false)
    };
    let other_id = Open {
        router_id: id(201),
        ..graceful_open(false)
    };
    for open in [other_as, other_id] {
        let mut lab = graceful_session(Incoming);
        lab.up(SecondIncoming);
        lab.message(SecondIncoming, Message::Open(open));
        assert_eq!(lab.closes(SecondIncoming), Some(true));
        assert_eq!((lab.down(), lab.closes(Incoming)), (None, None));
        lab.assert_state(State::Established);
        // The next caller may be the peer.
        assert_eq!(admitted(&lab), Some(SecondIncoming));
    }
}

#[test]
fn a_caller_of_another_as_with_the_peers_identifier_leaves_the_session_alone() {
    let anybody = PeerConfig {
        asn: PeerAs::Any,
        ..config()
    };
    let mut lab = Lab::established_with(anybody, graceful_open(false));
    lab.wait(SECOND * 10);
    lab.outputs.clear();
    lab.up(Incoming);
    // Both ASs may call, and across ASs equal identifiers are legal.
    lab.message(
        Incoming,
        Message::Open(Open {
            asn: Asn(64601),
            ..graceful_open(false)
        }),
    );
    lab.assert_notified(Incoming, ErrorCode::CONNECTION_COLLISION);
    assert_eq!((lab.down(), lab.closes(Outgoing)), (None, None));
    lab.assert_state(State::Established);
}

#[test]
fn what_is_left_of_a_collision_does_not_end_a_session_that_just_came_up() {
    let mut lab = Lab::established_with(config(), graceful_open(false));
    lab.up(Incoming);
    assert_eq!(lab.down(), None);
    lab.message(Incoming, Message::Open(graceful_open(false)));
    // The peer, whose identifier is higher, might yet prefer its own connection.
    assert!(lab.sent(Incoming).iter().all(|kind| *kind == 1));
    lab.wait(SECOND * 2);
    lab.assert_notified(Incoming, ErrorCode::CONNECTION_COLLISION);
    lab.assert_state(State::Established);
}

#[test]
fn a_session_that_the_peer_gives_up_for_the_other_connection_is_followed_there() {
    let mut lab = two_connections(config());
    lab.message(Outgoing, Message::Open(open_from(101)));
    lab.message(Outgoing, Message::Keepalive);
    lab.assert_state(State::Established);
    lab.message(Incoming, Message::Open(open_from(101)));
    assert_eq!(lab.closes(Incoming), None);
    lab.notification(Outgoing, ErrorCode::CONNECTION_COLLISION);
    assert!(lab.down().is_some());
    lab.message(Incoming, Message::Keepalive);
    lab.assert_state(State::Established);
    assert_eq!(lab.negotiated().direction, Incoming);
    assert_eq!(lab.connects(), 0);
}

#[test]
fn a_connection_that_loses_to_a_session_by_identifiers_as_well_is_refused_at_once() {
    let mut lab = two_connections(config());
    lab.message(Outgoing, Message::Open(open_from(99)));
    lab.message(Outgoing, Message::Keepalive);
    lab.message(Incoming, Message::Open(open_from(99)));
    lab.assert_notified(Incoming, ErrorCode::CONNECTION_COLLISION);
    lab.assert_state(State::Established);
}

#[test]
fn the_loser_of_a_collision_is_not_an_error() {
    let mut lab = two_connections(config());
    lab.message(Incoming, Message::Open(open_from(101)));
    lab.notification(Outgoing, ErrorCode::CONNECTION_COLLISION);
    lab.assert_state(State::OpenConfirm);
    lab.message(Incoming, Message::Keepalive);
    lab.assert_state(State::Established);
}

#[test]
fn when_both_connections_are_lost_to_a_collision_the_next_attempt_comes_within_a_second() {
    let mut lab = Lab::established();
    lab.notification(Outgoing, ErrorCode::CONNECTION_COLLISION);
    assert!(pause_before_connect(&mut lab) <= 1.1);
}

#[test]
fn an_error_on_one_connection_leaves_the_other_alone() {
    let mut lab = two_connections(config());
    lab.message(Outgoing, Message::Keepalive);
    lab.assert_notified(Outgoing, ErrorCode::UNEXPECTED_IN_OPEN_SENT);
    lab.message(Incoming, Message::Open(their_open()));
    lab.message(Incoming, Message::Keepalive);
    lab.assert_state(State::Established);
}

#[test]
fn established_session_outlives_the_silence_of_a_second_connection() {
    let mut lab = two_connections(config());
    lab.message(Outgoing, Message::Open(open_from(99)));
    lab.message(Outgoing, Message::Keepalive);
    for _ in 0..24 {
        lab.wait(SECOND * 10);
        lab.message(Outgoing, Message::Keepalive);
    }
    lab.assert_notified(Incoming, ErrorCode::HOLD_TIMER_EXPIRED);
    lab.assert_state(State::Established);
}
