//! Who is told of which route, and with what attributes (RFC 4271 §9.2, RFC 4456).

use std::net::Ipv4Addr;

use margay_bgp::router_id::RouterId;

use super::{
    Lab, NEIGHBOURS, announce, as_path, attribute, nlri, update, usual, usual_but, withdraw,
};

const ROUTE: &str = "10.1.0.0/16";

fn id(number: u8) -> RouterId {
    Ipv4Addr::new(192, 0, 2, number).try_into().unwrap()
}

#[test]
fn e1_to_e9_who_hears_of_whose_routes() {
    // a and b are external, c is a client, d is neither.
    for (from, wanted) in [("a", "bcd"), ("b", "acd"), ("c", "abd"), ("d", "abc")] {
        let mut lab = Lab::established(&["a", "b", "c", "d"]);
        lab.say(from, &announce(from, &[ROUTE]));
        let hear: String = NEIGHBOURS
            .into_iter()
            .map(|(name, ..)| name)
            .filter(|name| lab.ends[name].table.contains_key(&super::prefix(ROUTE)))
            .collect();
        assert_eq!(hear, wanted, "routes of {from}");
    }
}

#[test]
fn e4_between_two_that_are_no_clients_nothing_passes() {
    let mut lab = Lab::with(|config| config.peers[2].route_reflector_client = false);
    lab.establish(&["a", "c", "d"]);
    lab.say("d", &announce("d", &[ROUTE]));
    lab.lacks("c", ROUTE);
    lab.holds("a", ROUTE);
}

#[test]
fn e10_a_reflected_route_is_unchanged_but_for_originator_and_cluster() {
    let mut lab = Lab::established(&["c", "d"]);
    let mut attributes = usual("c");
    attributes[2] = attribute(0x40, 3, &[192, 0, 2, 77]);
    attributes[3] = attribute(0x40, 5, &[0, 0, 1, 0]);
    attributes.insert(3, attribute(0x80, 4, &[0, 0, 0, 5]));
    lab.say("c", &update(&[], &attributes.concat(), &nlri(&[ROUTE])));
    let (told, next_hop) = lab.holds("d", ROUTE);
    assert_eq!(next_hop.addr().to_string(), "192.0.2.77");
    assert_eq!(told.local_pref.map(|value| value.0), Some(256));
    assert_eq!(told.med.map(|value| value.0), Some(5));
    assert!(told.as_path.is_empty());
    assert_eq!(told.originator_id, Some(id(4)));
    assert_eq!(told.cluster_list, [id(1)]);
}

#[test]
fn e10_an_originator_that_is_there_is_never_overwritten_and_clusters_add_up() {
    let mut lab = Lab::established(&["c", "d"]);
    let mut attributes = usual("c");
    attributes.push(attribute(0x80, 9, &[192, 0, 2, 88]));
    attributes.push(attribute(0x80, 10, &[192, 0, 2, 99]));
    lab.say("c", &update(&[], &attributes.concat(), &nlri(&[ROUTE])));
    let (told, _) = lab.holds("d", ROUTE);
    assert_eq!(told.originator_id, Some(id(88)));
    assert_eq!(told.cluster_list, [id(1), id(99)]);
}

#[test]
fn e12_when_the_best_path_goes_the_next_one_is_told() {
    let mut lab = Lab::established(&["a", "b", "c", "d"]);
    let longer = as_path(&[64600, 65001]);
    lab.say("a", &update(&[], &usual_but("a", &longer), &nlri(&[ROUTE])));
    lab.say("b", &announce("b", &[ROUTE]));
    assert_eq!(lab.holds("c", ROUTE).0.as_path.to_string(), "64700");
    lab.cut("b");
    assert_eq!(lab.holds("c", ROUTE).0.as_path.to_string(), "64600 65001");
}

