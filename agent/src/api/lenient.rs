//! Spellings Calico has used for the same thing.

use std::fmt::Display;
use std::str::FromStr;

use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serializer};
use serde_json::Value;

/// `true`, `"true"`, or nothing: `crd.projectcalico.org/v1` writes BlockAffinity's `deleted` as text.
pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(false),
        Value::Bool(flag) => Ok(flag),
        Value::String(text) => match text.as_str() {
            "" | "false" => Ok(false),
            "true" => Ok(true),
            other => Err(D::Error::invalid_value(
                Unexpected::Str(other),
                &"\"true\" or \"false\"",
            )),
        },
        Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Err(D::Error::custom("expected true or false"))
        }
    }
}

/// Null where Go wrote a nil slice or map.
pub(super) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An empty text is as good as none.
pub(super) fn text_or_none<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

/// A value written as text, such as a prefix.
pub(super) mod text {
    use super::{Deserialize, Deserializer, Display, Error, FromStr, Serializer};

    pub(crate) fn serialize<S: Serializer, T: Display>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr,
        T::Err: Display,
    {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|error| D::Error::custom(format_args!("{text:?}: {error}")))
    }
}

/// For `skip_serializing_if`.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
pub(super) const fn is_false(flag: &bool) -> bool {
    !*flag
}
