//! Code points of the registries at <https://www.iana.org/assignments/bgp-parameters>. Numbers a
//! peer may invent are newtypes with named constants, so an unknown one survives being decoded.

use std::fmt;

/// Type of a BGP message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageType {
    /// OPEN (RFC 4271 §4.2).
    Open = 1,
    /// UPDATE (RFC 4271 §4.3).
    Update = 2,
    /// NOTIFICATION (RFC 4271 §4.5).
    Notification = 3,
    /// KEEPALIVE (RFC 4271 §4.4).
    Keepalive = 4,
    /// ROUTE-REFRESH (RFC 2918).
    RouteRefresh = 5,
}

impl MessageType {
    /// The type of this number, `None` where no message has it.
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Open,
            2 => Self::Update,
            3 => Self::Notification,
            4 => Self::Keepalive,
            5 => Self::RouteRefresh,
            _ => return None,
        })
    }

    /// The shortest message of this type, header included (RFC 4271 §4, RFC 2918 §3).
    #[must_use]
    pub const fn min_len(self) -> usize {
        match self {
            Self::Open => 29,
            Self::Update | Self::RouteRefresh => 23,
            Self::Notification => 21,
            Self::Keepalive => 19,
        }
    }
}

/// Path attribute type code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttributeCode(pub u8);

macro_rules! attribute_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        impl AttributeCode {
            $($(#[$doc])* pub const $name: Self = Self($number);)*
        }

        impl fmt::Display for AttributeCode {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Self::$name => f.write_str(stringify!($name)),)*
                    Self(number) => write!(f, "attribute {number}"),
                }
            }
        }
    };
}

attribute_codes! {
    /// RFC 4271 §5.1.1.
    ORIGIN = 1,
    /// RFC 4271 §5.1.2.
    AS_PATH = 2,
    /// RFC 4271 §5.1.3.
    NEXT_HOP = 3,
    /// RFC 4271 §5.1.4.
    MULTI_EXIT_DISC = 4,
    /// RFC 4271 §5.1.5.
    LOCAL_PREF = 5,
    /// RFC 4271 §5.1.6.
    ATOMIC_AGGREGATE = 6,
    /// RFC 4271 §5.1.7.
    AGGREGATOR = 7,
    /// RFC 1997.
    COMMUNITIES = 8,
    /// RFC 4456 §8.
    ORIGINATOR_ID = 9,
    /// RFC 4456 §8.
    CLUSTER_LIST = 10,
    /// RFC 4760 §3.
    MP_REACH_NLRI = 14,
    /// RFC 4760 §4.
    MP_UNREACH_NLRI = 15,
    /// RFC 4360.
    EXTENDED_COMMUNITIES = 16,
    /// RFC 6793 §3.
    AS4_PATH = 17,
    /// RFC 6793 §3.
    AS4_AGGREGATOR = 18,
    /// RFC 5701.
    IPV6_EXTENDED_COMMUNITIES = 25,
    /// RFC 7311, not spoken: discarded on receipt.
    AIGP = 26,
    /// RFC 9552, not spoken: discarded on receipt.
    BGP_LS = 29,
    /// RFC 8092.
    LARGE_COMMUNITIES = 32,
    /// RFC 9234 §5.
    ONLY_TO_CUSTOMER = 35,
    /// RFC 8669, not interpreted: passed on.
    PREFIX_SID = 40,
}

impl fmt::Debug for AttributeCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

bitflags::bitflags! {
    /// Flags octet of a path attribute (RFC 4271 §4.3). The low four bits mean nothing.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct AttributeFlags: u8 {
        /// Not every speaker has to recognise the attribute.
        const OPTIONAL = 0x80;
        /// Passed on even by speakers that do not recognise it.
        const TRANSITIVE = 0x40;
        /// Some speaker on the way did not recognise it.
        const PARTIAL = 0x20;
        /// The length field has two octets.
        const EXTENDED_LENGTH = 0x10;
        /// Any bit may be set by a peer.
        const _ = !0;
    }
}

