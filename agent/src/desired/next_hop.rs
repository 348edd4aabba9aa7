//! Where a BGP next hop really is.
//!
//! Resolution asks the routes that are *not* ours: connected subnets first, then the longest of the kernel's other routes, the default
//! route too. Our own BGP routes are never asked, so a next hop cannot be reached through a route that hangs on it, and a route
//! cannot change what it depends on. A next hop on a shared subnet is used as it is, third party or not; one further away is
//! replaced by the gateway the kernel would take to it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;

use margay_bgp::rib::Reach;

use super::state::Underlay;
use crate::kernel::KernelNextHop;

/// How many gateways `reachableBy` may chain.
const MAX_DEPTH: usize = 4;

/// Why a next hop leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// It is this node.
    Own(IpAddr),
    /// No route leads there.
    NoRoute(IpAddr),
    /// A link-local address of an unknown interface.
    NoInterface(IpAddr),
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(address) => write!(f, "next hop {address} is this node itself"),
            Self::NoRoute(address) => write!(f, "no route to next hop {address}"),
            Self::NoInterface(address) => write!(
                f,
                "next hop {address} is link-local, of an unknown interface"
            ),
        }
    }
}

type Hops = Result<Rc<[KernelNextHop]>, Unresolved>;

/// Resolves next hops against one underlay, each address once.
#[derive(Debug)]
pub struct Resolver<'a> {
    underlay: &'a Underlay,
    gateways: BTreeMap<IpAddr, IpAddr>,
    known: RefCell<BTreeMap<IpAddr, Hops>>,
}

impl<'a> Resolver<'a> {
    /// A resolver; `gateways` are `reachableBy`'s: peer address → gateway.
    #[must_use]
    pub fn new(underlay: &'a Underlay, gateways: BTreeMap<IpAddr, IpAddr>) -> Self {
        Self {
            underlay,
            gateways,
            known: RefCell::default(),
        }
    }

    /// The underlay asked.
    #[must_use]
    pub fn underlay(&self) -> &'a Underlay {
        self.underlay
    }

    /// The kernel's next hops for an address; `interface` is that of a link-local one.
    ///
    /// # Errors
    /// Says why it leads nowhere.
    pub fn resolve(&self, address: IpAddr, interface: Option<&str>) -> Hops {
        if is_link_local(address) {
            return match interface {
                Some(name) => Ok([KernelNextHop::gateway(address, Some(name.to_owned()))].into()),
                None => Err(Unresolved::NoInterface(address)),
            };
        }
        if let Some(known) = self.known.borrow().get(&address) {
            return known.clone();
        }
        let hops = self.look_up(address, 0);
        self.known.borrow_mut().insert(address, hops.clone());
        hops
    }

    /// Whether and how packets get to a next hop; nothing where they do not. An address of the loopback network is reached in
    /// any case: it is a lab's, whose speakers share a machine.
    #[must_use]
    pub fn reach(&self, address: IpAddr, interface: Option<&str>) -> Option<Reach> {
        if address.is_loopback() {
            return Some(Reach {
                metric: 0,
                via_default: false,
            });
        }
        let hops = self.resolve(address, interface).ok()?;
        let carries = |hop: &KernelNextHop| {
            hop.interface.as_ref().is_none_or(|name| {
                let link = self.underlay.links.get(name);
                link.is_none_or(|link| link.up && link.running)
            })
        };
        if !hops.iter().any(carries) {
            return None;
        }
        // What resolution takes: the subnet itself where no longer route leads there.
        let gateway = self.gateways.get(&address).copied().unwrap_or(address);
        let route = self.underlay.route_to(gateway);
        let on_link = is_link_local(gateway)
            || self.underlay.connected_to(gateway).is_some_and(|subnet| {
                route.is_none_or(|route| route.prefix.len() <= subnet.prefix.len())
            });
        Some(match route.filter(|_| !on_link) {
            Some(route) => Reach {
                metric: route.metric,
                via_default: route.prefix.len() == 0,
            },
            None => Reach {
                metric: 0,
                via_default: false,
            },
        })
    }

    fn look_up(&self, address: IpAddr, depth: usize) -> Hops {
        if self.underlay.owner_of(address).is_some() {
            return Err(Unresolved::Own(address));
        }
        if let Some(gateway) = self
            .gateways
            .get(&address)
            .filter(|gateway| **gateway != address && depth < MAX_DEPTH)
        {
            return self.look_up(*gateway, depth + 1);
        }
        // A kernel route may be longer than the connected subnet, and then it is the one packets take.
        let route = self.underlay.route_to(address);
        if let Some(subnet) = self.underlay.connected_to(address)
            && route.is_none_or(|route| route.prefix.len() <= subnet.prefix.len())
        {
            return Ok([KernelNextHop::gateway(
                address,
                Some(subnet.interface.clone()),
            )]
            .into());
        }
        let Some(route) = route else {
            return Err(Unresolved::NoRoute(address));
        };
        let hops: Rc<[KernelNextHop]> = route
            .next_hops
            .iter()
            .map(|hop| match hop.via {
                Some(_) => hop.clone(),
                None => KernelNextHop {
                    via: Some(address),
                    ..hop.clone()
                },
            })
            .collect();
        if hops.is_empty() {
            Err(Unresolved::NoRoute(address))
        } else {
            Ok(hops)
        }
    }
}

