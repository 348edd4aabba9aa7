//! A speaker beside a model of it that knows no groups, journals, slices or ids: whatever its neighbours announce, withdraw,
//! lose, ask or read slowly, and however its policies change on the way, in the end every neighbour holds exactly what the
//! model computes from what was last announced, and what a fresh speaker would have told it.

#![expect(
    clippy::indexing_slicing,
    clippy::or_fun_call,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a helper that panics fails the test that called it, which is what it is for, and plain reading goes before speed"
)]

mod oracle;
mod world;

use margay_bgp::asn::Asn;
use margay_bgp::codec::{AsPath, Community, LocalPref, Med, NextHop, Origin, PathAttributes};
use margay_bgp::router_id::RouterId;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use world::{CLUSTER, KINDS, Kind, OWN_ASN, OWN_ID, World, prefix};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Happening {
    Announce(usize, u8, u8, Box<Attributes>),
    Withdraw(usize, u8, u8),
    /// The session breaks and comes back, with nothing announced.
    Reset(usize),
    Refresh(usize),
    Import(usize, u8),
    Export(usize, u8),
    /// The neighbour stops reading, or reads on.
    Pause(usize),
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
    fn of(&self, who: usize) -> (PathAttributes, NextHop) {
        let external = matches!(KINDS[who], Kind::External(_));
        let mut hops: Vec<Asn> = self.hops.iter().copied().map(Asn).collect();
        if let Kind::External(asn) = KINDS[who] {
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
        (
            attributes,
            NextHop::V4([198, 51, 100, 1 + self.next_hop].into()),
        )
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
        0..3_u8,
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

fn happening() -> impl Strategy<Value = Happening> {
    let who = 0..KINDS.len();
    prop_oneof![
        12 => (who.clone(), 0..5_u8, 0..3_u8, attributes())
            .prop_map(|(who, route, id, attributes)| Happening::Announce(who, route, id, attributes)),
        5 => (who.clone(), 0..5_u8, 0..3_u8).prop_map(|(who, route, id)| Happening::Withdraw(who, route, id)),
        1 => who.clone().prop_map(Happening::Reset),
        1 => who.clone().prop_map(Happening::Refresh),
        1 => (who.clone(), 0..3_u8).prop_map(|(who, policy)| Happening::Import(who, policy)),
        1 => (who.clone(), 0..3_u8).prop_map(|(who, policy)| Happening::Export(who, policy)),
        2 => who.prop_map(Happening::Pause),
        1 => (1..40_u8).prop_map(Happening::Wait),
    ]
}

fn happen(world: &mut World, happening: &Happening) {
    match happening {
        Happening::Announce(who, route, id, attributes) => {
            let (attributes, next_hop) = attributes.of(*who);
            world.announce(*who, prefix(*route), *id, attributes, next_hop);
        }
        Happening::Withdraw(who, route, id) => world.withdraw(*who, prefix(*route), *id),
        Happening::Reset(who) => world.reset(*who),
        Happening::Refresh(who) => world.refresh(*who),
        Happening::Import(who, policy) => world.configure(|state| state.import[*who] = *policy),
        Happening::Export(who, policy) => world.configure(|state| state.export[*who] = *policy),
        Happening::Pause(who) => world.pause(*who),
        Happening::Wait(seconds) => world.wait(u64::from(*seconds)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_neighbour_ends_with_what_the_model_computes(
        happenings in vec(happening(), 1..60),
        budget in 1..20_usize,
    ) {
        let mut world = World::new(budget);
        for happening in &happenings {
            happen(&mut world, happening);
        }
        world.everyone_reads();
        let mut fresh = World::of(world.state().clone(), budget);
        fresh.everyone_reads();
        for (who, kind) in KINDS.iter().enumerate() {
            let expected = oracle::told_to(world.state(), who);
            prop_assert_eq!(world.held_by(who), &expected, "{} {:?}", who, kind);
            prop_assert_eq!(fresh.held_by(who), &expected, "fresh, {} {:?}", who, kind);
        }
    }
}
