//! What annotations `margay.io/<field>` on objects of the cluster say of a session or of the speaker: fields of the speaker's file
//! that Calico's API does not have, each written as one text.

use std::collections::BTreeMap;
use std::time::Duration;

use margay_bgp::asn::Asn;
use margay_bgp::speaker::config::{
    LimitAction, LongLived, MaximumPrefixes, PeerConfig, SpeakerConfig,
};

use super::contradiction::contradictions;
use super::scalar::{
    BfdText, Count, FromText, LongLivedTime, MaybeAddPathSend, OfASecond, OneTo255, Pause, Seconds,
};

/// Sets fields of a peer from annotations, by their names. What one of them cannot say, or not together with the others and with
/// what the peer is, is left out; gives back which and why.
///
/// `ours` is the AS that the peer is shown.
pub fn annotate_peer<'a>(
    peer: &mut PeerConfig,
    ours: Asn,
    annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Vec<(&'a str, String)> {
    let plain = peer.clone();
    let mut refused = Vec::new();
    let mut taken: Vec<(&str, &str)> = annotations.into_iter().collect();
    taken.retain(|(field, text)| match annotate(peer, field, text) {
        Ok(()) => true,
        Err(reason) => {
            refused.push((*field, reason));
            false
        }
    });
    // What no annotation has said is not for them to mend, and hides nothing that one has.
    while let Some((position, reason)) = contradictions(peer, ours).into_iter().find_map(|found| {
        let mut fields = found.fields.iter();
        let position = fields.find_map(|field| taken.iter().position(|(name, _)| name == field))?;
        Some((position, found.reason))
    }) {
        let (field, _) = taken.remove(position);
        refused.push((field, reason));
        peer.clone_from(&plain);
        for (field, text) in &taken {
            // Each was taken before, and none needs another.
            drop(annotate(peer, field, text));
        }
    }
    refused
}

/// Sets one field of a peer from an annotation `margay.io/<field>`: the names of this file, for what Calico's API has no field.
///
/// # Errors
/// The value is not what the field takes, or there is no such field for annotations.
pub(super) fn annotate(peer: &mut PeerConfig, field: &str, text: &str) -> Result<(), String> {
    match field {
        "holdTime" => peer.hold_time = value(text)?,
        "minimumHoldTime" => peer.minimum_hold_time = value(text)?,
        "connectRetry" => peer.connect_retry = value::<Pause>(text)?.0,
        "connectRetryMax" => peer.connect_retry_max = value::<Pause>(text)?.0,
        "delayOpen" => peer.delay_open = Some(value::<Seconds>(text)?.0),
        "enforceFirstAs" => peer.enforce_first_as = value(text)?,
        "allowAsSet" => peer.allow_as_set = value(text)?,
        "strictAttributes" => peer.strict_attributes = value(text)?,
        "afiSafiDisable" => peer.afi_safi_disable = value(text)?,
        "idleHold" => peer.idle_hold = value::<Pause>(text)?.0,
        "idleHoldMax" => peer.idle_hold_max = value::<Pause>(text)?.0,
        "sendHold" => peer.send_hold = Some(value::<Seconds>(text)?.0),
        "longLived" => {
            peer.long_lived = Some(LongLived {
                stale_time: value::<LongLivedTime>(text)?.0,
                partial_deployment: peer
                    .long_lived
                    .is_some_and(|long_lived| long_lived.partial_deployment),
            })
        }
        "maximumPrefixes" => {
            let (limit, action) = text.split_once(',').unwrap_or((text, ""));
            let action = match action.trim().split_once('=') {
                Some(("restart", pause)) => LimitAction::Restart(value::<OfASecond>(pause)?.0),
                None if action.trim().is_empty() => LimitAction::Close,
                None if action.trim() == "warn" => LimitAction::Warn,
                None if action.trim() == "discard" => LimitAction::Discard,
                _ => {
                    return Err(format!(
                        "expected a number, or one with `,warn`, `,discard` or `,restart=SECONDS` behind it, found `{text}`"
                    ));
                }
            };
            peer.maximum_prefixes = Some(MaximumPrefixes {
                limit: value::<Count>(limit)?.0,
                action,
            });
        }
        "longLivedPartialDeployment" => {
            // Says nothing of how long: a time of zero keeps none of the peer's own routes.
            let stale_time = peer
                .long_lived
                .map_or(Duration::ZERO, |long_lived| long_lived.stale_time);
            peer.long_lived = Some(LongLived {
                stale_time,
                partial_deployment: value(text)?,
            });
        }
        "addPathReceive" => peer.add_path_receive = value(text)?,
        "addPathSend" => peer.add_path_send = value::<MaybeAddPathSend>(text)?.0,
        "extendedNextHop" => peer.extended_next_hop = value(text)?,
        "ttl" => peer.ttl = Some(value::<OneTo255>(text)?.0),
        "enabled" => peer.enabled = value(text)?,
        "shutdownText" => peer.shutdown_text = Some(text.to_owned()),
        "nextHop" => peer.next_hop = value(text)?,
        "role" => peer.role = Some(value(text)?),
        "strictRole" => peer.strict_role = value(text)?,
        "localAsMode" => peer.local_as_mode = value(text)?,
        "removePrivateAs" => peer.remove_private_as = Some(value(text)?),
        "asOverride" => peer.as_override = value(text)?,
        "defaultOriginate" => peer.default_originate = value(text)?,
        "gracefulShutdown" => peer.graceful_shutdown = value(text)?,
        "drain" => peer.drain = value(text)?,
        "bfd" => {
            let bfd = value::<BfdText>(text)?.0;
            if let Some(bfd) = &bfd {
                bfd.validate(&peer.remote)
                    .map_err(|error| error.to_string())?;
            }
            peer.bfd = bfd;
        }
        _ => {
            return Err("expected one of families, holdTime, minimumHoldTime, connectRetry, connectRetryMax, delayOpen, idleHold, idleHoldMax, sendHold, longLived, \
                longLivedPartialDeployment, maximumPrefixes, addPathReceive, addPathSend, extendedNextHop, ttl, enabled, shutdownText, nextHop, enforceFirstAs, strictAttributes, afiSafiDisable, \
                allowAsSet, role, strictRole, localAsMode, removePrivateAs, asOverride, defaultOriginate, gracefulShutdown, drain, bfd"
                .into());
        }
    }
    Ok(())
}

