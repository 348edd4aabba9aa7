//! Every peer and table behind one face, without a socket and without a clock.
//!
//! Whoever owns the sockets tells what happened (`handle_*`), lets the speaker work ([`Speaker::work`]) and does what it asks
//! ([`Speaker::poll_output`]), then sleeps until [`Speaker::poll_timeout`]:
//!
//! ```text
//!   handle_message ─► fsm::Peer ─► import ─► tables ┄┄ dirty prefixes ┄┄► work ─► decision ─► groups ─► poll_output
//!   handle_written ───────────────────────────────────────────── room ───► work ─► pull ────────────────┘
//!   handle_timeout ─► fsm::Peer, retention of routes                       work ─► changes ─► poll_table_event
//! ```
//!
//! `handle_*` is short: it files what came and marks what has to be looked at. All that grows with tables happens in
//! `work`, by slices, so that no peer waits long for a keepalive and a driver may look after its sockets in between.
//!
//! Octets for peers are made when there is room for them: a peer has at most [`WINDOW`] octets under way, is asked for
//! more when [`Speaker::handle_written`] says they went out, and a change leaves at once where nothing is queued. Changes for
//! whoever forwards are fetched the same way. Both therefore cost memory by prefix, never by event.
//!
//! `neighbour.rs` holds one peer, `calls.rs` says whose an accepted connection is, `ranges.rs` counts those that nobody configured by
//! address, `requests.rs` does what a peer's machine asks for,
//! `liveness.rs` what BFD says of the path to it, `session.rs` what its sessions do to the tables, `configure.rs` changes of
//! configuration, `handover.rs` sessions that go on as those of another configured peer and `keepers.rs` who was here before, `tell.rs` the way
//! out to peers, `monitoring.rs` what collectors are told and `mirrors.rs` what of that peers were, `inspect.rs` what can be asked,
//! `operate.rs` what operators do, `deferral.rs` a restart of ours.

mod calls;
pub mod config;
mod configure;
mod deferral;
pub mod errors;
pub mod events;
mod groups;
mod handover;
mod inspect;
mod keepers;
mod liveness;
mod mirrors;
mod monitoring;
mod neighbour;
mod operate;
mod ranges;
mod requests;
mod session;
pub mod snapshot;
mod tell;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

pub use self::inspect::RouteDump;
use self::keepers::Keepers;
use self::neighbour::Neighbour;
use self::ranges::Ranges;
use crate::bfd::SessionConfig;
use crate::bmp::Monitor;
use crate::codec::error::DecodeError;
use crate::codec::{CodecContext, Message, Update};
use crate::decision::Options;
use crate::family::Family;
use crate::fsm::{Direction, Event, LocalIdentity, PeerWarning, State};
use crate::graceful_restart::Deferral;
use crate::prefix::{Ipv4Prefix, Ipv6Prefix, Prefix};
use crate::rib::adj_rib_out::MemberId;
use crate::rib::attribute_store::AttributeStore;
use crate::rib::import::OwnAddress;
use crate::rib::{
    FamilyRib, LOCAL, News, NextHopInterest, NextHopState, PeerFacts, RouteChange, Slot, View,
};
use crate::router_id::RouterId;
use config::{PeerConfig, SpeakerConfig};
use errors::{ErrorLog, ErrorTotals, Offence};
use events::{EventLog, PeerEvent};
use snapshot::Totals;

/// A neighbour the speaker knows at present. An id is not used again for another neighbour while events for the old one
/// may still be on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub(crate) u32);

