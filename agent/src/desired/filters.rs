//! BGPFilters and Calico's built-in rules as policies of the speaker.
//!
//! A peer's filters come first, in order; the first rule that matches decides, and on export an `Accept` skips everything below.
//! Then the built-in rules. Import: accept. Export: nothing of pools with `disableBGPExport`; communities of `prefixAdvertisements`
//! added; own blocks; service ranges where this node reflects; what lies in a pool; nothing else.

use margay_bgp::asn::Asn;
use margay_bgp::codec::attribute::LocalPref;
use margay_bgp::codec::community::{Community, LargeCommunity};
use margay_bgp::family::Family;
use margay_bgp::policy::{Action, Condition, Policy, PrefixSet, Rule, SourceKind, Verdict};
use margay_bgp::prefix::Prefix;

use super::peers::Session;
use crate::model::{
    ClusterState, CommunityValue, FilterAction, FilterOperation, FilterRule, MatchOperator,
    PeerType,
};

/// Calico's LOCAL_PREF is this number less the kernel's metric.
pub const PRIORITY_BASE: u32 = 2_147_483_647;

/// What is believed of a peer.
pub(super) fn import(cluster: &ClusterState, session: &Session) -> Policy {
    let mut rules = Vec::new();
    for name in &session.filters {
        // A filter that does not exist is reported once, by the export side.
        if let Some(filter) = cluster.filters.get(name) {
            append(&mut rules, &filter.import_v4, Family::IPV4_UNICAST, session);
            append(&mut rules, &filter.import_v6, Family::IPV6_UNICAST, session);
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
                append(&mut rules, &filter.export_v4, Family::IPV4_UNICAST, session);
                append(&mut rules, &filter.export_v6, Family::IPV6_UNICAST, session);
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

fn append(rules: &mut Vec<Rule>, from: &[FilterRule], family: Family, session: &Session) {
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
        conditions.extend(
            rule.interface
                .as_deref()
                .map(|glob| Condition::Interface(glob.into())),
        );
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
        if let Some(priority) = rule.priority {
            conditions.push(Condition::LocalPref(local_pref(priority)));
        }
        let actions = rule
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
        rules.push(match rule.action {
            FilterAction::Accept => Rule {
                conditions,
                actions,
                verdict: Some(Verdict::Accept),
            },
            FilterAction::Reject => Rule::reject(conditions),
        });
    }
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
