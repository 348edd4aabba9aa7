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

/// Finds the first contradiction in a peer that is shown `ours` as our AS.
pub(super) fn contradiction(peer: &PeerConfig, ours: Asn) -> Result<(), Contradiction> {
    let wrong = |fields, reason: String| Err(Contradiction { fields, reason });
    let hold = peer.hold_time.duration();
    if peer.ttl.is_some() && peer.ttl_security.is_some() {
        return wrong(
            &["ttl", "ttlSecurity"],
            "expected no `ttl` beside `ttlSecurity`, which sends with 255".into(),
        );
    }
    if let (Some(keepalive), Some(hold)) = (peer.keepalive, hold)
        && keepalive >= hold
    {
        return wrong(
            &["keepalive", "holdTime"],
            format!(
                "expected a `keepalive` of less than the hold time, {hold:?}, found {keepalive:?}"
            ),
        );
    }
    if let (Some(minimum), Some(hold)) = (peer.minimum_hold_time.duration(), hold)
        && minimum > hold
    {
        return wrong(
            &["minimumHoldTime", "holdTime"],
            format!(
                "expected a `minimumHoldTime` of at most the hold time, {hold:?}, found {minimum:?}"
            ),
        );
    }
    if peer.idle_hold > peer.idle_hold_max {
        return wrong(
            &["idleHold", "idleHoldMax"],
            format!(
                "expected an `idleHold` of at most `idleHoldMax`, {:?}, found {:?}",
                peer.idle_hold_max, peer.idle_hold
            ),
        );
    }
    if peer.connect_retry > peer.connect_retry_max {
        return wrong(
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
        return wrong(
            &["longLived"],
            "expected no `longLived` without `gracefulRestart`, which it continues".into(),
        );
    }
    if peer.strict_role && peer.role.is_none() {
        return wrong(
            &["strictRole"],
            "expected `role` beside it: what we are to the peer".into(),
        );
    }
    if peer.local_as_mode != LocalAsMode::default() && peer.local_asn.is_none() {
        return wrong(
            &["localAsMode"],
            "expected `localAsn` beside it: an AS other than the speaker's, which it is about"
                .into(),
        );
    }
    if peer.local_as_mode == LocalAsMode::DualAs && peer.remote.is_range() {
        return wrong(
            &["localAsMode"],
            "expected another mode for a range: dualAs needs one neighbour".into(),
        );
    }
    of_the_as(peer, ours)?;
    if let Some(address) = peer.next_hop_address
        && address.is_ipv4() == over_ipv4(peer)
    {
        return wrong(
            &["nextHopAddress"],
            format!(
                "expected an address of the family that the session is not over, found `{address}`"
            ),
        );
    }
    Ok(())
}

/// What only a peer inside our AS can be told, or only one outside.
fn of_the_as(peer: &PeerConfig, ours: Asn) -> Result<(), Contradiction> {
    let wrong = |fields, reason: &str| {
        let reason = format!("{reason}, and AS {ours} is ours here");
        Err(Contradiction { fields, reason })
    };
    if peer.route_reflector_client && !peer.asn.accepts(ours, ours) {
        return wrong(
            &["routeReflectorClient", "asn"],
            "expected `routeReflectorClient` only for a peer of our own AS",
        );
    }
    if peer.asn.is_external(ours) {
        return Ok(());
    }
    if peer.as_override {
        return wrong(
            &["asOverride"],
            "expected `asOverride` only for a peer of another AS",
        );
    }
    if peer.remove_private_as.is_some() {
        return wrong(
            &["removePrivateAs"],
            "expected `removePrivateAs` only for a peer of another AS",
        );
    }
    if peer.role.is_some() {
        return wrong(&["role"], "expected `role` only for a peer of another AS");
    }
    Ok(())
}

fn over_ipv4(peer: &PeerConfig) -> bool {
    match peer.remote {
        Remote::Address(address) => address.is_ipv4(),
        Remote::Range(range) => range.addr().is_ipv4(),
        Remote::Unnumbered(_) => false,
    }
}
