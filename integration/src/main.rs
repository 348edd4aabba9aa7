//! `lab`: the demo and the scenario tests.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use margay_integration::report::{Report, say};
use margay_integration::sandbox::{self, Place};
use margay_integration::scenario::{self, Outcome, Scenario};
use margay_integration::{suite, vm, workdir};

/// Labs of network namespaces: the demo and the scenario tests of margay.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Shows the main job and prints a table; exit status 0 only if all of it held.
    Demo,
    /// Lists the scenarios.
    List,
    /// Runs scenarios, all if none is named, and counts.
    Scenarios {
        /// Their names.
        names: Vec<String>,
        /// How many at a time.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
    },
    /// Runs one scenario, in the emulated machine where it needs IP-in-IP and this kernel has none.
    Scenario {
        /// Its name.
        name: String,
        /// Run it in the emulated machine whatever this kernel can do.
        #[arg(long)]
        emulated: bool,
    },
}

/// A lab in the emulated machine that takes longer than this has failed.
const EMULATED_LIMIT: Duration = Duration::from_secs(1_500);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.command {
        Action::List => {
            for scenario in scenario::ALL {
                say(format_args!("{:<12} {}", scenario.name, scenario.about));
            }
            Ok(ExitCode::SUCCESS)
        }
        Action::Scenarios { names, jobs } => suite(names, *jobs),
        Action::Demo => enter("demo", false),
        Action::Scenario { name, emulated } => enter(name, *emulated),
    };
    result.unwrap_or_else(|error| {
        say(format_args!("lab: {error:#}"));
        ExitCode::FAILURE
    })
}

fn named(name: &str) -> Result<Scenario> {
    scenario::find(name).with_context(|| format!("no scenario {name}; see `lab list`"))
}

fn suite(names: &[String], jobs: usize) -> Result<ExitCode> {
    let chosen = match names {
        [] => scenario::ALL.to_vec(),
        names => names
            .iter()
            .map(|name| named(name))
            .collect::<Result<_>>()?,
    };
    let counts = suite::run(&chosen, jobs)?;
    say(format_args!(
        "scenarios: {} passed, {} failed, {} skipped",
        counts.passed, counts.failed, counts.skipped
    ));
    Ok(if counts.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn enter(name: &str, emulated: bool) -> Result<ExitCode> {
    let scenario = named(name)?;
    let owner = match sandbox::enter()? {
        Place::Outside(code) => return Ok(code),
        Place::Inside { owner } => owner,
    };
    if !vm::is_guest() && (emulated || scenario.needs_ipip && !vm::kernel_has_ipip()?) {
        return emulate(&["scenario", name], name, owner);
    }
    play(scenario, owner)
}

fn play(scenario: Scenario, owner: u32) -> Result<ExitCode> {
    let folder = workdir::create(scenario.name, owner)?;
    say(format_args!(
        "scenario {}: {}",
        scenario.name, scenario.about
    ));
    let mut report = Report::default();
    let outcome = (scenario.run)(&folder, &mut report);
    match outcome {
        Ok(Outcome::Skipped(reason)) => {
            say(format_args!("SKIPPED {}: {reason}", scenario.name));
            let _ = fs::remove_dir_all(&folder);
            Ok(ExitCode::from(suite::SKIPPED))
        }
        Ok(Outcome::Passed) if report.held() => {
            say(format_args!("PASSED {}", scenario.name));
            let _ = fs::remove_dir_all(&folder);
            Ok(ExitCode::SUCCESS)
        }
        other => {
            if let Err(error) = other {
                say(format_args!("{error:#}"));
            }
            say(format_args!(
                "FAILED {}; logs in {}",
                scenario.name,
                folder.display()
            ));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn emulate(arguments: &[&str], name: &str, owner: u32) -> Result<ExitCode> {
    let folder = workdir::create(&format!("{name}-vm"), owner)?;
    let code = vm::run(arguments, &folder, EMULATED_LIMIT)?;
    if code == 0 {
        let _ = fs::remove_dir_all(&folder);
    } else {
        say(format_args!(
            "the guest's logs are in {}",
            vm::guest_logs(&folder).display()
        ));
    }
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
