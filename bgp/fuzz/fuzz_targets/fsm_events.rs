//! A speaker lives through any sequence of connections, octets, answers, losses, timers, commands and changes of its
//! configuration. What it says on a connection keeps to order, at most one connection of a neighbour is a session, and
//! when everybody has left nothing of them is left.

#![no_main]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use margay_bgp::asn::Asn;
use margay_bgp::codec::{
    AddPath, AddPathMode, Capability, CodecContext, ErrorCode, GracefulRestartCapability,
    GracefulRestartFamily, HoldTime, KEEPALIVE, Message, Notification, Open, attributes_block,
    decode, encode_announcements, encode_end_of_rib, encode_withdrawals, framing,
};
use margay_bgp::family::{Family, FamilySet};
use margay_bgp::fsm::{Direction, State};
use margay_bgp::policy::Policy;
use margay_bgp::router_id::RouterId;
use margay_bgp::speaker::config::{
    AddPathSend, GracefulRestart, Originate, PeerConfig, Remote, SpeakerConfig,
};
use margay_bgp::speaker::{Accepted, Clear, Output, PeerId, Speaker, SpeakerShutdown};
use margay_bgp_fuzz::{Choices, judge};

const OWN: u32 = 64_512;
/// Neighbours: last octet of the address and AS. The fourth calls from a range.
const NEIGHBOURS: [(u8, u32); 4] = [(2, 64_600), (3, OWN), (4, OWN), (70, OWN)];

/// One connection as the other side sees it.
struct End {
    neighbour: usize,
    context: CodecContext,
    buffer: BytesMut,
    /// Octets the speaker was not yet told were written.
    unread: usize,
    opened: bool,
    notified: bool,
    closed: bool,
    /// It was told routes: it is the session.
    is_session: bool,
}

/// How the neighbour reads what the speaker writes.
fn reading(context: &CodecContext) -> CodecContext {
    CodecContext {
        families: FamilySet::all(),
        add_path_receive: context.add_path_send,
        add_path_send: context.add_path_receive,
        extended_message_receive: context.extended_message_send,
        enforce_first_as: None,
        ..*context
    }
}

struct Life {
    speaker: Speaker,
    now: Instant,
    ends: BTreeMap<(PeerId, Direction), End>,
    dialling: Vec<(PeerId, SocketAddr)>,
    lazy: bool,
}

fn address(number: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, number])
}

fn config(choices: &mut Choices<'_>) -> SpeakerConfig {
    let mut config = SpeakerConfig::new(Asn(OWN), RouterId::new(0xc000_0201).expect("not zero"));
    config.restarting = choices.flag();
    config
        .originate
        .push(Originate::new("10.1.0.0/16".parse().expect("a prefix")));
    let policy = Arc::new(Policy::accept_all());
    for (index, (number, asn)) in NEIGHBOURS.into_iter().enumerate() {
        let remote = if number < 64 {
            Remote::Address(SocketAddr::new(address(number), 179))
        } else {
            Remote::Range("192.0.2.64/26".parse().expect("a prefix"))
        };
        let mut peer = PeerConfig::new(
            format!("n{index}"),
            remote,
            Asn(asn),
            Arc::clone(&policy),
            Arc::clone(&policy),
        );
        let bits = choices.octet();
        peer.passive = bits & 1 != 0 || number >= 64;
        peer.route_reflector_client = bits & 2 != 0 && asn == OWN;
        peer.add_path_receive = bits & 4 != 0;
        peer.add_path_send = (bits & 8 != 0).then_some(AddPathSend::All);
        peer.graceful_restart = (bits & 16 != 0).then(GracefulRestart::default);
        peer.extended_next_hop = bits & 32 != 0;
        if bits & 64 != 0 {
            // What validation refuses, and must not hang whoever gets past it.
            peer.connect_retry = Duration::ZERO;
            peer.connect_retry_max = Duration::ZERO;
        }
        if bits & 128 != 0 {
            peer.idle_hold = Duration::ZERO;
            peer.idle_hold_max = Duration::ZERO;
        }
        peer.next_hop_address = Some("2001:db8::1".parse().expect("an address"));
        config.peers.push(peer);
    }
    config
}

