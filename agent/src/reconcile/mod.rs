//! Bringing the kernel to the desired state, and keeping it there.
//!
//! One task, [`Dataplane`], owns everything margay knows about the kernel. In come the [`DesiredState`] (only the
//! latest counts), the kernel's events, and a clock; out go changes to the kernel, a [`Status`] to look at, the
//! [`Underlay`] for next-hop resolution, and plain [`Counters`].
//!
//! ```text
//!            watch<Option<Arc<DesiredState>>>            KernelEvent
//!                          │                                  │
//!                          ▼                                  ▼
//!                     ┌─────────────── DeltaTracker ───────────────┐
//!                     │ desired        pending           observed  │◄── dumps: start, overrun, audit
//!                     └───────────────────┬────────────────────────┘
//!      links → addresses → neighbours, FDB → routes put → routes removed → devices removed
//! ```
//!
//! What holds at every moment:
//! - a route is ours by its protocol number, a device by its name, a rule by its table or its mark (`ownership`);
//!   a fresh process finds all of them by a dump, adopts them and flushes nothing;
//! - nothing is removed before the desired state is in sync, nor in a family that BGP has yet to complete, nor, for
//!   ten seconds, a route of a pod nobody has told us of yet;
//! - a foreign route that holds a key of ours stays, and ours is reported as pending;
//! - one failing route stays pending with its reason and is retried with capped, jittered backoff; the rest go on;
//! - what others change is repaired when its event arrives; a periodic audit counts what the events missed.
//!
//! Packet filter and sysctls are applied by a task of their own, since `nft` takes milliseconds that a pod's route
//! should not wait for.

mod apply;
mod devices;
pub mod diff;
pub mod ownership;
mod retry;
mod routes;
mod settings;
#[cfg(test)]
mod tests;
mod underlay;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::desired::state::{DesiredState, Underlay};
use crate::kernel::{Kernel, KernelError, MAIN_TABLE, MARGAY_PROTOCOL, RouteKey};

/// How the dataplane behaves; the defaults are what a node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataplaneConfig {
    /// Protocol number that marks our routes.
    pub protocol: u8,
    /// The routing table our routes are in.
    pub table: u32,
    /// Time between full audits, varied by a tenth either way.
    pub audit_interval: Duration,
    /// How long a route on a pod's interface that nobody has asked for may stay: the plugin writes it just before the
    /// agent hears of the pod.
    pub grace: Duration,
    /// Take over what Calico's daemons left behind: routes of protocols 80 and 12, and any on pods' and our devices.
    pub adopt_calico: bool,
    /// Interfaces of pods start with one of these.
    pub interface_prefixes: Vec<String>,
    /// First retry of something the kernel refused; doubles up to `retry_max`.
    pub retry_min: Duration,
    /// Longest wait between retries.
    pub retry_max: Duration,
}

impl Default for DataplaneConfig {
    fn default() -> Self {
        Self {
            protocol: MARGAY_PROTOCOL,
            table: MAIN_TABLE,
            audit_interval: Duration::from_secs(90),
            grace: Duration::from_secs(10),
            adopt_calico: false,
            interface_prefixes: vec!["cali".to_owned()],
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(30),
        }
    }
}

/// The handle of the dataplane task. Cloning it is cheap; the task ends by its cancellation token.
#[derive(Clone, Debug)]
pub struct Dataplane {
    status: watch::Receiver<Arc<Status>>,
    underlay: watch::Receiver<Option<Arc<Underlay>>>,
    commands: mpsc::Sender<Command>,
    counters: Arc<Counters>,
}

/// The dataplane task has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the dataplane has stopped")]
pub struct Stopped;

/// What the task can be asked.
#[derive(Debug)]
pub(crate) enum Command {
    /// Answer when this key is in the kernel as desired.
    WaitRoute(RouteKey, oneshot::Sender<()>),
    /// Audit now and answer with the result.
    Audit(oneshot::Sender<AuditReport>),
}

impl Dataplane {
    /// Starts the task on a kernel. Nothing is changed before `desired` holds a state; what the kernel holds is read
    /// at once. The task ends when `cancel` is cancelled, leaving the kernel as it is, and is awaited by its handle.
    ///
    /// # Errors
    /// When the kernel's events cannot be had.
    pub fn spawn<K: Kernel>(
        kernel: K,
        config: DataplaneConfig,
        desired: watch::Receiver<Option<Arc<DesiredState>>>,
        cancel: CancellationToken,
    ) -> Result<(Self, JoinHandle<()>), KernelError> {
        apply::spawn(kernel, config, desired, cancel)
    }

