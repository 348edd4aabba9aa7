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
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
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
    AddPathSend, Aggregate, AoAlgorithm, AoKey, BGP_PORT, Bfd, Binding, GracefulRestart, HoldTime,
    LimitAction, Listen, LocalAsMode, LongLived, MaximumPrefixes, NextHopMode, Originate, PeerAs,
    PeerConfig, Remote, RemovePrivateAs, Secret, SpeakerConfig,
};
use serde::Deserialize;
use serde::de::Error as _;

use super::ConfigError;
use super::policy::{Known, NamedPolicy, PolicySection, policy};
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

/// Sets one field of a peer from an annotation `margay.io/<field>`: the names of this file, for what Calico's API has no field.
///
/// # Errors
/// The value is not what the field takes, or there is no such field for annotations.
pub fn annotate(peer: &mut PeerConfig, field: &str, text: &str) -> Result<(), String> {
    match field {
        "holdTime" => peer.hold_time = value(text)?,
        "minimumHoldTime" => peer.minimum_hold_time = value(text)?,
        "connectRetry" => peer.connect_retry = value::<Seconds>(text)?.0,
        "connectRetryMax" => peer.connect_retry_max = value::<Seconds>(text)?.0,
        "delayOpen" => peer.delay_open = Some(value::<Seconds>(text)?.0),
        "enforceFirstAs" => peer.enforce_first_as = value(text)?,
        "allowAsSet" => peer.allow_as_set = value(text)?,
        "strictAttributes" => peer.strict_attributes = value(text)?,
        "afiSafiDisable" => peer.afi_safi_disable = value(text)?,
        "idleHold" => peer.idle_hold = value::<Seconds>(text)?.0,
        "idleHoldMax" => peer.idle_hold_max = value::<Seconds>(text)?.0,
        "sendHold" => peer.send_hold = Some(value::<Seconds>(text)?.0),
        "longLived" => {
            peer.long_lived = Some(LongLived {
                stale_time: value::<Seconds>(text)?.0,
                partial_deployment: peer
                    .long_lived
                    .is_some_and(|long_lived| long_lived.partial_deployment),
            })
        }
        "maximumPrefixes" => {
            let (limit, action) = text.split_once(',').unwrap_or((text, ""));
            let action = match action.trim().split_once('=') {
                Some(("restart", pause)) => LimitAction::Restart(value::<Seconds>(pause)?.0),
                None if action.trim().is_empty() => LimitAction::Close,
                None if action.trim() == "warn" => LimitAction::Warn,
                None if action.trim() == "discard" => LimitAction::Discard,
                _ => {
                    return Err(format!(
                        "expected a number, or one with `,warn`, `,discard` or `,restart=SECONDS` behind it, found `{text}`"
                    ));
                }
            };
            peer.maximum_prefixes = Some(MaximumPrefixes {
                limit: value(limit)?,
                action,
            });
        }
        "longLivedPartialDeployment" => {
            // Says nothing of how long: a time of zero keeps none of the peer's own routes.
            let stale_time = peer
                .long_lived
                .map_or(Duration::ZERO, |long_lived| long_lived.stale_time);
            peer.long_lived = Some(LongLived {
                stale_time,
                partial_deployment: value(text)?,
            });
        }
        "addPathReceive" => peer.add_path_receive = value(text)?,
        "addPathSend" => peer.add_path_send = value::<MaybeAddPathSend>(text)?.0,
        "extendedNextHop" => peer.extended_next_hop = value(text)?,
        "ttl" => peer.ttl = Some(value(text)?),
        "enabled" => peer.enabled = value(text)?,
        "shutdownText" => peer.shutdown_text = Some(text.to_owned()),
        "nextHop" => peer.next_hop = value(text)?,
        "role" => peer.role = Some(value(text)?),
        "strictRole" => peer.strict_role = value(text)?,
        "localAsMode" => peer.local_as_mode = value(text)?,
        "removePrivateAs" => peer.remove_private_as = Some(value(text)?),
        "asOverride" => peer.as_override = value(text)?,
        "defaultOriginate" => peer.default_originate = value(text)?,
        "gracefulShutdown" => peer.graceful_shutdown = value(text)?,
        "drain" => peer.drain = value(text)?,
        "bfd" => {
            let bfd = value::<BfdText>(text)?.0;
            if let Some(bfd) = &bfd {
                bfd.validate(&peer.remote)
                    .map_err(|error| error.to_string())?;
            }
            peer.bfd = bfd;
        }
        _ => {
            return Err("expected one of families, holdTime, minimumHoldTime, connectRetry, connectRetryMax, delayOpen, idleHold, idleHoldMax, sendHold, longLived, \
                longLivedPartialDeployment, maximumPrefixes, addPathReceive, addPathSend, extendedNextHop, ttl, enabled, shutdownText, nextHop, enforceFirstAs, strictAttributes, afiSafiDisable, \
                allowAsSet, role, strictRole, localAsMode, removePrivateAs, asOverride, defaultOriginate, gracefulShutdown, drain, bfd"
                .into());
        }
    }
    Ok(())
}

