//! Peers on links.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{await_down, await_reason, await_up, config, wire};
use crate::eventually::eventually;
use crate::netns::Netns;
use crate::speaker::Speaker;
use crate::{link, pace};

pub(super) fn x4_one_link_local_address_on_two_links(folder: &Path) -> Result<String> {
    let a = Netns::create_settled("x4a")?;
    let others = [Netns::create_settled("x4b")?, Netns::create_settled("x4c")?];
    let join = |place: usize, other: &Netns| -> Result<()> {
        wire(&a, &format!("eth{place}"), other, "eth0")?;
        // The kernel's own one would be another on each link.
        other.ip("addr flush dev eth0 scope link")?;
        other.ip("addr add fe80::1/64 dev eth0 nodad")?;
        Ok(())
    };
    for (place, other) in others.iter().enumerate() {
        join(place, other)?;
    }
    let here = Speaker::start(
        &a,
        &config(
            64601,
            "10.0.0.1",
            "\"[::]:179\"",
            "kernel: { install: true }\n",
            &[
                "name: b, address: \"fe80::1%eth0\", asn: 64602",
                "name: c, interface: eth1, asn: external",
            ],
        ),
        folder,
    )?;
    let mut speakers = Vec::new();
    for (place, other) in others.iter().enumerate() {
        let number = place + 2;
        // Whoever is on the link; they learn our address, which no configuration names.
        let more = format!("originate: [10.{number}.0.0/24]\n");
        let text = config(
            64600 + u32::try_from(number)?,
            &format!("10.0.0.{number}"),
            "\"[::]:179\"",
            &more,
            &["name: a, interface: eth0, asn: external"],
        );
        speakers.push(Speaker::start(other, &text, folder)?);
    }
    await_up(&here, "b")?;
    await_up(&here, "c")?;
    let installed = |prefix: &str, interface: &str| -> Result<()> {
        eventually(
            format!("{prefix} by {interface}"),
            pace::seconds(10),
            || {
                let routes = link::routes(&a, 4)?;
                let found = routes.iter().find(|route| route.prefix == prefix);
                let found = found.with_context(|| format!("{routes:?}"))?;
                ensure!(
                    found.goes_via("inet6") || found.goes_via("fe80::1"),
                    "{found}"
                );
                ensure!(found.leaves_by(interface), "{found}");
                Ok(())
            },
        )
    };
    installed("10.2.0.0/24", "eth0")?;
    installed("10.3.0.0/24", "eth1")?;
    a.ip("link del eth0")?;
    await_down(&here, "b")?;
    let reason = await_reason(&here, "b", "there is no interface eth0")?;
    await_up(&here, "c")?;
    join(0, &others[0])?;
    await_up(&here, "b")?;
    installed("10.2.0.0/24", "eth0")?;
    Ok(format!(
        "two sessions, IPv4 routes by fe80::1 on either link; {reason} while it was away, up again on its successor"
    ))
}
