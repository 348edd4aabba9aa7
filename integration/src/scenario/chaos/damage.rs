//! A proxy between two speakers that damages octets, as broken memory in a middlebox does: TCP's checksums are right.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use super::Scale;
use super::hub::{Hub, Table, await_established, await_prefixes, await_table, established, rows};
use crate::eventually::idle;
use crate::pace;

/// Passes octets on, one changed in some of the pieces.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    damaging: Arc<AtomicBool>,
    mut dice: u64,
) -> Result<()> {
    let mut octets = vec![0; 4096];
    loop {
        let count = from.read(&mut octets).await?;
        if count == 0 {
            return Ok(to.shutdown().await?);
        }
        let piece = octets.get_mut(..count).context("read within the buffer")?;
        if damaging.load(Ordering::Relaxed) {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            let at = usize::try_from(dice >> 8)? % count;
            if let (true, Some(octet)) = (dice.is_multiple_of(3), piece.get_mut(at)) {
                *octet ^= 1 << (dice >> 5 & 7);
            }
        }
        to.write_all(piece).await?;
    }
}

async fn serve(target: SocketAddr, damaging: Arc<AtomicBool>) -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", 179)).await?;
    let mut dice = 1;
    loop {
        let (near, _) = listener.accept().await?;
        let Ok(far) = TcpStream::connect(target).await else {
            continue;
        };
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        dice += 2;
        tokio::spawn(pass(
            near_in,
            far_out,
            Arc::clone(&damaging),
            0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(dice),
        ));
        tokio::spawn(pass(
            far_in,
            near_out,
            Arc::clone(&damaging),
            0xbf58_476d_1ce4_e5b9_u64.wrapping_mul(dice),
        ));
    }
}

/// What one end originates.
fn blocks(second: usize) -> impl Iterator<Item = String> {
    (0..200).map(move |third| format!("10.{second}.{third}.0/24"))
}

/// Both ends live through it, a third party's session too; when the damage ends, everything is as it should be.
pub(super) fn proxy(hub: &Hub, folder: &Path, scale: Scale) -> Result<String> {
    let [left, right, middle, third] = [
        hub.machine("left", 61)?,
        hub.machine("right", 62)?,
        hub.machine("middle", 63)?,
        hub.machine("third", 64)?,
    ];
    let quick = "asn: 64512, holdTime: 9, connectRetry: 300ms, idleHold: 100ms, idleHoldMax: 500ms, gracefulRestart: false";
    let routes = |second: usize| {
        let lines: Vec<_> = blocks(second)
            .map(|prefix| format!("{{ prefix: {prefix} }}"))
            .collect();
        format!("originate: [{}]\n", lines.join(", "))
    };
    let damaging = Arc::new(AtomicBool::new(false));
    let target: SocketAddr = format!("{}:179", right.address).parse()?;
    thread::scope(|scope| {
        let (stop, stopped) = oneshot::channel::<()>();
        let (inside, flag) = (&middle, Arc::clone(&damaging));
        let proxy = scope.spawn(move || {
            inside.within(move || {
                let runtime = Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    tokio::select! {
                        ended = serve(target, flag) => ended,
                        _ = stopped => Ok(()),
                    }
                })
            })
        });
        let played = (|| {
            // Both take the proxy for the other one.
            let mut a = left.speaker(
                &format!("{}peers:\n  - {{ name: r, address: {}, routeReflectorClient: true, {quick} }}\n  - {{ name: t, address: {}, routeReflectorClient: true, {quick} }}\n",
                    routes(1), middle.address, third.address),
                folder,
            )?;
            let mut b = right.speaker(
                &format!(
                    "{}peers:\n  - {{ name: l, address: {}, passive: true, {quick} }}\n",
                    routes(2),
                    middle.address
                ),
                folder,
            )?;
            let mut c = third.speaker(
                &format!(
                    "{}peers:\n  - {{ name: l, address: {}, {quick} }}\n",
                    routes(3),
                    left.address
                ),
                folder,
            )?;
            for speaker in [&a, &b, &c] {
                await_prefixes(speaker, 600, 30)?;
            }
            damaging.store(true, Ordering::Relaxed);
            for _ in 0..scale.rounds {
                a.tell(&["peers", "clear", "r"])?;
                idle(pace::seconds(1));
                ensure!(established(&c)? == 1, "the damage reached a bystander");
            }
            damaging.store(false, Ordering::Relaxed);
            // What was damaged and still made sense is believed until it is said anew.
            a.tell(&["peers", "clear", "r"])?;
            await_established(&a, 2, 30)?;
            let addresses = [&left.address, &right.address, &third.address];
            for (own, speaker) in [&a, &b, &c].into_iter().enumerate() {
                let mut wanted = Table::new();
                for (number, address) in addresses.into_iter().enumerate() {
                    let hop = (number != own).then_some(address.as_str());
                    wanted.extend(rows(blocks(number + 1), hop));
                }
                await_table(speaker, &wanted, 30)?;
            }
            for speaker in [&mut a, &mut b, &mut c] {
                speaker.kill()?;
            }
            Ok(())
        })();
        let _ = stop.send(());
        let served = proxy.join().map_err(|_| anyhow!("the proxy panicked"))?;
        played?;
        served
    })?;
    for machine in [left, right, middle, third] {
        machine.netns.delete()?;
    }
    Ok(format!(
        "{} rounds, the same 600 prefixes everywhere afterwards",
        scale.rounds
    ))
}
