//! The thread that owns the index: answers requests, follows the file system.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RemoveKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::index::{Index, Key, ReadFile};
use super::{Request, unavailable};
use crate::datastore::document::Stored;
use crate::datastore::files::{self, Lock, Signature, Walk};
use crate::datastore::{Kind, Object, StoreError};

/// How long bad news must stay true before it is believed.
pub(super) const SETTLE: Duration = Duration::from_millis(250);
/// How long a file that keeps changing is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often everything is compared, since events can be lost.
const RESCAN: Duration = Duration::from_secs(30);
/// The same where no events are to be had.
const POLL: Duration = Duration::from_secs(1);
/// How often a directory that cannot be read yet is tried.
const RETRY: Duration = Duration::from_millis(500);
/// File events waiting. A full channel stops the reader of inotify, and an overrun of the kernel's own queue asks for a rescan.
const EVENTS: usize = 4096;

/// What the file system says.
#[derive(Debug)]
enum Touch {
    /// Something about a path is complete: it was closed, renamed, removed.
    Ready(PathBuf),
    /// A path is being written.
    Writing(PathBuf),
    /// Events were lost.
    Lost,
}

/// A path with bad news that may not last.
#[derive(Clone, Copy, Debug)]
struct Settling {
    since: Instant,
    due: Instant,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) root: PathBuf,
    pub(super) index: Index,
    settling: BTreeMap<PathBuf, Settling>,
    /// Directories that could not be read, which were told as faults.
    unreadable: BTreeSet<PathBuf>,
    /// The directory of a kind as last listed.
    directories: BTreeMap<Kind, Signature>,
}

/// Runs the thread until nobody asks any more. With `opened` the directory must be there; without, it is tried again and again,
/// and every request in the meantime is told why not.
pub(super) fn run(
    path: &Path,
    mut requests: mpsc::Receiver<Request>,
    mut opened: Option<oneshot::Sender<Result<PathBuf, StoreError>>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            // Whoever asked may be gone; there is nobody else to tell.
            if let Some(opened) = opened {
                let _ = opened.send(Err(unavailable(path, &error)));
            }
            return;
        }
    };
    let make = opened.is_some();
    loop {
        match open(path, make) {
            Ok((mut worker, watcher, touched)) => {
                if let Some(opened) = opened.take()
                    && opened.send(Ok(worker.root.clone())).is_err()
                {
                    return;
                }
                let period = if watcher.is_some() { RESCAN } else { POLL };
                runtime.block_on(worker.serve(requests, touched, period));
                return;
            }
            Err(error) => {
                if let Some(opened) = opened {
                    let _ = opened.send(Err(unavailable(path, &error)));
                    return;
                }
                debug!(path = %path.display(), %error, "the datastore directory cannot be read yet");
                if runtime
                    .block_on(refuse(&mut requests, path, &error))
                    .is_break()
                {
                    return;
                }
            }
        }
    }
}

type Opened = (Worker, Option<RecommendedWatcher>, mpsc::Receiver<Touch>);

/// Reads the directory whole. One that is missing is made only if `make`: an empty one in the place of a directory that is not
/// mounted yet would say that the cluster is empty.
fn open(path: &Path, make: bool) -> io::Result<Opened> {
    if make {
        fs::create_dir_all(path)?;
    }
    let root = fs::canonicalize(path)?;
    // Listening starts before reading, so that nothing falls between.
    let (touches, touched) = mpsc::channel(EVENTS);
    let watcher = listen(&root, touches);
    let mut worker = Worker {
        root,
        index: Index::default(),
        settling: BTreeMap::new(),
        unreadable: BTreeSet::new(),
        directories: BTreeMap::new(),
    };
    worker.load()?;
    Ok((worker, watcher, touched))
}

/// Says no to everybody for a while. `Break`: nobody asks any more.
async fn refuse(
    requests: &mut mpsc::Receiver<Request>,
    path: &Path,
    error: &io::Error,
) -> ControlFlow<()> {
    let until = Instant::now() + RETRY;
    loop {
        tokio::select! {
            request = requests.recv() => match request {
                Some(request) => request.refuse(unavailable(path, error)),
                None => return ControlFlow::Break(()),
            },
            () = tokio::time::sleep_until(until) => return ControlFlow::Continue(()),
        }
    }
}

