//! BGPConfiguration: `default` for the cluster, `node.<name>` for one node.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use margay_bgp::asn::Asn;
use margay_bgp::prefix::Prefix;
use serde::Deserialize;

use super::bgp_peer::SecretRef;
use super::{AsNumber, Cidr, CommunityText, Fault, GoDuration, Switch, Text};
use crate::model::{
    BgpConfiguration, BindMode, CommunityValue, DEFAULT_AS, Labels, PrefixAdvertisement,
    ProgramClusterRoutes, SecretKeyRef,
};

/// `spec` of a BGPConfiguration.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpConfigurationSpec {
    #[serde(default)]
    log_severity_screen: Text,
    #[serde(default)]
    node_to_node_mesh_enabled: Option<bool>,
    #[serde(default)]
    as_number: Option<AsNumber>,
    #[serde(default)]
    listen_port: Option<u32>,
    #[serde(default)]
    bind_mode: Option<Bind>,
    #[serde(default)]
    node_mesh_password: Option<SecretRef>,
    #[serde(default)]
    node_mesh_max_restart_time: Option<GoDuration>,
    #[serde(default, rename = "serviceClusterIPs")]
    service_cluster_ips: Option<Vec<CidrEntry>>,
    #[serde(default, rename = "serviceExternalIPs")]
    service_external_ips: Option<Vec<CidrEntry>>,
    #[serde(default, rename = "serviceLoadBalancerIPs")]
    service_load_balancer_ips: Option<Vec<CidrEntry>>,
    #[serde(default)]
    service_load_balancer_aggregation: Option<Switch>,
    #[serde(default)]
    communities: Option<Vec<NamedCommunity>>,
    #[serde(default)]
    prefix_advertisements: Option<Vec<Advertisement>>,
    #[serde(default)]
    ignored_interfaces: Option<Vec<String>>,
    #[serde(default, rename = "localWorkloadPeeringIPV4")]
    local_workload_peering_v4: Text,
    #[serde(default, rename = "localWorkloadPeeringIPV6")]
    local_workload_peering_v6: Text,
    #[serde(default)]
    program_cluster_routes: Option<ProgramRoutes>,
    #[serde(default, rename = "ipv4NormalRoutePriority")]
    ipv4_normal_route_priority: Option<u32>,
    #[serde(default, rename = "ipv6NormalRoutePriority")]
    ipv6_normal_route_priority: Option<u32>,
}

/// Fields that count in `node.<name>`; Calico's BGP stack passes over the others.
pub const NODE_FIELDS: [&str; 4] = [
    "listenPort",
    "logSeverityScreen",
    "prefixAdvertisements",
    "communities",
];

#[derive(Clone, Copy, Debug, Deserialize)]
enum Bind {
    #[serde(alias = "")]
    None,
    #[serde(rename = "NodeIP")]
    NodeIp,
}

/// `programClusterRoutes`, also in FelixConfiguration.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum ProgramRoutes {
    Enabled,
    Disabled,
    #[serde(rename = "EnabledIPIPOnly")]
    EnabledIpIpOnly,
    EnabledNoEncapOnly,
}

