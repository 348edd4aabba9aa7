//! The socket the CNI plugin calls: `<run-dir>/cni.sock`, root only.
//!
//! ```text
//! plugin ── Add ──► record "adding" on disk ─► IPAM ─► record with addresses ─► model ── Assigned ──► plugin plumbs
//! plugin ── Confirm ──► route in the kernel? ─► record "active" ── Done ──► result
//! plugin ── Del ──► record "releasing" ─► interface gone ─► IPAM release ─► record gone ── Done
//! ```
//!
//! Everything about one attachment happens one after the other; attachments do not wait for each other. Each step can
//! be the last before a crash: what an interrupted ADD left is released when its connection ends, or when the daemon
//! starts and finds the record still "adding". An address is given back only after its interface is gone.
//!
//! A DEL succeeds also while the datastore is away: the record stays, "releasing", and [`CniService::tend`] gives the
//! address back later. `tend` also honours the tombstones that plugins left while no daemon ran, and releases pods that
//! died without a DEL: namespace and host interface both gone, for longer than a minute.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use margay_cni::daemon::Tombstone;
use margay_cni::protocol::{AddRequest, Assigned, AttachmentId, MAX_LINE, Reply, Request};
use margay_cni::spec::{check_identifier, check_ifname, code, host_interface_name};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::accept::Failures;
use crate::endpoints::{Endpoint, EndpointStore, Phase, handle_id};
use crate::model::{Labels, Workload, WorkloadKey};

mod backend;

pub use backend::AgentBackend;

/// How long a confirmed pod may wait for its route. The kernel takes microseconds; seconds mean that something is
/// wrong, which the runtime should hear before it gives up by itself.
const ROUTE_WITHIN: Duration = Duration::from_secs(20);

/// The network name of design and of Calico's configurations, for containers whose record cannot be read.
const NETWORK: &str = "k8s-pod-network";

/// Why an attachment is to be released.
#[derive(Clone, Copy, Debug)]
enum Due {
    /// A DEL left a tombstone.
    Tombstone,
    /// A release did not come to its end.
    Unfinished,
    /// It looked dead in the phase that began then.
    Dead { since: u64 },
}

/// How long a pod must look dead before it is released without a DEL.
const DEAD_FOR: Duration = Duration::from_secs(60);

/// Why a request is refused, as CNI says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One of [`code`].
    pub code: u32,
    /// What failed.
    pub message: String,
    /// Why, and what would help.
    pub details: String,
}

impl Refusal {
    /// A refusal with its reason.
    pub fn new(code: u32, message: impl Into<String>, details: impl ToString) -> Self {
        Self {
            code,
            message: message.into(),
            details: details.to_string(),
        }
    }

    /// Whether asking again later may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.code == code::TRY_AGAIN_LATER
    }
}

impl From<Refusal> for Reply {
    fn from(r: Refusal) -> Self {
        Self::Error {
            code: r.code,
            message: r.message,
            details: r.details,
            context: BTreeMap::new(),
        }
    }
}

/// What every pod of the node gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodSettings {
    /// MTU of the pod's interface in octets.
    pub mtu: u32,
    /// Whether a pod may forward packets unless its network configuration says so.
    pub allow_ip_forwarding: bool,
}

/// What to give back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holding {
    /// Everything under the handle.
    Handle(String),
    /// Only these addresses of the handle: the container has another interface in the same network.
    Addresses(String, Vec<IpAddr>),
}

