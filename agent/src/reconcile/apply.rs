//! The task: takes in what is wanted and what happens, and works it off in passes.
//!
//! A turn of the loop absorbs everything that is waiting (cheap: it only marks what is dirty), then does one bounded
//! piece of work, and comes round again; so a pod's route waits for one call of the kernel at most, however many
//! others are queued. A pass is: devices, addresses, neighbours and forwarding entries, then routes put, then
//! routes removed, then devices and entries that nothing refers to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::devices::{self, Addresses, Pass};
use super::ownership::is_our_device;
use super::retry::{Blocked, Pacing, Reason, vary};
use super::routes::{Links, Outcome, Routes};
use super::settings::{Failures, Settings, SettingsTask, sleep_until};
use super::{
    AuditReport, Command, Counters, Dataplane, DataplaneConfig, Pending, Status, Subject, underlay,
};
use crate::desired::state::{DesiredState, Underlay};
use crate::kernel::{
    FilterSpec, IpVersion, Kernel, KernelError, KernelEvent, Link, Route, RouteChange, RouteFilter,
    RouteKey,
};

/// Route changes in one call: some ten milliseconds of the kernel's time, sixteen batches of netlink.
const CHUNK: usize = 2048;
/// Events taken in before looking at anything else.
const EVENTS_A_TURN: usize = 4096;
/// Links and addresses come in groups; the underlay is published once for each.
const UNDERLAY_DEBOUNCE: Duration = Duration::from_millis(10);
/// Reading tables again takes at most this share (one part of so many) of the time, whatever the events say.
const RESCAN_SHARE: u32 = 10;
/// The audit interval when no events can be had.
const BLIND_AUDIT: Duration = Duration::from_secs(5);
/// Callers waiting to ask; each of them awaits its answer.
const COMMANDS: usize = 64;

/// Starts the task and its companion for packet filter and settings.
pub(super) fn spawn<K: Kernel>(
    kernel: K,
    config: DataplaneConfig,
    desired: watch::Receiver<Option<Arc<DesiredState>>>,
    cancel: CancellationToken,
) -> Result<(Dataplane, JoinHandle<()>), KernelError> {
    let events = kernel.events()?;
    let kernel = Arc::new(kernel);
    let counters = Arc::new(Counters::default());
    let (commands_in, commands) = mpsc::channel(COMMANDS);
    let (status, status_out) = watch::channel(Arc::new(Status::default()));
    let (underlay, underlay_out) = watch::channel(None);
    let (settings, settings_in) = watch::channel(None);
    let (failures, settings_failures) = watch::channel(Failures::new());
    let check_settings = Arc::new(Notify::new());
    let companion = SettingsTask {
        kernel: Arc::clone(&kernel),
        wanted: settings_in,
        check: Arc::clone(&check_settings),
        failures,
        counters: Arc::clone(&counters),
        pacing: Pacing::new(&config),
        cancel: cancel.clone(),
    };
    let handle = Dataplane {
        status: status_out,
        underlay: underlay_out,
        commands: commands_in,
        counters: Arc::clone(&counters),
    };
    let reconciler = Reconciler {
        kernel,
        routes: Routes::new(&config),
        pacing: Pacing::new(&config),
        config,
        counters,
        desired: None,
        links: Links::new(),
        addresses: Addresses::new(),
        ipip_available: false,
        devices_due: false,
        clean_up_due: false,
        blocked: BTreeMap::new(),
        blocked_clean_up: BTreeMap::new(),
        rescan: Rescan::default(),
        resync: Some(ResyncCause::Start),
        resync_earliest: None,
        audit_at: Instant::now(),
        audit_waiters: Vec::new(),
        last_audit: None,
        route_waiters: HashMap::new(),
        underlay_at: None,
        links_changed: false,
        started: false,
        blind: false,
        settings,
        settings_failures,
        check_settings,
        status,
        underlay,
    };
    let task = tokio::spawn(async move {
        let companion = tokio::spawn(companion.run());
        reconciler.run(events, desired, commands, cancel).await;
        if let Err(error) = companion.await {
            tracing::error!(%error, "the settings task ended badly");
        }
    });
    Ok((handle, task))
}

