//! Who calls: whose connection an accepted one is, and who is turned away with which words.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::config::{Binding, PeerConfig, Remote};
use super::{Accepted, Output, Speaker};
use crate::codec::{CodecContext, ErrorCode, Message, Notification};
use crate::fsm::Admission;
use crate::rib::Slot;

impl Speaker {
    /// Whose connection a newly accepted one is: the peer of that address, else a new one of the narrowest range that
    /// holds it.
    pub fn accept(&mut self, remote: SocketAddr, local: SocketAddr, now: Instant) -> Accepted {
        self.accept_on(remote, local, &Binding::default(), now)
    }

    /// The same for a connection of a listener that is bound to a device or in another network namespace: it is one of a peer
    /// with the same binding or of nobody.
    pub fn accept_on(
        &mut self,
        remote: SocketAddr,
        local: SocketAddr,
        binding: &Binding,
        now: Instant,
    ) -> Accepted {
        if self.stopped {
            return Accepted::Refused(None);
        }
        let slot = match self.expected(remote, local, binding, now) {
            Some(slot) => slot,
            None => match self.add_dynamic(remote, local, binding, now) {
                Ok(slot) => slot,
                // Callers beyond a limit may be many: a reset costs the least. When we run out ourselves we say so (RFC 4486 §4).
                Err(NoPlace::Full) => {
                    return Accepted::Refused(refusal(ErrorCode::OUT_OF_RESOURCES));
                }
                Err(NoPlace::Stranger | NoPlace::HalfOpen | NoPlace::Limit) => {
                    return Accepted::Refused(None);
                }
            },
        };
        let Some(neighbour) = self.neighbour(slot) else {
            return Accepted::Refused(None);
        };
        let peer = neighbour.id;
        match neighbour.fsm.admit(now) {
            Admission::Accept(direction) => {
                if neighbour.is_open(direction) {
                    self.outputs.push_back(Output::Close {
                        peer,
                        direction,
                        linger: false,
                    });
                }
                if let Some(neighbour) = self.neighbour_mut(slot) {
                    neighbour.set_open(direction, true);
                }
                self.recount(slot);
                Accepted::Peer(peer, direction)
            }
            refused @ (Admission::Close | Admission::Reject | Admission::Collide) => {
                // A dynamic neighbour that never had a connection goes again.
                if let Some(neighbour) = self.neighbour_mut(slot) {
                    neighbour.was_open = true;
                    if refused != Admission::Collide && neighbour.config.waits() {
                        // The path that has to be up first is perhaps watched from another address.
                        self.note_called(slot, local.ip(), now);
                    }
                }
                self.retire_if_gone(slot, now);
                Accepted::Refused(match refused {
                    Admission::Accept(_) | Admission::Close => None,
                    Admission::Reject => refusal(ErrorCode::CONNECTION_REJECTED),
                    Admission::Collide => refusal(ErrorCode::CONNECTION_COLLISION),
                })
            }
        }
    }

    /// The neighbour of this address; of several, the one whose own address was called and that has room. One that came from a
    /// range is nobody's where another is configured by this address.
    fn expected(
        &self,
        remote: SocketAddr,
        local: SocketAddr,
        binding: &Binding,
        now: Instant,
    ) -> Option<Slot> {
        let fits = |slot: &&Slot| {
            self.neighbour(**slot).is_some_and(|neighbour| {
                let config = &neighbour.config;
                let scope = match (remote, config.remote) {
                    (SocketAddr::V6(calling), Remote::Address(SocketAddr::V6(known))) => {
                        known.scope_id() == 0 || known.scope_id() == calling.scope_id()
                    }
                    _ => true,
                };
                scope
                    && config.binding == *binding
                    && config
                        .local_address
                        .is_none_or(|address| address == local.ip())
            })
        };
        let slots = self.addresses.get(&remote.ip())?;
        let takes = |slot: &&Slot| {
            self.neighbour(**slot)
                .is_some_and(|neighbour| matches!(neighbour.fsm.admit(now), Admission::Accept(_)))
        };
        let exact = |slot: &&Slot| {
            self.neighbour(**slot)
                .is_some_and(|neighbour| neighbour.range.is_none())
        };
        let named = slots.iter().filter(fits).any(|slot| exact(&slot));
        let mut fitting = slots
            .iter()
            .filter(fits)
            .filter(|slot| !named || exact(slot));
        fitting
            .clone()
            .find(takes)
            .or_else(|| fitting.next())
            .copied()
    }

