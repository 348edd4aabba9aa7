//! Crowds: all at once, and more than there are descriptors for.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::Scale;
use super::hub::{Hub, Machine, await_established, await_prefixes};
use crate::eventually::{eventually, idle};
use crate::{exec, link, pace};

/// What listens to the crowd.
const RANGE: &str = "peers:\n  - { name: crowd, range: 10.99.128.0/17, asn: 64512, routeReflectorClient: true, passive: true, dynamicLimit: 6000, gracefulRestart: false }\n";

fn address(caller: usize) -> Result<Ipv4Addr> {
    Ok(Ipv4Addr::from(0x0a63_8001 + u32::try_from(caller)?))
}

fn framed(kind: u8, body: &[u8]) -> Result<Vec<u8>> {
    let mut octets = vec![0xff; 16];
    octets.extend(u16::try_from(19 + body.len())?.to_be_bytes());
    octets.push(kind);
    octets.extend(body);
    Ok(octets)
}

async fn message(stream: &mut TcpStream) -> Result<u8> {
    let mut header = [0; 19];
    stream.read_exact(&mut header).await?;
    let [.., high, low, kind] = header;
    let mut body = vec![0; usize::from(u16::from_be_bytes([high, low])).saturating_sub(19)];
    stream.read_exact(&mut body).await?;
    if kind == 3 {
        bail!("NOTIFICATION {body:?}");
    }
    Ok(kind)
}

/// A session, with one prefix of its own announced.
async fn call(caller: usize, identifier: Ipv4Addr) -> Result<TcpStream> {
    let from = address(caller)?;
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    let server = SocketAddr::from(([10, 99, 0, 1], 179));
    let mut stream = socket.connect(server).await.context("connect")?;
    let mut open = vec![4, 0xfc, 0, 0, 240];
    open.extend(identifier.octets());
    open.extend([14, 2, 12, 1, 4, 0, 1, 0, 1, 65, 4, 0, 0, 0xfc, 0]);
    stream.write_all(&framed(1, &open)?).await?;
    ensure!(
        message(&mut stream).await.context("their OPEN")? == 1,
        "no OPEN"
    );
    stream.write_all(&framed(4, &[])?).await?;
    ensure!(
        message(&mut stream).await.context("their KEEPALIVE")? == 4,
        "no KEEPALIVE"
    );
    let mut update = vec![0, 0, 0, 21, 0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4];
    update.extend(from.octets());
    update.extend([0x40, 5, 4, 0, 0, 0, 100, 32]);
    // Some prefix that is the caller's alone.
    update.extend((0x1400_0000 + u32::try_from(caller)?).to_be_bytes());
    stream.write_all(&framed(2, &update)?).await?;
    Ok(stream)
}

