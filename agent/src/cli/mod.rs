//! The command line: what it takes, what it asks the daemon, and how answers look.

pub mod args;
pub mod table;

use std::process::ExitCode;

use args::{Arguments, Command};

/// Runs a subcommand and says how it went.
#[must_use]
pub fn run(arguments: Arguments) -> ExitCode {
    let result = match arguments.command {
        Command::Speaker(args) => crate::config::speaker::read(&args.config)
            .map(|_| ())
            .map_err(anyhow::Error::from),
        _ => Err(anyhow::anyhow!("not wired yet")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("margay: {error:#}");
            ExitCode::FAILURE
        }
    }
}
