//! Address families: AFI and SAFI (RFC 4760).

use std::fmt;
use std::hash::Hash;
use std::str::FromStr;

use crate::prefix::{Ipv4Prefix, Ipv6Prefix, Prefix};

/// Address Family Identifier, <https://www.iana.org/assignments/address-family-numbers>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Afi(pub u16);

impl Afi {
    /// IPv4.
    pub const IPV4: Self = Self(1);
    /// IPv6.
    pub const IPV6: Self = Self(2);
}

/// Subsequent Address Family Identifier, <https://www.iana.org/assignments/safi-namespace>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Safi(pub u8);

impl Safi {
    /// Unicast forwarding.
    pub const UNICAST: Self = Self(1);
}

/// An address family as BGP negotiates it. Any pair of numbers can arrive from a peer; margay
/// speaks the two that have constants here and carries the others only to name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Family {
    /// Address Family Identifier.
    pub afi: Afi,
    /// Subsequent Address Family Identifier.
    pub safi: Safi,
}

impl Family {
    /// IPv4 unicast, AFI 1 SAFI 1.
    pub const IPV4_UNICAST: Self = Self::new(Afi::IPV4, Safi::UNICAST);
    /// IPv6 unicast, AFI 2 SAFI 1.
    pub const IPV6_UNICAST: Self = Self::new(Afi::IPV6, Safi::UNICAST);
    /// Every family margay speaks.
    pub const ALL: [Self; 2] = [Self::IPV4_UNICAST, Self::IPV6_UNICAST];

    /// The family of these two numbers.
    #[must_use]
    pub const fn new(afi: Afi, safi: Safi) -> Self {
        Self { afi, safi }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::IPV4_UNICAST => f.write_str("ipv4-unicast"),
            Self::IPV6_UNICAST => f.write_str("ipv6-unicast"),
            Self { afi, safi } => write!(f, "afi-{}-safi-{}", afi.0, safi.0),
        }
    }
}

/// The text names no family margay speaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown address family {0:?}, expected ipv4-unicast or ipv6-unicast")]
pub struct UnknownFamily(pub String);

impl FromStr for Family {
    type Err = UnknownFamily;

    fn from_str(text: &str) -> Result<Self, UnknownFamily> {
        match text {
            "ipv4-unicast" => Ok(Self::IPV4_UNICAST),
            "ipv6-unicast" => Ok(Self::IPV6_UNICAST),
            _ => Err(UnknownFamily(text.to_owned())),
        }
    }
}

bitflags::bitflags! {
    /// A set of the families margay speaks.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    pub struct FamilySet: u8 {
        /// IPv4 unicast.
        const IPV4_UNICAST = 1;
        /// IPv6 unicast.
        const IPV6_UNICAST = 2;
    }
}

impl FamilySet {
    /// Whether `family` is in the set; false for families margay does not speak.
    #[must_use]
    pub const fn has(self, family: Family) -> bool {
        let one = Self::of(family);
        !one.is_empty() && self.contains(one)
    }

    /// The set of one family, empty for one margay does not speak.
    #[must_use]
    pub const fn of(family: Family) -> Self {
        match family {
            Family::IPV4_UNICAST => Self::IPV4_UNICAST,
            Family::IPV6_UNICAST => Self::IPV6_UNICAST,
            _ => Self::empty(),
        }
    }

    /// The members, IPv4 first.
    pub fn families(self) -> impl Iterator<Item = Family> {
        Family::ALL
            .into_iter()
            .filter(move |&family| self.has(family))
    }
}

impl FromIterator<Family> for FamilySet {
    /// Families margay does not speak are left out.
    fn from_iter<I: IntoIterator<Item = Family>>(families: I) -> Self {
        families.into_iter().map(Self::of).collect()
    }
}

/// What code generic over IPv4 and IPv6 unicast needs to know: a table is written once and
/// instantiated for each prefix type.
pub trait AddressFamily:
    Copy + Ord + Hash + fmt::Display + prefix_trie::Prefix + Into<Prefix>
{
    /// The family carrying this prefix type.
    const FAMILY: Family;

    /// The prefix, if it is of this family.
    fn from_prefix(prefix: Prefix) -> Option<Self>;
}

impl AddressFamily for Ipv4Prefix {
    const FAMILY: Family = Family::IPV4_UNICAST;

    fn from_prefix(prefix: Prefix) -> Option<Self> {
        match prefix {
            Prefix::V4(prefix) => Some(prefix),
            Prefix::V6(_) => None,
        }
    }
}

impl AddressFamily for Ipv6Prefix {
    const FAMILY: Family = Family::IPV6_UNICAST;

    fn from_prefix(prefix: Prefix) -> Option<Self> {
        match prefix {
            Prefix::V4(_) => None,
            Prefix::V6(prefix) => Some(prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for family in Family::ALL {
            assert_eq!(family.to_string().parse(), Ok(family));
        }
        assert_eq!(Family::new(Afi(25), Safi(70)).to_string(), "afi-25-safi-70");
    }

    #[test]
    fn a_set_holds_only_spoken_families() {
        let evpn = Family::new(Afi(25), Safi(70));
        let set: FamilySet = [evpn, Family::IPV6_UNICAST].into_iter().collect();
        assert_eq!(set, FamilySet::IPV6_UNICAST);
        assert!(!set.has(evpn));
        assert_eq!(set.families().collect::<Vec<_>>(), [Family::IPV6_UNICAST]);
    }
}
