//! Who may sign: TCP-MD5 (RFC 2385) and TCP-AO (RFC 5925) keys of a socket, and how they are exchanged under a connection.
//!
//! The kernel signs and checks; what stands here are its structures, laid out as it reads them, and the order in which keys come
//! and go so that no segment is unprotected in between.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::set_option;
use crate::prefix::Prefix;
use crate::speaker::config::{AoAlgorithm, AoKey, MAX_SECRET_LEN, PeerConfig, Remote, Secret};

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
pub(in crate::transport) enum Signature {
    /// Not at all.
    #[default]
    None,
    /// TCP-MD5 (RFC 2385).
    Md5(Secret),
    /// TCP-AO (RFC 5925); the first key is the one we want used.
    Ao(Vec<AoKey>),
}

impl Signature {
    pub(in crate::transport) fn of(config: &PeerConfig) -> Self {
        match &config.password {
            Some(secret) => Self::Md5(secret.clone()),
            None if config.tcp_ao.is_empty() => Self::None,
            None => Self::Ao(config.tcp_ao.clone()),
        }
    }

    /// For whom the keys of a connection with `remote` are set, which inherited those for `inherited` when it was accepted: of
    /// TCP-AO as they were set on the listener, of TCP-MD5 for the address alone.
    pub(in crate::transport) fn set_for(
        &self,
        remote: IpAddr,
        inherited: Option<Prefix>,
    ) -> Prefix {
        match (self, inherited) {
            (Self::Ao(_), Some(inherited)) => inherited,
            (Self::Ao(_), None) | (Self::None | Self::Md5(_), _) => Prefix::host(remote),
        }
    }

