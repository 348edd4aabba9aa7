//! The write protocols of Calico's IPAM against the datastore.
//!
//! Every function here may be interrupted after any of its writes, by a crash or by a datastore that goes away, and may race with
//! other nodes that run the same protocols. What is left half done is always something the same function, called again, completes.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use margay_bgp::prefix::Prefix;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tracing::{debug, warn};

use super::Activity;
use super::block::Block;
use super::error::IpamError;
use crate::api::block_affinity::{AffinityState, BlockAffinitySpec, affinity_name};
use crate::api::ipam_block::{IpamBlockSpec, cidr_name};
use crate::api::ipam_handle::{IpamHandleSpec, handle_name};
use crate::datastore::{Kind, Object, Store, StoreError};

/// How often a write is tried anew after somebody else changed the object, as in Calico.
pub const ATTEMPTS: usize = 100;

/// What IPAM needs of a datastore. Tests put one in between that fails.
pub trait Records: Clone + Send + Sync + 'static {
    /// As [`Store::get`].
    fn get(
        &self,
        kind: Kind,
        name: &str,
    ) -> impl Future<Output = Result<Option<Object>, StoreError>> + Send;
    /// As [`Store::list`].
    fn list(&self, kind: Kind) -> impl Future<Output = Result<Vec<Object>, StoreError>> + Send;
    /// As [`Store::create`].
    fn create(&self, object: Object) -> impl Future<Output = Result<Object, StoreError>> + Send;
    /// As [`Store::update`].
    fn update(&self, object: Object) -> impl Future<Output = Result<Object, StoreError>> + Send;
    /// As [`Store::delete`], of one version.
    fn delete(
        &self,
        kind: Kind,
        name: &str,
        resource_version: &str,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

impl Records for Store {
    async fn get(&self, kind: Kind, name: &str) -> Result<Option<Object>, StoreError> {
        Self::get(self, kind, name).await
    }
    async fn list(&self, kind: Kind) -> Result<Vec<Object>, StoreError> {
        Self::list(self, kind).await
    }
    async fn create(&self, object: Object) -> Result<Object, StoreError> {
        Self::create(self, object).await
    }
    async fn update(&self, object: Object) -> Result<Object, StoreError> {
        Self::update(self, object).await
    }
    async fn delete(
        &self,
        kind: Kind,
        name: &str,
        resource_version: &str,
    ) -> Result<(), StoreError> {
        Self::delete(self, kind, name, Some(resource_version)).await
    }
}

/// A record as it is stored: what it says, and the object it came in.
#[derive(Clone, Debug)]
pub struct Stored<T> {
    /// What it says.
    pub spec: T,
    /// The object, without its `spec`.
    object: Object,
}

impl<T> Stored<T> {
    fn new(spec: T, mut object: Object) -> Self {
        // Kept once, as `spec`; the object is for its metadata and version.
        if let Some(fields) = object.value.as_object_mut() {
            fields.insert("spec".to_owned(), Value::Null);
        }
        Self { spec, object }
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.object.resource_version
    }
}

/// What came of a claim.
#[derive(Clone, Debug)]
pub enum Claim {
    /// The block is this node's, and its affinity is confirmed.
    Ours(Box<Stored<Block>>),
    /// It is somebody else's.
    Theirs,
}

/// What came of giving up a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclaim {
    /// The claim is gone, and the block with it if it was empty.
    Done,
    /// The block is in use, or has changed since the caller looked: nothing was done.
    Refused,
}

/// The records, seen from one node.
#[derive(Clone)]
pub struct RecordStore<R> {
    records: R,
    node: String,
    clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    activity: Arc<Activity>,
}

impl<R> fmt::Debug for RecordStore<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordStore")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

fn malformed(object: &Object, reason: impl fmt::Display) -> IpamError {
    IpamError::Malformed {
        object: object.title(),
        reason: reason.to_string(),
    }
}

fn contended(object: String) -> IpamError {
    IpamError::Contended {
        object,
        attempts: ATTEMPTS,
    }
}

/// The version a writer held is no longer the one that is stored.
#[must_use]
pub const fn is_race(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Conflict { .. }
            | StoreError::NotFound { .. }
            | StoreError::AlreadyExists { .. }
    )
}

fn parse<T: DeserializeOwned>(object: &Object) -> Result<T, IpamError> {
    serde_json::from_value(object.spec().clone()).map_err(|error| malformed(object, error))
}

