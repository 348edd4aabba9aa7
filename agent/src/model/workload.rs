//! The pods of this node.

use std::net::IpAddr;
use std::path::PathBuf;

use super::Labels;

/// One interface of one container, as CNI names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadKey {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`: the interface's name inside the pod.
    pub ifname: String,
}

/// A pod's interface on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// What CNI knows it by.
    pub key: WorkloadKey,
    /// The pod's namespace; empty where CNI was not told.
    pub namespace: String,
    /// The pod's name; empty where CNI was not told.
    pub pod: String,
    /// The pod's labels where known, for selectors over local pods.
    pub labels: Labels,
    /// The host's end of the veth.
    pub host_interface: String,
    /// The pod's addresses; each gets a route.
    pub addresses: Vec<IpAddr>,
    /// Path of the pod's network namespace.
    pub netns: PathBuf,
    /// The handle under which IPAM recorded the addresses.
    pub handle_id: String,
}
