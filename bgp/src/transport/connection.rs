//! One task per TCP connection: frames in, buffers out.
//!
//! Reading and writing go on side by side in the task, so a speaker that is slow to take messages never holds up a KEEPALIVE,
//! and a peer that does not read never holds up what it says.
//!
//! In: whatever the kernel has is read into a buffer the thread's connections share, framed and decoded in place, and handed
//! over as one batch: at once where the driver rests (see [`Desk`]), else by a queue. A connection has at most [`BATCHES`] batches
//! under way; then its octets wait in the kernel and TCP slows the peer down. After an OPEN nothing is decoded until the speaker
//! says what was settled, because from there on octets mean something else. What was read is acknowledged when it was handed over.
//!
//! Out: the speaker's chunks are shared buffers, many to a system call. Where nothing is queued they are offered to the kernel at
//! once, by whoever hands them over. What it does not take, and KEEPALIVEs, between two chunks, are the business of a task.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use smallvec::SmallVec;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tracing::warn;

use super::driver::Desk;
use super::sockopt::{self, Role, Signature};
use crate::codec::{
    CodecContext, DecodeError, Decoder, EXTENDED_MAX_LEN, HEADER_LEN, KEEPALIVE, Message,
    MessageType, framing,
};
use crate::fsm::Direction;
use crate::prefix::Prefix;
use crate::speaker::{PeerId, WINDOW};

/// Batches of one connection that may wait for the speaker: one in work, one behind it.
const BATCHES: usize = 2;

/// Octets read at most in one go: enough for a system call to cost nothing beside decoding, little enough that a batch is
/// handled within a millisecond. Decoded, prefixes take several times the room, and a thousand connections may have two
/// batches each under way.
const READ_LEN: usize = 16 * 1024;

/// Room for that behind the beginning of the longest message.
const SCRATCH_LEN: usize = READ_LEN + EXTENDED_MAX_LEN;

/// Chunks written in one system call.
const SLICES: usize = 64;

/// Unreported octets from which on the speaker is told although more is queued: half of what it allows itself.
const REPORT_LEN: usize = WINDOW / 2;

/// A queue longer than this is not written out for a peer that is leaving.
const GOODBYE_LEN: usize = 64 * 1024;

/// How long a peer may take to read our last words.
const LINGER: Duration = Duration::from_secs(3);

thread_local! {
    /// Where every connection of a thread reads into: nothing stays here across an await, so a thousand idle connections hold
    /// no buffers.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_LEN]);
}

/// Names one TCP connection for good; a neighbour's next connection has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ConnectionId(pub(super) u64);

/// What a connection's task tells the driver.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) peer: PeerId,
    pub(super) direction: Direction,
    pub(super) id: ConnectionId,
    pub(super) news: News,
    /// Given back when the report was handled.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// What happened on a connection.
#[derive(Debug)]
pub(super) enum News {
    /// Dialling succeeded.
    Connected {
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// Dialling failed.
    ConnectFailed(io::Error),
    /// Messages came, in this order.
    Messages {
        messages: Vec<Message>,
        /// How the last one came, if it is an OPEN.
        open: Bytes,
    },
    /// Octets came that are no message; nothing more is read.
    Malformed(DecodeError, Bytes),
    /// The peer closed, or the socket failed.
    Closed(Option<io::Error>),
}

/// Connections that have something to be noted, without a message each.
#[derive(Debug, Default)]
pub(super) struct Attention {
    list: Mutex<Vec<(PeerId, Direction, ConnectionId)>>,
    pub(super) raised: Notify,
}

impl Attention {
    pub(super) fn take(&self) -> Vec<(PeerId, Direction, ConnectionId)> {
        std::mem::take(&mut *lock(&self.list))
    }
}

/// How a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Not yet.
    Open,
    /// Write what is queued, let the peer read it.
    Linger,
    /// At once.
    Abort,
}

/// What driver and task share of one connection.
#[derive(Debug)]
pub(super) struct Shared {
    peer: PeerId,
    direction: Direction,
    id: ConnectionId,
    out: Mutex<Outbox>,
    out_changed: Notify,
    context: Mutex<Option<CodecContext>>,
    context_given: Notify,
    batches: Arc<Semaphore>,
    written: AtomicUsize,
    listed: AtomicBool,
    attention: Arc<Attention>,
}

