//! Import and export policy: which routes pass, and what is changed on the way.
//!
//! A [`Policy`] is a list of rules read from the top. A rule whose conditions all hold applies its actions and, where it
//! has a verdict, ends the reading; a rule without one only changes the route. Later rules see what earlier ones changed.
//! Where no rule decides, the policy's default does. RFC 8212 asks that nothing passes an external session without a policy:
//! there is no session without one here, and whoever configures a peer says what its default is.
//!
//! A policy is a pure function of the route, so the speaker may evaluate it whenever it likes: import policy once per
//! received path, export policy once per change and update group. [`Policy::evaluate`] names the rules that applied
//! rather than returning changed attributes; two routes with equal attributes and equal applied rules are told alike,
//! and the changed attributes exist only while they are encoded.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::asn::Asn;
use crate::codec::attribute::{LocalPref, Med, PathAttributes};
use crate::codec::community::{Community, LargeCommunities, LargeCommunity};
use crate::family::Family;
use crate::prefix::Prefix;

/// What a policy or rule says of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The route passes.
    Accept,
    /// The route does not pass.
    Reject,
}

/// Where the speaker has a route from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceKind {
    /// Originated by this speaker.
    Local,
    /// Learned from another AS.
    External,
    /// Learned inside the AS, from a peer that is no client of ours.
    Internal,
    /// Learned from a client of ours as route reflector.
    Client,
}

/// One condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// The prefix matches an entry of the set.
    PrefixIn(PrefixSet),
    /// The prefix matches no entry of the set.
    PrefixNotIn(PrefixSet),
    /// The prefix is of this family.
    Family(Family),
    /// The route is from one of these kinds of source.
    Source(SmallVec<[SourceKind; 4]>),
    /// The route was learned from the peer of this name.
    Peer(Arc<str>),
    /// The interface its traffic leaves by has a name of this form: `*` stands for any text, `?` for any character. A route has
    /// one where the peer it is from is on a link that the configuration names; routes of ours have none.
    Interface(Arc<str>),
    /// At least one of these communities is set.
    CommunityAny(Vec<Community>),
    /// At least one of these large communities is set.
    LargeCommunityAny(Vec<LargeCommunity>),
    /// The AS path starts with this sequence, nearest AS first.
    AsPathStartsWith(Vec<Asn>),
    /// The AS path contains this AS.
    AsPathContains(Asn),
    /// LOCAL_PREF has this value; a route without one counts as 100.
    LocalPref(LocalPref),
    /// The inner condition does not hold.
    Not(Box<Self>),
}

/// One change a rule makes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Adds a community to those the route has.
    AddCommunity(Community),
    /// Removes a community.
    RemoveCommunity(Community),
    /// Adds a large community to those the route has.
    AddLargeCommunity(LargeCommunity),
    /// Removes a large community.
    RemoveLargeCommunity(LargeCommunity),
    /// Sets LOCAL_PREF. It has an effect on import, and on export to internal peers.
    SetLocalPref(LocalPref),
    /// Sets MULTI_EXIT_DISC; on export this one is sent to other ASs, a received one is not.
    SetMed(Med),
    /// Puts these ASs before the path, which then starts exactly as listed. On export to another AS our own comes before them.
    PrependAs(Vec<Asn>),
    /// Sets the next hop; ignored where the address is not of a family the session can carry for the route, and on import where
    /// it is an IPv4 one and the route is not. On import the path cannot be used where it is ours, or none that anything can be
    /// sent to.
    SetNextHop(IpAddr),
    /// Sets the local weight, compared before LOCAL_PREF and never told to anyone; 0 without it. Import only.
    SetWeight(u32),
    /// Takes every community out that is not well-known.
    ClearCommunities,
    /// Traffic to the prefix is dropped here, and the route gets NO_EXPORT: what RFC 7999 asks of whoever honours BLACKHOLE.
    /// Without a rule that says so BLACKHOLE is a community like any other. Import only.
    Discard,
}

