//! `margay speaker` as a process: what its signals do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Speaker {
    process: Child,
    log: Receiver<String>,
    folder: TempDir,
}

impl Speaker {
    fn start(text: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let mut command = margay();
        command.args(["speaker", "--config"]).arg(file(&folder));
        command.arg("--run-dir").arg(folder.path());
        std::fs::write(file(&folder), text).unwrap();
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let (read, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // The test has ended.
                if read.send(line).is_err() {
                    break;
                }
            }
        });
        let speaker = Self {
            process,
            log,
            folder,
        };
        speaker.logged("speaker runs");
        speaker
    }

    /// Waits for a line of the log with this text in it.
    #[track_caller]
    fn logged(&self, text: &str) -> String {
        let mut before = Vec::new();
        loop {
            let Ok(line) = self.log.recv_timeout(PATIENCE) else {
                panic!("no line with `{text}`: {before:#?}");
            };
            if line.contains(text) {
                return line;
            }
            before.push(line);
        }
    }

    /// Writes the file anew and says so.
    fn reload(&self, text: &str) {
        std::fs::write(file(&self.folder), text).unwrap();
        let pid = Pid::from_raw(self.process.id().try_into().unwrap());
        kill(pid, Signal::SIGHUP).unwrap();
    }

    fn peers(&self) -> Vec<String> {
        let mut command = margay();
        command.args(["peers", "-o", "json", "--run-dir"]);
        let output = command.arg(self.folder.path()).output().unwrap();
        let peers: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let name = |peer: &Value| peer["name"].as_str().unwrap().to_owned();
        peers.iter().map(name).collect()
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has complained about.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn margay() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_margay"));
    command.env_clear().stdin(Stdio::null());
    command
}

fn file(folder: &TempDir) -> PathBuf {
    folder.path().join("speaker.yaml")
}

#[test]
fn a_file_with_another_kernel_section_is_refused_whole_and_what_runs_goes_on() {
    let text = |peers: &[&str], more: &str| {
        let peers: String = peers
            .iter()
            .map(|peer| {
                format!(
                    "- {{ name: {peer}, address: 192.0.2.{}, asn: 2, enabled: false }}\n",
                    peer.len()
                )
            })
            .collect();
        format!("asn: 1\nrouterId: 10.0.0.1\npeers:\n{peers}{more}")
    };
    let speaker = Speaker::start(&text(&["a"], ""));
    assert_eq!(speaker.peers(), ["a"]);
    speaker.reload(&text(&["a", "bb"], "kernel: { install: true }\n"));
    let line = speaker.logged("the file is not taken, and what runs goes on");
    let reason = "speaker.yaml:6:20: field `kernel.install`: expected `install: false`, with which this process was started, found `true`";
    assert!(line.contains(reason), "{line}");
    assert_eq!(speaker.peers(), ["a"]);
    // Without it the rest of the change is taken.
    speaker.reload(&text(&["a", "bb"], "kernel: { install: false }\n"));
    speaker.logged("read the file again");
    assert_eq!(speaker.peers(), ["a", "bb"]);
}
