//! The same cases over TCP: against `margay speaker` as a process of its own.
//!
//! Where the variable `MARGAY_CONFORMANCE_SPEAKER` names the `margay` binary, a lab starts one for itself in a network namespace
//! that is nobody else's, and neighbours speak to it from their own addresses there. What a case says and expects is the same;
//! times are shorter by [`paced`](super::paced), and what only the speaker in here has ends the case rather than look empty. Cases
//! that need that stand in [`inside::INSIDE`] and run there as ever.
//!
//! Without a clock of its own a lab knows by witness that the speaker is done with what was said: a probe, a prefix that no case
//! uses, is announced behind it on the same connection, and when the neighbour `z`, which no case knows, is told of it, all
//! before it was decided. Then `z` announces probes which every neighbour is told of, behind what else it was told. Twice, since
//! routes that are told together are in no order. A new configuration brings a probe of the speaker's own. Probes have attributes
//! of their own, so they share no message with anything else, and are taken out of what neighbours hold and were told; each
//! takes the place of the one before, so that they count as one prefix.
//!
//! Whoever forwards is the kernel of the namespace, where a case asks for one ([`kernel`]): it is told what next hops cost, and
//! what the process does to its routes is what a case sees.

mod collector;
mod describe;
mod inside;
mod kernel;
mod line;
mod place;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use margay_bgp::codec::{
    AddPathMode, Capability, EXTENDED_MAX_LEN, KEEPALIVE, Message, decode, framing as frames,
};
use margay_bgp::family::{Family, FamilySet};
use margay_bgp::fsm::Direction;
use margay_bgp::prefix::Prefix;
use margay_bgp::speaker::config::{Remote, SpeakerConfig};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use self::collector::Listening;
pub(super) use self::collector::sift;
use self::describe::describe;
use self::kernel::Kernel;
use self::line::{Line, add_paths, has};
use self::place::Place;
use super::seen::{Seen, SeenEvent, SeenPath, SeenTotals};
use super::{
    Around, CodecContext, End, Inside, Lab, NEIGHBOURS, OWN_ASN, Reception, address_of, asn_of,
    attribute, own_address, update,
};

/// The variable that names the binary.
const VARIABLE: &str = "MARGAY_CONFORMANCE_SPEAKER";

/// What a speaker may take to answer, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often neighbours say KEEPALIVE while time passes.
const KEEPING: Duration = Duration::from_millis(700);

/// How often what is no message to a neighbour is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// The neighbour no case knows: last octet of its address, AS.
const WITNESS: (&str, u8, u32) = ("z", 99, 64999);

/// A connection that only looks whether it is taken.
const CALLER: &str = "caller";

/// Addresses of the speaker.
const OWN: [[u8; 4]; 3] = [[192, 0, 2, 1], [192, 0, 2, 9], [203, 0, 113, 9]];

/// Addresses of neighbours that call from ranges, and of a stranger.
const ELSEWHERE: [[u8; 4]; 4] = [[10, 9, 0, 1], [10, 9, 0, 2], [10, 9, 0, 3], [10, 8, 0, 1]];

/// What probes are announced from.
const PROBES: [&str; 2] = ["198.18.0.0/16", "2001:2::/48"];

/// The next hop of IPv4 probes.
const PROBES_HOP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

/// The process and its neighbours' connections.
pub(super) struct Wire {
    process: Child,
    folder: PathBuf,
    place: Place,
    /// Where the process puts its routes, if anywhere.
    kernel: Option<Kernel>,
    /// Who is told by BMP, if anybody.
    collector: Option<Listening>,
    config: SpeakerConfig,
    serial: u32,
    /// Probes that neighbours and the witness announced.
    probes: u64,
    next_line: u32,
    lines: BTreeMap<&'static str, Line>,
    /// Where the speaker dials neighbours.
    listeners: BTreeMap<&'static str, TcpListener>,
    /// The speaker tells nothing yet, because it restarted.
    deferring: bool,
    /// UPDATEs said by neighbours.
    updates: BTreeMap<&'static str, u64>,
    heard: Receiver<(u32, Option<Vec<u8>>)>,
    hearing: Sender<(u32, Option<Vec<u8>>)>,
}

