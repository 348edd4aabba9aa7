//! Two ends joined by a wire on an invented clock, and an end that plays by no rules.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn address(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, number))
}

fn config(remote: u8) -> SessionConfig {
    SessionConfig {
        remote: address(remote),
        scope: 0,
        local: None,
        min_tx: 100 * MS,
        min_rx: 100 * MS,
        multiplier: 3,
        multihop: None,
    }
}

fn arrival(source: u8) -> Arrival {
    Arrival {
        source: address(source),
        destination: None,
        interface: 7,
        ttl: Some(255),
        multihop: false,
    }
}

/// One end: its sessions, when it sent what, and what it was told.
struct End {
    sessions: Sessions<u8>,
    number: u8,
    sent: Vec<(Instant, ControlPacket)>,
    reports: Vec<(Instant, Report)>,
    deaf: bool,
}

/// A wire of one millisecond.
struct Wire {
    now: Instant,
    ends: [End; 2],
    flights: Vec<(Instant, usize, [u8; PACKET_LEN])>,
    cut: bool,
}

impl Wire {
    fn new() -> Self {
        let now = Instant::now();
        let end = |number| End {
            sessions: Sessions::new(u64::from(number)),
            number,
            sent: Vec::new(),
            reports: Vec::new(),
            deaf: false,
        };
        Self {
            now,
            ends: [end(1), end(2)],
            flights: Vec::new(),
            cut: false,
        }
    }

    fn up() -> Self {
        let mut wire = Self::new();
        wire.configure(0, config(2));
        wire.configure(1, config(1));
        wire.run(5 * SECOND);
        wire.assert_states(State::Up, State::Up);
        wire
    }

    fn configure(&mut self, end: usize, config: SessionConfig) {
        self.ends[end].sessions.configure(0, config, self.now);
        self.drain(end);
    }

