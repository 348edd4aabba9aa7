//! The session with one neighbour (RFC 4271 §8), without sockets and without a clock.
//!
//! A [`Peer`] is one configured neighbour and owns up to three TCP connections to it: one we dialled, one it dialled, and one
//! it dialled beside an Established one. Each runs through OpenSent and OpenConfirm by itself; at most one of them is ever
//! Established. Whoever owns the sockets
//! tells the peer what happened with [`Peer::handle_event`] and [`Peer::handle_timeout`], then drains [`Peer::poll_output`]
//! and sleeps until [`Peer::poll_timeout`].
//!
//! ```text
//!            Start                 ConnectionUp        OPEN accepted          KEEPALIVE
//!   Idle ─────────► Active/Connect ───────────► OpenSent ────────► OpenConfirm ────────► Established
//!     ▲   ▲ rest over      ▲  │ ▲ failed │            │ closed             │                  │
//!     │   └──(IdleHold)    └──┴─┴────────┴────────────┘                    │                  │
//!     └───────────────────────── errors, with a doubling rest ◄───────────┴──────────────────┘
//! ```
//!
//! Read `event.rs` for how these events map to the numbered ones of RFC 4271 §8.1, `negotiation.rs` for what two OPENs settle,
//! `collision.rs` for §6.8, `beginning.rs` for who dials and whose calls are taken, `messages.rs` for what each message leads to,
//! `ending.rs` for what is said at the end and what follows it.
//!
//! Departs from RFC 4271 §8.2.2, each as the daemons in the field do:
//! - incoming connections are taken in Idle unless the neighbour is stopped or resting after an error of its own making:
//!   both sides come up as soon as either is ready (FRR, BIRD);
//! - a failed or lost connection leads to Active with a growing pause rather than to Idle (BIRD, FRR);
//! - an UPDATE in OpenConfirm counts as the KEEPALIVE before it (BIRD): some speakers send both in one segment and the order is
//!   theirs to lose;
//! - an OPEN said twice on one connection counts once: OpenBGPD repeats what a failed connection left unsent;
//! - when octets of the neighbour wait unread at the end of the hold time, ten seconds are added, once: we were late (BIRD);
//! - a session of less than two seconds does not refuse a connection that wins by identifiers, but waits which of the two the
//!   neighbour keeps: §6.8 lets it prefer the other as long as ours is not confirmed there, and both would be lost;
//! - a rest that a Cease of the neighbour started ends when the neighbour itself calls;
//! - a passive side dials while it restarts itself: the other one may be resting, and our routes there have a deadline
//!   (Calico's BIRD takes such calls, and collisions sort themselves out).
//!
//! Departs from RFC 4724 §4.2 in that a new TCP connection of a gracefully restarting neighbour does not end the old session,
//! but its OPEN does, if it is from the same AS and identifier: anything behind the neighbour's address can connect, a pod
//! whose packets are masqueraded by its node for one.
//!
//! What this does not do: parse or write routes, know of tables, keep stale routes. It only says, when a session ends, whether
//! they are to be kept (RFC 4724 §4.2, RFC 8538 §4).

mod beginning;
mod collision;
mod ending;
mod event;
mod messages;
mod negotiation;
mod notice;
mod output;
mod state;
mod timer;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::ending::Next;
pub use self::event::{Direction, Event, Shutdown};
#[cfg(test)]
pub(crate) use self::negotiation::add_paths;
pub use self::output::{DownCause, DownReason, Negotiated, PeerOutput, PeerWarning};
pub use self::state::State;
use self::state::{Connection, Delaying, Established, OpenConfirm, OpenSent, Run};
use self::timer::{Backoff, Jitter, Timer, Timers};
use crate::asn::Asn;
use crate::codec::{ErrorCode, Notification};
use crate::router_id::RouterId;
use crate::speaker::config::PeerConfig;

/// What our OPENs say of us, the same to every neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalIdentity {
    /// Our AS, unless the neighbour is shown another.
    pub asn: Asn,
    /// Our BGP Identifier.
    pub router_id: RouterId,
    /// We restarted and have not advertised since: the R bit (RFC 4724 §3). Cleared once selection was done.
    pub restarting: bool,
    /// The forwarding state survived our restart: the F bits. Where it did not, they are set from the second session on,
    /// because losing a session loses nothing of the kernel's.
    pub forwarding_preserved: bool,
}

