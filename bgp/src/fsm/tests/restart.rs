//! When routes outlive a session (RFC 4724 §4.2, RFC 8538 §4), and what our OPENs say after a restart of ours.

use super::*;
use crate::codec::{DecodeError, LongLivedFamily};
use crate::fsm::DownCause;
use crate::fsm::negotiation::Offer;
use crate::speaker::config::LongLived;

fn graceful(notification: bool) -> Lab {
    Lab::established_with(config(), graceful_open(notification))
}

#[track_caller]
fn assert_keeps(lab: &Lab, keeps: bool) {
    let reason = lab.down().expect("the session went down");
    assert_eq!(reason.keep_routes, keeps, "{reason}");
}

#[test]
fn tcp_loss_keeps_routes_of_a_graceful_peer_only() {
    let mut lab = graceful(false);
    lab.closed(Outgoing);
    assert_keeps(&lab, true);
    let mut lab = Lab::established();
    lab.closed(Outgoing);
    assert_keeps(&lab, false);
}

#[test]
fn tcp_loss_keeps_nothing_of_a_peer_whose_capability_names_no_family() {
    let mut open = their_open();
    open.capabilities.push(Capability::GracefulRestart(
        GracefulRestartCapability::default(),
    ));
    let mut lab = Lab::established_with(config(), open);
    lab.closed(Outgoing);
    assert_keeps(&lab, false);
}

#[test]
fn tcp_loss_keeps_routes_of_a_family_that_the_long_lived_capability_alone_lists() {
    let long_lived = |stale_time| LongLivedFamily {
        family: Family::IPV4_UNICAST,
        forwarding: true,
        stale_time,
    };
    let kept = |seconds| LongLived {
        stale_time: SECOND * seconds,
        partial_deployment: false,
    };
    for (ours, theirs, keeps) in [
        (Some(kept(100)), Some(100), true),
        (Some(kept(0)), Some(100), false),
        (Some(kept(100)), Some(0), false),
        (Some(kept(100)), None, false),
        (None, Some(100), false),
    ] {
        let mut open = their_open();
        open.capabilities.push(Capability::GracefulRestart(
            GracefulRestartCapability::default(),
        ));
        let families = theirs.map(long_lived).into_iter().collect();
        open.capabilities
            .push(Capability::LongLivedGracefulRestart(families));
        let config = PeerConfig {
            long_lived: ours,
            ..config()
        };
        let mut lab = Lab::established_with(config, open);
        lab.closed(Outgoing);
        assert_keeps(&lab, keeps);
    }
}

#[test]
fn tcp_loss_keeps_nothing_where_we_have_graceful_restart_off() {
    let off = PeerConfig {
        graceful_restart: None,
        ..config()
    };
    let mut lab = Lab::established_with(off, graceful_open(true));
    lab.closed(Outgoing);
    assert_keeps(&lab, false);
}

#[test]
fn g10_hold_expiry_keeps_routes_only_with_the_n_bit_on_both_sides() {
    for notification in [true, false] {
        let mut lab = graceful(notification);
        lab.wait(SECOND * 90);
        assert_keeps(&lab, notification);
    }
}

#[test]
fn a_received_notification_keeps_routes_only_with_the_n_bit_on_both_sides() {
    for notification in [true, false] {
        let mut lab = graceful(notification);
        lab.notification(Outgoing, ErrorCode::ADMINISTRATIVE_RESET);
        assert_keeps(&lab, notification);
    }
}

#[test]
fn a_received_hard_reset_keeps_nothing() {
    let mut lab = graceful(true);
    let inner = Notification::with_text(ErrorCode::ADMINISTRATIVE_SHUTDOWN, "bye");
    lab.message(Outgoing, Message::Notification(inner.into_hard_reset()));
    assert_keeps(&lab, false);
    assert!(
        pause_before_connect(&mut lab) >= 59.9,
        "the wrapped shutdown counts"
    );
}

#[test]
fn a_sent_error_notification_keeps_routes_only_with_the_n_bit_on_both_sides() {
    for notification in [true, false] {
        let mut lab = graceful(notification);
        lab.event(Event::Malformed {
            direction: Outgoing,
            error: DecodeError::AttributeList("test"),
        });
        assert_keeps(&lab, notification);
    }
}

#[test]
fn an_administrative_stop_is_a_hard_reset_where_the_peer_knows_it_and_keeps_nothing() {
    let mut lab = graceful(true);
    lab.stop(Some("bye"));
    assert_eq!(
        lab.notified(Outgoing),
        Some((6, 9, b"\x06\x02\x03bye".to_vec()))
    );
    assert_keeps(&lab, false);
    let mut lab = graceful(false);
    lab.stop(Some("bye"));
    lab.assert_notified(Outgoing, ErrorCode::ADMINISTRATIVE_SHUTDOWN);
    assert_keeps(&lab, false);
}

