//! The Container Network Interface as types: environment, network configuration, results and errors.
//!
//! Specification versions 0.1.0 to 1.1.0. What a version lacks is left out of its results: `interfaces` came with
//! 0.3.0, the `version` of an address went with 1.0.0, `mtu` of an interface came with 1.1.0.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha1::{Digest, Sha1};

use crate::protocol::AttachmentId;

/// Every version of the specification that this plugin speaks, oldest first.
pub const SUPPORTED_VERSIONS: &[&str] = &[
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// What an empty or absent `cniVersion` means (the specification's rule for the first version's configurations).
pub const DEFAULT_VERSION: &str = "0.1.0";

/// The gateway of every pod's IPv4 default route; the host answers for it by proxy ARP.
pub const IPV4_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The MAC address of every host end, so that a pod's neighbour entry stays right when the host end is replaced.
pub const HOST_MAC: [u8; 6] = [0xee; 6];

/// The link-local address that the kernel derives from [`HOST_MAC`] (EUI-64): the pods' IPv6 gateway.
pub const IPV6_GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

/// Error codes of the specification (1 to 99) and this plugin's own (from 100).
pub mod code {
    /// The configuration's version is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration is not supported.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// An environment variable is missing or wrong.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO_FAILURE: u32 = 5;
    /// The bytes on standard input are not JSON of the expected shape.
    pub const DECODING_FAILURE: u32 = 6;
    /// The configuration is well-formed and wrong.
    pub const INVALID_CONFIG: u32 = 7;
    /// Nothing is broken; the runtime should ask again later.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: the plugin cannot serve ADD now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: the plugin cannot serve ADD now, and existing containers may have limited connectivity.
    pub const LIMITED_CONNECTIVITY: u32 = 51;
    /// No address is left.
    pub const NO_ADDRESS: u32 = 100;
    /// The container's interface exists already.
    pub const INTERFACE_EXISTS: u32 = 101;
    /// The kernel refused a step of the plumbing.
    pub const PLUMBING_FAILED: u32 = 102;
    /// CHECK found a difference.
    pub const CHECK_FAILED: u32 = 103;
    /// The container's network namespace is missing or is none.
    pub const NO_NAMESPACE: u32 = 104;
    /// The daemon could not do what it was asked.
    pub const DAEMON_FAILED: u32 = 105;
}

/// An error as the runtime prints it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{msg}{}{details}", if .details.is_empty() { "" } else { ": " })]
pub struct CniError {
    /// One of [`code`].
    pub code: u32,
    /// What failed.
    pub msg: String,
    /// Why.
    pub details: String,
}

impl CniError {
    /// An error with its reason.
    pub fn new(code: u32, msg: impl Into<String>, details: impl fmt::Display) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: details.to_string(),
        }
    }

    /// The error as the specification writes it.
    #[must_use]
    pub fn to_json(&self, version: &str) -> Value {
        json!({ "cniVersion": version, "code": self.code, "msg": self.msg, "details": self.details })
    }
}

/// `ipam` of the network configuration; Calico writes its booleans as strings.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct IpamConfig {
    /// Accepted and not used: the daemon does the IPAM. Kept so that a Calico configuration can be reused.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// Whether to assign an IPv4 address; absent: yes.
    #[serde(default)]
    assign_ipv4: Option<Flag>,
    /// Whether to assign an IPv6 address; absent: no.
    #[serde(default)]
    assign_ipv6: Option<Flag>,
    /// Names or CIDRs of the IPv4 pools to use.
    #[serde(default)]
    pub ipv4_pools: Vec<String>,
    /// Names or CIDRs of the IPv6 pools to use.
    #[serde(default)]
    pub ipv6_pools: Vec<String>,
}

impl IpamConfig {
    /// Whether to assign an IPv4 address.
    #[must_use]
    pub fn assign_ipv4(&self) -> bool {
        self.assign_ipv4.is_none_or(|f| f.0)
    }

    /// Whether to assign an IPv6 address.
    #[must_use]
    pub fn assign_ipv6(&self) -> bool {
        self.assign_ipv6.is_some_and(|f| f.0)
    }
}

