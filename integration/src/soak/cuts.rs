//! Cut links: how soon they are noticed, and what a link that flaps leaves behind.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::{RngExt as _, SeedableRng as _};

use super::Strictness;
use super::paths::{Cut, Kind, Paths, Plan};
use crate::eventually::{eventually, idle};
use crate::report::{Report, say};
use crate::{link, pace};

/// Within what a cut is noticed at three packets of 100 ms, and within what of that the kernel forgets the route.
const PROMISED: (Duration, Duration) = (Duration::from_millis(350), Duration::from_millis(50));

/// A cut noticed sooner was not noticed by the silence: of 300 ms at most 100 may have passed since the last packet.
const SOONEST: Duration = Duration::from_millis(190);

/// On a machine that keeps a thread waiting for longer than this, a time measured is a time of the machine's.
const CALM: Duration = Duration::from_millis(20);

/// What no machine misses that does other work as well.
const GENEROUS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(1));

/// A round of cuts takes about so long: sessions need a while to come back.
const ROUND: Duration = Duration::from_secs(4);

/// Cuts one path after the other for as long as there is time, and prints the percentiles.
///
/// # Errors
/// When the lab cannot be built.
pub fn rounds(
    folder: &Path,
    time: Duration,
    strictness: Strictness,
    report: &mut Report,
) -> Result<()> {
    let mut paths = Paths::build(Plan::default(), folder)?;
    for kind in Kind::ALL {
        if !report.check(&format!("BFD and BGP with {} are up", kind.name()), || {
            paths.await_up(kind).map(|()| "3 × 100 ms".to_owned())
        }) {
            return Ok(());
        }
    }
    cut_all(&mut paths, time, strictness, report);
    Ok(())
}

/// Cuts every path of a lab that stands, and again while there is time.
fn cut_all(paths: &mut Paths, time: Duration, strictness: Strictness, report: &mut Report) {
    let kinds = paths.plan.kinds.clone();
    for kind in &kinds {
        let share = time / u32::try_from(kinds.len()).unwrap_or(1);
        report.check(
            &format!("a silent cut towards {} is noticed", kind.name()),
            || cut(paths, *kind, 1, share, strictness),
        );
    }
}

/// Cuts one path some times at least, and again while there is time.
///
/// # Errors
/// When it takes longer than `strictness` allows, or is noticed for another reason than BFD.
pub fn cut(
    paths: &mut Paths,
    kind: Kind,
    least: usize,
    time: Duration,
    strictness: Strictness,
) -> Result<String> {
    let start = Instant::now();
    let mut cuts = Vec::new();
    while cuts.len() < least || start.elapsed() + ROUND < time {
        cuts.push(paths.measure(kind)?);
    }
    judge(&cuts, strictness)
}

/// Holds what was measured to what it has to be.
///
/// # Errors
/// When it is not.
pub fn judge(cuts: &[Cut], strictness: Strictness) -> Result<String> {
    let (most_noticed, most_gone) = match strictness {
        Strictness::Promised => PROMISED,
        Strictness::Generous => (GENEROUS.0 * pace::factor(), GENEROUS.1 * pace::factor()),
    };
    let all = || {
        let noticed = cuts.iter().map(|cut| cut.noticed);
        noticed.chain(cuts.iter().filter_map(|cut| cut.link))
    };
    let soonest = all().min().unwrap_or_default();
    ensure!(
        soonest >= SOONEST,
        "noticed after {soonest:.1?}, before the detection time can have passed"
    );
    let noticed = percentiles(cuts.iter().map(|cut| cut.noticed).collect());
    let gone = percentiles(cuts.iter().map(|cut| cut.gone).collect());
    let mut text = format!(
        "{} cuts; noticed after {}; route gone after {} more",
        cuts.len(),
        spelled(&noticed),
        spelled(&gone)
    );
    let link: Vec<_> = cuts.iter().filter_map(|cut| cut.link).collect();
    if !link.is_empty() {
        let link = percentiles(link);
        text += &format!("; over link-local addresses after {}", spelled(&link));
        ensure!(
            link[3] <= most_noticed,
            "{text}; expected at most {most_noticed:?}"
        );
    }
    let worst = |list: &[Duration; 4]| list[3];
    ensure!(
        worst(&noticed) <= most_noticed,
        "{text}; expected at most {most_noticed:?}"
    );
    ensure!(
        worst(&gone) <= most_gone,
        "{text}; expected at most {most_gone:?} more"
    );
    // What was promised holds in the middle wherever the machine lets it.
    let calm: Vec<_> = cuts.iter().filter(|cut| cut.stalled <= CALM).collect();
    if calm.len() * 2 <= cuts.len() {
        let longest = cuts.iter().map(|cut| cut.stalled).max().unwrap_or_default();
        return Ok(format!(
            "{text}; not held to {PROMISED:?}: this machine stood still for up to {longest:.0?}"
        ));
    }
    let middle =
        |time: fn(&Cut) -> Duration| percentiles(calm.iter().map(|cut| time(cut)).collect())[0];
    let (noticed, gone) = (middle(|cut| cut.noticed), middle(|cut| cut.gone));
    ensure!(
        noticed <= PROMISED.0 && gone <= PROMISED.1,
        "{text}; the median of {} calm ones is {noticed:.1?} and {gone:.1?}, {PROMISED:?} was promised",
        calm.len()
    );
    Ok(text)
}

