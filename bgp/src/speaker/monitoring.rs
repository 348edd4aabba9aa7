//! What collectors are told (RFC 7854): the tables of peers before and after import policy, the best routes, sessions that come
//! and go, and numbers. See [`crate::bmp`] for how much of it may pend.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;

use super::config::SpeakerConfig;
use super::neighbour::{Neighbour, Session};
use super::{Speaker, with_rib, with_rib_ref};
use crate::bmp::message::{self, PeerHeader, Statistic, TerminationReason};
use crate::bmp::{Collector, Entry, LOC_RIB, Monitor, MonitorId, MonitorOutput, Walk};
use crate::codec::{
    Capability, CodecContext, EncodeError, ExtendedNextHop, NextHop, Nlri, Open, PathId,
    attributes_block, encode_announcements, encode_end_of_rib, encode_withdrawals,
};
use crate::family::{Afi, Family, FamilySet};
use crate::fsm::DownCause;
use crate::prefix::Prefix;
use crate::rib::attribute_store::{AttrId, AttributeStore};
use crate::rib::table::{Key, NetId};
use crate::rib::{FamilyRib, LOCAL, Slot};

/// Octets of one chunk, give or take a batch.
const CHUNK: usize = 32 * 1024;
/// Prefixes the walk looks at in one go.
const WALK_STRIDE: usize = 1024;

/// One table as a collector knows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Stage {
    PrePolicy,
    PostPolicy,
}

/// What holds of one name, by table: its attributes, or that it is gone.
#[derive(Default)]
struct Batch {
    announced: FxHashMap<(Stage, Family, AttrId), Vec<Nlri>>,
    withdrawn: FxHashMap<(Stage, Family), Vec<Nlri>>,
    ended: Vec<Family>,
}

impl Speaker {
    /// A collector is connected: it is told the state of the world from here on. `wall` is the time since 1970.
    pub fn start_monitoring(
        &mut self,
        collector: &Collector,
        wall: Duration,
        now: Instant,
    ) -> MonitorId {
        self.last_monitor += 1;
        let id = MonitorId(self.last_monitor);
        let mut monitor = Monitor::new(id, collector, wall, now);
        monitor.say(initiation(&self.config));
        if collector.loc_rib {
            monitor.say(loc_rib_up(&self.config, monitor.wall(now)));
        }
        for neighbour in self.neighbours.iter().flatten() {
            if let Some(session) = &neighbour.session {
                monitor.say(peer_up(neighbour, session, monitor.wall(now)));
            }
        }
        self.mirror_everybody(&mut monitor);
        self.monitors.push(monitor);
        self.watch_tables();
        id
    }

    /// The collector is gone.
    pub fn stop_monitoring(&mut self, id: MonitorId) {
        if let Some(at) = self.monitors.iter().position(|monitor| monitor.id == id) {
            let monitor = self.monitors.swap_remove(at);
            self.end_mirrors(monitor);
        }
        self.watch_tables();
    }

    /// Our AS, our identifier or our families are others now: with them the Loc-RIB has another name and is read differently, so that
    /// the one known to collectors ends and the new one is told whole.
    pub(super) fn renew_loc_rib(&mut self, old: &SpeakerConfig, now: Instant) {
        for monitor in &mut self.monitors {
            if old.router_id != self.config.router_id {
                // RFC 7854 §4.3: said again where it is no longer true.
                monitor.say(initiation(&self.config));
            }
            if monitor.collector.loc_rib {
                let wall = monitor.wall(now);
                monitor.say(message::loc_rib_down(&loc_rib_header(old, wall)));
                monitor.say(loc_rib_up(&self.config, wall));
                monitor.renew_loc_rib();
            }
        }
    }

    /// What to say to a collector before its connection is closed from this side.
    #[must_use]
    pub fn last_words(reason: TerminationReason) -> Bytes {
        message::termination(reason)
    }

    fn watch_tables(&mut self) {
        let watched = !self.monitors.is_empty();
        self.tables.ipv4.table.watch(watched);
        self.tables.ipv6.table.watch(watched);
    }