/// A connection that was refused or cut is tried again, as any neighbour would.
async fn call_until(caller: usize, identifier: Ipv4Addr, deadline: Instant) -> Result<TcpStream> {
    loop {
        match call(caller, identifier).await {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("caller {caller}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Some callers dial in the same moment. Returns their connections, which somebody reads from then on.
async fn crowd(callers: Range<usize>, duplicates: bool) -> Result<JoinSet<Result<()>>> {
    let deadline = Instant::now() + pace::seconds(90);
    let mut calls = JoinSet::new();
    for caller in callers {
        // Every tenth has its predecessor's identifier.
        let own = !duplicates || caller % 10 != 1;
        let identifier = address(if own { caller } else { caller - 1 })?;
        calls.spawn(call_until(caller, identifier, deadline));
    }
    let mut readers = JoinSet::new();
    while let Some(stream) = calls.join_next().await {
        let mut stream = stream??;
        readers.spawn(async move {
            let mut octets = vec![0; 64 * 1024];
            while stream.read(&mut octets).await? > 0 {}
            bail!("the speaker closed a session")
        });
    }
    Ok(readers)
}

/// Keeps reading until told to stop. A session that ends is an error.
async fn hold(mut readers: JoinSet<Result<()>>, stop: oneshot::Receiver<()>) -> Result<()> {
    tokio::select! {
        Some(ended) = readers.join_next() => ended?,
        _ = stop => Ok(()),
    }
}

/// Calls on behalf of `load` while `meanwhile` looks at the speaker.
fn during<T>(
    load: &Machine,
    callers: Range<usize>,
    duplicates: bool,
    meanwhile: impl FnOnce() -> Result<T>,
) -> Result<T> {
    thread::scope(|scope| {
        let (stop, stopped) = oneshot::channel();
        let crowd = scope.spawn(move || {
            load.within(move || {
                let runtime = Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let readers = crowd(callers, duplicates).await?;
                    hold(readers, stopped).await
                })
            })
        });
        let seen = meanwhile();
        let _ = stop.send(());
        let held = crowd.join().map_err(|_| anyhow!("the crowd panicked"))?;
        let seen = seen?;
        held?;
        Ok(seen)
    })
}

/// A machine with the callers' addresses, which `server` reaches through it: as neighbours on the link they would fill a table
/// that all namespaces of a kernel share (`gc_thresh3`).
fn crowd_machine(
    hub: &Hub,
    name: &str,
    number: u8,
    callers: usize,
    server: &Machine,
) -> Result<Machine> {
    let load = hub.machine(name, number)?;
    let own: Vec<_> = (0..callers)
        .map(|caller| address(caller).map(|address| format!("{address}/32")))
        .collect::<Result<_>>()?;
    link::addresses(&load.netns, "lo", &own)?;
    server
        .netns
        .ip(&format!("route add 10.99.128.0/17 via {}", load.address))?;
    Ok(load)
}

/// Thousands dial at once; every session comes up and every prefix is known.
pub(super) fn storm(hub: &Hub, folder: &Path, scale: Scale) -> Result<String> {
    let server = hub.machine("storm", 1)?;
    let load = crowd_machine(hub, "crowd", 2, scale.callers, &server)?;
    let mut speaker = server.speaker(RANGE, folder)?;
    let start = Instant::now();
    let took = during(&load, 0..scale.callers, true, || {
        await_established(&speaker, scale.callers, 90)?;
        await_prefixes(&speaker, scale.callers, 30)?;
        Ok(start.elapsed())
    })?;
    speaker.kill()?;
    server.netns.delete()?;
    load.netns.delete()?;
    Ok(format!(
        "{} sessions and prefixes after {took:.1?}",
        scale.callers
    ))
}

/// With no descriptor left the sessions there are stay; with some free again, everyone gets in.
pub(super) fn descriptors(hub: &Hub, folder: &Path) -> Result<String> {
    const FIRST: usize = 20;
    const ALL: usize = 120;
    let server = hub.machine("scarce", 1)?;
    let load = crowd_machine(hub, "callers", 2, ALL, &server)?;
    let mut speaker = server.speaker(RANGE, folder)?;
    let process = exec::check(Command::new("ip").args(["netns", "pids", server.netns.name()]))?;
    let process = process.trim().to_owned();
    let limit = |descriptors: usize| {
        let both = format!("--nofile={descriptors}:4096");
        exec::check(Command::new("prlimit").args(["--pid", &process, &both]))
    };
    during(&load, 0..FIRST, false, || {
        await_established(&speaker, FIRST, 20)?;
        let used = fs::read_dir(format!("/proc/{process}/fd"))?.count();
        limit(used + 10)?;
        during(&load, FIRST..ALL, false, || {
            eventually("every descriptor is in use", pace::seconds(20), || {
                let used_now = fs::read_dir(format!("/proc/{process}/fd"))?.count();
                ensure!(used_now >= used + 9, "{used_now} of {}", used + 10);
                Ok(())
            })?;
            // The first ones would be missed by `hold` at any time from here on.
            idle(pace::seconds(2));
            limit(1024)?;
            await_established(&speaker, ALL, 60)?;
            await_prefixes(&speaker, ALL, 20)
        })
    })?;
    speaker.kill()?;
    server.netns.delete()?;
    load.netns.delete()?;
    Ok(format!("{FIRST} stayed, {ALL} in the end"))
}
