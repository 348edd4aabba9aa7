//! One switch and whoever is plugged into it; each case makes machines of its own.

use std::collections::BTreeMap;
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
        Self::named("hub")
    }

    /// One more of them.
    pub(super) fn named(name: &str) -> Result<Self> {
        let netns = Netns::create_settled(name)?;
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

    /// A device into which an emulated machine may be plugged, and where it is.
    pub(super) fn tap(&self, name: &str) -> Result<&Netns> {
        self.netns.ip(&format!("tuntap add dev {name} mode tap"))?;
        self.netns.ip(&format!("link set {name} up master br0"))?;
        Ok(&self.netns)
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

/// A table as it should be: each prefix and where its best path leads, `None` for what the speaker originates itself.
pub(super) type Table = BTreeMap<String, Option<String>>;

/// Originated by a speaker itself, and learned with one next hop.
pub(super) fn rows<P: ToString>(
    prefixes: impl IntoIterator<Item = P>,
    next_hop: Option<&str>,
) -> impl Iterator<Item = (String, Option<String>)> {
    prefixes
        .into_iter()
        .map(move |prefix| (prefix.to_string(), next_hop.map(str::to_owned)))
}

/// The table a speaker has.
fn table(speaker: &Speaker) -> Result<Table> {
    let answer = speaker.ask(&["routes"])?;
    let routes = answer.as_array().context("no list of routes")?;
    routes
        .iter()
        .map(|route| {
            let paths = route.get("paths").and_then(Value::as_array);
            let best = paths
                .into_iter()
                .flatten()
                .find(|path| path.get("best") == Some(&Value::Bool(true)))
                .with_context(|| format!("no best path: {route}"))?;
            ensure!(
                best.get("stale") == Some(&Value::Bool(false)),
                "stale: {route}"
            );
            let hop = (text(best, "from") != "local").then(|| text(best, "nextHop").to_owned());
            Ok((text(route, "prefix").to_owned(), hop))
        })
        .collect()
}

/// Waits until a speaker's table is the one given, prefix by prefix and next hop by next hop, and nothing of it is stale.
pub(super) fn await_table(speaker: &Speaker, wanted: &Table, seconds: u64) -> Result<()> {
    let deadline = crate::pace::seconds(seconds);
    eventually(format!("a table of {}", wanted.len()), deadline, || {
        let held = table(speaker)?;
        let differs = |one: &Table, other: &Table| {
            let row = one
                .iter()
                .find(|(prefix, hop)| other.get(*prefix) != Some(*hop));
            row.map(|row| format!("{row:?}"))
        };
        let (missing, extra) = (differs(wanted, &held), differs(&held, wanted));
        ensure!(
            missing.is_none() && extra.is_none(),
            "{} prefixes; should be there: {missing:?}; should not: {extra:?}",
            held.len()
        );
        Ok(())
    })
}

/// Waits until a peer has told so many prefixes of the first family.
pub(super) fn await_received(
    speaker: &Speaker,
    name: &str,
    count: usize,
    seconds: u64,
) -> Result<()> {
    let deadline = crate::pace::seconds(seconds);
    eventually(format!("{count} prefixes of {name}"), deadline, || {
        let peers = peers(speaker)?;
        let peer = peers.iter().find(|peer| text(peer, "name") == name);
        let received = peer.and_then(|peer| peer.pointer("/families/0/received")?.as_u64());
        ensure!(received == u64::try_from(count).ok(), "{received:?}");
        anyhow::Ok(())
    })
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
