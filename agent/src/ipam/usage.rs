//! How full the pools are.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_bgp::prefix::Prefix;
use serde::Serialize;

use super::allocator::{PoolBlocks, Reservations, size};
use super::block::Block;
use crate::model::ClusterState;

/// Pools, blocks and nodes in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Every pool by name.
    pub pools: BTreeMap<String, PoolUsage>,
    /// Every node that holds a block or uses an address.
    pub nodes: BTreeMap<String, NodeUsage>,
    /// Every block, in order.
    pub blocks: Vec<BlockUsage>,
    /// Blocks that lie in no pool, and the addresses in use in them.
    pub outside_pools: OutsidePools,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolUsage {
    /// Its range.
    pub cidr: String,
    /// Its addresses; IPv6 pools may have more than most numbers hold.
    pub size: u128,
    /// Addresses reserved.
    pub reserved: u128,
    /// Blocks it can be cut into.
    pub blocks_possible: u128,
    /// Blocks there are.
    pub blocks: usize,
    /// Addresses in use.
    pub allocated: usize,
    /// Of them: in use on another node than the block's.
    pub borrowed: usize,
    /// Addresses released that may not be used yet.
    pub cooling: usize,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeUsage {
    /// Blocks it holds.
    pub blocks: usize,
    /// Addresses it uses, wherever they lie.
    pub allocated: usize,
    /// Of them: in blocks that are not its own.
    pub borrowed: usize,
}

/// One block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockUsage {
    /// Its range.
    pub cidr: String,
    /// Its pool.
    pub pool: Option<String>,
    /// The node it is affine to.
    pub host: Option<String>,
    /// Its addresses.
    pub size: usize,
    /// In use.
    pub allocated: usize,
    /// In use on another node.
    pub borrowed: usize,
    /// Released, not to be used yet.
    pub cooling: usize,
}

/// What pools that are gone left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OutsidePools {
    /// Blocks.
    pub blocks: usize,
    /// Addresses in use.
    pub allocated: usize,
}

/// One address and its owner, for `margay ipam show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressInfo {
    /// The address.
    pub address: IpAddr,
    /// Its block.
    pub block: String,
    /// The block's node.
    pub block_host: Option<String>,
    /// Its handle.
    pub handle: Option<String>,
    /// What the record says of the owner.
    pub attributes: BTreeMap<String, String>,
}

/// Counts what blocks hold.
#[must_use]
pub fn usage<'a>(cluster: &ClusterState, blocks: impl IntoIterator<Item = &'a Block>) -> Usage {
    let reservations = Reservations::of(cluster);
    let mut usage = Usage::default();
    for pool in cluster.pools.values() {
        usage.pools.insert(
            pool.name.clone(),
            PoolUsage {
                cidr: pool.cidr.to_string(),
                size: size(pool.cidr),
                reserved: reservations.count_in(pool.cidr),
                blocks_possible: PoolBlocks::of(pool).count(),
                blocks: 0,
                allocated: 0,
                borrowed: 0,
                cooling: 0,
            },
        );
    }
    let mut ordered: Vec<&Block> = blocks.into_iter().collect();
    ordered.sort_by_key(|block| block.cidr());
    for block in ordered {
        let host = block.host();
        let mut info = BlockUsage {
            cidr: block.cidr().to_string(),
            pool: pool_of(cluster, block.cidr()).map(str::to_owned),
            host: host.map(str::to_owned),
            size: block.size(),
            allocated: 0,
            borrowed: 0,
            cooling: block.cooling(),
        };
        for allocation in block.allocations() {
            info.allocated += 1;
            let Some(user) = allocation.attribute.node() else {
                continue;
            };
            let node = usage.nodes.entry(user.to_owned()).or_default();
            node.allocated += 1;
            if Some(user) != host {
                node.borrowed += 1;
                info.borrowed += 1;
            }
        }
        if let Some(host) = host {
            usage.nodes.entry(host.to_owned()).or_default().blocks += 1;
        }
        match info
            .pool
            .as_ref()
            .and_then(|pool| usage.pools.get_mut(pool))
        {
            Some(pool) => {
                pool.blocks += 1;
                pool.allocated += info.allocated;
                pool.borrowed += info.borrowed;
                pool.cooling += info.cooling;
            }
            None => {
                usage.outside_pools.blocks += 1;
                usage.outside_pools.allocated += info.allocated;
            }
        }
        usage.blocks.push(info);
    }
    usage
}

/// Everything recorded of an address.
#[must_use]
pub fn show<'a>(
    blocks: impl IntoIterator<Item = &'a Block>,
    address: IpAddr,
) -> Option<AddressInfo> {
    blocks.into_iter().find_map(|block| {
        let allocation = block
            .allocations()
            .find(|allocation| allocation.address == address)?;
        Some(AddressInfo {
            address,
            block: block.cidr().to_string(),
            block_host: block.host().map(str::to_owned),
            handle: allocation.attribute.handle().map(str::to_owned),
            attributes: allocation.attribute.secondary.clone(),
        })
    })
}

fn pool_of(cluster: &ClusterState, cidr: Prefix) -> Option<&str> {
    cluster
        .pools
        .values()
        .filter(|pool| pool.cidr.contains(cidr))
        .max_by_key(|pool| pool.cidr.len())
        .map(|pool| pool.name.as_str())
}
