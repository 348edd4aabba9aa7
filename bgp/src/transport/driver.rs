//! The task that owns the speaker; the only place that reads the clock.
//!
//! Each round takes in what happened (reports of connections, commands, accepted connections, passed deadlines), lets the
//! speaker do a slice of its work, and carries out what it asks for. While work is left the round after follows at once, but
//! looks after everything else first: a table pass of a second delays neither a KEEPALIVE, which the connections send by
//! themselves, nor a timer by more than a slice.
//!
//! While the task waits, the driver lies on its [`Desk`]. A connection that reads messages while it rests there has them handled
//! on the spot, without a message to another task. Rest begins [`desk::REST`] after the last round: what comes in quick succession goes
//! the way of the queue, so that one round answers many peers with few system calls.
//!
//! Here are the rounds; `driver/connections.rs` has who is dialled and whose calls are taken, `desk.rs` the desk, `news.rs` what is told.

mod connections;
mod desk;
mod news;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

pub(super) use self::connections::FAREWELLS;
use self::connections::Live;
pub(super) use self::desk::Desk;
use self::desk::Seat;
use super::bfd::Paths;
use super::collector::{self, Collectors};
use super::connection::{Attention, News, Report};
use super::links::Links;
use super::listener::{Arrival, Listeners};
use super::{Command, SpeakerEvent, StartError};
use crate::bfd;
use crate::fsm::{Direction, State};
use crate::speaker::config::{Listen, SpeakerConfig};
use crate::speaker::snapshot::RouteInfo;
use crate::speaker::{Output, PeerId, RouteDump, Speaker, SpeakerShutdown};

/// Prefixes decided, and told, in one slice: a few milliseconds.
const SLICE: usize = 2048;

/// Reports taken in one round before the speaker works on them.
const REPORTS: usize = 64;

/// Accepted connections looked at in one round; the others wait a slice longer.
const ARRIVALS: usize = 32;

/// Time after which a round stops taking reports, and again connections.
const ROUND: Duration = Duration::from_millis(4);

/// Deadlines are met within a slice or two, unless something held us up.
const LATE: Duration = Duration::from_millis(50);

/// How long sessions may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// What the driver listens to.
#[derive(Debug)]
pub(super) struct Inboxes {
    pub(super) reports: mpsc::Receiver<Report>,
    pub(super) accepted: mpsc::Receiver<Arrival>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) paths: mpsc::Receiver<(PeerId, bfd::Report)>,
    pub(super) collectors: mpsc::Receiver<collector::News>,
}

/// Where the driver and the tasks it starts write to.
#[derive(Debug)]
pub(super) struct Outboxes {
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) events: mpsc::Sender<SpeakerEvent>,
    pub(super) latest_event: watch::Sender<u64>,
    pub(super) collectors: mpsc::Sender<collector::News>,
}

/// What ended waiting.
enum Wake {
    Report(Report),
    Arrived(Arrival),
    Path(PeerId, bfd::Report),
    Collector(collector::News),
    /// Interfaces or the neighbours on them.
    Links,
    /// Nothing when there is no handle left.
    Command(Option<Command>),
}

/// Everything the task owns.
#[derive(Debug)]
pub(super) struct Driver {
    speaker: Speaker,
    connections: FxHashMap<(PeerId, Direction), Live>,
    next_connection: u64,
    /// The configuration as it was written; the speaker has it with the addresses of the moment.
    written: SpeakerConfig,
    links: Links,
    listeners: Listeners,
    paths: Paths,
    attention: Arc<Attention>,
    reports: mpsc::Sender<Report>,
    desk: Arc<Desk>,
    events: mpsc::Sender<SpeakerEvent>,
    /// News of states that found no room yet: by name the state last told and the latest one.
    states: BTreeMap<Arc<str>, (State, State)>,
    /// There may be news that found no room.
    blocked: bool,
    tasks: TaskTracker,
    /// Queries that are being answered.
    dumps: VecDeque<(RouteDump, oneshot::Sender<Vec<RouteInfo>>)>,
    refused: u64,
    /// One for each refused connection that may still read why.
    farewells: Arc<Semaphore>,
    refusals_logged: Option<Instant>,
    /// The latest event in the log.
    logged: u64,
    collectors: Collectors,
    latest_event: watch::Sender<u64>,
    /// When it last did something.
    active: Instant,
    /// The deadline its task waits for.
    armed: Option<Instant>,
}

