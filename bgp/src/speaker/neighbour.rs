//! One neighbour as the speaker sees it: its machine, its session, what is kept of an earlier one.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::PeerId;
use super::config::PeerConfig;
use super::errors::{ErrorAction, ErrorLog};
use super::liveness::Liveness;
use super::ranges::Standing;
use super::snapshot::MessageCounters;
use crate::family::{Family, FamilySet};
use crate::fsm::{Direction, Negotiated, Peer, PeerWarning};
use crate::graceful_restart::Retention;
use crate::rib::adj_rib_out::MemberId;
use crate::rib::attribute_store::AttrId;

#[derive(Debug)]
pub(super) struct Neighbour {
    pub(super) id: PeerId,
    pub(super) name: Arc<str>,
    pub(super) config: Arc<PeerConfig>,
    pub(super) fsm: Peer,
    /// Where it is; for a dynamic neighbour where it called from.
    pub(super) address: SocketAddr,
    /// The range it came from; it is forgotten when it left and nothing is held against it.
    pub(super) range: Option<Arc<str>>,
    /// As what its range counts it.
    pub(super) counted: Option<Standing>,
    /// Our address that it calls.
    pub(super) called: Option<IpAddr>,
    pub(super) session: Option<Session>,
    /// What the latest session settled: routes kept of it are judged by it.
    pub(super) settled: Option<Arc<Negotiated>>,
    pub(super) retention: Retention,
    pub(super) counters: MessageCounters,
    /// The path to it, where it is watched.
    pub(super) liveness: Option<Liveness>,
    pub(super) errors: ErrorLog,
    /// When its latest malformed message had an event, how bad it was, and how many had none since.
    pub(super) malformed_told: Option<(Instant, ErrorAction)>,
    pub(super) malformed_untold: u64,
    /// Our OPEN and its own on each connection, as they were on the wire.
    opens: [(Bytes, Bytes); 3],
    pub(super) established_count: u64,
    /// What an operator should know of it, as long as it holds.
    pub(super) warnings: BTreeSet<PeerWarning>,
    pub(super) state_since: Instant,
    /// When the speaker will look at it next.
    pub(super) deadline: Option<Instant>,
    /// Which family is told next; they take turns.
    pub(super) ipv6_first: bool,
    /// Waits in the queue of peers to be given octets.
    pub(super) ready: bool,
    /// Why its TCP connection does not come about, in words; nothing once there is one.
    pub(super) trouble: Option<Arc<str>>,
    /// No longer configured: goes when its routes are gone.
    pub(super) leaving: bool,
    /// Which of its connections stand, by direction.
    open: [bool; 3],
    /// It had a connection once.
    pub(super) was_open: bool,
    queued: [usize; 3],
}

/// An Established session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) negotiated: Arc<Negotiated>,
    pub(super) ipv4: Option<FamilySession>,
    pub(super) ipv6: Option<FamilySession>,
    /// Tells it apart for collectors from sessions with the same address; zero where nobody shares it.
    pub(super) distinguisher: u64,
    /// Families of which nothing is taken any more.
    pub(super) disabled: FamilySet,
    /// What its latest announcement was interned as. It holds no reference: see [`AttributeStore::again`].
    ///
    /// [`AttributeStore::again`]: crate::rib::attribute_store::AttributeStore::again
    pub(super) latest: Option<AttrId>,
}

/// One family of a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct FamilySession {
    pub(super) group: usize,
    pub(super) member: MemberId,
    pub(super) end_of_rib_received: bool,
    /// Between BoRR and EoRR: when what was not repeated goes regardless (RFC 7313 §4.1).
    pub(super) refresh_ends: Option<Instant>,
    /// The peer announced prefixes beyond its limit that were not taken.
    pub(super) discarded: bool,
    /// It announced more paths of a prefix than are kept.
    pub(super) excess: bool,
    /// When its routes were asked for again for one of these reasons.
    pub(super) asked: Option<Instant>,
    /// When to ask for them next.
    pub(super) ask: Option<Instant>,
}

impl Session {
    pub(super) const fn family(&self, family: Family) -> Option<&FamilySession> {
        match family {
            Family::IPV4_UNICAST => self.ipv4.as_ref(),
            Family::IPV6_UNICAST => self.ipv6.as_ref(),
            _ => None,
        }
    }

    pub(super) const fn family_mut(&mut self, family: Family) -> Option<&mut FamilySession> {
        match family {
            Family::IPV4_UNICAST => self.ipv4.as_mut(),
            Family::IPV6_UNICAST => self.ipv6.as_mut(),
            _ => None,
        }
    }

