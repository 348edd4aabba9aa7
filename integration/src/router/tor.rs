//! Configuration of a top-of-rack router for both daemons, from one description.
//!
//! A ToR has an eBGP session with each node of its rack and with the other ToRs. It announces to the nodes the prefix of
//! the outside network behind it and what the other ToRs announced of theirs; to the other ToRs also its rack's subnet,
//! so that racks reach each other. Pod prefixes it either refuses (it then keeps what was refused, to show it) or
//! carries: installs them and passes them on.

use std::fmt::Write as _;
use std::net::IpAddr;

/// A neighbour of a ToR.
#[derive(Clone, Debug)]
pub struct Neighbor {
    /// Name of the session.
    pub name: String,
    /// Its AS.
    pub asn: u32,
    /// Its addresses, one session each; with `joined` the first alone.
    pub addresses: Vec<IpAddr>,
    /// Our addresses on the same wire, in the same order.
    pub local: Vec<IpAddr>,
    /// Whether the first session carries both families.
    pub joined: bool,
}

/// A ToR, whichever daemon runs it.
#[derive(Clone, Debug)]
pub struct Tor {
    /// Its AS.
    pub asn: u32,
    /// Router ID.
    pub router_id: IpAddr,
    /// Prefixes of the network behind it, by the interface they are on: announced to everyone.
    pub outside: Vec<(String, String)>,
    /// The rack's subnets: announced to other ToRs.
    pub rack: Vec<(String, String)>,
    /// Prefixes that cover everything the outside networks of all ToRs hold.
    pub outside_ranges: Vec<String>,
    /// Prefixes that cover all pods.
    pub pods: Vec<String>,
    /// Whether it carries pod prefixes or refuses them.
    pub carries_pods: bool,
    /// The nodes of its rack.
    pub nodes: Vec<Neighbor>,
    /// The other ToRs.
    pub tors: Vec<Neighbor>,
}

fn family(prefix: &str) -> u8 {
    if prefix.contains(':') { 6 } else { 4 }
}

impl Tor {
    fn families(&self) -> Vec<u8> {
        let mut families: Vec<u8> = self.rack.iter().map(|(prefix, _)| family(prefix)).collect();
        families.sort_unstable();
        families.dedup();
        families
    }

    /// The configuration in BIRD 2's language.
    #[must_use]
    pub fn bird(&self) -> String {
        let mut text = format!(
            "router id {};\nlog stderr all;\ndebug protocols {{ states }};\n",
            self.router_id
        );
        text.push_str("protocol device { scan time 5; }\n");
        for family in self.families() {
            self.bird_family(family, &mut text);
        }
        for (neighbor, node) in self
            .nodes
            .iter()
            .map(|node| (node, true))
            .chain(self.tors.iter().map(|tor| (tor, false)))
        {
            self.bird_neighbor(neighbor, node, &mut text);
        }
        text
    }

    fn bird_family(&self, of: u8, text: &mut String) {
        let set = |prefixes: &[String]| {
            let members: Vec<_> = prefixes
                .iter()
                .filter(|prefix| family(prefix) == of)
                .map(|prefix| format!("{prefix}+"))
                .collect();
            members.join(", ")
        };
        let own = self
            .outside
            .iter()
            .chain(&self.rack)
            .filter(|(prefix, _)| family(prefix) == of);
        let own: String = own
            .map(|(prefix, dev)| format!(" route {prefix} via \"{dev}\";"))
            .collect();
        let _ = writeln!(text, "protocol static own{of} {{ ipv{of};{own} }}");
        let _ = writeln!(
            text,
            "protocol kernel kernel{of} {{ ipv{of} {{ import none; export where source = RTS_BGP; }}; merge paths on; }}"
        );
        let pods = set(&self.pods);
        let outside = set(&self.outside_ranges);
        let carried = self.carries_pods && !pods.is_empty();
        let pods_clause = if carried {
            format!(" if net ~ [ {pods} ] then accept;")
        } else {
            String::new()
        };
        let _ = writeln!(text, "filter from_node{of} {{{pods_clause} reject; }}");
        let _ = writeln!(
            text,
            "filter to_node{of} {{{pods_clause} if net ~ [ {outside} ] then accept; reject; }}"
        );
        let refuse = if carried {
            String::new()
        } else {
            format!("if net ~ [ {pods} ] then reject; ")
        };
        let refuse = if pods.is_empty() {
            String::new()
        } else {
            refuse
        };
        let _ = writeln!(text, "filter tors{of} {{ {refuse}accept; }}");
    }

