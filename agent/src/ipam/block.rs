//! One block's book-keeping: which address is whose. Pure; the datastore is not seen from here.
//!
//! The record is Calico's, and so is the order: free ordinals form a queue (`unallocated`), assigned from the front and released
//! to the end, so that an address just released is the last to be used again. Owners are interned: addresses with the same handle and
//! attributes share one entry of `attributes`, and an entry nobody refers to is removed. With a cooldown, a released address keeps its
//! place in `allocations` and refers to an entry that has nothing but `releasedAt`, until its time has passed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use margay_bgp::prefix::Prefix;
use serde_json::Map;

use super::{ReleaseAddress, time};
use crate::api::ipam_block::{AllocationAttribute, IpamBlockSpec};

/// Most addresses a block may have: Calico's largest, /20 and /116.
const MAX_SIZE: u32 = 1 << 12;

/// A block whose record holds together well enough to be worked on.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    spec: IpamBlockSpec,
}

/// Whom new addresses are recorded for.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// The handle.
    pub handle_id: &'a str,
    /// What else is said of the owner.
    pub attributes: &'a BTreeMap<String, String>,
}

/// Why a specific address cannot be assigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is this handle's, or an owner's without handle.
    By(Option<String>),
    /// Its cooldown is not over.
    CoolingDown,
    /// It does not lie in the block.
    Elsewhere,
}

/// Addresses that were in use, and their handles.
pub type Freed = Vec<(IpAddr, Option<String>)>;

/// One address in use.
#[derive(Clone, Copy, Debug)]
pub struct Allocation<'a> {
    /// The address.
    pub address: IpAddr,
    /// The owner.
    pub attribute: &'a AllocationAttribute,
    /// The block's sequence number when the address was assigned, where recorded.
    pub sequence_number: Option<u64>,
}

