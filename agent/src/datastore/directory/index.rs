//! What is in the files, as last read, and telling watchers what changed.
//!
//! The index knows every definition of an object (a claim); the first by path is the object. Applying a file anew compares winners
//! before and after, so that an event is told exactly when the object people see has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::datastore::document::{self, Content, Document, Stored};
use crate::datastore::files::Signature;
use crate::datastore::queue::{Publisher, watch_channel};
use crate::datastore::{Kind, Object, Watch, WatchEvent};

pub(super) type Key = (Kind, String);

/// Where a definition stands; sorts by path, then by place in the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) path: Arc<Path>,
    pub(super) document: usize,
    pub(super) item: Option<usize>,
}

impl Place {
    /// The place for people. Only a document that is not the first proves that there are several.
    fn describe(&self) -> String {
        describe(&self.path, self.document + 1, self.document, self.item)
    }
}

/// A place in a file for people: the document is named only where there are several.
fn describe(path: &Path, of: usize, document: usize, item: Option<usize>) -> String {
    let path = path.display();
    match (of > 1, item) {
        (false, None) => path.to_string(),
        (false, Some(item)) => format!("{path} (item {})", item + 1),
        (true, None) => format!("{path} (document {})", document + 1),
        (true, Some(item)) => format!("{path} (document {}, item {})", document + 1, item + 1),
    }
}

/// A fault and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlacedFault {
    pub(super) source: String,
    pub(super) field: Option<String>,
    pub(super) reason: String,
}

/// A file as read.
#[derive(Debug)]
pub(super) struct ReadFile {
    pub(super) signature: Signature,
    pub(super) digest: [u8; 20],
    pub(super) claims: Vec<(Key, Place, Stored)>,
    pub(super) faults: Vec<PlacedFault>,
}

impl ReadFile {
    /// Takes the text of a file apart.
    pub(super) fn new(path: &Path, signature: Signature, digest: [u8; 20], octets: &[u8]) -> Self {
        let text = match std::str::from_utf8(octets) {
            Ok(text) => text,
            Err(error) => {
                let line = octets
                    .iter()
                    .take(error.valid_up_to())
                    .filter(|octet| **octet == b'\n')
                    .count()
                    + 1;
                return Self {
                    signature,
                    digest,
                    claims: Vec::new(),
                    faults: vec![PlacedFault {
                        source: path.display().to_string(),
                        field: None,
                        reason: format!("line {line}: is not UTF-8 text"),
                    }],
                };
            }
        };
        let shared: Arc<Path> = Arc::from(path);
        let documents = document::read(&path.display().to_string(), text);
        let of = documents
            .iter()
            .filter(|document| !matches!(document.content, Content::Empty))
            .count();
        let (mut claims, mut faults) = (Vec::new(), Vec::new());
        // Documents are counted as people do, without the empty ones.
        let documents = documents
            .into_iter()
            .filter(|document| !matches!(document.content, Content::Empty));
        for (number, Document { content, .. }) in documents.enumerate() {
            let mut fault = |fault: document::Fault| {
                faults.push(PlacedFault {
                    source: describe(path, of, number, fault.item),
                    field: fault.field,
                    reason: fault.reason,
                });
            };
            match content {
                Content::Empty | Content::Foreign => {}
                Content::Fault(found) => fault(found),
                Content::Objects {
                    objects,
                    faults: found,
                } => {
                    found.into_iter().for_each(fault);
                    for stored in objects {
                        let place = Place {
                            path: Arc::clone(&shared),
                            document: number,
                            item: stored.item,
                        };
                        let key = (stored.object.kind, stored.object.name.clone());
                        claims.push((key, place, stored));
                    }
                }
            }
        }
        Self {
            signature,
            digest,
            claims,
            faults,
        }
    }
}

/// What is remembered of a file.
#[derive(Debug)]
pub(super) struct KnownFile {
    pub(super) signature: Signature,
    pub(super) digest: [u8; 20],
    pub(super) claims: Vec<(Key, Place)>,
    pub(super) faults: Vec<PlacedFault>,
}

impl KnownFile {
    /// Whether a new reading tells bad news: an object is missing, or something is not understood that was not there before.
    pub(super) fn would_lose(&self, read: &ReadFile) -> bool {
        let after: BTreeSet<&Key> = read.claims.iter().map(|(key, ..)| key).collect();
        self.claims.iter().any(|(key, _)| !after.contains(key))
            || read.faults.iter().any(|fault| !self.faults.contains(fault))
    }
}

/// Which version of an object watchers were told.
type Version = (String, String);

#[derive(Debug, Default)]
pub(super) struct Index {
    files: BTreeMap<PathBuf, KnownFile>,
    claims: BTreeMap<Key, BTreeMap<Place, Stored>>,
    /// Places of definitions that do not count, by object.
    duplicates: BTreeMap<Key, BTreeSet<String>>,
    /// Faults told, by place.
    told: BTreeMap<String, (Option<String>, String)>,
    publishers: Vec<Publisher>,
}

impl Index {
    pub(super) fn file(&self, path: &Path) -> Option<&KnownFile> {
        self.files.get(path)
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.keys()
    }

    /// A file was looked at and holds what it held.
    pub(super) fn confirm(&mut self, path: &Path, signature: Signature) {
        if let Some(known) = self.files.get_mut(path) {
            known.signature = signature;
        }
    }

