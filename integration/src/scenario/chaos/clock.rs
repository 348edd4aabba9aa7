//! The wall clock jumps. Only the emulated machine's may be set.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::hub::{
    Hub, Machine, Table, await_established, await_table, established, peers, rows, throughout,
};
use crate::eventually::eventually;
use crate::router::bird::{Bird, Version};
use crate::speaker::Speaker;
use crate::{exec, link, pace, vm};

/// Longer than any hold time here.
const WATCHED: u64 = 8;

const HOUR: i64 = 3_600;

/// For how long the second one's routes are to be kept.
const RESTART_TIME: u64 = 8;

const BFD: &str = "{ minTx: 500, minRx: 500, multiplier: 5 }";

/// Puts the wall clock so many seconds ahead.
fn step(seconds: i64) -> Result<()> {
    ensure!(vm::is_guest(), "this is not the emulated machine");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let then = i64::try_from(now.as_secs())? + seconds;
    exec::check(Command::new("date").args(["-s", &format!("@{then}")])).map(drop)
}

/// A date as events have it, so many seconds from now by the clock as it is.
fn date(seconds: i64) -> Result<String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let at = i64::try_from(now.as_secs())? + seconds;
    let date = exec::check(Command::new("date").args(["-u", "-d", &format!("@{at}"), "+%FT%T"]))?;
    Ok(date.trim().to_owned())
}

fn peer(name: &str, machine: &Machine, more: &str) -> String {
    format!(
        "  - {{ name: {name}, address: {}, asn: 64512, routeReflectorClient: true, holdTime: 6, connectRetry: 500ms, \
         idleHold: 200ms, idleHoldMax: 1s, bfd: {BFD}{more} }}\n",
        machine.address
    )
}

fn bird(own: &Machine, other: &Machine) -> String {
    format!(
        "router id {own};\nprotocol device {{ }}\n\
         protocol bfd {{ interface \"*\" {{ min rx interval 500 ms; min tx interval 500 ms; multiplier 5; }}; }}\n\
         protocol static {{ ipv4; route 10.3.0.0/16 blackhole; }}\n\
         protocol bgp a {{ local {own} as 64512; neighbor {other} as 64512; direct; bfd on; graceful restart on; hold time 6; \
         connect delay time 1; connect retry time 1; error wait time 1, 1; \
         ipv4 {{ import all; export where source = RTS_STATIC; }}; }}\n",
        own = own.address,
        other = other.address
    )
}

/// A reflector between another margay and a BIRD.
struct Three {
    machines: [Machine; 3],
    middle: Speaker,
    side: Speaker,
    side_yaml: String,
    _bird: Bird,
    start: Instant,
}

impl Three {
    fn build(hub: &Hub, folder: &Path) -> Result<Self> {
        let machines = [
            hub.machine("hour", 81)?,
            hub.machine("minute", 82)?,
            hub.machine("second", 83)?,
        ];
        let [a, b, c] = &machines;
        let start = Instant::now();
        let middle = a.speaker(
            &format!(
                "originate: [10.1.0.0/16]\nkernel: {{ install: true }}\npeers:\n{}{}",
                peer("b", b, ""),
                peer("c", c, "")
            ),
            folder,
        )?;
        let graceful = format!(", gracefulRestart: {{ restartTime: {RESTART_TIME} }}");
        let side_yaml = format!(
            "originate: [10.2.0.0/16]\npeers:\n{}",
            peer("a", a, &graceful)
        );
        let side = b.speaker(&side_yaml, folder)?;
        let bird = Bird::start(Version::Two, &c.netns, &bird(c, a), folder)?;
        let three = Self {
            machines,
            middle,
            side,
            side_yaml,
            _bird: bird,
            start,
        };
        three.await_whole()?;
        Ok(three)
    }

    /// The middle's table.
    fn table(&self) -> Table {
        let [_, b, c] = &self.machines;
        let mut table: Table = rows(["10.1.0.0/16"], None).collect();
        table.extend(rows(["10.2.0.0/16"], Some(&b.address)));
        table.extend(rows(["10.3.0.0/16"], Some(&c.address)));
        table
    }

    fn await_whole(&self) -> Result<()> {
        await_established(&self.middle, 2, 30)?;
        await_table(&self.middle, &self.table(), 20)?;
        eventually("BFD and kernel", pace::seconds(20), || {
            for peer in peers(&self.middle)? {
                let state = peer.pointer("/bfd/state").and_then(Value::as_str);
                ensure!(state == Some("Up"), "{peer}");
            }
            self.forwards()
        })
    }

