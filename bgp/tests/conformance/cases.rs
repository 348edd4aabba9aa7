//! Every case has a test, or stands here with the reason why not.
//!
//! A case is covered by a test whose name begins with its id: `o2_o3_another_as_…` covers two, `e1_to_e9_…` nine of them.
//! The X cases need namespaces and real sockets; theirs are functions of the `integration` package, run by its scenarios.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Ids by letter: the numbers that exist.
fn cases() -> BTreeSet<String> {
    let runs = [
        ('h', 1..=12),
        ('o', 1..=30),
        ('u', 1..=21),
        ('a', 1..=10),
        ('f', 1..=20),
        ('c', 1..=7),
        ('r', 1..=10),
        ('g', 1..=21),
        ('d', 1..=25),
        ('e', 1..=32),
        ('p', 1..=9),
        ('x', 1..=16),
    ];
    // Attributes are numbered by their type codes.
    let attributes = [14, 15, 16, 17, 18, 25, 26, 32, 35, 40, 99];
    runs.into_iter()
        .flat_map(|(letter, numbers)| numbers.map(move |number| format!("{letter}{number}")))
        .chain(attributes.map(|code| format!("a{code}")))
        .collect()
}

/// Cases without a test, and why that is right.
const ABSENT: &[(&str, &str)] = &[];

/// Cases that only the codec's tests have, since no configuration makes a speaker do it, and where that is shown.
const CODEC_ALONE: &[(&str, &str, &str)] = &[(
    "o24",
    "our largest OPEN has 77 octets of parameters, and the framing of RFC 9072 is written from 256 on",
    "our_largest_open_is_far_from_the_extended_framing",
)];

/// The ids a function's name begins with.
fn ids_of(name: &str) -> Vec<String> {
    let mut ids: Vec<(char, u32)> = Vec::new();
    let mut range = false;
    for word in name.split('_') {
        let mut letters = word.chars();
        let id = letters
            .next()
            .and_then(|letter| Some((letter, letters.as_str().parse::<u32>().ok()?)));
        match (id, ids.last().copied()) {
            (Some((letter, number)), Some((_, first))) if range => {
                ids.extend((first + 1..=number).map(|between| (letter, between)));
                range = false;
            }
            (Some(id), _) => ids.push(id),
            (None, Some(_)) if word == "to" && !range => range = true,
            (None, _) => break,
        }
    }
    ids.into_iter()
        .map(|(letter, number)| format!("{letter}{number}"))
        .collect()
}

/// The names of the functions below `folder`; outside of `scenarios` only tests count.
fn names_in(folder: &Path, scenarios: bool, names: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names_in(&path, scenarios, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let mut is_test = scenarios;
            for line in fs::read_to_string(&path).unwrap().lines() {
                let line = line.trim_start();
                is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                let declaration = line.trim_start_matches("pub(super) ");
                let declaration = declaration.trim_start_matches("pub(crate) ");
                let declaration = declaration.trim_start_matches("pub ");
                let declaration = declaration.trim_start_matches("async ");
                if let Some(rest) = declaration.strip_prefix("fn ") {
                    let name = rest.split(['(', '<']).next().unwrap_or_default();
                    if is_test {
                        names.insert(name.to_owned());
                    }
                    is_test = scenarios;
                }
            }
        }
    }
}

/// The cases that they cover.
fn covered_in(folder: &Path, scenarios: bool) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    names_in(folder, scenarios, &mut names);
    names.iter().flat_map(|name| ids_of(name)).collect()
}

#[test]
fn every_case_has_a_test_of_its_name_or_a_reason_not_to() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = package.parent().unwrap();
    let mut covered = BTreeSet::new();
    for folder in ["bgp/src", "bgp/tests", "agent/src", "agent/tests"] {
        covered.append(&mut covered_in(&workspace.join(folder), false));
    }
    let mut in_labs = covered_in(&workspace.join("integration/src"), true);
    in_labs.retain(|id| id.starts_with('x'));
    covered.append(&mut in_labs);

    let cases = cases();
    let absent: BTreeSet<String> = ABSENT.iter().map(|(id, _)| (*id).to_owned()).collect();
    let missing: Vec<_> = cases
        .iter()
        .filter(|id| !covered.contains(*id) && !absent.contains(*id))
        .collect();
    assert!(missing.is_empty(), "cases without a test: {missing:?}");
    let needless: Vec<_> = absent
        .iter()
        .filter(|id| covered.contains(*id) || !cases.contains(*id))
        .collect();
    assert!(needless.is_empty(), "not absent at all: {needless:?}");
}

#[test]
fn what_only_the_codec_can_show_is_shown_there_and_its_reason_is_tested() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (id, reason, proof) in CODEC_ALONE {
        let has = |folder| covered_in(&package.join(folder), false).contains(*id);
        assert!(has("tests/codec"), "{id}: {reason}");
        assert!(!has("tests/conformance"), "{id} is not alone");
        let mut names = BTreeSet::new();
        names_in(&package.join("src"), false, &mut names);
        assert!(names.contains(*proof), "{id}: no {proof}");
    }
}

#[test]
fn ids_are_read_off_names() {
    assert_eq!(ids_of("o2_o3_another_as"), ["o2", "o3"]);
    assert_eq!(ids_of("e1_to_e3_who_hears"), ["e1", "e2", "e3"]);
    assert_eq!(ids_of("a1_to_the_letter"), ["a1"]);
    assert!(ids_of("another").is_empty());
}
