//! Talking to the daemon, and what to do when it is not there.

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::protocol::{AttachmentId, Reply, Request, read_line, write_line};
use crate::spec::{CniError, code};

/// How long one answer may take. Calico gives its IPAM 90 s; a kubelet gives up on a sandbox after two to four minutes.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);

/// Name of the plugin's socket in the run directory.
pub const SOCKET: &str = "cni.sock";

/// A connection to the daemon.
#[derive(Debug)]
pub struct Daemon {
    stream: BufReader<UnixStream>,
}

impl Daemon {
    /// Connects to the daemon's socket in `run_dir`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(run_dir: &str) -> io::Result<Self> {
        let stream = UnixStream::connect(Path::new(run_dir).join(SOCKET))?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// When the connection breaks or the answer takes too long. A refusal is a [`Reply::Error`], not an error here.
    pub fn ask(&mut self, request: &Request) -> io::Result<Reply> {
        write_line(self.stream.get_mut(), request)?;
        read_line(&mut self.stream)?.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the daemon closed the connection",
            )
        })
    }
}

/// The error of a verb that cannot do without the daemon.
#[must_use]
pub fn not_reachable(run_dir: &str, code: u32, error: &io::Error) -> CniError {
    CniError::new(
        code,
        "the margay agent of this node does not answer",
        format!("{run_dir}/{SOCKET}: {error}"),
    )
}

/// A reply that says no, as the plugin's error.
#[must_use]
pub fn refusal(reply: Reply) -> CniError {
    match reply {
        Reply::Error {
            code,
            message,
            details,
            ..
        } => CniError {
            code,
            msg: message,
            details,
        },
        other @ (Reply::Assigned(_) | Reply::Done | Reply::Collected { .. }) => CniError::new(
            code::DAEMON_FAILED,
            "the margay agent gave an unexpected answer",
            format!("{other:?}"),
        ),
    }
}

/// What a DEL without the daemon leaves behind: the daemon releases the attachment when it returns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tombstone {
    /// Whose interface is gone.
    pub attachment: AttachmentId,
    /// Name of the network configuration.
    pub network: String,
}

/// The tombstones' directory under the state directory.
#[must_use]
pub fn tombstone_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("tombstones")
}

/// File name of an attachment's tombstone. Both parts were checked to be harmless in a file name; `@` is in neither.
#[must_use]
pub fn tombstone_name(attachment: &AttachmentId) -> String {
    format!("{}@{}.json", attachment.container_id, attachment.ifname)
}

impl Tombstone {
    /// Writes the tombstone so that it survives a crash from the moment this returns.
    ///
    /// # Errors
    /// When the directory cannot be made or written.
    pub fn leave(&self, state_dir: &Path) -> io::Result<()> {
        let dir = tombstone_dir(state_dir);
        fs::create_dir_all(&dir)?;
        let name = tombstone_name(&self.attachment);
        // Two DELs of one attachment may run at once; each has a temporary file of its own.
        let temporary = dir.join(format!(".{name}.{}", std::process::id()));
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(self).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(&temporary, dir.join(name))?;
        File::open(&dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tombstone_is_one_readable_file_and_may_be_left_twice() {
        let state = tempfile::tempdir().unwrap();
        let tombstone = Tombstone {
            attachment: AttachmentId {
                container_id: "c1".into(),
                ifname: "eth0".into(),
            },
            network: "k8s-pod-network".into(),
        };
        tombstone.leave(state.path()).unwrap();
        tombstone.leave(state.path()).unwrap();
        let files: Vec<_> = fs::read_dir(tombstone_dir(state.path()))
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        assert_eq!(files.len(), 1, "{files:?}");
        let read: Tombstone = serde_json::from_slice(&fs::read(&files[0]).unwrap()).unwrap();
        assert_eq!(read, tombstone);
    }

    #[test]
    fn without_a_daemon_connecting_fails_at_once() {
        let run = tempfile::tempdir().unwrap();
        assert!(Daemon::connect(run.path().to_str().unwrap()).is_err());
    }
}
