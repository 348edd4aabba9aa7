//! `lab`: the demo and the scenario tests.

use std::env;
use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use margay_integration::bench::daemon::Contender;
use margay_integration::bench::shape::Shape;
use margay_integration::eventually::idle;
use margay_integration::report::{Report, say};
use margay_integration::sandbox::{self, Place};
use margay_integration::scenario::{self, Outcome, Scenario};
use margay_integration::{bench, suite, vm, workdir};

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
    /// Measures margay beside what it is measured against.
    #[command(subcommand)]
    Bench(Bench),
    /// The load of a speaker's benchmark; started by it inside the clients' namespace.
    #[command(hide = true)]
    Load {
        /// Letter of the shape.
        #[arg(long)]
        shape: String,
        /// Process under test.
        #[arg(long)]
        daemon: i32,
    },
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

#[derive(Subcommand, Debug)]
enum Bench {
    /// BGP speakers as route reflectors.
    Speaker {
        /// Letter of the shape: A, C, D, E or F.
        #[arg(long, default_value = "E")]
        shape: String,
        /// Who takes part.
        #[arg(long, value_delimiter = ',', default_value = "margay,bird2")]
        daemons: Vec<Contender>,
        /// Runs of each.
        #[arg(long, default_value_t = 5)]
        runs: usize,
    },
    /// ADD and DEL of the plugin.
    Cni {
        /// Pods of each.
        #[arg(long, default_value_t = 100)]
        count: usize,
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
        Action::Bench(bench) => measure(bench),
        Action::Load { shape, daemon } => load(shape, *daemon),
    };
    result.unwrap_or_else(|error| {
        say(format_args!("lab: {error:#}"));
        ExitCode::FAILURE
    })
}

fn measure(bench: &Bench) -> Result<ExitCode> {
    let owner = match sandbox::enter()? {
        Place::Outside(code) => return Ok(code),
        Place::Inside { owner } => owner,
    };
    let folder = workdir::create("bench", owner)?;
    match bench {
        Bench::Speaker {
            shape,
            daemons,
            runs,
        } => bench::speakers(&find_shape(shape)?, daemons, *runs, &folder)?,
        Bench::Cni { count } => bench::cni::run(*count, &folder)?,
    }
    let _ = fs::remove_dir_all(&folder);
    Ok(ExitCode::SUCCESS)
}

fn load(shape: &str, daemon: i32) -> Result<ExitCode> {
    let figures = bench::load::run(find_shape(shape)?, daemon)?;
    say(serde_json::to_string(&figures)?);
    Ok(ExitCode::SUCCESS)
}

fn find_shape(letter: &str) -> Result<Shape> {
    Shape::find(letter).with_context(|| format!("no shape {letter}; there are A, C, D, E and F"))
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

/// Environment variable that keeps a lab after its last check, to look around in it.
const HOLD_VARIABLE: &str = "MARGAY_LAB_HOLD";
const HOLD: Duration = Duration::from_secs(3_600);

fn play(scenario: Scenario, owner: u32) -> Result<ExitCode> {
    let folder = workdir::create(scenario.name, owner)?;
    say(format_args!(
        "scenario {}: {}",
        scenario.name, scenario.about
    ));
    let mut report = Report::default();
    let outcome = (scenario.run)(&folder, &mut report);
    if env::var_os(HOLD_VARIABLE).is_some() {
        say(format_args!(
            "held; look around with: nsenter -a -t $(pgrep -P {owner}) bash"
        ));
        idle(HOLD);
    }
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
