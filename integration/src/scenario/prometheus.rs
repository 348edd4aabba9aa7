//! A real Prometheus scrapes the four agents; what they serve is clean and does not grow with peers or pods.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Outcome;
use crate::eventually::eventually;
use crate::netns::Netns;
use crate::node::Node;
use crate::process::Daemon;
use crate::report::Report;
use crate::topology::{Encapsulation, Lab, Plan};
use crate::{exec, pace, view};

const PORT: u16 = 9090;

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
    for node in &lab.nodes {
        view::await_sessions(node, 4, pace::seconds(40))?;
    }
    lab.fill_pods(3)?;
    let home = lab.racks[0].outside.netns.clone();
    let _prometheus = start(&lab, &home, folder)?;
    report.check(
        "Prometheus scrapes all four agents from outside the cluster",
        || {
            eventually("four targets up", pace::seconds(30), || {
                let up = query(&home, "sum(up)")?;
                ensure!((up - 4.0).abs() < 0.5, "{up} up");
                Ok::<_, anyhow::Error>("4 targets up".to_owned())
            })
        },
    );
    let expectations = [
        (
            "established sessions",
            "sum(margay_bgp_sessions{state=\"established\"})",
            16.0,
            16.0,
        ),
        (
            "sessions in any other state",
            "sum(margay_bgp_sessions{state!=\"established\"})",
            0.0,
            0.0,
        ),
        (
            "best routes of the least nodes",
            "min(sum by (instance) (margay_bgp_routes_best))",
            4.0,
            100.0,
        ),
        ("pods", "sum(margay_workloads)", 12.0, 12.0),
        ("blocks", "sum(margay_ipam_blocks)", 4.0, 8.0),
        (
            "addresses in use",
            "sum(margay_ipam_addresses{state=\"allocated\"})",
            12.0,
            24.0,
        ),
        (
            "kernel routes of the least node",
            "min(sum by (instance) (margay_kernel_routes))",
            7.0,
            100.0,
        ),
        (
            "kernel writes",
            "sum(margay_kernel_writes_total)",
            20.0,
            10_000.0,
        ),
        (
            "refused kernel changes",
            "sum(margay_kernel_errors_total)",
            0.0,
            0.0,
        ),
        (
            "CNI requests timed",
            "sum(margay_cni_request_duration_seconds_count{verb=\"add\"})",
            12.0,
            24.0,
        ),
    ];
    for (what, expression, least, most) in expectations {
        report.check(&format!("metrics: {what}"), || {
            eventually(expression, pace::seconds(10), || {
                let value = query(&home, expression)?;
                ensure!(
                    (least..=most).contains(&value),
                    "{value}, not in {least}..={most}"
                );
                Ok::<_, anyhow::Error>(format!("{value}"))
            })
        });
    }
    report.check("promtool finds nothing to complain of", || {
        for node in &lab.nodes {
            let page = page(node)?;
            let printed = exec::check_input(
                std::process::Command::new("promtool").args(["check", "metrics"]),
                page.as_bytes(),
            )?;
            ensure!(printed.trim().is_empty(), "{printed}");
        }
        Ok("four pages".to_owned())
    });
    report.check("the number of series does not grow with peers or pods", || {
        let before = series(&lab.nodes[0])?;
        lab.node_mut("n1")?.fill_pods(8)?;
        for number in 1..=5 {
            let name = format!("nobody-{number}");
            lab.objects.apply("bgppeers", &name, &format!(
                "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata:\n  name: {name}\nspec:\n  node: n1\n  peerIP: 10.0.1.{}\n  asNumber: 65100\n",
                200 + number
            ))?;
        }
        eventually("nine sessions", pace::seconds(20), || {
            let count = view::sessions(&lab.nodes[0])?.len();
            ensure!(count == 9, "{count}");
            Ok::<_, anyhow::Error>(())
        })?;
        let after = series(&lab.nodes[0])?;
        ensure!(after == before, "{before} series before, {after} after");
        Ok(format!("{before} series with 4 peers and 3 pods, {after} with 9 and 8"))
    });
    Ok(Outcome::Passed)
}

fn start(lab: &Lab, home: &Netns, folder: &Path) -> Result<Daemon> {
    let mut targets = Vec::new();
    for node in &lab.nodes {
        targets.push(format!("'{}:9091'", node.address(4)?));
    }
    let config = folder.join("prometheus.yml");
    fs::write(
        &config,
        format!(
            "global:\n  scrape_interval: 1s\nscrape_configs:\n  - job_name: margay\n    static_configs:\n      - targets: [{}]\n",
            targets.join(", ")
        ),
    )?;
    let mut command = home.isolated_command("prometheus");
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!(
        "--storage.tsdb.path={}",
        folder.join("tsdb").display()
    ));
    command.arg(format!("--web.listen-address=127.0.0.1:{PORT}"));
    Daemon::start("prometheus", &mut command, &folder.join("prometheus.log"))
}

fn query(home: &Netns, expression: &str) -> Result<f64> {
    let mut curl = home.command("curl");
    curl.args([
        "-sS",
        "--max-time",
        "5",
        "-G",
        "--data-urlencode",
        &format!("query={expression}"),
    ]);
    let text = exec::check(curl.arg(format!("http://127.0.0.1:{PORT}/api/v1/query")))?;
    let answer: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    match answer
        .pointer("/data/result/0/value/1")
        .and_then(Value::as_str)
    {
        Some(number) => Ok(number.parse()?),
        None if answer.pointer("/status") == Some(&Value::from("success")) => Ok(0.0),
        None => bail!("{text}"),
    }
}

fn page(node: &Node) -> Result<String> {
    node.http("http://127.0.0.1:9091/metrics")
}

fn series(node: &Node) -> Result<usize> {
    Ok(page(node)?
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .count())
}
