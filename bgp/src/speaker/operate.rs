//! What operators ask of a running speaker.

use std::time::Instant;

use super::{Clear, Speaker, SpeakerShutdown};
use crate::fsm::{Event, Shutdown};
use crate::rib::Slot;
use crate::rib::table::Walk;

impl Speaker {
    /// Clears the peer of this name, or every dynamic peer of the range of this name. False where there is none.
    pub fn clear(&mut self, name: &str, clear: Clear, now: Instant) -> bool {
        self.clear_saying(name, clear, None, now)
    }

    /// The same, with a text for the operators there where it ends a session (RFC 9003).
    pub fn clear_saying(
        &mut self,
        name: &str,
        clear: Clear,
        text: Option<&str>,
        now: Instant,
    ) -> bool {
        self.settle();
        let named = |slot: &Slot| {
            self.neighbour(*slot).is_some_and(|neighbour| {
                !neighbour.leaving
                    && (*neighbour.name == *name || neighbour.range.as_deref() == Some(name))
            })
        };
        let slots: Vec<Slot> = self.slots().filter(named).collect();
        for slot in &slots {
            match clear {
                Clear::Hard => {
                    if let Some(neighbour) = self.neighbour_mut(*slot) {
                        let shutdown = Shutdown::AdministrativeReset {
                            text: text.map(str::to_owned),
                            hard: true,
                        };
                        neighbour.fsm.handle_event(now, Event::Reset(shutdown));
                        // A peer that rests until told otherwise, after too many prefixes say, is told now.
                        if neighbour.config.enabled {
                            neighbour.fsm.handle_event(now, Event::Start);
                        }
                    }
                    self.drain(*slot, now);
                }
                Clear::SoftIn => {
                    self.queue_import(*slot);
                    if let Some(neighbour) = self.neighbour_mut(*slot) {
                        neighbour.fsm.handle_event(now, Event::AskAgain);
                    }
                    self.drain(*slot, now);
                }
                Clear::SoftOut => self.retell(*slot),
            }
        }
        !slots.is_empty()
    }

    pub(super) fn queue_import(&mut self, slot: Slot) {
        self.tables.ipv4.table.queue_walk(slot, Walk::Import);
        self.tables.ipv6.table.queue_walk(slot, Walk::Import);
    }

    /// Ends every session for good.
    pub fn shutdown(&mut self, how: &SpeakerShutdown, now: Instant) {
        self.settle();
        self.stopped = true;
        for slot in self.slots() {
            if let Some(neighbour) = self.neighbour_mut(slot) {
                let shutdown = match how {
                    SpeakerShutdown::KeepForwarding => Shutdown::Silent,
                    SpeakerShutdown::Cease { text } => {
                        Shutdown::Administrative { text: text.clone() }
                    }
                };
                neighbour.fsm.handle_event(now, Event::Stop(shutdown));
            }
            self.drain(slot, now);
        }
    }
}