#[test]
fn a_reset_that_is_not_hard_keeps_routes_with_the_n_bit() {
    let mut lab = graceful(true);
    lab.event(Event::Reset(Shutdown::AdministrativeReset {
        text: None,
        hard: false,
    }));
    lab.assert_notified(Outgoing, ErrorCode::ADMINISTRATIVE_RESET);
    assert_keeps(&lab, true);
    let mut lab = graceful(true);
    lab.event(Event::Reset(Shutdown::AdministrativeReset {
        text: None,
        hard: true,
    }));
    lab.assert_notified(Outgoing, ErrorCode::HARD_RESET);
    assert_keeps(&lab, false);
}

#[test]
fn bfd_down_sends_6_10_and_keeps_routes_only_where_told_so() {
    for notification in [true, false] {
        for keep_routes in [true, false] {
            let mut lab = graceful(notification);
            lab.event(Event::Reset(Shutdown::BfdDown { keep_routes }));
            lab.assert_notified(Outgoing, ErrorCode::BFD_DOWN);
            assert_keeps(&lab, keep_routes);
        }
    }
}

#[test]
fn a_stop_for_our_restart_says_nothing() {
    let mut lab = graceful(true);
    lab.event(Event::Stop(Shutdown::Silent));
    assert!(lab.sent(Outgoing).is_empty());
    assert_eq!(lab.closes(Outgoing), Some(false));
    assert_eq!(
        lab.down().map(|reason| &reason.cause),
        Some(&DownCause::ClosedForRestart)
    );
}

fn offered(identity: LocalIdentity, preserved: bool) -> GracefulRestartCapability {
    let offer = Offer::new(&config(), &identity, preserved, false, false);
    offer
        .open()
        .capabilities
        .iter()
        .find_map(|capability| match capability {
            Capability::GracefulRestart(value) => Some(value.clone()),
            _ => None,
        })
        .expect("offered")
}

#[test]
fn a_restarted_speaker_sets_r_and_f() {
    let capability = offered(
        LocalIdentity {
            restarting: true,
            ..identity()
        },
        true,
    );
    assert!(capability.restarting);
    assert!(capability.notification);
    assert_eq!(capability.restart_time, 120);
    assert_eq!(capability.families.len(), 2);
    assert!(capability.families.iter().all(|family| family.forwarding));
}

#[test]
fn g16_a_freshly_started_speaker_sets_neither_r_nor_f() {
    let capability = offered(identity(), false);
    assert!(!capability.restarting);
    assert!(capability.families.iter().all(|family| !family.forwarding));
}

#[test]
fn from_the_second_session_on_f_is_set_because_the_kernel_lost_nothing() {
    let mut lab = Lab::new(config());
    lab.event(Event::Start);
    lab.up(Outgoing);
    let first: Vec<u8> = lab.octets(Outgoing).next().expect("an OPEN").to_vec();
    lab.message(Outgoing, Message::Open(their_open()));
    lab.message(Outgoing, Message::Keepalive);
    lab.closed(Outgoing);
    pause_before_connect(&mut lab);
    lab.up(Outgoing);
    let second: Vec<u8> = lab.octets(Outgoing).next().expect("an OPEN").to_vec();
    assert_eq!(first.len(), second.len());
    assert_ne!(first, second);
}

#[test]
fn while_routes_are_kept_for_the_neighbour_it_is_sought_every_few_seconds() {
    let mut lab = graceful(false);
    lab.closed(Outgoing);
    for _ in 0..6 {
        pause_before_connect(&mut lab);
        lab.event(Event::ConnectionFailed {
            direction: Outgoing,
        });
    }
    // The speaker noticed late: the long pause that runs already is cut short.
    let now = lab.now;
    lab.peer.set_urgent(now, true);
    for _ in 0..3 {
        assert!(pause_before_connect(&mut lab) <= 5.1);
        lab.event(Event::ConnectionFailed {
            direction: Outgoing,
        });
    }
    lab.peer.set_urgent(now, false);
    pause_before_connect(&mut lab);
    lab.event(Event::ConnectionFailed {
        direction: Outgoing,
    });
    assert!(pause_before_connect(&mut lab) > 10.0);
}

#[test]
fn a_passive_side_dials_while_it_restarts_itself_and_no_longer() {
    let passive = PeerConfig {
        passive: true,
        ..config()
    };
    let mut lab = Lab::new(passive);
    lab.peer.set_identity(
        lab.now,
        LocalIdentity {
            restarting: true,
            ..identity()
        },
    );
    lab.event(Event::Start);
    assert_eq!(lab.connects(), 1);
    lab.event(Event::ConnectionFailed {
        direction: Outgoing,
    });
    assert!(pause_before_connect(&mut lab) <= 5.1);
    lab.peer.set_identity(lab.now, identity());
    lab.outputs.clear();
    lab.wait(SECOND * 600);
    assert_eq!(lab.connects(), 0);
    assert_eq!(
        lab.closes(Outgoing),
        Some(false),
        "the attempt was given up"
    );
    lab.assert_state(State::Active);
}
