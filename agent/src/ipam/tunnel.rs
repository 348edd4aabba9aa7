//! Addresses of tunnel devices: recorded under a handle of the node, and written on the Node object where other nodes read them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_bgp::family::Family;
use margay_bgp::prefix::Prefix;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::engine::{Engine, Release};
use super::store::{ATTEMPTS, Records, is_race};
use super::{AssignRequest, IpamError, ReleaseAddress, TunnelKind};
use crate::datastore::{Kind, Object, StoreError};
use crate::model::{AllowedUse, ClusterState, Encapsulation, IpPool, Labels};

impl TunnelKind {
    /// The family of its addresses.
    #[must_use]
    pub const fn family(self) -> Family {
        match self {
            Self::IpIp | Self::VxlanV4 => Family::IPV4_UNICAST,
            Self::VxlanV6 => Family::IPV6_UNICAST,
        }
    }

    /// The handle under which a node's address is recorded.
    #[must_use]
    pub fn handle_id(self, node: &str) -> String {
        let prefix = match self {
            Self::IpIp => "ipip-tunnel-addr",
            Self::VxlanV4 => "vxlan-tunnel-addr",
            Self::VxlanV6 => "vxlan-v6-tunnel-addr",
        };
        format!("{prefix}-{node}")
    }

    /// The record's attribute `type`.
    #[must_use]
    pub const fn attribute(self) -> &'static str {
        match self {
            Self::IpIp => "ipipTunnelAddress",
            Self::VxlanV4 => "vxlanTunnelAddress",
            Self::VxlanV6 => "vxlanV6TunnelAddress",
        }
    }

    /// The annotation of a Kubernetes Node.
    const fn annotation(self) -> &'static str {
        match self {
            Self::IpIp => "projectcalico.org/IPv4IPIPTunnelAddr",
            Self::VxlanV4 => "projectcalico.org/IPv4VXLANTunnelAddr",
            Self::VxlanV6 => "projectcalico.org/IPv6VXLANTunnelAddr",
        }
    }

    /// Path of the field in Calico's Node.
    const fn field(self) -> &'static [&'static str] {
        match self {
            Self::IpIp => &["spec", "bgp", "ipv4IPIPTunnelAddr"],
            Self::VxlanV4 => &["spec", "ipv4VXLANTunnelAddr"],
            Self::VxlanV6 => &["spec", "ipv6VXLANTunnelAddr"],
        }
    }

    fn path(self, node: &Object) -> Vec<&'static str> {
        let of_calico = node
            .value
            .get("apiVersion")
            .and_then(Value::as_str)
            .is_some_and(|version| version.contains("projectcalico.org/"));
        if of_calico {
            self.field().to_vec()
        } else {
            vec!["metadata", "annotations", self.annotation()]
        }
    }

    /// What the Node object says now. What does not parse counts as absent.
    fn read(self, node: &Object) -> Option<IpAddr> {
        let mut value = &node.value;
        for step in self.path(node) {
            value = value.get(step)?;
        }
        let text = value.as_str()?;
        text.parse()
            .ok()
            .or_else(|| text.split_once('/')?.0.parse().ok())
    }

    fn write(self, node: &mut Object, address: Option<IpAddr>) {
        let path = self.path(node);
        let Some((last, steps)) = path.split_last() else {
            return;
        };
        let mut value = &mut node.value;
        for step in steps {
            let Some(fields) = value.as_object_mut() else {
                return;
            };
            let next = fields.entry(*step).or_insert_with(|| json!({}));
            if next.is_null() {
                *next = json!({});
            }
            value = next;
        }
        if let Some(fields) = value.as_object_mut() {
            match address {
                Some(address) => {
                    fields.insert((*last).to_owned(), Value::from(address.to_string()));
                }
                None => {
                    fields.remove(*last);
                }
            }
        }
    }

    /// The pools whose packets travel through such a tunnel: while there is one, its pods' packets need the address, whether or not
    /// the pool gives any more.
    fn serving(self, cluster: &ClusterState) -> impl Iterator<Item = &IpPool> {
        cluster.pools.values().filter(move |pool| {
            let encapsulated = match pool.encapsulation {
                Encapsulation::None => false,
                Encapsulation::IpIp(_) => self == Self::IpIp,
                Encapsulation::Vxlan(_) => self != Self::IpIp,
            };
            encapsulated && pool.cidr.family() == self.family()
        })
    }

    /// Those of them that may give this node a new address.
    fn giving(self, cluster: &ClusterState, node: &str) -> Vec<Prefix> {
        let no_labels = Labels::new();
        let labels = cluster
            .nodes
            .get(node)
            .map_or(&no_labels, |node| &node.labels);
        self.serving(cluster)
            .filter(|pool| {
                !pool.disabled
                    && pool.allowed_uses.contains(&AllowedUse::Tunnel)
                    && pool.node_selector.matches(labels)
            })
            .map(|pool| pool.cidr)
            .collect()
    }
}

