//! The YAML file of `margay speaker`: every field of a speaker and its peers, in camelCase.
//!
//! ```yaml
//! asn: 64512
//! routerId: 10.100.0.1
//! listen: ["10.100.0.1:179"]
//! clusterId: 10.100.0.1
//! kernel: { install: false }
//! families: [ipv4-unicast, ipv6-unicast]
//! originate: [10.65.0.0/26, { prefix: 10.66.0.0/24, communities: ["64512:1"] }]
//! peers:
//!   - { name: clients, range: 10.100.128.0/17, asn: 64512, routeReflectorClient: true, passive: true }
//!   - { name: tor, address: 10.0.0.1, asn: 64601, import: { reject: [10.65.0.0/16] } }
//! ```
//!
//! `ebgpRequiresPolicy: true` turns `accept` as the default of external peers into `reject` (RFC 8212); it is off unless asked for, so
//! that a peer behaves as it does in Calico.
//!
//! `bfd` is `true` (three packets at 300 ms), `{ minTx: 100, minRx: 100, multiplier: 3, multihop: 2, strict: true }`, of which every
//! field may be left out, or the same as one text, `minTx=100,multiplier=3`. Its times are milliseconds, all other
//! durations are seconds; a number with `ms`, `s`, `m` or `h` says so itself. `import` and `export` are `accept` (the default), `reject`, or
//! `{ accept: [prefixes] }` / `{ reject: [prefixes] }`, where a prefix stands for itself and everything longer inside it and
//! all else gets the opposite, or the name of one of the file's `policies`, which `config/policy.rs` has the words of. A mistake is reported with file, line, field and what would be right, and none of the file is used.

mod parts;
mod peer;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use margay_bgp::bmp::Collector;
use margay_bgp::family::Family;
use margay_bgp::router_id::RouterId;
use margay_bgp::speaker::config::{Listen, Originate, PeerConfig, SpeakerConfig};
use margay_bgp::transport::try_keys;
use serde::Deserialize;

use self::parts::{AggregateItem, CollectorSection, ListenItem, OriginateItem};
pub(super) use self::peer::Wrong;
use self::peer::{PeerSection, Shared};
use super::contradiction::contradictions;
use super::policy::{Known, NamedPolicy};
use super::scalar::{Count, Seconds, SpeakersAs, Text};
use super::yaml::{self, Fault, Node, Step};
use super::{ConfigError, RouteProtocol};

/// What `margay speaker` runs.
#[derive(Clone, Debug)]
pub struct SpeakerFile {
    /// The speaker itself.
    pub speaker: SpeakerConfig,
    /// What happens to its best routes.
    pub kernel: KernelSection,
}

/// Whether best routes go to the kernel, and how they are marked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct KernelSection {
    /// Install best routes in the main table.
    pub install: bool,
    /// Protocol number they carry.
    #[serde(deserialize_with = "route_protocol")]
    pub protocol: RouteProtocol,
}

fn route_protocol<'de, D: serde::Deserializer<'de>>(from: D) -> Result<RouteProtocol, D::Error> {
    Text::deserialize(from).map(|text| text.0)
}

/// Reads the file for this machine: what protects a session has to be something its kernel can do.
///
/// # Errors
/// It cannot be read, or every mistake in it with its place.
pub fn read(path: &Path) -> Result<SpeakerFile, ConfigError> {
    parse_for(path, &content(path)?, None, try_keys)
}

/// Reads the file again for a process that was started with `running`, which is not changed under it.
///
/// # Errors
/// As [`read`], and where the file has another `kernel`.
pub fn read_again(path: &Path, running: &KernelSection) -> Result<SpeakerFile, ConfigError> {
    parse_for(path, &content(path)?, Some(running), try_keys)
}

fn content(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.into(),
        source,
    })
}

/// Reads the file's content; `path` is only for messages and for files named relative to it.
///
/// # Errors
/// Every mistake in it, each with its place.
pub fn parse(path: &Path, text: &str) -> Result<SpeakerFile, ConfigError> {
    parse_for(path, text, None, |_| Ok(()))
}

fn parse_for(
    path: &Path,
    text: &str,
    running: Option<&KernelSection>,
    kernel: fn(&PeerConfig) -> io::Result<()>,
) -> Result<SpeakerFile, ConfigError> {
    let base = path.parent().unwrap_or_else(|| Path::new("."));
    yaml::read_all(path, text, |tree| {
        let file = File::deserialize(tree)?.into_file(tree, base, kernel)?;
        if let Some(running) = running {
            file.kernel.goes_on_as(running, tree)?;
        }
        Ok(file)
    })
}

