//! Idle, Connect and Active: before our OPEN is said, also where it is held back.

use super::malformed;
use crate::fsm::DownCause;
use crate::fsm::tests::*;

// Idle.

#[test]
fn idle_start_dials() {
    let lab = Lab::connecting();
    assert_eq!(lab.connects(), 1);
}

#[test]
fn f16_idle_passive_start_waits_in_active_and_never_dials() {
    let mut lab = Lab::new(PeerConfig {
        passive: true,
        ..config()
    });
    lab.event(Event::Start);
    lab.wait(SECOND * 600);
    lab.assert_state(State::Active);
    assert_eq!(lab.connects(), 0);
}

#[test]
fn idle_range_never_dials() {
    let range = Remote::Range("192.0.2.0/24".parse().expect("a prefix"));
    let mut lab = Lab::new(PeerConfig {
        remote: range,
        ..config()
    });
    lab.event(Event::Start);
    lab.wait(SECOND * 600);
    assert_eq!(lab.connects(), 0);
}

#[test]
fn idle_stopped_rejects_incoming_connections() {
    let lab = Lab::new(config());
    assert_eq!(lab.peer.admit(lab.now), Admission::Reject);
}

#[test]
fn idle_closes_a_connection_handed_over_in_spite_of_it() {
    let mut lab = Lab::new(config());
    lab.up(Incoming);
    assert_eq!(lab.closes(Incoming), Some(false));
    lab.assert_state(State::Idle);
}

#[test]
fn idle_ignores_everything_else() {
    let mut lab = Lab::new(config());
    lab.message(Outgoing, Message::Keepalive);
    lab.closed(Incoming);
    malformed(&mut lab);
    lab.event(Event::ConnectionFailed {
        direction: Outgoing,
    });
    lab.event(Event::Reset(Shutdown::ConfigurationChange));
    lab.wait(SECOND * 600);
    assert!(lab.outputs.is_empty(), "{:?}", lab.outputs);
}

#[test]
fn idle_resting_after_an_error_refuses_incoming_until_the_rest_is_over() {
    let mut lab = Lab::open_sent();
    malformed(&mut lab);
    lab.assert_state(State::Idle);
    assert_eq!(lab.peer.admit(lab.now), Admission::Close);
    lab.outputs.clear();
    lab.wait(SECOND);
    lab.assert_state(State::Connect);
    assert!(admits(&lab));
}

// Connect.

#[test]
fn connect_stop_gives_up_silently() {
    let mut lab = Lab::connecting();
    lab.stop(None);
    lab.assert_state(State::Idle);
    assert_eq!(lab.closes(Outgoing), Some(false));
    assert!(lab.sent(Outgoing).is_empty());
    assert_eq!(lab.peer.poll_timeout(), None);
}

#[test]
fn connect_retry_timer_drops_the_attempt_and_dials_again() {
    let mut lab = Lab::connecting();
    lab.outputs.clear();
    lab.wait(SECOND * 5);
    lab.assert_state(State::Connect);
    assert!(matches!(
        lab.outputs[..],
        [
            PeerOutput::Close {
                direction: Outgoing,
                linger: false
            },
            PeerOutput::Connect
        ]
    ));
}

#[test]
fn connect_tcp_up_sends_open() {
    let mut lab = Lab::connecting();
    lab.up(Outgoing);
    lab.assert_state(State::OpenSent);
    assert_eq!(lab.sent(Outgoing), [1]);
}

#[test]
fn connect_failure_leads_to_active() {
    let lab = Lab::active();
    assert_eq!(lab.peer.last_error(), Some(&DownCause::ConnectFailed));
}

#[test]
fn f1_connect_refused_again_and_again_pauses_longer_up_to_the_configured_maximum() {
    let mut lab = Lab::new(PeerConfig {
        connect_retry_max: SECOND * 60,
        ..config()
    });
    lab.event(Event::Start);
    let mut pauses = Vec::new();
    for _ in 0..6 {
        lab.event(Event::ConnectionFailed {
            direction: Outgoing,
        });
        pauses.push(pause_before_connect(&mut lab));
    }
    for (pause, full) in pauses.iter().zip([5.0, 10.0, 20.0, 40.0, 60.0, 60.0]) {
        assert!((full * 0.75..=full + 0.2).contains(pause), "{pauses:?}");
    }
}

#[test]
fn connect_without_a_pause_is_tried_again_after_the_shortest_one() {
    let mut lab = Lab::new(PeerConfig {
        connect_retry: Duration::ZERO,
        connect_retry_max: Duration::ZERO,
        idle_hold: Duration::ZERO,
        idle_hold_max: Duration::ZERO,
        ..config()
    });
    lab.event(Event::Start);
    lab.wait(SECOND * 10);
    assert!((100..=135).contains(&lab.connects()), "{}", lab.connects());
    lab.up(Outgoing);
    malformed(&mut lab);
    lab.assert_state(State::Idle);
    lab.outputs.clear();
    lab.wait(Duration::from_millis(99));
    assert_eq!(lab.connects(), 0);
    lab.wait(Duration::from_millis(1));
    assert_eq!(lab.connects(), 1);
}