/// The binary to run against, unless this case runs inside.
pub(super) fn wanted() -> Option<PathBuf> {
    let binary = std::env::var_os(VARIABLE)?;
    let thread = std::thread::current();
    let case = thread.name().unwrap_or_default();
    assert!(
        case.contains("::"),
        "cases are told by the names of their threads: run at least two at once"
    );
    (!inside::is_inside(case)).then(|| binary.into())
}

fn probe_prefix(family: Family, serial: u32) -> Prefix {
    let [.., high, low] = serial.to_be_bytes();
    if family == Family::IPV4_UNICAST {
        format!("198.18.{high}.{low}/32").parse().unwrap()
    } else {
        format!("2001:2:0:{serial:x}::/64").parse().unwrap()
    }
}

/// Which probe a prefix is.
fn probe_of(prefix: Prefix) -> Option<(usize, u32)> {
    match prefix.addr() {
        IpAddr::V4(address) => match address.octets() {
            [198, 18, high, low] => Some((0, u32::from(high) << 8 | u32::from(low))),
            _ => None,
        },
        IpAddr::V6(address) => match address.segments() {
            [0x2001, 2, 0, serial, ..] => Some((1, u32::from(serial))),
            _ => None,
        },
    }
}

impl Wire {
    pub(super) fn start(binary: &PathBuf, config: &SpeakerConfig, around: Around) -> Self {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let lab = LABS.fetch_add(1, Ordering::Relaxed);
        let theirs = NEIGHBOURS.into_iter().map(|(_, last, _)| last);
        let near = theirs.chain([WITNESS.1]);
        let near = near.map(|last| [192, 0, 2, last]);
        let theirs: Vec<_> = near.chain(ELSEWHERE).map(Ipv4Addr::from).collect();
        let place = Place::new(&OWN.map(Ipv4Addr::from), &theirs, around.forwards);
        for peer in &config.peers {
            if let Remote::Address(SocketAddr::V6(remote)) = peer.remote {
                place::link(remote);
            }
        }
        let kernel = around.forwards.then(|| Kernel::new(config.restarting));
        let folder =
            std::env::temp_dir().join(format!("margay-conformance-{}-{lab}", std::process::id(),));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("speaker.yaml");
        std::fs::write(&file, describe(config, around.forwards, None)).unwrap();
        let listeners = config
            .peers
            .iter()
            .filter(|peer| !peer.passive && !around.refuses)
            .map(|peer| {
                let (name, last, _) = NEIGHBOURS
                    .into_iter()
                    .find(|(known, ..)| *known == peer.name)
                    .unwrap();
                let listener = TcpListener::bind((Ipv4Addr::new(192, 0, 2, last), 179)).unwrap();
                listener.set_nonblocking(true).unwrap();
                (name, listener)
            })
            .collect();
        let process = Command::new(binary)
            .arg("speaker")
            .arg("--config")
            .arg(&file)
            .arg("--run-dir")
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        let (hearing, heard) = channel();
        Self {
            process,
            folder,
            place,
            kernel,
            collector: None,
            config: config.clone(),
            serial: 0,
            probes: 0,
            next_line: 0,
            lines: BTreeMap::new(),
            listeners,
            deferring: config.restarting,
            updates: BTreeMap::new(),
            heard,
            hearing,
        }
    }

