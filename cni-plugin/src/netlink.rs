//! A blocking route-netlink socket with just the verbs the plugin needs.
//!
//! The plugin lives for a few milliseconds and does one thing after the other, so there is no runtime here: messages
//! that belong together go out in one call and their acknowledgements come back in order. A socket stays in the
//! network namespace it was opened in, which is how the plugin works on two namespaces at once.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kernel's message and attribute enums have dozens of variants and grow"
)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket as RawSocket, SocketAddr};

/// A link as far as the plugin looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index in the socket's namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MAC address.
    pub mac: Vec<u8>,
    /// MTU in octets.
    pub mtu: u32,
    /// Whether it is a veth.
    pub veth: bool,
    /// Index of a veth's other end, in that end's namespace.
    pub peer_index: Option<u32>,
    /// Administratively up.
    pub up: bool,
}

/// One request of a batch with the words for its failure.
#[derive(Debug)]
pub struct Step {
    message: RouteNetlinkMessage,
    flags: u16,
    /// Whether `EEXIST` counts as done.
    exists_is_done: bool,
    what: String,
}

/// A step the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {error}")]
pub struct StepError {
    /// What was tried.
    pub what: String,
    /// The kernel's answer.
    #[source]
    pub error: io::Error,
}

impl StepError {
    /// The error number, where the kernel gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.error.raw_os_error()
    }
}

/// The socket.
#[derive(Debug)]
pub struct Socket {
    raw: RawSocket,
    sequence: u32,
}