/// Why everything is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResyncCause {
    Start,
    Overrun,
    Audit,
}

/// Route tables to be read again.
#[derive(Debug, Default)]
struct Rescan {
    v4: bool,
    v6: bool,
    /// Not before this time.
    earliest: Option<Instant>,
}

impl Rescan {
    fn wanted(&self) -> bool {
        self.v4 || self.v6
    }

    fn request(&mut self, version: IpVersion) {
        match version {
            IpVersion::V4 => self.v4 = true,
            IpVersion::V6 => self.v6 = true,
        }
    }
}

/// Whether anything is due to be tried again; what is due waits no longer.
fn take_due(blocked: &mut BTreeMap<Subject, Blocked>, now: Instant) -> bool {
    let mut due = false;
    for (subject, blocked) in blocked {
        if blocked.retry_at.is_some_and(|at| at <= now) {
            blocked.retry_at = None;
            due |= *subject != Subject::Dump;
        }
    }
    due
}

struct Reconciler<K> {
    kernel: Arc<K>,
    config: DataplaneConfig,
    pacing: Pacing,
    counters: Arc<Counters>,
    desired: Option<Arc<DesiredState>>,
    routes: Routes,
    links: Links,
    addresses: Addresses,
    ipip_available: bool,
    /// Devices are to be looked at.
    devices_due: bool,
    /// What nothing refers to is to be removed, once no route change is due.
    clean_up_due: bool,
    /// Devices that could not be set up, and dumps that failed.
    blocked: BTreeMap<Subject, Blocked>,
    /// What could not be removed.
    blocked_clean_up: BTreeMap<Subject, Blocked>,
    rescan: Rescan,
    resync: Option<ResyncCause>,
    /// Lost events ask for no further reading before this time.
    resync_earliest: Option<Instant>,
    audit_at: Instant,
    audit_waiters: Vec<oneshot::Sender<AuditReport>>,
    last_audit: Option<AuditReport>,
    route_waiters: HashMap<RouteKey, Vec<oneshot::Sender<()>>>,
    underlay_at: Option<Instant>,
    /// Addresses must be read before the underlay is computed.
    links_changed: bool,
    started: bool,
    /// There are no events any more.
    blind: bool,
    settings: watch::Sender<Option<Arc<Settings>>>,
    settings_failures: watch::Receiver<Failures>,
    check_settings: Arc<Notify>,
    status: watch::Sender<Arc<Status>>,
    underlay: watch::Sender<Option<Arc<Underlay>>>,
}

