//! What annotations `margay.io/<field>` on objects of the cluster say of a session or of the speaker: fields of the speaker's file
//! that Calico's API does not have, each written as one text.

use std::collections::BTreeMap;
use std::time::Duration;

use margay_bgp::speaker::config::{
    LimitAction, LongLived, MaximumPrefixes, PeerConfig, SpeakerConfig,
};

use super::scalar::{BfdText, FromText, MaybeAddPathSend, Seconds};

/// Sets one field of a peer from an annotation `margay.io/<field>`: the names of this file, for what Calico's API has no field.
///
/// # Errors
/// The value is not what the field takes, or there is no such field for annotations.
pub fn annotate(peer: &mut PeerConfig, field: &str, text: &str) -> Result<(), String> {
    match field {
        "holdTime" => peer.hold_time = value(text)?,
        "minimumHoldTime" => peer.minimum_hold_time = value(text)?,
        "connectRetry" => peer.connect_retry = value::<Seconds>(text)?.0,
        "connectRetryMax" => peer.connect_retry_max = value::<Seconds>(text)?.0,
        "delayOpen" => peer.delay_open = Some(value::<Seconds>(text)?.0),
        "enforceFirstAs" => peer.enforce_first_as = value(text)?,
        "allowAsSet" => peer.allow_as_set = value(text)?,
        "strictAttributes" => peer.strict_attributes = value(text)?,
        "afiSafiDisable" => peer.afi_safi_disable = value(text)?,
        "idleHold" => peer.idle_hold = value::<Seconds>(text)?.0,
        "idleHoldMax" => peer.idle_hold_max = value::<Seconds>(text)?.0,
        "sendHold" => peer.send_hold = Some(value::<Seconds>(text)?.0),
        "longLived" => {
            peer.long_lived = Some(LongLived {
                stale_time: value::<Seconds>(text)?.0,
                partial_deployment: peer
                    .long_lived
                    .is_some_and(|long_lived| long_lived.partial_deployment),
            })
        }
        "maximumPrefixes" => {
            let (limit, action) = text.split_once(',').unwrap_or((text, ""));
            let action = match action.trim().split_once('=') {
                Some(("restart", pause)) => LimitAction::Restart(value::<Seconds>(pause)?.0),
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
                limit: value(limit)?,
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
        "ttl" => peer.ttl = Some(value(text)?),
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
        "maximumPaths" => speaker.maximum_paths = value::<usize>(text)?.max(1),
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
