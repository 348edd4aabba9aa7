//! Which AS a neighbour may show.

use std::fmt;

use crate::asn::Asn;

/// What the AS of a neighbour's OPEN is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerAs {
    /// This one.
    Fixed(Asn),
    /// One of these: a range of callers from several ASs.
    OneOf(Vec<Asn>),
    /// The AS we show it: the session is internal whatever that AS is.
    Internal,
    /// Any but the one we show it, as fabrics with an AS for each router are configured everywhere alike.
    External,
    /// Any at all.
    Any,
}

impl PeerAs {
    /// Whether a neighbour may be of AS `theirs` while we show it `ours`.
    #[must_use]
    pub fn accepts(&self, theirs: Asn, ours: Asn) -> bool {
        match self {
            Self::Fixed(asn) => *asn == theirs,
            Self::OneOf(asns) => asns.contains(&theirs),
            Self::Internal => theirs == ours,
            Self::External => theirs != ours,
            Self::Any => true,
        }
    }

    /// The AS, where only one can be meant.
    #[must_use]
    pub fn known(&self, ours: Asn) -> Option<Asn> {
        match self {
            Self::Fixed(asn) => Some(*asn),
            Self::OneOf(asns) => match asns.as_slice() {
                [asn] => Some(*asn),
                _ => None,
            },
            Self::Internal => Some(ours),
            Self::External | Self::Any => None,
        }
    }

    /// Whether the neighbour is in another AS than `ours`, as far as that can be said before its OPEN: what is not known yet
    /// counts as outside, which is the careful reading.
    #[must_use]
    pub fn is_external(&self, ours: Asn) -> bool {
        match self {
            Self::Fixed(asn) => *asn != ours,
            Self::OneOf(asns) => asns.iter().any(|asn| *asn != ours),
            Self::Internal => false,
            Self::External | Self::Any => true,
        }
    }
}

impl From<Asn> for PeerAs {
    fn from(asn: Asn) -> Self {
        Self::Fixed(asn)
    }
}

impl PartialEq<Asn> for PeerAs {
    fn eq(&self, other: &Asn) -> bool {
        matches!(self, Self::Fixed(asn) if asn == other)
    }
}

impl fmt::Display for PeerAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(asn) => write!(f, "{asn}"),
            Self::OneOf(asns) => {
                for (place, asn) in asns.iter().enumerate() {
                    write!(f, "{}{asn}", if place == 0 { "" } else { "," })?;
                }
                Ok(())
            }
            Self::Internal => f.write_str("internal"),
            Self::External => f.write_str("external"),
            Self::Any => f.write_str("any"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_takes_the_ass_it_names() {
        let ours = Asn(64512);
        let cases = [
            (PeerAs::Fixed(Asn(1)), [true, false, false]),
            (PeerAs::OneOf(vec![Asn(1), ours]), [true, false, true]),
            (PeerAs::Internal, [false, false, true]),
            (PeerAs::External, [true, true, false]),
            (PeerAs::Any, [true, true, true]),
        ];
        for (kind, expected) in cases {
            let found = [Asn(1), Asn(2), ours].map(|theirs| kind.accepts(theirs, ours));
            assert_eq!(found, expected, "{kind}");
        }
    }

    #[test]
    fn an_as_not_known_yet_counts_as_outside() {
        let ours = Asn(64512);
        assert!(PeerAs::Any.is_external(ours) && PeerAs::External.is_external(ours));
        assert!(!PeerAs::Internal.is_external(ours));
        assert_eq!(PeerAs::Internal.known(ours), Some(ours));
        assert_eq!(PeerAs::OneOf(vec![Asn(1), Asn(2)]).known(ours), None);
    }
}
