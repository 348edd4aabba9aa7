//! One object to one part of the model, or the reasons why not.
//!
//! Conversion looks at the object alone: what needs a second object (a block's owner, overlapping pools, settings of a node over
//! those of the cluster) is joined in [`super::objects`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_bgp::prefix::Prefix;
use serde::de::DeserializeOwned;

use crate::api::bgp_configuration::{BgpConfigurationSpec, NODE_FIELDS, PartialBgp};
use crate::api::bgp_filter::BgpFilterSpec;
use crate::api::bgp_peer::BgpPeerSpec;
use crate::api::block_affinity::{AffinityState, AffinityType, BlockAffinitySpec};
use crate::api::cluster_information::ClusterInformationSpec;
use crate::api::felix_configuration::{PartialFelix, read_felix};
use crate::api::ip_pool::IpPoolSpec;
use crate::api::ip_reservation::IpReservationSpec;
use crate::api::ipam_block::IpamBlockSpec;
use crate::api::ipam_config::IpamConfigurationSpec;
use crate::api::{Cidr, Fault, labels, margay_annotations, node, read, secret, unknown_fields};
use crate::datastore::{Kind, Object};
use crate::model::{BgpFilter, BgpPeer, IpPool, IpamSettings, Labels, Node, SecretValue};

/// What an object says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    Node(Box<Node>),
    Pool(Box<IpPool>),
    Block(BlockUse),
    /// A confirmed affinity of a node.
    Affinity {
        cidr: Prefix,
        node: String,
    },
    Bgp(Box<PartialBgp>),
    Peer(Box<BgpPeer>),
    Filter(Box<BgpFilter>),
    Felix(PartialFelix),
    Cluster {
        ready: bool,
    },
    Secret(BTreeMap<String, SecretValue>),
    Namespace(Labels),
    Reservation(Vec<Prefix>),
    /// Of IPAMConfiguration `default`; there is no other.
    Ipam(IpamSettings),
    /// Nothing routing needs to know, such as a pending affinity.
    Nothing,
}

/// A block and which nodes use its addresses.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BlockUse {
    pub(super) cidr: Prefix,
    pub(super) host: Option<String>,
    /// Addresses in use on the host itself; they matter while it is not the confirmed owner.
    pub(super) own: Vec<IpAddr>,
    /// Addresses in use elsewhere.
    pub(super) elsewhere: BTreeMap<IpAddr, String>,
    /// How many are in use, those without a node too.
    pub(super) allocated: usize,
}

/// The outcome for one object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Converted {
    pub(super) part: Part,
    /// Why it, or one of its fields, counts as absent.
    pub(super) faults: Vec<Fault>,
    /// Fields that have no effect, with the reason; an empty field stands for the whole object.
    pub(super) idle: Vec<(String, String)>,
}

const UNKNOWN: &str = "is not a field of this kind: it has no effect";

/// Whether routing needs objects of a kind at all. Others are neither kept nor saved.
pub(super) fn is_needed(kind: Kind) -> bool {
    !matches!(kind, Kind::IpamHandle | Kind::KubeControllersConfiguration)
}

