//! `margay agent` as a process: what its signals do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use support::in_namespace;

#[test]
fn a_hangup_ends_no_agent_and_is_answered_in_the_log() {
    in_namespace(|| async {
        let folder = TempDir::new().unwrap();
        let place = |name: &str| folder.path().join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_margay"));
        command.env_clear().stdin(Stdio::null());
        command.args(["agent", "--node-name", "n1"]);
        let datastore = format!("directory:{}", folder.path().display());
        command.args(["--datastore", &datastore]);
        command.arg("--run-dir").arg(place("run"));
        command.arg("--state-dir").arg(place("state"));
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(process.id().try_into().unwrap());
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut logged = |text: &str| {
            let mut before = Vec::new();
            for line in log.by_ref().map_while(Result::ok) {
                if line.contains(text) {
                    return;
                }
                before.push(line);
            }
            panic!("no line with `{text}`: {before:#?}");
        };
        logged("margay starts");
        kill(pid, Signal::SIGHUP).unwrap();
        logged("SIGHUP");
        kill(pid, Signal::SIGTERM).unwrap();
        logged("stopping");
        assert!(process.wait().unwrap().success());
    });
}
