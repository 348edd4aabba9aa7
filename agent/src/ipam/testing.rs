//! Clusters, stores and clocks for tests of this room.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use margay_bgp::prefix::Prefix;
use serde_json::Value;

use super::IpamOptions;
use super::store::Records;
use crate::datastore::{Kind, Object, StoreError};
use crate::model::{
    AllowedUse, AssignmentMode, ClusterState, Encapsulation, IpPool, Node, Selector,
};

pub(super) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub(super) fn pool(name: &str, cidr: &str, block_size: u8) -> IpPool {
    IpPool {
        name: name.to_owned(),
        cidr: prefix(cidr),
        encapsulation: Encapsulation::None,
        nat_outgoing: false,
        disabled: false,
        disable_bgp_export: false,
        block_size,
        node_selector: Selector::all(),
        namespace_selector: Selector::all(),
        allowed_uses: BTreeSet::from([AllowedUse::Workload, AllowedUse::Tunnel]),
        assignment_mode: AssignmentMode::Automatic,
    }
}

pub(super) fn cluster(node: &str, pools: &[(&str, &str, u8)]) -> ClusterState {
    let mut cluster = ClusterState {
        node_name: node.to_owned(),
        in_sync: true,
        datastore_ready: true,
        ..ClusterState::default()
    };
    cluster.nodes.insert(
        node.to_owned(),
        Node {
            name: node.to_owned(),
            ..Node::default()
        },
    );
    for (name, cidr, block_size) in pools {
        cluster
            .pools
            .insert((*name).to_owned(), pool(name, cidr, *block_size));
    }
    cluster
}

/// Objects in memory, shared by the clients of several nodes, each of which can be made to fail.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    shared: Arc<Mutex<Shared>>,
    fault: Arc<Mutex<FaultState>>,
}

#[derive(Debug, Default)]
struct Shared {
    objects: BTreeMap<(Kind, String), Object>,
    version: u64,
}

/// What happens at the write of a number, counted from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It fails; the store is fine before and after.
    Refused(usize),
    /// It succeeds, but the answer is lost.
    Unanswered(usize),
    /// From it on nothing comes through: as far as the records go, the process has died before it.
    DeadBefore(usize),
    /// The same after it.
    DeadAfter(usize),
}

#[derive(Debug, Default)]
struct FaultState {
    fault: Option<Fault>,
    writes: usize,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self {
            shared: Arc::default(),
            fault: Arc::default(),
        }
    }

    /// Another client of the same objects.
    pub(super) fn client(&self, fault: Option<Fault>) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            fault: Arc::new(Mutex::new(FaultState { fault, writes: 0 })),
        }
    }

    pub(super) fn writes(&self) -> usize {
        self.fault.lock().unwrap().writes
    }

    pub(super) fn put(&self, kind: Kind, name: &str, value: Value) {
        let mut shared = self.shared.lock().unwrap();
        shared.version += 1;
        let mut object = Object::new(kind, name, value);
        object.resource_version = shared.version.to_string();
        object.uid = format!("uid-{}", shared.version);
        shared.objects.insert((kind, name.to_owned()), object);
    }

    pub(super) fn all(&self, kind: Kind) -> Vec<Object> {
        let shared = self.shared.lock().unwrap();
        shared
            .objects
            .values()
            .filter(|object| object.kind == kind)
            .cloned()
            .collect()
    }

    fn unavailable() -> StoreError {
        StoreError::Unavailable {
            place: "memory".to_owned(),
            reason: "injected".to_owned(),
        }
    }

    fn read(&self) -> Result<std::sync::MutexGuard<'_, Shared>, StoreError> {
        let state = self.fault.lock().unwrap();
        match state.fault {
            Some(Fault::DeadBefore(at)) if state.writes >= at => Err(Self::unavailable()),
            Some(Fault::DeadAfter(at)) if state.writes >= at => Err(Self::unavailable()),
            _ => Ok(self.shared.lock().unwrap()),
        }
    }

    fn write<T>(
        &self,
        what: impl FnOnce(&mut Shared) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut state = self.fault.lock().unwrap();
        state.writes += 1;
        let number = state.writes;
        let mut shared = self.shared.lock().unwrap();
        match state.fault {
            Some(Fault::Refused(at)) if number == at => Err(Self::unavailable()),
            Some(Fault::DeadBefore(at)) if number >= at => Err(Self::unavailable()),
            Some(Fault::DeadAfter(at)) if number > at => Err(Self::unavailable()),
            Some(Fault::Unanswered(at) | Fault::DeadAfter(at)) if number == at => {
                let _ = what(&mut shared);
                Err(Self::unavailable())
            }
            _ => what(&mut shared),
        }
    }
}