    /// Hands what changed in the tables to every collector. Cheap where there is none.
    pub(super) fn feed_monitors(&mut self) {
        if self.monitors.is_empty() {
            return;
        }
        for family in Family::ALL {
            let changed = with_rib!(self.tables, family, |rib| rib
                .table
                .take_watched()
                .into_iter()
                .map(|(prefix, slot, path_id)| (prefix.into(), slot, path_id))
                .collect::<Vec<(Prefix, Slot, Option<u32>)>>());
            for (prefix, slot, path_id) in changed {
                for monitor in &mut self.monitors {
                    let wanted = match slot {
                        LOCAL => false,
                        LOC_RIB => monitor.collector.loc_rib,
                        _ => monitor.collector.pre_policy || monitor.collector.post_policy,
                    };
                    if wanted {
                        monitor.note(slot, Entry::Route(prefix, path_id));
                    }
                }
            }
        }
    }

    pub(super) fn monitor_up(&mut self, slot: Slot, now: Instant) {
        let Some(neighbour) = self
            .neighbours
            .get(usize::from(slot))
            .and_then(Option::as_deref)
        else {
            return;
        };
        if let Some(session) = &neighbour.session {
            for monitor in &mut self.monitors {
                monitor.say(peer_up(neighbour, session, monitor.wall(now)));
            }
        }
    }

    pub(super) fn monitor_down(
        &mut self,
        slot: Slot,
        session: &Session,
        cause: &DownCause,
        now: Instant,
    ) {
        for monitor in &mut self.monitors {
            monitor.forget(slot);
            let header = header(session, false, monitor.wall(now));
            monitor.say(message::peer_down(&header, cause));
        }
    }

    /// A peer said that it has told everything.
    pub(super) fn monitor_end_of_rib(&mut self, slot: Slot, family: Family) {
        for monitor in &mut self.monitors {
            if monitor.collector.pre_policy || monitor.collector.post_policy {
                monitor.note(slot, Entry::EndOfRib(family));
            }
        }
    }

    /// When statistics are due.
    pub(super) fn statistics_due(&self) -> Option<Instant> {
        self.monitors
            .iter()
            .filter_map(|monitor| monitor.next_statistics)
            .min()
    }

    /// Sends the statistics that are due.
    pub(super) fn tell_statistics(&mut self, now: Instant) {
        let mut monitors = std::mem::take(&mut self.monitors);
        for monitor in &mut monitors {
            let Some(interval) = monitor
                .next_statistics
                .filter(|due| *due <= now)
                .and(monitor.collector.statistics)
            else {
                continue;
            };
            monitor.next_statistics = Some(now + interval);
            for (slot, neighbour) in (0..).zip(&self.neighbours) {
                let Some(neighbour) = neighbour else { continue };
                let Some(session) = &neighbour.session else {
                    continue;
                };
                let header = header(session, false, monitor.wall(now));
                let list = self.peer_statistics(slot, neighbour);
                monitor.say(message::statistics(&header, &list));
            }
            if monitor.collector.loc_rib {
                let counts: Vec<(Family, u64)> = Family::ALL
                    .into_iter()
                    .map(|family| {
                        let count =
                            with_rib_ref!(self.tables, family, |rib| rib.table.chosen_count());
                        (family, count as u64)
                    })
                    .collect();
                let mut list = vec![Statistic::LocRib(
                    counts.iter().map(|(_, count)| count).sum(),
                )];
                list.extend(
                    counts
                        .into_iter()
                        .map(|(family, count)| Statistic::FamilyLocRib(family, count)),
                );
                let header = loc_rib_header(&self.config, monitor.wall(now));
                monitor.say(message::statistics(&header, &list));
            }
        }
        self.monitors = monitors;
    }

    fn peer_statistics(&self, slot: Slot, neighbour: &Neighbour) -> Vec<Statistic> {
        let (mut received, mut advertised) = (0, 0);
        let mut list = Vec::new();
        for family in Family::ALL {
            let Some(carried) = neighbour
                .session
                .as_ref()
                .and_then(|session| session.family(family))
            else {
                continue;
            };
            let (paths, told) = with_rib_ref!(self.tables, family, |rib| (
                rib.table.counts(slot).0 as u64,
                rib.group(carried.group)
                    .map_or(0, |group| group.advertised_to(slot)) as u64
            ));
            received += paths;
            advertised += told;
            list.push(Statistic::FamilyAdjRibIn(family, paths));
            list.push(Statistic::FamilyAdjRibOut(family, told));
        }
        list.extend([
            Statistic::AdjRibIn(received),
            Statistic::AdjRibOut(advertised),
            Statistic::UpdatesTreatedAsWithdraw(neighbour.errors.updates_withdrawn),
            Statistic::PrefixesTreatedAsWithdraw(neighbour.errors.prefixes_withdrawn),
        ]);
        list
    }

