//! What is given back: by callers, by the audit, by a pool that no longer selects the node.

use super::*;
use crate::ipam::ReleaseAddress;

#[tokio::test]
async fn a_released_address_waits_out_its_cooldown_and_the_audit_ends_it() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let mut state = cluster("n1", &[("a", "10.65.0.0/31", 31)]);
    state.ipam.cooldown = Duration::from_secs(30);
    let ipam = start(memory.client(None), "n1", state, &clock);
    addresses(&ipam, ask("a", 2, 0)).await;
    ipam.release_handle("a").await.unwrap();
    assert!(ipam.assign(ask("b", 1, 0)).await.is_err());
    assert_eq!(ipam.usage().await.unwrap().pools["a"].cooling, 2);
    clock.advance(31);
    ipam.collect(CollectRequest {
        live: BTreeSet::new(),
        in_use: BTreeSet::new(),
        network: None,
        grace: Duration::ZERO,
    })
    .await
    .unwrap();
    assert_eq!(ipam.usage().await.unwrap().pools["a"].cooling, 0);
    addresses(&ipam, ask("b", 1, 0)).await;
    assert_eq!(sound(&memory, &clock).await.len(), 1);
}

#[tokio::test]
async fn release_of_an_address_minds_who_has_it() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let ipam = start(memory.client(None), "n1", cluster("n1", POOL), &clock);
    let address = addresses(&ipam, ask("a", 1, 0)).await[0];
    let ask = |handle: &str| {
        vec![ReleaseAddress {
            address,
            handle_id: Some(handle.to_owned()),
            sequence_number: None,
        }]
    };
    assert!(matches!(
        ipam.release_addresses(ask("b")).await,
        Err(IpamError::NotAsExpected { found: Some(found), .. }) if found == "a"
    ));
    assert_eq!(
        ipam.release_addresses(ask("a")).await.unwrap().addresses,
        [address]
    );
    assert!(
        ipam.release_addresses(ask("a"))
            .await
            .unwrap()
            .addresses
            .is_empty()
    );
    assert!(sound(&memory, &clock).await.is_empty());
    assert!(memory.all(Kind::IpamHandle).is_empty());
}

#[tokio::test]
async fn a_pool_that_no_longer_selects_the_node_gets_its_empty_blocks_back() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let mut state = cluster("n1", &[("a", "10.65.0.0/16", 26)]);
    let (sender, receiver) = watch::channel(Arc::new(state.clone()));
    let ipam = Ipam::spawn(memory.client(None), "n1", receiver, clock.options()).0;
    addresses(&ipam, ask("a", 1, 0)).await;
    state.pools.get_mut("a").unwrap().node_selector =
        crate::model::Selector::parse("has(gpu)").unwrap();
    sender.send(Arc::new(state)).unwrap();
    assert_eq!(memory.all(Kind::IpamBlock).len(), 1);
    ipam.release_handle("a").await.unwrap();
    assert!(memory.all(Kind::IpamBlock).is_empty());
    assert!(memory.all(Kind::BlockAffinity).is_empty());
}

#[tokio::test]
async fn the_audit_frees_what_is_dead_for_long_and_nothing_else() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let mut state = cluster("n1", POOL);
    state.pools.get_mut("v4").unwrap().encapsulation =
        Encapsulation::IpIp(EncapsulationMode::Always);
    for node in ["n1", "n2"] {
        memory.put(Kind::Node, node, json!({"apiVersion": "v1"}));
    }
    let ipam = start(memory.client(None), "n1", state.clone(), &clock);
    let other = start(memory.client(None), "n2", state, &clock);
    ipam.ensure_tunnel_address(TunnelKind::IpIp).await.unwrap();
    for handle in ["net.live", "net.dead", "net.calicos", "net2.dead"] {
        addresses(&ipam, ask(handle, 1, 1)).await;
    }
    addresses(&other, ask("net.elsewhere", 1, 0)).await;
    let calicos = held(&memory)["net.calicos"].iter().next().copied().unwrap();
    let audit = |network: Option<&str>, grace| CollectRequest {
        live: BTreeSet::from(["net.live".to_owned()]),
        in_use: BTreeSet::from([calicos]),
        network: network.map(str::to_owned),
        grace: Duration::from_secs(grace),
    };
    let first = ipam.collect(audit(None, 60)).await.unwrap();
    assert!(first.released.is_empty());
    assert_eq!(first.candidates, 4);
    clock.advance(61);
    // The CNI's GC speaks for one network, and of now.
    let second = ipam.collect(audit(Some("net"), 0)).await.unwrap();
    assert_eq!(second.released.len(), 2);
    let third = ipam.collect(audit(None, 60)).await.unwrap();
    assert_eq!(third.released.len(), 2);
    assert_eq!(
        sound(&memory, &clock).await.keys().collect::<Vec<_>>(),
        [
            "ipip-tunnel-addr-n1",
            "net.calicos",
            "net.elsewhere",
            "net.live"
        ]
    );
}

#[tokio::test]
async fn blocks_empty_for_long_are_given_back_but_for_the_last() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let ipam = start(
        memory.client(None),
        "n1",
        cluster("n1", &[("a", "10.65.0.0/16", 30)]),
        &clock,
    );
    addresses(&ipam, ask("a", 12, 0)).await;
    ipam.release_handle("a").await.unwrap();
    assert_eq!(memory.all(Kind::IpamBlock).len(), 3);
    let audit = CollectRequest {
        live: BTreeSet::new(),
        in_use: BTreeSet::new(),
        network: None,
        grace: Duration::ZERO,
    };
    assert!(
        ipam.collect(audit.clone())
            .await
            .unwrap()
            .blocks_released
            .is_empty()
    );
    clock.advance(16 * 60);
    assert_eq!(ipam.collect(audit).await.unwrap().blocks_released.len(), 2);
    assert_eq!(memory.all(Kind::IpamBlock).len(), 1);
    assert_eq!(memory.all(Kind::BlockAffinity).len(), 1);
}
