//! What peers got wrong: counted by kind, with the latest offending messages as they came.
//!
//! Counts never grow with what a peer invents: kinds are words of ours, and of attribute types at most [`MAX_KINDS`] are told
//! apart. Messages are kept for people who have to show the other side's operator what was sent: at most [`RECENT`] of a peer,
//! each cut to [`KEPT_OCTETS`]. Of those with the same mistake the last is kept, and the mildest make room first: what
//! is wrong with every message of a peer does not hide the one that ended its session.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;

use super::snapshot::{ErrorCount, OffenceSnapshot};
use crate::codec::{
    AttributeCode, DecodeError, ErrorCode, FaultAction, FaultKind, Notification, Update,
};
use crate::prefix::Prefix;

/// Kinds of one peer that are told apart; what comes beyond counts as attribute 0 of its class.
const MAX_KINDS: usize = 128;
/// Offending messages kept of one peer.
pub const RECENT: usize = 4;
/// Octets kept of each: the longest message of RFC 4271.
pub const KEPT_OCTETS: usize = 4096;
/// Prefixes named with each.
const NAMED_PREFIXES: usize = 16;

/// Where in a message an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorClass {
    /// The header (RFC 4271 §6.1).
    Header,
    /// The OPEN (RFC 4271 §6.2).
    Open,
    /// The frame of an UPDATE: lengths, lists (RFC 7606 §3).
    Update,
    /// Prefixes (RFC 7606 §5.3).
    Nlri,
    /// One attribute (RFC 7606 §7).
    Attribute,
    /// ROUTE-REFRESH (RFC 7313 §5).
    RouteRefresh,
}

impl ErrorClass {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Header,
        Self::Open,
        Self::Update,
        Self::Nlri,
        Self::Attribute,
        Self::RouteRefresh,
    ];

    /// As counters are labelled.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Open => "open",
            Self::Update => "update",
            Self::Nlri => "nlri",
            Self::Attribute => "attribute",
            Self::RouteRefresh => "route-refresh",
        }
    }
}

/// What was done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorAction {
    /// The session was ended with a NOTIFICATION.
    Reset,
    /// The prefixes count as withdrawn (RFC 7606 §2).
    TreatAsWithdraw,
    /// The attribute was ignored (RFC 7606 §2).
    AttributeDiscard,
    /// Nothing of the family is taken until the session ends (RFC 7606 §2).
    DisableFamily,
}

impl ErrorAction {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Reset,
        Self::TreatAsWithdraw,
        Self::AttributeDiscard,
        Self::DisableFamily,
    ];

    /// As counters are labelled.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::TreatAsWithdraw => "treat-as-withdraw",
            Self::AttributeDiscard => "attribute-discard",
            Self::DisableFamily => "disable-family",
        }
    }

    /// More of it costs the peer more.
    pub(super) const fn severity(self) -> u8 {
        match self {
            Self::AttributeDiscard => 0,
            Self::TreatAsWithdraw => 1,
            Self::DisableFamily => 2,
            Self::Reset => 3,
        }
    }
}

impl From<FaultAction> for ErrorAction {
    fn from(action: FaultAction) -> Self {
        match action {
            FaultAction::AttributeDiscard => Self::AttributeDiscard,
            FaultAction::TreatAsWithdraw => Self::TreatAsWithdraw,
            FaultAction::DisableFamily => Self::DisableFamily,
        }
    }
}

/// What tells errors apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Kind {
    class: ErrorClass,
    attribute: u8,
    reason: &'static str,
    action: ErrorAction,
}

/// Errors of all peers since the speaker started, those that left included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorTotals([[u64; ErrorAction::ALL.len()]; ErrorClass::ALL.len()]);

impl ErrorTotals {
    fn add(&mut self, class: ErrorClass, action: ErrorAction) {
        if let Some(count) = self
            .0
            .get_mut(class as usize)
            .and_then(|row| row.get_mut(action as usize))
        {
            *count += 1;
        }
    }

