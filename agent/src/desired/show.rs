//! The answer of `margay config show`: what a node would do, for people and programs. The names in it are stable.

use serde::Serialize;
use serde_json::Value;

use super::advertisements::originated;
use super::filters::communities_of;
use super::peers::{Session, sessions};
use super::speaker::router_id;
use super::state::Problem;
use crate::model::{ClusterState, Encapsulation, EncapsulationMode, IpPool, NextHopMode};

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigShow {
    /// The node.
    pub node: String,
    /// Its AS.
    pub asn: u32,
    /// Its BGP Identifier; absent where the node has no Node object.
    pub router_id: Option<String>,
    /// Sessions by address and port.
    pub sessions: Vec<ShownSession>,
    /// What it originates, by prefix.
    pub originated: Vec<ShownRoute>,
    /// Pools by name.
    pub pools: Vec<ShownPool>,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownSession {
    /// mesh, global, node, reverse or workload.
    pub origin: &'static str,
    /// The BGPPeer, or the node at the other end.
    pub object: String,
    /// The peer.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// ipv4 or ipv6.
    pub family: &'static str,
    /// Its AS.
    pub asn: u32,
    /// Ours towards it.
    pub local_asn: u32,
    /// The address we speak from.
    pub source_address: Option<String>,
    /// We wait for it to call.
    pub passive: bool,
    /// It is a client of ours.
    pub route_reflector_client: bool,
    /// Our cluster towards it.
    pub cluster_id: Option<String>,
    /// GTSM distance.
    pub ttl_security: Option<u8>,
    /// Seconds.
    pub restart_time: u64,
    /// Seconds.
    pub keepalive_time: Option<u64>,
    /// auto, self or keep.
    pub next_hop_mode: &'static str,
    /// How often our AS may occur in its paths.
    pub num_allowed_local_as_numbers: u8,
    /// Where the password is.
    pub password_from: Option<PasswordFrom>,
    /// BGPFilters in order.
    pub filters: Vec<String>,
    /// The families on the session, where they are not just that of its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub families: Option<Vec<String>>,
}

/// Where a password is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PasswordFrom {
    /// The Secret.
    pub secret: String,
    /// The key in it.
    pub key: String,
}

/// An originated prefix.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShownRoute {
    /// The prefix.
    pub prefix: String,
    /// block, borrowed or tunnel.
    pub origin: &'static str,
    /// What `prefixAdvertisements` adds.
    pub communities: Vec<String>,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownPool {
    /// Its range.
    pub cidr: String,
    /// None, IpIp or Vxlan.
    pub encapsulation: &'static str,
    /// Always or CrossSubnet.
    pub mode: Option<&'static str>,
    /// Packets that leave the pools get the node's address.
    pub nat_outgoing: bool,
}

/// Computes the answer, and what could not be honoured.
#[must_use]
pub fn show(cluster: &ClusterState) -> (ConfigShow, Vec<Problem>) {
    let (sessions, problems) = sessions(cluster);
    let own = cluster.own_node();
    let answer = ConfigShow {
        node: cluster.node_name.clone(),
        asn: own.map_or(cluster.bgp.asn, |node| cluster.asn_of(node)).0,
        router_id: own.map(|node| router_id(node).to_string()),
        sessions: sessions.iter().map(shown).collect(),
        originated: originated(cluster)
            .into_iter()
            .map(|(prefix, kind)| ShownRoute {
                prefix: prefix.to_string(),
                origin: kind.as_str(),
                communities: communities_of(cluster, prefix)
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            })
            .collect(),
        pools: cluster.pools.values().map(pool).collect(),
    };
    (answer, problems)
}

fn shown(session: &Session) -> ShownSession {
    let v4 = session.address.is_ipv4();
    let plain = matches!(session.families.as_slice(), [only] if (*only == margay_bgp::family::Family::IPV4_UNICAST) == v4);
    ShownSession {
        origin: session.origin.as_str(),
        object: session.object.clone(),
        address: session.address.to_string(),
        port: session.port,
        family: if v4 { "ipv4" } else { "ipv6" },
        asn: session.asn.0,
        local_asn: session.local_asn.0,
        source_address: session.source.map(|address| address.to_string()),
        passive: session.passive,
        route_reflector_client: session.route_reflector_client,
        cluster_id: session.cluster_id.map(|id| id.to_string()),
        ttl_security: session.ttl_security,
        restart_time: session.restart_time.as_secs(),
        keepalive_time: session.keepalive_time.map(|time| time.as_secs()),
        next_hop_mode: match session.next_hop_mode {
            NextHopMode::Auto => "auto",
            NextHopMode::SelfAddress => "self",
            NextHopMode::Keep => "keep",
        },
        num_allowed_local_as_numbers: session.allowed_local_as,
        password_from: session.password.as_ref().map(|reference| PasswordFrom {
            secret: reference.name.clone(),
            key: reference.key.clone(),
        }),
        filters: session.filters.clone(),
        families: (!plain).then(|| session.families.iter().map(ToString::to_string).collect()),
    }
}

fn pool(pool: &IpPool) -> ShownPool {
    let mode = |mode| match mode {
        EncapsulationMode::Always => "Always",
        EncapsulationMode::CrossSubnet => "CrossSubnet",
    };
    let (encapsulation, mode) = match pool.encapsulation {
        Encapsulation::None => ("None", None),
        Encapsulation::IpIp(when) => ("IpIp", Some(mode(when))),
        Encapsulation::Vxlan(when) => ("Vxlan", Some(mode(when))),
    };
    ShownPool {
        cidr: pool.cidr.to_string(),
        encapsulation,
        mode,
        nat_outgoing: pool.nat_outgoing,
    }
}

impl ConfigShow {
    /// As one JSON value.
    #[must_use]
    pub fn to_value(&self) -> Value {
        // Only maps with keys that are no strings, or numbers that are not finite, could fail; there are neither.
        serde_json::to_value(self).unwrap_or_default()
    }
}
