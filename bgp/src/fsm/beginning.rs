//! How connections begin: when we start and dial, whose calls are taken, when our OPEN is said.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::ending::{Next, keeps_over_loss};
use super::negotiation::Offer;
use super::state::{Connecting, Connection, Delaying, OpenSent, Run, State};
use super::timer::{self, Timer};
use super::{Admission, Direction, DownCause, Peer, PeerOutput};

impl Peer {
    pub(super) fn start(&mut self, now: Instant) {
        if self.run == Run::Running || self.speaks_at_all() {
            self.run = Run::Running;
            if !self.stands_at_all() {
                self.timers.stop(Timer::Forget);
                self.idle_backoff.reset();
            }
            return;
        }
        self.run = Run::Running;
        self.timers.stop(Timer::IdleHold);
        self.timers.stop(Timer::Forget);
        self.idle_backoff.reset();
        self.connect_backoff.reset();
        self.await_call(now);
        self.dial(now);
    }

    /// A neighbour that we only wait for, and that never calls, may be waiting for us.
    pub(super) fn await_call(&mut self, now: Instant) {
        if self.waits() && !self.held && !self.config.remote.is_range() && !self.stands_at_all() {
            self.timers.set(Timer::Call, now + timer::CALL_PATIENCE);
        }
    }

    /// A caller from a range that was at fault comes back when it likes: its errors count for as long again as the longest rest.
    pub(super) fn remember(&mut self, now: Instant) {
        let time = timer::bounded(self.config.idle_hold_max);
        self.timers.set(Timer::Forget, now + time);
    }

    // Connections coming and going.

    /// Dials, unless there is nobody to dial or no need to.
    pub(super) fn dial(&mut self, now: Instant) {
        if self.run != Run::Running || self.held || self.progressed() {
            return;
        }
        match self.outgoing {
            Some(Connection::Connecting(_)) => self.abort_dialling(),
            Some(_) => return,
            None => {}
        }
        if self.waits() {
            return;
        }
        self.outgoing = Some(Connection::Connecting(Connecting));
        self.outputs.push_back(PeerOutput::Connect);
        let pause = self.next_retry();
        self.timers
            .set(Timer::ConnectRetry, now + self.jitter.apply(pause));
    }

    /// The pause after one more failed attempt.
    pub(super) fn next_retry(&mut self) -> Duration {
        let pause = self
            .connect_backoff
            .next(self.config.connect_retry, self.config.connect_retry_max);
        self.pause_at_most(pause)
    }

    pub(super) fn abort_dialling(&mut self) {
        self.outgoing = None;
        self.outputs.push_back(PeerOutput::Close {
            direction: Direction::Outgoing,
            linger: false,
        });
    }

    /// Whether a connection got so far that dialling another is pointless.
    pub(super) fn progressed(&self) -> bool {
        self.connections()
            .any(|connection| connection.state() >= State::OpenConfirm)
    }

    pub(super) fn connection_up(
        &mut self,
        now: Instant,
        direction: Direction,
        local: SocketAddr,
        remote: SocketAddr,
    ) {
        match direction {
            Direction::Outgoing => match &self.outgoing {
                Some(Connection::Connecting(_)) => self.timers.stop(Timer::ConnectRetry),
                Some(_) => return,
                None => {
                    // Given up while it was being established.
                    self.outputs.push_back(PeerOutput::Close {
                        direction,
                        linger: false,
                    });
                    return;
                }
            },
            Direction::Incoming | Direction::SecondIncoming => {
                let accepted = self.admit(now) == Admission::Accept(direction);
                // The transport replaced what was there before, if anything.
                let earlier = self.take(direction);
                if let Some(earlier) = &earlier {
                    let keep = keeps_over_loss(earlier);
                    self.ended(earlier, keep, DownCause::ReplacedByPeer);
                }
                if !accepted {
                    self.outputs.push_back(PeerOutput::Close {
                        direction,
                        linger: false,
                    });
                    if earlier.is_some() {
                        self.then(now, Next::Reconnect);
                    }
                    return;
                }
                // A rest that admits calls is over with the first of them. Where nothing comes of it we dial when we would have.
                self.run = Run::Running;
                if let Some(at) = self.timers.deadline(Timer::IdleHold)
                    && !self.waits()
                {
                    self.timers.set(Timer::ConnectRetry, at);
                }
                self.timers.stop(Timer::IdleHold);
            }
        }
        self.timers.stop(Timer::Call);
        match self.config.delay_open {
            None => self.open(now, direction, local, remote),
            Some(delay) => {
                self.timers.set(Timer::DelayOpen(direction), now + delay);
                *self.slot(direction) = Some(Connection::Delaying(Delaying {
                    local,
                    remote,
                    since: now,
                }));
            }
        }
    }

    /// Sends our OPEN.
    pub(super) fn open(
        &mut self,
        now: Instant,
        direction: Direction,
        local: SocketAddr,
        remote: SocketAddr,
    ) {
        let without_capabilities = self
            .without_capabilities_until
            .is_some_and(|until| now < until);
        let forwarding_preserved = self.identity.forwarding_preserved || self.was_established;
        let offer = Offer::new(
            &self.config,
            &self.identity,
            forwarding_preserved,
            without_capabilities,
            self.shows_own_asn,
        );
        self.outputs.push_back(PeerOutput::Send {
            direction,
            bytes: offer.encode(),
        });
        self.timers
            .set(Timer::Hold(direction), now + self.patience());
        *self.slot(direction) = Some(Connection::OpenSent(OpenSent {
            local,
            remote,
            since: now,
            offer,
            undecided: None,
        }));
    }

    /// How long a neighbour may take for what completes a session. Whoever is never dialled is a caller from a range: anybody,
    /// until its OPEN.
    pub(super) fn patience(&self) -> Duration {
        if !self.config.can_dial() || self.session().is_some() {
            timer::DYNAMIC_OPEN_TIME
        } else {
            timer::LARGE_HOLD_TIME
        }
    }
}
