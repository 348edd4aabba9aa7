//! Which next hops are reached, and at what cost, as far as whoever forwards says (RFC 4271 §9.1.2.1).
//!
//! A next hop is tracked from the first attribute set that names it to the last. Those who forward are asked about it once,
//! answer, and answer again when the answer changes; only paths with that next hop are decided anew then. Until the first
//! answer it counts as out of reach: a route nobody has a way for is not worth telling.
//!
//! While tracking is off, everything is reached at cost 0 and nothing here holds anything.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::RouteNextHop;
use super::attribute_store::PathData;
use super::index::{IdIndex, NONE, fold};
use crate::codec::NextHop;

/// What whoever forwards is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHopInterest {
    /// Say how this next hop is reached, now and whenever that changes.
    Watch(RouteNextHop),
    /// Nobody wants to know any more.
    Forget(RouteNextHop),
}

/// How a next hop is reached, as far as whoever forwards knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHopState {
    /// Which.
    pub next_hop: RouteNextHop,
    /// By what; nothing where there is no way.
    pub reach: Option<Reach>,
}

/// The way to a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Its cost, 0 on a link of ours.
    pub metric: u32,
    /// It is only a default route.
    pub via_default: bool,
}

/// A tracked next hop; [`NONE`] for none.
pub(super) type HopId = u32;

#[derive(Debug)]
struct Hop {
    next_hop: RouteNextHop,
    /// Attribute sets that name it.
    references: u32,
    asked: bool,
    answered: bool,
    reach: Option<Reach>,
    /// Paths with it are to be decided anew.
    moved: bool,
    /// It waits to be forgotten unless somebody names it before.
    idle: bool,
}

#[derive(Debug, Default)]
pub(crate) struct NextHops {
    tracking: bool,
    via_default: bool,
    hops: Vec<Option<Hop>>,
    free: Vec<HopId>,
    index: IdIndex,
    /// Peers choose addresses: without a secret they could choose such that collide.
    seed: u64,
    /// Those that were asked about when tracking ended.
    forgotten: VecDeque<RouteNextHop>,
    watched: VecDeque<HopId>,
    idle: VecDeque<HopId>,
    unanswered: usize,
    moved: bool,
}

impl NextHops {
    pub(super) const fn is_tracking(&self) -> bool {
        self.tracking
    }

    /// Hashes with this secret from here on; before there is anything to hash.
    pub(crate) const fn set_seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    fn find(&self, next_hop: &RouteNextHop) -> Option<HopId> {
        self.index.find(
            digest(next_hop, self.seed),
            |id| matches!(self.hops.get(id as usize), Some(Some(hop)) if hop.next_hop == *next_hop),
        )
    }

    /// Sets the options; true where every path has to be looked at again. What is named has to be registered anew by whoever
    /// holds the attribute sets when tracking begins.
    pub(super) fn configure(&mut self, tracking: bool, via_default: bool) -> bool {
        let changed = self.tracking != tracking;
        if changed {
            let mut forgotten = std::mem::take(&mut self.forgotten);
            let asked = self.hops.iter().flatten().filter(|hop| hop.asked);
            forgotten.extend(asked.map(|hop| hop.next_hop));
            *self = Self {
                tracking,
                seed: self.seed,
                forgotten,
                ..Self::default()
            };
        }
        let relevant = tracking && self.via_default != via_default;
        self.via_default = via_default;
        changed || relevant
    }

    /// An attribute set with this next hop came into being.
    pub(super) fn retain(&mut self, data: &PathData) -> HopId {
        if !self.tracking {
            return NONE;
        }
        let Some(next_hop) = forwarding_next_hop(data) else {
            return NONE;
        };
        if let Some(id) = self.find(&next_hop) {
            if let Some(Some(hop)) = self.hops.get_mut(id as usize) {
                hop.references += 1;
            }
            return id;
        }
        let hop = Some(Hop {
            next_hop,
            references: 1,
            asked: false,
            answered: false,
            reach: None,
            moved: false,
            idle: false,
        });
        let id = if let Some(id) = self.free.pop() {
            if let Some(place) = self.hops.get_mut(id as usize) {
                *place = hop;
            }
            id
        } else {
            self.hops.push(hop);
            u32::try_from(self.hops.len() - 1).unwrap_or(NONE)
        };
        let (hops, seed) = (&self.hops, self.seed);
        self.index
            .insert(digest(&next_hop, seed), id, |id| digest_of(hops, id, seed));
        self.watched.push_back(id);
        self.unanswered += 1;
        id
    }

