//! Answers the speaker's questions about next hops with what the kernel holds that is not ours.
//!
//! The speaker asks about each next hop once ([`SpeakerEvent::NextHops`]); it is told at once, and again whenever a change of the
//! kernel's links, addresses or routes changes the answer. The same resolution places the routes in the kernel, so a path that
//! the speaker takes for reachable is one that can be installed. Routes of ours are never asked, and a next hop therefore not
//! reached through the route that hangs on it.
//!
//! [`SpeakerEvent::NextHops`]: margay_bgp::transport::SpeakerEvent::NextHops

use std::collections::BTreeMap;

use margay_bgp::rib::{NextHopInterest, NextHopState, Reach, RouteNextHop};

use crate::desired::next_hop::Resolver;

/// What the speaker was told of the next hops it wants to know of.
#[derive(Debug, Default)]
pub(crate) struct NextHops {
    told: BTreeMap<RouteNextHop, Option<Option<Reach>>>,
}

impl NextHops {
    /// Takes questions in; those about a next hop known already are answered again.
    pub(crate) fn ask(&mut self, interests: Vec<NextHopInterest>) {
        for interest in interests {
            match interest {
                NextHopInterest::Watch(next_hop) => self.told.insert(next_hop, None),
                NextHopInterest::Forget(next_hop) => self.told.remove(&next_hop),
            };
        }
    }

    /// What the speaker does not know yet, or knows otherwise. `interface_name` names an interface by its index.
    pub(crate) fn answers(
        &mut self,
        resolver: &Resolver<'_>,
        interface_name: impl Fn(u32) -> Option<String>,
    ) -> Vec<NextHopState> {
        let mut answers = Vec::new();
        for (next_hop, told) in &mut self.told {
            let reach = match next_hop.interface_index {
                None => resolver.reach(next_hop.address, None),
                Some(index) => interface_name(index)
                    .and_then(|name| resolver.reach(next_hop.address, Some(&name))),
            };
            if *told != Some(reach) {
                *told = Some(reach);
                answers.push(NextHopState {
                    next_hop: *next_hop,
                    reach,
                });
            }
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::state::{ConnectedSubnet, Underlay, UnderlayLink, UnderlayRoute};
    use crate::kernel::KernelNextHop;

    fn hop(address: &str, interface_index: Option<u32>) -> RouteNextHop {
        RouteNextHop {
            address: address.parse().expect("address"),
            interface_index,
        }
    }

    fn underlay() -> Underlay {
        let route = |prefix: &str, metric| UnderlayRoute {
            prefix: prefix.parse().expect("prefix"),
            metric,
            next_hops: vec![KernelNextHop::gateway(
                "10.0.1.1".parse().expect("address"),
                Some("eth0".into()),
            )],
            source: None,
            protocol: 4,
        };
        let link = UnderlayLink {
            mtu: 1500,
            up: true,
            running: true,
        };
        Underlay {
            connected: vec![ConnectedSubnet {
                prefix: "10.0.1.0/24".parse().expect("prefix"),
                interface: "eth0".into(),
                address: "10.0.1.2".parse().expect("address"),
            }],
            routes: vec![route("0.0.0.0/0", 100), route("10.7.0.0/16", 20)],
            links: [("eth0".to_owned(), link)].into(),
            ipip_available: true,
        }
    }

    fn names(index: u32) -> Option<String> {
        (index == 2).then(|| "eth0".to_owned())
    }

    fn answers(hops: &mut NextHops, underlay: &Underlay) -> Vec<(String, Option<(u32, bool)>)> {
        hops.answers(&Resolver::new(underlay, BTreeMap::new()), names)
            .into_iter()
            .map(|state| {
                let reach = state.reach.map(|reach| (reach.metric, reach.via_default));
                (state.next_hop.address.to_string(), reach)
            })
            .collect()
    }

    #[test]
    fn a_next_hop_costs_what_the_route_to_it_does() {
        let mut hops = NextHops::default();
        for address in ["10.0.1.9", "10.7.1.1", "10.9.9.9", "10.0.1.2"] {
            hops.ask(vec![NextHopInterest::Watch(hop(address, None))]);
        }
        let wanted = [
            ("10.0.1.2", None),
            ("10.0.1.9", Some((0, false))),
            ("10.7.1.1", Some((20, false))),
            ("10.9.9.9", Some((100, true))),
        ];
        assert_eq!(
            answers(&mut hops, &underlay()),
            wanted.map(|(address, reach)| (address.to_owned(), reach))
        );
        assert_eq!(answers(&mut hops, &underlay()), []);
    }

    #[test]
    fn only_what_changed_is_told_again() {
        let mut hops = NextHops::default();
        for address in ["10.0.1.9", "10.7.1.1"] {
            hops.ask(vec![NextHopInterest::Watch(hop(address, None))]);
        }
        let mut underlay = underlay();
        answers(&mut hops, &underlay);
        underlay.routes.retain(|route| route.metric != 20);
        assert_eq!(
            answers(&mut hops, &underlay),
            [("10.7.1.1".to_owned(), Some((100, true)))]
        );
        for link in underlay.links.values_mut() {
            link.running = false;
        }
        assert_eq!(
            answers(&mut hops, &underlay),
            [("10.0.1.9".to_owned(), None), ("10.7.1.1".to_owned(), None)]
        );
    }

    #[test]
    fn a_link_local_next_hop_is_reached_while_its_link_is_up() {
        let mut hops = NextHops::default();
        hops.ask(vec![NextHopInterest::Watch(hop("fe80::1", Some(2)))]);
        hops.ask(vec![NextHopInterest::Watch(hop("fe80::1", Some(3)))]);
        let mut underlay = underlay();
        let told = answers(&mut hops, &underlay);
        assert_eq!(told.iter().filter(|(_, reach)| reach.is_some()).count(), 1);
        underlay.links.clear();
        underlay.links.insert(
            "eth0".into(),
            UnderlayLink {
                mtu: 1500,
                up: false,
                running: false,
            },
        );
        assert_eq!(
            answers(&mut hops, &underlay),
            [("fe80::1".to_owned(), None)]
        );
    }

    #[test]
    fn d18_a_next_hop_is_not_reached_through_the_route_that_hangs_on_it() {
        // The kernel holds our 10.8.0.0/16 by 10.8.0.1; it is no part of the underlay, whatever else is.
        let mut hops = NextHops::default();
        hops.ask(vec![NextHopInterest::Watch(hop("10.8.0.1", None))]);
        let mut underlay = underlay();
        underlay.routes.retain(|route| route.prefix.len() > 0);
        assert_eq!(
            answers(&mut hops, &underlay),
            [("10.8.0.1".to_owned(), None)]
        );
    }
}
