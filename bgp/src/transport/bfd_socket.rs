//! Datagram sockets as BFD wants them: TTL 255 out, the TTL seen in, many datagrams with one call.
//!
//! Beside the room of `sockopt.rs` and `scheduling.rs` the only file with `unsafe`: receiving with ancillary data and waiting with a
//! timeout finer than a millisecond have no safe wrapper among our dependencies. Each block passes pointers to plain values
//! that outlive the call, with their exact sizes.

#![expect(
    unsafe_code,
    reason = "recvmmsg and ppoll have no safe wrapper, see above"
)]

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::sockopt::{TRAFFIC_CLASS, set_option};
use crate::bfd::{Arrival, SINGLE_HOP_PORT, SessionConfig};

/// Datagrams taken with one call.
const BATCH: usize = 64;
/// Octets kept of a datagram: the longest packet with authentication has 52.
const DATAGRAM: usize = 64;
/// Octets of ancillary data: a packet's TTL and destination need 56 at most.
const CONTROL: usize = 128;
/// Source ports of sessions (RFC 5881 §4).
pub(super) const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;
/// Octets of packets the kernel keeps for us: as many as thousands of sessions send while we are held up for a moment.
const RECEIVE_BUFFER: libc::c_int = 4 << 20;

/// Where a listening socket is bound: to one address of ours, or to all of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    address: IpAddr,
    scope: u32,
    port: u16,
}

impl Place {
    pub(super) const fn of(config: &SessionConfig) -> Self {
        let address = match (config.local, config.remote) {
            (Some(local), _) => local,
            (None, IpAddr::V4(_)) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            (None, IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self {
            address,
            scope: scope_of(address, config.scope),
            port: config.port(),
        }
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// It is for every address of its family.
    pub(super) const fn is_general(&self) -> bool {
        self.address.is_unspecified()
    }

    /// A socket here hears all that one at the other place would.
    pub(super) const fn covers(&self, other: &Self) -> bool {
        self.is_general()
            && !other.is_general()
            && self.port == other.port
            && self.address.is_ipv4() == other.address.is_ipv4()
    }

    const fn socket_address(&self) -> SocketAddr {
        socket_address(self.address, self.port, self.scope)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.socket_address())
    }
}

/// Only link-local addresses have a scope: the kernel would take one of others for a wish to bind to an interface.
const fn scope_of(address: IpAddr, scope: u32) -> u32 {
    match address {
        IpAddr::V6(address) if address.is_unicast_link_local() => scope,
        IpAddr::V4(_) | IpAddr::V6(_) => 0,
    }
}

const fn socket_address(address: IpAddr, port: u16, scope: u32) -> SocketAddr {
    match address {
        IpAddr::V4(address) => SocketAddr::V4(std::net::SocketAddrV4::new(address, port)),
        IpAddr::V6(address) => SocketAddr::V6(std::net::SocketAddrV6::new(address, port, 0, scope)),
    }
}

/// Where the packets of a session go to.
pub(super) const fn destination(config: &SessionConfig) -> SocketAddr {
    socket_address(
        config.remote,
        config.port(),
        scope_of(config.remote, config.scope),
    )
}

fn datagram_socket(ipv6: bool) -> io::Result<Socket> {
    let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if ipv6 {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    Ok(socket)
}

/// A socket that hears packets and with each its TTL, its destination and the interface it came by.
///
/// # Errors
/// What the kernel says: another BFD daemon has the port.
pub(super) fn listener(place: Place) -> io::Result<Socket> {
    let ipv6 = place.address.is_ipv6();
    let socket = datagram_socket(ipv6)?;
    let on: libc::c_int = 1;
    if ipv6 {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, &on)?;
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &on)?;
    } else {
        set_option(&socket, libc::IPPROTO_IP, libc::IP_RECVTTL, &on)?;
        set_option(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, &on)?;
    }
    if place.port == SINGLE_HOP_PORT {
        // Where this is not possible every packet costs this process a look, and that is all it costs.
        drop(socket.attach_filter(&from_next_door(ipv6)));
    }
    // Beyond the system's limit only with the privilege for it; without, what the limit allows.
    if set_option(
        &socket,
        libc::SOL_SOCKET,
        libc::SO_RCVBUFFORCE,
        &RECEIVE_BUFFER,
    )
    .is_err()
    {
        set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &RECEIVE_BUFFER)?;
    }
    socket.bind(&place.socket_address().into())?;
    Ok(socket)
}

/// A filter that passes what no router passed on (RFC 5881 §5), so that a flood from beyond the link ends in the kernel and not
/// in a thread that goes before all others. It counts as an error of UDP there (`nstat UdpInErrors`).
fn from_next_door(ipv6: bool) -> [SockFilter; 4] {
    // The octet of the TTL or hop limit, counted from where the kernel keeps the IP header.
    let ttl = (libc::SKF_NET_OFF + if ipv6 { 7 } else { 8 }).cast_unsigned();
    let code = |code: u32| u16::try_from(code).unwrap_or(0);
    [
        SockFilter::new(code(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS), 0, 0, ttl),
        SockFilter::new(
            code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K),
            0,
            1,
            u32::from(u8::MAX),
        ),
        SockFilter::new(code(libc::BPF_RET | libc::BPF_K), 0, 0, u32::MAX),
        SockFilter::new(code(libc::BPF_RET | libc::BPF_K), 0, 0, 0),
    ]
}

