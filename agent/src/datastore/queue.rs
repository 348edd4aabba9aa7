//! The queue between a store and one reader of its changes.
//!
//! Events wait keyed by the object (or place) they are about, and a later one takes the earlier one's seat: what a reader that
//! sleeps for an hour finds is bounded by the number of objects. The last word on an object is never lost, and since it takes the
//! earlier event's seat no object waits longer because it changes often.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{Kind, WatchEvent};

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Object(Kind, String),
    Place(String),
}

#[derive(Debug, Default)]
struct Queue {
    /// Order of the keys; each stands here once.
    order: VecDeque<Key>,
    waiting: HashMap<Key, WatchEvent>,
    /// How many events come before `InitDone`; `None` when it has been told or is not due yet.
    before_init_done: Option<usize>,
    closed: bool,
    reader_gone: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing is left half-done under this lock, so a panic elsewhere does not spoil it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads what changes in a store.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    /// The store, which must not end while somebody listens.
    keep_alive: Option<Arc<dyn std::any::Any + Send + Sync>>,
}

/// The store's end of a [`Watch`].
#[derive(Debug)]
pub(crate) struct Publisher(Arc<Shared>);

/// Joins a store to one reader.
pub(crate) fn watch_channel() -> (Publisher, Watch) {
    let shared = Arc::new(Shared::default());
    (
        Publisher(Arc::clone(&shared)),
        Watch {
            shared,
            keep_alive: None,
        },
    )
}

impl Watch {
    /// Keeps the store alive as long as this watch.
    pub(super) fn keep(&mut self, store: Arc<dyn std::any::Any + Send + Sync>) {
        self.keep_alive = Some(store);
    }

    /// The next event; `None` once the store is gone. Cancel safe: an event not returned is not lost.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            if let Some(event) = self.try_next() {
                return Some(event);
            }
            if self.shared.lock().closed {
                return None;
            }
            self.shared.wake.notified().await;
        }
    }

    /// The next event if one is waiting.
    pub fn try_next(&mut self) -> Option<WatchEvent> {
        let mut queue = self.shared.lock();
        match queue.before_init_done {
            Some(0) => {
                queue.before_init_done = None;
                return Some(WatchEvent::InitDone);
            }
            Some(count) => queue.before_init_done = Some(count - 1),
            None => {}
        }
        let key = queue.order.pop_front()?;
        queue.waiting.remove(&key)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.lock().reader_gone = true;
    }
}

impl Publisher {
    /// Hands an event over. `false`: the reader is gone.
    pub(crate) fn send(&self, event: WatchEvent) -> bool {
        let mut queue = self.0.lock();
        if queue.reader_gone {
            return false;
        }
        let key = match &event {
            WatchEvent::Applied(object) => Key::Object(object.kind, object.name.clone()),
            WatchEvent::Deleted(kind, name) => Key::Object(*kind, name.clone()),
            WatchEvent::Invalid { source, .. } | WatchEvent::ValidAgain { source } => {
                Key::Place(source.clone())
            }
            WatchEvent::InitDone => {
                queue.before_init_done = Some(queue.order.len());
                drop(queue);
                self.0.wake.notify_one();
                return true;
            }
        };
        if queue.waiting.insert(key.clone(), event).is_none() {
            queue.order.push_back(key);
        }
        drop(queue);
        self.0.wake.notify_one();
        true
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datastore::Object;
    use serde_json::json;

    fn pool(name: &str, version: &str) -> WatchEvent {
        let mut object = Object::new(Kind::IpPool, name, json!({}));
        object.resource_version = version.to_owned();
        WatchEvent::Applied(object)
    }

    #[tokio::test]
    async fn a_later_event_replaces_the_one_still_waiting() {
        let (publisher, mut watch) = watch_channel();
        publisher.send(pool("a", "1"));
        publisher.send(pool("b", "1"));
        publisher.send(pool("a", "2"));
        publisher.send(WatchEvent::Deleted(Kind::IpPool, "b".to_owned()));
        assert_eq!(watch.next().await, Some(pool("a", "2")));
        assert_eq!(
            watch.next().await,
            Some(WatchEvent::Deleted(Kind::IpPool, "b".to_owned()))
        );
        assert_eq!(watch.try_next(), None);
    }

    #[tokio::test]
    async fn init_done_comes_after_what_was_there_and_once() {
        let (publisher, mut watch) = watch_channel();
        publisher.send(pool("a", "1"));
        publisher.send(WatchEvent::InitDone);
        publisher.send(pool("b", "1"));
        publisher.send(pool("a", "2"));
        assert_eq!(watch.next().await, Some(pool("a", "2")));
        assert_eq!(watch.next().await, Some(WatchEvent::InitDone));
        assert_eq!(watch.next().await, Some(pool("b", "1")));
        assert_eq!(watch.try_next(), None);
    }

    #[tokio::test]
    async fn an_end_of_the_store_ends_the_watch_after_its_last_event() {
        let (publisher, mut watch) = watch_channel();
        publisher.send(pool("a", "1"));
        drop(publisher);
        assert!(watch.next().await.is_some());
        assert_eq!(watch.next().await, None);
    }

    #[test]
    fn a_store_hears_that_the_reader_is_gone() {
        let (publisher, watch) = watch_channel();
        drop(watch);
        assert!(!publisher.send(pool("a", "1")));
    }
}
