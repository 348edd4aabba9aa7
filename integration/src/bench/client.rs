//! One BGP session of the load: says what it is told to and keeps count of what it holds.
//!
//! The generator shares the machine's processors with the daemon under test, so a client does no more than it must:
//! it walks over UPDATEs to set and clear bits and looks at no attribute. A reflector may tell a client what came from it (RFC 4456 §8
//! leaves it to the client to ignore that by ORIGINATOR_ID), as FRR does to clients it serves as a group: a client knows its own prefixes
//! by their numbers, and counts them apart.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, spawn_local};

use super::shape::{ASN, SERVER, Shape};

const HEADER: usize = 19;
const LONGEST: usize = 4096;
const HOLD_TIME: u16 = 240;
/// What a slow client reads in [`SLOW_EVERY`]: 10 kB/s.
const SLOW_OCTETS: usize = 1_000;
const SLOW_EVERY: Duration = Duration::from_millis(100);
/// The kernel's buffer of a client that may become slow: without a bound it would read for the client.
const SLOW_BUFFER: usize = 16 * 1024;
const KEEPALIVE_EVERY: Duration = Duration::from_secs(60);
const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;

/// What all clients wait for together.
#[derive(Debug, Default)]
pub struct Goal {
    pending: Cell<usize>,
    reached: Notify,
    failed: RefCell<Option<String>>,
    /// What each client holds, by its place, for whoever asks why a goal is not reached.
    clients: RefCell<Vec<(usize, Rc<RefCell<Held>>)>>,
}

impl Goal {
    /// Waits until every client that was given something to hold holds it.
    ///
    /// # Errors
    /// When a session ends meanwhile.
    pub async fn wait(&self) -> Result<()> {
        loop {
            if let Some(reason) = self.failed.borrow().as_ref() {
                bail!("{reason}");
            }
            if self.pending.get() == 0 {
                return Ok(());
            }
            self.reached.notified().await;
        }
    }

    /// Who does not hold what it should, and what it holds instead.
    #[must_use]
    pub fn missing(&self) -> String {
        let clients = self.clients.borrow();
        let each = clients.iter().filter_map(|(index, held)| {
            let held = held.borrow();
            let (count, want) = (held.count, held.want?);
            Some(format!("client {index} holds {count} prefixes, not {want}"))
        });
        each.collect::<Vec<_>>().join("; ")
    }

    /// How often a client was told a prefix that it had announced itself.
    #[must_use]
    pub fn told_back(&self) -> usize {
        let clients = self.clients.borrow();
        clients
            .iter()
            .map(|(_, held)| held.borrow().told_back)
            .sum()
    }
}

/// What a client holds.
#[derive(Debug)]
struct Held {
    bits: Vec<u64>,
    count: usize,
    /// The count to reach; `None` when it does not matter at the moment.
    want: Option<usize>,
    /// What it announces itself, and is not counted.
    own: [Range<usize>; 2],
    told_back: usize,
}

impl Held {
    fn new(shape: &Shape, client: usize) -> Self {
        Self {
            bits: vec![0; shape.numbers().div_ceil(64)],
            count: 0,
            want: None,
            own: shape.own(client),
            told_back: 0,
        }
    }

    fn set(&mut self, number: usize, announced: bool) {
        let (word, bit) = (number / 64, 1_u64 << (number % 64));
        let Some(word) = self.bits.get_mut(word) else {
            return;
        };
        if self.own.iter().any(|range| range.contains(&number)) {
            self.told_back += usize::from(announced);
            return;
        }
        let before = *word & bit != 0;
        if before == announced {
            return;
        }
        *word ^= bit;
        if announced {
            self.count += 1;
        } else {
            self.count -= 1;
        }
    }
}

/// An Established session.
#[derive(Debug)]
pub struct Client {
    /// Its place among the clients.
    pub index: usize,
    held: Rc<RefCell<Held>>,
    goal: Rc<Goal>,
    send: mpsc::Sender<Rc<[u8]>>,
    tasks: [AbortHandle; 2],
    ending: Rc<Cell<bool>>,
    slow: Rc<Cell<bool>>,
}

