//! A speaker beside a model of it that knows no groups, journals, slices or ids: whatever its neighbours announce, withdraw,
//! lose, ask or read slowly, whoever comes, goes or becomes another kind of neighbour, and however policies and the ways to
//! next hops change meanwhile, in the end every neighbour holds exactly what the model computes from what was last announced,
//! what the speaker takes it to hold, and what a fresh speaker would have told it; and whoever forwards has the model's next
//! hops.

#![expect(
    clippy::indexing_slicing,
    clippy::or_fun_call,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a helper that panics fails the test that called it, which is what it is for, and plain reading goes before speed"
)]

mod oracle;
mod world;

use std::num::NonZeroU8;

use margay_bgp::asn::Asn;
use margay_bgp::codec::{AsPath, Community, LocalPref, Med, NextHop, Origin, PathAttributes};
use margay_bgp::family::Family;
use margay_bgp::prefix::Prefix;
use margay_bgp::router_id::RouterId;
use margay_bgp::speaker::config::AddPathSend;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use world::{
    CLUSTER, HOPS, Kind, Neighbour, OWN_ASN, OWN_ID, Options, PLACES, ROUTES, World, family_of,
    hop, prefix,
};

/// One thing that happens. Neighbours are named by their place.
#[derive(Clone, Debug)]
enum Happening {
    Announce(usize, u8, u8, Box<Attributes>),
    Withdraw(usize, u8, u8),
    /// The session breaks and comes back, with nothing announced.
    Reset(usize),
    /// The neighbour wants to be told everything of a family again.
    Refresh(usize, Family),
    /// An operator wants it to be told again, or to say again.
    TellAgain(usize),
    AskAgain(usize, bool),
    Import(usize, u8),
    Export(usize, u8),
    /// The neighbour leaves the configuration.
    Leave(usize),
    /// It comes into it, or becomes another.
    Become(usize, Neighbour),
    /// The neighbour stops reading, or reads on.
    Pause(usize),
    /// A next hop is reached otherwise.
    Reach(u8, Option<u32>),
    Wait(u8),
}

/// What a neighbour may say of a route, drawn from few values so that paths tie often.
#[derive(Clone, Debug)]
struct Attributes {
    origin: u8,
    hops: Vec<u32>,
    med: Option<u32>,
    local_pref: Option<u32>,
    communities: Vec<Community>,
    originator: Option<u32>,
    clusters: Vec<u32>,
    next_hop: u8,
}

impl Attributes {
    /// As the neighbour would announce them.
    fn of(&self, kind: Kind, to: Prefix) -> (PathAttributes, NextHop) {
        let external = matches!(kind, Kind::External(_));
        let mut hops: Vec<Asn> = self.hops.iter().copied().map(Asn).collect();
        if let Kind::External(asn) = kind {
            hops.insert(0, Asn(asn));
        }
        let id = |number: u32| RouterId::new(number).unwrap();
        let attributes = PathAttributes {
            origin: [Origin::Igp, Origin::Egp, Origin::Incomplete][usize::from(self.origin)],
            as_path: AsPath::from_sequence(hops),
            med: self.med.map(Med),
            // An external neighbour's is discarded (RFC 4271 §5.1.5); an internal one always says it.
            local_pref: (!external).then(|| self.local_pref.map_or(LocalPref(100), LocalPref)),
            communities: self.communities.iter().copied().collect(),
            originator_id: self.originator.filter(|_| !external).map(id),
            cluster_list: self
                .clusters
                .iter()
                .filter(|_| !external)
                .map(|number| id(*number))
                .collect(),
            ..PathAttributes::default()
        };
        (attributes, hop(self.next_hop, to))
    }
}

fn attributes() -> impl Strategy<Value = Box<Attributes>> {
    let communities = prop_oneof![
        Just(Community::NO_EXPORT),
        Just(Community::NO_ADVERTISE),
        Just(Community::new(1, 1)),
        Just(Community::new(2, 2)),
        Just(Community::new(3, 3)),
    ];
    (
        0..3_u8,
        // Our own AS among them makes a loop.
        vec(
            prop_oneof![9 => 64_700..64_703_u32, 1 => Just(OWN_ASN)],
            0..3,
        ),
        option::of(0..3_u32),
        option::of(100..103_u32),
        vec(communities, 0..2),
        option::weighted(0.3, prop_oneof![5 => 1..4_u32, 1 => Just(OWN_ID)]),
        vec(prop_oneof![5 => 1..4_u32, 1 => Just(CLUSTER)], 0..2),
        0..HOPS,
    )
        .prop_map(
            |(origin, hops, med, local_pref, communities, originator, clusters, next_hop)| {
                Box::new(Attributes {
                    origin,
                    hops,
                    med,
                    local_pref,
                    communities,
                    originator,
                    clusters,
                    next_hop,
                })
            },
        )
}

fn neighbour() -> impl Strategy<Value = Neighbour> {
    let kind = prop_oneof![
        (64_600..64_602_u32).prop_map(Kind::External),
        Just(Kind::Client),
        Just(Kind::Internal),
    ];
    let told = prop_oneof![
        2 => Just(None),
        1 => Just(Some(AddPathSend::All)),
        1 => (1..3_u8).prop_map(|count| NonZeroU8::new(count).map(AddPathSend::Best)),
    ];
    (kind, any::<bool>(), told, any::<bool>(), 0..3_u8, 0..3_u8).prop_map(
        |(kind, sends_paths, told, enhanced, import, export)| Neighbour {
            kind,
            sends_paths,
            told,
            enhanced,
            import,
            export,
        },
    )
}