    /// The narrowest range whose callers at this address of ours are taken.
    pub(super) fn range_of(
        &self,
        caller: IpAddr,
        local: Option<IpAddr>,
        binding: &Binding,
    ) -> Option<&PeerConfig> {
        self.ranges
            .places()
            .filter_map(|(range, place)| Some((range, self.config.peers.get(place)?)))
            .filter(|(range, peer)| {
                range.contains_addr(caller)
                    && peer.enabled
                    && peer.binding == *binding
                    && (peer.local_address.is_none() || peer.local_address == local)
            })
            .max_by_key(|(range, _)| range.len())
            .map(|(_, peer)| peer)
    }

    /// A neighbour for a caller from a configured range: the narrowest one that holds it.
    ///
    /// # Errors
    /// There is no such range, or no room.
    fn add_dynamic(
        &mut self,
        remote: SocketAddr,
        local: SocketAddr,
        binding: &Binding,
        now: Instant,
    ) -> Result<Slot, NoPlace> {
        let template = self
            .range_of(remote.ip(), Some(local.ip()), binding)
            .ok_or(NoPlace::Stranger)?;
        let range: Arc<str> = Arc::from(template.name.as_str());
        let members = self.members(&range);
        if members.half_open >= template.half_open_limit {
            return Err(NoPlace::HalfOpen);
        }
        let mut config = template.clone();
        self.become_dynamic(&mut config, remote);
        if members.count >= config.dynamic_limit {
            // Those who did wrong must not keep the others out.
            let slot = members.longest_remembered().ok_or(NoPlace::Limit)?;
            self.remove(slot, now);
        }
        self.add(config, remote, Some((range, local.ip())), now)
            .ok_or(NoPlace::Full)
    }

    /// Makes of a range what one caller from it is configured to be, under a name that nobody has.
    pub(super) fn become_dynamic(&self, config: &mut PeerConfig, remote: SocketAddr) {
        config.name = match remote {
            // On two links there may be two of one link-local address.
            SocketAddr::V6(v6) if v6.scope_id() != 0 => {
                format!("{}-{}%{}", config.name, v6.ip(), v6.scope_id())
            }
            SocketAddr::V4(_) | SocketAddr::V6(_) => format!("{}-{}", config.name, remote.ip()),
        };
        while self.names.contains_key(config.name.as_str()) {
            // Somebody else is configured under just that one.
            config.name.push('+');
        }
        as_caller(config, remote);
    }
}

/// What one caller from a range is configured to be, whatever its name.
pub(super) const fn as_caller(config: &mut PeerConfig, remote: SocketAddr) {
    // The port it called from is nobody's to dial, and another one each time.
    let mut address = remote;
    address.set_port(0);
    config.remote = Remote::Address(address);
    config.passive = true;
}

/// Why a caller is not taken for a neighbour of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoPlace {
    /// No range holds it.
    Stranger,
    /// Too many who only connect are here already.
    HalfOpen,
    /// The range has as many neighbours as it may.
    Limit,
    /// The speaker has as many neighbours as it can tell apart.
    Full,
}

/// The octets of a NOTIFICATION for a connection nobody takes.
fn refusal(code: ErrorCode) -> Option<Bytes> {
    Message::Notification(Notification::new(code))
        .to_bytes(&CodecContext::before_open())
        .ok()
}
