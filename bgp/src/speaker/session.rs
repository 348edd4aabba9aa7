//! What sessions do to the tables: routes that come, stay, go stale and leave.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::errors::Offence;
use super::events::{EventLog, MALFORMED_INTERVAL, PeerEventKind, Subject};
use super::mirrors;
use super::neighbour::{FamilySession, Neighbour, Session};
use super::{Output, Speaker, Tables, with_rib};
use crate::asn::Asn;
use crate::codec::{Nlri, RefreshKind, RouteRefresh, Update};
use crate::family::{Family, FamilySet};
use crate::fsm::{DownReason, Event, Negotiated, PeerWarning};
use crate::graceful_restart::{GRACE, Step, Steps, Terms};
use crate::policy::SourceKind;
use crate::prefix::Prefix;
use crate::rib::adj_rib_out::Entrance;
use crate::rib::attribute_store::PathData;
use crate::rib::import::{self, ImportContext, OwnAddress};
use crate::rib::table::{Incoming, Key, MAX_PATHS, Table, Walk};
use crate::rib::{PeerFacts, Slot};
use crate::router_id::RouterId;
use crate::speaker::config::{
    Binding, LimitAction, LocalAsMode, MaximumPrefixes, PeerConfig, SpeakerConfig,
};

/// How long a peer may take from BoRR to EoRR.
const REFRESH_TIME: Duration = Duration::from_secs(360);
/// Least time between two requests for routes that did not fit the limit: a peer that sends too many and keeps changing them is
/// not asked with every change.
const ASK_INTERVAL: Duration = Duration::from_secs(60);
/// Steps a walk makes between two looks at the budget.
const WALK_STRIDE: usize = 64;
/// Prefixes from which on it pays to look at all of them together first.
const MANY: usize = 16;

impl Speaker {
    // ---- coming and going -----------------------------------------------------------------------------------------

    /// The OPEN of a neighbour is accepted: what it says is lost goes at once (RFC 4724 §4.2).
    pub(super) fn session_opened(&mut self, slot: Slot, negotiated: &Negotiated) {
        let Some(neighbour) = self.neighbour_mut(slot) else {
            return;
        };
        let steps = neighbour.retention.opened(
            negotiated.families.iter().copied().collect(),
            negotiated.peer_graceful_restart.as_ref(),
            negotiated.peer_long_lived.as_deref(),
        );
        self.take_steps(slot, &steps);
    }

    pub(super) fn session_up(&mut self, slot: Slot, negotiated: Arc<Negotiated>, now: Instant) {
        let alone = self
            .neighbour(slot)
            .and_then(|neighbour| self.addresses.get(&neighbour.address.ip()))
            .is_none_or(|sharing| sharing.len() < 2);
        let Some(neighbour) = self.neighbour_mut(slot) else {
            return;
        };
        if neighbour.session.is_some() {
            debug_assert!(false, "a session ends before the next one begins");
            return;
        }
        let families: FamilySet = negotiated.families.iter().copied().collect();
        neighbour.established_count += 1;
        neighbour.trouble = None;
        neighbour.address = match neighbour.range {
            Some(_) => negotiated.remote,
            None => neighbour.address,
        };
        let called = negotiated.direction.is_incoming();
        neighbour.retention.established();
        neighbour.session = Some(Session {
            negotiated: Arc::clone(&negotiated),
            ipv4: None,
            ipv6: None,
            distinguisher: if alone { 0 } else { u64::from(neighbour.id.0) },
            disabled: FamilySet::empty(),
            latest: None,
        });
        let before = neighbour.settled.replace(Arc::clone(&negotiated));
        let judged_alike = before.is_none_or(|before| {
            (before.role, before.local_asn, before.external)
                == (negotiated.role, negotiated.local_asn, negotiated.external)
        });
        if called {
            self.note_called(slot, negotiated.local.ip(), now);
        }
        if !judged_alike {
            self.queue_import(slot);
        }
        self.refresh_facts(slot);
        self.refresh_own_addresses();
        for family in families.families() {
            self.join(slot, family, Entrance::INITIAL);
        }
        let says_when_done = negotiated
            .peer_graceful_restart
            .as_ref()
            .is_some_and(|capability| !capability.restarting);
        if says_when_done {
            self.deferral.connected(slot, families);
        } else {
            self.deferral
                .connected_silently(slot, families, now + GRACE);
        }
        self.end_deferral_where_complete(now);
        self.make_ready(slot);
        self.monitor_up(slot, now);
        self.mirror_peer(slot);
    }

