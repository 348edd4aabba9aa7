//! A network namespace for each test, and waiting for conditions in it.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use margay_agent::kernel::netlink::{Netlink, NetlinkOptions};
use nix::sched::{CloneFlags, unshare};

static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// Runs a test on a thread with a network namespace of its own, which goes with the thread. Without the privilege the
/// test is skipped, loudly.
#[track_caller]
pub(crate) fn in_namespace<F>(test: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    if !nix::unistd::geteuid().is_root() {
        let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
        eprintln!("SKIPPED ({count} so far): a test of the real kernel needs root");
        return;
    }
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        ip("link set lo up");
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(async {
                tokio::time::timeout(Duration::from_secs(120), test())
                    .await
                    .expect("the test takes too long");
            });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The kernel of the calling thread's namespace.
pub(crate) fn kernel() -> Netlink {
    Netlink::open(NetlinkOptions::default()).expect("netlink")
}

/// Runs `ip` with arguments separated by blanks.
#[track_caller]
pub(crate) fn ip(arguments: &str) -> String {
    run("ip", &arguments.split_whitespace().collect::<Vec<_>>())
}

/// Runs `nft` with one command.
#[track_caller]
pub(crate) fn nft(command: &str) -> String {
    run("nft", &[command])
}

/// Runs a program that must succeed and returns what it prints.
#[track_caller]
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program} cannot be run: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A veth pair: `name` with an address, its other end `name`p; both up.
pub(crate) fn veth(name: &str, address: Option<&str>) {
    ip(&format!("link add {name} type veth peer name {name}p"));
    if let Some(address) = address {
        ip(&format!("addr add {address} dev {name}"));
    }
    ip(&format!("link set {name}p up"));
    ip(&format!("link set {name} up"));
}

/// Waits until a condition holds, and says what was last seen if it never does.
pub(crate) async fn eventually<T: std::fmt::Debug>(
    what: &str,
    look: impl Fn() -> T,
    holds: impl Fn(&T) -> bool,
) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let seen = look();
        if holds(&seen) {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{what} did not happen; last seen: {seen:?}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