/// Whose the address on the Node object is.
enum Standing {
    /// Ours, as it should be.
    Good,
    /// Nobody's, or ours in a pool that no longer serves: what our handle holds is released first.
    Stale,
    /// Somebody else's: nothing of it is touched.
    Foreign,
    /// Recorded without handle and attributes by a very old Calico: recorded anew under our handle, the same address.
    Ancient,
}

impl<R: Records> Engine<R> {
    pub(super) async fn tunnel(&mut self, kind: TunnelKind) -> Result<Option<IpAddr>, IpamError> {
        let cluster = self.state()?;
        self.sync().await?;
        let serving: Vec<Prefix> = kind.serving(&cluster).map(|pool| pool.cidr).collect();
        let handle_id = kind.handle_id(&self.node);
        let node = self.node_object().await?;
        let current = kind.read(&node);
        if serving.is_empty() {
            // The annotation goes first: other nodes must not send to an address that is somebody else's already.
            if current.is_some() {
                self.write_node(kind, None).await?;
                info!(?kind, "the tunnel address is no longer needed");
            }
            self.release_one(Release::Handle(handle_id)).await?;
            return Ok(None);
        }
        let mut specific = None;
        if let Some(address) = current {
            match self.standing(kind, address, &serving).await? {
                Standing::Good => return Ok(Some(address)),
                Standing::Stale => {
                    self.release_one(Release::Handle(handle_id.clone())).await?;
                }
                Standing::Foreign => {
                    warn!(?kind, %address, "the node's tunnel address is recorded as somebody else's: taking another");
                }
                // Without a pool to record it anew from, the old record stays.
                Standing::Ancient if kind.giving(&cluster, &self.node).is_empty() => {
                    return Ok(Some(address));
                }
                Standing::Ancient => {
                    self.release_one(Release::Addresses(vec![ReleaseAddress {
                        address,
                        handle_id: None,
                        sequence_number: None,
                    }]))
                    .await?;
                    specific = Some(address);
                }
            }
        }
        let pools = kind.giving(&cluster, &self.node);
        if pools.is_empty() {
            // Nothing new is to be had. What is recorded for this node already serves on, such as after somebody wrote the Node anew.
            let held = self.held(&handle_id).await?;
            let kept = held
                .into_iter()
                .find(|address| serving.iter().any(|pool| pool.contains_addr(*address)));
            if kept.is_some() && kept != current {
                self.write_node(kind, kept).await?;
            }
            return Ok(kept);
        }
        let ipv4 = usize::from(kind.family() == Family::IPV4_UNICAST && specific.is_none());
        let ipv6 = usize::from(kind.family() == Family::IPV6_UNICAST && specific.is_none());
        let names: Vec<String> = pools.iter().map(ToString::to_string).collect();
        let assigned = self
            .assign_one(AssignRequest {
                attributes: BTreeMap::from([
                    ("node".to_owned(), self.node.clone()),
                    ("type".to_owned(), kind.attribute().to_owned()),
                ]),
                ipv4_pools: names.clone(),
                ipv6_pools: names,
                ipv4,
                ipv6,
                intended_use: AllowedUse::Tunnel,
                specific: specific.into_iter().collect(),
                ..AssignRequest::for_pod(handle_id.clone(), BTreeMap::new(), false, false)
            })
            .await?;
        let Some(assigned) = assigned.first() else {
            return Ok(None);
        };
        if let Err(error) = self.write_node(kind, Some(assigned.address)).await {
            // What no other node can learn of must not stay recorded; if this fails too, the next call finds it by the handle.
            if let Err(error) = self.release_one(Release::Handle(handle_id)).await {
                warn!(?kind, %error, "a tunnel address that could not be announced stays recorded for now");
            }
            return Err(error);
        }
        info!(?kind, address = %assigned.address, "tunnel address assigned");
        Ok(Some(assigned.address))
    }

