//! Path attributes, interned: one record for all paths with equal attributes, next hop and weight.
//!
//! A full table has fifty paths to an attribute set, a reflector's clients send one set each. So a path carries a
//! four-octet [`AttrId`], an UPDATE costs one lookup whatever its number of prefixes, equality is equality of ids, and
//! what the decision compares is extracted once, here.
//!
//! Records are counted by hand: whoever stores an id holds one reference. An id is reused after its last reference went.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use super::index::{IdIndex, NONE};
use super::next_hops::{HopId, NextHops};
use crate::asn::Asn;
use crate::codec::{Community, NextHop, PathAttributes};

/// An interned record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AttrId(pub(crate) u32);

/// What is interned as one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PathData {
    pub(crate) attributes: Arc<PathAttributes>,
    /// Nothing for local routes that are reached through this speaker.
    pub(crate) next_hop: Option<NextHop>,
    /// The session's interface where the next hop is link-local, else 0.
    pub(crate) interface: u32,
    /// Set by import policy.
    pub(crate) weight: u32,
    /// Import policy says that its traffic goes nowhere.
    pub(crate) discard: bool,
}

/// What the decision and the export rules read, extracted from [`PathData`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys {
    pub(crate) local_pref: u32,
    pub(crate) as_path_len: u32,
    pub(crate) neighbour_as: Asn,
    pub(crate) med: u32,
    /// ORIGINATOR_ID, 0 where absent.
    pub(crate) originator: u32,
    pub(crate) cluster_list_len: u32,
    pub(crate) as_path: u64,
    pub(crate) origin: u8,
    pub(crate) marks: Marks,
}

bitflags::bitflags! {
    /// Well-known communities that change what is done with a path.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Marks: u8 {
        const NO_EXPORT = 1;
        const NO_ADVERTISE = 2;
        const NO_EXPORT_SUBCONFED = 4;
        const LLGR_STALE = 8;
        const NO_LLGR = 16;
        const GRACEFUL_SHUTDOWN = 32;
    }
}

#[derive(Debug)]
struct Record {
    data: PathData,
    keys: Keys,
    hash: u64,
    references: u32,
    /// Its next hop, while next hops are tracked.
    hop: HopId,
}

#[derive(Debug)]
enum Slot {
    Used(Record),
    Free(u32),
}

#[derive(Debug)]
pub(crate) struct AttributeStore {
    slots: Vec<Slot>,
    free: u32,
    live: usize,
    index: IdIndex,
    seed: u64,
    next_hops: NextHops,
}

