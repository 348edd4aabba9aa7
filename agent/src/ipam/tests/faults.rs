//! A store that refuses, keeps silent, or goes away with the daemon, at every write.

use super::*;
use crate::datastore::StoreError;
use crate::ipam::testing::Fault;

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
