//! Metadata as Calico folds it into `crd.projectcalico.org/v1` objects, and what a store gives new objects.
//!
//! In that group labels and annotations of the user live inside the annotation `projectcalico.org/metadata`, as JSON, and the uid
//! shown is the stored one with the bits of its octets reversed. Everything margay hands around is unfolded; the store folds it
//! again when it writes. A hand-written object of that group without the annotation is as good as any.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use sha1::{Digest, Sha1};

use super::Kind;

const FOLDED: &str = "projectcalico.org/metadata";
const V1_GROUP: &str = "crd.projectcalico.org/";

fn is_v1(value: &Value) -> bool {
    value
        .get("apiVersion")
        .and_then(Value::as_str)
        .is_some_and(|version| version.starts_with(V1_GROUP))
}

/// Shows an object's metadata as v3 does.
pub(super) fn unfold(mut value: Value) -> Result<Value, String> {
    if !is_v1(&value) {
        return Ok(value);
    }
    let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Ok(value);
    };
    let folded = meta
        .get_mut("annotations")
        .and_then(Value::as_object_mut)
        .and_then(|annotations| annotations.remove(FOLDED));
    if let Some(folded) = folded {
        let inside: Map<String, Value> = folded
            .as_str()
            .ok_or_else(|| format!("`{FOLDED}` is not text"))
            .and_then(|text| {
                serde_json::from_str(text)
                    .map_err(|error| format!("`{FOLDED}` is not a JSON object: {error}"))
            })?;
        for (key, value) in inside {
            match (key.as_str(), value) {
                (_, Value::Null) => {}
                ("labels" | "annotations", Value::Object(entries)) => {
                    let own = meta.entry(key).or_insert_with(|| Value::Object(Map::new()));
                    match own.as_object_mut() {
                        Some(own) => own.extend(entries),
                        None => *own = Value::Object(entries),
                    }
                }
                // The object's own identity and version are the ones that count.
                ("name" | "namespace" | "uid" | "resourceVersion", _) => {}
                (_, value) => {
                    meta.entry(key).or_insert(value);
                }
            }
        }
    }
    if meta
        .get("annotations")
        .and_then(Value::as_object)
        .is_some_and(Map::is_empty)
    {
        meta.remove("annotations");
    }
    if let Some(Value::String(uid)) = meta.get_mut("uid") {
        *uid = reverse_uid(uid);
    }
    Ok(value)
}

/// Folds metadata for storing, where the object's group does so.
pub(super) fn fold(mut value: Value) -> Value {
    if !is_v1(&value) {
        return value;
    }
    let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
        return value;
    };
    let mut inside = meta.clone();
    for field in ["name", "namespace", "uid", "resourceVersion", "generation"] {
        inside.remove(field);
    }
    inside.entry("creationTimestamp").or_insert(Value::Null);
    for field in ["labels", "annotations"] {
        if let Some(entries) = meta.get_mut(field).and_then(Value::as_object_mut) {
            entries.retain(|key, _| {
                key.contains("projectcalico.org/") || key.contains("operator.tigera.io/")
            });
            if entries.is_empty() {
                meta.remove(field);
            }
        }
    }
    let folded = Value::String(Value::Object(inside).to_string());
    let annotations = meta
        .entry("annotations")
        .or_insert_with(|| Value::Object(Map::new()));
    match annotations.as_object_mut() {
        Some(annotations) => {
            annotations.insert(FOLDED.to_owned(), folded);
        }
        None => *annotations = Value::Object(Map::from_iter([(FOLDED.to_owned(), folded)])),
    }
    if let Some(Value::String(uid)) = meta.get_mut("uid") {
        *uid = reverse_uid(uid);
    }
    value
}

/// The uid the other side of the v1 mapping shows: the bits of every octet reversed but those of octets 6 and 8, which say the UUID's
/// version and variant. Its own inverse. A text that is no UUID stays.
fn reverse_uid(uid: &str) -> String {
    match octets_of_uid(uid) {
        Some(mut octets) => {
            for (index, octet) in octets.iter_mut().enumerate() {
                if index != 6 && index != 8 {
                    *octet = octet.reverse_bits();
                }
            }
            uid_of_octets(octets)
        }
        None => uid.to_owned(),
    }
}

