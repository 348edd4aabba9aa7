//! What to do about routes: which key next, put or remove, or wait for what. Decides; `apply` asks the kernel.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::DataplaneConfig;
use super::diff::DeltaTracker;
use super::ownership::Ownership;
use super::retry::{Blocked, Pacing, Reason};
use crate::desired::state::DesiredState;
use crate::kernel::{IpVersion, KernelError, Link, Route, RouteChange, RouteKey};

/// The order of work: a pod's own route first, since somebody waits for it; removals last, since what is put may take
/// the place of what goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Local,
    Remote,
    Removal,
}

/// Links by name, as far as routes care.
pub(super) type Links = BTreeMap<String, Link>;

/// Everything known about routes.
#[derive(Debug)]
pub(super) struct Routes {
    tracker: DeltaTracker<RouteKey, Arc<Route>>,
    ownership: Ownership,
    /// Routes of others in our table; they may hold keys of ours.
    foreign: BTreeMap<RouteKey, Route>,
    /// Pending keys that wait for an event or a time.
    blocked: BTreeMap<RouteKey, Blocked>,
    /// When blocked and graceful keys are to be looked at again.
    timers: BTreeSet<(Instant, RouteKey)>,
    /// Keys to look at.
    dirty: BTreeSet<(Turn, RouteKey)>,
    /// Routes on pods' interfaces that nobody ever desired, since when.
    unclaimed: BTreeMap<RouteKey, Instant>,
    /// Desired routes that somebody changed, since when.
    drifted: BTreeMap<RouteKey, Instant>,
    /// Whether unlisted routes may be removed, by IP version.
    may_remove: [bool; 2],
    grace: Duration,
    pacing: Pacing,
}

/// What happened to a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Put {
        /// Time from the event that told of the drift, if it was one.
        repaired_after: Option<Duration>,
    },
    Removed,
    Refused,
    /// Something unknown holds the key: the tables must be read again.
    Unknown,
}

impl Routes {
    pub(super) fn new(config: &DataplaneConfig) -> Self {
        Self {
            tracker: DeltaTracker::default(),
            ownership: Ownership::new(config),
            foreign: BTreeMap::new(),
            blocked: BTreeMap::new(),
            timers: BTreeSet::new(),
            dirty: BTreeSet::new(),
            unclaimed: BTreeMap::new(),
            drifted: BTreeMap::new(),
            may_remove: [false; 2],
            grace: config.grace,
            pacing: Pacing::new(config),
        }
    }

    /// Tells pods' interfaces by another configuration from now on.
    pub(super) fn own_by(&mut self, config: &DataplaneConfig) {
        self.ownership = Ownership::new(config);
    }

    pub(super) fn ownership(&self) -> &Ownership {
        &self.ownership
    }

    pub(super) fn foreign(&self) -> &BTreeMap<RouteKey, Route> {
        &self.foreign
    }

    pub(super) fn blocked(&self) -> impl Iterator<Item = (&RouteKey, &Blocked)> {
        self.blocked.iter()
    }

    pub(super) fn blocked_count(&self) -> usize {
        self.blocked.len()
    }

    pub(super) fn desired_count(&self) -> usize {
        self.tracker.all_desired().len()
    }

    pub(super) fn pending_count(&self) -> usize {
        self.tracker.pending_puts().len()
    }

    pub(super) fn unlisted_count(&self) -> usize {
        self.tracker.pending_removals().len()
    }

    pub(super) fn is_settled(&self, key: &RouteKey) -> bool {
        self.tracker.is_settled(key)
    }

