//! Peers of which the kernel could serve one only.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::{ConfigError, Listen, PeerConfig, Remote, Secret};
use crate::prefix::Prefix;

/// Two peers whose calls one listener cannot take both: the kernel knows a caller by its address, and asks for a signature, or
/// for none, before anybody reads from the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyClash {
    /// Whose keys, or want of keys, cannot be had.
    pub peer: String,
    /// What that peer is.
    pub remote: Remote,
    /// The one with which it shares callers.
    pub other: String,
    /// What the other one is.
    pub other_remote: Remote,
    /// Where both are heard.
    pub listen: Listen,
    /// In which way they exclude each other.
    pub kind: KeyClashKind,
}

/// See [`KeyClash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyClashKind {
    /// Two peers of the same addresses have other keys, or one of them has none.
    Differ,
    /// A peer without keys is in a range whose callers sign.
    Unsigned,
    /// One signs with TCP-MD5 and the other with TCP-AO.
    Kinds,
    /// Both have TCP-AO keys, and the kernel gives a connection those of both.
    Both,
}

impl fmt::Display for KeyClash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            peer,
            other,
            other_remote,
            listen,
            ..
        } = self;
        match self.kind {
            KeyClashKind::Differ => write!(
                f,
                "peer {peer} calls {listen} from the same address as peer {other}, and the kernel takes one key for both: expected \
                 the same password or tcpAo for both, or for each a localAddress of its own that is listened on"
            ),
            KeyClashKind::Unsigned => write!(
                f,
                "peer {peer} has no key, and {listen} takes only signed calls from {other_remote}, which is peer {other}: expected \
                 a password or tcpAo, or a localAddress where that range is not heard"
            ),
            KeyClashKind::Kinds => write!(
                f,
                "one of peer {peer} and peer {other}, which is {other_remote}, signs with TCP-MD5 and the other with TCP-AO: expected \
                 one of the two for callers of one address at {listen}"
            ),
            KeyClashKind::Both => write!(
                f,
                "peer {peer} and peer {other}, which is {other_remote}, both have TCP-AO keys, and the kernel gives a caller at {listen} \
                 those of both: expected a range that does not hold the other, or a localAddress where that range is not heard"
            ),
        }
    }
}

/// How a peer signs.
type Keys<'a> = (&'a Option<Secret>, &'a [super::AoKey]);

fn keys(peer: &PeerConfig) -> Keys<'_> {
    (&peer.password, &peer.tcp_ao)
}

const fn addresses(peer: &PeerConfig) -> Option<Prefix> {
    match peer.remote {
        Remote::Address(address) => Some(Prefix::host(address.ip())),
        Remote::Range(range) => Some(range),
        // Not known yet. Where it turns out to be somebody else's, calls of the one without keys in force are refused.
        Remote::Unnumbered(_) => None,
    }
}

fn exclude(outer: &PeerConfig, inner: &PeerConfig) -> Option<KeyClashKind> {
    match (keys(outer), keys(inner)) {
        // The narrower key counts.
        ((None, []), _) | ((Some(_), _), (Some(_), _)) => None,
        (_, (None, [])) => Some(KeyClashKind::Unsigned),
        // A connection gets the keys of both, and whoever has the range's could sign as the one in it.
        ((None, _), (None, _)) => Some(KeyClashKind::Both),
        ((Some(_), _), (None, _)) | ((None, _), (Some(_), _)) => Some(KeyClashKind::Kinds),
    }
}