impl Life {
    /// Does what the speaker asks, and watches what it says.
    fn obey(&mut self) {
        let mut written = Vec::new();
        while let Some(output) = self.speaker.poll_output() {
            match output {
                Output::Connect { peer, remote, .. } => self.dialling.push((peer, remote)),
                Output::Send {
                    peer,
                    direction,
                    chunks,
                } => {
                    let size = chunks.iter().map(|chunk| chunk.len()).sum();
                    let Some(end) = self.ends.get_mut(&(peer, direction)) else {
                        continue;
                    };
                    assert!(!end.closed, "octets after the close");
                    let context = reading(&end.context);
                    let mut is_told = false;
                    let mut said = BytesMut::new();
                    chunks
                        .iter()
                        .for_each(|chunk| said.extend_from_slice(chunk));
                    while let Some(frame) =
                        framing::split(&mut said, 65_535).expect("whole messages")
                    {
                        assert!(!end.notified, "something after a NOTIFICATION");
                        match frame.octets[18] {
                            1 => {
                                assert!(!end.opened, "a second OPEN");
                                end.opened = true;
                            }
                            3 => end.notified = true,
                            other => assert!(end.opened, "type {other} before OPEN"),
                        }
                        if frame.octets[18] == 2 {
                            // As strictly as anyone may read it.
                            judge(&frame.octets, context.add_path_receive);
                            match decode(&frame.octets, &context) {
                                Ok(Message::Update(update)) => {
                                    assert!(update.faults.is_empty(), "{:?}", update.faults);
                                }
                                other => panic!("expected an UPDATE, got {other:?}"),
                            }
                            is_told = true;
                        }
                    }
                    assert!(said.is_empty(), "half a message");
                    if self.lazy {
                        end.unread += size;
                    } else {
                        written.push((peer, direction, size));
                    }
                    if is_told && !std::mem::replace(&mut end.is_session, true) {
                        let neighbour = end.neighbour;
                        let sessions = self
                            .ends
                            .values()
                            .filter(|end| end.neighbour == neighbour && end.is_session);
                        assert_eq!(sessions.count(), 1, "two sessions of neighbour {neighbour}");
                    }
                }
                Output::Close {
                    peer, direction, ..
                } => {
                    self.dialling.retain(|(dialled, _)| {
                        *dialled != peer || direction != Direction::Outgoing
                    });
                    if let Some(end) = self.ends.get_mut(&(peer, direction)) {
                        end.closed = true;
                    }
                    self.ends.remove(&(peer, direction));
                }
                Output::UseContext {
                    peer,
                    direction,
                    context,
                    ..
                } => {
                    if let Some(end) = self.ends.get_mut(&(peer, direction)) {
                        end.context = context;
                    }
                }
                Output::PeerRemoved { peer } => {
                    self.dialling.retain(|(dialled, _)| *dialled != peer);
                    self.ends.retain(|(known, _), _| *known != peer);
                }
                _ => {}
            }
        }
        for (peer, direction, size) in written {
            self.speaker.handle_written(peer, direction, size, self.now);
        }
    }

    fn settle(&mut self, budget: usize) {
        // Bounded: what one event can cause is finite, and small here.
        for _ in 0..20_000 {
            self.obey();
            let mut busy = self.speaker.work(budget, self.now);
            while self.speaker.poll_table_event(3).is_some() {
                busy = true;
            }
            if !busy {
                return self.obey();
            }
        }
        panic!("no rest");
    }

    fn connected(
        &mut self,
        peer: PeerId,
        direction: Direction,
        neighbour: usize,
        remote: SocketAddr,
    ) {
        let end = End {
            neighbour,
            context: CodecContext::before_open(),
            buffer: BytesMut::new(),
            unread: 0,
            opened: false,
            notified: false,
            closed: false,
            is_session: false,
        };
        self.ends.insert((peer, direction), end);
        let local = SocketAddr::new(address(1), 179);
        self.speaker
            .handle_connected(peer, direction, local, remote, self.now);
    }

    /// The neighbour says octets on a connection.
    fn say(&mut self, at: (PeerId, Direction), octets: &[u8]) {
        let Some(end) = self.ends.get_mut(&at) else {
            return;
        };
        end.buffer.extend_from_slice(octets);
        while let Some(end) = self.ends.get_mut(&at) {
            let (peer, direction) = at;
            match framing::split(&mut end.buffer, end.context.max_receive_len()) {
                Ok(None) => break,
                Ok(Some(frame)) => match decode(&frame.octets, &end.context) {
                    Ok(message) => self
                        .speaker
                        .handle_message(peer, direction, message, self.now),
                    Err(error) => self
                        .speaker
                        .handle_malformed(peer, direction, error, self.now),
                },
                Err(error) => {
                    self.speaker
                        .handle_malformed(peer, direction, error, self.now);
                    break;
                }
            }
            self.obey();
        }
        self.obey();
    }

