use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;

const ECMP: Options = Options {
    multipath: Multipath {
        maximum: 64,
        relax: true,
    },
    always_compare_med: false,
    missing_med_as_worst: false,
    prefer_oldest_external: false,
};

fn via(id: u32) -> Option<NextHop> {
    Some(NextHop::V4(Ipv4Addr::from_bits(0x0a00_0000 + id)))
}

fn path(id: u32) -> Candidate<'static> {
    Candidate {
        long_lived_stale: false,
        weight: 0,
        local_pref: 100,
        local: false,
        as_path_len: 2,
        origin: 0,
        neighbour_as: Asn(64600),
        med: 0,
        external: true,
        next_hop_metric: 0,
        incumbent: false,
        originator: 10,
        cluster_list_len: 0,
        peer_address: Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))),
        peer: "a",
        path_id: Some(id),
        next_hop: via(id),
        next_hop_interface: None,
        discard: false,
        as_path: 1,
    }
}

#[track_caller]
fn decides(step: Step, better: impl Fn(&mut Candidate<'_>), worse: impl Fn(&mut Candidate<'_>)) {
    let (mut winner, mut loser) = (path(1), path(1));
    better(&mut winner);
    worse(&mut loser);
    for (candidates, best) in [([winner, loser], 0), ([loser, winner], 1)] {
        let decision = choose(&candidates, ECMP).expect("two paths");
        assert_eq!((decision.best, decision.step), (best, step));
    }
}

#[test]
fn each_step_decides_where_only_it_differs() {
    decides(Step::LongLivedStale, |_| {}, |p| p.long_lived_stale = true);
    decides(Step::Weight, |p| p.weight = 1, |_| {});
    decides(Step::LocalPref, |p| p.local_pref = 101, |_| {});
    decides(Step::Local, |p| p.local = true, |_| {});
    decides(Step::AsPathLength, |_| {}, |p| p.as_path_len = 3);
    decides(Step::Origin, |_| {}, |p| p.origin = 1);
    decides(Step::Med, |_| {}, |p| p.med = 1);
    decides(Step::External, |_| {}, |p| p.external = false);
    decides(Step::NextHopMetric, |_| {}, |p| p.next_hop_metric = 1);
    decides(Step::RouterId, |_| {}, |p| p.originator = 11);
    decides(Step::ClusterListLength, |_| {}, |p| p.cluster_list_len = 1);
    decides(
        Step::PeerAddress,
        |_| {},
        |p| p.peer_address = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2))),
    );
    decides(Step::PeerName, |_| {}, |p| p.peer = "b");
    decides(Step::PathId, |_| {}, |p| p.path_id = Some(2));
    decides(Step::PathId, |p| p.path_id = None, |p| p.path_id = Some(0));
}

#[test]
fn a_single_path_is_chosen_without_comparison() {
    let decision = choose(&[path(1)], ECMP).expect("one path");
    assert_eq!(decision.step, Step::OnlyPath);
    assert_eq!(decision.multipath.as_slice(), [0]);
    assert_eq!(choose(&[], ECMP), None);
}

#[test]
fn med_is_compared_only_within_one_neighbouring_as() {
    let mut low_med_elsewhere = path(1);
    low_med_elsewhere.neighbour_as = Asn(64601);
    low_med_elsewhere.originator = 12;
    let mut high_med = path(2);
    high_med.med = 50;
    let decision = choose(&[low_med_elsewhere, high_med], ECMP).expect("two paths");
    assert_eq!((decision.best, decision.step), (1, Step::RouterId));
}

#[test]
fn med_inversion_of_three_paths_has_one_winner_in_every_order() {
    // Pairwise, a beats b by router id, b beats c by router id, c beats a by MED: no pairwise insertion settles this.
    let mut a = path(1);
    (a.neighbour_as, a.med, a.originator) = (Asn(1), 10, 1);
    let mut b = path(2);
    (b.neighbour_as, b.med, b.originator) = (Asn(2), 0, 2);
    let mut c = path(3);
    (c.neighbour_as, c.med, c.originator) = (Asn(1), 5, 3);
    for order in [
        [a, b, c],
        [a, c, b],
        [b, a, c],
        [b, c, a],
        [c, a, b],
        [c, b, a],
    ] {
        let decision = choose(&order, ECMP).expect("three paths");
        assert_eq!(order[decision.best].path_id, Some(2));
    }
}

