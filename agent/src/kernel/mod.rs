//! The kernel's tables.
//!
//! This room knows how to ask the kernel for what it holds and how to change it; it decides nothing. [`Kernel`] is the
//! list of verbs, in our own types: no netlink type appears in a signature, so that `reconcile` runs the same
//! against [`netlink::Netlink`] and against the in-memory `fake::FakeKernel` with its named faults.
//!
//! What flows through: whole dumps (routes, links, addresses, neighbours, FDB), batches of route changes with one
//! result per change, and [`KernelEvent`]s for what somebody else changed. Interfaces are named, never numbered:
//! a name is resolved to an index at the moment of the call, since a recreated interface has a new index.
//!
//! Route identity is the kernel's own: table, prefix, TOS and metric ([`RouteKey`]). Protocol is *not* part of it, so a
//! `replace` would take over another daemon's route; [`RouteChange::Add`] refuses to, and `reconcile` uses it
//! for every key it has not seen itself owning.
//!
//! Refuses to: append to multipath groups (the kernel merges hops of different owners), touch nexthop objects,
//! policy rules and every table but the one it is asked about.

mod convert;
mod errno;
#[cfg(test)]
pub(crate) mod fake;
mod monitor;
pub mod netlink;
mod nftables;
mod socket;
mod sysctl;
mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use margay_bgp::family::Family;
use margay_bgp::prefix::Prefix;

use crate::desired::state::Masquerade;

/// The main routing table, `RT_TABLE_MAIN`.
pub const MAIN_TABLE: u32 = 254;

/// The protocol number on every route of margay's, unless a flag changes it. Unassigned in `rt_protos`, outside the
/// range of the well-known daemons, and not one of Calico's (3, 12, 80).
pub const MARGAY_PROTOCOL: u8 = 109;

/// The metric the kernel gives an IPv6 route that names none.
pub const IPV6_DEFAULT_METRIC: u32 = 1024;

/// IPv4 or IPv6: the kernel keeps a table of routes for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// The version of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// What the kernel tells routes apart by.
///
/// An IPv6 metric of 0 does not exist in the kernel, it becomes 1024; [`RouteKey::new`] does the same, so that keys
/// compare equal to what a dump returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteKey {
    /// Routing table, [`MAIN_TABLE`] for all of margay's routes.
    pub table: u32,
    /// Destination.
    pub prefix: Prefix,
    /// Type of service; always 0 for margay's routes and for IPv6.
    pub tos: u8,
    /// Metric (`RTA_PRIORITY`); lower is preferred.
    pub metric: u32,
}

impl RouteKey {
    /// The key of a route to `prefix` in the main table.
    #[must_use]
    pub fn main(prefix: Prefix, metric: u32) -> Self {
        Self::new(MAIN_TABLE, prefix, 0, metric)
    }

    /// A key with the kernel's own reading of an IPv6 metric of 0.
    #[must_use]
    pub fn new(table: u32, prefix: Prefix, tos: u8, metric: u32) -> Self {
        let metric = match (prefix, metric) {
            (Prefix::V6(_), 0) => IPV6_DEFAULT_METRIC,
            _ => metric,
        };
        Self {
            table,
            prefix,
            tos,
            metric,
        }
    }

    /// The IP version of the destination.
    #[must_use]
    pub fn version(&self) -> IpVersion {
        match self.prefix {
            Prefix::V4(_) => IpVersion::V4,
            Prefix::V6(_) => IpVersion::V6,
        }
    }

    /// The address family of the destination, as unicast.
    #[must_use]
    pub fn family(&self) -> Family {
        self.prefix.family()
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.prefix)?;
        if self.metric != 0
            && !(self.metric == IPV6_DEFAULT_METRIC && matches!(self.prefix, Prefix::V6(_)))
        {
            write!(f, " metric {}", self.metric)?;
        }
        if self.tos != 0 {
            write!(f, " tos {}", self.tos)?;
        }
        if self.table != MAIN_TABLE {
            write!(f, " table {}", self.table)?;
        }
        Ok(())
    }
}

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// Forwards it to a next hop.
    Unicast,
    /// Drops it silently.
    Blackhole,
    /// Anything else the kernel may hold (local, unreachable, throw …), by its `rtm_type`. Never desired by margay.
    Other(u8),
}

