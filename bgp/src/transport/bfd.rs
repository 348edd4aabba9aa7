//! BFD on sockets, in a thread of the operating system that does nothing else.
//!
//! ```text
//!   driver ──wishes, by peer──►┌────────────┐◄─ datagrams, port 3784 and 4784
//!          ◄──reports──────────│ owns       │
//!                              │ `Sessions` │─► datagrams, a socket and source port per session
//!                              └────────────┘
//! ```
//!
//! Three packets at 100 ms leave no room for a table pass or a runtime's queue, so the sessions share nothing with the speaker but
//! two mailboxes, and the thread waits for neither: it takes wishes only if nobody writes them at that moment, and reports that find
//! no room are joined by peer until they do. It runs before ordinary work where the process may ask for that.
//!
//! Each round takes in the datagrams that wait before it looks at the clock: a packet that is in a socket's queue is not missing,
//! however late this thread was.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use socket2::{SockAddr, Socket};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::bfd_socket::{self, Batch, Place, SOURCE_PORTS};
use super::scheduling;
use crate::bfd::{Counters, MULTIHOP_PORT, Output, Report, SessionConfig, Sessions};
use crate::speaker::PeerId;

/// Reports that may wait for the driver: a thousand paths seldom change at once, and those that find no room are joined.
pub(super) const REPORTS: usize = 256;

/// How often a port is tried that another daemon has.
const LISTEN_RETRY: Duration = Duration::from_secs(5);

/// How often a thread is started where one cannot run.
const START_RETRY: Duration = Duration::from_secs(5);

/// How soon what the driver did not take, or was writing, is looked at again.
const SOON: Duration = Duration::from_millis(1);

/// Batches taken from one socket before the timers are looked at, so that a flood cannot stop the packets we send.
const BATCHES: usize = 16;

/// What the driver wants.
#[derive(Debug, Default)]
struct Wishes {
    /// The latest wish for each path that changed.
    paths: BTreeMap<PeerId, Option<SessionConfig>>,
    /// Say goodbye and end.
    end: bool,
}

#[derive(Debug, Default)]
struct Shared {
    wishes: Mutex<Wishes>,
    counters: SharedCounters,
}

#[derive(Debug, Default)]
struct SharedCounters {
    received: AtomicU64,
    sent: AtomicU64,
    malformed: AtomicU64,
    authenticated: AtomicU64,
    ttl: AtomicU64,
    unknown: AtomicU64,
    transitions: AtomicU64,
    losses: AtomicU64,
}

impl SharedCounters {
    fn store(&self, counters: &Counters) {
        self.received.store(counters.received, Ordering::Relaxed);
        self.sent.store(counters.sent, Ordering::Relaxed);
        self.malformed.store(counters.malformed, Ordering::Relaxed);
        self.authenticated
            .store(counters.authenticated, Ordering::Relaxed);
        self.ttl.store(counters.ttl, Ordering::Relaxed);
        self.unknown.store(counters.unknown, Ordering::Relaxed);
        self.transitions
            .store(counters.transitions, Ordering::Relaxed);
        self.losses.store(counters.losses, Ordering::Relaxed);
    }

    fn load(&self) -> Counters {
        Counters {
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            malformed: self.malformed.load(Ordering::Relaxed),
            authenticated: self.authenticated.load(Ordering::Relaxed),
            ttl: self.ttl.load(Ordering::Relaxed),
            unknown: self.unknown.load(Ordering::Relaxed),
            transitions: self.transitions.load(Ordering::Relaxed),
            losses: self.losses.load(Ordering::Relaxed),
        }
    }
}

/// The driver's end. Dropping it ends the thread without a word.
#[derive(Debug)]
pub(super) struct Paths {
    seed: u64,
    reports: mpsc::Sender<(PeerId, Report)>,
    /// Every path that is to be watched, for a thread that comes after another.
    wished: BTreeMap<PeerId, SessionConfig>,
    running: Option<Running>,
    /// When a thread was last started, or could not be.
    started: Option<Instant>,
}

#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    /// An octet here wakes the thread, its end stops it.
    bell: UnixStream,
    thread: JoinHandle<()>,
}

impl Paths {
    /// No thread runs before a path is to be watched.
    pub(super) const fn new(seed: u64, reports: mpsc::Sender<(PeerId, Report)>) -> Self {
        Self {
            seed,
            reports,
            wished: BTreeMap::new(),
            running: None,
            started: None,
        }
    }

    /// Watches a path from now on as said here, or no more.
    pub(super) fn watch(&mut self, peer: PeerId, path: Option<SessionConfig>, now: Instant) {
        match path {
            Some(config) => self.wished.insert(peer, config),
            None => self.wished.remove(&peer),
        };
        self.keep_running(now);
        if let Some(running) = &mut self.running {
            running.wish(|wishes| {
                wishes.paths.insert(peer, path);
            });
        }
    }

