//! What the lab looks at: kernels, sessions and captures, each as a plain value to compare.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::capture::{Capture, Packet};
use crate::eventually::eventually;
use crate::link::{self, KernelRoute};
use crate::node::{Node, Pod};
use crate::ping;
use crate::topology::Lab;
use crate::{exec, pace};

/// margay's routing protocol number, as ip prints it.
pub const MARGAY: &str = "109";

/// A session as `margay peers` tells it.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its name.
    pub name: String,
    /// The neighbour.
    pub address: IpAddr,
    /// Its state in lower case.
    pub state: String,
    /// How often it was established.
    pub established_count: u64,
    /// Families of which the neighbour has told its whole table, of those negotiated.
    pub complete: bool,
}

impl fmt::Display for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} {}{}",
            self.address,
            self.state,
            if self.complete {
                ""
            } else {
                " (no End-of-RIB)"
            }
        )
    }
}

/// The sessions of a node.
///
/// # Errors
/// When its agent does not answer.
pub fn sessions(node: &Node) -> Result<Vec<Session>> {
    let answer = node.ask(&["peers"])?;
    let list = answer
        .as_array()
        .or_else(|| answer.get("peers").and_then(Value::as_array));
    list.with_context(|| format!("no list of peers: {answer}"))?
        .iter()
        .map(session)
        .collect()
}

fn session(entry: &Value) -> Result<Session> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
    let address = text("address");
    let address = address
        .parse::<IpAddr>()
        .or_else(|_| {
            address
                .parse::<std::net::SocketAddr>()
                .map(|socket| socket.ip())
        })
        .with_context(|| format!("a peer's address: {entry}"))?;
    let families = entry.get("families").and_then(Value::as_array);
    let carried: Vec<_> = families
        .into_iter()
        .flatten()
        .filter(|family| family.get("negotiated").and_then(Value::as_bool) != Some(false))
        .collect();
    let complete = !carried.is_empty()
        && carried
            .iter()
            .all(|family| family.get("endOfRibReceived").and_then(Value::as_bool) == Some(true));
    Ok(Session {
        name: text("name").to_owned(),
        address,
        state: text("state").to_lowercase(),
        established_count: entry
            .get("establishedCount")
            .and_then(Value::as_u64)
            .unwrap_or(0),
        complete,
    })
}

/// Waits until a node has exactly so many sessions, all established and complete (End-of-RIB received).
///
/// # Errors
/// When it has not by the deadline.
pub fn await_sessions(node: &Node, count: usize, deadline: Duration) -> Result<Vec<Session>> {
    eventually(
        format!("{count} complete sessions on {}", node.name),
        deadline,
        || {
            let sessions = sessions(node)?;
            let up = sessions
                .iter()
                .filter(|session| session.state == "established" && session.complete)
                .count();
            if up == count && sessions.len() == count {
                return Ok(sessions);
            }
            let list: Vec<_> = sessions.iter().map(ToString::to_string).collect();
            bail!("{up} of {}: {}", sessions.len(), list.join(", "))
        },
    )
}

/// margay's routes in a node's main table; `family` is 4 or 6.
///
/// # Errors
/// When they cannot be read.
pub fn own_routes(node: &Node, family: u8) -> Result<Vec<KernelRoute>> {
    let mut routes = link::routes(&node.netns, family)?;
    routes.retain(|route| route.protocol == MARGAY);
    Ok(routes)
}

/// The blocks a node holds: its kernel's blackholes.
///
/// # Errors
/// When they cannot be read.
pub fn blocks(node: &Node, family: u8) -> Result<BTreeSet<String>> {
    let routes = own_routes(node, family)?;
    Ok(routes
        .into_iter()
        .filter(|route| route.kind == "blackhole")
        .map(|route| route.prefix)
        .collect())
}

/// How a node must reach another one's blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Gateway; `None` where any will do.
    pub gateway: Option<String>,
    /// Outgoing interface.
    pub interface: String,
}

