//! A mesh of BIRD 1.6, 2 and 3 in which margay takes over one node after the other, now waiting, now dialling.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Result, ensure};

use super::hub::{Hub, Machine, Table, await_table, rows};
use crate::eventually::eventually;
use crate::pace;
use crate::router::Router;
use crate::router::bird::{Bird, Version};
use crate::speaker::Speaker;

const NODES: usize = 4;

/// Who runs on a node.
enum Runs {
    Bird(Bird),
    Margay(Speaker),
}

/// A node dials those whose address, as text, is lower: Calico's rule, which both kinds must read alike.
fn waits(own: &Machine, other: &Machine) -> bool {
    own.address < other.address
}

/// What BIRD 1.6 has no name for, as it has one family.
fn channel(version: Version) -> &'static str {
    if version == Version::One { "" } else { "ipv4;" }
}

fn bird(version: Version, own: &Machine, all: &[Machine], number: usize) -> String {
    let mut text = format!(
        "router id {};\nprotocol device {{ }}\nprotocol direct {{ {} }}\nprotocol static {{ {} route 10.70.{number}.0/24 blackhole; }}\n",
        own.address,
        channel(version),
        channel(version),
    );
    for (index, other) in all
        .iter()
        .enumerate()
        .filter(|(_, other)| other.address != own.address)
    {
        let rules = "import all; export where source = RTS_STATIC;";
        let rules = if version != Version::One {
            format!("ipv4 {{ {rules} add paths on; }};")
        } else {
            format!("{rules} add paths on;")
        };
        let passive = if waits(own, other) { "passive on;" } else { "" };
        let _ = writeln!(
            text,
            "protocol bgp n{index} {{ local {} as 64512; neighbor {} as 64512; graceful restart on; hold time 9; \
             connect delay time 1; connect retry time 1; error wait time 1, 2; {passive} {rules} }}",
            own.address, other.address
        );
    }
    text
}

fn margay(own: &Machine, all: &[Machine], number: usize) -> String {
    let mut text = format!("originate: [{{ prefix: 10.70.{number}.0/24 }}]\npeers:\n");
    for (index, other) in all
        .iter()
        .enumerate()
        .filter(|(_, other)| other.address != own.address)
    {
        let _ = writeln!(
            text,
            "  - {{ name: n{index}, address: {}, asn: 64512, holdTime: 9, passive: {}, connectRetry: 500ms, idleHold: 200ms, idleHoldMax: 1s }}",
            other.address,
            waits(own, other)
        );
    }
    text
}

/// The table of one node: its own block, and the others' through them.
fn blocks(machines: &[Machine], own: usize) -> Table {
    let mut table = Table::new();
    for (number, machine) in machines.iter().enumerate() {
        let hop = (number != own).then_some(machine.address.as_str());
        table.extend(rows([format!("10.70.{number}.0/24")], hop));
    }
    table
}

fn await_mesh(nodes: &[Option<Runs>], machines: &[Machine]) -> Result<()> {
    for (own, node) in nodes.iter().enumerate() {
        let Some(node) = node else { continue };
        match node {
            Runs::Margay(speaker) => await_table(speaker, &blocks(machines, own), 40)?,
            Runs::Bird(bird) => eventually("every block on a BIRD", pace::seconds(40), || {
                let learned = bird.routes(4)?;
                let blocks: std::collections::BTreeSet<_> = learned
                    .iter()
                    .map(|route| &route.prefix)
                    .filter(|prefix| prefix.to_string().starts_with("10.70."))
                    .collect();
                ensure!(
                    blocks.len() == NODES - 1,
                    "{} of {}",
                    blocks.len(),
                    NODES - 1
                );
                Ok(())
            })?,
        }
    }
    Ok(())
}

/// After every replacement every node knows every block.
pub(super) fn replaced(hub: &Hub, folder: &Path) -> Result<String> {
    // 9 sorts behind 10, 11 and 100 as text, and before them as a number.
    let machines = [
        ("bird9", 9),
        ("bird10", 10),
        ("bird11", 11),
        ("bird100", 100),
    ];
    let machines: Vec<_> = machines
        .into_iter()
        .map(|(name, number)| hub.machine(name, number))
        .collect::<Result<_>>()?;
    let versions = [Version::One, Version::Two, Version::One, Version::Three];
    let mut nodes: Vec<Option<Runs>> = Vec::new();
    for (number, (machine, version)) in machines.iter().zip(versions).enumerate() {
        let config = bird(version, machine, &machines, number);
        let started = Bird::start(version, &machine.netns, &config, folder)?;
        nodes.push(Some(Runs::Bird(started)));
    }
    await_mesh(&nodes, &machines)?;
    for (number, machine) in machines.iter().enumerate() {
        let Some(place) = nodes.get_mut(number) else {
            continue;
        };
        // Its port has to be free before the next one listens.
        if let Some(Runs::Bird(before)) = place.take() {
            before.kill()?;
        }
        *place = Some(Runs::Margay(
            machine.speaker(&margay(machine, &machines, number), folder)?,
        ));
        await_mesh(&nodes, &machines)?;
    }
    for node in nodes.into_iter().flatten() {
        if let Runs::Margay(mut speaker) = node {
            speaker.kill()?;
        }
    }
    for machine in machines {
        machine.netns.delete()?;
    }
    Ok(format!(
        "{NODES} nodes, every block on each after every step"
    ))
}
