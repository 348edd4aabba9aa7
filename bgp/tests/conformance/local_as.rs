//! Sessions on which our AS is another one (RFC 7705), and what passes between them and the rest.

use margay_bgp::asn::Asn;
use margay_bgp::codec::Message;
use margay_bgp::router_id::RouterId;
use margay_bgp::speaker::config::{LocalAsMode, NextHopMode, Originate, SpeakerConfig};
use margay_bgp::speaker::snapshot::Unusable;

use super::external::{path_told, tell};
use super::{
    KEEPALIVE, Lab, OWN_ASN, USUAL, address_of, announce, as_path, attribute, nlri, open, paced,
    prefix, update, usual, usual_but,
};

const ROUTE: &str = "10.1.0.0/16";
const OTHER: &str = "10.2.0.0/16";

/// The AS that `c` is in, and we with it.
const ITS_OWN: u32 = 65000;

/// `c` is in [`ITS_OWN`] and no client, `d` in ours and none either.
fn in_two_ass(change: impl FnOnce(&mut SpeakerConfig)) -> Lab {
    let mut lab = Lab::with(|config| {
        config.peers[2].asn = Asn(ITS_OWN).into();
        config.peers[2].local_asn = Some(Asn(ITS_OWN));
        config.peers[2].route_reflector_client = false;
        change(config);
    });
    lab.connect("c");
    lab.say("c", &open(ITS_OWN, address_of("c"), 90, USUAL));
    lab.say("c", &KEEPALIVE);
    lab.establish(&["d"]);
    lab
}

#[test]
fn e4_between_peers_inside_two_of_our_ass_routes_pass_as_over_a_border() {
    for client in [false, true] {
        let mut lab = in_two_ass(|config| config.peers[2].route_reflector_client = client);
        let mut attributes = usual("c");
        attributes[3] = attribute(0x40, 5, &[0, 0, 0, 200]);
        attributes.insert(3, attribute(0x80, 4, &[0, 0, 0, 5]));
        attributes.push(attribute(0x80, 9, &[192, 0, 2, 88]));
        attributes.push(attribute(0x80, 10, &[192, 0, 2, 99]));
        // One transitive extended community, one that is not.
        let communities = [0, 2, 0, 1, 0, 0, 0, 1, 0x40, 4, 0, 1, 0, 0, 0, 1];
        attributes.push(attribute(0xc0, 16, &communities));
        lab.say("c", &update(&[], &attributes.concat(), &nlri(&[ROUTE])));
        let (told, next_hop) = lab.holds("d", ROUTE);
        assert_eq!(told.as_path.to_string(), "65000");
        assert_eq!(next_hop.addr().to_string(), "192.0.2.4");
        // How we prefer routes ourselves, as everywhere inside an AS.
        assert_eq!(told.local_pref.map(|value| value.0), Some(200));
        assert!(told.originator_id.is_none() && told.med.is_none());
        assert_eq!(told.cluster_list, Vec::<RouterId>::new());
        assert_eq!(told.extended_communities.iter().count(), 1);
        // The same the other way.
        lab.say("d", &announce("d", &[OTHER]));
        assert_eq!(lab.holds("c", OTHER).0.as_path.to_string(), "64512");
        // What comes back over the border is a loop there.
        tell(&mut lab, "c", &[OWN_ASN]);
        assert_eq!(path_told(&lab, "d"), "65000 64512");
        tell(&mut lab, "c", &[OWN_ASN, ITS_OWN]);
        lab.lacks("d", ROUTE);
    }
}

#[test]
fn e23_no_export_keeps_a_route_inside_the_one_of_our_ass_it_is_from() {
    let mut lab = in_two_ass(|config| {
        config.peers[0].local_asn = Some(Asn(ITS_OWN));
    });
    lab.establish(&["a"]);
    let no_export = attribute(0xc0, 8, &[0xff, 0xff, 0xff, 0x01]);
    let from_c = update(&[], &usual_but("c", &no_export), &nlri(&[ROUTE]));
    lab.say("c", &from_c);
    lab.lacks("d", ROUTE);
    // Routes from outside stay inside each of the two.
    let from_a = update(&[], &usual_but("a", &no_export), &nlri(&[OTHER]));
    lab.say("a", &from_a);
    lab.holds("c", OTHER);
    lab.holds("d", OTHER);
}

