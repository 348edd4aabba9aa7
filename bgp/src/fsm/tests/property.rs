//! Whatever happens in whatever order: no panic, at most one session, and orderly news of it.

use proptest::prelude::*;

use super::*;
use crate::codec::DecodeError;

/// One thing to do to a peer.
#[derive(Clone, Debug)]
enum Step {
    Start,
    Stop,
    Reset,
    Up(Direction),
    Failed,
    Closed(Direction),
    Open(Direction, u32, bool),
    Keepalive(Direction),
    Update(Direction),
    Notification(Direction, u8, u8),
    Malformed(Direction),
    Heard(Direction),
    Accepted(Direction),
    Limit,
    Wait(u64),
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Outgoing), Just(Incoming), Just(SecondIncoming)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Start),
        1 => Just(Step::Stop),
        1 => Just(Step::Reset),
        6 => direction().prop_map(Step::Up),
        1 => Just(Step::Failed),
        2 => direction().prop_map(Step::Closed),
        8 => (direction(), 99..102_u32, any::<bool>()).prop_map(|(d, id, graceful)| Step::Open(d, id, graceful)),
        8 => direction().prop_map(Step::Keepalive),
        2 => direction().prop_map(Step::Update),
        1 => (direction(), 0..9_u8, 0..11_u8).prop_map(|(d, c, s)| Step::Notification(d, c, s)),
        1 => direction().prop_map(Step::Malformed),
        1 => direction().prop_map(Step::Heard),
        1 => direction().prop_map(Step::Accepted),
        1 => Just(Step::Limit),
        3 => (0..400_000_u64).prop_map(Step::Wait),
    ]
}

fn apply(lab: &mut Lab, step: Step) {
    match step {
        Step::Start => lab.event(Event::Start),
        Step::Stop => lab.stop(Some("text")),
        Step::Reset => lab.event(Event::Reset(Shutdown::ConfigurationChange)),
        Step::Up(direction) => lab.up(direction),
        Step::Failed => lab.event(Event::ConnectionFailed {
            direction: Outgoing,
        }),
        Step::Closed(direction) => lab.closed(direction),
        Step::Open(direction, router_id, graceful) => {
            let open = if graceful {
                graceful_open(true)
            } else {
                their_open()
            };
            lab.message(
                direction,
                Message::Open(Open {
                    router_id: id(router_id),
                    ..open
                }),
            );
        }
        Step::Keepalive(direction) => lab.message(direction, Message::Keepalive),
        Step::Update(direction) => lab.message(direction, update()),
        Step::Notification(direction, code, subcode) => {
            lab.notification(direction, ErrorCode::new(code, subcode));
        }
        Step::Malformed(direction) => lab.event(Event::Malformed {
            direction,
            error: DecodeError::Marker,
        }),
        Step::Heard(direction) => lab.event(Event::Heard { direction }),
        Step::Accepted(direction) => lab.event(Event::BytesAccepted { direction }),
        Step::Limit => lab.event(Event::PrefixLimit {
            family: Family::IPV4_UNICAST,
            limit: 1,
            restart: Some(SECOND),
        }),
        Step::Wait(milliseconds) => lab.wait(Duration::from_millis(milliseconds)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_events_breaks_the_machine(steps in proptest::collection::vec(step(), 1..120)) {
        let mut lab = Lab::new(config());
        let mut up = false;
        let mut reported = State::Idle;
        for step in steps {
            apply(&mut lab, step);
            for output in lab.take() {
                match output {
                    PeerOutput::Established(_) => {
                        prop_assert!(!up, "a second session beside the first");
                        up = true;
                    }
                    PeerOutput::Down(_) => {
                        prop_assert!(up, "the end of no session");
                        up = false;
                    }
                    PeerOutput::Update(_) | PeerOutput::RouteRefresh(_) => {
                        prop_assert!(up, "routes without a session");
                    }
                    PeerOutput::StateChanged { from, to, .. } => {
                        prop_assert_eq!(from, reported);
                        prop_assert_ne!(from, to);
                        reported = to;
                    }
                    _ => {}
                }
            }
            prop_assert_eq!(up, lab.peer.established().is_some());
            prop_assert_eq!(up, lab.peer.state() == State::Established);
            prop_assert_eq!(reported, lab.peer.state());
            // A neighbour that runs is never forgotten: it dials, waits for a timer or has a connection.
            if lab.peer.state() == State::Active {
                prop_assert!(lab.peer.poll_timeout().is_some(), "nothing left to do");
            }
        }
    }
}
