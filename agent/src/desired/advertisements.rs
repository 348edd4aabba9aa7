//! What this node tells BGP: its confirmed blocks, and single addresses that no block of its own covers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_bgp::family::Family;
use margay_bgp::prefix::Prefix;
use margay_bgp::speaker::config::Originate;

use super::filters::local_pref;
use crate::model::ClusterState;

/// Why a prefix is originated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OriginatedKind {
    /// A block with a confirmed affinity to this node.
    Block,
    /// An address of a pod here, from a block that is not this node's.
    Borrowed,
    /// The address of a tunnel device, from a block that is not this node's.
    Tunnel,
}

impl OriginatedKind {
    /// The word for it in `margay config show`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Borrowed => "borrowed",
            Self::Tunnel => "tunnel",
        }
    }
}

/// Everything this node originates, and why.
#[must_use]
pub fn originated(cluster: &ClusterState) -> BTreeMap<Prefix, OriginatedKind> {
    let me = cluster.node_name.as_str();
    let mut prefixes: BTreeMap<Prefix, OriginatedKind> = cluster
        .blocks_of(me)
        .map(|block| (block.cidr, OriginatedKind::Block))
        .collect();
    let covered: Vec<Prefix> = prefixes.keys().copied().collect();
    let outside = |address: IpAddr| !covered.iter().any(|block| block.contains_addr(address));
    let mut single = |address: IpAddr, kind: OriginatedKind| {
        if outside(address) {
            prefixes.entry(Prefix::host(address)).or_insert(kind);
        }
    };
    if let Some(node) = cluster.own_node() {
        for address in [
            node.ipip_tunnel.map(IpAddr::V4),
            node.vxlan_tunnel_v4.map(IpAddr::V4),
            node.vxlan_tunnel_v6.map(IpAddr::V6),
        ]
        .into_iter()
        .flatten()
        {
            single(address, OriginatedKind::Tunnel);
        }
    }
    // The pods that run here: known from this node's own disk, whatever the datastore's watch has told.
    for address in cluster
        .workloads
        .values()
        .flat_map(|workload| &workload.addresses)
    {
        single(*address, OriginatedKind::Borrowed);
    }
    for block in cluster.blocks.values() {
        for (address, node) in &block.borrowed {
            if node == me {
                single(*address, OriginatedKind::Borrowed);
            }
        }
    }
    prefixes
}

/// The speaker's form of them.
///
/// Communities are added on export, where BGPFilters have had their say, as in Calico. The next hop is the node's own address
/// in the prefix' family, so that a session over the other family can carry it.
#[must_use]
pub fn originate(cluster: &ClusterState) -> Vec<Originate> {
    let own = cluster.own_node();
    originated(cluster)
        .into_keys()
        .map(|prefix| {
            let mut route = Originate::new(prefix);
            if prefix.family() == Family::IPV6_UNICAST {
                route.next_hop = own.and_then(|node| node.bgp_address(Family::IPV6_UNICAST));
            }
            route.local_pref = normal_priority(cluster, prefix.family()).map(local_pref);
            route
        })
        .collect()
}

/// The kernel's metric of this node's own routes, where the cluster says one.
pub(super) fn normal_priority(cluster: &ClusterState, family: Family) -> Option<u32> {
    if family == Family::IPV4_UNICAST {
        cluster.bgp.ipv4_normal_route_priority
    } else {
        cluster.bgp.ipv6_normal_route_priority
    }
}
