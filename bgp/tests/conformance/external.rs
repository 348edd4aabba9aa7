//! What passes between ASs: paths and whose numbers are in them, roles, communities that mean something, what fits a message.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use margay_bgp::asn::Asn;
use margay_bgp::codec::{Community, NextHop, PathAttributes, Role};
use margay_bgp::policy::{Action, Condition, Policy, Rule, Verdict};
use margay_bgp::speaker::config::{
    Aggregate, NextHopMode, Originate, PeerConfig, Remote, RemovePrivateAs,
};
use margay_bgp::speaker::snapshot::Unusable;

use super::{
    KEEPALIVE, Lab, OWN_ASN, USUAL, address_of, announce, as_path, asn_of, attribute,
    is_end_of_rib, nlri, open, plain_open, prefix, update, usual, usual_but, withdraw,
};

const ROUTE: &str = "10.1.0.0/16";
const OTHER: &str = "10.2.0.0/16";

pub(super) fn path_told(lab: &Lab, name: &str) -> String {
    lab.holds(name, ROUTE).0.as_path.to_string()
}

/// `name` announces the route with this path.
pub(super) fn tell(lab: &mut Lab, name: &'static str, path: &[u32]) {
    lab.say(
        name,
        &update(&[], &usual_but(name, &as_path(path)), &nlri(&[ROUTE])),
    );
}

/// Whether whoever forwards was last told to drop traffic to the route.
#[track_caller]
fn assert_drops(lab: &mut Lab, wanted: bool) {
    let mut told = lab.forwarded().into_iter().rev();
    let latest = told.find(|told| told.prefix == prefix(ROUTE));
    assert_eq!(latest.map(|latest| latest.drops), Some(wanted));
}

#[test]
fn o26_roles_have_to_fit_and_to_be_there_where_that_is_asked_for() {
    let opened = |ours: Role, strict: bool, capabilities: &[u8]| {
        let mut lab = Lab::with(|config| {
            config.peers[0].role = Some(ours);
            config.peers[0].strict_role = strict;
        });
        lab.connect("a");
        let all = [USUAL, capabilities].concat();
        lab.say("a", &open(64600, address_of("a"), 90, &all));
        lab
    };
    // Provider, route server, client of one, customer, peer; the pairs that fit are 0-3, 1-2 and 4-4.
    let roles = [
        Role::Provider,
        Role::RouteServer,
        Role::RouteServerClient,
        Role::Customer,
        Role::Peer,
    ];
    for (ours, number) in roles.into_iter().zip(0_u8..) {
        for theirs in 0..6_u8 {
            let mut lab = opened(ours, false, &[9, 1, theirs]);
            if matches!((number, theirs), (0, 3) | (3, 0) | (1, 2) | (2, 1) | (4, 4)) {
                lab.say("a", &KEEPALIVE);
                lab.assert_established("a");
            } else {
                lab.assert_ended("a", 2, 11, &[]);
            }
        }
    }
    opened(Role::Provider, true, &[]).assert_ended("a", 2, 11, &[]);
    // Said twice it has to be said alike.
    opened(Role::Provider, false, &[9, 1, 3, 9, 1, 4]).assert_ended("a", 2, 11, &[]);
    for (strict, capabilities) in [
        (false, &[][..]),
        (true, &[9, 1, 3]),
        (true, &[9, 1, 3, 9, 1, 3]),
    ] {
        let mut lab = opened(Role::Provider, strict, capabilities);
        lab.say("a", &KEEPALIVE);
        lab.assert_established("a");
    }
}

#[test]
fn o26_a_role_is_not_said_inside_the_as() {
    let mut lab = Lab::with(|config| {
        config.peers[2].role = Some(Role::Provider);
        config.peers[2].strict_role = true;
    });
    lab.establish(&["c"]);
}

#[test]
fn a2_a_route_server_leaves_its_as_out_of_what_it_passes_on() {
    for (role, used) in [(None, false), (Some(Role::RouteServerClient), true)] {
        let mut lab = Lab::with(|config| config.peers[0].role = role);
        lab.establish(&["a", "b"]);
        lab.say("a", &announce("a", &[ROUTE]));
        lab.holds("b", ROUTE);
        tell(&mut lab, "a", &[64999]);
        let path = lab.ends["b"].table.get(&prefix(ROUTE));
        let path = path.map(|(told, _)| told.as_path.to_string());
        assert_eq!(path.as_deref(), used.then_some("64512 64999"), "{role:?}");
        lab.assert_established("a");
    }
}