    /// Every combination with its count.
    pub fn iter(&self) -> impl Iterator<Item = (ErrorClass, ErrorAction, u64)> + '_ {
        ErrorClass::ALL
            .into_iter()
            .zip(&self.0)
            .flat_map(|(class, row)| {
                ErrorAction::ALL
                    .into_iter()
                    .zip(row)
                    .map(move |(action, count)| (class, action, *count))
            })
    }
}

/// A message that was wrong.
#[derive(Clone, Debug)]
pub(super) struct Offence {
    at: Instant,
    kind: Kind,
    pub(super) reason: String,
    pub(super) action: ErrorAction,
    pub(super) prefixes: Vec<Prefix>,
    pub(super) octets: Bytes,
    pub(super) length: usize,
}

/// Errors of one peer.
#[derive(Debug, Default)]
pub(super) struct ErrorLog {
    counts: BTreeMap<Kind, u64>,
    recent: VecDeque<Offence>,
    /// UPDATEs whose prefixes were treated as withdrawn, and those prefixes: BMP's statistics 11 and 12.
    pub(super) updates_withdrawn: u64,
    pub(super) prefixes_withdrawn: u64,
}

impl ErrorLog {
    fn count(&mut self, kind: Kind, totals: &mut ErrorTotals) {
        totals.add(kind.class, kind.action);
        let kind = if self.counts.len() < MAX_KINDS || self.counts.contains_key(&kind) {
            kind
        } else {
            Kind {
                attribute: 0,
                reason: "other",
                ..kind
            }
        };
        *self.counts.entry(kind).or_default() += 1;
    }

    /// Books what was wrong with an UPDATE the session survives; the offence where there is one.
    pub(super) fn survived(
        &mut self,
        update: &Update,
        totals: &mut ErrorTotals,
        now: Instant,
    ) -> Option<Offence> {
        let first = update.faults.first()?;
        for fault in &update.faults {
            self.count(
                Kind {
                    class: ErrorClass::Attribute,
                    attribute: fault.code.0,
                    reason: fault_name(fault.kind),
                    action: fault.action.into(),
                },
                totals,
            );
        }
        let action = if update.was_treated_as_withdraw() {
            // What was announced became withdrawn; what was withdrawn anyway cannot be told apart any more, and rarely shares
            // a message with an announcement.
            self.updates_withdrawn += 1;
            self.prefixes_withdrawn += update.withdrawn.len() as u64;
            ErrorAction::TreatAsWithdraw
        } else {
            update
                .faults
                .iter()
                .map(|fault| fault.action)
                .max()
                .map_or(ErrorAction::AttributeDiscard, ErrorAction::from)
        };
        let announced = update.announced.iter().flat_map(|part| &part.nlri);
        let prefixes = update
            .withdrawn
            .iter()
            .chain(announced)
            .map(|nlri| nlri.prefix)
            .take(NAMED_PREFIXES)
            .collect();
        // The strongest of several is the one that mattered.
        let worst = update
            .faults
            .iter()
            .max_by_key(|fault| fault.action)
            .unwrap_or(first);
        let kind = Kind {
            class: ErrorClass::Attribute,
            attribute: worst.code.0,
            reason: fault_name(worst.kind),
            action,
        };
        let octets = update.malformed.clone().unwrap_or_default();
        Some(self.keep(kind, worst.to_string(), prefixes, &octets, now))
    }

    /// Books what the session does not survive.
    pub(super) fn fatal(
        &mut self,
        error: &DecodeError,
        octets: &[u8],
        totals: &mut ErrorTotals,
        now: Instant,
    ) -> Offence {
        let (class, attribute, reason) = error_name(error);
        let kind = Kind {
            class,
            attribute,
            reason,
            action: ErrorAction::Reset,
        };
        self.count(kind, totals);
        self.keep(kind, error.to_string(), Vec::new(), octets, now)
    }