#[test]
fn e12_when_a_client_leaves_its_routes_are_withdrawn_or_replaced() {
    const ONLY_ITS: &str = "10.2.0.0/16";
    let mut lab = Lab::established(&["a", "b", "c", "d"]);
    lab.say("a", &announce("a", &[ROUTE]));
    lab.say("c", &announce("c", &[ROUTE, ONLY_ITS]));
    for (name, path) in [("a", "64512"), ("b", "64512"), ("d", "")] {
        assert_eq!(lab.holds(name, ROUTE).0.as_path.to_string(), path);
        lab.holds(name, ONLY_ITS);
    }
    lab.cut("c");
    for name in ["a", "b", "d"] {
        lab.lacks(name, ONLY_ITS);
        lab.assert_established(name);
    }
    // The next best one is of `a`, which is not told its own.
    lab.lacks("a", ROUTE);
    assert_eq!(lab.holds("b", ROUTE).0.as_path.to_string(), "64512 64600");
    assert_eq!(lab.holds("d", ROUTE).0.as_path.to_string(), "64600");
}

#[test]
fn e13_attributes_of_the_inside_do_not_leave_it() {
    let mut lab = Lab::established(&["a", "c"]);
    let mut attributes = usual("c");
    attributes.push(attribute(0x80, 4, &[0, 0, 0, 5]));
    attributes.push(attribute(0x80, 9, &[192, 0, 2, 88]));
    attributes.push(attribute(0x80, 10, &[192, 0, 2, 99]));
    // One transitive extended community, one that is not.
    attributes.push(attribute(
        0xc0,
        16,
        &[0, 2, 0, 1, 0, 0, 0, 1, 0x40, 4, 0, 1, 0, 0, 0, 1],
    ));
    attributes.push(attribute(0x80, 200, &[1]));
    lab.say("c", &update(&[], &attributes.concat(), &nlri(&[ROUTE])));
    let (told, next_hop) = lab.holds("a", ROUTE);
    assert_eq!(told.as_path.to_string(), "64512");
    assert_eq!(next_hop.addr().to_string(), "192.0.2.1");
    assert!(told.local_pref.is_none() && told.med.is_none() && told.originator_id.is_none());
    assert!(told.cluster_list.is_empty() && told.unknown.is_empty());
    assert_eq!(told.extended_communities.iter().count(), 1);
}

#[test]
fn e14_a_full_sequence_gets_a_new_one_before_it() {
    let mut lab = Lab::established(&["a", "b"]);
    let mut value = vec![2, 255];
    value.extend((0..255).flat_map(|_| 64600_u32.to_be_bytes()));
    let mut attributes = usual("a");
    attributes[1] = [
        &[0x50, 2][..],
        &u16::try_from(value.len()).unwrap().to_be_bytes(),
        &value,
    ]
    .concat();
    lab.say("a", &update(&[], &attributes.concat(), &nlri(&[ROUTE])));
    assert_eq!(lab.holds("b", ROUTE).0.as_path.hop_count(), 256);
}

#[test]
fn e15_a_third_party_on_the_shared_subnet_stays_next_hop_but_never_the_peer_itself() {
    let mut lab = Lab::with(|config| {
        for peer in &mut config.peers {
            peer.connected_subnets = vec![super::prefix("192.0.2.0/24")];
        }
    });
    lab.establish(&["a", "b"]);
    lab.say("a", &announce("a", &[ROUTE]));
    assert_eq!(lab.holds("b", ROUTE).1.addr().to_string(), "192.0.2.2");
    let via_b = attribute(0x40, 3, &[192, 0, 2, 3]);
    lab.say("a", &update(&[], &usual_but("a", &via_b), &nlri(&[ROUTE])));
    assert_eq!(lab.holds("b", ROUTE).1.addr().to_string(), "192.0.2.1");
    let elsewhere = attribute(0x40, 3, &[198, 51, 100, 1]);
    lab.say(
        "a",
        &update(&[], &usual_but("a", &elsewhere), &nlri(&[ROUTE])),
    );
    assert_eq!(lab.holds("b", ROUTE).1.addr().to_string(), "192.0.2.1");
}

