//! What a group of peers was told (Adj-RIB-Out), and how each of them is brought up to date.
//!
//! Peers that would be sent the same octets are one [`Group`]. The group holds, per prefix, the one thing it tells, and a
//! journal: the prefixes in the order their telling changed. A peer is a cursor into the journal. Two peers at the same
//! position need the same octets, so those are encoded once and shared:
//!
//! ```text
//!   journal   … 7  3  9 │ 4  7  2  5 │ 8  1 │              ▲ head
//!                       └─ chunk ────┴chunk ┘
//!   cursors           ▲ peer c      ▲ a, b  (encode or share the chunk that begins at the cursor)
//! ```
//!
//! An entry whose prefix changed again later is dead: a peer that reads slowly skips it and gets the latest state once.
//! Such a peer costs an entry per prefix at most, because the journal is compacted when it outgrows the table, and it
//! holds up nobody: the others are ahead of it.
//!
//! A peer that comes up walks over the whole table, sorted so that each attribute set is encoded once, ends with
//! End-of-RIB and goes on with the journal from where it stood when the walk began. Peers that come up together share the
//! walk; who joins one that was begun before reads the journal up to where it joined before its own is over. A peer that was
//! told nothing here yet waits while the group fills: what it would be told until then is what an earlier policy allowed. A
//! refresh is the same walk. A peer that moves here from another group (its policy changed) walks too and
//! has what only the old group told it withdrawn.
//!
//! A route is not sent back to the peer it is from, nor to its originator. Every message holds routes of one source, so
//! for that peer a chunk is cut at the message's ends, with withdrawals in the gap where it may still hold another route.
//!
//! A *mirror* is a member that is no peer: it is given what one peer of the group is told, octet by octet, for whoever watches
//! (RFC 8671). It reads at its own pace, nobody is woken for it, and it keeps no group alive.
//!
//! A group with ADD-PATH (RFC 7911) tells paths where others tell prefixes. Everything above works on [`Unit`]s and does not
//! know the difference: a path that is told no more is withdrawn as a prefix is, under its own identifier.
//!
//! Invariants: a chunk says of its prefixes what held when it was encoded, and every change since is in the journal
//! behind it. A prefix, or path, in the unread part of a journal keeps its place.

mod telling;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::attribute_store::{AttrId, AttributeStore};
use super::export::{Export, GroupKey};
use super::index::{IdIndex, NONE, fold};
use super::{PeerFacts, Slot};
use crate::asn::Asn;
use crate::codec::{Announcer, PathId};
use crate::policy::{Action, AppliedRules, Policy, SourceKind};
use crate::prefix::Prefix;

/// Journal entries are net ids; this bit says that the source of the route may hold another one of ours.
const SOURCE_MAY_HOLD: u32 = 1 << 31;

/// Entries a journal may hold beyond twice the number of nets before it is compacted. Tests have few nets and want it often.
const JOURNAL_SLACK: usize = if cfg!(test) { 8 } else { 4096 };

/// From here on, what is told of a net is nothing, and the low half is the source of what was told last.
const UNTOLD: u32 = 0xffff_0000;

const fn is_told(out: u32) -> bool {
    out < UNTOLD
}

/// What a group tells of as one: a prefix, or one path of it where the group tells several (RFC 7911). It is a place in the
/// table, of prefixes or of paths, and what is said below of nets holds of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit(pub(crate) u32);

impl Unit {
    /// How peers are told of a path: by where it lies in the table. It stays there, whatever is announced of it and whichever
    /// path is the best, until it is gone and every group that told it has withdrawn it; all groups use one number.
    pub(crate) const fn path_id(self) -> PathId {
        PathId(self.0 + 1)
    }
}

/// Where a peer stands in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemberId(u32);

/// What is said before and after a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// The session is new: End-of-RIB at the end (RFC 4724 §2).
    Initial,
    /// The peer asked, or an operator did.
    Refresh {
        /// Mark begin and end (RFC 7313).
        marked: bool,
    },
}

/// What encoding reads beside the group.
pub(crate) struct EncodeInput<'a> {
    pub(crate) store: &'a AttributeStore,
    pub(crate) facts: &'a [PeerFacts],
    pub(crate) prefix_of: &'a dyn Fn(Unit) -> Prefix,
}

