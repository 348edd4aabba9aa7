//! Address prefixes whose host bits are zero by construction.
//!
//! A prefix is an address and a length, and two spellings of one network must be one key in every
//! table, so the bits behind the length are cleared when the value is made (RFC 4271 §4.3 calls
//! them irrelevant). The types order by address, then by length: a covering prefix comes
//! immediately before what it covers.
//!
//! Both are plain octets without padding demands beyond their own, which keeps an
//! [`Nlri`](crate::codec::Nlri) at 28 octets for either family.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::family::Family;

/// Why a text or a pair of address and length is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The length exceeds the number of bits of the address.
    #[error("prefix length {length} exceeds {maximum}")]
    Length {
        /// The length asked for.
        length: u8,
        /// The longest the address family allows.
        maximum: u8,
    },
    /// The text is not `address/length`.
    #[error("{0:?} is not a prefix of the form address/length")]
    Syntax(String),
}

/// The bits of an IPv4 address covered by a length of 0 to 32.
const fn mask_v4(len: u8) -> u32 {
    match u32::MAX.checked_shl(32 - len as u32) {
        Some(mask) => mask,
        None => 0,
    }
}

/// The bits of an IPv6 address covered by a length of 0 to 128.
const fn mask_v6(len: u8) -> u128 {
    match u128::MAX.checked_shl(128 - len as u32) {
        Some(mask) => mask,
        None => 0,
    }
}

/// An IPv4 prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Prefix {
    bits: u32,
    len: u8,
}

impl Ipv4Prefix {
    /// `0.0.0.0/0`.
    pub const DEFAULT: Self = Self { bits: 0, len: 0 };
    /// Number of bits of an address, the longest length.
    pub const MAX_LEN: u8 = 32;

    /// The network of `len` bits that holds `addr`.
    ///
    /// # Errors
    /// `len` exceeds 32.
    pub const fn new(addr: Ipv4Addr, len: u8) -> Result<Self, PrefixError> {
        if len > Self::MAX_LEN {
            return Err(PrefixError::Length {
                length: len,
                maximum: Self::MAX_LEN,
            });
        }
        Ok(Self::masked(addr.to_bits(), len))
    }

    /// The prefix of one address.
    #[must_use]
    pub const fn host(addr: Ipv4Addr) -> Self {
        Self {
            bits: addr.to_bits(),
            len: Self::MAX_LEN,
        }
    }

    /// As [`new`](Self::new) for a length already known to be at most 32.
    pub(crate) const fn masked(bits: u32, len: u8) -> Self {
        Self {
            bits: bits & mask_v4(len),
            len,
        }
    }

    /// First address of the network.
    #[must_use]
    pub const fn addr(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.bits)
    }

    /// The network address as an integer, most significant bit first.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.bits
    }

    /// Length in bits, 0 to 32.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a length in bits, not a count of elements"
    )]
    pub const fn len(self) -> u8 {
        self.len
    }

    /// The address mask of the length.
    #[must_use]
    pub const fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask_v4(self.len))
    }

    /// Last address of the network.
    #[must_use]
    pub const fn last_addr(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.bits | !mask_v4(self.len))
    }

    /// Whether every address of `other` lies in `self`; true for equal prefixes.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.len <= other.len && other.bits & mask_v4(self.len) == self.bits
    }

    /// Whether `addr` lies in `self`.
    #[must_use]
    pub const fn contains_addr(self, addr: Ipv4Addr) -> bool {
        addr.to_bits() & mask_v4(self.len) == self.bits
    }
}

/// An IPv6 prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv6Prefix {
    addr: Ipv6Addr,
    len: u8,
}

impl Ipv6Prefix {
    /// `::/0`.
    pub const DEFAULT: Self = Self {
        addr: Ipv6Addr::UNSPECIFIED,
        len: 0,
    };
    /// Number of bits of an address, the longest length.
    pub const MAX_LEN: u8 = 128;

    /// The network of `len` bits that holds `addr`.
    ///
    /// # Errors
    /// `len` exceeds 128.
    pub const fn new(addr: Ipv6Addr, len: u8) -> Result<Self, PrefixError> {
        if len > Self::MAX_LEN {
            return Err(PrefixError::Length {
                length: len,
                maximum: Self::MAX_LEN,
            });
        }
        Ok(Self::masked(addr.to_bits(), len))
    }

    /// The prefix of one address.
    #[must_use]
    pub const fn host(addr: Ipv6Addr) -> Self {
        Self {
            addr,
            len: Self::MAX_LEN,
        }
    }