impl Records for Memory {
    async fn get(&self, kind: Kind, name: &str) -> Result<Option<Object>, StoreError> {
        tokio::task::yield_now().await;
        Ok(self.read()?.objects.get(&(kind, name.to_owned())).cloned())
    }

    async fn list(&self, kind: Kind) -> Result<Vec<Object>, StoreError> {
        tokio::task::yield_now().await;
        let shared = self.read()?;
        Ok(shared
            .objects
            .values()
            .filter(|object| object.kind == kind)
            .cloned()
            .collect())
    }

    async fn create(&self, object: Object) -> Result<Object, StoreError> {
        tokio::task::yield_now().await;
        self.write(|shared| {
            let key = (object.kind, object.name.clone());
            if shared.objects.contains_key(&key) {
                return Err(StoreError::AlreadyExists {
                    kind: object.kind,
                    name: object.name,
                });
            }
            shared.version += 1;
            let stored = Object {
                resource_version: shared.version.to_string(),
                uid: format!("uid-{}", shared.version),
                ..object
            };
            shared.objects.insert(key, stored.clone());
            Ok(stored)
        })
    }

    async fn update(&self, object: Object) -> Result<Object, StoreError> {
        tokio::task::yield_now().await;
        self.write(|shared| {
            let key = (object.kind, object.name.clone());
            let known = shared
                .objects
                .get(&key)
                .ok_or_else(|| StoreError::NotFound {
                    kind: object.kind,
                    name: object.name.clone(),
                })?;
            assert!(!object.resource_version.is_empty(), "a blind write");
            same_version(known, &object.resource_version)?;
            shared.version += 1;
            let stored = Object {
                resource_version: shared.version.to_string(),
                ..object
            };
            shared.objects.insert(key, stored.clone());
            Ok(stored)
        })
    }

    async fn delete(
        &self,
        kind: Kind,
        name: &str,
        resource_version: &str,
    ) -> Result<(), StoreError> {
        tokio::task::yield_now().await;
        self.write(|shared| {
            let key = (kind, name.to_owned());
            let known = shared
                .objects
                .get(&key)
                .ok_or_else(|| StoreError::NotFound {
                    kind,
                    name: name.to_owned(),
                })?;
            same_version(known, resource_version)?;
            assert_eq!(
                known.value.pointer("/spec/deleted"),
                Some(&Value::Bool(true)),
                "deleted without being marked: {known:?}"
            );
            shared.objects.remove(&key);
            Ok(())
        })
    }
}

fn same_version(known: &Object, expected: &str) -> Result<(), StoreError> {
    if known.resource_version == expected {
        return Ok(());
    }
    Err(StoreError::Conflict {
        kind: known.kind,
        name: known.name.clone(),
        expected: expected.to_owned(),
        found: known.resource_version.clone(),
    })
}

/// A clock that is set by hand.
#[derive(Clone, Debug)]
pub(super) struct Clock(Arc<AtomicU64>);

impl Clock {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_767_323_045)))
    }

    pub(super) fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }

    pub(super) fn options(&self) -> IpamOptions {
        let clock = self.clone();
        IpamOptions {
            clock: Arc::new(move || clock.now()),
            ..IpamOptions::default()
        }
    }
}
