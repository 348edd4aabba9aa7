//! What happened to peers, in order: every change of state with its reason, and messages that were wrong.
//!
//! A ring of the latest [`KEPT`] events, numbered without gaps, so that whoever reads on from a number sees whether anything
//! was lost in between.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::errors::ErrorAction;
use crate::bfd;
use crate::codec::{ErrorCode, Notification};
use crate::fsm::{DownCause, PeerWarning, State};
use crate::prefix::Prefix;

/// Events kept.
pub const KEPT: usize = 1024;
/// Of one peer's malformed messages at most one event comes in this time; the counters have them all.
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
    },
    /// It is no longer known: not configured any more, or a dynamic one that left.
    Removed,
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
            } => write!(f, "path {from} -> {to}: {diagnostic}"),
            Self::Removed => f.write_str("removed"),
        }
    }
}

/// The latest events.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    ring: VecDeque<PeerEvent>,
    last: u64,
}

impl EventLog {
    pub(super) fn push(
        &mut self,
        at: Instant,
        peer: &Arc<str>,
        address: SocketAddr,
        kind: PeerEventKind,
    ) {
        if self.ring.len() >= KEPT {
            self.ring.pop_front();
        }
        self.last += 1;
        self.ring.push_back(PeerEvent {
            sequence: self.last,
            at,
            peer: Arc::clone(peer),
            address,
            kind,
        });
    }

    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    /// Events behind the one of this number, oldest first.
    pub(super) fn after(&self, sequence: u64) -> impl Iterator<Item = &PeerEvent> {
        let wanted = self.last.saturating_sub(sequence);
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let skip = self.ring.len().saturating_sub(wanted);
        self.ring.iter().skip(skip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_reads_on_sees_each_event_once_and_what_was_lost() {
        let mut log = EventLog::default();
        let (peer, address) = (Arc::from("a"), "10.0.0.1:179".parse().unwrap());
        let now = Instant::now();
        for _ in 0..KEPT + 10 {
            log.push(now, &peer, address, PeerEventKind::Removed);
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
