//! What the neighbour says, and what each message leads to in each state.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::collision::{self, Verdict};
use super::ending::Next;
use super::state::{Connection, Established, OpenConfirm, State};
use super::timer::{self, Timer};
use super::{
    Direction, DownCause, Negotiated, Peer, PeerOutput, PeerWarning, gives_way, negotiation, notice,
};
use crate::codec::{ErrorCode, Message, Notification, Open};
use crate::speaker::config::LocalAsMode;

impl Peer {
    pub(super) fn message(&mut self, now: Instant, direction: Direction, message: Message) {
        let Some(connection) = self.peek(direction) else {
            return;
        };
        if let Connection::Delaying(delaying) = connection {
            let (local, remote) = (delaying.local, delaying.remote);
            return self.spoken_to_first(now, direction, local, remote, message);
        }
        match (connection.state(), message) {
            (State::Idle | State::Active | State::Connect, _) => {}
            (_, Message::Notification(notification)) => self.notified(now, direction, notification),
            (State::OpenSent, Message::Open(open)) => self.opened(now, direction, &open),
            (State::OpenConfirm, Message::Keepalive) => self.confirmed(now, direction),
            // Departs from RFC 6608 §3: OpenBGPD (7.7) keeps the OPEN it could not send on a connection that was closed at once,
            // as one with a restarting neighbour may be, and says it before that of its next connection. A NOTIFICATION would
            // cost us the routes it keeps for our return.
            (State::OpenConfirm, Message::Open(open)) if self.repeats(direction, &open) => {}
            (State::OpenConfirm, Message::Update(update)) => {
                self.confirmed(now, direction);
                self.outputs.push_back(PeerOutput::Update(update));
            }
            (State::Established, Message::Keepalive) => self.restart_hold(now, direction),
            // A speaker goes a shorter way to the same, see its `take_update`.
            (State::Established, Message::Update(update)) => {
                self.restart_hold(now, direction);
                self.outputs.push_back(PeerOutput::Update(update));
            }
            (State::Established, Message::RouteRefresh(refresh)) => {
                self.restart_hold(now, direction);
                // Only what we offered is answered (RFC 2918 §4).
                if self
                    .established()
                    .is_some_and(|up| !up.without_capabilities)
                {
                    self.outputs.push_back(PeerOutput::RouteRefresh(refresh));
                }
            }
            (state, unexpected) => {
                let notification = notice::unexpected_message(state, &unexpected);
                self.refuse(now, direction, notification);
            }
        }
    }

    /// A message on a connection on which our OPEN is held back (RFC 4271 §8.2.2, events 20 and 24).
    fn spoken_to_first(
        &mut self,
        now: Instant,
        direction: Direction,
        local: SocketAddr,
        remote: SocketAddr,
        message: Message,
    ) {
        match message {
            Message::Open(open) => {
                self.timers.stop(Timer::DelayOpen(direction));
                self.open(now, direction, local, remote);
                self.opened(now, direction, &open);
            }
            Message::Notification(notification) => self.notified(now, direction, notification),
            unexpected @ (Message::Update(_) | Message::Keepalive | Message::RouteRefresh(_)) => {
                // Before our OPEN nothing is said.
                let notification = notice::unexpected_message(State::Connect, &unexpected);
                self.refuse(now, direction, notification);
            }
        }
    }

    /// The end of one connection may have decided what another one waits for.
    pub(super) fn decide_undecided(&mut self, now: Instant) {
        for direction in Direction::ALL {
            let undecided = match self.slot(direction) {
                Some(Connection::OpenSent(sent)) => sent.undecided.take(),
                _ => None,
            };
            if let Some(open) = undecided {
                self.opened(now, direction, &open);
            }
        }
    }

    /// An OPEN in OpenSent.
    pub(super) fn opened(&mut self, now: Instant, direction: Direction, open: &Open) {
        let Some(Connection::OpenSent(sent)) = self.peek(direction) else {
            return;
        };
        let negotiated = match negotiation::negotiate(
            &self.config,
            &sent.offer,
            open,
            direction,
            sent.local,
            sent.remote,
        ) {
            Ok(negotiated) => Arc::new(negotiated),
            Err(notification) => {
                self.outputs.push_back(PeerOutput::OpenRefused {
                    direction,
                    notification: notification.clone(),
                });
                return self.refuse(now, direction, notification);
            }
        };
        for other in Direction::ALL {
            if other == direction {
                continue;
            }
            if self.is_replaced(now, other, &negotiated) {
                // RFC 4724 §4.2: the peer restarted without our noticing.
                if let Some(earlier) = self.take(other) {
                    self.outputs.push_back(PeerOutput::Close {
                        direction: other,
                        linger: false,
                    });
                    self.ended(&earlier, true, DownCause::ReplacedByPeer);
                }
                continue;
            }
            match collision::judge(&negotiated, self.identity.router_id, self.peek(other), now) {
                Verdict::Both => {}
                Verdict::Wait => {
                    if let Some(Connection::OpenSent(sent)) = self.slot(direction) {
                        sent.undecided = Some(Box::new(open.clone()));
                    }
                    self.timers
                        .set(Timer::Hold(direction), now + timer::COLLISION_GRACE);
                    return;
                }
                Verdict::AbortOther => {
                    self.take(other);
                    self.outputs.push_back(PeerOutput::Close {
                        direction: other,
                        linger: false,
                    });
                }
                Verdict::CloseOther => self.collide(other),
                Verdict::CloseThis => return self.collide(direction),
            }
        }
        if let Some(my_as) = open.contradicting_as {
            let asn = open.asn;
            self.outputs
                .push_back(PeerOutput::Warning(PeerWarning::ContradictingAs {
                    my_as,
                    asn,
                }));
        }
        self.timers.stop(Timer::ConnectRetry);
        self.outputs.push_back(PeerOutput::Send {
            direction,
            bytes: notice::keepalive(),
        });
        self.outputs.push_back(PeerOutput::UseContext {
            direction,
            context: negotiated.context,
            keepalive_interval: negotiated.keepalive_interval,
        });
        self.outputs
            .push_back(PeerOutput::Opened(Arc::clone(&negotiated)));
        let peer_knows_capabilities = negotiation::has_capabilities(open);
        *self.slot(direction) = Some(Connection::OpenConfirm(OpenConfirm {
            negotiated,
            peer_knows_capabilities,
            open: Box::new(open.clone()),
        }));
        self.restart_hold(now, direction);
    }

