//! Creating, updating and deleting, each under the lock of the directory.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::index::Key;
use super::unavailable;
use super::worker::Worker;
use crate::datastore::document::{self, Content, Document, Stored};
use crate::datastore::files::{self, Lock};
use crate::datastore::{Kind, Object, StoreError, emit, metadata};

impl Worker {
    fn lock(&self) -> Result<Lock, StoreError> {
        Lock::acquire(&self.root).map_err(|error| unavailable(&self.root, &error))
    }

    pub(super) fn create(&mut self, object: Object) -> Result<Object, StoreError> {
        let key = (object.kind, object.name.clone());
        check_names(&object)?;
        let _lock = self.lock()?;
        if self.current(&key)?.is_some() {
            return Err(StoreError::AlreadyExists {
                kind: object.kind,
                name: object.name,
            });
        }
        let value = to_store(
            object,
            &metadata::random_uid(),
            Some(metadata::timestamp_now()),
            1,
        )?;
        let path = self.free_path(&key);
        self.write(&path, &emit::yaml(&value))?;
        self.stored_at(&key, &path)
    }

    pub(super) fn update(&mut self, object: Object) -> Result<Object, StoreError> {
        let key = (object.kind, object.name.clone());
        check_names(&object)?;
        let _lock = self.lock()?;
        let found = self.find(&key)?;
        found
            .stored
            .object
            .check_version(&object.resource_version)?;
        if !object.uid.is_empty() && object.uid != found.stored.object.uid {
            return Err(conflict(
                &found.stored.object,
                &object.uid,
                &found.stored.object.uid,
            ));
        }
        let created = found
            .stored
            .object
            .value
            .pointer("/metadata/creationTimestamp")
            .and_then(Value::as_str)
            .map(str::to_owned);
        let uid = found.stored.object.uid.clone();
        let value = to_store(object, &uid, created, found.stored.counter + 1)?;
        let text = found.replaced(Some(value))?;
        self.write(&found.path, &text.unwrap_or_default())?;
        self.stored_at(&key, &found.path)
    }

    pub(super) fn delete(
        &mut self,
        kind: Kind,
        name: &str,
        version: Option<&str>,
    ) -> Result<(), StoreError> {
        let key = (kind, name.to_owned());
        let _lock = self.lock()?;
        let found = self.find(&key)?;
        found
            .stored
            .object
            .check_version(version.unwrap_or_default())?;
        match found.replaced(None)? {
            Some(text) => self.write(&found.path, &text)?,
            None => {
                fs::remove_file(&found.path).map_err(|error| unavailable(&found.path, &error))?;
                self.take_over(&found.path)
                    .map_err(|error| unavailable(&found.path, &error))?;
            }
        }
        Ok(())
    }

    fn write(&mut self, path: &Path, text: &str) -> Result<(), StoreError> {
        files::write_atomically(path, text)
            .and_then(|()| self.take_over(path))
            .map_err(|error| unavailable(path, &error))
    }

    /// The object just written, as everybody will read it.
    fn stored_at(&self, key: &Key, path: &Path) -> Result<Object, StoreError> {
        self.index
            .claims(key)
            .find(|(place, _)| *place.path == *path)
            .map(|(_, stored)| stored.object.clone())
            .ok_or_else(|| StoreError::Unacceptable {
                kind: key.0,
                name: key.1.clone(),
                reason: "does not read back as it was written".to_owned(),
            })
    }

    /// A path for a new object; not the usual one where a file of somebody else's is already there.
    fn free_path(&self, key: &Key) -> PathBuf {
        let first = self.own_path(key);
        let mut path = first.clone();
        let mut number = 1;
        while path.symlink_metadata().is_ok() {
            number += 1;
            path = first.with_file_name(format!("{}.{number}.yaml", files::file_stem(&key.1)));
        }
        path
    }

    /// An object where it stands in its file, read this moment.
    fn find(&mut self, key: &Key) -> Result<Found, StoreError> {
        let not_found = || StoreError::NotFound {
            kind: key.0,
            name: key.1.clone(),
        };
        self.current(key)?.ok_or_else(not_found)?;
        let paths: Vec<PathBuf> = self
            .index
            .claims(key)
            .map(|(place, _)| place.path.to_path_buf())
            .collect();
        for path in paths {
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(unavailable(&path, &error)),
            };
            let mut documents = document::read(&path.display().to_string(), &text);
            let place = documents
                .iter()
                .enumerate()
                .find_map(|(number, document)| match &document.content {
                    Content::Objects { objects, .. } => objects
                        .iter()
                        .find(|stored| stored.object.kind == key.0 && stored.object.name == key.1)
                        .map(|stored| (number, stored.clone())),
                    Content::Empty | Content::Foreign | Content::Fault(_) => None,
                });
            if let Some((number, stored)) = place {
                let others = documents.iter().enumerate().any(|(other, document)| {
                    other != number && !matches!(document.content, Content::Empty)
                });
                let document = documents.swap_remove(number);
                return Ok(Found {
                    path,
                    text,
                    document,
                    others,
                    stored,
                });
            }
        }
        Err(not_found())
    }
}

/// An object and the text around it.
struct Found {
    path: PathBuf,
    text: String,
    document: Document,
    /// The file holds other documents.
    others: bool,
    stored: Stored,
}

