//! The states of RFC 4271 §8.2.2, one struct per state, holding only what that state knows.
//!
//! Idle, Connect and Active belong to the neighbour as a whole; from OpenSent on a state belongs to one connection.
//! What people see is the state of the connection that got farthest.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::negotiation::Offer;
use super::output::Negotiated;
use crate::codec::Open;

/// State of a neighbour as RFC 4271 names it; the order is that of progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Stopped, or resting after an error.
    #[default]
    Idle,
    /// Waiting for the neighbour, or for the next attempt.
    Active,
    /// Dialling.
    Connect,
    /// Our OPEN is out.
    OpenSent,
    /// Both OPENs are accepted here.
    OpenConfirm,
    /// Routes flow.
    Established,
}

impl State {
    /// The name used in RFC 4271.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Active => "Active",
            Self::Connect => "Connect",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Whether the neighbour's machine may run, apart from any connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// Not before a start.
    Stopped,
    /// Not before a start either: the neighbour announced more than it may.
    Limited,
    /// Not before the idle hold timer ran out.
    Resting {
        /// The neighbour may call meanwhile.
        admits: bool,
    },
    /// Yes: Active when there is no connection.
    Running,
}

/// One TCP connection, or the attempt at one.
#[derive(Debug)]
pub(super) enum Connection {
    Connecting(Connecting),
    Delaying(Delaying),
    OpenSent(OpenSent),
    OpenConfirm(OpenConfirm),
    Established(Established),
}

/// We are dialling.
#[derive(Debug)]
pub(super) struct Connecting;

/// The connection stands, and our OPEN is held back for the neighbour's.
#[derive(Debug)]
pub(super) struct Delaying {
    /// Our end.
    pub(super) local: SocketAddr,
    /// The neighbour's end.
    pub(super) remote: SocketAddr,
    /// Since when.
    pub(super) since: Instant,
}

/// Our OPEN is on its way.
#[derive(Debug)]
pub(super) struct OpenSent {
    /// Our end.
    pub(super) local: SocketAddr,
    /// The neighbour's end.
    pub(super) remote: SocketAddr,
    /// Since when.
    pub(super) since: Instant,
    /// What our OPEN said.
    pub(super) offer: Offer,
    /// The neighbour's OPEN, while it is open which of two connections both sides keep.
    pub(super) undecided: Option<Box<Open>>,
}

/// Both OPENs agree; a KEEPALIVE is awaited.
#[derive(Debug)]
pub(super) struct OpenConfirm {
    /// What they agreed on.
    pub(super) negotiated: Arc<Negotiated>,
    /// The peer's OPEN carried capabilities, so it knows what they are.
    pub(super) peer_knows_capabilities: bool,
    /// The peer's OPEN.
    pub(super) open: Box<Open>,
}

/// Routes flow.
#[derive(Debug)]
pub(super) struct Established {
    /// What the OPENs agreed on.
    pub(super) negotiated: Arc<Negotiated>,
    /// Since when.
    pub(super) since: Instant,
}

impl Connection {
    /// The state people see for this connection.
    pub(super) const fn state(&self) -> State {
        match self {
            Self::Connecting(_) | Self::Delaying(_) => State::Connect,
            Self::OpenSent(_) => State::OpenSent,
            Self::OpenConfirm(_) => State::OpenConfirm,
            Self::Established(_) => State::Established,
        }
    }
}
