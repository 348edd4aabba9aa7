//! Who may sign: TCP-MD5 (RFC 2385) and TCP-AO (RFC 5925) keys of a socket, and how they are exchanged under a connection.
//!
//! The kernel signs and checks; what stands here are its structures, laid out as it reads them, and the order in which keys come
//! and go so that no segment is unprotected in between.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use socket2::SockAddr;

use super::set_option;
use crate::prefix::Prefix;
use crate::speaker::config::{AoAlgorithm, AoKey, MAX_SECRET_LEN, PeerConfig, Secret};

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

/// Brings the keys of a socket for `peers` from what was set to what is wanted. Between both, no segment goes unsigned: new keys
/// come before old ones go. A connection goes on: both ends converge by retransmission (TCP-MD5) or by the key identifiers in
/// each segment (TCP-AO).
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
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::super::dialler;
    use super::super::tests::{dial, peer_config, prefix, secret, signed_listener};
    use super::*;

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
}