/// `rtm_scope`: how far away the destination is. IPv6 has only [`Scope::Universe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Anywhere, behind a gateway.
    Universe,
    /// On the link itself; a route without a gateway.
    Link,
    /// This host.
    Host,
    /// Any other number.
    Other(u8),
}

/// One way out of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelNextHop {
    /// Gateway; of either family for an IPv4 route.
    pub via: Option<IpAddr>,
    /// Interface by name. `None` lets the kernel look the gateway up, which works only where it is directly connected.
    pub interface: Option<String>,
    /// The gateway is reachable over `interface` though no connected subnet covers it (tunnels).
    pub onlink: bool,
    /// Share of the traffic among several hops, 1 to 256; 1 for a single hop.
    pub weight: u16,
}

impl KernelNextHop {
    /// Straight out of an interface, without a gateway.
    #[must_use]
    pub fn device(interface: impl Into<String>) -> Self {
        Self {
            via: None,
            interface: Some(interface.into()),
            onlink: false,
            weight: 1,
        }
    }

    /// By a gateway, out of an interface if one is named.
    #[must_use]
    pub fn gateway(via: IpAddr, interface: Option<String>) -> Self {
        Self {
            via: Some(via),
            interface,
            onlink: false,
            weight: 1,
        }
    }

    /// The same hop, marked as reachable without a connected subnet.
    #[must_use]
    pub fn onlink(mut self) -> Self {
        self.onlink = true;
        self
    }
}

/// What a route says, apart from its [`RouteKey`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// What happens to a packet.
    pub kind: RouteKind,
    /// Scope; [`Scope::Link`] for IPv4 device routes.
    pub scope: Scope,
    /// Where it goes; empty for a blackhole, several for ECMP.
    pub next_hops: Vec<KernelNextHop>,
    /// Preferred source address of packets this host sends itself.
    pub source: Option<IpAddr>,
    /// Path MTU as a route metric, in octets.
    pub mtu: Option<u32>,
    /// Who put it there: `rtm_protocol`.
    pub protocol: u8,
}

impl Route {
    /// A route of margay's to a directly attached device: `dev … scope link`.
    #[must_use]
    pub fn device(interface: impl Into<String>) -> Self {
        Self {
            kind: RouteKind::Unicast,
            scope: Scope::Link,
            next_hops: vec![KernelNextHop::device(interface)],
            source: None,
            mtu: None,
            protocol: MARGAY_PROTOCOL,
        }
    }

    /// A route of margay's by one or several next hops.
    #[must_use]
    pub fn via(next_hops: Vec<KernelNextHop>) -> Self {
        Self {
            kind: RouteKind::Unicast,
            scope: Scope::Universe,
            next_hops,
            source: None,
            mtu: None,
            protocol: MARGAY_PROTOCOL,
        }
    }

    /// A route of margay's that drops what matches nothing longer.
    #[must_use]
    pub fn blackhole() -> Self {
        Self {
            kind: RouteKind::Blackhole,
            scope: Scope::Universe,
            next_hops: Vec::new(),
            source: None,
            mtu: None,
            protocol: MARGAY_PROTOCOL,
        }
    }

    /// The route as the kernel would return it: hops sorted, a single hop of weight 1, IPv6 without scope, nothing
    /// but the type for a blackhole, `onlink` only beside a gateway.
    ///
    /// Two routes that are equal after this forward alike. A next hop without an interface cannot be compared to a
    /// dump, which always names one; `reconcile` fills it in from the dump when the gateway agrees.
    #[must_use]
    pub fn normalised(mut self, family: IpVersion) -> Self {
        if family == IpVersion::V6 {
            self.scope = Scope::Universe;
        }
        if self.kind == RouteKind::Blackhole {
            self.next_hops.clear();
            self.scope = Scope::Universe;
        }
        for hop in &mut self.next_hops {
            hop.onlink &= hop.via.is_some();
            hop.weight = hop.weight.max(1);
        }
        if let [only] = self.next_hops.as_mut_slice() {
            only.weight = 1;
        } else {
            self.next_hops.sort_unstable();
        }
        self
    }