/// Error code and subcode of a NOTIFICATION.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode {
    /// Error code.
    pub code: u8,
    /// Error subcode, zero where the code has none.
    pub subcode: u8,
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $subcode:literal, $text:literal;)*) => {
        impl ErrorCode {
            $($(#[$doc])* pub const $name: Self = Self::new($code, $subcode);)*

            /// The words of the registry, `None` for numbers without any.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

impl ErrorCode {
    /// The pair of these two numbers.
    #[must_use]
    pub const fn new(code: u8, subcode: u8) -> Self {
        Self { code, subcode }
    }

    /// Whether the code is Cease, whatever the subcode.
    #[must_use]
    pub const fn is_cease(self) -> bool {
        self.code == 6
    }
}

error_codes! {
    /// RFC 4271 §6.1.
    NOT_SYNCHRONISED = 1, 1, "connection not synchronised";
    /// RFC 4271 §6.1.
    BAD_MESSAGE_LENGTH = 1, 2, "bad message length";
    /// RFC 4271 §6.1.
    BAD_MESSAGE_TYPE = 1, 3, "bad message type";
    /// RFC 4271 §6.2.
    OPEN_UNSPECIFIC = 2, 0, "malformed OPEN";
    /// RFC 4271 §6.2.
    UNSUPPORTED_VERSION = 2, 1, "unsupported version number";
    /// RFC 4271 §6.2.
    BAD_PEER_AS = 2, 2, "bad peer AS";
    /// RFC 4271 §6.2.
    BAD_BGP_IDENTIFIER = 2, 3, "bad BGP identifier";
    /// RFC 4271 §6.2.
    UNSUPPORTED_OPTIONAL_PARAMETER = 2, 4, "unsupported optional parameter";
    /// RFC 4271 §6.2.
    UNACCEPTABLE_HOLD_TIME = 2, 6, "unacceptable hold time";
    /// RFC 5492 §3.
    UNSUPPORTED_CAPABILITY = 2, 7, "unsupported capability";
    /// RFC 9234 §4.2.
    ROLE_MISMATCH = 2, 11, "role mismatch";
    /// RFC 4271 §6.3.
    MALFORMED_ATTRIBUTE_LIST = 3, 1, "malformed attribute list";
    /// RFC 4271 §6.3.
    UNRECOGNISED_WELL_KNOWN = 3, 2, "unrecognised well-known attribute";
    /// RFC 4271 §6.3.
    MISSING_WELL_KNOWN = 3, 3, "missing well-known attribute";
    /// RFC 4271 §6.3.
    ATTRIBUTE_FLAGS = 3, 4, "attribute flags error";
    /// RFC 4271 §6.3.
    ATTRIBUTE_LENGTH = 3, 5, "attribute length error";
    /// RFC 4271 §6.3.
    INVALID_ORIGIN = 3, 6, "invalid ORIGIN attribute";
    /// RFC 4271 §6.3.
    INVALID_NEXT_HOP = 3, 8, "invalid NEXT_HOP attribute";
    /// RFC 4271 §6.3.
    OPTIONAL_ATTRIBUTE = 3, 9, "optional attribute error";
    /// RFC 4271 §6.3.
    INVALID_NETWORK_FIELD = 3, 10, "invalid network field";
    /// RFC 4271 §6.3.
    MALFORMED_AS_PATH = 3, 11, "malformed AS_PATH";
    /// RFC 4271 §6.5.
    HOLD_TIMER_EXPIRED = 4, 0, "hold timer expired";
    /// RFC 4271 §6.6.
    FSM_UNSPECIFIC = 5, 0, "finite state machine error";
    /// RFC 6608 §3.
    UNEXPECTED_IN_OPEN_SENT = 5, 1, "unexpected message in OpenSent";
    /// RFC 6608 §3.
    UNEXPECTED_IN_OPEN_CONFIRM = 5, 2, "unexpected message in OpenConfirm";
    /// RFC 6608 §3.
    UNEXPECTED_IN_ESTABLISHED = 5, 3, "unexpected message in Established";
    /// RFC 4486 §3.
    MAXIMUM_PREFIXES = 6, 1, "maximum number of prefixes reached";
    /// RFC 4486 §3.
    ADMINISTRATIVE_SHUTDOWN = 6, 2, "administrative shutdown";
    /// RFC 4486 §3.
    PEER_DECONFIGURED = 6, 3, "peer deconfigured";
    /// RFC 4486 §3.
    ADMINISTRATIVE_RESET = 6, 4, "administrative reset";
    /// RFC 4486 §3.
    CONNECTION_REJECTED = 6, 5, "connection rejected";
    /// RFC 4486 §3.
    OTHER_CONFIGURATION_CHANGE = 6, 6, "other configuration change";
    /// RFC 4486 §3.
    CONNECTION_COLLISION = 6, 7, "connection collision resolution";
    /// RFC 4486 §3.
    OUT_OF_RESOURCES = 6, 8, "out of resources";
    /// RFC 8538 §3.1.
    HARD_RESET = 6, 9, "hard reset";
    /// RFC 9384 §3.
    BFD_DOWN = 6, 10, "BFD down";
    /// RFC 7313 §5.
    INVALID_ROUTE_REFRESH_LENGTH = 7, 1, "invalid ROUTE-REFRESH length";
    /// RFC 9687 §3.
    SEND_HOLD_TIMER_EXPIRED = 8, 0, "send hold timer expired";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.name() {
            write!(f, "{name} ({}/{})", self.code, self.subcode)
        } else {
            write!(f, "unknown error {}/{}", self.code, self.subcode)
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// BGP capability codes, <https://www.iana.org/assignments/capability-codes>.
pub mod capability_code {
    /// RFC 4760 §8.
    pub const MULTIPROTOCOL: u8 = 1;
    /// RFC 2918 §2.
    pub const ROUTE_REFRESH: u8 = 2;
    /// RFC 8950 §4.
    pub const EXTENDED_NEXT_HOP: u8 = 5;
    /// RFC 8654 §3.
    pub const EXTENDED_MESSAGE: u8 = 6;
    /// RFC 9234 §4.1.
    pub const ROLE: u8 = 9;
    /// RFC 4724 §3.
    pub const GRACEFUL_RESTART: u8 = 64;
    /// RFC 6793 §3.
    pub const FOUR_OCTET_AS: u8 = 65;
    /// RFC 7911 §4.
    pub const ADD_PATH: u8 = 69;
    /// RFC 7313 §3.1.
    pub const ENHANCED_ROUTE_REFRESH: u8 = 70;
    /// RFC 9494 §3.
    pub const LONG_LIVED_GRACEFUL_RESTART: u8 = 71;
    /// draft-walton-bgp-hostname-capability.
    pub const FQDN: u8 = 73;
    /// draft-white-linklocal-capability.
    pub const LINK_LOCAL_NEXT_HOP: u8 = 77;
    /// Route refresh as shipped before RFC 2918.
    pub const ROUTE_REFRESH_CISCO: u8 = 128;
}
