//! Sockets as BGP wants them: who may sign, how far a peer may be, how long silence is borne.
//!
//! Beside `bfd_socket.rs` the only file of the crate with `unsafe`: the kernel's TCP-MD5, TCP-AO and minimum-TTL options and `setns`
//! have no safe wrapper among our dependencies. Each block passes the address and the exact size of a plain value that outlives the
//! call, to a descriptor that the borrowed socket or file keeps open.

#![expect(
    unsafe_code,
    reason = "some socket options and setns have no safe wrapper, see above"
)]

use std::fs::File;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::unix::AsyncFd;

use crate::prefix::Prefix;
use crate::speaker::config::{
    AoAlgorithm, AoKey, HoldTime, Listen, MAX_SECRET_LEN, PeerConfig, Secret,
};

/// `TCP_MD5SIG_EXT` of linux/tcp.h: TCP-MD5 with a prefix length.
const TCP_MD5SIG_EXT: libc::c_int = 32;
/// `TCP_MD5SIG_FLAG_PREFIX` of linux/tcp.h: `prefixlen` counts.
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;
/// `TCP_AO_ADD_KEY`, `TCP_AO_DEL_KEY`, `TCP_AO_INFO` and `TCP_AO_GET_KEYS` of linux/tcp.h.
const TCP_AO_ADD_KEY: libc::c_int = 38;
const TCP_AO_DEL_KEY: libc::c_int = 39;
const TCP_AO_INFO: libc::c_int = 40;
const TCP_AO_GET_KEYS: libc::c_int = 41;
/// `TCP_AO_KEYF_EXCLUDE_OPT` of linux/tcp.h: other TCP options are not signed.
const TCP_AO_KEYF_EXCLUDE_OPT: u8 = 2;
/// Octets of a signature (RFC 5926 §2: 96 bits).
const AO_MAC_LEN: u8 = 12;
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

/// `struct tcp_ao_add` of linux/tcp.h.
#[repr(C, align(8))]
struct AoAdd {
    address: libc::sockaddr_storage,
    algorithm: [u8; 64],
    ifindex: i32,
    flags: u32,
    reserved: u16,
    prefix_len: u8,
    send_id: u8,
    receive_id: u8,
    mac_len: u8,
    key_flags: u8,
    key_len: u8,
    key: [u8; MAX_SECRET_LEN],
}

/// `struct tcp_ao_del` of linux/tcp.h.
#[repr(C, align(8))]
struct AoDelete {
    address: libc::sockaddr_storage,
    ifindex: i32,
    flags: u32,
    reserved: u16,
    prefix_len: u8,
    send_id: u8,
    receive_id: u8,
    current: u8,
    receive_next: u8,
    key_flags: u8,
}

/// `struct tcp_ao_info_opt` of linux/tcp.h.
#[repr(C, align(8))]
#[derive(Default)]
struct AoInfo {
    flags: u32,
    reserved: u16,
    current: u8,
    receive_next: u8,
    counters: [u64; 5],
}

/// `struct tcp_ao_getsockopt` of linux/tcp.h: the first of a list says how many there is room for, then how many there are.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct AoGet {
    address: libc::sockaddr_storage,
    algorithm: [u8; 64],
    key: [u8; MAX_SECRET_LEN],
    count: u32,
    flags: u16,
    send_id: u8,
    receive_id: u8,
    prefix_len: u8,
    mac_len: u8,
    key_flags: u8,
    key_len: u8,
    ifindex: i32,
    good: u64,
    bad: u64,
}

const _: () = assert!(
    size_of::<AoAdd>() == 288
        && size_of::<AoDelete>() == 144
        && size_of::<AoInfo>() == 48
        && size_of::<AoGet>() == 304,
    "the kernel's struct tcp_ao_add has 288 octets, tcp_ao_del 144, tcp_ao_info_opt 48, tcp_ao_getsockopt 304"
);

/// The n-th bit field of a C structure's `__u32`.
const fn bit_field(n: u32) -> u32 {
    if cfg!(target_endian = "big") {
        1 << (31 - n)
    } else {
        1 << n
    }
}
const AO_SET_CURRENT: u32 = bit_field(0);
const AO_SET_RECEIVE_NEXT: u32 = bit_field(1);
/// `get_all`, the third bit field of a `__u16`: every key of the socket.
const AO_GET_ALL: u16 = if cfg!(target_endian = "big") {
    1 << 13
} else {
    1 << 2
};

/// How segments of a peer are signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Signature {
    /// Not at all.
    #[default]
    None,
    /// TCP-MD5 (RFC 2385).
    Md5(Secret),
    /// TCP-AO (RFC 5925); the first key is the one we want used.
    Ao(Vec<AoKey>),
}

