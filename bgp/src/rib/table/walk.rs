//! Paths by peer: epochs, and walks along a peer's list in slices.

use super::{Key, NetId, PathRef, PathView, Table, Walk};
use crate::rib::Slot;
use crate::rib::attribute_store::{AttrId, AttributeStore, Marks};
use crate::rib::index::NONE;
use crate::speaker::snapshot::Unusable;

use super::PathFlags;

impl<F: Key> Table<F> {
    /// Paths of a peer, and those of them that are usable.
    pub(crate) fn counts(&self, peer: Slot) -> (usize, usize) {
        self.peer(peer)
            .map_or((0, 0), |list| (list.count, list.standing[0]))
    }

    /// Paths of a peer that are not usable, by reason.
    pub(crate) fn rejected(&self, peer: Slot) -> impl Iterator<Item = (Unusable, usize)> + '_ {
        let standing = self.peer(peer).map(|list| &list.standing);
        (0_u8..)
            .zip(standing.into_iter().flatten())
            .filter_map(|(code, count)| {
                let reason = PathFlags::from_bits_truncate(code << 4).reason()?;
                (*count > 0).then_some((reason, *count))
            })
    }

    /// Prefixes the peer announced in its current session, or since it began to tell everything anew.
    pub(crate) fn fresh_prefixes(&self, peer: Slot) -> usize {
        self.peer(peer).map_or(0, |list| list.fresh_prefixes)
    }

    /// Whether the peer announced a prefix since its current epoch began.
    pub(crate) fn has_fresh(&self, prefix: F, peer: Slot) -> bool {
        let epoch = self.epoch(peer);
        let mut at = self.find(prefix).map_or(NONE, |net| self.net(net).first);
        while at != NONE {
            let path = self.path(at);
            if path.peer == peer && path.epoch == epoch {
                return true;
            }
            at = path.next;
        }
        false
    }

    pub(crate) fn epoch(&self, peer: Slot) -> u8 {
        self.peer(peer).map_or(0, |list| list.epoch)
    }

    /// Every path the peer has now is old from here on.
    pub(crate) fn begin_epoch(&mut self, peer: Slot, store: &mut AttributeStore) {
        let list = self.peer_mut(peer);
        if list.count == 0 {
            list.epochs_open = 0;
            return;
        }
        if list.epochs_open >= 250 {
            // A peer that was lost 250 times without once completing its table; what is old of it goes at once,
            // before an epoch comes round again.
            let current = list.epoch;
            let mut at = list.head;
            while at != NONE {
                let path = *self.path(at);
                if path.epoch != current {
                    self.remove(at, store);
                }
                at = path.peer_next;
            }
            self.peer_mut(peer).epochs_open = 0;
        }
        let list = self.peer_mut(peer);
        list.epoch = list.epoch.wrapping_add(1);
        list.fresh_prefixes = 0;
        list.epochs_open += 1;
    }

    /// Queues a walk along the peer's paths.
    pub(crate) fn queue_walk(&mut self, peer: Slot, walk: Walk) {
        let list = self.peer_mut(peer);
        if list.head == NONE {
            return;
        }
        // One pass not yet begun serves as well.
        if list.walks.iter().skip(1).any(|queued| *queued == walk) {
            return;
        }
        list.walks.push_back(walk);
        if !list.walking {
            list.walking = true;
            list.cursor = list.head;
            self.walking.push_back(peer);
        }
    }

    /// A peer with a walk to do.
    pub(crate) fn walking_peer(&self) -> Option<Slot> {
        self.walking.front().copied()
    }

    /// Whether the peer has walks to do.
    pub(crate) fn is_walking(&self, peer: Slot) -> bool {
        self.peer(peer).is_some_and(|list| list.walking)
    }

    /// The next path of the peer's current walk; nothing when all its walks are done.
    pub(crate) fn next_of_walk(&mut self, peer: Slot) -> Option<(Walk, PathRef)> {
        loop {
            let list = self.peer_mut(peer);
            let Some(walk) = list.walks.front().copied() else {
                list.walking = false;
                self.walking.retain(|other| *other != peer);
                return None;
            };
            let at = list.cursor;
            if at == NONE {
                if let Walk::Delete { keep_from } = walk {
                    list.epochs_open = list.epoch.wrapping_sub(keep_from);
                }
                list.walks.pop_front();
                list.cursor = list.head;
                continue;
            }
            let next = self.path(at).peer_next;
            self.peer_mut(peer).cursor = next;
            return Some((walk, PathRef(at)));
        }
    }

    /// Does a deleting or marking step of a walk.
    pub(crate) fn visit(&mut self, walk: Walk, path: PathRef, store: &mut AttributeStore) {
        let at = path.0;
        let found = *self.path(at);
        let current = self.epoch(found.peer);
        match walk {
            Walk::Delete { keep_from } => {
                if current.wrapping_sub(found.epoch) > current.wrapping_sub(keep_from) {
                    self.remove(at, store);
                }
            }
            Walk::LongLived => {
                if found.epoch == current {
                } else if store.keys(found.attributes).marks.contains(Marks::NO_LLGR) {
                    self.remove(at, store);
                } else {
                    store.retain(found.received);
                    store.retain(found.attributes);
                    let reason = found.flags.reason();
                    self.rewrite(at, found.received, found.attributes, reason, true, store);
                }
            }
            Walk::Import => {}
        }
    }

    pub(crate) fn view_of(&self, path: PathRef) -> PathView {
        self.view(self.path(path.0))
    }

    /// Replaces what import policy made of a path; takes over the reference to `attributes`.
    pub(crate) fn set_imported(
        &mut self,
        path: PathRef,
        attributes: AttrId,
        unusable: Option<Unusable>,
        store: &mut AttributeStore,
    ) {
        let found = *self.path(path.0);
        store.retain(found.received);
        let long_lived = found.flags.contains(PathFlags::LONG_LIVED);
        self.rewrite(
            path.0,
            found.received,
            attributes,
            unusable,
            long_lived,
            store,
        );
    }

    /// Queues every prefix the peer has a path to.
    pub(crate) fn mark_peer_dirty(&mut self, peer: Slot) {
        let mut at = self.peer(peer).map_or(NONE, |list| list.head);
        while at != NONE {
            let path = *self.path(at);
            self.touch(NetId(path.net), path.flags);
            self.mark_dirty(NetId(path.net));
            at = path.peer_next;
        }
    }

    /// Every path of the peer.
    pub(crate) fn paths_by(&self, peer: Slot) -> impl Iterator<Item = PathView> + '_ {
        let mut at = self.peer(peer).map_or(NONE, |list| list.head);
        std::iter::from_fn(move || {
            if at == NONE {
                return None;
            }
            let path = self.path(at);
            at = path.peer_next;
            Some(self.view(path))
        })
    }
}
