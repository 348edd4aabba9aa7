//! IPReservation: addresses automatic assignment passes over.

use serde::{Deserialize, Serialize};

use super::lenient;

/// `spec` of an IPReservation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpReservationSpec {
    /// Prefixes and single addresses.
    #[serde(
        default,
        rename = "reservedCIDRs",
        deserialize_with = "lenient::null_as_default"
    )]
    pub reserved_cidrs: Vec<String>,
}
