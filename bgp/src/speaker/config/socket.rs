//! Where sockets live and what protects them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::{PeerConfig, Remote, Secret};

/// Where a socket lives: the network namespace it is made in, and the device it is bound to.
///
/// A listener and a peer belong together only where these are equal: a connection that came in through one VRF is not one of
/// a peer of another, whatever its address.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Binding {
    /// Path of a network namespace (`/run/netns/NAME`, `/proc/PID/ns/net`); the process's own where absent.
    pub netns: Option<Arc<Path>>,
    /// A VRF, or any interface: nothing is sent or taken but through it (`SO_BINDTODEVICE`).
    pub device: Option<Arc<str>>,
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(device) = &self.device {
            write!(f, " on {device}")?;
        }
        if let Some(netns) = &self.netns {
            write!(f, " in {}", netns.display())?;
        }
        Ok(())
    }
}

/// Where to accept connections.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listen {
    /// Address and port.
    pub address: SocketAddr,
    /// Through which device, in which namespace.
    pub binding: Binding,
}

impl Listen {
    /// Whether calls of a peer come in here, as far as the configuration says: it is reached through the same device and
    /// namespace, is of the family, and calls no other address of ours.
    #[must_use]
    pub fn hears(&self, peer: &PeerConfig) -> bool {
        let own = self.address.ip();
        let ipv4 = match peer.remote {
            Remote::Address(address) => address.is_ipv4(),
            Remote::Range(range) => range.addr().is_ipv4(),
            Remote::Unnumbered(_) => false,
        };
        own.is_ipv4() == ipv4
            && self.binding == peer.binding
            && (own.is_unspecified() || peer.local_address.is_none_or(|local| local == own))
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            binding: Binding::default(),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.address, self.binding)
    }
}

/// A master key of TCP-AO (RFC 5925 §3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AoKey {
    /// The KeyID of segments we sign with it.
    pub send_id: u8,
    /// The KeyID of segments the peer signs with it.
    pub receive_id: u8,
    /// How.
    pub algorithm: AoAlgorithm,
    /// The key itself.
    pub secret: Secret,
    /// TCP options other than TCP-AO are signed as well; off only for middleboxes that change them.
    pub sign_options: bool,
}

/// How segments are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AoAlgorithm {
    /// HMAC-SHA-1-96 (RFC 5926 §3.2), which everybody has.
    #[default]
    HmacSha1,
    /// AES-128-CMAC-96 (RFC 5926 §3.2).
    CmacAes128,
    /// HMAC-SHA-256, cut to 96 bits: not in RFC 5926, but Linux and others have it.
    HmacSha256,
}

impl AoAlgorithm {
    /// What Linux's crypto layer calls it.
    #[must_use]
    pub const fn kernel_name(self) -> &'static str {
        match self {
            Self::HmacSha1 => "hmac(sha1)",
            Self::CmacAes128 => "cmac(aes128)",
            Self::HmacSha256 => "hmac(sha256)",
        }
    }
}

/// The first id that two keys of one peer share; the kernel could not tell them apart.
pub(super) fn shared_id(keys: &[AoKey]) -> Option<u8> {
    let mut sent = BTreeSet::new();
    let mut received = BTreeSet::new();
    keys.iter().find_map(
        |key| match (sent.insert(key.send_id), received.insert(key.receive_id)) {
            (true, true) => None,
            (false, _) => Some(key.send_id),
            (true, false) => Some(key.receive_id),
        },
    )
}