impl Block {
    /// A new block, all free.
    ///
    /// # Errors
    /// When the range has more addresses than a block may.
    pub fn new(cidr: Prefix, host: &str, now: SystemTime) -> Result<Self, String> {
        let size = size_of(cidr)?;
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Self {
            spec: IpamBlockSpec {
                cidr,
                affinity: Some(format!("host:{host}")),
                affinity_claim_time: Some(time::format(now)),
                allocations: vec![None; size as usize],
                attributes: Vec::new(),
                unallocated: (0..size).collect(),
                sequence_number: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX / 2),
                sequence_number_for_allocation: BTreeMap::new(),
                deleted: false,
                strict_affinity: false,
                other: Map::new(),
            },
        })
    }

    /// Takes a record.
    ///
    /// # Errors
    /// What keeps it from being worked on: a size that is not its range's, or an address that refers to an owner that is not there.
    /// Smaller faults (a free ordinal missing from the queue) are left to `margay ipam check`, and never lead to an address given
    /// twice.
    pub fn from_spec(spec: IpamBlockSpec) -> Result<Self, String> {
        let size = size_of(spec.cidr)?;
        if spec.allocations.len() != size as usize {
            return Err(format!(
                "has {} allocations, expected {size} for {}",
                spec.allocations.len(),
                spec.cidr
            ));
        }
        let dangling = (0u32..)
            .zip(&spec.allocations)
            .find_map(|(ordinal, index)| {
                index
                    .filter(|index| *index >= spec.attributes.len())
                    .map(|index| (ordinal, index))
            });
        if let Some((ordinal, index)) = dangling {
            return Err(format!(
                "allocation {ordinal} refers to attribute {index}, but there are only {}",
                spec.attributes.len()
            ));
        }
        Ok(Self { spec })
    }

    /// The record.
    #[must_use]
    pub const fn spec(&self) -> &IpamBlockSpec {
        &self.spec
    }

    /// The record as the next version of itself.
    #[must_use]
    pub fn next_version(mut self) -> Self {
        self.spec.sequence_number += 1;
        self.spec.strict_affinity = false;
        self
    }

    /// The block's range.
    #[must_use]
    pub const fn cidr(&self) -> Prefix {
        self.spec.cidr
    }

    /// The node the block is affine to.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.spec.host()
    }

    /// Makes the block a node's, as of now.
    pub fn set_host(&mut self, host: &str, now: SystemTime) {
        self.spec.affinity = Some(format!("host:{host}"));
        self.spec.affinity_claim_time = Some(time::format(now));
    }

    /// Makes the block nobody's.
    pub fn clear_affinity(&mut self) {
        self.spec.affinity = None;
        self.spec.affinity_claim_time = None;
    }

    /// Marks the block as being deleted.
    pub const fn mark_deleted(&mut self) {
        self.spec.deleted = true;
    }

    /// Number of addresses, used or not.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.spec.allocations.len()
    }

    /// No address is in use or cooling down.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spec.allocations.iter().all(Option::is_none)
    }

    /// Since when the block has been its owner's; `None` where that is not recorded.
    #[must_use]
    pub fn claimed_at(&self) -> Option<SystemTime> {
        time::parse(self.spec.affinity_claim_time.as_deref()?)
    }

    /// Addresses that are cooling down.
    #[must_use]
    pub fn cooling(&self) -> usize {
        self.spec
            .allocations
            .iter()
            .flatten()
            .filter(|index| {
                self.spec
                    .attributes
                    .get(**index)
                    .is_some_and(|attribute| attribute.released_at.is_some())
            })
            .count()
    }

    /// The address of an ordinal.
    #[must_use]
    pub fn address(&self, ordinal: u32) -> IpAddr {
        match self.spec.cidr {
            Prefix::V4(cidr) => IpAddr::V4((cidr.bits().wrapping_add(ordinal)).into()),
            Prefix::V6(cidr) => IpAddr::V6((cidr.bits().wrapping_add(u128::from(ordinal))).into()),
        }
    }

    /// The ordinal of an address; `None` for one outside the block.
    #[must_use]
    pub fn ordinal(&self, address: IpAddr) -> Option<u32> {
        if !self.spec.cidr.contains_addr(address) {
            return None;
        }
        match (self.spec.cidr, address) {
            (Prefix::V4(cidr), IpAddr::V4(address)) => {
                Some(address.to_bits().wrapping_sub(cidr.bits()))
            }
            (Prefix::V6(cidr), IpAddr::V6(address)) => {
                u32::try_from(address.to_bits().wrapping_sub(cidr.bits())).ok()
            }
            (Prefix::V4(_), IpAddr::V6(_)) | (Prefix::V6(_), IpAddr::V4(_)) => None,
        }
    }

    /// Addresses in use, in order.
    pub fn allocations(&self) -> impl Iterator<Item = Allocation<'_>> {
        self.spec.in_use().map(|(ordinal, attribute)| Allocation {
            address: self.address(ordinal),
            attribute,
            sequence_number: self
                .spec
                .sequence_number_for_allocation
                .get(&ordinal.to_string())
                .copied(),
        })
    }

    /// Addresses of a handle, in order.
    #[must_use]
    pub fn of_handle(&self, handle_id: &str) -> Vec<IpAddr> {
        self.allocations()
            .filter(|allocation| allocation.attribute.handle() == Some(handle_id))
            .map(|allocation| allocation.address)
            .collect()
    }

    /// Whether a free address is there that is not passed over.
    #[must_use]
    pub fn has_room(&self, pass_over: impl Fn(IpAddr) -> bool) -> bool {
        self.spec
            .unallocated
            .iter()
            .any(|ordinal| self.is_free(*ordinal) && !pass_over(self.address(*ordinal)))
    }

    /// An ordinal that stands in the queue of free ones though it is in use must never be handed out.
    fn is_free(&self, ordinal: u32) -> bool {
        self.spec
            .allocations
            .get(ordinal as usize)
            .is_some_and(Option::is_none)
    }

    /// Puts addresses whose cooldown is over back into the queue. Returns how many.
    pub fn thaw(&mut self, now: SystemTime, cooldown: Duration) -> usize {
        let warm: BTreeSet<usize> = self
            .spec
            .attributes
            .iter()
            .enumerate()
            .filter(|(_, attribute)| {
                attribute.released_at.as_deref().is_some_and(|at| {
                    // A time nobody can read would keep the address for ever.
                    time::parse(at)
                        .and_then(|at| at.checked_add(cooldown))
                        .is_none_or(|until| until <= now)
                })
            })
            .map(|(index, _)| index)
            .collect();
        if warm.is_empty() {
            return 0;
        }
        let mut thawed = 0;
        for (ordinal, index) in (0u32..).zip(&mut self.spec.allocations) {
            if index.is_some_and(|index| warm.contains(&index)) {
                *index = None;
                self.spec.unallocated.push(ordinal);
                thawed += 1;
            }
        }
        self.prune();
        thawed
    }

    /// Assigns up to `count` addresses from the front of the queue; those passed over keep their places.
    pub fn assign(
        &mut self,
        count: usize,
        owner: Owner<'_>,
        pass_over: impl Fn(IpAddr) -> bool,
    ) -> Vec<IpAddr> {
        let mut assigned = Vec::new();
        let queue = std::mem::take(&mut self.spec.unallocated);
        let mut kept = Vec::with_capacity(queue.len());
        for ordinal in queue {
            let address = self.address(ordinal);
            if assigned.len() >= count || pass_over(address) {
                kept.push(ordinal);
            } else if self.is_free(ordinal) {
                self.take(ordinal, owner);
                assigned.push(address);
            }
        }
        self.spec.unallocated = kept;
        assigned
    }

    /// Assigns one address, reserved or not.
    ///
    /// # Errors
    /// Whose it is.
    pub fn assign_specific(&mut self, address: IpAddr, owner: Owner<'_>) -> Result<(), Taken> {
        let ordinal = self.ordinal(address).ok_or(Taken::Elsewhere)?;
        match self.attribute_of(ordinal) {
            Some(attribute) if attribute.released_at.is_some() => Err(Taken::CoolingDown),
            Some(attribute) => Err(Taken::By(attribute.handle().map(str::to_owned))),
            None => {
                self.spec.unallocated.retain(|free| *free != ordinal);
                self.take(ordinal, owner);
                Ok(())
            }
        }
    }

    /// Releases addresses, all or none. Returns those that were in use with their handles; free ones are passed over.
    ///
    /// # Errors
    /// The first address that is not what the caller says it is, and the handle it has.
    pub fn release(
        &mut self,
        addresses: &[ReleaseAddress],
        now: SystemTime,
        cooldown: Duration,
    ) -> Result<Freed, (ReleaseAddress, Option<String>)> {
        let mut found = BTreeMap::new();
        for wanted in addresses {
            let Some(ordinal) = self.ordinal(wanted.address) else {
                continue;
            };
            let Some(attribute) = self
                .attribute_of(ordinal)
                .filter(|attribute| attribute.released_at.is_none())
            else {
                continue;
            };
            let handle = attribute.handle().map(str::to_owned);
            let same_owner = wanted.handle_id.is_none() || wanted.handle_id == handle;
            // A record without the number is of an old Calico, which assigned the address before numbers were kept.
            let same_time = wanted.sequence_number.is_none_or(|wanted| {
                self.spec
                    .sequence_number_for_allocation
                    .get(&ordinal.to_string())
                    .is_none_or(|recorded| *recorded == wanted)
            });
            if !same_owner || !same_time {
                return Err((wanted.clone(), handle));
            }
            found.insert(ordinal, (wanted.address, handle));
        }
        self.free(found.keys().copied(), now, cooldown);
        Ok(found.into_values().collect())
    }

    /// Releases every address of a handle. Returns them.
    pub fn release_handle(
        &mut self,
        handle_id: &str,
        now: SystemTime,
        cooldown: Duration,
    ) -> Vec<IpAddr> {
        let addresses = self.of_handle(handle_id);
        let ordinals: Vec<u32> = addresses
            .iter()
            .filter_map(|address| self.ordinal(*address))
            .collect();
        self.free(ordinals, now, cooldown);
        addresses
    }

    /// What does not hold together in the record, for people.
    #[must_use]
    pub fn faults(&self, now: SystemTime) -> Vec<String> {
        let mut faults = Vec::new();
        let mut queued = BTreeSet::new();
        for ordinal in &self.spec.unallocated {
            if !queued.insert(*ordinal) {
                faults.push(format!("ordinal {ordinal} is twice in unallocated"));
            } else if !self.is_free(*ordinal) {
                faults.push(format!("ordinal {ordinal} is allocated and in unallocated"));
            }
        }
        for (ordinal, index) in (0u32..).zip(&self.spec.allocations) {
            if index.is_none() && !queued.contains(&ordinal) {
                faults.push(format!(
                    "ordinal {ordinal} is neither allocated nor in unallocated"
                ));
            }
        }
        for (index, attribute) in self.spec.attributes.iter().enumerate() {
            if !self.spec.allocations.contains(&Some(index)) {
                faults.push(format!("attribute {index} belongs to no address"));
            }
            if let Some(at) = &attribute.released_at {
                match time::parse(at) {
                    None => faults.push(format!("attribute {index}: releasedAt {at:?} is no time")),
                    Some(at) if at > now + CLOCK_SKEW => {
                        faults.push(format!("attribute {index}: releasedAt lies in the future"));
                    }
                    Some(_) => {}
                }
            }
        }
        faults
    }

    fn attribute_of(&self, ordinal: u32) -> Option<&AllocationAttribute> {
        let index = (*self.spec.allocations.get(ordinal as usize)?)?;
        self.spec.attributes.get(index)
    }

    fn take(&mut self, ordinal: u32, owner: Owner<'_>) {
        let index = self.intern(AllocationAttribute {
            handle_id: Some(owner.handle_id.to_owned()),
            secondary: owner.attributes.clone(),
            released_at: None,
            other: Map::new(),
        });
        if let Some(allocation) = self.spec.allocations.get_mut(ordinal as usize) {
            *allocation = Some(index);
            self.spec
                .sequence_number_for_allocation
                .insert(ordinal.to_string(), self.spec.sequence_number);
        }
    }

    fn free(
        &mut self,
        ordinals: impl IntoIterator<Item = u32>,
        now: SystemTime,
        cooldown: Duration,
    ) {
        let cooling = (!cooldown.is_zero()).then(|| AllocationAttribute {
            released_at: Some(time::format(now)),
            ..AllocationAttribute::default()
        });
        for ordinal in ordinals {
            let entry = cooling.clone().map(|attribute| self.intern(attribute));
            if entry.is_none() {
                self.spec.unallocated.push(ordinal);
            }
            if let Some(allocation) = self.spec.allocations.get_mut(ordinal as usize) {
                *allocation = entry;
            }
            self.spec
                .sequence_number_for_allocation
                .remove(&ordinal.to_string());
        }
        self.prune();
    }

    fn intern(&mut self, attribute: AllocationAttribute) -> usize {
        if let Some(index) = self
            .spec
            .attributes
            .iter()
            .position(|known| *known == attribute)
        {
            return index;
        }
        self.spec.attributes.push(attribute);
        self.spec.attributes.len() - 1
    }

    /// Removes attributes nobody refers to and closes the gaps.
    fn prune(&mut self) {
        let used: BTreeSet<usize> = self.spec.allocations.iter().flatten().copied().collect();
        let renumbered: BTreeMap<usize, usize> = used.iter().copied().zip(0..).collect();
        let mut index = 0;
        self.spec.attributes.retain(|_| {
            index += 1;
            used.contains(&(index - 1))
        });
        for allocation in self.spec.allocations.iter_mut().flatten() {
            if let Some(new) = renumbered.get(allocation) {
                *allocation = *new;
            }
        }
    }
}

