//! One family's table: every path every peer announced (Adj-RIB-In) and the choice per prefix (Loc-RIB).
//!
//! ```text
//!   index ──► Net { prefix, first path, flags } ──► Path ──► Path ──► …        paths of one prefix, the best first
//!                                                     │
//!   peers[slot].head ─────────────────────────────► Path ⇄ Path ⇄ …            paths of one peer
//! ```
//!
//! Nets and paths live in two vectors and refer to each other by position: 16 and 32 octets for IPv4. The path of a peer
//! *is* its Adj-RIB-In; rejected paths stay, flagged, so that a changed policy is applied without asking the peer again.
//!
//! Changing a path only marks its net dirty. [`Table::decide`] settles a net once, however many paths changed before.
//! What must touch all paths of a peer (its departure, End-of-RIB, a new import policy) is a [`Walk`] along the peer's
//! list, done in slices; a cursor survives any change of the list in between.
//!
//! Age is an epoch of eight bits: a peer's paths carry the epoch they were announced in, and ending a session
//! begins a new one. "Stale" therefore costs nothing to mark, and sweeping is deleting what is older than some epoch.

mod walk;

use std::collections::VecDeque;
use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::attribute_store::{AttrId, AttributeStore, Marks};
use super::index::{IdIndex, NONE, fold};
use super::{LOCAL, PeerFacts, Slot};
use crate::decision::{self, Candidate, Options};
use crate::family::AddressFamily;
use crate::prefix::{Ipv4Prefix, Ipv6Prefix};
use crate::speaker::snapshot::Unusable;

/// Most paths of one prefix a peer may announce (RFC 7911). What is linear in them is done for each of them, so that without
/// a limit one peer could keep us busy with a single prefix.
pub(crate) const MAX_PATHS: usize = 64;

/// Paths are usable or not for a reason: see [`PathFlags::reason`].
const STANDINGS: usize = 8;

/// Paths a sweep looks at for the price of one decision.
const SWEEP_STRIDE: u32 = 16;

/// A prefix of one table. Reused only when nothing refers to it any more, see [`Table::free`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NetId(pub(crate) u32);

/// A path of one table, valid until the table changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PathRef(pub(crate) u32);

/// A prefix type with a hash a peer cannot predict.
pub(crate) trait Key: AddressFamily {
    fn digest(self, seed: u64) -> u64;
}

impl Key for Ipv4Prefix {
    fn digest(self, seed: u64) -> u64 {
        fold(u64::from(self.bits()) << 8 | u64::from(self.len()), seed)
    }
}

impl Key for Ipv6Prefix {
    fn digest(self, seed: u64) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the two halves are taken one after the other"
        )]
        let (high, low) = ((self.bits() >> 64) as u64, self.bits() as u64);
        fold(low ^ u64::from(self.len()), fold(high, seed))
    }
}

bitflags::bitflags! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct NetFlags: u8 {
        /// Waits for the decision.
        const DIRTY = 1;
        /// The best path was replaced or removed since the last decision.
        const BEST_TOUCHED = 2;
        /// A path used for forwarding was.
        const USED_TOUCHED = 4;
        /// Waits to be told to whoever forwards.
        const REPORTED = 8;
        /// In the list of free places.
        const FREE = 16;
        /// Had a best path when it was decided last.
        const CHOSEN = 32;
    }
}

bitflags::bitflags! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct PathFlags: u8 {
        /// The best of its prefix.
        const BEST = 1;
        /// Used for forwarding.
        const USED = 2;
        /// Kept beyond the restart time (RFC 9494).
        const LONG_LIVED = 4;
        /// Came with a path identifier.
        const HAS_PATH_ID = 8;
        /// Why it is unusable; zero for usable paths.
        const REASON = 0xf0;
        /// No path any more: a free place, or one that groups have to withdraw first.
        const GONE = 0x80;
        /// They were told to. Shares the bit of [`PathFlags::BEST`], which nothing is that is gone.
        const GONE_TOLD = 1;
    }
}

impl PathFlags {
    /// Where [`PeerPaths::standing`] counts it.
    const fn standing(self) -> usize {
        ((self.bits() & Self::REASON.bits()) >> 4) as usize
    }

