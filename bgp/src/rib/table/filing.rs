//! Paths coming and going: what a peer announces is filed under its prefix and its peer, what it withdraws is taken out of both.

use std::collections::hash_map::Entry;

use super::{Incoming, Key, MAX_PATHS, NetFlags, NetId, Path, PathFlags, PathRef, Table};
use crate::prefix::Prefix;
use crate::rib::attribute_store::{AttrId, AttributeStore};
use crate::rib::index::NONE;
use crate::rib::{LOCAL, Slot};
use crate::speaker::snapshot::Unusable;

/// What a peer has of a prefix.
#[derive(Clone, Copy, Debug, Default)]
struct Among {
    found: Option<u32>,
    /// Paths under other identifiers.
    others: usize,
    /// One of those is of the current epoch.
    fresh: bool,
    /// One that is not.
    old: Option<u32>,
}

impl<F: Key> Table<F> {
    fn find_path(&self, net: NetId, peer: Slot, path_id: Option<u32>) -> Option<u32> {
        let mut at = self.net(net).first;
        while at != NONE {
            let path = self.path(at);
            if path.peer == peer && path.id() == path_id {
                return Some(at);
            }
            at = path.next;
        }
        None
    }

    /// The path with this identity, and what else the peer has of the prefix. Without a path identifier there is nothing else,
    /// unless it is our own.
    fn find_among(&self, net: NetId, peer: Slot, path_id: Option<u32>, epoch: u8) -> Among {
        let mut among = Among::default();
        let mut at = self.net(net).first;
        while at != NONE {
            let path = self.path(at);
            if path.peer != peer {
            } else if path.id() == path_id {
                among.found = Some(at);
                if path_id.is_none() && peer != LOCAL {
                    break;
                }
            } else {
                among.others += 1;
                if path.epoch == epoch {
                    among.fresh = true;
                } else {
                    among.old = Some(at);
                }
            }
            at = path.next;
        }
        among
    }

    /// Takes a path in, in place of the one with the same prefix, peer and path id. False where the peer has too many paths of the
    /// prefix: what it announced first stays.
    pub(crate) fn announce(
        &mut self,
        prefix: F,
        peer: Slot,
        incoming: Incoming,
        store: &mut AttributeStore,
    ) -> bool {
        let net = self.find_or_insert(prefix);
        let epoch = self.peer_mut(peer).epoch;
        let among = self.find_among(net, peer, incoming.path_id, epoch);
        if let Some(at) = among.found {
            let place = self.path_mut(at);
            let renewed = std::mem::replace(&mut place.epoch, epoch) != epoch;
            if renewed {
                self.note_watched(net, peer, incoming.path_id);
            }
            self.peer_mut(peer).fresh_prefixes += usize::from(renewed && !among.fresh);
            self.rewrite(
                at,
                incoming.received,
                incoming.attributes,
                incoming.unusable,
                false,
                store,
            );
            return true;
        }
        if among.others >= MAX_PATHS {
            let Some(old) = among.old else {
                store.release(incoming.received);
                store.release(incoming.attributes);
                return false;
            };
            self.remove(old, store);
        }
        self.peer_mut(peer).fresh_prefixes += usize::from(!among.fresh);
        let mut flags = PathFlags::empty();
        flags.set(PathFlags::HAS_PATH_ID, incoming.path_id.is_some());
        flags.set_reason(incoming.unusable);
        let head = self.peer_mut(peer).head;
        let path = Path {
            net: net.0,
            next: NONE,
            peer_next: head,
            peer_previous: NONE,
            received: incoming.received,
            attributes: incoming.attributes,
            path_id: incoming.path_id.unwrap_or(0),
            peer,
            epoch,
            flags,
        };
        let at = if self.free_paths == NONE {
            self.paths.push(path);
            u32::try_from(self.paths.len() - 1).unwrap_or(NONE)
        } else {
            let at = self.free_paths;
            self.free_paths = self.path(at).next;
            *self.path_mut(at) = path;
            at
        };
        // Behind the best one, which stays first until the decision says otherwise.
        let first = self.net(net).first;
        if first == NONE {
            self.net_mut(net).first = at;
        } else {
            let second = self.path(first).next;
            self.path_mut(first).next = at;
            self.path_mut(at).next = second;
        }
        if head != NONE {
            self.path_mut(head).peer_previous = at;
        }
        let list = self.peer_mut(peer);
        list.head = at;
        list.count += 1;
        if let Some(count) = list.standing.get_mut(flags.standing()) {
            *count += 1;
        }
        self.live_paths += 1;
        self.note_watched(net, peer, incoming.path_id);
        self.mark_dirty(net);
        true
    }

    /// Changes what a path says; takes over the references given and returns those it had.
    pub(super) fn rewrite(
        &mut self,
        at: u32,
        received: AttrId,
        attributes: AttrId,
        unusable: Option<Unusable>,
        long_lived: bool,
        store: &mut AttributeStore,
    ) {
        let path = self.path_mut(at);
        let old = *path;
        path.received = received;
        path.attributes = attributes;
        path.flags.set_reason(unusable);
        path.flags.set(PathFlags::LONG_LIVED, long_lived);
        let standing = path.flags.standing();
        let changed = old.attributes != attributes || old.flags != path.flags;
        let (net, peer) = (NetId(old.net), old.peer);
        if changed || old.received != received {
            self.note_watched(net, peer, old.id());
        }
        store.release(old.received);
        store.release(old.attributes);
        if changed {
            let list = self.peer_mut(peer);
            if let Some(count) = list.standing.get_mut(standing) {
                *count += 1;
            }
            if let Some(count) = list.standing.get_mut(old.flags.standing()) {
                *count -= 1;
            }
            self.touch(net, old.flags);
            self.mark_dirty(net);
        }
    }

