//! Addresses of pods and tunnels, kept in Calico's own records.
//!
//! Nothing here is margay's invention: pools are cut into blocks (IPAMBlock), a node claims blocks (BlockAffinity), and a handle
//! (IPAMHandle) says in which blocks its addresses lie. `calicoctl` and Calico's nodes read and write the same objects at the
//! same time; every write is a compare-and-swap on one object, and the order of the writes is what keeps the three consistent:
//!
//! ```text
//! claim    affinity pending ─► block created ─► affinity confirmed
//! assign   handle + n ─► block (address, handle, attributes)          a crash between: the handle counts too much, harmless
//! release  block − address ─► handle − n, deleted at zero             the same
//! delete   `deleted: true` by compare-and-swap ─► delete              a reader that finds the mark finishes the delete
//! ```
//!
//! One task owns everything this node knows of its blocks. What waits in its queue is joined: a hundred
//! pods that start at once cost one write of the block and one of each pod's handle, not a hundred rounds of conflicts. Blocks
//! of this node are kept with their versions, so that no read is needed before a write; whoever changed one meanwhile makes the
//! write fail, and it is read again. An address is told to its caller only after the block that says so is stored.
//!
//! What a crash can leave behind, and who repairs it:
//!
//! | Left behind | Repaired by |
//! |---|---|
//! | a handle that counts an address no block holds | the next assign or release of that handle |
//! | an address recorded that no pod was told of | assign with the same handle returns it; release of the handle frees it; else [`Ipam::collect`] |
//! | an affinity `pending` or `pendingDeletion`, with or without block | the task's first look at its own affinities |
//! | an object marked deleted | whoever reads it next |
//!
//! Pure parts: `block` is one block's book-keeping, `allocator` the choice of pools, blocks and addresses, `usage` and
//! `check` read whole sets of records. `store` holds the write protocols. Routing never asks this room anything: it reads
//! blocks and affinities from the cluster's state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use margay_bgp::prefix::Prefix;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::model::{AllowedUse, ClusterState, Labels};

pub mod allocator;
mod assign;
pub mod block;
pub mod check;
mod collect;
mod engine;
mod error;
pub mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod time;
mod tunnel;
pub mod usage;

pub use error::{IpamError, PoolRefusal, Unusable};

/// Requests that may wait. More than a node starts pods at once; a caller beyond that waits in line, it is not refused.
const QUEUE: usize = 1024;

/// What an address is asked for.
#[derive(Clone, Debug)]
pub struct AssignRequest {
    /// Who will own the addresses; for a pod `<network>.<container id>`.
    pub handle_id: String,
    /// What the record says of the owner: for a pod `pod`, `namespace`, `node` and `timestamp`. `node` is filled in where missing.
    pub attributes: BTreeMap<String, String>,
    /// How many IPv4 addresses.
    pub ipv4: usize,
    /// How many IPv6 addresses.
    pub ipv6: usize,
    /// Names or CIDRs of the only pools IPv4 addresses may come from, in this order. Empty: any pool that selects the node and the
    /// namespace.
    pub ipv4_pools: Vec<String>,
    /// The same for IPv6.
    pub ipv6_pools: Vec<String>,
    /// What the addresses are for.
    pub intended_use: AllowedUse,
    /// Labels of the pod's namespace, which pools may select.
    pub namespace_labels: Labels,
    /// Exactly these addresses, beside those counted by `ipv4` and `ipv6`.
    pub specific: Vec<IpAddr>,
    /// Addresses under the same handle that something else already uses, such as another interface of the container. An address
    /// under the handle that is not listed is a former attempt's and is handed out again.
    pub in_use: BTreeSet<IpAddr>,
}

impl AssignRequest {
    /// A request for a pod: one address for each family asked for.
    #[must_use]
    pub fn for_pod(
        handle_id: impl Into<String>,
        attributes: BTreeMap<String, String>,
        ipv4: bool,
        ipv6: bool,
    ) -> Self {
        Self {
            handle_id: handle_id.into(),
            attributes,
            ipv4: usize::from(ipv4),
            ipv6: usize::from(ipv6),
            ipv4_pools: Vec::new(),
            ipv6_pools: Vec::new(),
            intended_use: AllowedUse::Workload,
            namespace_labels: Labels::new(),
            specific: Vec::new(),
            in_use: BTreeSet::new(),
        }
    }
}