    fn lacks_thread(&self) -> bool {
        !self.wished.is_empty()
            && self
                .running
                .as_ref()
                .is_none_or(|running| running.thread.is_finished())
    }

    /// When a thread that could not be started, or that ended, is to be tried again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        let again = |started| started + START_RETRY;
        self.started.filter(|_| self.lacks_thread()).map(again)
    }

    /// Has a thread run where paths are to be watched; a new one is told of all of them.
    pub(super) fn keep_running(&mut self, now: Instant) {
        if !self.lacks_thread() || self.retry_at().is_some_and(|at| at > now) {
            return;
        }
        if self.running.take().is_some() {
            warn!("the BFD thread ended, and is started anew");
        }
        self.started = Some(now);
        match self.start() {
            Ok(mut running) => {
                running.wish(|wishes| {
                    let paths = self.wished.iter();
                    wishes.paths = paths.map(|(peer, path)| (*peer, Some(*path))).collect();
                });
                self.running = Some(running);
            }
            Err(error) => {
                warn!(%error, "cannot run BFD, and tries again; the paths are not watched")
            }
        }
    }

    fn start(&self) -> io::Result<Running> {
        let (bell, heard) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        heard.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let worker = self.worker(Arc::clone(&shared), heard);
        let thread = std::thread::Builder::new()
            .name("bfd".into())
            .spawn(move || worker.run())?;
        Ok(Running {
            shared,
            bell,
            thread,
        })
    }

    fn worker(&self, shared: Arc<Shared>, bell: UnixStream) -> Worker {
        Worker {
            sessions: Sessions::new(self.seed ^ 0x5eed_0bfd),
            shared,
            bell,
            reports: self.reports.clone(),
            untold: BTreeMap::new(),
            listeners: BTreeMap::new(),
            senders: FxHashMap::default(),
            next_port: source_port(self.seed),
            retry: None,
            batch: Batch::new(),
        }
    }

    /// What was counted so far.
    pub(super) fn counters(&self) -> Counters {
        self.running
            .as_ref()
            .map_or_else(Counters::default, |running| running.shared.counters.load())
    }

    /// Tells every other end that this is on purpose, so that none takes it for the end of a path: whether our routes stay is
    /// for BGP to say.
    pub(super) async fn end(&mut self) {
        self.wished.clear();
        let Some(mut running) = self.running.take() else {
            return;
        };
        running.wish(|wishes| wishes.end = true);
        let joined = tokio::task::spawn_blocking(move || running.thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            warn!("the BFD thread did not end well");
        }
    }
}

impl Running {
    fn wish(&mut self, change: impl FnOnce(&mut Wishes)) {
        {
            let mut wishes = self
                .shared
                .wishes
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            change(&mut wishes);
        }
        // A bell that cannot be rung rings already.
        let _ = self.bell.write(&[1]);
    }
}

/// The first source port to try. Speakers with different seeds begin at different ones.
fn source_port(seed: u64) -> u16 {
    let size = u64::from(SOURCE_PORTS.end() - SOURCE_PORTS.start());
    SOURCE_PORTS.start() + u16::try_from(seed % size).unwrap_or(0)
}

/// A session's way out.
#[derive(Debug)]
struct Sender {
    config: SessionConfig,
    destination: SockAddr,
    /// Nothing where none could be made yet; each packet tries again.
    socket: Option<Socket>,
    /// The last thing that went wrong, so that it is logged once.
    failed: Option<io::ErrorKind>,
}

/// What the thread owns.
#[derive(Debug)]
struct Worker {
    sessions: Sessions<PeerId>,
    shared: Arc<Shared>,
    bell: UnixStream,
    reports: mpsc::Sender<(PeerId, Report)>,
    /// Reports that found no room.
    untold: BTreeMap<PeerId, Report>,
    /// By place, with the number of sessions that need it. Without a socket it is tried again.
    listeners: BTreeMap<Place, (Option<Socket>, usize)>,
    senders: FxHashMap<u32, Sender>,
    next_port: u16,
    /// When listeners without a socket are tried again.
    retry: Option<Instant>,
    batch: Batch,
}

impl Worker {
    fn run(mut self) {
        let scheduling = scheduling::hurry();
        info!(?scheduling, "BFD runs");
        loop {
            let written = match self.wait() {
                Ok(written) => written,
                Err(error) => {
                    warn!(%error, "cannot wait for BFD packets; the paths are no longer watched");
                    return;
                }
            };
            self.receive();
            let end = match written {
                Written::Nothing => false,
                Written::Something => self.take_wishes(),
                Written::Over => return,
            };
            // Read after the packets, which may have waited longer than any timer.
            self.sessions.handle_timeout(Instant::now());
            if end {
                self.sessions.remove_all(Instant::now());
            }
            self.carry_out();
            self.tell();
            self.shared.counters.store(&self.sessions.counters());
            if end {
                return;
            }
        }
    }