    /// Dials one address of the speaker from another.
    fn dial(&mut self, name: &'static str, from: SocketAddr, own: SocketAddr) {
        self.place.enter();
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            let domain = socket2::Domain::for_address(own);
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
            socket.bind(&from.into()).unwrap();
            match socket.connect(&own.into()) {
                Ok(()) => break TcpStream::from(socket),
                Err(error) => {
                    // It has not begun to listen.
                    assert!(Instant::now() < deadline, "cannot connect: {error}");
                    assert!(
                        self.process.try_wait().unwrap().is_none(),
                        "the speaker ended: {}",
                        self.log()
                    );
                    std::thread::park_timeout(Duration::from_millis(2));
                }
            }
        };
        self.hold(name, stream);
    }

    /// The neighbour has this connection.
    fn hold(&mut self, name: &'static str, stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let number = self.next_line;
        self.next_line += 1;
        let mut reading = stream.try_clone().unwrap();
        let hearing = self.hearing.clone();
        let allowance = Arc::new(AtomicUsize::new(usize::MAX));
        let allowed = Arc::clone(&allowance);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let most = allowed.load(Ordering::Acquire).min(buffer.len());
                if most == 0 {
                    std::thread::park_timeout(Duration::from_millis(1));
                    continue;
                }
                let octets = match reading.read(&mut buffer[..most]) {
                    Ok(0) | Err(_) => None,
                    Ok(count) => Some(buffer[..count].to_vec()),
                };
                if let Some(octets) = &octets {
                    let less = |left: usize| {
                        (left != usize::MAX).then(|| left.saturating_sub(octets.len()))
                    };
                    let _ = allowed.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
                }
                let over = octets.is_none();
                if hearing.send((number, octets)).is_err() || over {
                    return;
                }
            }
        });
        self.lines.insert(
            name,
            Line {
                number,
                whose: name,
                stream,
                allowance,
                incoming: BytesMut::new(),
                outgoing: BytesMut::new(),
                broken: false,
                theirs: None,
                ours: None,
                confirmed: false,
                ends_of_rib: 0,
                seen: [0; 2],
                probed: [None; 2],
                updates: 0,
                kept: false,
                said: Instant::now(),
            },
        );
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn write(&mut self, name: &'static str, octets: &[u8]) {
        let line = self.lines.get_mut(name).unwrap();
        let before = line.updates;
        line.follow(octets);
        *self.updates.entry(name).or_default() += line.updates - before;
        line.said = Instant::now();
        // The speaker may have closed already; reading tells.
        drop(line.stream.write_all(octets));
    }

    /// Asks the process through its control socket, as the command line does.
    fn ask(&self, request: &Value) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(self.folder.join("control.sock")) {
                Ok(stream) => break stream,
                Err(error) => {
                    // It speaks BGP before it answers questions.
                    assert!(Instant::now() < deadline, "no control socket: {error}");
                    std::thread::park_timeout(Duration::from_millis(2));
                }
            }
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = BufReader::new(stream);
        writeln!(stream.get_mut(), "{request}").unwrap();
        let mut answer = String::new();
        stream.read_line(&mut answer).unwrap();
        let mut answer: Value = serde_json::from_str(&answer).unwrap();
        assert!(answer["error"].is_null(), "{request}: {answer}");
        answer["ok"].take()
    }

    pub(super) fn peer(&self, name: &str) -> Seen {
        self.find_peer(name).unwrap()
    }

    /// Nothing for a name that only a connection has, or a range.
    pub(super) fn find_peer(&self, name: &str) -> Option<Seen> {
        let mut peers = self.config.peers.iter();
        peers.find(|peer| *peer.name == *name && !peer.remote.is_range())?;
        let peers = self.ask(&json!({ "ask": "peers", "name": name }));
        peers.get(0).map(Seen::read)
    }

    pub(super) fn known(&self) -> Vec<(String, bool)> {
        let peers = self.ask(&json!({ "ask": "peers", "name": null }));
        let peers = peers.as_array().unwrap().iter();
        peers
            .map(|peer| {
                let name = peer["name"].as_str().unwrap().to_owned();
                (name, peer["dynamic"].as_bool().unwrap())
            })
            .collect()
    }

    /// What all did but for the witness and its like.
    pub(super) fn totals(&self) -> SeenTotals {
        let deadline = Instant::now() + PATIENCE;
        let mut totals = loop {
            let status = self.ask(&json!({ "ask": "status" }));
            let totals = SeenTotals::read(&status["speaker"]);
            // Where no neighbour is told of them, it may not have come to the latest probes.
            if totals.announced >= self.probes {
                break totals;
            }
            assert!(Instant::now() < deadline, "{totals:?}");
            std::thread::park_timeout(Duration::from_millis(2));
        };
        totals.established -= 1;
        totals.announced -= self.probes;
        totals
    }

    pub(super) fn events(&self, name: &str) -> Vec<SeenEvent> {
        let request = json!({ "ask": "events", "after": 0, "peer": name, "follow": false });
        let events = self.ask(&request);
        events
            .as_array()
            .unwrap()
            .iter()
            .map(SeenEvent::read)
            .collect()
    }

    pub(super) fn paths(&self, text: &str) -> Vec<SeenPath> {
        let routes = self.ask(&json!({ "ask": "routes", "prefix": text, "peer": null }));
        let paths = routes[0]["paths"].as_array().cloned().unwrap_or_default();
        paths.iter().map(SeenPath::read).collect()
    }

    /// Whether what the witness says in this family reaches the neighbour.
    fn reaches(&self, name: &str, family: Family) -> bool {
        let known = self.config.peers.iter().find(|peer| peer.name == name);
        known.is_none_or(|peer| {
            family == Family::IPV4_UNICAST
                || !peer.afi_safi_disable && peer.next_hop_address.is_some()
        })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        if !std::thread::panicking() {
            drop(std::fs::remove_dir_all(&self.folder));
        }
    }
}

