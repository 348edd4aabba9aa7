//! Pods on two racks reach each other over BGP, and nothing that happens to an agent costs a packet: shown, step by step.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::eventually::{eventually, idle};
use crate::node::{Node, Pod};
use crate::report::{Report, say};
use crate::scenario::Outcome;
use crate::topology::{Lab, Plan};
use crate::view::{self, Way};
use crate::{pace, ping};

/// Pods of each node.
const PODS: usize = 3;
/// Sessions of each node: three others and its ToR.
const SESSIONS: usize = 4;

/// Runs the demo and prints its table.
///
/// # Errors
/// When the lab cannot be built or a step on which all others rest fails; the table is printed all the same.
pub fn run(folder: &Path, report: &mut Report) -> Result<Outcome> {
    say(PICTURE);
    let outcome = show(folder, report);
    say(report.table());
    outcome
}

const PICTURE: &str = "
   outside a 198.51.100.0/24            outside b 203.0.113.0/24
          │                                     │
   ┌──────┴──────┐                   ┌──────────┴──┐
   │ tora: BIRD  ├───────────────────┤ torb: FRR   │    eBGP with each node; pod prefixes refused
   └──┬───────┬──┘                   └──┬───────┬──┘
      n1      n2   10.0.1.0/24          n3      n4   10.0.2.0/24     full iBGP mesh of four `margay agent`
    3 pods  3 pods                    3 pods  3 pods                 10.65.0.0/16, ipipMode: CrossSubnet
";

fn show(folder: &Path, report: &mut Report) -> Result<Outcome> {
    let mut lab = Lab::build(Plan::default(), folder)?;
    lab.start_agents()?;
    report.check(
        "four sessions on every node: three nodes and the ToR",
        || {
            for node in &lab.nodes {
                view::await_sessions(node, SESSIONS, pace::seconds(40))?;
            }
            let seen = lab.await_router_sessions(pace::seconds(20))?;
            Ok(format!(
                "{} on the nodes, {seen} seen by BIRD and FRR",
                SESSIONS * lab.nodes.len()
            ))
        },
    );
    lab.fill_pods(PODS)?;
    report.check(
        "each node routes the others' blocks: direct in the rack, tunnel across",
        || {
            let count = view::await_routes(&lab, 4, pace::seconds(20), |from, to| {
                way(from, to).map(Some)
            })?;
            Ok(format!(
                "{count} routes, proto 109; the node's own blocks are blackholes"
            ))
        },
    );
    report.check("everyone pings everyone", || {
        view::await_everyone(&lab, pace::seconds(20))
    });
    captures(&lab, report);
    outside(&lab, report);
    report.check("a route deleted by hand comes back", || {
        let n1 = lab.node("n1")?;
        let block = view::blocks(lab.node("n3")?, 4)?
            .into_iter()
            .next()
            .context("n3 holds no block")?;
        let away = view::repair_time(&lab, n1, &block)?;
        Ok(format!(
            "{block} was away from n1 for {:.1} ms",
            away.as_secs_f64() * 1e3
        ))
    });
    report.check(
        "an agent killed with -9, 6 s away, restarted: no packet lost",
        || restart(&mut lab),
    );
    report.check("metrics answer on every node", || metrics(&lab));
    frozen(&mut lab, report);
    closed(&lab, report);
    Ok(Outcome::Passed)
}

fn way(from: &Node, to: &Node) -> Result<Way> {
    let interface = if from.rack == to.rack {
        "eth0"
    } else {
        "tunl0"
    };
    Ok(Way {
        gateway: Some(to.address(4)?.to_string()),
        interface: interface.to_owned(),
    })
}

fn pod<'a>(lab: &'a Lab, node: &str, index: usize) -> Result<&'a Pod> {
    lab.node(node)?
        .pods
        .get(&format!("{node}-pod{index}"))
        .with_context(|| format!("no pod {index} on {node}"))
}

