//! What peers are told, for collectors (RFC 8671): a mirror of each session in the group its peer is in, for each collector that
//! wants it.
//!
//! A mirror reads what its peer is told, octet by octet, when the collector has room: what changed several times meanwhile is told
//! once, as by a peer that reads slowly, and a journal that nobody has read to its end has an entry a prefix at most. It is there
//! while the session is: it comes after Peer Up was queued and goes before Peer Down is, and moves along when its peer moves to
//! another group.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Instant;

use bytes::BytesMut;

use super::neighbour::Session;
use super::{Speaker, Tables, with_rib, with_rib_ref};
use crate::bmp::message::{self, PeerHeader};
use crate::bmp::{Mirror, Monitor, MonitorId};
use crate::family::Family;
use crate::rib::Slot;
use crate::rib::adj_rib_out::{Entrance, Group, MemberId};

/// Mirrors that have a turn in one go.
const TURNS: usize = 64;
/// How often one is read in a row, with maybe nothing to show for it, before others have a turn.
const FRUITLESS: usize = 4;

impl Speaker {
    /// Mirrors of every session, for a collector that has just connected.
    pub(super) fn mirror_everybody(&mut self, monitor: &mut Monitor) {
        if !monitor.collector.adj_rib_out {
            return;
        }
        for slot in self.slots() {
            for family in Family::ALL {
                self.mirror(monitor, slot, family, Entrance::INITIAL);
            }
        }
    }

    /// A session came up.
    pub(super) fn mirror_peer(&mut self, slot: Slot) {
        self.with_mirroring(|speaker, monitor| {
            for family in Family::ALL {
                speaker.mirror(monitor, slot, family, Entrance::INITIAL);
            }
        });
    }

    /// Before a peer leaves its group for another one. Returns how its mirrors come into that.
    pub(super) fn carry_mirrors(
        &mut self,
        slot: Slot,
        family: Family,
    ) -> Vec<(MonitorId, Entrance)> {
        let tables = &mut self.tables;
        let carried = self.monitors.iter_mut().filter_map(|monitor| {
            let entrance = leave(tables, &mut monitor.mirrors, slot, family, true)?;
            Some((monitor.id, entrance))
        });
        carried.collect()
    }

    /// The peer is in its new group: its mirrors follow.
    pub(super) fn move_mirrors(
        &mut self,
        slot: Slot,
        family: Family,
        carried: Vec<(MonitorId, Entrance)>,
    ) {
        let mut carried: BTreeMap<MonitorId, Entrance> = carried.into_iter().collect();
        self.with_mirroring(|speaker, monitor| {
            if let Some(entrance) = carried.remove(&monitor.id) {
                speaker.mirror(monitor, slot, family, entrance);
            }
        });
    }

    /// The collector is gone.
    pub(super) fn end_mirrors(&mut self, mut monitor: Monitor) {
        let names: Vec<(Family, Slot)> = monitor.mirrors.keys().copied().collect();
        for (family, slot) in names {
            leave(&mut self.tables, &mut monitor.mirrors, slot, family, false);
        }
    }

    /// Every collector that wants what peers are told, taken out of the speaker for as long as something is done with it.
    fn with_mirroring(&mut self, mut each: impl FnMut(&mut Self, &mut Monitor)) {
        let mut monitors = std::mem::take(&mut self.monitors);
        for monitor in &mut monitors {
            if monitor.collector.adj_rib_out {
                each(self, monitor);
            }
        }
        self.monitors = monitors;
    }

    fn mirror(&mut self, monitor: &mut Monitor, slot: Slot, family: Family, entrance: Entrance) {
        let session = self.neighbour(slot).and_then(|of| of.session.as_ref());
        let Some(group) = session
            .and_then(|session| session.family(family))
            .map(|carried| carried.group)
        else {
            return;
        };
        let facts = self.tables.facts.get(usize::from(slot));
        let router_id = facts.map_or(0, |facts| facts.router_id);
        let member = with_rib!(self.tables, family, |rib| rib
            .mirror(group, slot, router_id, entrance));
        if let Some(member) = member {
            let mirror = Mirror { group, member };
            monitor.mirrors.insert((family, slot), mirror);
        }
    }

