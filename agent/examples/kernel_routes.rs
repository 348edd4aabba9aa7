//! How fast routes get into the kernel: writes and deletes /32 routes in a network namespace of its own, first by the
//! kernel's verbs alone, then by the whole dataplane from a desired state.
//!
//! `cargo run --release -p margay-agent --example kernel_routes -- 100000` (as root)

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use margay_agent::desired::state::DesiredState;
use margay_agent::kernel::netlink::{Netlink, NetlinkOptions};
use margay_agent::kernel::{
    Kernel as _, KernelNextHop, MAIN_TABLE, Route, RouteChange, RouteFilter, RouteKey,
};
use margay_agent::reconcile::{Dataplane, DataplaneConfig};
use margay_bgp::prefix::Prefix;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

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

    let shared = Arc::new(route.clone());
    let adds = keys
        .iter()
        .map(|key| RouteChange::Add(*key, Arc::clone(&shared)))
        .collect();
    run(&kernel, "add", adds).await?;
    let replaces = keys
        .iter()
        .map(|key| RouteChange::Replace(*key, Arc::clone(&shared)))
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
    run(&kernel, "delete", deletes).await?;
    drop(kernel);
    dataplane(&keys, &route).await
}

async fn dataplane(keys: &[RouteKey], route: &Route) -> Result<()> {
    let kernel = Netlink::open(NetlinkOptions::default())?;
    let (desired, receiver) = watch::channel(None);
    let cancel = CancellationToken::new();
    let (dataplane, task) =
        Dataplane::spawn(kernel, DataplaneConfig::default(), receiver, cancel.clone())?;
    let mut status = dataplane.status();
    for (what, keys) in [("install", keys), ("remove", &[])] {
        let state = DesiredState {
            in_sync: true,
            routes: keys.iter().map(|key| (*key, route.clone())).collect(),
            ..DesiredState::default()
        };
        let start = Instant::now();
        desired.send_replace(Some(Arc::new(state)));
        status
            .wait_for(|status| {
                status.started
                    && status.routes_desired == keys.len()
                    && status.routes_installed == keys.len()
                    && status.routes_unlisted == 0
            })
            .await?;
        report(
            what,
            dataplane.counters().routes_written.get().try_into()?,
            start,
        );
    }
    cancel.cancel();
    Ok(task.await?)
}

async fn run(kernel: &Netlink, what: &str, changes: Vec<RouteChange>) -> Result<()> {
    let count = changes.len();
    let chunks: Vec<Arc<[RouteChange]>> = changes.chunks(CHUNK).map(Arc::from).collect();
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
