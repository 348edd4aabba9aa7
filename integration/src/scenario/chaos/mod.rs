//! Misfortune with real sockets and kernels: thousands of callers at once, no descriptors or memory left, a peer that hardly reads, a
//! frozen process, a clock that jumps, two reflectors away at once, passwords that change in the wrong order, links that flap, a flood
//! of foreign routes, a peer's machine that vanishes, octets damaged on the way, a fleet of BIRDs replaced one by one. Each case ends
//! with every table compared with the one it should be, row by row.
//!
//! What needs no socket is told on the invented clock, in `bgp/src/speaker/tests/chaos.rs`.

mod callers;
mod clock;
mod damage;
mod fleet;
mod hub;
mod links;
mod memory;
mod pair;
mod played;
mod process;
mod slow;
mod standstill;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::Outcome;
use crate::report::Report;
use crate::soak::Strictness;
use crate::vm::Guest;

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Callers at once.
    pub(crate) callers: usize,
    /// How often each misfortune strikes.
    pub(crate) rounds: usize,
}

/// Runs every case once, with fewer callers than a soak.
///
/// # Errors
/// When a step on which all others rest fails.
pub fn run(folder: &Path, report: &mut Report) -> Result<Outcome> {
    all(
        folder,
        report,
        Scale {
            callers: 1_000,
            rounds: 3,
        },
    )?;
    Ok(Outcome::Passed)
}

/// The cases that need the emulated machine: a clock that may be set, and a limit on memory that counts the kernel's as well.
///
/// # Errors
/// When there is no switch.
pub fn run_emulated(folder: &Path, report: &mut Report) -> Result<Outcome> {
    let hub = hub::Hub::new()?;
    report.check("the wall clock jumps by hours, ahead and back", || {
        clock::jumps(&hub, folder)
    });
    report.check("more callers than memory.max has room for", || {
        memory::flooded(&hub, folder, memory::Flood::EMULATED)
    });
    Ok(Outcome::Passed)
}

/// A whole machine stands still. Its neighbours are outside, where time goes on.
///
/// # Errors
/// When there is no switch.
pub fn run_standstill(folder: &Path, report: &mut Report) -> Result<Outcome> {
    if !Guest::possible() {
        return Ok(Outcome::Skipped("no /dev/net/tun here".to_owned()));
    }
    let hub = hub::Hub::new()?;
    report.check(STANDSTILL, || standstill::survived(&hub, folder, 13));
    Ok(Outcome::Passed)
}

const STANDSTILL: &str = "a reflector's machine that stands still for longer than the hold time";

/// Every case for about so long: the soak named `chaos`. From five minutes on with 5,000 callers.
///
/// # Errors
/// As [`run`].
pub fn soak(folder: &Path, length: Duration, _: Strictness, report: &mut Report) -> Result<()> {
    // A round of everything takes about 20 s, and about a minute goes into what has no rounds.
    let rounds = usize::try_from(length.as_secs().saturating_sub(60) / 20)?.max(3);
    let callers = if length >= Duration::from_secs(300) {
        5_000
    } else {
        1_000
    };
    all(folder, report, Scale { callers, rounds })?;
    if Guest::possible() {
        let hub = hub::Hub::named("emulated")?;
        report.check(STANDSTILL, || standstill::survived(&hub, folder, 30));
    }
    Ok(())
}

fn all(folder: &Path, report: &mut Report, scale: Scale) -> Result<()> {
    let hub = hub::Hub::new()?;
    report.check(
        "callers at once, a tenth with an identifier somebody else has",
        || callers::storm(&hub, folder, scale),
    );
    report.check("one prefix that every caller flaps at 100 Hz", || {
        callers::flappers(&hub, folder, scale)
    });
    report.check(
        "no descriptors left: sessions stay, and callers come in when some are free",
        || callers::descriptors(&hub, folder),
    );
    report.check(
        "more callers than there is memory for: sessions stay, and others come in afterwards",
        || memory::flooded(&hub, folder, memory::Flood::of(scale)?),
    );
    report.check("one of 500 peers reads 1 KiB/s while routes change", || {
        slow::reader(&hub, folder, scale)
    });
    report.check(
        "a process stopped for less than the hold time, then for longer",
        || process::frozen(&hub, folder, scale),
    );
    report.check(
        "a process stopped for longer than the hold time under graceful restart",
        || process::frozen_gracefully(&hub, folder, scale),
    );
    report.check(
        "a reflector killed and started again while routes change",
        || process::killed(&hub, folder, scale),
    );
    report.check(
        "two reflectors restarted in turn, then together, while routes change",
        || pair::restarted(&hub, folder, scale),
    );
    report.check(
        "a new password in half of a mesh first: no session ends",
        || process::passwords(&hub, folder, scale),
    );
    report.check(
        "a peer deleted and added again within a tenth of a second",
        || process::readded(&hub, folder, scale),
    );
    report.check(
        "policies reloaded over 100,000 routes beside a session of 3 s hold time",
        || process::reloads(&hub, folder, scale),
    );
    report.check("a link that flaps ten times a second", || {
        links::flapping(&hub, folder, scale)
    });
    report.check("100,000 foreign routes come and go in the kernel", || {
        links::flooded(&hub, folder, scale)
    });
    report.check("a peer's namespace that vanishes and returns", || {
        links::vanished(&hub, folder)
    });
    report.check("octets damaged on the way", || {
        damage::proxy(&hub, folder, scale)
    });
    report.check("a mesh of BIRDs replaced by margay one by one", || {
        fleet::replaced(&hub, folder)
    });
    Ok(())
}
