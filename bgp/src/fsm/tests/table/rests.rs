//! The pauses after errors, and what ends them.

use super::malformed;
use crate::fsm::tests::*;

#[test]
fn f15_errors_in_a_row_rest_longer_each_time_up_to_a_minute() {
    let mut lab = Lab::connecting();
    let mut pauses = Vec::new();
    for _ in 0..8 {
        lab.up(Outgoing);
        malformed(&mut lab);
        pauses.push(pause_before_connect(&mut lab).round());
    }
    assert_eq!(pauses, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]);
}

#[test]
fn f15_five_minutes_of_session_clear_earlier_errors() {
    let mut lab = Lab::open_sent();
    for _ in 0..4 {
        malformed(&mut lab);
        pause_before_connect(&mut lab);
        lab.up(Outgoing);
    }
    lab.message(Outgoing, Message::Open(their_open()));
    lab.message(Outgoing, Message::Keepalive);
    for _ in 0..31 {
        lab.wait(SECOND * 10);
        lab.message(Outgoing, Message::Keepalive);
    }
    malformed(&mut lab);
    let pause = pause_before_connect(&mut lab);
    assert!(pause < 1.2, "{pause}");
}

#[test]
fn f14_a_peer_that_ceased_is_left_alone_for_a_minute_but_may_call() {
    for code in [
        ErrorCode::MAXIMUM_PREFIXES,
        ErrorCode::ADMINISTRATIVE_SHUTDOWN,
        ErrorCode::PEER_DECONFIGURED,
        ErrorCode::CONNECTION_REJECTED,
        ErrorCode::OUT_OF_RESOURCES,
    ] {
        let mut lab = Lab::established();
        lab.notification(Outgoing, code);
        assert!(admits(&lab), "{code}");
        assert!(pause_before_connect(&mut lab) >= 59.9, "{code}");
    }
}

#[test]
fn f14_a_configured_longest_rest_holds_for_a_peer_that_ceased_as_well() {
    let mut lab = Lab::established_with(
        PeerConfig {
            idle_hold_max: SECOND,
            ..config()
        },
        their_open(),
    );
    lab.notification(Outgoing, ErrorCode::ADMINISTRATIVE_SHUTDOWN);
    assert!(pause_before_connect(&mut lab) <= 1.1);
}

#[test]
fn an_incoming_connection_ends_the_rest_that_a_cease_began() {
    let mut lab = Lab::established();
    lab.notification(Outgoing, ErrorCode::ADMINISTRATIVE_SHUTDOWN);
    lab.up(Incoming);
    lab.assert_state(State::OpenSent);
    lab.message(Incoming, Message::Open(their_open()));
    lab.message(Incoming, Message::Keepalive);
    lab.assert_state(State::Established);
}
