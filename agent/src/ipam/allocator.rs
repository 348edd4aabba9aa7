//! Which pools, which blocks, in which order. Pure.
//!
//! Pools: those asked for, in that order, whatever their selectors say; else every automatic pool that selects the node and the
//! namespace, by name. Blocks of a pool are tried from a place that depends on the node's name, one after the other, so that nodes
//! that start at once do not all want the same block and a node that lost its block finds the same one again.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use margay_bgp::family::Family;
use margay_bgp::prefix::Prefix;

use super::block::Block;
use super::{IpamError, PoolRefusal, Unusable};
use crate::model::{AllowedUse, AssignmentMode, ClusterState, IpPool, Labels};

/// Blocks a node may hold of one family where nothing is configured.
pub const DEFAULT_BLOCK_LIMIT: usize = 20;

/// Whether a prefix or address is of a family.
#[must_use]
pub fn is_of(family: Family, address: IpAddr) -> bool {
    address.is_ipv4() == (family == Family::IPV4_UNICAST)
}

/// What decides about pools, from a request.
#[derive(Clone, Copy, Debug)]
pub struct PoolQuery<'a> {
    /// Which family.
    pub family: Family,
    /// Names or CIDRs; empty: any.
    pub requested: &'a [String],
    /// What for.
    pub intended_use: AllowedUse,
    /// Of the pod's namespace.
    pub namespace_labels: &'a Labels,
}

/// The pools an address may come from, in order, and why the others of the family may not give one.
#[derive(Clone, Debug, Default)]
pub struct PoolChoice {
    /// In order of use.
    pub usable: Vec<IpPool>,
    /// The others.
    pub refused: Vec<PoolRefusal>,
}

/// Chooses pools.
///
/// # Errors
/// When a requested pool is missing or disabled, or none is left.
pub fn choose_pools(
    cluster: &ClusterState,
    node: &str,
    query: PoolQuery<'_>,
) -> Result<PoolChoice, IpamError> {
    let of_family = |pool: &&IpPool| pool.cidr.family() == query.family;
    let mut choice = PoolChoice::default();
    let mut candidates = Vec::new();
    if query.requested.is_empty() {
        let no_labels = Labels::new();
        let labels = cluster
            .nodes
            .get(node)
            .map_or(&no_labels, |node| &node.labels);
        for pool in cluster.pools.values().filter(of_family) {
            let reason = if pool.disabled {
                Some(Unusable::Disabled)
            } else if pool.assignment_mode != AssignmentMode::Automatic {
                Some(Unusable::ManualOnly)
            } else if !pool.node_selector.matches(labels) {
                Some(Unusable::NodeSelector)
            } else if !pool.namespace_selector.matches(query.namespace_labels) {
                Some(Unusable::NamespaceSelector)
            } else {
                None
            };
            match reason {
                Some(reason) => choice.refused.push(refusal(pool, reason)),
                None => candidates.push(pool),
            }
        }
    } else {
        for wanted in query.requested {
            let error = |reason: &str| IpamError::RequestedPool {
                pool: wanted.clone(),
                reason: reason.to_owned(),
            };
            let as_prefix = wanted.parse::<Prefix>().ok();
            let pool = cluster
                .pools
                .values()
                .find(|pool| pool.name == *wanted || Some(pool.cidr) == as_prefix)
                .ok_or_else(|| error("does not exist"))?;
            if pool.cidr.family() != query.family {
                return Err(error("is of the other family"));
            }
            if pool.disabled {
                return Err(error("is disabled"));
            }
            if !candidates
                .iter()
                .any(|known: &&IpPool| known.name == pool.name)
            {
                candidates.push(pool);
            }
        }
    }
    for pool in candidates {
        if pool.allowed_uses.contains(&query.intended_use) {
            choice.usable.push(pool.clone());
        } else {
            choice
                .refused
                .push(refusal(pool, Unusable::NotFor(query.intended_use)));
        }
    }
    if choice.usable.is_empty() {
        return Err(IpamError::NoPool {
            family: query.family,
            pools: choice.refused,
        });
    }
    Ok(choice)
}

/// The pool a specific address may come from: neither selectors nor reservations nor the assignment mode are asked.
///
/// # Errors
/// When it lies in none, or in one that may not be used.
pub fn pool_for_address(
    cluster: &ClusterState,
    address: IpAddr,
    intended_use: AllowedUse,
) -> Result<&IpPool, IpamError> {
    let error = |reason: String| IpamError::AddressNotInPool { address, reason };
    let pool = cluster
        .pool_of(address)
        .ok_or_else(|| error("lies in no pool".to_owned()))?;
    if pool.disabled {
        return Err(error(format!(
            "lies in pool {}, which is disabled",
            pool.name
        )));
    }
    if !pool.allowed_uses.contains(&intended_use) {
        return Err(error(format!(
            "lies in pool {}, which is not for {intended_use:?} (allowedUses)",
            pool.name
        )));
    }
    Ok(pool)
}

