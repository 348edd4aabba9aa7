//! Joins the speaker to model, desired state and kernel. One task.
//!
//! ```text
//! ClusterState ─► sessions, origins ─► transition ─► SpeakerHandle::configure
//!      │                                                 │ best routes, table complete
//!      └──────────► desired ◄── BestRoutes ◄─────────────┘
//! Underlay ────────────┘ └─► watch<DesiredState> ─► dataplane
//! ```
//!
//! Absorbing an event is cheap and marks something dirty; what is dirty is computed once, when no event is waiting. While the
//! task computes, the speaker joins changes of one prefix, and the watch channels keep only the latest value: a burst costs one
//! computation, not one an event. A long computation is followed by a pause twice as long, so it never takes a whole core.
//!
//! **Restart.** Routes of ours in the kernel mean that an earlier life forwarded and still does. The speaker then starts as
//! *restarting*: peers keep what we told them, and it tells the best routes only once its peers have sent End-of-RIB. Until a
//! family's table is complete, nothing of that family is removed from the kernel ([`DesiredState::keep_unlisted`]). The speaker
//! starts only after the datastore was read whole (or a view of an earlier run was loaded) and the kernel was dumped.
//!
//! [`DesiredState::keep_unlisted`]: crate::desired::state::DesiredState::keep_unlisted

#[cfg(test)]
mod tests;
pub mod transition;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use margay_bgp::family::Family;
use margay_bgp::fsm::State;
use margay_bgp::rib::{BestRoute, RouteChange, RouteSource};
use margay_bgp::speaker::config::SpeakerConfig;
use margay_bgp::speaker::events::PeerEvent;
use margay_bgp::speaker::snapshot::{RouteInfo, RouteQuery, SpeakerSnapshot};
use margay_bgp::speaker::{Clear, SpeakerShutdown};
use margay_bgp::transport::{self, SpeakerEvent, SpeakerHandle, SpeakerOptions, StartError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::descriptors;
use crate::desired::next_hop::Resolver;
use crate::desired::peers::{Origin, Session};
use crate::desired::speaker::{SpeakerPlan, drop_clashes, speaker_plan};
use crate::desired::state::{DesiredState, Problem, Underlay};
use crate::desired::{BestRoutes, Learned, LearnedHop, Settings, desired};
use crate::health::{Heartbeat, Latch};
use crate::metrics::Metrics;
use crate::model::ClusterState;
use crate::next_hops::NextHops;
use transition::{Progress, Transition, Wanted};

/// How many operator commands may wait; each is answered within a loop of the task.
const COMMANDS: usize = 16;
/// How often progress is looked at while sessions give way to others.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// First and longest wait before the speaker is started again after a failure (a port that is taken, an address that is not up yet).
const START_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What the task is made of.
#[derive(Debug)]
pub struct RoutingParts {
    /// The cluster; `None` until anything is known of it.
    pub cluster: watch::Receiver<Arc<ClusterState>>,
    /// What the kernel holds that is not ours; `None` until the first dump.
    pub underlay: watch::Receiver<Option<Arc<Underlay>>>,
    /// Where the desired state goes.
    pub desired: watch::Sender<Option<Arc<DesiredState>>>,
    /// Protocol number of our routes.
    pub protocol: u8,
    /// The kernel held routes of ours when this daemon started.
    pub restarting: bool,
    /// Some record of a pod cannot be read, so no route is removed that nobody asks for: it may be that pod's.
    pub unexplained: Arc<AtomicBool>,
    /// Feeds the speaker's jitter.
    pub seed: u64,
    /// Beaten every time round.
    pub heartbeat: Heartbeat,
    /// Dropped when the speaker runs.
    pub speaker_ready: Latch,
    /// Sessions, runs and times are counted here.
    pub metrics: Metrics,
}

/// What others may see and ask of the task. Clones ask the same task.
#[derive(Clone, Debug)]
pub struct Routing {
    view: watch::Receiver<Arc<View>>,
    speaker: watch::Receiver<Option<SpeakerHandle>>,
    commands: mpsc::Sender<Command>,
}

/// How routing stands.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Why each session exists.
    pub sessions: Vec<Session>,
    /// Sessions that outlive their configuration.
    pub lingering: Vec<String>,
    /// Sessions closed by an operator, with what the peer was told.
    pub disabled: BTreeMap<String, Option<String>>,
    /// What cannot be honoured.
    pub problems: Vec<Problem>,
    /// Best routes learned from peers.
    pub best: Arc<BestRoutes>,
    /// Families whose tables are not complete yet after a restart.
    pub incomplete: BTreeSet<Family>,
    /// Prefixes originated.
    pub originated: usize,
    /// The state last handed to the dataplane.
    pub desired: Option<Arc<DesiredState>>,
}

