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
//!
//! Here is what is stored and where; `table/filing.rs` has paths coming and going, `decide.rs` the choice per prefix, `walk.rs` what
//! visits every path of a peer.

mod decide;
mod filing;
mod walk;

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

pub(crate) use self::decide::DecisionInput;
use super::Slot;
use super::attribute_store::AttrId;
use super::index::{IdIndex, NONE, fold};
use crate::family::AddressFamily;
use crate::prefix::{Ipv4Prefix, Ipv6Prefix};
use crate::speaker::snapshot::Unusable;

/// Most paths of one prefix a peer may announce (RFC 7911). What is linear in them is done for each of them, so that without
/// a limit one peer could keep us busy with a single prefix.
pub(crate) const MAX_PATHS: usize = 64;

/// Paths are usable or not for a reason: see [`PathFlags::reason`].
const STANDINGS: usize = 9;

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
        /// No path any more, which no reason says: a free place, or one that groups have to withdraw first.
        const GONE = 0xf0;
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
            7 => Some(Unusable::Prefix),
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
            Some(Unusable::Prefix) => 7,
            Some(Unusable::OnlyTold) => 8,
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
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::rib::attribute_store::{AttributeStore, PathData};

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
