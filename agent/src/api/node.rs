//! Node: Calico's own, and Kubernetes' with `projectcalico.org/*` annotations.
//!
//! A field that does not parse is reported and counts as absent; the rest of the node stands, as in Calico. A node that vanished
//! whole because of one annotation would take its pods with it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use margay_bgp::router_id::RouterId;
use serde_json::Value;

use super::{AsNumber, Cidr, Fault, MacText, labels, margay_annotations};
use crate::model::{Labels, Node, NodeAddress};

/// Where Calico keeps a field: in its own Node, and as an annotation of Kubernetes' Node.
struct Field {
    path: &'static str,
    annotation: &'static str,
}

const IPV4: Field = Field {
    path: "bgp.ipv4Address",
    annotation: "IPv4Address",
};
const IPV6: Field = Field {
    path: "bgp.ipv6Address",
    annotation: "IPv6Address",
};
const AS_NUMBER: Field = Field {
    path: "bgp.asNumber",
    annotation: "ASNumber",
};
const CLUSTER_ID: Field = Field {
    path: "bgp.routeReflectorClusterID",
    annotation: "RouteReflectorClusterID",
};
const IPIP_TUNNEL: Field = Field {
    path: "bgp.ipv4IPIPTunnelAddr",
    annotation: "IPv4IPIPTunnelAddr",
};
const VXLAN_TUNNEL_V4: Field = Field {
    path: "ipv4VXLANTunnelAddr",
    annotation: "IPv4VXLANTunnelAddr",
};
const VXLAN_TUNNEL_V6: Field = Field {
    path: "ipv6VXLANTunnelAddr",
    annotation: "IPv6VXLANTunnelAddr",
};
const VXLAN_MAC_V4: Field = Field {
    path: "vxlanTunnelMACAddr",
    annotation: "VXLANTunnelMACAddr",
};
const VXLAN_MAC_V6: Field = Field {
    path: "vxlanTunnelMACAddrV6",
    annotation: "VXLANTunnelMACAddrV6",
};

/// Reads fields of one node, whichever form it has.
struct Reader<'a> {
    object: &'a Value,
    /// Kubernetes' annotations; absent for Calico's form.
    annotations: Option<&'a Labels>,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    /// A field as text, if written and not empty. A number counts as text, since AS numbers are written so.
    fn field<T>(&mut self, field: &Field, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let (name, text) = match self.annotations {
            Some(annotations) => {
                let key = format!("projectcalico.org/{}", field.annotation);
                let text = annotations.get(&key)?.clone();
                (format!("metadata.annotations.{key}"), text)
            }
            None => {
                let name = format!("spec.{}", field.path);
                let value = field
                    .path
                    .split('.')
                    .try_fold(self.object.get("spec")?, |value, key| value.get(key))?;
                let text = match value {
                    Value::Null => return None,
                    Value::String(text) => text.clone(),
                    Value::Number(number) if number.is_u64() => number.to_string(),
                    other @ (Value::Bool(_)
                    | Value::Number(_)
                    | Value::Array(_)
                    | Value::Object(_)) => {
                        self.faults.push(Fault::new(
                            name,
                            format!("{other} is not a text: put it in quotes"),
                        ));
                        return None;
                    }
                };
                (name, text)
            }
        };
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        match parse(text) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.faults.push(Fault::new(name, reason));
                None
            }
        }
    }

    /// A JSON map inside an annotation.
    fn map(&mut self, key: &str) -> Labels {
        let key = format!("projectcalico.org/{key}");
        let Some(text) = self
            .annotations
            .and_then(|annotations| annotations.get(&key))
        else {
            return Labels::new();
        };
        serde_json::from_str::<BTreeMap<String, String>>(text).unwrap_or_else(|error| {
            self.faults.push(Fault::new(
                format!("metadata.annotations.{key}"),
                format!("is not a JSON map of texts: {error}"),
            ));
            Labels::new()
        })
    }
}

fn v4(text: &str) -> Result<NodeAddress<Ipv4Addr>, String> {
    match Cidr::parse(text)? {
        Cidr {
            address: IpAddr::V4(address),
            prefix,
            ..
        } => Ok(NodeAddress {
            address,
            prefix_len: prefix.len(),
        }),
        _ => Err(format!("{text} is not an IPv4 address")),
    }
}

fn v6(text: &str) -> Result<NodeAddress<Ipv6Addr>, String> {
    match Cidr::parse(text)? {
        Cidr {
            address: IpAddr::V6(address),
            prefix,
            ..
        } => Ok(NodeAddress {
            address,
            prefix_len: prefix.len(),
        }),
        _ => Err(format!("{text} is not an IPv6 address")),
    }
}

