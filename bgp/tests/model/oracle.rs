//! RFC 4271 §9 and RFC 4456 once more, the slow way: for each neighbour and prefix, from all that was announced.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use margay_bgp::asn::Asn;
use margay_bgp::codec::{AsPath, Community, LocalPref, NextHop, PathAttributes};
use margay_bgp::prefix::Prefix;
use margay_bgp::router_id::RouterId;
use margay_bgp::speaker::config::AddPathSend;

use crate::world::{
    CLUSTER, Forwarding, Kind, OWN_ASN, OWN_ID, REJECTED_IN, REJECTED_OUT, State, Table, id_of,
    own_hop, prefix, shown,
};

#[derive(Clone)]
struct Path {
    who: usize,
    external: bool,
    kind: Kind,
    id: u8,
    attributes: PathAttributes,
    next_hop: NextHop,
    metric: u32,
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
    let import = state.neighbours[who]?.import;
    let rejected = import == 1 && REJECTED_IN.map(prefix).contains(&to);
    if looped || rejected {
        return None;
    }
    let mut attributes = attributes.clone();
    if import == 2 {
        attributes.local_pref = Some(LocalPref(102));
    }
    Some(attributes)
}

fn paths(state: &State, to: Prefix) -> Vec<Path> {
    state
        .announced
        .iter()
        .filter(|((_, prefix, _), _)| *prefix == to)
        .filter_map(|((who, _, id), (attributes, next_hop))| {
            let kind = state.neighbours[*who]?.kind;
            Some(Path {
                who: *who,
                external: matches!(kind, Kind::External(_)),
                kind,
                id: *id,
                attributes: imported(state, *who, to, attributes)?,
                next_hop: *next_hop,
                metric: state.metric(next_hop.addr())?,
            })
        })
        .collect()
}

impl Path {
    /// Everything before MED, smaller is better.
    fn before(&self) -> impl Ord + use<> {
        (
            Reverse(self.attributes.local_pref.map_or(100, |value| value.0)),
            self.attributes.as_path.hop_count(),
            self.attributes.origin as u8,
        )
    }

    fn med(&self) -> u32 {
        self.attributes.med.map_or(0, |med| med.0)
    }

    /// What follows MED and still makes a path better rather than only first.
    fn worth(&self) -> impl Ord + use<> {
        (Reverse(self.external), self.metric)
    }

    fn ties(&self) -> impl Ord + use<> {
        let originator = self.attributes.originator_id;
        (
            originator.map_or(id_of(self.who), RouterId::get),
            self.attributes.cluster_list.len(),
            self.who,
            self.id,
        )
    }

    fn neighbour(&self) -> Option<Asn> {
        self.attributes.as_path.first()
    }
}

/// The best path of each neighbouring AS.
fn leaders(paths: &[Path]) -> Vec<&Path> {
    let neighbours: BTreeSet<Option<Asn>> = paths.iter().map(Path::neighbour).collect();
    neighbours
        .into_iter()
        .filter_map(|neighbour| {
            let own = paths.iter().filter(|path| path.neighbour() == neighbour);
            own.min_by_key(|path| (path.before(), path.med(), path.worth(), path.ties()))
        })
        .collect()
}

fn best(paths: &[Path]) -> Option<&Path> {
    leaders(paths)
        .into_iter()
        .min_by_key(|path| (path.before(), path.worth(), path.ties()))
}

/// Where packets go: the best path, and those as good as it that lead elsewhere.
pub(crate) fn forwarding(state: &State) -> Forwarding {
    let mut table = Forwarding::new();
    for to in prefixes(state) {
        let paths = paths(state, to);
        let Some(best) = best(&paths) else {
            continue;
        };
        let leaders = leaders(&paths);
        let mut equal: Vec<&Path> = paths
            .iter()
            .filter(|path| {
                let leader = leaders
                    .iter()
                    .find(|leader| leader.neighbour() == path.neighbour())
                    .unwrap();
                let same = |of: fn(&Path) -> (Option<Asn>, AsPath)| of(path) == of(best);
                let same_origin = state.options.relax
                    || if path.external {
                        same(|path| (path.neighbour(), AsPath::empty()))
                    } else {
                        same(|path| (None, path.attributes.as_path.clone()))
                    };
                path.before() == best.before()
                    && path.worth() == best.worth()
                    && path.med() == leader.med()
                    && same_origin
            })
            .collect();
        equal.sort_by_key(|path| ((path.who, path.id) != (best.who, best.id), path.ties()));
        let mut hops: Vec<IpAddr> = Vec::new();
        for path in equal {
            if !hops.contains(&path.next_hop.addr()) && hops.len() < state.options.maximum_paths {
                hops.push(path.next_hop.addr());
            }
        }
        hops.sort();
        table.insert(to, hops);
    }
    table
}

fn prefixes(state: &State) -> BTreeSet<Prefix> {
    let announced = state.announced.keys();
    announced.map(|(_, prefix, _)| *prefix).collect()
}

/// What neighbour `who` is to hold.
pub(crate) fn told_to(state: &State, who: usize) -> Table {
    let mut held = BTreeMap::new();
    let Some(neighbour) = state.neighbours[who] else {
        return held;
    };
    for to in prefixes(state) {
        let mut left = paths(state, to);
        let count = match neighbour.told {
            None => 1,
            Some(AddPathSend::Best(count)) => usize::from(count.get()),
            Some(AddPathSend::All) => left.len(),
        };
        let mut told: Vec<String> = Vec::new();
        for _ in 0..count {
            let Some(path) = best(&left).cloned() else {
                break;
            };
            left.retain(|other| (other.who, other.id) != (path.who, path.id));
            told.extend(exported(state, who, to, &path));
        }
        told.sort();
        if !told.is_empty() {
            held.insert(to, told);
        }
    }
    held
}

/// What `who` is told of a path, if it is told.
fn exported(state: &State, who: usize, to: Prefix, path: &Path) -> Option<String> {
    let neighbour = state.neighbours[who]?;
    let external = matches!(neighbour.kind, Kind::External(_));
    let (mut attributes, mut next_hop) = (path.attributes.clone(), path.next_hop);
    let has = |community: &Community| attributes.communities.contains(community);
    let reflected = !path.external && !external;
    if path.who == who
        || has(&Community::NO_ADVERTISE)
        || has(&Community::NO_EXPORT) && external
        || reflected && path.kind == Kind::Internal && neighbour.kind == Kind::Internal
        || neighbour.export == 1 && REJECTED_OUT.map(prefix).contains(&to)
    {
        return None;
    }
    if neighbour.export == 2 {
        attributes.communities.insert(Community::new(7, 7));
    }
    if external {
        attributes.as_path.prepend(Asn(OWN_ASN), 1);
        attributes.local_pref = None;
        attributes.med = None;
        attributes.originator_id = None;
        attributes.cluster_list.clear();
        next_hop = own_hop(to);
    } else {
        attributes.local_pref.get_or_insert(LocalPref(100));
    }
    if reflected {
        attributes.originator_id = attributes.originator_id.or(RouterId::new(id_of(path.who)));
        attributes
            .cluster_list
            .insert(0, RouterId::new(CLUSTER).unwrap());
    }
    Some(shown(&attributes, &next_hop))
}
