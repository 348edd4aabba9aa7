//! The same cases over TCP: against `margay speaker` as a process of its own.
//!
//! Where the variable `MARGAY_CONFORMANCE_SPEAKER` names the `margay` binary, a lab starts one for itself on an address of 127/8
//! that is nobody else's, and neighbours dial it from addresses beside it. What a case says and expects is the same; cases that
//! need the invented clock or look inside the speaker stand in [`INSIDE`] and run there as ever.
//!
//! Without a clock of its own a lab knows by witness that the speaker is done with what was said: a probe, a prefix that no case
//! uses, is announced behind it on the same connection, and when the neighbour `z`, which no case knows, is told of it, all
//! before it was decided. Then `z` announces probes which every neighbour is told of, behind what else it was told. Twice, since
//! routes that are told together are in no order. Probes have attributes of their own, so they share no message with anything
//! else, and are taken out of what neighbours hold and were told.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use margay_bgp::codec::{
    AddPathMode, Capability, EXTENDED_MAX_LEN, KEEPALIVE, Message, Open, decode, framing as frames,
};
use margay_bgp::family::{Family, FamilySet};
use margay_bgp::fsm::Direction;
use margay_bgp::policy::Policy;
use margay_bgp::prefix::Prefix;
use margay_bgp::speaker::config::{LimitAction, PeerConfig, Remote, SpeakerConfig};

use super::{CodecContext, End, Lab, NEIGHBOURS, OWN_ASN, asn_of, attribute, update};

/// The variable that names the binary.
const VARIABLE: &str = "MARGAY_CONFORMANCE_SPEAKER";

/// What a speaker may take to answer, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where speakers listen.
const PORT: u16 = 1790;

/// The neighbour no case knows: last octet of its address, AS.
const WITNESS: (&str, u8, u32) = ("z", 99, 64999);

/// Cases, or whole files of them, that do not run over TCP, and why.
const INSIDE: &[(&str, &str)] = &[
    (
        "bfd::",
        "BFD runs on the invented clock; labs have its sockets",
    ),
    ("cases::", "no speaker at all"),
    ("sweep::", SPEAKERS),
    ("decision::", SNAPSHOT),
    ("external::a_default_", FILE),
    ("external::an_aggregate_", FILE),
    ("external::e5_", FILE),
    ("external::e9_", FILE),
    ("external::e10_", FILE),
    ("external::e11_", SNAPSHOT),
    ("external::e13_a_med_", FILE),
    ("external::e15_", FILE),
    ("external::e16_", SNAPSHOT),
    ("external::e17_", FILE),
    ("external::e18_what_policy_", FILE),
    ("external::e19_", FILE),
    ("external::e21_", SNAPSHOT),
    ("external::e22_", SNAPSHOT),
    ("external::e24_", FILE),
    ("external::e25_", FILE),
    ("external::e26_", FILE),
    ("external::e27_", SNAPSHOT),
    ("external::e28_", SNAPSHOT),
    ("external::e31_", FILE),
    ("monitoring::", SNAPSHOT),
    ("next_hops::", FILE),
    ("long_lived::", CLOCK),
    ("add_path::a_", FILE),
    ("add_path::p1_p3_", SNAPSHOT),
    ("add_path::p2_p4_", SNAPSHOT),
    ("add_path::p6_", FILE),
    ("add_path::p7_", FILE),
    ("add_path::p8_", FILE),
    ("add_path::more_paths_", SNAPSHOT),
    ("add_path::the_best_two_", FILE),
    ("attributes::a14_a15_with_the_option_", PROBES),
    (
        "export::e13_",
        "it compares next hops with addresses of the lab's own subnet",
    ),
    ("export::e15_", FILE),
    ("export::e16_", PROBES),
    ("framing::h12_an_end_", SNAPSHOT),
    ("opens::o9_", CLOCK),
    ("opens::o10_", SNAPSHOT),
    ("opens::o15_o16_o17_", SNAPSHOT),
    ("opens::o25_", DIALS),
    ("refresh::g1_g2_", CLOCK),
    ("ranges::", "the lab's file has no ranges"),
    ("refresh::g3_g4_", CLOCK),
    ("refresh::g4_", CLOCK),
    ("refresh::r4_", CLOCK),
    ("sessions::a_cleared_", FILE),
    ("sessions::c4_", DIALS),
    ("sessions::c5_", DIALS),
    ("sessions::c7_", CLOCK),
    ("sessions::f1_", DIALS),
    ("sessions::f2_", CLOCK),
    ("sessions::f8_", CLOCK),
    ("sessions::f9_", CLOCK),
    ("sessions::f10_", FILE),
    ("sessions::f11_", SNAPSHOT),
    ("sessions::f14_", DIALS),
    ("sessions::f18_", PROBES),
    ("sessions::f19_", FILE),
    (
        "sessions::f20_",
        "labs change keys of real sockets: x1 and its like",
    ),
    ("sessions::changing_", FILE),
    ("sessions::g10_", CLOCK),
    ("sessions::g11_", CLOCK),
    ("sessions::g12_", CLOCK),
    ("sessions::g13_", CLOCK),
    ("sessions::g14_", CLOCK),
    (
        "sessions::g15_",
        "it looks at what whoever forwards is told",
    ),
    (
        "sessions::g16_",
        "the file's speaker finds out itself whether it restarted",
    ),
    (
        "sessions::r8_",
        "it needs a peer that stops reading in the middle of a pass",
    ),
    ("sessions::r10_", FILE),
    (
        "updates::a3_next_hops_",
        "over the loopback next hops there are as good as others",
    ),
    ("updates::u19_", SNAPSHOT),
    ("updates::what_a_peer_", SNAPSHOT),
];