#[test]
fn equal_paths_have_distinct_next_hops_and_one_kind() {
    let mut second = path(2);
    second.originator = 11;
    let mut same_next_hop = path(3);
    (same_next_hop.originator, same_next_hop.next_hop) = (12, via(1));
    let mut internal = path(4);
    internal.external = false;
    let decision = choose(&[second, internal, same_next_hop, path(1)], ECMP).expect("four paths");
    assert_eq!(decision.best, 3);
    assert_eq!(decision.multipath.as_slice(), [3, 0]);
}

#[test]
fn dropped_packets_are_not_a_share_of_those_passed_on() {
    let mut dropped = path(2);
    dropped.discard = true;
    let ordinary = choose(&[path(1), dropped, path(3)], ECMP).expect("three paths");
    assert_eq!(ordinary.multipath.as_slice(), [0, 2]);
    dropped.local_pref = 200;
    let all_dropped = choose(&[path(1), dropped, path(3)], ECMP).expect("three paths");
    assert_eq!(all_dropped.multipath.as_slice(), [1]);
}

#[test]
fn different_neighbours_are_equal_only_when_relaxed() {
    let mut other = path(2);
    (other.neighbour_as, other.as_path) = (Asn(64700), 2);
    let relaxed = choose(&[path(1), other], ECMP).expect("two paths");
    assert_eq!(relaxed.multipath.len(), 2);
    let strict = Options::from(Multipath {
        relax: false,
        ..ECMP.multipath
    });
    let strict = choose(&[path(1), other], strict).expect("two paths");
    assert_eq!(strict.multipath.len(), 1);
}

#[test]
fn a_path_that_lost_by_med_is_not_used_beside_the_best() {
    let mut worse = path(2);
    worse.med = 9;
    let decision = choose(&[path(1), worse], ECMP).expect("two paths");
    assert_eq!(decision.multipath.as_slice(), [0]);
}

#[test]
fn d21_of_more_equal_paths_than_allowed_the_same_ones_are_taken() {
    let mut paths: Vec<_> = (0..70).map(path).collect();
    let forward = choose(&paths, ECMP).expect("paths");
    let chosen: Vec<_> = forward
        .multipath
        .iter()
        .map(|index| paths[*index].path_id)
        .collect();
    paths.reverse();
    let backward = choose(&paths, ECMP).expect("paths");
    let again: Vec<_> = backward
        .multipath
        .iter()
        .map(|index| paths[*index].path_id)
        .collect();
    assert_eq!(chosen.len(), 64);
    assert_eq!(chosen, again);
}

prop_compose! {
    fn any_path()(
        stale in any::<bool>(), local_pref in 99_u32..102, hops in 0_u32..3, origin in 0_u8..3, asn in 1_u32..4,
        med in 0_u32..3, external in any::<bool>(), originator in 0_u32..3, clusters in 0_u32..2, peer in 0_u8..4,
        path_id in 0_u32..3, next_hop in 0_u32..4, name in 0_usize..3, metric in 0_u32..2, incumbent in any::<bool>(), weight in 0_u32..2, local in any::<bool>(),
    ) -> Candidate<'static> {
        Candidate {
            long_lived_stale: stale, weight, local_pref, local, as_path_len: hops, origin,
            neighbour_as: Asn(asn), med, external, next_hop_metric: metric, incumbent: incumbent && external, originator, cluster_list_len: clusters,
            peer_address: Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, peer))),
            // One router over several links has one address and identifier on each.
            peer: ["a", "b", "c"][name], path_id: path_id.checked_sub(1), next_hop: via(next_hop), next_hop_interface: None, discard: false, as_path: u64::from(asn),
        }
    }
}

