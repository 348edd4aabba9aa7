//! The task that owns the speaker; the only place that reads the clock.
//!
//! Each round takes in what happened (reports of connections, commands, accepted connections, passed deadlines), lets the
//! speaker do a slice of its work, and carries out what it asks for. While work is left the round after follows at once, but
//! looks after everything else first: a table pass of a second delays neither a KEEPALIVE, which the connections send by
//! themselves, nor a timer by more than a slice.
//!
//! While the task waits, the driver lies on its [`Desk`]. A connection that reads messages while it rests there has them handled
//! on the spot, without a message to another task. Rest begins [`REST`] after the last round: what comes in quick succession goes
//! the way of the queue, so that one round answers many peers with few system calls.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::bfd::Paths;
use super::collector::{self, Collectors};
use super::connection::{self, Attention, ConnectionId, News, Report, Reports, Shared};
use super::links::Links;
use super::listener::{Arrival, Listeners};
use super::sockopt::{self, Signature};
use super::{Command, SpeakerEvent, StartError};
use crate::bfd;
use crate::fsm::{Direction, State};
use crate::prefix::Prefix;
use crate::speaker::config::{Listen, PeerConfig, SpeakerConfig};
use crate::speaker::events::{Origin, PeerEventKind};
use crate::speaker::snapshot::RouteInfo;
use crate::speaker::{Accepted, Output, PeerId, RouteDump, Speaker, SpeakerShutdown, TableEvent};

/// Prefixes decided, and told, in one slice: a few milliseconds.
const SLICE: usize = 2048;

/// Reports taken in one round before the speaker works on them.
const REPORTS: usize = 64;

/// Time after which a round stops taking reports.
const ROUND: Duration = Duration::from_millis(4);

/// The driver rests when nothing happened for so long.
const REST: Duration = Duration::from_millis(1);

/// Deadlines are met within a slice or two, unless something held us up.
const LATE: Duration = Duration::from_millis(50);

/// Changes of routes in one event.
const CHANGES: usize = 4096;

/// How long sessions may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// Refused connections are logged at most so often.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Refused connections that may read why at once; each keeps a descriptor for a few seconds.
const FAREWELLS: usize = 64;

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

/// A connection that counts.
#[derive(Debug)]
struct Live {
    shared: Arc<Shared>,
    /// The other end, once there is one.
    remote: Option<SocketAddr>,
    /// How its segments are signed.
    signature: Signature,
    /// For whom the keys were set on the listener that it was accepted by.
    keyed: Option<Prefix>,
    /// While we dial a peer whose segments the kernel may drop without a word: what it had dropped before.
    begun: Option<Drops>,
}

/// Counters of dropped segments, by name.
type Drops = Vec<(String, u64)>;

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

/// Where the driver lies while its task waits, for connections to find it there.
#[derive(Debug, Default)]
pub(super) struct Desk {
    driver: Mutex<Option<Box<Driver>>>,
}