/// What an operator tells the owner of the configuration.
#[derive(Debug)]
pub(crate) enum Command {
    /// [`Routing::disable`].
    Disable {
        name: String,
        message: Option<String>,
        reply: oneshot::Sender<bool>,
    },
    /// [`Routing::enable`].
    Enable {
        name: String,
        reply: oneshot::Sender<bool>,
    },
    /// [`Routing::drain`].
    Drain {
        name: Option<String>,
        on: bool,
        reply: oneshot::Sender<bool>,
    },
}

/// What an operator wants drained, beyond what is configured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drained {
    all: bool,
    peers: BTreeSet<String>,
}

impl Drained {
    /// Takes a command; false where there is no such peer.
    pub(crate) fn take(&mut self, name: Option<String>, on: bool, known: &SpeakerConfig) -> bool {
        let Some(name) = name else {
            tracing::info!(on, "every session is drained, or no more, by an operator");
            self.all = on;
            if !on {
                self.peers.clear();
            }
            return true;
        };
        let exists = known.peers.iter().any(|peer| peer.name == name);
        if exists {
            tracing::info!(peer = name, on, "drained, or no more, by an operator");
        }
        match (exists, on) {
            (true, true) => self.peers.insert(name),
            (_, false) => self.peers.remove(&name),
            (false, true) => false,
        };
        exists
    }

    /// Adds it to what is configured.
    pub(crate) fn apply(&self, config: &mut SpeakerConfig) {
        config.drain |= self.all;
        for peer in &mut config.peers {
            peer.drain |= self.peers.contains(&peer.name);
        }
    }
}

/// The task has ended, or the speaker does not run yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the speaker does not run")]
pub struct NotRunning;

impl Routing {
    /// A speaker that nothing but its file configures, and what operators ask of whoever read that file. The view stays
    /// empty: its sender is gone.
    pub(crate) fn of_speaker(handle: SpeakerHandle) -> (Self, mpsc::Receiver<Command>) {
        let (_, view) = watch::channel(Arc::new(View::default()));
        let (_, speaker) = watch::channel(Some(handle));
        let (commands, taken) = mpsc::channel(COMMANDS);
        let routing = Self {
            view,
            speaker,
            commands,
        };
        (routing, taken)
    }

    /// How routing stands, always the latest.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// The speaker at this moment.
    ///
    /// # Errors
    /// It does not run.
    pub async fn snapshot(&self) -> Result<SpeakerSnapshot, NotRunning> {
        self.handle()?.snapshot().await.map_err(|_| NotRunning)
    }

    /// What the speaker knows of some prefixes.
    ///
    /// # Errors
    /// It does not run.
    pub async fn routes(&self, query: RouteQuery) -> Result<Vec<RouteInfo>, NotRunning> {
        self.handle()?.routes(query).await.map_err(|_| NotRunning)
    }

    /// What happened to peers behind the event of this number.
    ///
    /// # Errors
    /// The speaker does not run.
    pub async fn events(&self, after: u64) -> Result<Vec<PeerEvent>, NotRunning> {
        self.handle()?.events(after).await.map_err(|_| NotRunning)
    }

    /// The number of the latest event, while the speaker runs.
    #[must_use]
    pub fn latest_event(&self) -> Option<watch::Receiver<u64>> {
        Some(self.handle().ok()?.latest_event())
    }

    /// Clears a session, with a text for the operators there where that ends it; false where there is no such peer.
    ///
    /// # Errors
    /// The speaker does not run.
    pub async fn clear(
        &self,
        peer: &str,
        clear: Clear,
        message: Option<String>,
    ) -> Result<bool, NotRunning> {
        self.handle()?
            .clear_saying(peer, clear, message)
            .await
            .map_err(|_| NotRunning)
    }

