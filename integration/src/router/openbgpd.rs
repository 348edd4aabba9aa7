//! OpenBGPD from the distribution; the portable one, which neither reads nor writes kernel routes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, killpg};
use serde_json::Value;

use crate::eventually::eventually;
use crate::netns::Netns;
use crate::process::Daemon;
use crate::{exec, pace};

/// A running OpenBGPD.
#[derive(Debug)]
pub struct OpenBgpd {
    daemon: Daemon,
    netns: Netns,
    config: PathBuf,
    socket: PathBuf,
}

impl OpenBgpd {
    /// Whether this machine has it.
    #[must_use]
    pub fn present() -> bool {
        Path::new("/usr/sbin/bgpctl").exists() && Path::new("/usr/sbin/bgpd").exists()
    }

    /// Starts it in a namespace and waits until it answers.
    ///
    /// # Errors
    /// When it does not accept the configuration.
    pub fn start(netns: &Netns, config: &str, folder: &Path) -> Result<Self> {
        let stem = format!("openbgpd-{}", netns.name());
        let socket = PathBuf::from(format!("/run/{stem}.sock"));
        let file = folder.join(format!("{stem}.conf"));
        let text = format!("socket \"{}\"\n{config}", socket.display());
        write_private(&file, &text)?;
        // Privilege separation: the workers are confined to a folder that the package's service would make.
        fs::create_dir_all("/run/openbgpd")?;
        let mut command = netns.isolated_command("/usr/sbin/bgpd");
        command.args(["-d", "-v", "-f"]).arg(&file);
        // A group of its own: what kills it takes its workers too.
        command.process_group(0);
        let daemon = Daemon::start(&stem, &mut command, &folder.join(format!("{stem}.log")))?;
        let openbgpd = Self {
            daemon,
            netns: netns.clone(),
            config: file,
            socket,
        };
        eventually("OpenBGPD answers", pace::seconds(10), || {
            openbgpd.ask(&["show", "summary"])
        })
        .with_context(|| openbgpd.daemon.log_tail(2_000))?;
        Ok(openbgpd)
    }

    /// Gives the running daemon another configuration.
    ///
    /// # Errors
    /// When it does not accept it.
    pub fn reconfigure(&self, config: &str) -> Result<()> {
        let text = format!("socket \"{}\"\n{config}", self.socket.display());
        write_private(&self.config, &text)?;
        self.ask(&["reload"]).map(drop)
    }

    /// Runs `bgpctl <words>`.
    ///
    /// # Errors
    /// When the daemon refuses or does not answer.
    pub fn ask(&self, words: &[&str]) -> Result<String> {
        exec::check(
            Command::new("/usr/sbin/bgpctl")
                .arg("-s")
                .arg(&self.socket)
                .args(words),
        )
    }

    /// Runs `bgpctl -j <words>`.
    ///
    /// # Errors
    /// As [`OpenBgpd::ask`], and when the answer is not JSON.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        let mut all = vec!["-j"];
        all.extend(words);
        let text = self.ask(&all)?;
        serde_json::from_str(&text).with_context(|| format!("bgpctl {}: {text}", words.join(" ")))
    }

    /// Kills it and its workers with SIGKILL: workers that only miss their parent would still say Cease, and hold the
    /// port for a while.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(self) -> Result<()> {
        let socket = self.socket.clone();
        let netns = self.netns.clone();
        killpg(self.daemon.pid(), Signal::SIGKILL)?;
        self.daemon.kill()?;
        let _ = fs::remove_file(socket);
        eventually("OpenBGPD's port is free", pace::seconds(10), || {
            let listening = exec::check(netns.command("ss").args(["-Hltn", "sport = :179"]))?;
            ensure!(listening.trim().is_empty(), "{listening}");
            Ok(())
        })
    }

    /// Stops it orderly.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(self) -> Result<()> {
        self.daemon
            .stop(Signal::SIGTERM, pace::seconds(5))
            .map(drop)
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.log_tail(usize::MAX)
    }
}

/// It refuses a configuration that others may read.
fn write_private(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
