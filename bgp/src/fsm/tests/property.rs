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
    Open(Direction, u32, bool, bool),
    Keepalive(Direction),
    Update(Direction),
    Notification(Direction, u8, u8),
    Malformed(Direction),
    Heard(Direction),
    Accepted(Direction),
    Limit,
    Held(bool),
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
        8 => (direction(), 99..102_u32, any::<bool>(), any::<bool>())
            .prop_map(|(d, id, graceful, holds)| Step::Open(d, id, graceful, holds)),
        8 => direction().prop_map(Step::Keepalive),
        2 => direction().prop_map(Step::Update),
        1 => (direction(), 0..9_u8, 0..11_u8).prop_map(|(d, c, s)| Step::Notification(d, c, s)),
        1 => direction().prop_map(Step::Malformed),
        1 => direction().prop_map(Step::Heard),
        1 => direction().prop_map(Step::Accepted),
        1 => Just(Step::Limit),
        1 => any::<bool>().prop_map(Step::Held),
        3 => (0..400_000_u64).prop_map(Step::Wait),
    ]
}

/// Configurations that go to the limits of what may be asked, and beyond.
fn any_config(longest: Duration) -> impl Strategy<Value = PeerConfig> {
    let pause = move || {
        prop_oneof![
            2 => Just(SECOND),
            1 => Just(Duration::ZERO),
            1 => Just(Duration::from_millis(1)),
            1 => Just(longest),
        ]
    };
    let pauses = (pause(), pause(), pause(), pause());
    let remote = prop_oneof![
        2 => Just("192.0.2.2:179"),
        1 => Just("192.0.2.2:0"),
    ];
    (pauses, remote, any::<bool>()).prop_map(|(pauses, remote, passive)| PeerConfig {
        connect_retry: pauses.0,
        connect_retry_max: pauses.1,
        idle_hold: pauses.2,
        idle_hold_max: pauses.3,
        remote: Remote::Address(remote.parse().expect("an address")),
        passive,
        ..config()
    })
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
        Step::Open(direction, router_id, graceful, holds) => {
            let open = if graceful {
                graceful_open(true)
            } else {
                their_open()
            };
            lab.message(
                direction,
                Message::Open(Open {
                    router_id: id(router_id),
                    hold_time: if holds {
                        open.hold_time
                    } else {
                        HoldTime::NONE
                    },
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
        Step::Held(held) => {
            lab.peer.set_held(lab.now, held);
            lab.drain();
        }
        Step::Wait(milliseconds) => lab.wait(Duration::from_millis(milliseconds)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_events_breaks_the_machine(
        config in any_config(Duration::MAX),
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let passive = config.waits();
        let mut lab = Lab::new(config);
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
            // A neighbour that runs is never forgotten: it dials, waits for a timer or has a connection, or is waited for.
            if lab.peer.state() == State::Active && !passive {
                prop_assert!(lab.peer.poll_timeout().is_some(), "nothing left to do");
            }
        }
    }
}

/// What the other side of a connection sees of it, so that order can be judged.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    open_sent: bool,
    ended: bool,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// On each connection: OPEN comes first, and nothing follows a NOTIFICATION or the order to close.
    #[test]
    fn what_is_said_on_a_connection_is_in_order(steps in proptest::collection::vec(step(), 1..120)) {
        let mut lab = Lab::new(PeerConfig { delay_open: Some(SECOND), ..config() });
        let mut seen: [Option<Seen>; 3] = [None; 3];
        for step in steps {
            let up = match &step {
                Step::Up(direction) => Some(*direction),
                _ => None,
            };
            if let Some(direction) = up {
                // An accepted connection takes the place of the one before; of two we dialled there is no second.
                let place = &mut seen[direction as usize];
                if direction.is_incoming() || place.is_none() {
                    *place = Some(Seen::default());
                }
            }
            // The other side ended it: nothing can be said on it any more, and nobody is asked to close it.
            if let Step::Closed(direction) = &step {
                seen[*direction as usize] = None;
            }
            apply(&mut lab, step);
            for output in lab.take() {
                match output {
                    PeerOutput::Send { direction, bytes } => {
                        let Some(seen) = &mut seen[direction as usize] else {
                            prop_assert!(false, "said on no connection");
                            continue;
                        };
                        prop_assert!(!seen.ended, "said after the end");
                        let kind = bytes[18];
                        prop_assert_eq!(kind == 1, !seen.open_sent, "type {} on {}", kind, direction);
                        seen.open_sent = true;
                        seen.ended = kind == 3;
                    }
                    PeerOutput::Close { direction, .. } => seen[direction as usize] = None,
                    PeerOutput::UseContext { direction, .. } => {
                        prop_assert!(seen[direction as usize].is_some_and(|seen| seen.open_sent));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Left alone, a neighbour that runs never stays where it is: every state but a session without hold time has a timer, and
    /// what waits for the other side ends by it.
    #[test]
    fn every_state_that_waits_ends_by_a_timer(
        config in any_config(SECOND * 60),
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut lab = Lab::new(config);
        for step in steps {
            apply(&mut lab, step);
        }
        let state = lab.peer.state();
        if lab.peer.established().is_some_and(|up| up.hold_time == HoldTime::NONE) {
            // That is what was asked for.
            lab.wait(SECOND * 600);
            prop_assert_eq!(lab.peer.state(), State::Established);
        } else if matches!(state, State::Connect | State::OpenSent | State::OpenConfirm | State::Established) {
            prop_assert!(lab.peer.poll_timeout().is_some(), "{state} has no timer");
            lab.outputs.clear();
            lab.wait(SECOND * 600);
            let moved = lab.outputs.iter().any(|output| {
                matches!(output, PeerOutput::Close { .. } | PeerOutput::StateChanged { .. } | PeerOutput::Connect)
            });
            prop_assert!(moved, "{state} lasts for ever");
        }
    }
}

/// One side of a pair of neighbours that dial each other.
#[derive(Debug)]
struct Side {
    lab: Lab,
    /// Its connection, by direction.
    lines: [Option<usize>; 3],
}

/// Something under way between the two.
#[derive(Clone, Debug)]
enum Flight {
    /// A connection attempt arrives.
    Syn(usize),
    /// The attempt was taken, or not.
    Answer(usize, bool),
    Octets(usize, bytes::Bytes),
    Fin(usize),
}

/// Two real machines and a network that delays each thing by a drawn time, in order per connection and direction.
struct Pair {
    sides: [Side; 2],
    now: Instant,
    flights: Vec<(Instant, u64, usize, Flight)>,
    /// When the last thing of a connection towards a side arrives.
    latest: std::collections::BTreeMap<(usize, usize), Instant>,
    serial: u64,
    connections: usize,
    delays: Vec<u64>,
}

fn address(side: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, u8::try_from(side + 1).expect("two sides")], 179))
}

impl Pair {
    fn new(ids: [u32; 2], asns: [u32; 2], delays: Vec<u64>, graceful: bool) -> Self {
        let side = |own: usize| {
            let other = 1 - own;
            let peer = PeerConfig {
                remote: Remote::Address(address(other)),
                asn: Asn(asns[other]).into(),
                graceful_restart: config().graceful_restart.filter(|_| graceful),
                ..config()
            };
            let mut lab = Lab::new(peer);
            lab.peer.set_identity(
                lab.now,
                LocalIdentity {
                    asn: Asn(asns[own]),
                    router_id: id(ids[own]),
                    ..identity()
                },
            );
            Side {
                lab,
                lines: [None; 3],
            }
        };
        let sides = [side(0), side(1)];
        let now = sides[0].lab.now.max(sides[1].lab.now);
        let mut pair = Self {
            sides,
            now,
            flights: Vec::new(),
            latest: std::collections::BTreeMap::new(),
            serial: 0,
            connections: 0,
            delays,
        };
        for own in [0, 1] {
            pair.sides[own].lab.now = now;
            pair.sides[own].lab.event(Event::Start);
            pair.obey(own);
        }
        pair
    }

    fn send(&mut self, to: usize, connection: usize, flight: Flight) {
        let index = usize::try_from(self.serial).expect("few flights") % self.delays.len();
        let at = self.now + Duration::from_millis(self.delays[index]);
        let latest = self.latest.entry((connection, to)).or_insert(at);
        *latest = at.max(*latest);
        self.flights.push((*latest, self.serial, to, flight));
        self.serial += 1;
    }

    fn obey(&mut self, own: usize) {
        for output in self.sides[own].lab.take() {
            match output {
                PeerOutput::Connect => {
                    let connection = self.connections;
                    self.connections += 1;
                    self.sides[own].lines[Outgoing as usize] = Some(connection);
                    self.send(1 - own, connection, Flight::Syn(connection));
                }
                PeerOutput::Send { direction, bytes } => {
                    if let Some(connection) = self.sides[own].lines[direction as usize] {
                        self.send(1 - own, connection, Flight::Octets(connection, bytes));
                    }
                }
                PeerOutput::Close { direction, .. } => {
                    if let Some(connection) = self.sides[own].lines[direction as usize].take() {
                        self.send(1 - own, connection, Flight::Fin(connection));
                    }
                }
                _ => {}
            }
        }
    }

    fn direction_of(&self, own: usize, connection: usize) -> Option<Direction> {
        Direction::ALL
            .into_iter()
            .find(|direction| self.sides[own].lines[*direction as usize] == Some(connection))
    }

    fn up(&mut self, own: usize, direction: Direction) {
        self.sides[own].lab.event(Event::ConnectionUp {
            direction,
            local: address(own),
            remote: address(1 - own),
        });
    }

    fn land(&mut self, own: usize, flight: Flight) {
        match flight {
            Flight::Syn(connection) => {
                let admission = self.sides[own].lab.peer.admit(self.now);
                let Admission::Accept(direction) = admission else {
                    return self.send(1 - own, connection, Flight::Answer(connection, false));
                };
                if let Some(earlier) = self.sides[own].lines[direction as usize].take() {
                    self.send(1 - own, earlier, Flight::Fin(earlier));
                }
                self.sides[own].lines[direction as usize] = Some(connection);
                self.send(1 - own, connection, Flight::Answer(connection, true));
                self.up(own, direction);
            }
            Flight::Answer(connection, taken) => match self.direction_of(own, connection) {
                Some(direction) if taken => self.up(own, direction),
                Some(direction) => {
                    self.sides[own].lines[direction as usize] = None;
                    self.sides[own]
                        .lab
                        .event(Event::ConnectionFailed { direction });
                }
                None => {
                    if taken {
                        self.send(1 - own, connection, Flight::Fin(connection));
                    }
                }
            },
            Flight::Octets(connection, octets) => {
                if let Some(direction) = self.direction_of(own, connection) {
                    let message =
                        crate::codec::decode(&octets, &crate::codec::CodecContext::before_open());
                    self.sides[own]
                        .lab
                        .message(direction, message.expect("written by the other side"));
                }
            }
            Flight::Fin(connection) => {
                if let Some(direction) = self.direction_of(own, connection) {
                    self.sides[own].lines[direction as usize] = None;
                    self.sides[own].lab.closed(direction);
                }
            }
        }
        self.obey(own);
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let flight = self
                .flights
                .iter()
                .map(|(at, serial, ..)| (*at, *serial))
                .min();
            let timers = self
                .sides
                .iter()
                .filter_map(|side| side.lab.peer.poll_timeout())
                .min();
            let next = [flight.map(|(at, _)| at), timers]
                .into_iter()
                .flatten()
                .min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            for side in &mut self.sides {
                side.lab.now = self.now;
            }
            match flight {
                Some((at, serial)) if at <= self.now => {
                    let index = self
                        .flights
                        .iter()
                        .position(|(_, other, ..)| *other == serial)
                        .expect("found above");
                    let (_, _, to, flight) = self.flights.remove(index);
                    self.land(to, flight);
                }
                _ => {
                    for own in [0, 1] {
                        let now = self.now;
                        self.sides[own].lab.peer.handle_timeout(now);
                        self.sides[own].lab.drain();
                        self.obey(own);
                    }
                }
            }
        }
        self.now = end;
        for side in &mut self.sides {
            side.lab.now = end;
        }
    }

    fn session(&self, own: usize) -> Option<usize> {
        let negotiated = self.sides[own].lab.peer.established()?;
        self.sides[own].lines[negotiated.direction as usize]
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Two neighbours dial each other over a network that delays at will: within half a minute they agree on one connection,
    /// and both keep it.
    #[test]
    fn both_sides_of_a_collision_end_on_the_same_connection(
        ids in prop_oneof![Just([1, 2]), Just([2, 1]), Just([5, 5])],
        asns in prop_oneof![Just([64512, 64600]), Just([64600, 64512]), Just([64512, 64512])],
        graceful in any::<bool>(),
        delays in proptest::collection::vec(prop_oneof![3 => 0..20_u64, 1 => 0..400_u64], 8..64),
    ) {
        // Inside one AS equal identifiers are an error.
        prop_assume!(ids[0] != ids[1] || asns[0] != asns[1]);
        let mut pair = Pair::new(ids, asns, delays, graceful);
        pair.run(SECOND * 30);
        let first = [pair.session(0), pair.session(1)];
        prop_assert!(first[0].is_some(), "no session");
        prop_assert_eq!(first[0], first[1], "each side has its own");
        for side in &pair.sides {
            prop_assert_eq!(side.lines.iter().flatten().count(), 1, "what lost is still there");
        }
        pair.run(SECOND * 30);
        prop_assert_eq!([pair.session(0), pair.session(1)], first, "it did not last");
    }
}
