//! Autonomous system numbers (RFC 6793).

use std::fmt;
use std::str::FromStr;

/// A four-octet AS number. Zero exists because a peer can send it (RFC 7607); configuration
/// refuses it with [`is_reserved_zero`](Asn::is_reserved_zero).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asn(pub u32);

impl Asn {
    /// 23456 stands for a number that does not fit two octets (RFC 6793 §9).
    pub const AS_TRANS: Self = Self(23456);

    /// Whether this is AS 0, which identifies no network (RFC 7607).
    #[must_use]
    pub const fn is_reserved_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether the number is from a private range (RFC 6996).
    #[must_use]
    pub const fn is_private(self) -> bool {
        matches!(self.0, 64512..=65534 | 4_200_000_000..=4_294_967_294)
    }

    /// Whether the number fits the two-octet fields of RFC 4271.
    #[must_use]
    pub const fn is_two_octet(self) -> bool {
        self.0 <= 0xffff
    }

    /// The number in two octets, [`AS_TRANS`](Self::AS_TRANS) where it does not fit.
    #[must_use]
    pub fn to_two_octets(self) -> u16 {
        u16::try_from(self.0).unwrap_or(23456)
    }
}

impl From<u32> for Asn {
    fn from(number: u32) -> Self {
        Self(number)
    }
}

impl From<Asn> for u32 {
    fn from(asn: Asn) -> Self {
        asn.0
    }
}

/// Plain decimal ("asplain", RFC 5396).
impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AS{}", self.0)
    }
}

/// The text is no AS number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an AS number, expected 0 to 4294967295 or high.low")]
pub struct AsnError(pub String);

/// A part of an AS number: digits alone, where `str::parse` would accept a plus sign too.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    text.bytes()
        .all(|octet| octet.is_ascii_digit())
        .then(|| text.parse().ok())?
}

impl FromStr for Asn {
    type Err = AsnError;

    /// Accepts decimal and "asdot" (RFC 5396), which Calico writes for large numbers.
    fn from_str(text: &str) -> Result<Self, AsnError> {
        let number = match text.split_once('.') {
            None => digits(text),
            Some((high, low)) => digits::<u16>(high)
                .zip(digits::<u16>(low))
                .map(|(high, low)| u32::from(high) << 16 | u32::from(low)),
        };
        number.map(Self).ok_or_else(|| AsnError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_notations_name_the_same_number() {
        assert_eq!("4200000001".parse(), Ok(Asn(4_200_000_001)));
        assert_eq!("64086.59905".parse(), Ok(Asn(4_200_000_001)));
        assert_eq!("0.64512".parse(), Ok(Asn(64512)));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "",
            "-1",
            "+1",
            "4294967296",
            "1.65536",
            "1.2.3",
            ".1",
            "1.",
            "AS1",
        ] {
            assert!(text.parse::<Asn>().is_err(), "{text}");
        }
    }

    #[test]
    fn large_numbers_become_as_trans_in_two_octets() {
        assert_eq!(Asn(65535).to_two_octets(), 65535);
        assert_eq!(Asn(65536).to_two_octets(), 23456);
    }

    #[test]
    fn private_ranges_exclude_the_last_number() {
        assert!(Asn(64512).is_private() && Asn(65534).is_private() && !Asn(65535).is_private());
        assert!(Asn(4_294_967_294).is_private() && !Asn(u32::MAX).is_private());
    }
}