/// What the task waits for beside its inboxes.
struct Outlook {
    deadline: Option<Instant>,
    attention: Arc<Attention>,
    links: Arc<Notify>,
    /// Where news found no room.
    blocked: Option<mpsc::Sender<SpeakerEvent>>,
}

/// How to end, and whom to tell when it is done.
struct Stop {
    how: SpeakerShutdown,
    done: Option<oneshot::Sender<()>>,
}

impl Driver {
    pub(super) fn new(
        speaker: Speaker,
        written: SpeakerConfig,
        links: Links,
        listeners: Listeners,
        paths: Paths,
        tasks: TaskTracker,
        outboxes: Outboxes,
    ) -> Self {
        let Outboxes {
            reports,
            events,
            latest_event,
            collectors,
        } = outboxes;
        let attention = Arc::default();
        let collectors = Collectors::new(tasks.clone(), collectors, Arc::clone(&attention));
        Self {
            collectors,
            speaker,
            connections: FxHashMap::default(),
            next_connection: 0,
            written,
            links,
            listeners,
            paths,
            attention,
            reports,
            events,
            states: BTreeMap::new(),
            blocked: false,
            tasks,
            dumps: VecDeque::new(),
            refused: 0,
            farewells: Arc::new(Semaphore::new(FAREWELLS)),
            refusals_logged: None,
            logged: 0,
            latest_event,
            desk: Arc::default(),
            active: Instant::now(),
            armed: None,
        }
    }

    /// Runs until told to stop or until nobody can tell any more.
    pub(super) async fn run(self, mut inboxes: Inboxes) {
        let mut driver = Box::new(self);
        let seat = Seat(Arc::clone(&driver.desk));
        let monitoring = driver.speaker.config().monitoring.clone();
        let Self {
            collectors,
            speaker,
            ..
        } = &mut *driver;
        collectors.configure(&monitoring, speaker);
        driver.note_missing();
        let mut busy = true;
        let stop = loop {
            let wake = if busy {
                // Lets the connections of a single-threaded runtime run too.
                tokio::task::yield_now().await;
                None
            } else {
                let outlook = driver.outlook();
                seat.0.put(driver);
                let wake = wait(&mut inboxes, outlook).await;
                driver = seat
                    .0
                    .clear()
                    .expect("it lies here unless a connection's task panicked with it");
                wake
            };
            if let Some(stop) = driver.take_in(&mut inboxes, wake) {
                break stop;
            }
            if driver.is_late() {
                // What a peer said in time may lie in its socket: the connections have a look first.
                tokio::task::yield_now().await;
                if let Some(stop) = driver.take_in(&mut inboxes, None) {
                    break stop;
                }
            }
            driver.timers();
            busy = driver.work();
            busy |= driver.dump();
        };
        driver.goodbye(&stop.how).await;
        if let Some(done) = stop.done {
            // Whoever asked may have gone.
            let _ = done.send(());
        }
    }

    /// A slice of the speaker's work, and what it asks for. True while more is left.
    fn work(&mut self) -> bool {
        // Peers first.
        let busy = self.speaker.advance(SLICE, now());
        self.carry_out();
        self.tell_others() || busy
    }

    /// What comes once peers were told. True while more is left.
    fn tell_others(&mut self) -> bool {
        self.speaker.tidy();
        self.log_events();
        let feeding = self.collectors.feed(&mut self.speaker);
        self.tell();
        self.active = Instant::now();
        feeding
    }

    /// Handles messages while the task waits. What does not fit into a slice, and what the task must know, it is woken for.
    fn at_once(&mut self, report: Report) {
        self.report(report);
        let mut busy = self.speaker.advance(SLICE, now());
        if self.carry_out() {
            // We come before ordinary work. Whoever was told something and shares our processor shall not wait for what follows.
            std::thread::yield_now();
        }
        busy |= self.tell_others();
        self.written();
        let sooner = match (self.deadline(), self.armed) {
            (Some(deadline), Some(armed)) => deadline < armed,
            (deadline, None) => deadline.is_some(),
            (None, Some(_)) => false,
        };
        // What was written meanwhile may leave room for more.
        if busy || self.blocked || sooner || self.speaker.is_telling() {
            self.attention.raised.notify_one();
        }
    }