#[test]
fn e10_over_the_border_between_two_of_our_ass_we_may_be_the_next_hop() {
    let mut lab = in_two_ass(|config| config.peers[3].next_hop = NextHopMode::SelfAddress);
    lab.say("c", &announce("c", &[ROUTE]));
    assert_eq!(lab.holds("d", ROUTE).1.addr().to_string(), "192.0.2.1");
}

#[test]
fn e22_ass_that_become_one_are_one_inside() {
    for mode in [
        LocalAsMode::Prepend,
        LocalAsMode::NoPrepend,
        LocalAsMode::ReplaceAs,
        LocalAsMode::DualAs,
    ] {
        let mut lab = in_two_ass(|config| config.peers[2].local_as_mode = mode);
        lab.say("c", &announce("c", &[ROUTE]));
        lab.lacks("d", ROUTE);
        if mode == LocalAsMode::DualAs {
            continue;
        }
        // Whether they are is a matter of what is told, not of the session.
        lab.configure(|config| config.peers[2].local_as_mode = LocalAsMode::Session);
        assert_eq!(path_told(&lab, "d"), "65000");
        lab.configure(|config| {
            config.peers[2].local_as_mode = mode;
            config.peers[3].route_reflector_client = true;
        });
        assert_eq!(path_told(&lab, "d"), "");
        assert_eq!(lab.holds("d", ROUTE).0.cluster_list.len(), 1);
        assert_eq!(lab.peer("c").established_count, 1);
        assert_eq!(lab.peer("d").established_count, 1);
    }
}

#[test]
fn d7_med_is_not_compared_between_peers_inside_two_of_our_ass() {
    let mut lab = in_two_ass(|_| ());
    for (name, med) in [("c", 9), ("d", 1)] {
        let med = attribute(0x80, 4, &[0, 0, 0, med]);
        lab.say(name, &update(&[], &usual_but(name, &med), &nlri(&[ROUTE])));
    }
    let best = lab.paths_of(ROUTE).into_iter().find(|path| path.best);
    assert_eq!(best.map(|path| path.from).as_deref(), Some("c"));
}

#[test]
fn e20_each_of_two_ass_of_ours_is_allowed_as_often_as_configured() {
    let mut lab = Lab::with(|config| {
        config.peers[1].local_asn = Some(Asn(65200));
        config.peers[1].local_as_mode = LocalAsMode::NoPrepend;
        config.peers[1].allowed_local_as = 1;
    });
    lab.establish(&["b"]);
    for (path, used) in [
        // A route of ours, as `b` is told it.
        (&[64700, 65200, OWN_ASN][..], true),
        (&[64700, 65200, 65200], false),
        (&[64700, OWN_ASN, 65200, OWN_ASN], false),
    ] {
        tell(&mut lab, "b", path);
        let wanted = (!used).then_some(Unusable::AsLoop);
        assert_eq!(lab.unusable("b", ROUTE), wanted, "{path:?}");
    }
}

#[test]
fn e21_a_local_as_stands_for_ours_on_its_session_alone() {
    let mut lab = Lab::with(|config| config.peers[1].local_asn = Some(Asn(65200)));
    lab.establish(&["b"]);
    let Message::Open(said) = &lab.ends["b"].told[0] else {
        panic!("{:?}", lab.ends["b"].told)
    };
    assert_eq!(said.asn, Asn(65200));
    tell(&mut lab, "b", &[64700, OWN_ASN]);
    assert_eq!(lab.unusable("b", ROUTE), None);
    tell(&mut lab, "b", &[64700, 65200]);
    assert_eq!(lab.unusable("b", ROUTE), Some(Unusable::AsLoop));
}

