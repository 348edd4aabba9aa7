//! BGPPeer.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

use super::{AsNumber, Fault, GoDuration, SelectorText, Text};
use crate::model::{
    BgpPeer, Labels, LocalSide, NextHopMode, RemoteSide, ReversePeering, SourceAddress,
};

/// `spec` of a BGPPeer.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpPeerSpec {
    #[serde(default)]
    node: Text,
    #[serde(default)]
    node_selector: Option<SelectorText>,
    #[serde(default, rename = "peerIP")]
    peer_ip: Text,
    #[serde(default)]
    peer_selector: Option<SelectorText>,
    #[serde(default)]
    local_workload_selector: Option<SelectorText>,
    #[serde(default)]
    as_number: Option<AsNumber>,
    #[serde(default, rename = "localASNumber")]
    local_as_number: Option<AsNumber>,
    #[serde(default)]
    keep_original_next_hop: Option<bool>,
    #[serde(default)]
    next_hop_mode: Option<HopMode>,
    #[serde(default)]
    password: Option<SecretRef>,
    #[serde(default)]
    source_address: Option<Source>,
    #[serde(default)]
    max_restart_time: Option<GoDuration>,
    #[serde(default)]
    keepalive_time: Option<GoDuration>,
    #[serde(default, rename = "numAllowedLocalASNumbers")]
    num_allowed_local_as_numbers: Option<i32>,
    #[serde(default)]
    ttl_security: Option<u8>,
    #[serde(default)]
    reachable_by: Text,
    #[serde(default)]
    filters: Option<Vec<String>>,
    #[serde(default)]
    reverse_peering: Option<Reverse>,
}

/// A reference to a key of a Secret, as in the Kubernetes API.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    #[serde(default)]
    pub(super) secret_key_ref: Option<KeyRef>,
}

/// Which key of which Secret.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct KeyRef {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) key: String,
    #[serde(default)]
    pub(super) optional: Option<bool>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum HopMode {
    #[serde(alias = "")]
    Auto,
    #[serde(rename = "Self")]
    Own,
    Keep,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Source {
    #[serde(rename = "UseNodeIP", alias = "")]
    UseNodeIp,
    None,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Reverse {
    #[serde(alias = "")]
    Auto,
    Manual,
}

/// `ip`, `ip:port` or `[v6]:port`.
fn peer_address(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, None));
    }
    match text.parse::<SocketAddr>() {
        Ok(socket) if socket.port() > 0 => Ok((socket.ip(), Some(socket.port()))),
        _ => Err(format!(
            "{text:?} is not an address: write 10.0.0.1, 10.0.0.1:179, fd00::1 or [fd00::1]:179"
        )),
    }
}

impl BgpPeerSpec {
    /// The peer, or every rule it breaks.
    ///
    /// # Errors
    /// Each fault names its field.
    pub fn check(self, name: &str, margay: Labels) -> Result<BgpPeer, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut fault = |field: String, reason: String| {
            faults.push(Fault::new(format!("spec.{field}"), reason))
        };
        let mut wrong = |field: &str, reason: &str| fault(field.to_owned(), reason.to_owned());

        let node_selector = self.node_selector.and_then(|text| text.0);
        let local = match (self.node.0, node_selector) {
            (Some(node), None) => LocalSide::Node(node),
            (None, Some(selector)) => LocalSide::Nodes(selector),
            (None, None) => LocalSide::AllNodes,
            (Some(_), Some(selector)) => {
                wrong(
                    "nodeSelector",
                    "node and nodeSelector exclude each other: remove one of them",
                );
                LocalSide::Nodes(selector)
            }
        };

        let asn = self.as_number.and_then(|asn| asn.0);
        let peer_selector = self.peer_selector.and_then(|text| text.0);
        let workloads = self.local_workload_selector.and_then(|text| text.0);
        let mut peer_ip = None;
        let remote = match (self.peer_ip.0, peer_selector, workloads) {
            (Some(text), None, None) => match peer_address(&text) {
                Ok((address, port)) => {
                    peer_ip = Some(address);
                    Some(RemoteSide::Address { address, port, asn })
                }
                Err(reason) => {
                    wrong("peerIP", &reason);
                    None
                }
            },
            (None, Some(selector), None) => {
                if asn.is_some() {
                    wrong(
                        "asNumber",
                        "the AS of nodes that peerSelector finds is their own: remove asNumber",
                    );
                }
                Some(RemoteSide::Nodes(selector))
            }
            (None, None, Some(selector)) => {
                if asn.is_none() {
                    wrong(
                        "asNumber",
                        "is required with localWorkloadSelector: it is the AS of the pods",
                    );
                }
                asn.map(|asn| RemoteSide::LocalWorkloads { selector, asn })
            }
            (None, None, None) => {
                wrong(
                    "peerIP",
                    "nobody to peer with: set peerIP, peerSelector or localWorkloadSelector",
                );
                None
            }
            (Some(_), Some(_), _) => {
                wrong(
                    "peerSelector",
                    "peerIP and peerSelector exclude each other: remove one of them",
                );
                None
            }
            (_, _, Some(_)) => {
                wrong(
                    "localWorkloadSelector",
                    "excludes peerIP and peerSelector: remove them",
                );
                None
            }
        };