/// What of the speaker itself, not of a session, annotations of the BGPConfiguration may set.
pub const SPEAKER_FIELDS: [&str; 11] = [
    "maximumPaths",
    "multipathRelax",
    "alwaysCompareMed",
    "missingMedAsWorst",
    "preferOldestExternal",
    "weightedMultipath",
    "nextHopTracking",
    "resolveViaDefault",
    "clientToClient",
    "drain",
    "ebgpRequiresPolicy",
];

/// Sets one of [`SPEAKER_FIELDS`] from an annotation `margay.io/<field>`.
///
/// # Errors
/// The value is not what the field takes, or there is no such field.
pub fn annotate_speaker(
    speaker: &mut SpeakerConfig,
    field: &str,
    text: &str,
) -> Result<(), String> {
    match field {
        "maximumPaths" => speaker.maximum_paths = value::<usize>(text)?.max(1),
        "multipathRelax" => speaker.multipath_relax = value(text)?,
        "alwaysCompareMed" => speaker.always_compare_med = value(text)?,
        "missingMedAsWorst" => speaker.missing_med_as_worst = value(text)?,
        "preferOldestExternal" => speaker.prefer_oldest_external = value(text)?,
        "weightedMultipath" => speaker.weighted_multipath = value(text)?,
        "nextHopTracking" => speaker.next_hop_tracking = value(text)?,
        "resolveViaDefault" => speaker.resolve_via_default = value(text)?,
        "clientToClient" => speaker.client_to_client = value(text)?,
        "drain" => speaker.drain = value(text)?,
        // It is about what peers without policy are given: see `requires_policy`.
        "ebgpRequiresPolicy" => drop(value::<bool>(text)?),
        _ => return Err(format!("expected one of {}", SPEAKER_FIELDS.join(", "))),
    }
    Ok(())
}

/// Whether annotations ask for RFC 8212: sessions between ASs carry nothing that no filter speaks of.
#[must_use]
pub fn requires_policy(annotations: &BTreeMap<String, String>) -> bool {
    annotations
        .get("ebgpRequiresPolicy")
        .is_some_and(|text| value(text) == Ok(true))
}

fn value<T: FromText>(text: &str) -> Result<T, String> {
    T::from_text(text.trim()).ok_or_else(|| format!("expected {}, found `{text}`", T::WANTED))
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

/// A scalar of the file that a type of ours is read from. YAML's own idea of its type (`1.10` a float, `no` a truth value) is not asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<T>(pub(super) T);

/// What can be read from a scalar, and how to say what was expected.
pub(super) trait FromText: Sized {
    /// Completes "expected …".
    const WANTED: &'static str;
    fn from_text(text: &str) -> Option<Self>;
}

impl<'de, T: FromText> Deserialize<'de> for Text<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        T::from_text(text.trim())
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("expected {}, found `{text}`", T::WANTED)))
    }
}

/// A scalar, or a mapping with the details. An untagged enum could say only that neither fits.
pub(super) enum ScalarOr<T, M> {
    Scalar(T),
    Section(M),
}

impl<'de, T: FromText, M: Deserialize<'de>> Deserialize<'de> for ScalarOr<T, M> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarOrVisitor(PhantomData))
    }
}

struct ScalarOrVisitor<T, M>(PhantomData<(T, M)>);

