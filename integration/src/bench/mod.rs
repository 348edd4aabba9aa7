//! Benchmarks: margay and what it is measured against, in turn, in one run, on one machine.
//!
//! ```text
//!  srv namespace                      load namespace
//!  the daemon under test   ── veth ── `lab load`: every client a BGP session from an address of its own
//!  10.100.0.1/16                      10.100.128.0/17
//! ```
//! One daemon at a time, as an iBGP route reflector whose clients are dynamic neighbours of a range. A phase ends when
//! every client holds exactly what it must of the others, checked prefix by prefix. Figures are seconds of wall clock unless marked;
//! CPU and peak memory are the daemon's, from /proc. Several runs each; medians are printed.
//!
//! At the end of margay's runs everything is announced once more while a tenth of the clients read 10 kB/s (`beside slow readers`:
//! until the others have it, to be held against `announce`); those then read on and must come to hold everything too.

pub mod client;
pub mod cni;
pub mod daemon;
pub mod load;
pub mod shape;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use comfy_table::{ContentArrangement, Table, presets};
use serde::de::DeserializeOwned;

use self::daemon::Contender;
use self::load::{Figures, PathFigures};
use self::shape::Shape;
use crate::exec;
use crate::link::{self, End};
use crate::netns::Netns;
use crate::report::say;

/// Where daemons and clients meet.
#[derive(Debug)]
pub struct Arena<'a> {
    server: Netns,
    clients: Netns,
    folder: &'a Path,
}

impl<'a> Arena<'a> {
    /// The two namespaces, with an address for every client of the largest shape.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn new(folder: &'a Path) -> Result<Self> {
        let server = Netns::create_settled("srv")?;
        let clients = Netns::create_settled("load")?;
        link::wire(
            &End {
                netns: &server,
                interface: "srv0",
            },
            &End {
                netns: &clients,
                interface: "load0",
            },
        )?;
        link::addresses(&server, "srv0", &[format!("{}/16", shape::SERVER)])?;
        let most = shape::ALL.iter().map(|shape| shape.clients).max();
        let addresses: Vec<_> = (0..=most.unwrap_or_default())
            .map(|i| format!("{}/16", Shape::client_address(i)))
            .collect();
        link::addresses(&clients, "load0", &addresses)?;
        Ok(Self {
            server,
            clients,
            folder,
        })
    }

    /// Starts a contender, runs the load against it, and ends it.
    fn run<T: DeserializeOwned>(
        &self,
        shape: &Shape,
        contender: Contender,
        words: &[&str],
    ) -> Result<T> {
        let daemon = contender.start(shape, &self.server, self.folder)?;
        let figures = load(shape, &self.clients, daemon.pid().as_raw(), words)
            .with_context(|| format!("{}; its log: {}", contender.name(), daemon.log_tail(800)))?;
        contender.kill(daemon)?;
        Ok(figures)
    }

    /// Runs each contender so many times through the shape and prints a table of medians. One that does not come through takes no
    /// further part: its row has what it was measured at until then, and below stands what happened.
    ///
    /// # Errors
    /// When margay does not come through, or tells a client what came from it.
    pub fn speakers(&self, shape: &Shape, contenders: &[Contender], runs: usize) -> Result<()> {
        say(format_args!(
            "shape {}: {} clients × {} /{}, {} attribute sets each, {runs} runs",
            shape.name, shape.clients, shape.prefixes, shape.prefix_len, shape.attribute_sets
        ));
        let mut all: BTreeMap<&'static str, Vec<Figures>> = BTreeMap::new();
        let mut failed = BTreeSet::new();
        let mut notes = String::new();
        // Interleaved, so that whatever else the machine does falls on all alike.
        for run in 1..=runs {
            for contender in contenders {
                let name = contender.name();
                if failed.contains(name) {
                    continue;
                }
                let own = *contender == Contender::Margay;
                let words: &[&str] = if own { &["--slow-readers"] } else { &[] };
                let broke = match self.run::<Figures>(shape, *contender, words) {
                    Ok(figures) => {
                        let figures_text = serde_json::to_string(&figures)?;
                        say(format_args!("{name:<8} run {run}: {figures_text}"));
                        let told_back = figures.told_back;
                        ensure!(
                            !own || told_back == 0,
                            "{name} told clients {told_back} times what had come from them"
                        );
                        let broke = figures.broke.clone();
                        all.entry(name).or_default().push(figures);
                        broke
                    }
                    Err(error) => Some(format!("{error:#}")),
                };
                if let Some(broke) = broke {
                    ensure!(!own, "{name}: {broke}");
                    say(format_args!("{name:<8} run {run}: {broke}"));
                    let _ = writeln!(
                        notes,
                        "{name} took no further part after run {run}: {broke}"
                    );
                    failed.insert(name);
                }
            }
        }
        say(format_args!("shape {}", shape.name));
        say(medians(contenders, &all));
        for (name, figures) in &all {
            let most = figures.iter().map(|figures| figures.told_back).max();
            if let Some(most @ 1..) = most {
                let _ = writeln!(
                    notes,
                    "{name} told clients up to {most} times in a run what had come from them; they left it out of what they hold"
                );
            }
        }
        if !notes.is_empty() {
            say(notes.trim_end());
        }
        Ok(())
    }

    /// Prints what paths cost each contender in memory, medians of so many runs.
    ///
    /// # Errors
    /// When margay does not come through.
    pub fn paths(&self, contenders: &[Contender], runs: usize) -> Result<()> {
        let shape = &shape::PATHS;
        say(format_args!(
            "octets of resident memory for each path: {} /{}, {} attribute sets a client, {runs} runs",
            shape.prefixes, shape.prefix_len, shape.attribute_sets
        ));
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["daemon", "first path of a prefix", "each further one"]);
        for contender in contenders {
            let mut all = Vec::new();
            for _ in 0..runs {
                match self.run::<PathFigures>(shape, *contender, &["--memory"]) {
                    Ok(figures) => all.push(figures),
                    Err(error) if *contender == Contender::Margay => return Err(error),
                    Err(error) => {
                        say(format_args!("{}: {error:#}", contender.name()));
                        break;
                    }
                }
            }
            table.add_row([
                contender.name().to_owned(),
                format!("{:.0}", median(all.iter().map(|f| f.first).collect())),
                format!("{:.0}", median(all.iter().map(|f| f.further).collect())),
            ]);
        }
        say(table);
        Ok(())
    }
}

