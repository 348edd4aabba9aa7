//! How blocks are shared out among nodes.

use std::time::Duration;

/// IPAMConfiguration `default`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpamSettings {
    /// No address of another node's block is ever used.
    pub strict_affinity: bool,
    /// A node may claim blocks by itself.
    pub auto_allocate_blocks: bool,
    /// Blocks a node may hold of one family; zero: the built-in limit of 20.
    pub max_blocks_per_host: usize,
    /// For how long a released address is not used.
    pub cooldown: Duration,
}

impl Default for IpamSettings {
    /// What holds where there is no such object.
    fn default() -> Self {
        Self {
            strict_affinity: false,
            auto_allocate_blocks: true,
            max_blocks_per_host: 0,
            cooldown: Duration::ZERO,
        }
    }
}
