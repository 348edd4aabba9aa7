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
    /// Neighbours that called before they were heard of, by namespace and interface index.
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

    /// A neighbour on a link calls. True where it is the one that an unnumbered peer waits for: it need not advertise itself.
    pub(super) fn called(
        &mut self,
        written: &SpeakerConfig,
        netns: Option<&Arc<Path>>,
        remote: SocketAddr,
    ) -> bool {
        let SocketAddr::V6(remote) = remote else {
            return false;
        };
        let awaited = remote.ip().is_unicast_link_local()
            && written.peers.iter().any(|peer| {
                matches!(peer.remote, Remote::Unnumbered(_))
                    && peer.binding.netns.as_ref() == netns
                    && self.seen(peer).map(|seen| seen.index) == Some(remote.scope_id())
                    && matches!(self.resolve_peer(peer), Remote::Unnumbered(_))
            });
        if awaited {
            let caller = (netns.cloned(), remote.scope_id());
            self.callers.insert(caller, *remote.ip());
        }
        awaited
    }
}

fn scoped(address: Ipv6Addr, port: u16, index: u32) -> Remote {
    Remote::Address(SocketAddrV6::new(address, port, 0, index).into())
}
