//! Established, and how it ends.

use crate::codec::{DecodeError, RefreshKind, RouteRefresh};
use crate::fsm::DownCause;
use crate::fsm::tests::*;

#[test]
fn established_routes_are_asked_for_again_where_both_sides_can() {
    let mut lab = Lab::established();
    lab.event(Event::AskAgain);
    assert_eq!(lab.sent(Outgoing), [5, 5], "one for each family");
    let mut open = their_open();
    open.capabilities
        .retain(|capability| !matches!(capability, Capability::RouteRefresh));
    let mut lab = Lab::established_with(config(), open);
    lab.event(Event::AskAgain);
    assert!(lab.sent(Outgoing).is_empty());
}

#[test]
fn established_keepalive_update_and_refresh_restart_the_hold_timer() {
    let refresh = RouteRefresh {
        family: Family::IPV4_UNICAST,
        kind: RefreshKind::Request,
    };
    for message in [Message::Keepalive, update(), Message::RouteRefresh(refresh)] {
        let mut lab = Lab::established();
        lab.wait(SECOND * 89);
        lab.message(Outgoing, message);
        lab.wait(SECOND * 89);
        lab.assert_state(State::Established);
        lab.wait(SECOND);
        lab.assert_state(State::Idle);
    }
}

#[test]
fn established_silent_peer_is_dropped_at_the_hold_time_and_not_before() {
    let mut lab = Lab::established();
    lab.wait(SECOND * 90 - Duration::from_millis(1));
    lab.assert_state(State::Established);
    lab.wait(Duration::from_millis(1));
    lab.assert_notified(Outgoing, ErrorCode::HOLD_TIMER_EXPIRED);
    assert_eq!(
        lab.down().map(|reason| &reason.cause),
        Some(&DownCause::HoldTimeExpired)
    );
}

#[test]
fn f5_established_octets_waiting_at_hold_expiry_extend_it_once_by_ten_seconds() {
    let heard = || Event::Heard {
        direction: Outgoing,
    };
    let mut lab = Lab::established();
    lab.now += SECOND * 90;
    lab.event(heard());
    lab.wait(SECOND * 9);
    lab.assert_state(State::Established);
    // What waited is handed over: the peer is heard, and may be late once more.
    lab.message(Outgoing, Message::Keepalive);
    lab.now += SECOND * 90;
    lab.event(heard());
    lab.wait(SECOND * 9);
    lab.assert_state(State::Established);
    lab.now += SECOND;
    lab.event(heard());
    lab.wait(Duration::ZERO);
    lab.assert_state(State::Idle);
    lab.assert_notified(Outgoing, ErrorCode::HOLD_TIMER_EXPIRED);
}

#[test]
fn established_octets_heard_early_do_not_shorten_the_hold_time() {
    let mut lab = Lab::established();
    lab.event(Event::Heard {
        direction: Outgoing,
    });
    lab.wait(SECOND * 89);
    lab.assert_state(State::Established);
}

#[test]
fn established_hold_time_zero_never_expires() {
    let mut lab = Lab::established_with(
        config(),
        Open {
            hold_time: HoldTime::NONE,
            ..their_open()
        },
    );
    lab.wait(SECOND * 100_000);
    lab.assert_state(State::Established);
}

#[test]
fn f8_established_peer_that_takes_nothing_for_the_send_hold_time_is_dropped_with_8_0() {
    let mut lab = Lab::established();
    for _ in 0..47 {
        lab.wait(SECOND * 10);
        lab.message(Outgoing, Message::Keepalive);
    }
    lab.assert_state(State::Established);
    lab.wait(SECOND * 10);
    assert_eq!(
        lab.down().map(|reason| &reason.cause),
        Some(&DownCause::SendHoldTimeExpired)
    );
    lab.assert_notified(Outgoing, ErrorCode::SEND_HOLD_TIMER_EXPIRED);
}

