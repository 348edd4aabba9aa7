//! The paths to neighbours as BFD watches them, and what their ends mean for the sessions (RFC 5882).
//!
//! The speaker says which paths are to be watched ([`Output::Watch`](super::Output::Watch)) and is told what is new of them
//! ([`Speaker::handle_bfd`]). Whose BFD never came up is no worse off than without; only the end of a path that was up counts,
//! and not one that an operator on either side wanted. Where BFD is strict, no session begins while the path is not up, whatever
//! ended the one before.
//!
//! Our end of a path is the configured address, else the one the neighbour calls: it knows us by that, and the kernel may choose
//! another one for what we send.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::config::Remote;
use super::events::{Origin, PeerEventKind, Subject};
use super::{Output, PeerId, Speaker};
use crate::bfd::{Diagnostic, Report, SessionConfig, State, Status};
use crate::fsm::{Event, Shutdown};
use crate::rib::Slot;

/// A path that is watched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Liveness {
    config: SessionConfig,
    /// Nothing before the first report.
    pub(super) status: Option<Status>,
    pub(super) since: Instant,
}

impl Liveness {
    pub(super) fn is_up(&self) -> bool {
        self.status.is_some_and(|status| status.state == State::Up)
    }
}

impl Speaker {
    /// What is new of the path to a neighbour.
    pub fn handle_bfd(&mut self, peer: PeerId, report: &Report, now: Instant) {
        self.settle();
        let Some(slot) = self.known(peer) else {
            return;
        };
        let Some(neighbour) = self.neighbour_mut(slot) else {
            return;
        };
        let Some(liveness) = &mut neighbour.liveness else {
            // Asked for no more.
            return;
        };
        let before = liveness.status.map_or(State::Down, |status| status.state);
        let after = report.status.state;
        if before != after || liveness.status.is_none() {
            liveness.since = now;
        }
        liveness.status = Some(report.status);
        let (lost, status) = (report.loss, &report.status);
        let (was_up, is_up) = (before == State::Up, after == State::Up);
        let by = whose(status);
        // A loss that was over before it was told is told all the same, and what was lost had been up.
        let steps = [
            (lost.is_some() && !was_up).then_some((before, State::Up, Diagnostic::NONE)),
            lost.map(|loss| (State::Up, State::Down, loss.diagnostic)),
            (lost.is_none() && was_up && !is_up).then_some((before, after, status.diagnostic)),
            (is_up && (lost.is_some() || !was_up)).then_some((
                before.min(State::Init),
                after,
                status.diagnostic,
            )),
        ];
        let about = Subject::of(neighbour);
        for (from, to, diagnostic) in steps.into_iter().flatten() {
            let kind = PeerEventKind::Path {
                from,
                to,
                diagnostic,
                // A loss is nobody's will, and neither is that a path comes up.
                by: if to == after && to != State::Up && lost.is_none() {
                    by
                } else {
                    Origin::Network
                },
            };
            self.events.push(now, about.clone(), kind);
        }
        let Some(neighbour) = self.neighbour_mut(slot) else {
            return;
        };
        if let Some(loss) = report.loss {
            let shutdown = Shutdown::BfdDown {
                keep_routes: !loss.remote_control_plane_independent,
            };
            neighbour.fsm.handle_event(now, Event::Reset(shutdown));
        }
        neighbour.hold_unless_live(now);
        self.drain(slot, now);
        if report
            .loss
            .is_some_and(|loss| loss.remote_control_plane_independent)
        {
            // Its session may have ended before, for a restart: this is not that restart, but the path (RFC 5882 §4.3.2.1).
            self.forget_kept(slot, now);
            self.drain(slot, now);
        }
    }

    /// The neighbour called, and this is the address it called. What the path was watched from so far stays where that works.
    pub(super) fn note_called(&mut self, slot: Slot, local: IpAddr, now: Instant) {
        let Some(neighbour) = self.neighbour_mut(slot) else {
            return;
        };
        let live = neighbour.liveness.is_some_and(|path| path.is_up());
        if neighbour.called != Some(local) && !live {
            neighbour.called = Some(local);
            self.refresh_liveness(slot, now);
        }
    }

    /// Has the path to a neighbour watched as its configuration says now.
    pub(super) fn refresh_liveness(&mut self, slot: Slot, now: Instant) {
        let stopped = self.stopped;
        let Some(neighbour) = self.neighbour_mut(slot) else {
            return;
        };
        let address = neighbour.address;
        let scope = match address {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(address) => address.scope_id(),
        };
        let config = &neighbour.config;
        let wanted = config
            .bfd
            .filter(|_| config.enabled && !neighbour.leaving && !stopped)
            // One whose address, or the scope of it, is yet to be learned is configured anew once it is.
            .filter(|_| match config.remote {
                Remote::Unnumbered(_) => false,
                Remote::Address(SocketAddr::V6(remote)) => {
                    remote.scope_id() != 0 || !remote.ip().is_unicast_link_local()
                }
                Remote::Address(SocketAddr::V4(_)) | Remote::Range(_) => true,
            })
            .map(|bfd| {
                let local = config.local_address.or(neighbour.called);
                SessionConfig::new(&bfd, address.ip(), scope, local)
            });
        let watched = neighbour.liveness.map(|liveness| liveness.config);
        if watched == wanted {
            // It may be strict from now on, or no longer.
            neighbour.hold_unless_live(now);
            return;
        }
        let earlier = neighbour.liveness.take();
        neighbour.liveness = wanted.map(|config| match earlier {
            // The session goes on with other timers.
            Some(earlier) if earlier.config.same_path(&config) => Liveness { config, ..earlier },
            _ => Liveness {
                config,
                status: None,
                since: now,
            },
        });
        neighbour.hold_unless_live(now);
        let peer = neighbour.id;
        let about = Subject::of(neighbour);
        if neighbour.liveness.is_none() && earlier.is_some_and(|earlier| earlier.is_up()) {
            // The session ends with this, and reports nothing more.
            let kind = PeerEventKind::Path {
                from: State::Up,
                to: State::AdminDown,
                diagnostic: Diagnostic::ADMINISTRATIVELY_DOWN,
                by: Origin::Operator,
            };
            self.events.push(now, about, kind);
        }
        self.outputs.push_back(Output::Watch { peer, path: wanted });
    }
}

/// Who ended a path that was not lost.
fn whose(status: &Status) -> Origin {
    if status.state == State::AdminDown {
        Origin::Operator
    } else if status.remote_state == State::AdminDown {
        Origin::Peer
    } else {
        Origin::Network
    }
}

impl super::neighbour::Neighbour {
    /// With strict BFD no session is begun before its path is up.
    fn hold_unless_live(&mut self, now: Instant) {
        let strict = self.config.bfd.is_some_and(|bfd| bfd.strict);
        let live = self.liveness.is_some_and(|liveness| liveness.is_up());
        self.fsm.set_held(now, strict && !live);
    }
}
