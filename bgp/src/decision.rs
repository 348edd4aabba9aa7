//! Which of several paths to one prefix is used: RFC 4271 §9.1.2 as a pure comparison that names the step that decided.
//!
//! [`choose`] looks at the set of paths and nothing else: not at the order they arrived in, not at a clock and, unless told
//! to ([`Options::prefer_oldest_external`]), not at what was chosen before. The same set therefore always gives the same answer, on this speaker and after its restart.
//!
//! MED makes this harder than sorting. It may only be compared between paths from the same neighbouring AS, so "better
//! than" is not transitive over all paths. As RFC 4271 §9.1.2.2 (c) intends, the paths are first grouped by neighbouring
//! AS and compared with MED inside each group; the winners are then compared without it ("deterministic MED").
//!
//! Departs from RFC 4271 §9.1.2 only in additions: a local weight, long-lived stale paths last (RFC 9494 §4.3), locally
//! originated paths before learned ones, the originator in place of the peer's identifier and the shorter cluster list
//! (RFC 4456 §9), and as last resort the peer's name, as one router has one link-local address on two links, and the path
//! identifier (RFC 7911 leaves it open). RFC 5004 is an option that prefers all
//! external paths of the router used so far, not only the one path: otherwise "better than" would run in circles where two
//! paths have one identifier.

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;

use smallvec::SmallVec;

use crate::asn::Asn;
use crate::codec::NextHop;

/// Everything the decision reads of a path, extracted when the path's attributes were interned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Kept beyond the restart time, or marked so by another speaker (RFC 9494).
    pub long_lived_stale: bool,
    /// Set by import policy, 0 otherwise.
    pub weight: u32,
    /// LOCAL_PREF, 100 where the path has none.
    pub local_pref: u32,
    /// Originated by this speaker.
    pub local: bool,
    /// Hops of the AS_PATH; a set counts as one.
    pub as_path_len: u32,
    /// ORIGIN as its code point: IGP, EGP, incomplete.
    pub origin: u8,
    /// The AS the path came from: the leftmost of the AS_PATH, the one we are in with the peer where it is empty.
    pub neighbour_as: Asn,
    /// MULTI_EXIT_DISC, 0 where absent.
    pub med: u32,
    /// Learned from another AS.
    pub external: bool,
    /// Cost of reaching the next hop.
    pub next_hop_metric: u32,
    /// It is external, of the router whose external path was the best so far, and that counts (RFC 5004).
    pub incumbent: bool,
    /// ORIGINATOR_ID, else the BGP Identifier of the peer; 0 for local paths.
    pub originator: u32,
    /// Entries of CLUSTER_LIST.
    pub cluster_list_len: u32,
    /// Address of the peer; nothing for local paths, which comes first.
    pub peer_address: Option<IpAddr>,
    /// Name of the peer, which no other one has; empty for local paths.
    pub peer: &'a str,
    /// Path identifier received (RFC 7911). A path kept of a session without them may stand beside one with.
    pub path_id: Option<u32>,
    /// Where packets go; nothing for local paths without one.
    pub next_hop: Option<NextHop>,
    /// The interface of a link-local next hop.
    pub next_hop_interface: Option<u32>,
    /// Policy wants its packets dropped (RFC 7999).
    pub discard: bool,
    /// Distinguishes AS paths; equal paths have equal values.
    pub as_path: u64,
}

/// The steps of the decision in the order they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// There was nothing to compare with.
    OnlyPath,
    /// Not long-lived stale (RFC 9494 §4.3).
    LongLivedStale,
    /// Higher local weight.
    Weight,
    /// Higher LOCAL_PREF.
    LocalPref,
    /// Originated here.
    Local,
    /// Shorter AS_PATH.
    AsPathLength,
    /// Lower ORIGIN.
    Origin,
    /// Lower MED among paths from one AS.
    Med,
    /// Learned from another AS.
    External,
    /// Nearer next hop.
    NextHopMetric,
    /// External, of the router used so far (RFC 5004).
    Incumbent,
    /// Lower originator or BGP Identifier.
    RouterId,
    /// Shorter CLUSTER_LIST.
    ClusterListLength,
    /// Lower peer address.
    PeerAddress,
    /// Lower name of the peer.
    PeerName,
    /// Lower path identifier.
    PathId,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OnlyPath => "only path",
            Self::LongLivedStale => "not long-lived stale",
            Self::Weight => "higher weight",
            Self::LocalPref => "higher local preference",
            Self::Local => "originated here",
            Self::AsPathLength => "shorter AS path",
            Self::Origin => "lower origin",
            Self::Med => "lower MED",
            Self::External => "external over internal",
            Self::NextHopMetric => "nearer next hop",
            Self::Incumbent => "external and used so far",
            Self::RouterId => "lower router id",
            Self::ClusterListLength => "shorter cluster list",
            Self::PeerAddress => "lower peer address",
            Self::PeerName => "lower peer name",
            Self::PathId => "lower path id",
        })
    }
}

