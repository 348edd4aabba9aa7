//! What a speaker is measured by: sessions, tables, what peers get wrong, watched paths. Read from a snapshot when it is scraped.

use margay_bgp::bfd::State as Path;
use margay_bgp::family::Family;
use margay_bgp::fsm::{PeerWarning, State};
use margay_bgp::speaker::snapshot::{
    PeerFamilySnapshot, PeerSnapshot, Retention, SpeakerSnapshot, Unusable,
};
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{Page, gauge_value, raise};

const STATES: [State; 6] = [
    State::Idle,
    State::Connect,
    State::Active,
    State::OpenSent,
    State::OpenConfirm,
    State::Established,
];

/// The metrics of a speaker. Clones share the values.
#[derive(Clone, Debug)]
pub struct SpeakerMetrics {
    sessions: IntGaugeVec,
    established: IntCounter,
    lost: IntCounter,
    warnings: IntGaugeVec,
    errors: IntCounterVec,
    received: IntGaugeVec,
    accepted: IntGaugeVec,
    rejected: IntGaugeVec,
    stale: IntGaugeVec,
    discarded: IntCounter,
    excess: IntCounter,
    advertised: IntGaugeVec,
    unsendable: IntCounter,
    updates: IntCounter,
    sent: IntCounter,
    queued: IntGauge,
    best: IntGaugeVec,
    undecided: IntGaugeVec,
    deferring: IntGaugeVec,
    groups: IntGaugeVec,
    lag: IntGaugeVec,
    lag_max: IntGaugeVec,
    memory: IntGaugeVec,
    attribute_sets: IntGauge,
    bfd_sessions: IntGaugeVec,
    bfd_transitions: IntCounter,
    bfd_losses: IntCounter,
    bfd_sent: IntCounter,
    bfd_received: IntCounter,
    bfd_dropped: IntCounterVec,
}

impl SpeakerMetrics {
    /// Registers everything on a page.
    ///
    /// # Errors
    /// Never with the names below, see [`Page::new`].
    pub fn new(page: &Page) -> prometheus::Result<Self> {
        let family = &["family"];
        Ok(Self {
            sessions: page.gauges("margay_bgp_sessions", "BGP sessions by state.", &["state"])?,
            established: page.counter(
                "margay_bgp_sessions_established_total",
                "Sessions that became Established.",
            )?,
            lost: page.counter(
                "margay_bgp_sessions_lost_total",
                "Sessions that left Established.",
            )?,
            warnings: page.gauges(
                "margay_bgp_peer_warnings",
                "Warnings that hold of peers at present, by what is wrong.",
                &["warning"],
            )?,
            errors: page.counters(
                "margay_bgp_errors_total",
                "Mistakes in messages of peers, by where they are and what was done.",
                &["class", "action"],
            )?,
            received: page.gauges(
                "margay_bgp_routes_received",
                "Paths received from peers, before import policy.",
                family,
            )?,
            accepted: page.gauges(
                "margay_bgp_routes_accepted",
                "Paths received from peers that import policy accepted.",
                family,
            )?,
            rejected: page.gauges(
                "margay_bgp_routes_rejected",
                "Paths received from peers that take no part, by reason.",
                &["family", "reason"],
            )?,
            stale: page.gauges(
                "margay_bgp_routes_stale",
                "Paths kept while their peer restarts, by how.",
                &["retention"],
            )?,
            discarded: page.counter(
                "margay_bgp_prefixes_discarded_total",
                "Announced prefixes not taken because of a limit on prefixes.",
            )?,
            excess: page.counter(
                "margay_bgp_paths_excess_total",
                "Announced paths not taken because the peer has too many of the prefix.",
            )?,
            advertised: page.gauges(
                "margay_bgp_routes_advertised",
                "Routes advertised, summed over peers.",
                family,
            )?,
            unsendable: page.counter(
                "margay_bgp_routes_unsendable_total",
                "Routes not told because their attributes fit no message; each time and update group counts.",
            )?,
            updates: page.counter(
                "margay_bgp_updates_received_total",
                "UPDATE messages received.",
            )?,
            sent: page.counter(
                "margay_bgp_updates_sent_bytes_total",
                "Octets of UPDATE messages handed to connections.",
            )?,
            queued: page.gauge(
                "margay_bgp_queued_bytes",
                "Octets handed to connections and not written yet.",
            )?,
            best: page.gauges(
                "margay_bgp_routes_best",
                "Prefixes with a best route.",
                family,
            )?,
            undecided: page.gauges(
                "margay_bgp_prefixes_undecided",
                "Prefixes whose best route is yet to be chosen.",
                family,
            )?,
            deferring: page.gauges(
                "margay_bgp_selection_deferred",
                "1 while best routes are not chosen yet after a restart.",
                family,
            )?,
            groups: page.gauges(
                "margay_bgp_update_groups",
                "Groups of peers that are told the same.",
                family,
            )?,
            lag: page.gauges(
                "margay_bgp_update_lag_changes",
                "Changes peers have yet to be told, summed over peers.",
                family,
            )?,
            lag_max: page.gauges(
                "margay_bgp_update_lag_max_changes",
                "Changes the slowest peer has yet to be told.",
                family,
            )?,
            memory: page.gauges(
                "margay_bgp_memory_bytes",
                "Memory held by what grows with routes, by what it holds.",
                &["of"],
            )?,
            attribute_sets: page.gauge(
                "margay_bgp_attribute_sets",
                "Distinct sets of path attributes held.",
            )?,
            bfd_sessions: page.gauges(
                "margay_bfd_sessions",
                "Paths watched by BFD, by state.",
                &["state"],
            )?,
            bfd_transitions: page.counter(
                "margay_bfd_transitions_total",
                "Changes of BFD sessions' states.",
            )?,
            bfd_losses: page.counter(
                "margay_bfd_paths_lost_total",
                "Paths that were up and ended by nobody's will.",
            )?,
            bfd_sent: page.counter("margay_bfd_packets_sent_total", "BFD packets sent.")?,
            bfd_received: page.counter(
                "margay_bfd_packets_received_total",
                "BFD packets that a session took.",
            )?,
            bfd_dropped: page.counters(
                "margay_bfd_packets_dropped_total",
                "Datagrams on BFD's ports that no session took.",
                &["reason"],
            )?,
        })
    }

