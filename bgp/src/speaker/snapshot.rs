//! What a speaker tells of itself: [`SpeakerSnapshot`] for peers and totals, [`RouteInfo`] for single prefixes.
//!
//! Plain values without references into the speaker: they are made between two slices of its work and then belong to
//! whoever asked.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::errors::{ErrorAction, ErrorClass, ErrorTotals};
use crate::asn::Asn;
use crate::bfd;
use crate::codec::attribute::PathAttributes;
use crate::codec::{AttributeCode, NextHop};
use crate::decision::Step;
use crate::family::Family;
use crate::fsm::{PeerWarning, State};
use crate::prefix::Prefix;
use crate::rib::RouteSource;
use crate::router_id::RouterId;

/// The whole speaker at one moment.
#[derive(Clone, Debug)]
pub struct SpeakerSnapshot {
    /// Our BGP Identifier.
    pub router_id: RouterId,
    /// Our AS.
    pub asn: Asn,
    /// Every neighbour, dynamic ones included, by name.
    pub peers: Vec<PeerSnapshot>,
    /// Every table.
    pub tables: Vec<TableSnapshot>,
    /// Interned attribute sets in use.
    pub attribute_sets: usize,
    /// Octets the tables hold, as far as the speaker accounts for them.
    pub memory: MemorySnapshot,
    /// Malformed messages of all peers, also of those that left.
    pub errors: ErrorTotals,
    /// Sessions and messages of all peers, also of those that left.
    pub totals: Totals,
    /// Selection is still deferred after a restart of ours, for these families.
    pub deferring: Vec<Family>,
    /// Datagrams of BFD, counted by whoever has the sockets.
    pub bfd: bfd::Counters,
}

/// What all peers did since the speaker started, those that left included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sessions that were established.
    pub established: u64,
    /// Those of them that ended.
    pub lost: u64,
    /// What went over them.
    pub messages: MessageCounters,
    /// Routes that were not told because their attributes fit no message (RFC 8654 §4); each time and group of peers counts.
    pub unsendable: u64,
}

/// Octets held by the structures that grow with routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemorySnapshot {
    /// Prefixes and their index.
    pub prefixes: usize,
    /// Received paths.
    pub paths: usize,
    /// Interned attributes.
    pub attributes: usize,
    /// What groups of peers were told, their journals and encoded messages.
    pub groups: usize,
}

/// One family's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSnapshot {
    /// Which.
    pub family: Family,
    /// Prefixes that have a place in the table: those with a path of any kind, and those that peers have yet to be told are gone.
    pub prefixes: usize,
    /// Those of them with a best path.
    pub best: usize,
    /// Paths, rejected and unusable ones included.
    pub paths: usize,
    /// Groups of peers that are told the same.
    pub update_groups: usize,
    /// Prefixes waiting for the decision.
    pub pending_decisions: usize,
    /// Changes of best routes nobody has fetched yet.
    pub pending_changes: usize,
}

/// One neighbour.
#[derive(Clone, Debug)]
pub struct PeerSnapshot {
    /// Its unique name.
    pub name: Arc<str>,
    /// Its address and port; for a dynamic peer those it called from.
    pub address: SocketAddr,
    /// It came from a range and is forgotten when it leaves.
    pub dynamic: bool,
    /// Our address on the session.
    pub local_address: Option<IpAddr>,
    /// Its AS; nothing while several are possible and it has not shown its own.
    pub asn: Option<Asn>,
    /// The AS we show.
    pub local_asn: Asn,
    /// It is in another AS.
    pub external: bool,
    /// It is our client as route reflector.
    pub route_reflector_client: bool,
    /// May run at all.
    pub enabled: bool,
    /// Where its session is.
    pub state: State,
    /// How long it has been there.
    pub state_for: Duration,
    /// How often a session was established.
    pub established_count: u64,
    /// Why the last session or attempt ended.
    pub last_error: Option<String>,
    /// What an operator should look into although nothing was refused for it.
    pub warnings: Vec<PeerWarning>,
    /// Its BGP Identifier, while established.
    pub router_id: Option<RouterId>,
    /// Settled hold time, while established.
    pub hold_time: Option<Duration>,
    /// How often we send KEEPALIVEs, while established.
    pub keepalive: Option<Duration>,
    /// Time until something is done for it by itself: the next attempt, a hold timer, the end of kept routes.
    pub next_timer: Option<Duration>,
    /// Names of the capabilities in force, while established.
    pub capabilities: Vec<String>,
    /// What our OPEN listed, while established.
    pub capabilities_sent: Vec<String>,
    /// What its OPEN listed, while established.
    pub capabilities_received: Vec<String>,
    /// Graceful restart as it asks for it, while established.
    pub graceful_restart: Option<GracefulRestartSnapshot>,
    /// One entry per configured family.
    pub families: Vec<PeerFamilySnapshot>,
    /// Messages by kind.
    pub messages: MessageCounters,
    /// What it got wrong since the speaker started, by kind.
    pub errors: Vec<ErrorCount>,
    /// The latest of its messages that were wrong, oldest first.
    pub offences: Vec<OffenceSnapshot>,
    /// Octets handed to the connection it has not written yet.
    pub queued_octets: usize,
    /// The path to it, where BFD watches it.
    pub bfd: Option<BfdSnapshot>,
}