/// Starts inotify; `None` where it cannot be had.
fn listen(root: &Path, touches: mpsc::Sender<Touch>) -> Option<RecommendedWatcher> {
    let handler = move |event: notify::Result<notify::Event>| {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                warn!(%error, "watching the datastore directory failed");
                // A closed channel means the store is gone, and this thread soon too.
                let _ = touches.blocking_send(Touch::Lost);
                return;
            }
        };
        if event.need_rescan() {
            let _ = touches.blocking_send(Touch::Lost);
        }
        let Some(ready) = is_ready(event.kind) else {
            return;
        };
        for path in event.paths {
            if files::is_own_bookkeeping(&path) {
                continue;
            }
            let touch = if ready {
                Touch::Ready(path)
            } else {
                Touch::Writing(path)
            };
            let _ = touches.blocking_send(touch);
        }
    };
    let watcher =
        RecommendedWatcher::new(handler, notify::Config::default()).and_then(|mut watcher| {
            watcher
                .watch(root, RecursiveMode::Recursive)
                .map(|()| watcher)
        });
    match watcher {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            warn!(%error, directory = %root.display(), "no file events, polling instead");
            None
        }
    }
}

/// Whether an event means that a path can be read now, or that its writer is still at it; `None` for events that change nothing.
fn is_ready(kind: EventKind) -> Option<bool> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Remove(
            RemoveKind::File | RemoveKind::Folder | RemoveKind::Any | RemoveKind::Other,
        )
        | EventKind::Modify(ModifyKind::Name(
            RenameMode::To
            | RenameMode::From
            | RenameMode::Both
            | RenameMode::Any
            | RenameMode::Other,
        ))
        | EventKind::Modify(ModifyKind::Metadata(_))
        // A directory has nobody who closes it.
        | EventKind::Create(notify::event::CreateKind::Folder) => Some(true),
        EventKind::Access(_) => None,
        EventKind::Create(_) | EventKind::Modify(_) | EventKind::Any | EventKind::Other => {
            Some(false)
        }
    }
}