    /// What to send to a collector next. Ask only while there is room for it: what pends meanwhile is joined by prefix.
    pub fn poll_monitor(&mut self, id: MonitorId, now: Instant) -> MonitorOutput {
        let Some(at) = self.monitors.iter().position(|monitor| monitor.id == id) else {
            return MonitorOutput::Idle;
        };
        self.feed_monitors();
        let mut monitor = self.monitors.swap_remove(at);
        let mut out = BytesMut::new();
        self.pull(&mut monitor, now, &mut out);
        // Behind news of sessions, which may be that one came up.
        let more = out.len() < CHUNK && self.read_mirrors(&mut monitor, CHUNK, now, &mut out);
        let output = match out.is_empty() {
            _ if monitor.is_overflown() => MonitorOutput::Overflow,
            true if monitor.is_idle() && !more => {
                if std::mem::take(&mut monitor.mirrors_read) {
                    // It may have been the last that had to read of a prefix that is gone.
                    self.tables.ipv4.trim();
                    self.tables.ipv6.trim();
                }
                MonitorOutput::Idle
            }
            // Maybe nothing of what was looked at is to be told: the next call goes on.
            _ => MonitorOutput::Octets(out.freeze()),
        };
        self.monitors.push(monitor);
        output
    }

    fn pull(&self, monitor: &mut Monitor, now: Instant, out: &mut BytesMut) {
        while out.len() < CHUNK
            && let Some(octets) = monitor.next_said()
        {
            out.extend_from_slice(&octets);
        }
        let mut looks = 0;
        while out.len() < CHUNK && !monitor.is_idle() && looks < 16 {
            looks += 1;
            if monitor.may_walk() {
                self.walk_for(monitor);
            }
            if let Some((slot, entries)) = monitor.take_batch() {
                self.tell_collector(monitor, slot, &entries, now, out);
            }
        }
    }

    /// Goes on with the walk over the tables.
    fn walk_for(&self, monitor: &mut Monitor) {
        let Walk::At(family, next) = monitor.walk else {
            return;
        };
        let peers = monitor.tells_peers();
        let (bound, end) = with_rib_ref!(self.tables, family, |rib| {
            let bound = rib.table.net_bound();
            let stride = u32::try_from(WALK_STRIDE).unwrap_or(u32::MAX);
            let mut end = next.saturating_add(stride).min(bound);
            for net in (next..end).map(NetId) {
                if !rib.table.is_net(net) {
                    continue;
                }
                let prefix = rib.table.prefix(net).into();
                if monitor.collector.loc_rib && rib.table.best(net).is_some() {
                    monitor.note(LOC_RIB, Entry::Route(prefix, None));
                }
                if peers {
                    for path in rib.table.paths_of(net) {
                        if path.peer != LOCAL {
                            monitor.note(path.peer, Entry::Route(prefix, path.path_id));
                        }
                    }
                }
                // A prefix may have a name for each of a thousand peers.
                if !monitor.may_walk() {
                    end = net.0 + 1;
                    break;
                }
            }
            (bound, end)
        });
        monitor.walk = match family {
            _ if end < bound => Walk::At(family, end),
            Family::IPV4_UNICAST => Walk::At(Family::IPV6_UNICAST, 0),
            _ => {
                self.note_ends(monitor);
                Walk::Done
            }
        };
    }

    /// After the walk every table is complete (RFC 7854 §5).
    fn note_ends(&self, monitor: &mut Monitor) {
        if monitor.collector.loc_rib {
            for family in &self.config.families {
                monitor.note(LOC_RIB, Entry::EndOfRib(*family));
            }
        }
        if monitor.tells_peers() {
            for (slot, neighbour) in (0..).zip(&self.neighbours) {
                let families = neighbour
                    .as_ref()
                    .and_then(|neighbour| neighbour.session.as_ref())
                    .map(Session::families);
                for family in families
                    .into_iter()
                    .flat_map(|families| families.families())
                {
                    monitor.note(slot, Entry::EndOfRib(family));
                }
            }
        }
    }

