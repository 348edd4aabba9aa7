//! A thread that owns something blocking.
//!
//! Netlink requests, `nft` and `/proc/sys` all act in the network namespace of the thread that runs them. Each gets a
//! thread, which inherits the namespace of whoever opened the kernel and serves its jobs in order; the runtime's own
//! threads never block, and need not be in that namespace at all.

use tokio::sync::{mpsc, oneshot};

use super::KernelError;

/// Jobs waiting for the thread. Callers await their answers, so only as many jobs exist as there are callers.
const QUEUE: usize = 64;

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// The handle; the thread ends with the last of them, after the job it is at.
pub(super) struct Worker<S> {
    jobs: mpsc::Sender<Job<S>>,
    what: &'static str,
}

impl<S> std::fmt::Debug for Worker<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("what", &self.what)
            .finish_non_exhaustive()
    }
}

impl<S> Clone for Worker<S> {
    fn clone(&self) -> Self {
        Self {
            jobs: self.jobs.clone(),
            what: self.what,
        }
    }
}

impl<S: Send + 'static> Worker<S> {
    pub(super) fn spawn(what: &'static str, mut state: S) -> Result<Self, KernelError> {
        let (jobs, mut queue) = mpsc::channel::<Job<S>>(QUEUE);
        std::thread::Builder::new()
            .name(what.to_owned())
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    job(&mut state);
                }
            })
            .map_err(|error| KernelError::Io {
                what,
                message: error.to_string(),
            })?;
        Ok(Self { jobs, what })
    }

    /// Runs a job on the thread. If the caller goes away the job still runs: a change half asked for is finished, and
    /// the next dump shows it.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut S) -> Result<R, KernelError> + Send + 'static,
    ) -> Result<R, KernelError> {
        let (reply, answer) = oneshot::channel();
        let gone = || KernelError::Io {
            what: self.what,
            message: "its thread has ended".to_owned(),
        };
        self.jobs
            .send(Box::new(move |state| {
                let _ = reply.send(job(state));
            }))
            .await
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