    /// Books an OPEN that is well-formed and not what we take.
    pub(super) fn refused(
        &mut self,
        notification: &Notification,
        octets: &[u8],
        totals: &mut ErrorTotals,
        now: Instant,
    ) -> Offence {
        let kind = Kind {
            class: ErrorClass::Open,
            attribute: 0,
            reason: refusal_name(notification.code),
            action: ErrorAction::Reset,
        };
        self.count(kind, totals);
        self.keep(kind, notification.code.to_string(), Vec::new(), octets, now)
    }

    fn keep(
        &mut self,
        kind: Kind,
        reason: String,
        prefixes: Vec<Prefix>,
        octets: &[u8],
        at: Instant,
    ) -> Offence {
        let alike = self.recent.iter().position(|kept| kept.kind == kind);
        let mildest = || {
            let severity = |at: &usize| self.recent.get(*at).map(|kept| kept.action.severity());
            (0..self.recent.len()).min_by_key(severity)
        };
        let gives_way = match alike {
            None if self.recent.len() >= RECENT => mildest(),
            alike => alike,
        };
        if let Some(place) = gives_way {
            self.recent.remove(place);
        }
        let action = kind.action;
        let kept = octets.get(..KEPT_OCTETS).unwrap_or(octets);
        let offence = Offence {
            at,
            kind,
            reason,
            action,
            prefixes,
            octets: Bytes::copy_from_slice(kept),
            length: octets.len(),
        };
        self.recent.push_back(offence.clone());
        offence
    }

    /// Every kind with its count.
    pub(super) fn counts(&self) -> Vec<ErrorCount> {
        self.counts
            .iter()
            .map(|(kind, count)| ErrorCount {
                class: kind.class,
                attribute: (kind.class == ErrorClass::Attribute)
                    .then_some(AttributeCode(kind.attribute)),
                reason: kind.reason,
                action: kind.action,
                count: *count,
            })
            .collect()
    }

    /// The latest offending messages, oldest first.
    pub(super) fn recent(&self, now: Instant) -> Vec<OffenceSnapshot> {
        self.recent
            .iter()
            .map(|offence| OffenceSnapshot {
                ago: now.saturating_duration_since(offence.at),
                reason: offence.reason.clone(),
                action: offence.action,
                prefixes: offence.prefixes.clone(),
                octets: offence.octets.clone(),
                length: offence.length,
            })
            .collect()
    }
}

const fn fault_name(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Overrun => "overrun",
        FaultKind::Duplicate => "duplicate",
        FaultKind::Flags => "flags",
        FaultKind::Length => "length",
        FaultKind::Value => "value",
        FaultKind::Missing => "missing",
        FaultKind::UnrecognisedWellKnown => "unrecognised-well-known",
        FaultKind::Unexpected => "unexpected",
        FaultKind::FirstAs => "first-as",
        FaultKind::AsSet => "as-set",
        FaultKind::Multiprotocol => "multiprotocol",
        FaultKind::Family(_) => "family",
    }
}

/// What an OPEN is refused for.
const fn refusal_name(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::BAD_PEER_AS => "peer-as",
        ErrorCode::BAD_BGP_IDENTIFIER => "router-id",
        ErrorCode::UNACCEPTABLE_HOLD_TIME => "hold-time",
        ErrorCode::UNSUPPORTED_CAPABILITY => "families",
        ErrorCode::ROLE_MISMATCH => "role",
        _ => "refused",
    }
}

