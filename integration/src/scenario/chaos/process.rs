//! What befalls the process: it is stopped, its passwords change, its policies are reloaded.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Scale;
use super::hub::{
    Hub, Machine, Table, await_established, await_prefixes, await_received, await_table,
    established, established_count, rows, throughout,
};
use crate::eventually::{eventually, idle};
use crate::netns::Netns;
use crate::speaker::Speaker;
use crate::{exec, link, pace};

fn peer(name: &str, address: &str, more: &str) -> String {
    format!(
        "  - {{ name: {name}, address: {address}, asn: 64512, routeReflectorClient: true, connectRetry: 500ms, idleHold: 200ms, idleHoldMax: 1s{more} }}\n"
    )
}

fn signal(netns: &Netns, name: &str) -> Result<()> {
    let processes = exec::check(Command::new("ip").args(["netns", "pids", netns.name()]))?;
    for process in processes.split_whitespace() {
        exec::check(Command::new("kill").args([name, process]))?;
    }
    Ok(())
}

/// Two speakers with a session between them, the first of them a reflector with one prefix.
fn two(
    hub: &Hub,
    names: [&str; 2],
    numbers: [u8; 2],
    more: &str,
    folder: &Path,
) -> Result<[(Machine, Speaker); 2]> {
    let [a, b] = [
        hub.machine(names[0], numbers[0])?,
        hub.machine(names[1], numbers[1])?,
    ];
    let first = a.speaker(
        &format!(
            "originate: [{{ prefix: 10.1.0.0/16 }}]\npeers:\n{}",
            peer("b", &b.address, more)
        ),
        folder,
    )?;
    let second = b.speaker(
        &format!(
            "originate: [{{ prefix: 10.2.0.0/16 }}]\npeers:\n{}",
            peer("a", &a.address, more)
        ),
        folder,
    )?;
    await_established(&first, 1, 20)?;
    await_prefixes(&second, 2, 20)?;
    Ok([(a, first), (b, second)])
}

/// Stopped for less than the hold time, nobody notices; stopped for longer, it is dropped and comes back.
pub(super) fn frozen(hub: &Hub, folder: &Path, scale: Scale) -> Result<String> {
    let more = ", holdTime: 9, gracefulRestart: false";
    let [(a, first), (b, second)] = two(hub, ["ice", "fire"], [11, 12], more, folder)?;
    for _ in 0..scale.rounds.min(5) {
        signal(&a.netns, "-STOP")?;
        idle(pace::seconds(5));
        signal(&a.netns, "-CONT")?;
        // What waited is read before the hold timer is believed.
        throughout(2, || {
            ensure!(established(&second)? == 1, "the session ended");
            Ok(())
        })?;
    }
    ensure!(
        established_count(&first, "b")? == 1 && established_count(&second, "a")? == 1,
        "a session was renewed"
    );
    signal(&a.netns, "-STOP")?;
    await_established(&second, 0, 20)?;
    await_prefixes(&second, 1, 10)?;
    signal(&a.netns, "-CONT")?;
    await_established(&second, 1, 30)?;
    await_both(&[&a, &b], &[&first, &second])?;
    for (machine, mut speaker) in [(a, first), (b, second)] {
        speaker.kill()?;
        machine.netns.delete()?;
    }
    Ok("kept at 5 of 9 s, dropped beyond, back afterwards".to_owned())
}

