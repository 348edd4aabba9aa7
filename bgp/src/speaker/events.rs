//! What happened to peers, in order: every change of state with its reason, and messages that were wrong.
//!
//! [`KEPT`] events of configured peers, [`KEPT_OF_CALLERS`] of those that call from ranges, and [`KEPT_OF_STRANGERS`] of those of
//! them that never had a session: none of the three washes the others out, however many call. Where there is no room, the oldest
//! event of whoever has the most goes, so that a peer that comes and goes all day long washes out nobody else's either. All are
//! numbered together and without gaps, so that whoever reads on from a number sees whether anything was lost in between.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::errors::ErrorAction;
use super::neighbour::Neighbour;
use crate::bfd;
use crate::codec::{ErrorCode, Notification};
use crate::fsm::{DownCause, PeerWarning, State};
use crate::prefix::Prefix;

/// Events kept of configured peers.
pub const KEPT: usize = 1024;
/// Events kept of peers that called from a range and had a session.
pub const KEPT_OF_CALLERS: usize = 512;
/// Events kept of peers that called from a range and never had one.
pub const KEPT_OF_STRANGERS: usize = 256;
/// Of one peer's malformed messages at most one event of a kind of consequence comes in this time; the counters have them all.
pub(super) const MALFORMED_INTERVAL: Duration = Duration::from_secs(10);

/// Something happened to a peer.
#[derive(Clone, Debug)]
pub struct PeerEvent {
    /// From 1, without gaps.
    pub sequence: u64,
    /// When.
    pub at: Instant,
    /// The peer's name.
    pub peer: Arc<str>,
    /// Where it is, or was.
    pub address: SocketAddr,
    /// What.
    pub kind: PeerEventKind,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum PeerEventKind {
    /// The state people see changed.
    State {
        /// Before.
        from: State,
        /// Now.
        to: State,
        /// What ended a session or the attempt at one, if that is what happened.
        cause: Option<DownCause>,
    },
    /// A message was wrong. Not every one has an event, but every one is counted.
    Malformed {
        /// What is wrong.
        reason: String,
        /// What was done.
        action: ErrorAction,
        /// The prefixes in it, or some of them.
        prefixes: Vec<Prefix>,
        /// The message, cut where it is long.
        octets: Bytes,
        /// Octets it had.
        length: usize,
        /// Malformed messages since the last event of this kind that had none of their own.
        more: u64,
    },
    /// Something is not as it should be, and the session goes on: more prefixes than allowed, say.
    Warning(PeerWarning),
    /// BFD says that the path to it came up, or is up no more. What lies between is of no use to anyone, and a peer could say
    /// it at any rate.
    Path {
        /// Before.
        from: bfd::State,
        /// Now.
        to: bfd::State,
        /// Why.
        diagnostic: bfd::Diagnostic,
        /// Whose doing it was.
        by: Origin,
    },
    /// It is no longer known.
    Removed(Removal),
}

/// Why a peer is no longer known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Removal {
    /// The configuration does not name it any more.
    NotConfigured,
    /// It called from a range and its connection ended.
    Left,
    /// It is configured by its address, under a name that it did not go by so far, and goes on under that.
    Named,
    /// It is no longer configured by its address, and goes on as a caller from a range.
    Unnamed,
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotConfigured => "no longer configured",
            Self::Left => "called from a range and left",
            Self::Named => "goes on as the peer that is configured by its address",
            Self::Unnamed => {
                "no longer configured by its address, goes on as a caller from a range"
            }
        })
    }
}

impl PeerEventKind {
    /// Whose doing it was; nothing for a session that gets on.
    #[must_use]
    pub fn by(&self) -> Option<Origin> {
        match self {
            Self::State { cause, .. } => cause.as_ref().map(Origin::of),
            Self::Malformed { .. } => Some(Origin::Peer),
            Self::Warning(warning) => Some(match warning {
                PeerWarning::NobodyCalls => Origin::Timer,
                PeerWarning::NextHopMissing(_) | PeerWarning::RoutesUnsendable { .. } => {
                    Origin::Local
                }
                PeerWarning::ContradictingAs { .. }
                | PeerWarning::PrefixLimit { .. }
                | PeerWarning::PathLimit(_)
                | PeerWarning::WithoutCapabilities
                | PeerWarning::FamilyDisabled(_) => Origin::Peer,
            }),
            Self::Path { by, .. } => Some(*by),
            Self::Removed(Removal::NotConfigured | Removal::Named | Removal::Unnamed) => {
                Some(Origin::Operator)
            }
            Self::Removed(Removal::Left) => Some(Origin::Peer),
        }
    }
}