/// What of the speaker itself, not of a session, annotations of the BGPConfiguration may set.
pub const SPEAKER_FIELDS: [&str; 11] = [
    "maximumPaths",
    "multipathRelax",
    "alwaysCompareMed",
    "missingMedAsWorst",
    "preferOldestExternal",
    "weightedMultipath",
    "nextHopTracking",
    "resolveViaDefault",
    "clientToClient",
    "drain",
    "ebgpRequiresPolicy",
];

/// Sets one of [`SPEAKER_FIELDS`] from an annotation `margay.io/<field>`.
///
/// # Errors
/// The value is not what the field takes, or there is no such field.
pub fn annotate_speaker(
    speaker: &mut SpeakerConfig,
    field: &str,
    text: &str,
) -> Result<(), String> {
    match field {
        "maximumPaths" => speaker.maximum_paths = value::<Count>(text)?.0,
        "multipathRelax" => speaker.multipath_relax = value(text)?,
        "alwaysCompareMed" => speaker.always_compare_med = value(text)?,
        "missingMedAsWorst" => speaker.missing_med_as_worst = value(text)?,
        "preferOldestExternal" => speaker.prefer_oldest_external = value(text)?,
        "weightedMultipath" => speaker.weighted_multipath = value(text)?,
        "nextHopTracking" => speaker.next_hop_tracking = value(text)?,
        "resolveViaDefault" => speaker.resolve_via_default = value(text)?,
        "clientToClient" => speaker.client_to_client = value(text)?,
        "drain" => speaker.drain = value(text)?,
        // It is about what peers without policy are given: see `requires_policy`.
        "ebgpRequiresPolicy" => drop(value::<bool>(text)?),
        _ => return Err(format!("expected one of {}", SPEAKER_FIELDS.join(", "))),
    }
    Ok(())
}

/// Whether annotations ask for RFC 8212: sessions between ASs carry nothing that no filter speaks of.
#[must_use]
pub fn requires_policy(annotations: &BTreeMap<String, String>) -> bool {
    annotations
        .get("ebgpRequiresPolicy")
        .is_some_and(|text| value(text) == Ok(true))
}

