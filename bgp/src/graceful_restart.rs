//! Graceful restart (RFC 4724, RFC 8538) and its long-lived form (RFC 9494), as two small machines without tables.
//!
//! [`Retention`] is the helper's side, one per peer: which families of a lost session are kept, until when, and what is to
//! be deleted or demoted at each event. [`Deferral`] is the restarting side, one per speaker: whose End-of-RIB is awaited
//! before routes are selected. Both only say what is to be done; the speaker does it to the tables in slices.
//!
//! One timer of each family bounds its whole retention: it starts with the first loss and runs on over re-establishment
//! until End-of-RIB, so that a peer that never completes, or flaps for ever, does not keep dead routes alive
//! (RFC 8538 §4 makes it mandatory). A family that was complete in between is lost for the first time again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::codec::{GracefulRestartCapability, LongLivedFamily};
use crate::family::{Family, FamilySet};

/// What is to be done to the routes of one family of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Delete every route that is not of the running session; all of them where none runs.
    DeleteOld(Family),
    /// Delete what was already old in the session that just ended.
    DeleteOlder(Family),
    /// Make every old route a long-lived stale one.
    Demote(Family),
}

pub(crate) type Steps = SmallVec<[Step; 2]>;

/// The terms on which routes of a lost session are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) capability: &'a GracefulRestartCapability,
    pub(crate) long_lived: Option<&'a [LongLivedFamily]>,
    /// Both sides set the N bit.
    pub(crate) notification: bool,
    /// How long we keep them at most.
    pub(crate) stale_time: Duration,
    /// The most we grant to long-lived stale routes; nothing where that is not configured.
    pub(crate) long_lived_limit: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kept {
    /// No old routes.
    #[default]
    Nothing,
    /// Old routes compete as if they were fresh.
    Stale {
        /// Afterwards they may be long-lived for so long.
        then: Option<Duration>,
        /// When they go although the peer is back.
        until: Instant,
    },
    /// They are the last choice, until then.
    LongLived { until: Instant },
}

/// What is kept of one peer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Retention {
    ipv4: Kept,
    ipv6: Kept,
    /// When the peer must be back.
    restart: Option<Instant>,
}

impl Retention {
    fn kept(&mut self, family: Family) -> &mut Kept {
        if family == Family::IPV6_UNICAST {
            &mut self.ipv6
        } else {
            &mut self.ipv4
        }
    }

    /// How routes of `family` are kept: stale, long-lived stale.
    pub(crate) fn state(&self, family: Family) -> crate::speaker::snapshot::Retention {
        use crate::speaker::snapshot::Retention as Shown;
        match if family == Family::IPV6_UNICAST {
            self.ipv6
        } else {
            self.ipv4
        } {
            Kept::Nothing => Shown::None,
            Kept::Stale { .. } => Shown::Stale,
            Kept::LongLived { .. } => Shown::LongLivedStale,
        }
    }

    /// A shorter time for stale routes holds for those that are kept already too.
    pub(crate) fn limit_stale(&mut self, most: Duration, now: Instant) {
        let latest = now + most;
        self.restart = self.restart.map(|deadline| deadline.min(latest));
        for kept in [&mut self.ipv4, &mut self.ipv6] {
            if let Kept::Stale { until, .. } = kept {
                *until = (*until).min(latest);
            }
        }
    }

    /// A shorter time for long-lived stale routes, or none at all, holds for those that are kept already too.
    pub(crate) fn limit_long_lived(&mut self, most: Option<Duration>, now: Instant) {
        let most = most.unwrap_or_default();
        for kept in [&mut self.ipv4, &mut self.ipv6] {
            match kept {
                Kept::Stale { then, .. } => {
                    *then = then
                        .map(|granted| granted.min(most))
                        .filter(|time| !time.is_zero());
                }
                Kept::LongLived { until } => *until = (*until).min(now + most),
                Kept::Nothing => {}
            }
        }
    }

