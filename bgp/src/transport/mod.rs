//! The speaker on tokio sockets.
