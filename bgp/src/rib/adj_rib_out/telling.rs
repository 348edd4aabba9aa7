//! How a member of a group is brought up to date: walks, the journal, and the octets for both.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::{
    Announced, Chunk, EncodeInput, Group, JournalChunk, Member, MemberId, Occasion, OutRecord,
    SOURCE_MAY_HOLD, Segment, Sync, Unit, WalkChunk, WalkList, bit, bits, excludes, is_told,
    source_of_untold, store_originator,
};
use crate::codec::{
    Announcer, CodecContext, Nlri, PathAttributes, RefreshKind, RouteRefresh, attributes_block,
    encode_end_of_rib, encode_withdrawals,
};
use crate::rib::Slot;
use crate::rib::export::{self, GroupKey, Told};
use crate::rib::index::NONE;

/// Most prefixes in one chunk: 20 KiB of IPv4 host routes, some milliseconds of a slow link.
const CHUNK_PREFIXES: usize = 4096;
/// Most octets of chunks kept for peers that will need them; those further behind encode for themselves.
const CHUNKS_KEPT: usize = 4 << 20;
/// Most chunks kept of walks.
const WALK_CHUNKS: usize = 256;
/// Steps that may come to nothing before it is others' turn: for whoever a table is from there is not a word in it.
const FRUITLESS_STEPS: usize = 4;
/// Room for a message without its prefixes, mostly; and for a prefix.
const MESSAGE_LEN: usize = 128;
const NLRI_LEN: usize = 5;

/// What is told, and of what.
type Items = SmallVec<[(u32, u32); 4]>;

impl Group {
    /// The next octets for a peer. Nothing where it is up to date, or has to ask again: see [`Self::has_more`].
    pub(crate) fn pull(&mut self, id: MemberId, input: &EncodeInput<'_>) -> SmallVec<[Bytes; 2]> {
        let mut octets = SmallVec::new();
        // A step may have nothing for this peer although there is more to come.
        for _ in 0..FRUITLESS_STEPS {
            if !octets.is_empty() || !self.has_more(id) {
                break;
            }
            self.step(id, input, &mut octets);
        }
        octets
    }

    fn step(&mut self, id: MemberId, input: &EncodeInput<'_>, octets: &mut SmallVec<[Bytes; 2]>) {
        let index = id.0 as usize;
        // Taken out for the step: what is encoded for it changes the group, but never its members.
        let Some(mut member) = self.members.get_mut(index).and_then(Option::take) else {
            return;
        };
        match member.sync {
            Sync::Waiting => self.begin_walk(&mut member, octets),
            Sync::Walking { .. } => self.walk(&mut member, input, octets),
            Sync::Live => self.follow(&mut member, input, octets),
        }
        if let Some(place) = self.members.get_mut(index) {
            *place = Some(member);
        }
    }

    fn begin_walk(&mut self, member: &mut Member, octets: &mut SmallVec<[Bytes; 2]>) {
        if member.occasion == (Occasion::Refresh { marked: true }) {
            octets.push(refresh_marker(&self.key, RefreshKind::Begin));
        }
        // A peer that is told anew reads on from its cursor afterwards: withdrawals may be among what it has not read.
        if std::mem::take(&mut member.new) {
            member.cursor = self.head();
        }
        let list = match self.latest_walk.upgrade() {
            Some(list) if member.held.is_none() && self.may_share(&list) => list,
            _ => {
                let list = Arc::new(self.walk_list(member.held.as_deref()));
                if member.held.is_none() {
                    self.latest_walk = Arc::downgrade(&list);
                }
                list
            }
        };
        member.cursor = member.cursor.min(list.start);
        let head = self.head();
        member.complete_at = if list.start < head { head } else { 0 };
        member.sync = Sync::Walking { list, position: 0 };
    }

    /// A list serves another peer while the journal reaches back to its start and few of its nets changed since.
    fn may_share(&self, list: &WalkList) -> bool {
        list.start >= self.base && self.head() - list.start <= 1024 + list.nets.len() as u64 / 4
    }

