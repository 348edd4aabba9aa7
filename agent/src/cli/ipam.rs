//! `margay ipam`.

use super::table;
use crate::ipam::check::{CheckReport, Finding};
use crate::server::answer::Ipam;

/// The answer for people.
#[must_use]
pub(crate) fn table(ipam: &Ipam, wide: bool) -> String {
    let mut heading = vec!["POOL", "CIDR", "ENCAPSULATION", "BLOCKS", "IN-USE", "OF"];
    if wide {
        heading.extend(["NAT-OUTGOING", "DISABLED"]);
    }
    let yes = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
    let pools: Vec<Vec<String>> = ipam
        .pools
        .iter()
        .map(|pool| {
            let mut row = vec![
                pool.name.clone(),
                pool.cidr.clone(),
                pool.encapsulation.clone(),
                pool.blocks.to_string(),
                pool.allocated.to_string(),
                pool.capacity.clone(),
            ];
            if wide {
                row.extend([yes(pool.nat_outgoing), yes(pool.disabled)]);
            }
            row
        })
        .collect();
    let blocks: Vec<Vec<String>> = ipam
        .blocks
        .iter()
        .map(|block| {
            vec![
                block.cidr.clone(),
                block.pool.clone(),
                block.allocated.to_string(),
                block.capacity.clone(),
                block.lent.to_string(),
            ]
        })
        .collect();
    let mut text = table::draw(&heading, &pools);
    if !blocks.is_empty() {
        text.push_str(&format!("\nblocks of {}\n", ipam.node));
        text.push_str(&table::draw(
            &["BLOCK", "POOL", "IN-USE", "OF", "LENT"],
            &blocks,
        ));
    }
    text
}

/// What a check found, for people.
#[must_use]
pub(super) fn report(report: &CheckReport) -> String {
    let mut text = format!(
        "{} blocks, {} addresses in use, {} handles\n",
        report.blocks, report.allocated, report.handles
    );
    for (what, findings) in [
        ("recorded, but not used", &report.allocated_not_used),
        ("used, but not recorded", &report.used_not_allocated),
        ("used outside enabled pools", &report.used_outside_pools),
        ("used more than once", &report.used_twice),
        (
            "recorded under a handle that does not exist",
            &report.addresses_without_handle,
        ),
    ] {
        text.push_str(&findings.iter().fold(String::new(), |text, finding| {
            format!("{text}{}\n", line(what, finding))
        }));
    }
    for handle in &report.handles_without_addresses {
        text.push_str(&format!("handle {handle}: holds no address\n"));
    }
    for handle in &report.handles_with_wrong_counts {
        text.push_str(&format!(
            "handle {handle}: counts more or less than is recorded (harmless)\n"
        ));
    }
    for (object, faults) in &report.malformed {
        for fault in faults {
            text.push_str(&format!("{object}: {fault}\n"));
        }
    }
    text.push_str(if report.is_sound() {
        "sound\n"
    } else {
        "not sound\n"
    });
    text
}

fn line(what: &str, finding: &Finding) -> String {
    let mut text = format!("{}: {what}", finding.address);
    for (name, value) in [("handle", &finding.handle), ("node", &finding.node)] {
        if let Some(value) = value {
            text.push_str(&format!(", {name} {value}"));
        }
    }
    if !finding.users.is_empty() {
        text.push_str(&format!(", by {}", finding.users.join(" and ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_is_wrong_with_which_address() {
        let found = CheckReport {
            blocks: 1,
            allocated: 2,
            handles: 1,
            allocated_not_used: vec![Finding {
                address: "10.65.0.7".parse().unwrap(),
                handle: Some("net.c1".to_owned()),
                node: Some("n1".to_owned()),
                sequence_number: None,
                users: Vec::new(),
            }],
            ..CheckReport::default()
        };
        assert_eq!(
            report(&found),
            "1 blocks, 2 addresses in use, 1 handles\n10.65.0.7: recorded, but not used, handle net.c1, node n1\nnot sound\n"
        );
        assert!(report(&CheckReport::default()).ends_with("sound\n"));
    }
    use crate::server::answer::{Block, Pool};

    #[test]
    fn pools_come_before_the_nodes_blocks() {
        let ipam = Ipam {
            node: "n1".into(),
            pools: vec![Pool {
                name: "default".into(),
                cidr: "10.65.0.0/16".into(),
                encapsulation: "IpIp CrossSubnet".into(),
                blocks: 4,
                allocated: 12,
                capacity: "65536".into(),
                ..Pool::default()
            }],
            blocks: vec![Block {
                cidr: "10.65.0.0/26".into(),
                pool: "default".into(),
                allocated: 3,
                capacity: "64".into(),
                lent: 0,
            }],
        };
        insta::assert_snapshot!(table(&ipam, false), @r"
        POOL     CIDR          ENCAPSULATION     BLOCKS  IN-USE  OF
        default  10.65.0.0/16  IpIp CrossSubnet  4       12      65536

        blocks of n1
        BLOCK         POOL     IN-USE  OF  LENT
        10.65.0.0/26  default  3       64  0
        ");
    }
}
