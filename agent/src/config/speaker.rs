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

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use margay_bgp::asn::Asn;
use margay_bgp::bmp::{BMP_PORT, Collector};
use margay_bgp::codec::Role;
use margay_bgp::codec::attribute::{LocalPref, Med};
use margay_bgp::codec::community::{Community, LargeCommunity};
use margay_bgp::family::Family;
use margay_bgp::policy::Verdict;
use margay_bgp::prefix::Prefix;
use margay_bgp::router_id::RouterId;
use margay_bgp::speaker::config::{
    Aggregate, AoAlgorithm, AoKey, BGP_PORT, Bfd, Binding, GracefulRestart, HoldTime, LimitAction,
    Listen, LocalAsMode, LongLived, MaximumPrefixes, NextHopMode, Originate, PeerAs, PeerConfig,
    Remote, RemovePrivateAs, Secret, SpeakerConfig,
};
use serde::Deserialize;

use super::ConfigError;
use super::policy::{Known, NamedPolicy, PolicySection, policy};
use super::scalar::{
    BfdText, FromText, ListenAddress, MaybeAddPathSend, Milliseconds, PeerAddress, ScalarOr,
    Seconds, Text,
};
use super::yaml::{self, Fault, Step};

/// What `margay speaker` runs.
#[derive(Clone, Debug)]
pub struct SpeakerFile {
    /// The speaker itself.
    pub speaker: SpeakerConfig,
    /// What happens to its best routes.
    pub kernel: KernelSection,
}

/// Whether best routes go to the kernel, and how they are marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct KernelSection {
    /// Install best routes in the main table.
    pub install: bool,
    /// Protocol number they carry.
    pub protocol: u8,
}

impl Default for KernelSection {
    fn default() -> Self {
        Self {
            install: false,
            protocol: super::ROUTE_PROTOCOL,
        }
    }
}

/// Reads the file.
///
/// # Errors
/// It cannot be read, or every mistake in it with its place.
pub fn read(path: &Path) -> Result<SpeakerFile, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.into(),
        source,
    })?;
    parse(path, &text)
}

/// Reads the file's content; `path` is only for messages and for files named relative to it.
///
/// # Errors
/// Every mistake in it, each with its place.
pub fn parse(path: &Path, text: &str) -> Result<SpeakerFile, ConfigError> {
    let base = path.parent().unwrap_or_else(|| Path::new("."));
    yaml::read_all(path, text, |tree| {
        File::deserialize(tree)?.into_file(tree, base)
    })
}

/// What is wrong with a tree, for the test of the example.
#[cfg(test)]
pub(super) fn probe(tree: &yaml::Node) -> Result<(), Fault> {
    File::deserialize(tree).map(|_| ())
}

