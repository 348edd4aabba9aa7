//! Make before break: when sessions give way to others, the new ones must work before the old ones go.
//!
//! Going from the mesh to route reflectors (or back) removes sessions and adds others in one change, and every node hears of
//! the change at its own time. Two rules keep packets flowing meanwhile, whatever the order in which nodes hear of it:
//!
//! 1. **A session that is no longer configured stays** until every prefix it teaches is also taught, by a usable path, by a session
//!    that is configured, and every session that was configured lately is Established and has sent End-of-RIB; and then for
//!    [`SETTLE`] more, so that what we announced over the new sessions has reached the others. It goes at once when there is nothing
//!    to lose: it is not Established, its node is gone from the cluster, or it leads to another AS and nothing takes its place. It
//!    goes in the end, covered or not, after [`LIMIT`]; after [`ALONE`] where no other session was configured lately, which is
//!    what the removal of a BGPPeer without a successor looks like.
//! 2. **A reflector keeps reflecting** to a client that is configured as one no longer, for [`LIMIT`]: it cannot see whether the
//!    sessions that replace it are up. Reflecting into a mesh repeats what is known and changes no decision.
//!
//! The end of a session is configured on both sides, and both follow rule 1. So the side that is ready first waits until it has
//! the other side's prefixes from elsewhere, which they reach only once the other side's new sessions are up.
//!
//! Pure: no clock, no socket. [`super`] asks it whenever something changed and at the time it names.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use margay_bgp::router_id::RouterId;
use margay_bgp::speaker::config::PeerConfig;

/// The longest a session outlives its configuration. Calico's graceful restart time: peers of other makes bridge as much.
pub const LIMIT: Duration = Duration::from_secs(120);
/// How long a session without an apparent successor does: long enough for the second object of a change made of several.
pub const ALONE: Duration = Duration::from_secs(10);
/// How long everything must look complete before the old goes.
pub const SETTLE: Duration = Duration::from_secs(5);

/// A session that is configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// What the speaker is told.
    pub config: PeerConfig,
    /// What asks for it: a kind and an object. When that changes, the session counts as configured anew.
    pub asked_by: String,
    /// The node of the cluster at the other end.
    pub node: Option<String>,
    /// Both ends are in one AS.
    pub internal: bool,
}

/// How the sessions do, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Established.
    pub established: BTreeSet<String>,
    /// Established, and End-of-RIB received in every family.
    pub complete: BTreeSet<String>,
    /// Sessions with a prefix that no configured session teaches as well.
    pub uncovered: BTreeSet<String>,
}

/// What the speaker is to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Configured sessions and lingering ones, by name.
    pub peers: Vec<PeerConfig>,
    /// Names of those that are no longer configured.
    pub lingering: Vec<String>,
    /// The cluster we keep reflecting for although we are no reflector any more.
    pub cluster_id: Option<RouterId>,
    /// When to ask again, whatever happens.
    pub wake: Option<Instant>,
}

/// The sessions the speaker runs, and how each came to be.
#[derive(Clone, Debug, Default)]
pub struct Transition {
    sessions: BTreeMap<String, Held>,
    cluster_id: Option<RouterId>,
}

#[derive(Clone, Debug)]
struct Held {
    wanted: Wanted,
    /// Since when it is configured, for the reason it has now.
    since: Instant,
    leaving: Option<Leaving>,
    reflecting: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Leaving {
    since: Instant,
    /// Since when it is not needed.
    ready: Option<Instant>,
}

impl Transition {
    /// Whether progress matters at the moment: some session is to go, or may soon be.
    #[must_use]
    pub fn in_progress(&self) -> bool {
        self.sessions.values().any(|held| held.leaving.is_some())
    }

    /// Whether a session is one that is no longer configured.
    #[must_use]
    pub fn is_leaving(&self, name: &str) -> bool {
        self.sessions
            .get(name)
            .is_some_and(|held| held.leaving.is_some())
    }