/// Says what an object means.
pub(super) fn convert(object: &Object) -> Converted {
    let mut out = Converted {
        part: Part::Nothing,
        faults: Vec::new(),
        idle: Vec::new(),
    };
    if let Some(reason) = object.kind.unsupported() {
        if !is_of_every_cluster(object) {
            out.idle.push((String::new(), reason.to_owned()));
        }
        return out;
    }
    let annotations = labels(&object.value, "annotations");
    let margay = margay_annotations(&annotations);
    let result = match object.kind {
        Kind::Node => {
            let (node, faults) = node::read_node(&object.name, &object.value);
            out.faults = faults;
            Ok(Part::Node(Box::new(node)))
        }
        Kind::IpPool => spec::<IpPoolSpec>(object, &mut out)
            .and_then(|spec| spec.check(&object.name))
            .map(|pool| Part::Pool(Box::new(pool))),
        Kind::BgpConfiguration => bgp_configuration(object, margay, &mut out),
        Kind::BgpPeer => spec::<BgpPeerSpec>(object, &mut out)
            .and_then(|spec| spec.check(&object.name, margay))
            .map(|peer| Part::Peer(Box::new(peer))),
        Kind::BgpFilter => spec::<BgpFilterSpec>(object, &mut out)
            .and_then(|spec| spec.check(&object.name))
            .map(|filter| Part::Filter(Box::new(filter))),
        Kind::FelixConfiguration => {
            let (felix, faults, idle) = read_felix(&object.value);
            out.faults = faults;
            out.idle
                .extend(idle.into_iter().map(|(field, reason)| (field, reason.to_owned())));
            Ok(Part::Felix(felix))
        }
        Kind::ClusterInformation => read::<ClusterInformationSpec>(object.spec(), "spec")
            .map(|spec| Part::Cluster {
                ready: object.name != "default" || spec.datastore_ready.unwrap_or(true),
            })
            .map_err(|fault| vec![fault]),
        Kind::IpamBlock => block(object),
        Kind::BlockAffinity => affinity(object),
        Kind::IpReservation => reservation(object),
        Kind::IpamConfiguration => ipam_configuration(object, &mut out),
        Kind::Secret => secret::values(&object.value).map(Part::Secret),
        Kind::Namespace => {
            let mut labels = labels(&object.value, "labels");
            labels.insert("projectcalico.org/name".to_owned(), object.name.clone());
            Ok(Part::Namespace(labels))
        }
        // Read by those who need them, where they need them.
        Kind::IpamHandle
        | Kind::KubeControllersConfiguration
        // Told above.
        | Kind::GlobalNetworkPolicy
        | Kind::NetworkPolicy
        | Kind::KubernetesNetworkPolicy
        | Kind::ClusterNetworkPolicy
        | Kind::AdminNetworkPolicy
        | Kind::BaselineAdminNetworkPolicy
        | Kind::StagedGlobalNetworkPolicy
        | Kind::StagedNetworkPolicy
        | Kind::StagedKubernetesNetworkPolicy
        | Kind::Tier
        | Kind::Profile
        | Kind::GlobalNetworkSet
        | Kind::NetworkSet
        | Kind::HostEndpoint
        | Kind::WorkloadEndpoint
        | Kind::CalicoNodeStatus => Ok(Part::Nothing),
    };
    match result {
        Ok(part) => out.part = part,
        Err(faults) => out.faults.extend(faults),
    }
    out
}

/// Objects Calico makes in every cluster, which ask for nothing by themselves.
fn is_of_every_cluster(object: &Object) -> bool {
    let name = object.name.as_str();
    if object.kind == Kind::Tier {
        ["default", "kube-admin", "kube-baseline"].contains(&name)
    } else {
        object.kind == Kind::Profile
            && (name == "projectcalico-default-allow"
                || name.starts_with("kns.")
                || name.starts_with("ksa."))
    }
}

/// Reads `spec`, and notes the fields it has too many.
fn spec<T: DeserializeOwned>(object: &Object, out: &mut Converted) -> Result<T, Vec<Fault>> {
    out.idle.extend(
        unknown_fields::<T>(object.spec(), "spec")
            .into_iter()
            .map(|field| (field, UNKNOWN.to_owned())),
    );
    read(object.spec(), "spec").map_err(|fault| vec![fault])
}

fn bgp_configuration(
    object: &Object,
    margay: Labels,
    out: &mut Converted,
) -> Result<Part, Vec<Fault>> {
    let of_node = object.name.starts_with("node.");
    if object.name != "default" && !of_node {
        out.idle.push((
            String::new(),
            "a BGPConfiguration is named `default` or `node.<node>`: this one has no effect"
                .to_owned(),
        ));
        return Ok(Part::Nothing);
    }
    let checked = spec::<BgpConfigurationSpec>(object, out)?.check(margay)?;
    if of_node {
        for field in object
            .spec()
            .as_object()
            .into_iter()
            .flat_map(|spec| spec.keys())
        {
            let field_name = format!("spec.{field}");
            if !NODE_FIELDS.contains(&field.as_str())
                && !out.idle.iter().any(|(known, _)| *known == field_name)
            {
                out.idle.push((
                    field_name,
                    "has no effect for one node: set it in BGPConfiguration default".to_owned(),
                ));
            }
        }
    }
    Ok(Part::Bgp(Box::new(checked)))
}