    /// How many keys of the kernel's it is.
    pub(in crate::transport) fn count(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Md5(_) => 1,
            Self::Ao(keys) => keys.len(),
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
pub(in crate::transport) enum Role {
    /// It listens: its children inherit keys, none of which is in use.
    Listener,
    /// It has, or is about to have, one peer.
    Connection,
}

/// What holds keys: a socket, or a test's model of one.
trait Keyed {
    fn md5(&self, peers: Prefix, key: Option<&Secret>) -> io::Result<()>;
    fn add(&self, key: &AoAdd) -> io::Result<()>;
    fn delete(&self, key: &AoDelete) -> io::Result<()>;
    fn inform(&self, info: &AoInfo) -> io::Result<()>;
}

impl<S: AsFd> Keyed for S {
    fn md5(&self, peers: Prefix, key: Option<&Secret>) -> io::Result<()> {
        set_md5(self, peers, key)
    }

    fn add(&self, key: &AoAdd) -> io::Result<()> {
        set_option(self, libc::IPPROTO_TCP, TCP_AO_ADD_KEY, key)
    }

    fn delete(&self, key: &AoDelete) -> io::Result<()> {
        set_option(self, libc::IPPROTO_TCP, TCP_AO_DEL_KEY, key)
    }

    fn inform(&self, info: &AoInfo) -> io::Result<()> {
        set_option(self, libc::IPPROTO_TCP, TCP_AO_INFO, info)
    }
}

/// Brings the keys of a socket for `peers` from what was set to what is wanted. Between both, no segment goes unsigned: new keys
/// come before old ones go. A connection goes on: both ends converge by retransmission (TCP-MD5) or by the key identifiers in
/// each segment (TCP-AO).
///
/// A key of TCP-AO goes by the prefix it was set for: that of a caller from a range is the range's, which its connection
/// inherited. A password is inherited for the caller's address alone.
///
/// # Errors
/// What the kernel says; [`io::ErrorKind::Unsupported`] where it has no such signature.
pub(in crate::transport) fn sign(
    socket: &impl AsFd,
    peers: Prefix,
    from: &Signature,
    to: &Signature,
    role: Role,
) -> io::Result<()> {
    exchange(socket, peers, from, to, role)
}

fn exchange(
    socket: &impl Keyed,
    peers: Prefix,
    from: &Signature,
    to: &Signature,
    role: Role,
) -> io::Result<()> {
    if matches!(from, Signature::Md5(_)) && !matches!(to, Signature::Md5(_)) {
        socket.md5(peers, None)?;
    }
    match to {
        Signature::Md5(_) if from == to => Ok(()),
        Signature::Md5(secret) => {
            remove_ao(socket, peers, from.ao(), None)?;
            socket.md5(peers, Some(secret))
        }
        Signature::Ao(keys) => roll_over(socket, peers, from.ao(), keys, role),
        Signature::None => remove_ao(socket, peers, from.ao(), None),
    }
}

/// Exchanges TCP-AO keys (RFC 5925 §7): the new ones are added, the first of them is asked for, and the old ones go.
fn roll_over(
    socket: &impl Keyed,
    peers: Prefix,
    from: &[AoKey],
    to: &[AoKey],
    role: Role,
) -> io::Result<()> {
    let clash = |one: &AoKey, other: &AoKey| {
        one.send_id == other.send_id || one.receive_id == other.receive_id
    };
    let mut held = from.to_vec();
    // The kernel takes no second key of the same ids, so one whose octets changed has to go before its successor comes, and
    // none goes that is in use: what can be added at once is, and is used meanwhile.
    let (barred, free): (Vec<&AoKey>, Vec<&AoKey>) = to
        .iter()
        .filter(|key| !from.contains(key))
        .partition(|key| from.iter().any(|old| clash(old, key)));
    for key in free.into_iter().chain(barred) {
        let bars = |old: &AoKey| clash(old, key);
        for old in held.iter().filter(|old| bars(old)) {
            let stays = to.iter().find(|key| held.contains(key) && !bars(key));
            delete_ao(
                socket,
                peers,
                old,
                stays.filter(|_| role == Role::Connection),
            )?;
        }
        held.retain(|old| !bars(old));
        let starts = from.is_empty() && role == Role::Connection && to.first() == Some(key);
        add_ao(socket, peers, key, starts)?;
        held.push(key.clone());
    }
    let first = to.first().filter(|_| role == Role::Connection);
    if let (Some(first), false) = (first, from.is_empty()) {
        prefer_ao(socket, first)?;
    }
    held.retain(|old| !to.contains(old));
    remove_ao(socket, peers, &held, first)
}

/// Whether the kernel takes the keys that a peer is configured with.
///
/// # Errors
/// What the kernel says; [`io::ErrorKind::Unsupported`] where it has no such signature.
pub(in crate::transport) fn try_keys(config: &PeerConfig) -> io::Result<()> {
    let signature = Signature::of(config);
    let peers = match config.remote {
        _ if signature == Signature::None => return Ok(()),
        Remote::Address(address) => Prefix::host(address.ip()),
        Remote::Range(prefix) => prefix,
        Remote::Unnumbered(_) => Prefix::host(Ipv6Addr::LOCALHOST.into()),
    };
    let domain = if peers.addr().is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    sign(
        &socket,
        peers,
        &Signature::None,
        &signature,
        Role::Connection,
    )
}

/// Gives an accepted connection the keys of its peer. It has those that its listener had when the first segment came, which may
/// have been others.
///
/// # Errors
/// What the kernel says, or that its segments are signed with other TCP-AO keys: those in use cannot be exchanged for others of
/// the same ids, so it has to be made anew.
pub(in crate::transport) fn adopt(
    stream: &impl AsFd,
    peer: Prefix,
    signature: &Signature,
) -> io::Result<()> {
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
            && is_algorithm(&found.algorithm, key.algorithm)
            && signs_options == key.sign_options
            && (derived || (found.key_len, found.key) == (length, octets))
    };
    found.len() == wanted.len()
        && wanted
            .iter()
            .all(|key| found.iter().any(|found| is(found, key)))
}

/// Whether the kernel's name of an algorithm is one of it. It tells the name of what it uses, which of the CMAC it was asked for is
/// a part.
fn is_algorithm(name: &[u8; 64], algorithm: AoAlgorithm) -> bool {
    let name = name.split(|octet| *octet == 0).next().unwrap_or_default();
    name == algorithm.kernel_name().as_bytes()
        || algorithm == AoAlgorithm::CmacAes128 && name == b"cmac(aes)"
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

fn add_ao(socket: &impl Keyed, peers: Prefix, key: &AoKey, in_use: bool) -> io::Result<()> {
    let add = ao_add(peers, key, in_use);
    socket.add(&add).map_err(|error| {
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
    socket: &impl Keyed,
    peers: Prefix,
    key: &AoKey,
    instead: Option<&AoKey>,
) -> io::Result<()> {
    let delete = ao_delete(peers, key, instead);
    match socket.delete(&delete) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "a TCP-AO key in use cannot be exchanged for another of its ids: a new sendId and receiveId beside it, or the old \
             key until the connection is made anew",
        )),
        result => result,
    }
}

fn remove_ao(
    socket: &impl Keyed,
    peers: Prefix,
    keys: &[AoKey],
    instead: Option<&AoKey>,
) -> io::Result<()> {
    keys.iter()
        .try_for_each(|key| delete_ao(socket, peers, key, instead))
}

/// Asks the peer to sign with this key from here on (RFC 5925 §3.3, RNextKeyID); what we sign with follows what it asks for.
fn prefer_ao(socket: &impl Keyed, key: &AoKey) -> io::Result<()> {
    let info = AoInfo {
        flags: AO_SET_RECEIVE_NEXT,
        receive_next: key.receive_id,
        ..AoInfo::default()
    };
    socket.inform(&info)
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

#[cfg(test)]
mod tests;