    pub(super) fn session_down(&mut self, slot: Slot, reason: &DownReason, now: Instant) {
        let Some(neighbour) = self
            .neighbours
            .get_mut(usize::from(slot))
            .and_then(Option::as_mut)
        else {
            return;
        };
        let Some(session) = neighbour.session.take() else {
            return;
        };
        // They were about this session.
        neighbour.warnings.clear();
        for family in Family::ALL {
            for monitor in &mut self.monitors {
                mirrors::leave(&mut self.tables, &mut monitor.mirrors, slot, family, false);
            }
            if let Some(carried) = session.family(family) {
                let (group, member) = (carried.group, carried.member);
                let store = &mut self.tables.store;
                with_rib!(self.tables, family, |rib| rib
                    .leave(group, member, false, store));
            }
        }
        let negotiated = &session.negotiated;
        let keep = reason.keep_routes && !neighbour.leaving && neighbour.config.enabled;
        let terms = negotiated
            .peer_graceful_restart
            .as_ref()
            .filter(|_| keep)
            .map(|capability| Terms {
                capability,
                long_lived: negotiated.peer_long_lived.as_deref(),
                notification: negotiated.notification_graceful,
                stale_time: neighbour
                    .config
                    .graceful_restart
                    .map_or(Duration::ZERO, |restart| restart.stale_time),
                long_lived_limit: neighbour
                    .config
                    .long_lived
                    .map(|long_lived| long_lived.stale_time),
            });
        let steps = neighbour
            .retention
            .lost(now, session.families(), terms.as_ref());
        let Tables {
            store, ipv4, ipv6, ..
        } = &mut self.tables;
        ipv4.table.begin_epoch(slot, store);
        ipv6.table.begin_epoch(slot, store);
        self.monitor_down(slot, &session, &reason.cause, now);
        self.take_steps(slot, &steps);
        self.refresh_own_addresses();
        self.deferral.lost(slot, now + self.config.connect_grace);
    }

    pub(super) fn take_steps(&mut self, slot: Slot, steps: &Steps) {
        for step in steps {
            self.take_step(slot, *step);
        }
    }

    fn take_step(&mut self, slot: Slot, step: Step) {
        let (Step::DeleteOld(family) | Step::DeleteOlder(family) | Step::Demote(family)) = step;
        with_rib!(self.tables, family, |rib| {
            let epoch = rib.table.epoch(slot);
            rib.table.queue_walk(
                slot,
                match step {
                    Step::DeleteOld(_) => Walk::Delete { keep_from: epoch },
                    Step::DeleteOlder(_) => Walk::Delete {
                        keep_from: epoch.wrapping_sub(1),
                    },
                    Step::Demote(_) => Walk::LongLived,
                },
            );
        });
    }

    /// Acts on what ran out for a neighbour's routes.
    pub(super) fn expire_retention(&mut self, slot: Slot, now: Instant) {
        let Some(neighbour) = self.neighbour_mut(slot) else {
            return;
        };
        let mut steps = neighbour.retention.expire(now);
        let mut ask = FamilySet::empty();
        if let Some(session) = &mut neighbour.session {
            for family in Family::ALL {
                if let Some(carried) = session.family_mut(family)
                    && carried.ask.is_some_and(|deadline| deadline <= now)
                {
                    ask |= FamilySet::of(family);
                }
                if let Some(carried) = session.family_mut(family)
                    && carried.refresh_ends.is_some_and(|deadline| deadline <= now)
                {
                    carried.refresh_ends = None;
                    steps.push(Step::DeleteOld(family));
                }
            }
        }
        self.take_steps(slot, &steps);
        for family in ask.families() {
            self.request_refresh(slot, family, now);
        }
    }