/// Whether a node may hold empty blocks of a pool: a pool that no longer selects it gets them back.
#[must_use]
pub fn pool_selects_node(cluster: &ClusterState, pool: &IpPool, node: &str) -> bool {
    cluster
        .nodes
        .get(node)
        .is_none_or(|node| pool.node_selector.matches(&node.labels))
}

/// A pool and why it was of no use.
#[must_use]
pub fn refusal(pool: &IpPool, reason: Unusable) -> PoolRefusal {
    PoolRefusal {
        pool: pool.name.clone(),
        cidr: pool.cidr,
        reason,
    }
}

/// Prefixes automatic assignment passes over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations {
    prefixes: Vec<Prefix>,
}

impl Reservations {
    /// Those of the cluster.
    #[must_use]
    pub fn of(cluster: &ClusterState) -> Self {
        Self {
            prefixes: cluster.reservations.values().flatten().copied().collect(),
        }
    }

    /// An address is reserved.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.prefixes
            .iter()
            .any(|reserved| reserved.contains_addr(address))
    }

    /// The largest reservation a whole prefix lies in.
    fn around(&self, prefix: Prefix) -> Option<Prefix> {
        self.prefixes
            .iter()
            .copied()
            .filter(|reserved| reserved.contains(prefix))
            .min_by_key(|reserved| reserved.len())
    }

    /// Every address of a block is reserved, by one reservation or by several together.
    #[must_use]
    pub fn cover(&self, block: Prefix) -> bool {
        self.around(block).is_some() || {
            let inside: Vec<Prefix> = self
                .prefixes
                .iter()
                .copied()
                .filter(|reserved| block.contains(*reserved))
                .collect();
            // Prefixes overlap only by one containing the other, so the outermost ones can be counted.
            let outermost = inside.iter().enumerate().filter(|(at, reserved)| {
                !inside.iter().enumerate().any(|(other, outer)| {
                    other != *at
                        && outer.contains(**reserved)
                        && (outer != *reserved || other < *at)
                })
            });
            let total = outermost
                .map(|(_, reserved)| size(*reserved))
                .fold(0, u128::saturating_add);
            !inside.is_empty() && total >= size(block)
        }
    }

    /// How many addresses of a prefix are reserved.
    #[must_use]
    pub fn count_in(&self, prefix: Prefix) -> u128 {
        if self.around(prefix).is_some() {
            return size(prefix);
        }
        let mut inside: Vec<Prefix> = self
            .prefixes
            .iter()
            .copied()
            .filter(|reserved| prefix.contains(*reserved))
            .collect();
        inside.sort_by_key(|reserved| reserved.len());
        let mut outermost: Vec<Prefix> = Vec::new();
        for reserved in inside {
            if !outermost.iter().any(|outer| outer.contains(reserved)) {
                outermost.push(reserved);
            }
        }
        outermost
            .into_iter()
            .map(size)
            .fold(0, u128::saturating_add)
    }
}

/// Number of addresses of a prefix.
#[must_use]
pub fn size(prefix: Prefix) -> u128 {
    1u128
        .checked_shl(u32::from(prefix.max_len() - prefix.len()))
        .unwrap_or(u128::MAX)
}

/// The blocks of a pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolBlocks {
    pool: Prefix,
    len: u8,
}