#[derive(Clone, Copy, Debug)]
struct NetOut {
    /// What is told: a record, or nothing from [`UNTOLD`] on.
    out: u32,
    /// Low half of the position of the net's latest journal entry.
    position: u32,
}

/// One thing told, shared by all prefixes it is told of.
#[derive(Debug)]
struct OutRecord {
    attributes: AttrId,
    /// Which actions of policy apply; next free place where free.
    actions: u32,
    references: u32,
    source: Slot,
    revision: u8,
    long_lived: bool,
}

#[derive(Debug)]
struct Segment {
    /// Where its octets end.
    end: usize,
    source: Slot,
    /// ORIGINATOR_ID of the routes, 0 without.
    originator: u32,
    /// What its source is told instead, where it may hold something.
    instead: Option<Bytes>,
}

#[derive(Debug)]
struct Chunk {
    octets: Bytes,
    segments: SmallVec<[Segment; 1]>,
}

/// How one thing told is announced, kept because most changes say what the one before said.
#[derive(Debug)]
struct Announced {
    /// The record it tells.
    out: u32,
    /// What it says of the source: see [`PeerFacts::told`].
    source: (u32, u32, Asn, SourceKind),
    announcer: Announcer,
}

#[derive(Debug)]
struct JournalChunk {
    from: u64,
    to: u64,
    chunk: Arc<Chunk>,
}

#[derive(Debug)]
struct WalkList {
    start: u64,
    nets: Vec<u32>,
}

#[derive(Debug)]
struct WalkChunk {
    list: Weak<WalkList>,
    from: usize,
    chunk: Arc<Chunk>,
}

#[derive(Debug)]
enum Sync {
    /// Its walk begins once the group knows what it tells.
    Waiting,
    /// On the walk.
    Walking {
        list: Arc<WalkList>,
        position: usize,
    },
    /// Follows the journal.
    Live,
}

#[derive(Debug)]
struct Member {
    slot: Slot,
    router_id: u32,
    /// The next journal entry it has not been told; on a walk, where the journal is taken up again.
    cursor: u64,
    sync: Sync,
    /// Its walk is over only once it has read the journal up to here: the list of a walk that began earlier lacks what came
    /// since, or what a fill found since, and the end that is marked is the end of all there was.
    complete_at: u64,
    occasion: Occasion,
    /// Nothing in the journal concerns it before its walk begins: it was told nothing yet, or by another group.
    new: bool,
    /// Another walk follows the current one.
    again: Option<Occasion>,
    /// Prefixes another group told it, one bit each.
    held: Option<Vec<u64>>,
    end_of_rib_sent: bool,
    /// It is no peer, and is only given what one is told.
    mirror: bool,
}

/// How a peer comes into a group.
#[derive(Debug)]
pub(crate) struct Entrance {
    occasion: Occasion,
    /// Another walk follows the first one.
    again: Option<Occasion>,
    /// Prefixes another group told it, one bit each.
    held: Option<Vec<u64>>,
}

impl Entrance {
    /// With its session: it was told nothing yet.
    pub(crate) const INITIAL: Self = Self {
        occasion: Occasion::Initial,
        again: None,
        held: None,
    };
}

/// Peers that are told the same.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) key: GroupKey,
    nets: Vec<NetOut>,
    advertised: usize,
    /// How much of that is from each source.
    by_source: Vec<usize>,
    records: Vec<OutRecord>,
    free_records: u32,
    record_index: IdIndex,
    /// Distinct combinations of actions policies apply; the first is none.
    actions: Vec<Arc<[Action]>>,
    /// Where each is among them.
    action_numbers: FxHashMap<Arc<[Action]>, u32>,
    /// Places among them that nothing refers to.
    free_actions: Vec<u32>,
    /// What the combinations of rules of the policy in force amount to. Ordered: which of them apply is a peer's choice.
    rules: BTreeMap<AppliedRules, u32>,
    latest: Option<Announced>,
    journal: VecDeque<u32>,
    /// Position of the journal's front.
    base: u64,
    chunks: VecDeque<JournalChunk>,
    chunk_octets: usize,
    latest_walk: Weak<WalkList>,
    walk_chunks: VecDeque<WalkChunk>,
    members: Vec<Option<Member>>,
    /// Members that hold what another group told them.
    holders: usize,
    /// What they held until now.
    unheld: Vec<Unit>,
    /// Next net whose telling is not known yet or belongs to an earlier policy.
    fill: Option<u32>,
    /// Head up to which members were woken.
    announced_head: u64,
    /// A fill ended and members that wait for it do not know yet.
    filled: bool,
    /// Routes that fit no message.
    pub(crate) unsendable: u64,
    /// Routes without a next hop to tell.
    pub(crate) withheld: u64,
    /// All members know that there are such.
    pub(crate) withheld_told: bool,
}

