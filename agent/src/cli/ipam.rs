//! `margay ipam`.

use super::table;
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

#[cfg(test)]
mod tests {
    use super::*;
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
