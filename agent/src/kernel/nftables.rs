//! The packet filter: one table of ours, and marked accept rules in forward chains that would drop our pods' packets.
//!
//! The table `inet margay` is written whole, in one transaction, and only when it is not already what it should be.
//! A fresh process can tell that from the table itself: two empty chains carry, in their names, the digest of the
//! rules as written and the digest of the table as the kernel lists it. The first says what was meant, the second
//! that nobody has changed it since. So a restart touches nothing, and an audit sees a rule missing.
//!
//! A verdict of accept ends only the chain it is in: it cannot save a packet from another base chain of the same hook. So
//! where a foreign forward chain has the policy to drop (Docker and many a hand-written firewall set it), accepting
//! pods' packets takes a rule in that chain. It carries a comment that marks it as ours, and goes when not needed.
//! Rules of the old `iptables-legacy` are invisible here.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use margay_bgp::prefix::Prefix;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{FilterOutcome, FilterSpec, KernelError};
use crate::desired::state::{Masquerade, TunnelSource};

/// The name of our table, in family `inet`.
pub(super) const TABLE: &str = "margay";
/// Starts the name of the chain that tells what was written.
const WRITTEN: &str = "written_";
/// Starts the name of the chain that tells what the kernel made of it.
const LISTED: &str = "listed_";
/// Starts the comment of our rules in others' chains.
const MARK: &str = "margay: ";

/// Runs `nft`.
#[derive(Debug)]
pub(super) struct Nft {
    program: PathBuf,
}

impl Nft {
    pub(super) fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// Brings table and accept rules to what is asked, writing only what differs.
    pub(super) fn apply(&self, spec: &FilterSpec) -> Result<FilterOutcome, KernelError> {
        let nothing_wanted = spec.masquerade.is_empty() && spec.forward_accept.is_empty();
        if nothing_wanted && !self.installed() {
            return Ok(FilterOutcome::default());
        }
        // Two independent things: a failure of one does not hold up the other.
        let table = self.apply_table(&spec.masquerade);
        let accept = self.apply_accept(&spec.forward_accept);
        Ok(FilterOutcome {
            table_changed: table?,
            accept_changed: accept?,
        })
    }

    fn apply_table(&self, masquerade: &Masquerade) -> Result<bool, KernelError> {
        let listed = self.list_table()?;
        if masquerade.is_empty() {
            if listed.is_some() {
                self.run(&format!("delete table inet {TABLE}\n"))?;
            }
            return Ok(listed.is_some());
        }
        let body = table_body(masquerade);
        let written = digest(&body);
        if listed.is_some_and(|listing| is_intact(&listing, &written)) {
            return Ok(false);
        }
        // Adding first makes the deletion valid where there is no table yet; all of it is one transaction.
        self.run(&format!(
            "add table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n\tchain {WRITTEN}{written} {{ }}\n{body}}}\n"
        ))?;
        // Only now can it be known how this kernel and this nft list it. A crash in between costs one more write.
        if let Some(listing) = self.list_table()? {
            self.run(&format!(
                "add chain inet {TABLE} {LISTED}{}\n",
                digest(&canonical(&listing))
            ))?;
        }
        Ok(true)
    }

    fn apply_accept(&self, prefixes: &[String]) -> Result<bool, KernelError> {
        let Some(chains) = self.query(&["list", "chains"])? else {
            return Ok(false);
        };
        let mut script = String::new();
        for chain in forward_chains(&chains) {
            let Some(rules) =
                self.query(&["list", "chain", chain.family, chain.table, chain.name])?
            else {
                continue; // gone meanwhile
            };
            let found = marked_rules(&rules);
            let wanted: Vec<(&str, &str, String)> = prefixes
                .iter()
                .filter(|_| chain.drops)
                .flat_map(|prefix| {
                    [("iifname", "in"), ("oifname", "out")]
                        .map(|(field, way)| (field, prefix.as_str(), accept_comment(prefix, way)))
                })
                .collect();
            let same = found.len() == wanted.len()
                && wanted
                    .iter()
                    .all(|(_, _, comment)| found.iter().any(|(_, there)| there == comment));
            if same {
                continue;
            }
            let place = format!("{} {} {}", chain.family, chain.table, chain.name);
            for (handle, _) in &found {
                let _ = writeln!(script, "delete rule {place} handle {handle}");
            }
            for (field, prefix, comment) in wanted {
                let pattern = quoted(&format!("{prefix}*"));
                let _ = writeln!(
                    script,
                    "insert rule {place} {field} {pattern} counter accept comment {}",
                    quoted(&comment)
                );
            }
        }
        if script.is_empty() {
            return Ok(false);
        }
        self.run(&script)?;
        Ok(true)
    }

