//! Any policy says of any route what a reader says who takes its rules one by one and looks nothing up; and the rules it names,
//! applied afterwards, change what that reader changed on the way.

#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_bgp::asn::Asn;
use margay_bgp::codec::{
    AsPath, Communities, Community, LargeCommunities, LargeCommunity, LocalPref, Med,
    PathAttributes,
};
use margay_bgp::family::Family;
use margay_bgp::policy::{
    Action, Condition, Policy, PrefixSet, Rewrite, RouteView, Rule, SourceKind, Verdict,
};
use margay_bgp::prefix::{Ipv4Prefix, Ipv6Prefix, Prefix};
use margay_bgp_fuzz::Choices;

const KINDS: [SourceKind; 4] = [
    SourceKind::Local,
    SourceKind::External,
    SourceKind::Internal,
    SourceKind::Client,
];
/// What BLACKHOLE and the like have in common.
const WELL_KNOWN: u32 = 0xffff;

/// Few values, so that they meet.
fn community(choices: &mut Choices<'_>) -> Community {
    let high = [64_512, WELL_KNOWN][usize::from(choices.below(2))];
    Community(high << 16 | u32::from(choices.below(6)))
}

fn large(choices: &mut Choices<'_>) -> LargeCommunity {
    LargeCommunity::new(asn(choices), u32::from(choices.below(3)), 0)
}

fn asn(choices: &mut Choices<'_>) -> Asn {
    Asn(64_512 + u32::from(choices.below(4)))
}

fn asns(choices: &mut Choices<'_>, most: u16) -> Vec<Asn> {
    (0..choices.below(most)).map(|_| asn(choices)).collect()
}

fn prefix(choices: &mut Choices<'_>) -> Prefix {
    let bits = u32::from_be_bytes([10, choices.octet() & 3, choices.octet(), choices.octet()]);
    let length = u8::try_from(choices.below(33)).expect("at most 32");
    if choices.flag() {
        return Ipv4Prefix::new(bits.into(), length)
            .expect("at most 32")
            .into();
    }
    // On both sides of where a word of the set of lengths ends.
    let bits = u128::from(bits) << 96 | u128::from(bits) << 48;
    Ipv6Prefix::new(bits.into(), length * 4)
        .expect("at most 128")
        .into()
}

fn name(choices: &mut Choices<'_>, letters: &[u8]) -> String {
    let letter = |choices: &mut Choices<'_>| {
        let at = choices.below(u16::try_from(letters.len()).expect("few"));
        char::from(letters[usize::from(at)])
    };
    (0..choices.below(7)).map(|_| letter(choices)).collect()
}

fn condition(choices: &mut Choices<'_>, depth: u8) -> Condition {
    match choices.below(12) {
        kind @ (0 | 1) => {
            let mut set = PrefixSet::new();
            for _ in 0..choices.below(6) {
                let prefix = prefix(choices);
                match choices.below(3) {
                    0 => set.insert_exact(prefix),
                    1 => set.insert_or_longer(prefix),
                    _ => set.insert(prefix, choices.octet() & 63, choices.octet() & 127),
                }
            }
            match kind {
                0 => Condition::PrefixIn(set),
                _ => Condition::PrefixNotIn(set),
            }
        }
        2 => Condition::Family(Family::ALL[usize::from(choices.below(2))]),
        3 => {
            let kinds = KINDS.into_iter().filter(|_| choices.flag());
            Condition::Source(kinds.collect())
        }
        4 => Condition::Peer(name(choices, b"ab").into()),
        5 => Condition::Interface(name(choices, b"ab*?").into()),
        6 => Condition::CommunityAny((0..choices.below(4)).map(|_| community(choices)).collect()),
        7 => Condition::LargeCommunityAny((0..choices.below(4)).map(|_| large(choices)).collect()),
        8 => Condition::AsPathStartsWith(asns(choices, 4)),
        9 => Condition::AsPathContains(asn(choices)),
        10 => Condition::LocalPref(LocalPref(99 + u32::from(choices.below(3)))),
        _ if depth == 0 => Condition::AsPathContains(asn(choices)),
        _ => Condition::Not(Box::new(condition(choices, depth - 1))),
    }
}