    /// What the tables know of a neighbour follows its session and configuration. What it tells changed value then.
    pub(super) fn refresh_facts(&mut self, slot: Slot) {
        let speaker_cluster = self.config.cluster_id.unwrap_or(self.config.router_id);
        let own_asn = self.config.asn;
        let Some(neighbour) = self.neighbour(slot) else {
            return;
        };
        let index = usize::from(slot);
        let known = self.tables.facts.get(index);
        // Without a session, routes kept of the last one keep its facts.
        let (router_id, external, asn) = match (&neighbour.session, known) {
            (Some(session), _) => (
                session.negotiated.peer_router_id.get(),
                session.negotiated.external,
                neighbour
                    .config
                    .asn_inside(session.negotiated.local_asn, own_asn),
            ),
            (None, Some(known)) => (known.router_id, known.external, known.asn),
            (None, None) => (0, true, own_asn),
        };
        let mut facts = PeerFacts {
            name: Arc::clone(&neighbour.name),
            address: Some(neighbour.address.ip()),
            router_id,
            external,
            asn,
            client: neighbour.config.route_reflector_client && !external,
            cluster_id: neighbour.config.cluster_id.unwrap_or(speaker_cluster),
            interface: neighbour.config.link.clone(),
            revision: known.map_or(0, |known| known.revision),
        };
        let told = |facts: &PeerFacts| {
            let PeerFacts {
                router_id,
                external,
                asn,
                cluster_id,
                ..
            } = *facts;
            (router_id, external, asn, cluster_id)
        };
        let compared = |facts: &PeerFacts| {
            let (name, interface) = (Arc::clone(&facts.name), facts.interface.clone());
            (facts.address, facts.client, name, interface, told(facts))
        };
        let changed = known.is_some_and(|known| compared(known) != compared(&facts));
        if known.is_some_and(|known| told(known) != told(&facts)) {
            facts.revision = facts.revision.wrapping_add(1);
        }
        if let Some(place) = self.tables.facts.get_mut(index) {
            *place = facts;
        } else {
            // Slots are given out one after the other.
            self.tables.facts.push(facts);
        }
        if changed {
            self.tables.ipv4.table.mark_peer_dirty(slot);
            self.tables.ipv6.table.mark_peer_dirty(slot);
        }
    }

    /// Learns our addresses anew. Where they changed, routes that name one of them are judged anew: with a thousand sessions,
    /// of which each may bring one, only if there are any such routes.
    pub(super) fn refresh_own_addresses(&mut self) {
        let of_peers = self.neighbours.iter().flatten().flat_map(|neighbour| {
            let local = neighbour.latest_local_address();
            let named = neighbour.config.next_hop_address;
            local
                .map(OwnAddress::from)
                .into_iter()
                .chain(named.map(OwnAddress::anywhere))
        });
        let listeners = self
            .config
            .listen
            .iter()
            .filter(|listen| listen.binding == Binding::default())
            .filter(|listen| !listen.address.ip().is_unspecified())
            .map(|listen| listen.address.into());
        let addresses = of_peers.chain(listeners).collect();
        let before = std::mem::replace(&mut self.own_addresses, addresses);
        if before == self.own_addresses {
            return;
        }
        // Link-local ones mean something on their link alone, where the first session brings them ahead of its routes.
        let changed: BTreeSet<IpAddr> = before
            .symmetric_difference(&self.own_addresses)
            .filter(|own| !own.is_link_local())
            .map(|own| own.address())
            .collect();
        let changed = |address: IpAddr| changed.contains(&address);
        if self.tables.store.names_next_hop(changed) {
            for slot in self.slots() {
                self.queue_import(slot);
            }
        }
    }

    // ---- routes that come -----------------------------------------------------------------------------------------

