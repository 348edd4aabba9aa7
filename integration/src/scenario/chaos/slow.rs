//! Five hundred who are told everything, and one of them who reads a kilobyte a second.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::Scale;
use super::callers::{RANGE, crowd_machine};
use super::hub::{Hub, await_established, established, peers};
use super::memory::{mebibytes, resident};
use super::played::{
    PREFIXES, address, attribute, call_by, call_until, counted, framed, next_hop, prefixes, socket,
};
use crate::eventually::eventually;
use crate::pace;
use crate::speaker::Speaker;

/// How many there are; the first one talks, the last one is slow.
const PEERS: usize = 500;
const TALKER: usize = 0;
const SLOW: usize = PEERS - 1;

/// What the slow one reads in a second.
const OCTETS: usize = 1024;

/// What changes with every turn, how many of them share attributes, and the ASs in each path: much is said of little.
const CHURNED: u32 = 2_000;
const TOGETHER: u32 = 5;
const PATH: u8 = 250;
const FIRST: u32 = 0x1600_0000;

/// What the speaker may need more in the end than after the first turns, all in all and for who is told what. Kept for the slow one, a
/// turn would be 0.4 MB of messages and 2,000 entries of a journal.
const GROWTH: u64 = 2 << 20;
const JOURNAL: u64 = 32 << 10;

/// What a peer holds: next hop and MED by prefix.
type Held = BTreeMap<u32, (Ipv4Addr, u32)>;

/// The same, watched while it changes.
type Watched = Arc<Mutex<Held>>;

/// What is said of a group of prefixes in a turn, nothing where they are withdrawn.
const fn said(group: u32, turn: u32) -> Option<u32> {
    if (group + turn).is_multiple_of(5) {
        None
    } else {
        Some(turn * 1000 + group)
    }
}

/// Everything that is said in a turn.
fn turn_octets(turn: u32) -> Result<Vec<u8>> {
    let mut octets = Vec::new();
    let talker = address(TALKER)?;
    for group in 0..CHURNED / TOGETHER {
        let mut routes = Vec::new();
        for number in group * TOGETHER..(group + 1) * TOGETHER {
            routes.push(32);
            routes.extend((FIRST + number).to_be_bytes());
        }
        let mut body = Vec::new();
        match said(group, turn) {
            None => {
                body.extend(u16::try_from(routes.len())?.to_be_bytes());
                body.extend(&routes);
                body.extend([0, 0]);
            }
            Some(med) => {
                let mut attributes = vec![0x40, 1, 1, 0, 0x50, 2];
                attributes.extend((2 + 4 * u16::from(PATH)).to_be_bytes());
                attributes.extend([2, PATH]);
                for hop in 0..u32::from(PATH) {
                    attributes.extend((100_000 + hop).to_be_bytes());
                }
                attributes.extend([0x40, 3, 4]);
                attributes.extend(talker.octets());
                attributes.extend([0x80, 4, 4]);
                attributes.extend(med.to_be_bytes());
                attributes.extend([0x40, 5, 4, 0, 0, 0, 100]);
                body.extend([0, 0]);
                body.extend(u16::try_from(attributes.len())?.to_be_bytes());
                body.extend(&attributes);
                body.extend(&routes);
            }
        }
        octets.extend(framed(2, &body)?);
    }
    Ok(octets)
}

/// What one of them holds after a turn.
fn wanted(peer: usize, turn: u32) -> Result<Held> {
    let mut held = Held::new();
    for other in (0..PEERS).filter(|other| *other != peer) {
        held.insert(PREFIXES + u32::try_from(other)?, (address(other)?, 0));
    }
    if peer != TALKER {
        let talker = address(TALKER)?;
        for number in 0..CHURNED {
            if let Some(med) = said(number / TOGETHER, turn) {
                held.insert(FIRST + number, (talker, med));
            }
        }
    }
    Ok(held)
}

/// MULTI_EXIT_DISC, 0 without one.
fn med(attributes: &[u8]) -> u32 {
    attribute(attributes, 4)
        .and_then(|value| <[u8; 4]>::try_from(value).ok())
        .map_or(0, u32::from_be_bytes)
}

