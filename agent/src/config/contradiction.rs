//! Fields of a peer that are right by themselves and wrong together, whoever wrote them: a file, or annotations.

use margay_bgp::asn::Asn;
use margay_bgp::speaker::config::{LocalAsMode, PeerConfig, Remote};

/// What cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contradiction {
    /// The fields that take part in it; the complaint is about the first of them that is written.
    pub(super) fields: &'static [&'static str],
    /// What is there and what would be right.
    pub(super) reason: String,
}

/// Finds the contradictions in a peer that is shown `ours` as our AS.
pub(super) fn contradictions(peer: &PeerConfig, ours: Asn) -> Vec<Contradiction> {
    let mut found = Vec::new();
    let mut wrong = |fields, reason| found.push(Contradiction { fields, reason });
    let hold = peer.hold_time.duration();
    if peer.ttl.is_some() && peer.ttl_security.is_some() {
        wrong(
            &["ttl", "ttlSecurity"],
            "expected no `ttl` beside `ttlSecurity`, which sends with 255".to_owned(),
        );
    }
    if let (Some(keepalive), Some(hold)) = (peer.keepalive, hold)
        && keepalive >= hold
    {
        wrong(
            &["keepalive", "holdTime"],
            format!(
                "expected a `keepalive` of less than the hold time, {hold:?}, found {keepalive:?}"
            ),
        );
    }
    if let (Some(minimum), Some(hold)) = (peer.minimum_hold_time.duration(), hold)
        && minimum > hold
    {
        wrong(
            &["minimumHoldTime", "holdTime"],
            format!(
                "expected a `minimumHoldTime` of at most the hold time, {hold:?}, found {minimum:?}"
            ),
        );
    }
    if peer.idle_hold > peer.idle_hold_max {
        wrong(
            &["idleHold", "idleHoldMax"],
            format!(
                "expected an `idleHold` of at most `idleHoldMax`, {:?}, found {:?}",
                peer.idle_hold_max, peer.idle_hold
            ),
        );
    }
    if peer.connect_retry > peer.connect_retry_max {
        wrong(
            &["connectRetry", "connectRetryMax"],
            format!(
                "expected a `connectRetry` of at most `connectRetryMax`, {:?}, found {:?}",
                peer.connect_retry_max, peer.connect_retry
            ),
        );
    }
    if peer.graceful_restart.is_none()
        && peer
            .long_lived
            .is_some_and(|long_lived| !long_lived.stale_time.is_zero())
    {
        wrong(
            &["longLived"],
            "expected no `longLived` without `gracefulRestart`, which it continues".to_owned(),
        );
    }
    if peer.strict_role && peer.role.is_none() {
        wrong(
            &["strictRole"],
            "expected `role` beside it: what we are to the peer".to_owned(),
        );
    }
    if peer.local_as_mode != LocalAsMode::default() && peer.local_asn.is_none() {
        wrong(
            &["localAsMode"],
            "expected `localAsn` beside it: an AS other than the speaker's, which it is about"
                .to_owned(),
        );
    }
    if peer.local_as_mode == LocalAsMode::DualAs && peer.remote.is_range() {
        wrong(
            &["localAsMode"],
            "expected another mode for a range: dualAs needs one neighbour".to_owned(),
        );
    }
    found.extend(of_the_as(peer, ours));
    if let Some(address) = peer.next_hop_address
        && address.is_ipv4() == over_ipv4(peer)
    {
        found.push(Contradiction {
            fields: &["nextHopAddress"],
            reason: format!(
                "expected an address of the family that the session is not over, found `{address}`"
            ),
        });
    }
    found
}

/// What only a peer inside our AS can be told, or only one outside.
fn of_the_as(peer: &PeerConfig, ours: Asn) -> impl Iterator<Item = Contradiction> {
    let outside = peer.asn.is_external(ours);
    let cases: [(bool, &'static [&'static str], &str); 4] = [
        (
            peer.route_reflector_client && !peer.asn.accepts(ours, ours),
            &["routeReflectorClient", "asn"],
            "expected `routeReflectorClient` only for a peer of our own AS",
        ),
        (
            peer.as_override && !outside,
            &["asOverride"],
            "expected `asOverride` only for a peer of another AS",
        ),
        (
            peer.remove_private_as.is_some() && !outside,
            &["removePrivateAs"],
            "expected `removePrivateAs` only for a peer of another AS",
        ),
        (
            peer.role.is_some() && !outside,
            &["role"],
            "expected `role` only for a peer of another AS",
        ),
    ];
    let wrong = cases.into_iter().filter(|(wrong, ..)| *wrong);
    wrong.map(move |(_, fields, reason)| Contradiction {
        fields,
        reason: format!("{reason}, and AS {ours} is ours here"),
    })
}

fn over_ipv4(peer: &PeerConfig) -> bool {
    match peer.remote {
        Remote::Address(address) => address.is_ipv4(),
        Remote::Range(range) => range.addr().is_ipv4(),
        Remote::Unnumbered(_) => false,
    }
}