impl Signature {
    pub(super) fn of(config: &PeerConfig) -> Self {
        match &config.password {
            Some(secret) => Self::Md5(secret.clone()),
            None if config.tcp_ao.is_empty() => Self::None,
            None => Self::Ao(config.tcp_ao.clone()),
        }
    }

    fn ao(&self) -> &[AoKey] {
        match self {
            Self::Ao(keys) => keys,
            Self::None | Self::Md5(_) => &[],
        }
    }
}

/// What a socket is, as far as its keys care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It listens: its children inherit keys, none of which is in use.
    Listener,
    /// It has, or is about to have, one peer.
    Connection,
}

/// Brings the keys of a socket for `peers` from what was set to what is wanted. Between both, no segment goes unsigned: new keys
/// come before old ones go. A connection goes on: both ends converge by retransmission (TCP-MD5) or by the key identifiers in
/// each segment (TCP-AO).
///
/// # Errors
/// What the kernel says; [`io::ErrorKind::Unsupported`] where it has no such signature.
pub(super) fn sign(
    socket: &impl AsFd,
    peers: Prefix,
    from: &Signature,
    to: &Signature,
    role: Role,
) -> io::Result<()> {
    if matches!(from, Signature::Md5(_)) && !matches!(to, Signature::Md5(_)) {
        set_md5(socket, peers, None)?;
    }
    match to {
        Signature::Md5(_) if from == to => {}
        Signature::Md5(secret) => {
            remove_ao(socket, peers, from.ao(), None, role)?;
            set_md5(socket, peers, Some(secret))?;
        }
        Signature::Ao(keys) => {
            let first = keys.first().filter(|_| role == Role::Connection);
            for key in keys.iter().filter(|key| !from.ao().contains(key)) {
                // A key whose octets changed keeps its ids, and the kernel takes no second one of these.
                let same_ids =
                    |old: &&AoKey| old.send_id == key.send_id || old.receive_id == key.receive_id;
                for old in from.ao().iter().filter(same_ids) {
                    delete_ao(socket, peers, old, first.filter(|first| *first != key))?;
                }
                let starts = from.ao().is_empty() && first == Some(key);
                add_ao(socket, peers, key, starts)?;
            }
            let gone: Vec<AoKey> = from
                .ao()
                .iter()
                .filter(|old| {
                    keys.iter()
                        .all(|key| key.send_id != old.send_id && key.receive_id != old.receive_id)
                })
                .cloned()
                .collect();
            if let (Some(first), false) = (first, from.ao().is_empty()) {
                prefer_ao(socket, first)?;
            }
            remove_ao(socket, peers, &gone, first, role)?;
        }
        Signature::None => remove_ao(socket, peers, from.ao(), None, role)?,
    }
    Ok(())
}

/// Gives an accepted connection the keys of its peer. It has those that its listener had when the first segment came, which may
/// have been others.
///
/// # Errors
/// What the kernel says, or that its segments are signed with other TCP-AO keys: those in use cannot be exchanged for others of
/// the same ids, so it has to be made anew.
pub(super) fn adopt(stream: &impl AsFd, peer: Prefix, signature: &Signature) -> io::Result<()> {
    let Signature::Ao(keys) = signature else {
        return sign(stream, peer, &Signature::None, signature, Role::Connection);
    };
    if !are_keys(&ao_keys(stream, keys.len())?, keys) {
        return Err(io::Error::other(
            "it is signed with other TCP-AO keys than those of the peer",
        ));
    }
    keys.first()
        .map_or(Ok(()), |first| prefer_ao(stream, first))
}

/// Whether a connection has the keys it should have, and no other.
fn are_keys(found: &[AoGet], wanted: &[AoKey]) -> bool {
    let is = |found: &AoGet, key: &AoKey| {
        let (octets, length) = key_octets(&key.secret);
        let signs_options = found.key_flags & TCP_AO_KEYF_EXCLUDE_OPT == 0;
        // Of a CMAC key the kernel keeps what it derived (RFC 5926 §3.1.1.2).
        let derived = key.algorithm == AoAlgorithm::CmacAes128;
        (found.send_id, found.receive_id) == (key.send_id, key.receive_id)
            && signs_options == key.sign_options
            && (derived || (found.key_len, found.key) == (length, octets))
    };
    found.len() == wanted.len()
        && wanted
            .iter()
            .all(|key| found.iter().any(|found| is(found, key)))
}

