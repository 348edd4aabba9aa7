//! The states of RFC 4271 §8.2.2, one struct per state, holding only what that state knows.
//!
//! Idle, Connect and Active belong to the neighbour as a whole; from OpenSent on a state belongs to one connection.
//! What people see is the state of the connection that got farthest.

use std::fmt;

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