impl<T: FromText, M> ScalarOrVisitor<T, M> {
    fn scalar<E: serde::de::Error>(text: &str) -> Result<ScalarOr<T, M>, E> {
        T::from_text(text.trim())
            .map(ScalarOr::Scalar)
            .ok_or_else(|| {
                E::custom(format!(
                    "expected {} or a mapping, found `{text}`",
                    T::WANTED
                ))
            })
    }
}

impl<'de, T: FromText, M: Deserialize<'de>> serde::de::Visitor<'de> for ScalarOrVisitor<T, M> {
    type Value = ScalarOr<T, M>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} or a mapping", T::WANTED)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Self::scalar(text)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
        Self::scalar(&value.to_string())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        Self::scalar(&value.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        Self::scalar(&value.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
        Self::scalar(&value.to_string())
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        M::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(ScalarOr::Section)
    }
}

macro_rules! from_text {
    ($($type:ty: $wanted:literal),+ $(,)?) => {$(
        impl FromText for $type {
            const WANTED: &'static str = $wanted;
            fn from_text(text: &str) -> Option<Self> {
                Self::from_str(text).ok()
            }
        }
    )+};
}

from_text! {
    Asn: "an AS number (64512 or 1.10)",
    Family: "ipv4-unicast or ipv6-unicast",
    Prefix: "a prefix (10.0.0.0/8 or fd00::/48)",
    IpAddr: "an IP address",
    Community: "a community (64512:1)",
    LargeCommunity: "a large community (64512:1:2)",
    u8: "a number from 0 to 255",
    u16: "a number from 0 to 65535",
    u32: "a number from 0 to 4294967295",
    usize: "a number",
    bool: "true or false",
    RouterId: "four octets that are not all zero (10.100.0.1)",
}

impl FromText for HoldTime {
    const WANTED: &'static str = "a hold time in seconds: 0, or 3 to 65535";
    fn from_text(text: &str) -> Option<Self> {
        Self::from_secs(u16::try_from(Seconds::from_text(text)?.0.as_secs()).ok()?)
    }
}

impl FromText for PeerAs {
    const WANTED: &'static str =
        "an AS number (64512 or 1.10), several with commas between, internal, external or any";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "internal" => Some(Self::Internal),
            "external" => Some(Self::External),
            "any" => Some(Self::Any),
            // Text, not a YAML list: 1.10 in one would be the number 1.1.
            _ if text.contains(',') => text
                .split(',')
                .map(|asn| Asn::from_str(asn.trim()).ok())
                .collect::<Option<_>>()
                .map(Self::OneOf),
            _ => Asn::from_str(text).ok().map(Self::Fixed),
        }
    }
}

impl FromText for AoAlgorithm {
    const WANTED: &'static str = "hmac-sha1, cmac-aes128 or hmac-sha256";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "hmac-sha1" => Some(Self::HmacSha1),
            "cmac-aes128" => Some(Self::CmacAes128),
            "hmac-sha256" => Some(Self::HmacSha256),
            _ => None,
        }
    }
}

/// An address, a link-local one with its interface behind a percent sign.
#[derive(Clone, Debug)]
struct PeerAddress {
    ip: IpAddr,
    zone: Option<String>,
}

impl FromText for PeerAddress {
    const WANTED: &'static str = "an IP address (10.0.0.1, fd00::1 or fe80::1%eth0)";
    fn from_text(text: &str) -> Option<Self> {
        let (ip, zone) = match text.split_once('%') {
            Some((_, "")) => return None,
            Some((ip, zone)) => (ip, Some(zone.to_owned())),
            None => (text, None),
        };
        let ip = ip.parse().ok()?;
        Some(Self { ip, zone })
    }
}

impl FromText for NextHopMode {
    const WANTED: &'static str = "auto, self, forceSelf or keep";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "auto" | "Auto" => Some(Self::Auto),
            "self" | "Self" => Some(Self::SelfAddress),
            "forceSelf" | "ForceSelf" => Some(Self::ForceSelf),
            "keep" | "Keep" => Some(Self::Keep),
            _ => None,
        }
    }
}

impl FromText for Role {
    const WANTED: &'static str = "provider, customer, peer, routeServer or routeServerClient";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "provider" => Some(Self::Provider),
            "customer" => Some(Self::Customer),
            "peer" => Some(Self::Peer),
            "routeServer" => Some(Self::RouteServer),
            "routeServerClient" => Some(Self::RouteServerClient),
            _ => None,
        }
    }
}

