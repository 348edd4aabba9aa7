//! Joined assignment.
//!
//! A batch goes in rounds. Each round plans every request on drafts of the blocks, in memory; writes the handles; then writes each
//! block once. A block that was changed by somebody else meanwhile is read again and its share of the batch planned anew in the next
//! round. A handle that turns out to exist already is looked into: what it holds is handed out before anything new.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use margay_bgp::family::Family;
use margay_bgp::prefix::Prefix;
use tracing::{debug, warn};

use super::allocator::{
    PoolBlocks, PoolChoice, PoolQuery, Reservations, Search, block_limit, choose_pools, is_of,
    pool_for_address, refusal,
};
use super::block::{Block, Owner, Taken};
use super::engine::{CONCURRENT_WRITES, Engine, Free, OwnBlock, answer, free_in_block, subtract};
use super::store::{ATTEMPTS, Claim, Records, Stored, Unclaim, is_race};
use super::{AssignRequest, Assigned, IpamError, Reply, Unusable};
use crate::model::{ClusterState, IpamSettings};

const FAMILIES: [Family; 2] = [Family::IPV4_UNICAST, Family::IPV6_UNICAST];

/// One request under way.
struct Job {
    request: AssignRequest,
    reply: Option<Reply<Vec<Assigned>>>,
    /// Pools by family, in the order of [`FAMILIES`].
    pools: [PoolChoice; 2],
    /// Recorded and stored.
    got: Vec<Assigned>,
    /// Those of `got` that were recorded by this request.
    fresh: BTreeMap<Prefix, Vec<IpAddr>>,
    /// Drafted in this round.
    planned: BTreeMap<Prefix, Vec<IpAddr>>,
    /// What the handle counts for this request beyond `got`.
    counted: BTreeMap<Prefix, usize>,
    /// The handle is known to exist.
    has_handle: bool,
    /// Addresses of which nobody knows whether they were stored.
    doubtful: BTreeMap<Prefix, Vec<IpAddr>>,
    error: Option<IpamError>,
}

impl Job {
    fn new(
        request: AssignRequest,
        reply: Option<Reply<Vec<Assigned>>>,
        cluster: &ClusterState,
        node: &str,
    ) -> Self {
        let mut request = request;
        request
            .attributes
            .entry("node".to_owned())
            .or_insert_with(|| node.to_owned());
        let mut job = Self {
            request,
            reply,
            pools: Default::default(),
            got: Vec::new(),
            fresh: BTreeMap::new(),
            planned: BTreeMap::new(),
            counted: BTreeMap::new(),
            has_handle: false,
            doubtful: BTreeMap::new(),
            error: None,
        };
        for (family, choice) in FAMILIES.into_iter().zip(&mut job.pools) {
            let (count, requested) = if family == Family::IPV4_UNICAST {
                (job.request.ipv4, &job.request.ipv4_pools)
            } else {
                (job.request.ipv6, &job.request.ipv6_pools)
            };
            if count == 0 {
                continue;
            }
            let query = PoolQuery {
                family,
                requested,
                intended_use: job.request.intended_use,
                namespace_labels: &job.request.namespace_labels,
            };
            match choose_pools(cluster, node, query) {
                Ok(chosen) => *choice = chosen,
                Err(error) => {
                    job.error = Some(error);
                    break;
                }
            }
        }
        job
    }

    fn held(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.got
            .iter()
            .map(|assigned| assigned.address)
            .chain(self.planned.values().flatten().copied())
    }

    /// How many addresses of a family are still to be found, besides specific ones.
    fn missing(&self, family: Family) -> usize {
        let wanted = if family == Family::IPV4_UNICAST {
            self.request.ipv4
        } else {
            self.request.ipv6
        };
        let found = self
            .held()
            .filter(|address| is_of(family, *address) && !self.request.specific.contains(address))
            .count();
        wanted.saturating_sub(found)
    }

