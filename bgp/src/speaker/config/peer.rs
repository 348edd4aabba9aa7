//! One neighbour: whom it is, what is offered to it, what is taken from it and what it is told.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

use super::{AoKey, Bfd, Binding, ConfigError, HoldTime, PeerAs, Secret, socket};
use crate::asn::Asn;
use crate::codec::Role;
use crate::family::Family;
use crate::policy::Policy;
use crate::prefix::Prefix;
use crate::router_id::RouterId;

/// What of private AS numbers (64512 to 65534, 4200000000 to 4294967294) an external peer is told. Its own number stays in
/// any case, so that it can find its loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RemovePrivateAs {
    /// They go where the path has no other.
    IfAllPrivate,
    /// They go.
    All,
    /// Each becomes the AS we show, so that the path keeps its length.
    Replace,
}

/// What [`PeerConfig::local_asn`] means beside the OPEN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LocalAsMode {
    /// On this session our AS *is* that one, as in BIRD and Calico: paths get it alone, and only it makes a loop. Where it makes
    /// the session internal, we are in both ASs: between peers inside the one and peers inside the other everything passes, as
    /// over a border.
    #[default]
    Session,
    /// RFC 7705 §3: received paths get it in front, and told ones get the speaker's AS with it in front. Inside the AS, where it
    /// makes the session internal (RFC 7705 §4), paths stay as they are, and both ASs are one.
    Prepend,
    /// As [`Self::Prepend`], received paths unchanged ("no-prepend").
    NoPrepend,
    /// As [`Self::NoPrepend`], and told paths get it alone ("replace-as").
    ReplaceAs,
    /// As [`Self::ReplaceAs`], and a neighbour that refuses it in the OPEN is shown the speaker's AS the next time.
    DualAs,
}

/// Whom a [`PeerConfig`] speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Remote {
    /// One neighbour. The port is where we dial, 0 for never; connections from any port of the address are its own.
    /// A link-local address carries its interface in the scope.
    Address(SocketAddr),
    /// Any neighbour of a range, created when it connects and forgotten when it left, but not while it rests for an error or
    /// was closed for too many prefixes: it would call again at once and be another one.
    Range(Prefix),
    /// Whoever is the router at the other end of [`PeerConfig::interface`] ("unnumbered"): its link-local address is
    /// learned, the port is where we dial. The transport puts an [`Remote::Address`] in its place as soon as it knows it, and
    /// does the reverse for a link-local address whose interface is gone.
    Unnumbered(u16),
}

impl Remote {
    /// A neighbour that is never dialled because it is not known before it calls.
    #[must_use]
    pub const fn is_range(&self) -> bool {
        matches!(self, Self::Range(_))
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Range(prefix) => write!(f, "{prefix}"),
            Self::Unnumbered(port) => write!(f, "the router on the link, port {port}"),
        }
    }
}

