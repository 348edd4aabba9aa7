//! Policies of the YAML file: named lists of rules, and what a peer says of its own two directions.
//!
//! ```yaml
//! policies:
//!   - name: from-tor
//!     default: reject                  # what no rule decided; the next policy of the peer where absent
//!     rules:
//!       - match: { prefixes: [10.65.0.0/16], communities: [blackhole] }
//!         set: { discard: true }
//!         then: accept
//!       - match: { prefixes: [{ prefix: 10.0.0.0/8, min: 16, max: 24 }], asPathPrefix: [64601] }
//!         set: { localPref: 200, addCommunities: ["64512:1"] }
//!         then: accept
//! peers:
//!   - { address: 10.0.0.1, asn: 64601, import: from-tor, export: { policies: [to-tors], default: accept } }
//! ```
//!
//! Every condition of a `match` has to hold, of a list any member; `not` holds the conditions none of which may. A prefix stands
//! for itself and everything longer inside it, unless it says `exact: true` or `min` and `max`. Rules are read from the top; `then`
//! ends the reading, and a rule without it only changes the route. Everything a BGPFilter of Calico can say has its words here.

use std::collections::BTreeMap;
use std::sync::Arc;

use margay_bgp::asn::Asn;
use margay_bgp::codec::attribute::{LocalPref, Med};
use margay_bgp::codec::community::{Community, LargeCommunity};
use margay_bgp::family::Family;
use margay_bgp::policy::{Action, Condition, Policy, PrefixSet, Rule, SourceKind, Verdict};
use margay_bgp::prefix::Prefix;
use serde::Deserialize;

use super::scalar::{FromText, Hop, ScalarOr, SpeakersAs, Text};
use super::speaker::{Wrong, plain};