    /// Closes a session and keeps it closed, until [`Routing::enable`] or a restart; false where there is no such peer.
    ///
    /// # Errors
    /// The task has ended.
    pub async fn disable(&self, name: String, message: Option<String>) -> Result<bool, NotRunning> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::Disable {
                name,
                message,
                reply,
            })
            .await
            .map_err(|_| NotRunning)?;
        answer.await.map_err(|_| NotRunning)
    }

    /// Undoes [`Routing::disable`]; false where the peer was not disabled.
    ///
    /// # Errors
    /// The task has ended.
    pub async fn enable(&self, name: String) -> Result<bool, NotRunning> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::Enable { name, reply })
            .await
            .map_err(|_| NotRunning)?;
        answer.await.map_err(|_| NotRunning)
    }

    /// Marks what is told and believed over a session, or over all, to be used last (RFC 8326), or no more; false where there
    /// is no such peer.
    ///
    /// # Errors
    /// The task has ended.
    pub async fn drain(&self, name: Option<String>, on: bool) -> Result<bool, NotRunning> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::Drain { name, on, reply })
            .await
            .map_err(|_| NotRunning)?;
        answer.await.map_err(|_| NotRunning)
    }

    fn handle(&self) -> Result<SpeakerHandle, NotRunning> {
        self.speaker.borrow().clone().ok_or(NotRunning)
    }
}

/// Starts the task. It ends when `stop` is cancelled, having closed the sessions without a word so that peers keep forwarding.
#[must_use]
pub fn spawn(parts: RoutingParts, stop: CancellationToken) -> (Routing, JoinHandle<()>) {
    let (view, view_seen) = watch::channel(Arc::new(View::default()));
    let (speaker, speaker_seen) = watch::channel(None);
    let (commands, commands_taken) = mpsc::channel(COMMANDS);
    let task = Task {
        incomplete: Family::ALL.into_iter().collect(),
        parts,
        view,
        handle: speaker,
        commands: commands_taken,
        speaker: None,
        told: None,
        deaf: false,
        best: Arc::default(),
        transition: Transition::default(),
        disabled: BTreeMap::new(),
        revived: BTreeSet::new(),
        drained: Drained::default(),
        sessions: Vec::new(),
        lingering: Vec::new(),
        session_problems: Vec::new(),
        originated: 0,
        wake: None,
        retry: START_RETRY.0,
    };
    let join = tokio::spawn(task.run(stop));
    (
        Routing {
            view: view_seen,
            speaker: speaker_seen,
            commands,
        },
        join,
    )
}

struct Task {
    parts: RoutingParts,
    view: watch::Sender<Arc<View>>,
    handle: watch::Sender<Option<SpeakerHandle>>,
    commands: mpsc::Receiver<Command>,
    speaker: Option<Running>,
    told: Option<SpeakerConfig>,
    /// The speaker runs as told but for an address it cannot listen on, and is asked again.
    deaf: bool,
    best: Arc<BestRoutes>,
    incomplete: BTreeSet<Family>,
    transition: Transition,
    disabled: BTreeMap<String, Option<String>>,
    /// Sessions an operator opened again: we dial them, whoever usually does. The other end was told to cease and rests for minutes.
    revived: BTreeSet<String>,
    /// What operators want drained.
    drained: Drained,
    sessions: Vec<Session>,
    lingering: Vec<String>,
    session_problems: Vec<Problem>,
    originated: usize,
    wake: Option<Instant>,
    retry: Duration,
}