/// Paths of which many differ in nothing but whose they are and where they lead, as those of one router over several links.
fn any_paths(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Candidate<'static>>> {
    prop::collection::vec((any_path(), any::<bool>()), count).prop_map(|drawn| {
        let mut paths: Vec<Candidate<'static>> = Vec::new();
        for (path, alike) in drawn {
            paths.push(match paths.last() {
                Some(last) if alike => Candidate {
                    peer: path.peer,
                    path_id: path.path_id,
                    next_hop: path.next_hop,
                    ..*last
                },
                _ => path,
            });
        }
        paths
    })
}

proptest! {
    #[test]
    fn the_choice_depends_on_the_set_alone(
        paths in any_paths(1..10), seed in any::<u64>(), maximum in 0_usize..6, relax in any::<bool>(),
        always_compare_med in any::<bool>(),
    ) {
        let options = Options { multipath: Multipath { maximum, relax }, always_compare_med, ..ECMP };
        // Peer and path id identify a path, so no two of a set share both.
        let mut set: Vec<Candidate<'_>> = Vec::new();
        for path in paths {
            if !set.iter().any(|other| (other.peer, other.path_id) == (path.peer, path.path_id)) {
                set.push(path);
            }
        }
        let chosen = |set: &[Candidate<'static>]| {
            let decision = choose(set, options).expect("not empty");
            let multipath: Vec<Candidate<'static>> = decision.multipath.iter().map(|index| set[*index]).collect();
            (set[decision.best], decision.step, multipath)
        };
        let before = chosen(&set);
        let mut shuffled = set.clone();
        let mut state = seed;
        for index in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(index, (state >> 33) as usize % (index + 1));
        }
        prop_assert_eq!(&before, &chosen(&shuffled));
        // The paths used are no more than allowed, as good as the best, of one kind, and lead to different places.
        let (best, _, used) = before;
        prop_assert_eq!(used[0], best);
        prop_assert!(used.len() <= maximum.max(1));
        for (index, path) in used.iter().enumerate() {
            let worth = |path: &Candidate<'_>| {
                (path.long_lived_stale, path.weight, path.local_pref, path.local, path.as_path_len, path.origin, path.external, path.next_hop_metric)
            };
            prop_assert_eq!(worth(path), worth(&best));
            prop_assert!(used[..index].iter().all(|other| other.next_hop != path.next_hop));
            prop_assert!(relax || path.neighbour_as == best.neighbour_as);
            prop_assert!(!set.iter().any(|other| other.neighbour_as == path.neighbour_as && compare_with_med(other, path).1 == Step::Med && compare_with_med(other, path).0.is_lt()
                && worth(other) == worth(path)), "used beside a path of its AS with a lower MED");
        }
    }

    #[test]
    fn within_one_neighbouring_as_the_order_is_strict_and_total(mut paths in any_paths(2..6)) {
        // One AS, and each path another peer's or identifier: nothing of a table ties.
        for (number, path) in (0_u32..).zip(&mut paths) {
            // Of half of the peers each has two paths.
            path.peer = ["a", "b", "c", "d"][number as usize % 4];
            (path.neighbour_as, path.path_id) = (Asn(1), number.checked_sub(4));
        }
        for compare in [compare_with_med, compare_without_med] {
            for a in &paths {
                for b in &paths {
                    let (ab, ba) = (compare(a, b).0, compare(b, a).0);
                    prop_assert_eq!(ab, ba.reverse());
                    prop_assert_eq!(ab.is_eq(), (a.peer, a.path_id) == (b.peer, b.path_id));
                    for c in &paths {
                        if ab.is_lt() && compare(b, c).0.is_lt() {
                            prop_assert!(compare(a, c).0.is_lt());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn with_med_always_compared_the_best_is_the_minimum(paths in any_paths(1..8)) {
        let options = Options { always_compare_med: true, ..ECMP };
        let decision = choose(&paths, options).expect("not empty");
        for path in &paths {
            prop_assert!(compare_with_med(&paths[decision.best], path).0.is_le());
        }
    }
}
