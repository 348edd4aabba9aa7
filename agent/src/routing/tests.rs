//! The task with real speakers on loopback addresses, and channels in place of datastore and kernel.

use std::net::{IpAddr, Ipv4Addr};

use margay_bgp::prefix::Prefix;

use super::*;
use crate::desired::state::ConnectedSubnet;
use crate::health::Health;
use crate::kernel::{RouteKey, RouteKind};
use crate::model::{
    AllowedUse, AssignmentMode, Block, Encapsulation, IpPool, Node, NodeAddress, Selector,
};

/// Longer than anything below takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

/// Two nodes with a block each, on addresses of their own so that tests do not meet.
fn cluster(me: &str, net: u8, port: u16) -> ClusterState {
    let node = |name: &str, last: u8| Node {
        name: name.into(),
        ipv4: Some(NodeAddress {
            address: Ipv4Addr::new(127, 77, net, last),
            prefix_len: 24,
        }),
        ..Node::default()
    };
    let block = |cidr: &str, host: &str| {
        let cidr = prefix(cidr);
        let block = Block {
            cidr,
            host: Some(host.into()),
            confirmed: true,
            borrowed: BTreeMap::new(),
            allocated: 0,
        };
        (cidr, block)
    };
    let pool = IpPool {
        name: "p".into(),
        cidr: prefix("10.65.0.0/16"),
        encapsulation: Encapsulation::None,
        nat_outgoing: false,
        disabled: false,
        disable_bgp_export: false,
        block_size: 26,
        node_selector: Selector::all(),
        namespace_selector: Selector::all(),
        allowed_uses: [AllowedUse::Workload].into(),
        assignment_mode: AssignmentMode::Automatic,
    };
    let mut cluster = ClusterState {
        node_name: me.into(),
        in_sync: true,
        datastore_ready: true,
        nodes: [node("n1", 1), node("n2", 2)]
            .map(|node| (node.name.clone(), node))
            .into(),
        pools: [("p".to_owned(), pool)].into(),
        blocks: [block("10.65.1.0/26", "n1"), block("10.65.2.0/26", "n2")].into(),
        ..ClusterState::default()
    };
    cluster.bgp.listen_port = port;
    cluster.bgp.cluster_listen_port = port;
    cluster.bgp.bind_mode = crate::model::BindMode::NodeIp;
    cluster
}

struct Running {
    routing: Routing,
    join: JoinHandle<()>,
    stop: CancellationToken,
    cluster: watch::Sender<Arc<ClusterState>>,
    desired: watch::Receiver<Option<Arc<DesiredState>>>,
    _underlay: watch::Sender<Option<Arc<Underlay>>>,
}

fn start(state: ClusterState, restarting: bool) -> Running {
    let own = state
        .own_node()
        .and_then(|node| node.ipv4)
        .map(|own| IpAddr::V4(own.address));
    let address = own.expect("an address");
    let underlay = Underlay {
        connected: vec![ConnectedSubnet {
            prefix: Prefix::new(address, 24).expect("a prefix"),
            interface: "lo".into(),
            address,
        }],
        ..Underlay::default()
    };
    let (cluster, cluster_seen) = watch::channel(Arc::new(state));
    let (underlay, underlay_seen) = watch::channel(Some(Arc::new(underlay)));
    let (desired, desired_seen) = watch::channel(None);
    let health = Health::default();
    let stop = CancellationToken::new();
    let parts = RoutingParts {
        cluster: cluster_seen,
        underlay: underlay_seen,
        desired,
        protocol: 109,
        restarting,
        unexplained: Arc::default(),
        seed: 7,
        heartbeat: health.heartbeat("routing", PATIENCE),
        speaker_ready: health.latch("speaker"),
        metrics: Metrics::new().expect("metrics"),
    };
    let (routing, join) = spawn(parts, stop.clone());
    Running {
        routing,
        join,
        stop,
        cluster,
        desired: desired_seen,
        _underlay: underlay,
    }
}

