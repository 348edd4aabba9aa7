//! BFD with BIRD 2, FRR's bfdd and margay itself: up, changed, taken down on purpose, cut off without a word.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::Outcome;
use crate::eventually::{eventually, throughout};
use crate::pace;
use crate::report::{Report, say};
use crate::router::bird::Version;
use crate::soak::Strictness;
use crate::soak::cuts;
use crate::soak::load::Hogs;
use crate::soak::paths::{Kind, Neighbour, Paths, Plan};

/// How often each path is cut.
const CUTS: usize = 3;

/// How long the processors are kept busy here; `lab soak` does it for as long as one likes.
const BUSY: Duration = Duration::from_secs(8);

/// Runs the scenario.
///
/// # Errors
/// When a step on which all others rest fails.
pub fn run(folder: &Path, report: &mut Report) -> Result<Outcome> {
    ensure!(
        Version::Two.programs().is_some() && Path::new("/usr/lib/frr/bfdd").exists(),
        "no BIRD 2 or no bfdd here: integration/setup installs them"
    );
    let plan = Plan {
        link: true,
        ..Plan::default()
    };
    let mut paths = Paths::build(plan, folder)?;
    for kind in Kind::ALL {
        report.check(&format!("BFD and BGP with {} are up", kind.name()), || {
            paths.await_up(kind)?;
            eventually("the other end agrees", pace::seconds(10), || {
                seen_by(&paths, kind)
            })
        });
    }
    report.check("BFD and BGP over link-local addresses are up", || {
        eventually("the path over the link is up", pace::seconds(20), || {
            let peer = paths.peer_named("link")?;
            ensure!(
                peer["state"] == "Established" && peer["bfd"]["state"] == "Up",
                "{peer}"
            );
            Ok::<_, anyhow::Error>(())
        })?;
        Ok("fe80::2 on to-twin".to_owned())
    });
    if !report.held() {
        return Ok(Outcome::Passed);
    }
    undisturbed(
        report,
        &mut paths,
        "other timers are polled and end nothing",
        |paths| {
            let before = all_counts(paths)?;
            paths.reconfigure(|plan| {
                plan.bfd = "{ minTx: 250, minRx: 200, multiplier: 4 }".into()
            })?;
            await_interval(paths, 250)?;
            paths.reconfigure(|plan| plan.bfd = plan.usual_bfd())?;
            await_interval(paths, 100)?;
            let after = all_counts(paths)?;
            ensure!(before == after, "{before:?} became {after:?}");
            Ok("250 ms and 100 ms again, no state changed".to_owned())
        },
    );
    undisturbed(
        report,
        &mut paths,
        "a path its other end takes down leaves BGP alone",
        |paths| {
            let before = paths.counts(Kind::Frr)?.1;
            shut_frr(paths, true)?;
            await_path(paths, Kind::Frr, "Down")?;
            throughout(Duration::from_secs(1), || {
                let peer = paths.peer(Kind::Frr)?;
                ensure!(peer["state"] == "Established", "{}", peer["lastError"]);
                Ok(())
            })?;
            shut_frr(paths, false)?;
            paths.await_up(Kind::Frr)?;
            ensure!(paths.counts(Kind::Frr)?.1 == before, "another session");
            Ok("FRR's bfdd was told to shut the session".to_owned())
        },
    );
    // RFC 5882 §3.2 asks for that; BIRD 2.0.12 ends its session all the same, with 6/0, and FRR 8.4 with 6/10. There BFD is
    // to be taken out at the other end first.
    undisturbed(
        report,
        &mut paths,
        "a path we take down leaves BGP alone on either side",
        |paths| {
            let before: Vec<u64> = established(paths)?;
            paths.reconfigure(|plan| plan.bfd.clear())?;
            eventually("no path is watched", pace::seconds(10), || {
                for kind in Kind::ALL {
                    ensure!(paths.peer(kind)?["bfd"].is_null(), "{}", kind.name());
                }
                Ok::<_, anyhow::Error>(())
            })?;
            throughout(Duration::from_secs(1), || {
                ensure!(established(paths)? == before, "a session was lost");
                Ok(())
            })?;
            paths.reconfigure(|plan| plan.bfd = plan.usual_bfd())?;
            for kind in Kind::ALL {
                paths.await_up(kind)?;
            }
            let after = established(paths)?;
            ensure!(after == before, "{before:?} sessions became {after:?}");
            Ok("margay understood AdminDown".to_owned())
        },
    );
    for kind in Kind::ALL {
        undisturbed(
            report,
            &mut paths,
            &format!("a silent cut towards {} is noticed", kind.name()),
            |paths| cuts::cut(paths, kind, CUTS, Duration::ZERO, Strictness::Generous),
        );
    }
    undisturbed(
        report,
        &mut paths,
        "no false alarm while every processor is busy",
        |paths| {
            if !paths.margay.logged("scheduling=RealTime") {
                return Ok("not looked at: no real-time scheduling here".to_owned());
            }
            let before = paths.counts(Kind::Twin)?;
            let hogs = Hogs::start();
            crate::eventually::idle(BUSY);
            drop(hogs);
            let after = paths.counts(Kind::Twin)?;
            ensure!(before == after, "{before:?} became {after:?}");
            Ok(format!("{} s", BUSY.as_secs()))
        },
    );
    say(format_args!(
        "checks made again on a machine that stood still: {}",
        REPEATED.load(Ordering::Relaxed)
    ));
    Ok(Outcome::Passed)
}

