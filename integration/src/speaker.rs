//! `margay speaker` in a namespace: started from a YAML text, asked and told through the command line.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use crate::eventually::eventually;
use crate::netns::Netns;
use crate::node::programs;
use crate::process::Daemon;
use crate::{exec, pace};

/// A running speaker.
#[derive(Debug)]
pub struct Speaker {
    daemon: Option<Daemon>,
    netns: Netns,
    config: PathBuf,
    log: PathBuf,
    run_dir: PathBuf,
}

impl Speaker {
    /// Starts a speaker and waits until it answers.
    ///
    /// # Errors
    /// When it does not accept the configuration.
    pub fn start(netns: &Netns, config: &str, folder: &Path) -> Result<Self> {
        let name = netns.name();
        let run_dir = PathBuf::from(format!("/run/speaker-{name}"));
        fs::create_dir_all(&run_dir)?;
        let mut speaker = Self {
            daemon: None,
            netns: netns.clone(),
            config: folder.join(format!("speaker-{name}.yaml")),
            log: folder.join(format!("speaker-{name}.log")),
            run_dir,
        };
        speaker.run(config)?;
        Ok(speaker)
    }

    /// Starts the daemon again, with another configuration, after [`Speaker::kill`] or [`Speaker::stop`].
    ///
    /// # Errors
    /// As [`Speaker::start`].
    pub fn run(&mut self, config: &str) -> Result<()> {
        fs::write(&self.config, config)?;
        let program = programs()?.join("margay");
        let mut command = self.netns.isolated_command(&program.display().to_string());
        command
            .arg("speaker")
            .arg("--config")
            .arg(&self.config)
            .arg("--run-dir")
            .arg(&self.run_dir)
            .args(["--log", "debug"]);
        let daemon = Daemon::start("margay speaker", &mut command, &self.log)?;
        let daemon = self.daemon.insert(daemon);
        let (netns, run_dir) = (&self.netns, &self.run_dir);
        eventually("margay speaker answers", pace::seconds(30), || {
            if let Some(status) = daemon.ended() {
                // There is nothing to wait for any more.
                let ended = anyhow!("it ended with {status}: {}", daemon.log_tail(1_500));
                return Ok(Err(ended));
            }
            ask(netns, run_dir, &["peers"]).map(Ok)
        })?
        .map(drop)
    }

    /// Gives the running speaker another configuration.
    ///
    /// # Errors
    /// When none runs.
    pub fn reload(&self, config: &str) -> Result<()> {
        // In one step: it may just be reading what the last call wrote.
        let new = self.config.with_extension("new");
        fs::write(&new, config)?;
        fs::rename(&new, &self.config)?;
        let daemon = self.daemon.as_ref().context("no speaker runs")?;
        daemon.signal(Signal::SIGHUP)
    }

    /// Its process, as the lab's PID namespace numbers it.
    ///
    /// # Errors
    /// When none runs.
    pub fn pid(&self) -> Result<Pid> {
        Ok(self.daemon.as_ref().context("no speaker runs")?.pid())
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// When none runs.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.take().context("no speaker runs")?.kill()
    }

    /// Stops it with a signal: SIGTERM without a word to its peers, SIGINT with Cease.
    ///
    /// # Errors
    /// When it does not end in time, or not with success.
    pub fn stop(&mut self, signal: Signal) -> Result<()> {
        let daemon = self.daemon.take().context("no speaker runs")?;
        let status = daemon.stop(signal, pace::seconds(10))?;
        if !status.success() {
            bail!("margay speaker ended with {status}");
        }
        Ok(())
    }

    /// Asks it: `margay <words> -o json`.
    ///
    /// # Errors
    /// When it does not answer with JSON.
    pub fn ask(&self, words: &[&str]) -> Result<Value> {
        ask(&self.netns, &self.run_dir, words)
    }

    /// Tells it to do something: `margay <words>`.
    ///
    /// # Errors
    /// When it refuses.
    pub fn tell(&self, words: &[&str]) -> Result<()> {
        let mut command = command(&self.netns, words)?;
        exec::check(command.arg("--run-dir").arg(&self.run_dir)).map(drop)
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map_or_else(
            |_| String::new(),
            |log| String::from_utf8_lossy(&log).into_owned(),
        )
    }

    /// Whether its log holds a text.
    #[must_use]
    pub fn logged(&self, text: &str) -> bool {
        fs::read(&self.log).is_ok_and(|log| String::from_utf8_lossy(&log).contains(text))
    }
}

/// Whether this kernel has TCP-AO, as `margay speaker --check` tells.
///
/// # Errors
/// When the check says something else.
pub fn takes_tcp_ao() -> Result<bool> {
    let file = std::env::temp_dir().join(format!("margay-lab-ao-{}.yaml", std::process::id()));
    let key = "{ sendId: 1, receiveId: 1, secret: sesame }";
    let config = format!(
        "asn: 64512\nrouterId: 192.0.2.1\npeers:\n  - {{ address: 192.0.2.2, asn: 64512, tcpAo: {{ keys: [{key}] }} }}\n"
    );
    fs::write(&file, config)?;
    let mut command = std::process::Command::new(programs()?.join("margay"));
    let checked = exec::check(command.args(["speaker", "--check", "--config"]).arg(&file));
    let _ = fs::remove_file(&file);
    match checked {
        Ok(_) => Ok(true),
        Err(error) if format!("{error:#}").contains("this kernel has no TCP-AO") => Ok(false),
        Err(error) => Err(error),
    }
}

fn command(netns: &Netns, words: &[&str]) -> Result<std::process::Command> {
    let program = programs()?.join("margay");
    let mut command = netns.command(&program.display().to_string());
    command.args(words);
    Ok(command)
}

fn ask(netns: &Netns, run_dir: &Path, words: &[&str]) -> Result<Value> {
    let mut command = command(netns, words)?;
    let text = exec::check(command.args(["-o", "json", "--run-dir"]).arg(run_dir))?;
    serde_json::from_str(&text).with_context(|| format!("margay {}: {text}", words.join(" ")))
}
