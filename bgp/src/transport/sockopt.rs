//! Sockets as BGP wants them: how far a peer may be, how long silence is borne, in which namespace it all is. Who may sign is said in
//! `sockopt/signature.rs`.
//!
//! Beside `bfd_socket.rs` and `scheduling.rs` the only room of the crate with `unsafe`: the kernel's TCP-MD5, TCP-AO and minimum-TTL
//! options and `setns` have no safe wrapper among our dependencies. Each block passes the address and the exact size of a plain value
//! that outlives the call, to a descriptor that the borrowed socket or file keeps open.

#![expect(
    unsafe_code,
    reason = "some socket options and setns have no safe wrapper, see above"
)]

mod signature;

use std::fs::File;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::unix::AsyncFd;

pub(super) use self::signature::{Role, Signature, adopt, sign, try_keys};
use crate::prefix::Prefix;
use crate::speaker::config::{HoldTime, Listen, PeerConfig};

/// `IP_MINTTL` of linux/in.h.
const IP_MINTTL: libc::c_int = 21;
/// `IPV6_MINHOPCOUNT` of linux/in6.h.
const IPV6_MINHOPCOUNT: libc::c_int = 73;
/// Precedence of network control traffic (CS6), as all routing daemons mark theirs.
pub(super) const TRAFFIC_CLASS: u32 = 0xc0;
/// TTL where nothing else is configured. An accepted socket would otherwise keep its listener's 255.
const DEFAULT_TTL: u8 = 64;
/// The longest time `TCP_USER_TIMEOUT` can be: a signed number of milliseconds, nearly 25 days.
const LONGEST_USER_TIMEOUT: Duration = Duration::from_millis(2_147_483_647);
/// Connections waiting to be accepted; a thousand nodes may come at once.
pub(super) const BACKLOG: i32 = 4096;

/// Runs `work` in a network namespace: what it makes stays there. A namespace is one of a thread, so it has a thread of its own,
/// never one of the runtime's.
///
/// # Errors
/// The namespace cannot be entered, or what `work` says.
pub(super) fn in_netns<T: Send>(
    netns: Option<&Path>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let Some(path) = netns else {
        return work();
    };
    let cannot = |error: io::Error| {
        let text = format!("cannot enter network namespace {}: {error}", path.display());
        io::Error::new(error.kind(), text)
    };
    let file = File::open(path).map_err(cannot)?;
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, || {
                // SAFETY: the descriptor is open as long as `file` is, and the call takes no memory of ours.
                let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
                if result != 0 {
                    return Err(cannot(io::Error::last_os_error()));
                }
                work()
            })?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
}

/// A non-blocking netlink socket that is told of links and neighbours.
///
/// # Errors
/// What the kernel says.
pub(super) fn netlink() -> io::Result<Socket> {
    // `RTMGRP_LINK | RTMGRP_NEIGH` of linux/rtnetlink.h.
    const GROUPS: u32 = 1 | 4;
    let socket = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(libc::NETLINK_ROUTE)),
    )?;
    socket.set_nonblocking(true)?;
    // SAFETY: the storage is plain integers, zeroed, and large and aligned enough for every socket address; what is written is
    // a netlink address of the length that is returned.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let address = storage.cast::<libc::sockaddr_nl>();
            (*address).nl_family = libc::sa_family_t::try_from(libc::AF_NETLINK).unwrap_or(0);
            (*address).nl_groups = GROUPS;
            *length = libc::socklen_t::try_from(size_of::<libc::sockaddr_nl>()).unwrap_or(0);
            Ok(())
        })
    }?;
    socket.bind(&address)?;
    Ok(socket)
}

/// A non-blocking socket for router solicitations and advertisements on every link of the namespace. Needs `CAP_NET_RAW`.
///
/// # Errors
/// What the kernel says.
pub(super) fn neighbour_discovery() -> io::Result<Socket> {
    /// `ICMP6_FILTER` of linux/icmpv6.h: a set bit blocks a type.
    const ICMP6_FILTER: libc::c_int = 1;
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_nonblocking(true)?;
    let mut blocked = [u32::MAX; 8];
    // 133 and 134, in the word of 128 to 159.
    if let Some(word) = blocked.get_mut(4) {
        *word &= !(1 << 5 | 1 << 6);
    }
    set_option(&socket, libc::IPPROTO_ICMPV6, ICMP6_FILTER, &blocked)?;
    socket.set_recv_hoplimit_v6(true)?;
    socket.set_unicast_hops_v6(u32::from(u8::MAX))?;
    socket.set_multicast_hops_v6(u32::from(u8::MAX))?;
    socket.set_multicast_loop_v6(false)?;
    Ok(socket)
}

