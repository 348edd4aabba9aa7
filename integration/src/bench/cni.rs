//! The time of an ADD: margay's plugin with its agent, beside the reference plugins `ptp` and `host-local`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use super::median;
use crate::cni::{Attachment, Chain};
use crate::netns::Netns;
use crate::pace;
use crate::report::say;
use crate::topology::{Lab, Plan};

/// Adds and removes so many pods one at a time with each and prints the medians of both.
///
/// # Errors
/// When an ADD fails.
pub fn run(count: usize, folder: &Path) -> Result<()> {
    let mut lab = Lab::build(
        Plan {
            block_size: 25,
            ..Plan::default()
        },
        folder,
    )?;
    let node = lab.node_mut("n1")?;
    node.start_agent()?;
    node.await_ready(pace::seconds(30))?;
    let own = Chain {
        plugins: node.chain.plugins.iter().take(1).cloned().collect(),
        ..node.chain.clone()
    };
    let reference = Chain {
        name: "reference".to_owned(),
        version: "1.0.0".to_owned(),
        plugins: vec![json!({"type": "ptp", "mtu": 1480, "ipam": {
            "type": "host-local", "dataDir": folder.join("host-local"), "ranges": [[{"subnet": "10.77.0.0/22"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}})],
        path: vec![PathBuf::from("/usr/lib/cni")],
    };
    let host = Netns::create("ptp")?;
    let node = lab.node("n1")?;
    let mut rows = Vec::new();
    for (name, chain, host) in [
        ("margay", &own, &node.netns),
        ("ptp + host-local", &reference, &host),
    ] {
        let mut adds = Vec::new();
        let mut dels = Vec::new();
        for number in 0..count {
            let netns = Netns::create(&format!("b{number}"))?;
            let attachment = Attachment::of_pod(
                "default",
                netns.name(),
                &format!("bench-{number}"),
                &netns.path().display().to_string(),
            );
            let start = Instant::now();
            let result = chain.add(host, &attachment)?;
            adds.push(start.elapsed().as_secs_f64() * 1e3);
            let start = Instant::now();
            chain.del(host, &attachment, Some(&result))?;
            dels.push(start.elapsed().as_secs_f64() * 1e3);
            netns.delete()?;
        }
        rows.push((name, median(adds), median(dels)));
    }
    for (name, add, del) in rows {
        say(format_args!(
            "{name:<18} ADD median {add:.2} ms, DEL median {del:.2} ms, of {count}, one at a time"
        ));
    }
    Ok(())
}
