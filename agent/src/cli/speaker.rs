//! `margay speaker --check`: what a speaker's file means.

use std::fmt::Write as _;

use margay_bgp::bmp::Collector;
use margay_bgp::policy::{Policy, Verdict};
use margay_bgp::speaker::config::{LimitAction, MaximumPrefixes, PeerConfig};

use super::table;
use crate::config::speaker::SpeakerFile;

/// The file in other words: what is left out of it stands here with its default.
#[must_use]
pub(crate) fn meaning(file: &SpeakerFile) -> String {
    let speaker = &file.speaker;
    let mut text = format!("AS {}, router id {}\n", speaker.asn, speaker.router_id);
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<12}{value}");
    };
    line("listens on", or(list(&speaker.listen), "nothing"));
    line("families", list(&speaker.families));
    line(
        "best routes",
        if file.kernel.install {
            format!(
                "go to the kernel as protocol {}",
                file.kernel.protocol.number()
            )
        } else {
            "are not installed".to_owned()
        },
    );
    let rows: Vec<Vec<String>> = speaker
        .peers
        .iter()
        .map(|peer| {
            vec![
                peer.name.clone(),
                peer.remote.to_string(),
                peer.asn.to_string(),
                peer.local_asn.unwrap_or(speaker.asn).to_string(),
                list(&peer.families),
                policy(&peer.import),
                policy(&peer.export),
                features(peer).join(", "),
            ]
        })
        .collect();
    let heading = [
        "PEER", "ADDRESS", "AS", "LOCAL-AS", "FAMILIES", "IMPORT", "EXPORT", "FEATURES",
    ];
    let mut section = |heading: &[&str], rows: &[Vec<String>]| {
        if !rows.is_empty() {
            let _ = write!(text, "\n{}", table::draw(heading, rows));
        }
    };
    section(&heading, &rows);
    let rows: Vec<Vec<String>> = speaker
        .originate
        .iter()
        .map(|route| {
            let next_hop = route.next_hop.map(|address| address.to_string());
            vec![
                route.prefix.to_string(),
                next_hop.unwrap_or_default(),
                [list(&route.communities), list(&route.large_communities)]
                    .join(" ")
                    .trim()
                    .to_owned(),
            ]
        })
        .collect();
    section(&["ORIGINATED", "NEXT-HOP", "COMMUNITIES"], &rows);
    let rows: Vec<Vec<String>> = speaker
        .aggregates
        .iter()
        .map(|aggregate| {
            let told = if aggregate.summary_only { "no" } else { "yes" };
            vec![aggregate.prefix.to_string(), told.to_owned()]
        })
        .collect();
    section(&["AGGREGATE", "ITS-PARTS-ARE-TOLD"], &rows);
    let rows: Vec<Vec<String>> = speaker.monitoring.iter().map(collector).collect();
    section(&["COLLECTOR", "TABLES", "STATISTICS"], &rows);
    text
}

fn collector(collector: &Collector) -> Vec<String> {
    let tables = [
        (collector.pre_policy, "before policy"),
        (collector.post_policy, "after policy"),
        (collector.loc_rib, "best routes"),
        (collector.adj_rib_out, "what peers are told"),
    ];
    let tables: Vec<&str> = tables
        .into_iter()
        .filter_map(|(told, name)| told.then_some(name))
        .collect();
    vec![
        collector.address.to_string(),
        tables.join(", "),
        collector
            .statistics
            .map_or_else(|| "never".to_owned(), |every| format!("{every:?}")),
    ]
}

fn policy(policy: &Policy) -> String {
    let default = match policy.default {
        Verdict::Accept => "accept",
        Verdict::Reject => "reject",
    };
    match policy.rules.len() {
        0 => default.to_owned(),
        1 => format!("1 rule, else {default}"),
        rules => format!("{rules} rules, else {default}"),
    }
}

/// What is on with a peer beyond the usual.
fn features(peer: &PeerConfig) -> Vec<String> {
    let flags = [
        (!peer.enabled, "disabled"),
        (peer.passive, "passive"),
        (peer.route_reflector_client, "client"),
        (peer.password.is_some(), "TCP-MD5"),
        (!peer.tcp_ao.is_empty(), "TCP-AO"),
        (peer.extended_next_hop, "IPv6 next hops"),
        (!peer.add_path_receive, "takes single paths"),
        (peer.add_path_send.is_some(), "told several paths"),
        (peer.graceful_restart.is_none(), "no graceful restart"),
        (peer.long_lived.is_some(), "long-lived graceful restart"),
        (peer.default_originate, "default route"),
        (peer.remove_private_as.is_some(), "private ASs hidden"),
        (peer.as_override, "AS override"),
        (peer.drain, "drained"),
    ];
    let mut words: Vec<String> = flags
        .into_iter()
        .filter(|(on, _)| *on)
        .map(|(_, name)| name.to_owned())
        .collect();
    if let Some(hops) = peer.ttl_security {
        words.push(format!("GTSM {hops}"));
    }
    if let Some(role) = peer.role {
        words.push(format!("we are its {role:?}"));
    }
    if let Some(bfd) = &peer.bfd {
        let strict = if bfd.strict { ", waited for" } else { "" };
        let (interval, multiplier) = (bfd.min_rx, bfd.multiplier);
        words.push(format!("BFD {multiplier} x {interval:?}{strict}"));
    }
    if let Some(MaximumPrefixes { limit, action }) = peer.maximum_prefixes {
        let then = match action {
            LimitAction::Close => "closed".to_owned(),
            LimitAction::Restart(pause) => format!("closed for {pause:?}"),
            LimitAction::Warn => "warned of".to_owned(),
            LimitAction::Discard => "not taken".to_owned(),
        };
        words.push(format!("{limit} prefixes, then {then}"));
    }
    words
}

fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(" ")
}

fn or(text: String, instead: &str) -> String {
    if text.is_empty() {
        instead.to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::speaker;

    #[test]
    fn a_file_is_told_with_what_it_leaves_out() {
        let text = "\
asn: 64512
routerId: 10.100.0.1
listen: [\"10.100.0.1:179\"]
originate: [10.65.0.0/26]
monitoring: [{ address: 10.100.0.9 }]
peers:
- { name: tor, address: 10.0.0.1, asn: 64601, bfd: true, import: { reject: [10.65.0.0/16] } }
- { name: clients, range: 10.100.128.0/17, asn: 64512, routeReflectorClient: true, passive: true, families: [ipv4-unicast] }
";
        let file = speaker::parse(Path::new("speaker.yaml"), text).expect("a good file");
        insta::assert_snapshot!(meaning(&file), @r"
        AS 64512, router id 10.100.0.1
        listens on  10.100.0.1:179
        families    ipv4-unicast ipv6-unicast
        best routes are not installed

        PEER     ADDRESS          AS     LOCAL-AS  FAMILIES                   IMPORT               EXPORT  FEATURES
        tor      10.0.0.1:179     64601  64512     ipv4-unicast ipv6-unicast  1 rule, else accept  accept  BFD 3 x 300ms
        clients  10.100.128.0/17  64512  64512     ipv4-unicast               accept               accept  passive, client

        ORIGINATED    NEXT-HOP  COMMUNITIES
        10.65.0.0/26  -         -

        COLLECTOR         TABLES                      STATISTICS
        10.100.0.9:11019  before policy, best routes  60s
        ");
    }
}
