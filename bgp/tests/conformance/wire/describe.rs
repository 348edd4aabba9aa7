//! A speaker's configuration as a file of `margay speaker`. What the file cannot say ends the case.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use margay_bgp::policy::{Action, Condition, Policy, Rule, Verdict};
use margay_bgp::prefix::Prefix;
use margay_bgp::speaker::config::{
    AddPathSend, LimitAction, NextHopMode, PeerConfig, Remote, SpeakerConfig,
};

use super::place::link_name;
use super::{OWN_ASN, PROBES, WITNESS};

/// A name of ours as the file writes it.
fn key_of(value: &impl std::fmt::Debug) -> String {
    let name = format!("{value:?}");
    let (first, rest) = name.split_at(1);
    first.to_lowercase() + rest
}

fn milliseconds(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items
        .into_iter()
        .map(|item| format!("\"{}\"", item.to_string()))
        .collect();
    format!("[{}]", items.join(", "))
}

/// The file; with `marker` it originates that as well.
pub(super) fn describe(config: &SpeakerConfig, forwards: bool, marker: Option<Prefix>) -> String {
    let mut plain = SpeakerConfig::new(config.asn, config.router_id);
    plain.peers.clone_from(&config.peers);
    let mut text = format!("asn: {}\nrouterId: {}\n", config.asn, config.router_id);
    let own = super::super::own_address();
    let mut listen = match &config.listen[..] {
        [] => vec![own],
        listen => listen.iter().map(|listen| listen.address).collect(),
    };
    if config.peers.iter().any(|peer| is_on_link(&peer.remote)) {
        listen.push(([0; 16], 179).into());
    }
    writeln!(text, "listen: {}", list(listen)).unwrap();
    plain.listen.clone_from(&config.listen);
    macro_rules! field {
        ($field:ident, $key:literal, $value:expr) => {
            if plain.$field != config.$field {
                plain.$field.clone_from(&config.$field);
                writeln!(text, "{}: {}", $key, $value).unwrap();
            }
        };
    }
    if forwards {
        let tracking = config.next_hop_tracking;
        writeln!(
            text,
            "kernel: {{ install: true }}\nnextHopTracking: {tracking}"
        )
        .unwrap();
        plain.next_hop_tracking = tracking;
    }
    field!(
        resolve_via_default,
        "resolveViaDefault",
        config.resolve_via_default
    );
    field!(
        weighted_multipath,
        "weightedMultipath",
        config.weighted_multipath
    );
    field!(cluster_id, "clusterId", config.cluster_id.unwrap());
    field!(restarting, "restarting", config.restarting);
    field!(
        selection_deferral,
        "selectionDeferral",
        milliseconds(config.selection_deferral)
    );
    field!(
        connect_grace,
        "connectGrace",
        milliseconds(config.connect_grace)
    );
    field!(maximum_paths, "maximumPaths", config.maximum_paths);
    field!(multipath_relax, "multipathRelax", config.multipath_relax);
    field!(client_to_client, "clientToClient", config.client_to_client);
    field!(drain, "drain", config.drain);
    field!(
        always_compare_med,
        "alwaysCompareMed",
        config.always_compare_med
    );
    field!(
        missing_med_as_worst,
        "missingMedAsWorst",
        config.missing_med_as_worst
    );
    field!(
        prefer_oldest_external,
        "preferOldestExternal",
        config.prefer_oldest_external
    );
    let mut routes = Vec::new();
    for route in &config.originate {
        let mut parts = format!("prefix: \"{}\"", route.prefix);
        if let Some(med) = route.med {
            write!(parts, ", med: {}", med.0).unwrap();
        }
        if let Some(next_hop) = route.next_hop {
            write!(parts, ", nextHop: \"{next_hop}\"").unwrap();
        }
        assert!(
            route.communities.is_empty()
                && route.large_communities.is_empty()
                && route.local_pref.is_none(),
            "no words yet for {route:?}"
        );
        routes.push(format!("{{ {parts} }}"));
    }
    routes.extend(marker.map(|marker| format!("\"{marker}\"")));
    if !config.monitoring.is_empty() {
        text.push_str("monitoring:\n");
    }
    for collector in &config.monitoring {
        let statistics = match collector.statistics {
            Some(every) => milliseconds(every),
            None => "false".to_owned(),
        };
        writeln!(
            text,
            "  - {{ address: \"{}\", port: {}, prePolicy: {}, postPolicy: {}, locRib: {}, adjRibOut: {}, statistics: {statistics} }}",
            collector.address.ip(),
            collector.address.port(),
            collector.pre_policy,
            collector.post_policy,
            collector.loc_rib,
            collector.adj_rib_out
        )
        .unwrap();
    }
    plain.monitoring.clone_from(&config.monitoring);
    writeln!(text, "originate: [{}]", routes.join(", ")).unwrap();
    plain.originate.clone_from(&config.originate);
    let mut aggregates = Vec::new();
    for aggregate in &config.aggregates {
        aggregates.push(format!(
            "{{ prefix: \"{}\", summaryOnly: {} }}",
            aggregate.prefix, aggregate.summary_only
        ));
        assert!(
            aggregate.communities.is_empty() && aggregate.med.is_none(),
            "no words yet for {aggregate:?}"
        );
    }
    writeln!(text, "aggregates: [{}]", aggregates.join(", ")).unwrap();
    plain.aggregates.clone_from(&config.aggregates);
    assert!(
        plain == *config,
        "no words yet for what this case configures: {config:#?}"
    );
    let mut policies = format!(
        "policies:\n  - name: probes\n    rules: [{{ match: {{ prefixes: {} }}, then: accept }}]\n",
        list(PROBES)
    );
    let mut peers = "peers:\n".to_owned();
    for peer in &config.peers {
        describe_peer(&mut peers, &mut policies, peer);
    }
    let (name, last, asn) = WITNESS;
    writeln!(
        peers,
        "  - name: {name}\n    address: 192.0.2.{last}\n    asn: {asn}\n    localAsn: {OWN_ASN}\n    passive: true\n    nextHopAddress: 2001:db8::1"
    )
    .unwrap();
    text + &policies + &peers
}