        let reachable_by =
            self.reachable_by
                .0
                .and_then(|text| match (text.parse::<IpAddr>(), peer_ip) {
                    (Ok(gateway), Some(peer)) if gateway.is_ipv4() == peer.is_ipv4() => {
                        Some(gateway)
                    }
                    (Ok(_), Some(_)) => {
                        wrong("reachableBy", "is of another address family than peerIP");
                        None
                    }
                    (Ok(_), None) => {
                        wrong(
                            "reachableBy",
                            "needs peerIP: it is the gateway to that address",
                        );
                        None
                    }
                    (Err(_), _) => {
                        wrong("reachableBy", "is not an address");
                        None
                    }
                });
        let keep_original_next_hop = self.keep_original_next_hop.unwrap_or_default();
        if keep_original_next_hop && self.next_hop_mode.is_some() {
            wrong(
                "nextHopMode",
                "keepOriginalNextHop and nextHopMode exclude each other: remove keepOriginalNextHop",
            );
        }
        let allowed = self.num_allowed_local_as_numbers.unwrap_or_default();
        let allowed = u8::try_from(allowed).unwrap_or_else(|_| {
            wrong("numAllowedLocalASNumbers", "is not between 0 and 255");
            0
        });
        let password = self
            .password
            .and_then(|password| password.check("password", &mut fault));
        match remote {
            Some(remote) if faults.is_empty() => Ok(BgpPeer {
                name: name.to_owned(),
                local,
                remote,
                local_asn: self.local_as_number.and_then(|asn| asn.0),
                next_hop_mode: match self.next_hop_mode {
                    None | Some(HopMode::Auto) => NextHopMode::Auto,
                    Some(HopMode::Own) => NextHopMode::SelfAddress,
                    Some(HopMode::Keep) => NextHopMode::Keep,
                },
                keep_original_next_hop,
                password,
                source_address: match self.source_address {
                    None | Some(Source::UseNodeIp) => SourceAddress::UseNodeIp,
                    Some(Source::None) => SourceAddress::None,
                },
                max_restart_time: self.max_restart_time.map(|time| time.0),
                keepalive_time: self
                    .keepalive_time
                    .map(|time| time.0)
                    .filter(|time| !time.is_zero()),
                num_allowed_local_as_numbers: allowed,
                // No hop at all is no protection asked for, as in Calico.
                ttl_security: self.ttl_security.filter(|hops| *hops > 0),
                reachable_by,
                filters: self.filters.unwrap_or_default(),
                reverse_peering: match self.reverse_peering {
                    None | Some(Reverse::Auto) => ReversePeering::Auto,
                    Some(Reverse::Manual) => ReversePeering::Manual,
                },
                margay,
            }),
            _ => Err(faults),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::read;
    use margay_bgp::asn::Asn;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn check(spec: Value) -> Result<BgpPeer, Vec<Fault>> {
        read::<BgpPeerSpec>(&spec, "spec")
            .map_err(|fault| vec![fault])?
            .check("p", Labels::new())
    }

    #[test]
    fn the_three_kinds_of_remote_side() {
        let peer = check(json!({"peerIP": "10.0.0.1", "asNumber": 64513})).unwrap();
        assert_eq!(peer.local, LocalSide::AllNodes);
        assert_eq!(
            peer.remote,
            RemoteSide::Address {
                address: "10.0.0.1".parse().unwrap(),
                port: None,
                asn: Some(Asn(64513))
            }
        );
        let peer = check(json!({"peerIP": "[fd00::1]:1790", "node": "n1"})).unwrap();
        assert_eq!(peer.local, LocalSide::Node("n1".to_owned()));
        assert_eq!(
            peer.remote,
            RemoteSide::Address {
                address: "fd00::1".parse().unwrap(),
                port: Some(1790),
                asn: None
            }
        );
        let peer =
            check(json!({"nodeSelector": "all()", "peerSelector": "has(rr)", "asNumber": 0}))
                .unwrap();
        assert!(matches!(peer.remote, RemoteSide::Nodes(_)));
        let peer =
            check(json!({"localWorkloadSelector": "app == 'r'", "asNumber": "65000"})).unwrap();
        assert!(matches!(
            peer.remote,
            RemoteSide::LocalWorkloads {
                asn: Asn(65000),
                ..
            }
        ));
    }

    #[test]
    fn every_setting_is_read() {
        let peer = check(json!({
            "peerIP": "10.0.0.1:180", "asNumber": "1.1", "localASNumber": 65001, "nextHopMode": "Self", "sourceAddress": "None",
            "password": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}, "maxRestartTime": "2m", "keepaliveTime": "10s",
            "numAllowedLocalASNumbers": 2, "ttlSecurity": 1, "reachableBy": "10.0.0.254", "filters": ["a", "b"], "reversePeering": "Manual",
        }))
        .unwrap();
        assert_eq!(peer.local_asn, Some(Asn(65001)));
        assert_eq!(peer.next_hop_mode, NextHopMode::SelfAddress);
        assert_eq!(peer.source_address, SourceAddress::None);
        assert_eq!(
            peer.password
                .as_ref()
                .map(|key| (key.name.as_str(), key.key.as_str(), key.optional)),
            Some(("s", "k", true))
        );
        assert_eq!(
            (peer.max_restart_time, peer.keepalive_time),
            (
                Some(Duration::from_secs(120)),
                Some(Duration::from_secs(10))
            )
        );
        assert_eq!(
            (peer.num_allowed_local_as_numbers, peer.ttl_security),
            (2, Some(1))
        );
        assert_eq!(peer.reachable_by, "10.0.0.254".parse().ok());
        assert_eq!(peer.filters, ["a", "b"]);
        assert_eq!(peer.reverse_peering, ReversePeering::Manual);
    }

