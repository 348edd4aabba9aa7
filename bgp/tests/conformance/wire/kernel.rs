//! The kernel as whoever forwards: what the process does to the routes of the lab's place, and what next hops cost there.
//!
//! Probes are among these routes. That one announced behind something was put there tells that whoever forwards knows of it as
//! well; and one whose next hop the kernel learns last tells that the process knows of all it learned before.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use margay_bgp::prefix::Prefix;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use super::super::forwarding::Forwarded;
use super::super::{Lab, address_of};
use super::place::ip;
use super::{Wire, probe_of};

/// The protocol number of the process's routes.
const PROTOCOL: u8 = 109;

/// The link next hops are reached over. Nothing goes there: what is sent to neighbours stays in the place.
const LINK: &str = "eth0";

/// What probes have as next hop.
const PROBED: [&str; 2] = ["192.0.2.77/32", "2001:db8::77/128"];

/// Routes of an earlier life, where the speaker restarted.
const EARLIER: [&str; 2] = ["198.51.100.0/24", "2001:db8:5::/64"];

// Numbers of `linux/rtnetlink.h`.
const GROUPS: u32 = 0x40 | 0x400;
const NEW_ROUTE: u16 = 24;
const DEL_ROUTE: u16 = 25;
const MAIN_TABLE: u8 = 254;
const BLACKHOLE: u8 = 6;
const DST: u16 = 1;
const GATEWAY: u16 = 5;
const MULTIPATH: u16 = 9;

/// What the kernel tells of its routes.
pub(super) struct Kernel {
    events: OwnedFd,
    /// What a case has not seen yet.
    told: Vec<Forwarded>,
    /// The last IPv4 probe that was put into the table.
    pub(super) probe: u32,
    /// Routes of an earlier life that are still there.
    earlier: usize,
    /// What it costs to reach neighbours, and nothing for those that are not reached.
    costs: BTreeMap<&'static str, u32>,
    /// How often something was told of next hops.
    tellings: u32,
}

impl Kernel {
    /// That of the place the calling thread is in.
    pub(super) fn new(restarting: bool) -> Self {
        let mut commands = format!(
            "link add {LINK} type veth peer name eth1\nlink set {LINK} addrgenmode none\nlink set {LINK} up\nlink set eth1 up\n"
        );
        for hop in PROBED {
            commands.push_str(&format!("route add {hop} dev {LINK}\n"));
        }
        let earlier = if restarting { &EARLIER[..] } else { &[] };
        for prefix in earlier {
            commands.push_str(&format!("route add {prefix} dev {LINK} proto {PROTOCOL}\n"));
        }
        ip(&commands);
        let events = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkRoute,
        )
        .unwrap();
        bind(events.as_raw_fd(), &NetlinkAddr::new(0, GROUPS)).unwrap();
        Self {
            events,
            told: Vec::new(),
            probe: 0,
            earlier: earlier.len(),
            costs: BTreeMap::new(),
            tellings: 0,
        }
    }

    /// Takes in what happened to the routes.
    pub(super) fn listen(&mut self) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match recv(self.events.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(octets) => self.take(&buffer[..octets]),
                Err(Errno::EAGAIN) => return,
                Err(error) => panic!("the kernel's news are lost: {error}"),
            }
        }
    }

    fn take(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            let length = u32::from_ne_bytes(octets[..4].try_into().unwrap());
            let (message, rest) = octets.split_at(usize::try_from(length).unwrap());
            octets = rest;
            let Some(route) = read(message) else {
                continue;
            };
            let is_gone = route.next_hops.is_empty() && !route.drops;
            if is_gone && EARLIER.contains(&&*route.prefix.to_string()) {
                self.earlier -= 1;
                continue;
            }
            match probe_of(route.prefix) {
                None => self.told.push(route),
                Some((0, serial)) if !is_gone => self.probe = self.probe.max(serial),
                Some(_) => {}
            }
        }
    }

    /// Tells the kernel what neighbours cost, and last of all the next hop of a witness.
    fn tell(&mut self, metrics: &[(&'static str, Option<u32>)], also: &str) {
        let mut commands = also.to_owned();
        for (name, metric) in metrics {
            let before = match *metric {
                Some(metric) => self.costs.insert(name, metric),
                None => self.costs.remove(name),
            };
            if before == *metric {
                continue;
            }
            let route = format!("{}/32 dev {LINK}", address_of(name));
            for (verb, metric) in [("add", *metric), ("del", before)] {
                if let Some(metric) = metric {
                    commands.push_str(&format!("route {verb} {route} metric {metric}\n"));
                }
            }
        }
        commands.push_str(&format!("route add {}/32 dev {LINK}\n", self.witness()));
        ip(&commands);
    }

    /// A next hop that is in no route before the latest telling.
    fn witness(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 19, 0, 0)) + self.tellings)
    }
}

