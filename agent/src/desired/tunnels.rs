//! IP-in-IP and VXLAN devices, and the one function that says when packets between two nodes are encapsulated.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_bgp::family::Family;
use regex::Regex;
use sha1::{Digest, Sha1};

use super::state::{
    IpipDevice, Problem, Underlay, VXLAN_DEVICE_V4, VXLAN_DEVICE_V6, Vtep, VxlanDevice,
};
use crate::kernel::MacAddress;
use crate::model::{ClusterState, Encapsulation, EncapsulationMode, Node};

/// Octets an IPv4 header adds.
const IPIP_OVERHEAD: u32 = 20;
/// Octets VXLAN over IPv4 adds.
const VXLAN_OVERHEAD_V4: u32 = 50;
/// Octets VXLAN over IPv6 adds.
const VXLAN_OVERHEAD_V6: u32 = 70;
/// What Calico assumes where no interface tells: the smallest MTU of the large clouds.
const FALLBACK_MTU: u32 = 1460;

/// Whether packets between two nodes are encapsulated in a pool of this mode.
///
/// Symmetric in the nodes, so that both directions take the same path and strict reverse-path filters agree. `CrossSubnet`: each
/// node must lie in the subnet the other one says it is in. Calico asks only the sender's mask, so a node of Calico's with a wider
/// mask may send un-encapsulated what we send encapsulated; receivers take both forms.
#[must_use]
pub fn encapsulated(mode: EncapsulationMode, family: Family, one: &Node, other: &Node) -> bool {
    match mode {
        EncapsulationMode::Always => true,
        EncapsulationMode::CrossSubnet => !(sees(one, other, family) && sees(other, one, family)),
    }
}

/// Whether the two ends would decide differently if each asked its own mask alone, as Calico does.
#[must_use]
pub fn masks_disagree(family: Family, one: &Node, other: &Node) -> bool {
    sees(one, other, family) != sees(other, one, family)
}

fn sees(from: &Node, to: &Node, family: Family) -> bool {
    match (from.subnet(family), to.data_address(family)) {
        (Some(subnet), Some(address)) => subnet.contains_addr(address),
        _ => false,
    }
}

/// MTU of the node's own network: the smallest of the interfaces that count, else of the one that carries the node's address.
#[must_use]
pub fn host_mtu(cluster: &ClusterState, underlay: &Underlay) -> u32 {
    let pattern = Regex::new(&cluster.felix.mtu_iface_pattern).ok();
    let matching = underlay
        .links
        .iter()
        .filter(|(name, link)| {
            link.up
                && pattern
                    .as_ref()
                    .is_some_and(|pattern| pattern.is_match(name))
        })
        .map(|(_, link)| link.mtu)
        .min();
    matching
        .or_else(|| {
            let own = cluster.own_node()?;
            let address = Family::ALL
                .into_iter()
                .find_map(|family| own.data_address(family))?;
            let link = underlay.links.get(&underlay.owner_of(address)?.interface)?;
            Some(link.mtu)
        })
        .unwrap_or(FALLBACK_MTU)
}

/// MTU of `tunl0`.
#[must_use]
pub fn ipip_mtu(cluster: &ClusterState, underlay: &Underlay) -> u32 {
    cluster
        .felix
        .ipip_mtu
        .filter(|mtu| *mtu > 0)
        .unwrap_or_else(|| host_mtu(cluster, underlay).saturating_sub(IPIP_OVERHEAD))
}

/// MTU of a VXLAN device.
#[must_use]
pub fn vxlan_mtu(cluster: &ClusterState, underlay: &Underlay, family: Family) -> u32 {
    let (configured, overhead) = if family == Family::IPV4_UNICAST {
        (cluster.felix.vxlan_mtu, VXLAN_OVERHEAD_V4)
    } else {
        (cluster.felix.vxlan_mtu_v6, VXLAN_OVERHEAD_V6)
    };
    configured
        .filter(|mtu| *mtu > 0)
        .unwrap_or_else(|| host_mtu(cluster, underlay).saturating_sub(overhead))
}

