//! Between the kernel's messages and our types. Nothing here talks to a socket.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kernel tells of more than we care for, and of more with every release"
)]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use margay_bgp::prefix::Prefix;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    InfoData, InfoIpTunnel, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop,
    RouteNextHopFlags, RouteProtocol, RouteScope, RouteType, RouteVia,
};

use super::{
    FdbEntry, InterfaceAddress, IpVersion, KernelError, KernelNextHop, Link, LinkKind, MacAddress,
    Neighbour, Route, RouteFilter, RouteKey, RouteKind, Scope, VxlanAttributes, VxlanSpec,
};

/// Names by interface index.
pub(super) type Names = HashMap<u32, String>;

pub(super) fn family(version: IpVersion) -> AddressFamily {
    match version {
        IpVersion::V4 => AddressFamily::Inet,
        IpVersion::V6 => AddressFamily::Inet6,
    }
}

// ---- routes

/// The message that puts a route; `index` gives the index of an interface by name.
pub(super) fn route_message(
    key: &RouteKey,
    route: &Route,
    mut index: impl FnMut(&str) -> Result<u32, KernelError>,
) -> Result<RouteMessage, KernelError> {
    let mut message = key_message(key);
    message.header.protocol = RouteProtocol::from(route.protocol);
    message.header.scope = match route.scope {
        Scope::Universe => RouteScope::Universe,
        Scope::Link => RouteScope::Link,
        Scope::Host => RouteScope::Host,
        Scope::Other(scope) => RouteScope::from(scope),
    };
    message.header.kind = match route.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Blackhole => RouteType::BlackHole,
        RouteKind::Other(kind) => RouteType::from(kind),
    };
    let attributes = &mut message.attributes;
    match route.next_hops.as_slice() {
        [] => {}
        [hop] => {
            if hop.onlink {
                message.header.flags |= RouteFlags::Onlink;
            }
            if let Some(via) = hop.via {
                attributes.push(gateway(key.version(), via));
            }
            if let Some(interface) = &hop.interface {
                attributes.push(RouteAttribute::Oif(index(interface)?));
            }
        }
        hops => {
            let mut multipath = Vec::with_capacity(hops.len());
            for hop in hops {
                let mut entry = RouteNextHop::default();
                // The kernel counts weights from 0.
                entry.hops = u8::try_from(hop.weight.saturating_sub(1)).unwrap_or(u8::MAX);
                if hop.onlink {
                    entry.flags |= RouteNextHopFlags::Onlink;
                }
                if let Some(interface) = &hop.interface {
                    entry.interface_index = index(interface)?;
                }
                if let Some(via) = hop.via {
                    entry.attributes.push(gateway(key.version(), via));
                }
                multipath.push(entry);
            }
            attributes.push(RouteAttribute::MultiPath(multipath));
        }
    }
    if let Some(source) = route.source {
        attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    if let Some(mtu) = route.mtu {
        attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
    }
    Ok(message)
}

/// The message that removes a route: everything it does not name matches anything.
pub(super) fn delete_route_message(key: &RouteKey, protocol: u8) -> RouteMessage {
    let mut message = key_message(key);
    message.header.protocol = RouteProtocol::from(protocol);
    message.header.scope = RouteScope::NoWhere;
    message.header.kind = RouteType::Unspec;
    message
}

/// The request of a dump. Kernels before 4.20 ignore all but the family, so answers are filtered again.
pub(super) fn dump_routes_message(filter: RouteFilter, version: IpVersion) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(version);
    set_table(&mut message, filter.table);
    if let Some(protocol) = filter.protocol {
        message.header.protocol = RouteProtocol::from(protocol);
    }
    message
}

fn key_message(key: &RouteKey) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(key.version());
    message.header.destination_prefix_length = key.prefix.len();
    message.header.tos = key.tos;
    message.attributes.reserve(6);
    set_table(&mut message, key.table);
    message
        .attributes
        .push(RouteAttribute::Destination(key.prefix.addr().into()));
    if key.metric != 0 {
        message
            .attributes
            .push(RouteAttribute::Priority(key.metric));
    }
    message
}

fn set_table(message: &mut RouteMessage, table: u32) {
    match u8::try_from(table) {
        Ok(table) => message.header.table = table,
        Err(_) => message.attributes.push(RouteAttribute::Table(table)),
    }
}

fn gateway(version: IpVersion, via: IpAddr) -> RouteAttribute {
    match (version, via) {
        (IpVersion::V4, IpAddr::V6(via)) => RouteAttribute::Via(RouteVia::Inet6(via)),
        (IpVersion::V4 | IpVersion::V6, via) => RouteAttribute::Gateway(via.into()),
    }
}