    fn drain(&mut self, at: usize) {
        let now = self.now;
        let end = &mut self.ends[at];
        while let Some(output) = end.sessions.poll_output() {
            match output {
                Output::Send { octets, .. } => {
                    let packet = ControlPacket::decode(&octets).expect("what we send is good");
                    end.sent.push((now, packet));
                    if !self.cut {
                        self.flights.push((now + MS, 1 - at, octets));
                    }
                }
                Output::Report { report, .. } => end.reports.push((now, report)),
                Output::Open { .. } | Output::Close { .. } | Output::TooFar { .. } => {}
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let flights = self.flights.iter().map(|(at, ..)| *at);
            let timers = self
                .ends
                .iter()
                .filter_map(|end| end.sessions.poll_timeout());
            let next = flights.chain(timers).min().unwrap_or(until);
            if next > until {
                break;
            }
            self.now = self.now.max(next);
            let now = self.now;
            let (due, rest) = std::mem::take(&mut self.flights)
                .into_iter()
                .partition(|(at, ..)| *at <= now);
            self.flights = rest;
            for (_, to, octets) in due {
                if !self.ends[to].deaf {
                    let from = self.ends[1 - to].number;
                    self.ends[to]
                        .sessions
                        .handle_datagram(&arrival(from), &octets, now);
                    self.drain(to);
                }
            }
            for at in 0..2 {
                self.ends[at].sessions.handle_timeout(now);
                self.drain(at);
            }
        }
        self.now = until;
    }

    fn status(&self, end: usize) -> Status {
        self.ends[end].sessions.status(0).expect("a session")
    }

    #[track_caller]
    fn assert_states(&self, one: State, other: State) {
        assert_eq!((self.status(0).state, self.status(1).state), (one, other));
    }

    fn losses(&self, end: usize) -> Vec<Loss> {
        let reports = self.ends[end].reports.iter();
        reports.filter_map(|(_, report)| report.loss).collect()
    }

    fn clear(&mut self) {
        for end in &mut self.ends {
            end.sent.clear();
            end.reports.clear();
        }
    }
}

/// A packet of the other end, made by hand.
fn packet(state: State, your_discriminator: u32) -> ControlPacket {
    ControlPacket {
        diagnostic: Diagnostic::NONE,
        state,
        poll: false,
        is_final: false,
        control_plane_independent: false,
        demand: false,
        multiplier: 3,
        my_discriminator: 77,
        your_discriminator,
        desired_min_tx: 100 * MS,
        required_min_rx: 100 * MS,
    }
}

#[test]
fn two_ends_come_up_and_settle_the_faster_interval() {
    let wire = Wire::up();
    for end in 0..2 {
        let status = wire.status(end);
        assert_eq!(status.transmit_interval, 100 * MS);
        assert_eq!(status.detection_time, 300 * MS);
        assert!(wire.losses(end).is_empty());
    }
    let polled = wire.ends[0].sent.iter().any(|(_, packet)| packet.poll);
    let answered = wire.ends[0].sent.iter().any(|(_, packet)| packet.is_final);
    assert!(polled && answered, "the change to 100 ms is polled");
}

#[test]
fn before_up_packets_are_at_least_three_quarters_of_a_second_apart() {
    let mut wire = Wire::new();
    wire.configure(0, config(2));
    wire.run(20 * SECOND);
    let sent: Vec<Instant> = wire.ends[0].sent.iter().map(|(at, _)| *at).collect();
    assert!(sent.len() > 15, "{}", sent.len());
    for pair in sent.windows(2) {
        let gap = pair[1] - pair[0];
        assert!((750 * MS..=SECOND).contains(&gap), "{gap:?}");
    }
}

#[test]
fn intervals_are_jittered_between_75_and_100_percent() {
    let mut wire = Wire::up();
    wire.clear();
    wire.run(30 * SECOND);
    let sent: Vec<Instant> = wire.ends[0].sent.iter().map(|(at, _)| *at).collect();
    let gaps: Vec<Duration> = sent.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| (75 * MS..=100 * MS).contains(gap)));
    assert!(gaps.iter().any(|gap| *gap < 80 * MS) && gaps.iter().any(|gap| *gap > 95 * MS));
}

#[test]
fn with_a_multiplier_of_one_jitter_ends_at_90_percent() {
    let mut wire = Wire::new();
    for (end, remote) in [(0, 2), (1, 1)] {
        let config = SessionConfig {
            multiplier: 1,
            ..config(remote)
        };
        wire.configure(end, config);
    }
    wire.run(60 * SECOND);
    wire.assert_states(State::Up, State::Up);
    assert!(wire.losses(0).is_empty());
    wire.clear();
    wire.run(10 * SECOND);
    let sent: Vec<Instant> = wire.ends[0].sent.iter().map(|(at, _)| *at).collect();
    assert!(
        sent.windows(2)
            .all(|pair| (75 * MS..=90 * MS).contains(&(pair[1] - pair[0])))
    );
}

#[test]
fn a_cut_wire_is_noticed_within_the_detection_time() {
    let mut wire = Wire::up();
    wire.clear();
    let cut = wire.now;
    wire.cut = true;
    wire.flights.clear();
    wire.run(SECOND);
    for end in 0..2 {
        let (at, report) = wire.ends[end]
            .reports
            .iter()
            .find(|(_, report)| report.loss.is_some())
            .expect("noticed");
        assert!(*at - cut <= 300 * MS, "{:?}", *at - cut);
        assert_eq!(report.status.diagnostic, Diagnostic::DETECTION_TIME_EXPIRED);
        assert_eq!(report.status.remote_discriminator, 0);
    }
    wire.cut = false;
    wire.run(5 * SECOND);
    wire.assert_states(State::Up, State::Up);
}

