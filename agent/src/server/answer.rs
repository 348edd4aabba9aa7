//! What a daemon answers on its control socket. The names are those of `-o json`, and stable: in camelCase, added to and not changed.
//!
//! | Command | Answer |
//! |---|---|
//! | `margay status` | [`Status`], with everything the speaker holds beside peers and routes in [`Speaker`] |
//! | `margay peers [NAME]` | a list of [`Peer`] |
//! | `margay routes [PREFIX]` | a list of [`Route`], each with every [`Path`] and every attribute of it |
//! | `margay events` | a list of [`Event`]; with `--follow` one a line |
//! | `margay ipam`, `ipam check` | [`Ipam`], [`CheckReport`](crate::ipam::check::CheckReport) |
//! | `margay explain` | [`Explanation`] |
//!
//! Together the first three are the whole snapshot of the speaker. Durations are seconds unless the field says otherwise, octets are
//! text in hexadecimal, addresses and communities are text. Counts of messages and errors are since the speaker started, and of
//! a peer since it is known.

use serde::{Deserialize, Serialize};

/// What is asked. One JSON object on one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "ask",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Request {
    /// [`Status`].
    Status,
    /// A list of [`Peer`].
    Peers {
        /// Only this one.
        name: Option<String>,
    },
    /// A list of [`Event`], then with `follow` each further one on a line of its own until the connection is closed.
    Events {
        /// Only those behind this number.
        after: u64,
        /// Only of this peer.
        peer: Option<String>,
        /// Stay and tell what happens.
        follow: bool,
    },
    /// A list of [`Route`].
    Routes {
        /// Only this prefix, or for an address every prefix that covers it.
        prefix: Option<String>,
        /// Only paths from this peer.
        peer: Option<String>,
    },
    /// [`Ipam`].
    Ipam,
    /// A [`CheckReport`](crate::ipam::check::CheckReport).
    IpamCheck,
    /// [`Explanation`].
    Explain {
        /// The address in question.
        address: std::net::IpAddr,
    },
    /// Clears a session; answers [`Done`].
    Clear {
        /// The peer.
        name: String,
        /// Ask it for its routes again.
        soft_in: bool,
        /// Send it our routes again.
        soft_out: bool,
        /// Said to the peer, where the session ends.
        #[serde(default)]
        message: Option<String>,
    },
    /// Closes a session and keeps it closed; answers [`Done`].
    Disable {
        /// The peer.
        name: String,
        /// Said to the peer.
        message: Option<String>,
    },
    /// Undoes [`Request::Disable`]; answers [`Done`].
    Enable {
        /// The peer.
        name: String,
    },
    /// Marks what a session carries to be used last, or no more; answers [`Done`].
    Drain {
        /// The peer; all of them where absent.
        name: Option<String>,
        /// Whether it is to be drained.
        on: bool,
    },
}

/// What comes back. One JSON object on one line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    /// The answer.
    Ok(serde_json::Value),
    /// Why there is none.
    Error(String),
}

/// An action took effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// In words.
    pub done: String,
}

/// How a node is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The node.
    pub node: String,
    /// Of the daemon.
    pub version: String,
    /// Seconds since the daemon started.
    pub uptime: u64,
    /// Nothing below is wanting.
    pub healthy: bool,
    /// Every loop was heard in time.
    pub live: bool,
    /// Everything that has to happen once has happened.
    pub ready: bool,
    /// What readiness waits for.
    pub waiting_for: Vec<String>,
    /// Its AS.
    pub asn: Option<u32>,
    /// Its BGP Identifier.
    pub router_id: Option<String>,
    /// The datastore was read whole.
    pub in_sync: bool,
    /// The datastore does not answer; this is the view of an earlier run.
    pub from_saved_view: bool,
    /// Sessions that are Established.
    pub sessions_established: usize,
    /// Sessions in all.
    pub sessions: usize,
    /// Sessions that outlive their configuration until their successors are complete.
    pub sessions_lingering: usize,
    /// Families whose tables are not complete yet after a restart.
    pub restarting: Vec<String>,
    /// Pods on this node.
    pub pods: usize,
    /// Routes the kernel should hold.
    pub routes_desired: usize,
    /// Routes it holds as desired.
    pub routes_installed: usize,
    /// Changes that failed and are retried.
    pub pending: Vec<Finding>,
    /// The tables, and what all peers did together; absent where no speaker runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<Speaker>,
    /// What cannot be honoured.
    pub problems: Vec<Finding>,
    /// Objects that count as absent.
    pub invalid: Vec<Finding>,
    /// Objects that are understood and not acted on.
    pub unsupported: Vec<Finding>,
}