impl Socket {
    /// Opens a socket in the namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel has no route netlink or descriptors ran out.
    pub fn open() -> io::Result<Self> {
        let mut raw = RawSocket::new(NETLINK_ROUTE)?;
        raw.bind_auto()?;
        raw.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { raw, sequence: 0 })
    }

    fn encode(&mut self, message: RouteNetlinkMessage, flags: u16, into: &mut Vec<u8>) -> u32 {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = into.len();
        into.resize(start + message.buffer_len().next_multiple_of(4), 0);
        if let Some(space) = into.get_mut(start..) {
            message.serialize(space);
        }
        self.sequence
    }

    /// Reads datagrams until the answer to `last` has come; hands every answer to `each` with its sequence number.
    fn answers(
        &self,
        last: u32,
        mut each: impl FnMut(u32, Result<Option<RouteNetlinkMessage>, io::Error>),
    ) -> io::Result<()> {
        loop {
            let (datagram, _) = self.raw.recv_from_full()?;
            let mut rest = &datagram[..];
            while rest.len() >= 16 {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
                let sequence = message.header.sequence_number;
                let length = (message.header.length as usize).next_multiple_of(4);
                match message.payload {
                    NetlinkPayload::Error(e) if e.code.is_some() => each(sequence, Err(e.to_io())),
                    NetlinkPayload::InnerMessage(inner) => each(sequence, Ok(Some(inner))),
                    _ => each(sequence, Ok(None)),
                }
                if sequence == last {
                    return Ok(());
                }
                rest = rest.get(length.max(16)..).unwrap_or_default();
            }
        }
    }

    /// Sends all steps in one call. The kernel carries them out in order and does not stop at a failure, so steps
    /// that must not follow a failed one belong in another batch.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn run(&mut self, steps: Vec<Step>) -> Result<(), StepError> {
        if steps.is_empty() {
            return Ok(());
        }
        let mut buffer = Vec::with_capacity(1024);
        let mut sent = Vec::with_capacity(steps.len());
        for step in steps {
            let sequence = self.encode(step.message, step.flags | NLM_F_ACK, &mut buffer);
            sent.push((sequence, step.exists_is_done, step.what));
        }
        let last = self.sequence;
        let transport = |error| StepError {
            what: "talking to the kernel over netlink".into(),
            error,
        };
        self.raw.send(&buffer, 0).map_err(transport)?;
        let mut failed: Option<StepError> = None;
        self.answers(last, |sequence, answer| {
            let (Err(error), None) = (answer, &failed) else {
                return;
            };
            let Some((_, exists_is_done, what)) = sent.iter().find(|s| s.0 == sequence) else {
                return;
            };
            if *exists_is_done && error.raw_os_error() == Some(nix::libc::EEXIST) {
                return;
            }
            failed = Some(StepError {
                what: what.clone(),
                error,
            });
        })
        .map_err(transport)?;
        failed.map_or(Ok(()), Err)
    }

    fn get_link(&mut self, request: LinkMessage) -> io::Result<Option<Link>> {
        let mut buffer = Vec::with_capacity(64);
        let sequence = self.encode(RouteNetlinkMessage::GetLink(request), 0, &mut buffer);
        self.raw.send(&buffer, 0)?;
        let mut found = Ok(None);
        self.answers(sequence, |_, answer| match answer {
            Ok(Some(RouteNetlinkMessage::NewLink(link))) => found = Ok(Some(read_link(&link))),
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(nix::libc::ENODEV) => {}
            Err(e) => found = Err(e),
        })?;
        found
    }

    /// The link of a name, if there is one.
    ///
    /// # Errors
    /// Whatever the kernel says besides "no such device".
    pub fn link_by_name(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(name.into()));
        self.get_link(request)
    }

    /// The link of an index, if there is one.
    ///
    /// # Errors
    /// As [`Self::link_by_name`].
    pub fn link_by_index(&mut self, index: u32) -> io::Result<Option<Link>> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        self.get_link(request)
    }

    /// The interface that the main table's most specific route to `address` uses, if one exists for exactly that
    /// address.
    ///
    /// # Errors
    /// Whatever the kernel says besides "unreachable".
    pub fn route_interface(&mut self, address: IpAddr) -> io::Result<Option<u32>> {
        let mut request = RouteMessage::default();
        request.header.address_family = family(address);
        request.header.destination_prefix_length = host_bits(address);
        request
            .attributes
            .push(RouteAttribute::Destination(route_address(address)));
        let mut buffer = Vec::with_capacity(64);
        let sequence = self.encode(RouteNetlinkMessage::GetRoute(request), 0, &mut buffer);
        self.raw.send(&buffer, 0)?;
        let mut found = None;
        self.answers(sequence, |_, answer| {
            if let Ok(Some(RouteNetlinkMessage::NewRoute(route))) = answer {
                found = route.attributes.iter().find_map(|a| match a {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                });
            }
        })?;
        Ok(found)
    }
}

fn read_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: Vec::new(),
        mtu: 0,
        veth: false,
        peer_index: None,
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(mac) => link.mac.clone_from(mac),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Link(index) => link.peer_index = Some(*index),
            LinkAttribute::LinkInfo(info) => {
                link.veth = info
                    .iter()
                    .any(|i| matches!(i, LinkInfo::Kind(InfoKind::Veth)));
            }
            _ => {}
        }
    }
    link
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

fn host_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(a) => RouteAddress::Inet(a),
        IpAddr::V6(a) => RouteAddress::Inet6(a),
    }
}

/// Both ends of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct VethPair<'a> {
    /// Name of the end in the socket's namespace.
    pub host_name: &'a str,
    /// MAC address of that end.
    pub host_mac: [u8; 6],
    /// Name of the end in the container.
    pub container_name: &'a str,
    /// MAC address of that end, where it is asked for.
    pub container_mac: Option<[u8; 6]>,
    /// The container's namespace.
    pub container_namespace: BorrowedFd<'a>,
    /// MTU of both.
    pub mtu: u32,
}