/// What the server needs of the rest of the daemon.
pub trait Backend: Send + Sync + 'static {
    /// Whether an ADD could succeed now.
    ///
    /// # Errors
    /// Why not: code 50 or 51 of the specification.
    fn ready(&self, ipv4: bool, ipv6: bool) -> Result<(), Refusal>;

    /// What every pod gets at the moment.
    fn pod_settings(&self) -> PodSettings;

    /// Records and returns one address for each family asked for, all or none.
    fn assign(
        &self,
        request: &AddRequest,
        handle: &str,
    ) -> impl Future<Output = Result<Vec<IpAddr>, Refusal>> + Send;

    /// Gives addresses back. What is not held is success.
    fn release(&self, holding: Holding) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Gives back whatever this node holds under the network's name besides the given handles. Returns how many.
    fn collect(
        &self,
        network: &str,
        live: BTreeSet<String>,
    ) -> impl Future<Output = Result<usize, Refusal>> + Send;

    /// Hands the node's pods to the model.
    fn publish(&self, workloads: BTreeMap<WorkloadKey, Workload>);

    /// Returns when the kernel holds the routes to the pod.
    fn routes_in_place(
        &self,
        endpoint: &Endpoint,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Deletes a host interface if it is there.
    fn remove_interface(&self, name: &str) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Whether a host interface is there.
    fn has_interface(&self, name: &str) -> impl Future<Output = Result<bool, Refusal>> + Send;

    /// Takes a request's duration down.
    fn observe(&self, verb: &'static str, succeeded: bool, took: Duration);
}

type Busy = Arc<tokio::sync::Mutex<()>>;

/// The server's state, shared by its connections.
#[derive(Debug)]
pub struct CniService<B> {
    backend: B,
    endpoints: Arc<Mutex<EndpointStore>>,
    busy: Mutex<HashMap<AttachmentId, Busy>>,
    /// Held for writing by GC, so that no ADD is half way while it compares with the runtime's list.
    collecting: tokio::sync::RwLock<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic while the lock was held left a map that is still a map.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

impl<B: Backend> CniService<B> {
    /// A service on the records of this node; hands the pods it finds to the model.
    pub fn new(backend: B, endpoints: EndpointStore) -> Self {
        let service = Self {
            backend,
            endpoints: Arc::new(Mutex::new(endpoints)),
            busy: Mutex::default(),
            collecting: tokio::sync::RwLock::default(),
        };
        service
            .backend
            .publish(workloads(&lock(&service.endpoints)));
        service
    }

    /// Handles of every record, whatever its phase, and of records that cannot be read: what IPAM must not take for
    /// leaked.
    pub fn handles(&self) -> BTreeSet<String> {
        let endpoints = lock(&self.endpoints);
        let mut handles: BTreeSet<String> =
            endpoints.all().values().map(|e| e.handle.clone()).collect();
        let mut networks: BTreeSet<&str> = endpoints
            .all()
            .values()
            .map(|e| e.network.as_str())
            .collect();
        networks.insert(NETWORK);
        for container in endpoints.unreadable_containers().unwrap_or_default() {
            handles.extend(
                networks
                    .iter()
                    .map(|network| handle_id(network, &container)),
            );
        }
        handles
    }

    /// Whether there are records that cannot be read, so that a route nobody asks for may be a pod's.
    pub fn has_unreadable(&self) -> bool {
        // A directory that cannot be listed is no reason to believe that all is well.
        lock(&self.endpoints)
            .unreadable_containers()
            .map_or(true, |containers| !containers.is_empty())
    }

    /// Changes the records on a thread that may wait for the disk, and hands the result to the model.
    async fn change<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut EndpointStore) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let endpoints = Arc::clone(&self.endpoints);
        let disk = |e: &dyn std::fmt::Display| {
            Refusal::new(
                code::IO_FAILURE,
                "cannot write the endpoint records of the node",
                e,
            )
        };
        let result = tokio::task::spawn_blocking(move || what(&mut lock(&endpoints)))
            .await
            .map_err(|e| disk(&e))?
            .map_err(|e| disk(&e))?;
        // Under the lock, so that an older list never follows a newer one.
        let endpoints = lock(&self.endpoints);
        self.backend.publish(workloads(&endpoints));
        Ok(result)
    }

    fn get(&self, attachment: &AttachmentId) -> Option<Endpoint> {
        lock(&self.endpoints).get(attachment).cloned()
    }

    /// Waits until nothing else is done about an attachment.
    async fn exclusively(&self, attachment: &AttachmentId) -> tokio::sync::OwnedMutexGuard<()> {
        let busy = {
            let mut all = lock(&self.busy);
            // Locks nobody holds or waits for are forgotten here rather than kept for every pod there ever was.
            all.retain(|_, busy| Arc::strong_count(busy) > 1);
            Arc::clone(all.entry(attachment.clone()).or_default())
        };
        busy.lock_owned().await
    }

    /// Answers one request. `open` are the attachments this connection has added and not yet confirmed.
    async fn answer(&self, request: Request, open: &mut BTreeSet<AttachmentId>) -> Reply {
        let started = Instant::now();
        let (verb, result) = match request {
            Request::Add(add) => {
                let attachment = add.attachment.clone();
                // From here on the end of the connection undoes whatever has been done.
                open.insert(attachment.clone());
                let result = self.add(*add).await;
                if result.is_err() {
                    open.remove(&attachment);
                }
                ("add", result.map(Reply::Assigned))
            }
            Request::Confirm { attachment } => {
                let result = self.confirm(&attachment).await;
                if result.is_ok() {
                    open.remove(&attachment);
                }
                ("confirm", result.map(|()| Reply::Done))
            }
            Request::Del {
                attachment,
                network,
            } => {
                open.remove(&attachment);
                (
                    "del",
                    self.del(&attachment, &network).await.map(|()| Reply::Done),
                )
            }
            Request::Check {
                attachment,
                addresses,
            } => (
                "check",
                self.check(&attachment, &addresses).map(|()| Reply::Done),
            ),
            Request::Gc { network, valid } => (
                "gc",
                self.gc(&network, &valid)
                    .await
                    .map(|released| Reply::Collected { released }),
            ),
            Request::Status {
                assign_ipv4,
                assign_ipv6,
            } => (
                "status",
                self.backend
                    .ready(assign_ipv4, assign_ipv6)
                    .map(|()| Reply::Done),
            ),
        };
        self.backend
            .observe(verb, result.is_ok(), started.elapsed());
        result.unwrap_or_else(|refusal| {
            info!(
                verb,
                code = refusal.code,
                message = refusal.message,
                details = refusal.details,
                "a plugin's request was refused"
            );
            refusal.into()
        })
    }

    async fn add(&self, request: AddRequest) -> Result<Assigned, Refusal> {
        check_attachment(&request.attachment)?;
        if let Err(not_ready) = self.backend.ready(request.assign_ipv4, request.assign_ipv6) {
            return Err(Refusal {
                code: code::TRY_AGAIN_LATER,
                ..not_ready
            });
        }
        let _no_gc = self.collecting.read().await;
        let _alone = self.exclusively(&request.attachment).await;

        // The plugin has seen that the container has no such interface: a record is a former attempt's, and so is a
        // tombstone, which must not be taken for this attempt's end later.
        let stale = self.get(&request.attachment).is_some()
            || !self.tombstones_of(&request.attachment).await?.is_empty();
        if stale {
            self.release(&request.attachment, &request.network).await?;
            if self.get(&request.attachment).is_some() {
                return Err(Refusal::new(
                    code::TRY_AGAIN_LATER,
                    "a former attempt to add this container is still being undone",
                    "its address cannot be given back yet",
                ));
            }
        }

        let settings = self.backend.pod_settings();
        let handle = handle_id(&request.network, &request.attachment.container_id);
        let mut endpoint = Endpoint {
            attachment: request.attachment.clone(),
            network: request.network.clone(),
            handle: handle.clone(),
            pod_namespace: request.pod_namespace.clone(),
            pod_name: request.pod_name.clone(),
            pod_uid: request.pod_uid.clone(),
            host_interface: host_interface_name(
                request.pod_namespace.as_deref(),
                request.pod_name.as_deref(),
                &request.attachment.container_id,
            ),
            netns: request.netns.clone(),
            addresses: Vec::new(),
            mtu: request.mtu.unwrap_or(settings.mtu),
            phase: Phase::Adding,
            since: now(),
        };
        let record = endpoint.clone();
        self.change(move |store| store.note(record)).await?;

        let outcome = match self.backend.assign(&request, &handle).await {
            Ok(addresses) => {
                endpoint.addresses = addresses;
                let mut endpoints = lock(&self.endpoints);
                endpoints.hold(endpoint.clone());
                self.backend.publish(workloads(&endpoints));
                Ok(())
            }
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = outcome {
            if let Err(e) = self.release(&request.attachment, &request.network).await {
                warn!(?e, handle, "a failed ADD could not be undone yet");
            }
            return Err(refusal);
        }
        debug!(handle, addresses = ?endpoint.addresses, interface = endpoint.host_interface, "a pod is being added");
        Ok(Assigned {
            addresses: endpoint.addresses,
            host_interface: endpoint.host_interface,
            mtu: endpoint.mtu,
            allow_ip_forwarding: settings.allow_ip_forwarding,
        })
    }

    async fn confirm(&self, attachment: &AttachmentId) -> Result<(), Refusal> {
        let _alone = self.exclusively(attachment).await;
        let endpoint = self
            .get(attachment)
            .filter(|e| e.phase != Phase::Releasing && !e.addresses.is_empty());
        let Some(endpoint) = endpoint else {
            return Err(Refusal::new(
                code::DAEMON_FAILED,
                "the daemon no longer knows of this ADD",
                "it was undone meanwhile",
            ));
        };
        match tokio::time::timeout(ROUTE_WITHIN, self.backend.routes_in_place(&endpoint)).await {
            Ok(result) => result?,
            Err(_) => {
                return Err(Refusal::new(
                    code::DAEMON_FAILED,
                    format!(
                        "the route to the pod is not in the kernel after {} s",
                        ROUTE_WITHIN.as_secs()
                    ),
                    format!(
                        "expected {:?} through {}; `margay explain` tells what is pending",
                        endpoint.addresses, endpoint.host_interface
                    ),
                ));
            }
        }
        let active = Endpoint {
            phase: Phase::Active,
            since: now(),
            ..endpoint
        };
        info!(pod = active.pod_name, namespace = active.pod_namespace, addresses = ?active.addresses, interface = active.host_interface, "pod added");
        self.change(move |store| store.put(active)).await
    }

    async fn del(&self, attachment: &AttachmentId, network: &str) -> Result<(), Refusal> {
        check_attachment(attachment)?;
        let _alone = self.exclusively(attachment).await;
        match self.release(attachment, network).await {
            // The record stays until the address is given back; the runtime need not wait for that.
            Err(refusal) if refusal.is_transient() => Ok(()),
            other => other,
        }
    }

    /// Gives back everything an attachment holds and forgets it. The caller has it exclusively.
    ///
    /// A transient error leaves the record in `Releasing` on disk, also where there was none: nothing is forgotten.
    async fn release(&self, attachment: &AttachmentId, network: &str) -> Result<(), Refusal> {
        let known = self.get(attachment);
        let endpoint = known.clone().unwrap_or_else(|| Endpoint {
            attachment: attachment.clone(),
            network: network.to_owned(),
            handle: handle_id(network, &attachment.container_id),
            pod_namespace: None,
            pod_name: None,
            pod_uid: None,
            host_interface: String::new(),
            netns: String::new(),
            addresses: Vec::new(),
            mtu: 0,
            phase: Phase::Releasing,
            since: now(),
        });
        if known.as_ref().is_some_and(|e| e.phase != Phase::Releasing) {
            let releasing = Endpoint {
                phase: Phase::Releasing,
                since: now(),
                ..endpoint.clone()
            };
            self.change(move |store| store.put(releasing)).await?;
        }
        let taken_over = lock(&self.endpoints)
            .owner_of_interface(&endpoint.host_interface, attachment)
            .is_some();
        if !endpoint.host_interface.is_empty() && !taken_over {
            self.backend
                .remove_interface(&endpoint.host_interface)
                .await?;
        }
        let shared = lock(&self.endpoints).all().values().any(|e| {
            e.handle == endpoint.handle
                && &e.attachment != attachment
                && e.phase != Phase::Releasing
        });
        let holding = if shared {
            Holding::Addresses(endpoint.handle.clone(), endpoint.addresses.clone())
        } else {
            Holding::Handle(endpoint.handle.clone())
        };
        if let Err(refusal) = self.backend.release(holding).await {
            if known.is_none() && refusal.is_transient() {
                let record = endpoint.clone();
                self.change(move |store| store.put(record)).await?;
            }
            return Err(refusal);
        }
        let tombstones = self.tombstones_of(attachment).await?;
        let gone = attachment.clone();
        self.change(move |store| {
            store.remove(&gone)?;
            tombstones.iter().try_for_each(|t| store.bury(t))
        })
        .await?;
        debug!(handle = endpoint.handle, addresses = ?endpoint.addresses, "released");
        Ok(())
    }

    async fn tombstones_of(&self, attachment: &AttachmentId) -> Result<Vec<Tombstone>, Refusal> {
        let mut all = self.tombstones().await?;
        all.retain(|t| &t.attachment == attachment);
        Ok(all)
    }

    async fn tombstones(&self) -> Result<Vec<Tombstone>, Refusal> {
        let endpoints = Arc::clone(&self.endpoints);
        let disk = |e: &dyn std::fmt::Display| {
            Refusal::new(
                code::IO_FAILURE,
                "cannot read the tombstones of the node",
                e,
            )
        };
        tokio::task::spawn_blocking(move || lock(&endpoints).tombstones())
            .await
            .map_err(|e| disk(&e))?
            .map_err(|e| disk(&e))
    }

    fn check(&self, attachment: &AttachmentId, addresses: &[IpAddr]) -> Result<(), Refusal> {
        let differs =
            |message: &str, details: String| Refusal::new(code::CHECK_FAILED, message, details);
        let endpoint = self
            .get(attachment)
            .filter(|e| e.phase == Phase::Active)
            .ok_or_else(|| {
                differs(
                    "the daemon does not know this container",
                    format!("{attachment:?}"),
                )
            })?;
        let known: BTreeSet<_> = endpoint.addresses.iter().collect();
        if known == addresses.iter().collect() {
            return Ok(());
        }
        Err(differs(
            "the container's addresses differ",
            format!("recorded {known:?}, given {addresses:?}"),
        ))
    }

    async fn gc(&self, network: &str, valid: &[AttachmentId]) -> Result<usize, Refusal> {
        let _alone = self.collecting.write().await;
        let valid: BTreeSet<_> = valid.iter().collect();
        let dead: Vec<_> = lock(&self.endpoints)
            .all()
            .values()
            // An ADD whose plugin still plumbs is not in the runtime's list yet; its connection's end undoes it.
            .filter(|e| {
                e.network == network && e.phase != Phase::Adding && !valid.contains(&e.attachment)
            })
            .map(|e| e.attachment.clone())
            .collect();
        let mut released = 0;
        let mut first_error = None;
        for attachment in dead {
            let _alone = self.exclusively(&attachment).await;
            match self.release(&attachment, network).await {
                Ok(()) => released += 1,
                Err(e) => {
                    first_error.get_or_insert(e);
                }
            }
        }
        // What the runtime lists is alive also where no record of it is here: another plugin added it before margay came.
        let mut live = self.handles();
        live.extend(
            valid
                .iter()
                .map(|attachment| handle_id(network, &attachment.container_id)),
        );
        released += self.backend.collect(network, live).await?;
        first_error.map_or(Ok(released), Err)
    }

    /// Undoes what a plugin that is gone had begun.
    async fn abandon(&self, open: BTreeSet<AttachmentId>) {
        for attachment in open {
            let _alone = self.exclusively(&attachment).await;
            let Some(endpoint) = self.get(&attachment).filter(|e| e.phase == Phase::Adding) else {
                continue;
            };
            info!(
                handle = endpoint.handle,
                "a plugin went away in the middle of an ADD"
            );
            if let Err(e) = self.release(&attachment, &endpoint.network).await {
                warn!(
                    ?e,
                    handle = endpoint.handle,
                    "what a plugin left cannot be released yet"
                );
            }
        }
    }

    /// What the daemon does once when it starts: every ADD that was under way has lost its connection.
    pub async fn recover(&self) {
        let adding: BTreeSet<_> = lock(&self.endpoints)
            .all()
            .values()
            .filter(|e| e.phase == Phase::Adding)
            .map(|e| e.attachment.clone())
            .collect();
        self.abandon(adding).await;
        self.tend().await;
    }

    /// What the daemon does again and again: finishes releases, honours tombstones, notices pods that died unheard.
    pub async fn tend(&self) {
        let mut due: BTreeMap<AttachmentId, (String, Due)> = BTreeMap::new();
        match self.tombstones().await {
            Ok(tombstones) => {
                let each = |t: Tombstone| (t.attachment, (t.network, Due::Tombstone));
                due.extend(tombstones.into_iter().map(each));
            }
            Err(e) => warn!(?e, "tombstones cannot be read"),
        }
        let (releasing, active): (Vec<_>, Vec<_>) = lock(&self.endpoints)
            .all()
            .values()
            .filter(|e| e.phase != Phase::Adding)
            .cloned()
            .partition(|e| e.phase == Phase::Releasing);
        let unfinished = |e: Endpoint| (e.attachment, (e.network, Due::Unfinished));
        due.extend(releasing.into_iter().map(unfinished));
        for endpoint in active {
            let settled = now().saturating_sub(endpoint.since) > DEAD_FOR.as_secs();
            if settled && self.is_dead(&endpoint).await {
                warn!(pod = endpoint.pod_name, addresses = ?endpoint.addresses, "a pod died without a DEL");
                let reason = Due::Dead {
                    since: endpoint.since,
                };
                due.insert(endpoint.attachment, (endpoint.network, reason));
            }
        }
        for (attachment, (network, reason)) in due {
            let _alone = self.exclusively(&attachment).await;
            // The attachment may have been added anew while others were released.
            let still = match reason {
                Due::Tombstone => !self
                    .tombstones_of(&attachment)
                    .await
                    .is_ok_and(|left| left.is_empty()),
                Due::Unfinished => self
                    .get(&attachment)
                    .is_some_and(|e| e.phase == Phase::Releasing),
                Due::Dead { since } => self
                    .get(&attachment)
                    .is_some_and(|e| e.phase == Phase::Active && e.since == since),
            };
            if still && let Err(e) = self.release(&attachment, &network).await {
                warn!(?e, ?attachment, "cannot be released yet");
            }
        }
    }

    /// Both signs of life are gone. Either alone may be a mount not visible to the daemon, or a link being moved.
    async fn is_dead(&self, endpoint: &Endpoint) -> bool {
        let netns = endpoint.netns.clone();
        let no_namespace = tokio::task::spawn_blocking(move || {
            matches!(std::fs::symlink_metadata(&netns), Err(e) if e.kind() == io::ErrorKind::NotFound)
        })
        .await
        .unwrap_or(false);
        no_namespace
            && matches!(
                self.backend.has_interface(&endpoint.host_interface).await,
                Ok(false)
            )
    }

    /// Serves the socket until told to stop; then lets requests under way end.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub async fn serve(self: Arc<Self>, path: &Path, stop: CancellationToken) -> io::Result<()> {
        let listener = bind(path)?;
        let connections = TaskTracker::new();
        let mut failures = Failures::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let (service, stop) = (Arc::clone(&self), stop.clone());
                        connections.spawn(async move { service.converse(stream, stop).await });
                    }
                    Err(e) => failures.pause("plugins", &e).await,
                },
            }
        }
        connections.close();
        connections.wait().await;
        Ok(())
    }

    async fn converse(&self, stream: UnixStream, stop: CancellationToken) {
        let mut open = BTreeSet::new();
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read.take(MAX_LINE));
        loop {
            let mut line = Vec::new();
            // Cancel-safe: where `stop` wins the connection ends and a half-read request with it.
            let read = tokio::select! {
                () = stop.cancelled(), if open.is_empty() => break,
                read = lines.read_until(b'\n', &mut line) => read,
            };
            if !matches!(read, Ok(1..)) || line.last() != Some(&b'\n') {
                break;
            }
            lines.get_mut().set_limit(MAX_LINE);
            let reply = match serde_json::from_slice::<Request>(&line) {
                Ok(request) => self.answer(request, &mut open).await,
                Err(e) => Refusal::new(
                    code::DECODING_FAILURE,
                    "the daemon cannot read the plugin's request",
                    e,
                )
                .into(),
            };
            let Ok(mut text) = serde_json::to_vec(&reply) else {
                break;
            };
            text.push(b'\n');
            if write.write_all(&text).await.is_err() {
                break;
            }
        }
        self.abandon(open).await;
    }
}