    fn missing_specific(&self) -> Vec<IpAddr> {
        let held: BTreeSet<IpAddr> = self.held().collect();
        let specific: BTreeSet<IpAddr> = self.request.specific.iter().copied().collect();
        specific.difference(&held).copied().collect()
    }

    fn is_complete(&self) -> bool {
        self.missing_specific().is_empty()
            && FAMILIES.into_iter().all(|family| self.missing(family) == 0)
    }

    fn is_done(&self) -> bool {
        self.error.is_some() || (self.planned.is_empty() && self.is_complete())
    }

    fn plan(&mut self, block: Prefix, address: IpAddr) {
        self.planned.entry(block).or_default().push(address);
    }

    /// An address its handle holds already is what the request is after.
    fn adopt(&mut self, block: Prefix, address: IpAddr) {
        if self.request.in_use.contains(&address) || self.held().any(|held| held == address) {
            return;
        }
        let useful = self.request.specific.contains(&address)
            || FAMILIES
                .into_iter()
                .zip(&self.pools)
                .any(|(family, choice)| {
                    is_of(family, address)
                        && self.missing(family) > 0
                        && choice
                            .usable
                            .iter()
                            .any(|pool| pool.cidr.contains_addr(address))
                });
        if useful {
            self.got.push(Assigned { address, block });
        }
    }

    /// What the handle must count more than it does before the planned addresses may be stored.
    fn uncounted(&self) -> BTreeMap<Prefix, usize> {
        self.planned
            .iter()
            .map(|(cidr, addresses)| {
                let counted = self.counted.get(cidr).copied().unwrap_or_default();
                (*cidr, addresses.len().saturating_sub(counted))
            })
            .filter(|(_, more)| *more > 0)
            .collect()
    }
}

/// A batch under way.
struct Batch {
    cluster: Arc<ClusterState>,
    settings: IpamSettings,
    reservations: Reservations,
    jobs: Vec<Job>,
    /// Blocks as this round would have them.
    drafts: BTreeMap<Prefix, Block>,
    /// Other nodes' blocks that are borrowed from.
    foreign: BTreeMap<Prefix, Stored<Block>>,
    /// Every block there is, once it had to be looked for further ones.
    listing: Option<BTreeMap<Prefix, Block>>,
    /// Blocks that were tried in vain.
    tried: Vec<Prefix>,
}

impl Batch {
    fn withdraw_plans(&mut self) {
        self.drafts.clear();
        for job in &mut self.jobs {
            job.planned.clear();
        }
    }

    /// Drafts addresses of a block for a job; how many.
    fn draft(&mut self, index: usize, cidr: Prefix, family: Family) -> usize {
        let (Some(job), Some(block)) = (self.jobs.get_mut(index), self.drafts.get_mut(&cidr))
        else {
            return 0;
        };
        let owner = Owner {
            handle_id: &job.request.handle_id,
            attributes: &job.request.attributes,
        };
        let reservations = &self.reservations;
        let assigned = block.assign(job.missing(family), owner, |address| {
            // A specific address is taken by name below, not by chance.
            reservations.contains(address) || job.request.specific.contains(&address)
        });
        let count = assigned.len();
        for address in assigned {
            job.plan(cidr, address);
        }
        count
    }

    fn has_room(&self, cidr: Prefix) -> bool {
        self.drafts
            .get(&cidr)
            .is_some_and(|block| block.has_room(|address| self.reservations.contains(address)))
    }
}

enum Handled {
    Counted(BTreeMap<Prefix, usize>),
    Exists,
}

impl<R: Records> Engine<R> {
    /// Assigns for many at once and answers each.
    pub(super) async fn assign(&mut self, requests: Vec<(AssignRequest, Reply<Vec<Assigned>>)>) {
        let mut waiting = requests;
        while !waiting.is_empty() {
            // One request of a handle at a time: the second must see what the first recorded.
            let mut handles = BTreeSet::new();
            let (now, later): (Vec<_>, Vec<_>) = waiting
                .into_iter()
                .filter(|(_, reply)| !reply.is_closed())
                .partition(|(request, _)| handles.insert(request.handle_id.clone()));
            waiting = later;
            self.assign_batch(now.into_iter().map(|(r, reply)| (r, Some(reply))).collect())
                .await;
        }
    }

