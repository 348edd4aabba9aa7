//! Which BGP sessions a node runs, and everything about each of them.
//!
//! [`sessions`] expands the mesh, BGPPeers and their mirror images into [`Session`]s, one a remote address and port. Where several
//! objects ask for the same remote, the first of this order speaks for it: global peers, peers of this node, mirror images,
//! mesh; within one kind the object whose name sorts first. [`peer_config`] makes the speaker's form of a session.
//!
//! A session is named after its remote and not after the object that asked for it. So a neighbour that moves from the mesh to a
//! BGPPeer keeps its TCP connection, its routes and its place in every table.
//!
//! Departures from Calico, each where Calico's own peering would not come up: a mesh peer without an AS of its own has the
//! cluster's AS (confd takes the AS of the node that computes), and a missing secret keeps a session down (confd runs it without
//! a password).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

use margay_bgp::asn::Asn;
use margay_bgp::family::Family;
use margay_bgp::policy::Policy;
use margay_bgp::router_id::RouterId;
use margay_bgp::speaker::config::{
    self as speaker, AddPathSend, GracefulRestart, PeerConfig, Remote, Secret,
};

use super::filters;
use super::state::{Problem, Underlay};
use crate::config::annotations::{SPEAKER_FIELDS, annotate_peer, requires_policy};
use crate::model::{
    BgpPeer, ClusterState, DEFAULT_BGP_PORT, Labels, LocalSide, NextHopMode, Node, RemoteSide,
    ReversePeering, SecretKeyRef, SourceAddress,
};

/// Restart time a peer is told where nobody says otherwise, as in Calico.
pub const DEFAULT_RESTART_TIME: Duration = Duration::from_secs(120);
/// `margay.io/<field>`: both families on one session where the value lists both.
const FAMILIES: &str = "families";

/// Why a session exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// A BGPPeer for every node.
    Global,
    /// A BGPPeer for this node.
    Node,
    /// The mirror image of a BGPPeer whose remote side this node is.
    Reverse,
    /// The node-to-node mesh.
    Mesh,
    /// A pod of this node that speaks BGP.
    Workload,
}

impl Origin {
    /// The word for it in `margay config show`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Node => "node",
            Self::Reverse => "reverse",
            Self::Mesh => "mesh",
            Self::Workload => "workload",
        }
    }
}

/// A session this node should have.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Why it exists.
    pub origin: Origin,
    /// The BGPPeer that asks for it, or the node at the other end of a mesh session.
    pub object: String,
    /// Where the peer is.
    pub address: IpAddr,
    /// The port we dial.
    pub port: u16,
    /// What is carried over it.
    pub families: Vec<Family>,
    /// The peer's AS.
    pub asn: Asn,
    /// The AS we show.
    pub local_asn: Asn,
    /// The address we speak from; absent where the kernel chooses.
    pub source: Option<IpAddr>,
    /// We only wait for the peer to call.
    pub passive: bool,
    /// It is a client of ours.
    pub route_reflector_client: bool,
    /// Our cluster, where the peer is a client.
    pub cluster_id: Option<RouterId>,
    /// GTSM distance.
    pub ttl_security: Option<u8>,
    /// What we tell the peer.
    pub restart_time: Duration,
    /// Explicit KEEPALIVE interval.
    pub keepalive_time: Option<Duration>,
    /// What it is told as next hop.
    pub next_hop_mode: NextHopMode,
    /// How often our AS may occur in what it sends.
    pub allowed_local_as: u8,
    /// Where the password is.
    pub password: Option<SecretKeyRef>,
    /// Filters in both directions, in order.
    pub filters: Vec<String>,
    /// Gateway to the peer's address.
    pub reachable_by: Option<IpAddr>,
    /// The cluster's node at the other end, if it is one.
    pub node: Option<String>,
    /// `margay.io/<field>` annotations that concern it.
    pub margay: Labels,
}

impl Session {
    /// The unique name of the session: its remote.
    #[must_use]
    pub fn name(&self) -> String {
        if self.port == DEFAULT_BGP_PORT {
            self.address.to_string()
        } else {
            SocketAddr::new(self.address, self.port).to_string()
        }
    }

