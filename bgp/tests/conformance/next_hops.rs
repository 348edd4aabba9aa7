//! Which next hops are believed and which are told (RFC 4271 §5.1.3, RFC 2545 §3, RFC 4456 §10, RFC 8950).

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use margay_bgp::policy::{Action, Policy, Rule, Verdict};
use margay_bgp::speaker::config::{Listen, NextHopMode, Originate, Remote};
use margay_bgp::speaker::snapshot::Unusable;

use super::{
    Lab, NEIGHBOURS, USUAL, announce, as_path, attribute, nlri, own_address, prefix, update,
    usual_but,
};

const ROUTE: &str = "10.1.0.0/16";
const OTHER: &str = "10.2.0.0/16";
/// IPv4 prefixes with IPv6 next hops, beside the usual.
const EXTENDED: &[u8] = &[5, 6, 0, 1, 0, 1, 0, 2];

/// `name` announces the route by this next hop.
fn tell(lab: &mut Lab, name: &'static str, hop: [u8; 4]) {
    let hop = attribute(0x40, 3, &hop);
    lab.say(name, &update(&[], &usual_but(name, &hop), &nlri(&[ROUTE])));
}

/// The route with an IPv6 next hop, as `c` announces it.
fn by_ipv6() -> Vec<u8> {
    let mut reach = vec![0, 1, 1, 16];
    reach.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0]);
    reach.extend(nlri(&[ROUTE]));
    let attributes = [
        attribute(0x80, 14, &reach),
        attribute(0x40, 1, &[0]),
        as_path(&[]),
        attribute(0x40, 5, &[0, 0, 0, 100]),
    ];
    update(&[], &attributes.concat(), &[])
}

fn warnings(lab: &Lab, name: &str) -> String {
    lab.peer(name).warnings.join("; ")
}

#[test]
fn e10_a_reflector_does_not_stand_in_for_a_next_hop_that_cannot_be_told() {
    for mode in [
        NextHopMode::Auto,
        NextHopMode::SelfAddress,
        NextHopMode::Keep,
        NextHopMode::ForceSelf,
    ] {
        let mut lab = Lab::with(|config| {
            config.peers[2].extended_next_hop = true;
            config.peers[3].next_hop = mode;
        });
        lab.establish_with("c", &[USUAL, EXTENDED].concat());
        lab.establish(&["a", "d"]);
        lab.say("c", &announce("c", &[ROUTE, OTHER]));
        lab.holds("d", ROUTE);
        lab.say("c", &by_ipv6());
        // The border to another AS is the way there.
        assert_eq!(lab.holds("a", ROUTE).1.addr().to_string(), "192.0.2.1");
        lab.holds("d", OTHER);
        let missing = "routes of ipv4-unicast are kept back";
        if mode == NextHopMode::ForceSelf {
            assert_eq!(lab.holds("d", ROUTE).1.addr().to_string(), "192.0.2.1");
            assert_eq!(warnings(&lab, "d"), "");
        } else {
            lab.lacks("d", ROUTE);
            assert!(warnings(&lab, "d").contains(missing), "{mode:?}");
            assert_eq!(lab.peer("d").families[0].withheld, 1);
            // What is said of a group is said of nobody who left it.
            lab.configure(|config| config.peers[3].next_hop = NextHopMode::ForceSelf);
            assert_eq!(lab.holds("d", ROUTE).1.addr().to_string(), "192.0.2.1");
            assert_eq!(warnings(&lab, "d"), "");
        }
    }
}

#[test]
fn e10_a_client_that_takes_ipv6_next_hops_is_told_them_unchanged() {
    let mut lab = Lab::with(|config| {
        config.peers[2].extended_next_hop = true;
        config.peers[3].extended_next_hop = true;
    });
    lab.establish_with("c", &[USUAL, EXTENDED].concat());
    lab.connect("d");
    let end = lab.ends.get_mut("d").unwrap();
    end.reading.extended_next_hop = true;
    let all = [USUAL, EXTENDED].concat();
    lab.say(
        "d",
        &super::open(super::OWN_ASN, super::address_of("d"), 90, &all),
    );
    lab.say("d", &super::KEEPALIVE);
    lab.say("c", &by_ipv6());
    assert_eq!(lab.holds("d", ROUTE).1.addr().to_string(), "2001:db8::4");
}

