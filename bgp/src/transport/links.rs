//! Peers on links: which address and scope they have now.
//!
//! What is configured names an interface; a socket needs its index, and an unnumbered peer an address. Both change while we
//! run: interfaces come later than we, go, and come back with another index. The driver keeps what was written and gives the
//! speaker what [`Links::resolve`] makes of it; whenever that changes, the speaker sees a changed configuration and ends or starts
//! just the sessions it concerns.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::discovery::{self, Seen, View, Wanted};
use super::sockopt::Signature;
use crate::speaker::config::{PeerConfig, Remote, SpeakerConfig};

/// A namespace with peers on links.
#[derive(Debug)]
struct Room {
    wanted: watch::Sender<Wanted>,
    view: watch::Receiver<View>,
    _task: DropGuard,
}

/// Every link a peer is on.
#[derive(Debug)]
pub(super) struct Links {
    rooms: BTreeMap<Option<Arc<Path>>, Room>,
    /// Neighbours that called and were not heard of, by namespace and interface index. One is remembered while its link is
    /// there, until the link shows another neighbour or another calls while this one has no session.
    callers: BTreeMap<(Option<Arc<Path>>, u32), Ipv6Addr>,
    changed: Arc<Notify>,
    tasks: TaskTracker,
}

impl Links {
    pub(super) fn new(tasks: TaskTracker) -> Self {
        Self {
            rooms: BTreeMap::new(),
            callers: BTreeMap::new(),
            changed: Arc::default(),
            tasks,
        }
    }

    /// Follows the links that the peers of `config` are on, and no others; none at all costs nothing.
    pub(super) fn configure(&mut self, config: &SpeakerConfig) {
        let mut wanted: BTreeMap<Option<Arc<Path>>, Wanted> = BTreeMap::new();
        for peer in &config.peers {
            if let Some(interface) = &peer.interface {
                let links = wanted.entry(peer.binding.netns.clone()).or_default();
                let find = matches!(peer.remote, Remote::Unnumbered(_)) && peer.enabled;
                *links.entry(Arc::clone(interface)).or_default() |= find;
            }
        }
        self.rooms.retain(|netns, _| wanted.contains_key(netns));
        self.forget_callers();
        for (netns, wanted) in wanted {
            if let Some(room) = self.rooms.get(&netns) {
                room.wanted.send_if_modified(|old| {
                    let differs = *old != wanted;
                    *old = wanted;
                    differs
                });
                continue;
            }
            let (wanted, wants) = watch::channel(wanted);
            let (shows, view) = watch::channel(View::new());
            let stop = CancellationToken::new();
            let following =
                discovery::follow(netns.clone(), wants, shows, Arc::clone(&self.changed));
            let room = Room {
                wanted,
                view,
                _task: stop.clone().drop_guard(),
            };
            self.tasks
                .spawn(async move { stop.run_until_cancelled(following).await });
            self.rooms.insert(netns, room);
        }
    }

    /// Notified when [`Self::resolve`] may have another answer.
    pub(super) fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// Follows nothing any more.
    pub(super) fn close(&mut self) {
        self.rooms.clear();
    }

    fn seen(&self, peer: &PeerConfig) -> Option<Seen> {
        let view = self.rooms.get(&peer.binding.netns)?.view.borrow();
        view.get(peer.interface.as_deref()?).copied()
    }

    /// What was written, with the addresses and scopes of the moment.
    pub(super) fn resolve(&self, written: &SpeakerConfig) -> SpeakerConfig {
        let mut config = written.clone();
        for peer in &mut config.peers {
            if peer.interface.is_some() {
                peer.remote = self.resolve_peer(peer);
            }
        }
        config
    }

    fn resolve_peer(&self, peer: &PeerConfig) -> Remote {
        let seen = self.seen(peer);
        match (peer.remote, seen) {
            (Remote::Address(SocketAddr::V6(address)), Some(seen)) => {
                scoped(*address.ip(), address.port(), seen.index)
            }
            // Nowhere to be found until its interface is there.
            (Remote::Address(address), None) => Remote::Unnumbered(address.port()),
            (Remote::Unnumbered(port), Some(seen)) => {
                let caller = (peer.binding.netns.clone(), seen.index);
                let neighbour = seen
                    .neighbour
                    .or_else(|| self.callers.get(&caller).copied());
                neighbour.map_or(peer.remote, |neighbour| scoped(neighbour, port, seen.index))
            }
            (Remote::Address(SocketAddr::V4(_)) | Remote::Range(_), _)
            | (Remote::Unnumbered(_), None) => peer.remote,
        }
    }

    /// Why a peer of what was written has no address, for people.
    pub(super) fn missing(&self, peer: &PeerConfig) -> Option<String> {
        let interface = peer.interface.as_deref()?;
        match (self.resolve_peer(peer), self.seen(peer)) {
            (Remote::Unnumbered(_), None) => Some(format!("there is no interface {interface}")),
            (Remote::Unnumbered(_), Some(_)) => Some(format!(
                "no router was heard on {interface}: the neighbour sends no router advertisements, or has not called"
            )),
            _ => None,
        }
    }

    /// Forgets the callers whose link is gone, and those on links that show by themselves who is there.
    fn forget_callers(&mut self) {
        let rooms = &self.rooms;
        self.callers.retain(|(netns, index), _| {
            rooms.get(netns).is_some_and(|room| {
                let view = room.view.borrow();
                view.values()
                    .any(|seen| seen.index == *index && seen.neighbour.is_none())
            })
        });
    }

