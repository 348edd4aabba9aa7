//! Sockets as BGP wants them: who may sign, how far a peer may be, how long silence is borne.
//!
//! Beside `bfd_socket.rs` the only file of the crate with `unsafe`: the kernel's TCP-MD5 and minimum-TTL options have no safe wrapper among our
//! dependencies. Each block passes the address and the exact size of a plain value that outlives the call, to a descriptor that
//! the borrowed socket keeps open.

#![expect(
    unsafe_code,
    reason = "two socket options have no safe wrapper, see above"
)]

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::prefix::Prefix;
use crate::speaker::config::{HoldTime, MAX_SECRET_LEN, PeerConfig, Secret};

/// `TCP_MD5SIG_EXT` of linux/tcp.h: TCP-MD5 with a prefix length.
const TCP_MD5SIG_EXT: libc::c_int = 32;
/// `TCP_MD5SIG_FLAG_PREFIX` of linux/tcp.h: `prefixlen` counts.
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;
/// `IP_MINTTL` of linux/in.h.
const IP_MINTTL: libc::c_int = 21;
/// `IPV6_MINHOPCOUNT` of linux/in6.h.
const IPV6_MINHOPCOUNT: libc::c_int = 73;
/// Precedence of network control traffic (CS6), as all routing daemons mark theirs.
pub(super) const TRAFFIC_CLASS: u32 = 0xc0;
/// TTL where nothing else is configured. An accepted socket would otherwise keep its listener's 255.
const DEFAULT_TTL: u8 = 64;
/// Connections waiting to be accepted; a thousand nodes may come at once.
pub(super) const BACKLOG: i32 = 4096;

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct Md5Signature {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    ifindex: libc::c_int,
    key: [u8; MAX_SECRET_LEN],
}

const _: () = assert!(
    size_of::<Md5Signature>() == 216,
    "the kernel's struct tcp_md5sig has 216 octets"
);

