//! The cluster's objects, written as Calico users write them, into a directory datastore.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

/// A directory datastore as `kubectl apply` would see it: whole objects in, whole objects out.
#[derive(Clone, Debug)]
pub struct Objects {
    folder: PathBuf,
}

impl Objects {
    /// Opens (and makes) the folder.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Creates or replaces an object. `kind` is the lower-case plural: `ippools`, `bgppeers` …
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn apply(&self, kind: &str, name: &str, yaml: &str) -> Result<()> {
        let folder = self.folder.join(kind);
        fs::create_dir_all(&folder)?;
        // A file that appears whole: readers never see half an object, and names starting with a dot are no objects.
        let scratch = folder.join(format!(".{name}.lab"));
        fs::write(&scratch, yaml)?;
        fs::rename(&scratch, self.file(kind, name)).with_context(|| format!("{kind}/{name}"))
    }

    /// Changes an object in place, as `kubectl patch` would: what others wrote into it stays.
    ///
    /// # Errors
    /// When there is none, or it cannot be read or written.
    pub fn patch(&self, kind: &str, name: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
        let file = self.file(kind, name);
        // The lock every writer of a directory datastore holds, so that no agent's change is lost.
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.folder.join(".margay-lock"))?;
        let _held = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        let text = fs::read_to_string(&file).with_context(|| format!("{kind}/{name}"))?;
        let mut value: Value =
            serde_saphyr::from_str(&text).with_context(|| format!("{kind}/{name}: {text}"))?;
        change(&mut value);
        // JSON is YAML.
        self.apply(kind, name, &serde_json::to_string_pretty(&value)?)
    }

    /// Removes an object.
    ///
    /// # Errors
    /// When there is none.
    pub fn delete(&self, kind: &str, name: &str) -> Result<()> {
        fs::remove_file(self.file(kind, name)).with_context(|| format!("{kind}/{name}"))
    }

    /// The text of an object, if it is there.
    #[must_use]
    pub fn text(&self, kind: &str, name: &str) -> Option<String> {
        fs::read_to_string(self.file(kind, name)).ok()
    }

    /// Names of the objects of a kind.
    #[must_use]
    pub fn names(&self, kind: &str) -> Vec<String> {
        let entries = fs::read_dir(self.folder.join(kind))
            .into_iter()
            .flatten()
            .flatten();
        let mut names: Vec<_> = entries
            .filter_map(|entry| {
                Some(
                    entry
                        .file_name()
                        .to_str()?
                        .strip_suffix(".yaml")?
                        .to_owned(),
                )
            })
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        names
    }

    /// Copies everything into another folder: a view of the cluster that no longer changes.
    ///
    /// # Errors
    /// When a file cannot be copied.
    pub fn copy_to(&self, folder: &Path) -> Result<Self> {
        copy(&self.folder, folder)?;
        Ok(Self {
            folder: folder.to_path_buf(),
        })
    }

    fn file(&self, kind: &str, name: &str) -> PathBuf {
        self.folder.join(kind).join(format!("{name}.yaml"))
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else if entry.file_type()?.is_file() {
            match fs::copy(entry.path(), &target) {
                Ok(_) => {}
                // An agent may have replaced a scratch file meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).context(entry.path().display().to_string()),
            }
        }
    }
    Ok(())
}
