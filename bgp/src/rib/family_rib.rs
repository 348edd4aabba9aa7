//! One family's table with the groups of peers that are told of it and the queue of whoever forwards by it.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::SmallVec;

use super::adj_rib_out::{EncodeInput, Entrance, Group, MemberId, Unit};
use super::aggregate::{Aggregates, Step};
use super::attribute_store::{AttrId, AttributeStore, PathData};
use super::export::{self, GroupKey, Withheld};
use super::next_hops::forwarding_next_hop;
use super::table::{DecisionInput, Incoming, Key, NetId, PathRef, PathView, Table};
use super::{BestRoute, LOCAL, PeerFacts, RouteChange, RouteNextHop, RouteSource, Slot};
use crate::codec::Aggregator;
use crate::decision::Options;
use crate::family::Family;
use crate::policy::Policy;
use crate::prefix::Prefix;
use crate::speaker::config::{AddPathSend, Aggregate};
use crate::speaker::snapshot::Unusable;

/// The identifier of the path of ours that stands for the default route some peers are told.
const DEFAULT_ROUTE_ID: u32 = u32::MAX;

/// What the tables read of the speaker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) facts: &'a [PeerFacts],
    pub(crate) options: Options,
}

impl<'a> View<'a> {
    pub(crate) const fn decision(&self, store: &'a AttributeStore) -> DecisionInput<'a> {
        DecisionInput {
            store,
            facts: self.facts,
            options: self.options,
        }
    }
}

/// How long selection after a restart waits for whoever forwards to say how next hops are reached. Who says nothing for so long
/// may never: the neighbours' grace, and what the kernel keeps of our earlier life, must not hang on that.
const ANSWERS: Duration = Duration::from_secs(10);

/// How far the table is from being complete for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Completion {
    /// Selection is deferred (RFC 4724 §4.1).
    Deferred,
    /// So many prefixes that waited for it are still to be decided.
    Deciding(usize),
    /// So many changes are still to be fetched before it may be said.
    Reporting(usize),
    /// It was said.
    Told,
}

/// News for whoever forwards by one family.
#[derive(Debug)]
pub(crate) enum News {
    Changes(Vec<RouteChange>),
    Complete,
}

#[derive(Debug)]
pub(crate) struct FamilyRib<F> {
    pub(crate) table: Table<F>,
    groups: Vec<Option<Group>>,
    reports: VecDeque<u32>,
    completion: Completion,
    /// Until when selection waits for what is to be said of next hops; nothing before it began.
    answers_by: Option<Instant>,
    /// It waits for that no more.
    answers_overdue: bool,
    /// Groups that tell single paths.
    path_groups: usize,
    /// Nets and paths that groups refer to no more.
    released: Vec<NetId>,
    released_paths: Vec<PathRef>,
    aggregates: Aggregates,
    /// The default route some peers are told; the table's path of it holds the reference.
    default_route: Option<AttrId>,
}

impl<F: Key> FamilyRib<F> {
    pub(crate) fn new(seed: u64, deferred: bool) -> Self {
        Self {
            table: Table::new(seed),
            groups: Vec::new(),
            reports: VecDeque::new(),
            completion: if deferred {
                Completion::Deferred
            } else {
                Completion::Reporting(0)
            },
            answers_by: None,
            answers_overdue: false,
            path_groups: 0,
            released: Vec::new(),
            released_paths: Vec::new(),
            aggregates: Aggregates::default(),
            default_route: None,
        }
    }

    // ---- routes of our own ------------------------------------------------------------------------------------

    /// Whether some peers are told a default route of ours. It lies in the table as a path that no decision takes: for its
    /// place, under which those that take several paths know it.
    pub(crate) fn set_default_route(&mut self, wanted: bool, store: &mut AttributeStore) {
        let Some(prefix) = default_prefix::<F>().filter(|_| wanted != self.default_route.is_some())
        else {
            return;
        };
        if !wanted {
            self.default_route = None;
            self.table
                .withdraw(prefix, LOCAL, Some(DEFAULT_ROUTE_ID), store);
            return;
        }
        let attributes = store.intern(PathData {
            attributes: Arc::default(),
            next_hop: None,
            interface: 0,
            weight: 0,
            discard: false,
        });
        store.retain(attributes);
        let incoming = Incoming {
            path_id: Some(DEFAULT_ROUTE_ID),
            received: attributes,
            attributes,
            unusable: Some(Unusable::OnlyTold),
        };
        self.table.announce(prefix, LOCAL, incoming, store);
        self.default_route = Some(attributes);
    }