    /// Assigns for the task itself.
    pub(super) async fn assign_one(
        &mut self,
        request: AssignRequest,
    ) -> Result<Vec<Assigned>, IpamError> {
        self.assign_batch(vec![(request, None)])
            .await
            .pop()
            .unwrap_or(Err(IpamError::Stopped))
    }

    /// Answers those that have a reply; returns the results of the others.
    async fn assign_batch(
        &mut self,
        requests: Vec<(AssignRequest, Option<Reply<Vec<Assigned>>>)>,
    ) -> Vec<Result<Vec<Assigned>, IpamError>> {
        let cluster = match self.state() {
            Ok(cluster) => cluster,
            Err(error) => return refuse(requests, &error),
        };
        if let Err(error) = self.sync().await {
            self.synced = false;
            return refuse(requests, &error);
        }
        let mut batch = Batch {
            settings: cluster.ipam,
            reservations: Reservations::of(&cluster),
            jobs: requests
                .into_iter()
                .map(|(request, reply)| Job::new(request, reply, &cluster, &self.node))
                .collect(),
            cluster,
            drafts: BTreeMap::new(),
            foreign: BTreeMap::new(),
            listing: None,
            tried: Vec::new(),
        };
        for round in 0.. {
            if round == ATTEMPTS {
                for job in batch.jobs.iter_mut().filter(|job| !job.is_done()) {
                    job.error = Some(IpamError::Contended {
                        object: "blocks of this node".to_owned(),
                        attempts: ATTEMPTS,
                    });
                }
                batch.withdraw_plans();
            }
            self.plan(&mut batch).await;
            if batch.jobs.iter().all(Job::is_done) {
                break;
            }
            if self.write_handles(&mut batch).await {
                self.write_blocks(&mut batch).await;
            }
            batch.withdraw_plans();
        }
        self.finish(batch.jobs).await
    }

    /// Plans every request that is not done. One that cannot be planned fails, and the others are planned anew without it.
    async fn plan(&mut self, batch: &mut Batch) {
        let mut index = 0;
        while let Some(job) = batch.jobs.get(index) {
            if !job.is_done()
                && let Err(error) = self.plan_job(batch, index).await
            {
                if let Some(job) = batch.jobs.get_mut(index) {
                    job.error = Some(error);
                }
                batch.withdraw_plans();
                index = 0;
            } else {
                index += 1;
            }
        }
    }

    async fn plan_job(&mut self, batch: &mut Batch, index: usize) -> Result<(), IpamError> {
        let specific = batch
            .jobs
            .get(index)
            .map(Job::missing_specific)
            .unwrap_or_default();
        for address in specific {
            self.plan_specific(batch, index, address).await?;
        }
        for (number, family) in FAMILIES.into_iter().enumerate() {
            let missing =
                |batch: &Batch| batch.jobs.get(index).map_or(0, |job| job.missing(family));
            if missing(batch) == 0 {
                continue;
            }
            let Some(choice) = batch
                .jobs
                .get(index)
                .and_then(|job| job.pools.get(number))
                .cloned()
            else {
                continue;
            };
            for cidr in self.own_in(&choice) {
                if missing(batch) == 0 {
                    break;
                }
                if batch.reservations.cover(cidr) {
                    continue;
                }
                self.open_draft(batch, cidr);
                batch.draft(index, cidr, family);
            }
            while missing(batch) > 0 {
                let wanted = batch.jobs.get(index).map_or(0, |job| {
                    if number == 0 {
                        job.request.ipv4
                    } else {
                        job.request.ipv6
                    }
                });
                let cidr = self
                    .further_block(batch, &choice, family, wanted, wanted - missing(batch))
                    .await?;
                if batch.draft(index, cidr, family) == 0 {
                    batch.tried.push(cidr);
                }
            }
        }
        Ok(())
    }

