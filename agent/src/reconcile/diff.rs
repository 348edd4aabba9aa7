//! Desired, observed, and what lies between: plain bookkeeping without I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use crate::kernel::Route;

/// Whether what is observed is what was desired. Not equality: a wish may leave open what the kernel fills in.
pub trait Matches {
    /// Whether `observed` fulfils `self`.
    fn matches(&self, observed: &Self) -> bool;
}

impl<V: Matches> Matches for Arc<V> {
    fn matches(&self, observed: &Self) -> bool {
        Self::ptr_eq(self, observed) || V::matches(self, observed)
    }
}

impl Matches for Route {
    /// A next hop without an interface is fulfilled by any interface the kernel found for the gateway.
    fn matches(&self, observed: &Self) -> bool {
        self.kind == observed.kind
            && self.scope == observed.scope
            && self.source == observed.source
            && self.mtu == observed.mtu
            && self.protocol == observed.protocol
            && self.next_hops.len() == observed.next_hops.len()
            && self
                .next_hops
                .iter()
                .zip(&observed.next_hops)
                .all(|(wanted, there)| {
                    wanted.via == there.via
                        && wanted.onlink == there.onlink
                        && wanted.weight == there.weight
                        && (wanted.interface.is_none() || wanted.interface == there.interface)
                })
    }
}

/// Keeps a desired and an observed map and the set of keys in which they differ. Every change costs what it
/// touches; replacing the whole desired map costs one walk over both.
#[derive(Debug)]
pub struct DeltaTracker<K, V> {
    desired: BTreeMap<K, V>,
    observed: HashMap<K, V>,
    pending_puts: BTreeSet<K>,
    pending_removals: BTreeSet<K>,
}

impl<K, V> Default for DeltaTracker<K, V> {
    fn default() -> Self {
        Self {
            desired: BTreeMap::new(),
            observed: HashMap::new(),
            pending_puts: BTreeSet::new(),
            pending_removals: BTreeSet::new(),
        }
    }
}

impl<K, V> DeltaTracker<K, V>
where
    K: Copy + Ord + Hash,
    V: Matches + Clone + PartialEq,
{
    /// What is desired for a key.
    pub fn desired(&self, key: &K) -> Option<&V> {
        self.desired.get(key)
    }

    /// What is observed at a key.
    pub fn observed(&self, key: &K) -> Option<&V> {
        self.observed.get(key)
    }

    /// Everything desired.
    pub fn all_desired(&self) -> &BTreeMap<K, V> {
        &self.desired
    }

    /// Everything observed.
    pub fn all_observed(&self) -> &HashMap<K, V> {
        &self.observed
    }

    /// Keys to be put: desired, and absent or different.
    pub fn pending_puts(&self) -> &BTreeSet<K> {
        &self.pending_puts
    }

    /// Keys to be removed: observed and not desired.
    pub fn pending_removals(&self) -> &BTreeSet<K> {
        &self.pending_removals
    }

    /// Whether a key is desired and observed as desired.
    pub fn is_settled(&self, key: &K) -> bool {
        self.desired.contains_key(key) && !self.pending_puts.contains(key)
    }

    /// Replaces everything desired and returns the keys whose wish changed. `prepare` turns a wish into the form the
    /// kernel returns; it is asked only where `same`, a cheap look, does not already find the wish unchanged.
    pub fn replace_desired<W>(
        &mut self,
        wanted: &BTreeMap<K, W>,
        same: impl Fn(&V, &W) -> bool,
        prepare: impl Fn(&K, &W) -> V,
    ) -> Vec<K> {
        let mut changed = Vec::new();
        {
            let mut old = self.desired.iter().peekable();
            let mut new = wanted.iter().peekable();
            loop {
                match (old.peek(), new.peek()) {
                    (None, None) => break,
                    (Some((key, _)), None) => {
                        changed.push(**key);
                        old.next();
                    }
                    (None, Some((key, _))) => {
                        changed.push(**key);
                        new.next();
                    }
                    (Some((before, value)), Some((after, wish))) => match before.cmp(after) {
                        std::cmp::Ordering::Less => {
                            changed.push(**before);
                            old.next();
                        }
                        std::cmp::Ordering::Greater => {
                            changed.push(**after);
                            new.next();
                        }
                        std::cmp::Ordering::Equal => {
                            // Mostly equal as given; a wish that is not in the kernel's form is compared in it.
                            if !same(value, wish) && **value != prepare(after, wish) {
                                changed.push(**after);
                            }
                            old.next();
                            new.next();
                        }
                    },
                }
            }
        }
        for key in &changed {
            match wanted.get(key) {
                Some(value) => self.desired.insert(*key, prepare(key, value)),
                None => self.desired.remove(key),
            };
            self.compare(key);
        }
        changed
    }

    /// Notes what is at a key now, and returns whether that is news.
    pub fn set_observed(&mut self, key: K, value: Option<V>) -> bool {
        let news = match &value {
            Some(value) => self.observed.get(&key) != Some(value),
            None => self.observed.contains_key(&key),
        };
        if news {
            match value {
                Some(value) => self.observed.insert(key, value),
                None => self.observed.remove(&key),
            };
            self.compare(&key);
        }
        news
    }

    /// Replaces what is observed of the keys that `part` selects, and returns the keys where that was news.
    pub fn replace_observed(
        &mut self,
        mut found: HashMap<K, V>,
        part: impl Fn(&K) -> bool,
    ) -> Vec<K> {
        let mut changed: Vec<K> = self
            .observed
            .keys()
            .filter(|key| part(key) && !found.contains_key(key))
            .copied()
            .collect();
        for key in &changed {
            self.set_observed(*key, None);
        }
        for (key, value) in found.drain() {
            if self.set_observed(key, Some(value)) {
                changed.push(key);
            }
        }
        changed
    }

    fn compare(&mut self, key: &K) {
        let (put, remove) = match (self.desired.get(key), self.observed.get(key)) {
            (Some(wanted), Some(there)) => (!wanted.matches(there), false),
            (Some(_), None) => (true, false),
            (None, Some(_)) => (false, true),
            (None, None) => (false, false),
        };
        set(&mut self.pending_puts, key, put);
        set(&mut self.pending_removals, key, remove);
    }
}