/// Of IPv6: IPv4 has none that a route could name.
const fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::state::{ConnectedSubnet, UnderlayLink, UnderlayRoute};

    fn underlay() -> Underlay {
        let route = |prefix: &str, via: Option<&str>| UnderlayRoute {
            prefix: prefix.parse().expect("prefix"),
            metric: 0,
            next_hops: vec![KernelNextHop {
                via: via.map(|via| via.parse().expect("address")),
                interface: Some("eth0".into()),
                onlink: false,
                weight: 1,
            }],
            source: None,
            protocol: 4,
        };
        Underlay {
            connected: vec![ConnectedSubnet {
                prefix: "10.0.1.0/24".parse().expect("prefix"),
                interface: "eth0".into(),
                address: "10.0.1.2".parse().expect("address"),
            }],
            routes: vec![
                route("10.0.1.0/24", None),
                route("0.0.0.0/0", Some("10.0.1.1")),
                route("10.9.0.7/32", None),
            ],
            links: [(
                "eth0".to_owned(),
                UnderlayLink {
                    mtu: 1500,
                    up: true,
                    running: true,
                },
            )]
            .into(),
            ipip_available: true,
        }
    }

    fn via(resolver: &Resolver<'_>, address: &str) -> Result<Vec<String>, Unresolved> {
        let hops = resolver.resolve(address.parse().expect("address"), None)?;
        Ok(hops
            .iter()
            .map(|hop| {
                format!(
                    "{} {}",
                    hop.via.expect("gateway"),
                    hop.interface.as_deref().unwrap_or("-")
                )
            })
            .collect())
    }

    #[test]
    fn a_next_hop_on_a_shared_subnet_is_used_as_it_is() {
        let underlay = underlay();
        let resolver = Resolver::new(&underlay, BTreeMap::new());
        assert_eq!(
            via(&resolver, "10.0.1.77"),
            Ok(vec!["10.0.1.77 eth0".into()])
        );
        assert_eq!(via(&resolver, "10.9.0.7"), Ok(vec!["10.9.0.7 eth0".into()]));
    }

    #[test]
    fn a_distant_next_hop_becomes_the_gateway_towards_it() {
        let underlay = underlay();
        let resolver = Resolver::new(&underlay, BTreeMap::new());
        assert_eq!(via(&resolver, "10.0.2.3"), Ok(vec!["10.0.1.1 eth0".into()]));
    }

    #[test]
    fn reachable_by_names_the_gateway() {
        let underlay = underlay();
        let gateways = [(
            "10.7.7.7".parse().expect("address"),
            "10.0.1.9".parse().expect("address"),
        )]
        .into();
        assert_eq!(
            via(&Resolver::new(&underlay, gateways), "10.7.7.7"),
            Ok(vec!["10.0.1.9 eth0".into()])
        );
    }

    #[test]
    fn this_node_itself_is_no_next_hop() {
        let underlay = underlay();
        let resolver = Resolver::new(&underlay, BTreeMap::new());
        let own = "10.0.1.2".parse().expect("address");
        assert_eq!(resolver.resolve(own, None), Err(Unresolved::Own(own)));
    }

    #[test]
    fn a_link_local_next_hop_needs_its_interface() {
        let underlay = underlay();
        let resolver = Resolver::new(&underlay, BTreeMap::new());
        let address = "fe80::1".parse().expect("address");
        assert_eq!(
            resolver.resolve(address, None),
            Err(Unresolved::NoInterface(address))
        );
        assert!(resolver.resolve(address, Some("eth0")).is_ok());
    }
}