    fn walk_list(&self, held: Option<&[u64]>) -> WalkList {
        let is_held = |net: u32| held.is_some_and(|held| bit(held, net));
        let known = u32::try_from(self.nets.len()).unwrap_or(u32::MAX);
        let bound = held.map_or(known, |held| {
            known.max(u32::try_from(held.len() * 64).unwrap_or(u32::MAX))
        });
        let nets: Vec<u32> = (0..bound)
            .filter(|net| is_told(self.net(Unit(*net)).out) || is_held(*net))
            .collect();
        WalkList {
            start: self.head(),
            nets: self.sorted(nets),
        }
    }

    /// Nets by what is told of them, those last of which nothing is. Counted instead of compared: it is one step, however many
    /// they are.
    fn sorted(&self, nets: Vec<u32>) -> Vec<u32> {
        let untold = self.records.len();
        let told = |net: u32| (self.net(Unit(net)).out as usize).min(untold);
        // With hardly a net a record, counting is the slower way.
        if untold > 2 * nets.len() {
            let mut nets = nets;
            nets.sort_by_key(|net| told(*net));
            return nets;
        }
        let mut places = vec![0_usize; untold + 2];
        for net in &nets {
            if let Some(next) = places.get_mut(told(*net) + 1) {
                *next += 1;
            }
        }
        let mut before = 0;
        for place in &mut places {
            before += *place;
            *place = before;
        }
        let mut sorted = vec![0; nets.len()];
        for net in nets {
            if let Some(place) = places.get_mut(told(net)) {
                if let Some(to) = sorted.get_mut(*place) {
                    *to = net;
                }
                *place += 1;
            }
        }
        sorted
    }

    fn walk(
        &mut self,
        member: &mut Member,
        input: &EncodeInput<'_>,
        octets: &mut SmallVec<[Bytes; 2]>,
    ) {
        let Sync::Walking { list, position } = &mut member.sync else {
            return;
        };
        if *position >= list.nets.len() {
            let filling = self.fill.is_some();
            if member.cursor < member.complete_at || filling && member.cursor < self.head() {
                return self.follow(member, input, octets);
            }
            // The end comes after what a new policy permits: a peer that keeps stale routes drops at the end what was not told.
            if filling {
                return;
            }
            match member.occasion {
                Occasion::Initial => {
                    let mut marker = BytesMut::new();
                    encode_end_of_rib(self.key.family, &mut marker);
                    octets.push(marker.freeze());
                    member.end_of_rib_sent = true;
                }
                Occasion::Refresh { marked: true } => {
                    octets.push(refresh_marker(&self.key, RefreshKind::End))
                }
                Occasion::Refresh { marked: false } => {}
            }
            if let Some(held) = member.held.take() {
                self.holders -= 1;
                self.unheld.extend(bits(&held));
            }
            member.sync = Sync::Live;
            if let Some(occasion) = member.again.take() {
                member.occasion = occasion;
                member.sync = Sync::Waiting;
            }
            return;
        }
        let from = *position;
        let to = (from + CHUNK_PREFIXES).min(list.nets.len());
        *position = to;
        let nets = list.nets.get(from..to).unwrap_or_default();
        if let Some(held) = &member.held {
            let (slot, router_id) = (member.slot, member.router_id);
            let mut items = Items::with_capacity(nets.len());
            for net in nets {
                let out = self.net(Unit(*net)).out;
                let told = self
                    .record(out)
                    .is_some_and(|record| !excludes(record, slot, router_id, input.store));
                if told {
                    items.push((out, *net));
                } else if bit(held, *net) {
                    items.push((NONE, *net));
                }
            }
            let chunk = self.encode(items, input);
            self.unsendable += chunk.1;
            if !chunk.0.octets.is_empty() {
                octets.push(chunk.0.octets);
            }
            return;
        }
        let known = self.walk_chunks.iter().find(|chunk| {
            chunk.from == from && std::ptr::eq(chunk.list.as_ptr(), Arc::as_ptr(list))
        });
        let chunk = match known {
            Some(known) => Arc::clone(&known.chunk),
            None => {
                let items = nets
                    .iter()
                    .map(|net| (self.net(Unit(*net)).out, *net))
                    .filter(|(out, _)| is_told(*out))
                    .collect();
                let (chunk, unsendable) = self.encode(items, input);
                self.unsendable += unsendable;
                let chunk = Arc::new(chunk);
                self.walk_chunks
                    .retain(|chunk| chunk.list.strong_count() > 0);
                if self.walk_chunks.len() >= WALK_CHUNKS {
                    self.walk_chunks.pop_front();
                }
                // Nobody else is on this walk: nothing to keep.
                if Arc::strong_count(list) > 1 {
                    self.walk_chunks.push_back(WalkChunk {
                        list: Arc::downgrade(list),
                        from,
                        chunk: Arc::clone(&chunk),
                    });
                }
                chunk
            }
        };
        chunk.cut_for(member.slot, member.router_id, octets);
    }

