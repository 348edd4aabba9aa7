//! The lab's network: two racks in two subnets behind two third-party routers, four nodes, something outside.
//!
//! ```text
//!   outside a 198.51.100.0/24            outside b 203.0.113.0/24
//!          │                                     │
//!   ┌──────┴──────┐   172.31.0.0/30   ┌──────────┴──┐
//!   │ tora  BIRD  ├───────────────────┤ torb  FRR   │      AS 64601, AS 64602
//!   │ 10.0.1.1/24 │                   │ 10.0.2.1/24 │
//!   └──┬───────┬──┘                   └──┬───────┬──┘
//!      n1      n2                        n3      n4        10.0.R.11, 10.0.R.12
//!    pods     pods                      pods    pods       10.65.0.0/16
//! ```
//! Nodes have one route besides their subnet: the other rack's, through their ToR. Whatever else they reach, BGP told
//! them of. A ToR is a layer 2 switch within its rack and a layer 3 one between.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::eventually::eventually;
use crate::link::{self, End};
use crate::netns::Netns;
use crate::node::Node;
use crate::objects::Objects;
use crate::pace;
use crate::ping::Endpoint;
use crate::router::bird::Version;
use crate::router::{Bird, Frr, Neighbor, Router, Tor};

/// AS of all nodes in a mesh.
pub const CLUSTER_ASN: u32 = 64512;
/// The pods' IPv4 pool.
pub const POD_CIDR: &str = "10.65.0.0/16";
/// The pods' IPv6 pool.
pub const POD_CIDR_V6: &str = "fd65::/64";
/// Nodes of a rack.
const NODES_PER_RACK: u8 = 2;
/// Networks behind the ToRs.
const OUTSIDE: [(&str, &str); 2] = [("198.51.100", "2001:db8:a:"), ("203.0.113", "2001:db8:b:")];

/// How a pool's traffic crosses racks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// `ipipMode: CrossSubnet`.
    IpIpCrossSubnet,
    /// `vxlanMode: CrossSubnet`.
    VxlanCrossSubnet,
    /// None: the routers carry the pods' routes.
    None,
}

/// What to build.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Encapsulation of the IPv4 pool.
    pub ipv4: Encapsulation,
    /// IPv6 everywhere, with this encapsulation of the IPv6 pool.
    pub ipv6: Option<Encapsulation>,
    /// Both families on the IPv4 session with the ToR (a `BGPPeer` annotation), instead of a session for each.
    pub joined_sessions: bool,
    /// ToRs carry pod prefixes, every node has an AS of its own and the mesh is off.
    pub routed: bool,
    /// Addresses a block: 32 minus this is their logarithm. Small blocks make a node claim a second one soon.
    pub block_size: u8,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            ipv4: Encapsulation::IpIpCrossSubnet,
            ipv6: None,
            joined_sessions: false,
            routed: false,
            block_size: 29,
        }
    }
}

/// A rack: its router and what is behind it.
#[derive(Debug)]
pub struct Rack {
    /// `a` or `b`.
    pub name: String,
    /// The router's namespace.
    pub netns: Netns,
    /// The running router.
    pub router: Box<dyn Router>,
    /// Its AS.
    pub asn: u32,
    /// A host outside the cluster, behind the router.
    pub outside: Endpoint,
    /// The prefix it is in, IPv4.
    pub outside_prefix: String,
    /// The router's addresses on the rack's subnet, IPv4 first.
    pub addresses: Vec<IpAddr>,
}

/// A built lab.
#[derive(Debug)]
pub struct Lab {
    /// Logs, configurations, datastore.
    pub folder: PathBuf,
    /// What was built.
    pub plan: Plan,
    /// The cluster's objects.
    pub objects: Objects,
    /// Rack a, rack b.
    pub racks: Vec<Rack>,
    /// n1 and n2 in rack a, n3 and n4 in rack b.
    pub nodes: Vec<Node>,
}

struct Place {
    rack: u8,
    position: u8,
}

