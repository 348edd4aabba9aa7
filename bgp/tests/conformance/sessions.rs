//! Sessions over time: timers, limits, collisions as neighbours see them, graceful restart of either side.

use margay_bgp::asn::Asn;
use margay_bgp::codec::Message;
use margay_bgp::fsm::State;
use margay_bgp::policy::Policy;
use margay_bgp::speaker::config::{
    GracefulRestart, LimitAction, LocalAsMode, MaximumPrefixes, Secret, SpeakerConfig,
};
use std::sync::Arc;
use std::time::Duration;

use super::refresh::{ENHANCED, GRACEFUL, refresh, words};
use super::{
    KEEPALIVE, Lab, SECOND, USUAL, address_of, announce, attribute, end_of_rib, is_end_of_rib,
    message, open, over_tcp, paced, prefix, update, usual, withdraw,
};

const FIRST: &str = "10.1.0.0/16";

/// So many host routes, in messages as long as they may be.
fn many(count: u32) -> Vec<u8> {
    let mut octets = Vec::new();
    for first in (0..count).step_by(700) {
        let prefixes: Vec<u8> = (first..count.min(first + 700))
            .flat_map(|number| {
                let [_, high, middle, low] = number.to_be_bytes();
                [32, 10, high, middle, low]
            })
            .collect();
        octets.extend(update(&[], &usual("b").concat(), &prefixes));
    }
    octets
}

/// The neighbour whose session is graceful in IPv4 and IPv6, N bit or not.
fn graceful(notification: bool) -> Vec<u8> {
    let mut capabilities = GRACEFUL.to_vec();
    capabilities[17] = u8::try_from(paced(120, 5).as_secs()).unwrap();
    if !notification {
        capabilities[16] = 0;
    }
    capabilities
}

/// A session of `a` with this hold time.
fn hold(lab: &mut Lab, hold_time: u16, capabilities: &[u8]) {
    lab.connect("a");
    let octets = open(64600, address_of("a"), hold_time, capabilities);
    lab.say("a", &octets);
    lab.say("a", &KEEPALIVE);
    lab.assert_established("a");
}

fn both_ends_of_rib(lab: &mut Lab, name: &'static str) {
    lab.say(name, &end_of_rib());
    lab.say(name, &update(&[], &attribute(0x80, 15, &[0, 2, 1]), &[]));
}

// ---- timers -------------------------------------------------------------------------------------------------------

#[test]
fn f1_a_refused_connection_is_tried_again_after_a_growing_pause() {
    let mut lab = Lab::refusing(|config| {
        config.peers[0].passive = false;
        config.peers[0].connect_retry_max = 60 * SECOND;
    });
    let mut attempts = Vec::new();
    for second in 0..400_u32 {
        lab.dialled.clear();
        lab.advance(SECOND, &[]);
        attempts.extend((!lab.dialled.is_empty()).then_some(second));
    }
    let pauses: Vec<u32> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.len() >= 5, "{pauses:?}");
    for (pause, full) in pauses.iter().zip([10, 20, 40, 60, 60]) {
        assert!((full * 3 / 4..=full + 1).contains(pause), "{pauses:?}");
    }
}

#[test]
fn f2_who_connects_and_says_nothing_is_told_4_0_after_four_minutes() {
    let mut lab = Lab::new();
    lab.connect("a");
    lab.advance(239 * SECOND, &[]);
    assert!(!lab.ends["a"].closed);
    lab.advance(2 * SECOND, &[]);
    lab.assert_ended("a", 4, 0, &[]);
}

#[test]
fn f3_an_open_without_a_keepalive_is_told_4_0_at_the_hold_time() {
    let mut lab = Lab::new();
    lab.connect("a");
    lab.say("a", &open(64600, address_of("a"), 3, USUAL));
    lab.await_end("a", 3 * SECOND);
    lab.assert_ended("a", 4, 0, &[]);
}

/// A peer "a" that reads no more, with little room on the way to it.
fn deaf() -> Lab {
    let mut lab = Lab::with(|config| {
        if over_tcp() {
            config.peers[0].send_hold = Some(4 * SECOND);
        }
    });
    lab.narrow();
    lab.establish(&["b"]);
    hold(&mut lab, if over_tcp() { 3 } else { 90 }, USUAL);
    lab.stop_reading("a");
    lab
}

