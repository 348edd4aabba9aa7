//! What befalls the process: it is stopped, its passwords change, its policies are reloaded.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use super::Scale;
use super::hub::{
    Hub, Machine, await_established, await_prefixes, established, established_count, throughout,
};
use crate::eventually::idle;
use crate::netns::Netns;
use crate::speaker::Speaker;
use crate::{exec, pace};

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
    await_prefixes(&second, 2, 10)?;
    await_prefixes(&first, 2, 10)?;
    for (machine, mut speaker) in [(a, first), (b, second)] {
        speaker.kill()?;
        machine.netns.delete()?;
    }
    Ok("kept at 5 of 9 s, dropped beyond, back afterwards".to_owned())
}

/// One end changes its password, later the other: within the hold time nobody is dropped.
pub(super) fn passwords(hub: &Hub, folder: &Path, scale: Scale) -> Result<String> {
    let old = ", holdTime: 30, password: first";
    let [(a, first), (b, second)] = two(hub, ["key", "lock"], [21, 22], old, folder)?;
    for round in 0..scale.rounds.min(5) {
        let more = format!(", holdTime: 30, password: turn{round}");
        let mut ends = [
            (&a, &first, "10.1.0.0/16", peer("b", &b.address, &more)),
            (&b, &second, "10.2.0.0/16", peer("a", &a.address, &more)),
        ];
        if round % 2 == 1 {
            ends.reverse();
        }
        for (machine, speaker, prefix, peer) in ends {
            speaker.reload(&machine.yaml(&format!(
                "originate: [{{ prefix: {prefix} }}]\npeers:\n{peer}"
            )))?;
            idle(pace::seconds(2));
        }
    }
    // KEEPALIVEs go every ten seconds: one has to pass with the last password on both sides.
    throughout(13, || {
        ensure!(
            established(&first)? == 1 && established(&second)? == 1,
            "the session ended"
        );
        Ok(())
    })?;
    ensure!(
        established_count(&first, "b")? == 1 && established_count(&second, "a")? == 1,
        "a session was renewed"
    );
    for (machine, mut speaker) in [(a, first), (b, second)] {
        speaker.kill()?;
        machine.netns.delete()?;
    }
    Ok(format!(
        "{} changes, the session of the beginning",
        scale.rounds.min(5)
    ))
}

/// A policy that changes over a large table does not cost a session with the shortest hold time its KEEPALIVEs.
pub(super) fn reloads(hub: &Hub, folder: &Path, scale: Scale) -> Result<String> {
    const ROUTES: usize = 50_000;
    let [server, source, witness] = [
        hub.machine("server", 31)?,
        hub.machine("source", 32)?,
        hub.machine("witness", 33)?,
    ];
    let mut routes = String::from("originate:\n");
    for number in 0..ROUTES {
        routes.push_str(&format!(
            "  - {{ prefix: 20.{}.{}.{}/32 }}\n",
            number >> 16,
            number >> 8 & 255,
            number & 255
        ));
    }
    // Every second time, two thirds of the routes are not for the witness.
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
    let mut reflector = Speaker::start(&server.netns, &config(0), folder)?;
    let mut origin = source.speaker(
        &format!("{routes}peers:\n{}", peer("server", &server.address, "")),
        folder,
    )?;
    let mut reader = witness.speaker(
        &format!(
            "peers:\n{}",
            peer("server", &server.address, ", holdTime: 3")
        ),
        folder,
    )?;
    await_established(&reflector, 2, 30)?;
    await_prefixes(&reader, ROUTES, 60)?;
    for turn in 1..=scale.rounds {
        reflector.reload(&config(turn))?;
        idle(pace::seconds(1));
        ensure!(established(&reflector)? == 2, "a session ended");
    }
    let left = if scale.rounds % 2 == 1 {
        ROUTES - (1 << 15)
    } else {
        ROUTES
    };
    await_prefixes(&reader, left, 30)?;
    reflector.reload(&config(0))?;
    await_prefixes(&reader, ROUTES, 30)?;
    ensure!(
        established_count(&reader, "server")? == 1,
        "the session was renewed"
    );
    for speaker in [&mut reflector, &mut origin, &mut reader] {
        speaker.kill()?;
    }
    for machine in [server, source, witness] {
        machine.netns.delete()?;
    }
    Ok(format!("{} over {ROUTES} routes", scale.rounds))
}