/// What the speaker asks of its surroundings.
#[derive(Debug)]
pub enum Output {
    /// Dial the neighbour; answered by [`Speaker::handle_connected`] or [`Speaker::handle_connect_failed`].
    Connect {
        /// Whom.
        peer: PeerId,
        /// Where.
        remote: SocketAddr,
        /// Source address, password, TTL and all else the socket needs.
        config: Arc<PeerConfig>,
    },
    /// Write these octets in this order, and report them with [`Speaker::handle_written`] once the kernel took them.
    Send {
        /// To whom.
        peer: PeerId,
        /// On which connection.
        direction: Direction,
        /// Whole messages; the same buffers may be queued for other peers as well.
        chunks: Vec<Bytes>,
    },
    /// Close a connection, or give up dialling it. Nothing more is to be reported of it.
    Close {
        /// Whose.
        peer: PeerId,
        /// Which.
        direction: Direction,
        /// Write out what is queued and let the peer read it before the socket goes.
        linger: bool,
    },
    /// How messages are read from here on; a connection waits for this after it passed up an OPEN.
    UseContext {
        /// Whose.
        peer: PeerId,
        /// Which connection.
        direction: Direction,
        /// How to decode.
        context: CodecContext,
        /// Send a KEEPALIVE so often, the first one an interval from now; none where absent.
        keepalive_interval: Option<Duration>,
    },
    /// The configuration of a neighbour with a connection changed in what concerns its socket (its password, say).
    Reconfigured {
        /// Whose.
        peer: PeerId,
        /// What holds now.
        config: Arc<PeerConfig>,
    },
    /// Watch the path to the neighbour (RFC 5880) as said here from now on, or no more; answered by [`Speaker::handle_bfd`].
    Watch {
        /// Whose.
        peer: PeerId,
        /// How; nothing where it is to end.
        path: Option<SessionConfig>,
    },
    /// Something about a neighbour is not as it should be, and an operator should know.
    PeerWarning {
        /// Which.
        peer: PeerId,
        /// Its name.
        name: Arc<str>,
        /// What.
        warning: PeerWarning,
    },
    /// The state people see changed.
    PeerStateChanged {
        /// Whose.
        peer: PeerId,
        /// Its name.
        name: Arc<str>,
        /// Before.
        from: State,
        /// Now.
        to: State,
    },
    /// The neighbour is no longer known; forget what is kept for it.
    PeerRemoved {
        /// Which.
        peer: PeerId,
    },
}

/// News of the tables for whoever forwards packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableEvent {
    /// These prefixes are routed differently now. Each is the latest state of its prefix.
    Changes(Vec<RouteChange>),
    /// The table is complete for the first time: what a kernel holds of an earlier life and was not among the changes
    /// may be removed. Comes once per family; at once for a speaker that was not [restarting](SpeakerConfig::restarting).
    Complete(Family),
}

/// What an operator may ask for one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Clear {
    /// End the session and start it anew.
    Hard,
    /// Evaluate the import policy anew, on what the peer announced, and ask the peer to announce it again.
    SoftIn,
    /// Tell the peer everything anew.
    SoftOut,
}

/// How the whole speaker stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpeakerShutdown {
    /// Say nothing, so that peers keep forwarding to us while we restart (RFC 4724 §4).
    KeepForwarding,
    /// Say Cease, with a text for the operators there; peers drop our routes.
    Cease {
        /// Read by people (RFC 9003).
        text: Option<String>,
    },
}

/// Most octets handed to a connection and not written yet, give or take one chunk. Tests have little to tell and want peers
/// to fall behind.
pub const WINDOW: usize = if cfg!(test) { 1024 } else { 64 * 1024 };
/// With less than this under way, a peer is given more.
const LOW_WATER: usize = WINDOW / 2;
/// Slots are sixteen bits, and the last one means nobody.
const MAX_SLOTS: usize = Slot::MAX as usize;

/// What becomes of an accepted connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It belongs to this peer. Drain [`Speaker::poll_output`], which may ask to close an earlier connection, then say
    /// [`Speaker::handle_connected`] with this direction, an incoming one.
    Peer(PeerId, Direction),
    /// Write these octets, if any, and close it.
    Refused(Option<Bytes>),
}

