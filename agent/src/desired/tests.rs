//! Named clusters and what a node makes of them. Every cluster is built from its pieces in the order written, reversed, and
//! shuffled several times; the result must be the same.

mod clashes;
mod exports;
mod filters;
mod reflectors;
mod routes;
mod sessions;

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
    IpPool, LocalSide, Node, NodeAddress, PrefixAdvertisement, RemoteSide, ReversePeering,
    SecretKeyRef, SecretValue, Selector, Workload, WorkloadKey,
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
    BgpPeer::plain(name, local, remote)
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
        option_memory: 0,
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

#[test]
fn the_keys_of_many_peers_are_given_room_and_those_of_few_have_it() {
    let of = |option_memory| {
        let settings = Settings {
            option_memory,
            ..settings()
        };
        let cluster = ClusterState::default();
        let state = desired(&cluster, &BestRoutes::default(), &underlay(), &settings);
        state.sysctls_at_least
    };
    assert_eq!(of(20_480), BTreeMap::new());
    let raised = [("net.core.optmem_max".to_owned(), 132_096)];
    assert_eq!(of(132_096), raised.into());
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