/// Creates a veth pair across two namespaces, both ends down. The host end's MAC address is set at creation, which
/// the kernel records as "set by the administrator": udev's MAC policy leaves such a link alone.
#[must_use]
pub fn add_veth(pair: &VethPair<'_>) -> Step {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(pair.container_name.into()),
        LinkAttribute::Mtu(pair.mtu),
        LinkAttribute::NetNsFd(pair.container_namespace.as_raw_fd()),
    ];
    if let Some(mac) = pair.container_mac {
        peer.attributes.push(LinkAttribute::Address(mac.to_vec()));
    }
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(pair.host_name.into()),
        LinkAttribute::Mtu(pair.mtu),
        LinkAttribute::Address(pair.host_mac.to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    Step {
        message: RouteNetlinkMessage::NewLink(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        exists_is_done: false,
        what: format!(
            "creating the veth pair {} – {}",
            pair.host_name, pair.container_name
        ),
    }
}

/// Deletes a link; a veth takes its other end with it.
#[must_use]
pub fn delete_link(link: &Link) -> Step {
    let mut message = LinkMessage::default();
    message.header.index = link.index;
    Step {
        message: RouteNetlinkMessage::DelLink(message),
        flags: 0,
        exists_is_done: false,
        what: format!("deleting interface {}", link.name),
    }
}

/// Brings a link up.
#[must_use]
pub fn set_up(link: &Link) -> Step {
    let mut message = LinkMessage::default();
    message.header.index = link.index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    Step {
        message: RouteNetlinkMessage::SetLink(message),
        flags: 0,
        exists_is_done: false,
        what: format!("bringing interface {} up", link.name),
    }
}

/// Adds an address; IPv6 ones without duplicate address detection, since nobody else is on the link.
#[must_use]
pub fn add_address(link: &Link, address: IpAddr, prefix_len: u8) -> Step {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix_len;
    message.header.index = link.index;
    message.header.scope = match address {
        IpAddr::V6(a) if a.is_unicast_link_local() => AddressScope::Link,
        IpAddr::V4(_) | IpAddr::V6(_) => AddressScope::Universe,
    };
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    if address.is_ipv6() {
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    Step {
        message: RouteNetlinkMessage::NewAddress(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        exists_is_done: true,
        what: format!("adding address {address}/{prefix_len} to {}", link.name),
    }
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// To a neighbour on the link itself.
    Link,
    /// Through a gateway on the link.
    Gateway(IpAddr),
}

/// Adds a route to the main table; one that exists with the same key is an `EEXIST` failure.
#[must_use]
pub fn add_route(
    link: &Link,
    destination: IpAddr,
    prefix_len: u8,
    via: Via,
    protocol: RouteProtocol,
) -> Step {
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination);
    message.header.destination_prefix_length = prefix_len;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = protocol;
    message.header.kind = RouteType::Unicast;
    message.header.scope = match via {
        Via::Link if destination.is_ipv4() => RouteScope::Link,
        Via::Link | Via::Gateway(_) => RouteScope::Universe,
    };
    message.attributes.push(RouteAttribute::Oif(link.index));
    if prefix_len > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(route_address(destination)));
    }
    if let Via::Gateway(gateway) = via {
        message
            .attributes
            .push(RouteAttribute::Gateway(route_address(gateway)));
    }
    let how = match via {
        Via::Link => String::new(),
        Via::Gateway(gateway) => format!(" via {gateway}"),
    };
    Step {
        message: RouteNetlinkMessage::NewRoute(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        exists_is_done: false,
        what: format!(
            "adding route {destination}/{prefix_len}{how} dev {}",
            link.name
        ),
    }
}

/// Tells a link the MAC address of a neighbour for good, so that it never has to be asked for.
#[must_use]
pub fn add_neighbour(link: &Link, address: Ipv4Addr, mac: [u8; 6]) -> Step {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = link.index;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
        NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
    ];
    Step {
        message: RouteNetlinkMessage::NewNeighbour(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        exists_is_done: true,
        what: format!("adding neighbour {address} dev {}", link.name),
    }
}

/// The default destination of an address's family.
#[must_use]
pub fn default_destination(address: IpAddr) -> IpAddr {
    if address.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    }
}