/// Conditions, changes, and perhaps an end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// All of these must hold; none at all always holds.
    pub conditions: Vec<Condition>,
    /// Applied in order when they do.
    pub actions: Vec<Action>,
    /// Ends the reading when they do; reading goes on where absent.
    pub verdict: Option<Verdict>,
}

impl Rule {
    /// A rule that accepts what meets `conditions`.
    #[must_use]
    pub const fn accept(conditions: Vec<Condition>) -> Self {
        Self {
            conditions,
            actions: Vec::new(),
            verdict: Some(Verdict::Accept),
        }
    }

    /// A rule that rejects what meets `conditions`.
    #[must_use]
    pub const fn reject(conditions: Vec<Condition>) -> Self {
        Self {
            conditions,
            actions: Vec::new(),
            verdict: Some(Verdict::Reject),
        }
    }
}

/// Rules in order, and what holds where none decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Read from the first to the last.
    pub rules: Vec<Rule>,
    /// What is said of a route no rule decided on.
    pub default: Verdict,
}

/// The rules whose actions apply to a route, in order. Empty for most routes.
pub type AppliedRules = SmallVec<[u16; 4]>;

/// What a policy reads of a route.
#[derive(Clone, Copy, Debug)]
pub struct RouteView<'a> {
    /// Destination.
    pub prefix: Prefix,
    /// Attributes before the policy.
    pub attributes: &'a PathAttributes,
    /// Kind of source.
    pub source: SourceKind,
    /// Name of the peer it was learned from; empty for local routes.
    pub peer: &'a str,
    /// Interface the peer is on; empty where that is not known.
    pub interface: &'a str,
}

impl Policy {
    /// Everything passes unchanged.
    #[must_use]
    pub const fn accept_all() -> Self {
        Self {
            rules: Vec::new(),
            default: Verdict::Accept,
        }
    }

    /// Nothing passes.
    #[must_use]
    pub const fn reject_all() -> Self {
        Self {
            rules: Vec::new(),
            default: Verdict::Reject,
        }
    }

    /// The verdict on a route and, where it passes, the rules whose actions apply to it.
    #[must_use]
    pub fn evaluate(&self, route: &RouteView<'_>) -> Option<AppliedRules> {
        let mut applied = AppliedRules::new();
        // A copy exists only once an action has changed something later rules may look at.
        let mut changed: Option<PathAttributes> = None;
        for (index, rule) in self.rules.iter().enumerate() {
            let attributes = changed.as_ref().unwrap_or(route.attributes);
            if !rule
                .conditions
                .iter()
                .all(|condition| condition.holds(route, attributes))
            {
                continue;
            }
            if rule.verdict == Some(Verdict::Reject) {
                return None;
            }
            if !rule.actions.is_empty() {
                // A policy of more than 65,535 rules with actions would lose the actions of the later ones.
                if let Ok(index) = u16::try_from(index) {
                    applied.push(index);
                }
            }
            if rule.verdict == Some(Verdict::Accept) {
                return Some(applied);
            }
            if !rule.actions.is_empty() {
                let copy = changed.get_or_insert_with(|| route.attributes.clone());
                let mut rewrite = Rewrite::default();
                apply(&rule.actions, copy, &mut rewrite);
            }
        }
        (self.default == Verdict::Accept).then_some(applied)
    }

    /// Applies the actions of `rules` to `attributes`, as [`Policy::evaluate`] found them.
    pub fn rewrite(&self, rules: &[u16], attributes: &mut PathAttributes) -> Rewrite {
        let mut rewrite = Rewrite::default();
        for rule in self.applied(rules) {
            apply(&rule.actions, attributes, &mut rewrite);
        }
        rewrite
    }

    /// The actions of `rules`, one after the other: they say what happens to a route without the policy at hand.
    #[must_use]
    pub fn actions(&self, rules: &[u16]) -> Vec<Action> {
        self.applied(rules)
            .flat_map(|rule| rule.actions.iter().cloned())
            .collect()
    }