#[test]
fn a14_a_link_local_next_hop_over_a_session_of_no_link_is_unusable() {
    let mut lab = Lab::established(&["a", "b"]);
    for (hop, used) in [("2001:db8::2", true), ("fe80::2", false)] {
        let hop: Ipv6Addr = hop.parse().unwrap();
        let mut reach = vec![0, 2, 1, 16];
        reach.extend(hop.octets());
        reach.push(0);
        reach.extend(nlri(&["fd01::/16"]));
        let reach = attribute(0x80, 14, &reach);
        lab.say("a", &update(&[], &usual_but("a", &reach), &[]));
        let told = lab.ends["b"].table.contains_key(&prefix("fd01::/16"));
        assert_eq!(told, used, "{hop}");
        lab.assert_established("a");
    }
}

#[test]
fn e15_a_route_of_ours_by_a_peer_is_never_told_to_that_peer() {
    for mode in [
        NextHopMode::Auto,
        NextHopMode::SelfAddress,
        NextHopMode::ForceSelf,
        NextHopMode::Keep,
    ] {
        for (number, (name, ..)) in NEIGHBOURS.into_iter().enumerate() {
            let by = |name: &str| {
                let mut route = Originate::new(prefix(ROUTE));
                route.next_hop = Some(IpAddr::V4(super::address_of(name)));
                vec![route]
            };
            let mut lab = Lab::with(|config| {
                config.peers[number].next_hop = mode;
                config.originate = by(name);
            });
            let everybody = NEIGHBOURS.map(|(name, ..)| name);
            lab.establish(&everybody);
            for other in everybody {
                let told = lab.ends[other].table.contains_key(&prefix(ROUTE));
                assert_eq!(
                    told,
                    other != name,
                    "{mode:?}: {other} of a route by {name}"
                );
            }
            let (other, ..) = NEIGHBOURS[(number + 1) % NEIGHBOURS.len()];
            let own = super::address_of(name).to_string();
            assert_eq!(lab.holds(other, ROUTE).1.addr().to_string(), own);
            lab.configure(|config| config.originate = by(other));
            lab.holds(name, ROUTE);
            lab.lacks(other, ROUTE);
        }
    }
}

#[test]
fn e15_whoever_is_to_be_told_ourselves_is_told_so_of_routes_of_ours_that_have_a_next_hop() {
    const OVER: &str = "fd01::/16";
    for mode in [
        NextHopMode::Auto,
        NextHopMode::SelfAddress,
        NextHopMode::ForceSelf,
        NextHopMode::Keep,
    ] {
        let mut lab = Lab::with(|config| {
            for (text, hop) in [(ROUTE, "198.51.100.9"), (OVER, "2001:db8::9")] {
                let mut route = Originate::new(prefix(text));
                route.next_hop = Some(hop.parse().unwrap());
                config.originate.push(route);
            }
            for peer in &mut config.peers {
                peer.next_hop = mode;
            }
            // `d` is told of no IPv6 address of ours, and without that of the route it would not be told of the route.
            config.peers[3].next_hop_address = None;
        });
        let everybody = NEIGHBOURS.map(|(name, ..)| name);
        lab.establish(&everybody);
        let ourselves = matches!(mode, NextHopMode::SelfAddress | NextHopMode::ForceSelf);
        let (ipv4, ipv6) = if ourselves {
            ("192.0.2.1", "2001:db8::1")
        } else {
            ("198.51.100.9", "2001:db8::9")
        };
        for name in everybody {
            let told = |text| lab.holds(name, text).1.addr().to_string();
            assert_eq!(told(ROUTE), ipv4, "{mode:?}: {name}");
            let ipv6 = if name == "d" { "2001:db8::9" } else { ipv6 };
            assert_eq!(told(OVER), ipv6, "{mode:?}: {name}");
        }
    }
}

/// A policy that sets the next hop of everything.
fn by(hop: &str) -> Arc<Policy> {
    Arc::new(Policy {
        rules: vec![Rule {
            conditions: vec![],
            actions: vec![Action::SetNextHop(hop.parse().unwrap())],
            verdict: Some(Verdict::Accept),
        }],
        default: Verdict::Accept,
    })
}

#[test]
fn a3_a_next_hop_that_import_policy_sets_is_judged_as_a_received_one() {
    for (hop, wanted) in [
        ("192.0.2.77", None),
        // IPv4 goes by IPv6 (RFC 8950).
        ("2001:db8::77", None),
        // Ours, loopback, and on a link that the session does not say.
        ("192.0.2.1", Some(Unusable::NextHop)),
        ("127.0.0.9", Some(Unusable::NextHop)),
        ("::1", Some(Unusable::NextHop)),
        ("fe80::77", Some(Unusable::NextHop)),
    ] {
        let mut lab = Lab::with(|config| config.peers[0].import = by(hop));
        lab.establish(&["a", "c"]);
        lab.say("a", &announce("a", &[ROUTE]));
        assert_eq!(lab.unusable("a", ROUTE), wanted, "{hop}");
        assert_eq!(lab.held("c", ROUTE).is_some(), wanted.is_none(), "{hop}");
        // What is in memory is judged alike.
        lab.configure(|config| config.peers[0].import = by("192.0.2.78"));
        assert_eq!(lab.holds("c", ROUTE).1.addr().to_string(), "192.0.2.78");
        lab.configure(|config| config.peers[0].import = by(hop));
        assert_eq!(lab.unusable("a", ROUTE), wanted, "{hop}");
        lab.assert_established("a");
    }
}