    /// Decides which sessions run. `nodes` are the cluster's nodes now; `cluster_id` is ours as a reflector.
    pub fn plan(
        &mut self,
        now: Instant,
        wanted: Vec<Wanted>,
        cluster_id: Option<RouterId>,
        nodes: &BTreeSet<String>,
        progress: &Progress,
    ) -> Plan {
        let first = self.sessions.is_empty();
        let mut names = BTreeSet::new();
        for session in wanted {
            names.insert(session.config.name.clone());
            self.want(now, session, first);
        }
        let lately = |since: Instant| now.saturating_duration_since(since) < LIMIT;
        let recent: Vec<&String> = self
            .sessions
            .iter()
            .filter(|(name, held)| {
                names.contains(*name) && held.wanted.internal && lately(held.since)
            })
            .map(|(name, _)| name)
            .collect();
        let replaced = !recent.is_empty();
        let pending = recent.iter().any(|name| !progress.complete.contains(*name));
        self.sessions.retain(|name, held| {
            names.contains(name) || {
                let stays = held.stays(now, nodes, progress, name, replaced, pending);
                if !stays {
                    tracing::info!(peer = name, "session is no longer configured and goes");
                }
                stays
            }
        });
        self.answer(now, cluster_id)
    }

    /// A session that is no longer configured was not kept after all.
    pub fn end(&mut self, name: &str) {
        self.sessions
            .retain(|known, held| known != name || held.leaving.is_none());
    }

    fn want(&mut self, now: Instant, wanted: Wanted, first: bool) {
        // What a starting daemon finds is no change: there is nothing it could replace.
        let since = if first {
            now.checked_sub(LIMIT).unwrap_or(now)
        } else {
            now
        };
        match self.sessions.entry(wanted.config.name.clone()) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(Held {
                    wanted,
                    since,
                    leaving: None,
                    reflecting: None,
                });
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                let held = entry.get_mut();
                if held.leaving.take().is_some() || held.wanted.asked_by != wanted.asked_by {
                    held.since = now;
                }
                let was_client = held.wanted.config.route_reflector_client;
                let had = held.wanted.config.cluster_id;
                let stops_reflecting = was_client && !wanted.config.route_reflector_client;
                held.wanted = wanted;
                if held.wanted.config.route_reflector_client {
                    held.reflecting = None;
                } else if stops_reflecting && held.reflecting.is_none() {
                    held.reflecting = now.checked_add(LIMIT);
                }
                if held.reflecting.is_some_and(|until| until > now) {
                    held.wanted.config.route_reflector_client = true;
                    held.wanted.config.cluster_id = had;
                } else {
                    held.reflecting = None;
                }
            }
        }
    }

    fn answer(&mut self, now: Instant, cluster_id: Option<RouterId>) -> Plan {
        let reflecting = self.sessions.values().any(|held| held.reflecting.is_some());
        if cluster_id.is_some() || !reflecting {
            self.cluster_id = cluster_id;
        }
        let deadlines = self.sessions.values().flat_map(|held| {
            let leaving = held.leaving.into_iter().flat_map(|leaving| {
                [
                    leaving.ready.and_then(|at| at.checked_add(SETTLE)),
                    leaving.since.checked_add(ALONE),
                    leaving.since.checked_add(LIMIT),
                ]
            });
            leaving.chain([held.reflecting]).flatten()
        });
        Plan {
            wake: deadlines.filter(|at| *at > now).min(),
            lingering: self
                .sessions
                .iter()
                .filter(|(_, held)| held.leaving.is_some())
                .map(|(name, _)| name.clone())
                .collect(),
            peers: self
                .sessions
                .values()
                .map(|held| held.wanted.config.clone())
                .collect(),
            cluster_id: self.cluster_id,
        }
    }
}