    /// The next hop `rules` set.
    #[must_use]
    pub fn next_hop(&self, rules: &[u16]) -> Option<IpAddr> {
        self.applied(rules)
            .flat_map(|rule| &rule.actions)
            .filter_map(|action| match action {
                Action::SetNextHop(address) => Some(*address),
                Action::AddCommunity(_)
                | Action::RemoveCommunity(_)
                | Action::AddLargeCommunity(_)
                | Action::RemoveLargeCommunity(_)
                | Action::SetLocalPref(_)
                | Action::SetMed(_)
                | Action::PrependAs(_)
                | Action::SetWeight(_)
                | Action::ClearCommunities
                | Action::Discard => None,
            })
            .next_back()
    }

    /// Whether some rule sets this next hop.
    #[must_use]
    pub fn names_next_hop(&self, address: IpAddr) -> bool {
        self.rules
            .iter()
            .flat_map(|rule| &rule.actions)
            .any(|action| *action == Action::SetNextHop(address))
    }

    fn applied<'a>(&'a self, rules: &'a [u16]) -> impl DoubleEndedIterator<Item = &'a Rule> {
        rules
            .iter()
            .filter_map(|index| self.rules.get(usize::from(*index)))
    }
}

/// What actions change beside the attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The next hop that was set.
    pub next_hop: Option<IpAddr>,
    /// The weight that was set.
    pub weight: Option<u32>,
    /// The MED was set, and is therefore ours to tell.
    pub med_set: bool,
    /// Traffic is to be dropped.
    pub discard: bool,
}

/// Applies actions to `attributes`; what they change beside these goes to `rewrite`.
pub(crate) fn apply(actions: &[Action], attributes: &mut PathAttributes, rewrite: &mut Rewrite) {
    for action in actions {
        match action {
            Action::AddCommunity(community) => {
                attributes.communities.insert(*community);
            }
            Action::RemoveCommunity(community) => {
                attributes.communities.remove(community);
            }
            Action::AddLargeCommunity(community) => {
                attributes.large_communities.insert(*community);
            }
            Action::RemoveLargeCommunity(community) => {
                attributes.large_communities.remove(community);
            }
            Action::SetLocalPref(value) => attributes.local_pref = Some(*value),
            Action::SetMed(value) => {
                attributes.med = Some(*value);
                rewrite.med_set = true;
            }
            Action::PrependAs(asns) => {
                for asn in asns.iter().rev() {
                    attributes.as_path.prepend(*asn, 1);
                }
            }
            Action::SetNextHop(address) => rewrite.next_hop = Some(*address),
            Action::SetWeight(weight) => rewrite.weight = Some(*weight),
            Action::ClearCommunities => {
                // RFC 8642 §4: what it says of well-known ones is for people to know, so they stay unless named.
                attributes.communities = attributes
                    .communities
                    .iter()
                    .copied()
                    .filter(|community| community.is_well_known())
                    .collect();
                attributes.large_communities = LargeCommunities::default();
            }
            Action::Discard => rewrite.discard = true,
        }
    }
}

/// Whether a name has this form, as [`Condition::Interface`] means it.
#[must_use]
pub fn interface_has_form(name: &str, form: &str) -> bool {
    !name.is_empty() && has_form(form.as_bytes(), name.as_bytes())
}

/// Whether a name matches a shell pattern of `*` and `?`. Goes back to the last star only, so a hostile pattern costs no more
/// than the product of both lengths.
fn has_form(form: &[u8], name: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut star = None;
    while let Some(octet) = name.get(read) {
        match form.get(at) {
            Some(b'*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(wanted) if *wanted == b'?' || wanted == octet => {
                at += 1;
                read += 1;
            }
            _ => match star {
                Some((place, from)) => {
                    star = Some((place, from + 1));
                    at = place + 1;
                    read = from + 1;
                }
                None => return false,
            },
        }
    }
    form.get(at..)
        .unwrap_or_default()
        .iter()
        .all(|octet| *octet == b'*')
}

