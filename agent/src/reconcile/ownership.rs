//! Which of the kernel's things are ours, and how a fresh process can tell.
//!
//! | Thing | Ours by |
//! |---|---|
//! | route | our protocol number, in our table |
//! | device | Calico's names `tunl0`, `vxlan.calico`, `vxlan-v6.calico` |
//! | address, neighbour, forwarding entry | being on such a device |
//! | packet filter table, accept rule | its name, its comment (`kernel::nftables`) |
//!
//! Nothing about it is stored: the kernel's own state says it, so no file can disagree with it.

use crate::desired::state::{IPIP_DEVICE, VXLAN_DEVICE_V4, VXLAN_DEVICE_V6};
use crate::kernel::Route;

use super::DataplaneConfig;

/// The kernel's and the administrators' protocols: `boot` is what `ip route add` writes, and Calico's CNI plugin too.
const PROTOCOL_BOOT: u8 = 3;
/// What Calico's BIRD writes.
const PROTOCOL_BIRD: u8 = 12;
/// What Felix writes for everything but pods.
const PROTOCOL_FELIX: u8 = 80;

/// Tells ours from others'.
#[derive(Clone, Debug)]
pub struct Ownership {
    protocol: u8,
    table: u32,
    adopt_calico: bool,
    interface_prefixes: Vec<String>,
}

impl Ownership {
    /// The rules of a configuration.
    #[must_use]
    pub fn new(config: &DataplaneConfig) -> Self {
        Self {
            protocol: config.protocol,
            table: config.table,
            adopt_calico: config.adopt_calico,
            interface_prefixes: config.interface_prefixes.clone(),
        }
    }

    /// The protocol number on our routes.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// The routing table of our routes.
    #[must_use]
    pub fn table(&self) -> u32 {
        self.table
    }

    /// Whether a route may be replaced and removed by us.
    #[must_use]
    pub fn owns_route(&self, route: &Route) -> bool {
        if route.protocol == self.protocol {
            return true;
        }
        if !self.adopt_calico {
            return false;
        }
        match route.protocol {
            PROTOCOL_BIRD | PROTOCOL_FELIX => true,
            PROTOCOL_BOOT => self.is_pod_route(route) || self.only_by(route, is_our_device),
            _ => false,
        }
    }

    /// Whether a route goes to a pod's interface.
    #[must_use]
    pub fn is_pod_route(&self, route: &Route) -> bool {
        self.only_by(route, |interface| self.is_pod_interface(interface))
    }

    /// Whether an interface is a pod's host end.
    #[must_use]
    pub fn is_pod_interface(&self, interface: &str) -> bool {
        self.interface_prefixes
            .iter()
            .any(|prefix| interface.starts_with(prefix))
    }

    fn only_by(&self, route: &Route, is: impl Fn(&str) -> bool) -> bool {
        !route.next_hops.is_empty()
            && route
                .next_hops
                .iter()
                .all(|hop| hop.interface.as_deref().is_some_and(&is))
    }
}

/// Whether a device is one that we create, change and remove.
#[must_use]
pub fn is_our_device(interface: &str) -> bool {
    matches!(interface, IPIP_DEVICE | VXLAN_DEVICE_V4 | VXLAN_DEVICE_V6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::MARGAY_PROTOCOL;

    fn ownership(adopt_calico: bool) -> Ownership {
        Ownership::new(&DataplaneConfig {
            adopt_calico,
            ..DataplaneConfig::default()
        })
    }

    fn route(protocol: u8, interface: &str) -> Route {
        Route {
            protocol,
            ..Route::device(interface)
        }
    }

    #[test]
    fn a_route_is_ours_by_its_protocol_alone() {
        assert!(ownership(false).owns_route(&route(MARGAY_PROTOCOL, "eth0")));
        assert!(!ownership(false).owns_route(&route(4, "cali123")));
    }

    #[test]
    fn calicos_routes_are_foreign_unless_adopted() {
        for protocol in [PROTOCOL_BIRD, PROTOCOL_FELIX] {
            assert!(!ownership(false).owns_route(&route(protocol, "eth0")));
            assert!(ownership(true).owns_route(&route(protocol, "eth0")));
        }
    }

    #[test]
    fn an_administrators_route_is_never_adopted_but_on_pods_and_our_devices() {
        assert!(!ownership(true).owns_route(&route(PROTOCOL_BOOT, "eth0")));
        assert!(ownership(true).owns_route(&route(PROTOCOL_BOOT, "cali123")));
        assert!(ownership(true).owns_route(&route(PROTOCOL_BOOT, "vxlan.calico")));
        assert!(!ownership(false).owns_route(&route(PROTOCOL_BOOT, "cali123")));
    }
}
