//! The peers of the file.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use margay_bgp::codec::Role;
use margay_bgp::family::Family;
use margay_bgp::policy::Verdict;
use margay_bgp::prefix::Prefix;
use margay_bgp::router_id::RouterId;
use margay_bgp::speaker::config::{
    AoAlgorithm, AoKey, BGP_PORT, Bfd, GracefulRestart, HoldTime, LimitAction, LocalAsMode,
    LongLived, MaximumPrefixes, NextHopMode, PeerAs, PeerConfig, Remote, RemovePrivateAs, Secret,
    SpeakerConfig,
};
use serde::Deserialize;

use super::parts::binding;
use super::{distinct, set};
use crate::config::policy::{Known, PolicySection, policy};
use crate::config::scalar::{
    BfdText, Count, Hidden, LongLivedTime, MaybeAddPathSend, Milliseconds, Multihop, OfASecond,
    OneTo255, Pause, PeerAddress, Port, RestartTime, ScalarOr, Seconds, SpeakersAs, Text,
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PeerSection {
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
    port: Option<Text<Port>>,
    #[serde(default)]
    range: Option<Text<Prefix>>,
    asn: Text<PeerAs>,
    #[serde(default)]
    local_asn: Option<Text<SpeakersAs>>,
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
    keepalive: Option<Text<OfASecond>>,
    #[serde(default)]
    connect_retry: Option<Text<Pause>>,
    #[serde(default)]
    connect_retry_max: Option<Text<Pause>>,
    #[serde(default)]
    delay_open: Option<Text<Seconds>>,
    #[serde(default)]
    idle_hold: Option<Text<Pause>>,
    #[serde(default)]
    idle_hold_max: Option<Text<Pause>>,
    #[serde(default)]
    send_hold: Option<Text<Seconds>>,
    #[serde(default)]
    graceful_restart: Option<ScalarOr<bool, GracefulRestartSection>>,
    #[serde(default)]
    long_lived: Option<LongLivedSection>,
    #[serde(default)]
    password: Option<Hidden>,
    #[serde(default)]
    password_file: Option<PathBuf>,
    #[serde(default)]
    tcp_ao: Option<TcpAoSection>,
    #[serde(default)]
    ttl_security: Option<Text<OneTo255>>,
    #[serde(default)]
    ttl: Option<Text<OneTo255>>,
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
    dynamic_limit: Option<Text<Count>>,
    #[serde(default)]
    half_open_limit: Option<Text<Count>>,
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
    multihop: Option<Text<Multihop>>,
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
    secret: Hidden,
    #[serde(default)]
    sign_options: Option<bool>,
}

impl TcpAoSection {
    fn into_keys(self) -> Result<Vec<AoKey>, Wrong> {
        if self.keys.is_empty() {
            return Err(("tcpAo.keys", "expected at least one key, found none".into()));
        }
        let keys = self.keys.into_iter().map(|key| AoKey {
            send_id: key.send_id.0,
            receive_id: key.receive_id.0,
            algorithm: key
                .algorithm
                .map_or_else(AoAlgorithm::default, |text| text.0),
            secret: key.secret.0,
            sign_options: key.sign_options.unwrap_or(true),
        });
        Ok(keys.collect())
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct GracefulRestartSection {
    restart_time: Option<Text<RestartTime>>,
    stale_time: Option<Text<Seconds>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LongLivedSection {
    stale_time: Text<LongLivedTime>,
    #[serde(default)]
    partial_deployment: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AddPathSendSection {
    mode: Text<MaybeAddPathSend>,
}

type MaximumPrefixesItem = ScalarOr<Count, MaximumPrefixesSection>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MaximumPrefixesSection {
    limit: Text<Count>,
    #[serde(default)]
    warning_only: bool,
    #[serde(default)]
    discard: bool,
    #[serde(default)]
    restart: Option<Text<OfASecond>>,
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
            limit: self.limit.0.0,
            action,
        })
    }
}

/// Which field is wrong, and what would be right.
pub(in crate::config) type Wrong = (&'static str, String);

/// What peers take from the rest of the file.
pub(super) struct Shared<'a> {
    /// Where files named relatively are.
    pub(super) base: &'a Path,
    /// Those of the file, by name.
    pub(super) policies: &'a Known,
    /// External peers without a policy are told nothing and believed nothing (RFC 8212). Off unless asked for, as in Calico.
    pub(super) ebgp_requires_policy: bool,
}

impl PeerSection {
    pub(super) fn into_peer(
        self,
        speaker: &SpeakerConfig,
        shared: &Shared<'_>,
    ) -> Result<PeerConfig, Wrong> {
        let base = shared.base;
        let interface = match (self.interface, self.address.as_ref()) {
            (None, Some(Text(PeerAddress { zone, .. }))) => zone.clone(),
            (interface, _) => interface,
        };
        let port = self.port.map_or(BGP_PORT, |port| port.0.0);
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
        for (field, limit) in [
            ("dynamicLimit", self.dynamic_limit),
            ("halfOpenLimit", self.half_open_limit),
        ] {
            if limit.is_some() && !remote.is_range() {
                let reason =
                    format!("expected `{field}` only beside `range`: one neighbour is one");
                return Err((field, reason));
            }
        }
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
        let ours = self.local_asn.map_or(speaker.asn, |asn| asn.0.0);
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
        if peer.families.is_empty() {
            return Err((
                "families",
                "expected ipv4-unicast, ipv6-unicast or both, found none".into(),
            ));
        }
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
        peer.local_asn = self.local_asn.map(|asn| asn.0.0);
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
            (Some(password), None) => Some(password.0),
            (None, Some(file)) => {
                let file = base.join(file);
                let text = std::fs::read_to_string(&file).map_err(|error| {
                    (
                        "passwordFile",
                        format!(
                            "cannot read {}: {error}: expected a file with the password in it",
                            file.display()
                        ),
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
        peer.ttl_security = self.ttl_security.map(|hops| hops.0.0);
        peer.ttl = self.ttl.map(|ttl| ttl.0.0);
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
                limit: limit.0,
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
            self.dynamic_limit.map(|limit| limit.0.0),
        );
        set(
            &mut peer.half_open_limit,
            self.half_open_limit.map(|limit| limit.0.0),
        );
        peer.role = self.role.map(|role| role.0);
        set(&mut peer.strict_role, self.strict_role);
        if let Some(mode) = self.local_as_mode {
            if peer.local_asn.is_none() {
                return Err((
                    "localAsMode",
                    "expected `localAsn` beside it: the AS it is about".into(),
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
                bfd.multihop = section.multihop.and_then(|hops| hops.0.0);
                bfd.strict = section.strict;
                Some(bfd)
            }
        });
        if let Some(bfd) = &peer.bfd {
            bfd.validate(&remote)
                .map_err(|error| (error.field(), error.to_string()))?;
        }
        Ok(peer)
    }
}

fn seconds<T: Into<Duration>>(value: Option<Text<T>>) -> Option<Duration> {
    value.map(|value| value.0.into())
}

fn secret(field: &'static str, text: &str) -> Result<Secret, Wrong> {
    // The password itself stays out of the message.
    Secret::new(text).map_err(|error| (field, error.to_string()))
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
