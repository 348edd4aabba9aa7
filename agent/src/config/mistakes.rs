//! What is said of files that are wrong, word for word, and that the example shows every key there is.

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

/// Files behind the two lines of `HEAD`, and everything said of them.
const TABLE: &[(&str, &[&str])] = &[
    (
        "policies:\n- { name: a, rules: [{ match: { prefixes: [{ prefix: 10.0.0.0/8, min: 4 }] }, then: accept }] }\n- { name: b, rules: [{ match: { family: ipv4-unicast } }] }\n",
        &[
            "4:31: field `policies[0].rules[0].match`: expected lengths from 8 to 32 for 10.0.0.0/8, found 4 to 32",
            "5:22: field `policies[1].rules[0]`: expected `then`, `set` or both: the rule does nothing",
        ],
    ),
    (
        "policies:\n- { name: a, rules: [] }\npeers:\n- { address: 10.0.0.1, asn: 1, import: b }\n",
        &[
            "6:40: field `peers[0].import`: expected accept, reject or one of the policies of the file (a), found `b`",
        ],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, holdTime: 1 }\n",
        &[
            "4:42: field `peers[0].holdTime`: expected a hold time in seconds: 0, or 3 to 65535, found `1`",
        ],
    ),
    (
        "peers:\n- address: 10.0.0.1\n  asn: 1\n  holdtime: 9\n  import: { accept: [10.0.0.0/33] }\n",
        &[
            "6:3: field `peers[0].holdtime`: unknown field `holdtime`, expected `holdTime`",
            "7:22: field `peers[0].import.accept[0]`: expected a prefix (10.0.0.0/8 or fd00::/48), found `10.0.0.0/33`",
        ],
    ),
    (
        "peers:\n- { name: tor, address: 10.0.0.1, asn: 1 }\n- { name: tor, address: 10.0.0.2, asn: many }\n- { name: tor, address: 10.0.0.3, asn: 3 }\n",
        &[
            "5:40: field `peers[1].asn`: expected an AS number (64512 or 1.10), several with commas between, internal, external or any, found `many`",
            "6:11: field `peers[2].name`: expected a name of its own, found `tor` again",
        ],
    ),
    (
        "peers:\n- { name: a, address: 10.0.0.1, asn: 1 }\n- { name: b, address: 10.0.0.1, asn: 2 }\n",
        &["5:23: field `peers[1].address`: peers a and b are both 10.0.0.1:179"],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, ttl: 1, ttlSecurity: 1 }\n",
        &[
            "4:37: field `peers[0].ttl`: expected no `ttl` beside `ttlSecurity`, which sends with 255",
        ],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, holdTime: 9, keepalive: 9 }\n",
        &["4:56: field `peers[0].keepalive`: expected less than the hold time of 9 s, found 9 s"],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, password: a, passwordFile: b }\n",
        &["4:59: field `peers[0].passwordFile`: expected `password` or `passwordFile`, found both"],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, gracefulRestart: { restartTime: 5000 } }\n",
        &["4:64: field `peers[0].gracefulRestart.restartTime`: expected at most 4095 seconds"],
    ),
    (
        "peers:\n- { address: 10.0.0.1, asn: 1, gracefulRestart: false, longLived: { staleTime: 60 } }\n",
        &[
            "4:67: field `peers[0].longLived`: expected no `longLived` without `gracefulRestart`, which it continues",
        ],
    ),
    (
        "peers:\n- { address: 10.0.0.1 }\n",
        &["4:3: field `peers[0].asn`: expected a field `asn`, found none"],
    ),
    (
        "listen: 10.0.0.1\nkernel: { install: maybe }\npeers: []\npeers: []\n",
        &["6:1: field `peers`: expected each field once, found `peers` again (first on line 5)"],
    ),
    (
        "listen: 10.0.0.1\nkernel: { install: maybe, protocol: 256 }\n",
        &[
            "3:9: field `listen`: expected a list, found `10.0.0.1`",
            "4:20: field `kernel.install`: expected true or false, found `maybe`",
            "4:37: field `kernel.protocol`: expected a number from 0 to 255, found `256`",
        ],
    ),
    (
        "peers:\n  address: 10.0.0.1\n  asn: 1\n",
        &["4:3: field `peers`: expected a list, found a mapping"],
    ),
];

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
    for (text, expected) in TABLE {
        assert_eq!(said(&format!("{HEAD}{text}")), *expected, "{text}");
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