impl Place {
    fn number(&self) -> u8 {
        (self.rack - 1) * NODES_PER_RACK + self.position
    }

    fn name(&self) -> String {
        format!("n{}", self.number())
    }

    fn addresses(&self, plan: &Plan) -> Vec<IpAddr> {
        rack_addresses(self.rack, 10 + self.position, plan)
    }

    fn asn(&self, plan: &Plan) -> u32 {
        if plan.routed {
            65_000 + u32::from(self.number())
        } else {
            CLUSTER_ASN
        }
    }
}

/// Address `host` in a rack's subnets.
fn rack_addresses(rack: u8, host: u8, plan: &Plan) -> Vec<IpAddr> {
    let mut list = vec![IpAddr::from([10, 0, rack, host])];
    if plan.ipv6.is_some() {
        // Written in hexadecimal but read as decimal by people: 10.0.1.11 and fd10:0:1::11.
        list.extend(format!("fd10:0:{rack}::{host}").parse::<IpAddr>());
    }
    list
}

fn rack_letter(rack: u8) -> &'static str {
    if rack == 1 { "a" } else { "b" }
}

fn with_length(addresses: &[IpAddr], v4: u8, v6: u8) -> Vec<String> {
    addresses
        .iter()
        .map(|address| format!("{address}/{}", if address.is_ipv4() { v4 } else { v6 }))
        .collect()
}

impl Lab {
    /// Builds the network, starts the routers and writes the cluster's objects; no agent runs yet.
    ///
    /// # Errors
    /// When any part is refused; the message says which.
    pub fn build(plan: Plan, folder: &Path) -> Result<Self> {
        let objects = Objects::new(folder.join("datastore"))?;
        let mut nodes = Vec::new();
        let mut tors = Vec::new();
        for rack in 1..=2 {
            let tor = Netns::create_settled(&format!("tor{}", rack_letter(rack)))?;
            tor.sysctl("net.ipv4.ip_forward", "1")?;
            tor.sysctl("net.ipv6.conf.all.forwarding", "1")?;
            let mut ports = Vec::new();
            for position in 1..=NODES_PER_RACK {
                let place = Place { rack, position };
                let netns = Netns::create_settled(&place.name())?;
                link::wire(
                    &End {
                        netns: &netns,
                        interface: "eth0",
                    },
                    &End {
                        netns: &tor,
                        interface: &place.name(),
                    },
                )?;
                let addresses = place.addresses(&plan);
                link::addresses(&netns, "eth0", &with_length(&addresses, 24, 64))?;
                netns.ip(&format!("route add 10.0.0.0/16 via 10.0.{rack}.1"))?;
                if plan.ipv6.is_some() {
                    netns.ip(&format!("route add fd10::/32 via fd10:0:{rack}::1"))?;
                }
                ports.push(place.name());
                let (asn, ipv6) = (place.asn(&plan), plan.ipv6.is_some());
                nodes.push(Node::new(
                    &netns,
                    addresses,
                    rack_letter(rack),
                    asn,
                    ipv6,
                    objects.folder(),
                    folder,
                )?);
            }
            link::bridge(&tor, "br0", &ports)?;
            link::addresses(
                &tor,
                "br0",
                &with_length(&rack_addresses(rack, 1, &plan), 24, 64),
            )?;
            tors.push(tor);
        }
        let [tor_a, tor_b] = tors.as_slice() else {
            bail!("two racks were meant")
        };
        link::wire(
            &End {
                netns: tor_a,
                interface: "up0",
            },
            &End {
                netns: tor_b,
                interface: "up0",
            },
        )?;
        let mut racks = Vec::new();
        for (rack, tor) in (1..).zip([tor_a, tor_b]) {
            link::addresses(tor, "up0", &with_length(&uplink(rack, &plan), 30, 64))?;
            racks.push(start_rack(rack, tor, &plan, folder)?);
        }
        let lab = Self {
            folder: folder.to_path_buf(),
            plan,
            objects,
            racks,
            nodes,
        };
        lab.write_objects()?;
        lab.await_fabric()?;
        Ok(lab)
    }

