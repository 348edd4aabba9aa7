//! The CNI server's view of the rest of the daemon: IPAM, the cluster's state, the dataplane.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use margay_bgp::prefix::Prefix;
use margay_cni::netlink::{Link, Socket, delete_link};
use margay_cni::protocol::AddRequest;
use margay_cni::spec::code;
use prometheus::HistogramVec;
use tokio::sync::watch;

use super::{Backend, Holding, PodSettings, Refusal};
use crate::datastore::timestamp_now;
use crate::desired::state::Underlay;
use crate::desired::tunnels::pod_mtu;
use crate::endpoints::Endpoint;
use crate::ipam::{AssignRequest, CollectRequest, Ipam, IpamError, ReleaseAddress};
use crate::kernel::RouteKey;
use crate::model::{ClusterState, Workload, WorkloadKey};
use crate::reconcile::Dataplane;
use crate::watch::Workloads;

/// The real [`Backend`].
#[derive(Clone, Debug)]
pub struct AgentBackend {
    /// Name of this node, which every IPAM record carries.
    pub node_name: String,
    /// Address management.
    pub ipam: Ipam,
    /// The cluster as this node sees it.
    pub cluster: watch::Receiver<Arc<ClusterState>>,
    /// What the kernel holds that is not ours: the links' MTU.
    pub underlay: watch::Receiver<Option<Arc<Underlay>>>,
    /// The kernel's routes.
    pub dataplane: Dataplane,
    /// Where the pods of this node go.
    pub workloads: watch::Sender<Workloads>,
    /// Durations by verb and result.
    pub seconds: HistogramVec,
}

fn refused(error: &IpamError) -> Refusal {
    let code = match error {
        IpamError::Exhausted { .. } | IpamError::BlockLimit { .. } | IpamError::NoPool { .. } => {
            code::NO_ADDRESS
        }
        IpamError::RequestedPool { .. } | IpamError::AddressNotInPool { .. } => {
            code::INVALID_CONFIG
        }
        IpamError::NotSynced
        | IpamError::Store(_)
        | IpamError::Contended { .. }
        | IpamError::CoolingDown { .. }
        | IpamError::Stopped
            if error.is_transient() =>
        {
            code::TRY_AGAIN_LATER
        }
        IpamError::NotSynced
        | IpamError::Store(_)
        | IpamError::Contended { .. }
        | IpamError::CoolingDown { .. }
        | IpamError::Stopped
        | IpamError::AddressInUse { .. }
        | IpamError::NotAffine { .. }
        | IpamError::NotAsExpected { .. }
        | IpamError::Malformed { .. } => code::DAEMON_FAILED,
    };
    Refusal::new(code, "no address for the pod", error)
}

fn failed(what: impl Into<String>, error: impl ToString) -> Refusal {
    Refusal::new(code::DAEMON_FAILED, what, error)
}

impl AgentBackend {
    fn datastore_ready(&self) -> Result<(), Refusal> {
        if self.cluster.borrow().datastore_ready {
            return Ok(());
        }
        Err(Refusal::new(
            code::TRY_AGAIN_LATER,
            "the datastore is locked",
            "ClusterInformation default says datastoreReady: false",
        ))
    }
}

async fn on_links<T: Send + 'static>(
    name: &str,
    act: impl FnOnce(&mut Socket, Option<Link>) -> std::io::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    let owned = name.to_owned();
    // A netlink request takes microseconds, but deleting a veth waits for the kernel's grace period.
    tokio::task::spawn_blocking(move || {
        let mut socket = Socket::open()?;
        let link = socket.link_by_name(&owned)?;
        act(&mut socket, link)
    })
    .await
    .map_err(|e| failed(format!("interface {name}"), e))?
    .map_err(|e| failed(format!("interface {name}"), e))
}

impl Backend for AgentBackend {
    fn ready(&self, ipv4: bool, ipv6: bool) -> Result<(), Refusal> {
        let not = |message: &str, details: String| {
            Err(Refusal::new(code::NOT_AVAILABLE, message, details))
        };
        let cluster = self.cluster.borrow();
        if !cluster.in_sync {
            return not("the daemon has not read the datastore yet", String::new());
        }
        if !cluster.datastore_ready {
            return not(
                "the datastore is locked",
                "ClusterInformation default says datastoreReady: false".to_owned(),
            );
        }
        if cluster.own_node().is_none() {
            return not(
                "this node is not in the datastore",
                format!("expected a Node object named {}", self.node_name),
            );
        }
        if self.underlay.borrow().is_none() {
            return not(
                "the daemon has not read the kernel's state yet",
                String::new(),
            );
        }
        for (wanted, family, v4) in [(ipv4, "IPv4", true), (ipv6, "IPv6", false)] {
            let any = cluster
                .pools
                .values()
                .any(|pool| !pool.disabled && matches!(pool.cidr, Prefix::V4(_)) == v4);
            if wanted && !any {
                return not(
                    "there is no pool to take an address from",
                    format!("no enabled {family} IPPool exists"),
                );
            }
        }
        Ok(())
    }

    fn pod_settings(&self) -> PodSettings {
        let underlay = self.underlay.borrow().clone().unwrap_or_default();
        PodSettings {
            mtu: pod_mtu(&self.cluster.borrow(), &underlay),
            allow_ip_forwarding: false,
        }
    }

