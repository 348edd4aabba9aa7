//! The directory datastore.

use std::path::{Path, PathBuf};

use super::{Kind, Object, StoreError, Watch};

/// A directory of YAML files as a datastore.
#[derive(Clone, Debug)]
pub struct DirectoryStore {
    path: PathBuf,
}

impl DirectoryStore {
    /// Opens a directory.
    ///
    /// # Errors
    /// When it cannot be created or read.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn absent(&self) -> StoreError {
        StoreError::Unavailable {
            place: self.path.display().to_string(),
            reason: "not yet".to_owned(),
        }
    }

    pub(super) async fn get(&self, _: Kind, _: &str) -> Result<Option<Object>, StoreError> {
        Err(self.absent())
    }
    pub(super) async fn list(&self, _: Kind) -> Result<Vec<Object>, StoreError> {
        Err(self.absent())
    }
    pub(super) async fn create(&self, _: Object) -> Result<Object, StoreError> {
        Err(self.absent())
    }
    pub(super) async fn update(&self, _: Object) -> Result<Object, StoreError> {
        Err(self.absent())
    }
    pub(super) async fn delete(&self, _: Kind, _: &str, _: Option<&str>) -> Result<(), StoreError> {
        Err(self.absent())
    }
    pub(super) async fn watch(&self) -> Result<Watch, StoreError> {
        Err(self.absent())
    }
}