/// Stopped for longer than the hold time under graceful restart: what it announced stays, in the kernel too, and is fresh afterwards.
pub(super) fn frozen_gracefully(hub: &Hub, folder: &Path, scale: Scale) -> Result<String> {
    // A round of a soak takes the half minute that CI has not.
    let pause = if scale.rounds > 3 { 30 } else { 13 };
    let [a, b] = [hub.machine("snow", 13)?, hub.machine("stove", 14)?];
    let yaml = |prefix: &str, name: &str, other: &Machine| {
        format!(
            "originate: [{{ prefix: {prefix} }}]\nkernel: {{ install: true }}\npeers:\n{}",
            peer(name, &other.address, ", holdTime: 9")
        )
    };
    let mut first = a.speaker(&yaml("10.1.0.0/16", "b", &b), folder)?;
    let mut second = b.speaker(&yaml("10.2.0.0/16", "a", &a), folder)?;
    await_both(&[&a, &b], &[&first, &second])?;
    let forwards = || -> Result<()> {
        let routes = link::routes(&b.netns, 4)?;
        let route = routes.iter().find(|route| route.prefix == "10.1.0.0/16");
        ensure!(
            route.is_some_and(|route| route.goes_via(&a.address)),
            "{route:?} in the kernel"
        );
        Ok(())
    };
    eventually("it forwards", pace::seconds(10), forwards)?;
    signal(&a.netns, "-STOP")?;
    throughout(pause, forwards)?;
    ensure!(established(&second)? == 0, "nobody noticed");
    signal(&a.netns, "-CONT")?;
    await_established(&second, 1, 30)?;
    await_both(&[&a, &b], &[&first, &second])?;
    forwards()?;
    for speaker in [&mut first, &mut second] {
        speaker.kill()?;
    }
    for machine in [a, b] {
        machine.netns.delete()?;
    }
    Ok(format!(
        "{pause} s at a hold time of 9 s, forwarded by all along"
    ))
}

/// Both of two speakers hold the prefix of each, and nothing else.
fn await_both(machines: &[&Machine; 2], speakers: &[&Speaker; 2]) -> Result<()> {
    let prefixes = ["10.1.0.0/16", "10.2.0.0/16"];
    for (own, speaker) in speakers.iter().enumerate() {
        let mut wanted = Table::new();
        for (number, (machine, prefix)) in machines.iter().zip(prefixes).enumerate() {
            let hop = (number != own).then_some(machine.address.as_str());
            wanted.extend(rows([prefix], hop));
        }
        await_table(speaker, &wanted, 10)?;
    }
    Ok(())
}

/// A mesh changes its password, one half of it first, which then is of another mind than the other half: within the hold time nobody is
/// dropped.
pub(super) fn passwords(hub: &Hub, folder: &Path, scale: Scale) -> Result<String> {
    let fleet = [("key1", 21), ("key2", 22), ("key3", 23), ("key4", 24)]
        .into_iter()
        .map(|(name, number)| hub.machine(name, number))
        .collect::<Result<Vec<_>>>()?;
    let yaml = |own: usize, password: &str| {
        let more = format!(", holdTime: 30, password: {password}");
        let peers = fleet.iter().enumerate().filter(|(other, _)| *other != own);
        let peers: String = peers
            .map(|(other, machine)| peer(&format!("n{other}"), &machine.address, &more))
            .collect();
        format!("originate: [{{ prefix: 10.{own}.0.0/16 }}]\npeers:\n{peers}")
    };
    let mut speakers = fleet
        .iter()
        .enumerate()
        .map(|(own, machine)| machine.speaker(&yaml(own, "first"), folder))
        .collect::<Result<Vec<_>>>()?;
    for speaker in &speakers {
        await_established(speaker, fleet.len() - 1, 30)?;
    }
    for round in 0..scale.rounds.min(5) {
        let password = format!("turn{round}");
        // The halves take turns at being first.
        for half in [round % 2, (round + 1) % 2] {
            for (own, machine) in fleet.iter().enumerate() {
                if own % 2 == half
                    && let Some(speaker) = speakers.get(own)
                {
                    speaker.reload(&machine.yaml(&yaml(own, &password)))?;
                }
            }
            idle(pace::seconds(2));
        }
    }
    // KEEPALIVEs go every ten seconds: one has to pass with the last password on both sides.
    throughout(13, || {
        for speaker in &speakers {
            ensure!(established(speaker)? == fleet.len() - 1, "a session ended");
        }
        Ok(())
    })?;
    for (own, speaker) in speakers.iter().enumerate() {
        let mut wanted = Table::new();
        for (number, machine) in fleet.iter().enumerate() {
            let hop = (number != own).then_some(machine.address.as_str());
            wanted.extend(rows([format!("10.{number}.0.0/16")], hop));
            if number != own {
                let count = established_count(speaker, &format!("n{number}"))?;
                ensure!(count == 1, "a session was renewed: {own} with {number}");
            }
        }
        await_table(speaker, &wanted, 10)?;
    }
    for speaker in &mut speakers {
        speaker.kill()?;
    }
    let changes = scale.rounds.min(5);
    let nodes = fleet.len();
    for machine in fleet {
        machine.netns.delete()?;
    }
    Ok(format!(
        "{changes} changes in a mesh of {nodes}, the sessions of the beginning"
    ))
}