/// Whether a neighbour's incoming connection is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Hand it over with [`Event::ConnectionUp`] of this direction; an earlier connection of it is to be dropped before.
    Accept(Direction),
    /// Close it, saying nothing.
    Close,
    /// Say NOTIFICATION 6/5, connection rejected: the neighbour is administratively down here.
    Reject,
    /// Say NOTIFICATION 6/7, collision resolution: there is a session already.
    Collide,
}

/// One configured neighbour.
#[derive(Debug)]
pub struct Peer {
    config: Arc<PeerConfig>,
    identity: LocalIdentity,
    run: Run,
    outgoing: Option<Connection>,
    incoming: Option<Connection>,
    second_incoming: Option<Connection>,
    timers: Timers,
    jitter: Jitter,
    connect_backoff: Backoff,
    idle_backoff: Backoff,
    /// Routes of the neighbour are kept for its return.
    urgent: bool,
    /// The path to it is not known to be up, and no session is begun before it is.
    held: bool,
    /// Until when OPENs go without capabilities because the neighbour refused them.
    without_capabilities_until: Option<Instant>,
    /// With [`LocalAsMode::DualAs`](crate::speaker::config::LocalAsMode::DualAs): it refused the other AS and is shown the
    /// speaker's.
    shows_own_asn: bool,
    /// A session was up since the process started.
    was_established: bool,
    /// The hold timer of which connections was put off since they were last heard, a bit each.
    put_off: u8,
    last_error: Option<DownCause>,
    /// What ended a connection since the state was reported last.
    cause: Option<DownCause>,
    reported: State,
    outputs: VecDeque<PeerOutput>,
}

impl Peer {
    /// A neighbour that is stopped. `seed` feeds its jitter.
    #[must_use]
    pub fn new(config: Arc<PeerConfig>, identity: LocalIdentity, seed: u64, _now: Instant) -> Self {
        Self {
            config,
            identity,
            run: Run::Stopped,
            outgoing: None,
            incoming: None,
            second_incoming: None,
            urgent: false,
            held: false,
            timers: Timers::default(),
            jitter: Jitter::new(seed),
            connect_backoff: Backoff::new(),
            idle_backoff: Backoff::new(),
            without_capabilities_until: None,
            shows_own_asn: false,
            was_established: false,
            put_off: 0,
            last_error: None,
            cause: None,
            reported: State::Idle,
            outputs: VecDeque::new(),
        }
    }

    /// The configuration in force.
    #[must_use]
    pub const fn config(&self) -> &Arc<PeerConfig> {
        &self.config
    }

    /// Puts another configuration in force. What is settled by OPENs holds from the next session on: send
    /// [`Event::Reset`] where [`PeerConfig::needs_new_session`] says so.
    pub fn set_config(&mut self, now: Instant, config: Arc<PeerConfig>) {
        let waited = self.waits();
        if (config.local_asn, config.local_as_mode)
            != (self.config.local_asn, self.config.local_as_mode)
        {
            self.shows_own_asn = false;
        }
        self.without_capabilities_until = None;
        self.config = config;
        if self.waits() {
            self.timers.stop(Timer::ConnectRetry);
            if matches!(self.outgoing, Some(Connection::Connecting(_))) {
                self.abort_dialling();
            }
            if !waited {
                self.await_call(now);
            }
        } else if waited
            && self.run == Run::Running
            && self.outgoing.is_none()
            && self.established().is_none()
        {
            self.timers.set(Timer::ConnectRetry, now);
        }
        self.report();
    }

    /// Changes what later OPENs say of us.
    pub fn set_identity(&mut self, now: Instant, identity: LocalIdentity) {
        let waited = self.waits();
        self.identity = identity;
        if !waited && self.waits() {
            // Our restart is over, and who was dialled meanwhile is waited for again.
            self.await_call(now);
        }
    }

    /// It had a session before it was known here as this one: what it may keep of ours is forwarded still.
    pub(crate) const fn note_earlier_session(&mut self) {
        self.was_established = true;
    }