/// Waits until every node's kernel routes every other node's blocks in the way wanted, and every node has a block.
///
/// `way` says how, from one node to another; `None` leaves the pair unchecked.
///
/// # Errors
/// When a route is missing or differs at the deadline.
pub fn await_routes(
    lab: &Lab,
    family: u8,
    deadline: Duration,
    way: impl Fn(&Node, &Node) -> Result<Option<Way>>,
) -> Result<usize> {
    eventually("routes to all blocks", deadline, || {
        let mut held = BTreeMap::new();
        for node in &lab.nodes {
            let blocks = blocks(node, family)?;
            ensure!(!blocks.is_empty(), "{} holds no block", node.name);
            held.insert(node.name.clone(), blocks);
        }
        let mut count = 0;
        for from in &lab.nodes {
            let routes = own_routes(from, family)?;
            for to in lab.nodes.iter().filter(|to| to.name != from.name) {
                let Some(way) = way(from, to)? else { continue };
                for block in held.get(&to.name).into_iter().flatten() {
                    let route = routes
                        .iter()
                        .find(|route| route.prefix == *block && route.kind == "unicast");
                    let route = route.with_context(|| {
                        format!("{} has no route to {block} of {}", from.name, to.name)
                    })?;
                    ensure!(
                        way.gateway
                            .as_deref()
                            .is_none_or(|gateway| route.goes_via(gateway))
                            && route.leaves_by(&way.interface),
                        "{}: {route}, not via {} dev {}",
                        from.name,
                        way.gateway.as_deref().unwrap_or("any"),
                        way.interface
                    );
                    count += 1;
                }
            }
        }
        Ok::<_, anyhow::Error>(count)
    })
}

/// Pings once from pod to pod with a capture running somewhere, and returns the requests seen there.
///
/// # Errors
/// When the ping is not answered or the capture fails.
pub fn seen_at(
    lab: &Lab,
    netns: &crate::netns::Netns,
    interface: &str,
    from: &Pod,
    to: IpAddr,
) -> Result<Vec<Packet>> {
    let capture = Capture::start(netns, interface, "", &lab.folder)?;
    let mut ping = from.netns.command("ping");
    exec::check(ping.args(["-n", "-c", "3", "-i", "0.2", "-W", "3", &to.to_string()]))?;
    let packets = capture.stop()?;
    let requests: Vec<_> = packets
        .into_iter()
        .filter(|packet| {
            packet.innermost().is_echo_request() && packet.innermost().destination == to
        })
        .collect();
    ensure!(
        !requests.is_empty(),
        "no packet to {to} at {interface} of {}",
        netns.name()
    );
    Ok(requests)
}

/// Every pod and node that must reach every other: all pod pairs, pod to node, node to pod.
///
/// # Errors
/// When some pair does not answer by the deadline.
pub fn await_everyone(lab: &Lab, deadline: Duration) -> Result<String> {
    let (pods, nodes) = (lab.pod_endpoints(), lab.node_endpoints());
    let pairs = ping::await_all_pairs(&pods, &pods, deadline)?.tried;
    let down = ping::await_all_pairs(&pods, &nodes, deadline)?.tried;
    let up = ping::await_all_pairs(&nodes, &pods, deadline)?.tried;
    Ok(format!(
        "{pairs} pod to pod, {down} pod to node, {up} node to pod"
    ))
}

/// Which routes of a node appeared or went between two looks, as text.
#[must_use]
pub fn difference(
    before: &[KernelRoute],
    after: &[KernelRoute],
) -> (BTreeSet<String>, BTreeSet<String>) {
    let text = |routes: &[KernelRoute]| {
        routes
            .iter()
            .map(ToString::to_string)
            .collect::<BTreeSet<_>>()
    };
    let (before, after) = (text(before), text(after));
    (
        before.difference(&after).cloned().collect(),
        after.difference(&before).cloned().collect(),
    )
}

