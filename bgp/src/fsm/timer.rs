//! Timers of one neighbour (RFC 4271 §8, §10).
//!
//! A stopped timer is absent from the table. Nothing here reads a clock: deadlines are computed from the `now` handed in.

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use smallvec::SmallVec;

use super::event::Direction;
use crate::speaker::config::PeerConfig;

/// Hold time until the OPENs settled one (RFC 4271 §8.2.2: "a large value", four minutes).
pub(super) const LARGE_HOLD_TIME: Duration = Duration::from_secs(240);

/// How long a neighbour that nobody configured by address may take for its OPEN, and a caller beside an Established session.
pub(super) const DYNAMIC_OPEN_TIME: Duration = Duration::from_secs(10);

/// By how much the hold timer is put off when octets of the peer wait unread: our CPU was late, not the peer.
pub(super) const HEARD_EXTENSION: Duration = Duration::from_secs(10);

/// Longest pause of any kind while routes of the neighbour are kept for its return.
pub(super) const URGENT_RETRY_MAX: Duration = Duration::from_secs(5);

/// A session up so long clears the memory of earlier errors.
pub(super) const STABLE_AFTER: Duration = Duration::from_secs(300);

/// How long we leave a peer alone that ceased of its own will.
pub(super) const CEASED_PAUSE: Duration = Duration::from_secs(60);

/// The pauses there are. Without one a neighbour that refuses everything would be tried as fast as it can refuse, and a deadline
/// past what the clock can say would be a panic: configurations are held to this, and so is what slipped through.
pub(super) const PAUSES: std::ops::RangeInclusive<Duration> = PeerConfig::PAUSES;

/// First pause after a session was lost without an error of the protocol.
pub(super) const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// How long a peer that refused our OPEN parameters is spared them.
pub(super) const CAPABILITY_AMNESIA: Duration = Duration::from_secs(600);

/// How long a session that just came up may turn out to be the loser of a collision: the other side may have settled on the
/// other connection before it heard that this one is confirmed.
pub(super) const COLLISION_GRACE: Duration = Duration::from_secs(2);

/// A neighbour we only wait for has called by then, or an operator is told.
pub(super) const CALL_PATIENCE: Duration = Duration::from_secs(55);

/// An incoming connection without an OPEN for so long gives way to a newer one.
pub(super) const OPEN_GRACE: Duration = Duration::from_secs(2);

/// What can run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// Dial (again).
    ConnectRetry,
    /// The rest after an error is over.
    IdleHold,
    /// The session is old enough to forget earlier errors.
    Stable,
    /// We have waited long enough for the neighbour to call.
    Call,
    /// Earlier errors of a caller from a range have been held against it long enough.
    Forget,
    /// Say our OPEN on a connection on which it was held back.
    DelayOpen(Direction),
    /// Nothing heard on a connection.
    Hold(Direction),
    /// The Established connection took no octets.
    SendHold,
}

/// The running timers.
#[derive(Clone, Debug, Default)]
pub(super) struct Timers(SmallVec<[(Timer, Instant); 6]>);

impl Timers {
    /// Starts or restarts a timer.
    pub(super) fn set(&mut self, timer: Timer, deadline: Instant) {
        match self.0.iter_mut().find(|(running, _)| *running == timer) {
            Some((_, at)) => *at = deadline,
            None => self.0.push((timer, deadline)),
        }
    }

    /// Stops a timer.
    pub(super) fn stop(&mut self, timer: Timer) {
        self.0.retain(|(running, _)| *running != timer);
    }

    /// When a timer runs out, if it runs.
    pub(super) fn deadline(&self, timer: Timer) -> Option<Instant> {
        self.0
            .iter()
            .find(|(running, _)| *running == timer)
            .map(|(_, at)| *at)
    }

    /// Whether a timer runs.
    pub(super) fn runs(&self, timer: Timer) -> bool {
        self.deadline(timer).is_some()
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().map(|(_, at)| *at).min()
    }

