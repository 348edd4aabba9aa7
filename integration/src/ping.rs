//! Reachability: everyone to everyone at once, and a steady stream in the background that counts every packet.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::eventually::eventually;
use crate::netns::Netns;
use crate::{exec, pace};

/// A place to ping from or to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// For messages.
    pub name: String,
    /// Where it lives.
    pub netns: Netns,
    /// Where it answers.
    pub addresses: Vec<IpAddr>,
}

/// What a round of pings found.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Pairs tried.
    pub tried: usize,
    /// `source > address of target` of those that did not answer.
    pub failed: Vec<String>,
}

/// Pings every address of every target from every source at once, with a few retries each; itself is left out.
///
/// # Errors
/// When ping itself cannot run.
pub fn all_pairs(sources: &[Endpoint], targets: &[Endpoint]) -> Result<Reach> {
    let results: Vec<Result<Reach>> = thread::scope(|scope| {
        let running: Vec<_> = sources
            .iter()
            .map(|source| scope.spawn(move || fan(source, targets)))
            .collect();
        running
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| bail!("a ping thread died"))
            })
            .collect()
    });
    let mut sum = Reach::default();
    for result in results {
        let reach = result?;
        sum.tried += reach.tried;
        sum.failed.extend(reach.failed);
    }
    Ok(sum)
}

fn fan(source: &Endpoint, targets: &[Endpoint]) -> Result<Reach> {
    let wanted: Vec<(&str, String)> = targets
        .iter()
        .filter(|target| target.name != source.name)
        .flat_map(|target| {
            target
                .addresses
                .iter()
                .map(|address| (target.name.as_str(), address.to_string()))
        })
        .collect();
    if wanted.is_empty() {
        return Ok(Reach::default());
    }
    let timeout = (300 * pace::factor()).to_string();
    let mut command = source.netns.command("fping");
    command
        .args(["-a", "-r", "3", "-i", "1", "-t", &timeout])
        .args(wanted.iter().map(|(_, address)| address));
    let output = exec::output(&mut command, &[])?;
    // 1: some did not answer; 2: names; 3: arguments; 4: system call.
    if !matches!(output.status.code(), Some(0 | 1)) {
        bail!(
            "{}: {}",
            exec::spelled(&command),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    let alive: BTreeSet<&str> = stdout.split_whitespace().collect();
    let failed = wanted
        .iter()
        .filter(|(_, address)| !alive.contains(address.as_str()))
        .map(|(name, address)| format!("{} > {address} ({name})", source.name))
        .collect();
    Ok(Reach {
        tried: wanted.len(),
        failed,
    })
}

/// Waits until every pair answers.
///
/// # Errors
/// When some still do not at the deadline; they are named.
pub fn await_all_pairs(
    sources: &[Endpoint],
    targets: &[Endpoint],
    deadline: Duration,
) -> Result<Reach> {
    eventually("every pair answers", deadline, || {
        let reach = all_pairs(sources, targets)?;
        if reach.failed.is_empty() {
            return Ok(reach);
        }
        let some: Vec<_> = reach.failed.iter().take(6).map(String::as_str).collect();
        bail!(
            "{} of {} fail: {}",
            reach.failed.len(),
            reach.tried,
            some.join(", ")
        )
    })
}

/// A `ping -i 0.01` in the background.
#[derive(Debug)]
pub struct Stream {
    what: String,
    child: Child,
    log: PathBuf,
    source: Netns,
    target: IpAddr,
}

/// What became of a stream's packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamReport {
    /// Who pinged whom.
    pub what: String,
    /// Packets sent.
    pub sent: u32,
    /// Sequence numbers that were never answered. Those sent in the last moment before the stream was told to stop,
    /// whose answers ping no longer waits for, are not among them.
    pub lost: Vec<u32>,
}

/// Requests that may be under way when ping is told to stop (0.1 s at the stream's rate).
const IN_FLIGHT: u32 = 10;

impl Stream {
    /// Starts to ping `target` from `source` a hundred times a second and waits for the first answer.
    ///
    /// # Errors
    /// When ping cannot be started or nothing answers.
    pub fn start(source: &Netns, target: IpAddr, folder: &Path) -> Result<Self> {
        let what = format!("{} > {target}", source.name());
        let log = folder.join(format!("ping-{}-{target}.log", source.name()).replace(':', "_"));
        let child = source
            .command("ping")
            .args(["-n", "-i", "0.01", &target.to_string()])
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start ping")?;
        let stream = Self {
            what,
            child,
            log,
            source: source.clone(),
            target,
        };
        eventually(
            format!("an answer to {}", stream.what),
            pace::seconds(5),
            || {
                let text = fs::read_to_string(&stream.log).unwrap_or_default();
                if text.contains("icmp_seq=") {
                    Ok(())
                } else {
                    Err(text)
                }
            },
        )?;
        Ok(stream)
    }

    /// Stops it and counts.
    ///
    /// # Errors
    /// When the path no longer works at all, so that the last packets cannot be told from lost ones, or ping's summary
    /// is missing.
    pub fn stop(mut self) -> Result<StreamReport> {
        kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            Signal::SIGINT,
        )?;
        self.child.wait()?;
        let text = fs::read_to_string(&self.log)?;
        let (sent, lost) =
            count(&text).with_context(|| format!("no summary in {}", self.log.display()))?;
        let mut last = self.source.command("ping");
        last.args([
            "-n",
            "-c",
            "3",
            "-i",
            "0.2",
            "-W",
            "2",
            &self.target.to_string(),
        ]);
        exec::check(&mut last)
            .with_context(|| format!("{} does not work at its end", self.what))?;
        Ok(StreamReport {
            what: self.what.clone(),
            sent,
            lost,
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn count(text: &str) -> Option<(u32, Vec<u32>)> {
    let summary = text
        .lines()
        .rfind(|line| line.contains("packets transmitted"))?;
    let sent: u32 = summary.split_whitespace().next()?.parse().ok()?;
    let answered: BTreeSet<u32> = text
        .lines()
        .filter(|line| line.contains("bytes from"))
        .filter_map(|line| {
            line.split("icmp_seq=")
                .nth(1)?
                .split(' ')
                .next()?
                .parse()
                .ok()
        })
        .collect();
    let newest = answered.last().copied().unwrap_or(0);
    let end = if sent.saturating_sub(newest) <= IN_FLIGHT {
        newest
    } else {
        sent
    };
    Some((
        sent,
        (1..=end)
            .filter(|sequence| !answered.contains(sequence))
            .collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript(answered: &[u32], sent: u32) -> String {
        let lines: Vec<_> = answered
            .iter()
            .map(|seq| format!("64 bytes from 10.0.0.1: icmp_seq={seq} ttl=62 time=0.1 ms"))
            .collect();
        format!(
            "{}\n\n--- 10.0.0.1 ping statistics ---\n{sent} packets transmitted, {} received",
            lines.join("\n"),
            answered.len()
        )
    }

    #[test]
    fn a_hole_in_the_sequence_is_a_lost_packet() {
        assert_eq!(count(&transcript(&[1, 2, 4, 5], 5)), Some((5, vec![3])));
    }

    #[test]
    fn the_packets_under_way_at_the_end_are_not_lost() {
        assert_eq!(count(&transcript(&[1, 2, 3], 5)), Some((5, vec![])));
    }

    #[test]
    fn a_silent_end_is_lost() {
        let (_, lost) = count(&transcript(&[1, 2, 3], 40)).unwrap();
        assert_eq!(lost.len(), 37);
    }
}