struct Running {
    handle: SpeakerHandle,
    events: mpsc::Receiver<SpeakerEvent>,
    /// What it wants to know.
    next_hops: NextHops,
    join: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Dirty {
    sessions: bool,
    desired: bool,
    next_hops: bool,
}

impl Task {
    async fn run(mut self, stop: CancellationToken) {
        let mut beat = tokio::time::interval(self.parts.heartbeat.interval());
        let mut dirty = Dirty {
            sessions: true,
            desired: true,
            next_hops: true,
        };
        let mut not_before = Instant::now();
        loop {
            self.parts.heartbeat.beat();
            if dirty.sessions {
                dirty.sessions = false;
                self.sessions().await;
            }
            if std::mem::take(&mut dirty.next_hops) {
                self.answer().await;
            }
            if dirty.desired && Instant::now() >= not_before {
                dirty.desired = false;
                let took = self.desired();
                not_before = Instant::now() + (took * 2).min(Duration::from_secs(1));
            }
            let pause = dirty.desired.then_some(not_before);
            let next = [self.wake, pause].into_iter().flatten().min();
            // Every arm is cancel-safe: watches keep their latest value, channels their messages, timers their deadline.
            tokio::select! {
                () = stop.cancelled() => break,
                changed = self.parts.cluster.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    dirty = Dirty { sessions: true, desired: true, next_hops: true };
                }
                changed = self.parts.underlay.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    dirty = Dirty { sessions: true, desired: true, next_hops: true };
                }
                event = next_event(&mut self.speaker) => match event {
                    Some(event) => {
                        self.absorb(event, &mut dirty);
                        // Whatever else is waiting belongs to the same computation.
                        for _ in 0..256 {
                            let Some(Ok(event)) = self.speaker.as_mut().map(|speaker| speaker.events.try_recv()) else { break };
                            self.absorb(event, &mut dirty);
                        }
                    }
                    None => self.speaker_ended().await,
                },
                Some(command) = self.commands.recv() => {
                    self.obey(command);
                    dirty.sessions = true;
                }
                () = sleep_until(next) => dirty.sessions |= self.wake.is_some_and(|at| at <= Instant::now()),
                _ = beat.tick() => {}
            }
        }
        if let Some(running) = self.speaker.take() {
            // Said nothing, peers keep our routes for the restart time, and the kernel keeps forwarding by them.
            let _ = running
                .handle
                .shutdown(SpeakerShutdown::KeepForwarding)
                .await;
            drop(running.handle);
            self.handle.send_replace(None);
            let _ = running.join.await;
        }
    }

    fn absorb(&mut self, event: SpeakerEvent, dirty: &mut Dirty) {
        match event {
            SpeakerEvent::Routes(changes) => {
                let best = Arc::make_mut(&mut self.best);
                for change in changes {
                    apply(best, change);
                }
                dirty.desired = true;
            }
            SpeakerEvent::TableComplete(family) => {
                tracing::info!(%family, routes = self.best.routes.len(), "BGP table is complete");
                self.incomplete.remove(&family);
                dirty.desired = true;
            }
            SpeakerEvent::NextHops(interests) => {
                if let Some(running) = &mut self.speaker {
                    running.next_hops.ask(interests);
                }
                dirty.next_hops = true;
            }
            SpeakerEvent::PeerStateChanged { name, from, to, .. } => {
                let established = to == State::Established;
                if established || from == State::Established {
                    tracing::info!(peer = %name, ?from, ?to, "session");
                }
                dirty.sessions |= self.transition.in_progress();
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Disable {
                name,
                message,
                reply,
            } => {
                let known = self
                    .told
                    .as_ref()
                    .is_some_and(|config| config.peers.iter().any(|peer| peer.name == name));
                if known {
                    tracing::info!(peer = name, "disabled by an operator");
                    self.disabled.insert(name, message);
                }
                let _ = reply.send(known);
            }
            Command::Enable { name, reply } => {
                let known = self.disabled.remove(&name).is_some();
                if known {
                    tracing::info!(peer = name, "enabled by an operator");
                    self.revived.insert(name);
                }
                let _ = reply.send(known);
            }
            Command::Drain { name, on, reply } => {
                let done = match &self.told {
                    Some(told) => self.drained.take(name, on, told),
                    None => false,
                };
                let _ = reply.send(done);
            }
        }
    }

    /// Brings the speaker to the sessions and originated prefixes of now.
    async fn sessions(&mut self) {
        self.wake = None;
        let cluster = Arc::clone(&self.parts.cluster.borrow_and_update());
        let underlay = self.parts.underlay.borrow_and_update().clone();
        let (Some(underlay), true) = (underlay, known(&cluster)) else {
            return;
        };
        let Some(plan) = speaker_plan(&cluster, &underlay) else {
            return;
        };
        let SpeakerPlan {
            mut config,
            sessions,
            problems,
        } = plan;
        let progress = self.progress(&config).await;
        let now = Instant::now();
        let nodes = cluster.nodes.keys().cloned().collect();
        let wanted = wanted(&config, &sessions);
        let mut outcome = self
            .transition
            .plan(now, wanted, config.cluster_id, &nodes, &progress);
        config.peers = outcome.peers;
        // A session that is only waited for gives way to one that is wanted, to the same neighbour on another port say.
        config
            .peers
            .sort_by_key(|peer| outcome.lingering.contains(&peer.name));
        for (name, reason) in drop_clashes(&mut config) {
            tracing::info!(
                session = name,
                reason,
                "ended without waiting for the others"
            );
            self.transition.end(&name);
            outcome.lingering.retain(|other| *other != name);
        }
        self.wake = outcome.wake;
        if !outcome.lingering.is_empty() {
            let look = now + PROGRESS_INTERVAL;
            self.wake = Some(self.wake.map_or(look, |wake| wake.min(look)));
        }
        config.cluster_id = outcome.cluster_id;
        config.restarting = self.parts.restarting;
        for peer in &mut config.peers {
            peer.passive &= !self.revived.contains(&peer.name);
            if let Some(message) = self.disabled.get(&peer.name) {
                peer.enabled = false;
                peer.shutdown_text.clone_from(message);
            }
        }
        self.drained.apply(&mut config);
        self.originated = config.originate.len();
        self.lingering = outcome.lingering;
        self.sessions = sessions;
        self.session_problems = problems;
        if let Some(reason) = descriptors::shortage(&config) {
            self.session_problems.push(Problem {
                subject: "BGP speaker".into(),
                reason,
            });
        }
        self.tell(config).await;
        self.publish();
    }

    async fn tell(&mut self, config: SpeakerConfig) {
        if self.told.as_ref() == Some(&config) && self.speaker.is_some() && !self.deaf {
            return;
        }
        let mut failed = match &self.speaker {
            Some(_) => None,
            None => self.start(config.clone()).await.err(),
        };
        self.deaf = false;
        // A speaker that has just started is asked, too: it starts without an address that cannot be listened on.
        if let Some(running) = &self.speaker
            && let Err(error) = running.handle.configure(config.clone()).await
        {
            self.deaf = matches!(error, StartError::Listen { .. });
            failed = Some(in_words(&error));
        }
        if failed.is_none() || self.deaf {
            self.told = Some(config);
        }
        match failed {
            None => self.retry = START_RETRY.0,
            Some(reason) => {
                tracing::error!(reason, "the speaker does not take its configuration");
                self.session_problems.push(Problem {
                    subject: "BGP speaker".into(),
                    reason,
                });
                let again = Instant::now() + self.retry;
                self.retry = (self.retry * 2).min(START_RETRY.1);
                self.wake = Some(self.wake.map_or(again, |wake| wake.min(again)));
            }
        }
    }

    /// Says how next hops are reached.
    async fn answer(&mut self) {
        let underlay = self.parts.underlay.borrow().clone();
        let (Some(running), Some(underlay)) = (&mut self.speaker, underlay) else {
            return;
        };
        let gateways = self
            .sessions
            .iter()
            .filter_map(|session| Some((session.address, session.reachable_by?)))
            .collect();
        let answers = running
            .next_hops
            .answers(&Resolver::new(&underlay, gateways), interface_name);
        if !answers.is_empty()
            && let Err(error) = running.handle.next_hops(answers).await
        {
            tracing::debug!(%error, "nobody wants to know of next hops");
        }
    }

    async fn start(&mut self, config: SpeakerConfig) -> Result<(), String> {
        if let Some(shortage) = descriptors::shortage(&config) {
            tracing::warn!("{shortage}");
        }
        let options = SpeakerOptions {
            seed: self.parts.seed,
            ..SpeakerOptions::default()
        };
        let (handle, events, join) = transport::start(config, options)
            .await
            .map_err(|error| in_words(&error))?;
        self.handle.send_replace(Some(handle.clone()));
        self.speaker = Some(Running {
            handle,
            events,
            next_hops: NextHops::default(),
            join,
        });
        self.parts.speaker_ready.release();
        Ok(())
    }

    /// A speaker that ended by itself is a bug; the kernel keeps its routes, and a new speaker starts as after a crash.
    async fn speaker_ended(&mut self) {
        tracing::error!("the speaker ended; starting another");
        if let Some(running) = self.speaker.take() {
            drop(running.handle);
            let _ = running.join.await;
        }
        self.handle.send_replace(None);
        self.parts.restarting = true;
        self.incomplete = Family::ALL.into_iter().collect();
        self.best = Arc::default();
        self.wake = Some(Instant::now() + self.retry);
    }

    async fn progress(&self, wanted: &SpeakerConfig) -> Progress {
        let Some(running) = &self.speaker else {
            return Progress::default();
        };
        let names: BTreeSet<&str> = wanted.peers.iter().map(|peer| peer.name.as_str()).collect();
        let leaving: BTreeSet<&str> = self
            .told
            .iter()
            .flat_map(|config| &config.peers)
            .map(|peer| peer.name.as_str())
            .filter(|name| !names.contains(name))
            .collect();
        if leaving.is_empty() {
            return Progress::default();
        }
        let Ok(snapshot) = running.handle.snapshot().await else {
            return Progress::default();
        };
        let mut progress = Progress::default();
        for peer in snapshot
            .peers
            .iter()
            .filter(|peer| peer.state == State::Established)
        {
            progress.established.insert(peer.name.to_string());
            if peer
                .families
                .iter()
                .all(|family| !family.negotiated || family.end_of_rib_received)
            {
                progress.complete.insert(peer.name.to_string());
            }
        }
        let owned = |names: BTreeSet<&str>| names.into_iter().map(str::to_owned).collect();
        progress.uncovered = running
            .handle
            .uncovered(owned(leaving), owned(names))
            .await
            .unwrap_or_default();
        progress
    }

    fn desired(&self) -> Duration {
        let cluster = Arc::clone(&self.parts.cluster.borrow());
        let Some(underlay) = self.parts.underlay.borrow().clone() else {
            return Duration::ZERO;
        };
        // Before anything is known of the cluster there is nothing to want.
        if !known(&cluster) {
            return Duration::ZERO;
        }
        let start = Instant::now();
        let mut keep_unlisted = self.incomplete.clone();
        if self.parts.unexplained.load(Ordering::Relaxed) {
            keep_unlisted.extend(Family::ALL);
        }
        let settings = Settings {
            protocol: self.parts.protocol,
            keep_unlisted,
            option_memory: self.told.as_ref().map_or(0, transport::option_memory),
        };
        let state = Arc::new(desired(&cluster, &self.best, &underlay, &settings));
        let took = start.elapsed();
        self.parts.metrics.desired_seconds.set(took.as_secs_f64());
        self.parts.metrics.desired_runs.inc();
        self.parts.desired.send_replace(Some(state));
        self.publish();
        took
    }

    fn publish(&self) {
        let desired = self.parts.desired.borrow().clone();
        let mut problems = self.session_problems.clone();
        problems.extend(
            desired
                .iter()
                .flat_map(|state| state.problems.iter().cloned()),
        );
        problems.sort();
        problems.dedup();
        self.view.send_replace(Arc::new(View {
            sessions: self.sessions.clone(),
            lingering: self.lingering.clone(),
            disabled: self.disabled.clone(),
            problems,
            best: Arc::clone(&self.best),
            incomplete: self.incomplete.clone(),
            originated: self.originated,
            desired,
        }));
    }
}

