//! FelixConfiguration: `default`, `node.<name>`, and any other name with a node selector.
//!
//! Felix falls back to the default of a field whose value it cannot use, so every field is read by itself: a typing error in one
//! does not undo the others. Objects are joined field by field; the most specific one that sets a field decides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::bgp_configuration::ProgramRoutes;
use super::{Cidr, Fault, GoDuration, SelectorText, Text, read};
use crate::model::{FelixConfiguration, NatExclusions, Selector, ServiceLoopPrevention};

/// The fields of `spec` that mean something to margay; Felix has many more.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FelixConfigurationSpec {
    node_selector: Option<SelectorText>,
    ipip_enabled: Option<bool>,
    vxlan_enabled: Option<bool>,
    #[serde(rename = "ipipMTU")]
    ipip_mtu: Option<u32>,
    #[serde(rename = "vxlanMTU")]
    vxlan_mtu: Option<u32>,
    #[serde(rename = "vxlanMTUV6")]
    vxlan_mtu_v6: Option<u32>,
    vxlan_port: Option<u16>,
    #[serde(rename = "vxlanVNI")]
    vxlan_vni: Option<Vni>,
    mtu_iface_pattern: Option<Pattern>,
    route_refresh_interval: Option<GoDuration>,
    interface_refresh_interval: Option<GoDuration>,
    iptables_refresh_interval: Option<GoDuration>,
    nftables_refresh_interval: Option<GoDuration>,
    netlink_timeout: Option<GoDuration>,
    interface_prefix: Text,
    interface_exclude: Text,
    ip_forwarding: Option<OnOff>,
    ipv6_support: Option<bool>,
    remove_external_routes: Option<bool>,
    route_sync_disabled: Option<bool>,
    device_route_source_address: Option<Ipv4Addr>,
    #[serde(rename = "deviceRouteSourceAddressIPv6")]
    device_route_source_address_v6: Option<Ipv6Addr>,
    #[serde(rename = "ipv4NormalRoutePriority")]
    ipv4_normal_route_priority: Option<Priority>,
    #[serde(rename = "ipv6NormalRoutePriority")]
    ipv6_normal_route_priority: Option<Priority>,
    program_cluster_routes: Option<ProgramRoutes>,
    external_nodes_list: Option<Vec<Cidr>>,
    nat_port_range: Option<PortRange>,
    nat_outgoing_address: Option<Ipv4Addr>,
    nat_outgoing_exclusions: Option<Exclusions>,
    #[serde(rename = "iptablesNATOutgoingInterfaceFilter")]
    nat_outgoing_interface: Text,
    service_loop_prevention: Option<LoopPrevention>,
    #[serde(rename = "allowVXLANPacketsFromWorkloads")]
    allow_vxlan_from_workloads: Option<bool>,
    #[serde(rename = "allowIPIPPacketsFromWorkloads")]
    allow_ipip_from_workloads: Option<bool>,
    health_enabled: Option<bool>,
    health_host: Text,
    health_port: Option<u16>,
    prometheus_metrics_enabled: Option<bool>,
    prometheus_metrics_host: Option<Host>,
    prometheus_metrics_port: Option<u16>,
    log_severity_screen: Text,
    dataplane_watchdog_timeout: Option<GoDuration>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "u32")]
struct Vni(u32);

impl TryFrom<u32> for Vni {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        if (1..1 << 24).contains(&number) {
            Ok(Self(number))
        } else {
            Err(format!("{number} is not between 1 and 16777215"))
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "u32")]
struct Priority(u32);

impl TryFrom<u32> for Priority {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        if (1..=2_147_483_646).contains(&number) {
            Ok(Self(number))
        } else {
            Err(format!("{number} is not between 1 and 2147483646"))
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Pattern(String);

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match Regex::new(&text) {
            Ok(_) => Ok(Self(text)),
            Err(error) => Err(format!("{text:?} is not a regular expression: {error}")),
        }
    }
}

/// `0.0.0.0` and the empty text both mean every address.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Host(Option<IpAddr>);