impl FromText for LocalAsMode {
    const WANTED: &'static str = "session, prepend, noPrepend, replaceAs or dualAs";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "session" => Some(Self::Session),
            "prepend" => Some(Self::Prepend),
            "noPrepend" => Some(Self::NoPrepend),
            "replaceAs" => Some(Self::ReplaceAs),
            "dualAs" => Some(Self::DualAs),
            _ => None,
        }
    }
}

impl FromText for RemovePrivateAs {
    const WANTED: &'static str = "ifAllPrivate, all or replace";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "ifAllPrivate" => Some(Self::IfAllPrivate),
            "all" => Some(Self::All),
            "replace" => Some(Self::Replace),
            _ => None,
        }
    }
}

/// Which paths a peer is told; nothing for the best one alone.
struct MaybeAddPathSend(Option<AddPathSend>);

impl FromText for MaybeAddPathSend {
    const WANTED: &'static str = "all, best N (best 4; 1 to 255), or false";
    fn from_text(text: &str) -> Option<Self> {
        Some(Self(match text {
            "all" | "true" => Some(AddPathSend::All),
            "false" => None,
            _ => Some(AddPathSend::Best(
                text.strip_prefix("best ")?.trim().parse().ok()?,
            )),
        }))
    }
}

impl FromText for Verdict {
    const WANTED: &'static str = "accept or reject";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "accept" => Some(Self::Accept),
            "reject" => Some(Self::Reject),
            _ => None,
        }
    }
}

/// `ADDRESS:PORT`, or an address for the port of BGP.
#[derive(Clone, Copy, Debug)]
struct ListenAddress(SocketAddr);

impl FromText for ListenAddress {
    const WANTED: &'static str = "ADDRESS:PORT ([::]:179) or an address";
    fn from_text(text: &str) -> Option<Self> {
        text.parse::<SocketAddr>()
            .ok()
            .or_else(|| {
                text.parse::<IpAddr>()
                    .ok()
                    .map(|address| SocketAddr::new(address, BGP_PORT))
            })
            .map(Self)
    }
}

/// A duration.
#[derive(Clone, Copy, Debug)]
struct Seconds(Duration);

impl FromText for Seconds {
    const WANTED: &'static str = "a duration (120, 120s, 2m, 500ms)";
    fn from_text(text: &str) -> Option<Self> {
        let split = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let number: u64 = number.parse().ok()?;
        Some(Self(match unit {
            "" | "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            _ => return None,
        }))
    }
}

/// A duration of BFD, whose unit is the millisecond.
#[derive(Clone, Copy, Debug)]
struct Milliseconds(Duration);

impl FromText for Milliseconds {
    const WANTED: &'static str = "milliseconds (100, 100ms, 1s)";
    fn from_text(text: &str) -> Option<Self> {
        match text.parse() {
            Ok(number) => Some(Self(Duration::from_millis(number))),
            Err(_) => Some(Self(Seconds::from_text(text)?.0)),
        }
    }
}

/// BFD in one line; nothing where it is turned off.
#[derive(Clone, Copy, Debug)]
struct BfdText(Option<Bfd>);

