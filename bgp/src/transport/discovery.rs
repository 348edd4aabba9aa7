//! Who is at the other end of a link (RFC 4861): routers advertise themselves, and so do we, so that the other side finds us.
//!
//! One task per network namespace in which a peer is on a link. It follows the kernel's links and neighbours, listens to router
//! advertisements and sends some on the links of unnumbered peers. What it sends makes nobody use us as default router: the
//! lifetime is 0, and there is no prefix in it; FRR and others take the address from any advertisement.
//!
//! A link has one router. Where several speak, the first counts until it has been silent for [`SILENCE`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use socket2::{MaybeUninitSlice, MsgHdrMut, SockAddr, Socket};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::rtnetlink::{self, Link, News};
use super::sockopt;

/// Messages taken in before everything else has its turn.
const HEARD_AT_ONCE: usize = 64;

/// Errors read from the socket in one go before it is given up.
const ERRORS: u32 = 16;

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
/// Hop limit of neighbour discovery: nobody beyond the link can fake it (RFC 4861 §6.1.2).
const HOP_LIMIT: i32 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Between two advertisements of ours.
const INTERVAL: Duration = Duration::from_secs(5);
/// The same for the first few, and after one that could not be sent: the link's own address may be tentative still.
const QUICK_INTERVAL: Duration = Duration::from_millis(500);
const QUICK: u8 = 4;
/// After so long without a word, another router of the link may take a neighbour's place: three of FRR's intervals.
const SILENCE: Duration = Duration::from_secs(35);
/// Pause after sockets could not be had.
const RETRY: Duration = Duration::from_secs(5);

/// The links that matter, by name; true where the neighbour is to be found.
pub(super) type Wanted = BTreeMap<Arc<str>, bool>;

/// A link that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) index: u32,
    /// Where the router at its other end is.
    pub(super) neighbour: Option<Ipv6Addr>,
}

/// What is known of the wanted links; those missing are not there.
pub(super) type View = BTreeMap<Arc<str>, Seen>;

/// Follows the links of a namespace until it is cancelled.
pub(super) async fn follow(
    netns: Option<Arc<Path>>,
    mut wanted: watch::Receiver<Wanted>,
    view: watch::Sender<View>,
    changed: Arc<Notify>,
) {
    loop {
        let result = sockopt::in_netns(netns.as_deref(), sockopt::netlink)
            .and_then(|kernel| Follower::start(kernel, netns.clone()));
        let error = match result {
            Ok(mut follower) => follower.run(&mut wanted, &view, &changed).await,
            Err(error) => error,
        };
        warn!(?netns, %error, "cannot follow links, and tries again");
        // What was known is no longer followed: a peer on a link needs one that is.
        publish(&view, &changed, View::new());
        tokio::time::sleep(RETRY).await;
    }
}

fn publish(view: &watch::Sender<View>, changed: &Notify, now: View) {
    let differs = view.send_if_modified(|old| {
        let differs = *old != now;
        *old = now;
        differs
    });
    if differs {
        changed.notify_one();
    }
}

/// A router of a link, and when it was last heard of.
#[derive(Clone, Copy, Debug)]
struct Heard {
    address: Ipv6Addr,
    at: Instant,
}

/// Our own advertisements on a link.
#[derive(Clone, Copy, Debug)]
struct Beacon {
    next: Instant,
    quick: u8,
}

/// What the kernel is telling us at present; it takes one request at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dump {
    Links,
    Neighbours,
}

#[derive(Debug)]
struct Follower {
    netns: Option<Arc<Path>>,
    kernel: AsyncFd<Socket>,
    /// Only there while a neighbour is to be found: it takes a privilege that peers with addresses do without.
    radio: Option<AsyncFd<Socket>>,
    /// When it is tried again.
    radio_retry: Option<Instant>,
    /// There was more to read when others had their turn.
    radio_waits: bool,
    links: BTreeMap<u32, Link>,
    routers: BTreeMap<u32, Heard>,
    beacons: BTreeMap<u32, Beacon>,
    dump: Option<Dump>,
    /// News were lost during this dump: everything is asked for again at its end, since the kernel would refuse it before.
    again: bool,
}

