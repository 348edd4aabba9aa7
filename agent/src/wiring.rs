//! Config → build → run → drain of `margay agent`.
//!
//! ```text
//! datastore ─► watch ─┐                        ┌─► dataplane ─► kernel
//! endpoints ─► cni ───┴─► cluster ─► routing ──┤
//!               │            │                 └─► speaker ─► peers
//!               └─► ipam ◄───┘   admin, control: look at all of them
//! ```
//!
//! The end: the plugin's socket closes first (what it began is finished), then routing closes the sessions without a word, then
//! the dataplane stops. Forwarding stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, DatastoreKind};
use crate::datastore::Store;
use crate::endpoints::EndpointStore;
use crate::health::{Health, Latch};
use crate::ipam::{CollectRequest, Ipam, IpamOptions, TunnelKind};
use crate::kernel::netlink::{Netlink, NetlinkOptions};
use crate::kernel::{Kernel as _, KernelError, MAIN_TABLE, RouteFilter};
use crate::metrics::Metrics;
use crate::model::{ClusterState, IpPool, Node};
use crate::reconcile::{Dataplane, DataplaneConfig};
use crate::router::holds_our_routes;
use crate::routing::{self, RoutingParts};
use crate::server::admin::{self, Scrape};
use crate::server::cni::{AgentBackend, CniService};
use crate::server::control::{self, AgentParts, Control};
use crate::watch::{WatchOptions, Workloads};

/// How long a loop may be silent before `/livez` says so.
const SILENCE: Duration = Duration::from_secs(90);
/// How often releases are finished and the dead are looked for.
const TEND_INTERVAL: Duration = Duration::from_secs(10);
/// How often leaked addresses and empty blocks are looked for.
const COLLECT_INTERVAL: Duration = Duration::from_secs(300);
/// How long a handle must have looked dead before its addresses are released.
const COLLECT_GRACE: Duration = Duration::from_secs(900);
/// How long to wait before tunnel addresses are tried again, and looked at when nothing happened.
const TUNNEL_RETRY: Duration = Duration::from_secs(5);
const TUNNEL_INTERVAL: Duration = Duration::from_secs(60);
/// How long the end may take: less than the time a container is given.
const DRAIN: Duration = Duration::from_secs(8);