fn bare<A: std::str::FromStr>(text: &str) -> Result<A, String> {
    // Old versions wrote a full-length mask behind it.
    let address = text.split_once('/').map_or(text, |(address, _)| address);
    address
        .parse()
        .map_err(|_| format!("{text:?} is not an address of the family this field is for"))
}

fn cluster_id(text: &str) -> Result<RouterId, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not a cluster id: write it as an IPv4 address other than 0.0.0.0")
    })
}

/// The address of an entry of `addresses`, which Calico may write with a mask.
fn entry_address(entry: &Value) -> Option<IpAddr> {
    let text = entry.get("address")?.as_str()?;
    Cidr::parse(text).ok().map(|cidr| cidr.address)
}

/// Reads a node and what is wrong with it.
#[must_use]
pub fn read_node(name: &str, object: &Value) -> (Node, Vec<Fault>) {
    let annotations = labels(object, "annotations");
    let is_kubernetes = object
        .get("apiVersion")
        .and_then(Value::as_str)
        .is_some_and(|version| !version.contains('/'));
    let mut reader = Reader {
        object,
        annotations: is_kubernetes.then_some(&annotations),
        faults: Vec::new(),
    };
    // Kubernetes' labels win over Calico-only ones.
    let mut all_labels = reader.map("labels");
    all_labels.extend(labels(object, "labels"));
    let mut all_annotations = reader.map("annotations");
    all_annotations.extend(annotations.clone());

    let entries = if is_kubernetes {
        "/status/addresses"
    } else {
        "/spec/addresses"
    };
    let entries = object.pointer(entries).and_then(Value::as_array);
    let mut addresses = Vec::new();
    for wanted in ["InternalIP", "ExternalIP"] {
        for entry in entries.into_iter().flatten() {
            if entry.get("type").and_then(Value::as_str) == Some(wanted)
                && let Some(address) = entry_address(entry)
                && !addresses.contains(&address)
            {
                addresses.push(address);
            }
        }
    }
    let node = Node {
        name: name.to_owned(),
        labels: all_labels,
        ipv4: reader.field(&IPV4, v4),
        ipv6: reader.field(&IPV6, v6),
        addresses,
        asn: reader
            .field(&AS_NUMBER, AsNumber::parse)
            .and_then(|asn| asn.0),
        route_reflector_cluster_id: reader.field(&CLUSTER_ID, cluster_id),
        ipip_tunnel: reader.field(&IPIP_TUNNEL, bare),
        vxlan_tunnel_v4: reader.field(&VXLAN_TUNNEL_V4, bare),
        vxlan_tunnel_v6: reader.field(&VXLAN_TUNNEL_V6, bare),
        vxlan_mac_v4: reader.field(&VXLAN_MAC_V4, MacText::parse).map(|mac| mac.0),
        vxlan_mac_v6: reader.field(&VXLAN_MAC_V6, MacText::parse).map(|mac| mac.0),
        listen_port: None,
        margay: margay_annotations(&all_annotations),
    };
    (node, reader.faults)
}

#[cfg(test)]
mod tests {
    use super::*;
    use margay_bgp::asn::Asn;
    use serde_json::json;

    fn calico() -> Value {
        json!({
            "apiVersion": "projectcalico.org/v3", "kind": "Node",
            "metadata": {"name": "n1", "labels": {"rack": "a"}, "annotations": {"margay.io/bfd": "true"}},
            "spec": {
                "bgp": {"ipv4Address": "10.0.1.5/24", "ipv6Address": "fd00:1::5/64", "asNumber": 64513,
                    "routeReflectorClusterID": "1.0.0.1", "ipv4IPIPTunnelAddr": "10.65.0.1"},
                "ipv4VXLANTunnelAddr": "10.65.0.2", "ipv6VXLANTunnelAddr": "fd65::2",
                "vxlanTunnelMACAddr": "66:00:00:00:00:01", "vxlanTunnelMACAddrV6": "66:00:00:00:00:02",
                "addresses": [{"type": "ExternalIP", "address": "192.0.2.1"}, {"type": "CalicoNodeIP", "address": "10.0.1.5/24"},
                    {"type": "InternalIP", "address": "10.0.1.5"}],
            },
        })
    }