    /// Writes what peers were told since the collector's mirrors read last, up to some length. True where there is more.
    pub(super) fn read_mirrors(
        &mut self,
        monitor: &mut Monitor,
        limit: usize,
        now: Instant,
        out: &mut BytesMut,
    ) -> bool {
        let turns: Vec<((Family, Slot), Mirror)> = self
            .in_turn(monitor)
            .filter(|((family, _), mirror)| self.with_group(*family, *mirror, Group::has_more))
            .take(TURNS)
            .collect();
        let options = self.decision_options();
        for ((family, slot), mirror) in &turns {
            monitor.mirror_turn = Some((*family, *slot));
            monitor.mirrors_read = true;
            for _ in 0..FRUITLESS {
                if out.len() >= limit {
                    return true;
                }
                let Mirror { group, member } = *mirror;
                let (octets, unsendable, more) = self.tables.pull(*family, group, member, options);
                let neighbour = self
                    .neighbours
                    .get(usize::from(*slot))
                    .and_then(Option::as_deref);
                let Some((neighbour, session)) =
                    neighbour.and_then(|of| Some((of, of.session.as_ref()?)))
                else {
                    break;
                };
                // The peer itself finds what was encoded here, and no fault in it.
                let (departed, outputs) = (&mut self.departed, &mut self.outputs);
                super::tell::note_unsendable(neighbour, *family, unsendable, departed, outputs);
                let header = header(session, monitor, now);
                for octets in octets {
                    message::route_monitoring(&header, &octets, out);
                }
                if !more || !self.with_group(*family, *mirror, Group::walks_alone) {
                    break;
                }
            }
        }
        !turns.is_empty()
    }

    /// The collector's mirrors by turns, a chunk each: who stands where another stood before shares what was encoded for that one.
    /// Who shares its walk with nobody ends it first, so that there is one list of such a walk at a time.
    fn in_turn<'a>(
        &self,
        monitor: &'a Monitor,
    ) -> impl Iterator<Item = ((Family, Slot), Mirror)> + 'a {
        let last = monitor.mirror_turn;
        let goes_on = last
            .and_then(|name| Some((name.0, *monitor.mirrors.get(&name)?)))
            .is_some_and(|(family, mirror)| self.with_group(family, mirror, Group::walks_alone));
        let (from, to) = match last {
            None => (Bound::Unbounded, Bound::Excluded(FIRST)),
            Some(name) if goes_on => (Bound::Included(name), Bound::Excluded(name)),
            Some(name) => (Bound::Excluded(name), Bound::Included(name)),
        };
        let behind = monitor.mirrors.range((from, Bound::Unbounded));
        let before = monitor.mirrors.range((Bound::Unbounded, to));
        behind.chain(before).map(|(name, mirror)| (*name, *mirror))
    }

    fn with_group(
        &self,
        family: Family,
        mirror: Mirror,
        asked: impl Fn(&Group, MemberId) -> bool,
    ) -> bool {
        with_rib_ref!(self.tables, family, |rib| rib
            .group(mirror.group)
            .is_some_and(|group| asked(group, mirror.member)))
    }
}

/// No mirror has a name before this one.
const FIRST: (Family, Slot) = (Family::IPV4_UNICAST, 0);

/// Before a peer leaves its group, or the collector goes: a mirror leaves. Returns how it comes into another group where asked to.
pub(super) fn leave(
    tables: &mut Tables,
    mirrors: &mut BTreeMap<(Family, Slot), Mirror>,
    slot: Slot,
    family: Family,
    carry: bool,
) -> Option<Entrance> {
    let Mirror { group, member } = mirrors.remove(&(family, slot))?;
    let store = &mut tables.store;
    with_rib!(tables, family, |rib| rib.leave(group, member, carry, store))
}

fn header(session: &Session, monitor: &Monitor, now: Instant) -> PeerHeader {
    PeerHeader {
        adj_rib_out: true,
        two_octet_as: !session.negotiated.context.four_octet_as,
        ..super::monitoring::header(session, true, monitor.wall(now))
    }
}
