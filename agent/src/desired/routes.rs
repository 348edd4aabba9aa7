//! Routes, and who wins a shared key.
//!
//! From the strongest to the weakest claim on one key: a pod of this node; VXLAN (blocks and nodes of the datastore); BGP; the
//! blackhole of an own block. A weaker claim on a taken key is dropped. It is a [`Problem`] only where that means something is
//! wrong: two pods with one address, or a peer that announces an address of ours.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_bgp::family::Family;
use margay_bgp::prefix::Prefix;

use super::filters::PRIORITY_BASE;
use super::next_hop::Resolver;
use super::peers::nodes_by_address;
use super::state::{DesiredState, IPIP_DEVICE, Problem};
use super::tunnels::{self, encapsulated};
use super::{BestRoutes, Learned};
use crate::kernel::{KernelNextHop, Route, RouteKey};
use crate::model::{ClusterState, Encapsulation, EncapsulationMode, IpPool, Node};

/// The largest share of a next hop the kernel knows.
const MAX_WEIGHT: u16 = 256;

pub(super) struct Routes<'a> {
    pub(super) cluster: &'a ClusterState,
    pub(super) own: Option<&'a Node>,
    pub(super) resolver: &'a Resolver<'a>,
    pub(super) protocol: u8,
    by_address: BTreeMap<IpAddr, &'a Node>,
    pools: Vec<&'a IpPool>,
    ipip_ready: bool,
    ipip_mtu: u32,
    vxlan: BTreeMap<Family, u32>,
}

impl<'a> Routes<'a> {
    pub(super) fn new(
        cluster: &'a ClusterState,
        resolver: &'a Resolver<'a>,
        protocol: u8,
        state: &DesiredState,
    ) -> Self {
        let mut pools: Vec<&IpPool> = cluster.pools.values().collect();
        // Longest first; the name breaks ties so that a misconfigured cluster looks the same on every node.
        pools.sort_by(|one, other| {
            other
                .cidr
                .len()
                .cmp(&one.cidr.len())
                .then_with(|| one.name.cmp(&other.name))
        });
        Self {
            cluster,
            own: cluster.own_node(),
            resolver,
            protocol,
            by_address: nodes_by_address(cluster),
            pools,
            ipip_ready: state.ipip.is_some(),
            ipip_mtu: state.ipip.map_or(0, |device| device.mtu),
            vxlan: state
                .vxlan
                .iter()
                .map(|(family, device)| (*family, device.mtu))
                .collect(),
        }
    }

    /// Adds every route to `state`, strongest claims first.
    pub(super) fn add(&self, best: &BestRoutes, state: &mut DesiredState) {
        self.workloads(state);
        self.vxlan(state);
        self.bgp(best, state);
        self.blackholes(state);
    }