    fn reason(self) -> Option<Unusable> {
        match (self & Self::REASON).bits() >> 4 {
            0 => None,
            1 => Some(Unusable::RejectedByPolicy),
            2 => Some(Unusable::AsLoop),
            3 => Some(Unusable::OwnOriginator),
            4 => Some(Unusable::ClusterLoop),
            5 => Some(Unusable::NextHop),
            6 => Some(Unusable::RouteLeak),
            _ => Some(Unusable::OnlyTold),
        }
    }

    fn set_reason(&mut self, reason: Option<Unusable>) {
        let code: u8 = match reason {
            None => 0,
            Some(Unusable::RejectedByPolicy) => 1,
            Some(Unusable::AsLoop) => 2,
            Some(Unusable::OwnOriginator) => 3,
            Some(Unusable::ClusterLoop) => 4,
            // The latter is never noted: it is asked for where it matters.
            Some(Unusable::NextHop | Unusable::Unreachable) => 5,
            Some(Unusable::RouteLeak) => 6,
            Some(Unusable::OnlyTold) => 7,
        };
        *self = Self::from_bits_truncate(self.bits() & !Self::REASON.bits() | code << 4);
    }
}

#[derive(Debug)]
struct Net<F> {
    prefix: F,
    /// First path; next free place where free.
    first: u32,
    flags: NetFlags,
}

#[derive(Clone, Copy, Debug)]
struct Path {
    net: u32,
    /// Next path of the net; next free place where free.
    next: u32,
    peer_next: u32,
    peer_previous: u32,
    /// As announced.
    received: AttrId,
    /// After import policy; equal to `received` where it changed nothing.
    attributes: AttrId,
    path_id: u32,
    peer: Slot,
    epoch: u8,
    flags: PathFlags,
}

/// What a peer announces, or this speaker originates. Carries a reference to each of its attribute sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming {
    pub(crate) path_id: Option<u32>,
    pub(crate) received: AttrId,
    pub(crate) attributes: AttrId,
    pub(crate) unusable: Option<Unusable>,
}

/// A path as others see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathView {
    pub(crate) net: NetId,
    pub(crate) peer: Slot,
    pub(crate) path_id: Option<u32>,
    pub(crate) received: AttrId,
    pub(crate) attributes: AttrId,
    pub(crate) unusable: Option<Unusable>,
    pub(crate) best: bool,
    pub(crate) used: bool,
    pub(crate) long_lived: bool,
    /// Of a session or refresh before the current one.
    pub(crate) old: bool,
}

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

/// What has to visit every path of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Walk {
    /// Delete what is older than this epoch.
    Delete {
        /// Paths of this epoch and later ones stay.
        keep_from: u8,
    },
    /// Paths of earlier epochs become long-lived stale, or go where they ask for that (RFC 9494 §4.2).
    LongLived,
    /// Evaluate the import policy anew.
    Import,
}

#[derive(Debug)]
struct PeerPaths {
    head: u32,
    count: usize,
    /// Usable ones first, then those that are not, by reason.
    standing: [usize; STANDINGS],
    /// Prefixes with a path of the current epoch.
    fresh_prefixes: usize,
    epoch: u8,
    /// Epochs begun since nothing old was left; they must not lap the paths.
    epochs_open: u8,
    walks: VecDeque<Walk>,
    /// Where the first walk is; meaningful while `walking`.
    cursor: u32,
    walking: bool,
}

impl Default for PeerPaths {
    fn default() -> Self {
        Self {
            head: NONE,
            count: 0,
            standing: [0; STANDINGS],
            fresh_prefixes: 0,
            epoch: 0,
            epochs_open: 0,
            walks: VecDeque::new(),
            cursor: NONE,
            walking: false,
        }
    }
}

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

#[derive(Debug)]
pub(crate) struct Table<F> {
    seed: u64,
    nets: Vec<Net<F>>,
    free_nets: u32,
    live_nets: usize,
    chosen_nets: usize,
    index: IdIndex,
    paths: Vec<Path>,
    free_paths: u32,
    live_paths: usize,
    peers: Vec<PeerPaths>,
    dirty: VecDeque<u32>,
    /// Some group tells single paths, so a path that goes keeps its place until it is withdrawn.
    keeps_gone: bool,
    /// Paths that went and of which groups do not know yet.
    gone: VecDeque<u32>,
    /// How many places of paths that went each net has.
    gone_of: FxHashMap<u32, u32>,
    /// Peers with walks to do.
    walking: VecDeque<Slot>,
    /// Where a look at every path is.
    sweep: Option<u32>,
    /// Paths that changed, by name, where somebody watches.
    watched: Option<Vec<(F, Slot, Option<u32>)>>,
}

