//! The choice per prefix: which prefixes wait for it, what it compares, what it moved.
//!
//! The comparison itself is `decision.rs`; here its candidates are gathered and its verdict is written into the table.

use smallvec::SmallVec;

use super::{Key, NetFlags, NetId, Path, PathFlags, PathRef, PathView, Table};
use crate::asn::Asn;
use crate::decision::{self, Candidate, Options};
use crate::rib::attribute_store::{AttrId, AttributeStore, Marks};
use crate::rib::index::NONE;
use crate::rib::{LOCAL, PeerFacts, Slot};

/// Paths a sweep looks at for the price of one decision.
const SWEEP_STRIDE: u32 = 16;

/// What the decision reads beside the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DecisionInput<'a> {
    pub(crate) store: &'a AttributeStore,
    pub(crate) facts: &'a [PeerFacts],
    pub(crate) options: Options,
}

/// What a decision changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// What is advertised may differ.
    pub(crate) best_changed: bool,
    /// What is forwarded by may differ.
    pub(crate) used_changed: bool,
    /// No path of any kind is left.
    pub(crate) empty: bool,
}

impl<F: Key> Table<F> {
    pub(super) fn mark_dirty(&mut self, net: NetId) {
        let place = self.net_mut(net);
        if !place.flags.contains(NetFlags::DIRTY) {
            place.flags |= NetFlags::DIRTY;
            self.dirty.push_back(net.0);
        }
    }

    /// Queues every prefix for the decision, because what the decision depends on changed.
    pub(crate) fn mark_all_dirty(&mut self) {
        for id in 0..self.net_bound() {
            if self.is_net(NetId(id)) {
                self.mark_dirty(NetId(id));
            }
        }
    }

    /// Queues every prefix, and what forwarding uses of it counts as changed.
    pub(crate) fn report_all(&mut self) {
        self.mark_all_dirty();
        for net in &mut self.nets {
            if net.flags.contains(NetFlags::DIRTY) {
                net.flags |= NetFlags::USED_TOUCHED;
            }
        }
    }

    /// Every path is to be looked at because the way to some next hop changed.
    pub(crate) const fn begin_sweep(&mut self) {
        self.sweep = Some(0);
    }

    pub(crate) const fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    /// Goes on with a sweep: queues the prefixes of paths whose next hop is reached differently now. There is no list of paths
    /// by next hop, which every path would pay for; going over all of them takes milliseconds and is needed rarely.
    pub(crate) fn sweep(&mut self, budget: &mut usize, store: &AttributeStore) {
        while *budget > 0
            && let Some(from) = self.sweep
        {
            *budget -= 1;
            let bound = u32::try_from(self.paths.len()).unwrap_or(u32::MAX);
            let to = from.saturating_add(SWEEP_STRIDE).min(bound);
            for at in from..to {
                let path = self.path(at);
                if !path.flags.contains(PathFlags::GONE) && store.has_moved(path.attributes) {
                    let net = NetId(path.net);
                    self.mark_dirty(net);
                }
            }
            self.sweep = (to < bound).then_some(to);
        }
    }

    pub(crate) fn next_dirty(&mut self) -> Option<NetId> {
        self.dirty.pop_front().map(NetId)
    }

    pub(crate) fn is_dirty(&self, net: NetId) -> bool {
        self.net(net).flags.contains(NetFlags::DIRTY)
    }

    pub(crate) fn dirty_count(&self) -> usize {
        self.dirty.len()
    }