#[test]
fn e22_a_local_as_is_prepended_both_ways_or_as_little_as_asked_for() {
    for (mode, told_to_b, heard_by_a) in [
        (LocalAsMode::Session, "65200 64600", "64512 64700"),
        (
            LocalAsMode::Prepend,
            "65200 64512 64600",
            "64512 65200 64700",
        ),
        (LocalAsMode::NoPrepend, "65200 64512 64600", "64512 64700"),
        (LocalAsMode::ReplaceAs, "65200 64600", "64512 64700"),
        (LocalAsMode::DualAs, "65200 64600", "64512 64700"),
    ] {
        let mut lab = Lab::with(|config| {
            config.peers[1].local_asn = Some(Asn(65200));
            config.peers[1].local_as_mode = mode;
        });
        lab.establish(&["a", "b"]);
        lab.say("a", &announce("a", &[ROUTE]));
        assert_eq!(path_told(&lab, "b"), told_to_b, "{mode:?}");
        lab.say("b", &announce("b", &[OTHER]));
        let heard = lab.holds("a", OTHER).0.as_path.to_string();
        assert_eq!(heard, heard_by_a, "{mode:?}");
        // Both numbers make a loop, but where the session has only the one.
        tell(&mut lab, "b", &[64700, OWN_ASN]);
        let loops = mode != LocalAsMode::Session;
        let wanted = loops.then_some(Unusable::AsLoop);
        assert_eq!(lab.unusable("b", ROUTE), wanted, "{mode:?}");
    }
}

#[test]
fn e22_what_a_local_as_means_changes_without_a_reset() {
    let mut lab = Lab::with(|config| {
        config.peers[1].local_asn = Some(Asn(65200));
        config.peers[1].local_as_mode = LocalAsMode::NoPrepend;
    });
    lab.establish(&["a", "b"]);
    lab.say("b", &announce("b", &[OTHER]));
    lab.configure(|config| {
        config.peers[1].local_as_mode = LocalAsMode::Prepend;
    });
    let heard = lab.holds("a", OTHER).0.as_path.to_string();
    assert_eq!(heard, "64512 65200 64700");
    assert_eq!(lab.peer("b").established_count, 1);
}

#[test]
fn e22_a_local_as_that_is_the_peers_own_changes_no_path() {
    let mut lab = Lab::with(|config| {
        config.peers[1].local_asn = Some(Asn(64700));
        config.peers[1].local_as_mode = LocalAsMode::Prepend;
    });
    lab.establish(&["a", "b", "c"]);
    let mut attributes = usual("b");
    attributes[1] = as_path(&[3356]);
    attributes.push(attribute(0x40, 5, &[0, 0, 0, 100]));
    lab.say("b", &update(&[], &attributes.concat(), &nlri(&[ROUTE])));
    assert_eq!(path_told(&lab, "a"), "64512 3356");
    assert_eq!(path_told(&lab, "c"), "3356");
}

#[test]
fn e22_dual_as_shows_the_other_number_to_whoever_refuses_the_first() {
    let mut lab = Lab::with(|config| {
        config.peers[1].local_asn = Some(Asn(65200));
        config.peers[1].local_as_mode = LocalAsMode::DualAs;
        config.peers[1].idle_hold_max = paced(60, 1);
        config.originate.push(Originate::new(prefix(ROUTE)));
    });
    let shown = |lab: &Lab| {
        let Message::Open(open) = &lab.ends["b"].told[0] else {
            panic!("{:?}", lab.ends["b"].told)
        };
        open.asn
    };
    for wanted in [65200, OWN_ASN] {
        lab.connect("b");
        assert_eq!(shown(&lab), Asn(wanted));
        lab.say("b", &super::message(3, &[2, 2]));
        lab.advance(super::SECOND * 2, &[]);
    }
    // It knows neither, and after a rest is asked from the start.
    lab.advance(paced(120, 4), &[]);
    lab.connect("b");
    assert_eq!(shown(&lab), Asn(65200));
    lab.say("b", &super::message(3, &[2, 2]));
    lab.advance(super::SECOND * 2, &[]);
    lab.establish(&["b"]);
    assert_eq!(path_told(&lab, "b"), "64512");
}