impl<K: Kernel> Reconciler<K> {
    async fn run(
        mut self,
        mut events: mpsc::Receiver<KernelEvent>,
        mut desired: watch::Receiver<Option<Arc<DesiredState>>>,
        mut commands: mpsc::Receiver<Command>,
        cancel: CancellationToken,
    ) {
        let mut commands_open = true;
        let mut desired_open = true;
        let mut last_desired_taken = false;
        desired.mark_changed();
        loop {
            if cancel.is_cancelled() {
                return;
            }
            for _ in 0..EVENTS_A_TURN {
                match events.try_recv() {
                    Ok(event) => self.absorb(event),
                    Err(_) => break,
                }
            }
            // A closed channel may still hold a value that was not taken.
            let changed = desired
                .has_changed()
                .unwrap_or_else(|_| !std::mem::replace(&mut last_desired_taken, true));
            if changed {
                let state = desired.borrow_and_update().clone();
                if let Some(state) = state {
                    self.set_desired(state);
                }
            }
            while let Ok(command) = commands.try_recv() {
                self.obey(command);
            }
            self.run_timers();
            let more = self.work().await;
            self.answer_waiters();
            self.publish();
            if more {
                tokio::task::yield_now().await;
                continue;
            }
            let timer = self.next_timer();
            // Each branch only waits, or takes one message that is handled at once: dropping the others loses nothing.
            tokio::select! {
                () = cancel.cancelled() => return,
                event = events.recv(), if !self.blind => match event {
                    Some(event) => self.absorb(event),
                    None => {
                        tracing::error!("no more events from the kernel; relying on frequent audits");
                        self.blind = true;
                        self.audit_at = Instant::now() + BLIND_AUDIT;
                    }
                },
                // Marked as seen where the value is taken, at the top of the loop.
                changed = desired.changed(), if desired_open => match changed {
                    Ok(()) => desired.mark_changed(),
                    Err(_) => desired_open = false,
                },
                command = commands.recv(), if commands_open => match command {
                    Some(command) => self.obey(command),
                    None => commands_open = false,
                },
                changed = self.settings_failures.changed() => if changed.is_err() {
                    return; // the companion ends only with us
                },
                () = sleep_until(timer) => {}
            }
        }
    }

    // ---- absorbing: marks what is to be done, does nothing

    fn set_desired(&mut self, state: Arc<DesiredState>) {
        self.heed(&state);
        self.routes.set_desired(&state);
        let before = self.desired.replace(Arc::clone(&state));
        let devices_changed = before
            .as_ref()
            .is_none_or(|before| before.ipip != state.ipip || before.vxlan != state.vxlan);
        if devices_changed {
            self.devices_due = true;
            self.blocked
                .retain(|subject, _| matches!(subject, Subject::Dump));
        }
        let may_remove = |state: &DesiredState| state.in_sync && state.keep_unlisted.is_empty();
        if devices_changed {
            self.blocked_clean_up.clear();
        }
        if may_remove(&state)
            && (devices_changed || before.is_none_or(|before| !may_remove(&before)))
        {
            self.clean_up_due = true;
        }
        let settings = Settings {
            filter: state.in_sync.then(|| FilterSpec {
                masquerade: state.masquerade.clone(),
                forward_accept: if state.forward_accept {
                    self.config.interface_prefixes.clone()
                } else {
                    Vec::new()
                },
            }),
            sysctls: state.sysctls.clone(),
            sysctls_at_least: state.sysctls_at_least.clone(),
        };
        self.settings.send_if_modified(|wanted| {
            let modified = wanted.as_deref() != Some(&settings);
            if modified {
                *wanted = Some(Arc::new(settings));
            }
            modified
        });
    }

    /// Takes over settings that may change while the daemon runs.
    fn heed(&mut self, state: &DesiredState) {
        if let Some(interval) = state.audit_interval
            && interval != self.config.audit_interval
        {
            self.config.audit_interval = interval;
            if self.started_reading() {
                self.audit_at = Instant::now() + vary(interval, 0.1);
            }
        }
        if !state.interface_prefixes.is_empty()
            && !self
                .config
                .interface_prefixes
                .iter()
                .eq(&state.interface_prefixes)
        {
            self.config.interface_prefixes = state.interface_prefixes.iter().cloned().collect();
            self.routes.own_by(&self.config);
            self.underlay_dirty();
        }
    }

