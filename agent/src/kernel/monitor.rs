//! What others change in the kernel, as it happens.
//!
//! One socket for rtnetlink, one for the packet filter. A socket filter in the kernel drops the echoes of our own
//! requests, which name our request socket's port as their origin: a hundred thousand routes written cost no wake-up.
//! When the kernel has to drop events it says `ENOBUFS` once, and everything must be read again; a slow
//! reader of the (bounded) channel ends in the same place, since this task then stops emptying the socket.

use std::io;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockFilter, SockRef};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::convert::{self, Names};
use super::netlink::links;
use super::socket::{Messages, RequestSocket, io_error};
use super::worker::Worker;
use super::{KernelError, KernelEvent, Link, LinkKind};

/// Events between the socket and the reconciler: a few milliseconds' worth of a kernel at full speed.
const QUEUE: usize = 4096;
/// One event is at most a few hundred octets, but a link with many attributes may take several KiB.
const RECEIVE_BUFFER: usize = 64 * 1024;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
/// `RTNLGRP_*`: links, neighbours, IPv4 addresses and routes, IPv6 addresses and routes.
const ROUTE_GROUPS: [u32; 6] = [1, 3, 5, 7, 9, 11];
/// `NFNLGRP_NFTABLES`.
const FILTER_GROUP: u32 = 7;
/// `NFNL_SUBSYS_NFTABLES`, the upper octet of its message types.
const FILTER_SUBSYSTEM: u16 = 10;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFT_MSG_DELRULE: u16 = 8;
/// In every message of a table's contents, attribute 1 is the table's name and, of rules, 2 the chain's.
const NFTA_TABLE: u16 = 1;
const NFTA_CHAIN: u16 = 2;
/// `struct nfgenmsg` before the attributes.
const FILTER_HEADER: usize = 4;

/// Subscribed sockets, not yet read.
#[derive(Debug)]
pub(super) struct Monitor {
    routes: Socket,
    /// `None` where the kernel has no nftables; audits find what changes then.
    filter: Option<Socket>,
    table: u32,
}

impl Monitor {
    /// Subscribes, in the calling thread's network namespace.
    pub(super) fn subscribe(own_port: u32, buffer: usize, table: u32) -> Result<Self, KernelError> {
        let failed = |error: io::Error| io_error("event socket", &error);
        let routes = open(NETLINK_ROUTE, buffer).map_err(failed)?;
        SockRef::from(&routes)
            .attach_filter(&without_echoes(own_port))
            .map_err(failed)?;
        for group in ROUTE_GROUPS {
            routes.add_membership(group).map_err(failed)?;
        }
        let filter = open(NETLINK_NETFILTER, buffer)
            .and_then(|socket| socket.add_membership(FILTER_GROUP).map(|()| socket))
            .inspect_err(|error| tracing::warn!(%error, "no events of the packet filter; audits will find changes"))
            .ok();
        Ok(Self {
            routes,
            filter,
            table,
        })
    }

    /// Starts reading. The tasks end when the receiver is dropped.
    pub(super) fn run(
        self,
        requests: Worker<RequestSocket>,
    ) -> Result<mpsc::Receiver<KernelEvent>, KernelError> {
        let (events, receiver) = mpsc::channel(QUEUE);
        if let Some(filter) = self.filter {
            let filter = register(filter)?;
            tokio::spawn(watch_filter(filter, events.clone()));
        }
        let routes = register(self.routes)?;
        let reader = Reader {
            requests,
            events,
            names: Names::new(),
            vxlans: Vec::new(),
            table: self.table,
        };
        tokio::spawn(reader.run(routes));
        Ok(receiver)
    }
}

fn open(protocol: isize, buffer: usize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    // Beyond the system's limit with CAP_NET_ADMIN, else as far as it allows.
    if setsockopt(&socket, sockopt::RcvBufForce, &buffer).is_err() {
        let _ = setsockopt(&socket, sockopt::RcvBuf, &buffer);
    }
    Ok(socket)
}

#[expect(
    unsafe_code,
    reason = "tokio has no safe way to watch a descriptor it does not own"
)]
fn register(socket: Socket) -> Result<AsyncFd<Socket>, KernelError> {
    // SAFETY: `Socket` opens its descriptor itself, closes it only when dropped, and never changes it in between.
    unsafe { AsyncFd::register(socket) }.map_err(|error| io_error("event socket", &error.into()))
}

