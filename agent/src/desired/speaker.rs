//! The speaker's whole configuration for a node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use margay_bgp::family::Family;
use margay_bgp::router_id::RouterId;
use margay_bgp::speaker::config::SpeakerConfig;
use sha1::{Digest, Sha1};

use super::advertisements::originate;
use super::filters::interface_problems;
use super::peers::{Policies, Session, peer_config, sessions};
use super::state::{Problem, Underlay};
use crate::config::annotations::{SPEAKER_FIELDS, annotate_speaker};
use crate::model::{BindMode, ClusterState, Node};

/// A node's part in BGP.
#[derive(Clone, Debug)]
pub struct SpeakerPlan {
    /// What the speaker is told.
    pub config: SpeakerConfig,
    /// Why each session exists, in the order of their names; some of them may be kept down and miss in `config`.
    pub sessions: Vec<Session>,
    /// What could not be honoured.
    pub problems: Vec<Problem>,
}

/// What the speaker of the node that looks is told; `None` while the node has no object, and so no address and no AS.
#[must_use]
pub fn speaker_plan(cluster: &ClusterState, underlay: &Underlay) -> Option<SpeakerPlan> {
    let own = cluster.own_node()?;
    let (sessions, mut problems) = sessions(cluster);
    let mut config = SpeakerConfig::new(cluster.asn_of(own), router_id(own));
    config.cluster_id = own.route_reflector_cluster_id;
    config.listen = listen(cluster, own).into_iter().map(Into::into).collect();
    config.originate = originate(cluster);
    // The node forwards: it uses, and passes on, what it has a way to.
    config.next_hop_tracking = true;
    for (field, text) in &cluster.bgp.margay {
        if SPEAKER_FIELDS.contains(&field.as_str())
            && let Err(reason) = annotate_speaker(&mut config, field, text)
        {
            problems.push(Problem {
                subject: "BGPConfiguration".into(),
                reason: format!("annotation margay.io/{field}: {reason}"),
            });
        }
    }
    if let Some(text) = own.margay.get("drain")
        && let Err(reason) = annotate_speaker(&mut config, "drain", text)
    {
        problems.push(Problem {
            subject: format!("Node {}", own.name),
            reason: format!("annotation margay.io/drain: {reason}"),
        });
    }
    let mut policies = Policies::default();
    config.peers = sessions
        .iter()
        .filter_map(|session| peer_config(cluster, session, underlay, &mut policies, &mut problems))
        .collect();
    for (name, reason) in drop_clashes(&mut config) {
        problems.push(Problem {
            subject: format!("session {name}"),
            reason: format!("it stays down: {reason}"),
        });
    }
    problems.extend(interface_problems(cluster, &sessions, underlay));
    problems.sort();
    problems.dedup();
    Some(SpeakerPlan {
        config,
        sessions,
        problems,
    })
}

/// Takes out sessions that cannot be had beside those before them: one clash must not cost the node all of them. Gives back their
/// names and why.
pub fn drop_clashes(config: &mut SpeakerConfig) -> Vec<(String, String)> {
    let mut dropped = Vec::new();
    while let Err(error) = config.validate() {
        let (Some(name), _) = error.place() else {
            break;
        };
        let name = name.to_owned();
        config.peers.retain(|peer| peer.name != name);
        dropped.push((name, error.to_string()));
    }
    dropped
}

/// The node's BGP Identifier: annotation `margay.io/routerId`, else its IPv4 address, else a number made from its name.
#[must_use]
pub fn router_id(node: &Node) -> RouterId {
    let written = node
        .margay
        .get("routerId")
        .and_then(|text| text.parse().ok());
    let address = || {
        node.ipv4
            .and_then(|own| RouterId::try_from(own.address).ok())
    };
    written.or_else(address).unwrap_or_else(|| {
        let digest = Sha1::digest(&node.name);
        let number = digest
            .iter()
            .take(4)
            .fold(0_u32, |number, octet| number << 8 | u32::from(*octet));
        // Zero identifies nobody; the lowest bit set, every number does.
        RouterId::new(number | 1).unwrap_or_else(|| unreachable!())
    })
}

fn listen(cluster: &ClusterState, own: &Node) -> Vec<SocketAddr> {
    let port = cluster.bgp.listen_port;
    Family::ALL
        .into_iter()
        .filter_map(|family| own.bgp_address(family))
        .map(|address| match (cluster.bgp.bind_mode, address) {
            (BindMode::NodeIp, address) => SocketAddr::new(address, port),
            (BindMode::None, IpAddr::V4(_)) => {
                SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
            }
            (BindMode::None, IpAddr::V6(_)) => {
                SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_drained_by_its_own_annotation_or_by_its_configuration() {
        for (of_node, of_configuration, drained) in [
            (None, None, false),
            (Some("true"), None, true),
            (None, Some("true"), true),
            (Some("false"), Some("true"), false),
        ] {
            let mut cluster = ClusterState::default();
            let mut own = Node {
                name: "n1".into(),
                ..Node::default()
            };
            for (labels, value) in [
                (&mut own.margay, of_node),
                (&mut cluster.bgp.margay, of_configuration),
            ] {
                labels.extend(value.map(|value| ("drain".to_owned(), value.to_owned())));
            }
            cluster.node_name = "n1".into();
            cluster.nodes.insert("n1".into(), own);
            let plan = speaker_plan(&cluster, &Underlay::default()).expect("a plan");
            assert_eq!(plan.config.drain, drained);
            assert!(plan.problems.is_empty(), "{:?}", plan.problems);
        }
    }

    #[test]
    fn annotations_of_the_configuration_choose_how_paths_are_compared() {
        let mut cluster = ClusterState::default();
        let own = Node {
            name: "n1".into(),
            ..Node::default()
        };
        cluster.node_name = "n1".into();
        cluster.nodes.insert("n1".into(), own);
        let annotations = [
            ("alwaysCompareMed", "true"),
            ("maximumPaths", "4"),
            ("resolveViaDefault", "perhaps"),
        ];
        for (field, text) in annotations {
            cluster.bgp.margay.insert(field.into(), text.into());
        }
        let plan = speaker_plan(&cluster, &Underlay::default()).expect("a plan");
        assert!(plan.config.always_compare_med && plan.config.next_hop_tracking);
        assert_eq!(plan.config.maximum_paths, 4);
        let [problem] = plan.problems.as_slice() else {
            panic!("{:?}", plan.problems);
        };
        assert_eq!(
            problem.reason,
            "annotation margay.io/resolveViaDefault: expected true or false, found `perhaps`"
        );
    }
}
