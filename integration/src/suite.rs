//! Runs many scenarios, a few at a time, each as a process of its own, and counts.

use std::env;
use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::report::say;
use crate::scenario::Scenario;
use crate::{exec, vm};

/// Exit status by which a scenario says that it could not run here.
pub const SKIPPED: u8 = 77;

/// A scenario that takes longer has failed. A little more than an emulated one may take, so that it says itself what was missing.
const LIMIT: Duration = vm::LIMIT.saturating_add(Duration::from_secs(100));

/// How the scenarios went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Everything expected was seen.
    pub passed: usize,
    /// Something was not, or the lab died.
    pub failed: usize,
    /// Could not run here.
    pub skipped: usize,
}

/// Runs scenarios in order, `jobs` at a time, and after them those that want to be alone; each one's output is printed as a whole
/// when it ends.
///
/// # Errors
/// When this program cannot be found.
pub fn run(scenarios: &[Scenario], jobs: usize) -> Result<Counts> {
    let (alone, others): (Vec<_>, Vec<_>) = scenarios
        .iter()
        .copied()
        .partition(|scenario| scenario.alone);
    let first = side_by_side(&others, jobs)?;
    let then = side_by_side(&alone, 1)?;
    Ok(Counts {
        passed: first.passed + then.passed,
        failed: first.failed + then.failed,
        skipped: first.skipped + then.skipped,
    })
}

fn side_by_side(scenarios: &[Scenario], jobs: usize) -> Result<Counts> {
    let program = env::current_exe().context("own path")?;
    let next = AtomicUsize::new(0);
    let counts = Mutex::new(Counts::default());
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let start = Instant::now();
                    let mut command = Command::new(&program);
                    command
                        .args(["scenario", scenario.name])
                        .stdin(Stdio::null());
                    let (status, mut text) = match exec::output_within(&mut command, &[], LIMIT) {
                        Ok(output) => {
                            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
                            text.push_str(&String::from_utf8_lossy(&output.stderr));
                            (output.status.code(), text)
                        }
                        Err(error) => (None, format!("{error:#}\n")),
                    };
                    let Ok(mut counts) = counts.lock() else {
                        return;
                    };
                    match status {
                        Some(0) => counts.passed += 1,
                        Some(code) if code == i32::from(SKIPPED) => counts.skipped += 1,
                        _ => {
                            counts.failed += 1;
                            let failed = format!("FAILED {}", scenario.name);
                            if !text.lines().any(|line| line.starts_with(&failed)) {
                                let _ = writeln!(text, "{failed}");
                            }
                        }
                    }
                    say(format_args!(
                        "{text}  ({}, {:.0} s)\n",
                        scenario.name,
                        start.elapsed().as_secs_f64()
                    ));
                }
            });
        }
    });
    Ok(counts.into_inner().unwrap_or_default())
}
