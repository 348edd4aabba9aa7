//! Settings of BGP for the whole cluster or one node.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use margay_bgp::asn::Asn;
use margay_bgp::prefix::Prefix;

use super::{Labels, SecretKeyRef};

/// The AS of a cluster that names none.
pub const DEFAULT_AS: u32 = 64512;
/// BGP's registered port.
pub const DEFAULT_BGP_PORT: u16 = 179;
/// Kernel metric Calico gives a pod's route.
pub const NORMAL_ROUTE_PRIORITY: u32 = 1024;

/// Where the speaker listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BindMode {
    /// On every address.
    #[default]
    None,
    /// On the node's BGP address alone.
    NodeIp,
}

/// `programClusterRoutes`: which routes of pods on other nodes a component may write. Margay is one component and writes them all;
/// the values are kept so that a mixed cluster can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProgramClusterRoutes {
    /// All but VXLAN's.
    Enabled,
    /// None.
    Disabled,
    /// Those of IP-in-IP pools.
    EnabledIpIpOnly,
    /// Those of pools without encapsulation.
    EnabledNoEncapOnly,
}

/// A standard (`aa:nn`) or large (`aa:nn:mm`) community.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CommunityValue {
    /// RFC 1997: AS and value.
    Standard(u16, u16),
    /// RFC 8092: global administrator and two local parts.
    Large(u32, u32, u32),
}

impl fmt::Display for CommunityValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(asn, value) => write!(f, "{asn}:{value}"),
            Self::Large(asn, first, second) => write!(f, "{asn}:{first}:{second}"),
        }
    }
}

/// The text is not a community.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a community: write `aa:nn` with parts up to 65535, or `aa:nn:mm` with parts up to 4294967295"
)]
pub struct NotACommunity(pub String);

impl FromStr for CommunityValue {
    type Err = NotACommunity;

    fn from_str(text: &str) -> Result<Self, NotACommunity> {
        let wrong = || NotACommunity(text.to_owned());
        let parts: Vec<&str> = text.split(':').collect();
        // `u32::from_str` admits a leading plus sign; a community does not.
        if parts
            .iter()
            .any(|part| part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()))
        {
            return Err(wrong());
        }
        match parts.as_slice() {
            [asn, value] => Ok(Self::Standard(
                asn.parse().map_err(|_| wrong())?,
                value.parse().map_err(|_| wrong())?,
            )),
            [asn, first, second] => Ok(Self::Large(
                asn.parse().map_err(|_| wrong())?,
                first.parse().map_err(|_| wrong())?,
                second.parse().map_err(|_| wrong())?,
            )),
            _ => Err(wrong()),
        }
    }
}

/// Communities given to what is told to peers inside a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixAdvertisement {
    /// The range; everything inside it is meant.
    pub cidr: Prefix,
    /// Values, names already resolved, sorted.
    pub communities: Vec<CommunityValue>,
}

/// BGPConfiguration `default` with what `node.<name>` overrides.
#[derive(Clone, Debug, PartialEq)]
pub struct BgpConfiguration {
    /// `logSeverityScreen`, as written.
    pub log_severity: String,
    /// Every node that is no route reflector peers with every other.
    pub mesh_enabled: bool,
    /// The cluster's AS.
    pub asn: Asn,
    /// Port this node listens on; other nodes' ports are in [`super::Node::listen_port`] or [`cluster_listen_port`](Self::cluster_listen_port).
    pub listen_port: u16,
    /// Port of nodes that have none of their own.
    pub cluster_listen_port: u16,
    /// Which addresses are listened on.
    pub bind_mode: BindMode,
    /// TCP-MD5 key of mesh sessions.
    pub mesh_password: Option<SecretKeyRef>,
    /// Restart time told to mesh peers.
    pub mesh_max_restart_time: Option<Duration>,
    /// Service ranges every node advertises.
    pub service_cluster_ips: Vec<Prefix>,
    /// External IPs of Services that may be advertised.
    pub service_external_ips: Vec<Prefix>,
    /// LoadBalancer IPs of Services that may be advertised.
    pub service_load_balancer_ips: Vec<Prefix>,
    /// LoadBalancer ranges are advertised whole, not address by address.
    pub load_balancer_aggregation: bool,
    /// Communities added on export. Those of `node.<name>` replace the cluster's.
    pub prefix_advertisements: Vec<PrefixAdvertisement>,
    /// Globs of interfaces whose addresses are not advertised.
    pub ignored_interfaces: Vec<String>,
    /// Address pods use to peer with their node.
    pub local_workload_peering_v4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub local_workload_peering_v6: Option<Ipv6Addr>,
    /// As written; see [`ProgramClusterRoutes`].
    pub program_cluster_routes: Option<ProgramClusterRoutes>,
    /// Set: metric and LOCAL_PREF of routes follow Calico's priorities. Absent: LOCAL_PREF is 100.
    pub ipv4_normal_route_priority: Option<u32>,
    /// The same for IPv6.
    pub ipv6_normal_route_priority: Option<u32>,
    /// `margay.io/<field>` annotations, keyed by `<field>`; the node's over the cluster's.
    pub margay: Labels,
}

impl Default for BgpConfiguration {
    fn default() -> Self {
        Self {
            log_severity: "Info".to_owned(),
            mesh_enabled: true,
            asn: Asn(DEFAULT_AS),
            listen_port: DEFAULT_BGP_PORT,
            cluster_listen_port: DEFAULT_BGP_PORT,
            bind_mode: BindMode::None,
            mesh_password: None,
            mesh_max_restart_time: None,
            service_cluster_ips: Vec::new(),
            service_external_ips: Vec::new(),
            service_load_balancer_ips: Vec::new(),
            load_balancer_aggregation: true,
            prefix_advertisements: Vec::new(),
            ignored_interfaces: Vec::new(),
            local_workload_peering_v4: None,
            local_workload_peering_v6: None,
            program_cluster_routes: None,
            ipv4_normal_route_priority: None,
            ipv6_normal_route_priority: None,
            margay: Labels::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_of_two_and_three_parts_parse_and_print_alike() {
        assert_eq!("64512:1".parse(), Ok(CommunityValue::Standard(64512, 1)));
        assert_eq!(
            "4200000000:1:2".parse(),
            Ok(CommunityValue::Large(4_200_000_000, 1, 2))
        );
        assert_eq!(CommunityValue::Large(1, 2, 3).to_string(), "1:2:3");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "1",
            "65536:1",
            "1:65536",
            "1:2:3:4",
            "+1:2",
            "1:",
            "a:b",
            "1:2:4294967296",
        ] {
            assert!(text.parse::<CommunityValue>().is_err(), "{text}");
        }
    }
}