fn value<T: FromText>(text: &str) -> Result<T, String> {
    T::from_text(text.trim()).ok_or_else(|| format!("expected {}, found `{text}`", T::WANTED))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use margay_bgp::codec::Role;
    use margay_bgp::policy::Policy;
    use margay_bgp::speaker::config::{GracefulRestart, Remote};

    use super::*;

    fn peer() -> PeerConfig {
        let remote = Remote::Address("10.0.0.1:179".parse().expect("an address"));
        let accept = Arc::new(Policy::accept_all());
        PeerConfig::new("tor", remote, Asn(1), Arc::clone(&accept), accept)
    }

    #[test]
    fn an_annotation_sets_bfd() {
        let peer = &mut peer();
        annotate(peer, "bfd", "minTx=100, minRx=100, multiplier=5").expect("good");
        let bfd = peer.bfd.expect("on");
        assert_eq!(
            (bfd.min_tx, bfd.min_rx, bfd.multiplier),
            (Duration::from_millis(100), Duration::from_millis(100), 5)
        );
        annotate(peer, "bfd", "false").expect("good");
        assert_eq!(peer.bfd, None);
        assert!(
            annotate(peer, "bfd", "minTx=1")
                .expect_err("too fast")
                .contains("from 10 ms")
        );
        // One that is refused would have the whole configuration refused with it.
        assert_eq!(peer.bfd, None);
    }

    #[test]
    fn an_annotation_sets_a_limit_and_what_happens_beyond_it() {
        let peer = &mut peer();
        for (text, action) in [
            ("500", LimitAction::Close),
            ("500,warn", LimitAction::Warn),
            ("500, discard", LimitAction::Discard),
            (
                "500,restart=60",
                LimitAction::Restart(Duration::from_secs(60)),
            ),
        ] {
            annotate(peer, "maximumPrefixes", text).expect(text);
            assert_eq!(
                peer.maximum_prefixes,
                Some(MaximumPrefixes { limit: 500, action }),
                "{text}"
            );
        }
        for wrong in ["many", "500,forget", "500,restart"] {
            assert!(annotate(peer, "maximumPrefixes", wrong).is_err(), "{wrong}");
        }
    }

    fn refused(peer: &mut PeerConfig, annotations: &[(&'static str, &'static str)]) -> Vec<String> {
        annotate_peer(peer, Asn(64512), annotations.iter().copied())
            .into_iter()
            .map(|(field, reason)| format!("{field}: {reason}"))
            .collect()
    }

    #[test]
    fn annotations_that_contradict_each_other_are_told_and_the_others_are_taken() {
        let cases: [(&[(&str, &str)], &str); 8] = [
            (
                &[("strictRole", "true")],
                "strictRole: expected `role` beside it: what we are to the peer",
            ),
            (
                &[("localAsMode", "prepend")],
                "localAsMode: expected `localAsn` beside it: an AS other than the speaker's, which it is about",
            ),
            (
                &[("minimumHoldTime", "60"), ("holdTime", "30")],
                "minimumHoldTime: expected a `minimumHoldTime` of at most the hold time, 30s, found 60s",
            ),
            (
                &[("idleHold", "120")],
                "idleHold: expected an `idleHold` of at most `idleHoldMax`, 60s, found 120s",
            ),
            (
                &[("idleHoldMax", "500ms")],
                "idleHoldMax: expected an `idleHold` of at most `idleHoldMax`, 500ms, found 1s",
            ),
            (
                &[("connectRetry", "30")],
                "connectRetry: expected a `connectRetry` of at most `connectRetryMax`, 15s, found 30s",
            ),
            (
                &[("ttl", "0")],
                "ttl: expected a number from 1 to 255, found `0`",
            ),
            (
                &[("connectRetry", "10ms")],
                "connectRetry: expected a duration from 100 ms to a day (5, 500ms, 1m), found `10ms`",
            ),
        ];
        for (annotations, reason) in cases {
            let mut peer = peer();
            let mut all = annotations.to_vec();
            all.push(("allowAsSet", "true"));
            assert_eq!(refused(&mut peer, &all), [reason]);
            assert!(peer.allow_as_set, "{reason}");
            let said = reason.split_once(':').expect("a field").0;
            let mut rest: Vec<_> = all
                .into_iter()
                .filter(|(field, _)| *field != said)
                .collect();
            let mut without = self::peer();
            assert_eq!(refused(&mut without, &std::mem::take(&mut rest)), [""; 0]);
            assert_eq!(peer, without);
        }
    }

    #[test]
    fn an_annotation_is_held_against_what_the_peer_is() {
        let mut secured = peer();
        secured.ttl_security = Some(1);
        assert_eq!(
            refused(&mut secured, &[("ttl", "4")]),
            ["ttl: expected no `ttl` beside `ttlSecurity`, which sends with 255"]
        );
        assert_eq!(secured.ttl, None);
        let mut internal = peer();
        internal.asn = Asn(64512).into();
        assert_eq!(
            refused(&mut internal, &[("role", "peer"), ("asOverride", "true")]),
            [
                "asOverride: expected `asOverride` only for a peer of another AS, and AS 64512 is ours here",
                "role: expected `role` only for a peer of another AS, and AS 64512 is ours here",
            ]
        );
        assert_eq!((internal.role, internal.as_override), (None, false));
        let mut external = peer();
        assert_eq!(
            refused(
                &mut external,
                &[("role", "customer"), ("strictRole", "true")]
            ),
            [""; 0]
        );
        assert_eq!(external.role, Some(Role::Customer));
        let mut forgetful = peer();
        forgetful.graceful_restart = None::<GracefulRestart>;
        assert_eq!(
            refused(&mut forgetful, &[("longLived", "1h")]),
            ["longLived: expected no `longLived` without `gracefulRestart`, which it continues"]
        );
    }

    #[test]
    fn a_contradiction_that_no_annotation_made_is_left_alone() {
        let mut odd = peer();
        odd.keepalive = Some(Duration::from_secs(90));
        assert_eq!(refused(&mut odd, &[("allowAsSet", "true")]), [""; 0]);
        assert!(odd.allow_as_set);
        assert_eq!(
            refused(&mut odd, &[("holdTime", "60")]),
            ["holdTime: expected a `keepalive` of less than the hold time, 60s, found 90s"]
        );
        assert_eq!(odd.keepalive, Some(Duration::from_secs(90)));
        // Nor does it hide those that annotations made.
        assert_eq!(
            refused(&mut odd, &[("strictRole", "true"), ("idleHold", "120")]),
            [
                "idleHold: expected an `idleHold` of at most `idleHoldMax`, 60s, found 120s",
                "strictRole: expected `role` beside it: what we are to the peer",
            ]
        );
        assert!(!odd.strict_role && odd.idle_hold < odd.idle_hold_max);
    }
}