impl PoolBlocks {
    /// Of a pool.
    #[must_use]
    pub fn of(pool: &IpPool) -> Self {
        Self {
            pool: pool.cidr,
            // A block larger than its pool cannot be; such a pool is one block.
            len: pool.block_size.clamp(pool.cidr.len(), pool.cidr.max_len()),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(self) -> u128 {
        1u128
            .checked_shl(u32::from(self.len - self.pool.len()))
            .unwrap_or(u128::MAX)
    }

    /// The block of an address of the pool.
    #[must_use]
    pub fn containing(self, address: IpAddr) -> Option<Prefix> {
        Prefix::new(address, self.len).ok()
    }

    fn host_bits(self) -> u32 {
        u32::from(self.pool.max_len() - self.len)
    }

    fn nth(self, index: u128) -> Option<Prefix> {
        let offset = index.checked_shl(self.host_bits())?;
        let address = match self.pool {
            Prefix::V4(pool) => IpAddr::V4(Ipv4Addr::from_bits(
                pool.bits() | u32::try_from(offset).ok()?,
            )),
            Prefix::V6(pool) => IpAddr::V6(Ipv6Addr::from_bits(pool.bits() | offset)),
        };
        self.containing(address)
    }

    fn index_of(self, block: Prefix) -> u128 {
        let offset = match (self.pool, block) {
            (Prefix::V4(pool), Prefix::V4(block)) => u128::from(block.bits() - pool.bits()),
            (Prefix::V6(pool), Prefix::V6(block)) => block.bits() - pool.bits(),
            (Prefix::V4(_), Prefix::V6(_)) | (Prefix::V6(_), Prefix::V4(_)) => 0,
        };
        offset.checked_shr(self.host_bits()).unwrap_or_default()
    }

    /// Where a node starts. Blocks of one address would make neighbours of all nodes' first addresses, so there the time of day is
    /// mixed in, as Calico does.
    #[must_use]
    pub fn start(self, node: &str, now: SystemTime) -> u128 {
        let mut seed = u64::from(fnv32(node.as_bytes()));
        if self.host_bits() == 0 {
            let since = now
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            seed ^= since.as_secs() ^ (u64::from(since.subsec_nanos()) << 32);
        }
        let (high, low) = (splitmix(seed), splitmix(seed ^ 0x5bd1_e995));
        ((u128::from(high) << 64) | u128::from(low)) % self.count()
    }

    /// The first block from `start` on, around to it again, that `want` takes. Runs of blocks inside one reservation are stepped over
    /// at once.
    pub fn find(
        self,
        start: u128,
        reservations: &Reservations,
        mut want: impl FnMut(Prefix) -> bool,
    ) -> Option<Prefix> {
        let count = self.count();
        let mut done = 0;
        while done < count {
            let index = start.checked_add(done).map_or_else(
                || start - (count - done),
                |index| if index >= count { index - count } else { index },
            );
            let block = self.nth(index)?;
            match reservations.around(block) {
                Some(reserved) if reserved.contains(self.pool) => return None,
                Some(reserved) => {
                    let blocks = self.index_of(block);
                    let run = 1u128
                        .checked_shl(u32::from(self.len.saturating_sub(reserved.len())))
                        .unwrap_or(u128::MAX);
                    done = done.saturating_add(run - blocks % run);
                }
                None => {
                    if !reservations.cover(block) && want(block) {
                        return Some(block);
                    }
                    done += 1;
                }
            }
        }
        None
    }
}

/// What the search for a further block sees.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// Pools in order.
    pub pools: &'a [IpPool],
    /// Every block there is.
    pub blocks: &'a BTreeMap<Prefix, Block>,
    /// Passed over.
    pub reservations: &'a Reservations,
    /// The node that looks.
    pub node: &'a str,
    /// Now.
    pub now: SystemTime,
}

impl Search<'_> {
    fn find(&self, mut want: impl FnMut(Prefix) -> bool) -> Option<Prefix> {
        self.pools.iter().find_map(|pool| {
            let blocks = PoolBlocks::of(pool);
            blocks.find(
                blocks.start(self.node, self.now),
                self.reservations,
                &mut want,
            )
        })
    }

    fn pass_over(&self) -> impl Fn(IpAddr) -> bool {
        |address| self.reservations.contains(address)
    }

    /// A block that can be claimed: one that does not exist, or is this node's and has room. Blocks in `not` have been tried.
    #[must_use]
    pub fn claimable(&self, not: &[Prefix]) -> Option<Prefix> {
        self.find(|cidr| {
            !not.contains(&cidr)
                && match self.blocks.get(&cidr) {
                    None => !self.overlaps(cidr),
                    Some(block) => {
                        block.host() == Some(self.node) && block.has_room(self.pass_over())
                    }
                }
        })
    }

    /// A block of another size is in the way: the pool was made anew with another block size.
    fn overlaps(&self, cidr: Prefix) -> bool {
        let inside = self
            .blocks
            .range(cidr..)
            .next()
            .is_some_and(|(other, _)| cidr.contains(*other));
        inside || self.blocks.keys().any(|other| other.contains(cidr))
    }

    /// Blocks that exist, pool by pool, in the order of the walk. A walk of every block the pools have room for would not end: an
    /// IPv6 pool has room for more than anybody can try.
    fn existing(&self) -> impl Iterator<Item = (Prefix, &Block)> {
        self.pools.iter().flat_map(|pool| {
            let blocks = PoolBlocks::of(pool);
            let start = blocks.start(self.node, self.now);
            let mut found: Vec<_> = self
                .blocks
                .iter()
                .filter(|(cidr, _)| pool.cidr.contains(**cidr) && !self.reservations.cover(**cidr))
                .map(|(cidr, block)| (*cidr, block))
                .collect();
            found.sort_by_key(|(cidr, _)| {
                let index = blocks.index_of(*cidr);
                (index < start, index)
            });
            found
        })
    }