    /// A session over `families` ended. Without terms nothing is kept.
    pub(crate) fn lost(
        &mut self,
        now: Instant,
        families: FamilySet,
        terms: Option<&Terms<'_>>,
    ) -> Steps {
        let mut steps = Steps::new();
        for family in Family::ALL {
            let Some(terms) = terms.filter(|_| families.has(family)) else {
                *self.kept(family) = Kept::Nothing;
                steps.push(Step::DeleteOld(family));
                continue;
            };
            let grant = terms.grant(family);
            let restarts = terms
                .capability
                .families
                .iter()
                .any(|kept| kept.family == family);
            match (*self.kept(family), restarts, grant) {
                (_, false, None) => {
                    *self.kept(family) = Kept::Nothing;
                    steps.push(Step::DeleteOld(family));
                }
                // RFC 9494 §4.2: the restart time of a family that only this capability lists is zero.
                (Kept::LongLived { .. }, false, Some(_)) => steps.push(Step::Demote(family)),
                (_, false, Some(grant)) => {
                    *self.kept(family) = Kept::LongLived { until: now + grant };
                    steps.push(Step::Demote(family));
                }
                // What is long-lived stale has its own time, which runs on (RFC 9494 §4.2).
                (Kept::LongLived { .. }, true, _) => {}
                (kept, true, then) => {
                    if kept != Kept::Nothing && !terms.notification {
                        // RFC 4724 §4.2: lost again before it was complete.
                        steps.push(Step::DeleteOlder(family));
                    }
                    let until = match kept {
                        Kept::Stale { until, .. } => until,
                        Kept::Nothing | Kept::LongLived { .. } => now + terms.stale_time,
                    };
                    *self.kept(family) = Kept::Stale { then, until };
                }
            }
        }
        self.restart = terms.filter(|_| self.keeps()).map(|terms| {
            let restart = Duration::from_secs(u64::from(terms.capability.restart_time));
            now + restart.min(terms.stale_time)
        });
        steps
    }

    /// A session over `families` is up: the peer is back in time.
    pub(crate) fn established(&mut self) {
        self.restart = None;
    }

    /// The peer's OPEN for a session over `families` is accepted, with what it says now. Its restart time runs on until the
    /// session is up.
    pub(crate) fn opened(
        &mut self,
        families: FamilySet,
        capability: Option<&GracefulRestartCapability>,
        long_lived: Option<&[LongLivedFamily]>,
    ) -> Steps {
        let mut steps = Steps::new();
        for family in Family::ALL {
            let kept = *self.kept(family);
            let forwards = families.has(family)
                && match kept {
                    Kept::Nothing => continue,
                    Kept::Stale { .. } => capability.is_some_and(|capability| {
                        capability
                            .families
                            .iter()
                            .any(|kept| kept.family == family && kept.forwarding)
                    }),
                    Kept::LongLived { .. } => long_lived.is_some_and(|families| {
                        families
                            .iter()
                            .any(|kept| kept.family == family && kept.forwarding)
                    }),
                };
            if !forwards {
                *self.kept(family) = Kept::Nothing;
                steps.push(Step::DeleteOld(family));
            }
        }
        self.tidy();
        steps
    }

    /// The peer sent End-of-RIB.
    pub(crate) fn end_of_rib(&mut self, family: Family) -> Option<Step> {
        let kept = std::mem::take(self.kept(family));
        self.tidy();
        (kept != Kept::Nothing).then_some(Step::DeleteOld(family))
    }

    /// Acts on the deadlines that passed.
    pub(crate) fn expire(&mut self, now: Instant) -> Steps {
        let mut steps = Steps::new();
        let restart = self.restart.is_some_and(|deadline| deadline <= now);
        let away = self.restart.is_some();
        for family in Family::ALL {
            let kept = self.kept(family);
            match *kept {
                // The stale timer runs on from the first loss, so with a second one it may come first. While the peer is away
                // that is no less a reason to demote than the restart time (RFC 9494 §4.2).
                Kept::Stale {
                    then: Some(grant),
                    until,
                } if restart || until <= now && away => {
                    *kept = Kept::LongLived { until: now + grant };
                    steps.push(Step::Demote(family));
                }
                Kept::Stale { until, .. } if restart || until <= now => {
                    *kept = Kept::Nothing;
                    steps.push(Step::DeleteOld(family));
                }
                Kept::LongLived { until } if until <= now => {
                    *kept = Kept::Nothing;
                    steps.push(Step::DeleteOld(family));
                }
                // Lost once more meanwhile: what that session had told joins the others.
                Kept::LongLived { .. } if restart => steps.push(Step::Demote(family)),
                Kept::Nothing | Kept::Stale { .. } | Kept::LongLived { .. } => {}
            }
        }
        if restart {
            self.restart = None;
        }
        self.tidy();
        steps
    }

