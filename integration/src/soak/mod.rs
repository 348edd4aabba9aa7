//! Soaks: what shows only after minutes, or only with many rounds. `integration/soak` runs all of them in full; the scenarios
//! `bfd` and `chaos` run links cut and misfortunes once each.
//!
//! A soak is a row of [`ALL`]: its name, what it is about, and a body that builds what it needs, runs for about the time it is
//! given and adds its checks to the report. Times and rounds follow from that one duration, so that the same body is CI's
//! and the long run's.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON answers null for what is not there, and a soak that looks past an end fails"
)]

pub mod cuts;
pub mod load;
pub mod paths;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::report::Report;

/// A soak's body: its folder, how long it may take, how strict it is to be, and where its checks go.
pub type Run = fn(&Path, Duration, Strictness, &mut Report) -> Result<()>;

/// What a measured time has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// What was promised: `integration/soak` runs alone on its machine.
    Promised,
    /// So much that no machine that does other things as well misses it: timing is a benchmark and not a test.
    Generous,
}

/// A soak by name.
#[derive(Clone, Copy, Debug)]
pub struct Soak {
    /// As given to `lab soak NAME`.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// Its body.
    pub run: Run,
}

/// Every soak, in the order they run.
pub const ALL: &[Soak] = &[
    Soak {
        name: "bfd-cuts",
        about: "links cut without a word, again and again: how soon margay notices and its kernel forgets",
        run: cuts::rounds,
    },
    Soak {
        name: "bfd-load",
        about: "3 × 100 ms of BFD beside a thousand busy sessions and busy processors: no false alarm",
        run: load::run,
    },
    Soak {
        name: "bfd-storm",
        about: "a link that flaps at random under graceful restart: forwarding stays, all is well afterwards",
        run: cuts::storm,
    },
    Soak {
        name: "chaos",
        about: "crowds of thousands, no memory, slow readers, frozen processes, passwords, reloads, flapping links, damaged octets, a fleet replaced",
        run: crate::scenario::chaos::soak,
    },
];

/// Finds a soak.
#[must_use]
pub fn find(name: &str) -> Option<Soak> {
    ALL.iter().copied().find(|soak| soak.name == name)
}
