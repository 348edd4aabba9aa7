//! RFC 4271 §9 and RFC 4456 once more, the slow way: for each neighbour and prefix, from all that was announced.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use margay_bgp::asn::Asn;
use margay_bgp::codec::{Community, LocalPref, NextHop, PathAttributes};
use margay_bgp::prefix::Prefix;
use margay_bgp::router_id::RouterId;

use crate::world::{
    CLUSTER, Held, KINDS, Kind, OWN_ASN, OWN_ID, State, id_of, own_address, prefix,
};

type Path = (usize, u8, PathAttributes, NextHop);

fn is_external(who: usize) -> bool {
    matches!(KINDS[who], Kind::External(_))
}

/// The path after import, if it may be used.
fn imported(
    state: &State,
    who: usize,
    to: Prefix,
    attributes: &PathAttributes,
) -> Option<PathAttributes> {
    let looped = attributes.as_path.contains(Asn(OWN_ASN))
        || attributes.originator_id == RouterId::new(OWN_ID)
        || attributes
            .cluster_list
            .iter()
            .any(|id| Some(*id) == RouterId::new(CLUSTER));
    let rejected = state.import[who] == 1 && to == prefix(1);
    if looped || rejected {
        return None;
    }
    let mut attributes = attributes.clone();
    if state.import[who] == 2 {
        attributes.local_pref = Some(LocalPref(102));
    }
    Some(attributes)
}

/// Everything before and after MED, smaller is better.
fn rank(path: &Path) -> (impl Ord + use<>, u32, impl Ord + use<>) {
    let (who, path_id, attributes, _) = path;
    let before = (
        Reverse(attributes.local_pref.map_or(100, |value| value.0)),
        attributes.as_path.hop_count(),
        attributes.origin as u8,
    );
    let originator = attributes.originator_id.map_or(id_of(*who), RouterId::get);
    let after = (
        Reverse(is_external(*who)),
        originator,
        attributes.cluster_list.len(),
        *who,
        *path_id,
    );
    (before, attributes.med.map_or(0, |med| med.0), after)
}

fn best(state: &State, to: Prefix) -> Option<Path> {
    let paths: Vec<Path> = state
        .announced
        .iter()
        .filter(|((_, prefix, _), _)| *prefix == to)
        .filter_map(|((who, _, id), (attributes, next_hop))| {
            imported(state, *who, to, attributes)
                .map(|attributes| (*who, *id, attributes, *next_hop))
        })
        .collect();
    let neighbours: BTreeSet<Option<Asn>> =
        paths.iter().map(|path| path.2.as_path.first()).collect();
    let leaders = neighbours.into_iter().filter_map(|neighbour| {
        let of_neighbour = paths
            .iter()
            .filter(|path| path.2.as_path.first() == neighbour);
        of_neighbour.min_by_key(|path| rank(path))
    });
    leaders
        .min_by_key(|path| {
            let (before, _, after) = rank(path);
            (before, after)
        })
        .cloned()
}

/// What neighbour `who` is to hold.
pub(crate) fn told_to(state: &State, who: usize) -> Held {
    let prefixes: BTreeSet<Prefix> = state
        .announced
        .keys()
        .map(|(_, prefix, _)| *prefix)
        .collect();
    let mut held = BTreeMap::new();
    for to in prefixes {
        let Some((source, _, mut attributes, mut next_hop)) = best(state, to) else {
            continue;
        };
        let has = |community: &Community| attributes.communities.contains(community);
        let inside = |who: usize| !is_external(who);
        let reflected = inside(source) && inside(who);
        if source == who
            || has(&Community::NO_ADVERTISE)
            || has(&Community::NO_EXPORT) && is_external(who)
            || reflected && KINDS[source] == Kind::Internal && KINDS[who] == Kind::Internal
            || state.export[who] == 1 && to == prefix(2)
        {
            continue;
        }
        if state.export[who] == 2 {
            attributes.communities.insert(Community::new(7, 7));
        }
        if is_external(who) {
            attributes.as_path.prepend(Asn(OWN_ASN), 1);
            attributes.local_pref = None;
            attributes.med = None;
            attributes.originator_id = None;
            attributes.cluster_list.clear();
            next_hop = NextHop::V4(own_address());
        } else {
            attributes.local_pref.get_or_insert(LocalPref(100));
        }
        if reflected {
            attributes.originator_id = attributes.originator_id.or(RouterId::new(id_of(source)));
            attributes
                .cluster_list
                .insert(0, RouterId::new(CLUSTER).unwrap());
        }
        held.insert(to, (attributes, next_hop));
    }
    held
}