/// What is wrong with a tree, for the test of the example.
#[cfg(test)]
pub(super) fn probe(tree: &Node) -> Result<(), Fault> {
    File::deserialize(tree).map(|_| ())
}

impl KernelSection {
    /// What installs routes is started once, and what it installed is its own by the protocol.
    fn goes_on_as(&self, running: &Self, tree: &Node) -> Result<(), Fault> {
        let differs = |field: &str, was: &dyn std::fmt::Display, is: &dyn std::fmt::Display| {
            let reason = format!(
                "expected `{field}: {was}`, with which this process was started, found `{is}`: a restart of it changes that"
            );
            Err(Fault::new(
                tree.find(&[], &format!("kernel.{field}")),
                reason,
            ))
        };
        if self.install != running.install {
            return differs("install", &running.install, &self.install);
        }
        if self.protocol != running.protocol {
            let number = |section: &Self| section.protocol.number();
            return differs("protocol", &number(running), &number(self));
        }
        Ok(())
    }
}

impl File {
    /// Puts together what was read; a mistake is told by its path in `tree`. `kernel` says whether it takes a peer's keys.
    fn into_file(
        self,
        tree: &Node,
        base: &Path,
        kernel: fn(&PeerConfig) -> io::Result<()>,
    ) -> Result<SpeakerFile, Fault> {
        let mut speaker = SpeakerConfig::new(self.asn.0.0, self.router_id.0);
        speaker.cluster_id = self.cluster_id.map(|id| id.0);
        speaker.listen = self
            .listen
            .into_iter()
            .map(ListenItem::into_listen)
            .collect();
        if let Some(families) = self.families {
            speaker.families = distinct(families);
            if speaker.families.is_empty() {
                let reason = "expected ipv4-unicast, ipv6-unicast or both, found none";
                return Err(Fault::new(tree.find(&[], "families"), reason.into()));
            }
        }
        speaker.originate = self
            .originate
            .into_iter()
            .map(OriginateItem::into_originate)
            .collect();
        if let Some(paths) = self.maximum_paths {
            speaker.maximum_paths = paths.0.0;
        }
        if let Some(relax) = self.multipath_relax {
            speaker.multipath_relax = relax;
        }
        set(&mut speaker.always_compare_med, self.always_compare_med);
        set(&mut speaker.missing_med_as_worst, self.missing_med_as_worst);
        set(
            &mut speaker.prefer_oldest_external,
            self.prefer_oldest_external,
        );
        set(&mut speaker.weighted_multipath, self.weighted_multipath);
        // Whoever forwards sees which next hops are reached; a pure reflector does not, and takes all of them for good.
        speaker.next_hop_tracking = self.next_hop_tracking.unwrap_or(self.kernel.install);
        if speaker.next_hop_tracking && !self.kernel.install {
            return Err(Fault::new(
                tree.find(&[], "nextHopTracking"),
                "expected `false` without `kernel: { install: true }`: nobody would say which next hops are reached"
                    .into(),
            ));
        }
        set(&mut speaker.resolve_via_default, self.resolve_via_default);
        if let Some(deferral) = self.selection_deferral {
            speaker.selection_deferral = deferral.0.0;
        }
        if let Some(grace) = self.connect_grace {
            speaker.connect_grace = grace.0.0;
        }
        if let Some(restarting) = self.restarting {
            speaker.restarting = restarting;
        }
        speaker.aggregates = self
            .aggregates
            .into_iter()
            .map(AggregateItem::into_aggregate)
            .collect();
        set(&mut speaker.client_to_client, self.client_to_client);
        speaker.drain = self.drain;
        let mut policies = Known::new();
        let mut named = Vec::new();
        for (at, section) in tree.items("policies").into_iter().zip(self.policies) {
            let name = section.name.clone();
            for (place, peer) in section.peers() {
                named.push((tree.find(&at, &place), peer));
            }
            let policy = section.parse().map_err(|(rule, (field, reason))| {
                let field = match rule {
                    Some(rule) => format!("rules.{rule}.{field}"),
                    None => field.to_owned(),
                };
                Fault::new(tree.find(&at, &field), reason)
            })?;
            if policies.insert(name.clone(), policy).is_some() {
                let reason = format!("expected a name of its own, found `{name}` again");
                return Err(Fault::new(tree.find(&at, "name"), reason));
            }
        }
        let shared = Shared {
            base,
            policies: &policies,
            ebgp_requires_policy: self.ebgp_requires_policy,
        };
        for (at, section) in tree.items("monitoring").into_iter().zip(self.monitoring) {
            let collector = section.into_collector();
            let tables = [
                collector.pre_policy,
                collector.post_policy,
                collector.loc_rib,
                collector.adj_rib_out,
            ];
            if tables == [false; 4] {
                let reason = "expected `prePolicy`, `postPolicy`, `locRib` or `adjRibOut`: nothing else is told"
                    .to_owned();
                return Err(Fault::new(tree.find(&at, "locRib"), reason));
            }
            let known = |other: &Collector| other.address == collector.address;
            if speaker.monitoring.iter().any(known) {
                let reason = format!(
                    "expected a collector of its own, found {} again",
                    collector.address
                );
                return Err(Fault::new(tree.find(&at, "address"), reason));
            }
            speaker.monitoring.push(collector);
        }
        let mut places: BTreeMap<String, Vec<Step>> = BTreeMap::new();
        for (at, section) in tree.items("peers").into_iter().zip(self.peers) {
            let peer = section
                .into_peer(&speaker, &shared)
                .map_err(|(field, reason)| Fault::new(tree.find(&at, field), reason))?;
            let ours = peer.local_asn.unwrap_or(speaker.asn);
            // The others are found when this one was cut out.
            if let Some(found) = contradictions(&peer, ours).into_iter().next() {
                let mut fields = found.fields.iter();
                let written = fields.find(|field| tree.has(&at, field));
                let field = written.or_else(|| found.fields.first()).unwrap_or(&"");
                return Err(Fault::new(tree.find(&at, field), found.reason));
            }
            if places.contains_key(&peer.name) {
                let reason = if tree.has(&at, "name") {
                    format!("expected a name of its own, found `{}` again", peer.name)
                } else {
                    format!(
                        "expected a `name`: without, it is `{}` as another one is",
                        peer.name
                    )
                };
                return Err(Fault::new(tree.find(&at, "name"), reason));
            }
            places.insert(peer.name.clone(), at);
            speaker.peers.push(peer);
        }
        speaker.validate().map_err(|error| {
            let (peer, field) = error.place();
            let at = peer.and_then(|name| places.get(name)).cloned();
            let field = match error.position() {
                Some(position) => format!("{field}.{position}"),
                None => field.to_owned(),
            };
            let path = tree.find(&at.unwrap_or_default(), &field);
            Fault::new(path, error.to_string())
        })?;
        check_listeners(tree, &speaker.listen)?;
        check_own_routes(tree, &speaker)?;
        for (at, name) in named {
            let known = |peer: &PeerConfig| {
                // Those who call from a range are named after it.
                peer.name == name
                    || peer.remote.is_range()
                        && name
                            .strip_prefix(&peer.name)
                            .is_some_and(|rest| rest.starts_with('-'))
            };
            if !speaker.peers.iter().any(known) {
                let reason = format!("expected the name of a peer of the file, found `{name}`");
                return Err(Fault::absence(at, reason));
            }
        }
        for peer in speaker.peers.iter().filter(|peer| peer.passive) {
            if !speaker.listen.iter().any(|listen| listen.hears(peer)) {
                let field = if peer.remote.is_range() {
                    "range"
                } else {
                    "passive"
                };
                let at = places.get(&peer.name).cloned().unwrap_or_default();
                return Err(Fault::absence(tree.find(&at, field), unheard(peer)));
            }
        }
        for peer in &speaker.peers {
            kernel(peer).map_err(|error| {
                let at = places.get(&peer.name).cloned().unwrap_or_default();
                let written = ["tcpAo", "password", "passwordFile"];
                let field = written.into_iter().find(|field| tree.has(&at, field));
                let instead = match field {
                    Some("tcpAo") => "`password` (TCP-MD5)",
                    _ => "`tcpAo`",
                };
                let reason = format!(
                    "{error}: expected a kernel that can do that, or {instead} at both ends"
                );
                Fault::new(tree.find(&at, field.unwrap_or("tcpAo")), reason)
            })?;
        }
        Ok(SpeakerFile {
            speaker,
            kernel: self.kernel,
        })
    }
}