/// The keys of a connection, or one more than expected where it has more.
fn ao_keys(socket: &impl AsFd, expected: usize) -> io::Result<Vec<AoGet>> {
    // SAFETY: plain integers and arrays of them, for which all zeroes is a value.
    let empty: AoGet = unsafe { mem::zeroed() };
    let mut keys = vec![empty; expected + 1];
    if let Some(first) = keys.first_mut() {
        first.flags = AO_GET_ALL;
        first.count = u32::try_from(expected + 1).map_err(io::Error::other)?;
    }
    // The kernel is told the size of one, by which it steps from one to the next.
    let mut size = libc::socklen_t::try_from(size_of::<AoGet>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and the kernel writes no more values of that size than
    // the first one says there is room for, which is the length of the list.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_AO_GET_KEYS,
            keys.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if result != 0 {
        return Err(no_tcp_ao(io::Error::last_os_error()));
    }
    let count = keys.first().map_or(0, |first| first.count);
    keys.truncate(usize::try_from(count).unwrap_or(usize::MAX));
    Ok(keys)
}

fn no_tcp_ao(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(libc::ENOPROTOOPT) {
        io::Error::new(
            io::ErrorKind::Unsupported,
            "this kernel has no TCP-AO (it needs Linux 6.7 with CONFIG_TCP_AO), and without it nothing is sent",
        )
    } else {
        error
    }
}

/// The octets of a key, in the kernel's fixed room for them.
fn key_octets(secret: &Secret) -> ([u8; MAX_SECRET_LEN], u8) {
    let mut octets = [0; MAX_SECRET_LEN];
    for (to, from) in octets.iter_mut().zip(secret.expose()) {
        *to = *from;
    }
    let length = secret.expose().len().min(MAX_SECRET_LEN);
    (octets, u8::try_from(length).unwrap_or(0))
}

fn ao_add(peers: Prefix, key: &AoKey, in_use: bool) -> AoAdd {
    let mut algorithm = [0; 64];
    for (to, from) in algorithm
        .iter_mut()
        .zip(key.algorithm.kernel_name().bytes())
    {
        *to = from;
    }
    let (octets, key_len) = key_octets(&key.secret);
    AoAdd {
        address: storage(peers),
        algorithm,
        ifindex: 0,
        flags: if in_use {
            AO_SET_CURRENT | AO_SET_RECEIVE_NEXT
        } else {
            0
        },
        reserved: 0,
        prefix_len: peers.len(),
        send_id: key.send_id,
        receive_id: key.receive_id,
        mac_len: AO_MAC_LEN,
        key_flags: if key.sign_options {
            0
        } else {
            TCP_AO_KEYF_EXCLUDE_OPT
        },
        key_len,
        key: octets,
    }
}

fn ao_delete(peers: Prefix, key: &AoKey, instead: Option<&AoKey>) -> AoDelete {
    AoDelete {
        address: storage(peers),
        ifindex: 0,
        flags: match instead {
            Some(_) => AO_SET_CURRENT | AO_SET_RECEIVE_NEXT,
            None => 0,
        },
        reserved: 0,
        prefix_len: peers.len(),
        send_id: key.send_id,
        receive_id: key.receive_id,
        current: instead.map_or(0, |key| key.send_id),
        receive_next: instead.map_or(0, |key| key.receive_id),
        key_flags: 0,
    }
}

fn add_ao(socket: &impl AsFd, peers: Prefix, key: &AoKey, in_use: bool) -> io::Result<()> {
    let add = ao_add(peers, key, in_use);
    set_option(socket, libc::IPPROTO_TCP, TCP_AO_ADD_KEY, &add).map_err(|error| {
        // Which one it is, and so whether its octets are the same, is not said.
        if error.raw_os_error() == Some(libc::EEXIST) {
            io::Error::new(
                io::ErrorKind::AlreadyExists,
                "another TCP-AO key of one of its ids is there for the same addresses",
            )
        } else {
            no_tcp_ao(error)
        }
    })
}

fn delete_ao(
    socket: &impl AsFd,
    peers: Prefix,
    key: &AoKey,
    instead: Option<&AoKey>,
) -> io::Result<()> {
    let delete = ao_delete(peers, key, instead);
    match set_option(socket, libc::IPPROTO_TCP, TCP_AO_DEL_KEY, &delete) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

fn remove_ao(
    socket: &impl AsFd,
    peers: Prefix,
    keys: &[AoKey],
    instead: Option<&AoKey>,
    role: Role,
) -> io::Result<()> {
    let instead = instead.filter(|_| role == Role::Connection);
    keys.iter()
        .try_for_each(|key| delete_ao(socket, peers, key, instead))
}

/// Asks the peer to sign with this key from here on (RFC 5925 §3.3, RNextKeyID); what we sign with follows what it asks for.
fn prefer_ao(socket: &impl AsFd, key: &AoKey) -> io::Result<()> {
    let info = AoInfo {
        flags: AO_SET_RECEIVE_NEXT,
        receive_next: key.receive_id,
        ..AoInfo::default()
    };
    set_option(socket, libc::IPPROTO_TCP, TCP_AO_INFO, &info)
}

/// The first address of a prefix as the kernel's structures carry it.
fn storage(peers: Prefix) -> libc::sockaddr_storage {
    let address = SockAddr::from(SocketAddr::new(peers.addr(), 0));
    // SAFETY: `sockaddr_storage` is plain integers, for which all zeroes is a value.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    // SAFETY: the source is `address.len()` octets of a socket address, never longer than the storage it is copied into, and
    // the two do not overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(
            address.as_ptr().cast::<u8>(),
            std::ptr::from_mut(&mut storage).cast::<u8>(),
            (address.len() as usize).min(size_of::<libc::sockaddr_storage>()),
        );
    }
    storage
}

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