impl Running {
    /// Waits until the desired state is as asked.
    async fn until(&mut self, what: &str, holds: impl Fn(&DesiredState) -> bool) {
        let wait = self
            .desired
            .wait_for(|state| state.as_ref().is_some_and(|state| holds(state)));
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
            .expect("the task runs");
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.join)
            .await
            .expect("ends in time")
            .expect("ends well");
    }
}

fn has(state: &DesiredState, to: &str) -> bool {
    state.routes.contains_key(&RouteKey::main(prefix(to), 0))
}

/// A port of this host that nobody uses at the moment.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_learn_each_others_blocks_and_forget_them_with_the_session() {
    let port = free_port();
    let mut one = start(cluster("n1", 1, port), false);
    let mut two = start(cluster("n2", 1, port), false);
    one.until("n2's block on n1", |state| has(state, "10.65.2.0/26"))
        .await;
    two.until("n1's block on n2", |state| has(state, "10.65.1.0/26"))
        .await;
    one.until("tables are complete", |state| {
        state.keep_unlisted.is_empty()
    })
    .await;

    let peers = one.routing.snapshot().await.expect("runs").peers;
    let [peer] = peers.as_slice() else {
        panic!("one peer")
    };
    let name = peer.name.to_string();
    assert!(
        one.routing
            .disable(name.clone(), Some("bye".into()))
            .await
            .expect("runs")
    );
    one.until("the route goes with its session", |state| {
        !has(state, "10.65.2.0/26")
    })
    .await;
    assert!(one.routing.enable(name).await.expect("runs"));
    one.until("and comes back", |state| has(state, "10.65.2.0/26"))
        .await;

    assert!(
        one.routing
            .drain(Some(peer.name.to_string()), true)
            .await
            .expect("runs")
    );
    assert!(one.routing.drain(None, false).await.expect("runs"));
    assert!(
        !one.routing
            .drain(Some("nobody".into()), true)
            .await
            .expect("runs")
    );

    // A node that leaves the cluster takes its session and routes along.
    let mut without = cluster("n1", 1, port);
    without.nodes.remove("n2");
    one.cluster.send_replace(Arc::new(without));
    one.until("the node is forgotten", |state| !has(state, "10.65.2.0/26"))
        .await;
    one.end().await;
    two.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_removes_nothing_before_its_peers_have_told_everything() {
    let port = free_port();
    let mut one = start(cluster("n1", 2, port), true);
    one.until("nothing may be removed yet", |state| {
        state.in_sync && state.keep_unlisted.contains(&Family::IPV4_UNICAST)
    })
    .await;
    let two = start(cluster("n2", 2, port), false);
    one.until(
        "the table is complete with the peer's block in it",
        |state| !state.keep_unlisted.contains(&Family::IPV4_UNICAST) && has(state, "10.65.2.0/26"),
    )
    .await;
    one.end().await;
    two.end().await;
}

/// A speaker of another make at 127.77.`net`.2, which waits for `n1` and originates one prefix.
async fn neighbour(net: u8, port: u16, originates: &str) -> SpeakerHandle {
    use margay_bgp::policy::Policy;
    use margay_bgp::speaker::config::{Originate, PeerConfig, Remote};

    let own = Ipv4Addr::new(127, 77, net, 2);
    let asn = ClusterState::default().bgp.asn;
    let router_id = own.try_into().expect("an identifier");
    let mut config = SpeakerConfig::new(asn, router_id);
    config
        .listen
        .push(std::net::SocketAddr::from((own, port)).into());
    config.originate.push(Originate::new(prefix(originates)));
    let n1 = std::net::SocketAddr::from(([127, 77, net, 1], port));
    let all = Arc::new(Policy::accept_all());
    config.peers.push(PeerConfig {
        passive: true,
        ..PeerConfig::new("n1", Remote::Address(n1), asn, Arc::clone(&all), all)
    });
    let (handle, mut events, _join) = transport::start(config, SpeakerOptions::default())
        .await
        .expect("it starts");
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    handle
}