    /// Whether routes of the peer were not taken because of a limit.
    pub(super) fn discards(&self) -> bool {
        [&self.ipv4, &self.ipv6]
            .into_iter()
            .flatten()
            .any(|carried| carried.discarded)
    }

    pub(super) fn families(&self) -> FamilySet {
        self.negotiated.families.iter().copied().collect()
    }
}

impl Neighbour {
    pub(super) fn new(
        id: PeerId,
        config: Arc<PeerConfig>,
        fsm: Peer,
        address: SocketAddr,
        range: Option<Arc<str>>,
        now: Instant,
    ) -> Self {
        Self {
            id,
            name: Arc::from(config.name.as_str()),
            config,
            fsm,
            address,
            range,
            counted: None,
            called: None,
            session: None,
            settled: None,
            retention: Retention::default(),
            counters: MessageCounters::default(),
            liveness: None,
            errors: ErrorLog::default(),
            malformed_told: None,
            malformed_untold: 0,
            opens: Default::default(),
            established_count: 0,
            warnings: BTreeSet::new(),
            state_since: now,
            deadline: None,
            ipv6_first: false,
            ready: false,
            trouble: None,
            leaving: false,
            open: [false; 3],
            was_open: false,
            queued: [0; 3],
        }
    }

    pub(super) const fn queued(&self, direction: Direction) -> usize {
        let [outgoing, incoming, second] = &self.queued;
        *match direction {
            Direction::Outgoing => outgoing,
            Direction::Incoming => incoming,
            Direction::SecondIncoming => second,
        }
    }

    pub(super) const fn queued_mut(&mut self, direction: Direction) -> &mut usize {
        let [outgoing, incoming, second] = &mut self.queued;
        match direction {
            Direction::Outgoing => outgoing,
            Direction::Incoming => incoming,
            Direction::SecondIncoming => second,
        }
    }

    pub(super) const fn is_open(&self, direction: Direction) -> bool {
        let [outgoing, incoming, second] = self.open;
        match direction {
            Direction::Outgoing => outgoing,
            Direction::Incoming => incoming,
            Direction::SecondIncoming => second,
        }
    }

    /// Whether it has any connection.
    pub(super) const fn is_connected(&self) -> bool {
        let [outgoing, incoming, second] = self.open;
        outgoing || incoming || second
    }

    /// A connection came or went; nothing is under way on it.
    pub(super) const fn set_open(&mut self, direction: Direction, open: bool) {
        *self.queued_mut(direction) = 0;
        self.was_open |= open;
        let [outgoing, incoming, second] = &mut self.open;
        *match direction {
            Direction::Outgoing => outgoing,
            Direction::Incoming => incoming,
            Direction::SecondIncoming => second,
        } = open;
    }

    /// Our OPEN and the neighbour's on a connection.
    pub(super) const fn opens_mut(&mut self, direction: Direction) -> &mut (Bytes, Bytes) {
        let [outgoing, incoming, second] = &mut self.opens;
        match direction {
            Direction::Outgoing => outgoing,
            Direction::Incoming => incoming,
            Direction::SecondIncoming => second,
        }
    }

    /// The same, to look at.
    pub(super) const fn opens(&self, direction: Direction) -> (&Bytes, &Bytes) {
        let [outgoing, incoming, second] = &self.opens;
        let (ours, theirs) = match direction {
            Direction::Outgoing => outgoing,
            Direction::Incoming => incoming,
            Direction::SecondIncoming => second,
        };
        (ours, theirs)
    }

    /// When something is to be done for it.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let session = self.session.as_ref();
        let refresh = |family| {
            let carried = session?.family(family)?;
            carried.refresh_ends.into_iter().chain(carried.ask).min()
        };
        [
            self.fsm.poll_timeout(),
            self.retention.deadline(),
            refresh(Family::IPV4_UNICAST),
            refresh(Family::IPV6_UNICAST),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Our address on its session.
    pub(super) fn local_address(&self) -> Option<IpAddr> {
        let session = self.session.as_ref()?;
        Some(session.negotiated.local.ip())
    }

    /// Our address on its session or on the last one: it stays ours while a session is away.
    pub(super) fn latest_local_address(&self) -> Option<SocketAddr> {
        let local = self.settled.as_ref()?.local;
        let wanted = self.config.local_address;
        wanted
            .is_none_or(|wanted| wanted == local.ip())
            .then_some(local)
    }
}