/// One neighbour, or one range of them.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerConfig {
    /// Unique key, shown to people.
    pub name: String,
    /// Address or range.
    pub remote: Remote,
    /// The AS the neighbour must show.
    pub asn: PeerAs,
    /// The AS we show it instead of the speaker's.
    pub local_asn: Option<Asn>,
    /// The link it is on: needed by a link-local address, whose scope it gives, and by [`Remote::Unnumbered`]. When the
    /// interface goes, or comes back as another one of that name, the session ends.
    pub interface: Option<Arc<str>>,
    /// Namespace and device of our socket. Connections are taken only from listeners with the same.
    pub binding: Binding,
    /// Source of our connections, and the only destination its connections may have.
    pub local_address: Option<IpAddr>,
    /// Only wait, unless this speaker is restarting itself and its peers keep routes for a time.
    pub passive: bool,
    /// It is a client of ours as route reflector.
    pub route_reflector_client: bool,
    /// Cluster towards this peer, where it differs from the speaker's.
    pub cluster_id: Option<RouterId>,
    /// Families offered to it.
    pub families: Vec<Family>,
    /// Offered hold time; the smaller of both sides' counts.
    pub hold_time: HoldTime,
    /// Explicit keepalive interval for the offered hold time; scaled when a smaller hold time is settled.
    pub keepalive: Option<Duration>,
    /// First pause between connection attempts; doubles up to `connect_retry_max` while they fail.
    pub connect_retry: Duration,
    /// Longest pause between connection attempts. A refused SYN costs nobody anything, while a node that joins a mesh, or a peer
    /// that never dials and is back, waits for this: a quarter of a minute.
    pub connect_retry_max: Duration,
    /// How long to hold our OPEN back on a new connection, so that the peer says its own first (RFC 4271 §8.1.1); not at all
    /// where absent.
    pub delay_open: Option<Duration>,
    /// First pause after a protocol error; doubles up to `idle_hold_max`.
    pub idle_hold: Duration,
    /// Longest pause after protocol errors, and after a Cease of the peer's. The errors of a caller from a range count for as long
    /// again after its rest.
    pub idle_hold_max: Duration,
    /// How long the peer's window may stay closed (RFC 9687); computed from the hold time where absent.
    pub send_hold: Option<Duration>,
    /// Graceful restart; off where absent.
    pub graceful_restart: Option<GracefulRestart>,
    /// Long-lived graceful restart; "aware" only where absent. Without [`PeerConfig::graceful_restart`] nothing is said.
    pub long_lived: Option<LongLived>,
    /// TCP-MD5 key (RFC 2385).
    pub password: Option<Secret>,
    /// TCP-AO keys (RFC 5925), the first of which we want used; none where empty. Where the kernel has no TCP-AO there is no
    /// session, never an unprotected one.
    pub tcp_ao: Vec<AoKey>,
    /// GTSM: the peer is at most so many hops away (RFC 5082).
    pub ttl_security: Option<u8>,
    /// TTL of what we send where [`PeerConfig::ttl_security`] is absent; 64, the usual multihop, where absent too.
    pub ttl: Option<u8>,
    /// What the peer is told as next hop.
    pub next_hop: NextHopMode,
    /// Subnets shared with the peer: next hops in them may be passed on unchanged (RFC 4271 §5.1.3). An external peer that is
    /// one hop away, by [`PeerConfig::interface`] or a TTL of 1, may name none outside of them.
    pub connected_subnets: Vec<Prefix>,
    /// What we call ourselves as next hop of routes whose family is not the session's own: our address of that family on
    /// the link to the peer. Without one such routes are told only with a next hop of their own.
    pub next_hop_address: Option<IpAddr>,
    /// The interface of the link to the peer, where it is on one: what policy takes for the interface of its routes.
    pub link: Option<Arc<str>>,
    /// How many times our own AS may occur in a received path. Where two make a loop ([`PeerConfig::local_as_mode`]), each may.
    pub allowed_local_as: u8,
    /// What of its routes we take.
    pub import: Arc<Policy>,
    /// What of our routes it is told.
    pub export: Arc<Policy>,
    /// Limit on its prefixes per family.
    pub maximum_prefixes: Option<MaximumPrefixes>,
    /// Take several paths per prefix (RFC 7911).
    pub add_path_receive: bool,
    /// Tell it several paths per prefix (RFC 7911), and which; the best one alone where absent.
    pub add_path_send: Option<AddPathSend>,
    /// Offer IPv4 routes with IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Whether the session may run at all.
    pub enabled: bool,
    /// What the peer reads when the session is stopped (RFC 9003).
    pub shutdown_text: Option<String>,
    /// Smallest hold time accepted from the peer; a peer that offers none at all is taken in any case.
    pub minimum_hold_time: HoldTime,
    /// An external peer's paths must start with its own AS, unless it is a [route server](Role::RouteServer) to us.
    pub enforce_first_as: bool,
    /// Accept AS_SET in its paths although RFC 9774 deprecates it.
    pub allow_as_set: bool,
    /// End the session at a well-known attribute of no known type with 3/2, as RFC 4271 §6.3 has it, rather than withdraw
    /// the routes.
    pub strict_attributes: bool,
    /// Answer a malformed multiprotocol attribute by giving up its family until the session ends (RFC 7606 §2, "AFI/SAFI
    /// disable") rather than by a reset. Off, because a family that is silently dead is worse for its routes than a restart.
    pub afi_safi_disable: bool,
    /// What we are to it (RFC 9234), if it is external; nothing is said where absent.
    pub role: Option<Role>,
    /// Refuse it unless it says its role as well.
    pub strict_role: bool,
    /// What [`PeerConfig::local_asn`] means.
    pub local_as_mode: LocalAsMode,
    /// What it is told of private AS numbers; all where absent. External peers only.
    pub remove_private_as: Option<RemovePrivateAs>,
    /// In paths told to it, its own AS becomes the one we show: for one AS at several sites. External peers only.
    pub as_override: bool,
    /// Tell it a default route of ours, whatever the tables and the policy say.
    pub default_originate: bool,
    /// Its paths with GRACEFUL_SHUTDOWN are used last (RFC 8326 §4.2). External peers only.
    pub graceful_shutdown: bool,
    /// The session will be taken down: what is told over it is marked to be used last by GRACEFUL_SHUTDOWN, or LOCAL_PREF 0
    /// inside the AS, and what is learned over it is used last here (RFC 8326 §4.1).
    pub drain: bool,
    /// For a range: how many neighbours may exist at once. One that is only remembered for its errors gives way.
    pub dynamic_limit: usize,
    /// Liveness of the path to it (RFC 5880); not watched where absent.
    pub bfd: Option<Bfd>,
    /// For a range: how many of them may be without a session at once. Whoever only connects must not keep others out.
    pub half_open_limit: usize,
}