#[test]
fn an_end_that_hears_nothing_takes_the_other_down_with_it() {
    let mut wire = Wire::up();
    wire.clear();
    wire.ends[1].deaf = true;
    wire.run(SECOND);
    assert_eq!(
        wire.losses(0)[0].diagnostic,
        Diagnostic::NEIGHBOR_SIGNALED_DOWN
    );
    assert_eq!(
        wire.losses(1)[0].diagnostic,
        Diagnostic::DETECTION_TIME_EXPIRED
    );
    // One end is heard, so it stays in Init and never claims that the path is up.
    wire.run(10 * SECOND);
    assert_ne!(wire.status(0).state, State::Up);
    assert_ne!(wire.status(1).state, State::Up);
}

#[test]
fn a_session_taken_down_on_purpose_is_no_loss_for_the_other_end() {
    let mut wire = Wire::up();
    wire.clear();
    wire.ends[1].sessions.remove(0, wire.now);
    wire.drain(1);
    wire.run(10 * SECOND);
    let status = wire.status(0);
    assert_eq!(status.state, State::Down);
    assert!(wire.losses(0).is_empty(), "{:?}", wire.losses(0));
    let said = &wire.ends[1].sent;
    assert!(
        said.iter()
            .all(|(_, packet)| packet.state == State::AdminDown)
    );
    assert!(said.len() > 1, "it is said more than once");
    assert_eq!(wire.ends[1].sessions.poll_timeout(), None, "and forgotten");
    // It may come back.
    wire.configure(1, config(1));
    wire.run(5 * SECOND);
    wire.assert_states(State::Up, State::Up);
}

#[test]
fn a_session_that_comes_back_at_once_is_not_contradicted_by_its_goodbye() {
    let mut wire = Wire::up();
    wire.ends[1].sessions.remove(0, wire.now);
    wire.drain(1);
    wire.configure(1, config(1));
    wire.clear();
    wire.run(5 * SECOND);
    wire.assert_states(State::Up, State::Up);
    assert!(
        wire.ends[1]
            .sent
            .iter()
            .all(|(_, packet)| packet.state != State::AdminDown)
    );
}

#[test]
fn other_timers_are_polled_and_end_nothing() {
    let mut wire = Wire::up();
    for (min_tx, min_rx, multiplier) in [(500, 400, 3), (50, 20, 5), (100, 100, 3)] {
        wire.clear();
        let config = SessionConfig {
            min_tx: min_tx * MS,
            min_rx: min_rx * MS,
            multiplier,
            ..config(2)
        };
        wire.configure(0, config);
        wire.run(10 * SECOND);
        wire.assert_states(State::Up, State::Up);
        assert!(wire.losses(0).is_empty() && wire.losses(1).is_empty());
        assert!(wire.ends[0].sent.iter().any(|(_, packet)| packet.poll));
        let last = wire.ends[0].sent.last().expect("sent");
        assert!(!last.1.poll, "the poll was answered");
        let interval = (min_tx * MS).max(100 * MS);
        assert_eq!(wire.status(0).transmit_interval, interval);
        assert_eq!(
            wire.status(1).detection_time,
            interval * u32::from(multiplier)
        );
    }
}

#[test]
fn a_slower_interval_is_not_used_before_the_other_end_agrees() {
    let mut wire = Wire::up();
    wire.clear();
    wire.cut = true;
    let config = SessionConfig {
        min_tx: SECOND,
        ..config(2)
    };
    wire.configure(0, config);
    wire.run(290 * MS);
    assert!(wire.ends[0].sent.len() >= 3, "{}", wire.ends[0].sent.len());
    assert!(
        wire.ends[0]
            .sent
            .iter()
            .all(|(_, packet)| packet.desired_min_tx == SECOND)
    );
}

#[test]
fn a_peer_that_restarted_is_recognised_by_its_address() {
    let mut wire = Wire::up();
    wire.clear();
    let mut restarted = Sessions::new(99);
    restarted.configure(0, config(1), wire.now);
    wire.ends[1].sessions = restarted;
    wire.drain(1);
    wire.run(5 * SECOND);
    wire.assert_states(State::Up, State::Up);
    assert_eq!(
        wire.losses(0)[0].diagnostic,
        Diagnostic::NEIGHBOR_SIGNALED_DOWN
    );
}

