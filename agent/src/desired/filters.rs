//! BGPFilters and Calico's built-in rules as policies of the speaker.
//!
//! A peer's filters come first, in order; the first rule that matches decides, and on export an `Accept` skips everything below.
//! Then the built-in rules. Import: accept. Export: nothing of pools with `disableBGPExport`; communities of `prefixAdvertisements`
//! added; own blocks; service ranges where this node reflects; what lies in a pool; nothing else.

use margay_bgp::asn::Asn;
use margay_bgp::codec::attribute::LocalPref;
use margay_bgp::codec::community::{Community, LargeCommunity};
use margay_bgp::family::Family;
use margay_bgp::policy::{
    Action, Condition, Policy, PrefixSet, Rule, SourceKind, Verdict, interface_has_form,
};
use margay_bgp::prefix::Prefix;

use super::advertisements::{normal_priority, originated};
use super::peers::{Session, link_of};
use super::state::{Problem, Underlay};
use crate::model::{
    ClusterState, CommunityValue, FilterAction, FilterOperation, FilterRule, MatchOperator,
    NORMAL_ROUTE_PRIORITY, PeerType,
};

/// Calico's LOCAL_PREF is this number less the kernel's metric.
pub const PRIORITY_BASE: u32 = 2_147_483_647;

/// What is believed of a peer.
pub(super) fn import(cluster: &ClusterState, session: &Session) -> Policy {
    let mut rules = Vec::new();
    for name in &session.filters {
        // A filter that does not exist is reported once, by the export side.
        if let Some(filter) = cluster.filters.get(name) {
            append(
                &mut rules,
                &filter.import_v4,
                Family::IPV4_UNICAST,
                cluster,
                session,
                Towards::Us,
            );
            append(
                &mut rules,
                &filter.import_v6,
                Family::IPV6_UNICAST,
                cluster,
                session,
                Towards::Us,
            );
        }
    }
    Policy {
        rules,
        default: Verdict::Accept,
    }
}

/// Whether a filter that exists says something about what is imported from a peer, and about what is exported to it: RFC 8212 asks
/// for a policy in each direction.
pub(super) fn speaks_of(cluster: &ClusterState, session: &Session) -> (bool, bool) {
    let filters = || {
        session
            .filters
            .iter()
            .filter_map(|name| cluster.filters.get(name))
    };
    (
        filters().any(|filter| !filter.import_v4.is_empty() || !filter.import_v6.is_empty()),
        filters().any(|filter| !filter.export_v4.is_empty() || !filter.export_v6.is_empty()),
    )
}

/// What a peer is told.
pub(super) fn export(
    cluster: &ClusterState,
    session: &Session,
    problem: &mut impl FnMut(String),
) -> Policy {
    let mut rules = Vec::new();
    for name in &session.filters {
        match cluster.filters.get(name) {
            Some(filter) => {
                append(
                    &mut rules,
                    &filter.export_v4,
                    Family::IPV4_UNICAST,
                    cluster,
                    session,
                    Towards::Peer,
                );
                append(
                    &mut rules,
                    &filter.export_v6,
                    Family::IPV6_UNICAST,
                    cluster,
                    session,
                    Towards::Peer,
                );
            }
            None => problem(format!("spec.filters: there is no BGPFilter {name}")),
        }
    }
    let mut hidden = PrefixSet::new();
    let mut pools = PrefixSet::new();
    for pool in cluster.pools.values() {
        if pool.disable_bgp_export {
            &mut hidden
        } else {
            &mut pools
        }
        .insert_or_longer(pool.cidr);
    }
    if !hidden.is_empty() {
        rules.push(Rule::reject(vec![Condition::PrefixIn(hidden)]));
    }
    for advertisement in &cluster.bgp.prefix_advertisements {
        let mut inside = PrefixSet::new();
        inside.insert_or_longer(advertisement.cidr);
        rules.push(Rule {
            conditions: vec![Condition::PrefixIn(inside)],
            actions: advertisement
                .communities
                .iter()
                .copied()
                .map(add_community)
                .collect(),
            verdict: None,
        });
    }
    // Calico also rejects what is longer than an own block. Nothing of the sort is originated here, and an address lent to another
    // node comes from that node, so a reflector has to pass it on. Blocks inside pools are let through by their pool: a policy
    // that does not name them stays the same when this node claims another one.
    let mut blocks = PrefixSet::new();
    for block in cluster.blocks_of(&cluster.node_name) {
        if !pools.matches(block.cidr) {
            blocks.insert_exact(block.cidr);
        }
    }
    if !blocks.is_empty() {
        rules.push(Rule::accept(vec![Condition::PrefixIn(blocks)]));
    }
    if cluster
        .own_node()
        .is_some_and(|node| node.route_reflector_cluster_id.is_some())
    {
        let mut services = PrefixSet::new();
        for range in cluster
            .bgp
            .service_external_ips
            .iter()
            .chain(&cluster.bgp.service_load_balancer_ips)
        {
            services.insert_or_longer(*range);
        }
        if !services.is_empty() {
            rules.push(Rule::accept(vec![Condition::PrefixIn(services)]));
        }
    }
    if !pools.is_empty() {
        rules.push(Rule::accept(vec![Condition::PrefixIn(pools)]));
    }
    Policy {
        rules,
        default: Verdict::Reject,
    }
}

