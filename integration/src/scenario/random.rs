//! Two thousand seeded random changes, then: every node's kernel equals what a freshly started agent computes.
//!
//! Pods come and go, pools, nodes and peers are created, changed and deleted, agents are killed. At the end each agent is
//! stopped, everything margay put into the kernel is thrown away, and a fresh agent builds it again from the same
//! objects and records: the tables must be the same, whatever history the first one went through.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::Outcome;
use crate::cni::CniError;
use crate::eventually::eventually;
use crate::node::Node;
use crate::report::{Report, say};
use crate::topology::{Encapsulation, Lab, Plan};
use crate::{exec, pace, view};

/// Environment variables that repeat a run or shorten it.
const SEED_VARIABLE: &str = "MARGAY_SEED";
const CHANGES_VARIABLE: &str = "MARGAY_CHANGES";
const SEED: u64 = 20_260_214;
const CHANGES: u64 = 2_000;
/// Most pods on a node at a time.
const MOST_PODS: usize = 14;
/// Ghosts: nodes and peers that exist as objects alone.
const GHOSTS: u8 = 6;

/// Builds the lab, changes it and checks it.
///
/// # Errors
/// When a step on which all others rest fails.
pub fn run(folder: &Path, report: &mut Report) -> Result<Outcome> {
    let number = |variable: &str, default: u64| {
        env::var(variable)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let (seed, changes) = (
        number(SEED_VARIABLE, SEED),
        number(CHANGES_VARIABLE, CHANGES),
    );
    say(format_args!("seed {seed}, {changes} changes"));
    let plan = Plan {
        ipv4: Encapsulation::VxlanCrossSubnet,
        block_size: 30,
        ..Plan::default()
    };
    let mut lab = Lab::build(plan, folder)?;
    for node in &mut lab.nodes {
        only_pools(node, &["default-ipv4-ippool"]);
    }
    lab.start_agents()?;
    let mut chaos = Chaos {
        random: StdRng::seed_from_u64(seed),
        serial: 0,
        done: BTreeMap::new(),
        extra: BTreeSet::new(),
    };
    let survived = report.check(
        "the changes: no ADD or DEL refused for good, no address given twice",
        || {
            for number in 1..=changes {
                chaos
                    .step(&mut lab)
                    .with_context(|| format!("change {number} of seed {seed}"))?;
            }
            let done: Vec<_> = chaos
                .done
                .iter()
                .map(|(what, count)| format!("{count} {what}"))
                .collect();
            Ok(done.join(", "))
        },
    );
    if !survived {
        return Ok(Outcome::Passed);
    }
    lab.apply_mesh(true)?;
    lab.each_node(|node| node.await_ready(pace::seconds(30)))?;
    lab.each_node(|node| node.fill_pods(1))?;
    report.check("everyone left pings everyone", || {
        view::await_everyone(&lab, pace::seconds(60))
    });
    // What one node still announces while its restart is not over, others still route.
    lab.each_node(|node| complete(node))?;
    lab.each_node(|node| settled(node).map(drop))?;
    for index in 0..lab.nodes.len() {
        let name = lab.nodes[index].name.clone();
        report.check(
            &format!("the kernel of {name} equals what a fresh agent computes"),
            || {
                let node = &mut lab.nodes[index];
                let lived = settled(node)?;
                node.stop_agent()?;
                wipe(node)?;
                node.start_agent()?;
                node.await_ready(pace::seconds(30))?;
                complete(node)?;
                eventually("the same tables", pace::seconds(60), || {
                    let fresh = tables(node)?;
                    let (lost, gained): (Vec<_>, Vec<_>) = (
                        lived.difference(&fresh).collect(),
                        fresh.difference(&lived).collect(),
                    );
                    ensure!(
                        lost.is_empty() && gained.is_empty(),
                        "only before: {lost:?}; only fresh: {gained:?}"
                    );
                    Ok::<_, anyhow::Error>(())
                })?;
                Ok(format!("{} entries", lived.len()))
            },
        );
    }
    report.check("and everyone still pings everyone", || {
        view::await_everyone(&lab, pace::seconds(60))
    });
    Ok(Outcome::Passed)
}

struct Chaos {
    random: StdRng,
    serial: u32,
    done: BTreeMap<&'static str, u32>,
    /// Pools besides the default one.
    extra: BTreeSet<String>,
}

impl Chaos {
    fn step(&mut self, lab: &mut Lab) -> Result<()> {
        let what = match self.random.random_range(0..100) {
            0..42 => self.add_pod(lab)?,
            42..78 => self.del_pod(lab)?,
            78..83 => self.ghost_node(lab)?,
            83..87 => self.ghost_peer(lab)?,
            87..90 => Self::nat(lab)?,
            90..94 => self.pool(lab)?,
            94..96 => self.mesh(lab)?,
            96..98 => self.label(lab)?,
            _ => self.agent(lab)?,
        };
        *self.done.entry(what).or_default() += 1;
        Ok(())
    }

    fn add_pod(&mut self, lab: &mut Lab) -> Result<&'static str> {
        let index = self.random.random_range(0..lab.nodes.len());
        let pool = if self.random.random_bool(0.15) {
            self.extra.iter().choose(&mut self.random).cloned()
        } else {
            None
        };
        let held: BTreeSet<IpAddr> = lab
            .nodes
            .iter()
            .flat_map(|node| node.pods.values())
            .flat_map(|pod| pod.addresses.clone())
            .collect();
        let node = &mut lab.nodes[index];
        if node.pods.len() >= MOST_PODS {
            return Ok("idle");
        }
        self.serial += 1;
        let name = format!("pod{}", self.serial);
        let pool = pool.unwrap_or_else(|| "default-ipv4-ippool".to_owned());
        only_pools(node, &[&pool]);
        // A kubelet tries again on error 11; an agent that was just started may say so for a moment.
        eventually(format!("ADD of {name}"), pace::seconds(30), || {
            match node.add_pod(&name) {
                Ok(pod) => Ok(Ok(pod.addresses.clone())),
                Err(error) => match error.downcast_ref::<CniError>() {
                    Some(CniError { code: Some(11), .. }) => Err(format!("{error:#}")),
                    _ => Ok(Err(error)),
                },
            }
        })?
        .and_then(|addresses| {
            let twice: Vec<_> = addresses
                .iter()
                .filter(|address| held.contains(address))
                .collect();
            ensure!(
                twice.is_empty(),
                "{name} got {twice:?}, which another pod has"
            );
            Ok("pods added")
        })
    }

    fn del_pod(&mut self, lab: &mut Lab) -> Result<&'static str> {
        let index = self.random.random_range(0..lab.nodes.len());
        let node = &mut lab.nodes[index];
        let Some(name) = node.pods.keys().choose(&mut self.random).cloned() else {
            return Ok("idle");
        };
        node.del_pod(&name)?;
        Ok("pods deleted")
    }

    fn ghost_node(&mut self, lab: &Lab) -> Result<&'static str> {
        let number = self.random.random_range(0..GHOSTS);
        let name = format!("ghost{number}");
        if lab.objects.text("nodes", &name).is_some() {
            lab.objects.delete("nodes", &name)?;
            return Ok("nodes deleted");
        }
        let address = format!("10.0.{}.{}", 1 + number % 2, 100 + number);
        lab.objects.apply(
            "nodes",
            &name,
            &format!(
                "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata:\n  name: {name}\n  labels: {{rack: c}}\nspec:\n  bgp:\n    \
                 ipv4Address: {address}/24\n  ipv4VXLANTunnelAddr: 10.65.255.{number}\n"
            ),
        )?;
        Ok("nodes created")
    }

    fn ghost_peer(&mut self, lab: &Lab) -> Result<&'static str> {
        let number = self.random.random_range(0..GHOSTS);
        let name = format!("ghost-peer{number}");
        if lab.objects.text("bgppeers", &name).is_some() {
            lab.objects.delete("bgppeers", &name)?;
            return Ok("peers deleted");
        }
        let selector = if number % 2 == 0 {
            "rack == 'a'"
        } else {
            "all()"
        };
        lab.objects.apply(
            "bgppeers",
            &name,
            &format!(
                "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata:\n  name: {name}\nspec:\n  nodeSelector: {selector}\n  \
                 peerIP: 10.0.1.{}\n  asNumber: 65100\n",
                200 + number
            ),
        )?;
        Ok("peers created")
    }

    fn nat(lab: &Lab) -> Result<&'static str> {
        lab.objects
            .patch("ippools", "default-ipv4-ippool", |pool| {
                let on = pool.pointer("/spec/natOutgoing") == Some(&Value::Bool(true));
                if let Some(spec) = pool.pointer_mut("/spec") {
                    spec["natOutgoing"] = json!(!on);
                }
            })?;
        Ok("pools changed")
    }

    fn pool(&mut self, lab: &Lab) -> Result<&'static str> {
        let number = self.random.random_range(0..4);
        let name = format!("extra{number}");
        let prefix = format!("10.66.{number}.");
        if !self.extra.contains(&name) {
            let encapsulation = if self.random.random_bool(0.5) {
                Encapsulation::VxlanCrossSubnet
            } else {
                Encapsulation::None
            };
            lab.apply_pool(&name, &format!("{prefix}0/24"), encapsulation, 28)?;
            self.extra.insert(name);
            return Ok("pools created");
        }
        let mut addresses = lab
            .nodes
            .iter()
            .flat_map(|node| node.pods.values())
            .flat_map(|pod| &pod.addresses);
        let in_use = addresses.any(|address| address.to_string().starts_with(&prefix));
        // The end is reached with pools that need no route in the ToRs; and a pool whose pods live is not deleted.
        if in_use {
            lab.objects.patch("ippools", &name, |pool| {
                if let Some(spec) = pool.pointer_mut("/spec") {
                    spec["vxlanMode"] = json!("CrossSubnet");
                }
            })?;
            return Ok("pools changed");
        }
        lab.objects.delete("ippools", &name)?;
        self.extra.remove(&name);
        Ok("pools deleted")
    }

    fn mesh(&mut self, lab: &Lab) -> Result<&'static str> {
        lab.apply_mesh(self.random.random_bool(0.7))?;
        Ok("mesh switched")
    }

    fn label(&mut self, lab: &Lab) -> Result<&'static str> {
        let node = lab
            .nodes
            .iter()
            .choose(&mut self.random)
            .context("no nodes")?;
        let value = format!("v{}", self.random.random_range(0..3));
        lab.objects.patch("nodes", &node.name, |object| {
            if let Some(labels) = object.pointer_mut("/metadata/labels") {
                labels["chaos"] = json!(value);
            }
        })?;
        Ok("nodes labelled")
    }

    fn agent(&mut self, lab: &mut Lab) -> Result<&'static str> {
        let index = self.random.random_range(0..lab.nodes.len());
        let node = &mut lab.nodes[index];
        if self.random.random_bool(0.7) {
            node.kill_agent()?;
            node.start_agent()?;
            return Ok("agents killed");
        }
        node.stop_agent()?;
        node.start_agent()?;
        Ok("agents stopped")
    }
}

