//! What befalls the wire: it flaps, and what is at its other end vanishes.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, ensure};

use super::Scale;
use super::hub::{Hub, Machine, Table, await_established, await_table, established_count, rows};
use crate::eventually::{eventually, idle};
use crate::speaker::Speaker;
use crate::{exec, link, pace};

const ROUTES: usize = 500;

fn peer(name: &str, machine: &Machine) -> String {
    format!(
        "peers:\n  - {{ name: {name}, address: {}, asn: 64512, holdTime: 9, connectRetry: 500ms, idleHold: 200ms, idleHoldMax: 1s }}\n",
        machine.address
    )
}

fn originator(machine: &Machine, other: &Machine, folder: &Path) -> Result<Speaker> {
    let mut routes = String::from("originate:\n");
    for prefix in prefixes() {
        routes.push_str(&format!("  - {{ prefix: {prefix} }}\n"));
    }
    machine.speaker(&format!("{routes}{}", peer("b", other)), folder)
}

fn prefixes() -> impl Iterator<Item = String> {
    (0..ROUTES).map(|number| format!("20.0.{}.{}/32", number >> 8, number & 255))
}

/// Waits until the kernel routes all of them through `far`, none twice and nothing else of the kind.
fn await_routes(machine: &Machine, far: &Machine) -> Result<()> {
    // As `ip` prints them.
    let wanted: BTreeSet<_> = prefixes()
        .map(|prefix| prefix.trim_end_matches("/32").to_owned())
        .collect();
    eventually(format!("{ROUTES} kernel routes"), pace::seconds(40), || {
        let mut routes = link::routes(&machine.netns, 4)?;
        routes.retain(|route| route.prefix.starts_with("20."));
        ensure!(routes.len() == ROUTES, "{}", routes.len());
        let held: BTreeSet<_> = routes
            .iter()
            .filter(|route| route.goes_via(&far.address))
            .map(|route| route.prefix.trim_end_matches("/32").to_owned())
            .collect();
        let missing = wanted.difference(&held).next();
        ensure!(missing.is_none(), "{missing:?} is not via {}", far.address);
        Ok(())
    })
}

/// `far` originates the routes and `near` has them in its kernel: the speakers of both.
fn feed(far: &Machine, near: &Machine, folder: &Path) -> Result<[Speaker; 2]> {
    let telling = originator(far, near, folder)?;
    let installing = near.speaker(
        &format!("kernel: {{ install: true }}\n{}", peer("a", far)),
        folder,
    )?;
    await_routes(near, far)?;
    Ok([telling, installing])
}

fn clear(machines: [Machine; 2], speakers: [Speaker; 2]) -> Result<()> {
    for mut speaker in speakers {
        speaker.kill()?;
    }
    for machine in machines {
        machine.netns.delete()?;
    }
    Ok(())
}

/// The table of the one the routes are told to.
fn learned(far: &Machine) -> Table {
    rows(prefixes(), Some(&far.address)).collect()
}

/// The interface that every next hop is behind goes down and up; the kernel forgets routes each time and says nothing.
pub(super) fn flapping(hub: &Hub, folder: &Path, scale: Scale) -> Result<String> {
    let [a, b] = [hub.machine("calm", 41)?, hub.machine("flaps", 42)?];
    let [far, near] = feed(&a, &b, folder)?;
    for _ in 0..scale.rounds {
        for _ in 0..10 {
            b.netns.ip("link set eth0 down")?;
            idle(std::time::Duration::from_millis(50));
            b.netns.ip("link set eth0 up")?;
            idle(std::time::Duration::from_millis(50));
        }
        await_routes(&b, &a)?;
    }
    await_established(&near, 1, 30)?;
    await_table(&near, &learned(&a), 30)?;
    clear([a, b], [far, near])?;
    Ok(format!(
        "{} times ten flaps, {ROUTES} routes after each",
        scale.rounds
    ))
}

/// A hundred thousand routes of somebody else's come and go beside ours. Whether all that the kernel says of them is read or some of it is
/// lost (`ENOBUFS`), what is ours stays right.
pub(super) fn flooded(hub: &Hub, folder: &Path, scale: Scale) -> Result<String> {
    const FOREIGN: u32 = 100_000;
    let [a, b] = [hub.machine("quiet", 71)?, hub.machine("flooded", 72)?];
    let [far, near] = feed(&a, &b, folder)?;
    let before = established_count(&near, "a")?;
    let lines: Vec<_> = (0..FOREIGN)
        .map(|number| {
            let prefix = std::net::Ipv4Addr::from(0x1e00_0000 + number);
            format!("route add {prefix}/32 dev eth0 proto static")
        })
        .collect();
    for _ in 0..(scale.rounds / 3).clamp(1, 5) {
        b.netns.ip_batch(&lines)?;
        // One of ours goes meanwhile, and the flood hides that it does.
        b.netns.ip("route del 20.0.0.7/32")?;
        b.netns.ip("route flush proto static")?;
        await_routes(&b, &a)?;
    }
    let seen = match near.logged("the kernel dropped events") {
        true => "more than it could read",
        false => "it kept up",
    };
    await_table(&near, &learned(&a), 20)?;
    ensure!(
        established_count(&near, "a")? == before,
        "the session was renewed"
    );
    let left = exec::check(
        b.netns
            .command("ip")
            .args(["-4", "route", "show", "proto", "static"]),
    )?;
    ensure!(left.trim().is_empty(), "{left}");
    clear([a, b], [far, near])?;
    Ok(format!(
        "{FOREIGN} routes came and went ({seen}), ours are as they were"
    ))
}

/// The machine at the other end is gone with its wire, and one like it is plugged in later.
pub(super) fn vanished(hub: &Hub, folder: &Path) -> Result<String> {
    let [a, b] = [hub.machine("ghost", 51)?, hub.machine("stays", 52)?];
    let [mut far, near] = feed(&a, &b, folder)?;
    // Killed, and its namespace with it: nobody answers, not even with a reset.
    a.netns.ip("link set eth0 down")?;
    far.kill()?;
    a.netns.delete()?;
    await_established(&near, 0, 30)?;
    let a = hub.machine("ghost2", 51)?;
    let far = originator(&a, &b, folder)?;
    await_established(&near, 1, 40)?;
    await_table(&near, &learned(&a), 20)?;
    await_routes(&b, &a)?;
    clear([a, b], [far, near])?;
    Ok("dropped, and back with every route".to_owned())
}