#[test]
fn e11_a_route_that_was_in_our_cluster_takes_the_one_before_it_along() {
    let mut lab = Lab::established(&["c", "d"]);
    lab.say("c", &announce("c", &[ROUTE]));
    lab.holds("d", ROUTE);
    let mut attributes = usual("c");
    attributes.push(attribute(0x80, 9, &[192, 0, 2, 88]));
    attributes.push(attribute(0x80, 10, &[192, 0, 2, 99, 192, 0, 2, 1]));
    lab.say("c", &update(&[], &attributes.concat(), &nlri(&[ROUTE])));
    lab.lacks("d", ROUTE);
    assert_eq!(lab.unusable("c", ROUTE), Some(Unusable::ClusterLoop));
    lab.assert_established("c");
}

#[test]
fn e11_a_cluster_of_one_peer_is_looked_for_in_what_comes_from_others() {
    let cluster = std::net::Ipv4Addr::new(192, 0, 2, 99);
    let mut lab = Lab::with(|config| {
        config.peers[2].cluster_id = Some(cluster.try_into().unwrap());
    });
    lab.establish(&["c", "d"]);
    let mut attributes = usual("d");
    attributes.push(attribute(0x80, 9, &[192, 0, 2, 88]));
    attributes.push(attribute(0x80, 10, &[192, 0, 2, 99]));
    lab.say("d", &update(&[], &attributes.concat(), &nlri(&[ROUTE])));
    lab.lacks("c", ROUTE);
    // From the cluster of one to the other, both are named, the one it enters first.
    lab.say("c", &announce("c", &[OTHER]));
    let clusters: Vec<String> = lab
        .holds("d", OTHER)
        .0
        .cluster_list
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(clusters, ["192.0.2.1", "192.0.2.99"]);
}

#[test]
fn e5_clients_that_know_each_other_are_not_told_of_each_other() {
    let mut lab = Lab::with(|config| {
        config.client_to_client = false;
        config.peers[3].route_reflector_client = true;
    });
    lab.establish(&["a", "c", "d"]);
    lab.say("c", &announce("c", &[ROUTE]));
    lab.lacks("d", ROUTE);
    lab.holds("a", ROUTE);
    lab.say("a", &announce("a", &[OTHER]));
    lab.holds("d", OTHER);
    lab.configure(|config| config.client_to_client = true);
    lab.holds("d", ROUTE);
    lab.assert_established("d");
}

#[test]
fn e9_local_routes_are_told_to_everybody() {
    let mut lab = Lab::with(|config| config.originate.push(Originate::new(prefix(ROUTE))));
    lab.establish(&["a", "c", "d"]);
    for name in ["a", "c", "d"] {
        assert_eq!(lab.holds(name, ROUTE).1.addr().to_string(), "192.0.2.1");
    }
}

#[test]
fn e10_a_next_hop_of_ours_replaces_that_of_a_reflected_route_by_force_only() {
    for (mode, wanted) in [
        (NextHopMode::Auto, "192.0.2.4"),
        (NextHopMode::SelfAddress, "192.0.2.4"),
        (NextHopMode::ForceSelf, "192.0.2.1"),
        (NextHopMode::Keep, "192.0.2.4"),
    ] {
        let mut lab = Lab::with(|config| config.peers[3].next_hop = mode);
        lab.establish(&["a", "c", "d"]);
        lab.say("c", &announce("c", &[ROUTE]));
        assert_eq!(
            lab.holds("d", ROUTE).1.addr().to_string(),
            wanted,
            "{mode:?}"
        );
        lab.say("a", &announce("a", &[OTHER]));
        let unchanged = matches!(mode, NextHopMode::Auto | NextHopMode::Keep);
        let wanted = if unchanged { "192.0.2.2" } else { "192.0.2.1" };
        assert_eq!(
            lab.holds("d", OTHER).1.addr().to_string(),
            wanted,
            "{mode:?}"
        );
    }
}

#[test]
fn e13_a_med_of_our_own_leaves_the_as_and_a_received_one_stays() {
    let med = |attributes: &PathAttributes| attributes.med.map(|med| med.0);
    let mut lab = Lab::with(|config| {
        let mut route = Originate::new(prefix(OTHER));
        route.med = Some(margay_bgp::codec::Med(7));
        config.originate.push(route);
    });
    lab.establish(&["a", "b", "c"]);
    let metric = attribute(0x80, 4, &[0, 0, 0, 5]);
    lab.say("a", &update(&[], &usual_but("a", &metric), &nlri(&[ROUTE])));
    assert_eq!(med(&lab.holds("b", ROUTE).0), None);
    assert_eq!(med(&lab.holds("c", ROUTE).0), Some(5));
    assert_eq!(med(&lab.holds("b", OTHER).0), Some(7));
}