impl PeerConfig {
    /// A neighbour with the usual defaults: 90 s hold time, graceful restart helped and asked for, paths of both
    /// unicast families, no policy beyond the given ones.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        remote: Remote,
        asn: impl Into<PeerAs>,
        import: Arc<Policy>,
        export: Arc<Policy>,
    ) -> Self {
        let over_ipv6 = match remote {
            Remote::Address(address) => address.is_ipv6(),
            Remote::Range(prefix) => prefix.family() == Family::IPV6_UNICAST,
            Remote::Unnumbered(_) => true,
        };
        Self {
            name: name.into(),
            remote,
            asn: asn.into(),
            local_asn: None,
            interface: None,
            binding: Binding::default(),
            local_address: None,
            passive: false,
            route_reflector_client: false,
            cluster_id: None,
            families: vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST],
            hold_time: HoldTime::default(),
            keepalive: None,
            connect_retry: Duration::from_secs(5),
            connect_retry_max: Duration::from_secs(15),
            delay_open: None,
            idle_hold: Duration::from_secs(1),
            idle_hold_max: Duration::from_secs(60),
            send_hold: None,
            graceful_restart: Some(GracefulRestart::default()),
            long_lived: None,
            password: None,
            tcp_ao: Vec::new(),
            ttl_security: None,
            ttl: None,
            next_hop: NextHopMode::Auto,
            connected_subnets: Vec::new(),
            next_hop_address: None,
            link: None,
            allowed_local_as: 0,
            import,
            export,
            maximum_prefixes: None,
            add_path_receive: true,
            add_path_send: None,
            extended_next_hop: over_ipv6,
            enabled: true,
            shutdown_text: None,
            minimum_hold_time: HoldTime::NONE,
            enforce_first_as: true,
            allow_as_set: false,
            strict_attributes: false,
            afi_safi_disable: false,
            role: None,
            strict_role: false,
            local_as_mode: LocalAsMode::default(),
            remove_private_as: None,
            as_override: false,
            default_originate: false,
            graceful_shutdown: true,
            drain: false,
            dynamic_limit: 10_000,
            bfd: None,
            half_open_limit: 4_096,
        }
    }

    /// Whether we only wait: configured so, or there is no address to dial. While a speaker restarts itself it dials
    /// wherever it [can](Self::can_dial).
    #[must_use]
    pub const fn waits(&self) -> bool {
        self.passive || !self.can_dial()
    }

    /// Whether there is an address and a port to dial.
    #[must_use]
    pub const fn can_dial(&self) -> bool {
        matches!(self.remote, Remote::Address(remote) if remote.port() != 0)
    }

    /// What concerns the socket and no single field can say.
    pub(super) fn validate_socket(&self) -> Result<(), ConfigError> {
        let needs_interface = match self.remote {
            Remote::Address(SocketAddr::V6(address)) => {
                address.ip().is_unicast_link_local() && address.scope_id() == 0
            }
            Remote::Unnumbered(_) => true,
            Remote::Address(SocketAddr::V4(_)) | Remote::Range(_) => false,
        };
        if needs_interface && self.interface.is_none() {
            return Err(ConfigError::NoInterface(self.name.clone()));
        }
        if self.password.is_some() && !self.tcp_ao.is_empty() {
            return Err(ConfigError::TwoSignatures(self.name.clone()));
        }
        match socket::shared_id(&self.tcp_ao) {
            Some(id) => Err(ConfigError::DuplicateAoKey {
                peer: self.name.clone(),
                id,
            }),
            None => Ok(()),
        }
    }

    /// Whether `other` needs another TCP connection or other OPENs than `self`: what differs is part of the session itself,
    /// not of the routes carried over it.
    #[must_use]
    pub fn needs_new_session(&self, other: &Self) -> bool {
        // Passwords are changed under a running session (both ends converge by retransmission), so they do not count.
        self.remote != other.remote
            || self.asn != other.asn
            || self.local_asn != other.local_asn
            || self.local_address != other.local_address
            || self.interface != other.interface
            || self.binding != other.binding
            // A session whose first segments were not signed with TCP-AO cannot be from there on.
            || self.tcp_ao.is_empty() != other.tcp_ao.is_empty()
            || self.families != other.families
            || self.hold_time != other.hold_time
            || self.keepalive != other.keepalive
            // How long routes of the peer are kept is our affair.
            || self.graceful_restart.map(|ours| ours.offered_time())
                != other.graceful_restart.map(|theirs| theirs.offered_time())
            || self.long_lived.map(|ours| ours.stale_time)
                != other.long_lived.map(|theirs| theirs.stale_time)
            || self.ttl_security != other.ttl_security
            || self.ttl != other.ttl
            || self.add_path_receive != other.add_path_receive
            || self.add_path_send.is_some() != other.add_path_send.is_some()
            || self.extended_next_hop != other.extended_next_hop
            || self.minimum_hold_time != other.minimum_hold_time
            || self.enforce_first_as != other.enforce_first_as
            || self.allow_as_set != other.allow_as_set
            || self.strict_attributes != other.strict_attributes
            || self.afi_safi_disable != other.afi_safi_disable
            || self.role != other.role
            || self.strict_role != other.strict_role
            || (self.local_as_mode == LocalAsMode::DualAs)
                != (other.local_as_mode == LocalAsMode::DualAs)
    }

    /// The AS that paths received from another AS get in front (RFC 7705 §3.3).
    #[must_use]
    pub fn prepended_on_import(&self) -> Option<Asn> {
        self.local_asn
            .filter(|_| self.local_as_mode == LocalAsMode::Prepend)
    }

    /// The subnets in which the next hops of an external peer have to lie (RFC 4271 §5.1.3): those shared with it, where it is
    /// said to be one hop away.
    #[must_use]
    pub fn single_hop_subnets(&self) -> &[Prefix] {
        let hops = self.ttl_security.or(self.ttl);
        if self.interface.is_some() || hops == Some(1) {
            &self.connected_subnets
        } else {
            &[]
        }
    }

    /// The AS we are in on a session that shows `shown`, where the speaker's is `own`: what passes between two internal
    /// sessions depends on it. RFC 7705 §4 lets an AS that becomes another one be both.
    #[must_use]
    pub(crate) const fn asn_inside(&self, shown: Asn, own: Asn) -> Asn {
        match self.local_as_mode {
            LocalAsMode::Session => shown,
            LocalAsMode::Prepend
            | LocalAsMode::NoPrepend
            | LocalAsMode::ReplaceAs
            | LocalAsMode::DualAs => own,
        }
    }

    /// Whether told paths get the speaker's own AS behind [`PeerConfig::local_asn`].
    #[must_use]
    pub const fn shows_both_asns(&self) -> bool {
        self.local_asn.is_some()
            && matches!(
                self.local_as_mode,
                LocalAsMode::Prepend | LocalAsMode::NoPrepend
            )
    }
}