    fn pool_of(&self, prefix: Prefix) -> Option<&'a IpPool> {
        self.pools
            .iter()
            .copied()
            .find(|pool| pool.cidr.contains(prefix))
    }

    fn ours(&self, route: Route) -> Route {
        Route {
            protocol: self.protocol,
            ..route
        }
    }

    fn is_own_address(&self, address: IpAddr) -> bool {
        self.resolver.underlay().owner_of(address).is_some()
            || self.own.is_some_and(|own| {
                own.bgp_address(Family::IPV4_UNICAST) == Some(address)
                    || own.bgp_address(Family::IPV6_UNICAST) == Some(address)
                    || own.ipip_tunnel.map(IpAddr::V4) == Some(address)
                    || own.vxlan_tunnel_v4.map(IpAddr::V4) == Some(address)
                    || own.vxlan_tunnel_v6.map(IpAddr::V6) == Some(address)
            })
    }

    pub(super) fn workloads(&self, state: &mut DesiredState) {
        let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
        for workload in self.cluster.workloads.values() {
            for address in &workload.addresses {
                let subject = || format!("pod {}/{}", workload.namespace, workload.pod);
                if self.is_own_address(*address) {
                    state.problems.push(Problem {
                        subject: subject(),
                        reason: format!("{address} is an address of the node itself"),
                    });
                    continue;
                }
                if let Some(other) = owners.insert(*address, &workload.key.container_id) {
                    owners.insert(*address, other);
                    state.problems.push(Problem {
                        subject: subject(),
                        reason: format!("{address} belongs to container {other} already"),
                    });
                    continue;
                }
                let mut route = self.ours(Route::device(workload.host_interface.as_str()));
                route.source = if address.is_ipv4() {
                    self.cluster
                        .felix
                        .device_route_source_address
                        .map(IpAddr::V4)
                } else {
                    self.cluster
                        .felix
                        .device_route_source_address_v6
                        .map(IpAddr::V6)
                };
                // Metric 0, the plugin's own key: what the plugin writes and what we want is one route, not two.
                state
                    .routes
                    .insert(RouteKey::main(Prefix::host(*address), 0), route);
            }
        }
    }

    /// Routes of VXLAN pools: from blocks and nodes and never from BGP, as Calico has it.
    fn vxlan(&self, state: &mut DesiredState) {
        let Some(own) = self.own else { return };
        for block in self.cluster.blocks.values() {
            let Some(pool) = self.pool_of(block.cidr) else {
                continue;
            };
            let Encapsulation::Vxlan(mode) = pool.encapsulation else {
                continue;
            };
            if let Some(owner) = block.owner().filter(|owner| *owner != own.name) {
                self.vxlan_route(state, own, owner, block.cidr, mode);
            }
            for (address, node) in &block.borrowed {
                if *node != own.name {
                    self.vxlan_route(state, own, node, Prefix::host(*address), mode);
                }
            }
        }
    }

    fn vxlan_route(
        &self,
        state: &mut DesiredState,
        own: &Node,
        node: &str,
        prefix: Prefix,
        mode: EncapsulationMode,
    ) {
        let family = prefix.family();
        let mut problem = |reason: String| {
            state.problems.push(Problem {
                subject: format!("route {prefix}"),
                reason,
            })
        };
        let Some(remote) = self.cluster.nodes.get(node) else {
            return problem(format!("node {node} has no Node object"));
        };
        let route = if encapsulated(mode, family, own, remote) {
            let Some(mtu) = self.vxlan.get(&family) else {
                return problem(format!(
                    "{} is not there yet",
                    tunnels::vxlan_device_name(family)
                ));
            };
            let Some(tunnel) = tunnels::vxlan_tunnel(remote, family)
                .filter(|_| remote.data_address(family).is_some())
            else {
                return problem(format!("node {node} has no VXLAN tunnel address yet"));
            };
            let device = tunnels::vxlan_device_name(family).to_owned();
            let mut route = if prefix == Prefix::host(tunnel) {
                // The tunnel's far end cannot be its own gateway.
                Route::device(device)
            } else {
                Route::via(vec![KernelNextHop::gateway(tunnel, Some(device)).onlink()])
            };
            route.mtu = Some(*mtu);
            route
        } else {
            let Some(address) = remote.data_address(family) else {
                return problem(format!("node {node} has no address in {family}"));
            };
            match self.resolver.resolve(address, None) {
                Ok(hops) => Route::via(hops.to_vec()),
                Err(reason) => return problem(reason.to_string()),
            }
        };
        state
            .routes
            .entry(RouteKey::main(prefix, 0))
            .or_insert_with(|| self.ours(route));
    }

    pub(super) fn bgp(&self, best: &BestRoutes, state: &mut DesiredState) {
        let foreign: std::collections::BTreeSet<Prefix> = self
            .resolver
            .underlay()
            .routes
            .iter()
            .map(|route| route.prefix)
            .collect();
        let own_blocks: std::collections::BTreeSet<Prefix> = self
            .cluster
            .blocks_of(&self.cluster.node_name)
            .map(|block| block.cidr)
            .collect();
        for (prefix, learned) in &best.routes {
            if own_blocks.contains(prefix) {
                continue;
            }
            match self.bgp_route(*prefix, learned, foreign.contains(prefix)) {
                Ok(None) => {}
                Ok(Some(route)) => {
                    let key = RouteKey::main(*prefix, self.metric(*prefix, learned));
                    // A pod that runs here is here, whatever a peer says: a pod moved faster than BGP tells.
                    if !state.routes.contains_key(&RouteKey::main(*prefix, 0)) {
                        state.routes.insert(key, self.ours(route));
                    }
                }
                Err(reason) => state.problems.push(Problem {
                    subject: format!("route {prefix}"),
                    reason: format!("from {}: {reason}", learned.peer),
                }),
            }
        }
    }

    /// The kernel's route for a best BGP route; `None` where BGP has no say.
    fn bgp_route(
        &self,
        prefix: Prefix,
        learned: &Learned,
        foreign: bool,
    ) -> Result<Option<Route>, String> {
        if let Some(reason) = unroutable(prefix) {
            return Err(reason.into());
        }
        if prefix.is_host() && self.is_own_address(prefix.addr()) {
            return Err("an address of this node, refused".into());
        }
        if foreign {
            return Err("the kernel has a route for it that is not margay's".into());
        }
        if learned.discard {
            return Ok(Some(Route::blackhole()));
        }
        let encapsulation = self
            .pool_of(prefix)
            .map_or(Encapsulation::None, |pool| pool.encapsulation);
        let mut hops = Vec::new();
        let mut tunnelled = false;
        let mut refused = None;
        for hop in &learned.next_hops {
            let result = match encapsulation {
                Encapsulation::Vxlan(_) => return Ok(None),
                Encapsulation::None => self.plain(hop.address, hop.interface.as_deref()),
                Encapsulation::IpIp(mode) => match self.needs_ipip(mode, hop.address) {
                    Ok(false) => self.plain(hop.address, hop.interface.as_deref()),
                    Ok(true) => {
                        tunnelled = true;
                        Ok(vec![
                            KernelNextHop::gateway(hop.address, Some(IPIP_DEVICE.to_owned()))
                                .onlink(),
                        ])
                    }
                    Err(reason) => Err(reason),
                },
            };
            match result {
                Ok(found) => hops.extend(found.into_iter().map(|mut found| {
                    found.weight = hop.weight.map_or(found.weight, u16::from);
                    found
                })),
                Err(reason) => refused = Some(reason),
            }
        }
        hops.sort_unstable();
        // Two next hops behind one gateway are one to the kernel, with the shares of both where they have different ones.
        let weighted = learned.next_hops.iter().any(|hop| hop.weight.is_some());
        hops.dedup_by(|next, kept| {
            if !weighted {
                return next == kept;
            }
            let same = (next.via, &next.interface) == (kept.via, &kept.interface);
            if same {
                kept.weight = kept.weight.saturating_add(next.weight).min(MAX_WEIGHT);
            }
            same
        });
        if let [single] = hops.as_mut_slice()
            && weighted
        {
            single.weight = 1;
        }
        if hops.is_empty() {
            return Err(refused.unwrap_or_else(|| "no next hop".into()));
        }
        let mut route = Route::via(hops);
        route.mtu = tunnelled.then_some(self.ipip_mtu);
        Ok(Some(route))
    }

    fn plain(
        &self,
        address: IpAddr,
        interface: Option<&str>,
    ) -> Result<Vec<KernelNextHop>, String> {
        self.resolver
            .resolve(address, interface)
            .map(|hops| hops.to_vec())
            .map_err(|reason| reason.to_string())
    }

    /// Whether packets to this next hop go through `tunl0`, or why they can go no way at all.
    fn needs_ipip(&self, mode: EncapsulationMode, next_hop: IpAddr) -> Result<bool, String> {
        let shared = self.resolver.underlay().connected_to(next_hop).is_some();
        let wanted = match (self.by_address.get(&next_hop), self.own) {
            (Some(remote), Some(own)) => encapsulated(mode, Family::IPV4_UNICAST, own, remote),
            // A router on our own subnet that carries the route: within the subnet nothing is encapsulated.
            _ if mode == EncapsulationMode::CrossSubnet && shared => false,
            _ if self
                .cluster
                .felix
                .external_nodes
                .iter()
                .any(|range| range.contains_addr(next_hop)) =>
            {
                true
            }
            _ => {
                return Err(format!(
                    "next hop {next_hop} is no node: nobody there would take packets out of IP-in-IP"
                ));
            }
        };
        match wanted {
            true if !self.ipip_ready => {
                Err("tunl0 is not there (see the problems of its pool and node)".into())
            }
            _ => Ok(wanted),
        }
    }

    /// The kernel's metric of a BGP route: 0, unless the cluster uses Calico's priorities.
    fn metric(&self, prefix: Prefix, learned: &Learned) -> u32 {
        let configured = if prefix.family() == Family::IPV4_UNICAST {
            self.cluster.bgp.ipv4_normal_route_priority
        } else {
            self.cluster.bgp.ipv6_normal_route_priority
        };
        match (configured, learned.local_pref) {
            (None, _) => 0,
            (Some(normal), None) => normal,
            (Some(_), Some(local_pref)) => PRIORITY_BASE.saturating_sub(local_pref).max(1),
        }
    }

    /// Unused addresses of own blocks must not follow a default route out and come back.
    fn blackholes(&self, state: &mut DesiredState) {
        for block in self.cluster.blocks_of(&self.cluster.node_name) {
            if !block.cidr.is_host() {
                state
                    .routes
                    .entry(RouteKey::main(block.cidr, 0))
                    .or_insert_with(|| self.ours(Route::blackhole()));
            }
        }
    }
}

fn unroutable(prefix: Prefix) -> Option<&'static str> {
    let address = prefix.addr();
    let bad = match address {
        IpAddr::V4(v4) => {
            v4.is_loopback() || v4.is_multicast() || v4.is_link_local() || v4.is_broadcast()
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local(),
    };
    (bad && prefix.len() > 0)
        .then_some("not a prefix that is routed (loopback, link-local or multicast)")
}