    /// When [`Retention::expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let until = |kept: Kept| match kept {
            Kept::LongLived { until } | Kept::Stale { until, .. } => Some(until),
            Kept::Nothing => None,
        };
        [self.restart, until(self.ipv4), until(self.ipv6)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether routes of `family` of an ended session are kept.
    pub(crate) fn keeps_of(&self, family: Family) -> bool {
        match family {
            Family::IPV6_UNICAST => self.ipv6 != Kept::Nothing,
            _ => self.ipv4 != Kept::Nothing,
        }
    }

    /// Whether any routes of an ended session are kept.
    pub(crate) fn keeps(&self) -> bool {
        self.ipv4 != Kept::Nothing || self.ipv6 != Kept::Nothing
    }

    /// Whether the peer's return is awaited before its restart time: every second of its absence counts.
    pub(crate) fn is_urgent(&self) -> bool {
        self.restart.is_some()
    }

    fn tidy(&mut self) {
        if !self.keeps() {
            self.restart = None;
        }
    }
}

impl Terms<'_> {
    fn grant(&self, family: Family) -> Option<Duration> {
        let limit = self.long_lived_limit?;
        let asked = self
            .long_lived?
            .iter()
            .find(|asked| asked.family == family)?;
        let asked = Duration::from_secs(u64::from(asked.stale_time));
        Some(asked.min(limit)).filter(|grant| !grant.is_zero())
    }
}

/// What a peer is given that restarts itself, and might wait for us, or that knows nothing of graceful restart. RFC 4724
/// §4.1 waits for neither. Both do send their routes as soon as the session is up, the kernel still holds those of an
/// earlier life, and to select at once would take them out and put them in again. FRR says for two minutes after any start
/// that it restarts.
pub(crate) const GRACE: Duration = Duration::from_secs(3);

/// Whose End-of-RIB a restarted speaker awaits before it selects routes (RFC 4724 §4.1).
///
/// A peer without a session is awaited only until its own deadline, a short one: helpers keep our routes no longer than
/// their restart time, and one neighbour that is off for the night must not cost us all of it. A peer with a session is
/// awaited until the deadline of all.
#[derive(Clone, Debug)]
pub(crate) struct Deferral<P> {
    awaited: BTreeMap<P, Awaited>,
    deadline: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Awaited {
    families: FamilySet,
    /// Until when it must have a session, or be done on one where it need not say so; nothing on one where it will.
    by: Option<Instant>,
}

impl<P: Ord + Copy> Deferral<P> {
    /// Nobody is awaited.
    pub(crate) const fn none() -> Self {
        Self {
            awaited: BTreeMap::new(),
            deadline: None,
        }
    }

    /// Waits until `deadline` at most.
    pub(crate) const fn until(deadline: Instant) -> Self {
        let mut deferral = Self::none();
        deferral.deadline = Some(deadline);
        deferral
    }

    /// Awaits a peer that has no session yet, until `connected_by`.
    pub(crate) fn expect(&mut self, peer: P, families: FamilySet, connected_by: Instant) {
        if !families.is_empty() {
            self.awaited.insert(
                peer,
                Awaited {
                    families,
                    by: Some(connected_by),
                },
            );
        }
    }

    /// A session over `families` is up and will end its table with End-of-RIB: that is worth waiting for, also of a peer
    /// nobody could expect by name.
    pub(crate) fn connected(&mut self, peer: P, families: FamilySet) {
        if self.deadline.is_some() {
            let awaited = Awaited { families, by: None };
            self.awaited.insert(peer, awaited);
        }
    }

    /// A session over `families` is up whose other end may not say End-of-RIB, or only after ours; it is given until `by`.
    pub(crate) fn connected_silently(&mut self, peer: P, families: FamilySet, by: Instant) {
        if self.deadline.is_some() {
            let awaited = Awaited {
                families,
                by: Some(by),
            };
            self.awaited.insert(peer, awaited);
        }
    }