fn is_on_link(remote: &Remote) -> bool {
    matches!(remote, Remote::Address(SocketAddr::V6(_)))
}

fn describe_peer(text: &mut String, policies: &mut String, peer: &PeerConfig) {
    let remote = match peer.remote {
        Remote::Address(remote) if remote.is_ipv4() && remote.port() != 179 => {
            format!("address: {}\n    port: {}", remote.ip(), remote.port())
        }
        Remote::Address(remote) if remote.is_ipv4() => format!("address: {}", remote.ip()),
        Remote::Range(range) => format!("range: {range}"),
        Remote::Address(SocketAddr::V6(remote)) if remote.scope_id() != 0 => format!(
            "address: \"{}\"\n    interface: {}",
            remote.ip(),
            link_name(remote.scope_id())
        ),
        Remote::Address(_) | Remote::Unnumbered(_) => panic!("no words yet for {}", peer.remote),
    };
    let mut plain = PeerConfig::new(
        &*peer.name,
        peer.remote,
        peer.asn.clone(),
        Arc::new(Policy::accept_all()),
        Arc::new(Policy::accept_all()),
    );
    let mut lines = vec![
        remote,
        format!("asn: {}", peer.asn),
        format!("passive: {}", peer.passive),
        format!("routeReflectorClient: {}", peer.route_reflector_client),
    ];
    plain.passive = peer.passive;
    plain.route_reflector_client = peer.route_reflector_client;
    macro_rules! field {
        ($field:ident, $key:literal, $value:expr) => {
            if plain.$field != peer.$field {
                plain.$field.clone_from(&peer.$field);
                lines.push(format!("{}: {}", $key, $value));
            }
        };
        (time $field:ident, $key:literal) => {
            field!($field, $key, milliseconds(peer.$field))
        };
    }
    field!(
        next_hop_address,
        "nextHopAddress",
        peer.next_hop_address.unwrap()
    );
    field!(local_address, "localAddress", peer.local_address.unwrap());
    field!(local_asn, "localAsn", peer.local_asn.unwrap());
    field!(local_as_mode, "localAsMode", key_of(&peer.local_as_mode));
    field!(cluster_id, "clusterId", peer.cluster_id.unwrap());
    field!(families, "families", list(&peer.families));
    field!(hold_time, "holdTime", peer.hold_time.as_secs());
    field!(
        minimum_hold_time,
        "minimumHoldTime",
        peer.minimum_hold_time.as_secs()
    );
    field!(time connect_retry, "connectRetry");
    field!(time connect_retry_max, "connectRetryMax");
    field!(time idle_hold, "idleHold");
    field!(time idle_hold_max, "idleHoldMax");
    field!(dynamic_limit, "dynamicLimit", peer.dynamic_limit);
    field!(half_open_limit, "halfOpenLimit", peer.half_open_limit);
    field!(
        delay_open,
        "delayOpen",
        milliseconds(peer.delay_open.unwrap())
    );
    field!(send_hold, "sendHold", milliseconds(peer.send_hold.unwrap()));
    field!(
        graceful_restart,
        "gracefulRestart",
        match peer.graceful_restart {
            None => "false".to_owned(),
            Some(graceful) => format!(
                "{{ restartTime: {}, staleTime: {} }}",
                milliseconds(graceful.restart_time),
                milliseconds(graceful.stale_time)
            ),
        }
    );
    field!(
        long_lived,
        "longLived",
        peer.long_lived
            .map(|kept| format!(
                "{{ staleTime: {}, partialDeployment: {} }}",
                milliseconds(kept.stale_time),
                kept.partial_deployment
            ))
            .unwrap()
    );
    field!(
        next_hop,
        "nextHop",
        match peer.next_hop {
            NextHopMode::SelfAddress => "self".to_owned(),
            mode @ (NextHopMode::Auto | NextHopMode::ForceSelf | NextHopMode::Keep) =>
                key_of(&mode),
        }
    );
    field!(
        connected_subnets,
        "connectedSubnets",
        list(&peer.connected_subnets)
    );
    field!(ttl, "ttl", peer.ttl.unwrap());
    field!(allowed_local_as, "allowedLocalAs", peer.allowed_local_as);
    field!(add_path_receive, "addPathReceive", peer.add_path_receive);
    field!(
        add_path_send,
        "addPathSend",
        match peer.add_path_send {
            None => "false".to_owned(),
            Some(AddPathSend::All) => "all".to_owned(),
            Some(AddPathSend::Best(count)) => format!("best {count}"),
        }
    );
    field!(extended_next_hop, "extendedNextHop", peer.extended_next_hop);
    field!(enabled, "enabled", peer.enabled);
    field!(
        shutdown_text,
        "shutdownText",
        format!("\"{}\"", peer.shutdown_text.as_ref().unwrap())
    );
    field!(
        strict_attributes,
        "strictAttributes",
        peer.strict_attributes
    );
    field!(afi_safi_disable, "afiSafiDisable", peer.afi_safi_disable);
    field!(enforce_first_as, "enforceFirstAs", peer.enforce_first_as);
    field!(allow_as_set, "allowAsSet", peer.allow_as_set);
    field!(as_override, "asOverride", peer.as_override);
    field!(role, "role", key_of(&peer.role.unwrap()));
    field!(strict_role, "strictRole", peer.strict_role);
    field!(
        remove_private_as,
        "removePrivateAs",
        key_of(&peer.remove_private_as.unwrap())
    );
    field!(
        default_originate,
        "defaultOriginate",
        peer.default_originate
    );
    field!(
        graceful_shutdown,
        "gracefulShutdown",
        peer.graceful_shutdown
    );
    field!(drain, "drain", peer.drain);
    field!(maximum_prefixes, "maximumPrefixes", {
        let limit = peer.maximum_prefixes.unwrap();
        let action = match limit.action {
            LimitAction::Close => String::new(),
            LimitAction::Warn => ", warningOnly: true".to_owned(),
            LimitAction::Discard => ", discard: true".to_owned(),
            LimitAction::Restart(pause) => format!(", restart: {}", milliseconds(pause)),
        };
        format!("{{ limit: {}{action} }}", limit.limit)
    });
    for (direction, policy, plain) in [
        ("import", &peer.import, &mut plain.import),
        ("export", &peer.export, &mut plain.export),
    ] {
        if policy != plain {
            plain.clone_from(policy);
            let name = format!("{}-{direction}", peer.name);
            describe_policy(policies, &name, policy);
            // Probes pass whatever the case is about.
            lines.push(format!("{direction}: {{ policies: [probes, {name}] }}"));
        }
    }
    assert!(
        plain == *peer,
        "no words yet for what this case configures: {peer:#?}"
    );
    writeln!(text, "  - name: {}", peer.name).unwrap();
    for line in lines {
        writeln!(text, "    {line}").unwrap();
    }
}