    fn absorb(&mut self, event: KernelEvent) {
        self.counters.events.inc();
        match event {
            KernelEvent::RouteSet(key, route) => {
                if self.routes.is_partial(&key, &route) {
                    self.rescan.request(key.version());
                } else if self.routes.route_set(key, route) {
                    self.underlay_dirty();
                }
            }
            KernelEvent::RouteGone(key, route) => {
                if self.routes.is_partial(&key, &route) {
                    self.rescan.request(key.version());
                } else if self.routes.route_gone(key, &route) {
                    self.underlay_dirty();
                }
            }
            KernelEvent::LinkSet(link) => self.link_set(link),
            KernelEvent::LinkGone { name, index } => {
                // A device of the same name may exist by now, with another index.
                if self
                    .links
                    .get(&name)
                    .is_some_and(|link| link.index == index)
                {
                    self.links.remove(&name);
                    self.link_lost(&name);
                }
            }
            // The host end of a pod's veth has no address but the link-local one that the kernel gives it.
            KernelEvent::AddressesChanged { interface }
                if self.routes.ownership().is_pod_interface(&interface) => {}
            KernelEvent::AddressesChanged { interface } => {
                if is_our_device(&interface) {
                    self.devices_due = true;
                }
                // An IPv4 address takes routes that name it as their source along, silently.
                self.rescan.request(IpVersion::V4);
                self.routes.link_ready();
                self.links_changed = true;
                self.underlay_dirty();
            }
            KernelEvent::NeighboursChanged { interface } => {
                if is_our_device(&interface) {
                    self.devices_due = true;
                    self.clean_up_due |= self.may_clean_up();
                }
            }
            KernelEvent::FilterChanged => self.check_settings.notify_one(),
            KernelEvent::Overrun => {
                self.counters.overruns.inc();
                tracing::warn!("the kernel dropped events; reading everything again");
                self.resync.get_or_insert(ResyncCause::Overrun);
            }
        }
    }

    fn link_set(&mut self, link: Link) {
        let before = self.links.insert(link.name.clone(), link.clone());
        let replaced = before
            .as_ref()
            .is_some_and(|before| before.index != link.index);
        let went_down = before.as_ref().is_some_and(|before| before.up) && !link.up;
        if replaced || went_down {
            self.link_lost(&link.name);
        }
        let came_up = link.up && (replaced || before.as_ref().is_none_or(|before| !before.up));
        if came_up {
            self.routes.link_ready();
        }
        if before.as_ref() != Some(&link) {
            if is_our_device(&link.name) {
                self.devices_due = true;
                // A device that appears has none of its settings yet.
                if replaced || before.is_none() {
                    self.check_settings.notify_one();
                }
            }
            if !self.routes.ownership().is_pod_interface(&link.name) {
                self.underlay_dirty();
            }
        }
    }

    fn link_lost(&mut self, name: &str) {
        if self.routes.interface_lost(name) {
            self.rescan.request(IpVersion::V4);
            self.rescan.request(IpVersion::V6);
        }
        if is_our_device(name) {
            self.devices_due = true;
        }
        if !self.routes.ownership().is_pod_interface(name) {
            self.links_changed = true;
            self.underlay_dirty();
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::WaitRoute(key, reply) => {
                self.route_waiters.entry(key).or_default().push(reply);
            }
            Command::Audit(reply) => {
                self.audit_waiters.push(reply);
                self.audit_at = Instant::now();
            }
        }
    }

    fn underlay_dirty(&mut self) {
        self.underlay_at
            .get_or_insert_with(|| Instant::now() + UNDERLAY_DEBOUNCE);
    }

    // ---- time

    fn run_timers(&mut self) {
        let now = Instant::now();
        self.routes.run_timers(now);
        if self.audit_at <= now && self.started_reading() {
            self.resync = Some(ResyncCause::Audit);
        }
        self.devices_due |= take_due(&mut self.blocked, now);
        self.clean_up_due |= take_due(&mut self.blocked_clean_up, now);
    }

    fn next_timer(&self) -> Option<Instant> {
        let dump_retry = self
            .blocked
            .get(&Subject::Dump)
            .and_then(|dump| dump.retry_at);
        if self.resync == Some(ResyncCause::Start) {
            return dump_retry; // nothing else can be done before
        }
        let resync = match self.resync {
            None => Some(self.audit_at),
            Some(_) => dump_retry.max(self.resync_earliest),
        };
        let rescan = self.rescan.earliest.filter(|_| self.rescan.wanted());
        self.blocked
            .iter()
            .filter(|(subject, _)| **subject != Subject::Dump)
            .chain(&self.blocked_clean_up)
            .map(|(_, blocked)| blocked.retry_at)
            .chain([resync, rescan, self.routes.next_timer(), self.underlay_at])
            .flatten()
            .min()
    }