fn captures(lab: &Lab, report: &mut Report) {
    report.check(
        "inside a rack packets are plain, source address unchanged",
        || {
            let (from, to) = (pod(lab, "n1", 1)?, pod(lab, "n2", 1)?);
            let (source, target) = (from.address(4)?, to.address(4)?);
            let packets = view::seen_at(lab, &lab.node("n2")?.netns, "eth0", from, target)?;
            ensure!(
                packets
                    .iter()
                    .all(|packet| packet.inner.is_none() && packet.source == source),
                "{packets:?}"
            );
            Ok(format!("at n2: {source} > {target} ICMP"))
        },
    );
    report.check("between racks they are IP protocol 4 from node to node, unchanged inside", || {
        let (from, to) = (pod(lab, "n1", 1)?, pod(lab, "n3", 1)?);
        let (source, target) = (from.address(4)?, to.address(4)?);
        let (outer_source, outer_target) = (lab.node("n1")?.address(4)?, lab.node("n3")?.address(4)?);
        let packets = view::seen_at(lab, &lab.rack("a")?.netns, "up0", from, target)?;
        let right = packets.iter().all(|packet| {
            packet.is_ipip()
                && packet.source == outer_source
                && packet.destination == outer_target
                && packet.innermost().source == source
        });
        ensure!(right, "{packets:?}");
        let arrived = view::seen_at(lab, &to.netns, "eth0", from, target)?;
        ensure!(arrived.iter().all(|packet| packet.source == source), "in the pod: {arrived:?}");
        Ok(format!("at the ToRs' link: {outer_source} > {outer_target} [ {source} > {target} ICMP ]; in the pod from {source}"))
    });
}

fn outside(lab: &Lab, report: &mut Report) {
    report.check("the ToRs are offered pod prefixes and refuse them", || {
        let mut offered = 0;
        for rack in &lab.racks {
            for node in lab.nodes.iter().filter(|node| node.rack == rack.name) {
                offered += rack
                    .router
                    .received(node.address(4)?, 4)?
                    .iter()
                    .filter(|prefix| prefix.starts_with("10.65."))
                    .count();
            }
            let kept: Vec<_> = rack
                .router
                .routes(4)?
                .into_iter()
                .filter(|route| route.prefix.starts_with("10.65."))
                .collect();
            ensure!(kept.is_empty(), "rack {} kept {kept:?}", rack.name);
        }
        ensure!(offered > 0, "no pod prefix was offered");
        Ok(format!("{offered} offered, 0 kept"))
    });
    report.check("pods reach the outside hosts, masqueraded", || {
        let hosts: Vec<_> = lab.racks.iter().map(|rack| rack.outside.clone()).collect();
        let reach = ping::await_all_pairs(&lab.pod_endpoints(), &hosts, pace::seconds(20))?;
        let mut seen = Vec::new();
        for rack in &lab.racks {
            for node in ["n1", "n4"] {
                let target = rack
                    .outside
                    .addresses
                    .first()
                    .copied()
                    .context("no outside address")?;
                let packets =
                    view::seen_at(lab, &rack.outside.netns, "eth0", pod(lab, node, 2)?, target)?;
                let own = lab.node(node)?.address(4)?;
                ensure!(
                    packets.iter().all(|packet| packet.source == own),
                    "{target} saw {packets:?}, not {own}"
                );
                seen.push(format!("{own} > {target}"));
            }
        }
        Ok(format!(
            "{} pairs; seen outside: {}",
            reach.tried,
            seen.join(", ")
        ))
    });
}

fn restart(lab: &mut Lab) -> Result<String> {
    let pairs = [
        ("n1-pod1", "n2-pod1"),
        ("n2-pod1", "n1-pod1"),
        ("n3-pod2", "n2-pod2"),
        ("n2-pod2", "n3-pod2"),
    ];
    let folder = lab.folder.clone();
    let streams = view::streams(lab, &pairs, &folder)?;
    idle(pace::seconds(1));
    lab.node_mut("n2")?.kill_agent()?;
    idle(std::time::Duration::from_secs(6));
    lab.node_mut("n2")?.start_agent()?;
    let start = std::time::Instant::now();
    view::await_sessions(lab.node("n2")?, SESSIONS, pace::seconds(60))?;
    let back = start.elapsed();
    idle(std::time::Duration::from_secs(10));
    let kept = view::none_lost(streams)?;
    Ok(format!(
        "{kept}; every End-of-RIB was back {:.1} s after the start",
        back.as_secs_f64()
    ))
}

fn metrics(lab: &Lab) -> Result<String> {
    for node in &lab.nodes {
        let page = node.http("http://127.0.0.1:9091/metrics")?;
        let established = page
            .lines()
            .find(|line| line.starts_with("margay_bgp_sessions{state=\"established\"}"));
        let count = established
            .and_then(|line| line.rsplit(' ').next())
            .unwrap_or("nothing");
        ensure!(
            count == SESSIONS.to_string(),
            "{} says {count} established sessions",
            node.name
        );
    }
    Ok(format!("{SESSIONS} established sessions each"))
}