    #[test]
    fn what_calico_refuses_is_refused_with_its_field() {
        for (spec, field) in [
            (json!({}), "spec.peerIP"),
            (json!({"peerIP": "tor"}), "spec.peerIP"),
            (json!({"peerIP": "10.0.0.1:0"}), "spec.peerIP"),
            (json!({"peerIP": "10.0.0.1/32"}), "spec.peerIP"),
            (
                json!({"peerIP": "10.0.0.1", "node": "a", "nodeSelector": "all()"}),
                "spec.nodeSelector",
            ),
            (
                json!({"peerIP": "10.0.0.1", "peerSelector": "all()"}),
                "spec.peerSelector",
            ),
            (
                json!({"peerSelector": "all()", "asNumber": 1}),
                "spec.asNumber",
            ),
            (json!({"localWorkloadSelector": "all()"}), "spec.asNumber"),
            (
                json!({"localWorkloadSelector": "all()", "asNumber": 1, "peerIP": "10.0.0.1"}),
                "spec.localWorkloadSelector",
            ),
            (
                json!({"peerIP": "10.0.0.1", "reachableBy": "fd00::1"}),
                "spec.reachableBy",
            ),
            (
                json!({"peerSelector": "all()", "reachableBy": "10.0.0.1"}),
                "spec.reachableBy",
            ),
            (
                json!({"peerIP": "10.0.0.1", "keepOriginalNextHop": true, "nextHopMode": "Keep"}),
                "spec.nextHopMode",
            ),
            (
                json!({"peerIP": "10.0.0.1", "nextHopMode": "self"}),
                "spec.nextHopMode",
            ),
            (
                json!({"peerIP": "10.0.0.1", "ttlSecurity": 256}),
                "spec.ttlSecurity",
            ),
            (
                json!({"peerIP": "10.0.0.1", "numAllowedLocalASNumbers": -1}),
                "spec.numAllowedLocalASNumbers",
            ),
            (
                json!({"peerIP": "10.0.0.1", "password": {"secretKeyRef": {"key": "k"}}}),
                "spec.password.secretKeyRef",
            ),
            (
                json!({"peerIP": "10.0.0.1", "maxRestartTime": 120}),
                "spec.maxRestartTime",
            ),
            (json!({"peerSelector": "rr == true"}), "spec.peerSelector"),
        ] {
            let faults = check(spec.clone()).unwrap_err();
            assert_eq!(
                faults[0].field.as_deref(),
                Some(field),
                "{spec}: {faults:?}"
            );
        }
    }
}
