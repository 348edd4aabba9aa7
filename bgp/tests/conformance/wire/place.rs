//! Where the wire is: a network namespace for each lab, in which neighbours have the addresses that cases know them by.

use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace, which goes with its last user.
pub(super) struct Place {
    namespace: File,
}

impl Place {
    /// The calling thread goes there. The first of the addresses is the speaker's. Where its routes are forwarded by, none of the
    /// others is one of the place's, nor on a link: the kernel only takes in what is sent there, whatever else its routes say.
    pub(super) fn new(addresses: &[Ipv4Addr], forwards: bool) -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace, which takes root");
        let namespace = File::open("/proc/thread-self/ns/net").unwrap();
        // Segments as on a wire: a closed window opens again by less than the loopback's 64 KiB.
        let mut commands = "link set lo up mtu 1500\n".to_owned();
        for (index, address) in addresses.iter().enumerate() {
            commands.push_str(&match (forwards, index) {
                (false, _) => format!("addr add {address}/24 dev lo\n"),
                (true, 0) => format!("addr add {address}/32 dev lo\n"),
                (true, _) => format!("route add local {address}/32 dev lo table local\n"),
            });
        }
        ip(&commands);
        Self { namespace }
    }

    /// A case may have several labs, and each of them acts in its own place.
    pub(super) fn enter(&self) {
        setns(&self.namespace, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// The kernel holds little of what a neighbour does not read.
    pub(super) fn narrow(&self) {
        self.enter();
        for direction in ["tcp_wmem", "tcp_rmem"] {
            let file = format!("/proc/sys/net/ipv4/{direction}");
            std::fs::write(file, "4096 8192 8192").unwrap();
        }
    }
}

/// Runs lines of `ip` in the place the calling thread is in.
pub(super) fn ip(commands: &str) {
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = ip.stdin.take().unwrap();
    input.write_all(commands.as_bytes()).unwrap();
    drop(input);
    assert!(ip.wait().unwrap().success(), "{commands}");
}