#[test]
fn f8_who_reads_nothing_for_the_send_hold_time_is_told_8_0_and_left() {
    let mut lab = deaf();
    let mark = lab.mark();
    lab.say("b", &many(20_000));
    lab.until((mark, paced(480, 4)), &[], "the end", |lab| {
        lab.peer("a").state != State::Established
    });
    // Over TCP it does not hear why: that stands behind what it did not read.
    let error = lab.peer("a").last_error.unwrap();
    assert!(error.contains("send hold"), "{error}");
    if !over_tcp() {
        lab.assert_ended("a", 8, 0, &[]);
    }
    lab.assert_established("b");
}

#[test]
fn f9_who_reads_slowly_is_kept() {
    let mut lab = deaf();
    lab.say("b", &many(20_000));
    // The kernel tells of room when there is enough of it for a segment.
    let octets = if over_tcp() { 4096 } else { 1024 };
    for _ in 0..10 {
        lab.advance(paced(300, 1), &[]);
        lab.read_some("a", octets);
    }
    assert_eq!(lab.peer("a").established_count, 1);
    lab.assert_established("a");
}

#[test]
fn f10_a_stop_with_a_text_says_so_cut_at_a_character() {
    let mut lab = Lab::established(&["a"]);
    lab.configure(|config| {
        config.peers[0].enabled = false;
        config.peers[0].shutdown_text = Some("ö".repeat(200));
    });
    let mut data = vec![254];
    data.extend("ö".repeat(127).bytes());
    lab.assert_ended("a", 6, 2, &data);
}

#[test]
fn f11_a_shutdown_text_that_lies_about_its_length_is_shown_as_it_came() {
    let mut lab = Lab::established(&["a"]);
    lab.say("a", &message(3, &[6, 2, 200, b'x']));
    assert!(lab.ends["a"].closed);
    let error = lab.peer("a").last_error.unwrap();
    assert!(error.contains("[c8, 78]"), "{error}");
}

#[test]
fn f14_a_peer_that_ceased_rests_a_minute_or_the_configured_maximum() {
    let rests = if over_tcp() {
        &[(2, 2, 20)][..]
    } else {
        &[(60, 58, 62), (1, 0, 2)]
    };
    for (longest, least, most) in rests {
        for subcode in [1, 2, 3, 5, 8] {
            let mut lab = Lab::with(|config| {
                config.peers[0].passive = false;
                config.peers[0].idle_hold_max = *longest * SECOND;
            });
            lab.answer("a");
            lab.say("a", &open(64600, address_of("a"), 90, USUAL));
            lab.say("a", &KEEPALIVE);
            lab.assert_established("a");
            let mark = lab.mark();
            lab.say("a", &message(3, &[6, subcode]));
            let rested = lab.rest(mark, "a").as_secs();
            assert!((least..=most).contains(&&rested), "6/{subcode}: {rested} s");
        }
    }
}

// ---- limits and configuration -------------------------------------------------------------------------------------

#[test]
fn our_own_as_once_corrected_is_shown_at_once_to_those_who_refused_it() {
    let mut lab = Lab::with(|config| {
        // With another AS of ours none of the others would be a client.
        config.peers.truncate(1);
        let peer = &mut config.peers[0];
        (peer.passive, peer.idle_hold) = (false, 60 * SECOND);
    });
    lab.answer("a");
    lab.say("a", &message(3, &[2, 2]));
    lab.configure(|config| config.asn = Asn(64998));
    let mark = lab.mark();
    assert!(lab.rest(mark, "a") <= 3 * SECOND);
    let told = lab.told("a");
    assert!(matches!(&told[..], [Message::Open(open)] if open.asn == Asn(64998)));
}

#[test]
fn our_own_as_once_corrected_ends_the_rest_of_those_who_refused_both_numbers() {
    let mut lab = Lab::with(|config| {
        config.peers.truncate(1);
        let peer = &mut config.peers[0];
        (peer.passive, peer.idle_hold) = (false, 60 * SECOND);
        (peer.local_asn, peer.local_as_mode) = (Some(Asn(64997)), LocalAsMode::DualAs);
    });
    lab.answer("a");
    lab.say("a", &message(3, &[2, 2]));
    let mark = lab.mark();
    lab.rest(mark, "a");
    lab.say("a", &message(3, &[2, 2]));
    lab.configure(|config| config.asn = Asn(64998));
    let mark = lab.mark();
    assert!(lab.rest(mark, "a") <= 3 * SECOND);
}

