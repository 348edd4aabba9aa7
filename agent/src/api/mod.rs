//! Calico's objects as users write them: one file a kind, each with the type of its `spec`, Calico's defaults and Calico's rules.
//!
//! Reading goes in two steps. serde takes a `spec` apart into types whose texts are already parsed (a [`Cidr`], an [`AsNumber`]),
//! and names the field where that fails. Then the type's `check` applies the rules that need more than one field and returns the
//! model's type, or every fault it found. Raw types do not leave `api` and `watch`.
//!
//! Both groups are read, `projectcalico.org/v3` and `crd.projectcalico.org/v1`; the store has unfolded the metadata of the latter.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::model::Labels;

pub mod bgp_configuration;
pub mod bgp_filter;
pub mod bgp_peer;
pub mod block_affinity;
pub mod cluster_information;
pub mod felix_configuration;
mod field_names;
pub mod ip_pool;
pub mod ip_reservation;
pub mod ipam_block;
pub mod ipam_config;
pub mod ipam_handle;
mod lenient;
pub mod node;
mod scalar;
pub mod secret;

pub use scalar::{AsNumber, Cidr, CommunityText, GoDuration, MacText, SelectorText, Switch, Text};

/// What is wrong with an object, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field, as `spec.cidr`.
    pub field: Option<String>,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl Fault {
    /// A fault of a field.
    #[must_use]
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: Some(field.into()),
            reason: reason.into(),
        }
    }
}

/// Reads a type out of a part of an object. `at` is the part's name, such as `spec`.
///
/// # Errors
/// Names the field that does not fit.
pub fn read<T: DeserializeOwned>(value: &Value, at: &str) -> Result<T, Fault> {
    let empty = Value::Object(serde_json::Map::new());
    // An object whose fields are all optional may lack its spec altogether.
    let value = if value.is_null() { &empty } else { value };
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." {
            at.to_owned()
        } else {
            format!("{at}.{path}")
        };
        Fault::new(field, error.inner().to_string())
    })
}

/// The fields of a part of an object that its type does not have: misspelt, or newer than margay. They have no effect.
#[must_use]
pub fn unknown_fields<T: DeserializeOwned>(value: &Value, at: &str) -> Vec<String> {
    let known = field_names::of::<T>();
    value
        .as_object()
        .into_iter()
        .flat_map(serde_json::Map::keys)
        .filter(|field| !known.contains(&field.as_str()))
        .map(|field| format!("{at}.{field}"))
        .collect()
}

/// Labels or annotations of an object; what is not text is passed over, as nobody can select it.
#[must_use]
pub fn labels(value: &Value, field: &str) -> Labels {
    value
        .get("metadata")
        .and_then(|metadata| metadata.get(field))
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// `margay.io/<field>` annotations of an object, by `<field>`.
#[must_use]
pub fn margay_annotations(annotations: &Labels) -> Labels {
    annotations
        .iter()
        .filter_map(|(key, value)| {
            Some((key.strip_prefix("margay.io/")?.to_owned(), value.clone()))
        })
        .collect()
}
