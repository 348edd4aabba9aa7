//! Clusters, stores and clocks for tests of this room.

use std::collections::BTreeSet;

use margay_bgp::prefix::Prefix;

use crate::model::{
    AllowedUse, AssignmentMode, ClusterState, Encapsulation, IpPool, Node, Selector,
};

pub(super) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub(super) fn pool(name: &str, cidr: &str, block_size: u8) -> IpPool {
    IpPool {
        name: name.to_owned(),
        cidr: prefix(cidr),
        encapsulation: Encapsulation::None,
        nat_outgoing: false,
        disabled: false,
        disable_bgp_export: false,
        block_size,
        node_selector: Selector::all(),
        namespace_selector: Selector::all(),
        allowed_uses: BTreeSet::from([AllowedUse::Workload, AllowedUse::Tunnel]),
        assignment_mode: AssignmentMode::Automatic,
    }
}

pub(super) fn cluster(node: &str, pools: &[(&str, &str, u8)]) -> ClusterState {
    let mut cluster = ClusterState {
        node_name: node.to_owned(),
        in_sync: true,
        datastore_ready: true,
        ..ClusterState::default()
    };
    cluster.nodes.insert(
        node.to_owned(),
        Node {
            name: node.to_owned(),
            ..Node::default()
        },
    );
    for (name, cidr, block_size) in pools {
        cluster
            .pools
            .insert((*name).to_owned(), pool(name, cidr, *block_size));
    }
    cluster
}
