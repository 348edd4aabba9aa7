//! Secret, of the Kubernetes API. Error messages never hold a value.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::Fault;
use crate::model::SecretValue;

/// The values of a Secret: `data` in base64, overlaid by `stringData` in clear.
///
/// # Errors
/// Names the key that cannot be read.
pub fn values(object: &Value) -> Result<BTreeMap<String, SecretValue>, Vec<Fault>> {
    let mut values = BTreeMap::new();
    let mut faults = Vec::new();
    for (field, encoded) in [("data", true), ("stringData", false)] {
        let entries = match object.get(field) {
            None | Some(Value::Null) => continue,
            Some(Value::Object(entries)) => entries,
            Some(_) => {
                faults.push(Fault::new(field, "is not a map"));
                continue;
            }
        };
        for (key, value) in entries {
            let value = match value {
                Value::String(text) if encoded => STANDARD.decode(text.trim()).ok(),
                Value::String(text) => Some(text.clone().into_bytes()),
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::Array(_)
                | Value::Object(_) => None,
            };
            match value {
                Some(value) => {
                    values.insert(key.clone(), SecretValue::new(value));
                }
                None if encoded => faults.push(Fault::new(
                    format!("data.{key}"),
                    "is not base64: encode it, or move it to stringData",
                )),
                None => faults.push(Fault::new(
                    format!("stringData.{key}"),
                    "is not text: put it in quotes",
                )),
            }
        }
    }
    if faults.is_empty() {
        Ok(values)
    } else {
        Err(faults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_forms_are_read_and_the_clear_one_wins() {
        let values =
            values(&json!({"data": {"a": "c2VjcmV0", "b": "eA=="}, "stringData": {"b": "clear"}}))
                .unwrap();
        assert_eq!(values["a"].expose(), b"secret");
        assert_eq!(values["b"].expose(), b"clear");
    }

    #[test]
    fn faults_hold_no_value() {
        let faults =
            values(&json!({"data": {"k": "hunter2!"}, "stringData": {"n": 12345}})).unwrap_err();
        let told = format!("{faults:?}");
        assert!(
            told.contains("data.k") && told.contains("stringData.n"),
            "{told}"
        );
        assert!(
            !told.contains("hunter2") && !told.contains("12345"),
            "{told}"
        );
    }
}