    /// As [`new`](Self::new) for a length already known to be at most 128.
    pub(crate) const fn masked(bits: u128, len: u8) -> Self {
        Self {
            addr: Ipv6Addr::from_bits(bits & mask_v6(len)),
            len,
        }
    }

    /// First address of the network.
    #[must_use]
    pub const fn addr(self) -> Ipv6Addr {
        self.addr
    }

    /// The network address as an integer, most significant bit first.
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.addr.to_bits()
    }

    /// Length in bits, 0 to 128.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a length in bits, not a count of elements"
    )]
    pub const fn len(self) -> u8 {
        self.len
    }

    /// Last address of the network.
    #[must_use]
    pub const fn last_addr(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.bits() | !mask_v6(self.len))
    }

    /// Whether every address of `other` lies in `self`; true for equal prefixes.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.len <= other.len && other.bits() & mask_v6(self.len) == self.bits()
    }

    /// Whether `addr` lies in `self`.
    #[must_use]
    pub const fn contains_addr(self, addr: Ipv6Addr) -> bool {
        addr.to_bits() & mask_v6(self.len) == self.bits()
    }
}

/// A prefix of either family. Every IPv4 prefix orders before every IPv6 prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Prefix {
    /// An IPv4 prefix.
    V4(Ipv4Prefix),
    /// An IPv6 prefix.
    V6(Ipv6Prefix),
}

impl Prefix {
    /// Whether it is the default route's: everything of its family.
    #[must_use]
    pub const fn is_default(self) -> bool {
        self.len() == 0
    }

    /// The network of `len` bits that holds `addr`.
    ///
    /// # Errors
    /// `len` exceeds the number of bits of the address.
    pub fn new(addr: IpAddr, len: u8) -> Result<Self, PrefixError> {
        match addr {
            IpAddr::V4(addr) => Ipv4Prefix::new(addr, len).map(Self::V4),
            IpAddr::V6(addr) => Ipv6Prefix::new(addr, len).map(Self::V6),
        }
    }

    /// The prefix of one address: `/32` or `/128`.
    #[must_use]
    pub const fn host(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => Self::V4(Ipv4Prefix::host(addr)),
            IpAddr::V6(addr) => Self::V6(Ipv6Prefix::host(addr)),
        }
    }

    /// First address of the network.
    #[must_use]
    pub const fn addr(self) -> IpAddr {
        match self {
            Self::V4(prefix) => IpAddr::V4(prefix.addr()),
            Self::V6(prefix) => IpAddr::V6(prefix.addr()),
        }
    }

    /// Last address of the network.
    #[must_use]
    pub const fn last_addr(self) -> IpAddr {
        match self {
            Self::V4(prefix) => IpAddr::V4(prefix.last_addr()),
            Self::V6(prefix) => IpAddr::V6(prefix.last_addr()),
        }
    }

    /// Length in bits.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a length in bits, not a count of elements"
    )]
    pub const fn len(self) -> u8 {
        match self {
            Self::V4(prefix) => prefix.len(),
            Self::V6(prefix) => prefix.len(),
        }
    }

    /// The longest length of this prefix's family: 32 or 128.
    #[must_use]
    pub const fn max_len(self) -> u8 {
        match self {
            Self::V4(_) => Ipv4Prefix::MAX_LEN,
            Self::V6(_) => Ipv6Prefix::MAX_LEN,
        }
    }

    /// Whether this is the prefix of a single address.
    #[must_use]
    pub const fn is_host(self) -> bool {
        self.len() == self.max_len()
    }

    /// The unicast family that carries this prefix.
    #[must_use]
    pub const fn family(self) -> Family {
        match self {
            Self::V4(_) => Family::IPV4_UNICAST,
            Self::V6(_) => Family::IPV6_UNICAST,
        }
    }

    /// Whether every address of `other` lies in `self`; false across families.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        match (self, other) {
            (Self::V4(outer), Self::V4(inner)) => outer.contains(inner),
            (Self::V6(outer), Self::V6(inner)) => outer.contains(inner),
            (Self::V4(_), Self::V6(_)) | (Self::V6(_), Self::V4(_)) => false,
        }
    }

    /// Whether `addr` lies in `self`; false across families.
    #[must_use]
    pub const fn contains_addr(self, addr: IpAddr) -> bool {
        match (self, addr) {
            (Self::V4(prefix), IpAddr::V4(addr)) => prefix.contains_addr(addr),
            (Self::V6(prefix), IpAddr::V6(addr)) => prefix.contains_addr(addr),
            (Self::V4(_), IpAddr::V6(_)) | (Self::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl From<Ipv4Prefix> for Prefix {
    fn from(prefix: Ipv4Prefix) -> Self {
        Self::V4(prefix)
    }
}

impl From<Ipv6Prefix> for Prefix {
    fn from(prefix: Ipv6Prefix) -> Self {
        Self::V6(prefix)
    }
}

impl fmt::Display for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr(), self.len)
    }
}