/// A socket that sends the packets of one session, from a port of its own.
///
/// # Errors
/// What the kernel says; the address in use where another session has the port.
pub(super) fn sender(config: &SessionConfig, source_port: u16) -> io::Result<Socket> {
    let ipv6 = config.remote.is_ipv6();
    let socket = datagram_socket(ipv6)?;
    let ttl = u32::from(u8::MAX);
    if ipv6 {
        socket.set_unicast_hops_v6(ttl)?;
        socket.set_tclass_v6(TRAFFIC_CLASS)?;
    } else {
        socket.set_ttl_v4(ttl)?;
        socket.set_tos_v4(TRAFFIC_CLASS)?;
    }
    // Nothing is read from it: what strangers send there must not fill memory.
    socket.set_recv_buffer_size(1)?;
    let from = Place::of(config);
    let from = socket_address(from.address, source_port, from.scope);
    socket.bind(&from.into())?;
    Ok(socket)
}

/// Aligned as the headers in it are.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

#[derive(Clone, Copy)]
struct Slot {
    from: libc::sockaddr_storage,
    control: Control,
    octets: [u8; DATAGRAM],
}

/// Room for the datagrams of one call.
pub(super) struct Batch {
    slots: Box<[Slot]>,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").finish_non_exhaustive()
    }
}

impl Batch {
    pub(super) fn new() -> Self {
        let slot = Slot {
            // SAFETY: `sockaddr_storage` is plain integers, for which all zeroes is a value.
            from: unsafe { mem::zeroed() },
            control: Control([0; CONTROL]),
            octets: [0; DATAGRAM],
        };
        Self {
            slots: vec![slot; BATCH].into_boxed_slice(),
        }
    }

    /// Takes what waits on `socket` and hands each datagram to `take`. True where more may wait.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn receive(
        &mut self,
        socket: &Socket,
        multihop: bool,
        mut take: impl FnMut(&Arrival, &[u8]),
    ) -> io::Result<bool> {
        let mut vectors: Vec<libc::iovec> = Vec::with_capacity(BATCH);
        let mut headers: Vec<libc::mmsghdr> = Vec::with_capacity(BATCH);
        for slot in &mut self.slots {
            vectors.push(libc::iovec {
                iov_base: slot.octets.as_mut_ptr().cast(),
                iov_len: DATAGRAM,
            });
        }
        for (slot, vector) in self.slots.iter_mut().zip(&mut vectors) {
            // SAFETY: `mmsghdr` is integers and pointers, for which all zeroes is a value.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            header.msg_hdr.msg_name = std::ptr::from_mut(&mut slot.from).cast();
            header.msg_hdr.msg_namelen =
                libc::socklen_t::try_from(size_of::<libc::sockaddr_storage>())
                    .map_err(io::Error::other)?;
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = slot.control.0.as_mut_ptr().cast();
            // Its type differs between C libraries.
            header.msg_hdr.msg_controllen = CONTROL as _;
            headers.push(header);
        }
        // SAFETY: each header points to a slot and a vector of its own, which live until the end of this function and are touched
        // by nobody else during the call; the count is theirs, and the descriptor is open as long as `socket` is borrowed.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                libc::c_uint::try_from(headers.len()).map_err(io::Error::other)?,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            let nothing = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
            return if nothing.contains(&error.kind()) {
                Ok(false)
            } else {
                Err(error)
            };
        };
        for (slot, header) in self.slots.iter().zip(&headers).take(count) {
            let Some(source) = address_of(&slot.from) else {
                continue;
            };
            let mut arrival = Arrival {
                source,
                destination: None,
                interface: 0,
                ttl: None,
                multihop,
            };
            read_control(&header.msg_hdr, &mut arrival);
            let length = usize::try_from(header.msg_len).unwrap_or(0);
            take(&arrival, slot.octets.get(..length).unwrap_or(&slot.octets));
        }
        Ok(count == BATCH)
    }
}

fn address_of(storage: &libc::sockaddr_storage) -> Option<IpAddr> {
    let storage = std::ptr::from_ref(storage);
    // SAFETY: the storage is larger than either address and aligned for both, and each is plain integers; the family says which
    // one the kernel wrote.
    unsafe {
        match libc::c_int::from((*storage).ss_family) {
            libc::AF_INET => {
                let address = &*storage.cast::<libc::sockaddr_in>();
                Some(IpAddr::V4(u32::from_be(address.sin_addr.s_addr).into()))
            }
            libc::AF_INET6 => {
                let address = &*storage.cast::<libc::sockaddr_in6>();
                Some(IpAddr::V6(address.sin6_addr.s6_addr.into()))
            }
            _ => None,
        }
    }
}

