//! Whether the records hold together, in the categories of `calicoctl ipam check`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::SystemTime;

use margay_bgp::prefix::Prefix;
use serde::{Deserialize, Serialize};

use super::IpamError;
use super::block::Block;
use super::store::Records;
use crate::api::ipam_block::IpamBlockSpec;
use crate::api::ipam_handle::IpamHandleSpec;
use crate::datastore::Kind;
use crate::model::ClusterState;

/// Who is known to use which address, and of which nodes everything is known.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    /// By address: who uses it.
    pub addresses: BTreeMap<IpAddr, Vec<String>>,
    /// Nodes whose users are all listed. An address recorded for another node is not judged unused.
    pub nodes: BTreeSet<String>,
}

impl Uses {
    /// What the cluster's state tells: tunnel addresses of every node, and pods of the node it is seen from.
    #[must_use]
    pub fn of(cluster: &ClusterState) -> Self {
        let mut uses = Self::default();
        for node in cluster.nodes.values() {
            let tunnels = [
                node.ipip_tunnel.map(IpAddr::V4),
                node.vxlan_tunnel_v4.map(IpAddr::V4),
                node.vxlan_tunnel_v6.map(IpAddr::V6),
            ];
            for address in tunnels.into_iter().flatten() {
                uses.add(address, format!("tunnel of node {}", node.name));
            }
        }
        for workload in cluster.workloads.values() {
            for address in &workload.addresses {
                uses.add(
                    *address,
                    format!("pod at interface {}", workload.host_interface),
                );
            }
        }
        uses.nodes.insert(cluster.node_name.clone());
        uses
    }

    /// Notes a user.
    pub fn add(&mut self, address: IpAddr, user: String) {
        self.addresses.entry(address).or_default().push(user);
    }
}

/// One address and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The address.
    pub address: IpAddr,
    /// Its handle, where it has one.
    pub handle: Option<String>,
    /// The node it is recorded for.
    pub node: Option<String>,
    /// The sequence number of its assignment, which a release must name.
    pub sequence_number: Option<u64>,
    /// Who uses it.
    pub users: Vec<String>,
}

/// What was found. All lists empty: the records are sound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// Blocks looked at.
    pub blocks: usize,
    /// Addresses recorded as in use.
    pub allocated: usize,
    /// Handles looked at.
    pub handles: usize,
    /// Recorded, but nobody uses it.
    pub allocated_not_used: Vec<Finding>,
    /// Used, in a pool, but not recorded.
    pub used_not_allocated: Vec<Finding>,
    /// Used, but in no pool that is enabled.
    pub used_outside_pools: Vec<Finding>,
    /// Used by more than one.
    pub used_twice: Vec<Finding>,
    /// Handles under which no address is recorded.
    pub handles_without_addresses: Vec<String>,
    /// Addresses whose handle does not exist.
    pub addresses_without_handle: Vec<Finding>,
    /// Handles that count another number than is recorded: harmless, released with the handle.
    pub handles_with_wrong_counts: Vec<String>,
    /// Blocks that contradict themselves, and how.
    pub malformed: BTreeMap<String, Vec<String>>,
}

impl CheckReport {
    /// Nothing was found. Handles that only count too much do not spoil that: every crash between two writes leaves one.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.allocated_not_used.is_empty()
            && self.used_not_allocated.is_empty()
            && self.used_outside_pools.is_empty()
            && self.used_twice.is_empty()
            && self.handles_without_addresses.is_empty()
            && self.addresses_without_handle.is_empty()
            && self.malformed.is_empty()
    }
}

/// Reads every record and compares them with each other and with who uses what.
///
/// # Errors
/// When the datastore does not answer. Records that cannot be read are findings.
pub async fn check<R: Records>(
    records: &R,
    cluster: &ClusterState,
    uses: &Uses,
    now: SystemTime,
) -> Result<CheckReport, IpamError> {
    let mut report = CheckReport::default();
    let mut blocks = Vec::new();
    for object in records.list(Kind::IpamBlock).await? {
        report.blocks += 1;
        let block = serde_json::from_value::<IpamBlockSpec>(object.spec().clone())
            .map_err(|error| error.to_string())
            .and_then(Block::from_spec);
        match block {
            Ok(block) if block.spec().deleted => {}
            Ok(block) => {
                let faults = block.faults(now);
                if !faults.is_empty() {
                    report.malformed.insert(object.name.clone(), faults);
                }
                blocks.push(block);
            }
            Err(reason) => {
                report.malformed.insert(object.name.clone(), vec![reason]);
            }
        }
    }
    let mut handles = Vec::new();
    for object in records.list(Kind::IpamHandle).await? {
        match serde_json::from_value::<IpamHandleSpec>(object.spec().clone()) {
            Ok(handle) if handle.deleted => {}
            Ok(handle) => handles.push(handle),
            Err(error) => {
                report
                    .malformed
                    .insert(object.title(), vec![error.to_string()]);
            }
        }
    }
    compare(&mut report, cluster, &blocks, &handles, uses);
    Ok(report)
}

fn compare(
    report: &mut CheckReport,
    cluster: &ClusterState,
    blocks: &[Block],
    handles: &[IpamHandleSpec],
    uses: &Uses,
) {
    let known: BTreeMap<String, &IpamHandleSpec> = handles
        .iter()
        .map(|handle| (handle.handle_id.to_lowercase(), handle))
        .collect();
    report.handles = known.len();
    let mut recorded: BTreeSet<IpAddr> = BTreeSet::new();
    let mut counts: BTreeMap<String, BTreeMap<Prefix, usize>> = BTreeMap::new();
    for block in blocks {
        for allocation in block.allocations() {
            report.allocated += 1;
            recorded.insert(allocation.address);
            let finding = || Finding {
                address: allocation.address,
                handle: allocation.attribute.handle().map(str::to_owned),
                node: allocation.attribute.node().map(str::to_owned),
                sequence_number: allocation.sequence_number,
                users: Vec::new(),
            };
            if let Some(handle) = allocation.attribute.handle() {
                let handle = handle.to_lowercase();
                if !known.contains_key(&handle) {
                    report.addresses_without_handle.push(finding());
                }
                *counts
                    .entry(handle)
                    .or_default()
                    .entry(block.cidr())
                    .or_default() += 1;
            }
            let judged = allocation
                .attribute
                .node()
                .is_some_and(|node| uses.nodes.contains(node));
            if judged && !uses.addresses.contains_key(&allocation.address) {
                report.allocated_not_used.push(finding());
            }
        }
    }
    for (name, handle) in &known {
        let Some(actual) = counts.get(name) else {
            report
                .handles_without_addresses
                .push(handle.handle_id.clone());
            continue;
        };
        let said: BTreeMap<Prefix, usize> = handle
            .block
            .iter()
            .filter(|(_, count)| **count > 0)
            .filter_map(|(cidr, count)| Some((cidr.parse().ok()?, *count)))
            .collect();
        if said != *actual {
            report
                .handles_with_wrong_counts
                .push(handle.handle_id.clone());
        }
    }
    for (address, users) in &uses.addresses {
        let finding = Finding {
            address: *address,
            handle: None,
            node: None,
            sequence_number: None,
            users: users.clone(),
        };
        if users.len() > 1 {
            report.used_twice.push(finding.clone());
        }
        match cluster.pool_of(*address) {
            Some(pool) if !pool.disabled => {
                if !recorded.contains(address) {
                    report.used_not_allocated.push(finding);
                }
            }
            Some(_) | None => report.used_outside_pools.push(finding),
        }
    }
}