impl From<ProgramRoutes> for ProgramClusterRoutes {
    fn from(written: ProgramRoutes) -> Self {
        match written {
            ProgramRoutes::Enabled => Self::Enabled,
            ProgramRoutes::Disabled => Self::Disabled,
            ProgramRoutes::EnabledIpIpOnly => Self::EnabledIpIpOnly,
            ProgramRoutes::EnabledNoEncapOnly => Self::EnabledNoEncapOnly,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
struct CidrEntry {
    cidr: Cidr,
}

#[derive(Clone, Debug, Deserialize)]
struct NamedCommunity {
    name: String,
    value: CommunityText,
}

#[derive(Clone, Debug, Deserialize)]
struct Advertisement {
    cidr: Cidr,
    #[serde(default)]
    communities: Option<Vec<String>>,
}

/// Communities of a prefix, some still as names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedAdvertisement {
    cidr: Prefix,
    communities: Vec<String>,
}

/// A BGPConfiguration by itself, before `node.<name>` and `default` are joined.
#[derive(Clone, Debug, PartialEq)]
pub struct PartialBgp {
    /// The fields as if this object stood alone, but for what follows.
    alone: BgpConfiguration,
    has_log_severity: bool,
    listen_port: Option<u16>,
    communities: BTreeMap<String, CommunityValue>,
    advertisements: Option<Vec<NamedAdvertisement>>,
}

const HIGHEST_PRIORITY: u32 = 2_147_483_646;

fn prefixes(entries: Option<Vec<CidrEntry>>) -> Vec<Prefix> {
    entries
        .into_iter()
        .flatten()
        .map(|entry| entry.cidr.prefix)
        .collect()
}

impl BgpConfigurationSpec {
    /// The configuration by itself, or every rule it breaks.
    ///
    /// # Errors
    /// Each fault names its field.
    pub fn check(self, margay: Labels) -> Result<PartialBgp, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut fault = |field: String, reason: String| {
            faults.push(Fault::new(format!("spec.{field}"), reason))
        };
        let listen_port = self.listen_port.and_then(|port| match u16::try_from(port) {
            Ok(port) if port > 0 => Some(port),
            _ => {
                fault(
                    "listenPort".to_owned(),
                    format!("{port} is not between 1 and 65535"),
                );
                None
            }
        });
        let mesh_enabled = self.node_to_node_mesh_enabled.unwrap_or(true);
        let mesh_password = self
            .node_mesh_password
            .and_then(|password| password.check("nodeMeshPassword", &mut fault));
        if !mesh_enabled {
            if mesh_password.is_some() {
                fault(
                    "nodeMeshPassword".to_owned(),
                    "the mesh is off: remove it, or set nodeToNodeMeshEnabled to true".to_owned(),
                );
            }
            if self.node_mesh_max_restart_time.is_some() {
                fault(
                    "nodeMeshMaxRestartTime".to_owned(),
                    "the mesh is off: remove it, or set nodeToNodeMeshEnabled to true".to_owned(),
                );
            }
        }
        let mut communities = BTreeMap::new();
        for (index, NamedCommunity { name, value }) in
            self.communities.into_iter().flatten().enumerate()
        {
            if communities.insert(name.clone(), value.0).is_some() {
                fault(
                    format!("communities[{index}].name"),
                    format!("{name:?} is named twice"),
                );
            }
        }
        for (field, priority) in [
            ("ipv4NormalRoutePriority", self.ipv4_normal_route_priority),
            ("ipv6NormalRoutePriority", self.ipv6_normal_route_priority),
        ] {
            if let Some(priority) =
                priority.filter(|priority| !(1..=HIGHEST_PRIORITY).contains(priority))
            {
                fault(
                    field.to_owned(),
                    format!("{priority} is not between 1 and {HIGHEST_PRIORITY}"),
                );
            }
        }
        let v4 = self.local_workload_peering_v4.0.and_then(|text| {
            text.parse::<Ipv4Addr>()
                .map_err(|_| {
                    fault(
                        "localWorkloadPeeringIPV4".to_owned(),
                        format!("{text:?} is not an IPv4 address"),
                    )
                })
                .ok()
        });
        let v6 = self.local_workload_peering_v6.0.and_then(|text| {
            text.parse::<Ipv6Addr>()
                .map_err(|_| {
                    fault(
                        "localWorkloadPeeringIPV6".to_owned(),
                        format!("{text:?} is not an IPv6 address"),
                    )
                })
                .ok()
        });
        let advertisements = self.prefix_advertisements.map(|list| {
            list.into_iter()
                .map(|entry| NamedAdvertisement {
                    cidr: entry.cidr.prefix,
                    communities: entry.communities.unwrap_or_default(),
                })
                .collect()
        });
        if !faults.is_empty() {
            return Err(faults);
        }
        let has_log_severity = self.log_severity_screen.0.is_some();
        Ok(PartialBgp {
            alone: BgpConfiguration {
                log_severity: self
                    .log_severity_screen
                    .0
                    .unwrap_or_else(|| "Info".to_owned()),
                mesh_enabled,
                asn: self
                    .as_number
                    .and_then(|asn| asn.0)
                    .unwrap_or(Asn(DEFAULT_AS)),
                bind_mode: match self.bind_mode {
                    Some(Bind::NodeIp) => BindMode::NodeIp,
                    None | Some(Bind::None) => BindMode::None,
                },
                mesh_password,
                mesh_max_restart_time: self.node_mesh_max_restart_time.map(|time| time.0),
                service_cluster_ips: prefixes(self.service_cluster_ips),
                service_external_ips: prefixes(self.service_external_ips),
                service_load_balancer_ips: prefixes(self.service_load_balancer_ips),
                load_balancer_aggregation: self.service_load_balancer_aggregation
                    != Some(Switch::Disabled),
                ignored_interfaces: self.ignored_interfaces.unwrap_or_default(),
                local_workload_peering_v4: v4,
                local_workload_peering_v6: v6,
                program_cluster_routes: self.program_cluster_routes.map(Into::into),
                ipv4_normal_route_priority: self.ipv4_normal_route_priority,
                ipv6_normal_route_priority: self.ipv6_normal_route_priority,
                margay,
                ..BgpConfiguration::default()
            },
            has_log_severity,
            listen_port,
            communities,
            advertisements,
        })
    }
}

impl PartialBgp {
    /// `listenPort`, where written.
    #[must_use]
    pub fn listen_port(&self) -> Option<u16> {
        self.listen_port
    }

