//! The kinds of object margay knows.

use std::fmt;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $plural:literal, $api:literal, $unsupported:expr;)*) => {
        /// A kind of object.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $variant,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The kind as it stands in `kind:`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Lower-case plural: the directory its objects are written to.
            #[must_use]
            pub const fn plural(self) -> &'static str {
                match self { $(Self::$variant => $plural,)* }
            }

            /// The `apiVersion` of an object margay creates.
            #[must_use]
            pub const fn api_version(self) -> &'static str {
                match self { $(Self::$variant => $api,)* }
            }

            /// For a kind margay recognises but does not act on: what a cluster that has such an object goes without.
            #[must_use]
            pub const fn unsupported(self) -> Option<&'static str> {
                match self { $(Self::$variant => $unsupported,)* }
            }
        }
    };
}

const CALICO: &str = "projectcalico.org/v3";

/// Why a policy kind is listed as unsupported.
const POLICY: Option<&str> =
    Some("network policy is not enforced: traffic it would deny is allowed");
const STAGED: Option<&str> = Some("staged policies are not evaluated");
const SETS: Option<&str> = Some("network sets serve network policy, which is not enforced");

kinds! {
    /// A node: Calico's, or Kubernetes' with Calico's annotations.
    Node, "Node", "nodes", "projectcalico.org/v3", None;
    /// A pool of pod addresses.
    IpPool, "IPPool", "ippools", "projectcalico.org/v3", None;
    /// Addresses not to be assigned.
    IpReservation, "IPReservation", "ipreservations", "projectcalico.org/v3", None;
    /// Settings of BGP.
    BgpConfiguration, "BGPConfiguration", "bgpconfigurations", "projectcalico.org/v3", None;
    /// A peer beside the mesh.
    BgpPeer, "BGPPeer", "bgppeers", "projectcalico.org/v3", None;
    /// A filter for routes.
    BgpFilter, "BGPFilter", "bgpfilters", "projectcalico.org/v3", None;
    /// Settings of the data plane.
    FelixConfiguration, "FelixConfiguration", "felixconfigurations", "projectcalico.org/v3", None;
    /// Settings of IPAM; `IPAMConfig` in the v1 group.
    IpamConfiguration, "IPAMConfiguration", "ipamconfigurations", "projectcalico.org/v3", None;
    /// A block of addresses and who has which.
    IpamBlock, "IPAMBlock", "ipamblocks", "projectcalico.org/v3", None;
    /// A node's claim on a block.
    BlockAffinity, "BlockAffinity", "blockaffinities", "projectcalico.org/v3", None;
    /// Which blocks hold addresses of a handle.
    IpamHandle, "IPAMHandle", "ipamhandles", "projectcalico.org/v3", None;
    /// Facts about the cluster.
    ClusterInformation, "ClusterInformation", "clusterinformations", "projectcalico.org/v3", None;
    /// Settings of Calico's controllers; some hold for margay too.
    KubeControllersConfiguration, "KubeControllersConfiguration", "kubecontrollersconfigurations", "projectcalico.org/v3", None;
    /// A Kubernetes Secret.
    Secret, "Secret", "secrets", "v1", None;
    /// A Kubernetes Namespace.
    Namespace, "Namespace", "namespaces", "v1", None;
    /// Policy for the whole cluster.
    GlobalNetworkPolicy, "GlobalNetworkPolicy", "globalnetworkpolicies", "projectcalico.org/v3", POLICY;
    /// Calico's policy of a namespace.
    NetworkPolicy, "NetworkPolicy", "networkpolicies", "projectcalico.org/v3", POLICY;
    /// Kubernetes' policy of a namespace.
    KubernetesNetworkPolicy, "NetworkPolicy", "networkpolicies.networking.k8s.io", "networking.k8s.io/v1", POLICY;
    /// Kubernetes' policy for the whole cluster.
    ClusterNetworkPolicy, "ClusterNetworkPolicy", "clusternetworkpolicies", "policy.networking.k8s.io/v1alpha2", POLICY;
    /// The older form of the same.
    AdminNetworkPolicy, "AdminNetworkPolicy", "adminnetworkpolicies", "policy.networking.k8s.io/v1alpha1", POLICY;
    /// The older form of the same.
    BaselineAdminNetworkPolicy, "BaselineAdminNetworkPolicy", "baselineadminnetworkpolicies", "policy.networking.k8s.io/v1alpha1", POLICY;
    /// Policy that is only logged.
    StagedGlobalNetworkPolicy, "StagedGlobalNetworkPolicy", "stagedglobalnetworkpolicies", "projectcalico.org/v3", STAGED;
    /// Policy that is only logged.
    StagedNetworkPolicy, "StagedNetworkPolicy", "stagednetworkpolicies", "projectcalico.org/v3", STAGED;
    /// Policy that is only logged.
    StagedKubernetesNetworkPolicy, "StagedKubernetesNetworkPolicy", "stagedkubernetesnetworkpolicies", "projectcalico.org/v3", STAGED;
    /// An order of policies.
    Tier, "Tier", "tiers", "projectcalico.org/v3", Some("tiers order network policy, which is not enforced");
    /// Rules pods inherit.
    Profile, "Profile", "profiles", "projectcalico.org/v3", Some("profiles carry network policy, which is not enforced");
    /// A named set of addresses.
    GlobalNetworkSet, "GlobalNetworkSet", "globalnetworksets", "projectcalico.org/v3", SETS;
    /// A named set of addresses.
    NetworkSet, "NetworkSet", "networksets", "projectcalico.org/v3", SETS;
    /// An interface of a host that policy applies to.
    HostEndpoint, "HostEndpoint", "hostendpoints", "projectcalico.org/v3", Some("host endpoints are not protected");
    /// A pod's interface as Calico's API shows it.
    WorkloadEndpoint, "WorkloadEndpoint", "workloadendpoints", "projectcalico.org/v3", Some("endpoints come from the CNI plugin, not from the datastore");
    /// A request for a report on a node.
    CalicoNodeStatus, "CalicoNodeStatus", "caliconodestatuses", "projectcalico.org/v3", Some("its status is not filled in: ask `margay status`");
}