    async fn assign(&self, request: &AddRequest, handle: &str) -> Result<Vec<IpAddr>, Refusal> {
        let mut attributes = BTreeMap::from([
            ("node".to_owned(), self.node_name.clone()),
            ("timestamp".to_owned(), timestamp_now()),
        ]);
        for (key, value) in [
            ("pod", &request.pod_name),
            ("namespace", &request.pod_namespace),
        ] {
            if let Some(value) = value {
                attributes.insert(key.to_owned(), value.clone());
            }
        }
        for (v4, family) in [(true, "IPv4"), (false, "IPv6")] {
            if request
                .requested
                .iter()
                .filter(|a| a.is_ipv4() == v4)
                .count()
                > 1
            {
                return Err(Refusal::new(
                    code::INVALID_CONFIG,
                    format!("more than one {family} address is asked for by name"),
                    "a pod has one address a family",
                ));
            }
        }
        // An address asked for by name is its family's one.
        let by_name = |v4: bool| request.requested.iter().any(|a| a.is_ipv4() == v4);
        let mut assign = AssignRequest::for_pod(
            handle,
            attributes,
            request.assign_ipv4 && !by_name(true),
            request.assign_ipv6 && !by_name(false),
        );
        assign.ipv4_pools.clone_from(&request.ipv4_pools);
        assign.ipv6_pools.clone_from(&request.ipv6_pools);
        assign.specific.clone_from(&request.requested);
        if let Some(namespace) = &request.pod_namespace
            && let Some(labels) = self.cluster.borrow().namespaces.get(namespace)
        {
            assign.namespace_labels.clone_from(labels);
        }
        // What the container's other interfaces in this network hold is not for this one.
        assign.in_use = self
            .workloads
            .borrow()
            .values()
            .filter(|w| w.handle_id == handle && w.key.ifname != request.attachment.ifname)
            .flat_map(|w| w.addresses.iter().copied())
            .collect();
        let assigned = self.ipam.assign(assign).await.map_err(|e| refused(&e))?;
        Ok(assigned.into_iter().map(|a| a.address).collect())
    }

    async fn release(&self, holding: Holding) -> Result<(), Refusal> {
        self.datastore_ready()?;
        let result = match holding {
            Holding::Handle(handle) => self.ipam.release_handle(handle).await,
            Holding::Addresses(handle, addresses) => {
                let one = |address| ReleaseAddress {
                    address,
                    handle_id: Some(handle.clone()),
                    sequence_number: None,
                };
                self.ipam
                    .release_addresses(addresses.into_iter().map(one).collect())
                    .await
            }
        };
        match result {
            // Somebody released it before and it was given to another since: it is not this pod's any more.
            Ok(_) | Err(IpamError::NotAsExpected { .. }) => Ok(()),
            Err(e) if e.is_transient() => Err(Refusal::new(
                code::TRY_AGAIN_LATER,
                "the pod's address cannot be given back yet",
                e,
            )),
            Err(e) => Err(failed("the pod's address cannot be given back", e)),
        }
    }

    async fn collect(&self, network: &str, live: BTreeSet<String>) -> Result<usize, Refusal> {
        self.datastore_ready()?;
        let request = CollectRequest {
            live,
            // The runtime's list is the whole truth about its network.
            in_use: BTreeSet::new(),
            network: Some(network.to_owned()),
            grace: Duration::ZERO,
        };
        let collected = self
            .ipam
            .collect(request)
            .await
            .map_err(|e| failed("leaked addresses cannot be collected", e))?;
        Ok(collected.released.len())
    }

    fn publish(&self, workloads: BTreeMap<WorkloadKey, Workload>) {
        self.workloads.send_if_modified(|current| {
            let changed = **current != workloads;
            if changed {
                *current = Arc::new(workloads);
            }
            changed
        });
    }

    async fn routes_in_place(&self, endpoint: &Endpoint) -> Result<(), Refusal> {
        for &address in &endpoint.addresses {
            let prefix = Prefix::host(address);
            self.dataplane
                .wait_route(RouteKey::main(prefix, 0))
                .await
                .map_err(|e| {
                    Refusal::new(
                        code::TRY_AGAIN_LATER,
                        "the pod's route cannot be confirmed",
                        e,
                    )
                })?;
        }
        Ok(())
    }

    async fn remove_interface(&self, name: &str) -> Result<(), Refusal> {
        on_links(name, |socket, link| {
            let Some(link) = link.filter(|l| l.veth) else {
                return Ok(());
            };
            match socket.run(vec![delete_link(&link)]) {
                Err(e) if e.errno() != Some(nix::libc::ENODEV) => Err(e.error),
                _ => Ok(()),
            }
        })
        .await
    }

    async fn has_interface(&self, name: &str) -> Result<bool, Refusal> {
        on_links(name, |_, link| Ok(link.is_some())).await
    }

    fn observe(&self, verb: &'static str, succeeded: bool, took: Duration) {
        let result = if succeeded { "ok" } else { "error" };
        self.seconds
            .with_label_values(&[verb, result])
            .observe(took.as_secs_f64());
    }
}