/// A session of ours and what it is asked, without another end.
struct Solo {
    sessions: Sessions<u8>,
    now: Instant,
}

impl Solo {
    fn new(config: SessionConfig) -> Self {
        let now = Instant::now();
        let mut sessions = Sessions::new(5);
        sessions.configure(0, config, now);
        let mut solo = Self { sessions, now };
        solo.outputs();
        solo
    }

    fn outputs(&mut self) -> Vec<Output<u8>> {
        std::iter::from_fn(|| self.sessions.poll_output()).collect()
    }

    fn sent(&mut self) -> Vec<ControlPacket> {
        let sent = |output| match output {
            Output::Send { octets, .. } => ControlPacket::decode(&octets).ok(),
            Output::Open { .. }
            | Output::Close { .. }
            | Output::Report { .. }
            | Output::TooFar { .. } => None,
        };
        self.outputs().into_iter().filter_map(sent).collect()
    }

    fn hear(&mut self, arrival: &Arrival, packet: &ControlPacket) {
        self.sessions
            .handle_datagram(arrival, &packet.encode(), self.now);
    }

    fn status(&self) -> Status {
        self.sessions.status(0).expect("a session")
    }

    fn discriminator(&self) -> u32 {
        self.status().local_discriminator
    }

    fn up(config: SessionConfig) -> Self {
        let mut solo = Self::new(config);
        let discriminator = solo.discriminator();
        solo.hear(&arrival(2), &packet(State::Down, 0));
        solo.hear(&arrival(2), &packet(State::Init, discriminator));
        assert_eq!(solo.status().state, State::Up);
        solo.outputs();
        solo
    }
}

#[test]
fn every_state_meets_every_state_as_rfc_5880_6_8_6_says() {
    use State::{AdminDown, Down, Init, Up};
    // Ours, what is heard, ours then; the diagnostic where it changes to Down.
    let table = [
        (Down, AdminDown, Down),
        (Down, Down, Init),
        (Down, Init, Up),
        (Down, Up, Down),
        (Init, AdminDown, Down),
        (Init, Down, Init),
        (Init, Init, Up),
        (Init, Up, Up),
        (Up, AdminDown, Down),
        (Up, Down, Down),
        (Up, Init, Up),
        (Up, Up, Up),
    ];
    for (ours, heard, then) in table {
        let mut solo = match ours {
            Up => Solo::up(config(2)),
            AdminDown | Down | Init => Solo::new(config(2)),
        };
        if ours == Init {
            solo.hear(&arrival(2), &packet(Down, 0));
        }
        assert_eq!(solo.status().state, ours);
        let discriminator = solo.discriminator();
        solo.hear(&arrival(2), &packet(heard, discriminator));
        assert_eq!(solo.status().state, then, "{ours} hears {heard}");
        if ours != then && then == Down {
            let diagnostic = solo.status().diagnostic;
            assert_eq!(diagnostic, Diagnostic::NEIGHBOR_SIGNALED_DOWN);
        }
    }
}

#[test]
fn a_poll_is_answered_at_once_and_never_with_a_poll() {
    let mut solo = Solo::up(config(2));
    let question = ControlPacket {
        poll: true,
        ..packet(State::Up, solo.discriminator())
    };
    solo.hear(&arrival(2), &question);
    let sent = solo.sent();
    let answer = sent.first().expect("an answer");
    assert!(answer.is_final && !answer.poll, "{answer:?}");
}

#[test]
fn a_change_of_state_is_told_at_once() {
    let mut solo = Solo::new(config(2));
    solo.hear(&arrival(2), &packet(State::Down, 0));
    let sent = solo.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(
        (sent[0].state, sent[0].your_discriminator),
        (State::Init, 77)
    );
}