impl FromText for BfdText {
    const WANTED: &'static str =
        "true, false, or settings such as minTx=100,minRx=100,multiplier=3,multihop=2,strict=true";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "true" => return Some(Self(Some(Bfd::default()))),
            "false" => return Some(Self(None)),
            _ => {}
        }
        let mut bfd = Bfd::default();
        for setting in text.split(',') {
            let (field, value) = setting.split_once('=')?;
            let value = value.trim();
            match field.trim() {
                "minTx" => bfd.min_tx = Milliseconds::from_text(value)?.0,
                "minRx" => bfd.min_rx = Milliseconds::from_text(value)?.0,
                "multiplier" => bfd.multiplier = value.parse().ok()?,
                "multihop" => bfd.multihop = Some(value.parse().ok()?),
                "strict" => bfd.strict = value.parse().ok()?,
                _ => return None,
            }
        }
        Some(Self(Some(bfd)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "asn: 64512\nrouterId: 10.100.0.1\n";

    fn ok(text: &str) -> SpeakerFile {
        parse(Path::new("speaker.yaml"), text).expect("a good file")
    }

    fn mistake(text: &str) -> String {
        parse(Path::new("speaker.yaml"), text)
            .expect_err("a bad file")
            .to_string()
    }

    #[test]
    fn the_documented_example_is_read() {
        let file = ok(
            "asn: 64512\nrouterId: 10.100.0.1\nlisten: [\"10.100.0.1:179\"]\nclusterId: 10.100.0.1\n\
            kernel: { install: false }\nfamilies: [ipv4-unicast, ipv6-unicast]\noriginate: []\npeers:\n  - name: clients\n    \
            range: 10.100.128.0/17\n    asn: 64512\n    routeReflectorClient: true\n    passive: true\n",
        );
        assert_eq!(
            file.speaker.listen,
            ["10.100.0.1:179"
                .parse::<SocketAddr>()
                .expect("address")
                .into()]
        );
        let [peer] = file.speaker.peers.as_slice() else {
            panic!("one peer")
        };
        assert_eq!(
            peer.remote,
            Remote::Range("10.100.128.0/17".parse().expect("prefix"))
        );
        assert!(peer.route_reflector_client && peer.passive);
        assert!(!file.kernel.install);
    }

    #[test]
    fn a_wrong_value_names_line_field_and_what_would_be_right() {
        assert_eq!(
            mistake("asn: many\nrouterId: 10.0.0.1\n"),
            "speaker.yaml:1:6: field `asn`: expected an AS number (64512 or 1.10), found `many`"
        );
        assert_eq!(
            mistake("asn: 1\nrouterId: 0.0.0.0\n"),
            "speaker.yaml:2:11: field `routerId`: expected four octets that are not all zero (10.100.0.1), found `0.0.0.0`"
        );
    }

    #[test]
    fn an_unknown_field_is_a_mistake() {
        let text = mistake(&format!(
            "{HEAD}peers:\n  - address: 10.0.0.1\n    asn: 1\n    holdtime: 3\n"
        ));
        assert!(
            text == "speaker.yaml:6:5: field `peers[0].holdtime`: unknown field `holdtime`, expected `holdTime`",
            "{text}"
        );
    }

    #[test]
    fn a_peer_needs_an_address_or_a_range() {
        let text = mistake(&format!("{HEAD}peers:\n  - name: x\n    asn: 1\n"));
        assert_eq!(
            text,
            "speaker.yaml:4:5: field `peers[0]`: expected `address`, `range` or `interface`, found none of them"
        );
    }

    fn peers(text: &str) -> Vec<PeerConfig> {
        ok(&format!("{HEAD}peers:\n{text}")).speaker.peers
    }

    #[test]
    fn a_neighbour_may_be_whoever_is_on_a_link() {
        let found = peers(
            "  - { interface: eth0, asn: external }\n  - { interface: eth1, asn: internal, port: 1790 }\n",
        );
        assert_eq!(found[0].name, "eth0");
        assert_eq!(found[0].remote, Remote::Unnumbered(179));
        assert_eq!(found[0].interface.as_deref(), Some("eth0"));
        assert_eq!(found[0].asn, PeerAs::External);
        assert!(found[0].extended_next_hop);
        assert_eq!(
            (&found[1].asn, found[1].remote),
            (&PeerAs::Internal, Remote::Unnumbered(1790))
        );
    }

    #[test]
    fn a_link_local_address_names_its_interface_which_need_not_be_there_yet() {
        let found = peers(
            "  - { address: fe80::1%nodev0, asn: 1 }\n  - { address: fe80::1, interface: nodev1, asn: 1 }\n",
        );
        assert_eq!(found[0].name, "fe80::1%nodev0");
        assert_eq!(found[0].interface.as_deref(), Some("nodev0"));
        assert_eq!(found[1].interface.as_deref(), Some("nodev1"));
        let text = mistake(&format!(
            "{HEAD}peers:\n  - {{ address: fe80::1, asn: 1 }}\n"
        ));
        assert!(
            text.contains("expected the interface of the link-local address fe80::1"),
            "{text}"
        );
        let text = mistake(&format!(
            "{HEAD}peers:\n  - {{ address: fd00::1, interface: eth0, asn: 1 }}\n"
        ));
        assert!(
            text.contains("expected only beside a link-local address"),
            "{text}"
        );
    }

    #[test]
    fn an_as_may_be_of_a_kind_or_one_of_several() {
        let found = peers(
            "  - { address: 10.0.0.1, asn: any }\n  - { range: 10.1.0.0/16, asn: \"64601, 1.10\" }\n  - { address: 10.0.0.2, asn: 64601 }\n",
        );
        assert_eq!(found[0].asn, PeerAs::Any);
        assert_eq!(found[1].asn, PeerAs::OneOf(vec![Asn(64601), Asn(65546)]));
        assert_eq!(found[2].asn, PeerAs::Fixed(Asn(64601)));
        let text = mistake(&format!(
            "{HEAD}peers:\n  - address: 10.0.0.1\n    asn: foreign\n"
        ));
        assert!(text.contains("`peers[0].asn`"), "{text}");
        assert!(text.contains("internal, external or any"), "{text}");
    }

    #[test]
    fn sockets_may_be_in_a_namespace_and_on_a_device() {
        let file = ok(&format!(
            "{HEAD}listen:\n  - 10.0.0.9\n  - {{ address: \"10.0.0.9:1790\", device: vrf-red, netns: /run/netns/x }}\npeers:\n  \
             - {{ address: 10.0.0.1, asn: 1, device: vrf-red, netns: /run/netns/x }}\n"
        ));
        assert_eq!(file.speaker.listen[0].binding, Binding::default());
        assert_eq!(
            file.speaker.listen[1].binding,
            file.speaker.peers[0].binding
        );
        assert_eq!(
            file.speaker.listen[1].binding.device.as_deref(),
            Some("vrf-red")
        );
    }

    #[test]
    fn tcp_ao_keys_are_read_and_exclude_a_password() {
        let ao = "tcpAo: { keys: [{ sendId: 1, receiveId: 2, algorithm: cmac-aes128, secret: hunter2 }] }";
        let found = peers(&format!("  - {{ address: 10.0.0.1, asn: 1, {ao} }}\n"));
        let [key] = found[0].tcp_ao.as_slice() else {
            panic!("one key")
        };
        assert_eq!(
            (key.send_id, key.receive_id, key.algorithm),
            (1, 2, AoAlgorithm::CmacAes128)
        );
        assert!(key.sign_options);
        let text = mistake(&format!(
            "{HEAD}peers:\n  - {{ address: 10.0.0.1, asn: 1, password: x, {ao} }}\n"
        ));
        assert!(
            text.contains("expected `password` (TCP-MD5) or `tcpAo`, found both"),
            "{text}"
        );
        let twice = ao.replace("}] }", "}, { sendId: 1, receiveId: 3, secret: x }] }");
        let text = mistake(&format!(
            "{HEAD}peers:\n  - {{ address: 10.0.0.1, asn: 1, {twice} }}\n"
        ));
        assert!(
            text.contains("two TCP-AO keys of peer 10.0.0.1 have the id 1"),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn two_peers_of_one_name_are_a_mistake() {
        let text = mistake(&format!(
            "{HEAD}peers:\n  - {{ name: x, address: 10.0.0.1, asn: 1 }}\n  - {{ name: x, address: 10.0.0.2, asn: 1 }}\n"
        ));
        assert_eq!(
            text,
            "speaker.yaml:5:13: field `peers[1].name`: expected a name of its own, found `x` again"
        );
    }

    #[test]
    fn a_password_never_shows() {
        let text = mistake(&format!(
            "{HEAD}peers:\n  - {{ address: 10.0.0.1, asn: 1, password: \"{}\" }}\n",
            "hunter2".repeat(20)
        ));
        assert!(!text.contains("hunter2"), "{text}");
        let file = ok(&format!(
            "{HEAD}peers:\n  - {{ address: 10.0.0.1, asn: 1, password: hunter2 }}\n"
        ));
        assert!(!format!("{file:?}").contains("hunter2"));
    }

    #[test]
    fn every_peer_field_has_a_name_in_the_file() {
        let file = ok(&format!(
            "{HEAD}peers:\n- name: p\n  address: fd00::1\n  port: 1790\n  asn: 1.10\n  localAsn: 65000\n  localAddress: fd00::2\n  \
             passive: true\n  routeReflectorClient: true\n  clusterId: 1.1.1.1\n  families: [ipv6-unicast]\n  holdTime: 9\n  \
             minimumHoldTime: 3\n  keepalive: 3\n  connectRetry: 500ms\n  idleHold: 1\n  idleHoldMax: 2m\n  sendHold: 480\n  \
             gracefulRestart: {{ restartTime: 60, staleTime: 90 }}\n  longLived: {{ staleTime: 1h, partialDeployment: true }}\n  password: k\n  ttlSecurity: 1\n  \
             nextHop: self\n  connectedSubnets: [fd00::/64]\n  nextHopAddress: 10.0.0.1\n  allowedLocalAs: 1\n  import: {{ reject: [10.0.0.0/8] }}\n  \
             export: reject\n  maximumPrefixes: {{ limit: 10, discard: true }}\n  connectRetryMax: 1m\n  \
             delayOpen: 2\n  strictAttributes: true\n  afiSafiDisable: true\n  addPathReceive: false\n  \
             addPathSend: {{ mode: best 2 }}\n  extendedNextHop: false\n  enabled: false\n  shutdownText: bye\n  dynamicLimit: 7\n  halfOpenLimit: 5\n  \
             bfd: {{ minTx: 100, minRx: 50ms, multiplier: 4, multihop: 2, strict: true }}\n"
        ));
        let [peer] = file.speaker.peers.as_slice() else {
            panic!("one peer")
        };
        assert_eq!(peer.asn, Asn::from(65546));
        assert_eq!(peer.keepalive, Some(Duration::from_secs(3)));
        assert_eq!(peer.connect_retry, Duration::from_millis(500));
        assert_eq!(peer.next_hop, NextHopMode::SelfAddress);
        assert_eq!(peer.export.default, Verdict::Reject);
        let limit = MaximumPrefixes {
            limit: 10,
            action: LimitAction::Discard,
        };
        assert_eq!(peer.maximum_prefixes, Some(limit));
        assert_eq!(peer.connect_retry_max, Duration::from_secs(60));
        assert_eq!(peer.delay_open, Some(Duration::from_secs(2)));
        assert!(peer.strict_attributes && peer.afi_safi_disable);
        assert_eq!((peer.dynamic_limit, peer.half_open_limit), (7, 5));
        let two = 2.try_into().expect("not zero");
        assert_eq!(peer.add_path_send, Some(AddPathSend::Best(two)));
        assert!(
            peer.long_lived
                .is_some_and(|long_lived| long_lived.partial_deployment)
        );
        assert!(!peer.enabled);
        let bfd = Bfd {
            min_tx: Duration::from_millis(100),
            min_rx: Duration::from_millis(50),
            multiplier: 4,
            multihop: Some(2),
            strict: true,
        };
        assert_eq!(peer.bfd, Some(bfd));
    }

    fn bfd(text: &str) -> Option<Bfd> {
        let file = ok(&format!(
            "{HEAD}peers:\n  - {{ address: 10.0.0.1, asn: 1, bfd: {text} }}\n"
        ));
        file.speaker.peers.first().expect("one peer").bfd
    }

    #[test]
    fn bfd_is_a_switch_a_mapping_or_one_text() {
        assert_eq!(bfd("true"), Some(Bfd::default()));
        assert_eq!(bfd("false"), None);
        let fast = Bfd {
            min_tx: Duration::from_millis(100),
            ..Bfd::default()
        };
        assert_eq!(bfd("{ minTx: 100 }"), Some(fast));
        assert_eq!(bfd("\"minTx=100\""), Some(fast));
    }

    #[test]
    fn a_mistake_in_bfd_says_what_would_be_right() {
        let peer = |bfd: &str| {
            mistake(&format!(
                "{HEAD}peers:\n  - address: 10.0.0.1\n    asn: 1\n    bfd: {bfd}\n"
            ))
        };
        let text = peer("{ minTx: 5 }");
        assert!(
            text.contains("field `peers[0].bfd`: expected minTx from 10 ms to 60 s, found 5ms"),
            "{text}"
        );
        let text = peer("{ multiplier: 0 }");
        assert!(
            text.contains("expected multiplier from 1 to 255, found 0"),
            "{text}"
        );
        let text = peer("sometimes");
        assert!(
            text.contains("minTx=100,minRx=100,multiplier=3") && text.contains("`sometimes`"),
            "{text}"
        );
        let text = mistake(&format!(
            "{HEAD}peers:\n  - {{ name: x, range: 10.0.0.0/8, asn: 1, bfd: {{ strict: true }} }}\n"
        ));
        assert!(
            text.contains("expected strict only beside an address"),
            "{text}"
        );
    }

    #[test]
    fn an_annotation_sets_bfd() {
        let mut file = ok(&format!(
            "{HEAD}peers:\n  - {{ address: 10.0.0.1, asn: 1 }}\n"
        ));
        let peer = file.speaker.peers.first_mut().expect("one peer");
        annotate(peer, "bfd", "minTx=100, minRx=100, multiplier=5").expect("good");
        let bfd = peer.bfd.expect("on");
        assert_eq!(
            (bfd.min_tx, bfd.min_rx, bfd.multiplier),
            (Duration::from_millis(100), Duration::from_millis(100), 5)
        );
        annotate(peer, "bfd", "false").expect("good");
        assert_eq!(peer.bfd, None);
        assert!(
            annotate(peer, "bfd", "minTx=1")
                .expect_err("too fast")
                .contains("from 10 ms")
        );
        // One that is refused would have the whole configuration refused with it.
        assert_eq!(peer.bfd, None);
    }

    #[test]
    fn an_annotation_sets_a_limit_and_what_happens_beyond_it() {
        let mut file = ok(&format!(
            "{HEAD}peers:\n  - {{ address: 10.0.0.1, asn: 1 }}\n"
        ));
        let peer = file.speaker.peers.first_mut().expect("one peer");
        for (text, action) in [
            ("500", LimitAction::Close),
            ("500,warn", LimitAction::Warn),
            ("500, discard", LimitAction::Discard),
            (
                "500,restart=60",
                LimitAction::Restart(Duration::from_secs(60)),
            ),
        ] {
            annotate(peer, "maximumPrefixes", text).expect(text);
            assert_eq!(
                peer.maximum_prefixes,
                Some(MaximumPrefixes { limit: 500, action }),
                "{text}"
            );
        }
        for wrong in ["many", "500,forget", "500,restart"] {
            assert!(annotate(peer, "maximumPrefixes", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn add_path_send_is_all_best_n_or_nothing() {
        let send = |text: &str| {
            let file = ok(&format!(
                "{HEAD}peers:\n  - {{ address: 10.0.0.1, asn: 1, addPathSend: {text} }}\n"
            ));
            file.speaker.peers[0].add_path_send
        };
        assert_eq!(send("true"), Some(AddPathSend::All));
        assert_eq!(send("all"), Some(AddPathSend::All));
        assert_eq!(send("{ mode: all }"), Some(AddPathSend::All));
        assert_eq!(send("false"), None);
        for wrong in ["best 0", "best 256", "some", "{ mode: best }"] {
            let text = mistake(&format!(
                "{HEAD}peers:\n  - {{ address: 10.0.0.1, asn: 1, addPathSend: {wrong} }}\n"
            ));
            assert!(text.contains("expected all, best N"), "{text}");
        }
    }

    #[test]
    fn options_of_the_decision_are_read_and_tracking_follows_the_kernel() {
        let file = ok(&format!(
            "{HEAD}alwaysCompareMed: true\nmissingMedAsWorst: true\npreferOldestExternal: true\nweightedMultipath: true\n\
             resolveViaDefault: false\nkernel: {{ install: true }}\n"
        ));
        let speaker = &file.speaker;
        assert!(speaker.always_compare_med && speaker.missing_med_as_worst);
        assert!(speaker.prefer_oldest_external && speaker.weighted_multipath);
        assert!(speaker.next_hop_tracking && !speaker.resolve_via_default);
        assert!(!ok(HEAD).speaker.next_hop_tracking);
        let text = mistake(&format!("{HEAD}nextHopTracking: true\n"));
        assert!(
            text.contains("field `nextHopTracking`: expected `false`"),
            "{text}"
        );
    }
}
