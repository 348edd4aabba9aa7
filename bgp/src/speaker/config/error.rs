//! Why a configuration cannot be run, and where the mistake is.

use std::net::SocketAddr;

use thiserror::Error;

use super::{BfdError, KeyClash, Remote, TimeError};
use crate::prefix::Prefix;

/// Why a configuration cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Two peers have one name.
    #[error("two peers are named {0}: expected a name of its own for each")]
    DuplicateName(String),
    /// Two peers would claim the same connections.
    #[error(
        "peers {first} and {second} are both {remote}: expected another one, or a localAddress or device of its own for each"
    )]
    DuplicateRemote {
        /// What both claim.
        remote: Remote,
        /// The earlier peer's name.
        first: String,
        /// The later peer's name.
        second: String,
    },
    /// A prefix is to be originated or aggregated twice.
    #[error(
        "{prefix} is originated or aggregated already: expected each prefix once in both lists"
    )]
    DuplicateOrigin {
        /// The prefix.
        prefix: Prefix,
        /// The list in which it is for the second time.
        field: &'static str,
        /// Where in that list.
        position: usize,
    },
    /// Two collectors are the same one.
    #[error("collector {address} is there twice: expected an address and port of its own for each")]
    DuplicateCollector {
        /// Which of the list is the second.
        position: usize,
        /// Its address.
        address: SocketAddr,
    },
    /// The AS a neighbour refuses is remembered for its next session, and callers from a range are forgotten.
    #[error(
        "peer {0} is a range, and dual-as needs one neighbour: expected another mode, or an address"
    )]
    DualAsOfRange(String),
    /// A peer's BFD cannot be run.
    #[error("bfd of peer {name}: {reason}")]
    Bfd {
        /// The peer's name.
        name: String,
        /// What is wrong, and what would be right.
        reason: BfdError,
    },
    /// TCP has room for one signature.
    #[error("peer {0} has a password (TCP-MD5) and TCP-AO keys: expected one of the two")]
    TwoSignatures(String),
    /// The kernel tells keys apart by their ids.
    #[error(
        "two TCP-AO keys of peer {peer} have the id {id}: expected a sendId and a receiveId of its own for each"
    )]
    DuplicateAoKey {
        /// Whose.
        peer: String,
        /// Which.
        id: u8,
    },
    /// A peer's pauses or times cannot be run.
    #[error("{field} of peer {name}: {reason}", field = reason.field())]
    Time {
        /// The peer's name.
        name: String,
        /// What is wrong, and what would be right.
        reason: TimeError,
    },
    /// A link-local address is ambiguous, and a neighbour without an address unknown.
    #[error(
        "peer {0} has no interface: expected the one that its link-local or missing address is on"
    )]
    NoInterface(String),
    /// Two peers share callers, and cannot share a signature.
    #[error("{0}")]
    Keys(Box<KeyClash>),
    /// Two peers would watch one path.
    #[error(
        "bfd of peer {name}: peer {other} watches the same path, on which there is room for one session: expected bfd at one of the two, or a localAddress of its own for each"
    )]
    SharedPath {
        /// The later peer's name.
        name: String,
        /// The earlier peer's name.
        other: String,
    },
}

impl ConfigError {
    /// The peer and the field a mistake is in, as the documentation of [`PeerConfig`](super::PeerConfig) and the YAML file name them, a field of a
    /// section behind a dot; the later one of two that clash.
    #[must_use]
    pub fn place(&self) -> (Option<&str>, &'static str) {
        const fn remote_field(remote: &Remote) -> &'static str {
            match remote {
                Remote::Address(_) => "address",
                Remote::Range(_) => "range",
                Remote::Unnumbered(_) => "interface",
            }
        }
        match self {
            Self::DuplicateName(name) => (Some(name), "name"),
            Self::DuplicateRemote { remote, second, .. } => (Some(second), remote_field(remote)),
            Self::DuplicateOrigin { field, .. } => (None, field),
            Self::DuplicateCollector { .. } => (None, "monitoring"),
            Self::DualAsOfRange(name) => (Some(name), "localAsMode"),
            Self::Bfd { name, reason } => (Some(name), reason.field()),
            Self::SharedPath { name, .. } => (Some(name), "bfd"),
            Self::TwoSignatures(name) => (Some(name), "tcpAo"),
            Self::DuplicateAoKey { peer: name, .. } => (Some(name), "tcpAo.keys"),
            Self::NoInterface(name) => (Some(name), "interface"),
            Self::Time { name, reason } => (Some(name), reason.field()),
            Self::Keys(clash) => (Some(&clash.peer), remote_field(&clash.remote)),
        }
    }

    /// Which item of a list of the speaker's own it is.
    #[must_use]
    pub const fn position(&self) -> Option<usize> {
        match self {
            Self::DuplicateOrigin { position, .. } | Self::DuplicateCollector { position, .. } => {
                Some(*position)
            }
            Self::DuplicateName(_)
            | Self::DuplicateRemote { .. }
            | Self::DualAsOfRange(_)
            | Self::Bfd { .. }
            | Self::SharedPath { .. }
            | Self::TwoSignatures(_)
            | Self::DuplicateAoKey { .. }
            | Self::NoInterface(_)
            | Self::Time { .. }
            | Self::Keys(_) => None,
        }
    }
}
