//! The phases of a run, as the clients live through them.

use std::fs;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::task::LocalSet;

use super::client::{Client, Goal, announcements, withdrawals};
use super::median;
use super::shape::{SINGLES, Shape};

/// A phase that takes longer has failed.
const PHASE_LIMIT: Duration = Duration::from_secs(180);

/// The daemon is left alone for so long before each single update, so that none meets the end of the one before.
const SINGLE_GAP: Duration = Duration::from_millis(100);

/// What one run measured; seconds unless the name says otherwise.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// All clients announce everything at once until all have all.
    pub announce: f64,
    /// CPU time of the daemon during that.
    pub announce_cpu: f64,
    /// One new prefix until every other client has it; median of [`SINGLES`].
    pub single: f64,
    /// A new client from Established to its full table.
    pub join: f64,
    /// A client's TCP session is cut until all others have its withdrawals.
    pub flap: f64,
    /// Everything is withdrawn until nobody holds anything.
    pub withdraw: f64,
    /// Peak resident memory of the daemon in MiB.
    pub peak_mib: f64,
}

/// Runs all phases against the daemon at the server's address; `daemon` is its process.
///
/// # Errors
/// When a phase does not end or a session breaks.
pub fn run(shape: Shape, daemon: i32) -> Result<Figures> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, phases(shape, daemon))
}

async fn limited(phase: &str, goal: &Goal) -> Result<()> {
    tokio::time::timeout(PHASE_LIMIT, goal.wait())
        .await
        .with_context(|| format!("phase {phase} did not end"))?
        .with_context(|| format!("phase {phase}"))
}

async fn phases(shape: Shape, daemon: i32) -> Result<Figures> {
    let mut figures = Figures::default();
    let goal = Rc::new(Goal::default());
    let mut clients = Vec::new();
    for index in 0..shape.clients {
        clients.push(connect(shape, index, &goal).await?);
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
    limited("announce", &goal).await?;
    figures.announce = start.elapsed().as_secs_f64();
    figures.announce_cpu = cpu_seconds(daemon)? - cpu;

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
        limited("single", &goal).await?;
        singles.push(start.elapsed().as_secs_f64());
    }
    figures.single = median(singles);

    let newcomer = connect(shape, shape.clients, &goal).await?;
    let start = Instant::now();
    newcomer.want(shape.numbers());
    limited("join", &goal).await?;
    figures.join = start.elapsed().as_secs_f64();
    newcomer.cut();

    let last = clients.pop().context("no clients")?;
    let start = Instant::now();
    for client in &clients {
        client.want(client.count() - shape.prefixes);
    }
    last.cut();
    limited("flap", &goal).await?;
    figures.flap = start.elapsed().as_secs_f64();

    let back = connect(shape, shape.clients - 1, &goal).await?;
    for client in &clients {
        client.want(client.count() + shape.prefixes);
    }
    back.want(shape.numbers() - shape.prefixes);
    back.send(Rc::clone(words.last().context("no words")?))
        .await?;
    clients.push(back);
    limited("return", &goal).await?;

    let words: Vec<Rc<[u8]>> = (0..shape.clients)
        .map(|i| Rc::from(withdrawals(&shape, share(i))))
        .collect();
    let singles: Rc<[u8]> = Rc::from(withdrawals(&shape, shape.total()..shape.numbers()));
    let start = Instant::now();
    for (client, words) in clients.iter().zip(&words) {
        client.want(0);
        client.send(Rc::clone(words)).await?;
    }
    if let Some(first) = clients.first() {
        first.send(singles).await?;
    }
    limited("withdraw", &goal).await?;
    figures.withdraw = start.elapsed().as_secs_f64();
    figures.peak_mib = peak_mib(daemon)?;
    Ok(figures)
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

fn cpu_seconds(process: i32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).context("the daemon is gone")?;
    // Fields are counted after the name, which may hold blanks; user and system time are fields 14 and 15 of proc(5).
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|f| f.parse::<f64>().ok())
        .sum();
    Ok(ticks / 100.0)
}

fn peak_mib(process: i32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
