//! What a speaker tells of itself, as answers name it.

use std::time::Duration;

use margay_bgp::bfd;
use margay_bgp::codec::attribute::PathAttributes;
use margay_bgp::codec::{NextHop, Origin};
use margay_bgp::speaker::snapshot::{
    BfdSnapshot, MessageCounters, PathInfo, PeerFamilySnapshot, PeerSnapshot, Retention,
    SpeakerSnapshot, TableSnapshot,
};

use super::{answer, events};

/// All that is neither a peer nor a route.
pub(super) fn speaker(speaker: &SpeakerSnapshot) -> answer::Speaker {
    let counters = &speaker.bfd;
    answer::Speaker {
        deferring: speaker.deferring.iter().map(ToString::to_string).collect(),
        tables: speaker.tables.iter().map(table).collect(),
        attribute_sets: speaker.attribute_sets,
        memory: answer::Memory {
            prefixes: speaker.memory.prefixes,
            paths: speaker.memory.paths,
            attributes: speaker.memory.attributes,
            groups: speaker.memory.groups,
        },
        sessions_established: speaker.totals.established,
        sessions_lost: speaker.totals.lost,
        messages: messages(&speaker.totals.messages),
        routes_unsendable: speaker.totals.unsendable,
        errors: speaker
            .errors
            .iter()
            .filter(|(.., count)| *count > 0)
            .map(|(class, action, count)| answer::ErrorTotal {
                class: class.name().into(),
                action: action.name().into(),
                count,
            })
            .collect(),
        bfd: answer::BfdCounters {
            received: counters.received,
            sent: counters.sent,
            malformed: counters.malformed,
            authenticated: counters.authenticated,
            ttl: counters.ttl,
            unknown: counters.unknown,
            transitions: counters.transitions,
            losses: counters.losses,
        },
    }
}

fn table(table: &TableSnapshot) -> answer::Table {
    answer::Table {
        family: table.family.to_string(),
        prefixes: table.prefixes,
        best: table.best,
        paths: table.paths,
        update_groups: table.update_groups,
        pending_decisions: table.pending_decisions,
        pending_changes: table.pending_changes,
    }
}

/// A peer, and where it is asked for.
pub(super) fn peer(peer: PeerSnapshot, origin: &str, object: String) -> answer::Peer {
    answer::Peer {
        origin: origin.to_owned(),
        object,
        name: peer.name.to_string(),
        address: peer.address.ip().to_string(),
        port: peer.address.port(),
        asn: peer.asn.map_or(0, |asn| asn.0),
        local_asn: peer.local_asn.0,
        state: peer.state.to_string(),
        since: peer.state_for.as_secs(),
        enabled: peer.enabled,
        route_reflector_client: peer.route_reflector_client,
        external: peer.external,
        dynamic: peer.dynamic,
        warnings: peer.warnings.iter().map(ToString::to_string).collect(),
        established_count: peer.established_count,
        last_error: peer.last_error,
        local_address: peer.local_address.map(|address| address.to_string()),
        router_id: peer.router_id.map(|id| id.to_string()),
        hold_time: peer.hold_time.map(|time| time.as_secs()),
        keepalive: peer.keepalive.map(|time| time.as_secs_f64()),
        next_timer: peer.next_timer.map(|time| time.as_secs_f64()),
        capabilities: peer.capabilities,
        bfd: peer.bfd.map(|path| watched(&path)),
        capabilities_sent: peer.capabilities_sent,
        capabilities_received: peer.capabilities_received,
        graceful_restart: peer
            .graceful_restart
            .map(|restart| answer::GracefulRestart {
                restart_time: restart.restart_time.as_secs(),
                restarting: restart.restarting,
                notification: restart.notification,
                long_lived: restart.long_lived,
            }),
        messages: messages(&peer.messages),
        queued_octets: peer.queued_octets,
        errors: peer.errors.into_iter().map(events::error_count).collect(),
        offences: peer.offences.into_iter().map(events::offence).collect(),
        families: peer.families.iter().map(family).collect(),
    }
}

