//! Calico's objects as types.

pub mod block_affinity;
pub mod ip_reservation;
pub mod ipam_block;
pub mod ipam_config;
pub mod ipam_handle;
mod lenient;
