//! IPAM blocks as routing sees them: who owns them and what is in use elsewhere.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_bgp::prefix::Prefix;

/// A slice of a pool and who uses it.
///
/// Two blocks are equal when routing cannot tell them apart: how full they are does not count. A pod that takes an address of its
/// own node's block is then no change, and no other node in the cluster has anything to compute.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its range.
    pub cidr: Prefix,
    /// The node the block's `affinity` names; absent for a block without affinity, or with one that is not a node's.
    pub host: Option<String>,
    /// That node's BlockAffinity is confirmed. A block whose claim is still under way belongs to nobody yet.
    pub confirmed: bool,
    /// Addresses in use on a node other than the block's confirmed owner, with that node. They need a route of their own.
    pub borrowed: BTreeMap<IpAddr, String>,
    /// How many addresses are in use, a few seconds ago.
    pub allocated: usize,
}

impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        let routing = |block: &Self| (block.cidr, block.confirmed);
        routing(self) == routing(other)
            && self.host == other.host
            && self.borrowed == other.borrowed
    }
}

impl Eq for Block {}

impl Block {
    /// The node the block is routed to.
    #[must_use]
    pub fn owner(&self) -> Option<&str> {
        self.host.as_deref().filter(|_| self.confirmed)
    }
}
