//! Links and routers as the kernel tells of them: the few messages of rtnetlink a speaker needs, read by hand.
//!
//! The kernel's neighbour table knows a router by the advertisements it heard itself, also before we ran.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv6Addr;

/// `RTM_NEWLINK`, `RTM_DELLINK`, `RTM_GETLINK`, `RTM_NEWNEIGH`, `RTM_GETNEIGH` of linux/rtnetlink.h.
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
/// `IFLA_ADDRESS` and `IFLA_IFNAME` of linux/if_link.h.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
/// `NDA_DST` of linux/neighbour.h.
const NDA_DST: u16 = 1;
/// `NTF_ROUTER`: the neighbour advertises itself as a router.
const NTF_ROUTER: u8 = 0x80;
/// `NUD_INCOMPLETE | NUD_FAILED`: nobody answers there.
const NUD_ABSENT: u16 = 0x01 | 0x20;
/// `IFF_UP` and `IFF_LOWER_UP` of linux/if.h.
const IFF_UP: u32 = 0x1;
const IFF_LOWER_UP: u32 = 0x1_0000;
const AF_INET6: u8 = 10;
/// `NLM_F_REQUEST | NLM_F_DUMP` of linux/netlink.h.
const REQUEST_DUMP: u16 = 0x1 | 0x300;
const HEADER_LEN: usize = 16;

/// A link of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    /// Nothing but for Ethernet and the like.
    pub(super) mac: Option<[u8; 6]>,
    /// Administratively up, with a carrier.
    pub(super) running: bool,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    Link(u32, Link),
    LinkGone(u32),
    /// A router is known by this link-local address.
    Router(u32, Ipv6Addr),
}

/// The request for every link, then that for every IPv6 neighbour; the kernel takes one dump at a time.
pub(super) fn dump_requests() -> [Vec<u8>; 2] {
    // `struct ifinfomsg` has 16 octets, `struct ndmsg` 12; only the family counts.
    [
        request(RTM_GETLINK, 0, 16),
        request(RTM_GETNEIGH, AF_INET6, 12),
    ]
}

fn request(kind: u16, family: u8, length: usize) -> Vec<u8> {
    let total = u32::try_from(HEADER_LEN + length).unwrap_or(u32::MAX);
    let mut octets = Vec::with_capacity(HEADER_LEN + length);
    octets.extend(total.to_ne_bytes());
    octets.extend(kind.to_ne_bytes());
    octets.extend(REQUEST_DUMP.to_ne_bytes());
    octets.extend([0; 8]);
    octets.push(family);
    octets.resize(HEADER_LEN + length, 0);
    octets
}

