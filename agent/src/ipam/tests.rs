//! The room as a whole: records in memory, several nodes, faults at every write, and the directory datastore.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use margay_bgp::prefix::Prefix;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::check::{CheckReport, Uses, check};
use super::store::Records;
use super::testing::{Clock, Fault, Memory, cluster, prefix};
use super::{AssignRequest, CollectRequest, Ipam, IpamError, ReleaseAddress, TunnelKind, Unusable};
use crate::datastore::{Kind, Store, StoreError};
use crate::model::{AllowedUse, ClusterState, Encapsulation, EncapsulationMode};

const POOL: &[(&str, &str, u8)] = &[("v4", "10.65.0.0/16", 26), ("v6", "fd00::/64", 122)];

fn start(records: impl Records, node: &str, state: ClusterState, clock: &Clock) -> Ipam {
    let state = ClusterState {
        nodes: {
            let mut nodes = state.nodes.clone();
            nodes.insert(
                node.to_owned(),
                crate::model::Node {
                    name: node.to_owned(),
                    ..crate::model::Node::default()
                },
            );
            nodes
        },
        ..state
    };
    let (_, cluster) = watch::channel(Arc::new(state));
    Ipam::spawn(records, node, cluster, clock.options()).0
}

fn ask(handle: &str, ipv4: usize, ipv6: usize) -> AssignRequest {
    AssignRequest {
        ipv4,
        ipv6,
        ..AssignRequest::for_pod(
            handle,
            BTreeMap::from([("pod".to_owned(), handle.to_owned())]),
            false,
            false,
        )
    }
}

async fn addresses(ipam: &Ipam, request: AssignRequest) -> Vec<IpAddr> {
    ipam.assign(request)
        .await
        .unwrap()
        .into_iter()
        .map(|assigned| assigned.address)
        .collect()
}

fn blocks(memory: &Memory) -> BTreeMap<String, Value> {
    memory
        .all(Kind::IpamBlock)
        .into_iter()
        .map(|object| (object.name.clone(), object.spec().clone()))
        .collect()
}

/// What the records hold, by handle; fails where they contradict themselves or each other.
async fn sound(memory: &Memory, clock: &Clock) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let report = report(memory, clock).await;
    assert!(report.is_sound(), "{report:#?}");
    assert_eq!(report.handles_with_wrong_counts, Vec::<String>::new());
    held(memory)
}

async fn report(memory: &Memory, clock: &Clock) -> CheckReport {
    check(
        &memory.client(None),
        &ClusterState::default(),
        &Uses::default(),
        clock.now(),
    )
    .await
    .unwrap()
}

fn held(memory: &Memory) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let mut held: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
    for object in memory.all(Kind::IpamBlock) {
        let spec = serde_json::from_value(object.spec().clone()).unwrap();
        let block = super::block::Block::from_spec(spec).unwrap();
        for allocation in block.allocations() {
            let handle = allocation.attribute.handle().unwrap().to_owned();
            assert!(held.entry(handle).or_default().insert(allocation.address));
        }
    }
    held
}

#[tokio::test]
async fn the_first_pod_of_a_node_leaves_calicos_records() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let ipam = start(
        memory.client(None),
        "n1",
        cluster(
            "n1",
            &[("v4", "10.65.0.0/26", 30), ("full", "10.66.0.0/26", 26)],
        ),
        &clock,
    );
    let mut request = ask("k8s-pod-network.C1", 1, 0);
    request.ipv4_pools = vec!["full".to_owned()];
    assert_eq!(addresses(&ipam, request).await.len(), 1);
    let blocks = blocks(&memory);
    let sequence = 1_767_323_045_000_000_000_u64;
    let mut allocations = vec![Value::Null; 64];
    allocations[0] = json!(0);
    assert_eq!(
        blocks["10-66-0-0-26"],
        json!({
            "cidr": "10.66.0.0/26",
            "affinity": "host:n1",
            "affinityClaimTime": "2026-01-02T03:04:05Z",
            "allocations": allocations,
            "attributes": [{"handle_id": "k8s-pod-network.C1", "secondary": {"node": "n1", "pod": "k8s-pod-network.C1"}}],
            "unallocated": (1..64).collect::<Vec<_>>(),
            "sequenceNumber": sequence + 1,
            "sequenceNumberForAllocation": {"0": sequence},
            "deleted": false,
            "strictAffinity": false,
        })
    );
    let affinity = &memory.all(Kind::BlockAffinity)[0];
    assert_eq!(affinity.name, "n1-10-66-0-0-26");
    assert_eq!(
        *affinity.spec(),
        json!({"state": "confirmed", "node": "n1", "type": "host", "cidr": "10.66.0.0/26", "deleted": false})
    );
    assert_eq!(
        affinity.value["metadata"]["labels"]["projectcalico.org/ip-version"],
        "4"
    );
    let handle = &memory.all(Kind::IpamHandle)[0];
    assert_eq!(handle.name, "k8s-pod-network.c1");
    assert_eq!(
        *handle.spec(),
        json!({"handleID": "k8s-pod-network.C1", "block": {"10.66.0.0/26": 1}})
    );

    let released = ipam.release_handle("k8s-pod-network.C1").await.unwrap();
    assert_eq!(released.addresses.len(), 1);
    assert!(released.existed);
    assert!(memory.all(Kind::IpamHandle).is_empty());
    assert!(
        !ipam
            .release_handle("k8s-pod-network.C1")
            .await
            .unwrap()
            .existed
    );
    // The node keeps its block.
    assert_eq!(memory.all(Kind::IpamBlock).len(), 1);
}

