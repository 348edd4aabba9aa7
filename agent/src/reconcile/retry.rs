//! When to try again what failed.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{DataplaneConfig, Pending};
use crate::kernel::KernelError;

/// Why something waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// A foreign route of this protocol holds the key; waits for its departure, not for the clock.
    Conflict(u8),
    /// The interface is missing; waits for its arrival.
    NoLink(String),
    /// The interface is down; waits for it to come up.
    LinkDown(String),
    /// The kernel refused; waits for the clock, and where the refusal says so for links and addresses.
    Refused(KernelError),
}

impl Reason {
    /// Whether a link that came up, or a new address, may change the kernel's mind.
    pub(super) fn waits_for_link(&self) -> bool {
        matches!(
            self,
            Self::NoLink(_)
                | Self::LinkDown(_)
                | Self::Refused(
                    KernelError::Unreachable | KernelError::LinkDown | KernelError::NoLink(_)
                )
        )
    }

    fn timed(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Conflict(protocol) => {
                write!(
                    f,
                    "a route of protocol {protocol}, which is not ours, holds the same key"
                )
            }
            Self::NoLink(name) => write!(f, "no interface {name}"),
            Self::LinkDown(name) => write!(f, "interface {name} is down"),
            Self::Refused(error) => error.fmt(f),
        }
    }
}

/// Something that waits.
#[derive(Clone, Debug)]
pub(super) struct Blocked {
    pub(super) reason: Reason,
    since: SystemTime,
    attempts: u32,
    /// When to try again; `None` waits for an event.
    pub(super) retry_at: Option<Instant>,
}

impl Blocked {
    /// Another failure, of something that may have failed before.
    pub(super) fn again(before: Option<&Self>, reason: Reason, pacing: &Pacing) -> Self {
        let attempts = before.map_or(0, |before| before.attempts).saturating_add(1);
        Self {
            retry_at: reason
                .timed()
                .then(|| Instant::now() + pacing.delay(attempts)),
            reason,
            since: before.map_or_else(SystemTime::now, |before| before.since),
            attempts,
        }
    }

    pub(super) fn pending(&self) -> Pending {
        Pending {
            reason: self.reason.to_string(),
            conflict: matches!(self.reason, Reason::Conflict(_)),
            since: self.since,
            attempts: self.attempts,
        }
    }
}

/// Doubling delays with a cap, each varied by a fifth so that what failed together is not retried together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pacing {
    min: Duration,
    max: Duration,
}

impl Pacing {
    pub(super) fn new(config: &DataplaneConfig) -> Self {
        Self {
            min: config.retry_min,
            max: config.retry_max,
        }
    }

    pub(super) fn delay(&self, attempts: u32) -> Duration {
        let doubled = self.min.saturating_mul(
            1_u32
                .checked_shl(attempts.saturating_sub(1))
                .unwrap_or(u32::MAX),
        );
        vary(doubled.min(self.max), 0.2)
    }
}

/// A duration varied at random by a share of itself either way.
pub(super) fn vary(duration: Duration, share: f64) -> Duration {
    duration.mul_f64(rand::random_range(1.0 - share..1.0 + share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap() {
        let pacing = Pacing::new(&DataplaneConfig::default());
        for (attempts, expected) in [
            (1, 100),
            (2, 200),
            (4, 800),
            (9, 25_600),
            (10, 30_000),
            (200, 30_000),
        ] {
            let delay = pacing.delay(attempts).as_secs_f64() * 1000.0;
            let expected = f64::from(expected);
            assert!(
                (delay / expected - 1.0).abs() <= 0.21,
                "attempt {attempts}: {delay} ms"
            );
        }
    }
}
