//! What keeps a session from beginning: a path that has to be up first, a limit, a rest; and what is remembered of callers.

use super::*;
use crate::codec::DecodeError;

fn malformed(lab: &mut Lab, direction: Direction) {
    lab.event(Event::Malformed {
        direction,
        error: DecodeError::Marker,
    });
}

fn hold(lab: &mut Lab, held: bool) {
    lab.peer.set_held(lab.now, held);
    lab.drain();
}

fn exceed(lab: &mut Lab, restart: Option<Duration>) {
    lab.event(Event::PrefixLimit {
        family: Family::IPV4_UNICAST,
        limit: 1,
        restart,
    });
}

/// A neighbour that called from a range.
fn caller() -> Lab {
    let mut lab = Lab::new(PeerConfig {
        remote: Remote::Address("192.0.2.2:0".parse().expect("an address")),
        passive: true,
        ..config()
    });
    lab.event(Event::Start);
    lab
}

#[test]
fn nothing_is_begun_while_held_and_everything_at_once_afterwards() {
    let mut lab = Lab::new(config());
    hold(&mut lab, true);
    lab.event(Event::Start);
    lab.wait(SECOND * 600);
    lab.assert_state(State::Idle);
    assert_eq!(lab.connects(), 0);
    assert_eq!(lab.peer.admit(lab.now), Admission::Close);
    hold(&mut lab, false);
    lab.assert_state(State::Connect);
    assert!(admits(&lab));
}

#[test]
fn a_session_that_ends_while_held_does_not_begin_again() {
    let ends: [fn(&mut Lab); 4] = [
        |lab| lab.closed(Outgoing),
        |lab| lab.notification(Outgoing, ErrorCode::ADMINISTRATIVE_RESET),
        |lab| malformed(lab, Outgoing),
        |lab| lab.wait(SECOND * 90),
    ];
    for end in ends {
        let mut lab = Lab::established();
        hold(&mut lab, true);
        lab.assert_state(State::Established);
        end(&mut lab);
        lab.outputs.clear();
        lab.wait(SECOND * 600);
        lab.assert_state(State::Idle);
        assert_eq!(lab.connects(), 0);
        assert!(!admits(&lab));
        hold(&mut lab, false);
        lab.assert_state(State::Connect);
    }
}

#[test]
fn attempts_under_way_are_given_up_when_held_and_told_why_where_they_understand() {
    let mut lab = Lab::connecting();
    hold(&mut lab, true);
    assert_eq!(lab.closes(Outgoing), Some(false));
    lab.assert_state(State::Idle);
    for mut lab in [Lab::open_sent(), Lab::open_confirm()] {
        hold(&mut lab, true);
        lab.assert_notified(Outgoing, ErrorCode::BFD_DOWN);
        lab.assert_state(State::Idle);
    }
}

#[test]
fn what_was_held_does_not_end_a_rest_or_lift_a_limit() {
    for restart in [None, Some(SECOND * 30)] {
        let mut lab = Lab::established();
        exceed(&mut lab, restart);
        hold(&mut lab, true);
        hold(&mut lab, false);
        lab.assert_state(State::Idle);
        assert!(!admits(&lab));
        lab.event(Event::Reset(Shutdown::BfdDown { keep_routes: false }));
        hold(&mut lab, true);
        hold(&mut lab, false);
        lab.wait(SECOND * 29);
        assert_eq!(lab.connects(), 0);
        lab.wait(SECOND * 2);
        assert_eq!(lab.connects(), usize::from(restart.is_some()));
        lab.event(Event::Start);
        lab.assert_state(State::Connect);
    }
}

#[test]
fn f15_errors_of_a_caller_from_a_range_count_for_as_long_again_as_the_longest_rest() {
    let mut lab = caller();
    assert!(!lab.peer.remembers());
    for rest in [1, 2, 4, 8, 16, 32, 60, 60] {
        lab.up(Incoming);
        malformed(&mut lab, Incoming);
        lab.wait(SECOND * rest - Duration::from_millis(1));
        assert!(!admits(&lab), "{rest} s");
        lab.wait(Duration::from_millis(1));
        assert!(admits(&lab), "{rest} s");
        // It does not hurry, and is known all the same.
        lab.wait(SECOND * 59);
        assert!(lab.peer.remembers());
    }
    lab.wait(SECOND);
    assert!(!lab.peer.remembers());
    lab.up(Incoming);
    malformed(&mut lab, Incoming);
    lab.wait(SECOND);
    assert!(admits(&lab), "forgotten");
}

#[test]
fn a_caller_does_not_outwait_its_errors_by_staying_connected() {
    let mut lab = caller();
    lab.up(Incoming);
    malformed(&mut lab, Incoming);
    lab.wait(SECOND * 56);
    // It is given ten seconds for its OPEN, over the end of the minute.
    lab.up(Incoming);
    lab.wait(SECOND * 8);
    malformed(&mut lab, Incoming);
    lab.wait(SECOND);
    assert!(!admits(&lab));
    lab.wait(SECOND);
    assert!(admits(&lab));
}

#[test]
fn a_caller_that_left_in_peace_is_not_remembered() {
    let mut lab = caller();
    lab.up(Incoming);
    lab.message(Incoming, Message::Open(their_open()));
    lab.message(Incoming, Message::Keepalive);
    lab.assert_state(State::Established);
    lab.notification(Incoming, ErrorCode::ADMINISTRATIVE_SHUTDOWN);
    assert!(!lab.peer.remembers());
}

#[test]
fn f18_a_caller_over_its_limit_is_remembered_until_somebody_starts_it() {
    let mut lab = caller();
    lab.up(Incoming);
    lab.message(Incoming, Message::Open(their_open()));
    lab.message(Incoming, Message::Keepalive);
    exceed(&mut lab, None);
    lab.wait(SECOND * 100_000);
    assert!(lab.peer.remembers() && !admits(&lab));
    lab.event(Event::Start);
    assert!(!lab.peer.remembers() && admits(&lab));
}