/// One of the file's `policies`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NamedPolicy {
    pub(super) name: String,
    #[serde(default)]
    default: Option<Text<Verdict>>,
    rules: Vec<RuleSection>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RuleSection {
    #[serde(default, rename = "match")]
    matches: Option<MatchSection>,
    #[serde(default)]
    set: Option<SetSection>,
    #[serde(default)]
    then: Option<Text<Verdict>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct MatchSection {
    prefixes: Vec<PrefixItem>,
    not_prefixes: Vec<PrefixItem>,
    family: Option<Text<Family>>,
    source: Vec<Text<SourceKind>>,
    peer: Option<String>,
    interface: Option<String>,
    communities: Vec<Text<Community>>,
    large_communities: Vec<Text<LargeCommunity>>,
    as_path_prefix: Vec<Text<Asn>>,
    as_path_contains: Option<Text<Asn>>,
    local_pref: Option<Text<u32>>,
    not: Option<Box<Self>>,
}

type PrefixItem = ScalarOr<Prefix, PrefixRange>;

/// A prefix and which lengths inside it.
#[derive(Deserialize)]
#[serde(try_from = "PrefixRangeSection")]
pub(super) struct PrefixRange {
    prefix: Prefix,
    min: u8,
    max: u8,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PrefixRangeSection {
    prefix: Text<Prefix>,
    #[serde(default)]
    exact: bool,
    #[serde(default)]
    min: Option<Text<u8>>,
    #[serde(default)]
    max: Option<Text<u8>>,
}

impl TryFrom<PrefixRangeSection> for PrefixRange {
    type Error = String;

    fn try_from(range: PrefixRangeSection) -> Result<Self, String> {
        let prefix = range.prefix.0;
        let (least, most) = (prefix.len(), prefix.max_len());
        if range.exact && (range.min.is_some() || range.max.is_some()) {
            return Err(format!(
                "expected {prefix} with `exact` or lengths, found both"
            ));
        }
        let most_wanted = if range.exact { least } else { most };
        let min = range.min.map_or(least, |length| length.0);
        let max = range.max.map_or(most_wanted, |length| length.0);
        if least <= min && min <= max && max <= most {
            Ok(Self { prefix, min, max })
        } else {
            Err(format!(
                "expected lengths from {least} to {most} for {prefix}, found {min} to {max}"
            ))
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct SetSection {
    clear_communities: bool,
    add_communities: Vec<Text<Community>>,
    remove_communities: Vec<Text<Community>>,
    add_large_communities: Vec<Text<LargeCommunity>>,
    remove_large_communities: Vec<Text<LargeCommunity>>,
    local_pref: Option<Text<u32>>,
    med: Option<Text<u32>>,
    prepend_as: Vec<Text<SpeakersAs>>,
    next_hop: Option<Text<Hop>>,
    weight: Option<Text<u32>>,
    discard: bool,
}

/// What a peer says of one direction.
pub(super) type PolicySection = ScalarOr<Named, PolicyLists>;

/// A word: a verdict on everything, or the name of a policy.
pub(super) enum Named {
    Verdict(Verdict),
    Policy(String),
}

impl FromText for Named {
    const WANTED: &'static str = "accept, reject, the name of a policy";
    fn from_text(text: &str) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        Some(Verdict::from_text(text).map_or_else(|| Self::Policy(text.to_owned()), Self::Verdict))
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct PolicyLists {
    accept: Option<Vec<Text<Prefix>>>,
    reject: Option<Vec<Text<Prefix>>>,
    policies: Option<Vec<String>>,
    default: Option<Text<Verdict>>,
}

/// The file's policies by name.
pub(super) type Known = BTreeMap<String, Parsed>;

/// A policy that others may follow.
#[derive(Clone, Debug)]
pub(super) struct Parsed {
    rules: Vec<Rule>,
    default: Option<Verdict>,
}

impl NamedPolicy {
    /// The names of peers in its rules, each with its place in the policy.
    pub(super) fn peers(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            if let Some(matches) = &rule.matches {
                matches.peers(&format!("rules.{index}.match"), &mut found);
            }
        }
        found
    }

    /// The policy, or which field of which rule is wrong.
    pub(super) fn parse(self) -> Result<Parsed, (Option<usize>, Wrong)> {
        if matches!(Named::from_text(&self.name), None | Some(Named::Verdict(_))) {
            let reason = format!(
                "expected a name other than accept and reject, found `{}`",
                self.name
            );
            return Err((None, ("name", reason)));
        }
        let rules = self
            .rules
            .into_iter()
            .enumerate()
            .map(|(index, rule)| rule.parse().map_err(|wrong| (Some(index), wrong)))
            .collect::<Result<_, _>>()?;
        Ok(Parsed {
            rules,
            default: self.default.map(|verdict| verdict.0),
        })
    }
}

impl RuleSection {
    fn parse(self) -> Result<Rule, Wrong> {
        let matches = self.matches.unwrap_or_default();
        let set_hop = self.set.as_ref().and_then(|set| set.next_hop.as_ref());
        if let Some(Text(Hop(hop))) = set_hop
            && hop.is_ipv4()
            && matches.is_of_ipv6()
        {
            let reason = format!("expected an IPv6 next hop for IPv6 routes, found `{hop}`");
            return Err(("set.nextHop", reason));
        }
        let conditions = matches.conditions();
        let actions = self.set.unwrap_or_default().actions();
        let verdict = self.then.map(|verdict| verdict.0);
        if verdict == Some(Verdict::Reject) && !actions.is_empty() {
            return Err((
                "set",
                "expected nothing to set where the route is rejected".into(),
            ));
        }
        if verdict.is_none() && actions.is_empty() {
            return Err((
                "then",
                "expected `then`, `set` or both: the rule does nothing".into(),
            ));
        }
        Ok(Rule {
            conditions,
            actions,
            verdict,
        })
    }
}

impl MatchSection {
    /// Whether it is IPv6 routes alone that it can hold for.
    fn is_of_ipv6(&self) -> bool {
        let family = |item: &PrefixItem| match item {
            ScalarOr::Scalar(prefix) => prefix.family(),
            ScalarOr::Section(range) => range.prefix.family(),
        };
        let is_ipv6 = |family| family == Family::IPV6_UNICAST;
        self.family.as_ref().is_some_and(|family| is_ipv6(family.0))
            || !self.prefixes.is_empty() && self.prefixes.iter().map(family).all(is_ipv6)
    }

    fn conditions(self) -> Vec<Condition> {
        let mut conditions = Vec::new();
        if !self.prefixes.is_empty() {
            conditions.push(Condition::PrefixIn(prefix_set(self.prefixes)));
        }
        if !self.not_prefixes.is_empty() {
            conditions.push(Condition::PrefixNotIn(prefix_set(self.not_prefixes)));
        }
        conditions.extend(self.family.map(|family| Condition::Family(family.0)));
        if !self.source.is_empty() {
            let kinds = plain(self.source).into_iter().collect();
            conditions.push(Condition::Source(kinds));
        }
        conditions.extend(self.peer.map(|name| Condition::Peer(name.into())));
        conditions.extend(self.interface.map(|glob| Condition::Interface(glob.into())));
        if !self.communities.is_empty() {
            conditions.push(Condition::CommunityAny(plain(self.communities)));
        }
        if !self.large_communities.is_empty() {
            conditions.push(Condition::LargeCommunityAny(plain(self.large_communities)));
        }
        if !self.as_path_prefix.is_empty() {
            conditions.push(Condition::AsPathStartsWith(plain(self.as_path_prefix)));
        }
        conditions.extend(
            self.as_path_contains
                .map(|asn| Condition::AsPathContains(asn.0)),
        );
        conditions.extend(
            self.local_pref
                .map(|value| Condition::LocalPref(LocalPref(value.0))),
        );
        if let Some(not) = self.not {
            conditions.extend(
                not.conditions()
                    .into_iter()
                    .map(|condition| Condition::Not(Box::new(condition))),
            );
        }
        conditions
    }

    /// The names of peers in it, each with its place in it.
    fn peers(&self, place: &str, found: &mut Vec<(String, String)>) {
        let own = self
            .peer
            .iter()
            .map(|name| (format!("{place}.peer"), name.clone()));
        found.extend(own);
        if let Some(not) = &self.not {
            not.peers(&format!("{place}.not"), found);
        }
    }
}

fn prefix_set(items: Vec<PrefixItem>) -> PrefixSet {
    let mut set = PrefixSet::new();
    for item in items {
        match item {
            ScalarOr::Scalar(prefix) => set.insert_or_longer(prefix),
            ScalarOr::Section(range) => set.insert(range.prefix, range.min, range.max),
        }
    }
    set
}

impl SetSection {
    /// What is taken away goes before what is added.
    fn actions(self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.clear_communities {
            actions.push(Action::ClearCommunities);
        }
        let communities = plain(self.remove_communities);
        actions.extend(communities.into_iter().map(Action::RemoveCommunity));
        let communities = plain(self.remove_large_communities);
        actions.extend(communities.into_iter().map(Action::RemoveLargeCommunity));
        let communities = plain(self.add_communities);
        actions.extend(communities.into_iter().map(Action::AddCommunity));
        let communities = plain(self.add_large_communities);
        actions.extend(communities.into_iter().map(Action::AddLargeCommunity));
        actions.extend(
            self.local_pref
                .map(|value| Action::SetLocalPref(LocalPref(value.0))),
        );
        actions.extend(self.med.map(|value| Action::SetMed(Med(value.0))));
        if !self.prepend_as.is_empty() {
            let asns = plain(self.prepend_as);
            actions.push(Action::PrependAs(
                asns.into_iter().map(|asn| asn.0).collect(),
            ));
        }
        actions.extend(self.next_hop.map(|hop| Action::SetNextHop(hop.0.0)));
        actions.extend(self.weight.map(|value| Action::SetWeight(value.0)));
        if self.discard {
            actions.push(Action::Discard);
        }
        actions
    }
}

/// The policy of one direction of a peer; `unwritten` is what holds where it says nothing.
pub(super) fn policy(
    field: &'static str,
    section: Option<PolicySection>,
    unwritten: Verdict,
    known: &Known,
) -> Result<Arc<Policy>, Wrong> {
    let verdict = |default| {
        Arc::new(Policy {
            rules: Vec::new(),
            default,
        })
    };
    let lists = match section {
        None => return Ok(verdict(unwritten)),
        Some(ScalarOr::Scalar(Named::Verdict(all))) => return Ok(verdict(all)),
        Some(ScalarOr::Scalar(Named::Policy(name))) => return chain(field, &[name], None, known),
        Some(ScalarOr::Section(lists)) => lists,
    };
    let (prefixes, verdict, default) = match (lists.accept, lists.reject, lists.policies) {
        (None, None, Some(names)) if !names.is_empty() => {
            return chain(field, &names, lists.default.map(|verdict| verdict.0), known);
        }
        (Some(prefixes), None, None) if lists.default.is_none() => {
            (prefixes, Verdict::Accept, Verdict::Reject)
        }
        (None, Some(prefixes), None) if lists.default.is_none() => {
            (prefixes, Verdict::Reject, Verdict::Accept)
        }
        _ => {
            return Err((
                field,
                "expected `accept`, `reject`, the name of a policy, one list under `accept` or `reject`, or `policies` with names and \
                 perhaps a `default`"
                    .into(),
            ));
        }
    };
    let mut matches = PrefixSet::new();
    for prefix in prefixes {
        matches.insert_or_longer(prefix.0);
    }
    Ok(Arc::new(Policy {
        rules: vec![Rule {
            conditions: vec![Condition::PrefixIn(matches)],
            actions: Vec::new(),
            verdict: Some(verdict),
        }],
        default,
    }))
}

/// Several policies read one after the other. The default of one decides before the next is read.
fn chain(
    field: &'static str,
    names: &[String],
    default: Option<Verdict>,
    known: &Known,
) -> Result<Arc<Policy>, Wrong> {
    let mut rules = Vec::new();
    for name in names {
        let Some(policy) = known.get(name) else {
            let names: Vec<&str> = known.keys().map(String::as_str).collect();
            return Err((
                field,
                format!(
                    "expected accept, reject or one of the policies of the file ({}), found `{name}`",
                    if names.is_empty() {
                        "it has none".to_owned()
                    } else {
                        names.join(", ")
                    }
                ),
            ));
        };
        rules.extend(policy.rules.iter().cloned());
        if let Some(verdict) = policy.default {
            rules.push(Rule {
                conditions: Vec::new(),
                actions: Vec::new(),
                verdict: Some(verdict),
            });
        }
    }
    Ok(Arc::new(Policy {
        rules,
        default: default.unwrap_or(Verdict::Accept),
    }))
}

impl FromText for SourceKind {
    const WANTED: &'static str = "local, external, internal or client";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "local" => Some(Self::Local),
            "external" => Some(Self::External),
            "internal" => Some(Self::Internal),
            "client" => Some(Self::Client),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use margay_bgp::codec::PathAttributes;
    use margay_bgp::policy::RouteView;
    use margay_bgp::speaker::config::PeerConfig;

    use super::*;
    use crate::config::speaker::parse;

    /// The first peer of a file with these policies and this of the peer.
    fn peer(policies: &str, directions: &str) -> PeerConfig {
        let text = format!(
            "asn: 64512\nrouterId: 10.0.0.1\npolicies:\n{policies}\npeers:\n- {{ name: tor, address: 10.0.0.2, asn: 64601, {directions} }}\n- {{ name: leaf, address: 10.0.0.3, asn: 64602 }}\n"
        );
        let file = parse(Path::new("speaker.yaml"), &text).expect("a good file");
        file.speaker.peers.into_iter().next().expect("a peer")
    }

    /// What a policy makes of a route of a peer `tor` on eth1, with community 64512:1 and path 64601 64602; nothing where it
    /// is rejected.
    fn outcome(policy: &Policy, prefix: &str) -> Option<PathAttributes> {
        let mut attributes = PathAttributes::default();
        attributes.communities.insert(Community::new(64512, 1));
        for asn in [64602, 64601] {
            attributes.as_path.prepend(Asn(asn), 1);
        }
        let rules = policy.evaluate(&RouteView {
            prefix: prefix.parse().expect("a prefix"),
            attributes: &attributes,
            source: SourceKind::External,
            peer: "tor",
            interface: "eth1",
        })?;
        policy.rewrite(&rules, &mut attributes);
        Some(attributes)
    }

    #[test]
    fn every_condition_decides() {
        for (condition, holds) in [
            ("prefixes: [10.0.0.0/8]", true),
            ("prefixes: [{ prefix: 10.0.0.0/8, exact: true }]", false),
            ("prefixes: [{ prefix: 10.0.0.0/8, min: 24, max: 24 }]", true),
            ("prefixes: [{ prefix: 10.0.0.0/8, max: 23 }]", false),
            ("notPrefixes: [10.1.2.0/24]", false),
            ("notPrefixes: [10.2.0.0/16]", true),
            ("family: ipv6-unicast", false),
            ("source: [local, internal]", false),
            ("source: [external]", true),
            ("peer: tor", true),
            ("peer: leaf", false),
            ("interface: 'eth*'", true),
            ("interface: cali*", false),
            ("communities: [64512:9, 64512:1]", true),
            ("communities: [blackhole]", false),
            ("largeCommunities: [1:2:3]", false),
            ("asPathPrefix: [64601, 64602]", true),
            ("asPathPrefix: [64602]", false),
            ("asPathContains: 64602", true),
            ("localPref: 100", true),
            ("localPref: 99", false),
            ("not: { communities: [64512:1] }", false),
            ("not: { communities: [64512:2], peer: leaf }", true),
            ("peer: tor, communities: [64512:2]", false),
        ] {
            let policies = format!(
                "- {{ name: p, default: reject, rules: [{{ match: {{ {condition} }}, then: accept }}] }}"
            );
            let peer = peer(&policies, "import: p");
            assert_eq!(
                outcome(&peer.import, "10.1.2.0/24").is_some(),
                holds,
                "{condition}"
            );
        }
    }

    #[test]
    fn what_is_set_is_set_and_reading_goes_on() {
        let peer = peer(
            "- name: p\n  rules:\n  - set: { clearCommunities: true, addCommunities: [64512:7, no-export], localPref: 7, med: 8, prependAs: [1, 2] }\n  \
             - { match: { localPref: 7 }, set: { addLargeCommunities: [1:2:3] }, then: accept }",
            "import: p",
        );
        let told = outcome(&peer.import, "10.1.2.0/24").expect("accepted");
        let communities: Vec<String> = told.communities.iter().map(ToString::to_string).collect();
        assert_eq!(communities, ["64512:7", "no-export"]);
        assert_eq!(told.as_path.to_string(), "1 2 64601 64602");
        assert_eq!(
            (told.local_pref, told.med),
            (Some(LocalPref(7)), Some(Med(8)))
        );
        assert_eq!(told.large_communities.iter().count(), 1);
    }

    #[test]
    fn policies_are_read_one_after_the_other() {
        let two = "- { name: a, rules: [{ match: { prefixes: [10.0.0.0/16] }, then: reject }] }\n\
                   - { name: b, rules: [{ match: { prefixes: [10.0.0.0/8] }, then: accept }] }";
        let peer = peer(
            two,
            "import: { policies: [a, b], default: reject }, export: { policies: [a, b] }",
        );
        assert!(outcome(&peer.import, "10.0.1.0/24").is_none());
        assert!(outcome(&peer.import, "10.1.0.0/24").is_some());
        assert!(outcome(&peer.import, "11.0.0.0/24").is_none());
        assert!(outcome(&peer.export, "11.0.0.0/24").is_some());
    }
}
