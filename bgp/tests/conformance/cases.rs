//! Every case has a test, or stands here with the reason why not.
//!
//! A case is covered by a test whose name begins with its id: `o2_o3_another_as_…` covers two, `e1_to_e9_…` nine of them.
//! The X cases need namespaces and real sockets; theirs are functions of the `integration` package, run by its scenarios.

use std::collections::{BTreeMap, BTreeSet};
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

/// Adds the cases that the functions below `folder` cover; outside of `scenarios` only tests count.
fn collect(folder: &Path, scenarios: bool, covered: &mut BTreeMap<String, Vec<String>>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, scenarios, covered);
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
                        for id in ids_of(name) {
                            covered.entry(id).or_default().push(name.to_owned());
                        }
                    }
                    is_test = scenarios;
                }
            }
        }
    }
}

#[test]
fn every_case_has_a_test_of_its_name_or_a_reason_not_to() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = package.parent().unwrap();
    let mut covered = BTreeMap::new();
    for folder in ["bgp/src", "bgp/tests", "agent/src", "agent/tests"] {
        collect(&workspace.join(folder), false, &mut covered);
    }
    let mut in_labs = BTreeMap::new();
    collect(&workspace.join("integration/src"), true, &mut in_labs);
    in_labs.retain(|id, _| id.starts_with('x'));
    covered.append(&mut in_labs);

    let cases = cases();
    let absent: BTreeSet<String> = ABSENT.iter().map(|(id, _)| (*id).to_owned()).collect();
    let missing: Vec<_> = cases
        .iter()
        .filter(|id| !covered.contains_key(*id) && !absent.contains(*id))
        .collect();
    assert!(missing.is_empty(), "cases without a test: {missing:?}");
    let needless: Vec<_> = absent
        .iter()
        .filter(|id| covered.contains_key(*id) || !cases.contains(*id))
        .collect();
    assert!(needless.is_empty(), "not absent at all: {needless:?}");
}

#[test]
fn ids_are_read_off_names() {
    assert_eq!(ids_of("o2_o3_another_as"), ["o2", "o3"]);
    assert_eq!(ids_of("e1_to_e3_who_hears"), ["e1", "e2", "e3"]);
    assert_eq!(ids_of("a1_to_the_letter"), ["a1"]);
    assert!(ids_of("another").is_empty());
}