    fn own_in(&self, choice: &PoolChoice) -> Vec<Prefix> {
        self.own
            .keys()
            .copied()
            .filter(|cidr| choice.usable.iter().any(|pool| pool.cidr.contains(*cidr)))
            .collect()
    }

    /// Opens a draft of a block known here; whether there is one.
    fn open_draft(&self, batch: &mut Batch, cidr: Prefix) -> bool {
        if batch.drafts.contains_key(&cidr) {
            return true;
        }
        let known = self
            .own
            .get(&cidr)
            .map(|own| &own.stored)
            .or_else(|| batch.foreign.get(&cidr));
        let Some(known) = known else {
            return false;
        };
        let mut draft = known.spec.clone();
        draft.thaw(self.store.now(), batch.settings.cooldown);
        batch.drafts.insert(cidr, draft);
        true
    }

    async fn plan_specific(
        &mut self,
        batch: &mut Batch,
        index: usize,
        address: IpAddr,
    ) -> Result<(), IpamError> {
        let Some((intended_use, handle_id)) = batch
            .jobs
            .get(index)
            .map(|job| (job.request.intended_use, job.request.handle_id.clone()))
        else {
            return Ok(());
        };
        let cluster = Arc::clone(&batch.cluster);
        let pool = pool_for_address(&cluster, address, intended_use)?;
        let known = self.block_of(address).await?;
        let cidr = known
            .or_else(|| PoolBlocks::of(pool).containing(address))
            .ok_or_else(|| IpamError::AddressNotInPool {
                address,
                reason: format!("is in no block of pool {}", pool.name),
            })?;
        if !self.open_draft(batch, cidr) {
            let existing = match self.store.block(cidr).await? {
                None => match self.store.claim(cidr).await? {
                    Claim::Ours(stored) => {
                        self.know(batch, *stored);
                        None
                    }
                    Claim::Theirs => self.store.block(cidr).await?,
                },
                existing @ Some(_) => existing,
            };
            if let Some(stored) = existing {
                let owner = stored.spec.host().map(str::to_owned);
                if owner.as_deref() == Some(&self.node) {
                    // Ours, but not known here.
                    if let Claim::Ours(stored) = self.store.claim(cidr).await? {
                        self.know(batch, *stored);
                    }
                } else if batch.settings.strict_affinity {
                    return Err(IpamError::NotAffine {
                        address,
                        block: cidr,
                        owner,
                    });
                } else {
                    batch.foreign.insert(cidr, stored);
                }
            }
            self.open_draft(batch, cidr);
        }
        let (Some(job), Some(draft)) = (batch.jobs.get_mut(index), batch.drafts.get_mut(&cidr))
        else {
            return Err(IpamError::Contended {
                object: format!("block {cidr}"),
                attempts: 1,
            });
        };
        let owner = Owner {
            handle_id: &job.request.handle_id,
            attributes: &job.request.attributes,
        };
        match draft.assign_specific(address, owner) {
            Ok(()) => {
                job.plan(cidr, address);
                Ok(())
            }
            Err(Taken::By(Some(owner)))
                if owner == handle_id && !job.request.in_use.contains(&address) =>
            {
                job.got.push(Assigned {
                    address,
                    block: cidr,
                });
                Ok(())
            }
            Err(Taken::By(owner)) => Err(IpamError::AddressInUse { address, owner }),
            Err(Taken::CoolingDown) => Err(IpamError::CoolingDown { address }),
            Err(Taken::Elsewhere) => Err(IpamError::AddressNotInPool {
                address,
                reason: format!("is not in block {cidr}"),
            }),
        }
    }