    /// Whether any next hop leaves by `interface`.
    #[must_use]
    pub fn uses(&self, interface: &str) -> bool {
        self.next_hops
            .iter()
            .any(|hop| hop.interface.as_deref() == Some(interface))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RouteKind::Unicast => {}
            RouteKind::Blackhole => f.write_str("blackhole ")?,
            RouteKind::Other(kind) => write!(f, "type {kind} ")?,
        }
        for (position, hop) in self.next_hops.iter().enumerate() {
            if position > 0 {
                f.write_str("| ")?;
            }
            if let Some(via) = hop.via {
                write!(f, "via {via} ")?;
            }
            if let Some(interface) = &hop.interface {
                write!(f, "dev {interface} ")?;
            }
            if hop.onlink {
                f.write_str("onlink ")?;
            }
        }
        if let Some(mtu) = self.mtu {
            write!(f, "mtu {mtu} ")?;
        }
        write!(f, "proto {}", self.protocol)
    }
}

/// Which routes a dump returns. Cloned entries and other tables are never part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteFilter {
    /// Routing table.
    pub table: u32,
    /// One address family, or both.
    pub family: Option<IpVersion>,
    /// One protocol, or all.
    pub protocol: Option<u8>,
}

impl RouteFilter {
    /// Every route of a table.
    #[must_use]
    pub fn table(table: u32) -> Self {
        Self {
            table,
            family: None,
            protocol: None,
        }
    }
}

/// One change of the routing table, applied in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// Put a route where none may be: fails with [`KernelError::Exists`] if anything holds the key.
    Add(RouteKey, Arc<Route>),
    /// Put a route, taking the place of whatever holds the key, atomically for packets in flight.
    Replace(RouteKey, Arc<Route>),
    /// Remove the route with this key and this protocol. One that is already gone is no error.
    Delete(RouteKey, u8),
}

impl RouteChange {
    /// The key changed.
    #[must_use]
    pub fn key(&self) -> RouteKey {
        match self {
            Self::Add(key, _) | Self::Replace(key, _) | Self::Delete(key, _) => *key,
        }
    }
}

/// A link-layer address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Text that is not six hexadecimal octets joined by colons.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address")]
pub struct InvalidMac(pub String);

impl std::str::FromStr for MacAddress {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidMac(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or_else(invalid)?;
            if part.is_empty() || part.len() > 2 {
                return Err(invalid());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        match parts.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(invalid()),
        }
    }
}

/// What kind of interface a link is, as far as margay cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// IPv4 in IPv4, `tunl0` among them.
    IpIp,
    /// VXLAN with the attributes that decide whether it can stay.
    Vxlan(VxlanAttributes),
    /// One end of a veth pair.
    Veth,
    /// Any other, by its kernel name; `None` for hardware.
    Other(Option<String>),
}

/// The attributes of a VXLAN device that cannot be changed while it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanAttributes {
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// UDP port, host order.
    pub port: u16,
    /// Outer source address.
    pub local: Option<IpAddr>,
    /// Interface that carries the outer packets.
    pub parent: Option<String>,
    /// Learns addresses from traffic; margay's never do.
    pub learning: bool,
    /// Flow-based ("external") mode.
    pub external: bool,
    /// Group policy extension.
    pub gbp: bool,
    /// Notifies of link-layer misses.
    pub l2_miss: bool,
}

/// A VXLAN device to exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanSpec {
    /// Interface name.
    pub name: String,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Outer source address: the node's.
    pub local: IpAddr,
    /// Interface that carries the node's address, by name.
    pub parent: Option<String>,
    /// Inner link-layer address.
    pub mac: MacAddress,
    /// MTU in octets.
    pub mtu: u32,
}

impl VxlanSpec {
    /// The attributes a kept device must have.
    #[must_use]
    pub fn attributes(&self) -> VxlanAttributes {
        VxlanAttributes {
            vni: self.vni,
            port: self.port,
            local: Some(self.local),
            parent: self.parent.clone(),
            learning: false,
            external: false,
            gbp: false,
            l2_miss: false,
        }
    }
}

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index: changes when an interface of the same name is recreated.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Kind and attributes.
    pub kind: LinkKind,
    /// Administratively up (`IFF_UP`). Routes can exist only then.
    pub up: bool,
    /// Has carrier (`IFF_LOWER_UP`).
    pub running: bool,
    /// MTU in octets.
    pub mtu: u32,
    /// Link-layer address, where there is a six-octet one.
    pub mac: Option<MacAddress>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceAddress {
    /// The address itself.
    pub address: IpAddr,
    /// Length of the subnet mask.
    pub prefix_len: u8,
}