/// How many paths may be used at once, and which count as equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multipath {
    /// The most paths used for one prefix; 1 uses the best alone.
    pub maximum: usize,
    /// Equal length suffices; otherwise external paths need the same neighbouring AS and internal ones the same AS path.
    pub relax: bool,
}

/// What an operator may choose of the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How many paths are used, and which count as equal.
    pub multipath: Multipath,
    /// MED is compared between all paths, not only between those of one neighbouring AS.
    pub always_compare_med: bool,
    /// A path without MED has the highest one instead of 0. Read where [`Candidate::med`] is made.
    pub missing_med_as_worst: bool,
    /// RFC 5004. Read where [`Candidate::incumbent`] is made.
    pub prefer_oldest_external: bool,
}

impl From<Multipath> for Options {
    fn from(multipath: Multipath) -> Self {
        Self {
            multipath,
            always_compare_med: false,
            missing_med_as_worst: false,
            prefer_oldest_external: false,
        }
    }
}

/// The outcome of [`choose`]; indices are those of its argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The best path, the one that is advertised.
    pub best: usize,
    /// The step by which the best path beat the nearest other one.
    pub step: Step,
    /// The paths used for forwarding, best first, with distinct next hops.
    pub multipath: SmallVec<[usize; 4]>,
}

/// Compares two paths of one neighbouring AS: `Less` is better. Never `Equal` for paths that differ in peer or path id.
#[must_use]
pub fn compare_with_med(a: &Candidate<'_>, b: &Candidate<'_>) -> (Ordering, Step) {
    first_difference(a, b, true)
}

/// Compares the winners of different neighbouring ASs: `Less` is better.
#[must_use]
pub fn compare_without_med(a: &Candidate<'_>, b: &Candidate<'_>) -> (Ordering, Step) {
    first_difference(a, b, false)
}

fn first_difference(a: &Candidate<'_>, b: &Candidate<'_>, with_med: bool) -> (Ordering, Step) {
    let (ordering, step) = preference(a, b, with_med);
    if ordering.is_ne() {
        return (ordering, step);
    }
    let ties = [
        (b.incumbent.cmp(&a.incumbent), Step::Incumbent),
        (a.originator.cmp(&b.originator), Step::RouterId),
        (
            a.cluster_list_len.cmp(&b.cluster_list_len),
            Step::ClusterListLength,
        ),
        (a.peer_address.cmp(&b.peer_address), Step::PeerAddress),
        (a.peer.cmp(b.peer), Step::PeerName),
    ];
    ties.into_iter()
        .find(|(ordering, _)| ordering.is_ne())
        .unwrap_or_else(|| (a.path_id.cmp(&b.path_id), Step::PathId))
}

/// The steps up to the next hop's cost: paths that tie here are equally good and only need an order.
fn preference(a: &Candidate<'_>, b: &Candidate<'_>, with_med: bool) -> (Ordering, Step) {
    let better_if = |a: bool, b: bool| b.cmp(&a);
    let mut step = Step::LongLivedStale;
    let ordering = a
        .long_lived_stale
        .cmp(&b.long_lived_stale)
        .then_with(|| {
            step = Step::Weight;
            b.weight.cmp(&a.weight)
        })
        .then_with(|| {
            step = Step::LocalPref;
            b.local_pref.cmp(&a.local_pref)
        })
        .then_with(|| {
            step = Step::Local;
            better_if(a.local, b.local)
        })
        .then_with(|| {
            step = Step::AsPathLength;
            a.as_path_len.cmp(&b.as_path_len)
        })
        .then_with(|| {
            step = Step::Origin;
            a.origin.cmp(&b.origin)
        })
        .then_with(|| {
            step = Step::Med;
            if with_med {
                a.med.cmp(&b.med)
            } else {
                Ordering::Equal
            }
        })
        .then_with(|| {
            step = Step::External;
            better_if(a.external, b.external)
        })
        .then_with(|| {
            step = Step::NextHopMetric;
            a.next_hop_metric.cmp(&b.next_hop_metric)
        });
    (ordering, step)
}