impl Follower {
    fn start(kernel: Socket, netns: Option<Arc<Path>>) -> io::Result<Self> {
        let mut follower = Self {
            netns,
            kernel: sockopt::register(kernel)?,
            radio: None,
            radio_retry: None,
            radio_waits: false,
            links: BTreeMap::new(),
            routers: BTreeMap::new(),
            beacons: BTreeMap::new(),
            dump: None,
            again: false,
        };
        follower.read_anew()?;
        Ok(follower)
    }

    /// Asks for everything, at once or at the end of the dump that runs.
    fn read_anew(&mut self) -> io::Result<()> {
        if self.dump.is_some() {
            self.again = true;
            return Ok(());
        }
        self.again = false;
        self.links.clear();
        let [links, _] = rtnetlink::dump_requests();
        self.kernel.get_ref().send(&links)?;
        self.dump = Some(Dump::Links);
        Ok(())
    }

    /// A dump is over: what is next is asked for.
    fn dumped(&mut self) -> io::Result<()> {
        let ended = self.dump.take();
        if self.again {
            return self.read_anew();
        }
        if ended == Some(Dump::Links) {
            let [_, neighbours] = rtnetlink::dump_requests();
            self.kernel.get_ref().send(&neighbours)?;
            self.dump = Some(Dump::Neighbours);
        }
        Ok(())
    }

    /// Opens the socket for neighbour discovery once it is needed. Without it neighbours are known by what the kernel heard and
    /// by their calls, so it is no reason to follow nothing.
    fn tune_in(&mut self, wanted: &Wanted) {
        let now = Instant::now();
        if self.radio.is_some()
            || !wanted.values().any(|find| *find)
            || self.radio_retry.is_some_and(|at| at > now)
        {
            return;
        }
        self.radio_retry = None;
        match sockopt::in_netns(self.netns.as_deref(), sockopt::neighbour_discovery)
            .and_then(sockopt::register)
        {
            Ok(radio) => self.radio = Some(radio),
            Err(error) => self.lose_radio(&error),
        }
    }

    fn lose_radio(&mut self, error: &io::Error) {
        warn!(netns = ?self.netns, %error, "no neighbour discovery for now, and tries again");
        self.radio = None;
        self.beacons.clear();
        self.radio_retry = Some(Instant::now() + RETRY);
    }

    /// Runs until a socket fails.
    async fn run(
        &mut self,
        wanted: &mut watch::Receiver<Wanted>,
        view: &watch::Sender<View>,
        changed: &Notify,
    ) -> io::Error {
        loop {
            let now = wanted.borrow_and_update().clone();
            self.tune_in(&now);
            // Before that not every link is known.
            if self.dump != Some(Dump::Links) {
                self.tune(&now);
                publish(view, changed, self.view(&now));
            }
            let beacons = self.beacons.values().map(|beacon| beacon.next);
            let due = beacons.chain(self.radio_retry).min();
            let result = tokio::select! {
                ready = self.kernel.readable() => match ready {
                    Ok(mut guard) => { guard.clear_ready(); self.hear_kernel() }
                    Err(error) => Err(error),
                },
                ready = readable(self.radio.as_ref(), self.radio_waits) => {
                    match ready {
                        Ok(()) => self.hear_neighbours(&now),
                        Err(error) => self.lose_radio(&error),
                    }
                    Ok(())
                }
                result = wanted.changed() => result.map_err(io::Error::other),
                () = super::driver::sleep_until(due) => { self.advertise(); Ok(()) }
            };
            if let Err(error) = result {
                return error;
            }
        }
    }

