//! Daemons a lab owns: started with their output in a log file, stopped when dropped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::eventually::eventually;
use crate::{exec, pace};

/// A running program whose output goes to a file.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a program; both of its outputs are appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program not be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| log.display().to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start: {}", exec::spelled(command)))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_path_buf(),
        })
    }

    /// Its process, as the lab's PID namespace numbers it.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }

    /// Its exit status once it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal and does not wait.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).with_context(|| format!("signal to {}", self.name))
    }

    /// Kills it with SIGKILL and waits for its end.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end with SIGTERM (or another signal) and waits.
    ///
    /// # Errors
    /// When it has not ended by the deadline; it is then killed on drop.
    pub fn stop(mut self, signal: Signal, deadline: Duration) -> Result<ExitStatus> {
        self.signal(signal)?;
        eventually(
            format!("{} ends after {signal}", self.name),
            deadline,
            || self.ended().ok_or("still running"),
        )
    }

    /// Waits until its log holds a text, such as `listening on`.
    ///
    /// # Errors
    /// When the process ends first or the deadline passes; the message holds the log's end.
    pub fn await_log(&mut self, text: &str, deadline: Duration) -> Result<()> {
        let name = self.name.clone();
        eventually(format!("{name} logs {text:?}"), deadline, || {
            let log = self.log_tail(usize::MAX);
            if log.contains(text) {
                return Ok(());
            }
            let tail = self.log_tail(400);
            Err(match self.ended() {
                Some(status) => anyhow!("ended with {status}: {tail}"),
                None => anyhow!("{tail:?}"),
            })
        })
    }

    /// The last bytes of its log.
    #[must_use]
    pub fn log_tail(&self, bytes: usize) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let from = log.len().saturating_sub(bytes);
        String::from_utf8_lossy(log.get(from..).unwrap_or_default()).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.ended().is_some() {
            return;
        }
        let _ = self.signal(Signal::SIGTERM);
        let ended = eventually("end", pace::seconds(1), || {
            self.ended().ok_or("still running")
        });
        if ended.is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