    /// When something is to be done by the clock.
    fn deadline(&self) -> Option<Instant> {
        let timers = [
            self.speaker.poll_timeout().map(Instant::from_std),
            self.listeners.retry_at(),
            self.paths.retry_at().map(Instant::from_std),
        ];
        timers.into_iter().flatten().min()
    }

    fn outlook(&mut self) -> Outlook {
        self.armed = self.deadline();
        Outlook {
            deadline: self.armed,
            attention: Arc::clone(&self.attention),
            links: self.links.changed(),
            blocked: self.blocked.then(|| self.events.clone()),
        }
    }

    /// Ends every session and waits until the peers could read why.
    async fn goodbye(&mut self, how: &SpeakerShutdown) {
        self.listeners.close();
        self.links.close();
        self.speaker.shutdown(how, now());
        self.carry_out();
        self.paths.end().await;
        self.log_events();
        // Collectors hear how the sessions ended, where they read.
        self.collectors.feed(&mut self.speaker);
        self.collectors.end(&mut self.speaker);
        for (_, live) in self.connections.drain() {
            live.shared.close(false);
        }
        self.tasks.close();
        if tokio::time::timeout(GOODBYE, self.tasks.wait())
            .await
            .is_err()
        {
            warn!("some peers did not read our goodbye");
        }
    }

    /// Takes in what woke us and whatever else is there, within bounds.
    fn take_in(&mut self, inboxes: &mut Inboxes, first: Option<Wake>) -> Option<Stop> {
        let mut stop = None;
        match first {
            Some(Wake::Report(report)) => self.report(report),
            Some(Wake::Arrived(accepted)) => self.accept(accepted),
            Some(Wake::Path(peer, report)) => self.path(peer, &report),
            Some(Wake::Collector(news)) => self.collectors.take(news, &mut self.speaker),
            Some(Wake::Command(command)) => stop = self.command(command),
            // What could not be listened on is known already.
            Some(Wake::Links) => drop(self.configure()),
            None => {}
        }
        // Before all else: routes through a path that is gone lead nowhere.
        while let Ok((peer, report)) = inboxes.paths.try_recv() {
            self.path(peer, &report);
        }
        self.written();
        let begin = Instant::now();
        for _ in 0..REPORTS {
            let Ok(report) = inboxes.reports.try_recv() else {
                break;
            };
            self.report(report);
            if begin.elapsed() > ROUND {
                break;
            }
        }
        let begin = Instant::now();
        for _ in 0..ARRIVALS {
            let Ok(accepted) = inboxes.accepted.try_recv() else {
                break;
            };
            self.accept(accepted);
            if begin.elapsed() > ROUND {
                break;
            }
        }
        while let Ok(news) = inboxes.collectors.try_recv() {
            self.collectors.take(news, &mut self.speaker);
        }
        let links = self.links.changed();
        if std::pin::pin!(links.notified()).enable() {
            // As above.
            drop(self.configure());
        }
        while stop.is_none() {
            match inboxes.commands.try_recv() {
                Ok(command) => stop = self.command(Some(command)),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => stop = self.command(None),
            }
        }
        stop
    }

    fn path(&mut self, peer: PeerId, report: &bfd::Report) {
        if let (Some(loss), Some(config)) = (report.loss, self.speaker.peer_config(peer)) {
            info!(peer = %config.name, diagnostic = %loss.diagnostic, "BFD: the path is down");
        }
        self.speaker.handle_bfd(peer, report, now());
        self.carry_out();
    }