#[tokio::test]
async fn records_calico_wrote_are_worked_on_in_place() {
    let (memory, clock) = (Memory::new(), Clock::new());
    memory.put(
        Kind::IpamBlock,
        "10-65-0-0-30",
        json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMBlock",
            "metadata": {"annotations": {"projectcalico.org/metadata": "{\"creationTimestamp\":null}"}},
            "spec": {
                "affinity": "host:n1", "allocations": [0, null, null, null],
                "attributes": [{"handle_id": "k8s-pod-network.old", "secondary": {"namespace": "default", "node": "n1", "pod": "p"}}],
                "cidr": "10.65.0.0/30", "deleted": false, "sequenceNumber": 1_700_000_000_000_000_001_u64,
                "sequenceNumberForAllocation": {"0": 1_700_000_000_000_000_000_u64}, "strictAffinity": false,
                "unallocated": [2, 3, 1]
            }
        }),
    );
    memory.put(
        Kind::BlockAffinity,
        "n1-10-65-0-0-30",
        json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity",
            "spec": {"cidr": "10.65.0.0/30", "deleted": "false", "node": "n1", "state": "confirmed"}
        }),
    );
    memory.put(
        Kind::IpamHandle,
        "k8s-pod-network.old",
        json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMHandle",
            "spec": {"block": {"10.65.0.0/30": 1}, "deleted": false, "handleID": "k8s-pod-network.old"}
        }),
    );
    let ipam = start(
        memory.client(None),
        "n1",
        cluster("n1", &[("v4", "10.65.0.0/16", 30)]),
        &clock,
    );
    let got = addresses(&ipam, ask("k8s-pod-network.new", 1, 0)).await;
    assert_eq!(got, ["10.65.0.2".parse::<IpAddr>().unwrap()]);
    let object = &memory.all(Kind::IpamBlock)[0];
    assert_eq!(object.value["apiVersion"], "crd.projectcalico.org/v1");
    assert!(object.value["metadata"]["annotations"]["projectcalico.org/metadata"].is_string());
    assert_eq!(object.spec()["unallocated"], json!([3, 1]));
    assert_eq!(
        object.spec()["sequenceNumber"],
        json!(1_700_000_000_000_000_002_u64)
    );
    ipam.release_handle("k8s-pod-network.old").await.unwrap();
    assert_eq!(sound(&memory, &clock).await.len(), 1);
    assert_eq!(
        blocks(&memory)["10-65-0-0-30"]["unallocated"],
        json!([3, 1, 0])
    );
}

