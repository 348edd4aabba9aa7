//! BMP messages on the wire (RFC 7854 §4, RFC 8671 §4, RFC 9069 §4). AS numbers have four octets, but those of what peers without
//! such were told.

use std::net::IpAddr;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::asn::Asn;
use crate::codec::{CodecContext, ErrorCode, Message, Notification};
use crate::family::Family;
use crate::fsm::DownCause;

const VERSION: u8 = 3;
/// Version, length, type.
const COMMON_HEADER_LEN: usize = 6;

const ROUTE_MONITORING: u8 = 0;
const STATISTICS: u8 = 1;
const PEER_DOWN: u8 = 2;
const PEER_UP: u8 = 3;
const INITIATION: u8 = 4;
const TERMINATION: u8 = 5;

/// RFC 9069 §5.2.1: the name of the table; "global" is the one for the default instance.
const TABLE_NAME: u16 = 3;
const LOC_RIB_NAME: &str = "global";

/// Whose table a message is about (RFC 7854 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerHeader {
    /// The peer's address; nothing for the Loc-RIB.
    pub address: Option<IpAddr>,
    /// Tells peers with the same address apart; zero where there is only one. A collector knows a peer by this and its address,
    /// and two sessions to one router over two links agree in everything else.
    pub distinguisher: u64,
    /// The peer's AS, or ours.
    pub asn: Asn,
    /// Its BGP Identifier, or ours.
    pub router_id: u32,
    /// The routes are what policy made of them.
    pub post_policy: bool,
    /// They are told to the peer, and not by it (RFC 8671).
    pub adj_rib_out: bool,
    /// AS numbers of their AS_PATH have two octets.
    pub two_octet_as: bool,
    /// When it happened, since 1970.
    pub time: Duration,
}

impl PeerHeader {
    fn encode(&self, out: &mut BytesMut) {
        // Only a "local instance peer" has a distinguisher.
        let of_peer = if self.distinguisher == 0 { 0 } else { 2 };
        let (kind, mut flags) = match self.address {
            None => (3, 0),
            Some(IpAddr::V4(_)) => (of_peer, 0),
            Some(IpAddr::V6(_)) => (of_peer, 0x80),
        };
        if self.post_policy {
            flags |= 0x40;
        }
        if self.two_octet_as {
            flags |= 0x20;
        }
        if self.adj_rib_out {
            flags |= 0x10;
        }
        out.put_u8(kind);
        out.put_u8(flags);
        out.put_u64(self.distinguisher);
        put_address(self.address, out);
        out.put_u32(self.asn.0);
        out.put_u32(self.router_id);
        out.put_u32(u32::try_from(self.time.as_secs()).unwrap_or(u32::MAX));
        out.put_u32(self.time.subsec_micros());
    }
}

/// Sixteen octets; an IPv4 address takes the last four.
fn put_address(address: Option<IpAddr>, out: &mut BytesMut) {
    match address {
        None => out.put_u128(0),
        Some(IpAddr::V4(v4)) => out.put_u128(u128::from(v4.to_bits())),
        Some(IpAddr::V6(v6)) => out.put_u128(v6.to_bits()),
    }
}

fn message(kind: u8, body: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::with_capacity(128);
    put_message(kind, &mut out, body);
    out.freeze()
}

