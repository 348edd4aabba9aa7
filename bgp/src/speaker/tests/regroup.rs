//! Peers that move between groups, and what a change of reflection says again.

use std::sync::Arc;

use super::net::{Net, originate, peer_config, prefix, speaker_config};
use super::{SECOND, client_config, only_path, reject, star};
use crate::codec::{Community, Message};
use crate::policy::{Action, Policy, Rule, Verdict};
use crate::router_id::RouterId;

fn tag(value: u16) -> Arc<Policy> {
    Arc::new(Policy {
        rules: vec![Rule {
            conditions: vec![],
            actions: vec![Action::AddCommunity(Community::new(7, value))],
            verdict: None,
        }],
        default: Verdict::Accept,
    })
}

/// The tag on what a client was told last.
fn told_tag(net: &Net, node: usize) -> Vec<u16> {
    let path = only_path(net, node, "10.0.0.0/24");
    let tags = path.attributes.communities.iter();
    tags.map(|community| (community.0 & 0xffff) as u16)
        .collect()
}

/// Six clients in three groups of two, told apart by the tag of their export policy, and a route for all.
fn tagged() -> Net {
    let mut net = star(6);
    net.configure(0, |config| {
        originate(config, &["10.0.0.0/24"]);
        for (number, peer) in (0..).zip(&mut config.peers) {
            peer.export = tag(number / 2);
        }
    });
    net
}

#[track_caller]
fn assert_tags(net: &Net, wanted: [u16; 6]) {
    for (node, wanted) in (1..).zip(wanted) {
        assert_eq!(told_tag(net, node), [wanted], "node {node}");
    }
}

fn set_tags(net: &mut Net, tags: [u16; 6]) {
    net.configure(0, |config| {
        for (peer, value) in config.peers.iter_mut().zip(tags) {
            peer.export = tag(value);
        }
    });
    assert_tags(net, tags);
}

#[test]
fn policies_that_are_exchanged_between_groups_end_where_they_belong() {
    let mut net = tagged();
    assert_tags(&net, [0, 0, 1, 1, 2, 2]);
    set_tags(&mut net, [1, 1, 0, 0, 2, 2]);
    set_tags(&mut net, [0, 0, 1, 1, 2, 2]);
    // Shifted round, shifted on to new ones, joined, and taken apart.
    set_tags(&mut net, [1, 1, 2, 2, 0, 0]);
    set_tags(&mut net, [2, 2, 3, 3, 1, 1]);
    set_tags(&mut net, [3, 3, 3, 3, 3, 3]);
    set_tags(&mut net, [3, 0, 1, 1, 2, 2]);
    set_tags(&mut net, [0, 1, 2, 3, 3, 3]);
    let groups = net.nodes[0].speaker.snapshot(net.now).tables[0].update_groups;
    assert_eq!(groups, 4);
}

#[test]
fn a_place_in_the_table_is_not_given_to_another_prefix_while_a_moving_peer_holds_the_old_one() {
    let mut net = star(2);
    net.configure(2, |config| originate(config, &["10.1.0.0/24"]));
    assert!(net.route(1, "10.1.0.0/24").is_some());
    // Client 2 stops reading, with more to tell it than its window takes, and moves to another group.
    net.nodes[1].slow = true;
    let many: Vec<String> = (0..2000_u32)
        .map(|n| format!("10.128.{}.{}/32", n >> 8, n & 255))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    net.budget = 5000;
    net.configure(2, |config| originate(config, &many));
    net.configure(0, |config| config.peers[0].export = reject("10.99.0.0/24"));
    // What it holds goes, and others come in whose places must be new ones.
    net.configure(2, |config| {
        config
            .originate
            .retain(|route| route.prefix != prefix("10.1.0.0/24"));
    });
    for round in 0..5 {
        net.configure(2, |config| {
            originate(config, &[&format!("10.2.{round}.0/24")])
        });
    }
    net.read_on(1);
    assert!(net.route(1, "10.1.0.0/24").is_none());
    for round in 0..5 {
        assert!(net.route(1, &format!("10.2.{round}.0/24")).is_some());
    }
    assert_eq!(net.routes(1).len(), net.routes(2).len());
    // Nothing is kept for what it held.
    net.configure(2, |config| config.originate.clear());
    net.configure(1, |config| config.originate.clear());
    assert_eq!(net.nodes[0].speaker.snapshot(net.now).tables[0].prefixes, 0);
}

#[test]
fn a_client_that_comes_back_with_another_identifier_is_told_of_anew() {
    let mut net = star(2);
    let mut config = client_config(2);
    config.router_id = RouterId::new(0x0909_0909).expect("not zero");
    // Its routes are kept meanwhile and are the same afterwards, but for what is said of where they are from.
    net.restart(1, config);
    net.advance(60 * SECOND);
    let path = only_path(&net, 2, "10.65.2.0/26");
    assert_eq!(path.attributes.originator_id, RouterId::new(0x0909_0909));
}

#[test]
fn another_cluster_is_told_inside_and_disturbs_nobody_outside() {
    let mut net = Net::new();
    let mut reflector = speaker_config(1, 64512);
    for client in [2, 3] {
        let mut peer = peer_config(client, 64512);
        (peer.route_reflector_client, peer.passive) = (true, true);
        reflector.peers.push(peer);
    }
    reflector.peers.push(peer_config(4, 64600));
    net.add(reflector);
    for client in [2, 3] {
        net.add(client_config(client));
    }
    let mut outside = speaker_config(4, 64600);
    outside.peers.push(peer_config(1, 64512));
    net.add(outside);
    net.converge();
    net.delivered.clear();
    net.configure(0, |config| config.cluster_id = RouterId::new(77));
    let path = only_path(&net, 2, "10.65.2.0/26");
    assert_eq!(
        path.attributes.cluster_list,
        [RouterId::new(77).expect("not zero")]
    );
    assert_eq!(net.updates_to(3), 0);
}

#[test]
fn a_change_of_one_family_is_not_held_up_by_a_table_of_the_other() {
    let mut net = star(2);
    net.nodes[1].slow = true;
    let many: Vec<String> = (0..5000_u32)
        .map(|n| format!("10.128.{}.{}/32", n >> 8, n & 255))
        .collect();
    let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
    many.push("2001:db8:7::/64");
    net.budget = 50;
    net.delivered.clear();
    net.configure(2, |config| {
        originate(config, &many);
        let route = config.originate.last_mut().expect("just added");
        route.next_hop = Some("2001:db8::3".parse().expect("an address"));
    });
    // One window of IPv4 is under way, unread. Of what follows when it is read, IPv6 is among the first.
    net.read_on(1);
    let position = |wanted: &str| {
        let wanted = prefix(wanted);
        let tells = |(to, message): &(usize, Message)| {
            *to == 1
                && matches!(message, Message::Update(update) if update
                    .announced
                    .iter()
                    .any(|announced| announced.nlri.iter().any(|nlri| nlri.prefix == wanted)))
        };
        net.delivered.iter().position(tells).expect("told")
    };
    assert!(position("2001:db8:7::/64") < position("10.128.7.0/32"));
    assert_eq!(net.routes(1).len(), net.routes(2).len());
}
