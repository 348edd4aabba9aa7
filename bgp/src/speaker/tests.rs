mod net;

use std::time::Duration;

use self::net::{Net, address, originate, peer_config, prefix, speaker_config};
use super::config::SpeakerConfig;
use crate::decision::Step;

const SECOND: Duration = Duration::from_secs(1);

/// `count` nodes of one AS, each peering with every other, each with its own block.
fn mesh(count: u8) -> Net {
    let mut net = Net::new();
    for node in 1..=count {
        let mut config = speaker_config(node, 64512);
        originate(&mut config, &[&format!("10.65.{node}.0/26")]);
        config.peers.extend((1..=count).filter(|other| *other != node).map(|other| peer_config(other, 64512)));
        net.add(config);
    }
    net.converge();
    net
}

/// A reflector and `count` clients, each with its own block. The reflector is node 0 with address 192.0.2.1.
fn star(count: u8) -> Net {
    let mut net = Net::new();
    let mut reflector = speaker_config(1, 64512);
    for client in 2..count + 2 {
        let mut peer = peer_config(client, 64512);
        (peer.route_reflector_client, peer.passive) = (true, true);
        reflector.peers.push(peer);
    }
    net.add(reflector);
    for client in 2..count + 2 {
        net.add(client_config(client));
    }
    net.converge();
    net
}

fn client_config(client: u8) -> SpeakerConfig {
    let mut config = speaker_config(client, 64512);
    originate(&mut config, &[&format!("10.65.{client}.0/26")]);
    config.peers.push(peer_config(1, 64512));
    config
}

#[test]
fn a_full_mesh_of_four_exchanges_every_block() {
    let net = mesh(4);
    for node in 0..4_u8 {
        for other in (1..=4).filter(|other| *other != node + 1) {
            net.assert_established(usize::from(node), &format!("n{other}"));
            assert_eq!(net.next_hops(usize::from(node), &format!("10.65.{other}.0/26")), [address(other)]);
        }
        assert_eq!(net.routes(usize::from(node)).len(), 4);
        assert_eq!(net.nodes[usize::from(node)].complete, 2);
    }
}
