//! Crowds: all at once, and more than there are descriptors for.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::Scale;
use super::hub::{Hub, Machine, Table, await_established, await_table, established};
use super::played::{
    PREFIXES, address, announcement, any_message, call_until, counted, framed, next_hop, prefixes,
};
use crate::eventually::{eventually, idle};
use crate::{exec, link, pace};

/// What listens to the crowd.
pub(super) const RANGE: &str = "peers:\n  - { name: crowd, range: 10.99.128.0/17, asn: 64512, routeReflectorClient: true, passive: true, dynamicLimit: 6000, gracefulRestart: false }\n";

/// The prefix all of them flap, how often each says something about it, and who keeps it.
const FLAPPED: u32 = 0x1500_0000;
const FLAP_STEP: Duration = Duration::from_millis(10);
const KEEPER: usize = 7;

/// What callers do besides calling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Play {
    /// Nothing.
    Plain,
    /// Every tenth has its predecessor's identifier.
    Duplicates,
    /// They announce and withdraw one prefix so many times.
    Flap(usize),
}

/// What the callers hold together, by what they were told.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Prefixes, counted once for each caller that holds one.
    held: AtomicUsize,
    /// Callers that hold the prefix all of them flap.
    flapped: AtomicUsize,
    /// The first thing told that makes no sense.
    wrong: Mutex<Option<String>>,
}

impl Ledger {
    /// Waits until every caller holds every other caller's prefix, and `flapped` of them the one they flap.
    pub(super) fn await_full(&self, callers: usize, flapped: usize, seconds: u64) -> Result<()> {
        eventually(
            "every caller knows every other",
            pace::seconds(seconds),
            || {
                let wrong = self.wrong.lock().map_err(|_| anyhow!("poisoned"))?;
                ensure!(wrong.is_none(), "{wrong:?}");
                let held = self.held.load(Ordering::Relaxed);
                let wanted = callers * (callers - 1);
                ensure!(held == wanted, "{held} of {wanted} prefixes");
                let holders = self.flapped.load(Ordering::Relaxed);
                ensure!(holders == flapped, "{holders} hold what flapped");
                Ok(())
            },
        )
    }

    fn note(&self, text: String) {
        if let Ok(mut wrong) = self.wrong.lock() {
            wrong.get_or_insert(text);
        }
    }
}

/// What one caller holds.
struct Told {
    ledger: Arc<Ledger>,
    own: usize,
    held: BTreeSet<u32>,
}