impl TryFrom<String> for Host {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "" => Ok(Self(None)),
            "localhost" => Ok(Self(Some(IpAddr::V4(Ipv4Addr::LOCALHOST)))),
            _ => text
                .parse()
                .map(|address| Self(Some(address)))
                .map_err(|_| format!("{text:?} is not an address")),
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum OnOff {
    Enabled,
    Disabled,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Exclusions {
    #[serde(rename = "IPPoolsOnly")]
    PoolsOnly,
    #[serde(rename = "IPPoolsAndHostIPs")]
    PoolsAndHosts,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum LoopPrevention {
    Drop,
    Reject,
    Disabled,
}

/// `min:max`, or one port as a number or text.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Value")]
struct PortRange(u16, u16);

impl TryFrom<Value> for PortRange {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        let (least, most) = text.split_once(':').unwrap_or((&text, &text));
        match (least.trim().parse(), most.trim().parse()) {
            (Ok(least), Ok(most)) if 0 < least && least <= most => Ok(Self(least, most)),
            _ => Err(format!(
                "{text:?} is not a range of ports such as \"32768:60999\""
            )),
        }
    }
}

/// Fields Felix acts on and margay does not, with the values that ask for nothing.
const WITHOUT_EFFECT: [(&str, &[&str], &str); 8] = [
    (
        "bpfEnabled",
        &["false"],
        "margay has no eBPF data plane: packets take the kernel's own path",
    ),
    (
        "wireguardEnabled",
        &["false"],
        "packets between nodes are not encrypted",
    ),
    (
        "wireguardEnabledV6",
        &["false"],
        "packets between nodes are not encrypted",
    ),
    (
        "deviceRouteProtocol",
        &[],
        "margay marks its routes with its own protocol number",
    ),
    (
        "floatingIPs",
        &["\"Disabled\""],
        "floating addresses are not translated",
    ),
    (
        "localSubnetL2Reachability",
        &["\"Disabled\""],
        "pod addresses are not answered for on the node's own network",
    ),
    (
        "workloadSourceSpoofing",
        &["\"Disabled\""],
        "allowedSourcePrefixes of pods are not read",
    ),
    (
        "routeSource",
        &["\"CalicoIPAM\""],
        "remote routes come from blocks",
    ),
];

/// One FelixConfiguration, its bad fields left out.
#[derive(Clone, Debug, PartialEq)]
pub struct PartialFelix {
    /// The nodes it is for, where it is neither `default` nor `node.<name>`.
    pub selector: Option<Selector>,
    fields: Map<String, Value>,
}

/// Reads an object: what can be used of it, what is wrong with the rest, and which fields have no effect.
#[must_use]
pub fn read_felix(object: &Value) -> (PartialFelix, Vec<Fault>, Vec<(String, &'static str)>) {
    let mut faults = Vec::new();
    let mut fields = Map::new();
    match object.get("spec") {
        None | Some(Value::Null) => {}
        Some(Value::Object(spec)) => {
            for (key, value) in spec {
                // `none` stands for the zero value of any field, which is what leaving it out gives.
                if value.is_null()
                    || value
                        .as_str()
                        .is_some_and(|text| text.eq_ignore_ascii_case("none"))
                {
                    continue;
                }
                let alone = Value::Object(Map::from_iter([(key.clone(), value.clone())]));
                match read::<FelixConfigurationSpec>(&alone, "spec") {
                    Ok(_) => {
                        fields.insert(key.clone(), value.clone());
                    }
                    Err(fault) => faults.push(Fault {
                        reason: format!("{}; the default is used", fault.reason),
                        ..fault
                    }),
                }
            }
        }
        Some(_) => faults.push(Fault::new("spec", "is not a map")),
    }
    let idle = WITHOUT_EFFECT
        .iter()
        .filter(|(field, harmless, _)| {
            fields
                .get(*field)
                .is_some_and(|value| !harmless.contains(&value.to_string().as_str()))
        })
        .map(|(field, _, reason)| (format!("spec.{field}"), *reason))
        .collect();
    let selector = fields
        .get("nodeSelector")
        .and_then(Value::as_str)
        .and_then(|text| Selector::parse(text).ok());
    (PartialFelix { selector, fields }, faults, idle)
}

/// What holds for a node: objects in order of rising precedence, joined field by field.
#[must_use]
pub fn join<'a>(objects: impl Iterator<Item = &'a PartialFelix>) -> FelixConfiguration {
    let mut fields = Map::new();
    for object in objects {
        fields.extend(object.fields.clone());
    }
    // Every field has been read by itself before.
    let spec: FelixConfigurationSpec = read(&Value::Object(fields), "spec").unwrap_or_default();
    spec.over(FelixConfiguration::default())
}

/// Zero turns an interval off.
fn interval(written: Option<GoDuration>, default: Option<Duration>) -> Option<Duration> {
    written.map_or(default, |time| Some(time.0).filter(|time| !time.is_zero()))
}

fn names(written: Text, default: Vec<String>) -> Vec<String> {
    written.0.map_or(default, |text| {
        text.split(',')
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .collect()
    })
}

/// Zero stands for "computed".
fn mtu(written: Option<u32>) -> Option<u32> {
    written.filter(|mtu| *mtu > 0)
}

impl FelixConfigurationSpec {
    fn over(self, default: FelixConfiguration) -> FelixConfiguration {
        FelixConfiguration {
            ipip_enabled: self.ipip_enabled,
            vxlan_enabled: self.vxlan_enabled,
            ipip_mtu: mtu(self.ipip_mtu),
            vxlan_mtu: mtu(self.vxlan_mtu),
            vxlan_mtu_v6: mtu(self.vxlan_mtu_v6),
            vxlan_port: self.vxlan_port.unwrap_or(default.vxlan_port),
            vxlan_vni: self.vxlan_vni.map_or(default.vxlan_vni, |vni| vni.0),
            mtu_iface_pattern: self
                .mtu_iface_pattern
                .map_or(default.mtu_iface_pattern, |pattern| pattern.0),
            route_refresh_interval: interval(
                self.route_refresh_interval,
                default.route_refresh_interval,
            ),
            interface_refresh_interval: interval(
                self.interface_refresh_interval,
                default.interface_refresh_interval,
            ),
            nftables_refresh_interval: interval(
                self.nftables_refresh_interval
                    .or(self.iptables_refresh_interval),
                default.nftables_refresh_interval,
            ),
            netlink_timeout: self
                .netlink_timeout
                .map(|time| time.0)
                .filter(|time| !time.is_zero())
                .unwrap_or(default.netlink_timeout),
            interface_prefixes: names(self.interface_prefix, default.interface_prefixes),
            interface_exclude: names(self.interface_exclude, default.interface_exclude),
            ip_forwarding: !matches!(self.ip_forwarding, Some(OnOff::Disabled)),
            ipv6_support: self.ipv6_support.unwrap_or(default.ipv6_support),
            remove_external_routes: self
                .remove_external_routes
                .unwrap_or(default.remove_external_routes),
            route_sync_disabled: self
                .route_sync_disabled
                .unwrap_or(default.route_sync_disabled),
            device_route_source_address: self.device_route_source_address,
            device_route_source_address_v6: self.device_route_source_address_v6,
            ipv4_normal_route_priority: self
                .ipv4_normal_route_priority
                .map_or(default.ipv4_normal_route_priority, |priority| priority.0),
            ipv6_normal_route_priority: self
                .ipv6_normal_route_priority
                .map_or(default.ipv6_normal_route_priority, |priority| priority.0),
            program_cluster_routes: self.program_cluster_routes.map(Into::into),
            external_nodes: self
                .external_nodes_list
                .into_iter()
                .flatten()
                .map(|cidr| cidr.prefix)
                .collect(),
            nat_port_range: self
                .nat_port_range
                .map(|PortRange(least, most)| (least, most)),
            nat_outgoing_address: self.nat_outgoing_address,
            nat_outgoing_exclusions: match self.nat_outgoing_exclusions {
                Some(Exclusions::PoolsAndHosts) => NatExclusions::IpPoolsAndHostIps,
                None | Some(Exclusions::PoolsOnly) => NatExclusions::IpPoolsOnly,
            },
            nat_outgoing_interface: self.nat_outgoing_interface.0,
            service_loop_prevention: match self.service_loop_prevention {
                None | Some(LoopPrevention::Drop) => ServiceLoopPrevention::Drop,
                Some(LoopPrevention::Reject) => ServiceLoopPrevention::Reject,
                Some(LoopPrevention::Disabled) => ServiceLoopPrevention::Disabled,
            },
            allow_vxlan_from_workloads: self.allow_vxlan_from_workloads.unwrap_or_default(),
            allow_ipip_from_workloads: self.allow_ipip_from_workloads.unwrap_or_default(),
            health_enabled: self.health_enabled.unwrap_or(default.health_enabled),
            health_host: self.health_host.0.unwrap_or(default.health_host),
            health_port: self.health_port.unwrap_or(default.health_port),
            metrics_enabled: self
                .prometheus_metrics_enabled
                .unwrap_or(default.metrics_enabled),
            metrics_host: self.prometheus_metrics_host.and_then(|host| host.0),
            metrics_port: self.prometheus_metrics_port.unwrap_or(default.metrics_port),
            log_severity: self.log_severity_screen.0.unwrap_or(default.log_severity),
            watchdog_timeout: self
                .dataplane_watchdog_timeout
                .map_or(default.watchdog_timeout, |time| time.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn partial(spec: Value) -> PartialFelix {
        let (partial, faults, _) = read_felix(&json!({"spec": spec}));
        assert_eq!(faults, []);
        partial
    }

    #[test]
    fn nothing_written_is_the_default() {
        assert_eq!(
            join([partial(json!({}))].iter()),
            FelixConfiguration::default()
        );
    }

    #[test]
    fn the_more_specific_object_decides_field_by_field() {
        let joined = join(
            [
                partial(json!({"vxlanPort": 1, "vxlanVNI": 2, "healthEnabled": false})),
                partial(json!({"vxlanPort": 3})),
            ]
            .iter(),
        );
        assert_eq!(
            (joined.vxlan_port, joined.vxlan_vni, joined.health_enabled),
            (3, 2, false)
        );
    }

    #[test]
    fn a_bad_field_falls_back_and_spares_the_others() {
        let (partial, faults, _) = read_felix(&json!({"spec": {
            "vxlanVNI": 16_777_216, "vxlanPort": 4790, "routeRefreshInterval": "soon", "mtuIfacePattern": "(",
            "natPortRange": "9:1", "ipForwarding": "on", "prometheusMetricsHost": "?",
        }}));
        let mut fields: Vec<_> = faults
            .iter()
            .filter_map(|fault| fault.field.as_deref())
            .collect();
        fields.sort_unstable();
        assert_eq!(
            fields,
            [
                "spec.ipForwarding",
                "spec.mtuIfacePattern",
                "spec.natPortRange",
                "spec.prometheusMetricsHost",
                "spec.routeRefreshInterval",
                "spec.vxlanVNI"
            ]
        );
        let joined = join([partial].iter());
        assert_eq!((joined.vxlan_port, joined.vxlan_vni), (4790, 4096));
    }

    #[test]
    fn values_mean_what_felix_says() {
        let joined = join(
            [partial(json!({
                "routeRefreshInterval": "0s", "iptablesRefreshInterval": "60s", "ipipMTU": 0, "vxlanMTU": 1400, "interfacePrefix": "cali, eni",
                "interfaceExclude": "kube-ipvs0,/^x/", "natPortRange": "1000:2000", "externalNodesList": ["10.0.0.1", "10.1.0.0/16"],
                "natOutgoingExclusions": "IPPoolsAndHostIPs", "prometheusMetricsHost": "", "logSeverityScreen": "none",
            }))]
            .iter(),
        );
        assert_eq!(joined.route_refresh_interval, None);
        assert_eq!(
            joined.nftables_refresh_interval,
            Some(Duration::from_secs(60))
        );
        assert_eq!((joined.ipip_mtu, joined.vxlan_mtu), (None, Some(1400)));
        assert_eq!(joined.interface_prefixes, ["cali", "eni"]);
        assert_eq!(joined.interface_exclude, ["kube-ipvs0", "/^x/"]);
        assert_eq!(joined.nat_port_range, Some((1000, 2000)));
        assert_eq!(joined.external_nodes.len(), 2);
        assert_eq!(
            joined.nat_outgoing_exclusions,
            NatExclusions::IpPoolsAndHostIps
        );
    }

    #[test]
    fn fields_without_effect_are_named_only_where_they_ask_for_something() {
        let (_, _, idle) = read_felix(
            &json!({"spec": {"bpfEnabled": false, "floatingIPs": "Disabled", "wireguardEnabled": true}}),
        );
        assert_eq!(idle.len(), 1);
        assert_eq!(idle[0].0, "spec.wireguardEnabled");
    }

    #[test]
    fn a_selector_is_read() {
        assert!(
            partial(json!({"nodeSelector": "has(gpu)"}))
                .selector
                .is_some()
        );
        assert!(partial(json!({})).selector.is_none());
    }
}