    pub(super) fn import(&mut self, slot: Slot, update: Update, now: Instant) {
        let Self {
            neighbours,
            tables: Tables {
                store, ipv4, ipv6, ..
            },
            config,
            own_addresses,
            cluster_ids,
            events,
            errors,
            ..
        } = self;
        let Some(neighbour) = neighbours
            .get_mut(usize::from(slot))
            .and_then(Option::as_mut)
        else {
            return;
        };
        if neighbour.session.is_none() {
            return;
        }
        neighbour.counters.updates_received += 1;
        if let Some(offence) = neighbour.errors.survived(&update, errors, now) {
            tell_offence(neighbour, &offence, events, now);
        }
        let Some(session) = &mut neighbour.session else {
            return;
        };
        let newly_disabled = update.disabled - session.disabled;
        session.disabled |= newly_disabled;
        let disabled = session.disabled;
        let discard_beyond = match neighbour.config.maximum_prefixes {
            Some(MaximumPrefixes {
                limit,
                action: LimitAction::Discard,
            }) => limit,
            _ => usize::MAX,
        };
        let mut discarded = FamilySet::empty();
        let (mut excess, mut room) = (FamilySet::empty(), FamilySet::empty());
        let counters = &mut neighbour.counters;
        counters.attribute_faults += update.faults.len() as u64;
        counters.withdrawals_received += update.withdrawn.len() as u64;
        if update.withdrawn.len() >= MANY {
            let prefixes = || update.withdrawn.iter().map(|nlri| nlri.prefix);
            ipv4.table.look_ahead(prefixes());
            ipv6.table.look_ahead(prefixes());
        }
        for Nlri { prefix, path_id } in &update.withdrawn {
            if disabled.has(prefix.family()) {
                continue;
            }
            let path_id = path_id.map(|id| id.0);
            let gone = match prefix {
                Prefix::V4(prefix) => ipv4.table.withdraw(*prefix, slot, path_id, store),
                Prefix::V6(prefix) => ipv6.table.withdraw(*prefix, slot, path_id, store),
            };
            let family = prefix.family();
            if gone && session.family(family).is_some_and(|carried| carried.excess) {
                let left = match prefix {
                    Prefix::V4(prefix) => paths_by(&ipv4.table, *prefix, slot),
                    Prefix::V6(prefix) => paths_by(&ipv6.table, *prefix, slot),
                };
                if left + 1 == MAX_PATHS {
                    room |= FamilySet::of(family);
                }
            }
        }
        if let Some(attributes) = update.attributes {
            let negotiated = &session.negotiated;
            let ours = Ours {
                config,
                own_addresses,
                cluster_ids,
            };
            let remote = negotiated.remote;
            let context =
                ours.import_context(&neighbour.config, &neighbour.name, Some(negotiated), remote);
            let adjusted = import::adjusted(&context, &attributes).map(Arc::new);
            for announcement in &update.announced {
                counters.announcements_received += announcement.nlri.len() as u64;
                let next_hop = Some(announcement.next_hop);
                let unusable = import::check(&context, &attributes, next_hop);
                let data = PathData {
                    attributes: Arc::clone(&attributes),
                    next_hop,
                    interface: import::interface_of(announcement.next_hop, negotiated.remote),
                    weight: 0,
                    discard: false,
                };
                // What policy reads; mostly what was received.
                let base = adjusted.as_ref().map(|adjusted| {
                    store.intern(PathData {
                        attributes: Arc::clone(adjusted),
                        ..data.clone()
                    })
                });
                let again = session.latest.and_then(|id| store.again(id, &data));
                let received = again.unwrap_or_else(|| store.intern(data));
                session.latest = Some(received);
                let base = base.unwrap_or_else(|| {
                    store.retain(received);
                    received
                });
                for Nlri { prefix, path_id } in &announcement.nlri {
                    if disabled.has(prefix.family()) {
                        continue;
                    }
                    if discard_beyond < usize::MAX
                        && match prefix {
                            Prefix::V4(prefix) => {
                                ipv4.table.fresh_prefixes(slot) >= discard_beyond
                                    && !ipv4.table.has_fresh(*prefix, slot)
                            }
                            Prefix::V6(prefix) => {
                                ipv6.table.fresh_prefixes(slot) >= discard_beyond
                                    && !ipv6.table.has_fresh(*prefix, slot)
                            }
                        }
                    {
                        discarded |= FamilySet::of(prefix.family());
                        counters.discarded_prefixes += 1;
                        continue;
                    }
                    let unusable = unusable.or_else(|| import::check_prefix(*prefix));
                    let (attributes, unusable) = match unusable {
                        Some(_) => {
                            store.retain(received);
                            (received, unusable)
                        }
                        None => import::apply_policy(&context, *prefix, received, base, store),
                    };
                    store.retain(received);
                    let incoming = Incoming {
                        path_id: path_id.map(|id| id.0),
                        received,
                        attributes,
                        unusable,
                    };
                    let kept = match prefix {
                        Prefix::V4(prefix) => ipv4.table.announce(*prefix, slot, incoming, store),
                        Prefix::V6(prefix) => ipv6.table.announce(*prefix, slot, incoming, store),
                    };
                    if !kept {
                        counters.excess_paths += 1;
                        excess |= FamilySet::of(prefix.family());
                    }
                }
                store.release(received);
                store.release(base);
            }
        }
        for family in discarded.families() {
            if let Some(carried) = session.family_mut(family) {
                carried.discarded = true;
            }
        }
        let mut ask = FamilySet::empty();
        for family in Family::ALL {
            let Some(carried) = session.family_mut(family) else {
                continue;
            };
            carried.excess |= excess.has(family);
            if room.has(family) && carried.ask_again(now) {
                ask |= FamilySet::of(family);
            }
        }
        for family in excess.families() {
            self.warn(slot, PeerWarning::PathLimit(family), now);
        }
        self.enforce_limit(slot, now);
        for family in ask.families() {
            self.request_refresh(slot, family, now);
        }
        if let Some(family) = update.end_of_rib
            && !disabled.has(family)
        {
            self.end_of_rib(slot, family, now);
        }
        for family in newly_disabled.families() {
            self.disable(slot, family, now);
        }
    }