/// Finds peers that share callers on a listener and cannot share a signature.
pub(super) fn of_keys(listen: &[Listen], peers: &[PeerConfig]) -> Result<(), ConfigError> {
    if peers
        .iter()
        .all(|peer| peer.password.is_none() && peer.tcp_ao.is_empty())
    {
        return Ok(());
    }
    for listen in listen {
        let heard = || {
            peers
                .iter()
                .filter(|peer| listen.hears(peer))
                .filter_map(|peer| Some((addresses(peer)?, peer)))
        };
        let clash = |peer: &PeerConfig, other: &PeerConfig, kind| {
            Err(ConfigError::Keys(Box::new(KeyClash {
                peer: peer.name.clone(),
                remote: peer.remote,
                other: other.name.clone(),
                other_remote: other.remote,
                listen: listen.clone(),
                kind,
            })))
        };
        let mut known: BTreeMap<Prefix, &PeerConfig> = BTreeMap::new();
        for (addresses, peer) in heard() {
            match known.get(&addresses) {
                Some(other) if keys(other) != keys(peer) => {
                    return clash(peer, other, KeyClashKind::Differ);
                }
                Some(_) => {}
                None => drop(known.insert(addresses, peer)),
            }
        }
        let ranges: Vec<(Prefix, &PeerConfig)> =
            heard().filter(|(_, peer)| peer.remote.is_range()).collect();
        for (inner, peer) in heard() {
            // The narrowest range around it, as the kernel chooses; with TCP-AO and with another kind every one counts.
            for (outer, other) in &ranges {
                if *outer == inner || !outer.contains(inner) {
                    continue;
                }
                match exclude(other, peer) {
                    Some(KeyClashKind::Unsigned) | None => {}
                    Some(kind) => return clash(peer, other, kind),
                }
            }
            let around = ranges
                .iter()
                .filter(|(outer, other)| {
                    *outer != inner
                        && outer.contains(inner)
                        && keys(other) != (&None, [].as_slice())
                })
                .max_by_key(|(outer, _)| outer.len());
            if let Some((_, other)) = around
                && let Some(kind) = exclude(other, peer)
            {
                return clash(peer, other, kind);
            }
        }
    }
    Ok(())
}

