//! Connections to BMP collectors: a task each, that dials, writes what the driver gives it, and dials again.
//!
//! The driver gives a chunk only where the task has room, so what a collector does not read stays where it is joined by
//! prefix. Nothing is read but the end of the stream: BMP goes one way.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::connection::Attention;
use crate::bmp::message::TerminationReason;
use crate::bmp::{Collector, MonitorId, MonitorOutput};
use crate::speaker::Speaker;

/// Chunks that may wait for the task: one in work, one behind it.
const CHUNKS: usize = 2;
/// Chunks given to one collector in one round.
const PER_ROUND: usize = 4;
/// The first pause between attempts, and the longest (RFC 7854 §3.2 wants exponential backoff).
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(120));
/// How long dialling may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// A collector that takes a chunk no faster than this does not read at all.
const STALLED: Duration = Duration::from_secs(60);
/// How long the last words may take to be written.
const GOODBYE: Duration = Duration::from_secs(1);
/// A connection that held so long begins with the first pause again.
const STABLE: Duration = Duration::from_secs(60);

/// What a collector's task tells the driver.
#[derive(Debug)]
pub(super) enum News {
    /// It is connected, and takes chunks here.
    Connected {
        collector: u64,
        chunks: mpsc::Sender<Bytes>,
    },
    /// It is not any more.
    Closed { collector: u64 },
}

/// The collectors of a configuration.
#[derive(Debug)]
pub(super) struct Collectors {
    tasks: TaskTracker,
    news: mpsc::Sender<News>,
    attention: Arc<Attention>,
    next: u64,
    running: FxHashMap<u64, Running>,
}

#[derive(Debug)]
struct Running {
    collector: Collector,
    connected: Option<(MonitorId, mpsc::Sender<Bytes>)>,
    /// Ends the task when dropped.
    _stop: watch::Sender<()>,
}

impl Collectors {
    pub(super) fn new(
        tasks: TaskTracker,
        news: mpsc::Sender<News>,
        attention: Arc<Attention>,
    ) -> Self {
        Self {
            tasks,
            news,
            attention,
            next: 0,
            running: FxHashMap::default(),
        }
    }

    /// Starts the tasks of new collectors and ends those of others.
    pub(super) fn configure(&mut self, wanted: &[Collector], speaker: &mut Speaker) {
        self.running.retain(|_, running| {
            let stays = wanted.contains(&running.collector);
            if !stays {
                running.end(speaker);
            }
            stays
        });
        for collector in wanted {
            if self
                .running
                .values()
                .any(|running| running.collector == *collector)
            {
                continue;
            }
            let id = self.next;
            self.next += 1;
            let (stop, stopped) = watch::channel(());
            self.running.insert(
                id,
                Running {
                    collector: collector.clone(),
                    connected: None,
                    _stop: stop,
                },
            );
            let task = Task {
                id,
                collector: collector.clone(),
                news: self.news.clone(),
                attention: Arc::clone(&self.attention),
                stopped,
            };
            self.tasks.spawn(task.run());
        }
    }

    /// Ends everything: collectors are told.
    pub(super) fn end(&mut self, speaker: &mut Speaker) {
        for (_, mut running) in self.running.drain() {
            running.end(speaker);
        }
    }

    pub(super) fn take(&mut self, news: News, speaker: &mut Speaker) {
        match news {
            News::Connected { collector, chunks } => {
                let Some(running) = self.running.get_mut(&collector) else {
                    return;
                };
                running.forget(speaker);
                #[expect(
                    clippy::disallowed_methods,
                    reason = "collectors are told when things happened by the calendar; nothing is done by it"
                )]
                let wall = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap_or_default();
                let monitor =
                    speaker.start_monitoring(&running.collector, wall, super::driver::now());
                running.connected = Some((monitor, chunks));
            }
            News::Closed { collector } => {
                if let Some(running) = self.running.get_mut(&collector) {
                    running.forget(speaker);
                }
            }
        }
    }

    /// Gives chunks to those that have room. True while some have both room and news.
    pub(super) fn feed(&mut self, speaker: &mut Speaker) -> bool {
        let mut more = false;
        for running in self.running.values_mut() {
            more |= running.feed(speaker);
        }
        more
    }
}

