//! A directory of YAML files as a datastore.
//!
//! **Layout.** An object margay creates lies in a file of its own, `<dir>/<plural>/<name>.yaml`. Objects that people write may lie
//! anywhere below `<dir>`, several to a file, as YAML or JSON, in lists or not; margay reads them where they are and, when it must
//! change one (a Node gets its tunnel address), rewrites that document in place and leaves every other octet of the file alone.
//! Two definitions of one object are reported, and the first by path counts.
//!
//! **Writing.** Many processes may write the same directory. Each write holds a lock (`flock` on `.margay-lock`), reads the object
//! anew, compares versions, writes a temporary file, syncs and renames it. A reader therefore never sees half of one of our writes.
//! The version of an object is a counter kept in the file plus a digest of what is written, so that an edit by hand, which does not
//! count, is another version too.
//!
//! **Watching.** inotify says where to look; only files that changed are read. Good news (an object is new or different) is told at
//! once. Bad news (a file is gone, empty, or does not parse) is told only if it is still true a moment later, because editors and
//! `git checkout` take files away for an instant. A file being written in place is read when its writer closes it. Since inotify
//! can lose events and is blind on some file systems, everything is compared anew every half minute.
//!
//! **Tasks.** One thread owns the index and does all file work; handles send it requests over a bounded channel.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{Kind, Object, StoreError, Watch};

mod index;
mod worker;
mod write;

#[cfg(test)]
mod tests;

/// Requests waiting for the thread. Callers hold one each, so this is how many may ask at once before they wait to ask.
const REQUESTS: usize = 256;

/// A directory of YAML files as a datastore. Cheap to clone; all clones share one thread and one index.
#[derive(Clone, Debug)]
pub struct DirectoryStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    requests: mpsc::Sender<Request>,
}

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What is asked of the thread.
#[derive(Debug)]
enum Request {
    Get(Kind, String, Reply<Option<Object>>),
    List(Kind, Reply<Vec<Object>>),
    Create(Box<Object>, Reply<Object>),
    Update(Box<Object>, Reply<Object>),
    Delete(Kind, String, Option<String>, Reply<()>),
    Watch(Reply<Watch>),
}

impl Request {
    /// Answers with an error.
    fn refuse(self, error: StoreError) {
        // A caller that does not wait for the answer has cancelled.
        match self {
            Self::Get(.., reply) => drop(reply.send(Err(error))),
            Self::List(.., reply) => drop(reply.send(Err(error))),
            Self::Create(.., reply) | Self::Update(.., reply) => drop(reply.send(Err(error))),
            Self::Delete(.., reply) => drop(reply.send(Err(error))),
            Self::Watch(reply) => drop(reply.send(Err(error))),
        }
    }
}

impl DirectoryStore {
    /// Opens a directory, creating it where missing, and reads it whole.
    ///
    /// # Errors
    /// When it cannot be created or read.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let (requests, waiting) = mpsc::channel(REQUESTS);
        let (opened, answer) = oneshot::channel();
        let wanted = path.to_owned();
        std::thread::Builder::new()
            .name("datastore".to_owned())
            .spawn(move || worker::run(&wanted, waiting, Some(opened)))
            .map_err(|error| unavailable(path, &error))?;
        let path = answer.await.map_err(|_| stopped(path))??;
        Ok(Self(Arc::new(Shared { path, requests })))
    }

    /// Names a directory that may not be there yet, and never makes it. Until it can be read, every request is told so; it is tried again until then.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn connect(path: &Path) -> Result<Self, StoreError> {
        let (requests, waiting) = mpsc::channel(REQUESTS);
        let wanted = path.to_owned();
        std::thread::Builder::new()
            .name("datastore".to_owned())
            .spawn(move || worker::run(&wanted, waiting, None))
            .map_err(|error| unavailable(path, &error))?;
        let path = path.to_owned();
        Ok(Self(Arc::new(Shared { path, requests })))
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.0
            .requests
            .send(request(reply))
            .await
            .map_err(|_| stopped(&self.0.path))?;
        answer.await.map_err(|_| stopped(&self.0.path))?
    }

    pub(super) async fn get(&self, kind: Kind, name: &str) -> Result<Option<Object>, StoreError> {
        self.ask(|reply| Request::Get(kind, name.to_owned(), reply))
            .await
    }

    pub(super) async fn list(&self, kind: Kind) -> Result<Vec<Object>, StoreError> {
        self.ask(|reply| Request::List(kind, reply)).await
    }

    pub(super) async fn create(&self, object: Object) -> Result<Object, StoreError> {
        self.ask(|reply| Request::Create(Box::new(object), reply))
            .await
    }

    pub(super) async fn update(&self, object: Object) -> Result<Object, StoreError> {
        self.ask(|reply| Request::Update(Box::new(object), reply))
            .await
    }

    pub(super) async fn delete(
        &self,
        kind: Kind,
        name: &str,
        resource_version: Option<&str>,
    ) -> Result<(), StoreError> {
        self.ask(|reply| {
            Request::Delete(
                kind,
                name.to_owned(),
                resource_version.map(str::to_owned),
                reply,
            )
        })
        .await
    }

    pub(super) async fn watch(&self) -> Result<Watch, StoreError> {
        let mut watch = self.ask(Request::Watch).await?;
        // The thread lives while anybody asks or listens.
        watch.keep(self.0.clone());
        Ok(watch)
    }
}

fn unavailable(place: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Unavailable {
        place: place.display().to_string(),
        reason: error.to_string(),
    }
}

fn stopped(place: &Path) -> StoreError {
    StoreError::Unavailable {
        place: place.display().to_string(),
        reason: "its thread has stopped".to_owned(),
    }
}