#[test]
fn e13_attributes_nobody_knows_pass_octet_for_octet_marked_partial() {
    let mut lab = Lab::established(&["a", "b"]);
    let mut attributes = usual("a");
    attributes.push(attribute(0xc0, 99, &[1, 2, 3]));
    attributes.push(attribute(0xe0, 100, &[4]));
    attributes.push(attribute(0x80, 101, &[5]));
    // Communities somebody before us did not know, and large ones everybody knew.
    attributes.push(attribute(0xe0, 8, &[0, 1, 0, 2]));
    attributes.push(attribute(0xc0, 32, &[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]));
    lab.say("a", &update(&[], &attributes.concat(), &nlri(&[ROUTE])));
    let frame = lab.ends["b"].frames.last().unwrap();
    let holds = |octets: &[u8]| frame.windows(octets.len()).any(|window| window == octets);
    assert!(holds(&[0xe0, 99, 3, 1, 2, 3]), "{frame:02x?}");
    assert!(holds(&[0xe0, 100, 1, 4]));
    assert!(!holds(&[101, 1, 5]));
    assert!(holds(&[0xe0, 8, 4, 0, 1, 0, 2]));
    assert!(holds(&[0xc0, 32, 12, 0, 0, 0, 1]));
}

#[test]
fn e15_a_next_hop_kept_for_the_peer_is_never_its_own_address() {
    let mut lab = Lab::with(|config| config.peers[1].next_hop = NextHopMode::Keep);
    lab.establish(&["a", "b"]);
    lab.say("a", &announce("a", &[ROUTE]));
    assert_eq!(lab.holds("b", ROUTE).1.addr().to_string(), "192.0.2.2");
    let via_b = attribute(0x40, 3, &[192, 0, 2, 3]);
    lab.say("a", &update(&[], &usual_but("a", &via_b), &nlri(&[ROUTE])));
    assert_eq!(lab.holds("b", ROUTE).1.addr().to_string(), "192.0.2.1");
}

#[test]
fn e16_a_family_without_an_address_of_ours_shows() {
    for (address, missing) in [(None, true), (Some("2001:db8::1"), false)] {
        let mut lab = Lab::with(|config| {
            config.peers[1].next_hop_address = address.map(|text| text.parse().unwrap());
        });
        lab.establish(&["b"]);
        let shown: Vec<bool> = lab
            .peer("b")
            .families
            .iter()
            .map(|family| family.next_hop_missing)
            .collect();
        assert_eq!(shown, [false, missing]);
    }
}

/// A neighbour on a link with link-local addresses only, which takes IPv6 next hops for IPv4; told a route of ours.
fn on_link(capabilities: &[u8], named: Option<&str>) -> (Lab, Vec<u8>) {
    let link_local = |last| {
        SocketAddr::V6(SocketAddrV6::new(
            Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last),
            179,
            0,
            7,
        ))
    };
    let mut lab = Lab::with(|config| {
        let accept = Arc::new(Policy::accept_all());
        let mut peer = PeerConfig::new(
            "link",
            Remote::Address(link_local(2)),
            Asn(64600),
            Arc::clone(&accept),
            accept,
        );
        peer.passive = true;
        peer.next_hop_address = named.map(|text| text.parse().unwrap());
        config.peers = vec![peer];
        config.originate.push(Originate::new(prefix(ROUTE)));
    });
    let mut remote = link_local(2);
    remote.set_port(40_000);
    lab.connect_from("a", remote, link_local(1));
    let all = [USUAL, &[5, 6, 0, 1, 0, 1, 0, 2], capabilities].concat();
    let end = lab.ends.get_mut("a").unwrap();
    end.reading.extended_next_hop = true;
    lab.say("a", &open(64600, address_of("a"), 90, &all));
    lab.say("a", &KEEPALIVE);
    let frame = lab.ends["a"]
        .frames
        .iter()
        .find(|frame| frame[18] == 2 && frame.len() > 29)
        .cloned()
        .expect("an UPDATE with a route");
    (lab, frame)
}

#[test]
fn e17_on_a_link_without_other_addresses_ipv4_goes_by_the_link_local_one() {
    let own = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    // Withdrawn, attributes, flags and type of MP_REACH_NLRI, its length, AFI and SAFI, then the next hop.
    let (_, frame) = on_link(&[], None);
    assert_eq!(frame[23..30], [0x80, 14, 40, 0, 1, 1, 32]);
    assert_eq!(frame[30..46], own);
    assert_eq!(frame[46..62], own);
    // Where both say 77, once is enough.
    let (_, frame) = on_link(&[77, 0], None);
    assert_eq!(frame[23..30], [0x80, 14, 24, 0, 1, 1, 16]);
    assert_eq!(frame[30..46], own);
}