    fn report(&mut self, report: Report) {
        let Report {
            peer,
            direction,
            id,
            news,
            permit,
        } = report;
        let Some(live) = self.connections.get_mut(&(peer, direction)) else {
            return;
        };
        if live.shared.id() != id {
            // Of a connection that was closed or replaced meanwhile.
            return;
        }
        match news {
            News::Connected { local, remote } => {
                live.remote = Some(remote);
                // They may have changed since we dialled.
                if let Some(config) = self.speaker.peer_config(peer).cloned() {
                    self.sign(peer, &config);
                    self.set_user_timeout(peer, &config);
                }
                self.speaker
                    .handle_connected(peer, direction, local, remote, now());
            }
            News::ConnectFailed(error) => {
                debug!(?peer, %error, "cannot connect");
                let begun = live.begun.take();
                self.connections.remove(&(peer, direction));
                self.note_failure(peer, begun, Some(&error));
                self.speaker.handle_connect_failed(peer, now());
            }
            News::Messages { messages, open } => {
                let now = now();
                if !open.is_empty() {
                    self.speaker.handle_open_octets(peer, direction, open);
                }
                for message in messages {
                    self.speaker.handle_message(peer, direction, message, now);
                }
                // What the machine wants done (close, say) comes before what the next report says of the same connection.
                self.carry_out();
            }
            News::Malformed(error, octets) => {
                self.speaker
                    .handle_offence(peer, direction, error, &octets, now());
                self.carry_out();
            }
            News::Closed(error) => {
                debug!(?peer, %direction, ?error, "connection closed");
                self.connections.remove(&(peer, direction));
                self.speaker.handle_closed(peer, direction, now());
                self.carry_out();
            }
        }
        drop(permit);
    }

    /// Tells the speaker what the kernel took.
    fn written(&mut self) {
        for (peer, direction, id) in self.attention.take() {
            let Some(live) = self.connections.get(&(peer, direction)) else {
                continue;
            };
            if live.shared.id() == id {
                let octets = live.shared.take_written();
                self.speaker.handle_written(peer, direction, octets, now());
            }
        }
    }

    /// Whether a deadline passed long before we came to look: this process stood still, or one step took long.
    fn is_late(&self) -> bool {
        let deadline = self.speaker.poll_timeout();
        deadline.is_some_and(|deadline| now() > deadline + LATE)
    }

    fn timers(&mut self) {
        self.listeners.retry();
        let at = now();
        self.paths.keep_running(at);
        if self
            .speaker
            .poll_timeout()
            .is_none_or(|deadline| deadline > at)
        {
            return;
        }
        // A peer whose messages wait for us is not silent.
        for ((peer, direction), live) in &self.connections {
            if live.shared.has_undelivered() {
                self.speaker.handle_heard(*peer, *direction, at);
            }
        }
        self.speaker.handle_timeout(at);
    }

    fn command(&mut self, command: Option<Command>) -> Option<Stop> {
        match command {
            // Without a handle nobody could ever stop us.
            None => {
                return Some(Stop {
                    how: SpeakerShutdown::KeepForwarding,
                    done: None,
                });
            }
            Some(Command::Configure(config, reply)) => {
                let result = config
                    .validate()
                    .map_err(StartError::Config)
                    .and_then(|()| {
                        self.collectors
                            .configure(&config.monitoring, &mut self.speaker);
                        self.written = *config;
                        self.configure()
                            .map_err(|(address, source)| StartError::Listen {
                                address: Box::new(address),
                                source,
                            })
                    });
                self.carry_out();
                drop(reply.send(result));
            }
            Some(Command::Snapshot(reply)) => {
                let mut snapshot = self.speaker.snapshot(now());
                snapshot.bfd = self.paths.counters();
                drop(reply.send(snapshot));
            }
            Some(Command::Routes(query, reply)) => {
                self.dumps.push_back((RouteDump::new(query), reply));
            }
            Some(Command::Uncovered(leaving, staying, reply)) => {
                drop(reply.send(self.speaker.uncovered(&leaving, &staying)));
            }
            Some(Command::Events(after, reply)) => {
                let _ = reply.send(self.speaker.events_after(after));
            }
            Some(Command::Addresses(reply)) => drop(reply.send(self.listeners.addresses())),
            Some(Command::Clear(name, clear, text, reply)) => {
                let found = self
                    .speaker
                    .clear_saying(&name, clear, text.as_deref(), now());
                self.carry_out();
                let _ = reply.send(found);
            }
            Some(Command::NextHops(states, reply)) => {
                self.speaker.handle_next_hops(&states);
                // Whoever said so may have gone.
                let _ = reply.send(());
            }
            Some(Command::Shutdown(how, reply)) => {
                return Some(Stop {
                    how,
                    done: Some(reply),
                });
            }
        }
        None
    }