    /// Waits until the kernel holds the route that is desired for `key`; it may be called before it is desired. Waits
    /// for ever where that never happens: the caller brings the deadline. Dropping the future is free.
    ///
    /// # Errors
    /// [`Stopped`] when the task has ended.
    pub async fn wait_route(&self, key: RouteKey) -> Result<(), Stopped> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::WaitRoute(key, reply))
            .await
            .map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Compares everything with the kernel now, repairs, and returns what was found.
    ///
    /// # Errors
    /// [`Stopped`] when the task has ended.
    pub async fn audit(&self) -> Result<AuditReport, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::Audit(reply))
            .await
            .map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// How things stand, always the latest.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.status.clone()
    }

    /// What the kernel holds that is not ours; `None` until the first dump.
    #[must_use]
    pub fn underlay(&self) -> watch::Receiver<Option<Arc<Underlay>>> {
        self.underlay.clone()
    }

    /// Counters since the start.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }
}

/// What something pending is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A route to put or to remove.
    Route(RouteKey),
    /// A device with its addresses.
    Link(String),
    /// Permanent neighbours and forwarding entries of a device.
    Entries(String),
    /// Our packet filter table and accept rules.
    Filter,
    /// A kernel setting.
    Sysctl(String),
    /// Reading the kernel's state.
    Dump,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(key) => write!(f, "route {key}"),
            Self::Link(name) => write!(f, "link {name}"),
            Self::Entries(name) => write!(f, "neighbours of {name}"),
            Self::Filter => f.write_str("packet filter"),
            Self::Sysctl(name) => write!(f, "sysctl {name}"),
            Self::Dump => f.write_str("kernel dump"),
        }
    }
}

/// Why something is not as desired yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The reason in words.
    pub reason: String,
    /// A foreign route holds the key: nothing changes until it goes.
    pub conflict: bool,
    /// Since when.
    pub since: SystemTime,
    /// How often it was tried.
    pub attempts: u32,
}

/// How the kernel stands to the desired state.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Status {
    /// A first dump has been read and a desired state applied, whether or not all of it succeeded.
    pub started: bool,
    /// Routes desired.
    pub routes_desired: usize,
    /// Routes in the kernel as desired.
    pub routes_installed: usize,
    /// Routes of ours in the kernel that are not desired and wait for their removal.
    pub routes_unlisted: usize,
    /// What is not as desired and why; at most [`Status::PENDING_SHOWN`] of them.
    pub pending: BTreeMap<Subject, Pending>,
    /// How many there are in all.
    pub pending_total: usize,
    /// The last audit.
    pub last_audit: Option<AuditReport>,
}

impl Status {
    /// How many pending things a status names; the rest are only counted.
    pub const PENDING_SHOWN: usize = 200;

    /// Whether everything desired is in place. A setting that this kernel does not have does not count.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.started
            && self.routes_installed == self.routes_desired
            && self.pending_total == self.pending.len()
            && self
                .pending
                .keys()
                .all(|subject| matches!(subject, Subject::Sysctl(_)))
    }
}

/// What a full comparison with the kernel found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditReport {
    /// When it ended.
    pub at: SystemTime,
    /// How long the dumps and the comparison took.
    pub took: Duration,
    /// Differences from what the events had told: each is a repair that came late.
    pub findings: usize,
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counts since the start, readable at any time from any thread. Monotonic.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: Counter,)+
        }

        impl Counters {
            /// Every counter by name, with what it counts.
            #[must_use]
            pub fn all(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($doc),+).trim(), self.$name.get()),)+]
            }
        }
    };
}

counters! {
    /// routes put into the kernel
    routes_written,
    /// routes removed from the kernel
    routes_deleted,
    /// route changes the kernel refused
    route_errors,
    /// changes to links and their addresses
    link_changes,
    /// link and address changes that failed
    link_errors,
    /// permanent neighbours and forwarding entries set or removed
    entry_changes,
    /// neighbour and forwarding changes that failed
    entry_errors,
    /// times our packet filter table or accept rules were written
    filter_writes,
    /// packet filter runs that failed
    filter_errors,
    /// sysctls written
    sysctl_writes,
    /// sysctls that could not be read or written
    sysctl_errors,
    /// kernel events taken in
    events,
    /// times the kernel dropped events and everything was read again
    overruns,
    /// whole dumps read, audits included
    dumps,
    /// dumps that failed
    dump_errors,
    /// audits completed
    audits,
    /// differences an audit found that no event had told
    audit_findings,
    /// changes by others that were undone
    repairs,
    /// sum of the nanoseconds from an event to the end of its repair
    repair_nanoseconds,
}

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, count: usize) {
        self.0
            .fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn inc(&self) {
        self.add(1);
    }
}