/// Whether anything is known of the cluster: the datastore was read whole, or a view of an earlier run stands in for it.
fn known(cluster: &ClusterState) -> bool {
    cluster.in_sync || cluster.from_saved_view
}

async fn next_event(speaker: &mut Option<Running>) -> Option<SpeakerEvent> {
    match speaker {
        Some(running) => running.events.recv().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn wanted(config: &SpeakerConfig, sessions: &[Session]) -> Vec<Wanted> {
    let by_name: BTreeMap<String, &Session> = sessions
        .iter()
        .map(|session| (session.name(), session))
        .collect();
    config
        .peers
        .iter()
        .filter_map(|peer| {
            let session = by_name.get(&peer.name)?;
            Some(Wanted {
                config: peer.clone(),
                asked_by: if session.origin == Origin::Mesh {
                    "mesh".to_owned()
                } else {
                    format!("{} {}", session.origin.as_str(), session.object)
                },
                node: session.node.clone(),
                internal: session.internal(),
            })
        })
        .collect()
}

/// Takes a change of the speaker's into the best routes of the kernel's.
pub(crate) fn apply(best: &mut BestRoutes, change: RouteChange) {
    match change.best.and_then(learned) {
        Some(route) => best.routes.insert(change.prefix, route),
        None => best.routes.remove(&change.prefix),
    };
}

/// What matters of a best route; nothing where it is our own and there is nothing to be done for it.
fn learned(best: BestRoute) -> Option<Learned> {
    let name: &str = match &best.source {
        RouteSource::Peer { name, .. } => name,
        RouteSource::Local if best.discard => "this speaker",
        RouteSource::Local => return None,
    };
    Some(Learned {
        next_hops: best
            .next_hops
            .iter()
            .enumerate()
            .map(|(place, hop)| LearnedHop {
                weight: best.weights.get(place).copied(),
                address: hop.address,
                interface: hop.interface_index.and_then(interface_name),
            })
            .collect(),
        peer: name.to_owned(),
        local_pref: Some(best.local_pref.0),
        stale: best.stale,
        discard: best.discard,
    })
}

pub(crate) fn interface_name(index: u32) -> Option<String> {
    nix::net::if_::if_indextoname(index)
        .ok()?
        .into_string()
        .ok()
}

fn in_words(error: &StartError) -> String {
    match error {
        StartError::Listen { source, .. } | StartError::Thread(source) => {
            format!("{error}: {source}")
        }
        StartError::Config(_) | StartError::Ended(_) => error.to_string(),
    }
}
