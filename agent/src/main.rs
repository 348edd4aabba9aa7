//! The margay binary: arguments, runtime, exit codes.
//!
//! Exit code 0 means that what was asked for is done or well, 1 that it is not, 2 that it was asked wrongly.

use std::process::ExitCode;

use clap::Parser;
use margay_agent::cli::args::Arguments;

fn main() -> ExitCode {
    margay_agent::cli::run(Arguments::parse())
}
