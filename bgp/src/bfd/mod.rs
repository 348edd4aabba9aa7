//! Bidirectional Forwarding Detection (RFC 5880) without a socket and without a clock: the path to a neighbour, watched in
//! both directions by packets of 24 octets, so that its silent end is noticed in a fraction of a second instead of a hold time.
//!
//! ```text
//!   datagram ─► packet ─► sessions: whose? ─► session: state, timers, poll ─► Output::Send ─► datagram
//!   configure, remove ───────┘     handle_timeout ─┘      └─► Output::Report ─► whoever trusts the path
//! ```
//!
//! [`Sessions`] is told what came ([`Sessions::handle_datagram`]) and what is wanted ([`Sessions::configure`]), drained with
//! [`Sessions::poll_output`], and woken at [`Sessions::poll_timeout`]. `packet.rs` holds the format, `session.rs` the machine of
//! one session, `sessions.rs` all of them and whose a packet is.
//!
//! Asynchronous mode over one hop (RFC 5881: port 3784, TTL 255 and no less) or several (RFC 5883: port 4784, a least TTL where
//! the number of hops is given). Both sides are active. Every octet received is hostile until a session took it: what fits none is counted and forgotten, costs no
//! memory, and is never answered.
//!
//! Not done: authentication (packets with the A bit are dropped and counted, as RFC 5880 §6.8.6 has it for sessions without),
//! the echo function (we say that we take none), asking for demand mode (a peer's own wish for it is honoured).
//!
//! The C bit is never set: these sessions live in the process that speaks BGP and die with it, which a peer that helps its
//! graceful restart should know (RFC 5882 §4.3).

mod packet;
mod session;
mod sessions;

use std::net::IpAddr;
use std::time::Duration;

pub use self::packet::{ControlPacket, Diagnostic, PACKET_LEN, PacketError, State};
pub use self::session::{Loss, Report, Status};
pub use self::sessions::{Arrival, Counters, Output, Sessions};
use crate::speaker::config::Bfd;

/// UDP port of single-hop sessions (RFC 5881 §4).
pub const SINGLE_HOP_PORT: u16 = 3784;

/// UDP port of multihop sessions (RFC 5883 §5).
pub const MULTIHOP_PORT: u16 = 4784;

/// What one session is to watch, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// The other end.
    pub remote: IpAddr,
    /// The interface of a link-local `remote`, as its index; 0 for any.
    pub scope: u32,
    /// Our end; whatever the kernel chooses where absent.
    pub local: Option<IpAddr>,
    /// `bfd.DesiredMinTxInterval` while Up.
    pub min_tx: Duration,
    /// `bfd.RequiredMinRxInterval`.
    pub min_rx: Duration,
    /// `bfd.DetectMult`.
    pub multiplier: u8,
    /// The other end is at most so many hops away; on the same link where absent.
    pub multihop: Option<u8>,
}

impl SessionConfig {
    /// A session with a neighbour as a peer's configuration asks for it.
    #[must_use]
    pub const fn new(bfd: &Bfd, remote: IpAddr, scope: u32, local: Option<IpAddr>) -> Self {
        Self {
            remote,
            scope,
            local,
            min_tx: bfd.min_tx,
            min_rx: bfd.min_rx,
            multiplier: bfd.multiplier,
            multihop: bfd.multihop,
        }
    }

    /// Where its packets go to, and come to.
    #[must_use]
    pub const fn port(&self) -> u16 {
        match self.multihop {
            None => SINGLE_HOP_PORT,
            Some(_) => MULTIHOP_PORT,
        }
    }

    /// The smallest TTL its packets may arrive with (RFC 5881 §5, RFC 5883 §4).
    #[must_use]
    pub const fn least_ttl(&self) -> u8 {
        match self.multihop {
            None => u8::MAX,
            Some(hops) => u8::MAX - hops.saturating_sub(1),
        }
    }

    /// Whether both are sessions over the same path, so that one can become the other by a poll sequence. How many hops it may
    /// have is nothing the other end has to know.
    #[must_use]
    pub fn same_path(&self, other: &Self) -> bool {
        (self.remote, self.scope, self.local, self.port())
            == (other.remote, other.scope, other.local, other.port())
    }
}

#[cfg(test)]
mod tests;
