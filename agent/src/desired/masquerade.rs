//! Source NAT: pods of `natOutgoing` pools outside all pools, and what this host itself sends into a tunnel.

use std::net::IpAddr;

use margay_bgp::family::Family;

use super::state::{DesiredState, IPIP_DEVICE, Masquerade, TunnelSource};
use crate::model::{ClusterState, NatExclusions};

/// The rules' content. Devices are read from `state`, which has them already.
pub(super) fn masquerade(cluster: &ClusterState, state: &DesiredState) -> Masquerade {
    let felix = &cluster.felix;
    // Disabled pools stay in both sets: their pods keep running.
    let pools = || {
        cluster
            .pools
            .values()
            .filter(|pool| !pool.load_balancer_only())
    };
    let excluded_hosts = match felix.nat_outgoing_exclusions {
        NatExclusions::IpPoolsOnly => Default::default(),
        NatExclusions::IpPoolsAndHostIps => cluster
            .nodes
            .values()
            .flat_map(|node| {
                Family::ALL
                    .into_iter()
                    .filter_map(|family| node.data_address(family))
            })
            .collect(),
    };
    let mut tunnels = Vec::new();
    let vxlan_port = (!state.vxlan.is_empty()).then_some(felix.vxlan_port);
    if let Some(address) = state.ipip.and_then(|device| device.address) {
        tunnels.push(TunnelSource {
            device: IPIP_DEVICE.to_owned(),
            address: IpAddr::V4(address),
            vxlan_port,
        });
    }
    for device in state.vxlan.values() {
        tunnels.extend(device.address.map(|address| TunnelSource {
            device: device.name.clone(),
            address,
            vxlan_port,
        }));
    }
    Masquerade {
        outgoing: pools()
            .filter(|pool| pool.nat_outgoing)
            .map(|pool| pool.cidr)
            .collect(),
        pools: pools().map(|pool| pool.cidr).collect(),
        excluded_hosts,
        interface_filter: felix.nat_outgoing_interface.clone(),
        port_range: felix.nat_port_range,
        address: felix.nat_outgoing_address,
        tunnels,
    }
}
