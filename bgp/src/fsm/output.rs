//! What a neighbour's machine asks of its surroundings.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::event::Direction;
use super::state::State;
use crate::asn::Asn;
use crate::codec::{
    Capability, CodecContext, GracefulRestartCapability, HoldTime, LongLivedFamily, Notification,
    Role, RouteRefresh, Update,
};
use crate::family::Family;
use crate::router_id::RouterId;

/// One request or piece of news; drained with `Peer::poll_output` in order.
#[derive(Debug)]
pub enum PeerOutput {
    /// Dial the neighbour; answered by `ConnectionUp` or `ConnectionFailed` of [`Direction::Outgoing`].
    Connect,
    /// Write these octets.
    Send {
        /// On which connection.
        direction: Direction,
        /// Whole messages.
        bytes: Bytes,
    },
    /// Close a connection, or give up dialling it. Nothing more is to be reported of it.
    Close {
        /// Which connection.
        direction: Direction,
        /// Write out what is queued and let the peer read it before the socket goes.
        linger: bool,
    },
    /// The OPENs settled how messages are read from here on; the connection waits for this after an OPEN.
    UseContext {
        /// On which connection.
        direction: Direction,
        /// How to decode.
        context: CodecContext,
        /// Send a KEEPALIVE so often, the first one an interval from now; none where absent.
        keepalive_interval: Option<Duration>,
    },
    /// Both OPENs are accepted; a session may follow. What the neighbour says of routes that are kept of an earlier one holds
    /// from here on (RFC 4724 §4.2).
    Opened(Arc<Negotiated>),
    /// A session is up.
    Established(Arc<Negotiated>),
    /// The session that was up is down.
    Down(DownReason),
    /// Routes from the Established session.
    Update(Update),
    /// A request for our routes, or a marker of enhanced refresh, from the Established session.
    RouteRefresh(RouteRefresh),
    /// The OPEN on a connection is well-formed, and says something we do not take: this is what it is answered with. What becomes
    /// of the connection follows.
    OpenRefused {
        /// On which connection it came.
        direction: Direction,
        /// The answer.
        notification: Notification,
    },
    /// Something is not as it should be although nothing was refused for it.
    Warning(PeerWarning),
    /// The state people see changed.
    StateChanged {
        /// Before.
        from: State,
        /// Now.
        to: State,
        /// What ended a session or the attempt at one, if that is what happened.
        cause: Option<DownCause>,
    },
}

/// What two OPENs and the connection they travelled on settled.
#[derive(Clone, Debug)]
pub struct Negotiated {
    /// Whose connection it is.
    pub direction: Direction,
    /// Our end.
    pub local: SocketAddr,
    /// The neighbour's end.
    pub remote: SocketAddr,
    /// The AS we showed.
    pub local_asn: Asn,
    /// The neighbour's AS.
    pub peer_asn: Asn,
    /// The neighbour's BGP Identifier.
    pub peer_router_id: RouterId,
    /// Families both sides offered, in our order.
    pub families: Vec<Family>,
    /// How messages are read and written.
    pub context: CodecContext,
    /// The smaller of both hold times.
    pub hold_time: HoldTime,
    /// How often we send KEEPALIVEs.
    pub keepalive_interval: Option<Duration>,
    /// The neighbour is in another AS.
    pub external: bool,
    /// Its graceful restart capability, where we have graceful restart on as well.
    pub peer_graceful_restart: Option<GracefulRestartCapability>,
    /// Its long-lived graceful restart capability; only beside `peer_graceful_restart`. Without families it is merely aware.
    pub peer_long_lived: Option<Vec<LongLivedFamily>>,
    /// It asked for long-lived stale routes of some family, and we are configured to keep them (RFC 9494 §4.2).
    pub keeps_long_lived: bool,
    /// Both sides set the N bit: routes outlive NOTIFICATIONs and hold expiry (RFC 8538).
    pub notification_graceful: bool,
    /// It answers ROUTE-REFRESH.
    pub route_refresh: bool,
    /// It understands BoRR and EoRR, and sends them (RFC 7313).
    pub enhanced_refresh: bool,
    /// What we are to it (RFC 9234), where that is configured and it is external; the role it said, if any, fits.
    pub role: Option<Role>,
    /// What the peer's OPEN listed, for people.
    pub peer_capabilities: Vec<Capability>,
    /// We left all capabilities out because the peer does not understand them.
    pub without_capabilities: bool,
}

impl Negotiated {
    /// Whether the peer asked for routes to be kept when the session is lost (RFC 4724 §4.2). A family that the long-lived
    /// capability alone lists counts: its restart time is zero (RFC 9494 §4.2).
    #[must_use]
    pub fn keeps_routes(&self) -> bool {
        self.keeps_long_lived
            || self
                .peer_graceful_restart
                .as_ref()
                .is_some_and(|capability| !capability.families.is_empty())
    }
}

