//! Communities: standard (RFC 1997), extended (RFC 4360), IPv6 extended (RFC 5701) and large
//! (RFC 8092), and the sorted set that holds each kind.

use std::fmt;
use std::net::Ipv6Addr;
use std::ops::Deref;
use std::str::FromStr;

use crate::asn::Asn;

/// A set of communities, sorted and without duplicates, which is both what goes on the wire and
/// what makes equal sets compare and hash alike. Reads like a slice.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommunitySet<T>(Vec<T>);

/// The COMMUNITIES attribute.
pub type Communities = CommunitySet<Community>;
/// The EXTENDED_COMMUNITIES attribute.
pub type ExtendedCommunities = CommunitySet<ExtendedCommunity>;
/// The IPV6_EXTENDED_COMMUNITIES attribute.
pub type Ipv6ExtendedCommunities = CommunitySet<Ipv6ExtendedCommunity>;
/// The LARGE_COMMUNITIES attribute.
pub type LargeCommunities = CommunitySet<LargeCommunity>;

impl<T> Default for CommunitySet<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: fmt::Debug> fmt::Debug for CommunitySet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.0).finish()
    }
}

impl<T: Ord> CommunitySet<T> {
    /// The set without members.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a member; false if it was there.
    pub fn insert(&mut self, community: T) -> bool {
        match self.0.binary_search(&community) {
            Ok(_) => false,
            Err(index) => {
                self.0.insert(index, community);
                true
            }
        }
    }

    /// Takes a member out; false if it was not there.
    pub fn remove(&mut self, community: &T) -> bool {
        match self.0.binary_search(community) {
            Ok(index) => {
                self.0.remove(index);
                true
            }
            Err(_) => false,
        }
    }

    /// Keeps the members for which `keep` holds.
    pub fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        self.0.retain(keep);
    }

    /// Whether `community` is a member. Shadows the slice's linear search.
    #[must_use]
    pub fn contains(&self, community: &T) -> bool {
        self.0.binary_search(community).is_ok()
    }
}

impl<T> Deref for CommunitySet<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Ord> From<Vec<T>> for CommunitySet<T> {
    fn from(mut communities: Vec<T>) -> Self {
        // Most arrive sorted, and then this is one comparison per member.
        if !communities.is_sorted_by(|a, b| a < b) {
            communities.sort_unstable();
            communities.dedup();
        }
        Self(communities)
    }
}

impl<T: Ord> FromIterator<T> for CommunitySet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(communities: I) -> Self {
        Self::from(communities.into_iter().collect::<Vec<_>>())
    }
}

impl<'a, T> IntoIterator for &'a CommunitySet<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// A standard community, high half the AS, low half its meaning there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl Community {
    /// Drain traffic from this path (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);
    /// The path is stale under long-lived graceful restart (RFC 9494).
    pub const LLGR_STALE: Self = Self(0xffff_0006);
    /// Do not keep the path under long-lived graceful restart (RFC 9494).
    pub const NO_LLGR: Self = Self(0xffff_0007);
    /// Discard traffic to this prefix (RFC 7999).
    pub const BLACKHOLE: Self = Self(0xffff_029a);
    /// Stay inside the AS or confederation (RFC 1997).
    pub const NO_EXPORT: Self = Self(0xffff_ff01);
    /// Tell no other peer (RFC 1997).
    pub const NO_ADVERTISE: Self = Self(0xffff_ff02);
    /// Stay inside the member AS (RFC 1997).
    pub const NO_EXPORT_SUBCONFED: Self = Self(0xffff_ff03);
    /// Do not tell bilateral peers (RFC 3765); carried, not acted on.
    pub const NO_PEER: Self = Self(0xffff_ff04);

    /// The community `high:low`.
    #[must_use]
    pub const fn new(high: u16, low: u16) -> Self {
        Self((high as u32) << 16 | low as u32)
    }

    /// Whether it is from the range whose meanings the registry assigns (RFC 1997).
    #[must_use]
    pub const fn is_well_known(self) -> bool {
        self.0 >> 16 == 0xffff
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::GRACEFUL_SHUTDOWN => f.write_str("graceful-shutdown"),
            Self::LLGR_STALE => f.write_str("llgr-stale"),
            Self::NO_LLGR => f.write_str("no-llgr"),
            Self::BLACKHOLE => f.write_str("blackhole"),
            Self::NO_EXPORT => f.write_str("no-export"),
            Self::NO_ADVERTISE => f.write_str("no-advertise"),
            Self::NO_EXPORT_SUBCONFED => f.write_str("no-export-subconfed"),
            Self::NO_PEER => f.write_str("no-peer"),
            Self(number) => write!(f, "{}:{}", number >> 16, number & 0xffff),
        }
    }
}

impl fmt::Debug for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no community of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a community of the form {1}")]
pub struct CommunityError(pub String, pub &'static str);

impl FromStr for Community {
    type Err = CommunityError;

    /// Accepts `high:low` and the well-known names.
    fn from_str(text: &str) -> Result<Self, CommunityError> {
        Ok(match text {
            "graceful-shutdown" => Self::GRACEFUL_SHUTDOWN,
            "llgr-stale" => Self::LLGR_STALE,
            "no-llgr" => Self::NO_LLGR,
            "blackhole" => Self::BLACKHOLE,
            "no-export" => Self::NO_EXPORT,
            "no-advertise" => Self::NO_ADVERTISE,
            "no-export-subconfed" => Self::NO_EXPORT_SUBCONFED,
            "no-peer" => Self::NO_PEER,
            _ => text
                .split_once(':')
                .and_then(|(high, low)| Some(Self::new(high.parse().ok()?, low.parse().ok()?)))
                .ok_or_else(|| CommunityError(text.to_owned(), "high:low"))?,
        })
    }
}

/// A large community: the AS that defines it and two numbers of its choosing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity {
    /// Global Administrator.
    pub asn: Asn,
    /// Local Data Part 1.
    pub data1: u32,
    /// Local Data Part 2.
    pub data2: u32,
}

