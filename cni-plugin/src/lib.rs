//! The parts of the plugin that the daemon shares.

pub mod protocol;
pub mod spec;