    /// A neighbour on a link calls. True where it is the one that an unnumbered peer waits for: it need not advertise itself.
    ///
    /// A peer that knows its neighbour already, but by nothing else than a call, takes another's while `is_connected` says
    /// that it talks to nobody: the neighbour was replaced.
    ///
    /// A peer whose segments are to be signed is not known by its calls: there is no key for the address of whoever calls first,
    /// so the kernel lets in what is not signed and nothing else. Its neighbour is known by what it advertises.
    pub(super) fn called(
        &mut self,
        written: &SpeakerConfig,
        netns: Option<&Arc<Path>>,
        remote: SocketAddr,
        is_connected: impl Fn(&PeerConfig) -> bool,
    ) -> bool {
        let SocketAddr::V6(remote) = remote else {
            return false;
        };
        let caller = (netns.cloned(), remote.scope_id());
        let known = self.callers.get(&caller);
        let awaited = remote.ip().is_unicast_link_local()
            && known != Some(remote.ip())
            && written.peers.iter().any(|peer| {
                matches!(peer.remote, Remote::Unnumbered(_))
                    && Signature::of(peer) == Signature::None
                    && peer.binding.netns.as_ref() == netns
                    && self.seen(peer).is_some_and(|seen| {
                        seen.index == remote.scope_id() && seen.neighbour.is_none()
                    })
                    && (known.is_none() || !is_connected(peer))
            });
        if awaited {
            self.callers.insert(caller, *remote.ip());
        }
        awaited
    }
}

fn scoped(address: Ipv6Addr, port: u16, index: u32) -> Remote {
    Remote::Address(SocketAddrV6::new(address, port, 0, index).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asn::Asn;
    use crate::policy::Policy;

    fn address(last: u16) -> SocketAddr {
        SocketAddrV6::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last), 40_000, 0, 7).into()
    }

    /// One unnumbered peer on eth1, which has index 7, and a handle on what is seen of the link.
    fn one_link() -> (Links, SpeakerConfig, watch::Sender<View>) {
        let policy = Arc::new(Policy::accept_all());
        let remote = Remote::Unnumbered(179);
        let mut peer = PeerConfig::new("tor", remote, Asn(65_002), policy.clone(), policy);
        peer.interface = Some("eth1".into());
        let router_id = "192.0.2.9".parse().expect("an address");
        let mut written = SpeakerConfig::new(Asn(65_001), router_id);
        written.peers.push(peer);
        let mut links = Links::new(TaskTracker::new());
        let (shows, view) = watch::channel(View::new());
        let (wanted, _) = watch::channel(Wanted::new());
        let _task = CancellationToken::new().drop_guard();
        links.rooms.insert(
            None,
            Room {
                wanted,
                view,
                _task,
            },
        );
        show(&shows, None);
        (links, written, shows)
    }

    fn show(shows: &watch::Sender<View>, neighbour: Option<Ipv6Addr>) {
        let seen = Seen {
            index: 7,
            neighbour,
        };
        shows.send_replace(View::from([("eth1".into(), seen)]));
    }

    fn remote(links: &Links, written: &SpeakerConfig) -> Remote {
        links.resolve(written).peers[0].remote
    }

    fn at(last: u16) -> Remote {
        let SocketAddr::V6(address) = address(last) else {
            unreachable!()
        };
        scoped(*address.ip(), 179, 7)
    }

    #[test]
    fn whoever_calls_first_is_the_neighbour_until_another_calls_and_it_has_no_session() {
        let (mut links, written, _shows) = one_link();
        assert!(links.called(&written, None, address(1), |_| false));
        assert_eq!(remote(&links, &written), at(1));
        assert!(!links.called(&written, None, address(1), |_| false));
        assert!(!links.called(&written, None, address(2), |_| true));
        assert_eq!(remote(&links, &written), at(1));
        assert!(links.called(&written, None, address(2), |_| false));
        assert_eq!(remote(&links, &written), at(2));
    }

    #[test]
    fn nobody_is_known_by_a_call_that_should_have_been_signed() {
        let (mut links, mut written, shows) = one_link();
        written.peers[0].password = Some(crate::speaker::config::Secret::new("secret").unwrap());
        assert!(!links.called(&written, None, address(1), |_| false));
        assert_eq!(remote(&links, &written), Remote::Unnumbered(179));
        show(&shows, Some(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 3)));
        assert_eq!(remote(&links, &written), at(3));
    }

    #[test]
    fn a_caller_is_forgotten_with_its_link() {
        let (mut links, written, shows) = one_link();
        assert!(links.called(&written, None, address(1), |_| false));
        shows.send_replace(View::new());
        links.forget_callers();
        show(&shows, None);
        assert_eq!(remote(&links, &written), Remote::Unnumbered(179));
    }

    #[test]
    fn a_link_that_shows_its_neighbour_takes_no_callers_word() {
        let (mut links, written, shows) = one_link();
        assert!(links.called(&written, None, address(1), |_| false));
        show(&shows, Some(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 3)));
        links.forget_callers();
        assert_eq!(remote(&links, &written), at(3));
        assert!(!links.called(&written, None, address(1), |_| false));
        show(&shows, None);
        assert_eq!(remote(&links, &written), Remote::Unnumbered(179));
    }
}