#[test]
fn whoever_connects_and_closes_again_and_again_does_not_keep_us_from_dialling() {
    let mut lab = Lab::active();
    for _ in 0..6 {
        lab.up(Incoming);
        lab.wait(SECOND);
        lab.closed(Incoming);
        lab.wait(SECOND * 2);
    }
    assert!(lab.connects() >= 1, "{:?}", lab.outputs);
}

#[test]
fn a_caller_that_says_nothing_does_not_keep_us_from_dialling_after_an_error() {
    let mut lab = Lab::open_sent();
    lab.up(Incoming);
    malformed(&mut lab);
    assert!(lab.peer.state() == State::OpenSent);
    let pause = pause_before_connect(&mut lab);
    assert!(pause <= 1.1, "{pause}");
    // An error counts all the same.
    lab.up(Outgoing);
    malformed(&mut lab);
    let pause = pause_before_connect(&mut lab);
    assert!((1.4..2.1).contains(&pause), "{pause}");
}

#[test]
fn a_caller_that_says_nothing_does_not_keep_us_from_dialling_when_a_rest_is_over() {
    let mut lab = Lab::established();
    lab.notification(Outgoing, ErrorCode::ADMINISTRATIVE_SHUTDOWN);
    lab.wait(SECOND * 10);
    lab.up(Incoming);
    let pause = pause_before_connect(&mut lab);
    assert!((49.0..50.2).contains(&pause), "{pause}");
}

#[test]
fn f16_connect_takes_an_incoming_connection_and_goes_on_dialling() {
    let mut lab = Lab::connecting();
    assert!(admits(&lab));
    lab.up(Incoming);
    assert_eq!(lab.sent(Incoming), [1]);
    assert_eq!(lab.closes(Outgoing), None);
    lab.outputs.clear();
    lab.wait(SECOND * 5);
    assert_eq!(lab.connects(), 1);
}

#[test]
fn connect_ignores_messages_of_nobody() {
    let mut lab = Lab::connecting();
    lab.message(Outgoing, Message::Open(their_open()));
    lab.message(Incoming, update());
    malformed(&mut lab);
    lab.assert_state(State::Connect);
}

// Active.

#[test]
fn active_retry_timer_dials() {
    let mut lab = Lab::active();
    lab.wait(SECOND * 5);
    lab.assert_state(State::Connect);
}

#[test]
fn active_stop_leads_to_idle_for_good() {
    let mut lab = Lab::active();
    lab.stop(None);
    lab.wait(SECOND * 600);
    lab.assert_state(State::Idle);
    assert_eq!(lab.connects(), 0);
}

#[test]
fn active_incoming_connection_sends_open() {
    let mut lab = Lab::active();
    lab.up(Incoming);
    lab.assert_state(State::OpenSent);
    assert_eq!(lab.sent(Incoming), [1]);
}

#[test]
fn active_closes_an_outgoing_connection_that_comes_too_late() {
    let mut lab = Lab::active();
    lab.up(Outgoing);
    assert_eq!(lab.closes(Outgoing), Some(false));
    lab.assert_state(State::Active);
}

// DelayOpen.

fn delaying() -> Lab {
    let mut lab = Lab::new(PeerConfig {
        delay_open: Some(SECOND * 2),
        ..config()
    });
    lab.event(Event::Start);
    lab.up(Outgoing);
    assert!(lab.sent(Outgoing).is_empty());
    lab.assert_state(State::Connect);
    lab
}

#[test]
fn f17_an_open_while_ours_is_held_back_is_answered_with_open_and_keepalive_at_once() {
    let mut lab = delaying();
    lab.wait(SECOND);
    lab.message(Outgoing, Message::Open(their_open()));
    assert_eq!(lab.sent(Outgoing), [1, 4]);
    lab.assert_state(State::OpenConfirm);
    lab.message(Outgoing, Message::Keepalive);
    lab.assert_state(State::Established);
    lab.wait(SECOND * 5);
    assert_eq!(lab.sent(Outgoing), [1, 4], "not said again");
}

#[test]
fn f17_a_held_back_open_is_said_when_its_time_has_come() {
    let mut lab = delaying();
    lab.wait(SECOND * 2);
    assert_eq!(lab.sent(Outgoing), [1]);
    lab.assert_state(State::OpenSent);
}

#[test]
fn connect_with_the_open_held_back_says_nothing_to_an_error_and_rests() {
    for fault in [0, 1] {
        let mut lab = delaying();
        if fault == 0 {
            malformed(&mut lab);
        } else {
            lab.message(Outgoing, Message::Keepalive);
        }
        assert!(lab.sent(Outgoing).is_empty());
        assert_eq!(lab.closes(Outgoing), Some(false));
        lab.assert_state(State::Idle);
        lab.wait(SECOND * 2);
        lab.assert_state(State::Connect);
    }
}
