//! The last good view of the cluster, on the node's own disk.
//!
//! It holds the objects, not the state made of them, so that a newer margay reads an older one's view. Secrets are in it, since a
//! protected session could not come up without them; the file is readable by its owner alone.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::objects::Objects;
use crate::datastore::{Kind, Object, objects_of_list};

/// Where the view is kept.
#[derive(Clone, Debug)]
pub(super) struct View {
    directory: PathBuf,
}

impl View {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self {
            directory: state_dir.join("view"),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.join("cluster.json")
    }

    /// The view as text: a list of objects.
    pub(super) fn text(objects: &Objects) -> String {
        let mut text = String::from("{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[\n");
        for (index, raw) in objects.raw().enumerate() {
            if index > 0 {
                text.push_str(",\n");
            }
            text.push_str(raw);
        }
        text.push_str("\n]}\n");
        text
    }

    /// Replaces the view in one step.
    pub(super) fn save(&self, text: &str) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        let temporary = self.directory.join("cluster.json.new");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        fs::rename(&temporary, self.path())
    }

    /// Whether the view holds the object of a node.
    pub(super) fn has_node(&self, name: &str) -> bool {
        self.load().is_ok_and(|objects| {
            objects
                .iter()
                .any(|object| object.kind == Kind::Node && object.name == name)
        })
    }

    /// The objects of the view; none where there is no view.
    pub(super) fn load(&self) -> io::Result<Vec<Object>> {
        let path = self.path();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(objects_of_list(&path.display().to_string(), &text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}