/// Whose doing the end of a session was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Our operator or configuration.
    Operator,
    /// This speaker: the peer broke the protocol, or a limit.
    Local,
    /// The peer said so.
    Peer,
    /// A timer.
    Timer,
    /// The connection.
    Network,
}

impl Origin {
    /// As events name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Local => "local",
            Self::Peer => "peer",
            Self::Timer => "timer",
            Self::Network => "network",
        }
    }

    /// Whose doing a cause was.
    #[must_use]
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "causes that are neither a word of ours or theirs nor a timer are the connection's"
    )]
    pub fn of(cause: &DownCause) -> Self {
        match cause {
            DownCause::ClosedForRestart => Self::Operator,
            DownCause::NotificationSent(notification) => match unwrapped(notification) {
                ErrorCode::ADMINISTRATIVE_SHUTDOWN
                | ErrorCode::ADMINISTRATIVE_RESET
                | ErrorCode::PEER_DECONFIGURED
                | ErrorCode::OTHER_CONFIGURATION_CHANGE => Self::Operator,
                _ => Self::Local,
            },
            DownCause::NotificationReceived(_) | DownCause::ReplacedByPeer => Self::Peer,
            DownCause::HoldTimeExpired | DownCause::SendHoldTimeExpired => Self::Timer,
            _ => Self::Network,
        }
    }
}

/// The code of a NOTIFICATION, or of the one inside a Hard Reset.
fn unwrapped(notification: &Notification) -> ErrorCode {
    notification
        .hard_reset_cause()
        .map_or(notification.code, |cause| cause.code)
}

impl fmt::Display for PeerEventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State { from, to, cause } => {
                write!(f, "{} -> {}", from.name(), to.name())?;
                match cause {
                    Some(cause) => write!(f, ": {cause}"),
                    None => Ok(()),
                }
            }
            Self::Malformed { reason, action, .. } => {
                write!(f, "malformed: {reason} ({})", action.name())
            }
            Self::Warning(warning) => warning.fmt(f),
            Self::Path {
                from,
                to,
                diagnostic,
                ..
            } => write!(f, "path {from} -> {to}: {diagnostic}"),
            Self::Removed(why) => write!(f, "removed: {why}"),
        }
    }
}

/// Whom an event is about.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    name: Arc<str>,
    address: SocketAddr,
    standing: Standing,
}

/// What a peer is to us: whose events make room for its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Configured,
    /// It called from a range, and has or had a session.
    Caller,
    /// It called from a range and never had one. Whoever reaches our port can be one, as often as it likes.
    Stranger,
}

impl Subject {
    pub(super) fn of(neighbour: &Neighbour) -> Self {
        Self {
            name: Arc::clone(&neighbour.name),
            address: neighbour.address,
            standing: match neighbour.range {
                None => Standing::Configured,
                Some(_) if neighbour.established_count > 0 => Standing::Caller,
                Some(_) => Standing::Stranger,
            },
        }
    }
}

/// The latest events.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    configured: Ring,
    callers: Ring,
    strangers: Ring,
    last: u64,
}

impl EventLog {
    pub(super) fn push(&mut self, at: Instant, about: Subject, kind: PeerEventKind) {
        self.last += 1;
        let event = PeerEvent {
            sequence: self.last,
            at,
            peer: about.name,
            address: about.address,
            kind,
        };
        match about.standing {
            Standing::Configured => self.configured.push(event, KEPT),
            Standing::Caller => self.callers.push(event, KEPT_OF_CALLERS),
            Standing::Stranger => self.strangers.push(event, KEPT_OF_STRANGERS),
        }
    }

    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    /// Events behind the one of this number, oldest first.
    pub(super) fn after(&self, sequence: u64) -> impl Iterator<Item = &PeerEvent> {
        let rings = [&self.configured, &self.callers, &self.strangers];
        let mut behind = rings.map(|ring| ring.behind(sequence).peekable());
        std::iter::from_fn(move || {
            let next = behind
                .iter_mut()
                .filter_map(|ring| ring.peek().map(|event| event.sequence).zip(Some(ring)))
                .min_by_key(|(sequence, _)| *sequence);
            next?.1.next()
        })
    }
}

/// Events of peers among which each has its share.
#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<PeerEvent>,
    /// How many of them are a peer's.
    of_peers: BTreeMap<Arc<str>, usize>,
}