impl LargeCommunity {
    /// The community `asn:data1:data2`.
    #[must_use]
    pub const fn new(asn: Asn, data1: u32, data2: u32) -> Self {
        Self { asn, data1, data2 }
    }

    pub(crate) fn from_octets([a, b, c, d, e, f, g, h, i, j, k, l]: [u8; 12]) -> Self {
        let number = u32::from_be_bytes;
        Self::new(
            Asn(number([a, b, c, d])),
            number([e, f, g, h]),
            number([i, j, k, l]),
        )
    }

    pub(crate) fn to_octets(self) -> [u8; 12] {
        let ([a, b, c, d], [e, f, g, h], [i, j, k, l]) = (
            self.asn.0.to_be_bytes(),
            self.data1.to_be_bytes(),
            self.data2.to_be_bytes(),
        );
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.asn, self.data1, self.data2)
    }
}

impl fmt::Debug for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for LargeCommunity {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        let mut parts = text.split(':').map(str::parse::<u32>);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(asn)), Some(Ok(data1)), Some(Ok(data2)), None) => {
                Ok(Self::new(Asn(asn), data1, data2))
            }
            _ => Err(CommunityError(text.to_owned(), "asn:data:data")),
        }
    }
}

/// An extended community: eight octets whose first one or two name the type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedCommunity(pub u64);

impl ExtendedCommunity {
    /// First octet: the high type with the transitivity bit.
    #[must_use]
    pub const fn kind(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// Second octet: the sub-type where the type has one.
    #[must_use]
    pub const fn sub_kind(self) -> u8 {
        self.0.to_be_bytes()[1]
    }

    /// Whether the community crosses AS boundaries (RFC 4360 §2).
    #[must_use]
    pub const fn is_transitive(self) -> bool {
        self.kind() & 0x40 == 0
    }

    /// Link bandwidth in octets per second (draft-ietf-idr-link-bandwidth), `None` for every
    /// other type and for values that are no bandwidth.
    #[must_use]
    pub fn link_bandwidth(self) -> Option<f32> {
        let [kind, sub_kind, _, _, a, b, c, d] = self.0.to_be_bytes();
        let bandwidth = f32::from_be_bytes([a, b, c, d]);
        (kind & !0x40 == 0 && sub_kind == 4 && bandwidth.is_finite() && bandwidth >= 0.0)
            .then_some(bandwidth)
    }
}

impl fmt::Display for ExtendedCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kind, sub_kind, a, b, c, d, e, g] = self.0.to_be_bytes();
        let name = match sub_kind {
            2 => "target",
            3 => "origin",
            _ => return write!(f, "{:#018x}", self.0),
        };
        match kind {
            0 => write!(
                f,
                "{name}:{}:{}",
                u16::from_be_bytes([a, b]),
                u32::from_be_bytes([c, d, e, g])
            ),
            2 => write!(
                f,
                "{name}:{}:{}",
                u32::from_be_bytes([a, b, c, d]),
                u16::from_be_bytes([e, g])
            ),
            _ => write!(f, "{:#018x}", self.0),
        }
    }
}

impl fmt::Debug for ExtendedCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An IPv6 address specific extended community: type, sub-type, address, two octets. Carried,
/// never interpreted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv6ExtendedCommunity(pub [u8; 20]);

impl Ipv6ExtendedCommunity {
    /// Whether the community crosses AS boundaries (RFC 5701 §2).
    #[must_use]
    pub const fn is_transitive(self) -> bool {
        self.0[0] & 0x40 == 0
    }
}

impl fmt::Debug for Ipv6ExtendedCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kind, sub_kind, address @ .., high, low] = self.0;
        let value = u16::from_be_bytes([high, low]);
        write!(
            f,
            "{kind:#04x}:{sub_kind:#04x}:{}:{value}",
            Ipv6Addr::from(address)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_sorted_without_duplicates_however_it_was_made() {
        let made: Communities = [Community(3), Community(1), Community(3)]
            .into_iter()
            .collect();
        let mut grown = Communities::new();
        for number in [3, 3, 1] {
            grown.insert(Community(number));
        }
        assert_eq!(made, grown);
        assert_eq!(&*made, [Community(1), Community(3)]);
        assert!(grown.remove(&Community(1)) && !grown.remove(&Community(1)));
    }

    #[test]
    fn texts_read_back() {
        for text in ["64512:100", "no-export", "graceful-shutdown", "0:0"] {
            assert_eq!(text.parse::<Community>().unwrap().to_string(), text);
        }
        assert_eq!(
            "4200000001:1:2"
                .parse::<LargeCommunity>()
                .unwrap()
                .to_string(),
            "4200000001:1:2"
        );
        for text in ["", "1", "65536:1", "1:2:3", "1:"] {
            assert!(text.parse::<Community>().is_err(), "{text}");
        }
        assert!(
            "1:2".parse::<LargeCommunity>().is_err()
                && "1:2:3:4".parse::<LargeCommunity>().is_err()
        );
    }

    #[test]
    fn extended_communities_tell_type_and_reach() {
        let target = ExtendedCommunity(0x0002_fc00_0000_0064);
        assert!(target.is_transitive());
        assert_eq!(target.to_string(), "target:64512:100");
        let bandwidth = ExtendedCommunity(0x4004_fc00_4b3e_bc20);
        assert!(!bandwidth.is_transitive());
        assert_eq!(bandwidth.link_bandwidth(), Some(12_500_000.0));
        assert_eq!(target.link_bandwidth(), None);
    }
}