#[derive(Debug)]
struct Outbox {
    chunks: VecDeque<Bytes>,
    /// A part of the first chunk is written.
    begun: bool,
    /// Octets of KEEPALIVEs among the chunks: the speaker does not know of them.
    ours: usize,
    /// The socket, while there is one.
    writer: Option<Arc<OwnedWriteHalf>>,
    keepalive: Option<Duration>,
    key: Option<(Prefix, Signature, Signature)>,
    /// What the socket is to be set to as soon as there is one.
    user_timeout: Option<Duration>,
    ending: Ending,
}

/// What became of offering chunks to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pushed {
    /// Nothing is left.
    All,
    /// It took something.
    Some,
    /// There is no room.
    None,
    /// The socket failed.
    Failed,
}

impl Shared {
    pub(super) fn new(
        peer: PeerId,
        direction: Direction,
        id: ConnectionId,
        attention: Arc<Attention>,
    ) -> Arc<Self> {
        Arc::new(Self {
            peer,
            direction,
            id,
            out: Mutex::new(Outbox {
                chunks: VecDeque::new(),
                begun: false,
                ours: 0,
                writer: None,
                keepalive: None,
                key: None,
                user_timeout: None,
                ending: Ending::Open,
            }),
            out_changed: Notify::new(),
            context: Mutex::new(None),
            context_given: Notify::new(),
            batches: Arc::new(Semaphore::new(BATCHES)),
            written: AtomicUsize::new(0),
            listed: AtomicBool::new(false),
            attention,
        })
    }

    pub(super) const fn id(&self) -> ConnectionId {
        self.id
    }

    /// Writes chunks, as far as the kernel takes them at once, and queues the rest.
    pub(super) fn send(&self, chunks: Vec<Bytes>) {
        let mut out = lock(&self.out);
        let idle = out.chunks.is_empty();
        out.chunks.extend(chunks);
        if idle && self.push(&mut out, false) == Pushed::All {
            return;
        }
        drop(out);
        self.out_changed.notify_one();
    }

