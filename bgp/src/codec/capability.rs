//! Capabilities (RFC 5492). Known ones are values; unknown ones keep code and octets, which is
//! all a peer's list needs to be shown.

use bytes::Bytes;

use crate::asn::Asn;
use crate::family::{Afi, Family};

/// One capability of an OPEN.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Capability {
    /// Routes of this family (RFC 4760 §8). An OPEN without any means IPv4 unicast.
    Multiprotocol(Family),
    /// ROUTE-REFRESH is understood (RFC 2918). Its pre-standard code 128 reads as this.
    RouteRefresh,
    /// Families whose next hop may be of another AFI (RFC 8950).
    ExtendedNextHop(Vec<ExtendedNextHop>),
    /// Messages of up to 65535 octets are taken (RFC 8654).
    ExtendedMessage,
    /// The sender's role on the session (RFC 9234).
    Role(Role),
    /// Graceful restart (RFC 4724, RFC 8538).
    GracefulRestart(GracefulRestartCapability),
    /// The sender's AS number in four octets (RFC 6793).
    FourOctetAs(Asn),
    /// Several paths per prefix (RFC 7911). Tuples with an unknown mode are left out.
    AddPath(Vec<AddPath>),
    /// BoRR and EoRR are understood (RFC 7313).
    EnhancedRouteRefresh,
    /// Long-lived graceful restart (RFC 9494). Means nothing without `GracefulRestart`.
    LongLivedGracefulRestart(Vec<LongLivedFamily>),
    /// The sender's names, for people.
    Fqdn {
        /// Host name.
        host: String,
        /// Domain name, empty where the sender left it out.
        domain: String,
    },
    /// A link-local address alone is a good IPv6 next hop.
    LinkLocalNextHop,
    /// Any other.
    Unknown {
        /// Capability code.
        code: u8,
        /// Its value.
        data: Bytes,
    },
}

/// One tuple of the extended next hop capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExtendedNextHop {
    /// The prefixes' family.
    pub family: Family,
    /// The AFI their next hop may have.
    pub next_hop_afi: Afi,
}

/// BGP roles (RFC 9234 §3): what the sender is to the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Provider of transit.
    Provider,
    /// Route server.
    RouteServer,
    /// Client of a route server.
    RouteServerClient,
    /// Customer of transit.
    Customer,
    /// Peer without transit either way.
    Peer,
    /// A number the registry did not assign.
    Other(u8),
}

impl Role {
    /// Whether two speakers with these roles agree on what they are to each other.
    #[must_use]
    pub const fn fits(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Provider, Self::Customer)
                | (Self::Customer, Self::Provider)
                | (Self::RouteServer, Self::RouteServerClient)
                | (Self::RouteServerClient, Self::RouteServer)
                | (Self::Peer, Self::Peer)
        )
    }
}

/// Value of the graceful restart capability.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct GracefulRestartCapability {
    /// R: the sender has restarted and waits for our End-of-RIB.
    pub restarting: bool,
    /// N: NOTIFICATION and hold timer expiry keep routes too (RFC 8538).
    pub notification: bool,
    /// Seconds until the sender expects to be back, 0 to 4095.
    pub restart_time: u16,
    /// Families whose routes shall be kept. None at all means the sender only promises
    /// End-of-RIB.
    pub families: Vec<GracefulRestartFamily>,
}

/// One family of the graceful restart capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GracefulRestartFamily {
    /// The family.
    pub family: Family,
    /// F: the sender kept forwarding through its last restart.
    pub forwarding: bool,
}

/// One family of the long-lived graceful restart capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LongLivedFamily {
    /// The family.
    pub family: Family,
    /// F: the sender kept forwarding through its last restart.
    pub forwarding: bool,
    /// Seconds routes shall be kept after the restart time ran out, 0 to 16777215.
    pub stale_time: u32,
}

/// One tuple of the ADD-PATH capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddPath {
    /// The family.
    pub family: Family,
    /// The direction.
    pub mode: AddPathMode,
}

/// What the sender of an ADD-PATH tuple offers to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddPathMode {
    /// Receive several paths.
    Receive,
    /// Send several paths.
    Send,
    /// Both.
    Both,
}

impl AddPathMode {
    /// Whether the sender of the tuple takes several paths.
    #[must_use]
    pub const fn receives(self) -> bool {
        matches!(self, Self::Receive | Self::Both)
    }

    /// Whether the sender of the tuple wants to send several paths.
    #[must_use]
    pub const fn sends(self) -> bool {
        matches!(self, Self::Send | Self::Both)
    }
}
