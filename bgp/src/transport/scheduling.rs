//! How the kernel schedules our threads beside the other work of a machine.

#![expect(
    unsafe_code,
    reason = "sched_setscheduler and setpriority have no safe wrapper among our dependencies"
)]

use std::mem;

/// Above ordinary work and below what keeps a kernel alive.
const REALTIME_PRIORITY: libc::c_int = 20;
/// The nice value of the speaker's thread: ten times the share of ordinary work.
const FAVOURED: libc::c_int = -10;

/// How a thread is scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheduling {
    /// Before all ordinary work.
    RealTime,
    /// With a larger share than others.
    Nice,
    /// Like any other.
    Ordinary,
}

/// Has the calling thread run before ordinary work, as far as this process may: a busy machine must not look like a dead path.
pub(super) fn hurry() -> Scheduling {
    // SAFETY: `sched_param` is plain integers, for which all zeroes is a value.
    let mut parameters: libc::sched_param = unsafe { mem::zeroed() };
    parameters.sched_priority = REALTIME_PRIORITY;
    // SAFETY: the parameters outlive the call, which is about the calling thread alone.
    let realtime = unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &parameters)
    };
    if realtime == 0 {
        return Scheduling::RealTime;
    }
    renice(-20)
}

/// Gives the calling thread a larger share than ordinary work, as far as this process may: KEEPALIVEs of a busy machine are not
/// late, and a peer that wakes up to read an update does not keep the others waiting for theirs.
///
/// Whoever started the process with a nice value knows why: it stays.
pub(super) fn favour() -> Scheduling {
    // SAFETY: no pointers; on Linux 0 means the calling thread. Its own value can always be read.
    match unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) } {
        0 => renice(FAVOURED),
        ..0 => Scheduling::Nice,
        1.. => Scheduling::Ordinary,
    }
}

fn renice(value: libc::c_int) -> Scheduling {
    // SAFETY: no pointers; on Linux 0 means the calling thread.
    let renice = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) };
    if renice == 0 {
        Scheduling::Nice
    } else {
        Scheduling::Ordinary
    }
}