    /// Gives up a family for the rest of the session: its routes go (RFC 7606 §2, RFC 4760 §7). Nobody waits for its
    /// End-of-RIB.
    fn disable(&mut self, slot: Slot, family: Family, now: Instant) {
        let store = &mut self.tables.store;
        with_rib!(self.tables, family, |rib| rib
            .table
            .begin_epoch(slot, store));
        self.take_step(slot, Step::DeleteOld(family));
        self.end_of_rib(slot, family, now);
        self.warn(slot, PeerWarning::FamilyDisabled(family), now);
    }

    fn end_of_rib(&mut self, slot: Slot, family: Family, now: Instant) {
        let Some(neighbour) = self.neighbour_mut(slot) else {
            return;
        };
        if let Some(carried) = neighbour
            .session
            .as_mut()
            .and_then(|session| session.family_mut(family))
        {
            carried.end_of_rib_received = true;
        }
        if let Some(step) = neighbour.retention.end_of_rib(family) {
            self.take_step(slot, step);
        }
        self.deferral.settle(slot, FamilySet::of(family));
        self.end_deferral_where_complete(now);
        self.monitor_end_of_rib(slot, family);
    }

    /// Does what is configured for a peer that announces more than it may; ending the session, 6/1 (RFC 4486 §4).
    pub(super) fn enforce_limit(&mut self, slot: Slot, now: Instant) {
        let Some(neighbour) = self
            .neighbours
            .get_mut(usize::from(slot))
            .and_then(Option::as_mut)
        else {
            return;
        };
        let Some(session) = &mut neighbour.session else {
            return;
        };
        let maximum = neighbour.config.maximum_prefixes;
        if maximum.is_none() && !session.discards() {
            return;
        }
        let limit = maximum.map_or(usize::MAX, |maximum| maximum.limit);
        let mut exceeded = FamilySet::empty();
        let mut ask = FamilySet::empty();
        for family in Family::ALL {
            let count = with_rib!(self.tables, family, |rib| rib.table.fresh_prefixes(slot));
            let Some(carried) = session.family_mut(family) else {
                continue;
            };
            let close = match maximum.map(|maximum| maximum.action) {
                Some(LimitAction::Close) => Some(None),
                Some(LimitAction::Restart(pause)) => Some(Some(pause)),
                Some(LimitAction::Warn | LimitAction::Discard) | None => None,
            };
            if count > limit
                && let Some(restart) = close
            {
                let event = Event::PrefixLimit {
                    family,
                    limit: u32::try_from(limit).unwrap_or(u32::MAX),
                    restart,
                };
                neighbour.fsm.handle_event(now, event);
                return;
            }
            if carried.discarded && count < limit && carried.ask_again(now) {
                ask |= FamilySet::of(family);
            }
            if count > limit || carried.discarded {
                exceeded |= FamilySet::of(family);
            }
        }
        neighbour.warnings.retain(|warning| {
            if let PeerWarning::PrefixLimit {
                family,
                limit: known,
            } = warning
            {
                exceeded.has(*family) && *known == limit
            } else {
                true
            }
        });
        for family in exceeded.families() {
            self.warn(slot, PeerWarning::PrefixLimit { family, limit }, now);
        }
        for family in ask.families() {
            self.request_refresh(slot, family, now);
        }
    }

