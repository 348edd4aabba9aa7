//! More callers than there is memory for: those beyond the limits of a range cost nothing that lasts.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::Scale;
use super::callers::{Play, all_rows, crowd_machine, during_with};
use super::hub::{Hub, Machine, await_established, await_table, established_count};
use super::played::{address, call_by, open, server, socket};
use crate::eventually::{eventually, throughout};
use crate::speaker::Speaker;
use crate::{exec, pace, vm};

/// What listens to them: room for a hundred, of whom some are no session yet.
const RANGE: &str = "peers:\n  - { name: crowd, range: 10.99.128.0/17, asn: 64512, routeReflectorClient: true, passive: true, \
                     holdTime: 240, dynamicLimit: 100, halfOpenLimit: 40, gracefulRestart: false }\n";

/// Sessions of the beginning, and with those that come when it is over.
const FIRST: usize = 20;
const ALL: usize = 90;

/// How many call, and what the speaker may take beyond what it has with the first sessions: enough for a hundred neighbours, and not for
/// all who call, of whom each would cost it some eight kilobytes. Stacks of threads count in full outside the guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flood {
    pub(super) callers: usize,
    pub(super) room: u64,
    /// For how long memory is watched.
    pub(super) seconds: u64,
}

impl Flood {
    /// Of a machine that is real.
    pub(super) fn of(scale: Scale) -> Result<Self> {
        Ok(Self {
            callers: scale.callers * 3,
            room: 12 << 20,
            seconds: 2 * u64::try_from(scale.rounds.min(10))?,
        })
    }

    /// Of the emulated machine, where everything takes ten times as long, and the kernel's memory counts as well.
    pub(super) const EMULATED: Self = Self {
        callers: 600,
        room: 6 << 20,
        seconds: 2,
    };
}

/// What it may take more after the second half of the flood than after the first.
const GROWTH: u64 = 1 << 20;

/// Its memory, from `/proc/<process>/status`.
fn status(process: Pid, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .with_context(|| format!("no {field}: {status}"))?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes * 1024)
}

/// The memory of a speaker that is not with its files.
pub(super) fn resident(speaker: &Speaker) -> Result<u64> {
    status(speaker.pid()?, "RssAnon")
}

/// Octets for people.
pub(super) fn mebibytes(octets: u64) -> String {
    format!("{:.1} MiB", octets as f64 / f64::from(1 << 20))
}

/// Lets a speaker have so much more memory than it has, whatever it asks for. Says who counts it.
fn limit(speaker: &Speaker, room: u64) -> Result<&'static str> {
    let process = speaker.pid()?;
    if vm::is_guest() {
        // Counts what the kernel holds for it as well: sockets and what waits in them. What it has is counted where it came from.
        fs::create_dir_all(GROUPS)?;
        exec::check(Command::new("mount").args(["-t", "cgroup2", "cgroup2", GROUPS]))?;
        fs::write(format!("{GROUPS}/cgroup.subtree_control"), "+memory")?;
        let group = format!("{GROUPS}/speaker");
        fs::create_dir(&group)?;
        fs::write(format!("{group}/memory.max"), room.to_string())?;
        fs::write(format!("{group}/cgroup.procs"), process.to_string())?;
        return Ok("memory.max");
    }
    let data = status(process, "VmData")? + room;
    let process = process.to_string();
    exec::check(Command::new("prlimit").args(["--pid", &process, &format!("--data={data}")]))?;
    Ok("RLIMIT_DATA")
}

/// Where the guest has its control groups.
const GROUPS: &str = "/run/cgroup";

/// Calls and is a nuisance, each caller in its way, until it is refused or cut off.
async fn call_badly(caller: usize) -> Result<()> {
    let mut octets = open(address(caller)?)?;
    let socket = match caller % 6 {
        // A session like others, where there is a place.
        0 => {
            let stream = call_by(socket(caller)?, caller, address(caller)?).await?;
            return until_the_end(stream).await;
        }
        // Says nothing, or not all, or what makes no sense, or no more than that it is there.
        1 => {
            octets.clear();
            socket(caller)?
        }
        2 => {
            octets.truncate(20);
            socket(caller)?
        }
        3 => {
            octets = vec![0; 64 * 1024];
            socket(caller)?
        }
        4 => socket(caller)?,
        // Nobody that is known.
        _ => TcpSocket::new_v4()?,
    };
    let mut stream = socket.connect(server()).await?;
    stream.write_all(&octets).await?;
    until_the_end(stream).await
}