    /// Both ends are in one AS.
    #[must_use]
    pub fn internal(&self) -> bool {
        self.asn == self.local_asn
    }
}

/// Every session of the node that looks, sorted by address and port, and what could not be honoured.
#[must_use]
pub fn sessions(cluster: &ClusterState) -> (Vec<Session>, Vec<Problem>) {
    let Some(own) = cluster.own_node() else {
        return (Vec::new(), Vec::new());
    };
    let mut expansion = Expansion {
        cluster,
        own,
        by_address: nodes_by_address(cluster),
        sessions: BTreeMap::new(),
        problems: Vec::new(),
    };
    for peer in cluster
        .peers
        .values()
        .filter(|peer| peer.local == LocalSide::AllNodes)
    {
        expansion.explicit(peer, Origin::Global);
    }
    for peer in cluster
        .peers
        .values()
        .filter(|peer| peer.local != LocalSide::AllNodes)
    {
        if local_side_matches(&peer.local, own) {
            expansion.explicit(peer, Origin::Node);
        }
    }
    for peer in cluster.peers.values() {
        expansion.reverse(peer);
    }
    expansion.mesh();
    let sessions = expansion.sessions.into_values().collect();
    let mut problems = expansion.problems;
    problems.sort();
    problems.dedup();
    (sessions, problems)
}

/// Which node has which BGP address. Where two claim one, the first by name has it, as long as the cluster is mended.
#[must_use]
pub fn nodes_by_address(cluster: &ClusterState) -> BTreeMap<IpAddr, &Node> {
    let mut map = BTreeMap::new();
    for node in cluster.nodes.values() {
        for address in Family::ALL
            .into_iter()
            .filter_map(|family| node.bgp_address(family))
        {
            map.entry(address).or_insert(node);
        }
    }
    map
}

fn local_side_matches(side: &LocalSide, node: &Node) -> bool {
    match side {
        LocalSide::AllNodes => true,
        LocalSide::Node(name) => *name == node.name,
        LocalSide::Nodes(selector) => selector.matches(&node.labels),
    }
}

fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() {
        Family::IPV4_UNICAST
    } else {
        Family::IPV6_UNICAST
    }
}

struct Expansion<'a> {
    cluster: &'a ClusterState,
    own: &'a Node,
    by_address: BTreeMap<IpAddr, &'a Node>,
    sessions: BTreeMap<(IpAddr, u16), Session>,
    problems: Vec<Problem>,
}

impl<'a> Expansion<'a> {
    fn problem(&mut self, subject: String, reason: impl Into<String>) {
        self.problems.push(Problem {
            subject,
            reason: reason.into(),
        });
    }

    fn node_port(&self, node: &Node) -> u16 {
        node.listen_port
            .unwrap_or(self.cluster.bgp.cluster_listen_port)
    }

    fn own_asn(&self) -> Asn {
        self.cluster.asn_of(self.own)
    }

    /// One session a family that both nodes have an address in; or one for all, where the annotation asks for that.
    fn addresses_towards(
        &self,
        node: &Node,
        margay: &Labels,
        only: Option<Family>,
    ) -> Vec<(IpAddr, Option<Vec<Family>>)> {
        let shared: Vec<IpAddr> = Family::ALL
            .into_iter()
            .filter(|family| {
                only.is_none_or(|only| only == *family) && self.own.bgp_address(*family).is_some()
            })
            .filter_map(|family| node.bgp_address(family))
            .collect();
        match wanted_families(margay) {
            Some(Ok(families)) if families.len() > 1 => shared
                .first()
                .map(|address| (*address, Some(families)))
                .into_iter()
                .collect(),
            _ => shared.into_iter().map(|address| (address, None)).collect(),
        }
    }

