//! What this node should be: which sessions, which advertisements, and what its kernel holds.
//!
//! Everything here is a pure function of the cluster's state, the best BGP routes and the underlay; equal inputs give equal outputs,
//! whatever the order in which they came about. Nothing is remembered. Whoever calls decides when ([`crate::routing`]) and what
//! becomes of it ([`crate::reconcile`]).
//!
//! ```text
//! ClusterState ─┬─► peers ──► sessions ─► PeerConfig ◄── filters
//!               ├─► advertisements ──► Originate
//!               └─► tunnels ─► routes ─► masquerade ──► DesiredState ──► reconcile
//! best BGP routes ────────────▲   ▲
//! Underlay ───────────────────┴───┘ (next_hop)
//! ```
//!
//! What cannot be honoured is a [`Problem`] that names the object and the reason, and concerns nothing else.

pub mod advertisements;
pub mod filters;
mod masquerade;
pub mod next_hop;
pub mod peers;
mod routes;
pub mod show;
pub mod speaker;
pub mod state;
#[cfg(test)]
mod tests;
pub mod tunnels;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use margay_bgp::family::Family;
use margay_bgp::prefix::Prefix;

use crate::model::{ClusterState, Encapsulation, EncapsulationMode, Labels, RemoteSide};
use next_hop::Resolver;
use state::{DesiredState, Problem, Underlay};

/// The most problems that are listed.
const PROBLEMS: usize = 1000;

/// What the names of interfaces that margay's plugin makes start with.
const PLUGIN_PREFIX: &str = "cali";
/// Time between audits where the configuration asks for none.
const RARE_AUDIT: Duration = Duration::from_secs(86_400);

/// The best routes that peers told us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BestRoutes {
    /// By prefix.
    pub routes: BTreeMap<Prefix, Learned>,
}

/// One best route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    /// Equal next hops, sorted.
    pub next_hops: Vec<LearnedHop>,
    /// The peer of the best path.
    pub peer: String,
    /// LOCAL_PREF, where the path has one.
    pub local_pref: Option<u32>,
    /// Kept while its peer restarts.
    pub stale: bool,
    /// Policy wants its traffic dropped (RFC 7999).
    pub discard: bool,
}

/// A BGP next hop.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LearnedHop {
    /// The address.
    pub address: IpAddr,
    /// The interface of a link-local address.
    pub interface: Option<String>,
    /// Its share of the traffic, where next hops have different ones.
    pub weight: Option<u8>,
}

/// What does not come from the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Marks our routes.
    pub protocol: u8,
    /// Families whose BGP tables are not complete yet.
    pub keep_unlisted: BTreeSet<Family>,
    /// What the options of one socket may take at least, in octets: the keys of every peer are options of the listener.
    pub option_memory: u64,
}

/// What the kernel of the node that looks should hold.
#[must_use]
pub fn desired(
    cluster: &ClusterState,
    best: &BestRoutes,
    underlay: &Underlay,
    settings: &Settings,
) -> DesiredState {
    let mut state = DesiredState {
        in_sync: cluster.in_sync,
        keep_unlisted: settings.keep_unlisted.clone(),
        forward_accept: !cluster.pools.is_empty(),
        audit_interval: Some(
            cluster
                .felix
                .route_refresh_interval
                .map_or(RARE_AUDIT, |interval| interval.min(RARE_AUDIT)),
        ),
        interface_prefixes: cluster
            .felix
            .interface_prefixes
            .iter()
            .cloned()
            .chain([PLUGIN_PREFIX.to_owned()])
            .collect(),
        ..DesiredState::default()
    };
    let (sessions, _) = peers::sessions(cluster);
    let gateways = sessions
        .iter()
        .filter_map(|session| Some((session.address, session.reachable_by?)))
        .collect();
    match cluster.own_node() {
        Some(own) => {
            state.ipip = tunnels::ipip(cluster, own, underlay, &mut state.problems);
            state.vxlan = tunnels::vxlan(cluster, own, underlay, &mut state.problems);
        }
        None => {
            // Without its own object a node knows neither its address nor its subnet. Pods that run keep their routes, and
            // nothing that an earlier life knew better is removed.
            state.in_sync = false;
            state.problems.push(Problem {
                subject: format!("Node {}", cluster.node_name),
                reason: "there is no such Node object: this node has no address to peer from"
                    .into(),
            });
        }
    }
    let resolver = Resolver::new(underlay, gateways);
    if cluster.felix.route_sync_disabled {
        state.keep_unlisted.extend(Family::ALL);
        state.problems.push(Problem {
            subject: "FelixConfiguration".into(),
            reason: "spec.routeSyncDisabled: no route is written but those of this node's own pods"
                .into(),
        });
        // A pod that is added waits for its route.
        routes::Routes::new(cluster, &resolver, settings.protocol, &state).workloads(&mut state);
    } else {
        routes::Routes::new(cluster, &resolver, settings.protocol, &state).add(best, &mut state);
    }
    state.masquerade = masquerade::masquerade(cluster, &state);
    state.sysctls = sysctls(cluster, underlay, &state);
    state.sysctls_at_least = sysctls_at_least(settings);
    unheeded(cluster, &mut state.problems);
    settle(&mut state.problems);
    state
}