    fn bird_neighbor(&self, neighbor: &Neighbor, node: bool, text: &mut String) {
        let families = self.families();
        for (address, local) in neighbor.addresses.iter().zip(&neighbor.local) {
            let own = if address.is_ipv4() { 4 } else { 6 };
            let carried: Vec<u8> = if neighbor.joined {
                families.clone()
            } else {
                vec![own]
            };
            let suffix = if own == 4 { "" } else { "_v6" };
            let _ = writeln!(text, "protocol bgp {}{suffix} {{", neighbor.name);
            let _ = writeln!(
                text,
                "  local {local} as {}; neighbor {address} as {}; direct;",
                self.asn, neighbor.asn
            );
            text.push_str("  hold time 90; connect delay time 1; connect retry time 2; error wait time 1,4; graceful restart on;\n");
            for of in carried {
                let next_hop =
                    neighbor
                        .local
                        .iter()
                        .find(|_| of != own)
                        .map_or_else(String::new, |_| {
                            let other = neighbor
                                .local
                                .iter()
                                .find(|address| address.is_ipv4() == (of == 4));
                            other.map_or_else(String::new, |address| {
                                format!(" next hop address {address};")
                            })
                        });
                let (import, export) = if node {
                    ("from_node", "to_node")
                } else {
                    ("tors", "tors")
                };
                let export = format!("export filter {export}{of};");
                let _ = writeln!(
                    text,
                    "  ipv{of} {{ import keep filtered on; import filter {import}{of}; {export}{next_hop} }};"
                );
            }
            text.push_str("}\n");
            if neighbor.joined {
                break;
            }
        }
    }

    /// The configuration of FRR's bgpd.
    #[must_use]
    pub fn frr(&self) -> String {
        let mut text = format!(
            "router bgp {}\n bgp router-id {}\n",
            self.asn, self.router_id
        );
        text.push_str(" no bgp ebgp-requires-policy\n no bgp network import-check\n no bgp default ipv4-unicast\n");
        text.push_str(" bgp bestpath as-path multipath-relax\n timers bgp 30 90\n");
        let mut activations: Vec<(u8, IpAddr, bool)> = Vec::new();
        for (neighbor, node) in self
            .nodes
            .iter()
            .map(|node| (node, true))
            .chain(self.tors.iter().map(|tor| (tor, false)))
        {
            for address in
                neighbor
                    .addresses
                    .iter()
                    .take(if neighbor.joined { 1 } else { usize::MAX })
            {
                let _ = writeln!(text, " neighbor {address} remote-as {}", neighbor.asn);
                let _ = writeln!(text, " neighbor {address} description {}", neighbor.name);
                let _ = writeln!(text, " neighbor {address} timers connect 2");
                let own = if address.is_ipv4() { 4 } else { 6 };
                let carried = if neighbor.joined {
                    self.families()
                } else {
                    vec![own]
                };
                activations.extend(carried.into_iter().map(|of| (of, *address, node)));
            }
        }
        for of in self.families() {
            let _ = writeln!(text, " address-family ipv{of} unicast");
            for (prefix, _) in self
                .outside
                .iter()
                .chain(&self.rack)
                .filter(|(prefix, _)| family(prefix) == of)
            {
                let _ = writeln!(text, "  network {prefix}");
            }
            for (_, address, node) in activations
                .iter()
                .filter(|(activated, ..)| *activated == of)
            {
                let map = if *node { "NODE" } else { "TOR" };
                let _ = writeln!(text, "  neighbor {address} activate");
                let _ = writeln!(text, "  neighbor {address} soft-reconfiguration inbound");
                let _ = writeln!(text, "  neighbor {address} route-map FROM-{map} in");
                let _ = writeln!(text, "  neighbor {address} route-map TO-{map} out");
            }
            text.push_str("  maximum-paths 16\n exit-address-family\n");
        }
        text.push_str("exit\n!\n");
        let lists: [(&str, &[String]); 2] =
            [("PODS", &self.pods), ("OUTSIDE", &self.outside_ranges)];
        for (list, prefixes) in lists {
            for prefix in prefixes {
                let (word, most) = if family(prefix) == 4 {
                    ("ip", 32)
                } else {
                    ("ipv6", 128)
                };
                let _ = writeln!(text, "{word} prefix-list {list} permit {prefix} le {most}");
            }
        }
        text.push_str("!\n");
        self.frr_maps(&mut text);
        text
    }

    fn frr_maps(&self, text: &mut String) {
        let mut sequence = 0;
        let mut clause = |map: &str, action: &str, condition: Option<(u8, &str)>| {
            sequence += 10;
            let _ = writeln!(text, "route-map {map} {action} {sequence}");
            if let Some((of, list)) = condition {
                let word = if of == 4 { "ip" } else { "ipv6" };
                let _ = writeln!(text, " match {word} address prefix-list {list}");
            }
            text.push_str("exit\n");
        };
        let pod_families: Vec<u8> = self
            .families()
            .into_iter()
            .filter(|of| self.pods.iter().any(|prefix| family(prefix) == *of))
            .collect();
        for of in self.families() {
            if self.carries_pods && pod_families.contains(&of) {
                clause("FROM-NODE", "permit", Some((of, "PODS")));
                clause("TO-NODE", "permit", Some((of, "PODS")));
            }
            clause("TO-NODE", "permit", Some((of, "OUTSIDE")));
            if !self.carries_pods && pod_families.contains(&of) {
                clause("FROM-TOR", "deny", Some((of, "PODS")));
                clause("TO-TOR", "deny", Some((of, "PODS")));
            }
        }
        clause("FROM-NODE", "deny", None);
        clause("FROM-TOR", "permit", None);
        clause("TO-TOR", "permit", None);
    }
}
