//! Routes of peers that stay away for long (RFC 9494).
//!
//! `d` restarts; `c` knows of long-lived stale routes, `a` and `b` do not.

use std::time::Duration;

use margay_bgp::codec::{Community, LocalPref};
use margay_bgp::speaker::config::{LongLived, SpeakerConfig};

use super::{
    Lab, SECOND, announce, attribute, end_of_rib, nlri, paced, update, usual_but, withdraw,
};

const ROUTE: &str = "10.1.0.0/16";
const OTHER: &str = "10.2.0.0/16";

/// IPv4, route refresh.
const IPV4: [u8; 8] = [1, 4, 0, 1, 0, 1, 2, 0];
/// Graceful restart, forwarding kept, `time` seconds, without the N bit.
const fn restarts(time: u8) -> [u8; 8] {
    [64, 6, 0, time, 0, 1, 1, 0x80]
}
/// Long-lived, `time` seconds.
const fn long_lived(time: u8, flags: u8) -> [u8; 9] {
    [71, 7, 0, 1, 1, flags, 0, 0, time]
}
/// It knows what long-lived stale means, and asks for nothing.
const AWARE: [u8; 12] = [1, 4, 0, 1, 0, 1, 64, 2, 0, 0, 71, 0];

fn capabilities(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn lab(change: impl FnOnce(&mut SpeakerConfig)) -> Lab {
    let mut lab = Lab::with(|config| {
        for peer in &mut config.peers {
            peer.long_lived = Some(LongLived {
                stale_time: 1000 * SECOND,
                partial_deployment: false,
            });
        }
        change(config);
    });
    lab.establish(&["a"]);
    lab.establish_with("c", &AWARE);
    lab
}

/// `d` comes up with these times and says two routes, one of them not to be kept for long.
fn announced(lab: &mut Lab, restart: u8, stale: u8) {
    let own = capabilities(&[&IPV4, &restarts(restart), &long_lived(stale, 0x80)]);
    lab.establish_with("d", &own);
    lab.say("d", &announce("d", &[ROUTE]));
    let no_llgr = attribute(0xc0, 8, &Community::NO_LLGR.0.to_be_bytes());
    lab.say(
        "d",
        &update(&[], &usual_but("d", &no_llgr), &nlri(&[OTHER])),
    );
    lab.say("d", &end_of_rib());
}

fn is_marked(lab: &Lab, name: &str) -> bool {
    let communities = &lab.holds(name, ROUTE).0.communities;
    communities.contains(&Community::LLGR_STALE)
}

fn octet(time: Duration) -> u8 {
    u8::try_from(time.as_secs()).unwrap()
}

fn wait(lab: &mut Lab, seconds: u32) {
    lab.advance(seconds * SECOND, &[]);
}

#[test]
fn g18_after_the_restart_time_routes_are_marked_or_deleted_and_the_last_choice() {
    let mut lab = lab(|_| ());
    let (restart, stale) = (paced(30, 2), paced(60, 6));
    announced(&mut lab, octet(restart), octet(stale));
    let mark = lab.mark();
    lab.cut("d");
    lab.holds("c", OTHER);
    lab.until((mark, restart), &[], "the mark", |lab| is_marked(lab, "c"));
    lab.lacks("c", OTHER);
    // Worse than any fresh path: this one has the longer AS path and is external.
    lab.say("a", &announce("a", &[ROUTE]));
    assert!(!is_marked(&lab, "c"));
    lab.say("a", &withdraw(&[ROUTE]));
    assert!(is_marked(&lab, "c"));
    // So long a life, and no more.
    lab.until((mark, restart + stale), &[], "the end", |lab| {
        lab.held("c", ROUTE).is_none()
    });
}

#[test]
fn g19_long_lived_stale_routes_are_withdrawn_from_peers_that_do_not_know_them() {
    let mut lab = lab(|_| ());
    let restart = paced(30, 2);
    announced(&mut lab, octet(restart), 60);
    lab.holds("a", ROUTE);
    let mark = lab.mark();
    lab.cut("d");
    lab.until((mark, restart), &[], "the withdrawal", |lab| {
        lab.held("a", ROUTE).is_none()
    });
    lab.holds("c", ROUTE);
}

#[test]
fn g21_a_family_that_only_the_long_lived_capability_lists_is_long_lived_stale_at_once() {
    let mut lab = lab(|_| ());
    let stale = paced(60, 4);
    let own = capabilities(&[&IPV4, &[64, 2, 0, 30], &long_lived(octet(stale), 0x80)]);
    lab.establish_with("d", &own);
    lab.say("d", &announce("d", &[ROUTE]));
    let mark = lab.mark();
    lab.cut("d");
    assert!(is_marked(&lab, "c"));
    lab.lacks("a", ROUTE);
    lab.until((mark, stale), &[], "the end", |lab| {
        lab.held("c", ROUTE).is_none()
    });
}

#[test]
fn g21_without_a_restart_time_routes_are_long_lived_stale_at_once() {
    let mut lab = lab(|_| ());
    let stale = paced(60, 4);
    announced(&mut lab, 0, octet(stale));
    let mark = lab.mark();
    lab.cut("d");
    lab.until((mark, Duration::ZERO), &[], "the mark", |lab| {
        is_marked(lab, "c")
    });
    lab.lacks("a", ROUTE);
    lab.until((mark, stale), &[], "the end", |lab| {
        lab.held("c", ROUTE).is_none()
    });
}

#[test]
fn a_family_that_only_the_long_lived_capability_lists_has_no_restart_time() {
    let mut lab = lab(|_| ());
    // Graceful restart of IPv6 alone.
    let restart = [64, 6, 0, 120, 0, 2, 1, 0x80];
    let both = [1, 4, 0, 2, 0, 1];
    let own = capabilities(&[&IPV4, &both, &restart, &long_lived(60, 0x80)]);
    lab.establish_with("d", &own);
    lab.say("d", &announce("d", &[ROUTE]));
    lab.cut("d");
    assert!(is_marked(&lab, "c"));
}

#[test]
fn the_long_life_asked_for_is_clamped_to_what_is_configured() {
    let mut lab = lab(|config| {
        config.peers[3].long_lived = Some(LongLived {
            stale_time: paced(10, 3),
            partial_deployment: false,
        });
    });
    announced(&mut lab, 0, 200);
    let mark = lab.mark();
    lab.cut("d");
    lab.until((mark, paced(10, 3)), &[], "the end", |lab| {
        lab.held("c", ROUTE).is_none()
    });
}

#[test]
fn internal_peers_without_the_capability_take_them_as_a_last_resort_where_configured() {
    let mut lab = Lab::with(|config| {
        for peer in &mut config.peers {
            peer.long_lived = Some(LongLived {
                stale_time: 1000 * SECOND,
                partial_deployment: peer.name != "d",
            });
        }
    });
    lab.establish(&["a", "c"]);
    announced(&mut lab, 0, 60);
    lab.cut("d");
    wait(&mut lab, 1);
    let attributes = &lab.holds("c", ROUTE).0;
    assert_eq!(attributes.local_pref, Some(LocalPref(0)));
    assert!(attributes.communities.contains(&Community::NO_EXPORT));
    assert!(attributes.communities.contains(&Community::LLGR_STALE));
    // Not in another AS, whatever is configured.
    lab.lacks("a", ROUTE);
}

#[test]
fn a_route_that_another_speaker_found_long_lived_stale_keeps_its_mark_and_goes_to_nobody_who_does_not_know_it()
 {
    let mut lab = lab(|_| ());
    lab.establish(&["d"]);
    let marked = attribute(0xc0, 8, &Community::LLGR_STALE.0.to_be_bytes());
    lab.say("d", &update(&[], &usual_but("d", &marked), &nlri(&[ROUTE])));
    assert!(is_marked(&lab, "c"));
    lab.lacks("a", ROUTE);
}

#[test]
fn the_long_life_runs_on_while_the_peer_is_back_and_over_a_second_loss() {
    let mut lab = lab(|_| ());
    let life = paced(60, 9);
    announced(&mut lab, 0, octet(life));
    let mark = lab.mark();
    lab.cut("d");
    lab.advance(paced(20, 3), &[]);
    // Back, with forwarding kept, and nothing said: neither that nor a second loss begins a new time.
    let restarts = restarts(octet(paced(10, 2)));
    let own = capabilities(&[&IPV4, &restarts, &long_lived(200, 0x80)]);
    lab.establish_with("d", &own);
    lab.advance(paced(20, 3), &[]);
    assert!(is_marked(&lab, "c"));
    lab.cut("d");
    assert!(is_marked(&lab, "c"));
    lab.until((mark, life), &[], "the end", |lab| {
        lab.held("c", ROUTE).is_none()
    });
}

#[test]
fn what_comes_back_is_fresh_again_and_the_rest_goes_at_end_of_rib() {
    let mut lab = lab(|_| ());
    announced(&mut lab, 0, 60);
    lab.say("d", &announce("d", &["10.3.0.0/16"]));
    lab.cut("d");
    wait(&mut lab, 5);
    let own = capabilities(&[&IPV4, &restarts(0), &long_lived(60, 0x80)]);
    lab.establish_with("d", &own);
    lab.say("d", &announce("d", &[ROUTE]));
    assert!(!is_marked(&lab, "c"));
    lab.holds("a", ROUTE);
    lab.holds("c", "10.3.0.0/16");
    lab.say("d", &end_of_rib());
    lab.lacks("c", "10.3.0.0/16");
}

#[test]
fn a_peer_that_comes_back_without_its_forwarding_state_or_the_capability_loses_them() {
    for back in [
        capabilities(&[&IPV4, &restarts(0), &long_lived(60, 0)]),
        capabilities(&[&IPV4, &restarts(0)]),
        IPV4.to_vec(),
    ] {
        let mut lab = lab(|_| ());
        announced(&mut lab, 0, 60);
        lab.cut("d");
        wait(&mut lab, 5);
        assert!(is_marked(&lab, "c"));
        lab.establish_with("d", &back);
        lab.lacks("c", ROUTE);
    }
}