#[test]
fn e17_a_global_address_of_ours_stands_before_the_link_local_one() {
    let (lab, _) = on_link(&[], Some("2001:db8::1"));
    assert_eq!(
        lab.holds("a", ROUTE).1,
        NextHop::V6 {
            global: Some("2001:db8::1".parse().unwrap()),
            link_local: Some("fe80::1".parse().unwrap()),
        }
    );
}

#[test]
fn e18_private_as_numbers_are_told_hidden_or_replaced_but_for_the_peers_own() {
    let mixed = [64600, 3356, 65001, 64700, 4_200_000_001, 174];
    let private = [64600, 65001, 64700];
    for (mode, of_mixed, of_private) in [
        (
            None,
            "64512 64600 3356 65001 64700 4200000001 174",
            "64512 64600 65001 64700",
        ),
        (
            Some(RemovePrivateAs::IfAllPrivate),
            "64512 64600 3356 65001 64700 4200000001 174",
            "64512 64700",
        ),
        (
            Some(RemovePrivateAs::All),
            "64512 3356 64700 174",
            "64512 64700",
        ),
        (
            Some(RemovePrivateAs::Replace),
            "64512 64512 3356 64512 64700 64512 174",
            "64512 64512 64512 64700",
        ),
    ] {
        let mut lab = Lab::with(|config| config.peers[1].remove_private_as = mode);
        lab.establish(&["a", "b"]);
        tell(&mut lab, "a", &mixed);
        assert_eq!(path_told(&lab, "b"), of_mixed, "{mode:?}");
        tell(&mut lab, "a", &private);
        assert_eq!(path_told(&lab, "b"), of_private, "{mode:?}");
    }
}

#[test]
fn e18_what_policy_prepends_is_not_hidden() {
    let mut lab = Lab::with(|config| {
        config.peers[1].remove_private_as = Some(RemovePrivateAs::All);
        config.peers[1].export = Arc::new(Policy {
            rules: vec![Rule {
                conditions: vec![],
                actions: vec![Action::PrependAs(vec![Asn(OWN_ASN), Asn(OWN_ASN)])],
                verdict: None,
            }],
            default: Verdict::Accept,
        });
    });
    lab.establish(&["a", "b"]);
    lab.say("a", &announce("a", &[ROUTE]));
    assert_eq!(path_told(&lab, "b"), "64512 64512 64512");
}

#[test]
fn e19_as_override_puts_our_as_for_the_peers_and_then_in_front() {
    let mut lab = Lab::with(|config| config.peers[1].as_override = true);
    lab.establish(&["a", "b"]);
    tell(&mut lab, "a", &[64600, 64700, 3356, 64700]);
    assert_eq!(path_told(&lab, "b"), "64512 64600 64512 3356 64512");
    lab.configure(|config| config.peers[1].as_override = false);
    assert_eq!(path_told(&lab, "b"), "64512 64600 64700 3356 64700");
    lab.assert_established("b");
}

#[test]
fn e24_a_path_of_a_session_that_will_go_is_used_last() {
    let shutdown = attribute(0xc0, 8, &[0xff, 0xff, 0, 0]);
    let leaving = update(&[], &usual_but("a", &shutdown), &nlri(&[ROUTE]));
    let mut lab = Lab::established(&["a", "c"]);
    lab.say("a", &leaving);
    assert_eq!(lab.holds("c", ROUTE).0.local_pref.unwrap().0, 0);
    lab.configure(|config| config.peers[0].graceful_shutdown = false);
    assert_eq!(lab.holds("c", ROUTE).0.local_pref.unwrap().0, 100);
    // Policy that sets a preference does not bring it back; policy that takes the community does.
    let import = |action| {
        Arc::new(Policy {
            rules: vec![Rule {
                conditions: vec![],
                actions: vec![
                    Action::SetLocalPref(margay_bgp::codec::LocalPref(300)),
                    action,
                ],
                verdict: None,
            }],
            default: Verdict::Accept,
        })
    };
    lab.configure(|config| {
        config.peers[0].graceful_shutdown = true;
        config.peers[0].import = import(Action::AddCommunity(Community::new(1, 1)));
    });
    assert_eq!(lab.holds("c", ROUTE).0.local_pref.unwrap().0, 0);
    lab.configure(|config| {
        config.peers[0].import = import(Action::RemoveCommunity(Community::GRACEFUL_SHUTDOWN));
    });
    assert_eq!(lab.holds("c", ROUTE).0.local_pref.unwrap().0, 300);
}

