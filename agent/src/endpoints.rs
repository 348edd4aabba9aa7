//! The pods of this node, on disk: what the plugin was told, so that a restarted daemon knows it too.
//!
//! One file an attachment under `<state-dir>/endpoints/`, written to a temporary file, synced and renamed. A record is
//! written *before* the first address is asked for, so that whatever step a crash interrupts, the handle under which
//! an address may have been recorded is known here. Its life:
//!
//! ```text
//!            ADD                   Confirm               DEL, GC, audit
//! (nothing) ─────► Adding ────────────────► Active ──────────────────► Releasing ─────► (nothing)
//!                    └── plugin died, daemon restarted ──────────────────▲   address given back
//! ```
//!
//! A record in `Releasing` outlives a datastore that is away: its address is given back later. Files that do not parse
//! stay where they are and are reported: they may hold the only trace of a pod. While there are any, the daemon removes
//! no route that it cannot explain, and takes the handles of their containers (the file's name tells the container) for
//! alive. DEL of such a container removes its file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use margay_cni::daemon::{Tombstone, tombstone_dir, tombstone_name};
use margay_cni::protocol::AttachmentId;
use serde::{Deserialize, Serialize};
use tracing::warn;

/// Where an endpoint is in its life.
///
/// A phase this version does not know, written by a newer one, reads as [`Phase::Active`]: the pod is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "String")]
pub enum Phase {
    /// The plugin is plumbing.
    Adding,
    /// The pod runs.
    Active,
    /// The pod is gone; what it held is being given back.
    Releasing,
}

impl From<String> for Phase {
    fn from(name: String) -> Self {
        match name.as_str() {
            "adding" => Self::Adding,
            "releasing" => Self::Releasing,
            _ => Self::Active,
        }
    }
}

/// One attachment as it stands on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Container and interface.
    pub attachment: AttachmentId,
    /// Name of the network configuration.
    pub network: String,
    /// IPAM handle: `<network>.<container id>`, as Calico writes it.
    pub handle: String,
    /// The pod's namespace, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_namespace: Option<String>,
    /// The pod's name, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// The pod's UID, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// Host end of the veth pair.
    pub host_interface: String,
    /// Path of the pod's network namespace.
    pub netns: String,
    /// The pod's addresses; empty until they are assigned.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// MTU of the pod's interface.
    pub mtu: u32,
    /// Where it is in its life.
    pub phase: Phase,
    /// Seconds since the epoch at which the phase began.
    pub since: u64,
}

/// The IPAM handle of an attachment.
#[must_use]
pub fn handle_id(network: &str, container_id: &str) -> String {
    format!("{network}.{container_id}")
}

/// A file that does not hold an endpoint.
#[derive(Debug)]
pub struct Unreadable {
    /// Where it lies.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// The records of this node.
#[derive(Debug)]
pub struct EndpointStore {
    dir: PathBuf,
    state_dir: PathBuf,
    endpoints: BTreeMap<AttachmentId, Endpoint>,
}

impl EndpointStore {
    /// Opens the store under a state directory and reads every record.
    ///
    /// # Errors
    /// When the directory cannot be made or listed. Single files that cannot be read are returned beside the store.
    pub fn open(state_dir: &Path) -> io::Result<(Self, Vec<Unreadable>)> {
        let dir = state_dir.join("endpoints");
        fs::create_dir_all(&dir)?;
        let mut endpoints = BTreeMap::new();
        let mut unreadable = Vec::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default()
                .to_owned();
            if name.starts_with('.') {
                // A temporary file of a daemon that was killed while writing; its record was never taken for written.
                fs::remove_file(&path)?;
                continue;
            }
            if !name.ends_with(".json") {
                continue;
            }
            if fs::metadata(&path)?.len() == 0 {
                // Renamed but never synced before the machine lost power; its pod went with it.
                fs::remove_file(&path)?;
                continue;
            }
            let parsed = fs::read(&path)
                .map_err(|e| e.to_string())
                .and_then(|text| {
                    serde_json::from_slice::<Endpoint>(&text).map_err(|e| e.to_string())
                })
                .and_then(|e| {
                    if file_name(&e.attachment) == name {
                        Ok(e)
                    } else {
                        Err("its attachment does not match its file name".to_owned())
                    }
                });
            match parsed {
                Ok(endpoint) => {
                    endpoints.insert(endpoint.attachment.clone(), endpoint);
                }
                Err(reason) => {
                    warn!(path = %path.display(), reason, "an endpoint record cannot be read");
                    unreadable.push(Unreadable { path, reason });
                }
            }
        }
        Ok((
            Self {
                dir,
                state_dir: state_dir.to_owned(),
                endpoints,
            },
            unreadable,
        ))
    }