/// MTU of a pod's interface: the smallest of the encapsulations in use, so that no pod has to learn it the hard way.
#[must_use]
pub fn pod_mtu(cluster: &ClusterState, underlay: &Underlay) -> u32 {
    let mut mtu = host_mtu(cluster, underlay);
    if wants_ipip(cluster) {
        mtu = mtu.min(ipip_mtu(cluster, underlay));
    }
    for family in Family::ALL {
        if wants_vxlan(cluster, family) {
            mtu = mtu.min(vxlan_mtu(cluster, underlay, family));
        }
    }
    mtu
}

/// Whether some pool needs `tunl0`.
#[must_use]
pub fn wants_ipip(cluster: &ClusterState) -> bool {
    cluster.felix.ipip_enabled.unwrap_or_else(|| {
        cluster
            .pools
            .values()
            .any(|pool| matches!(pool.encapsulation, Encapsulation::IpIp(_)))
    })
}

/// Whether some pool of the family needs a VXLAN device. FelixConfiguration can overrule that for IPv4 only, as in Calico.
#[must_use]
pub fn wants_vxlan(cluster: &ClusterState, family: Family) -> bool {
    let by_pools = cluster.pools.values().any(|pool| {
        pool.cidr.family() == family && matches!(pool.encapsulation, Encapsulation::Vxlan(_))
    });
    if family == Family::IPV4_UNICAST {
        cluster.felix.vxlan_enabled.unwrap_or(by_pools)
    } else {
        by_pools && cluster.felix.ipv6_support
    }
}

/// The inner MAC of a node's VXLAN device: what its Node object says, else computed from its name, alike on every node.
#[must_use]
pub fn vtep_mac(node: &Node, family: Family) -> MacAddress {
    let (written, suffix) = if family == Family::IPV4_UNICAST {
        (node.vxlan_mac_v4, "")
    } else {
        (node.vxlan_mac_v6, "-v6")
    };
    written.map(MacAddress).unwrap_or_else(|| {
        let digest = Sha1::digest(format!("{}{suffix}", node.name));
        let mut octets = [0x66; 6];
        for (octet, hashed) in octets.iter_mut().skip(1).zip(digest.iter()) {
            *octet = *hashed;
        }
        MacAddress(octets)
    })
}

/// The tunnel address of a node's VXLAN device.
#[must_use]
pub fn vxlan_tunnel(node: &Node, family: Family) -> Option<IpAddr> {
    if family == Family::IPV4_UNICAST {
        node.vxlan_tunnel_v4.map(IpAddr::V4)
    } else {
        node.vxlan_tunnel_v6.map(IpAddr::V6)
    }
}

/// The name of the VXLAN device of a family.
#[must_use]
pub fn vxlan_device_name(family: Family) -> &'static str {
    if family == Family::IPV4_UNICAST {
        VXLAN_DEVICE_V4
    } else {
        VXLAN_DEVICE_V6
    }
}

/// `tunl0`, where some pool needs it and it can be had.
pub(super) fn ipip(
    cluster: &ClusterState,
    own: &Node,
    underlay: &Underlay,
    problems: &mut Vec<Problem>,
) -> Option<IpipDevice> {
    if !wants_ipip(cluster) {
        return None;
    }
    if !underlay.ipip_available {
        for pool in cluster
            .pools
            .values()
            .filter(|pool| matches!(pool.encapsulation, Encapsulation::IpIp(_)))
        {
            problems.push(Problem {
                subject: format!("IPPool {}", pool.name),
                reason: "spec.ipipMode: this kernel cannot do IP-in-IP (load the module ipip, or use vxlanMode)".into(),
            });
        }
        return None;
    }
    if own.ipip_tunnel.is_none() {
        problems.push(Problem {
            subject: format!("Node {}", own.name),
            reason: "spec.bgp.ipv4IPIPTunnelAddr: no tunnel address yet; pods reach each other, this host has no address of its own \
                     in the tunnel"
                .into(),
        });
    }
    Some(IpipDevice {
        address: own.ipip_tunnel,
        mtu: ipip_mtu(cluster, underlay),
    })
}

