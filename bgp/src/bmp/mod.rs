//! BGP Monitoring Protocol (RFC 7854), with the Adj-RIB-Out of RFC 8671 and the Loc-RIB of RFC 9069: what is told to a collector, without a socket.
//!
//! [`message`] writes the messages; [`Monitor`] is what a speaker remembers of one collector that is connected. The collector
//! is told the state of the world by a walk over the tables, in slices, and changes as they come. What is pending is a set of
//! *names* of routes, not a list of events: a prefix that flaps faster than the collector reads is told once, as it is when
//! its turn comes. Every message therefore says what held when it was written, and the order of names does not matter. A
//! collector that falls behind by more than [`PENDING_MAX`] names, or whose queue of session news exceeds
//! [`QUEUE_MAX`], is dropped and begins anew; nobody waits for it.
//!
//! ```text
//!   tables: announce, withdraw ─► changed names ─┐
//!   walk over the tables, while few pend ────────┴─► pending ─► look up what holds now ─► Route Monitoring
//!   sessions up and down, statistics ──────────────► queue ──────────────────────────────► sent first
//!   groups of peers that are told the same ────────► mirrors ────────────────────────────► Route Monitoring, as it was told
//! ```

pub mod message;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Bound;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::family::Family;
use crate::prefix::{Ipv4Prefix, Prefix};
use crate::rib::Slot;
use crate::rib::adj_rib_out::MemberId;

/// The port collectors usually listen on; none is assigned.
pub const BMP_PORT: u16 = 11019;
/// Names that may pend for one collector: some 8 MiB.
pub(crate) const PENDING_MAX: usize = if cfg!(test) { 4096 } else { 128 * 1024 };
/// The walk goes on while the names of fewer routes pend, so that changes are not stuck behind a whole table.
const PENDING_LOW: usize = 2048;
/// Octets of session news and statistics that may wait.
pub(crate) const QUEUE_MAX: usize = 4 * 1024 * 1024;
/// Names looked up for one chunk.
pub(crate) const BATCH: usize = 512;
/// Every prefix orders behind this one.
const FIRST_PREFIX: Prefix = Prefix::V4(Ipv4Prefix::DEFAULT);
/// The place of the Loc-RIB among the peers: the slot of nobody.
pub(crate) const LOC_RIB: Slot = Slot::MAX;

/// A collector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Collector {
    /// Where it listens.
    pub address: SocketAddr,
    /// Tell what peers announced, before import policy.
    pub pre_policy: bool,
    /// Tell what import policy made of it.
    pub post_policy: bool,
    /// Tell the best routes (RFC 9069).
    pub loc_rib: bool,
    /// Tell what peers are told, as export policy made it and as it is sent (RFC 8671).
    pub adj_rib_out: bool,
    /// How often statistics are sent; never where absent.
    pub statistics: Option<Duration>,
}

impl Collector {
    /// A collector that is told the tables before policy and the best routes, and statistics every minute.
    #[must_use]
    pub const fn new(address: SocketAddr) -> Self {
        Self {
            address,
            pre_policy: true,
            post_policy: false,
            loc_rib: true,
            adj_rib_out: false,
            statistics: Some(Duration::from_secs(60)),
        }
    }
}

/// A collector that is connected at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonitorId(pub(crate) u64);

/// What a collector is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MonitorOutput {
    /// These octets.
    Octets(Bytes),
    /// Nothing at present.
    Idle,
    /// It is too far behind: close the connection, and let it begin anew.
    Overflow,
}

/// The name of something a collector is to be told: of one peer first its routes, then that they were all told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entry {
    Route(Prefix, Option<u32>),
    EndOfRib(Family),
}

impl Entry {
    const fn is_end(&self) -> bool {
        matches!(self, Self::EndOfRib(_))
    }
}

/// Where the walk over the tables is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Walk {
    /// At this prefix of this family.
    At(Family, u32),
    Done,
}

/// Reads what one peer is told of one family, in the group that peer is in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mirror {
    pub(crate) group: usize,
    pub(crate) member: MemberId,
}

