//! Where a lab keeps its logs and configurations: `target/labs/<name>-<pid>`, kept when it failed.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

/// Environment variable naming the folder under which labs keep theirs.
pub const LABS_VARIABLE: &str = "MARGAY_LAB_DIR";

/// A file in each lab's folder, locked for as long as the lab lives: a PID would say nothing in another PID namespace.
const ALIVE: &str = ".alive";

/// The locks this process holds until it ends.
static HELD: Mutex<Vec<Flock<File>>> = Mutex::new(Vec::new());

/// Folders of finished labs that are kept for reading.
const KEPT: usize = 8;

/// The folder that holds every lab's folder.
#[must_use]
pub fn labs_folder() -> PathBuf {
    env::var_os(LABS_VARIABLE).map_or_else(|| target_folder().join("labs"), PathBuf::from)
}

/// The checkout this binary was built from, or the one above where it lies.
#[must_use]
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

fn target_folder() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout().join("target"), PathBuf::from)
}

/// Makes the folder of a lab; `owner` is the process whose death ends the lab, as seen on the host.
///
/// Old folders of labs whose owner is gone are removed, all but the newest few.
///
/// # Errors
/// When the folder cannot be made.
pub fn create(name: &str, owner: u32) -> Result<PathBuf> {
    let labs = labs_folder();
    fs::create_dir_all(&labs).with_context(|| labs.display().to_string())?;
    prune(&labs);
    let folder = labs.join(format!("{name}-{owner}"));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    if let (Some(lock), Ok(mut held)) = (lock(&folder), HELD.lock()) {
        held.push(lock);
    }
    Ok(folder)
}

fn prune(labs: &Path) {
    let Ok(entries) = fs::read_dir(labs) else {
        return;
    };
    let mut finished: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| lock(&entry.path()).is_some())
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    finished.sort_by_key(|(modified, _)| std::cmp::Reverse(*modified));
    for (_, folder) in finished.into_iter().skip(KEPT) {
        let _ = fs::remove_dir_all(folder);
    }
}

/// The lock of a lab's folder, unless a living lab holds it.
fn lock(folder: &Path) -> Option<Flock<File>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join(ALIVE))
        .ok()?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
}
