//! `lab`: the demo and the scenario tests.

use std::env;
use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use margay_integration::bench::Arena;
use margay_integration::bench::daemon::Contender;
use margay_integration::bench::shape::Shape;
use margay_integration::eventually::idle;
use margay_integration::report::{Report, say};
use margay_integration::sandbox::{self, Place};
use margay_integration::scenario::{self, Outcome, Scenario};
use margay_integration::vm::{self, Feature};
use margay_integration::{bench, soak, suite, workdir};

/// Labs of network namespaces: the demo and the scenario tests of margay.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Shows pods on two racks reaching each other, through restarts too, and prints a table; exit status 0 only if all of it held.
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
        /// Measure the memory of paths instead.
        #[arg(long)]
        memory: bool,
        /// Announce once more in the end, while a tenth of the clients read slowly.
        #[arg(long)]
        slow_readers: bool,
    },
    /// Runs soaks, all if none is named: what takes minutes.
    Soak {
        /// Their names.
        names: Vec<String>,
        /// How long each runs.
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
        /// Lists them.
        #[arg(long)]
        list: bool,
    },
    /// The clients of a soak; started by it inside their namespace.
    #[command(hide = true)]
    SoakLoad {
        /// How many.
        #[arg(long)]
        clients: usize,
    },
    /// Runs scenarios, all if none is named, and counts.
    Scenarios {
        /// Their names.
        names: Vec<String>,
        /// How many at a time.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
    },
    /// Runs one scenario, in the emulated machine where this kernel lacks what it needs.
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
        /// Letters of shapes: A, C, D, E, F.
        #[arg(long, value_delimiter = ',', default_value = "A,C,D,E,F")]
        shape: Vec<String>,
        /// Who takes part.
        #[arg(long, value_delimiter = ',', default_value = "margay,bird2")]
        daemons: Vec<Contender>,
        /// Runs of each.
        #[arg(long, default_value_t = 5)]
        runs: usize,
    },
    /// Resident memory per path of BGP speakers.
    Memory {
        /// Who takes part.
        #[arg(long, value_delimiter = ',', default_value = "margay,bird2")]
        daemons: Vec<Contender>,
        /// Runs of each.
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
    /// ADD and DEL of the plugin.
    Cni {
        /// Pods of each.
        #[arg(long, default_value_t = 100)]
        count: usize,
    },
}

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
        Action::Load {
            shape,
            daemon,
            memory,
            slow_readers,
        } => load(shape, *daemon, *memory, *slow_readers),
        Action::Soak {
            names,
            minutes,
            list,
        } => soak(names, *minutes, *list),
        Action::SoakLoad { clients } => soak::load::clients(*clients).map(|()| ExitCode::SUCCESS),
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
        } => {
            let shapes: Vec<Shape> = shape
                .iter()
                .map(|letter| find_shape(letter))
                .collect::<Result<_>>()?;
            let arena = Arena::new(&folder)?;
            for shape in &shapes {
                arena.speakers(shape, daemons, *runs)?;
            }
        }
        Bench::Memory { daemons, runs } => Arena::new(&folder)?.paths(daemons, *runs)?,
        Bench::Cni { count } => bench::cni::run(*count, &folder)?,
    }
    let _ = fs::remove_dir_all(&folder);
    Ok(ExitCode::SUCCESS)
}

fn load(shape: &str, daemon: i32, memory: bool, slow_readers: bool) -> Result<ExitCode> {
    let shape = find_shape(shape)?;
    say(if memory {
        serde_json::to_string(&bench::load::memory(shape, daemon)?)?
    } else {
        serde_json::to_string(&bench::load::run(shape, daemon, slow_readers)?)?
    });
    Ok(ExitCode::SUCCESS)
}

/// Runs soaks one after the other, each in namespaces of its own; a soak that fails does not stop the others.
fn soak(names: &[String], minutes: f64, list: bool) -> Result<ExitCode> {
    if list {
        for soak in soak::ALL {
            say(format_args!("{:<12} {}", soak.name, soak.about));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let named = |name: &String| {
        soak::find(name).with_context(|| format!("no soak {name}; see `lab soak --list`"))
    };
    let chosen = match names {
        [] => soak::ALL.to_vec(),
        names => names.iter().map(named).collect::<Result<_>>()?,
    };
    if let [soak] = chosen.as_slice() {
        return soak_one(*soak, minutes);
    }
    let program = env::current_exe().context("own path")?;
    let mut failed = 0;
    for soak in &chosen {
        let status = std::process::Command::new(&program)
            .args(["soak", soak.name, "--minutes", &minutes.to_string()])
            .status()?;
        failed += usize::from(!status.success());
    }
    say(format_args!(
        "soaks: {} passed, {failed} failed",
        chosen.len() - failed
    ));
    Ok(ExitCode::from(u8::from(failed > 0)))
}

fn soak_one(soak: soak::Soak, minutes: f64) -> Result<ExitCode> {
    let owner = match sandbox::enter()? {
        Place::Outside(code) => return Ok(code),
        Place::Inside { owner } => owner,
    };
    let folder = workdir::create(&format!("soak-{}", soak.name), owner)?;
    let time = Duration::try_from_secs_f64(minutes * 60.0).context("--minutes")?;
    say(format_args!("soak {}: {}", soak.name, soak.about));
    let mut report = Report::default();
    let outcome = (soak.run)(&folder, time, soak::Strictness::Promised, &mut report);
    if let Err(error) = &outcome {
        say(format_args!("{error:#}"));
    }
    if outcome.is_ok() && report.held() {
        say(format_args!("PASSED soak {}", soak.name));
        let _ = fs::remove_dir_all(&folder);
        return Ok(ExitCode::SUCCESS);
    }
    say(format_args!(
        "FAILED soak {}; logs in {}",
        soak.name,
        folder.display()
    ));
    Ok(ExitCode::FAILURE)
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
    let lacks = match scenario.needs {
        Some(device) => !vm::kernel_has(device)?,
        None => false,
    };
    if !vm::is_guest() && (emulated || lacks) {
        let feature = scenario.needs.unwrap_or(Feature::Ipip);
        return emulate(feature, &["scenario", name], name, owner);
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

fn emulate(feature: Feature, arguments: &[&str], name: &str, owner: u32) -> Result<ExitCode> {
    let folder = workdir::create(&format!("{name}-vm"), owner)?;
    let code = vm::run(feature, arguments, &folder)?;
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
