//! What a node's kernel should hold, and what it holds that is not ours: the two plain values that `desired` computes
//! from and `reconcile` works with.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use margay_bgp::family::Family;
use margay_bgp::prefix::Prefix;

use crate::kernel::{KernelNextHop, MacAddress, Route, RouteKey, VxlanSpec};

/// Calico's IP-in-IP device, the kernel's own fallback tunnel.
pub const IPIP_DEVICE: &str = "tunl0";
/// Calico's VXLAN device for IPv4 pods.
pub const VXLAN_DEVICE_V4: &str = "vxlan.calico";
/// Calico's VXLAN device for IPv6 pods.
pub const VXLAN_DEVICE_V6: &str = "vxlan-v6.calico";

/// Everything the kernel of this node should hold of ours. Whatever of ours it holds beyond this is removed, once
/// the state is complete.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DesiredState {
    /// Every source has delivered its first complete list. Until then "not listed" only means "not heard of yet", and
    /// nothing at all is removed.
    pub in_sync: bool,
    /// Routes, at most one a key.
    pub routes: BTreeMap<RouteKey, Route>,
    /// The IP-in-IP device; `None` takes the address from an existing one and leaves the device.
    pub ipip: Option<IpipDevice>,
    /// VXLAN devices by the family of their pods; a missing one is deleted.
    pub vxlan: BTreeMap<Family, VxlanDevice>,
    /// Source NAT.
    pub masquerade: Masquerade,
    /// Let pod traffic through foreign FORWARD chains whose policy is to drop.
    pub forward_accept: bool,
    /// Kernel settings by name; with slashes where an interface name may contain dots.
    pub sysctls: BTreeMap<String, String>,
    /// Settings that are raised to this where they are less, and never lowered: others may need more than we.
    pub sysctls_at_least: BTreeMap<String, u64>,
    /// Families whose routes BGP has not told completely (graceful restart): until it has, nothing of the family
    /// is removed.
    pub keep_unlisted: BTreeSet<Family>,
    /// Time between full audits of the kernel; `None`: as the dataplane was started with.
    pub audit_interval: Option<Duration>,
    /// Interfaces of pods start with one of these; none: as the dataplane was started with.
    pub interface_prefixes: BTreeSet<String>,
    /// What could not be honoured, for the people who ask.
    pub problems: Vec<Problem>,
}

/// Something of the cluster's wishes that this node cannot honour.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The object or prefix concerned, such as `ippool/default`.
    pub subject: String,
    /// Why, in words.
    pub reason: String,
}

/// The IP-in-IP device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpipDevice {
    /// Its one address, a /32; `None` leaves what is there until the address is known.
    pub address: Option<Ipv4Addr>,
    /// MTU in octets.
    pub mtu: u32,
}

/// A VXLAN device and the nodes it reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanDevice {
    /// Interface name.
    pub name: String,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// This node's own address, source of the outer packets.
    pub local: IpAddr,
    /// Interface that carries `local`.
    pub parent: Option<String>,
    /// Inner link-layer address of this node.
    pub mac: MacAddress,
    /// Tunnel address of this node, a /32 or /128; `None` leaves what is there until the address is known.
    pub address: Option<IpAddr>,
    /// MTU in octets.
    pub mtu: u32,
    /// The other nodes.
    pub vteps: Vec<Vtep>,
}

impl VxlanDevice {
    /// The part of it the kernel's link table holds.
    #[must_use]
    pub fn spec(&self) -> VxlanSpec {
        VxlanSpec {
            name: self.name.clone(),
            vni: self.vni,
            port: self.port,
            local: self.local,
            parent: self.parent.clone(),
            mac: self.mac,
            mtu: self.mtu,
        }
    }
}

/// The VXLAN tunnel end of another node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vtep {
    /// Node name, for people.
    pub node: String,
    /// Its tunnel address, the gateway of its routes.
    pub tunnel_ip: IpAddr,
    /// Its inner link-layer address.
    pub mac: MacAddress,
    /// Where to send the outer packets.
    pub node_ip: IpAddr,
}