fn family(family: &PeerFamilySnapshot) -> answer::PeerFamily {
    answer::PeerFamily {
        family: family.family.to_string(),
        negotiated: family.negotiated,
        received: family.received,
        accepted: family.accepted,
        advertised: family.advertised,
        lag: family.lag,
        end_of_rib_received: family.end_of_rib_received,
        end_of_rib_sent: family.end_of_rib_sent,
        retention: family.retention.to_string(),
        update_group: family.update_group,
        rejected: family
            .rejected
            .iter()
            .map(|(reason, count)| answer::Rejected {
                reason: reason.name().into(),
                count: *count,
            })
            .collect(),
        stale: family.stale,
        unsendable: family.unsendable,
        withheld: family.withheld,
        next_hop_missing: family.next_hop_missing,
    }
}

const fn messages(messages: &MessageCounters) -> answer::Messages {
    answer::Messages {
        updates_received: messages.updates_received,
        announcements_received: messages.announcements_received,
        withdrawals_received: messages.withdrawals_received,
        refreshes_received: messages.refreshes_received,
        attribute_faults: messages.attribute_faults,
        excess_paths: messages.excess_paths,
        discarded_prefixes: messages.discarded_prefixes,
        octets_sent: messages.octets_sent,
        chunks_sent: messages.chunks_sent,
    }
}

fn watched(path: &BfdSnapshot) -> answer::PeerBfd {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut shown = answer::PeerBfd {
        state: bfd::State::Down.to_string(),
        since: path.state_for.as_secs(),
        strict: path.strict,
        ..answer::PeerBfd::default()
    };
    if let Some(status) = path.status {
        shown.state = status.state.to_string();
        shown.diagnostic = status.diagnostic.to_string();
        shown.remote_state = status.remote_state.to_string();
        shown.remote_diagnostic = status.remote_diagnostic.to_string();
        shown.local_discriminator = status.local_discriminator;
        shown.remote_discriminator = status.remote_discriminator;
        shown.remote_control_plane_independent = status.remote_control_plane_independent;
        shown.transmit_interval = milliseconds(status.transmit_interval);
        shown.detection_time = milliseconds(status.detection_time);
        shown.transitions = status.transitions;
    }
    shown
}

/// A path with every attribute.
pub(super) fn path(path: &PathInfo) -> answer::Path {
    let attributes = &path.attributes;
    answer::Path {
        from: path.source.to_string(),
        next_hop: path.next_hop.map(next_hop),
        next_hop_link_local: path.next_hop.and_then(beside_the_global_one),
        as_path: attributes.as_path.to_string(),
        origin: origin(attributes.origin).to_owned(),
        local_pref: attributes.local_pref.map(|value| value.0),
        med: attributes.med.map(|value| value.0),
        communities: communities(attributes),
        originator_id: attributes.originator_id.map(|id| id.to_string()),
        cluster_list: attributes
            .cluster_list
            .iter()
            .map(ToString::to_string)
            .collect(),
        best: path.best,
        used: path.used,
        step: path.step.map(|step| step.to_string()),
        unusable: path.unusable.map(|reason| reason.to_string()),
        stale: path.retention != Retention::None,
        retention: path.retention.to_string(),
        path_id: path.path_id,
        weight: path.weight,
        atomic_aggregate: attributes.atomic_aggregate,
        aggregator: attributes.aggregator.map(|aggregator| answer::Aggregator {
            asn: aggregator.asn.0,
            address: aggregator.addr.to_string(),
        }),
        only_to_customer: attributes.only_to_customer.map(|asn| asn.0),
        unknown_attributes: attributes
            .unknown
            .iter()
            .map(|unknown| answer::UnknownAttribute {
                code: unknown.code.0,
                flags: unknown.flags.bits(),
                value: format!("{:x}", unknown.value),
            })
            .collect(),
        partial: attributes
            .partial
            .iter_names()
            .map(|(name, _)| name.to_owned())
            .collect(),
    }
}

