//! What a speaker is told to be.
//!
//! Everything here is parsed, defaulted and valid by type: a [`PeerConfig`] that exists can be run.
//! The speaker compares two configurations field by field and touches only the sessions whose part differs,
//! so equality is meaningful on every type.
//!
//! Here is the speaker as a whole with the routes it originates; `config/peer.rs` has the neighbour, `error.rs` what is refused,
//! `clash.rs` and `times.rs` the checks that look at several fields or peers at once.

mod bfd;
mod clash;
mod error;
mod peer;
mod peer_as;
mod secret;
mod socket;
mod times;

use std::net::IpAddr;
use std::time::Duration;

pub use self::bfd::{Bfd, BfdError};
pub use self::clash::{KeyClash, KeyClashKind};
pub use self::error::ConfigError;
pub use self::peer::{
    AddPathSend, GracefulRestart, LimitAction, LocalAsMode, LongLived, MaximumPrefixes,
    NextHopMode, PeerConfig, Remote, RemovePrivateAs,
};
pub use self::peer_as::PeerAs;
pub use self::secret::{MAX_SECRET_LEN, Secret, SecretError};
pub use self::socket::{AoAlgorithm, AoKey, Binding, Listen};
pub use self::times::TimeError;
use crate::asn::Asn;
pub use crate::bmp::Collector;
pub use crate::codec::HoldTime;
use crate::codec::{Community, LargeCommunity, LocalPref, Med};
use crate::decision::{Multipath, Options};
use crate::family::Family;
use crate::prefix::Prefix;
use crate::router_id::RouterId;

/// The port assigned to BGP (RFC 4271 §8.2.1).
pub const BGP_PORT: u16 = 179;

/// A whole speaker.
#[derive(Clone, Debug, PartialEq)]
pub struct SpeakerConfig {
    /// Our AS, unless a peer is shown another one ([`PeerConfig::local_asn`]).
    pub asn: Asn,
    /// Our BGP Identifier (RFC 6286).
    pub router_id: RouterId,
    /// Our cluster as a route reflector (RFC 4456); the router ID where absent.
    pub cluster_id: Option<RouterId>,
    /// Where to accept connections; none at all for a speaker that only dials.
    pub listen: Vec<Listen>,
    /// Families the speaker has tables for.
    pub families: Vec<Family>,
    /// Routes of our own.
    pub originate: Vec<Originate>,
    /// Neighbours, unique by name.
    pub peers: Vec<PeerConfig>,
    /// Who is told of sessions and tables by BMP (RFC 7854).
    pub monitoring: Vec<Collector>,
    /// The forwarding state of an earlier life survived: R and F bits are set and selection is deferred (RFC 4724 §4.1).
    pub restarting: bool,
    /// How long a restarted speaker waits at most for its peers' End-of-RIB. Keep it well below the restart and stale times
    /// of the peers: what they still forward by goes when those run out.
    pub selection_deferral: Duration,
    /// How long a restarted speaker waits for a peer to connect. One that did is awaited until the deferral ends.
    pub connect_grace: Duration,
    /// How many equal paths a route may have.
    pub maximum_paths: usize,
    /// Paths of equal length through different ASs count as equal.
    pub multipath_relax: bool,
    /// Routes of our own that exist while something more specific does.
    pub aggregates: Vec<Aggregate>,
    /// As a route reflector, tell clients of each other's routes. Off where the clients are fully meshed (RFC 4456 §6).
    pub client_to_client: bool,
    /// Every peer is [drained](PeerConfig::drain): said ahead of maintenance of the whole speaker.
    pub drain: bool,
    /// Compare MULTI_EXIT_DISC of paths from different ASs too.
    pub always_compare_med: bool,
    /// A path without MULTI_EXIT_DISC counts as the worst instead of the best one (RFC 4271 §9.1.2.2 says best).
    pub missing_med_as_worst: bool,
    /// Between external paths that tie up to the identifiers, stay with the router used so far (RFC 5004). The choice then
    /// depends on what was there first.
    pub prefer_oldest_external: bool,
    /// Split traffic in proportion to the link bandwidth communities, where every path of a prefix has one.
    pub weighted_multipath: bool,
    /// Use a path only while whoever forwards says that its next hop is reached
    /// ([`Speaker::handle_next_hops`](super::Speaker::handle_next_hops)), and prefer nearer ones. Without, every next hop counts
    /// as reachable at equal cost, as a reflector without a view of the network wants it.
    pub next_hop_tracking: bool,
    /// A default route is good enough to reach a next hop by.
    pub resolve_via_default: bool,
}

