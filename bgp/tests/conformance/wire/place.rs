//! Where the wire is: a network namespace for each lab, in which neighbours have the addresses that cases know them by.

use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace, which goes with its last user.
pub(super) struct Place {
    namespace: File,
}

impl Place {
    /// The calling thread goes there. Where routes are forwarded by, neighbours' addresses are none of the place's, nor on a link:
    /// the kernel only takes in what is sent there, whatever else its routes say.
    pub(super) fn new(own: &[Ipv4Addr], theirs: &[Ipv4Addr], forwards: bool) -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace, which takes root");
        let namespace = File::open("/proc/thread-self/ns/net").unwrap();
        // Segments as on a wire: a closed window opens again by less than the loopback's 64 KiB.
        let mut commands = "link set lo up mtu 1500\n".to_owned();
        let length = if forwards { 32 } else { 24 };
        for address in own {
            commands.push_str(&format!("addr add {address}/{length} dev lo\n"));
        }
        for address in theirs {
            commands.push_str(&if forwards {
                format!("route add local {address}/32 dev lo table local\n")
            } else {
                format!("addr add {address}/{length} dev lo\n")
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

/// The speaker's end of a link with link-local addresses alone, by its index.
pub(super) fn link_name(index: u32) -> String {
    format!("link{index}")
}

/// What is added to the index of the speaker's end for that of the neighbour's.
const FAR: u32 = 100;

/// Lays the link to a neighbour. Of `fe80::1` and `fe80::2` it has one, and the speaker the other.
pub(super) fn link(theirs: SocketAddrV6) {
    let index = theirs.scope_id();
    let [.., last] = theirs.ip().segments();
    let mut commands = format!(
        "link add {} index {index} type veth peer name far{index} index {}\n",
        link_name(index),
        index + FAR
    );
    for (end, last) in [(link_name(index), 3 - last), (format!("far{index}"), last)] {
        commands.push_str(&format!(
            "link set {end} addrgenmode none\naddr add fe80::{last}/64 dev {end} nodad\nlink set {end} up\n"
        ));
    }
    ip(&commands);
}

/// An address on a link as it is called at the other end.
pub(super) fn seen_from_far(address: &mut SocketAddr) {
    if let SocketAddr::V6(address) = address {
        address.set_scope_id(address.scope_id() + FAR);
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
