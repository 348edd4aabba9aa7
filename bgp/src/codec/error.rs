//! What a peer got wrong, and what is done about it.
//!
//! A [`DecodeError`] ends the session and knows the NOTIFICATION that says why. An
//! [`AttributeFault`] is one of the errors RFC 7606 lets the session survive: it travels with the
//! decoded UPDATE, already acted upon, so it can be counted and logged.

use bytes::Bytes;

use super::iana::{AttributeCode, ErrorCode};
use super::notification::Notification;
use crate::family::Family;

/// Octets no session survives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The marker is not all ones (RFC 4271 §6.1).
    #[error("message marker is not all ones")]
    Marker,
    /// The length is outside what its type and the session allow (RFC 4271 §6.1).
    #[error("bad message length {0}")]
    MessageLength(u16),
    /// No message has this type (RFC 4271 §6.1).
    #[error("unknown message type {0}")]
    MessageType(u8),
    /// The frame handed in is not one whole message. The caller's mistake, answered as a bad
    /// length.
    #[error("frame of {0} octets is not one whole message")]
    Frame(usize),
    /// OPEN of another version than 4 (RFC 4271 §6.2).
    #[error("unsupported BGP version {0}")]
    Version(u8),
    /// The parameters or capabilities of an OPEN do not add up (RFC 4271 §6.2).
    #[error("malformed OPEN: {0}")]
    Open(&'static str),
    /// An optional parameter other than Capabilities (RFC 4271 §6.2). Holds the parameter.
    #[error("unsupported optional parameter {:?}", .0.first())]
    OptionalParameter(Bytes),
    /// AS 0 or AS_TRANS where the peer's own number belongs (RFC 7607, RFC 6793).
    #[error("peer claims reserved AS {0}")]
    PeerAs(u32),
    /// A BGP Identifier of zero (RFC 6286 §2.1).
    #[error("peer claims router id 0.0.0.0")]
    RouterId,
    /// A hold time of one or two seconds (RFC 4271 §4.2).
    #[error("unacceptable hold time of {0} s")]
    HoldTime(u16),
    /// The length fields of an UPDATE contradict each other, a multiprotocol attribute is there
    /// twice, or attributes that announce nothing are malformed (RFC 7606 §3, §5.2).
    #[error("malformed attribute list: {0}")]
    AttributeList(&'static str),
    /// A prefix longer than its family allows, or cut off, outside an attribute (RFC 7606 §5.3).
    #[error("malformed prefix in {0}")]
    NetworkField(&'static str),
    /// MP_REACH_NLRI or MP_UNREACH_NLRI that cannot be read (RFC 7606 §7.11). Holds the whole
    /// attribute.
    #[error("malformed {code}: {reason}")]
    MpNlri {
        /// Which of the two.
        code: AttributeCode,
        /// What is wrong with it.
        reason: &'static str,
        /// The attribute as received.
        attribute: Bytes,
    },
    /// A well-known attribute of no known type, where that is not tolerated (RFC 4271 §6.3). Holds the attribute.
    #[error("unrecognised well-known attribute {:?}", .0.get(1))]
    UnrecognisedWellKnown(Bytes),
    /// BoRR or EoRR of another length than 23 (RFC 7313 §5). Holds the message.
    #[error("bad length of a ROUTE-REFRESH")]
    RouteRefreshLength(Bytes),
}

impl From<&DecodeError> for Notification {
    fn from(error: &DecodeError) -> Self {
        let plain = Self::new;
        let with = |code, data: &[u8]| Self::with_data(code, Bytes::copy_from_slice(data));
        match error {
            DecodeError::Marker => plain(ErrorCode::NOT_SYNCHRONISED),
            DecodeError::MessageLength(length) => {
                with(ErrorCode::BAD_MESSAGE_LENGTH, &length.to_be_bytes())
            }
            DecodeError::Frame(length) => {
                let length = u16::try_from(*length).unwrap_or(u16::MAX);
                with(ErrorCode::BAD_MESSAGE_LENGTH, &length.to_be_bytes())
            }
            DecodeError::MessageType(number) => with(ErrorCode::BAD_MESSAGE_TYPE, &[*number]),
            // The largest version we speak, in two octets (RFC 4271 §6.2).
            DecodeError::Version(_) => with(ErrorCode::UNSUPPORTED_VERSION, &[0, 4]),
            DecodeError::Open(_) => plain(ErrorCode::OPEN_UNSPECIFIC),
            DecodeError::OptionalParameter(parameter) => {
                Self::with_data(ErrorCode::UNSUPPORTED_OPTIONAL_PARAMETER, parameter.clone())
            }
            DecodeError::PeerAs(_) => plain(ErrorCode::BAD_PEER_AS),
            DecodeError::RouterId => plain(ErrorCode::BAD_BGP_IDENTIFIER),
            DecodeError::HoldTime(_) => plain(ErrorCode::UNACCEPTABLE_HOLD_TIME),
            DecodeError::AttributeList(_) => plain(ErrorCode::MALFORMED_ATTRIBUTE_LIST),
            DecodeError::NetworkField(_) => plain(ErrorCode::INVALID_NETWORK_FIELD),
            DecodeError::MpNlri { attribute, .. } => {
                Self::with_data(ErrorCode::OPTIONAL_ATTRIBUTE, attribute.clone())
            }
            DecodeError::UnrecognisedWellKnown(attribute) => {
                Self::with_data(ErrorCode::UNRECOGNISED_WELL_KNOWN, attribute.clone())
            }
            DecodeError::RouteRefreshLength(message) => {
                Self::with_data(ErrorCode::INVALID_ROUTE_REFRESH_LENGTH, message.clone())
            }
        }
    }
}

/// What RFC 7606 §2 does about a malformed attribute, weakest first. Session reset, the
/// strongest, is a [`DecodeError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultAction {
    /// The attribute is ignored and the route used.
    AttributeDiscard,
    /// The prefixes count as withdrawn.
    TreatAsWithdraw,
    /// Nothing of the family is taken until the session ends. Only where configured; otherwise the session is reset, because a
    /// family that is silently dead is worse for its routes than that.
    DisableFamily,
}

/// What is wrong with an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum FaultKind {
    /// Header or value goes past the end of the attributes.
    #[error("overruns the attribute list")]
    Overrun,
    /// The attribute is there again.
    #[error("repeated")]
    Duplicate,
    /// Optional or transitive bit contradicts the type.
    #[error("wrong flags")]
    Flags,
    /// Length not possible for the type.
    #[error("wrong length")]
    Length,
    /// Value not allowed for the type.
    #[error("invalid value")]
    Value,
    /// A mandatory attribute is not there.
    #[error("missing")]
    Missing,
    /// Well-known by its flags, and yet of no known type.
    #[error("unrecognised well-known attribute")]
    UnrecognisedWellKnown,
    /// The attribute has no meaning from a peer of this kind.
    #[error("not expected from this peer")]
    Unexpected,
    /// The leftmost AS is not the peer's.
    #[error("first AS is not the peer's")]
    FirstAs,
    /// AS_SET (RFC 9774).
    #[error("contains an AS_SET")]
    AsSet,
    /// A multiprotocol attribute that cannot be read.
    #[error("malformed")]
    Multiprotocol,
    /// Its family was not negotiated; its prefixes are not looked at.
    #[error("family {0} was not negotiated")]
    Family(Family),
}

/// A malformed attribute and what was done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[error("{code}: {kind}")]
pub struct AttributeFault {
    /// The attribute.
    pub code: AttributeCode,
    /// What is wrong with it.
    pub kind: FaultKind,
    /// What was done.
    pub action: FaultAction,
}

/// Why a message cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Attributes leave no room for a single prefix in the largest message the peer takes. The
    /// route must be withdrawn instead (RFC 4271 §9.2).
    #[error("attributes of {length} octets leave no room for a prefix")]
    AttributesTooLong {
        /// Length of the attributes.
        length: usize,
    },
    /// A value exceeds what its length field can say.
    #[error("{0} is too long for its length field")]
    TooLong(&'static str),
    /// The next hop cannot be sent with this family to this peer.
    #[error("next hop {next_hop:?} cannot be sent for {family}")]
    NextHop {
        /// The next hop.
        next_hop: super::attribute::NextHop,
        /// The family of the prefixes.
        family: Family,
    },
    /// A prefix of another family than the one being packed, or a path identifier missing where
    /// ADD-PATH was negotiated, or the reverse.
    #[error("{0} does not belong in this message")]
    Nlri(super::update::Nlri),
}