/// One connected collector.
#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) id: MonitorId,
    pub(crate) collector: Collector,
    /// A moment on both clocks.
    epoch: (Instant, Duration),
    queue: VecDeque<Bytes>,
    queued: usize,
    pending: BTreeSet<(Slot, Entry)>,
    /// How many of these wait for the end of the walk.
    ends: usize,
    /// Names are taken in turns, so that the first ones cannot keep the last ones waiting.
    cursor: Option<(Slot, Entry)>,
    pub(crate) walk: Walk,
    /// The walk is about the Loc-RIB alone: peers were told of by an earlier one.
    pub(crate) walks_loc_rib_only: bool,
    /// One a session and family, where the collector is told what peers are told.
    pub(crate) mirrors: BTreeMap<(Family, Slot), Mirror>,
    /// Which of them was read last.
    pub(crate) mirror_turn: Option<(Family, Slot)>,
    /// Some were read since what everybody was told was forgotten last.
    pub(crate) mirrors_read: bool,
    pub(crate) next_statistics: Option<Instant>,
    overflown: bool,
}

impl Monitor {
    pub(crate) fn new(id: MonitorId, collector: &Collector, wall: Duration, now: Instant) -> Self {
        Self {
            id,
            epoch: (now, wall),
            queue: VecDeque::new(),
            queued: 0,
            pending: BTreeSet::new(),
            ends: 0,
            cursor: None,
            walk: Walk::At(Family::IPV4_UNICAST, 0),
            walks_loc_rib_only: false,
            mirrors: BTreeMap::new(),
            mirror_turn: None,
            mirrors_read: false,
            next_statistics: collector.statistics.map(|interval| now + interval),
            overflown: false,
            collector: collector.clone(),
        }
    }

    /// The time since 1970.
    pub(crate) fn wall(&self, now: Instant) -> Duration {
        let (instant, wall) = self.epoch;
        wall + now.saturating_duration_since(instant)
    }

    /// Queues a message of a session or statistics.
    pub(crate) fn say(&mut self, octets: Bytes) {
        if self.queued + octets.len() > QUEUE_MAX {
            self.overflow();
            return;
        }
        self.queued += octets.len();
        self.queue.push_back(octets);
    }

    pub(crate) fn next_said(&mut self) -> Option<Bytes> {
        let octets = self.queue.pop_front()?;
        self.queued -= octets.len();
        Some(octets)
    }

    /// Notes something to be told.
    pub(crate) fn note(&mut self, slot: Slot, entry: Entry) {
        if self.overflown {
            return;
        }
        if self.pending.insert((slot, entry)) && entry.is_end() {
            self.ends += 1;
        }
        if self.pending.len() > PENDING_MAX {
            self.overflow();
        }
    }

    /// What was to be told of a peer is void: its session is gone.
    pub(crate) fn forget(&mut self, slot: Slot) {
        let first = (slot, Entry::Route(FIRST_PREFIX, None));
        while let Some(entry) = self
            .pending
            .range(first..)
            .next()
            .copied()
            .filter(|(of, _)| *of == slot)
        {
            self.remove(&entry);
        }
    }

    /// The Loc-RIB is to be told anew, under another header.
    pub(crate) fn renew_loc_rib(&mut self) {
        self.forget(LOC_RIB);
        self.walks_loc_rib_only |= self.walk == Walk::Done;
        self.walk = Walk::At(Family::IPV4_UNICAST, 0);
    }

    fn remove(&mut self, name: &(Slot, Entry)) {
        if self.pending.remove(name) && name.1.is_end() {
            self.ends -= 1;
        }
    }

    fn overflow(&mut self) {
        self.overflown = true;
        self.pending.clear();
        self.ends = 0;
        self.queue.clear();
        self.queued = 0;
    }

    pub(crate) const fn is_overflown(&self) -> bool {
        self.overflown
    }

    #[cfg(test)]
    fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Whether the walk goes on. Ends of tables that pend wait for it themselves, however many, and must not hold it up.
    pub(crate) fn may_walk(&self) -> bool {
        self.walk != Walk::Done && self.pending.len() - self.ends < PENDING_LOW
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.pending.is_empty() && self.walk == Walk::Done
    }