/// Sets or, with no key, removes the TCP-MD5 key for every peer in `peers` (RFC 2385). On a listener the longest matching
/// prefix counts. Segments without the right signature are dropped by the kernel without a word.
///
/// # Errors
/// What the kernel says: a kernel without TCP-MD5 has no such option. Removing a key that is not there is no error.
pub(super) fn set_md5(socket: &impl AsFd, peers: Prefix, key: Option<&Secret>) -> io::Result<()> {
    let (address, full) = match peers {
        Prefix::V4(prefix) => (SocketAddr::from((prefix.addr(), 0)), 32),
        Prefix::V6(prefix) => (SocketAddr::from((prefix.addr(), 0)), 128),
    };
    let prefix_len = peers.len();
    let address = SockAddr::from(address);
    let mut signature = Md5Signature {
        // SAFETY: `sockaddr_storage` is plain integers, for which all zeroes is a value.
        address: unsafe { mem::zeroed() },
        flags: if prefix_len < full {
            TCP_MD5SIG_FLAG_PREFIX
        } else {
            0
        },
        prefix_len: if prefix_len < full { prefix_len } else { 0 },
        key_len: 0,
        ifindex: 0,
        key: [0; MAX_SECRET_LEN],
    };
    // SAFETY: the source is `address.len()` octets of a socket address, never longer than the storage it is copied into, and
    // the two do not overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(
            address.as_ptr().cast::<u8>(),
            std::ptr::from_mut(&mut signature.address).cast::<u8>(),
            (address.len() as usize).min(size_of::<libc::sockaddr_storage>()),
        );
    }
    if let Some(secret) = key {
        let octets = secret.expose();
        for (to, from) in signature.key.iter_mut().zip(octets) {
            *to = *from;
        }
        signature.key_len = u16::try_from(octets.len().min(MAX_SECRET_LEN)).unwrap_or(0);
    }
    let option = if prefix_len < full {
        TCP_MD5SIG_EXT
    } else {
        libc::TCP_MD5SIG
    };
    match set_option(socket, libc::IPPROTO_TCP, option, &signature) {
        Err(error) if key.is_none() && error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// Drops what arrives with a smaller TTL (RFC 5082 §3).
fn set_minimum_ttl(socket: &impl AsFd, ipv6: bool, ttl: u8) -> io::Result<()> {
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
    let socket = Socket::new(
        Domain::for_address(remote),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    if let Some(secret) = &config.password {
        set_md5(&socket, Prefix::host(remote.ip()), Some(secret))?;
    }
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

/// Settings of every connection, dialled or accepted.
///
/// # Errors
/// What the kernel says.
pub(super) fn prepare<S: AsFd>(socket: &S, config: &PeerConfig, ipv6: bool) -> io::Result<()> {
    let view = socket2::SockRef::from(socket);
    view.set_tcp_nodelay(true)?;
    view.set_tcp_user_timeout(Some(user_timeout(config)))?;
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
        // A directly connected peer, one hop away, is heard with the TTL it sent: 255.
        set_minimum_ttl(socket, ipv6, u8::MAX - hops.saturating_sub(1))?;
    }
    Ok(())
}

/// How long the kernel may wait for acknowledgements before it gives a connection up.
///
/// Not the hold time: the option also ends connections whose window stays closed, and how long that is borne is the send hold
/// timer's to say (RFC 9687). Without a hold time it is the only thing that notices a dead path.
fn user_timeout(config: &PeerConfig) -> Duration {
    match config.hold_time {
        HoldTime::NONE => Duration::from_secs(240),
        hold => {
            let hold = Duration::from_secs(u64::from(hold.as_secs()));
            config
                .send_hold
                .unwrap_or(Duration::from_secs(480))
                .max(hold * 2)
                + Duration::from_secs(5)
        }
    }
}

/// A non-blocking socket bound to `address`, not listening yet. IPv6 ones take IPv6 only, so that each family has its own and TCP-MD5 keys need no mapped
/// addresses.
///
/// # Errors
/// What the kernel says: address in use or not ours, no privilege for the port.
pub(super) fn listener(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
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
    use crate::speaker::config::Remote;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text).expect("a usable key")
    }

    /// A listener whose peers in `peers` must sign, and its address.
    fn signed_listener(peers: &[(&str, &str)]) -> (TcpListener, SocketAddr) {
        let socket = listener((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
        for (peer, key) in peers {
            set_md5(&socket, prefix(peer), Some(&secret(key))).expect("a kernel with TCP-MD5");
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

    fn peer_config(key: Option<&str>, source: [u8; 4]) -> PeerConfig {
        let policy = std::sync::Arc::new(Policy::accept_all());
        let remote = Remote::Address((Ipv4Addr::LOCALHOST, 179).into());
        let mut config = PeerConfig::new("peer", remote, Asn(1), policy.clone(), policy);
        config.password = key.map(secret);
        config.local_address = Some(IpAddr::from(source));
        config
    }

    async fn dial(config: &PeerConfig, remote: SocketAddr) -> Option<TcpStream> {
        let socket = dialler(config, remote).expect("a socket");
        let connecting = TcpSocket::from_std_stream(socket.into()).connect(remote);
        // A SYN with the wrong signature is dropped without a word: only time tells.
        tokio::time::timeout(Duration::from_millis(300), connecting)
            .await
            .ok()?
            .ok()
    }

    #[tokio::test]
    async fn equal_keys_connect_and_others_do_not() {
        let (listener, address) = signed_listener(&[("127.0.0.2/32", "right")]);
        let source = [127, 0, 0, 2];
        assert!(
            dial(&peer_config(Some("wrong"), source), address)
                .await
                .is_none()
        );
        assert!(dial(&peer_config(None, source), address).await.is_none());
        assert!(
            dial(&peer_config(Some("right"), source), address)
                .await
                .is_some()
        );
        let (_, remote) = listener.accept().await.expect("accepted");
        assert_eq!(remote.ip(), IpAddr::from(source));
    }

    #[tokio::test]
    async fn a_key_for_a_range_holds_for_its_addresses_and_yields_to_one_of_their_own() {
        let (_listener, address) =
            signed_listener(&[("127.0.1.0/24", "range"), ("127.0.1.7/32", "own")]);
        assert!(
            dial(&peer_config(Some("range"), [127, 0, 1, 6]), address)
                .await
                .is_some()
        );
        assert!(
            dial(&peer_config(Some("range"), [127, 0, 1, 7]), address)
                .await
                .is_none()
        );
        assert!(
            dial(&peer_config(Some("own"), [127, 0, 1, 7]), address)
                .await
                .is_some()
        );
    }

    #[tokio::test]
    async fn a_removed_key_is_no_longer_asked_for() {
        let (listener, address) = signed_listener(&[("127.0.0.2/32", "key")]);
        set_md5(&listener, prefix("127.0.0.2/32"), None).expect("removed");
        set_md5(&listener, prefix("127.0.0.2/32"), None).expect("nothing to remove is no error");
        assert!(
            dial(&peer_config(None, [127, 0, 0, 2]), address)
                .await
                .is_some()
        );
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
    fn the_kernel_outwaits_the_send_hold_timer() {
        let config = peer_config(None, [127, 0, 0, 2]);
        assert_eq!(user_timeout(&config), Duration::from_secs(485));
    }
}