    /// Whether any key can be worked on now.
    pub(super) fn has_work(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Takes in a new desired state.
    pub(super) fn set_desired(&mut self, state: &DesiredState) {
        let protocol = self.ownership.protocol();
        let changed = self.tracker.replace_desired(
            &state.routes,
            |before, wish| **before == *wish,
            |key, route| {
                Arc::new(Route {
                    protocol,
                    ..route.clone().normalised(key.version())
                })
            },
        );
        for key in changed {
            self.unclaimed.remove(&key);
            if self.tracker.desired(&key).is_none() {
                self.drifted.remove(&key);
            }
            self.unblock(&key);
        }
        let kept = |version: IpVersion| {
            state.keep_unlisted.iter().any(|family| {
                *family
                    == match version {
                        IpVersion::V4 => margay_bgp::family::Family::IPV4_UNICAST,
                        IpVersion::V6 => margay_bgp::family::Family::IPV6_UNICAST,
                    }
            })
        };
        let may_remove =
            [IpVersion::V4, IpVersion::V6].map(|version| state.in_sync && !kept(version));
        if may_remove != self.may_remove {
            self.may_remove = may_remove;
            for key in self.tracker.pending_removals() {
                self.dirty.insert((Turn::Removal, *key));
            }
        }
    }

    /// Takes in a whole dump of one IP version, or of both, and returns how many routes turned out to need a change that no
    /// event had told of.
    pub(super) fn set_observed(
        &mut self,
        found: Vec<(RouteKey, Route)>,
        version: Option<IpVersion>,
    ) -> usize {
        let selected = |key: &RouteKey| version.is_none_or(|version| key.version() == version);
        let mut ours = HashMap::new();
        let mut foreign = BTreeMap::new();
        for (key, route) in found {
            if self.ownership.owns_route(&route) {
                ours.insert(key, Arc::new(route));
            } else {
                foreign.insert(key, route);
            }
        }
        let gone: Vec<RouteKey> = self
            .foreign
            .keys()
            .filter(|key| selected(key) && !foreign.contains_key(key))
            .copied()
            .collect();
        self.foreign.retain(|key, _| !selected(key));
        self.foreign.extend(foreign);
        let changed = self.tracker.replace_observed(ours, selected);
        for key in gone.iter().chain(&changed) {
            self.note_unclaimed(key);
            self.unblock(key);
        }
        for key in &changed {
            if self.tracker.pending_puts().contains(key) {
                self.drifted.entry(*key).or_insert_with(Instant::now);
            }
        }
        changed
            .iter()
            .filter(|key| {
                self.tracker.pending_puts().contains(key)
                    || self.tracker.pending_removals().contains(key)
            })
            .count()
    }

    /// An event says that a route is there. Returns whether others' routes changed by it.
    pub(super) fn route_set(&mut self, key: RouteKey, route: Route) -> bool {
        if self.ownership.owns_route(&route) {
            let was_foreign = self.foreign.remove(&key).is_some();
            self.observe(key, Some(route));
            return was_foreign;
        }
        // Whoever put it replaced ours, unless it was appended beside it: then ours is still there, and the audit, which
        // reads both, tells. Until then the conflict is real either way.
        self.observe(key, None);
        let changed = self.foreign.insert(key, route.clone()).as_ref() != Some(&route);
        self.mark(key);
        changed
    }

    /// An event says that a route is gone. Returns whether others' routes changed by it.
    pub(super) fn route_gone(&mut self, key: RouteKey, route: &Route) -> bool {
        if self.ownership.owns_route(route) {
            self.observe(key, None);
            return false;
        }
        let changed = self
            .foreign
            .get(&key)
            .is_some_and(|there| there.protocol == route.protocol)
            && self.foreign.remove(&key).is_some();
        self.unblock(&key);
        changed
    }

    /// Whether an event about this route may be only a part of the truth: IPv6 tells of single hops of an ECMP route.
    pub(super) fn is_partial(&self, key: &RouteKey, route: &Route) -> bool {
        key.version() == IpVersion::V6
            && [self.tracker.observed(key), self.tracker.desired(key)]
                .into_iter()
                .flatten()
                .any(|known| known.next_hops.len() > 1 || route.next_hops.len() > 1)
    }

    /// The kernel has silently dropped the routes of an interface that went down or away. Returns whether ECMP routes
    /// were among them, of which only a dump can tell what is left.
    pub(super) fn interface_lost(&mut self, interface: &str) -> bool {
        let mut several = false;
        let lost: Vec<RouteKey> = self
            .tracker
            .all_observed()
            .iter()
            .filter(|(_, route)| route.uses(interface))
            .filter(|(_, route)| {
                several |= route.next_hops.len() > 1;
                route.next_hops.len() == 1
            })
            .map(|(key, _)| *key)
            .collect();
        for key in lost {
            self.tracker.set_observed(key, None);
            self.unclaimed.remove(&key);
            self.unblock(&key);
        }
        self.foreign.retain(|_, route| {
            several |= route.next_hops.len() > 1 && route.uses(interface);
            !(route.next_hops.len() == 1 && route.uses(interface))
        });
        several
    }

    /// A link came up or an address appeared: what waited for one is looked at again.
    pub(super) fn link_ready(&mut self) {
        let waiting: Vec<RouteKey> = self
            .blocked
            .iter()
            .filter(|(_, blocked)| blocked.reason.waits_for_link())
            .map(|(key, _)| *key)
            .collect();
        for key in waiting {
            self.mark(key);
        }
    }

    /// Moves what is due from the timers to the work.
    pub(super) fn run_timers(&mut self, now: Instant) {
        while let Some((at, key)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            self.mark(key);
        }
    }

    /// The next changes to ask the kernel for, at most `limit`. Puts come before removals, and never share a call
    /// with them.
    pub(super) fn next_changes(&mut self, limit: usize, links: &Links) -> Vec<RouteChange> {
        let mut changes = Vec::new();
        while changes.len() < limit {
            let Some((turn, key)) = self.dirty.first().copied() else {
                break;
            };
            if turn == Turn::Removal
                && matches!(
                    changes.last(),
                    Some(RouteChange::Add(..) | RouteChange::Replace(..))
                )
            {
                break;
            }
            self.dirty.pop_first();
            changes.extend(self.consider(key, links));
        }
        changes
    }

    fn consider(&mut self, key: RouteKey, links: &Links) -> Option<RouteChange> {
        let observed = self.tracker.observed(&key);
        let Some(desired) = self.tracker.desired(&key) else {
            let protocol = observed?.protocol;
            return self
                .may_remove_now(key)
                .then_some(RouteChange::Delete(key, protocol));
        };
        if self.tracker.is_settled(&key) {
            self.blocked.remove(&key);
            self.drifted.remove(&key);
            return None;
        }
        if let Some(foreign) = self.foreign.get(&key) {
            let reason = Reason::Conflict(foreign.protocol);
            self.block(key, reason);
            return None;
        }
        if let Some(reason) = missing_link(desired, links) {
            self.block(key, reason);
            return None;
        }
        let desired = desired.clone();
        Some(match observed {
            // We have seen ourselves that what is replaced is ours.
            Some(_) => RouteChange::Replace(key, desired),
            None => RouteChange::Add(key, desired),
        })
    }

    fn may_remove_now(&mut self, key: RouteKey) -> bool {
        let [v4, v6] = self.may_remove;
        let allowed = match key.version() {
            IpVersion::V4 => v4,
            IpVersion::V6 => v6,
        };
        if !allowed {
            return false;
        }
        match self.unclaimed.get(&key).map(|since| *since + self.grace) {
            Some(end) if end > Instant::now() => {
                self.timers.insert((end, key));
                false
            }
            _ => true,
        }
    }

    /// Takes in the kernel's answer to one change.
    pub(super) fn record(
        &mut self,
        change: &RouteChange,
        result: Result<(), KernelError>,
    ) -> Outcome {
        let key = change.key();
        match (change, result) {
            (RouteChange::Add(_, route) | RouteChange::Replace(_, route), Ok(())) => {
                self.tracker.set_observed(key, Some(route.clone()));
                self.blocked.remove(&key);
                Outcome::Put {
                    repaired_after: self.drifted.remove(&key).map(|since| since.elapsed()),
                }
            }
            (RouteChange::Delete(..), Ok(())) => {
                self.tracker.set_observed(key, None);
                self.blocked.remove(&key);
                self.unclaimed.remove(&key);
                Outcome::Removed
            }
            (_, Err(error)) => {
                let unknown = error == KernelError::Exists;
                self.block(key, Reason::Refused(error));
                if unknown {
                    Outcome::Unknown
                } else {
                    Outcome::Refused
                }
            }
        }
    }

    fn observe(&mut self, key: RouteKey, route: Option<Route>) {
        let route = route.map(Arc::new);
        let was_settled = self.tracker.is_settled(&key);
        if !self.tracker.set_observed(key, route) {
            return;
        }
        if was_settled && !self.tracker.is_settled(&key) {
            self.drifted.entry(key).or_insert_with(Instant::now);
        }
        self.note_unclaimed(&key);
        self.unblock(&key);
    }

    /// A pod's route that nobody desires (yet): the plugin writes it just before the agent hears of the pod.
    fn note_unclaimed(&mut self, key: &RouteKey) {
        let unclaimed = self.tracker.desired(key).is_none()
            && self
                .tracker
                .observed(key)
                .is_some_and(|route| self.ownership.is_pod_route(route));
        if unclaimed {
            self.unclaimed.entry(*key).or_insert_with(Instant::now);
        } else {
            self.unclaimed.remove(key);
        }
    }

    fn block(&mut self, key: RouteKey, reason: Reason) {
        let blocked = Blocked::again(self.blocked.get(&key), reason, &self.pacing);
        if let Some(at) = blocked.retry_at {
            self.timers.insert((at, key));
        }
        self.blocked.insert(key, blocked);
    }

    /// Forgets why a key waited, and looks at it again.
    fn unblock(&mut self, key: &RouteKey) {
        self.blocked.remove(key);
        self.mark(*key);
    }

    fn mark(&mut self, key: RouteKey) {
        let turn = match self.tracker.desired(&key) {
            None => Turn::Removal,
            Some(route) if self.ownership.is_pod_route(route) => Turn::Local,
            Some(_) => Turn::Remote,
        };
        self.dirty.insert((turn, key));
    }
}

/// The first interface a route needs and cannot have. Asking the kernel would give the same answer, once per route.
fn missing_link(route: &Route, links: &Links) -> Option<Reason> {
    route
        .next_hops
        .iter()
        .filter_map(|hop| hop.interface.as_ref())
        .find_map(|name| match links.get(name) {
            None => Some(Reason::NoLink(name.clone())),
            Some(link) if !link.up => Some(Reason::LinkDown(name.clone())),
            Some(_) => None,
        })
}
