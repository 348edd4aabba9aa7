//! Neighbours that change hands: a caller from a range that is configured by its address from now on, or no longer is, and a peer
//! that is configured under another name.
//!
//! It is the same neighbour over the same connection, so its session goes on under the other name, unless the two configurations
//! differ in what a session is made of; then it is reset like that of any neighbour whose configuration changes so. Two entries
//! for one address would dial whom the other has a session with, and have callers taken by the wrong one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use super::calls::as_caller;
use super::config::{PeerConfig, Remote};
use super::configure::{address_of, same_host};
use super::events::{PeerEventKind, Removal, Subject};
use super::neighbour::Neighbour;
use super::{Output, Speaker};
use crate::fsm::State;
use crate::rib::Slot;

/// What a new configuration makes of a neighbour.
pub(super) enum Fate {
    Goes,
    Stays(PeerConfig),
    /// Its session goes on as that of another configured peer.
    GoesOn(Becomes),
}

/// Whom a neighbour goes on as.
pub(super) enum Becomes {
    /// The peer that is configured by its address.
    Named(PeerConfig),
    /// A caller from this range.
    CallerOf(PeerConfig),
}

/// The configured peers.
#[derive(Default)]
struct Wanted<'a> {
    names: BTreeMap<&'a str, &'a PeerConfig>,
    addresses: BTreeMap<IpAddr, Vec<&'a PeerConfig>>,
}

impl Speaker {
    /// What the configuration makes of each neighbour that is not leaving already.
    pub(super) fn fates(&self) -> Vec<(Slot, Fate)> {
        let mut wanted = Wanted::default();
        for peer in &self.config.peers {
            wanted.names.insert(&peer.name, peer);
            if let Remote::Address(address) = peer.remote {
                let of_address = wanted.addresses.entry(address.ip()).or_default();
                of_address.push(peer);
            }
        }
        let neighbours = self
            .names
            .values()
            .filter_map(|slot| Some((*slot, self.neighbour(*slot)?)));
        neighbours
            .map(|(slot, neighbour)| {
                let fate = match &neighbour.range {
                    Some(range) => self.fate_of_caller(neighbour, range, &wanted),
                    None => self.fate_of_named(neighbour, &wanted),
                };
                (slot, fate)
            })
            .collect()
    }

    fn fate_of_caller(&self, caller: &Neighbour, range: &str, wanted: &Wanted<'_>) -> Fate {
        if let Some(exact) = wanted.at_address_of(caller) {
            // That one has a place, or begins without what is held against a caller.
            return if self.keeps_place(&exact.name, wanted) || caller.is_only_remembered() {
                Fate::Goes
            } else {
                Fate::GoesOn(Becomes::Named(exact.clone()))
            };
        }
        // Its name may be that of a configured peer by now.
        let is_taken = wanted.names.contains_key(&*caller.name);
        match wanted.names.get(range).filter(|_| !is_taken) {
            Some(peer) if holds(&peer.remote, caller.address.ip()) => {
                let mut peer = (*peer).clone();
                as_caller(&mut peer, caller.address);
                peer.name = caller.name.to_string();
                Fate::Stays(peer)
            }
            _ => Fate::Goes,
        }
    }

    fn fate_of_named(&self, neighbour: &Neighbour, wanted: &Wanted<'_>) -> Fate {
        match wanted.under_name_of(neighbour) {
            Some(peer) => Fate::Stays(peer.clone()),
            None if begins_anew(neighbour) => Fate::Goes,
            // Perhaps another neighbour under an old name.
            None => match self.elsewhere(neighbour, wanted) {
                // At another port of its host it is another speaker.
                Some(Becomes::Named(exact))
                    if address_of(&exact.remote).port() != neighbour.address.port()
                        || self.keeps_place(&exact.name, wanted) =>
                {
                    Fate::Goes
                }
                Some(becomes) => Fate::GoesOn(becomes),
                None => Fate::Goes,
            },
        }
    }

    /// Who the neighbour is by its address alone.
    fn elsewhere(&self, neighbour: &Neighbour, wanted: &Wanted<'_>) -> Option<Becomes> {
        match wanted.at_address_of(neighbour) {
            Some(exact) => Some(Becomes::Named(exact.clone())),
            // What was learned over a link that is gone, or has another address now, leads nowhere.
            None if is_link_local(neighbour.address) => None,
            None => Some(Becomes::CallerOf(self.range_around(neighbour)?.clone())),
        }
    }

    /// The configured peer that goes by this name. Callers from ranges give way to one.
    fn holder_of(&self, name: &str) -> Option<&Neighbour> {
        let slot = self.names.get(name)?;
        self.neighbour(*slot).filter(|known| known.range.is_none())
    }

    /// Whether whoever goes by this name has it also under the new configuration, or goes on under another with what it has.
    fn keeps_place(&self, name: &str, wanted: &Wanted<'_>) -> bool {
        self.holder_of(name).is_some_and(|known| {
            wanted.under_name_of(known).is_some()
                || !begins_anew(known) && self.elsewhere(known, wanted).is_some()
        })
    }

    /// The range that would take the neighbour if it called again.
    fn range_around(&self, neighbour: &Neighbour) -> Option<&PeerConfig> {
        let local = neighbour.settled.as_ref()?.local.ip();
        let binding = &neighbour.config.binding;
        self.range_of(neighbour.address.ip(), Some(local), binding)
    }