    /// Looks at what withdrawing each of these prefixes will look at, and changes nothing: one after the other every prefix
    /// waits for memory several times, together they wait at once.
    pub(crate) fn look_ahead(&self, prefixes: impl Iterator<Item = Prefix>) {
        let looked_at = prefixes.filter_map(F::from_prefix).filter_map(|prefix| {
            let first = self.net(self.find(prefix)?).first;
            // A net may be there for others alone.
            Some(self.paths.get(first as usize)?.net)
        });
        // Whoever computes nothing from what is read need not read it.
        std::hint::black_box(looked_at.fold(0, |all, net| all ^ net));
    }

    /// Takes a path out. False where it is not there.
    pub(crate) fn withdraw(
        &mut self,
        prefix: F,
        peer: Slot,
        path_id: Option<u32>,
        store: &mut AttributeStore,
    ) -> bool {
        let found = self
            .find(prefix)
            .and_then(|net| self.find_path(net, peer, path_id));
        if let Some(at) = found {
            self.remove(at, store);
        }
        found.is_some()
    }

    pub(super) fn remove(&mut self, at: u32, store: &mut AttributeStore) {
        let path = *self.path(at);
        let net = NetId(path.net);
        self.note_watched(net, path.peer, path.id());
        let epoch = self.peer_mut(path.peer).epoch;
        let fresh = path.epoch == epoch
            && (path.id().is_none() && path.peer != LOCAL
                || !self.find_among(net, path.peer, path.id(), epoch).fresh);
        // Out of the net's list.
        let mut before = NONE;
        let mut here = self.net(net).first;
        while here != at && here != NONE {
            before = here;
            here = self.path(here).next;
        }
        if before == NONE {
            self.net_mut(net).first = path.next;
        } else {
            self.path_mut(before).next = path.next;
        }
        // Out of the peer's.
        if path.peer_next != NONE {
            self.path_mut(path.peer_next).peer_previous = path.peer_previous;
        }
        if path.peer_previous != NONE {
            self.path_mut(path.peer_previous).peer_next = path.peer_next;
        }
        let list = self.peer_mut(path.peer);
        if list.head == at {
            list.head = path.peer_next;
        }
        if list.cursor == at {
            list.cursor = path.peer_next;
        }
        list.count -= 1;
        if let Some(count) = list.standing.get_mut(path.flags.standing()) {
            *count -= 1;
        }
        list.fresh_prefixes -= usize::from(fresh);
        store.release_both(path.received, path.attributes);
        self.touch(net, path.flags);
        self.mark_dirty(net);
        self.live_paths -= 1;
        self.path_mut(at).flags = PathFlags::GONE;
        if self.keeps_gone {
            *self.gone_of.entry(net.0).or_default() += 1;
            self.gone.push_back(at);
        } else {
            self.path_mut(at).next = self.free_paths;
            self.free_paths = at;
        }
    }

    pub(super) fn touch(&mut self, net: NetId, flags: PathFlags) {
        let net = self.net_mut(net);
        if flags.contains(PathFlags::BEST) {
            net.flags |= NetFlags::BEST_TOUCHED;
        }
        if flags.contains(PathFlags::USED) {
            net.flags |= NetFlags::USED_TOUCHED;
        }
    }

    /// Whether changes of paths are noted for [`Table::take_watched`].
    pub(crate) fn watch(&mut self, watched: bool) {
        if watched != self.watched.is_some() {
            self.watched = watched.then(Vec::new);
        }
    }

    /// The paths that changed since the last call; also what is noted of a prefix as a whole.
    pub(crate) fn take_watched(&mut self) -> Vec<(F, Slot, Option<u32>)> {
        self.watched
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Notes that a path, or under the slot of nobody the best one, is another one now.
    pub(crate) fn note_watched(&mut self, net: NetId, peer: Slot, path_id: Option<u32>) {
        if self.watched.is_some() {
            let prefix = self.prefix(net);
            if let Some(watched) = &mut self.watched {
                watched.push((prefix, peer, path_id));
            }
        }
    }

    // ---- paths that went, for groups that tell single ones ----------------------------------------------------

    /// Whether places of paths that go are kept from now on, until [`Table::free_gone`].
    pub(crate) const fn keep_gone(&mut self, keep: bool) {
        self.keeps_gone = keep;
    }

    /// A path that went and of which groups are to be told now.
    pub(crate) fn next_gone(&mut self) -> Option<PathRef> {
        let at = self.gone.pop_front()?;
        self.path_mut(at).flags |= PathFlags::GONE_TOLD;
        Some(PathRef(at))
    }

    pub(crate) fn has_gone(&self) -> bool {
        !self.gone.is_empty()
    }

    /// Gives the place of a path that went back, nothing where there still is one or groups have yet to be told. Returns the
    /// net it was of. The caller knows that no group refers to it.
    pub(crate) fn free_gone(&mut self, path: PathRef) -> Option<NetId> {
        let free = self.free_paths;
        let place = self.paths.get_mut(path.0 as usize)?;
        if place.flags != PathFlags::GONE | PathFlags::GONE_TOLD {
            return None;
        }
        place.flags = PathFlags::GONE;
        place.next = free;
        let net = place.net;
        self.free_paths = path.0;
        if let Entry::Occupied(mut count) = self.gone_of.entry(net) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(NetId(net))
    }
}