    /// Whether the session on `other` gives way to the call whose OPEN settled `negotiated`: only the neighbour itself can have
    /// restarted.
    fn is_replaced(&self, now: Instant, other: Direction, negotiated: &Negotiated) -> bool {
        matches!(self.peek(other), Some(Connection::Established(up))
            if negotiated.direction.is_incoming()
                && gives_way(up, now)
                && up.negotiated.peer_router_id == negotiated.peer_router_id
                && up.negotiated.peer_asn == negotiated.peer_asn)
    }

    /// Whether an OPEN is the one that was accepted on this connection.
    fn repeats(&self, direction: Direction, open: &Open) -> bool {
        matches!(self.peek(direction), Some(Connection::OpenConfirm(confirm)) if *confirm.open == *open)
    }

    /// A KEEPALIVE, or what counts as one, in OpenConfirm.
    fn confirmed(&mut self, now: Instant, direction: Direction) {
        let Some(Connection::OpenConfirm(confirm)) = self.slot(direction).take() else {
            return;
        };
        let negotiated = confirm.negotiated;
        *self.slot(direction) = Some(Connection::Established(Established {
            negotiated: Arc::clone(&negotiated),
            since: now,
        }));
        self.was_established = true;
        self.connect_backoff.reset();
        self.timers.stop(Timer::ConnectRetry);
        self.timers.set(Timer::Stable, now + timer::STABLE_AFTER);
        self.restart_hold(now, direction);
        let without_capabilities = negotiated.without_capabilities;
        self.outputs.push_back(PeerOutput::Established(negotiated));
        if without_capabilities {
            self.outputs
                .push_back(PeerOutput::Warning(PeerWarning::WithoutCapabilities));
        }
        self.restart_send_hold(now, direction);
    }

    /// A NOTIFICATION; it is never answered (RFC 4271 §6.4).
    pub(super) fn notified(
        &mut self,
        now: Instant,
        direction: Direction,
        notification: Notification,
    ) {
        let Some(connection) = self.take(direction) else {
            return;
        };
        self.outputs.push_back(PeerOutput::Close {
            direction,
            linger: false,
        });
        let refuses_capabilities = notice::refuses_capabilities(&notification)
            && match &connection {
                Connection::OpenSent(sent) => sent.offer.works_without_capabilities(),
                Connection::OpenConfirm(confirm) => !confirm.peer_knows_capabilities,
                Connection::Connecting(_)
                | Connection::Delaying(_)
                | Connection::Established(_) => false,
            };
        let keep = match &connection {
            Connection::Established(up) => {
                up.negotiated.notification_graceful && !notice::is_hard_reset(&notification)
            }
            Connection::Connecting(_)
            | Connection::Delaying(_)
            | Connection::OpenSent(_)
            | Connection::OpenConfirm(_) => false,
        };
        // RFC 7705 §3.4: a neighbour that was moved already knows us by the other number.
        let refuses_asn = notification.code == ErrorCode::BAD_PEER_AS
            && self.config.local_asn.is_some()
            && self.config.local_as_mode == LocalAsMode::DualAs
            && matches!(
                connection,
                Connection::OpenSent(_) | Connection::OpenConfirm(_)
            );
        let next = if refuses_asn {
            self.shows_own_asn = !self.shows_own_asn;
            // Each number is tried before any rest; a neighbour that knows neither is left alone as always.
            if self.shows_own_asn {
                Next::Reconnect
            } else {
                self.after_notification(&notification)
            }
        } else if refuses_capabilities {
            self.without_capabilities_until = Some(now + timer::CAPABILITY_AMNESIA);
            Next::Reconnect
        } else {
            self.after_notification(&notification)
        };
        self.ended(
            &connection,
            keep,
            DownCause::NotificationReceived(notification),
        );
        self.decide_undecided(now);
        self.then(now, next);
    }
}