async fn until_the_end(mut stream: TcpStream) -> Result<()> {
    let mut octets = vec![0; 4096];
    while stream.read(&mut octets).await? > 0 {}
    Ok(())
}

/// All of them call again and again. Counts the calls that came to an end.
async fn flood(callers: Range<usize>, ended: Arc<AtomicUsize>) -> Result<()> {
    let mut calls = JoinSet::new();
    for caller in callers {
        let ended = Arc::clone(&ended);
        calls.spawn(async move {
            loop {
                drop(call_badly(caller).await);
                ended.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
    match calls.join_next().await {
        Some(Err(error)) => Err(error.into()),
        _ => Err(anyhow!("nobody calls")),
    }
}

/// Between two calls of one caller.
const PAUSE: Duration = Duration::from_millis(50);

/// Floods while `meanwhile` looks at the speaker.
fn during_flood<T>(
    load: &Machine,
    callers: Range<usize>,
    meanwhile: impl FnOnce(&AtomicUsize) -> Result<T>,
) -> Result<T> {
    thread::scope(|scope| {
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&ended);
        let crowd = scope.spawn(move || {
            load.within(move || {
                let runtime = Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    tokio::select! {
                        broken = flood(callers, counted) => broken,
                        _ = stopped => Ok(()),
                    }
                })
            })
        });
        let seen = meanwhile(&ended);
        let _ = stop.send(());
        crowd.join().map_err(|_| anyhow!("the flood panicked"))??;
        seen
    })
}

/// Thousands call in vain under a limit on memory: nobody who is in is lost, and others come in afterwards.
pub(super) fn flooded(hub: &Hub, folder: &Path, flood: Flood) -> Result<String> {
    let callers = flood.callers;
    let server = hub.machine("small", 1)?;
    let load = crowd_machine(hub, "many", 2, ALL + callers, &server)?;
    let mut speaker = server.speaker(RANGE, folder)?;
    let ledger = Arc::default();
    let first = format!("crowd-{}", address(0)?);
    let half = Duration::from_secs(flood.seconds) / 2;
    let seen = during_with(&load, 0..FIRST, Play::Plain, &ledger, |_| {
        await_established(&speaker, FIRST, 20)?;
        let before = resident(&speaker)?;
        let by = limit(&speaker, flood.room)?;
        let seen = during_flood(&load, ALL..ALL + callers, |ended| {
            let serves = || {
                ensure!(established_count(&speaker, &first)? == 1, "another session");
                Ok(())
            };
            let refused = |more: usize| {
                let wanted = ended.load(Ordering::Relaxed) + more;
                eventually("the flood goes on", pace::seconds(30), || {
                    let refused = ended.load(Ordering::Relaxed);
                    ensure!(refused >= wanted, "{refused} of {wanted}");
                    Ok(refused)
                })
            };
            refused(callers / 2)?;
            throughout(half, serves)?;
            let middle = resident(&speaker)?;
            throughout(half, serves)?;
            let in_all = refused(callers / 2)?;
            let end = resident(&speaker)?;
            ensure!(
                end <= middle + GROWTH,
                "it goes on growing: {} were {}",
                mebibytes(end),
                mebibytes(middle)
            );
            Ok(format!(
                "{in_all} calls of {callers} callers ended under {by}; {} of {} more were needed",
                mebibytes(end.saturating_sub(before)),
                mebibytes(flood.room)
            ))
        })?;
        // Whoever plays the first ones would have missed them at any time.
        during_with(&load, FIRST..ALL, Play::Plain, &ledger, |ledger| {
            await_established(&speaker, ALL, 60)?;
            await_table(&speaker, &all_rows(ALL)?, 20)?;
            ledger.await_full(ALL, 0, 20)
        })?;
        Ok(seen)
    })?;
    speaker.kill()?;
    server.netns.delete()?;
    load.netns.delete()?;
    Ok(seen)
}
