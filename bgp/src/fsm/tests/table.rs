//! The state table of RFC 4271 §8.2.2, cell by cell, with the departures named in `fsm/mod.rs`.
//!
//! Not here because margay has no such event: 12 and 20 (DelayOpen), 11 (KEEPALIVEs are sent by the connection's task).

use super::*;
use crate::codec::{DecodeError, RefreshKind, RouteRefresh};
use crate::fsm::DownCause;

fn malformed(lab: &mut Lab) {
    lab.event(Event::Malformed {
        direction: Outgoing,
        error: DecodeError::MessageType(9),
    });
}

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

// Established.

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

// Rests.

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

#[test]
fn every_change_of_state_is_reported_once() {
    let mut lab = Lab::new(config());
    lab.event(Event::Start);
    lab.up(Outgoing);
    lab.message(Outgoing, Message::Open(their_open()));
    lab.message(Outgoing, Message::Keepalive);
    let changes: Vec<_> = lab
        .take()
        .into_iter()
        .filter_map(|output| match output {
            PeerOutput::StateChanged { from, to, .. } => Some((from, to)),
            _ => None,
        })
        .collect();
    assert_eq!(
        changes,
        [
            (State::Idle, State::Connect),
            (State::Connect, State::OpenSent),
            (State::OpenSent, State::OpenConfirm),
            (State::OpenConfirm, State::Established),
        ]
    );
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

// Warnings.

fn warnings(lab: &Lab) -> Vec<PeerWarning> {
    lab.outputs
        .iter()
        .filter_map(|output| match output {
            PeerOutput::Warning(warning) => Some(*warning),
            _ => None,
        })
        .collect()
}

#[test]
fn c7_waiting_for_a_peer_that_does_not_call_is_warned_of_within_a_minute() {
    let passive = || PeerConfig {
        passive: true,
        ..config()
    };
    let mut lab = Lab::new(passive());
    lab.event(Event::Start);
    lab.wait(SECOND * 60);
    assert_eq!(warnings(&lab), [PeerWarning::NobodyCalls]);
    let mut lab = Lab::new(passive());
    lab.event(Event::Start);
    lab.wait(SECOND * 50);
    lab.up(Incoming);
    lab.wait(SECOND * 100);
    assert!(warnings(&lab).is_empty());
}

#[test]
fn c7_a_peer_that_called_once_and_does_not_again_is_warned_of_as_well() {
    let mut lab = Lab::new(PeerConfig {
        passive: true,
        ..config()
    });
    lab.event(Event::Start);
    lab.up(Incoming);
    lab.message(Incoming, Message::Open(their_open()));
    lab.message(Incoming, Message::Keepalive);
    lab.assert_state(State::Established);
    lab.closed(Incoming);
    lab.wait(SECOND * 50);
    assert!(warnings(&lab).is_empty());
    lab.wait(SECOND * 10);
    assert_eq!(warnings(&lab), [PeerWarning::NobodyCalls]);
    // After a rest the minute begins with its end.
    let mut lab = Lab::new(PeerConfig {
        passive: true,
        ..config()
    });
    lab.event(Event::Start);
    lab.up(Incoming);
    lab.event(Event::Malformed {
        direction: Incoming,
        error: DecodeError::Marker,
    });
    lab.wait(SECOND * 55);
    assert!(warnings(&lab).is_empty());
    lab.wait(SECOND * 2);
    assert_eq!(warnings(&lab), [PeerWarning::NobodyCalls]);
}

#[test]
fn c7_a_peer_that_was_dialled_for_our_restart_is_waited_for_again_after_it() {
    let mut lab = Lab::new(PeerConfig {
        passive: true,
        ..config()
    });
    let restarting = LocalIdentity {
        restarting: true,
        ..identity()
    };
    lab.peer.set_identity(lab.now, restarting);
    lab.event(Event::Start);
    lab.wait(SECOND * 30);
    lab.peer.set_identity(lab.now, identity());
    lab.wait(SECOND * 54);
    assert!(warnings(&lab).is_empty());
    lab.wait(SECOND * 2);
    assert_eq!(warnings(&lab), [PeerWarning::NobodyCalls]);
}

#[test]
fn an_old_as_field_that_contradicts_the_capability_is_warned_of() {
    let lab = Lab::established_with(config(), their_open());
    assert!(warnings(&lab).is_empty());
    let mut lab = Lab::open_sent();
    lab.message(
        Outgoing,
        Message::Open(Open {
            contradicting_as: Some(7),
            ..their_open()
        }),
    );
    assert_eq!(
        warnings(&lab),
        [PeerWarning::ContradictingAs {
            my_as: 7,
            asn: THEM
        }]
    );
    lab.assert_state(State::OpenConfirm);
}