    fn follow(
        &mut self,
        member: &mut Member,
        input: &EncodeInput<'_>,
        octets: &mut SmallVec<[Bytes; 2]>,
    ) {
        let from = member.cursor;
        let next = self.chunks.partition_point(|chunk| chunk.from < from);
        if let Some(known) = self.chunks.get(next)
            && known.from == from
        {
            member.cursor = known.to;
            known.chunk.cut_for(member.slot, member.router_id, octets);
            return;
        }
        // Up to where a shared chunk begins, so that a peer that fell behind joins the others again.
        let limit = self
            .chunks
            .get(next)
            .map_or_else(|| self.head(), |chunk| chunk.from);
        let mut items = Items::new();
        let mut to = from;
        while to < limit && items.len() < CHUNK_PREFIXES {
            if let Some(entry) = self.entry(to) {
                let net = self.net(Unit(entry & !SOURCE_MAY_HOLD));
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "positions are compared by their low half"
                )]
                if net.position == to as u32 {
                    items.push((net.out, entry));
                }
            }
            to += 1;
        }
        member.cursor = to;
        if items.is_empty() {
            return;
        }
        let (chunk, unsendable) = self.encode(items, input);
        self.unsendable += unsendable;
        chunk.cut_for(member.slot, member.router_id, octets);
        let overlaps = next
            .checked_sub(1)
            .and_then(|before| self.chunks.get(before))
            .is_some_and(|before| before.to > from);
        // Whoever it is for was taken out: this asks for others.
        let others = self.members.iter().any(Option::is_some);
        if !overlaps && others {
            self.chunk_octets += chunk.octets.len();
            self.chunks.insert(
                next,
                JournalChunk {
                    from,
                    to,
                    chunk: Arc::new(chunk),
                },
            );
            while self.chunk_octets > CHUNKS_KEPT {
                self.drop_first_chunk();
            }
        }
    }

    pub(super) fn drop_first_chunk(&mut self) {
        if let Some(chunk) = self.chunks.pop_front() {
            self.chunk_octets -= chunk.chunk.octets.len();
        }
    }

    /// A chunk that tells of a net which has changed again serves nobody further.
    pub(super) fn spoil_chunk(&mut self, position: u64) {
        let at = self.chunks.partition_point(|chunk| chunk.to <= position);
        if self
            .chunks
            .get(at)
            .is_some_and(|chunk| chunk.from <= position)
            && let Some(chunk) = self.chunks.remove(at)
        {
            self.chunk_octets -= chunk.chunk.octets.len();
        }
    }

    /// Encodes pairs of what is told and entry, the latter with or without [`SOURCE_MAY_HOLD`]. Tells how many routes
    /// fit no message; those are withdrawn (RFC 4271 §9.2).
    fn encode(&mut self, mut items: Items, input: &EncodeInput<'_>) -> (Chunk, u64) {
        let path_ids = self.key.add_path.is_some();
        let nlri = |entry: u32| {
            let unit = Unit(entry & !SOURCE_MAY_HOLD);
            Nlri {
                prefix: (input.prefix_of)(unit),
                path_id: path_ids.then(|| unit.path_id()),
            }
        };
        // Withdrawals first: what they free the peer may need for the rest.
        items.sort_unstable_by_key(|(out, _)| (is_told(*out), *out));
        let mut octets = BytesMut::with_capacity(MESSAGE_LEN + items.len() * NLRI_LEN);
        let mut segments = SmallVec::new();
        let mut unsendable = 0;
        for run in items.chunk_by(|a, b| a.0 == b.0) {
            let Some((out, _)) = run.first() else {
                continue;
            };
            let entries = || run.iter().map(|(_, entry)| *entry);
            let context = self.key.context;
            let mut sent = false;
            if self.record(*out).is_some() {
                sent = self.announcer(*out, input).is_some_and(|announcer| {
                    let told = announcer.encode(entries().map(nlri), &context, &mut octets);
                    debug_assert!(told.is_ok(), "prefixes are of the group's family");
                    told.is_ok()
                });
                unsendable += if sent { 0 } else { run.len() as u64 };
            }
            if !sent {
                let family = self.key.family;
                let withdrawn =
                    encode_withdrawals(family, entries().map(nlri), &context, &mut octets);
                debug_assert!(withdrawn.is_ok(), "prefixes are of the group's family");
            }
            let (source, originator) = match self.record(*out).filter(|_| sent) {
                Some(record) => (record.source, store_originator(record, input.store)),
                None => (source_of_untold(*out), 0),
            };
            let mut held = entries()
                .filter(|entry| entry & SOURCE_MAY_HOLD != 0)
                .peekable();
            let instead = held
                .peek()
                .is_some()
                .then(|| self.instead(held.map(nlri), &context));
            segments.push(Segment {
                end: octets.len(),
                source,
                originator,
                instead,
            });
        }
        let chunk = Chunk {
            octets: octets.freeze(),
            segments,
        };
        (chunk, unsendable)
    }

    /// How what a record says is announced; nothing where it cannot be.
    fn announcer(&mut self, out: u32, input: &EncodeInput<'_>) -> Option<&Announcer> {
        let record = self.record(out)?;
        let source = input.facts.get(usize::from(record.source))?.told();
        let known = |latest: &Announced| latest.out == out && latest.source == source;
        if !self.latest.as_ref().is_some_and(known) {
            let announcer = self.new_announcer(record, input)?;
            self.latest = Some(Announced {
                out,
                source,
                announcer,
            });
        }
        self.latest.as_ref().map(|latest| &latest.announcer)
    }

    fn new_announcer(&self, record: &OutRecord, input: &EncodeInput<'_>) -> Option<Announcer> {
        let told = Told {
            attributes: record.attributes,
            source: record.source,
            long_lived: record.long_lived,
            actions: self
                .actions
                .get(record.actions as usize)
                .map_or(&[], |actions| &**actions),
        };
        let GroupKey {
            context, family, ..
        } = &self.key;
        let (mut attributes, next_hop) =
            export::rewrite(&self.key, &told, input.store, input.facts)?;
        let announcer = |attributes: &PathAttributes| {
            let block = attributes_block(attributes, context)?;
            Announcer::new(&block, next_hop, *family, context)
        };
        match announcer(&attributes) {
            Ok(announcer) => Some(announcer),
            // RFC 8654 §4: rather without what nobody decides by than not at all.
            Err(_) if attributes.drop_discardable() => announcer(&attributes).ok(),
            Err(_) => None,
        }
    }

    fn instead(&self, nlri: impl Iterator<Item = Nlri>, context: &CodecContext) -> Bytes {
        let mut octets = BytesMut::new();
        let withdrawn = encode_withdrawals(self.key.family, nlri, context, &mut octets);
        debug_assert!(withdrawn.is_ok(), "prefixes are of the group's family");
        octets.freeze()
    }
}

impl Chunk {
    /// The octets for a peer: all of them, but not routes it gave us itself.
    fn cut_for(&self, slot: Slot, router_id: u32, octets: &mut SmallVec<[Bytes; 2]>) {
        let mut from = 0;
        let mut start = 0;
        for segment in &self.segments {
            let own = segment.source == slot
                || segment.originator != 0 && segment.originator == router_id;
            if own {
                if start < from {
                    octets.push(self.octets.slice(start..from));
                }
                octets.extend(segment.instead.clone());
                start = segment.end;
            }
            from = segment.end;
        }
        if start < from {
            octets.push(self.octets.slice(start..from));
        }
    }
}

fn refresh_marker(key: &GroupKey, kind: RefreshKind) -> Bytes {
    let mut marker = BytesMut::new();
    let family = key.family;
    RouteRefresh { family, kind }.encode(&mut marker);
    marker.freeze()
}