/// Reads TTL, destination and interface from a message's ancillary data.
fn read_control(header: &libc::msghdr, arrival: &mut Arrival) {
    // SAFETY: the header is as the kernel left it: its control pointer and length span ancillary data inside a slot that is
    // still borrowed, and the CMSG functions stay inside that. Values are read unaligned, and only where the message is long
    // enough to hold them.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            let part = &*message;
            let data = libc::CMSG_DATA(message);
            let length = (part.cmsg_len as usize)
                .saturating_sub(data.offset_from(message.cast::<u8>()).unsigned_abs());
            match (part.cmsg_level, part.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT)
                    if length >= size_of::<libc::c_int>() =>
                {
                    let ttl = data.cast::<libc::c_int>().read_unaligned();
                    arrival.ttl = u8::try_from(ttl).ok();
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) if length >= size_of::<libc::in_pktinfo>() => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    arrival.interface = u32::try_from(info.ipi_ifindex).unwrap_or(0);
                    let address = u32::from_be(info.ipi_addr.s_addr);
                    arrival.destination = Some(IpAddr::V4(address.into()));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO)
                    if length >= size_of::<libc::in6_pktinfo>() =>
                {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    arrival.interface = info.ipi6_ifindex;
                    arrival.destination = Some(IpAddr::V6(info.ipi6_addr.s6_addr.into()));
                }
                _ => {}
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
}

/// Waits until one of `descriptors` can be read, or for `timeout`; for ever where there is none. Says which can.
///
/// # Errors
/// What the kernel says. An interruption is none: nothing can be read then.
pub(super) fn wait(
    descriptors: &[BorrowedFd<'_>],
    timeout: Option<Duration>,
) -> io::Result<Vec<bool>> {
    let mut polled: Vec<libc::pollfd> = descriptors
        .iter()
        .map(|descriptor| libc::pollfd {
            fd: descriptor.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout = timeout
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref);
    let count = libc::nfds_t::try_from(polled.len()).map_err(io::Error::other)?;
    // SAFETY: the list and the timeout outlive the call, the count is the list's, and no signal mask is passed.
    let result = unsafe { libc::ppoll(polled.as_mut_ptr(), count, timeout, std::ptr::null()) };
    if result < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        return Ok(vec![false; descriptors.len()]);
    }
    Ok(polled.iter().map(|entry| entry.revents != 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(local: &str, remote: &str) -> SessionConfig {
        SessionConfig {
            remote: remote.parse().expect("an address"),
            scope: 0,
            local: Some(local.parse().expect("an address")),
            min_tx: Duration::from_millis(100),
            min_rx: Duration::from_millis(100),
            multiplier: 3,
            multihop: None,
        }
    }

    fn passes(local: &str, remote: &str, source_port: u16) {
        let (ours, theirs) = (config(local, remote), config(remote, local));
        let listening = listener(Place::of(&theirs)).expect("listens");
        let sending = sender(&ours, source_port).expect("sends");
        // What came from farther away is not even seen.
        let afar = std::net::UdpSocket::bind((ours.local.expect("set"), 0)).expect("binds");
        for ttl in [1, 64, 254] {
            let socket = socket2::SockRef::from(&afar);
            let set = match ours.remote {
                IpAddr::V4(_) => socket.set_ttl_v4(ttl),
                IpAddr::V6(_) => socket.set_unicast_hops_v6(ttl),
            };
            set.expect("set");
            afar.send_to(&[9; 24], destination(&ours)).expect("sent");
        }
        for number in 0..3 {
            sending
                .send_to(&[number; 24], &destination(&ours).into())
                .expect("sent");
        }
        wait(
            &[std::os::fd::AsFd::as_fd(&listening)],
            Some(Duration::from_secs(5)),
        )
        .expect("polls");
        let mut seen = Vec::new();
        let more = Batch::new()
            .receive(&listening, false, |arrival, octets| {
                seen.push((*arrival, octets.to_vec()));
            })
            .expect("received");
        assert!(!more);
        assert_eq!(seen.len(), 3);
        let (arrival, octets) = &seen[2];
        assert_eq!(arrival.source, ours.local.expect("set"));
        assert_eq!(arrival.destination, Some(ours.remote));
        assert_eq!(arrival.ttl, Some(255));
        assert_ne!(arrival.interface, 0);
        assert_eq!(octets[..], [2; 24]);
    }

    #[test]
    fn a_datagram_over_ipv4_comes_with_its_ttl_and_addresses() {
        passes("127.0.7.1", "127.0.7.2", 49_200);
    }

    #[test]
    fn a_datagram_over_ipv6_comes_with_its_hop_limit_and_addresses() {
        if Socket::new(Domain::IPV6, Type::DGRAM, None).is_ok() {
            passes("::1", "::1", 49_201);
        }
    }

    #[test]
    fn a_source_port_belongs_to_one_session() {
        let config = config("127.0.7.3", "127.0.7.4");
        let _first = sender(&config, 49_202).expect("free");
        let taken = sender(&config, 49_202).expect_err("taken");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn waiting_ends_with_the_timeout() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let ready = wait(
            &[std::os::fd::AsFd::as_fd(&one)],
            Some(Duration::from_micros(300)),
        );
        assert_eq!(ready.expect("polls"), [false]);
    }
}
