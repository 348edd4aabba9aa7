//! FelixConfiguration: the fields that mean something to margay, with Calico's defaults.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use margay_bgp::prefix::Prefix;

use super::{NORMAL_ROUTE_PRIORITY, ProgramClusterRoutes};

/// Destinations that outgoing NAT leaves alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NatExclusions {
    /// Addresses of pools.
    #[default]
    IpPoolsOnly,
    /// Addresses of pools and of nodes.
    IpPoolsAndHostIps,
}

/// What happens to a packet for a Service range that no Service answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ServiceLoopPrevention {
    /// Dropped.
    #[default]
    Drop,
    /// Answered with an ICMP error.
    Reject,
    /// Routed, and may loop.
    Disabled,
}

/// Settings of the data plane for this node.
#[derive(Clone, Debug, PartialEq)]
pub struct FelixConfiguration {
    /// Whether `tunl0` exists; absent: as the pools need it.
    pub ipip_enabled: Option<bool>,
    /// Whether `vxlan.calico` exists; absent: as the pools need it.
    pub vxlan_enabled: Option<bool>,
    /// MTU of `tunl0`; absent: computed.
    pub ipip_mtu: Option<u32>,
    /// MTU of `vxlan.calico`; absent: computed.
    pub vxlan_mtu: Option<u32>,
    /// MTU of `vxlan-v6.calico`; absent: computed.
    pub vxlan_mtu_v6: Option<u32>,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// VXLAN network identifier, 24 bits.
    pub vxlan_vni: u32,
    /// Regular expression of host interfaces that count for the MTU.
    pub mtu_iface_pattern: String,
    /// Time between full audits of routes; absent: no audits.
    pub route_refresh_interval: Option<Duration>,
    /// Time between full rescans of interfaces; absent: none.
    pub interface_refresh_interval: Option<Duration>,
    /// Time between full audits of nftables; absent: none.
    pub nftables_refresh_interval: Option<Duration>,
    /// How long a netlink answer may take.
    pub netlink_timeout: Duration,
    /// Prefixes of the names of pods' host interfaces.
    pub interface_prefixes: Vec<String>,
    /// Interfaces whose addresses are not looked at; an entry between slashes is a regular expression.
    pub interface_exclude: Vec<String>,
    /// Set the forwarding sysctls.
    pub ip_forwarding: bool,
    /// Do IPv6 at all.
    pub ipv6_support: bool,
    /// Foreign routes on pods' interfaces are removed.
    pub remove_external_routes: bool,
    /// No route is programmed at all.
    pub route_sync_disabled: bool,
    /// Source hint of pods' IPv4 routes.
    pub device_route_source_address: Option<Ipv4Addr>,
    /// Source hint of pods' IPv6 routes.
    pub device_route_source_address_v6: Option<Ipv6Addr>,
    /// Metric of IPv4 pod routes, as written.
    pub ipv4_normal_route_priority: u32,
    /// Metric of IPv6 pod routes, as written.
    pub ipv6_normal_route_priority: u32,
    /// As written; see [`ProgramClusterRoutes`].
    pub program_cluster_routes: Option<ProgramClusterRoutes>,
    /// Hosts beside the nodes that tunnel packets are accepted from.
    pub external_nodes: Vec<Prefix>,
    /// Ports outgoing NAT may use.
    pub nat_port_range: Option<(u16, u16)>,
    /// Outgoing NAT uses this address instead of the interface's.
    pub nat_outgoing_address: Option<Ipv4Addr>,
    /// What outgoing NAT leaves alone.
    pub nat_outgoing_exclusions: NatExclusions,
    /// Outgoing NAT only on this interface.
    pub nat_outgoing_interface: Option<String>,
    /// What happens to packets for Services that do not exist.
    pub service_loop_prevention: ServiceLoopPrevention,
    /// Pods may send VXLAN packets themselves.
    pub allow_vxlan_from_workloads: bool,
    /// Pods may send IP-in-IP packets themselves.
    pub allow_ipip_from_workloads: bool,
    /// Serve `/livez` and `/readyz`. Unlike Calico's, on unless written otherwise.
    pub health_enabled: bool,
    /// Address or name the health port is bound to.
    pub health_host: String,
    /// The health port.
    pub health_port: u16,
    /// Serve `/metrics`. Unlike Calico's, on unless written otherwise.
    pub metrics_enabled: bool,
    /// Address the metrics port is bound to; absent: all.
    pub metrics_host: Option<IpAddr>,
    /// The metrics port.
    pub metrics_port: u16,
    /// `logSeverityScreen`, as written.
    pub log_severity: String,
    /// How long the main loop may be silent before it counts as dead.
    pub watchdog_timeout: Duration,
}

impl Default for FelixConfiguration {
    fn default() -> Self {
        Self {
            ipip_enabled: None,
            vxlan_enabled: None,
            ipip_mtu: None,
            vxlan_mtu: None,
            vxlan_mtu_v6: None,
            vxlan_port: 4789,
            vxlan_vni: 4096,
            mtu_iface_pattern: "^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)".to_owned(),
            route_refresh_interval: Some(Duration::from_secs(90)),
            interface_refresh_interval: Some(Duration::from_secs(90)),
            nftables_refresh_interval: Some(Duration::from_secs(180)),
            netlink_timeout: Duration::from_secs(10),
            interface_prefixes: vec!["cali".to_owned()],
            interface_exclude: vec!["kube-ipvs0".to_owned()],
            ip_forwarding: true,
            ipv6_support: true,
            remove_external_routes: true,
            route_sync_disabled: false,
            device_route_source_address: None,
            device_route_source_address_v6: None,
            ipv4_normal_route_priority: NORMAL_ROUTE_PRIORITY,
            ipv6_normal_route_priority: NORMAL_ROUTE_PRIORITY,
            program_cluster_routes: None,
            external_nodes: Vec::new(),
            nat_port_range: None,
            nat_outgoing_address: None,
            nat_outgoing_exclusions: NatExclusions::IpPoolsOnly,
            nat_outgoing_interface: None,
            service_loop_prevention: ServiceLoopPrevention::Drop,
            allow_vxlan_from_workloads: false,
            allow_ipip_from_workloads: false,
            health_enabled: true,
            health_host: "localhost".to_owned(),
            health_port: 9099,
            metrics_enabled: true,
            metrics_host: None,
            metrics_port: 9091,
            log_severity: "Info".to_owned(),
            watchdog_timeout: Duration::from_secs(90),
        }
    }
}
