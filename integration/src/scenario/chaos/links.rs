//! What befalls the wire: it flaps, and what is at its other end vanishes.

use std::path::Path;

use anyhow::{Result, ensure};

use super::Scale;
use super::hub::{Hub, Machine, await_established, await_prefixes};
use crate::eventually::{eventually, idle};
use crate::speaker::Speaker;
use crate::{link, pace};

const ROUTES: usize = 500;

fn peer(name: &str, machine: &Machine) -> String {
    format!(
        "peers:\n  - {{ name: {name}, address: {}, asn: 64512, holdTime: 9, connectRetry: 500ms, idleHold: 200ms, idleHoldMax: 1s }}\n",
        machine.address
    )
}

fn originator(machine: &Machine, other: &Machine, folder: &Path) -> Result<Speaker> {
    let mut routes = String::from("originate:\n");
    for number in 0..ROUTES {
        routes.push_str(&format!(
            "  - {{ prefix: 20.0.{}.{}/32 }}\n",
            number >> 8,
            number & 255
        ));
    }
    machine.speaker(&format!("{routes}{}", peer("b", other)), folder)
}

/// Waits until the kernel routes all of them, none twice.
fn await_routes(machine: &Machine, count: usize) -> Result<()> {
    eventually(format!("{count} kernel routes"), pace::seconds(40), || {
        let mut routes = link::routes(&machine.netns, 4)?;
        routes.retain(|route| route.prefix.starts_with("20."));
        ensure!(routes.len() == count, "{}", routes.len());
        Ok(())
    })
}

/// The interface that every next hop is behind goes down and up; the kernel forgets routes each time and says nothing.
pub(super) fn flapping(hub: &Hub, folder: &Path, scale: Scale) -> Result<String> {
    let [a, b] = [hub.machine("calm", 41)?, hub.machine("flaps", 42)?];
    let mut far = originator(&a, &b, folder)?;
    let mut near = b.speaker(
        &format!("kernel: {{ install: true }}\n{}", peer("a", &a)),
        folder,
    )?;
    await_routes(&b, ROUTES)?;
    for _ in 0..scale.rounds {
        for _ in 0..10 {
            b.netns.ip("link set eth0 down")?;
            idle(std::time::Duration::from_millis(50));
            b.netns.ip("link set eth0 up")?;
            idle(std::time::Duration::from_millis(50));
        }
        await_routes(&b, ROUTES)?;
    }
    await_established(&near, 1, 30)?;
    near.kill()?;
    far.kill()?;
    for machine in [a, b] {
        machine.netns.delete()?;
    }
    Ok(format!(
        "{} times ten flaps, {ROUTES} routes after each",
        scale.rounds
    ))
}

/// The machine at the other end is gone with its wire, and one like it is plugged in later.
pub(super) fn vanished(hub: &Hub, folder: &Path) -> Result<String> {
    let [a, b] = [hub.machine("ghost", 51)?, hub.machine("stays", 52)?];
    let mut far = originator(&a, &b, folder)?;
    let mut near = b.speaker(
        &format!("kernel: {{ install: true }}\n{}", peer("a", &a)),
        folder,
    )?;
    await_routes(&b, ROUTES)?;
    // Killed, and its namespace with it: nobody answers, not even with a reset.
    a.netns.ip("link set eth0 down")?;
    far.kill()?;
    a.netns.delete()?;
    await_established(&near, 0, 30)?;
    let a = hub.machine("ghost2", 51)?;
    let mut far = originator(&a, &b, folder)?;
    await_established(&near, 1, 40)?;
    await_prefixes(&near, ROUTES, 20)?;
    await_routes(&b, ROUTES)?;
    near.kill()?;
    far.kill()?;
    for machine in [a, b] {
        machine.netns.delete()?;
    }
    Ok("dropped, and back with every route".to_owned())
}
