//! A network namespace for each test, a dataplane in it, and waiting for conditions.

#![allow(dead_code, reason = "not every test file needs all of it")]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use margay_agent::desired::state::DesiredState;
use margay_agent::kernel::netlink::{Netlink, NetlinkOptions};
use margay_agent::kernel::{KernelNextHop, Route, RouteKey};
use margay_agent::reconcile::{Dataplane, DataplaneConfig, Status};
use margay_bgp::prefix::Prefix;
use nix::sched::{CloneFlags, unshare};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

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

/// A running dataplane and its strings.
pub(crate) struct Running {
    pub(crate) dataplane: Dataplane,
    pub(crate) desired: watch::Sender<Option<Arc<DesiredState>>>,
    pub(crate) cancel: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(kernel: Netlink, config: DataplaneConfig) -> Self {
        let (desired, receiver) = watch::channel(None);
        let cancel = CancellationToken::new();
        let (dataplane, task) = Dataplane::spawn(kernel, config, receiver, cancel.clone()).unwrap();
        Self {
            dataplane,
            desired,
            cancel,
            task,
        }
    }

    pub(crate) fn want(&self, state: &DesiredState) {
        self.desired.send_replace(Some(Arc::new(state.clone())));
    }

    pub(crate) async fn status(&self, holds: impl FnMut(&Arc<Status>) -> bool) -> Arc<Status> {
        let mut status = self.dataplane.status();
        tokio::time::timeout(Duration::from_secs(30), status.wait_for(holds))
            .await
            .unwrap_or_else(|_| {
                panic!(
                    "never came about; last: {:?}",
                    self.dataplane.status().borrow()
                )
            })
            .unwrap()
            .clone()
    }

    /// Until the state last wanted is in place.
    pub(crate) async fn settled(&self, state: &DesiredState) {
        let wanted = state.routes.len();
        self.status(|status| {
            status.settled() && status.routes_desired == wanted && status.routes_unlisted == 0
        })
        .await;
    }

    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
    }

    /// It ends where it is, and cleans nothing up.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|error| error.is_cancelled()));
    }
}

pub(crate) fn key(prefix: &str) -> RouteKey {
    RouteKey::main(prefix.parse::<Prefix>().unwrap(), 0)
}

pub(crate) fn via(address: &str, interface: &str) -> Route {
    Route::via(vec![KernelNextHop::gateway(
        address.parse().unwrap(),
        Some(interface.to_owned()),
    )])
}

pub(crate) fn underlay() {
    veth("eth0", Some("192.0.2.1/24"));
    ip("-6 addr add 2001:db8::1/64 dev eth0 nodad");
}