const CLOCK: &str = "it takes seconds to minutes, and says what happens when";
const DIALS: &str = "the speaker dials, at times of its own";
const FILE: &str = "it configures what the lab's file does not say, or while the speaker runs";
const PROBES: &str = "the lab's probes would count, or not pass";
const SNAPSHOT: &str = "it looks inside the speaker";
const SPEAKERS: &str = "thousands of speakers; the loopback adds nothing to them";

/// The process and its neighbours' connections.
pub(super) struct Wire {
    process: Child,
    folder: PathBuf,
    /// The first three octets of the lab's addresses.
    net: [u8; 3],
    serial: u32,
    next_line: u32,
    lines: BTreeMap<&'static str, Line>,
    heard: Receiver<(u32, Option<Vec<u8>>)>,
    hearing: Sender<(u32, Option<Vec<u8>>)>,
}

/// A neighbour's end of its TCP connection.
struct Line {
    number: u32,
    stream: TcpStream,
    /// What was heard and is no whole message yet.
    incoming: BytesMut,
    /// What was said of a message that is not whole.
    outgoing: BytesMut,
    /// What was said is no message any more, or a last one.
    broken: bool,
    theirs: Option<Open>,
    ours: Option<Open>,
    confirmed: bool,
    ends_of_rib: usize,
    /// The last probe seen, by family.
    seen: [u32; 2],
}

/// The binary to run against, unless this case runs inside.
pub(super) fn wanted() -> Option<PathBuf> {
    let binary = std::env::var_os(VARIABLE)?;
    let thread = std::thread::current();
    let case = thread.name().unwrap_or_default();
    (!is_inside(case)).then(|| binary.into())
}

fn is_inside(case: &str) -> bool {
    INSIDE.iter().any(|(known, _)| case.starts_with(known))
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
        std::net::IpAddr::V4(address) => match address.octets() {
            [198, 18, high, low] => Some((0, u32::from(high) << 8 | u32::from(low))),
            _ => None,
        },
        std::net::IpAddr::V6(address) => match address.segments() {
            [0x2001, 2, 0, serial, ..] => Some((1, u32::from(serial))),
            _ => None,
        },
    }
}

fn families_of(open: &Open) -> FamilySet {
    let listed: Vec<Family> = open
        .capabilities
        .iter()
        .filter_map(|capability| {
            if let Capability::Multiprotocol(family) = capability {
                Some(*family)
            } else {
                None
            }
        })
        .collect();
    if listed.is_empty() {
        FamilySet::IPV4_UNICAST
    } else {
        listed.into_iter().collect()
    }
}