/// Median, 90th and 99th percentile, maximum.
fn percentiles(mut times: Vec<Duration>) -> [Duration; 4] {
    times.sort_unstable();
    let at = |percent: usize| {
        let place = (times.len() * percent).div_ceil(100).saturating_sub(1);
        times.get(place).copied().unwrap_or_default()
    };
    [at(50), at(90), at(99), at(100)]
}

fn spelled(list: &[Duration; 4]) -> String {
    let [median, ninety, ninety_nine, most] = list.map(|time| time.as_secs_f64() * 1_000.0);
    format!("{median:.1} / {ninety:.1} / {ninety_nine:.1} / {most:.1} ms (p50/p90/p99/max)")
}

/// A link that flaps at random. With graceful restart and a neighbour whose BFD shares the fate of its control plane, forwarding must
/// go on by what was known (RFC 5882 §4.3.2), and nothing may be left over.
///
/// # Errors
/// When the lab cannot be built.
pub fn storm(
    folder: &Path,
    time: Duration,
    _strictness: Strictness,
    report: &mut Report,
) -> Result<()> {
    let plan = Plan {
        kinds: vec![Kind::Twin],
        graceful: true,
        ..Plan::default()
    };
    let mut paths = Paths::build(plan, folder)?;
    if !report.check("BFD and BGP with another margay are up", || {
        paths.await_up(Kind::Twin).map(|()| "3 × 100 ms".to_owned())
    }) {
        return Ok(());
    }
    let seed = 20_261_122;
    say(format_args!("storm: seed {seed}"));
    let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
    report.check("a link that flaps takes no route from the kernel", || {
        let end = Instant::now() + time;
        let mut flaps = 0;
        let before = paths.routes_log().len();
        while Instant::now() < end {
            paths.cut(Kind::Twin)?;
            idle(Duration::from_millis(random.random_range(50..900)));
            paths.mend(Kind::Twin)?;
            idle(Duration::from_millis(random.random_range(50..2_500)));
            flaps += 1;
        }
        paths.await_up(Kind::Twin)?;
        let (transitions, established) = paths.counts(Kind::Twin)?;
        let log = paths.routes_log();
        let deleted = format!("Deleted {} ", paths.plan.prefix(Kind::Twin));
        let lost = log
            .get(before..)
            .unwrap_or_default()
            .lines()
            .find(|line| line.contains(&deleted));
        ensure!(lost.is_none(), "after {flaps} flaps: {lost:?}");
        Ok(format!(
            "{flaps} flaps, {transitions} changes of BFD, {established} sessions"
        ))
    });
    report.check("nothing stale is left", || {
        eventually("every route is of the session", pace::seconds(20), || {
            let peer = paths.peer(Kind::Twin)?;
            ensure!(
                peer["families"][0]["retention"] == "none" && peer["families"][0]["received"] == 1,
                "{}",
                peer["families"]
            );
            Ok::<_, anyhow::Error>(())
        })?;
        let routes = link::routes(&paths.netns, 4)?;
        let held = routes
            .iter()
            .filter(|route| route.prefix == paths.plan.prefix(Kind::Twin));
        ensure!(held.count() == 1, "{routes:?}");
        Ok("one route, fresh".to_owned())
    });
    Ok(())
}
