//! The daemon and plugin socket.