    /// Puts other aggregates in force. What is originated by itself now stays, whatever it was before.
    pub(crate) fn set_aggregates(
        &mut self,
        wanted: impl Iterator<Item = Aggregate>,
        is_originated: impl Fn(Prefix) -> bool,
        aggregator: Aggregator,
        store: &mut AttributeStore,
    ) {
        let Some(change) = self.aggregates.configure(wanted, aggregator) else {
            return;
        };
        if !self.aggregates.is_empty() {
            for net in (0..self.table.net_bound()).map(NetId) {
                // What is not decided yet is noted when it is.
                if self.table.is_net(net) && !self.table.is_dirty(net) {
                    self.note_contributor(net, store);
                }
            }
        }
        for prefix in change.announced {
            if !self.aggregates.wants(prefix)
                && !is_originated(prefix)
                && let Some(prefix) = F::from_prefix(prefix)
            {
                self.table.withdraw(prefix, LOCAL, None, store);
            }
        }
        self.settle_aggregates(store);
        if change.suppression_changed {
            self.groups.iter_mut().flatten().for_each(Group::refill);
        }
    }

    fn note_contributor(&mut self, net: NetId, store: &AttributeStore) {
        let best = self.table.best(net);
        let origin = best.map(|best| store.data(best.attributes).attributes.origin);
        self.aggregates
            .note(net, self.table.prefix(net).into(), origin);
    }

    fn settle_aggregates(&mut self, store: &mut AttributeStore) {
        let dirty = self.table.dirty_count();
        while let Some(step) = self.aggregates.next_step() {
            match step {
                Step::Announce(prefix, attributes) => {
                    let Some(prefix) = F::from_prefix(prefix) else {
                        continue;
                    };
                    let id = store.intern(PathData {
                        attributes,
                        next_hop: None,
                        interface: 0,
                        weight: 0,
                        // What no route inside it leads on would come back by our own default route.
                        discard: true,
                    });
                    store.retain(id);
                    let incoming = Incoming {
                        path_id: None,
                        received: id,
                        attributes: id,
                        unusable: None,
                    };
                    self.table.announce(prefix, LOCAL, incoming, store);
                }
                Step::Withdraw(prefix) => {
                    if let Some(prefix) = F::from_prefix(prefix) {
                        self.table.withdraw(prefix, LOCAL, None, store);
                    }
                }
            }
        }
        if let Completion::Deciding(left) = &mut self.completion {
            *left += self.table.dirty_count().saturating_sub(dirty);
        }
    }

    pub(crate) fn is_deferred(&self) -> bool {
        self.completion == Completion::Deferred
    }

    /// Selection begins.
    pub(crate) fn end_deferral(&mut self) {
        if self.completion == Completion::Deferred {
            self.completion = Completion::Deciding(self.table.dirty_count());
        }
    }

    /// Where selection has begun it waits [`ANSWERS`] from now on for what is to be said of next hops.
    pub(crate) fn await_answers(&mut self, now: Instant) {
        if matches!(self.completion, Completion::Deciding(_)) {
            self.answers_by.get_or_insert(now + ANSWERS);
        }
    }

    /// When [`Self::expire_answers`] has something to do.
    pub(crate) fn answers_due(&self) -> Option<Instant> {
        let waits = matches!(self.completion, Completion::Deciding(_)) && !self.answers_overdue;
        self.answers_by.filter(|_| waits)
    }

    /// What was not said by now is waited for no more.
    pub(crate) fn expire_answers(&mut self, now: Instant) {
        self.answers_overdue |= self.answers_due().is_some_and(|due| due <= now);
    }

    /// Selection is over once everything was decided that can be: for a while not before it is said which next hops are reached.
    fn settle_completion(&mut self, store: &AttributeStore) {
        let unanswered = store.next_hops().is_waiting() && !self.answers_overdue;
        let waits = unanswered || self.table.is_sweeping();
        if self.completion == Completion::Deciding(0)
            && !(waits || store.is_tracking() && self.table.dirty_count() > 0)
        {
            self.completion = Completion::Reporting(self.reports.len());
        }
    }

    // ---- deciding ---------------------------------------------------------------------------------------------

