//! The speaker on tokio sockets.
//!
//! ```text
//!   SpeakerHandle ──commands──►┌────────────────┐──SpeakerEvent──► whoever forwards packets
//!   listener tasks ──accepted─►│     driver     │
//!   connection tasks ─reports─►│ owns `Speaker` │──chunks, contexts, ends──► connection tasks
//!                   attention ►└────────────────┘
//! ```
//!
//! One task, the driver, owns the [`Speaker`] and with it every table; nothing is shared but the queues at its edges, all of
//! them bounded. [`start`] gives all of this a thread of its own, so that no message between driver and connections wakes another
//! thread: on the way of one small update that would cost more than everything else the speaker does. Each TCP connection is a
//! task that frames, decodes, writes and keeps the session alive. See `driver.rs` for the order of things in a round, `bfd.rs` for
//! the thread that watches paths, `connection.rs` for back pressure in both directions, `sockopt.rs` for what sockets are set to,
//! `links.rs` and `discovery.rs` for peers on links.
//!
//! Bounds, and what happens at them:
//! - messages of a peer: two batches of at most 64 KiB of octets; then TCP slows the peer down;
//! - octets to a peer: what the speaker allows itself before the kernel took them ([`Speaker::handle_written`]);
//! - events: a few dozen, of a few thousand changes each; then changes are joined by prefix inside the speaker;
//! - news of paths (BFD): 256; then they are joined by peer;
//! - connections accepted and not looked at: 256; then they wait in the kernel;
//! - descriptors: what [`descriptors`] says.

mod bfd;
mod bfd_socket;
mod collector;
mod connection;
mod discovery;
mod driver;
mod links;
mod listener;
mod rtnetlink;
mod scheduling;
mod sockopt;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use self::driver::{Driver, FAREWELLS, Inboxes, Outboxes};
use self::links::Links;
use self::listener::Listeners;
use self::sockopt::Signature;
use crate::family::Family;
use crate::fsm::State;
use crate::rib::{NextHopInterest, NextHopState, RouteChange};
use crate::speaker::config::{ConfigError, Listen, PeerConfig, Remote, SpeakerConfig};
use crate::speaker::events::PeerEvent;
use crate::speaker::snapshot::{RouteInfo, RouteQuery, SpeakerSnapshot};
use crate::speaker::{Clear, Speaker, SpeakerShutdown};

/// Commands that may wait: they come from people and from configuration, never from peers.
const COMMANDS: usize = 16;

/// Reports that may wait: a thousand connections with two batches each are rarely all busy, and one that finds no room waits
/// with its octets left in the kernel.
const REPORTS: usize = 512;

/// News of BMP collectors that may wait; their tasks wait with them.
const COLLECTORS: usize = 8;

/// Accepted connections that may wait.
const ACCEPTED: usize = 256;

/// What a speaker needs beyond its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpeakerOptions {
    /// Feeds jitter and hashing. Two speakers with one seed retry in step, so give each its own.
    pub seed: u64,
    /// Events that may wait for the receiver.
    pub events: usize,
    /// Whether changes of routes are told at all. A speaker that forwards nothing, a pure reflector, saves the work.
    pub report_routes: bool,
}

impl Default for SpeakerOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            events: 32,
            report_routes: true,
        }
    }
}

/// News for whoever forwards packets and whoever watches.
#[derive(Clone, Debug)]
pub enum SpeakerEvent {
    /// These prefixes are routed differently now; each change is the latest state of its prefix.
    Routes(Vec<RouteChange>),
    /// A table is complete for the first time: routes of an earlier life that were not among the changes may be removed.
    TableComplete(Family),
    /// Questions about next hops, for [`SpeakerHandle::next_hops`] to answer; only while they are
    /// [tracked](SpeakerConfig::next_hop_tracking).
    NextHops(Vec<NextHopInterest>),
    /// A neighbour's state changed. Changes that found no room are joined.
    PeerStateChanged {
        /// Its name.
        name: Arc<str>,
        /// Before.
        from: State,
        /// Now.
        to: State,
    },
}

/// Why a speaker cannot run as configured.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration contradicts itself; nothing of it was taken.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened on. Where the speaker runs already, all else of the configuration is in force.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address, with its device and namespace.
        address: Box<Listen>,
        /// What the kernel says.
        source: io::Error,
    },
    /// There is no thread for it.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The speaker has ended.
    #[error(transparent)]
    Ended(#[from] Ended),
}

/// The speaker's task has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the speaker has ended")]
pub struct Ended;

