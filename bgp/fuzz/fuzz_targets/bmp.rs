//! What a collector is told reads as RFC 7854, 8671 and 9069 have it: lengths add up, each message is what its type says, and the
//! values are those that were meant. The reader here knows nothing of the writer.

#![no_main]

use std::net::IpAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use margay_bgp::bmp::message::{
    PeerHeader, Statistic, TerminationReason, initiation, peer_down, peer_up, route_monitoring,
    statistics, termination,
};
use margay_bgp::codec::{
    ErrorCode, Notification, attributes_block, encode_announcements, encode_withdrawals,
};
use margay_bgp::family::{Family, FamilySet};
use margay_bgp::fsm::DownCause;
use margay_bgp_fuzz::{Choices, judge};

fn number(octets: &[u8]) -> u64 {
    octets
        .iter()
        .fold(0, |number, octet| number << 8 | u64::from(*octet))
}

/// Type and body of the first message, and the rest.
fn split(octets: &[u8]) -> (u8, &[u8], &[u8]) {
    assert_eq!(octets[0], 3, "version");
    let length = usize::try_from(number(&octets[1..5])).expect("short");
    assert!(length >= 6);
    (octets[5], &octets[6..length], &octets[length..])
}

/// The per-peer header, checked; what follows it.
fn about<'a>(body: &'a [u8], header: &PeerHeader) -> &'a [u8] {
    let of_peer = if header.distinguisher == 0 { 0 } else { 2 };
    let (kind, v6, address) = match header.address {
        None => (3, 0, 0),
        Some(IpAddr::V4(address)) => (of_peer, 0, u128::from(address.to_bits())),
        Some(IpAddr::V6(address)) => (of_peer, 0x80, address.to_bits()),
    };
    assert_eq!(body[0], kind);
    let flags = [
        (header.post_policy, 0x40),
        (header.two_octet_as, 0x20),
        (header.adj_rib_out, 0x10),
    ];
    let flags = flags.into_iter().filter(|(set, _)| *set);
    assert_eq!(body[1], flags.fold(v6, |flags, (_, flag)| flags | flag));
    assert_eq!(number(&body[2..10]), header.distinguisher);
    assert_eq!(body[10..26], address.to_be_bytes());
    assert_eq!(number(&body[26..30]), u64::from(header.asn.0));
    assert_eq!(number(&body[30..34]), u64::from(header.router_id));
    assert_eq!(number(&body[34..38]), header.time.as_secs());
    assert_eq!(
        number(&body[38..42]),
        u64::from(header.time.subsec_micros())
    );
    &body[42..]
}

/// Types and values of what is left.
fn values(mut octets: &[u8]) -> Vec<(u64, &[u8])> {
    let mut list = Vec::new();
    while !octets.is_empty() {
        let length = usize::try_from(number(&octets[2..4])).expect("short");
        list.push((number(&octets[..2]), &octets[4..4 + length]));
        octets = &octets[4 + length..];
    }
    list
}

