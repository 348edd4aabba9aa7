//! The margay daemon of a node.

pub mod api;
pub mod cli;
pub mod config;
pub mod datastore;
pub mod desired;
pub mod endpoints;
pub mod health;
pub mod ipam;
pub mod kernel;
pub mod metrics;
pub mod model;
pub mod reconcile;
pub mod routing;
pub mod server;
pub mod watch;