    fn explicit(&mut self, peer: &'a BgpPeer, origin: Origin) {
        if let Some(Err(reason)) = wanted_families(&peer.margay) {
            self.problem(
                format!("BGPPeer {}", peer.name),
                format!("annotation margay.io/{FAMILIES}: {reason}"),
            );
        }
        match &peer.remote {
            RemoteSide::Address { address, port, asn } => {
                self.explicit_address(peer, origin, *address, *port, *asn)
            }
            RemoteSide::Nodes(selector) => {
                let cluster = self.cluster;
                for node in cluster.nodes.values() {
                    if node.name != self.own.name && selector.matches(&node.labels) {
                        self.towards_node(peer, origin, node);
                    }
                }
            }
            RemoteSide::LocalWorkloads { selector, asn } => {
                let cluster = self.cluster;
                for workload in cluster
                    .workloads
                    .values()
                    .filter(|workload| selector.matches(&workload.labels))
                {
                    for address in &workload.addresses {
                        let mut session = self.session(
                            peer,
                            Origin::Workload,
                            *address,
                            DEFAULT_BGP_PORT,
                            *asn,
                            None,
                        );
                        session.passive = true;
                        session.source = None;
                        session.password = None;
                        self.apply_local_asn(&mut session, peer);
                        self.add(session);
                    }
                }
            }
        }
    }

    fn explicit_address(
        &mut self,
        peer: &'a BgpPeer,
        origin: Origin,
        address: IpAddr,
        port: Option<u16>,
        asn: Option<Asn>,
    ) {
        if self
            .by_address
            .get(&address)
            .is_some_and(|node| node.name == self.own.name)
        {
            return;
        }
        let subject = format!("BGPPeer {}", peer.name);
        if self.own.bgp_address(family_of(address)).is_none() {
            self.problem(
                subject,
                format!("spec.peerIP: {address} is of a family this node has no BGP address in"),
            );
            return;
        }
        let node = self.by_address.get(&address).copied();
        let Some(asn) = asn
            .or_else(|| node.map(|node| self.cluster.asn_of(node)))
            .filter(|asn| asn.0 != 0)
        else {
            self.problem(
                subject,
                format!(
                    "spec.asNumber: {address} is no node of the cluster, so its AS must be given"
                ),
            );
            return;
        };
        let node_port = node
            .filter(|node| self.cluster.asn_of(node) == asn)
            .map(|node| self.node_port(node));
        let port = port.or(node_port).unwrap_or(DEFAULT_BGP_PORT);
        let mut session = self.session(peer, origin, address, port, asn, node);
        if origin == Origin::Global && node.is_some() {
            session.passive = self.waits_for(address);
        }
        self.apply_local_asn(&mut session, peer);
        session.allowed_local_as = peer.num_allowed_local_as_numbers;
        self.settle(&mut session, peer);
        self.add(session);
    }

    fn apply_local_asn(&self, session: &mut Session, peer: &BgpPeer) {
        if let Some(asn) = peer.local_asn {
            session.local_asn = asn;
        }
        self.reflect(session);
    }

    /// Both ends would dial; the one with the lexically smaller address waits instead. Text and not number is compared because
    /// Calico's nodes do so: with two rules there would be pairs in which nobody dials.
    fn waits_for(&self, peer: IpAddr) -> bool {
        self.own
            .bgp_address(family_of(peer))
            .is_some_and(|own| peer.to_string() > own.to_string())
    }

    fn towards_node(&mut self, peer: &'a BgpPeer, origin: Origin, node: &'a Node) {
        for (address, families) in self.addresses_towards(node, &peer.margay, None) {
            let mut session = self.session(
                peer,
                origin,
                address,
                self.node_port(node),
                self.cluster.asn_of(node),
                Some(node),
            );
            if let Some(families) = families {
                session.families = families;
            }
            if origin == Origin::Global {
                session.passive = self.waits_for(address);
            }
            self.reflect(&mut session);
            self.settle(&mut session, peer);
            self.add(session);
        }
    }

