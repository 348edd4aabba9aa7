//! Wait for a condition with a deadline, and say what was last seen when it does not come.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

/// Probes until the condition holds and returns what the probe found.
///
/// The probe's error is what it saw instead. Probes start close together and spread out, so that a condition that
/// comes at once costs nothing and one that takes long does not keep a processor busy.
///
/// # Errors
/// When the deadline passes first; the message holds what was awaited and the last thing seen.
pub fn eventually<T, E: Display>(
    what: impl Display,
    deadline: Duration,
    mut probe: impl FnMut() -> Result<T, E>,
) -> Result<T> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let seen = match probe() {
            Ok(found) => return Ok(found),
            Err(seen) => seen,
        };
        if start.elapsed() >= deadline {
            bail!("not within {deadline:.0?}: {what}; last seen: {seen:#}");
        }
        idle(pause);
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// Checks all through an interval that something stays as it is.
///
/// # Errors
/// As soon as a probe fails.
pub fn throughout(interval: Duration, mut probe: impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    loop {
        probe()?;
        if start.elapsed() >= interval {
            return Ok(());
        }
        idle(LONGEST_PAUSE.min(interval));
    }
}

/// Lets an interval pass that is itself the subject of a test, such as an agent's absence.
pub fn idle(interval: Duration) {
    let end = Instant::now() + interval;
    while let Some(left) = end
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_never_holds_reports_what_was_last_seen() {
        let mut count = 0;
        let error = eventually("three sessions", Duration::from_millis(60), || {
            count += 1;
            Err::<(), _>(format!("{} sessions", count.min(2)))
        })
        .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("three sessions; last seen: 2 sessions"),
            "{error}"
        );
    }

    #[test]
    fn a_condition_that_holds_at_once_is_not_probed_twice() {
        let mut count = 0;
        eventually("anything", Duration::ZERO, || {
            count += 1;
            Ok::<_, String>(())
        })
        .unwrap();
        assert_eq!(count, 1);
    }
}