impl Condition {
    fn holds(&self, route: &RouteView<'_>, attributes: &PathAttributes) -> bool {
        match self {
            Self::PrefixIn(set) => set.matches(route.prefix),
            Self::PrefixNotIn(set) => !set.matches(route.prefix),
            Self::Family(family) => route.prefix.family() == *family,
            Self::Source(kinds) => kinds.contains(&route.source),
            Self::Peer(name) => **name == *route.peer,
            Self::Interface(form) => interface_has_form(route.interface, form),
            Self::CommunityAny(any) => any
                .iter()
                .any(|community| attributes.communities.contains(community)),
            Self::LargeCommunityAny(any) => any
                .iter()
                .any(|community| attributes.large_communities.contains(community)),
            Self::AsPathStartsWith(start) => {
                let mut path = attributes.as_path.iter();
                start.iter().all(|asn| path.next() == Some(*asn))
            }
            Self::AsPathContains(asn) => attributes.as_path.iter().any(|hop| hop == *asn),
            Self::LocalPref(value) => attributes.local_pref.unwrap_or_default() == *value,
            Self::Not(inner) => !inner.holds(route, attributes),
        }
    }
}

/// Prefixes with the lengths they stand for, such as `10.65.0.0/16` with lengths 26 to 32.
///
/// Looking a prefix up costs one search per distinct length in the set, whatever the number of entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PrefixSet {
    entries: BTreeMap<Prefix, SmallVec<[LengthRange; 1]>>,
    ipv4_lengths: u64,
    ipv6_lengths: [u64; 3],
}

/// The prefix lengths an entry covers, ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct LengthRange {
    min: u8,
    max: u8,
}

impl PrefixSet {
    /// A set that matches nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds exactly `prefix`.
    pub fn insert_exact(&mut self, prefix: Prefix) {
        self.insert(prefix, prefix.len(), prefix.len());
    }

    /// Adds `prefix` and everything inside it.
    pub fn insert_or_longer(&mut self, prefix: Prefix) {
        self.insert(prefix, prefix.len(), u8::MAX);
    }

    /// Adds what lies inside `prefix` and is between `min` and `max` bits long.
    pub fn insert(&mut self, prefix: Prefix, min: u8, max: u8) {
        let length = usize::from(prefix.len());
        match prefix {
            Prefix::V4(_) => self.ipv4_lengths |= 1 << length,
            Prefix::V6(_) => {
                if let Some(word) = self.ipv6_lengths.get_mut(length / 64) {
                    *word |= 1 << (length % 64);
                }
            }
        }
        let ranges = self.entries.entry(prefix).or_default();
        let range = LengthRange { min, max };
        if !ranges.contains(&range) {
            ranges.push(range);
            ranges.sort_unstable();
        }
    }

    /// Whether some entry stands for `prefix`.
    #[must_use]
    pub fn matches(&self, prefix: Prefix) -> bool {
        let length = prefix.len();
        let hit = |bits: u8| {
            let Ok(cover) = Prefix::new(prefix.addr(), bits) else {
                return false;
            };
            self.entries.get(&cover).is_some_and(|ranges| {
                ranges
                    .iter()
                    .any(|range| range.min <= length && length <= range.max)
            })
        };
        match prefix {
            Prefix::V4(_) => {
                (0..=length).any(|bits| self.ipv4_lengths >> bits & 1 == 1 && hit(bits))
            }
            Prefix::V6(_) => (0..=length).any(|bits| {
                self.ipv6_lengths
                    .get(usize::from(bits / 64))
                    .is_some_and(|word| word >> (bits % 64) & 1 == 1)
                    && hit(bits)
            }),
        }
    }

    /// Whether nothing at all matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every entry as prefix, shortest and longest length.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, u8, u8)> + '_ {
        self.entries
            .iter()
            .flat_map(|(prefix, ranges)| ranges.iter().map(|range| (*prefix, range.min, range.max)))
    }
}

