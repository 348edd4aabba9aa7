//! Route refresh (RFC 2918, RFC 7313) and graceful restart as its neighbours see it.

use margay_bgp::codec::{Message, RefreshKind};
use margay_bgp::family::Family;
use margay_bgp::speaker::config::{GracefulRestart, LimitAction, MaximumPrefixes};

use super::{
    KEEPALIVE, Lab, SECOND, USUAL, address_of, announce, end_of_rib, is_end_of_rib, message, open,
    paced, withdraw,
};

/// Both families, refresh and enhanced refresh.
pub(super) const ENHANCED: &[u8] = &[1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0, 70, 0];
/// Graceful restart of both families whose forwarding went on: N bit, 120 s.
pub(super) const GRACEFUL: &[u8] = &[
    1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0, 64, 10, 0x40, 120, 0, 1, 1, 0x80, 0, 2, 1, 0x80,
];

pub(super) fn refresh(family: u16, kind: u8) -> Vec<u8> {
    message(5, &[&family.to_be_bytes()[..], &[kind, 1]].concat())
}

/// What a neighbour was told, in a word each.
pub(super) fn words(told: &[Message]) -> Vec<String> {
    told.iter()
        .map(|message| match message {
            Message::RouteRefresh(refresh) => format!("{:?}", refresh.kind),
            Message::Update(update) if update.end_of_rib.is_some() => "EndOfRib".to_owned(),
            Message::Update(update) => {
                format!("+{}-{}", update.announced.len(), update.withdrawn.len())
            }
            Message::Open(_) | Message::Notification(_) | Message::Keepalive => {
                format!("{:?}", message.message_type())
            }
        })
        .collect()
}

fn with_routes(capabilities: &[u8]) -> Lab {
    let mut lab = Lab::established(&["b"]);
    lab.say("b", &announce("b", &["10.1.0.0/16", "10.2.0.0/16"]));
    lab.establish_with("a", capabilities);
    lab.told("a");
    lab
}

#[test]
fn r1_a_request_is_answered_with_the_table_and_no_bounds() {
    let mut lab = with_routes(USUAL);
    lab.say("a", &refresh(1, 0));
    assert_eq!(words(&lab.told("a")), ["+1-0"]);
}

#[test]
fn r2_a_request_is_answered_between_bounds_where_both_know_them() {
    let mut lab = with_routes(ENHANCED);
    lab.say("a", &refresh(1, 0));
    let begin = format!("{:?}", RefreshKind::Begin);
    let end = format!("{:?}", RefreshKind::End);
    assert_eq!(words(&lab.told("a")), [begin, "+1-0".to_owned(), end]);
}

#[test]
fn r3_what_is_not_said_again_between_the_bounds_goes() {
    let mut lab = Lab::established(&["b"]);
    lab.establish_with("a", ENHANCED);
    lab.say("a", &announce("a", &["10.1.0.0/16", "10.2.0.0/16"]));
    lab.say("a", &end_of_rib());
    lab.say("a", &refresh(1, 1));
    lab.say("a", &announce("a", &["10.1.0.0/16"]));
    lab.holds("b", "10.2.0.0/16");
    lab.say("a", &refresh(1, 2));
    lab.holds("b", "10.1.0.0/16");
    lab.lacks("b", "10.2.0.0/16");
}

#[test]
fn r3_a_family_that_is_complete_is_refreshed_while_another_is_still_awaited() {
    let capabilities = [GRACEFUL, &[70, 0]].concat();
    let mut lab = Lab::established(&["b"]);
    lab.establish_with("a", &capabilities);
    lab.say("a", &announce("a", &["10.1.0.0/16", "10.2.0.0/16"]));
    lab.cut("a");
    lab.establish_with("a", &capabilities);
    lab.say("a", &announce("a", &["10.1.0.0/16", "10.2.0.0/16"]));
    // Not of the one whose old routes wait for its End-of-RIB.
    lab.say("a", &refresh(1, 1));
    lab.say("a", &refresh(1, 2));
    lab.holds("b", "10.2.0.0/16");
    lab.say("a", &end_of_rib());
    lab.say("a", &refresh(1, 1));
    lab.say("a", &announce("a", &["10.1.0.0/16"]));
    lab.say("a", &refresh(1, 2));
    lab.holds("b", "10.1.0.0/16");
    lab.lacks("b", "10.2.0.0/16");
}