    /// Waits until the ToRs have told each other of their racks and what is behind them: a fabric that is up before its
    /// nodes are.
    fn await_fabric(&self) -> Result<()> {
        let families: &[u8] = if self.plan.ipv6.is_some() {
            &[4, 6]
        } else {
            &[4]
        };
        eventually(
            "the ToRs route to each other's racks",
            pace::seconds(40),
            || {
                for rack in &self.racks {
                    for family in families {
                        let routes = link::routes(&rack.netns, *family)?;
                        let learned = routes
                            .iter()
                            .filter(|route| route.leaves_by("up0") && route.goes_via_any());
                        let count = learned.count();
                        ensure!(
                            count >= 2,
                            "{count} IPv{family} routes in rack {}",
                            rack.name
                        );
                    }
                }
                Ok::<_, anyhow::Error>(())
            },
        )
    }

    fn write_objects(&self) -> Result<()> {
        for node in &self.nodes {
            self.apply_node(node, "")?;
        }
        self.apply_mesh(!self.plan.routed)?;
        for rack in &self.racks {
            for address in &rack.addresses {
                let family = if address.is_ipv4() { 4 } else { 6 };
                if self.plan.joined_sessions && family == 6 {
                    continue;
                }
                let annotation = if self.plan.joined_sessions {
                    "\n  annotations:\n    margay.io/families: ipv4-unicast,ipv6-unicast"
                } else {
                    ""
                };
                let name = format!("rack-{}-v{family}", rack.name);
                self.objects.apply(
                    "bgppeers",
                    &name,
                    &format!(
                        "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata:\n  name: {name}{annotation}\nspec:\n  \
                         nodeSelector: rack == '{}'\n  peerIP: {address}\n  asNumber: {}\n",
                        rack.name, rack.asn
                    ),
                )?;
            }
        }
        self.apply_pool(
            "default-ipv4-ippool",
            POD_CIDR,
            self.plan.ipv4,
            self.plan.block_size,
        )?;
        if let Some(encapsulation) = self.plan.ipv6 {
            self.apply_pool("default-ipv6-ippool", POD_CIDR_V6, encapsulation, 122)?;
        }
        Ok(())
    }

