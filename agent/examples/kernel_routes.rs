//! How fast routes get into the kernel: writes and deletes /32 routes in a network namespace of its own.
//!
//! `cargo run --release -p margay-agent --example kernel_routes -- 100000` (as root)

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};
use margay_agent::kernel::netlink::{Netlink, NetlinkOptions};
use margay_agent::kernel::{
    Kernel as _, KernelNextHop, MAIN_TABLE, Route, RouteChange, RouteFilter, RouteKey,
};
use margay_bgp::prefix::Prefix;

/// As the reconciler does it.
const CHUNK: usize = 2048;

fn main() -> Result<()> {
    let count: u32 = std::env::args()
        .nth(1)
        .map_or(Ok(100_000), |count| count.parse())?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .context("a network namespace needs root")?;
    for command in [
        "link add v0 type veth peer name v1",
        "addr add 192.0.2.1/24 dev v0",
        "link set v1 up",
        "link set v0 up",
    ] {
        let status = Command::new("ip").args(command.split(' ')).status()?;
        anyhow::ensure!(status.success(), "ip {command} failed");
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(measure(count))
}

async fn measure(count: u32) -> Result<()> {
    let kernel = Netlink::open(NetlinkOptions::default())?;
    let _events = kernel.events()?;
    let route = Route::via(vec![KernelNextHop::gateway(
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
        Some("v0".to_owned()),
    )]);
    let keys: Vec<RouteKey> = (0..count)
        .map(|number| {
            RouteKey::main(
                Prefix::host(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))),
                0,
            )
        })
        .collect();

    let adds = keys
        .iter()
        .map(|key| RouteChange::Add(*key, route.clone()))
        .collect();
    run(&kernel, "add", adds).await?;
    let replaces = keys
        .iter()
        .map(|key| RouteChange::Replace(*key, route.clone()))
        .collect();
    run(&kernel, "replace", replaces).await?;
    let start = Instant::now();
    let found = kernel
        .routes(RouteFilter {
            table: MAIN_TABLE,
            family: None,
            protocol: Some(route.protocol),
        })
        .await?;
    report("dump", found.len(), start);
    let deletes = keys
        .iter()
        .map(|key| RouteChange::Delete(*key, route.protocol))
        .collect();
    run(&kernel, "delete", deletes).await
}

async fn run(kernel: &Netlink, what: &str, changes: Vec<RouteChange>) -> Result<()> {
    let count = changes.len();
    let chunks: Vec<Vec<RouteChange>> =
        changes.chunks(CHUNK).map(<[RouteChange]>::to_vec).collect();
    let start = Instant::now();
    for chunk in chunks {
        for result in kernel.change_routes(chunk).await? {
            result?;
        }
    }
    report(what, count, start);
    Ok(())
}

#[expect(
    clippy::print_stdout,
    reason = "the figures are what the program is for"
)]
fn report(what: &str, count: usize, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    let rate = f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / seconds;
    println!("{what:8} {count} routes in {seconds:.3} s: {rate:.0}/s");
}