fn put_message(kind: u8, out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u8(VERSION);
    out.put_u32(0);
    out.put_u8(kind);
    debug_assert_eq!(out.len() - start, COMMON_HEADER_LEN);
    body(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(start + 1..start + 5) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

fn put_text(kind: u16, text: &str, out: &mut BytesMut) {
    let text = text.get(..text.len().min(1024)).unwrap_or_default();
    out.put_u16(kind);
    out.put_u16(u16::try_from(text.len()).unwrap_or_default());
    out.put_slice(text.as_bytes());
}

/// The first message: who we are.
#[must_use]
pub fn initiation(name: &str, description: &str) -> Bytes {
    message(INITIATION, |out| {
        put_text(1, description, out);
        put_text(2, name, out);
    })
}

/// Why no more is told (RFC 7854 §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TerminationReason {
    /// The session with the collector is closed by configuration or with the speaker.
    AdministrativelyClosed = 0,
    /// The collector is too far behind.
    OutOfResources = 2,
}

/// The last message.
#[must_use]
pub fn termination(reason: TerminationReason) -> Bytes {
    message(TERMINATION, |out| {
        out.put_u16(1);
        out.put_u16(2);
        out.put_u16(reason as u16);
    })
}

/// A session came up: its ends, and both OPENs as they were on the wire (RFC 7854 §4.10). For the Loc-RIB there are neither, and
/// the OPENs only say how to read its routes (RFC 9069 §5.2).
#[must_use]
pub fn peer_up(
    header: &PeerHeader,
    local: Option<IpAddr>,
    ports: (u16, u16),
    sent: &[u8],
    received: &[u8],
) -> Bytes {
    message(PEER_UP, |out| {
        header.encode(out);
        put_address(local, out);
        out.put_u16(ports.0);
        out.put_u16(ports.1);
        out.put_slice(sent);
        out.put_slice(received);
        if header.address.is_none() {
            put_text(TABLE_NAME, LOC_RIB_NAME, out);
        }
    })
}

/// The Loc-RIB is told no more under this header (RFC 9069 §5.3).
#[must_use]
pub fn loc_rib_down(header: &PeerHeader) -> Bytes {
    message(PEER_DOWN, |out| {
        header.encode(out);
        out.put_u8(6);
        put_text(TABLE_NAME, LOC_RIB_NAME, out);
    })
}

/// A session went down (RFC 7854 §4.9).
#[must_use]
pub fn peer_down(header: &PeerHeader, cause: &DownCause) -> Bytes {
    /// Numbers of RFC 4271 §8.1.
    mod event {
        pub(super) const MANUAL_STOP: u16 = 2;
        pub(super) const TCP_CONFIRMED: u16 = 17;
        pub(super) const TCP_FAILS: u16 = 18;
        pub(super) const COLLISION_DUMP: u16 = 23;
    }
    let said = |out: &mut BytesMut, reason: u8, notification: &Notification| {
        out.put_u8(reason);
        // Encoding a NOTIFICATION cannot fail: data that does not fit is cut.
        if let Ok(octets) =
            Message::Notification(notification.clone()).to_bytes(&CodecContext::before_open())
        {
            out.put_slice(&octets);
        }
    };
    let event = |out: &mut BytesMut, number: u16| {
        out.put_u8(2);
        out.put_u16(number);
    };
    message(PEER_DOWN, |out| {
        header.encode(out);
        match cause {
            DownCause::NotificationSent(notification) => said(out, 1, notification),
            DownCause::HoldTimeExpired => {
                said(out, 1, &Notification::new(ErrorCode::HOLD_TIMER_EXPIRED));
            }
            DownCause::SendHoldTimeExpired => {
                let code = ErrorCode::SEND_HOLD_TIMER_EXPIRED;
                said(out, 1, &Notification::new(code));
            }
            DownCause::NotificationReceived(notification) => said(out, 3, notification),
            DownCause::ConnectionLost => out.put_u8(4),
            DownCause::ClosedForRestart => event(out, event::MANUAL_STOP),
            DownCause::ConnectFailed => event(out, event::TCP_FAILS),
            DownCause::ReplacedByPeer => event(out, event::TCP_CONFIRMED),
            DownCause::Collision => event(out, event::COLLISION_DUMP),
        }
    })
}

/// Wraps every UPDATE in `updates`, which are whole messages.
pub fn route_monitoring(header: &PeerHeader, updates: &[u8], out: &mut BytesMut) {
    let mut rest = updates;
    while let Some(&[high, low]) = rest.get(16..18) {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some((update, behind)) = rest.split_at_checked(length).filter(|_| length > 0) else {
            return;
        };
        put_message(ROUTE_MONITORING, out, |out| {
            header.encode(out);
            out.put_slice(update);
        });
        rest = behind;
    }
}

/// One number of a statistics report (RFC 7854 §4.8, RFC 8671 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// 7: paths in the Adj-RIB-In.
    AdjRibIn(u64),
    /// 8: routes in the Loc-RIB.
    LocRib(u64),
    /// 9: paths of one family in the Adj-RIB-In.
    FamilyAdjRibIn(Family, u64),
    /// 10: routes of one family in the Loc-RIB.
    FamilyLocRib(Family, u64),
    /// 11: UPDATEs treated as withdrawals.
    UpdatesTreatedAsWithdraw(u64),
    /// 12: prefixes treated as withdrawn.
    PrefixesTreatedAsWithdraw(u64),
    /// 15: routes in the Adj-RIB-Out, after policy.
    AdjRibOut(u64),
    /// 17: routes of one family in the Adj-RIB-Out, after policy.
    FamilyAdjRibOut(Family, u64),
}