/// An address that is recorded as its handle's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Assigned {
    /// The address.
    pub address: IpAddr,
    /// The block it lies in.
    pub block: Prefix,
}

/// What a release did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// The addresses given back, sorted.
    pub addresses: Vec<IpAddr>,
    /// Whether anything was known of the handle. Releasing what is not held is success.
    pub existed: bool,
}

/// One address to release, and what must still be true of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseAddress {
    /// The address.
    pub address: IpAddr,
    /// The handle that must still hold it.
    pub handle_id: Option<String>,
    /// The block's sequence number when it was assigned, which must still be the recorded one: that tells two assignments to the
    /// same handle apart.
    pub sequence_number: Option<u64>,
}

/// A tunnel device's address, which the node holds for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TunnelKind {
    /// `tunl0`.
    IpIp,
    /// `vxlan.calico`.
    VxlanV4,
    /// `vxlan-v6.calico`.
    VxlanV6,
}

impl TunnelKind {
    /// Every kind, in the order Calico tends to them.
    pub const ALL: [Self; 3] = [Self::IpIp, Self::VxlanV4, Self::VxlanV6];
}

/// What the audit is told.
#[derive(Clone, Debug)]
pub struct CollectRequest {
    /// Handles that are alive, whatever their phase.
    pub live: BTreeSet<String>,
    /// Addresses that are alive whatever their handle: those for which a pod's interface has a route. A node that takes over from
    /// Calico has pods it was never told of.
    pub in_use: BTreeSet<IpAddr>,
    /// Only handles of this network (`<network>.…`). `None`: every handle this node took for a pod.
    pub network: Option<String>,
    /// How long a handle must have been seen dead before it is released. Zero: now.
    pub grace: Duration,
}

/// What the audit did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Addresses released, sorted.
    pub released: Vec<IpAddr>,
    /// Addresses whose handle looks dead but not for long enough.
    pub candidates: usize,
    /// Empty blocks given back.
    pub blocks_released: Vec<Prefix>,
}

/// What the task is started with beside the datastore and the cluster's state.
#[derive(Clone)]
pub struct IpamOptions {
    /// Time of day, for the records. Tests set it.
    pub clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    /// How long after another node claimed a block that block may be taken back if it is empty; and for how long a block of this
    /// node must have been empty to be given back.
    pub claim_grace: Duration,
    /// For how long a block of this node must be empty before [`Ipam::collect`] gives it back.
    pub unused_block_grace: Duration,
}

impl Default for IpamOptions {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemTime::now),
            claim_grace: Duration::from_secs(60),
            unused_block_grace: Duration::from_secs(15 * 60),
        }
    }
}

impl std::fmt::Debug for IpamOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IpamOptions")
            .field("claim_grace", &self.claim_grace)
            .field("unused_block_grace", &self.unused_block_grace)
            .finish_non_exhaustive()
    }
}

type Reply<T> = oneshot::Sender<Result<T, IpamError>>;

enum Command {
    Assign(Box<AssignRequest>, Reply<Vec<Assigned>>),
    ReleaseHandle(String, Reply<Released>),
    ReleaseAddresses(Vec<ReleaseAddress>, Reply<Released>),
    Tunnel(TunnelKind, Reply<Option<IpAddr>>),
    Collect(CollectRequest, Reply<Collected>),
    Usage(Reply<usage::Usage>),
}

/// IPAM of this node. Cheap to clone; the task ends when the last clone is gone and its queue is empty.
#[derive(Clone, Debug)]
pub struct Ipam {
    commands: mpsc::Sender<Command>,
    activity: Arc<Activity>,
}