#[test]
fn f9_established_peer_that_takes_octets_slowly_is_not_dropped() {
    let mut lab = Lab::established();
    for _ in 0..1000 {
        lab.wait(SECOND * 10);
        lab.message(Outgoing, Message::Keepalive);
        lab.event(Event::BytesAccepted {
            direction: Outgoing,
        });
    }
    lab.assert_state(State::Established);
}

#[test]
fn established_open_sends_5_3() {
    let mut lab = Lab::established();
    lab.message(Outgoing, Message::Open(their_open()));
    assert_eq!(lab.notified(Outgoing), Some((5, 3, vec![1])));
    lab.assert_state(State::Idle);
}

#[test]
fn established_malformed_update_sends_its_notification() {
    let mut lab = Lab::established();
    lab.event(Event::Malformed {
        direction: Outgoing,
        error: DecodeError::AttributeList("test"),
    });
    lab.assert_notified(Outgoing, ErrorCode::MALFORMED_ATTRIBUTE_LIST);
    assert!(lab.down().is_some());
}

#[test]
fn established_notification_ends_the_session_without_an_answer() {
    let mut lab = Lab::established();
    lab.notification(Outgoing, ErrorCode::new(77, 3));
    assert!(lab.sent(Outgoing).is_empty());
    assert_eq!(lab.closes(Outgoing), Some(false));
    assert!(matches!(
        lab.down().map(|reason| &reason.cause),
        Some(DownCause::NotificationReceived(_))
    ));
}

#[test]
fn established_tcp_loss_reconnects_within_a_second() {
    let mut lab = Lab::established();
    lab.closed(Outgoing);
    lab.assert_state(State::Active);
    assert!(lab.down().is_some());
    assert!(pause_before_connect(&mut lab) <= 1.1);
}

#[test]
fn established_stop_sends_cease_and_stays_idle() {
    let mut lab = Lab::established();
    lab.stop(Some("maintenance"));
    lab.assert_notified(Outgoing, ErrorCode::ADMINISTRATIVE_SHUTDOWN);
    lab.outputs.clear();
    lab.wait(SECOND * 1000);
    assert!(lab.outputs.is_empty());
}

#[test]
fn f10_established_shutdown_text_is_cut_at_a_character() {
    let mut lab = Lab::established();
    lab.stop(Some(&"é".repeat(200)));
    let (_, _, data) = lab.notified(Outgoing).expect("sent");
    assert_eq!(data.len(), 255);
    assert_eq!(usize::from(data[0]), 254);
    assert!(std::str::from_utf8(&data[1..]).is_ok());
}

#[test]
fn established_reset_ends_the_session_and_dials_again() {
    let mut lab = Lab::established();
    lab.event(Event::Reset(Shutdown::AdministrativeReset {
        text: None,
        hard: false,
    }));
    lab.assert_notified(Outgoing, ErrorCode::ADMINISTRATIVE_RESET);
    assert!(pause_before_connect(&mut lab) <= 1.1);
}

#[test]
fn established_prefix_limit_sends_6_1_with_family_and_limit_and_stays_down() {
    let mut lab = Lab::established();
    lab.event(Event::PrefixLimit {
        family: Family::IPV4_UNICAST,
        limit: 10,
        restart: None,
    });
    assert_eq!(
        lab.notified(Outgoing),
        Some((6, 1, vec![0, 1, 1, 0, 0, 0, 10]))
    );
    lab.wait(SECOND * 1000);
    lab.assert_state(State::Idle);
}

#[test]
fn established_prefix_limit_with_a_restart_interval_comes_back() {
    let mut lab = Lab::established();
    lab.event(Event::PrefixLimit {
        family: Family::IPV4_UNICAST,
        limit: 10,
        restart: Some(SECOND * 30),
    });
    assert_eq!(lab.peer.admit(lab.now), Admission::Close);
    let pause = pause_before_connect(&mut lab);
    assert!((29.9..30.2).contains(&pause), "{pause}");
}

#[test]
fn established_start_again_changes_nothing() {
    let mut lab = Lab::established();
    lab.event(Event::Start);
    assert!(lab.outputs.is_empty());
}
