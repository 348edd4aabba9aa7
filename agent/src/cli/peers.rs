//! `margay peers`.

use super::table;
use crate::server::answer::{Peer, PeerFamily};

/// The answer for people.
#[must_use]
pub(crate) fn table(peers: &[Peer], wide: bool) -> String {
    let mut heading = vec![
        "PEER",
        "AS",
        "ORIGIN",
        "STATE",
        "FOR",
        "FAMILY",
        "RECEIVED",
        "ACCEPTED",
        "ADVERTISED",
    ];
    // Few peers are watched by BFD, and most tables have none.
    let watched = peers.iter().any(|peer| peer.bfd.is_some());
    if watched {
        heading.push("BFD");
    }
    if wide {
        heading.extend([
            "OBJECT",
            "LOCAL",
            "ROUTER-ID",
            "HOLD",
            "EOR-IN",
            "EOR-OUT",
            "LAG",
            "RETENTION",
            "STALE",
            "REJECTED",
            "ERRORS",
            "WARNINGS",
            "LAST-ERROR",
        ]);
        if watched {
            heading.extend(["BFD-FOR", "BFD-DETECT", "BFD-REASON"]);
        }
    }
    let mut rows = Vec::new();
    for peer in peers {
        let mut state = peer.state.clone();
        if !peer.enabled {
            state.push_str(" (disabled)");
        }
        if peer.families.is_empty() {
            rows.push(row(peer, &state, None, (wide, watched), true));
        }
        for (position, family) in peer.families.iter().enumerate() {
            let first = position == 0;
            rows.push(row(peer, &state, Some(family), (wide, watched), first));
        }
    }
    let mut text = table::draw(&heading, &rows);
    if let [peer] = peers {
        text.push_str(&troubles(peer));
        text.push_str(&mistakes(peer));
    }
    text
}

/// What somebody should look into: what holds of the peer at present, and why which of its paths take no part.
fn troubles(peer: &Peer) -> String {
    let mut text = String::new();
    let mut line = |trouble: &str| {
        if text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!("WARNING {trouble}\n"));
    };
    peer.warnings.iter().for_each(|warning| line(warning));
    for family in &peer.families {
        let name = &family.family;
        if family.unsendable > 0 {
            line(&format!(
                "{name}: {} times a route was not told because its attributes fit no message",
                family.unsendable
            ));
        }
    }
    let of_family = |family: &PeerFamily| {
        let name = family.family.clone();
        let rejected = family.rejected.clone().into_iter();
        rejected
            .map(move |rejected| vec![rejected.count.to_string(), name.clone(), rejected.reason])
    };
    let rows: Vec<Vec<String>> = peer.families.iter().flat_map(of_family).collect();
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&table::draw(&["REJECTED", "FAMILY", "WHY"], &rows));
    }
    text
}

