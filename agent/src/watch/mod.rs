//! From stored objects to the model.
//!
//! [`spawn`] starts the one task that reads the store's watch, keeps every object converted, and publishes the
//! [`ClusterState`] they make through a `tokio::sync::watch` channel. Nothing is published before the store has told everything
//! once; then a state is published per batch of events, and only where it differs from the last.
//!
//! ```text
//! Store ── WatchEvent ──► Objects ── state() ──► watch::Sender<Arc<ClusterState>> ──► routing, ipam, cli
//!                            ▲   └─────────────► <state-dir>/view/cluster.json
//! endpoint store ── pods ────┘                        │ at start, if the store does not answer
//!                            ▲────────────────────────┘
//! ```
//! While the store does not answer, the view saved by an earlier run is published with `from_saved_view` set and `in_sync` not:
//! sessions and routes come up from it, and nothing is removed on its word.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::datastore::{Store, StoreError, Watch, WatchEvent};
use crate::model::{ClusterState, Invalid};

mod convert;
mod objects;
mod view;

#[cfg(test)]
mod tests;

use objects::Objects;
pub use objects::Workloads;
use view::View;

/// How long the store may take to answer before the saved view is used.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait before asking a store again that did not answer.
const RETRY: Duration = Duration::from_secs(1);
/// How old the counts of addresses in use may be. Pods come and go all over the cluster all the time; what nobody routes by is
/// published only so often.
const RECOUNT: Duration = Duration::from_secs(5);
/// The view is saved at most this often: after a crash it may be this old, which is younger than any outage it is for.
const SAVE: Duration = Duration::from_secs(5);

/// What the task needs to know.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// The node the state is seen from.
    pub node_name: String,
    /// The namespace whose Secrets may be read: Calico's is `kube-system`.
    pub secret_namespace: String,
    /// Where the view is saved; `None`: nowhere, as for a command that looks once.
    pub state_dir: Option<PathBuf>,
}

impl WatchOptions {
    /// The usual options for a node.
    #[must_use]
    pub fn new(node_name: impl Into<String>) -> Self {
        Self {
            node_name: node_name.into(),
            secret_namespace: "kube-system".to_owned(),
            state_dir: None,
        }
    }
}

/// Reads the store once and returns the state it makes.
///
/// # Errors
/// When the store does not answer.
pub async fn read_once(store: &Store, options: &WatchOptions) -> Result<ClusterState, StoreError> {
    let mut objects = Objects::new(&options.node_name, &options.secret_namespace);
    let mut watch = store.watch().await?;
    while let Some(event) = watch.next().await {
        if event == WatchEvent::InitDone {
            let mut state = objects.state(&Workloads::default());
            state.in_sync = true;
            return Ok(state);
        }
        objects.take(event);
    }
    Err(StoreError::Unavailable {
        place: store.to_string(),
        reason: "ended before it had told everything".to_owned(),
    })
}

/// Starts the task. It ends when `cancel` is, after saving the view; the last state stays readable.
pub fn spawn(
    store: Store,
    options: WatchOptions,
    workloads: watch::Receiver<Workloads>,
    cancel: CancellationToken,
) -> (watch::Receiver<Arc<ClusterState>>, JoinHandle<()>) {
    let first = ClusterState {
        node_name: options.node_name.clone(),
        datastore_ready: true,
        ..ClusterState::default()
    };
    let (publish, states) = watch::channel(Arc::new(first));
    let task = Task {
        objects: Objects::new(&options.node_name, &options.secret_namespace),
        view: options.state_dir.as_deref().map(View::new),
        store,
        options,
        workloads,
        publish,
        source: Source::Nothing,
        unsaved: None,
        recount: None,
    };
    let handle = tokio::spawn(task.run(cancel));
    (states, handle)
}

/// Where the objects at hand are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Nothing,
    SavedView,
    Store,
}

struct Task {
    store: Store,
    options: WatchOptions,
    objects: Objects,
    workloads: watch::Receiver<Workloads>,
    publish: watch::Sender<Arc<ClusterState>>,
    view: Option<View>,
    source: Source,
    /// When the view has to be saved, if it has changed.
    unsaved: Option<Instant>,
    /// When new counts of addresses in use have to be published, if nothing else is published before.
    recount: Option<Instant>,
}

impl Task {
    async fn run(mut self, cancel: CancellationToken) {
        tokio::select! {
            () = self.follow() => {}
            () = cancel.cancelled() => {}
        }
        if self.unsaved.is_some() {
            self.save().await;
        }
    }

    /// Asks the store until it answers, then follows it; never ends by itself. Cancelled at any await it leaves objects and
    /// published state in agreement.
    async fn follow(&mut self) {
        // Only a first answer is waited for so long; later the saved view is in use already.
        let mut patience = Some(Instant::now() + PATIENCE);
        loop {
            match self.await_list(&mut patience).await {
                Ok((objects, watch)) => {
                    self.objects = objects;
                    self.source = Source::Store;
                    self.show();
                    self.follow_watch(watch).await;
                    warn!("the datastore's watch ended, starting anew");
                }
                Err(error) => {
                    warn!(%error, "the datastore does not answer");
                    self.use_saved_view();
                }
            }
            self.rest().await;
        }
    }

