//! What the kernel's error numbers mean to us.

use nix::errno::Errno;

use super::KernelError;

/// The meaning of an errno that answered a request, with the kernel's own words if it gave any.
pub(super) fn refused(what: &'static str, errno: i32, words: Option<String>) -> KernelError {
    let code = Errno::from_raw(errno);
    let message = words.unwrap_or_else(|| code.desc().to_owned());
    match errno {
        nix::libc::EEXIST => KernelError::Exists,
        // ESRCH is how the routing tables say ENOENT.
        nix::libc::ESRCH | nix::libc::ENOENT => KernelError::NotFound,
        nix::libc::ENODEV | nix::libc::ENXIO => {
            KernelError::NoLink("with this index (it is gone)".to_owned())
        }
        nix::libc::ENETDOWN => KernelError::LinkDown,
        nix::libc::ENETUNREACH | nix::libc::EHOSTUNREACH => KernelError::Unreachable,
        nix::libc::EPERM | nix::libc::EACCES => KernelError::NotPermitted,
        // IPv6 and newer IPv4 kernels answer EINVAL to a gateway that no connected subnet covers.
        nix::libc::EINVAL if message.contains("gateway") => KernelError::Unreachable,
        _ => KernelError::Refused {
            what,
            errno,
            message,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn esrch_and_enoent_are_not_found() {
        assert_eq!(
            refused("route", nix::libc::ESRCH, None),
            KernelError::NotFound
        );
        assert_eq!(
            refused("route", nix::libc::ENOENT, None),
            KernelError::NotFound
        );
    }

    #[test]
    fn invalid_gateway_is_unreachable() {
        let words = Some("Nexthop has invalid gateway".to_owned());
        assert_eq!(
            refused("route", nix::libc::EINVAL, words),
            KernelError::Unreachable
        );
    }

    #[test]
    fn other_errors_keep_number_and_words() {
        let error = refused(
            "route",
            nix::libc::EINVAL,
            Some("Invalid prefix".to_owned()),
        );
        assert_eq!(error.to_string(), "route: Invalid prefix (errno 22)");
    }
}