    fn list_table(&self) -> Result<Option<Value>, KernelError> {
        self.query(&["list", "table", "inet", TABLE])
    }

    /// A listing; `None` where what is listed does not exist.
    fn query(&self, arguments: &[&str]) -> Result<Option<Value>, KernelError> {
        let output = Command::new(&self.program)
            .arg("-j")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            if message.contains("No such file or directory") {
                return Ok(None);
            }
            return Err(failed(first_line(&message)));
        }
        serde_json::from_slice(&output.stdout)
            .map(Some)
            .map_err(|error| failed(format!("listing cannot be read: {error}")))
    }

    /// Runs a script as one transaction.
    fn run(&self, script: &str) -> Result<(), KernelError> {
        let mut child = Command::new(&self.program)
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        // `nft` reads all of its input before it writes anything, so this cannot block on a full pipe of errors.
        let sent = child
            .stdin
            .take()
            .map_or(Ok(()), |mut stdin| stdin.write_all(script.as_bytes()));
        let output = child
            .wait_with_output()
            .map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(first_line(&String::from_utf8_lossy(&output.stderr))));
        }
        sent.map_err(|error| failed(error.to_string()))
    }

    fn installed(&self) -> bool {
        Command::new(&self.program)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

fn failed(message: String) -> KernelError {
    KernelError::Program {
        program: "nft",
        message,
    }
}

fn first_line(message: &str) -> String {
    message
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("failed without a word")
        .trim()
        .to_owned()
}

/// The sets and the one chain of our table, as nft reads them; without whatever has no members.
fn table_body(masquerade: &Masquerade) -> String {
    let mut body = String::new();
    let mut rules = String::new();
    for version in ["ip", "ip6"] {
        let outgoing = members(&masquerade.outgoing, version);
        if outgoing.is_empty() {
            continue;
        }
        let pools = members(&masquerade.pools, version);
        let hosts: Vec<String> = masquerade
            .excluded_hosts
            .iter()
            .filter(|host| host.is_ipv4() == (version == "ip"))
            .map(ToString::to_string)
            .collect();
        write_set(&mut body, version, "outgoing", &outgoing, true);
        let mut matches = format!("{version} saddr @outgoing_{version}");
        if !pools.is_empty() {
            write_set(&mut body, version, "pools", &pools, true);
            let _ = write!(matches, " {version} daddr != @pools_{version}");
        }
        if !hosts.is_empty() {
            write_set(&mut body, version, "hosts", &hosts, false);
            let _ = write!(matches, " {version} daddr != @hosts_{version}");
        }
        if let Some(interface) = &masquerade.interface_filter {
            let _ = write!(matches, " oifname {}", interface_pattern(interface));
        }
        let target = match masquerade.address {
            Some(address) if version == "ip" => format!("snat ip to {address}"),
            _ => "masquerade".to_owned(),
        };
        if let Some((low, high)) = masquerade.port_range {
            let ports = if target == "masquerade" {
                format!(" to :{low}-{high}")
            } else {
                format!(":{low}-{high}")
            };
            let _ = writeln!(
                rules,
                "\t\t{matches} meta l4proto {{ tcp, udp }} {target}{ports} fully-random"
            );
        }
        let _ = writeln!(rules, "\t\t{matches} {target} fully-random");
    }
    for tunnel in &masquerade.tunnels {
        write_tunnel(&mut rules, tunnel);
    }
    let _ = write!(
        body,
        "\tchain postrouting {{\n\t\ttype nat hook postrouting priority 100; policy accept;\n{rules}\t}}\n"
    );
    body
}

/// Packets of this host that leave by a tunnel carry the tunnel's address.
fn write_tunnel(rules: &mut String, tunnel: &TunnelSource) {
    let version = match tunnel.address {
        IpAddr::V4(_) => "ip",
        IpAddr::V6(_) => "ip6",
    };
    let matches = format!(
        "oifname {} {version} saddr != {} fib saddr type local",
        quoted(&tunnel.device),
        tunnel.address
    );
    if let Some(port) = tunnel.vxlan_port {
        // A reply to a translated source port that equals the VXLAN port would be taken for a tunnel packet.
        let (low, high) = ports_beside(port);
        let _ = writeln!(
            rules,
            "\t\t{matches} meta l4proto udp masquerade to :{low}-{high} fully-random"
        );
    }
    let _ = writeln!(rules, "\t\t{matches} masquerade fully-random");
}

/// The wider range of unprivileged ports on one side of `port`.
fn ports_beside(port: u16) -> (u16, u16) {
    const FIRST: u16 = 1024;
    if port < FIRST {
        return (FIRST, u16::MAX);
    }
    if port - FIRST > u16::MAX - port {
        (FIRST, port - 1)
    } else {
        (port + 1, u16::MAX)
    }
}

/// Members of one version, without those that another covers: interval sets refuse overlaps.
fn members(prefixes: &BTreeSet<Prefix>, version: &str) -> Vec<String> {
    prefixes
        .iter()
        .filter(|prefix| matches!(prefix, Prefix::V4(_)) == (version == "ip"))
        .filter(|prefix| {
            !prefixes
                .iter()
                .any(|other| other != *prefix && other.contains(**prefix))
        })
        .map(ToString::to_string)
        .collect()
}

fn write_set(body: &mut String, version: &str, name: &str, elements: &[String], interval: bool) {
    let kind = if version == "ip" {
        "ipv4_addr"
    } else {
        "ipv6_addr"
    };
    let flags = if interval { "flags interval; " } else { "" };
    let _ = writeln!(
        body,
        "\tset {name}_{version} {{ type {kind}; {flags}elements = {{ {} }} }}",
        elements.join(", ")
    );
}

/// Calico writes `eth+` for every interface that begins with `eth`, nft writes `eth*`.
fn interface_pattern(pattern: &str) -> String {
    match pattern.strip_suffix('+') {
        Some(start) => quoted(&format!("{start}*")),
        None => quoted(pattern),
    }
}

/// An interface name as an nft string. The kernel allows nearly anything in a name but nft has no escapes.
fn quoted(name: &str) -> String {
    let name: String = name
        .chars()
        .filter(|character| !matches!(character, '"' | '\\') && !character.is_control())
        .collect();
    format!("\"{name}\"")
}

fn accept_comment(prefix: &str, way: &str) -> String {
    format!("{MARK}pods {way} {prefix}")
}

/// A base chain of the forward hook that is not ours.
struct ForwardChain<'a> {
    family: &'a str,
    table: &'a str,
    name: &'a str,
    drops: bool,
}

