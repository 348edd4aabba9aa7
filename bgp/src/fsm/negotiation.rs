//! What two OPENs settle, or the NOTIFICATION that refuses (RFC 4271 §6.2, RFC 5492).

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::LocalIdentity;
use super::event::Direction;
use super::notice;
use super::output::Negotiated;
use crate::codec::{
    AddPath, AddPathMode, Capability, CodecContext, ErrorCode, ExtendedNextHop,
    GracefulRestartCapability, GracefulRestartFamily, HoldTime, LongLivedFamily, Notification,
    Open, Role,
};
use crate::family::{Afi, Family, FamilySet};
use crate::speaker::config::{PeerConfig, Remote};

/// The send hold time of RFC 9687 §5 where twice the hold time is less.
const SEND_HOLD_TIME: Duration = Duration::from_secs(480);

/// Our OPEN on one connection.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    open: Open,
    without_capabilities: bool,
    /// The neighbour has to answer with a role (RFC 9234 §4.2).
    demands_role: bool,
}

impl Offer {
    /// What we offer a neighbour. Families, add-path and the like follow its configuration.
    pub(super) fn new(
        config: &PeerConfig,
        identity: &LocalIdentity,
        forwarding_preserved: bool,
        without_capabilities: bool,
        own_asn: bool,
    ) -> Self {
        let asn = config
            .local_asn
            .filter(|_| !own_asn)
            .unwrap_or(identity.asn);
        let mut open = Open {
            asn,
            contradicting_as: None,
            hold_time: config.hold_time,
            router_id: identity.router_id,
            capabilities: Vec::new(),
        };
        if !without_capabilities {
            open.capabilities =
                capabilities(config, &open, identity.restarting, forwarding_preserved);
        }
        let demands_role = config.strict_role && roles(&open).next().is_some();
        Self {
            open,
            without_capabilities,
            demands_role,
        }
    }

    /// What it says.
    #[cfg(test)]
    pub(super) const fn open(&self) -> &Open {
        &self.open
    }

    /// The OPEN on the wire.
    pub(super) fn encode(&self) -> Bytes {
        notice::open(&self.open)
    }

    /// Whether a session of plain RFC 4271 would be of use: a peer that refuses our optional parameters gets none next time.
    pub(super) fn works_without_capabilities(&self) -> bool {
        !self.without_capabilities
            && !self.demands_role
            && self.open.asn.is_two_octet()
            && offered_families(&self.open).has(Family::IPV4_UNICAST)
    }
}

fn capabilities(
    config: &PeerConfig,
    open: &Open,
    restarting: bool,
    forwarding: bool,
) -> Vec<Capability> {
    let families = &config.families;
    let mut capabilities: Vec<Capability> = families
        .iter()
        .map(|family| Capability::Multiprotocol(*family))
        .collect();
    capabilities.push(Capability::RouteRefresh);
    if config.extended_next_hop && families.contains(&Family::IPV4_UNICAST) {
        capabilities.push(Capability::ExtendedNextHop(vec![ExtendedNextHop {
            family: Family::IPV4_UNICAST,
            next_hop_afi: Afi::IPV6,
        }]));
    }
    capabilities.push(Capability::ExtendedMessage);
    // Roles are about what passes between ASs (RFC 9234 §4).
    if let Some(role) = config.role.filter(|_| config.asn.is_external(open.asn)) {
        capabilities.push(Capability::Role(role));
    }
    if let Some(restart) = &config.graceful_restart {
        capabilities.push(Capability::GracefulRestart(GracefulRestartCapability {
            restarting,
            notification: true,
            restart_time: restart.offered_time(),
            families: families
                .iter()
                .map(|family| GracefulRestartFamily {
                    family: *family,
                    forwarding,
                })
                .collect(),
        }));
    }
    capabilities.push(Capability::FourOctetAs(open.asn));
    let mode = match (config.add_path_receive, config.add_path_send.is_some()) {
        (true, true) => Some(AddPathMode::Both),
        (true, false) => Some(AddPathMode::Receive),
        (false, true) => Some(AddPathMode::Send),
        (false, false) => None,
    };
    if let Some(mode) = mode {
        capabilities.push(Capability::AddPath(
            families
                .iter()
                .map(|family| AddPath {
                    family: *family,
                    mode,
                })
                .collect(),
        ));
    }
    capabilities.push(Capability::EnhancedRouteRefresh);
    if matches!(config.remote, Remote::Address(SocketAddr::V6(remote)) if remote.ip().is_unicast_link_local())
    {
        // There may be no other address on the link.
        capabilities.push(Capability::LinkLocalNextHop);
    }
    if config.graceful_restart.is_some() {
        // Without families it says that we know what LLGR_STALE means (RFC 9494 §4.1).
        let families = config.long_lived.iter().flat_map(|long_lived| {
            let stale_time = u32::try_from(long_lived.stale_time.as_secs()).unwrap_or(u32::MAX);
            families.iter().map(move |family| LongLivedFamily {
                family: *family,
                forwarding,
                stale_time: stale_time.min(0x00ff_ffff),
            })
        });
        capabilities.push(Capability::LongLivedGracefulRestart(families.collect()));
    }
    capabilities
}