#[test]
fn e16_ipv6_over_ipv4_needs_an_ipv6_address_of_ours() {
    for (address, told) in [(None, false), (Some("2001:db8::1"), true)] {
        let mut lab = Lab::with(|config| {
            config.peers[1].next_hop_address = address.map(|text| text.parse().unwrap());
        });
        lab.establish(&["a", "b"]);
        let mut reach = vec![0, 2, 1, 16];
        reach.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
        reach.extend(nlri(&["fd01::/16"]));
        lab.say(
            "a",
            &update(&[], &usual_but("a", &attribute(0x80, 14, &reach)), &[]),
        );
        lab.assert_established("a");
        assert_eq!(
            lab.ends["b"]
                .table
                .contains_key(&super::prefix("fd01::/16")),
            told
        );
    }
}

#[test]
fn e20_our_own_as_is_allowed_as_often_as_configured() {
    let mut lab = Lab::with(|config| config.peers[0].allowed_local_as = 1);
    lab.establish(&["a", "b"]);
    lab.say(
        "a",
        &update(
            &[],
            &usual_but("a", &as_path(&[64600, 64512])),
            &nlri(&[ROUTE]),
        ),
    );
    lab.holds("b", ROUTE);
    lab.say(
        "a",
        &update(
            &[],
            &usual_but("a", &as_path(&[64600, 64512, 64512])),
            &nlri(&[ROUTE]),
        ),
    );
    lab.lacks("b", ROUTE);
}

#[test]
fn e21_a_local_as_is_shown_prepended_and_looked_for() {
    let mut lab = Lab::with(|config| config.peers[1].local_asn = Some(margay_bgp::asn::Asn(65200)));
    lab.establish(&["a", "b"]);
    lab.say("a", &announce("a", &[ROUTE]));
    assert_eq!(lab.holds("b", ROUTE).0.as_path.to_string(), "65200 64600");
    let looped = as_path(&[64700, 65200]);
    lab.say(
        "b",
        &update(&[], &usual_but("b", &looped), &nlri(&["10.9.0.0/16"])),
    );
    lab.lacks("a", "10.9.0.0/16");
}

#[test]
fn e23_well_known_communities_keep_routes_where_they_are() {
    for (community, hear) in [
        ([0xff, 0xff, 0xff, 0x01], "cd"),
        ([0xff, 0xff, 0xff, 0x02], ""),
        ([0xff, 0xff, 0xff, 0x03], "cd"),
        // BLACKHOLE without policy is a route like any other (E25).
        ([0xff, 0xff, 0x02, 0x9a], "bcd"),
    ] {
        let mut lab = Lab::established(&["a", "b", "c", "d"]);
        lab.say(
            "a",
            &update(
                &[],
                &usual_but("a", &attribute(0xc0, 8, &community)),
                &nlri(&[ROUTE]),
            ),
        );
        let heard: String = ["b", "c", "d"]
            .into_iter()
            .filter(|name| lab.ends[name].table.contains_key(&super::prefix(ROUTE)))
            .collect();
        assert_eq!(heard, hear, "{community:02x?}");
    }
}

#[test]
fn e30_when_the_best_path_moves_its_new_source_gets_a_withdrawal_and_its_old_one_the_route() {
    let mut lab = Lab::established(&["a", "b"]);
    let longer = as_path(&[64600, 65001]);
    lab.say("a", &update(&[], &usual_but("a", &longer), &nlri(&[ROUTE])));
    lab.holds("b", ROUTE);
    lab.lacks("a", ROUTE);
    lab.say("b", &announce("b", &[ROUTE]));
    lab.holds("a", ROUTE);
    lab.lacks("b", ROUTE);
    lab.say("b", &withdraw(&[ROUTE]));
    lab.holds("b", ROUTE);
    lab.lacks("a", ROUTE);
}
