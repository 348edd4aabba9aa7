//! OPEN (RFC 4271 §4.2), with optional parameters in both framings (RFC 9072).

use std::time::Duration;

use super::capability::Capability;
use crate::asn::Asn;
use crate::router_id::RouterId;

/// Hold Time: none, or at least three seconds (RFC 4271 §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldTime(u16);

impl HoldTime {
    /// Zero: neither hold timer nor KEEPALIVEs.
    pub const NONE: Self = Self(0);

    /// The hold time of so many seconds; `None` for one and two.
    #[must_use]
    pub const fn from_secs(seconds: u16) -> Option<Self> {
        match seconds {
            1 | 2 => None,
            seconds => Some(Self(seconds)),
        }
    }

    /// Whole seconds.
    #[must_use]
    pub const fn as_secs(self) -> u16 {
        self.0
    }

    /// The time, `None` where there is no hold timer.
    #[must_use]
    pub const fn duration(self) -> Option<Duration> {
        match self.0 {
            0 => None,
            seconds => Some(Duration::from_secs(seconds as u64)),
        }
    }
}

impl Default for HoldTime {
    /// 90 seconds, the suggestion of RFC 4271 §10.
    fn default() -> Self {
        Self(90)
    }
}

/// An OPEN message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Open {
    /// The sender's AS number: that of the four-octet capability if there is one, else My
    /// Autonomous System. On sending, the capability must be in the list to be sent.
    pub asn: Asn,
    /// The hold time the sender proposes.
    pub hold_time: HoldTime,
    /// The sender's BGP Identifier.
    pub router_id: RouterId,
    /// Its capabilities in the order sent, of all capability parameters together.
    pub capabilities: Vec<Capability>,
}
