//! IPAMBlock: a slice of a pool, and whose each of its addresses is.

use std::collections::BTreeMap;

use margay_bgp::prefix::Prefix;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::lenient;

/// `spec` of an IPAMBlock, field by field as Calico writes it. Fields margay does not know are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamBlockSpec {
    /// The block's range.
    #[serde(with = "lenient::text")]
    pub cidr: Prefix,
    /// `host:<node>` or `virtual:<name>`; absent where the block is nobody's.
    #[serde(
        default,
        deserialize_with = "lenient::text_or_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub affinity: Option<String>,
    /// When it was last claimed, RFC 3339.
    #[serde(
        default,
        deserialize_with = "lenient::text_or_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub affinity_claim_time: Option<String>,
    /// One entry an address: null where free, else an index into `attributes`.
    #[serde(default, deserialize_with = "lenient::null_as_default")]
    pub allocations: Vec<Option<usize>>,
    /// Who holds addresses of the block; shared by addresses with the same owner.
    #[serde(default, deserialize_with = "lenient::null_as_default")]
    pub attributes: Vec<AllocationAttribute>,
    /// Free ordinals: assigned from the front, released to the end.
    #[serde(default, deserialize_with = "lenient::null_as_default")]
    pub unallocated: Vec<u32>,
    /// Counts the block's updates, from its creation in nanoseconds since 1970.
    #[serde(default)]
    pub sequence_number: u64,
    /// By ordinal: `sequence_number` when it was assigned.
    #[serde(default, deserialize_with = "lenient::null_as_default")]
    pub sequence_number_for_allocation: BTreeMap<String, u64>,
    /// The block is being deleted: whoever reads it finishes that.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub deleted: bool,
    /// Of no meaning any more; always written false.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub strict_affinity: bool,
    /// What a later Calico may have added.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An owner of addresses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AllocationAttribute {
    /// The owner's handle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle_id: Option<String>,
    /// What is known of the owner: `pod`, `namespace`, `node`, `timestamp`, `type`.
    #[serde(
        default,
        deserialize_with = "lenient::null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub secondary: BTreeMap<String, String>,
    /// When the address was released, while its cooldown lasts; then there is no owner.
    #[serde(
        default,
        rename = "releasedAt",
        deserialize_with = "lenient::text_or_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub released_at: Option<String>,
    /// `alternateOwnerAttrs` and whatever else Calico keeps there.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl AllocationAttribute {
    /// The handle, cut at a carriage return: an old Calico on Windows wrote one into it.
    #[must_use]
    pub fn handle(&self) -> Option<&str> {
        self.handle_id
            .as_deref()
            .map(|handle| handle.split('\r').next().unwrap_or_default())
    }

    /// The node whose pod or tunnel has the address.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.secondary.get("node").map(String::as_str)
    }
}

impl IpamBlockSpec {
    /// The node the block is affine to.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.affinity
            .as_deref()?
            .strip_prefix("host:")
            .filter(|host| !host.is_empty())
    }

    /// Addresses in use, by ordinal. Those that only cool down are not among them.
    pub fn in_use(&self) -> impl Iterator<Item = (u32, &AllocationAttribute)> {
        (0u32..)
            .zip(&self.allocations)
            .filter_map(|(ordinal, index)| Some((ordinal, self.attributes.get((*index)?)?)))
            .filter(|(_, attribute)| attribute.released_at.is_none())
    }
}

/// A prefix as it stands in object names: `10-0-0-0-26`, `fd00--1-0-122`.
#[must_use]
pub fn cidr_name(cidr: Prefix) -> String {
    cidr.to_string().replace(['.', ':', '/'], "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_calicos() {
        let name = |text: &str| cidr_name(text.parse().unwrap());
        assert_eq!(name("10.0.0.0/26"), "10-0-0-0-26");
        assert_eq!(name("fd00::1:0/122"), "fd00--1-0-122");
    }

    #[test]
    fn unknown_fields_survive_a_round_trip() {
        let text = serde_json::json!({
            "cidr": "10.65.0.0/30", "affinity": "host:n1", "affinityClaimTime": "2026-01-02T03:04:05Z",
            "allocations": [0, null, null, 1],
            "attributes": [
                {"handle_id": "h1", "secondary": {"node": "n1"}, "alternateOwnerAttrs": {"pod": "b"}},
                {"releasedAt": "2026-01-02T03:04:05Z"}
            ],
            "unallocated": [1, 2], "sequenceNumber": 1_767_323_045_000_000_001_u64,
            "sequenceNumberForAllocation": {"0": 1_767_323_045_000_000_000_u64},
            "deleted": false, "strictAffinity": false, "somethingNew": {"a": [1]}
        });
        let spec: IpamBlockSpec = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(spec.in_use().count(), 1);
        assert_eq!(spec.host(), Some("n1"));
        assert_eq!(serde_json::to_value(spec).unwrap(), text);
    }

    #[test]
    fn null_lists_and_missing_fields_are_empty() {
        let spec: IpamBlockSpec = serde_json::from_value(serde_json::json!({
            "cidr": "10.65.0.0/32", "affinity": "", "allocations": [null], "attributes": null, "unallocated": [0]
        }))
        .unwrap();
        assert_eq!(spec.affinity, None);
        assert!(spec.attributes.is_empty());
        assert!(!spec.deleted);
    }
}
