//! Multihop BFD (RFC 5883) with BIRD 2, FRR's bfdd and margay itself, each behind a router: an internal session or an external
//! one over several hops, cut in the middle, and no farther away than it may be. The same in either family.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Outcome;
use super::bfd::{all_counts, await_path, seen_by, undisturbed};
use crate::eventually::{eventually, throughout};
use crate::pace;
use crate::report::Report;
use crate::router::bird::Version;
use crate::soak::Strictness;
use crate::soak::cuts;
use crate::soak::paths::{Kind, Paths, Plan};

/// How often each path is cut.
const CUTS: usize = 3;

/// Runs the scenario.
///
/// # Errors
/// When a step on which all others rest fails.
pub fn run(folder: &Path, report: &mut Report) -> Result<Outcome> {
    over(Plan::routed(), folder, report)
}

/// Runs the scenario over IPv6.
///
/// # Errors
/// As [`run`].
pub fn run_over_ipv6(folder: &Path, report: &mut Report) -> Result<Outcome> {
    over(Plan::routed_over_ipv6(), folder, report)
}

fn over(plan: Plan, folder: &Path, report: &mut Report) -> Result<Outcome> {
    ensure!(
        Version::Two.programs().is_some() && Path::new("/usr/lib/frr/bfdd").exists(),
        "no BIRD 2 or no bfdd here: integration/setup installs them"
    );
    let mut paths = Paths::build(plan, folder)?;
    for kind in Kind::ALL {
        let what = format!("BFD and BGP with {} are up over two hops", kind.name());
        report.check(&what, || {
            paths.await_up(kind)?;
            eventually("the other end agrees", pace::seconds(10), || {
                seen_by(&paths, kind)
            })
        });
    }
    if !report.held() {
        return Ok(Outcome::Passed);
    }
    for kind in Kind::ALL {
        undisturbed(
            report,
            &mut paths,
            &format!(
                "a silent cut behind the router towards {} is noticed",
                kind.name()
            ),
            |paths| cuts::cut(paths, kind, CUTS, Duration::ZERO, Strictness::Generous),
        );
    }
    undisturbed(
        report,
        &mut paths,
        "a path that may have more hops goes on",
        |paths| {
            let before = all_counts(paths)?;
            allow(paths, 3)?;
            throughout(Duration::from_secs(1), || {
                let after = all_counts(paths)?;
                ensure!(before == after, "{before:?} became {after:?}");
                Ok(())
            })?;
            allow(paths, 2)?;
            Ok("3 hops and 2 again, no state changed".to_owned())
        },
    );
    undisturbed(
        report,
        &mut paths,
        "packets from farther away than configured count for nothing",
        |paths| {
            let log = paths.margay.log().len();
            let bird = paths.counts(Kind::Bird)?;
            allow(paths, 1)?;
            for kind in [Kind::Frr, Kind::Twin] {
                await_path(paths, kind, "Down")?;
            }
            let said = paths.margay.log();
            let said: Vec<&str> = said
                .get(log..)
                .unwrap_or_default()
                .lines()
                .filter(|line| line.contains("came too far") && line.contains("ttl=254"))
                .collect();
            ensure!(said.len() == 2, "not one line each: {said:?}");
            allow(paths, 2)?;
            for kind in Kind::ALL {
                paths.await_up(kind)?;
            }
            ensure!(
                paths.counts(Kind::Bird)? == bird,
                "any TTL was right for BIRD"
            );
            Ok("a TTL of 254 is one hop too many, and said so once for each".to_owned())
        },
    );
    Ok(Outcome::Passed)
}

/// Lets margay's paths have so many hops.
fn allow(paths: &mut Paths, hops: u8) -> Result<()> {
    paths.reconfigure(|plan| {
        plan.bfd = format!("{{ minTx: 100, minRx: 100, multiplier: 3, multihop: {hops} }}");
    })
}