/// Every peer and table of one BGP speaker.
#[derive(Debug)]
pub struct Speaker {
    config: SpeakerConfig,
    seed: u64,
    neighbours: Vec<Option<Box<Neighbour>>>,
    /// How often each slot was given out.
    generations: Vec<u16>,
    /// Configured and dynamic neighbours that are not leaving.
    names: BTreeMap<Arc<str>, Slot>,
    addresses: BTreeMap<IpAddr, SmallVec<[Slot; 1]>>,
    ranges: Ranges,
    tables: Tables,
    originated: BTreeMap<Prefix, config::Originate>,
    /// Next hops that routes of ours have.
    named_next_hops: BTreeSet<IpAddr>,
    own_addresses: BTreeSet<OwnAddress>,
    cluster_ids: BTreeSet<RouterId>,
    deferral: Deferral<Slot>,
    /// Selection is or was deferred, and OPENs still say so.
    restarting: bool,
    stopped: bool,
    reporting: bool,
    outputs: VecDeque<Output>,
    timers: BTreeSet<(Instant, Slot)>,
    /// Connections whose UPDATEs were taken in while their neighbours' machines do not know yet.
    heard: Vec<(PeerId, Direction, Instant)>,
    /// Peers to be given octets.
    ready: VecDeque<Slot>,
    /// Slots of peers that left, until nothing refers to them.
    retired: Vec<Slot>,
    /// Slots that may be given out again.
    free_slots: BTreeSet<Slot>,
    events: EventLog,
    errors: ErrorTotals,
    keepers: Keepers,
    /// What peers that left did, and what is counted for all at once.
    departed: Totals,
    /// Collectors that are connected.
    monitors: Vec<Monitor>,
    last_monitor: u64,
    /// The table `poll_table_event` asks first; they take turns.
    ipv6_first: bool,
}

/// What all tables share, and the tables.
#[derive(Debug)]
struct Tables {
    store: AttributeStore,
    facts: Vec<PeerFacts>,
    ipv4: FamilyRib<Ipv4Prefix>,
    ipv6: FamilyRib<Ipv6Prefix>,
}

/// Runs an expression with the rib of one family.
macro_rules! with_rib {
    ($tables:expr, $family:expr, |$rib:ident| $body:expr) => {
        if $family == crate::family::Family::IPV6_UNICAST {
            let $rib = &mut $tables.ipv6;
            $body
        } else {
            let $rib = &mut $tables.ipv4;
            $body
        }
    };
}
/// The same, for reading.
macro_rules! with_rib_ref {
    ($tables:expr, $family:expr, |$rib:ident| $body:expr) => {
        if $family == crate::family::Family::IPV6_UNICAST {
            let $rib = &$tables.ipv6;
            $body
        } else {
            let $rib = &$tables.ipv4;
            $body
        }
    };
}
use {with_rib, with_rib_ref};

impl Tables {
    /// The next octets for a member of one of a family's groups: see [`FamilyRib::pull`].
    fn pull(
        &mut self,
        family: Family,
        group: usize,
        member: MemberId,
        options: Options,
    ) -> (SmallVec<[Bytes; 2]>, u64, bool) {
        let (store, facts) = (&self.store, &self.facts);
        let view = View { facts, options };
        with_rib!(self, family, |rib| rib.pull(group, member, store, &view))
    }
}

impl PeerId {
    const fn new(slot: Slot, generation: u16) -> Self {
        Self((generation as u32) << 16 | slot as u32)
    }

    const fn slot(self) -> Slot {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the lower half is the slot"
        )]
        let slot = self.0 as Slot;
        slot
    }
}

