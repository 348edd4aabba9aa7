//! Benchmarks: margay and what it is measured against, in turn, in one run, on one machine.
//!
//! ```text
//!  srv namespace                      load namespace
//!  the daemon under test   ── veth ── `lab load`: every client a BGP session from an address of its own
//!  10.100.0.1/16                      10.100.128.0/17
//! ```
//! One daemon at a time, as an iBGP route reflector whose clients are dynamic neighbours of a range. A phase ends when
//! every client holds exactly what it must, checked prefix by prefix. Figures are seconds of wall clock unless marked;
//! CPU and peak memory are the daemon's, from /proc. Several runs each; medians are printed.

pub mod client;
pub mod cni;
pub mod daemon;
pub mod load;
pub mod shape;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use comfy_table::{ContentArrangement, Table, presets};

use self::daemon::Contender;
use self::load::Figures;
use self::shape::Shape;
use crate::exec;
use crate::link::{self, End};
use crate::netns::Netns;
use crate::report::say;

/// Runs each contender so many times through the shape and prints a table of medians.
///
/// # Errors
/// When a daemon cannot be started or a phase does not end as it must.
pub fn speakers(shape: &Shape, contenders: &[Contender], runs: usize, folder: &Path) -> Result<()> {
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
    let addresses: Vec<_> = (0..=shape.clients)
        .map(|i| format!("{}/16", Shape::client_address(i)))
        .collect();
    link::addresses(&clients, "load0", &addresses)?;

    say(format_args!(
        "shape {}: {} clients × {} /{}, {} attribute sets each, {runs} runs",
        shape.name, shape.clients, shape.prefixes, shape.prefix_len, shape.attribute_sets
    ));
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
    ]);
    let mut all: BTreeMap<&'static str, Vec<Figures>> = BTreeMap::new();
    // Interleaved, so that whatever else the machine does falls on all alike.
    for run in 1..=runs {
        for contender in contenders {
            let daemon = contender.start(shape, &server, folder)?;
            let figures = measure(shape, &clients, daemon.pid().as_raw()).with_context(|| {
                format!(
                    "{} run {run}; its log: {}",
                    contender.name(),
                    daemon.log_tail(800)
                )
            })?;
            daemon.kill()?;
            say(format_args!(
                "{:<8} run {run}: {}",
                contender.name(),
                serde_json::to_string(&figures)?
            ));
            all.entry(contender.name()).or_default().push(figures);
        }
    }
    for contender in contenders {
        let Some(figures) = all.get(contender.name()) else {
            continue;
        };
        let median = |field: fn(&Figures) -> f64| median(figures.iter().map(field).collect());
        table.add_row([
            contender.name().to_owned(),
            format!("{:.3}", median(|f| f.announce)),
            format!("{:.2}", median(|f| f.announce_cpu)),
            format!("{:.3}", median(|f| f.single) * 1e3),
            format!("{:.3}", median(|f| f.join)),
            format!("{:.3}", median(|f| f.flap)),
            format!("{:.3}", median(|f| f.withdraw)),
            format!("{:.0}", median(|f| f.peak_mib)),
        ]);
    }
    say(table);
    Ok(())
}

fn measure(shape: &Shape, clients: &Netns, daemon: i32) -> Result<Figures> {
    let own = std::env::current_exe()?;
    let mut command: Command = clients.command(&own.display().to_string());
    command.args([
        "load",
        "--shape",
        shape.name,
        "--daemon",
        &daemon.to_string(),
    ]);
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
}