    /// Waits for the list as long as it takes; a large one may take longer than anybody wants to wait for sessions. When patience
    /// ends the saved view stands in.
    async fn await_list(
        &mut self,
        patience: &mut Option<Instant>,
    ) -> Result<(Objects, Watch), StoreError> {
        let list = first_list(self.store.clone(), self.options.clone());
        tokio::pin!(list);
        let mut pods_end = false;
        loop {
            tokio::select! {
                listed = &mut list => return listed,
                () = at(*patience) => {
                    *patience = None;
                    debug!("the datastore is slow to answer");
                    self.use_saved_view();
                }
                changed = self.workloads.changed(), if !pods_end => match changed {
                    Ok(()) if self.source != Source::Nothing => self.show(),
                    Ok(()) => {}
                    Err(_) => pods_end = true,
                },
            }
        }
    }

    /// Waits before the next attempt, and goes on telling what pods there are meanwhile.
    async fn rest(&mut self) {
        let until = Instant::now() + RETRY;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                changed = self.workloads.changed() => match changed {
                    Ok(()) if self.source != Source::Nothing => self.show(),
                    Ok(()) => {}
                    // Nobody tells of pods any more.
                    Err(_) => {
                        tokio::time::sleep_until(until).await;
                        return;
                    }
                },
            }
        }
    }

    async fn follow_watch(&mut self, mut watch: Watch) {
        let mut pods_end = false;
        loop {
            let (save_at, recount_at) = (self.unsaved, self.recount);
            tokio::select! {
                event = watch.next() => {
                    let Some(event) = event else { return };
                    self.objects.take(event);
                    while let Some(event) = watch.try_next() {
                        self.objects.take(event);
                    }
                    self.show();
                }
                changed = self.workloads.changed(), if !pods_end => match changed {
                    Ok(()) => self.show(),
                    Err(_) => pods_end = true,
                },
                () = at(save_at) => self.save().await,
                () = at(recount_at) => {
                    self.recount = None;
                    self.show_counts();
                }
            }
        }
    }

    fn use_saved_view(&mut self) {
        if self.source != Source::Nothing {
            return;
        }
        let Some(view) = &self.view else { return };
        match view.load() {
            Ok(objects) if objects.is_empty() => {}
            Ok(objects) => {
                info!(
                    objects = objects.len(),
                    "going on from the view saved by an earlier run"
                );
                for object in &objects {
                    self.objects.apply(object);
                }
                self.source = Source::SavedView;
                self.show();
            }
            Err(error) => warn!(%error, "the saved view cannot be read"),
        }
    }

    /// The state the objects at hand make.
    fn state(&mut self) -> ClusterState {
        let workloads = Arc::clone(&self.workloads.borrow_and_update());
        let mut state = self.objects.state(&workloads);
        state.in_sync = self.source == Source::Store;
        state.from_saved_view = self.source == Source::SavedView;
        state
    }

    /// Publishes the state, with its counts, whatever has changed.
    fn show_counts(&mut self) {
        let state = self.state();
        self.publish.send_replace(Arc::new(state));
    }

    /// Publishes the state if it is another one.
    fn show(&mut self) {
        let state = self.state();
        let mut recount = false;
        let changed = self.publish.send_if_modified(|published| {
            if **published == state {
                // Equal blocks may be differently full.
                let counts = |state: &ClusterState| {
                    state
                        .blocks
                        .values()
                        .map(|block| block.allocated)
                        .sum::<usize>()
                };
                recount = counts(published) != counts(&state);
                return false;
            }
            report(&published.invalid, &state.invalid);
            report_unsupported(published, &state);
            *published = Arc::new(state);
            true
        });
        if changed {
            self.recount = None;
        } else if recount {
            self.recount.get_or_insert_with(|| Instant::now() + RECOUNT);
        }
        if changed && self.source == Source::Store && self.view.is_some() {
            self.unsaved.get_or_insert_with(|| Instant::now() + SAVE);
        }
    }

    async fn save(&mut self) {
        self.unsaved = None;
        let Some(view) = self.view.clone() else {
            return;
        };
        let text = View::text(&self.objects);
        let node = (!self.objects.has_own_node()).then(|| self.options.node_name.clone());
        let saved = tokio::task::spawn_blocking(move || {
            // What says nothing of this node would bring up none of its sessions: a datastore that is not what it was, more likely
            // than a cluster that has lost the node.
            if let Some(node) = node
                && view.has_node(&node)
            {
                warn!("the datastore lacks this node's object; the saved view has it and stays as it is");
                return Ok(());
            }
            view.save(&text)
        })
        .await;
        match saved {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the view of the cluster cannot be saved"),
            Err(error) => warn!(%error, "saving the view of the cluster broke off"),
        }
    }
}

/// Everything the store has, in one piece.
async fn first_list(store: Store, options: WatchOptions) -> Result<(Objects, Watch), StoreError> {
    let mut objects = Objects::new(&options.node_name, &options.secret_namespace);
    let mut watch = store.watch().await?;
    while let Some(event) = watch.next().await {
        if event == WatchEvent::InitDone {
            return Ok((objects, watch));
        }
        objects.take(event);
    }
    Err(StoreError::Unavailable {
        place: store.to_string(),
        reason: "its watch ended".to_owned(),
    })
}

/// Waits until a moment; for ever if there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Says each fault once, and once that it is gone.
fn report(
    before: &std::collections::BTreeMap<String, Invalid>,
    after: &std::collections::BTreeMap<String, Invalid>,
) {
    for (key, fault) in after {
        if before.get(key) != Some(fault) {
            warn!("{fault}");
        }
    }
    for (key, fault) in before {
        if !after.contains_key(key) {
            info!(source = %fault.source, object = %fault.object, "valid again");
        }
    }
}

fn report_unsupported(before: &ClusterState, after: &ClusterState) {
    for (subject, reason) in &after.unsupported {
        if before.unsupported.get(subject) != Some(reason) {
            warn!("{subject}: {reason}");
        }
    }
}