impl Ring {
    /// Adds an event, after which there are at most so many.
    fn push(&mut self, event: PeerEvent, most: usize) {
        *self.of_peers.entry(Arc::clone(&event.peer)).or_default() += 1;
        self.events.push_back(event);
        if self.events.len() > most {
            self.make_room();
        }
    }

    /// Drops the oldest event of a peer that has more than any other; the oldest of all where each has one.
    fn make_room(&mut self) {
        let most = self.of_peers.values().copied().max().unwrap_or_default();
        let position = match self.of_peers.iter().find(|(_, count)| **count == most) {
            Some((busiest, _)) if most > 1 => {
                let mut events = self.events.iter();
                events.position(|event| event.peer == *busiest)
            }
            _ => None,
        };
        let Some(gone) = self.events.remove(position.unwrap_or_default()) else {
            return;
        };
        if let Some(count) = self.of_peers.get_mut(&gone.peer) {
            *count -= 1;
            if *count == 0 {
                self.of_peers.remove(&gone.peer);
            }
        }
    }

    /// Those behind the one of this number.
    fn behind(&self, sequence: u64) -> impl Iterator<Item = &PeerEvent> {
        let mine = |event: &PeerEvent| event.sequence <= sequence;
        self.events.iter().skip(self.events.partition_point(mine))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(log: &mut EventLog, name: &str, standing: Standing) {
        let about = Subject {
            name: Arc::from(name),
            address: "10.0.0.1:179".parse().unwrap(),
            standing,
        };
        log.push(Instant::now(), about, PeerEventKind::Removed(Removal::Left));
    }

    fn kept(log: &EventLog, name: &str) -> Vec<u64> {
        log.after(0)
            .filter(|event| &*event.peer == name)
            .map(|event| event.sequence)
            .collect()
    }

    #[test]
    fn callers_from_ranges_however_many_wash_out_only_their_own_events() {
        let mut log = EventLog::default();
        push(&mut log, "tor", Standing::Configured);
        push(&mut log, "node", Standing::Caller);
        for number in 0..KEPT * 2 {
            push(&mut log, &format!("stranger {number}"), Standing::Stranger);
        }
        push(&mut log, "tor", Standing::Configured);
        push(&mut log, "node", Standing::Caller);
        let numbers: Vec<u64> = log.after(0).map(|event| event.sequence).collect();
        assert_eq!(numbers.len(), KEPT_OF_STRANGERS + 4);
        assert!(numbers.is_sorted());
        let last = log.last();
        assert_eq!(kept(&log, "tor"), [1, last - 1]);
        assert_eq!(kept(&log, "node"), [2, last]);
        let read_on: Vec<u64> = log.after(last - 3).map(|event| event.sequence).collect();
        assert_eq!(read_on, [last - 2, last - 1, last]);
    }

    #[test]
    fn a_peer_that_comes_and_goes_all_day_long_washes_out_nobody_elses_events() {
        for (standing, most) in [
            (Standing::Configured, KEPT),
            (Standing::Caller, KEPT_OF_CALLERS),
            (Standing::Stranger, KEPT_OF_STRANGERS),
        ] {
            let mut log = EventLog::default();
            for number in 0..100 {
                push(&mut log, &format!("quiet {}", number % 50), standing);
            }
            for _ in 0..most * 3 {
                push(&mut log, "flaps", standing);
                push(&mut log, "flaps too", standing);
            }
            assert_eq!(log.after(0).count(), most);
            for number in 0..50 {
                let own = kept(&log, &format!("quiet {number}"));
                assert_eq!(own, [number + 1, number + 51], "{standing:?}");
            }
            let last = log.last();
            assert_eq!(log.after(last - 10).count(), 10, "the latest are there");
        }
    }

    #[test]
    fn whoever_reads_on_sees_each_event_once_and_what_was_lost() {
        let mut log = EventLog::default();
        for _ in 0..KEPT + 10 {
            push(&mut log, "a", Standing::Configured);
        }
        let all: Vec<u64> = log.after(0).map(|event| event.sequence).collect();
        assert_eq!((all.len(), all[0]), (KEPT, 11));
        assert_eq!(log.after(log.last() - 3).count(), 3);
        assert_eq!(log.after(log.last()).count(), 0);
        assert_eq!(log.after(u64::MAX).count(), 0);
    }

    #[test]
    fn a_shutdown_of_ours_inside_a_hard_reset_is_still_the_operators_doing() {
        let shutdown = Notification::with_text(ErrorCode::ADMINISTRATIVE_SHUTDOWN, "bye");
        let cause = DownCause::NotificationSent(shutdown.into_hard_reset());
        assert_eq!(Origin::of(&cause), Origin::Operator);
    }
}
