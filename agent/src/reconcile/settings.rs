//! The packet filter and the kernel's settings, on a task of their own.
//!
//! Running `nft` takes milliseconds, and on a node with tens of thousands of rules more; a pod's route must not
//! stand in line behind it. Nothing here depends on a route and no route on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::retry::Pacing;
use super::{Counters, Pending, Subject};
use crate::kernel::{FilterSpec, Kernel, KernelError};

/// Changes by others come in bursts (every reload of kube-proxy is many): look at most this often.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What should be set.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Settings {
    /// `None` before the cluster's pools are known: rules from half a list would translate packets between pods.
    pub(super) filter: Option<FilterSpec>,
    pub(super) sysctls: BTreeMap<String, String>,
    pub(super) sysctls_at_least: BTreeMap<String, u64>,
}

/// What could not be set.
pub(super) type Failures = BTreeMap<Subject, Pending>;

/// The task.
pub(super) struct SettingsTask<K> {
    pub(super) kernel: Arc<K>,
    pub(super) wanted: watch::Receiver<Option<Arc<Settings>>>,
    /// Somebody may have changed something.
    pub(super) check: Arc<Notify>,
    pub(super) failures: watch::Sender<Failures>,
    pub(super) counters: Arc<Counters>,
    pub(super) pacing: Pacing,
    pub(super) cancel: CancellationToken,
}

impl<K: Kernel> SettingsTask<K> {
    pub(super) async fn run(mut self) {
        let mut attempts = 0;
        let mut checked: Option<Instant> = None;
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let mut retry = None;
            if let Some(wanted) = wanted {
                let failed = self.apply(&wanted).await;
                checked = Some(Instant::now());
                // A setting that the kernel does not have will not appear by trying again; the audit looks anyway.
                let worth_retrying = failed.keys().any(|subject| *subject == Subject::Filter);
                attempts = if worth_retrying { attempts + 1 } else { 0 };
                retry = worth_retrying.then(|| Instant::now() + self.pacing.delay(attempts));
                self.failures.send_if_modified(|before| {
                    let modified = *before != failed;
                    *before = failed;
                    modified
                });
            }
            // Cancel-safe, all of them: each only waits.
            tokio::select! {
                () = self.cancel.cancelled() => return,
                changed = self.wanted.changed() => if changed.is_err() { return },
                () = sleep_until(retry) => {}
                () = self.check.notified() => {
                    let pause = sleep_until(checked.map(|at| at + CHECK_INTERVAL));
                    tokio::select! {
                        () = self.cancel.cancelled() => return,
                        changed = self.wanted.changed() => if changed.is_err() { return },
                        () = pause => {}
                    }
                }
            }
        }
    }

    async fn apply(&self, wanted: &Settings) -> Failures {
        let mut failed = Failures::new();
        let mut results = Vec::new();
        for (name, value) in &wanted.sysctls {
            results.push((name, self.set(name, value, |there| there == value).await));
        }
        for (name, least) in &wanted.sysctls_at_least {
            let enough = |there: &str| there.parse().is_ok_and(|there: u64| there >= *least);
            results.push((name, self.set(name, &least.to_string(), enough).await));
        }
        for (name, result) in results {
            if let Err(error) = result {
                // A setting of an interface that is about to be made is not refused, it waits.
                if error != KernelError::NotFound {
                    self.counters.sysctl_errors.inc();
                }
                self.note(&mut failed, Subject::Sysctl(name.clone()), &error);
            }
        }
        if let Some(spec) = &wanted.filter {
            match self.kernel.apply_filter(spec).await {
                Ok(outcome) => {
                    let writes =
                        usize::from(outcome.table_changed) + usize::from(outcome.accept_changed);
                    self.counters.filter_writes.add(writes);
                }
                Err(error) => {
                    self.counters.filter_errors.inc();
                    self.note(&mut failed, Subject::Filter, &error);
                }
            }
        }
        failed
    }

    /// Sets it, unless what is there serves.
    async fn set(
        &self,
        name: &str,
        value: &str,
        serves: impl Fn(&str) -> bool + Send,
    ) -> Result<(), KernelError> {
        match self.kernel.sysctl(name).await? {
            None => Err(KernelError::NotFound),
            Some(there) if serves(&there) => Ok(()),
            Some(_) => {
                self.kernel.set_sysctl(name, value).await?;
                self.counters.sysctl_writes.inc();
                Ok(())
            }
        }
    }

    fn note(&self, failed: &mut Failures, subject: Subject, error: &KernelError) {
        let before = self.failures.borrow().get(&subject).cloned();
        let reason = error.to_string();
        if before.as_ref().is_none_or(|before| before.reason != reason) {
            tracing::warn!(%subject, %error, "cannot be set");
        }
        let pending = Pending {
            reason,
            conflict: false,
            since: before
                .as_ref()
                .map_or_else(SystemTime::now, |before| before.since),
            attempts: before.map_or(1, |before| before.attempts.saturating_add(1)),
        };
        failed.insert(subject, pending);
    }
}

/// Sleeps until a time, or for ever without one.
pub(super) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
