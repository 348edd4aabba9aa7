//! No encapsulation at all: routers that carry the pods' routes, a fabric of eBGP.
//!
//! Every node has an AS of its own, its ToR is AS 6460n, the ToRs peer with each other, the mesh is off. Inside a rack the
//! ToR passes on the other node as next hop, so that traffic does not go through the router; across racks it goes
//! through both.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::Outcome;
use crate::pace;
use crate::report::Report;
use crate::topology::{Encapsulation, Lab, Plan};
use crate::view::{self, Way};

/// IPv4 alone.
///
/// # Errors
/// When a step on which all others rest fails.
pub fn run(folder: &Path, report: &mut Report) -> Result<Outcome> {
    let plan = Plan {
        ipv4: Encapsulation::None,
        routed: true,
        ..Plan::default()
    };
    routed(Lab::build(plan, folder)?, report, 1)
}

/// Both families, a session for each.
///
/// # Errors
/// As [`run`].
pub fn dual(folder: &Path, report: &mut Report) -> Result<Outcome> {
    let plan = Plan {
        ipv4: Encapsulation::None,
        ipv6: Some(Encapsulation::None),
        routed: true,
        ..Plan::default()
    };
    routed(Lab::build(plan, folder)?, report, 2)
}

/// Both families on one session over IPv4, as an annotation of the `BGPPeer` asks.
///
/// # Errors
/// As [`run`].
pub fn joined(folder: &Path, report: &mut Report) -> Result<Outcome> {
    let plan = Plan {
        ipv4: Encapsulation::None,
        ipv6: Some(Encapsulation::None),
        routed: true,
        joined_sessions: true,
        ..Plan::default()
    };
    routed(Lab::build(plan, folder)?, report, 1)
}

/// FRR makes itself the next hop of IPv6 routes it sends over an IPv4 session, whoever is on the same subnet.
fn through_frr(lab: &Lab, rack: &str, family: u8) -> bool {
    lab.plan.joined_sessions && family == 6 && rack == "b"
}

fn routed(mut lab: Lab, report: &mut Report, sessions: usize) -> Result<Outcome> {
    let families: &[u8] = if lab.plan.ipv6.is_some() {
        &[4, 6]
    } else {
        &[4]
    };
    lab.start_agents()?;
    report.check("sessions with the ToR alone", || {
        for node in &lab.nodes {
            view::await_sessions(node, sessions, pace::seconds(40))?;
        }
        Ok(format!(
            "{sessions} a node; {} seen by the ToRs",
            lab.await_router_sessions(pace::seconds(20))?
        ))
    });
    lab.fill_pods(3)?;
    report.check(
        "the next hop is the other node inside the rack, the ToR across",
        || {
            let mut count = 0;
            for family in families {
                count += view::await_routes(&lab, *family, pace::seconds(20), |from, to| {
                    let gateway = if from.rack == to.rack && !through_frr(&lab, &from.rack, *family)
                    {
                        to.address(*family)?
                    } else {
                        let own = &lab.rack(&from.rack)?.addresses;
                        *own.iter()
                            .find(|address| address.is_ipv4() == (*family == 4))
                            .context("the ToR's address")?
                    };
                    Ok(Some(Way {
                        gateway: Some(gateway.to_string()),
                        interface: "eth0".to_owned(),
                    }))
                })?;
            }
            Ok(format!("{count} routes"))
        },
    );
    report.check("everyone pings everyone", || {
        view::await_everyone(&lab, pace::seconds(20))
    });
    report.check(
        "packets are plain everywhere and pass through both ToRs across racks",
        || {
            let from = &lab.nodes[0].pods["n1-pod1"];
            for family in families {
                let (source, far) = (
                    from.address(*family)?,
                    lab.nodes[3].pods["n4-pod1"].address(*family)?,
                );
                let packets = view::seen_at(&lab, &lab.racks[0].netns, "up0", from, far)?;
                ensure!(
                    packets
                        .iter()
                        .all(|packet| packet.inner.is_none() && packet.source == source),
                    "{packets:?}"
                );
            }
            Ok("at the ToRs' link".to_owned())
        },
    );
    report.check(
        "inside a rack traffic goes straight to the other node",
        || {
            let from = &lab.nodes[2].pods["n3-pod1"];
            for family in families {
                let near = lab.nodes[3].pods["n4-pod1"].address(*family)?;
                let packets = view::seen_at(&lab, &lab.nodes[3].netns, "eth0", from, near)?;
                ensure!(
                    packets.iter().all(|packet| packet.inner.is_none()),
                    "{packets:?}"
                );
                // The router would have taken one off the time to live; the bridge it also is does not.
                let expected = if through_frr(&lab, "b", *family) {
                    3
                } else {
                    2
                };
                let passed = view::hops(from, near)?;
                ensure!(passed == expected, "{passed} hops to {near}");
            }
            Ok("two hops: the pods' nodes".to_owned())
        },
    );
    report.check("the ToRs carry every block", || {
        let mut carried = 0;
        for family in families {
            for node in &lab.nodes {
                for block in view::blocks(node, *family)? {
                    for rack in &lab.racks {
                        let routes = rack.router.routes(*family)?;
                        let route = routes
                            .iter()
                            .find(|route| route.prefix == block && route.best);
                        let route =
                            route.with_context(|| format!("rack {} lacks {block}", rack.name))?;
                        ensure!(route.as_path.last() == Some(&node.asn), "{route:?}");
                        carried += 1;
                    }
                }
            }
        }
        Ok(format!(
            "{carried} routes with the node's AS at the end of the path"
        ))
    });
    Ok(Outcome::Passed)
}