fn has(open: &Open, wanted: fn(&Capability) -> bool) -> bool {
    open.capabilities.iter().any(wanted)
}

fn add_paths(open: &Open, wanted: fn(AddPathMode) -> bool) -> FamilySet {
    open.capabilities
        .iter()
        .filter_map(|capability| {
            if let Capability::AddPath(tuples) = capability {
                Some(tuples)
            } else {
                None
            }
        })
        .flatten()
        .filter(|tuple| wanted(tuple.mode))
        .map(|tuple| tuple.family)
        .collect()
}

impl Line {
    fn families(&self) -> FamilySet {
        match (&self.ours, &self.theirs) {
            (Some(ours), Some(theirs)) => families_of(ours) & families_of(theirs),
            _ => FamilySet::empty(),
        }
    }

    fn is_established(&self) -> bool {
        self.confirmed && self.ends_of_rib > 0
    }

    /// Follows what is said, so that a probe never lands inside a message.
    fn follow(&mut self, octets: &[u8]) {
        self.outgoing.extend_from_slice(octets);
        loop {
            match frames::split(&mut self.outgoing, EXTENDED_MAX_LEN) {
                Ok(None) => return,
                Ok(Some(frame)) => match decode(&frame.octets, &CodecContext::before_open()) {
                    Ok(Message::Open(open)) => self.ours = Some(open),
                    Ok(Message::Notification(_)) => self.broken = true,
                    Ok(Message::Keepalive | Message::Update(_) | Message::RouteRefresh(_))
                    | Err(_) => {}
                },
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
    }

    /// An announcement of a probe in this session's terms.
    fn probe(&self, name: &str, family: Family, serial: u32) -> Vec<u8> {
        let (Some(ours), Some(theirs)) = (&self.ours, &self.theirs) else {
            return Vec::new();
        };
        let asn = if name == WITNESS.0 {
            WITNESS.2
        } else {
            asn_of(name)
        };
        let inside = asn == OWN_ASN;
        let wide = has(ours, |c| matches!(c, Capability::FourOctetAs(_)));
        let mut path = Vec::new();
        if !inside {
            path.extend([2, 1]);
            if wide {
                path.extend(asn.to_be_bytes());
            } else {
                path.extend(u16::try_from(asn).unwrap().to_be_bytes());
            }
        }
        let ids = add_paths(ours, AddPathMode::sends) & add_paths(theirs, AddPathMode::receives);
        let prefix = probe_prefix(family, serial);
        let mut nlri = Vec::new();
        if ids.has(family) {
            nlri.extend(1_u32.to_be_bytes());
        }
        nlri.push(prefix.len());
        let mut attributes = Vec::new();
        match prefix.addr() {
            std::net::IpAddr::V4(address) => nlri.extend(address.octets()),
            std::net::IpAddr::V6(address) => {
                nlri.extend(&address.octets()[..8]);
                let mut reach = vec![0, 2, 1, 16];
                reach.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x77, 0]);
                reach.append(&mut nlri);
                attributes.extend(attribute(0x80, 14, &reach));
            }
        }
        attributes.extend(attribute(0x40, 1, &[0]));
        attributes.extend(attribute(0x40, 2, &path));
        if family == Family::IPV4_UNICAST {
            attributes.extend(attribute(0x40, 3, &[192, 0, 2, 77]));
        }
        if inside {
            attributes.extend(attribute(0x40, 5, &[0, 0, 0, 100]));
        }
        // Of its own kind, so that it travels alone.
        attributes.extend(attribute(0xc0, 8, &(0xfde7_0000 | serial).to_be_bytes()));
        update(&[], &attributes, &nlri)
    }
}