fn parse_block(object: Object) -> Result<Stored<Block>, IpamError> {
    let spec: IpamBlockSpec = parse(&object)?;
    let block = Block::from_spec(spec).map_err(|reason| malformed(&object, reason))?;
    Ok(Stored::new(block, object))
}

impl<R: Records> RecordStore<R> {
    /// The records of a store, for a node.
    pub fn new(
        records: R,
        node: impl Into<String>,
        clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    ) -> Self {
        Self {
            records,
            node: node.into(),
            clock,
            activity: Arc::default(),
        }
    }

    /// What is written through this.
    #[must_use]
    pub fn activity(&self) -> Arc<Activity> {
        Arc::clone(&self.activity)
    }

    fn note<T>(&self, kind: Kind, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let counter = match &result {
            Ok(_) if kind == Kind::IpamBlock => &self.activity.block_writes,
            Ok(_) => &self.activity.other_writes,
            Err(StoreError::Conflict { .. }) => &self.activity.conflicts,
            Err(_) => return result,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        result
    }

    async fn create(&self, object: Object) -> Result<Object, StoreError> {
        let kind = object.kind;
        self.note(kind, self.records.create(object).await)
    }

    /// Writes an object that was read, such as the node's own.
    ///
    /// # Errors
    /// [`is_race`] when it was changed meanwhile.
    pub async fn update(&self, object: Object) -> Result<Object, StoreError> {
        let kind = object.kind;
        self.note(kind, self.records.update(object).await)
    }

    /// Time of day.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        (self.clock)()
    }

    /// The store beneath.
    #[must_use]
    pub const fn records(&self) -> &R {
        &self.records
    }

    async fn write<T>(&self, stored: &Stored<T>, spec: Value) -> Result<Object, StoreError> {
        let mut object = stored.object.clone();
        if let Some(fields) = object.value.as_object_mut() {
            fields.insert("spec".to_owned(), spec);
        }
        self.update(object).await
    }

    /// The second half of a deletion: the object is marked, and goes if nobody touched it since.
    async fn delete_marked(&self, object: &Object) -> Result<(), StoreError> {
        let deleted = self
            .records
            .delete(object.kind, &object.name, &object.resource_version)
            .await;
        match self.note(object.kind, deleted) {
            // Somebody else read the mark and was quicker.
            Err(StoreError::NotFound { .. }) => Ok(()),
            other => other,
        }
    }

    // ---- blocks

    /// Reads a block. One that is marked deleted is gone after this.
    ///
    /// # Errors
    /// When the store does not answer, or the record cannot be worked on.
    pub async fn block(&self, cidr: Prefix) -> Result<Option<Stored<Block>>, IpamError> {
        let name = cidr_name(cidr);
        for _ in 0..ATTEMPTS {
            let Some(object) = self.records.get(Kind::IpamBlock, &name).await? else {
                return Ok(None);
            };
            let block = parse_block(object)?;
            if !block.spec.spec().deleted {
                return Ok(Some(block));
            }
            match self.delete_marked(&block.object).await {
                Ok(()) => return Ok(None),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(contended(format!("block {cidr}")))
    }

    /// Reads every block that is not marked deleted and can be worked on; others are reported in the log and count as absent.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn blocks(&self) -> Result<BTreeMap<Prefix, Stored<Block>>, IpamError> {
        let mut blocks = BTreeMap::new();
        for object in self.records.list(Kind::IpamBlock).await? {
            match parse_block(object) {
                Ok(block) if block.spec.spec().deleted => {}
                Ok(block) => {
                    blocks.insert(block.spec.cidr(), block);
                }
                Err(error) => warn!(%error, "a block's record cannot be used"),
            }
        }
        Ok(blocks)
    }

    async fn create_block(&self, block: Block) -> Result<Stored<Block>, IpamError> {
        let name = cidr_name(block.cidr());
        let object = Object::new(
            Kind::IpamBlock,
            name,
            json!({ "spec": to_value(block.spec()) }),
        );
        let object = self.create(object).await?;
        Ok(Stored::new(block, object))
    }

    /// Writes a block as the next version of `stored`.
    ///
    /// # Errors
    /// [`is_race`] when it was changed meanwhile.
    pub async fn update_block(
        &self,
        stored: &Stored<Block>,
        block: Block,
    ) -> Result<Stored<Block>, StoreError> {
        let block = block.next_version();
        let object = self.write(stored, to_value(block.spec())).await?;
        Ok(Stored::new(block, object))
    }

    /// Deletes a block, marked first.
    ///
    /// # Errors
    /// [`is_race`] when it was changed meanwhile; it is there still.
    pub async fn delete_block(
        &self,
        stored: &Stored<Block>,
        mut block: Block,
    ) -> Result<(), StoreError> {
        block.mark_deleted();
        let marked = self.update_block(stored, block).await?;
        self.delete_marked(&marked.object).await
    }

    // ---- affinities

    /// Reads this node's claims, labelled or not. Those marked deleted are gone after this.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn own_affinities(&self) -> Result<Vec<BlockAffinitySpec>, IpamError> {
        let mut own = Vec::new();
        for object in self.records.list(Kind::BlockAffinity).await? {
            match parse::<BlockAffinitySpec>(&object) {
                Ok(affinity) if !affinity.is_of(&self.node) => {}
                Ok(affinity) if affinity.deleted => match self.delete_marked(&object).await {
                    Err(error) if !is_race(&error) => return Err(error.into()),
                    Ok(()) | Err(_) => {}
                },
                Ok(affinity) => own.push(affinity),
                Err(error) => warn!(%error, "an affinity's record cannot be used"),
            }
        }
        Ok(own)
    }

