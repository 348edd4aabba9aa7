//! BGPFilter.

use margay_bgp::asn::Asn;
use margay_bgp::prefix::Prefix;
use serde::Deserialize;

use super::{AsNumber, Cidr, CommunityText, Fault, Text};
use crate::model::{
    BgpFilter, FilterAction, FilterOperation, FilterPrefix, FilterRule, MatchOperator, PeerType,
};

/// `spec` of a BGPFilter.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpFilterSpec {
    #[serde(default, rename = "exportV4")]
    export_v4: Option<Vec<Rule>>,
    #[serde(default, rename = "importV4")]
    import_v4: Option<Vec<Rule>>,
    #[serde(default, rename = "exportV6")]
    export_v6: Option<Vec<Rule>>,
    #[serde(default, rename = "importV6")]
    import_v6: Option<Vec<Rule>>,
}

// A misspelt condition would make a rule match more than meant, so unknown fields are not passed over here.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    cidr: Option<Cidr>,
    #[serde(default)]
    match_operator: Option<Operator>,
    #[serde(default)]
    prefix_length: Option<Lengths>,
    #[serde(default)]
    source: Option<Source>,
    #[serde(default)]
    interface: Text,
    #[serde(default)]
    peer_type: Option<Type>,
    #[serde(default)]
    communities: Option<Values>,
    #[serde(default)]
    as_path_prefix: Option<Vec<AsNumber>>,
    #[serde(default)]
    priority: Option<u32>,
    action: Action,
    #[serde(default)]
    operations: Option<Vec<Operation>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Operator {
    Equal,
    NotEqual,
    In,
    NotIn,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lengths {
    #[serde(default)]
    min: Option<u8>,
    #[serde(default)]
    max: Option<u8>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Source {
    RemotePeers,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Type {
    #[serde(rename = "eBGP")]
    Ebgp,
    #[serde(rename = "iBGP")]
    Ibgp,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Values {
    #[serde(default)]
    values: Vec<CommunityText>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Action {
    Accept,
    Reject,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Operation {
    #[serde(default)]
    add_community: Option<AddCommunity>,
    #[serde(default, rename = "prependASPath")]
    prepend_as_path: Option<Prepend>,
    #[serde(default)]
    set_priority: Option<SetPriority>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddCommunity {
    value: CommunityText,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Prepend {
    prefix: Vec<AsNumber>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetPriority {
    value: u32,
}

const HIGHEST_PRIORITY: u32 = 2_147_483_646;
const MOST_OPERATIONS: usize = 10;
const LONGEST_INTERFACE: usize = 15;

/// AS numbers none of which may be zero.
fn as_numbers(numbers: Vec<AsNumber>) -> Option<Vec<Asn>> {
    numbers.into_iter().map(|number| number.0).collect()
}

impl Rule {
    fn check(self, at: &str, is_v4: bool, faults: &mut Vec<Fault>) -> FilterRule {
        let mut fault =
            |field: &str, reason: &str| faults.push(Fault::new(format!("{at}.{field}"), reason));
        let prefix = match (self.cidr, self.match_operator) {
            (None, None) => {
                if self.prefix_length.is_some() {
                    fault("prefixLength", "needs cidr and matchOperator");
                }
                None
            }
            (Some(cidr), Some(operator)) => {
                let prefix = cidr.prefix;
                if matches!(prefix, Prefix::V4(_)) != is_v4 {
                    fault(
                        "cidr",
                        "is of the other address family than the list the rule is in",
                    );
                }
                if let Err(reason) = cidr.strict() {
                    fault("cidr", &reason);
                }
                let lengths = self.prefix_length.map(|lengths| {
                    let least = lengths.min.unwrap_or(0).max(prefix.len());
                    let most = lengths
                        .max
                        .unwrap_or_else(|| prefix.max_len())
                        .min(prefix.max_len());
                    (least, most)
                });
                if lengths.is_some_and(|(least, most)| least > most) {
                    fault(
                        "prefixLength",
                        "min is greater than max: no prefix has such a length",
                    );
                }
                Some(FilterPrefix {
                    cidr: prefix,
                    operator: match operator {
                        Operator::Equal => MatchOperator::Equal,
                        Operator::NotEqual => MatchOperator::NotEqual,
                        Operator::In => MatchOperator::In,
                        Operator::NotIn => MatchOperator::NotIn,
                    },
                    lengths,
                })
            }
            (Some(_), None) => {
                fault(
                    "matchOperator",
                    "is required with cidr: Equal, NotEqual, In or NotIn",
                );
                None
            }
            (None, Some(_)) => {
                fault("cidr", "is required with matchOperator");
                None
            }
        };
        if self
            .interface
            .0
            .as_ref()
            .is_some_and(|name| name.len() > LONGEST_INTERFACE)
        {
            fault(
                "interface",
                "is longer than 15 characters, which no interface is",
            );
        }
        let community =
            self.communities
                .and_then(|communities| match communities.values.as_slice() {
                    [only] => Some(only.0),
                    _ => {
                        fault("communities.values", "holds exactly one community");
                        None
                    }
                });
        if self
            .priority
            .is_some_and(|priority| !(1..=HIGHEST_PRIORITY).contains(&priority))
        {
            fault("priority", "is not between 1 and 2147483646");
        }
        let as_path_prefix =
            as_numbers(self.as_path_prefix.unwrap_or_default()).unwrap_or_else(|| {
                fault("asPathPrefix", "AS 0 stands in no path");
                Vec::new()
            });
        let action = match self.action {
            Action::Accept => FilterAction::Accept,
            Action::Reject => FilterAction::Reject,
        };
        let mut operations = Vec::new();
        if let Some(list) = self.operations {
            if action == FilterAction::Reject {
                fault("operations", "are only for rules with action Accept");
            }
            if list.is_empty() || list.len() > MOST_OPERATIONS {
                fault("operations", "holds 1 to 10 operations");
            }
            for (index, operation) in list.into_iter().enumerate() {
                match operation.check() {
                    Ok(operation) => operations.push(operation),
                    Err(reason) => fault(&format!("operations[{index}]"), reason),
                }
            }
        }
        FilterRule {
            action,
            prefix,
            from_remote_peers: matches!(self.source, Some(Source::RemotePeers)),
            interface: self.interface.0,
            peer_type: self.peer_type.map(|kind| match kind {
                Type::Ebgp => PeerType::Ebgp,
                Type::Ibgp => PeerType::Ibgp,
            }),
            community,
            as_path_prefix,
            priority: self.priority,
            operations,
        }
    }
}

impl Operation {
    fn check(self) -> Result<FilterOperation, &'static str> {
        match (self.add_community, self.prepend_as_path, self.set_priority) {
            (Some(add), None, None) => Ok(FilterOperation::AddCommunity(add.value.0)),
            (None, Some(prepend), None) => {
                if prepend.prefix.is_empty() || prepend.prefix.len() > MOST_OPERATIONS {
                    return Err("prependASPath.prefix holds 1 to 10 AS numbers");
                }
                as_numbers(prepend.prefix)
                    .map(FilterOperation::PrependAsPath)
                    .ok_or("AS 0 stands in no path")
            }
            (None, None, Some(set)) => {
                if (1..=HIGHEST_PRIORITY).contains(&set.value) {
                    Ok(FilterOperation::SetPriority(set.value))
                } else {
                    Err("setPriority.value is not between 1 and 2147483646")
                }
            }
            _ => Err("is exactly one of addCommunity, prependASPath and setPriority"),
        }
    }
}

impl BgpFilterSpec {
    /// The filter, or every rule of Calico's it breaks.
    ///
    /// # Errors
    /// Each fault names its field.
    pub fn check(self, name: &str) -> Result<BgpFilter, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut list = |field: &str, is_v4: bool, rules: Option<Vec<Rule>>| -> Vec<FilterRule> {
            rules
                .into_iter()
                .flatten()
                .enumerate()
                .map(|(index, rule)| {
                    rule.check(&format!("spec.{field}[{index}]"), is_v4, &mut faults)
                })
                .collect()
        };
        let filter = BgpFilter {
            name: name.to_owned(),
            export_v4: list("exportV4", true, self.export_v4),
            import_v4: list("importV4", true, self.import_v4),
            export_v6: list("exportV6", false, self.export_v6),
            import_v6: list("importV6", false, self.import_v6),
        };
        if faults.is_empty() {
            Ok(filter)
        } else {
            Err(faults)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::read;
    use crate::model::CommunityValue;
    use serde_json::{Value, json};

    fn check(spec: Value) -> Result<BgpFilter, Vec<Fault>> {
        read::<BgpFilterSpec>(&spec, "spec")
            .map_err(|fault| vec![fault])?
            .check("f")
    }

    #[test]
    fn a_rule_with_everything() {
        let filter = check(json!({"exportV4": [{
            "cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"min": 4, "max": 40}, "source": "RemotePeers",
            "interface": "eth*", "peerType": "eBGP", "communities": {"values": ["1:2"]}, "asPathPrefix": [65000, "1.1"], "priority": 1024,
            "action": "Accept",
            "operations": [{"addCommunity": {"value": "1:2:3"}}, {"prependASPath": {"prefix": [1, 2]}}, {"setPriority": {"value": 512}}],
        }]}))
        .unwrap();
        let rule = &filter.export_v4[0];
        let prefix = rule.prefix.unwrap();
        assert_eq!(
            (prefix.operator, prefix.lengths),
            (MatchOperator::In, Some((8, 32)))
        );
        assert!(rule.from_remote_peers);
        assert_eq!(rule.peer_type, Some(PeerType::Ebgp));
        assert_eq!(rule.community, Some(CommunityValue::Standard(1, 2)));
        assert_eq!(rule.as_path_prefix, [Asn(65000), Asn(65537)]);
        assert_eq!(rule.operations.len(), 3);
    }

    #[test]
    fn what_calico_refuses_is_refused_with_its_field() {
        for (rule, field) in [
            (json!({}), "spec.importV6[0]"),
            (json!({"action": "Drop"}), "spec.importV6[0].action"),
            (
                json!({"action": "Accept", "cidr": "fd00::/8"}),
                "spec.importV6[0].matchOperator",
            ),
            (
                json!({"action": "Accept", "matchOperator": "In"}),
                "spec.importV6[0].cidr",
            ),
            (
                json!({"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In"}),
                "spec.importV6[0].cidr",
            ),
            (
                json!({"action": "Accept", "cidr": "fd00::1/8", "matchOperator": "In"}),
                "spec.importV6[0].cidr",
            ),
            (
                json!({"action": "Accept", "prefixLength": {"min": 1}}),
                "spec.importV6[0].prefixLength",
            ),
            (
                json!({"action": "Accept", "cidr": "fd00::/64", "matchOperator": "In", "prefixLength": {"max": 8}}),
                "spec.importV6[0].prefixLength",
            ),
            (
                json!({"action": "Accept", "interface": "a".repeat(16)}),
                "spec.importV6[0].interface",
            ),
            (
                json!({"action": "Accept", "communities": {"values": []}}),
                "spec.importV6[0].communities.values",
            ),
            (
                json!({"action": "Accept", "priority": 0}),
                "spec.importV6[0].priority",
            ),
            (
                json!({"action": "Reject", "operations": [{"setPriority": {"value": 1}}]}),
                "spec.importV6[0].operations",
            ),
            (
                json!({"action": "Accept", "operations": []}),
                "spec.importV6[0].operations",
            ),
            (
                json!({"action": "Accept", "operations": [{}]}),
                "spec.importV6[0].operations[0]",
            ),
            (
                json!({"action": "Accept", "comunities": {"values": ["1:2"]}}),
                "spec.importV6[0].comunities",
            ),
        ] {
            let faults = check(json!({"importV6": [rule.clone()]})).unwrap_err();
            assert_eq!(
                faults[0].field.as_deref(),
                Some(field),
                "{rule}: {faults:?}"
            );
        }
    }
}
