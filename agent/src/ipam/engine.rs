//! The task that owns this node's blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use margay_bgp::prefix::Prefix;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use super::allocator::{PoolBlocks, pool_selects_node};
use super::block::{Block, Freed};
use super::collect::Audit;
use super::store::{Claim, RecordStore, Records, Stored, Unclaim, is_race};
use super::{
    Command, IpamError, IpamOptions, ReleaseAddress, Released, Reply, store::ATTEMPTS, usage,
};
use crate::api::block_affinity::AffinityState;
use crate::api::ipam_handle::IpamHandleSpec;
use crate::model::ClusterState;

/// Requests joined at most; beyond it the first would wait for the last for nothing, since a block holds fewer.
const BATCH: usize = 512;

/// Handles written at once. Each is an object of its own; what bounds this is consideration for the datastore.
pub(super) const CONCURRENT_WRITES: usize = 32;

/// A block of this node as last stored.
#[derive(Debug)]
pub(super) struct OwnBlock {
    pub(super) stored: Stored<Block>,
    /// Nothing has been heard that casts doubt on the affinity being confirmed.
    pub(super) sound: bool,
}

pub(super) struct Engine<R> {
    pub(super) store: RecordStore<R>,
    pub(super) node: String,
    pub(super) cluster: watch::Receiver<Arc<ClusterState>>,
    pub(super) options: IpamOptions,
    /// Blocks affine to this node.
    pub(super) own: BTreeMap<Prefix, OwnBlock>,
    /// `own` has been read since the datastore last failed.
    pub(super) synced: bool,
    pub(super) audit: Audit,
}

impl<R: Records> Engine<R> {
    pub(super) fn new(
        store: RecordStore<R>,
        node: String,
        cluster: watch::Receiver<Arc<ClusterState>>,
        options: IpamOptions,
    ) -> Self {
        Self {
            store,
            node,
            cluster,
            options,
            own: BTreeMap::new(),
            synced: false,
            audit: Audit::default(),
        }
    }