    fn know(&mut self, batch: &mut Batch, stored: Stored<Block>) {
        let cidr = stored.spec.cidr();
        batch.foreign.remove(&cidr);
        if let Some(listing) = &mut batch.listing {
            listing.insert(cidr, stored.spec.clone());
        }
        self.own.insert(
            cidr,
            OwnBlock {
                stored,
                sound: true,
            },
        );
    }

    /// Reads a block again after somebody was quicker.
    async fn look_again(&self, batch: &mut Batch, cidr: Prefix) -> Result<(), IpamError> {
        let block = self.store.block(cidr).await?;
        if let Some(listing) = &mut batch.listing {
            match block {
                Some(block) => listing.insert(cidr, block.spec),
                None => listing.remove(&cidr),
            };
        }
        Ok(())
    }

    /// A block with room, drafted: claimed, taken back from a node that does not use it, or borrowed from.
    async fn further_block(
        &mut self,
        batch: &mut Batch,
        choice: &PoolChoice,
        family: Family,
        wanted: usize,
        found: usize,
    ) -> Result<Prefix, IpamError> {
        let exhausted = |mut pools: Vec<_>| {
            pools.extend(choice.refused.iter().cloned());
            IpamError::Exhausted {
                family,
                wanted,
                found,
                pools,
            }
        };
        if !batch.settings.auto_allocate_blocks {
            return Err(exhausted(
                choice
                    .usable
                    .iter()
                    .map(|pool| refusal(pool, Unusable::NoNewBlocks))
                    .collect(),
            ));
        }
        let owned = self.own_in(choice).len();
        let limit = block_limit(batch.settings.max_blocks_per_host);
        if owned >= limit {
            return Err(IpamError::BlockLimit {
                family,
                owned,
                limit,
            });
        }
        let now = self.store.now();
        if batch.listing.is_none() {
            let mut listing = BTreeMap::new();
            for (cidr, stored) in self.store.blocks().await? {
                let mut block = stored.spec;
                block.thaw(now, batch.settings.cooldown);
                listing.insert(cidr, block);
            }
            batch.listing = Some(listing);
        }
        // Whether there is room is asked of the drafts, which know what this batch takes.
        let mut not: Vec<Prefix> = batch.tried.clone();
        not.extend(
            batch
                .drafts
                .keys()
                .copied()
                .filter(|cidr| !batch.has_room(*cidr)),
        );
        for _ in 0..ATTEMPTS {
            let (found, how) = {
                let empty = BTreeMap::new();
                let search = Search {
                    pools: &choice.usable,
                    blocks: batch.listing.as_ref().unwrap_or(&empty),
                    reservations: &batch.reservations,
                    node: &self.node,
                    now,
                };
                if let Some(cidr) = search.claimable(&not) {
                    (cidr, How::Claim)
                } else if let Some(cidr) = search.reclaimable(&not, self.options.claim_grace) {
                    let block = batch.listing.as_ref().and_then(|blocks| blocks.get(&cidr));
                    let from = block.and_then(|block| {
                        Some((block.host()?.to_owned(), block.spec().sequence_number))
                    });
                    match from {
                        Some((host, sequence)) => (cidr, How::TakeBack(host, sequence)),
                        None => (cidr, How::Claim),
                    }
                } else if batch.settings.strict_affinity {
                    return Err(exhausted(search.refusals(true)));
                } else if let Some(cidr) = search.borrowable(&not) {
                    (cidr, How::Borrow)
                } else {
                    return Err(exhausted(search.refusals(false)));
                }
            };
            let cidr = found;
            let claim = match how {
                How::Claim => true,
                How::TakeBack(host, sequence) => {
                    let given = self.store.unclaim(&host, cidr, Some(sequence)).await?;
                    debug!(%cidr, from = host, ?given, "taking back an unused block");
                    given == Unclaim::Done
                }
                How::Borrow => {
                    if !batch.foreign.contains_key(&cidr)
                        && let Some(stored) = self.store.block(cidr).await?
                    {
                        batch.foreign.insert(cidr, stored);
                    }
                    false
                }
            };
            if claim && let Claim::Ours(stored) = self.store.claim(cidr).await? {
                self.know(batch, *stored);
            }
            if self.open_draft(batch, cidr) && batch.has_room(cidr) {
                return Ok(cidr);
            }
            not.push(cidr);
            batch.tried.push(cidr);
            self.look_again(batch, cidr).await?;
            // A block that is gone may be claimed after all, one that has another owner may be borrowed from.
            if batch.listing.as_ref().is_some_and(|blocks| {
                blocks
                    .get(&cidr)
                    .is_some_and(|b| b.host() != Some(&self.node))
            }) && !batch.foreign.contains_key(&cidr)
                && !batch.settings.strict_affinity
            {
                not.retain(|other| *other != cidr);
                batch.tried.retain(|other| *other != cidr);
            }
        }
        Err(IpamError::Contended {
            object: format!("{family} blocks"),
            attempts: ATTEMPTS,
        })
    }