/// What an operator should look into although the session, if there is one, goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerWarning {
    /// We only wait for the neighbour, and it did not call for a minute: it may be waiting too.
    NobodyCalls,
    /// My Autonomous System of its OPEN contradicts the four-octet AS capability beside it, which is what counts.
    ContradictingAs {
        /// What the old field says.
        my_as: u16,
        /// What the capability says.
        asn: Asn,
    },
    /// It announces more prefixes than configured.
    PrefixLimit {
        /// Of which family.
        family: Family,
        /// How many it may.
        limit: usize,
    },
    /// It announces more paths of one prefix than are kept (RFC 7911); those that come last are ignored.
    PathLimit(Family),
    /// Routes of this family are kept back from it: no next hop could be told by which it reaches them.
    NextHopMissing(Family),
    /// It refused the capabilities of our OPEN, so this session has none: IPv4 alone, two-octet AS numbers, no route refresh, no
    /// graceful restart. They are offered again after ten minutes, a clear, or a change of its configuration.
    WithoutCapabilities,
    /// Nothing of this family is taken from it until the session ends: it sent a malformed multiprotocol attribute.
    FamilyDisabled(Family),
    /// Attributes of routes fit no message to it, and it is told that the routes are gone (RFC 8654 §4). Of peers that are
    /// told the same, the one that was first to be told is named.
    RoutesUnsendable {
        /// Of which family.
        family: Family,
        /// How many routes.
        routes: u64,
    },
}

impl PeerWarning {
    /// The kinds of those that hold for a while, as counters are labelled.
    pub const KINDS: [&str; 7] = [
        "nobody-calls",
        "contradicting-as",
        "prefix-limit",
        "path-limit",
        "next-hop-missing",
        "without-capabilities",
        "family-disabled",
    ];

    /// The kind, as counters are labelled.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NobodyCalls => "nobody-calls",
            Self::ContradictingAs { .. } => "contradicting-as",
            Self::PrefixLimit { .. } => "prefix-limit",
            Self::PathLimit(_) => "path-limit",
            Self::NextHopMissing(_) => "next-hop-missing",
            Self::WithoutCapabilities => "without-capabilities",
            Self::FamilyDisabled(_) => "family-disabled",
            Self::RoutesUnsendable { .. } => "routes-unsendable",
        }
    }
}

impl fmt::Display for PeerWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NobodyCalls => {
                f.write_str("passive, and the peer has not called for a minute: is it passive too?")
            }
            Self::ContradictingAs { my_as, asn } => {
                write!(f, "its OPEN says AS {my_as} and in the capability {asn}")
            }
            Self::PrefixLimit { family, limit } => {
                write!(f, "more than {limit} prefixes of {family}")
            }
            Self::PathLimit(family) => {
                write!(
                    f,
                    "more paths of one prefix of {family} than are kept: the last ones are ignored"
                )
            }
            Self::NextHopMissing(family) => write!(
                f,
                "routes of {family} are kept back: no next hop could be told that the peer can use"
            ),
            Self::RoutesUnsendable { family, routes } => write!(
                f,
                "attributes of {routes} routes of {family} fit no message: told as withdrawn"
            ),
            Self::WithoutCapabilities => f.write_str(
                "refused the capabilities of our OPEN: the session has none, and carries IPv4 alone",
            ),
            Self::FamilyDisabled(family) => write!(
                f,
                "{family} is disabled after a malformed attribute until the session ends"
            ),
        }
    }
}

/// Why a session ended and what becomes of its routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownReason {
    /// The routes stay as stale ones (RFC 4724 §4.2, RFC 8538 §4), for the families of the peer's capability.
    pub keep_routes: bool,
    /// What happened.
    pub cause: DownCause,
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.cause, f)
    }
}

/// What ended a session or an attempt at one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownCause {
    /// We closed it silently for a restart of ours.
    ClosedForRestart,
    /// We said why.
    NotificationSent(Notification),
    /// The neighbour said why.
    NotificationReceived(Notification),
    /// Nothing heard for the hold time; NOTIFICATION 4/0 was sent.
    HoldTimeExpired,
    /// The neighbour took no octets for the send hold time (RFC 9687).
    SendHoldTimeExpired,
    /// The TCP connection ended.
    ConnectionLost,
    /// Dialling failed.
    ConnectFailed,
    /// The neighbour came back with a new connection while the old one seemed to stand (RFC 4724 §4.2).
    ReplacedByPeer,
    /// The other connection won the collision (RFC 4271 §6.8).
    Collision,
}

impl fmt::Display for DownCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClosedForRestart => f.write_str("closed for a restart of ours"),
            Self::NotificationSent(notification) => write!(f, "notification sent: {notification}"),
            Self::NotificationReceived(notification) => {
                write!(f, "notification received: {notification}")
            }
            Self::HoldTimeExpired => f.write_str("hold timer expired"),
            Self::SendHoldTimeExpired => f.write_str("send hold timer expired"),
            Self::ConnectionLost => f.write_str("connection lost"),
            Self::ConnectFailed => f.write_str("connection failed"),
            Self::ReplacedByPeer => f.write_str("peer reconnected"),
            Self::Collision => f.write_str("connection collision"),
        }
    }
}
