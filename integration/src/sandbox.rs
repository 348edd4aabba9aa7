//! Puts the lab into namespaces of its own, so that it cannot touch the host and leaves nothing behind.
//!
//! ```text
//!  lab (outer)  waits, passes on the exit status
//!    └─ lab (inner)  process 1 of a PID namespace; own mounts, own network, an empty /run
//!         ├─ bird, zebra, bgpd, margay agent, tcpdump, ping …
//!         └─ /run/netns/*  named namespaces, visible in this mount namespace alone
//! ```
//! The inner process dies with the outer one, by signal (`PR_SET_PDEATHSIG`) and by the end of its standard input,
//! whichever the kernel delivers. When it is gone, the kernel kills every process of the PID namespace, the mount
//! namespace goes with its last process, and with it the network namespaces that were pinned there and every device in
//! them. So a lab that is killed with -9 needs no reaper.

use std::env;
use std::fs;
use std::io::{Read, stdin};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio, exit};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::exec;

/// Set for the inner process: the outer one's PID, which names the lab's folder.
const OWNER_VARIABLE: &str = "MARGAY_LAB_OWNER";

/// Exit status of a lab whose owner died.
const ORPHANED: i32 = 130;

/// Where a process stands after [`enter`].
#[derive(Debug)]
pub enum Place {
    /// Outside; the lab ran in a child and this is its exit status.
    Outside(ExitCode),
    /// Inside the lab's own namespaces.
    Inside {
        /// The outer process's PID as the host sees it.
        owner: u32,
    },
}

/// Runs this program again inside new namespaces, or prepares them when this is that second run.
///
/// Must be called before the program has a second thread.
///
/// # Errors
/// When the process is not root or a namespace or mount is refused.
pub fn enter() -> Result<Place> {
    match env::var(OWNER_VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok())
    {
        Some(owner) => settle().map(|()| Place::Inside { owner }),
        None => outside().map(Place::Outside),
    }
}

fn outside() -> Result<ExitCode> {
    if !geteuid().is_root() {
        bail!("labs create network namespaces and must run as root");
    }
    unshare(CloneFlags::CLONE_NEWPID).context("cannot create a PID namespace")?;
    let mut child = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(OWNER_VARIABLE, std::process::id().to_string())
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot run the lab inside its namespaces")?;
    // `wait` would close the pipe whose end tells the inner process that its owner died.
    let lifeline = child.stdin.take();
    let status = child.wait()?;
    drop(lifeline);
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn settle() -> Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC,
    )
    .context("cannot create namespaces")?;
    thread::spawn(|| {
        let mut byte = [0];
        while stdin().read(&mut byte).is_ok_and(|count| count > 0) {}
        exit(ORPHANED);
    });
    let nothing: Option<&str> = None;
    mount(
        nothing,
        "/",
        nothing,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        nothing,
    )
    .context("cannot detach mounts")?;
    mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        MsFlags::empty(),
        nothing,
    )
    .context("cannot mount /proc")?;
    mount(
        Some("run"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .context("cannot mount /run")?;
    fs::create_dir_all("/run/netns")?;
    // Shared, so that namespaces added later are also seen by daemons already running (`ip netns exec` makes a slave).
    mount(
        Some("/run/netns"),
        "/run/netns",
        nothing,
        MsFlags::MS_BIND,
        nothing,
    )?;
    mount(nothing, "/run/netns", nothing, MsFlags::MS_SHARED, nothing)
        .context("cannot share /run/netns")?;
    exec::check(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    Ok(())
}