/// A boolean, also spelled as the string that Calico's configurations use.
#[derive(Clone, Copy, Debug)]
struct Flag(bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Bool(bool),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Bool(b) => Ok(Self(b)),
            Either::Text(t) => match t.to_ascii_lowercase().as_str() {
                "true" => Ok(Self(true)),
                "false" => Ok(Self(false)),
                _ => Err(serde::de::Error::custom(format!(
                    "expected true or false, found {t:?}"
                ))),
            },
        }
    }
}

/// `container_settings` of Calico's configuration.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ContainerSettings {
    /// Whether the pod may forward packets; absent: no.
    #[serde(default)]
    pub allow_ip_forwarding: bool,
}

/// `runtimeConfig`: what the runtime adds for a capability.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RuntimeConfig {
    /// Capability `ips`: addresses asked for, with or without a prefix length.
    #[serde(default)]
    pub ips: Vec<String>,
    /// Capability `mac`: the container interface's address.
    #[serde(default)]
    pub mac: Option<String>,
}

/// The network configuration on standard input.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetConf {
    /// Version of the specification that configuration and result follow.
    #[serde(default)]
    pub cni_version: String,
    /// Network name.
    #[serde(default)]
    pub name: String,
    /// Directory of the daemon's sockets.
    #[serde(default = "default_run_dir")]
    pub run_dir: String,
    /// Directory of the daemon's state, where a DEL without the daemon leaves its tombstone.
    #[serde(default = "default_state_dir")]
    pub state_dir: String,
    /// MTU; 0 or absent: the daemon's.
    #[serde(default)]
    pub mtu: u32,
    /// Address assignment.
    #[serde(default)]
    pub ipam: IpamConfig,
    /// Settings of the container's network stack.
    #[serde(default, rename = "container_settings")]
    pub container_settings: ContainerSettings,
    /// What the runtime adds.
    #[serde(default)]
    pub runtime_config: RuntimeConfig,
    /// DNS settings, passed through to the result.
    #[serde(default)]
    pub dns: Option<Value>,
    /// The previous result, for CHECK and where another plugin comes first in the chain.
    #[serde(default)]
    pub prev_result: Option<Value>,
    /// GC: the attachments that live.
    #[serde(default, rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<ValidAttachment>>,
}

/// One member of `cni.dev/valid-attachments`.
#[derive(Clone, Debug, Deserialize)]
pub struct ValidAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

impl From<ValidAttachment> for AttachmentId {
    fn from(v: ValidAttachment) -> Self {
        Self {
            container_id: v.container_id,
            ifname: v.ifname,
        }
    }
}

fn default_run_dir() -> String {
    "/run/margay".into()
}

fn default_state_dir() -> String {
    "/var/lib/margay".into()
}

impl NetConf {
    /// Parses and checks a configuration.
    ///
    /// # Errors
    /// Code 6 where the text is not JSON of this shape, 1 where the version is unknown, 7 where the name is missing or
    /// a field does not make sense.
    pub fn parse(text: &[u8]) -> Result<Self, CniError> {
        let mut conf: Self = serde_json::from_slice(text).map_err(|e| {
            CniError::new(
                code::DECODING_FAILURE,
                "cannot parse the network configuration",
                e,
            )
        })?;
        if conf.cni_version.is_empty() {
            conf.cni_version = DEFAULT_VERSION.into();
        }
        if !SUPPORTED_VERSIONS.contains(&conf.cni_version.as_str()) {
            return Err(CniError::new(
                code::INCOMPATIBLE_VERSION,
                format!("cniVersion {:?} is not supported", conf.cni_version),
                format!("supported are {}", SUPPORTED_VERSIONS.join(", ")),
            ));
        }
        let name_ok = conf.name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && conf
                .name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        if !name_ok {
            return Err(CniError::new(
                code::INVALID_CONFIG,
                format!("name {:?} of the network is not valid", conf.name),
                "it must start with a letter or digit and hold only letters, digits, '_', '.' and '-'",
            ));
        }
        if conf.mtu != 0 && !(68..=65535).contains(&conf.mtu) {
            return Err(CniError::new(
                code::INVALID_CONFIG,
                format!("mtu {} is not valid", conf.mtu),
                "expected 68 to 65535, or 0 for the daemon's",
            ));
        }
        if !conf.ipam.assign_ipv4() && !conf.ipam.assign_ipv6() {
            return Err(CniError::new(
                code::INVALID_CONFIG,
                "ipam asks for no address",
                "assign_ipv4 and assign_ipv6 are both false",
            ));
        }
        Ok(conf)
    }

