//! What is told: changes of routes and sessions to whoever listens, events to the log.

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::Driver;
use crate::speaker::TableEvent;
use crate::speaker::events::{Origin, PeerEventKind};
use crate::transport::SpeakerEvent;

/// Changes of routes in one event.
const CHANGES: usize = 4096;

impl Driver {
    /// Writes the events since the last call to the log, and wakes whoever follows them.
    pub(super) fn log_events(&mut self) {
        let last = self.speaker.last_event();
        if last == self.logged {
            return;
        }
        for event in self.speaker.events_after(self.logged) {
            let peer = &*event.peer;
            match &event.kind {
                PeerEventKind::State { from, to, cause } => match cause {
                    Some(cause) => info!(
                        peer, %from, %to, by = Origin::of(cause).name(), reason = %cause, "state"
                    ),
                    None => info!(peer, %from, %to, "state"),
                },
                PeerEventKind::Malformed {
                    reason,
                    action,
                    prefixes,
                    octets,
                    length,
                    more,
                } => {
                    let prefixes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
                    warn!(
                        peer,
                        reason,
                        action = action.name(),
                        prefixes = prefixes.join(" "),
                        octets = format!("{octets:x}"),
                        length,
                        more,
                        "malformed message"
                    );
                }
                // Logged when it was carried out.
                PeerEventKind::Warning(_) => {}
                PeerEventKind::Path {
                    from,
                    to,
                    diagnostic,
                    by,
                } => info!(peer, %from, %to, by = by.name(), %diagnostic, "path"),
                PeerEventKind::Removed(why) => info!(peer, %why, "removed"),
            }
        }
        self.logged = last;
        self.latest_event.send_replace(last);
    }

    /// Passes news on as far as there is room.
    pub(super) fn tell(&mut self) {
        loop {
            let permit = match self.events.try_reserve() {
                Ok(permit) => Some(permit),
                Err(mpsc::error::TrySendError::Full(())) => {
                    self.blocked = true;
                    return;
                }
                // Nobody listens: news must not pile up all the same.
                Err(mpsc::error::TrySendError::Closed(())) => None,
            };
            let event = if let Some((name, (from, to))) = self.states.pop_first() {
                if from == to {
                    continue;
                }
                SpeakerEvent::PeerStateChanged { name, from, to }
            } else if let Some(first) = self.speaker.poll_next_hop() {
                let mut interests = vec![first];
                while interests.len() < CHANGES
                    && let Some(next) = self.speaker.poll_next_hop()
                {
                    interests.push(next);
                }
                SpeakerEvent::NextHops(interests)
            } else {
                match self.speaker.poll_table_event(CHANGES) {
                    Some(TableEvent::Changes(changes)) => SpeakerEvent::Routes(changes),
                    Some(TableEvent::Complete(family)) => SpeakerEvent::TableComplete(family),
                    None => break,
                }
            };
            if let Some(permit) = permit {
                permit.send(event);
            }
        }
        self.blocked = false;
    }
}
