//! Kernel settings under `/proc/sys`.

use std::io;
use std::path::PathBuf;

use super::KernelError;

/// Reads and writes settings below one root.
#[derive(Debug)]
pub(super) struct Sysctls {
    root: PathBuf,
}

impl Sysctls {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn read(&self, name: &str) -> Result<Option<String>, KernelError> {
        match std::fs::read_to_string(self.path(name)?) {
            Ok(value) => Ok(Some(value.trim_end().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    pub(super) fn write(&self, name: &str, value: &str) -> Result<(), KernelError> {
        // Not `fs::write`: it would create a file where the kernel has no such setting.
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .open(self.path(name)?)
            .map_err(|error| failed(&error))?;
        io::Write::write_all(&mut file, value.as_bytes()).map_err(|error| failed(&error))
    }

    /// `net.ipv4.ip_forward`, or `net/ipv4/conf/vxlan.calico/rp_filter` where a name has dots of its own.
    fn path(&self, name: &str) -> Result<PathBuf, KernelError> {
        let separator = if name.contains('/') { '/' } else { '.' };
        let mut path = self.root.clone();
        for part in name.split(separator) {
            if part.is_empty() || part == "." || part == ".." {
                return Err(KernelError::Io {
                    what: "sysctl",
                    message: format!("{name:?} is not the name of a setting"),
                });
            }
            path.push(part);
        }
        Ok(path)
    }
}

fn failed(error: &io::Error) -> KernelError {
    if error.kind() == io::ErrorKind::NotFound {
        return KernelError::NotFound;
    }
    // A container sees `/proc/sys` read-only unless the host's is mounted.
    let read_only = error.raw_os_error() == Some(nix::libc::EROFS);
    if read_only || error.kind() == io::ErrorKind::PermissionDenied {
        return KernelError::NotPermitted;
    }
    KernelError::Io {
        what: "sysctl",
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sysctls(root: &tempfile::TempDir) -> Sysctls {
        std::fs::create_dir_all(root.path().join("net/ipv4/conf/vxlan.calico")).expect("directory");
        std::fs::write(root.path().join("net/ipv4/ip_forward"), "0\n").expect("file");
        std::fs::write(
            root.path().join("net/ipv4/conf/vxlan.calico/rp_filter"),
            "1\n",
        )
        .expect("file");
        Sysctls::new(root.path().to_owned())
    }

    #[test]
    fn dots_separate_unless_there_are_slashes() {
        let root = tempfile::tempdir().expect("temporary directory");
        let sysctls = sysctls(&root);
        assert_eq!(
            sysctls.read("net.ipv4.ip_forward"),
            Ok(Some("0".to_owned()))
        );
        assert_eq!(
            sysctls.read("net/ipv4/conf/vxlan.calico/rp_filter"),
            Ok(Some("1".to_owned()))
        );
    }

    #[test]
    fn a_missing_setting_reads_as_none_and_is_not_created() {
        let root = tempfile::tempdir().expect("temporary directory");
        let sysctls = sysctls(&root);
        assert_eq!(sysctls.read("net.ipv4.nothing"), Ok(None));
        assert_eq!(
            sysctls.write("net.ipv4.nothing", "1"),
            Err(KernelError::NotFound)
        );
        assert_eq!(sysctls.read("net.ipv4.nothing"), Ok(None));
    }

    #[test]
    fn a_name_cannot_leave_the_root() {
        let root = tempfile::tempdir().expect("temporary directory");
        let sysctls = sysctls(&root);
        assert!(sysctls.read("net/../../etc/passwd").is_err());
        assert!(sysctls.read("/etc/passwd").is_err());
    }
}