    fn view(&self, wanted: &Wanted) -> View {
        self.links
            .iter()
            .filter_map(|(index, link)| {
                let (name, _) = wanted.get_key_value(link.name.as_str())?;
                let neighbour = self.routers.get(index).map(|heard| heard.address);
                let seen = Seen {
                    index: *index,
                    neighbour,
                };
                Some((Arc::clone(name), seen))
            })
            .collect()
    }

    /// Advertises on exactly the running links whose neighbour is wanted.
    fn tune(&mut self, wanted: &Wanted) {
        let Some(radio) = &self.radio else {
            return;
        };
        let on: BTreeSet<u32> = self
            .links
            .iter()
            .filter(|(_, link)| link.running && wanted.get(link.name.as_str()) == Some(&true))
            .map(|(index, _)| *index)
            .collect();
        self.beacons.retain(|index, _| on.contains(index));
        for index in on {
            if self.beacons.contains_key(&index) {
                continue;
            }
            // Solicitations go to all routers. That we are in the group already is no mistake.
            if let Err(error) = radio.get_ref().join_multicast_v6(&ALL_ROUTERS, index) {
                debug!(index, %error, "not among the routers of the link");
            }
            self.beacons.insert(
                index,
                Beacon {
                    next: Instant::now(),
                    quick: QUICK,
                },
            );
            self.send(index, ROUTER_SOLICITATION, ALL_ROUTERS);
        }
    }

    fn advertise(&mut self) {
        let now = Instant::now();
        let due: Vec<u32> = self
            .beacons
            .iter()
            .filter(|(_, beacon)| beacon.next <= now)
            .map(|(index, _)| *index)
            .collect();
        for index in due {
            let sent = self.send(index, ROUTER_ADVERTISEMENT, ALL_NODES);
            if let Some(beacon) = self.beacons.get_mut(&index) {
                beacon.quick = beacon.quick.saturating_sub(u8::from(sent));
                let quick = !sent || beacon.quick > 0;
                beacon.next = now + if quick { QUICK_INTERVAL } else { INTERVAL };
            }
        }
    }

    /// Whether the kernel took it.
    fn send(&self, index: u32, kind: u8, to: Ipv6Addr) -> bool {
        let mac = self.links.get(&index).and_then(|link| link.mac);
        let to = SockAddr::from(SocketAddrV6::new(to, 0, 0, index));
        let Some(radio) = &self.radio else {
            return false;
        };
        let socket = radio.get_ref();
        let result = socket
            .set_multicast_if_v6(index)
            .and_then(|()| socket.send_to(&packet(kind, mac), &to));
        if let Err(error) = &result {
            debug!(index, kind, %error, "neighbour discovery");
        }
        result.is_ok()
    }