impl SpeakerConfig {
    /// A speaker without peers, of both unicast families, with the usual defaults.
    #[must_use]
    pub fn new(asn: Asn, router_id: RouterId) -> Self {
        Self {
            asn,
            router_id,
            cluster_id: None,
            listen: Vec::new(),
            families: vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST],
            originate: Vec::new(),
            peers: Vec::new(),
            monitoring: Vec::new(),
            restarting: false,
            selection_deferral: Duration::from_secs(60),
            connect_grace: Duration::from_secs(20),
            maximum_paths: 64,
            multipath_relax: true,
            aggregates: Vec::new(),
            client_to_client: true,
            drain: false,
            always_compare_med: false,
            missing_med_as_worst: false,
            prefer_oldest_external: false,
            weighted_multipath: false,
            next_hop_tracking: false,
            resolve_via_default: true,
        }
    }

    /// How paths are compared.
    #[must_use]
    pub const fn decision_options(&self) -> Options {
        Options {
            multipath: Multipath {
                maximum: self.maximum_paths,
                relax: self.multipath_relax,
            },
            always_compare_med: self.always_compare_med,
            missing_med_as_worst: self.missing_med_as_worst,
            prefer_oldest_external: self.prefer_oldest_external,
        }
    }

    /// Checks what no single field can: unique peer names, unambiguous remotes, keys that can all be had, one origin for each
    /// prefix of ours.
    ///
    /// # Errors
    /// The first clash found, with the names of both sides of it.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut names = std::collections::BTreeSet::new();
        let mut remotes = std::collections::BTreeMap::new();
        for peer in &self.peers {
            if !names.insert(peer.name.as_str()) {
                return Err(ConfigError::DuplicateName(peer.name.clone()));
            }
            if let Some(bfd) = &peer.bfd {
                bfd.validate(&peer.remote)
                    .map_err(|reason| ConfigError::Bfd {
                        name: peer.name.clone(),
                        reason,
                    })?;
                if peer.binding != Binding::default() {
                    return Err(ConfigError::Bfd {
                        name: peer.name.clone(),
                        reason: BfdError::Binding,
                    });
                }
            }
            // A link-local address is one of its interface, and an address one of its namespace and VRF.
            let key = (
                peer.remote.to_string(),
                peer.interface.as_deref(),
                &peer.binding,
                peer.local_address,
            );
            if let Some(other) = remotes.insert(key, peer.name.as_str()) {
                return Err(ConfigError::DuplicateRemote {
                    remote: peer.remote,
                    first: other.to_owned(),
                    second: peer.name.clone(),
                });
            }
            if peer.local_as_mode == LocalAsMode::DualAs && peer.remote.is_range() {
                return Err(ConfigError::DualAsOfRange(peer.name.clone()));
            }
            peer.validate_socket()?;
            peer.validate_times().map_err(|reason| ConfigError::Time {
                name: peer.name.clone(),
                reason,
            })?;
        }
        let mut collectors = std::collections::BTreeSet::new();
        for (position, collector) in self.monitoring.iter().enumerate() {
            if !collectors.insert(collector.address) {
                return Err(ConfigError::DuplicateCollector {
                    position,
                    address: collector.address,
                });
            }
        }
        let mut ours = std::collections::BTreeSet::new();
        let originated = self.originate.iter().map(|route| route.prefix);
        let aggregated = self.aggregates.iter().map(|route| route.prefix);
        for (field, position, prefix) in originated
            .enumerate()
            .map(|(position, prefix)| ("originate", position, prefix))
            .chain(
                aggregated
                    .enumerate()
                    .map(|(position, prefix)| ("aggregates", position, prefix)),
            )
        {
            if !ours.insert(prefix) {
                return Err(ConfigError::DuplicateOrigin {
                    prefix,
                    field,
                    position,
                });
            }
        }
        clash::of_keys(&self.listen, &self.peers)?;
        clash::of_paths(&self.peers)
    }
}

/// A route this speaker brings into BGP.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Originate {
    /// What is reachable here.
    pub prefix: Prefix,
    /// Where to send its traffic; this speaker where absent.
    pub next_hop: Option<IpAddr>,
    /// Communities the route starts with.
    pub communities: Vec<Community>,
    /// Large communities the route starts with.
    pub large_communities: Vec<LargeCommunity>,
    /// LOCAL_PREF within our AS; 100 where absent.
    pub local_pref: Option<LocalPref>,
    /// MULTI_EXIT_DISC towards other ASs.
    pub med: Option<Med>,
}

impl Originate {
    /// A route to `prefix` through this speaker, without communities.
    #[must_use]
    pub const fn new(prefix: Prefix) -> Self {
        Self {
            prefix,
            next_hop: None,
            communities: Vec::new(),
            large_communities: Vec::new(),
            local_pref: None,
            med: None,
        }
    }
}

/// A route of our own that stands for more specific ones: it is announced while at least one of them is used, with
/// ATOMIC_AGGREGATE and AGGREGATOR, and an empty path of its own (RFC 9774 leaves no room for AS_SET).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Aggregate {
    /// The prefix that is announced.
    pub prefix: Prefix,
    /// The more specific ones are told to nobody.
    pub summary_only: bool,
    /// Communities it starts with.
    pub communities: Vec<Community>,
    /// Large communities it starts with.
    pub large_communities: Vec<LargeCommunity>,
    /// LOCAL_PREF within our AS; 100 where absent.
    pub local_pref: Option<LocalPref>,
    /// MULTI_EXIT_DISC towards other ASs.
    pub med: Option<Med>,
}

impl Aggregate {
    /// An aggregate beside which the more specific routes are told as well.
    #[must_use]
    pub const fn new(prefix: Prefix) -> Self {
        Self {
            prefix,
            summary_only: false,
            communities: Vec::new(),
            large_communities: Vec::new(),
            local_pref: None,
            med: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::policy::Policy;

    pub(super) fn tor() -> PeerConfig {
        let remote = Remote::Address("10.0.0.1:179".parse().expect("an address"));
        let accept = Arc::new(Policy::accept_all());
        PeerConfig::new("tor", remote, Asn(64513), accept.clone(), accept)
    }

    pub(super) fn validated(change: impl FnOnce(&mut PeerConfig)) -> Result<(), ConfigError> {
        let mut peer = tor();
        change(&mut peer);
        let mut config = SpeakerConfig::new(Asn(64512), RouterId::new(1).expect("not zero"));
        config.peers.push(peer);
        config.validate()
    }
}
