//! The speaker against scripted neighbours, octets in and octets out, on an invented clock and without a socket.
//!
//! Neighbour `a` is the one that misbehaves; `b`, `c` and `d` are there to see that only what is about `a`'s fault reaches
//! them. A test is named after its case: H framing, O OPEN, U UPDATE, A attributes, F timers, R refresh, G restart, E export,
//! D the decision, P ADD-PATH.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a helper that panics fails the test that called it, which is what it is for"
)]

mod add_path;
mod attributes;
mod bfd;
mod cases;
mod decision;
mod export;
mod external;
mod forwarding;
mod framing;
mod handover;
mod local_as;
mod long_lived;
mod monitoring;
mod next_hops;
mod opens;
mod ranges;
#[path = "../reference/mod.rs"]
#[expect(dead_code, reason = "the codec's tests use more of it")]
mod reference;
mod refresh;
mod seen;
mod sessions;
mod sweep;
mod updates;
mod wire;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use margay_bgp::asn::Asn;
use margay_bgp::bfd::SessionConfig;
use margay_bgp::codec::{
    CodecContext, EXTENDED_MAX_LEN, KEEPALIVE, Message, NextHop, PathAttributes, decode,
    framing as frames,
};
use margay_bgp::family::{Family, FamilySet};
use margay_bgp::fsm::{Direction, PeerWarning, State};
use margay_bgp::policy::Policy;
use margay_bgp::prefix::Prefix;
use margay_bgp::speaker::config::{PeerConfig, Remote, SpeakerConfig};
use margay_bgp::speaker::snapshot::{PeerSnapshot, Retention, RouteQuery};
use margay_bgp::speaker::{Accepted, Clear, Output, PeerId, Speaker, TableEvent};

use self::seen::{Seen, SeenEvent, SeenPath, SeenTotals};
use self::wire::Wire;

const OWN_ASN: u32 = 64512;
const SECOND: Duration = Duration::from_secs(1);

/// Capabilities of an everyday neighbour: both families, route refresh.
const USUAL: &[u8] = &[1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0];

/// Name, last octet of the address, AS.
const NEIGHBOURS: [(&str, u8, u32); 4] = [
    ("a", 2, 64600),
    ("b", 3, 64700),
    ("c", 4, OWN_ASN),
    ("d", 5, OWN_ASN),
];

/// A scripted neighbour's end of its connection.
struct End {
    peer: Inside<PeerId>,
    direction: Direction,
    /// How the speaker reads what the neighbour says.
    context: CodecContext,
    buffer: BytesMut,
    /// How the neighbour reads what it is told.
    reading: CodecContext,
    told: Vec<Message>,
    /// The octets of all it was told.
    frames: Vec<Vec<u8>>,
    table: BTreeMap<Prefix, (PathAttributes, NextHop)>,
    closed: bool,
    /// It reads nothing: what it is told stays in the kernel's buffers.
    deaf: bool,
}

/// What only the speaker in here has. Over TCP a case that looks at it ends, and does not see nothing.
#[derive(Clone, Copy)]
struct Inside<T>(Option<T>);

impl<T> Inside<T> {
    const fn nowhere() -> Self {
        Self(None)
    }
}

impl<T> Deref for Inside<T> {
    type Target = T;
    #[track_caller]
    fn deref(&self) -> &T {
        let looked = self.0.as_ref();
        looked.expect("it looks inside the speaker: the case belongs into wire/inside.rs")
    }
}

impl<T> DerefMut for Inside<T> {
    #[track_caller]
    fn deref_mut(&mut self) -> &mut T {
        let looked = self.0.as_mut();
        looked.expect("it looks inside the speaker: the case belongs into wire/inside.rs")
    }
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reception {
    Taken,
    /// It is told why not.
    Refused,
    /// It ends without a word.
    Silence,
}

struct Lab {
    speaker: Inside<Speaker>,
    /// Over TCP the time the lab began.
    now: Instant,
    ends: BTreeMap<&'static str, End>,
    /// Whom the speaker had something for that fits no message, and how much.
    unsendable: Inside<Vec<(String, u64)>>,
    /// The paths that are to be watched.
    paths: Inside<BTreeMap<PeerId, SessionConfig>>,
    /// Whom the speaker dials, until it is answered.
    dialled: Inside<Vec<PeerId>>,
    /// Dialling is refused at once.
    refuses: bool,
    /// Neighbours whose socket was told of a new configuration.
    reconfigured: Inside<Vec<PeerId>>,
    /// What whoever forwards was told.
    news: Inside<Vec<TableEvent>>,
    /// The process that is the speaker, instead of the one in here.
    wire: Option<Wire>,
}

/// What is around a lab's speaker.
#[derive(Clone, Copy, Default)]
struct Around {
    /// Dialling is refused at once.
    refuses: bool,
    /// Over TCP the kernel forwards by its routes.
    forwards: bool,
}

/// Whether the case runs over TCP.
fn over_tcp() -> bool {
    wire::wanted().is_some()
}

/// A time in seconds: as it usually is where the clock is invented, and short where it is not.
fn paced(usual: u64, short: u64) -> Duration {
    Duration::from_secs(if over_tcp() { short } else { usual })
}

fn own_address() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 179))
}