fn describe_policy(text: &mut String, name: &str, policy: &Policy) {
    writeln!(
        text,
        "  - name: {name}\n    default: {}",
        key_of(&policy.default)
    )
    .unwrap();
    if policy.rules.is_empty() {
        text.push_str("    rules: []\n");
        return;
    }
    text.push_str("    rules:\n");
    for rule in &policy.rules {
        let parts = describe_rule(rule);
        writeln!(text, "      - {{ {} }}", parts.join(", ")).unwrap();
    }
}

fn describe_rule(rule: &Rule) -> Vec<String> {
    let mut parts = Vec::new();
    match &rule.conditions[..] {
        [] => {}
        [Condition::PrefixIn(set)] => {
            let ranges: Vec<String> = set
                .iter()
                .map(|(prefix, min, max)| {
                    let max = max.min(prefix.max_len());
                    format!("{{ prefix: \"{prefix}\", min: {min}, max: {max} }}")
                })
                .collect();
            parts.push(format!("match: {{ prefixes: [{}] }}", ranges.join(", ")));
        }
        [Condition::CommunityAny(communities)] => {
            parts.push(format!("match: {{ communities: {} }}", list(communities)));
        }
        others => panic!("no words yet for {others:?}"),
    }
    let set: Vec<String> = rule
        .actions
        .iter()
        .map(|action| match action {
            Action::AddCommunity(community) => format!("addCommunities: {}", list([community])),
            Action::RemoveCommunity(community) => {
                format!("removeCommunities: {}", list([community]))
            }
            Action::SetLocalPref(value) => format!("localPref: {}", value.0),
            Action::SetNextHop(address) => format!("nextHop: \"{address}\""),
            Action::SetWeight(value) => format!("weight: {value}"),
            Action::PrependAs(path) => format!("prependAs: {}", list(path)),
            Action::Discard => "discard: true".to_owned(),
            Action::SetMed(_)
            | Action::AddLargeCommunity(_)
            | Action::RemoveLargeCommunity(_)
            | Action::ClearCommunities => panic!("no words yet for {action:?}"),
        })
        .collect();
    if !set.is_empty() {
        parts.push(format!("set: {{ {} }}", set.join(", ")));
    }
    match rule.verdict {
        None => {}
        Some(Verdict::Accept) => parts.push("then: accept".to_owned()),
        Some(Verdict::Reject) => parts.push("then: reject".to_owned()),
    }
    parts
}
