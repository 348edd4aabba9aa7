//! The plugin's socket.