    /// Writes a Node object; `bgp` are further lines under `spec.bgp`. What agents wrote into it is written anew by them.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn apply_node(&self, node: &Node, bgp: &str) -> Result<()> {
        use std::fmt::Write as _;
        let mut spec = String::new();
        for address in &node.addresses {
            let (key, length) = if address.is_ipv4() {
                ("ipv4Address", 24)
            } else {
                ("ipv6Address", 64)
            };
            writeln!(spec, "    {key}: {address}/{length}")?;
        }
        if self.plan.routed {
            writeln!(spec, "    asNumber: {}", node.asn)?;
        }
        spec.push_str(bgp);
        self.objects.apply(
            "nodes",
            &node.name,
            &format!(
                "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata:\n  name: {}\n  labels:\n    rack: {}\nspec:\n  bgp:\n{spec}",
                node.name, node.rack
            ),
        )
    }

    /// Writes the cluster's `BGPConfiguration` with the node mesh on or off.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn apply_mesh(&self, enabled: bool) -> Result<()> {
        self.objects.apply(
            "bgpconfigurations",
            "default",
            &format!(
                "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata:\n  name: default\nspec:\n  \
                 asNumber: {CLUSTER_ASN}\n  nodeToNodeMeshEnabled: {enabled}\n"
            ),
        )
    }

    /// Writes an IP pool.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn apply_pool(
        &self,
        name: &str,
        cidr: &str,
        encapsulation: Encapsulation,
        block_size: u8,
    ) -> Result<()> {
        let mode = match encapsulation {
            Encapsulation::IpIpCrossSubnet => "\n  ipipMode: CrossSubnet",
            Encapsulation::VxlanCrossSubnet => "\n  vxlanMode: CrossSubnet",
            Encapsulation::None => "",
        };
        self.objects.apply(
            "ippools",
            name,
            &format!(
                "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: {name}\nspec:\n  cidr: {cidr}\n  \
                 blockSize: {block_size}\n  natOutgoing: true{mode}\n"
            ),
        )
    }

    /// Gives the ToRs static routes for pod prefixes, in place of BGP ones: (rack, prefix, node's address).
    ///
    /// For labs whose subject is what nodes tell each other, with pools that are not encapsulated.
    ///
    /// # Errors
    /// When a route is refused.
    pub fn carry_pods_by_hand(&self, prefixes: &[(String, String, IpAddr)]) -> Result<()> {
        for rack in &self.racks {
            for (home, prefix, node) in prefixes {
                let line = if *home == rack.name {
                    format!("route replace {prefix} via {node}")
                } else {
                    let other = if rack.name == "a" { 2 } else { 1 };
                    format!("route replace {prefix} via 172.31.0.{other}")
                };
                rack.netns.ip(&line)?;
            }
        }
        Ok(())
    }

    /// Starts every agent and waits until all are ready.
    ///
    /// # Errors
    /// When one is not.
    pub fn start_agents(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.start_agent()?;
        }
        self.each_node(|node| node.await_ready(pace::seconds(30)))
    }

    /// Adds pods until each node holds so many, all nodes at once.
    ///
    /// # Errors
    /// The first refusal.
    pub fn fill_pods(&mut self, count: usize) -> Result<()> {
        self.each_node(|node| node.fill_pods(count))
    }

    /// Does something on all nodes at once.
    ///
    /// # Errors
    /// The first node's that failed.
    pub fn each_node(&mut self, act: impl Fn(&mut Node) -> Result<()> + Sync) -> Result<()> {
        let act = &act;
        thread::scope(|scope| {
            let running: Vec<_> = self
                .nodes
                .iter_mut()
                .map(|node| scope.spawn(move || act(node)))
                .collect();
            running.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| bail!("a node's thread died"))
            })
        })
    }

    /// A node by name.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.name == name)
            .ok_or_else(|| anyhow!("no node {name}"))
    }

    /// A node by name, to change it.
    ///
    /// # Errors
    /// When there is none.
    pub fn node_mut(&mut self, name: &str) -> Result<&mut Node> {
        self.nodes
            .iter_mut()
            .find(|node| node.name == name)
            .ok_or_else(|| anyhow!("no node {name}"))
    }

    /// A rack by name.
    ///
    /// # Errors
    /// When there is none.
    pub fn rack(&self, name: &str) -> Result<&Rack> {
        self.racks
            .iter()
            .find(|rack| rack.name == name)
            .ok_or_else(|| anyhow!("no rack {name}"))
    }

    /// All pods, to ping.
    #[must_use]
    pub fn pod_endpoints(&self) -> Vec<Endpoint> {
        self.nodes
            .iter()
            .flat_map(|node| node.pods.values())
            .map(crate::node::Pod::endpoint)
            .collect()
    }

    /// All nodes, to ping.
    #[must_use]
    pub fn node_endpoints(&self) -> Vec<Endpoint> {
        self.nodes.iter().map(Node::endpoint).collect()
    }

    /// What each ToR sees of its sessions with its nodes and its peer: `neighbour: up` by rack.
    ///
    /// # Errors
    /// When a router does not answer.
    pub fn router_sessions(&self) -> Result<BTreeMap<String, BTreeMap<IpAddr, bool>>> {
        self.racks
            .iter()
            .map(|rack| Ok((rack.name.clone(), rack.router.sessions()?)))
            .collect()
    }

    /// Waits until every session the ToRs have is established.
    ///
    /// # Errors
    /// When one is not by the deadline.
    pub fn await_router_sessions(&self, deadline: Duration) -> Result<usize> {
        eventually("all sessions of the ToRs", deadline, || {
            let sessions = self
                .router_sessions()
                .map_err(|error| format!("{error:#}"))?;
            let all: Vec<_> = sessions.values().flatten().collect();
            if all.iter().all(|(_, up)| **up) {
                Ok(all.len())
            } else {
                Err(format!("{sessions:?}"))
            }
        })
    }
}