#[tokio::test]
async fn dual_stack_is_all_or_nothing() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let mut state = cluster("n1", POOL);
    let ipam = start(memory.client(None), "n1", state.clone(), &clock);
    let got = addresses(&ipam, ask("a", 1, 1)).await;
    assert_eq!(got.iter().filter(|address| address.is_ipv4()).count(), 1);
    assert_eq!(got.len(), 2);

    state.pools.insert(
        "v6".to_owned(),
        super::testing::pool("v6", "fd01::/128", 128),
    );
    let ipam = start(memory.client(None), "n1", state, &clock);
    addresses(&ipam, ask("b", 1, 1)).await;
    let error = ipam.assign(ask("c", 1, 1)).await.unwrap_err();
    assert!(
        matches!(
            error,
            IpamError::Exhausted {
                wanted: 1,
                found: 0,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(
        sound(&memory, &clock).await.keys().collect::<Vec<_>>(),
        ["a", "b"]
    );
}

#[tokio::test]
async fn a_full_pool_says_which_pools_there_are_and_why_none_serves() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let mut state = cluster(
        "n1",
        &[("a", "10.65.0.0/30", 31), ("b", "10.66.0.0/16", 26)],
    );
    state.pools.get_mut("b").unwrap().disabled = true;
    let ipam = start(memory.client(None), "n1", state, &clock);
    addresses(&ipam, ask("h", 4, 0)).await;
    let error = ipam.assign(ask("i", 1, 0)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no ipv4-unicast address left, wanted 1, found 0: pool a (10.65.0.0/30) has no free address: 0 of its 2 blocks are other nodes'; pool b (10.66.0.0/16) is disabled"
    );
    assert!(error.is_transient());
    assert_eq!(sound(&memory, &clock).await.len(), 1);
}

#[tokio::test]
async fn one_request_that_fails_does_not_disturb_those_it_was_joined_with() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let ipam = start(
        memory.client(None),
        "n1",
        cluster("n1", &[("a", "10.65.0.0/29", 31)]),
        &clock,
    );
    let results = join_all((0..12).map(|n| ipam.assign(ask(&format!("h{n}"), 1, 0)))).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 8);
    assert_eq!(sound(&memory, &clock).await.len(), 8);
}

#[tokio::test]
async fn addresses_are_borrowed_only_where_affinity_is_not_strict() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let mut state = cluster("n1", &[("a", "10.65.0.0/29", 30)]);
    let first = start(memory.client(None), "n1", state.clone(), &clock);
    addresses(&first, ask("a", 5, 0)).await;
    // Both blocks are n1's.
    let second = start(memory.client(None), "n2", state.clone(), &clock);
    let got = addresses(&second, ask("b", 1, 0)).await;
    assert_eq!(got.len(), 1);
    let usage = second.usage().await.unwrap();
    assert_eq!(usage.nodes["n2"].borrowed, 1);
    assert_eq!(usage.nodes["n2"].blocks, 0);
    assert_eq!(usage.pools["a"].allocated, 6);
    assert_eq!(usage.pools["a"].borrowed, 1);

    state.ipam.strict_affinity = true;
    let third = start(memory.client(None), "n3", state, &clock);
    let error = third.assign(ask("c", 1, 0)).await.unwrap_err();
    assert!(
        matches!(
            &error,
            IpamError::Exhausted { pools, .. } if pools[0].reason == Unusable::Full { blocks: 2, others: 2, strict: true }
        ),
        "{error}"
    );
    // What was borrowed is released where it lies.
    second.release_handle("b").await.unwrap();
    assert_eq!(sound(&memory, &clock).await.len(), 1);
}

#[tokio::test]
async fn an_unused_block_of_another_node_is_taken_back_after_a_minute() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let mut state = cluster("n1", &[("a", "10.65.0.0/30", 30)]);
    state.ipam.strict_affinity = true;
    let first = start(memory.client(None), "n1", state.clone(), &clock);
    addresses(&first, ask("a", 1, 0)).await;
    first.release_handle("a").await.unwrap();
    let second = start(memory.client(None), "n2", state.clone(), &clock);
    assert!(second.assign(ask("b", 1, 0)).await.is_err());
    clock.advance(61);
    assert_eq!(addresses(&second, ask("b", 1, 0)).await.len(), 1);
    assert_eq!(blocks(&memory)["10-65-0-0-30"]["affinity"], "host:n2");
    assert_eq!(memory.all(Kind::BlockAffinity).len(), 1);
    // The former owner's memory of the block does not mislead it.
    assert!(first.assign(ask("c", 1, 0)).await.is_err());
    assert_eq!(sound(&memory, &clock).await.len(), 1);
}

#[tokio::test]
async fn the_number_of_blocks_is_limited_and_there_is_no_way_around() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let mut state = cluster("n1", &[("a", "10.65.0.0/16", 32)]);
    let ipam = start(memory.client(None), "n1", state.clone(), &clock);
    addresses(&ipam, ask("a", 20, 0)).await;
    assert!(matches!(
        ipam.assign(ask("b", 1, 0)).await,
        Err(IpamError::BlockLimit {
            owned: 20,
            limit: 20,
            ..
        })
    ));
    state.ipam.strict_affinity = true;
    state.ipam.max_blocks_per_host = 21;
    let ipam = start(memory.client(None), "n1", state.clone(), &clock);
    addresses(&ipam, ask("b", 1, 0)).await;
    state.ipam.auto_allocate_blocks = false;
    let ipam = start(memory.client(None), "n1", state, &clock);
    assert!(matches!(
        ipam.assign(ask("c", 1, 0)).await,
        Err(IpamError::Exhausted { pools, .. }) if pools[0].reason == Unusable::NoNewBlocks
    ));
    assert_eq!(sound(&memory, &clock).await.len(), 2);
}