    fn open(&self, neighbour: usize, choices: &mut Choices<'_>) -> BytesMut {
        let (number, asn) = NEIGHBOURS[neighbour];
        let bits = choices.octet();
        let mut capabilities = Vec::new();
        if bits & 1 == 0 {
            capabilities.push(Capability::Multiprotocol(Family::IPV4_UNICAST));
            capabilities.push(Capability::Multiprotocol(Family::IPV6_UNICAST));
        }
        if bits & 2 == 0 {
            capabilities.push(Capability::FourOctetAs(Asn(asn)));
        }
        if bits & 4 != 0 {
            capabilities.push(Capability::RouteRefresh);
            capabilities.push(Capability::EnhancedRouteRefresh);
        }
        if bits & 8 != 0 {
            let mode = AddPathMode::Both;
            capabilities.push(Capability::AddPath(vec![AddPath {
                family: Family::IPV4_UNICAST,
                mode,
            }]));
        }
        if bits & 16 != 0 {
            let kept = choices.octet();
            let families =
                [Family::IPV4_UNICAST, Family::IPV6_UNICAST].map(|family| GracefulRestartFamily {
                    family,
                    forwarding: kept & 1 != 0,
                });
            capabilities.push(Capability::GracefulRestart(GracefulRestartCapability {
                restarting: kept & 2 != 0,
                notification: kept & 4 != 0,
                restart_time: 120,
                families: families.to_vec(),
            }));
        }
        if bits & 32 != 0 {
            capabilities.push(Capability::ExtendedMessage);
        }
        let hold = [90, 0, 3, 180][usize::from(bits >> 6)];
        let open = Open {
            asn: Asn(asn),
            hold_time: HoldTime::from_secs(hold).expect("allowed"),
            router_id: RouterId::new(0xc000_0200 + u32::from(number)).expect("not zero"),
            capabilities,
            contradicting_as: None,
        };
        let mut out = BytesMut::new();
        open.encode(&mut out).expect("short");
        out
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let keys: Vec<(PeerId, Direction)> = self.ends.keys().copied().collect();
        let place = usize::from(choices.octet());
        let at = keys.get(place % keys.len().max(1)).copied();
        match (choices.below(20), at) {
            (0 | 1, _) => {
                let neighbour = place % NEIGHBOURS.len();
                let remote = SocketAddr::new(address(NEIGHBOURS[neighbour].0), 40_000);
                let local = SocketAddr::new(address(1), 179);
                if let Accepted::Peer(peer, direction) =
                    self.speaker.accept(remote, local, self.now)
                {
                    self.obey();
                    self.connected(peer, direction, neighbour, remote);
                }
            }
            (2 | 3, _) => {
                if let Some((peer, remote)) = self.dialling.pop() {
                    let known = NEIGHBOURS
                        .iter()
                        .position(|(number, _)| address(*number) == remote.ip());
                    match known {
                        Some(neighbour) if choices.flag() => {
                            self.connected(peer, Direction::Outgoing, neighbour, remote);
                        }
                        _ => self.speaker.handle_connect_failed(peer, self.now),
                    }
                }
            }
            (4 | 5, Some(at)) => {
                let open = self.open(self.ends[&at].neighbour, choices);
                self.say(at, &open);
            }
            (6 | 7, Some(at)) => self.say(at, &KEEPALIVE),
            (8..=10, Some(at)) => {
                // As the speaker reads it: what it calls receiving is this neighbour's sending.
                let mut context = self.ends[&at].context;
                context.add_path_send = context.add_path_receive;
                let family = if choices.flag() {
                    Family::IPV6_UNICAST
                } else {
                    Family::IPV4_UNICAST
                };
                let nlri = choices.nlri(family, &context, 16);
                let mut out = BytesMut::new();
                let made = match choices.below(4) {
                    0 => encode_withdrawals(family, nlri, &context, &mut out).is_ok(),
                    1 => {
                        encode_end_of_rib(family, &mut out);
                        true
                    }
                    _ => {
                        let attributes = choices.attributes();
                        let next_hop = choices.next_hop(family, &context);
                        attributes_block(&attributes, &context).is_ok_and(|block| {
                            encode_announcements(&block, next_hop, family, nlri, &context, &mut out)
                                .is_ok()
                        })
                    }
                };
                if made {
                    self.say(at, &out);
                }
            }
            (11, Some(at)) => {
                let context = self.ends[&at].context;
                let mut out = BytesMut::new();
                let code = ErrorCode::new(choices.octet() % 9, choices.octet() % 12);
                Notification::with_data(code, Bytes::copy_from_slice(choices.octets(20)))
                    .encode(&context, &mut out);
                self.say(at, &out);
            }
            (12, Some(at)) => {
                let body = choices.octets(80);
                let mut octets = vec![0xff; 16];
                octets.extend(u16::try_from(body.len() + 19).expect("short").to_be_bytes());
                octets.push(choices.octet() % 7);
                octets.extend(body);
                self.say(at, &octets);
            }
            (13, Some(at)) => {
                let octets = choices.octets(60);
                self.say(at, octets);
            }
            (14, Some(at)) => {
                self.ends.remove(&at);
                self.speaker.handle_closed(at.0, at.1, self.now);
            }
            (15, _) => {
                let clear =
                    [Clear::Hard, Clear::SoftIn, Clear::SoftOut][usize::from(choices.below(3))];
                self.speaker
                    .clear(&format!("n{}", place % NEIGHBOURS.len()), clear, self.now);
            }
            (16, _) => {
                let next = config(choices);
                self.speaker.configure(next, self.now);
            }
            (17, _) => {
                self.lazy = !self.lazy;
                if !self.lazy {
                    let owed: Vec<_> = self
                        .ends
                        .iter_mut()
                        .map(|(at, end)| (*at, std::mem::take(&mut end.unread)))
                        .collect();
                    for ((peer, direction), octets) in owed {
                        self.speaker
                            .handle_written(peer, direction, octets, self.now);
                    }
                }
            }
            _ => {
                // To the next deadline, or some way past it.
                let late = Duration::from_millis(u64::from(choices.octet()) * 400);
                let next = self.speaker.poll_timeout().unwrap_or(self.now);
                self.now = self.now.max(next) + late;
                self.speaker.handle_timeout(self.now);
            }
        }
    }