#[test]
fn e24_who_drains_says_so_everywhere_before_the_sessions_end() {
    let mut lab = Lab::established(&["a", "b", "c", "d"]);
    lab.say("a", &announce("a", &[ROUTE]));
    lab.say("c", &announce("c", &[OTHER]));
    let marked = |lab: &Lab, name: &str, text: &str| {
        let (attributes, _) = lab.holds(name, text);
        (
            attributes
                .communities
                .contains(&Community::GRACEFUL_SHUTDOWN),
            attributes.local_pref.map(|value| value.0),
        )
    };
    assert_eq!(marked(&lab, "b", ROUTE), (false, None));
    assert_eq!(marked(&lab, "d", OTHER), (false, Some(100)));
    lab.configure(|config| config.drain = true);
    assert_eq!(marked(&lab, "b", ROUTE), (true, None));
    assert_eq!(marked(&lab, "a", OTHER), (true, None));
    assert_eq!(marked(&lab, "d", OTHER), (false, Some(0)));
    for name in ["a", "b", "c", "d"] {
        lab.assert_established(name);
        assert_eq!(lab.peer(name).established_count, 1);
    }
    lab.configure(|config| config.drain = false);
    assert_eq!(marked(&lab, "b", ROUTE), (false, None));
    assert_eq!(marked(&lab, "d", OTHER), (false, Some(100)));
    // Who is told so in time is left then: nothing is marked any more, everything is withdrawn.
    lab.configure(|config| config.drain = true);
    assert_eq!(marked(&lab, "b", ROUTE), (true, None));
    lab.configure(|config| {
        for peer in &mut config.peers {
            peer.enabled = peer.name == "b" || peer.name == "d";
        }
    });
    lab.assert_ended("a", 6, 2, &[]);
    lab.assert_ended("c", 6, 2, &[]);
    lab.lacks("b", ROUTE);
    lab.lacks("d", OTHER);
}

#[test]
fn e24_one_session_that_will_go_is_used_last_in_both_directions() {
    let mut lab = Lab::established(&["a", "b", "c"]);
    tell(&mut lab, "a", &[64600, 3356]);
    tell(&mut lab, "b", &[64700, 174, 3356]);
    assert_eq!(path_told(&lab, "c"), "64600 3356");
    lab.configure(|config| config.peers[0].drain = true);
    assert_eq!(path_told(&lab, "c"), "64700 174 3356");
    let marked = |name: &str| {
        lab.holds(name, ROUTE)
            .0
            .communities
            .contains(&Community::GRACEFUL_SHUTDOWN)
    };
    assert!(marked("a") && !marked("c"));
}

#[test]
fn e25_blackhole_drops_traffic_only_where_policy_says_so_and_stays_inside_then() {
    let blackhole = attribute(0xc0, 8, &[0xff, 0xff, 0x02, 0x9a]);
    let mut lab = Lab::forwarding(|_| ());
    lab.establish(&["a", "b", "c"]);
    lab.tell(&[("a", Some(0))]);
    lab.say(
        "a",
        &update(&[], &usual_but("a", &blackhole), &nlri(&[ROUTE])),
    );
    lab.holds("b", ROUTE);
    assert_drops(&mut lab, false);
    lab.configure(|config| {
        config.peers[0].import = Arc::new(Policy {
            rules: vec![Rule {
                conditions: vec![Condition::CommunityAny(vec![Community::BLACKHOLE])],
                actions: vec![Action::Discard],
                verdict: Some(Verdict::Accept),
            }],
            default: Verdict::Accept,
        });
    });
    assert_drops(&mut lab, true);
    lab.lacks("b", ROUTE);
    let (told, _) = lab.holds("c", ROUTE);
    assert!(told.communities.contains(&Community::NO_EXPORT));
    assert!(told.communities.contains(&Community::BLACKHOLE));
}

#[test]
fn e26_without_a_policy_nothing_passes_a_session_between_ass() {
    let mut lab = Lab::with(|config| {
        config.peers[0].import = Arc::new(Policy::reject_all());
        config.peers[0].export = Arc::new(Policy::reject_all());
        config.originate.push(Originate::new(prefix(OTHER)));
    });
    lab.establish(&["a", "b"]);
    lab.say("a", &announce("a", &[ROUTE]));
    lab.lacks("b", ROUTE);
    assert_eq!(lab.unusable("a", ROUTE), Some(Unusable::RejectedByPolicy));
    lab.holds("b", OTHER);
    lab.lacks("a", OTHER);
    // The session is complete all the same.
    let told = lab.told("a");
    assert_eq!(told.iter().filter_map(is_end_of_rib).count(), 2);
    lab.assert_established("a");
}