impl Worker {
    /// Reads everything for the first time, on as many threads as there are processors.
    fn load(&mut self) -> io::Result<()> {
        let mut walk = files::walk(&self.root);
        if let Some((_, reason)) = walk
            .unreadable
            .iter()
            .find(|(directory, _)| *directory == self.root)
        {
            return Err(io::Error::other(reason.clone()));
        }
        self.sweep(&mut walk);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = walk.files.len().div_ceil(threads).max(64);
        let read: Vec<(PathBuf, Option<Look>)> = std::thread::scope(|scope| {
            let workers: Vec<_> = walk
                .files
                .chunks(share)
                .map(|paths| {
                    scope.spawn(move || {
                        paths
                            .iter()
                            .map(|path| (path.clone(), read_file(path, None).ok()))
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            workers
                .into_iter()
                .filter_map(|worker| worker.join().ok())
                .flatten()
                .collect()
        });
        for (path, file) in read {
            match file {
                Some(Look::New(file)) if file.faults.is_empty() => {
                    self.index.apply(&path, Some(file));
                }
                // Not read, or not understood: looked at again below, with the patience every such file gets.
                _ => self.examine(&path),
            }
        }
        // A file that is being written this very moment is not judged by its half.
        while let Some(due) = self.next_due() {
            std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
            self.settle();
        }
        self.note_unreadable(&walk);
        Ok(())
    }

    /// Removes what writers that died left behind. Under the lock nobody else is writing.
    fn sweep(&self, walk: &mut Walk) {
        if walk.leftovers.is_empty() {
            return;
        }
        let Ok(_lock) = Lock::acquire(&self.root) else {
            return;
        };
        for path in walk.leftovers.drain(..) {
            match fs::remove_file(&path) {
                Ok(()) => {
                    debug!(path = %path.display(), "removed a temporary file of a writer that died")
                }
                // It was being written when we listed it, and is in place by now.
                Err(error) => debug!(path = %path.display(), %error, "temporary file is gone"),
            }
        }
    }

    async fn serve(
        &mut self,
        mut requests: mpsc::Receiver<Request>,
        mut touched: mpsc::Receiver<Touch>,
        period: Duration,
    ) {
        let mut rescan_at = Instant::now() + period;
        loop {
            let wake = self.next_due().map_or(rescan_at, |due| due.min(rescan_at));
            // Every arm is cancel safe: receiving from a channel loses nothing, sleeping holds nothing.
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.answer(request),
                    None => return,
                },
                touch = touched.recv(), if !touched.is_closed() => {
                    let mut rescan = false;
                    let mut ready = BTreeSet::new();
                    let mut next = touch;
                    while let Some(touch) = next {
                        match touch {
                            Touch::Ready(path) => { ready.insert(path); }
                            Touch::Writing(path) => self.is_being_written(path),
                            Touch::Lost => rescan = true,
                        }
                        next = touched.try_recv().ok();
                    }
                    if rescan {
                        self.rescan();
                        rescan_at = Instant::now() + period;
                    } else {
                        for path in ready {
                            self.touched(&path);
                        }
                    }
                }
                () = tokio::time::sleep_until(wake) => {
                    self.settle();
                    if Instant::now() >= rescan_at {
                        self.rescan();
                        rescan_at = Instant::now() + period;
                    }
                }
            }
        }
    }

    fn answer(&mut self, request: Request) {
        // A caller that does not wait for the answer has cancelled; what was done stays done.
        match request {
            Request::Get(kind, name, reply) => {
                let found = self.current(&(kind, name));
                let _ = reply.send(found.map(|found| found.map(|stored| stored.object)));
            }
            Request::List(kind, reply) => {
                let _ = reply.send(Ok(self.list(kind)));
            }
            Request::Create(object, reply) => {
                let _ = reply.send(self.create(*object));
            }
            Request::Update(object, reply) => {
                let _ = reply.send(self.update(*object));
            }
            Request::Delete(kind, name, version, reply) => {
                let _ = reply.send(self.delete(kind, &name, version.as_deref()));
            }
            Request::Watch(reply) => {
                let _ = reply.send(Ok(self.index.watch()));
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.settling.values().map(|settling| settling.due).min()
    }

    /// Looks at everything that has had its time.
    fn settle(&mut self) {
        let now = Instant::now();
        let due: Vec<PathBuf> = self
            .settling
            .iter()
            .filter(|(_, settling)| settling.due <= now)
            .map(|(path, _)| path.clone())
            .collect();
        for path in due {
            self.touched(&path);
            // What is still waiting was given a new date by `examine`.
            if self
                .settling
                .get(&path)
                .is_some_and(|settling| settling.due <= now)
            {
                self.settling.remove(&path);
            }
        }
    }

    fn is_being_written(&mut self, path: PathBuf) {
        let now = Instant::now();
        let settling = self.settling.entry(path).or_insert(Settling {
            since: now,
            due: now + SETTLE,
        });
        settling.due = (now + SETTLE).min(settling.since + PATIENCE);
    }

    /// Whether bad news about a path has lasted. If not, it is looked at again later. `age` is how long ago the file was written:
    /// one that lies still is not being edited.
    fn has_lasted(&mut self, path: &Path, age: Option<Duration>) -> bool {
        let now = Instant::now();
        if age.is_some_and(|age| age >= SETTLE) {
            self.settling.remove(path);
            return true;
        }
        let settling = self.settling.entry(path.to_owned()).or_insert(Settling {
            since: now,
            due: now + SETTLE,
        });
        if now < settling.due {
            return false;
        }
        if age.is_some() && now < settling.since + PATIENCE {
            settling.due = now + SETTLE;
            return false;
        }
        self.settling.remove(path);
        true
    }

    /// Something happened to a path, which may be a directory.
    fn touched(&mut self, path: &Path) {
        if files::is_object_file(path) && !path.is_dir() {
            self.examine(path);
            return;
        }
        if path == self.root {
            self.settling.remove(path);
            self.rescan();
        } else if files::is_hidden(path) {
            self.settling.remove(path);
            // A mounted ConfigMap changes by swapping the link `..data`, which its files lead through.
            if path.ends_with("..data")
                && let Some(parent) = path.parent()
            {
                self.examine_below(parent);
            }
        } else if path.is_dir() || self.index.files().any(|file| file.starts_with(path)) {
            self.examine_below(path);
            // Files made in a new directory before inotify was told of it have no events: look once more.
            let now = Instant::now();
            match self.settling.get(path).copied() {
                None => {
                    self.settling.insert(
                        path.to_owned(),
                        Settling {
                            since: now,
                            due: now + SETTLE,
                        },
                    );
                }
                Some(settling) if settling.due <= now => {
                    self.settling.remove(path);
                }
                Some(_) => {}
            }
        } else {
            self.settling.remove(path);
        }
    }

    fn rescan(&mut self) {
        let root = self.root.clone();
        if let Err(error) = fs::read_dir(&root) {
            self.note_unreadable(&Walk {
                unreadable: vec![(root, error.to_string())],
                ..Walk::default()
            });
            return;
        }
        self.examine_below(&root);
    }

    /// Looks at every file below a directory, and at those that were there.
    fn examine_below(&mut self, directory: &Path) {
        let walk = files::walk(directory);
        self.note_unreadable(&walk);
        let known: Vec<PathBuf> = self
            .index
            .files()
            .filter(|file| file.starts_with(directory))
            .filter(|file| {
                !walk
                    .unreadable
                    .iter()
                    .any(|(unreadable, _)| file.starts_with(unreadable))
            })
            .cloned()
            .collect();
        let all: BTreeSet<PathBuf> = walk.files.into_iter().chain(known).collect();
        for path in all {
            self.examine(&path);
        }
    }

    fn note_unreadable(&mut self, walk: &Walk) {
        let mended: Vec<PathBuf> = self
            .unreadable
            .iter()
            .filter(|path| {
                !walk.unreadable.iter().any(|(now, _)| now == *path) && fs::read_dir(path).is_ok()
            })
            .cloned()
            .collect();
        for path in mended {
            self.unreadable.remove(&path);
            self.index.clear_fault(&path.display().to_string());
        }
        for (path, reason) in &walk.unreadable {
            self.unreadable.insert(path.clone());
            self.index.set_fault(
                path.display().to_string(),
                None,
                format!("directory cannot be read, what was in it is kept: {reason}"),
            );
        }
    }

    /// Looks at one file and takes over what is in it, bad news only after a while.
    pub(super) fn examine(&mut self, path: &Path) {
        let known = self.index.file(path);
        let is_known = known.is_some();
        match read_file(path, known.map(|known| (&known.signature, &known.digest))) {
            Ok(Look::New(read)) => {
                let bad = known.map_or(!read.faults.is_empty(), |known| known.would_lose(&read));
                if bad {
                    let age =
                        fs::metadata(path).map_or(Duration::ZERO, |metadata| files::age(&metadata));
                    if !self.has_lasted(path, Some(age)) {
                        return;
                    }
                }
                self.settling.remove(path);
                self.index.apply(path, Some(read));
            }
            Ok(Look::Same(signature)) => {
                self.settling.remove(path);
                self.index.confirm(path, signature);
            }
            Err(error) if is_gone(&error) => {
                if !is_known {
                    self.settling.remove(path);
                    self.index.clear_fault(&path.display().to_string());
                } else if self.has_lasted(path, None) {
                    // Where the directory itself is away, nothing is known of what was in it.
                    if self.root.is_dir() {
                        self.index.apply(path, None);
                        self.index.clear_fault(&path.display().to_string());
                    }
                }
            }
            // The file is there but not to be read; what was in it is more likely still true than not.
            Err(error) => {
                if self.has_lasted(path, None) {
                    self.index.set_fault(
                        path.display().to_string(),
                        None,
                        format!("cannot be read, what was in it is kept: {error}"),
                    );
                }
            }
        }
    }

    /// Takes a file over as it is, after we wrote it ourselves.
    pub(super) fn take_over(&mut self, path: &Path) -> io::Result<()> {
        self.settling.remove(path);
        match read_file(path, None) {
            Ok(Look::New(read)) => self.index.apply(path, Some(read)),
            Ok(Look::Same(_)) => {}
            Err(error) if is_gone(&error) => self.index.apply(path, None),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Where an object margay creates is put.
    pub(super) fn own_path(&self, (kind, name): &Key) -> PathBuf {
        self.root
            .join(kind.plural())
            .join(format!("{}.yaml", files::file_stem(name)))
    }

    /// The object as it is on the disk now.
    pub(super) fn current(&mut self, key: &Key) -> Result<Option<Stored>, StoreError> {
        let mut paths: Vec<PathBuf> = self
            .index
            .claims(key)
            .map(|(place, _)| place.path.to_path_buf())
            .collect();
        if paths.is_empty() {
            paths.push(self.own_path(key));
        }
        for path in &paths {
            self.examine(path);
        }
        for (place, stored) in self.index.claims(key) {
            if !self.settling.contains_key(&*place.path) {
                return Ok(Some(stored.clone()));
            }
            // Gone is gone for whoever asks; only watchers are spared the flicker.
            if !place.path.exists() {
                continue;
            }
            return match read_file(&place.path, None) {
                Ok(Look::New(read)) => match read.claims.into_iter().find(|(of, ..)| of == key) {
                    Some((.., stored)) => Ok(Some(stored)),
                    None => Err(StoreError::Unavailable {
                        place: place.path.display().to_string(),
                        reason: "is being edited".to_owned(),
                    }),
                },
                Ok(Look::Same(_)) => Ok(Some(stored.clone())),
                Err(error) => Err(unavailable(&place.path, &error)),
            };
        }
        Ok(None)
    }

    fn list(&mut self, kind: Kind) -> Vec<Object> {
        let directory = self.root.join(kind.plural());
        let signature = fs::metadata(&directory)
            .ok()
            .map(|metadata| Signature::of(&metadata));
        // Files come and go with their directory's stamp; without the directory there are none.
        let changed = signature.filter(|now| {
            self.directories
                .get(&kind)
                .is_none_or(|before| !before.proves_unchanged(now))
        });
        if let Some(signature) = changed {
            self.examine_below(&directory);
            self.directories.insert(kind, signature);
        }
        let paths: BTreeSet<PathBuf> = self
            .index
            .objects(kind)
            .map(|(place, _)| place.path.to_path_buf())
            .collect();
        let mut gone = BTreeSet::new();
        for path in paths {
            if changed.is_none() || !path.starts_with(&directory) {
                self.examine(&path);
            }
            if self.settling.contains_key(&path) && !path.exists() {
                gone.insert(path);
            }
        }
        self.index
            .objects(kind)
            .filter(|(place, _)| !gone.contains(&*place.path))
            .map(|(_, object)| object.clone())
            .collect()
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// What a look at a file brought.
pub(super) enum Look {
    /// It holds what it held.
    Same(Signature),
    /// It is new or different.
    New(ReadFile),
}

/// The files read so far by all stores of the process, for tests that say how much work a change is.
#[cfg(test)]
pub(super) static READS: std::sync::Mutex<Vec<PathBuf>> = std::sync::Mutex::new(Vec::new());

/// Reads a file, unless it is proven to hold what it held.
fn read_file(path: &Path, known: Option<(&Signature, &[u8; 20])>) -> io::Result<Look> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    // Taken before the octets are read: if they change in between, the next look sees another signature.
    let signature = Signature::of(&metadata);
    if let Some((before, _)) = known
        && before.proves_unchanged(&signature)
    {
        return Ok(Look::Same(*before));
    }
    #[cfg(test)]
    READS.lock().unwrap().push(path.to_owned());
    let octets = fs::read(path)?;
    let digest = files::digest(&octets);
    if known.is_some_and(|(_, before)| *before == digest) {
        return Ok(Look::Same(signature));
    }
    Ok(Look::New(ReadFile::new(path, signature, digest, &octets)))
}
