//! Routes of the speaker in the kernel, under traffic.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{address, await_up, config, pair, wire};
use crate::eventually::{eventually, idle};
use crate::netns::Netns;
use crate::ping::Stream;
use crate::process::Daemon;
use crate::speaker::Speaker;
use crate::{link, pace};

/// Traffic on each way before the next change.
const TRAFFIC: Duration = Duration::from_millis(100);

pub(super) fn x8_a_replaced_route_loses_no_packet(folder: &Path) -> Result<String> {
    // Two ways from a to the target, which both routers are wired to.
    let (a, near) = pair("x8a", "x8n")?;
    let (far, target) = (Netns::create_settled("x8f")?, Netns::create_settled("x8t")?);
    wire(&a, "eth1", &far, "eth0")?;
    wire(&near, "eth1", &target, "eth0")?;
    wire(&far, "eth1", &target, "eth1")?;
    address(&a, "eth0", &["10.1.0.1/24"])?;
    address(&a, "eth1", &["10.2.0.1/24"])?;
    address(&near, "eth0", &["10.1.0.2/24"])?;
    address(&near, "eth1", &["10.3.0.2/24"])?;
    address(&far, "eth0", &["10.2.0.2/24"])?;
    address(&far, "eth1", &["10.4.0.2/24"])?;
    address(&target, "eth0", &["10.3.0.9/24"])?;
    address(&target, "eth1", &["10.4.0.9/24"])?;
    address(&target, "lo", &["10.9.0.1/32"])?;
    near.ip("route add 10.9.0.0/24 via 10.3.0.9")?;
    far.ip("route add 10.9.0.0/24 via 10.4.0.9")?;
    far.ip("route add 10.1.0.0/24 via 10.2.0.1")?;
    near.ip("route add 10.2.0.0/24 via 10.1.0.1")?;
    target.ip("route add 10.1.0.0/24 via 10.3.0.2")?;
    target.ip("route add 10.2.0.0/24 via 10.4.0.2")?;
    for router in [&near, &far, &a] {
        router.sysctl("net.ipv4.ip_forward", "1")?;
    }
    for every in [&near, &far, &a, &target] {
        every.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
    }
    let here = Speaker::start(
        &a,
        &config(
            64601,
            "10.1.0.1",
            "10.1.0.1, 10.2.0.1",
            "kernel: { install: true }\nmaximumPaths: 1\n",
            &[
                "name: near, address: 10.1.0.2, asn: 64602, gracefulRestart: false",
                "name: far, address: 10.2.0.2, asn: 64603, gracefulRestart: false",
            ],
        ),
        folder,
    )?;
    let router = |netns: &Netns, asn: u32, own: &str, other: &str| {
        let text = config(
            asn,
            own,
            own,
            "originate: [10.9.0.0/24]\n",
            &[&format!(
                "name: a, address: {other}, asn: 64601, gracefulRestart: false"
            )],
        );
        Speaker::start(netns, &text, folder).map(|speaker| (speaker, text))
    };
    let (mut first, text) = router(&near, 64602, "10.1.0.2", "10.1.0.1")?;
    let (_second, _) = router(&far, 64603, "10.2.0.2", "10.2.0.1")?;
    await_up(&here, "near")?;
    await_up(&here, "far")?;
    let leaves_by = |interface: &str| {
        eventually(
            format!("10.9.0.0/24 by {interface}"),
            pace::seconds(10),
            || {
                let routes = link::routes(&a, 4)?;
                let found = routes.iter().find(|route| route.prefix == "10.9.0.0/24");
                let found = found.with_context(|| format!("{routes:?}"))?;
                ensure!(found.leaves_by(interface), "{found}");
                Ok(())
            },
        )
    };
    // The lower identifier wins.
    leaves_by("eth0")?;
    let stream = Stream::start(&a, "10.9.0.1".parse()?, folder)?;
    for _ in 0..3 {
        first.stop(Signal::SIGINT)?;
        leaves_by("eth1")?;
        idle(TRAFFIC);
        first.run(&text)?;
        leaves_by("eth0")?;
        idle(TRAFFIC);
    }
    let seen = stream.stop()?;
    ensure!(
        seen.lost.is_empty(),
        "{} lost of {}",
        seen.lost.len(),
        seen.sent
    );
    Ok(format!(
        "{} packets over six replacements, none lost",
        seen.sent
    ))
}

pub(super) fn x14_a_killed_speaker_leaves_its_routes_and_its_successor_removes_what_is_gone(
    folder: &Path,
) -> Result<String> {
    let (a, b) = pair("x14a", "x14b")?;
    address(&a, "eth0", &["10.1.0.1/24"])?;
    address(&b, "eth0", &["10.1.0.2/24"])?;
    let foreign = [
        "10.98.0.0/16 via 10.1.0.2 proto bird",
        "10.99.0.0/16 via 10.1.0.2 proto static",
    ];
    for route in foreign {
        a.ip(&format!("route add {route}"))?;
    }
    let own = config(
        64601,
        "10.1.0.1",
        "10.1.0.1",
        "kernel: { install: true }\n",
        &["name: b, address: 10.1.0.2, asn: 64602"],
    );
    let theirs = |originate: &str| {
        config(
            64602,
            "10.1.0.2",
            "10.1.0.2",
            &format!("originate: [{originate}]\n"),
            &["name: a, address: 10.1.0.1, asn: 64601"],
        )
    };
    let mut here = Speaker::start(&a, &own, folder)?;
    let there = Speaker::start(&b, &theirs("10.8.0.0/24, 10.9.0.0/24"), folder)?;
    // Everything but what the kernel made itself.
    let await_routes = |wanted: &[&str]| {
        eventually(format!("{wanted:?}"), pace::seconds(20), || {
            let routes = link::routes(&a, 4)?;
            let found: Vec<&str> = routes
                .iter()
                .filter(|route| route.goes_via_any())
                .map(|route| route.prefix.as_str())
                .collect();
            ensure!(found == wanted, "{found:?}");
            Ok(())
        })
    };
    let both = ["10.8.0.0/24", "10.9.0.0/24", "10.98.0.0/16", "10.99.0.0/16"];
    await_routes(&both)?;
    let mut watched = Command::new("ip");
    watched.args(["-n", a.name(), "-oneline", "monitor", "route"]);
    let monitor = Daemon::start("ip monitor", &mut watched, &folder.join("x14-routes.log"))?;

    here.kill()?;
    there.reload(&theirs("10.9.0.0/24"))?;
    // What others do meanwhile is theirs as well.
    a.ip("route add 10.97.0.0/16 via 10.1.0.2 proto static")?;
    await_routes(&[
        "10.8.0.0/24",
        "10.9.0.0/24",
        "10.97.0.0/16",
        "10.98.0.0/16",
        "10.99.0.0/16",
    ])?;

    here.run(&own)?;
    await_up(&here, "b")?;
    await_routes(&[
        "10.9.0.0/24",
        "10.97.0.0/16",
        "10.98.0.0/16",
        "10.99.0.0/16",
    ])?;
    let said = monitor.log_tail(usize::MAX);
    let deleted: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("Deleted"))
        .collect();
    ensure!(
        deleted.len() == 1 && deleted.iter().all(|line| line.contains("10.8.0.0/24")),
        "{deleted:?}"
    );
    Ok("one route removed, one kept without a gap, three of others untouched".to_owned())
}