    /// An empty block of another node that has had it for a while.
    #[must_use]
    pub fn reclaimable(&self, not: &[Prefix], claim_grace: Duration) -> Option<Prefix> {
        self.existing()
            .find(|(cidr, block)| {
                !not.contains(cidr)
                    && block.is_empty()
                    && block.host().is_some_and(|host| host != self.node)
                    && block
                        .claimed_at()
                        .and_then(|at| at.checked_add(claim_grace))
                        .is_none_or(|until| until <= self.now)
            })
            .map(|(cidr, _)| cidr)
    }

    /// A block of somebody else with a free address.
    #[must_use]
    pub fn borrowable(&self, not: &[Prefix]) -> Option<Prefix> {
        self.existing()
            .find(|(cidr, block)| {
                !not.contains(cidr)
                    && block.host() != Some(self.node)
                    && block.has_room(self.pass_over())
            })
            .map(|(cidr, _)| cidr)
    }

    /// Why each pool has nothing, once nothing was found.
    #[must_use]
    pub fn refusals(&self, strict: bool) -> Vec<PoolRefusal> {
        self.pools
            .iter()
            .map(|pool| {
                let others = self
                    .blocks
                    .values()
                    .filter(|block| {
                        pool.cidr.contains(block.cidr()) && block.host() != Some(self.node)
                    })
                    .count();
                refusal(
                    pool,
                    Unusable::Full {
                        blocks: PoolBlocks::of(pool).count(),
                        others,
                        strict,
                    },
                )
            })
            .collect()
    }
}

/// How many blocks of a family a node may hold.
#[must_use]
pub const fn block_limit(configured: usize) -> usize {
    if configured == 0 {
        DEFAULT_BLOCK_LIMIT
    } else {
        configured
    }
}

/// FNV-1 of 32 bits, the seed Calico takes. What it feeds with it is Go's generator, which is not reproduced here: two
/// implementations need not start at the same block, they must only spread.
fn fnv32(octets: &[u8]) -> u32 {
    octets.iter().fold(0x811c_9dc5, |hash: u32, octet| {
        hash.wrapping_mul(0x0100_0193) ^ u32::from(*octet)
    })
}

