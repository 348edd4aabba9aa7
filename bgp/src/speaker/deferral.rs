//! A restart of ours: whose routes are awaited before any is selected (RFC 4724 §4.1), and what the end of that changes.

use std::time::Instant;

use super::{LOCAL, Speaker};
use crate::family::{Family, FamilySet};
use crate::graceful_restart::Deferral;

impl Speaker {
    /// Every configured neighbour is awaited for a while, and so is whoever may call from a range: those are not known
    /// before, and stand here as one, in the slot of nobody.
    pub(super) fn await_neighbours(&mut self, now: Instant) {
        let connected_by = now + self.config.connect_grace;
        let callers: FamilySet = self
            .config
            .peers
            .iter()
            .filter(|peer| peer.enabled && peer.remote.is_range())
            .flat_map(|peer| peer.families.iter().copied())
            .collect();
        self.deferral.expect(LOCAL, callers, connected_by);
        for slot in self.slots() {
            if let Some(neighbour) = self
                .neighbours
                .get(usize::from(slot))
                .and_then(Option::as_ref)
                && neighbour.config.enabled
                && neighbour.range.is_none()
            {
                let families = neighbour.config.families.iter().copied().collect();
                self.deferral.expect(slot, families, connected_by);
            }
        }
        self.end_deferral_where_complete(now);
    }

    pub(super) fn end_deferral_where_complete(&mut self, now: Instant) {
        if !self.restarting {
            return;
        }
        let complete = self.deferral.complete();
        if complete.has(Family::IPV4_UNICAST) {
            self.tables.ipv4.end_deferral();
        }
        if complete.has(Family::IPV6_UNICAST) {
            self.tables.ipv6.end_deferral();
        }
        if complete == FamilySet::all() {
            self.restarting = false;
            self.deferral = Deferral::none();
            let identity = self.identity();
            for slot in self.slots() {
                if let Some(neighbour) = self.neighbour_mut(slot) {
                    neighbour.fsm.set_identity(now, identity);
                    self.set_timer(slot);
                }
            }
        }
    }
}
