//! OPEN and ROUTE-REFRESH that do not fit, each with the NOTIFICATION it deserves.

use bytes::BytesMut;
use hex_literal::hex;
use margay_bgp::asn::Asn;
use margay_bgp::codec::{
    AddPathMode, Capability, CodecContext, HoldTime, Message, Notification, Open, RefreshKind,
    RouteRefresh, decode,
};
use margay_bgp::family::{Afi, Family, Safi};

use crate::{internal, message};

fn open_with(parameters: &[u8]) -> Vec<u8> {
    [&hex!("04 fc00 005a 0a000001")[..], parameters].concat()
}

#[track_caller]
fn open(body: &[u8]) -> Open {
    match decode(&message(1, body), &CodecContext::before_open()) {
        Ok(Message::Open(open)) => open,
        other => panic!("expected an OPEN, got {other:?}"),
    }
}

#[track_caller]
fn refused(body: &[u8], code: u8, subcode: u8, data: &[u8]) {
    let error =
        decode(&message(1, body), &CodecContext::before_open()).expect_err("must be refused");
    let notification = Notification::from(&error);
    let answer = (
        notification.code.code,
        notification.code.subcode,
        &*notification.data,
    );
    assert_eq!(answer, (code, subcode, data), "{error}");
}

#[test]
fn fixed_fields_that_name_nobody_are_refused() {
    refused(&hex!("03 fc00 005a 0a000001 00"), 2, 1, &[0, 4]);
    refused(&hex!("05 fc00 005a 0a000001 00"), 2, 1, &[0, 4]);
    refused(&hex!("04 0000 005a 0a000001 00"), 2, 2, &[]);
    refused(&hex!("04 5ba0 005a 0a000001 00"), 2, 2, &[]);
    refused(&hex!("04 fc00 005a 00000000 00"), 2, 3, &[]);
    refused(&hex!("04 fc00 0001 0a000001 00"), 2, 6, &[]);
    refused(&hex!("04 fc00 0002 0a000001 00"), 2, 6, &[]);
    refused(&open_with(&hex!("08 02 06 4104 00000000")), 2, 2, &[]);
    refused(&open_with(&hex!("08 02 06 4104 00005ba0")), 2, 2, &[]);
}

#[test]
fn capabilities_take_no_more_room_than_they_need_however_many_they_are() {
    // One more than a list that doubles has room for.
    let many = [200, 0].repeat(1025);
    let length = |octets: usize| u16::try_from(octets).unwrap().to_be_bytes();
    let parameters = [
        &[0xff, 0xff][..],
        &length(many.len() + 3),
        &[2],
        &length(many.len()),
        &many,
    ];
    let capabilities = open(&open_with(&parameters.concat())).capabilities;
    assert_eq!((capabilities.len(), capabilities.capacity()), (1025, 1025));
}

#[test]
fn hold_times_of_zero_and_three_are_fine() {
    assert_eq!(
        open(&hex!("04 fc00 0000 0a000001 00")).hold_time,
        HoldTime::NONE
    );
    assert_eq!(
        open(&hex!("04 fc00 0003 0a000001 00")).hold_time.as_secs(),
        3
    );
}

#[test]
fn an_open_without_capabilities_has_none() {
    let open = open(&hex!("04 fc00 005a 0a000001 00"));
    assert_eq!((open.asn, open.capabilities), (Asn(64512), vec![]));
}

#[test]
fn parameters_that_do_not_add_up_are_refused() {
    refused(&open_with(&hex!("05 02 06 0104 00010001")), 2, 0, &[]);
    refused(&open_with(&hex!("09 02 06 0104 00010001")), 2, 0, &[]);
    refused(&open_with(&hex!("08 02 07 0104 00010001")), 2, 0, &[]);
    refused(&open_with(&hex!("08 02 06 0105 00010001")), 2, 0, &[]);
    refused(&open_with(&hex!("01 02")), 2, 0, &[]);
    refused(&open_with(&hex!("03 02 01 01")), 2, 0, &[]);
    refused(
        &open_with(&hex!("ff ff 000a 02 0006 0104 00010001")),
        2,
        0,
        &[],
    );
    refused(&open_with(&hex!("ff ff 00")), 2, 0, &[]);
}

#[test]
fn unknown_parameters_are_refused_with_the_parameter() {
    refused(
        &open_with(&hex!("04 01 02 abcd")),
        2,
        4,
        &hex!("01 02 abcd"),
    );
    refused(
        &open_with(&hex!("0c 02 06 0104 00010001 ff 02 0000")),
        2,
        4,
        &hex!("ff 02 0000"),
    );
}

#[test]
fn known_capabilities_of_a_wrong_length_are_refused() {
    for capability in [
        &hex!("0103 000100")[..],
        &hex!("0201 00"),
        &hex!("0505 0001000100"),
        &hex!("0601 00"),
        &hex!("0900"),
        &hex!("4001 40"),
        &hex!("4005 4078 000101"),
        &hex!("4102 fc00"),
        &hex!("4503 000101"),
        &hex!("4601 00"),
        &hex!("4706 000101800000"),
    ] {
        let len = u8::try_from(capability.len()).unwrap();
        refused(
            &open_with(&[&[len + 2, 2, len][..], capability].concat()),
            2,
            0,
            &[],
        );
    }
}