fn check_attachment(attachment: &AttachmentId) -> Result<(), Refusal> {
    check_identifier("container ID", &attachment.container_id)
        .and_then(|()| check_ifname(&attachment.ifname))
        .map_err(|e| Refusal::new(e.code, e.msg, e.details))
}

/// Makes the socket, mode 0600. A socket file that nobody listens on any more is replaced.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("another daemon answers on {}", path.display()),
        ));
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The pods that should have routes: all that have addresses and are not on their way out.
fn workloads(endpoints: &EndpointStore) -> BTreeMap<WorkloadKey, Workload> {
    endpoints
        .all()
        .values()
        .filter(|e| e.phase != Phase::Releasing && !e.addresses.is_empty())
        .map(|e| {
            let key = WorkloadKey {
                container_id: e.attachment.container_id.clone(),
                ifname: e.attachment.ifname.clone(),
            };
            let workload = Workload {
                key: key.clone(),
                namespace: e.pod_namespace.clone().unwrap_or_default(),
                pod: e.pod_name.clone().unwrap_or_default(),
                labels: Labels::default(),
                host_interface: e.host_interface.clone(),
                addresses: e.addresses.clone(),
                netns: e.netns.clone().into(),
                handle_id: e.handle.clone(),
            };
            (key, workload)
        })
        .collect()
}

#[cfg(test)]
mod tests;