    /// Asks the peer for its routes again (RFC 2918), because some of them were not kept.
    fn request_refresh(&mut self, slot: Slot, family: Family, now: Instant) {
        let Some(neighbour) = self.neighbour_mut(slot) else {
            return;
        };
        let peer = neighbour.id;
        let Some(session) = &mut neighbour.session else {
            return;
        };
        let direction = session.negotiated.direction;
        let answers = session.negotiated.route_refresh;
        let Some(carried) = session.family_mut(family) else {
            return;
        };
        carried.ask = None;
        if !answers {
            // Nothing brings them back but a session anew, which is for an operator to decide.
            carried.asked = Some(now);
            return;
        }
        carried.asked = Some(now);
        carried.discarded = false;
        carried.excess = false;
        let mut octets = BytesMut::new();
        RouteRefresh {
            family,
            kind: RefreshKind::Request,
        }
        .encode(&mut octets);
        *neighbour.queued_mut(direction) += octets.len();
        neighbour.warnings.remove(&PeerWarning::PathLimit(family));
        self.outputs.push_back(Output::Send {
            peer,
            direction,
            chunks: vec![octets.freeze()],
        });
    }

    // ---- refresh --------------------------------------------------------------------------------------------------

    pub(super) fn route_refresh(&mut self, slot: Slot, refresh: RouteRefresh, now: Instant) {
        let family = refresh.family;
        let Some(neighbour) = self.neighbour_mut(slot) else {
            return;
        };
        let keeps = neighbour.retention.keeps_of(family);
        let Some(session) = &mut neighbour.session else {
            return;
        };
        let marked = session.negotiated.enhanced_refresh;
        let waits_for_end = session.negotiated.peer_graceful_restart.is_some();
        let Some(carried) = session.family_mut(family) else {
            return;
        };
        match refresh.kind {
            RefreshKind::Request => {
                let (group, member) = (carried.group, carried.member);
                neighbour.counters.refreshes_received += 1;
                with_rib!(self.tables, family, |rib| {
                    if let Some(group) = rib.group_mut(group) {
                        group.refresh(member, marked);
                    }
                });
                self.make_ready(slot);
            }
            // RFC 7313 §4.2: not before the peer's first End-of-RIB of the family.
            RefreshKind::Begin if keeps || waits_for_end && !carried.end_of_rib_received => {}
            RefreshKind::Begin => {
                let begins_again = carried.refresh_ends.replace(now + REFRESH_TIME).is_some();
                let store = &mut self.tables.store;
                with_rib!(self.tables, family, |rib| {
                    let table = &mut rib.table;
                    if !begins_again {
                        table.begin_epoch(slot, store);
                    } else if !table.is_walking(slot) {
                        // What two refreshes in a row did not renew goes, or a peer that ends none of them could have any number
                        // of prefixes in spite of its limit: only those of the latest one count towards that.
                        table.begin_epoch(slot, store);
                        let keep_from = table.epoch(slot).wrapping_sub(2);
                        table.queue_walk(slot, Walk::Delete { keep_from });
                    }
                    // Where that is not done yet, this is the refresh that is under way.
                });
            }
            RefreshKind::End => {
                if carried.refresh_ends.take().is_some() {
                    self.take_step(slot, Step::DeleteOld(family));
                }
            }
            RefreshKind::Other(_) => {}
        }
    }