impl Running {
    fn feed(&mut self, speaker: &mut Speaker) -> bool {
        for _ in 0..PER_ROUND {
            let Some((monitor, chunks)) = &self.connected else {
                return false;
            };
            let Ok(permit) = chunks.try_reserve() else {
                // Full: the task says when there is room. Closed: it says so too.
                return false;
            };
            match speaker.poll_monitor(*monitor, super::driver::now()) {
                MonitorOutput::Octets(octets) if octets.is_empty() => {}
                MonitorOutput::Octets(octets) => permit.send(octets),
                MonitorOutput::Idle => return false,
                MonitorOutput::Overflow => {
                    warn!(collector = %self.collector.address, "BMP: too far behind, begins anew");
                    permit.send(Speaker::last_words(TerminationReason::OutOfResources));
                    self.forget(speaker);
                    return false;
                }
            }
        }
        true
    }

    fn forget(&mut self, speaker: &mut Speaker) {
        if let Some((monitor, _)) = self.connected.take() {
            speaker.stop_monitoring(monitor);
        }
    }

    fn end(&mut self, speaker: &mut Speaker) {
        if let Some((_, chunks)) = &self.connected {
            // Where there is no room it does not read, and will not read this either.
            let last = Speaker::last_words(TerminationReason::AdministrativelyClosed);
            drop(chunks.try_send(last));
        }
        self.forget(speaker);
    }
}

/// The task of one collector.
struct Task {
    id: u64,
    collector: Collector,
    news: mpsc::Sender<News>,
    attention: Arc<Attention>,
    stopped: watch::Receiver<()>,
}

impl Task {
    async fn run(mut self) {
        let (shortest, longest) = PAUSES;
        let mut pause = shortest;
        let mut told = false;
        loop {
            let begun = tokio::time::Instant::now();
            let ended = tokio::select! {
                connected = dial(&self.collector) => connected,
                _ = self.stopped.changed() => return,
            };
            let address = self.collector.address;
            match ended {
                Ok(stream) => {
                    info!(collector = %address, "BMP: connected");
                    told = false;
                    let ended = self.serve(stream).await;
                    if self
                        .news
                        .send(News::Closed { collector: self.id })
                        .await
                        .is_err()
                    {
                        return;
                    }
                    match ended {
                        Ok(()) => info!(collector = %address, "BMP: connection ended"),
                        Err(error) => warn!(collector = %address, %error, "BMP: connection lost"),
                    }
                    if begun.elapsed() >= STABLE {
                        pause = shortest;
                    }
                }
                // Once for each time it goes away, not for each attempt.
                Err(error) if !told => {
                    warn!(collector = %address, %error, "BMP: cannot connect, and tries again");
                    told = true;
                }
                Err(_) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.stopped.changed() => return,
            }
            pause = (pause * 2).min(longest);
        }
    }

    /// Writes chunks until the driver has no more for this connection, or it ends.
    async fn serve(&mut self, mut stream: TcpStream) -> io::Result<()> {
        let (sender, mut chunks) = mpsc::channel(CHUNKS);
        let connected = News::Connected {
            collector: self.id,
            chunks: sender,
        };
        if self.news.send(connected).await.is_err() {
            return Ok(());
        }
        let (mut read, mut write) = stream.split();
        let attention = Arc::clone(&self.attention);
        let writing = async {
            while let Some(chunk) = chunks.recv().await {
                attention.raised.notify_one();
                tokio::time::timeout(STALLED, write.write_all(&chunk))
                    .await
                    .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            }
            write.shutdown().await
        };
        let reading = async {
            let mut nothing = [0; 512];
            // What a collector says means nothing; that it says nothing more ends the connection.
            while read.read(&mut nothing).await? > 0 {}
            Ok(())
        };
        let stopped = async {
            // A last chunk may be on its way, for as long as it takes one that reads.
            let _ = self.stopped.changed().await;
            tokio::time::sleep(GOODBYE).await;
            Ok(())
        };
        tokio::select! {
            ended = writing => ended,
            ended = reading => ended,
            ended = stopped => ended,
        }
    }
}

async fn dial(collector: &Collector) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(collector.address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let socket = socket2::SockRef::from(&stream);
    // A collector that vanished without a word is found out although nothing may be said for hours.
    socket.set_tcp_keepalive(
        &socket2::TcpKeepalive::new()
            .with_time(Duration::from_secs(60))
            .with_interval(Duration::from_secs(20))
            .with_retries(3),
    )?;
    Ok(stream)
}