    /// Whether [`Self::work`] has nothing to do: mostly one family's, while a change of the other is handled.
    fn rests(&self) -> bool {
        self.completion == Completion::Told
            && self.table.dirty_count() == 0
            && !self.table.has_gone()
            && !self.table.is_sweeping()
            && !self.groups.iter().flatten().any(Group::is_filling)
    }

    /// Decides dirty prefixes and computes what groups tell, `budget` prefixes at most. True while more is left.
    pub(crate) fn work(
        &mut self,
        budget: &mut usize,
        reporting: bool,
        store: &mut AttributeStore,
        view: &View<'_>,
    ) -> bool {
        if self.rests() {
            return false;
        }
        self.table.sweep(budget, store);
        while *budget > 0
            && let Some(path) = self.table.next_gone()
        {
            *budget -= 1;
            for group in self.groups.iter_mut().flatten().filter(tells_paths) {
                group.update(Unit(path.0), None, store);
            }
            self.free_path_if_unused(path);
        }
        if self.is_deferred() {
            return self.table.has_gone() || self.table.is_sweeping();
        }
        while *budget > 0 {
            let Some(net) = self.table.next_dirty() else {
                break;
            };
            *budget -= 1;
            self.settle(net, reporting, store, view);
            if let Completion::Deciding(left) = &mut self.completion {
                *left = left.saturating_sub(1);
                self.settle_completion(store);
            }
        }
        self.settle_completion(store);
        // A walk of the table is worth its End-of-RIB only once the table is decided.
        if matches!(self.completion, Completion::Deciding(_)) {
            return self.table.dirty_count() > 0
                || self.table.is_sweeping()
                || self.table.has_gone();
        }
        let bound = self.table.net_bound();
        let own = Own {
            aggregates: &self.aggregates,
            default_route: self.default_route,
        };
        for group in self.groups.iter_mut().flatten() {
            while *budget > 0 && group.is_filling() {
                let Some(net) = group.fill_step(bound).map(NetId) else {
                    break;
                };
                *budget -= 1;
                if self.table.is_net(net) {
                    tell(&self.table, group, net, &own, store, view);
                }
            }
        }
        self.table.dirty_count() > 0
            || self.table.has_gone()
            || self.table.is_sweeping()
            || self.groups.iter().flatten().any(Group::is_filling)
    }

    fn settle(&mut self, net: NetId, reporting: bool, store: &mut AttributeStore, view: &View<'_>) {
        let outcome = self.table.decide(net, &view.decision(store));
        if outcome.best_changed {
            self.table.note_watched(net, Slot::MAX, None);
        }
        if !self.aggregates.is_empty() {
            self.note_contributor(net, store);
            self.settle_aggregates(store);
        }
        let mut pending = false;
        if outcome.best_changed || self.path_groups > 0 {
            let own = Own {
                aggregates: &self.aggregates,
                default_route: self.default_route,
            };
            for group in self.groups.iter_mut().flatten() {
                // Other paths than the best may have changed as well.
                if outcome.best_changed || group.key.add_path.is_some() {
                    pending |= tell(&self.table, group, net, &own, store, view);
                }
            }
        }
        if outcome.used_changed && reporting && self.table.mark_reported(net) {
            self.reports.push_back(net.0);
        }
        if outcome.empty && !pending {
            self.free_if_unused(net);
        }
    }

    fn free_if_unused(&mut self, net: NetId) {
        let needs = |group: &Group| group.key.add_path.is_none() && group.needs(Unit(net.0));
        if self.table.is_unused(net) && !self.groups.iter().flatten().any(needs) {
            self.table.free(net);
        }
    }

    fn free_path_if_unused(&mut self, path: PathRef) {
        let needs = |group: &Group| group.key.add_path.is_some() && group.needs(Unit(path.0));
        if !self.groups.iter().flatten().any(needs)
            && let Some(net) = self.table.free_gone(path)
        {
            self.free_if_unused(net);
        }
    }

    /// Forgets what every peer was told and gives prefixes nobody needs back.
    pub(crate) fn trim(&mut self) {
        let mut units = Vec::new();
        for group in self.groups.iter_mut().flatten() {
            group.trim(&mut units);
            release(
                &group.key,
                units.drain(..),
                &mut self.released,
                &mut self.released_paths,
            );
        }
        for path in std::mem::take(&mut self.released_paths) {
            self.free_path_if_unused(path);
        }
        let mut released = std::mem::take(&mut self.released);
        for net in released.drain(..) {
            self.free_if_unused(net);
        }
        self.released = released;
    }

