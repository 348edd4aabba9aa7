//! Devices, namespaces, and ranges that are full.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

use super::{address, await_reason, await_up, config, pair, peer, wire};
use crate::eventually::throughout;
use crate::netns::Netns;
use crate::pace;
use crate::speaker::Speaker;

pub(super) fn x5_a_bound_listener_ignores_other_devices(folder: &Path) -> Result<String> {
    bound(folder, false)
}

pub(super) fn x5_a_listener_in_a_vrf_ignores_the_default_one(folder: &Path) -> Result<String> {
    bound(folder, true)
}

fn bound(folder: &Path, vrf: bool) -> Result<String> {
    let (a, b) = pair("x5a", "x5b")?;
    let c = Netns::create_settled("x5c")?;
    wire(&a, "eth1", &c, "eth0")?;
    let device = if vrf { "vrf-red" } else { "eth0" };
    if vrf {
        a.ip("link add vrf-red type vrf table 100")?;
        a.ip("link set vrf-red up")?;
        a.ip("link set eth0 master vrf-red")?;
    }
    address(&a, "eth0", &["10.1.0.1/24"])?;
    address(&a, "eth1", &["10.2.0.1/24"])?;
    address(&b, "eth0", &["10.1.0.2/24"])?;
    address(&c, "eth0", &["10.2.0.2/24"])?;
    let red = format!("name: red, address: 10.1.0.2, asn: 64602, device: {device}, passive: true");
    let here = Speaker::start(
        &a,
        &config(
            64601,
            "10.1.0.1",
            &format!("{{ address: 0.0.0.0, device: {device} }}"),
            "",
            &[&red, "name: other, address: 10.2.0.2, asn: 64603"],
        ),
        folder,
    )?;
    let _inside = Speaker::start(
        &b,
        &config(
            64602,
            "10.1.0.2",
            "",
            "",
            &["name: a, address: 10.1.0.1, asn: 64601"],
        ),
        folder,
    )?;
    let outside = Speaker::start(
        &c,
        &config(
            64603,
            "10.2.0.2",
            "",
            "",
            &["name: a, address: 10.2.0.1, asn: 64601"],
        ),
        folder,
    )?;
    await_up(&here, "red")?;
    await_reason(&outside, "a", "refused")?;
    Ok(format!("bound to {device}; refused beside it"))
}

pub(super) fn x6_a_peer_in_another_namespace(folder: &Path) -> Result<String> {
    let a = Netns::create("x6a")?;
    let (x, b) = pair("x6x", "x6b")?;
    address(&x, "eth0", &["10.1.0.1/24"])?;
    address(&b, "eth0", &["10.1.0.2/24", "10.1.0.3/24"])?;
    let netns = x.path().display().to_string();
    let called = format!("name: called, address: 10.1.0.2, asn: 64602, netns: {netns}");
    let caller =
        format!("name: caller, address: 10.1.0.3, asn: 64602, netns: {netns}, passive: true");
    let here = Speaker::start(
        &a,
        &config(
            64601,
            "10.1.0.1",
            &format!("{{ address: 10.1.0.1, netns: {netns} }}"),
            "",
            &[&called, &caller],
        ),
        folder,
    )?;
    let _there = Speaker::start(
        &b,
        &config(
            64602,
            "10.1.0.2",
            "10.1.0.2, 10.1.0.3",
            "",
            &[
                "name: called, address: 10.1.0.1, localAddress: 10.1.0.2, asn: 64601, passive: true",
                "name: caller, address: 10.1.0.1, localAddress: 10.1.0.3, asn: 64601",
            ],
        ),
        folder,
    )?;
    await_up(&here, "called")?;
    await_up(&here, "caller")?;
    Ok("dialled and accepted where the speaker itself is not".to_owned())
}

/// A socket holds its namespace: its name may go, and the session goes on. When the wire goes too, the session does, the next attempt
/// says that there is no such place, and a peer elsewhere notices nothing.
pub(super) fn x9_a_namespace_deleted_under_a_session(folder: &Path) -> Result<String> {
    let (a, c) = pair("x9a", "x9c")?;
    let (x, b) = pair("x9x", "x9b")?;
    address(&a, "eth0", &["10.2.0.1/24"])?;
    address(&c, "eth0", &["10.2.0.2/24"])?;
    address(&x, "eth0", &["10.1.0.1/24"])?;
    address(&b, "eth0", &["10.1.0.2/24"])?;
    let netns = x.path().display().to_string();
    let there = format!("name: there, address: 10.1.0.2, asn: 64602, holdTime: 3, netns: {netns}");
    let near = "name: near, address: 10.2.0.2, asn: 64603, holdTime: 3";
    let here = Speaker::start(
        &a,
        &config(64601, "10.1.0.1", "10.2.0.1", "", &[&there, near]),
        folder,
    )?;
    let waiting = |netns, asn, own: &str, other: &str| {
        let peer = format!("name: a, address: {other}, asn: 64601, holdTime: 3, passive: true");
        Speaker::start(netns, &config(asn, own, own, "", &[&peer]), folder)
    };
    let _b = waiting(&b, 64602, "10.1.0.2", "10.1.0.1")?;
    let _c = waiting(&c, 64603, "10.2.0.2", "10.2.0.1")?;
    await_up(&here, "there")?;
    await_up(&here, "near")?;
    x.delete()?;
    // Longer than the hold time.
    throughout(Duration::from_secs(4), || {
        let (state, error) = peer(&here, "there")?;
        ensure!(state == "Established", "{state}: {error}");
        Ok(())
    })?;
    b.ip("link del eth0")?;
    let reason = await_reason(&here, "there", "x9x")?;
    let (state, error) = peer(&here, "near")?;
    ensure!(state == "Established", "beside it: {state}: {error}");
    Ok(format!("up without the name; without the wire: {reason}"))
}

pub(super) fn x7_a_full_range_answers_with_a_reset(folder: &Path) -> Result<String> {
    let (a, b) = pair("x7a", "x7b")?;
    address(&a, "eth0", &["10.1.0.1/24"])?;
    address(&b, "eth0", &["10.1.0.2/24", "10.1.0.3/24"])?;
    let here = Speaker::start(
        &a,
        &config(
            64601,
            "10.1.0.1",
            "10.1.0.1",
            "",
            &["name: range, range: 10.1.0.0/24, asn: \"64602,64603\", dynamicLimit: 1"],
        ),
        folder,
    )?;
    let _there = Speaker::start(
        &b,
        &config(
            64602,
            "10.1.0.2",
            "",
            "",
            &["name: a, address: 10.1.0.1, localAddress: 10.1.0.3, asn: 64601"],
        ),
        folder,
    )?;
    await_up(&here, "range-10.1.0.3")?;
    // From the first address of the interface, which is one too many now.
    let error = inside(&b, || {
        let mut stream = TcpStream::connect("10.1.0.1:179").context("connects")?;
        stream.set_read_timeout(Some(pace::seconds(10)))?;
        match stream.read(&mut [0; 64]) {
            Ok(count) => bail!("{count} octets instead of a reset"),
            Err(error) => Ok(error),
        }
    })?;
    ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
    await_up(&here, "range-10.1.0.3")?;
    Ok(format!(
        "{error}, and the session of the one that was there stays"
    ))
}

/// Does something on a thread inside a namespace.
fn inside<T: Send>(netns: &Netns, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = std::fs::File::open(netns.path())?;
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET)?;
                work()
            })
            .join()
            .unwrap_or_else(|_| bail!("the thread inside {} panicked", netns.name()))
    })
}