impl<F: Key> Table<F> {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            nets: Vec::new(),
            free_nets: NONE,
            live_nets: 0,
            chosen_nets: 0,
            index: IdIndex::default(),
            paths: Vec::new(),
            free_paths: NONE,
            live_paths: 0,
            peers: Vec::new(),
            dirty: VecDeque::new(),
            keeps_gone: false,
            gone: VecDeque::new(),
            gone_of: FxHashMap::default(),
            walking: VecDeque::new(),
            sweep: None,
            watched: None,
        }
    }

    // ---- nets -------------------------------------------------------------------------------------------------

    pub(crate) fn find(&self, prefix: F) -> Option<NetId> {
        self.index
            .find(prefix.digest(self.seed), |id| {
                self.nets
                    .get(id as usize)
                    .is_some_and(|net| net.prefix == prefix)
            })
            .map(NetId)
    }

    fn find_or_insert(&mut self, prefix: F) -> NetId {
        if let Some(net) = self.find(prefix) {
            return net;
        }
        let net = Net {
            prefix,
            first: NONE,
            flags: NetFlags::empty(),
        };
        let id = if self.free_nets == NONE {
            self.nets.push(net);
            u32::try_from(self.nets.len() - 1).unwrap_or(NONE)
        } else {
            let id = self.free_nets;
            if let Some(place) = self.nets.get_mut(id as usize) {
                self.free_nets = place.first;
                *place = net;
            }
            id
        };
        self.live_nets += 1;
        let (nets, seed) = (&self.nets, self.seed);
        self.index
            .insert(prefix.digest(seed), id, |id| digest_of(nets, id, seed));
        NetId(id)
    }

    /// Gives the place of an empty net back. The caller knows that nothing refers to it: no group of peers has it to tell,
    /// nobody waits to hear of it.
    pub(crate) fn free(&mut self, net: NetId) {
        let Some(place) = self.nets.get_mut(net.0 as usize) else {
            return;
        };
        if place.first != NONE || !place.flags.is_empty() {
            return;
        }
        let prefix = place.prefix;
        place.flags = NetFlags::FREE;
        place.first = self.free_nets;
        self.free_nets = net.0;
        self.live_nets -= 1;
        let (nets, seed) = (&self.nets, self.seed);
        self.index
            .remove(prefix.digest(seed), net.0, |id| digest_of(nets, id, seed));
    }

    /// Whether nothing in the table itself needs the net.
    pub(crate) fn is_unused(&self, net: NetId) -> bool {
        self.nets
            .get(net.0 as usize)
            .is_some_and(|net| net.first == NONE && net.flags.is_empty())
            && !self.gone_of.contains_key(&net.0)
    }

    fn net(&self, net: NetId) -> &Net<F> {
        self.nets
            .get(net.0 as usize)
            .expect("net ids come from the table and it never shrinks")
    }

    fn net_mut(&mut self, net: NetId) -> &mut Net<F> {
        self.nets
            .get_mut(net.0 as usize)
            .expect("net ids come from the table and it never shrinks")
    }

    pub(crate) fn prefix(&self, net: NetId) -> F {
        self.net(net).prefix
    }

    /// One past the highest net id ever given out.
    pub(crate) fn net_bound(&self) -> u32 {
        u32::try_from(self.nets.len()).unwrap_or(u32::MAX)
    }

    /// Whether the id stands for a prefix at present.
    pub(crate) fn is_net(&self, net: NetId) -> bool {
        self.nets
            .get(net.0 as usize)
            .is_some_and(|net| !net.flags.contains(NetFlags::FREE))
    }

    /// Prefixes that have a place: those with paths, usable or not, and those some group has yet to withdraw.
    pub(crate) const fn net_count(&self) -> usize {
        self.live_nets
    }

    /// Prefixes with a best path.
    pub(crate) const fn chosen_count(&self) -> usize {
        self.chosen_nets
    }

    pub(crate) const fn path_count(&self) -> usize {
        self.live_paths
    }

    pub(crate) fn memory(&self) -> (usize, usize) {
        (
            self.nets.capacity() * size_of::<Net<F>>() + self.index.memory(),
            self.paths.capacity() * size_of::<Path>(),
        )
    }

    // ---- paths ------------------------------------------------------------------------------------------------

    fn path(&self, path: u32) -> &Path {
        self.paths
            .get(path as usize)
            .expect("paths are linked only while they exist")
    }

    fn path_mut(&mut self, path: u32) -> &mut Path {
        self.paths
            .get_mut(path as usize)
            .expect("paths are linked only while they exist")
    }

    fn peer_mut(&mut self, peer: Slot) -> &mut PeerPaths {
        let index = usize::from(peer);
        if index >= self.peers.len() {
            self.peers.resize_with(index + 1, PeerPaths::default);
        }
        self.peers.get_mut(index).expect("just made long enough")
    }

    fn peer(&self, peer: Slot) -> Option<&PeerPaths> {
        self.peers.get(usize::from(peer))
    }

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
    fn rewrite(
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

    fn remove(&mut self, at: u32, store: &mut AttributeStore) {
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

    /// The prefix of a path, also of one that went while its place is kept.
    pub(crate) fn prefix_of_path(&self, path: PathRef) -> F {
        self.prefix(NetId(self.path(path.0).net))
    }

    /// Every path of a net with its place, the best first.
    pub(crate) fn places_of(&self, net: NetId) -> impl Iterator<Item = (PathRef, PathView)> + '_ {
        let mut at = self.net(net).first;
        std::iter::from_fn(move || {
            if at == NONE {
                return None;
            }
            let (path, place) = (self.path(at), PathRef(at));
            at = path.next;
            Some((place, self.view(path)))
        })
    }

    fn touch(&mut self, net: NetId, flags: PathFlags) {
        let net = self.net_mut(net);
        if flags.contains(PathFlags::BEST) {
            net.flags |= NetFlags::BEST_TOUCHED;
        }
        if flags.contains(PathFlags::USED) {
            net.flags |= NetFlags::USED_TOUCHED;
        }
    }

    // ---- the decision -----------------------------------------------------------------------------------------

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

    fn mark_dirty(&mut self, net: NetId) {
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
        let mut candidates: SmallVec<[Candidate; 8]> = SmallVec::new();
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
        let (places, mut candidates): (SmallVec<[PathRef; 8]>, SmallVec<[Candidate; 8]>) = self
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

    /// The best path of a net as last decided.
    pub(crate) fn best(&self, net: NetId) -> Option<PathView> {
        let first = self.nets.get(net.0 as usize)?;
        if first.flags.contains(NetFlags::FREE) || first.first == NONE {
            return None;
        }
        let path = self.path(first.first);
        path.flags
            .contains(PathFlags::BEST)
            .then(|| self.view(path))
    }

    /// Every path of a net, the best first.
    pub(crate) fn paths_of(&self, net: NetId) -> impl Iterator<Item = PathView> + '_ {
        let mut at = self.net(net).first;
        std::iter::from_fn(move || {
            if at == NONE {
                return None;
            }
            let path = self.path(at);
            at = path.next;
            Some(self.view(path))
        })
    }

    /// What the decision would compare of a path.
    pub(crate) fn candidate(&self, view: &PathView, input: &DecisionInput<'_>) -> Candidate {
        candidate(
            view.attributes,
            view.peer,
            view.path_id.unwrap_or(0),
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

    fn view(&self, path: &Path) -> PathView {
        PathView {
            net: NetId(path.net),
            peer: path.peer,
            path_id: path.id(),
            received: path.received,
            attributes: path.attributes,
            unusable: path.flags.reason(),
            best: path.flags.contains(PathFlags::BEST),
            used: path.flags.contains(PathFlags::USED),
            long_lived: path.flags.contains(PathFlags::LONG_LIVED),
            old: self
                .peer(path.peer)
                .is_some_and(|list| list.epoch != path.epoch),
        }
    }

    // ---- telling whoever forwards -----------------------------------------------------------------------------

    /// Notes that the net waits to be told. False where it waits already.
    pub(crate) fn mark_reported(&mut self, net: NetId) -> bool {
        let flags = &mut self.net_mut(net).flags;
        let new = !flags.contains(NetFlags::REPORTED);
        *flags |= NetFlags::REPORTED;
        new
    }

    pub(crate) fn clear_reported(&mut self, net: NetId) {
        self.net_mut(net).flags -= NetFlags::REPORTED;
    }
}

fn digest_of<F: Key>(nets: &[Net<F>], id: u32, seed: u64) -> u64 {
    nets.get(id as usize)
        .map_or(0, |net| net.prefix.digest(seed))
}

impl Path {
    fn id(&self) -> Option<u32> {
        self.flags
            .contains(PathFlags::HAS_PATH_ID)
            .then_some(self.path_id)
    }

    fn candidate(&self, incumbent: Option<u32>, input: &DecisionInput<'_>) -> Candidate {
        let long_lived = self.flags.contains(PathFlags::LONG_LIVED);
        let (attributes, path_id) = (self.attributes, self.path_id);
        candidate(attributes, self.peer, path_id, long_lived, incumbent, input)
    }
}

fn candidate(
    attributes: AttrId,
    peer: Slot,
    path_id: u32,
    long_lived: bool,
    incumbent: Option<u32>,
    input: &DecisionInput<'_>,
) -> Candidate {
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
        neighbour_as: keys.neighbour_as,
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::rib::attribute_store::PathData;

    #[test]
    fn a_route_costs_what_the_design_promises() {
        assert_eq!(size_of::<Net<Ipv4Prefix>>(), 16);
        assert_eq!(size_of::<Path>(), 32);
    }

    fn announce(
        table: &mut Table<Ipv4Prefix>,
        store: &mut AttributeStore,
        prefix: &str,
        path_id: Option<u32>,
    ) -> bool {
        let id = store.intern(PathData {
            attributes: Arc::default(),
            next_hop: None,
            interface: 0,
            weight: 0,
            discard: false,
        });
        store.retain(id);
        let incoming = Incoming {
            path_id,
            received: id,
            attributes: id,
            unusable: None,
        };
        table.announce(prefix.parse().expect("a prefix"), 1, incoming, store)
    }

    #[test]
    fn a_peer_has_so_many_paths_of_a_prefix_and_no_more() {
        let (mut table, mut store) = (Table::new(1), AttributeStore::new(1));
        let most = u32::try_from(MAX_PATHS).expect("small");
        for id in 0..most {
            assert!(announce(&mut table, &mut store, "10.0.0.0/24", Some(id)));
        }
        assert!(!announce(&mut table, &mut store, "10.0.0.0/24", Some(most)));
        assert!(announce(&mut table, &mut store, "10.0.0.0/24", Some(0)));
        assert_eq!(table.counts(1).0, MAX_PATHS);
        // Those of an ended session make room for those of the next.
        table.begin_epoch(1, &mut store);
        for id in 0..most {
            assert!(announce(
                &mut table,
                &mut store,
                "10.0.0.0/24",
                Some(1000 + id)
            ));
        }
        assert!(!announce(&mut table, &mut store, "10.0.0.0/24", Some(0)));
        assert_eq!((table.counts(1).0, store.len()), (MAX_PATHS, 1));
    }

    #[test]
    fn prefixes_of_the_current_session_are_counted_once() {
        let (mut table, mut store) = (Table::new(1), AttributeStore::new(1));
        for id in [1, 2] {
            announce(&mut table, &mut store, "10.0.0.0/24", Some(id));
        }
        announce(&mut table, &mut store, "10.0.1.0/24", Some(1));
        assert_eq!(table.fresh_prefixes(1), 2);
        table.begin_epoch(1, &mut store);
        assert_eq!(table.fresh_prefixes(1), 0);
        for id in [1, 2, 3] {
            announce(&mut table, &mut store, "10.0.0.0/24", Some(id));
        }
        assert_eq!((table.fresh_prefixes(1), table.counts(1).0), (1, 4));
        let withdraw = |table: &mut Table<Ipv4Prefix>, store: &mut _, prefix: &str, id| {
            table.withdraw(prefix.parse().expect("a prefix"), 1, Some(id), store)
        };
        for (id, left) in [(3, 1), (1, 1), (2, 0)] {
            assert!(withdraw(&mut table, &mut store, "10.0.0.0/24", id));
            assert_eq!(table.fresh_prefixes(1), left);
        }
        assert!(withdraw(&mut table, &mut store, "10.0.1.0/24", 1));
        assert_eq!((table.fresh_prefixes(1), table.counts(1).0), (0, 0));
    }
}
