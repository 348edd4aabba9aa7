//! How connections end, what is said then, whether routes outlive it, and what follows.

use std::time::{Duration, Instant};

use super::state::{Connection, Established, Run, State};
use super::timer::{self, Timer, Timers};
use super::{Direction, DownCause, DownReason, Peer, PeerOutput, Shutdown, notice};
use crate::codec::{ErrorCode, Notification};

/// What follows when the last connection of a neighbour is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Try again soon: nothing is wrong with the protocol.
    Reconnect,
    /// Try again after the growing pause between connection attempts.
    Retry,
    /// Rest, longer each time; whether the neighbour may call meanwhile.
    Damp { admits: bool },
    /// Rest for so long.
    Rest { pause: Duration, admits: bool },
    /// Stay Idle.
    Stop,
    /// The same, because the neighbour announced more than it may.
    Limit,
}

impl Peer {
    /// Ends whatever there is, as an operator or the configuration asks.
    pub(super) fn end_all(&mut self, now: Instant, shutdown: &Shutdown, next: Next) {
        match notice::shutdown(shutdown) {
            Some(notice) => self.cease_all(
                now,
                &notice.notification,
                notice.hard,
                notice.may_keep_routes,
                next,
            ),
            None => {
                for direction in Direction::ALL {
                    let Some(connection) = self.take(direction) else {
                        continue;
                    };
                    self.outputs.push_back(PeerOutput::Close {
                        direction,
                        linger: false,
                    });
                    if let Connection::Established(up) = connection {
                        let keep = up.negotiated.keeps_routes();
                        self.down(&up, keep, DownCause::ClosedForRestart);
                    }
                }
                self.then(now, next);
            }
        }
    }

    /// Says `notification` on every connection that understands it and closes all; in a Hard Reset where `hard` and the peer knows
    /// that (RFC 8538 §3).
    pub(super) fn cease_all(
        &mut self,
        now: Instant,
        notification: &Notification,
        hard: bool,
        may_keep: bool,
        next: Next,
    ) {
        for direction in Direction::ALL {
            let Some(connection) = self.take(direction) else {
                continue;
            };
            let wraps = match &connection {
                Connection::Established(up) => up.negotiated.notification_graceful,
                Connection::Connecting(_)
                | Connection::Delaying(_)
                | Connection::OpenSent(_)
                | Connection::OpenConfirm(_) => false,
            };
            let said = if hard && wraps {
                notification.clone().into_hard_reset()
            } else {
                notification.clone()
            };
            self.say_and_close(direction, &connection, &said);
            // After 6/10 also without the N bit: that one is about the peer's own words, and here silence was heard.
            let outlives = wraps || notification.code == ErrorCode::BFD_DOWN;
            self.ended(
                &connection,
                may_keep && outlives && !hard,
                DownCause::NotificationSent(said),
            );
        }
        self.then(now, next);
    }

    /// Answers an error of the neighbour on one connection: NOTIFICATION, close, rest (the RFC's usual list).
    pub(super) fn refuse(
        &mut self,
        now: Instant,
        direction: Direction,
        notification: Notification,
    ) {
        let Some(connection) = self.take(direction) else {
            return;
        };
        self.say_and_close(direction, &connection, &notification);
        let keep = notification_keeps(&connection);
        self.ended(&connection, keep, DownCause::NotificationSent(notification));
        self.decide_undecided(now);
        self.then(now, Next::Damp { admits: false });
    }

    /// Closes the connection that lost a collision.
    pub(super) fn collide(&mut self, direction: Direction) {
        if let Some(connection) = self.take(direction) {
            self.say_and_close(
                direction,
                &connection,
                &Notification::new(ErrorCode::CONNECTION_COLLISION),
            );
        }
    }

    pub(super) fn say_and_close(
        &mut self,
        direction: Direction,
        connection: &Connection,
        notification: &Notification,
    ) {
        // Before our OPEN nobody would understand it.
        let speaks = connection.state() >= State::OpenSent;
        if speaks {
            self.outputs.push_back(PeerOutput::Send {
                direction,
                bytes: notice::encode(notification),
            });
        }
        self.outputs.push_back(PeerOutput::Close {
            direction,
            linger: speaks,
        });
    }

    /// Books the end of a connection that was taken out.
    pub(super) fn ended(&mut self, connection: &Connection, keep_routes: bool, cause: DownCause) {
        self.last_error = Some(cause.clone());
        self.cause = Some(cause.clone());
        if let Connection::Established(up) = connection {
            self.down(up, keep_routes, cause);
        }
    }

    pub(super) fn down(&mut self, up: &Established, keep_routes: bool, cause: DownCause) {
        self.timers.stop(Timer::SendHold);
        self.timers.stop(Timer::Stable);
        let keep_routes = keep_routes && up.negotiated.keeps_routes();
        self.outputs
            .push_back(PeerOutput::Down(DownReason { keep_routes, cause }));
    }