/// Something asked of the driver.
#[derive(Debug)]
enum Command {
    Configure(Box<SpeakerConfig>, oneshot::Sender<Result<(), StartError>>),
    Snapshot(oneshot::Sender<SpeakerSnapshot>),
    Routes(RouteQuery, oneshot::Sender<Vec<RouteInfo>>),
    Uncovered(
        BTreeSet<String>,
        BTreeSet<String>,
        oneshot::Sender<BTreeSet<String>>,
    ),
    Events(u64, oneshot::Sender<Vec<PeerEvent>>),
    Addresses(oneshot::Sender<Vec<SocketAddr>>),
    Clear(String, Clear, Option<String>, oneshot::Sender<bool>),
    NextHops(Vec<NextHopState>, oneshot::Sender<()>),
    Shutdown(SpeakerShutdown, oneshot::Sender<()>),
}

/// Speaks to a running speaker. When the last handle is dropped the speaker closes its sessions without a word and ends.
#[derive(Clone, Debug)]
pub struct SpeakerHandle {
    commands: mpsc::Sender<Command>,
    latest_event: watch::Receiver<u64>,
}

/// Starts a speaker on the current runtime. Its task ends after [`SpeakerHandle::shutdown`] or when every handle is dropped.
///
/// # Errors
/// The configuration contradicts itself, or no address can be listened on; nothing runs then. With one of several the speaker runs,
/// and tries the others again; [`SpeakerHandle::configure`] with the same configuration tells whether some are missing.
#[expect(
    clippy::unused_async,
    reason = "must be called on a runtime, and callers may count on it being allowed to wait"
)]
pub async fn spawn(
    config: SpeakerConfig,
    options: SpeakerOptions,
) -> Result<(SpeakerHandle, mpsc::Receiver<SpeakerEvent>, JoinHandle<()>), StartError> {
    let (driver, inboxes, handle, events) = build(config, options)?;
    let join = tokio::spawn(driver.run(inboxes));
    Ok((handle, events, join))
}

/// Everything [`spawn`] starts, and nothing of it running but the listeners.
fn build(
    config: SpeakerConfig,
    options: SpeakerOptions,
) -> Result<(Driver, Inboxes, SpeakerHandle, mpsc::Receiver<SpeakerEvent>), StartError> {
    config.validate()?;
    let tasks = TaskTracker::new();
    let (reports, reports_taken) = mpsc::channel(REPORTS);
    let (accepted, accepted_taken) = mpsc::channel(ACCEPTED);
    let (commands, commands_taken) = mpsc::channel(COMMANDS);
    let (events, events_taken) = mpsc::channel(options.events.max(1));
    let mut listeners = Listeners::new(accepted, tasks.clone());
    let mut links = Links::new(tasks.clone());
    links.configure(&config);
    let resolved = links.resolve(&config);
    if let Err((address, source)) = listeners.configure(&resolved) {
        if !listeners.any() {
            return Err(StartError::Listen {
                address: Box::new(address),
                source,
            });
        }
        tracing::warn!(%address, error = %source, "cannot listen, and tries again");
    }
    let mut speaker = Speaker::new(resolved, options.seed, driver::now());
    speaker.report_routes(options.report_routes);
    let (paths, paths_told) = mpsc::channel(bfd::REPORTS);
    let paths = bfd::Paths::new(options.seed, paths);
    let (latest_event, event_seen) = watch::channel(0);
    let (collectors, collectors_told) = mpsc::channel(COLLECTORS);
    let outboxes = Outboxes {
        reports,
        events,
        latest_event,
        collectors,
    };
    let driver = Driver::new(speaker, config, links, listeners, paths, tasks, outboxes);
    let inboxes = Inboxes {
        collectors: collectors_told,
        reports: reports_taken,
        accepted: accepted_taken,
        commands: commands_taken,
        paths: paths_told,
    };
    let handle = SpeakerHandle {
        commands,
        latest_event: event_seen,
    };
    Ok((driver, inboxes, handle, events_taken))
}

/// Whether this kernel takes the keys that a peer is configured with, TCP-MD5 or TCP-AO.
///
/// # Errors
/// What the kernel says; [`io::ErrorKind::Unsupported`], with what it lacks, where it has no such signature.
pub fn try_keys(peer: &PeerConfig) -> io::Result<()> {
    sockopt::try_keys(peer)
}

/// What `net.core.optmem_max` has to be at least for the keys of every peer to find room on one listener, in octets.
#[must_use]
pub fn option_memory(config: &SpeakerConfig) -> u64 {
    let keys = config.peers.iter().map(|peer| Signature::of(peer).count());
    sockopt::option_memory_of(keys.sum())
}

/// How many descriptors a speaker of this configuration may hold at once.
#[must_use]
pub fn descriptors(config: &SpeakerConfig) -> u64 {
    // Of the runtime and of threads, for namespaces entered and counters read meanwhile.
    const OTHERS: usize = 64;
    let of_peer = |peer: &PeerConfig| match peer.remote {
        Remote::Range(_) => peer.dynamic_limit,
        // One each way, until one of them goes.
        Remote::Address(_) | Remote::Unnumbered(_) => 2 + usize::from(peer.bfd.is_some()),
    };
    let fixed = ACCEPTED + FAREWELLS + OTHERS + config.monitoring.len();
    let counts = config.peers.iter().map(of_peer);
    // A listener is held by its task, and for its keys.
    let all = counts.fold(fixed + 2 * config.listen.len(), usize::saturating_add);
    u64::try_from(all).unwrap_or(u64::MAX)
}

