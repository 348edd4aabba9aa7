//! Failing to accept a connection.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

/// Pause before the next attempt: mostly descriptors ran out, and waiting is all that helps.
const PAUSE: Duration = Duration::from_millis(100);
/// That it failed is logged at most so often.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What is known of a listener's failures.
#[derive(Debug, Default)]
pub(super) struct Failures {
    logged: Option<Instant>,
}

impl Failures {
    /// Says that accepting failed, where that was not just said, and waits a moment.
    pub(super) async fn pause(&mut self, what: &str, error: &io::Error) {
        if self.is_news() {
            tracing::warn!(what, %error, "cannot accept, and tries again and again");
        }
        tokio::time::sleep(PAUSE).await;
    }

    fn is_news(&mut self) -> bool {
        let news = self
            .logged
            .is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL);
        if news {
            self.logged = Some(Instant::now());
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_fails_ten_times_a_second_is_told_every_ten_seconds() {
        let mut failures = Failures::default();
        let mut told = 0;
        for _ in 0..1000 {
            told += u32::from(failures.is_news());
            tokio::time::advance(PAUSE).await;
        }
        assert_eq!(told, 10);
    }
}
