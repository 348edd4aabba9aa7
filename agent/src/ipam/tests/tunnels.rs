//! Addresses of tunnel devices.

use super::*;

#[tokio::test]
async fn tunnel_addresses_follow_the_pools() {
    let (memory, clock) = (Memory::new(), Clock::new());
    memory.put(
        Kind::Node,
        "n1",
        json!({"apiVersion": "projectcalico.org/v3", "spec": {"bgp": {"ipv4Address": "10.0.0.1/24"}}}),
    );
    let mut state = cluster("n1", POOL);
    state.pools.get_mut("v4").unwrap().encapsulation =
        Encapsulation::IpIp(EncapsulationMode::CrossSubnet);
    state.pools.get_mut("v6").unwrap().encapsulation =
        Encapsulation::Vxlan(EncapsulationMode::Always);
    let (sender, receiver) = watch::channel(Arc::new(state.clone()));
    let ipam = Ipam::spawn(memory.client(None), "n1", receiver, clock.options()).0;
    let ipip = ipam
        .ensure_tunnel_address(TunnelKind::IpIp)
        .await
        .unwrap()
        .unwrap();
    let vxlan = ipam
        .ensure_tunnel_address(TunnelKind::VxlanV6)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        ipam.ensure_tunnel_address(TunnelKind::VxlanV4)
            .await
            .unwrap(),
        None
    );
    assert_eq!(
        ipam.ensure_tunnel_address(TunnelKind::IpIp).await.unwrap(),
        Some(ipip)
    );
    let node = &memory.all(Kind::Node)[0];
    assert_eq!(
        *node.spec(),
        json!({"bgp": {"ipv4Address": "10.0.0.1/24", "ipv4IPIPTunnelAddr": ipip.to_string()}, "ipv6VXLANTunnelAddr": vxlan.to_string()})
    );
    let block = blocks(&memory)
        .into_values()
        .find(|spec| spec["cidr"].as_str().unwrap().starts_with("10."))
        .unwrap();
    assert_eq!(
        block["attributes"],
        json!([{"handle_id": "ipip-tunnel-addr-n1", "secondary": {"node": "n1", "type": "ipipTunnelAddress"}}])
    );
    // A pool that gives no more serves its pods on, also when somebody writes the Node anew without the address.
    state.pools.get_mut("v4").unwrap().disabled = true;
    sender.send(Arc::new(state.clone())).unwrap();
    assert_eq!(
        ipam.ensure_tunnel_address(TunnelKind::IpIp).await.unwrap(),
        Some(ipip)
    );
    let written = memory.all(Kind::Node)[0].value.clone();
    let mut anew = written.clone();
    anew["spec"]["bgp"]
        .as_object_mut()
        .unwrap()
        .remove("ipv4IPIPTunnelAddr");
    memory.put(Kind::Node, "n1", anew);
    assert_eq!(
        ipam.ensure_tunnel_address(TunnelKind::IpIp).await.unwrap(),
        Some(ipip)
    );
    assert_eq!(
        memory.all(Kind::Node)[0].spec()["bgp"]["ipv4IPIPTunnelAddr"],
        json!(ipip.to_string())
    );
    // Another pool takes over when the first is gone.
    state.pools.remove("v4");
    let mut next = crate::ipam::testing::pool("next", "10.66.0.0/16", 26);
    next.encapsulation = Encapsulation::IpIp(EncapsulationMode::Always);
    state.pools.insert("next".to_owned(), next);
    sender.send(Arc::new(state.clone())).unwrap();
    let moved = ipam
        .ensure_tunnel_address(TunnelKind::IpIp)
        .await
        .unwrap()
        .unwrap();
    assert!(prefix("10.66.0.0/16").contains_addr(moved));
    assert_eq!(
        sound(&memory, &clock).await["ipip-tunnel-addr-n1"],
        BTreeSet::from([moved])
    );
    // No pool of the kind is left.
    state.pools.remove("next");
    sender.send(Arc::new(state)).unwrap();
    assert_eq!(
        ipam.ensure_tunnel_address(TunnelKind::IpIp).await.unwrap(),
        None
    );
    assert!(
        memory.all(Kind::Node)[0].spec()["bgp"]
            .get("ipv4IPIPTunnelAddr")
            .is_none()
    );
    assert_eq!(sound(&memory, &clock).await.len(), 1);
}

#[tokio::test]
async fn a_tunnel_address_somebody_else_has_is_left_to_them() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let mut state = cluster("n1", POOL);
    state.pools.get_mut("v4").unwrap().encapsulation =
        Encapsulation::Vxlan(EncapsulationMode::Always);
    let ipam = start(memory.client(None), "n1", state, &clock);
    let pods = addresses(&ipam, ask("pod", 1, 0)).await[0];
    memory.put(
        Kind::Node,
        "n1",
        json!({"apiVersion": "v1", "metadata": {"annotations": {"projectcalico.org/IPv4VXLANTunnelAddr": pods.to_string()}}}),
    );
    let own = ipam
        .ensure_tunnel_address(TunnelKind::VxlanV4)
        .await
        .unwrap()
        .unwrap();
    assert_ne!(own, pods);
    assert_eq!(
        memory.all(Kind::Node)[0].value["metadata"]["annotations"]["projectcalico.org/IPv4VXLANTunnelAddr"],
        own.to_string()
    );
    assert_eq!(sound(&memory, &clock).await.len(), 2);
}