    /// The definitions of an object, the one that counts first.
    pub(super) fn claims(&self, key: &Key) -> impl Iterator<Item = (&Place, &Stored)> {
        self.claims.get(key).into_iter().flatten()
    }

    /// Every object of a kind with the place it is in, by name.
    pub(super) fn objects(&self, kind: Kind) -> impl Iterator<Item = (&Place, &Object)> {
        self.claims
            .range((kind, String::new())..)
            .take_while(move |((of, _), _)| *of == kind)
            .filter_map(|(_, claims)| claims.first_key_value())
            .map(|(place, stored)| (place, &stored.object))
    }

    fn version(&self, key: &Key) -> Option<Version> {
        self.claims(key).next().map(|(_, stored)| {
            (
                stored.object.uid.clone(),
                stored.object.resource_version.clone(),
            )
        })
    }

    /// Replaces what is known of a file; `None`: it is gone.
    pub(super) fn apply(&mut self, path: &Path, read: Option<ReadFile>) {
        let old = self.files.remove(path);
        let mut affected: BTreeMap<Key, Option<Version>> = BTreeMap::new();
        let keys = old
            .iter()
            .flat_map(|known| known.claims.iter().map(|(key, _)| key))
            .chain(
                read.iter()
                    .flat_map(|read| read.claims.iter().map(|(key, ..)| key)),
            );
        for key in keys {
            if !affected.contains_key(key) {
                affected.insert(key.clone(), self.version(key));
            }
        }
        let old_faults = old.map_or_else(Vec::new, |known| {
            for (key, place) in known.claims {
                if let Some(claims) = self.claims.get_mut(&key) {
                    claims.remove(&place);
                    if claims.is_empty() {
                        self.claims.remove(&key);
                    }
                }
            }
            known.faults
        });
        let new_faults = read.map_or_else(Vec::new, |read| {
            let mut places = Vec::with_capacity(read.claims.len());
            for (key, place, stored) in read.claims {
                places.push((key.clone(), place.clone()));
                self.claims.entry(key).or_default().insert(place, stored);
            }
            let faults = read.faults.clone();
            self.files.insert(
                path.to_owned(),
                KnownFile {
                    signature: read.signature,
                    digest: read.digest,
                    claims: places,
                    faults: read.faults,
                },
            );
            faults
        });
        for fault in &old_faults {
            if !new_faults.iter().any(|new| new.source == fault.source) {
                self.clear_fault(&fault.source);
            }
        }
        for fault in new_faults {
            self.set_fault(fault.source, fault.field, fault.reason);
        }
        for (key, before) in affected {
            self.tell_change(&key, before);
            self.tell_duplicates(&key);
        }
    }

    fn tell_change(&mut self, key: &Key, before: Option<Version>) {
        let after = self.version(key);
        if before == after {
            return;
        }
        let event = self.claims(key).next().map_or_else(
            || WatchEvent::Deleted(key.0, key.1.clone()),
            |(_, stored)| WatchEvent::Applied(stored.object.clone()),
        );
        self.publish(&event);
    }

    fn tell_duplicates(&mut self, key: &Key) {
        let winner = self.claims(key).next().map(|(_, winner)| winner);
        let wanted: BTreeMap<String, String> = self
            .claims(key)
            .skip(1)
            .zip(winner.into_iter().cycle())
            .map(|((place, loser), winner)| {
                (
                    format!("{}: {}", place.describe(), loser.object.title()),
                    format!(
                        "is already defined at {}; this definition is not used: remove one of them",
                        winner.object.source
                    ),
                )
            })
            .collect();
        let before = self.duplicates.remove(key).unwrap_or_default();
        for source in before.iter().filter(|source| !wanted.contains_key(*source)) {
            self.clear_fault(source);
        }
        if !wanted.is_empty() {
            self.duplicates
                .insert(key.clone(), wanted.keys().cloned().collect());
        }
        for (source, reason) in wanted {
            self.set_fault(source, Some("metadata.name".to_owned()), reason);
        }
    }

    /// Tells a fault, unless it has been told.
    pub(super) fn set_fault(&mut self, source: String, field: Option<String>, reason: String) {
        let fault = (field, reason);
        if self.told.get(&source) == Some(&fault) {
            return;
        }
        let event = invalid(&source, &fault);
        self.told.insert(source, fault);
        self.publish(&event);
    }

    /// Tells that a fault is mended, if one was told.
    pub(super) fn clear_fault(&mut self, source: &str) {
        if self.told.remove(source).is_some() {
            self.publish(&WatchEvent::ValidAgain {
                source: source.to_owned(),
            });
        }
    }

    fn publish(&mut self, event: &WatchEvent) {
        self.publishers
            .retain(|publisher| publisher.send(event.clone()));
    }

    /// A new watch, told everything there is.
    pub(super) fn watch(&mut self) -> Watch {
        let (publisher, watch) = watch_channel();
        for claims in self.claims.values() {
            if let Some(stored) = claims.values().next() {
                publisher.send(WatchEvent::Applied(stored.object.clone()));
            }
        }
        for (source, fault) in &self.told {
            publisher.send(invalid(source, fault));
        }
        publisher.send(WatchEvent::InitDone);
        self.publishers.push(publisher);
        watch
    }
}

fn invalid(source: &str, (field, reason): &(Option<String>, String)) -> WatchEvent {
    WatchEvent::Invalid {
        source: source.to_owned(),
        field: field.clone(),
        reason: reason.clone(),
    }
}
