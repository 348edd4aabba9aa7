//! The lab proves itself: the fabric of [`crate::topology`] with BIRD on the nodes in margay's place.
//!
//! Each node's BIRD announces one prefix for a hand-made pod. With ToRs that carry pod prefixes, pods reach each other
//! across racks and a neighbour in the rack is the next hop; with ToRs that refuse them, they keep what they refused.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Result, bail, ensure};

use super::Outcome;
use crate::capture::Capture;
use crate::eventually::eventually;
use crate::link::{self, End};
use crate::netns::Netns;
use crate::pace;
use crate::ping::{self, Endpoint, Stream};
use crate::report::Report;
use crate::router::bird::Version;
use crate::router::{Bird, Router as _};
use crate::topology::{Encapsulation, Lab, Plan};

/// Builds the lab and checks it.
///
/// # Errors
/// When the fabric cannot be built.
pub fn run(folder: &Path, report: &mut Report) -> Result<Outcome> {
    let plan = Plan {
        ipv4: Encapsulation::None,
        ipv6: Some(Encapsulation::None),
        routed: true,
        ..Plan::default()
    };
    let lab = Lab::build(plan, folder)?;
    let mut pods = Vec::new();
    let mut birds = Vec::new();
    for (number, node) in (1_u8..).zip(&lab.nodes) {
        let pod = Netns::create_settled(&format!("pod{number}"))?;
        link::wire(
            &End {
                netns: &pod,
                interface: "eth0",
            },
            &End {
                netns: &node.netns,
                interface: "cali0",
            },
        )?;
        let list: Vec<IpAddr> = vec![
            format!("10.65.{number}.1").parse()?,
            format!("fd65::{number}:1").parse()?,
        ];
        link::addresses(
            &pod,
            "eth0",
            &[format!("{}/24", list[0]), format!("{}/112", list[1])],
        )?;
        link::addresses(
            &node.netns,
            "cali0",
            &[
                format!("10.65.{number}.254/24"),
                format!("fd65::{number}:254/112"),
            ],
        )?;
        pod.ip(&format!("route add default via 10.65.{number}.254"))?;
        pod.ip(&format!("-6 route add default via fd65::{number}:254"))?;
        node.netns.sysctl("net.ipv4.ip_forward", "1")?;
        node.netns.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        let rack = lab.rack(&node.rack)?;
        let mut config = format!("router id {};\nprotocol device {{ }}\n", node.addresses[0]);
        for (family, prefix) in [
            (4, format!("10.65.{number}.0/24")),
            (6, format!("fd65::{number}:0/112")),
        ] {
            let position = usize::from(family == 6);
            config.push_str(&format!(
                "protocol kernel {{ ipv{family} {{ import none; export where source = RTS_BGP; }}; }}\n\
                 protocol static {{ ipv{family}; route {prefix} via \"cali0\"; }}\n\
                 protocol bgp tor{family} {{ local {} as {}; neighbor {} as {}; connect delay time 1; connect retry time 1; ipv{family} {{ import all; export where source = RTS_STATIC; }}; }}\n",
                node.addresses[position], node.asn, rack.addresses[position], rack.asn
            ));
        }
        birds.push(Bird::start(Version::Two, &node.netns, &config, folder)?);
        pods.push(Endpoint {
            name: pod.name().to_owned(),
            netns: pod,
            addresses: list,
        });
    }
    report.check("every session of both routers is up", || {
        Ok(format!(
            "{} sessions",
            lab.await_router_sessions(pace::seconds(40))?
        ))
    });
    report.check(
        "hand-made pods reach each other through both routers",
        || {
            let reach = ping::await_all_pairs(&pods, &pods, pace::seconds(20))?;
            Ok(format!("{} pairs, IPv4 and IPv6", reach.tried))
        },
    );
    report.check(
        "the next hop inside a rack is the other node, across racks the router",
        || {
            for (index, inside, across) in
                [(0, "10.0.1.12", "10.0.1.1"), (2, "10.0.2.12", "10.0.2.1")]
            {
                let routes = link::routes(&lab.nodes[index].netns, 4)?;
                let pods: Vec<_> = routes
                    .iter()
                    .filter(|route| route.protocol == "12")
                    .collect();
                let via = |gateway: &str| {
                    pods.iter()
                        .filter(|route| {
                            route.prefix.starts_with("10.65.") && route.goes_via(gateway)
                        })
                        .count()
                };
                ensure!(via(inside) == 1 && via(across) == 2, "{pods:?}");
            }
            Ok("on a node of each rack".to_owned())
        },
    );
    report.check(
        "a capture on the routers' link shows the pods' own addresses",
        || {
            let capture = Capture::start(&lab.racks[0].netns, "up0", "icmp", folder)?;
            ping::await_all_pairs(&pods[..1], &pods[3..], pace::seconds(5))?;
            let packets = capture.stop()?;
            let Some(packet) = packets.first() else {
                bail!("nothing captured")
            };
            ensure!(
                packet.is_icmp() && packet.source == pods[0].addresses[0] && packet.inner.is_none(),
                "{packet:?}"
            );
            Ok(format!(
                "{} > {}, {} packets",
                packet.source,
                packet.destination,
                packets.len()
            ))
        },
    );
    report.check(
        "outside hosts are reached through what the ToRs announce",
        || {
            for node in &lab.nodes {
                eventually("both outside prefixes", pace::seconds(10), || {
                    let routes = link::routes(&node.netns, 4)?;
                    let known = lab.racks.iter().filter(|rack| {
                        routes
                            .iter()
                            .any(|route| route.prefix == rack.outside_prefix)
                    });
                    let count = known.count();
                    if count == 2 {
                        Ok(())
                    } else {
                        bail!("{count} of 2 on {}", node.name)
                    }
                })?;
            }
            let outside: Vec<_> = lab.racks.iter().map(|rack| rack.outside.clone()).collect();
            let reach = ping::await_all_pairs(&lab.node_endpoints(), &outside, pace::seconds(10))?;
            Ok(format!("{} pairs", reach.tried))
        },
    );
    report.check(
        "a closed session takes exactly its routes, and the stream ping counts it",
        || {
            let steady = Stream::start(&pods[2].netns, pods[3].addresses[0], folder)?;
            let n1 = lab.nodes[0].address(4)?;
            let tor = &lab.racks[0].router;
            ensure!(
                tor.received(n1, 4)? == ["10.65.1.0/24"],
                "{:?}",
                tor.received(n1, 4)?
            );
            let before = tor.routes(4)?;
            tor.close(n1)?;
            let lost = eventually("n1's prefix is gone from the ToR", pace::seconds(5), || {
                let after = tor.routes(4).map_err(|error| error.to_string())?;
                let lost: Vec<_> = before
                    .iter()
                    .filter(|route| !after.contains(route))
                    .map(|route| route.prefix.clone())
                    .collect();
                if lost.is_empty() {
                    Err("nothing lost".to_owned())
                } else {
                    Ok(lost)
                }
            })?;
            ensure!(lost == ["10.65.1.0/24"], "{lost:?}");
            tor.open(n1)?;
            ping::await_all_pairs(&pods, &pods, pace::seconds(30))?;
            let steady = steady.stop()?;
            ensure!(steady.lost.is_empty() && steady.sent > 10, "{steady:?}");
            Ok(format!(
                "lost {}; {} of {} packets lost elsewhere",
                lost.join(" "),
                steady.lost.len(),
                steady.sent
            ))
        },
    );
    ensure!(
        birds.iter().all(|bird| bird.sessions().is_ok()),
        "a BIRD died"
    );
    Ok(Outcome::Passed)
}
