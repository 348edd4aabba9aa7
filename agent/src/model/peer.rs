//! BGPPeer: sessions beside the mesh.

use std::net::IpAddr;
use std::time::Duration;

use margay_bgp::asn::Asn;

use super::{Labels, Selector};

/// Which nodes a BGPPeer is for.
#[derive(Clone, Debug, PartialEq)]
pub enum LocalSide {
    /// Every node: a global peer.
    AllNodes,
    /// One node.
    Node(String),
    /// The nodes a selector matches.
    Nodes(Selector),
}

/// Whom those nodes peer with.
#[derive(Clone, Debug, PartialEq)]
pub enum RemoteSide {
    /// One address. Without a port: the listening port of the node that has this address and AS, else 179.
    Address {
        /// The peer's address.
        address: IpAddr,
        /// Its port, where written.
        port: Option<u16>,
        /// Its AS; where not written, the peering is unusable unless the address is a node's.
        asn: Option<Asn>,
    },
    /// Every node a selector matches, each with its own AS and port.
    Nodes(Selector),
    /// Every pod on this node that a selector matches; the pod dials.
    LocalWorkloads {
        /// Matched against the pods' labels.
        selector: Selector,
        /// The pods' AS.
        asn: Asn,
    },
}

/// A key inside a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretKeyRef {
    /// The Secret's name.
    pub name: String,
    /// The key in it.
    pub key: String,
    /// The secret may be missing. Margay keeps the session down all the same: a session meant to be protected never runs without.
    pub optional: bool,
}

/// What NEXT_HOP is told to the peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NextHopMode {
    /// eBGP: own address unless the next hop is in the subnet shared with the peer. iBGP: own for own routes, else unchanged.
    #[default]
    Auto,
    /// Always the own address.
    SelfAddress,
    /// Never changed.
    Keep,
}

/// The address a session is dialled from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SourceAddress {
    /// The node's BGP address.
    #[default]
    UseNodeIp,
    /// The kernel chooses.
    None,
}

/// Whether the nodes on the remote side configure the mirror image by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReversePeering {
    /// They do.
    #[default]
    Auto,
    /// They need a BGPPeer of their own.
    Manual,
}

/// One BGPPeer.
#[derive(Clone, Debug, PartialEq)]
pub struct BgpPeer {
    /// Its name.
    pub name: String,
    /// Which nodes it is for.
    pub local: LocalSide,
    /// Whom they peer with.
    pub remote: RemoteSide,
    /// The AS shown to this peer instead of the node's own.
    pub local_asn: Option<Asn>,
    /// What NEXT_HOP is told to the peer.
    pub next_hop_mode: NextHopMode,
    /// The deprecated `keepOriginalNextHop`: [`NextHopMode::Keep`], but for eBGP sessions only.
    pub keep_original_next_hop: bool,
    /// TCP-MD5 key.
    pub password: Option<SecretKeyRef>,
    /// Which address the session is dialled from.
    pub source_address: SourceAddress,
    /// Restart time told to the peer.
    pub max_restart_time: Option<Duration>,
    /// Time between KEEPALIVEs.
    pub keepalive_time: Option<Duration>,
    /// How often the own AS may stand in a received AS_PATH.
    pub num_allowed_local_as_numbers: u8,
    /// GTSM: the peer is this many hops away, 1 being adjacent.
    pub ttl_security: Option<u8>,
    /// Gateway over which the peer's address is reached.
    pub reachable_by: Option<IpAddr>,
    /// BGPFilters, in order, both directions.
    pub filters: Vec<String>,
    /// Whether the other side configures itself.
    pub reverse_peering: ReversePeering,
    /// `margay.io/<field>` annotations, keyed by `<field>`.
    pub margay: Labels,
}

#[cfg(test)]
impl BgpPeer {
    /// One with nothing but who peers with whom.
    pub(crate) fn plain(name: &str, local: LocalSide, remote: RemoteSide) -> Self {
        Self {
            name: name.into(),
            local,
            remote,
            local_asn: None,
            next_hop_mode: NextHopMode::Auto,
            keep_original_next_hop: false,
            password: None,
            source_address: SourceAddress::UseNodeIp,
            max_restart_time: None,
            keepalive_time: None,
            num_allowed_local_as_numbers: 0,
            ttl_security: None,
            reachable_by: None,
            filters: Vec::new(),
            reverse_peering: ReversePeering::Auto,
            margay: Labels::new(),
        }
    }
}