    /// An attribute set with this next hop is no more.
    pub(super) fn release(&mut self, id: HopId) {
        if let Some(Some(hop)) = self.hops.get_mut(id as usize) {
            hop.references -= 1;
            // Not at once: what flaps is named again before anybody is asked.
            if hop.references == 0 && !hop.idle {
                hop.idle = true;
                self.idle.push_back(id);
            }
        }
    }

    /// What it costs to reach a next hop; nothing where it is out of reach. Attribute sets without one are reached.
    pub(super) fn metric(&self, id: HopId) -> Option<u32> {
        let Some(Some(hop)) = self.hops.get(id as usize) else {
            return Some(0);
        };
        hop.reach
            .filter(|reach| self.via_default || !reach.via_default)
            .map(|reach| reach.metric)
    }

    /// Takes an answer in. True where it differs from the last one and paths depend on it.
    pub(crate) fn take(&mut self, state: &NextHopState) -> bool {
        let Some(id) = self.find(&state.next_hop) else {
            return false;
        };
        let before = self.metric(id);
        let Some(Some(hop)) = self.hops.get_mut(id as usize) else {
            return false;
        };
        self.unanswered -= usize::from(!std::mem::replace(&mut hop.answered, true));
        hop.reach = state.reach;
        let moved = self.metric(id) != before;
        if let Some(Some(hop)) = self.hops.get_mut(id as usize) {
            hop.moved |= moved;
        }
        self.moved |= moved;
        moved
    }

    /// Whether paths with this next hop are to be decided anew.
    pub(super) fn has_moved(&self, id: HopId) -> bool {
        matches!(self.hops.get(id as usize), Some(Some(hop)) if hop.moved)
    }

    /// Everything that had moved has been looked at.
    pub(crate) fn settle(&mut self) {
        if std::mem::take(&mut self.moved) {
            for hop in self.hops.iter_mut().flatten() {
                hop.moved = false;
            }
        }
    }

    /// Whether somebody has still to say how a next hop is reached.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.unanswered > 0
    }

    /// The next question.
    pub(crate) fn poll(&mut self) -> Option<NextHopInterest> {
        if let Some(next_hop) = self.forgotten.pop_front() {
            return Some(NextHopInterest::Forget(next_hop));
        }
        while let Some(id) = self.idle.pop_front() {
            let Some(place) = self.hops.get_mut(id as usize) else {
                continue;
            };
            let Some(hop) = place else { continue };
            hop.idle = false;
            if hop.references > 0 {
                continue;
            }
            let (next_hop, asked, answered) = (hop.next_hop, hop.asked, hop.answered);
            *place = None;
            let (hops, seed) = (&self.hops, self.seed);
            self.index
                .remove(digest(&next_hop, seed), id, |id| digest_of(hops, id, seed));
            self.free.push(id);
            self.unanswered -= usize::from(!answered);
            if !asked {
                continue;
            }
            return Some(NextHopInterest::Forget(next_hop));
        }
        while let Some(id) = self.watched.pop_front() {
            // The place may be another one's by now, which is asked about once all the same.
            if let Some(Some(hop)) = self.hops.get_mut(id as usize)
                && !std::mem::replace(&mut hop.asked, true)
            {
                return Some(NextHopInterest::Watch(hop.next_hop));
            }
        }
        None
    }
}

fn digest(next_hop: &RouteNextHop, seed: u64) -> u64 {
    let (high, low) = match next_hop.address {
        IpAddr::V4(address) => (0, u64::from(address.to_bits())),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the two halves are taken one after the other"
            )]
            let halves = ((bits >> 64) as u64, bits as u64);
            halves
        }
    };
    let interface = next_hop.interface_index.map_or(0, u64::from);
    fold(interface, fold(low, fold(high, seed)))
}

fn digest_of(hops: &[Option<Hop>], id: HopId, seed: u64) -> u64 {
    match hops.get(id as usize) {
        Some(Some(hop)) => digest(&hop.next_hop, seed),
        _ => 0,
    }
}