    fn kubernetes() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "n1", "labels": {"rack": "a"}, "annotations": {
                "projectcalico.org/IPv4Address": "10.0.1.5/24", "projectcalico.org/IPv6Address": "fd00:1::5/64",
                "projectcalico.org/ASNumber": "64513", "projectcalico.org/RouteReflectorClusterID": "1.0.0.1",
                "projectcalico.org/IPv4IPIPTunnelAddr": "10.65.0.1", "projectcalico.org/IPv4VXLANTunnelAddr": "10.65.0.2",
                "projectcalico.org/IPv6VXLANTunnelAddr": "fd65::2", "projectcalico.org/VXLANTunnelMACAddr": "66:00:00:00:00:01",
                "projectcalico.org/VXLANTunnelMACAddrV6": "66:00:00:00:00:02",
                "projectcalico.org/labels": "{\"rack\":\"hidden\"}",
                "projectcalico.org/annotations": "{\"margay.io/bfd\":\"true\"}",
            }},
            "status": {"addresses": [{"type": "Hostname", "address": "n1"}, {"type": "ExternalIP", "address": "192.0.2.1"},
                {"type": "InternalIP", "address": "10.0.1.5"}]},
        })
    }

    #[test]
    fn both_forms_say_the_same() {
        let (from_calico, faults) = read_node("n1", &calico());
        assert_eq!(faults, []);
        let (from_kubernetes, faults) = read_node("n1", &kubernetes());
        assert_eq!(faults, []);
        assert_eq!(from_calico, from_kubernetes);
        assert_eq!(from_calico.asn, Some(Asn(64513)));
        assert_eq!(
            from_calico.ipv4,
            Some(NodeAddress {
                address: Ipv4Addr::new(10, 0, 1, 5),
                prefix_len: 24
            })
        );
        assert_eq!(
            from_calico.addresses,
            [
                "10.0.1.5".parse::<IpAddr>().unwrap(),
                "192.0.2.1".parse().unwrap()
            ]
        );
        assert_eq!(from_calico.margay["bfd"], "true");
    }

    #[test]
    fn calico_only_labels_are_added_and_do_not_win() {
        let mut object = kubernetes();
        object["metadata"]["annotations"]["projectcalico.org/labels"] =
            json!("{\"rack\":\"x\",\"rr\":\"1\"}");
        let (node, _) = read_node("n1", &object);
        assert_eq!(
            (node.labels["rack"].as_str(), node.labels["rr"].as_str()),
            ("a", "1")
        );
    }

    #[test]
    fn one_bad_field_is_absent_and_the_rest_stands() {
        let mut object = kubernetes();
        object["metadata"]["annotations"]["projectcalico.org/ASNumber"] = json!("many");
        object["metadata"]["annotations"]["projectcalico.org/labels"] = json!("{");
        let (node, faults) = read_node("n1", &object);
        assert_eq!(node.asn, None);
        assert!(node.ipv4.is_some());
        let fields: Vec<_> = faults
            .iter()
            .filter_map(|fault| fault.field.as_deref())
            .collect();
        assert_eq!(
            fields,
            [
                "metadata.annotations.projectcalico.org/labels",
                "metadata.annotations.projectcalico.org/ASNumber"
            ]
        );

        let mut object = calico();
        object["spec"]["bgp"]["ipv4Address"] = json!("fd00::1/64");
        object["spec"]["bgp"]["asNumber"] = json!(1.1);
        object["spec"]["bgp"]["routeReflectorClusterID"] = json!("0.0.0.0");
        object["spec"]["vxlanTunnelMACAddr"] = json!("66");
        let (node, faults) = read_node("n1", &object);
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(node.ipv4.is_none() && node.ipv6.is_some());
    }

    #[test]
    fn dotted_and_textual_as_numbers_are_read() {
        for (written, number) in [
            (json!("1.1"), 65537),
            (json!("64513"), 64513),
            (json!(4_200_000_000_u32), 4_200_000_000),
        ] {
            let mut object = calico();
            object["spec"]["bgp"]["asNumber"] = written;
            assert_eq!(read_node("n1", &object).0.asn, Some(Asn(number)));
        }
    }

    #[test]
    fn an_address_without_a_mask_is_a_subnet_of_one() {
        let mut object = calico();
        object["spec"]["bgp"]["ipv4Address"] = json!("10.0.1.5");
        assert_eq!(read_node("n1", &object).0.ipv4.unwrap().prefix_len, 32);
    }

    #[test]
    fn a_node_without_anything_is_a_node() {
        let (node, faults) = read_node(
            "n1",
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}),
        );
        assert_eq!((node.name.as_str(), faults.len()), ("n1", 0));
    }
}
