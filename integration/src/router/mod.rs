//! Routers that are not ours: BIRD, FRR, GoBGP and OpenBGPD, started in a namespace and asked for what they know.

pub mod bird;
pub mod details;
pub mod frr;
pub mod gobgp;
pub mod openbgpd;
pub mod tor;

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;

pub use bird::Bird;
pub use details::Details;
pub use frr::Frr;
pub use gobgp::GoBgp;
pub use openbgpd::OpenBgpd;
pub use tor::{Neighbor, Tor};

/// A route a router learned over BGP.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LearnedRoute {
    /// Destination.
    pub prefix: String,
    /// Next hop as announced.
    pub next_hop: String,
    /// AS path, nearest first.
    pub as_path: Vec<u32>,
    /// The session it came by, as the router names it.
    pub session: String,
    /// Whether the router uses it.
    pub best: bool,
}

/// Questions every router answers; sessions are named by the neighbour's address.
pub trait Router: Sync + std::fmt::Debug {
    /// Each session's neighbour and whether it is established.
    ///
    /// # Errors
    /// When the router does not answer.
    fn sessions(&self) -> Result<BTreeMap<IpAddr, bool>>;

    /// Routes it learned over BGP and accepted; `family` is 4 or 6.
    ///
    /// # Errors
    /// When the router does not answer.
    fn routes(&self, family: u8) -> Result<Vec<LearnedRoute>>;

    /// Prefixes a neighbour announced, before any filter.
    ///
    /// # Errors
    /// When the router does not answer.
    fn received(&self, neighbor: IpAddr, family: u8) -> Result<Vec<String>>;

    /// Closes a session administratively.
    ///
    /// # Errors
    /// When the router refuses.
    fn close(&self, neighbor: IpAddr) -> Result<()>;

    /// Opens a closed session again.
    ///
    /// # Errors
    /// When the router refuses.
    fn open(&self, neighbor: IpAddr) -> Result<()>;
}
