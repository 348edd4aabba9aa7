//! The decision is a function of the set of paths: a strict total order inside a neighbouring AS, and the same choice for
//! every order of arrival.

#![no_main]

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr};

use libfuzzer_sys::fuzz_target;
use margay_bgp::asn::Asn;
use margay_bgp::codec::NextHop;
use margay_bgp::decision::{
    Candidate, Multipath, Options, choose, compare_with_med, compare_without_med,
};
use margay_bgp_fuzz::Choices;

/// Values are drawn from few, so that paths differ in late steps as often as in early ones.
fn candidate(choices: &mut Choices<'_>, number: u8) -> Candidate<'static> {
    let bits = choices.octet();
    let few = choices.octet();
    let late = choices.octet();
    Candidate {
        long_lived_stale: bits & 1 != 0,
        weight: u32::from(bits >> 1 & 1),
        local_pref: 100 + u32::from(bits >> 2 & 1),
        local: bits & 8 != 0,
        as_path_len: u32::from(bits >> 4 & 1),
        origin: bits >> 5 & 1,
        external: bits & 0x40 != 0,
        next_hop_metric: u32::from(bits >> 7),
        // RFC 5004 keeps what was best: then the outcome does depend on the past, and this target has nothing to say.
        incumbent: false,
        neighbour_as: Asn(u32::from(few & 3)),
        // The last one is what a missing MED counts as where it is the worst.
        med: [0, 1, 2, u32::MAX][usize::from(few >> 2 & 3)],
        as_path: u64::from(few >> 4 & 1),
        originator: u32::from(few >> 5 & 3),
        cluster_list_len: u32::from(few >> 7),
        peer_address: (late & 3 != 0).then(|| IpAddr::from([192, 0, 2, late & 3])),
        next_hop: (late & 4 != 0).then(|| NextHop::V4(Ipv4Addr::new(192, 0, 2, late >> 3 & 3))),
        next_hop_interface: None,
        discard: false,
        // Identity: two paths never agree in peer and identifier, however much else of the two peers is the same.
        peer: ["", "a", "b"][usize::from(number % 3)],
        path_id: (number >= 3).then(|| u32::from(number / 3)),
    }
}

/// What no other path of the set has.
fn name(candidate: &Candidate<'static>) -> (&'static str, Option<u32>) {
    (candidate.peer, candidate.path_id)
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let multipath = Multipath {
        maximum: usize::from(choices.below(5)),
        relax: choices.flag(),
    };
    let options = Options {
        always_compare_med: choices.flag(),
        ..multipath.into()
    };
    let mut candidates = Vec::new();
    while !choices.is_empty() && candidates.len() < 7 {
        let number = u8::try_from(candidates.len()).expect("at most seven");
        candidates.push(candidate(&mut choices, number));
    }
    for compare in [compare_with_med, compare_without_med] {
        for a in &candidates {
            assert_eq!(compare(a, a).0, Ordering::Equal);
            for b in candidates.iter().filter(|b| name(b) != name(a)) {
                let forth = compare(a, b).0;
                assert_ne!(forth, Ordering::Equal, "two paths without an order");
                assert_eq!(forth, compare(b, a).0.reverse(), "not antisymmetric");
                for c in &candidates {
                    if forth == Ordering::Less && compare(b, c).0 == Ordering::Less {
                        assert_eq!(compare(a, c).0, Ordering::Less, "not transitive");
                    }
                }
            }
        }
    }
    let Some(decision) = choose(&candidates, options) else {
        assert!(candidates.is_empty());
        return;
    };
    assert_eq!(decision.multipath.first(), Some(&decision.best));
    assert!(decision.multipath.len() <= multipath.maximum.max(1));
    let names = |candidates: &[Candidate<'static>], indices: &[usize]| -> Vec<_> {
        indices
            .iter()
            .map(|index| name(&candidates[*index]))
            .collect()
    };
    let chosen = names(&candidates, &decision.multipath);
    // Every rotation, forwards and backwards: each pair meets in both orders, each path is first once.
    let mut other = candidates.clone();
    for _ in 0..candidates.len() {
        other.rotate_left(1);
        for _ in 0..2 {
            other.reverse();
            let again = choose(&other, options).expect("there are paths");
            assert_eq!(
                names(&other, &again.multipath),
                chosen,
                "the order of arrival decided"
            );
            assert_eq!(again.step, decision.step);
        }
    }
    // A path that lost to another of its own AS changes nothing by leaving.
    for (index, loser) in candidates.iter().enumerate() {
        let beaten = candidates.iter().any(|better| {
            (better.neighbour_as == loser.neighbour_as || options.always_compare_med)
                && compare_with_med(better, loser).0 == Ordering::Less
        });
        if index != decision.best && beaten && !decision.multipath.contains(&index) {
            let mut fewer = candidates.clone();
            fewer.remove(index);
            let again = choose(&fewer, options).expect("the best is left");
            assert_eq!(
                name(&fewer[again.best]),
                name(&candidates[decision.best])
            );
        }
    }
});
