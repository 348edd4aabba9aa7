//! Whatever the kernel's socket gives is read without panic and with little memory; what is well-formed says what it was made
//! of, and cut anywhere it says no more than that.

#![no_main]

use std::net::Ipv6Addr;

use libfuzzer_sys::fuzz_target;
use margay_bgp_fuzz::{Choices, Counting, memory_of};

#[path = "../../src/transport/rtnetlink.rs"]
#[allow(dead_code, reason = "what asks the kernel is not asked here")]
mod rtnetlink;

use rtnetlink::{Link, News};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Memory an octet of a datagram may cost, and a datagram however short it is.
const MEMORY: (usize, usize) = (64, 4096);

fn padded(mut octets: Vec<u8>) -> Vec<u8> {
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("short");
    padded([&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat())
}

fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + payload.len()).expect("short");
    let header = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10]];
    padded([&header.concat()[..], payload].concat())
}

/// An attribute that nobody knows, now and then.
fn noise(choices: &mut Choices<'_>) -> Vec<u8> {
    if choices.flag() {
        return Vec::new();
    }
    attribute(1000 + u16::from(choices.octet()), choices.octets(20))
}

/// A message, and what it says, if that is anything.
fn telling(choices: &mut Choices<'_>) -> (Vec<u8>, Option<News>) {
    let index = choices.word();
    match choices.below(4) {
        0 => {
            let flags = choices.word();
            let mac: [u8; 6] = std::array::from_fn(|_| choices.octet());
            let name = format!("eth{}", choices.octet());
            let link = Link {
                name: name.clone(),
                mac: Some(mac),
                running: flags & 0x1_0001 == 0x1_0001,
            };
            let mut payload = vec![0; 4];
            payload.extend(index.to_ne_bytes());
            payload.extend(flags.to_ne_bytes());
            payload.extend([0; 4]);
            payload.extend(noise(choices));
            payload.extend(attribute(3, format!("{name}\0").as_bytes()));
            payload.extend(noise(choices));
            payload.extend(attribute(1, &mac));
            (message(16, &payload), Some(News::Link(index, link)))
        }
        1 => {
            let payload = [&[0; 4][..], &index.to_ne_bytes(), &[0; 8]].concat();
            (message(17, &payload), Some(News::LinkGone(index)))
        }
        2 => {
            let (state, flags) = (u16::from(choices.octet()), choices.octet());
            let near = choices.flag();
            let first = if near { 0xfe80 } else { 0x2001 };
            let address = Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, u16::from(choices.octet()));
            let mut payload = vec![10, 0, 0, 0];
            payload.extend(index.to_ne_bytes());
            payload.extend(state.to_ne_bytes());
            payload.extend([flags, 0]);
            payload.extend(noise(choices));
            payload.extend(attribute(1, &address.octets()));
            let counts = near && flags & 0x80 != 0 && state & 0x21 == 0;
            let news = counts.then_some(News::Router(index, address));
            (message(28, &payload), news)
        }
        // Routes, addresses, and what is yet to be invented.
        _ => {
            let kind = 40 + u16::from(choices.octet());
            (message(kind, choices.octets(60)), None)
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let (news, memory) = memory_of(|| rtnetlink::read(data));
    let (each, fixed) = MEMORY;
    assert!(
        memory <= each * data.len() + fixed,
        "{memory} octets of memory for {}",
        data.len()
    );
    // A message has a header.
    assert!(news.len() <= data.len() / 16);
    drop(rtnetlink::ends_dump(data));

    let mut choices = Choices::new(data);
    let (mut datagram, mut expected, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    while !choices.is_empty() && ends.len() < 16 {
        let (octets, news) = telling(&mut choices);
        datagram.extend(octets);
        expected.extend(news);
        ends.push((datagram.len(), expected.len()));
    }
    assert_eq!(rtnetlink::read(&datagram), expected);
    assert!(matches!(rtnetlink::ends_dump(&datagram), Ok(false)));
    for (end, said) in ends {
        let cut = rtnetlink::read(&datagram[..end - 1]);
        assert!(expected.starts_with(&cut) && cut.len() <= said);
    }
    datagram.extend(message(3, &[0; 4]));
    assert!(matches!(rtnetlink::ends_dump(&datagram), Ok(true)));
});