impl Group {
    /// A group that has yet to learn what it tells: see [`Group::fill_step`].
    pub(crate) fn new(key: GroupKey) -> Self {
        Self {
            key,
            nets: Vec::new(),
            advertised: 0,
            by_source: Vec::new(),
            records: Vec::new(),
            free_records: NONE,
            record_index: IdIndex::default(),
            actions: vec![Arc::default()],
            action_numbers: FxHashMap::default(),
            free_actions: Vec::new(),
            rules: BTreeMap::new(),
            latest: None,
            journal: VecDeque::new(),
            base: 0,
            chunks: VecDeque::new(),
            chunk_octets: 0,
            latest_walk: Weak::new(),
            walk_chunks: VecDeque::new(),
            members: Vec::new(),
            holders: 0,
            unheld: Vec::new(),
            fill: Some(0),
            announced_head: 0,
            filled: false,
            unsendable: 0,
            withheld: 0,
            withheld_told: false,
        }
    }

    // ---- what is told -----------------------------------------------------------------------------------------

    fn head(&self) -> u64 {
        self.base + self.journal.len() as u64
    }

    fn net(&self, net: Unit) -> NetOut {
        let nothing = NetOut {
            out: NONE,
            position: u32::MAX,
        };
        self.nets.get(net.0 as usize).copied().unwrap_or(nothing)
    }

    /// The journal entry at `position` of the ring.
    fn entry(&self, position: u64) -> Option<u32> {
        let offset = usize::try_from(position.checked_sub(self.base)?).ok()?;
        self.journal.get(offset).copied()
    }

