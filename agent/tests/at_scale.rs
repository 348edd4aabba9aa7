//! Thousands of routes at once on a real kernel: how often it is called for them. On their own, since they keep a machine busy.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use margay_agent::desired::state::DesiredState;
use margay_agent::kernel::{Kernel as _, KernelError, RouteChange};
use margay_agent::reconcile::DataplaneConfig;

use support::{Running, eventually, in_namespace, ip, kernel, key, underlay, via};

/// Routes `10.64.0.0/24` and on, all by one gateway.
fn many(count: u32, gateway: &str) -> DesiredState {
    let route = via(gateway, "eth0");
    let prefix = |number: u32| {
        let [_, high, middle, _] = (number << 8).to_be_bytes();
        key(&format!("10.{}.{middle}.0/24", 64 + high))
    };
    DesiredState {
        in_sync: true,
        routes: (0..count)
            .map(|number| (prefix(number), route.clone()))
            .collect(),
        ..DesiredState::default()
    }
}

fn count_via(gateway: &str) -> usize {
    ip(&format!("route show proto 109 via {gateway}"))
        .lines()
        .count()
}

#[test]
fn x12_five_thousand_routes_are_written_in_calls_of_hundreds() {
    in_namespace(|| async {
        underlay();
        let kernel = kernel();
        let sends = kernel.sends();
        let changes: Vec<RouteChange> = many(5_000, "192.0.2.2")
            .routes
            .into_iter()
            .map(|(key, route)| RouteChange::Add(key, Arc::new(route)))
            .collect();
        let before = sends.load(Ordering::Relaxed);
        let results = kernel.change_routes(changes.into()).await.unwrap();
        assert!(results.iter().all(Result::is_ok));
        assert_eq!(count_via("192.0.2.2"), 5_000);
        let calls = sends.load(Ordering::Relaxed) - before;
        // Not one a route, and none of more than 500.
        assert!((10..=50).contains(&calls), "{calls} calls");
    });
}

/// Routes carry their next hops themselves, and a key that tells ours from others'. Next-hop objects would need such a mark of
/// their own for the sake of one call instead of eighty; what counts is that a pass moves all of them, none of which is gone
/// for a moment.
#[test]
fn x13_ten_thousand_routes_behind_one_node_move_to_another_in_one_pass() {
    in_namespace(|| async {
        underlay();
        let kernel = kernel();
        let sends = kernel.sends();
        let running = Running::start(kernel, DataplaneConfig::default());
        running.want(&many(10_000, "192.0.2.2"));
        let counters = Arc::clone(running.dataplane.counters());
        let written = || counters.routes_written.get();
        eventually("the routes", written, |written| *written == 10_000).await;
        assert_eq!(count_via("192.0.2.2"), 10_000);

        let before = sends.load(Ordering::Relaxed);
        let moved = many(10_000, "192.0.2.3");
        running.want(&moved);
        eventually("the move", written, |written| *written == 20_000).await;
        running.settled(&moved).await;
        let calls = sends.load(Ordering::Relaxed) - before;
        assert!(calls <= 100, "{calls} calls for ten thousand routes");
        assert_eq!(count_via("192.0.2.3"), 10_000);
        assert_eq!(count_via("192.0.2.2"), 0);
        assert_eq!(counters.routes_deleted.get(), 0, "replaced where they are");
        running.stop().await;
    });
}

/// How often links are dumped at most until the kernel has said of one that it was interrupted: it says so of every other one or
/// so here.
const DUMPS: usize = 2_000;

#[test]
fn x16_a_dump_that_the_kernel_interrupts_is_begun_again_and_is_whole_then() {
    in_namespace(|| async {
        // So many that a dump comes in many pieces, between which something changes.
        let names: BTreeSet<String> = (0..300).map(|number| format!("cali{number}")).collect();
        let lines: Vec<String> = names
            .iter()
            .map(|name| format!("link add {name} type veth peer name {name}p"))
            .collect();
        let file = std::env::temp_dir().join(format!("margay-links-{}", std::process::id()));
        std::fs::write(&file, lines.join("\n")).unwrap();
        ip(&format!("-batch {}", file.display()));
        std::fs::remove_file(&file).unwrap();

        let kernel = kernel();
        let sends = kernel.sends();
        let before = sends.load(Ordering::Relaxed);
        let whole = kernel.links().await.unwrap();
        let calm = sends.load(Ordering::Relaxed) - before;
        assert!(whole.len() > 600, "{} links", whole.len());

        let stop = Arc::new(AtomicBool::new(false));
        let restless = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Ordering::Relaxed) {
                    ip("link add restless type veth peer name restlessp");
                    ip("link del restless");
                }
            }
        });
        let (mut again, mut given_up) = (0, 0);
        for _ in 0..DUMPS {
            let before = sends.load(Ordering::Relaxed);
            match kernel.links().await {
                Ok(links) => {
                    let found: Vec<&String> = links
                        .iter()
                        .map(|link| &link.name)
                        .filter(|name| names.contains(*name))
                        .collect();
                    let distinct: BTreeSet<&String> = found.iter().copied().collect();
                    assert_eq!(found.len(), distinct.len(), "one is listed twice");
                    assert_eq!(distinct.len(), names.len(), "one is missing");
                    again += usize::from(sends.load(Ordering::Relaxed) - before > calm);
                }
                // So often in a row that it is for the next pass to try.
                Err(KernelError::DumpInterrupted { .. }) => given_up += 1,
                Err(error) => panic!("{error}"),
            }
            if again >= 3 {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        restless.join().unwrap();
        assert!(
            again >= 3,
            "{again} dumps were begun again, {given_up} given up"
        );
    });
}