fn action(choices: &mut Choices<'_>) -> Action {
    match choices.below(11) {
        0 => Action::AddCommunity(community(choices)),
        1 => Action::RemoveCommunity(community(choices)),
        2 => Action::AddLargeCommunity(large(choices)),
        3 => Action::RemoveLargeCommunity(large(choices)),
        4 => Action::SetLocalPref(LocalPref(99 + u32::from(choices.below(3)))),
        5 => Action::SetMed(Med(u32::from(choices.octet()))),
        6 => Action::PrependAs(asns(choices, 4)),
        7 => Action::SetNextHop([192, 0, 2, choices.octet()].into()),
        8 => Action::SetWeight(u32::from(choices.octet())),
        9 => Action::ClearCommunities,
        _ => Action::Discard,
    }
}

fn rule(choices: &mut Choices<'_>) -> Rule {
    Rule {
        conditions: (0..choices.below(4))
            .map(|_| condition(choices, 2))
            .collect(),
        actions: (0..choices.below(4)).map(|_| action(choices)).collect(),
        verdict: [None, Some(Verdict::Accept), Some(Verdict::Reject)]
            [usize::from(choices.below(3))],
    }
}

/// What a route is to the reader: lists, in which everything is looked for from the front.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Read {
    path: Vec<Asn>,
    communities: Vec<Community>,
    large: Vec<LargeCommunity>,
    local_pref: Option<u32>,
    med: Option<u32>,
    beside: Rewrite,
}

impl Read {
    fn of(attributes: &PathAttributes, beside: Rewrite) -> Self {
        Self {
            path: attributes.as_path.iter().collect(),
            communities: attributes.communities.iter().copied().collect(),
            large: attributes.large_communities.iter().copied().collect(),
            local_pref: attributes.local_pref.map(|value| value.0),
            med: attributes.med.map(|value| value.0),
            beside,
        }
    }

    fn change(&mut self, action: &Action) {
        match action {
            Action::AddCommunity(one) => {
                self.communities.retain(|other| other != one);
                self.communities.push(*one);
                self.communities.sort_unstable();
            }
            Action::RemoveCommunity(one) => self.communities.retain(|other| other != one),
            Action::AddLargeCommunity(one) => {
                self.large.retain(|other| other != one);
                self.large.push(*one);
                self.large.sort_unstable();
            }
            Action::RemoveLargeCommunity(one) => self.large.retain(|other| other != one),
            Action::SetLocalPref(value) => self.local_pref = Some(value.0),
            Action::SetMed(value) => {
                self.med = Some(value.0);
                self.beside.med_set = true;
            }
            Action::PrependAs(asns) => self.path = [asns.as_slice(), &self.path].concat(),
            Action::SetNextHop(address) => self.beside.next_hop = Some(*address),
            Action::SetWeight(weight) => self.beside.weight = Some(*weight),
            Action::ClearCommunities => {
                self.communities.retain(|one| one.0 >> 16 == WELL_KNOWN);
                self.large.clear();
            }
            Action::Discard => self.beside.discard = true,
        }
    }

    fn meets(&self, condition: &Condition, route: &RouteView<'_>) -> bool {
        match condition {
            Condition::PrefixIn(set) => is_in(set, route.prefix),
            Condition::PrefixNotIn(set) => !is_in(set, route.prefix),
            Condition::Family(family) => route.prefix.family() == *family,
            Condition::Source(kinds) => kinds.iter().any(|kind| *kind == route.source),
            Condition::Peer(name) => name.as_bytes() == route.peer.as_bytes(),
            Condition::Interface(form) => {
                !route.interface.is_empty() && fits(form.as_bytes(), route.interface.as_bytes())
            }
            Condition::CommunityAny(any) => self.communities.iter().any(|one| any.contains(one)),
            Condition::LargeCommunityAny(any) => self.large.iter().any(|one| any.contains(one)),
            Condition::AsPathStartsWith(start) => self.path.starts_with(start),
            Condition::AsPathContains(asn) => self.path.contains(asn),
            Condition::LocalPref(value) => self.local_pref.unwrap_or(100) == value.0,
            Condition::Not(inner) => !self.meets(inner, route),
        }
    }
}