#[test]
fn r4_a_refresh_without_an_end_is_ended_after_six_minutes() {
    let mut lab = Lab::established(&["b"]);
    lab.establish_with("a", ENHANCED);
    lab.say("a", &announce("a", &["10.1.0.0/16"]));
    lab.say("a", &end_of_rib());
    lab.say("a", &refresh(1, 1));
    lab.advance(350 * SECOND, &[]);
    lab.holds("b", "10.1.0.0/16");
    lab.advance(20 * SECOND, &[]);
    lab.lacks("b", "10.1.0.0/16");
}

/// A neighbour of which two prefixes may be used.
fn limited() -> Lab {
    let mut lab = Lab::with(|config| {
        config.peers[0].maximum_prefixes = Some(MaximumPrefixes {
            limit: 2,
            action: LimitAction::Close,
        });
    });
    lab.establish(&["b"]);
    lab.establish_with("a", ENHANCED);
    lab
}

/// Two prefixes that were not announced in another round.
fn two(round: usize) -> Vec<u8> {
    let prefixes = [format!("10.{round}.0.0/17"), format!("10.{round}.128.0/17")];
    let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    announce("a", &prefixes)
}

#[test]
fn refreshes_that_do_not_end_are_no_way_around_the_limit_of_prefixes() {
    let mut lab = limited();
    for round in 1..9 {
        lab.say("a", &two(round));
        lab.say("a", &refresh(1, 1));
        // Those from before, and those of a refresh that was broken off for the one that begins.
        assert!(lab.ends["b"].table.len() <= 6, "{round}");
    }
    lab.assert_established("a");
    lab.say("a", &two(8));
    lab.say("a", &refresh(1, 2));
    assert_eq!(lab.ends["b"].table.len(), 2);
}

#[test]
fn refreshes_are_no_way_around_the_limit_where_the_last_one_was_not_seen_to() {
    let mut lab = limited();
    let begin = refresh(1, 1);
    let rounds: Vec<_> = (1..9).map(two).collect();
    let messages: Vec<&[u8]> = rounds
        .iter()
        .flat_map(|round| [&round[..], &begin])
        .collect();
    lab.say_at_once("a", &messages);
    lab.assert_ended("a", 6, 1, &[0, 1, 1, 0, 0, 0, 2]);
}

#[test]
fn r5_r6_r9_an_end_alone_unknown_kinds_and_unknown_families_are_ignored() {
    let mut lab = with_routes(ENHANCED);
    lab.say("a", &announce("a", &["10.3.0.0/16"]));
    for octets in [refresh(1, 2), refresh(1, 5), refresh(25, 0)] {
        lab.say("a", &octets);
    }
    lab.assert_established("a");
    assert!(lab.told("a").is_empty());
    lab.holds("b", "10.3.0.0/16");
}

#[test]
fn r7_bounds_of_a_wrong_length_end_with_7_1_and_the_message() {
    let mut lab = with_routes(ENHANCED);
    let octets = message(5, &[0, 1, 1, 1, 0]);
    lab.say("a", &octets);
    lab.assert_ended("a", 7, 1, &octets);
}

#[test]
fn g1_g2_routes_of_a_lost_peer_stay_and_nobody_hears_of_its_return() {
    let mut lab = Lab::established(&["b"]);
    lab.establish_with("a", GRACEFUL);
    lab.say("a", &announce("a", &["10.1.0.0/16"]));
    lab.say("a", &end_of_rib());
    lab.told("b");
    lab.cut("a");
    lab.advance(paced(60, 1), &[]);
    lab.holds("b", "10.1.0.0/16");
    lab.establish_with("a", GRACEFUL);
    lab.say("a", &announce("a", &["10.1.0.0/16"]));
    lab.say("a", &end_of_rib());
    assert!(lab.told("b").is_empty());
}