/// Watches a socket of ours on the runtime.
///
/// # Errors
/// There is no room in its list.
pub(super) fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: `Socket` owns its descriptor, closes it only when dropped, and never changes it in between.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}

/// The octets a system call wrote.
pub(super) fn filled(buffer: &[mem::MaybeUninit<u8>], length: usize) -> &[u8] {
    let filled = buffer.get(..length).unwrap_or_default();
    // SAFETY: the callers pass what the kernel says it wrote to the beginning of the buffer.
    unsafe { std::slice::from_raw_parts(filled.as_ptr().cast(), filled.len()) }
}

/// Segments that the kernel dropped for their signature or their TTL, by the names of the counters in /proc/net/netstat, in the
/// namespace of a peer. Nothing where they cannot be read.
pub(super) fn drop_counters(netns: Option<&Path>) -> Vec<(String, u64)> {
    const NAMES: [&str; 7] = [
        "TCPMD5NotFound",
        "TCPMD5Unexpected",
        "TCPMD5Failure",
        "TCPMinTTLDrop",
        "TCPAOBad",
        "TCPAOKeyNotFound",
        "TCPAORequired",
    ];
    // Of the thread, which may be in another namespace than the process.
    let read = || std::fs::read_to_string("/proc/thread-self/net/netstat");
    let Ok(text) = in_netns(netns, read) else {
        return Vec::new();
    };
    // Two lines a group: names, then values.
    let mut lines = text.lines();
    let mut found = Vec::new();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        for (name, value) in names.split(' ').zip(values.split(' ')) {
            if let (true, Ok(value)) = (NAMES.contains(&name), value.parse()) {
                found.push((name.to_owned(), value));
            }
        }
    }
    found
}

/// What bounds the memory of a socket's options, its keys among them, in octets: `net.core.optmem_max` in a namespace. Nothing
/// where it cannot be read: before Linux 6.8 it is the host's, and other namespaces do not see it.
pub(super) fn option_memory(netns: Option<&Path>) -> Option<u64> {
    let read = || std::fs::read_to_string("/proc/sys/net/core/optmem_max");
    in_netns(netns, read).ok()?.trim().parse().ok()
}

/// How much of it so many keys take, with some for other options. One of TCP-MD5 is 136 octets today, one of TCP-AO up to 240.
pub(super) fn option_memory_of(keys: usize) -> u64 {
    const OF_A_KEY: u64 = 256;
    const OF_OTHERS: u64 = 4096;
    let keys = u64::try_from(keys).unwrap_or(u64::MAX);
    keys.saturating_mul(OF_A_KEY).saturating_add(OF_OTHERS)
}

/// What a peer that sends 255 is heard with at least. One hop away, directly connected, it is 255 itself.
pub(super) const fn minimum_ttl(hops: u8) -> u8 {
    u8::MAX - hops.saturating_sub(1)
}

/// Drops what arrives with a smaller TTL (RFC 5082 §3); 0 drops nothing.
///
/// # Errors
/// What the kernel says.
pub(super) fn set_minimum_ttl(socket: &impl AsFd, ipv6: bool, ttl: u8) -> io::Result<()> {
    let value = libc::c_int::from(ttl);
    if ipv6 {
        set_option(socket, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, &value)
    } else {
        set_option(socket, libc::IPPROTO_IP, IP_MINTTL, &value)
    }
}

pub(super) fn set_option<T>(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and the kernel reads `length` octets of `value`, which is
    // a plain value of that size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A socket that is ready to dial `remote` as `config` asks: signed, bound, with the right TTL, non-blocking.
///
/// # Errors
/// What the kernel says; where a key was asked for and cannot be had there is no socket, so nothing goes out unprotected.
pub(super) fn dialler(config: &PeerConfig, remote: SocketAddr) -> io::Result<Socket> {
    in_netns(config.binding.netns.as_deref(), || {
        dialler_here(config, remote)
    })
}

fn dialler_here(config: &PeerConfig, remote: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(remote),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    bind_device(&socket, config.binding.device.as_deref())?;
    sign(
        &socket,
        Prefix::host(remote.ip()),
        &Signature::None,
        &Signature::of(config),
        Role::Connection,
    )?;
    prepare(&socket, config, remote.is_ipv6())?;
    if let Some(local) = config.local_address {
        let mut source = SocketAddr::new(local, 0);
        if let (SocketAddr::V6(source), SocketAddr::V6(remote)) = (&mut source, remote)
            && source.ip().is_unicast_link_local()
        {
            source.set_scope_id(remote.scope_id());
        }
        socket.bind(&source.into())?;
    }
    Ok(socket)
}

fn bind_device(socket: &Socket, device: Option<&str>) -> io::Result<()> {
    let Some(device) = device else {
        return Ok(());
    };
    socket
        .bind_device(Some(device.as_bytes()))
        .map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot bind to device {device}: {error}"),
            )
        })
}