    /// The addresses of a handle.
    async fn held(&self, handle_id: &str) -> Result<Vec<IpAddr>, IpamError> {
        let mut held = Vec::new();
        let Some(handle) = self.store.handle(handle_id).await? else {
            return Ok(held);
        };
        for cidr in handle
            .spec
            .block
            .keys()
            .filter_map(|cidr| cidr.parse().ok())
        {
            if let Some(stored) = self.store.block(cidr).await? {
                held.extend(stored.spec.of_handle(handle_id));
            }
        }
        Ok(held)
    }

    async fn release_one(&mut self, release: Release) -> Result<(), IpamError> {
        self.release(vec![release])
            .await
            .into_iter()
            .try_for_each(|result| result.map(|_| ()))
    }

    async fn standing(
        &self,
        kind: TunnelKind,
        address: IpAddr,
        pools: &[Prefix],
    ) -> Result<Standing, IpamError> {
        let Some(cidr) = self.block_of(address).await? else {
            return Ok(Standing::Stale);
        };
        // Read anew: somebody may have changed the record since it was cached.
        let Some(stored) = self.store.block(cidr).await? else {
            return Ok(Standing::Stale);
        };
        let in_pool = pools.iter().any(|pool| pool.contains_addr(address));
        let found = stored
            .spec
            .allocations()
            .find(|allocation| allocation.address == address)
            .map(|allocation| {
                let attribute = allocation.attribute;
                let ours = attribute.node() == Some(&self.node)
                    && attribute.secondary.get("type").map(String::as_str)
                        == Some(kind.attribute());
                if ours && in_pool {
                    Standing::Good
                } else if ours {
                    Standing::Stale
                } else if attribute.handle().is_none() && attribute.secondary.is_empty() {
                    if in_pool {
                        Standing::Ancient
                    } else {
                        Standing::Foreign
                    }
                } else {
                    Standing::Foreign
                }
            });
        Ok(found.unwrap_or(Standing::Stale))
    }

    async fn node_object(&self) -> Result<Object, IpamError> {
        self.store
            .records()
            .get(Kind::Node, &self.node)
            .await?
            .ok_or_else(|| {
                IpamError::Store(StoreError::NotFound {
                    kind: Kind::Node,
                    name: self.node.clone(),
                })
            })
    }

    async fn write_node(&self, kind: TunnelKind, address: Option<IpAddr>) -> Result<(), IpamError> {
        for _ in 0..ATTEMPTS {
            let mut node = self.node_object().await?;
            if kind.read(&node) == address {
                return Ok(());
            }
            kind.write(&mut node, address);
            match self.store.update(node).await {
                Ok(_) => return Ok(()),
                Err(error) if is_race(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(IpamError::Contended {
            object: format!("Node {}", self.node),
            attempts: ATTEMPTS,
        })
    }
}
