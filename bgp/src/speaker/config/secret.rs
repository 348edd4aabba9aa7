//! Keys of TCP-MD5 and TCP-AO, which never show.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// The longest TCP-MD5 key the kernel takes, in octets (`TCP_MD5SIG_MAXKEYLEN`).
pub const MAX_SECRET_LEN: usize = 80;

/// A key that never shows: neither `Debug` nor any other trait prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// From the octets of a password.
    ///
    /// # Errors
    /// An empty key would mean no protection, and the kernel takes no more than [`MAX_SECRET_LEN`] octets.
    pub fn new(octets: impl AsRef<[u8]>) -> Result<Self, SecretError> {
        let octets = octets.as_ref();
        if octets.is_empty() {
            Err(SecretError::Empty)
        } else if octets.len() > MAX_SECRET_LEN {
            Err(SecretError::TooLong(octets.len()))
        } else {
            Ok(Self(octets.into()))
        }
    }

    /// The key itself, for the socket option and nothing else.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Why octets are no usable key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SecretError {
    /// No octets.
    #[error("an empty password protects nothing: expected 1 to 80 octets")]
    Empty,
    /// More octets than the kernel takes.
    #[error("a password of {0} octets is longer than the kernel takes: expected 1 to 80 octets")]
    TooLong(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_in_debug_output() {
        let secret = Secret::new("hunter2").expect("a usable key");
        assert_eq!(format!("{secret:?}"), "Secret");
    }

    #[test]
    fn a_secret_is_neither_empty_nor_longer_than_the_kernel_takes() {
        assert_eq!(Secret::new(""), Err(SecretError::Empty));
        assert_eq!(Secret::new([7; 81]), Err(SecretError::TooLong(81)));
        assert!(Secret::new([7; 80]).is_ok());
    }
}