/// What the kernel of a router without a cluster should hold: the best routes, and nothing else.
#[must_use]
pub fn router(best: &BestRoutes, underlay: &Underlay, settings: &Settings) -> DesiredState {
    let cluster = ClusterState::default();
    let mut state = DesiredState {
        in_sync: true,
        keep_unlisted: settings.keep_unlisted.clone(),
        sysctls_at_least: sysctls_at_least(settings),
        ..DesiredState::default()
    };
    let resolver = Resolver::new(underlay, BTreeMap::new());
    routes::Routes::new(&cluster, &resolver, settings.protocol, &state).bgp(best, &mut state);
    settle(&mut state.problems);
    state
}

/// Sorts them, and keeps as many as anybody reads: a peer may announce any number of prefixes that are refused.
fn settle(problems: &mut Vec<Problem>) {
    problems.sort();
    problems.dedup();
    let more = problems.len().saturating_sub(PROBLEMS);
    if more > 0 {
        problems.truncate(PROBLEMS);
        problems.push(Problem {
            subject: "...".into(),
            reason: format!("and {more} more like these"),
        });
    }
}

fn sysctls(
    cluster: &ClusterState,
    underlay: &Underlay,
    state: &DesiredState,
) -> BTreeMap<String, String> {
    let mut sysctls = BTreeMap::new();
    let mut set = |name: &str, value: &str| sysctls.insert(name.to_owned(), value.to_owned());
    if cluster.felix.ip_forwarding {
        set("net.ipv4.ip_forward", "1");
        // Forwarding for IPv6 stops the host from taking router advertisements, so it is switched on only where pods need it.
        let v6 = cluster
            .pools
            .values()
            .any(|pool| pool.cidr.family() == Family::IPV6_UNICAST);
        if v6 && cluster.felix.ipv6_support {
            set("net.ipv6.conf.all.forwarding", "1");
        }
    }
    // Packets of a peer that decides by its own mask alone may come through the tunnel although ours go without, and the other way
    // round: loose reverse-path checks take both. Strict ones would drop them.
    if state.ipip.is_some() {
        set("net/ipv4/conf/tunl0/rp_filter", "2");
    }
    if let Some(device) = state.vxlan.get(&Family::IPV4_UNICAST) {
        set(&format!("net/ipv4/conf/{}/rp_filter", device.name), "2");
    }
    let cross_subnet = cluster.pools.values().any(|pool| {
        pool.cidr.family() == Family::IPV4_UNICAST
            && matches!(
                pool.encapsulation,
                Encapsulation::IpIp(EncapsulationMode::CrossSubnet)
                    | Encapsulation::Vxlan(EncapsulationMode::CrossSubnet)
            )
    });
    if cross_subnet
        && let Some(own) = cluster.own_node()
        && let Some(address) = own.data_address(Family::IPV4_UNICAST)
        && let Some(parent) = underlay.owner_of(address)
        && cluster
            .nodes
            .values()
            .any(|node| tunnels::masks_disagree(Family::IPV4_UNICAST, own, node))
    {
        set(
            &format!("net/ipv4/conf/{}/rp_filter", parent.interface),
            "2",
        );
    }
    sysctls
}

/// Each password of a peer takes room on the listener, of which kernels before 6.8 have enough for 150.
fn sysctls_at_least(settings: &Settings) -> BTreeMap<String, u64> {
    /// What every kernel begins with at least.
    const ALWAYS: u64 = 20_480;
    let mut sysctls = BTreeMap::new();
    if settings.option_memory > ALWAYS {
        sysctls.insert("net.core.optmem_max".to_owned(), settings.option_memory);
    }
    sysctls
}

/// Settings that are understood and not acted on.
fn unheeded(cluster: &ClusterState, problems: &mut Vec<Problem>) {
    for peer in cluster.peers.values() {
        if let RemoteSide::LocalWorkloads { selector, .. } = &peer.remote
            && !selector.matches(&Labels::new())
        {
            problems.push(Problem {
                subject: format!("BGPPeer {}", peer.name),
                reason: "spec.localWorkloadSelector: margay does not know pods' labels yet, so this selects none; all() selects every pod"
                    .into(),
            });
        }
    }
    if !cluster
        .felix
        .interface_prefixes
        .iter()
        .any(|prefix| prefix == PLUGIN_PREFIX)
    {
        problems.push(Problem {
            subject: "FelixConfiguration".into(),
            reason: format!(
                "spec.interfacePrefix: margay's own plugin names interfaces {PLUGIN_PREFIX}…, which are pods' as well"
            ),
        });
    }
    let bgp = &cluster.bgp;
    for (field, ranges) in [
        ("serviceClusterIPs", &bgp.service_cluster_ips),
        ("serviceExternalIPs", &bgp.service_external_ips),
        ("serviceLoadBalancerIPs", &bgp.service_load_balancer_ips),
    ] {
        if !ranges.is_empty() {
            problems.push(Problem {
                subject: "BGPConfiguration default".into(),
                reason: format!("spec.{field}: margay does not advertise Services yet"),
            });
        }
    }
}