    // ---- telling peers ----------------------------------------------------------------------------------------

    /// Puts a peer into the group of `key`, which comes into being with its first member.
    pub(crate) fn join(
        &mut self,
        key: GroupKey,
        slot: Slot,
        router_id: u32,
        entrance: Entrance,
    ) -> (usize, MemberId) {
        // Routes between externals do not carry an originator of ours to compare with.
        let router_id = if key.external { 0 } else { router_id };
        let same = |group: &Option<Group>| group.as_ref().is_some_and(|group| group.key == key);
        let place = self.groups.iter().position(same).unwrap_or_else(|| {
            let free = self.groups.iter().position(Option::is_none);
            let place = free.unwrap_or(self.groups.len());
            self.path_groups += usize::from(key.add_path.is_some());
            self.table.keep_gone(self.path_groups > 0);
            let group = Some(Group::new(key));
            match self.groups.get_mut(place) {
                Some(free) => *free = group,
                None => self.groups.push(group),
            }
            place
        });
        let member = self
            .groups
            .get_mut(place)
            .and_then(Option::as_mut)
            .expect("found or just made")
            .join(slot, router_id, entrance);
        (place, member)
    }

    /// Takes a peer out of its group, which ends with its last member. Returns how it comes into the next one where asked to.
    pub(crate) fn leave(
        &mut self,
        place: usize,
        member: MemberId,
        carry: bool,
        store: &mut AttributeStore,
    ) -> Option<Entrance> {
        let group = self.groups.get_mut(place)?.as_mut()?;
        let carried = group.leave(member, carry);
        if group.is_empty()
            && let Some(group) = self.groups.get_mut(place).and_then(Option::take)
        {
            self.path_groups -= usize::from(group.key.add_path.is_some());
            self.table.keep_gone(self.path_groups > 0);
            // Not freed at once: the peer may take some of them along to the group it joins next.
            let key = group.key.clone();
            release(
                &key,
                group.dissolve(store).into_iter(),
                &mut self.released,
                &mut self.released_paths,
            );
        }
        carried
    }

    /// Puts a mirror of a peer into the group that peer is in: see [`Group::mirror`]. It leaves before the peer does.
    pub(crate) fn mirror(
        &mut self,
        place: usize,
        slot: Slot,
        router_id: u32,
        entrance: Entrance,
    ) -> Option<MemberId> {
        let group = self.group_mut(place)?;
        let router_id = if group.key.external { 0 } else { router_id };
        Some(group.mirror(slot, router_id, entrance))
    }

    pub(crate) fn group(&self, place: usize) -> Option<&Group> {
        self.groups.get(place)?.as_ref()
    }