/// As [`spawn`], on a thread of its own: what a daemon wants, whose other work then never stands between a peer and its answer.
/// The task returned ends with the speaker, and panics if that did.
///
/// # Errors
/// As [`spawn`], or no thread can be had.
pub async fn start(
    config: SpeakerConfig,
    options: SpeakerOptions,
) -> Result<(SpeakerHandle, mpsc::Receiver<SpeakerEvent>, JoinHandle<()>), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Thread)?;
    let (started, starting) = oneshot::channel();
    let (ended, ending) = oneshot::channel();
    let life = async move {
        match spawn(config, options).await {
            Ok((handle, events, task)) => {
                // Where nobody waits any more the handle is dropped here, and the speaker ends.
                drop(started.send(Ok((handle, events))));
                drop(ended.send(task.await));
            }
            Err(error) => drop(started.send(Err(error))),
        }
    };
    std::thread::Builder::new()
        .name("speaker".to_owned())
        .spawn(move || {
            let scheduling = scheduling::favour();
            tracing::info!(?scheduling, "the speaker runs");
            runtime.block_on(life);
        })
        .map_err(StartError::Thread)?;
    let (handle, events) = starting.await.map_err(|_| Ended)??;
    let join = tokio::spawn(async move {
        if let Ok(Err(failed)) = ending.await
            && let Ok(panic) = failed.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    });
    Ok((handle, events, join))
}

impl SpeakerHandle {
    /// Puts another configuration in force and touches only the sessions it changes.
    ///
    /// # Errors
    /// See [`StartError`] for what is in force then.
    pub async fn configure(&self, config: SpeakerConfig) -> Result<(), StartError> {
        self.ask(|reply| Command::Configure(Box::new(config), reply))
            .await?
    }

    /// The speaker at this moment.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn snapshot(&self) -> Result<SpeakerSnapshot, Ended> {
        self.ask(Command::Snapshot).await
    }

    /// What is known of the prefixes asked for.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn routes(&self, query: RouteQuery) -> Result<Vec<RouteInfo>, Ended> {
        self.ask(|reply| Command::Routes(query, reply)).await
    }

    /// Which of the peers `leaving` teach something that neither a peer of `staying` nor this speaker teaches as well.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn uncovered(
        &self,
        leaving: BTreeSet<String>,
        staying: BTreeSet<String>,
    ) -> Result<BTreeSet<String>, Ended> {
        self.ask(|reply| Command::Uncovered(leaving, staying, reply))
            .await
    }

    /// What happened to peers since the event of this number, oldest first. A first one that does not follow it says that
    /// some were lost: the speaker keeps the latest thousand.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn events(&self, after: u64) -> Result<Vec<PeerEvent>, Ended> {
        self.ask(|reply| Command::Events(after, reply)).await
    }

    /// The number of the latest event, to wait for the next one with.
    #[must_use]
    pub fn latest_event(&self) -> watch::Receiver<u64> {
        self.latest_event.clone()
    }

    /// The addresses listened on, with the ports the kernel chose where 0 was configured.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn addresses(&self) -> Result<Vec<SocketAddr>, Ended> {
        self.ask(Command::Addresses).await
    }

    /// Clears the session of a peer, or of every neighbour of a range, by name; false where there is none.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn clear(&self, peer: impl Into<String>, clear: Clear) -> Result<bool, Ended> {
        self.clear_saying(peer, clear, None).await
    }

    /// The same, with a text for the operators there where it ends a session (RFC 9003).
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn clear_saying(
        &self,
        peer: impl Into<String>,
        clear: Clear,
        text: Option<String>,
    ) -> Result<bool, Ended> {
        self.ask(|reply| Command::Clear(peer.into(), clear, text, reply))
            .await
    }

    /// Says how next hops are reached: all that were asked about, and later those that changed.
    ///
    /// # Errors
    /// The speaker has ended.
    pub async fn next_hops(&self, states: Vec<NextHopState>) -> Result<(), Ended> {
        self.ask(|reply| Command::NextHops(states, reply)).await
    }

    /// Ends every session and the speaker; returns when the peers could read why, or after a few seconds.
    ///
    /// # Errors
    /// The speaker had ended already.
    pub async fn shutdown(&self, how: SpeakerShutdown) -> Result<(), Ended> {
        self.ask(|reply| Command::Shutdown(how, reply)).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Ended> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(command(reply))
            .await
            .map_err(|_| Ended)?;
        answer.await.map_err(|_| Ended)
    }
}