/// Deletes a route by hand and measures, by the kernel's own notifications, how long it was away.
///
/// # Errors
/// When it does not come back.
pub fn repair_time(lab: &Lab, node: &Node, prefix: &str) -> Result<Duration> {
    let log = lab.folder.join(format!("monitor-{}.log", node.name));
    let _ = std::fs::remove_file(&log);
    let mut command = std::process::Command::new("ip");
    command.args([
        "-n",
        node.netns.name(),
        "-tshort",
        "-oneline",
        "monitor",
        "route",
    ]);
    let monitor = crate::process::Daemon::start("ip monitor", &mut command, &log)?;
    let before = own_routes(node, 4)?;
    let route = before
        .iter()
        .find(|route| route.prefix == prefix)
        .with_context(|| format!("no route {prefix}"))?;
    // The monitor says nothing when it is ready; a route of our own tells that it is.
    eventually("the monitor sees a route", pace::seconds(5), || {
        node.netns.ip("route replace blackhole 192.0.2.99/32")?;
        node.netns.ip("route delete blackhole 192.0.2.99/32")?;
        ensure!(
            monitor.log_tail(usize::MAX).contains("192.0.2.99"),
            "silence"
        );
        Ok::<_, anyhow::Error>(())
    })?;
    node.netns.ip(&format!("route delete {prefix}"))?;
    let times = eventually(format!("{prefix} comes back"), pace::seconds(20), || {
        let text = monitor.log_tail(usize::MAX);
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| line.contains(&format!(" {prefix} ")))
            .collect();
        let gone = lines
            .iter()
            .rposition(|line| line.contains("Deleted"))
            .context("not deleted yet")?;
        let back = lines
            .get(gone + 1)
            .with_context(|| format!("only {lines:?}"))?;
        Ok::<_, anyhow::Error>((stamp(lines.get(gone).unwrap_or(&""))?, stamp(back)?))
    })?;
    let (missing, added) = difference(&before, &own_routes(node, 4)?);
    ensure!(
        missing.is_empty() && added.is_empty(),
        "it came back otherwise: -{missing:?} +{added:?}, was {route}"
    );
    Ok(times.1.saturating_sub(times.0))
}

/// Time of day in an `ip -tshort monitor` line: `[2026-11-22T19:24:41.123456] …`.
pub(crate) fn stamp(line: &str) -> Result<Duration> {
    let text = line
        .strip_prefix('[')
        .and_then(|rest| rest.split(']').next())
        .context("no time stamp")?;
    let clock = text.split('T').nth(1).context("no time of day")?;
    let mut seconds = 0.0;
    for part in clock.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>()?;
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Fails unless every stream kept every packet; tells how many were sent.
///
/// # Errors
/// When one lost a packet; the message says which.
pub fn none_lost(streams: Vec<ping::Stream>) -> Result<String> {
    let mut sent = 0;
    let mut complaints = Vec::new();
    let count = streams.len();
    for stream in streams {
        match stream.stop() {
            Ok(report) => {
                sent += report.sent;
                if !report.lost.is_empty() {
                    let first: Vec<_> = report.lost.iter().take(5).collect();
                    complaints.push(format!(
                        "{}: {} of {} lost, first {first:?}",
                        report.what,
                        report.lost.len(),
                        report.sent
                    ));
                }
            }
            Err(error) => complaints.push(format!("{error:#}")),
        }
    }
    ensure!(complaints.is_empty(), "{}", complaints.join("; "));
    Ok(format!("0 of {sent} packets lost on {count} streams"))
}

/// Starts streams between pods, named `node/index`, in the lab's folder.
///
/// # Errors
/// When a pod is missing or a first packet is not answered.
pub fn streams(lab: &Lab, pairs: &[(&str, &str)], folder: &Path) -> Result<Vec<ping::Stream>> {
    let pod = |name: &str| -> Result<&Pod> {
        let found = lab.nodes.iter().find_map(|node| node.pods.get(name));
        found.with_context(|| format!("no pod {name}"))
    };
    let start = |(from, to): &(&str, &str)| {
        let (from, to) = (pod(from)?, pod(to)?);
        to.addresses
            .iter()
            .map(|address| ping::Stream::start(&from.netns, *address, folder))
            .collect::<Result<Vec<_>>>()
    };
    Ok(pairs
        .iter()
        .map(start)
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect())
}

/// How many routers a packet from a pod to an address passes, by what is left of its time to live (64 at the start).
///
/// # Errors
/// When the ping is not answered.
pub fn hops(from: &Pod, to: IpAddr) -> Result<u32> {
    let text = exec::check(from.netns.command("ping").args([
        "-n",
        "-c",
        "1",
        "-W",
        "3",
        &to.to_string(),
    ]))?;
    let left = text
        .split("ttl=")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .context("no ttl")?;
    Ok(64_u32.saturating_sub(left.parse()?))
}