/// What our OPEN and the neighbour's amount to together.
///
/// # Errors
/// The NOTIFICATION that says what of the neighbour's OPEN is not acceptable.
pub(super) fn negotiate(
    config: &PeerConfig,
    offer: &Offer,
    theirs: &Open,
    direction: Direction,
    local: SocketAddr,
    remote: SocketAddr,
) -> Result<Negotiated, Notification> {
    let ours = &offer.open;
    if !config.asn.accepts(theirs.asn, ours.asn) {
        return Err(Notification::new(ErrorCode::BAD_PEER_AS));
    }
    let external = theirs.asn != ours.asn;
    if !external && theirs.router_id == ours.router_id {
        // Across ASs equal identifiers are legal (RFC 6286 §2.1).
        return Err(Notification::new(ErrorCode::BAD_BGP_IDENTIFIER));
    }
    if theirs.hold_time != HoldTime::NONE && theirs.hold_time < config.minimum_hold_time {
        return Err(Notification::new(ErrorCode::UNACCEPTABLE_HOLD_TIME));
    }
    // RFC 9234 §4.2; a role said twice has to be the same one. It is ours by configuration, also where we did not say it: what
    // routes may pass (§5) does not depend on a neighbour that knows capabilities.
    let our_role = config.role.filter(|_| external);
    if let Some(our_role) = our_role {
        let fits = roles(theirs).all(|theirs| our_role.fits(theirs));
        let missing = config.strict_role && roles(theirs).next().is_none();
        let ambiguous = roles(theirs).any(|role| roles(theirs).next() != Some(role));
        if !fits || missing || ambiguous {
            return Err(Notification::new(ErrorCode::ROLE_MISMATCH));
        }
    }
    let common = offered_families(ours) & offered_families(theirs);
    let families: Vec<Family> = config
        .families
        .iter()
        .copied()
        .filter(|family| common.has(*family))
        .collect();
    if families.is_empty() {
        return Err(Notification::with_data(
            ErrorCode::UNSUPPORTED_CAPABILITY,
            multiprotocol_octets(&config.families),
        ));
    }

    let both = |has: fn(&Capability) -> bool| lists(ours, has) && lists(theirs, has);
    let route_refresh = both(|c| matches!(c, Capability::RouteRefresh));
    let enhanced_refresh = both(|c| matches!(c, Capability::EnhancedRouteRefresh));
    let context = CodecContext {
        four_octet_as: both(|c| matches!(c, Capability::FourOctetAs(_))),
        families: common,
        add_path_receive: add_paths(ours, AddPathMode::receives)
            & add_paths(theirs, AddPathMode::sends)
            & common,
        add_path_send: add_paths(ours, AddPathMode::sends)
            & add_paths(theirs, AddPathMode::receives)
            & common,
        extended_message_receive: lists(ours, |c| matches!(c, Capability::ExtendedMessage)),
        extended_message_send: both(|c| matches!(c, Capability::ExtendedMessage)),
        extended_next_hop: common.has(Family::IPV4_UNICAST) && both(extends_next_hop),
        link_local_next_hop: both(|c| matches!(c, Capability::LinkLocalNextHop)),
        enhanced_route_refresh: enhanced_refresh,
        peer_is_external: external,
        // A route server is transparent: it leaves its AS out of what it passes on (RFC 7947 §2.2.2).
        enforce_first_as: (external
            && config.enforce_first_as
            && our_role != Some(Role::RouteServerClient))
        .then_some(theirs.asn),
        allow_as_set: config.allow_as_set,
        strict_attributes: config.strict_attributes,
        afi_safi_disable: config.afi_safi_disable,
    };

    // Of several graceful restart capabilities the last counts (RFC 4724 §3).
    let peer_graceful_restart = graceful_restart(ours)
        .and_then(|_| graceful_restart(theirs))
        .cloned();
    let peer_long_lived = peer_graceful_restart.as_ref().and_then(|_| {
        theirs.capabilities.iter().rev().find_map(|capability| {
            if let Capability::LongLivedGracefulRestart(families) = capability {
                Some(families.clone())
            } else {
                None
            }
        })
    });
    let keeps_long_lived = config
        .long_lived
        .is_some_and(|long_lived| !long_lived.stale_time.is_zero())
        && peer_long_lived
            .iter()
            .flatten()
            .any(|asked| asked.stale_time > 0 && common.has(asked.family));
    let hold_time = ours.hold_time.min(theirs.hold_time);
    Ok(Negotiated {
        direction,
        local,
        remote,
        local_asn: ours.asn,
        peer_asn: theirs.asn,
        peer_router_id: theirs.router_id,
        families,
        context,
        hold_time,
        keepalive_interval: keepalive_interval(config, hold_time),
        external,
        notification_graceful: peer_graceful_restart
            .as_ref()
            .is_some_and(|capability| capability.notification),
        peer_graceful_restart,
        peer_long_lived,
        keeps_long_lived,
        route_refresh,
        enhanced_refresh,
        role: our_role,
        peer_capabilities: theirs.capabilities.clone(),
        without_capabilities: offer.without_capabilities,
    })
}

