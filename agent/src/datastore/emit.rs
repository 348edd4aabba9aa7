//! Objects as YAML.
//!
//! Maps are written one key a line; lists of plain values, which IPAM blocks have hundreds of, on one line. A text is left without
//! quotes only when no YAML, old or new, could take it for anything else. What is written reads back as the same value.

use std::fmt::Write as _;

use serde_json::Value;

/// Words some version of YAML takes for something else than text.
const WORDS: [&str; 13] = [
    "null",
    "true",
    "false",
    "yes",
    "no",
    "on",
    "off",
    "y",
    "n",
    "nan",
    "inf",
    "undefined",
    "none",
];

/// Writes a value as one YAML document, without the opening `---`.
pub(super) fn yaml(value: &Value) -> String {
    let mut out = String::new();
    let is_empty = match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    };
    if is_empty {
        inline(&mut out, value);
        out.push('\n');
    } else {
        block(&mut out, value, 0, false);
    }
    out
}

fn is_scalar(value: &Value) -> bool {
    !matches!(value, Value::Object(_) | Value::Array(_))
}

/// Whether a value fits on its key's line.
fn is_inline(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.iter().all(is_scalar),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

fn inline(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => string(out, text),
        Value::Array(list) => {
            out.push('[');
            for (index, item) in list.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                inline(out, item);
            }
            out.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            let _ = write!(out, "{value}");
        }
    }
}

/// Writes the entries of a map or list, each on lines of their own. `hanging`: the first one stands behind a dash already written.
fn block(out: &mut String, value: &Value, indent: usize, hanging: bool) {
    let mut first = hanging;
    let mut start = |out: &mut String| {
        if !std::mem::take(&mut first) {
            out.extend(std::iter::repeat_n(' ', indent));
        }
    };
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                start(out);
                string(out, key);
                out.push(':');
                if is_inline(value) {
                    out.push(' ');
                    inline(out, value);
                    out.push('\n');
                } else {
                    out.push('\n');
                    // A list may stand under its key without indentation, as kubectl writes it.
                    let deeper = if value.is_array() { indent } else { indent + 2 };
                    block(out, value, deeper, false);
                }
            }
        }
        Value::Array(list) => {
            for item in list {
                start(out);
                out.push_str("- ");
                if is_inline(item) {
                    inline(out, item);
                    out.push('\n');
                } else {
                    block(out, item, indent + 2, true);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn string(out: &mut String, text: &str) {
    if is_plain(text) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            // Line ends of old YAML, the byte order mark and what YAML does not let stand bare.
            '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            control if control.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

fn is_plain(text: &str) -> bool {
    let mut bytes = text.bytes();
    let Some(first) = bytes.next() else {
        return false;
    };
    // Text with a first letter and a second that is not, such as `e1`, is no number in any YAML; `0x1`, `1e1`, `.5` begin otherwise.
    first.is_ascii_alphabetic()
        && bytes
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/'))
        && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datastore::document::parse_value;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn an_object_looks_as_people_write_it() {
        let value = json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "on", "labels": {}},
            "spec": {"cidr": "10.0.0.0/16", "list": [1, null, "a"], "maps": [{"a": 1, "b": {"c": "x y"}}, {}], "empty": []},
        });
        assert_eq!(
            yaml(&value),
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  labels: {}\n  name: \"on\"\nspec:\n  cidr: \"10.0.0.0/16\"\n  empty: []\n  list: [1, null, a]\n  maps:\n  - a: 1\n    b:\n      c: \"x y\"\n  - {}\n"
        );
    }

    fn values() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            "[ -~]{0,8}",
            any::<String>(),
            "(null|yes|No|~|0x1|1e3|-|---|\\.|1_0|12:30|0o7|\\?|&a|\\*a|!x|#|%|@|`|\t|y|=|<<)",
        ];
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        scalar.prop_recursive(4, 40, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(text.clone(), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(value in values()) {
            let written = yaml(&value);
            prop_assert_eq!(parse_value(&written, 1).map_err(|error| format!("{error}\n{written}")).unwrap(), value);
        }
    }
}