    /// Holds back new sessions, or no longer: whoever is strict about the path to the neighbour says so until it is up. A
    /// session that stands is not touched, attempts are given up.
    pub fn set_held(&mut self, now: Instant, held: bool) {
        if std::mem::replace(&mut self.held, held) == held {
            return;
        }
        if held {
            self.timers.stop(Timer::ConnectRetry);
            self.timers.stop(Timer::Call);
            for direction in Direction::ALL {
                if matches!(self.peek(direction), Some(Connection::Established(_))) {
                    continue;
                }
                if let Some(connection) = self.take(direction) {
                    let notification = Notification::new(ErrorCode::BFD_DOWN);
                    self.say_and_close(direction, &connection, &notification);
                }
            }
        } else if self.run == Run::Running {
            self.await_call(now);
            self.dial(now);
        }
        self.report();
    }

    /// Whether there is something to hold against a neighbour that nobody configured by address: it is refused for now, or
    /// will rest longer after its next error.
    #[must_use]
    pub fn remembers(&self) -> bool {
        matches!(self.run, Run::Limited | Run::Resting { admits: false })
            || self.timers.runs(Timer::Forget)
    }

    /// Says whether routes of the neighbour are kept for its return, so that it has to be found before their time is over.
    pub fn set_urgent(&mut self, now: Instant, urgent: bool) {
        if std::mem::replace(&mut self.urgent, urgent) || !urgent {
            return;
        }
        // A longer pause may have begun before.
        let latest = now + timer::URGENT_RETRY_MAX;
        for pause in [Timer::ConnectRetry, Timer::IdleHold] {
            if self
                .timers
                .deadline(pause)
                .is_some_and(|deadline| deadline > latest)
            {
                self.timers.set(pause, latest);
            }
        }
    }

    /// Whether we only wait for the neighbour to call.
    fn waits(&self) -> bool {
        self.config.waits() && !(self.identity.restarting && self.config.can_dial())
    }

    fn pause_at_most(&self, usual: Duration) -> Duration {
        // Who restarts is awaited by those who keep its routes, and waits for a while itself.
        if self.urgent || self.identity.restarting {
            usual.min(timer::URGENT_RETRY_MAX)
        } else {
            usual
        }
    }

    /// The state people see: that of the connection that got farthest.
    #[must_use]
    pub fn state(&self) -> State {
        let farthest = self.connections().map(Connection::state).max();
        match (farthest, self.run) {
            (Some(state), _) => state,
            (None, Run::Running) if !self.held => State::Active,
            (None, _) => State::Idle,
        }
    }

    /// What the Established session settled, if there is one.
    #[must_use]
    pub fn established(&self) -> Option<&Arc<Negotiated>> {
        Some(&self.session()?.1.negotiated)
    }

    /// Whether this connection is Established.
    pub(crate) const fn is_session(&self, direction: Direction) -> bool {
        matches!(self.peek(direction), Some(Connection::Established(_)))
    }

    /// Whether [`Peer::poll_output`] has a request.
    pub(crate) fn is_asking(&self) -> bool {
        !self.outputs.is_empty()
    }

    fn session(&self) -> Option<(Direction, &Established)> {
        Direction::ALL
            .into_iter()
            .find_map(|direction| match self.peek(direction) {
                Some(Connection::Established(up)) => Some((direction, up)),
                _ => None,
            })
    }

    fn connections(&self) -> impl Iterator<Item = &Connection> {
        [&self.outgoing, &self.incoming, &self.second_incoming]
            .into_iter()
            .flatten()
    }

    /// What went wrong last, also before a session was ever up.
    #[must_use]
    pub const fn last_error(&self) -> Option<&DownCause> {
        self.last_error.as_ref()
    }

    /// The earliest time at which [`Peer::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next request; call until it returns nothing.
    pub fn poll_output(&mut self) -> Option<PeerOutput> {
        self.outputs.pop_front()
    }

