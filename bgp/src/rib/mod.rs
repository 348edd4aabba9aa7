//! Routing tables: every path every peer announced, the one that is used, and what each group of peers was told.
//!
//! The public types are what leaves the tables for the kernel: [`RouteChange`] and [`BestRoute`].

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::asn::Asn;
use crate::codec::attribute::{LocalPref, Med};
use crate::codec::community::{Community, LargeCommunity};
use crate::prefix::Prefix;

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