fn address_of(name: &str) -> Ipv4Addr {
    let (_, number, _) = NEIGHBOURS
        .into_iter()
        .find(|(known, ..)| *known == name)
        .unwrap();
    Ipv4Addr::new(192, 0, 2, number)
}

fn asn_of(name: &str) -> u32 {
    NEIGHBOURS
        .into_iter()
        .find(|(known, ..)| *known == name)
        .unwrap()
        .2
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

impl Lab {
    /// A speaker that waits for all of [`NEIGHBOURS`]; `c` is its client.
    fn with(change: impl FnOnce(&mut SpeakerConfig)) -> Self {
        Self::start(change, Around::default())
    }

    /// The same where nobody takes connections of the speaker.
    fn refusing(change: impl FnOnce(&mut SpeakerConfig)) -> Self {
        let around = Around {
            refuses: true,
            ..Around::default()
        };
        Self::start(change, around)
    }

    fn start(change: impl FnOnce(&mut SpeakerConfig), around: Around) -> Self {
        let mut config = SpeakerConfig::new(
            Asn(OWN_ASN),
            Ipv4Addr::new(192, 0, 2, 1).try_into().unwrap(),
        );
        for (name, number, asn) in NEIGHBOURS {
            let remote = SocketAddr::from(([192, 0, 2, number], 179));
            let mut peer = PeerConfig::new(
                name,
                Remote::Address(remote),
                Asn(asn),
                Arc::new(Policy::accept_all()),
                Arc::new(Policy::accept_all()),
            );
            peer.passive = true;
            peer.route_reflector_client = name == "c";
            peer.next_hop_address = Some("2001:db8::1".parse().unwrap());
            config.peers.push(peer);
        }
        change(&mut config);
        let now = Instant::now();
        let wire = wire::wanted().map(|binary| Wire::start(&binary, &config, around));
        fn only<T>(inside: bool, value: T) -> Inside<T> {
            Inside(inside.then_some(value))
        }
        let inside = wire.is_none();
        let mut lab = Self {
            speaker: only(inside, Speaker::new(config, 7, now)),
            now,
            ends: BTreeMap::new(),
            unsendable: only(inside, Vec::new()),
            paths: only(inside, BTreeMap::new()),
            dialled: only(inside, Vec::new()),
            refuses: around.refuses,
            reconfigured: only(inside, Vec::new()),
            news: only(inside, Vec::new()),
            wire,
        };
        if lab.wire.is_some() {
            lab.wire_ready();
        } else {
            lab.settle();
        }
        lab
    }

    /// Changes the configuration of the running speaker.
    fn configure(&mut self, change: impl FnOnce(&mut SpeakerConfig)) {
        if self.wire.is_some() {
            return self.wire_configure(change);
        }
        let mut config = self.speaker.config().clone();
        change(&mut config);
        self.speaker.configure(config, self.now);
        self.settle();
    }

    fn new() -> Self {
        Self::with(|_| ())
    }

    /// Connected, OPEN not yet said.
    fn connect(&mut self, name: &'static str) {
        if self.wire.is_some() {
            return self.wire_connect(name);
        }
        let remote = SocketAddr::new(IpAddr::V4(address_of(name)), 40_000);
        self.connect_from(name, remote, own_address());
    }

    /// The same, between other addresses.
    fn connect_from(&mut self, name: &'static str, remote: SocketAddr, own: SocketAddr) {
        if self.wire.is_some() {
            return self.wire_connect_from(name, remote, own);
        }
        let Accepted::Peer(peer, direction) = self.speaker.accept(remote, own, self.now) else {
            panic!("{name} is refused");
        };
        // What is asked for is about an earlier connection, if there was one.
        self.settle();
        self.stand(name, peer, direction, own, remote);
    }

    /// The neighbour takes the connection the speaker is dialling.
    #[track_caller]
    fn answer(&mut self, name: &'static str) {
        if self.wire.is_some() {
            return self.wire_answer(name);
        }
        let remote = SocketAddr::new(IpAddr::V4(address_of(name)), 179);
        let peer = self.dialled.pop().expect("nobody is dialled");
        self.stand(name, peer, Direction::Outgoing, own_address(), remote);
    }

    fn stand(
        &mut self,
        name: &'static str,
        peer: PeerId,
        direction: Direction,
        own: SocketAddr,
        remote: SocketAddr,
    ) {
        let reading = CodecContext {
            four_octet_as: true,
            families: FamilySet::all(),
            peer_is_external: asn_of(name) != OWN_ASN,
            extended_message_receive: true,
            enhanced_route_refresh: true,
            ..CodecContext::before_open()
        };
        let end = End {
            peer: Inside(Some(peer)),
            direction,
            context: CodecContext::before_open(),
            buffer: BytesMut::new(),
            reading,
            told: Vec::new(),
            frames: Vec::new(),
            table: BTreeMap::new(),
            closed: false,
            deaf: false,
        };
        self.ends.insert(name, end);
        self.speaker
            .handle_connected(peer, direction, own, remote, self.now);
        self.settle();
    }

    /// Established with these capabilities besides the four-octet AS, and done with its own table.
    fn establish_with(&mut self, name: &'static str, capabilities: &[u8]) {
        self.connect(name);
        self.say(
            name,
            &open(asn_of(name), address_of(name), 90, capabilities),
        );
        self.say(name, &KEEPALIVE);
        self.assert_established(name);
    }

    fn establish(&mut self, names: &[&'static str]) {
        for name in names {
            self.establish_with(name, USUAL);
        }
    }

    /// A session of each of `names`.
    fn established(names: &[&'static str]) -> Self {
        let mut lab = Self::new();
        lab.establish(names);
        lab
    }

    /// The neighbour says octets, cut off where the speaker no longer reads.
    fn say(&mut self, name: &'static str, octets: &[u8]) {
        if self.wire.is_some() {
            return self.wire_say(name, octets);
        }
        let now = self.now;
        self.ends
            .get_mut(name)
            .unwrap()
            .buffer
            .extend_from_slice(octets);
        loop {
            let end = self.ends.get_mut(name).unwrap();
            if end.closed {
                return;
            }
            let (peer, direction) = (*end.peer, end.direction);
            match frames::split(&mut end.buffer, end.context.max_receive_len()) {
                Ok(None) => break,
                Ok(Some(frame)) => match decode(&frame.octets, &end.context) {
                    Ok(message) => self.speaker.handle_message(peer, direction, message, now),
                    Err(error) => self.speaker.handle_malformed(peer, direction, error, now),
                },
                Err(error) => self.speaker.handle_malformed(peer, direction, error, now),
            }
            self.settle();
        }
        self.settle();
    }

    /// The neighbour reads nothing from now on: what it is told stays in the kernel's buffers, which hold little.
    fn stop_reading(&mut self, name: &'static str) {
        self.ends.get_mut(name).unwrap().deaf = true;
        if self.wire.is_some() {
            self.wire_allow(name, 0);
        }
    }

    /// It reads so many octets more.
    fn read_some(&mut self, name: &'static str, octets: usize) {
        if self.wire.is_some() {
            return self.wire_allow(name, octets);
        }
        let end = &self.ends[name];
        let (peer, direction) = (*end.peer, end.direction);
        self.speaker
            .handle_written(peer, direction, octets, self.now);
        self.settle();
    }

    /// It reads everything again.
    fn read_on(&mut self, name: &'static str) {
        self.ends.get_mut(name).unwrap().deaf = false;
        self.read_some(name, usize::MAX);
    }

    /// Over TCP the kernel's buffers hold little from now on.
    fn narrow(&mut self) {
        if self.wire.is_some() {
            self.wire_narrow();
        }
    }

    /// Whether a connection of the neighbour would be taken.
    fn is_admitted(&mut self, name: &str) -> bool {
        self.reception(IpAddr::V4(address_of(name))) == Reception::Taken
    }

    /// What becomes of a connection from an address.
    fn reception(&mut self, from: IpAddr) -> Reception {
        if self.wire.is_some() {
            return self.wire_reception(from);
        }
        let remote = SocketAddr::new(from, 40_000);
        match self.speaker.accept(remote, own_address(), self.now) {
            Accepted::Peer(..) => Reception::Taken,
            Accepted::Refused(None) => Reception::Silence,
            Accepted::Refused(Some(_)) => Reception::Refused,
        }
    }

    /// What a neighbour was told is of no interest any more.
    fn put_aside(&mut self, name: &str) {
        self.ends.remove(name).unwrap();
        if self.wire.is_some() {
            self.wire_put_aside(name);
        }
    }

    /// The neighbour's connection goes by another name, so that it may have a second one; the session goes on.
    fn rename(&mut self, from: &'static str, to: &'static str) {
        let end = self.ends.remove(from).unwrap();
        self.ends.insert(to, end);
        if self.wire.is_some() {
            self.wire_rename(from, to);
        }
    }

    /// Somebody clears the session.
    fn clear(&mut self, name: &'static str) {
        self.clear_saying(name, None);
    }

    /// The same, with a text for the neighbour's operators.
    fn clear_saying(&mut self, name: &'static str, words: Option<&str>) {
        if self.wire.is_some() {
            return self.wire_clear(name, words);
        }
        let now = self.now;
        self.speaker.clear_saying(name, Clear::Hard, words, now);
        self.settle();
    }

    /// The neighbour says whole messages, and the speaker sees to nothing before the last of them.
    fn say_at_once(&mut self, name: &'static str, messages: &[&[u8]]) {
        if self.wire.is_some() {
            // In one segment.
            return self.wire_say(name, &messages.concat());
        }
        let end = &self.ends[name];
        let (peer, direction, context) = (*end.peer, end.direction, end.context);
        for message in messages {
            let message = decode(message, &context).unwrap();
            self.speaker
                .handle_message(peer, direction, message, self.now);
        }
        self.settle();
    }

    /// The neighbour's TCP connection breaks.
    fn cut(&mut self, name: &'static str) {
        if self.wire.is_some() {
            return self.wire_cut(name);
        }
        let end = self.ends.remove(name).unwrap();
        self.speaker
            .handle_closed(*end.peer, end.direction, self.now);
        self.settle();
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut busy = self.speaker.work(100, self.now);
            while let Some(output) = self.speaker.poll_output() {
                busy = true;
                self.obey(output);
            }
            while let Some(event) = self.speaker.poll_table_event(100) {
                self.news.push(event);
                busy = true;
            }
            if !busy {
                return;
            }
        }
        panic!("the speaker does not come to rest");
    }

    fn obey(&mut self, output: Output) {
        let now = self.now;
        match output {
            Output::Connect { peer, .. } if self.refuses => {
                self.dialled.push(peer);
                self.speaker.handle_connect_failed(peer, now);
            }
            Output::Connect { peer, .. } => self.dialled.push(peer),
            Output::Send {
                peer,
                direction,
                chunks,
            } => {
                let octets = chunks.iter().map(|chunk| chunk.len()).sum();
                if self.end_of(peer, direction).is_none_or(|end| !end.deaf) {
                    self.speaker.handle_written(peer, direction, octets, now);
                }
                let Some(end) = self.end_of(peer, direction) else {
                    return;
                };
                let mut buffer = BytesMut::new();
                chunks
                    .iter()
                    .for_each(|chunk| buffer.extend_from_slice(chunk));
                while let Some(frame) = frames::split(&mut buffer, EXTENDED_MAX_LEN).unwrap() {
                    let message = decode(&frame.octets, &end.reading).unwrap();
                    end.frames.push(frame.octets.to_vec());
                    end.take(message);
                }
                assert!(buffer.is_empty(), "half a message");
            }
            Output::Close {
                peer, direction, ..
            } => {
                self.dialled.retain(|dialled| *dialled != peer);
                if let Some(end) = self.end_of(peer, direction) {
                    end.closed = true;
                }
            }
            Output::UseContext {
                peer,
                direction,
                context,
                ..
            } => {
                if let Some(end) = self.end_of(peer, direction) {
                    end.context = context;
                    end.reading.add_path_receive = context.add_path_send;
                }
            }
            Output::Watch {
                peer,
                path: Some(path),
            } => drop(self.paths.insert(peer, path)),
            Output::Watch { peer, path: None } => drop(self.paths.remove(&peer)),
            Output::Reconfigured { peer, .. } => self.reconfigured.push(peer),
            Output::PeerStateChanged { .. } | Output::PeerRemoved { .. } => {}
            Output::PeerWarning { name, warning, .. } => {
                if let PeerWarning::RoutesUnsendable { routes, .. } = warning {
                    self.unsendable.push((name.to_string(), routes));
                }
            }
        }
    }

    fn end_of(&mut self, peer: PeerId, direction: Direction) -> Option<&mut End> {
        self.ends
            .values_mut()
            .find(|end| *end.peer == peer && end.direction == direction && !end.closed)
    }

    /// Time passes; every neighbour but `silent` says a KEEPALIVE each second.
    fn advance(&mut self, time: Duration, silent: &[&str]) {
        if self.wire.is_some() {
            return self.wire_advance(time, silent);
        }
        let until = self.now + time;
        while self.now < until {
            self.now += SECOND;
            let names: Vec<_> = self
                .ends
                .keys()
                .copied()
                .filter(|name| !silent.contains(name))
                .collect();
            for name in names {
                if self.peer(name).state == State::Established {
                    self.say(name, &KEEPALIVE);
                }
            }
            // KEEPALIVEs go out by themselves; the speaker hears that they were read.
            let reading: Vec<_> = self
                .ends
                .values()
                .filter(|end| !end.deaf && !end.closed)
                .map(|end| (*end.peer, end.direction))
                .collect();
            for (peer, direction) in reading {
                self.speaker.handle_written(peer, direction, 0, self.now);
            }
            self.speaker.handle_timeout(self.now);
            self.settle();
        }
    }

    /// The neighbour says nothing more, and its connection ends after `time`; on the invented clock not before.
    #[track_caller]
    fn await_end(&mut self, name: &'static str, time: Duration) {
        if self.wire.is_some() {
            return self.wire_await_end(name, time);
        }
        self.advance(time.saturating_sub(SECOND), &[name]);
        assert!(!self.ends[name].closed, "{name} is left too early");
        self.advance(SECOND, &[name]);
        assert!(self.ends[name].closed, "{name} is still connected");
    }

    /// Now, to count a time from.
    fn mark(&self) -> Instant {
        if self.wire.is_some() {
            Instant::now()
        } else {
            self.now
        }
    }

    /// What happens so long after `mark`, and not before; all neighbours but the `silent` ones say a KEEPALIVE each second.
    #[track_caller]
    fn until(
        &mut self,
        (mark, time): (Instant, Duration),
        silent: &[&str],
        what: &str,
        done: impl Fn(&Self) -> bool,
    ) {
        if self.wire.is_some() {
            return self.wire_until((mark, time), silent, what, done);
        }
        let left = (mark + time).saturating_duration_since(self.now);
        self.advance(left.saturating_sub(SECOND), silent);
        assert!(!done(self), "too early: {what}");
        self.advance(2 * SECOND, silent);
        assert!(done(self), "{what}");
    }

    /// What is so now; over TCP as soon as the speaker has come to it.
    #[track_caller]
    fn soon(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        if self.wire.is_some() {
            let now = (Instant::now(), Duration::ZERO);
            return self.wire_until(now, &[], what, done);
        }
        assert!(done(self), "{what}");
    }

    /// How long it takes the speaker to dial the neighbour, which then answers.
    fn rest(&mut self, mark: Instant, name: &'static str) -> Duration {
        if self.wire.is_none() {
            while self.dialled.is_empty() {
                self.advance(SECOND, &[]);
            }
        }
        self.answer(name);
        self.mark() - mark
    }

    /// The neighbour as an operator sees it.
    fn peer(&self, name: &str) -> Seen {
        match &self.wire {
            Some(wire) => wire.peer(name),
            None => self.snapshot(name).into(),
        }
    }

    /// The names of all neighbours that are known, and whether each called from a range.
    fn known(&self) -> Vec<(String, bool)> {
        match &self.wire {
            Some(wire) => wire.known(),
            None => {
                let snapshot = self.speaker.snapshot(self.now);
                let peers = snapshot.peers.iter();
                peers
                    .map(|peer| (peer.name.to_string(), peer.dynamic))
                    .collect()
            }
        }
    }

    /// What all neighbours did so far.
    fn totals(&self) -> SeenTotals {
        match &self.wire {
            Some(wire) => wire.totals(),
            None => self.speaker.snapshot(self.now).into(),
        }
    }

    /// What the log of events says of a neighbour.
    fn events(&self, name: &str) -> Vec<SeenEvent> {
        match &self.wire {
            Some(wire) => wire.events(name),
            None => self
                .speaker
                .events_after(0)
                .into_iter()
                .filter(|event| *event.peer == *name)
                .map(|event| event.kind.into())
                .collect(),
        }
    }

    /// Every path of the prefix, as an operator sees them.
    fn paths_of(&self, text: &str) -> Vec<SeenPath> {
        if let Some(wire) = &self.wire {
            return wire.paths(text);
        }
        let query = RouteQuery {
            prefix: Some(prefix(text)),
            ..RouteQuery::default()
        };
        let routes = self.speaker.routes(&query);
        let paths = routes.into_iter().flat_map(|route| route.paths);
        paths.map(SeenPath::from).collect()
    }

    /// How many IPv4 routes were too long for any message to the neighbour.
    fn unsendable(&self, name: &str) -> u64 {
        let counted = self.peer(name).families[0].unsendable;
        if self.wire.is_none() {
            let warned = self.unsendable.iter().filter(|(known, _)| known == name);
            assert_eq!(warned.map(|(_, routes)| routes).sum::<u64>(), counted);
        }
        counted
    }

    fn snapshot(&self, name: &str) -> PeerSnapshot {
        let snapshot = self.speaker.snapshot(self.now);
        snapshot
            .peers
            .into_iter()
            .find(|peer| &*peer.name == name)
            .unwrap()
    }

    #[track_caller]
    fn assert_established(&self, name: &str) {
        if self.wire.is_some() {
            // What was said last was answered by then, if by the end.
            let end = &self.ends[name];
            assert!(!end.closed, "{name}: {:?}", end.told.last());
            return;
        }
        let peer = self.peer(name);
        assert_eq!(
            peer.state,
            State::Established,
            "{name}: {:?}",
            peer.last_error
        );
    }

    /// What the neighbour was told since last asked, KEEPALIVEs left out.
    fn told(&mut self, name: &str) -> Vec<Message> {
        let mut told = std::mem::take(&mut self.ends.get_mut(name).unwrap().told);
        told.retain(|message| *message != Message::Keepalive);
        told
    }

    /// The NOTIFICATION that ended the neighbour's connection.
    #[track_caller]
    fn assert_ended(&mut self, name: &'static str, code: u8, subcode: u8, data: &[u8]) {
        if self.wire.is_some() {
            self.wire_await_end(name, Duration::ZERO);
        }
        let end = &self.ends[name];
        let Some(Message::Notification(last)) = end.told.last() else {
            panic!("{name} was told {:?}", end.told.last());
        };
        assert_eq!(
            (last.code.code, last.code.subcode, &last.data[..]),
            (code, subcode, data)
        );
        assert!(end.closed, "{name} is still connected");
        self.soon("nothing of it is used", |lab| lab.is_without(name));
    }

    /// Whether nothing is used that the neighbour told, unless it is back or its return is awaited (RFC 4724).
    fn is_without(&self, name: &str) -> bool {
        let known = match &self.wire {
            Some(wire) => wire.find_peer(name),
            None => self
                .speaker
                .snapshot(self.now)
                .peers
                .into_iter()
                .find(|peer| *peer.name == *name)
                .map(Seen::from),
        };
        let Some(peer) = known else {
            return true;
        };
        peer.state == State::Established
            || peer
                .families
                .iter()
                .all(|family| family.received == 0 || family.retention != Retention::None)
    }

    #[track_caller]
    fn holds(&self, name: &str, text: &str) -> &(PathAttributes, NextHop) {
        self.held(name, text).unwrap_or_else(|| {
            panic!(
                "{name} holds {:?}",
                self.ends[name].table.keys().collect::<Vec<_>>()
            )
        })
    }

    fn held(&self, name: &str, text: &str) -> Option<&(PathAttributes, NextHop)> {
        self.ends[name].table.get(&prefix(text))
    }

    #[track_caller]
    fn lacks(&self, name: &str, text: &str) {
        let held = self.ends[name].table.get(&prefix(text));
        assert!(held.is_none(), "{name} holds {text}: {held:?}");
    }
}

impl End {
    fn take(&mut self, message: Message) {
        if let Message::Update(update) = &message {
            assert!(update.faults.is_empty(), "{:?}", update.faults);
            for nlri in &update.withdrawn {
                self.table.remove(&nlri.prefix);
            }
            for announcement in &update.announced {
                for nlri in &announcement.nlri {
                    let attributes = update.attributes.as_deref().cloned().unwrap();
                    self.table
                        .insert(nlri.prefix, (attributes, announcement.next_hop));
                }
            }
        }
        self.told.push(message);
    }
}

fn message(number: u8, body: &[u8]) -> Vec<u8> {
    let mut octets = vec![0xff; 16];
    octets.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    octets.push(number);
    octets.extend(body);
    octets
}

/// An OPEN with a four-octet AS and these capabilities.
fn open(asn: u32, id: Ipv4Addr, hold_time: u16, capabilities: &[u8]) -> Vec<u8> {
    let mut all = capabilities.to_vec();
    all.extend([65, 4]);
    all.extend(asn.to_be_bytes());
    let size = u8::try_from(all.len()).unwrap();
    let mut parameters = vec![2, size];
    parameters.extend(all);
    plain_open(4, asn, id, hold_time, &parameters)
}

/// An OPEN of these parts.
fn plain_open(version: u8, asn: u32, id: Ipv4Addr, hold_time: u16, parameters: &[u8]) -> Vec<u8> {
    let mut body = vec![version];
    body.extend(u16::try_from(asn).unwrap_or(23_456).to_be_bytes());
    body.extend(hold_time.to_be_bytes());
    body.extend(id.octets());
    body.push(u8::try_from(parameters.len()).unwrap());
    body.extend(parameters);
    message(1, &body)
}

fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for part in [withdrawn, attributes] {
        body.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
        body.extend(part);
    }
    body.extend(nlri);
    message(2, &body)
}

fn attribute(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    let mut octets = vec![flags, code, u8::try_from(value.len()).unwrap()];
    octets.extend(value);
    octets
}

fn as_path(asns: &[u32]) -> Vec<u8> {
    let mut value = Vec::new();
    if !asns.is_empty() {
        value.extend([2, u8::try_from(asns.len()).unwrap()]);
        value.extend(asns.iter().flat_map(|asn| asn.to_be_bytes()));
    }
    attribute(0x40, 2, &value)
}

/// ORIGIN, AS_PATH and NEXT_HOP as the neighbour would send them; LOCAL_PREF inside the AS.
fn usual(name: &str) -> Vec<Vec<u8>> {
    let inside = asn_of(name) == OWN_ASN;
    let path: &[u32] = if inside { &[] } else { &[asn_of(name)] };
    let mut list = vec![
        attribute(0x40, 1, &[0]),
        as_path(path),
        attribute(0x40, 3, &address_of(name).octets()),
    ];
    if inside {
        list.push(attribute(0x40, 5, &[0, 0, 0, 100]));
    }
    list
}

/// [`usual`] attributes in which `replacement` stands for the one of its type, or is added.
fn usual_but(name: &str, replacement: &[u8]) -> Vec<u8> {
    let mut list = usual(name);
    list.retain(|attribute| attribute[1] != replacement[1]);
    list.push(replacement.to_vec());
    list.concat()
}

/// Prefixes of whole octets: `10.1.0.0/16` and the like.
fn nlri(prefixes: &[&str]) -> Vec<u8> {
    let mut octets = Vec::new();
    for text in prefixes {
        let prefix = prefix(text);
        let address = match prefix.addr() {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        octets.push(prefix.len());
        octets.extend(&address[..usize::from(prefix.len().div_ceil(8))]);
    }
    octets
}

/// A good announcement of IPv4 prefixes.
fn announce(name: &str, prefixes: &[&str]) -> Vec<u8> {
    update(&[], &usual(name).concat(), &nlri(prefixes))
}

fn withdraw(prefixes: &[&str]) -> Vec<u8> {
    update(&nlri(prefixes), &[], &[])
}

fn end_of_rib() -> Vec<u8> {
    update(&[], &[], &[])
}

fn is_end_of_rib(message: &Message) -> Option<Family> {
    match message {
        Message::Update(update) => update.end_of_rib,
        Message::Open(_)
        | Message::Notification(_)
        | Message::Keepalive
        | Message::RouteRefresh(_) => None,
    }
}
