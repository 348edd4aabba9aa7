//! A whole machine is stopped, as a hypervisor does it to move or save one: its kernel answers nobody, and afterwards no time has passed
//! for it. A process that is stopped alone (see `process.rs`) has a kernel that goes on acknowledging, and a clock that goes on.
//!
//! ```text
//!   source ──┐
//!            br0 ── tap0: the guest under QEMU, whose margay reflects
//!   reader ──┘
//! ```

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::hub::{Hub, Machine, Table, await_established, await_table, established, rows};
use crate::eventually::eventually;
use crate::link;
use crate::node::programs;
use crate::pace;
use crate::ping::Stream;
use crate::speaker::Speaker;
use crate::view;
use crate::vm::Guest;

const TAP: &str = "tap0";
const GUEST: &str = "10.99.0.51";

/// Announced all along, and an address in it.
const STEADY: (&str, &str) = ("10.1.0.0/16", "10.1.0.1");

/// What is announced before, and from the middle of the standstill on instead.
const CHANGING: [&str; 2] = ["10.9.0.0/24", "10.9.1.0/24"];

/// An emulated machine takes its time to boot, above all where others do so too.
const BOOT: u64 = 240;

fn peer(name: &str, address: &str, client: bool) -> String {
    format!(
        "  - {{ name: {name}, address: {address}, asn: 64512, routeReflectorClient: {client}, holdTime: 9, connectRetry: 500ms, \
         idleHold: 200ms, idleHoldMax: 1s }}\n"
    )
}

/// The guest's script: its address, and margay with the file beside it.
fn guest(clients: &[&Machine; 2], folder: &Path) -> Result<String> {
    let [source, reader] = clients;
    let file = folder.join("guest.yaml");
    let config = format!(
        "asn: 64512\nrouterId: {GUEST}\nclusterId: {GUEST}\nlisten: [\"0.0.0.0:179\"]\nfamilies: [ipv4-unicast]\nkernel: {{ install: false }}\n\
         peers:\n{}{}",
        peer("source", &source.address, true),
        peer("reader", &reader.address, true)
    );
    std::fs::write(&file, config)?;
    Ok(format!(
        "ip address add {GUEST}/16 dev eth0\n{} speaker --config '{}' --run-dir /run/speaker",
        programs()?.join("margay").display(),
        file.display()
    ))
}

fn source(own: &Machine, turn: usize) -> String {
    let changing = CHANGING.get(turn).copied().unwrap_or_default();
    own.yaml(&format!(
        "originate: [{}, {changing}]\npeers:\n{}",
        STEADY.0,
        peer("guest", GUEST, false)
    ))
}

/// Graceful restart carries the neighbours over it: what the guest reflected is forwarded by all along, and what changed meanwhile comes
/// once it goes on.
pub(super) fn survived(hub: &Hub, folder: &Path, seconds: u64) -> Result<String> {
    let [a, b] = [hub.machine("giver", 52)?, hub.machine("taker", 53)?];
    link::addresses(&a.netns, "lo", &[format!("{}/32", STEADY.1)])?;
    let mut first = Speaker::start(&a.netns, &source(&a, 0), folder)?;
    let mut second = b.speaker(
        &format!(
            "kernel: {{ install: true }}\npeers:\n{}",
            peer("guest", GUEST, false)
        ),
        folder,
    )?;
    let mut guest = Guest::boot(hub.tap(TAP)?, TAP, &guest(&[&a, &b], folder)?, folder)?;
    let held = |turn: usize, deadline: u64| -> Result<()> {
        let prefixes = [STEADY.0, CHANGING.get(turn).copied().unwrap_or_default()];
        let wanted: Table = rows(prefixes, Some(&a.address)).collect();
        await_table(&second, &wanted, deadline)
    };
    held(0, BOOT).with_context(|| guest.console())?;
    let stream = eventually("a first answer", pace::seconds(10), || {
        Stream::start(&b.netns, STEADY.1.parse()?, folder)
    })?;
    let (start, pause) = (Instant::now(), Duration::from_secs(seconds));
    guest.pause()?;
    for speaker in [&first, &second] {
        await_established(speaker, 0, 12)?;
    }
    let noticed = start.elapsed();
    first.reload(&source(&a, 1))?;
    crate::eventually::throughout(pause.saturating_sub(noticed), || {
        let routes = link::routes(&b.netns, 4)?;
        let route = routes.iter().find(|route| route.prefix == STEADY.0);
        ensure!(
            route.is_some_and(|route| route.goes_via(&a.address)),
            "{route:?} in the kernel"
        );
        ensure!(established(&second)? == 0, "somebody answers");
        Ok(())
    })?;
    guest.resume()?;
    let resumed = Instant::now();
    held(1, 60).with_context(|| guest.console())?;
    let back = resumed.elapsed();
    for speaker in [&first, &second] {
        await_established(speaker, 1, 10)?;
    }
    let packets = view::none_lost(vec![stream])?;
    guest.kill()?;
    for speaker in [&mut first, &mut second] {
        speaker.kill()?;
    }
    for machine in [a, b] {
        machine.netns.delete()?;
    }
    Ok(format!(
        "{seconds} s at a hold time of 9 s, noticed after {noticed:.1?}, all right {back:.1?} afterwards; {packets}"
    ))
}