    // ---- walks ----------------------------------------------------------------------------------------------------

    /// Goes on with what must visit every path of a peer. True while more is left.
    pub(super) fn walk(&mut self, left: &mut usize, now: Instant) -> bool {
        for family in Family::ALL {
            while *left > 0 {
                let Some(slot) = with_rib!(self.tables, family, |rib| rib.table.walking_peer())
                else {
                    break;
                };
                self.walk_peer(family, slot, left);
                if !with_rib!(self.tables, family, |rib| rib.table.is_walking(slot)) {
                    self.enforce_limit(slot, now);
                    self.drain(slot, now);
                }
            }
        }
        self.tables.ipv4.table.walking_peer().is_some()
            || self.tables.ipv6.table.walking_peer().is_some()
    }

    fn walk_peer(&mut self, family: Family, slot: Slot, left: &mut usize) {
        let Self {
            neighbours,
            tables: Tables {
                store, ipv4, ipv6, ..
            },
            config,
            own_addresses,
            cluster_ids,
            ..
        } = self;
        let neighbour = neighbours.get(usize::from(slot)).and_then(Option::as_deref);
        let ours = Ours {
            config,
            own_addresses,
            cluster_ids,
        };
        let context = neighbour.map(|neighbour| {
            ours.import_context(
                &neighbour.config,
                &neighbour.name,
                neighbour.settled.as_deref(),
                neighbour
                    .settled
                    .as_ref()
                    .map_or(neighbour.address, |settled| settled.remote),
            )
        });
        let steps = WALK_STRIDE.min(*left);
        *left -= steps;
        if family == Family::IPV6_UNICAST {
            walk_table(&mut ipv6.table, slot, steps, context.as_ref(), store);
        } else {
            walk_table(&mut ipv4.table, slot, steps, context.as_ref(), store);
        }
    }
}

/// What import reads of the speaker.
struct Ours<'a> {
    config: &'a SpeakerConfig,
    own_addresses: &'a BTreeSet<OwnAddress>,
    cluster_ids: &'a BTreeSet<RouterId>,
}

impl<'a> Ours<'a> {
    /// What import reads of a neighbour as well. Without a session its kept paths are those of an external peer.
    fn import_context(
        &self,
        peer: &'a PeerConfig,
        name: &'a str,
        negotiated: Option<&Negotiated>,
        remote: SocketAddr,
    ) -> ImportContext<'a> {
        let config = self.config;
        let shown = negotiated.map_or(config.asn, |negotiated| negotiated.local_asn);
        ImportContext {
            policy: &peer.import,
            source: negotiated.map_or(SourceKind::External, |negotiated| {
                source_kind(peer, negotiated)
            }),
            peer: name,
            interface: peer.link.as_deref().unwrap_or_default(),
            // Only roles ask for it, and before the first session there is none.
            peer_asn: negotiated
                .map(|negotiated| negotiated.peer_asn)
                .or_else(|| peer.asn.known(shown))
                .unwrap_or(Asn(0)),
            own_asns: match peer.local_as_mode {
                LocalAsMode::Session => [shown, shown],
                LocalAsMode::Prepend
                | LocalAsMode::NoPrepend
                | LocalAsMode::ReplaceAs
                | LocalAsMode::DualAs => [shown, config.asn],
            },
            prepend: peer
                .prepended_on_import()
                .filter(|_| negotiated.is_none_or(|negotiated| negotiated.external)),
            role: negotiated.and_then(|negotiated| negotiated.role),
            allowed_local_as: peer.allowed_local_as,
            router_id: config.router_id,
            cluster_ids: self.cluster_ids,
            own_addresses: self.own_addresses,
            remote,
            shared_subnets: peer.single_hop_subnets(),
            graceful_shutdown: peer.graceful_shutdown,
            drained: peer.drain || config.drain,
        }
    }
}