    /// Writes what holds of these names.
    fn tell_collector(
        &self,
        monitor: &Monitor,
        slot: Slot,
        entries: &[Entry],
        now: Instant,
        out: &mut BytesMut,
    ) {
        let mut batch = Batch::default();
        let of_session = self.neighbour(slot).and_then(|of| of.session.as_ref());
        let takes_ids = of_session.map_or(FamilySet::empty(), |session| {
            session.negotiated.context.add_path_receive
        });
        for entry in entries {
            match *entry {
                Entry::EndOfRib(family) => batch.ended.push(family),
                // Of an ended session that had path identifiers, or had none: the collector forgot it with that session.
                Entry::Route(prefix, path_id)
                    if path_id.is_some() != takes_ids.has(prefix.family()) => {}
                Entry::Route(prefix, path_id) => {
                    with_rib_ref!(self.tables, prefix.family(), |rib| {
                        look_up(rib, monitor, slot, prefix, path_id, &mut batch);
                    });
                }
            }
        }
        let time = monitor.wall(now);
        let all = FamilySet::all();
        // As the OPEN of the Loc-RIB says.
        let mut context = CodecContext {
            four_octet_as: true,
            families: all,
            extended_next_hop: true,
            extended_message_send: true,
            ..CodecContext::before_open()
        };
        let store = &self.tables.store;
        if slot == LOC_RIB {
            let header = loc_rib_header(&self.config, time);
            return batch.encode(|_| header, &[Stage::PrePolicy], context, store, out);
        }
        let Some(session) = self
            .neighbour(slot)
            .and_then(|neighbour| neighbour.session.as_ref())
        else {
            return;
        };
        let negotiated = &session.negotiated;
        // As its OPENs, which the collector has, say of what we receive.
        context.add_path_send = negotiated.context.add_path_receive;
        context.extended_message_send = negotiated.context.extended_message_receive;
        context.extended_next_hop = negotiated.context.extended_next_hop;
        context.link_local_next_hop = negotiated.context.link_local_next_hop;
        let mut stages = Vec::new();
        if monitor.collector.pre_policy {
            stages.push(Stage::PrePolicy);
        }
        if monitor.collector.post_policy {
            stages.push(Stage::PostPolicy);
        }
        let header = |stage| header(session, stage == Stage::PostPolicy, time);
        batch.encode(header, &stages, context, store, out);
    }
}

/// Notes what holds of one route, in the tables the collector wants.
fn look_up<F: Key>(
    rib: &FamilyRib<F>,
    monitor: &Monitor,
    slot: Slot,
    prefix: Prefix,
    path_id: Option<u32>,
    batch: &mut Batch,
) {
    let net = F::from_prefix(prefix).and_then(|prefix| rib.table.find(prefix));
    let nlri = Nlri {
        prefix,
        path_id: path_id.map(PathId),
    };
    let family = F::FAMILY;
    let mut put = |stage: Stage, attributes: Option<AttrId>| match attributes {
        Some(id) => batch
            .announced
            .entry((stage, family, id))
            .or_default()
            .push(nlri),
        None => batch
            .withdrawn
            .entry((stage, family))
            .or_default()
            .push(nlri),
    };
    if slot == LOC_RIB {
        let best = net.and_then(|net| rib.table.best(net));
        put(Stage::PrePolicy, best.map(|best| best.attributes));
        return;
    }
    // Paths of an ended session are not of this one, whatever is still done with them.
    let path = net.and_then(|net| {
        rib.table
            .paths_of(net)
            .find(|path| path.peer == slot && path.path_id == path_id && !path.old)
    });
    if monitor.collector.pre_policy {
        put(Stage::PrePolicy, path.map(|path| path.received));
    }
    if monitor.collector.post_policy {
        let usable = path.filter(|path| path.unusable.is_none());
        put(Stage::PostPolicy, usable.map(|path| path.attributes));
    }
}