#[test]
fn one_hop_means_a_ttl_of_255() {
    let mut solo = Solo::new(config(2));
    for ttl in [None, Some(254), Some(1)] {
        let far = Arrival { ttl, ..arrival(2) };
        solo.hear(&far, &packet(State::Down, 0));
    }
    assert_eq!(solo.status().state, State::Down);
    assert_eq!(solo.sessions.counters().ttl, 3);
    assert!(solo.sent().is_empty(), "nothing hostile is answered");
}

#[test]
fn several_hops_cost_as_much_ttl_as_configured() {
    let mut solo = Solo::new(SessionConfig {
        multihop: Some(3),
        ..config(2)
    });
    let from = |ttl| Arrival {
        ttl: Some(ttl),
        multihop: true,
        ..arrival(2)
    };
    solo.hear(&from(252), &packet(State::Down, 0));
    assert_eq!(solo.status().state, State::Down);
    solo.hear(&arrival(2), &packet(State::Down, 0));
    assert_eq!(solo.sessions.counters().unknown, 1, "the port of one hop");
    solo.hear(&from(253), &packet(State::Down, 0));
    assert_eq!(solo.status().state, State::Init);
}

#[test]
fn a_path_that_may_have_more_hops_than_before_is_the_same_session() {
    let far = |hops| SessionConfig {
        multihop: Some(hops),
        ..config(2)
    };
    let from = |ttl| Arrival {
        ttl: Some(ttl),
        multihop: true,
        ..arrival(2)
    };
    let mut solo = Solo::new(far(2));
    let discriminator = solo.discriminator();
    solo.hear(&from(254), &packet(State::Down, 0));
    solo.hear(&from(254), &packet(State::Init, discriminator));
    assert_eq!(solo.status().state, State::Up);
    solo.outputs();
    solo.sessions.configure(0, far(3), solo.now);
    assert_eq!(solo.discriminator(), discriminator);
    assert_eq!(solo.status().state, State::Up);
    assert!(solo.sent().is_empty(), "the other end has nothing to know");
    solo.hear(&from(253), &packet(State::Up, discriminator));
    assert_eq!(solo.sessions.counters().ttl, 0);
    solo.sessions.configure(0, far(1), solo.now);
    for _ in 0..2 {
        solo.hear(&from(254), &packet(State::Up, discriminator));
    }
    assert_eq!(solo.sessions.counters().ttl, 2, "the least TTL is in force");
    assert_eq!(solo.status().state, State::Up, "and says nothing itself");
    let told = |outputs: Vec<Output<u8>>| {
        let too_far = |output: &Output<u8>| {
            matches!(
                output,
                Output::TooFar {
                    ttl: 254,
                    least: 255,
                    ..
                }
            )
        };
        outputs.iter().filter(|output| too_far(output)).count()
    };
    assert_eq!(told(solo.outputs()), 1, "once");
    // BIRD sends with 64.
    solo.sessions.configure(0, far(Bfd::ANY_HOPS), solo.now);
    solo.hear(&from(63), &packet(State::Down, discriminator));
    assert_eq!(solo.status().state, State::Down);
    assert_eq!(solo.sessions.counters().ttl, 2);
}

#[test]
fn a_discriminator_from_a_wrong_place_is_nobodys() {
    let mut solo = Solo::up(config(2));
    let down = packet(State::Down, solo.discriminator());
    solo.hear(&arrival(3), &down);
    assert_eq!(solo.status().state, State::Up);
    assert_eq!(solo.sessions.counters().unknown, 1);
}

#[test]
fn a_link_local_neighbour_is_one_on_its_interface() {
    let mut solo = Solo::new(SessionConfig {
        scope: 7,
        ..config(2)
    });
    let elsewhere = Arrival {
        interface: 8,
        ..arrival(2)
    };
    solo.hear(&elsewhere, &packet(State::Down, 0));
    assert_eq!(solo.status().state, State::Down);
    solo.hear(&arrival(2), &packet(State::Down, 0));
    assert_eq!(solo.status().state, State::Init);
}