/// Runs the daemon of a node until SIGTERM or SIGINT. SIGHUP does nothing: it follows what it is configured by.
///
/// # Errors
/// Something without which a node cannot be run could not be had: the kernel, the state directory, a socket. A datastore that is
/// away is waited for.
pub async fn agent(config: Config) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tracing::info!(
        node = config.node_name,
        version = env!("CARGO_PKG_VERSION"),
        "margay starts"
    );
    let started = Instant::now();
    let health = Health::default();
    let latches = Latches::new(&health);
    let metrics = Metrics::new().context("metrics")?;
    // Each part of the daemon ends with the token of its stage, last built first ended.
    let (plugin_stop, routing_stop, stop) = (
        CancellationToken::new(),
        CancellationToken::new(),
        CancellationToken::new(),
    );
    let tasks = TaskTracker::new();

    std::fs::create_dir_all(&config.state_dir).with_context(|| {
        format!(
            "cannot make the state directory {}",
            config.state_dir.display()
        )
    })?;
    let _alone = lock_state(&config.state_dir)?;
    let (endpoints, unreadable) = EndpointStore::open(&config.state_dir).with_context(|| {
        format!(
            "cannot read the endpoints in {}",
            config.state_dir.display()
        )
    })?;
    let unexplained = Arc::new(AtomicBool::new(!unreadable.is_empty()));
    for file in unreadable {
        tracing::error!(path = %file.path.display(), reason = file.reason, "an endpoint's record cannot be read");
    }

    let kernel = Netlink::open(NetlinkOptions::default()).context("cannot speak to the kernel")?;
    let restarting = holds_our_routes(&kernel, config.route_protocol).await?;
    let store = connect_store(&config.datastore)?;
    let (workloads, workloads_seen) = watch::channel(Workloads::default());
    let options = WatchOptions {
        state_dir: Some(config.state_dir.clone()),
        ..WatchOptions::new(config.node_name.as_str())
    };
    let (cluster, mut watcher) =
        crate::watch::spawn(store.clone(), options, workloads_seen, stop.clone());

    let (desired, wanted) = watch::channel(None);
    // What else it goes by comes with the desired state.
    let dataplane_config = DataplaneConfig {
        protocol: config.route_protocol,
        ..DataplaneConfig::default()
    };
    let (dataplane, mut writer) = Dataplane::spawn(kernel, dataplane_config, wanted, stop.clone())
        .context("cannot follow the kernel")?;
    // A second pair of sockets to look with, so that a question never waits behind a batch of routes.
    let looking = Arc::new(
        Netlink::open(NetlinkOptions {
            event_buffer: 64 * 1024,
            ..NetlinkOptions::default()
        })
        .context("cannot speak to the kernel")?,
    );
    let records = store.clone();
    let (ipam, mut records_task) = Ipam::spawn(
        store,
        config.node_name.as_str(),
        cluster.clone(),
        IpamOptions::default(),
    );

    let (routing, mut router) = routing::spawn(
        RoutingParts {
            cluster: cluster.clone(),
            underlay: dataplane.underlay(),
            desired,
            protocol: config.route_protocol,
            restarting,
            unexplained: Arc::clone(&unexplained),
            seed: rand::random(),
            heartbeat: health.heartbeat("routing", SILENCE),
            speaker_ready: latches.speaker.clone(),
            metrics: metrics.clone(),
        },
        routing_stop.clone(),
    );

    let backend = AgentBackend {
        node_name: config.node_name.clone(),
        ipam: ipam.clone(),
        cluster: cluster.clone(),
        underlay: dataplane.underlay(),
        dataplane: dataplane.clone(),
        workloads,
        seconds: metrics.cni_seconds.clone(),
    };
    let cni = Arc::new(CniService::new(backend, endpoints));
    let mut tending = tokio::spawn(tend(
        Arc::clone(&cni),
        unexplained,
        ipam.clone(),
        Arc::clone(&looking),
        cluster.clone(),
        plugin_stop.clone(),
    ));
    let mut tunnels = tokio::spawn(tunnel_addresses(ipam, cluster.clone(), plugin_stop.clone()));
    tasks.spawn(release_latches(
        latches,
        cluster.clone(),
        dataplane.clone(),
        stop.clone(),
    ));

    let control = Arc::new(Control {
        name: config.node_name.clone(),
        started,
        health: health.clone(),
        routing: routing.clone(),
        agent: Some(AgentParts {
            cluster: cluster.clone(),
            dataplane: dataplane.clone(),
            kernel: looking,
            store: records,
        }),
    });
    let listener = control::bind(&config.control_socket())?;
    tasks.spawn(control::serve(control, listener, stop.clone()));
    let scrape = Scrape {
        metrics,
        routing,
        dataplane,
        cluster,
    };
    tasks.spawn(admin::serve(config.clone(), scrape, health, stop.clone()));
    let socket = config.cni_socket();
    let mut plugin_server = tokio::spawn({
        let (cni, stop) = (Arc::clone(&cni), plugin_stop.clone());
        async move { cni.serve(&socket, stop).await }
    });

    let failed = loop {
        break tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        Some(()) = hangup.recv() => {
            tracing::info!("SIGHUP: there is no file to read again, what the datastore says is followed as it changes");
            continue;
        }
        ended = &mut plugin_server => Some(match ended {
            Ok(Ok(())) => "the plugin's socket closed".to_owned(),
            Ok(Err(error)) => format!("the plugin's socket cannot be served: {error}"),
            Err(error) => format!("the plugin's server: {error}"),
        }),
        // A node without one of these looks well and is not: whoever runs the daemon starts it again.
        ended = &mut watcher => Some(unasked("the datastore's watch", ended)),
        ended = &mut writer => Some(unasked("the dataplane", ended)),
        ended = &mut router => Some(unasked("routing", ended)),
        ended = &mut records_task => Some(unasked("address management", ended)),
        ended = &mut tending => Some(unasked("the care for pods", ended)),
        ended = &mut tunnels => Some(unasked("the care for tunnel addresses", ended)),
        };
    };
    tracing::info!("stopping; forwarding stays as it is");
    let drain = async {
        plugin_stop.cancel();
        if !plugin_server.is_finished() {
            let _ = plugin_server.await;
        }
        finish(tending).await;
        finish(tunnels).await;
        routing_stop.cancel();
        finish(router).await;
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        finish(writer).await;
        finish(watcher).await;
    };
    if tokio::time::timeout(DRAIN, drain).await.is_err() {
        tracing::warn!("not everything ended in time");
    }
    match failed {
        None => Ok(()),
        Some(reason) => bail!(reason),
    }
}

/// Why the daemon ends when a part of it has ended by itself.
fn unasked(part: &str, ended: Result<(), JoinError>) -> String {
    match ended {
        Ok(()) => format!("{part} ended unasked"),
        Err(error) => format!("{part} broke off: {error}"),
    }
}

/// Waits for a task; one that has been waited for already must not be again.
async fn finish(task: JoinHandle<()>) {
    if !task.is_finished() {
        let _ = task.await;
    }
}

/// Reads the cluster as a node sees it, once.
///
/// # Errors
/// The datastore cannot be read.
pub async fn read_cluster(datastore: &DatastoreKind, node_name: &str) -> Result<ClusterState> {
    let store = connect_store(datastore)?;
    Ok(crate::watch::read_once(&store, &WatchOptions::new(node_name)).await?)
}

