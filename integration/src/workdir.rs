//! Where a lab keeps its logs and configurations: `target/labs/<name>-<pid>`, kept when it failed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// Environment variable naming the folder under which labs keep theirs.
pub const LABS_VARIABLE: &str = "MARGAY_LAB_DIR";

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
    Ok(folder)
}

fn prune(labs: &Path) {
    let Ok(entries) = fs::read_dir(labs) else {
        return;
    };
    let mut finished: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let owner = name
                .to_str()
                .and_then(|name| name.rsplit_once('-'))
                .and_then(|(_, pid)| pid.parse().ok());
            owner.is_some_and(|pid| kill(Pid::from_raw(pid), None).is_err())
        })
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    finished.sort_by_key(|(modified, _)| std::cmp::Reverse(*modified));
    for (_, folder) in finished.into_iter().skip(KEPT) {
        let _ = fs::remove_dir_all(folder);
    }
}