#[test]
fn a_peer_that_wants_no_packets_gets_none_until_it_is_forgotten() {
    let mut solo = Solo::up(config(2));
    let quiet = ControlPacket {
        required_min_rx: Duration::ZERO,
        is_final: true,
        ..packet(State::Up, solo.discriminator())
    };
    solo.hear(&arrival(2), &quiet);
    solo.outputs();
    solo.now += 290 * MS;
    solo.sessions.handle_timeout(solo.now);
    assert!(solo.sent().is_empty());
    solo.now += 20 * MS;
    solo.sessions.handle_timeout(solo.now);
    assert_eq!(solo.status().state, State::Down);
    assert_eq!(solo.sent().len(), 1, "the loss is told all the same");
    solo.now += 2 * SECOND;
    solo.sessions.handle_timeout(solo.now);
    assert_eq!(solo.sent().len(), 1, "and it is called again");
}

#[test]
fn a_forged_discriminator_and_a_detection_time_of_hours_do_not_part_two_ends() {
    let mut wire = Wire::new();
    wire.configure(0, config(2));
    wire.configure(1, config(1));
    let forged = ControlPacket {
        state: State::AdminDown,
        multiplier: 255,
        desired_min_tx: 4_000 * SECOND,
        required_min_rx: 4_000 * SECOND,
        ..packet(State::AdminDown, 0)
    };
    for (end, number) in [(0, 2), (1, 1)] {
        let now = wire.now;
        let sessions = &mut wire.ends[end].sessions;
        sessions.handle_datagram(&arrival(number), &forged.encode(), now);
        wire.drain(end);
        assert_eq!(wire.status(end).remote_discriminator, 77);
    }
    wire.run(12 * SECOND);
    wire.assert_states(State::Up, State::Up);
}

#[test]
fn a_peer_in_demand_mode_is_left_alone_while_both_are_up() {
    let mut solo = Solo::up(config(2));
    let demand = ControlPacket {
        demand: true,
        is_final: true,
        ..packet(State::Up, solo.discriminator())
    };
    solo.hear(&arrival(2), &demand);
    solo.outputs();
    solo.now += 250 * MS;
    solo.sessions.handle_timeout(solo.now);
    assert!(solo.sent().is_empty());
}

#[test]
fn what_is_no_packet_is_counted_by_kind() {
    let mut solo = Solo::new(config(2));
    let good = packet(State::Down, 0).encode();
    let with = |place: usize, octet: u8| {
        let mut octets = good;
        octets[place] = octet;
        octets
    };
    let cases = [
        (with(0, 0x40), PacketError::Version(2)),
        (with(3, 23), PacketError::Short),
        (with(3, 25), PacketError::Short),
        (with(2, 0), PacketError::Multiplier),
        (with(1, 0x41), PacketError::Multipoint),
        (with(1, 0xc0), PacketError::Unaddressed(State::Up)),
        (with(7, 0), PacketError::NoDiscriminator),
    ];
    for (octets, error) in cases {
        assert_eq!(ControlPacket::decode(&octets), Err(error));
        solo.sessions
            .handle_datagram(&arrival(2), &octets, solo.now);
    }
    let mut signed = with(1, 0x44).to_vec();
    signed[3] = 26;
    signed.extend([1, 2]);
    solo.sessions
        .handle_datagram(&arrival(2), &signed, solo.now);
    let counters = solo.sessions.counters();
    assert_eq!(
        (
            counters.malformed,
            counters.authenticated,
            counters.received
        ),
        (7, 1, 0)
    );
}

