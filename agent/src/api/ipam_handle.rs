//! IPAMHandle: in which blocks an owner's addresses lie.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::lenient;

/// `spec` of an IPAMHandle. It is an index: what counts is what the blocks say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamHandleSpec {
    /// The owner, in its own spelling.
    #[serde(rename = "handleID")]
    pub handle_id: String,
    /// By block: how many of its addresses the owner has.
    #[serde(default, deserialize_with = "lenient::null_as_default")]
    pub block: BTreeMap<String, usize>,
    /// The handle is being deleted: whoever reads it finishes that.
    #[serde(
        default,
        deserialize_with = "lenient::flag",
        skip_serializing_if = "lenient::is_false"
    )]
    pub deleted: bool,
    /// What a later Calico may have added.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Name of the object: names have no capitals.
#[must_use]
pub fn handle_name(handle_id: &str) -> String {
    handle_id.to_lowercase()
}
