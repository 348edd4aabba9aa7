//! GoBGP from the distribution. It has no static routes in its configuration: they are added to the running daemon.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::eventually::eventually;
use crate::netns::Netns;
use crate::process::Daemon;
use crate::{exec, pace};

/// A running gobgpd.
#[derive(Debug)]
pub struct GoBgp {
    daemon: Daemon,
    netns: Netns,
}

impl GoBgp {
    /// Starts gobgpd in a namespace with this TOML and waits until it answers. `recovering` says that it was there
    /// before and kept its forwarding state.
    ///
    /// # Errors
    /// When GoBGP is not on this machine or does not accept the configuration.
    pub fn start(netns: &Netns, config: &str, folder: &Path, recovering: bool) -> Result<Self> {
        let stem = format!("gobgp-{}", netns.name());
        let file = folder.join(format!("{stem}.toml"));
        fs::write(&file, config)?;
        let mut command = netns.isolated_command("/usr/bin/gobgpd");
        command.arg("-f").arg(&file).args([
            "--api-hosts",
            "127.0.0.1:50051",
            "--pprof-disable",
            "-l",
            "debug",
        ]);
        if recovering {
            command.arg("--graceful-restart");
        }
        let daemon = Daemon::start(&stem, &mut command, &folder.join(format!("{stem}.log")))?;
        let gobgp = Self {
            daemon,
            netns: netns.clone(),
        };
        eventually("gobgpd answers", pace::seconds(15), || {
            gobgp.ask(&["global", "-j"])
        })
        .with_context(|| gobgp.daemon.log_tail(2_000))?;
        Ok(gobgp)
    }

    /// Runs `gobgp <words>`.
    ///
    /// # Errors
    /// When gobgpd refuses or does not answer.
    pub fn ask(&self, words: &[&str]) -> Result<String> {
        exec::check(self.netns.command("/usr/bin/gobgp").args(words))
    }

    /// Runs `gobgp <words> -j`.
    ///
    /// # Errors
    /// As [`GoBgp::ask`], and when the answer is not JSON.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        let mut all = words.to_vec();
        all.push("-j");
        let text = self.ask(&all)?;
        // Nothing in the table is said in words.
        if !text.trim_start().starts_with(['{', '[']) {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("gobgp {}: {text}", words.join(" ")))
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(self) -> Result<()> {
        self.daemon.kill()
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.log_tail(usize::MAX)
    }
}
