//! Next hops of routes whose family is not that of their session, and other matters between ASs.

use std::net::IpAddr;

use super::net::{Net, address, originate, peer_config, prefix, speaker_config};
use super::only_path;
use crate::asn::Asn;
use crate::codec::NextHop;
use crate::speaker::config::{LocalAsMode, Originate};
use crate::speaker::snapshot::Unusable;

fn ipv6(node: u8) -> IpAddr {
    format!("2001:db8::{node}").parse().expect("an address")
}

/// Three ASs in a row over IPv4; the first originates an IPv6 block by way of itself, with or without saying its address.
fn chain(originated: Option<IpAddr>, named: bool) -> Net {
    let mut net = Net::new();
    for node in 1..=3_u8 {
        let mut config = speaker_config(node, 64600 + u32::from(node));
        if node == 1 {
            let mut route = Originate::new(prefix("2001:db8:1::/64"));
            route.next_hop = originated;
            config.originate.push(route);
        }
        for other in [node - 1, node + 1] {
            if (1..=3).contains(&other) {
                let mut peer = peer_config(other, 64600 + u32::from(other));
                peer.next_hop_address = named.then(|| ipv6(node));
                config.peers.push(peer);
            }
        }
        net.add(config);
    }
    net.converge();
    net
}

#[test]
fn ipv6_routes_cross_ipv4_sessions_between_ass_with_an_address_of_ours() {
    let net = chain(None, true);
    for (node, from) in [(1, 1), (2, 2)] {
        let path = only_path(&net, node, "2001:db8:1::/64");
        assert_eq!(path.next_hop.map(NextHop::addr), Some(ipv6(from)));
    }
}

#[test]
fn an_ipv6_route_of_our_own_crosses_an_ipv4_session_with_the_next_hop_it_was_given() {
    let net = chain(Some(ipv6(1)), false);
    let path = only_path(&net, 1, "2001:db8:1::/64");
    assert_eq!(path.next_hop.map(NextHop::addr), Some(ipv6(1)));
    // Passing it on takes an address of the second's own, which nobody named.
    assert!(net.route(2, "2001:db8:1::/64").is_none());
}

#[test]
fn an_ipv6_route_nobody_has_an_address_for_is_not_told() {
    let net = chain(None, false);
    assert!(net.route(1, "2001:db8:1::/64").is_none());
}

#[test]
fn both_of_our_ass_in_a_path_are_loops_unless_the_session_is_of_the_other_alone() {
    // Node 1 of AS 64601 shows node 2 another AS; what has been through 64601 comes back by node 2.
    let mut net = Net::new();
    let mut config = speaker_config(1, 64601);
    let mut peer = peer_config(2, 64602);
    peer.local_asn = Some(Asn(65001));
    config.peers.push(peer);
    net.add(config);
    let mut config = speaker_config(2, 64602);
    config.peers = vec![peer_config(1, 65001), peer_config(3, 64601)];
    net.add(config);
    let mut config = speaker_config(3, 64601);
    originate(&mut config, &["10.3.0.0/24"]);
    config.peers.push(peer_config(2, 64602));
    net.add(config);
    net.converge();
    assert_eq!(net.next_hops(0, "10.3.0.0/24"), [address(2)]);
    net.configure(0, |config| {
        config.peers[0].local_as_mode = LocalAsMode::NoPrepend;
    });
    assert_eq!(
        only_path(&net, 0, "10.3.0.0/24").unusable,
        Some(Unusable::AsLoop)
    );
    net.configure(0, |config| config.peers[0].allowed_local_as = 1);
    assert_eq!(net.next_hops(0, "10.3.0.0/24"), [address(2)]);
}
