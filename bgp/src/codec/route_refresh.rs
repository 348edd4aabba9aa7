//! ROUTE-REFRESH (RFC 2918) and its bounds (RFC 7313).

use crate::family::Family;

/// What a ROUTE-REFRESH says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefreshKind {
    /// Send me everything again.
    Request,
    /// BoRR: what follows is everything.
    Begin,
    /// EoRR: that was everything.
    End,
    /// Another subtype; ignored.
    Other(u8),
}

/// A ROUTE-REFRESH message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteRefresh {
    /// The family it is about, which need not be one we negotiated.
    pub family: Family,
    /// What it says about it. Always `Request` on a session without enhanced route refresh,
    /// where the octet is reserved.
    pub kind: RefreshKind,
}