/// A permanent neighbour entry: who has `address` on this link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Neighbour {
    /// Network address.
    pub address: IpAddr,
    /// Link-layer address.
    pub mac: MacAddress,
}

/// A permanent forwarding entry of a VXLAN device: where the tunnel end of `mac` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FdbEntry {
    /// Inner link-layer address.
    pub mac: MacAddress,
    /// Outer address of the node that has it.
    pub destination: IpAddr,
}

/// Entries to set and to remove on one device; setting one that exists replaces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryChanges<T> {
    /// To add or replace.
    pub set: Vec<T>,
    /// To remove; one that is gone is no error.
    pub remove: Vec<T>,
}

impl<T> Default for EntryChanges<T> {
    fn default() -> Self {
        Self {
            set: Vec::new(),
            remove: Vec::new(),
        }
    }
}

impl<T> EntryChanges<T> {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }
}

/// What the packet filter should hold of ours.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FilterSpec {
    /// The masquerade table; empty means the table should not exist.
    pub masquerade: Masquerade,
    /// Name prefixes of pods' interfaces, when their traffic must be let through foreign FORWARD chains whose policy
    /// is to drop. Empty: no accept rule of ours anywhere.
    pub forward_accept: Vec<String>,
}

/// What applying a [`FilterSpec`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FilterOutcome {
    /// Our table was written or removed.
    pub table_changed: bool,
    /// Accept rules were added or removed in foreign chains.
    pub accept_changed: bool,
}

/// Something in the kernel changed, and not by our own hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEvent {
    /// A route appeared or was replaced.
    RouteSet(RouteKey, Route),
    /// A route went away.
    RouteGone(RouteKey, Route),
    /// A link appeared or changed state.
    LinkSet(Link),
    /// A link went away, with all its routes, addresses and neighbours; the kernel says nothing of its IPv4 routes.
    LinkGone {
        /// Its name.
        name: String,
        /// Its index.
        index: u32,
    },
    /// Addresses of an interface changed.
    AddressesChanged {
        /// Interface name.
        interface: String,
    },
    /// Permanent neighbours or forwarding entries of an interface changed.
    NeighboursChanged {
        /// Interface name.
        interface: String,
    },
    /// The packet filter's rules changed in a way that may concern us.
    FilterChanged,
    /// Events were lost: nothing known about the kernel is certain any more.
    Overrun,
}

/// Why the kernel did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// No interface of this name.
    #[error("no interface {0}")]
    NoLink(String),
    /// The interface exists and is down.
    #[error("interface is down")]
    LinkDown,
    /// The gateway is not on any connected subnet.
    #[error("next hop is unreachable")]
    Unreachable,
    /// Something else holds the key.
    #[error("already exists")]
    Exists,
    /// Nothing there to change.
    #[error("not found")]
    NotFound,
    /// The kernel lacks a feature.
    #[error("kernel does not support {feature}: {hint}")]
    Unsupported {
        /// What is lacking.
        feature: &'static str,
        /// What an administrator can do about it.
        hint: &'static str,
    },
    /// Privileges are lacking.
    #[error("not permitted")]
    NotPermitted,
    /// A dump kept being interrupted by changes.
    #[error("dump of {what} was interrupted {times} times")]
    DumpInterrupted {
        /// What was dumped.
        what: &'static str,
        /// How often it was tried.
        times: u32,
    },
    /// Any other refusal, with the kernel's own words where it gave some.
    #[error("{what}: {message} (errno {errno})")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The errno.
        errno: i32,
        /// The kernel's extended message, or the errno's.
        message: String,
    },
    /// A program that had to be run failed.
    #[error("{program}: {message}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What it said.
        message: String,
    },
    /// A socket or a file failed, or the kernel answered with something that could not be read.
    #[error("{what}: {message}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The cause.
        message: String,
    },
}