    /// Waits for a packet, a wish or a deadline.
    fn wait(&mut self) -> io::Result<Written> {
        let now = Instant::now();
        if self.retry.is_some_and(|at| at <= now) {
            // What waits in a socket that is made anew would be lost.
            self.receive();
            self.listen();
        }
        let soon = (!self.untold.is_empty()).then(|| now + SOON);
        let deadline = [self.sessions.poll_timeout(), self.retry, soon]
            .into_iter()
            .flatten()
            .min();
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(now));
        let mut descriptors = vec![self.bell.as_fd()];
        descriptors.extend(
            self.listeners
                .values()
                .filter_map(|(socket, _)| socket.as_ref().map(std::os::fd::AsFd::as_fd)),
        );
        let ready = bfd_socket::wait(&descriptors, timeout)?;
        if !ready.first().copied().unwrap_or(false) {
            return Ok(Written::Nothing);
        }
        let mut octets = [0; 64];
        loop {
            match (&self.bell).read(&mut octets) {
                Ok(0) => return Ok(Written::Over),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Ok(Written::Something),
            }
        }
    }

    /// Takes the datagrams that wait.
    fn receive(&mut self) {
        for (place, (socket, _)) in &self.listeners {
            let Some(socket) = socket else {
                continue;
            };
            let multihop = place.port() == MULTIHOP_PORT;
            for _ in 0..BATCHES {
                let now = Instant::now();
                let taken = self.batch.receive(socket, multihop, |arrival, octets| {
                    self.sessions.handle_datagram(arrival, octets, now);
                });
                match taken {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        debug!(%place, %error, "cannot receive");
                        break;
                    }
                }
            }
        }
    }

    /// Takes what the driver wants. True where it wants the end.
    fn take_wishes(&mut self) -> bool {
        let mut wishes = match self.shared.wishes.try_lock() {
            Ok(wishes) => wishes,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // It is being written; who writes rings afterwards.
            Err(TryLockError::WouldBlock) => return false,
        };
        let now = Instant::now();
        for (peer, path) in std::mem::take(&mut wishes.paths) {
            match path {
                Some(config) => self.sessions.configure(peer, config, now),
                None => {
                    self.untold.remove(&peer);
                    self.sessions.remove(peer, now);
                }
            }
        }
        wishes.end
    }

    /// Does what the sessions ask for.
    fn carry_out(&mut self) {
        while let Some(output) = self.sessions.poll_output() {
            match output {
                Output::Open { session, config } => self.open(session, config),
                Output::Send { session, octets } => self.send(session, &octets),
                Output::Close { session } => self.close(session),
                Output::TooFar { remote, ttl, least } => warn!(
                    %remote, ttl, least,
                    "dropped a BFD packet that came too far for the hops configured, and will drop all its like without a word"
                ),
                Output::Report { key, report } => {
                    let joined = match self.untold.remove(&key) {
                        Some(earlier) => report.after(&earlier),
                        None => report,
                    };
                    self.untold.insert(key, joined);
                }
            }
        }
    }

    /// Passes reports on as far as there is room.
    fn tell(&mut self) {
        while let Some((peer, report)) = self.untold.pop_first() {
            match self.reports.try_send((peer, report)) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => {
                    self.untold.insert(peer, report);
                    return;
                }
                // The driver is ending, and ends us.
                Err(mpsc::error::TrySendError::Closed(_)) => self.untold.clear(),
            }
        }
    }

    fn open(&mut self, session: u32, config: SessionConfig) {
        let destination = bfd_socket::destination(&config).into();
        self.senders.insert(
            session,
            Sender {
                config,
                destination,
                socket: None,
                failed: None,
            },
        );
        let (_, users) = self.listeners.entry(Place::of(&config)).or_default();
        *users += 1;
        if *users == 1 {
            self.listen();
        }
    }

    /// Makes the listening sockets that are missing. One for every address of a family hears what is for a single one too, and
    /// the kernel would not let both have the port.
    fn listen(&mut self) {
        let mut general: Vec<Place> = self
            .listeners
            .keys()
            .filter(|place| place.is_general())
            .copied()
            .collect();
        for (place, (socket, _)) in &mut self.listeners {
            if general.iter().any(|general| general.covers(place)) {
                *socket = None;
            }
        }
        let mut missing = false;
        let mut open = |place: Place, socket: &mut Option<Socket>| {
            if socket.is_none() {
                match bfd_socket::listener(place) {
                    Ok(made) => *socket = Some(made),
                    Err(error) => {
                        warn!(%place, %error, "cannot listen for BFD packets, and tries again");
                        missing = true;
                    }
                }
            }
            socket.is_some()
        };
        general.retain(|place| {
            let listener = self.listeners.get_mut(place);
            listener.is_some_and(|(socket, _)| open(*place, socket))
        });
        // Another daemon on one address keeps us from all of them at once, but not from each of the others.
        for (place, (socket, _)) in &mut self.listeners {
            if !place.is_general() && !general.iter().any(|general| general.covers(place)) {
                open(*place, socket);
            }
        }
        self.retry = missing.then(|| Instant::now() + LISTEN_RETRY);
    }

    fn send(&mut self, session: u32, octets: &[u8]) {
        let Some(sender) = self.senders.get_mut(&session) else {
            return;
        };
        let result = match &sender.socket {
            Some(socket) => socket.send_to(octets, &sender.destination),
            None => bind_sender(&sender.config, &mut self.next_port).and_then(|made| {
                sender
                    .socket
                    .insert(made)
                    .send_to(octets, &sender.destination)
            }),
        };
        // A packet that cannot be sent is like one that was lost: the other end draws its conclusions.
        let failed = result.err().map(|error| error.kind());
        if failed != sender.failed {
            if let Some(error) = failed {
                info!(remote = %sender.config.remote, %error, "cannot send BFD packets");
            }
            sender.failed = failed;
        }
    }

    fn close(&mut self, session: u32) {
        let Some(sender) = self.senders.remove(&session) else {
            return;
        };
        let place = Place::of(&sender.config);
        if let Some((_, users)) = self.listeners.get_mut(&place) {
            *users -= 1;
            if *users == 0 {
                self.listeners.remove(&place);
                self.listen();
            }
        }
    }
}