impl Desk {
    /// Has the driver handle messages on the spot; gives them back where it does not rest here.
    pub(super) fn take(&self, report: Report) -> Result<(), Report> {
        let mut desk = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut driver) = desk.take_if(|driver| driver.active.elapsed() >= REST) else {
            return Err(report);
        };
        let _alarm = Alarm(Arc::clone(&driver.attention));
        driver.at_once(report);
        *desk = Some(driver);
        Ok(())
    }

    fn put(&self, driver: Box<Driver>) {
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(driver);
    }

    fn clear(&self) -> Option<Box<Driver>> {
        self.driver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// The driver's task at its desk: when the task goes, so does the driver.
struct Seat(Arc<Desk>);

impl Drop for Seat {
    fn drop(&mut self) {
        drop(self.0.clear());
    }
}

/// Wakes the driver's task where a connection's panics with the driver in its hands: the speaker ends then.
struct Alarm(Arc<Attention>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.raised.notify_one();
        }
    }
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
        while let Ok(accepted) = inboxes.accepted.try_recv() {
            self.accept(accepted);
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
                // The key may have changed since we dialled.
                if let Some(config) = self.speaker.peer_config(peer).cloned() {
                    self.sign(peer, &config);
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

    fn accept(&mut self, arrival: Arrival) {
        let Arrival {
            stream,
            local,
            remote,
            listener,
        } = arrival;
        let connected = |peer: &PeerConfig| {
            self.speaker.peer_named(&peer.name).is_some_and(|id| {
                Direction::ALL.into_iter().any(|direction| {
                    let live = self.connections.get(&(id, direction));
                    live.is_some_and(|live| live.remote.is_some())
                })
            })
        };
        let netns = listener.binding.netns.as_ref();
        if self.links.called(&self.written, netns, remote, connected) {
            drop(self.configure());
        }
        let accepted = self
            .speaker
            .accept_on(remote, local, &listener.binding, now());
        // An earlier connection of the same peer may have to go first.
        self.carry_out();
        let (peer, direction) = match accepted {
            Accepted::Peer(peer, direction) => (peer, direction),
            Accepted::Refused(last_words) => return self.refuse(stream, remote, last_words),
        };
        let Some(config) = self.speaker.peer_config(peer).cloned() else {
            return;
        };
        let signature = Signature::of(&config);
        let prepared = self
            .listeners
            .protects(&listener, &config, remote)
            .and_then(|keyed| {
                sockopt::adopt(&stream, Prefix::host(remote.ip()), &signature)?;
                sockopt::prepare(&stream, &config, remote.is_ipv6())?;
                Ok(keyed)
            });
        let keyed = match prepared {
            Ok(keyed) => keyed,
            Err(error) => {
                warn!(peer = %config.name, %error, "cannot take a connection");
                self.speaker.note_trouble(
                    peer,
                    &format!("cannot take a connection of {}: {error}", config.name),
                );
                self.speaker.handle_closed(peer, direction, now());
                self.carry_out();
                return;
            }
        };
        let shared = self.insert(peer, direction, Some(remote), signature);
        if let Some(live) = self.connections.get_mut(&(peer, direction)) {
            live.keyed = keyed;
        }
        self.tasks
            .spawn(connection::accepted(stream, shared, self.to_us()));
        self.speaker
            .handle_connected(peer, direction, local, remote, now());
        self.carry_out();
    }

    /// Turns a connection away: with a NOTIFICATION where the speaker knows who it is and not too many are read that already,
    /// else with a reset, which costs the other side less than a timeout.
    fn refuse(&mut self, stream: TcpStream, remote: SocketAddr, last_words: Option<Bytes>) {
        self.refused += 1;
        let at = Instant::now();
        if self
            .refusals_logged
            .is_none_or(|last| at - last >= REFUSAL_LOG_INTERVAL)
        {
            info!(%remote, refused = self.refused, "refused a connection");
            self.refusals_logged = Some(at);
        }
        // Whoever calls in a loop must not have our descriptors.
        let room = Arc::clone(&self.farewells).try_acquire_owned().ok();
        match last_words.zip(room) {
            Some((last_words, room)) => {
                self.tasks.spawn(async move {
                    connection::refused(stream, last_words).await;
                    drop(room);
                });
            }
            None => drop(socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))),
        }
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
                    told = true;
                    if let Some(live) = self.connections.get(&(peer, direction)) {
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
                Output::Reconfigured { peer, config } => self.sign(peer, &config),
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

    /// Writes the events since the last call to the log, and wakes whoever follows them.
    fn log_events(&mut self) {
        let last = self.speaker.last_event();
        if last == self.logged {
            return;
        }
        for event in self.speaker.events_after(self.logged) {
            let peer = &*event.peer;
            match &event.kind {
                PeerEventKind::State { from, to, cause } => match cause {
                    Some(cause) => info!(
                        peer, %from, %to, by = Origin::of(cause).name(), reason = %cause, "state"
                    ),
                    None => info!(peer, %from, %to, "state"),
                },
                PeerEventKind::Malformed {
                    reason,
                    action,
                    prefixes,
                    octets,
                    length,
                    more,
                } => {
                    let prefixes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
                    warn!(
                        peer,
                        reason,
                        action = action.name(),
                        prefixes = prefixes.join(" "),
                        octets = format!("{octets:x}"),
                        length,
                        more,
                        "malformed message"
                    );
                }
                // Logged when it was carried out.
                PeerEventKind::Warning(_) => {}
                PeerEventKind::Path {
                    from,
                    to,
                    diagnostic,
                    by,
                } => info!(peer, %from, %to, by = by.name(), %diagnostic, "path"),
                PeerEventKind::Removed(why) => info!(peer, %why, "removed"),
            }
        }
        self.logged = last;
        self.latest_event.send_replace(last);
    }

    fn to_us(&self) -> Reports {
        Reports {
            queue: self.reports.clone(),
            desk: Arc::clone(&self.desk),
        }
    }

    fn dial(&mut self, peer: PeerId, remote: SocketAddr, config: Arc<PeerConfig>) {
        let shared = self.insert(peer, Direction::Outgoing, None, Signature::of(&config));
        if (config.password.is_some() || config.ttl_security.is_some() || !config.tcp_ao.is_empty())
            && let Some(live) = self.connections.get_mut(&(peer, Direction::Outgoing))
        {
            live.begun = Some(sockopt::drop_counters(config.binding.netns.as_deref()));
        }
        let dial = async move {
            let socket = sockopt::dialler(&config, remote)?;
            TcpSocket::from_std_stream(socket.into())
                .connect(remote)
                .await
        };
        self.tasks
            .spawn(connection::dialled(dial, shared, self.to_us()));
    }

    /// Notes why dialling failed; nothing as error means that nobody answered in time. A wrong key or TTL looks like silence, and
    /// only the kernel's counters tell it from a peer that is not there.
    fn note_failure(&mut self, peer: PeerId, begun: Option<Drops>, error: Option<&io::Error>) {
        let Some(config) = self.speaker.peer_config(peer) else {
            return;
        };
        let said = error.map_or_else(|| "timed out".to_owned(), ToString::to_string);
        let silent = error.is_none_or(|error| error.kind() == io::ErrorKind::TimedOut);
        let mut text = format!("connecting to {} failed: {said}", config.name);
        if let Some(begun) = begun.filter(|_| silent) {
            let grown: Vec<String> = sockopt::drop_counters(config.binding.netns.as_deref())
                .into_iter()
                .filter_map(|(name, now)| {
                    let before = begun.iter().find(|(known, _)| *known == name)?.1;
                    (now > before).then(|| format!("{name} +{}", now - before))
                })
                .collect();
            text += &if grown.is_empty() {
                "; segments with another key or TTL are dropped without a word, here or there: compare both ends".to_owned()
            } else {
                format!(
                    "; the kernel dropped segments meanwhile: {}",
                    grown.join(", ")
                )
            };
        }
        self.speaker.note_trouble(peer, &text);
    }

    /// Makes room for a connection; an earlier one of the same peer and direction ends.
    fn insert(
        &mut self,
        peer: PeerId,
        direction: Direction,
        remote: Option<SocketAddr>,
        signature: Signature,
    ) -> Arc<Shared> {
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        let shared = Shared::new(peer, direction, id, Arc::clone(&self.attention));
        let live = Live {
            shared: Arc::clone(&shared),
            remote,
            signature,
            keyed: None,
            begun: None,
        };
        if let Some(earlier) = self.connections.insert((peer, direction), live) {
            earlier.shared.close(false);
        }
        shared
    }

    /// Gives the sockets of a neighbour the keys that hold now.
    fn sign(&mut self, peer: PeerId, config: &PeerConfig) {
        let to = Signature::of(config);
        for direction in Direction::ALL {
            if let Some(live) = self.connections.get_mut(&(peer, direction))
                && let Some(remote) = live.remote
                && live.signature != to
            {
                let from = std::mem::replace(&mut live.signature, to.clone());
                let peers = to.set_for(remote.ip(), live.keyed);
                live.shared.sign(peers, from, to.clone());
            }
        }
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

    /// Passes news on as far as there is room.
    fn tell(&mut self) {
        loop {
            let permit = match self.events.try_reserve() {
                Ok(permit) => Some(permit),
                Err(mpsc::error::TrySendError::Full(())) => {
                    self.blocked = true;
                    return;
                }
                // Nobody listens: news must not pile up all the same.
                Err(mpsc::error::TrySendError::Closed(())) => None,
            };
            let event = if let Some((name, (from, to))) = self.states.pop_first() {
                if from == to {
                    continue;
                }
                SpeakerEvent::PeerStateChanged { name, from, to }
            } else if let Some(first) = self.speaker.poll_next_hop() {
                let mut interests = vec![first];
                while interests.len() < CHANGES
                    && let Some(next) = self.speaker.poll_next_hop()
                {
                    interests.push(next);
                }
                SpeakerEvent::NextHops(interests)
            } else {
                match self.speaker.poll_table_event(CHANGES) {
                    Some(TableEvent::Changes(changes)) => SpeakerEvent::Routes(changes),
                    Some(TableEvent::Complete(family)) => SpeakerEvent::TableComplete(family),
                    None => break,
                }
            };
            if let Some(permit) = permit {
                permit.send(event);
            }
        }
        self.blocked = false;
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