#[test]
fn a_packet_made_by_bird_is_read() {
    // BIRD 2, state Init towards discriminator 0x1122, 100 ms both ways, multiplier 3.
    let octets = hex_literal::hex!("2080 0318 00000001 00001122 000186a0 000186a0 00000000");
    let packet = ControlPacket::decode(&octets).expect("good");
    assert_eq!(
        (packet.state, packet.your_discriminator),
        (State::Init, 0x1122)
    );
    assert_eq!(packet.desired_min_tx, 100 * MS);
    assert_eq!(packet.encode(), octets);
}

#[test]
fn a_loss_survives_reports_nobody_fetched() {
    let wire = Wire::up();
    let loss = Loss {
        diagnostic: Diagnostic::DETECTION_TIME_EXPIRED,
        remote_control_plane_independent: true,
    };
    let earlier = Report {
        status: wire.status(0),
        loss: Some(loss),
    };
    let later = Report {
        loss: None,
        ..earlier
    };
    assert_eq!(later.after(&earlier).loss, Some(loss));
}

fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    let header = (any::<u8>(), any::<u8>(), any::<u8>(), 20_u8..30);
    let words = proptest::collection::vec(
        prop_oneof![Just(0_u32), Just(1), Just(u32::MAX), any::<u32>()],
        5,
    );
    (header, words, 0_usize..40).prop_map(|((first, second, multiplier, length), words, size)| {
        // Mostly of the right version.
        let mut octets = vec![first & 0x3f | 0x20, second, multiplier, length];
        octets.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        octets.resize(size, 0);
        octets
    })
}

proptest! {
    #[test]
    fn no_octets_panic_and_what_is_taken_is_written_back(mut octets in any_packet()) {
        if let Ok(packet) = ControlPacket::decode(&octets) {
            let again = packet.encode();
            // All but the echo interval, which is not kept, and octets behind the packet.
            octets[3] = 24;
            prop_assert_eq!(&again[..20], &octets[..20]);
        }
    }

    #[test]
    fn nothing_said_and_no_passing_of_time_makes_a_session_panic_or_flood(
        steps in proptest::collection::vec((any_packet(), 0_u64..4000, any::<bool>(), any::<bool>()), 1..60),
    ) {
        let mut solo = Solo::up(config(2));
        for (mut octets, pause, addressed, from_peer) in steps {
            if addressed && octets.len() >= 24 {
                octets[8..12].copy_from_slice(&solo.discriminator().to_be_bytes());
                octets[3] = 24;
            }
            solo.now += Duration::from_millis(pause);
            let source = if from_peer { 2 } else { 3 };
            solo.sessions.handle_datagram(&arrival(source), &octets, solo.now);
            // At most the answer to a poll and the news of another state.
            prop_assert!(solo.sent().len() <= 2);
            solo.sessions.handle_timeout(solo.now);
            prop_assert!(solo.sent().len() <= 2);
            prop_assert!(solo.sessions.poll_timeout().is_none_or(|next| next > solo.now));
        }
    }

    #[test]
    fn any_two_configurations_come_up_and_stay_up_while_less_than_the_multiplier_is_lost(
        tx in 10_u64..2000, rx in 10_u64..2000, other_tx in 10_u64..2000, other_rx in 10_u64..2000,
        multiplier in 2_u8..6,
    ) {
        let mut wire = Wire::new();
        let config = |remote, tx, rx| SessionConfig {
            min_tx: Duration::from_millis(tx),
            min_rx: Duration::from_millis(rx),
            multiplier,
            ..config(remote)
        };
        wire.configure(0, config(2, tx, rx));
        wire.configure(1, config(1, other_tx, other_rx));
        wire.run(15 * SECOND);
        wire.assert_states(State::Up, State::Up);
        prop_assert!(wire.losses(0).is_empty() && wire.losses(1).is_empty());
        prop_assert_eq!(wire.status(0).transmit_interval, Duration::from_millis(tx.max(other_rx)));
        prop_assert_eq!(wire.status(1).transmit_interval, Duration::from_millis(other_tx.max(rx)));
    }
}