    /// Reads a node's claim on a block.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn affinity(
        &self,
        node: &str,
        cidr: Prefix,
    ) -> Result<Option<Stored<BlockAffinitySpec>>, IpamError> {
        let name = affinity_name(node, cidr);
        for _ in 0..ATTEMPTS {
            let Some(object) = self.records.get(Kind::BlockAffinity, &name).await? else {
                return Ok(None);
            };
            let spec: BlockAffinitySpec = parse(&object)?;
            if !spec.deleted {
                return Ok(Some(Stored::new(spec, object)));
            }
            match self.delete_marked(&object).await {
                Ok(()) => return Ok(None),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(contended(format!("affinity {name}")))
    }

    async fn set_affinity_state(
        &self,
        stored: &Stored<BlockAffinitySpec>,
        state: AffinityState,
    ) -> Result<Stored<BlockAffinitySpec>, StoreError> {
        let spec = BlockAffinitySpec {
            state,
            ..stored.spec.clone()
        };
        let object = self.write_affinity(stored, &spec).await?;
        Ok(Stored::new(spec, object))
    }

    async fn write_affinity(
        &self,
        stored: &Stored<BlockAffinitySpec>,
        spec: &BlockAffinitySpec,
    ) -> Result<Object, StoreError> {
        let mut stored = stored.clone();
        // Claims of old versions lack the labels.
        label(&mut stored.object.value, spec);
        let api_version = stored
            .object
            .value
            .get("apiVersion")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        self.write(&stored, affinity_value(spec, &api_version))
            .await
    }

    async fn pending_affinity(&self, cidr: Prefix) -> Result<Stored<BlockAffinitySpec>, IpamError> {
        for _ in 0..ATTEMPTS {
            match self.affinity(&self.node, cidr).await? {
                Some(stored) if stored.spec.state == AffinityState::Pending => return Ok(stored),
                Some(stored) => {
                    match self
                        .set_affinity_state(&stored, AffinityState::Pending)
                        .await
                    {
                        Ok(stored) => return Ok(stored),
                        Err(error) if is_race(&error) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                None => {
                    let spec = BlockAffinitySpec::pending(&self.node, cidr);
                    let mut value = json!({
                        "spec": affinity_value(&spec, Kind::BlockAffinity.api_version())
                    });
                    label(&mut value, &spec);
                    let object = Object::new(Kind::BlockAffinity, spec.object_name(), value);
                    match self.create(object).await {
                        Ok(object) => return Ok(Stored::new(spec, object)),
                        Err(error) if is_race(&error) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        Err(contended(format!("affinity of {} to {cidr}", self.node)))
    }

    async fn delete_affinity(&self, stored: &Stored<BlockAffinitySpec>) -> Result<(), StoreError> {
        let spec = BlockAffinitySpec {
            deleted: true,
            ..stored.spec.clone()
        };
        let marked = self.write_affinity(stored, &spec).await?;
        self.delete_marked(&marked).await
    }

    /// Makes a block this node's: affinity pending, block created, affinity confirmed. Also completes a claim that was interrupted,
    /// and makes one sound again that somebody began to release: then the block gets a new version first, so that the releaser,
    /// who must delete the version it saw, loses.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn claim(&self, cidr: Prefix) -> Result<Claim, IpamError> {
        for _ in 0..ATTEMPTS {
            if let Some(affinity) = self.affinity(&self.node, cidr).await?
                && affinity.spec.state == AffinityState::Confirmed
                && let Some(block) = self.block(cidr).await?
                && block.spec.host() == Some(&self.node)
            {
                return Ok(Claim::Ours(Box::new(block)));
            }
            let affinity = self.pending_affinity(cidr).await?;
            let new = Block::new(cidr, &self.node, self.now()).map_err(|reason| {
                IpamError::Malformed {
                    object: format!("block {cidr}"),
                    reason,
                }
            })?;
            let block = match self.create_block(new).await {
                Ok(block) => block,
                Err(IpamError::Store(StoreError::AlreadyExists { .. })) => {
                    let Some(block) = self.block(cidr).await? else {
                        continue;
                    };
                    if block.spec.host() != Some(&self.node) {
                        match self.delete_affinity(&affinity).await {
                            Err(error) if !is_race(&error) => return Err(error.into()),
                            Ok(()) | Err(_) => return Ok(Claim::Theirs),
                        }
                    }
                    match self.update_block(&block, block.spec.clone()).await {
                        Ok(block) => block,
                        Err(error) if is_race(&error) => continue,
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(error) => return Err(error),
            };
            match self
                .set_affinity_state(&affinity, AffinityState::Confirmed)
                .await
            {
                Ok(_) => {
                    debug!(%cidr, "block claimed");
                    return Ok(Claim::Ours(Box::new(block)));
                }
                Err(error) if is_race(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(contended(format!("claim of {cidr}")))
    }

    /// Gives up a node's claim on a block if the block is empty and, where a sequence number is given, is as the caller saw it.
    ///
    /// Other nodes' claims are given up too, when this node runs out of blocks. The owner may assign from the block at the same
    /// time: either its write or the deletion of the block fails, and in the latter case the claim is made sound again.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn unclaim(
        &self,
        node: &str,
        cidr: Prefix,
        sequence_number: Option<u64>,
    ) -> Result<Unclaim, IpamError> {
        let acceptable = |block: &Block| {
            block.is_empty()
                && sequence_number.is_none_or(|wanted| block.spec().sequence_number == wanted)
        };
        for _ in 0..ATTEMPTS {
            let before = self
                .block(cidr)
                .await?
                .filter(|b| b.spec.host() == Some(node));
            if before
                .as_ref()
                .is_some_and(|block| !acceptable(&block.spec))
            {
                return Ok(Unclaim::Refused);
            }
            let affinity = match self.affinity(node, cidr).await? {
                Some(affinity) => {
                    match self
                        .set_affinity_state(&affinity, AffinityState::PendingDeletion)
                        .await
                    {
                        Ok(affinity) => Some(affinity),
                        Err(error) if is_race(&error) => continue,
                        Err(error) => return Err(error.into()),
                    }
                }
                None => None,
            };
            if let Some(block) = before {
                match self.delete_block(&block, block.spec.clone()).await {
                    Ok(()) => {}
                    Err(error) if is_race(&error) => {
                        if let Some(affinity) = &affinity {
                            self.restore(affinity).await?;
                        }
                        return Ok(Unclaim::Refused);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            match affinity {
                None => return Ok(Unclaim::Done),
                Some(affinity) => match self.delete_affinity(&affinity).await {
                    Err(error) if !is_race(&error) => return Err(error.into()),
                    // The owner claims it anew at this moment: as good as gone.
                    Ok(()) | Err(_) => return Ok(Unclaim::Done),
                },
            }
        }
        Err(contended(format!("release of {cidr}")))
    }

    /// The block was taken into use while its claim was being given up: the claim stands.
    async fn restore(&self, affinity: &Stored<BlockAffinitySpec>) -> Result<(), IpamError> {
        match self
            .set_affinity_state(affinity, AffinityState::Confirmed)
            .await
        {
            // The owner saw it and did the same.
            Err(error) if is_race(&error) => Ok(()),
            other => Ok(other.map(|_| ())?),
        }
    }

    // ---- handles

    /// Reads a handle. One that is marked deleted is gone after this.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn handle(
        &self,
        handle_id: &str,
    ) -> Result<Option<Stored<IpamHandleSpec>>, IpamError> {
        let name = handle_name(handle_id);
        for _ in 0..ATTEMPTS {
            let Some(object) = self.records.get(Kind::IpamHandle, &name).await? else {
                return Ok(None);
            };
            let spec: IpamHandleSpec = parse(&object)?;
            if !spec.deleted {
                return Ok(Some(Stored::new(spec, object)));
            }
            match self.delete_marked(&object).await {
                Ok(()) => return Ok(None),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(contended(format!("handle {handle_id}")))
    }

    /// Creates a handle with its first counts; `None` where there is one already.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn create_handle(
        &self,
        handle_id: &str,
        counts: &BTreeMap<Prefix, usize>,
    ) -> Result<Option<Stored<IpamHandleSpec>>, IpamError> {
        let spec = IpamHandleSpec {
            handle_id: handle_id.to_owned(),
            block: counts
                .iter()
                .filter(|(_, count)| **count > 0)
                .map(|(cidr, count)| (cidr.to_string(), *count))
                .collect(),
            deleted: false,
            other: Map::new(),
        };
        let object = Object::new(
            Kind::IpamHandle,
            handle_name(handle_id),
            json!({ "spec": to_value(&spec) }),
        );
        match self.create(object).await {
            Ok(object) => Ok(Some(Stored::new(spec, object))),
            Err(StoreError::AlreadyExists { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Changes a handle's counts. A handle that counts nothing any more is deleted; one that does not exist is created if something
    /// is left to count.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn change_handle(
        &self,
        handle_id: &str,
        change: impl Fn(&mut BTreeMap<String, usize>) + Send + Sync,
    ) -> Result<(), IpamError> {
        for _ in 0..ATTEMPTS {
            let result = match self.handle(handle_id).await? {
                Some(stored) => self.rewrite_handle(&stored, &change).await,
                None => {
                    let mut counts = BTreeMap::new();
                    change(&mut counts);
                    counts.retain(|_, count| *count > 0);
                    if counts.is_empty() {
                        return Ok(());
                    }
                    let spec = IpamHandleSpec {
                        handle_id: handle_id.to_owned(),
                        block: counts,
                        ..IpamHandleSpec::default()
                    };
                    let object = Object::new(
                        Kind::IpamHandle,
                        handle_name(handle_id),
                        json!({ "spec": to_value(&spec) }),
                    );
                    self.create(object).await.map(|_| ())
                }
            };
            match result {
                Ok(()) => return Ok(()),
                Err(error) if is_race(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(contended(format!("handle {handle_id}")))
    }

    /// One attempt of [`change_handle`](Self::change_handle) on a version that was read.
    ///
    /// # Errors
    /// [`is_race`] when it was changed meanwhile.
    pub async fn rewrite_handle(
        &self,
        stored: &Stored<IpamHandleSpec>,
        change: impl Fn(&mut BTreeMap<String, usize>),
    ) -> Result<(), StoreError> {
        let mut spec = stored.spec.clone();
        change(&mut spec.block);
        spec.block.retain(|_, count| *count > 0);
        if spec.block.is_empty() {
            // What is marked still counts what it did, as Calico leaves it.
            spec.deleted = true;
            let marked = self.write(stored, to_value(&spec)).await?;
            return self.delete_marked(&marked).await;
        }
        if spec == stored.spec {
            return Ok(());
        }
        self.write(stored, to_value(&spec)).await.map(|_| ())
    }

    /// Reads every handle, those marked deleted too.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn handles(&self) -> Result<Vec<IpamHandleSpec>, IpamError> {
        Ok(self
            .records
            .list(Kind::IpamHandle)
            .await?
            .iter()
            .filter_map(|object| match parse(object) {
                Ok(handle) => Some(handle),
                Err(error) => {
                    warn!(%error, "a handle's record cannot be used");
                    None
                }
            })
            .collect())
    }
}

/// Records are plain structures with texts as keys: there is nothing in them JSON cannot say.
fn to_value(spec: &impl serde::Serialize) -> Value {
    serde_json::to_value(spec).unwrap_or_default()
}

fn affinity_value(spec: &BlockAffinitySpec, api_version: &str) -> Value {
    spec.to_spec(api_version).unwrap_or_default()
}

fn label(value: &mut Value, spec: &BlockAffinitySpec) {
    let Some(object) = value.as_object_mut() else {
        return;
    };
    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    let Some(metadata) = metadata.as_object_mut() else {
        return;
    };
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if labels.is_null() {
        *labels = json!({});
    }
    if let Some(labels) = labels.as_object_mut() {
        for (key, text) in spec.labels() {
            labels.insert(key.to_owned(), Value::from(text));
        }
    }
}