/// Settings of every connection, dialled or accepted.
///
/// # Errors
/// What the kernel says.
pub(super) fn prepare<S: AsFd>(socket: &S, config: &PeerConfig, ipv6: bool) -> io::Result<()> {
    let view = socket2::SockRef::from(socket);
    view.set_tcp_nodelay(true)?;
    set_user_timeout(socket, user_timeout(config))?;
    let ttl = match config.ttl_security {
        Some(_) => u8::MAX,
        None => config.ttl.unwrap_or(DEFAULT_TTL),
    };
    if ipv6 {
        view.set_tclass_v6(TRAFFIC_CLASS)?;
        view.set_unicast_hops_v6(u32::from(ttl))?;
    } else {
        view.set_tos_v4(TRAFFIC_CLASS)?;
        view.set_ttl_v4(u32::from(ttl))?;
    }
    if let Some(hops) = config.ttl_security {
        set_minimum_ttl(socket, ipv6, minimum_ttl(hops))?;
    }
    Ok(())
}

/// How long the kernel may wait for acknowledgements before it gives a connection up.
///
/// Not the hold time: the option also ends connections whose window stays closed, and how long that is borne is the send hold
/// timer's to say (RFC 9687). Without a hold time it is the only thing that notices a dead path.
pub(super) fn user_timeout(config: &PeerConfig) -> Duration {
    let timeout = match config.hold_time {
        HoldTime::NONE => Duration::from_secs(240),
        hold => {
            let hold = Duration::from_secs(u64::from(hold.as_secs()));
            config
                .send_hold
                .unwrap_or(Duration::from_secs(480))
                .max(hold * 2)
                + Duration::from_secs(5)
        }
    };
    timeout.min(LONGEST_USER_TIMEOUT)
}

/// Sets how long the kernel waits for acknowledgements, see [`user_timeout`].
///
/// # Errors
/// What the kernel says.
pub(super) fn set_user_timeout(socket: &impl AsFd, timeout: Duration) -> io::Result<()> {
    socket2::SockRef::from(socket).set_tcp_user_timeout(Some(timeout))
}

/// Acknowledges what was read, and has the kernel leave that to the next call. Otherwise reading itself acknowledges, on one
/// machine all the way into the peer's socket, before anybody is told what was read. What is left the kernel acknowledges
/// itself: beyond a full segment at once, else after 40 ms, on long paths 200 ms at most.
///
/// # Errors
/// What the kernel says.
pub(super) fn acknowledge(socket: &impl AsFd) -> io::Result<()> {
    let socket = socket2::SockRef::from(socket);
    // The first sends, but also ends what the second begins.
    socket.set_tcp_quickack(true)?;
    socket.set_tcp_quickack(false)
}

/// A non-blocking socket bound to what `listen` says, not listening yet. IPv6 ones take IPv6 only, so that each family has its own and TCP-MD5 keys need no mapped
/// addresses.
///
/// # Errors
/// What the kernel says: address in use or not ours, no privilege for the port.
pub(super) fn listener(listen: &Listen) -> io::Result<Socket> {
    in_netns(listen.binding.netns.as_deref(), || listener_here(listen))
}

