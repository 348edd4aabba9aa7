//! A BGP-4 speaker as a library: a sans-I/O core and a tokio transport.

pub mod asn;
pub mod bfd;
pub mod bmp;
pub mod codec;
pub mod decision;
pub mod family;
pub mod fsm;
pub mod graceful_restart;
pub mod policy;
pub mod prefix;
pub mod rib;
pub mod router_id;
pub mod speaker;
#[cfg(feature = "transport")]
pub mod transport;