    /// Takes over what a speaker says of itself; nothing at all of one that does not run.
    pub fn read(&self, speaker: Option<&SpeakerSnapshot>) {
        let peers = || speaker.into_iter().flat_map(|speaker| &speaker.peers);
        for state in STATES {
            let count = peers().filter(|peer| peer.state == state).count();
            set(&self.sessions, &[state_label(state)], count);
        }
        for state in [Path::AdminDown, Path::Down, Path::Init, Path::Up] {
            let there = |peer: &&PeerSnapshot| {
                peer.bfd.is_some_and(|path| {
                    path.status.map_or(Path::Down, |status| status.state) == state
                })
            };
            let count = peers().filter(there).count();
            set(&self.bfd_sessions, &[path_label(state)], count);
        }
        for kind in PeerWarning::KINDS {
            let held = peers().flat_map(|peer| &peer.warnings);
            let count = held.filter(|warning| warning.kind() == kind).count();
            set(&self.warnings, &[kind], count);
        }
        let queued = peers().map(|peer| peer.queued_octets).sum();
        self.queued.set(gauge_value(queued));
        let entries = || peers().flat_map(|peer| &peer.families);
        for retention in [Retention::Stale, Retention::LongLivedStale] {
            let kept = entries().filter(|entry| entry.retention == retention);
            let count = kept.map(|entry| entry.stale).sum();
            set(&self.stale, &[&retention.to_string()], count);
        }
        for family in Family::ALL {
            self.read_family(speaker, family, || {
                entries().filter(move |entry| entry.family == family)
            });
        }
        if let Some(speaker) = speaker {
            self.read_totals(speaker);
        }
    }

    fn read_family<'a, I: Iterator<Item = &'a PeerFamilySnapshot>>(
        &self,
        speaker: Option<&SpeakerSnapshot>,
        family: Family,
        entries: impl Fn() -> I,
    ) {
        let label = family_label(family);
        let sum = |count: fn(&PeerFamilySnapshot) -> usize| entries().map(count).sum();
        set(&self.received, &[label], sum(|entry| entry.received));
        set(&self.accepted, &[label], sum(|entry| entry.accepted));
        set(&self.advertised, &[label], sum(|entry| entry.advertised));
        set(&self.lag, &[label], sum(|entry| entry.lag));
        let slowest = entries().map(|entry| entry.lag).max().unwrap_or(0);
        set(&self.lag_max, &[label], slowest);
        for reason in Unusable::COUNTED {
            let rejected = entries().flat_map(|entry| &entry.rejected);
            let count = rejected
                .filter(|(for_this, _)| *for_this == reason)
                .map(|(_, count)| *count)
                .sum();
            set(&self.rejected, &[label, reason.name()], count);
        }
        let table = speaker.and_then(|speaker| {
            let mut tables = speaker.tables.iter();
            tables.find(|table| table.family == family)
        });
        let of_table = |gauges: &IntGaugeVec, count: Option<usize>| {
            set(gauges, &[label], count.unwrap_or(0));
        };
        of_table(&self.best, table.map(|table| table.best));
        of_table(&self.undecided, table.map(|table| table.pending_decisions));
        of_table(&self.groups, table.map(|table| table.update_groups));
        let deferred = speaker.is_some_and(|speaker| speaker.deferring.contains(&family));
        set(&self.deferring, &[label], usize::from(deferred));
    }