impl Speaker {
    /// A speaker that starts every enabled peer. `seed` feeds jitter and hashing.
    #[must_use]
    pub fn new(config: SpeakerConfig, seed: u64, now: Instant) -> Self {
        let restarting = config.restarting;
        let mut empty = SpeakerConfig::new(config.asn, config.router_id);
        empty.families.clone_from(&config.families);
        let local = PeerFacts {
            name: Arc::from(""),
            address: None,
            router_id: config.router_id.get(),
            external: false,
            asn: config.asn,
            client: false,
            cluster_id: config.router_id,
            interface: None,
            revision: 0,
        };
        let mut speaker = Self {
            seed,
            neighbours: vec![None],
            generations: vec![0],
            names: BTreeMap::new(),
            addresses: BTreeMap::new(),
            ranges: Ranges::default(),
            tables: Tables {
                store: AttributeStore::new(seed ^ 0x5eed_a77e),
                facts: vec![local],
                ipv4: FamilyRib::new(seed ^ 0x5eed_0004, restarting),
                ipv6: FamilyRib::new(seed ^ 0x5eed_0006, restarting),
            },
            originated: BTreeMap::new(),
            named_next_hops: BTreeSet::new(),
            own_addresses: BTreeSet::new(),
            cluster_ids: BTreeSet::new(),
            deferral: if restarting {
                Deferral::until(now + config.selection_deferral)
            } else {
                Deferral::none()
            },
            restarting,
            stopped: false,
            reporting: true,
            outputs: VecDeque::new(),
            timers: BTreeSet::new(),
            heard: Vec::new(),
            ready: VecDeque::new(),
            retired: Vec::new(),
            free_slots: BTreeSet::new(),
            events: EventLog::default(),
            monitors: Vec::new(),
            last_monitor: 0,
            errors: ErrorTotals::default(),
            keepers: Keepers::default(),
            departed: Totals::default(),
            ipv6_first: false,
            config: empty,
        };
        let hops = speaker.tables.store.next_hops_mut();
        hops.set_seed(seed ^ 0x5eed_0179);
        speaker.configure(config, now);
        if restarting {
            speaker.await_neighbours(now);
        }
        speaker
    }

    /// Whether changes of best routes are kept for [`Speaker::poll_table_event`]. They are, unless told otherwise: a pure
    /// reflector saves the work.
    pub const fn report_routes(&mut self, reporting: bool) {
        self.reporting = reporting;
    }

    /// What the speaker was told to be.
    #[must_use]
    pub const fn config(&self) -> &SpeakerConfig {
        &self.config
    }

    fn identity(&self) -> LocalIdentity {
        LocalIdentity {
            asn: self.config.asn,
            router_id: self.config.router_id,
            restarting: self.restarting,
            forwarding_preserved: self.config.restarting,
        }
    }

    fn neighbour(&self, slot: Slot) -> Option<&Neighbour> {
        self.neighbours.get(usize::from(slot))?.as_deref()
    }

    fn neighbour_mut(&mut self, slot: Slot) -> Option<&mut Neighbour> {
        self.neighbours.get_mut(usize::from(slot))?.as_deref_mut()
    }

    /// The slot of a peer that is still the one meant.
    fn known(&self, peer: PeerId) -> Option<Slot> {
        self.neighbour(peer.slot())
            .filter(|neighbour| neighbour.id == peer)
            .map(|_| peer.slot())
    }

    fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        let used: Vec<Slot> = (0..)
            .zip(&self.neighbours)
            .filter_map(|(slot, neighbour): (Slot, _)| neighbour.is_some().then_some(slot))
            .collect();
        used.into_iter()
    }

    // ---- what happens ---------------------------------------------------------------------------------------------

    /// The configuration of a neighbour that is known.
    #[must_use]
    pub fn peer_config(&self, peer: PeerId) -> Option<&Arc<PeerConfig>> {
        let slot = self.known(peer)?;
        self.neighbour(slot).map(|neighbour| &neighbour.config)
    }

    /// The neighbour of this name.
    #[must_use]
    pub fn peer_named(&self, name: &str) -> Option<PeerId> {
        let slot = self.names.get(name)?;
        self.neighbour(*slot).map(|neighbour| neighbour.id)
    }

    /// Notes why no TCP connection to the peer comes about, for people; forgotten with the next connection.
    pub fn note_trouble(&mut self, peer: PeerId, trouble: &str) {
        if let Some(neighbour) = self.known(peer).and_then(|slot| self.neighbour_mut(slot))
            && neighbour.session.is_none()
        {
            neighbour.trouble = Some(Arc::from(trouble));
        }
    }

    fn event(&mut self, peer: PeerId, event: Event, now: Instant) {
        self.settle();
        let Some(slot) = self.known(peer) else {
            return;
        };
        if let Some(neighbour) = self.neighbour_mut(slot) {
            neighbour.fsm.handle_event(now, event);
        }
        self.drain(slot, now);
    }

    /// A TCP connection stands.
    pub fn handle_connected(
        &mut self,
        peer: PeerId,
        direction: Direction,
        local: SocketAddr,
        remote: SocketAddr,
        now: Instant,
    ) {
        if let Some(neighbour) = self.known(peer).and_then(|slot| self.neighbour_mut(slot)) {
            neighbour.set_open(direction, true);
            neighbour.warnings.remove(&PeerWarning::NobodyCalls);
            // What goes wrong from here on, the session's machine says.
            neighbour.trouble = None;
        }
        let event = Event::ConnectionUp {
            direction,
            local,
            remote,
        };
        self.event(peer, event, now);
    }

    /// Dialling failed.
    pub fn handle_connect_failed(&mut self, peer: PeerId, now: Instant) {
        let direction = Direction::Outgoing;
        self.event(peer, Event::ConnectionFailed { direction }, now);
    }

    /// A connection ended, by FIN, RST or an error of the socket.
    pub fn handle_closed(&mut self, peer: PeerId, direction: Direction, now: Instant) {
        if let Some(neighbour) = self.known(peer).and_then(|slot| self.neighbour_mut(slot)) {
            neighbour.set_open(direction, false);
        }
        self.event(peer, Event::ConnectionClosed { direction }, now);
    }

    /// A well-formed message came.
    pub fn handle_message(
        &mut self,
        peer: PeerId,
        direction: Direction,
        message: Message,
        now: Instant,
    ) {
        if let Message::Open(open) = &message
            && let Some(neighbour) = self.known(peer).and_then(|slot| self.neighbour_mut(slot))
            && neighbour.opens_mut(direction).1.is_empty()
        {
            // Nobody said how it came ([`Speaker::handle_open_octets`]): the same in our own words.
            let mut octets = BytesMut::new();
            if open.encode(&mut octets).is_ok() {
                neighbour.opens_mut(direction).1 = octets.freeze();
            }
        }
        if let Some(slot) = self.known(peer).filter(|slot| self.is_up(*slot, direction))
            && let Message::Update(update) = message
        {
            return self.take_update(slot, peer, direction, update, now);
        }
        self.event(peer, Event::Message { direction, message }, now);
    }

    /// The short way of a session's UPDATE: it changes nothing of the neighbour's machine but the hold timer, and that can wait
    /// until others were told of the routes.
    fn take_update(
        &mut self,
        slot: Slot,
        peer: PeerId,
        direction: Direction,
        update: Update,
        now: Instant,
    ) {
        self.import(slot, update, now);
        match self.heard.last_mut() {
            Some((latest, way, at)) if (*latest, *way) == (peer, direction) => *at = now,
            _ => self.heard.push((peer, direction, now)),
        }
        let asking = |neighbour: &Neighbour| neighbour.fsm.is_asking();
        if self.neighbour(slot).is_some_and(asking) {
            self.settle();
        }
    }

    /// Whether this connection is the neighbour's session.
    fn is_up(&self, slot: Slot, direction: Direction) -> bool {
        self.neighbour(slot)
            .is_some_and(|neighbour| neighbour.fsm.is_session(direction))
    }

    /// Does what was put off in [`Self::take_update`]. To be called before a neighbour's machine or its timers are asked anything.
    fn settle(&mut self) {
        // In their order: the latest hearing counts.
        let mut heard = std::mem::take(&mut self.heard);
        for (peer, direction, at) in heard.drain(..) {
            if let Some(slot) = self.known(peer) {
                if let Some(neighbour) = self.neighbour_mut(slot) {
                    neighbour.fsm.restart_hold(at, direction);
                }
                self.drain(slot, at);
            }
        }
        self.heard = heard;
    }

    /// An OPEN came in these octets, and is about to be handed over: whoever monitors the session is shown it as it came.
    pub fn handle_open_octets(&mut self, peer: PeerId, direction: Direction, octets: Bytes) {
        if let Some(neighbour) = self.known(peer).and_then(|slot| self.neighbour_mut(slot)) {
            neighbour.opens_mut(direction).1 = octets;
        }
    }

    /// Octets came that are no message.
    pub fn handle_malformed(
        &mut self,
        peer: PeerId,
        direction: Direction,
        error: DecodeError,
        now: Instant,
    ) {
        self.handle_offence(peer, direction, error, &[], now);
    }

    /// These octets came, and are no message.
    pub fn handle_offence(
        &mut self,
        peer: PeerId,
        direction: Direction,
        error: DecodeError,
        octets: &[u8],
        now: Instant,
    ) {
        if let Some(slot) = self.known(peer) {
            self.book_fatal(slot, &error, octets, now);
        }
        self.event(peer, Event::Malformed { direction, error }, now);
    }

    /// The peer was heard but what it said is not handed over yet.
    pub fn handle_heard(&mut self, peer: PeerId, direction: Direction, now: Instant) {
        self.event(peer, Event::Heard { direction }, now);
    }

    /// The kernel took `octets` of what [`Output::Send`] asked to write. More follows once little is left. Zero where it took
    /// a KEEPALIVE of the connection's own: the peer reads, which is what the send hold timer wants to know (RFC 9687).
    pub fn handle_written(
        &mut self,
        peer: PeerId,
        direction: Direction,
        octets: usize,
        now: Instant,
    ) {
        let Some(slot) = self.known(peer) else {
            return;
        };
        if let Some(neighbour) = self.neighbour_mut(slot) {
            let queued = neighbour.queued_mut(direction);
            let before = *queued;
            *queued = queued.saturating_sub(octets);
            // With less than that under way it is told whatever there is: only from above something may be held back.
            if before >= LOW_WATER && *queued < LOW_WATER {
                self.make_ready(slot);
            }
        }
        self.event(peer, Event::BytesAccepted { direction }, now);
    }

    /// Whoever forwards says how next hops are reached: in answer to [`Speaker::poll_next_hop`], and whenever it changed since.
    /// Only prefixes with a path by one of them are decided anew.
    pub fn handle_next_hops(&mut self, states: &[NextHopState]) {
        let hops = self.tables.store.next_hops_mut();
        let mut moved = false;
        for state in states {
            moved |= hops.take(state);
        }
        if moved {
            self.tables.ipv4.table.begin_sweep();
            self.tables.ipv6.table.begin_sweep();
        }
    }

    /// The next question about a next hop, or that one is not of interest any more; none unless next hops are
    /// [tracked](SpeakerConfig::next_hop_tracking). Until it is answered with [`Speaker::handle_next_hops`], a next hop counts as
    /// out of reach, and the tables of a restarting speaker are complete only 10 s after the deferral ended.
    pub fn poll_next_hop(&mut self) -> Option<NextHopInterest> {
        self.tables.store.next_hops_mut().poll()
    }

    /// Deadlines that passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.settle();
        while let Some((deadline, slot)) = self.timers.first().copied() {
            if deadline > now {
                break;
            }
            self.timers.pop_first();
            let Some(neighbour) = self.neighbour_mut(slot) else {
                continue;
            };
            neighbour.deadline = None;
            neighbour.fsm.handle_timeout(now);
            self.expire_retention(slot, now);
            self.drain(slot, now);
        }
        self.deferral.expire(now);
        self.end_deferral_where_complete(now);
        self.tables.ipv4.expire_answers(now);
        self.tables.ipv6.expire_answers(now);
        self.tell_statistics(now);
    }

    /// When to call [`Speaker::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let neighbours = self.timers.first().map(|(deadline, _)| *deadline);
        neighbours
            .into_iter()
            .chain(self.deferral.deadline())
            .chain(self.tables.ipv4.answers_due())
            .chain(self.tables.ipv6.answers_due())
            .chain(self.statistics_due())
            .min()
    }

    // ---- what is done ---------------------------------------------------------------------------------------------

    /// The next thing to do; call until there is none, after every `handle_*` and [`Speaker::work`].
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// News for whoever forwards, at most `maximum` changes. Ask only when they can be taken: until then changes of one
    /// prefix are joined.
    pub fn poll_table_event(&mut self, maximum: usize) -> Option<TableEvent> {
        let weighted = self.config.weighted_multipath;
        let Tables {
            store,
            facts,
            ipv4,
            ipv6,
        } = &mut self.tables;
        let order = if self.ipv6_first {
            [Family::IPV6_UNICAST, Family::IPV4_UNICAST]
        } else {
            [Family::IPV4_UNICAST, Family::IPV6_UNICAST]
        };
        for family in order {
            let news = if family == Family::IPV6_UNICAST {
                ipv6.poll_news(maximum, weighted, store, facts)
            } else {
                ipv4.poll_news(maximum, weighted, store, facts)
            };
            let Some(news) = news else {
                continue;
            };
            self.ipv6_first = family == Family::IPV4_UNICAST;
            return Some(match news {
                News::Changes(changes) => TableEvent::Changes(changes),
                News::Complete => TableEvent::Complete(family),
            });
        }
        None
    }

    /// Works on what the events left to do: about `budget` prefixes are decided, and as many paths looked at. True while
    /// more is left; look after sockets in between. Both halves of it: [`Self::advance`] and [`Self::tidy`].
    pub fn work(&mut self, budget: usize, now: Instant) -> bool {
        let busy = self.advance(budget, now);
        self.tidy();
        busy
    }

    /// The half that peers wait for: what it makes for them may be sent before the other half is done.
    pub fn advance(&mut self, budget: usize, now: Instant) -> bool {
        let mut left = budget.max(1);
        let walking = self.walk(&mut left, now);
        self.tables.ipv4.await_answers(now);
        self.tables.ipv6.await_answers(now);
        let deciding = self.decide(&mut left);
        self.wake(now);
        let telling = self.tell_ready(budget);
        walking || deciding || telling
    }

    /// The half nobody waits for: collectors are fed, and what everybody was told is forgotten. To be called after every
    /// [`Self::advance`].
    pub fn tidy(&mut self) {
        self.settle();
        self.feed_monitors();
        self.tables.ipv4.trim();
        self.tables.ipv6.trim();
        self.free_retired();
    }

    /// Whether a peer waits to be given octets: [`Speaker::work`] is to be called.
    #[must_use]
    pub fn is_telling(&self) -> bool {
        !self.ready.is_empty()
    }

    fn decide(&mut self, left: &mut usize) -> bool {
        let options = self.decision_options();
        let Tables {
            store,
            facts,
            ipv4,
            ipv6,
        } = &mut self.tables;
        let view = View { facts, options };
        let more_ipv4 = ipv4.work(left, self.reporting, store, &view);
        let more_ipv6 = ipv6.work(left, self.reporting, store, &view);
        if !ipv4.table.is_sweeping() && !ipv6.table.is_sweeping() {
            store.next_hops_mut().settle();
        }
        more_ipv4 || more_ipv6
    }

    const fn decision_options(&self) -> Options {
        self.config.decision_options()
    }

    // ---- what went wrong ------------------------------------------------------------------------------------------

    /// Counts what the session does not survive.
    fn book_fatal(&mut self, slot: Slot, error: &DecodeError, octets: &[u8], now: Instant) {
        self.book(slot, now, |log, totals| {
            log.fatal(error, octets, totals, now)
        });
    }

    fn book(
        &mut self,
        slot: Slot,
        now: Instant,
        offence: impl FnOnce(&mut ErrorLog, &mut ErrorTotals) -> Offence,
    ) {
        let Some(neighbour) = self
            .neighbours
            .get_mut(usize::from(slot))
            .and_then(Option::as_mut)
        else {
            return;
        };
        let offence = offence(&mut neighbour.errors, &mut self.errors);
        session::tell_offence(neighbour, &offence, &mut self.events, now);
    }

    /// Events behind the one of this number, oldest first. Numbers have no gaps: a first one that does not follow says that
    /// some were lost.
    #[must_use]
    pub fn events_after(&self, sequence: u64) -> Vec<PeerEvent> {
        self.events.after(sequence).cloned().collect()
    }

    /// The number of the latest event.
    #[must_use]
    pub const fn last_event(&self) -> u64 {
        self.events.last()
    }
}

#[cfg(test)]
mod tests;