/// A lab in which `a` and `b` are these to us, as what we are to them says.
fn with_roles(to_a: Option<Role>, to_b: Option<Role>) -> Lab {
    let mut lab = Lab::with(|config| {
        config.peers[0].role = to_a;
        config.peers[1].role = to_b;
    });
    lab.establish(&["a", "b", "c"]);
    lab
}

fn otc(asn: u32) -> Vec<u8> {
    attribute(0xc0, 35, &asn.to_be_bytes())
}

#[test]
fn e27_what_may_only_go_down_does_not_come_up() {
    let leak = Some(Unusable::RouteLeak);
    for (role, marked, wanted) in [
        // From a customer, or a client of our route server.
        (Role::Provider, Some(64600), leak),
        (Role::Provider, Some(3356), leak),
        (Role::Provider, None, None),
        (Role::RouteServer, Some(64600), leak),
        (Role::RouteServer, None, None),
        // From a peer only its own.
        (Role::Peer, Some(3356), leak),
        (Role::Peer, Some(64600), None),
        (Role::Peer, None, None),
        // From above anything.
        (Role::Customer, Some(3356), None),
        (Role::RouteServerClient, Some(3356), None),
    ] {
        let mut lab = with_roles(Some(role), None);
        lab.say("a", &announce("a", &[ROUTE]));
        lab.holds("b", ROUTE);
        let attributes = match marked {
            Some(asn) => usual_but("a", &otc(asn)),
            None => usual("a").concat(),
        };
        lab.say("a", &update(&[], &attributes, &nlri(&[ROUTE])));
        assert_eq!(lab.unusable("a", ROUTE), wanted, "{role:?} {marked:?}");
        // The leak takes the good route before it along.
        assert_eq!(
            lab.ends["b"].table.contains_key(&prefix(ROUTE)),
            wanted.is_none()
        );
    }
}

#[test]
fn e27_what_comes_from_above_or_the_side_is_marked_and_told_downwards_only() {
    let down = [Role::Provider, Role::RouteServer];
    let up_or_sideways = [Role::Customer, Role::Peer, Role::RouteServerClient];
    for to_a in up_or_sideways {
        for to_b in down.into_iter().chain(up_or_sideways) {
            let mut lab = with_roles(Some(to_a), Some(to_b));
            lab.say("a", &announce("a", &[ROUTE]));
            let (inside, _) = lab.holds("c", ROUTE);
            assert_eq!(inside.only_to_customer, Some(Asn(64600)), "{to_a:?}");
            if down.contains(&to_b) {
                let (told, _) = lab.holds("b", ROUTE);
                assert_eq!(told.only_to_customer, Some(Asn(64600)));
            } else {
                lab.lacks("b", ROUTE);
            }
        }
    }
}

#[test]
fn e27_what_goes_down_or_sideways_is_marked_as_ours() {
    for (to_b, wanted) in [
        (Some(Role::Provider), Some(Asn(OWN_ASN))),
        (Some(Role::Peer), Some(Asn(OWN_ASN))),
        (Some(Role::RouteServer), Some(Asn(OWN_ASN))),
        (Some(Role::Customer), None),
        (Some(Role::RouteServerClient), None),
        (None, None),
    ] {
        let mut lab = with_roles(Some(Role::Provider), to_b);
        lab.say("a", &announce("a", &[ROUTE]));
        let (told, _) = lab.holds("b", ROUTE);
        assert_eq!(told.only_to_customer, wanted, "{to_b:?}");
        assert_eq!(lab.holds("c", ROUTE).0.only_to_customer, None);
    }
}

/// As many communities as make so many octets, with their header.
fn communities(count: u16) -> Vec<u8> {
    let mut octets = vec![0xd0, 8];
    octets.extend((count * 4).to_be_bytes());
    octets.extend((0..count).flat_map(|number| {
        let [high, low] = number.to_be_bytes();
        [0, 1, high, low]
    }));
    octets
}