impl FromIterator<Prefix> for PrefixSet {
    /// Exactly these prefixes.
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> Self {
        let mut set = Self::new();
        for prefix in prefixes {
            set.insert_exact(prefix);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Origin;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    fn attributes() -> PathAttributes {
        PathAttributes {
            origin: Origin::Igp,
            ..PathAttributes::default()
        }
    }

    fn view<'a>(text: &str, attributes: &'a PathAttributes) -> RouteView<'a> {
        RouteView {
            prefix: prefix(text),
            attributes,
            source: SourceKind::Internal,
            peer: "n1",
            interface: "eth10",
        }
    }

    #[test]
    fn a_prefix_set_matches_by_cover_and_length() {
        let mut set = PrefixSet::new();
        set.insert(prefix("10.65.0.0/16"), 26, 28);
        set.insert_exact(prefix("0.0.0.0/0"));
        set.insert_or_longer(prefix("fd00::/64"));
        assert!(set.matches(prefix("10.65.1.0/26")));
        assert!(set.matches(prefix("10.65.1.0/28")));
        assert!(!set.matches(prefix("10.65.1.0/29")));
        assert!(!set.matches(prefix("10.66.1.0/26")));
        assert!(set.matches(prefix("0.0.0.0/0")));
        assert!(!set.matches(prefix("10.0.0.0/8")));
        assert!(set.matches(prefix("fd00::1/128")));
        assert!(set.matches(prefix("fd00::/64")));
        assert!(!set.matches(prefix("fd00::/63")));
    }

    #[test]
    fn interfaces_match_as_shells_match_names() {
        for (form, wanted) in [
            ("eth10", true),
            ("eth1", false),
            ("eth*", true),
            ("*", true),
            ("e*1*0", true),
            ("eth??", true),
            ("eth?", false),
            ("*1", false),
            ("**", true),
            ("", false),
        ] {
            let attributes = attributes();
            let condition = Condition::Interface(form.into());
            let view = view("10.0.0.0/24", &attributes);
            assert_eq!(condition.holds(&view, &attributes), wanted, "{form}");
            let local = RouteView {
                interface: "",
                ..view
            };
            assert!(!condition.holds(&local, &attributes));
        }
    }

    #[test]
    fn the_first_rule_with_a_verdict_decides() {
        let policy = Policy {
            rules: vec![
                Rule::reject(vec![Condition::PrefixIn(
                    [prefix("10.0.0.0/24")].into_iter().collect(),
                )]),
                Rule::accept(vec![Condition::Source(SmallVec::from_slice(&[
                    SourceKind::Internal,
                ]))]),
            ],
            default: Verdict::Reject,
        };
        let attributes = attributes();
        assert_eq!(policy.evaluate(&view("10.0.0.0/24", &attributes)), None);
        assert!(policy.evaluate(&view("10.0.1.0/24", &attributes)).is_some());
        let local = RouteView {
            source: SourceKind::Local,
            ..view("10.0.1.0/24", &attributes)
        };
        assert_eq!(policy.evaluate(&local), None);
    }

    #[test]
    fn later_rules_see_what_earlier_ones_changed() {
        let policy = Policy {
            rules: vec![
                Rule {
                    conditions: vec![],
                    actions: vec![Action::SetLocalPref(LocalPref(7))],
                    verdict: None,
                },
                Rule {
                    conditions: vec![Condition::LocalPref(LocalPref(7))],
                    actions: vec![Action::PrependAs(vec![Asn(1), Asn(2)])],
                    verdict: Some(Verdict::Accept),
                },
            ],
            default: Verdict::Reject,
        };
        let mut attributes = attributes();
        let applied = policy
            .evaluate(&view("10.0.0.0/24", &attributes))
            .expect("accepted");
        assert_eq!(applied.as_slice(), [0, 1]);
        policy.rewrite(&applied, &mut attributes);
        assert_eq!(attributes.local_pref, Some(LocalPref(7)));
        assert!(attributes.as_path.iter().eq([Asn(1), Asn(2)]));
    }
}
