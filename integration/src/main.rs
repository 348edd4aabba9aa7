//! `lab`: the demo and the scenario tests.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use margay_integration::report::{Report, say};
use margay_integration::sandbox::{self, Place};
use margay_integration::scenario::{self, Outcome, Scenario};
use margay_integration::{vm, workdir};

/// Labs of network namespaces: the demo and the scenario tests of margay.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Lists the scenarios.
    List,
    /// Runs one scenario.
    Scenario {
        /// Its name.
        name: String,
        /// Runs it in the emulated machine whatever this kernel can do.
        #[arg(long)]
        emulated: bool,
    },
}

/// A lab in the emulated machine that takes longer than this has failed.
const EMULATED_LIMIT: Duration = Duration::from_secs(1_500);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Action::List = arguments.command {
        for scenario in scenario::ALL {
            say(format_args!("{:<12} {}", scenario.name, scenario.about));
        }
        return ExitCode::SUCCESS;
    }
    match run(&arguments.command) {
        Ok(code) => code,
        Err(error) => {
            say(format_args!("lab: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(action: &Action) -> Result<ExitCode> {
    let owner = match sandbox::enter()? {
        Place::Outside(code) => return Ok(code),
        Place::Inside { owner } => owner,
    };
    match action {
        Action::List => Ok(ExitCode::SUCCESS),
        Action::Scenario { name, emulated } => {
            let scenario = scenario::find(name)
                .with_context(|| format!("no scenario {name}; see `lab list`"))?;
            if *emulated && !vm::is_guest() {
                return emulate(&["scenario", name], name, owner);
            }
            play(scenario, owner)
        }
    }
}

/// Exit status of a scenario that could not run here.
const SKIPPED: u8 = 77;

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
            Ok(ExitCode::from(SKIPPED))
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