/// The soak of that name for half a minute.
///
/// # Errors
/// As [`run`].
pub fn load(folder: &Path, report: &mut Report) -> Result<Outcome> {
    crate::soak::load::run(
        folder,
        Duration::from_secs(30),
        Strictness::Generous,
        report,
    )?;
    Ok(Outcome::Passed)
}

/// The soak of that name for a third of a minute.
///
/// # Errors
/// As [`run`].
pub fn storm(folder: &Path, report: &mut Report) -> Result<Outcome> {
    cuts::storm(
        folder,
        Duration::from_secs(20),
        Strictness::Generous,
        report,
    )?;
    Ok(Outcome::Passed)
}

/// How often [`undisturbed`] made a check again.
static REPEATED: AtomicU32 = AtomicU32::new(0);

/// A check whose outcome a machine that stands still for a third of a second spoils: then it is made once more, and a third
/// time. What a test can say for sure, those of `margay-bgp` say on an invented clock.
pub(super) fn undisturbed(
    report: &mut Report,
    paths: &mut Paths,
    what: &str,
    mut run: impl FnMut(&mut Paths) -> Result<String>,
) {
    report.check(what, || {
        for attempt in 1..3 {
            match run(paths) {
                Ok(seen) if attempt == 1 => return Ok(seen),
                Ok(seen) => return Ok(format!("{seen}; at attempt {attempt}")),
                Err(error) => say(format_args!("attempt {attempt}: {error:#}; once more")),
            }
            REPEATED.fetch_add(1, Ordering::Relaxed);
            for kind in Kind::ALL {
                paths.mend(kind)?;
            }
            shut_frr(paths, false)?;
            paths.reconfigure(|plan| plan.bfd = plan.usual_bfd())?;
            for kind in Kind::ALL {
                paths.await_up(kind)?;
            }
        }
        run(paths).map(|seen| format!("{seen}; at attempt 3"))
    });
}

pub(super) fn all_counts(paths: &Paths) -> Result<Vec<(u64, u64)>> {
    Kind::ALL
        .map(|kind| paths.counts(kind))
        .into_iter()
        .collect()
}

fn established(paths: &Paths) -> Result<Vec<u64>> {
    [Kind::Twin]
        .into_iter()
        .map(|kind| {
            let peer = paths.peer(kind)?;
            ensure!(
                peer["state"] == "Established",
                "{}: {}",
                kind.name(),
                peer["lastError"]
            );
            Ok(peer["establishedCount"].as_u64().unwrap_or(0))
        })
        .collect()
}

fn await_interval(paths: &Paths, milliseconds: u64) -> Result<()> {
    for kind in Kind::ALL {
        eventually(
            format!("{} ms towards {}", milliseconds, kind.name()),
            pace::seconds(15),
            || {
                let bfd = paths.peer(kind)?["bfd"].clone();
                ensure!(bfd["transmitInterval"] == milliseconds, "{bfd}");
                Ok::<_, anyhow::Error>(())
            },
        )?;
    }
    Ok(())
}

pub(super) fn await_path(paths: &Paths, kind: Kind, state: &str) -> Result<()> {
    eventually(
        format!("the path to {} is {state}", kind.name()),
        pace::seconds(15),
        || {
            let bfd = paths.peer(kind)?["bfd"].clone();
            ensure!(bfd["state"] == state, "{bfd}");
            Ok(())
        },
    )
}

fn neighbour(paths: &Paths, kind: Kind) -> Result<&Neighbour> {
    match paths.neighbours.iter().find(|(other, _)| *other == kind) {
        Some((_, neighbour)) => Ok(neighbour),
        None => bail!("no {}", kind.name()),
    }
}

/// What the other end says of its session.
pub(super) fn seen_by(paths: &Paths, kind: Kind) -> Result<String> {
    match neighbour(paths, kind)? {
        Neighbour::Bird(bird) => {
            let sessions = bird.ask("show bfd sessions")?;
            let line = sessions.lines().find(|line| line.contains("Up"));
            let line = line.unwrap_or_default();
            ensure!(line.contains("0.300"), "{sessions}");
            Ok(line.split_whitespace().collect::<Vec<_>>().join(" "))
        }
        Neighbour::Frr(frr) => {
            let peers: serde_json::Value = serde_json::from_str(&frr.ask("show bfd peers json")?)?;
            let peer = &peers[0];
            ensure!(
                peer["status"] == "up" && peer["remote-receive-interval"] == 100,
                "{peers}"
            );
            Ok(format!("up, uptime {} s", peer["uptime"]))
        }
        Neighbour::Twin(twin) => {
            let peers = twin.ask(&["peers"])?;
            ensure!(peers[0]["bfd"]["state"] == "Up", "{peers}");
            Ok(format!(
                "Up, detection time {} ms",
                peers[0]["bfd"]["detectionTime"]
            ))
        }
    }
}

fn shut_frr(paths: &Paths, shut: bool) -> Result<()> {
    let Neighbour::Frr(frr) = neighbour(paths, Kind::Frr)? else {
        bail!("no FRR");
    };
    let ours = paths.plan.our_address(Kind::Frr);
    let peer = match paths.plan.routed {
        true => {
            let theirs = paths.plan.address(Kind::Frr);
            format!("peer {ours} multihop local-address {theirs}")
        }
        false => format!("peer {ours} interface to-frr"),
    };
    frr.configure(&["bfd", &peer, if shut { "shutdown" } else { "no shutdown" }])
}