    /// The position of the net's latest entry, while somebody may have to read it.
    fn pending(&self, net: Unit) -> Option<u64> {
        let low = self.net(net).position;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "positions are compared by their low half"
        )]
        let ahead = low.wrapping_sub(self.base as u32);
        let position = self.base + u64::from(ahead);
        (self.entry(position)? & !SOURCE_MAY_HOLD == net.0).then_some(position)
    }

    /// Whether the group still refers to the net.
    pub(crate) fn needs(&self, net: Unit) -> bool {
        is_told(self.net(net).out)
            || self.pending(net).is_some()
            || self.holders > 0
                && self
                    .members
                    .iter()
                    .flatten()
                    .any(|member| member.held.as_ref().is_some_and(|held| bit(held, net.0)))
    }

    /// Whether the peer in `slot` is told of the net.
    pub(crate) fn tells(
        &self,
        net: Unit,
        slot: Slot,
        router_id: u32,
        store: &AttributeStore,
    ) -> bool {
        self.record(self.net(net).out)
            .is_some_and(|record| !excludes(record, slot, router_id, store))
    }

    /// How many nets the peer in `slot` is told of: all the group is told, less what is its own.
    pub(crate) fn advertised_to(&self, slot: Slot) -> usize {
        let own = self.by_source.get(usize::from(slot)).copied();
        self.advertised.saturating_sub(own.unwrap_or(0))
    }

    fn count_source(&mut self, out: u32, count: fn(usize) -> usize) {
        let Some(source) = self.record(out).map(|record| usize::from(record.source)) else {
            return;
        };
        if source >= self.by_source.len() {
            self.by_source.resize(source + 1, 0);
        }
        if let Some(place) = self.by_source.get_mut(source) {
            *place = count(*place);
        }
    }

    fn record(&self, out: u32) -> Option<&OutRecord> {
        self.records
            .get(out as usize)
            .filter(|record| record.references > 0)
    }

    /// What is told of the net is this from now on. True where members have to be told: the net is needed until they were.
    pub(crate) fn update(
        &mut self,
        net: Unit,
        export: Option<Export>,
        store: &mut AttributeStore,
    ) -> bool {
        let old = self.net(net).out;
        let new = match export {
            Some(export) => self.intern(&export, store),
            None if !is_told(old) => return false,
            None => UNTOLD | u32::from(self.record(old).map_or(Slot::MAX, |record| record.source)),
        };
        if new == old {
            self.release(new, store);
            return false;
        }
        let place = net.0 as usize;
        if place >= self.nets.len() {
            let nothing = NetOut {
                out: NONE,
                position: u32::MAX,
            };
            self.nets.resize(place + 1, nothing);
        }
        // The source of what is told now is told nothing, unless it may hold what another source gave: see the essay.
        let origin_of = |out: u32| match self.record(out) {
            Some(record) => (record.source, store_originator(record, store)),
            None => (source_of_untold(out), 0),
        };
        let pending = self.pending(net);
        let moved = || origin_of(old) != origin_of(new);
        let mut source_may_hold = match (is_told(old), is_told(new)) {
            (true, true) => moved(),
            (false, true) => pending.is_some() && moved(),
            (_, false) => false,
        };
        if let Some(pending) = pending {
            source_may_hold |= self
                .entry(pending)
                .is_some_and(|entry| entry & SOURCE_MAY_HOLD != 0);
            self.spoil_chunk(pending);
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "positions are compared by their low half"
        )]
        let position = self.head() as u32;
        self.journal
            .push_back(net.0 | if source_may_hold { SOURCE_MAY_HOLD } else { 0 });
        if let Some(place) = self.nets.get_mut(place) {
            *place = NetOut { out: new, position };
        }
        self.advertised += usize::from(is_told(new));
        self.advertised -= usize::from(is_told(old));
        self.count_source(new, |count| count + 1);
        self.count_source(old, |count| count.saturating_sub(1));
        if is_told(old) {
            self.release(old, store);
        }
        true
    }

    fn intern(&mut self, export: &Export, store: &mut AttributeStore) -> u32 {
        let actions = self.intern_actions(&export.rules);
        let hash = record_hash(
            export.attributes,
            actions,
            export.source,
            export.revision,
            export.long_lived,
        );
        let found = self.record_index.find(hash, |id| {
            self.record(id).is_some_and(|record| {
                record.attributes == export.attributes
                    && record.actions == actions
                    && record.source == export.source
                    && record.revision == export.revision
                    && record.long_lived == export.long_lived
            })
        });
        if let Some(id) = found {
            if let Some(record) = self.records.get_mut(id as usize) {
                record.references += 1;
            }
            return id;
        }
        store.retain(export.attributes);
        let record = OutRecord {
            attributes: export.attributes,
            actions,
            references: 1,
            source: export.source,
            revision: export.revision,
            long_lived: export.long_lived,
        };
        let id = self.free_records;
        let id = if let Some(place) = self.records.get_mut(id as usize) {
            self.free_records = place.actions;
            *place = record;
            id
        } else {
            self.records.push(record);
            u32::try_from(self.records.len() - 1).unwrap_or(NONE)
        };
        let records = &self.records;
        self.record_index
            .insert(hash, id, |id| hash_of(records, id));
        id
    }

    /// The number of the actions that a combination of rules amounts to.
    fn intern_actions(&mut self, rules: &AppliedRules) -> u32 {
        if rules.is_empty() {
            return 0;
        }
        if let Some(known) = self.rules.get(rules) {
            return *known;
        }
        let actions: Arc<[Action]> = self.key.policy.actions(rules).into();
        let number = match self.action_numbers.get(&actions) {
            _ if actions.is_empty() => 0,
            Some(known) => *known,
            None => {
                let number = if let Some(free) = self.free_actions.pop() {
                    if let Some(place) = self.actions.get_mut(free as usize) {
                        *place = Arc::clone(&actions);
                    }
                    free
                } else {
                    self.actions.push(Arc::clone(&actions));
                    u32::try_from(self.actions.len() - 1).unwrap_or(0)
                };
                self.action_numbers.insert(actions, number);
                number
            }
        };
        self.rules.insert(rules.clone(), number);
        number
    }

    /// Forgets combinations of actions that nothing told has any more.
    fn drop_unused_actions(&mut self) {
        let mut used = vec![false; self.actions.len()];
        for record in self.records.iter().filter(|record| record.references > 0) {
            if let Some(used) = used.get_mut(record.actions as usize) {
                *used = true;
            }
        }
        let is_used = |number: u32| used.get(number as usize).copied().unwrap_or(false);
        self.rules
            .retain(|_, number| *number == 0 || is_used(*number));
        let Self {
            actions,
            action_numbers,
            free_actions,
            ..
        } = self;
        action_numbers.retain(|_, number| {
            let keep = is_used(*number);
            if !keep {
                free_actions.push(*number);
                if let Some(place) = actions.get_mut(*number as usize) {
                    *place = Arc::default();
                }
            }
            keep
        });
    }

    /// How many combinations of actions are remembered.
    #[cfg(test)]
    pub(crate) fn distinct_actions(&self) -> usize {
        self.actions.len() - self.free_actions.len()
    }

    fn release(&mut self, id: u32, store: &mut AttributeStore) {
        let Some(record) = self.records.get_mut(id as usize) else {
            return;
        };
        record.references -= 1;
        if record.references > 0 {
            return;
        }
        store.release(record.attributes);
        self.latest.take_if(|latest| latest.out == id);
        let hash = record_hash(
            record.attributes,
            record.actions,
            record.source,
            record.revision,
            record.long_lived,
        );
        let records = &self.records;
        self.record_index
            .remove(hash, id, |id| hash_of(records, id));
        if let Some(record) = self.records.get_mut(id as usize) {
            record.actions = self.free_records;
        }
        self.free_records = id;
    }

    /// Gives back every attribute set; the group is no more. Tells the nets it referred to.
    pub(crate) fn dissolve(mut self, store: &mut AttributeStore) -> Vec<Unit> {
        let mut referred = Vec::new();
        for (id, net) in (0..).zip(std::mem::take(&mut self.nets)) {
            if is_told(net.out) {
                self.release(net.out, store);
                referred.push(Unit(id));
            }
        }
        referred.append(&mut self.unheld);
        referred.extend(
            self.journal
                .iter()
                .map(|entry| Unit(entry & !SOURCE_MAY_HOLD)),
        );
        referred
    }

    // ---- filling ----------------------------------------------------------------------------------------------

    /// Whether the group has nets to look at anew.
    pub(crate) const fn is_filling(&self) -> bool {
        self.fill.is_some()
    }

    /// The next net whose telling is to be computed, and the end of it at `bound`.
    pub(crate) fn fill_step(&mut self, bound: u32) -> Option<u32> {
        let at = self.fill?;
        if at >= bound {
            self.fill = None;
            self.filled = true;
            self.drop_unused_actions();
            let head = self.head();
            for member in self.members.iter_mut().flatten() {
                if matches!(member.sync, Sync::Walking { .. }) {
                    member.complete_at = head;
                }
            }
            return None;
        }
        self.fill = Some(at + 1);
        Some(at)
    }

    /// Exchanges the policy. Every net is looked at anew and only differences are told: what a record says is told does
    /// not depend on the policy that led to it.
    pub(crate) fn set_policy(&mut self, policy: Arc<Policy>) {
        self.key.policy = policy;
        self.rules.clear();
        self.refill();
    }

    /// Every net is looked at anew.
    pub(crate) const fn refill(&mut self) {
        self.withheld = 0;
        self.withheld_told = false;
        self.fill = Some(0);
    }

    // ---- members ----------------------------------------------------------------------------------------------

    /// Takes a peer in.
    pub(crate) fn join(&mut self, slot: Slot, router_id: u32, entrance: Entrance) -> MemberId {
        self.take_in(slot, router_id, entrance, false)
    }

    /// Takes in a mirror of the peer in `slot`, which is a member itself.
    pub(crate) fn mirror(&mut self, slot: Slot, router_id: u32, entrance: Entrance) -> MemberId {
        self.take_in(slot, router_id, entrance, true)
    }

    fn take_in(
        &mut self,
        slot: Slot,
        router_id: u32,
        entrance: Entrance,
        mirror: bool,
    ) -> MemberId {
        let Entrance {
            occasion,
            again,
            held,
        } = entrance;
        self.holders += usize::from(held.is_some());
        self.withheld_told &= mirror;
        let member = Some(Member {
            slot,
            router_id,
            cursor: self.head(),
            sync: Sync::Waiting,
            complete_at: 0,
            end_of_rib_sent: occasion != Occasion::Initial,
            occasion,
            new: true,
            again,
            held,
            mirror,
        });
        let place = self
            .members
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.members.len());
        match self.members.get_mut(place) {
            Some(free) => *free = member,
            None => self.members.push(member),
        }
        MemberId(u32::try_from(place).unwrap_or(NONE))
    }

    /// Lets a peer go. Returns what it may have been told, and has yet to be, for the group it joins next.
    pub(crate) fn leave(&mut self, id: MemberId, carry: bool) -> Option<Entrance> {
        let member = self.members.get_mut(id.0 as usize)?.take()?;
        self.holders -= usize::from(member.held.is_some());
        if !carry {
            self.unheld
                .extend(member.held.iter().flat_map(|held| bits(held)));
            return None;
        }
        let occasion = match member.sync {
            Sync::Live => Occasion::Refresh { marked: false },
            Sync::Waiting | Sync::Walking { .. } => member.occasion,
        };
        let mut held = member.held.unwrap_or_default();
        let mut mark = |net: u32| {
            let word = net as usize / 64;
            if word >= held.len() {
                held.resize(word + 1, 0);
            }
            if let Some(word) = held.get_mut(word) {
                *word |= 1 << (net % 64);
            }
        };
        if !member.new {
            for (net, out) in (0..).zip(&self.nets) {
                if is_told(out.out) {
                    mark(net);
                }
            }
            for position in member.cursor.max(self.base)..self.head() {
                if let Some(entry) = self.entry(position) {
                    mark(entry & !SOURCE_MAY_HOLD);
                }
            }
        }
        Some(Entrance {
            occasion,
            again: member.again,
            held: Some(held),
        })
    }

    /// The peers among the members.
    fn peers(&self) -> impl Iterator<Item = &Member> {
        self.members
            .iter()
            .flatten()
            .filter(|member| !member.mirror)
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = Slot> + '_ {
        self.peers().map(|member| member.slot)
    }

    /// Whether no peer is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.peers().next().is_none()
    }

    fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.get(id.0 as usize)?.as_ref()
    }

    /// Tells the peer everything anew, after a walk that is under way.
    pub(crate) fn refresh(&mut self, id: MemberId, marked: bool) {
        if let Some(Some(member)) = self.members.get_mut(id.0 as usize) {
            let occasion = Occasion::Refresh { marked };
            match member.sync {
                Sync::Live => {
                    member.sync = Sync::Waiting;
                    member.occasion = occasion;
                }
                Sync::Waiting | Sync::Walking { .. } => member.again = Some(occasion),
            }
        }
    }

    /// Changes the peer has not been told.
    pub(crate) fn lag(&self, id: MemberId) -> usize {
        let Some(member) = self.member(id) else {
            return 0;
        };
        let journal = usize::try_from(self.head() - member.cursor).unwrap_or(usize::MAX);
        match &member.sync {
            Sync::Waiting => self.advertised,
            Sync::Walking { list, position } => list.nets.len() - position + journal,
            Sync::Live => journal,
        }
    }

    /// Whether it is on a walk of its own, whose list nobody shares.
    pub(crate) fn walks_alone(&self, id: MemberId) -> bool {
        self.member(id).is_some_and(|member| {
            member.held.is_some() && matches!(member.sync, Sync::Walking { .. })
        })
    }

    pub(crate) fn end_of_rib_sent(&self, id: MemberId) -> bool {
        self.member(id).is_some_and(|member| member.end_of_rib_sent)
    }

    /// Whether there is something to tell the peer now.
    pub(crate) fn has_more(&self, id: MemberId) -> bool {
        self.member(id).is_some_and(|member| match &member.sync {
            // What is told at present may be what an earlier policy allowed: nothing for who was never told it.
            Sync::Waiting => !member.new || self.fill.is_none(),
            Sync::Walking { list, position } => {
                self.fill.is_none() || *position < list.nets.len() || member.cursor < self.head()
            }
            Sync::Live => member.cursor < self.head(),
        })
    }

    /// Whether members may have something to be told since the last call.
    pub(crate) fn take_news(&mut self) -> bool {
        let head = self.head();
        let news = self.announced_head < head || std::mem::take(&mut self.filled);
        self.announced_head = head;
        news
    }

    /// Drops what every member has read. Tells nets that may be given back.
    pub(crate) fn trim(&mut self, released: &mut Vec<Unit>) {
        released.append(&mut self.unheld);
        if self.journal.is_empty() {
            return;
        }
        let head = self.head();
        let read = self
            .members
            .iter()
            .flatten()
            .filter(|member| !member.new)
            .map(|member| member.cursor)
            .min()
            .unwrap_or(head);
        while self.base < read {
            let Some(entry) = self.journal.pop_front() else {
                break;
            };
            let net = Unit(entry & !SOURCE_MAY_HOLD);
            #[expect(
                clippy::cast_possible_truncation,
                reason = "positions are compared by their low half"
            )]
            let latest = self.net(net).position == self.base as u32;
            if latest && !is_told(self.net(net).out) {
                released.push(net);
            }
            self.base += 1;
        }
        while self.chunks.front().is_some_and(|chunk| chunk.from < read) {
            self.drop_first_chunk();
        }
        let live_at_most = self.nets.len();
        if self.journal.len() > 2 * live_at_most + JOURNAL_SLACK {
            self.compact();
        }
    }

    /// Leaves only the latest entry of each net in the journal.
    fn compact(&mut self) {
        let Self {
            base,
            members,
            nets,
            journal,
            ..
        } = self;
        let base = *base;
        let members = members.iter_mut().flatten();
        let mut marks: Vec<&mut u64> = members
            .flat_map(|member| [&mut member.cursor, &mut member.complete_at])
            .collect();
        marks.sort_unstable();
        let mut marks = marks.into_iter().peekable();
        let old = std::mem::take(journal);
        let mut kept: u64 = 0;
        for (offset, entry) in (0_u64..).zip(old) {
            let position = base + offset;
            while let Some(mark) = marks.next_if(|mark| **mark <= position) {
                *mark = base + kept;
            }
            #[expect(
                clippy::cast_possible_truncation,
                reason = "positions are compared by their low half"
            )]
            let (low, new) = (position as u32, (base + kept) as u32);
            if let Some(net) = nets.get_mut((entry & !SOURCE_MAY_HOLD) as usize)
                && net.position == low
            {
                net.position = new;
                journal.push_back(entry);
                kept += 1;
            }
        }
        for mark in marks {
            *mark = base + kept;
        }
        let head = self.head();
        self.announced_head = self.announced_head.min(head);
        self.chunks.clear();
        self.chunk_octets = 0;
        self.latest_walk = Weak::new();
    }

    pub(crate) fn memory(&self) -> usize {
        self.nets.capacity() * size_of::<NetOut>()
            + self.records.capacity() * size_of::<OutRecord>()
            + self.record_index.memory()
            + self.journal.capacity() * size_of::<u32>()
            + self.rules.len() * size_of::<(AppliedRules, u32)>()
            + self.chunk_octets
    }
}