fn whole(message: &Bytes) -> (u8, &[u8]) {
    let (kind, body, rest) = split(message);
    assert!(rest.is_empty(), "lengths");
    (kind, body)
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let address = match choices.below(3) {
        0 => None,
        1 => Some(IpAddr::V4(choices.word().into())),
        _ => Some(IpAddr::V6((u128::from(choices.word()) << 96 | 1).into())),
    };
    let header = PeerHeader {
        address,
        // The last octet of an address, for some of them.
        distinguisher: match address {
            Some(IpAddr::V4(address)) => u64::from(address.octets()[3] & 3),
            _ => 0,
        },
        asn: choices.asn(),
        router_id: choices.word(),
        post_policy: choices.flag(),
        adj_rib_out: choices.flag(),
        two_octet_as: choices.flag(),
        time: Duration::new(u64::from(choices.word()), choices.word() % 1_000_000_000),
    };
    match choices.below(6) {
        0 => {
            let name = String::from_utf8_lossy(choices.octets(255)).into_owned();
            let description = String::from_utf8_lossy(choices.octets(255)).into_owned();
            let message = initiation(&name, &description);
            let (kind, body) = whole(&message);
            assert_eq!(kind, 4);
            assert_eq!(
                values(body),
                [(1, description.as_bytes()), (2, name.as_bytes())]
            );
        }
        1 => {
            let message = termination(TerminationReason::OutOfResources);
            assert_eq!(whole(&message), (5, &[0, 1, 0, 2, 0, 2][..]));
        }
        2 => {
            let (sent, received) = (choices.octets(200), choices.octets(200));
            let local = header.address.map(|_| IpAddr::V4(choices.word().into()));
            let ports = (choices.word() as u16, choices.word() as u16);
            let message = peer_up(&header, local, ports, sent, received);
            let (kind, body) = whole(&message);
            assert_eq!(kind, 3);
            let rest = about(body, &header);
            assert_eq!(number(&rest[16..18]), u64::from(ports.0));
            assert_eq!(number(&rest[18..20]), u64::from(ports.1));
            let opens = &rest[20..20 + sent.len() + received.len()];
            assert_eq!(opens, [sent, received].concat());
            let behind = values(&rest[20 + opens.len()..]);
            assert_eq!(behind.len(), usize::from(header.address.is_none()));
        }
        3 => {
            let code = ErrorCode::new(choices.octet(), choices.octet());
            let data = Bytes::copy_from_slice(choices.octets(255));
            let notification = Notification::with_data(code, data.clone());
            let (cause, reason) = match choices.below(5) {
                0 => (DownCause::NotificationSent(notification), 1),
                1 => (DownCause::NotificationReceived(notification), 3),
                2 => (DownCause::ConnectionLost, 4),
                3 => (DownCause::HoldTimeExpired, 1),
                _ => (DownCause::Collision, 2),
            };
            let message = peer_down(&header, &cause);
            let (kind, body) = whole(&message);
            assert_eq!(kind, 2);
            let rest = about(body, &header);
            assert_eq!(rest[0], reason);
            match reason {
                1 | 3 => {
                    assert_eq!(number(&rest[17..19]), rest.len() as u64 - 1);
                    assert_eq!(rest[19], 3, "a NOTIFICATION");
                    if let DownCause::NotificationSent(_) | DownCause::NotificationReceived(_) =
                        cause
                    {
                        assert_eq!(rest[20..22], [code.code, code.subcode]);
                        assert_eq!(&rest[22..], &data[..]);
                    }
                }
                2 => assert_eq!(rest.len(), 3),
                _ => assert_eq!(rest.len(), 1),
            }
        }
        4 => {
            let family = Family::IPV6_UNICAST;
            let context = margay_bgp::codec::CodecContext {
                families: FamilySet::all(),
                four_octet_as: true,
                ..choices.context()
            };
            let mut updates = BytesMut::new();
            let nlri = choices.nlri(family, &context, 256);
            encode_withdrawals(family, nlri, &context, &mut updates)
                .expect("prefixes of one family");
            let nlri = choices.nlri(family, &context, 256);
            let attributes = choices.attributes();
            let next_hop = choices.next_hop(family, &context);
            if let Ok(block) = attributes_block(&attributes, &context) {
                // Where they fit no message nothing is said.
                let _ =
                    encode_announcements(&block, next_hop, family, nlri, &context, &mut updates);
            }
            let mut out = BytesMut::new();
            route_monitoring(&header, &updates, &mut out);
            let (mut rest, mut said) = (&out[..], Vec::<u8>::new());
            while !rest.is_empty() {
                let (kind, body, behind) = split(rest);
                assert_eq!(kind, 0);
                let update = about(body, &header);
                judge(update, context.add_path_send);
                said.extend(update);
                rest = behind;
            }
            assert_eq!(said, &updates[..], "every UPDATE once, in order");
        }
        _ => {
            let (value, family) = (u64::from(choices.word()) << 8, Family::IPV6_UNICAST);
            let list = [
                Statistic::AdjRibIn(value),
                Statistic::FamilyLocRib(family, value),
                Statistic::UpdatesTreatedAsWithdraw(value),
            ];
            let count = usize::from(choices.below(4));
            let message = statistics(&header, &list[..count]);
            let (kind, body) = whole(&message);
            assert_eq!(kind, 1);
            let rest = about(body, &header);
            assert_eq!(number(&rest[..4]), count as u64);
            let read = values(&rest[4..]);
            assert_eq!(read.len(), count);
            for ((kind, octets), expected) in read.into_iter().zip([7, 10, 11]) {
                assert_eq!(kind, expected);
                match kind {
                    7 => assert_eq!((octets.len(), number(octets)), (8, value)),
                    10 => assert_eq!(
                        (&octets[..3], number(&octets[3..])),
                        (&[0, 2, 1][..], value)
                    ),
                    _ => assert_eq!((octets.len(), number(octets)), (4, value & 0xffff_ffff)),
                }
            }
        }
    }
});