    fn hear_kernel(&mut self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 32 * 1024];
        loop {
            let length = match self.kernel.get_ref().recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // It had more to say than it could keep.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.read_anew()?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let datagram = sockopt::filled(&buffer, length);
            for news in rtnetlink::read(datagram) {
                match news {
                    News::Link(index, link) => {
                        if self.links.get(&index).is_some_and(|old| old.running) && !link.running {
                            // Whoever is there when the carrier returns may be somebody else.
                            self.routers.remove(&index);
                        }
                        self.links.insert(index, link);
                    }
                    News::LinkGone(index) => {
                        self.links.remove(&index);
                        self.routers.remove(&index);
                    }
                    News::Router(index, address) => self.heard(index, address),
                }
            }
            if rtnetlink::ends_dump(datagram)? {
                self.dumped()?;
            }
        }
    }

    /// Takes in what waits on the socket, a part at a time: whoever floods a link must not keep everything else from its turn.
    fn hear_neighbours(&mut self, wanted: &Wanted) {
        let mut errors = 0;
        self.radio_waits = false;
        for _ in 0..HEARD_AT_ONCE {
            let Some(radio) = &self.radio else {
                return;
            };
            match receive(radio.get_ref()) {
                Ok((from, index, kind)) => self.hear_neighbour(from, index, kind, wanted),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An error that was read is off the socket, and messages may wait behind it.
                Err(_) if errors < ERRORS => errors += 1,
                Err(error) => return self.lose_radio(&error),
            }
        }
        self.radio_waits = true;
    }

    fn hear_neighbour(&mut self, from: Ipv6Addr, index: u32, kind: u8, wanted: &Wanted) {
        let concerns = self
            .links
            .get(&index)
            .is_some_and(|link| wanted.get(link.name.as_str()) == Some(&true));
        match kind {
            _ if !concerns => {}
            ROUTER_ADVERTISEMENT if from.is_unicast_link_local() => self.heard(index, from),
            // At once, but not more often than the quick ones.
            ROUTER_SOLICITATION => {
                if let Some(beacon) = self.beacons.get_mut(&index) {
                    beacon.quick = beacon.quick.max(1);
                    beacon.next = beacon.next.min(Instant::now() + QUICK_INTERVAL);
                }
            }
            _ => {}
        }
    }

    fn heard(&mut self, index: u32, address: Ipv6Addr) {
        let at = Instant::now();
        let known = self.routers.get(&index);
        if known.is_some_and(|known| known.address != address && at - known.at < SILENCE) {
            return;
        }
        if known.is_none_or(|known| known.address != address) {
            info!(index, %address, "a router on the link");
        }
        self.routers.insert(index, Heard { address, at });
    }
}

/// Waits for something to read, for ever where there is no socket; for others to have their turn where there was more to read
/// the last time.
async fn readable(radio: Option<&AsyncFd<Socket>>, waits: bool) -> io::Result<()> {
    match radio {
        Some(_) if waits => {
            tokio::task::yield_now().await;
            Ok(())
        }
        Some(radio) => radio.readable().await.map(|mut guard| guard.clear_ready()),
        None => std::future::pending().await,
    }
}

/// A solicitation or an advertisement (RFC 4861 §4.1, §4.2) with our link-layer address; the kernel fills in the checksum.
fn packet(kind: u8, mac: Option<[u8; 6]>) -> Vec<u8> {
    let mut octets = vec![kind, 0, 0, 0];
    if kind == ROUTER_ADVERTISEMENT {
        // Hop limit for hosts, no flags, lifetime 0 as default router, reachable and retransmission time not said.
        octets.extend([64, 0, 0, 0]);
        octets.extend([0; 8]);
    } else {
        octets.extend([0; 4]);
    }
    if let Some(mac) = mac {
        octets.extend([1, 1]);
        octets.extend(mac);
    }
    octets
}

/// The next message: sender, interface, type; no interface and type 0 where it is not worth looking at.
///
/// # Errors
/// There is none.
fn receive(socket: &Socket) -> io::Result<(Ipv6Addr, u32, u8)> {
    let mut data = [MaybeUninit::<u8>::uninit(); 1500];
    let mut control = [MaybeUninit::<u8>::uninit(); 64];
    let mut from = SockAddr::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0));
    let (length, control_length) = {
        let mut buffers = [MaybeUninitSlice::new(&mut data)];
        let mut header = MsgHdrMut::new()
            .with_addr(&mut from)
            .with_buffers(&mut buffers)
            .with_control(&mut control);
        let length = socket.recvmsg(&mut header, 0)?;
        (length, header.control_len())
    };
    let data = sockopt::filled(&data, length);
    let near = hop_limit(sockopt::filled(&control, control_length)) == Some(HOP_LIMIT);
    let (Some(from), Some([kind, 0, ..]), true) = (from.as_socket_ipv6(), data.get(..4), near)
    else {
        // Said by nobody on the link, or not what it should be. There may be another one.
        return Ok((Ipv6Addr::UNSPECIFIED, 0, 0));
    };
    Ok((*from.ip(), from.scope_id(), *kind))
}

