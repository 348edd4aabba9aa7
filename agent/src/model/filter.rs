//! BGPFilter: ordered rules for what is told and what is believed.

use margay_bgp::asn::Asn;
use margay_bgp::prefix::Prefix;

use super::CommunityValue;

/// How a route's prefix is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatchOperator {
    /// The very prefix.
    Equal,
    /// Any other prefix.
    NotEqual,
    /// The prefix or one inside it.
    In,
    /// A prefix not inside it.
    NotIn,
}

/// The part of a rule about the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterPrefix {
    /// The prefix compared with.
    pub cidr: Prefix,
    /// How.
    pub operator: MatchOperator,
    /// `prefixLength` as written, brought inside [mask, 32 or 128]; both ends included. Absent: as the operator alone says.
    pub lengths: Option<(u8, u8)>,
}

/// Which sessions a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerType {
    /// Peers of another AS.
    Ebgp,
    /// Peers of the effective local AS.
    Ibgp,
}

/// What a matching rule decides; it ends the filter chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FilterAction {
    /// Accept at once; on export this skips every built-in rule too.
    Accept,
    /// Reject.
    Reject,
}

/// What an accepting rule does to the route, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterOperation {
    /// Add a community.
    AddCommunity(CommunityValue),
    /// Put these in front of AS_PATH; the result starts exactly as listed.
    PrependAsPath(Vec<Asn>),
    /// Set LOCAL_PREF to 2147483647 − value.
    SetPriority(u32),
}

/// One rule; it matches when every condition given holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterRule {
    /// What a match decides.
    pub action: FilterAction,
    /// Compares the prefix.
    pub prefix: Option<FilterPrefix>,
    /// `source: RemotePeers`: only routes learned over BGP.
    pub from_remote_peers: bool,
    /// Glob of the route's outgoing interface.
    pub interface: Option<String>,
    /// Only sessions of this type.
    pub peer_type: Option<PeerType>,
    /// Only routes that carry this community.
    pub community: Option<CommunityValue>,
    /// Only routes whose AS_PATH starts so; empty means any.
    pub as_path_prefix: Vec<Asn>,
    /// Only routes whose LOCAL_PREF is 2147483647 − this.
    pub priority: Option<u32>,
    /// What happens to an accepted route.
    pub operations: Vec<FilterOperation>,
}

/// One BGPFilter. A route that no rule matches goes on to the next filter, then to the built-in rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BgpFilter {
    /// Its name.
    pub name: String,
    /// Rules for IPv4 routes told to the peer.
    pub export_v4: Vec<FilterRule>,
    /// Rules for IPv4 routes heard from the peer.
    pub import_v4: Vec<FilterRule>,
    /// Rules for IPv6 routes told to the peer.
    pub export_v6: Vec<FilterRule>,
    /// Rules for IPv6 routes heard from the peer.
    pub import_v6: Vec<FilterRule>,
}
