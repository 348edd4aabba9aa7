//! `margay config show`.

use std::fmt::Write as _;

use super::table;
use crate::desired::show::ConfigShow;

/// The answer for people.
#[must_use]
pub(crate) fn table(show: &ConfigShow, wide: bool) -> String {
    let mut text = format!(
        "node {}, AS {}, router id {}\n",
        show.node,
        show.asn,
        show.router_id.as_deref().unwrap_or("-")
    );
    let mut heading = vec![
        "ORIGIN", "OBJECT", "ADDRESS", "PORT", "AS", "LOCAL-AS", "PASSIVE", "CLIENT",
    ];
    if wide {
        heading.extend([
            "SOURCE",
            "CLUSTER",
            "TTL-SECURITY",
            "RESTART",
            "KEEPALIVE",
            "NEXT-HOP",
            "SECRET",
            "FILTERS",
        ]);
    }
    let yes = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
    let rows: Vec<Vec<String>> = show
        .sessions
        .iter()
        .map(|session| {
            let mut row = vec![
                session.origin.to_owned(),
                session.object.clone(),
                session.address.clone(),
                session.port.to_string(),
                session.asn.to_string(),
                session.local_asn.to_string(),
                yes(session.passive),
                yes(session.route_reflector_client),
            ];
            if wide {
                row.extend([
                    session.source_address.clone().unwrap_or_default(),
                    session.cluster_id.clone().unwrap_or_default(),
                    session
                        .ttl_security
                        .map(|hops| hops.to_string())
                        .unwrap_or_default(),
                    table::duration(session.restart_time),
                    session
                        .keepalive_time
                        .map(table::duration)
                        .unwrap_or_default(),
                    session.next_hop_mode.to_owned(),
                    session
                        .password_from
                        .as_ref()
                        .map(|from| format!("{}/{}", from.secret, from.key))
                        .unwrap_or_default(),
                    session.filters.join(" "),
                ]);
            }
            row
        })
        .collect();
    let mut section = |heading: &[&str], rows: &[Vec<String>]| {
        if !rows.is_empty() {
            // Writing to a string does not fail.
            let _ = write!(text, "\n{}", table::draw(heading, rows));
        }
    };
    section(&heading, &rows);
    let rows: Vec<Vec<String>> = show
        .originated
        .iter()
        .map(|route| {
            vec![
                route.prefix.clone(),
                route.origin.to_owned(),
                route.communities.join(" "),
            ]
        })
        .collect();
    section(&["ORIGINATED", "ORIGIN", "COMMUNITIES"], &rows);
    let rows: Vec<Vec<String>> = show
        .pools
        .iter()
        .map(|pool| {
            vec![
                pool.cidr.clone(),
                pool.encapsulation.to_owned(),
                pool.mode.unwrap_or_default().to_owned(),
                yes(pool.nat_outgoing),
            ]
        })
        .collect();
    section(&["POOL", "ENCAPSULATION", "MODE", "NAT-OUTGOING"], &rows);
    text
}