#[test]
fn a3_what_policy_drops_needs_no_next_hop_that_leads_anywhere() {
    let mut policy = Policy::clone(&by("127.0.0.9"));
    policy.rules[0].actions.push(Action::Discard);
    let mut lab = Lab::with(|config| config.peers[0].import = Arc::new(policy));
    lab.establish(&["a"]);
    lab.say("a", &announce("a", &[ROUTE]));
    assert_eq!(lab.unusable("a", ROUTE), None);
}

#[test]
fn a3_an_ipv6_route_is_given_no_ipv4_next_hop_by_policy() {
    const OVER: &str = "fd01::/16";
    let mut lab = Lab::with(|config| config.peers[0].import = by("192.0.2.77"));
    lab.establish(&["a", "c"]);
    let hop: Ipv6Addr = "2001:db8::2".parse().unwrap();
    let mut reach = vec![0, 2, 1, 16];
    reach.extend(hop.octets());
    reach.push(0);
    reach.extend(nlri(&[OVER]));
    let reach = attribute(0x80, 14, &reach);
    lab.say("a", &update(&[], &usual_but("a", &reach), &[]));
    assert_eq!(lab.holds("c", OVER).1.addr(), IpAddr::V6(hop));
    lab.say("a", &announce("a", &[ROUTE]));
    assert_eq!(lab.holds("c", ROUTE).1.addr().to_string(), "192.0.2.77");
}

#[test]
fn a3_an_address_that_policy_names_may_become_ours_and_be_anothers_again() {
    let ours = SocketAddr::from(([203, 0, 113, 9], 179));
    let mut lab = Lab::with(|config| {
        config.listen = vec![Listen::from(own_address())];
        config.peers[0].import = by("203.0.113.9");
    });
    lab.establish(&["a", "c"]);
    lab.say("a", &announce("a", &[ROUTE]));
    for _ in 0..2 {
        lab.holds("c", ROUTE);
        lab.configure(|config| config.listen.push(Listen::from(ours)));
        assert_eq!(lab.unusable("a", ROUTE), Some(Unusable::NextHop));
        lab.lacks("c", ROUTE);
        lab.configure(|config| config.listen.truncate(1));
    }
}

#[test]
fn e15_policy_cannot_make_a_peer_its_own_next_hop() {
    let mut lab = Lab::with(|config| {
        for peer in &mut config.peers {
            peer.export = by("192.0.2.3");
        }
        config.originate.push(Originate::new(prefix(ROUTE)));
    });
    lab.establish(&["a", "b"]);
    assert_eq!(lab.holds("a", ROUTE).1.addr().to_string(), "192.0.2.3");
    assert_eq!(lab.holds("b", ROUTE).1.addr().to_string(), "192.0.2.1");
}

#[test]
fn a3_an_external_peer_one_hop_away_names_itself_or_its_neighbours() {
    let (near, far) = ([192, 0, 2, 77], [198, 51, 100, 1]);
    let shared = || vec![prefix("192.0.2.0/24")];
    let mut lab = Lab::with(|config| {
        for peer in &mut config.peers {
            peer.ttl = Some(1);
            peer.connected_subnets = shared();
        }
    });
    lab.establish(&["a", "c"]);
    tell(&mut lab, "a", far);
    assert_eq!(lab.unusable("a", ROUTE), Some(Unusable::NextHop));
    lab.lacks("c", ROUTE);
    tell(&mut lab, "a", near);
    assert_eq!(lab.unusable("a", ROUTE), None);
    // Inside the AS next hops are wherever they are.
    tell(&mut lab, "c", far);
    assert_eq!(lab.unusable("c", ROUTE), None);
    // It is known from what is in memory, and nothing is known where no subnet is said to be shared.
    tell(&mut lab, "a", far);
    assert_eq!(lab.unusable("a", ROUTE), Some(Unusable::NextHop));
    lab.configure(|config| config.peers[0].connected_subnets = vec![prefix("2001:db8::/64")]);
    assert_eq!(lab.unusable("a", ROUTE), None);
    lab.configure(|config| config.peers[0].connected_subnets = shared());
    assert_eq!(lab.unusable("a", ROUTE), Some(Unusable::NextHop));
    assert_eq!(lab.peer("a").established_count, 1);
    // Its own address serves wherever it is.
    lab.configure(|config| config.peers[0].connected_subnets = vec![prefix("203.0.113.0/24")]);
    tell(&mut lab, "a", [192, 0, 2, 2]);
    assert_eq!(lab.unusable("a", ROUTE), None);

    let mut lab = Lab::with(|config| config.peers[0].connected_subnets = shared());
    lab.establish(&["a"]);
    tell(&mut lab, "a", far);
    assert_eq!(lab.unusable("a", ROUTE), None);
}

