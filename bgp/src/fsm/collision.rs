//! Two connections, one survivor (RFC 4271 §6.8, RFC 6286 §2.3).

use std::time::Instant;

use super::output::Negotiated;
use super::state::Connection;
use super::timer::COLLISION_GRACE;
use crate::asn::Asn;
use crate::router_id::RouterId;

/// What becomes of two connections when an OPEN came on one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is decided before the other connection has its OPEN too.
    Both,
    /// The other connection is a mere attempt: give it up without a word.
    AbortOther,
    /// The other connection goes, with NOTIFICATION 6/7.
    CloseOther,
    /// The connection the OPEN came on goes, with NOTIFICATION 6/7.
    CloseThis,
    /// The other connection is a session that just came up and yet the one both sides might give up: wait which they keep.
    Wait,
}

/// Judges the connection that just settled `settled` against the neighbour's other one.
///
/// The surviving connection is the one opened by the side with the higher BGP Identifier, read as an unsigned number;
/// between equal identifiers, which RFC 6286 allows across ASs, the higher AS number decides.
///
/// A session wins over any other connection. One that is only moments old may be one at this end alone, though: the other side
/// awaits the KEEPALIVE that confirms it, and when an OPEN on the second connection reaches it first, it goes by identifiers.
/// Refusing that connection here would then cost both.
pub(super) fn judge(
    settled: &Negotiated,
    our_router_id: RouterId,
    other: Option<&Connection>,
    now: Instant,
) -> Verdict {
    let peer_dominates = dominates(
        (settled.peer_router_id, settled.peer_asn),
        (our_router_id, settled.local_asn),
    );
    let this_wins = peer_dominates == settled.direction.is_incoming();
    match other {
        None => Verdict::Both,
        Some(Connection::Connecting(_) | Connection::Delaying(_)) => Verdict::AbortOther,
        Some(Connection::OpenSent(_)) => Verdict::Both,
        Some(Connection::Established(up))
            if this_wins && now.saturating_duration_since(up.since) < COLLISION_GRACE =>
        {
            Verdict::Wait
        }
        Some(Connection::Established(_)) => Verdict::CloseThis,
        Some(Connection::OpenConfirm(_)) if this_wins => Verdict::CloseOther,
        Some(Connection::OpenConfirm(_)) => Verdict::CloseThis,
    }
}

/// Whether speaker `a` dominates speaker `b`.
fn dominates(a: (RouterId, Asn), b: (RouterId, Asn)) -> bool {
    a > b
}