impl Found {
    /// The file with the object replaced, or removed; `None`: nothing would be left in it.
    fn replaced(&self, value: Option<Value>) -> Result<Option<String>, StoreError> {
        let span = self.document.span.clone();
        let body = self.text.get(span.clone()).unwrap_or_default();
        let new = match (self.stored.item, value) {
            (None, value) => value,
            (Some(item), value) => self.list_with(body, item, value)?,
        };
        let Some(new) = new else {
            if !self.others {
                return Ok(None);
            }
            let mut text = self.text.clone();
            text.replace_range(span, "");
            return Ok(Some(text));
        };
        let json = self
            .path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let written = if json {
            format!("{new:#}\n")
        } else {
            emit::yaml(&new)
        };
        let (head, tail) = comments_around(body);
        let mut text = String::with_capacity(self.text.len() + written.len());
        text.push_str(self.text.get(..span.start).unwrap_or_default());
        text.push_str(&head);
        text.push_str(&written);
        text.push_str(tail);
        text.push_str(self.text.get(span.end..).unwrap_or_default());
        Ok(Some(text))
    }

    /// The list the object stands in, with the item replaced or removed; `None` where it was the only one.
    fn list_with(
        &self,
        body: &str,
        item: usize,
        value: Option<Value>,
    ) -> Result<Option<Value>, StoreError> {
        let unreadable = |reason: String| StoreError::Unavailable {
            place: self.path.display().to_string(),
            reason,
        };
        let mut list = document::parse_value(body, self.document.line).map_err(unreadable)?;
        let items = list
            .get_mut("items")
            .and_then(Value::as_array_mut)
            .filter(|items| item < items.len())
            .ok_or_else(|| unreadable("has changed while it was read".to_owned()))?;
        match value {
            Some(value) => {
                if let Some(slot) = items.get_mut(item) {
                    *slot = value;
                }
            }
            None => {
                items.remove(item);
            }
        }
        Ok((!items.is_empty()).then_some(list))
    }
}

/// What of a document is kept when its content is replaced: the marker and comments before it, and comments after it.
fn comments_around(body: &str) -> (String, &str) {
    let is_aside = |line: &str| line.trim().is_empty() || line.starts_with('#');
    let mut head = String::new();
    for line in body.split_inclusive('\n') {
        if let Some(after) = line.strip_prefix("---") {
            // Content may begin on the marker's own line.
            let after = after.trim();
            if after.is_empty() || after.starts_with('#') {
                head.push_str(line);
            } else {
                head.push_str("---\n");
                break;
            }
        } else if is_aside(line) || line.starts_with('%') {
            head.push_str(line);
        } else {
            break;
        }
    }
    let mut tail = body.len();
    for line in body.split_inclusive('\n').rev() {
        if !(is_aside(line) || line.trim_end() == "...") {
            break;
        }
        tail -= line.len();
    }
    // The last line of the content may lack its end.
    (head, body.get(tail..).unwrap_or_default())
}

impl Object {
    /// An empty version asks for no check.
    fn check_version(&self, expected: &str) -> Result<(), StoreError> {
        if expected.is_empty() || expected == self.resource_version {
            Ok(())
        } else {
            Err(conflict(self, expected, &self.resource_version))
        }
    }
}

fn conflict(object: &Object, expected: &str, found: &str) -> StoreError {
    StoreError::Conflict {
        kind: object.kind,
        name: object.name.clone(),
        expected: expected.to_owned(),
        found: found.to_owned(),
    }
}

/// Whether the parts of an object's name can be stored.
fn check_names(object: &Object) -> Result<(), StoreError> {
    let unacceptable = |reason: String| StoreError::Unacceptable {
        kind: object.kind,
        name: object.name.clone(),
        reason,
    };
    let (namespace, name) = match object.name.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, object.name.as_str()),
    };
    for (field, part) in [
        ("metadata.namespace", namespace),
        ("metadata.name", Some(name)),
    ] {
        if let Some(part) = part {
            document::checked_name(part)
                .map_err(|reason| unacceptable(format!("{field}: {reason}")))?;
        }
    }
    Ok(())
}

/// The value as it is written: names, identity and counter are the store's, metadata folded where the group does so.
fn to_store(
    object: Object,
    uid: &str,
    created: Option<String>,
    counter: u64,
) -> Result<Value, StoreError> {
    let Object {
        kind, name, value, ..
    } = object;
    let mut value = Object::new(kind, name.clone(), value).value;
    let kind_as_written = |value: &Value| {
        let text = |field| value.get(field).and_then(Value::as_str);
        text("apiVersion")
            .zip(text("kind"))
            .and_then(|(api_version, kind)| Kind::from_api(api_version, kind))
    };
    if kind_as_written(&value) != Some(kind) {
        return Err(StoreError::Unacceptable {
            kind,
            name,
            reason: "`apiVersion` and `kind` are not those of the kind".to_owned(),
        });
    }
    let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Err(StoreError::Unacceptable {
            kind,
            name,
            reason: "`metadata` is not an object".to_owned(),
        });
    };
    meta.insert("uid".to_owned(), Value::from(uid));
    meta.insert(
        "resourceVersion".to_owned(),
        Value::from(counter.to_string()),
    );
    match created {
        Some(created) => {
            meta.insert("creationTimestamp".to_owned(), Value::from(created));
        }
        None => {
            meta.remove("creationTimestamp");
        }
    }
    Ok(metadata::fold(value))
}

#[cfg(test)]
mod tests {
    use super::comments_around;

    #[test]
    fn markers_and_comments_around_a_document_are_found() {
        assert_eq!(
            comments_around("--- # x\n# a\n\nkind: A\n# inside\nspec: 1\n\n# after\n"),
            ("--- # x\n# a\n\n".to_owned(), "\n# after\n")
        );
        assert_eq!(comments_around("--- {a: 1}\n"), ("---\n".to_owned(), ""));
        assert_eq!(comments_around("a: 1"), (String::new(), ""));
        assert_eq!(comments_around("a: 1\n...\n"), (String::new(), "...\n"));
    }
}