impl Held {
    fn stays(
        &mut self,
        now: Instant,
        nodes: &BTreeSet<String>,
        progress: &Progress,
        name: &str,
        replaced: bool,
        pending: bool,
    ) -> bool {
        let node_is_gone = self
            .wanted
            .node
            .as_ref()
            .is_some_and(|node| !nodes.contains(node));
        if node_is_gone
            || !progress.established.contains(name)
            || (!self.wanted.internal && !replaced)
        {
            return false;
        }
        let leaving = self.leaving.get_or_insert_with(|| {
            tracing::info!(
                peer = name,
                "session is no longer configured; it stays until others teach what it does"
            );
            Leaving {
                since: now,
                ready: None,
            }
        });
        if !pending && !progress.uncovered.contains(name) {
            leaving.ready.get_or_insert(now);
        } else {
            leaving.ready = None;
        }
        let settled = leaving
            .ready
            .is_some_and(|at| now.saturating_duration_since(at) >= SETTLE);
        let limit = if replaced { LIMIT } else { ALONE };
        !settled && now.saturating_duration_since(leaving.since) < limit
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use margay_bgp::asn::Asn;
    use margay_bgp::policy::Policy;
    use margay_bgp::speaker::config::Remote;

    use super::*;

    fn wanted(name: &str, asked_by: &str) -> Wanted {
        let accept = Arc::new(Policy::accept_all());
        Wanted {
            config: PeerConfig::new(
                name,
                Remote::Address(format!("{name}:179").parse().expect("address")),
                Asn(64512),
                Arc::clone(&accept),
                accept,
            ),
            asked_by: asked_by.into(),
            node: Some(name.into()),
            internal: true,
        }
    }

    fn nodes() -> BTreeSet<String> {
        ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
            .map(String::from)
            .into()
    }

    fn up(names: &[&str]) -> Progress {
        let set: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Progress {
            established: set.clone(),
            complete: set,
            uncovered: BTreeSet::new(),
        }
    }

    fn names(plan: &Plan) -> Vec<&str> {
        plan.peers.iter().map(|peer| peer.name.as_str()).collect()
    }

    #[test]
    fn a_mesh_session_stays_until_the_reflector_teaches_what_it_does() {
        let start = Instant::now();
        let mut transition = Transition::default();
        let mesh = vec![wanted("10.0.0.1", "mesh"), wanted("10.0.0.2", "mesh")];
        transition.plan(start, mesh, None, &nodes(), &Progress::default());
        // The reflector is a new session; the two mesh sessions are configured no longer.
        let reflector = || vec![wanted("10.0.0.3", "BGPPeer rr")];
        let mut progress = up(&["10.0.0.1", "10.0.0.2"]);
        progress.uncovered = ["10.0.0.1", "10.0.0.2"].map(String::from).into();
        let plan = transition.plan(start, reflector(), None, &nodes(), &progress);
        assert_eq!(names(&plan), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(plan.lingering, ["10.0.0.1", "10.0.0.2"]);
        // Established is not enough while one prefix has no other path.
        let mut progress = up(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        progress.uncovered = ["10.0.0.2".to_owned()].into();
        let at = start + Duration::from_secs(30);
        assert_eq!(
            transition
                .plan(at, reflector(), None, &nodes(), &progress)
                .peers
                .len(),
            3
        );
        let at = at + SETTLE;
        assert_eq!(
            names(&transition.plan(at, reflector(), None, &nodes(), &progress)),
            ["10.0.0.2", "10.0.0.3"]
        );
        // Covered: it settles, then goes.
        let progress = up(&["10.0.0.2", "10.0.0.3"]);
        let plan = transition.plan(at, reflector(), None, &nodes(), &progress);
        assert_eq!(plan.wake, Some(at + SETTLE));
        assert_eq!(plan.peers.len(), 2);
        let plan = transition.plan(at + SETTLE, reflector(), None, &nodes(), &progress);
        assert_eq!(names(&plan), ["10.0.0.3"]);
        assert_eq!(plan.wake, None);
    }

    #[test]
    fn an_uncovered_session_goes_after_the_limit() {
        let start = Instant::now();
        let mut transition = Transition::default();
        transition.plan(
            start,
            vec![wanted("10.0.0.1", "mesh")],
            None,
            &nodes(),
            &Progress::default(),
        );
        let mut progress = up(&["10.0.0.1"]);
        progress.uncovered = ["10.0.0.1".to_owned()].into();
        let reflector = || vec![wanted("10.0.0.3", "BGPPeer rr")];
        transition.plan(start, reflector(), None, &nodes(), &progress);
        let just_before = start + LIMIT - Duration::from_millis(1);
        assert_eq!(
            transition
                .plan(just_before, reflector(), None, &nodes(), &progress)
                .peers
                .len(),
            2
        );
        assert_eq!(
            transition
                .plan(start + LIMIT, reflector(), None, &nodes(), &progress)
                .peers
                .len(),
            1
        );
    }

    #[test]
    fn a_session_without_successor_goes_soon() {
        let start = Instant::now();
        let mut transition = Transition::default();
        transition.plan(
            start,
            vec![wanted("10.0.0.1", "BGPPeer a")],
            None,
            &nodes(),
            &Progress::default(),
        );
        let mut progress = up(&["10.0.0.1"]);
        progress.uncovered = ["10.0.0.1".to_owned()].into();
        assert_eq!(
            transition
                .plan(start, vec![], None, &nodes(), &progress)
                .lingering,
            ["10.0.0.1"]
        );
        assert!(
            transition
                .plan(start + ALONE, vec![], None, &nodes(), &progress)
                .peers
                .is_empty()
        );
    }

    #[test]
    fn there_is_nothing_to_keep_of_a_session_that_is_down_or_whose_node_is_gone_or_of_a_router_outside()
     {
        let start = Instant::now();
        let mut outside = wanted("10.0.0.1", "BGPPeer tor");
        outside.internal = false;
        outside.node = None;
        let cases = [
            (wanted("10.0.0.1", "mesh"), nodes(), Progress::default()),
            (
                wanted("10.0.0.1", "mesh"),
                BTreeSet::new(),
                up(&["10.0.0.1"]),
            ),
            (outside, nodes(), up(&["10.0.0.1"])),
        ];
        for (session, nodes, progress) in cases {
            let mut transition = Transition::default();
            transition.plan(start, vec![session], None, &nodes, &Progress::default());
            assert!(
                transition
                    .plan(start, vec![], None, &nodes, &progress)
                    .peers
                    .is_empty()
            );
        }
    }

    #[test]
    fn a_neighbour_that_moves_from_the_mesh_to_a_peer_object_keeps_its_session() {
        let start = Instant::now();
        let mut transition = Transition::default();
        transition.plan(
            start,
            vec![wanted("10.0.0.1", "mesh")],
            None,
            &nodes(),
            &Progress::default(),
        );
        let plan = transition.plan(
            start,
            vec![wanted("10.0.0.1", "BGPPeer rr")],
            None,
            &nodes(),
            &up(&["10.0.0.1"]),
        );
        assert_eq!(names(&plan), ["10.0.0.1"]);
        assert!(plan.lingering.is_empty());
    }

    #[test]
    fn a_reflector_keeps_reflecting_until_the_mesh_had_its_time() {
        let start = Instant::now();
        let cluster = RouterId::new(7);
        let client = |yes: bool| {
            let mut session = wanted("10.0.0.1", if yes { "BGPPeer rr" } else { "mesh" });
            session.config.route_reflector_client = yes;
            session.config.cluster_id = cluster.filter(|_| yes);
            vec![session]
        };
        let mut transition = Transition::default();
        transition.plan(start, client(true), cluster, &nodes(), &Progress::default());
        let reflects = |plan: &Plan| plan.peers.iter().all(|peer| peer.route_reflector_client);
        let plan = transition.plan(start, client(false), None, &nodes(), &up(&["10.0.0.1"]));
        assert!(reflects(&plan));
        assert_eq!(plan.cluster_id, cluster);
        assert_eq!(plan.wake, Some(start + LIMIT));
        let plan = transition.plan(
            start + LIMIT / 2,
            client(false),
            None,
            &nodes(),
            &up(&["10.0.0.1"]),
        );
        assert!(reflects(&plan));
        let plan = transition.plan(
            start + LIMIT,
            client(false),
            None,
            &nodes(),
            &up(&["10.0.0.1"]),
        );
        assert!(!reflects(&plan));
        assert_eq!(plan.cluster_id, None);
    }
}
