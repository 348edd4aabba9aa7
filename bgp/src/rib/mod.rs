//! Routing tables: every path every peer announced, the one that is used, and what each group of peers was told.
//!
//! The public types are what leaves the tables for the kernel: [`RouteChange`] and [`BestRoute`]. Inside, per family:
//!
//! ```text
//!   UPDATE ─► import ─► table ─► decision ─┬─► changes of best routes, joined by prefix
//!               │                          └─► export, once per group ─► adj_rib_out: journal ─► shared octets ─► peers
//!               └─ attribute_store: equal attributes are one record
//! ```
//!
//! Who owns what: a [`table::Table`] the prefixes and paths of a family, a [`adj_rib_out::Group`] what a set of peers was
//! told and where each of them is in the list of changes, the [`attribute_store::AttributeStore`] attributes of all
//! families. Nothing here knows sessions, timers or sockets; the speaker does.

pub(crate) mod adj_rib_out;
pub(crate) mod aggregate;
pub(crate) mod attribute_store;
pub(crate) mod export;
mod family_rib;
pub(crate) mod import;
mod index;
mod next_hops;
pub(crate) mod table;

pub use next_hops::{NextHopInterest, NextHopState, Reach};

pub(crate) use family_rib::{FamilyRib, News, View, source_of};

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::asn::Asn;
use crate::codec::attribute::{LocalPref, Med};
use crate::codec::community::{Community, LargeCommunity};
use crate::policy::SourceKind;
use crate::prefix::Prefix;
use crate::router_id::RouterId;

/// Where a neighbour stands in the speaker's lists.
pub(crate) type Slot = u16;

/// The slot of what this speaker originates itself.
pub(crate) const LOCAL: Slot = 0;

/// What the tables need to know of a neighbour.
#[derive(Clone, Debug)]
pub(crate) struct PeerFacts {
    pub(crate) name: Arc<str>,
    /// Nothing for this speaker itself.
    pub(crate) address: Option<IpAddr>,
    /// Its BGP Identifier, ours for local routes.
    pub(crate) router_id: u32,
    pub(crate) external: bool,
    /// The AS we are in on its session. What is told inside another one of ours crosses a border.
    pub(crate) asn: Asn,
    pub(crate) client: bool,
    /// Our cluster as its reflector.
    pub(crate) cluster_id: RouterId,
    /// The interface it is on, as far as that is known.
    pub(crate) interface: Option<Arc<str>>,
    /// Counts changes of what goes into attributes told to others, so that they are told again.
    pub(crate) revision: u8,
}

impl PeerFacts {
    /// What goes into what others are told of its routes.
    pub(crate) const fn told(&self) -> (u32, u32, Asn, SourceKind) {
        (self.router_id, self.cluster_id.get(), self.asn, self.kind())
    }

    pub(crate) const fn kind(&self) -> SourceKind {
        match (self.address, self.external, self.client) {
            (None, ..) => SourceKind::Local,
            (_, true, _) => SourceKind::External,
            (_, false, true) => SourceKind::Client,
            (_, false, false) => SourceKind::Internal,
        }
    }
}

/// The best route of a prefix is another one now, or there is none any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// Destination.
    pub prefix: Prefix,
    /// What is used now.
    pub best: Option<BestRoute>,
}

/// What to forward by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BestRoute {
    /// Where to send packets, ascending and distinct. Empty only for a local route of this speaker without a next hop.
    pub next_hops: Vec<RouteNextHop>,
    /// How traffic is shared among [`BestRoute::next_hops`], in their order, the largest share being 255; empty for equal shares.
    pub weights: Vec<u8>,
    /// Who the best path is from; further next hops may be from others.
    pub source: RouteSource,
    /// LOCAL_PREF of the best path, 100 where it had none.
    pub local_pref: LocalPref,
    /// MULTI_EXIT_DISC of the best path.
    pub med: Option<Med>,
    /// Hops of its AS_PATH.
    pub as_path_len: usize,
    /// The AS that originated it; nothing where it is from our own.
    pub origin_as: Option<Asn>,
    /// Its communities.
    pub communities: Vec<Community>,
    /// Its large communities.
    pub large_communities: Vec<LargeCommunity>,
    /// The peer is away and the path is kept for its return (RFC 4724).
    pub stale: bool,
    /// Traffic to it is to be dropped, and the next hops are nobody's to use: policy wants it (RFC 7999), or it is an aggregate of
    /// ours and nothing inside of it leads on.
    pub discard: bool,
}

/// One next hop of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteNextHop {
    /// Its address, possibly of the other family (RFC 8950).
    pub address: IpAddr,
    /// The interface a link-local address belongs to, which is that of the session.
    pub interface_index: Option<u32>,
}

/// Where a path is from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RouteSource {
    /// Originated by this speaker.
    Local,
    /// Learned from a peer.
    Peer {
        /// Its name.
        name: Arc<str>,
        /// Its address.
        address: IpAddr,
        /// It is in another AS.
        external: bool,
    },
}

impl fmt::Display for RouteSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Peer { name, .. } => f.write_str(name),
        }
    }
}