    /// The next names of one peer. That its routes were all told is among them only once none of them pends.
    pub(crate) fn take_batch(&mut self) -> Option<(Slot, Vec<Entry>)> {
        let from = self.cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self
            .pending
            .range((from, Bound::Unbounded))
            .next()
            .or_else(|| self.pending.iter().next())
            .copied();
        let (slot, first) = next?;
        let entries: Vec<Entry> = self
            .pending
            .range((slot, first)..)
            .take(BATCH)
            .take_while(|(of, _)| *of == slot)
            .map(|(_, entry)| *entry)
            .collect();
        let mut taken = Vec::with_capacity(entries.len());
        for entry in entries {
            self.cursor = Some((slot, entry));
            if matches!(entry, Entry::EndOfRib(_))
                && (self.walk != Walk::Done || self.has_routes(slot))
            {
                continue;
            }
            self.remove(&(slot, entry));
            taken.push(entry);
        }
        Some((slot, taken))
    }

    fn has_routes(&self, slot: Slot) -> bool {
        let first = (slot, Entry::Route(FIRST_PREFIX, None));
        let last = (slot, Entry::EndOfRib(Family::IPV4_UNICAST));
        self.pending.range(first..last).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitor() -> Monitor {
        let collector = Collector::new("127.0.0.1:11019".parse().unwrap());
        let mut monitor = Monitor::new(MonitorId(1), &collector, Duration::ZERO, Instant::now());
        monitor.walk = Walk::Done;
        monitor
    }

    fn route(text: &str) -> Entry {
        Entry::Route(text.parse().unwrap(), None)
    }

    #[test]
    fn a_route_that_changes_all_the_time_pends_once_and_keeps_nobody_waiting() {
        let mut monitor = monitor();
        for _ in 0..PENDING_MAX * 2 {
            monitor.note(1, route("10.0.0.0/24"));
        }
        assert_eq!(monitor.pending(), 1);
        monitor.note(2, route("10.0.1.0/24"));
        let mut seen = BTreeSet::new();
        for _ in 0..4 {
            let (slot, entries) = monitor.take_batch().expect("something pends");
            assert_eq!(entries.len(), 1);
            seen.insert(slot);
            monitor.note(1, route("10.0.0.0/24"));
        }
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn that_all_was_told_is_said_after_the_last_route() {
        let mut monitor = monitor();
        monitor.note(1, Entry::EndOfRib(Family::IPV4_UNICAST));
        let routes = (0..BATCH + 7).map(|at| {
            let at = u32::try_from(at).unwrap();
            Prefix::host(std::net::Ipv4Addr::from(0x0a00_0000 + at).into())
        });
        routes.for_each(|prefix| monitor.note(1, Entry::Route(prefix, None)));
        let mut order = Vec::new();
        while let Some((_, entries)) = monitor.take_batch() {
            order.extend(entries);
        }
        assert_eq!(order.len(), BATCH + 8);
        assert_eq!(order.last(), Some(&Entry::EndOfRib(Family::IPV4_UNICAST)));
    }

    #[test]
    fn peers_that_told_everything_do_not_hold_up_the_walk() {
        let mut monitor = monitor();
        monitor.walk = Walk::At(Family::IPV4_UNICAST, 0);
        let ends = || {
            (0..Slot::try_from(PENDING_LOW / 2).unwrap())
                .flat_map(|slot| Family::ALL.map(|family| (slot, Entry::EndOfRib(family))))
        };
        for _ in 0..2 {
            ends().for_each(|(slot, entry)| monitor.note(slot, entry));
        }
        assert_eq!(monitor.pending(), PENDING_LOW);
        let (_, taken) = monitor.take_batch().expect("something pends");
        assert!(taken.is_empty(), "they wait for the walk");
        assert!(monitor.may_walk(), "and the walk does not wait for them");
        monitor.walk = Walk::Done;
        let mut told = 0;
        while let Some((_, taken)) = monitor.take_batch() {
            told += taken.len();
        }
        assert_eq!((told, monitor.ends), (PENDING_LOW, 0));
    }

    #[test]
    fn a_collector_that_does_not_read_costs_so_much_and_no_more() {
        let mut monitor = monitor();
        for at in 0..=u32::try_from(PENDING_MAX).unwrap() {
            let prefix = Prefix::host(std::net::Ipv4Addr::from(at).into());
            monitor.note(1, Entry::Route(prefix, None));
        }
        assert!(monitor.is_overflown());
        assert_eq!(monitor.pending(), 0);
        monitor.note(1, route("10.0.0.0/24"));
        assert_eq!(monitor.pending(), 0);
    }
}
