//! The phases of a run, as the clients live through them.

use std::fs;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use tokio::task::LocalSet;

use super::client::{Client, Goal, announcements, withdrawals};
use super::median;
use super::shape::{SINGLES, Shape};

/// A phase that takes longer has failed.
const PHASE_LIMIT: Duration = Duration::from_secs(180);

/// The daemon is left alone for so long before each single update, so that none meets the end of the one before.
const SINGLE_GAP: Duration = Duration::from_millis(100);

/// A daemon that needed no CPU time for so long has nothing left to do.
const SETTLED: Duration = Duration::from_millis(500);

/// What one run measured, as far as it came; seconds unless the name says otherwise.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// All clients announce everything at once until all have all.
    pub announce: Option<f64>,
    /// CPU time of the daemon during that.
    pub announce_cpu: Option<f64>,
    /// One new prefix until every other client has it; median of [`SINGLES`].
    pub single: Option<f64>,
    /// A new client from Established to its full table.
    pub join: Option<f64>,
    /// A client's TCP session is cut until all others have its withdrawals.
    pub flap: Option<f64>,
    /// Everything is withdrawn until nobody holds anything.
    pub withdraw: Option<f64>,
    /// Peak resident memory of the daemon in MiB.
    pub peak_mib: Option<f64>,
    /// As `announce`, but a tenth of the clients, one at least, read 10 kB/s and only the others are waited for.
    pub beside_slow: Option<f64>,
    /// How often a client was told a prefix of its own.
    pub told_back: usize,
    /// What ended the run early.
    pub broke: Option<String>,
}

/// What one run of [`memory`] measured: octets of resident memory.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct PathFigures {
    /// For the first path of a prefix.
    pub first: f64,
    /// For each further one.
    pub further: f64,
}

/// Runs all phases against the daemon at the server's address; `daemon` is its process. A phase that does not end is the last one:
/// what was measured before is told all the same.
///
/// # Errors
/// When there is no runtime.
pub fn run(shape: Shape, daemon: i32, slow: bool) -> Result<Figures> {
    on_one_thread(async {
        let (mut figures, goal) = (Figures::default(), Rc::new(Goal::default()));
        if let Err(error) = phases(shape, daemon, slow, &goal, &mut figures).await {
            figures.broke = Some(format!("{error:#}"));
        }
        figures.told_back = goal.told_back();
        Ok(figures)
    })
}

fn on_one_thread<T>(what: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, what)
}

/// Measures what a path costs: the growth of the daemon's resident memory while one client announces all prefixes of the shape,
/// and while others announce the same ones.
///
/// # Errors
/// When a session breaks or a client is not told what it must be.
pub fn memory(shape: Shape, daemon: i32) -> Result<PathFigures> {
    on_one_thread(paths(shape, daemon))
}

async fn paths(shape: Shape, daemon: i32) -> Result<PathFigures> {
    let goal = Rc::new(Goal::default());
    let mut clients = Vec::new();
    for index in 0..shape.clients {
        clients.push(connect(shape, index, &goal).await?);
    }
    let listener = clients.pop().context("no clients")?;
    let mut sizes = vec![resident(daemon)?];
    for (index, client) in clients.iter().enumerate() {
        client
            .send(Rc::from(announcements(&shape, index, 0..shape.prefixes)))
            .await?;
        // Messages of a client are handled in their order: when the last one has come through, all have.
        let marker = shape.total() + index;
        listener.want(shape.prefixes + index + 1);
        client
            .send(Rc::from(announcements(
                &shape,
                index,
                std::iter::once(marker),
            )))
            .await?;
        limited("paths", &goal).await?;
        settled(daemon).await?;
        sizes.push(resident(daemon)?);
    }
    let prefixes = shape.prefixes as f64;
    let growth: Vec<f64> = sizes
        .windows(2)
        .filter_map(|pair| Some((pair.last()? - pair.first()?) / prefixes))
        .collect();
    let (first, further) = growth.split_first().context("one client only")?;
    Ok(PathFigures {
        first: *first,
        further: further.iter().sum::<f64>() / further.len() as f64,
    })
}

/// Returns when the daemon has been idle for a while.
async fn settled(daemon: i32) -> Result<()> {
    let mut before = cpu_seconds(daemon)?;
    loop {
        tokio::time::sleep(SETTLED).await;
        let now = cpu_seconds(daemon)?;
        if now <= before {
            return Ok(());
        }
        before = now;
    }
}

async fn limited(phase: &str, goal: &Goal) -> Result<()> {
    tokio::time::timeout(PHASE_LIMIT, goal.wait())
        .await
        .map_err(|_| anyhow!("phase {phase} did not end: {}", goal.missing()))?
        .with_context(|| format!("phase {phase}"))
}