    /// Addresses asked for by `runtimeConfig.ips`.
    ///
    /// # Errors
    /// Code 7 where one is not an address.
    pub fn requested_addresses(&self) -> Result<Vec<IpAddr>, CniError> {
        self.runtime_config
            .ips
            .iter()
            .map(|text| parse_address(text, "runtimeConfig.ips"))
            .collect()
    }
}

fn parse_address(text: &str, place: &str) -> Result<IpAddr, CniError> {
    let bare = text.split('/').next().unwrap_or(text);
    bare.trim().parse().map_err(|e| {
        CniError::new(
            code::INVALID_CONFIG,
            format!("{text:?} in {place} is not an address"),
            e,
        )
    })
}

/// The pairs of `CNI_ARGS` that mean something here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniArgs {
    /// `K8S_POD_NAMESPACE`.
    pub pod_namespace: Option<String>,
    /// `K8S_POD_NAME`.
    pub pod_name: Option<String>,
    /// `K8S_POD_UID`.
    pub pod_uid: Option<String>,
    /// `IP`: addresses asked for, separated by commas.
    pub requested: Vec<IpAddr>,
}

impl CniArgs {
    /// Parses `KEY=VALUE;KEY=VALUE`. Unknown keys are ignored whether or not `IgnoreUnknown` is set: kubelets and
    /// runtimes add keys of their own.
    ///
    /// # Errors
    /// Code 4 where a pair has no `=`, code 7 where `IP` is not an address.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        let mut args = Self::default();
        for pair in text.split(';').filter(|p| !p.trim().is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(CniError::new(
                    code::INVALID_ENVIRONMENT,
                    "cannot parse CNI_ARGS",
                    format!("{pair:?} is not KEY=VALUE"),
                ));
            };
            let value_or_none = (!value.is_empty()).then(|| value.to_owned());
            match key.trim() {
                "K8S_POD_NAMESPACE" => args.pod_namespace = value_or_none,
                "K8S_POD_NAME" => args.pod_name = value_or_none,
                "K8S_POD_UID" => args.pod_uid = value_or_none,
                "IP" => {
                    for ip in value.split(',').filter(|v| !v.trim().is_empty()) {
                        args.requested.push(parse_address(ip, "CNI_ARGS IP")?);
                    }
                }
                _ => {}
            }
        }
        Ok(args)
    }
}

/// The host end's name: `cali` and 11 hex digits of SHA-1 of `<namespace>.<pod>`, as Calico computes it; without a
/// pod name `cali` and the container ID's first 11 characters.
#[must_use]
pub fn host_interface_name(
    pod_namespace: Option<&str>,
    pod_name: Option<&str>,
    container_id: &str,
) -> String {
    let suffix: String = match (pod_namespace, pod_name) {
        (Some(namespace), Some(name)) => {
            let digest = Sha1::digest(format!("{namespace}.{name}").as_bytes());
            digest
                .iter()
                .flat_map(|b| [b >> 4, b & 0xf])
                .take(11)
                .filter_map(|n| char::from_digit(u32::from(n), 16))
                .collect()
        }
        _ => container_id.chars().take(11).collect(),
    };
    format!("cali{suffix}")
}