#[test]
fn e28_attributes_that_fit_no_message_lose_what_may_go_or_take_the_route_along() {
    let mut lab = Lab::new();
    // Only a reads and writes long messages.
    let long = [USUAL, &[6, 0]].concat();
    lab.establish_with("a", &long);
    lab.establish_with("b", USUAL);
    let with = |count: u16, more: &[Vec<u8>]| {
        let mut attributes = usual("a");
        attributes.push(communities(count));
        attributes.extend(more.iter().cloned());
        update(&[], &attributes.concat(), &nlri(&[ROUTE]))
    };
    let aggregator = attribute(0xc0, 7, &[0, 0, 252, 88, 192, 0, 2, 9]);
    let atomic = attribute(0x40, 6, &[]);
    lab.say("a", &with(10, &[]));
    // 19 + 2 + 2, ORIGIN 4, AS_PATH 13, NEXT_HOP 7, header 4: 1011 communities leave 1 octet less than a prefix needs.
    let most = (4096 - 23 - 4 - 13 - 7 - 4 - 5) / 4;
    lab.say("a", &with(most, &[aggregator.clone(), atomic.clone()]));
    let (told, _) = lab.holds("b", ROUTE);
    assert_eq!(told.communities.iter().count(), usize::from(most));
    assert!(told.aggregator.is_none() && !told.atomic_aggregate);
    assert_eq!(lab.unsendable("b"), 0);
    lab.say("a", &with(most + 1, &[aggregator, atomic]));
    lab.lacks("b", ROUTE);
    assert_eq!(lab.unsendable("b"), 1);
    lab.assert_established("b");
    // Others go on being told, and the route comes back once it fits.
    lab.say("a", &announce("a", &[OTHER]));
    lab.holds("b", OTHER);
    lab.say("a", &with(most, &[]));
    lab.holds("b", ROUTE);
}

#[test]
fn e29_a_path_that_is_back_before_anybody_looked_is_not_told() {
    let mut lab = Lab::established(&["a", "b"]);
    lab.say("a", &announce("a", &[ROUTE]));
    lab.told("b");
    let longer = update(
        &[],
        &usual_but("a", &as_path(&[64600, 3356])),
        &nlri(&[ROUTE]),
    );
    lab.say_at_once("a", &[&longer, &announce("a", &[ROUTE])]);
    assert_eq!(lab.told("b"), []);
    lab.say_at_once("a", &[&withdraw(&[ROUTE]), &announce("a", &[ROUTE])]);
    assert_eq!(lab.told("b"), []);
}

#[test]
fn e31_of_two_that_were_told_alike_only_the_one_whose_policy_changed_is_told_anew() {
    let mut lab = Lab::with(|config| config.peers[3].route_reflector_client = true);
    lab.establish(&["a", "c", "d"]);
    lab.say("a", &announce("a", &[ROUTE, OTHER]));
    let group = |lab: &Lab, name: &str| lab.peer(name).families[0].update_group;
    assert_eq!(group(&lab, "c"), group(&lab, "d"));
    lab.told("c");
    lab.told("d");
    lab.configure(|config| {
        config.peers[2].export = Arc::new(Policy {
            rules: vec![Rule::reject(vec![Condition::PrefixIn(
                [prefix(ROUTE)].into_iter().collect(),
            )])],
            default: Verdict::Accept,
        });
    });
    lab.lacks("c", ROUTE);
    lab.holds("c", OTHER);
    assert_eq!(lab.told("d"), []);
    assert_ne!(group(&lab, "c"), group(&lab, "d"));
}

#[test]
fn e32_a_two_octet_peer_reads_as_trans_and_the_rest_beside_it_only_where_needed() {
    let mut lab = Lab::new();
    lab.establish(&["a"]);
    lab.connect("b");
    lab.ends.get_mut("b").unwrap().reading.four_octet_as = false;
    let parameters = [2, 12, 1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1];
    lab.say(
        "b",
        &plain_open(4, asn_of("b"), address_of("b"), 90, &parameters),
    );
    lab.say("b", &KEEPALIVE);
    lab.assert_established("b");
    let last = |lab: &Lab| lab.ends["b"].frames.last().unwrap().clone();
    let holds =
        |frame: &[u8], octets: &[u8]| frame.windows(octets.len()).any(|window| window == octets);
    tell(&mut lab, "a", &[64600, 3356]);
    let frame = last(&lab);
    assert!(
        holds(&frame, &[0x40, 2, 8, 2, 3, 252, 0, 252, 88, 13, 28]),
        "{frame:02x?}"
    );
    assert!(!holds(&frame, &[0xc0, 17]));
    tell(&mut lab, "a", &[64600, 4_200_000_001]);
    let frame = last(&lab);
    assert!(holds(
        &frame,
        &[0x40, 2, 8, 2, 3, 252, 0, 252, 88, 0x5b, 0xa0]
    ));
    assert!(holds(
        &frame,
        &[
            0xc0, 17, 14, 2, 3, 0, 0, 252, 0, 0, 0, 252, 88, 0xfa, 0x56, 0xea, 1
        ]
    ));
    assert_eq!(path_told(&lab, "b"), "64512 64600 4200000001");
}