fn happening() -> impl Strategy<Value = Happening> {
    let who = || 0..PLACES;
    let family = prop_oneof![Just(Family::IPV4_UNICAST), Just(Family::IPV6_UNICAST)];
    prop_oneof![
        14 => (who(), 0..ROUTES, 0..3_u8, attributes())
            .prop_map(|(who, route, id, attributes)| Happening::Announce(who, route, id, attributes)),
        5 => (who(), 0..ROUTES, 0..3_u8).prop_map(|(who, route, id)| Happening::Withdraw(who, route, id)),
        1 => who().prop_map(Happening::Reset),
        1 => (who(), family).prop_map(|(who, family)| Happening::Refresh(who, family)),
        1 => who().prop_map(Happening::TellAgain),
        1 => (who(), any::<bool>()).prop_map(|(who, less)| Happening::AskAgain(who, less)),
        1 => (who(), 0..3_u8).prop_map(|(who, policy)| Happening::Import(who, policy)),
        1 => (who(), 0..3_u8).prop_map(|(who, policy)| Happening::Export(who, policy)),
        1 => who().prop_map(Happening::Leave),
        1 => (who(), neighbour()).prop_map(|(who, neighbour)| Happening::Become(who, neighbour)),
        2 => who().prop_map(Happening::Pause),
        2 => (0..HOPS, option::of(0..2_u32)).prop_map(|(hop, metric)| Happening::Reach(hop, metric)),
        1 => (1..40_u8).prop_map(Happening::Wait),
    ]
}

fn happen(world: &mut World, happening: &Happening) {
    let present = |who: usize| world.is_there(who);
    match happening {
        Happening::Announce(who, route, id, attributes) if present(*who) => {
            let kind = world.state().neighbours[*who].unwrap().kind;
            let to = prefix(*route);
            let (attributes, next_hop) = attributes.of(kind, to);
            world.announce(*who, to, *id, attributes, next_hop);
        }
        Happening::Withdraw(who, route, id) if present(*who) => {
            world.withdraw(*who, prefix(*route), *id);
        }
        Happening::Reset(who) if present(*who) => world.reset(*who),
        Happening::Refresh(who, family) if present(*who) => world.refresh(*who, *family),
        Happening::TellAgain(who) if present(*who) => world.tell_again(*who),
        Happening::AskAgain(who, less) if present(*who) => world.ask_again(*who, *less),
        Happening::Import(who, policy) if present(*who) => {
            world.configure(|state| state.neighbours[*who].as_mut().unwrap().import = *policy);
        }
        Happening::Export(who, policy) if present(*who) => {
            world.configure(|state| state.neighbours[*who].as_mut().unwrap().export = *policy);
        }
        Happening::Leave(who) => world.configure(|state| state.neighbours[*who] = None),
        Happening::Become(who, neighbour) => {
            world.configure(|state| state.neighbours[*who] = Some(*neighbour));
        }
        Happening::Pause(who) if present(*who) => world.pause(*who),
        Happening::Reach(hop, metric) => world.reach(*hop, *metric),
        Happening::Wait(seconds) => world.wait(u64::from(*seconds)),
        // Nobody is there to do it.
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_neighbour_ends_with_what_the_model_computes(
        happenings in vec(happening(), 1..60),
        budget in 1..20_usize,
        maximum_paths in prop_oneof![Just(1_usize), Just(2), Just(64)],
        relax in any::<bool>(),
        tracking in any::<bool>(),
    ) {
        let options = Options { maximum_paths, relax, tracking };
        let mut world = World::new(options, budget);
        for happening in &happenings {
            happen(&mut world, happening);
        }
        world.everyone_reads();
        let mut fresh = World::of(world.state().clone(), budget);
        fresh.everyone_reads();
        for who in 0..PLACES {
            let expected = oracle::told_to(world.state(), who);
            let neighbour = world.state().neighbours[who];
            prop_assert_eq!(&world.held_by(who), &expected, "{} {:?}", who, neighbour);
            prop_assert_eq!(&fresh.held_by(who), &expected, "fresh, {} {:?}", who, neighbour);
            // What the speaker shows of it.
            let (prefixes, advertised) = world.told_to(who);
            prop_assert_eq!(prefixes, expected.keys().copied().collect(), "{} {:?}", who, neighbour);
            let paths = Family::ALL.map(|family| {
                expected.iter().filter(|(to, _)| family_of(**to) == family).map(|(_, paths)| paths.len()).sum()
            });
            prop_assert_eq!(advertised, paths, "{} {:?}", who, neighbour);
        }
        let expected = oracle::forwarding(world.state());
        prop_assert_eq!(world.forwarding(), &expected);
        prop_assert_eq!(fresh.forwarding(), &expected, "fresh");
        // Nothing is left of whoever leaves, and coming and going again takes no more memory.
        let state = world.state().clone();
        let memory = world.everyone_leaves();
        world.everyone_returns(state);
        let again = world.everyone_leaves();
        prop_assert!(again <= memory + memory / 20, "{memory} octets, then {again}");
    }
}
