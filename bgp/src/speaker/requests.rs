//! What the machines of neighbours ask for: done here, or passed on to whoever owns the sockets.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::events::{PeerEventKind, Subject};
use super::{Output, Speaker, config};
use crate::codec::{HEADER_LEN, MessageType};
use crate::fsm::{PeerOutput, PeerWarning};
use crate::rib::Slot;

impl Speaker {
    /// Takes what a neighbour's machine asks for, and notes when it wants to be woken.
    pub(super) fn drain(&mut self, slot: Slot, now: Instant) {
        while let Some(neighbour) = self.neighbour_mut(slot) {
            let Some(output) = neighbour.fsm.poll_output() else {
                break;
            };
            let peer = neighbour.id;
            match output {
                PeerOutput::Connect => {
                    let config = Arc::clone(&neighbour.config);
                    if let config::Remote::Address(remote) = config.remote {
                        self.outputs.push_back(Output::Connect {
                            peer,
                            remote,
                            config,
                        });
                    }
                }
                PeerOutput::Send { direction, bytes } => {
                    if bytes.get(HEADER_LEN - 1) == Some(&(MessageType::Open as u8)) {
                        *neighbour.opens_mut(direction) = (bytes.clone(), Bytes::new());
                    }
                    *neighbour.queued_mut(direction) += bytes.len();
                    self.outputs.push_back(Output::Send {
                        peer,
                        direction,
                        chunks: vec![bytes],
                    });
                }
                PeerOutput::Close { direction, linger } => {
                    neighbour.set_open(direction, false);
                    self.outputs.push_back(Output::Close {
                        peer,
                        direction,
                        linger,
                    });
                }
                PeerOutput::UseContext {
                    direction,
                    context,
                    keepalive_interval,
                } => self.outputs.push_back(Output::UseContext {
                    peer,
                    direction,
                    context,
                    keepalive_interval,
                }),
                PeerOutput::Opened(negotiated) => self.session_opened(slot, &negotiated),
                PeerOutput::Established(negotiated) => self.session_up(slot, negotiated, now),
                PeerOutput::Down(reason) => self.session_down(slot, &reason, now),
                PeerOutput::Update(update) => self.import(slot, update, now),
                PeerOutput::RouteRefresh(refresh) => self.route_refresh(slot, refresh, now),
                // Nobody configured it, so nobody expects it to call.
                PeerOutput::Warning(PeerWarning::NobodyCalls) if neighbour.range.is_some() => {}
                PeerOutput::OpenRefused {
                    direction,
                    notification,
                } => {
                    let octets = neighbour.opens(direction).1.clone();
                    self.book(slot, now, |log, totals| {
                        log.refused(&notification, &octets, totals, now)
                    });
                }
                PeerOutput::Warning(warning) => self.warn(slot, warning, now),
                PeerOutput::StateChanged { from, to, cause } => {
                    neighbour.state_since = now;
                    let name = Arc::clone(&neighbour.name);
                    let about = Subject::of(neighbour);
                    let kind = PeerEventKind::State { from, to, cause };
                    self.events.push(now, about, kind);
                    self.outputs.push_back(Output::PeerStateChanged {
                        peer,
                        name,
                        from,
                        to,
                    });
                }
            }
        }
        if let Some(neighbour) = self.neighbour_mut(slot) {
            let urgent = neighbour.retention.is_urgent();
            neighbour.fsm.set_urgent(now, urgent);
        }
        self.set_timer(slot);
        self.retire_if_gone(slot, now);
    }

    /// Tells of something once, and shows it until it is over.
    pub(super) fn warn(&mut self, slot: Slot, warning: PeerWarning, now: Instant) {
        let Some(neighbour) = self.neighbour_mut(slot) else {
            return;
        };
        if neighbour.warnings.insert(warning) {
            let (peer, name) = (neighbour.id, Arc::clone(&neighbour.name));
            let about = Subject::of(neighbour);
            self.events
                .push(now, about, PeerEventKind::Warning(warning));
            self.outputs.push_back(Output::PeerWarning {
                peer,
                name,
                warning,
            });
        }
    }

    /// Moves a neighbour's timer where it became earlier. A later deadline is found out when the earlier one passes:
    /// the hold timer moves with every message.
    pub(super) fn set_timer(&mut self, slot: Slot) {
        let Some(neighbour) = self
            .neighbours
            .get_mut(usize::from(slot))
            .and_then(Option::as_mut)
        else {
            return;
        };
        let Some(next) = neighbour.next_deadline() else {
            return;
        };
        match neighbour.deadline {
            Some(set) if set <= next => {}
            set => {
                if let Some(set) = set {
                    self.timers.remove(&(set, slot));
                }
                self.timers.insert((next, slot));
                neighbour.deadline = Some(next);
            }
        }
    }
}