impl Client {
    /// Connects and goes on until the session is Established.
    ///
    /// # Errors
    /// When the daemon does not accept it.
    pub async fn establish(shape: Shape, index: usize, goal: Rc<Goal>) -> Result<Self> {
        let address = Shape::client_address(index);
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((address, 0)))?;
        let stream = socket
            .connect(SocketAddr::from((SERVER, 179)))
            .await
            .with_context(|| format!("client {index}"))?;
        stream.set_nodelay(true)?;
        let slow = Rc::new(Cell::new(false));
        let (mut read, mut write) = stream.into_split();
        write.write_all(&open(address)).await?;
        let mut buffer = Vec::new();
        let first = message(&mut read, &mut buffer).await?;
        if first != OPEN {
            bail!("client {index}: message type {first} instead of OPEN");
        }
        write.write_all(&keepalive()).await?;
        let second = message(&mut read, &mut buffer).await?;
        if second != KEEPALIVE {
            bail!("client {index}: message type {second} instead of KEEPALIVE");
        }
        // End-of-RIB: nothing to tell yet. A reflector need not wait for this client.
        write.write_all(&update(&[], &[], &[])).await?;

        let held = Rc::new(RefCell::new(Held::new(&shape, index)));
        let known = (index, Rc::clone(&held));
        goal.clients.borrow_mut().push(known);
        let ending = Rc::new(Cell::new(false));
        // A phase hands each client a handful of buffers; the writer is never far behind.
        let (send, receive) = mpsc::channel(16);
        let reader = spawn_local({
            let (held, goal, ending) = (Rc::clone(&held), Rc::clone(&goal), Rc::clone(&ending));
            let slow = Rc::clone(&slow);
            async move {
                let end = listen(shape, read, buffer, &held, &goal, &slow).await;
                if !ending.get() {
                    *goal.failed.borrow_mut() = Some(format!("client {index}: {end:#}"));
                    goal.reached.notify_one();
                }
            }
        });
        let writer = spawn_local(speak(write, receive));
        Ok(Self {
            index,
            held,
            goal,
            send,
            tasks: [reader.abort_handle(), writer.abort_handle()],
            ending,
            slow,
        })
    }

    /// Makes it read 10 kB/s from its next look at the socket on, or as fast as it can again.
    pub fn read_slowly(&self, slow: bool) {
        self.slow.set(slow);
    }

    /// Makes the goal wait for this client to hold exactly so many prefixes.
    pub fn want(&self, count: usize) {
        let mut held = self.held.borrow_mut();
        debug_assert!(held.want.is_none(), "one goal after the other");
        if held.count != count {
            held.want = Some(count);
            self.goal.pending.set(self.goal.pending.get() + 1);
        }
    }

    /// Prefixes it holds.
    #[must_use]
    pub fn count(&self) -> usize {
        self.held.borrow().count
    }

    /// Hands octets to the session.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn send(&self, octets: Rc<[u8]>) -> Result<()> {
        self.send
            .send(octets)
            .await
            .map_err(|_| anyhow!("client {} has ended", self.index))
    }

    /// Cuts the TCP connection without a word.
    pub fn cut(self) {
        self.ending.set(true);
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn speak(mut write: OwnedWriteHalf, mut receive: mpsc::Receiver<Rc<[u8]>>) {
    loop {
        let octets = match tokio::time::timeout(KEEPALIVE_EVERY, receive.recv()).await {
            Ok(Some(octets)) => octets,
            Ok(None) => return,
            Err(_) => Rc::from(keepalive()),
        };
        if write.write_all(&octets).await.is_err() {
            return;
        }
    }
}

async fn message(read: &mut OwnedReadHalf, buffer: &mut Vec<u8>) -> Result<u8> {
    loop {
        if let Some((kind, length)) = frame(buffer)? {
            if kind == NOTIFICATION {
                bail!("NOTIFICATION {:?}", buffer.get(HEADER..length));
            }
            buffer.drain(..length);
            return Ok(kind);
        }
        if read.read_buf(buffer).await? == 0 {
            bail!("the daemon closed the connection");
        }
    }
}

fn frame(octets: &[u8]) -> Result<Option<(u8, usize)>> {
    let (Some(&high), Some(&low), Some(&kind)) = (octets.get(16), octets.get(17), octets.get(18))
    else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if !(HEADER..=LONGEST).contains(&length) {
        bail!("a message of {length} octets");
    }
    Ok((octets.len() >= length).then_some((kind, length)))
}

/// Takes messages in until the session ends; returns why it did.
async fn listen(
    shape: Shape,
    mut read: OwnedReadHalf,
    mut buffer: Vec<u8>,
    held: &RefCell<Held>,
    goal: &Goal,
    slow: &Cell<bool>,
) -> anyhow::Error {
    buffer.reserve(256 * 1024);
    loop {
        let mut rest = &buffer[..];
        {
            let mut held = held.borrow_mut();
            loop {
                match frame(rest) {
                    Err(e) => return e,
                    Ok(None) => break,
                    Ok(Some((kind, length))) => {
                        let (whole, after) = rest.split_at(length);
                        let body = whole.get(HEADER..).unwrap_or_default();
                        match kind {
                            UPDATE => take_in(shape, body, &mut held),
                            NOTIFICATION => return anyhow!("NOTIFICATION {body:?}"),
                            _ => {}
                        }
                        rest = after;
                        // Exactly then: what is held may pass through the wanted count only by being right.
                        if held.want == Some(held.count) {
                            held.want = None;
                            goal.pending.set(goal.pending.get() - 1);
                            if goal.pending.get() == 0 {
                                goal.reached.notify_one();
                            }
                        }
                    }
                }
            }
        }
        let used = buffer.len() - rest.len();
        buffer.drain(..used);
        let taken = if slow.get() {
            slowly(&mut read, &mut buffer).await
        } else {
            read.read_buf(&mut buffer).await
        };
        match taken {
            Ok(0) => return io::Error::from(io::ErrorKind::UnexpectedEof).into(),
            Ok(_) => {}
            Err(e) => return e.into(),
        }
    }
}

async fn slowly(read: &mut OwnedReadHalf, buffer: &mut Vec<u8>) -> io::Result<usize> {
    setsockopt(read.as_ref(), sockopt::RcvBuf, &SLOW_BUFFER)?;
    tokio::time::sleep(SLOW_EVERY).await;
    let mut few = [0; SLOW_OCTETS];
    let taken = read.read(&mut few).await?;
    buffer.extend(few.iter().take(taken));
    Ok(taken)
}

fn take_in(shape: Shape, body: &[u8], held: &mut Held) {
    let length = |at: &[u8]| {
        at.first_chunk::<2>()
            .map_or(0, |l| usize::from(u16::from_be_bytes(*l)))
    };
    let withdrawn_len = length(body);
    let withdrawn = body.get(2..2 + withdrawn_len).unwrap_or_default();
    let rest = body.get(2 + withdrawn_len..).unwrap_or_default();
    let announced = rest.get(2 + length(rest)..).unwrap_or_default();
    walk(shape, withdrawn, |number| held.set(number, false));
    walk(shape, announced, |number| held.set(number, true));
}

fn walk(shape: Shape, mut nlri: &[u8], mut each: impl FnMut(usize)) {
    while let Some((&len, rest)) = nlri.split_first() {
        let octets = usize::from(len.div_ceil(8));
        let mut address = [0; 4];
        let (Some(from), Some(to)) = (rest.get(..octets), address.get_mut(..octets)) else {
            return;
        };
        to.copy_from_slice(from);
        if let Some(number) = shape.number(u32::from_be_bytes(address), len) {
            each(number);
        }
        nlri = rest.get(octets..).unwrap_or_default();
    }
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut octets = vec![0xff; 16];
    octets.extend(
        u16::try_from(HEADER + body.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes(),
    );
    octets.push(kind);
    octets.extend(body);
    octets
}

fn keepalive() -> Vec<u8> {
    framed(KEEPALIVE, &[])
}

/// OPEN with IPv4 unicast, route refresh and 4-octet AS numbers; no graceful restart, so that a cut session's routes
/// go at once.
fn open(address: Ipv4Addr) -> Vec<u8> {
    let mut capabilities = vec![1, 4, 0, 1, 0, 1, 2, 0, 65, 4];
    capabilities.extend(ASN.to_be_bytes());
    let mut body = vec![4];
    body.extend(u16::try_from(ASN).unwrap_or(23456).to_be_bytes());
    body.extend(HOLD_TIME.to_be_bytes());
    body.extend(address.octets());
    let length = u8::try_from(capabilities.len()).unwrap_or(u8::MAX);
    body.extend([length + 2, 2, length]);
    body.extend(capabilities);
    framed(OPEN, &body)
}

fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(4 + withdrawn.len() + attributes.len() + nlri.len());
    for part in [withdrawn, attributes] {
        body.extend(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
        body.extend(part);
    }
    body.extend(nlri);
    framed(UPDATE, &body)
}

/// The attributes of a client's set: an AS path of its own, next hop and local preference as a node would send.
fn attributes(client: usize, set: usize) -> Vec<u8> {
    let own = 100_000 + u32::try_from(client * 20_000 + set).unwrap_or(0);
    let mut octets = vec![0x40, 1, 1, 0, 0x40, 2, 14, 2, 3];
    for asn in [65_100, own, 64_999] {
        octets.extend(asn_octets(asn));
    }
    octets.extend([0x40, 3, 4]);
    octets.extend(Shape::client_address(client).octets());
    octets.extend([0x40, 5, 4, 0, 0, 0, 100, 0xc0, 8, 4, 0xfc, 0]);
    octets.extend(u16::try_from(set % 65_536).unwrap_or(0).to_be_bytes());
    octets
}

fn asn_octets(asn: u32) -> [u8; 4] {
    asn.to_be_bytes()
}

/// UPDATEs that announce the given prefixes, each under its set's attributes, packed full.
#[must_use]
pub fn announcements(
    shape: &Shape,
    client: usize,
    numbers: impl Iterator<Item = usize>,
) -> Vec<u8> {
    let mut sets: Vec<Vec<usize>> = vec![Vec::new(); shape.attribute_sets];
    for (place, number) in numbers.enumerate() {
        if let Some(set) = sets.get_mut(place % shape.attribute_sets) {
            set.push(number);
        }
    }
    let mut octets = Vec::new();
    for (set, numbers) in sets.iter().enumerate() {
        let attributes = attributes(client, set);
        packed(
            shape,
            numbers,
            LONGEST - HEADER - 4 - attributes.len(),
            |nlri| octets.extend(update(&[], &attributes, nlri)),
        );
    }
    octets
}

/// UPDATEs that withdraw the given prefixes.
#[must_use]
pub fn withdrawals(shape: &Shape, numbers: impl Iterator<Item = usize>) -> Vec<u8> {
    let numbers: Vec<_> = numbers.collect();
    let mut octets = Vec::new();
    packed(shape, &numbers, LONGEST - HEADER - 4, |nlri| {
        octets.extend(update(nlri, &[], &[]))
    });
    octets
}

fn packed(shape: &Shape, numbers: &[usize], room: usize, mut each: impl FnMut(&[u8])) {
    let mut nlri = Vec::with_capacity(room);
    for &number in numbers {
        if nlri.len() + 5 > room {
            each(&nlri);
            nlri.clear();
        }
        shape.put_prefix(number, &mut nlri);
    }
    if !nlri.is_empty() {
        each(&nlri);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_is_held_and_what_is_withdrawn_is_not() {
        let shape = Shape {
            name: "t",
            clients: 2,
            prefixes: 3_000,
            prefix_len: 26,
            attribute_sets: 7,
        };
        let mut held = Held::new(&shape, 0);
        let feed = |octets: &[u8], held: &mut Held| {
            let mut rest = octets;
            while let Some((kind, length)) = frame(rest).unwrap() {
                assert_eq!(kind, UPDATE);
                take_in(shape, &rest[HEADER..length], held);
                rest = &rest[length..];
            }
            assert!(rest.is_empty());
        };
        feed(&announcements(&shape, 1, 3_000..6_000), &mut held);
        assert_eq!(held.count, 3_000);
        feed(&withdrawals(&shape, 3_000..4_000), &mut held);
        assert_eq!(held.count, 2_000);
        // What comes back to the client that announced it.
        let mut own = Held::new(&shape, 1);
        feed(&announcements(&shape, 1, 2_000..4_000), &mut own);
        feed(&withdrawals(&shape, 3_000..4_000), &mut own);
        assert_eq!((own.count, own.told_back), (1_000, 1_000));
    }
}