/// `n1` alone, with a BGPPeer at this port of 127.77.`net`.2 to which the path is watched.
fn peering(net: u8, own_port: u16, port: u16) -> ClusterState {
    use crate::model::{BgpPeer, LocalSide, RemoteSide};

    let mut cluster = cluster("n1", net, own_port);
    cluster.nodes.remove("n2");
    let remote = RemoteSide::Address {
        address: Ipv4Addr::new(127, 77, net, 2).into(),
        port: Some(port),
        asn: Some(cluster.bgp.asn),
    };
    let mut peer = BgpPeer::plain("other", LocalSide::AllNodes, remote);
    peer.margay = [("bfd".to_owned(), "true".to_owned())].into();
    cluster.peers.insert(peer.name.clone(), peer);
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_only_waited_for_ends_where_the_wanted_one_cannot_be_had_beside_it() {
    let [port, before, after] = std::array::from_fn(|_| free_port());
    let _neighbours = [
        neighbour(4, before, "10.66.1.0/24").await,
        neighbour(4, after, "10.66.2.0/24").await,
    ];
    let mut one = start(peering(4, port, before), false);
    one.until("the route by the first port", |state| {
        has(state, "10.66.1.0/24")
    })
    .await;
    // There is one BFD session between two addresses, so one of the two ports cannot be watched.
    one.cluster.send_replace(Arc::new(peering(4, port, after)));
    let mut views = one.routing.view();
    let wanted = |view: &View| view.sessions.iter().any(|session| session.port == after);
    let changed = tokio::time::timeout(PATIENCE, views.wait_for(|view| wanted(view)));
    let view = Arc::clone(&changed.await.expect("in time").expect("it runs"));
    assert_eq!(view.lingering, [""; 0]);
    assert!(view.problems.is_empty(), "{:?}", view.problems);
    one.until("the route by the other port and no other", |state| {
        has(state, "10.66.2.0/24") && !has(state, "10.66.1.0/24")
    })
    .await;
    one.end().await;
}

#[tokio::test]
async fn without_a_datastore_nothing_is_desired_and_no_session_runs() {
    let mut state = cluster("n1", 3, free_port());
    state.in_sync = false;
    let running = start(state, false);
    // The command is answered by the same loop that would have computed a state.
    assert!(
        !running
            .routing
            .disable("x".into(), None)
            .await
            .expect("runs")
    );
    assert!(running.desired.borrow().is_none());
    assert_eq!(running.routing.snapshot().await.err(), Some(NotRunning));
    running.end().await;
}

#[test]
fn an_aggregate_of_ours_drops_what_nothing_inside_it_leads_on() {
    use margay_bgp::rib::{BestRoute, RouteChange, RouteSource};

    let ours = |discard| RouteChange {
        prefix: prefix("10.0.0.0/8"),
        best: Some(BestRoute {
            next_hops: Vec::new(),
            weights: Vec::new(),
            source: RouteSource::Local,
            local_pref: margay_bgp::codec::LocalPref(100),
            med: None,
            as_path_len: 0,
            origin_as: None,
            communities: Vec::new(),
            large_communities: Vec::new(),
            stale: false,
            discard,
        }),
    };
    let settings = Settings {
        protocol: 117,
        keep_unlisted: BTreeSet::new(),
        option_memory: 0,
    };
    let mut best = BestRoutes::default();
    let underlay = Underlay::default();
    apply(&mut best, ours(true));
    let state = crate::desired::router(&best, &underlay, &settings);
    let dropped = state
        .routes
        .values()
        .filter(|route| route.kind == RouteKind::Blackhole);
    assert_eq!(dropped.count(), 1, "{:?}", state.problems);
    apply(&mut best, ours(false));
    let state = crate::desired::router(&best, &underlay, &settings);
    assert!(state.routes.is_empty());
}
