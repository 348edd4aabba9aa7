//! IPAMConfiguration (`IPAMConfig` in the v1 group): how blocks are shared out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::IpamSettings;

/// `spec` of the object `default`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IpamConfigurationSpec {
    /// No address of another node's block is ever used.
    pub strict_affinity: bool,
    /// A node may claim blocks by itself.
    pub auto_allocate_blocks: bool,
    /// Blocks a node may hold of one family; zero: the built-in limit.
    pub max_blocks_per_host: i64,
    /// For how long a released address is not used.
    pub ip_cooldown_seconds: Option<i64>,
    /// `Enabled`: a KubeVirt machine keeps its address when it moves.
    #[serde(
        rename = "kubeVirtVMAddressPersistence",
        skip_serializing_if = "Option::is_none"
    )]
    pub kube_virt_vm_address_persistence: Option<String>,
}

impl Default for IpamConfigurationSpec {
    fn default() -> Self {
        Self {
            strict_affinity: false,
            auto_allocate_blocks: true,
            max_blocks_per_host: 0,
            ip_cooldown_seconds: None,
            kube_virt_vm_address_persistence: None,
        }
    }
}

/// Longest cooldown Calico's schema allows.
const MAX_COOLDOWN: i64 = 1200;

impl TryFrom<IpamConfigurationSpec> for IpamSettings {
    /// Field and reason.
    type Error = (&'static str, String);

    fn try_from(spec: IpamConfigurationSpec) -> Result<Self, Self::Error> {
        if !spec.strict_affinity && !spec.auto_allocate_blocks {
            return Err((
                "spec.autoAllocateBlocks",
                "cannot be false while strictAffinity is false".to_owned(),
            ));
        }
        let max_blocks_per_host = usize::try_from(spec.max_blocks_per_host).map_err(|_| {
            (
                "spec.maxBlocksPerHost",
                format!("{} is less than zero", spec.max_blocks_per_host),
            )
        })?;
        let cooldown = spec.ip_cooldown_seconds.unwrap_or_default();
        let cooldown = u64::try_from(cooldown)
            .ok()
            .filter(|_| cooldown <= MAX_COOLDOWN)
            .ok_or_else(|| {
                (
                    "spec.ipCooldownSeconds",
                    format!("{cooldown} is not between 0 and {MAX_COOLDOWN}"),
                )
            })?;
        Ok(Self {
            strict_affinity: spec.strict_affinity,
            auto_allocate_blocks: spec.auto_allocate_blocks,
            max_blocks_per_host,
            cooldown: Duration::from_secs(cooldown),
        })
    }
}
