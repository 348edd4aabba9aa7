//! Named clusters and what a node makes of them. Every cluster is built from its pieces in the order written, reversed, and
//! shuffled several times; the result must be the same.

mod clashes;
mod filters;
mod reflectors;

use std::net::IpAddr;

use margay_bgp::asn::Asn;
use margay_bgp::codec::attribute::PathAttributes;
use margay_bgp::policy::{Policy, RouteView, SourceKind};
use margay_bgp::router_id::RouterId;

use super::speaker::speaker_plan;
use super::state::{ConnectedSubnet, UnderlayLink, UnderlayRoute};
use super::*;
use crate::kernel::KernelNextHop;
use crate::model::{
    AllowedUse, AssignmentMode, BgpPeer, Block, CommunityValue, Encapsulation, EncapsulationMode,
    IpPool, LocalSide, NextHopMode, Node, NodeAddress, PrefixAdvertisement, RemoteSide,
    ReversePeering, SecretKeyRef, SecretValue, Selector, SourceAddress, Workload, WorkloadKey,
};

/// One object of a cluster.
#[derive(Clone)]
enum Piece {
    Node(Node),
    Pool(IpPool),
    Block(Block),
    Peer(BgpPeer),
    Pod(Workload),
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

fn node(name: &str, ipv4: &str) -> Node {
    let (ip, len) = ipv4.split_once('/').expect("a CIDR");
    Node {
        name: name.into(),
        ipv4: Some(NodeAddress {
            address: ip.parse().expect("an address"),
            prefix_len: len.parse().expect("a length"),
        }),
        labels: [("kubernetes.io/hostname".to_owned(), name.to_owned())].into(),
        ..Node::default()
    }
}

fn reflector(name: &str, ipv4: &str, cluster: &str) -> Node {
    let mut node = node(name, ipv4);
    node.route_reflector_cluster_id = Some(cluster.parse::<RouterId>().expect("an id"));
    node.labels.insert("rr".into(), "true".into());
    node
}

fn pool(cidr: &str, encapsulation: Encapsulation) -> IpPool {
    IpPool {
        name: cidr.replace(['/', '.', ':'], "-"),
        cidr: prefix(cidr),
        encapsulation,
        nat_outgoing: true,
        disabled: false,
        disable_bgp_export: false,
        block_size: 26,
        node_selector: Selector::all(),
        namespace_selector: Selector::all(),
        allowed_uses: [AllowedUse::Workload, AllowedUse::Tunnel].into(),
        assignment_mode: AssignmentMode::Automatic,
    }
}

fn block(cidr: &str, host: &str) -> Block {
    Block {
        cidr: prefix(cidr),
        host: Some(host.into()),
        confirmed: true,
        borrowed: BTreeMap::new(),
        allocated: 0,
    }
}

fn pod(name: &str, ip: &str) -> Workload {
    Workload {
        key: WorkloadKey {
            container_id: name.into(),
            ifname: "eth0".into(),
        },
        namespace: "default".into(),
        pod: name.into(),
        labels: BTreeMap::new(),
        host_interface: format!("cali{name}"),
        addresses: vec![address(ip)],
        netns: "/run/netns/x".into(),
        handle_id: format!("k8s-pod-network.{name}"),
    }
}

fn peer(name: &str, local: LocalSide, remote: RemoteSide) -> BgpPeer {
    BgpPeer {
        name: name.into(),
        local,
        remote,
        local_asn: None,
        next_hop_mode: NextHopMode::Auto,
        keep_original_next_hop: false,
        password: None,
        source_address: SourceAddress::UseNodeIp,
        max_restart_time: None,
        keepalive_time: None,
        num_allowed_local_as_numbers: 0,
        ttl_security: None,
        reachable_by: None,
        filters: Vec::new(),
        reverse_peering: ReversePeering::Auto,
        margay: BTreeMap::new(),
    }
}

fn at(ip: &str, asn: u32) -> RemoteSide {
    RemoteSide::Address {
        address: address(ip),
        port: None,
        asn: Some(Asn(asn)),
    }
}

fn selector(text: &str) -> Selector {
    Selector::parse(text).expect("a selector")
}

/// A cluster seen from `me`, built in the given order.
fn build(me: &str, pieces: &[Piece]) -> ClusterState {
    let mut cluster = ClusterState {
        node_name: me.into(),
        in_sync: true,
        datastore_ready: true,
        ..ClusterState::default()
    };
    for piece in pieces.iter().cloned() {
        match piece {
            Piece::Node(node) => {
                cluster.nodes.insert(node.name.clone(), node);
            }
            Piece::Pool(pool) => {
                cluster.pools.insert(pool.name.clone(), pool);
            }
            Piece::Block(block) => {
                cluster.blocks.insert(block.cidr, block);
            }
            Piece::Peer(peer) => {
                cluster.peers.insert(peer.name.clone(), peer);
            }
            Piece::Pod(pod) => {
                cluster.workloads.insert(pod.key.clone(), pod);
            }
        }
    }
    cluster
}

/// Computes something from every order of the pieces and returns the one result.
#[track_caller]
fn in_any_order<T: PartialEq + std::fmt::Debug>(
    me: &str,
    pieces: &[Piece],
    compute: impl Fn(&ClusterState) -> T,
) -> T {
    let expected = compute(&build(me, pieces));
    let mut orders: Vec<Vec<Piece>> = vec![pieces.iter().rev().cloned().collect()];
    // A fixed stride that has no divisor in common with the length visits every piece once.
    for stride in 2..7_usize {
        if (2..=stride)
            .all(|divisor| !stride.is_multiple_of(divisor) || !pieces.len().is_multiple_of(divisor))
        {
            orders.push(
                (0..pieces.len())
                    .map(|index| pieces[index * stride % pieces.len()].clone())
                    .collect(),
            );
        }
    }
    for order in orders {
        assert_eq!(compute(&build(me, &order)), expected);
    }
    expected
}

fn underlay() -> Underlay {
    let own = |cidr: &str, ip: &str| ConnectedSubnet {
        prefix: prefix(cidr),
        interface: "eth0".into(),
        address: address(ip),
    };
    let route = |cidr: &str, via: Option<&str>| UnderlayRoute {
        prefix: prefix(cidr),
        metric: 0,
        next_hops: vec![KernelNextHop {
            via: via.map(address),
            interface: Some("eth0".into()),
            onlink: false,
            weight: 1,
        }],
        source: None,
        protocol: 4,
    };
    Underlay {
        connected: vec![
            own("10.0.1.0/24", "10.0.1.2"),
            own("fd00:1::/64", "fd00:1::2"),
        ],
        routes: vec![
            route("10.0.1.0/24", None),
            route("0.0.0.0/0", Some("10.0.1.1")),
            route("fd00:1::/64", None),
            route("::/0", Some("fd00:1::1")),
        ],
        links: [(
            "eth0".to_owned(),
            UnderlayLink {
                mtu: 1500,
                up: true,
                running: true,
            },
        )]
        .into(),
        ipip_available: true,
    }
}

fn learned(routes: &[(&str, &[&str])]) -> BestRoutes {
    BestRoutes {
        routes: routes
            .iter()
            .map(|(to, hops)| {
                let next_hops = hops
                    .iter()
                    .map(|hop| LearnedHop {
                        address: address(hop),
                        interface: None,
                        weight: None,
                    })
                    .collect();
                (
                    prefix(to),
                    Learned {
                        next_hops,
                        peer: hops[0].to_owned(),
                        local_pref: Some(100),
                        stale: false,
                        discard: false,
                    },
                )
            })
            .collect(),
    }
}

fn settings() -> Settings {
    Settings {
        protocol: 109,
        keep_unlisted: BTreeSet::new(),
    }
}

fn compute(cluster: &ClusterState, best: &BestRoutes) -> DesiredState {
    desired(cluster, best, &underlay(), &settings())
}

/// Routes and problems as text, one a line.
fn text(state: &DesiredState) -> String {
    let routes = state
        .routes
        .iter()
        .map(|(key, route)| format!("{key} {route}"));
    let problems = state
        .problems
        .iter()
        .map(|problem| format!("! {}: {}", problem.subject, problem.reason));
    routes.chain(problems).collect::<Vec<_>>().join("\n")
}

fn two_racks(encapsulation: Encapsulation) -> Vec<Piece> {
    let mut nodes = [
        node("n1", "10.0.1.2/24"),
        node("n2", "10.0.1.3/24"),
        node("n3", "10.0.2.2/24"),
    ];
    for (index, node) in nodes.iter_mut().enumerate() {
        let octet = u8::try_from(index).expect("few nodes");
        node.ipip_tunnel = Some([10, 65, octet, 1].into());
        node.vxlan_tunnel_v4 = Some([10, 65, octet, 1].into());
    }
    let mut pieces: Vec<Piece> = nodes.into_iter().map(Piece::Node).collect();
    pieces.extend([
        Piece::Pool(pool("10.65.0.0/16", encapsulation)),
        Piece::Block(block("10.65.0.0/26", "n1")),
        Piece::Block(block("10.65.1.0/26", "n2")),
        Piece::Block(block("10.65.2.0/26", "n3")),
        Piece::Pod(pod("a", "10.65.0.5")),
    ]);
    pieces
}

fn mesh_routes() -> BestRoutes {
    learned(&[
        ("10.65.1.0/26", &["10.0.1.3"]),
        ("10.65.2.0/26", &["10.0.2.2"]),
    ])
}

#[test]
fn without_encapsulation_a_distant_node_is_reached_by_the_gateway_towards_it() {
    let state = in_any_order("n1", &two_racks(Encapsulation::None), |cluster| {
        compute(cluster, &mesh_routes())
    });
    insta::assert_snapshot!(text(&state), @r"
    10.65.0.0/26 blackhole proto 109
    10.65.0.5/32 dev calia proto 109
    10.65.1.0/26 via 10.0.1.3 dev eth0 proto 109
    10.65.2.0/26 via 10.0.1.1 dev eth0 proto 109
    ");
    assert!(state.ipip.is_none() && state.vxlan.is_empty());
}

#[test]
fn ipip_cross_subnet_tunnels_only_between_subnets() {
    let pieces = two_racks(Encapsulation::IpIp(EncapsulationMode::CrossSubnet));
    let state = in_any_order("n1", &pieces, |cluster| compute(cluster, &mesh_routes()));
    insta::assert_snapshot!(text(&state), @r"
    10.65.0.0/26 blackhole proto 109
    10.65.0.5/32 dev calia proto 109
    10.65.1.0/26 via 10.0.1.3 dev eth0 proto 109
    10.65.2.0/26 via 10.0.2.2 dev tunl0 onlink mtu 1480 proto 109
    ");
    assert_eq!(
        state.ipip.and_then(|device| device.address),
        Some([10, 65, 0, 1].into())
    );
}

#[test]
fn a_node_whose_tunnel_address_is_missing_keeps_device_and_routes() {
    for encapsulation in [Encapsulation::IpIp, Encapsulation::Vxlan] {
        let mut pieces = two_racks(encapsulation(EncapsulationMode::CrossSubnet));
        let with = compute(&build("n1", &pieces), &mesh_routes());
        for piece in &mut pieces {
            if let Piece::Node(node) = piece
                && node.name == "n1"
            {
                (node.ipip_tunnel, node.vxlan_tunnel_v4) = (None, None);
            }
        }
        let without = compute(&build("n1", &pieces), &mesh_routes());
        assert_eq!(without.routes, with.routes);
        assert_eq!(without.ipip.is_some(), with.ipip.is_some());
        assert_eq!(without.vxlan.len(), with.vxlan.len());
        assert!(without.problems.len() > with.problems.len());
    }
}

#[test]
fn ipip_always_tunnels_inside_the_subnet_too() {
    let pieces = two_racks(Encapsulation::IpIp(EncapsulationMode::Always));
    let state = in_any_order("n1", &pieces, |cluster| compute(cluster, &mesh_routes()));
    assert!(text(&state).contains("10.65.1.0/26 via 10.0.1.3 dev tunl0 onlink mtu 1480"));
}

#[test]
fn without_ipip_in_the_kernel_the_pool_is_a_problem_and_nothing_goes_unencapsulated() {
    let cluster = build(
        "n1",
        &two_racks(Encapsulation::IpIp(EncapsulationMode::CrossSubnet)),
    );
    let mut underlay = underlay();
    underlay.ipip_available = false;
    let state = desired(&cluster, &mesh_routes(), &underlay, &settings());
    insta::assert_snapshot!(text(&state), @r"
    10.65.0.0/26 blackhole proto 109
    10.65.0.5/32 dev calia proto 109
    10.65.1.0/26 via 10.0.1.3 dev eth0 proto 109
    ! IPPool 10-65-0-0-16: spec.ipipMode: this kernel cannot do IP-in-IP (load the module ipip, or use vxlanMode)
    ! route 10.65.2.0/26: from 10.0.2.2: tunl0 is not there (see the problems of its pool and node)
    ");
}

#[test]
fn vxlan_routes_come_from_blocks_and_not_from_bgp() {
    let pieces = two_racks(Encapsulation::Vxlan(EncapsulationMode::CrossSubnet));
    let state = in_any_order("n1", &pieces, |cluster| {
        compute(cluster, &learned(&[("10.65.9.0/26", &["10.0.1.3"])]))
    });
    insta::assert_snapshot!(text(&state), @r"
    10.65.0.0/26 blackhole proto 109
    10.65.0.5/32 dev calia proto 109
    10.65.1.0/26 via 10.0.1.3 dev eth0 proto 109
    10.65.2.0/26 via 10.65.2.1 dev vxlan.calico onlink mtu 1450 proto 109
    ");
    let device = &state.vxlan[&Family::IPV4_UNICAST];
    assert_eq!(device.address, Some(address("10.65.0.1")));
    assert_eq!(device.local, address("10.0.1.2"));
    assert_eq!(device.parent.as_deref(), Some("eth0"));
    let vteps: Vec<&str> = device.vteps.iter().map(|vtep| vtep.node.as_str()).collect();
    assert_eq!(vteps, ["n2", "n3"]);
}

#[test]
fn a_vxlan_route_waits_for_the_other_nodes_tunnel_address() {
    let mut pieces = two_racks(Encapsulation::Vxlan(EncapsulationMode::Always));
    pieces.push(Piece::Node(node("n4", "10.0.2.9/24")));
    pieces.push(Piece::Block(block("10.65.4.0/26", "n4")));
    pieces.push(Piece::Block(block("10.65.5.0/26", "gone")));
    let state = in_any_order("n1", &pieces, |cluster| {
        compute(cluster, &BestRoutes::default())
    });
    insta::assert_snapshot!(text(&state), @r"
    10.65.0.0/26 blackhole proto 109
    10.65.0.5/32 dev calia proto 109
    10.65.1.0/26 via 10.65.1.1 dev vxlan.calico onlink mtu 1450 proto 109
    10.65.2.0/26 via 10.65.2.1 dev vxlan.calico onlink mtu 1450 proto 109
    ! route 10.65.4.0/26: node n4 has no VXLAN tunnel address yet
    ! route 10.65.5.0/26: node gone has no Node object
    ");
}

#[test]
fn borrowed_addresses_have_routes_of_their_own() {
    let mut pieces = two_racks(Encapsulation::Vxlan(EncapsulationMode::CrossSubnet));
    let mut lent = block("10.65.0.0/26", "n1");
    lent.borrowed.insert(address("10.65.0.9"), "n3".into());
    let mut taken = block("10.65.2.0/26", "n3");
    taken.borrowed.insert(address("10.65.2.9"), "n1".into());
    pieces.extend([
        Piece::Block(lent),
        Piece::Block(taken),
        Piece::Pod(pod("b", "10.65.2.9")),
    ]);
    let cluster = build("n1", &pieces);
    let state = compute(&cluster, &BestRoutes::default());
    let text = text(&state);
    assert!(
        text.contains("10.65.0.9/32 via 10.65.2.1 dev vxlan.calico onlink"),
        "{text}"
    );
    assert!(text.contains("10.65.2.9/32 dev calib"), "{text}");
    let originated = advertisements::originated(&cluster);
    let words: Vec<String> = originated
        .iter()
        .map(|(prefix, kind)| format!("{prefix} {}", kind.as_str()))
        .collect();
    assert_eq!(words, ["10.65.0.0/26 block", "10.65.2.9/32 borrowed"]);
}

#[test]
fn what_lies_in_no_pool_is_taken_from_bgp_but_never_instead_of_a_foreign_route_or_an_own_address() {
    let pieces = two_racks(Encapsulation::IpIp(EncapsulationMode::CrossSubnet));
    let best = learned(&[
        ("198.51.100.0/24", &["10.0.1.1"]),
        ("0.0.0.0/0", &["10.0.1.1"]),
        ("10.0.1.0/24", &["10.0.1.3"]),
        ("10.0.1.2/32", &["10.0.1.3"]),
        ("127.0.0.0/8", &["10.0.1.3"]),
        ("10.65.0.0/26", &["10.0.1.3"]),
        ("10.65.0.5/32", &["10.0.1.3"]),
        ("203.0.113.0/24", &["10.0.1.2"]),
    ]);
    let state = in_any_order("n1", &pieces, |cluster| compute(cluster, &best));
    insta::assert_snapshot!(text(&state), @r"
    10.65.0.0/26 blackhole proto 109
    10.65.0.5/32 dev calia proto 109
    198.51.100.0/24 via 10.0.1.1 dev eth0 proto 109
    ! route 0.0.0.0/0: from 10.0.1.1: the kernel has a route for it that is not margay's
    ! route 10.0.1.0/24: from 10.0.1.3: the kernel has a route for it that is not margay's
    ! route 10.0.1.2/32: from 10.0.1.3: an address of this node, refused
    ! route 127.0.0.0/8: from 10.0.1.3: not a prefix that is routed (loopback, link-local or multicast)
    ! route 203.0.113.0/24: from 10.0.1.2: next hop 10.0.1.2 is this node itself
    ");
}

#[test]
fn equal_paths_become_one_route_with_several_next_hops() {
    let cluster = build("n1", &two_racks(Encapsulation::None));
    let state = compute(
        &cluster,
        &learned(&[(
            "198.51.100.0/24",
            &["10.0.1.8", "10.0.1.7", "10.0.2.7", "10.0.2.8"],
        )]),
    );
    assert!(
        text(&state).contains("198.51.100.0/24 via 10.0.1.1 dev eth0 | via 10.0.1.7 dev eth0 | via 10.0.1.8 dev eth0 proto"),
        "{}",
        text(&state)
    );
}

#[test]
fn a_router_on_the_subnet_that_carries_pod_routes_is_used_as_it_is() {
    // Third-party next hop inside the rack, the ToR itself across racks; no node of the cluster is asked.
    let mut pieces = two_racks(Encapsulation::IpIp(EncapsulationMode::CrossSubnet));
    pieces.push(Piece::Block(block("10.65.3.0/26", "n3")));
    let best = learned(&[
        ("10.65.1.0/26", &["10.0.1.3"]),
        ("10.65.2.0/26", &["10.0.1.1"]),
        ("10.65.3.0/26", &["192.0.2.7"]),
    ]);
    let text = text(&compute(&build("n1", &pieces), &best));
    assert!(
        text.contains("10.65.1.0/26 via 10.0.1.3 dev eth0"),
        "{text}"
    );
    assert!(
        text.contains("10.65.2.0/26 via 10.0.1.1 dev eth0"),
        "{text}"
    );
    assert!(
        text.contains("! route 10.65.3.0/26: from 192.0.2.7: next hop 192.0.2.7 is no node"),
        "{text}"
    );
}

#[test]
fn metrics_follow_calicos_priorities_where_the_cluster_sets_them() {
    let mut cluster = build("n1", &two_racks(Encapsulation::None));
    cluster.bgp.ipv4_normal_route_priority = Some(1024);
    let mut best = mesh_routes();
    best.routes.values_mut().next().expect("a route").local_pref = Some(2_147_482_623);
    let text = text(&compute(&cluster, &best));
    assert!(
        text.contains("10.65.1.0/26 metric 1024 via 10.0.1.3"),
        "{text}"
    );
    assert!(
        text.contains("10.65.2.0/26 metric 2147483547 via 10.0.1.1"),
        "{text}"
    );
    assert!(
        text.contains("10.65.0.5/32 dev calia"),
        "a pod's route has metric 0: {text}"
    );
    let plan = speaker_plan(&cluster, &underlay()).expect("a plan");
    assert!(
        plan.config
            .originate
            .iter()
            .all(|route| route.local_pref.map(|pref| pref.0) == Some(2_147_482_623))
    );
}

#[test]
fn two_pods_with_one_address_are_a_problem_and_the_first_keeps_it() {
    let mut pieces = two_racks(Encapsulation::None);
    pieces.push(Piece::Pod(pod("b", "10.65.0.5")));
    pieces.push(Piece::Pod(pod("c", "10.0.1.2")));
    let text = in_any_order("n1", &pieces, |cluster| {
        text(&compute(cluster, &BestRoutes::default()))
    });
    assert!(text.contains("10.65.0.5/32 dev calia"), "{text}");
    assert!(
        text.contains("! pod default/b: 10.65.0.5 belongs to container a already"),
        "{text}"
    );
    assert!(
        text.contains("! pod default/c: 10.0.1.2 is an address of the node itself"),
        "{text}"
    );
}

#[test]
fn a_node_without_an_object_keeps_its_pods_and_removes_nothing() {
    let mut pieces = two_racks(Encapsulation::None);
    pieces.retain(|piece| !matches!(piece, Piece::Node(node) if node.name == "n1"));
    let cluster = build("n1", &pieces);
    let state = compute(&cluster, &BestRoutes::default());
    assert!(!state.in_sync);
    assert!(text(&state).contains("10.65.0.5/32 dev calia"));
    assert!(speaker_plan(&cluster, &underlay()).is_none());
}

#[test]
fn natting_pools_are_masqueraded_towards_what_is_in_no_pool() {
    let mut pieces = two_racks(Encapsulation::IpIp(EncapsulationMode::CrossSubnet));
    let mut other = pool("10.66.0.0/16", Encapsulation::None);
    other.nat_outgoing = false;
    let mut services = pool("10.67.0.0/24", Encapsulation::None);
    services.allowed_uses = [AllowedUse::LoadBalancer].into();
    pieces.extend([Piece::Pool(other), Piece::Pool(services)]);
    let state = in_any_order("n1", &pieces, |cluster| {
        compute(cluster, &BestRoutes::default())
    });
    assert_eq!(state.masquerade.outgoing, [prefix("10.65.0.0/16")].into());
    assert_eq!(
        state.masquerade.pools,
        [prefix("10.65.0.0/16"), prefix("10.66.0.0/16")].into()
    );
    assert_eq!(state.masquerade.tunnels.len(), 1);
    assert_eq!(
        state.sysctls.get("net.ipv4.ip_forward").map(String::as_str),
        Some("1")
    );
}

/// Sessions as text, one a line.
fn session_text(cluster: &ClusterState) -> String {
    let (sessions, problems) = peers::sessions(cluster);
    let lines = sessions.iter().map(|session| {
        format!(
            "{} {} {} as {}{}{}",
            session.origin.as_str(),
            session.object,
            session.name(),
            session.asn,
            if session.passive { " passive" } else { "" },
            if session.route_reflector_client {
                " client"
            } else {
                ""
            },
        )
    });
    let problems = problems
        .iter()
        .map(|problem| format!("! {}: {}", problem.subject, problem.reason));
    lines.chain(problems).collect::<Vec<_>>().join("\n")
}

fn four_nodes() -> Vec<Piece> {
    ["10.0.0.2", "10.0.0.9", "10.0.0.10", "10.0.0.11"]
        .iter()
        .enumerate()
        .map(|(index, ip)| Piece::Node(node(&format!("n{}", index + 1), &format!("{ip}/24"))))
        .collect()
}

#[test]
fn the_mesh_is_passive_by_the_text_of_addresses() {
    insta::assert_snapshot!(in_any_order("n2", &four_nodes(), session_text), @r"
    mesh n1 10.0.0.2 as 64512
    mesh n3 10.0.0.10 as 64512
    mesh n4 10.0.0.11 as 64512
    ");
    insta::assert_snapshot!(in_any_order("n3", &four_nodes(), session_text), @r"
    mesh n1 10.0.0.2 as 64512 passive
    mesh n2 10.0.0.9 as 64512 passive
    mesh n4 10.0.0.11 as 64512 passive
    ");
}

#[test]
fn of_each_pair_of_the_mesh_exactly_one_dials() {
    let pieces = four_nodes();
    let names = ["n1", "n2", "n3", "n4"];
    for one in names {
        for (session, problems) in [peers::sessions(&build(one, &pieces))] {
            assert!(problems.is_empty());
            for session in session {
                let back = peers::sessions(&build(&session.object, &pieces)).0;
                let mirror = back
                    .iter()
                    .find(|session| session.object == one)
                    .expect("a session back");
                assert_ne!(session.passive, mirror.passive);
            }
        }
    }
}

#[test]
fn manual_peers_have_no_mirror_image() {
    let mut pieces = reflectors::reflected();
    let mut manual = peer(
        "rr",
        LocalSide::Nodes(selector("all()")),
        RemoteSide::Nodes(selector("rr == 'true'")),
    );
    manual.reverse_peering = ReversePeering::Manual;
    pieces.push(Piece::Peer(manual));
    insta::assert_snapshot!(session_text(&build("n1", &pieces)), @"node rr 10.0.0.9 as 64512");
}

#[test]
fn a_global_peer_goes_before_a_peer_of_the_node_and_that_before_the_mesh() {
    let mut pieces = four_nodes();
    pieces.extend([
        Piece::Peer(peer("z-global", LocalSide::AllNodes, at("10.0.0.1", 64601))),
        Piece::Peer(peer(
            "a-node",
            LocalSide::Node("n1".into()),
            at("10.0.0.1", 64999),
        )),
        Piece::Peer(peer(
            "b-node",
            LocalSide::Node("n1".into()),
            at("10.0.0.9", 64512),
        )),
    ]);
    insta::assert_snapshot!(in_any_order("n1", &pieces, session_text), @r"
    global z-global 10.0.0.1 as 64601
    node b-node 10.0.0.9 as 64512
    mesh n3 10.0.0.10 as 64512
    mesh n4 10.0.0.11 as 64512
    ");
}

#[test]
fn a_global_peer_that_is_a_node_is_passive_like_the_mesh_and_skips_itself() {
    let mut pieces = four_nodes();
    pieces.push(Piece::Peer(peer(
        "g",
        LocalSide::AllNodes,
        at("10.0.0.9", 64512),
    )));
    assert!(session_text(&build("n1", &pieces)).contains("global g 10.0.0.9 as 64512 passive"));
    let own = session_text(&build("n2", &pieces));
    assert!(!own.contains("10.0.0.9 "), "{own}");
    assert!(own.contains("reverse g 10.0.0.2 as 64512"), "{own}");
}

#[test]
fn an_address_outside_the_cluster_needs_an_as() {
    let mut pieces = four_nodes();
    let remote = RemoteSide::Address {
        address: address("10.0.0.1"),
        port: None,
        asn: None,
    };
    pieces.push(Piece::Peer(peer("tor", LocalSide::AllNodes, remote)));
    assert!(
        session_text(&build("n1", &pieces))
            .contains("! BGPPeer tor: spec.asNumber: 10.0.0.1 is no node of the cluster")
    );
}

#[test]
fn one_session_a_family_unless_the_annotation_asks_for_one() {
    let dual = |name: &str, v4: &str, v6: &str| {
        let mut node = node(name, v4);
        node.ipv6 = Some(NodeAddress {
            address: v6.parse().expect("an address"),
            prefix_len: 64,
        });
        Piece::Node(node)
    };
    let mut pieces = vec![
        dual("n1", "10.0.1.2/24", "fd00:1::2"),
        dual("n2", "10.0.1.3/24", "fd00:1::3"),
    ];
    insta::assert_snapshot!(in_any_order("n1", &pieces, session_text), @r"
    mesh n2 10.0.1.3 as 64512 passive
    mesh n2 fd00:1::3 as 64512 passive
    ");
    let mut joined = peer(
        "joined",
        LocalSide::AllNodes,
        RemoteSide::Nodes(selector("all()")),
    );
    joined
        .margay
        .insert("families".into(), "ipv4-unicast,ipv6-unicast".into());
    pieces.push(Piece::Peer(joined));
    let mut cluster = build("n1", &pieces);
    cluster.bgp.mesh_enabled = false;
    let (sessions, _) = peers::sessions(&cluster);
    let [session] = sessions.as_slice() else {
        panic!("one session: {sessions:?}")
    };
    assert_eq!(session.families, Family::ALL);
    assert!(session.address.is_ipv4());
}

#[test]
fn a_missing_secret_keeps_the_session_down_and_a_present_one_never_shows() {
    let mut pieces = four_nodes();
    let mut tor = peer("tor", LocalSide::AllNodes, at("10.0.0.1", 64601));
    tor.password = Some(SecretKeyRef {
        name: "bgp".into(),
        key: "tor".into(),
        optional: true,
    });
    pieces.push(Piece::Peer(tor));
    let mut cluster = build("n1", &pieces);
    cluster.bgp.mesh_enabled = false;
    let plan = speaker_plan(&cluster, &underlay()).expect("a plan");
    assert!(plan.config.peers.is_empty());
    assert!(
        plan.problems[0].reason.contains("stays down"),
        "{:?}",
        plan.problems
    );
    cluster.secrets.insert(
        "bgp".into(),
        [("tor".to_owned(), SecretValue::new("hunter2"))].into(),
    );
    let plan = speaker_plan(&cluster, &underlay()).expect("a plan");
    assert!(plan.config.peers[0].password.is_some());
    assert!(!format!("{plan:?}").contains("hunter2"));
}

#[test]
fn between_ass_nothing_passes_without_a_filter_where_that_is_asked_for() {
    let mut cluster = build("n1", &two_racks(Encapsulation::None));
    // Without the mesh, the one session is with another AS.
    cluster.bgp.mesh_enabled = false;
    let tor = peer("tor", LocalSide::AllNodes, at("10.0.0.254", 64601));
    cluster.peers.insert("tor".into(), tor);
    assert!(exported(&cluster, "10.65.0.0/26", SourceKind::Local).is_some());
    cluster
        .bgp
        .margay
        .insert("ebgpRequiresPolicy".into(), "true".into());
    let plan = speaker_plan(&cluster, &underlay()).expect("a plan");
    assert_eq!(*plan.config.peers[0].import, Policy::reject_all());
    assert_eq!(*plan.config.peers[0].export, Policy::reject_all());
}

/// Whether the export policy towards the node's only peer lets a prefix pass, and the communities it adds.
fn exported(cluster: &ClusterState, to: &str, source: SourceKind) -> Option<Vec<String>> {
    let plan = speaker_plan(cluster, &underlay()).expect("a plan");
    let policy: &Policy = &plan.config.peers[0].export;
    let mut attributes = PathAttributes::default();
    let applied = policy.evaluate(&RouteView {
        prefix: prefix(to),
        attributes: &attributes,
        source,
        peer: "x",
        interface: "eth0",
    })?;
    policy.rewrite(&applied, &mut attributes);
    Some(
        attributes
            .communities
            .iter()
            .map(ToString::to_string)
            .collect(),
    )
}

#[test]
fn exported_are_own_blocks_and_what_lies_in_pools_and_nothing_else() {
    let mut pieces = two_racks(Encapsulation::None);
    let mut hidden = pool("10.70.0.0/16", Encapsulation::None);
    hidden.disable_bgp_export = true;
    pieces.extend([
        Piece::Pool(hidden),
        Piece::Block(block("10.70.0.0/26", "n1")),
        Piece::Block(block("172.16.0.0/26", "n1")),
    ]);
    let mut cluster = build("n1", &pieces);
    cluster.bgp.prefix_advertisements = vec![PrefixAdvertisement {
        cidr: prefix("10.65.0.0/16"),
        communities: vec![CommunityValue::Standard(64512, 7)],
    }];
    let cases = [
        (
            "10.65.0.0/26",
            SourceKind::Local,
            Some(vec!["64512:7".to_owned()]),
        ),
        (
            "10.65.0.9/32",
            SourceKind::Client,
            Some(vec!["64512:7".to_owned()]),
        ),
        (
            "10.65.2.9/32",
            SourceKind::Local,
            Some(vec!["64512:7".to_owned()]),
        ),
        (
            "10.65.2.0/26",
            SourceKind::Internal,
            Some(vec!["64512:7".to_owned()]),
        ),
        ("10.70.0.0/26", SourceKind::Local, None),
        ("172.16.0.0/26", SourceKind::Local, Some(vec![])),
        ("0.0.0.0/0", SourceKind::External, None),
        ("198.51.100.0/24", SourceKind::External, None),
    ];
    for (to, source, expected) in cases {
        assert_eq!(exported(&cluster, to, source), expected, "{to} {source:?}");
    }
}

#[test]
fn a_filter_that_accepts_goes_before_the_built_in_rules() {
    use crate::model::{
        BgpFilter, FilterAction, FilterOperation, FilterPrefix, FilterRule, MatchOperator, PeerType,
    };
    let mut pieces = two_racks(Encapsulation::None);
    let mut tor = peer("tor", LocalSide::AllNodes, at("10.0.1.1", 64601));
    tor.filters = vec!["f".into(), "missing".into()];
    pieces.push(Piece::Peer(tor));
    let rule = |action, cidr: &str, operator| FilterRule {
        action,
        prefix: Some(FilterPrefix {
            cidr: prefix(cidr),
            operator,
            lengths: None,
        }),
        from_remote_peers: false,
        interface: None,
        peer_type: None,
        community: None,
        as_path_prefix: Vec::new(),
        priority: None,
        operations: Vec::new(),
    };
    let mut accept = rule(
        FilterAction::Accept,
        "198.51.100.0/24",
        MatchOperator::Equal,
    );
    accept.operations = vec![FilterOperation::AddCommunity(CommunityValue::Standard(
        1, 2,
    ))];
    let mut other_kind = rule(FilterAction::Accept, "203.0.113.0/24", MatchOperator::In);
    other_kind.peer_type = Some(PeerType::Ibgp);
    let mut cluster = build("n1", &pieces);
    cluster.bgp.mesh_enabled = false;
    cluster.filters.insert(
        "f".into(),
        BgpFilter {
            name: "f".into(),
            export_v4: vec![
                accept,
                other_kind,
                rule(FilterAction::Reject, "10.65.0.0/16", MatchOperator::In),
            ],
            ..BgpFilter::default()
        },
    );
    assert_eq!(
        exported(&cluster, "198.51.100.0/24", SourceKind::External),
        Some(vec!["1:2".to_owned()])
    );
    assert_eq!(
        exported(&cluster, "203.0.113.0/24", SourceKind::External),
        None
    );
    assert_eq!(exported(&cluster, "10.65.0.0/26", SourceKind::Local), None);
    let plan = speaker_plan(&cluster, &underlay()).expect("a plan");
    assert!(
        plan.problems
            .iter()
            .any(|problem| problem.reason.contains("there is no BGPFilter missing"))
    );
}

#[test]
fn config_show_has_the_documented_names_and_nulls() {
    let mut pieces = reflectors::reflected();
    pieces.push(Piece::Pool(pool(
        "10.65.0.0/16",
        Encapsulation::IpIp(EncapsulationMode::CrossSubnet),
    )));
    pieces.push(Piece::Block(block("10.65.0.0/26", "n1")));
    pieces.retain(
        |piece| !matches!(piece, Piece::Node(node) if node.name == "n2" || node.name == "n4"),
    );
    let mut cluster = build("n1", &pieces);
    cluster.bgp.prefix_advertisements = vec![PrefixAdvertisement {
        cidr: prefix("10.65.0.0/16"),
        communities: vec![CommunityValue::Standard(64512, 1)],
    }];
    let (show, _) = show::show(&cluster);
    insta::assert_snapshot!(serde_json::to_string_pretty(&show.to_value()).expect("json"), @r#"
    {
      "asn": 64512,
      "node": "n1",
      "originated": [
        {
          "communities": [
            "64512:1"
          ],
          "origin": "block",
          "prefix": "10.65.0.0/26"
        }
      ],
      "pools": [
        {
          "cidr": "10.65.0.0/16",
          "encapsulation": "IpIp",
          "mode": "CrossSubnet",
          "natOutgoing": true
        }
      ],
      "routerId": "10.0.0.2",
      "sessions": [
        {
          "address": "10.0.0.10",
          "asn": 64512,
          "clusterId": "10.9.9.9",
          "family": "ipv4",
          "filters": [],
          "keepaliveTime": null,
          "localAsn": 64512,
          "nextHopMode": "auto",
          "numAllowedLocalAsNumbers": 0,
          "object": "rr",
          "origin": "reverse",
          "passive": false,
          "passwordFrom": null,
          "port": 179,
          "restartTime": 120,
          "routeReflectorClient": true,
          "sourceAddress": "10.0.0.2",
          "ttlSecurity": null
        }
      ]
    }
    "#);
}

#[test]
fn without_route_sync_pods_still_get_their_routes() {
    let mut cluster = build("n1", &two_racks(Encapsulation::None));
    cluster.felix.route_sync_disabled = true;
    let state = compute(&cluster, &mesh_routes());
    insta::assert_snapshot!(text(&state), @r"
    10.65.0.5/32 dev calia proto 109
    ! FelixConfiguration: spec.routeSyncDisabled: no route is written but those of this node's own pods
    ");
}

#[test]
fn nodes_whose_masks_disagree_have_loose_checks_on_the_uplink_with_either_encapsulation() {
    for (encapsulation, loose) in [
        (Encapsulation::IpIp(EncapsulationMode::CrossSubnet), true),
        (Encapsulation::Vxlan(EncapsulationMode::CrossSubnet), true),
        (Encapsulation::None, false),
    ] {
        let mut pieces = two_racks(encapsulation);
        pieces.push(Piece::Node(node("n4", "10.0.1.9/16")));
        pieces.push(Piece::Node(node("n5", "10.0.2.9/16")));
        let state = compute(&build("n1", &pieces), &mesh_routes());
        assert_eq!(
            state.sysctls.contains_key("net/ipv4/conf/eth0/rp_filter"),
            loose
        );
    }
}

#[test]
fn audits_and_pods_interfaces_are_as_configured() {
    let mut cluster = build("n1", &two_racks(Encapsulation::None));
    cluster.felix.route_refresh_interval = None;
    cluster.felix.interface_prefixes = vec!["eni".to_owned()];
    let state = compute(&cluster, &mesh_routes());
    assert_eq!(state.audit_interval, Some(RARE_AUDIT));
    assert_eq!(Vec::from_iter(&state.interface_prefixes), ["cali", "eni"]);
    assert!(text(&state).contains("spec.interfacePrefix"));
}