    /// What follows the end of a connection.
    pub(super) fn then(&mut self, now: Instant, next: Next) {
        let pause = match next {
            Next::Stop | Next::Limit => {
                self.run = if next == Next::Limit {
                    Run::Limited
                } else {
                    Run::Stopped
                };
                self.timers = Timers::default();
                return;
            }
            Next::Reconnect => {
                timer::bounded(timer::RECONNECT_PAUSE.min(self.config.connect_retry))
            }
            // The attempt that came to nothing was counted when it began.
            Next::Retry => self.pause_at_most(
                self.connect_backoff
                    .again(self.config.connect_retry, self.config.connect_retry_max),
            ),
            // An error on one connection is no reason to give up the other, but for one that may come to nothing we do not wait
            // for longer than we would have rested: whoever called may never say anything.
            Next::Damp { .. } | Next::Rest { .. } if self.progressed() => return,
            Next::Damp { admits } => {
                let pause = self
                    .idle_backoff
                    .next(self.config.idle_hold, self.config.idle_hold_max);
                let pause = self.pause_at_most(pause);
                if !self.speaks_at_all() {
                    return self.rest(now, pause, admits);
                }
                pause
            }
            Next::Rest { pause, admits } => {
                if !self.speaks_at_all() {
                    return self.rest(now, pause, admits);
                }
                pause
            }
        };
        if self.run != Run::Running || self.held {
            return;
        }
        if self.waits() {
            self.await_call(now);
        } else if self.outgoing.is_none() && !self.progressed() {
            // A dial under way has its own timer. One that is due is not put off: the end of a connection is nothing to hold against
            // it, and whoever connects and closes again and again would keep us from dialling.
            let at = now + self.jitter.apply(pause);
            let due = self.timers.deadline(Timer::ConnectRetry);
            if due.is_none_or(|due| at < due) {
                self.timers.set(Timer::ConnectRetry, at);
            }
        }
    }

    pub(super) fn rest(&mut self, now: Instant, pause: Duration, admits: bool) {
        for direction in Direction::ALL {
            if self.peek(direction).is_some() {
                self.take(direction);
                self.outputs.push_back(PeerOutput::Close {
                    direction,
                    linger: false,
                });
            }
        }
        self.timers.stop(Timer::ConnectRetry);
        self.run = Run::Resting { admits };
        self.timers
            .set(Timer::IdleHold, now + timer::bounded(pause));
    }

    /// What follows a NOTIFICATION of the neighbour.
    pub(super) fn after_notification(&self, notification: &Notification) -> Next {
        match notice::meaning(notification) {
            notice::Meaning::Collision | notice::Meaning::Reset => Next::Reconnect,
            notice::Meaning::Ceased => Next::Rest {
                pause: self.pause_at_most(timer::CEASED_PAUSE.min(self.config.idle_hold_max)),
                admits: true,
            },
            notice::Meaning::Error => Next::Damp { admits: true },
        }
    }

    pub(super) fn connection_failed(&mut self, now: Instant, direction: Direction) {
        if matches!(self.peek(direction), Some(Connection::Connecting(_))) {
            self.take(direction);
            self.last_error = Some(DownCause::ConnectFailed);
            self.cause = Some(DownCause::ConnectFailed);
            // The timer that would have ended the attempt now ends the pause.
            if !self.timers.runs(Timer::ConnectRetry) {
                self.then(now, Next::Retry);
            }
        }
    }

    pub(super) fn connection_closed(&mut self, now: Instant, direction: Direction) {
        let Some(connection) = self.take(direction) else {
            return;
        };
        let keep = keeps_over_loss(&connection);
        self.ended(&connection, keep, DownCause::ConnectionLost);
        let next = match connection {
            Connection::Connecting(_) | Connection::Delaying(_) | Connection::OpenSent(_) => {
                Next::Retry
            }
            Connection::OpenConfirm(_) => Next::Damp { admits: true },
            Connection::Established(_) => Next::Reconnect,
        };
        self.decide_undecided(now);
        self.then(now, next);
    }

    pub(super) fn hold_expired(&mut self, now: Instant, direction: Direction) {
        if matches!(self.peek(direction), Some(Connection::OpenSent(sent)) if sent.undecided.is_some())
        {
            return if self.session().is_some() {
                // Both sides keep it.
                self.collide(direction);
            } else {
                self.decide_undecided(now);
            };
        }
        let Some(connection) = self.take(direction) else {
            return;
        };
        self.say_and_close(
            direction,
            &connection,
            &Notification::new(ErrorCode::HOLD_TIMER_EXPIRED),
        );
        let keep = notification_keeps(&connection);
        self.ended(&connection, keep, DownCause::HoldTimeExpired);
        self.decide_undecided(now);
        self.then(now, Next::Damp { admits: true });
    }

    pub(super) fn send_hold_expired(&mut self, now: Instant) {
        let Some(direction) = self.established().map(|up| up.direction) else {
            return;
        };
        let Some(connection) = self.take(direction) else {
            return;
        };
        // RFC 9687 §4.1 has it tried. It queues behind what the peer does not read, and lingering ends soon.
        self.say_and_close(
            direction,
            &connection,
            &Notification::new(ErrorCode::SEND_HOLD_TIMER_EXPIRED),
        );
        let keep = notification_keeps(&connection);
        self.ended(&connection, keep, DownCause::SendHoldTimeExpired);
        self.decide_undecided(now);
        self.then(now, Next::Damp { admits: true });
    }
}

/// Whether the loss of TCP alone keeps routes (RFC 4724 §4.2).
pub(super) fn keeps_over_loss(connection: &Connection) -> bool {
    matches!(connection, Connection::Established(up) if up.negotiated.keeps_routes())
}

/// Whether a NOTIFICATION that is no Hard Reset keeps routes (RFC 8538 §4).
pub(super) fn notification_keeps(connection: &Connection) -> bool {
    matches!(connection, Connection::Established(up) if up.negotiated.notification_graceful)
}