/// A filter that lets through what another port caused, and links whoever caused it: a link's own life (its routes
/// vanish with it) is wanted even when it was our request that ended it.
fn without_echoes(own_port: u32) -> [SockFilter; 7] {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const PORT_OFFSET: u32 = 12;
    const TYPE_OFFSET: u32 = 4;
    // The filter reads in network order what netlink wrote in the machine's.
    let port = u32::from_be_bytes(own_port.to_ne_bytes());
    let kind = |kind: u16| u32::from(u16::from_be_bytes(kind.to_ne_bytes()));
    [
        SockFilter::new(LOAD_WORD, 0, 0, PORT_OFFSET),
        SockFilter::new(JUMP_EQUAL, 0, 4, port),
        SockFilter::new(LOAD_HALF, 0, 0, TYPE_OFFSET),
        SockFilter::new(JUMP_EQUAL, 2, 0, kind(RTM_NEWLINK)),
        SockFilter::new(JUMP_EQUAL, 1, 0, kind(RTM_DELLINK)),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

/// What one `recv` gave.
enum Received {
    Datagram,
    Overrun,
}

async fn receive(socket: &AsyncFd<Socket>, buffer: &mut Vec<u8>) -> io::Result<Received> {
    loop {
        let mut ready = socket.readable().await?;
        buffer.clear();
        match ready.try_io(|socket| socket.get_ref().recv(buffer, 0)) {
            Ok(Ok(_)) => return Ok(Received::Datagram),
            Ok(Err(error)) => match error.raw_os_error() {
                Some(errno) if errno == nix::libc::ENOBUFS => return Ok(Received::Overrun),
                Some(errno) if errno == nix::libc::EINTR => {}
                _ => return Err(error),
            },
            Err(_would_block) => {}
        }
    }
}

/// The rtnetlink reader.
struct Reader {
    requests: Worker<RequestSocket>,
    events: mpsc::Sender<KernelEvent>,
    /// Interface names by index, as of the events read so far.
    names: Names,
    /// Indexes of VXLAN devices: the only links whose neighbours matter here.
    vxlans: Vec<u32>,
    table: u32,
}

impl Reader {
    async fn run(mut self, socket: AsyncFd<Socket>) {
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        self.read_names().await;
        loop {
            let received = tokio::select! {
                received = receive(&socket, &mut buffer) => received,
                () = self.events.closed() => return,
            };
            match received {
                Ok(Received::Datagram) => {}
                Ok(Received::Overrun) => {
                    self.read_names().await;
                    if self.events.send(KernelEvent::Overrun).await.is_err() {
                        return;
                    }
                    continue;
                }
                Err(error) => {
                    // Nothing can be trusted from here on; the audits still run.
                    tracing::error!(%error, "kernel events are lost: the event socket failed");
                    let _ = self.events.send(KernelEvent::Overrun).await;
                    return;
                }
            }
            let mut rest = buffer.as_slice();
            for (header, _) in Messages(&buffer) {
                let length = usize::try_from(header.length).unwrap_or(usize::MAX);
                let whole = rest.get(..length.min(rest.len())).unwrap_or_default();
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(whole) else {
                    tracing::debug!(
                        kind = header.message_type,
                        "skipped an event that cannot be read"
                    );
                    continue;
                };
                let NetlinkPayload::InnerMessage(message) = message.payload else {
                    continue;
                };
                for event in self.interpret(message).into_iter().flatten() {
                    if self.events.send(event).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn read_names(&mut self) {
        match self.requests.run(links).await {
            Ok(links) => {
                self.names.clear();
                self.vxlans.clear();
                for link in links {
                    self.remember(&link);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot list links; events name only links that change")
            }
        }
    }

    fn remember(&mut self, link: &Link) -> Option<String> {
        let is_vxlan = matches!(link.kind, LinkKind::Vxlan(_));
        if is_vxlan != self.vxlans.contains(&link.index) {
            self.vxlans.retain(|index| *index != link.index);
            if is_vxlan {
                self.vxlans.push(link.index);
            }
        }
        self.names.insert(link.index, link.name.clone())
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "only what the subscribed groups send is of interest"
    )]
    /// At most two events: a renamed link is one gone and one come.
    fn interpret(&mut self, message: RouteNetlinkMessage) -> [Option<KernelEvent>; 2] {
        let event = match message {
            RouteNetlinkMessage::NewRoute(message) => convert::route(&message, &self.names)
                .filter(|(key, _)| key.table == self.table)
                .map(|(key, route)| KernelEvent::RouteSet(key, route)),
            RouteNetlinkMessage::DelRoute(message) => convert::route(&message, &self.names)
                .filter(|(key, _)| key.table == self.table)
                .map(|(key, route)| KernelEvent::RouteGone(key, route)),
            RouteNetlinkMessage::NewLink(message) => {
                let Some((mut link, parent)) = convert::link(&message) else {
                    return [None, None];
                };
                if let (LinkKind::Vxlan(attributes), Some(parent)) = (&mut link.kind, parent) {
                    attributes.parent = self.names.get(&parent).cloned();
                }
                let renamed = self
                    .remember(&link)
                    .filter(|before| *before != link.name)
                    .map(|name| KernelEvent::LinkGone {
                        name,
                        index: link.index,
                    });
                return [renamed, Some(KernelEvent::LinkSet(link))];
            }
            RouteNetlinkMessage::DelLink(message) => convert::link(&message).map(|(link, _)| {
                self.names.remove(&link.index);
                self.vxlans.retain(|index| *index != link.index);
                KernelEvent::LinkGone {
                    name: link.name,
                    index: link.index,
                }
            }),
            RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message) => {
                self.names
                    .get(&message.header.index)
                    .map(|name| KernelEvent::AddressesChanged {
                        interface: name.clone(),
                    })
            }
            RouteNetlinkMessage::NewNeighbour(message)
            | RouteNetlinkMessage::DelNeighbour(message) => self
                .vxlans
                .contains(&message.header.ifindex)
                .then(|| self.names.get(&message.header.ifindex))
                .flatten()
                .map(|name| KernelEvent::NeighboursChanged {
                    interface: name.clone(),
                }),
            _ => None,
        };
        [event, None]
    }
}

/// The packet filter's reader: it only tells that something of ours, or a forward chain, may have changed.
async fn watch_filter(socket: AsyncFd<Socket>, events: mpsc::Sender<KernelEvent>) {
    let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
    loop {
        let received = tokio::select! {
            received = receive(&socket, &mut buffer) => received,
            () = events.closed() => return,
        };
        let concerns_us = match received {
            Ok(Received::Overrun) => true,
            Ok(Received::Datagram) => {
                Messages(&buffer).any(|(header, payload)| concerns_us(header.message_type, payload))
            }
            Err(error) => {
                tracing::warn!(%error, "no more events of the packet filter; audits will find changes");
                return;
            }
        };
        if concerns_us && events.send(KernelEvent::FilterChanged).await.is_err() {
            return;
        }
    }
}

/// Whether a change of the packet filter is in our table, or may have taken our accept rule from a forward chain or
/// made one necessary.
fn concerns_us(kind: u16, payload: &[u8]) -> bool {
    if kind >> 8 != FILTER_SUBSYSTEM {
        return false;
    }
    let mut table = None;
    let mut chain = None;
    for attribute in
        NlasIterator::new(payload.get(FILTER_HEADER..).unwrap_or_default()).filter_map(Result::ok)
    {
        let text = || {
            String::from_utf8_lossy(attribute.value())
                .trim_end_matches('\0')
                .to_owned()
        };
        match attribute.kind() {
            NFTA_TABLE => table = Some(text()),
            NFTA_CHAIN => chain = Some(text()),
            _ => {}
        }
    }
    match kind & 0xff {
        _ if table.as_deref() == Some(super::nftables::TABLE) => true,
        NFT_MSG_NEWCHAIN | NFT_MSG_DELCHAIN => true,
        NFT_MSG_DELRULE => {
            chain.is_some_and(|chain| chain.to_ascii_lowercase().contains("forward"))
        }
        _ => false,
    }
}
