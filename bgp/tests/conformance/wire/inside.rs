//! Cases that do not run over TCP, and why.

/// Cases, or whole files of them.
pub(super) const INSIDE: &[(&str, &str)] = &[
    (
        "bfd::",
        "BFD runs on the invented clock; labs have its sockets",
    ),
    ("cases::", "no speaker at all"),
    ("sweep::", "thousands of speakers; TCP adds nothing to them"),
    ("wire::", "no speaker at all"),
    (
        "monitoring::a_prefix_that_flaps_",
        "it reads nothing for a while; a socket's buffers would take all there is",
    ),
    ("monitoring::numbers_", COUNTS),
    ("monitoring::the_loc_rib_counts_", COUNTS),
    (
        "monitoring::another_identifier_",
        "it ends every session, that of the witness too",
    ),
    (
        "monitoring::a_route_that_fits_no_message_",
        "a process says itself whether the neighbour or the collector reads first",
    ),
    ("decision::each_next_hop_is_asked_", ASKS),
    ("decision::what_nobody_", ASKS),
    (
        "decision::whoever_forwards_is_told_the_local_pref_",
        "no route of the kernel has a LOCAL_PREF",
    ),
    (
        "external::e17_a_global_address_",
        "the file refuses an address of the session's own family",
    ),
    (
        "external::o26_a_role_is_not_said_",
        "the file refuses a role inside the AS",
    ),
    (
        "add_path::paths_there_was_no_room_for_",
        "it takes the minute between two requests, which nothing shortens",
    ),
    (
        "handover::a_call_is_",
        "it asks whose calls would be, which only the speaker says",
    ),
    (
        "handover::a_change_of_hands_",
        "it reads the log of every name to the letter",
    ),
    (
        "handover::what_policies_",
        "no case has words for a policy about a peer",
    ),
    (
        "ranges::f15_",
        "rests that double up to a minute are looked at to the second, a hundred calls in each",
    ),
    (
        "ranges::a_caller_is_",
        "it takes the minute after which a silent peer is told of, which nothing shortens",
    ),
    (
        "opens::o9_an_open_",
        "it takes the four minutes of RFC 4271, which nothing shortens",
    ),
    (
        "refresh::refreshes_are_no_way_",
        "a process may see to each of the messages by itself",
    ),
    (
        "refresh::r4_",
        "it takes the six minutes of RFC 7313, which nothing shortens",
    ),
    (
        "sessions::f2_",
        "it takes the four minutes of RFC 4271, which nothing shortens",
    ),
    (
        "sessions::c7_",
        "it takes the minute after which a silent peer is told of, which nothing shortens",
    ),
    (
        "sessions::f1_",
        "what is refused at once leaves no trace on a socket of the neighbour's",
    ),
    (
        "sessions::f20_",
        "labs change keys of real sockets: x1 and its like",
    ),
];

const COUNTS: &str = "what the lab probes with would count as routes";
const ASKS: &str = "what is asked of whoever forwards stays between the two";

pub(super) fn is_inside(case: &str) -> bool {
    INSIDE.iter().any(|(known, _)| case.starts_with(known))
}

#[test]
fn every_case_that_stays_inside_says_why() {
    for (case, reason) in INSIDE {
        assert!(!reason.is_empty(), "{case}");
        let (file, name) = case.split_once("::").unwrap();
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = path.join(format!("tests/conformance/{file}.rs"));
        let source = std::fs::read_to_string(path).unwrap();
        assert!(source.contains(&format!("fn {name}")), "no case {case}");
    }
}

#[test]
#[should_panic(expected = "belongs into wire/inside.rs")]
fn a_look_inside_a_process_ends_the_case() {
    let news: crate::Inside<Vec<u8>> = crate::Inside::nowhere();
    assert!(news.is_empty());
}