    fn reverse(&mut self, peer: &'a BgpPeer) {
        if peer.reverse_peering == ReversePeering::Manual {
            return;
        }
        let only = match &peer.remote {
            RemoteSide::LocalWorkloads { .. } => return,
            RemoteSide::Nodes(selector) if selector.matches(&self.own.labels) => None,
            RemoteSide::Nodes(_) => return,
            RemoteSide::Address { address, port, asn } => {
                let mine = self.own.bgp_address(family_of(*address)) == Some(*address)
                    && asn.is_none_or(|asn| asn == self.own_asn())
                    && port.is_none_or(|port| port == self.node_port(self.own));
                if !mine {
                    return;
                }
                Some(family_of(*address))
            }
        };
        let cluster = self.cluster;
        for node in cluster.nodes.values() {
            if node.name == self.own.name || !local_side_matches(&peer.local, node) {
                continue;
            }
            for (address, families) in self.addresses_towards(node, &peer.margay, only) {
                let mut session = self.session(
                    peer,
                    Origin::Reverse,
                    address,
                    self.node_port(node),
                    self.cluster.asn_of(node),
                    Some(node),
                );
                if let Some(families) = families {
                    session.families = families;
                }
                self.reflect(&mut session);
                self.settle(&mut session, peer);
                self.add(session);
            }
        }
    }

    fn mesh(&mut self) {
        let bgp = &self.cluster.bgp;
        if !bgp.mesh_enabled || self.own.route_reflector_cluster_id.is_some() {
            return;
        }
        let cluster = self.cluster;
        if let Some(Err(reason)) = wanted_families(&cluster.bgp.margay) {
            self.problem(
                "BGPConfiguration default".into(),
                format!("annotation margay.io/{FAMILIES}: {reason}"),
            );
        }
        for node in cluster.nodes.values() {
            if node.name == self.own.name || node.route_reflector_cluster_id.is_some() {
                continue;
            }
            for (address, families) in self.addresses_towards(node, &bgp.margay, None) {
                let local_asn = self.own_asn();
                self.add(Session {
                    origin: Origin::Mesh,
                    object: node.name.clone(),
                    address,
                    port: self.node_port(node),
                    families: families.unwrap_or_else(|| vec![family_of(address)]),
                    asn: cluster.asn_of(node),
                    local_asn,
                    source: self.own.bgp_address(family_of(address)),
                    passive: self.waits_for(address),
                    route_reflector_client: false,
                    cluster_id: None,
                    ttl_security: None,
                    restart_time: whole_seconds(
                        bgp.mesh_max_restart_time.unwrap_or(DEFAULT_RESTART_TIME),
                    ),
                    keepalive_time: None,
                    next_hop_mode: NextHopMode::Auto,
                    allowed_local_as: 0,
                    password: bgp.mesh_password.clone(),
                    filters: Vec::new(),
                    reachable_by: None,
                    node: Some(node.name.clone()),
                    margay: bgp
                        .margay
                        .iter()
                        .filter(|(field, _)| !SPEAKER_FIELDS.contains(&field.as_str()))
                        .map(|(field, text)| (field.clone(), text.clone()))
                        .collect(),
                });
            }
        }
    }

    /// What forward and reverse peerings of a BGPPeer share.
    fn session(
        &self,
        peer: &BgpPeer,
        origin: Origin,
        address: IpAddr,
        port: u16,
        asn: Asn,
        node: Option<&Node>,
    ) -> Session {
        let families = match wanted_families(&peer.margay) {
            Some(Ok(families)) => families,
            Some(Err(_)) | None => vec![family_of(address)],
        };
        Session {
            origin,
            object: peer.name.clone(),
            address,
            port,
            families,
            asn,
            local_asn: self.own_asn(),
            source: match peer.source_address {
                SourceAddress::UseNodeIp => self.own.bgp_address(family_of(address)),
                SourceAddress::None => None,
            },
            passive: false,
            route_reflector_client: false,
            cluster_id: None,
            ttl_security: peer.ttl_security,
            restart_time: whole_seconds(peer.max_restart_time.unwrap_or(DEFAULT_RESTART_TIME)),
            keepalive_time: peer.keepalive_time.map(whole_seconds),
            next_hop_mode: peer.next_hop_mode,
            allowed_local_as: 0,
            password: peer.password.clone(),
            filters: peer.filters.clone(),
            reachable_by: peer.reachable_by,
            node: node.map(|node| node.name.clone()),
            margay: peer.margay.clone(),
        }
    }