#[tokio::test]
async fn reserved_addresses_are_passed_over_unless_asked_for_by_name() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let mut state = cluster("n1", &[("a", "10.65.0.0/29", 30)]);
    state.reservations.insert(
        "r".to_owned(),
        vec![prefix("10.65.0.0/30"), prefix("10.65.0.5/32")],
    );
    let ipam = start(memory.client(None), "n1", state, &clock);
    let got = addresses(&ipam, ask("a", 3, 0)).await;
    let names: Vec<String> = got.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["10.65.0.4", "10.65.0.6", "10.65.0.7"]);
    assert!(ipam.assign(ask("b", 1, 0)).await.is_err());
    let mut request = ask("b", 0, 0);
    request.specific = vec!["10.65.0.1".parse().unwrap()];
    assert_eq!(
        addresses(&ipam, request).await,
        ["10.65.0.1".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(sound(&memory, &clock).await.len(), 2);
}

#[tokio::test]
async fn a_specific_address_is_given_once_and_to_the_same_handle_again() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let mut state = cluster("n1", &[("a", "10.65.0.0/24", 26)]);
    let wanted: IpAddr = "10.65.0.77".parse().unwrap();
    let specific = |handle: &str, address: IpAddr| AssignRequest {
        specific: vec![address],
        ..ask(handle, 0, 0)
    };
    let first = start(memory.client(None), "n1", state.clone(), &clock);
    assert_eq!(addresses(&first, specific("a", wanted)).await, [wanted]);
    assert_eq!(addresses(&first, specific("a", wanted)).await, [wanted]);
    let error = first.assign(specific("b", wanted)).await.unwrap_err();
    assert!(matches!(error, IpamError::AddressInUse { owner: Some(owner), .. } if owner == "a"));
    assert!(matches!(
        first
            .assign(specific("b", "10.1.1.1".parse().unwrap()))
            .await,
        Err(IpamError::AddressNotInPool { .. })
    ));
    // Another node borrows it, unless affinity is strict.
    let neighbour: IpAddr = "10.65.0.78".parse().unwrap();
    let second = start(memory.client(None), "n2", state.clone(), &clock);
    assert_eq!(
        addresses(&second, specific("c", neighbour)).await,
        [neighbour]
    );
    state.ipam.strict_affinity = true;
    let third = start(memory.client(None), "n3", state, &clock);
    assert!(matches!(
        third.assign(specific("d", "10.65.0.79".parse().unwrap())).await,
        Err(IpamError::NotAffine { owner: Some(owner), .. }) if owner == "n1"
    ));
    assert_eq!(sound(&memory, &clock).await.len(), 2);
}

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
async fn the_same_handle_gets_its_addresses_again_after_a_crash() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let state = cluster("n1", POOL);
    let before = start(memory.client(None), "n1", state.clone(), &clock);
    let first = addresses(&before, ask("a", 1, 1)).await;
    let after = start(memory.client(None), "n1", state, &clock);
    assert_eq!(addresses(&after, ask("a", 1, 1)).await, first);
    // What the caller knows to be in use is not handed out again.
    let mut other_interface = ask("a", 1, 0);
    other_interface.in_use = first.iter().copied().collect();
    let second = addresses(&after, other_interface).await;
    assert!(!first.contains(&second[0]));
    assert_eq!(sound(&memory, &clock).await["a"].len(), 3);
    assert_eq!(after.release_handle("a").await.unwrap().addresses.len(), 3);
    assert!(sound(&memory, &clock).await.is_empty());
}

