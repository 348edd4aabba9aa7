//! Wires between namespaces: veth pairs, bridges, addresses, and routes read back as data.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::Value;

use crate::netns::Netns;

/// One end of a wire: an interface name in a namespace.
#[derive(Clone, Debug)]
pub struct End<'a> {
    /// Where it is.
    pub netns: &'a Netns,
    /// What it is called there.
    pub interface: &'a str,
}

/// Joins two namespaces by a veth pair, both ends up.
///
/// # Errors
/// When a name is taken.
pub fn wire(one: &End<'_>, other: &End<'_>) -> Result<()> {
    one.netns.ip(&format!(
        "link add name {} type veth peer name {} netns {}",
        one.interface,
        other.interface,
        other.netns.name()
    ))?;
    one.netns.ip(&format!("link set {} up", one.interface))?;
    other
        .netns
        .ip(&format!("link set {} up", other.interface))?;
    Ok(())
}

/// Makes a bridge and puts interfaces into it: a rack's switch.
///
/// # Errors
/// When the name is taken or an interface is missing.
pub fn bridge(netns: &Netns, name: &str, ports: &[String]) -> Result<()> {
    let mut lines = vec![format!("link add name {name} type bridge")];
    lines.extend(
        ports
            .iter()
            .map(|port| format!("link set {port} master {name}")),
    );
    lines.push(format!("link set {name} up"));
    netns.ip_batch(&lines)
}

/// Gives an interface its addresses; IPv6 ones skip duplicate address detection and can be used at once.
///
/// # Errors
/// When the kernel refuses one.
pub fn addresses(netns: &Netns, interface: &str, list: &[String]) -> Result<()> {
    let lines: Vec<_> = list
        .iter()
        .map(|address| {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            format!("address add {address} dev {interface}{nodad}")
        })
        .collect();
    netns.ip_batch(&lines)
}

/// A kernel route as the lab compares it: every field that decides where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelRoute {
    /// Destination with its length; `default` is written out.
    pub prefix: String,
    /// `unicast` or `blackhole`.
    pub kind: String,
    /// Metric; 0 where none is set.
    pub metric: u64,
    /// Routing protocol number or name as ip prints it.
    pub protocol: String,
    /// `via address dev interface` of each next hop, sorted.
    pub next_hops: BTreeSet<String>,
}

/// Main-table routes of one family (4 or 6), sorted.
///
/// # Errors
/// When they cannot be read.
pub fn routes(netns: &Netns, family: u8) -> Result<Vec<KernelRoute>> {
    let list = netns.ip_json(&format!("-{family} -N route show table main"))?;
    let mut routes: Vec<_> = list
        .iter()
        .map(|entry| kernel_route(entry, family))
        .collect();
    routes.sort();
    Ok(routes)
}

fn kernel_route(entry: &Value, family: u8) -> KernelRoute {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
    let length = if family == 4 { 32 } else { 128 };
    let prefix = match text("dst") {
        "default" if family == 4 => "0.0.0.0/0".to_owned(),
        "default" => "::/0".to_owned(),
        whole if whole.contains('/') => whole.to_owned(),
        host => format!("{host}/{length}"),
    };
    let hop = |value: &Value| {
        let part = |key: &str| value.get(key).and_then(Value::as_str);
        let gateway = part("gateway").map(str::to_owned).or_else(|| {
            value
                .pointer("/via/host")
                .and_then(Value::as_str)
                .map(str::to_owned)
        });
        match (gateway, part("dev")) {
            (Some(gateway), Some(dev)) => format!("via {gateway} dev {dev}"),
            (Some(gateway), None) => format!("via {gateway}"),
            (None, Some(dev)) => format!("dev {dev}"),
            (None, None) => String::new(),
        }
    };
    let next_hops = match entry.get("nexthops").and_then(Value::as_array) {
        Some(list) => list.iter().map(hop).collect(),
        None => BTreeSet::from([hop(entry)]),
    };
    let kind = text("type");
    KernelRoute {
        prefix,
        // With -N types are numbers (linux/rtnetlink.h).
        kind: match kind {
            "" | "1" => "unicast",
            "6" => "blackhole",
            other => other,
        }
        .to_owned(),
        metric: entry.get("metric").and_then(Value::as_u64).unwrap_or(0),
        protocol: text("protocol").to_owned(),
        next_hops: next_hops
            .into_iter()
            .filter(|hop| !hop.is_empty())
            .collect(),
    }
}

impl KernelRoute {
    /// Whether any next hop leaves by this interface.
    #[must_use]
    pub fn leaves_by(&self, interface: &str) -> bool {
        self.next_hops
            .iter()
            .any(|hop| hop.split(' ').rev().nth(0) == Some(interface))
    }

    /// Whether it has a gateway at all.
    #[must_use]
    pub fn goes_via_any(&self) -> bool {
        self.next_hops.iter().any(|hop| hop.starts_with("via "))
    }

    /// Whether any next hop is this gateway.
    #[must_use]
    pub fn goes_via(&self, gateway: &str) -> bool {
        self.next_hops
            .iter()
            .any(|hop| hop.split(' ').nth(1) == Some(gateway))
    }
}

impl std::fmt::Display for KernelRoute {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hops: Vec<_> = self.next_hops.iter().map(String::as_str).collect();
        write!(
            formatter,
            "{} {} {} proto {}",
            self.kind,
            self.prefix,
            hops.join(", "),
            self.protocol
        )?;
        if self.metric > 0 {
            write!(formatter, " metric {}", self.metric)
        } else {
            Ok(())
        }
    }
}
