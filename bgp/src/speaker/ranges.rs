//! How many neighbours of a range there are, and of which kind.
//!
//! Anybody may call, so what a call costs must not grow with those who called before: they are counted as they come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::Speaker;
use super::config::{PeerConfig, Remote};
use super::neighbour::Neighbour;
use crate::prefix::Prefix;
use crate::rib::Slot;

/// What a neighbour is to its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It never had a session.
    HalfOpen,
    /// It has one, or had one and is here, or has routes kept.
    Session,
    /// It is here only for what is held against it, since then.
    Remembered(Instant),
}

/// The ranges, and who is here of each.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    /// Where they stand among the configured peers.
    places: Vec<(Prefix, usize)>,
    members: BTreeMap<Arc<str>, Members>,
}

/// Those that came from one range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    pub(super) count: usize,
    /// Without a session so far.
    pub(super) half_open: usize,
    /// Those who are here only for what is held against them, and since when.
    remembered: BTreeSet<(Instant, Slot)>,
}

impl Ranges {
    /// Each range, and where it stands among the configured peers.
    pub(super) fn places(&self) -> impl Iterator<Item = (Prefix, usize)> {
        self.places.iter().copied()
    }
}

impl Members {
    /// Who has been here longest for nothing but what is held against it.
    pub(super) fn longest_remembered(&self) -> Option<Slot> {
        self.remembered.first().map(|(_, slot)| *slot)
    }

    fn add(&mut self, slot: Slot, standing: Standing) {
        self.count += 1;
        match standing {
            Standing::HalfOpen => self.half_open += 1,
            Standing::Session => {}
            Standing::Remembered(since) => {
                self.remembered.insert((since, slot));
            }
        }
    }

    fn remove(&mut self, slot: Slot, standing: Standing) {
        self.count -= 1;
        match standing {
            Standing::HalfOpen => self.half_open -= 1,
            Standing::Session => {}
            Standing::Remembered(since) => {
                self.remembered.remove(&(since, slot));
            }
        }
    }
}

impl Neighbour {
    /// What it is to its range; nothing where it is of none, or leaves.
    fn standing(&self) -> Option<Standing> {
        if self.range.is_none() || self.leaving {
            return None;
        }
        Some(if self.is_only_remembered() {
            Standing::Remembered(self.state_since)
        } else if self.established_count == 0 {
            Standing::HalfOpen
        } else {
            // Whoever has routes kept here was somebody once.
            Standing::Session
        })
    }
}

impl Speaker {
    /// Notes where the ranges stand in the configuration.
    pub(super) fn take_ranges(&mut self) {
        let range_of = |(place, peer): (usize, &PeerConfig)| match peer.remote {
            Remote::Range(range) => Some((range, place)),
            Remote::Address(_) | Remote::Unnumbered(_) => None,
        };
        let peers = self.config.peers.iter().enumerate();
        self.ranges.places = peers.filter_map(range_of).collect();
    }

    /// Those that came from a range.
    pub(super) fn members(&self, range: &str) -> &Members {
        const NOBODY: &Members = &Members {
            count: 0,
            half_open: 0,
            remembered: BTreeSet::new(),
        };
        let members = self.ranges.members.get(range).unwrap_or(NOBODY);
        debug_assert_eq!(
            *members,
            self.members_by_looking(range),
            "who comes and goes is counted"
        );
        members
    }

    fn members_by_looking(&self, range: &str) -> Members {
        let mut members = Members::default();
        for slot in self.slots() {
            if let Some(neighbour) = self.neighbour(slot)
                && neighbour.range.as_deref() == Some(range)
                && let Some(standing) = neighbour.standing()
            {
                members.add(slot, standing);
            }
        }
        members
    }

    /// Counts a neighbour of a range as what it is by now.
    pub(super) fn recount(&mut self, slot: Slot) {
        let Some(neighbour) = self.neighbour(slot) else {
            return;
        };
        let standing = neighbour.standing();
        if standing != neighbour.counted {
            self.count(slot, standing);
        }
    }

    /// Counts it no more: it is gone, or of another range from here on.
    pub(super) fn uncount(&mut self, slot: Slot) {
        self.count(slot, None);
    }

    fn count(&mut self, slot: Slot, standing: Option<Standing>) {
        let place = self.neighbours.get_mut(usize::from(slot));
        let Some(neighbour) = place.and_then(Option::as_mut) else {
            return;
        };
        let Some(range) = &neighbour.range else {
            return;
        };
        let counted = std::mem::replace(&mut neighbour.counted, standing);
        let members = self.ranges.members.entry(Arc::clone(range)).or_default();
        if let Some(counted) = counted {
            members.remove(slot, counted);
        }
        if let Some(standing) = standing {
            members.add(slot, standing);
        }
        if members.count == 0 {
            self.ranges.members.remove(range);
        }
    }
}
