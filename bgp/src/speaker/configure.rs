//! Changes of configuration: what differs is found field by field, and only the sessions it concerns are touched.
//!
//! | What changed | What happens |
//! |---|---|
//! | an unnumbered peer's address is learned | it is dialled |
//! | an interface went, or a link-local address is another's | as a peer that went, and one that came |
//! | password, TCP-AO keys, how long its window may stay closed | the running connection is given them |
//! | a peer came or went | it starts; it is told 6/3 and its routes go |
//! | a caller from a range is configured by its address, or no longer is | its session goes on, as one of the other configuration |
//! | a peer has another name | its session goes on under that |
//! | a peer is disabled, or has another AS | its routes go, also those kept for its return |
//! | what OPENs or the TCP connection settle | that session is reset and tried at once |
//! | how its path is watched (BFD) | the watching changes, nothing else; off says AdminDown to the other end |
//! | how long its stale routes are kept | a shorter time holds for those that are kept already |
//! | import policy, allowed own AS, drain, subnets shared with a peer one hop away, what a local AS means for paths | that peer's paths are evaluated anew, from memory |
//! | export policy, next hops, reflection, drain, what is hidden in paths, default route | the peer moves to the group that tells this; differences are sent |
//! | originated routes | the prefixes concerned are decided anew |
//! | aggregates | contributors are looked for anew; groups are filled anew where other prefixes are kept back |
//! | shares of next hops | every route is reported anew |
//! | how paths are compared, ECMP limits, how next hops are looked up | every prefix is decided anew |
//! | our AS or BGP Identifier | every session that shows it is reset and tried at once |

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use super::config::{LocalAsMode, Originate, PeerConfig, Remote, SpeakerConfig};
use super::events::{PeerEventKind, Removal, Subject};
use super::handover::Fate;
use super::neighbour::Neighbour;
use super::{LOCAL, MAX_SLOTS, Output, PeerId, Speaker, Tables, with_rib, with_rib_ref};
use crate::codec::{Aggregator, Communities, LargeCommunities, NextHop, Origin, PathAttributes};
use crate::family::{Family, FamilySet};
use crate::fsm::{Direction, Event, Peer, PeerWarning, Shutdown};
use crate::policy::Policy;
use crate::prefix::Prefix;
use crate::rib::Slot;
use crate::rib::attribute_store::{AttributeStore, PathData};
use crate::rib::table::Incoming;

impl Speaker {
    /// Takes a new configuration and touches only what differs.
    pub fn configure(&mut self, config: SpeakerConfig, now: Instant) {
        self.settle();
        let mut config = config;
        for peer in &mut config.peers {
            let ours = &config.families;
            peer.families.retain(|family| ours.contains(family));
        }
        let old = std::mem::replace(&mut self.config, config);
        self.take_identity(&old, now);
        self.take_peers(now);
        self.take_originated();
        self.take_aggregates();
        self.take_default_route();
        if old.weighted_multipath != self.config.weighted_multipath {
            self.tables.ipv4.table.report_all();
            self.tables.ipv6.table.report_all();
        }
        let (tracking, by_default) = (
            self.config.next_hop_tracking,
            self.config.resolve_via_default,
        );
        let reach_changed = self.tables.store.track_next_hops(tracking, by_default);
        if reach_changed || old.decision_options() != self.config.decision_options() {
            self.tables.ipv4.table.mark_all_dirty();
            self.tables.ipv6.table.mark_all_dirty();
        }
        self.take_clusters();
        if old.drain != self.config.drain {
            for slot in self.slots() {
                self.queue_import(slot);
            }
        }
        for slot in self.slots() {
            self.refresh_facts(slot);
        }
        self.refresh_own_addresses();
        self.regroup();
    }