/// Graceful restart with one peer (RFC 4724, RFC 8538).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GracefulRestart {
    /// How long the peer may wait for us to come back; the wire carries 12 bits of seconds.
    pub restart_time: Duration,
    /// How long we keep its routes at most, from the loss to its End-of-RIB.
    pub stale_time: Duration,
}

impl GracefulRestart {
    /// The longest restart time a capability can carry.
    pub const MAX_RESTART_TIME: Duration = Duration::from_secs(4095);

    /// The restart time as our OPEN says it, in seconds.
    pub(crate) fn offered_time(self) -> u16 {
        let time = self.restart_time.min(Self::MAX_RESTART_TIME).as_secs();
        u16::try_from(time).unwrap_or(u16::MAX)
    }
}

impl Default for GracefulRestart {
    fn default() -> Self {
        Self {
            restart_time: Duration::from_secs(120),
            stale_time: Duration::from_secs(180),
        }
    }
}

/// Long-lived graceful restart with one peer (RFC 9494).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LongLived {
    /// What we ask of the peer, and the most it gets of us.
    pub stale_time: Duration,
    /// Tell internal peers that do not know of long-lived stale routes about them all the same, with NO_EXPORT and
    /// LOCAL_PREF 0 (RFC 9494 §4.6), instead of withdrawing them. Read of the peer that is told.
    pub partial_deployment: bool,
}

