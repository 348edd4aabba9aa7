//! IPAM blocks as routing sees them: who owns them and what is in use elsewhere, but not how full they are. A pod that takes an
//! address of its own node's block changes nothing here, so nobody in the cluster has anything to compute.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_bgp::prefix::Prefix;

/// A slice of a pool and who uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its range.
    pub cidr: Prefix,
    /// The node the block's `affinity` names; absent for a block without affinity, or with one that is not a node's.
    pub host: Option<String>,
    /// That node's BlockAffinity is confirmed. A block whose claim is still under way belongs to nobody yet.
    pub confirmed: bool,
    /// Addresses in use on a node other than the block's confirmed owner, with that node. They need a route of their own.
    pub borrowed: BTreeMap<IpAddr, String>,
}

impl Block {
    /// The node the block is routed to.
    #[must_use]
    pub fn owner(&self) -> Option<&str> {
        self.host.as_deref().filter(|_| self.confirmed)
    }
}
