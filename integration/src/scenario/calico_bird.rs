//! A node that still runs Calico's BIRD 1.6 in the mesh, beside three with margay.
//!
//! The configuration is what Calico's confd renders for such a node: `add paths`, graceful restart, `multihop`, recursive
//! gateways, static blackholes for its blocks, one daemon a family. Routes go both ways, and neither side drops the
//! other's while it restarts.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Outcome;
use crate::eventually::{eventually, idle};
use crate::link::{self, End};
use crate::netns::Netns;
use crate::pace;
use crate::ping::{self, Endpoint, Stream};
use crate::report::Report;
use crate::router::bird::Version;
use crate::router::{Bird, Router as _};
use crate::topology::{CLUSTER_ASN, Encapsulation, Lab, Plan};
use crate::view;

/// The block of the BIRD node, known to nobody but its BIRD.
const BLOCK: &str = "10.65.200.0/29";
const POD: &str = "10.65.200.2";

/// Builds the lab and checks it.
///
/// # Errors
/// When a step on which all others rest fails.
pub fn run(folder: &Path, report: &mut Report) -> Result<Outcome> {
    if Version::One.programs().is_none() {
        return Ok(Outcome::Skipped(
            "this distribution has no BIRD 1.6".to_owned(),
        ));
    }
    let plan = Plan {
        ipv4: Encapsulation::None,
        ..Plan::default()
    };
    let mut lab = Lab::build(plan, folder)?;
    // The ToR's session with n4 stays down: Calico's BIRD is configured for the mesh alone.
    let old = lab.nodes.pop().ok_or_else(|| anyhow::anyhow!("no node"))?;
    // Calico's pods reach their gateway by proxy ARP, which needs a default route on the host.
    old.netns.ip("route add default via 10.0.2.1")?;
    let pod = old_pod(&old.netns)?;
    let others: Vec<IpAddr> = lab
        .nodes
        .iter()
        .map(|node| node.address(4))
        .collect::<Result<_>>()?;
    let own = old.address(4)?;
    let bird = Bird::start(
        Version::One,
        &old.netns,
        &configuration(own, &others),
        folder,
    )?;
    lab.start_agents()?;
    report.check("every margay node has a session with BIRD 1.6", || {
        for node in &lab.nodes {
            view::await_sessions(node, 4, pace::seconds(60))?;
        }
        let up = bird.sessions()?.values().filter(|up| **up).count();
        ensure!(up == 3, "BIRD sees {up}");
        Ok("3 sessions, End-of-RIB on each".to_owned())
    });
    lab.fill_pods(2)?;
    let mut blocks = vec![("b".to_owned(), BLOCK.to_owned(), own)];
    for node in &lab.nodes {
        for block in view::blocks(node, 4)? {
            blocks.push((node.rack.clone(), block, node.address(4)?));
        }
    }
    lab.carry_pods_by_hand(&blocks)?;
    report.check("routes go both ways", || {
        eventually("each other's blocks", pace::seconds(20), || {
            for node in &lab.nodes {
                ensure!(
                    view::own_routes(node, 4)?
                        .iter()
                        .any(|route| route.prefix == BLOCK),
                    "{} lacks it",
                    node.name
                );
            }
            let kernel = link::routes(&old.netns, 4)?;
            for (_, block, _) in blocks.iter().skip(1) {
                ensure!(
                    kernel.iter().any(|route| route.prefix == *block),
                    "BIRD's kernel lacks {block}"
                );
            }
            Ok::<_, anyhow::Error>(())
        })?;
        Ok(format!(
            "{BLOCK} on 3 nodes, {} blocks on BIRD's",
            blocks.len() - 1
        ))
    });
    report.check("pods of both kinds of node ping each other", || {
        let pods = lab.pod_endpoints();
        let there = ping::await_all_pairs(&pods, std::slice::from_ref(&pod), pace::seconds(20))?;
        let back = ping::await_all_pairs(std::slice::from_ref(&pod), &pods, pace::seconds(20))?;
        Ok(format!("{} pairs", there.tried + back.tried))
    });
    report.check(
        "margay killed with -9 and restarted: BIRD keeps its routes, no packet lost",
        || {
            let target = lab.nodes[2].pods["n3-pod1"].address(4)?;
            let streams = vec![
                Stream::start(&pod.netns, target, folder)?,
                Stream::start(
                    &lab.nodes[2].pods["n3-pod1"].netns,
                    pod.addresses[0],
                    folder,
                )?,
            ];
            lab.node_mut("n3")?.kill_agent()?;
            idle(Duration::from_secs(6));
            lab.node_mut("n3")?.start_agent()?;
            view::await_sessions(lab.node("n3")?, 4, pace::seconds(60))?;
            idle(Duration::from_secs(5));
            view::none_lost(streams)
        },
    );
    Ok(Outcome::Passed)
}

fn old_pod(node: &Netns) -> Result<Endpoint> {
    let pod = Netns::create_settled("old-pod")?;
    link::wire(
        &End {
            netns: &pod,
            interface: "eth0",
        },
        &End {
            netns: node,
            interface: "caliold",
        },
    )?;
    link::addresses(&pod, "eth0", &[format!("{POD}/32")])?;
    pod.ip("route add 169.254.1.1 dev eth0 scope link")?;
    pod.ip("route add default via 169.254.1.1")?;
    node.ip(&format!("route add {POD}/32 dev caliold scope link"))?;
    node.sysctl("net.ipv4.conf.caliold.proxy_arp", "1")?;
    node.sysctl("net.ipv4.neigh.caliold.proxy_delay", "0")?;
    node.sysctl("net.ipv4.ip_forward", "1")?;
    Ok(Endpoint {
        name: "old-pod".to_owned(),
        netns: pod,
        addresses: vec![POD.parse()?],
    })
}

fn configuration(own: IpAddr, others: &[IpAddr]) -> String {
    let mut text = format!(
        "router id {own};
listen bgp port 179;
filter exported {{ if net = {BLOCK} then accept; if net ~ [ 10.65.0.0/16+ ] && source != RTS_BGP then reject; reject; }}
protocol kernel {{ learn; persist; scan time 2; import all; export where source = RTS_BGP || source = RTS_STATIC; graceful restart; merge paths on; }}
protocol device {{ scan time 2; }}
protocol direct {{ interface -\"cali*\", -\"kube-ipvs*\", \"*\"; }}
protocol static {{ route {BLOCK} blackhole; }}
template bgp bgp_template {{
  local as {CLUSTER_ASN};
  multihop;
  gateway recursive;
  import all;
  export filter exported;
  add paths on;
  graceful restart;
  connect delay time 2;
  connect retry time 5;
  error wait time 5,30;
}}
"
    );
    for other in others {
        let name = other.to_string().replace('.', "_");
        // Calico's rule: the one whose address is smaller as a string waits.
        let passive = if other.to_string() > own.to_string() {
            " passive on;"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "protocol bgp Mesh_{name} from bgp_template {{ neighbor {other} as {CLUSTER_ASN}; source address {own};{passive} }}"
        );
    }
    text
}
