//! Messages between octets and types.
//!
//! A byte stream becomes frames in [`framing`], a frame becomes a [`Message`] in [`decode`], and
//! the `encode_*` functions go the other way. Nothing here waits or knows the time, and what a
//! [`Decoder`] remembers saves it work and changes nothing.
//! Both directions depend on what the two OPENs settled, which is a [`CodecContext`].
//!
//! Reading is total: any octets give a message or a [`DecodeError`] that knows its NOTIFICATION,
//! in time linear in their number. Malformed attributes of an UPDATE do not end the session but
//! follow RFC 7606: the message comes out with the affected prefixes already withdrawn and a list
//! of [`AttributeFault`]s. Writing is exact, because peers in the field reset on much that
//! RFC 7606 tolerates: multiprotocol attribute first, the others ascending, one kind of NLRI per
//! message.
//!
//! What is not done here: comparing an OPEN with the configuration (`fsm`), and everything that
//! makes a well-formed route unusable, such as loops and unreachable next hops (`rib`).

pub mod as_path;
pub mod attribute;
mod attribute_list;
pub mod capability;
pub mod community;
mod decoder;
pub mod error;
pub mod framing;
pub mod iana;
mod mp_nlri;
mod nlri;
pub mod notification;
pub mod open;
mod packer;
pub mod route_refresh;
pub mod update;

pub use as_path::{AsPath, SegmentKind};
pub use attribute::{
    Aggregator, LocalPref, Med, NextHop, Origin, PartialBits, PathAttributes, UnknownAttribute,
};
pub use attribute_list::{AttributesBlock, attributes_block};
pub use capability::{
    AddPath, AddPathMode, Capability, ExtendedNextHop, GracefulRestartCapability,
    GracefulRestartFamily, LongLivedFamily, Role,
};
pub use community::{
    Communities, Community, ExtendedCommunities, ExtendedCommunity, Ipv6ExtendedCommunities,
    Ipv6ExtendedCommunity, LargeCommunities, LargeCommunity,
};
pub use decoder::{Decoder, decode};
pub use error::{AttributeFault, DecodeError, EncodeError, FaultAction, FaultKind};
pub use framing::Frame;
pub use iana::{AttributeCode, AttributeFlags, ErrorCode, MessageType};
pub use notification::Notification;
pub use open::{HoldTime, Open};
pub(crate) use packer::Announcer;
pub use packer::{encode_announcements, encode_end_of_rib, encode_withdrawals};
pub use route_refresh::{RefreshKind, RouteRefresh};
pub use update::{Announcement, Nlri, PathId, Update};

use bytes::{Bytes, BytesMut};

use crate::asn::Asn;
use crate::family::{Family, FamilySet};

/// Length of the header every message starts with.
pub const HEADER_LEN: usize = 19;
/// Longest message of RFC 4271.
pub const MAX_LEN: usize = 4096;
/// Longest message where extended messages were negotiated (RFC 8654).
pub const EXTENDED_MAX_LEN: usize = 65535;

/// A KEEPALIVE: the same 19 octets whoever sends it.
pub const KEEPALIVE: [u8; HEADER_LEN] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0, 19, 4,
];

/// A BGP message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// OPEN.
    Open(Open),
    /// UPDATE.
    Update(Update),
    /// NOTIFICATION.
    Notification(Notification),
    /// KEEPALIVE.
    Keepalive,
    /// ROUTE-REFRESH.
    RouteRefresh(RouteRefresh),
}

impl Message {
    /// The type of the message.
    #[must_use]
    pub const fn message_type(&self) -> MessageType {
        match self {
            Self::Open(_) => MessageType::Open,
            Self::Update(_) => MessageType::Update,
            Self::Notification(_) => MessageType::Notification,
            Self::Keepalive => MessageType::Keepalive,
            Self::RouteRefresh(_) => MessageType::RouteRefresh,
        }
    }

    /// Appends the message to `out`; an UPDATE becomes as many messages as it needs.
    ///
    /// # Errors
    /// The message cannot be written for this peer. `out` is left as it was.
    pub fn encode(&self, context: &CodecContext, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self {
            Self::Open(open) => open.encode(out)?,
            Self::Update(update) => update.encode(context, out)?,
            Self::Notification(notification) => notification.encode(context, out),
            Self::Keepalive => out.extend_from_slice(&KEEPALIVE),
            Self::RouteRefresh(refresh) => refresh.encode(out),
        }
        Ok(())
    }

    /// The message as octets of its own.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn to_bytes(&self, context: &CodecContext) -> Result<Bytes, EncodeError> {
        let mut out = BytesMut::new();
        self.encode(context, &mut out)?;
        Ok(out.freeze())
    }
}

/// What the two OPENs of a session settled, as far as it changes how octets are read and written.
/// Small and `Copy`: the reading and the writing half of a connection each hold one.
///
/// Peers with equal contexts read the same octets alike, so an encoded UPDATE may be shared by
/// all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CodecContext {
    /// AS numbers have four octets (RFC 6793).
    pub four_octet_as: bool,
    /// Families both sides listed. Prefixes of others are ignored on receipt.
    pub families: FamilySet,
    /// Families whose NLRI arrive with path identifiers (RFC 7911).
    pub add_path_receive: FamilySet,
    /// Families whose NLRI are sent with path identifiers.
    pub add_path_send: FamilySet,
    /// We offered extended messages, so the peer may send them (RFC 8654 §4).
    pub extended_message_receive: bool,
    /// The peer offered extended messages, so we may send them.
    pub extended_message_send: bool,
    /// IPv4 unicast prefixes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// An IPv6 next hop may be sent as one link-local address.
    pub link_local_next_hop: bool,
    /// BoRR and EoRR are exchanged (RFC 7313).
    pub enhanced_route_refresh: bool,
    /// The peer is in another AS than we are towards it.
    pub peer_is_external: bool,
    /// The AS every received path must start with: an external peer's, unless configured
    /// otherwise or it is a route server.
    pub enforce_first_as: Option<Asn>,
    /// Paths with AS_SET are used rather than withdrawn (RFC 9774 §3).
    pub allow_as_set: bool,
    /// A well-known attribute of no known type ends the session (RFC 4271 §6.3).
    pub strict_attributes: bool,
    /// A malformed multiprotocol attribute disables its family rather than end the session (RFC 7606 §2).
    pub afi_safi_disable: bool,
}

impl CodecContext {
    /// Before the OPENs: standard lengths, nothing negotiated.
    #[must_use]
    pub fn before_open() -> Self {
        Self::default()
    }

    /// Longest message other than OPEN and KEEPALIVE we take.
    #[must_use]
    pub const fn max_receive_len(&self) -> usize {
        if self.extended_message_receive {
            EXTENDED_MAX_LEN
        } else {
            MAX_LEN
        }
    }

    /// Longest message other than OPEN and KEEPALIVE the peer takes.
    #[must_use]
    pub const fn max_send_len(&self) -> usize {
        if self.extended_message_send {
            EXTENDED_MAX_LEN
        } else {
            MAX_LEN
        }
    }

    /// Whether NLRI of `family` are sent with path identifiers.
    #[must_use]
    pub const fn sends_path_ids(&self, family: Family) -> bool {
        self.add_path_send.has(family)
    }
}
