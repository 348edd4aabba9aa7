//! The command line: what it takes, what it asks the daemon, and how answers look.
//!
//! Exit codes: 0 for done or well, 1 for not done or found wanting, 2 for asked wrongly.

pub mod args;
mod client;
mod config;
mod events;
mod explain;
mod ipam;
mod peers;
mod routes;
mod speaker;
mod status;
pub mod table;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Config, ConfigError, DatastoreKind};
use crate::descriptors;
use crate::ipam::check::CheckReport;
use crate::server::answer::{self, Request};
use args::{
    Arguments, AskArgs, Command, ConfigCommand, ConfigShowArgs, IpamAction, Output, PeerAction,
    PeersArgs,
};

/// Runs a subcommand and says how it went.
#[must_use]
pub fn run(arguments: Arguments) -> ExitCode {
    match dispatch(arguments.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nobody reads a closed standard error.
            let _ = writeln!(std::io::stderr(), "margay: {error:#}");
            if error.is::<ConfigError>() {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// True where all is well.
fn dispatch(command: Command) -> Result<bool> {
    match command {
        Command::Agent(args) => {
            let config = Config::load(args)?;
            log(&config.log, config.log_json);
            descriptors::raise();
            runtime()?.block_on(crate::agent(config))?;
            Ok(true)
        }
        Command::Speaker(args) => {
            if args.check {
                print(&speaker::meaning(&crate::config::speaker::read(
                    &args.config,
                )?))?;
                return Ok(true);
            }
            let runtime = runtime()?;
            // Whoever changes the file while it is read the first time says so, and means that it be read again.
            let hangup = runtime.block_on(async { signal(SignalKind::hangup()) })?;
            let file = crate::config::speaker::read(&args.config)?;
            log(&args.log, false);
            descriptors::raise();
            runtime.block_on(crate::speaker(
                file,
                &args.config,
                hangup,
                args.run_dir,
                args.metrics_listen,
            ))?;
            Ok(true)
        }
        Command::Config {
            command: ConfigCommand::Show(args),
        } => config_show(&args),
        Command::Status(ask) => {
            let status: answer::Status = answered(&ask, &Request::Status, status::table)?;
            Ok(status.healthy)
        }
        Command::Peers(args) => peers(args),
        Command::Events(args) => {
            events::run(args)?;
            Ok(true)
        }
        Command::Routes(args) => {
            let request = Request::Routes {
                prefix: args.prefix,
                peer: args.peer,
            };
            answered::<Vec<answer::Route>>(&args.ask, &request, |routes, wide| {
                routes::table(routes, wide)
            })?;
            Ok(true)
        }
        Command::Ipam(args) => match args.action {
            None => {
                answered::<answer::Ipam>(&args.ask, &Request::Ipam, ipam::table)?;
                Ok(true)
            }
            Some(IpamAction::Check(ask)) => {
                let report: CheckReport =
                    answered(&ask, &Request::IpamCheck, |report, _| ipam::report(report))?;
                Ok(report.is_sound())
            }
        },
        Command::Explain(args) => {
            let request = Request::Explain {
                address: args.address,
            };
            let explanation: answer::Explanation =
                answered(&args.ask, &request, |explanation, _| {
                    explain::table(explanation)
                })?;
            Ok(explanation.routed)
        }
    }
}

fn peers(args: PeersArgs) -> Result<bool> {
    let (ask, request) = match args.action {
        None => {
            let request = Request::Peers { name: args.name };
            answered::<Vec<answer::Peer>>(&args.ask, &request, |peers, wide| {
                peers::table(peers, wide)
            })?;
            return Ok(true);
        }
        Some(PeerAction::Clear {
            ask,
            name,
            soft_in,
            soft_out,
            message,
        }) => (
            ask,
            Request::Clear {
                name,
                soft_in,
                soft_out,
                message,
            },
        ),
        Some(PeerAction::Disable { ask, name, message }) => {
            (ask, Request::Disable { name, message })
        }
        Some(PeerAction::Enable { ask, name }) => (ask, Request::Enable { name }),
        Some(PeerAction::Drain { ask, name, off }) => (ask, Request::Drain { name, on: !off }),
    };
    answered::<answer::Done>(&ask, &request, |done, _| format!("{}\n", done.done))?;
    Ok(true)
}

fn config_show(args: &ConfigShowArgs) -> Result<bool> {
    let datastore: DatastoreKind = args.datastore.parse()?;
    log("warn", false);
    let cluster = runtime()?.block_on(crate::read_cluster(&datastore, &args.node_name))?;
    let (show, problems) = crate::desired::show::show(&cluster);
    let text = match args.output {
        Output::Table => config::table(&show, false),
        Output::Wide => config::table(&show, true),
        Output::Json => json(&show.to_value())?,
        Output::Yaml => yaml(&show.to_value())?,
    };
    print(&text)?;
    let mut wanting = Vec::new();
    if cluster.own_node().is_none() {
        wanting.push(format!("there is no Node {}", args.node_name));
    }
    wanting.extend(
        problems
            .iter()
            .map(|problem| format!("{}: {}", problem.subject, problem.reason)),
    );
    wanting.extend(cluster.invalid.values().map(ToString::to_string));
    for line in &wanting {
        let _ = writeln!(std::io::stderr(), "margay: {line}");
    }
    Ok(wanting.is_empty())
}

/// Asks, prints, and returns the answer.
fn answered<T: DeserializeOwned>(
    ask: &AskArgs,
    request: &Request,
    table: impl Fn(&T, bool) -> String,
) -> Result<T> {
    let value = client::ask(&ask.run_dir, request)?;
    let answer = serde_json::from_value(value.clone())
        .context("the daemon's answer is not understood; is it of another version?")?;
    let text = match ask.output {
        Output::Table => table(&answer, false),
        Output::Wide => table(&answer, true),
        Output::Json => json(&value)?,
        Output::Yaml => yaml(&value)?,
    };
    print(&text)?;
    Ok(answer)
}

fn json(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn yaml(value: &Value) -> Result<String> {
    Ok(serde_saphyr::to_string(value)?)
}

fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // `margay routes | head` is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

fn log(filter: &str, json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr);
    // Asked twice within one process (tests), the first answer stays.
    let _ = if json {
        builder.json().try_init()
    } else {
        builder.try_init()
    };
}