/// A route out of a dump or an event; `None` for cached entries and what is not IPv4 or IPv6. Interfaces whose name
/// is not known (any more) are left out of next hops.
pub(super) fn route(message: &RouteMessage, names: &Names) -> Option<(RouteKey, Route)> {
    let header = &message.header;
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let version = match header.address_family {
        AddressFamily::Inet => IpVersion::V4,
        AddressFamily::Inet6 => IpVersion::V6,
        _ => return None,
    };
    let mut destination = super::unspecified(version);
    let mut table = u32::from(header.table);
    let mut metric = 0;
    let mut single = KernelNextHop {
        via: None,
        interface: None,
        onlink: header.flags.contains(RouteFlags::Onlink),
        weight: 1,
    };
    let mut next_hops = Vec::new();
    let mut source = None;
    let mut mtu = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Gateway(address) => single.via = ip(address),
            RouteAttribute::Via(via) => single.via = via_ip(via),
            RouteAttribute::Oif(index) => single.interface = names.get(index).cloned(),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::MultiPath(hops) => {
                next_hops.extend(hops.iter().map(|hop| next_hop(hop, names)))
            }
            _ => {}
        }
    }
    if next_hops.is_empty() && (single.via.is_some() || single.interface.is_some()) {
        next_hops.push(single);
    }
    let prefix = Prefix::new(destination, header.destination_prefix_length).ok()?;
    let route = Route {
        kind: match header.kind {
            RouteType::Unicast => RouteKind::Unicast,
            RouteType::BlackHole => RouteKind::Blackhole,
            other => RouteKind::Other(other.into()),
        },
        scope: match header.scope {
            RouteScope::Universe => Scope::Universe,
            RouteScope::Link => Scope::Link,
            RouteScope::Host => Scope::Host,
            other => Scope::Other(other.into()),
        },
        next_hops,
        source,
        mtu,
        protocol: header.protocol.into(),
    };
    Some((
        RouteKey::new(table, prefix, header.tos, metric),
        route.normalised(version),
    ))
}

fn next_hop(hop: &RouteNextHop, names: &Names) -> KernelNextHop {
    KernelNextHop {
        via: hop.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(address) => ip(address),
            RouteAttribute::Via(via) => via_ip(via),
            _ => None,
        }),
        interface: names.get(&hop.interface_index).cloned(),
        onlink: hop.flags.contains(RouteNextHopFlags::Onlink),
        weight: u16::from(hop.hops) + 1,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn via_ip(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(address) => Some((*address).into()),
        RouteVia::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

// ---- links

/// A link, with the index of a VXLAN device's parent beside it, since names may not all be known yet.
pub(super) fn link(message: &LinkMessage) -> Option<(Link, Option<u32>)> {
    // Bridges announce their ports in messages of their own family: those are not about the link itself.
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: LinkKind::Other(None),
        up: message.header.flags.contains(LinkFlags::Up),
        running: message.header.flags.contains(LinkFlags::LowerUp),
        mtu: 0,
        mac: None,
    };
    let mut parent = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(address) => link.mac = mac(address),
            LinkAttribute::LinkInfo(info) => (link.kind, parent) = link_kind(info),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some((link, parent))
}

fn link_kind(info: &[LinkInfo]) -> (LinkKind, Option<u32>) {
    let kind = info.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    match kind {
        Some(InfoKind::IpIp) => (LinkKind::IpIp, None),
        Some(InfoKind::Veth) => (LinkKind::Veth, None),
        Some(InfoKind::Vxlan) => {
            let data = info.iter().find_map(|info| match info {
                LinkInfo::Data(InfoData::Vxlan(data)) => Some(data.as_slice()),
                _ => None,
            });
            let (attributes, parent) = vxlan(data.unwrap_or_default());
            (LinkKind::Vxlan(attributes), parent)
        }
        Some(kind) => (LinkKind::Other(Some(kind.to_string())), None),
        None => (LinkKind::Other(None), None),
    }
}

fn vxlan(data: &[InfoVxlan]) -> (VxlanAttributes, Option<u32>) {
    let mut attributes = VxlanAttributes {
        vni: 0,
        port: 0,
        local: None,
        parent: None,
        learning: false,
        external: false,
        gbp: false,
        l2_miss: false,
    };
    let mut parent = None;
    for attribute in data {
        match attribute {
            InfoVxlan::Id(vni) => attributes.vni = *vni,
            InfoVxlan::Port(port) => attributes.port = *port,
            InfoVxlan::Local(address) if !address.is_unspecified() => {
                attributes.local = Some((*address).into())
            }
            InfoVxlan::Local6(address) if !address.is_unspecified() => {
                attributes.local = Some((*address).into())
            }
            InfoVxlan::Link(index) if *index != 0 => parent = Some(*index),
            InfoVxlan::Learning(learning) => attributes.learning = *learning,
            InfoVxlan::CollectMetadata(external) => attributes.external = *external,
            InfoVxlan::L2Miss(miss) => attributes.l2_miss = *miss,
            InfoVxlan::Gbp => attributes.gbp = true,
            _ => {}
        }
    }
    (attributes, parent)
}