impl Wire {
    pub(super) fn start(binary: &PathBuf, config: &SpeakerConfig) -> Self {
        static LABS: AtomicU32 = AtomicU32::new(0);
        // An address of our own: a listener on it that is closed again shows that nobody else has it.
        let (net, own) = loop {
            let lab = LABS.fetch_add(1, Ordering::Relaxed);
            let mixed = std::process::id().wrapping_mul(4001).wrapping_add(lab);
            let [.., high, low] = mixed.to_be_bytes();
            let net = [127, high.max(1), low];
            let own = SocketAddr::from(([127, net[1], net[2], 1], PORT));
            if TcpListener::bind(own).is_ok() {
                break (net, own);
            }
        };
        let folder = std::env::temp_dir().join(format!(
            "margay-conformance-{}-{}-{}",
            std::process::id(),
            net[1],
            net[2]
        ));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("speaker.yaml");
        std::fs::write(&file, describe(config, own, net)).unwrap();
        let process = Command::new(binary)
            .arg("speaker")
            .arg("--config")
            .arg(&file)
            .env_remove("MARGAY_RUN_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        let (hearing, heard) = channel();
        Self {
            process,
            folder,
            net,
            serial: 0,
            next_line: 0,
            lines: BTreeMap::new(),
            heard,
            hearing,
        }
    }

    /// Dials the speaker from the neighbour's address.
    fn dial(&mut self, name: &'static str, last: u8) {
        let own = SocketAddr::from(([127, self.net[1], self.net[2], 1], PORT));
        let from = SocketAddr::from(([127, self.net[1], self.net[2], last], 0));
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
            let socket = socket.unwrap();
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
        stream.set_nodelay(true).unwrap();
        let number = self.next_line;
        self.next_line += 1;
        let mut reading = stream.try_clone().unwrap();
        let hearing = self.hearing.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let octets = match reading.read(&mut buffer) {
                    Ok(0) | Err(_) => None,
                    Ok(count) => Some(buffer[..count].to_vec()),
                };
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
                stream,
                incoming: BytesMut::new(),
                outgoing: BytesMut::new(),
                broken: false,
                theirs: None,
                ours: None,
                confirmed: false,
                ends_of_rib: 0,
                seen: [0; 2],
            },
        );
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn write(&mut self, name: &str, octets: &[u8]) {
        let line = self.lines.get_mut(name).unwrap();
        line.follow(octets);
        // The speaker may have closed already; reading tells.
        drop(line.stream.write_all(octets));
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
fn end(lab: &Lab, name: &'static str) -> End {
    // The identifier serves nobody here; a speaker gives one to whoever it knows.
    let known = if name == WITNESS.0 { "a" } else { name };
    let remote = SocketAddr::new(super::address_of(known).into(), 40_000);
    let mut speaker = margay_bgp::speaker::Speaker::new(lab.speaker.config().clone(), 7, lab.now);
    let margay_bgp::speaker::Accepted::Peer(peer, _) =
        speaker.accept(remote, super::own_address(), lab.now)
    else {
        panic!("{name} is refused");
    };
    End {
        peer,
        direction: Direction::Incoming,
        context: CodecContext::before_open(),
        buffer: BytesMut::new(),
        reading: CodecContext {
            four_octet_as: true,
            families: FamilySet::all(),
            peer_is_external: known == WITNESS.0 || asn_of(known) != OWN_ASN,
            extended_message_receive: true,
            extended_next_hop: true,
            enhanced_route_refresh: true,
            ..CodecContext::before_open()
        },
        told: Vec::new(),
        frames: Vec::new(),
        table: BTreeMap::new(),
        keepalive_interval: None,
        closed: false,
        deaf: false,
    }
}

impl Lab {
    fn wire(&mut self) -> &mut Wire {
        self.wire.as_mut().unwrap()
    }

    /// The witness is up before any case begins.
    pub(super) fn wire_ready(&mut self) {
        let (name, last, asn) = WITNESS;
        self.wire().dial(name, last);
        let end = end(self, name);
        self.ends.insert(name, end);
        self.hear_until("its OPEN", |lab| lab.line(name).theirs.is_some());
        let open = super::open(asn, Ipv4Addr::new(192, 0, 2, last), 90, super::USUAL);
        self.wire().write(name, &open);
        self.hear_until("KEEPALIVE", |lab| lab.line(name).confirmed);
        self.wire().write(name, &KEEPALIVE);
        self.hear_until("End-of-RIB", |lab| lab.line(name).ends_of_rib == 2);
    }

    fn line(&self, name: &str) -> &Line {
        &self.wire.as_ref().unwrap().lines[name]
    }

    pub(super) fn wire_connect(&mut self, name: &'static str) {
        let (_, last, _) = NEIGHBOURS
            .into_iter()
            .find(|(known, ..)| *known == name)
            .unwrap();
        let end = end(self, name);
        self.ends.insert(name, end);
        self.wire().dial(name, last);
        self.hear_until("its OPEN", |lab| {
            lab.line(name).theirs.is_some() || lab.ends[name].closed
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
            // Without a session it has no probes; what its OPEN did to others is told before the witness's.
            return self.barrier(WITNESS.0);
        } else if !was_established {
            self.hear_until("End-of-RIB", |lab| {
                let line = lab.line(name);
                line.ends_of_rib >= line.families().families().count() || lab.ends[name].closed
            });
        }
        self.barrier(name);
    }

    pub(super) fn wire_cut(&mut self, name: &'static str) {
        drop(self.line(name).stream.shutdown(Shutdown::Write));
        self.hear_until("the end of the connection", |lab| lab.ends[name].closed);
        self.ends.remove(name);
        self.wire().lines.remove(name);
        self.barrier(WITNESS.0);
    }

    pub(super) fn wire_await_end(&mut self, name: &'static str) {
        self.hear_until("the end of the connection", |lab| lab.ends[name].closed);
    }

    /// Waits until the speaker is done with what `name` said.
    fn barrier(&mut self, name: &'static str) {
        let line = self.line(name);
        let whole = line.outgoing.is_empty() && !line.broken && line.is_established();
        let families = line.families();
        let witness = WITNESS.0;
        if name != witness && whole && !self.ends[name].closed {
            // IPv6 where it can be: limits count the other family's prefixes.
            let family = if families.has(Family::IPV6_UNICAST) {
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
        for _ in 0..2 {
            for (index, family) in [Family::IPV4_UNICAST, Family::IPV6_UNICAST]
                .into_iter()
                .enumerate()
            {
                let serial = self.probe(witness, family);
                self.hear_until("a witness's probe", |lab| {
                    lab.wire.as_ref().unwrap().lines.iter().all(|(name, line)| {
                        *name == witness
                            || lab.ends.get(name).is_none_or(|end| end.closed)
                            || !line.is_established()
                            || !line.families().has(family)
                            || line.seen[index] >= serial
                    })
                });
            }
        }
    }

    fn probe(&mut self, name: &'static str, family: Family) -> u32 {
        let wire = self.wire();
        wire.serial += 1;
        let serial = wire.serial;
        let octets = wire.lines[name].probe(name, family, serial);
        wire.write(name, &octets);
        serial
    }

    /// Takes in what neighbours are told until `done`.
    #[track_caller]
    fn hear_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // What is there already is looked at first: a verdict is about all of it.
            while let Ok((number, octets)) = self.wire().heard.try_recv() {
                self.hear(number, octets);
            }
            if done(self) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.wire().heard.recv_timeout(left) {
                Ok((number, octets)) => self.hear(number, octets),
                Err(RecvTimeoutError::Timeout) => {
                    panic!(
                        "waited in vain for {what}; the speaker says: {}",
                        self.wire().log()
                    )
                }
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
                        end.reading.four_octet_as =
                            has(ours, |c| matches!(c, Capability::FourOctetAs(_)));
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

/// A name of ours as the file writes it.
fn key_of(value: &impl std::fmt::Debug) -> String {
    let name = format!("{value:?}");
    let (first, rest) = name.split_at(1);
    first.to_lowercase() + rest
}

/// The configuration as a file of `margay speaker`. What it cannot say ends the case.
fn describe(config: &SpeakerConfig, own: SocketAddr, net: [u8; 3]) -> String {
    let mut text = String::new();
    let mut plain = SpeakerConfig::new(config.asn, config.router_id);
    plain.peers.clone_from(&config.peers);
    plain.cluster_id = config.cluster_id;
    assert!(
        plain == *config,
        "the file cannot say what this case configures: it belongs into INSIDE"
    );
    writeln!(text, "asn: {}\nrouterId: {}", config.asn, config.router_id).unwrap();
    if let Some(cluster) = config.cluster_id {
        writeln!(text, "clusterId: {cluster}").unwrap();
    }
    writeln!(text, "listen: [\"{own}\"]\npeers:").unwrap();
    for peer in &config.peers {
        let Remote::Address(remote) = peer.remote else {
            panic!("a range belongs into INSIDE");
        };
        let std::net::IpAddr::V4(address) = remote.ip() else {
            panic!("an IPv6 session belongs into INSIDE");
        };
        let [.., last] = address.octets();
        let mut plain = PeerConfig::new(
            &*peer.name,
            peer.remote,
            peer.asn.clone(),
            Arc::new(Policy::accept_all()),
            Arc::new(Policy::accept_all()),
        );
        plain.passive = true;
        plain.route_reflector_client = peer.route_reflector_client;
        plain.next_hop_address = peer.next_hop_address;
        let place = Ipv4Addr::new(net[0], net[1], net[2], last);
        let mut lines = vec![
            format!("address: {place}"),
            format!("asn: {}", peer.asn),
            "passive: true".to_owned(),
            format!("routeReflectorClient: {}", peer.route_reflector_client),
        ];
        if let Some(address) = peer.next_hop_address {
            lines.push(format!("nextHopAddress: {address}"));
        }
        macro_rules! field {
            ($field:ident, $key:literal, $value:expr) => {
                if plain.$field != peer.$field {
                    plain.$field.clone_from(&peer.$field);
                    lines.push(format!("{}: {}", $key, $value));
                }
            };
        }
        field!(local_asn, "localAsn", peer.local_asn.unwrap());
        field!(cluster_id, "clusterId", peer.cluster_id.unwrap());
        field!(allowed_local_as, "allowedLocalAs", peer.allowed_local_as);
        field!(
            strict_attributes,
            "strictAttributes",
            peer.strict_attributes
        );
        field!(afi_safi_disable, "afiSafiDisable", peer.afi_safi_disable);
        field!(extended_next_hop, "extendedNextHop", peer.extended_next_hop);
        field!(enforce_first_as, "enforceFirstAs", peer.enforce_first_as);
        field!(allow_as_set, "allowAsSet", peer.allow_as_set);
        field!(as_override, "asOverride", peer.as_override);
        field!(role, "role", key_of(&peer.role.unwrap()));
        field!(
            remove_private_as,
            "removePrivateAs",
            key_of(&peer.remove_private_as.unwrap())
        );
        field!(local_as_mode, "localAsMode", key_of(&peer.local_as_mode));
        field!(
            default_originate,
            "defaultOriginate",
            peer.default_originate
        );
        field!(strict_role, "strictRole", peer.strict_role);
        field!(
            minimum_hold_time,
            "minimumHoldTime",
            peer.minimum_hold_time.as_secs()
        );
        field!(maximum_prefixes, "maximumPrefixes", {
            let limit = peer.maximum_prefixes.unwrap();
            let action = match limit.action {
                LimitAction::Close => String::new(),
                LimitAction::Warn => ", warningOnly: true".to_owned(),
                LimitAction::Discard => ", discard: true".to_owned(),
                LimitAction::Restart(pause) => format!(", restart: {}s", pause.as_secs()),
            };
            format!("{{ limit: {}{action} }}", limit.limit)
        });
        assert!(
            plain == *peer,
            "the file cannot say what this case configures for {}: it belongs into INSIDE",
            peer.name
        );
        writeln!(text, "  - name: {}", peer.name).unwrap();
        for line in lines {
            writeln!(text, "    {line}").unwrap();
        }
    }
    let (name, last, asn) = WITNESS;
    let place = Ipv4Addr::new(net[0], net[1], net[2], last);
    writeln!(
        text,
        "  - name: {name}\n    address: {place}\n    asn: {asn}\n    passive: true\n    nextHopAddress: 2001:db8::1"
    )
    .unwrap();
    text
}

#[test]
fn every_case_that_stays_inside_says_why() {
    for (case, reason) in INSIDE {
        assert!(!reason.is_empty(), "{case}");
        let (file, _) = case.split_once("::").unwrap();
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = path.join(format!("tests/conformance/{file}.rs"));
        let source = std::fs::read_to_string(path).unwrap();
        let (_, name) = case.split_once("::").unwrap();
        assert!(source.contains(&format!("fn {name}")), "no case {case}");
    }
}