    /// The session of a peer that is awaited ended: it gets until `connected_by` once more.
    pub(crate) fn lost(&mut self, peer: P, connected_by: Instant) {
        if let Some(awaited) = self.awaited.get_mut(&peer) {
            awaited.by = Some(connected_by);
        }
    }

    /// The peer has told everything of these families, or need not be waited for.
    pub(crate) fn settle(&mut self, peer: P, families: FamilySet) {
        if let Some(awaited) = self.awaited.get_mut(&peer) {
            awaited.families -= families;
            if awaited.families.is_empty() {
                self.awaited.remove(&peer);
            }
        }
    }

    pub(crate) fn expire(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            *self = Self::none();
        }
        self.awaited
            .retain(|_, awaited| awaited.by.is_none_or(|deadline| deadline > now));
    }

    /// When [`Deferral::expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.awaited
            .values()
            .filter_map(|awaited| awaited.by)
            .chain(self.deadline)
            .min()
    }

    /// Families nobody is awaited for any more.
    pub(crate) fn complete(&self) -> FamilySet {
        self.awaited
            .values()
            .fold(FamilySet::all(), |complete, awaited| {
                complete - awaited.families
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::GracefulRestartFamily;

    const SECOND: Duration = Duration::from_secs(1);

    /// What a peer with IPv4 alone says of its restarts.
    fn capability(restart_time: u16, forwarding: bool) -> GracefulRestartCapability {
        GracefulRestartCapability {
            restarting: false,
            notification: true,
            restart_time,
            families: vec![GracefulRestartFamily {
                family: Family::IPV4_UNICAST,
                forwarding,
            }],
        }
    }

    /// What is kept of a peer that was lost at `now`.
    fn lost(now: Instant, restart_time: u16, stale_time: Duration) -> Retention {
        let terms = Terms {
            capability: &capability(restart_time, true),
            long_lived: None,
            notification: true,
            stale_time,
            long_lived_limit: None,
        };
        let mut retention = Retention::default();
        retention.lost(now, FamilySet::IPV4_UNICAST, Some(&terms));
        retention
    }

    #[test]
    fn a_peer_with_a_session_is_awaited_until_the_deferral_ends() {
        let now = Instant::now();
        let mut deferral = Deferral::until(now + 60 * SECOND);
        for peer in [1, 2] {
            deferral.expect(peer, FamilySet::all(), now + 20 * SECOND);
        }
        deferral.connected(1, FamilySet::IPV4_UNICAST);
        assert_eq!(deferral.deadline(), Some(now + 20 * SECOND));
        deferral.expire(now + 20 * SECOND);
        assert_eq!(deferral.complete(), FamilySet::IPV6_UNICAST);
        assert_eq!(deferral.deadline(), Some(now + 60 * SECOND));
        deferral.expire(now + 60 * SECOND);
        assert_eq!(deferral.complete(), FamilySet::all());
    }

    #[test]
    fn a_peer_lost_again_gets_its_grace_once_more() {
        let now = Instant::now();
        let mut deferral = Deferral::until(now + 60 * SECOND);
        deferral.expect(1, FamilySet::all(), now + 20 * SECOND);
        deferral.connected(1, FamilySet::all());
        deferral.lost(1, now + 45 * SECOND);
        deferral.expire(now + 44 * SECOND);
        assert_eq!(deferral.complete(), FamilySet::empty());
        deferral.expire(now + 45 * SECOND);
        assert_eq!(deferral.complete(), FamilySet::all());
    }

    #[test]
    fn a_peer_that_need_not_say_when_it_is_done_gets_its_grace_too_when_it_is_lost() {
        let now = Instant::now();
        let mut deferral = Deferral::until(now + 60 * SECOND);
        deferral.expect(1, FamilySet::all(), now + 20 * SECOND);
        deferral.connected_silently(1, FamilySet::all(), now + GRACE);
        deferral.lost(1, now + 22 * SECOND);
        deferral.expire(now + 21 * SECOND);
        assert_eq!(deferral.complete(), FamilySet::empty());
        deferral.expire(now + 22 * SECOND);
        assert_eq!(deferral.complete(), FamilySet::all());
    }

    #[test]
    fn a_family_that_was_complete_in_between_is_kept_for_its_whole_time_again() {
        let now = Instant::now();
        let (first, second) = (Family::IPV4_UNICAST, Family::IPV6_UNICAST);
        let mut capability = capability(120, true);
        capability.families.push(GracefulRestartFamily {
            family: second,
            forwarding: true,
        });
        let terms = Terms {
            capability: &capability,
            long_lived: None,
            notification: true,
            stale_time: 180 * SECOND,
            long_lived_limit: None,
        };
        let mut retention = Retention::default();
        retention.lost(now, FamilySet::all(), Some(&terms));
        retention.opened(FamilySet::all(), Some(&capability), None);
        retention.established();
        retention.end_of_rib(first);
        let again = now + 170 * SECOND;
        retention.lost(again, FamilySet::all(), Some(&terms));
        let steps = retention.expire(now + 180 * SECOND);
        assert_eq!(steps.as_slice(), [Step::DeleteOld(second)]);
        assert!(retention.keeps_of(first));
        let steps = retention.expire(again + 120 * SECOND);
        assert_eq!(steps.as_slice(), [Step::DeleteOld(first)]);
    }

    #[test]
    fn stale_routes_of_an_absent_peer_become_long_lived_whichever_timer_is_first() {
        let now = Instant::now();
        let family = Family::IPV4_UNICAST;
        let capability = capability(120, true);
        let long_lived = [LongLivedFamily {
            family,
            forwarding: true,
            stale_time: 1000,
        }];
        let terms = Terms {
            capability: &capability,
            long_lived: Some(&long_lived),
            notification: true,
            stale_time: 180 * SECOND,
            long_lived_limit: Some(1000 * SECOND),
        };
        let mut retention = Retention::default();
        retention.lost(now, FamilySet::of(family), Some(&terms));
        let back = now + 100 * SECOND;
        retention.opened(FamilySet::of(family), Some(&capability), Some(&long_lived));
        retention.established();
        retention.lost(back, FamilySet::of(family), Some(&terms));
        // The stale timer of the first loss is due forty seconds before the restart time of the second.
        let steps = retention.expire(now + 180 * SECOND);
        assert_eq!(steps.as_slice(), [Step::Demote(family)]);
        assert_eq!(
            retention.state(family),
            crate::speaker::snapshot::Retention::LongLivedStale
        );
        // A peer that is there but does not complete has its old routes deleted.
        let mut retention = Retention::default();
        retention.lost(now, FamilySet::of(family), Some(&terms));
        retention.opened(FamilySet::of(family), Some(&capability), Some(&long_lived));
        retention.established();
        let steps = retention.expire(now + 180 * SECOND);
        assert_eq!(steps.as_slice(), [Step::DeleteOld(family)]);
    }

    #[test]
    fn a_peers_longer_restart_time_does_not_outlast_the_stale_time() {
        let now = Instant::now();
        let family = Family::IPV4_UNICAST;
        let mut retention = lost(now, 4095, 60 * SECOND);
        assert_eq!(retention.deadline(), Some(now + 60 * SECOND));
        assert!(retention.expire(now + 59 * SECOND).is_empty());
        assert_eq!(
            retention.expire(now + 60 * SECOND).as_slice(),
            [Step::DeleteOld(family)]
        );
        assert!(!retention.keeps());
    }

    #[test]
    fn a_shorter_stale_time_holds_for_what_is_kept_already_and_a_longer_one_does_not() {
        let now = Instant::now();
        let mut retention = lost(now, 120, 180 * SECOND);
        retention.limit_stale(500 * SECOND, now);
        assert_eq!(retention.deadline(), Some(now + 120 * SECOND));
        retention.limit_stale(30 * SECOND, now + 10 * SECOND);
        assert_eq!(retention.deadline(), Some(now + 40 * SECOND));
        retention.expire(now + 40 * SECOND);
        assert!(!retention.keeps());
    }

    /// What may happen to a peer whose routes are kept.
    #[derive(Clone, Copy, Debug)]
    enum Happening {
        Lost { notification: bool },
        Back { forwarding: bool },
        EndOfRib,
        Wait(u64),
    }

    fn happening() -> impl proptest::strategy::Strategy<Value = Happening> {
        use proptest::prelude::*;
        prop_oneof![
            any::<bool>().prop_map(|notification| Happening::Lost { notification }),
            any::<bool>().prop_map(|forwarding| Happening::Back { forwarding }),
            Just(Happening::EndOfRib),
            (1..200_u64).prop_map(Happening::Wait),
        ]
    }

    /// What is to be kept, told by the story instead of by timers: when the count began, since when the peer is away, and since
    /// when what is kept is long-lived stale.
    #[derive(Clone, Copy, Debug, Default)]
    struct Story {
        first_loss: Option<Instant>,
        away_since: Option<Instant>,
        long_lived_since: Option<Instant>,
    }

    impl Story {
        fn lost(&mut self, now: Instant) {
            self.away_since = Some(now);
            if self.long_lived_since.is_none() {
                self.first_loss.get_or_insert(now);
            }
        }

        fn over(&mut self) {
            (self.first_loss, self.long_lived_since) = (None, None);
        }

        /// What time alone does until `now`.
        fn pass(&mut self, now: Instant, times: &Times) {
            if let Some(first) = self.first_loss {
                let total = first + times.stale;
                let end = self
                    .away_since
                    .map_or(total, |away| total.min(away + times.restart));
                if end <= now {
                    self.first_loss = None;
                    self.long_lived_since = self.away_since.and(times.grant).map(|_| end);
                }
            }
            if let (Some(since), Some(grant)) = (self.long_lived_since, times.grant)
                && since + grant <= now
            {
                self.over();
            }
        }

        fn kept(&self) -> crate::speaker::snapshot::Retention {
            use crate::speaker::snapshot::Retention as Shown;
            match (self.long_lived_since, self.first_loss) {
                (Some(_), _) => Shown::LongLivedStale,
                (None, Some(_)) => Shown::Stale,
                (None, None) => Shown::None,
            }
        }
    }

    struct Times {
        restart: Duration,
        stale: Duration,
        grant: Option<Duration>,
    }

    proptest::proptest! {
        /// However often a peer comes and goes: what is stale is kept exactly as long as the restart time and the stale time, which
        /// counts from the first loss, allow, what is long-lived stale exactly its own time behind that, and after End-of-RIB
        /// nothing is.
        #[test]
        fn what_is_stale_is_kept_for_its_time_no_longer_and_no_shorter(
            happenings in proptest::collection::vec(happening(), 1..60),
            long_lived in proptest::bool::ANY,
            restart in proptest::sample::select(vec![120_u16, 180, 1000]),
        ) {
            let family = Family::IPV4_UNICAST;
            let families = FamilySet::of(family);
            let stale_time = 180 * SECOND;
            let grant = [LongLivedFamily { family, forwarding: true, stale_time: 300 }];
            let times = Times {
                restart: u32::from(restart) * SECOND,
                stale: stale_time,
                grant: long_lived.then_some(300 * SECOND),
            };
            let mut now = Instant::now();
            let mut retention = Retention::default();
            let mut story = Story::default();
            for happening in happenings {
                let up = story.away_since.is_none();
                match happening {
                    Happening::Lost { notification } if up => {
                        let terms = Terms {
                            capability: &capability(restart, true),
                            long_lived: long_lived.then_some(&grant),
                            notification,
                            stale_time,
                            long_lived_limit: Some(1000 * SECOND),
                        };
                        retention.lost(now, families, Some(&terms));
                        story.lost(now);
                    }
                    Happening::Back { forwarding } if !up => {
                        retention.opened(families, Some(&capability(restart, forwarding)), Some(&grant));
                        retention.established();
                        story.away_since = None;
                        // What is long-lived stale goes by the other capability, which says that it forwards.
                        if !forwarding && story.long_lived_since.is_none() {
                            story.over();
                        }
                    }
                    Happening::EndOfRib if up => {
                        retention.end_of_rib(family);
                        story.over();
                    }
                    Happening::Wait(seconds) => {
                        let until = now + u32::try_from(seconds).expect("small") * SECOND;
                        while let Some(deadline) = retention.deadline().filter(|at| *at <= until) {
                            now = now.max(deadline);
                            retention.expire(now);
                        }
                        now = until;
                        story.pass(now, &times);
                    }
                    Happening::Lost { .. } | Happening::Back { .. } | Happening::EndOfRib => {}
                }
                proptest::prop_assert_eq!(retention.state(family), story.kept(), "{:?}", story);
            }
        }
    }
}