/// Takes the whole messages at the front of what was read.
fn take(octets: &mut Vec<u8>, held: &Mutex<Held>) -> Result<()> {
    let mut held = held.lock().map_err(|_| anyhow!("poisoned"))?;
    let mut used = 0;
    while let Some([header @ .., high, low, kind]) = octets.get(used..used + 19) {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        ensure!(length > header.len() && *kind != 3, "a message {kind}");
        let Some(body) = octets.get(used + 19..used + length) else {
            break;
        };
        if *kind == 2 {
            let (withdrawn, rest) = counted(body)?;
            let (attributes, announced) = counted(rest)?;
            for prefix in prefixes(withdrawn)? {
                held.remove(&prefix);
            }
            let announced = prefixes(announced)?;
            if !announced.is_empty() {
                let route = (
                    next_hop(attributes).context("no next hop")?,
                    med(attributes),
                );
                held.extend(announced.into_iter().map(|prefix| (prefix, route)));
            }
        }
        used += length;
    }
    octets.drain(..used);
    Ok(())
}

/// Reads until the session ends, which is an error; slowly for as long as `slow` says so.
async fn read(
    mut stream: OwnedReadHalf,
    held: Watched,
    read_in_all: Arc<AtomicUsize>,
    mut slow: watch::Receiver<bool>,
) -> Result<()> {
    let mut octets = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        let slowly = *slow.borrow_and_update();
        let room = if slowly { OCTETS } else { piece.len() };
        let count = stream
            .read(piece.get_mut(..room).unwrap_or_default())
            .await?;
        ensure!(count > 0, "the speaker closed a session");
        read_in_all.fetch_add(count, Ordering::Relaxed);
        octets.extend_from_slice(piece.get(..count).unwrap_or_default());
        take(&mut octets, &held)?;
        if slowly {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                changed = slow.changed() => changed?,
            }
        }
    }
}

/// Says what it is told to say.
async fn talk(mut stream: OwnedWriteHalf, mut turns: mpsc::Receiver<u32>) -> Result<()> {
    while let Some(turn) = turns.recv().await {
        stream.write_all(&turn_octets(turn)?).await?;
    }
    stream.forget();
    std::future::pending().await
}

/// What the story has in its hands.
struct Strings {
    held: Vec<Watched>,
    /// What the slow one has read.
    octets: Arc<AtomicUsize>,
    slow: watch::Sender<bool>,
    turns: mpsc::Sender<u32>,
}

impl Strings {
    /// Whether one of them holds what it should after a turn.
    fn check(&self, peer: usize, turn: u32) -> Result<()> {
        let held = self.held.get(peer).context("no such peer")?;
        let held = held.lock().map_err(|_| anyhow!("poisoned"))?;
        let wanted = wanted(peer, turn)?;
        let wrong = wanted
            .iter()
            .find(|(prefix, route)| held.get(*prefix) != Some(*route));
        ensure!(
            wrong.is_none() && held.len() == wanted.len(),
            "{peer} holds {} of {}; wrong: {wrong:?}",
            held.len(),
            wanted.len()
        );
        Ok(())
    }

    /// Waits until all but the slow one hold it.
    fn await_others(&self, turn: u32) -> Result<()> {
        // Who was right stays right until the next turn.
        let mut right = 0;
        eventually(
            format!("turn {turn} with everyone"),
            pace::seconds(30),
            || {
                while right < SLOW {
                    self.check(right, turn)?;
                    right += 1;
                }
                anyhow::Ok(())
            },
        )
    }
}

/// Everybody calls, the slow one with next to no room for what comes.
async fn play(
    held: Vec<Watched>,
    octets: Arc<AtomicUsize>,
    slow: watch::Receiver<bool>,
    turns: mpsc::Receiver<u32>,
) -> Result<()> {
    let deadline = Instant::now() + pace::seconds(60);
    let (_brisk, never) = watch::channel(false);
    let mut turns = Some(turns);
    let mut tasks = JoinSet::new();
    for (peer, held) in held.into_iter().enumerate() {
        let stream = if peer == SLOW {
            let socket = socket(peer)?;
            socket.set_recv_buffer_size(4096)?;
            call_by(socket, peer, address(peer)?).await?
        } else {
            call_until(peer, address(peer)?, deadline).await?
        };
        let (incoming, outgoing) = stream.into_split();
        if peer == SLOW {
            tasks.spawn(read(incoming, held, Arc::clone(&octets), slow.clone()));
        } else {
            tasks.spawn(read(incoming, held, Arc::default(), never.clone()));
        }
        if let Some(turns) = turns.take() {
            tasks.spawn(talk(outgoing, turns));
        } else {
            outgoing.forget();
        }
    }
    match tasks.join_next().await {
        Some(ended) => ended?,
        None => Ok(()),
    }
}

/// Octets of memory for who is told what, as the speaker counts them.
fn counted_memory(speaker: &Speaker) -> Result<u64> {
    let status = speaker.ask(&["status"])?;
    let groups = status.pointer("/speaker/memory/groups");
    groups
        .and_then(serde_json::Value::as_u64)
        .with_context(|| format!("no count of memory: {status}"))
}