/// What a datagram of the kernel says; what is of no use to us is passed over.
pub(super) fn read(mut datagram: &[u8]) -> Vec<News> {
    let mut news = Vec::new();
    while let (Some(length), Some(kind)) = (word(datagram, 0), half(datagram, 4)) {
        let Ok(length) = usize::try_from(length) else {
            break;
        };
        let Some(payload) = datagram.get(HEADER_LEN..length) else {
            break;
        };
        news.extend(match kind {
            RTM_NEWLINK => new_link(payload),
            RTM_DELLINK => link_gone(payload),
            RTM_NEWNEIGH => neighbour(payload),
            _ => None,
        });
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    news
}

/// Whether a dump ends with this datagram.
///
/// # Errors
/// The kernel refused a request.
pub(super) fn ends_dump(mut datagram: &[u8]) -> io::Result<bool> {
    const NLMSG_ERROR: u16 = 2;
    const NLMSG_DONE: u16 = 3;
    while let (Some(length), Some(kind)) = (word(datagram, 0), half(datagram, 4)) {
        if kind == NLMSG_DONE {
            return Ok(true);
        }
        // `struct nlmsgerr` begins with a negative error number; zero is an acknowledgement.
        let refused = (kind == NLMSG_ERROR)
            .then(|| word(datagram, HEADER_LEN))
            .flatten()
            .map(|code| code.cast_signed().saturating_neg());
        if let Some(code) = refused.filter(|code| *code != 0) {
            return Err(io::Error::from_raw_os_error(code));
        }
        let length = usize::try_from(length).unwrap_or(0).max(HEADER_LEN);
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Ok(false)
}

fn new_link(payload: &[u8]) -> Option<News> {
    // Bridges tell of their ports in messages of their own family.
    if *payload.first()? != 0 {
        return None;
    }
    let (index, flags) = (word(payload, 4)?, word(payload, 8)?);
    let attributes = attributes(payload.get(16..)?);
    let name = attributes.get(&IFLA_IFNAME)?;
    let name = String::from_utf8_lossy(name)
        .trim_end_matches('\0')
        .to_owned();
    let link = Link {
        name,
        mac: attributes
            .get(&IFLA_ADDRESS)
            .and_then(|octets| (*octets).try_into().ok()),
        running: flags & (IFF_UP | IFF_LOWER_UP) == IFF_UP | IFF_LOWER_UP,
    };
    Some(News::Link(index, link))
}

fn link_gone(payload: &[u8]) -> Option<News> {
    (*payload.first()? == 0).then_some(News::LinkGone(word(payload, 4)?))
}

fn neighbour(payload: &[u8]) -> Option<News> {
    let (index, state, flags) = (word(payload, 4)?, half(payload, 8)?, *payload.get(10)?);
    if *payload.first()? != AF_INET6 || flags & NTF_ROUTER == 0 || state & NUD_ABSENT != 0 {
        return None;
    }
    let attributes = attributes(payload.get(12..)?);
    let octets: [u8; 16] = (*attributes.get(&NDA_DST)?).try_into().ok()?;
    let address = Ipv6Addr::from(octets);
    address
        .is_unicast_link_local()
        .then_some(News::Router(index, address))
}

fn attributes(mut octets: &[u8]) -> BTreeMap<u16, &[u8]> {
    let mut found = BTreeMap::new();
    while let (Some(length), Some(kind)) = (half(octets, 0), half(octets, 2)) {
        let length = usize::from(length);
        let Some(value) = octets.get(4..length) else {
            break;
        };
        found.insert(kind, value);
        octets = octets.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn word(octets: &[u8], at: usize) -> Option<u32> {
    let octets = octets.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(octets.try_into().ok()?))
}

fn half(octets: &[u8], at: usize) -> Option<u16> {
    let octets = octets.get(at..at.checked_add(2)?)?;
    Some(u16::from_ne_bytes(octets.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut octets = request(kind, 0, payload.len());
        octets[HEADER_LEN..].copy_from_slice(payload);
        octets.resize(octets.len().next_multiple_of(4), 0);
        octets
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).expect("short");
        let mut octets = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        octets.extend(value);
        octets.resize(octets.len().next_multiple_of(4), 0);
        octets
    }

    fn link(index: u32, flags: u32) -> Vec<u8> {
        let mut payload = vec![0; 4];
        payload.extend(index.to_ne_bytes());
        payload.extend(flags.to_ne_bytes());
        payload.extend([0; 4]);
        payload.extend(attribute(IFLA_IFNAME, b"eth0\0"));
        payload.extend(attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]));
        payload
    }

    fn router(flags: u8, state: u16, address: &str) -> Vec<u8> {
        let mut payload = vec![AF_INET6, 0, 0, 0];
        payload.extend(7_u32.to_ne_bytes());
        payload.extend(state.to_ne_bytes());
        payload.extend([flags, 0]);
        let address: Ipv6Addr = address.parse().expect("an address");
        payload.extend(attribute(NDA_DST, &address.octets()));
        payload
    }

    #[test]
    fn links_come_and_go_in_one_datagram() {
        let mut datagram = message(RTM_NEWLINK, &link(7, IFF_UP | IFF_LOWER_UP));
        datagram.extend(message(RTM_NEWLINK, &link(8, IFF_UP)));
        datagram.extend(message(RTM_DELLINK, &link(7, 0)));
        let eth0 = |running| Link {
            name: "eth0".into(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            running,
        };
        let expected = [
            News::Link(7, eth0(true)),
            News::Link(8, eth0(false)),
            News::LinkGone(7),
        ];
        assert_eq!(read(&datagram), expected);
    }

    #[test]
    fn a_refused_request_is_not_taken_for_the_end_of_a_dump() {
        let error = message(2, &[(-16_i32).to_ne_bytes().as_slice(), &[0; 16]].concat());
        let refused = ends_dump(&error).expect_err("refused");
        assert_eq!(refused.raw_os_error(), Some(libc::EBUSY));
        let acknowledged = message(2, &[0; 20]);
        assert!(!ends_dump(&acknowledged).expect("no error"));
        assert!(ends_dump(&message(3, &[0; 4])).expect("the end"));
    }

    #[test]
    fn only_link_local_routers_that_answer_are_neighbours() {
        let reachable = 2;
        let news = read(&message(
            RTM_NEWNEIGH,
            &router(NTF_ROUTER, reachable, "fe80::1"),
        ));
        assert_eq!(
            news,
            [News::Router(7, "fe80::1".parse().expect("an address"))]
        );
        for other in [
            router(0, reachable, "fe80::1"),
            router(NTF_ROUTER, reachable, "fd00::1"),
            router(NTF_ROUTER, 0x20, "fe80::1"),
        ] {
            assert_eq!(read(&message(RTM_NEWNEIGH, &other)), []);
        }
    }

    #[test]
    fn what_is_cut_short_says_nothing() {
        let whole = message(RTM_NEWLINK, &link(7, IFF_UP));
        for length in 0..whole.len() {
            // No panic, and no link without its name.
            assert!(read(&whole[..length]).is_empty());
        }
    }
}
