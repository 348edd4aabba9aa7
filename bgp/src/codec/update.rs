//! UPDATE (RFC 4271 §4.3), read as RFC 7606 demands.

use std::fmt;

use smallvec::SmallVec;

use super::attribute::{NextHop, PathAttributes};
use super::error::AttributeFault;
use crate::family::Family;
use crate::prefix::Prefix;

/// Path Identifier (RFC 7911): tells the paths of one prefix from one peer apart. Zero is as good
/// as any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u32);

/// A prefix as an UPDATE names it. Prefix and path identifier together are what a withdrawal must
/// repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nlri {
    /// The prefix.
    pub prefix: Prefix,
    /// Its path, where ADD-PATH was negotiated.
    pub path_id: Option<PathId>,
}

impl From<Prefix> for Nlri {
    fn from(prefix: Prefix) -> Self {
        Self {
            prefix,
            path_id: None,
        }
    }
}

impl fmt::Display for Nlri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path_id {
            Some(PathId(id)) => write!(f, "{} path {id}", self.prefix),
            None => self.prefix.fmt(f),
        }
    }
}

/// Prefixes announced with one next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The next hop, syntactically valid; whether it is usable is for the route's owner to say.
    pub next_hop: NextHop,
    /// The prefixes, all of one family, never none.
    pub nlri: Vec<Nlri>,
}

/// An UPDATE with every malformed attribute already dealt with: to be applied by withdrawing
/// `withdrawn`, then announcing `announced` with `attributes`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    /// Prefixes of both families that are gone. Holds the announced ones too where a fault made
    /// the whole UPDATE a withdrawal.
    pub withdrawn: Vec<Nlri>,
    /// Prefixes that are new or changed: at most one list from the NLRI field and one from
    /// MP_REACH_NLRI. Empty where `attributes` is `None`.
    pub announced: SmallVec<[Announcement; 1]>,
    /// Attributes of all of `announced`. `Some` exactly if that is not empty.
    pub attributes: Option<PathAttributes>,
    /// The message is the End-of-RIB marker of this family (RFC 4724 §2), and says nothing else.
    pub end_of_rib: Option<Family>,
    /// What was wrong with the attributes.
    pub faults: Vec<AttributeFault>,
}

impl Update {
    /// Whether a fault turned the announcements into withdrawals.
    #[must_use]
    pub fn was_treated_as_withdraw(&self) -> bool {
        self.faults
            .iter()
            .any(|fault| fault.action == super::error::FaultAction::TreatAsWithdraw)
    }
}