/// An end as a neighbour begins.
fn end(name: &'static str, direction: Direction) -> End {
    End {
        peer: Inside::nowhere(),
        direction,
        context: CodecContext::before_open(),
        buffer: BytesMut::new(),
        reading: CodecContext {
            four_octet_as: true,
            families: FamilySet::all(),
            peer_is_external: name == WITNESS.0 || asn_of(name) != OWN_ASN,
            extended_message_receive: true,
            extended_next_hop: true,
            enhanced_route_refresh: true,
            ..CodecContext::before_open()
        },
        told: Vec::new(),
        frames: Vec::new(),
        table: BTreeMap::new(),
        closed: false,
        deaf: false,
    }
}

impl Lab {
    fn wire(&mut self) -> &mut Wire {
        self.wire.as_mut().unwrap()
    }

    fn line(&self, name: &str) -> &Line {
        &self.wire.as_ref().unwrap().lines[name]
    }

    /// The witness is up before any case begins.
    pub(super) fn wire_ready(&mut self) {
        let (name, last, asn) = WITNESS;
        let from = SocketAddr::from(([192, 0, 2, last], 0));
        self.wire().dial(name, from, own_address());
        self.ends.insert(name, end(name, Direction::Incoming));
        self.hear_until("its OPEN", |lab| lab.line(name).theirs.is_some());
        let open = super::open(asn, Ipv4Addr::new(192, 0, 2, last), 90, super::USUAL);
        self.wire().write(name, &open);
        self.hear_until("KEEPALIVE", |lab| lab.line(name).confirmed);
        self.wire().write(name, &KEEPALIVE);
        if self.wire().deferring {
            // It is awaited like everybody else.
            let ends = [
                super::end_of_rib(),
                update(&[], &attribute(0x80, 15, &[0, 2, 1]), &[]),
            ];
            self.wire().write(name, &ends.concat());
        } else {
            self.hear_until("End-of-RIB", |lab| lab.line(name).ends_of_rib == 2);
        }
    }

    pub(super) fn wire_configure(&mut self, change: impl FnOnce(&mut SpeakerConfig)) {
        let wire = self.wire();
        change(&mut wire.config);
        wire.serial += 1;
        let serial = wire.serial;
        let marker = probe_prefix(Family::IPV4_UNICAST, serial);
        let text = describe(&wire.config, wire.kernel.is_some(), Some(marker));
        std::fs::write(wire.folder.join("speaker.yaml"), text).unwrap();
        let process = Pid::from_raw(wire.process.id().try_into().unwrap());
        kill(process, Signal::SIGHUP).unwrap();
        let witness = WITNESS.0;
        self.hear_until("the new configuration", |lab| {
            lab.line(witness).seen[0] >= serial
        });
        self.barrier(witness);
    }

    pub(super) fn wire_connect(&mut self, name: &'static str) {
        let from = IpAddr::V4(address_of(name));
        self.wire_connect_from(name, SocketAddr::new(from, 0), own_address());
    }

    pub(super) fn wire_connect_from(
        &mut self,
        name: &'static str,
        mut from: SocketAddr,
        mut own: SocketAddr,
    ) {
        from.set_port(0);
        for address in [&mut from, &mut own] {
            place::seen_from_far(address);
        }
        self.ends.insert(name, end(name, Direction::Incoming));
        self.wire().dial(name, from, own);
        self.await_open(name);
    }

