//! Several callers and several nodes at once.

use futures_util::future::join_all;
use margay_bgp::prefix::Prefix;
use proptest::prelude::*;

use super::*;
use crate::datastore::Store;

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
                let reservations = crate::ipam::allocator::Reservations::of(&state);
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
        let report = report(&memory.client(None), &clock).await;
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
    let report = report(&store, &clock).await;
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
    let report = report(&store, &clock).await;
    assert!(report.is_sound(), "{report:#?}");
    assert_eq!(report.allocated, 64);
}