    /// Whether an incoming connection of this neighbour would be taken now.
    #[must_use]
    pub fn admit(&self, now: Instant) -> Admission {
        match self.run {
            // Not for long, mostly: whoever is told no rests for a minute, whoever is told nothing comes back.
            _ if self.held => return Admission::Close,
            Run::Stopped | Run::Limited => return Admission::Reject,
            Run::Resting { admits: false } => return Admission::Close,
            Run::Resting { admits: true } | Run::Running => {}
        }
        let session = self.session();
        let place = match session {
            Some((direction, up)) if direction.is_incoming() => {
                if !gives_way(up, now) {
                    return Admission::Collide;
                }
                if direction == Direction::Incoming {
                    Direction::SecondIncoming
                } else {
                    Direction::Incoming
                }
            }
            // What was called beside a session that is gone since goes on in its place.
            _ if self.second_incoming.is_some() => Direction::SecondIncoming,
            _ => Direction::Incoming,
        };
        match self.peek(place) {
            None | Some(Connection::Connecting(_)) => Admission::Accept(place),
            Some(
                Connection::OpenSent(OpenSent { since, .. })
                | Connection::Delaying(Delaying { since, .. }),
            ) => {
                if now.saturating_duration_since(*since) >= timer::OPEN_GRACE {
                    Admission::Accept(place)
                } else {
                    Admission::Close
                }
            }
            Some(Connection::OpenConfirm(_) | Connection::Established(_)) => Admission::Collide,
        }
    }

