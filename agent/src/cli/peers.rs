//! `margay peers`.

use super::table;
use crate::server::answer::Peer;

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
            "LAST-ERROR",
        ]);
    }
    let mut rows = Vec::new();
    for peer in peers {
        let mut state = peer.state.clone();
        if !peer.enabled {
            state.push_str(" (disabled)");
        }
        if peer.families.is_empty() {
            rows.push(row(peer, &state, None, wide, true));
        }
        for (position, family) in peer.families.iter().enumerate() {
            rows.push(row(peer, &state, Some(family), wide, position == 0));
        }
    }
    table::draw(&heading, &rows)
}

fn row(
    peer: &Peer,
    state: &str,
    family: Option<&crate::server::answer::PeerFamily>,
    wide: bool,
    first: bool,
) -> Vec<String> {
    let once = |text: String| if first { text } else { " ".to_owned() };
    let of = |count: fn(&crate::server::answer::PeerFamily) -> String| {
        family.map(count).unwrap_or_default()
    };
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
            once(peer.last_error.clone().unwrap_or_default()),
        ]);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::answer::PeerFamily;

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
}