fn frozen(lab: &mut Lab, report: &mut Report) {
    report.check("routes come from BGP: with n1's view of the datastore frozen, a new block of n4 is reached", || {
        let copy = lab.objects.copy_to(&lab.folder.join("frozen"))?;
        let n1 = lab.node_mut("n1")?;
        n1.stop_agent()?;
        n1.datastore = copy.folder().to_path_buf();
        n1.start_agent()?;
        n1.await_ready(pace::seconds(30))?;
        view::await_sessions(lab.node("n1")?, SESSIONS, pace::seconds(60))?;
        let before = view::blocks(lab.node("n4")?, 4)?;
        let n4 = lab.node_mut("n4")?;
        // Blocks of this pool hold eight addresses.
        n4.fill_pods(PODS + 6)?;
        let after = view::blocks(lab.node("n4")?, 4)?;
        let new: Vec<String> = after.difference(&before).cloned().collect();
        let block = new.first().context("n4 claimed no new block")?;
        let name = block.replace(['.', '/'], "-");
        ensure!(copy.text("ipamblocks", &name).is_none(), "n1's frozen view knows {block}");
        eventually("a route", pace::seconds(10), || {
            let routes = view::own_routes(lab.node("n1")?, 4)?;
            ensure!(routes.iter().any(|route| route.prefix == *block), "n1 has no route to {block}");
            Ok::<_, anyhow::Error>(())
        })?;
        let reached: Vec<_> = lab.node("n4")?.pods.values().map(Pod::endpoint).collect();
        let from: Vec<_> = lab.node("n1")?.pods.values().map(Pod::endpoint).collect();
        let reach = ping::await_all_pairs(&from, &reached, pace::seconds(10))?;
        Ok(format!("{block} is not in n1's view, and {} pairs ping", reach.tried))
    });
}

fn closed(lab: &Lab, report: &mut Report) {
    report.check(
        "a session closed by the ToR takes exactly its routes",
        || {
            let n1 = lab.node("n1")?;
            let router = &lab.rack("a")?.router;
            let neighbor = n1.address(4)?;
            let gone = lost_while(n1, || router.close(neighbor), || router.open(neighbor))?;
            let announced: Vec<_> = lab.racks.iter().map(|rack| &rack.outside_prefix).collect();
            ensure!(
                gone.iter().eq(announced.iter().copied()),
                "lost {gone:?}, expected {announced:?}"
            );
            Ok(format!("n1 lost {} and nothing else", gone.join(" ")))
        },
    );
    report.check(
        "a mesh session closed by `margay peers disable` takes exactly its routes",
        || {
            let (n1, n4) = (lab.node("n1")?, lab.node("n4")?);
            let target: IpAddr = n4.address(4)?;
            let session = view::sessions(n1)?
                .into_iter()
                .find(|session| session.address == target);
            let name = session.context("n1 has no session with n4")?.name;
            let ask = |verb: &str| n1.tell(&["peers", verb, &name]);
            let gone = lost_while(n1, || ask("disable"), || ask("enable"))?;
            let blocks: Vec<_> = view::blocks(n4, 4)?.into_iter().collect();
            ensure!(gone == blocks, "lost {gone:?}, expected {blocks:?}");
            Ok(format!("n1 lost {} and nothing else", gone.join(" ")))
        },
    );
}

/// Prefixes a node's kernel loses when a session is closed; opens it again and waits until they are back.
fn lost_while(
    node: &Node,
    close: impl FnOnce() -> Result<()>,
    open: impl FnOnce() -> Result<()>,
) -> Result<Vec<String>> {
    let prefixes = || -> Result<Vec<String>> {
        Ok(view::own_routes(node, 4)?
            .into_iter()
            .map(|route| route.prefix)
            .collect())
    };
    let before = prefixes()?;
    close()?;
    let lost = || -> Result<Vec<String>> {
        let now = prefixes()?;
        Ok(before
            .iter()
            .filter(|prefix| !now.contains(prefix))
            .cloned()
            .collect())
    };
    eventually("routes to go", pace::seconds(10), || {
        ensure!(!lost()?.is_empty(), "nothing lost");
        Ok::<_, anyhow::Error>(())
    })?;
    // Whatever else is going to go has gone shortly after.
    idle(pace::seconds(1));
    let gone = lost()?;
    open()?;
    eventually("the routes to come back", pace::seconds(40), || {
        let still = lost()?;
        ensure!(still.is_empty(), "still missing {still:?}");
        Ok::<_, anyhow::Error>(())
    })?;
    Ok(gone)
}