fn only_pools(node: &mut Node, pools: &[&str]) {
    if let Some(ipam) = node
        .chain
        .plugins
        .first_mut()
        .and_then(|plugin| plugin.get_mut("ipam"))
    {
        ipam["ipv4_pools"] = json!(pools);
    }
}

/// What margay put into a node's kernel, line by line: routes, the VXLAN device's neighbours and FDB, the packet filter.
fn tables(node: &Node) -> Result<BTreeSet<String>> {
    let mut lines: BTreeSet<String> = view::own_routes(node, 4)?
        .iter()
        .map(|route| format!("route {route}"))
        .collect();
    for (what, arguments) in [
        ("neighbour", "neigh show dev vxlan.calico nud permanent"),
        ("address", "address show dev vxlan.calico"),
    ] {
        for line in node.netns.ip(arguments).unwrap_or_default().lines() {
            let line = line.trim();
            if what == "neighbour" || line.starts_with("inet ") {
                lines.insert(format!("{what} {line}"));
            }
        }
    }
    let fdb = exec::check(std::process::Command::new("bridge").args([
        "-n",
        node.netns.name(),
        "fdb",
        "show",
        "dev",
        "vxlan.calico",
    ]));
    lines.extend(
        fdb.unwrap_or_default()
            .lines()
            .filter(|line| line.contains("dst"))
            .map(|line| format!("fdb {}", line.trim())),
    );
    let rules = exec::check(node.netns.command("nft").args(["-s", "list", "ruleset"]))?;
    let margay = rules.split("\ntable ").filter(|table| {
        table
            .lines()
            .next()
            .is_some_and(|line| line.contains("margay"))
    });
    for table in margay {
        // Sets are printed over several lines whose breaks depend on their length.
        let flat = table.split_whitespace().collect::<Vec<_>>().join(" ");
        lines.insert(format!("table {flat}"));
    }
    Ok(lines)
}

/// Waits until an agent that was restarted has heard all it waits for: before that it removes nothing it does not know.
fn complete(node: &Node) -> Result<()> {
    eventually(
        format!("the restart of {} is over", node.name),
        pace::seconds(150),
        || {
            let status = node.ask(&["status"])?;
            let waiting = status.get("restarting").and_then(Value::as_array);
            ensure!(waiting.is_some_and(Vec::is_empty), "{waiting:?}");
            Ok::<_, anyhow::Error>(())
        },
    )
}

/// The tables once they are the same at several looks in a row.
fn settled(node: &Node) -> Result<BTreeSet<String>> {
    let mut last = BTreeSet::new();
    let mut equal = 0;
    eventually("tables that stay as they are", pace::seconds(30), || {
        let now = tables(node)?;
        equal = if now == last { equal + 1 } else { 0 };
        last = now;
        if equal >= 5 && !last.is_empty() {
            Ok(last.clone())
        } else {
            bail!("{equal} equal looks")
        }
    })
}

fn wipe(node: &Node) -> Result<()> {
    node.netns.ip("route flush proto 109")?;
    let _ = node.netns.ip("link delete vxlan.calico");
    exec::check(node.netns.command("nft").args(["flush", "ruleset"])).map(drop)
}
