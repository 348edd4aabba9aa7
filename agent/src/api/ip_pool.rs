//! IPPool.

use std::collections::BTreeSet;

use margay_bgp::prefix::Prefix;
use serde::Deserialize;

use super::{Cidr, Fault, SelectorText};
use crate::model::{AllowedUse, AssignmentMode, Encapsulation, EncapsulationMode, IpPool};

/// `spec` of an IPPool.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpPoolSpec {
    cidr: Cidr,
    #[serde(default)]
    vxlan_mode: Option<Mode>,
    #[serde(default)]
    ipip_mode: Option<Mode>,
    #[serde(default)]
    nat_outgoing: Option<bool>,
    #[serde(default)]
    disabled: Option<bool>,
    #[serde(default, rename = "disableBGPExport")]
    disable_bgp_export: Option<bool>,
    #[serde(default)]
    block_size: Option<i64>,
    #[serde(default)]
    node_selector: Option<SelectorText>,
    #[serde(default)]
    namespace_selector: Option<SelectorText>,
    #[serde(default)]
    allowed_uses: Option<Vec<Use>>,
    #[serde(default)]
    assignment_mode: Option<Assignment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Mode {
    #[serde(alias = "")]
    Never,
    Always,
    CrossSubnet,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Use {
    Workload,
    Tunnel,
    LoadBalancer,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Assignment {
    #[serde(alias = "")]
    Automatic,
    Manual,
}

/// The longest namespace selector Calico's schema admits.
const LONGEST_SELECTOR: usize = 1024;

fn encapsulation(mode: Option<Mode>) -> Option<EncapsulationMode> {
    match mode {
        None | Some(Mode::Never) => None,
        Some(Mode::Always) => Some(EncapsulationMode::Always),
        Some(Mode::CrossSubnet) => Some(EncapsulationMode::CrossSubnet),
    }
}

impl IpPoolSpec {
    /// The pool, or every rule it breaks.
    ///
    /// # Errors
    /// Each fault names its field.
    pub fn check(self, name: &str) -> Result<IpPool, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut fault =
            |field: &str, reason: String| faults.push(Fault::new(format!("spec.{field}"), reason));
        let cidr = self.cidr.prefix;
        let is_v4 = matches!(cidr, Prefix::V4(_));
        if !self.cidr.has_length {
            fault(
                "cidr",
                format!(
                    "{} is an address: write a prefix such as {cidr}",
                    self.cidr.address
                ),
            );
        } else if let Err(reason) = self.cidr.strict() {
            fault("cidr", reason);
        }
        for reserved in ["169.254.0.0/16", "fe80::/10"] {
            if let Ok(reserved) = reserved.parse::<Prefix>()
                && (reserved.contains(cidr) || cidr.contains(reserved))
            {
                fault(
                    "cidr",
                    format!("{cidr} overlaps {reserved}, which is for link-local addresses"),
                );
            }
        }

        let disabled = self.disabled.unwrap_or_default();
        let (least, most, usual) = if is_v4 { (20, 32, 26) } else { (116, 128, 122) };
        let block_size = self.block_size.unwrap_or(usual);
        let block_size = match u8::try_from(block_size) {
            Ok(size) if (least..=most).contains(&block_size) => {
                if size < cidr.len() && !disabled {
                    fault(
                        "blockSize",
                        format!(
                            "a block of /{size} is larger than the pool {cidr}: the pool must hold at least one block"
                        ),
                    );
                }
                size
            }
            _ => {
                fault(
                    "blockSize",
                    format!("{block_size} is not between {least} and {most}"),
                );
                most.try_into().unwrap_or(32)
            }
        };

        let encapsulation = match (
            encapsulation(self.ipip_mode),
            encapsulation(self.vxlan_mode),
        ) {
            (None, None) => Encapsulation::None,
            (Some(mode), None) => {
                if !is_v4 {
                    fault(
                        "ipipMode",
                        format!(
                            "IP-in-IP carries IPv4 only, {cidr} is IPv6: use vxlanMode, or Never"
                        ),
                    );
                }
                Encapsulation::IpIp(mode)
            }
            (None, Some(mode)) => Encapsulation::Vxlan(mode),
            (Some(_), Some(mode)) => {
                fault(
                    "ipipMode",
                    "ipipMode and vxlanMode exclude each other: set one of them to Never"
                        .to_owned(),
                );
                Encapsulation::Vxlan(mode)
            }
        };

        let node_selector = self
            .node_selector
            .and_then(|text| text.0)
            .unwrap_or_default();
        let namespace_selector = self.namespace_selector.and_then(|text| text.0);
        let allowed_uses: BTreeSet<AllowedUse> = match self.allowed_uses {
            Some(uses) if !uses.is_empty() => uses
                .into_iter()
                .map(|name| match name {
                    Use::Workload => AllowedUse::Workload,
                    Use::Tunnel => AllowedUse::Tunnel,
                    Use::LoadBalancer => AllowedUse::LoadBalancer,
                })
                .collect(),
            _ => BTreeSet::from([AllowedUse::Workload, AllowedUse::Tunnel]),
        };
        if let Some(selector) = &namespace_selector {
            if selector.to_string().len() > LONGEST_SELECTOR {
                fault(
                    "namespaceSelector",
                    format!("is longer than {LONGEST_SELECTOR} characters"),
                );
            }
            if selector.uses_global() {
                fault(
                    "namespaceSelector",
                    "global() selects no namespace".to_owned(),
                );
            }
            if allowed_uses == BTreeSet::from([AllowedUse::Tunnel]) {
                fault(
                    "namespaceSelector",
                    "addresses of tunnels have no namespace: remove it, or allow use Workload"
                        .to_owned(),
                );
            }
        }
        let disable_bgp_export = self.disable_bgp_export.unwrap_or_default();
        if allowed_uses.contains(&AllowedUse::LoadBalancer) {
            if allowed_uses.len() > 1 {
                fault(
                    "allowedUses",
                    "LoadBalancer cannot be combined with other uses".to_owned(),
                );
            }
            if encapsulation != Encapsulation::None {
                fault(
                    "allowedUses",
                    "a pool for LoadBalancer cannot be encapsulated".to_owned(),
                );
            }
            if disable_bgp_export {
                fault(
                    "disableBGPExport",
                    "a pool for LoadBalancer must be advertised".to_owned(),
                );
            }
            if !node_selector.is_all() {
                fault(
                    "nodeSelector",
                    "a pool for LoadBalancer is for all() nodes".to_owned(),
                );
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(IpPool {
            name: name.to_owned(),
            cidr,
            encapsulation,
            nat_outgoing: self.nat_outgoing.unwrap_or_default(),
            disabled,
            disable_bgp_export,
            block_size,
            node_selector,
            namespace_selector: namespace_selector.unwrap_or_default(),
            allowed_uses,
            assignment_mode: match self.assignment_mode {
                Some(Assignment::Manual) => AssignmentMode::Manual,
                None | Some(Assignment::Automatic) => AssignmentMode::Automatic,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::read;
    use serde_json::{Value, json};

    fn check(spec: Value) -> Result<IpPool, Vec<Fault>> {
        read::<IpPoolSpec>(&spec, "spec")
            .map_err(|fault| vec![fault])?
            .check("p")
    }

    #[track_caller]
    fn refuse(spec: Value, field: &str, part: &str) {
        let faults = check(spec).unwrap_err();
        assert!(
            faults
                .iter()
                .any(|fault| fault.field.as_deref() == Some(field) && fault.reason.contains(part)),
            "{faults:?}"
        );
    }

    #[test]
    fn defaults_are_calicos() {
        let pool = check(json!({"cidr": "10.0.0.0/16"})).unwrap();
        assert_eq!(
            (pool.block_size, pool.encapsulation, pool.nat_outgoing),
            (26, Encapsulation::None, false)
        );
        assert!(pool.node_selector.is_all() && pool.namespace_selector.is_all());
        assert_eq!(pool.allowed_uses.len(), 2);
        assert_eq!(check(json!({"cidr": "fd00::/48"})).unwrap().block_size, 122);
    }

    #[test]
    fn modes_become_encapsulation() {
        for (spec, want) in [
            (
                json!({"cidr": "10.0.0.0/16", "ipipMode": "Always", "vxlanMode": "Never"}),
                Encapsulation::IpIp(EncapsulationMode::Always),
            ),
            (
                json!({"cidr": "10.0.0.0/16", "ipipMode": "", "vxlanMode": "CrossSubnet"}),
                Encapsulation::Vxlan(EncapsulationMode::CrossSubnet),
            ),
            (
                json!({"cidr": "fd00::/48", "vxlanMode": "Always"}),
                Encapsulation::Vxlan(EncapsulationMode::Always),
            ),
        ] {
            assert_eq!(check(spec).unwrap().encapsulation, want);
        }
    }

    #[test]
    fn what_calico_refuses_is_refused_with_its_field() {
        refuse(json!({}), "spec", "missing field `cidr`");
        refuse(
            json!({"cidr": "10.0.0.1/16"}),
            "spec.cidr",
            "write 10.0.0.0/16",
        );
        refuse(json!({"cidr": "10.0.0.1"}), "spec.cidr", "is an address");
        refuse(json!({"cidr": "ten"}), "spec.cidr", "not a prefix");
        refuse(json!({"cidr": "169.254.1.0/24"}), "spec.cidr", "link-local");
        refuse(json!({"cidr": "0.0.0.0/0"}), "spec.cidr", "link-local");
        refuse(
            json!({"cidr": "10.0.0.0/16", "ipipMode": "Always", "vxlanMode": "Always"}),
            "spec.ipipMode",
            "exclude",
        );
        refuse(
            json!({"cidr": "fd00::/48", "ipipMode": "Always"}),
            "spec.ipipMode",
            "IPv4 only",
        );
        refuse(
            json!({"cidr": "10.0.0.0/16", "ipipMode": "always"}),
            "spec.ipipMode",
            "`CrossSubnet`",
        );
        refuse(
            json!({"cidr": "10.0.0.0/16", "blockSize": 19}),
            "spec.blockSize",
            "between 20 and 32",
        );
        refuse(
            json!({"cidr": "fd00::/48", "blockSize": 64}),
            "spec.blockSize",
            "between 116 and 128",
        );
        refuse(
            json!({"cidr": "10.0.0.0/28"}),
            "spec.blockSize",
            "larger than the pool",
        );
        refuse(
            json!({"cidr": "10.0.0.0/16", "natOutgoing": "yes"}),
            "spec.natOutgoing",
            "boolean",
        );
        refuse(
            json!({"cidr": "10.0.0.0/16", "nodeSelector": "a = b"}),
            "spec.nodeSelector",
            "character 3",
        );
        refuse(
            json!({"cidr": "10.0.0.0/16", "namespaceSelector": "global()"}),
            "spec.namespaceSelector",
            "global()",
        );
        refuse(
            json!({"cidr": "10.0.0.0/16", "namespaceSelector": "has(a)", "allowedUses": ["Tunnel"]}),
            "spec.namespaceSelector",
            "tunnels",
        );
        refuse(
            json!({"cidr": "10.0.0.0/16", "allowedUses": ["LoadBalancer", "Workload"]}),
            "spec.allowedUses",
            "combined",
        );
        refuse(
            json!({"cidr": "10.0.0.0/16", "allowedUses": ["Pods"]}),
            "spec.allowedUses[0]",
            "Pods",
        );
        refuse(
            json!({"cidr": "10.0.0.0/16", "assignmentMode": "auto"}),
            "spec.assignmentMode",
            "auto",
        );
    }

    #[test]
    fn several_faults_are_told_together() {
        let faults = check(json!({"cidr": "10.0.0.1/16", "blockSize": 33, "ipipMode": "Always", "vxlanMode": "Always"})).unwrap_err();
        assert_eq!(faults.len(), 3);
    }

    #[test]
    fn a_small_pool_may_be_disabled() {
        assert!(check(json!({"cidr": "10.0.0.0/28", "disabled": true})).is_ok());
    }

    #[test]
    fn misspelt_fields_are_found() {
        let unknown = crate::api::unknown_fields::<IpPoolSpec>(
            &json!({"cidr": "x", "ipipmode": "Always"}),
            "spec",
        );
        assert_eq!(unknown, ["spec.ipipmode"]);
    }
}