    /// Makes every handle count what is planned for it. False: a handle held more than was known, so the plan no longer fits.
    async fn write_handles(&mut self, batch: &mut Batch) -> bool {
        let writes: Vec<_> = batch
            .jobs
            .iter()
            .enumerate()
            .filter(|(_, job)| job.error.is_none())
            .map(|(index, job)| {
                (
                    index,
                    job.request.handle_id.clone(),
                    job.uncounted(),
                    job.has_handle,
                )
            })
            .filter(|(_, _, more, _)| !more.is_empty())
            .collect();
        let store = &self.store;
        let written: Vec<_> = stream::iter(writes)
            .map(|(index, handle_id, more, exists)| async move {
                let result = if exists {
                    store
                        .change_handle(&handle_id, |counts| {
                            for (cidr, more) in &more {
                                *counts.entry(cidr.to_string()).or_default() += more;
                            }
                        })
                        .await
                        .map(|()| Handled::Counted(more.clone()))
                } else {
                    store.create_handle(&handle_id, &more).await.map(|created| {
                        if created.is_some() {
                            Handled::Counted(more.clone())
                        } else {
                            Handled::Exists
                        }
                    })
                };
                (index, more, result)
            })
            .buffer_unordered(CONCURRENT_WRITES)
            .collect()
            .await;
        let mut fits = true;
        for (index, more, result) in written {
            match result {
                Ok(Handled::Counted(more)) => {
                    if let Some(job) = batch.jobs.get_mut(index) {
                        job.has_handle = true;
                        for (cidr, more) in more {
                            *job.counted.entry(cidr).or_default() += more;
                        }
                    }
                }
                Ok(Handled::Exists) => {
                    fits = false;
                    if let Err(error) = self.look_into_handle(batch, index).await
                        && let Some(job) = batch.jobs.get_mut(index)
                    {
                        job.error = Some(error);
                    }
                }
                Err(error) => {
                    fits = false;
                    if let Some(job) = batch.jobs.get_mut(index) {
                        // It may have been written: what is counted too much is taken off again.
                        for (cidr, more) in more {
                            *job.counted.entry(cidr).or_default() += more;
                        }
                        job.error = Some(error);
                    }
                }
            }
        }
        fits
    }