#[tokio::test]
async fn addresses_for_a_caller_that_went_away_are_taken_back() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let ipam = start(memory.client(None), "n1", cluster("n1", POOL), &clock);
    addresses(&ipam, ask("stays", 1, 0)).await;
    {
        let mut request = Box::pin(ipam.assign(ask("goes", 1, 0)));
        // Far enough to be in the queue.
        assert!(futures_util::poll!(&mut request).is_pending());
    }
    // The queue is worked off in order.
    addresses(&ipam, ask("last", 1, 0)).await;
    assert_eq!(
        sound(&memory, &clock).await.keys().collect::<Vec<_>>(),
        ["last", "stays"]
    );
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
async fn an_affinity_another_node_began_to_release_is_confirmed_anew() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let mut state = cluster("n1", &[("a", "10.65.0.0/16", 26)]);
    let (sender, receiver) = watch::channel(Arc::new(state.clone()));
    let ipam = Ipam::spawn(memory.client(None), "n1", receiver, clock.options()).0;
    addresses(&ipam, ask("a", 1, 0)).await;
    let affinity = memory.all(Kind::BlockAffinity).remove(0);
    let mut value = affinity.value.clone();
    value["spec"]["state"] = json!("pendingDeletion");
    memory.put(Kind::BlockAffinity, &affinity.name, value);
    state.affinities.clear();
    sender.send(Arc::new(state)).unwrap();
    addresses(&ipam, ask("b", 1, 0)).await;
    assert_eq!(
        memory.all(Kind::BlockAffinity)[0].spec()["state"],
        "confirmed"
    );
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
    let mut next = super::testing::pool("next", "10.66.0.0/16", 26);
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

#[tokio::test]
async fn a_store_that_is_away_is_said_so_and_used_again_when_it_is_back() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let client = memory.client(Some(Fault::Refused(3)));
    let ipam = start(client, "n1", cluster("n1", POOL), &clock);
    let error = ipam.assign(ask("a", 1, 0)).await.unwrap_err();
    assert!(matches!(
        error,
        IpamError::Store(StoreError::Unavailable { .. })
    ));
    assert!(error.is_transient());
    assert_eq!(addresses(&ipam, ask("a", 1, 0)).await.len(), 1);
    assert_eq!(sound(&memory, &clock).await.len(), 1);
}

#[tokio::test]
async fn nothing_is_assigned_before_the_cluster_is_known() {
    let clock = Clock::new();
    let mut state = cluster("n1", POOL);
    state.in_sync = false;
    let ipam = start(Memory::new(), "n1", state, &clock);
    assert!(matches!(
        ipam.assign(ask("a", 1, 0)).await,
        Err(IpamError::NotSynced)
    ));
}

/// A day in the life of a node; what each caller was told is in `told`.
async fn day(ipam: &Ipam, told: &mut BTreeMap<String, Vec<IpAddr>>) {
    let assign = async |handle: &str, v4, v6, told: &mut BTreeMap<String, Vec<IpAddr>>| {
        if let Ok(got) = ipam.assign(ask(handle, v4, v6)).await {
            told.insert(
                handle.to_owned(),
                got.into_iter().map(|a| a.address).collect(),
            );
        }
    };
    assign("a", 1, 1, told).await;
    let _ = ipam.ensure_tunnel_address(TunnelKind::IpIp).await;
    // Fills the first block and goes on to a second.
    assign("b", 3, 0, told).await;
    assign("c", 2, 1, told).await;
    for handle in ["a", "c"] {
        told.remove(handle);
        let _ = ipam.release_handle(handle).await;
    }
    assign("d", 1, 1, told).await;
    let _ = ipam
        .collect(CollectRequest {
            live: told.keys().cloned().collect(),
            in_use: BTreeSet::new(),
            network: None,
            grace: Duration::from_secs(1),
        })
        .await;
}

