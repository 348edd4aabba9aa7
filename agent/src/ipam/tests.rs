//! The room as a whole: records in memory, several nodes, faults at every write, and the directory datastore.

mod assigning;
mod faults;
mod races;
mod records;
mod releasing;
mod tunnels;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::check::{CheckReport, Uses, check};
use super::store::Records;
use super::testing::{Clock, Memory, cluster, prefix};
use super::{AssignRequest, CollectRequest, Ipam, IpamError, TunnelKind};
use crate::datastore::Kind;
use crate::model::{ClusterState, Encapsulation, EncapsulationMode};

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
    let report = report(&memory.client(None), clock).await;
    assert!(report.is_sound(), "{report:#?}");
    assert_eq!(report.handles_with_wrong_counts, Vec::<String>::new());
    held(memory)
}

async fn report(store: &impl Records, clock: &Clock) -> CheckReport {
    check(
        store,
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