    pub(crate) fn group_mut(&mut self, place: usize) -> Option<&mut Group> {
        self.groups.get_mut(place)?.as_mut()
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = (usize, &Group)> {
        self.groups
            .iter()
            .enumerate()
            .filter_map(|(place, group)| Some((place, group.as_ref()?)))
    }

    /// Whether the peer in `slot`, of the group in `place`, is told of the net.
    pub(crate) fn tells(
        &self,
        place: usize,
        net: NetId,
        slot: Slot,
        router_id: u32,
        store: &AttributeStore,
    ) -> bool {
        self.group(place).is_some_and(|group| {
            let tells = |unit| group.tells(unit, slot, router_id, store);
            if group.key.add_path.is_some() {
                self.table
                    .places_of(net)
                    .any(|(path, _)| tells(Unit(path.0)))
            } else {
                tells(Unit(net.0))
            }
        })
    }

    /// Exchanges the policy of a whole group, unless that makes it equal to another one.
    pub(crate) fn set_group_policy(&mut self, place: usize, policy: &Arc<Policy>) -> bool {
        let Some(group) = self.group(place) else {
            return false;
        };
        let key = GroupKey {
            policy: Arc::clone(policy),
            ..group.key.clone()
        };
        if self
            .groups()
            .any(|(other, group)| other != place && group.key == key)
        {
            return false;
        }
        if let Some(group) = self.group_mut(place) {
            group.set_policy(Arc::clone(policy));
        }
        true
    }

    /// Peers with something new to be told, and those that are not told of a route because there is no next hop for it and do
    /// not know yet.
    pub(crate) fn take_woken(&mut self, woken: &mut Vec<Slot>, withheld: &mut Vec<Slot>) {
        for group in self.groups.iter_mut().flatten() {
            if group.take_news() {
                woken.extend(group.members());
            }
            if group.withheld > 0 && !std::mem::replace(&mut group.withheld_told, true) {
                withheld.extend(group.members());
            }
        }
    }

    /// The next octets for a peer, how many routes turned out to fit no message meanwhile, and whether there is more to come.
    pub(crate) fn pull(
        &mut self,
        place: usize,
        member: MemberId,
        store: &AttributeStore,
        view: &View<'_>,
    ) -> (SmallVec<[Bytes; 2]>, u64, bool) {
        let table = &self.table;
        let Some(group) = self.groups.get_mut(place).and_then(Option::as_mut) else {
            return (SmallVec::new(), 0, false);
        };
        let before = group.unsendable;
        let of_net = |unit: Unit| table.prefix(NetId(unit.0)).into();
        let of_path = |unit: Unit| table.prefix_of_path(PathRef(unit.0)).into();
        let prefix_of: &dyn Fn(Unit) -> Prefix = match group.key.add_path {
            None => &of_net,
            Some(_) => &of_path,
        };
        let input = EncodeInput {
            store,
            facts: view.facts,
            prefix_of,
        };
        let octets = group.pull(member, &input);
        (octets, group.unsendable - before, group.has_more(member))
    }

    // ---- telling whoever forwards -----------------------------------------------------------------------------

    pub(crate) fn pending_changes(&self) -> usize {
        self.reports.len()
    }

    /// The next news, `maximum` changes at most, with `weighted` shares where paths say so.
    pub(crate) fn poll_news(
        &mut self,
        maximum: usize,
        weighted: bool,
        store: &AttributeStore,
        facts: &[PeerFacts],
    ) -> Option<News> {
        if self.completion == Completion::Reporting(0) {
            self.completion = Completion::Told;
            return Some(News::Complete);
        }
        let limit = match self.completion {
            Completion::Reporting(left) => maximum.min(left),
            Completion::Deferred | Completion::Deciding(_) | Completion::Told => maximum,
        };
        let mut changes = Vec::with_capacity(limit.min(self.reports.len()));
        while changes.len() < limit {
            let Some(net) = self.reports.front().copied().map(NetId) else {
                break;
            };
            if self.table.is_dirty(net) {
                // Between two decisions it may look as if there were no route.
                break;
            }
            self.reports.pop_front();
            self.table.clear_reported(net);
            changes.push(RouteChange {
                prefix: self.table.prefix(net).into(),
                best: self.best_route(net, weighted, store, facts),
            });
            self.free_if_unused(net);
        }
        if let Completion::Reporting(left) = &mut self.completion {
            *left = left.saturating_sub(changes.len());
        }
        (!changes.is_empty()).then_some(News::Changes(changes))
    }

    fn best_route(
        &self,
        net: NetId,
        weighted: bool,
        store: &AttributeStore,
        facts: &[PeerFacts],
    ) -> Option<BestRoute> {
        let best = self.table.best(net)?;
        let data = store.data(best.attributes);
        let mut hops: Vec<(RouteNextHop, Option<f32>)> = self
            .table
            .paths_of(net)
            .filter(|path| path.used)
            .filter_map(|path| {
                let data = store.data(path.attributes);
                Some((forwarding_next_hop(data)?, bandwidth(data)))
            })
            .collect();
        hops.sort_unstable_by_key(|(hop, _)| *hop);
        hops.dedup_by_key(|(hop, _)| *hop);
        let weights = if weighted { shares(&hops) } else { Vec::new() };
        let next_hops = hops.into_iter().map(|(hop, _)| hop).collect();
        let attributes = &data.attributes;
        Some(BestRoute {
            next_hops,
            weights,
            source: source_of(best.peer, facts),
            local_pref: attributes.local_pref.unwrap_or_default(),
            med: attributes.med,
            as_path_len: attributes.as_path.hop_count(),
            origin_as: attributes.as_path.origin(),
            communities: attributes.communities.to_vec(),
            large_communities: attributes.large_communities.to_vec(),
            stale: best.old || best.long_lived,
            discard: data.discard,
        })
    }
}

/// Octets a second of the link the path came over, where it says so.
fn bandwidth(data: &PathData) -> Option<f32> {
    let mut communities = data.attributes.extended_communities.iter();
    communities
        .find_map(|community| community.link_bandwidth())
        .filter(|bandwidth| bandwidth.is_finite() && *bandwidth > 0.0)
}

/// Shares in proportion to bandwidths, as the kernel counts them; none unless every next hop has one.
fn shares(hops: &[(RouteNextHop, Option<f32>)]) -> Vec<u8> {
    let bandwidths: Option<Vec<f32>> = hops.iter().map(|(_, bandwidth)| *bandwidth).collect();
    let bandwidths = bandwidths.filter(|all| all.len() > 1).unwrap_or_default();
    let most = bandwidths.iter().copied().fold(0.0, f32::max);
    let shares = bandwidths.iter().map(|bandwidth| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and 255, and a cast from float saturates"
        )]
        let share = (bandwidth / most * 255.0).round() as u8;
        share.max(1)
    });
    shares.collect()
}

