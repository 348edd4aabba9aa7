//! OpenSent and OpenConfirm: from our OPEN to the KEEPALIVE that answers it.

use super::malformed;
use crate::codec::{DecodeError, RefreshKind, RouteRefresh};
use crate::fsm::tests::*;

// OpenSent.

#[test]
fn open_sent_stop_sends_cease_with_its_text() {
    let mut lab = Lab::open_sent();
    lab.stop(Some("bye"));
    lab.assert_notified(Outgoing, ErrorCode::ADMINISTRATIVE_SHUTDOWN);
    assert_eq!(lab.notified(Outgoing).expect("sent").2, b"\x03bye");
    lab.assert_state(State::Idle);
}

#[test]
fn open_sent_deconfigured_sends_6_3() {
    let mut lab = Lab::open_sent();
    lab.event(Event::Stop(Shutdown::Deconfigured));
    lab.assert_notified(Outgoing, ErrorCode::PEER_DECONFIGURED);
}

#[test]
fn f2_open_sent_hold_timer_expiry_sends_notification_4_after_four_minutes() {
    let mut lab = Lab::open_sent();
    lab.wait(SECOND * 239);
    lab.assert_state(State::OpenSent);
    lab.wait(SECOND);
    lab.assert_notified(Outgoing, ErrorCode::HOLD_TIMER_EXPIRED);
    lab.assert_state(State::Idle);
}

#[test]
fn open_sent_dynamic_neighbour_has_ten_seconds_for_its_open() {
    let range = Remote::Range("192.0.2.0/24".parse().expect("a prefix"));
    let mut lab = Lab::new(PeerConfig {
        remote: range,
        ..config()
    });
    lab.event(Event::Start);
    lab.up(Incoming);
    lab.wait(SECOND * 10);
    lab.assert_notified(Incoming, ErrorCode::HOLD_TIMER_EXPIRED);
}

#[test]
fn open_sent_tcp_closed_leads_to_active() {
    let mut lab = Lab::open_sent();
    lab.closed(Outgoing);
    lab.assert_state(State::Active);
    lab.wait(SECOND * 5);
    lab.assert_state(State::Connect);
}

#[test]
fn open_sent_an_attempt_doubles_the_pause_once() {
    let mut lab = Lab::open_sent();
    lab.closed(Outgoing);
    lab.wait(SECOND * 5);
    lab.up(Outgoing);
    lab.closed(Outgoing);
    lab.assert_state(State::Active);
    lab.wait(SECOND * 10);
    lab.assert_state(State::Connect);
}

#[test]
fn open_sent_a_restarting_speaker_never_pauses_for_more_than_five_seconds() {
    let mut lab = Lab::open_sent();
    lab.peer.set_identity(
        lab.now,
        LocalIdentity {
            restarting: true,
            ..identity()
        },
    );
    for _ in 0..6 {
        lab.closed(Outgoing);
        lab.wait(SECOND * 5);
        lab.up(Outgoing);
        lab.assert_state(State::OpenSent);
    }
}

#[test]
fn open_sent_open_sends_keepalive_and_hands_over_the_context() {
    let mut lab = Lab::open_sent();
    lab.message(Outgoing, Message::Open(their_open()));
    lab.assert_state(State::OpenConfirm);
    assert_eq!(lab.sent(Outgoing), [4]);
    let interval = lab.outputs.iter().find_map(|output| match output {
        PeerOutput::UseContext {
            direction: Outgoing,
            keepalive_interval,
            ..
        } => Some(*keepalive_interval),
        _ => None,
    });
    assert_eq!(interval, Some(Some(SECOND * 30)));
}

#[test]
fn open_sent_malformed_header_sends_its_notification() {
    let mut lab = Lab::open_sent();
    malformed(&mut lab);
    assert_eq!(lab.notified(Outgoing), Some((1, 3, vec![9])));
    assert_eq!(lab.closes(Outgoing), Some(true));
    lab.assert_state(State::Idle);
}

#[test]
fn open_sent_malformed_open_sends_its_notification() {
    let mut lab = Lab::open_sent();
    lab.event(Event::Malformed {
        direction: Outgoing,
        error: DecodeError::Version(5),
    });
    assert_eq!(lab.notified(Outgoing), Some((2, 1, vec![0, 4])));
}

#[test]
fn open_sent_notification_closes_without_an_answer() {
    let mut lab = Lab::open_sent();
    lab.notification(Outgoing, ErrorCode::UNACCEPTABLE_HOLD_TIME);
    assert_eq!(lab.closes(Outgoing), Some(false));
    assert!(lab.sent(Outgoing).is_empty());
    lab.assert_state(State::Idle);
}