/// The verbs. Implementations are cheap to share and keep no opinion; all of them act on one network namespace.
pub trait Kernel: Send + Sync + 'static {
    /// Events since the first call, in order. Subscribe before dumping, so that nothing falls in between.
    /// The channel is bounded; a reader that falls behind gets [`KernelEvent::Overrun`].
    ///
    /// # Errors
    /// When subscribing fails.
    fn events(&self) -> Result<tokio::sync::mpsc::Receiver<KernelEvent>, KernelError>;

    /// All routes a filter lets through, normalised.
    fn routes(
        &self,
        filter: RouteFilter,
    ) -> impl Future<Output = Result<Vec<(RouteKey, Route)>, KernelError>> + Send;

    /// Applies changes in order, one result each: a failing one does not hold up the others.
    ///
    /// The outer error means that nothing is known about any of them.
    fn change_routes(
        &self,
        changes: Arc<[RouteChange]>,
    ) -> impl Future<Output = Result<Vec<Result<(), KernelError>>, KernelError>> + Send;

    /// All links.
    fn links(&self) -> impl Future<Output = Result<Vec<Link>, KernelError>> + Send;

    /// Whether the kernel can do IP-in-IP: `tunl0` exists or could be created.
    fn ipip_available(&self) -> impl Future<Output = bool> + Send;

    /// Makes an IP-in-IP device exist: the module's fallback device `tunl0`, any local and remote address.
    fn ensure_ipip(&self, name: &str) -> impl Future<Output = Result<(), KernelError>> + Send;

    /// Makes a VXLAN device exist as described, deleting one of that name that differs. Returns whether it was
    /// created, in which case its neighbours, forwarding entries, addresses and routes are gone.
    fn ensure_vxlan(
        &self,
        spec: &VxlanSpec,
    ) -> impl Future<Output = Result<bool, KernelError>> + Send;

    /// Removes a link; one that is gone is no error.
    fn delete_link(&self, name: &str) -> impl Future<Output = Result<(), KernelError>> + Send;

    /// Sets a link's MTU and brings it up.
    fn set_link_up(
        &self,
        name: &str,
        mtu: u32,
    ) -> impl Future<Output = Result<(), KernelError>> + Send;

    /// Every address of every interface, link-local ones included.
    fn addresses(
        &self,
    ) -> impl Future<Output = Result<BTreeMap<String, Vec<InterfaceAddress>>, KernelError>> + Send;

    /// Adds and removes addresses of an interface.
    fn change_addresses(
        &self,
        interface: &str,
        changes: EntryChanges<InterfaceAddress>,
    ) -> impl Future<Output = Result<(), KernelError>> + Send;

    /// Permanent neighbours of an interface.
    fn neighbours(
        &self,
        interface: &str,
    ) -> impl Future<Output = Result<Vec<Neighbour>, KernelError>> + Send;

    /// Sets and removes permanent neighbours. Returns the first error after trying all.
    fn change_neighbours(
        &self,
        interface: &str,
        changes: EntryChanges<Neighbour>,
    ) -> impl Future<Output = Result<(), KernelError>> + Send;

    /// Permanent forwarding entries of a VXLAN interface that name a destination.
    fn fdb(
        &self,
        interface: &str,
    ) -> impl Future<Output = Result<Vec<FdbEntry>, KernelError>> + Send;

    /// Sets and removes permanent forwarding entries. Returns the first error after trying all.
    fn change_fdb(
        &self,
        interface: &str,
        changes: EntryChanges<FdbEntry>,
    ) -> impl Future<Output = Result<(), KernelError>> + Send;

    /// Brings our packet filter table and our accept rules to what the specification says; writes nothing when they
    /// already are.
    fn apply_filter(
        &self,
        spec: &FilterSpec,
    ) -> impl Future<Output = Result<FilterOutcome, KernelError>> + Send;

    /// Reads a sysctl, without the final newline. Named with dots, or with slashes where an interface's
    /// name may contain dots. `None` when the kernel has no such setting.
    fn sysctl(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<Option<String>, KernelError>> + Send;

    /// Writes a sysctl.
    ///
    /// [`KernelError::NotFound`] when the kernel has no such setting.
    fn set_sysctl(
        &self,
        name: &str,
        value: &str,
    ) -> impl Future<Output = Result<(), KernelError>> + Send;
}

/// The unspecified address of a family.
#[must_use]
pub fn unspecified(family: IpVersion) -> IpAddr {
    match family {
        IpVersion::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpVersion::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}