/// Source NAT of a node. Both families in one: a rule is written for a family that has members.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Masquerade {
    /// Pools with natOutgoing: their packets are masqueraded …
    pub outgoing: BTreeSet<Prefix>,
    /// … unless bound for one of these: every pool,
    pub pools: BTreeSet<Prefix>,
    /// … or for one of these hosts (`natOutgoingExclusions: IPPoolsAndHostIPs`; else empty).
    pub excluded_hosts: BTreeSet<IpAddr>,
    /// Only packets that leave by an interface of this name, with `+` or `*` at the end for a prefix
    /// (`natOutgoingInterfaceFilter`).
    pub interface_filter: Option<String>,
    /// Source ports to use for TCP and UDP (`natPortRange`), both ends included.
    pub port_range: Option<(u16, u16)>,
    /// A fixed IPv4 source instead of the outgoing interface's (`natOutgoingAddress`).
    pub address: Option<Ipv4Addr>,
    /// Tunnel devices whose host-sourced packets must carry the tunnel's address.
    pub tunnels: Vec<TunnelSource>,
}

impl Masquerade {
    /// Whether no rule is needed at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.outgoing.is_empty() && self.tunnels.is_empty()
    }
}

/// A tunnel whose packets from this host leave with the tunnel's own address: otherwise replies would take the
/// un-encapsulated path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelSource {
    /// Interface name.
    pub device: String,
    /// The tunnel's address.
    pub address: IpAddr,
    /// The VXLAN port, when VXLAN is in use: translated UDP source ports must keep clear of it, or the kernel takes
    /// the replies for tunnel packets.
    pub vxlan_port: Option<u16>,
}

/// What the kernel holds that is not ours: what BGP's next hops are resolved with.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Underlay {
    /// Subnets of the node's own addresses, without those of our devices, pods, and link-local ones.
    pub connected: Vec<ConnectedSubnet>,
    /// Unicast routes of the main table that are not ours, connected ones and the defaults included;
    /// sorted by prefix and metric.
    pub routes: Vec<UnderlayRoute>,
    /// Every link but pods' and our devices.
    pub links: BTreeMap<String, UnderlayLink>,
    /// The kernel can do IP-in-IP.
    pub ipip_available: bool,
}

impl Underlay {
    /// The route the kernel would use for `address` were there none of ours: longest prefix, then lowest metric, of
    /// those with an interface that is up.
    #[must_use]
    pub fn route_to(&self, address: IpAddr) -> Option<&UnderlayRoute> {
        self.routes
            .iter()
            .filter(|route| route.prefix.contains_addr(address) && self.usable(route))
            .min_by_key(|route| (u8::MAX - route.prefix.len(), route.metric))
    }

    /// The node's own subnet that holds `address`: the longest.
    #[must_use]
    pub fn connected_to(&self, address: IpAddr) -> Option<&ConnectedSubnet> {
        self.connected
            .iter()
            .filter(|subnet| subnet.prefix.contains_addr(address))
            .max_by_key(|subnet| subnet.prefix.len())
    }

    /// The subnet entry that carries the node's own address `address`.
    #[must_use]
    pub fn owner_of(&self, address: IpAddr) -> Option<&ConnectedSubnet> {
        self.connected
            .iter()
            .find(|subnet| subnet.address == address)
    }

    fn usable(&self, route: &UnderlayRoute) -> bool {
        route.next_hops.iter().any(|hop| {
            hop.interface
                .as_ref()
                .is_none_or(|name| self.links.get(name).is_none_or(|link| link.up))
        })
    }
}

/// A subnet this node is in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectedSubnet {
    /// The subnet.
    pub prefix: Prefix,
    /// The interface on it.
    pub interface: String,
    /// This node's address in it.
    pub address: IpAddr,
}

/// A route that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderlayRoute {
    /// Destination.
    pub prefix: Prefix,
    /// Metric; lower is preferred.
    pub metric: u32,
    /// Where it goes.
    pub next_hops: Vec<KernelNextHop>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Whose it is; 2 is the kernel's own.
    pub protocol: u8,
}

/// A link that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderlayLink {
    /// MTU in octets.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Has carrier.
    pub running: bool,
}