/// The VXLAN devices that pools need.
pub(super) fn vxlan(
    cluster: &ClusterState,
    own: &Node,
    underlay: &Underlay,
    problems: &mut Vec<Problem>,
) -> BTreeMap<Family, VxlanDevice> {
    let mut devices = BTreeMap::new();
    for family in Family::ALL {
        if !wants_vxlan(cluster, family) {
            continue;
        }
        let mut problem = |reason: String| {
            problems.push(Problem {
                subject: format!("Node {}", own.name),
                reason,
            });
        };
        let device = vxlan_device_name(family);
        let Some(local) = own.data_address(family) else {
            problem(format!("no address in {family} yet; {device} waits for it"));
            continue;
        };
        let address = vxlan_tunnel(own, family);
        if address.is_none() {
            problem(format!(
                "no tunnel address in {family} yet; other nodes cannot reach this one's pods through {device}"
            ));
        }
        let vteps = cluster
            .nodes
            .values()
            .filter(|node| node.name != own.name)
            .filter_map(|node| {
                Some(Vtep {
                    node: node.name.clone(),
                    tunnel_ip: vxlan_tunnel(node, family)?,
                    mac: vtep_mac(node, family),
                    node_ip: node.data_address(family)?,
                })
            })
            .collect();
        devices.insert(
            family,
            VxlanDevice {
                name: vxlan_device_name(family).to_owned(),
                vni: cluster.felix.vxlan_vni,
                port: cluster.felix.vxlan_port,
                local,
                parent: underlay
                    .owner_of(local)
                    .map(|subnet| subnet.interface.clone()),
                mac: vtep_mac(own, family),
                address,
                mtu: vxlan_mtu(cluster, underlay, family),
                vteps,
            },
        );
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NodeAddress;

    fn node(name: &str, address: &str, prefix_len: u8) -> Node {
        Node {
            name: name.into(),
            ipv4: Some(NodeAddress {
                address: address.parse().expect("address"),
                prefix_len,
            }),
            ..Node::default()
        }
    }

    #[test]
    fn both_ends_of_a_pair_decide_alike() {
        let nodes = [
            node("a", "10.0.1.2", 24),
            node("b", "10.0.1.3", 24),
            node("c", "10.0.2.3", 24),
            node("d", "10.0.1.4", 16),
            node("e", "10.0.1.5", 32),
            Node::default(),
        ];
        for one in &nodes {
            for other in &nodes {
                for mode in [EncapsulationMode::Always, EncapsulationMode::CrossSubnet] {
                    assert_eq!(
                        encapsulated(mode, Family::IPV4_UNICAST, one, other),
                        encapsulated(mode, Family::IPV4_UNICAST, other, one)
                    );
                }
            }
        }
        let [a, b, c, d, e, _] = &nodes;
        let cross = |one, other| {
            encapsulated(
                EncapsulationMode::CrossSubnet,
                Family::IPV4_UNICAST,
                one,
                other,
            )
        };
        assert!(!cross(a, b));
        assert!(cross(a, c));
        assert!(!cross(a, d));
        assert!(cross(a, e), "a /32 shares its subnet with nobody");
        assert!(masks_disagree(Family::IPV4_UNICAST, c, d));
    }

    #[test]
    fn the_mac_of_a_vtep_follows_from_its_name() {
        // sha1("node1") = f6e9..., so Calico on every other node computes the same.
        let mac = vtep_mac(&node("node1", "10.0.0.1", 24), Family::IPV4_UNICAST);
        assert!(mac.to_string().starts_with("66:"));
        assert_ne!(
            mac,
            vtep_mac(&node("node1", "10.0.0.1", 24), Family::IPV6_UNICAST)
        );
    }
}
