//! A node: a network namespace with `margay agent` in it, and pods added to it as a kubelet adds them.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::cni::{Attachment, Chain};
use crate::eventually::eventually;
use crate::netns::Netns;
use crate::ping::Endpoint;
use crate::process::Daemon;
use crate::{exec, pace};

/// Distinguishes the sandboxes of this lab.
static SANDBOXES: AtomicU64 = AtomicU64::new(1);

/// Folder of the programs that were built together with this one.
///
/// # Errors
/// When this program's own path is unknown.
pub fn programs() -> Result<PathBuf> {
    let own = env::current_exe()?;
    own.parent()
        .map(Path::to_path_buf)
        .context("this program has no folder")
}

/// A pod on a node.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name, unique in the lab.
    pub name: String,
    /// Its network namespace.
    pub netns: Netns,
    /// Its addresses as the plugin's result tells them.
    pub addresses: Vec<IpAddr>,
    /// What the runtime remembers of it.
    pub attachment: Attachment,
    /// ADD's result.
    pub result: Value,
}

impl Pod {
    /// As a source or target of pings.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            name: self.name.clone(),
            netns: self.netns.clone(),
            addresses: self.addresses.clone(),
        }
    }

    /// Its address of a family (4 or 6).
    ///
    /// # Errors
    /// When it has none.
    pub fn address(&self, family: u8) -> Result<IpAddr> {
        let found = self
            .addresses
            .iter()
            .find(|address| address.is_ipv4() == (family == 4));
        found
            .copied()
            .with_context(|| format!("{} has no IPv{family} address", self.name))
    }
}

/// A node of the lab.
#[derive(Debug)]
pub struct Node {
    /// Its name in the datastore.
    pub name: String,
    /// Where it lives.
    pub netns: Netns,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// The rack it stands in.
    pub rack: String,
    /// Its AS.
    pub asn: u32,
    /// Pods on it by name.
    pub pods: BTreeMap<String, Pod>,
    /// The CNI chain its runtime calls.
    pub chain: Chain,
    /// Its view of the datastore.
    pub datastore: PathBuf,
    /// The agent's state on disk (`--state-dir`).
    pub state_dir: PathBuf,
    /// The agent's sockets (`--run-dir`).
    pub run_dir: PathBuf,
    folder: PathBuf,
    agent: Option<Daemon>,
}

impl Node {
    /// A node in an existing namespace, without a running agent. `ipv6` asks the plugin for an IPv6 address too.
    ///
    /// # Errors
    /// When its folders cannot be made.
    pub fn new(
        netns: &Netns,
        addresses: Vec<IpAddr>,
        rack: &str,
        asn: u32,
        ipv6: bool,
        datastore: &Path,
        folder: &Path,
    ) -> Result<Self> {
        let name = netns.name().to_owned();
        let folder = folder.join(&name);
        let state_dir = folder.join("state");
        fs::create_dir_all(&state_dir)?;
        // Sockets' paths are limited to 107 bytes; /run is the lab's own.
        let run_dir = PathBuf::from(format!("/run/{name}"));
        fs::create_dir_all(&run_dir)?;
        let ipam = json!({"type": "margay", "assign_ipv4": "true", "assign_ipv6": if ipv6 { "true" } else { "false" }});
        let (run, state) = (
            run_dir.display().to_string(),
            state_dir.display().to_string(),
        );
        let chain = Chain::margay("1.0.0", &run, &state, &ipam, programs()?);
        fs::write(
            folder.join("05-margay.conflist"),
            serde_json::to_vec_pretty(&chain.conflist())?,
        )?;
        Ok(Self {
            name,
            netns: netns.clone(),
            addresses,
            rack: rack.to_owned(),
            asn,
            pods: BTreeMap::new(),
            chain,
            datastore: datastore.to_path_buf(),
            state_dir,
            run_dir,
            folder,
            agent: None,
        })
    }

