//! However reflectors are tied together, announcements come to rest and withdrawals reach everyone.

use proptest::prelude::*;

use super::net::{Net, originate, peer_config, speaker_config};
use crate::router_id::RouterId;

/// Bits of who neighbours whom and who is whose client, by pair; the cluster of each node.
#[derive(Clone, Debug)]
struct Graph {
    nodes: u8,
    edges: Vec<(bool, bool, bool)>,
    clusters: Vec<u8>,
}

fn graphs() -> impl Strategy<Value = Graph> {
    (2..7_u8).prop_flat_map(|nodes| {
        let pairs = usize::from(nodes) * usize::from(nodes - 1) / 2;
        let edge = (prop::bool::weighted(0.7), any::<bool>(), any::<bool>());
        (
            prop::collection::vec(edge, pairs),
            // Some share a cluster.
            prop::collection::vec(0..4_u8, usize::from(nodes)),
        )
            .prop_map(move |(edges, clusters)| Graph {
                nodes,
                edges,
                clusters,
            })
    })
}

fn build(graph: &Graph) -> Net {
    let mut configs: Vec<_> = (1..=graph.nodes)
        .map(|node| {
            let mut config = speaker_config(node, 64_512);
            originate(
                &mut config,
                &[&format!("10.65.{node}.0/26"), "10.66.0.0/16"],
            );
            // Cluster 0 is the node's own.
            let cluster = graph.clusters[usize::from(node - 1)];
            config.cluster_id = RouterId::new(u32::from(cluster));
            config
        })
        .collect();
    let mut edges = graph.edges.iter();
    for a in 1..=graph.nodes {
        for b in a + 1..=graph.nodes {
            let Some((true, forth, back)) = edges.next() else {
                continue;
            };
            for (node, other, client, passive) in [(a, b, *forth, false), (b, a, *back, true)] {
                let mut peer = peer_config(other, 64_512);
                (peer.route_reflector_client, peer.passive) = (client, passive);
                configs[usize::from(node - 1)].peers.push(peer);
            }
        }
    }
    let mut net = Net::new();
    for config in configs {
        net.add(config);
    }
    net.converge();
    net
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_route_circulates_among_reflectors(graph in graphs(), first in 0..7_usize) {
        // A network that does not come to rest panics while it is built.
        let mut net = build(&graph);
        let nodes = usize::from(graph.nodes);
        let announced = net.delivered.len();
        // Each route travels each session a few times at most, whatever the order.
        prop_assert!(announced < 600 * nodes * nodes, "{announced} messages");
        for turn in 0..nodes {
            net.configure((first + turn) % nodes, |config| config.originate.clear());
        }
        for node in 0..nodes {
            let left = net.routes(node);
            prop_assert!(left.is_empty(), "node {node} still has {left:#?}");
        }
        prop_assert!(net.delivered.len() - announced < 600 * nodes * nodes);
    }
}
