//! A mesh of four becomes four with two route reflectors, and a mesh again, under traffic: make before break.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::Outcome;
use crate::eventually::{eventually, idle};
use crate::pace;
use crate::report::Report;
use crate::topology::{Encapsulation, Lab, Plan};
use crate::view;

/// The nodes that become reflectors, one a rack, of one cluster.
const REFLECTORS: [&str; 2] = ["n1", "n3"];
const CLUSTER_ID: &str = "244.0.0.1";

/// Builds the lab and checks it.
///
/// # Errors
/// When a step on which all others rest fails.
pub fn run(folder: &Path, report: &mut Report) -> Result<Outcome> {
    // The routes of this pool come from BGP alone, also across racks: no encapsulation whose routes come from objects.
    let plan = Plan {
        ipv4: Encapsulation::None,
        ..Plan::default()
    };
    let mut lab = Lab::build(plan, folder)?;
    lab.start_agents()?;
    for node in &lab.nodes {
        view::await_sessions(node, 4, pace::seconds(40))?;
    }
    lab.fill_pods(2)?;
    // The ToRs refuse pod routes; across racks the lab gives them static ones, and the nodes learn theirs over BGP.
    let mut blocks = Vec::new();
    for node in &lab.nodes {
        for block in view::blocks(node, 4)? {
            blocks.push((node.rack.clone(), block, node.address(4)?));
        }
    }
    lab.carry_pods_by_hand(&blocks)?;
    report.check("the mesh: everyone pings everyone", || {
        view::await_everyone(&lab, pace::seconds(20))
    });
    let pairs = [
        ("n1-pod1", "n2-pod1"),
        ("n2-pod1", "n3-pod1"),
        ("n3-pod1", "n4-pod1"),
        ("n4-pod1", "n1-pod1"),
        ("n2-pod2", "n4-pod2"),
    ];
    report.check("mesh to reflectors under ping: no packet lost", || {
        let streams = view::streams(&lab, &pairs, folder)?;
        to_reflectors(&lab)?;
        await_counts(&lab, |name| if REFLECTORS.contains(&name) { 4 } else { 3 })?;
        idle(pace::seconds(2));
        view::none_lost(streams)
    });
    report.check("with reflectors everyone pings everyone", || {
        view::await_everyone(&lab, pace::seconds(20))
    });
    report.check("reflectors to mesh under ping: no packet lost", || {
        let streams = view::streams(&lab, &pairs, folder)?;
        to_mesh(&lab)?;
        await_counts(&lab, |_| 4)?;
        idle(pace::seconds(2));
        view::none_lost(streams)
    });
    report.check("in the mesh again everyone pings everyone", || {
        view::await_everyone(&lab, pace::seconds(20))
    });
    Ok(Outcome::Passed)
}

fn to_reflectors(lab: &Lab) -> Result<()> {
    lab.objects.apply(
        "bgppeers",
        "reflectors",
        "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata:\n  name: reflectors\nspec:\n  \
         nodeSelector: all()\n  peerSelector: route-reflector == 'true'\n",
    )?;
    for name in REFLECTORS {
        lab.objects.patch("nodes", name, |node| {
            set(node, "/metadata/labels", "route-reflector", json!("true"));
            set(
                node,
                "/spec/bgp",
                "routeReflectorClusterID",
                json!(CLUSTER_ID),
            );
        })?;
    }
    lab.apply_mesh(false)
}

fn to_mesh(lab: &Lab) -> Result<()> {
    lab.apply_mesh(true)?;
    for name in REFLECTORS {
        lab.objects.patch("nodes", name, |node| {
            set(node, "/metadata/labels", "route-reflector", Value::Null);
            set(node, "/spec/bgp", "routeReflectorClusterID", Value::Null);
        })?;
    }
    lab.objects.delete("bgppeers", "reflectors")
}

/// Sets a key of an object inside, or removes it where the value is null.
fn set(object: &mut Value, pointer: &str, key: &str, value: Value) {
    if let Some(map) = object.pointer_mut(pointer).and_then(Value::as_object_mut) {
        if value.is_null() {
            map.remove(key);
        } else {
            map.insert(key.to_owned(), value);
        }
    }
}

fn await_counts(lab: &Lab, wanted: impl Fn(&str) -> usize) -> Result<()> {
    for node in &lab.nodes {
        view::await_sessions(node, wanted(&node.name), pace::seconds(60))?;
    }
    // Replacements may have been complete before the sessions they replace were taken away.
    eventually("settled sessions", pace::seconds(20), || {
        for node in &lab.nodes {
            let count = view::sessions(node)?.len();
            ensure!(count == wanted(&node.name), "{count} on {}", node.name);
        }
        Ok::<_, anyhow::Error>(())
    })
}