/// A row for each contender; what was never measured is a dash.
fn medians(contenders: &[Contender], all: &BTreeMap<&'static str, Vec<Figures>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header([
        "daemon",
        "announce",
        "its CPU",
        "single ms",
        "join",
        "flap",
        "withdraw",
        "memory MiB",
        "beside slow readers",
    ]);
    for contender in contenders {
        let figures = all.get(contender.name()).map_or(&[][..], Vec::as_slice);
        let cell = |digits: usize, field: fn(&Figures) -> Option<f64>| {
            let measured: Vec<f64> = figures.iter().filter_map(field).collect();
            match measured.as_slice() {
                [] => "–".to_owned(),
                _ => format!("{:.digits$}", median(measured)),
            }
        };
        table.add_row([
            contender.name().to_owned(),
            cell(3, |f| f.announce),
            cell(2, |f| f.announce_cpu),
            cell(3, |f| f.single.map(|seconds| seconds * 1e3)),
            cell(3, |f| f.join),
            cell(3, |f| f.flap),
            cell(3, |f| f.withdraw),
            cell(0, |f| f.peak_mib),
            cell(3, |f| f.beside_slow),
        ]);
    }
    table
}

/// Runs the load inside the clients' namespace.
fn load<T: DeserializeOwned>(
    shape: &Shape,
    clients: &Netns,
    daemon: i32,
    words: &[&str],
) -> Result<T> {
    let own = std::env::current_exe()?;
    let mut command: Command = clients.command(&own.display().to_string());
    command
        .args(["load", "--shape", shape.name, "--daemon"])
        .arg(daemon.to_string())
        .args(words);
    // The load bounds its phases itself; this is for one that hangs.
    let output = exec::output_within(&mut command, &[], RUN_LIMIT)?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!(
            "the load: {}{text}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    serde_json::from_str(&text).with_context(|| format!("figures: {text}"))
}

/// Longest time of all phases of one run.
const RUN_LIMIT: Duration = Duration::from_secs(900);

/// The middle of a list; of an even one the mean of the two in the middle.
#[must_use]
pub fn median(mut list: Vec<f64>) -> f64 {
    list.sort_by(f64::total_cmp);
    let half = list.len() / 2;
    match (
        list.get(half),
        half.checked_sub(1).and_then(|i| list.get(i)),
    ) {
        (Some(high), Some(low)) if list.len().is_multiple_of(2) => f64::midpoint(*low, *high),
        (Some(middle), _) => *middle,
        (None, _) => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_the_mean_of_both_middles() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn a_run_that_broke_leaves_what_it_measured_in_the_table_and_dashes_for_the_rest() {
        let broken = Figures {
            announce: Some(1.25),
            broke: Some("phase single did not end".to_owned()),
            ..Figures::default()
        };
        let all = BTreeMap::from([(Contender::Frr.name(), vec![broken])]);
        let text = medians(&[Contender::Frr, Contender::Bird2], &all).to_string();
        let row = |name: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.contains(name));
            let cells = line.unwrap_or_default().split(['│', '┆']);
            cells.map(|cell| cell.trim().to_owned()).collect()
        };
        assert_eq!(
            row("FRR").get(1..5),
            Some(&["FRR", "1.250", "–", "–"].map(str::to_owned)[..])
        );
        assert_eq!(row("BIRD 2").get(2).map(String::as_str), Some("–"));
    }
}