/// Whether a container ID or interface name may be part of a file name: what the specification allows in them.
///
/// # Errors
/// Code 4, naming the variable.
pub fn check_identifier(variable: &str, value: &str) -> Result<(), CniError> {
    let ok = value.starts_with(|c: char| c.is_ascii_alphanumeric())
        && value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
        && value.len() <= 200;
    if ok {
        return Ok(());
    }
    Err(CniError::new(
        code::INVALID_ENVIRONMENT,
        format!("{variable} {value:?} is not valid"),
        "expected a letter or digit, then letters, digits, '_', '.' or '-', at most 200 in all",
    ))
}

/// Whether a name may be an interface's (the kernel's `dev_valid_name`).
///
/// # Errors
/// Code 4.
pub fn check_ifname(value: &str) -> Result<(), CniError> {
    let ok = !value.is_empty()
        && value.len() < 16
        && value != "."
        && value != ".."
        && !value.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
    if ok {
        return Ok(());
    }
    Err(CniError::new(
        code::INVALID_ENVIRONMENT,
        format!("CNI_IFNAME {value:?} is not an interface name"),
        "expected 1 to 15 characters without '/', ':' and spaces",
    ))
}

/// What an ADD made, before it is written for a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Added {
    /// Host end.
    pub host_interface: String,
    /// Host end's MAC address.
    pub host_mac: String,
    /// Container end.
    pub container_interface: String,
    /// Container end's MAC address.
    pub container_mac: String,
    /// Namespace path of the container end.
    pub sandbox: String,
    /// MTU of both ends.
    pub mtu: u32,
    /// The container's addresses.
    pub addresses: Vec<IpAddr>,
}

