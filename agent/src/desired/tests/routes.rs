//! Routes and tunnels of a node, and what becomes of those BGP brings.

use super::*;

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
fn without_route_sync_pods_still_get_their_routes() {
    let mut cluster = build("n1", &two_racks(Encapsulation::None));
    cluster.felix.route_sync_disabled = true;
    let state = compute(&cluster, &mesh_routes());
    insta::assert_snapshot!(text(&state), @r"
    10.65.0.5/32 dev calia proto 109
    ! FelixConfiguration: spec.routeSyncDisabled: no route is written but those of this node's own pods
    ");
}