/// A speaker beside its peers and routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Speaker {
    /// Families whose best paths are not chosen yet, after a restart of ours.
    pub deferring: Vec<String>,
    /// One entry a family.
    pub tables: Vec<Table>,
    /// Distinct sets of attributes.
    pub attribute_sets: usize,
    /// Octets of memory by what they hold.
    pub memory: Memory,
    /// Sessions that were established, those of peers that left included.
    pub sessions_established: u64,
    /// Those of them that ended.
    pub sessions_lost: u64,
    /// What went over all of them.
    pub messages: Messages,
    /// Routes that were not told because their attributes fit no message; each time and group of peers counts.
    pub routes_unsendable: u64,
    /// Mistakes of all peers, those that left included; combinations that did not occur are left out.
    pub errors: Vec<ErrorTotal>,
    /// BFD packets and sessions.
    pub bfd: BfdCounters,
}

/// One family's table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// ipv4-unicast or ipv6-unicast.
    pub family: String,
    /// Prefixes that have a place: those with a path of any kind, and those that peers have yet to be told are gone.
    pub prefixes: usize,
    /// Those of them with a best path.
    pub best: usize,
    /// Paths, those that take no part included.
    pub paths: usize,
    /// Groups of peers that are told the same.
    pub update_groups: usize,
    /// Prefixes whose best path is yet to be chosen.
    pub pending_decisions: usize,
    /// Changes on their way to whoever forwards.
    pub pending_changes: usize,
}

/// Octets held by what grows with routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Prefixes and their index.
    pub prefixes: usize,
    /// Received paths.
    pub paths: usize,
    /// Sets of attributes.
    pub attributes: usize,
    /// What groups of peers were told, and messages on their way to them.
    pub groups: usize,
}

/// Mistakes of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorTotal {
    /// header, open, update, nlri, attribute or route-refresh.
    pub class: String,
    /// reset, treat-as-withdraw, attribute-discard or disable-family.
    pub action: String,
    /// How often.
    pub count: u64,
}

/// What BFD did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BfdCounters {
    /// Packets taken by a session.
    pub received: u64,
    /// Packets sent.
    pub sent: u64,
    /// Dropped: no packet, or one that contradicts itself.
    pub malformed: u64,
    /// Dropped: to be authenticated.
    pub authenticated: u64,
    /// Dropped: came too far. Of packets over one hop the kernel drops those itself, as errors of UDP.
    pub ttl: u64,
    /// Dropped: for no session.
    pub unknown: u64,
    /// Changes of sessions' states.
    pub transitions: u64,
    /// Paths that were up and ended, by nobody's will.
    pub losses: u64,
}

/// Something found wanting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The object, prefix or device.
    pub subject: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A BGP peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Its name for `margay peers disable` and the like.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Its AS.
    pub asn: u32,
    /// Ours towards it.
    pub local_asn: u32,
    /// mesh, global, node, reverse, workload; or file, dynamic, or left for one that is no longer configured.
    pub origin: String,
    /// The object that asks for it.
    pub object: String,
    /// The state of the session.
    pub state: String,
    /// Seconds it has been in that state.
    pub since: u64,
    /// May run.
    pub enabled: bool,
    /// A client of ours as route reflector.
    pub route_reflector_client: bool,
    /// It is in another AS.
    #[serde(default)]
    pub external: bool,
    /// It called from a range and is forgotten when it leaves.
    #[serde(default)]
    pub dynamic: bool,
    /// What to look into although nothing was refused for it, as long as it holds.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// How often it was Established.
    pub established_count: u64,
    /// Why the last session or attempt ended.
    pub last_error: Option<String>,
    /// Our address on the session.
    pub local_address: Option<String>,
    /// Its BGP Identifier.
    pub router_id: Option<String>,
    /// Settled hold time in seconds.
    pub hold_time: Option<u64>,
    /// Seconds between KEEPALIVEs of ours.
    pub keepalive: Option<f64>,
    /// Seconds until something is done for it by itself.
    pub next_timer: Option<f64>,
    /// Capabilities in force.
    pub capabilities: Vec<String>,
    /// What our OPEN listed.
    pub capabilities_sent: Vec<String>,
    /// What its OPEN listed.
    pub capabilities_received: Vec<String>,
    /// Graceful restart as it asks for it.
    pub graceful_restart: Option<GracefulRestart>,
    /// One entry a family.
    pub families: Vec<PeerFamily>,
    /// Messages since the speaker started.
    pub messages: Messages,
    /// Octets handed to the connection it has not written yet.
    pub queued_octets: usize,
    /// What it got wrong, by kind.
    pub errors: Vec<ErrorCount>,
    /// The latest of its messages that were wrong, oldest first.
    pub offences: Vec<Offence>,
    /// The path to it, where BFD watches it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<PeerBfd>,
}