    /// Runs until every handle is dropped.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut watched = true;
        loop {
            // Both arms are cancel-safe: neither takes anything unless it is chosen.
            tokio::select! {
                command = queue.recv() => {
                    let Some(first) = command else { return };
                    let mut batch = vec![first];
                    while batch.len() < BATCH && let Ok(next) = queue.try_recv() {
                        batch.push(next);
                    }
                    self.work(batch).await;
                }
                changed = self.cluster.changed(), if watched => {
                    // When the state's owner is gone the last state stays.
                    watched = changed.is_ok();
                    self.doubt();
                    if let Err(error) = self.mend().await {
                        debug!(%error, "blocks of this node cannot be checked now");
                    }
                }
            }
        }
    }

    async fn work(&mut self, batch: Vec<Command>) {
        let (mut assigns, mut releases, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for command in batch {
            match command {
                Command::Assign(request, reply) => assigns.push((*request, reply)),
                Command::ReleaseHandle(handle_id, reply) => {
                    releases.push((Release::Handle(handle_id), reply));
                }
                Command::ReleaseAddresses(addresses, reply) => {
                    releases.push((Release::Addresses(addresses), reply));
                }
                other @ (Command::Tunnel(..) | Command::Collect(..) | Command::Usage(..)) => {
                    others.push(other);
                }
            }
        }
        if !releases.is_empty() {
            let (wanted, replies): (Vec<_>, Vec<_>) = releases.into_iter().unzip();
            let results = self.release(wanted).await;
            for (reply, result) in replies.into_iter().zip(results) {
                answer(reply, result);
            }
        }
        if !assigns.is_empty() {
            self.assign(assigns).await;
        }
        for command in others {
            match command {
                Command::Tunnel(kind, reply) => {
                    let result = self.tunnel(kind).await;
                    answer(reply, result);
                }
                Command::Collect(request, reply) => {
                    let result = self.collect(request).await;
                    answer(reply, result);
                }
                Command::Usage(reply) => {
                    let result = self.usage().await;
                    answer(reply, result);
                }
                Command::Assign(..)
                | Command::ReleaseHandle(..)
                | Command::ReleaseAddresses(..) => {}
            }
        }
    }

    async fn usage(&self) -> Result<usage::Usage, IpamError> {
        let cluster = self.cluster.borrow().clone();
        let blocks = self.store.blocks().await?;
        Ok(usage::usage(
            &cluster,
            blocks.values().map(|stored| &stored.spec),
        ))
    }

    /// The cluster's state, once there is one.
    pub(super) fn state(&mut self) -> Result<Arc<ClusterState>, IpamError> {
        if self.cluster.has_changed().unwrap_or(false) {
            self.cluster.mark_unchanged();
            self.doubt();
        }
        let cluster = self.cluster.borrow().clone();
        if cluster.in_sync || cluster.from_saved_view {
            Ok(cluster)
        } else {
            Err(IpamError::NotSynced)
        }
    }

    /// Makes `own` what the datastore says, and completes what an interrupted run left.
    pub(super) async fn sync(&mut self) -> Result<(), IpamError> {
        if !self.synced {
            self.own.clear();
            let affinities = self.store.own_affinities().await?;
            let mut blocks = self.store.blocks().await?;
            for affinity in affinities {
                let cidr = affinity.cidr;
                let block = blocks.remove(&cidr);
                let ours = block
                    .as_ref()
                    .is_some_and(|block| block.spec.host() == Some(&self.node));
                match (affinity.state, block) {
                    (AffinityState::Confirmed, Some(stored)) if ours => {
                        self.own.insert(
                            cidr,
                            OwnBlock {
                                stored,
                                sound: true,
                            },
                        );
                    }
                    (AffinityState::PendingDeletion, Some(block))
                        if ours && block.spec.is_empty() =>
                    {
                        self.store.unclaim(&self.node, cidr, None).await?;
                    }
                    (AffinityState::Pending | AffinityState::PendingDeletion, Some(_)) if ours => {
                        info!(%cidr, "completing an interrupted claim");
                        self.take(cidr).await?;
                    }
                    // As Calico does: the block is made again.
                    (AffinityState::Confirmed, None) => self.take(cidr).await?,
                    (_, _) => {
                        info!(%cidr, "dropping a claim that came to nothing");
                        self.store.unclaim(&self.node, cidr, None).await?;
                    }
                }
            }
            let lost: Vec<Prefix> = blocks
                .iter()
                .filter(|(_, block)| block.spec.host() == Some(&self.node))
                .map(|(cidr, _)| *cidr)
                .collect();
            for cidr in lost {
                warn!(%cidr, "a block of this node has no affinity: claiming it again");
                self.take(cidr).await?;
            }
            self.synced = true;
        }
        self.mend().await
    }

    /// Claims a block and, if it is ours, knows it from then on.
    async fn take(&mut self, cidr: Prefix) -> Result<(), IpamError> {
        match self.store.claim(cidr).await? {
            Claim::Ours(stored) => {
                self.own.insert(
                    cidr,
                    OwnBlock {
                        stored: *stored,
                        sound: true,
                    },
                );
            }
            Claim::Theirs => {
                self.own.remove(&cidr);
            }
        }
        Ok(())
    }

    /// The watch no longer shows an affinity of ours: somebody may be taking the block, or the watch is merely late.
    fn doubt(&mut self) {
        let cluster = self.cluster.borrow();
        if !cluster.in_sync || cluster.from_saved_view {
            return;
        }
        for (cidr, own) in &mut self.own {
            if cluster.affinities.get(cidr) != Some(&self.node) {
                own.sound = false;
            }
        }
    }

    /// Looks after the affinities that are in doubt. One that another node began to release is confirmed anew, since routes to a block
    /// whose affinity is not confirmed are withdrawn.
    pub(super) async fn mend(&mut self) -> Result<(), IpamError> {
        let doubtful: Vec<Prefix> = self
            .own
            .iter()
            .filter(|(_, own)| !own.sound)
            .map(|(cidr, _)| *cidr)
            .collect();
        for cidr in doubtful {
            match self.store.affinity(&self.node, cidr).await? {
                Some(affinity) if affinity.spec.state == AffinityState::Confirmed => {
                    if let Some(own) = self.own.get_mut(&cidr) {
                        own.sound = true;
                    }
                }
                None | Some(_) => match self.store.block(cidr).await? {
                    Some(block) if block.spec.host() == Some(&self.node) => self.take(cidr).await?,
                    // Taken back while it was empty.
                    None | Some(_) => {
                        self.own.remove(&cidr);
                    }
                },
            }
        }
        Ok(())
    }

    /// Remembers what is stored of a block now.
    pub(super) fn remember(&mut self, cidr: Prefix, stored: Option<Stored<Block>>) {
        let ours = stored.filter(|stored| stored.spec.host() == Some(&self.node));
        match (ours, self.own.get_mut(&cidr)) {
            (Some(stored), Some(own)) => own.stored = stored,
            (None, Some(_)) => {
                self.own.remove(&cidr);
            }
            // A block of ours that is not known here is met by the next sync.
            (_, None) => {}
        }
    }

    /// The block an address lies in.
    pub(super) async fn block_of(&self, address: IpAddr) -> Result<Option<Prefix>, IpamError> {
        if let Some(cidr) = self.own.keys().find(|cidr| cidr.contains_addr(address)) {
            return Ok(Some(*cidr));
        }
        let by_pool = {
            let cluster = self.cluster.borrow();
            cluster
                .pool_of(address)
                .and_then(|pool| PoolBlocks::of(pool).containing(address))
        };
        if let Some(cidr) = by_pool
            && self.store.block(cidr).await?.is_some()
        {
            return Ok(Some(cidr));
        }
        // The pool is gone, or was made anew with another block size.
        Ok(self
            .store
            .blocks()
            .await?
            .into_keys()
            .find(|cidr| cidr.contains_addr(address)))
    }

    /// Releases, joined: one write of each block, then one of each handle.
    pub(super) async fn release(
        &mut self,
        wanted: Vec<Release>,
    ) -> Vec<Result<Released, IpamError>> {
        let mut jobs = Vec::new();
        for result in join_all(wanted.into_iter().map(|wanted| self.locate(wanted))).await {
            jobs.push(result);
        }
        let mut by_block: BTreeMap<Prefix, Vec<(usize, Free)>> = BTreeMap::new();
        for (index, job) in jobs.iter().enumerate() {
            for (cidr, free) in job.iter().flat_map(|job| &job.work) {
                by_block
                    .entry(*cidr)
                    .or_default()
                    .push((index, free.clone()));
            }
        }
        let (now, cooldown) = (self.store.now(), self.cluster.borrow().ipam.cooldown);
        let freed = join_all(by_block.into_iter().map(|(cidr, work)| {
            let known = self.own.get(&cidr).map(|own| own.stored.clone());
            let store = &self.store;
            async move {
                let (indexes, frees): (Vec<_>, Vec<_>) = work.into_iter().unzip();
                let result = free_in_block(store, cidr, known, &frees, now, cooldown).await;
                (cidr, indexes, result)
            }
        }))
        .await;
        for (cidr, indexes, result) in freed {
            match result {
                Ok((stored, freed)) => {
                    self.remember(cidr, stored);
                    for (index, freed) in indexes.into_iter().zip(freed) {
                        let Some(Ok(job)) = jobs.get_mut(index) else {
                            continue;
                        };
                        match freed {
                            Ok(freed) => job.freed.extend(freed.into_iter().map(|f| (cidr, f))),
                            Err(error) => job.error = Some(error),
                        }
                    }
                }
                Err(error) => {
                    // Whether it was written is not known.
                    self.own.remove(&cidr);
                    self.synced = false;
                    for index in indexes {
                        if let Some(Ok(job)) = jobs.get_mut(index) {
                            job.error = Some(error.clone());
                        }
                    }
                }
            }
        }
        let store = &self.store;
        let results = stream::iter(jobs)
            .map(|job| async move { settle(store, job?).await })
            .buffered(CONCURRENT_WRITES)
            .collect()
            .await;
        self.shed().await;
        results
    }

    /// Where what is to be released lies.
    async fn locate(&self, wanted: Release) -> Result<Job, IpamError> {
        match wanted {
            Release::Handle(handle_id) => {
                let handle = self.store.handle(&handle_id).await?;
                let mut blocks: BTreeSet<Prefix> = handle
                    .iter()
                    .flat_map(|handle| handle.spec.block.keys())
                    .filter_map(|cidr| cidr.parse().ok())
                    .collect();
                // The handle is only an index: a block that is known here to hold an address of it counts too.
                blocks.extend(
                    self.own
                        .iter()
                        .filter(|(_, own)| !own.stored.spec.of_handle(&handle_id).is_empty())
                        .map(|(cidr, _)| *cidr),
                );
                Ok(Job {
                    work: blocks
                        .into_iter()
                        .map(|cidr| (cidr, Free::Handle(handle_id.clone())))
                        .collect(),
                    handle,
                    handle_id: Some(handle_id),
                    freed: Vec::new(),
                    error: None,
                })
            }
            Release::Addresses(addresses) => {
                let mut work: BTreeMap<Prefix, Vec<ReleaseAddress>> = BTreeMap::new();
                for wanted in addresses {
                    if let Some(cidr) = self.block_of(wanted.address).await? {
                        work.entry(cidr).or_default().push(wanted);
                    }
                }
                Ok(Job {
                    work: work
                        .into_iter()
                        .map(|(cidr, addresses)| (cidr, Free::Addresses(addresses)))
                        .collect(),
                    handle: None,
                    handle_id: None,
                    freed: Vec::new(),
                    error: None,
                })
            }
        }
    }

    /// Gives back empty blocks of pools that are gone or no longer select this node.
    pub(super) async fn shed(&mut self) -> Vec<Prefix> {
        let cluster = self.cluster.borrow().clone();
        if !cluster.in_sync || cluster.from_saved_view {
            return Vec::new();
        }
        let unwanted: Vec<Prefix> = self
            .own
            .iter()
            .filter(|(cidr, own)| {
                own.stored.spec.is_empty()
                    && !cluster.pools.values().any(|pool| {
                        pool.cidr.contains(**cidr) && pool_selects_node(&cluster, pool, &self.node)
                    })
            })
            .map(|(cidr, _)| *cidr)
            .collect();
        let mut released = Vec::new();
        for cidr in unwanted {
            if self.give_back(cidr).await {
                released.push(cidr);
            }
        }
        released
    }

    /// Gives back an empty block of ours; whether it is gone.
    pub(super) async fn give_back(&mut self, cidr: Prefix) -> bool {
        match self.store.unclaim(&self.node, cidr, None).await {
            Ok(Unclaim::Done) => {
                info!(%cidr, "block given back");
                self.own.remove(&cidr);
                true
            }
            Ok(Unclaim::Refused) => {
                self.synced = false;
                false
            }
            Err(error) => {
                debug!(%cidr, %error, "a block cannot be given back now");
                self.synced = false;
                false
            }
        }
    }
}

