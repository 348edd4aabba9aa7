//! The state table of RFC 4271 §8.2.2, cell by cell, with the departures named in `fsm/mod.rs`.
//!
//! Not here because margay has no such event: 11 (KEEPALIVEs are sent by the connection's task).

mod active;
mod established;
mod opening;
mod rests;
mod told;

use super::*;
use crate::codec::DecodeError;

fn malformed(lab: &mut Lab) {
    lab.event(Event::Malformed {
        direction: Outgoing,
        error: DecodeError::MessageType(9),
    });
}