impl fmt::Display for Ipv6Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(prefix) => prefix.fmt(f),
            Self::V6(prefix) => prefix.fmt(f),
        }
    }
}

// A prefix reads the same in a failed assertion as in a log line.
impl fmt::Debug for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Ipv6Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Splits `address/length`; both must be there and nothing else.
fn split<A: FromStr>(text: &str) -> Result<(A, u8), PrefixError> {
    let syntax = || PrefixError::Syntax(text.to_owned());
    let (addr, len) = text.split_once('/').ok_or_else(syntax)?;
    // `u8::from_str` accepts a leading plus sign, which no other tool would print.
    if !len.bytes().all(|octet| octet.is_ascii_digit()) {
        return Err(syntax());
    }
    match (addr.parse(), len.parse()) {
        (Ok(addr), Ok(len)) => Ok((addr, len)),
        _ => Err(syntax()),
    }
}

impl FromStr for Ipv4Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        split(text).and_then(|(addr, len)| Self::new(addr, len))
    }
}

impl FromStr for Ipv6Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        split(text).and_then(|(addr, len)| Self::new(addr, len))
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        split(text).and_then(|(addr, len)| Self::new(addr, len))
    }
}

impl prefix_trie::Prefix for Ipv4Prefix {
    type R = u32;

    fn repr(&self) -> u32 {
        self.bits
    }

    fn prefix_len(&self) -> u8 {
        self.len
    }

    fn from_repr_len(repr: u32, len: u8) -> Self {
        Self::masked(repr, len.min(Self::MAX_LEN))
    }

    fn mask(&self) -> u32 {
        self.bits
    }
}

impl prefix_trie::Prefix for Ipv6Prefix {
    type R = u128;

    fn repr(&self) -> u128 {
        self.bits()
    }

    fn prefix_len(&self) -> u8 {
        self.len
    }

    fn from_repr_len(repr: u128, len: u8) -> Self {
        Self::masked(repr, len.min(Self::MAX_LEN))
    }

    fn mask(&self) -> u128 {
        self.bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn host_bits_are_cleared_at_construction() {
        assert_eq!(p("10.65.1.200/26"), p("10.65.1.192/26"));
        assert_eq!(p("fd00::1:2:3/64"), p("fd00::/64"));
        assert_eq!(p("255.255.255.255/0").to_string(), "0.0.0.0/0");
        assert_eq!(p("ffff::/0").to_string(), "::/0");
    }

    #[test]
    fn text_that_is_no_prefix_is_refused() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "/8",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "10.0.0.0/33",
            "::/129",
            "::/256",
        ] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
        assert!("::/8".parse::<Ipv4Prefix>().is_err());
    }

    #[test]
    fn a_prefix_contains_itself_and_what_is_longer() {
        assert!(p("10.0.0.0/8").contains(p("10.0.0.0/8")));
        assert!(p("10.0.0.0/8").contains(p("10.255.0.0/16")));
        assert!(!p("10.0.0.0/16").contains(p("10.0.0.0/8")));
        assert!(p("0.0.0.0/0").contains(p("203.0.113.7/32")));
        assert!(!p("0.0.0.0/0").contains(p("::/0")));
        assert!(p("fd00::/8").contains_addr("fdff::1".parse().unwrap()));
    }

    #[test]
    fn a_covering_prefix_orders_before_what_it_covers() {
        let mut list = [
            p("10.1.0.0/16"),
            p("::/0"),
            p("10.0.0.0/16"),
            p("10.0.0.0/8"),
        ];
        list.sort_unstable();
        assert_eq!(
            list,
            [
                p("10.0.0.0/8"),
                p("10.0.0.0/16"),
                p("10.1.0.0/16"),
                p("::/0")
            ]
        );
    }

    #[test]
    fn last_address_has_every_host_bit_set() {
        assert_eq!(p("10.65.1.192/26").last_addr().to_string(), "10.65.1.255");
        assert_eq!(p("fd00::/126").last_addr().to_string(), "fd00::3");
    }

    #[test]
    fn prefixes_stay_small() {
        assert_eq!(size_of::<Prefix>(), 20);
    }
}
