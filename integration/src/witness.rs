//! A scripted BGP speaker: it says the octets it is given and writes down, with the time, all it is told.
//!
//! It is the third party of a story about two others: what it is told between two moments proves that a route was
//! there all along, which no look into a table could. It answers each KEEPALIVE with one and holds no timers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::BytesMut;
use margay_bgp::codec::{
    CodecContext, EXTENDED_MAX_LEN, KEEPALIVE, Message, NextHop, PathAttributes, Update, decode,
    framing,
};
use margay_bgp::family::{Family, FamilySet};
use margay_bgp::prefix::Prefix;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::sockopt::{Ipv4Ttl, Ipv6Ttl};
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrStorage, setsockopt, socket,
};

use crate::eventually::eventually;
use crate::netns::Netns;
use crate::pace;

const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Who the witness says it is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Its AS.
    pub asn: u32,
    /// The AS of those it speaks with.
    pub peer_asn: u32,
    /// Its BGP Identifier.
    pub router_id: Ipv4Addr,
    /// Offered hold time in seconds.
    pub hold_time: u16,
    /// Families (4, 6) it offers.
    pub families: &'static [u8],
}

/// What the witness was told, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A prefix was announced, for the first time or again.
    Announced(Prefix),
    /// A prefix was withdrawn.
    Withdrawn(Prefix),
    /// End-of-RIB.
    EndOfRib(Family),
    /// A route refresh message.
    Refresh,
    /// An attribute was not as it must be.
    Fault(String),
    /// The session ended, with the NOTIFICATION's code and subcode where there was one.
    Closed(Option<(u8, u8)>, String),
}

/// A route the witness holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its attributes.
    pub attributes: PathAttributes,
    /// Its next hop.
    pub next_hop: NextHop,
}

#[derive(Debug, Default)]
struct Seen {
    events: Vec<(Instant, Event)>,
    table: BTreeMap<Prefix, Route>,
}

/// An Established session of the witness.
#[derive(Debug)]
pub struct Witness {
    stream: TcpStream,
    seen: Arc<Mutex<Seen>>,
}

impl Witness {
    /// Dials until a session is Established, says `first`, then End-of-RIB.
    ///
    /// # Errors
    /// When there is no session in time; the message holds what came instead.
    pub fn dial(netns: &Netns, remote: IpAddr, who: Identity, first: &[Vec<u8>]) -> Result<Self> {
        let witness = eventually(
            format!("a session of the witness with {remote}"),
            pace::seconds(20),
            || Self::attempt(netns, remote, who),
        )?;
        for octets in first {
            witness.say(octets)?;
        }
        for family in who.families {
            witness.say(&match family {
                4 => update(&[], &[], &[]),
                _ => update(&[], &attribute(0x80, 15, &[0, 2, 1]), &[]),
            })?;
        }
        Ok(witness)
    }

    /// Dials once.
    ///
    /// # Errors
    /// When the session does not come to be Established.
    pub fn attempt(netns: &Netns, remote: IpAddr, who: Identity) -> Result<Self> {
        Self::attempt_from(netns, remote, who, None)
    }