    /// Has a neighbour go on as another configured peer.
    pub(super) fn hand_over(&mut self, slot: Slot, becomes: Becomes, now: Instant) {
        let Some(neighbour) = self.neighbour(slot) else {
            return;
        };
        let (known, state) = (neighbour.address, neighbour.fsm.state());
        let settled = neighbour.settled.clone();
        let (config, address, range, why) = match becomes {
            // It called two addresses of ours, and its other session goes on under that name by now.
            Becomes::Named(peer) if self.holder_of(&peer.name).is_some() => {
                return self.remove(slot, now);
            }
            Becomes::Named(peer) => {
                let address = address_of(&peer.remote);
                (peer, address, None, Removal::Named)
            }
            Becomes::CallerOf(peer) => {
                let members = self.members(&peer.name);
                if members.count >= peer.dynamic_limit {
                    // Those who did wrong give way to it as to any caller.
                    let Some(oldest) = members.longest_remembered() else {
                        return self.remove(slot, now);
                    };
                    self.remove(oldest, now);
                }
                let remote = settled.as_ref().map_or(known, |settled| settled.remote);
                let range: Arc<str> = Arc::from(peer.name.as_str());
                let mut config = peer;
                self.become_dynamic(&mut config, remote);
                (config, remote, Some(range), Removal::Unnamed)
            }
        };
        let local = settled.map(|settled| settled.local.ip());
        self.tell_name(slot, (state, State::Idle));
        self.uncount(slot);
        let Some(neighbour) = self.neighbour_mut(slot) else {
            return;
        };
        let about = Subject::of(neighbour);
        let before = Arc::clone(&neighbour.name);
        neighbour.name = Arc::from(config.name.as_str());
        neighbour.address = address;
        let called = local.filter(|_| range.is_some());
        neighbour.called = neighbour.called.or(called);
        neighbour.range = range;
        // What it is called, where it may be dialled and which address of ours it should have called is no part of a session that stands.
        let mut same = PeerConfig::clone(&neighbour.config);
        same.name.clone_from(&config.name);
        (same.remote, same.local_address) = (config.remote, config.local_address);
        neighbour.config = Arc::new(same);
        let same = Arc::clone(&neighbour.config);
        neighbour.fsm.set_config(now, same);
        let name = Arc::clone(&neighbour.name);
        if self.names.get(&before) == Some(&slot) {
            self.names.remove(&before);
        }
        self.names.insert(name, slot);
        self.recount(slot);
        self.events.push(now, about, PeerEventKind::Removed(why));
        // Policies may name the peer.
        self.queue_import(slot);
        if let Some(neighbour) = self.neighbour(slot) {
            let to = neighbour.fsm.state();
            let about = Subject::of(neighbour);
            if to != State::Idle {
                let (from, cause) = (State::Idle, None);
                let kind = PeerEventKind::State { from, to, cause };
                self.events.push(now, about, kind);
            }
            self.tell_name(slot, (State::Idle, to));
        }
        self.reconfigure(slot, config, now);
        self.drain(slot, now);
    }

    /// Says how the state of whoever goes by the neighbour's name changed, for those who know neighbours by name.
    fn tell_name(&mut self, slot: Slot, (from, to): (State, State)) {
        let Some(neighbour) = self.neighbour(slot).filter(|_| from != to) else {
            return;
        };
        let (peer, name) = (neighbour.id, Arc::clone(&neighbour.name));
        self.outputs.push_back(Output::PeerStateChanged {
            peer,
            name,
            from,
            to,
        });
    }
}

impl<'a> Wanted<'a> {
    /// The peer that is configured by the neighbour's name, if it is still that neighbour.
    fn under_name_of(&self, neighbour: &Neighbour) -> Option<&'a PeerConfig> {
        let address = neighbour.address;
        let peer = *self.names.get(&*neighbour.name)?;
        let is_it = !peer.remote.is_range()
            && (address.ip().is_unspecified() || same_host(&peer.remote, address));
        is_it.then_some(peer)
    }

    /// The peer that is configured for just this address and that of ours; one that names ours before one that leaves it open.
    fn at_address_of(&self, neighbour: &Neighbour) -> Option<&'a PeerConfig> {
        let settled = neighbour.settled.as_ref();
        let local = neighbour
            .local_address()
            .or(neighbour.called)
            .or_else(|| Some(settled?.local.ip()));
        let of_address = self.addresses.get(&neighbour.address.ip())?;
        of_address
            .iter()
            .copied()
            .filter(|peer| {
                same_host(&peer.remote, neighbour.address)
                    && peer.binding == neighbour.config.binding
                    && (peer.local_address.is_none() || peer.local_address == local)
            })
            .min_by_key(|peer| peer.local_address.is_none())
    }
}

/// Whether nothing is lost by beginning anew: there is neither a session nor a route kept of one.
fn begins_anew(neighbour: &Neighbour) -> bool {
    neighbour.session.is_none() && !neighbour.retention.keeps()
}

fn holds(remote: &Remote, address: IpAddr) -> bool {
    matches!(remote, Remote::Range(range) if range.contains_addr(address))
}

const fn is_link_local(address: SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(address) if address.ip().is_unicast_link_local())
}