/// What one peer got wrong: how often each kind, and the latest messages, to be shown to whoever runs it.
fn mistakes(peer: &Peer) -> String {
    let mut text = String::new();
    if !peer.errors.is_empty() {
        let rows: Vec<Vec<String>> = peer
            .errors
            .iter()
            .map(|error| {
                vec![
                    error.count.to_string(),
                    error
                        .attribute
                        .clone()
                        .unwrap_or_else(|| error.class.clone()),
                    error.reason.clone(),
                    error.action.clone(),
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&table::draw(&["ERRORS", "WHERE", "WHAT", "ACTION"], &rows));
    }
    for offence in &peer.offences {
        text.push_str(&format!(
            "\n{} ago: {} ({}), {} octets{}{}\n  {}\n",
            table::duration(offence.ago),
            offence.reason,
            offence.action,
            offence.length,
            if offence.prefixes.is_empty() {
                ""
            } else {
                ", about "
            },
            offence.prefixes.join(" "),
            offence.octets,
        ));
    }
    text
}

fn row(
    peer: &Peer,
    state: &str,
    family: Option<&PeerFamily>,
    (wide, watched): (bool, bool),
    first: bool,
) -> Vec<String> {
    let once = |text: String| if first { text } else { " ".to_owned() };
    let of = |count: fn(&PeerFamily) -> String| family.map(count).unwrap_or_default();
    let mut row = vec![
        once(peer.name.clone()),
        once(peer.asn.to_string()),
        once(peer.origin.clone()),
        once(state.to_owned()),
        once(table::duration(peer.since)),
        of(|family| family.family.clone()),
        of(|family| family.received.to_string()),
        of(|family| family.accepted.to_string()),
        of(|family| family.advertised.to_string()),
    ];
    let of_path = |text: fn(&crate::server::answer::PeerBfd) -> String| {
        once(peer.bfd.as_ref().map(text).unwrap_or_default())
    };
    if watched {
        row.push(of_path(|path| path.state.clone()));
    }
    if wide {
        let yes = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
        row.extend([
            once(peer.object.clone()),
            once(peer.local_address.clone().unwrap_or_default()),
            once(peer.router_id.clone().unwrap_or_default()),
            once(peer.hold_time.map(table::duration).unwrap_or_default()),
            family
                .map(|family| yes(family.end_of_rib_received))
                .unwrap_or_default(),
            family
                .map(|family| yes(family.end_of_rib_sent))
                .unwrap_or_default(),
            of(|family| family.lag.to_string()),
            of(|family| family.retention.clone()),
            of(|family| family.stale.to_string()),
            of(|family| {
                let counts = family.rejected.iter().map(|rejected| rejected.count);
                counts.sum::<usize>().to_string()
            }),
            once(
                peer.errors
                    .iter()
                    .map(|error| error.count)
                    .sum::<u64>()
                    .to_string(),
            ),
            once(peer.warnings.join("; ")),
            once(peer.last_error.clone().unwrap_or_default()),
        ]);
        if watched {
            row.extend([
                of_path(|path| table::duration(path.since)),
                of_path(|path| format!("{}ms", path.detection_time)),
                of_path(|path| path.diagnostic.clone()),
            ]);
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::answer::Rejected;

    #[test]
    fn what_is_wrong_with_one_peer_is_told_below_it() {
        let peers = [Peer {
            name: "tor".into(),
            asn: 64601,
            origin: "file".into(),
            state: "Established".into(),
            enabled: true,
            warnings: vec!["more than 2 prefixes of ipv4-unicast".into()],
            families: vec![PeerFamily {
                family: "ipv4-unicast".into(),
                received: 3,
                accepted: 1,
                rejected: vec![Rejected {
                    reason: "as-loop".into(),
                    count: 2,
                }],
                unsendable: 4,
                ..PeerFamily::default()
            }],
            ..Peer::default()
        }];
        insta::assert_snapshot!(table(&peers, false), @r"
        PEER  AS     ORIGIN  STATE        FOR  FAMILY        RECEIVED  ACCEPTED  ADVERTISED
        tor   64601  file    Established  0s   ipv4-unicast  3         1         0

        WARNING more than 2 prefixes of ipv4-unicast
        WARNING ipv4-unicast: 4 times a route was not told because its attributes fit no message

        REJECTED  FAMILY        WHY
        2         ipv4-unicast  as-loop
        ");
        let wide = table(&peers, true);
        assert!(wide.contains("WARNINGS"), "{wide}");
        assert!(
            wide.lines()
                .nth(1)
                .is_some_and(|line| line.contains("more than 2 prefixes"))
        );
    }

    #[test]
    fn a_peer_with_two_families_takes_two_lines() {
        let family = |name: &str, received| PeerFamily {
            family: name.into(),
            received,
            accepted: received,
            advertised: 2,
            ..PeerFamily::default()
        };
        let peers = [
            Peer {
                name: "10.0.1.3".into(),
                asn: 64512,
                origin: "mesh".into(),
                state: "Established".into(),
                since: 65,
                enabled: true,
                families: vec![family("ipv4-unicast", 3), family("ipv6-unicast", 1)],
                ..Peer::default()
            },
            Peer {
                name: "10.0.1.1".into(),
                asn: 64601,
                origin: "global".into(),
                state: "Idle".into(),
                ..Peer::default()
            },
        ];
        insta::assert_snapshot!(table(&peers, false), @r"
        PEER      AS     ORIGIN  STATE            FOR    FAMILY        RECEIVED  ACCEPTED  ADVERTISED
        10.0.1.3  64512  mesh    Established      1m05s  ipv4-unicast  3         3         2
                                                         ipv6-unicast  1         1         2
        10.0.1.1  64601  global  Idle (disabled)  0s     -             -         -         -
        ");
    }

    #[test]
    fn what_somebody_should_look_into_stands_below_a_single_peer() {
        let peer = Peer {
            name: "10.0.1.3".into(),
            warnings: vec!["nobody calls".into()],
            ..Peer::default()
        };
        let text = table(std::slice::from_ref(&peer), false);
        assert!(text.ends_with("\nWARNING nobody calls\n"), "{text}");
        assert!(!table(&[peer.clone(), peer], false).contains("WARNING"));
    }

    #[test]
    fn a_watched_path_has_a_column() {
        let peers = [
            Peer {
                name: "10.0.1.3".into(),
                state: "Established".into(),
                enabled: true,
                bfd: Some(crate::server::answer::PeerBfd {
                    state: "Up".into(),
                    ..Default::default()
                }),
                ..Peer::default()
            },
            Peer {
                name: "10.0.1.1".into(),
                state: "Idle".into(),
                enabled: true,
                ..Peer::default()
            },
        ];
        insta::assert_snapshot!(table(&peers, false), @r"
        PEER      AS  ORIGIN  STATE        FOR  FAMILY  RECEIVED  ACCEPTED  ADVERTISED  BFD
        10.0.1.3  0   -       Established  0s   -       -         -         -           Up
        10.0.1.1  0   -       Idle         0s   -       -         -         -           -
        ");
    }
}