fn block(object: &Object) -> Result<Part, Vec<Fault>> {
    let spec: IpamBlockSpec = read(object.spec(), "spec").map_err(|fault| vec![fault])?;
    if spec.deleted {
        return Ok(Part::Nothing);
    }
    let host = spec.host().map(str::to_owned);
    let mut own = Vec::new();
    let mut elsewhere = BTreeMap::new();
    for (ordinal, attribute) in spec.in_use() {
        let Some(node) = attribute.node() else {
            // Reserved ordinals and the like are nobody's to route.
            continue;
        };
        let address = nth(spec.cidr, ordinal).ok_or_else(|| {
            vec![Fault::new(
                format!("spec.allocations[{ordinal}]"),
                format!("lies outside {}", spec.cidr),
            )]
        })?;
        if host.as_deref() == Some(node) {
            own.push(address);
        } else {
            elsewhere.insert(address, node.to_owned());
        }
    }
    Ok(Part::Block(BlockUse {
        cidr: spec.cidr,
        host,
        own,
        elsewhere,
        allocated: spec.in_use().count(),
    }))
}

/// The address at an ordinal of a block.
fn nth(cidr: Prefix, ordinal: u32) -> Option<IpAddr> {
    let address = match cidr.addr() {
        IpAddr::V4(base) => IpAddr::V4(u32::from(base).checked_add(ordinal)?.into()),
        IpAddr::V6(base) => IpAddr::V6(u128::from(base).checked_add(ordinal.into())?.into()),
    };
    cidr.contains_addr(address).then_some(address)
}

fn affinity(object: &Object) -> Result<Part, Vec<Fault>> {
    let spec: BlockAffinitySpec = read(object.spec(), "spec").map_err(|fault| vec![fault])?;
    let counts = spec.state == AffinityState::Confirmed
        && spec.affinity_type == AffinityType::Host
        && !spec.deleted;
    Ok(if counts {
        Part::Affinity {
            cidr: spec.cidr,
            node: spec.node,
        }
    } else {
        Part::Nothing
    })
}

fn ipam_configuration(object: &Object, out: &mut Converted) -> Result<Part, Vec<Fault>> {
    if object.name != "default" {
        out.idle.push((
            String::new(),
            "only the IPAMConfiguration named default is heeded".to_owned(),
        ));
        return Ok(Part::Nothing);
    }
    let spec: IpamConfigurationSpec = spec(object, out)?;
    if spec.kube_virt_vm_address_persistence.as_deref() == Some("Enabled") {
        out.idle.push((
            "spec.kubeVirtVMAddressPersistence".to_owned(),
            "is not done: a machine that moves gets another address".to_owned(),
        ));
    }
    IpamSettings::try_from(spec)
        .map(Part::Ipam)
        .map_err(|(field, reason)| vec![Fault::new(field, reason)])
}

fn reservation(object: &Object) -> Result<Part, Vec<Fault>> {
    let spec: IpReservationSpec = read(object.spec(), "spec").map_err(|fault| vec![fault])?;
    let mut faults = Vec::new();
    let mut prefixes = Vec::new();
    for (index, text) in spec.reserved_cidrs.iter().enumerate() {
        match Cidr::parse(text.trim()) {
            Ok(cidr) => prefixes.push(cidr.prefix),
            Err(reason) => faults.push(Fault::new(format!("spec.reservedCIDRs[{index}]"), reason)),
        }
    }
    if faults.is_empty() {
        Ok(Part::Reservation(prefixes))
    } else {
        Err(faults)
    }
}