/// Sets or, with no key, removes the TCP-MD5 key for every peer in `peers` (RFC 2385). On a listener the longest matching
/// prefix counts. Segments without the right signature are dropped by the kernel without a word.
///
/// # Errors
/// What the kernel says: a kernel without TCP-MD5 has no such option. Removing a key that is not there is no error.
fn set_md5(socket: &impl AsFd, peers: Prefix, key: Option<&Secret>) -> io::Result<()> {
    let full = if peers.addr().is_ipv4() { 32 } else { 128 };
    let prefix_len = peers.len();
    let mut signature = Md5Signature {
        address: storage(peers),
        flags: if prefix_len < full {
            TCP_MD5SIG_FLAG_PREFIX
        } else {
            0
        },
        prefix_len: if prefix_len < full { prefix_len } else { 0 },
        key_len: 0,
        // Only a VRF's would be taken, and without one a key holds in every VRF the socket is in.
        ifindex: 0,
        key: [0; MAX_SECRET_LEN],
    };
    if let Some(secret) = key {
        let (octets, length) = key_octets(secret);
        signature.key = octets;
        signature.key_len = u16::from(length);
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
        set_minimum_ttl(socket, ipv6, minimum_ttl(hops))?;
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
    use crate::speaker::config::Remote;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text).expect("a usable key")
    }

    /// A listener whose peers in `peers` must sign, and its address.
    fn signed_listener(peers: &[(&str, &str)]) -> (TcpListener, SocketAddr) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let socket = listener(&address.into()).expect("a socket");
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

    fn ao_key(send_id: u8, receive_id: u8) -> AoKey {
        AoKey {
            send_id,
            receive_id,
            algorithm: AoAlgorithm::CmacAes128,
            secret: secret("sesame"),
            sign_options: false,
        }
    }

    /// The octets the kernel would read.
    fn octets<T>(value: &T) -> Vec<u8> {
        let start = std::ptr::from_ref(value).cast::<u8>();
        // SAFETY: a plain value without padding, read within its size while it is borrowed.
        unsafe { std::slice::from_raw_parts(start, size_of::<T>()) }.to_vec()
    }

    #[test]
    fn a_tcp_ao_key_is_laid_out_as_the_kernel_reads_it() {
        let octets = octets(&ao_add(prefix("192.0.2.0/24"), &ao_key(7, 8), true));
        let native = |value: u16| value.to_ne_bytes();
        assert_eq!(octets[0..2], native(2), "AF_INET");
        assert_eq!(octets[4..8], [192, 0, 2, 0]);
        assert_eq!(octets[128..141], *b"cmac(aes128)\0");
        assert_eq!(octets[192..196], [0; 4], "no interface");
        assert_eq!(octets[196..200], 3_u32.to_ne_bytes(), "current and rnext");
        assert_eq!(octets[200..202], [0; 2], "reserved");
        // Prefix, send id, receive id, MAC length, flags (options excluded), key length.
        assert_eq!(octets[202..208], [24, 7, 8, 12, 2, 6]);
        assert_eq!(octets[208..215], *b"sesame\0");
        assert_eq!(octets.len(), 288);
    }

    #[test]
    fn a_removed_tcp_ao_key_names_the_one_that_takes_its_place() {
        let (old, new) = (ao_key(7, 8), ao_key(9, 10));
        let octets = octets(&ao_delete(prefix("2001:db8::1/128"), &old, Some(&new)));
        assert_eq!(octets[0..2], 10_u16.to_ne_bytes(), "AF_INET6");
        assert_eq!(octets[128..132], [0; 4], "no interface");
        assert_eq!(octets[132..136], 3_u32.to_ne_bytes(), "current and rnext");
        // Reserved, prefix, send id, receive id, current, rnext, flags.
        assert_eq!(octets[136..144], [0, 0, 128, 7, 8, 9, 10, 0]);
    }

    /// What the kernel would tell of a key.
    fn told(key: &AoKey) -> AoGet {
        let (octets, key_len) = key_octets(&key.secret);
        // SAFETY: plain integers and arrays of them, for which all zeroes is a value.
        let empty: AoGet = unsafe { mem::zeroed() };
        AoGet {
            key: octets,
            send_id: key.send_id,
            receive_id: key.receive_id,
            key_flags: if key.sign_options {
                0
            } else {
                TCP_AO_KEYF_EXCLUDE_OPT
            },
            key_len,
            ..empty
        }
    }

    #[test]
    fn a_connection_is_taken_with_the_keys_of_its_peer_only() {
        let hmac = |id, text: &str| AoKey {
            algorithm: AoAlgorithm::HmacSha1,
            secret: secret(text),
            sign_options: true,
            ..ao_key(id, id)
        };
        let wanted = [hmac(1, "one"), hmac(2, "two")];
        assert!(are_keys(&wanted.clone().map(|key| told(&key)), &wanted));
        for wrong in [
            vec![],
            vec![hmac(1, "one")],
            vec![hmac(1, "one"), hmac(2, "other")],
            vec![hmac(1, "one"), hmac(3, "two")],
            vec![hmac(1, "one"), hmac(2, "two"), hmac(3, "three")],
            vec![
                hmac(1, "one"),
                AoKey {
                    sign_options: false,
                    ..hmac(2, "two")
                },
            ],
        ] {
            let found: Vec<AoGet> = wrong.iter().map(told).collect();
            assert!(!are_keys(&found, &wanted), "{wrong:?}");
        }
        // The octets of a CMAC key are not those it was given.
        let mut derived = told(&ao_key(7, 8));
        (derived.key, derived.key_len) = ([1; MAX_SECRET_LEN], 16);
        assert!(are_keys(&[derived], &[ao_key(7, 8)]));
    }

    #[test]
    fn the_keys_of_a_connection_are_asked_for_as_the_kernel_reads_it() {
        let mut ask = told(&ao_key(7, 8));
        (ask.count, ask.flags, ask.ifindex) = (2, AO_GET_ALL, 3);
        (ask.prefix_len, ask.mac_len, ask.good, ask.bad) = (24, 12, 4, 5);
        let octets = octets(&ask);
        assert_eq!(octets[192..199], *b"sesame\0");
        assert_eq!(octets[272..276], 2_u32.to_ne_bytes());
        // The bit fields of a `__u16` begin at its lowest bit, or its highest where the first octet has that.
        let all = if cfg!(target_endian = "big") {
            [0x20, 0]
        } else {
            [4, 0]
        };
        assert_eq!(octets[276..278], all);
        // Send id, receive id, prefix, MAC length, flags, key length.
        assert_eq!(octets[278..284], [7, 8, 24, 12, 2, 6]);
        assert_eq!(octets[284..288], 3_i32.to_ne_bytes());
        assert_eq!(octets[288..296], 4_u64.to_ne_bytes());
        assert_eq!(octets[296..304], 5_u64.to_ne_bytes());
    }

    #[tokio::test]
    async fn a_connection_without_tcp_ao_is_no_connection_of_a_peer_that_has_it() {
        let (listener, address) = signed_listener(&[]);
        let _dialled = dial(&peer_config(None, [127, 0, 0, 2]), address).await;
        let (stream, remote) = listener.accept().await.expect("accepted");
        let signature = Signature::Ao(vec![ao_key(1, 1)]);
        // Whether the kernel has no TCP-AO or the connection has none, it is refused.
        assert!(adopt(&stream, Prefix::host(remote.ip()), &signature).is_err());
    }

    #[test]
    fn tcp_ao_is_had_or_refused_with_the_reason() {
        let mut config = peer_config(None, [127, 0, 0, 2]);
        config.tcp_ao = vec![ao_key(1, 1)];
        config.tcp_ao[0].algorithm = AoAlgorithm::HmacSha1;
        if let Err(error) = dialler(&config, (Ipv4Addr::LOCALHOST, 179).into()) {
            // This kernel may have it or not; there is no third answer and never an unprotected socket.
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
            assert!(error.to_string().contains("CONFIG_TCP_AO"), "{error}");
        }
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
}