/// The entries one by one, bit by bit.
fn is_in(set: &PrefixSet, prefix: Prefix) -> bool {
    let bits = |prefix: Prefix| match prefix {
        Prefix::V4(prefix) => u128::from(prefix.bits()) << 96,
        Prefix::V6(prefix) => prefix.bits(),
    };
    set.iter().any(|(entry, min, max)| {
        let differ = (bits(entry) ^ bits(prefix)).leading_zeros();
        entry.family() == prefix.family()
            && differ >= u32::from(entry.len())
            && entry.len() <= prefix.len()
            && (min..=max).contains(&prefix.len())
    })
}

/// Whether a name has a form, every way of it tried.
fn fits(form: &[u8], name: &[u8]) -> bool {
    match (form, name) {
        ([], name) => name.is_empty(),
        ([b'*', form @ ..], name) => (0..=name.len()).any(|skipped| fits(form, &name[skipped..])),
        ([b'?', form @ ..], [_, name @ ..]) => fits(form, name),
        ([wanted, form @ ..], [found, name @ ..]) => wanted == found && fits(form, name),
        (_, []) => false,
    }
}

/// Nothing where the route does not pass.
fn read(policy: &Policy, route: &RouteView<'_>) -> Option<Read> {
    let mut seen = Read::of(route.attributes, Rewrite::default());
    for rule in &policy.rules {
        let mut conditions = rule.conditions.iter();
        if !conditions.all(|condition| seen.meets(condition, route)) {
            continue;
        }
        match rule.verdict {
            Some(Verdict::Reject) => return None,
            verdict => {
                rule.actions.iter().for_each(|action| seen.change(action));
                if verdict.is_some() {
                    return Some(seen);
                }
            }
        }
    }
    (policy.default == Verdict::Accept).then_some(seen)
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let attributes = PathAttributes {
        as_path: AsPath::from_sequence(asns(&mut choices, 5)),
        communities: (0..choices.below(4))
            .map(|_| community(&mut choices))
            .collect::<Communities>(),
        large_communities: (0..choices.below(3))
            .map(|_| large(&mut choices))
            .collect::<LargeCommunities>(),
        local_pref: choices
            .flag()
            .then(|| LocalPref(99 + u32::from(choices.below(3)))),
        ..PathAttributes::default()
    };
    let names = [name(&mut choices, b"ab"), name(&mut choices, b"ab")];
    let [peer, interface] = names.each_ref().map(String::as_str);
    let route = RouteView {
        prefix: prefix(&mut choices),
        attributes: &attributes,
        source: KINDS[usize::from(choices.below(4))],
        peer,
        interface,
    };
    let policy = Policy {
        default: [Verdict::Accept, Verdict::Reject][usize::from(choices.below(2))],
        rules: (0..choices.below(8)).map(|_| rule(&mut choices)).collect(),
    };

    let expected = read(&policy, &route);
    let seen = policy.evaluate(&route).map(|rules| {
        let mut changed = attributes.clone();
        let beside = policy.rewrite(&rules, &mut changed);
        assert_eq!(policy.next_hop(&rules), beside.next_hop);
        // What is done without the policy at hand is the same.
        let mut again = Read::of(&attributes, Rewrite::default());
        let actions = policy.actions(&rules);
        actions.iter().for_each(|action| again.change(action));
        let seen = Read::of(&changed, beside);
        assert_eq!(again, seen);
        seen
    });
    assert_eq!(seen, expected, "{policy:?}\nof {route:?}");
});
