//! Network namespaces: opening one by path, working inside it, and leaving it on every path.
//!
//! A namespace belongs to a thread. The plugin has one thread, so [`Namespace::enter`] moves all of it and moves it
//! back before it returns, also when the work inside fails.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

use nix::sched::{CloneFlags, setns};

/// The file system of `/proc/<pid>/ns/*` and of what is bind-mounted from it (`NSFS_MAGIC` in linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// An open network namespace.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

/// Why a path is not a usable namespace.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// Nothing is there.
    #[error("{0} does not exist")]
    Missing(String),
    /// Something else is there: a namespace whose mount is gone leaves an empty file.
    #[error("{0} is not a network namespace")]
    NotANamespace(String),
    /// The path is the namespace the plugin itself runs in.
    #[error("{0} is the host's own network namespace")]
    Host(String),
    /// The kernel refused.
    #[error("cannot open {path}: {error}")]
    Io {
        /// Which path.
        path: String,
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
}

impl Namespace {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When /proc is not there.
    pub fn current() -> io::Result<Self> {
        Ok(Self {
            file: File::open("/proc/thread-self/ns/net")?,
        })
    }

    /// The namespace at a path, which must not be the caller's own.
    ///
    /// # Errors
    /// See [`NamespaceError`].
    pub fn open(path: &str) -> Result<Self, NamespaceError> {
        let io_error = |error: io::Error| match error.raw_os_error() {
            Some(nix::libc::ENOENT | nix::libc::ENOTDIR) => NamespaceError::Missing(path.into()),
            _ => NamespaceError::Io {
                path: path.into(),
                error,
            },
        };
        let file = File::open(path).map_err(io_error)?;
        let kind = nix::sys::statfs::fstatfs(&file)
            .map_err(|e| io_error(e.into()))?
            .filesystem_type();
        if kind.0 != NSFS_MAGIC {
            return Err(NamespaceError::NotANamespace(path.into()));
        }
        let namespace = Self { file };
        let own = Self::current()
            .and_then(|n| n.file.metadata())
            .map_err(io_error)?;
        let there = namespace.file.metadata().map_err(io_error)?;
        if (own.dev(), own.ino()) == (there.dev(), there.ino()) {
            return Err(NamespaceError::Host(path.into()));
        }
        Ok(namespace)
    }

    /// The descriptor, to name the namespace to the kernel.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Does `work` inside the namespace and returns to the caller's.
    ///
    /// # Errors
    /// When entering or leaving fails, or `work` does. If the way back is barred the process must not go on touching
    /// what it takes for the host, so that error wins over the work's.
    pub fn enter<T, E: From<io::Error>>(
        &self,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let home = Self::current()?;
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
        let result = work();
        setns(&home.file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
        result
    }
}