const ELSE: [u8; 4] = [203, 0, 113, 9];

#[test]
fn a3_an_address_that_a_listener_makes_ours_is_no_next_hop_while_it_listens() {
    let mut lab = Lab::with(|config| {
        config.listen = vec![Listen::from(own_address())];
    });
    lab.establish(&["a", "c"]);
    tell(&mut lab, "a", [192, 0, 2, 1]);
    assert_eq!(lab.unusable("a", ROUTE), Some(Unusable::NextHop));
    tell(&mut lab, "a", ELSE);
    lab.holds("c", ROUTE);
    let ours = SocketAddr::from((ELSE, 179));
    lab.configure(|config| config.listen.push(Listen::from(ours)));
    assert_eq!(lab.unusable("a", ROUTE), Some(Unusable::NextHop));
    lab.lacks("c", ROUTE);
    lab.configure(|config| config.listen.truncate(1));
    lab.holds("c", ROUTE);
}

#[test]
fn a3_an_address_that_a_session_shows_to_be_ours_is_no_next_hop_until_the_next_one_is_of_another() {
    let mut lab = Lab::with(|config| {
        // All of ours, without a name for any.
        config.listen = vec![Listen::from(SocketAddr::from(([0; 4], 179)))];
    });
    lab.establish(&["a", "c"]);
    tell(&mut lab, "a", ELSE);
    lab.holds("c", ROUTE);
    let theirs = SocketAddr::from(([192, 0, 2, 3], 40_000));
    lab.connect_from("b", theirs, SocketAddr::from((ELSE, 179)));
    let open = super::open(super::asn_of("b"), super::address_of("b"), 90, USUAL);
    lab.say("b", &open);
    lab.say("b", &super::KEEPALIVE);
    lab.assert_established("b");
    lab.lacks("c", ROUTE);
    // The session may go without the address going.
    lab.cut("b");
    lab.lacks("c", ROUTE);
    lab.establish(&["b"]);
    lab.holds("c", ROUTE);
}

#[test]
fn our_address_on_one_link_is_a_neighbours_on_another() {
    const OVER: &str = "fd01::/16";
    const LINKED: [(&str, u32, u16); 2] = [("a", 7, 2), ("b", 8, 1)];
    let on = |link, last, port| {
        let address = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last);
        SocketAddr::V6(SocketAddrV6::new(address, port, 0, link))
    };
    let mut lab = Lab::with(|config| {
        config.peers.truncate(LINKED.len());
        for (peer, (_, link, last)) in config.peers.iter_mut().zip(LINKED) {
            peer.remote = Remote::Address(on(link, last, 179));
            peer.next_hop_address = Some(own_address().ip());
        }
    });
    // Whoever is 1 on one link is 2 on the other.
    for (name, link, last) in LINKED {
        lab.connect_from(name, on(link, last, 40_000), on(link, 3 - last, 179));
        let asn = super::asn_of(name);
        lab.say(name, &super::open(asn, super::address_of(name), 90, USUAL));
        lab.say(name, &super::KEEPALIVE);
    }
    for (name, _, last) in LINKED {
        for (hop, why) in [(last, None), (3 - last, Some(Unusable::NextHop))] {
            let mut reach = vec![0, 2, 1, 16, 0xfe, 0x80];
            reach.extend([0; 12]);
            reach.extend(hop.to_be_bytes());
            reach.push(0);
            reach.extend(nlri(&[OVER]));
            let reach = attribute(0x80, 14, &reach);
            lab.say(name, &update(&[], &usual_but(name, &reach), &[]));
            let paths = lab.paths_of(OVER);
            let path = paths.iter().find(|path| path.from == name);
            assert_eq!(path.expect("a path").unusable, why, "{name}: {hop}");
        }
    }
}
