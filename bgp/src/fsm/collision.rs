//! Two connections, one survivor (RFC 4271 §6.8, RFC 6286 §2.3).

use super::output::Negotiated;
use super::state::Connection;
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
}

/// Judges the connection that just settled `settled` against the neighbour's other one.
///
/// The surviving connection is the one opened by the side with the higher BGP Identifier, read as an unsigned number;
/// between equal identifiers, which RFC 6286 allows across ASs, the higher AS number decides.
pub(super) fn judge(
    settled: &Negotiated,
    our_router_id: RouterId,
    other: Option<&Connection>,
) -> Verdict {
    match other {
        None => Verdict::Both,
        Some(Connection::Connecting(_)) => Verdict::AbortOther,
        Some(Connection::OpenSent(_)) => Verdict::Both,
        Some(Connection::Established(_)) => Verdict::CloseThis,
        Some(Connection::OpenConfirm(_)) => {
            let peer_dominates = dominates(
                (settled.peer_router_id, settled.peer_asn),
                (our_router_id, settled.local_asn),
            );
            if peer_dominates == settled.direction.is_incoming() {
                Verdict::CloseOther
            } else {
                Verdict::CloseThis
            }
        }
    }
}

/// Whether speaker `a` dominates speaker `b`.
fn dominates(a: (RouterId, Asn), b: (RouterId, Asn)) -> bool {
    a > b
}
