//! The CNI plugin: one call, one process, a few milliseconds.
//!
//! Standard output carries the result or the error object alone, as the specification asks; nothing is logged here,
//! since the daemon logs each request and the runtime each error.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use margay_cni::spec::{CniError, DEFAULT_VERSION, code};
use margay_cni::verbs::{Environment, run};

fn main() -> ExitCode {
    let mut stdin = Vec::new();
    let result = io::stdin()
        .lock()
        .read_to_end(&mut stdin)
        .map_err(|e| CniError::new(code::IO_FAILURE, "cannot read the network configuration", e))
        .and_then(|_| run(&Environment::read(), &stdin));
    let (output, exit) = match result {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(value)) => (value, ExitCode::SUCCESS),
        Err(error) => (error.to_json(&asked_version(&stdin)), ExitCode::FAILURE),
    };
    match writeln!(io::stdout().lock(), "{output}") {
        Ok(()) => exit,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The version of the configuration, for the error object, even where the configuration is refused.
fn asked_version(stdin: &[u8]) -> String {
    serde_json::from_slice::<serde_json::Value>(stdin)
        .ok()
        .and_then(|v| v.get("cniVersion")?.as_str().map(str::to_owned))
        .unwrap_or_else(|| DEFAULT_VERSION.to_owned())
}