    /// Puts what was written in force, with the addresses that peers on links have at the moment.
    fn configure(&mut self) -> Result<(), (Listen, io::Error)> {
        self.links.configure(&self.written);
        let config = self.links.resolve(&self.written);
        let listening = self.listeners.configure(&config);
        self.speaker.configure(config, now());
        self.note_missing();
        self.carry_out();
        listening
    }

    /// Says of peers on links why they are not dialled.
    fn note_missing(&mut self) {
        for peer in &self.written.peers {
            if let Some(reason) = self.links.missing(peer)
                && let Some(id) = self.speaker.peer_named(&peer.name)
            {
                self.speaker.note_trouble(id, &reason);
            }
        }
    }

    /// Does what the speaker asks for; says whether a peer was told something.
    fn carry_out(&mut self) -> bool {
        let mut told = false;
        while let Some(output) = self.speaker.poll_output() {
            match output {
                Output::Connect {
                    peer,
                    remote,
                    config,
                } => self.dial(peer, remote, config),
                Output::Send {
                    peer,
                    direction,
                    chunks,
                } => {
                    if let Some(live) = self.connections.get(&(peer, direction)) {
                        told = true;
                        live.shared.send(chunks);
                    }
                }
                Output::Close {
                    peer,
                    direction,
                    linger,
                } => {
                    if let Some(mut live) = self.connections.remove(&(peer, direction)) {
                        live.shared.close(linger);
                        // Nobody answered until the next attempt was due.
                        if let (Direction::Outgoing, None) = (direction, live.remote) {
                            self.note_failure(peer, live.begun.take(), None);
                        }
                    }
                }
                Output::UseContext {
                    peer,
                    direction,
                    context,
                    keepalive_interval,
                } => {
                    if let Some(live) = self.connections.get(&(peer, direction)) {
                        live.shared.use_context(context, keepalive_interval);
                    }
                }
                Output::Reconfigured { peer, config } => {
                    self.sign(peer, &config);
                    self.set_user_timeout(peer, &config);
                }
                Output::Watch { peer, path } => self.paths.watch(peer, path, now()),
                Output::PeerStateChanged { name, from, to, .. } => {
                    self.states
                        .entry(name)
                        .and_modify(|(_, latest)| *latest = to)
                        .or_insert((from, to));
                }
                Output::PeerWarning { name, warning, .. } => warn!(peer = %name, "{warning}"),
                Output::PeerRemoved { peer } => {
                    for direction in Direction::ALL {
                        if let Some(live) = self.connections.remove(&(peer, direction)) {
                            live.shared.close(false);
                        }
                    }
                }
            }
        }
        told
    }

    /// Answers queries, a slice a round. True while more is left.
    fn dump(&mut self) -> bool {
        if let Some((dump, reply)) = self.dumps.front_mut()
            && (reply.is_closed() || !self.speaker.dump(dump, SLICE))
            && let Some((dump, reply)) = self.dumps.pop_front()
        {
            // Whoever asked may have gone.
            let _ = reply.send(dump.into_routes());
        }
        !self.dumps.is_empty()
    }
}

/// Waits until there is something to do. Every arm is cancel-safe: receiving from a channel, a permit or a notification loses
/// nothing when another arm is first.
async fn wait(inboxes: &mut Inboxes, outlook: Outlook) -> Option<Wake> {
    let room = async {
        match &outlook.blocked {
            Some(events) => drop(events.reserve().await),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        path = inboxes.paths.recv() => path.map(|(peer, report)| Wake::Path(peer, report)),
        report = inboxes.reports.recv() => report.map(Wake::Report),
        accepted = inboxes.accepted.recv() => accepted.map(Wake::Arrived),
        news = inboxes.collectors.recv() => news.map(Wake::Collector),
        command = inboxes.commands.recv() => Some(Wake::Command(command)),
        () = outlook.attention.raised.notified() => {
            // Connections that take octets as fast as they are made must not keep the others from running.
            tokio::task::yield_now().await;
            None
        }
        () = outlook.links.notified() => Some(Wake::Links),
        () = sleep_until(outlook.deadline) => None,
        () = room => None,
    }
}

/// The clock of the runtime, so that tests may pause it.
pub(super) fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Sleeps until a deadline, for ever where there is none.
pub(super) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