#[test]
fn a_default_route_is_told_to_those_who_are_to_have_it_and_to_nobody_else() {
    let mut lab = Lab::forwarding(|config| {
        config.peers[1].default_originate = true;
        config.peers[1].export = Arc::new(Policy::reject_all());
    });
    lab.establish(&["a", "b", "c"]);
    for text in ["0.0.0.0/0", "::/0"] {
        let (told, _) = lab.holds("b", text);
        assert_eq!(told.as_path.to_string(), "64512");
        lab.lacks("a", text);
        lab.lacks("c", text);
    }
    assert_eq!(lab.forwarded(), [], "nobody forwards by it");
    // What others say of the default route changes nothing of it.
    lab.say("a", &announce("a", &["0.0.0.0/0"]));
    assert_eq!(lab.holds("b", "0.0.0.0/0").0.as_path.to_string(), "64512");
    assert_eq!(lab.holds("c", "0.0.0.0/0").0.as_path.to_string(), "64600");
    lab.configure(|config| config.peers[1].default_originate = false);
    lab.lacks("b", "0.0.0.0/0");
    lab.lacks("b", "::/0");
    lab.configure(|config| config.peers[2].default_originate = true);
    assert!(lab.holds("c", "0.0.0.0/0").0.as_path.is_empty());
    assert_eq!(lab.peer("c").established_count, 1);
}

#[test]
fn a_default_route_is_told_among_several_paths_too() {
    let mut lab = Lab::with(|config| {
        config.peers[1].default_originate = true;
        config.peers[1].add_path_send = Some(margay_bgp::speaker::config::AddPathSend::All);
    });
    let both = [69, 8, 0, 1, 1, 1, 0, 2, 1, 1];
    lab.establish_with("b", &[USUAL, &both].concat());
    lab.establish(&["a"]);
    assert_eq!(lab.holds("b", "0.0.0.0/0").0.as_path.to_string(), "64512");
    lab.say("a", &announce("a", &["0.0.0.0/0"]));
    lab.say("a", &withdraw(&["0.0.0.0/0"]));
    lab.configure(|config| config.peers[1].default_originate = false);
    lab.lacks("b", "0.0.0.0/0");
}

#[test]
fn an_aggregate_lives_as_long_as_something_more_specific() {
    let mut lab = Lab::with(|config| {
        config.aggregates = vec![Aggregate::new(prefix("10.0.0.0/8"))];
    });
    lab.establish(&["a", "b", "c"]);
    lab.lacks("b", "10.0.0.0/8");
    lab.say("a", &announce("a", &[ROUTE, OTHER]));
    let (told, next_hop) = lab.holds("b", "10.0.0.0/8");
    assert_eq!(told.as_path.to_string(), "64512");
    assert!(told.atomic_aggregate);
    assert_eq!(told.aggregator.unwrap().asn, Asn(OWN_ASN));
    assert_eq!(next_hop.addr(), IpAddr::from([192, 0, 2, 1]));
    lab.holds("b", ROUTE);
    // Its ORIGIN is the worst of theirs.
    let incomplete = attribute(0x40, 1, &[2]);
    lab.say(
        "a",
        &update(&[], &usual_but("a", &incomplete), &nlri(&[OTHER])),
    );
    assert_eq!(
        lab.holds("b", "10.0.0.0/8").0.origin,
        margay_bgp::codec::Origin::Incomplete
    );
    lab.say("a", &withdraw(&[ROUTE]));
    lab.holds("b", "10.0.0.0/8");
    lab.say("a", &withdraw(&[OTHER]));
    lab.lacks("b", "10.0.0.0/8");
}

#[test]
fn an_aggregate_may_stand_for_what_is_inside_it() {
    let mut lab = Lab::new();
    lab.establish(&["a", "b", "c"]);
    lab.say("a", &announce("a", &[ROUTE, OTHER, "11.0.0.0/8"]));
    lab.configure(|config| {
        config.aggregates = vec![Aggregate {
            summary_only: true,
            ..Aggregate::new(prefix("10.0.0.0/8"))
        }];
    });
    for name in ["b", "c"] {
        lab.holds(name, "10.0.0.0/8");
        lab.holds(name, "11.0.0.0/8");
        lab.lacks(name, ROUTE);
        lab.lacks(name, OTHER);
    }
    lab.cut("a");
    lab.lacks("b", "10.0.0.0/8");
    lab.establish(&["a"]);
    lab.say("a", &announce("a", &[ROUTE]));
    lab.holds("b", "10.0.0.0/8");
    lab.configure(|config| config.aggregates.clear());
    lab.lacks("b", "10.0.0.0/8");
    lab.holds("b", ROUTE);
    assert_eq!(lab.peer("b").established_count, 1);
}