    /// What holds for a node: `default` overlaid by `node.<name>`. Communities that nobody names are faults, of which object the
    /// second part says; the rest stands.
    #[must_use]
    pub fn join(
        default: Option<&Self>,
        node: Option<&Self>,
    ) -> (BgpConfiguration, Vec<(bool, Fault)>) {
        let mut joined =
            default.map_or_else(BgpConfiguration::default, |default| default.alone.clone());
        if let Some(port) = default.and_then(|default| default.listen_port) {
            joined.listen_port = port;
            joined.cluster_listen_port = port;
        }
        if let Some(node) = node {
            if let Some(port) = node.listen_port {
                joined.listen_port = port;
            }
            if node.has_log_severity {
                joined.log_severity.clone_from(&node.alone.log_severity);
            }
            joined.margay.extend(node.alone.margay.clone());
        }
        let of_node = node.is_some_and(|node| node.advertisements.is_some());
        let source = if of_node { node } else { default };
        let names: BTreeMap<&String, CommunityValue> = default
            .into_iter()
            .chain(node)
            .flat_map(|object| &object.communities)
            .map(|(name, value)| (name, *value))
            .collect();
        let mut faults = Vec::new();
        for (index, advertisement) in source
            .and_then(|source| source.advertisements.as_ref())
            .into_iter()
            .flatten()
            .enumerate()
        {
            let mut communities = Vec::new();
            for (position, written) in advertisement.communities.iter().enumerate() {
                match names.get(written).copied().map_or_else(|| written.parse(), Ok) {
                    Ok(value) => communities.push(value),
                    Err(_) => faults.push((
                        of_node,
                        Fault::new(
                            format!("spec.prefixAdvertisements[{index}].communities[{position}]"),
                            format!("{written:?} is neither a community such as 64512:1 nor a name in spec.communities"),
                        ),
                    )),
                }
            }
            communities.sort_unstable();
            communities.dedup();
            joined.prefix_advertisements.push(PrefixAdvertisement {
                cidr: advertisement.cidr,
                communities,
            });
        }
        (joined, faults)
    }
}

/// Used by the mesh password and by BGPPeer's.
impl SecretRef {
    pub(super) fn check(
        self,
        field: &str,
        fault: &mut impl FnMut(String, String),
    ) -> Option<SecretKeyRef> {
        let reference = self.secret_key_ref?;
        if reference.name.is_empty() || reference.key.is_empty() {
            fault(
                format!("{field}.secretKeyRef"),
                "needs both `name`, the Secret, and `key`, the entry in it".to_owned(),
            );
            return None;
        }
        Some(SecretKeyRef {
            name: reference.name,
            key: reference.key,
            optional: reference.optional.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::read;
    use serde_json::{Value, json};

    fn check(spec: Value) -> Result<PartialBgp, Vec<Fault>> {
        read::<BgpConfigurationSpec>(&spec, "spec")
            .map_err(|fault| vec![fault])?
            .check(Labels::new())
    }

    #[test]
    fn nothing_written_is_calicos_default() {
        let (joined, faults) = PartialBgp::join(Some(&check(json!({})).unwrap()), None);
        assert_eq!((joined, faults), (BgpConfiguration::default(), Vec::new()));
    }

    #[test]
    fn the_node_overrides_only_what_it_may() {
        let default = check(json!({"listenPort": 1179, "asNumber": "64999", "communities": [{"name": "up", "value": "1:2"}],
            "prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["up", "3:4:5"]}]})).unwrap();
        let node =
            check(json!({"listenPort": 2179, "asNumber": 1, "nodeToNodeMeshEnabled": false}))
                .unwrap();
        let (joined, faults) = PartialBgp::join(Some(&default), Some(&node));
        assert_eq!(faults, []);
        assert_eq!(
            (
                joined.listen_port,
                joined.cluster_listen_port,
                joined.asn,
                joined.mesh_enabled
            ),
            (2179, 1179, Asn(64999), true)
        );
        assert_eq!(
            joined.prefix_advertisements[0].communities,
            [
                CommunityValue::Standard(1, 2),
                CommunityValue::Large(3, 4, 5)
            ]
        );
        let node = check(
            json!({"prefixAdvertisements": [{"cidr": "10.1.0.0/16", "communities": ["up"]}]}),
        )
        .unwrap();
        let (joined, _) = PartialBgp::join(Some(&default), Some(&node));
        assert_eq!(joined.prefix_advertisements.len(), 1);
        assert_eq!(
            joined.prefix_advertisements[0].cidr,
            "10.1.0.0/16".parse().unwrap()
        );
    }

    #[test]
    fn names_nobody_defines_are_faults_and_the_rest_stands() {
        let default = check(json!({"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["down", "1:2"]}]})).unwrap();
        let (joined, faults) = PartialBgp::join(Some(&default), None);
        assert_eq!(
            faults[0].1.field.as_deref(),
            Some("spec.prefixAdvertisements[0].communities[0]")
        );
        assert_eq!(
            joined.prefix_advertisements[0].communities,
            [CommunityValue::Standard(1, 2)]
        );
    }

    #[test]
    fn faults_name_their_fields() {
        for (spec, field) in [
            (json!({"asNumber": "x"}), "spec.asNumber"),
            (json!({"listenPort": 0}), "spec.listenPort"),
            (json!({"listenPort": 65536}), "spec.listenPort"),
            (json!({"bindMode": "nodeip"}), "spec.bindMode"),
            (
                json!({"serviceClusterIPs": [{"cidr": "x"}]}),
                "spec.serviceClusterIPs[0].cidr",
            ),
            (
                json!({"communities": [{"name": "a", "value": "1"}]}),
                "spec.communities[0].value",
            ),
            (
                json!({"nodeToNodeMeshEnabled": false, "nodeMeshMaxRestartTime": "1m"}),
                "spec.nodeMeshMaxRestartTime",
            ),
            (
                json!({"nodeMeshPassword": {"secretKeyRef": {"name": "s"}}}),
                "spec.nodeMeshPassword.secretKeyRef",
            ),
            (
                json!({"ipv4NormalRoutePriority": 0}),
                "spec.ipv4NormalRoutePriority",
            ),
            (
                json!({"localWorkloadPeeringIPV4": "fd00::1"}),
                "spec.localWorkloadPeeringIPV4",
            ),
        ] {
            let faults = check(spec).unwrap_err();
            assert_eq!(faults[0].field.as_deref(), Some(field), "{faults:?}");
        }
    }
}