fn forward_chains(listing: &Value) -> Vec<ForwardChain<'_>> {
    objects(listing, "chain")
        .filter_map(|chain| {
            let text = |field: &str| chain.get(field).and_then(Value::as_str);
            let found = ForwardChain {
                family: text("family")?,
                table: text("table")?,
                name: text("name")?,
                drops: text("policy") == Some("drop"),
            };
            let relevant = text("hook") == Some("forward")
                && matches!(found.family, "ip" | "ip6" | "inet")
                && !(found.family == "inet" && found.table == TABLE);
            relevant.then_some(found)
        })
        .collect()
}

/// Our rules in a listed chain: handle and comment.
fn marked_rules(listing: &Value) -> Vec<(u64, String)> {
    objects(listing, "rule")
        .filter_map(|rule| {
            let comment = rule.get("comment")?.as_str()?;
            let handle = rule.get("handle")?.as_u64()?;
            comment
                .starts_with(MARK)
                .then(|| (handle, comment.to_owned()))
        })
        .collect()
}

fn objects<'a>(listing: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    listing
        .get("nftables")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(move |object| object.get(kind))
}

/// Whether a listed table is the one meant, and as the kernel listed it when it was new.
fn is_intact(listing: &Value, written: &str) -> bool {
    let has = |name: String| {
        objects(listing, "chain")
            .any(|chain| chain.get("name").and_then(Value::as_str) == Some(&name))
    };
    has(format!("{WRITTEN}{written}")) && has(format!("{LISTED}{}", digest(&canonical(listing))))
}

