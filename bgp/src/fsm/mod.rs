//! The session with one neighbour (RFC 4271 §8), without sockets and without a clock.
//!
//! A `Peer` is one configured neighbour and owns up to two TCP connections to it: one we dialled, one it dialled.
//! Each runs through OpenSent and OpenConfirm by itself; at most one of them is ever Established. Whoever owns the sockets
//! tells the peer what happened with `Peer::handle_event` and `Peer::handle_timeout`, then drains `Peer::poll_output`
//! and sleeps until `Peer::poll_timeout`.
//!
//! ```text
//!            Start                 ConnectionUp        OPEN accepted          KEEPALIVE
//!   Idle ─────────► Active/Connect ───────────► OpenSent ────────► OpenConfirm ────────► Established
//!     ▲   ▲ rest over      ▲  │ ▲ failed │            │ closed             │                  │
//!     │   └──(IdleHold)    └──┴─┴────────┴────────────┘                    │                  │
//!     └───────────────────────── errors, with a doubling rest ◄───────────┴──────────────────┘
//! ```
//!
//! Read `event.rs` for how these events map to the numbered ones of RFC 4271 §8.1, `negotiation.rs` for what two OPENs settle,
//! `collision.rs` for §6.8.
//!
//! Departs from RFC 4271 §8.2.2, each as the daemons in the field do:
//! - incoming connections are taken in Idle unless the neighbour is stopped or resting after an error of its own making:
//!   both sides come up as soon as either is ready (FRR, BIRD);
//! - a failed or lost connection leads to Active with a growing pause rather than to Idle (BIRD, FRR);
//! - an UPDATE in OpenConfirm counts as the KEEPALIVE before it (BIRD): some speakers send both in one segment and the order is
//!   theirs to lose;
//! - when octets of the neighbour wait unread at the end of the hold time, ten seconds are added: we were late (BIRD);
//! - a rest that a Cease of the neighbour started ends when the neighbour itself calls.
//!
//! What this does not do: parse or write routes, know of tables, keep stale routes. It only says, when a session ends, whether
//! they are to be kept (RFC 4724 §4.2, RFC 8538 §4).

mod event;
mod output;
mod state;

pub use self::event::{Direction, Event, Shutdown};
pub use self::output::{DownCause, DownReason, Negotiated, PeerOutput};
pub use self::state::State;
use crate::asn::Asn;
use crate::router_id::RouterId;

/// What our OPENs say of us, the same to every neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalIdentity {
    /// Our AS, unless the neighbour is shown another.
    pub asn: Asn,
    /// Our BGP Identifier.
    pub router_id: RouterId,
    /// We restarted and have not advertised since: the R bit (RFC 4724 §3). Cleared once selection was done.
    pub restarting: bool,
    /// The forwarding state survived our restart: the F bits. Where it did not, they are set from the second session on,
    /// because losing a session loses nothing of the kernel's.
    pub forwarding_preserved: bool,
}

/// Whether a neighbour's incoming connection is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Hand it over with [`Event::ConnectionUp`]; an earlier incoming connection is to be dropped before.
    Accept,
    /// Close it, saying nothing.
    Close,
    /// Say NOTIFICATION 6/5, connection rejected: the neighbour is administratively down here.
    Reject,
    /// Say NOTIFICATION 6/7, collision resolution: there is a session already.
    Collide,
}