/// Makes an event of a malformed message, unless the peer had one a moment ago that was no milder: a peer that sends nothing
/// else must not wash everything else out of the log.
pub(super) fn tell_offence(
    neighbour: &mut Neighbour,
    offence: &Offence,
    events: &mut EventLog,
    now: Instant,
) {
    if neighbour.malformed_told.is_some_and(|(told, action)| {
        now.saturating_duration_since(told) < MALFORMED_INTERVAL
            && offence.action.severity() <= action.severity()
    }) {
        neighbour.malformed_untold += 1;
        return;
    }
    neighbour.malformed_told = Some((now, offence.action));
    let kind = PeerEventKind::Malformed {
        reason: offence.reason.clone(),
        action: offence.action,
        prefixes: offence.prefixes.clone(),
        octets: offence.octets.clone(),
        length: offence.length,
        more: std::mem::take(&mut neighbour.malformed_untold),
    };
    events.push(now, Subject::of(neighbour), kind);
}

fn walk_table<F: Key>(
    table: &mut Table<F>,
    slot: Slot,
    steps: usize,
    context: Option<&ImportContext<'_>>,
    store: &mut crate::rib::attribute_store::AttributeStore,
) {
    for _ in 0..steps {
        let Some((walk, path)) = table.next_of_walk(slot) else {
            return;
        };
        if walk != Walk::Import {
            table.visit(walk, path, store);
            continue;
        }
        let Some(context) = context else {
            continue;
        };
        let view = table.view_of(path);
        let prefix = table.prefix(view.net).into();
        let data = store.data(view.received);
        let unusable = import::check(context, &data.attributes, data.next_hop);
        let unusable = unusable.or_else(|| import::check_prefix(prefix));
        let (attributes, unusable) = match unusable {
            Some(unusable) => {
                store.retain(view.received);
                (view.received, Some(unusable))
            }
            None => {
                let base = match import::adjusted(context, &data.attributes) {
                    None => {
                        store.retain(view.received);
                        view.received
                    }
                    Some(attributes) => {
                        let data = PathData {
                            attributes: Arc::new(attributes),
                            ..data.clone()
                        };
                        store.intern(data)
                    }
                };
                let imported = import::apply_policy(context, prefix, view.received, base, store);
                store.release(base);
                imported
            }
        };
        table.set_imported(path, attributes, unusable, store);
    }
}

/// How many paths of a prefix the peer has.
fn paths_by<F: Key>(table: &Table<F>, prefix: F, slot: Slot) -> usize {
    table.find(prefix).map_or(0, |net| {
        let paths = table.paths_of(net);
        paths.filter(|path| path.peer == slot).count()
    })
}

const fn source_kind(config: &PeerConfig, negotiated: &Negotiated) -> SourceKind {
    match (negotiated.external, config.route_reflector_client) {
        (true, _) => SourceKind::External,
        (false, true) => SourceKind::Client,
        (false, false) => SourceKind::Internal,
    }
}

impl FamilySession {
    /// There is room for what was not kept: true where the peer is to be asked for it now; otherwise it will be.
    fn ask_again(&mut self, now: Instant) -> bool {
        if self.ask.is_some() {
            return false;
        }
        let at = self.asked.map_or(now, |asked| asked + ASK_INTERVAL);
        self.ask = Some(at);
        at <= now
    }
}

impl Neighbour {
    /// Whether nothing is left of a neighbour that is to go.
    pub(super) fn is_over(&self) -> bool {
        (self.leaving || self.range.is_some() && self.was_open && !self.fsm.remembers())
            && self.is_absent()
    }

    /// Whether there is neither a connection to it nor anything kept of an earlier one.
    fn is_absent(&self) -> bool {
        self.session.is_none() && !self.is_connected() && !self.retention.keeps()
    }

    /// Whether it came from a range and is here only for what is held against it.
    pub(super) fn is_only_remembered(&self) -> bool {
        self.range.is_some() && self.was_open && self.is_absent()
    }
}
