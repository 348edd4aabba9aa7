//! Who calls: whose connection an accepted one is, and who is turned away with which words.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use super::configure::NoPlace;
use super::{Accepted, Output, Speaker, config};
use crate::codec::{CodecContext, ErrorCode, Message, Notification};
use crate::fsm::Admission;
use crate::rib::Slot;

impl Speaker {
    /// Whose connection a newly accepted one is: the peer of that address, else a new one of the narrowest range that
    /// holds it.
    pub fn accept(&mut self, remote: SocketAddr, local: SocketAddr, now: Instant) -> Accepted {
        self.accept_on(remote, local, &config::Binding::default(), now)
    }

    /// The same for a connection of a listener that is bound to a device or in another network namespace: it is one of a peer
    /// with the same binding or of nobody.
    pub fn accept_on(
        &mut self,
        remote: SocketAddr,
        local: SocketAddr,
        binding: &config::Binding,
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

    /// The neighbour of this address; of several, the one whose own address was called and that has room.
    fn expected(
        &self,
        remote: SocketAddr,
        local: SocketAddr,
        binding: &config::Binding,
        now: Instant,
    ) -> Option<Slot> {
        let fits = |slot: &&Slot| {
            self.neighbour(**slot).is_some_and(|neighbour| {
                let config = &neighbour.config;
                let scope = match (remote, config.remote) {
                    (SocketAddr::V6(calling), config::Remote::Address(SocketAddr::V6(known))) => {
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
        let mut fitting = slots.iter().filter(fits);
        fitting
            .clone()
            .find(takes)
            .or_else(|| fitting.next())
            .copied()
    }
}

/// The octets of a NOTIFICATION for a connection nobody takes.
fn refusal(code: ErrorCode) -> Option<Bytes> {
    Message::Notification(Notification::new(code))
        .to_bytes(&CodecContext::before_open())
        .ok()
}
