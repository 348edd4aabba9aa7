//! `margay status`.

use std::fmt::Write as _;

use super::table;
use crate::server::answer::{Finding, Status};

/// The answer for people: a few lines, then whatever is found wanting.
#[must_use]
pub(crate) fn table(status: &Status, wide: bool) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<12}{value}");
    };
    line(
        "node",
        format!(
            "{} (margay {}, up {})",
            status.node,
            status.version,
            table::duration(status.uptime)
        ),
    );
    line(
        "state",
        match (status.healthy, status.ready, status.live) {
            (true, _, _) => "well".to_owned(),
            (false, _, false) => "a loop is stuck".to_owned(),
            (false, false, true) => {
                format!("starting: waits for {}", status.waiting_for.join(", "))
            }
            (false, true, true) => "runs, with something wanting (below)".to_owned(),
        },
    );
    let source = match (status.in_sync, status.from_saved_view) {
        (true, true) => "does not answer; the view of an earlier run is used",
        (true, false) => "in sync",
        (false, _) => "not read whole yet",
    };
    line("datastore", source.to_owned());
    if let (Some(asn), Some(router_id)) = (status.asn, &status.router_id) {
        line("bgp", format!("AS {asn}, router id {router_id}"));
    }
    let mut sessions = format!(
        "{} of {} established",
        status.sessions_established, status.sessions
    );
    if status.sessions_lingering > 0 {
        let _ = write!(
            sessions,
            ", {} of them until their successors are complete",
            status.sessions_lingering
        );
    }
    line("sessions", sessions);
    if !status.restarting.is_empty() {
        line(
            "restarting",
            format!("waits for End-of-RIB of {}", status.restarting.join(", ")),
        );
    }
    line("pods", status.pods.to_string());
    line(
        "routes",
        format!(
            "{} of {} in the kernel",
            status.routes_installed, status.routes_desired
        ),
    );
    let lists = [
        ("PENDING", &status.pending),
        ("PROBLEM", &status.problems),
        ("INVALID OBJECT", &status.invalid),
        ("NOT ACTED ON", &status.unsupported),
    ];
    for (heading, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        text.push('\n');
        text.push_str(&findings(heading, list, if wide { usize::MAX } else { 20 }));
    }
    text
}

/// A list of findings, cut after so many.
#[must_use]
pub(crate) fn findings(heading: &str, list: &[Finding], most: usize) -> String {
    let rows: Vec<Vec<String>> = list
        .iter()
        .take(most)
        .map(|finding| vec![finding.subject.clone(), finding.reason.clone()])
        .collect();
    let mut text = table::draw(&[heading, "REASON"], &rows);
    if list.len() > most {
        let _ = writeln!(text, "... and {} more (-o wide)", list.len() - most);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_a_problem_says_so() {
        let status = Status {
            node: "n1".into(),
            version: "0.1.0".into(),
            uptime: 3723,
            live: true,
            ready: true,
            in_sync: true,
            asn: Some(64512),
            router_id: Some("10.0.1.2".into()),
            sessions: 3,
            sessions_established: 2,
            pods: 5,
            routes_desired: 12,
            routes_installed: 12,
            problems: vec![Finding {
                subject: "IPPool p".into(),
                reason: "spec.ipipMode: no".into(),
            }],
            ..Status::default()
        };
        insta::assert_snapshot!(table(&status, false), @r"
        node        n1 (margay 0.1.0, up 1h02m)
        state       runs, with something wanting (below)
        datastore   in sync
        bgp         AS 64512, router id 10.0.1.2
        sessions    2 of 3 established
        pods        5
        routes      12 of 12 in the kernel

        PROBLEM   REASON
        IPPool p  spec.ipipMode: no
        ");
    }
}
