//! Pauses and times of a peer: which there are, and how they go together.

use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;

use super::{LimitAction, PeerConfig};

/// Why a pause or a time of a peer cannot be run as configured. Fields are named as in the YAML file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TimeError {
    /// A neighbour that refuses everything would be tried as fast as it can refuse, or never again.
    #[error("expected from 100 ms to a year, found {1:?}")]
    Pause(&'static str, Duration),
    /// A first pause is longer than the longest one.
    #[error("expected at most {longest}, which is {most:?}, found {found:?}")]
    Order {
        /// The first pause.
        field: &'static str,
        /// The longest one.
        longest: &'static str,
        /// Which is this.
        most: Duration,
        /// And the first one this.
        found: Duration,
    },
    /// Clocks end somewhere.
    #[error("expected at most a year, found {1:?}")]
    Endless(&'static str, Duration),
}

impl TimeError {
    /// The field that is wrong.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Pause(field, _) | Self::Order { field, .. } | Self::Endless(field, _) => field,
        }
    }
}

impl PeerConfig {
    /// The pauses that are taken between attempts and after errors.
    pub const PAUSES: RangeInclusive<Duration> = Duration::from_millis(100)..=Self::LONGEST;

    /// The longest of any other time: more than LLGR can ask for.
    const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

    /// Checks pauses and times, also against each other.
    ///
    /// # Errors
    /// The first one that is wrong.
    pub fn validate_times(&self) -> Result<(), TimeError> {
        for (field, pause, longest, most) in [
            (
                "connectRetry",
                self.connect_retry,
                "connectRetryMax",
                self.connect_retry_max,
            ),
            (
                "idleHold",
                self.idle_hold,
                "idleHoldMax",
                self.idle_hold_max,
            ),
        ] {
            for (field, pause) in [(field, pause), (longest, most)] {
                if !Self::PAUSES.contains(&pause) {
                    return Err(TimeError::Pause(field, pause));
                }
            }
            if pause > most {
                return Err(TimeError::Order {
                    field,
                    longest,
                    most,
                    found: pause,
                });
            }
        }
        let restart = self
            .maximum_prefixes
            .and_then(|maximum| match maximum.action {
                LimitAction::Restart(pause) => Some(pause),
                LimitAction::Close | LimitAction::Warn | LimitAction::Discard => None,
            });
        let graceful = self.graceful_restart;
        for (field, time) in [
            ("delayOpen", self.delay_open),
            ("sendHold", self.send_hold),
            ("keepalive", self.keepalive),
            ("maximumPrefixes", restart),
            ("gracefulRestart", graceful.map(|kept| kept.restart_time)),
            ("gracefulRestart", graceful.map(|kept| kept.stale_time)),
            ("longLived", self.long_lived.map(|kept| kept.stale_time)),
        ] {
            if let Some(time) = time.filter(|time| *time > Self::LONGEST) {
                return Err(TimeError::Endless(field, time));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::validated;
    use super::super::{ConfigError, GracefulRestart, MaximumPrefixes};
    use super::*;

    #[test]
    fn pauses_that_are_none_or_endless_are_refused_where_they_stand() {
        type Place = fn(&mut PeerConfig) -> &mut Duration;
        let fields: [(&str, Place); 4] = [
            ("connectRetry", |peer| &mut peer.connect_retry),
            ("connectRetryMax", |peer| &mut peer.connect_retry_max),
            ("idleHold", |peer| &mut peer.idle_hold),
            ("idleHoldMax", |peer| &mut peer.idle_hold_max),
        ];
        for (field, place) in fields {
            for wrong in [
                Duration::ZERO,
                Duration::from_millis(99),
                Duration::from_secs(367 * 86_400),
                Duration::MAX,
            ] {
                let error = validated(|peer| *place(peer) = wrong).expect_err("refused");
                assert_eq!(error.place(), (Some("tor"), field), "{error}");
            }
        }
        let error = validated(|peer| peer.connect_retry = Duration::ZERO).expect_err("refused");
        assert_eq!(
            error.to_string(),
            "connectRetry of peer tor: expected from 100 ms to a year, found 0ns"
        );
        let shortest = Duration::from_millis(100);
        let all_shortest = |peer: &mut PeerConfig| {
            for (_, place) in fields {
                *place(peer) = shortest;
            }
        };
        assert_eq!(validated(all_shortest), Ok(()));
    }

    #[test]
    fn a_first_pause_is_not_longer_than_the_longest() {
        let error = validated(|peer| peer.connect_retry = Duration::from_secs(16));
        assert_eq!(
            error.expect_err("refused").to_string(),
            "connectRetry of peer tor: expected at most connectRetryMax, which is 15s, found 16s"
        );
        let error =
            validated(|peer| peer.idle_hold = Duration::from_secs(61)).expect_err("refused");
        assert_eq!(error.place(), (Some("tor"), "idleHold"));
    }

    #[test]
    fn a_time_past_the_end_of_clocks_is_refused() {
        for change in [
            (|peer| peer.delay_open = Some(Duration::MAX)) as fn(&mut PeerConfig),
            |peer| peer.send_hold = Some(Duration::MAX),
            |peer| {
                peer.maximum_prefixes = Some(MaximumPrefixes {
                    limit: 1,
                    action: LimitAction::Restart(Duration::MAX),
                });
            },
            |peer| {
                peer.graceful_restart = Some(GracefulRestart {
                    stale_time: Duration::MAX,
                    ..GracefulRestart::default()
                });
            },
        ] {
            let error = validated(change).expect_err("refused");
            assert!(matches!(error, ConfigError::Time { .. }), "{error}");
        }
    }
}
