//! The cluster in plain types: what every node, pool, block, peer and setting says, already checked.
//!
//! `watch` fills a [`ClusterState`] from stored objects and publishes it whole, behind an `Arc`; `desired` reads it and nothing
//! else. Two states made from the same objects are equal, whatever the order in which the objects were heard of. An object that
//! does not parse is absent here and named in [`ClusterState::invalid`]; an object margay knows but does not act on is named in
//! [`ClusterState::unsupported`].
//!
//! Nothing here is serialized and nothing here does I/O: raw objects live in `api`, their conversion in `watch::convert`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_bgp::prefix::Prefix;

mod bgp;
mod block;
mod felix;
mod filter;
mod ipam;
mod node;
mod peer;
mod pool;
mod secret;
pub mod selector;
mod workload;

pub use bgp::{
    BgpConfiguration, BindMode, CommunityValue, DEFAULT_AS, DEFAULT_BGP_PORT,
    NORMAL_ROUTE_PRIORITY, NotACommunity, PrefixAdvertisement, ProgramClusterRoutes,
};
pub use block::Block;
pub use felix::{FelixConfiguration, NatExclusions, ServiceLoopPrevention};
pub use filter::{
    BgpFilter, FilterAction, FilterOperation, FilterPrefix, FilterRule, MatchOperator, PeerType,
};
pub use ipam::IpamSettings;
pub use node::{Node, NodeAddress};
pub use peer::{
    BgpPeer, LocalSide, NextHopMode, RemoteSide, ReversePeering, SecretKeyRef, SourceAddress,
};
pub use pool::{AllowedUse, AssignmentMode, Encapsulation, EncapsulationMode, IpPool};
pub use secret::SecretValue;
pub use selector::Selector;
pub use workload::{Workload, WorkloadKey};

/// Labels or annotations of an object.
pub type Labels = BTreeMap<String, String>;

/// Everything margay knows of the cluster, seen from one node.
///
/// Only [`bgp`](Self::bgp), [`felix`](Self::felix) and [`workloads`](Self::workloads) depend on which node looks; the rest is the
/// same everywhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterState {
    /// The node whose `bgp`, `felix` and `workloads` these are.
    pub node_name: String,
    /// Every node by name.
    pub nodes: BTreeMap<String, Node>,
    /// Every IP pool by name, disabled ones too: their routes and NAT stay.
    pub pools: BTreeMap<String, IpPool>,
    /// Every IPAM block by its prefix.
    pub blocks: BTreeMap<Prefix, Block>,
    /// Confirmed affinities of nodes: which node owns which block. `pending` and `pendingDeletion` ones are not here.
    pub affinities: BTreeMap<Prefix, String>,
    /// BGPConfiguration `default`, overlaid by `node.<node_name>`.
    pub bgp: BgpConfiguration,
    /// Every BGPPeer by name.
    pub peers: BTreeMap<String, BgpPeer>,
    /// Every BGPFilter by name.
    pub filters: BTreeMap<String, BgpFilter>,
    /// FelixConfiguration for this node: `node.<node_name>` over selected ones over `default`.
    pub felix: FelixConfiguration,
    /// Secrets by name, then key; only those of the namespace margay may read.
    pub secrets: BTreeMap<String, BTreeMap<String, SecretValue>>,
    /// Labels of every namespace, with `projectcalico.org/name` added as Calico does.
    pub namespaces: BTreeMap<String, Labels>,
    /// IPReservation: prefixes that automatic assignment must skip.
    pub reservations: BTreeMap<String, Vec<Prefix>>,
    /// IPAMConfiguration `default`.
    pub ipam: IpamSettings,
    /// ClusterInformation's `datastoreReady`; while false no pod is added or removed. True when the object is absent.
    pub datastore_ready: bool,
    /// The pods of this node, from the endpoint store.
    pub workloads: BTreeMap<WorkloadKey, Workload>,
    /// Objects and files that count as absent, and why. The key is unique and sorts by place.
    pub invalid: BTreeMap<String, Invalid>,
    /// Objects that parse but that margay does not act on (`GlobalNetworkPolicy default.deny`), and what follows from that.
    pub unsupported: BTreeMap<String, String>,
    /// The datastore has been read whole once. Until then "not listed" only means "not heard of yet".
    pub in_sync: bool,
    /// This is the view saved by an earlier run, because the datastore could not be read.
    pub from_saved_view: bool,
}

/// Why an object or a file counts as absent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Invalid {
    /// The object, as `Kind name`; empty when a whole file could not be read.
    pub object: String,
    /// The file, with a line where known, or the name of the datastore.
    pub source: String,
    /// The field at fault, as `spec.cidr`.
    pub field: Option<String>,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.source)?;
        if !self.object.is_empty() {
            write!(f, "{}: ", self.object)?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.reason)
    }
}

impl ClusterState {
    /// This node's own object, once it exists.
    #[must_use]
    pub fn own_node(&self) -> Option<&Node> {
        self.nodes.get(&self.node_name)
    }

    /// The pool that contains `address`; the longest one where a misconfigured cluster has several.
    #[must_use]
    pub fn pool_of(&self, address: IpAddr) -> Option<&IpPool> {
        self.pools
            .values()
            .filter(|pool| pool.cidr.contains_addr(address))
            .max_by_key(|pool| pool.cidr.len())
    }

    /// The blocks whose confirmed owner is `node`.
    pub fn blocks_of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Block> + 'a {
        self.blocks
            .values()
            .filter(move |block| block.owner() == Some(node))
    }

    /// The AS of a node: its own, else the cluster's.
    #[must_use]
    pub fn asn_of(&self, node: &Node) -> margay_bgp::asn::Asn {
        node.asn.unwrap_or(self.bgp.asn)
    }

    /// The secret a reference names.
    #[must_use]
    pub fn secret(&self, reference: &SecretKeyRef) -> Option<&SecretValue> {
        self.secrets.get(&reference.name)?.get(&reference.key)
    }
}