/// The path to a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BfdSnapshot {
    /// How the session stands; nothing where it has not begun to run.
    pub status: Option<bfd::Status>,
    /// How long it has been in its state.
    pub state_for: Duration,
    /// Sessions of BGP wait for it.
    pub strict: bool,
}

/// What a peer's OPEN says of graceful restart (RFC 4724), where we have it on as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracefulRestartSnapshot {
    /// How long its routes are to be kept for its return.
    pub restart_time: Duration,
    /// It has just restarted.
    pub restarting: bool,
    /// Routes outlive NOTIFICATIONs (RFC 8538).
    pub notification: bool,
    /// Long-lived graceful restart is on as well (RFC 9494).
    pub long_lived: bool,
}

/// How often a peer made one kind of mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorCount {
    /// Where in the message.
    pub class: ErrorClass,
    /// The attribute, where it is one.
    pub attribute: Option<AttributeCode>,
    /// What is wrong, in a word.
    pub reason: &'static str,
    /// What was done.
    pub action: ErrorAction,
    /// How often.
    pub count: u64,
}

/// A message that was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffenceSnapshot {
    /// How long ago it came.
    pub ago: Duration,
    /// What is wrong with it.
    pub reason: String,
    /// What was done.
    pub action: ErrorAction,
    /// The prefixes in it, or some of them.
    pub prefixes: Vec<Prefix>,
    /// The message, cut where it is long; empty where it is not known.
    pub octets: Bytes,
    /// Octets it had.
    pub length: usize,
}

/// Routes of one family exchanged with one neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFamilySnapshot {
    /// Which.
    pub family: Family,
    /// The session carries it.
    pub negotiated: bool,
    /// Paths it announced.
    pub received: usize,
    /// Those of them that import policy and loop checks let pass.
    pub accepted: usize,
    /// The others, by reason; reasons nothing is rejected for are left out. Whether a next hop is reached changes without a word
    /// of the peer's and is not counted.
    pub rejected: Vec<(Unusable, usize)>,
    /// Prefixes it was told, or is about to be.
    pub advertised: usize,
    /// Changes it has not been told yet because it reads slowly or just came up.
    pub lag: usize,
    /// It has sent End-of-RIB in this session.
    pub end_of_rib_received: bool,
    /// We have sent End-of-RIB in this session.
    pub end_of_rib_sent: bool,
    /// How its routes of an earlier session are kept.
    pub retention: Retention,
    /// So many paths are of an earlier session. Of a peer that sends several of a prefix (RFC 7911), those repeated beside the first
    /// are among them.
    pub stale: usize,
    /// The group of peers it shares its messages with.
    pub update_group: Option<u32>,
    /// Routes the peers of the group were not told because their attributes fit no message (RFC 8654 §4); each time counts.
    pub unsendable: u64,
    /// Routes the peers of the group were not told because no next hop leads to them; each time counts.
    pub withheld: u64,
    /// There is no address of ours to name as next hop, so only routes that bring one are told.
    pub next_hop_missing: bool,
}

/// Whether routes of an ended session are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Retention {
    /// Every route is of the running session.
    #[default]
    None,
    /// Graceful restart (RFC 4724).
    Stale,
    /// Long-lived graceful restart (RFC 9494).
    LongLivedStale,
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Stale => "stale",
            Self::LongLivedStale => "long-lived-stale",
        })
    }
}

/// What went over a neighbour's sessions since the speaker started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCounters {
    /// UPDATEs received.
    pub updates_received: u64,
    /// Prefixes announced to us.
    pub announcements_received: u64,
    /// Prefixes withdrawn from us.
    pub withdrawals_received: u64,
    /// Attribute errors answered without a reset (RFC 7606).
    pub attribute_faults: u64,
    /// Octets handed to the connection.
    pub octets_sent: u64,
    /// Pieces of encoded UPDATEs handed to the connection; shared with other peers where they fit.
    pub chunks_sent: u64,
    /// ROUTE-REFRESH requests received.
    pub refreshes_received: u64,
    /// Paths ignored because the peer sent too many of one prefix.
    pub excess_paths: u64,
    /// Announced prefixes that were not taken because of the peer's limit.
    pub discarded_prefixes: u64,
}