    /// A handle of a former attempt: finds what it holds, and makes it count no more than that.
    async fn look_into_handle(&mut self, batch: &mut Batch, index: usize) -> Result<(), IpamError> {
        let Some(handle_id) = batch
            .jobs
            .get(index)
            .map(|job| job.request.handle_id.clone())
        else {
            return Ok(());
        };
        for _ in 0..ATTEMPTS {
            let Some(handle) = self.store.handle(&handle_id).await? else {
                return Ok(());
            };
            let mut blocks: BTreeSet<Prefix> = handle
                .spec
                .block
                .keys()
                .filter_map(|cidr| cidr.parse().ok())
                .collect();
            blocks.extend(
                self.own
                    .iter()
                    .filter(|(_, own)| !own.stored.spec.of_handle(&handle_id).is_empty())
                    .map(|(cidr, _)| *cidr),
            );
            let mut counts = BTreeMap::new();
            let mut held = Vec::new();
            for cidr in blocks {
                let stored = self.store.block(cidr).await?;
                let addresses = stored
                    .as_ref()
                    .map(|stored| stored.spec.of_handle(&handle_id))
                    .unwrap_or_default();
                self.remember(cidr, stored);
                counts.insert(cidr.to_string(), addresses.len());
                held.extend(addresses.into_iter().map(|address| (cidr, address)));
            }
            match self
                .store
                .rewrite_handle(&handle, |known| known.clone_from(&counts))
                .await
            {
                Ok(()) => {}
                Err(error) if is_race(&error) => continue,
                Err(error) => return Err(error.into()),
            }
            batch.withdraw_plans();
            if let Some(job) = batch.jobs.get_mut(index) {
                job.counted.clear();
                job.has_handle = !held.is_empty();
                for (cidr, address) in held {
                    job.adopt(cidr, address);
                }
                debug!(handle_id, adopted = ?job.got, "the handle existed already");
            }
            return Ok(());
        }
        Err(IpamError::Contended {
            object: format!("handle {handle_id}"),
            attempts: ATTEMPTS,
        })
    }

    /// Writes every block something is planned in, once.
    async fn write_blocks(&mut self, batch: &mut Batch) {
        let wanted: BTreeSet<Prefix> = batch
            .jobs
            .iter()
            .filter(|job| job.error.is_none())
            .flat_map(|job| job.planned.keys().copied())
            .collect();
        let mut writes = Vec::new();
        for cidr in wanted {
            let base = self
                .own
                .get(&cidr)
                .map(|own| &own.stored)
                .or_else(|| batch.foreign.get(&cidr));
            if let (Some(base), Some(draft)) = (base, batch.drafts.remove(&cidr)) {
                writes.push((cidr, base.clone(), draft));
            }
        }
        let store = &self.store;
        let written = join_all(writes.into_iter().map(|(cidr, base, draft)| async move {
            (cidr, store.update_block(&base, draft).await)
        }))
        .await;
        for (cidr, result) in written {
            match result {
                Ok(stored) => {
                    match batch.foreign.get_mut(&cidr) {
                        Some(foreign) => *foreign = stored,
                        None => self.remember(cidr, Some(stored)),
                    }
                    for job in batch.jobs.iter_mut().filter(|job| job.error.is_none()) {
                        let addresses = job.planned.remove(&cidr).unwrap_or_default();
                        if let Some(counted) = job.counted.get_mut(&cidr) {
                            *counted = counted.saturating_sub(addresses.len());
                        }
                        job.got.extend(addresses.iter().map(|address| Assigned {
                            address: *address,
                            block: cidr,
                        }));
                        if !addresses.is_empty() {
                            job.fresh.entry(cidr).or_default().extend(addresses);
                        }
                    }
                }
                Err(error) => {
                    let lost = if is_race(&error) {
                        self.store.block(cidr).await.map(|stored| {
                            if let Some(listing) = &mut batch.listing {
                                match &stored {
                                    Some(stored) => listing.insert(cidr, stored.spec.clone()),
                                    None => listing.remove(&cidr),
                                };
                            }
                            batch.tried.retain(|tried| *tried != cidr);
                            if batch.foreign.remove(&cidr).is_some() {
                                if let Some(stored) = stored {
                                    batch.foreign.insert(cidr, stored);
                                }
                            } else {
                                self.remember(cidr, stored);
                                if let Some(own) = self.own.get_mut(&cidr) {
                                    own.sound = false;
                                }
                            }
                        })
                    } else {
                        Err(error.into())
                    };
                    if let Err(error) = lost {
                        self.own.remove(&cidr);
                        self.synced = false;
                        for job in &mut batch.jobs {
                            if let Some(addresses) = job.planned.remove(&cidr) {
                                job.doubtful.entry(cidr).or_default().extend(addresses);
                                job.error.get_or_insert_with(|| error.clone());
                            }
                        }
                    }
                }
            }
        }
        if self.own.values().any(|own| !own.sound)
            && let Err(error) = self.mend().await
        {
            debug!(%error, "blocks of this node cannot be checked now");
            self.synced = false;
        }
    }

