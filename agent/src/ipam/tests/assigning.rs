//! Who gets which address, and what is said where there is none.

use futures_util::future::join_all;

use super::*;
use crate::ipam::Unusable;
use crate::model::AllowedUse;

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
        crate::ipam::testing::pool("v6", "fd01::/128", 128),
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

#[test]
fn a_request_for_a_pod_says_what_it_is_for() {
    assert_eq!(
        AssignRequest::for_pod("h", BTreeMap::new(), true, false).intended_use,
        AllowedUse::Workload
    );
}