/// One socket at an address and port takes all calls.
fn check_listeners(tree: &Node, listen: &[Listen]) -> Result<(), Fault> {
    let same = |one: &SocketAddr, other: &SocketAddr| {
        let wide = one.ip().is_unspecified() || other.ip().is_unspecified();
        one.is_ipv4() == other.is_ipv4()
            && one.port() == other.port()
            && (wide || one.ip() == other.ip())
    };
    for (place, own) in listen.iter().enumerate() {
        let earlier = listen.iter().take(place);
        for other in earlier.filter(|other| other.binding == own.binding) {
            if own.address.port() != 0 && same(&own.address, &other.address) {
                let reason = format!(
                    "expected an address and port that nobody listens on, and {other} is listened on already"
                );
                let path = tree.find(&[], &format!("listen.{place}"));
                return Err(Fault::new(path, reason));
            }
        }
    }
    Ok(())
}

/// What we bring into BGP is of families that we have tables for.
fn check_own_routes(tree: &Node, speaker: &SpeakerConfig) -> Result<(), Fault> {
    let originated = speaker.originate.iter().map(|route| route.prefix);
    let aggregated = speaker.aggregates.iter().map(|route| route.prefix);
    let fields = [
        ("originate", originated.collect::<Vec<_>>()),
        ("aggregates", aggregated.collect()),
    ];
    for (field, prefixes) in fields {
        for (place, prefix) in prefixes.into_iter().enumerate() {
            let family = prefix.family();
            if !speaker.families.contains(&family) {
                let path = tree.find(&[], &format!("{field}.{place}"));
                let reason = format!(
                    "expected a prefix of the families of the speaker, found {prefix}, which is {family}"
                );
                return Err(Fault::new(path, reason));
            }
        }
    }
    let led = |route: &Originate| {
        route
            .next_hop
            .filter(|hop| hop.is_ipv4() && !route.prefix.addr().is_ipv4())
    };
    for (place, route) in speaker.originate.iter().enumerate() {
        if let Some(hop) = led(route) {
            let path = tree.find(&[], &format!("originate.{place}.nextHop"));
            let reason = format!(
                "expected an IPv6 next hop for {}, found `{hop}`",
                route.prefix
            );
            return Err(Fault::new(path, reason));
        }
    }
    Ok(())
}