fn listener_here(listen: &Listen) -> io::Result<Socket> {
    let address = listen.address;
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    bind_device(&socket, listen.binding.device.as_deref())?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        // The address may come later than we, as one of a VRRP pair or one whose duplicate detection runs.
        socket.set_freebind_v6(true)?;
        socket.set_tclass_v6(TRAFFIC_CLASS)?;
        // Our SYN-ACK must satisfy a peer that asks for 255 (RFC 5082); the children are set to what their peer wants.
        socket.set_unicast_hops_v6(u32::from(u8::MAX))?;
    } else {
        socket.set_freebind_v4(true)?;
        socket.set_tos_v4(TRAFFIC_CLASS)?;
        socket.set_ttl_v4(u32::from(u8::MAX))?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use tokio::net::{TcpListener, TcpSocket, TcpStream};

    use super::*;
    use crate::asn::Asn;
    use crate::policy::Policy;
    use crate::speaker::config::{Remote, Secret};

    pub(super) fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    pub(super) fn secret(text: &str) -> Secret {
        Secret::new(text).expect("a usable key")
    }

    /// A listener whose peers in `peers` must sign, and its address.
    pub(super) fn signed_listener(peers: &[(&str, &str)]) -> (TcpListener, SocketAddr) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let socket = listener(&address.into()).expect("a socket");
        for (peer, key) in peers {
            let signature = Signature::Md5(secret(key));
            sign(
                &socket,
                prefix(peer),
                &Signature::None,
                &signature,
                Role::Listener,
            )
            .expect("a kernel with TCP-MD5");
        }
        socket.listen(16).expect("listens");
        let address = socket
            .local_addr()
            .expect("bound")
            .as_socket()
            .expect("an address");
        (
            TcpListener::from_std(socket.into()).expect("registered"),
            address,
        )
    }

    pub(super) fn peer_config(key: Option<&str>, source: [u8; 4]) -> PeerConfig {
        let policy = std::sync::Arc::new(Policy::accept_all());
        let remote = Remote::Address((Ipv4Addr::LOCALHOST, 179).into());
        let mut config = PeerConfig::new("peer", remote, Asn(1), policy.clone(), policy);
        config.password = key.map(secret);
        config.local_address = Some(IpAddr::from(source));
        config
    }

    pub(super) async fn dial(config: &PeerConfig, remote: SocketAddr) -> Option<TcpStream> {
        let socket = dialler(config, remote).expect("a socket");
        let connecting = TcpSocket::from_std_stream(socket.into()).connect(remote);
        // A SYN with the wrong signature is dropped without a word: only time tells.
        tokio::time::timeout(Duration::from_millis(300), connecting)
            .await
            .ok()?
            .ok()
    }

    #[tokio::test]
    async fn once_acknowledged_reading_leaves_the_next_to_us() {
        let (listener, address) = signed_listener(&[]);
        let dialled = TcpStream::connect(address).await.expect("a connection");
        let (accepted, _) = listener.accept().await.expect("a caller");
        for stream in [&dialled, &accepted] {
            acknowledge(stream).expect("it is connected");
            let itself = socket2::SockRef::from(stream).tcp_quickack();
            assert!(!itself.expect("readable"), "the kernel does it by itself");
        }
    }

    #[tokio::test]
    async fn ttl_security_hears_direct_neighbours_only_when_they_send_255() {
        let (_listener, address) = signed_listener(&[]);
        let mut config = peer_config(None, [127, 0, 0, 2]);
        config.ttl_security = Some(1);
        // The listener answers with 255, so a dialler that asks for it hears it.
        assert!(dial(&config, address).await.is_some());
        let plain = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("listens");
        let address = plain.local_addr().expect("bound");
        assert!(dial(&config, address).await.is_none());
    }

    #[test]
    fn a_namespace_that_is_not_there_is_named() {
        let mut config = peer_config(None, [127, 0, 0, 2]);
        config.binding.netns = Some(Path::new("/nonexistent/netns").into());
        let error = dialler(&config, (Ipv4Addr::LOCALHOST, 179).into()).expect_err("no such file");
        assert!(error.to_string().contains("/nonexistent/netns"), "{error}");
        config.binding.netns = None;
        config.binding.device = Some("nodev0".into());
        let error = dialler(&config, (Ipv4Addr::LOCALHOST, 179).into()).expect_err("no device");
        assert!(error.to_string().contains("nodev0"), "{error}");
    }

    #[test]
    fn the_kernel_outwaits_the_send_hold_timer() {
        let config = peer_config(None, [127, 0, 0, 2]);
        assert_eq!(user_timeout(&config), Duration::from_secs(485));
    }

    #[test]
    fn a_send_hold_longer_than_the_kernel_can_wait_leaves_the_peer_within_reach() {
        let mut config = peer_config(None, [127, 0, 0, 2]);
        config.send_hold = Some(Duration::from_secs(365 * 24 * 60 * 60));
        let socket = dialler(&config, (Ipv4Addr::LOCALHOST, 179).into()).expect("a socket");
        let set = socket.tcp_user_timeout().expect("a TCP socket");
        assert_eq!(set, Some(LONGEST_USER_TIMEOUT));
    }
}