fn limited(action: LimitAction) -> Lab {
    let mut lab = Lab::with(|config| {
        config.peers[0].maximum_prefixes = Some(MaximumPrefixes { limit: 2, action });
    });
    lab.establish(&["a", "b"]);
    lab.say("a", &announce("a", &[FIRST, "10.2.0.0/16"]));
    lab
}

#[test]
fn f18_with_a_warning_only_the_session_stays_and_the_peer_says_why() {
    let mut lab = limited(LimitAction::Warn);
    assert!(lab.peer("a").warnings.is_empty());
    lab.say("a", &announce("a", &["10.3.0.0/16"]));
    lab.assert_established("a");
    lab.holds("b", "10.3.0.0/16");
    assert_eq!(
        lab.peer("a").warnings,
        ["more than 2 prefixes of ipv4-unicast"]
    );
    lab.say("a", &withdraw(&["10.3.0.0/16"]));
    assert!(lab.peer("a").warnings.is_empty());
}

#[test]
fn f18_with_a_restart_time_the_peer_is_taken_again_after_it() {
    let mut lab = limited(LimitAction::Restart(paced(30, 1)));
    lab.say("a", &announce("a", &["10.3.0.0/16"]));
    lab.assert_ended("a", 6, 1, &[0, 1, 1, 0, 0, 0, 2]);
    lab.lacks("b", FIRST);
    assert!(!lab.is_admitted("a"));
    lab.advance(paced(31, 2), &[]);
    lab.establish(&["a"]);
}

#[test]
fn f18_with_discard_what_is_beyond_is_not_taken_and_asked_for_when_there_is_room() {
    let mut lab = limited(LimitAction::Discard);
    lab.say("a", &announce("a", &["10.3.0.0/16"]));
    lab.assert_established("a");
    lab.lacks("b", "10.3.0.0/16");
    lab.holds("b", FIRST);
    assert_eq!(lab.peer("a").discarded_prefixes, 1);
    assert_eq!(lab.peer("a").warnings.len(), 1);
    // What is there may change.
    lab.say("a", &announce("a", &[FIRST]));
    lab.told("a");
    lab.say("a", &withdraw(&[FIRST]));
    assert_eq!(words(&lab.told("a")), ["Request"]);
    lab.say("a", &announce("a", &["10.2.0.0/16", "10.3.0.0/16"]));
    lab.holds("b", "10.3.0.0/16");
    assert!(lab.peer("a").warnings.is_empty());
}

#[test]
fn f19_a_change_that_does_not_concern_the_session_does_not_touch_it() {
    let mut lab = Lab::established(&["a", "b"]);
    lab.say("a", &announce("a", &[FIRST]));
    lab.told("a");
    lab.told("b");
    lab.configure(|config| {
        config.peers[0].connect_retry = 9 * SECOND;
        config.peers[0].idle_hold_max = 90 * SECOND;
        config.peers[0].connect_retry_max = 90 * SECOND;
        config.peers[0].shutdown_text = Some("later".into());
        config.peers[0].maximum_prefixes = Some(MaximumPrefixes {
            limit: 10,
            action: LimitAction::Close,
        });
    });
    assert!(lab.told("a").is_empty() && lab.told("b").is_empty());
    lab.assert_established("a");
    assert_eq!(lab.peer("a").established_count, 1);
}

#[test]
fn changing_the_stale_time_alone_touches_no_session_and_shortens_what_is_kept() {
    let mut lab = Lab::established(&["b"]);
    lab.establish_with("a", GRACEFUL);
    lab.say("a", &announce("a", &[FIRST]));
    let stale_time = |lab: &mut Lab, time: Duration| {
        lab.configure(|config| {
            config.peers[0].graceful_restart = Some(GracefulRestart {
                stale_time: time,
                ..GracefulRestart::default()
            });
        });
    };
    stale_time(&mut lab, 100 * SECOND);
    lab.assert_established("a");
    assert_eq!(lab.peer("a").established_count, 1);
    lab.cut("a");
    lab.advance(paced(10, 1), &[]);
    let mark = lab.mark();
    let short = paced(30, 3);
    stale_time(&mut lab, short);
    lab.until((mark, short), &[], "the end", |lab| {
        lab.held("b", FIRST).is_none()
    });
}

