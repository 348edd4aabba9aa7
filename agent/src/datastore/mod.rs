//! Where the cluster's objects live.
//!
//! A [`Store`] holds whole objects as users write them: `apiVersion`, `kind`, `metadata`, `spec`. It knows names and versions of
//! objects and nothing of their meaning; `api` and `watch` give them one. Every write is a compare-and-swap on the object's
//! resource version, which is an opaque text: two versions are equal or they are not.
//!
//! Readers that want to stay current take a [`Watch`]: every object once as [`WatchEvent::Applied`], then
//! [`WatchEvent::InitDone`] once, then changes. A slow reader costs memory by object, never by event, since a later event of an
//! object replaces the earlier one still waiting.

use std::fmt;
use std::path::Path;

use serde_json::Value;

mod directory;
mod document;
mod emit;
mod files;
mod kind;
mod metadata;
mod queue;

pub use directory::DirectoryStore;
pub use kind::Kind;
pub(crate) use metadata::timestamp_now;
pub use queue::Watch;

/// One object of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Its name; `namespace/name` for an object with a namespace.
    pub name: String,
    /// Which version of it this is. Empty for an object not yet stored; on update empty means "whatever is there".
    pub resource_version: String,
    /// Its identity: an object deleted and created anew has another one.
    pub uid: String,
    /// Where it was read, for messages: a file and line. Empty for an object not yet stored.
    pub source: String,
    /// The whole object. `metadata` is as Calico's v3 shows it, also where it is stored in the folded form of `crd.projectcalico.org/v1`.
    pub value: Value,
}

impl Object {
    /// An object to be created; the store fills in what only it knows. `metadata.name` (and `namespace`) are set from `name`.
    #[must_use]
    pub fn new(kind: Kind, name: impl Into<String>, mut value: Value) -> Self {
        let name = name.into();
        if let Some(object) = value.as_object_mut() {
            object
                .entry("apiVersion")
                .or_insert_with(|| Value::String(kind.api_version().to_owned()));
            object
                .entry("kind")
                .or_insert_with(|| Value::String(kind.as_str().to_owned()));
            let metadata = object
                .entry("metadata")
                .or_insert_with(|| Value::Object(serde_json::Map::new()));
            if let Some(metadata) = metadata.as_object_mut() {
                match name.split_once('/') {
                    Some((namespace, name)) => {
                        metadata
                            .insert("namespace".to_owned(), Value::String(namespace.to_owned()));
                        metadata.insert("name".to_owned(), Value::String(name.to_owned()));
                    }
                    None => {
                        metadata.insert("name".to_owned(), Value::String(name.clone()));
                    }
                }
            }
        }
        Self {
            kind,
            name,
            resource_version: String::new(),
            uid: String::new(),
            source: String::new(),
            value,
        }
    }

    /// `spec`, or null.
    #[must_use]
    pub fn spec(&self) -> &Value {
        self.value.get("spec").unwrap_or(&Value::Null)
    }

    /// `Kind name`, for messages.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }
}

/// The objects of a text such as the directory store reads: YAML or JSON, several documents, lists. What cannot be understood is
/// left out. `place` names the text in the objects' `source`.
#[must_use]
pub fn objects_of_list(place: &str, text: &str) -> Vec<Object> {
    document::read(place, text)
        .into_iter()
        .flat_map(|document| match document.content {
            document::Content::Objects { objects, .. } => objects,
            document::Content::Empty | document::Content::Foreign | document::Content::Fault(_) => {
                Vec::new()
            }
        })
        .map(|stored| stored.object)
        .collect()
}

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Create: the object is there already.
    #[error("{kind} {name} already exists")]
    AlreadyExists {
        /// Of which kind.
        kind: Kind,
        /// Which.
        name: String,
    },
    /// Update or delete: the object is another version than the caller read.
    #[error(
        "{kind} {name} was changed by somebody else: expected version {expected}, found {found}"
    )]
    Conflict {
        /// Of which kind.
        kind: Kind,
        /// Which.
        name: String,
        /// The caller's version.
        expected: String,
        /// The store's version.
        found: String,
    },
    /// Update or delete: there is no such object.
    #[error("{kind} {name} does not exist")]
    NotFound {
        /// Of which kind.
        kind: Kind,
        /// Which.
        name: String,
    },
    /// The object cannot be stored as it is.
    #[error("{kind} {name}: {reason}")]
    Unacceptable {
        /// Of which kind.
        kind: Kind,
        /// Which.
        name: String,
        /// Why.
        reason: String,
    },
    /// The store does not answer, for now or for good.
    #[error("datastore {place}: {reason}")]
    Unavailable {
        /// The directory or file.
        place: String,
        /// What the system said.
        reason: String,
    },
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// The object is there, new or changed.
    Applied(Object),
    /// The object is gone.
    Deleted(Kind, String),
    /// Everything there was at the start has been told. Comes once.
    InitDone,
    /// A place cannot be understood; what it held counts as absent and nothing else is disturbed. Told once per change of the fault.
    Invalid {
        /// The file and, where several documents are in it, which one.
        source: String,
        /// The field, where known.
        field: Option<String>,
        /// What is wrong.
        reason: String,
    },
    /// The place is understood again, or is gone.
    ValidAgain {
        /// As in [`Invalid`](Self::Invalid).
        source: String,
    },
}

/// The datastore in use. Cheap to clone; all clones are one store.
#[derive(Clone, Debug)]
pub enum Store {
    /// A directory of YAML files.
    Directory(DirectoryStore),
}

impl Store {
    /// Opens a directory as a store, creating it where missing. It is read by a thread of its own; reading starts at once.
    ///
    /// # Errors
    /// When the directory cannot be created or read.
    pub async fn open_directory(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        DirectoryStore::open(path.as_ref())
            .await
            .map(Self::Directory)
    }

    /// Names a directory that may not be there yet, for a daemon that must start all the same. Every request fails with
    /// [`StoreError::Unavailable`] until the directory can be read.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn connect_directory(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        DirectoryStore::connect(path.as_ref()).map(Self::Directory)
    }

    /// Reads one object; `None` where there is none.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn get(&self, kind: Kind, name: &str) -> Result<Option<Object>, StoreError> {
        match self {
            Self::Directory(store) => store.get(kind, name).await,
        }
    }

    /// Reads every object of a kind, sorted by name.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn list(&self, kind: Kind) -> Result<Vec<Object>, StoreError> {
        match self {
            Self::Directory(store) => store.list(kind).await,
        }
    }

    /// Stores a new object and returns it as stored, with uid, creation time and version.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] when there is one of that name.
    pub async fn create(&self, object: Object) -> Result<Object, StoreError> {
        match self {
            Self::Directory(store) => store.create(object).await,
        }
    }

    /// Replaces an object if it still is the version given, and returns it as stored.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when somebody else changed it, [`StoreError::NotFound`] when it is gone.
    pub async fn update(&self, object: Object) -> Result<Object, StoreError> {
        match self {
            Self::Directory(store) => store.update(object).await,
        }
    }

    /// Removes an object, if a version is given only that one.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is gone already, [`StoreError::Conflict`] when it is another version.
    pub async fn delete(
        &self,
        kind: Kind,
        name: &str,
        resource_version: Option<&str>,
    ) -> Result<(), StoreError> {
        match self {
            Self::Directory(store) => store.delete(kind, name, resource_version).await,
        }
    }

    /// Everything there is, then everything that changes.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn watch(&self) -> Result<Watch, StoreError> {
        match self {
            Self::Directory(store) => store.watch().await,
        }
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(store) => write!(f, "directory:{}", store.path().display()),
        }
    }
}
