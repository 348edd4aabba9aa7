//! Neighbours and paths as whoever operates the speaker is shown them, by the speaker in here or over the control socket.

use std::time::Duration;

use margay_bgp::decision::Step;
use margay_bgp::family::Family;
use margay_bgp::fsm::State;
use margay_bgp::speaker::events::PeerEventKind;
use margay_bgp::speaker::snapshot::{
    ErrorCount, PathInfo, PeerFamilySnapshot, PeerSnapshot, Retention, SpeakerSnapshot, Unusable,
};
use serde_json::Value;

use super::Lab;

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
    /// What it got wrong.
    pub(super) errors: Vec<SeenError>,
    /// The latest of its messages that were wrong, oldest first: the octets, and how many prefixes of it are named.
    pub(super) offences: Vec<(Vec<u8>, usize)>,
}

/// A kind of mistake.
#[derive(Debug)]
pub(super) struct SeenError {
    pub(super) class: String,
    pub(super) reason: String,
    pub(super) action: String,
}

/// What all neighbours did, those that left included.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SeenTotals {
    pub(super) established: u64,
    pub(super) lost: u64,
    pub(super) announced: u64,
    pub(super) errors: u64,
}

/// A line of the log of events.
#[derive(Debug)]
pub(super) enum SeenEvent {
    Malformed {
        reason: String,
        action: String,
        length: usize,
        more: u64,
    },
    State {
        from: String,
        to: String,
        reason: String,
    },
    Other,
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

impl Lab {
    /// Why the path that `name` told of this prefix is not used.
    #[track_caller]
    pub(super) fn unusable(&self, name: &str, text: &str) -> Option<Unusable> {
        let paths = self.paths_of(text);
        let path = paths.iter().find(|path| path.from == name);
        path.unwrap_or_else(|| panic!("no path of {name}")).unusable
    }
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
            errors: peer.errors.into_iter().map(SeenError::from).collect(),
            offences: peer
                .offences
                .into_iter()
                .map(|offence| (offence.octets.to_vec(), offence.prefixes.len()))
                .collect(),
        }
    }
}

impl From<ErrorCount> for SeenError {
    fn from(error: ErrorCount) -> Self {
        Self {
            class: error.class.name().to_owned(),
            reason: error.reason.to_owned(),
            action: error.action.name().to_owned(),
        }
    }
}

impl From<SpeakerSnapshot> for SeenTotals {
    fn from(speaker: SpeakerSnapshot) -> Self {
        Self {
            established: speaker.totals.established,
            lost: speaker.totals.lost,
            announced: speaker.totals.messages.announcements_received,
            errors: speaker.errors.iter().map(|(.., count)| count).sum(),
        }
    }
}

impl From<PeerEventKind> for SeenEvent {
    fn from(kind: PeerEventKind) -> Self {
        match kind {
            PeerEventKind::Malformed {
                reason,
                action,
                length,
                more,
                ..
            } => Self::Malformed {
                reason,
                action: action.name().to_owned(),
                length,
                more,
            },
            PeerEventKind::State { from, to, cause } => Self::State {
                from: from.name().to_owned(),
                to: to.name().to_owned(),
                reason: cause.map_or_else(String::new, |cause| cause.to_string()),
            },
            PeerEventKind::Warning(_) | PeerEventKind::Path { .. } | PeerEventKind::Removed(_) => {
                Self::Other
            }
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
            errors: list(&peer["errors"]).map(SeenError::read).collect(),
            offences: list(&peer["offences"])
                .map(|offence| {
                    let prefixes = list(&offence["prefixes"]).count();
                    (octets(offence["octets"].as_str().unwrap()), prefixes)
                })
                .collect(),
        }
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// From hexadecimal.
fn octets(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}

impl SeenError {
    fn read(error: &Value) -> Self {
        Self {
            class: word(&error["class"]),
            reason: word(&error["reason"]),
            action: word(&error["action"]),
        }
    }
}

impl SeenTotals {
    /// From the speaker of `margay status -o json`.
    pub(super) fn read(speaker: &Value) -> Self {
        Self {
            established: speaker["sessionsEstablished"].as_u64().unwrap(),
            lost: speaker["sessionsLost"].as_u64().unwrap(),
            announced: speaker["messages"]["announcementsReceived"]
                .as_u64()
                .unwrap(),
            errors: list(&speaker["errors"])
                .map(|error| error["count"].as_u64().unwrap())
                .sum(),
        }
    }
}

impl SeenEvent {
    /// From `margay events -o json`.
    pub(super) fn read(event: &Value) -> Self {
        match event["kind"].as_str().unwrap() {
            "malformed" => Self::Malformed {
                reason: word(&event["reason"]),
                action: word(&event["action"]),
                length: count(&event["length"]),
                more: event["more"].as_u64().unwrap(),
            },
            "state" => Self::State {
                from: word(&event["from"]),
                to: word(&event["to"]),
                reason: word(&event["reason"]),
            },
            _ => Self::Other,
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
            Step::PeerName,
            Step::PathId,
        ];
        let reasons = [
            Unusable::RejectedByPolicy,
            Unusable::AsLoop,
            Unusable::OwnOriginator,
            Unusable::ClusterLoop,
            Unusable::NextHop,
            Unusable::RouteLeak,
            Unusable::Prefix,
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