/// What is said of a peer that we wait for and cannot hear.
fn unheard(peer: &PeerConfig) -> String {
    let wanted = match peer.local_address {
        Some(local) => format!("{local} or an unspecified address"),
        None => "an address of its family".into(),
    };
    format!(
        "expected `listen` to have {wanted}{}, where it can call: it is never dialled",
        peer.binding
    )
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    asn: Text<SpeakersAs>,
    router_id: Text<RouterId>,
    #[serde(default)]
    cluster_id: Option<Text<RouterId>>,
    #[serde(default)]
    listen: Vec<ListenItem>,
    #[serde(default)]
    kernel: KernelSection,
    #[serde(default)]
    families: Option<Vec<Text<Family>>>,
    #[serde(default)]
    originate: Vec<OriginateItem>,
    #[serde(default)]
    maximum_paths: Option<Text<Count>>,
    #[serde(default)]
    multipath_relax: Option<bool>,
    #[serde(default)]
    always_compare_med: Option<bool>,
    #[serde(default)]
    missing_med_as_worst: Option<bool>,
    #[serde(default)]
    prefer_oldest_external: Option<bool>,
    #[serde(default)]
    weighted_multipath: Option<bool>,
    #[serde(default)]
    next_hop_tracking: Option<bool>,
    #[serde(default)]
    resolve_via_default: Option<bool>,
    #[serde(default)]
    selection_deferral: Option<Text<Seconds>>,
    #[serde(default)]
    connect_grace: Option<Text<Seconds>>,
    #[serde(default)]
    restarting: Option<bool>,
    #[serde(default)]
    aggregates: Vec<AggregateItem>,
    #[serde(default)]
    client_to_client: Option<bool>,
    #[serde(default)]
    drain: bool,
    #[serde(default)]
    ebgp_requires_policy: bool,
    #[serde(default)]
    monitoring: Vec<CollectorSection>,
    #[serde(default)]
    policies: Vec<NamedPolicy>,
    #[serde(default)]
    peers: Vec<PeerSection>,
}

pub(super) fn plain<T>(list: Vec<Text<T>>) -> Vec<T> {
    list.into_iter().map(|item| item.0).collect()
}

fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

fn distinct(families: Vec<Text<Family>>) -> Vec<Family> {
    families
        .into_iter()
        .map(|family| family.0)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests;