impl Statistic {
    fn encode(self, out: &mut BytesMut) {
        let gauge = |out: &mut BytesMut, kind: u16, value: u64| {
            out.put_u16(kind);
            out.put_u16(8);
            out.put_u64(value);
        };
        let of_family = |out: &mut BytesMut, kind: u16, family: Family, value: u64| {
            out.put_u16(kind);
            out.put_u16(11);
            out.put_u16(family.afi.0);
            out.put_u8(family.safi.0);
            out.put_u64(value);
        };
        // Counters have four octets and wrap.
        let counter = |out: &mut BytesMut, kind: u16, value: u64| {
            out.put_u16(kind);
            out.put_u16(4);
            let [.., a, b, c, d] = value.to_be_bytes();
            out.put_slice(&[a, b, c, d]);
        };
        match self {
            Self::AdjRibIn(value) => gauge(out, 7, value),
            Self::LocRib(value) => gauge(out, 8, value),
            Self::FamilyAdjRibIn(family, value) => of_family(out, 9, family, value),
            Self::FamilyLocRib(family, value) => of_family(out, 10, family, value),
            Self::UpdatesTreatedAsWithdraw(value) => counter(out, 11, value),
            Self::PrefixesTreatedAsWithdraw(value) => counter(out, 12, value),
            Self::AdjRibOut(value) => gauge(out, 15, value),
            Self::FamilyAdjRibOut(family, value) => of_family(out, 17, family, value),
        }
    }
}

/// Numbers of one peer, or of the Loc-RIB.
#[must_use]
pub fn statistics(header: &PeerHeader, list: &[Statistic]) -> Bytes {
    message(STATISTICS, |out| {
        header.encode(out);
        out.put_u32(u32::try_from(list.len()).unwrap_or_default());
        list.iter().for_each(|number| number.encode(out));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_table_it_is_and_how_its_as_numbers_are_written_is_among_the_flags() {
        let header = PeerHeader {
            address: Some("2001:db8::1".parse().unwrap()),
            distinguisher: 0,
            asn: Asn(64512),
            router_id: 1,
            post_policy: false,
            adj_rib_out: false,
            two_octet_as: false,
            time: Duration::ZERO,
        };
        let flags = |header: PeerHeader| {
            let mut out = BytesMut::new();
            header.encode(&mut out);
            assert_eq!(out.len(), 42);
            out[1]
        };
        assert_eq!(flags(header), 0x80);
        let header = PeerHeader {
            post_policy: true,
            ..header
        };
        assert_eq!(flags(header), 0xc0);
        let header = PeerHeader {
            two_octet_as: true,
            adj_rib_out: true,
            ..header
        };
        assert_eq!(flags(header), 0xf0);
    }
}