/// The communities the built-in rules give a prefix, as text, sorted.
#[must_use]
pub fn communities_of(cluster: &ClusterState, prefix: Prefix) -> Vec<CommunityValue> {
    let mut values: Vec<CommunityValue> = cluster
        .bgp
        .prefix_advertisements
        .iter()
        .filter(|advertisement| advertisement.cidr.contains(prefix))
        .flat_map(|advertisement| advertisement.communities.iter().copied())
        .collect();
    values.sort_unstable();
    values.dedup();
    values
}

/// Rules that match by interface where the interface is not known, so that they match nothing: a peer may be on no link of this
/// node.
pub(super) fn interface_problems(
    cluster: &ClusterState,
    sessions: &[Session],
    underlay: &Underlay,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for filter in cluster.filters.values() {
        for (list, family, rules) in [
            ("importV4", Family::IPV4_UNICAST, &filter.import_v4),
            ("importV6", Family::IPV6_UNICAST, &filter.import_v6),
            ("exportV4", Family::IPV4_UNICAST, &filter.export_v4),
            ("exportV6", Family::IPV6_UNICAST, &filter.export_v6),
        ] {
            let imports = list.starts_with("import");
            let mut carrying = sessions
                .iter()
                .filter(|session| session.families.contains(&family));
            let uses = |session: &Session| session.filters.contains(&filter.name);
            let by_interface = || {
                let numbered = (1..).zip(rules);
                // Routes from peers are never meant by the names of pods' interfaces: those are known.
                numbered.filter(|(_, rule)| {
                    let glob = rule.interface.as_deref();
                    glob.is_some_and(|glob| imports || !glob.starts_with("cali"))
                })
            };
            if by_interface().next().is_none() || !carrying.clone().any(uses) {
                continue;
            }
            let unknown = carrying.find(|session| {
                (!imports || uses(session)) && link_of(cluster, session, underlay).is_none()
            });
            let Some(unknown) = unknown else {
                continue;
            };
            problems.extend(by_interface().map(|(number, _)| Problem {
                subject: format!("BGPFilter {}", filter.name),
                reason: format!(
                    "spec.{list}, rule {number}: {} is on no link of this node, so routes from there match no interface",
                    unknown.address
                ),
            }));
        }
    }
    problems
}

/// Which way routes go that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Towards {
    /// From the peer to us.
    Us,
    /// From us to the peer.
    Peer,
}

