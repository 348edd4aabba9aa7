//! The daemon's sockets.

pub mod admin;
pub mod cni;
pub mod control;
