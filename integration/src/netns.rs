//! Named network namespaces, as `ip netns` makes them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::exec;

/// A handle on a named network namespace of this lab; cloning it makes no second namespace.
///
/// Nothing is removed on drop: a lab's namespaces go with its mount namespace, a pod's with [`Netns::delete`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace with its loopback up.
    ///
    /// # Errors
    /// When one of that name exists.
    pub fn create(name: &str) -> Result<Self> {
        exec::check(Command::new("ip").args(["netns", "add", name]))?;
        let netns = Self {
            name: name.to_owned(),
        };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// A handle on one that exists.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    /// Makes a namespace whose interfaces may use IPv6 addresses at once, without duplicate address detection: for
    /// machines that would have been up for long when the story begins. FRR ignores a link-local address that was still
    /// tentative when it started.
    ///
    /// # Errors
    /// When one of that name exists.
    pub fn create_settled(name: &str) -> Result<Self> {
        let netns = Self::create(name)?;
        netns.sysctl("net.ipv6.conf.all.accept_dad", "0")?;
        netns.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        Ok(netns)
    }

    /// Removes the namespace; processes inside keep it alive until they end.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn delete(&self) -> Result<()> {
        exec::check(Command::new("ip").args(["netns", "del", &self.name])).map(drop)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file by which a runtime would name it in `CNI_NETNS`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A short-lived command inside; `/sys` still shows the lab's own namespace.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.name))
            .arg("--")
            .arg(program);
        command
    }

    /// A command inside with a mount namespace of its own, whose `/sys` shows this namespace. The process keeps the
    /// PID that spawning returns.
    #[must_use]
    pub fn isolated_command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs `ip <arguments>` here; the arguments are split at blanks.
    ///
    /// # Errors
    /// When ip refuses.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        exec::check(
            Command::new("ip")
                .args(["-n", &self.name])
                .args(arguments.split_whitespace()),
        )
    }

    /// Runs many lines of `ip` in one process.
    ///
    /// # Errors
    /// When ip refuses one of them.
    pub fn ip_batch(&self, lines: &[String]) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut input = lines.join("\n");
        input.push('\n');
        exec::check_input(
            Command::new("ip").args(["-n", &self.name, "-batch", "-"]),
            input.as_bytes(),
        )
        .with_context(|| format!("in {}: {input}", self.name))
        .map(drop)
    }

    /// Runs `ip -json <arguments>` here and parses the list it prints.
    ///
    /// # Errors
    /// When ip refuses or prints something else.
    pub fn ip_json(&self, arguments: &str) -> Result<Vec<Value>> {
        let text = self.ip(&format!("-details -json {arguments}"))?;
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        serde_json::from_str(&text)
            .with_context(|| format!("ip {arguments} in {}: {text}", self.name))
    }

    /// Sets a sysctl, such as `net.ipv4.ip_forward`; slashes separate where a name holds dots.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        exec::check(
            self.command("sysctl")
                .args(["-qw", &format!("{key}={value}")]),
        )
        .map(drop)
    }
}