/// How many changes the slow one and the slowest of the others have yet to be told.
fn lags(speaker: &Speaker) -> Result<(u64, u64)> {
    let slow = format!("crowd-{}", address(SLOW)?);
    let (mut behind, mut others) = (0, 0);
    for peer in peers(speaker)? {
        let lag = peer.pointer("/families/0/lag");
        let lag = lag.and_then(serde_json::Value::as_u64).unwrap_or(0);
        if peer.get("name").and_then(serde_json::Value::as_str) == Some(slow.as_str()) {
            behind = lag;
        } else {
            others = others.max(lag);
        }
    }
    Ok((behind, others))
}

/// The others hold everything after each turn, the speaker's memory stays as it is, and the slow one comes to the same when it reads on.
pub(super) fn reader(hub: &Hub, folder: &Path, scale: Scale) -> Result<String> {
    let turns = 15 + 5 * u32::try_from(scale.rounds.saturating_sub(3))?;
    let server = hub.machine("unmoved", 1)?;
    let load = crowd_machine(hub, "readers", 2, PEERS, &server)?;
    // Nobody sends KEEPALIVEs.
    let range = RANGE.replace("passive: true", "passive: true, holdTime: 240");
    let mut speaker = server.speaker(&range, folder)?;
    let (slow, slowness) = watch::channel(true);
    // A turn is over before the next one begins.
    let (turn, heard) = mpsc::channel(1);
    let strings = Strings {
        held: (0..PEERS).map(|_| Watched::default()).collect(),
        octets: Arc::default(),
        slow,
        turns: turn,
    };
    let seen = thread::scope(|scope| {
        let (stop, stopped) = oneshot::channel::<()>();
        let (held, octets, load) = (strings.held.clone(), Arc::clone(&strings.octets), &load);
        let crowd = scope.spawn(move || {
            load.within(move || {
                let runtime = Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    tokio::select! {
                        ended = play(held, octets, slowness, heard) => ended,
                        _ = stopped => Ok(()),
                    }
                })
            })
        });
        let told = story(&speaker, &strings, turns);
        let _ = stop.send(());
        let played = crowd.join().map_err(|_| anyhow!("the peers panicked"))?;
        played.and(told)
    })?;
    speaker.kill()?;
    server.netns.delete()?;
    load.netns.delete()?;
    Ok(seen)
}

fn story(speaker: &Speaker, strings: &Strings, turns: u32) -> Result<String> {
    await_established(speaker, PEERS, 60)?;
    // What comes and goes with every turn is left out: the most of the early turns and the least of the last ones.
    let (mut before, mut after) = ((0, 0), (u64::MAX, u64::MAX));
    let mut longest = Duration::ZERO;
    let (planned, mut turns) = (turns, 0);
    // A burst's memory goes back to the kernel when what lies behind it is freed, maybe some turns later. What is kept for
    // somebody stays, and grows with every turn.
    while turns < planned || turns < 3 * planned && after.0 > before.0 + GROWTH {
        turns += 1;
        let start = Instant::now();
        strings.turns.blocking_send(turns)?;
        strings.await_others(turns)?;
        longest = longest.max(start.elapsed());
        let (held, counted) = (resident(speaker)?, counted_memory(speaker)?);
        match turns {
            2..=4 => before = (held.max(before.0), counted.max(before.1)),
            _ if turns + 3 > planned => after = (held.min(after.0), counted.min(after.1)),
            _ => {}
        }
    }
    let ((held_before, counted_before), (held, counted)) = (before, after);
    let (behind, others) = lags(speaker)?;
    ensure!(
        strings.check(SLOW, turns).is_err(),
        "the slow one has all: nothing was tested"
    );
    ensure!(others == 0, "somebody else is behind by {others}");
    ensure!(established(speaker)? == PEERS, "a session ended");
    ensure!(
        held <= held_before + GROWTH,
        "{held_before} octets of memory became {held}"
    );
    ensure!(
        counted <= counted_before + JOURNAL,
        "{counted_before} octets for who is told what became {counted}"
    );
    ensure!(behind > 0, "everything is on its way to the slow one");
    let octets = strings.octets.load(Ordering::Relaxed);
    strings.slow.send(false)?;
    eventually("the slow one has all", pace::seconds(20), || {
        strings.check(SLOW, turns)
    })?;
    ensure!(established(speaker)? == PEERS, "a session ended");
    Ok(format!(
        "{turns} turns of {CHURNED} prefixes, {longest:.1?} at most; it had read {octets} octets and was {behind} changes behind; \
         {} of memory became {}, {counted_before} octets for who is told what {counted}",
        mebibytes(held_before),
        mebibytes(held)
    ))
}
