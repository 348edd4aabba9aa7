//! Headers and framing, timers that watch them, and what is never answered.

use super::{KEEPALIVE, Lab, SECOND, USUAL, address_of, announce, message, open, update};
use margay_bgp::codec::Message;
use margay_bgp::fsm::State;
use margay_bgp::speaker::config::{LimitAction, MaximumPrefixes};

fn header(length: u16, number: u8) -> Vec<u8> {
    let mut octets = vec![0xff; 16];
    octets.extend(length.to_be_bytes());
    octets.push(number);
    octets
}

#[test]
fn h1_a_marker_that_is_not_all_ones_ends_with_1_1() {
    let mut lab = Lab::established(&["a"]);
    let mut octets = KEEPALIVE.to_vec();
    octets[7] = 0xfe;
    lab.say("a", &octets);
    lab.assert_ended("a", 1, 1, &[]);
}

#[test]
fn h2_h3_h8_lengths_below_the_minimum_end_with_1_2_and_the_length() {
    for (length, number) in [(18, 4), (0, 4), (22, 2), (28, 1)] {
        let mut lab = Lab::established(&["a"]);
        lab.say("a", &header(length, number));
        lab.assert_ended("a", 1, 2, &length.to_be_bytes());
    }
}

#[test]
fn h4_an_update_longer_than_4096_that_we_did_not_offer_to_take_ends_before_its_body_came() {
    // Before the OPENs nothing is offered.
    let mut lab = Lab::new();
    lab.connect("a");
    lab.say("a", &header(4097, 2));
    lab.assert_ended("a", 1, 2, &[0x10, 0x01]);
    // Nor is it to a neighbour that refuses optional parameters, although it says itself that it would take them.
    let mut lab = Lab::with(|config| config.peers[0].passive = false);
    lab.answer("a");
    lab.say("a", &message(3, &[2, 4]));
    lab.advance(2 * SECOND, &[]);
    lab.answer("a");
    let capabilities = [USUAL, &[6, 0]].concat();
    lab.say("a", &open(64600, address_of("a"), 90, &capabilities));
    lab.say("a", &KEEPALIVE);
    lab.assert_established("a");
    lab.say("a", &header(4097, 2));
    lab.assert_ended("a", 1, 2, &[0x10, 0x01]);
}

#[test]
fn h5_an_update_of_any_length_is_taken_where_extended_messages_were_offered() {
    let mut lab = Lab::established(&["a", "b"]);
    // As many as there is room for in the longest message there can be.
    let prefixes: Vec<_> = (0..=255_u8)
        .flat_map(|high| (0..64_u8).map(move |low| [24, 10, high, low]))
        .take(16_373)
        .flatten()
        .collect();
    let octets = update(&[], &super::usual("a").concat(), &prefixes);
    assert_eq!(octets.len(), 65_535);
    lab.say("a", &octets);
    lab.assert_established("a");
    assert_eq!(lab.ends["b"].table.len(), 16_373);
}

#[test]
fn h6_an_open_longer_than_4096_ends_with_1_2() {
    let mut lab = Lab::established(&["a"]);
    lab.say("a", &header(4097, 1));
    lab.assert_ended("a", 1, 2, &[0x10, 0x01]);
}

#[test]
fn h7_a_keepalive_with_a_body_ends_with_1_2() {
    let mut lab = Lab::established(&["a"]);
    lab.say("a", &message(4, &[0]));
    lab.assert_ended("a", 1, 2, &[0, 20]);
}

#[test]
fn h9_a_notification_too_short_to_say_anything_ends_the_session() {
    let mut lab = Lab::established(&["a"]);
    lab.say("a", &message(3, &[6]));
    lab.assert_ended("a", 1, 2, &[0, 20]);
}

#[test]
fn h10_unknown_types_end_with_1_3_and_the_type() {
    for number in [0, 9] {
        let mut lab = Lab::established(&["a"]);
        lab.say("a", &message(number, &[]));
        lab.assert_ended("a", 1, 3, &[number]);
    }
}