impl Told {
    /// Takes an UPDATE in.
    fn update(&mut self, body: &[u8]) -> Result<()> {
        let (withdrawn, rest) = counted(body)?;
        let (attributes, announced) = counted(rest)?;
        for prefix in prefixes(withdrawn)? {
            if self.held.remove(&prefix) {
                self.count(prefix).fetch_sub(1, Ordering::Relaxed);
            }
        }
        let hop = next_hop(attributes);
        for prefix in prefixes(announced)? {
            let caller = usize::try_from(prefix.wrapping_sub(PREFIXES))?;
            let meant = prefix == FLAPPED || hop == Some(address(caller)?);
            if !meant || caller == self.own {
                let prefix = Ipv4Addr::from(prefix);
                self.ledger
                    .note(format!("caller {} told {prefix} via {hop:?}", self.own));
            }
            if self.held.insert(prefix) {
                self.count(prefix).fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn count(&self, prefix: u32) -> &AtomicUsize {
        match prefix {
            FLAPPED => &self.ledger.flapped,
            _ => &self.ledger.held,
        }
    }
}

/// Reads until the session ends, which is an error.
async fn read(stream: impl AsyncReadExt + Unpin, mut told: Told) -> Result<()> {
    let mut stream = BufReader::with_capacity(64 * 1024, stream);
    loop {
        let (kind, body) = any_message(&mut stream)
            .await
            .context("the speaker closed a session")?;
        match kind {
            2 => told.update(&body)?,
            3 => bail!("NOTIFICATION {body:?}"),
            _ => {}
        }
    }
}

/// What every caller announces and withdraws in turns, and how often.
async fn flap(
    caller: usize,
    mut stream: OwnedWriteHalf,
    start: Instant,
    times: usize,
) -> Result<OwnedWriteHalf> {
    let announce = framed(2, &announcement(address(caller)?, FLAPPED))?;
    let mut body = vec![0, 5, 32];
    body.extend(FLAPPED.to_be_bytes());
    body.extend([0, 0]);
    let withdraw = framed(2, &body)?;
    for turn in 0..times {
        let octets = if turn % 2 == 0 { &announce } else { &withdraw };
        stream.write_all(octets).await?;
        let due = start + FLAP_STEP * u32::try_from(turn + 1)?;
        tokio::time::sleep_until(due.into()).await;
    }
    // The last word: one keeps it, the others do not.
    let last = if caller == KEEPER {
        &announce
    } else {
        &withdraw
    };
    stream.write_all(last).await?;
    Ok(stream)
}

/// Some callers dial in the same moment. Returns their connections, which somebody reads from then on.
async fn crowd(
    callers: Range<usize>,
    play: Play,
    ledger: &Arc<Ledger>,
) -> Result<JoinSet<Result<()>>> {
    let deadline = Instant::now() + pace::seconds(90);
    let mut calls = JoinSet::new();
    for caller in callers {
        // Every tenth has its predecessor's identifier.
        let own = play != Play::Duplicates || caller % 10 != 1;
        let identifier = address(if own { caller } else { caller - 1 })?;
        calls.spawn(async move {
            let stream = call_until(caller, identifier, deadline).await?;
            anyhow::Ok((caller, stream))
        });
    }
    let mut readers = JoinSet::new();
    let mut writers = Vec::new();
    while let Some(called) = calls.join_next().await {
        let (caller, stream) = called??;
        let told = Told {
            ledger: Arc::clone(ledger),
            own: caller,
            held: BTreeSet::new(),
        };
        let (incoming, outgoing) = stream.into_split();
        readers.spawn(read(incoming, told));
        writers.push((caller, outgoing));
    }
    let start = Instant::now();
    for (caller, outgoing) in writers {
        let times = match play {
            Play::Flap(times) => times,
            Play::Plain | Play::Duplicates => {
                // A half that is dropped would say that no more comes.
                outgoing.forget();
                continue;
            }
        };
        readers.spawn(async move {
            flap(caller, outgoing, start, times).await?.forget();
            std::future::pending().await
        });
    }
    Ok(readers)
}

/// Keeps reading until told to stop. A session that ends is an error.
async fn hold(mut readers: JoinSet<Result<()>>, stop: oneshot::Receiver<()>) -> Result<()> {
    tokio::select! {
        Some(ended) = readers.join_next() => ended?,
        _ = stop => Ok(()),
    }
}

/// Calls on behalf of `load` while `meanwhile` looks at the speaker.
fn during<T>(
    load: &Machine,
    callers: Range<usize>,
    play: Play,
    meanwhile: impl FnOnce(&Ledger) -> Result<T>,
) -> Result<T> {
    during_with(load, callers, play, &Arc::default(), meanwhile)
}

/// The same with a ledger that others write in as well.
pub(super) fn during_with<T>(
    load: &Machine,
    callers: Range<usize>,
    play: Play,
    ledger: &Arc<Ledger>,
    meanwhile: impl FnOnce(&Ledger) -> Result<T>,
) -> Result<T> {
    thread::scope(|scope| {
        let (stop, stopped) = oneshot::channel();
        let crowd = scope.spawn(move || {
            load.within(move || {
                let runtime = Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let readers = crowd(callers, play, ledger).await?;
                    hold(readers, stopped).await
                })
            })
        });
        let seen = meanwhile(ledger);
        let _ = stop.send(());
        let held = crowd.join().map_err(|_| anyhow!("the crowd panicked"))?;
        let seen = seen?;
        held?;
        Ok(seen)
    })
}

/// A machine with the callers' addresses, which `server` reaches through it: as neighbours on the link they would fill a table
/// that all namespaces of a kernel share (`gc_thresh3`).
pub(super) fn crowd_machine(
    hub: &Hub,
    name: &str,
    number: u8,
    callers: usize,
    server: &Machine,
) -> Result<Machine> {
    let load = hub.machine(name, number)?;
    let own: Vec<_> = (0..callers)
        .map(|caller| address(caller).map(|address| format!("{address}/32")))
        .collect::<Result<_>>()?;
    link::addresses(&load.netns, "lo", &own)?;
    server
        .netns
        .ip(&format!("route add 10.99.128.0/17 via {}", load.address))?;
    Ok(load)
}

/// Thousands dial at once; every session comes up and every prefix is known.
pub(super) fn storm(hub: &Hub, folder: &Path, scale: Scale) -> Result<String> {
    let server = hub.machine("storm", 1)?;
    let load = crowd_machine(hub, "crowd", 2, scale.callers, &server)?;
    let mut speaker = server.speaker(RANGE, folder)?;
    let start = Instant::now();
    let took = during(&load, 0..scale.callers, Play::Duplicates, |ledger| {
        await_established(&speaker, scale.callers, 90)?;
        await_table(&speaker, &all_rows(scale.callers)?, 30)?;
        let took = start.elapsed();
        ledger.await_full(scale.callers, 0, 60 + u64::try_from(scale.callers / 20)?)?;
        Ok(took)
    })?;
    speaker.kill()?;
    server.netns.delete()?;
    load.netns.delete()?;
    Ok(format!(
        "{} sessions and prefixes after {took:.1?}; each caller holds all of the others'",
        scale.callers
    ))
}

/// Every caller announces and withdraws one and the same prefix a hundred times a second; in the end one of them keeps it.
pub(super) fn flappers(hub: &Hub, folder: &Path, scale: Scale) -> Result<String> {
    const CALLERS: usize = 50;
    let server = hub.machine("flapped", 1)?;
    let load = crowd_machine(hub, "flappers", 2, CALLERS, &server)?;
    let mut speaker = server.speaker(RANGE, folder)?;
    let times = 100 * scale.rounds;
    during(&load, 0..CALLERS, Play::Flap(times), |ledger| {
        await_established(&speaker, CALLERS, 30)?;
        let start = Instant::now();
        while start.elapsed() < FLAP_STEP * u32::try_from(times)? {
            ensure!(established(&speaker)? == CALLERS, "a session ended");
            idle(Duration::from_millis(200));
        }
        let mut wanted = all_rows(CALLERS)?;
        wanted.insert(
            format!("{}/32", Ipv4Addr::from(FLAPPED)),
            Some(address(KEEPER)?.to_string()),
        );
        await_table(&speaker, &wanted, 30)?;
        ledger.await_full(CALLERS, CALLERS - 1, 30)
    })?;
    speaker.kill()?;
    server.netns.delete()?;
    load.netns.delete()?;
    Ok(format!(
        "{CALLERS} callers, {times} times each, all agree afterwards"
    ))
}

/// The speaker's table when every caller's prefix is known.
pub(super) fn all_rows(callers: usize) -> Result<Table> {
    (0..callers)
        .map(|caller| {
            let prefix = Ipv4Addr::from(PREFIXES + u32::try_from(caller)?);
            Ok((format!("{prefix}/32"), Some(address(caller)?.to_string())))
        })
        .collect()
}

/// With no descriptor left the sessions there are stay; with some free again, everyone gets in.
pub(super) fn descriptors(hub: &Hub, folder: &Path) -> Result<String> {
    const FIRST: usize = 20;
    const ALL: usize = 120;
    let server = hub.machine("scarce", 1)?;
    let load = crowd_machine(hub, "callers", 2, ALL, &server)?;
    let mut speaker = server.speaker(RANGE, folder)?;
    let process = speaker.pid()?.to_string();
    let limit = |descriptors: usize| {
        let both = format!("--nofile={descriptors}:4096");
        exec::check(Command::new("prlimit").args(["--pid", &process, &both]))
    };
    let ledger = Arc::default();
    during_with(&load, 0..FIRST, Play::Plain, &ledger, |_| {
        await_established(&speaker, FIRST, 20)?;
        let used = fs::read_dir(format!("/proc/{process}/fd"))?.count();
        limit(used + 10)?;
        during_with(&load, FIRST..ALL, Play::Plain, &ledger, |ledger| {
            eventually("every descriptor is in use", pace::seconds(20), || {
                let used_now = fs::read_dir(format!("/proc/{process}/fd"))?.count();
                ensure!(used_now >= used + 9, "{used_now} of {}", used + 10);
                Ok(())
            })?;
            // The first ones would be missed by `hold` at any time from here on.
            idle(pace::seconds(2));
            limit(1024)?;
            await_established(&speaker, ALL, 60)?;
            await_table(&speaker, &all_rows(ALL)?, 20)?;
            ledger.await_full(ALL, 0, 20)
        })
    })?;
    speaker.kill()?;
    server.netns.delete()?;
    load.netns.delete()?;
    Ok(format!("{FIRST} stayed, {ALL} in the end"))
}