#[test]
fn open_sent_unexpected_messages_send_5_1_with_the_type() {
    let refresh = RouteRefresh {
        family: Family::IPV4_UNICAST,
        kind: RefreshKind::Request,
    };
    for (message, number) in [
        (Message::Keepalive, 4),
        (update(), 2),
        (Message::RouteRefresh(refresh), 5),
    ] {
        let mut lab = Lab::open_sent();
        lab.message(Outgoing, message);
        assert_eq!(lab.notified(Outgoing), Some((5, 1, vec![number])));
        lab.assert_state(State::Idle);
    }
}

#[test]
fn open_sent_without_an_open_gives_way_to_a_newer_incoming_connection_after_two_seconds() {
    let mut lab = Lab::active();
    lab.up(Incoming);
    assert_eq!(lab.peer.admit(lab.now), Admission::Close);
    lab.wait(SECOND * 2);
    assert!(admits(&lab));
    lab.outputs.clear();
    lab.up(Incoming);
    assert_eq!(lab.sent(Incoming), [1]);
}

// OpenConfirm.

#[test]
fn open_confirm_stop_sends_cease() {
    let mut lab = Lab::open_confirm();
    lab.stop(None);
    lab.assert_notified(Outgoing, ErrorCode::ADMINISTRATIVE_SHUTDOWN);
    assert_eq!(lab.down(), None);
}

#[test]
fn open_confirm_keepalive_establishes() {
    let mut lab = Lab::open_confirm();
    lab.message(Outgoing, Message::Keepalive);
    lab.assert_state(State::Established);
    assert!(
        lab.outputs
            .iter()
            .any(|output| matches!(output, PeerOutput::Established(_)))
    );
}

#[test]
fn open_confirm_update_counts_as_keepalive_and_is_not_lost() {
    let mut lab = Lab::open_confirm();
    lab.message(Outgoing, update());
    lab.assert_state(State::Established);
    let order: Vec<_> = lab
        .outputs
        .iter()
        .filter_map(|output| match output {
            PeerOutput::Established(_) => Some("established"),
            PeerOutput::Update(_) => Some("update"),
            _ => None,
        })
        .collect();
    assert_eq!(order, ["established", "update"]);
}

#[test]
fn f3_open_confirm_hold_timer_is_the_negotiated_one() {
    let mut lab = Lab::open_confirm();
    lab.wait(SECOND * 89);
    lab.assert_state(State::OpenConfirm);
    lab.wait(SECOND);
    lab.assert_notified(Outgoing, ErrorCode::HOLD_TIMER_EXPIRED);
}

#[test]
fn o9_open_confirm_without_a_hold_time_waits_as_long_as_for_the_open() {
    let forever = || Open {
        hold_time: HoldTime::NONE,
        ..their_open()
    };
    let mut lab = Lab::confirmed_with(config(), forever());
    lab.wait(SECOND * 239);
    lab.assert_state(State::OpenConfirm);
    lab.wait(SECOND);
    lab.assert_notified(Outgoing, ErrorCode::HOLD_TIMER_EXPIRED);
    // Anybody may have said that OPEN.
    let mut lab = Lab::new(PeerConfig {
        remote: Remote::Range("192.0.2.0/24".parse().expect("a prefix")),
        ..config()
    });
    lab.event(Event::Start);
    lab.up(Incoming);
    lab.message(Incoming, Message::Open(forever()));
    lab.assert_state(State::OpenConfirm);
    lab.outputs.clear();
    lab.wait(SECOND * 10);
    lab.assert_notified(Incoming, ErrorCode::HOLD_TIMER_EXPIRED);
}

#[test]
fn open_confirm_second_open_sends_5_2() {
    let mut lab = Lab::open_confirm();
    let other = Open {
        hold_time: HoldTime::from_secs(30).unwrap(),
        ..their_open()
    };
    lab.message(Outgoing, Message::Open(other));
    assert_eq!(lab.notified(Outgoing), Some((5, 2, vec![1])));
}

#[test]
fn open_confirm_same_open_again_is_passed_over() {
    let mut lab = Lab::open_confirm();
    lab.message(Outgoing, Message::Open(their_open()));
    lab.assert_state(State::OpenConfirm);
    lab.message(Outgoing, Message::Keepalive);
    lab.assert_state(State::Established);
}

#[test]
fn open_confirm_tcp_closed_leads_to_idle() {
    let mut lab = Lab::open_confirm();
    lab.closed(Outgoing);
    lab.assert_state(State::Idle);
    assert!(lab.sent(Outgoing).is_empty());
}

#[test]
fn open_confirm_notification_leads_to_idle() {
    let mut lab = Lab::open_confirm();
    lab.notification(Outgoing, ErrorCode::HOLD_TIMER_EXPIRED);
    lab.assert_state(State::Idle);
}

#[test]
fn open_confirm_malformed_sends_its_notification() {
    let mut lab = Lab::open_confirm();
    malformed(&mut lab);
    lab.assert_notified(Outgoing, ErrorCode::BAD_MESSAGE_TYPE);
}