pub(super) fn answer<T>(reply: Reply<T>, result: Result<T, IpamError>) {
    // A caller that went away does not want to know.
    let _ = reply.send(result);
}

/// What to release.
#[derive(Clone, Debug)]
pub(super) enum Release {
    Handle(String),
    Addresses(Vec<ReleaseAddress>),
}

/// What to release in one block.
#[derive(Clone, Debug)]
pub(super) enum Free {
    /// Everything of a handle.
    Handle(String),
    /// These, all or none.
    Addresses(Vec<ReleaseAddress>),
    /// Those of these that are the handle's.
    IfOf(String, Vec<IpAddr>),
}

#[derive(Debug)]
struct Job {
    work: Vec<(Prefix, Free)>,
    /// The handle as it was before anything was freed.
    handle: Option<Stored<IpamHandleSpec>>,
    handle_id: Option<String>,
    freed: Vec<(Prefix, (IpAddr, Option<String>))>,
    error: Option<IpamError>,
}

/// Frees addresses in one block with one write; returns the block as it is stored then and what each request freed.
pub(super) async fn free_in_block<R: Records>(
    store: &RecordStore<R>,
    cidr: Prefix,
    mut known: Option<Stored<Block>>,
    frees: &[Free],
    now: SystemTime,
    cooldown: Duration,
) -> Result<(Option<Stored<Block>>, Vec<Result<Freed, IpamError>>), IpamError> {
    for _ in 0..ATTEMPTS {
        let cached = known.is_some();
        let stored = match known.take() {
            Some(stored) => stored,
            None => match store.block(cidr).await? {
                Some(stored) => stored,
                None => return Ok((None, frees.iter().map(|_| Ok(Freed::new())).collect())),
            },
        };
        let mut block = stored.spec.clone();
        let freed: Vec<Result<Freed, IpamError>> = frees
            .iter()
            .map(|free| free_one(&mut block, free, now, cooldown))
            .collect();
        let nothing = freed
            .iter()
            .all(|freed| freed.as_ref().is_ok_and(Vec::is_empty));
        if cached && (nothing || freed.iter().any(Result::is_err)) {
            // Before it is said that there is nothing to free, or that it is another's, the store is asked.
            continue;
        }
        if freed.iter().flatten().all(Vec::is_empty) {
            return Ok((Some(stored), freed));
        }
        let written = if block.is_empty() && block.spec().affinity.is_none() {
            store.delete_block(&stored, block).await.map(|()| None)
        } else {
            block.thaw(now, cooldown);
            store.update_block(&stored, block).await.map(Some)
        };
        match written {
            Ok(stored) => return Ok((stored, freed)),
            Err(error) if is_race(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(IpamError::Contended {
        object: format!("block {cidr}"),
        attempts: ATTEMPTS,
    })
}

fn free_one(
    block: &mut Block,
    free: &Free,
    now: SystemTime,
    cooldown: Duration,
) -> Result<Freed, IpamError> {
    match free {
        Free::Handle(handle_id) => Ok(block
            .release_handle(handle_id, now, cooldown)
            .into_iter()
            .map(|address| (address, Some(handle_id.clone())))
            .collect()),
        Free::Addresses(addresses) => {
            block
                .release(addresses, now, cooldown)
                .map_err(|(wanted, found)| IpamError::NotAsExpected {
                    address: wanted.address,
                    expected: wanted.handle_id,
                    found,
                })
        }
        Free::IfOf(handle_id, addresses) => {
            let held = block.of_handle(handle_id);
            let addresses: Vec<ReleaseAddress> = addresses
                .iter()
                .filter(|address| held.contains(address))
                .map(|address| ReleaseAddress {
                    address: *address,
                    handle_id: None,
                    sequence_number: None,
                })
                .collect();
            // Nothing was asked of them but to be the handle's, which they are.
            Ok(block.release(&addresses, now, cooldown).unwrap_or_default())
        }
    }
}

/// The handles' part of a release, after the blocks'.
async fn settle<R: Records>(store: &RecordStore<R>, job: Job) -> Result<Released, IpamError> {
    let mut less: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for (cidr, (_, handle_id)) in &job.freed {
        if let Some(handle_id) = handle_id {
            *less
                .entry(handle_id.clone())
                .or_default()
                .entry(cidr.to_string())
                .or_default() += 1;
        }
    }
    let existed = job.handle.is_some() || !job.freed.is_empty();
    let whole = job.error.is_none();
    if let (Some(handle_id), Some(handle), true) = (&job.handle_id, &job.handle, whole) {
        // Nobody else touched the handle since before its blocks were freed: nothing is left for it to count, whatever it said.
        match store.rewrite_handle(handle, BTreeMap::clear).await {
            Ok(()) => {
                less.remove(handle_id);
            }
            Err(error) if is_race(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for (handle_id, less) in less {
        store
            .change_handle(&handle_id, |counts| subtract(counts, &less))
            .await?;
    }
    match job.error {
        Some(error) => Err(error),
        None => {
            let mut addresses: Vec<IpAddr> = job
                .freed
                .into_iter()
                .map(|(_, (address, _))| address)
                .collect();
            addresses.sort_unstable();
            Ok(Released { addresses, existed })
        }
    }
}

/// Takes counts off a handle's.
pub(super) fn subtract(counts: &mut BTreeMap<String, usize>, less: &BTreeMap<String, usize>) {
    for (cidr, less) in less {
        if let Some(count) = counts.get_mut(cidr) {
            *count = count.saturating_sub(*less);
        }
    }
}