/// The path to a peer as BFD sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerBfd {
    /// AdminDown, Down, Init or Up.
    pub state: String,
    /// Seconds it has been in that state.
    pub since: u64,
    /// Why it changed last.
    pub diagnostic: String,
    /// The other end's state.
    pub remote_state: String,
    /// Why that changed last.
    pub remote_diagnostic: String,
    /// Our session.
    pub local_discriminator: u32,
    /// The other end's session; 0 while it is not heard.
    pub remote_discriminator: u32,
    /// The other end's BFD outlives its control plane.
    pub remote_control_plane_independent: bool,
    /// Milliseconds between packets we send.
    pub transmit_interval: u64,
    /// Milliseconds of silence after which the path counts as down.
    pub detection_time: u64,
    /// How often the state changed.
    pub transitions: u64,
    /// BGP waits for it.
    pub strict: bool,
}

/// Graceful restart with a peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GracefulRestart {
    /// Seconds its routes are to be kept for its return.
    pub restart_time: u64,
    /// It has just restarted.
    pub restarting: bool,
    /// Routes outlive NOTIFICATIONs (RFC 8538).
    pub notification: bool,
    /// Long-lived graceful restart is on as well (RFC 9494).
    pub long_lived: bool,
}

/// What went over a peer's sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Messages {
    /// UPDATEs received.
    pub updates_received: u64,
    /// Prefixes announced to us.
    pub announcements_received: u64,
    /// Prefixes withdrawn from us.
    pub withdrawals_received: u64,
    /// ROUTE-REFRESH requests received.
    pub refreshes_received: u64,
    /// Attribute errors the session survived (RFC 7606).
    pub attribute_faults: u64,
    /// Paths ignored because there were too many of one prefix.
    pub excess_paths: u64,
    /// Announced prefixes that were not taken because of the limit on them.
    #[serde(default)]
    pub discarded_prefixes: u64,
    /// Pieces of encoded UPDATEs sent, most of them shared with other peers.
    #[serde(default)]
    pub chunks_sent: u64,
    /// Octets of UPDATEs sent.
    pub octets_sent: u64,
}

/// How often a peer made one kind of mistake.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorCount {
    /// header, open, update, nlri, attribute or route-refresh.
    pub class: String,
    /// The attribute, where it is one.
    pub attribute: Option<String>,
    /// What is wrong, in a word.
    pub reason: String,
    /// reset, treat-as-withdraw, attribute-discard or disable-family.
    pub action: String,
    /// How often.
    pub count: u64,
}

/// A message that was wrong.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offence {
    /// Seconds ago.
    pub ago: u64,
    /// What is wrong with it.
    pub reason: String,
    /// reset, treat-as-withdraw, attribute-discard or disable-family.
    pub action: String,
    /// The prefixes in it, or some of them.
    pub prefixes: Vec<String>,
    /// The message in hexadecimal, cut after 4096 octets; empty where it is not known.
    pub octets: String,
    /// Octets it had.
    pub length: usize,
}

/// Something that happened to a peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// From 1, without gaps: one that does not follow the last says that events were lost, or are of peers not asked for. Of those that
    /// call from ranges fewer are kept.
    pub sequence: u64,
    /// When, in RFC 3339 with milliseconds.
    pub time: String,
    /// The peer's name.
    pub peer: String,
    /// Its address.
    pub address: String,
    /// state, malformed, warning, path (what BFD says of the way to it) or removed.
    pub kind: String,
    /// For a state or path: the state before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<String>,
    /// For a state or path: the one it is in.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to: Option<String>,
    /// Why, in words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Whose doing: operator, local, peer, timer or network.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub by: Option<String>,
    /// The NOTIFICATION that was sent or received.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub notification: Option<Notification>,
    /// For a malformed message: what was done.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub action: Option<String>,
    /// For a malformed message: the prefixes in it, or some of them.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub prefixes: Vec<String>,
    /// For a malformed message: the message in hexadecimal, cut after 4096 octets; empty where it is not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub octets: Option<String>,
    /// For a malformed message: octets it had.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub length: Option<usize>,
    /// For a malformed message: how many the peer sent since its last such event that have none of their own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub more: Option<u64>,
}

/// A NOTIFICATION.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// It came from the peer; otherwise we said it.
    pub received: bool,
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// What the two mean.
    pub name: String,
    /// The shutdown text (RFC 9003).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub text: Option<String>,
    /// The data in hexadecimal.
    pub data: String,
}