    /// Takes out the earliest timer that has run out.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Timer> {
        let (index, _) = self
            .0
            .iter()
            .enumerate()
            .filter(|(_, (_, at))| *at <= now)
            .min_by_key(|(_, (_, at))| *at)?;
        Some(self.0.swap_remove(index).0)
    }
}

/// Jitter from the caller's seed.
#[derive(Clone, Debug)]
pub(super) struct Jitter(SmallRng);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// Three quarters to the whole of `interval` (RFC 4271 §10), drawn anew each time.
    pub(super) fn apply(&mut self, interval: Duration) -> Duration {
        interval.mul_f64(self.0.random_range(0.75..=1.0))
    }
}

/// A pause that doubles with every failure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(super) const fn new() -> Self {
        Self { failures: 0 }
    }

    /// The pause after one more failure: `first`, then twice, four times … up to `most`.
    pub(super) fn next(&mut self, first: Duration, most: Duration) -> Duration {
        let (first, most) = (bounded(first), bounded(most));
        let pause = first.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        if pause < most {
            self.failures = self.failures.saturating_add(1);
        }
        pause.min(most.max(first))
    }

    /// The pause after the last failure again.
    pub(super) fn again(&self, first: Duration, most: Duration) -> Duration {
        let (first, most) = (bounded(first), bounded(most));
        let doublings = self.failures.saturating_sub(1);
        let pause = first.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX));
        pause.min(most.max(first))
    }

    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The nearest pause there is.
pub(super) fn bounded(pause: Duration) -> Duration {
    pause.clamp(*PAUSES.start(), *PAUSES.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_timer_is_absent() {
        let now = Instant::now();
        let mut timers = Timers::default();
        timers.set(Timer::ConnectRetry, now);
        timers.set(Timer::SendHold, now + Duration::from_secs(1));
        timers.stop(Timer::ConnectRetry);
        assert!(!timers.runs(Timer::ConnectRetry));
        assert_eq!(timers.next(), Some(now + Duration::from_secs(1)));
    }

    #[test]
    fn timers_expire_in_the_order_of_their_deadlines() {
        let now = Instant::now();
        let mut timers = Timers::default();
        timers.set(Timer::SendHold, now + Duration::from_secs(2));
        timers.set(
            Timer::Hold(Direction::Incoming),
            now + Duration::from_secs(1),
        );
        assert_eq!(timers.expire(now), None);
        let later = now + Duration::from_secs(3);
        assert_eq!(timers.expire(later), Some(Timer::Hold(Direction::Incoming)));
        assert_eq!(timers.expire(later), Some(Timer::SendHold));
        assert_eq!(timers.expire(later), None);
    }

    #[test]
    fn jitter_takes_away_at_most_a_quarter() {
        let mut jitter = Jitter::new(7);
        for _ in 0..1000 {
            let drawn = jitter.apply(Duration::from_secs(100));
            assert!(
                drawn >= Duration::from_secs(75) && drawn <= Duration::from_secs(100),
                "{drawn:?}"
            );
        }
    }

    #[test]
    fn backoff_doubles_up_to_its_limit() {
        let mut backoff = Backoff::new();
        let first = Duration::from_secs(1);
        let most = Duration::from_secs(60);
        let pauses: Vec<u64> = (0..8)
            .map(|_| backoff.next(first, most).as_secs())
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        backoff.reset();
        assert_eq!(backoff.next(first, most), first);
    }

    #[test]
    fn a_pause_of_nothing_is_one_and_grows_as_well() {
        let mut backoff = Backoff::new();
        let pauses: Vec<u128> = (0..4)
            .map(|_| {
                backoff
                    .next(Duration::ZERO, Duration::from_secs(1))
                    .as_millis()
            })
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800]);
        assert_eq!(
            Backoff::new().next(Duration::MAX, Duration::MAX),
            *PAUSES.end()
        );
    }
}