/// A reflector is killed and started again while what it reflects changes. What does not change is forwarded by all along, and what
/// does is right in the end.
pub(super) fn killed(hub: &Hub, folder: &Path, scale: Scale) -> Result<String> {
    // A round of a soak takes the twenty seconds that CI has not.
    let pause = if scale.rounds > 3 { 10 } else { 1 };
    let [middle, source, reader] = [
        hub.machine("reborn", 17)?,
        hub.machine("churns", 18)?,
        hub.machine("learns", 19)?,
    ];
    let reflector = middle.yaml(&format!(
        "peers:\n{}{}",
        peer("source", &source.address, ""),
        peer("reader", &reader.address, "")
    ));
    let prefixes = |turn: usize| ["10.1.0.0/16".to_owned(), format!("10.9.{}.0/24", turn % 3)];
    let churn = |turn: usize| {
        source.yaml(&format!(
            "originate: [{}]\npeers:\n{}",
            prefixes(turn).join(", "),
            peer("middle", &middle.address, "")
        ))
    };
    let mut first = Speaker::start(&middle.netns, &reflector, folder)?;
    let mut second = Speaker::start(&source.netns, &churn(0), folder)?;
    let mut third = reader.speaker(
        &format!(
            "kernel: {{ install: true }}\npeers:\n{}",
            peer("middle", &middle.address, "")
        ),
        folder,
    )?;
    let forwards = || -> Result<()> {
        let routes = link::routes(&reader.netns, 4)?;
        let route = routes.iter().find(|route| route.prefix == "10.1.0.0/16");
        ensure!(
            route.is_some_and(|route| route.goes_via(&source.address)),
            "{route:?} in the kernel"
        );
        Ok(())
    };
    let rounds = scale.rounds.min(6);
    for round in 0..=rounds {
        let wanted: Table = rows(prefixes(2 * round), Some(&source.address)).collect();
        for speaker in [&first, &third] {
            await_table(speaker, &wanted, 40)?;
        }
        eventually("it forwards", pace::seconds(10), forwards)?;
        if round == rounds {
            break;
        }
        first.kill()?;
        throughout(pause, forwards)?;
        // One change that it never hears of, and one while it comes back.
        second.reload(&churn(2 * round + 1))?;
        // Nothing in its kernel tells it that it was there before.
        first.run(&format!("restarting: true\n{reflector}"))?;
        second.reload(&churn(2 * round + 2))?;
        throughout(pause, forwards)?;
    }
    for speaker in [&mut first, &mut second, &mut third] {
        speaker.kill()?;
    }
    for machine in [middle, source, reader] {
        machine.netns.delete()?;
    }
    Ok(format!("{rounds} times, forwarded by all along"))
}