impl MessageCounters {
    /// Adds another peer's.
    pub(super) const fn add(&mut self, other: &Self) {
        self.updates_received += other.updates_received;
        self.announcements_received += other.announcements_received;
        self.withdrawals_received += other.withdrawals_received;
        self.attribute_faults += other.attribute_faults;
        self.octets_sent += other.octets_sent;
        self.chunks_sent += other.chunks_sent;
        self.refreshes_received += other.refreshes_received;
        self.excess_paths += other.excess_paths;
        self.discarded_prefixes += other.discarded_prefixes;
    }
}

/// Which routes to show.
#[derive(Clone, Debug, Default)]
pub struct RouteQuery {
    /// Only this prefix or, with [`RouteQuery::matching`], those related to it.
    pub prefix: Option<Prefix>,
    /// How prefixes relate to the asked one.
    pub matching: Matching,
    /// Only prefixes with a path from the peer of this name.
    pub from_peer: Option<String>,
    /// Only prefixes advertised to the peer of this name.
    pub to_peer: Option<String>,
    /// Only this family.
    pub family: Option<Family>,
    /// Also tell to whom each prefix is advertised; costs a look into every group.
    pub with_advertised: bool,
    /// At most so many prefixes; all where absent.
    pub limit: Option<usize>,
}

/// How a shown prefix relates to the asked one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Matching {
    /// Equal.
    #[default]
    Exact,
    /// Equal or inside.
    Longer,
    /// The longest one that holds the asked one, as forwarding would choose.
    Longest,
    /// Every one that holds the asked one.
    Covering,
}

/// Everything known of one prefix.
#[derive(Clone, Debug)]
pub struct RouteInfo {
    /// Destination.
    pub prefix: Prefix,
    /// Every path, best first, unusable ones last.
    pub paths: Vec<PathInfo>,
    /// Names of the peers that are told of it; only where asked for.
    pub advertised_to: Vec<Arc<str>>,
}

/// One path of a prefix.
#[derive(Clone, Debug)]
pub struct PathInfo {
    /// Who it is from.
    pub source: RouteSource,
    /// Its identifier where the peer sends several (RFC 7911).
    pub path_id: Option<u32>,
    /// Attributes after import policy.
    pub attributes: Arc<PathAttributes>,
    /// Next hop as received or set by policy; nothing for local routes without one.
    pub next_hop: Option<NextHop>,
    /// Local weight set by import policy.
    pub weight: u32,
    /// Is the best path.
    pub best: bool,
    /// Is used for forwarding.
    pub used: bool,
    /// For the best path the step that beat the nearest other one, for the others the step by which they lost.
    pub step: Option<Step>,
    /// Why it takes no part in the decision.
    pub unusable: Option<Unusable>,
    /// Kept from an ended session.
    pub retention: Retention,
}

/// Why a received path takes no part in the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unusable {
    /// Import policy rejects it.
    RejectedByPolicy,
    /// Our AS is in the AS_PATH more often than allowed.
    AsLoop,
    /// We are its ORIGINATOR_ID.
    OwnOriginator,
    /// Our cluster is in its CLUSTER_LIST.
    ClusterLoop,
    /// The next hop is ourselves, or no unicast address.
    NextHop,
    /// It came to the peer from above, and is not for us (RFC 9234 §5).
    RouteLeak,
    /// The prefix is inside a block of which no address is ever a host somewhere else: this host, loopback, link-local or
    /// multicast (RFC 4271 §6.3).
    Prefix,
    /// A route of ours that only peers of [`default_originate`](super::config::PeerConfig::default_originate) are told.
    OnlyTold,
    /// Nobody knows a way to the next hop.
    Unreachable,
}

impl Unusable {
    /// What a peer's paths are counted by.
    pub const COUNTED: [Self; 7] = [
        Self::RejectedByPolicy,
        Self::AsLoop,
        Self::OwnOriginator,
        Self::ClusterLoop,
        Self::NextHop,
        Self::RouteLeak,
        Self::Prefix,
    ];

    /// As counters are labelled.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RejectedByPolicy => "policy",
            Self::AsLoop => "as-loop",
            Self::OwnOriginator => "own-originator",
            Self::ClusterLoop => "cluster-loop",
            Self::NextHop => "next-hop",
            Self::RouteLeak => "route-leak",
            Self::Prefix => "prefix",
            Self::OnlyTold => "only-told",
            Self::Unreachable => "unreachable",
        }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RejectedByPolicy => "rejected by policy",
            Self::AsLoop => "own AS in path",
            Self::OwnOriginator => "own originator id",
            Self::ClusterLoop => "own cluster in list",
            Self::NextHop => "unusable next hop",
            Self::RouteLeak => "route leak",
            Self::Prefix => "no unicast prefix",
            Self::OnlyTold => "only told to peers",
            Self::Unreachable => "next hop out of reach",
        })
    }
}