/// Where packets by this attribute set go: on the link itself where the peer named a link-local address.
pub(crate) fn forwarding_next_hop(data: &PathData) -> Option<RouteNextHop> {
    let interface_index = (data.interface != 0).then_some(data.interface);
    let next_hop = data.next_hop?;
    if let NextHop::V6 {
        link_local: Some(address),
        ..
    } = next_hop
        && interface_index.is_some()
    {
        return Some(RouteNextHop {
            address: address.into(),
            interface_index,
        });
    }
    Some(RouteNextHop {
        address: next_hop.addr(),
        interface_index: None,
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::*;

    fn data(last: u8) -> PathData {
        PathData {
            attributes: Arc::default(),
            next_hop: Some(NextHop::V4(Ipv4Addr::new(10, 0, 0, last))),
            interface: 0,
            weight: 0,
            discard: false,
        }
    }

    fn key(last: u8) -> RouteNextHop {
        forwarding_next_hop(&data(last)).expect("it has one")
    }

    fn tracking() -> NextHops {
        let mut hops = NextHops::default();
        assert!(hops.configure(true, true));
        hops
    }

    #[test]
    fn a_next_hop_is_asked_about_once_and_forgotten_with_its_last_user() {
        let mut hops = tracking();
        let first = hops.retain(&data(1));
        assert_eq!(hops.retain(&data(1)), first);
        assert_eq!(hops.poll(), Some(NextHopInterest::Watch(key(1))));
        hops.release(first);
        assert_eq!(hops.poll(), None);
        hops.release(first);
        assert_eq!(hops.poll(), Some(NextHopInterest::Forget(key(1))));
        assert!(!hops.is_waiting());
    }

    #[test]
    fn what_comes_back_before_anybody_asked_is_no_news() {
        let mut hops = tracking();
        let first = hops.retain(&data(1));
        assert_eq!(hops.poll(), Some(NextHopInterest::Watch(key(1))));
        hops.release(first);
        assert_eq!(hops.retain(&data(1)), first);
        assert_eq!(hops.poll(), None);
        // One that comes and goes unseen costs nobody a question.
        let second = hops.retain(&data(2));
        hops.release(second);
        assert_eq!(hops.poll(), None);
    }

    #[test]
    fn whoever_was_asked_is_told_when_nobody_wants_to_know_any_more_because_tracking_ended() {
        let mut hops = tracking();
        hops.retain(&data(1));
        assert_eq!(hops.poll(), Some(NextHopInterest::Watch(key(1))));
        hops.retain(&data(2));
        assert!(hops.configure(false, true));
        assert!(hops.configure(true, true));
        hops.retain(&data(1));
        assert_eq!(hops.poll(), Some(NextHopInterest::Forget(key(1))));
        assert_eq!(hops.poll(), Some(NextHopInterest::Watch(key(1))));
        assert_eq!(hops.poll(), None);
    }

    #[test]
    fn where_a_next_hop_is_looked_for_depends_on_a_secret() {
        let homes = |seed| {
            let digests = (1..200).map(move |last| digest(&key(last), seed) >> 32 & 0xff);
            digests.collect::<Vec<u64>>()
        };
        // Those that share a place under one secret are scattered under another.
        let (one, other) = (homes(1), homes(2));
        let together = |homes: &[u64], a: usize, b: usize| homes[a] == homes[b];
        let pairs = (0..one.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
        let colliding: Vec<_> = pairs.filter(|(a, b)| together(&one, *a, *b)).collect();
        let still = colliding.iter().filter(|(a, b)| together(&other, *a, *b));
        assert!(colliding.len() > 20 && still.count() * 4 < colliding.len());
    }

    #[test]
    fn an_answer_is_news_only_where_it_changes_what_paths_are_worth() {
        let mut hops = tracking();
        let id = hops.retain(&data(1));
        assert_eq!(hops.metric(id), None);
        let answer = |metric, via_default| NextHopState {
            next_hop: key(1),
            reach: Some(Reach {
                metric,
                via_default,
            }),
        };
        assert!(hops.take(&answer(5, false)));
        assert_eq!(hops.metric(id), Some(5));
        assert!(!hops.take(&answer(5, true)));
        assert!(hops.configure(true, false));
        assert_eq!(hops.metric(id), None);
        hops.settle();
        assert!(hops.take(&answer(7, false)) && hops.has_moved(id));
    }
}