    fn started_reading(&self) -> bool {
        self.resync != Some(ResyncCause::Start)
    }

    // ---- working: one bounded piece, and whether there is more

    async fn work(&mut self) -> bool {
        let now = Instant::now();
        if let Some(cause) = self.resync {
            let due = self
                .blocked
                .get(&Subject::Dump)
                .and_then(|dump| dump.retry_at)
                .is_none_or(|at| at <= now)
                && (cause == ResyncCause::Audit || self.resync_earliest.is_none_or(|at| at <= now));
            if due {
                self.read_everything(cause).await;
            }
            if self.resync == Some(ResyncCause::Start) {
                return false; // without a picture of the kernel, nothing can be told ours from others'
            }
        }
        if self.rescan.wanted() && self.rescan.earliest.is_none_or(|at| at <= now) {
            self.reread_routes().await;
        }
        if self.underlay_at.is_some_and(|at| at <= now) {
            self.publish_underlay().await;
        }
        let Some(state) = self.desired.clone() else {
            return false;
        };
        if self.devices_due {
            self.devices_due = false;
            let pass = devices::prepare(&*self.kernel, &state, &self.links, &self.counters).await;
            self.finish_prepare(pass);
        }
        if self.routes.has_work() {
            self.change_routes().await;
            self.started |= !self.routes.has_work();
            return true;
        }
        self.started = true;
        // A device is not removed while routes over it are held back; entries are not while routes may need them.
        if self.clean_up_due && self.may_clean_up() {
            self.clean_up_due = false;
            let pass = devices::clean_up(&*self.kernel, &state, &self.links, &self.counters).await;
            let failures = self.take_pass(pass);
            self.blocked_clean_up = self.block(failures, &self.blocked_clean_up);
        }
        self.routes.has_work()
    }

    fn may_clean_up(&self) -> bool {
        self.desired
            .as_ref()
            .is_some_and(|state| state.in_sync && state.keep_unlisted.is_empty())
    }

    async fn change_routes(&mut self) {
        let changes: Arc<[RouteChange]> = self.routes.next_changes(CHUNK, &self.links).into();
        if changes.is_empty() {
            return;
        }
        let results = match self.kernel.change_routes(Arc::clone(&changes)).await {
            Ok(results) => results,
            Err(error) => {
                // Nothing is known of any of them: read what is there, and try again.
                tracing::warn!(%error, "a batch of route changes failed as a whole");
                self.rescan.request(IpVersion::V4);
                self.rescan.request(IpVersion::V6);
                changes.iter().map(|_| Err(error.clone())).collect()
            }
        };
        for (change, result) in changes.iter().zip(results) {
            self.record(change, result);
        }
    }

    fn record(&mut self, change: &RouteChange, result: Result<(), KernelError>) {
        if let Err(error) = &result {
            // The plugin adds a pod's route too; whoever comes second is told it exists, compares, and is content.
            if *error != KernelError::Exists {
                self.counters.route_errors.inc();
            }
            tracing::debug!(route = %change.key(), %error, "a route was refused");
        }
        match self.routes.record(change, result) {
            Outcome::Put { repaired_after } => {
                self.counters.routes_written.inc();
                if let Some(after) = repaired_after {
                    self.counters.repairs.inc();
                    let nanoseconds = usize::try_from(after.as_nanos()).unwrap_or(usize::MAX);
                    self.counters.repair_nanoseconds.add(nanoseconds);
                }
            }
            Outcome::Removed => self.counters.routes_deleted.inc(),
            Outcome::Refused => {}
            Outcome::Unknown => self.rescan.request(change.key().version()),
        }
    }