impl AttributeStore {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            slots: Vec::new(),
            free: NONE,
            live: 0,
            index: IdIndex::default(),
            seed,
            next_hops: NextHops::default(),
        }
    }

    /// The id of `data`, with one more reference.
    pub(crate) fn intern(&mut self, data: PathData) -> AttrId {
        let mut hasher = DefaultHasher::new();
        self.seed.hash(&mut hasher);
        data.hash(&mut hasher);
        let hash = hasher.finish();
        let found = self.index.find(hash, |id| match self.slot(AttrId(id)) {
            Some(record) => record.hash == hash && record.data == data,
            None => false,
        });
        if let Some(id) = found {
            if let Some(Slot::Used(record)) = self.slots.get_mut(id as usize) {
                record.references += 1;
                // Whoever has this value is likely to come with it again: see `again`.
                record.data.attributes = data.attributes;
            }
            return AttrId(id);
        }
        let keys = Keys::of(&data.attributes);
        let hop = self.next_hops.retain(&data);
        let slot = Slot::Used(Record {
            data,
            keys,
            hash,
            references: 1,
            hop,
        });
        let id = if self.free == NONE {
            self.slots.push(slot);
            u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
        } else {
            let id = self.free;
            if let Some(place) = self.slots.get_mut(id as usize) {
                if let Slot::Free(next) = place {
                    self.free = *next;
                }
                *place = slot;
            }
            id
        };
        self.live += 1;
        let slots = &self.slots;
        self.index.insert(hash, id, |id| hash_of(slots, id));
        AttrId(id)
    }

    /// As [`intern`](Self::intern) where `data` is what was interned as `id` the last time, down to the place of its
    /// attributes in memory; else nothing. The id may have been given to others meanwhile.
    pub(crate) fn again(&mut self, id: AttrId, data: &PathData) -> Option<AttrId> {
        let Some(Slot::Used(record)) = self.slots.get_mut(id.0 as usize) else {
            return None;
        };
        let known = &record.data;
        let equal = Arc::ptr_eq(&known.attributes, &data.attributes)
            && (known.next_hop, known.interface) == (data.next_hop, data.interface)
            && (known.weight, known.discard) == (data.weight, data.discard);
        record.references += u32::from(equal);
        equal.then_some(id)
    }

    fn slot(&self, id: AttrId) -> Option<&Record> {
        match self.slots.get(id.0 as usize) {
            Some(Slot::Used(record)) => Some(record),
            Some(Slot::Free(_)) | None => None,
        }
    }

    fn record(&self, id: AttrId) -> &Record {
        self.slot(id).expect("an id outlives its references")
    }

    pub(crate) fn data(&self, id: AttrId) -> &PathData {
        &self.record(id).data
    }

    pub(crate) fn keys(&self, id: AttrId) -> &Keys {
        &self.record(id).keys
    }

    /// Whether the next hop of anything known is one of these.
    pub(crate) fn names_next_hop(&self, wanted: impl Fn(IpAddr) -> bool) -> bool {
        self.slots.iter().any(|slot| match slot {
            Slot::Used(record) => record.data.next_hop.is_some_and(|hop| wanted(hop.addr())),
            Slot::Free(_) => false,
        })
    }

    /// Adds a reference.
    pub(crate) fn retain(&mut self, id: AttrId) {
        if let Some(Slot::Used(record)) = self.slots.get_mut(id.0 as usize) {
            record.references += 1;
        }
    }

    /// Gives a reference back.
    pub(crate) fn release(&mut self, id: AttrId) {
        self.give_back(id, 1);
    }

    /// Gives back both references of a path, which are mostly to one record.
    pub(crate) fn release_both(&mut self, received: AttrId, attributes: AttrId) {
        if received == attributes {
            self.give_back(received, 2);
        } else {
            self.give_back(received, 1);
            self.give_back(attributes, 1);
        }
    }

    fn give_back(&mut self, id: AttrId, references: u32) {
        let Some(slot) = self.slots.get_mut(id.0 as usize) else {
            return;
        };
        let Slot::Used(record) = slot else {
            debug_assert!(false, "released once too often");
            return;
        };
        record.references -= references;
        if record.references > 0 {
            return;
        }
        let (hash, hop) = (record.hash, record.hop);
        self.next_hops.release(hop);
        let slots = &self.slots;
        self.index.remove(hash, id.0, |id| hash_of(slots, id));
        if let Some(slot) = self.slots.get_mut(id.0 as usize) {
            *slot = Slot::Free(self.free);
        }
        self.free = id.0;
        self.live -= 1;
    }

    // ---- next hops --------------------------------------------------------------------------------------------

    /// Tracks next hops, or no longer. True where every path has to be looked at again.
    pub(crate) fn track_next_hops(&mut self, tracking: bool, via_default: bool) -> bool {
        let begins = tracking && !self.next_hops.is_tracking();
        let changed = self.next_hops.configure(tracking, via_default);
        if changed && (begins || !tracking) {
            for slot in &mut self.slots {
                if let Slot::Used(record) = slot {
                    record.hop = self.next_hops.retain(&record.data);
                }
            }
        }
        changed
    }

    /// What it costs to reach the next hop of a path; nothing where it is out of reach.
    pub(crate) fn metric(&self, id: AttrId) -> Option<u32> {
        if self.next_hops.is_tracking() {
            self.next_hops.metric(self.record(id).hop)
        } else {
            Some(0)
        }
    }

    /// Whether the way to the next hop of a path changed since [`NextHops::settle`].
    pub(crate) fn has_moved(&self, id: AttrId) -> bool {
        self.next_hops.has_moved(self.record(id).hop)
    }

    /// Whether next hops are tracked, so that a path may be out of reach.
    pub(crate) const fn is_tracking(&self) -> bool {
        self.next_hops.is_tracking()
    }

    pub(crate) const fn next_hops(&self) -> &NextHops {
        &self.next_hops
    }

    pub(crate) const fn next_hops_mut(&mut self) -> &mut NextHops {
        &mut self.next_hops
    }

    pub(crate) const fn len(&self) -> usize {
        self.live
    }

    pub(crate) fn memory(&self) -> usize {
        // The attributes' own vectors are short and not walked for an estimate.
        self.slots.capacity() * size_of::<Slot>()
            + self.live * size_of::<PathAttributes>()
            + self.index.memory()
    }
}