/// Which paths of a prefix a peer is told (RFC 7911).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddPathSend {
    /// Every usable one.
    All,
    /// So many of the best ones: the best, then what would be best without it, and so on.
    Best(NonZeroU8),
}

/// What a peer is told as next hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NextHopMode {
    /// As RFC 4271 §5.1.3: unchanged inside the AS, ourselves or a third party on a shared subnet outside.
    #[default]
    Auto,
    /// Ourselves, also for routes of ours that have a next hop, but what a reflector passes on between internal peers keeps its
    /// own (RFC 4456 §10).
    SelfAddress,
    /// Always ourselves, unless policy names another one. Only where there is no address to call ourselves by, routes of ours
    /// are told with the next hop they have.
    ForceSelf,
    /// Always unchanged.
    Keep,
}

/// How many prefixes of each family a peer may announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MaximumPrefixes {
    /// The most that is tolerated.
    pub limit: usize,
    /// What happens at the first one beyond.
    pub action: LimitAction,
}

/// What happens to a peer that announces more than it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LimitAction {
    /// The session ends with 6/1 and rests.
    #[default]
    Close,
    /// The same, and the session is tried again after so long.
    Restart(Duration),
    /// Only a warning.
    Warn,
    /// What is beyond the limit is not taken, and asked for again once there is room; the session stays.
    Discard,
}

#[cfg(test)]
mod tests {
    use super::super::tests::tor;
    use super::*;

    #[test]
    fn how_long_we_keep_a_peers_routes_is_no_matter_of_the_session() {
        let peer = tor();
        let mut other = peer.clone();
        other.graceful_restart = Some(GracefulRestart {
            stale_time: Duration::from_secs(7),
            ..GracefulRestart::default()
        });
        assert!(!peer.needs_new_session(&other));
        other.graceful_restart = Some(GracefulRestart {
            restart_time: Duration::from_secs(7),
            ..GracefulRestart::default()
        });
        assert!(peer.needs_new_session(&other));
        other.graceful_restart = None;
        assert!(peer.needs_new_session(&other));
    }
}