#[test]
fn f20_a_new_password_reaches_the_socket_of_the_running_session() {
    let mut lab = Lab::established(&["a", "b"]);
    let peer = *lab.ends["a"].peer;
    lab.configure(|config| config.peers[0].password = Some(Secret::new("new").unwrap()));
    assert_eq!(*lab.reconfigured, [peer]);
    lab.assert_established("a");
    lab.advance(89 * SECOND, &[]);
    assert_eq!(lab.peer("a").established_count, 1);
    lab.assert_established("b");
}

// ---- collisions ---------------------------------------------------------------------------------------------------

/// A session that the speaker dialled; `graceful` or not.
fn dialled(capabilities: &[u8]) -> Lab {
    let mut lab = Lab::with(|config| config.peers[0].passive = false);
    lab.answer("a");
    lab.say("a", &open(64600, address_of("a"), 90, capabilities));
    lab.say("a", &KEEPALIVE);
    lab.assert_established("a");
    lab.establish(&["b"]);
    lab.say("a", &announce("a", &[FIRST]));
    lab.advance(paced(10, 3), &[]);
    lab
}

#[test]
fn c4_a_connection_beside_a_session_without_graceful_restart_is_answered_6_7() {
    let mut lab = dialled(USUAL);
    lab.rename("a", "old");
    lab.connect("a");
    lab.say("a", &open(64600, address_of("a"), 90, USUAL));
    lab.assert_ended("a", 6, 7, &[]);
    lab.rename("old", "a");
    lab.assert_established("a");
    lab.holds("b", FIRST);
}

#[test]
fn c5_a_connection_beside_a_graceful_session_takes_its_place_and_its_routes_are_stale() {
    let mut lab = dialled(GRACEFUL);
    lab.told("a");
    lab.rename("a", "old");
    lab.connect("a");
    lab.say("a", &open(64600, address_of("a"), 90, GRACEFUL));
    lab.soon("the end of the old one", |lab| lab.ends["old"].closed);
    assert!(lab.told("old").is_empty());
    lab.say("a", &KEEPALIVE);
    lab.assert_established("a");
    lab.holds("b", FIRST);
    both_ends_of_rib(&mut lab, "a");
    lab.lacks("b", FIRST);
}

/// Both ends dial at once: `out` is the speaker's connection, `a` the neighbour's, and which OPEN comes first is all the same.
#[test]
fn c1_c2_c3_c6_of_two_connections_the_one_that_the_greater_identifier_dialled_survives() {
    for (id, asn, survivor, other) in [
        // Ours is 192.0.2.1 of AS 64512.
        ([192, 0, 2, 0], 64600, "out", "a"),
        ([192, 0, 2, 2], 64600, "a", "out"),
        ([192, 0, 2, 1], 64500, "out", "a"),
        ([192, 0, 2, 1], 64600, "a", "out"),
    ] {
        for first in ["out", "a"] {
            let mut lab = Lab::with(|config| {
                config.peers[0].passive = false;
                config.peers[0].asn = Asn(asn).into();
            });
            lab.answer("a");
            lab.rename("a", "out");
            lab.connect("a");
            let second = if first == "a" { "out" } else { "a" };
            for name in [first, second] {
                lab.say(name, &open(asn, id.into(), 90, USUAL));
            }
            lab.assert_ended(other, 6, 7, &[]);
            lab.say(survivor, &KEEPALIVE);
            assert!(!lab.ends[survivor].closed, "{id:?} {asn} {first}");
            assert_eq!(lab.peer("a").established_count, 1);
        }
    }
}

#[test]
fn f17_an_open_while_ours_is_held_back_is_answered_with_ours_and_a_keepalive_at_once() {
    let mut lab = Lab::with(|config| config.peers[0].delay_open = Some(600 * SECOND));
    lab.connect("a");
    assert!(lab.ends["a"].told.is_empty());
    lab.say("a", &open(64600, address_of("a"), 90, USUAL));
    let told = &lab.ends["a"].told;
    assert!(
        matches!(&told[..], [Message::Open(_), Message::Keepalive]),
        "{told:?}"
    );
    lab.say("a", &KEEPALIVE);
    lab.assert_established("a");
}

#[test]
fn f16_who_only_waits_does_not_dial_and_who_dials_goes_on_beside_a_caller() {
    let mut lab = Lab::with(|config| config.peers[0].passive = false);
    lab.connect("a");
    lab.rename("a", "caller");
    lab.answer("a");
    let told = |name: &str| matches!(&lab.ends[name].told[..], [Message::Open(_)]);
    assert!(told("caller") && told("a"));
    let mut lab = Lab::new();
    lab.advance(paced(600, 1), &[]);
    assert_eq!(lab.peer("a").state, State::Active);
}