async fn phases(
    shape: Shape,
    daemon: i32,
    slow: bool,
    goal: &Rc<Goal>,
    figures: &mut Figures,
) -> Result<()> {
    let mut clients = Vec::new();
    for index in 0..shape.clients {
        clients.push(connect(shape, index, goal).await?);
    }
    let share = |client: usize| client * shape.prefixes..(client + 1) * shape.prefixes;

    let words: Vec<Rc<[u8]>> = (0..shape.clients)
        .map(|i| Rc::from(announcements(&shape, i, share(i))))
        .collect();
    let cpu = cpu_seconds(daemon)?;
    let start = Instant::now();
    for (client, words) in clients.iter().zip(&words) {
        client.want(shape.total() - shape.prefixes);
        client.send(Rc::clone(words)).await?;
    }
    limited("announce", goal).await?;
    figures.announce = Some(start.elapsed().as_secs_f64());
    figures.announce_cpu = Some(cpu_seconds(daemon)? - cpu);

    let Some((first, others)) = clients.split_first() else {
        bail!("no clients")
    };
    let mut singles = Vec::new();
    for number in shape.total()..shape.total() + SINGLES {
        tokio::time::sleep(SINGLE_GAP).await;
        let words = announcements(&shape, 0, std::iter::once(number));
        let start = Instant::now();
        for client in others {
            client.want(client.count() + 1);
        }
        first.send(Rc::from(words)).await?;
        limited("single", goal).await?;
        singles.push(start.elapsed().as_secs_f64());
    }
    figures.single = Some(median(singles));

    let newcomer = connect(shape, shape.clients, goal).await?;
    let start = Instant::now();
    newcomer.want(shape.numbers());
    limited("join", goal).await?;
    figures.join = Some(start.elapsed().as_secs_f64());
    newcomer.cut();

    let last = clients.pop().context("no clients")?;
    let start = Instant::now();
    for client in &clients {
        client.want(client.count() - shape.prefixes);
    }
    last.cut();
    limited("flap", goal).await?;
    figures.flap = Some(start.elapsed().as_secs_f64());

    let back = connect(shape, shape.clients - 1, goal).await?;
    for client in &clients {
        client.want(client.count() + shape.prefixes);
    }
    back.want(shape.numbers() - shape.prefixes);
    back.send(Rc::clone(words.last().context("no words")?))
        .await?;
    clients.push(back);
    limited("return", goal).await?;

    let withdrawn: Vec<Rc<[u8]>> = (0..shape.clients)
        .map(|i| Rc::from(withdrawals(&shape, share(i))))
        .collect();
    let singles: Rc<[u8]> = Rc::from(withdrawals(&shape, shape.total()..shape.numbers()));
    let start = Instant::now();
    for (client, words) in clients.iter().zip(&withdrawn) {
        client.want(0);
        client.send(Rc::clone(words)).await?;
    }
    if let Some(first) = clients.first() {
        first.send(singles).await?;
    }
    limited("withdraw", goal).await?;
    figures.withdraw = Some(start.elapsed().as_secs_f64());
    figures.peak_mib = Some(peak_mib(daemon)?);
    if slow {
        figures.beside_slow = Some(beside_slow(&shape, &clients, &words, goal).await?);
    }
    Ok(())
}

/// Announces everything while the first clients read slowly: how long until the others have it. Then those read on, and must
/// come to hold everything as well.
async fn beside_slow(
    shape: &Shape,
    clients: &[Client],
    words: &[Rc<[u8]>],
    goal: &Goal,
) -> Result<f64> {
    let all = shape.total() - shape.prefixes;
    let (slow, fast) = clients.split_at(clients.len().div_ceil(10));
    for client in slow {
        client.read_slowly(true);
    }
    let start = Instant::now();
    for client in fast {
        client.want(all);
    }
    for (client, words) in clients.iter().zip(words) {
        client.send(Rc::clone(words)).await?;
    }
    limited("announce beside slow readers", goal).await?;
    let took = start.elapsed().as_secs_f64();
    for client in slow {
        client.read_slowly(false);
        client.want(all);
    }
    limited("slow readers catch up", goal).await?;
    Ok(took)
}

/// A daemon that has just started, or just lost this client, may refuse for a moment.
async fn connect(shape: Shape, index: usize, goal: &Rc<Goal>) -> Result<Client> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match Client::establish(shape, index, Rc::clone(goal)).await {
            Ok(client) => return Ok(client),
            Err(e) if Instant::now() > deadline => return Err(e),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// A daemon and its workers: OpenBGPD is several processes.
fn family(daemon: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children"));
    let children = children.unwrap_or_default();
    let children = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    std::iter::once(daemon).chain(children).collect()
}

fn cpu_seconds(daemon: i32) -> Result<f64> {
    let mut ticks = 0.0;
    for process in family(daemon) {
        let stat =
            fs::read_to_string(format!("/proc/{process}/stat")).context("the daemon is gone")?;
        // Fields are counted after the name, which may hold blanks; user and system time are fields 14 and 15 of proc(5).
        let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        ticks += after
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|f| f.parse::<f64>().ok())
            .sum::<f64>();
    }
    Ok(ticks / 100.0)
}

fn peak_mib(daemon: i32) -> Result<f64> {
    Ok(kib(daemon, "VmHWM:")? / 1024.0)
}

/// Octets.
fn resident(daemon: i32) -> Result<f64> {
    Ok(kib(daemon, "VmRSS:")? * 1024.0)
}

fn kib(daemon: i32, field: &str) -> Result<f64> {
    let mut sum = 0.0;
    for process in family(daemon) {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .with_context(|| format!("no {field}"))?;
        sum += line.trim().trim_end_matches(" kB").parse::<f64>()?;
    }
    Ok(sum)
}