    /// Settles a net that [`Table::next_dirty`] gave.
    pub(crate) fn decide(&mut self, net: NetId, input: &DecisionInput<'_>) -> Outcome {
        let mut at = self.net(net).first;
        if at == NONE {
            return self.settled(net, false, false);
        }
        let mut members: SmallVec<[u32; 16]> = SmallVec::new();
        let mut candidates: SmallVec<[Candidate<'_>; 8]> = SmallVec::new();
        let alone = at != NONE && self.path(at).next == NONE;
        let incumbent = self.incumbent(net, input);
        while at != NONE {
            let path = self.path(at);
            if path.flags.reason().is_none() && is_reached(path.peer, path.attributes, input.store)
            {
                members.push(at);
                if !alone {
                    candidates.push(path.candidate(incumbent, input));
                }
            }
            at = path.next;
        }
        let mut best = NONE;
        let mut used: SmallVec<[u32; 4]> = SmallVec::new();
        if alone {
            best = members.first().copied().unwrap_or(NONE);
            used.extend(members.iter().copied());
        } else if let Some(decision) = decision::choose(&candidates, input.options) {
            let path_of = |index: usize| members.get(index).copied().unwrap_or(NONE);
            best = path_of(decision.best);
            used.extend(decision.multipath.iter().map(|index| path_of(*index)));
        }
        // Flags, and the best path to the front.
        let (mut best_moved, mut used_moved) = (false, false);
        let mut before = NONE;
        let mut at = self.net(net).first;
        while at != NONE {
            let path = self.path_mut(at);
            let was = path.flags;
            path.flags.set(PathFlags::BEST, at == best);
            path.flags.set(PathFlags::USED, used.contains(&at));
            let changed = was ^ path.flags;
            best_moved |= changed.contains(PathFlags::BEST);
            used_moved |= changed.contains(PathFlags::USED);
            let next = path.next;
            if at == best && before != NONE {
                self.path_mut(before).next = next;
                let first = self.net(net).first;
                self.path_mut(at).next = first;
                self.net_mut(net).first = at;
            } else {
                before = at;
            }
            at = next;
        }
        self.settled(net, best_moved, used_moved)
    }

    /// The net is decided; these of its paths moved.
    fn settled(&mut self, net: NetId, best_moved: bool, used_moved: bool) -> Outcome {
        let is = self.best(net).is_some();
        let place = self.net_mut(net);
        let outcome = Outcome {
            best_changed: best_moved || place.flags.contains(NetFlags::BEST_TOUCHED),
            used_changed: used_moved || best_moved || place.flags.contains(NetFlags::USED_TOUCHED),
            empty: place.first == NONE,
        };
        place.flags -= NetFlags::DIRTY | NetFlags::BEST_TOUCHED | NetFlags::USED_TOUCHED;
        let was = place.flags.contains(NetFlags::CHOSEN);
        place.flags.set(NetFlags::CHOSEN, is);
        self.chosen_nets += usize::from(is);
        self.chosen_nets -= usize::from(was);
        outcome
    }

    /// The `count` best paths of a net: the best, the best without that one, and so on.
    pub(crate) fn best_paths(
        &self,
        net: NetId,
        count: usize,
        input: &DecisionInput<'_>,
    ) -> SmallVec<[PathRef; 8]> {
        let (places, mut candidates): (SmallVec<[PathRef; 8]>, SmallVec<[Candidate<'_>; 8]>) = self
            .places_of(net)
            .filter(|(_, path)| Self::is_usable(path, input.store))
            .map(|(place, path)| (place, self.candidate(&path, input)))
            .unzip();
        if places.len() <= count {
            return places;
        }
        let mut left = places;
        let mut best = SmallVec::new();
        while best.len() < count {
            let Some(index) = decision::best(&candidates, input.options) else {
                break;
            };
            candidates.remove(index);
            best.push(left.remove(index));
        }
        best
    }

    /// Whether a path takes part in the decision.
    pub(crate) fn is_usable(path: &PathView, store: &AttributeStore) -> bool {
        path.unusable.is_none() && is_reached(path.peer, path.attributes, store)
    }

    /// What the decision would compare of a path.
    pub(crate) fn candidate<'a>(
        &self,
        view: &PathView,
        input: &DecisionInput<'a>,
    ) -> Candidate<'a> {
        candidate(
            view.attributes,
            view.peer,
            view.path_id,
            view.long_lived,
            self.incumbent(view.net, input),
            input,
        )
    }

    /// The identifier of the router whose external path is the best so far, where that counts (RFC 5004).
    fn incumbent(&self, net: NetId, input: &DecisionInput<'_>) -> Option<u32> {
        if !input.options.prefer_oldest_external {
            return None;
        }
        let best = self.best(net)?;
        let facts = input.facts.get(usize::from(best.peer))?;
        facts
            .external
            .then(|| originator(input.store.keys(best.attributes).originator, Some(facts)))
    }
}

impl Path {
    fn candidate<'a>(&self, incumbent: Option<u32>, input: &DecisionInput<'a>) -> Candidate<'a> {
        let long_lived = self.flags.contains(PathFlags::LONG_LIVED);
        let (attributes, path_id) = (self.attributes, self.id());
        candidate(attributes, self.peer, path_id, long_lived, incumbent, input)
    }
}

fn candidate<'a>(
    attributes: AttrId,
    peer: Slot,
    path_id: Option<u32>,
    long_lived: bool,
    incumbent: Option<u32>,
    input: &DecisionInput<'a>,
) -> Candidate<'a> {
    let keys = input.store.keys(attributes);
    let data = input.store.data(attributes);
    let facts = input.facts.get(usize::from(peer));
    let external = facts.is_some_and(|facts| facts.external);
    let originator = originator(keys.originator, facts);
    Candidate {
        long_lived_stale: long_lived || keys.marks.contains(Marks::LLGR_STALE),
        weight: data.weight,
        local_pref: keys.local_pref,
        local: peer == LOCAL,
        as_path_len: keys.as_path_len,
        origin: keys.origin,
        neighbour_as: match facts {
            Some(facts) if keys.neighbour_as == Asn(0) => facts.asn,
            _ => keys.neighbour_as,
        },
        med: if input.options.missing_med_as_worst && data.attributes.med.is_none() {
            u32::MAX
        } else {
            keys.med
        },
        external,
        next_hop_metric: if peer == LOCAL {
            0
        } else {
            input.store.metric(attributes).unwrap_or(u32::MAX)
        },
        incumbent: external && incumbent == Some(originator),
        originator,
        cluster_list_len: keys.cluster_list_len,
        peer_address: facts.and_then(|facts| facts.address),
        peer: facts.map_or("", |facts| &facts.name),
        path_id,
        next_hop: data.next_hop,
        next_hop_interface: (data.interface != 0).then_some(data.interface),
        discard: data.discard,
        as_path: keys.as_path,
    }
}

/// Whether packets get to the next hop of a path; to those of our own routes in any case, or nobody would have brought them in.
/// One whose packets are discarded needs no next hop.
fn is_reached(peer: Slot, attributes: AttrId, store: &AttributeStore) -> bool {
    !store.is_tracking()
        || peer == LOCAL
        || store.metric(attributes).is_some()
        || store.data(attributes).discard
}

/// ORIGINATOR_ID where there is one, else the peer's own identifier.
fn originator(attribute: u32, facts: Option<&PeerFacts>) -> u32 {
    match (attribute, facts) {
        (0, Some(facts)) => facts.router_id,
        (originator, _) => originator,
    }
}