fn append(
    rules: &mut Vec<Rule>,
    from: &[FilterRule],
    family: Family,
    cluster: &ClusterState,
    session: &Session,
    towards: Towards,
) {
    if !session.families.contains(&family) {
        return;
    }
    for rule in from {
        let internal = match rule.peer_type {
            None => None,
            Some(PeerType::Ebgp) => Some(false),
            Some(PeerType::Ibgp) => Some(true),
        };
        if internal.is_some_and(|internal| internal != session.internal()) {
            continue;
        }
        let mut conditions = vec![Condition::Family(family)];
        if let Some(prefix) = &rule.prefix {
            let mut set = PrefixSet::new();
            match (prefix.operator, prefix.lengths) {
                (MatchOperator::Equal | MatchOperator::NotEqual, _) => {
                    set.insert_exact(prefix.cidr)
                }
                (MatchOperator::In | MatchOperator::NotIn, None) => {
                    set.insert_or_longer(prefix.cidr)
                }
                (MatchOperator::In | MatchOperator::NotIn, Some((min, max))) => {
                    set.insert(prefix.cidr, min, max)
                }
            }
            conditions.push(match prefix.operator {
                MatchOperator::Equal | MatchOperator::In => Condition::PrefixIn(set),
                MatchOperator::NotEqual | MatchOperator::NotIn => Condition::PrefixNotIn(set),
            });
        }
        if rule.from_remote_peers {
            conditions.push(Condition::Source(
                [
                    SourceKind::External,
                    SourceKind::Internal,
                    SourceKind::Client,
                ]
                .into_iter()
                .collect(),
            ));
        }
        match rule.community {
            None => {}
            Some(CommunityValue::Standard(asn, value)) => {
                conditions.push(Condition::CommunityAny(vec![standard(asn, value)]))
            }
            Some(CommunityValue::Large(asn, first, second)) => {
                conditions.push(Condition::LargeCommunityAny(vec![large(
                    asn, first, second,
                )]));
            }
        }
        if !rule.as_path_prefix.is_empty() {
            conditions.push(Condition::AsPathStartsWith(rule.as_path_prefix.clone()));
        }
        // A rule that means one thing of routes of ours and another of those of others becomes one rule for each.
        let of_ours = towards == Towards::Peer && !rule.from_remote_peers;
        let mut forms = vec![conditions];
        if let Some(glob) = &rule.interface {
            let pods = of_ours.then(|| addresses_behind(cluster, glob));
            forms = either(
                forms,
                vec![Condition::Interface(glob.as_str().into())],
                pods.filter(|pods| !pods.is_empty())
                    .map(|pods| vec![local(), Condition::PrefixIn(pods)]),
            );
        }
        if let Some(priority) = rule.priority {
            // Without a configured priority ours carry no LOCAL_PREF; to Calico their priority is the default all the same.
            let unsaid = of_ours
                && priority == NORMAL_ROUTE_PRIORITY
                && normal_priority(cluster, family).is_none();
            forms = either(
                forms,
                vec![Condition::LocalPref(local_pref(priority))],
                unsaid.then(|| vec![local(), Condition::LocalPref(LocalPref::default())]),
            );
        }
        let actions: Vec<Action> = rule
            .operations
            .iter()
            .map(|operation| match operation {
                FilterOperation::AddCommunity(value) => add_community(*value),
                FilterOperation::PrependAsPath(asns) => Action::PrependAs(asns.clone()),
                FilterOperation::SetPriority(priority) => {
                    Action::SetLocalPref(local_pref(*priority))
                }
            })
            .collect();
        rules.extend(forms.into_iter().map(|conditions| match rule.action {
            FilterAction::Accept => Rule {
                conditions,
                actions: actions.clone(),
                verdict: Some(Verdict::Accept),
            },
            FilterAction::Reject => Rule::reject(conditions),
        }));
    }
}

/// Each form with one of two further lists of conditions, if there are two.
fn either(
    forms: Vec<Vec<Condition>>,
    one: Vec<Condition>,
    other: Option<Vec<Condition>>,
) -> Vec<Vec<Condition>> {
    let ways: Vec<Vec<Condition>> = std::iter::once(one).chain(other).collect();
    let with = |form: Vec<Condition>| {
        ways.iter()
            .map(move |way| [form.as_slice(), way.as_slice()].concat())
    };
    forms.into_iter().flat_map(with).collect()
}

fn local() -> Condition {
    Condition::Source(std::iter::once(SourceKind::Local).collect())
}

/// The addresses of pods here whose host interface has a name of this form, as far as they are originated one by one: those
/// of this node's own blocks are told as blocks, and a pod that comes or goes there changes no policy.
fn addresses_behind(cluster: &ClusterState, glob: &str) -> PrefixSet {
    let originated = originated(cluster);
    cluster
        .workloads
        .values()
        .filter(|pod| interface_has_form(&pod.host_interface, glob))
        .flat_map(|pod| pod.addresses.iter().copied().map(Prefix::host))
        .filter(|address| originated.contains_key(address))
        .collect()
}

/// The LOCAL_PREF that stands for a kernel metric.
#[must_use]
pub fn local_pref(metric: u32) -> LocalPref {
    LocalPref(PRIORITY_BASE.saturating_sub(metric))
}

fn add_community(value: CommunityValue) -> Action {
    match value {
        CommunityValue::Standard(asn, value) => Action::AddCommunity(standard(asn, value)),
        CommunityValue::Large(asn, first, second) => {
            Action::AddLargeCommunity(large(asn, first, second))
        }
    }
}

fn standard(asn: u16, value: u16) -> Community {
    Community::new(asn, value)
}

fn large(asn: u32, first: u32, second: u32) -> LargeCommunity {
    LargeCommunity::new(Asn(asn), first, second)
}
