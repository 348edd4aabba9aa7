//! One switch and whoever is plugged into it; each case makes machines of its own.

use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::eventually::eventually;
use crate::link::{self, End};
use crate::netns::Netns;
use crate::speaker::Speaker;

/// The switch.
pub(super) struct Hub {
    netns: Netns,
}

/// A machine on the switch: `10.99.0.<number>/16` on `eth0`.
pub(super) struct Machine {
    pub(super) netns: Netns,
    pub(super) address: String,
}

impl Hub {
    pub(super) fn new() -> Result<Self> {
        let netns = Netns::create_settled("hub")?;
        link::bridge(&netns, "br0", &[])?;
        Ok(Self { netns })
    }

    pub(super) fn machine(&self, name: &str, number: u8) -> Result<Machine> {
        let netns = Netns::create_settled(name)?;
        let port = format!("p-{name}");
        link::wire(
            &End {
                netns: &netns,
                interface: "eth0",
            },
            &End {
                netns: &self.netns,
                interface: &port,
            },
        )?;
        self.netns.ip(&format!("link set {port} master br0"))?;
        let address = format!("10.99.0.{number}");
        link::addresses(&netns, "eth0", &[format!("{address}/16")])?;
        Ok(Machine { netns, address })
    }
}

impl Machine {
    /// A speaker of AS 64512 on it; `rest` is the rest of its YAML.
    pub(super) fn speaker(&self, rest: &str, folder: &Path) -> Result<Speaker> {
        Speaker::start(&self.netns, &self.yaml(rest), folder)
    }

    pub(super) fn yaml(&self, rest: &str) -> String {
        let address = &self.address;
        format!(
            "asn: 64512\nrouterId: {address}\nclusterId: {address}\nlisten: [\"0.0.0.0:179\"]\nfamilies: [ipv4-unicast]\n{rest}"
        )
    }

    /// Runs something in a thread that belongs to this machine: its sockets are the machine's.
    pub(super) fn within<T: Send>(&self, run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = self.netns.path();
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                let file = File::open(&path).with_context(|| path.display().to_string())?;
                setns(file, CloneFlags::CLONE_NEWNET)?;
                run()
            });
            inside.join().map_err(|_| anyhow!("it panicked"))?
        })
    }
}

/// The peers of a speaker, those of ranges included.
pub(super) fn peers(speaker: &Speaker) -> Result<Vec<Value>> {
    let answer = speaker.ask(&["peers"])?;
    answer
        .as_array()
        .cloned()
        .with_context(|| format!("no list: {answer}"))
}

fn text<'a>(peer: &'a Value, field: &str) -> &'a str {
    peer.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// How many sessions are up.
pub(super) fn established(speaker: &Speaker) -> Result<usize> {
    let up = |peer: &&Value| text(peer, "state").eq_ignore_ascii_case("established");
    Ok(peers(speaker)?.iter().filter(up).count())
}

/// How often the session with one peer came up.
pub(super) fn established_count(speaker: &Speaker, name: &str) -> Result<u64> {
    peers(speaker)?
        .iter()
        .find(|peer| text(peer, "name") == name)
        .and_then(|peer| peer.get("establishedCount")?.as_u64())
        .with_context(|| format!("no peer {name}"))
}

/// How many prefixes it has a usable path for.
pub(super) fn prefixes(speaker: &Speaker) -> Result<usize> {
    let answer = speaker.ask(&["routes"])?;
    Ok(answer.as_array().map_or(0, Vec::len))
}

pub(super) fn await_established(speaker: &Speaker, count: usize, seconds: u64) -> Result<()> {
    let deadline = crate::pace::seconds(seconds);
    eventually(format!("{count} sessions"), deadline, || {
        let up = established(speaker)?;
        ensure!(up == count, "{up}");
        Ok(())
    })
}

pub(super) fn await_prefixes(speaker: &Speaker, count: usize, seconds: u64) -> Result<()> {
    let deadline = crate::pace::seconds(seconds);
    eventually(format!("{count} prefixes"), deadline, || {
        let held = prefixes(speaker)?;
        ensure!(held == count, "{held}");
        Ok(())
    })
}

/// Fails if the condition ever does not hold during the interval.
pub(super) fn throughout(seconds: u64, probe: impl FnMut() -> Result<()>) -> Result<()> {
    crate::eventually::throughout(Duration::from_secs(seconds), probe)
}