    fn finish_prepare(&mut self, pass: Pass) {
        let failures = self.take_pass(pass);
        let mut blocked = self.block(failures, &self.blocked);
        blocked.extend(self.blocked.remove_entry(&Subject::Dump));
        self.blocked = blocked;
    }

    /// Takes in what a device pass did, and returns what it could not do.
    fn take_pass(&mut self, pass: Pass) -> BTreeMap<Subject, KernelError> {
        self.counters.link_changes.add(pass.link_changes);
        self.counters.entry_changes.add(pass.entry_changes);
        for name in &pass.recreated {
            self.link_lost(name);
        }
        if let Some(links) = pass.links {
            // The events of what we did ourselves tell nothing new then.
            self.check_settings.notify_one();
            self.links = links;
            self.routes.link_ready();
        }
        pass.failures
    }

    fn block(
        &self,
        failures: BTreeMap<Subject, KernelError>,
        before: &BTreeMap<Subject, Blocked>,
    ) -> BTreeMap<Subject, Blocked> {
        failures
            .into_iter()
            .map(|(subject, error)| {
                let before = before.get(&subject);
                let reason = Reason::Refused(error);
                if before.is_none_or(|before| before.reason != reason) {
                    tracing::warn!(%subject, %reason, "cannot be set up");
                }
                let blocked = Blocked::again(before, reason, &self.pacing);
                (subject, blocked)
            })
            .collect()
    }

    /// Reads links, addresses and routes, and has everything else looked at.
    async fn read_everything(&mut self, cause: ResyncCause) {
        let begun = Instant::now();
        match self.try_read().await {
            Ok(found) => {
                self.counters.dumps.inc();
                self.blocked.remove(&Subject::Dump);
                self.resync = None;
                self.rescan = Rescan::default();
                self.resync_earliest = Some(Instant::now() + begun.elapsed() * RESCAN_SHARE);
                self.devices_due = true;
                self.clean_up_due |= self.may_clean_up();
                self.check_settings.notify_one();
                self.ipip_available = self.ipip_available || self.kernel.ipip_available().await;
                self.publish_underlay().await;
                let interval = if self.blind {
                    BLIND_AUDIT
                } else {
                    vary(self.config.audit_interval, 0.1)
                };
                self.audit_at = Instant::now() + interval;
                if cause == ResyncCause::Audit {
                    self.finish_audit(found, begun).await;
                }
            }
            Err(error) => {
                self.counters.dump_errors.inc();
                tracing::warn!(%error, "cannot read the kernel's state");
                let blocked = Blocked::again(
                    self.blocked.get(&Subject::Dump),
                    Reason::Refused(error),
                    &self.pacing,
                );
                self.blocked.insert(Subject::Dump, blocked);
            }
        }
    }

    async fn finish_audit(&mut self, mut findings: usize, begun: Instant) {
        if let Some(state) = self.desired.clone() {
            self.devices_due = false;
            let pass = devices::prepare(&*self.kernel, &state, &self.links, &self.counters).await;
            tracing::debug!(routes = findings, ?pass, "audited");
            findings += pass.link_changes + pass.entry_changes;
            self.finish_prepare(pass);
        }
        let report = AuditReport {
            at: SystemTime::now(),
            took: begun.elapsed(),
            findings,
        };
        self.counters.audits.inc();
        self.counters.audit_findings.add(findings);
        if findings > 0 {
            tracing::info!(
                findings,
                "the audit found differences that no event had told"
            );
        }
        self.last_audit = Some(report);
        for waiter in self.audit_waiters.drain(..) {
            let _ = waiter.send(report);
        }
    }