#[tokio::test]
async fn a_fault_at_any_write_leaves_nothing_a_restart_does_not_mend() {
    let mut state = cluster(
        "n1",
        &[("v4", "10.65.0.0/24", 30), ("v6", "fd00::/64", 122)],
    );
    state.pools.get_mut("v4").unwrap().encapsulation =
        Encapsulation::IpIp(EncapsulationMode::Always);
    for kind in [
        Fault::Refused as fn(usize) -> Fault,
        Fault::Unanswered,
        Fault::DeadBefore,
        Fault::DeadAfter,
    ] {
        let mut at = 0;
        loop {
            at += 1;
            let (memory, clock) = (Memory::new(), Clock::new());
            memory.put(Kind::Node, "n1", json!({"apiVersion": "v1"}));
            let client = memory.client(Some(kind(at)));
            let mut told = BTreeMap::new();
            day(
                &start(client.clone(), "n1", state.clone(), &clock),
                &mut told,
            )
            .await;
            if client.writes() < at {
                break;
            }
            let what = kind(at);
            // Whoever was told of an address has it, alone.
            let now = held(&memory);
            for (handle, addresses) in &told {
                for address in addresses {
                    assert!(
                        now[handle].contains(address),
                        "{what:?}: {handle} lost {address}"
                    );
                }
            }
            // The daemon comes back. Callers ask again, or give up and release; either way all is well.
            let after = start(memory.client(None), "n1", state.clone(), &clock);
            let tunnel = after.ensure_tunnel_address(TunnelKind::IpIp).await.unwrap();
            for handle in ["a", "b", "c", "d"] {
                match told.get(handle) {
                    Some(addresses) => {
                        let mut request = ask(handle, 0, 0);
                        request.ipv4 = addresses.iter().filter(|a| a.is_ipv4()).count();
                        request.ipv6 = addresses.len() - request.ipv4;
                        let again: BTreeSet<_> =
                            self::addresses(&after, request).await.into_iter().collect();
                        assert_eq!(again, addresses.iter().copied().collect(), "{what:?}");
                    }
                    None => {
                        after.release_handle(handle).await.unwrap();
                    }
                }
            }
            let now = sound(&memory, &clock).await;
            let mut expected: BTreeMap<String, BTreeSet<IpAddr>> = told
                .iter()
                .map(|(handle, addresses)| (handle.clone(), addresses.iter().copied().collect()))
                .collect();
            expected.insert(
                "ipip-tunnel-addr-n1".to_owned(),
                tunnel.into_iter().collect(),
            );
            assert_eq!(now, expected, "{what:?}");
            // Every claim is whole.
            let claimed: BTreeSet<String> = memory
                .all(Kind::BlockAffinity)
                .iter()
                .map(|affinity| {
                    assert_eq!(affinity.spec()["state"], "confirmed", "{what:?}");
                    affinity.spec()["cidr"].to_string()
                })
                .collect();
            let existing: BTreeSet<String> = blocks(&memory)
                .into_values()
                .map(|spec| spec["cidr"].to_string())
                .collect();
            assert_eq!(claimed, existing, "{what:?}");
        }
        assert!(at > 30, "the day has {at} writes");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Assign {
        node: usize,
        handle: usize,
        v4: usize,
        v6: usize,
    },
    Many {
        node: usize,
        from: usize,
    },
    Release {
        node: usize,
        handle: usize,
    },
    Audit {
        node: usize,
    },
    Restart {
        node: usize,
    },
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2usize, 0..8usize, 0..4usize, 0..2usize).prop_map(|(node, handle, v4, v6)| Step::Assign { node, handle, v4, v6 }),
        2 => (0..2usize, 0..8usize).prop_map(|(node, from)| Step::Many { node, from }),
        5 => (0..2usize, 0..8usize).prop_map(|(node, handle)| Step::Release { node, handle }),
        1 => (0..2usize).prop_map(|node| Step::Audit { node }),
        1 => (0..2usize).prop_map(|node| Step::Restart { node }),
        1 => (1..100u64).prop_map(Step::Wait),
    ]
}