    /// The same with another TTL than the system's: 255 is what a neighbour under GTSM sends.
    ///
    /// # Errors
    /// As [`Witness::attempt`].
    pub fn attempt_from(
        netns: &Netns,
        remote: IpAddr,
        who: Identity,
        ttl: Option<u8>,
    ) -> Result<Self> {
        let mut stream = connect(netns, SocketAddr::new(remote, 179), ttl)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(HANDSHAKE_LIMIT))?;
        stream.write_all(&open(who))?;
        let mut buffer = BytesMut::new();
        let context = context(who);
        match next(&mut stream, &mut buffer, &context)? {
            Some(Message::Open(_)) => stream.write_all(&KEEPALIVE)?,
            other => bail!("{other:?} instead of OPEN"),
        }
        match next(&mut stream, &mut buffer, &context)? {
            Some(Message::Keepalive) => {}
            other => bail!("{other:?} instead of KEEPALIVE"),
        }
        stream.set_read_timeout(None)?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let reader = stream.try_clone()?;
        thread::spawn({
            let seen = Arc::clone(&seen);
            move || listen(reader, buffer, &context, &seen)
        });
        Ok(Self { stream, seen })
    }

    /// Says these octets.
    ///
    /// # Errors
    /// When the session has ended.
    pub fn say(&self, octets: &[u8]) -> Result<()> {
        (&self.stream)
            .write_all(octets)
            .with_context(|| format!("the session ended: {:?}", self.end()))
    }

    /// The route it holds for a prefix.
    ///
    /// # Errors
    /// When it holds none.
    pub fn route(&self, prefix: &str) -> Result<Route> {
        let key: Prefix = prefix.parse()?;
        let seen = lock(&self.seen);
        seen.table
            .get(&key)
            .cloned()
            .with_context(|| format!("no {prefix} among {} routes", seen.table.len()))
    }

    /// Waits for a route that is as wanted.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn await_route(
        &self,
        prefix: &str,
        wanted: impl Fn(&Route) -> Result<()>,
    ) -> Result<Route> {
        eventually(
            format!("the witness holds {prefix}"),
            pace::seconds(10),
            || {
                let route = self.route(prefix)?;
                wanted(&route)?;
                anyhow::Ok(route)
            },
        )
    }

    /// Waits until it does not hold a prefix.
    ///
    /// # Errors
    /// When it holds it all the time.
    pub fn await_gone(&self, prefix: &str, limit: Duration) -> Result<()> {
        let key: Prefix = prefix.parse()?;
        eventually(
            format!("the witness holds {prefix} no more"),
            limit,
            || match lock(&self.seen).table.contains_key(&key) {
                true => Err(anyhow!("it does")),
                false => Ok(()),
            },
        )
    }

    /// Waits until a prefix that was withdrawn since a moment is announced again.
    ///
    /// # Errors
    /// When it was not withdrawn, or does not come back in time.
    pub fn await_renewed(&self, prefix: &str, moment: Instant) -> Result<()> {
        eventually(
            format!("{prefix} leaves and returns"),
            pace::seconds(25),
            || {
                ensure!(
                    self.withdrawn_since(prefix, moment)?,
                    "it was not withdrawn"
                );
                self.route(prefix).map(drop)
            },
        )
    }

    /// What it was told since a moment.
    #[must_use]
    pub fn events_since(&self, moment: Instant) -> Vec<Event> {
        let seen = lock(&self.seen);
        let later = seen.events.iter().filter(|(at, _)| *at >= moment);
        later.map(|(_, event)| event.clone()).collect()
    }

    /// Whether a prefix was withdrawn since a moment.
    ///
    /// # Errors
    /// When the prefix is none.
    pub fn withdrawn_since(&self, prefix: &str, moment: Instant) -> Result<bool> {
        let event = Event::Withdrawn(prefix.parse()?);
        Ok(self.events_since(moment).contains(&event))
    }

    /// How the session ended, if it did.
    #[must_use]
    pub fn end(&self) -> Option<(Option<(u8, u8)>, String)> {
        let seen = lock(&self.seen);
        seen.events.iter().find_map(|(_, event)| match event {
            Event::Closed(code, text) => Some((*code, text.clone())),
            Event::Announced(_)
            | Event::Withdrawn(_)
            | Event::EndOfRib(_)
            | Event::Refresh
            | Event::Fault(_) => None,
        })
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connects from inside a namespace; the socket stays there, the thread that made it does not.
fn connect(netns: &Netns, remote: SocketAddr, ttl: Option<u8>) -> Result<TcpStream> {
    let namespace = File::open(netns.path())?;
    let dialler = thread::spawn(move || -> Result<TcpStream> {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        let Some(ttl) = ttl else {
            return Ok(TcpStream::connect_timeout(&remote, CONNECT_LIMIT)?);
        };
        let family = match remote {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        match remote {
            SocketAddr::V4(_) => setsockopt(&socket, Ipv4Ttl, &i32::from(ttl))?,
            SocketAddr::V6(_) => setsockopt(&socket, Ipv6Ttl, &i32::from(ttl))?,
        }
        socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(remote))?;
        Ok(TcpStream::from(socket))
    });
    dialler
        .join()
        .map_err(|_| anyhow!("the dialling thread died"))?
}

fn context(who: Identity) -> CodecContext {
    CodecContext {
        four_octet_as: true,
        families: FamilySet::of(Family::IPV4_UNICAST) | FamilySet::of(Family::IPV6_UNICAST),
        peer_is_external: who.asn != who.peer_asn,
        extended_message_receive: true,
        ..CodecContext::before_open()
    }
}

fn next(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    context: &CodecContext,
) -> Result<Option<Message>> {
    let mut octets = [0; 16 * 1024];
    loop {
        if let Some(frame) = framing::split(buffer, EXTENDED_MAX_LEN)? {
            return Ok(Some(decode(&frame.octets, context)?));
        }
        match stream.read(&mut octets) {
            Ok(0) => return Ok(None),
            Ok(count) => buffer.extend_from_slice(octets.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn listen(mut stream: TcpStream, mut buffer: BytesMut, context: &CodecContext, seen: &Mutex<Seen>) {
    let note = |event| lock(seen).events.push((Instant::now(), event));
    loop {
        match next(&mut stream, &mut buffer, context) {
            Ok(Some(Message::Keepalive)) => {
                // A failure to answer shows at the next read.
                let _ = stream.write_all(&KEEPALIVE);
            }
            Ok(Some(Message::Update(update))) => take(update, &mut lock(seen)),
            Ok(Some(Message::RouteRefresh(_))) => note(Event::Refresh),
            Ok(Some(Message::Notification(notification))) => {
                let code = (notification.code.code, notification.code.subcode);
                note(Event::Closed(Some(code), notification.to_string()));
                return;
            }
            Ok(Some(Message::Open(_))) => {
                note(Event::Closed(None, "a second OPEN".to_owned()));
                return;
            }
            Ok(None) => {
                note(Event::Closed(None, "end of stream".to_owned()));
                return;
            }
            Err(error) => {
                note(Event::Closed(None, format!("{error:#}")));
                return;
            }
        }
    }
}

fn take(update: Update, seen: &mut Seen) {
    let now = Instant::now();
    for fault in &update.faults {
        seen.events.push((now, Event::Fault(format!("{fault:?}"))));
    }
    for nlri in &update.withdrawn {
        seen.table.remove(&nlri.prefix);
        seen.events.push((now, Event::Withdrawn(nlri.prefix)));
    }
    if let Some(attributes) = update.attributes {
        for announcement in &update.announced {
            for nlri in &announcement.nlri {
                let route = Route {
                    attributes: PathAttributes::clone(&attributes),
                    next_hop: announcement.next_hop,
                };
                seen.table.insert(nlri.prefix, route);
                seen.events.push((now, Event::Announced(nlri.prefix)));
            }
        }
    }
    if let Some(family) = update.end_of_rib {
        seen.events.push((now, Event::EndOfRib(family)));
    }
}

/// A message of a type with a body, its length as it is.
#[must_use]
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut octets = vec![0xff; 16];
    octets.extend(length(19 + body.len()));
    octets.push(kind);
    octets.extend(body);
    octets
}

/// An OPEN with its families, route refresh, 4-octet AS numbers and, of graceful restart, the promise of End-of-RIB.
fn open(who: Identity) -> Vec<u8> {
    let mut capabilities = Vec::new();
    for family in who.families {
        capabilities.extend([1, 4, 0, if *family == 4 { 1 } else { 2 }, 0, 1]);
    }
    capabilities.extend([2, 0, 64, 2, 0, 0, 65, 4]);
    capabilities.extend(who.asn.to_be_bytes());
    let mut body = vec![4];
    body.extend(u16::try_from(who.asn).unwrap_or(23_456).to_be_bytes());
    body.extend(who.hold_time.to_be_bytes());
    body.extend(who.router_id.octets());
    let size = u8::try_from(capabilities.len()).unwrap_or(u8::MAX);
    body.extend([size + 2, 2, size]);
    body.extend(capabilities);
    message(1, &body)
}

/// An UPDATE of three parts as they are.
#[must_use]
pub fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for part in [withdrawn, attributes] {
        body.extend(length(part.len()));
        body.extend(part);
    }
    body.extend(nlri);
    message(2, &body)
}

/// A path attribute with a one-octet length.
#[must_use]
pub fn attribute(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    let size = u8::try_from(value.len()).unwrap_or(u8::MAX);
    let mut octets = vec![flags, code, size];
    octets.extend(value);
    octets
}

/// An AS_PATH of one sequence of 4-octet numbers; empty for none.
#[must_use]
pub fn as_path(asns: &[u32]) -> Vec<u8> {
    let mut value = Vec::new();
    if !asns.is_empty() {
        value.extend([2, u8::try_from(asns.len()).unwrap_or(u8::MAX)]);
        value.extend(asns.iter().flat_map(|asn| asn.to_be_bytes()));
    }
    attribute(0x40, 2, &value)
}

/// A prefix as UPDATEs spell it.
#[must_use]
pub fn nlri(prefix: Prefix) -> Vec<u8> {
    let octets = match prefix.addr() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut out = vec![prefix.len()];
    out.extend(octets.iter().take(usize::from(prefix.len().div_ceil(8))));
    out
}

/// An UPDATE that announces a prefix of ORIGIN IGP; `more` are attributes besides ORIGIN, AS_PATH and next hop.
#[must_use]
pub fn announcement(prefix: Prefix, next_hop: IpAddr, path: &[u32], more: &[Vec<u8>]) -> Vec<u8> {
    announcement_of(0, prefix, next_hop, path, more)
}

/// The same with another ORIGIN.
#[must_use]
pub fn announcement_of(
    origin: u8,
    prefix: Prefix,
    next_hop: IpAddr,
    path: &[u32],
    more: &[Vec<u8>],
) -> Vec<u8> {
    let mut attributes = Vec::new();
    let mut classic = Vec::new();
    match next_hop {
        IpAddr::V4(address) => {
            attributes.extend(attribute(0x40, 1, &[origin]));
            attributes.extend(as_path(path));
            attributes.extend(attribute(0x40, 3, &address.octets()));
            classic = nlri(prefix);
        }
        IpAddr::V6(address) => {
            let mut value = vec![0, 2, 1, 16];
            value.extend(address.octets());
            value.push(0);
            value.extend(nlri(prefix));
            attributes.extend(attribute(0x80, 14, &value));
            attributes.extend(attribute(0x40, 1, &[origin]));
            attributes.extend(as_path(path));
        }
    }
    attributes.extend(more.concat());
    update(&[], &attributes, &classic)
}

fn length(count: usize) -> [u8; 2] {
    u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_by_hand_is_read_as_meant() {
        let who = Identity {
            asn: 1,
            peer_asn: 2,
            router_id: Ipv4Addr::LOCALHOST,
            hold_time: 9,
            families: &[4, 6],
        };
        let mut seen = Seen::default();
        for (prefix, hop) in [("10.92.0.0/24", "10.90.0.9"), ("fd92::/48", "fd90::9")] {
            let octets = announcement(
                prefix.parse().unwrap(),
                hop.parse().unwrap(),
                &[1, 4_200_000_001],
                &[attribute(0x80, 4, &[0, 0, 0, 7])],
            );
            let Message::Update(update) = decode(&octets, &context(who)).unwrap() else {
                panic!("no UPDATE")
            };
            take(update, &mut seen);
            let route = seen.table.get(&prefix.parse().unwrap()).unwrap();
            assert_eq!(route.next_hop.addr().to_string(), hop);
            assert_eq!(route.attributes.as_path.to_string(), "1 4200000001");
            assert_eq!(route.attributes.med.map(|med| med.0), Some(7));
        }
        let faults = seen
            .events
            .iter()
            .filter(|(_, event)| matches!(event, Event::Fault(_)));
        assert_eq!(faults.count(), 0);
    }
}