    /// Its kernel has the way to both others.
    fn forwards(&self) -> Result<()> {
        let [a, b, c] = &self.machines;
        let routes = link::routes(&a.netns, 4)?;
        for (prefix, far) in [("10.2.0.0/16", b), ("10.3.0.0/16", c)] {
            let there = routes
                .iter()
                .any(|route| route.prefix == prefix && route.goes_via(&far.address));
            ensure!(there, "no {prefix} via {}", far.address);
        }
        Ok(())
    }

    /// What would change if anything happened to a session, a path or a route.
    fn counts(&self) -> Result<Vec<Option<u64>>> {
        let mut counts = Vec::new();
        for peer in peers(&self.middle)?.iter().chain(&peers(&self.side)?) {
            for field in [
                "/establishedCount",
                "/bfd/transitions",
                "/messages/withdrawalsReceived",
                "/messages/announcementsReceived",
            ] {
                counts.push(peer.pointer(field).and_then(Value::as_u64));
            }
        }
        ensure!(counts.iter().all(Option::is_some), "{counts:?}");
        Ok(counts)
    }

    /// Ages and dates fit the clock as it is and what has passed.
    fn dates_fit(&self) -> Result<()> {
        let lived = self.start.elapsed().as_secs() + 1;
        for peer in peers(&self.middle)? {
            for field in ["/since", "/bfd/since"] {
                let since = peer.pointer(field).and_then(Value::as_u64);
                ensure!(since.is_some_and(|since| since <= lived), "{field}: {peer}");
            }
        }
        let (earliest, latest) = (date(-i64::try_from(lived)?)?, date(1)?);
        let events = self.middle.ask(&["events"])?;
        let events = events.as_array().context("no list of events")?;
        ensure!(!events.is_empty(), "no events");
        let mut before = earliest;
        for event in events {
            let time = event.get("time").and_then(Value::as_str);
            let time = time.context("an event without a date")?;
            ensure!(
                before.as_str() <= time && time < latest.as_str(),
                "{time} is not between {before} and {latest}: {event}"
            );
            time.clone_into(&mut before);
        }
        Ok(())
    }
}

/// An hour ahead, then two back: nobody notices.
fn stepped(three: &Three) -> Result<()> {
    let before = three.counts()?;
    for seconds in [HOUR, -2 * HOUR] {
        step(seconds)?;
        throughout(WATCHED, || {
            ensure!(established(&three.middle)? == 2, "a session ended");
            three.forwards()
        })?;
        let after = three.counts()?;
        ensure!(
            before == after,
            "by {seconds} s: {before:?} became {after:?}"
        );
        three.dates_fit()?;
    }
    await_table(&three.middle, &three.table(), 5)
}

/// Routes kept for a neighbour that restarts are kept for as long as was said, whatever the clock says.
fn kept(three: &mut Three) -> Result<()> {
    three.side.kill()?;
    step(2 * HOUR)?;
    throughout(RESTART_TIME / 2, || three.forwards())?;
    let yaml = three.machines[1].yaml(&three.side_yaml);
    three.side.run(&yaml)?;
    three.await_whole()?;
    three.side.kill()?;
    let gone = Instant::now();
    step(-HOUR)?;
    eventually("its routes are gone", pace::seconds(20), || {
        let routes = link::routes(&three.machines[0].netns, 4)?;
        ensure!(
            routes.iter().all(|route| route.prefix != "10.2.0.0/16"),
            "kept"
        );
        anyhow::Ok(())
    })?;
    let kept = gone.elapsed();
    ensure!(
        kept >= Duration::from_secs(RESTART_TIME - 1),
        "kept for {kept:.1?} only"
    );
    three.dates_fit()
}

/// Sessions, paths, kept routes and dates under a clock that is set.
pub(super) fn jumps(hub: &Hub, folder: &Path) -> Result<String> {
    let mut three = Three::build(hub, folder)?;
    stepped(&three)?;
    kept(&mut three)?;
    three.middle.kill()?;
    for machine in three.machines {
        machine.netns.delete()?;
    }
    Ok(format!(
        "1 h ahead and 2 h back for {WATCHED} s each: no session, path or route noticed; routes of a neighbour that restarts \
         are kept for {RESTART_TIME} s on both clocks"
    ))
}