/// How often to send KEEPALIVEs. A third of the hold time where nothing else is configured: some peers let theirs expire at
/// three quarters (BIRD), so there is no room for less. An explicit interval belongs to the offered hold time and shrinks with it.
fn keepalive_interval(config: &PeerConfig, hold_time: HoldTime) -> Option<Duration> {
    let hold = hold_time.duration()?;
    let interval = match (config.keepalive, config.hold_time.duration()) {
        (Some(explicit), Some(offered)) => explicit
            .mul_f64(hold.as_secs_f64() / offered.as_secs_f64())
            .min(hold / 2),
        (None, _) | (_, None) => hold / 3,
    };
    Some(interval.max(Duration::from_secs(1)))
}

/// How long the peer's window may stay closed (RFC 9687 §4.2): longer than the hold time, or for ever where there is none.
pub(super) fn send_hold_time(config: &PeerConfig, hold_time: HoldTime) -> Option<Duration> {
    let hold = hold_time.duration()?;
    Some(match config.send_hold {
        Some(configured) => configured.max(hold + Duration::from_secs(1)),
        None => SEND_HOLD_TIME.max(hold * 2),
    })
}

/// Whether an OPEN carried any capability.
pub(super) const fn has_capabilities(open: &Open) -> bool {
    !open.capabilities.is_empty()
}

/// The families of an OPEN. None listed means IPv4 unicast (RFC 4760 §8).
fn offered_families(open: &Open) -> FamilySet {
    let mut listed = open
        .capabilities
        .iter()
        .filter_map(|capability| {
            if let Capability::Multiprotocol(family) = capability {
                Some(*family)
            } else {
                None
            }
        })
        .peekable();
    if listed.peek().is_some() {
        listed.collect()
    } else {
        FamilySet::of(Family::IPV4_UNICAST)
    }
}

fn lists(open: &Open, has: fn(&Capability) -> bool) -> bool {
    open.capabilities.iter().any(has)
}

fn extends_next_hop(capability: &Capability) -> bool {
    matches!(capability, Capability::ExtendedNextHop(tuples) if tuples
        .iter()
        .any(|tuple| tuple.family == Family::IPV4_UNICAST && tuple.next_hop_afi == Afi::IPV6))
}

fn roles(open: &Open) -> impl Iterator<Item = Role> {
    open.capabilities.iter().filter_map(|capability| {
        if let Capability::Role(role) = capability {
            Some(*role)
        } else {
            None
        }
    })
}

fn graceful_restart(open: &Open) -> Option<&GracefulRestartCapability> {
    open.capabilities.iter().rev().find_map(|capability| {
        if let Capability::GracefulRestart(value) = capability {
            Some(value)
        } else {
            None
        }
    })
}

/// Families for which an OPEN has a mode of ADD-PATH that is wanted.
pub(crate) fn add_paths(open: &Open, wanted: fn(AddPathMode) -> bool) -> FamilySet {
    open.capabilities
        .iter()
        .filter_map(|capability| {
            if let Capability::AddPath(tuples) = capability {
                Some(tuples)
            } else {
                None
            }
        })
        .flatten()
        .filter(|tuple| wanted(tuple.mode))
        .map(|tuple| tuple.family)
        .collect()
}

/// The capabilities a NOTIFICATION 2/7 names as missing (RFC 5492 §3).
fn multiprotocol_octets(families: &[Family]) -> Bytes {
    let mut octets = BytesMut::with_capacity(families.len() * 6);
    for family in families {
        octets.put_slice(&[crate::codec::iana::capability_code::MULTIPROTOCOL, 4]);
        octets.put_u16(family.afi.0);
        octets.put_u8(0);
        octets.put_u8(family.safi.0);
    }
    octets.freeze()
}
