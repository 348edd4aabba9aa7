//! The paths to neighbours as BFD watches them, and what their ends mean for the sessions (RFC 5882).
//!
//! The speaker says which paths are to be watched ([`Output::Watch`](super::Output::Watch)) and is told what is new of them
//! ([`Speaker::handle_bfd`]). Whose BFD never came up is no worse off than without; only the end of a path that was up counts,
//! and not one that an operator on either side wanted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::config::Remote;
use super::events::PeerEventKind;
use super::{Output, PeerId, Speaker};
use crate::bfd::{Report, SessionConfig, State, Status};
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
        // A loss that was over before it was told is told all the same.
        let lost = report
            .loss
            .filter(|_| before == State::Up || after == State::Up);
        let steps = [
            lost.map(|loss| (State::Up, State::Down, loss.diagnostic)),
            (lost.is_none() && before == State::Up && after != State::Up).then_some((
                before,
                after,
                report.status.diagnostic,
            )),
            (after == State::Up && (lost.is_some() || before != State::Up)).then_some((
                before.min(State::Init),
                after,
                report.status.diagnostic,
            )),
        ];
        let (name, address) = (Arc::clone(&neighbour.name), neighbour.address);
        for (from, to, diagnostic) in steps.into_iter().flatten() {
            let kind = PeerEventKind::Path {
                from,
                to,
                diagnostic,
            };
            self.events.push(now, &name, address, kind);
        }
        let Some(neighbour) = self.neighbour_mut(slot) else {
            return;
        };
        let strict = neighbour.config.bfd.is_some_and(|bfd| bfd.strict);
        if let Some(loss) = report.loss {
            let shutdown = Shutdown::BfdDown {
                keep_routes: !loss.remote_control_plane_independent,
            };
            let event = if strict {
                Event::Stop(shutdown)
            } else {
                Event::Reset(shutdown)
            };
            neighbour.fsm.handle_event(now, event);
        }
        if strict && report.status.state == State::Up && neighbour.may_start() {
            neighbour.fsm.handle_event(now, Event::Start);
        }
        self.drain(slot, now);
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
            .map(|bfd| SessionConfig::new(&bfd, address.ip(), scope, config.local_address));
        let watched = neighbour.liveness.map(|liveness| liveness.config);
        if watched == wanted {
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
        let peer = neighbour.id;
        self.outputs.push_back(Output::Watch { peer, path: wanted });
    }
}

impl super::neighbour::Neighbour {
    /// Whether its session may be begun: not while it is disabled, and with strict BFD not before its path is up.
    pub(super) fn may_start(&self) -> bool {
        let strict = self.config.bfd.is_some_and(|bfd| bfd.strict);
        self.config.enabled && (!strict || self.liveness.is_some_and(|liveness| liveness.is_up()))
    }
}