/// What the bell says.
enum Written {
    Nothing,
    Something,
    /// Nobody is there any more.
    Over,
}

/// A sending socket on the next free source port.
fn bind_sender(config: &SessionConfig, next_port: &mut u16) -> io::Result<Socket> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in SOURCE_PORTS {
        let port = *next_port;
        *next_port = if port == *SOURCE_PORTS.end() {
            *SOURCE_PORTS.start()
        } else {
            port + 1
        };
        match bfd_socket::sender(config, port) {
            Ok(socket) => return Ok(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> (Paths, mpsc::Receiver<(PeerId, Report)>) {
        let (reports, told) = mpsc::channel(REPORTS);
        (Paths::new(7, reports), told)
    }

    fn config(local: Option<&str>) -> SessionConfig {
        SessionConfig {
            remote: "127.0.9.2".parse().expect("an address"),
            scope: 0,
            local: local.map(|local| local.parse().expect("an address")),
            min_tx: Duration::from_millis(100),
            min_rx: Duration::from_millis(100),
            multiplier: 3,
            multihop: Some(2),
        }
    }

    #[test]
    fn a_port_that_cannot_be_had_everywhere_is_had_where_it_can() {
        let (paths, _told) = paths();
        let (_bell, heard) = UnixStream::pair().expect("a pair");
        let mut worker = paths.worker(Arc::default(), heard);
        let [everywhere, ours, theirs] =
            [None, Some("127.0.9.1"), Some("127.0.9.9")].map(|local| Place::of(&config(local)));
        let daemon = bfd_socket::listener(theirs).expect("listens");
        for place in [everywhere, ours] {
            worker.listeners.insert(place, (None, 1));
            worker.listen();
        }
        let hears = |worker: &Worker, place| worker.listeners[&place].0.is_some();
        assert!(!hears(&worker, everywhere), "another daemon is in the way");
        assert!(hears(&worker, ours));
        assert!(worker.retry.is_some());
        drop(daemon);
    }

    #[test]
    fn a_thread_that_ended_is_followed_by_one_that_watches_the_same_paths() {
        let (mut paths, _told) = paths();
        let begin = Instant::now();
        paths.watch(PeerId(1), Some(config(Some("127.0.9.3"))), begin);
        let running = paths.running.as_mut().expect("runs");
        running.wish(|wishes| wishes.end = true);
        let until = |holds: &dyn Fn() -> bool| {
            while !holds() {
                assert!(begin.elapsed() < Duration::from_secs(60), "it never holds");
                std::thread::yield_now();
            }
        };
        until(&|| paths.lacks_thread());
        assert_eq!(paths.retry_at(), Some(begin + START_RETRY));
        paths.keep_running(begin);
        assert!(paths.lacks_thread(), "not at once");
        paths.keep_running(begin + START_RETRY);
        until(&|| paths.counters().sent > 0);
    }
}
