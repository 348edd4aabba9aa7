//! ClusterInformation.

use serde::Deserialize;

use super::Text;

/// `spec` of ClusterInformation `default`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterInformationSpec {
    /// Identity of the cluster, 32 hexadecimal digits.
    #[serde(default, rename = "clusterGUID")]
    pub cluster_guid: Text,
    /// What the cluster is, such as `k8s,bgp,kdd`.
    #[serde(default)]
    pub cluster_type: Text,
    /// Version that wrote it last.
    #[serde(default)]
    pub calico_version: Text,
    /// False while the datastore is being migrated: no pod is added or removed.
    #[serde(default)]
    pub datastore_ready: Option<bool>,
    /// Edition.
    #[serde(default)]
    pub variant: Text,
}
