//! BFD beside everything else: a thousand sessions that never rest, and more work than the processors can do.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::LocalSet;

use super::Strictness;
use super::cuts;
use super::paths::{Kind, Paths, Plan};
use crate::bench::client::{Client, Goal, announcements, withdrawals};
use crate::bench::shape::{CLIENT_RANGE, SERVER, Shape};
use crate::eventually::{eventually, idle};
use crate::link::{self, End};
use crate::netns::Netns;
use crate::pace;
use crate::process::Daemon;
use crate::report::Report;

/// Busy threads a processor.
const HOGS: usize = 2;

/// Threads that do nothing, as fast as they can, until dropped.
#[derive(Debug)]
pub struct Hogs(Arc<AtomicBool>);

impl Hogs {
    /// Keeps every processor busy.
    #[must_use]
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let processors = thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..processors * HOGS {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut number = 1_u64;
                while !stop.load(Ordering::Relaxed) {
                    number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005));
                }
            });
        }
        Self(stop)
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The clients, as many as the time allows to bring up: a thousand, or two hundred where it is about seconds.
fn shape(time: Duration) -> Shape {
    Shape {
        name: "soak",
        clients: if time < Duration::from_secs(60) {
            200
        } else {
            1_000
        },
        prefixes: 4,
        prefix_len: 26,
        attribute_sets: 1,
    }
}

/// No path that works may be taken for one that does not.
///
/// # Errors
/// When the lab cannot be built.
pub fn run(
    folder: &Path,
    time: Duration,
    strictness: Strictness,
    report: &mut Report,
) -> Result<()> {
    // The other end is margay: whether BIRD's packets are in time on a machine like this is BIRD's affair.
    let plan = Plan {
        kinds: vec![Kind::Twin],
        install: false,
        more: format!(
            "  - {{ name: clients, range: {CLIENT_RANGE}, asn: 64512, routeReflectorClient: true, passive: true, gracefulRestart: false }}\n"
        ),
        ..Plan::default()
    };
    let mut paths = Paths::build(plan, folder)?;
    let clients = Netns::create("clients")?;
    link::wire(
        &End {
            netns: &paths.netns,
            interface: "to-clients",
        },
        &End {
            netns: &clients,
            interface: "to-m",
        },
    )?;
    link::addresses(&paths.netns, "to-clients", &[format!("{SERVER}/16")])?;
    let shape = shape(time);
    let lines: Vec<String> = (0..shape.clients)
        .map(|client| format!("address add {}/16 dev to-m", Shape::client_address(client)))
        .collect();
    clients.ip_batch(&lines)?;
    if !report.check("BFD and BGP with another margay are up", || {
        paths.await_up(Kind::Twin).map(|()| "3 × 100 ms".to_owned())
    }) {
        return Ok(());
    }
    let real_time = paths.margay.logged("scheduling=RealTime");
    report.check("BFD runs ahead of all other work", || {
        match (real_time, strictness) {
            (true, _) => Ok("scheduling class: real-time".to_owned()),
            (false, Strictness::Generous) => {
                Ok("scheduling class: NOT real-time; false alarms are not looked at".to_owned())
            }
            (false, Strictness::Promised) => {
                anyhow::bail!("scheduling class: not real-time; give it CAP_SYS_NICE")
            }
        }
    });
    if !real_time {
        return Ok(());
    }
    let program = std::env::current_exe().context("own path")?;
    let mut command = clients.command(&program.display().to_string());
    command.args(["soak-load", "--clients", &shape.clients.to_string()]);
    let log = folder.join("clients.log");
    let mut load = Daemon::start("clients", &mut command, &log)?;
    report.check("clients come up and never rest", || {
        eventually("rounds of the clients", pace::seconds(120), || {
            ensure!(load.ended().is_none(), "{}", load.log_tail(400));
            ensure!(rounds(&load) > 0, "{}", load.log_tail(200));
            Ok::<_, anyhow::Error>(())
        })?;
        Ok(format!("{} sessions", shape.clients))
    });
    let hogs = Hogs::start();
    report.check("no false alarm under full load", || {
        let before = (paths.counts(Kind::Twin)?, rounds(&load));
        let start = Instant::now();
        let idle_before = idle_time()?;
        while start.elapsed() < time {
            idle(Duration::from_secs(5).min(time));
            ensure!(load.ended().is_none(), "{}", load.log_tail(400));
            let log = paths.margay.log();
            if let Some(line) = log.lines().find(|line| line.contains("the path is down")) {
                anyhow::bail!("after {:?}: {line}", start.elapsed());
            }
        }
        let share = (idle_time()? - idle_before) / start.elapsed().as_secs_f64();
        let after = (paths.counts(Kind::Twin)?, rounds(&load));
        ensure!(before.0 == after.0, "{before:?} became {after:?}");
        ensure!(share <= 0.05, "the processors were idle {:.0} % of the time", share * 100.0);
        ensure!(after.1 > before.1, "no round of the clients in all that time");
        Ok(format!(
            "{:.0} s, {} rounds of {} announcements and withdrawals to all clients, processors {:.0} % busy",
            start.elapsed().as_secs_f64(),
            after.1 - before.1,
            shape.total(),
            (1.0 - share) * 100.0
        ))
    });
    // The log in which margay writes that it noticed is written by a thread like any other.
    report.check("a cut under that load is noticed", || {
        cuts::cut(
            &mut paths,
            Kind::Twin,
            1,
            Duration::ZERO,
            Strictness::Generous,
        )
    });
    drop(hogs);
    Ok(())
}

/// Rounds the clients have done.
fn rounds(load: &Daemon) -> usize {
    load.log_tail(64)
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("round ")?.parse().ok())
        .unwrap_or(0)
}

/// Seconds the processors were idle since the machine started, a processor's worth.
fn idle_time() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let ticks: f64 = text
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().nth(4)?.parse().ok())
        .context("no idle time")?;
    let processors = thread::available_parallelism().map_or(1, usize::from);
    #[expect(clippy::cast_precision_loss, reason = "a count of processors")]
    Ok(ticks / 100.0 / processors as f64)
}

/// The clients' process: they announce and withdraw everything for ever.
///
/// # Errors
/// When a session breaks.
pub fn clients(count: usize) -> Result<()> {
    let shape = Shape {
        clients: count,
        ..shape(Duration::ZERO)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, churn(shape))
}

async fn churn(shape: Shape) -> Result<()> {
    let goal = Rc::new(Goal::default());
    let mut clients = Vec::new();
    for index in 0..shape.clients {
        let deadline = Instant::now() + Duration::from_secs(60);
        let client = loop {
            match Client::establish(shape, index, Rc::clone(&goal)).await {
                Ok(client) => break client,
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        clients.push(client);
    }
    let share = |client: usize| client * shape.prefixes..(client + 1) * shape.prefixes;
    let announced: Vec<Rc<[u8]>> = (0..shape.clients)
        .map(|client| Rc::from(announcements(&shape, client, share(client))))
        .collect();
    let withdrawn: Vec<Rc<[u8]>> = (0..shape.clients)
        .map(|client| Rc::from(withdrawals(&shape, share(client))))
        .collect();
    // Whose route the other end's own announcement is, the clients hold as well; it is no number of theirs.
    for round in 1.. {
        for (words, held) in [
            (&announced, shape.total() - shape.prefixes),
            (&withdrawn, 0),
        ] {
            for (client, words) in clients.iter().zip(words) {
                client.want(held);
                client.send(Rc::clone(words)).await?;
            }
            goal.wait().await?;
        }
        crate::report::say(format_args!("round {round}"));
    }
    Ok(())
}