impl Kind {
    /// The kind an object says it is of. `None` for one margay has nothing to do with, such as a Deployment.
    #[must_use]
    pub fn from_api(api_version: &str, kind: &str) -> Option<Self> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let calico = matches!(group, "projectcalico.org" | "crd.projectcalico.org");
        if calico && kind == "IPAMConfig" {
            return Some(Self::IpamConfiguration);
        }
        Self::ALL.iter().copied().find(|known| {
            let own = known.api_version();
            let own_group = own.split_once('/').map_or("", |(group, _)| group);
            known.as_str() == kind
                && (own_group == group
                    || (calico && own == CALICO)
                    // A Kubernetes Node is a node too.
                    || (*known == Self::Node && group.is_empty()))
        })
    }

    /// Whether an `apiVersion` is one of Calico's, whose kinds are never passed over in silence.
    #[must_use]
    pub fn is_calico(api_version: &str) -> bool {
        matches!(
            api_version.split_once('/'),
            Some(("projectcalico.org" | "crd.projectcalico.org", _))
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_groups_name_the_same_kind() {
        for api in ["projectcalico.org/v3", "crd.projectcalico.org/v1"] {
            assert_eq!(Kind::from_api(api, "IPPool"), Some(Kind::IpPool));
        }
        assert_eq!(
            Kind::from_api("crd.projectcalico.org/v1", "IPAMConfig"),
            Some(Kind::IpamConfiguration)
        );
    }

    #[test]
    fn kubernetes_and_calico_network_policies_are_told_apart() {
        assert_eq!(
            Kind::from_api("networking.k8s.io/v1", "NetworkPolicy"),
            Some(Kind::KubernetesNetworkPolicy)
        );
        assert_eq!(
            Kind::from_api("projectcalico.org/v3", "NetworkPolicy"),
            Some(Kind::NetworkPolicy)
        );
    }

    #[test]
    fn nodes_of_kubernetes_and_calico_are_one_kind() {
        assert_eq!(Kind::from_api("v1", "Node"), Some(Kind::Node));
        assert_eq!(
            Kind::from_api("projectcalico.org/v3", "Node"),
            Some(Kind::Node)
        );
    }

    #[test]
    fn what_is_not_ours_is_no_kind() {
        assert_eq!(Kind::from_api("apps/v1", "Deployment"), None);
        assert_eq!(Kind::from_api("v1", "IPPool"), None);
        assert_eq!(Kind::from_api("example.org/v1", "Secret"), None);
    }

    #[test]
    fn plurals_are_distinct() {
        let plurals: std::collections::BTreeSet<_> =
            Kind::ALL.iter().map(|kind| kind.plural()).collect();
        assert_eq!(plurals.len(), Kind::ALL.len());
    }
}