    /// A peer inside our AS is a client of ours when we are a reflector, unless it is one of the same cluster.
    fn reflect(&self, session: &mut Session) {
        let Some(cluster_id) = self.own.route_reflector_cluster_id else {
            return;
        };
        let theirs = session
            .node
            .as_ref()
            .and_then(|name| self.cluster.nodes.get(name))
            .and_then(|node| node.route_reflector_cluster_id);
        if session.internal() && theirs != Some(cluster_id) {
            session.route_reflector_client = true;
            session.cluster_id = Some(cluster_id);
        }
    }

    /// `keepOriginalNextHop` speaks only of sessions between ASs, which are known once the local AS is.
    fn settle(&self, session: &mut Session, peer: &BgpPeer) {
        if peer.keep_original_next_hop && !session.internal() {
            session.next_hop_mode = NextHopMode::Keep;
        }
    }

    fn add(&mut self, session: Session) {
        self.sessions
            .entry((session.address, session.port))
            .or_insert(session);
    }
}

/// The families an annotation lists; `None` without one.
fn wanted_families(margay: &Labels) -> Option<Result<Vec<Family>, String>> {
    let text = margay.get(FAMILIES)?;
    let families: Result<Vec<Family>, _> =
        text.split(',').map(|name| name.trim().parse()).collect();
    Some(match families {
        Ok(mut families) => {
            families.sort_unstable();
            families.dedup();
            Ok(families)
        }
        Err(_) => Err(format!(
            "expected ipv4-unicast, ipv6-unicast, or both with a comma between, found {text:?}"
        )),
    })
}

/// Calico's configuration of BIRD knows whole seconds only.
fn whole_seconds(time: Duration) -> Duration {
    let up = u64::from(time.subsec_millis() >= 500);
    Duration::from_secs(time.as_secs().saturating_add(up))
}

/// The speaker's form of a session.
///
/// `None` where the session must not run: its secret is missing or unusable. What could not be honoured is added to `problems`.
#[must_use]
pub fn peer_config(
    cluster: &ClusterState,
    session: &Session,
    underlay: &Underlay,
    policies: &mut Policies,
    problems: &mut Vec<Problem>,
) -> Option<PeerConfig> {
    let subject = match session.origin {
        Origin::Mesh => format!("mesh session with {}", session.object),
        Origin::Global | Origin::Node | Origin::Reverse | Origin::Workload => {
            format!("BGPPeer {}", session.object)
        }
    };
    let mut problem = |reason: String| {
        problems.push(Problem {
            subject: subject.clone(),
            reason,
        })
    };
    let password = match &session.password {
        None => None,
        Some(reference) => match cluster
            .secret(reference)
            .map(|value| Secret::new(value.expose()))
        {
            Some(Ok(secret)) => Some(secret),
            Some(Err(error)) => {
                problem(format!(
                    "the session with {} stays down: secret {} key {}: {error}",
                    session.address, reference.name, reference.key
                ));
                return None;
            }
            None => {
                problem(format!(
                    "the session with {} stays down: secret {} has no key {} that margay may read",
                    session.address, reference.name, reference.key
                ));
                return None;
            }
        },
    };
    let mut import = filters::import(cluster, session);
    let mut export = filters::export(cluster, session, &mut problem);
    if requires_policy(&cluster.bgp.margay) && !session.internal() {
        let (of_import, of_export) = filters::speaks_of(cluster, session);
        if !of_import {
            import = Policy::reject_all();
        }
        if !of_export {
            export = Policy::reject_all();
        }
    }
    let (import, export) = (policies.share(import), policies.share(export));
    let mut peer = PeerConfig::new(
        session.name(),
        Remote::Address(SocketAddr::new(session.address, session.port)),
        session.asn,
        import,
        export,
    );
    peer.families.clone_from(&session.families);
    peer.local_asn = Some(session.local_asn).filter(|asn| *asn != own_asn(cluster));
    peer.local_address = session.source;
    peer.passive = session.passive;
    peer.route_reflector_client = session.route_reflector_client;
    peer.cluster_id = session.cluster_id;
    peer.keepalive = session.keepalive_time;
    let restart_time = session.restart_time.min(GracefulRestart::MAX_RESTART_TIME);
    peer.graceful_restart = (!restart_time.is_zero()).then(|| GracefulRestart {
        restart_time,
        // A helper that forgot us before we may come back would defeat the restart time.
        stale_time: GracefulRestart::default()
            .stale_time
            .max(restart_time.saturating_mul(3) / 2),
    });
    peer.password = password;
    peer.ttl_security = session.ttl_security;
    peer.next_hop = match session.next_hop_mode {
        NextHopMode::Auto => speaker::NextHopMode::Auto,
        // BIRD's `next hop self` holds for reflected routes too.
        NextHopMode::SelfAddress => speaker::NextHopMode::ForceSelf,
        NextHopMode::Keep => speaker::NextHopMode::Keep,
    };
    peer.link = link_of(cluster, session, underlay).map(Into::into);
    // Everything on the link to the peer is shared with it, in both families.
    if let Some(link) = underlay.connected_to(session.address) {
        peer.connected_subnets = underlay
            .connected
            .iter()
            .filter(|subnet| subnet.interface == link.interface)
            .map(|subnet| subnet.prefix)
            .collect();
        peer.connected_subnets.sort_unstable();
        peer.connected_subnets.dedup();
    }
    peer.next_hop_address = session
        .families
        .iter()
        .find(|family| **family != family_of(session.address))
        .and_then(|family| cluster.own_node()?.bgp_address(*family));
    peer.allowed_local_as = session.allowed_local_as;
    // Adding a family must not change what the peers of Calico's sort are offered.
    peer.extended_next_hop = false;
    peer.add_path_send = session.internal().then(|| add_path_send(cluster, session));
    let annotations = session
        .margay
        .iter()
        .filter(|(field, _)| *field != FAMILIES)
        .map(|(field, text)| (field.as_str(), text.as_str()));
    for (field, reason) in annotate_peer(&mut peer, session.local_asn, annotations) {
        problem(format!("annotation margay.io/{field}: {reason}"));
    }
    Some(peer)
}