#[test]
fn c7_a_peer_that_we_only_wait_for_and_that_does_not_call_has_a_warning_within_a_minute() {
    let mut lab = Lab::established(&["b"]);
    lab.advance(60 * SECOND, &[]);
    let warnings = lab.peer("a").warnings;
    assert!(
        warnings.iter().any(|text| text.contains("passive too")),
        "{warnings:?}"
    );
    assert!(lab.peer("b").warnings.is_empty());
    lab.establish(&["a"]);
    assert!(lab.peer("a").warnings.is_empty());
    // The same after a session as before the first.
    lab.cut("a");
    assert!(lab.peer("a").warnings.is_empty());
    lab.advance(60 * SECOND, &[]);
    assert_eq!(lab.peer("a").warnings, warnings);
}

#[test]
fn what_peers_did_stays_counted_when_they_left() {
    let mut lab = Lab::established(&["a", "b"]);
    lab.say("a", &announce("a", &[FIRST, "10.2.0.0/16"]));
    lab.cut("b");
    let totals = |lab: &Lab| {
        let totals = lab.totals();
        (totals.established, totals.lost, totals.announced)
    };
    assert_eq!(totals(&lab), (2, 1, 2));
    lab.configure(|config| config.peers.retain(|peer| peer.name == "d"));
    assert_eq!(totals(&lab), (2, 2, 2));
}

#[test]
fn paths_kept_of_an_earlier_session_are_counted_until_they_are_said_again() {
    let mut lab = Lab::new();
    lab.establish_with("a", GRACEFUL);
    lab.say("a", &announce("a", &[FIRST, "10.2.0.0/16"]));
    lab.cut("a");
    let stale = |lab: &Lab| lab.peer("a").families[0].stale;
    assert_eq!(stale(&lab), 2);
    lab.establish_with("a", GRACEFUL);
    lab.say("a", &announce("a", &[FIRST]));
    assert_eq!(stale(&lab), 1);
    lab.say("a", &end_of_rib());
    assert_eq!(stale(&lab), 0);
}

// ---- refresh ------------------------------------------------------------------------------------------------------

#[test]
fn r8_requests_during_a_pass_are_answered_by_one_more() {
    let mut lab = Lab::new();
    lab.narrow();
    lab.establish(&["b"]);
    lab.say("b", &many(20_000));
    lab.establish_with("a", ENHANCED);
    lab.told("a");
    lab.stop_reading("a");
    for _ in 0..3 {
        lab.say("a", &refresh(1, 0));
    }
    lab.read_on("a");
    let ends = |lab: &Lab| {
        let ends = words(&lab.ends["a"].told);
        ends.iter().filter(|word| *word == "End").count()
    };
    lab.soon("two passes", |lab| ends(lab) == 2);
    let told = words(&lab.told("a"));
    let count = |word: &str| told.iter().filter(|told| *told == word).count();
    assert_eq!((count("Begin"), count("End")), (2, 2), "{}", told.len());
    lab.assert_established("a");
}

#[test]
fn r10_a_new_import_policy_needs_no_request_because_what_it_rejected_is_kept() {
    let mut lab = Lab::established(&["a", "b"]);
    lab.configure(|config| config.peers[0].import = Arc::new(Policy::reject_all()));
    lab.say("a", &announce("a", &[FIRST]));
    lab.lacks("b", FIRST);
    lab.told("a");
    lab.configure(|config| config.peers[0].import = Arc::new(Policy::accept_all()));
    lab.holds("b", FIRST);
    assert!(lab.told("a").is_empty());
}

#[test]
fn r10_routes_that_were_not_kept_are_asked_for_when_the_limit_rises() {
    let mut lab = limited(LimitAction::Discard);
    lab.say("a", &announce("a", &["10.3.0.0/16"]));
    lab.told("a");
    lab.configure(|config| {
        config.peers[0].maximum_prefixes = Some(MaximumPrefixes {
            limit: 9,
            action: LimitAction::Discard,
        });
    });
    assert_eq!(words(&lab.told("a")), ["Request"]);
}

// ---- graceful restart of the neighbour ------------------------------------------------------------------------------

