//! What the daemon serves: the CNI plugin, the command line, metrics and health.

mod accept;
pub mod admin;
pub mod answer;
pub mod cni;
pub mod control;
mod events;
mod explain;
mod http;
mod shown;