/// The interface that packets to the peer leave by, where it is on a link of this node.
#[must_use]
pub(super) fn link_of<'a>(
    cluster: &'a ClusterState,
    session: &Session,
    underlay: &'a Underlay,
) -> Option<&'a str> {
    if session.origin == Origin::Workload {
        let mut pods = cluster.workloads.values();
        let pod = pods.find(|pod| pod.addresses.contains(&session.address));
        return pod.map(|pod| pod.host_interface.as_str());
    }
    let subnet = underlay.connected_to(session.address)?;
    Some(subnet.interface.as_str())
}

/// How many paths of a prefix a peer of our AS is told. A client is told all, as by Calico's reflectors: otherwise it could not use
/// several nodes with one address at once. Other peers are told one, but under an identifier too: whether a peer is a client may
/// then change without a new session. Reflectors that are each other's clients count as such others: of what they tell each other
/// of each other there would be as many paths as ways around.
fn add_path_send(cluster: &ClusterState, session: &Session) -> AddPathSend {
    let reflects = session
        .node
        .as_ref()
        .and_then(|name| cluster.nodes.get(name))
        .is_some_and(|node| node.route_reflector_cluster_id.is_some());
    if session.route_reflector_client && !reflects {
        AddPathSend::All
    } else {
        AddPathSend::Best(NonZeroU8::MIN)
    }
}

fn own_asn(cluster: &ClusterState) -> Asn {
    cluster
        .own_node()
        .map_or(cluster.bgp.asn, |node| cluster.asn_of(node))
}

/// Policies that several sessions share: what is told to many is compared and kept once.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    known: Vec<Arc<Policy>>,
}

impl Policies {
    fn share(&mut self, policy: Policy) -> Arc<Policy> {
        // A cluster has a handful of different policies, whatever the number of its nodes.
        if let Some(known) = self.known.iter().find(|known| ***known == policy) {
            return Arc::clone(known);
        }
        let policy = Arc::new(policy);
        self.known.push(Arc::clone(&policy));
        policy
    }
}