    fn take_identity(&mut self, old: &SpeakerConfig, now: Instant) {
        let (asn_changed, id_changed) = (
            old.asn != self.config.asn,
            old.router_id != self.config.router_id,
        );
        if asn_changed || id_changed || old.families != self.config.families {
            self.renew_loc_rib(old, now);
        }
        if !asn_changed && !id_changed {
            return;
        }
        if let Some(local) = self.tables.facts.first_mut() {
            local.router_id = self.config.router_id.get();
            local.asn = self.config.asn;
            local.cluster_id = self.config.router_id;
        }
        let identity = self.identity();
        let stopped = self.stopped;
        for slot in self.slots() {
            if let Some(neighbour) = self.neighbour_mut(slot) {
                neighbour.fsm.set_identity(now, identity);
                // One that may show either AS (RFC 7705 §4.2) shows the speaker's where that is what the neighbour takes.
                let shows_own = neighbour.config.local_asn.is_none()
                    || neighbour.config.local_as_mode == LocalAsMode::DualAs
                        && neighbour
                            .session
                            .as_ref()
                            .is_none_or(|session| session.negotiated.local_asn == old.asn);
                if id_changed || shows_own {
                    neighbour
                        .fsm
                        .handle_event(now, Event::Reset(Shutdown::ConfigurationChange));
                    if neighbour.config.enabled && !neighbour.leaving && !stopped {
                        // What it rested for may be just what was corrected.
                        neighbour.fsm.handle_event(now, Event::Start);
                    }
                }
            }
            self.drain(slot, now);
            if asn_changed {
                // Sessions that show another AS go on, but what is a loop changed.
                self.queue_import(slot);
            }
        }
    }

    // ---- peers ----------------------------------------------------------------------------------------------------

    fn take_peers(&mut self, now: Instant) {
        self.take_ranges();
        let (mut gone, mut kept, mut renamed) = (Vec::new(), Vec::new(), Vec::new());
        for (slot, fate) in self.fates() {
            match fate {
                Fate::Goes => gone.push(slot),
                Fate::Stays(peer) => kept.push((slot, peer)),
                Fate::GoesOn(becomes) => renamed.push((slot, becomes)),
            }
        }
        for slot in gone {
            self.remove(slot, now);
        }
        // Of two that are one from here on, it is the one with a session.
        renamed.sort_by_key(|(slot, _)| {
            self.neighbour(*slot)
                .is_none_or(|neighbour| neighbour.session.is_none())
        });
        for (slot, becomes) in renamed {
            self.hand_over(slot, becomes, now);
        }
        for (slot, peer) in kept {
            self.reconfigure(slot, peer, now);
        }
        let new: Vec<PeerConfig> = self
            .config
            .peers
            .iter()
            .filter(|peer| !peer.remote.is_range() && !self.names.contains_key(peer.name.as_str()))
            .cloned()
            .collect();
        for peer in new {
            let address = address_of(&peer.remote);
            self.add(peer, address, None, now);
        }
    }