/// A route of the process's.
fn read(message: &[u8]) -> Option<Forwarded> {
    let kind = u16::from_ne_bytes([message[4], message[5]]);
    let [_, length, _, _, table, protocol, _, action] = message[16..24] else {
        return None;
    };
    if table != MAIN_TABLE || protocol != PROTOCOL {
        return None;
    }
    let attributes = attributes(&message[28..]);
    let find = |wanted| attributes.iter().find(|(kind, _)| *kind == wanted);
    let zero = if message[16] == 2 {
        &[0; 4][..]
    } else {
        &[0; 16]
    };
    let prefix = address(find(DST).map_or(zero, |(_, value)| value));
    let mut route = Forwarded {
        prefix: Prefix::new(prefix, length).unwrap(),
        next_hops: Vec::new(),
        weights: Vec::new(),
        drops: false,
    };
    match kind {
        NEW_ROUTE => {}
        DEL_ROUTE => return Some(route),
        _ => return None,
    }
    route.drops = action == BLACKHOLE;
    if let Some((_, gateway)) = find(GATEWAY) {
        route.next_hops.push(address(gateway));
    }
    let mut hops = find(MULTIPATH).map_or(&[][..], |(_, value)| value);
    while !hops.is_empty() {
        let length = usize::from(u16::from_ne_bytes([hops[0], hops[1]]));
        let (hop, rest) = hops.split_at(length);
        hops = rest;
        // The kernel counts weights from 0.
        route.weights.push(hop[3] + 1);
        let inner = self::attributes(&hop[8..]);
        let gateway = inner.iter().find(|(kind, _)| *kind == GATEWAY);
        route
            .next_hops
            .extend(gateway.map(|(_, value)| address(value)));
    }
    if route.weights.iter().all(|weight| *weight == 1) {
        route.weights.clear();
    }
    assert!(route.next_hops.is_sorted(), "{route:?}");
    Some(route)
}

fn attributes(mut octets: &[u8]) -> Vec<(u16, &[u8])> {
    let mut all = Vec::new();
    while octets.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([octets[0], octets[1]]));
        let kind = u16::from_ne_bytes([octets[2], octets[3]]);
        all.push((kind, &octets[4..length]));
        octets = &octets[length.next_multiple_of(4).min(octets.len())..];
    }
    all
}

fn address(octets: &[u8]) -> IpAddr {
    match <[u8; 4]>::try_from(octets) {
        Ok(octets) => IpAddr::from(octets),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(octets).unwrap()),
    }
}

impl Wire {
    pub(super) fn kernel(&mut self) -> &mut Kernel {
        let kernel = self.kernel.as_mut();
        kernel.expect("nobody forwards by its routes: begin with Lab::forwarding")
    }

    pub(in super::super) fn is_complete(&self) -> bool {
        let kernel = self.kernel.as_ref();
        kernel.expect("somebody forwards").earlier == 0
    }
}

impl Lab {
    pub(in super::super) fn wire_tell(&mut self, metrics: &[(&'static str, Option<u32>)]) {
        self.tell_witnessed(metrics, "");
    }

    /// The last thing told in a place: from then on every next hop is reached.
    pub(in super::super) fn wire_tell_default(&mut self) {
        self.tell_witnessed(&[], &format!("route add default dev {LINK}\n"));
    }

    fn tell_witnessed(&mut self, metrics: &[(&'static str, Option<u32>)], also: &str) {
        let kernel = self.wire().kernel();
        kernel.tellings += 1;
        let hop = kernel.witness();
        let serial = self.probe_by(hop);
        let wire = self.wire();
        wire.place.enter();
        wire.kernel().tell(metrics, also);
        if wire.deferring {
            // No probe is put there before the tables are whole, and nothing else.
            return;
        }
        self.hear_until("what was told of next hops", |lab| {
            let wire = lab.wire.as_ref().unwrap();
            wire.kernel.as_ref().unwrap().probe >= serial
        });
        self.barrier(super::WITNESS.0);
    }

    pub(in super::super) fn wire_forwarded(&mut self) -> Vec<Forwarded> {
        let kernel = self.wire().kernel();
        kernel.listen();
        std::mem::take(&mut kernel.told)
    }
}
