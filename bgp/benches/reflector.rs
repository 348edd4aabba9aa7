//! One speaker as route reflector with many clients, without sockets: what the tables and update groups cost.
//!
//! Run with `cargo bench -p margay-bgp --bench reflector [A|C|D|F …]`. Every client announces its own prefixes, all at once;
//! then one more prefix is announced, a client joins, one is lost, and everything is withdrawn. Times are of the
//! process's CPU, so that a busy machine does not blur them; memory is the growth of the resident set.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a measurement that prints its figures"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use margay_bgp::asn::Asn;
use margay_bgp::codec::{
    Announcement, Capability, Community, LocalPref, Message, NextHop, Nlri, Open, PathAttributes,
    Update,
};
use margay_bgp::family::Family;
use margay_bgp::fsm::Direction;
use margay_bgp::policy::Policy;
use margay_bgp::prefix::{Ipv4Prefix, Prefix};
use margay_bgp::router_id::RouterId;
use margay_bgp::speaker::config::{PeerConfig, Remote, SpeakerConfig};
use margay_bgp::speaker::{Accepted, Output, PeerId, Speaker};

const ASN: Asn = Asn(64512);

struct Rig {
    speaker: Speaker,
    clients: Vec<PeerId>,
    now: Instant,
    octets: usize,
    sends: usize,
}

impl Rig {
    fn new() -> Self {
        let policy = Arc::new(Policy::accept_all());
        let mut config = SpeakerConfig::new(ASN, RouterId::new(1).unwrap());
        config.families = vec![Family::IPV4_UNICAST];
        let range = Remote::Range("10.0.0.0/8".parse().unwrap());
        let mut peer = PeerConfig::new("clients", range, ASN, Arc::clone(&policy), policy);
        peer.route_reflector_client = true;
        peer.graceful_restart = None;
        config.peers.push(peer);
        let now = Instant::now();
        let mut speaker = Speaker::new(config, 1, now);
        speaker.report_routes(false);
        Self {
            speaker,
            clients: Vec::new(),
            now,
            octets: 0,
            sends: 0,
        }
    }

    fn connect(&mut self) {
        let number = self.clients.len() as u32 + 1;
        let remote = SocketAddr::new(
            IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number)),
            40_000,
        );
        let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 179);
        let Accepted::Peer(peer, _) = self.speaker.accept(remote, local, self.now) else {
            panic!("refused");
        };
        self.clients.push(peer);
        self.speaker
            .handle_connected(peer, Direction::Incoming, local, remote, self.now);
        let open = Open {
            contradicting_as: None,
            asn: ASN,
            hold_time: margay_bgp::codec::HoldTime::default(),
            router_id: RouterId::new(0x0a00_0000 + number).unwrap(),
            capabilities: vec![
                Capability::Multiprotocol(Family::IPV4_UNICAST),
                Capability::FourOctetAs(ASN),
                Capability::RouteRefresh,
            ],
        };
        self.tell(peer, Message::Open(open));
        self.tell(peer, Message::Keepalive);
        self.work();
    }

    fn tell(&mut self, peer: PeerId, message: Message) {
        self.speaker
            .handle_message(peer, Direction::Incoming, message, self.now);
    }

    /// Works until there is nothing left to do; every octet is taken at once.
    fn work(&mut self) {
        loop {
            let more = self.speaker.work(2048, self.now);
            let mut any = false;
            while let Some(output) = self.speaker.poll_output() {
                if let Output::Send {
                    peer,
                    direction,
                    chunks,
                } = output
                {
                    let octets: usize = chunks.iter().map(Bytes::len).sum();
                    self.octets += octets;
                    self.sends += 1;
                    any = true;
                    self.speaker
                        .handle_written(peer, direction, octets, self.now);
                }
            }
            if !more && !any {
                return;
            }
        }
    }
}

