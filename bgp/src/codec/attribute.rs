//! Path attributes as values: what a route carries besides its prefix and next hop.
//!
//! The next hop stands apart because it belongs to a prefix list, not to the attribute set: one
//! UPDATE can carry an IPv4 next hop in NEXT_HOP and an IPv6 one in MP_REACH_NLRI. Everything
//! here has one representation per meaning (sorted communities, joined path segments, unknown
//! attributes by code), so `Eq` and `Hash` are what interning needs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use super::as_path::AsPath;
use super::community::{
    Communities, ExtendedCommunities, Ipv6ExtendedCommunities, LargeCommunities,
};
use super::iana::{AttributeCode, AttributeFlags};
use crate::asn::Asn;
use crate::router_id::RouterId;

/// How the route came into BGP. Orders as route selection prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Origin {
    /// Interior to the originating AS.
    #[default]
    Igp = 0,
    /// Learned via EGP.
    Egp = 1,
    /// Learned some other way.
    Incomplete = 2,
}

impl Origin {
    pub(crate) const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Igp,
            1 => Self::Egp,
            2 => Self::Incomplete,
            _ => return None,
        })
    }
}

/// MULTI_EXIT_DISC. Lower is preferred; a route without one counts as zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Med(pub u32);

/// LOCAL_PREF. Higher is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalPref(pub u32);

impl Default for LocalPref {
    /// 100, what every implementation assumes for a route without one.
    fn default() -> Self {
        Self(100)
    }
}

/// AGGREGATOR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Aggregator {
    /// The AS that aggregated.
    pub asn: Asn,
    /// The router that aggregated.
    pub addr: Ipv4Addr,
}

/// A transitive attribute margay does not interpret, passed on octet for octet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnknownAttribute {
    /// Type code.
    pub code: AttributeCode,
    /// Flags to send: optional, transitive and partial, never extended length.
    pub flags: AttributeFlags,
    /// The value as received.
    pub value: Bytes,
}

/// The attributes of a route, without next hop and prefixes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PathAttributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH, with AS4_PATH worked in.
    pub as_path: AsPath,
    /// MULTI_EXIT_DISC.
    pub med: Option<Med>,
    /// LOCAL_PREF; always there on routes from internal peers, never on those from external ones.
    pub local_pref: Option<LocalPref>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR, with AS4_AGGREGATOR worked in.
    pub aggregator: Option<Aggregator>,
    /// COMMUNITIES.
    pub communities: Communities,
    /// ORIGINATOR_ID, only on reflected routes.
    pub originator_id: Option<RouterId>,
    /// CLUSTER_LIST, latest reflector first.
    pub cluster_list: Vec<RouterId>,
    /// EXTENDED_COMMUNITIES.
    pub extended_communities: ExtendedCommunities,
    /// IPV6_EXTENDED_COMMUNITIES.
    pub ipv6_extended_communities: Ipv6ExtendedCommunities,
    /// LARGE_COMMUNITIES.
    pub large_communities: LargeCommunities,
    /// ONLY_TO_CUSTOMER (RFC 9234).
    pub only_to_customer: Option<Asn>,
    /// Transitive attributes of other types, ascending by code.
    pub unknown: Vec<UnknownAttribute>,
    /// Which of the optional transitive ones above somebody on the way passed on without knowing them.
    pub partial: PartialBits,
}

bitflags::bitflags! {
    /// The Partial bits of the optional transitive attributes margay interprets: once set they stay (RFC 4271 §5).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    pub struct PartialBits: u8 {
        /// AGGREGATOR.
        const AGGREGATOR = 1;
        /// COMMUNITIES.
        const COMMUNITIES = 2;
        /// EXTENDED_COMMUNITIES.
        const EXTENDED_COMMUNITIES = 4;
        /// IPV6_EXTENDED_COMMUNITIES.
        const IPV6_EXTENDED_COMMUNITIES = 8;
        /// LARGE_COMMUNITIES.
        const LARGE_COMMUNITIES = 16;
        /// ONLY_TO_CUSTOMER.
        const ONLY_TO_CUSTOMER = 32;
    }
}

impl PartialBits {
    /// The bit of an attribute type; none for types that have no such bit or are not interpreted.
    pub(crate) const fn of(code: AttributeCode) -> Self {
        match code {
            AttributeCode::AGGREGATOR => Self::AGGREGATOR,
            AttributeCode::COMMUNITIES => Self::COMMUNITIES,
            AttributeCode::EXTENDED_COMMUNITIES => Self::EXTENDED_COMMUNITIES,
            AttributeCode::IPV6_EXTENDED_COMMUNITIES => Self::IPV6_EXTENDED_COMMUNITIES,
            AttributeCode::LARGE_COMMUNITIES => Self::LARGE_COMMUNITIES,
            AttributeCode::ONLY_TO_CUSTOMER => Self::ONLY_TO_CUSTOMER,
            _ => Self::empty(),
        }
    }
}

impl PathAttributes {
    /// Takes out what a receiver that finds it malformed would discard without losing the route (RFC 7606): what may go
    /// where all of it does not fit a message (RFC 8654 §4). False if there is nothing of the kind.
    pub(crate) fn drop_discardable(&mut self) -> bool {
        let unknown = self.unknown.len();
        self.unknown
            .retain(|attribute| attribute.code != AttributeCode::PREFIX_SID);
        let dropped =
            self.atomic_aggregate || self.aggregator.is_some() || self.unknown.len() < unknown;
        self.atomic_aggregate = false;
        self.aggregator = None;
        dropped
    }
}

/// Where to send packets for a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// An IPv4 next hop.
    V4(Ipv4Addr),
    /// An IPv6 next hop (RFC 2545), for IPv6 prefixes or, negotiated, for IPv4 ones (RFC 8950).
    /// At least one of the two addresses is there.
    V6 {
        /// The address to resolve. Absent on links that have only link-local addresses.
        global: Option<Ipv6Addr>,
        /// The address on the link shared with the peer.
        link_local: Option<Ipv6Addr>,
    },
}

impl NextHop {
    /// The address to resolve: the global one, or the link-local one where there is no other.
    #[must_use]
    pub fn addr(self) -> IpAddr {
        match self {
            Self::V4(addr) => addr.into(),
            Self::V6 { global, link_local } => global
                .or(link_local)
                .unwrap_or(Ipv6Addr::UNSPECIFIED)
                .into(),
        }
    }

    /// Whether the address can be no router's: this network, loopback, multicast and reserved
    /// space, an IPv4 address in IPv6 clothes. Such a route is not used (RFC 4271 §6.3), yet the
    /// session goes on.
    #[must_use]
    pub fn is_martian(self) -> bool {
        match self.addr() {
            IpAddr::V4(addr) => {
                let first = addr.octets()[0];
                first == 0 || first == 127 || first >= 224
            }
            IpAddr::V6(addr) => {
                addr.is_unspecified()
                    || addr.is_loopback()
                    || addr.is_multicast()
                    || addr.to_ipv4_mapped().is_some()
            }
        }
    }
}

impl From<IpAddr> for NextHop {
    fn from(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => Self::V4(addr),
            IpAddr::V6(addr) if addr.is_unicast_link_local() => Self::V6 {
                global: None,
                link_local: Some(addr),
            },
            IpAddr::V6(addr) => Self::V6 {
                global: Some(addr),
                link_local: None,
            },
        }
    }
}