const fn error_name(error: &DecodeError) -> (ErrorClass, u8, &'static str) {
    match error {
        DecodeError::Marker => (ErrorClass::Header, 0, "marker"),
        DecodeError::MessageLength(_) | DecodeError::Frame(_) => (ErrorClass::Header, 0, "length"),
        DecodeError::MessageType(_) => (ErrorClass::Header, 0, "type"),
        DecodeError::Version(_) => (ErrorClass::Open, 0, "version"),
        DecodeError::Open(_) => (ErrorClass::Open, 0, "malformed"),
        DecodeError::OptionalParameter(_) => (ErrorClass::Open, 0, "optional-parameter"),
        DecodeError::PeerAs(_) => (ErrorClass::Open, 0, "peer-as"),
        DecodeError::RouterId => (ErrorClass::Open, 0, "router-id"),
        DecodeError::HoldTime(_) => (ErrorClass::Open, 0, "hold-time"),
        DecodeError::AttributeList(_) => (ErrorClass::Update, 0, "attribute-list"),
        DecodeError::NetworkField(_) => (ErrorClass::Nlri, 0, "prefix"),
        DecodeError::MpNlri { code, .. } => (ErrorClass::Attribute, code.0, "nlri"),
        DecodeError::UnrecognisedWellKnown(_) => {
            (ErrorClass::Attribute, 0, "unrecognised-well-known")
        }
        DecodeError::RouteRefreshLength(_) => (ErrorClass::RouteRefresh, 0, "length"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::AttributeFault;

    fn update(code: u8, kind: FaultKind) -> Update {
        Update {
            faults: vec![AttributeFault {
                code: AttributeCode(code),
                kind,
                action: FaultAction::TreatAsWithdraw,
            }],
            malformed: Some(Bytes::from(vec![code; 5000])),
            ..Update::default()
        }
    }

    #[test]
    fn counts_are_bounded_whatever_a_peer_invents_and_nothing_goes_uncounted() {
        let (mut log, mut totals) = (ErrorLog::default(), ErrorTotals::default());
        let now = Instant::now();
        for code in 0..=255 {
            for kind in [FaultKind::Flags, FaultKind::Length] {
                log.survived(&update(code, kind), &mut totals, now);
            }
        }
        assert!(log.counts().len() <= MAX_KINDS + 1);
        assert_eq!(log.counts().iter().map(|kind| kind.count).sum::<u64>(), 512);
        assert_eq!(log.updates_withdrawn, 512);
        let total: u64 = totals.iter().map(|(.., count)| count).sum();
        assert_eq!(total, 512);
    }

    #[test]
    fn the_latest_messages_are_kept_and_cut() {
        let (mut log, mut totals) = (ErrorLog::default(), ErrorTotals::default());
        let now = Instant::now();
        for code in 1..=9 {
            log.survived(&update(code, FaultKind::Value), &mut totals, now);
        }
        log.fatal(&DecodeError::Marker, &[0; 19], &mut totals, now);
        let recent = log.recent(now);
        assert_eq!(recent.len(), RECENT);
        assert_eq!(recent[0].octets.len(), KEPT_OCTETS);
        assert_eq!((recent[0].length, recent[0].octets[0]), (5000, 7));
        assert_eq!(recent[3].reason, "message marker is not all ones");
    }

    #[test]
    fn what_is_wrong_with_every_message_does_not_hide_what_is_worse() {
        let (mut log, mut totals) = (ErrorLog::default(), ErrorTotals::default());
        let now = Instant::now();
        log.fatal(&DecodeError::Marker, &[0; 19], &mut totals, now);
        let ignored = |code| {
            let mut ignored = update(code, FaultKind::Unexpected);
            ignored.faults[0].action = FaultAction::AttributeDiscard;
            ignored
        };
        for _ in 0..100 {
            for code in [5, 9, 10] {
                log.survived(&ignored(code), &mut totals, now);
            }
        }
        log.survived(&update(2, FaultKind::Length), &mut totals, now);
        for code in 20..40 {
            log.survived(&ignored(code), &mut totals, now);
        }
        let actions: Vec<ErrorAction> = log.recent(now).iter().map(|kept| kept.action).collect();
        assert_eq!(actions.len(), RECENT);
        assert!(actions.contains(&ErrorAction::Reset), "{actions:?}");
        assert!(
            actions.contains(&ErrorAction::TreatAsWithdraw),
            "{actions:?}"
        );
        assert_eq!(actions.last(), Some(&ErrorAction::AttributeDiscard));
    }
}
