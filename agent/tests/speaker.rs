//! `margay speaker` as a process: what its signals do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
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
        std::fs::write(file(&folder), text).unwrap();
        let speaker = Self::begin(margay(), folder, &[]);
        speaker.logged("speaker runs");
        speaker
    }

    /// Starts one whose file is in `folder`, by a command that may do other things first.
    fn begin(mut command: Command, folder: TempDir, more: &[&str]) -> Self {
        command.args(["speaker", "--config"]).arg(file(&folder));
        command.arg("--run-dir").arg(folder.path()).args(more);
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
        Self {
            process,
            log,
            folder,
        }
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
        self.signal(Signal::SIGHUP);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().try_into().unwrap());
        kill(pid, signal).unwrap();
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

#[test]
fn a_hangup_while_the_file_is_read_the_first_time_has_it_read_again() {
    let text = |peer: &str| {
        format!(
            "asn: 1\nrouterId: 10.0.0.1\npeers:\n- {{ name: {peer}, address: 192.0.2.1, asn: 2, enabled: false }}\n"
        )
    };
    let folder = TempDir::new().unwrap();
    // Writing to it begins when somebody reads, and not before.
    mkfifo(&file(&folder), Mode::S_IRWXU).unwrap();
    let path = file(&folder);
    let speaker = Speaker::begin(margay(), folder, &[]);
    let mut first = std::fs::File::options().write(true).open(&path).unwrap();
    speaker.signal(Signal::SIGHUP);
    first.write_all(text("first").as_bytes()).unwrap();
    drop(first);
    speaker.logged("speaker runs");
    std::fs::write(&path, text("second")).unwrap();
    speaker.logged("read the file again");
    assert_eq!(speaker.peers(), ["second"]);
}

#[test]
fn idle_connections_to_the_metrics_leave_descriptors_for_everything_else() {
    let folder = TempDir::new().unwrap();
    let text = "asn: 1
routerId: 10.0.0.1
listen: [\"127.0.41.1:1179\"]
peers:
- { name: clients, range: 127.0.0.0/8, asn: 2, passive: true, dynamicLimit: 4000 }
";
    std::fs::write(file(&folder), text).unwrap();
    let mut command = Command::new("sh");
    command.env_clear().stdin(Stdio::null());
    let script = "ulimit -Sn 64; ulimit -Hn 160; exec \"$0\" \"$@\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_margay")]);
    let speaker = Speaker::begin(command, folder, &["--metrics-listen", "127.0.41.1:0"]);
    let short = speaker.logged("descriptors");
    assert!(short.contains("this process may have 160"), "{short}");
    let line = speaker.logged("listening");
    let metrics = line.rsplit("address=").next().unwrap().trim();
    let connect = |address: &str| {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    // More than there are descriptors, fewer than would wait for a place in the queue of the kernel.
    let idle: Vec<TcpStream> = (0..180).map(|_| connect(metrics)).collect();
    // It says OPEN, and its sockets answer.
    let mut caller = connect("127.0.41.1:1179");
    caller.read_exact(&mut [0; 29]).unwrap();
    assert_eq!(speaker.peers(), ["clients-127.0.0.1"]);
    drop(idle);
}