    fn check(&self) {
        let snapshot = self.speaker.snapshot(self.now);
        for peer in &snapshot.peers {
            if matches!(
                peer.state,
                State::Established | State::OpenConfirm | State::OpenSent
            ) {
                let id = self.speaker.peer_named(&peer.name);
                assert!(
                    self.ends.keys().any(|(of, _)| Some(*of) == id),
                    "{} is {:?} without a connection",
                    peer.name,
                    peer.state
                );
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let now = Instant::now();
    let speaker = Speaker::new(config(&mut choices), 7, now);
    let mut life = Life {
        speaker,
        now,
        ends: BTreeMap::new(),
        dialling: Vec::new(),
        lazy: false,
    };
    let budget = 1 + usize::from(choices.below(50));
    life.settle(budget);
    let mut steps = 0;
    while !choices.is_empty() && steps < 300 {
        steps += 1;
        life.step(&mut choices);
        life.settle(budget);
        life.check();
    }
    // Everybody leaves, and more time passes than anything of theirs may be kept.
    life.lazy = false;
    life.speaker
        .shutdown(&SpeakerShutdown::Cease { text: None }, life.now);
    life.settle(budget);
    for (peer, direction) in std::mem::take(&mut life.ends).into_keys() {
        life.speaker.handle_closed(peer, direction, life.now);
    }
    life.settle(budget);
    for _ in 0..200 {
        let Some(next) = life.speaker.poll_timeout() else {
            break;
        };
        life.now = life.now.max(next) + Duration::from_secs(60);
        life.speaker.handle_timeout(life.now);
        life.settle(budget);
    }
    let snapshot = life.speaker.snapshot(life.now);
    for peer in &snapshot.peers {
        assert_ne!(peer.state, State::Established);
        assert!(
            peer.families.iter().all(|family| family.received == 0),
            "{} left paths",
            peer.name
        );
    }
    // The one prefix of our own.
    let prefixes: usize = snapshot.tables.iter().map(|table| table.prefixes).sum();
    assert_eq!(prefixes, 1, "{:?}", snapshot.tables);
});
