//! The command line's socket.