/// A listing without what is not content: handles, tool versions, and our own chain that names this digest.
fn canonical(listing: &Value) -> String {
    let objects: Vec<Value> = listing
        .get("nftables")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|object| object.get("metainfo").is_none())
        .filter(|object| {
            !object
                .get("chain")
                .and_then(|chain| chain.get("name"))
                .and_then(Value::as_str)
                .is_some_and(|name| name.starts_with(LISTED))
        })
        .cloned()
        .map(without_handles)
        .collect();
    Value::Array(objects).to_string()
}

fn without_handles(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        for (_, inner) in fields.iter_mut() {
            if let Some(inner) = inner.as_object_mut() {
                inner.remove("handle");
            }
        }
    }
    object
}

/// Half a SHA-256 in hexadecimal: a chain's name has room for 128 octets.
fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .take(16)
        .fold(String::new(), |mut digest, octet| {
            let _ = write!(digest, "{octet:02x}");
            digest
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(list: &[&str]) -> BTreeSet<Prefix> {
        list.iter()
            .map(|prefix| prefix.parse().expect("prefix"))
            .collect()
    }

    #[test]
    fn packets_of_outgoing_pools_are_masqueraded_unless_bound_for_a_pool() {
        let body = table_body(&Masquerade {
            outgoing: prefixes(&["10.65.0.0/16"]),
            pools: prefixes(&["10.65.0.0/16", "10.66.0.0/16", "fd00::/48"]),
            ..Masquerade::default()
        });
        assert!(body.contains(
            "set outgoing_ip { type ipv4_addr; flags interval; elements = { 10.65.0.0/16 } }"
        ));
        assert!(body.contains("elements = { 10.65.0.0/16, 10.66.0.0/16 }"));
        assert!(
            body.contains("ip saddr @outgoing_ip ip daddr != @pools_ip masquerade fully-random")
        );
        assert!(
            !body.contains("ip6"),
            "no rule for a version without outgoing pools"
        );
    }

    #[test]
    fn a_prefix_within_another_is_left_out() {
        assert_eq!(
            members(
                &prefixes(&["10.65.0.0/16", "10.65.3.0/24", "10.66.0.0/24"]),
                "ip"
            ),
            ["10.65.0.0/16", "10.66.0.0/24"]
        );
    }

    #[test]
    fn translated_udp_ports_keep_clear_of_the_vxlan_port() {
        assert_eq!(ports_beside(4789), (4790, 65535));
        assert_eq!(ports_beside(60000), (1024, 59999));
        assert_eq!(ports_beside(80), (1024, 65535));
        assert_eq!(ports_beside(u16::MAX), (1024, 65534));
        assert_eq!(ports_beside(1024), (1025, 65535));
    }

    #[test]
    fn host_packets_into_a_tunnel_get_its_address() {
        let body = table_body(&Masquerade {
            tunnels: vec![TunnelSource {
                device: "vxlan.calico".to_owned(),
                address: "10.65.0.1".parse().expect("address"),
                vxlan_port: Some(4789),
            }],
            ..Masquerade::default()
        });
        let matches = "oifname \"vxlan.calico\" ip saddr != 10.65.0.1 fib saddr type local";
        assert!(body.contains(&format!(
            "{matches} meta l4proto udp masquerade to :4790-65535 fully-random\n"
        )));
        assert!(body.contains(&format!("{matches} masquerade fully-random\n")));
    }

    #[test]
    fn digest_of_a_listing_ignores_handles_and_versions() {
        let listing = |handle: u64, version: &str| {
            serde_json::json!({"nftables": [
                {"metainfo": {"version": version}},
                {"chain": {"family": "inet", "table": "margay", "name": "postrouting", "handle": handle}},
            ]})
        };
        assert_eq!(
            canonical(&listing(1, "1.0.6")),
            canonical(&listing(9, "1.1.0"))
        );
    }

    #[test]
    fn only_foreign_forward_chains_are_considered() {
        let listing = serde_json::json!({"nftables": [
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "hook": "input", "policy": "drop"}},
            {"chain": {"family": "bridge", "table": "b", "name": "f", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "inet", "table": "margay", "name": "f", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "inet", "table": "fw", "name": "fwd", "hook": "forward", "policy": "accept"}},
        ]});
        let found: Vec<_> = forward_chains(&listing)
            .iter()
            .map(|chain| (chain.table, chain.name, chain.drops))
            .collect();
        assert_eq!(found, [("filter", "FORWARD", true), ("fw", "fwd", false)]);
    }
}