fn hash_of(slots: &[Slot], id: u32) -> u64 {
    match slots.get(id as usize) {
        Some(Slot::Used(record)) => record.hash,
        Some(Slot::Free(_)) | None => 0,
    }
}

impl Keys {
    fn of(attributes: &PathAttributes) -> Self {
        let mut hasher = DefaultHasher::new();
        attributes.as_path.hash(&mut hasher);
        let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let mut marks = Marks::empty();
        for (community, mark) in [
            (Community::NO_EXPORT, Marks::NO_EXPORT),
            (Community::NO_ADVERTISE, Marks::NO_ADVERTISE),
            (Community::NO_EXPORT_SUBCONFED, Marks::NO_EXPORT_SUBCONFED),
            (Community::LLGR_STALE, Marks::LLGR_STALE),
            (Community::NO_LLGR, Marks::NO_LLGR),
            (Community::GRACEFUL_SHUTDOWN, Marks::GRACEFUL_SHUTDOWN),
        ] {
            marks.set(mark, attributes.communities.contains(&community));
        }
        Self {
            local_pref: attributes.local_pref.unwrap_or_default().0,
            as_path_len: length(attributes.as_path.hop_count()),
            neighbour_as: attributes.as_path.first().unwrap_or(Asn(0)),
            med: attributes.med.unwrap_or_default().0,
            originator: attributes.originator_id.map_or(0, |id| id.get()),
            cluster_list_len: length(attributes.cluster_list.len()),
            as_path: hasher.finish(),
            origin: attributes.origin as u8,
            marks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::LocalPref;

    fn data(local_pref: u32) -> PathData {
        PathData {
            attributes: Arc::new(PathAttributes {
                local_pref: Some(LocalPref(local_pref)),
                ..PathAttributes::default()
            }),
            next_hop: None,
            interface: 0,
            weight: 0,
            discard: false,
        }
    }

    #[test]
    fn equal_attributes_have_one_id_and_it_is_reused_after_the_last_release() {
        let mut store = AttributeStore::new(7);
        let first = store.intern(data(1));
        assert_eq!(store.intern(data(1)), first);
        let second = store.intern(data(2));
        assert_ne!(second, first);
        assert_eq!(store.keys(second).local_pref, 2);
        store.release(first);
        assert_eq!(store.len(), 2);
        store.release(first);
        assert_eq!(store.len(), 1);
        assert_eq!(store.intern(data(3)), first);
    }

    #[test]
    fn what_was_interned_before_is_found_again_by_its_place_until_it_went() {
        let mut store = AttributeStore::new(7);
        let (first, other) = (data(1), data(1));
        let id = store.intern(first.clone());
        assert_eq!(store.again(id, &first), Some(id));
        assert_eq!(store.again(id, &other), None);
        assert_eq!(store.intern(other.clone()), id);
        assert_eq!(store.again(id, &other), Some(id));
        let elsewhere = PathData {
            interface: 3,
            ..other.clone()
        };
        assert_eq!(store.again(id, &elsewhere), None);
        for _ in 0..4 {
            store.release(id);
        }
        assert_eq!((store.len(), store.again(id, &other)), (0, None));
        // The id is another set's now.
        assert_eq!(store.intern(data(2)), id);
        assert_eq!(store.again(id, &other), None);
    }

    #[test]
    fn thousands_come_and_go_without_leaving_anything() {
        let mut store = AttributeStore::new(7);
        let ids: Vec<_> = (0..5000).map(|number| store.intern(data(number))).collect();
        for (number, id) in (0..).zip(&ids) {
            assert_eq!(store.keys(*id).local_pref, number);
        }
        for id in ids {
            store.release(id);
        }
        assert_eq!(store.len(), 0);
    }
}