/// Routes exchanged with a peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerFamily {
    /// ipv4-unicast or ipv6-unicast.
    pub family: String,
    /// The session carries it.
    pub negotiated: bool,
    /// Paths it announced.
    pub received: usize,
    /// Those that policy accepted.
    pub accepted: usize,
    /// Prefixes it was told.
    pub advertised: usize,
    /// Changes it has yet to be told.
    pub lag: usize,
    /// It has sent End-of-RIB.
    pub end_of_rib_received: bool,
    /// We have sent End-of-RIB.
    pub end_of_rib_sent: bool,
    /// none, stale or long-lived-stale.
    pub retention: String,
    /// The group of peers that are told the same.
    pub update_group: Option<u32>,
    /// Paths it announced that take no part, by reason; reasons that do not occur are left out.
    #[serde(default)]
    pub rejected: Vec<Rejected>,
    /// Paths kept of an earlier session.
    #[serde(default)]
    pub stale: usize,
    /// Routes its group was not told because their attributes fit no message; each time counts.
    #[serde(default)]
    pub unsendable: u64,
    /// Routes its group was not told because no next hop leads to them; each time counts.
    #[serde(default)]
    pub withheld: u64,
    /// There is no address of ours to name as next hop: only routes that bring one are told.
    #[serde(default)]
    pub next_hop_missing: bool,
}

/// Paths of a peer that take no part for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    /// policy, as-loop, own-originator, cluster-loop, next-hop, route-leak or prefix.
    pub reason: String,
    /// How many.
    pub count: usize,
}

/// A prefix in BGP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// The prefix.
    pub prefix: String,
    /// Every path, best first.
    pub paths: Vec<Path>,
    /// Peers that are told of it; only for a single prefix.
    pub advertised_to: Vec<String>,
}

/// A path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Path {
    /// The peer, or local.
    pub from: String,
    /// Its identifier, where the peer sends several paths of a prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_id: Option<u32>,
    /// Where packets go.
    pub next_hop: Option<String>,
    /// The AS_PATH as text.
    pub as_path: String,
    /// IGP, EGP or incomplete.
    pub origin: String,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// Communities as text: standard, large, extended, IPv6-specific extended.
    pub communities: Vec<String>,
    /// ORIGINATOR_ID.
    pub originator_id: Option<String>,
    /// CLUSTER_LIST.
    pub cluster_list: Vec<String>,
    /// The best path.
    pub best: bool,
    /// Used for forwarding.
    pub used: bool,
    /// The step of the decision that chose it, or by which it lost.
    pub step: Option<String>,
    /// Why it takes no part.
    pub unusable: Option<String>,
    /// Kept from an ended session.
    pub stale: bool,
    /// none, stale or long-lived-stale.
    #[serde(default)]
    pub retention: String,
    /// The next hop's address on the link, where it came with one beside the global one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_hop_link_local: Option<String>,
    /// Local weight, compared before anything else.
    #[serde(default)]
    pub weight: u32,
    /// ATOMIC_AGGREGATE.
    #[serde(default)]
    pub atomic_aggregate: bool,
    /// AGGREGATOR.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub aggregator: Option<Aggregator>,
    /// ONLY_TO_CUSTOMER (RFC 9234): the AS.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub only_to_customer: Option<u32>,
    /// Attributes that are passed on without being understood.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub unknown_attributes: Vec<UnknownAttribute>,
    /// Names of the other attributes that somebody on the way passed on without understanding them.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub partial: Vec<String>,
}

/// Who made an aggregate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Aggregator {
    /// Its AS.
    pub asn: u32,
    /// The router.
    pub address: String,
}

/// An attribute that is passed on as it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnknownAttribute {
    /// Its type.
    pub code: u8,
    /// Its flags, as they are sent.
    pub flags: u8,
    /// Its value in hexadecimal.
    pub value: String,
}

/// Pools and blocks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ipam {
    /// The node that answers.
    pub node: String,
    /// Every pool.
    pub pools: Vec<Pool>,
    /// Blocks of this node.
    pub blocks: Vec<Block>,
}

/// A pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its range.
    pub cidr: String,
    /// None, IpIp or Vxlan, with its mode.
    pub encapsulation: String,
    /// Blocks of any node.
    pub blocks: usize,
    /// Addresses in use on any node.
    pub allocated: usize,
    /// Addresses in all; as text, since a pool of IPv6 has more than a number of JSON can say.
    pub capacity: String,
    /// No new addresses.
    pub disabled: bool,
    /// Packets that leave the pools get the node's address.
    pub nat_outgoing: bool,
}

/// A block of the node that answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    /// Its range.
    pub cidr: String,
    /// The pool it is from; empty where the pool is gone.
    pub pool: String,
    /// Addresses in use.
    pub allocated: usize,
    /// Addresses in all.
    pub capacity: String,
    /// Addresses lent to other nodes.
    pub lent: usize,
}

/// Why an address is, or is not, routed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The address asked about.
    pub address: String,
    /// Packets to it leave, or stay, as they should.
    pub routed: bool,
    /// The conclusion in one sentence.
    pub verdict: String,
    /// What leads to it, in order.
    pub steps: Vec<Finding>,
}