    /// Returns how many links and routes of ours were not as thought.
    async fn try_read(&mut self) -> Result<usize, KernelError> {
        let links = devices::read_links(&*self.kernel).await?;
        let found = self
            .kernel
            .routes(RouteFilter::table(self.config.table))
            .await?;
        self.addresses = self.kernel.addresses().await?;
        self.links_changed = false;
        let came_up = links.values().any(|link| {
            link.up
                && self
                    .links
                    .get(&link.name)
                    .is_none_or(|before| !before.up || before.index != link.index)
        });
        self.links = links;
        let differences = self.take_routes(found, None);
        if came_up {
            self.routes.link_ready();
        }
        Ok(differences)
    }

    async fn reread_routes(&mut self) {
        let version = match (self.rescan.v4, self.rescan.v6) {
            (true, false) => Some(IpVersion::V4),
            (false, true) => Some(IpVersion::V6),
            _ => None,
        };
        let begun = Instant::now();
        let filter = RouteFilter {
            family: version,
            ..RouteFilter::table(self.config.table)
        };
        match self.kernel.routes(filter).await {
            Ok(found) => {
                self.counters.dumps.inc();
                self.rescan = Rescan {
                    earliest: Some(Instant::now() + begun.elapsed() * RESCAN_SHARE),
                    ..Rescan::default()
                };
                self.take_routes(found, version);
                self.underlay_dirty();
            }
            Err(error) => {
                self.counters.dump_errors.inc();
                tracing::warn!(%error, "cannot read routes again");
                self.rescan.earliest = Some(Instant::now() + self.pacing.delay(1));
            }
        }
    }

    fn take_routes(&mut self, found: Vec<(RouteKey, Route)>, version: Option<IpVersion>) -> usize {
        self.routes.set_observed(found, version)
    }

    async fn publish_underlay(&mut self) {
        self.underlay_at = None;
        if self.links_changed {
            match self.kernel.addresses().await {
                Ok(addresses) => {
                    self.addresses = addresses;
                    self.links_changed = false;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot read addresses");
                    self.underlay_at = Some(Instant::now() + self.pacing.delay(1));
                    return;
                }
            }
        }
        let underlay = underlay::underlay(
            &self.links,
            &self.addresses,
            &self.routes,
            self.ipip_available,
        );
        self.underlay.send_if_modified(|published| {
            let modified = published.as_deref() != Some(&underlay);
            if modified {
                *published = Some(Arc::new(underlay));
            }
            modified
        });
    }

    // ---- telling

    fn answer_waiters(&mut self) {
        let routes = &self.routes;
        self.route_waiters.retain(|key, waiters| {
            if routes.is_settled(key) {
                for waiter in waiters.drain(..) {
                    let _ = waiter.send(());
                }
                return false;
            }
            waiters.retain(|waiter| !waiter.is_closed());
            !waiters.is_empty()
        });
    }

    fn publish(&mut self) {
        let settings = self.settings_failures.borrow_and_update().clone();
        let desired = self.routes.desired_count();
        let mut pending: BTreeMap<Subject, Pending> = self
            .blocked
            .iter()
            .map(|(subject, blocked)| (subject.clone(), blocked.pending()))
            .collect();
        for (subject, blocked) in &self.blocked_clean_up {
            pending
                .entry(subject.clone())
                .or_insert_with(|| blocked.pending());
        }
        let total = pending.len() + settings.len() + self.routes.blocked_count();
        pending.extend(settings);
        let room = Status::PENDING_SHOWN.saturating_sub(pending.len());
        pending.extend(
            self.routes
                .blocked()
                .take(room)
                .map(|(key, blocked)| (Subject::Route(*key), blocked.pending())),
        );
        let status = Status {
            started: self.started,
            routes_desired: desired,
            routes_installed: desired - self.routes.pending_count(),
            routes_unlisted: self.routes.unlisted_count(),
            pending,
            pending_total: total,
            last_audit: self.last_audit,
        };
        self.status.send_if_modified(|published| {
            let modified = **published != status;
            if modified {
                *published = Arc::new(status);
            }
            modified
        });
    }
}
