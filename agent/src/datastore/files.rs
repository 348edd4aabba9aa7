//! The file system under the directory datastore: the lock, atomic writes, and telling whether a file changed.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use sha1::{Digest, Sha1};

/// Temporary files start so; nobody reads them.
const TEMPORARY: &str = ".margay-tmp-";
const LOCK: &str = ".margay-lock";

/// The kernel stamps files with its tick, which is up to 10 ms old. A file stamped this recently may change again under the same
/// stamp, so that equal stamps prove nothing yet.
const STAMP_GRAIN: Duration = Duration::from_millis(50);

/// The right to write in a directory, held by one process at a time.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

impl Lock {
    /// Waits for the lock of a directory.
    pub(super) fn acquire(root: &Path) -> io::Result<Self> {
        let path = root.join(LOCK);
        loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&path)?;
            let lock = loop {
                match Flock::lock(file.try_clone()?, FlockArg::LockExclusive) {
                    Ok(lock) => break lock,
                    Err((_, nix::errno::Errno::EINTR)) => {}
                    Err((_, error)) => return Err(error.into()),
                }
            };
            // A lock on a file that somebody has removed since would exclude nobody.
            let ours = lock.metadata()?;
            match fs::metadata(&path) {
                Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
                    return Ok(Self(lock));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// What `stat` says of a file; a change of content changes it, once the stamps have settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signature {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Taken long enough after the stamps that an equal one means an equal file.
    settled: bool,
}

impl Signature {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            settled: age(metadata) > STAMP_GRAIN,
        }
    }

    /// Whether a later look at the same path proves that nothing changed.
    pub(super) fn proves_unchanged(&self, later: &Self) -> bool {
        // Both flags differ freely; only the earlier one must be sure of itself.
        self.settled
            && Self {
                settled: true,
                ..*later
            } == *self
    }
}

/// How long ago a file was written; zero for one from the future.
pub(super) fn age(metadata: &Metadata) -> Duration {
    metadata
        .modified()
        .ok()
        .and_then(|modified| SystemTime::now().duration_since(modified).ok())
        .unwrap_or_default()
}

/// A digest of a file's octets.
pub(super) fn digest(octets: &[u8]) -> [u8; 20] {
    let mut sum = [0; 20];
    for (octet, from) in sum.iter_mut().zip(Sha1::digest(octets)) {
        *octet = from;
    }
    sum
}

/// Whether a file in the directory is one to read.
pub(super) fn is_object_file(path: &Path) -> bool {
    !is_hidden(path)
        && path
            .extension()
            .and_then(OsStr::to_str)
            .is_some_and(|extension| {
                ["yaml", "yml", "json"]
                    .iter()
                    .any(|known| known.eq_ignore_ascii_case(extension))
            })
}

/// Names that start with a dot: editors' swap files, our own temporaries, the inner side of a mounted ConfigMap.
pub(super) fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Whether a path is of our own making and never news.
pub(super) fn is_own_bookkeeping(path: &Path) -> bool {
    path.file_name()
        .and_then(OsStr::to_str)
        .is_some_and(|name| name == LOCK || name.starts_with(TEMPORARY))
}

/// Everything to read below a directory.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Object files, sorted.
    pub(super) files: Vec<PathBuf>,
    /// Directories that could not be read; what is below them is unknown, not gone.
    pub(super) unreadable: Vec<(PathBuf, String)>,
    /// Temporary files of writers that died.
    pub(super) leftovers: Vec<PathBuf>,
}

/// Walks a directory. Symbolic links to files are read, to directories not, since they may lead round in circles.
pub(super) fn walk(root: &Path) -> Walk {
    let mut found = Walk::default();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            // Gone; whoever asks looks at the files that were in it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                found.unreadable.push((directory, error.to_string()));
                continue;
            }
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    found
                        .unreadable
                        .push((directory.clone(), error.to_string()));
                    break;
                }
            };
            let path = entry.path();
            if is_own_bookkeeping(&path) {
                if !path.ends_with(LOCK) {
                    found.leftovers.push(path);
                }
                continue;
            }
            if is_hidden(&path) {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(path),
                Ok(_) if is_object_file(&path) => found.files.push(path),
                Ok(_) | Err(_) => {}
            }
        }
    }
    found.files.sort();
    found
}

/// Replaces a file in one step: a reader sees the old one or the new one, whole.
///
/// The content is on the disk before the name is. The directory itself is not synced: after a power cut the old file may be back,
/// but then no pod that the new one spoke of runs any more.
pub(super) fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // A link is written through, so that it stays one.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = target
        .parent()
        .ok_or_else(|| io::Error::other("has no directory"))?;
    fs::create_dir_all(directory)?;
    let temporary = directory.join(format!(
        "{TEMPORARY}{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    ));
    let result = (|| {
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o640)
            .open(&temporary)?;
        if let Ok(before) = fs::metadata(&target) {
            file.set_permissions(fs::Permissions::from_mode(before.mode() & 0o7777))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        fs::rename(&temporary, &target)
    })();
    if result.is_err() {
        // The first error is the one to tell; this file is swept up at the next start at the latest.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// A file name for an object: its name where that is one, else an escaped and, if need be, shortened form.
pub(super) fn file_stem(name: &str) -> String {
    let mut stem = String::with_capacity(name.len());
    for (index, byte) in name.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_')
            || (byte == b'.' && index > 0);
        if plain {
            stem.push(char::from(byte));
        } else if byte == b'/' {
            // Between namespace and name; neither may hold an underscore in Kubernetes.
            stem.push('_');
        } else {
            let _ = write!(stem, "%{byte:02X}");
        }
    }
    if stem.len() > 200 {
        let mut short: String = stem.chars().take(160).collect();
        short.push('-');
        for octet in digest(name.as_bytes()).iter().take(10) {
            let _ = write!(short, "{octet:02x}");
        }
        return short;
    }
    stem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stems_are_file_names() {
        assert_eq!(file_stem("10-0-0-0-26"), "10-0-0-0-26");
        assert_eq!(file_stem("k8s-pod-network.ab"), "k8s-pod-network.ab");
        assert_eq!(file_stem("kube-system/key"), "kube-system_key");
        assert_eq!(file_stem("..x y"), "%2E.x%20y");
        let long = file_stem(&"a".repeat(253));
        assert!(long.len() < 200 && long != file_stem(&"a".repeat(252)));
    }

    #[test]
    fn hidden_and_other_files_are_not_read() {
        for name in ["a.yaml", "A.YML", "b.json"] {
            assert!(is_object_file(Path::new(name)), "{name}");
        }
        for name in [".a.yaml", "a.yaml~", "a.yaml.swp", "README", "..data"] {
            assert!(!is_object_file(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn a_write_through_a_link_keeps_the_link_and_the_mode() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o604)).unwrap();
        let link = dir.path().join("link.yaml");
        std::os::unix::fs::symlink("real", &link).unwrap();
        write_atomically(&link, "new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
        assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o604);
        assert_eq!(walk(dir.path()).leftovers, Vec::<PathBuf>::new());
    }
}
