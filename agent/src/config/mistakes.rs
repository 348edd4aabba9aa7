//! What is said of files that are wrong, word for word, and that the example shows every key there is.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::speaker::{SpeakerFile, parse};
use super::yaml::{self, Step};

const HEAD: &str = "asn: 64512\nrouterId: 10.100.0.1\n";
const EXAMPLE_PATH: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../manifests/speaker.example.yaml"
);
const EXAMPLE: &str = include_str!("../../../manifests/speaker.example.yaml");

fn said(text: &str) -> Vec<String> {
    match parse(Path::new("speaker.yaml"), text) {
        Ok(_) => Vec::new(),
        Err(error) => error
            .to_string()
            .lines()
            .map(|line| {
                line.strip_prefix("speaker.yaml:")
                    .unwrap_or(line)
                    .to_owned()
            })
            .collect(),
    }
}

#[test]
fn every_mistake_of_a_file_is_told_at_once_with_its_place() {
    for (text, expected) in table::TABLE {
        assert_eq!(said(&format!("{HEAD}{text}")), *expected, "{text}");
    }
}

/// Keys whose value may be any word.
const WORDS: [&str; 12] = [
    "name",
    "peer",
    "interface",
    "device",
    "netns",
    "link",
    "password",
    "passwordFile",
    "secret",
    "shutdownText",
    "import",
    "export",
];

/// Every key of the example in turn has nothing behind it, then a list of lists, then a word that means nothing.
#[test]
fn a_key_with_nothing_or_something_else_behind_it_is_a_mistake_that_says_what_would_be_right() {
    let whole = yaml::tree(EXAMPLE);
    for (path, keys) in whole.maps() {
        for key in keys {
            let mut at = path.clone();
            at.push(Step::Key(key.clone()));
            for wrong in ["", "[[x]]", "?!"] {
                let mut probe = whole.clone();
                probe.replace(&at, yaml::tree(&format!("x: {wrong}")));
                let found = super::speaker::probe(&probe);
                if wrong == "?!" && WORDS.contains(&key.as_str()) {
                    assert!(found.is_ok(), "{at:?} takes no word");
                    continue;
                }
                let Err(fault) = found else {
                    panic!("{at:?} takes `{wrong}`");
                };
                assert!(fault.path.starts_with(&at), "{at:?}: {fault}");
                assert!(fault.reason.starts_with("expected "), "{at:?}: {fault}");
                assert!(!fault.reason.contains(" value"), "{at:?}: {fault}");
            }
        }
    }
}

#[test]
fn an_empty_file_says_what_is_wanting() {
    assert_eq!(
        said(""),
        ["1:1: field `asn`: expected a field `asn`, found none"]
    );
}

#[test]
fn what_is_no_yaml_has_a_place_too() {
    let said = said("asn: 64512\nrouterId: [10.0.0.1\npeers: 1\n");
    let [line] = said.as_slice() else {
        panic!("{said:?}")
    };
    assert!(line.contains("expected YAML: "), "{line}");
}

fn example() -> SpeakerFile {
    match parse(Path::new(EXAMPLE_PATH), EXAMPLE) {
        Ok(file) => file,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_example_is_a_good_file() {
    assert!(example().speaker.peers.len() > 1);
}

/// A key nobody knows is put into every mapping of the example in turn; the complaint lists the keys known there, and each of
/// them must stand in a mapping of that kind somewhere in the example.
#[test]
fn the_example_shows_every_key_that_is_read() {
    let whole = yaml::tree(EXAMPLE);
    let mut kinds: BTreeMap<Vec<String>, (String, BTreeSet<String>)> = BTreeMap::new();
    for (path, keys) in whole.maps() {
        let mut probe = whole.clone();
        probe.insert(&path, "no such key");
        let Err(fault) = super::speaker::probe(&probe) else {
            panic!("{path:?} takes any key");
        };
        let (_, known) = fault
            .reason
            .rsplit_once("expected one of ")
            .or_else(|| fault.reason.rsplit_once("expected "))
            .unwrap_or_else(|| panic!("{path:?}: {fault}"));
        let known: Vec<String> = known
            .split(", ")
            .map(|key| key.trim_matches('`').to_owned())
            .collect();
        let name: Vec<String> = path
            .iter()
            .map(|step| match step {
                Step::Key(key) => key.clone(),
                Step::Index(_) => "[]".into(),
            })
            .collect();
        let entry = kinds
            .entry(known)
            .or_insert_with(|| (name.join("."), BTreeSet::new()));
        entry.1.extend(keys);
    }
    for (known, (name, shown)) in kinds {
        let wanting: Vec<_> = known.iter().filter(|key| !shown.contains(*key)).collect();
        assert!(
            wanting.is_empty(),
            "manifests/speaker.example.yaml does not show {wanting:?} of `{name}`: add each with a comment"
        );
    }
}
