//! Several paths of a prefix from one peer (RFC 7911).

use super::{Lab, attribute, nlri, update, usual, usual_but};

const ROUTE: &str = "10.1.0.0/16";
/// Both families; ADD-PATH for IPv4 in both directions.
const ADD_PATH: &[u8] = &[1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0, 69, 4, 0, 1, 1, 3];

fn with_id(id: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &nlri(&[ROUTE])].concat()
}

fn path(id: u32, med: u8) -> Vec<u8> {
    let med = attribute(0x80, 4, &[0, 0, 0, med]);
    update(&[], &usual_but("a", &med), &with_id(id))
}

fn lab() -> Lab {
    let mut lab = Lab::established(&["c"]);
    lab.establish_with("a", ADD_PATH);
    lab
}

#[track_caller]
fn assert_med(lab: &Lab, med: u32) {
    assert_eq!(lab.holds("c", ROUTE).0.med.map(|value| value.0), Some(med));
}

#[test]
fn p1_p3_paths_come_and_go_by_their_identifier() {
    let mut lab = lab();
    lab.say("a", &path(7, 10));
    lab.say("a", &path(8, 20));
    assert_eq!(lab.peer("a").families[0].received, 2);
    assert_med(&lab, 10);
    lab.say("a", &update(&with_id(7), &[], &[]));
    assert_med(&lab, 20);
    lab.say("a", &update(&with_id(8), &[], &[]));
    lab.lacks("c", ROUTE);
}

#[test]
fn p2_p4_the_same_identifier_replaces_and_zero_is_one() {
    let mut lab = lab();
    lab.say("a", &path(0, 10));
    lab.say("a", &path(0, 20));
    assert_eq!(lab.peer("a").families[0].received, 1);
    assert_med(&lab, 20);
}

#[test]
fn p5_a_family_without_add_path_has_no_identifiers() {
    let mut lab = lab();
    let mut reach = vec![0, 2, 1, 16];
    reach.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    reach.extend(nlri(&["fd01::/16"]));
    lab.say(
        "a",
        &update(&[], &usual_but("a", &attribute(0x80, 14, &reach)), &[]),
    );
    lab.holds("c", "fd01::/16");
}

#[test]
fn p6_without_sending_configured_nothing_goes_out_with_an_identifier() {
    let mut lab = lab();
    lab.say("c", &super::announce("c", &[ROUTE]));
    lab.holds("a", ROUTE);
}

#[test]
fn p9_an_identifier_cut_off_resets_with_3_10() {
    let mut lab = lab();
    lab.say("a", &update(&[], &usual("a").concat(), &[0, 0, 0]));
    lab.assert_ended("a", 3, 10, &[]);
}