/// The message that creates a VXLAN device.
pub(super) fn vxlan_message(spec: &VxlanSpec, parent: Option<u32>) -> LinkMessage {
    let mut data = vec![
        InfoVxlan::Id(spec.vni),
        InfoVxlan::Port(spec.port),
        InfoVxlan::Learning(false),
        match spec.local {
            IpAddr::V4(local) => InfoVxlan::Local(local),
            IpAddr::V6(local) => InfoVxlan::Local6(local),
        },
    ];
    data.extend(parent.map(InfoVxlan::Link));
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(spec.name.clone()),
        LinkAttribute::Mtu(spec.mtu),
        LinkAttribute::Address(spec.mac.0.to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(data)),
        ]),
    ];
    message
}

/// The message that creates an IP-in-IP device, any local and remote address.
pub(super) fn ipip_message(name: &str, data: Vec<InfoIpTunnel>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::IpIp),
            LinkInfo::Data(InfoData::IpTunnel(data)),
        ]),
    ];
    message
}

fn mac(octets: &[u8]) -> Option<MacAddress> {
    octets.try_into().ok().map(MacAddress)
}

// ---- addresses, neighbours, forwarding entries

/// An address and the index of its interface.
pub(super) fn address(message: &AddressMessage) -> Option<(u32, InterfaceAddress)> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link ADDRESS is the other end; LOCAL is always ours, where present.
            AddressAttribute::Local(local) => {
                found = Some(*local);
                break;
            }
            AddressAttribute::Address(address) => found = Some(*address),
            _ => {}
        }
    }
    Some((
        message.header.index,
        InterfaceAddress {
            address: found?,
            prefix_len: message.header.prefix_len,
        },
    ))
}

pub(super) fn address_message(index: u32, address: InterfaceAddress) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = address.prefix_len;
    message.header.scope = AddressScope::Universe;
    message.header.family = family(IpVersion::of(address.address));
    if address.address.is_ipv6() {
        // Nobody else on a tunnel can have it, and a tentative address cannot be a source.
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes = vec![
        AddressAttribute::Local(address.address),
        AddressAttribute::Address(address.address),
    ];
    message
}

/// A permanent neighbour of interface `index`.
pub(super) fn neighbour(message: &NeighbourMessage, index: u32) -> Option<Neighbour> {
    if message.header.ifindex != index || message.header.state != NeighbourState::Permanent {
        return None;
    }
    let mut address = None;
    let mut lladdr = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                address = Some(IpAddr::V4(*ip))
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                address = Some(IpAddr::V6(*ip))
            }
            NeighbourAttribute::LinkLayerAddress(octets) => lladdr = mac(octets),
            _ => {}
        }
    }
    Some(Neighbour {
        address: address?,
        mac: lladdr?,
    })
}

pub(super) fn neighbour_message(index: u32, entry: Neighbour) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(IpVersion::of(entry.address));
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        NeighbourAttribute::Destination(entry.address.into()),
        NeighbourAttribute::LinkLayerAddress(entry.mac.0.to_vec()),
    ];
    message
}

/// A permanent forwarding entry of VXLAN device `index` that names a destination.
pub(super) fn fdb_entry(message: &NeighbourMessage, index: u32) -> Option<FdbEntry> {
    if message.header.family != AddressFamily::Bridge
        || message.header.ifindex != index
        || message.header.state != NeighbourState::Permanent
    {
        return None;
    }
    let mut destination = None;
    let mut lladdr = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(address) => destination = fdb_destination(address),
            NeighbourAttribute::LinkLayerAddress(octets) => lladdr = mac(octets),
            _ => {}
        }
    }
    Some(FdbEntry {
        mac: lladdr?,
        destination: destination?,
    })
}

fn fdb_destination(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(ip) => Some((*ip).into()),
        NeighbourAddress::Inet6(ip) => Some((*ip).into()),
        // The message's family is the bridge's, so the crate leaves the octets as they are.
        NeighbourAddress::Other(octets) => <[u8; 4]>::try_from(octets.as_slice())
            .map(|octets| Ipv4Addr::from(octets).into())
            .or_else(|_| {
                <[u8; 16]>::try_from(octets.as_slice()).map(|octets| Ipv6Addr::from(octets).into())
            })
            .ok(),
        _ => None,
    }
}

pub(super) fn fdb_message(index: u32, entry: FdbEntry) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![
        NeighbourAttribute::LinkLayerAddress(entry.mac.0.to_vec()),
        NeighbourAttribute::Destination(entry.destination.into()),
    ];
    message
}