#[test]
fn g10_hold_expiry_keeps_routes_where_both_set_the_n_bit() {
    for notification in [true, false] {
        let mut lab = Lab::established(&["b"]);
        let time = if over_tcp() { 3 } else { 90 };
        hold(&mut lab, time, &graceful(notification));
        lab.say("a", &announce("a", &[FIRST]));
        lab.await_end("a", Duration::from_secs(time.into()));
        lab.assert_ended("a", 4, 0, &[]);
        if notification {
            lab.holds("b", FIRST);
        } else {
            lab.lacks("b", FIRST);
        }
    }
}

/// A session of `b`, and how long routes of `a` are kept.
fn keeping() -> (Lab, Duration) {
    let stale = paced(180, 6);
    let mut lab = Lab::with(|config| {
        config.peers[0].graceful_restart = Some(GracefulRestart {
            stale_time: stale,
            ..GracefulRestart::default()
        });
    });
    lab.establish(&["b"]);
    (lab, stale)
}

#[test]
fn g11_back_without_an_end_of_rib_what_is_stale_goes_three_minutes_after_the_loss() {
    let (mut lab, stale) = keeping();
    let graceful = graceful(true);
    lab.establish_with("a", &graceful);
    lab.say("a", &announce("a", &[FIRST, "10.2.0.0/16"]));
    let mark = lab.mark();
    lab.cut("a");
    lab.advance(paced(60, 1), &[]);
    lab.establish_with("a", &graceful);
    lab.say("a", &announce("a", &["10.2.0.0/16"]));
    lab.until((mark, stale), &[], "the sweep", |lab| {
        lab.held("b", FIRST).is_none()
    });
    lab.holds("b", "10.2.0.0/16");
    lab.assert_established("a");
}

#[test]
fn g12_a_second_loss_keeps_what_is_stale_with_the_n_bit_alone_and_no_longer_than_the_first_allowed()
{
    for notification in [true, false] {
        let (mut lab, stale) = keeping();
        lab.establish_with("a", &graceful(notification));
        lab.say("a", &announce("a", &[FIRST, "10.2.0.0/16"]));
        let mark = lab.mark();
        lab.cut("a");
        lab.advance(paced(100, 3), &[]);
        lab.establish_with("a", &graceful(notification));
        lab.say("a", &announce("a", &["10.2.0.0/16"]));
        lab.cut("a");
        if notification {
            lab.holds("b", FIRST);
            lab.until((mark, stale), &[], "the sweep", |lab| {
                lab.held("b", FIRST).is_none()
            });
        } else {
            lab.lacks("b", FIRST);
            lab.holds("b", "10.2.0.0/16");
        }
    }
}

#[test]
fn while_its_routes_are_kept_a_peer_that_ceased_is_dialled_every_few_seconds() {
    let mut lab = dialled(&graceful(true));
    lab.say("a", &message(3, &[6, 2]));
    lab.holds("b", FIRST);
    let mark = lab.mark();
    assert!(lab.rest(mark, "a") <= 6 * SECOND);
    // Refused once more, which takes its time over TCP.
    if !over_tcp() {
        lab.say("a", &message(3, &[6, 5]));
        let mark = lab.mark();
        assert!(lab.rest(mark, "a") <= 6 * SECOND);
        lab.holds("b", FIRST);
    }
}

// ---- our own restart ------------------------------------------------------------------------------------------------

/// A speaker that restarted and kept its kernel's routes.
fn restarted(deferral: Duration) -> Lab {
    Lab::with(|config| after_restart(config, deferral))
}

fn after_restart(config: &mut SpeakerConfig, deferral: Duration) {
    config.restarting = true;
    config.selection_deferral = deferral;
    config.connect_grace = paced(20, 2);
}

/// Prefixes the neighbour was told of, withdrawn ones too.
fn prefixes_told(lab: &mut Lab, name: &str) -> usize {
    lab.told(name)
        .iter()
        .map(|message| match message {
            Message::Update(update) => update.announced.len() + update.withdrawn.len(),
            Message::Open(_)
            | Message::Notification(_)
            | Message::Keepalive
            | Message::RouteRefresh(_) => 0,
        })
        .sum()
}