impl Batch {
    fn encode(
        self,
        header: impl Fn(Stage) -> PeerHeader,
        stages: &[Stage],
        context: CodecContext,
        store: &AttributeStore,
        out: &mut BytesMut,
    ) {
        let mut updates = BytesMut::new();
        let mut tell = |stage, written: Result<(), EncodeError>, updates: &mut BytesMut| {
            if written.is_ok() {
                message::route_monitoring(&header(stage), updates, out);
            }
            updates.clear();
            written.is_ok()
        };
        for ((stage, family), nlri) in self.withdrawn {
            let written = encode_withdrawals(family, nlri, &context, &mut updates);
            tell(stage, written, &mut updates);
        }
        for ((stage, family, id), nlri) in self.announced {
            let data = store.data(id);
            let context = CodecContext {
                // Only decides whether LOCAL_PREF is written.
                peer_is_external: data.attributes.local_pref.is_none(),
                ..context
            };
            let next_hop = data.next_hop.unwrap_or(match family {
                Family::IPV4_UNICAST => NextHop::V4(Ipv4Addr::UNSPECIFIED),
                _ => NextHop::V6 {
                    global: Some(std::net::Ipv6Addr::UNSPECIFIED),
                    link_local: None,
                },
            });
            let names = || nlri.iter().copied();
            let written = attributes_block(&data.attributes, &context).and_then(|block| {
                encode_announcements(&block, next_hop, family, names(), &context, &mut updates)
            });
            if !tell(stage, written, &mut updates) {
                // What policy made of it fits no message, or no next hop the OPENs allow for. What the collector has instead is wrong
                // in any case.
                let written = encode_withdrawals(family, names(), &context, &mut updates);
                tell(stage, written, &mut updates);
            }
        }
        for family in self.ended {
            for stage in stages {
                encode_end_of_rib(family, &mut updates);
                tell(*stage, Ok(()), &mut updates);
            }
        }
    }
}

fn initiation(config: &SpeakerConfig) -> Bytes {
    let description = concat!("margay ", env!("CARGO_PKG_VERSION"));
    message::initiation(&config.router_id.to_string(), description)
}

fn loc_rib_header(config: &SpeakerConfig, time: Duration) -> PeerHeader {
    PeerHeader {
        address: None,
        distinguisher: 0,
        asn: config.asn,
        router_id: config.router_id.get(),
        post_policy: false,
        adj_rib_out: false,
        two_octet_as: false,
        time,
    }
}

fn loc_rib_up(config: &SpeakerConfig, time: Duration) -> Bytes {
    let open = loc_rib_open(config);
    message::peer_up(&loc_rib_header(config, time), None, (0, 0), &open, &open)
}

/// RFC 9069 §5.2: an OPEN that lists what is needed to read the Loc-RIB, whatever peers agreed on.
fn loc_rib_open(config: &SpeakerConfig) -> Bytes {
    let mut capabilities: Vec<Capability> = config
        .families
        .iter()
        .map(|family| Capability::Multiprotocol(*family))
        .collect();
    if config.families.contains(&Family::IPV4_UNICAST) {
        capabilities.push(Capability::ExtendedNextHop(vec![ExtendedNextHop {
            family: Family::IPV4_UNICAST,
            next_hop_afi: Afi::IPV6,
        }]));
    }
    capabilities.extend([
        Capability::ExtendedMessage,
        Capability::FourOctetAs(config.asn),
    ]);
    let open = Open {
        asn: config.asn,
        hold_time: crate::codec::HoldTime::NONE,
        router_id: config.router_id,
        capabilities,
        contradicting_as: None,
    };
    let mut octets = BytesMut::new();
    // A few capabilities always fit.
    drop(open.encode(&mut octets));
    octets.freeze()
}

impl Monitor {
    /// Whether the walk is about the tables of peers as well.
    const fn tells_peers(&self) -> bool {
        (self.collector.pre_policy || self.collector.post_policy) && !self.walks_loc_rib_only
    }
}

pub(super) fn header(session: &Session, post_policy: bool, time: Duration) -> PeerHeader {
    let negotiated = &session.negotiated;
    PeerHeader {
        address: Some(negotiated.remote.ip()),
        distinguisher: session.distinguisher,
        asn: negotiated.peer_asn,
        router_id: negotiated.peer_router_id.get(),
        post_policy,
        adj_rib_out: false,
        two_octet_as: false,
        time,
    }
}

fn peer_up(neighbour: &Neighbour, session: &Session, time: Duration) -> Bytes {
    let negotiated = &session.negotiated;
    let (sent, received) = neighbour.opens(negotiated.direction);
    message::peer_up(
        &header(session, false, time),
        Some(negotiated.local.ip()),
        (negotiated.local.port(), negotiated.remote.port()),
        sent,
        received,
    )
}
