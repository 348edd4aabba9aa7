//! IP pools.

use std::collections::BTreeSet;

use margay_bgp::prefix::Prefix;

use super::Selector;

/// How packets to a pool's addresses travel between nodes. A property of the destination's pool, never of the source's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encapsulation {
    /// As they are.
    #[default]
    None,
    /// In IP-in-IP; IPv4 only.
    IpIp(EncapsulationMode),
    /// In VXLAN.
    Vxlan(EncapsulationMode),
}

/// When packets are encapsulated. `Never` is [`Encapsulation::None`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EncapsulationMode {
    /// To every other node.
    Always,
    /// To nodes outside the sender's subnet.
    CrossSubnet,
}

/// What a pool's addresses may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AllowedUse {
    /// Pods.
    Workload,
    /// Addresses of tunnel devices.
    Tunnel,
    /// Services of type LoadBalancer; never together with another use.
    LoadBalancer,
}

/// Who may take addresses of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AssignmentMode {
    /// Any pod the selectors admit.
    #[default]
    Automatic,
    /// Only pods that ask for the pool by name or prefix.
    Manual,
}

/// A range of addresses for pods, cut into blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct IpPool {
    /// The pool's name.
    pub name: String,
    /// Its range.
    pub cidr: Prefix,
    /// How packets to it travel.
    pub encapsulation: Encapsulation,
    /// Packets from the pool to addresses outside all pools get the node's address.
    pub nat_outgoing: bool,
    /// No new addresses; routes and NAT stay.
    pub disabled: bool,
    /// The pool's routes are told to no peer.
    pub disable_bgp_export: bool,
    /// Prefix length of its blocks.
    pub block_size: u8,
    /// Nodes that may claim blocks by themselves.
    pub node_selector: Selector,
    /// Namespaces whose pods may use it by themselves.
    pub namespace_selector: Selector,
    /// What its addresses are for.
    pub allowed_uses: BTreeSet<AllowedUse>,
    /// Whether pods may get its addresses without asking.
    pub assignment_mode: AssignmentMode,
}

impl IpPool {
    /// The pool serves nothing but Services of type LoadBalancer.
    #[must_use]
    pub fn load_balancer_only(&self) -> bool {
        self.allowed_uses.iter().eq([&AllowedUse::LoadBalancer])
    }
}
