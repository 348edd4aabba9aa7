//! What people are told: changes of state, and warnings.

use crate::codec::DecodeError;
use crate::fsm::tests::*;

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