impl File {
    /// Puts together what was read; a mistake is told by its path in `tree`.
    fn into_file(self, tree: &yaml::Node, base: &Path) -> Result<SpeakerFile, Fault> {
        let mut speaker = SpeakerConfig::new(self.asn.0, self.router_id.0);
        speaker.cluster_id = self.cluster_id.map(|id| id.0);
        speaker.listen = self
            .listen
            .into_iter()
            .map(ListenItem::into_listen)
            .collect();
        if let Some(families) = self.families {
            speaker.families = distinct(families);
        }
        speaker.originate = self
            .originate
            .into_iter()
            .map(OriginateItem::into_originate)
            .collect();
        if let Some(paths) = self.maximum_paths {
            speaker.maximum_paths = paths.0.max(1);
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
        for (at, section) in tree.items("policies").into_iter().zip(self.policies) {
            let name = section.name.clone();
            let policy = section.parse().map_err(|(rule, (field, reason))| {
                let at = match rule {
                    Some(rule) => {
                        [&at[..], &[Step::Key("rules".into()), Step::Index(rule)]].concat()
                    }
                    None => at.clone(),
                };
                Fault::new(tree.find(&at, field), reason)
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
            if !(collector.pre_policy || collector.post_policy || collector.loc_rib) {
                let reason = "expected `prePolicy`, `postPolicy` or `locRib`: nothing else is told"
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
            if places.contains_key(&peer.name) {
                let reason = format!("expected a name of its own, found `{}` again", peer.name);
                return Err(Fault::new(tree.find(&at, "name"), reason));
            }
            places.insert(peer.name.clone(), at);
            speaker.peers.push(peer);
        }
        speaker.validate().map_err(|error| {
            let (peer, field) = error.place();
            let at = peer.and_then(|name| places.get(name)).cloned();
            let path = tree.find(&at.unwrap_or_default(), field);
            Fault::new(path, error.to_string())
        })?;
        Ok(SpeakerFile {
            speaker,
            kernel: self.kernel,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    asn: Text<Asn>,
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
    maximum_paths: Option<Text<usize>>,
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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CollectorSection {
    address: Text<IpAddr>,
    #[serde(default)]
    port: Option<Text<u16>>,
    #[serde(default)]
    pre_policy: Option<bool>,
    #[serde(default)]
    post_policy: Option<bool>,
    #[serde(default)]
    loc_rib: Option<bool>,
    #[serde(default)]
    statistics: Option<Text<MaybeSeconds>>,
}

impl CollectorSection {
    fn into_collector(self) -> Collector {
        let port = self.port.map_or(BMP_PORT, |port| port.0);
        let mut collector = Collector::new(SocketAddr::new(self.address.0, port));
        set(&mut collector.pre_policy, self.pre_policy);
        set(&mut collector.post_policy, self.post_policy);
        set(&mut collector.loc_rib, self.loc_rib);
        set(
            &mut collector.statistics,
            self.statistics.map(|every| every.0.0),
        );
        collector
    }
}

/// How often, or `false` for never.
#[derive(Clone, Copy, Debug)]
struct MaybeSeconds(Option<Duration>);

impl FromText for MaybeSeconds {
    const WANTED: &'static str = "a duration from 1 s (60, 5m), or false";
    fn from_text(text: &str) -> Option<Self> {
        if text == "false" {
            return Some(Self(None));
        }
        let interval = Seconds::from_text(text)?.0;
        (interval >= Duration::from_secs(1)).then_some(Self(Some(interval)))
    }
}

type AggregateItem = ScalarOr<Prefix, AggregateSection>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AggregateSection {
    prefix: Text<Prefix>,
    #[serde(default)]
    summary_only: bool,
    #[serde(default)]
    communities: Vec<Text<Community>>,
    #[serde(default)]
    large_communities: Vec<Text<LargeCommunity>>,
    #[serde(default)]
    local_pref: Option<Text<u32>>,
    #[serde(default)]
    med: Option<Text<u32>>,
}

impl AggregateItem {
    fn into_aggregate(self) -> Aggregate {
        match self {
            Self::Scalar(prefix) => Aggregate::new(prefix),
            Self::Section(section) => Aggregate {
                prefix: section.prefix.0,
                summary_only: section.summary_only,
                communities: plain(section.communities),
                large_communities: plain(section.large_communities),
                local_pref: section.local_pref.map(|value| LocalPref(value.0)),
                med: section.med.map(|value| Med(value.0)),
            },
        }
    }
}

pub(super) fn plain<T>(list: Vec<Text<T>>) -> Vec<T> {
    list.into_iter().map(|item| item.0).collect()
}

type ListenItem = ScalarOr<ListenAddress, ListenSection>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListenSection {
    address: Text<ListenAddress>,
    #[serde(default)]
    device: Option<String>,
    #[serde(default)]
    netns: Option<PathBuf>,
}

impl ListenItem {
    fn into_listen(self) -> Listen {
        match self {
            Self::Scalar(address) => address.0.into(),
            Self::Section(section) => Listen {
                address: section.address.0.0,
                binding: binding(section.device, section.netns),
            },
        }
    }
}

fn binding(device: Option<String>, netns: Option<PathBuf>) -> Binding {
    Binding {
        netns: netns.map(Arc::from),
        device: device.map(Arc::from),
    }
}

type OriginateItem = ScalarOr<Prefix, OriginateSection>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OriginateSection {
    prefix: Text<Prefix>,
    #[serde(default)]
    next_hop: Option<Text<IpAddr>>,
    #[serde(default)]
    communities: Vec<Text<Community>>,
    #[serde(default)]
    large_communities: Vec<Text<LargeCommunity>>,
    #[serde(default)]
    local_pref: Option<Text<u32>>,
    #[serde(default)]
    med: Option<Text<u32>>,
}

impl OriginateItem {
    fn into_originate(self) -> Originate {
        match self {
            Self::Scalar(prefix) => Originate::new(prefix),
            Self::Section(section) => Originate {
                prefix: section.prefix.0,
                next_hop: section.next_hop.map(|hop| hop.0),
                communities: section
                    .communities
                    .into_iter()
                    .map(|value| value.0)
                    .collect(),
                large_communities: section
                    .large_communities
                    .into_iter()
                    .map(|value| value.0)
                    .collect(),
                local_pref: section.local_pref.map(|value| LocalPref(value.0)),
                med: section.med.map(|value| Med(value.0)),
            },
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PeerSection {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    address: Option<Text<PeerAddress>>,
    #[serde(default)]
    interface: Option<String>,
    #[serde(default)]
    device: Option<String>,
    #[serde(default)]
    netns: Option<PathBuf>,
    #[serde(default)]
    port: Option<Text<u16>>,
    #[serde(default)]
    range: Option<Text<Prefix>>,
    asn: Text<PeerAs>,
    #[serde(default)]
    local_asn: Option<Text<Asn>>,
    #[serde(default)]
    local_address: Option<Text<IpAddr>>,
    #[serde(default)]
    passive: bool,
    #[serde(default)]
    route_reflector_client: bool,
    #[serde(default)]
    cluster_id: Option<Text<RouterId>>,
    #[serde(default)]
    families: Option<Vec<Text<Family>>>,
    #[serde(default)]
    hold_time: Option<Text<HoldTime>>,
    #[serde(default)]
    minimum_hold_time: Option<Text<HoldTime>>,
    #[serde(default)]
    keepalive: Option<Text<Seconds>>,
    #[serde(default)]
    connect_retry: Option<Text<Seconds>>,
    #[serde(default)]
    connect_retry_max: Option<Text<Seconds>>,
    #[serde(default)]
    delay_open: Option<Text<Seconds>>,
    #[serde(default)]
    idle_hold: Option<Text<Seconds>>,
    #[serde(default)]
    idle_hold_max: Option<Text<Seconds>>,
    #[serde(default)]
    send_hold: Option<Text<Seconds>>,
    #[serde(default)]
    graceful_restart: Option<ScalarOr<bool, GracefulRestartSection>>,
    #[serde(default)]
    long_lived: Option<LongLivedSection>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    password_file: Option<PathBuf>,
    #[serde(default)]
    tcp_ao: Option<TcpAoSection>,
    #[serde(default)]
    ttl_security: Option<Text<u8>>,
    #[serde(default)]
    ttl: Option<Text<u8>>,
    #[serde(default)]
    next_hop: Option<Text<NextHopMode>>,
    #[serde(default)]
    connected_subnets: Vec<Text<Prefix>>,
    #[serde(default)]
    next_hop_address: Option<Text<IpAddr>>,
    #[serde(default)]
    allowed_local_as: Option<Text<u8>>,
    #[serde(default)]
    import: Option<PolicySection>,
    #[serde(default)]
    export: Option<PolicySection>,
    #[serde(default)]
    maximum_prefixes: Option<MaximumPrefixesItem>,
    #[serde(default)]
    add_path_receive: Option<bool>,
    #[serde(default)]
    add_path_send: Option<ScalarOr<MaybeAddPathSend, AddPathSendSection>>,
    #[serde(default)]
    extended_next_hop: Option<bool>,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    shutdown_text: Option<String>,
    #[serde(default)]
    link: Option<String>,
    #[serde(default)]
    dynamic_limit: Option<Text<usize>>,
    #[serde(default)]
    half_open_limit: Option<Text<usize>>,
    #[serde(default)]
    enforce_first_as: Option<bool>,
    #[serde(default)]
    allow_as_set: Option<bool>,
    #[serde(default)]
    role: Option<Text<Role>>,
    #[serde(default)]
    strict_role: Option<bool>,
    #[serde(default)]
    local_as_mode: Option<Text<LocalAsMode>>,
    #[serde(default)]
    remove_private_as: Option<Text<RemovePrivateAs>>,
    #[serde(default)]
    as_override: Option<bool>,
    #[serde(default)]
    default_originate: Option<bool>,
    #[serde(default)]
    graceful_shutdown: Option<bool>,
    #[serde(default)]
    drain: Option<bool>,
    #[serde(default)]
    strict_attributes: Option<bool>,
    #[serde(default)]
    afi_safi_disable: Option<bool>,
    #[serde(default)]
    bfd: Option<ScalarOr<BfdText, BfdSection>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct BfdSection {
    min_tx: Option<Text<Milliseconds>>,
    min_rx: Option<Text<Milliseconds>>,
    multiplier: Option<Text<u8>>,
    multihop: Option<Text<u8>>,
    strict: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TcpAoSection {
    keys: Vec<AoKeySection>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AoKeySection {
    send_id: Text<u8>,
    receive_id: Text<u8>,
    #[serde(default)]
    algorithm: Option<Text<AoAlgorithm>>,
    secret: String,
    #[serde(default)]
    sign_options: Option<bool>,
}

impl TcpAoSection {
    fn into_keys(self) -> Result<Vec<AoKey>, Wrong> {
        if self.keys.is_empty() {
            return Err(("tcpAo", "expected at least one of `keys`".into()));
        }
        self.keys
            .into_iter()
            .map(|key| {
                Ok(AoKey {
                    send_id: key.send_id.0,
                    receive_id: key.receive_id.0,
                    algorithm: key
                        .algorithm
                        .map_or_else(AoAlgorithm::default, |text| text.0),
                    secret: secret("tcpAo.keys.secret", &key.secret)?,
                    sign_options: key.sign_options.unwrap_or(true),
                })
            })
            .collect()
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct GracefulRestartSection {
    restart_time: Option<Text<Seconds>>,
    stale_time: Option<Text<Seconds>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LongLivedSection {
    stale_time: Text<Seconds>,
    #[serde(default)]
    partial_deployment: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AddPathSendSection {
    mode: Text<MaybeAddPathSend>,
}

type MaximumPrefixesItem = ScalarOr<usize, MaximumPrefixesSection>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MaximumPrefixesSection {
    limit: Text<usize>,
    #[serde(default)]
    warning_only: bool,
    #[serde(default)]
    discard: bool,
    #[serde(default)]
    restart: Option<Text<Seconds>>,
}

impl MaximumPrefixesSection {
    fn into_limit(self) -> Result<MaximumPrefixes, Wrong> {
        let action = match (self.warning_only, self.discard, seconds(self.restart)) {
            (false, false, None) => LimitAction::Close,
            (false, false, Some(pause)) => LimitAction::Restart(pause),
            (true, false, None) => LimitAction::Warn,
            (false, true, None) => LimitAction::Discard,
            _ => {
                return Err((
                    "maximumPrefixes",
                    "expected at most one of `warningOnly`, `discard` and `restart`".into(),
                ));
            }
        };
        Ok(MaximumPrefixes {
            limit: self.limit.0,
            action,
        })
    }
}

/// Which field is wrong, and what would be right.
pub(super) type Wrong = (&'static str, String);

/// What peers take from the rest of the file.
struct Shared<'a> {
    /// Where files named relatively are.
    base: &'a Path,
    /// Those of the file, by name.
    policies: &'a Known,
    /// External peers without a policy are told nothing and believed nothing (RFC 8212). Off unless asked for, as in Calico.
    ebgp_requires_policy: bool,
}

impl PeerSection {
    fn into_peer(self, speaker: &SpeakerConfig, shared: &Shared<'_>) -> Result<PeerConfig, Wrong> {
        let base = shared.base;
        let interface = match (self.interface, self.address.as_ref()) {
            (None, Some(Text(PeerAddress { zone, .. }))) => zone.clone(),
            (interface, _) => interface,
        };
        let port = self.port.map_or(BGP_PORT, |port| port.0);
        if port == 0 {
            return Err(("port", "expected a port from 1 to 65535, found `0`".into()));
        }
        let remote = match (self.address, self.range) {
            (Some(address), None) => {
                Remote::Address(socket_address(&address.0, port, interface.as_deref())?)
            }
            (None, Some(range)) => {
                if self.port.is_some() {
                    return Err((
                        "port",
                        "expected no port beside `range`: a range is never dialled".into(),
                    ));
                }
                if interface.is_some() {
                    return Err((
                        "interface",
                        "expected no interface beside `range`; `device` binds to one".into(),
                    ));
                }
                Remote::Range(range.0)
            }
            (Some(_), Some(_)) => {
                return Err(("range", "expected `address` or `range`, found both".into()));
            }
            // Unnumbered: whoever is at the other end of the link.
            (None, None) if interface.is_some() => Remote::Unnumbered(port),
            (None, None) => {
                return Err((
                    "address",
                    "expected `address`, `range` or `interface`, found none of them".into(),
                ));
            }
        };
        let name = self.name.unwrap_or_else(|| match (remote, &interface) {
            (Remote::Unnumbered(_), Some(interface)) => interface.clone(),
            (Remote::Address(address), Some(interface)) => format!("{}%{interface}", address.ip()),
            (Remote::Address(address), None) if address.port() == BGP_PORT => {
                address.ip().to_string()
            }
            _ => remote.to_string(),
        });
        // RFC 8212 §2: where it is asked for, what nobody wrote a policy for passes in neither direction.
        let asn = self.asn.0;
        let ours = self.local_asn.map_or(speaker.asn, |asn| asn.0);
        let external = asn.is_external(ours);
        let unwritten = if shared.ebgp_requires_policy && external {
            Verdict::Reject
        } else {
            Verdict::Accept
        };
        let import = policy("import", self.import, unwritten, shared.policies)?;
        let export = policy("export", self.export, unwritten, shared.policies)?;
        let mut peer = PeerConfig::new(name, remote, asn, import, export);
        peer.families = self
            .families
            .map_or_else(|| speaker.families.clone(), distinct);
        if let Some(family) = peer
            .families
            .iter()
            .find(|family| !speaker.families.contains(family))
        {
            return Err((
                "families",
                format!("expected families of the speaker, found `{family}`"),
            ));
        }
        peer.local_asn = self.local_asn.map(|asn| asn.0);
        let local = self.local_address.map(|address| address.0);
        peer.local_address = match (local, remote) {
            (Some(local), Remote::Address(remote)) if local.is_ipv4() != remote.is_ipv4() => {
                return Err((
                    "localAddress",
                    format!(
                        "expected an address of the family of {}, found `{local}`",
                        remote.ip()
                    ),
                ));
            }
            (local, _) => local,
        };
        if let (Some(local), Remote::Unnumbered(_)) = (local, remote)
            && !matches!(local, IpAddr::V6(v6) if v6.is_unicast_link_local())
        {
            return Err((
                "localAddress",
                format!("expected a link-local address beside an unnumbered peer, found `{local}`"),
            ));
        }
        peer.interface = interface.map(Arc::from);
        peer.binding = binding(self.device, self.netns);
        peer.passive = self.passive || remote.is_range();
        peer.route_reflector_client = self.route_reflector_client;
        peer.cluster_id = self.cluster_id.map(|id| id.0);
        set(&mut peer.hold_time, self.hold_time.map(|time| time.0));
        set(
            &mut peer.minimum_hold_time,
            self.minimum_hold_time.map(|time| time.0),
        );
        peer.keepalive = seconds(self.keepalive);
        set(&mut peer.connect_retry, seconds(self.connect_retry));
        set(&mut peer.connect_retry_max, seconds(self.connect_retry_max));
        peer.delay_open = seconds(self.delay_open);
        set(&mut peer.idle_hold, seconds(self.idle_hold));
        set(&mut peer.idle_hold_max, seconds(self.idle_hold_max));
        peer.send_hold = seconds(self.send_hold);
        match self.graceful_restart {
            None | Some(ScalarOr::Scalar(true)) => {}
            Some(ScalarOr::Scalar(false)) => peer.graceful_restart = None,
            Some(ScalarOr::Section(section)) => {
                let mut graceful = GracefulRestart::default();
                set(&mut graceful.restart_time, seconds(section.restart_time));
                if graceful.restart_time > GracefulRestart::MAX_RESTART_TIME {
                    return Err(("restartTime", "expected at most 4095 seconds".into()));
                }
                // A helper that forgets before the peer may come back would defeat the point.
                graceful.stale_time = seconds(section.stale_time).unwrap_or_else(|| {
                    graceful
                        .stale_time
                        .max(graceful.restart_time.saturating_mul(3) / 2)
                });
                peer.graceful_restart = Some(graceful);
            }
        }
        peer.long_lived = self.long_lived.map(|section| LongLived {
            stale_time: section.stale_time.0.0,
            partial_deployment: section.partial_deployment,
        });
        peer.password = match (self.password, self.password_file) {
            (None, None) => None,
            (Some(password), None) => Some(secret("password", &password)?),
            (None, Some(file)) => {
                let file = base.join(file);
                let text = std::fs::read_to_string(&file).map_err(|error| {
                    (
                        "passwordFile",
                        format!("cannot read {}: {error}", file.display()),
                    )
                })?;
                Some(secret("passwordFile", text.trim_end_matches(['\n', '\r']))?)
            }
            (Some(_), Some(_)) => {
                return Err((
                    "passwordFile",
                    "expected `password` or `passwordFile`, found both".into(),
                ));
            }
        };
        if let Some(section) = self.tcp_ao {
            if peer.password.is_some() {
                return Err((
                    "tcpAo",
                    "expected `password` (TCP-MD5) or `tcpAo`, found both".into(),
                ));
            }
            peer.tcp_ao = section.into_keys()?;
        }
        peer.ttl_security = self.ttl_security.map(|hops| hops.0);
        if peer.ttl_security == Some(0) {
            return Err((
                "ttlSecurity",
                "expected the number of hops to the peer, from 1, found `0`".into(),
            ));
        }
        peer.ttl = self.ttl.map(|ttl| ttl.0);
        set(&mut peer.next_hop, self.next_hop.map(|mode| mode.0));
        peer.next_hop_address = self.next_hop_address.map(|address| address.0);
        peer.connected_subnets = self
            .connected_subnets
            .into_iter()
            .map(|subnet| subnet.0)
            .collect();
        set(
            &mut peer.allowed_local_as,
            self.allowed_local_as.map(|count| count.0),
        );
        peer.maximum_prefixes = match self.maximum_prefixes {
            None => None,
            Some(ScalarOr::Scalar(limit)) => Some(MaximumPrefixes {
                limit,
                action: LimitAction::Close,
            }),
            Some(ScalarOr::Section(section)) => Some(section.into_limit()?),
        };
        set(&mut peer.add_path_receive, self.add_path_receive);
        peer.add_path_send = self.add_path_send.and_then(|item| match item {
            ScalarOr::Scalar(mode) => mode.0,
            ScalarOr::Section(section) => section.mode.0.0,
        });
        set(&mut peer.extended_next_hop, self.extended_next_hop);
        set(&mut peer.enabled, self.enabled);
        set(&mut peer.enforce_first_as, self.enforce_first_as);
        set(&mut peer.allow_as_set, self.allow_as_set);
        set(&mut peer.strict_attributes, self.strict_attributes);
        set(&mut peer.afi_safi_disable, self.afi_safi_disable);
        peer.shutdown_text = self.shutdown_text;
        set(
            &mut peer.dynamic_limit,
            self.dynamic_limit.map(|limit| limit.0),
        );
        set(
            &mut peer.half_open_limit,
            self.half_open_limit.map(|limit| limit.0),
        );
        peer.role = self.role.map(|role| role.0);
        set(&mut peer.strict_role, self.strict_role);
        if peer.strict_role && peer.role.is_none() {
            return Err((
                "strictRole",
                "expected `role` beside it: what we are to the peer".into(),
            ));
        }
        if let Some(mode) = self.local_as_mode {
            if peer.local_asn.is_none() {
                return Err((
                    "localAsMode",
                    "expected `localAsn` beside it: the AS it is about".into(),
                ));
            }
            if mode.0 == LocalAsMode::DualAs && peer.remote.is_range() {
                return Err((
                    "localAsMode",
                    "expected another mode for a range: dualAs needs one neighbour".into(),
                ));
            }
            peer.local_as_mode = mode.0;
        }
        peer.link = self.link.map(Arc::from).or_else(|| peer.interface.clone());
        peer.remove_private_as = self.remove_private_as.map(|mode| mode.0);
        set(&mut peer.as_override, self.as_override);
        set(&mut peer.default_originate, self.default_originate);
        set(&mut peer.graceful_shutdown, self.graceful_shutdown);
        set(&mut peer.drain, self.drain);
        peer.bfd = self.bfd.and_then(|bfd| match bfd {
            ScalarOr::Scalar(text) => text.0,
            ScalarOr::Section(section) => {
                let mut bfd = Bfd::default();
                set(&mut bfd.min_tx, section.min_tx.map(|time| time.0.0));
                set(&mut bfd.min_rx, section.min_rx.map(|time| time.0.0));
                set(&mut bfd.multiplier, section.multiplier.map(|count| count.0));
                bfd.multihop = section.multihop.map(|hops| hops.0);
                bfd.strict = section.strict;
                Some(bfd)
            }
        });
        if let Some(bfd) = &peer.bfd {
            bfd.validate(&remote)
                .map_err(|error| ("bfd", error.to_string()))?;
        }
        contradiction(&peer)?;
        Ok(peer)
    }
}

/// Fields that are right by themselves and wrong together.
fn contradiction(peer: &PeerConfig) -> Result<(), Wrong> {
    let hold = peer.hold_time.duration();
    if peer.ttl.is_some() && peer.ttl_security.is_some() {
        return Err((
            "ttl",
            "expected no `ttl` beside `ttlSecurity`, which sends with 255".into(),
        ));
    }
    if let (Some(keepalive), Some(hold)) = (peer.keepalive, hold)
        && keepalive >= hold
    {
        return Err((
            "keepalive",
            format!(
                "expected less than the hold time of {} s, found {} s",
                hold.as_secs(),
                keepalive.as_secs()
            ),
        ));
    }
    if let (Some(minimum), Some(hold)) = (peer.minimum_hold_time.duration(), hold)
        && minimum > hold
    {
        return Err((
            "minimumHoldTime",
            format!(
                "expected at most the hold time of {} s, found {} s",
                hold.as_secs(),
                minimum.as_secs()
            ),
        ));
    }
    if peer.idle_hold > peer.idle_hold_max {
        return Err((
            "idleHold",
            format!(
                "expected at most `idleHoldMax`, {} s, found {} s",
                peer.idle_hold_max.as_secs(),
                peer.idle_hold.as_secs()
            ),
        ));
    }
    if peer.long_lived.is_some() && peer.graceful_restart.is_none() {
        return Err((
            "longLived",
            "expected no `longLived` without `gracefulRestart`, which it continues".into(),
        ));
    }
    Ok(())
}

fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

fn seconds(value: Option<Text<Seconds>>) -> Option<Duration> {
    value.map(|value| value.0.0)
}

fn secret(field: &'static str, text: &str) -> Result<Secret, Wrong> {
    // The password itself stays out of the message.
    Secret::new(text).map_err(|error| (field, error.to_string()))
}

fn distinct(families: Vec<Text<Family>>) -> Vec<Family> {
    families
        .into_iter()
        .map(|family| family.0)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// The transport gives a link-local address the scope of its interface, which may not be there yet.
fn socket_address(
    address: &PeerAddress,
    port: u16,
    interface: Option<&str>,
) -> Result<SocketAddr, Wrong> {
    let link_local = matches!(address.ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    match (interface, link_local, &address.zone) {
        (Some(interface), true, Some(zone)) if interface != zone => Err((
            "interface",
            format!("expected the interface of the address, `{zone}`, found `{interface}`"),
        )),
        (Some(_), true, _) | (None, false, _) => Ok(SocketAddr::new(address.ip, port)),
        (None, true, _) => Err((
            "interface",
            format!(
                "expected the interface of the link-local address {}",
                address.ip
            ),
        )),
        (Some(_), false, _) => Err((
            "interface",
            "expected only beside a link-local address, or without `address`".into(),
        )),
    }
}

#[cfg(test)]
mod tests;