    /// Starts the agent and returns at once.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_agent(&mut self) -> Result<()> {
        let program = programs()?.join("margay");
        let mut command = self.netns.isolated_command(&program.display().to_string());
        command
            .arg("agent")
            .arg("--datastore")
            .arg(format!("directory:{}", self.datastore.display()))
            .args(["--node-name", &self.name])
            .arg("--run-dir")
            .arg(&self.run_dir)
            .arg("--state-dir")
            .arg(&self.state_dir);
        let daemon = Daemon::start(&format!("agent {}", self.name), &mut command, &self.log())?;
        self.agent = Some(daemon);
        Ok(())
    }

    /// Waits until the agent says it is ready.
    ///
    /// # Errors
    /// When it ends or the deadline passes.
    pub fn await_ready(&mut self, deadline: Duration) -> Result<()> {
        eventually(
            format!("the agent of {} is ready", self.name),
            deadline,
            || {
                let Some(agent) = self.agent.as_mut() else {
                    return Ok(Err(anyhow!("no agent was started on {}", self.name)));
                };
                if let Some(status) = agent.ended() {
                    let tail = agent.log_tail(1_500);
                    return Ok(Err(anyhow!(
                        "the agent of {} ended with {status}: {tail}",
                        self.name
                    )));
                }
                self.http("http://127.0.0.1:9099/readyz").map(|_| Ok(()))
            },
        )?
    }

    /// Fetches a page from inside the node.
    ///
    /// # Errors
    /// When the answer is not a success.
    pub fn http(&self, url: &str) -> Result<String> {
        let limit = pace::seconds(5).as_secs().to_string();
        exec::check(self.netns.command("curl").args([
            "-sS",
            "--fail-with-body",
            "--max-time",
            &limit,
            url,
        ]))
    }

    /// Kills the agent with -9.
    ///
    /// # Errors
    /// When none runs.
    pub fn kill_agent(&mut self) -> Result<()> {
        self.agent.take().context("no agent runs")?.kill()
    }

    /// Stops the agent orderly.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop_agent(&mut self) -> Result<()> {
        let agent = self.agent.take().context("no agent runs")?;
        let status = agent.stop(Signal::SIGTERM, pace::seconds(10))?;
        if !status.success() {
            bail!("the agent of {} ended with {status}", self.name);
        }
        Ok(())
    }

    /// The agent's process, if one runs.
    #[must_use]
    pub fn agent_pid(&self) -> Option<i32> {
        self.agent.as_ref().map(|agent| agent.pid().as_raw())
    }

    /// The agent's log file.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.join("agent.log")
    }

    /// The node's folder under the lab's.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Asks the running agent through the command line: `margay <words> -o json`.
    ///
    /// # Errors
    /// When the agent does not answer with JSON.
    pub fn ask(&self, words: &[&str]) -> Result<Value> {
        let program = programs()?.join("margay");
        let mut command = self.netns.command(&program.display().to_string());
        command
            .args(words)
            .args(["-o", "json", "--run-dir"])
            .arg(&self.run_dir);
        let output = exec::output(&mut command, &[])?;
        // 1 says that something was found wanting, and is an answer all the same.
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).with_context(|| {
            let complaint = String::from_utf8_lossy(&output.stderr);
            format!(
                "margay {}: {}: {text}{complaint}",
                words.join(" "),
                output.status
            )
        })
    }

    /// Tells the running agent to do something: `margay <words>`.
    ///
    /// # Errors
    /// When it refuses.
    pub fn tell(&self, words: &[&str]) -> Result<()> {
        let program = programs()?.join("margay");
        let mut command = self.netns.command(&program.display().to_string());
        exec::check(command.args(words).arg("--run-dir").arg(&self.run_dir)).map(drop)
    }

    /// Its address of a family (4 or 6).
    ///
    /// # Errors
    /// When it has none.
    pub fn address(&self, family: u8) -> Result<IpAddr> {
        let found = self
            .addresses
            .iter()
            .find(|address| address.is_ipv4() == (family == 4));
        found
            .copied()
            .ok_or_else(|| anyhow!("{} has no IPv{family} address", self.name))
    }

    /// As a source or target of pings.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            name: self.name.clone(),
            netns: self.netns.clone(),
            addresses: self.addresses.clone(),
        }
    }

    /// Adds a pod: makes its namespace and calls the chain, as a runtime does. A failed ADD is followed by DEL.
    ///
    /// # Errors
    /// The plugin's refusal.
    pub fn add_pod(&mut self, name: &str) -> Result<&Pod> {
        let netns = Netns::create(name)?;
        let id = format!("{:064x}", SANDBOXES.fetch_add(1, Ordering::Relaxed));
        let attachment =
            Attachment::of_pod("default", name, &id, &netns.path().display().to_string());
        let result = match self.chain.add(&self.netns, &attachment) {
            Ok(result) => result,
            Err(error) => {
                let _ = self.chain.del(&self.netns, &attachment, None);
                let _ = netns.delete();
                return Err(error.context(format!("ADD of {name} on {}", self.name)));
            }
        };
        let addresses = result_addresses(&result)?;
        let pod = Pod {
            name: name.to_owned(),
            netns,
            addresses,
            attachment,
            result,
        };
        Ok(self.pods.entry(name.to_owned()).or_insert(pod))
    }

    /// Adds pods until the node holds so many, named after it.
    ///
    /// # Errors
    /// The plugin's refusal.
    pub fn fill_pods(&mut self, count: usize) -> Result<()> {
        for index in 1..=count {
            let name = format!("{}-pod{index}", self.name);
            if !self.pods.contains_key(&name) {
                self.add_pod(&name)?;
            }
        }
        Ok(())
    }

    /// Removes a pod through the chain, then its namespace.
    ///
    /// # Errors
    /// The plugin's refusal; the pod is then still listed.
    pub fn del_pod(&mut self, name: &str) -> Result<()> {
        let pod = self
            .pods
            .get(name)
            .with_context(|| format!("no pod {name} on {}", self.name))?;
        self.chain
            .del(&self.netns, &pod.attachment, Some(&pod.result))?;
        pod.netns.delete()?;
        self.pods.remove(name);
        Ok(())
    }
}

/// The addresses of an ADD's result.
///
/// # Errors
/// When one is not the address of one pod alone (/32, /128).
pub fn result_addresses(result: &Value) -> Result<Vec<IpAddr>> {
    let list = result
        .get("ips")
        .and_then(Value::as_array)
        .with_context(|| format!("no ips in {result}"))?;
    let mut addresses = Vec::new();
    for entry in list {
        let text = entry
            .get("address")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let (address, length) = text
            .split_once('/')
            .with_context(|| format!("address {text:?}"))?;
        let address: IpAddr = address.parse()?;
        if length != if address.is_ipv4() { "32" } else { "128" } {
            bail!("{text} is not the address of one pod alone");
        }
        addresses.push(address);
    }
    Ok(addresses)
}
