//! An exact-match index from hash to id, four octets a slot.
//!
//! The table stores ids alone; keys live where the ids point to and are compared through a closure. Open addressing
//! with linear probing and backward-shift deletion: no tombstones, so a table that saw millions of withdrawals searches
//! as fast as a fresh one. Three quarters full at most.

/// Marks an empty slot, and "nothing" wherever an id is optional.
pub(crate) const NONE: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(crate) struct IdIndex {
    slots: Vec<u32>,
    len: usize,
}

impl IdIndex {
    fn mask(&self) -> usize {
        self.slots.len().wrapping_sub(1)
    }

    fn home(&self, hash: u64) -> usize {
        // The upper half is the better mixed one after a folded multiplication; slots never exceed 2^32.
        let home = (hash >> 32) as usize;
        home & self.mask()
    }

    fn slot(&self, at: usize) -> u32 {
        self.slots.get(at).copied().unwrap_or(NONE)
    }

    fn set(&mut self, at: usize, id: u32) {
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = id;
        }
    }

    /// The id under `hash` that `matches` says is the one.
    pub(crate) fn find(&self, hash: u64, mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = self.home(hash);
        loop {
            match self.slot(at) {
                NONE => return None,
                id if matches(id) => return Some(id),
                _ => at = (at + 1) & self.mask(),
            }
        }
    }

    /// Adds `id`, which is not in the table. `hash_of` tells the hash of any id that is.
    pub(crate) fn insert(&mut self, hash: u64, id: u32, hash_of: impl Fn(u32) -> u64) {
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            let size = (self.slots.len() * 2).max(16);
            let old = std::mem::replace(&mut self.slots, vec![NONE; size]);
            for id in old.into_iter().filter(|id| *id != NONE) {
                self.place(hash_of(id), id);
            }
        }
        self.place(hash, id);
        self.len += 1;
    }

    fn place(&mut self, hash: u64, id: u32) {
        let mut at = self.home(hash);
        while self.slot(at) != NONE {
            at = (at + 1) & self.mask();
        }
        self.set(at, id);
    }

    /// Removes `id` if it is there.
    pub(crate) fn remove(&mut self, hash: u64, id: u32, hash_of: impl Fn(u32) -> u64) {
        if self.slots.is_empty() {
            return;
        }
        let mut hole = self.home(hash);
        loop {
            match self.slot(hole) {
                NONE => return,
                found if found == id => break,
                _ => hole = (hole + 1) & self.mask(),
            }
        }
        self.len -= 1;
        let mut at = hole;
        loop {
            at = (at + 1) & self.mask();
            let moved = self.slot(at);
            if moved == NONE {
                break;
            }
            // An id may fill the hole unless its home lies behind the hole on the way to where it stands.
            let home = self.home(hash_of(moved));
            if at.wrapping_sub(home) & self.mask() >= at.wrapping_sub(hole) & self.mask() {
                self.set(hole, moved);
                hole = at;
            }
        }
        self.set(hole, NONE);
        if self.slots.len() > 1024 && self.len * 8 < self.slots.len() {
            let size = self.slots.len() / 4;
            let old = std::mem::replace(&mut self.slots, vec![NONE; size]);
            for id in old.into_iter().filter(|id| *id != NONE) {
                self.place(hash_of(id), id);
            }
        }
    }

    pub(crate) fn memory(&self) -> usize {
        self.slots.capacity() * size_of::<u32>()
    }
}

/// One round of multiply and fold. With a secret in `seed` a peer cannot choose prefixes that collide.
pub(crate) const fn fold(value: u64, seed: u64) -> u64 {
    let product = ((value ^ seed) as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the two halves are folded into one"
    )]
    let folded = (product as u64) ^ ((product >> 64) as u64);
    folded.wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(32)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_index_holds_exactly_what_was_put_and_not_taken(
            steps in prop::collection::vec((0_u32..200, any::<bool>()), 1..600),
            spread in 1_u64..5,
        ) {
            // Few distinct hashes make long clusters.
            let hash_of = |id: u32| (u64::from(id) / spread) << 32;
            let mut index = IdIndex::default();
            let mut model = BTreeSet::new();
            for (id, put) in steps {
                if put && model.insert(id) {
                    index.insert(hash_of(id), id, hash_of);
                } else if !put {
                    model.remove(&id);
                    index.remove(hash_of(id), id, hash_of);
                }
            }
            for id in 0..200 {
                let found = index.find(hash_of(id), |candidate| candidate == id);
                prop_assert_eq!(found.is_some(), model.contains(&id));
            }
            prop_assert_eq!(index.len, model.len());
        }
    }
}
