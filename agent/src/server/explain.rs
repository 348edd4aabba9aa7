//! `margay explain`: what this node knows about an address, from whose it is to what the kernel does with it.
//!
//! Each step says what was looked at and what was found; the verdict follows from the last ones: what should be in the kernel, and
//! what is.

use std::net::IpAddr;

use margay_bgp::prefix::Prefix;
use margay_bgp::speaker::snapshot::{Matching, RouteQuery};

use super::answer::{Explanation, Finding};
use super::control::{AgentParts, Control, encapsulation};
use super::shown;
use crate::kernel::{Kernel, MAIN_TABLE, Route, RouteFilter, RouteKey};
use crate::model::{ClusterState, Encapsulation};
use crate::reconcile::Subject;

pub(super) async fn explain(control: &Control, agent: &AgentParts, address: IpAddr) -> Explanation {
    let cluster = agent.cluster.borrow().clone();
    let view = control.routing.view().borrow().clone();
    let mut steps = Vec::new();
    let mut step = |subject: &str, reason: String| {
        steps.push(Finding {
            subject: subject.to_owned(),
            reason,
        })
    };

    let vxlan = whose(&cluster, address, &mut step);
    match control
        .routing
        .routes(RouteQuery {
            prefix: Some(Prefix::host(address)),
            matching: Matching::Longest,
            ..RouteQuery::default()
        })
        .await
    {
        Err(_) => step("bgp", "the speaker does not run".into()),
        Ok(routes) if routes.is_empty() => step(
            "bgp",
            "no peer announces a prefix that holds it, nor does this node".into(),
        ),
        Ok(routes) => {
            for route in &routes {
                for path in route.paths.iter().map(shown::path) {
                    let fate = match (&path.unusable, path.best, path.used) {
                        (Some(reason), _, _) => format!("not usable: {reason}"),
                        (None, true, _) => format!(
                            "best{}",
                            path.step
                                .map(|step| format!(" by {step}"))
                                .unwrap_or_default()
                        ),
                        (None, false, true) => "used beside the best".to_owned(),
                        (None, false, false) => format!(
                            "lost{}",
                            path.step
                                .map(|step| format!(" by {step}"))
                                .unwrap_or_default()
                        ),
                    };
                    let stale = if path.stale {
                        ", kept while its peer restarts"
                    } else {
                        ""
                    };
                    let hop = path
                        .next_hop
                        .map(|hop| format!(" next hop {hop}"))
                        .unwrap_or_default();
                    step(
                        "bgp",
                        format!("{} from {}{hop}: {fate}{stale}", route.prefix, path.from),
                    );
                }
            }
            if vxlan {
                step(
                    "bgp",
                    "routes of a VXLAN pool come from blocks and nodes, so BGP's are not installed"
                        .into(),
                );
            }
        }
    }

    let desired = view.desired.as_ref().and_then(|state| {
        longest(
            state
                .routes
                .iter()
                .map(|(key, route)| (*key, route.clone())),
            address,
        )
    });
    match &desired {
        Some((key, route)) => step("desired", format!("{key} {route}")),
        None => step("desired", "margay wants no route that holds it".into()),
    }
    for problem in view
        .problems
        .iter()
        .filter(|problem| concerns(&problem.subject, address))
    {
        step(
            "problem",
            format!("{}: {}", problem.subject, problem.reason),
        );
    }
    if let Some((key, _)) = &desired
        && let Some(pending) = agent
            .dataplane
            .status()
            .borrow()
            .pending
            .get(&Subject::Route(*key))
    {
        step(
            "pending",
            format!("{} (tried {} times)", pending.reason, pending.attempts),
        );
    }

    let kernel = match agent.kernel.routes(RouteFilter::table(MAIN_TABLE)).await {
        Ok(routes) => longest(routes.into_iter(), address),
        Err(error) => {
            step("kernel", format!("cannot be read: {error}"));
            None
        }
    };
    match &kernel {
        Some((key, route)) => step("kernel", format!("{key} {route}")),
        None => step("kernel", "no route in the main table holds it".into()),
    }

    let (routed, verdict) = verdict(&cluster, address, desired, kernel);
    Explanation {
        address: address.to_string(),
        routed,
        verdict,
        steps,
    }
}