fn communities(attributes: &PathAttributes) -> Vec<String> {
    let standard = attributes.communities.iter().map(ToString::to_string);
    let large = attributes.large_communities.iter().map(ToString::to_string);
    let extended = attributes
        .extended_communities
        .iter()
        .map(ToString::to_string);
    let of_ipv6 = attributes
        .ipv6_extended_communities
        .iter()
        .map(|community| format!("{community:?}"));
    standard
        .chain(large)
        .chain(extended)
        .chain(of_ipv6)
        .collect()
}

fn next_hop(hop: NextHop) -> String {
    match hop {
        NextHop::V4(address) => address.to_string(),
        NextHop::V6 {
            global: Some(address),
            ..
        }
        | NextHop::V6 {
            global: None,
            link_local: Some(address),
        } => address.to_string(),
        NextHop::V6 {
            global: None,
            link_local: None,
        } => String::new(),
    }
}

fn beside_the_global_one(hop: NextHop) -> Option<String> {
    match hop {
        NextHop::V6 {
            global: Some(_),
            link_local,
        } => link_local.map(|address| address.to_string()),
        NextHop::V6 { global: None, .. } | NextHop::V4(_) => None,
    }
}

const fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Igp => "IGP",
        Origin::Egp => "EGP",
        Origin::Incomplete => "incomplete",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use margay_bgp::asn::Asn;
    use margay_bgp::codec::attribute::{Aggregator, PartialBits, UnknownAttribute};
    use margay_bgp::codec::community::Ipv6ExtendedCommunity;
    use margay_bgp::codec::{AttributeCode, AttributeFlags};
    use margay_bgp::rib::RouteSource;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_is_told_with_all_it_came_with() {
        let mut attributes = PathAttributes {
            atomic_aggregate: true,
            aggregator: Some(Aggregator {
                asn: Asn(64601),
                addr: [192, 0, 2, 1].into(),
            }),
            only_to_customer: Some(Asn(64602)),
            unknown: vec![UnknownAttribute {
                code: AttributeCode(99),
                flags: AttributeFlags::OPTIONAL | AttributeFlags::TRANSITIVE,
                value: Bytes::from_static(&[1, 0xff]),
            }],
            partial: PartialBits::AGGREGATOR,
            ..PathAttributes::default()
        };
        let community = Ipv6ExtendedCommunity([7; 20]);
        attributes.ipv6_extended_communities.insert(community);
        let info = PathInfo {
            source: RouteSource::Local,
            path_id: Some(5),
            attributes: Arc::new(attributes),
            next_hop: Some(NextHop::V6 {
                global: "2001:db8::1".parse().ok(),
                link_local: "fe80::1".parse().ok(),
            }),
            weight: 30,
            best: false,
            used: false,
            step: None,
            unusable: None,
            retention: Retention::LongLivedStale,
        };
        let told = serde_json::to_value(path(&info)).expect("plain values");
        for (name, wanted) in [
            ("pathId", json!(5)),
            ("weight", json!(30)),
            ("nextHop", json!("2001:db8::1")),
            ("nextHopLinkLocal", json!("fe80::1")),
            ("atomicAggregate", json!(true)),
            (
                "aggregator",
                json!({ "asn": 64601, "address": "192.0.2.1" }),
            ),
            ("onlyToCustomer", json!(64602)),
            (
                "unknownAttributes",
                json!([{ "code": 99, "flags": 0xc0, "value": "01ff" }]),
            ),
            ("partial", json!(["AGGREGATOR"])),
            ("communities", json!([format!("{community:?}")])),
            ("stale", json!(true)),
            ("retention", json!("long-lived-stale")),
        ] {
            assert_eq!(told[name], wanted, "{name}");
        }
    }
}