#[test]
fn h11_a_hundred_keepalives_in_one_segment_are_all_consumed() {
    let mut lab = Lab::established(&["a"]);
    lab.say("a", &KEEPALIVE.repeat(100));
    assert!(lab.ends["a"].buffer.is_empty());
    lab.assert_established("a");
}

#[test]
fn h12_an_end_in_mid_message_loses_the_session_and_its_routes() {
    let mut lab = Lab::established(&["a", "b"]);
    lab.say("a", &announce("a", &["10.1.0.0/16"]));
    lab.say("a", &announce("a", &["10.2.0.0/16"])[..30]);
    lab.cut("a");
    lab.lacks("b", "10.1.0.0/16");
    assert_ne!(lab.peer("a").state, State::Established);
}

#[test]
fn h12_with_graceful_restart_the_routes_of_a_cut_off_message_stay_as_they_were() {
    let mut lab = Lab::established(&["b"]);
    lab.establish_with("a", super::refresh::GRACEFUL);
    lab.say("a", &announce("a", &["10.1.0.0/16"]));
    lab.say("a", &announce("a", &["10.2.0.0/16"])[..30]);
    lab.cut("a");
    lab.holds("b", "10.1.0.0/16");
    lab.lacks("b", "10.2.0.0/16");
}

#[test]
fn a_message_is_the_same_however_the_stream_is_cut() {
    let octets = [
        announce("a", &["10.1.0.0/16"]),
        announce("a", &["10.2.0.0/16"]),
    ]
    .concat();
    for size in 1..octets.len() {
        let mut lab = Lab::established(&["a", "b"]);
        octets.chunks(size).for_each(|part| lab.say("a", part));
        assert_eq!(lab.ends["b"].table.len(), 2, "chunks of {size}");
    }
}

#[test]
fn f4_a_silent_peer_is_dropped_at_the_hold_time_and_not_before() {
    let mut lab = Lab::new();
    lab.connect("a");
    lab.say("a", &open(64600, address_of("a"), 3, USUAL));
    lab.say("a", &KEEPALIVE);
    lab.await_end("a", 3 * SECOND);
    lab.assert_ended("a", 4, 0, &[]);
}

#[test]
fn f6_an_update_before_the_open_ends_with_5_1_and_the_type() {
    let mut lab = Lab::new();
    lab.connect("a");
    lab.say("a", &KEEPALIVE);
    lab.assert_ended("a", 5, 1, &[4]);
}

#[test]
fn f7_a_second_open_ends_with_5_3_and_the_type() {
    let mut lab = Lab::established(&["a"]);
    lab.say("a", &open(64600, address_of("a"), 90, USUAL));
    lab.assert_ended("a", 5, 3, &[1]);
}

#[test]
fn f12_f13_a_notification_is_never_answered_whatever_it_says() {
    for body in [
        &[6, 4][..],
        &[77, 200, 1, 2, 3],
        &[6, 2, 200, b'x'],
        &[6, 2, 2, 0xff, 0xfe],
    ] {
        let mut lab = Lab::established(&["a"]);
        lab.told("a");
        lab.say("a", &message(3, body));
        assert!(lab.ends["a"].closed);
        assert!(
            !lab.ends["a"]
                .told
                .iter()
                .any(|told| matches!(told, Message::Notification(_)))
        );
    }
}

#[test]
fn f18_one_prefix_too_many_ends_with_6_1_family_and_limit() {
    let mut lab = Lab::with(|config| {
        config.peers[0].maximum_prefixes = Some(MaximumPrefixes {
            limit: 2,
            action: LimitAction::Close,
        });
    });
    lab.establish(&["a"]);
    lab.say("a", &announce("a", &["10.1.0.0/16", "10.2.0.0/16"]));
    lab.assert_established("a");
    lab.say("a", &announce("a", &["10.3.0.0/16"]));
    lab.assert_ended("a", 6, 1, &[0, 1, 1, 0, 0, 0, 2]);
}