/// The hop limit in a control message, `IPV6_HOPLIMIT`.
fn hop_limit(control: &[u8]) -> Option<i32> {
    // `struct cmsghdr`: length, level, type; then the value.
    let header = size_of::<usize>();
    let int = |at: usize| -> Option<i32> {
        let octets = control.get(at..at + 4)?;
        Some(i32::from_ne_bytes(octets.try_into().ok()?))
    };
    let of_ours = int(header)? == libc::IPPROTO_IPV6 && int(header + 4)? == libc::IPV6_HOPLIMIT;
    of_ours.then(|| int(header + 8)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertisement_makes_nobody_use_us_as_default_router() {
        let octets = packet(ROUTER_ADVERTISEMENT, Some([2, 0, 0, 0, 0, 9]));
        assert_eq!(octets[..8], [134, 0, 0, 0, 64, 0, 0, 0], "lifetime 0");
        assert_eq!(
            octets[16..],
            [1, 1, 2, 0, 0, 0, 0, 9],
            "source link-layer address"
        );
        assert_eq!(
            packet(ROUTER_SOLICITATION, None),
            [133, 0, 0, 0, 0, 0, 0, 0]
        );
    }

    #[tokio::test]
    async fn news_lost_during_a_dump_are_read_anew_at_its_end() {
        let kernel = sockopt::netlink().expect("anybody may ask");
        let mut follower = Follower::start(kernel, None).expect("starts");
        assert_eq!(follower.dump, Some(Dump::Links));
        follower.read_anew().expect("puts it off");
        assert!(follower.again);
        // Two dumps of links, then one of neighbours, none of which the kernel refuses.
        let all = async {
            while follower.dump.is_some() {
                follower
                    .kernel
                    .readable()
                    .await
                    .expect("readable")
                    .clear_ready();
                follower.hear_kernel().expect("no request was refused");
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all)
            .await
            .expect("the dumps end");
        assert!(!follower.again);
        assert!(follower.links.values().any(|link| link.name == "lo"));
        let wanted = Wanted::from([("lo".into(), false)]);
        follower.tune_in(&wanted);
        assert!(follower.radio.is_none(), "nobody is to be found");
        assert!(follower.view(&wanted).contains_key("lo"));
    }

    #[tokio::test]
    async fn whoever_floods_a_link_waits_for_the_others_and_is_heard_out_without_another_word() {
        let kernel = sockopt::netlink().expect("anybody may ask");
        let mut follower = Follower::start(kernel, None).expect("starts");
        let flood = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let radio = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let at = radio.local_addr().expect("an address");
        for _ in 0..2 * HEARD_AT_ONCE + 1 {
            flood.send_to(&[ROUTER_SOLICITATION; 8], at).expect("sent");
        }
        let registered = radio
            .set_nonblocking(true)
            .and_then(|()| sockopt::register(radio.try_clone()?.into()));
        follower.radio = Some(registered.expect("registered"));
        let nobody = Wanted::new();
        for more in [true, true, false] {
            let ready = readable(follower.radio.as_ref(), follower.radio_waits);
            tokio::time::timeout(Duration::from_secs(30), ready)
                .await
                .expect("what waits is told of")
                .expect("the socket stands");
            follower.hear_neighbours(&nobody);
            assert_eq!(follower.radio_waits, more);
        }
        let all = radio.recv(&mut [0; 8]).expect_err("all of it was read");
        assert_eq!(all.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_hop_limit_is_read_from_its_control_message() {
        let mut control = 20_usize.to_ne_bytes().to_vec();
        control.extend(libc::IPPROTO_IPV6.to_ne_bytes());
        control.extend(libc::IPV6_HOPLIMIT.to_ne_bytes());
        control.extend(255_i32.to_ne_bytes());
        assert_eq!(hop_limit(&control), Some(255));
        assert_eq!(hop_limit(&control[..8]), None);
    }
}