    /// Answers every request; takes back what a failed one left, and what was for a caller that went away.
    async fn finish(&mut self, jobs: Vec<Job>) -> Vec<Result<Vec<Assigned>, IpamError>> {
        let mut results = Vec::new();
        for mut job in jobs {
            let result = match job.error.take() {
                Some(error) => {
                    if let Err(undo) = self.undo(&job).await {
                        debug!(handle_id = job.request.handle_id, error = %undo, "a failed request cannot be undone now; releasing its handle will");
                    }
                    Err(error)
                }
                None => {
                    let surplus = as_counts(&job.counted);
                    if !surplus.is_empty()
                        && let Err(error) = self
                            .store
                            .change_handle(&job.request.handle_id, |counts| {
                                subtract(counts, &surplus);
                            })
                            .await
                    {
                        debug!(handle_id = job.request.handle_id, %error, "the handle counts too much; releasing it mends that");
                    }
                    Ok(job.got.clone())
                }
            };
            match job.reply.take() {
                None => results.push(result),
                Some(reply) => {
                    if let Err(Ok(_)) = reply.send(result)
                        && let Err(error) = self.undo(&job).await
                    {
                        warn!(handle_id = job.request.handle_id, %error, "addresses for a caller that went away cannot be taken back now");
                    }
                }
            }
        }
        results
    }

    /// Frees what a request recorded, blocks first.
    async fn undo(&mut self, job: &Job) -> Result<(), IpamError> {
        let handle_id = &job.request.handle_id;
        let mut addresses: BTreeMap<Prefix, Vec<IpAddr>> = job.fresh.clone();
        for (cidr, doubtful) in &job.doubtful {
            addresses.entry(*cidr).or_default().extend(doubtful);
        }
        for (cidr, addresses) in addresses {
            let free = [Free::IfOf(handle_id.clone(), addresses)];
            let known = self.own.get(&cidr).map(|own| own.stored.clone());
            // Nobody was told of these addresses: there is nothing to cool down.
            let cooldown = std::time::Duration::ZERO;
            let (stored, _) =
                free_in_block(&self.store, cidr, known, &free, self.store.now(), cooldown).await?;
            self.remember(cidr, stored);
        }
        let mut less = as_counts(&job.counted);
        for (cidr, fresh) in &job.fresh {
            *less.entry(cidr.to_string()).or_default() += fresh.len();
        }
        if less.is_empty() {
            return Ok(());
        }
        self.store
            .change_handle(handle_id, |counts| subtract(counts, &less))
            .await
    }
}

enum How {
    Claim,
    TakeBack(String, u64),
    Borrow,
}

fn as_counts(counts: &BTreeMap<Prefix, usize>) -> BTreeMap<String, usize> {
    counts
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(cidr, count)| (cidr.to_string(), *count))
        .collect()
}

fn refuse(
    requests: Vec<(AssignRequest, Option<Reply<Vec<Assigned>>>)>,
    error: &IpamError,
) -> Vec<Result<Vec<Assigned>, IpamError>> {
    requests
        .into_iter()
        .filter_map(|(_, reply)| match reply {
            Some(reply) => {
                answer(reply, Err(error.clone()));
                None
            }
            None => Some(Err(error.clone())),
        })
        .collect()
}
