//! Neighbours and paths as whoever operates the speaker is shown them, by the speaker in here or over the control socket.

use std::time::Duration;

use margay_bgp::decision::Step;
use margay_bgp::family::Family;
use margay_bgp::fsm::State;
use margay_bgp::speaker::snapshot::{
    PathInfo, PeerFamilySnapshot, PeerSnapshot, Retention, Unusable,
};
use serde_json::Value;

/// A neighbour.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) state: State,
    pub(super) established_count: u64,
    pub(super) hold_time: Option<Duration>,
    pub(super) keepalive: Option<Duration>,
    pub(super) last_error: Option<String>,
    pub(super) warnings: Vec<String>,
    pub(super) updates_received: u64,
    pub(super) attribute_faults: u64,
    pub(super) discarded_prefixes: u64,
    pub(super) excess_paths: u64,
    pub(super) families: Vec<PeerFamilySnapshot>,
}

/// A path of a prefix.
#[derive(Debug)]
pub(super) struct SeenPath {
    /// The neighbour, or `local`.
    pub(super) from: String,
    pub(super) path_id: Option<u32>,
    pub(super) best: bool,
    pub(super) used: bool,
    pub(super) step: Option<Step>,
    pub(super) unusable: Option<Unusable>,
}

impl From<PeerSnapshot> for Seen {
    fn from(peer: PeerSnapshot) -> Self {
        Self {
            state: peer.state,
            established_count: peer.established_count,
            hold_time: peer.hold_time,
            keepalive: peer.keepalive,
            last_error: peer.last_error,
            warnings: peer.warnings.iter().map(ToString::to_string).collect(),
            updates_received: peer.messages.updates_received,
            attribute_faults: peer.messages.attribute_faults,
            discarded_prefixes: peer.messages.discarded_prefixes,
            excess_paths: peer.messages.excess_paths,
            families: peer.families,
        }
    }
}

impl From<PathInfo> for SeenPath {
    fn from(path: PathInfo) -> Self {
        Self {
            from: path.source.to_string(),
            path_id: path.path_id,
            best: path.best,
            used: path.used,
            step: path.step,
            unusable: path.unusable,
        }
    }
}

/// The one of `all` that is written like this.
fn named<T: ToString + Copy>(all: &[T], text: &str) -> T {
    let found = all.iter().find(|one| one.to_string() == text);
    *found.unwrap_or_else(|| panic!("nothing is called {text}"))
}

fn count(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

fn rejected(rejected: &Value) -> (Unusable, usize) {
    let reason = rejected["reason"].as_str().unwrap();
    let mut known = Unusable::COUNTED.into_iter();
    let reason = known.find(|known| known.name() == reason).unwrap();
    (reason, count(&rejected["count"]))
}

impl Seen {
    /// From `margay peers -o json`.
    pub(super) fn read(peer: &Value) -> Self {
        let states = [
            State::Idle,
            State::Connect,
            State::Active,
            State::OpenSent,
            State::OpenConfirm,
            State::Established,
        ];
        let family = |family: &Value| PeerFamilySnapshot {
            family: family["family"]
                .as_str()
                .unwrap()
                .parse::<Family>()
                .unwrap(),
            negotiated: family["negotiated"].as_bool().unwrap(),
            received: count(&family["received"]),
            accepted: count(&family["accepted"]),
            advertised: count(&family["advertised"]),
            lag: count(&family["lag"]),
            end_of_rib_received: family["endOfRibReceived"].as_bool().unwrap(),
            end_of_rib_sent: family["endOfRibSent"].as_bool().unwrap(),
            retention: named(
                &[Retention::None, Retention::Stale, Retention::LongLivedStale],
                family["retention"].as_str().unwrap(),
            ),
            update_group: family["updateGroup"]
                .as_u64()
                .map(|group| group.try_into().unwrap()),
            rejected: family["rejected"]
                .as_array()
                .unwrap()
                .iter()
                .map(rejected)
                .collect(),
            stale: count(&family["stale"]),
            unsendable: family["unsendable"].as_u64().unwrap(),
            withheld: family["withheld"].as_u64().unwrap(),
            next_hop_missing: family["nextHopMissing"].as_bool().unwrap(),
        };
        let warnings = peer["warnings"].as_array().cloned().unwrap_or_default();
        Self {
            state: named(&states, peer["state"].as_str().unwrap()),
            established_count: peer["establishedCount"].as_u64().unwrap(),
            hold_time: peer["holdTime"].as_u64().map(Duration::from_secs),
            keepalive: peer["keepalive"].as_f64().map(Duration::from_secs_f64),
            last_error: peer["lastError"].as_str().map(str::to_owned),
            warnings: warnings
                .iter()
                .map(|text| text.as_str().unwrap().to_owned())
                .collect(),
            updates_received: peer["messages"]["updatesReceived"].as_u64().unwrap(),
            attribute_faults: peer["messages"]["attributeFaults"].as_u64().unwrap(),
            discarded_prefixes: peer["messages"]["discardedPrefixes"].as_u64().unwrap(),
            excess_paths: peer["messages"]["excessPaths"].as_u64().unwrap(),
            families: peer["families"]
                .as_array()
                .unwrap()
                .iter()
                .map(family)
                .collect(),
        }
    }
}

impl SeenPath {
    /// From `margay routes -o json`.
    pub(super) fn read(path: &Value) -> Self {
        let steps = [
            Step::OnlyPath,
            Step::LongLivedStale,
            Step::Weight,
            Step::LocalPref,
            Step::Local,
            Step::AsPathLength,
            Step::Origin,
            Step::Med,
            Step::External,
            Step::NextHopMetric,
            Step::Incumbent,
            Step::RouterId,
            Step::ClusterListLength,
            Step::PeerAddress,
            Step::PathId,
        ];
        let reasons = [
            Unusable::RejectedByPolicy,
            Unusable::AsLoop,
            Unusable::OwnOriginator,
            Unusable::ClusterLoop,
            Unusable::NextHop,
            Unusable::RouteLeak,
            Unusable::OnlyTold,
            Unusable::Unreachable,
        ];
        Self {
            from: path["from"].as_str().unwrap().to_owned(),
            path_id: path["pathId"].as_u64().map(|id| id.try_into().unwrap()),
            best: path["best"].as_bool().unwrap(),
            used: path["used"].as_bool().unwrap(),
            step: path["step"].as_str().map(|text| named(&steps, text)),
            unusable: path["unusable"].as_str().map(|text| named(&reasons, text)),
        }
    }
}