#[test]
fn g3_g4_a_route_that_did_not_come_back_goes_at_end_of_rib_and_all_go_at_the_restart_time() {
    let mut lab = Lab::established(&["b"]);
    let time = paced(120, 4);
    let mut graceful = GRACEFUL.to_vec();
    graceful[17] = u8::try_from(time.as_secs()).unwrap();
    lab.establish_with("a", &graceful);
    lab.say("a", &announce("a", &["10.1.0.0/16", "10.2.0.0/16"]));
    lab.cut("a");
    lab.establish_with("a", &graceful);
    lab.say("a", &announce("a", &["10.1.0.0/16"]));
    lab.holds("b", "10.2.0.0/16");
    lab.say("a", &end_of_rib());
    lab.lacks("b", "10.2.0.0/16");
    let mark = lab.mark();
    lab.cut("a");
    lab.until((mark, time), &[], "the end of the restart time", |lab| {
        lab.held("b", "10.1.0.0/16").is_none()
    });
}

#[test]
fn g5_g6_g7_what_the_new_open_does_not_say_was_kept_goes_at_once() {
    let forwarding_lost: &[u8] = &[1, 4, 0, 1, 0, 1, 2, 0, 64, 6, 0x40, 120, 0, 1, 1, 0];
    let family_missing: &[u8] = &[1, 4, 0, 1, 0, 1, 2, 0, 64, 6, 0x40, 120, 0, 2, 1, 0x80];
    for capabilities in [forwarding_lost, family_missing, USUAL] {
        let mut lab = Lab::established(&["b"]);
        lab.establish_with("a", GRACEFUL);
        lab.say("a", &announce("a", &["10.1.0.0/16"]));
        lab.cut("a");
        lab.holds("b", "10.1.0.0/16");
        lab.connect("a");
        lab.holds("b", "10.1.0.0/16");
        lab.say("a", &open(64600, address_of("a"), 90, capabilities));
        lab.lacks("b", "10.1.0.0/16");
        lab.say("a", &KEEPALIVE);
        lab.lacks("b", "10.1.0.0/16");
    }
}

#[test]
fn g4_routes_are_kept_no_longer_than_our_stale_time_however_long_the_peers_restart_may_take() {
    let stale = paced(60, 3);
    let mut lab = Lab::with(|config| {
        config.peers[0].graceful_restart = Some(GracefulRestart {
            stale_time: stale,
            ..GracefulRestart::default()
        });
    });
    lab.establish(&["b"]);
    lab.establish_with("a", GRACEFUL);
    lab.say("a", &announce("a", &["10.1.0.0/16"]));
    let mark = lab.mark();
    lab.cut("a");
    lab.until((mark, stale), &[], "the end of the stale time", |lab| {
        lab.held("b", "10.1.0.0/16").is_none()
    });
}

#[test]
fn g8_g9_a_notification_keeps_routes_with_the_n_bit_unless_it_is_a_hard_reset() {
    let mut without = GRACEFUL.to_vec();
    without[16] = 0;
    for (capabilities, body, kept) in [
        (GRACEFUL, &[6, 4][..], true),
        (&without, &[6, 4], false),
        (GRACEFUL, &[6, 9, 6, 2], false),
    ] {
        let mut lab = Lab::established(&["b"]);
        lab.establish_with("a", capabilities);
        lab.say("a", &announce("a", &["10.1.0.0/16"]));
        lab.say("a", &message(3, body));
        let held = lab.ends["b"]
            .table
            .contains_key(&super::prefix("10.1.0.0/16"));
        assert_eq!(held, kept, "{capabilities:02x?} {body:?}");
    }
}

#[test]
fn g17_end_of_rib_is_said_for_each_family_even_of_an_empty_table_and_without_graceful_restart() {
    let mut lab = Lab::established(&["a"]);
    let said: Vec<_> = lab.told("a").iter().filter_map(is_end_of_rib).collect();
    assert_eq!(said.len(), 2);
    assert!(said.contains(&Family::IPV4_UNICAST) && said.contains(&Family::IPV6_UNICAST));
}

#[test]
fn e29_a_route_that_goes_and_comes_back_unchanged_before_anybody_was_told_is_no_news() {
    let mut lab = Lab::established(&["a", "b"]);
    lab.say("a", &announce("a", &["10.1.0.0/16"]));
    lab.told("b");
    lab.say("a", &announce("a", &["10.1.0.0/16"]));
    assert!(lab.told("b").is_empty());
    lab.say("a", &withdraw(&["10.1.0.0/16"]));
    lab.lacks("b", "10.1.0.0/16");
}
