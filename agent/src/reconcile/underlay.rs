//! What the kernel holds that is not ours, as next-hop resolution needs it.

use std::net::IpAddr;

use margay_bgp::prefix::Prefix;

use super::devices::Addresses;
use super::ownership::{Ownership, is_our_device};
use super::routes::{Links, Routes};
use crate::desired::state::{ConnectedSubnet, Underlay, UnderlayLink, UnderlayRoute};
use crate::kernel::RouteKind;

/// The underlay out of what was observed.
pub(super) fn underlay(
    links: &Links,
    addresses: &Addresses,
    routes: &Routes,
    ipip_available: bool,
) -> Underlay {
    let ownership = routes.ownership();
    let mut connected: Vec<ConnectedSubnet> = addresses
        .iter()
        .filter(|(interface, _)| is_underlay(ownership, interface))
        .flat_map(|(interface, addresses)| {
            addresses.iter().map(move |address| (interface, address))
        })
        .filter(|(_, address)| !is_local(address.address))
        .filter_map(|(interface, address)| {
            Some(ConnectedSubnet {
                prefix: Prefix::new(address.address, address.prefix_len).ok()?,
                interface: interface.clone(),
                address: address.address,
            })
        })
        .collect();
    connected.sort();
    let others = routes
        .foreign()
        .iter()
        .filter(|(_, route)| route.kind == RouteKind::Unicast && !ownership.is_pod_route(route))
        .filter(|(key, _)| !is_local(key.prefix.addr()))
        .map(|(key, route)| UnderlayRoute {
            prefix: key.prefix,
            metric: key.metric,
            next_hops: route.next_hops.clone(),
            source: route.source,
            protocol: route.protocol,
        })
        .collect();
    Underlay {
        connected,
        routes: others,
        links: links
            .values()
            .filter(|link| is_underlay(ownership, &link.name))
            .map(|link| {
                (
                    link.name.clone(),
                    UnderlayLink {
                        mtu: link.mtu,
                        up: link.up,
                        running: link.running,
                    },
                )
            })
            .collect(),
        ipip_available,
    }
}

fn is_underlay(ownership: &Ownership, interface: &str) -> bool {
    !is_our_device(interface) && !ownership.is_pod_interface(interface)
}

/// Loopback, link-local and multicast: nothing a node is reached by.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.is_loopback() || address.is_link_local() || address.is_multicast()
        }
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unicast_link_local() || address.is_multicast()
        }
    }
}