fn excludes(record: &OutRecord, slot: Slot, router_id: u32, store: &AttributeStore) -> bool {
    let originator = store_originator(record, store);
    record.source == slot || originator != 0 && originator == router_id
}

/// The source of what was told last of a net of which nothing is told; nobody's slot where that does not matter.
const fn source_of_untold(out: u32) -> Slot {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the lower half is the slot"
    )]
    let slot = out as Slot;
    if is_told(out) { Slot::MAX } else { slot }
}

fn store_originator(record: &OutRecord, store: &AttributeStore) -> u32 {
    store.keys(record.attributes).originator
}

fn bit(bits: &[u64], net: u32) -> bool {
    bits.get(net as usize / 64)
        .is_some_and(|word| word >> (net % 64) & 1 == 1)
}

fn bits(bits: &[u64]) -> impl Iterator<Item = Unit> + '_ {
    (0..u32::try_from(bits.len() * 64).unwrap_or(u32::MAX))
        .filter(|net| bit(bits, *net))
        .map(Unit)
}

const fn record_hash(
    attributes: AttrId,
    actions: u32,
    source: Slot,
    revision: u8,
    long_lived: bool,
) -> u64 {
    let low = (attributes.0 as u64) << 32 | actions as u64;
    let high = (source as u64) << 16 | (revision as u64) << 8 | long_lived as u64;
    fold(low, high)
}

fn hash_of(records: &[OutRecord], id: u32) -> u64 {
    records.get(id as usize).map_or(0, |record| {
        record_hash(
            record.attributes,
            record.actions,
            record.source,
            record.revision,
            record.long_lived,
        )
    })
}