fn set<K: Copy + Ord>(keys: &mut BTreeSet<K>, key: &K, member: bool) {
    if member {
        keys.insert(*key);
    } else {
        keys.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Matches for u8 {
        fn matches(&self, observed: &Self) -> bool {
            self == observed
        }
    }

    fn desired(list: &[(u8, u8)]) -> BTreeMap<u8, u8> {
        list.iter().copied().collect()
    }

    #[test]
    fn a_wish_is_pending_until_observed() {
        let mut tracker = DeltaTracker::<u8, u8>::default();
        assert_eq!(
            tracker.replace_desired(&desired(&[(1, 10)]), PartialEq::eq, |_, value| *value),
            [1]
        );
        assert!(tracker.pending_puts().contains(&1));
        assert!(tracker.set_observed(1, Some(10)));
        assert!(tracker.is_settled(&1));
    }

    #[test]
    fn replacing_the_desired_map_reports_only_what_changed() {
        let mut tracker = DeltaTracker::<u8, u8>::default();
        tracker.replace_desired(
            &desired(&[(1, 10), (2, 20), (3, 30)]),
            PartialEq::eq,
            |_, value| *value,
        );
        let changed = tracker.replace_desired(
            &desired(&[(1, 10), (3, 31), (4, 40)]),
            PartialEq::eq,
            |_, value| *value,
        );
        assert_eq!(changed, [2, 3, 4]);
    }

    #[test]
    fn what_is_observed_and_not_desired_is_to_be_removed() {
        let mut tracker = DeltaTracker::<u8, u8>::default();
        tracker.set_observed(7, Some(70));
        assert!(tracker.pending_removals().contains(&7));
        tracker.replace_desired(&desired(&[(7, 70)]), PartialEq::eq, |_, value| *value);
        assert!(tracker.pending_removals().is_empty());
        assert!(tracker.pending_puts().is_empty());
    }

    #[test]
    fn a_dump_of_one_part_leaves_the_other_alone() {
        let mut tracker = DeltaTracker::<u8, u8>::default();
        tracker.set_observed(1, Some(10));
        tracker.set_observed(2, Some(20));
        let changed = tracker.replace_observed(HashMap::new(), |key| key % 2 == 0);
        assert_eq!(changed, [2]);
        assert_eq!(tracker.observed(&1), Some(&10));
    }

    proptest! {
        /// Whatever the order of wishes and observations, the pending sets are exactly the difference of the maps.
        #[test]
        fn pending_is_the_difference(steps in prop::collection::vec((any::<bool>(), 0_u8..8, prop::option::of(0_u8..3)), 0..60)) {
            let mut tracker = DeltaTracker::<u8, u8>::default();
            let mut wanted = BTreeMap::new();
            let mut there = BTreeMap::new();
            for (wish, key, value) in steps {
                let map = if wish { &mut wanted } else { &mut there };
                match value {
                    Some(value) => map.insert(key, value),
                    None => map.remove(&key),
                };
                if wish {
                    tracker.replace_desired(&wanted, PartialEq::eq, |_, value| *value);
                } else {
                    tracker.set_observed(key, value);
                }
            }
            let puts: BTreeSet<u8> = wanted.iter().filter(|(key, value)| there.get(key) != Some(value)).map(|(key, _)| *key).collect();
            let removals: BTreeSet<u8> = there.keys().filter(|key| !wanted.contains_key(key)).copied().collect();
            prop_assert_eq!(tracker.pending_puts(), &puts);
            prop_assert_eq!(tracker.pending_removals(), &removals);
        }
    }
}