    /// Makes room for a neighbour and starts it; one from a range with the address of ours that it called.
    pub(super) fn add(
        &mut self,
        config: PeerConfig,
        address: SocketAddr,
        caller: Option<(Arc<str>, IpAddr)>,
        now: Instant,
    ) -> Option<Slot> {
        let free = self.free_slots.pop_first().map(usize::from);
        let place = free.unwrap_or(self.neighbours.len());
        if place >= MAX_SLOTS {
            return None;
        }
        let slot = Slot::try_from(place).ok()?;
        if place == self.neighbours.len() {
            self.neighbours.push(None);
            self.generations.push(0);
        }
        let generation = self.generations.get_mut(place)?;
        *generation = generation.wrapping_add(1);
        let id = PeerId::new(slot, *generation);
        let config = Arc::new(config);
        let seed = self.seed ^ (u64::from(id.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut fsm = Peer::new(Arc::clone(&config), self.identity(), seed, now);
        let (range, called) = caller.unzip();
        let own = called.or(config.local_address);
        if self.keepers.was_here(address, own, &config.binding, now) {
            fsm.note_earlier_session();
        }
        let mut neighbour = Box::new(Neighbour::new(id, config, fsm, address, range, now));
        neighbour.called = called;
        if neighbour.range.is_some() {
            // It is here because it called; without a connection it would be gone again at once.
            neighbour.set_open(Direction::Incoming, true);
        }
        self.names.insert(Arc::clone(&neighbour.name), slot);
        self.addresses.entry(address.ip()).or_default().push(slot);
        *self.neighbours.get_mut(place)? = Some(neighbour);
        // Before the start: it says whether the path has to be up first.
        self.refresh_liveness(slot, now);
        let stopped = self.stopped;
        if let Some(neighbour) = self.neighbour_mut(slot)
            && neighbour.config.enabled
            && !stopped
        {
            neighbour.fsm.handle_event(now, Event::Start);
        }
        self.refresh_facts(slot);
        self.drain(slot, now);
        Some(slot)
    }

    /// Ends a neighbour that is configured no more.
    pub(super) fn remove(&mut self, slot: Slot, now: Instant) {
        let Some(neighbour) = self.neighbour_mut(slot) else {
            return;
        };
        neighbour.leaving = true;
        let (name, address) = (Arc::clone(&neighbour.name), neighbour.address.ip());
        neighbour
            .fsm
            .handle_event(now, Event::Stop(Shutdown::Deconfigured));
        if self.names.get(&name) == Some(&slot) {
            self.names.remove(&name);
        }
        self.recount(slot);
        self.forget_address(slot, address);
        self.refresh_liveness(slot, now);
        self.drain(slot, now);
        self.forget_kept(slot, now);
        // Its routes may take a while to go, and its successor begins at once.
        self.note_keeper(slot, now);
        self.deferral.settle(slot, FamilySet::all());
        self.end_deferral_where_complete(now);
        self.retire_if_gone(slot, now);
    }

    /// Notes that a neighbour which goes may keep our routes.
    fn note_keeper(&mut self, slot: Slot, now: Instant) {
        let place = self.neighbours.get(usize::from(slot));
        if let Some(neighbour) = place.and_then(Option::as_deref)
            && let Some(settled) = &neighbour.settled
        {
            let (remote, own) = (settled.remote, settled.local.ip());
            self.keepers.note(remote, own, &neighbour.config, now);
        }
    }

    /// Routes kept of an ended session go: their return is awaited no more.
    pub(super) fn forget_kept(&mut self, slot: Slot, now: Instant) {
        let Some(neighbour) = self
            .neighbour_mut(slot)
            .filter(|neighbour| neighbour.session.is_none())
        else {
            return;
        };
        let steps = neighbour.retention.lost(now, FamilySet::empty(), None);
        let Tables {
            store, ipv4, ipv6, ..
        } = &mut self.tables;
        ipv4.table.begin_epoch(slot, store);
        ipv6.table.begin_epoch(slot, store);
        self.take_steps(slot, &steps);
        // Those without routes stand back behind those with some.
        self.recount(slot);
    }

    fn forget_address(&mut self, slot: Slot, address: IpAddr) {
        if let Some(slots) = self.addresses.get_mut(&address) {
            slots.retain(|other| *other != slot);
            if slots.is_empty() {
                self.addresses.remove(&address);
            }
        }
    }

    /// Puts another configuration of a neighbour in force.
    pub(super) fn reconfigure(&mut self, slot: Slot, config: PeerConfig, now: Instant) {
        let Some(neighbour) = self.neighbour_mut(slot) else {
            return;
        };
        if *neighbour.config == config {
            return;
        }
        let new = Arc::new(config);
        let old = std::mem::replace(&mut neighbour.config, Arc::clone(&new));
        let long_lived = |config: &PeerConfig| config.long_lived.map(|kept| kept.stale_time);
        if long_lived(&new) < long_lived(&old) {
            neighbour.retention.limit_long_lived(long_lived(&new), now);
        }
        let stale = |config: &PeerConfig| config.graceful_restart.map(|kept| kept.stale_time);
        if let (Some(new), Some(old)) = (stale(&new), stale(&old))
            && new < old
        {
            neighbour.retention.limit_stale(new, now);
        }
        neighbour.fsm.set_config(now, Arc::clone(&new));
        let mut moved = None;
        if neighbour.range.is_none() {
            let address = address_of(&new.remote);
            if address.ip() != neighbour.address.ip() {
                moved = Some((neighbour.address.ip(), address.ip()));
            }
            neighbour.address = address;
        }
        self.refresh_liveness(slot, now);
        let was_here = moved.is_some() && {
            let (address, own) = (address_of(&new.remote), new.local_address);
            self.keepers.was_here(address, own, &new.binding, now)
        };
        let Some(neighbour) = self.neighbour_mut(slot) else {
            return;
        };
        if was_here {
            neighbour.fsm.note_earlier_session();
        }
        let id = neighbour.id;
        let connected = neighbour.is_connected();
        let keys_changed = old.password != new.password || old.tcp_ao != new.tcp_ao;
        match (old.enabled, new.enabled) {
            (true, false) => {
                let text = new.shutdown_text.clone();
                neighbour
                    .fsm
                    .handle_event(now, Event::Stop(Shutdown::Administrative { text }));
            }
            (_, true) if old.enabled && old.needs_new_session(&new) => {
                let reset = Shutdown::ConfigurationChange;
                neighbour.fsm.handle_event(now, Event::Reset(reset));
                // What it rested for may be just what was corrected.
                neighbour.fsm.handle_event(now, Event::Start);
            }
            (false, true) => neighbour.fsm.handle_event(now, Event::Start),
            (_, true) if keys_changed || old.maximum_prefixes != new.maximum_prefixes => {
                neighbour.fsm.handle_event(now, Event::Start);
            }
            _ => {}
        }
        if let Some((from, to)) = moved {
            // An unnumbered peer was found.
            self.forget_address(slot, from);
            self.addresses.entry(to).or_default().push(slot);
        }
        if (keys_changed || old.send_hold != new.send_hold) && connected {
            self.outputs.push_back(Output::Reconfigured {
                peer: id,
                config: Arc::clone(&new),
            });
        }
        self.drain(slot, now);
        if self.neighbour(slot).is_none() {
            // It was here only for what was held against it, and is not any more.
            return;
        }
        // An administratively closed session removes exactly its routes, also those of one that was down already; and
        // those of another AS are no longer this neighbour's.
        if !new.enabled || old.asn != new.asn || new.graceful_restart.is_none() {
            self.forget_kept(slot, now);
        }
        let awaited: FamilySet = new
            .families
            .iter()
            .copied()
            .filter(|_| new.enabled)
            .collect();
        self.deferral.settle(slot, FamilySet::all() - awaited);
        self.end_deferral_where_complete(now);
        if changes_import(&old, &new) {
            self.queue_import(slot);
        }
        if old.maximum_prefixes != new.maximum_prefixes {
            self.enforce_limit(slot, now);
            self.drain(slot, now);
        }
    }

    /// Lets a neighbour go that left, once nothing of it is there.
    pub(super) fn retire_if_gone(&mut self, slot: Slot, now: Instant) {
        self.recount(slot);
        let Some(neighbour) = self.neighbour(slot) else {
            return;
        };
        let empty = |family| {
            with_rib_ref!(self.tables, family, |rib| {
                rib.table.counts(slot).0 == 0 && !rib.table.is_walking(slot)
            })
        };
        if !neighbour.is_over() || !empty(Family::IPV4_UNICAST) || !empty(Family::IPV6_UNICAST) {
            return;
        }
        let (id, name) = (neighbour.id, Arc::clone(&neighbour.name));
        let address = neighbour.address.ip();
        let neighbour_is_watched = neighbour.liveness.is_some();
        let had_paths = neighbour.established_count > 0;
        let about = Subject::of(neighbour);
        let range = neighbour.range.as_deref();
        let stays = |peer: &PeerConfig| Some(peer.name.as_str()) == range;
        let why = if neighbour.leaving && !self.config.peers.iter().any(stays) {
            Removal::NotConfigured
        } else {
            Removal::Left
        };
        if let Some(deadline) = neighbour.deadline {
            self.timers.remove(&(deadline, slot));
        }
        if self.names.get(&name) == Some(&slot) {
            self.names.remove(&name);
        }
        self.uncount(slot);
        self.forget_address(slot, address);
        self.note_keeper(slot, now);
        if let Some(place) = self.neighbours.get_mut(usize::from(slot))
            && let Some(gone) = place.take()
        {
            self.departed.established += gone.established_count;
            self.departed.lost += gone.established_count;
            self.departed.messages.add(&gone.counters);
        }
        if neighbour_is_watched {
            self.outputs.push_back(Output::Watch {
                peer: id,
                path: None,
            });
        }
        // Callers that come and go must not use slots up while the tables have much to decide.
        if had_paths {
            self.retired.push(slot);
        } else {
            self.free_slots.insert(slot);
        }
        self.events.push(now, about, PeerEventKind::Removed(why));
        self.outputs.push_back(Output::PeerRemoved { peer: id });
    }

    /// Slots may be given out again once every decision about their last routes was taken.
    pub(super) fn free_retired(&mut self) {
        if self.tables.ipv4.table.dirty_count() == 0 && self.tables.ipv6.table.dirty_count() == 0 {
            self.free_slots.extend(self.retired.drain(..));
        }
    }

    // ---- routes of our own ----------------------------------------------------------------------------------------

    fn take_originated(&mut self) {
        let wanted: BTreeMap<Prefix, Originate> = self
            .config
            .originate
            .iter()
            .filter(|route| self.config.families.contains(&route.prefix.family()))
            .map(|route| (route.prefix, route.clone()))
            .collect();
        let Tables {
            store, ipv4, ipv6, ..
        } = &mut self.tables;
        for prefix in self
            .originated
            .keys()
            .filter(|prefix| !wanted.contains_key(prefix))
        {
            match *prefix {
                Prefix::V4(prefix) => ipv4.table.withdraw(prefix, LOCAL, None, store),
                Prefix::V6(prefix) => ipv6.table.withdraw(prefix, LOCAL, None, store),
            };
        }
        for (prefix, route) in &wanted {
            if self.originated.get(prefix) == Some(route) {
                continue;
            }
            let incoming = originated(route, store);
            match *prefix {
                Prefix::V4(prefix) => ipv4.table.announce(prefix, LOCAL, incoming, store),
                Prefix::V6(prefix) => ipv6.table.announce(prefix, LOCAL, incoming, store),
            };
        }
        self.named_next_hops = wanted.values().filter_map(|route| route.next_hop).collect();
        self.originated = wanted;
    }

    fn take_aggregates(&mut self) {
        let aggregator = Aggregator {
            asn: self.config.asn,
            addr: self.config.router_id.addr(),
        };
        let config = &self.config;
        // A prefix that is originated as well is originated.
        let wanted = |family| {
            config
                .aggregates
                .iter()
                .filter(move |aggregate| aggregate.prefix.family() == family)
                .filter(|aggregate| {
                    config.families.contains(&aggregate.prefix.family())
                        && !self.originated.contains_key(&aggregate.prefix)
                })
                .cloned()
        };
        let Tables {
            store, ipv4, ipv6, ..
        } = &mut self.tables;
        let is_originated = |prefix| self.originated.contains_key(&prefix);
        let ipv4_wanted = wanted(Family::IPV4_UNICAST);
        ipv4.set_aggregates(ipv4_wanted, is_originated, aggregator, store);
        let ipv6_wanted = wanted(Family::IPV6_UNICAST);
        ipv6.set_aggregates(ipv6_wanted, is_originated, aggregator, store);
    }

    fn take_default_route(&mut self) {
        let wanted = self.config.peers.iter().any(|peer| peer.default_originate);
        let Tables {
            store, ipv4, ipv6, ..
        } = &mut self.tables;
        ipv4.set_default_route(wanted, store);
        ipv6.set_default_route(wanted, store);
    }

    // ---- reflection and groups ------------------------------------------------------------------------------------

    fn take_clusters(&mut self) {
        let clusters: BTreeSet<_> = self
            .config
            .peers
            .iter()
            .filter_map(|peer| peer.cluster_id)
            .chain([self.config.cluster_id.unwrap_or(self.config.router_id)])
            .collect();
        if clusters != self.cluster_ids {
            self.cluster_ids = clusters;
            for slot in self.slots() {
                self.queue_import(slot);
            }
        }
    }

    /// Puts every peer into the group that tells what it is to be told now.
    ///
    /// Afterwards each peer's key is that of its group: groups change their policy only where every member wants that, those
    /// included that came in during this very change, and whoever moves alone joins a group of exactly its key.
    fn regroup(&mut self) {
        for family in Family::ALL {
            let mut movers: BTreeMap<usize, Vec<Slot>> = BTreeMap::new();
            let mut whole: BTreeMap<usize, Option<Arc<Policy>>> = BTreeMap::new();
            for slot in self.slots() {
                let carried = self
                    .neighbour(slot)
                    .and_then(|neighbour| neighbour.session.as_ref()?.family(family).copied());
                let (Some(carried), Some(mut key)) = (carried, self.group_key(slot, family)) else {
                    continue;
                };
                let policy = Arc::clone(&key.policy);
                let (same, only_policy) = with_rib_ref!(self.tables, family, |rib| {
                    let Some(group) = rib.group(carried.group) else {
                        continue;
                    };
                    let same = group.key == key;
                    key.policy = Arc::clone(&group.key.policy);
                    (same, group.key == key)
                });
                let entry = whole
                    .entry(carried.group)
                    .or_insert_with(|| (only_policy && !same).then(|| Arc::clone(&policy)));
                if same || !only_policy || entry.as_ref().is_some_and(|other| *other != policy) {
                    *entry = None;
                }
                if !same {
                    movers.entry(carried.group).or_default().push(slot);
                }
            }
            for (group, slots) in movers {
                for slot in &slots {
                    if let Some(neighbour) = self.neighbour_mut(*slot) {
                        let missing = PeerWarning::NextHopMissing(family);
                        neighbour.warnings.remove(&missing);
                    }
                }
                // A policy that changed for all members alike changes for the group, which then tells the difference.
                let members = with_rib_ref!(self.tables, family, |rib| rib
                    .group(group)
                    .map_or(0, |group| group.members().count()));
                if let Some(Some(policy)) = whole.get(&group)
                    && members == slots.len()
                    && with_rib!(self.tables, family, |rib| rib
                        .set_group_policy(group, policy))
                {
                    continue;
                }
                for slot in slots {
                    self.move_to_group(slot, family);
                }
            }
        }
    }

    fn move_to_group(&mut self, slot: Slot, family: Family) {
        let carried = self
            .neighbour(slot)
            .and_then(|neighbour| neighbour.session.as_ref()?.family(family).copied());
        let Some(carried) = carried else {
            return;
        };
        let mirrors = self.carry_mirrors(slot, family);
        let store = &mut self.tables.store;
        let left = with_rib!(self.tables, family, |rib| rib.leave(
            carried.group,
            carried.member,
            true,
            store
        ));
        if let Some(entrance) = left {
            self.join(slot, family, entrance);
            self.move_mirrors(slot, family, mirrors);
            self.make_ready(slot);
        }
    }
}

/// Whether paths are to be imported anew, all else about the session staying as it is.
fn changes_import(old: &PeerConfig, new: &PeerConfig) -> bool {
    old.import != new.import
        || old.allowed_local_as != new.allowed_local_as
        || old.local_as_mode != new.local_as_mode
        || old.graceful_shutdown != new.graceful_shutdown
        || old.drain != new.drain
        || old.single_hop_subnets() != new.single_hop_subnets()
        || old.link != new.link
        // A policy may ask whether the source is a client.
        || old.route_reflector_client != new.route_reflector_client
}

/// Where a peer is, all zeroes while that is not known: nobody calls from there.
pub(super) fn address_of(remote: &Remote) -> SocketAddr {
    match remote {
        Remote::Address(address) => *address,
        Remote::Range(_) | Remote::Unnumbered(_) => {
            SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0)
        }
    }
}

pub(super) fn same_host(remote: &Remote, address: SocketAddr) -> bool {
    matches!(remote, Remote::Address(wanted)
        if wanted.ip() == address.ip() && scope_of(wanted) == scope_of(&address))
}

/// The link that the address is one of; zero for one that is the same everywhere.
pub(super) const fn scope_of(address: &SocketAddr) -> u32 {
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => v6.scope_id(),
        SocketAddr::V4(_) | SocketAddr::V6(_) => 0,
    }
}

fn originated(route: &Originate, store: &mut AttributeStore) -> Incoming {
    let attributes = PathAttributes {
        origin: Origin::Igp,
        med: route.med,
        local_pref: route.local_pref,
        communities: route.communities.iter().copied().collect::<Communities>(),
        large_communities: route
            .large_communities
            .iter()
            .copied()
            .collect::<LargeCommunities>(),
        ..PathAttributes::default()
    };
    let id = store.intern(PathData {
        attributes: Arc::new(attributes),
        next_hop: route.next_hop.map(NextHop::from),
        interface: 0,
        weight: 0,
        discard: false,
    });
    store.retain(id);
    Incoming {
        path_id: None,
        received: id,
        attributes: id,
        unusable: None,
    }
}