impl Added {
    /// The result as the given version of the specification writes it. Addresses are /32 and /128 and, as with
    /// Calico, carry no gateway: it is the same link-local one in every pod and not part of a subnet.
    #[must_use]
    pub fn to_json(&self, version: &str, dns: Option<&Value>) -> Value {
        let host_bits = |a: &IpAddr| if a.is_ipv4() { 32 } else { 128 };
        let mut result = Map::new();
        result.insert("cniVersion".into(), version.into());
        if matches!(version, "0.1.0" | "0.2.0") {
            for address in &self.addresses {
                let (key, default) = if address.is_ipv4() {
                    ("ip4", "0.0.0.0/0")
                } else {
                    ("ip6", "::/0")
                };
                result.insert(key.into(), json!({ "ip": format!("{address}/{}", host_bits(address)), "routes": [{ "dst": default }] }));
            }
        } else {
            let mut host = json!({ "name": self.host_interface, "mac": self.host_mac });
            let mut container = json!({ "name": self.container_interface, "mac": self.container_mac, "sandbox": self.sandbox });
            if version == "1.1.0" {
                for interface in [&mut host, &mut container] {
                    if let Some(object) = interface.as_object_mut() {
                        object.insert("mtu".into(), self.mtu.into());
                    }
                }
            }
            result.insert("interfaces".into(), json!([host, container]));
            let ips: Vec<Value> = self
                .addresses
                .iter()
                .map(|address| {
                    let mut ip = json!({ "address": format!("{address}/{}", host_bits(address)), "interface": 1 });
                    if version.starts_with("0.")
                        && let Some(object) = ip.as_object_mut()
                    {
                        object.insert("version".into(), if address.is_ipv4() { "4" } else { "6" }.into());
                    }
                    ip
                })
                .collect();
            result.insert("ips".into(), ips.into());
            let routes: Vec<Value> = self
                .addresses
                .iter()
                .map(|a| json!({ "dst": if a.is_ipv4() { "0.0.0.0/0" } else { "::/0" } }))
                .collect();
            result.insert("routes".into(), routes.into());
        }
        result.insert("dns".into(), dns.cloned().unwrap_or_else(|| json!({})));
        Value::Object(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_interface_is_named_as_calico_names_it() {
        // echo -n default.web-0 | sha1sum
        assert_eq!(
            host_interface_name(Some("default"), Some("web-0"), "x"),
            "cali0d7763386da"
        );
        assert_eq!(
            host_interface_name(None, None, "0123456789abcdef"),
            "cali0123456789a"
        );
    }

    #[test]
    fn calicos_string_booleans_are_understood() {
        let conf = NetConf::parse(br#"{"cniVersion":"1.0.0","name":"n","ipam":{"type":"calico-ipam","assign_ipv4":"false","assign_ipv6":"true"}}"#).unwrap();
        assert!(!conf.ipam.assign_ipv4() && conf.ipam.assign_ipv6());
        let e =
            NetConf::parse(br#"{"cniVersion":"1.0.0","name":"n","ipam":{"assign_ipv4":"maybe"}}"#)
                .unwrap_err();
        assert_eq!(e.code, code::DECODING_FAILURE);
    }

    #[test]
    fn a_configuration_that_cannot_work_is_refused_by_name() {
        for (text, want) in [
            (
                &br#"{"cniVersion":"9.0.0","name":"n"}"#[..],
                code::INCOMPATIBLE_VERSION,
            ),
            (br#"{"cniVersion":"1.0.0"}"#, code::INVALID_CONFIG),
            (
                br#"{"cniVersion":"1.0.0","name":"../etc"}"#,
                code::INVALID_CONFIG,
            ),
            (
                br#"{"cniVersion":"1.0.0","name":"n","mtu":20}"#,
                code::INVALID_CONFIG,
            ),
            (
                br#"{"cniVersion":"1.0.0","name":"n","mtu":"#,
                code::DECODING_FAILURE,
            ),
        ] {
            assert_eq!(
                NetConf::parse(text).unwrap_err().code,
                want,
                "{}",
                String::from_utf8_lossy(text)
            );
        }
    }

    #[test]
    fn cni_args_of_a_kubelet_are_read_and_unknown_ones_ignored() {
        let args = CniArgs::parse("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u;IP=10.0.0.7").unwrap();
        assert_eq!(args.pod_namespace.as_deref(), Some("default"));
        assert_eq!(args.pod_name.as_deref(), Some("web-0"));
        assert_eq!(args.requested, ["10.0.0.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(
            CniArgs::parse("K8S_POD_NAME").unwrap_err().code,
            code::INVALID_ENVIRONMENT
        );
    }

    fn added() -> Added {
        Added {
            host_interface: "cali1".into(),
            host_mac: "ee:ee:ee:ee:ee:ee".into(),
            container_interface: "eth0".into(),
            container_mac: "02:00:00:00:00:01".into(),
            sandbox: "/run/netns/p".into(),
            mtu: 1480,
            addresses: vec!["10.65.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        }
    }

    #[test]
    fn each_version_gets_the_result_it_knows() {
        let old = added().to_json("0.2.0", None);
        assert_eq!(old["ip4"]["ip"], "10.65.0.1/32");
        assert_eq!(old["ip6"]["routes"][0]["dst"], "::/0");
        assert!(old.get("interfaces").is_none());

        let middle = added().to_json("0.4.0", None);
        assert_eq!(middle["ips"][0]["version"], "4");
        assert_eq!(middle["ips"][1]["version"], "6");

        let one = added().to_json("1.0.0", None);
        assert!(one["ips"][0].get("version").is_none());
        assert!(one["interfaces"][1].get("mtu").is_none());

        let latest = added().to_json("1.1.0", None);
        assert_eq!(latest["interfaces"][1]["mtu"], 1480);
        assert_eq!(latest["interfaces"][1]["sandbox"], "/run/netns/p");
        assert_eq!(
            latest["ips"][0],
            json!({ "address": "10.65.0.1/32", "interface": 1 })
        );
    }

    #[test]
    fn identifiers_that_could_leave_a_directory_are_refused() {
        assert!(check_identifier("CNI_CONTAINERID", "a1b2").is_ok());
        for bad in ["", "../x", "a/b", ".hidden"] {
            assert_eq!(
                check_identifier("CNI_CONTAINERID", bad).unwrap_err().code,
                code::INVALID_ENVIRONMENT
            );
        }
        assert!(check_ifname("eth0").is_ok());
        assert!(check_ifname("a-name-that-is-too-long").is_err());
    }
}
