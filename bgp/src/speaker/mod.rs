//! Every peer and table behind one face.

pub mod config;
pub mod snapshot;