#[test]
fn g13_a_restarted_speaker_is_silent_until_everyone_it_expects_has_told_all() {
    let mut lab = restarted(120 * SECOND);
    lab.establish_with("a", GRACEFUL);
    lab.establish_with("b", GRACEFUL);
    lab.say("a", &announce("a", &[FIRST]));
    both_ends_of_rib(&mut lab, "a");
    // Past the grace of those who do not come at all.
    lab.advance(paced(25, 4), &[]);
    assert_eq!(prefixes_told(&mut lab, "b"), 0);
    both_ends_of_rib(&mut lab, "b");
    lab.soon("the table", |lab| lab.held("b", FIRST).is_some());
    let ends = lab.told("b").iter().filter_map(is_end_of_rib).count();
    assert_eq!(ends, 2);
}

#[test]
fn g13_a_restarted_speaker_waits_two_minutes_and_no_longer() {
    let deferral = paced(120, 6);
    let mut lab = restarted(deferral);
    let mark = lab.now;
    lab.establish_with("a", GRACEFUL);
    lab.establish_with("b", GRACEFUL);
    lab.say("a", &announce("a", &[FIRST]));
    both_ends_of_rib(&mut lab, "a");
    lab.until((mark, deferral), &[], "the table", |lab| {
        let told = &lab.ends["b"].told;
        told.iter()
            .any(|message| matches!(message, Message::Update(_)))
    });
    lab.holds("b", FIRST);
}

#[test]
fn g14_a_neighbour_that_restarts_as_well_is_not_waited_for() {
    let mut lab = restarted(120 * SECOND);
    let mark = lab.now;
    let mut restarting = GRACEFUL.to_vec();
    restarting[16] = 0xc0;
    lab.establish_with("a", &restarting);
    lab.establish_with("b", &restarting);
    lab.say("a", &announce("a", &[FIRST]));
    lab.until((mark, paced(20, 2)), &[], "the table", |lab| {
        lab.held("b", FIRST).is_some()
    });
    assert_eq!(lab.told("b").iter().filter_map(is_end_of_rib).count(), 2);
}

#[test]
fn g15_whoever_forwards_hears_nothing_before_the_deferral_ends_and_then_the_table_once() {
    let mut lab = Lab::forwarding(|config| after_restart(config, 120 * SECOND));
    lab.tell(&[("a", Some(0))]);
    lab.establish_with("a", GRACEFUL);
    lab.establish_with("b", GRACEFUL);
    lab.say("a", &announce("a", &[FIRST]));
    lab.say("a", &withdraw(&["10.7.0.0/16"]));
    both_ends_of_rib(&mut lab, "a");
    lab.advance(paced(60, 4), &[]);
    assert_eq!(lab.forwarded(), []);
    assert!(!lab.is_complete());
    both_ends_of_rib(&mut lab, "b");
    lab.soon("the ends of both tables", Lab::is_complete);
    let told = lab.forwarded();
    let [route] = told.as_slice() else {
        panic!("{told:?}");
    };
    assert_eq!(route.prefix, prefix(FIRST));
}

#[test]
fn g16_f_is_set_only_where_the_kernel_kept_the_routes() {
    for kept in [false, true] {
        let mut lab = Lab::with(|config| config.restarting = kept);
        lab.connect("a");
        let told = lab.told("a");
        let [Message::Open(open)] = &told[..] else {
            panic!("{told:?}");
        };
        let restart = open.capabilities.iter().find_map(|capability| {
            if let margay_bgp::codec::Capability::GracefulRestart(restart) = capability {
                Some(restart)
            } else {
                None
            }
        });
        let restart = restart.unwrap();
        assert_eq!(restart.restarting, kept);
        assert!(
            restart
                .families
                .iter()
                .all(|family| family.forwarding == kept)
        );
    }
}

#[test]
fn a_cleared_session_ends_with_a_hard_reset_where_the_peer_knows_it() {
    let mut lab = Lab::new();
    lab.establish_with("a", GRACEFUL);
    lab.clear("a");
    lab.assert_ended("a", 6, 9, &[6, 4]);
    assert_ne!(lab.peer("a").state, State::Established);
}

#[test]
fn a_cleared_session_ends_with_the_operators_words() {
    let words = Some("new keys");
    for (capabilities, subcode, head) in [(GRACEFUL, 9, &[6, 4][..]), (USUAL, 4, &[])] {
        let mut lab = Lab::new();
        lab.establish_with("a", capabilities);
        lab.clear_saying("a", words);
        let data = [head, &[8], b"new keys"].concat();
        lab.assert_ended("a", 6, subcode, &data);
    }
}