/// Finds peers whose paths could not be watched one by one: packets that know no session yet are told apart by their addresses
/// (RFC 5881 §3 has one session between two).
pub(super) fn of_paths(peers: &[PeerConfig]) -> Result<(), ConfigError> {
    let mut known: BTreeMap<_, Vec<(Option<IpAddr>, &str)>> = BTreeMap::new();
    for peer in peers {
        let (Some(bfd), Remote::Address(remote)) = (&peer.bfd, peer.remote) else {
            continue;
        };
        let others = known
            .entry((
                remote.ip(),
                peer.interface.as_deref(),
                bfd.multihop.is_some(),
            ))
            .or_default();
        let same = |local: &Option<IpAddr>| {
            local
                .zip(peer.local_address)
                .is_none_or(|(one, other)| one == other)
        };
        if let Some((_, other)) = others.iter().find(|(local, _)| same(local)) {
            return Err(ConfigError::SharedPath {
                name: peer.name.clone(),
                other: (*other).to_owned(),
            });
        }
        others.push((peer.local_address, &peer.name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{AoAlgorithm, AoKey, Bfd, SpeakerConfig};
    use super::*;
    use crate::asn::Asn;
    use crate::policy::Policy;
    use crate::router_id::RouterId;

    fn peer(name: &str, remote: &str, password: Option<&str>) -> PeerConfig {
        let accept = Arc::new(Policy::accept_all());
        let remote = match remote.parse() {
            Ok(range) if remote.contains('/') => Remote::Range(range),
            _ => Remote::Address(remote.parse().expect("an address")),
        };
        let mut peer = PeerConfig::new(name, remote, Asn(1), accept.clone(), accept);
        peer.password = password.map(|text| Secret::new(text).expect("a usable key"));
        peer
    }

    fn at(mut peer: PeerConfig, local: &str) -> PeerConfig {
        peer.local_address = Some(local.parse().expect("an address"));
        peer
    }

    fn with_ao(mut peer: PeerConfig, id: u8) -> PeerConfig {
        peer.tcp_ao = vec![AoKey {
            send_id: id,
            receive_id: id,
            algorithm: AoAlgorithm::HmacSha1,
            secret: Secret::new("sesame").expect("a usable key"),
            sign_options: true,
        }];
        peer
    }

    fn valid(listen: &[&str], peers: &[PeerConfig]) -> Result<(), ConfigError> {
        let router_id = RouterId::new(1).expect("not zero");
        let mut config = SpeakerConfig::new(Asn(64512), router_id);
        config.listen = listen
            .iter()
            .map(|text| text.parse::<std::net::SocketAddr>().expect("an address"))
            .map(Into::into)
            .collect();
        config.peers = peers.to_vec();
        config.validate()
    }

    fn kind(result: Result<(), ConfigError>) -> Option<KeyClashKind> {
        match result {
            Ok(()) => None,
            Err(ConfigError::Keys(clash)) => Some(clash.kind),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn peers_of_one_address_have_one_key_at_each_listener() {
        let any = ["0.0.0.0:179"];
        let own = ["10.0.0.1:179", "10.0.0.2:179"];
        let one = at(peer("one", "10.1.0.1:179", Some("a")), "10.0.0.1");
        let same = at(peer("same", "10.1.0.1:179", Some("a")), "10.0.0.2");
        let other = at(peer("other", "10.1.0.1:179", Some("b")), "10.0.0.2");
        let open = at(peer("open", "10.1.0.1:179", None), "10.0.0.2");
        assert_eq!(valid(&any, &[one.clone(), same]), Ok(()));
        for second in [other, open] {
            let both = [one.clone(), second];
            assert_eq!(valid(&own, &both), Ok(()));
            assert_eq!(valid(&[], &both), Ok(()), "a dialler has its own sockets");
            assert_eq!(kind(valid(&any, &both)), Some(KeyClashKind::Differ));
        }
    }

    #[test]
    fn a_clash_of_keys_names_both_peers_and_what_would_be_right() {
        let peers = [
            peer("a", "10.1.0.1:179", Some("x")),
            peer("b", "10.1.0.1:1790", None),
        ];
        let error = valid(&["0.0.0.0:179"], &peers).expect_err("a clash");
        assert_eq!(error.place(), (Some("b"), "address"));
        assert_eq!(
            error.to_string(),
            "peer b calls 0.0.0.0:179 from the same address as peer a, and the kernel takes one key for both: expected the same \
             password or tcpAo for both, or for each a localAddress of its own that is listened on"
        );
    }

    #[test]
    fn a_peer_without_key_is_refused_inside_a_range_that_signs() {
        let any = ["0.0.0.0:179"];
        let signs = peer("signs", "10.1.0.0/16", Some("a"));
        let open = peer("open", "10.1.0.1:179", None);
        let clash = Some(KeyClashKind::Unsigned);
        assert_eq!(kind(valid(&any, &[signs.clone(), open.clone()])), clash);
        assert_eq!(kind(valid(&any, &[open.clone(), signs.clone()])), clash);
        assert_eq!(valid(&["[::]:179"], &[signs.clone(), open]), Ok(()));
        let own = peer("own", "10.1.0.1:179", Some("b"));
        assert_eq!(valid(&any, &[signs.clone(), own.clone()]), Ok(()));
        // A range without keys around it changes nothing for those that have one.
        assert_eq!(
            valid(&any, &[peer("wide", "10.0.0.0/8", None), own]),
            Ok(())
        );
        let narrow = peer("narrow", "10.1.2.0/24", None);
        assert_eq!(kind(valid(&any, &[signs, narrow])), clash);
    }

    #[test]
    fn the_two_kinds_of_signature_exclude_each_other_for_one_address() {
        let any = ["0.0.0.0:179"];
        let md5 = peer("md5", "10.1.0.0/16", Some("a"));
        let ao = with_ao(peer("ao", "10.1.0.1:179", None), 1);
        assert_eq!(
            kind(valid(&any, &[md5, ao.clone()])),
            Some(KeyClashKind::Kinds)
        );
        let range = with_ao(peer("range", "10.1.0.0/16", None), 1);
        assert_eq!(
            kind(valid(&any, &[range, ao.clone()])),
            Some(KeyClashKind::Both)
        );
        let range = with_ao(peer("range", "10.1.0.0/16", None), 2);
        assert_eq!(kind(valid(&any, &[range, ao])), Some(KeyClashKind::Both));
    }

    #[test]
    fn a_path_is_watched_for_one_peer() {
        let watched = |mut peer: PeerConfig| {
            peer.bfd = Some(Bfd::default());
            peer
        };
        let one = watched(peer("one", "10.1.0.1:179", None));
        let two = watched(peer("two", "10.1.0.1:1790", None));
        let error = valid(&[], &[one.clone(), two.clone()]).expect_err("one path");
        assert_eq!(error.place(), (Some("two"), "bfd"));
        assert_eq!(
            valid(&[], &[at(one, "10.0.0.1"), at(two, "10.0.0.2")]),
            Ok(())
        );
    }
}
