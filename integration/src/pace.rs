//! How long is long: deadlines are written for a real machine and stretch in an emulated one.

use std::env;
use std::time::Duration;

/// Environment variable with the factor, set by [`crate::vm`] for the lab it runs.
pub const PACE_VARIABLE: &str = "MARGAY_LAB_PACE";

/// The factor by which this machine may be slower than a real one: 1 unless the environment says otherwise.
#[must_use]
pub fn factor() -> u32 {
    env::var(PACE_VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
        .max(1)
}

/// A deadline of so many seconds on a real machine, stretched for this one.
#[must_use]
pub fn seconds(count: u64) -> Duration {
    Duration::from_secs(count) * factor()
}