const fn splitmix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ipam::testing::{cluster, pool, prefix};

    fn query(requested: &[String]) -> PoolQuery<'_> {
        static NONE: Labels = Labels::new();
        PoolQuery {
            family: Family::IPV4_UNICAST,
            requested,
            intended_use: AllowedUse::Workload,
            namespace_labels: &NONE,
        }
    }

    fn names(choice: &PoolChoice) -> Vec<&str> {
        choice
            .usable
            .iter()
            .map(|pool| pool.name.as_str())
            .collect()
    }

    #[test]
    fn pools_are_used_by_name_where_none_is_asked_for() {
        let mut cluster = cluster(
            "n1",
            &[
                ("b", "10.66.0.0/16", 26),
                ("a", "10.65.0.0/16", 26),
                ("c", "10.67.0.0/16", 26),
                ("v6", "fd00::/48", 122),
            ],
        );
        cluster.pools.get_mut("c").unwrap().disabled = true;
        let choice = choose_pools(&cluster, "n1", query(&[])).unwrap();
        assert_eq!(names(&choice), ["a", "b"]);
        assert_eq!(choice.refused[0].reason, Unusable::Disabled);
    }

    #[test]
    fn selectors_and_modes_are_asked_unless_the_pool_is_requested() {
        let mut cluster = cluster(
            "n1",
            &[
                ("a", "10.65.0.0/16", 26),
                ("b", "10.66.0.0/16", 26),
                ("c", "10.67.0.0/16", 26),
            ],
        );
        cluster.pools.get_mut("a").unwrap().node_selector =
            crate::model::Selector::parse("rack == 'r2'").unwrap();
        cluster.pools.get_mut("b").unwrap().assignment_mode = AssignmentMode::Manual;
        cluster.pools.get_mut("c").unwrap().namespace_selector =
            crate::model::Selector::parse("team == 'x'").unwrap();
        let error = choose_pools(&cluster, "n1", query(&[])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no ipv4-unicast pool may be used: pool a (10.65.0.0/16) does not select this node; pool b (10.66.0.0/16) is used only on request (assignmentMode Manual); pool c (10.67.0.0/16) does not select the pod's namespace"
        );
        let requested = ["c".to_owned(), "10.65.0.0/16".to_owned(), "b".to_owned()];
        let choice = choose_pools(&cluster, "n1", query(&requested)).unwrap();
        assert_eq!(names(&choice), ["c", "a", "b"]);
    }

    #[test]
    fn a_requested_pool_must_exist_be_enabled_and_of_the_family() {
        let mut cluster = cluster("n1", &[("a", "10.65.0.0/16", 26), ("v6", "fd00::/48", 122)]);
        cluster.pools.get_mut("a").unwrap().disabled = true;
        for wanted in ["a", "nope", "v6", "10.1.0.0/16"] {
            assert!(matches!(
                choose_pools(&cluster, "n1", query(&[wanted.to_owned()])),
                Err(IpamError::RequestedPool { .. })
            ));
        }
    }

    #[test]
    fn allowed_uses_hold_for_requested_pools_too() {
        let mut cluster = cluster("n1", &[("a", "10.65.0.0/16", 26)]);
        cluster.pools.get_mut("a").unwrap().allowed_uses = BTreeSet::from([AllowedUse::Tunnel]);
        assert!(matches!(
            choose_pools(&cluster, "n1", query(&["a".to_owned()])),
            Err(IpamError::NoPool { pools, .. }) if pools[0].reason == Unusable::NotFor(AllowedUse::Workload)
        ));
    }

    #[test]
    fn the_walk_meets_every_block_once_from_anywhere() {
        let blocks = PoolBlocks::of(&pool("a", "10.65.0.0/22", 26));
        assert_eq!(blocks.count(), 16);
        for start in 0..16 {
            let mut met = Vec::new();
            let found = blocks.find(start, &Reservations::default(), |block| {
                met.push(block);
                false
            });
            assert_eq!(found, None);
            assert_eq!(met.len(), 16);
            assert_eq!(met.iter().collect::<BTreeSet<_>>().len(), 16);
        }
    }

    #[test]
    fn the_walk_steps_over_reservations_however_large() {
        let blocks = PoolBlocks::of(&pool("a", "fd00::/48", 122));
        let reservations = Reservations {
            prefixes: vec![prefix("fd00::/49"), prefix("fd00:0:0:8000::/50")],
        };
        let mut tried = 0;
        let found = blocks.find(5, &reservations, |_| {
            tried += 1;
            true
        });
        assert_eq!(found, Some(prefix("fd00:0:0:c000::/122")));
        assert_eq!(tried, 1);
    }

    #[test]
    fn a_wholly_reserved_block_is_known_also_when_several_reservations_cover_it() {
        let reservations = Reservations {
            prefixes: vec![
                prefix("10.65.0.0/27"),
                prefix("10.65.0.32/27"),
                prefix("10.65.0.40/32"),
                prefix("10.65.0.64/27"),
                prefix("10.65.0.64/27"),
            ],
        };
        assert!(reservations.cover(prefix("10.65.0.0/26")));
        assert!(!reservations.cover(prefix("10.65.0.64/26")));
        assert_eq!(reservations.count_in(prefix("10.65.0.0/16")), 96);
    }

    #[test]
    fn nodes_start_at_different_blocks_and_each_at_the_same_one_again() {
        let blocks = PoolBlocks::of(&pool("a", "10.0.0.0/8", 26));
        let now = SystemTime::UNIX_EPOCH;
        let starts: BTreeSet<u128> = (0..100)
            .map(|n| blocks.start(&format!("node-{n}"), now))
            .collect();
        assert!(starts.len() >= 99);
        assert_eq!(
            blocks.start("n1", now),
            blocks.start("n1", now + Duration::from_secs(5))
        );
    }

    #[test]
    fn fnv_is_the_published_one() {
        assert_eq!(fnv32(b""), 0x811c_9dc5);
        assert_eq!(fnv32(b"a"), 0x050c_5d7e);
        assert_eq!(fnv32(b"foobar"), 0x31f0_b262);
    }

    #[test]
    fn the_largest_pools_are_walked_without_overflow() {
        let blocks = PoolBlocks::of(&pool("a", "::/0", 128));
        let found = blocks.find(u128::MAX - 1, &Reservations::default(), |_| true);
        assert!(found.is_some());
        let whole = PoolBlocks::of(&pool("b", "10.65.0.0/26", 26));
        assert_eq!(
            whole.find(0, &Reservations::default(), |_| true),
            Some(prefix("10.65.0.0/26"))
        );
    }
}