/// Chooses among usable paths; nothing where there are none.
#[must_use]
pub fn choose(candidates: &[Candidate<'_>], options: Options) -> Option<Decision> {
    let (first, rest) = candidates.split_first()?;
    if rest.is_empty() {
        return Some(Decision {
            best: 0,
            step: Step::OnlyPath,
            multipath: SmallVec::from_slice(&[0]),
        });
    }
    let winners = winners(candidates, first, rest, options)?;
    // One of one group is compared with nobody; several groups are compared without MED.
    let best = minimum(candidates, winners.iter().copied(), false)?;
    let chosen = candidates.get(best)?;
    let step = (0..candidates.len())
        .filter(|index| *index != best)
        .filter_map(|index| {
            candidates
                .get(index)
                .map(|other| lost_by(chosen, other, options))
        })
        .max()
        .unwrap_or(Step::OnlyPath);
    Some(Decision {
        best,
        step,
        multipath: equal_paths(candidates, best, &winners, options),
    })
}

/// Only the best path; nothing where there are none.
pub(crate) fn best(candidates: &[Candidate<'_>], options: Options) -> Option<usize> {
    let (first, rest) = candidates.split_first()?;
    let winners = winners(candidates, first, rest, options)?;
    minimum(candidates, winners.iter().copied(), false)
}

/// The step by which `other` lost against `best`: with MED where both come from one AS, or it is always compared.
#[must_use]
pub fn lost_by(best: &Candidate<'_>, other: &Candidate<'_>, options: Options) -> Step {
    let with_med = options.always_compare_med || best.neighbour_as == other.neighbour_as;
    first_difference(best, other, with_med).1
}

/// The best of each group inside which MED is compared.
fn winners(
    candidates: &[Candidate<'_>],
    first: &Candidate<'_>,
    rest: &[Candidate<'_>],
    options: Options,
) -> Option<SmallVec<[usize; 8]>> {
    let one_group = options.always_compare_med
        || rest
            .iter()
            .all(|other| other.neighbour_as == first.neighbour_as);
    Some(if one_group {
        SmallVec::from_slice(&[minimum(candidates, 0..candidates.len(), true)?])
    } else {
        group_winners(candidates)
    })
}

fn minimum(
    candidates: &[Candidate<'_>],
    among: impl Iterator<Item = usize>,
    with_med: bool,
) -> Option<usize> {
    among
        .filter_map(|index| candidates.get(index).map(|candidate| (index, candidate)))
        .min_by(|(_, a), (_, b)| first_difference(a, b, with_med).0)
        .map(|(index, _)| index)
}

fn group_winners(candidates: &[Candidate<'_>]) -> SmallVec<[usize; 8]> {
    let mut order: SmallVec<[usize; 16]> = (0..candidates.len()).collect();
    let neighbour = |index: &usize| {
        candidates
            .get(*index)
            .map(|candidate| candidate.neighbour_as)
    };
    order.sort_by_key(neighbour);
    order
        .chunk_by(|a, b| neighbour(a) == neighbour(b))
        .filter_map(|group| minimum(candidates, group.iter().copied(), true))
        .collect()
}

/// The paths as good as the best one: they tie with it in every step up to the next hop's cost, did not lose to a lower
/// MED inside their own AS, and lead elsewhere. Ordered as the last steps order them, so that a change of one path
/// moves few of the others.
fn equal_paths(
    candidates: &[Candidate<'_>],
    best: usize,
    winners: &[usize],
    options: Options,
) -> SmallVec<[usize; 4]> {
    let Options {
        multipath,
        always_compare_med,
        ..
    } = options;
    let mut chosen = SmallVec::from_slice(&[best]);
    let Some(reference) = candidates.get(best) else {
        return chosen;
    };
    if multipath.maximum <= 1 {
        return chosen;
    }
    let equal = |candidate: &Candidate<'_>| {
        // Packets dropped are not a share of those passed on.
        if candidate.discard != reference.discard
            || preference(candidate, reference, always_compare_med)
                .0
                .is_ne()
        {
            return false;
        }
        let same_origin = multipath.relax
            || if candidate.external {
                candidate.neighbour_as == reference.neighbour_as
            } else {
                candidate.as_path == reference.as_path
            };
        same_origin
            && winners
                .iter()
                .filter_map(|winner| candidates.get(*winner))
                .find(|winner| winner.neighbour_as == candidate.neighbour_as)
                .is_none_or(|winner| winner.med == candidate.med)
    };
    let mut others: SmallVec<[(usize, &Candidate<'_>); 8]> = candidates
        .iter()
        .enumerate()
        .filter(|(index, candidate)| *index != best && equal(candidate))
        .collect();
    others.sort_by(|(_, a), (_, b)| first_difference(a, b, false).0);
    let place = |candidate: &Candidate<'_>| (candidate.next_hop, candidate.next_hop_interface);
    let mut next_hops: SmallVec<[_; 4]> = SmallVec::new();
    next_hops.push(place(reference));
    for (index, candidate) in others {
        if chosen.len() >= multipath.maximum {
            break;
        }
        if !next_hops.contains(&place(candidate)) {
            next_hops.push(place(candidate));
            chosen.push(index);
        }
    }
    chosen
}

#[cfg(test)]
mod tests;