#[test]
fn several_parameters_read_like_one() {
    let one = open(&open_with(&hex!(
        "10 02 0e 0104 00010001 0200 4104 0000fc00"
    )));
    let three = open(&open_with(&hex!(
        "14 02 06 0104 00010001 02 02 0200 02 06 4104 0000fc00"
    )));
    assert_eq!(one, three);
}

#[test]
fn extended_framing_is_known_by_the_second_octet() {
    for opt_len in [255, 9] {
        let body = open_with(&[&[opt_len, 255][..], &hex!("0009 02 0006 0104 00010001")].concat());
        assert_eq!(
            open(&body).capabilities,
            [Capability::Multiprotocol(Family::IPV4_UNICAST)]
        );
    }
}

#[test]
fn unknown_capabilities_are_kept() {
    let open = open(&open_with(&hex!("06 02 04 c802 abcd")));
    let [Capability::Unknown { code: 200, data }] = &open.capabilities[..] else {
        panic!("{open:?}");
    };
    assert_eq!(**data, hex!("abcd"));
}

#[test]
fn capabilities_of_other_times_are_understood() {
    // Route refresh by its old number, a host name without domain.
    let open = open(&open_with(&hex!("0a 02 08 8000 4904 03 6e6f64")));
    assert_eq!(open.capabilities[0], Capability::RouteRefresh);
    let Capability::Fqdn { host, domain } = &open.capabilities[1] else {
        panic!("{open:?}");
    };
    assert_eq!((host.as_str(), domain.as_str()), ("nod", ""));
}

#[test]
fn add_path_tuples_with_an_unknown_mode_are_left_out() {
    let open = open(&open_with(&hex!(
        "10 02 0e 450c 00010102 00020104 00010100"
    )));
    let [Capability::AddPath(tuples)] = &open.capabilities[..] else {
        panic!("{open:?}");
    };
    assert_eq!(tuples.len(), 1);
    assert_eq!(
        (tuples[0].family, tuples[0].mode),
        (Family::IPV4_UNICAST, AddPathMode::Send)
    );
}

#[test]
fn o24_extended_framing_is_written_only_where_it_must_be() {
    let with_len = |len: usize| {
        let capabilities = (0..len / 2)
            .map(|_| Capability::EnhancedRouteRefresh)
            .chain((len % 2 == 1).then(|| Capability::Role(margay_bgp::codec::Role::Peer)))
            .collect();
        let open = Open {
            contradicting_as: None,
            asn: Asn(64512),
            hold_time: HoldTime::default(),
            router_id: "10.0.0.1".parse().unwrap(),
            capabilities,
        };
        let mut out = BytesMut::new();
        open.encode(&mut out).unwrap();
        assert_eq!(
            decode(&out, &CodecContext::before_open()),
            Ok(Message::Open(open))
        );
        out
    };
    // An odd number of octets ends in a role, which has three: 250 + 3 and 251 + 3.
    let longest = with_len(251);
    assert_eq!(longest.len(), 29 + 255);
    assert_eq!(longest[28..30], [255, 2]);
    let extended = with_len(254);
    assert_eq!(extended.len(), 29 + 3 + 3 + 254);
    assert_eq!(extended[28..30], [255, 255]);
}

#[test]
fn an_open_that_cannot_be_said_is_not_written() {
    let mut open = open(&hex!("04 fc00 005a 0a000001 00"));
    open.capabilities = vec![Capability::EnhancedRouteRefresh; 2100];
    let mut out = BytesMut::new();
    assert!(open.encode(&mut out).is_err());
    assert!(out.is_empty());
}

#[test]
fn route_refresh_bounds_of_a_wrong_length_are_refused_with_the_message() {
    let enhanced = CodecContext {
        enhanced_route_refresh: true,
        ..internal()
    };
    for subtype in [1, 2] {
        let octets = message(5, &[0, 1, subtype, 1, 0]);
        let error = decode(&octets, &enhanced).expect_err("must be refused");
        let notification = Notification::from(&error);
        assert_eq!((notification.code.code, notification.code.subcode), (7, 1));
        assert_eq!(notification.data, octets);
        assert!(decode(&octets, &internal()).is_ok());
    }
}

#[test]
fn route_refresh_of_unknown_family_or_subtype_is_no_error() {
    let enhanced = CodecContext {
        enhanced_route_refresh: true,
        ..internal()
    };
    assert_eq!(
        decode(&message(5, &[0, 25, 5, 70]), &enhanced),
        Ok(Message::RouteRefresh(RouteRefresh {
            family: Family::new(Afi(25), Safi(70)),
            kind: RefreshKind::Other(5),
        }))
    );
}
