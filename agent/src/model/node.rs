//! Nodes: Calico's Node, or a Kubernetes Node with Calico's annotations.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use margay_bgp::asn::Asn;
use margay_bgp::family::Family;
use margay_bgp::prefix::Prefix;
use margay_bgp::router_id::RouterId;

use super::Labels;

/// An address of a node and the length of its subnet's mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeAddress<A> {
    /// The address itself, host bits and all.
    pub address: A,
    /// Length of the mask; it says which nodes are in the same subnet.
    pub prefix_len: u8,
}

impl NodeAddress<Ipv4Addr> {
    /// The subnet the node says it is in; `None` only for a mask that cannot be.
    #[must_use]
    pub fn subnet(&self) -> Option<Prefix> {
        Prefix::new(IpAddr::V4(self.address), self.prefix_len).ok()
    }
}

impl NodeAddress<Ipv6Addr> {
    /// The subnet the node says it is in; `None` only for a mask that cannot be.
    #[must_use]
    pub fn subnet(&self) -> Option<Prefix> {
        Prefix::new(IpAddr::V6(self.address), self.prefix_len).ok()
    }
}

/// A node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The node's name.
    pub name: String,
    /// Kubernetes labels and Calico-only labels together; what selectors are matched against.
    pub labels: Labels,
    /// `spec.bgp.ipv4Address`: the address BGP uses, with its mask.
    pub ipv4: Option<NodeAddress<Ipv4Addr>>,
    /// `spec.bgp.ipv6Address`.
    pub ipv6: Option<NodeAddress<Ipv6Addr>>,
    /// Other addresses the node has (Kubernetes' InternalIP first, then ExternalIP): used by the data plane where BGP has none.
    pub addresses: Vec<IpAddr>,
    /// The node's own AS; absent means the cluster's.
    pub asn: Option<Asn>,
    /// Set: the node is a route reflector of this cluster id, and not in the mesh.
    pub route_reflector_cluster_id: Option<RouterId>,
    /// Address of `tunl0`.
    pub ipip_tunnel: Option<Ipv4Addr>,
    /// Address of `vxlan.calico`.
    pub vxlan_tunnel_v4: Option<Ipv4Addr>,
    /// Address of `vxlan-v6.calico`.
    pub vxlan_tunnel_v6: Option<Ipv6Addr>,
    /// MAC that replaces the computed one of `vxlan.calico`.
    pub vxlan_mac_v4: Option<[u8; 6]>,
    /// MAC that replaces the computed one of `vxlan-v6.calico`.
    pub vxlan_mac_v6: Option<[u8; 6]>,
    /// `listenPort` of BGPConfiguration `node.<name>`; absent means the cluster's.
    pub listen_port: Option<u16>,
    /// `margay.io/<field>` annotations, keyed by `<field>`.
    pub margay: Labels,
}

impl Node {
    /// The address the node's BGP sessions of a family use.
    #[must_use]
    pub fn bgp_address(&self, family: Family) -> Option<IpAddr> {
        if family == Family::IPV4_UNICAST {
            self.ipv4.map(|own| IpAddr::V4(own.address))
        } else {
            self.ipv6.map(|own| IpAddr::V6(own.address))
        }
    }

    /// The address other nodes send this node's packets to: BGP's, else InternalIP, else ExternalIP.
    #[must_use]
    pub fn data_address(&self, family: Family) -> Option<IpAddr> {
        let v4 = family == Family::IPV4_UNICAST;
        self.bgp_address(family).or_else(|| {
            self.addresses
                .iter()
                .copied()
                .find(|address| address.is_ipv4() == v4)
        })
    }

    /// The subnet of the node's BGP address in a family.
    #[must_use]
    pub fn subnet(&self, family: Family) -> Option<Prefix> {
        if family == Family::IPV4_UNICAST {
            self.ipv4.and_then(|own| own.subnet())
        } else {
            self.ipv6.and_then(|own| own.subnet())
        }
    }
}
