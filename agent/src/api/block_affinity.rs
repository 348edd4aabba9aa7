//! BlockAffinity: a node's claim on a block.

use std::fmt::Write as _;

use margay_bgp::prefix::Prefix;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use sha3::Sha3_256;

use super::ipam_block::cidr_name;
use super::lenient;

/// How far a claim has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AffinityState {
    /// The block is the node's, and is routed to it.
    #[default]
    #[serde(alias = "")]
    Confirmed,
    /// The node is about to take the block.
    Pending,
    /// The node is about to leave the block.
    PendingDeletion,
}

/// Who claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AffinityType {
    /// A node.
    #[default]
    #[serde(alias = "")]
    Host,
    /// Something else, such as the addresses of load balancers.
    Virtual,
}

impl AffinityType {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Virtual => "virtual",
        }
    }
}

/// `spec` of a BlockAffinity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockAffinitySpec {
    /// How far the claim has come.
    #[serde(default, deserialize_with = "lenient::null_as_default")]
    pub state: AffinityState,
    /// The node, or what else claims.
    pub node: String,
    /// Whether it is a node.
    #[serde(
        default,
        rename = "type",
        deserialize_with = "lenient::null_as_default"
    )]
    pub affinity_type: AffinityType,
    /// The block.
    #[serde(with = "lenient::text")]
    pub cidr: Prefix,
    /// The claim is being deleted. Text in `crd.projectcalico.org/v1`.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub deleted: bool,
    /// What a later Calico may have added.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl BlockAffinitySpec {
    /// A node's claim that has just begun.
    #[must_use]
    pub fn pending(node: &str, cidr: Prefix) -> Self {
        Self {
            state: AffinityState::Pending,
            node: node.to_owned(),
            affinity_type: AffinityType::Host,
            cidr,
            deleted: false,
            other: Map::new(),
        }
    }

    /// The claim is that of a node.
    #[must_use]
    pub fn is_of(&self, node: &str) -> bool {
        self.affinity_type == AffinityType::Host && self.node == node
    }

    /// The claim as `spec` of an object of an `apiVersion`.
    ///
    /// # Errors
    /// Never: there is nothing in it JSON cannot say.
    pub fn to_spec(&self, api_version: &str) -> serde_json::Result<Value> {
        let mut spec = serde_json::to_value(self)?;
        if api_version.starts_with("crd.projectcalico.org/")
            && let Some(fields) = spec.as_object_mut()
        {
            fields.insert("deleted".to_owned(), Value::from(self.deleted.to_string()));
        }
        Ok(spec)
    }

    /// The labels by which Calico finds claims of a node.
    #[must_use]
    pub fn labels(&self) -> [(&'static str, String); 3] {
        [
            (
                "projectcalico.org/hostname-hash",
                base32(&Sha3_256::digest(self.node.as_bytes())),
            ),
            (
                "projectcalico.org/affinity-type",
                self.affinity_type.as_str().to_owned(),
            ),
            (
                "projectcalico.org/ip-version",
                if self.cidr.addr().is_ipv4() { "4" } else { "6" }.to_owned(),
            ),
        ]
    }

    /// Name of the object.
    #[must_use]
    pub fn object_name(&self) -> String {
        affinity_name(&self.node, self.cidr)
    }
}

/// Name of the BlockAffinity of a node and a block. Names of nodes may be as long as names of objects; one that would not fit is cut
/// and told apart by a digest.
#[must_use]
pub fn affinity_name(node: &str, cidr: Prefix) -> String {
    let cidr = cidr_name(cidr);
    let name = format!("{node}-{cidr}");
    if name.len() < MAX_NAME {
        return name;
    }
    let mut digest = String::new();
    for octet in Sha256::digest(format!("{node}{cidr}").as_bytes()) {
        // Writing to a String does not fail.
        let _ = write!(digest, "{octet:02x}");
    }
    digest.truncate(11);
    let mut keep = (MAX_NAME - 1).saturating_sub(cidr.len() + 13);
    while !node.is_char_boundary(keep) {
        keep -= 1;
    }
    format!("{}-{cidr}-{digest}", node.get(..keep).unwrap_or_default())
}

/// Longest name of a Kubernetes object.
const MAX_NAME: usize = 253;

/// RFC 4648 §6, without padding.
fn base32(octets: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digit = |value: u32| {
        let index = usize::from((value & 31) as u8);
        char::from(ALPHABET.get(index).copied().unwrap_or_default())
    };
    let mut text = String::with_capacity(octets.len() * 8 / 5 + 1);
    let (mut pending, mut bits) = (0u32, 0u32);
    for octet in octets {
        pending = (pending << 8) | u32::from(*octet);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(digit(pending >> bits));
        }
        pending &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(digit(pending << (5 - bits)));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cidr(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn base32_is_that_of_the_rfc() {
        for (octets, text) in [
            ("", ""),
            ("f", "MY"),
            ("fo", "MZXQ"),
            ("foo", "MZXW6"),
            ("foob", "MZXW6YQ"),
            ("fooba", "MZXW6YTB"),
            ("foobar", "MZXW6YTBOI"),
        ] {
            assert_eq!(base32(octets.as_bytes()), text);
        }
    }

    #[test]
    fn labels_are_those_calico_lists_by() {
        let labels = BlockAffinitySpec::pending("", cidr("fd00::/122")).labels();
        // SHA3-256 of nothing is a7ffc6f8bf1ed766…, FIPS 202.
        assert!(labels[0].1.starts_with("U774N6F7D3LWM"));
        assert_eq!(labels[0].1.len(), 52);
        assert_eq!(
            labels[1],
            ("projectcalico.org/affinity-type", "host".to_owned())
        );
        assert_eq!(labels[2], ("projectcalico.org/ip-version", "6".to_owned()));
    }

    #[test]
    fn names_that_fit_are_plain_and_longer_ones_are_cut_and_digested() {
        assert_eq!(affinity_name("n1", cidr("10.65.0.0/26")), "n1-10-65-0-0-26");
        let long = "a".repeat(250);
        let name = affinity_name(&long, cidr("10.65.0.0/26"));
        assert_eq!(name.len(), 252);
        assert!(name.contains("a-10-65-0-0-26-"));
        assert_ne!(name, affinity_name(&"a".repeat(251), cidr("10.65.0.0/26")));
    }

    #[test]
    fn deleted_is_text_in_v1_and_a_flag_in_v3() {
        let spec = BlockAffinitySpec::pending("n1", cidr("10.65.0.0/26"));
        assert_eq!(
            spec.to_spec("crd.projectcalico.org/v1").unwrap(),
            json!({"state": "pending", "node": "n1", "type": "host", "cidr": "10.65.0.0/26", "deleted": "false"})
        );
        assert_eq!(
            spec.to_spec("projectcalico.org/v3").unwrap()["deleted"],
            json!(false)
        );
        for deleted in [json!("true"), json!(true)] {
            let read: BlockAffinitySpec = serde_json::from_value(
                json!({"state": "", "node": "n1", "cidr": "10.65.0.0/26", "deleted": deleted}),
            )
            .unwrap();
            assert!(read.deleted);
            assert_eq!(read.state, AffinityState::Confirmed);
        }
    }
}