/// A peer is taken out of the configuration and put back within a tenth of a second, again and again; the other side sees each time
/// a session end and another one come.
pub(super) fn readded(hub: &Hub, folder: &Path, scale: Scale) -> Result<String> {
    let more = ", holdTime: 9";
    let [(a, first), (b, second)] = two(hub, ["gone", "back"], [15, 16], more, folder)?;
    let yaml = |peers: &str| {
        a.yaml(&format!(
            "originate: [{{ prefix: 10.1.0.0/16 }}]\npeers:{peers}\n"
        ))
    };
    let (with, without) = (
        yaml(&format!("\n{}", peer("b", &b.address, more))),
        yaml(" []"),
    );
    let times = 5 * scale.rounds.min(10);
    for turn in 0..times {
        first.reload(&without)?;
        idle(Duration::from_millis(if turn % 2 == 0 { 30 } else { 90 }));
        first.reload(&with)?;
        // Mostly there is only the beginning of a session to end.
        if turn % 5 == 0 {
            await_established(&first, 1, 20)?;
        }
        idle(Duration::from_millis(60));
    }
    await_established(&first, 1, 20)?;
    await_both(&[&a, &b], &[&first, &second])?;
    let events = first.ask(&["events"])?;
    let events = events.as_array().context("no list of events")?;
    let removed = events
        .iter()
        .filter(|event| event.get("kind").is_some_and(|kind| kind == "removed"))
        .count();
    // Two signals that come close together are one.
    ensure!(removed > times / 3, "removed {removed} times of {times}");
    for (machine, mut speaker) in [(a, first), (b, second)] {
        speaker.kill()?;
        machine.netns.delete()?;
    }
    Ok(format!("removed {removed} times, both tables as before"))
}

/// A policy that changes over a large table does not cost a session with the shortest hold time its KEEPALIVEs.
pub(super) fn reloads(hub: &Hub, folder: &Path, scale: Scale) -> Result<String> {
    const KEPT_BACK: usize = 1 << 15;
    const ALL: usize = 100_000;
    let [server, source, witness] = [
        hub.machine("server", 31)?,
        hub.machine("source", 32)?,
        hub.machine("witness", 33)?,
    ];
    let prefixes = |from: usize| {
        (from..ALL).map(|number| {
            let [high, low] = [number >> 8 & 255, number & 255];
            format!("20.{}.{high}.{low}/32", number >> 16)
        })
    };
    let mut routes = String::from("originate:\n");
    for prefix in prefixes(0) {
        routes.push_str(&format!("  - {prefix}\n"));
    }
    let told = |from: usize| -> Table { rows(prefixes(from), Some(&source.address)).collect() };
    // Every second time, a third of them or more is not for the witness.
    let config = |turn: usize| {
        let export = if turn % 2 == 1 {
            ", export: { reject: [20.0.0.0/17] }"
        } else {
            ""
        };
        server.yaml(&format!(
            "peers:\n{}{}",
            peer("source", &source.address, ""),
            peer(
                "witness",
                &witness.address,
                &format!(", holdTime: 3{export}")
            )
        ))
    };
    let reflector = Speaker::start(&server.netns, &config(0), folder)?;
    let origin = source.speaker(
        &format!("{routes}peers:\n{}", peer("server", &server.address, "")),
        folder,
    )?;
    let reader = witness.speaker(
        &format!(
            "peers:\n{}",
            peer("server", &server.address, ", holdTime: 3")
        ),
        folder,
    )?;
    await_established(&reflector, 2, 30)?;
    // Reading the whole table takes a while: it is asked for when it should be complete.
    let settled = |from: usize| -> Result<()> {
        await_received(&reader, "server", ALL - from, 60)?;
        await_table(&reader, &told(from), 60)
    };
    settled(0)?;
    for turn in 1..=scale.rounds {
        reflector.reload(&config(turn))?;
        idle(pace::seconds(1));
        ensure!(established(&reflector)? == 2, "a session ended");
    }
    let kept_back = if scale.rounds % 2 == 1 { KEPT_BACK } else { 0 };
    settled(kept_back)?;
    reflector.reload(&config(0))?;
    settled(0)?;
    ensure!(
        established_count(&reader, "server")? == 1,
        "the session was renewed"
    );
    for mut speaker in [reflector, origin, reader] {
        speaker.kill()?;
    }
    for machine in [server, source, witness] {
        machine.netns.delete()?;
    }
    Ok(format!("{} over {ALL} routes", scale.rounds))
}