/// Clocks of nodes differ by this much before a time in the future is a fault.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

fn size_of(cidr: Prefix) -> Result<u32, String> {
    1u32.checked_shl(u32::from(cidr.max_len() - cidr.len()))
        .filter(|size| *size <= MAX_SIZE)
        .ok_or_else(|| format!("{cidr} is larger than a block may be"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_767_323_045);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + NOW
    }

    fn block(cidr: &str) -> Block {
        Block::new(cidr.parse().unwrap(), "n1", now()).unwrap()
    }

    fn attributes(node: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("node".to_owned(), node.to_owned())])
    }

    fn assign(block: &mut Block, count: usize, handle_id: &str) -> Vec<String> {
        let attributes = attributes("n1");
        block
            .assign(
                count,
                Owner {
                    handle_id,
                    attributes: &attributes,
                },
                |_| false,
            )
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn addresses_come_from_the_front_and_return_to_the_end() {
        let mut block = block("10.65.0.0/30");
        assert_eq!(assign(&mut block, 2, "a"), ["10.65.0.0", "10.65.0.1"]);
        assert_eq!(assign(&mut block, 1, "b"), ["10.65.0.2"]);
        block.release_handle("a", now(), Duration::ZERO);
        assert_eq!(block.spec().unallocated, [3, 0, 1]);
        assert_eq!(
            assign(&mut block, 9, "c"),
            ["10.65.0.3", "10.65.0.0", "10.65.0.1"]
        );
        assert!(!block.has_room(|_| false));
    }

    #[test]
    fn owners_are_shared_and_pruned() {
        let mut block = block("10.65.0.0/30");
        assign(&mut block, 1, "a");
        assign(&mut block, 1, "b");
        assign(&mut block, 1, "a");
        assert_eq!(block.spec().allocations, [Some(0), Some(1), Some(0), None]);
        block.release_handle("a", now(), Duration::ZERO);
        assert_eq!(block.spec().allocations, [None, Some(0), None, None]);
        assert_eq!(block.spec().attributes.len(), 1);
        assert_eq!(block.spec().sequence_number_for_allocation.len(), 1);
    }

    #[test]
    fn a_record_is_written_as_calico_writes_it() {
        let mut block = block("10.65.0.0/31");
        assign(&mut block, 1, "k8s-pod-network.c1");
        let block = block.next_version();
        assert_eq!(
            serde_json::to_value(block.spec()).unwrap(),
            serde_json::json!({
                "cidr": "10.65.0.0/31",
                "affinity": "host:n1",
                "affinityClaimTime": "2026-01-02T03:04:05Z",
                "allocations": [0, null],
                "attributes": [{"handle_id": "k8s-pod-network.c1", "secondary": {"node": "n1"}}],
                "unallocated": [1],
                "sequenceNumber": 1_767_323_045_000_000_001_u64,
                "sequenceNumberForAllocation": {"0": 1_767_323_045_000_000_000_u64},
                "deleted": false,
                "strictAffinity": false,
            })
        );
    }

    #[test]
    fn a_released_address_cools_down_before_it_is_free() {
        let cooldown = Duration::from_secs(30);
        let mut block = block("10.65.0.0/31");
        assign(&mut block, 2, "a");
        assert_eq!(block.release_handle("a", now(), cooldown).len(), 2);
        assert_eq!(block.cooling(), 2);
        assert_eq!(
            serde_json::to_value(&block.spec().attributes).unwrap(),
            serde_json::json!([{"releasedAt": "2026-01-02T03:04:05Z"}])
        );
        assert!(!block.is_empty());
        assert!(assign(&mut block, 1, "b").is_empty());
        assert_eq!(
            block.assign_specific(
                "10.65.0.1".parse().unwrap(),
                Owner {
                    handle_id: "b",
                    attributes: &BTreeMap::new()
                }
            ),
            Err(Taken::CoolingDown)
        );
        assert_eq!(block.thaw(now() + Duration::from_secs(29), cooldown), 0);
        assert_eq!(block.thaw(now() + cooldown, cooldown), 2);
        assert!(block.is_empty());
        assert!(block.spec().attributes.is_empty());
        assert_eq!(block.spec().unallocated, [0, 1]);
    }

    #[test]
    fn passed_over_addresses_keep_their_places() {
        let mut block = block("10.65.0.0/30");
        let attributes = BTreeMap::new();
        let owner = Owner {
            handle_id: "a",
            attributes: &attributes,
        };
        let odd = |address: IpAddr| matches!(address, IpAddr::V4(a) if a.to_bits() % 2 == 1);
        assert_eq!(block.assign(4, owner, odd).len(), 2);
        assert_eq!(block.spec().unallocated, [1, 3]);
        assert!(!block.has_room(odd));
        block
            .assign_specific("10.65.0.3".parse().unwrap(), owner)
            .unwrap();
        assert_eq!(block.spec().unallocated, [1]);
    }

    #[test]
    fn a_release_of_what_changed_hands_is_refused_whole() {
        let mut block = block("10.65.0.0/30");
        assign(&mut block, 1, "a");
        assign(&mut block, 1, "b");
        let sequence = block.allocations().next().unwrap().sequence_number;
        let ask = |address: &str, handle: &str, sequence_number| ReleaseAddress {
            address: address.parse().unwrap(),
            handle_id: Some(handle.to_owned()),
            sequence_number,
        };
        let before = block.clone();
        let refused = block.release(
            &[ask("10.65.0.0", "a", sequence), ask("10.65.0.1", "a", None)],
            now(),
            Duration::ZERO,
        );
        assert_eq!(refused.unwrap_err().1.as_deref(), Some("b"));
        assert_eq!(block, before);
        assert!(
            block
                .release(&[ask("10.65.0.0", "a", Some(7))], now(), Duration::ZERO)
                .is_err()
        );
        // What is free already is no fault.
        let released = block
            .release(
                &[ask("10.65.0.0", "a", sequence), ask("10.65.0.3", "x", None)],
                now(),
                Duration::ZERO,
            )
            .unwrap();
        assert_eq!(released.len(), 1);
    }

    #[test]
    fn handles_are_compared_up_to_a_carriage_return() {
        let mut block = block("10.65.0.0/31");
        assign(&mut block, 1, "a\r\n");
        assert_eq!(block.of_handle("a").len(), 1);
    }

    #[test]
    fn a_block_that_contradicts_itself_never_gives_an_address_twice() {
        let mut block = block("10.65.0.0/31");
        assign(&mut block, 1, "a");
        block.spec.unallocated.insert(0, 0);
        assert_eq!(block.faults(now()).len(), 1);
        assert_eq!(assign(&mut block, 2, "b"), ["10.65.0.1"]);
    }

    #[test]
    fn records_that_cannot_be_worked_on_are_refused() {
        let good = block("10.65.0.0/31").spec;
        let mut short = good.clone();
        short.allocations.pop();
        let mut dangling = good.clone();
        dangling.allocations[0] = Some(0);
        let mut huge = good;
        huge.cidr = "10.0.0.0/8".parse().unwrap();
        for spec in [short, dangling, huge] {
            assert!(Block::from_spec(spec).is_err());
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Assign(u8, usize),
        Specific(u8, u32),
        Release(u8),
        ReleaseAddress(u32),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..6u8, 0..4usize).prop_map(|(h, n)| Step::Assign(h, n)),
            (0..6u8, 0..16u32).prop_map(|(h, o)| Step::Specific(h, o)),
            (0..6u8).prop_map(Step::Release),
            (0..16u32).prop_map(Step::ReleaseAddress),
            (0..20u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice_and_none_is_lost(steps in prop::collection::vec(step(), 0..60), cooldown in prop_oneof![Just(0u64), Just(10)]) {
            let cooldown = Duration::from_secs(cooldown);
            let mut block = block("fd00::/124");
            let mut oracle: BTreeMap<IpAddr, String> = BTreeMap::new();
            let mut at = now();
            let attributes = attributes("n1");
            for step in steps {
                match step {
                    Step::Assign(h, n) => {
                        let handle = format!("h{h}");
                        for address in block.assign(n, Owner { handle_id: &handle, attributes: &attributes }, |_| false) {
                            prop_assert!(oracle.insert(address, handle.clone()).is_none());
                        }
                    }
                    Step::Specific(h, o) => {
                        let handle = format!("h{h}");
                        let address = block.address(o);
                        let free = !oracle.contains_key(&address);
                        if block.assign_specific(address, Owner { handle_id: &handle, attributes: &attributes }).is_ok() {
                            prop_assert!(free);
                            oracle.insert(address, handle);
                        }
                    }
                    Step::Release(h) => {
                        let handle = format!("h{h}");
                        let released = block.release_handle(&handle, at, cooldown);
                        let expected: Vec<_> = oracle.iter().filter(|(_, owner)| **owner == handle).map(|(a, _)| *a).collect();
                        prop_assert_eq!(released, expected);
                        oracle.retain(|_, owner| *owner != handle);
                    }
                    Step::ReleaseAddress(o) => {
                        let address = block.address(o);
                        let wanted = ReleaseAddress { address, handle_id: None, sequence_number: None };
                        let released = block.release(&[wanted], at, cooldown).unwrap();
                        prop_assert_eq!(released.len(), usize::from(oracle.remove(&address).is_some()));
                    }
                    Step::Wait(seconds) => {
                        at += Duration::from_secs(seconds);
                        block.thaw(at, cooldown);
                    }
                }
                let held: BTreeMap<IpAddr, String> = block.allocations().map(|a| (a.address, a.attribute.handle().unwrap().to_owned())).collect();
                prop_assert_eq!(&held, &oracle);
                prop_assert_eq!(block.spec().unallocated.len() + oracle.len() + block.cooling(), 16);
                prop_assert_eq!(block.faults(at), Vec::<String>::new());
                let again = Block::from_spec(serde_json::from_value(serde_json::to_value(block.spec()).unwrap()).unwrap()).unwrap();
                prop_assert_eq!(&again, &block);
            }
        }
    }
}
