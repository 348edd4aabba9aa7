//! The margay daemon of a node.
//!
//! [`agent`] wires the rooms: Config → build → run → drain. Each room's task is owned here and awaited at the end; the order of
//! the end is that of the builds reversed, so that nobody talks to a task that is gone. Nothing that forwards packets is taken back.

pub mod api;
pub mod cli;
pub mod config;
pub mod datastore;
mod descriptors;
pub mod desired;
pub mod endpoints;
pub mod health;
pub mod ipam;
pub mod kernel;
pub mod metrics;
pub mod model;
mod next_hops;
pub mod reconcile;
mod router;
pub mod routing;
pub mod server;
pub mod watch;
mod wiring;

pub use router::speaker;
pub use wiring::{agent, read_cluster};