    /// Container IDs of records that are there and cannot be read.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn unreadable_containers(&self) -> io::Result<Vec<String>> {
        let mut containers = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let Some((container, interface)) = name
                .strip_suffix(".json")
                .and_then(|stem| stem.rsplit_once('@'))
            else {
                continue;
            };
            let attachment = AttachmentId {
                container_id: container.to_owned(),
                ifname: interface.to_owned(),
            };
            if !name.starts_with('.') && !self.endpoints.contains_key(&attachment) {
                containers.push(attachment.container_id);
            }
        }
        Ok(containers)
    }

    /// Every endpoint by attachment.
    #[must_use]
    pub fn all(&self) -> &BTreeMap<AttachmentId, Endpoint> {
        &self.endpoints
    }

    /// The endpoint of an attachment.
    #[must_use]
    pub fn get(&self, attachment: &AttachmentId) -> Option<&Endpoint> {
        self.endpoints.get(attachment)
    }

    /// The attachment, other than the given one, that a host interface belongs to now: the newest that is not being
    /// released. A pod that is created anew under its name takes over its predecessor's interface name.
    #[must_use]
    pub fn owner_of_interface(&self, name: &str, except: &AttachmentId) -> Option<&Endpoint> {
        self.endpoints
            .values()
            .filter(|e| {
                e.host_interface == name && &e.attachment != except && e.phase != Phase::Releasing
            })
            .max_by_key(|e| e.since)
    }

    /// Records an endpoint, durably when this returns.
    ///
    /// # Errors
    /// When the disk refuses; the record in memory is then unchanged.
    pub fn put(&mut self, endpoint: Endpoint) -> io::Result<()> {
        self.write(endpoint, true)
    }

    /// Records an endpoint so that it survives the daemon, but not necessarily the machine: enough for the phases in
    /// which a power failure takes the pod along anyway.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn note(&mut self, endpoint: Endpoint) -> io::Result<()> {
        self.write(endpoint, false)
    }

    /// Changes a record in memory alone. For what the next [`Self::put`] writes and a restart does not need.
    pub fn hold(&mut self, endpoint: Endpoint) {
        self.endpoints.insert(endpoint.attachment.clone(), endpoint);
    }

    fn write(&mut self, endpoint: Endpoint, durably: bool) -> io::Result<()> {
        let name = file_name(&endpoint.attachment);
        let text = serde_json::to_vec_pretty(&endpoint).map_err(io::Error::other)?;
        let temporary = self.dir.join(format!(".{name}"));
        let mut file = File::create(&temporary)?;
        file.write_all(&text)?;
        if durably {
            file.sync_data()?;
        }
        fs::rename(&temporary, self.dir.join(name))?;
        if durably {
            File::open(&self.dir)?.sync_all()?;
        }
        self.hold(endpoint);
        Ok(())
    }

    /// Forgets an endpoint whose address has been given back.
    ///
    /// # Errors
    /// When the disk refuses. A file that is gone already is success.
    pub fn remove(&mut self, attachment: &AttachmentId) -> io::Result<()> {
        match fs::remove_file(self.dir.join(file_name(attachment))) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        self.endpoints.remove(attachment);
        Ok(())
    }

    /// The tombstones that plugins left while no daemon answered.
    ///
    /// # Errors
    /// When the directory cannot be listed. A tombstone that does not parse is reported in the log and left.
    pub fn tombstones(&self) -> io::Result<Vec<Tombstone>> {
        let dir = tombstone_dir(&self.state_dir);
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let hidden = path
                .file_name()
                .and_then(|n| n.to_str())
                .is_none_or(|n| n.starts_with('.'));
            if hidden {
                continue;
            }
            match fs::read(&path)
                .map_err(|e| e.to_string())
                .and_then(|t| serde_json::from_slice(&t).map_err(|e| e.to_string()))
            {
                Ok(tombstone) => found.push(tombstone),
                Err(reason) => warn!(path = %path.display(), reason, "a tombstone cannot be read"),
            }
        }
        Ok(found)
    }

    /// Removes a tombstone that has been honoured.
    ///
    /// # Errors
    /// When the disk refuses. One that is gone already is success.
    pub fn bury(&self, tombstone: &Tombstone) -> io::Result<()> {
        match fs::remove_file(
            tombstone_dir(&self.state_dir).join(tombstone_name(&tombstone.attachment)),
        ) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// File name of an attachment. Both parts were checked by the plugin and the socket to be harmless in a file name.
fn file_name(attachment: &AttachmentId) -> String {
    tombstone_name(attachment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(container: &str, phase: Phase, since: u64) -> Endpoint {
        Endpoint {
            attachment: AttachmentId {
                container_id: container.into(),
                ifname: "eth0".into(),
            },
            network: "k8s-pod-network".into(),
            handle: handle_id("k8s-pod-network", container),
            pod_namespace: Some("default".into()),
            pod_name: Some("web".into()),
            pod_uid: None,
            host_interface: "cali1".into(),
            netns: "/run/netns/x".into(),
            addresses: vec!["10.65.0.1".parse().unwrap()],
            mtu: 1480,
            phase,
            since,
        }
    }

    #[test]
    fn a_restarted_daemon_knows_its_pods() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = EndpointStore::open(dir.path()).unwrap();
        store.put(endpoint("a", Phase::Active, 1)).unwrap();
        store.put(endpoint("b", Phase::Adding, 2)).unwrap();
        store
            .remove(&endpoint("b", Phase::Adding, 2).attachment)
            .unwrap();
        let (again, unreadable) = EndpointStore::open(dir.path()).unwrap();
        assert!(unreadable.is_empty());
        assert_eq!(
            again.all().values().collect::<Vec<_>>(),
            [&endpoint("a", Phase::Active, 1)]
        );
    }

    #[test]
    fn a_torn_write_is_forgotten_and_a_broken_record_stays_until_its_container_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = EndpointStore::open(dir.path()).unwrap();
        store.put(endpoint("a", Phase::Active, 1)).unwrap();
        fs::write(dir.path().join("endpoints/.b@eth0.json"), b"{").unwrap();
        fs::write(dir.path().join("endpoints/c@eth0.json"), b"{").unwrap();
        let (again, unreadable) = EndpointStore::open(dir.path()).unwrap();
        assert_eq!(again.all().len(), 1);
        assert_eq!(unreadable.len(), 1);
        assert!(unreadable[0].path.exists());
        assert!(!dir.path().join("endpoints/.b@eth0.json").exists());
        assert_eq!(again.unreadable_containers().unwrap(), ["c"]);

        let mut again = again;
        let deleted = endpoint("c", Phase::Releasing, 1).attachment;
        again.remove(&deleted).unwrap();
        assert!(again.unreadable_containers().unwrap().is_empty());
    }

    #[test]
    fn a_phase_of_a_newer_version_is_a_pod_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = EndpointStore::open(dir.path()).unwrap();
        store.put(endpoint("a", Phase::Active, 1)).unwrap();
        let file = dir.path().join("endpoints/a@eth0.json");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("\"active\"", "\"migrating\"")).unwrap();
        let (again, unreadable) = EndpointStore::open(dir.path()).unwrap();
        assert!(unreadable.is_empty());
        let found = again
            .get(&endpoint("a", Phase::Active, 1).attachment)
            .unwrap();
        assert_eq!(found.phase, Phase::Active);
    }

    #[test]
    fn an_interface_belongs_to_the_newest_pod_of_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = EndpointStore::open(dir.path()).unwrap();
        let old = endpoint("old", Phase::Active, 1);
        let new = endpoint("new", Phase::Active, 2);
        store.put(old.clone()).unwrap();
        store.put(new.clone()).unwrap();
        assert_eq!(
            store.owner_of_interface("cali1", &old.attachment),
            Some(&new)
        );
        store
            .put(Endpoint {
                phase: Phase::Releasing,
                ..new
            })
            .unwrap();
        assert_eq!(store.owner_of_interface("cali1", &old.attachment), None);
    }

    #[test]
    fn tombstones_are_found_until_they_are_buried() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = EndpointStore::open(dir.path()).unwrap();
        assert!(store.tombstones().unwrap().is_empty());
        let tombstone = Tombstone {
            attachment: endpoint("a", Phase::Active, 1).attachment,
            network: "n".into(),
        };
        tombstone.leave(dir.path()).unwrap();
        assert_eq!(
            store.tombstones().unwrap(),
            std::slice::from_ref(&tombstone)
        );
        store.bury(&tombstone).unwrap();
        store.bury(&tombstone).unwrap();
        assert!(store.tombstones().unwrap().is_empty());
    }
}