fn uplink(rack: u8, plan: &Plan) -> Vec<IpAddr> {
    let mut list = vec![IpAddr::from([172, 31, 0, rack])];
    if plan.ipv6.is_some() {
        list.extend(format!("fd31::{rack}").parse::<IpAddr>());
    }
    list
}

fn start_rack(rack: u8, netns: &Netns, plan: &Plan, folder: &Path) -> Result<Rack> {
    let letter = rack_letter(rack);
    let asn = 64_600 + u32::from(rack);
    let (v4, v6) = OUTSIDE
        .get(usize::from(rack) - 1)
        .copied()
        .context("no outside network")?;
    let host = Netns::create_settled(&format!("out{letter}"))?;
    link::wire(
        &End {
            netns: &host,
            interface: "eth0",
        },
        &End {
            netns,
            interface: "out0",
        },
    )?;
    let mut host_addresses: Vec<IpAddr> = vec![format!("{v4}.10").parse()?];
    let mut prefixes = vec![(format!("{v4}.0/24"), "out0".to_owned())];
    let mut rack_prefixes = vec![(format!("10.0.{rack}.0/24"), "br0".to_owned())];
    let mut gateways: Vec<IpAddr> = vec![format!("{v4}.1").parse()?];
    if plan.ipv6.is_some() {
        host_addresses.push(format!("{v6}:10").parse()?);
        gateways.push(format!("{v6}:1").parse()?);
        prefixes.push((format!("{v6}:/64"), "out0".to_owned()));
        rack_prefixes.push((format!("fd10:0:{rack}::/64"), "br0".to_owned()));
    }
    link::addresses(&host, "eth0", &with_length(&host_addresses, 24, 64))?;
    link::addresses(netns, "out0", &with_length(&gateways, 24, 64))?;
    for gateway in &gateways {
        host.ip(&format!(
            "{} route add default via {gateway}",
            if gateway.is_ipv4() { "-4" } else { "-6" }
        ))?;
    }
    let addresses = rack_addresses(rack, 1, plan);
    let nodes = (1..=NODES_PER_RACK).map(|position| Place { rack, position });
    let other = 3 - rack;
    let tor = Tor {
        asn,
        router_id: IpAddr::from([10, 0, rack, 1]),
        outside: prefixes,
        rack: rack_prefixes,
        outside_ranges: vec![
            "198.51.100.0/24".into(),
            "203.0.113.0/24".into(),
            "2001:db8::/32".into(),
        ],
        pods: vec![POD_CIDR.to_owned(), POD_CIDR_V6.to_owned()],
        carries_pods: plan.routed,
        nodes: nodes
            .map(|place| Neighbor {
                name: place.name(),
                asn: place.asn(plan),
                addresses: place.addresses(plan),
                local: addresses.clone(),
                joined: plan.joined_sessions,
            })
            .collect(),
        tors: vec![Neighbor {
            name: format!("tor{}", rack_letter(other)),
            asn: 64_600 + u32::from(other),
            addresses: uplink(other, plan),
            local: uplink(rack, plan),
            joined: false,
        }],
    };
    let router: Box<dyn Router> = if rack == 1 {
        Box::new(Bird::start(Version::Two, netns, &tor.bird(), folder)?)
    } else {
        Box::new(Frr::start(netns, asn, &tor.frr(), folder)?)
    };
    let outside = Endpoint {
        name: format!("out{letter}"),
        netns: host,
        addresses: host_addresses,
    };
    Ok(Rack {
        name: letter.to_owned(),
        netns: netns.clone(),
        router,
        asn,
        outside,
        outside_prefix: format!("{v4}.0/24"),
        addresses,
    })
}