fn tells_paths(group: &&mut Group) -> bool {
    group.key.add_path.is_some()
}

/// Sorts what a group refers to no more by what it is.
fn release(
    key: &GroupKey,
    units: impl Iterator<Item = Unit>,
    nets: &mut Vec<NetId>,
    paths: &mut Vec<PathRef>,
) {
    if key.add_path.is_some() {
        paths.extend(units.map(|unit| PathRef(unit.0)));
    } else {
        nets.extend(units.map(|unit| NetId(unit.0)));
    }
}

fn default_prefix<F: Key>() -> Option<F> {
    let unspecified = match F::FAMILY {
        Family::IPV6_UNICAST => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    Prefix::new(unspecified, 0).ok().and_then(F::from_prefix)
}

/// What we add to the tables, or keep back, when peers are told.
struct Own<'a> {
    aggregates: &'a Aggregates,
    default_route: Option<AttrId>,
}

/// Computes what a group tells of a net. True where the net is needed until the group's members were told: [`FamilyRib::trim`]
/// looks at it again then.
fn tell<F: Key>(
    table: &Table<F>,
    group: &mut Group,
    net: NetId,
    own: &Own<'_>,
    store: &mut AttributeStore,
    view: &View<'_>,
) -> bool {
    let prefix = table.prefix(net).into();
    let kept_back = own.aggregates.suppresses(prefix);
    let told = |group: &Group, path: &PathView, store: &AttributeStore| {
        if kept_back {
            return Err(Withheld::ByRule);
        }
        export::export(&group.key, prefix, path, store, view.facts)
    };
    let default_route = own
        .default_route
        .filter(|_| group.key.default_route && prefix.is_default());
    let Some(which) = group.key.add_path else {
        let export = match default_route {
            Some(attributes) => export::export_default(&group.key, attributes),
            None => match table.best(net) {
                Some(best) => told(group, &best, store),
                None => Err(Withheld::ByRule),
            },
        };
        group.withheld += u64::from(export == Err(Withheld::NoNextHop));
        return group.update(Unit(net.0), export.ok(), store);
    };
    let best = match which {
        AddPathSend::All => None,
        AddPathSend::Best(count) => {
            Some(table.best_paths(net, usize::from(count.get()), &view.decision(store)))
        }
    };
    for (place, path) in table.places_of(net) {
        let chosen = best.as_ref().map_or_else(
            || Table::<F>::is_usable(&path, store),
            |best| best.contains(&place),
        );
        let export = if path.peer == LOCAL && path.path_id == Some(DEFAULT_ROUTE_ID) {
            match default_route {
                Some(attributes) => export::export_default(&group.key, attributes),
                None => Err(Withheld::ByRule),
            }
        } else if chosen {
            told(group, &path, store)
        } else {
            Err(Withheld::ByRule)
        };
        group.withheld += u64::from(export == Err(Withheld::NoNextHop));
        group.update(Unit(place.0), export.ok(), store);
    }
    false
}

/// Where a path is from, by name.
pub(crate) fn source_of(slot: Slot, facts: &[PeerFacts]) -> RouteSource {
    match facts.get(usize::from(slot)) {
        Some(PeerFacts {
            name,
            address: Some(address),
            external,
            ..
        }) if slot != LOCAL => RouteSource::Peer {
            name: Arc::clone(name),
            address: *address,
            external: *external,
        },
        _ => RouteSource::Local,
    }
}
