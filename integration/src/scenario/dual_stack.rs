//! IPv4 and IPv6 together: pods with an address of each, sessions of each family over itself, both pools in VXLAN.

use std::path::Path;

use anyhow::{Result, ensure};

use super::Outcome;
use crate::pace;
use crate::report::Report;
use crate::topology::{Encapsulation, Lab, Plan};
use crate::view::{self, Way};

/// Builds the lab and checks it.
///
/// # Errors
/// When a step on which all others rest fails.
pub fn run(folder: &Path, report: &mut Report) -> Result<Outcome> {
    let vxlan = Encapsulation::VxlanCrossSubnet;
    let plan = Plan {
        ipv4: vxlan,
        ipv6: Some(vxlan),
        ..Plan::default()
    };
    let mut lab = Lab::build(plan, folder)?;
    lab.start_agents()?;
    report.check("a session of each family with every peer", || {
        for node in &lab.nodes {
            let sessions = view::await_sessions(node, 8, pace::seconds(40))?;
            let six = sessions
                .iter()
                .filter(|session| session.address.is_ipv6())
                .count();
            ensure!(six == 4, "{six} over IPv6 on {}", node.name);
        }
        Ok(format!(
            "4 + 4 a node; {} seen by the ToRs",
            lab.await_router_sessions(pace::seconds(20))?
        ))
    });
    lab.fill_pods(3)?;
    report.check("each pod has an address of each family", || {
        for pod in lab.nodes.iter().flat_map(|node| node.pods.values()) {
            ensure!(
                pod.address(4).is_ok() && pod.address(6).is_ok(),
                "{}: {:?}",
                pod.name,
                pod.addresses
            );
        }
        Ok("12 pods".to_owned())
    });
    report.check(
        "direct routes in the rack, VXLAN devices of each family across",
        || {
            let mut count = 0;
            for (family, device) in [(4, "vxlan.calico"), (6, "vxlan-v6.calico")] {
                count += view::await_routes(&lab, family, pace::seconds(20), |from, to| {
                    let same = from.rack == to.rack;
                    let gateway = if same {
                        Some(to.address(family)?.to_string())
                    } else {
                        None
                    };
                    Ok(Some(Way {
                        gateway,
                        interface: if same { "eth0" } else { device }.to_owned(),
                    }))
                })?;
            }
            Ok(format!("{count} routes"))
        },
    );
    report.check("everyone pings everyone in both families", || {
        view::await_everyone(&lab, pace::seconds(20))
    });
    report.check(
        "IPv6 between racks is VXLAN over IPv6, the source address unchanged",
        || {
            let from = &lab.nodes[0].pods["n1-pod1"];
            let (source, far) = (from.address(6)?, lab.nodes[2].pods["n3-pod1"].address(6)?);
            let packets = view::seen_at(&lab, &lab.racks[0].netns, "up0", from, far)?;
            let right = packets.iter().all(|packet| {
                packet.vni.is_some()
                    && packet.source.is_ipv6()
                    && packet.innermost().source == source
            });
            ensure!(right, "{packets:?}");
            Ok(format!(
                "{} > {} [ {source} > {far} ]",
                packets[0].source, packets[0].destination
            ))
        },
    );
    report.check("outside hosts see the nodes' IPv6 addresses", || {
        let from = &lab.nodes[0].pods["n1-pod1"];
        let target = lab.racks[0].outside.addresses[1];
        let own = lab.nodes[0].address(6)?;
        let packets = view::seen_at(&lab, &lab.racks[0].outside.netns, "eth0", from, target)?;
        ensure!(
            packets.iter().all(|packet| packet.source == own),
            "{packets:?}"
        );
        Ok(format!("{own} > {target}"))
    });
    Ok(Outcome::Passed)
}
