//! The way out to peers: who is to be given octets, and how many.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use super::neighbour::Neighbour;
use super::snapshot::Totals;
use super::{LOW_WATER, Output, Speaker, WINDOW, with_rib};
use crate::family::Family;
use crate::fsm::PeerWarning;
use crate::rib::Slot;

/// Peers served between two looks at the budget count for this much of it: a chunk is cheap to share.
const COST_OF_PEER: usize = 16;

impl Speaker {
    /// Puts a peer in the queue of those to be given octets.
    pub(super) fn make_ready(&mut self, slot: Slot) {
        if let Some(neighbour) = self.neighbour_mut(slot)
            && !neighbour.ready
            && neighbour.session.is_some()
        {
            neighbour.ready = true;
            self.ready.push_back(slot);
        }
    }

    /// Wakes the peers of groups that have news, and warns those of groups that keep something back.
    pub(super) fn wake(&mut self, now: Instant) {
        let (mut woken, mut withheld) = (Vec::new(), Vec::new());
        for family in Family::ALL {
            with_rib!(self.tables, family, |rib| rib
                .take_woken(&mut woken, &mut withheld));
            for slot in withheld.drain(..) {
                self.warn(slot, PeerWarning::NextHopMissing(family), now);
            }
        }
        for slot in woken {
            self.make_ready(slot);
        }
    }

    /// Gives octets to peers that have room. True while more peers wait.
    pub(super) fn tell_ready(&mut self, budget: usize) -> bool {
        let mut left = budget.div_ceil(COST_OF_PEER);
        let mut unfinished = Vec::new();
        while left > 0 {
            let Some(slot) = self.ready.pop_front() else {
                break;
            };
            left -= 1;
            if self.tell(slot) {
                unfinished.push(slot);
            }
        }
        // Not in this round: what has nothing for a peer takes time like what has.
        for slot in unfinished {
            self.make_ready(slot);
        }
        !self.ready.is_empty()
    }

    /// Gives octets to a peer. True where it has room for more and there may be more.
    fn tell(&mut self, slot: Slot) -> bool {
        let options = self.decision_options();
        let Self {
            neighbours,
            tables,
            outputs,
            departed,
            ..
        } = self;
        let Some(neighbour) = neighbours
            .get_mut(usize::from(slot))
            .and_then(Option::as_mut)
        else {
            return false;
        };
        neighbour.ready = false;
        let Some(session) = &neighbour.session else {
            return false;
        };
        let direction = session.negotiated.direction;
        let mut queued = neighbour.queued(direction);
        if queued >= LOW_WATER {
            return false;
        }
        let mut chunks = Vec::new();
        let mut unfinished = false;
        // Families take turns by the chunk, over the windows too: a long table of one must not hold up a change of the other.
        let mut idle = 0;
        while queued < WINDOW && idle < Family::ALL.len() {
            let ipv6_first = neighbour.ipv6_first;
            neighbour.ipv6_first = !ipv6_first;
            let family = if ipv6_first {
                Family::IPV6_UNICAST
            } else {
                Family::IPV4_UNICAST
            };
            let (octets, unsendable, more) = match session.family(family) {
                None => (SmallVec::new(), 0, false),
                Some(carried) => tables.pull(family, carried.group, carried.member, options),
            };
            note_unsendable(neighbour, family, unsendable, departed, outputs);
            unfinished |= octets.is_empty() && more;
            idle = if octets.is_empty() { idle + 1 } else { 0 };
            queued += octets.iter().map(bytes::Bytes::len).sum::<usize>();
            chunks.extend(octets);
        }
        unfinished &= queued < LOW_WATER;
        if chunks.is_empty() {
            return unfinished;
        }
        neighbour.counters.chunks_sent += chunks.len() as u64;
        neighbour.counters.octets_sent += (queued - neighbour.queued(direction)) as u64;
        *neighbour.queued_mut(direction) = queued;
        outputs.push_back(Output::Send {
            peer: neighbour.id,
            direction,
            chunks,
        });
        unfinished
    }

    /// Tells a peer everything anew.
    pub(super) fn retell(&mut self, slot: Slot) {
        for family in Family::ALL {
            let carried = self
                .neighbour(slot)
                .and_then(|neighbour| neighbour.session.as_ref()?.family(family).copied());
            if let Some(carried) = carried {
                with_rib!(self.tables, family, |rib| {
                    if let Some(group) = rib.group_mut(carried.group) {
                        group.refresh(carried.member, false);
                    }
                });
            }
        }
        self.make_ready(slot);
    }
}

/// What was encoded for a peer, or for who watches it, had routes that fit no message.
pub(super) fn note_unsendable(
    neighbour: &Neighbour,
    family: Family,
    routes: u64,
    departed: &mut Totals,
    outputs: &mut VecDeque<Output>,
) {
    if routes == 0 {
        return;
    }
    departed.unsendable += routes;
    outputs.push_back(Output::PeerWarning {
        peer: neighbour.id,
        name: Arc::clone(&neighbour.name),
        warning: PeerWarning::RoutesUnsendable { family, routes },
    });
}
