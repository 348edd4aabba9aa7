//! BGP Identifiers (RFC 6286).

use std::fmt;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::str::FromStr;

/// A BGP Identifier: any non-zero 32-bit number, written like an IPv4 address (RFC 6286 §2.1).
/// Also the form of ORIGINATOR_ID and of cluster identifiers (RFC 4456 §7).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(NonZeroU32);

impl RouterId {
    /// The identifier of this number, `None` for zero.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number, which is what RFC 4271 §6.8 and RFC 4456 §9 compare.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The identifier in the four-octet form it is written in.
    #[must_use]
    pub const fn addr(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.get())
    }
}

/// A router identifier of zero, or a text that is no dotted quad.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a router id, expected a dotted quad other than 0.0.0.0")]
pub struct RouterIdError(pub String);

impl TryFrom<Ipv4Addr> for RouterId {
    type Error = RouterIdError;

    fn try_from(addr: Ipv4Addr) -> Result<Self, RouterIdError> {
        Self::new(addr.to_bits()).ok_or_else(|| RouterIdError(addr.to_string()))
    }
}

impl From<RouterId> for Ipv4Addr {
    fn from(id: RouterId) -> Self {
        id.addr()
    }
}

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr().fmt(f)
    }
}

impl fmt::Debug for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RouterId {
    type Err = RouterIdError;

    fn from_str(text: &str) -> Result<Self, RouterIdError> {
        text.parse::<Ipv4Addr>()
            .ok()
            .and_then(|addr| Self::new(addr.to_bits()))
            .ok_or_else(|| RouterIdError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_identifies_nobody() {
        assert_eq!(RouterId::new(0), None);
        assert!("0.0.0.0".parse::<RouterId>().is_err());
        assert!(RouterId::try_from(Ipv4Addr::UNSPECIFIED).is_err());
    }

    #[test]
    fn order_is_that_of_the_number() {
        let low: RouterId = "9.255.255.255".parse().unwrap();
        let high: RouterId = "10.0.0.1".parse().unwrap();
        assert!(low < high);
        assert_eq!(high.get(), 0x0a00_0001);
        assert_eq!(high.to_string(), "10.0.0.1");
    }
}