async fn live(steps: Vec<Step>, strict: bool, cooldown: u64) -> Result<(), TestCaseError> {
    let (memory, clock) = (Memory::new(), Clock::new());
    let names = ["n1", "n2"];
    let mut state = cluster(
        "n1",
        &[("v4", "10.65.0.0/28", 30), ("v6", "fd00::/124", 126)],
    );
    state.ipam.strict_affinity = strict;
    state.ipam.cooldown = Duration::from_secs(cooldown);
    state.reservations.insert(
        "r".to_owned(),
        vec![prefix("10.65.0.3/32"), prefix("10.65.0.4/30")],
    );
    let mut nodes: Vec<Ipam> = names
        .iter()
        .map(|node| start(memory.client(None), node, state.clone(), &clock))
        .collect();
    // By handle: node and addresses.
    let mut oracle: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
    for step in steps {
        let mut told: Vec<(String, Vec<IpAddr>)> = Vec::new();
        match &step {
            Step::Assign {
                node,
                handle,
                v4,
                v6,
            } => {
                let name = format!("net.{node}-{handle}");
                let mut request = ask(&name, *v4, *v6);
                request.in_use = oracle.get(&name).cloned().unwrap_or_default();
                match nodes[*node].assign(request).await {
                    Ok(got) => {
                        prop_assert_eq!(got.len(), v4 + v6);
                        told.push((name, got.into_iter().map(|a| a.address).collect()));
                    }
                    Err(error) => prop_assert!(
                        matches!(
                            error,
                            IpamError::Exhausted { .. } | IpamError::BlockLimit { .. }
                        ),
                        "{}",
                        error
                    ),
                }
            }
            Step::Many { node, from } => {
                let requests = (*from..from + 4).map(|handle| {
                    let name = format!("net.{node}-{handle}");
                    let mut request = ask(&name, 1, 1);
                    request.in_use = oracle.get(&name).cloned().unwrap_or_default();
                    let ipam = &nodes[*node];
                    async move { (name, ipam.assign(request).await) }
                });
                for (name, result) in join_all(requests).await {
                    if let Ok(got) = result {
                        told.push((name, got.into_iter().map(|a| a.address).collect()));
                    }
                }
            }
            Step::Release { node, handle } => {
                let name = format!("net.{node}-{handle}");
                // Any node may release.
                let released = nodes[(node + handle) % 2]
                    .release_handle(name.clone())
                    .await
                    .unwrap();
                let expected: Vec<IpAddr> = oracle
                    .remove(&name)
                    .unwrap_or_default()
                    .into_iter()
                    .collect();
                prop_assert_eq!(released.addresses, expected);
            }
            Step::Audit { node } => {
                let collected = nodes[*node]
                    .collect(CollectRequest {
                        live: oracle.keys().cloned().collect(),
                        in_use: BTreeSet::new(),
                        network: None,
                        grace: Duration::ZERO,
                    })
                    .await
                    .unwrap();
                prop_assert_eq!(collected.released, Vec::<IpAddr>::new());
            }
            Step::Restart { node } => {
                nodes[*node] = start(memory.client(None), names[*node], state.clone(), &clock);
            }
            Step::Wait(seconds) => clock.advance(*seconds),
        }
        for (name, addresses) in told {
            for address in addresses {
                let reservations = super::allocator::Reservations::of(&state);
                prop_assert!(!reservations.contains(address));
                prop_assert!(
                    oracle.values().all(|held| !held.contains(&address)),
                    "{} is given twice",
                    address
                );
                oracle.entry(name.clone()).or_default().insert(address);
            }
        }
        oracle.retain(|_, held| !held.is_empty());
        let report = report(&memory, &clock).await;
        prop_assert!(report.is_sound(), "{:?}: {:#?}", step, report);
        prop_assert_eq!(report.handles_with_wrong_counts, Vec::<String>::new());
        prop_assert_eq!(&held(&memory), &oracle);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn two_nodes_never_give_an_address_twice_and_lose_none(
        steps in prop::collection::vec(step(), 1..40),
        strict in any::<bool>(),
        cooldown in prop_oneof![Just(0u64), Just(20)],
    ) {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(live(steps, strict, cooldown))?;
    }
}

#[tokio::test]
async fn nodes_that_race_in_memory_share_a_pool_out_exactly() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let state = cluster("n1", &[("v4", "10.65.0.0/25", 28)]);
    let names: Vec<String> = (0..8).map(|n| format!("node-{n}")).collect();
    let nodes: Vec<Ipam> = names
        .iter()
        .map(|node| start(memory.client(None), node, state.clone(), &clock))
        .collect();
    let requests = (0..128).map(|n| {
        let ipam = &nodes[n % nodes.len()];
        async move { ipam.assign(ask(&format!("h{n}"), 1, 0)).await.unwrap()[0].address }
    });
    let got: BTreeSet<IpAddr> = join_all(requests).await.into_iter().collect();
    assert_eq!(got.len(), 128);
    assert_eq!(sound(&memory, &clock).await.len(), 128);
    let releases = (0..128).map(|n| nodes[(n + 1) % nodes.len()].release_handle(format!("h{n}")));
    for released in join_all(releases).await {
        assert_eq!(released.unwrap().addresses.len(), 1);
    }
    assert!(sound(&memory, &clock).await.is_empty());
    assert!(memory.all(Kind::IpamHandle).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_pods_at_once_cost_a_few_writes_of_the_block() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_directory(dir.path()).await.unwrap();
    let clock = Clock::new();
    let ipam = start(store.clone(), "n1", cluster("n1", POOL), &clock);
    let requests = (0..100).map(|n| {
        let ipam = ipam.clone();
        tokio::spawn(async move { ipam.assign(ask(&format!("net.c{n}"), 1, 1)).await })
    });
    let mut got: BTreeSet<IpAddr> = BTreeSet::new();
    for task in join_all(requests).await {
        for assigned in task.unwrap().unwrap() {
            assert!(
                got.insert(assigned.address),
                "{} is given twice",
                assigned.address
            );
        }
    }
    assert_eq!(got.len(), 200);
    let writes = ipam.activity().block_writes();
    assert!(writes <= 20, "{writes} block writes");
    let report = check(
        &store,
        &ClusterState::default(),
        &Uses::default(),
        clock.now(),
    )
    .await
    .unwrap();
    assert!(report.is_sound(), "{report:#?}");
    assert_eq!((report.allocated, report.handles), (200, 100));

    let before = ipam.activity().block_writes();
    let releases = (0..100).map(|n| ipam.release_handle(format!("net.c{n}")));
    for released in join_all(releases).await {
        assert_eq!(released.unwrap().addresses.len(), 2);
    }
    let writes = ipam.activity().block_writes() - before;
    assert!(writes <= 20, "{writes} block writes");
    assert!(store.list(Kind::IpamHandle).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_on_one_directory_never_give_an_address_twice() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new();
    let state = cluster("n1", &[("v4", "10.65.0.0/26", 30)]);
    let mut tasks = Vec::new();
    for node in ["n1", "n2"] {
        let store = Store::open_directory(dir.path()).await.unwrap();
        let ipam = start(store, node, state.clone(), &clock);
        for n in 0..32 {
            let ipam = ipam.clone();
            tasks.push(tokio::spawn(async move {
                ipam.assign(ask(&format!("net.{node}-{n}"), 1, 0))
                    .await
                    .unwrap()[0]
            }));
        }
    }
    let mut got: BTreeMap<IpAddr, Prefix> = BTreeMap::new();
    for task in join_all(tasks).await {
        let assigned = task.unwrap();
        assert!(got.insert(assigned.address, assigned.block).is_none());
    }
    assert_eq!(got.len(), 64);
    let store = Store::open_directory(dir.path()).await.unwrap();
    let report = check(
        &store,
        &ClusterState::default(),
        &Uses::default(),
        clock.now(),
    )
    .await
    .unwrap();
    assert!(report.is_sound(), "{report:#?}");
    assert_eq!(report.allocated, 64);
}

#[tokio::test]
async fn the_check_tells_calicos_categories_apart() {
    let (memory, clock) = (Memory::new(), Clock::new());
    let mut state = cluster("n1", &[("v4", "10.65.0.0/24", 26)]);
    let ipam = start(memory.client(None), "n1", state.clone(), &clock);
    let used = addresses(&ipam, ask("used", 1, 0)).await[0];
    let unused = addresses(&ipam, ask("unused", 1, 0)).await[0];
    let orphan = addresses(&ipam, ask("orphan", 1, 0)).await[0];
    let mut handle = memory
        .all(Kind::IpamHandle)
        .into_iter()
        .find(|object| object.name == "orphan")
        .unwrap();
    handle.value["spec"]["deleted"] = json!(true);
    memory.put(Kind::IpamHandle, "orphan", handle.value);
    memory.put(
        Kind::IpamHandle,
        "empty",
        json!({"spec": {"handleID": "empty", "block": {"10.65.0.0/26": 1}}}),
    );
    memory.put(Kind::IpamBlock, "10-65-9-0-26", json!({"spec": {"cidr": "10.65.9.0/26", "allocations": [null], "unallocated": [0], "attributes": []}}));
    state.node_name = "n1".to_owned();
    let mut uses = Uses::of(&state);
    for (address, user) in [
        (used, "pod a"),
        (orphan, "pod b"),
        ("10.65.0.250".parse().unwrap(), "pod c"),
        ("192.0.2.1".parse().unwrap(), "pod d"),
        (used, "pod e"),
    ] {
        uses.add(address, user.to_owned());
    }
    let report = check(&memory, &state, &uses, clock.now()).await.unwrap();
    let list = |findings: &[super::check::Finding]| {
        findings
            .iter()
            .map(|f| f.address.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&report.allocated_not_used), [unused.to_string()]);
    assert_eq!(list(&report.used_not_allocated), ["10.65.0.250"]);
    assert_eq!(list(&report.used_outside_pools), ["192.0.2.1"]);
    assert_eq!(list(&report.used_twice), [used.to_string()]);
    assert_eq!(list(&report.addresses_without_handle), [orphan.to_string()]);
    assert_eq!(report.handles_without_addresses, ["empty"]);
    assert_eq!(
        report.malformed.keys().collect::<Vec<_>>(),
        ["10-65-9-0-26"]
    );
    assert!(!report.is_sound());
}

#[test]
fn a_request_for_a_pod_says_what_it_is_for() {
    assert_eq!(
        AssignRequest::for_pod("h", BTreeMap::new(), true, false).intended_use,
        AllowedUse::Workload
    );
}