    pub(super) fn wire_answer(&mut self, name: &'static str) {
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match self.wire().listeners[name].accept() {
                Ok((stream, _)) => break stream,
                Err(error) => assert!(
                    error.kind() == std::io::ErrorKind::WouldBlock && Instant::now() < deadline,
                    "{name} is not dialled: {error}; the speaker says: {}",
                    self.wire().log()
                ),
            }
            self.attend(Instant::now() + Duration::from_millis(5), &[], |_| false);
        };
        stream.set_nonblocking(false).unwrap();
        self.ends.insert(name, end(name, Direction::Outgoing));
        self.wire().hold(name, stream);
        self.await_open(name);
    }

    fn await_open(&mut self, name: &'static str) {
        let held_back = |peer: &&margay_bgp::speaker::config::PeerConfig| {
            peer.name == name && peer.delay_open.is_some()
        };
        if self.wire().config.peers.iter().any(|peer| held_back(&peer)) {
            return;
        }
        self.hear_until("its OPEN", |lab| {
            lab.line(name).theirs.is_some() || lab.ends[name].closed
        });
    }

    /// What the speaker does with a connection from an address, which is given up then.
    pub(super) fn wire_reception(&mut self, from: IpAddr) -> Reception {
        // Nobody has a connection of that name for longer.
        let name = CALLER;
        self.ends.insert(name, end("a", Direction::Incoming));
        self.wire()
            .dial(name, SocketAddr::new(from, 0), own_address());
        self.hear_until("an OPEN or the end", |lab| {
            lab.line(name).theirs.is_some() || lab.ends[name].closed
        });
        let is_taken = self.line(name).theirs.is_some();
        self.wire().lines.remove(name);
        match self.ends.remove(name) {
            _ if is_taken => Reception::Taken,
            Some(end) if end.told.is_empty() => Reception::Silence,
            _ => Reception::Refused,
        }
    }

    /// A connection goes by another name from now on.
    pub(super) fn wire_rename(&mut self, from: &'static str, to: &'static str) {
        let lines = &mut self.wire().lines;
        let line = lines.remove(from).unwrap();
        lines.insert(to, line);
    }

    pub(super) fn wire_put_aside(&mut self, name: &str) {
        self.wire().lines.remove(name);
    }

    /// The neighbour reads so many octets more; as many as there are with the largest number.
    pub(super) fn wire_allow(&self, name: &str, octets: usize) {
        let line = self.line(name);
        let more = |left: usize| Some(left.saturating_add(octets));
        if octets == 0 {
            line.allowance.store(0, Ordering::Release);
        } else {
            let _ = line
                .allowance
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        }
    }

    /// The kernel holds little of what neighbours do not read.
    pub(super) fn wire_narrow(&mut self) {
        self.wire().place.narrow();
    }

    pub(super) fn wire_clear(&mut self, name: &'static str, words: Option<&str>) {
        let request = json!({
            "ask": "clear", "name": name, "softIn": false, "softOut": false, "message": words,
        });
        self.wire().ask(&request);
        self.hear_until("the end of the connection", |lab| {
            lab.ends.get(name).is_none_or(|end| end.closed)
        });
    }

    pub(super) fn wire_say(&mut self, name: &'static str, octets: &[u8]) {
        let was_established = self.line(name).is_established();
        self.wire().write(name, octets);
        if self.line(name).broken {
            self.hear_until("the end of the connection", |lab| lab.ends[name].closed);
        } else if !self.line(name).confirmed {
            self.hear_until("an answer to the OPEN", |lab| {
                lab.line(name).confirmed || lab.ends[name].closed
            });
            return self.barrier(WITNESS.0);
        } else if self.wire().deferring {
            return self.await_count(name);
        } else if !was_established {
            self.hear_until("End-of-RIB", |lab| {
                let line = lab.line(name);
                line.ends_of_rib >= line.families().families().count() || lab.ends[name].closed
            });
        }
        self.barrier(name);
    }

    /// Waits until the speaker has counted what the neighbour said.
    fn await_count(&mut self, name: &'static str) {
        let said = self.wire().updates.get(name).copied().unwrap_or_default();
        self.hear_until("the count of UPDATEs", |lab| {
            let peer = lab.wire.as_ref().unwrap().peer(name);
            peer.state == margay_bgp::fsm::State::Established && peer.updates_received >= said
        });
    }

    pub(super) fn wire_cut(&mut self, name: &'static str) {
        drop(self.line(name).stream.shutdown(Shutdown::Write));
        self.hear_until("the end of the connection", |lab| lab.ends[name].closed);
        self.ends.remove(name);
        self.wire().lines.remove(name);
        self.barrier(WITNESS.0);
    }

    pub(super) fn wire_await_end(&mut self, name: &'static str, time: Duration) {
        if self.ends[name].closed {
            return;
        }
        let deadline = Instant::now() + time + PATIENCE;
        let ended = self.attend(deadline, &[name], |lab| lab.ends[name].closed);
        assert!(ended, "{name} is still connected");
        let after = self.line(name).said.elapsed();
        assert!(after >= time, "{name} is left too early: {after:?} after");
        if !self.wire().deferring {
            self.barrier(WITNESS.0);
        }
    }

    /// Time passes, and neighbours keep their sessions alive.
    pub(super) fn wire_advance(&mut self, time: Duration, silent: &[&str]) {
        self.attend(Instant::now() + time, silent, |_| false);
    }

    /// Waits for what is to happen so long after `mark` and not before.
    #[track_caller]
    pub(super) fn wire_until(
        &mut self,
        (mark, time): (Instant, Duration),
        silent: &[&str],
        what: &str,
        done: impl Fn(&Self) -> bool,
    ) {
        let happened = self.attend(mark + time + PATIENCE, silent, done);
        assert!(
            happened,
            "waited in vain for {what}; the speaker says: {}",
            self.wire().log()
        );
        let after = mark.elapsed();
        assert!(
            after >= time,
            "{what}: {after:?} after, instead of {time:?}"
        );
        self.wire().deferring = false;
        self.barrier(WITNESS.0);
    }

    /// Waits until the speaker is done with what `name` said.
    fn barrier(&mut self, name: &'static str) {
        let line = self.line(name);
        let whole = line.outgoing.is_empty() && !line.broken && line.is_established();
        let families = line.families();
        let witness = WITNESS.0;
        if name != witness && whole && !self.ends[name].closed {
            // IPv6 where it can be: limits count the other family's prefixes.
            let family = if families.has(Family::IPV6_UNICAST)
                && self.wire().reaches(name, Family::IPV6_UNICAST)
            {
                Family::IPV6_UNICAST
            } else {
                Family::IPV4_UNICAST
            };
            let serial = self.probe(name, family);
            let index = usize::from(family == Family::IPV6_UNICAST);
            self.hear_until("a probe", |lab| {
                lab.line(witness).seen[index] >= serial || lab.ends[name].closed
            });
        }
        if self.wire().deferring {
            return;
        }
        for _ in 0..2 {
            for (index, family) in [Family::IPV4_UNICAST, Family::IPV6_UNICAST]
                .into_iter()
                .enumerate()
            {
                let serial = self.probe(witness, family);
                self.hear_until("a witness's probe", |lab| {
                    let wire = lab.wire.as_ref().unwrap();
                    let heard = |serial| {
                        let kernel = wire.kernel.as_ref();
                        let collector = wire.collector.as_ref();
                        kernel.is_none_or(|kernel| kernel.probe >= serial)
                            && collector.is_none_or(|collector| collector.has(serial))
                    };
                    (index != 0 || heard(serial))
                        && wire.lines.iter().all(|(name, line)| {
                            *name == witness
                                || lab.ends.get(name).is_none_or(|end| end.closed)
                                || !line.is_established()
                                || !line.families().has(family)
                                || !wire.reaches(line.whose, family)
                                || line.allowance.load(Ordering::Acquire) != usize::MAX
                                || line.seen[index] >= serial
                        })
                });
            }
        }
    }

    fn probe(&mut self, name: &'static str, family: Family) -> u32 {
        self.probe_with(name, family, PROBES_HOP)
    }

    /// The witness announces a probe with this next hop.
    fn probe_by(&mut self, next_hop: Ipv4Addr) -> u32 {
        self.probe_with(WITNESS.0, Family::IPV4_UNICAST, next_hop)
    }

    fn probe_with(&mut self, name: &'static str, family: Family, next_hop: Ipv4Addr) -> u32 {
        let wire = self.wire();
        wire.serial += 1;
        let serial = wire.serial;
        let index = usize::from(family == Family::IPV6_UNICAST);
        let line = wire.lines.get_mut(name).unwrap();
        let before = line.probed[index].replace(serial);
        let octets = line.probe(family, serial, before, next_hop);
        wire.probes += 1;
        wire.write(name, &octets);
        serial
    }

    /// Takes in what neighbours are told until `done`.
    #[track_caller]
    fn hear_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let heard = self.attend(Instant::now() + PATIENCE, &[], done);
        assert!(
            heard,
            "waited in vain for {what}; the speaker says: {}",
            self.wire().log()
        );
    }

    /// The same at most until then; all but the `silent` ones say KEEPALIVE now and then.
    pub(super) fn attend(
        &mut self,
        until: Instant,
        silent: &[&str],
        done: impl Fn(&Self) -> bool,
    ) -> bool {
        let mut keeping = Instant::now() + KEEPING;
        loop {
            // What is there already is looked at first: a verdict is about all of it.
            while let Ok((number, octets)) = self.wire().heard.try_recv() {
                self.hear(number, octets);
            }
            let wire = self.wire();
            if let Some(kernel) = &mut wire.kernel {
                kernel.listen();
            }
            if let Some(collector) = &mut wire.collector {
                collector.listen();
            }
            if done(self) {
                return true;
            }
            let now = Instant::now();
            if now >= until {
                return false;
            }
            if now >= keeping {
                keeping = now + KEEPING;
                let wire = self.wire();
                for (name, line) in &mut wire.lines {
                    if !silent.contains(name)
                        && line.kept
                        && !line.broken
                        && line.outgoing.is_empty()
                    {
                        line.said = now;
                        drop(line.stream.write_all(&KEEPALIVE));
                    }
                }
            }
            let left = until.saturating_duration_since(now).min(LOOK);
            match self.wire().heard.recv_timeout(left) {
                Ok((number, octets)) => self.hear(number, octets),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("nobody hears"),
            }
        }
    }

    fn hear(&mut self, number: u32, octets: Option<Vec<u8>>) {
        let wire = self.wire.as_mut().unwrap();
        let Some((name, line)) = wire
            .lines
            .iter_mut()
            .find(|(_, line)| line.number == number)
        else {
            return;
        };
        let Some(end) = self.ends.get_mut(name) else {
            return;
        };
        let Some(octets) = octets else {
            end.closed = true;
            return;
        };
        line.incoming.extend_from_slice(&octets);
        while let Some(frame) = frames::split(&mut line.incoming, EXTENDED_MAX_LEN).unwrap() {
            let message = decode(&frame.octets, &end.reading).unwrap();
            match &message {
                Message::Open(open) => line.theirs = Some(open.clone()),
                Message::Keepalive if !line.confirmed => {
                    line.confirmed = true;
                    if let (Some(ours), Some(theirs)) = (&line.ours, &line.theirs) {
                        let is_wide = |open| has(open, |c| matches!(c, Capability::FourOctetAs(_)));
                        end.reading.four_octet_as = is_wide(ours) && is_wide(theirs);
                        end.reading.add_path_receive = add_paths(ours, AddPathMode::receives)
                            & add_paths(theirs, AddPathMode::sends);
                    }
                }
                Message::Update(update) if update.end_of_rib.is_some() => line.ends_of_rib += 1,
                Message::Update(_)
                | Message::Keepalive
                | Message::Notification(_)
                | Message::RouteRefresh(_) => {}
            }
            let Message::Update(mut update) = message else {
                end.frames.push(frame.octets.to_vec());
                end.take(message);
                continue;
            };
            let marks_end = update.end_of_rib.is_some();
            for announcement in &mut update.announced {
                announcement
                    .nlri
                    .retain(|nlri| match probe_of(nlri.prefix) {
                        Some((family, serial)) => {
                            line.seen[family] = line.seen[family].max(serial);
                            false
                        }
                        None => true,
                    });
            }
            update
                .announced
                .retain(|announcement| !announcement.nlri.is_empty());
            update
                .withdrawn
                .retain(|nlri| probe_of(nlri.prefix).is_none());
            if marks_end || !update.announced.is_empty() || !update.withdrawn.is_empty() {
                end.frames.push(frame.octets.to_vec());
                end.take(Message::Update(update));
            }
        }
    }
}
