//! `vxlanMode: CrossSubnet`: plain inside a rack, VXLAN between racks, in the running kernel.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Outcome;
use crate::eventually::idle;
use crate::pace;
use crate::report::Report;
use crate::topology::{Encapsulation, Lab, Plan};
use crate::view::{self, Way};

/// Calico's default VXLAN network.
const VNI: u32 = 4096;

/// Builds the lab and checks it.
///
/// # Errors
/// When a step on which all others rest fails.
pub fn run(folder: &Path, report: &mut Report) -> Result<Outcome> {
    let plan = Plan {
        ipv4: Encapsulation::VxlanCrossSubnet,
        ..Plan::default()
    };
    let mut lab = Lab::build(plan, folder)?;
    lab.start_agents()?;
    report.check("sessions: mesh and ToR on every node", || {
        for node in &lab.nodes {
            view::await_sessions(node, 4, pace::seconds(40))?;
        }
        Ok(format!(
            "{} seen by the ToRs",
            lab.await_router_sessions(pace::seconds(20))?
        ))
    });
    lab.fill_pods(3)?;
    report.check("direct routes in the rack, vxlan.calico across", || {
        let count = view::await_routes(&lab, 4, pace::seconds(20), |from, to| {
            let same = from.rack == to.rack;
            let gateway = if same {
                Some(to.address(4)?.to_string())
            } else {
                None
            };
            let interface = if same { "eth0" } else { "vxlan.calico" };
            Ok(Some(Way {
                gateway,
                interface: interface.to_owned(),
            }))
        })?;
        Ok(format!("{count} routes"))
    });
    report.check("everyone pings everyone", || {
        view::await_everyone(&lab, pace::seconds(20))
    });
    report.check(
        "plain inside a rack, VXLAN between racks, the source address unchanged",
        || {
            let from = &lab.nodes[0].pods["n1-pod1"];
            let source = from.address(4)?;
            let near = lab.nodes[1].pods["n2-pod1"].address(4)?;
            let packets = view::seen_at(&lab, &lab.nodes[1].netns, "eth0", from, near)?;
            ensure!(
                packets
                    .iter()
                    .all(|packet| packet.inner.is_none() && packet.source == source),
                "{packets:?}"
            );
            let far = lab.nodes[2].pods["n3-pod1"].address(4)?;
            let packets = view::seen_at(&lab, &lab.racks[0].netns, "up0", from, far)?;
            let right = packets
                .iter()
                .all(|packet| packet.vni == Some(VNI) && packet.innermost().source == source);
            ensure!(right, "{packets:?}");
            Ok(format!(
                "{source} > {near} plain; {source} > {far} in VXLAN {VNI}"
            ))
        },
    );
    report.check("outside hosts see the nodes' addresses", || {
        let from = &lab.nodes[0].pods["n1-pod1"];
        let target = lab.racks[1].outside.addresses[0];
        let own = lab.nodes[0].address(4)?;
        let packets = view::seen_at(&lab, &lab.racks[1].outside.netns, "eth0", from, target)?;
        ensure!(
            packets.iter().all(|packet| packet.source == own),
            "{packets:?}"
        );
        Ok(format!("{own} > {target}"))
    });
    report.check("a route deleted by hand comes back", || {
        let block = view::blocks(&lab.nodes[2], 4)?
            .into_iter()
            .next()
            .unwrap_or_default();
        let away = view::repair_time(&lab, &lab.nodes[0], &block)?;
        Ok(format!(
            "{block} was away for {:.1} ms",
            away.as_secs_f64() * 1e3
        ))
    });
    report.check(
        "an agent killed with -9, 6 s away, restarted: no packet lost",
        || {
            let pairs = [
                ("n1-pod1", "n2-pod1"),
                ("n2-pod1", "n1-pod1"),
                ("n3-pod2", "n2-pod2"),
                ("n2-pod2", "n3-pod2"),
            ];
            let streams = view::streams(&lab, &pairs, folder)?;
            lab.node_mut("n2")?.kill_agent()?;
            idle(Duration::from_secs(6));
            lab.node_mut("n2")?.start_agent()?;
            view::await_sessions(lab.node("n2")?, 4, pace::seconds(60))?;
            idle(Duration::from_secs(10));
            view::none_lost(streams)
        },
    );
    Ok(Outcome::Passed)
}