fn octets_of_uid(uid: &str) -> Option<[u8; 16]> {
    if uid.len() != 36 || !uid.is_ascii() {
        return None;
    }
    let digits = uid.replace('-', "");
    if digits.len() != 32 {
        return None;
    }
    u128::from_str_radix(&digits, 16)
        .ok()
        .map(u128::to_be_bytes)
}

fn uid_of_octets(octets: [u8; 16]) -> String {
    let number = u128::from_be_bytes(octets);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        number >> 96,
        (number >> 80) & 0xffff,
        (number >> 64) & 0xffff,
        (number >> 48) & 0xffff,
        number & 0xffff_ffff_ffff
    )
}

/// Makes octets a UUID of a version, RFC 9562 §4.
fn as_uuid(mut octets: [u8; 16], version: u8) -> String {
    octets[6] = (octets[6] & 0x0f) | (version << 4);
    octets[8] = (octets[8] & 0x3f) | 0x80;
    uid_of_octets(octets)
}

/// A uid for a new object.
pub(super) fn random_uid() -> String {
    as_uuid(rand::random(), 4)
}

/// A uid for an object that has none written: the same for the same name, ever.
pub(super) fn uid_of_name(kind: Kind, name: &str) -> String {
    let mut digest = Sha1::new();
    digest.update(kind.plural());
    digest.update("/");
    digest.update(name);
    let mut octets = [0; 16];
    for (octet, from) in octets.iter_mut().zip(digest.finalize()) {
        *octet = from;
    }
    as_uuid(octets, 5)
}

/// Now, as `metadata.creationTimestamp` writes it.
pub(crate) fn timestamp_now() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    timestamp(since.as_secs())
}

/// Seconds since 1970 as RFC 3339 in UTC.
fn timestamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil_from_days, with years that start in March so that a leap day is a year's last.
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn folding_and_unfolding_give_the_object_back() {
        let shown = json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool",
            "metadata": {
                "name": "a", "uid": "6ba7b810-9dad-41d1-80b4-00c04fd430c8", "resourceVersion": "3",
                "creationTimestamp": "2024-01-01T00:00:00Z",
                "labels": {"user": "x", "projectcalico.org/y": "z"}, "annotations": {"note": "n"},
            },
            "spec": {"cidr": "10.0.0.0/16"},
        });
        let stored = fold(shown.clone());
        assert_eq!(
            stored["metadata"]["labels"],
            json!({"projectcalico.org/y": "z"})
        );
        let inside: Value =
            serde_json::from_str(stored["metadata"]["annotations"][FOLDED].as_str().unwrap())
                .unwrap();
        assert_eq!(inside["labels"]["user"], "x");
        assert_eq!(inside.get("name"), None);
        assert_ne!(stored["metadata"]["uid"], shown["metadata"]["uid"]);
        assert_eq!(unfold(stored).unwrap(), shown);
    }

    #[test]
    fn labels_inside_the_annotation_win() {
        let value = unfold(json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool",
            "metadata": {"name": "a", "labels": {"x": "outside", "y": "kept"},
                "annotations": {FOLDED: r#"{"labels":{"x":"inside"},"creationTimestamp":null}"#}},
        }))
        .unwrap();
        assert_eq!(
            value["metadata"],
            json!({"name": "a", "labels": {"x": "inside", "y": "kept"}})
        );
    }

    #[test]
    fn an_annotation_that_is_no_json_is_named() {
        let wrong = unfold(json!({
            "apiVersion": "crd.projectcalico.org/v1", "metadata": {"annotations": {FOLDED: "{"}},
        }));
        assert!(wrong.unwrap_err().contains("not a JSON object"));
    }

    #[test]
    fn v3_objects_stay_as_they_are() {
        let value =
            json!({"apiVersion": "projectcalico.org/v3", "metadata": {"name": "a", "uid": "x"}});
        assert_eq!(unfold(value.clone()).unwrap(), value);
        assert_eq!(fold(value.clone()), value);
    }

    #[test]
    fn reversing_a_uid_twice_gives_it_back_and_spares_version_and_variant() {
        let uid = "01020304-0506-4708-890a-0b0c0d0e0f10";
        assert_eq!(reverse_uid(uid), "8040c020-a060-4710-8950-d030b070f008");
        assert_eq!(reverse_uid(&reverse_uid(uid)), uid);
        assert_eq!(reverse_uid("not a uuid"), "not a uuid");
    }

    #[test]
    fn timestamps_know_leap_days() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(timestamp(1_735_689_599), "2024-12-31T23:59:59Z");
    }
}