/// Says whose the address is; returns whether it is of a VXLAN pool.
fn whose(cluster: &ClusterState, address: IpAddr, step: &mut impl FnMut(&str, String)) -> bool {
    for workload in cluster
        .workloads
        .values()
        .filter(|workload| workload.addresses.contains(&address))
    {
        step(
            "pod",
            format!(
                "{}/{} on this node, interface {}",
                workload.namespace, workload.pod, workload.host_interface
            ),
        );
    }
    for node in cluster.nodes.values() {
        let tunnels = [
            (node.ipip_tunnel.map(IpAddr::V4), "tunl0"),
            (node.vxlan_tunnel_v4.map(IpAddr::V4), "vxlan.calico"),
            (node.vxlan_tunnel_v6.map(IpAddr::V6), "vxlan-v6.calico"),
        ];
        for (_, device) in tunnels
            .iter()
            .filter(|(tunnel, _)| *tunnel == Some(address))
        {
            step("node", format!("{device} of node {}", node.name));
        }
        let own = [
            node.ipv4.map(|own| IpAddr::V4(own.address)),
            node.ipv6.map(|own| IpAddr::V6(own.address)),
        ];
        if own.contains(&Some(address)) {
            step("node", format!("BGP address of node {}", node.name));
        }
    }
    let Some(pool) = cluster.pool_of(address) else {
        step("pool", "in no pool".into());
        return false;
    };
    step(
        "pool",
        format!(
            "{} {} ({})",
            pool.name,
            pool.cidr,
            encapsulation(pool.encapsulation)
        ),
    );
    match cluster
        .blocks
        .values()
        .find(|block| block.cidr.contains_addr(address))
    {
        None => step(
            "block",
            "in no block: no node has claimed this part of the pool".into(),
        ),
        Some(block) => {
            let owner = match (block.owner(), &block.host) {
                (Some(owner), _) => format!("of node {owner}"),
                (None, Some(host)) => {
                    format!("of nobody yet: the claim of {host} is not confirmed")
                }
                (None, None) => "of no node".to_owned(),
            };
            step(
                "block",
                format!(
                    "{} {owner}, {} addresses in use",
                    block.cidr, block.allocated
                ),
            );
            if let Some(node) = block.borrowed.get(&address) {
                step(
                    "block",
                    format!("the address itself is borrowed by node {node}"),
                );
            }
        }
    }
    matches!(pool.encapsulation, Encapsulation::Vxlan(_))
}

fn verdict(
    cluster: &ClusterState,
    address: IpAddr,
    desired: Option<(RouteKey, Route)>,
    kernel: Option<(RouteKey, Route)>,
) -> (bool, String) {
    let own = cluster.own_node().is_some_and(|node| {
        node.ipv4.map(|own| IpAddr::V4(own.address)) == Some(address)
            || node.ipv6.map(|own| IpAddr::V6(own.address)) == Some(address)
    });
    if own {
        return (true, "it is this node's own address".into());
    }
    match (desired, kernel) {
        (Some((_, route)), _) if route.next_hops.is_empty() => (
            false,
            "it is in a block of this node, and no pod has it: packets are dropped here".into(),
        ),
        (Some((key, _)), Some((installed, route))) if key == installed => {
            (true, format!("routed by margay: {installed} {route}"))
        }
        (Some((key, _)), Some((installed, _))) if installed.prefix.len() > key.prefix.len() => (
            true,
            format!("routed, but by a longer route that is not margay's: {installed}"),
        ),
        (Some((key, _)), _) => (false, format!("margay's route {key} is not in the kernel")),
        (None, Some((key, route))) => (
            true,
            format!("margay has no part in it; the kernel's route is {key} {route}"),
        ),
        (None, None) => (false, "nothing routes it".into()),
    }
}

/// The route the kernel would choose: longest prefix, then lowest metric.
fn longest(
    routes: impl Iterator<Item = (RouteKey, Route)>,
    address: IpAddr,
) -> Option<(RouteKey, Route)> {
    routes
        .filter(|(key, _)| key.prefix.contains_addr(address))
        .min_by_key(|(key, _)| (u8::MAX - key.prefix.len(), key.metric))
}

/// Whether a problem's subject names a prefix that holds the address, or the address itself.
fn concerns(subject: &str, address: IpAddr) -> bool {
    subject.split_whitespace().any(|word| {
        word.parse::<Prefix>()
            .is_ok_and(|prefix| prefix.contains_addr(address))
            || word.parse::<IpAddr>() == Ok(address)
    })
}