    fn read_totals(&self, speaker: &SpeakerSnapshot) {
        let totals = &speaker.totals;
        raise(&self.established, totals.established);
        raise(&self.lost, totals.lost);
        raise(&self.discarded, totals.messages.discarded_prefixes);
        raise(&self.excess, totals.messages.excess_paths);
        raise(&self.unsendable, totals.unsendable);
        raise(&self.updates, totals.messages.updates_received);
        raise(&self.sent, totals.messages.octets_sent);
        for (class, action, count) in speaker.errors.iter() {
            let labels = &[class.name(), action.name()];
            raise(&self.errors.with_label_values(labels), count);
        }
        for (of, octets) in [
            ("prefixes", speaker.memory.prefixes),
            ("paths", speaker.memory.paths),
            ("attributes", speaker.memory.attributes),
            ("groups", speaker.memory.groups),
        ] {
            set(&self.memory, &[of], octets);
        }
        self.attribute_sets.set(gauge_value(speaker.attribute_sets));
        let bfd = &speaker.bfd;
        raise(&self.bfd_transitions, bfd.transitions);
        raise(&self.bfd_losses, bfd.losses);
        raise(&self.bfd_sent, bfd.sent);
        raise(&self.bfd_received, bfd.received);
        for (reason, count) in [
            ("malformed", bfd.malformed),
            ("authenticated", bfd.authenticated),
            ("ttl", bfd.ttl),
            ("unknown", bfd.unknown),
        ] {
            raise(&self.bfd_dropped.with_label_values(&[reason]), count);
        }
    }
}

fn set(gauges: &IntGaugeVec, labels: &[&str], count: usize) {
    gauges.with_label_values(labels).set(gauge_value(count));
}

/// A family as labels name it.
#[must_use]
pub fn family_label(family: Family) -> &'static str {
    if family == Family::IPV4_UNICAST {
        "ipv4-unicast"
    } else {
        "ipv6-unicast"
    }
}

const fn path_label(state: Path) -> &'static str {
    match state {
        Path::AdminDown => "admin_down",
        Path::Down => "down",
        Path::Init => "init",
        Path::Up => "up",
    }
}

const fn state_label(state: State) -> &'static str {
    match state {
        State::Idle => "idle",
        State::Connect => "connect",
        State::Active => "active",
        State::OpenSent => "open_sent",
        State::OpenConfirm => "open_confirm",
        State::Established => "established",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use margay_bgp::asn::Asn;
    use margay_bgp::policy::Policy;
    use margay_bgp::speaker::Speaker;
    use margay_bgp::speaker::config::{PeerConfig, Remote, SpeakerConfig};

    use super::*;

    /// The page of a speaker with so many peers.
    fn page(peers: u8) -> String {
        let router_id = "192.0.2.1".parse().expect("an identifier");
        let mut config = SpeakerConfig::new(Asn(64512), router_id);
        let anything = Arc::new(Policy::accept_all());
        for number in 0..peers {
            config.peers.push(PeerConfig::new(
                format!("peer {number}"),
                Remote::Address(([10, 0, 0, number], 179).into()),
                Asn(64600),
                Arc::clone(&anything),
                Arc::clone(&anything),
            ));
        }
        let now = Instant::now();
        let speaker = Speaker::new(config, 7, now);
        let page = Page::new().expect("names are well-formed and unique");
        let metrics = SpeakerMetrics::new(&page).expect("as above");
        metrics.read(Some(&speaker.snapshot(now)));
        page.render()
    }

    fn series(page: &str) -> Vec<&str> {
        let samples = page.lines().filter(|line| !line.starts_with('#'));
        samples
            .filter_map(|line| Some(line.rsplit_once(' ')?.0))
            .collect()
    }

    #[test]
    fn the_number_of_series_does_not_grow_with_peers() {
        let (none, many) = (page(0), page(200));
        assert_eq!(series(&none), series(&many));
        let sessions =
            |line: &str| line.starts_with("margay_bgp_sessions{") && line.ends_with(" 200");
        assert!(many.lines().any(sessions), "{many}");
    }

    #[test]
    fn what_a_speaker_is_judged_by_has_a_series_from_the_start() {
        let page = page(1);
        for wanted in [
            "margay_bgp_routes_rejected{family=\"ipv6-unicast\",reason=\"as-loop\"} 0",
            "margay_bgp_routes_stale{retention=\"long-lived-stale\"} 0",
            "margay_bgp_peer_warnings{warning=\"prefix-limit\"} 0",
            "margay_bgp_prefixes_discarded_total 0",
            "margay_bgp_update_groups{family=\"ipv4-unicast\"} 0",
            "margay_bgp_update_lag_max_changes{family=\"ipv4-unicast\"} 0",
            "margay_bgp_errors_total{action=\"reset\",class=\"open\"} 0",
            "margay_bfd_sessions{state=\"up\"} 0",
        ] {
            assert!(page.contains(wanted), "{wanted}\n{page}");
        }
    }
}