impl Ipam {
    /// Starts the task.
    pub fn spawn<R: store::Records>(
        records: R,
        node_name: impl Into<String>,
        cluster: watch::Receiver<Arc<ClusterState>>,
        options: IpamOptions,
    ) -> (Self, JoinHandle<()>) {
        let node_name = node_name.into();
        let (commands, queue) = mpsc::channel(QUEUE);
        let store = store::RecordStore::new(records, node_name.clone(), Arc::clone(&options.clock));
        let activity = store.activity();
        let engine = engine::Engine::new(store, node_name, cluster, options);
        let task = tokio::spawn(engine.run(queue));
        (Self { commands, activity }, task)
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, IpamError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(command(reply))
            .await
            .map_err(|_| IpamError::Stopped)?;
        answer.await.map_err(|_| IpamError::Stopped)?
    }

    /// Records and returns addresses: as many as asked for, or none and an error.
    ///
    /// Asked again with the same handle it returns what that handle already holds before it takes anything new. When the caller
    /// goes away before the answer, what was recorded is released.
    ///
    /// # Errors
    /// Which pools there are and why none of them gave an address, or why the records could not be written. After an error that
    /// is of the datastore the handle should be released once more.
    pub async fn assign(&self, request: AssignRequest) -> Result<Vec<Assigned>, IpamError> {
        self.ask(|reply| Command::Assign(Box::new(request), reply))
            .await
    }

    /// Gives back everything a handle holds. A handle nobody knows is success.
    ///
    /// # Errors
    /// When the records cannot be written; asking again is safe.
    pub async fn release_handle(
        &self,
        handle_id: impl Into<String>,
    ) -> Result<Released, IpamError> {
        let handle_id = handle_id.into();
        self.ask(|reply| Command::ReleaseHandle(handle_id, reply))
            .await
    }

    /// Gives back single addresses. Addresses that are free already are success; where one of a block is not what the caller
    /// says it is, nothing of that block is released.
    ///
    /// # Errors
    /// [`IpamError::NotAsExpected`] for such an address, else when the records cannot be written.
    pub async fn release_addresses(
        &self,
        addresses: Vec<ReleaseAddress>,
    ) -> Result<Released, IpamError> {
        self.ask(|reply| Command::ReleaseAddresses(addresses, reply))
            .await
    }

    /// Makes the node's tunnel address of a kind what the pools ask for: recorded and on the Node object, or neither. Returns it.
    ///
    /// # Errors
    /// When no pool gives one or the records cannot be written.
    pub async fn ensure_tunnel_address(
        &self,
        kind: TunnelKind,
    ) -> Result<Option<IpAddr>, IpamError> {
        self.ask(|reply| Command::Tunnel(kind, reply)).await
    }

    /// The node's audit: releases what this node took for pods that are gone, frees addresses whose cooldown is over, gives
    /// back empty blocks.
    ///
    /// # Errors
    /// When the records cannot be read or written; what was done is done.
    pub async fn collect(&self, request: CollectRequest) -> Result<Collected, IpamError> {
        self.ask(|reply| Command::Collect(request, reply)).await
    }

    /// How full the pools are. Reads every block.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub async fn usage(&self) -> Result<usage::Usage, IpamError> {
        self.ask(Command::Usage).await
    }

    /// What has been written since the start.
    #[must_use]
    pub fn activity(&self) -> &Activity {
        &self.activity
    }
}

/// Counts writes. What joining saves shows here: block writes stay far below assignments when many pods start at once.
#[derive(Debug, Default)]
pub struct Activity {
    block_writes: AtomicU64,
    other_writes: AtomicU64,
    conflicts: AtomicU64,
}

impl Activity {
    /// Blocks created, changed or deleted.
    pub fn block_writes(&self) -> u64 {
        self.block_writes.load(Ordering::Relaxed)
    }

    /// Handles, affinities and nodes created, changed or deleted.
    pub fn other_writes(&self) -> u64 {
        self.other_writes.load(Ordering::Relaxed)
    }

    /// Writes that failed because somebody else had changed the object.
    pub fn conflicts(&self) -> u64 {
        self.conflicts.load(Ordering::Relaxed)
    }
}
