//! Short commands: run one, with a limit, and get its output or a complaint that tells everything.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::pace;

/// Longest time any short command may take, before the pace of the machine is applied.
const LIMIT_SECONDS: u64 = 30;

/// The command as one would type it, for messages.
#[must_use]
pub fn spelled(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command to its end with `input` on its standard input, whatever its exit status.
///
/// # Errors
/// When it cannot be started or does not end within the limit; it is then killed.
pub fn output(command: &mut Command, input: &[u8]) -> Result<Output> {
    output_within(command, input, pace::seconds(LIMIT_SECONDS))
}

/// As [`output`] with a limit of the caller's.
///
/// # Errors
/// As [`output`].
pub fn output_within(command: &mut Command, input: &[u8], limit: Duration) -> Result<Output> {
    let what = spelled(command);
    let stdin = if input.is_empty() {
        Stdio::null()
    } else {
        Stdio::piped()
    };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start: {what}"))?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    if let Some(mut pipe) = child.stdin.take() {
        // A command that fails early closes its input; its exit status says more than the broken pipe.
        let _ = pipe.write_all(input);
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let _ = sender.send(child.wait_with_output());
    });
    match receiver.recv_timeout(limit) {
        Ok(result) => result.with_context(|| format!("lost: {what}")),
        Err(_) => {
            let _ = kill(pid, Signal::SIGKILL);
            bail!("not finished after {limit:.0?}: {what}")
        }
    }
}

/// Runs a command that must succeed and returns its standard output.
///
/// # Errors
/// As [`output`], and when the exit status is not zero; the message holds what it printed.
pub fn check(command: &mut Command) -> Result<String> {
    check_input(command, &[])
}

/// As [`check`], with `input` on standard input.
///
/// # Errors
/// As [`check`].
pub fn check_input(command: &mut Command, input: &[u8]) -> Result<String> {
    let output = output(command, input)?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{}: {}: {}{}",
            spelled(command),
            output.status,
            stderr.trim(),
            stdout.trim()
        );
    }
    Ok(stdout)
}
