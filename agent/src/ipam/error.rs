//! Why IPAM did not do what it was asked.

use std::fmt;
use std::net::IpAddr;

use margay_bgp::family::Family;
use margay_bgp::prefix::Prefix;

use crate::datastore::StoreError;
use crate::model::AllowedUse;

/// Why a pool gave no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// `disabled: true`.
    Disabled,
    /// Its `nodeSelector` does not match this node.
    NodeSelector,
    /// Its `namespaceSelector` does not match the pod's namespace.
    NamespaceSelector,
    /// `assignmentMode: Manual`, and the pod did not ask for it.
    ManualOnly,
    /// Its `allowedUses` do not include this one.
    NotFor(AllowedUse),
    /// Every address of every block this node may use is taken; how many blocks the pool has room for, and how many of them
    /// other nodes hold.
    Full {
        /// Blocks the pool can be cut into.
        blocks: u128,
        /// Blocks other nodes hold. Their free addresses may not be used where `strictAffinity` is set.
        others: usize,
        /// Whether addresses of other nodes' blocks were off limits.
        strict: bool,
    },
    /// `autoAllocateBlocks: false`: only blocks given to the node by hand are used, and they are full.
    NoNewBlocks,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("is disabled"),
            Self::NodeSelector => f.write_str("does not select this node"),
            Self::NamespaceSelector => f.write_str("does not select the pod's namespace"),
            Self::ManualOnly => f.write_str("is used only on request (assignmentMode Manual)"),
            Self::NotFor(intended) => write!(f, "is not for {intended:?} (allowedUses)"),
            Self::Full {
                blocks,
                others,
                strict,
            } => {
                write!(
                    f,
                    "has no free address: {others} of its {blocks} blocks are other nodes'"
                )?;
                if *strict && *others > 0 {
                    f.write_str(", whose addresses strictAffinity forbids to borrow")?;
                }
                Ok(())
            }
            Self::NoNewBlocks => f.write_str(
                "has no free address in this node's blocks, and autoAllocateBlocks is off",
            ),
        }
    }
}

/// A pool and why it gave no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRefusal {
    /// The pool's name.
    pub pool: String,
    /// Its range.
    pub cidr: Prefix,
    /// Why.
    pub reason: Unusable,
}

impl fmt::Display for PoolRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {} ({}) {}", self.pool, self.cidr, self.reason)
    }
}

fn listed(pools: &[PoolRefusal]) -> String {
    if pools.is_empty() {
        return "there is no pool of this family".to_owned();
    }
    pools
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Why IPAM did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IpamError {
    /// No pool may be used at all.
    #[error("no {family} pool may be used: {}", listed(pools))]
    NoPool {
        /// Of which family.
        family: Family,
        /// Every pool of the family and why not.
        pools: Vec<PoolRefusal>,
    },
    /// A pool that was asked for by name is not there, or cannot be used.
    #[error("requested pool {pool:?} {reason}")]
    RequestedPool {
        /// As it was written.
        pool: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Pools may be used but have no address left.
    #[error(
        "no {family} address left, wanted {wanted}, found {found}: {}",
        listed(pools)
    )]
    Exhausted {
        /// Of which family.
        family: Family,
        /// How many were asked for.
        wanted: usize,
        /// How many there were.
        found: usize,
        /// Every pool of the family and why it gave none.
        pools: Vec<PoolRefusal>,
    },
    /// The node has as many blocks as it may, all of them full.
    #[error(
        "this node holds {owned} {family} blocks, all full, and may not claim more than {limit} (IPAMConfiguration maxBlocksPerHost)"
    )]
    BlockLimit {
        /// Of which family.
        family: Family,
        /// Blocks of the node in the pools of this request.
        owned: usize,
        /// The limit.
        limit: usize,
    },
    /// A specific address is another handle's.
    #[error("address {address} is already in use by {}", owner.as_deref().unwrap_or("an owner without handle"))]
    AddressInUse {
        /// The address.
        address: IpAddr,
        /// Whose it is.
        owner: Option<String>,
    },
    /// A specific address was released a short while ago and its cooldown is not over.
    #[error(
        "address {address} was released a short while ago and may not be used yet (ipCooldownSeconds)"
    )]
    CoolingDown {
        /// The address.
        address: IpAddr,
    },
    /// A specific address is in no pool that may be used.
    #[error("address {address} {reason}")]
    AddressNotInPool {
        /// The address.
        address: IpAddr,
        /// What is wrong with its pool.
        reason: String,
    },
    /// A specific address lies in another node's block, and strict affinity is set.
    #[error(
        "address {address} lies in block {block} of {}, and strictAffinity forbids to borrow it",
        owner.as_deref().unwrap_or("no node")
    )]
    NotAffine {
        /// The address.
        address: IpAddr,
        /// Its block.
        block: Prefix,
        /// The block's owner.
        owner: Option<String>,
    },
    /// An address to be released is not what the caller says it is.
    #[error(
        "address {address} is not released: expected handle {expected:?}, found {found:?} (or it was assigned anew meanwhile)"
    )]
    NotAsExpected {
        /// The address.
        address: IpAddr,
        /// The handle the caller named.
        expected: Option<String>,
        /// The handle it has.
        found: Option<String>,
    },
    /// The cluster's state has not been read yet, so pools are not known.
    #[error("the datastore has not been read yet")]
    NotSynced,
    /// The datastore refused or did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object was changed by somebody else at every attempt.
    #[error("{object} was changed by somebody else {attempts} times in a row")]
    Contended {
        /// Which.
        object: String,
        /// How often it was tried.
        attempts: usize,
    },
    /// A record does not hold together.
    #[error("{object}: {reason}")]
    Malformed {
        /// Which.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The task has ended.
    #[error("IPAM is shutting down")]
    Stopped,
}

impl IpamError {
    /// Whether the same request may succeed later without anybody changing a configuration: CNI's "try again later".
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::NotSynced
            | Self::Store(StoreError::Unavailable { .. } | StoreError::Conflict { .. })
            | Self::Contended { .. }
            | Self::CoolingDown { .. }
            | Self::Exhausted { .. }
            | Self::BlockLimit { .. }
            | Self::Stopped => true,
            Self::NoPool { .. }
            | Self::RequestedPool { .. }
            | Self::AddressInUse { .. }
            | Self::AddressNotInPool { .. }
            | Self::NotAffine { .. }
            | Self::NotAsExpected { .. }
            | Self::Store(_)
            | Self::Malformed { .. } => false,
        }
    }
}