    /// Offers what is queued to the kernel. `waited` says that it had no room before: the speaker may hold back more.
    fn push(&self, out: &mut Outbox, waited: bool) -> Pushed {
        let Some(writer) = &out.writer else {
            return Pushed::None;
        };
        match try_write(writer.as_ref().as_ref(), &out.chunks) {
            Ok(written) => {
                out.begun = consume(&mut out.chunks, written);
                let keepalives = written.min(out.ours);
                out.ours -= keepalives;
                let reported = written - keepalives;
                let all = out.chunks.is_empty();
                // With less than that unreported and nothing queued the speaker holds nothing back.
                let wake = reported > 0
                    && (all && waited
                        || self.written.load(Ordering::Relaxed) + reported >= REPORT_LEN);
                self.note_written(reported, wake);
                if all { Pushed::All } else { Pushed::Some }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Pushed::None,
            Err(_) => Pushed::Failed,
        }
    }

    /// Says how to read on after the OPEN, and how often to send KEEPALIVEs.
    pub(super) fn use_context(&self, context: CodecContext, keepalive: Option<Duration>) {
        *lock(&self.context) = Some(context);
        self.context_given.notify_one();
        lock(&self.out).keepalive = keepalive;
        self.out_changed.notify_one();
    }

    /// Changes the keys of the socket under the running session.
    pub(super) fn sign(&self, peer: Prefix, from: Signature, to: Signature) {
        let mut out = lock(&self.out);
        // Of two changes the task has not made yet, the socket is at the beginning of the first.
        let from = out.key.take().map_or(from, |(_, first, _)| first);
        out.key = Some((peer, from, to));
        drop(out);
        self.out_changed.notify_one();
    }

    /// Changes how long the kernel waits for acknowledgements under the running session. At once: the window of the peer may be
    /// closed, and the time be running.
    pub(super) fn set_user_timeout(&self, timeout: Duration) {
        let mut out = lock(&self.out);
        out.user_timeout = Some(timeout);
        out.take_user_timeout();
    }

    /// Ends the connection. Its task reports nothing that counts afterwards.
    pub(super) fn close(&self, linger: bool) {
        let mut out = lock(&self.out);
        out.ending = if linger {
            Ending::Linger
        } else {
            Ending::Abort
        };
        drop(out);
        self.out_changed.notify_one();
    }

    /// Whether the peer said something the speaker has not seen yet.
    pub(super) fn has_undelivered(&self) -> bool {
        self.batches.available_permits() < BATCHES
    }

    /// Octets the kernel took since the last call.
    pub(super) fn take_written(&self) -> usize {
        self.listed.store(false, Ordering::Release);
        self.written.swap(0, Ordering::AcqRel)
    }

    /// Notes octets the kernel took; `wake` where the driver shall know at once.
    fn note_written(&self, octets: usize, wake: bool) {
        self.written.fetch_add(octets, Ordering::AcqRel);
        if !self.listed.swap(true, Ordering::AcqRel) {
            lock(&self.attention.list).push((self.peer, self.direction, self.id));
        }
        if wake {
            self.attention.raised.notify_one();
        }
    }

    /// Lets a driver that rests take messages at once, if nothing of this connection is queued before them; queues them else.
    /// False where nobody wants them any more.
    async fn deliver(&self, news: News, reports: &Reports) -> bool {
        let report = self.report(news, None);
        let report = match self.has_undelivered() {
            true => Err(report),
            false => reports.desk.take(report),
        };
        let Err(report) = report else {
            return true;
        };
        let Ok(permit) = Arc::clone(&self.batches).acquire_owned().await else {
            return false;
        };
        let report = Report {
            permit: Some(permit),
            ..report
        };
        reports.queue.send(report).await.is_ok()
    }

    fn report(&self, news: News, permit: Option<OwnedSemaphorePermit>) -> Report {
        Report {
            peer: self.peer,
            direction: self.direction,
            id: self.id,
            news,
            permit,
        }
    }
}

impl Outbox {
    fn take_user_timeout(&mut self) {
        if let Some(writer) = &self.writer
            && let Some(timeout) = self.user_timeout.take()
            && let Err(error) = sockopt::set_user_timeout(writer.as_ref().as_ref(), timeout)
        {
            warn!(%error, "cannot change how long the kernel waits for acknowledgements");
        }
    }
}

/// A poisoned lock only means that a task panicked elsewhere; these values are whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a connection reports to.
#[derive(Clone, Debug)]
pub(super) struct Reports {
    pub(super) queue: mpsc::Sender<Report>,
    pub(super) desk: Arc<Desk>,
}

/// Runs a connection that was accepted.
pub(super) async fn accepted(stream: TcpStream, shared: Arc<Shared>, reports: Reports) {
    run(stream, &shared, &reports).await;
}

/// Says `last_words` to a connection that is not taken, and closes it.
pub(super) async fn refused(stream: TcpStream, last_words: Bytes) {
    // A socket that was just opened has room for one message.
    if stream.writable().await.is_ok() && stream.try_write(&last_words).is_ok() {
        linger(&stream).await;
    }
}

/// Dials, then runs the connection. `dial` is given up when the connection is closed meanwhile.
pub(super) async fn dialled(
    dial: impl Future<Output = io::Result<TcpStream>>,
    shared: Arc<Shared>,
    reports: Reports,
) {
    let connected = tokio::select! {
        result = dial => result.and_then(|stream| Ok((stream.local_addr()?, stream.peer_addr()?, stream))),
        () = given_up(&shared) => return,
    };
    // A driver that is gone wants no report and ends every connection.
    match connected {
        Ok((local, remote, stream)) => {
            let news = News::Connected { local, remote };
            // With a permit, so that no message overtakes it: see `deliver`.
            let permit = Arc::clone(&shared.batches).acquire_owned().await.ok();
            let report = shared.report(news, permit);
            if reports.queue.send(report).await.is_ok() {
                run(stream, &shared, &reports).await;
            }
        }
        Err(error) => {
            drop(
                reports
                    .queue
                    .send(shared.report(News::ConnectFailed(error), None))
                    .await,
            );
        }
    }
}

/// Returns when the connection is to be closed.
async fn given_up(shared: &Shared) {
    while lock(&shared.out).ending == Ending::Open {
        shared.out_changed.notified().await;
    }
}

async fn run(stream: TcpStream, shared: &Arc<Shared>, reports: &Reports) {
    let (mut reader, writer) = stream.into_split();
    let writer = Arc::new(writer);
    {
        let mut out = lock(&shared.out);
        out.writer = Some(Arc::clone(&writer));
        out.take_user_timeout();
    }
    // A task of its own: what is read does not wake it.
    let mut writing = tokio::spawn({
        let (writer, shared) = (Arc::clone(&writer), Arc::clone(shared));
        async move { write(writer.as_ref().as_ref(), &shared).await }
    });
    let ending = tokio::select! {
        biased;
        read = read(&mut reader, shared, reports) => match read {
            // The answer is on its way: NOTIFICATION and close.
            ReadEnd::Malformed => writing.await.ok(),
            ReadEnd::Gone => {
                writing.abort();
                None
            }
        },
        ending = &mut writing => ending.ok(),
    };
    lock(&shared.out).writer = None;
    if ending == Some(Ending::Linger) {
        linger(writer.as_ref().as_ref()).await;
    }
}

/// Why reading ended; the driver knows already.
enum ReadEnd {
    Malformed,
    Gone,
}

/// What one look at the socket gave.
struct Batch {
    messages: Vec<Message>,
    end: Option<News>,
    /// An OPEN came last, in these octets: what follows is to be read as the speaker will say.
    open: Option<Bytes>,
}

async fn read(stream: &mut OwnedReadHalf, shared: &Shared, reports: &Reports) -> ReadEnd {
    let mut decoder = Decoder::new(CodecContext::before_open());
    // The beginning of a message whose rest is still to come.
    let mut left: Vec<u8> = Vec::new();
    let mut look_again = false;
    loop {
        if shared.batches.available_permits() == 0 {
            // Nothing is read before a batch was taken; only this task takes permits.
            drop(shared.batches.acquire().await);
        }
        let batch = poll_fn(|task| look(stream, task, &mut left, &mut decoder, look_again)).await;
        look_again = false;
        if !batch.messages.is_empty() {
            let news = News::Messages {
                messages: batch.messages,
                open: batch.open.clone().unwrap_or_default(),
            };
            if !shared.deliver(news, reports).await {
                return ReadEnd::Gone;
            }
        }
        // Only now: where the driver rests, everybody was told by then. Also where no message is whole yet: a peer may hold back
        // the rest until the beginning is acknowledged (Nagle). Where this fails the kernel does it in its own time.
        drop(sockopt::acknowledge(stream.as_ref()));
        if let Some(end) = batch.end {
            let malformed = matches!(end, News::Malformed(..));
            let told = reports.queue.send(shared.report(end, None)).await;
            return if malformed && told.is_ok() {
                ReadEnd::Malformed
            } else {
                ReadEnd::Gone
            };
        }
        if batch.open.is_some() {
            decoder = Decoder::new(settled(shared).await);
            look_again = true;
        }
    }
}

/// Waits for what the OPENs settled. It stays settled: an OPEN that only repeats the last one changes nothing.
async fn settled(shared: &Shared) -> CodecContext {
    loop {
        let context = *lock(&shared.context);
        if let Some(context) = context {
            return context;
        }
        shared.context_given.notified().await;
    }
}

/// Reads what is there and decodes every whole message. With `again` the octets left over from the last look are decoded first
/// even where nothing new came.
///
/// Polls rather than tries: only so a short read counts as the end of what is there, which spares a system call on the way of
/// every small update.
fn look(
    stream: &mut OwnedReadHalf,
    task: &mut Context<'_>,
    left: &mut Vec<u8>,
    decoder: &mut Decoder,
    again: bool,
) -> Poll<Batch> {
    SCRATCH.with_borrow_mut(|scratch| {
        let kept = left.len();
        // What is left is less than a message, or all that was read together with an OPEN: both fit.
        let (head, room) = scratch.split_at_mut(kept.min(SCRATCH_LEN));
        head.copy_from_slice(left);
        let room = room.get_mut(..READ_LEN).unwrap_or_default();
        let mut end = None;
        let full = room.is_empty();
        let mut buffer = ReadBuf::new(room);
        let polled = Pin::new(stream).poll_read(task, &mut buffer);
        let read = buffer.filled().len();
        match polled {
            Poll::Ready(Ok(())) if read > 0 || full => {}
            Poll::Ready(Ok(())) => end = Some(News::Closed(None)),
            Poll::Ready(Err(error)) => end = Some(News::Closed(Some(error))),
            Poll::Pending if again => {}
            Poll::Pending => return Poll::Pending,
        }
        if read == 0 && !again {
            return Poll::Ready(Batch {
                messages: Vec::new(),
                end,
                open: None,
            });
        }
        let octets = scratch.get(..kept + read).unwrap_or_default();
        let (messages, used, stop) = decode_all(octets, decoder);
        left.clear();
        left.extend_from_slice(octets.get(used..).unwrap_or_default());
        let mut open = None;
        match stop {
            Stop::Short => {}
            // Octets wait behind the OPEN, and so does the end of the stream.
            Stop::Open(octets) => {
                open = Some(octets);
                end = None;
            }
            Stop::Malformed(error, octets) => end = Some(News::Malformed(error, octets)),
        }
        Poll::Ready(Batch {
            messages,
            end,
            open,
        })
    })
}

/// Why no further message was decoded.
enum Stop {
    /// The next one is not whole.
    Short,
    /// An OPEN, which came in these octets, changes how to read on.
    Open(Bytes),
    /// These octets are no message.
    Malformed(DecodeError, Bytes),
}

/// Decodes messages from the front; says how many octets they took.
fn decode_all(octets: &[u8], decoder: &mut Decoder) -> (Vec<Message>, usize, Stop) {
    let mut messages = Vec::new();
    let mut used = 0;
    loop {
        let rest = octets.get(used..).unwrap_or_default();
        let (message_type, length) = match framing::peek(rest, decoder.context().max_receive_len())
        {
            Ok(Some(found)) => found,
            Ok(None) => return (messages, used, Stop::Short),
            Err(error) => {
                // Where the message would end is not known: its header is what can be shown.
                let header = rest.get(..HEADER_LEN).unwrap_or(rest);
                let octets = Bytes::copy_from_slice(header);
                return (messages, used, Stop::Malformed(error, octets));
            }
        };
        let Some(frame) = rest.get(..length) else {
            return (messages, used, Stop::Short);
        };
        match decoder.decode(frame) {
            Ok(message) => messages.push(message),
            Err(error) => {
                let octets = Bytes::copy_from_slice(frame);
                return (messages, used, Stop::Malformed(error, octets));
            }
        }
        used += length;
        if message_type == MessageType::Open {
            return (messages, used, Stop::Open(Bytes::copy_from_slice(frame)));
        }
    }
}

/// Writes KEEPALIVEs, and chunks the kernel had no room for, until the connection is to end; says how.
///
/// KEEPALIVEs go out in fixed ticks, without the jitter of RFC 4271 §10: they are a third of the hold time apart at most, each
/// connection's begin when its OPEN was answered, and a tick that came late is not made up for.
async fn write(stream: &TcpStream, shared: &Shared) -> Ending {
    let mut interval = None;
    let mut due: Option<Instant> = None;
    let mut patience = None;
    let mut shortened = false;
    // The kernel had no room.
    let mut waited = false;
    loop {
        let pushed = {
            let mut out = lock(&shared.out);
            if let Some((peer, from, to)) = out.key.take()
                && let Err(error) = sockopt::sign(stream, peer, &from, &to, Role::Connection)
            {
                warn!(%peer, %error, "cannot change how segments are signed");
            }
            if out.keepalive != interval {
                interval = out.keepalive;
                due = interval.map(|interval| Instant::now() + interval);
            }
            match out.ending {
                Ending::Abort => return Ending::Abort,
                Ending::Linger if out.chunks.is_empty() => return Ending::Linger,
                Ending::Linger if !shortened => {
                    let begun = out.begun;
                    shorten(&mut out.chunks, begun);
                    shortened = true;
                }
                Ending::Linger | Ending::Open => {}
            }
            if let (Some(at), Some(interval)) = (due, interval)
                && out.ending == Ending::Open
            {
                let now = Instant::now();
                if at <= now {
                    // Never inside a chunk of which a part is written.
                    let place = usize::from(out.begun);
                    out.chunks.insert(place, Bytes::from_static(&KEEPALIVE));
                    out.ours += KEEPALIVE.len();
                    due = Some(now + interval);
                }
            }
            if out.chunks.is_empty() {
                Pushed::All
            } else {
                shared.push(&mut out, waited)
            }
        };
        match pushed {
            Pushed::All => {
                waited = false;
                match due {
                    Some(at) => {
                        drop(tokio::time::timeout_at(at, shared.out_changed.notified()).await);
                    }
                    None => shared.out_changed.notified().await,
                }
            }
            Pushed::Some => waited = true,
            Pushed::None => {
                waited = true;
                tokio::select! {
                    // Where this fails the next attempt names the error.
                    _ = stream.writable() => {}
                    // An end without lingering does not wait for the peer, one with it not for ever.
                    interruption = interrupted(shared, &mut patience) => match interruption {
                        Interruption::Abort => return Ending::Abort,
                        Interruption::Key => {}
                    },
                }
            }
            Pushed::Failed => {
                // The reading side finds out what happened, after the peer's last words.
                given_up(shared).await;
                return Ending::Abort;
            }
        }
    }
}

/// Why waiting for room is over although there is none.
enum Interruption {
    /// There is no use in waiting for the peer any longer.
    Abort,
    /// The key is to be changed: the peer may have its new one, and take nothing before we have ours.
    Key,
}

/// Returns when there is something else to do than to wait for room. `patience` ends a while after lingering began.
async fn interrupted(shared: &Shared, patience: &mut Option<Instant>) -> Interruption {
    loop {
        {
            let out = lock(&shared.out);
            match out.ending {
                Ending::Open => {}
                Ending::Linger => {
                    patience.get_or_insert_with(|| Instant::now() + LINGER);
                }
                Ending::Abort => return Interruption::Abort,
            }
            if out.key.is_some() {
                return Interruption::Key;
            }
        }
        match *patience {
            None => shared.out_changed.notified().await,
            Some(until) => {
                if tokio::time::timeout_at(until, shared.out_changed.notified())
                    .await
                    .is_err()
                {
                    return Interruption::Abort;
                }
            }
        }
    }
}

/// Routes the peer will not keep are not worth waiting for: of a long queue only the chunk under way and the last words stay.
fn shorten(queue: &mut VecDeque<Bytes>, begun: bool) {
    if queue.len() > 2 && queue.iter().map(Bytes::len).sum::<usize>() > GOODBYE_LEN {
        let last = queue.len() - 1;
        queue.drain(usize::from(begun)..last);
    }
}

fn try_write(stream: &TcpStream, queue: &VecDeque<Bytes>) -> io::Result<usize> {
    // One change, mostly: the kernel takes one buffer with less ado than a list.
    if let (1, Some(chunk)) = (queue.len(), queue.front()) {
        return stream.try_write(chunk);
    }
    let slices: SmallVec<[IoSlice<'_>; SLICES]> = queue
        .iter()
        .take(SLICES)
        .map(|chunk| IoSlice::new(chunk))
        .collect();
    stream.try_write_vectored(&slices)
}

/// Takes `written` octets off the queue; says whether the chunk now in front is begun.
fn consume(queue: &mut VecDeque<Bytes>, mut written: usize) -> bool {
    while let Some(front) = queue.front_mut() {
        if written < front.len() {
            front.advance(written);
            return written > 0;
        }
        written -= front.len();
        queue.pop_front();
    }
    false
}

/// Lets the peer read our last words: closing with octets unread would make the kernel send a reset that overtakes them.
async fn linger(stream: &TcpStream) {
    if socket2::SockRef::from(stream)
        .shutdown(std::net::Shutdown::Write)
        .is_err()
    {
        return;
    }
    let drained = async {
        let mut waste = [0; 1024];
        while stream.readable().await.is_ok() {
            match stream.try_read(&mut waste) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
            }
        }
    };
    drop(tokio::time::timeout(LINGER, drained).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(chunks: &[&'static [u8]]) -> VecDeque<Bytes> {
        chunks
            .iter()
            .map(|chunk| Bytes::from_static(chunk))
            .collect()
    }

    #[test]
    fn a_chunk_is_begun_only_when_a_part_of_it_is_written() {
        let mut chunks = queue(&[b"abc", b"defg"]);
        assert!(!consume(&mut chunks, 3));
        assert_eq!(chunks, queue(&[b"defg"]));
        assert!(consume(&mut chunks, 1));
        assert_eq!(chunks, queue(&[b"efg"]));
        assert!(!consume(&mut chunks, 3));
        assert!(chunks.is_empty());
    }

    #[test]
    fn decoding_stops_behind_an_open_and_before_an_unfinished_message() {
        let mut octets = KEEPALIVE.to_vec();
        octets.extend_from_slice(&KEEPALIVE);
        octets.extend_from_slice(&KEEPALIVE[..10]);
        let (messages, used, stop) = decode_all(&octets, &mut Decoder::default());
        assert_eq!(messages.len(), 2);
        assert_eq!(used, 38);
        assert!(matches!(stop, Stop::Short));
    }

    #[test]
    fn messages_before_a_malformed_one_are_kept() {
        let mut octets = KEEPALIVE.to_vec();
        octets.extend_from_slice(&[0; 19]);
        let (messages, _, stop) = decode_all(&octets, &mut Decoder::default());
        assert_eq!(messages, [Message::Keepalive]);
        assert!(matches!(stop, Stop::Malformed(DecodeError::Marker, _)));
    }
}