fn update(client: usize, set: u32, prefixes: impl Iterator<Item = Prefix>) -> Message {
    let mut attributes = PathAttributes {
        local_pref: Some(LocalPref(100)),
        ..PathAttributes::default()
    };
    attributes.as_path.prepend(Asn(65000 + (set >> 8)), 3);
    attributes.communities.insert(Community(set));
    Message::Update(Update {
        announced: [Announcement {
            next_hop: NextHop::V4(Ipv4Addr::from_bits(0x0a00_0001 + client as u32)),
            nlri: prefixes.map(Nlri::from).collect(),
        }]
        .into_iter()
        .collect(),
        attributes: Some(Arc::new(attributes)),
        ..Update::default()
    })
}

fn withdrawal(prefixes: impl Iterator<Item = Prefix>) -> Message {
    Message::Update(Update {
        withdrawn: prefixes.map(Nlri::from).collect(),
        ..Update::default()
    })
}

fn prefix(client: usize, number: usize, length: u8) -> Prefix {
    let bits = (0x1000_0000 + client as u64 * 0x10_0000 + number as u64)
        << (32 - u32::from(length)).min(8);
    Prefix::V4(Ipv4Prefix::new(Ipv4Addr::from_bits(bits as u32), length).unwrap())
}

/// CPU time of this process.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn resident_mib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<f64>()
        .unwrap()
        / 256.0
}

fn scenario(name: &str, clients: usize, prefixes: usize, sets: usize, length: u8) {
    let before = resident_mib();
    let mut rig = Rig::new();
    for _ in 0..clients {
        rig.connect();
    }
    let per_set = prefixes.div_ceil(sets);
    let batch = per_set.min(800);
    let phase = |what: &str, rig: &mut Rig, run: &mut dyn FnMut(&mut Rig)| {
        (rig.octets, rig.sends) = (0, 0);
        let (wall, used) = (Instant::now(), cpu());
        run(rig);
        println!(
            "{name} {what:9} cpu {:6.2} s  wall {:9.4} s  {:7.1} MB out  {:6} sends  resident {:6.1} MiB",
            (cpu() - used).as_secs_f64(),
            wall.elapsed().as_secs_f64(),
            rig.octets as f64 / 1e6,
            rig.sends,
            resident_mib() - before,
        );
    };
    phase("announce", &mut rig, &mut |rig| {
        for from in (0..prefixes).step_by(batch) {
            for client in 0..clients {
                let nlri = (from..(from + batch).min(prefixes))
                    .map(|number| prefix(client, number, length));
                let set = (client * sets + from / per_set) as u32;
                rig.tell(rig.clients[client], update(client, set, nlri));
            }
            rig.work();
        }
    });
    phase("single", &mut rig, &mut |rig| {
        let one = prefix(0, prefixes + 7, length);
        rig.tell(rig.clients[0], update(0, 0, std::iter::once(one)));
        rig.work();
    });
    phase("join", &mut rig, &mut |rig| rig.connect());
    phase("lose", &mut rig, &mut |rig| {
        rig.speaker
            .handle_closed(rig.clients[1], Direction::Incoming, rig.now);
        rig.work();
    });
    phase("withdraw", &mut rig, &mut |rig| {
        for from in (0..prefixes).step_by(800) {
            for client in (0..clients).filter(|client| *client != 1) {
                let nlri =
                    (from..(from + 800).min(prefixes)).map(|number| prefix(client, number, length));
                rig.tell(rig.clients[client], withdrawal(nlri));
            }
            rig.work();
        }
    });
    let snapshot = rig.speaker.snapshot(rig.now);
    println!(
        "{name} left: {} prefixes, {} attribute sets, {:?}",
        snapshot.tables[0].prefixes, snapshot.attribute_sets, snapshot.memory
    );
}

fn main() {
    let asked: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|asked| asked == name);
    for (name, clients, prefixes, sets, length) in [
        ("A", 100, 1_000, 1, 32),
        ("C", 4, 200_000, 20_000, 32),
        ("D", 1_000, 4, 1, 32),
        ("E", 2, 100_000, 1, 32),
        ("F", 10, 100_000, 1, 32),
    ] {
        if wanted(name) {
            scenario(name, clients, prefixes, sets, length);
        }
    }
}
