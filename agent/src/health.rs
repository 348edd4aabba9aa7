//! A heartbeat per loop, and readiness when the last latch drops.
//!
//! *Live* means that no loop has been silent for longer than it said it would be. A loop beats when it is idle and waiting, too: it
//! wakes up for that. *Ready* means that every latch taken at start has been released: the datastore is in sync, the kernel was written
//! once, the speaker listens. Neither depends on peers or on the API server once released: restarting a daemon mends neither of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What `/livez` and `/readyz` answer from. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Health {
    parts: Arc<Mutex<Parts>>,
}

#[derive(Debug, Default)]
struct Parts {
    loops: BTreeMap<&'static str, Loop>,
    latches: BTreeMap<&'static str, bool>,
}

#[derive(Debug)]
struct Loop {
    last: Instant,
    silence: Duration,
}

/// The end a loop holds.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    health: Health,
    name: &'static str,
    silence: Duration,
}

/// Something that has to happen once before the daemon is ready.
#[derive(Clone, Debug)]
pub struct Latch {
    health: Health,
    name: &'static str,
}

/// One line of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The loop or latch.
    pub name: &'static str,
    /// Whether it is well.
    pub ok: bool,
    /// What is wrong, or how long ago it was last heard.
    pub detail: String,
}

impl Health {
    /// Registers a loop that beats at least every `silence`.
    #[must_use]
    pub fn heartbeat(&self, name: &'static str, silence: Duration) -> Heartbeat {
        let heartbeat = Heartbeat {
            health: self.clone(),
            name,
            silence,
        };
        heartbeat.beat();
        heartbeat
    }

    /// Registers something readiness waits for.
    #[must_use]
    pub fn latch(&self, name: &'static str) -> Latch {
        self.lock().latches.entry(name).or_insert(false);
        Latch {
            health: self.clone(),
            name,
        }
    }

    /// Every loop, and whether it was heard in time.
    #[must_use]
    pub fn live(&self, now: Instant) -> Vec<Check> {
        self.lock()
            .loops
            .iter()
            .map(|(name, part)| {
                let silent = now.saturating_duration_since(part.last);
                Check {
                    name,
                    ok: silent <= part.silence,
                    detail: format!("heard {:.1} s ago", silent.as_secs_f64()),
                }
            })
            .collect()
    }

    /// Every latch, and whether it has dropped.
    #[must_use]
    pub fn ready(&self) -> Vec<Check> {
        self.lock()
            .latches
            .iter()
            .map(|(name, released)| Check {
                name,
                ok: *released,
                detail: if *released {
                    "done".into()
                } else {
                    "waiting".into()
                },
            })
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Parts> {
        // A panic while holding it leaves a valid map behind.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heartbeat {
    /// The loop goes round.
    pub fn beat(&self) {
        self.health.lock().loops.insert(
            self.name,
            Loop {
                last: Instant::now(),
                silence: self.silence,
            },
        );
    }

    /// How often a loop with nothing to do should wake up to beat.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.silence / 4
    }
}

impl Latch {
    /// It has happened. Releasing twice is the same as once.
    pub fn release(&self) {
        if self.health.lock().latches.insert(self.name, true) == Some(false) {
            tracing::info!(part = self.name, "ready");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_loop_is_not_live() {
        let health = Health::default();
        let _heartbeat = health.heartbeat("routing", Duration::from_secs(10));
        let now = Instant::now();
        assert!(health.live(now).iter().all(|check| check.ok));
        assert!(
            health
                .live(now + Duration::from_secs(11))
                .iter()
                .any(|check| !check.ok)
        );
    }

    #[test]
    fn ready_when_the_last_latch_drops() {
        let health = Health::default();
        let (first, second) = (health.latch("datastore"), health.latch("kernel"));
        first.release();
        assert_eq!(health.ready().iter().filter(|check| check.ok).count(), 1);
        second.release();
        assert!(health.ready().iter().all(|check| check.ok));
    }
}