    /// Takes in one event.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Start => {
                self.without_capabilities_until = None;
                self.start(now);
            }
            Event::Stop(shutdown) => self.end_all(now, &shutdown, Next::Stop),
            Event::Reset(shutdown) => {
                if matches!(self.run, Run::Stopped | Run::Limited) {
                    return;
                }
                if !matches!(shutdown, Shutdown::BfdDown { .. }) {
                    // Whoever resets it may have taught it capabilities.
                    self.without_capabilities_until = None;
                }
                self.end_all(now, &shutdown, Next::Reconnect);
            }
            Event::PrefixLimit {
                family,
                limit,
                restart,
            } => {
                let next = restart.map_or(Next::Limit, |pause| Next::Rest {
                    pause,
                    admits: false,
                });
                let notification = Notification::maximum_prefixes(family, limit);
                self.cease_all(now, &notification, true, false, next);
            }
            Event::ConnectionUp {
                direction,
                local,
                remote,
            } => self.connection_up(now, direction, local, remote),
            Event::ConnectionFailed { direction } => self.connection_failed(now, direction),
            Event::ConnectionClosed { direction } => self.connection_closed(now, direction),
            Event::Message { direction, message } => self.message(now, direction, message),
            Event::Malformed { direction, error } => {
                if self.stands(direction) {
                    self.refuse(now, direction, Notification::from(&error));
                }
            }
            Event::AskAgain => self.ask_again(),
            Event::BytesAccepted { direction } => self.restart_send_hold(now, direction),
            Event::Heard { direction } => {
                let expired = self
                    .timers
                    .deadline(Timer::Hold(direction))
                    .is_some_and(|deadline| deadline <= now);
                // Once: who has not come to read it ten seconds later has worse troubles than a session.
                if expired && self.put_off & bit(direction) == 0 {
                    self.put_off |= bit(direction);
                    let later = now + timer::HEARD_EXTENSION;
                    self.timers.set(Timer::Hold(direction), later);
                }
            }
        }
        self.report();
    }

    /// Acts on every timer that ran out by `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.expire(now) {
            match timer {
                Timer::ConnectRetry => self.dial(now),
                Timer::IdleHold => {
                    self.run = Run::Running;
                    if !self.config.can_dial() {
                        self.remember(now);
                    }
                    self.await_call(now);
                    self.dial(now);
                }
                Timer::Stable => {
                    self.idle_backoff.reset();
                    self.timers.stop(Timer::Forget);
                }
                Timer::Forget => {
                    if self.run == Run::Running && !self.stands_at_all() {
                        self.idle_backoff.reset();
                    } else {
                        self.remember(now);
                    }
                }
                Timer::Call => {
                    if self.waits() && !self.held && !self.stands_at_all() {
                        self.outputs
                            .push_back(PeerOutput::Warning(PeerWarning::NobodyCalls));
                    }
                }
                Timer::DelayOpen(direction) => {
                    if let Some(Connection::Delaying(delaying)) = self.peek(direction) {
                        let (local, remote) = (delaying.local, delaying.remote);
                        self.open(now, direction, local, remote);
                    }
                }
                Timer::Hold(direction) => self.hold_expired(now, direction),
                Timer::SendHold => self.send_hold_expired(now),
            }
        }
        self.report();
    }

    fn ask_again(&mut self) {
        let Some((direction, up)) = self.session() else {
            return;
        };
        if !up.negotiated.route_refresh {
            return;
        }
        for family in Arc::clone(&up.negotiated).families.iter().copied() {
            self.outputs.push_back(PeerOutput::Send {
                direction,
                bytes: notice::refresh(family),
            });
        }
    }

    // Timers.

    /// The neighbour spoke on this connection.
    pub(crate) fn restart_hold(&mut self, now: Instant, direction: Direction) {
        self.put_off &= !bit(direction);
        let hold_time = match self.peek(direction) {
            // Without a hold time its KEEPALIVE is awaited as long as its OPEN was.
            Some(Connection::OpenConfirm(OpenConfirm { negotiated, .. })) => Some(
                negotiated
                    .hold_time
                    .duration()
                    .unwrap_or_else(|| self.patience()),
            ),
            Some(Connection::Established(Established { negotiated, .. })) => {
                negotiated.hold_time.duration()
            }
            Some(Connection::Connecting(_) | Connection::Delaying(_) | Connection::OpenSent(_))
            | None => return,
        };
        match hold_time {
            Some(hold_time) => self.timers.set(Timer::Hold(direction), now + hold_time),
            None => self.timers.stop(Timer::Hold(direction)),
        }
    }

    fn restart_send_hold(&mut self, now: Instant, direction: Direction) {
        if let Some(Connection::Established(up)) = self.peek(direction)
            && let Some(patience) =
                negotiation::send_hold_time(&self.config, up.negotiated.hold_time)
        {
            self.timers.set(Timer::SendHold, now + patience);
        }
    }

    // Small tools.

    const fn peek(&self, direction: Direction) -> Option<&Connection> {
        match direction {
            Direction::Outgoing => self.outgoing.as_ref(),
            Direction::Incoming => self.incoming.as_ref(),
            Direction::SecondIncoming => self.second_incoming.as_ref(),
        }
    }

    const fn slot(&mut self, direction: Direction) -> &mut Option<Connection> {
        match direction {
            Direction::Outgoing => &mut self.outgoing,
            Direction::Incoming => &mut self.incoming,
            Direction::SecondIncoming => &mut self.second_incoming,
        }
    }

    /// Takes a connection out, with its timers.
    fn take(&mut self, direction: Direction) -> Option<Connection> {
        let connection = self.slot(direction).take()?;
        self.timers.stop(Timer::Hold(direction));
        self.timers.stop(Timer::DelayOpen(direction));
        self.put_off &= !bit(direction);
        Some(connection)
    }

    /// Whether our OPEN went out on a connection that still stands.
    fn speaks(&self, direction: Direction) -> bool {
        self.peek(direction)
            .is_some_and(|connection| connection.state() >= State::OpenSent)
    }

    /// Whether a TCP connection stands, though perhaps nothing was said on it.
    fn stands(&self, direction: Direction) -> bool {
        matches!(
            self.peek(direction),
            Some(
                Connection::Delaying(_)
                    | Connection::OpenSent(_)
                    | Connection::OpenConfirm(_)
                    | Connection::Established(_)
            )
        )
    }

    fn stands_at_all(&self) -> bool {
        Direction::ALL
            .into_iter()
            .any(|direction| self.stands(direction))
    }

    fn speaks_at_all(&self) -> bool {
        Direction::ALL
            .into_iter()
            .any(|direction| self.speaks(direction))
    }

    fn report(&mut self) {
        let to = self.state();
        // What ended a connection without changing the state people see is no reason of a later change.
        let cause = self.cause.take();
        if to != self.reported {
            let from = std::mem::replace(&mut self.reported, to);
            self.outputs
                .push_back(PeerOutput::StateChanged { from, to, cause });
        }
    }
}

/// Whether an Established connection may give way to a new one of the same peer: with graceful restart a new connection says
/// that the peer restarted (RFC 4724 §4.2).
///
/// Departs from RFC 4724 §4.2 in the first seconds: then a second connection is what is left of a collision, not a restart, and
/// giving way would drop a session that both sides just agreed on.
fn gives_way(up: &Established, now: Instant) -> bool {
    up.negotiated.keeps_routes() && now.saturating_duration_since(up.since) >= timer::OPEN_GRACE
}

const fn bit(direction: Direction) -> u8 {
    1 << direction as u8
}