/// The datastore, which may be away: it is asked again and again, and the saved view stands in.
fn connect_store(datastore: &DatastoreKind) -> Result<Store> {
    match datastore {
        DatastoreKind::Directory(path) => Store::connect_directory(path)
            .with_context(|| format!("cannot follow the datastore directory {}", path.display())),
        DatastoreKind::Kubernetes => {
            bail!("the kubernetes datastore is not built yet; use directory:PATH")
        }
    }
}

struct Latches {
    datastore: Latch,
    kernel: Latch,
    speaker: Latch,
}

impl Latches {
    fn new(health: &Health) -> Self {
        Self {
            datastore: health.latch("datastore"),
            kernel: health.latch("kernel"),
            speaker: health.latch("speaker"),
        }
    }
}

async fn release_latches(
    latches: Latches,
    mut cluster: watch::Receiver<Arc<ClusterState>>,
    dataplane: Dataplane,
    stop: CancellationToken,
) {
    let mut status = dataplane.status();
    let work = async {
        if cluster
            .wait_for(|cluster| cluster.in_sync || cluster.from_saved_view)
            .await
            .is_ok()
        {
            latches.datastore.release();
        }
        if status.wait_for(|status| status.started).await.is_ok() {
            latches.kernel.release();
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// Addresses that have a route to a pod's interface, whoever made it: Calico's pods outlive the change to margay.
pub(crate) async fn addresses_in_use(kernel: &Netlink) -> Result<BTreeSet<IpAddr>, KernelError> {
    let routes = kernel.routes(RouteFilter::table(MAIN_TABLE)).await?;
    Ok(routes
        .into_iter()
        .filter(|(key, route)| {
            key.prefix.is_host()
                && route.next_hops.iter().any(|hop| {
                    hop.interface
                        .as_deref()
                        .is_some_and(|name| name.starts_with("cali"))
                })
        })
        .map(|(key, _)| key.prefix.addr())
        .collect())
}

/// Makes sure that this is the only agent on its state: a second one would write the same records, blocks and routes.
/// The kernel takes the lock away with the process, however that ends.
fn lock_state(state_dir: &Path) -> Result<Flock<File>> {
    let path = state_dir.join("lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        anyhow!(
            "cannot lock {} ({errno}): is another margay agent running on this state directory?",
            path.display()
        )
    })
}

/// Finishes what crashes and absent daemons left, again and again.
async fn tend(
    cni: Arc<CniService<AgentBackend>>,
    unexplained: Arc<AtomicBool>,
    ipam: Ipam,
    kernel: Arc<Netlink>,
    mut cluster: watch::Receiver<Arc<ClusterState>>,
    stop: CancellationToken,
) {
    let work = async {
        if cluster
            .wait_for(|cluster| cluster.in_sync || cluster.from_saved_view)
            .await
            .is_err()
        {
            return;
        }
        cni.recover().await;
        let mut tend = tokio::time::interval(TEND_INTERVAL);
        let mut collect = tokio::time::interval(COLLECT_INTERVAL);
        loop {
            tokio::select! {
                _ = tend.tick() => {
                    cni.tend().await;
                    unexplained.store(cni.has_unreadable(), Ordering::Relaxed);
                }
                _ = collect.tick() => {
                    let collected = match addresses_in_use(&kernel).await {
                        Ok(in_use) => {
                            let live = cni.handles();
                            ipam.collect(CollectRequest { live, in_use, network: None, grace: COLLECT_GRACE }).await
                        }
                        Err(error) => {
                            tracing::warn!(%error, "pods' routes could not be read: leaked addresses are not looked for now");
                            continue;
                        }
                    };
                    match collected {
                        Ok(collected) if !collected.released.is_empty() => {
                            tracing::info!(addresses = ?collected.released, "released addresses nobody uses");
                        }
                        Ok(_) => {}
                        Err(error) => tracing::warn!(%error, "leaked addresses could not be looked for"),
                    }
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// Keeps the node's tunnel addresses as the pools ask for.
async fn tunnel_addresses(
    ipam: Ipam,
    mut cluster: watch::Receiver<Arc<ClusterState>>,
    stop: CancellationToken,
) {
    let work = async {
        let mut seen: Option<(BTreeMap<String, IpPool>, Option<Node>)> = None;
        loop {
            let now = cluster.borrow_and_update().clone();
            let concerns = (now.pools.clone(), now.own_node().cloned());
            let mut next = TUNNEL_INTERVAL;
            if now.in_sync
                && !now.from_saved_view
                && concerns.1.is_some()
                && seen.as_ref() != Some(&concerns)
            {
                let mut done = true;
                for kind in TunnelKind::ALL {
                    if let Err(error) = ipam.ensure_tunnel_address(kind).await {
                        tracing::warn!(?kind, %error, "no tunnel address");
                        done = false;
                    }
                }
                seen = done.then_some(concerns);
                if !done {
                    next = TUNNEL_RETRY;
                }
            }
            tokio::select! {
                changed = cluster.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(next) => seen = None,
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}
