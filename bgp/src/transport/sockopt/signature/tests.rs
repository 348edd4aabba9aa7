//! Keys on sockets of this kernel, and on a model of one that has TCP-AO.

use std::cell::{Cell, RefCell};
use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr};

use linux_raw_sys::net;

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
    let name = match key.algorithm {
        AoAlgorithm::CmacAes128 => "cmac(aes)",
        AoAlgorithm::HmacSha1 | AoAlgorithm::HmacSha256 => key.algorithm.kernel_name(),
    };
    let mut algorithm = [0; 64];
    algorithm[..name.len()].copy_from_slice(name.as_bytes());
    AoGet {
        algorithm,
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
        vec![
            hmac(1, "one"),
            AoKey {
                algorithm: AoAlgorithm::HmacSha256,
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

/// A key that a [`Model`] holds.
struct Held {
    address: [u8; 4],
    length: u8,
    send_id: u8,
    receive_id: u8,
    secret: Vec<u8>,
}

/// A socket as the kernel's rules for TCP-AO have it.
#[derive(Default)]
struct Model {
    listens: bool,
    keys: RefCell<Vec<Held>>,
    current: Cell<Option<u8>>,
    receive_next: Cell<Option<u8>>,
}

fn errno(code: libc::c_int) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(code))
}

fn network(address: &libc::sockaddr_storage) -> [u8; 4] {
    octets(address)[4..8].try_into().expect("four octets")
}

impl Model {
    /// An accepted connection with the key of its listener.
    fn accepted(peers: &str, key: &AoKey) -> Self {
        let model = Self::default();
        add_ao(&model, prefix(peers), key, true).expect("the first key");
        model
    }

    fn listener(peers: &str, key: &AoKey) -> Self {
        let model = Self {
            listens: true,
            ..Self::default()
        };
        add_ao(&model, prefix(peers), key, false).expect("the first key");
        model
    }

    /// Takes over keys where a call names such: by id of what is sent, by id of what is received.
    fn switch(&self, flags: u32, current: u8, receive_next: u8) -> io::Result<()> {
        if flags != 0 && self.listens {
            return errno(libc::EINVAL);
        }
        let keys = self.keys.borrow();
        if flags & AO_SET_CURRENT != 0 {
            if !keys.iter().any(|key| key.send_id == current) {
                return errno(libc::ENOENT);
            }
            self.current.set(Some(current));
        }
        if flags & AO_SET_RECEIVE_NEXT != 0 {
            if !keys.iter().any(|key| key.receive_id == receive_next) {
                return errno(libc::ENOENT);
            }
            self.receive_next.set(Some(receive_next));
        }
        Ok(())
    }

    /// Ids of what it holds, in order; what it sends with; what it asks for.
    fn held(&self) -> (Vec<u8>, Option<u8>, Option<u8>) {
        let mut ids: Vec<u8> = self.keys.borrow().iter().map(|key| key.send_id).collect();
        ids.sort_unstable();
        (ids, self.current.get(), self.receive_next.get())
    }
}

impl Keyed for Model {
    fn md5(&self, _: Prefix, _: Option<&Secret>) -> io::Result<()> {
        panic!("no password here")
    }

    fn add(&self, key: &AoAdd) -> io::Result<()> {
        let (address, length) = (network(&key.address), key.prefix_len);
        let overlaps = |other: &Held| {
            let bits = u32::from(length.min(other.length));
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            (u32::from_be_bytes(address) ^ u32::from_be_bytes(other.address)) & mask == 0
        };
        let taken = |other: &Held| {
            overlaps(other) && (other.send_id == key.send_id || other.receive_id == key.receive_id)
        };
        if self.keys.borrow().iter().any(taken) {
            return errno(libc::EEXIST);
        }
        let secret = key.key[..usize::from(key.key_len)].to_vec();
        self.keys.borrow_mut().push(Held {
            address,
            length,
            send_id: key.send_id,
            receive_id: key.receive_id,
            secret,
        });
        self.switch(key.flags, key.send_id, key.receive_id)
    }

    fn delete(&self, key: &AoDelete) -> io::Result<()> {
        let is = |other: &Held| {
            (other.address, other.length) == (network(&key.address), key.prefix_len)
                && (other.send_id, other.receive_id) == (key.send_id, key.receive_id)
        };
        if !self.keys.borrow().iter().any(is) {
            return errno(libc::ENOENT);
        }
        self.switch(key.flags, key.current, key.receive_next)?;
        if self.current.get() == Some(key.send_id)
            || self.receive_next.get() == Some(key.receive_id)
        {
            return errno(libc::EBUSY);
        }
        self.keys.borrow_mut().retain(|other| !is(other));
        Ok(())
    }

    fn inform(&self, info: &AoInfo) -> io::Result<()> {
        self.switch(info.flags, info.current, info.receive_next)
    }
}

const RANGE: &str = "192.0.2.0/24";

fn ao(keys: &[AoKey]) -> Signature {
    Signature::Ao(keys.to_vec())
}

fn exchanged(model: &Model, peers: Prefix, from: &[AoKey], to: &[AoKey]) -> io::Result<()> {
    exchange(model, peers, &ao(from), &ao(to), Role::Connection)
}

#[test]
fn the_key_of_a_range_is_exchanged_under_a_caller_from_it() {
    let (old, new) = ([ao_key(1, 1)], [ao_key(2, 2)]);
    let model = Model::accepted(RANGE, &old[0]);
    let caller = "192.0.2.7".parse().expect("an address");
    let inherited = ao(&new).set_for(caller, Some(prefix(RANGE)));
    exchanged(&model, inherited, &old, &new).expect("exchanged");
    assert_eq!(model.held(), (vec![2], Some(2), Some(2)));
    assert_eq!(ao(&new).set_for(caller, None), Prefix::host(caller));
    let password = Signature::Md5(secret("word"));
    let inherited = password.set_for(caller, Some(prefix(RANGE)));
    assert_eq!(inherited, Prefix::host(caller), "as the kernel inherits it");
}

#[test]
fn a_listener_s_keys_are_exchanged_without_one_in_use() {
    let (old, new) = ([ao_key(1, 1)], [ao_key(1, 2), ao_key(3, 3)]);
    let model = Model::listener(RANGE, &old[0]);
    let (from, to) = (ao(&old), ao(&new));
    exchange(&model, prefix(RANGE), &from, &to, Role::Listener).expect("exchanged");
    assert_eq!(model.held(), (vec![1, 3], None, None));
    exchange(&model, prefix(RANGE), &to, &Signature::None, Role::Listener).expect("removed");
    assert_eq!(model.held(), (vec![], None, None));
}

#[test]
fn another_key_is_in_use_while_one_of_the_same_ids_comes() {
    let old = [ao_key(1, 1)];
    let changed = AoKey {
        secret: secret("open"),
        ..ao_key(1, 1)
    };
    let model = Model::accepted(RANGE, &old[0]);
    let new = [changed, ao_key(2, 2)];
    exchanged(&model, prefix(RANGE), &old, &new).expect("by way of the second key");
    assert_eq!(model.held(), (vec![1, 2], Some(2), Some(1)));
    let octets = |id| {
        let keys = model.keys.borrow();
        keys.iter()
            .find(|key| key.send_id == id)
            .map(|key| key.secret.clone())
    };
    assert_eq!(octets(1), Some(b"open".to_vec()));
}

#[test]
fn a_key_in_use_stays_where_nothing_can_take_its_place() {
    let old = [ao_key(1, 1)];
    let changed = [AoKey {
        secret: secret("open"),
        ..ao_key(1, 1)
    }];
    let model = Model::accepted(RANGE, &old[0]);
    let error = exchanged(&model, prefix(RANGE), &old, &changed).expect_err("in use");
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    assert!(error.to_string().contains("a new sendId"), "{error}");
    assert_eq!(model.held(), (vec![1], Some(1), Some(1)), "it goes on");
}

#[test]
fn a_socket_that_is_to_dial_signs_with_the_first_key() {
    let model = Model::default();
    let to = ao(&[ao_key(1, 11), ao_key(2, 12)]);
    let peer = prefix("192.0.2.7/32");
    exchange(&model, peer, &Signature::None, &to, Role::Connection).expect("set");
    assert_eq!(model.held(), (vec![1, 2], Some(1), Some(11)));
}

/// The published headers have the last word.
#[test]
fn the_structures_are_those_of_the_kernel_s_headers() {
    macro_rules! same {
        ($ours:ty, $theirs:ty: $($field:ident = $name:ident),+) => {
            assert_eq!(size_of::<$ours>(), size_of::<$theirs>());
            $(assert_eq!(offset_of!($ours, $field), offset_of!($theirs, $name), stringify!($name));)+
        };
    }
    same!(AoAdd, net::tcp_ao_add: address = addr, algorithm = alg_name, ifindex = ifindex, flags = _bitfield_1,
        prefix_len = prefix, send_id = sndid, receive_id = rcvid, mac_len = maclen, key_flags = keyflags, key_len = keylen, key = key);
    same!(AoDelete, net::tcp_ao_del: address = addr, ifindex = ifindex, flags = _bitfield_1, prefix_len = prefix,
        send_id = sndid, receive_id = rcvid, current = current_key, receive_next = rnext, key_flags = keyflags);
    same!(AoInfo, net::tcp_ao_info_opt: flags = _bitfield_1, current = current_key, receive_next = rnext, counters = pkt_good);
    same!(AoGet, net::tcp_ao_getsockopt: address = addr, algorithm = alg_name, key = key, count = nkeys, flags = _bitfield_1,
        send_id = sndid, receive_id = rcvid, prefix_len = prefix, mac_len = maclen, key_flags = keyflags, key_len = keylen,
        ifindex = ifindex, good = pkt_good, bad = pkt_bad);
    let constants = [
        (TCP_AO_ADD_KEY, net::TCP_AO_ADD_KEY),
        (TCP_AO_DEL_KEY, net::TCP_AO_DEL_KEY),
        (TCP_AO_INFO, net::TCP_AO_INFO),
        (TCP_AO_GET_KEYS, net::TCP_AO_GET_KEYS),
        (TCP_AO_KEYF_EXCLUDE_OPT.into(), net::TCP_AO_KEYF_EXCLUDE_OPT),
    ];
    for (ours, theirs) in constants {
        assert_eq!(u32::try_from(ours), Ok(theirs));
    }
    let fields = net::__BindgenBitfieldUnit::new;
    let (current, next) = (AO_SET_CURRENT, AO_SET_RECEIVE_NEXT);
    for (ours, theirs) in [
        (current, net::tcp_ao_add::new_bitfield_1(1, 0, 0)),
        (next, net::tcp_ao_add::new_bitfield_1(0, 1, 0)),
        (current, net::tcp_ao_del::new_bitfield_1(1, 0, 0, 0)),
        (next, net::tcp_ao_del::new_bitfield_1(0, 1, 0, 0)),
        (next, net::tcp_ao_info_opt::new_bitfield_1(0, 1, 0, 0, 0, 0)),
    ] {
        assert_eq!(fields(ours.to_ne_bytes()), theirs);
    }
    let all = net::tcp_ao_getsockopt::new_bitfield_1(0, 0, 1, 0);
    assert_eq!(
        net::__BindgenBitfieldUnit::new(AO_GET_ALL.to_ne_bytes()),
        all
    );
}
