mod chaos;
mod collector;
mod loops;
mod model;
mod net;
mod nexthop;
mod regroup;
mod restart;
mod telling;
mod watcher;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use self::net::{Net, address, originate, peer_config, prefix, speaker_config};
use super::config::{LimitAction, MaximumPrefixes, NextHopMode, Originate, Remote, SpeakerConfig};
use super::snapshot::{PathInfo, Unusable};
use super::{Accepted, Clear, PeerId, Speaker};
use crate::asn::Asn;
use crate::codec::{Community, LocalPref, Message, NextHop, PathAttributes, Update};
use crate::decision::Step;
use crate::fsm::{Direction, State};
use crate::policy::{Action, Condition, Policy, Rule, SourceKind, Verdict};
use crate::router_id::RouterId;

const SECOND: Duration = Duration::from_secs(1);

/// `count` nodes of one AS, each peering with every other, each with its own block.
fn mesh(count: u8) -> Net {
    let mut net = Net::new();
    for node in 1..=count {
        let mut config = speaker_config(node, 64512);
        originate(&mut config, &[&format!("10.65.{node}.0/26")]);
        config.peers.extend(
            (1..=count)
                .filter(|other| *other != node)
                .map(|other| peer_config(other, 64512)),
        );
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
            assert_eq!(
                net.next_hops(usize::from(node), &format!("10.65.{other}.0/26")),
                [address(other)]
            );
        }
        assert_eq!(net.routes(usize::from(node)).len(), 4);
        assert_eq!(net.nodes[usize::from(node)].complete, 2);
    }
}

/// The announcements of a prefix delivered to a node so far.
fn announcements<'a>(net: &'a Net, node: usize, text: &str) -> Vec<(&'a PathAttributes, NextHop)> {
    let wanted = prefix(text);
    net.delivered
        .iter()
        .filter(|(to, _)| *to == node)
        .filter_map(|(_, message)| {
            let Message::Update(update) = message else {
                return None;
            };
            Some(update)
        })
        .flat_map(|update| {
            update
                .announced
                .iter()
                .map(move |announced| (update, announced))
        })
        .filter(|(_, announced)| announced.nlri.iter().any(|nlri| nlri.prefix == wanted))
        .filter_map(|(update, announced)| Some((update.attributes.as_deref()?, announced.next_hop)))
        .collect()
}

fn withdrawals(net: &Net, node: usize, text: &str) -> usize {
    let wanted = prefix(text);
    net.delivered
        .iter()
        .filter(|(to, message)| {
            *to == node
                && matches!(message, Message::Update(update)
                    if update.withdrawn.iter().any(|nlri| nlri.prefix == wanted))
        })
        .count()
}

fn only_path(net: &Net, node: usize, text: &str) -> PathInfo {
    let mut route = net
        .route(node, text)
        .unwrap_or_else(|| panic!("node {node} does not know {text}"));
    assert_eq!(route.paths.len(), 1);
    route.paths.remove(0)
}

// ---- reflection -----------------------------------------------------------------------------------------------------

#[test]
fn a_reflector_passes_blocks_on_between_clients_unchanged() {
    let net = star(3);
    for client in 2..=4_u8 {
        for other in (2..=4).filter(|other| *other != client) {
            let text = format!("10.65.{other}.0/26");
            assert_eq!(
                net.next_hops(usize::from(client) - 1, &text),
                [address(other)]
            );
            let path = only_path(&net, usize::from(client) - 1, &text);
            assert_eq!(
                path.attributes
                    .originator_id
                    .map(|id| IpAddr::V4(id.addr())),
                Some(address(other))
            );
            assert_eq!(path.attributes.cluster_list.len(), 1);
            assert_eq!(path.attributes.local_pref, Some(LocalPref(100)));
            assert!(path.attributes.as_path.is_empty());
        }
    }
}

#[test]
fn a_reflector_sends_no_client_its_own_route() {
    let net = star(3);
    for client in 2..=4_u8 {
        let own = format!("10.65.{client}.0/26");
        assert!(announcements(&net, usize::from(client) - 1, &own).is_empty());
        assert_eq!(withdrawals(&net, usize::from(client) - 1, &own), 0);
        assert_eq!(net.peer(0, &format!("n{client}")).families[0].advertised, 2);
    }
}

#[test]
fn clients_told_the_same_are_one_group() {
    let net = star(3);
    let groups: BTreeSet<_> = (2..=4)
        .map(|client| net.peer(0, &format!("n{client}")).families[0].update_group)
        .collect();
    assert_eq!(groups.len(), 1);
    assert_eq!(
        net.nodes[0].speaker.snapshot(net.now).tables[0].update_groups,
        1
    );
}

#[test]
fn a_route_of_a_nonclient_goes_to_clients_and_to_no_other_nonclient() {
    let mut net = Net::new();
    let mut reflector = speaker_config(1, 64512);
    for (node, client) in [(2, true), (3, false), (4, false)] {
        let mut peer = peer_config(node, 64512);
        peer.route_reflector_client = client;
        reflector.peers.push(peer);
    }
    net.add(reflector);
    for node in 2..=4 {
        net.add(client_config(node));
    }
    net.converge();
    assert_eq!(net.next_hops(1, "10.65.3.0/26"), [address(3)]);
    assert_eq!(net.next_hops(2, "10.65.2.0/26"), [address(2)]);
    assert!(net.route(2, "10.65.4.0/26").is_none());
}

#[test]
fn a_route_that_went_through_our_cluster_is_not_used_again() {
    // Two reflectors that are clients of each other and share a cluster: neither takes the other's reflections.
    let mut net = Net::new();
    for (node, other) in [(1, 2), (2, 1)] {
        let mut config = speaker_config(node, 64512);
        config.cluster_id = RouterId::new(7);
        let mut peer = peer_config(other, 64512);
        peer.route_reflector_client = true;
        config.peers.push(peer);
        let mut client = peer_config(3, 64512);
        (client.route_reflector_client, client.passive) = (true, true);
        config.peers.push(client);
        net.add(config);
    }
    let mut client = client_config(3);
    client.peers.push(peer_config(2, 64512));
    net.add(client);
    net.converge();
    let route = net.route(0, "10.65.3.0/26").expect("from the client");
    assert_eq!(route.paths.len(), 2);
    assert_eq!(route.paths[0].source.to_string(), "n3");
    assert_eq!(route.paths[1].unusable, Some(Unusable::ClusterLoop));
}

#[test]
fn a_new_best_path_from_another_client_is_withdrawn_from_that_client() {
    let mut net = star(3);
    let shared = "10.99.0.0/24";
    net.configure(1, |config| originate(config, &[shared]));
    assert_eq!(announcements(&net, 2, shared).len(), 1);
    // Client 3 now has a better path: it holds the one by way of client 2 and must lose it.
    net.configure(2, |config| {
        let mut route = Originate::new(prefix(shared));
        route.local_pref = Some(LocalPref(200));
        config.originate.push(route);
    });
    assert_eq!(withdrawals(&net, 2, shared), 1);
    assert_eq!(announcements(&net, 1, shared).len(), 1);
    assert_eq!(net.next_hops(3, shared), [address(3)]);
    assert!(
        net.route(0, shared)
            .expect("known")
            .advertised_to
            .iter()
            .all(|name| **name != *"n3")
    );
}

// ---- between ASs ----------------------------------------------------------------------------------------------------

/// Nodes 1, 2, … of AS 64601, 64602, … in a row.
fn chain(count: u8) -> Net {
    let mut net = Net::new();
    for node in 1..=count {
        let mut config = speaker_config(node, 64600 + u32::from(node));
        originate(&mut config, &[&format!("10.65.{node}.0/26")]);
        for other in [node - 1, node + 1] {
            if (1..=count).contains(&other) {
                config
                    .peers
                    .push(peer_config(other, 64600 + u32::from(other)));
            }
        }
        net.add(config);
    }
    net.converge();
    net
}

#[test]
fn along_a_chain_of_ass_each_adds_itself_and_is_the_next_hop() {
    let net = chain(3);
    let path = only_path(&net, 2, "10.65.1.0/26");
    assert!(path.attributes.as_path.iter().eq([Asn(64602), Asn(64601)]));
    assert_eq!(path.next_hop.map(NextHop::addr), Some(address(2)));
    assert_eq!(path.attributes.local_pref, None);
    assert_eq!(
        net.nodes[2].kernel[&prefix("10.65.1.0/26")].origin_as,
        Some(Asn(64601))
    );
}

#[test]
fn a_withdrawal_travels_the_chain() {
    let mut net = chain(4);
    assert!(net.route(3, "10.65.1.0/26").is_some());
    net.configure(0, |config| config.originate.clear());
    for node in 0..4 {
        assert!(net.route(node, "10.65.1.0/26").is_none());
        assert!(!net.nodes[node].kernel.contains_key(&prefix("10.65.1.0/26")));
    }
}

/// Two nodes of AS 64601 with node 2 of AS 64602 between them.
fn sandwich(allowed: u8) -> Net {
    let mut net = Net::new();
    for (node, asn, others) in [
        (1, 64601, vec![(2, 64602)]),
        (2, 64602, vec![(1, 64601), (3, 64601)]),
        (3, 64601, vec![(2, 64602)]),
    ] {
        let mut config = speaker_config(node, asn);
        originate(&mut config, &[&format!("10.65.{node}.0/26")]);
        for (other, asn) in others {
            let mut peer = peer_config(other, asn);
            peer.allowed_local_as = allowed;
            config.peers.push(peer);
        }
        net.add(config);
    }
    net.converge();
    net
}

#[test]
fn our_own_as_in_a_path_makes_it_unusable_unless_allowed() {
    let net = sandwich(0);
    let path = only_path(&net, 2, "10.65.1.0/26");
    assert_eq!((path.unusable, path.best), (Some(Unusable::AsLoop), false));
    let net = sandwich(1);
    assert_eq!(net.next_hops(2, "10.65.1.0/26"), [address(2)]);
}

#[test]
fn allowing_our_own_as_takes_effect_without_a_new_session() {
    let mut net = sandwich(0);
    net.configure(2, |config| config.peers[0].allowed_local_as = 1);
    assert_eq!(net.next_hops(2, "10.65.1.0/26"), [address(2)]);
    assert_eq!(net.peer(2, "n2").established_count, 1);
}

#[test]
fn no_export_stays_inside_and_no_advertise_stays_here() {
    let mut net = Net::new();
    let mut config = speaker_config(1, 64512);
    for (text, community) in [
        ("10.1.0.0/24", Community::NO_EXPORT),
        ("10.2.0.0/24", Community::NO_ADVERTISE),
    ] {
        let mut route = Originate::new(prefix(text));
        route.communities = vec![community];
        config.originate.push(route);
    }
    config.peers = vec![peer_config(2, 64512), peer_config(3, 64600)];
    net.add(config);
    for (node, asn) in [(2, 64512), (3, 64600)] {
        let mut config = speaker_config(node, asn);
        config.peers.push(peer_config(1, 64512));
        net.add(config);
    }
    net.converge();
    assert!(net.route(1, "10.1.0.0/24").is_some());
    assert!(net.route(2, "10.1.0.0/24").is_none());
    assert!(net.route(1, "10.2.0.0/24").is_none());
}

#[test]
fn a_third_party_on_the_shared_subnet_stays_next_hop() {
    let mut net = Net::new();
    for (node, asn) in [(1, 64601), (2, 64602), (3, 64603)] {
        let mut config = speaker_config(node, asn);
        originate(&mut config, &[&format!("10.65.{node}.0/26")]);
        for other in [node - 1, node + 1]
            .into_iter()
            .filter(|other| (1..=3).contains(other))
        {
            let mut peer = peer_config(other, 64600 + u32::from(other));
            peer.connected_subnets = vec![prefix("192.0.2.0/24")];
            config.peers.push(peer);
        }
        net.add(config);
    }
    net.converge();
    assert_eq!(net.next_hops(2, "10.65.1.0/26"), [address(1)]);
    net.configure(1, |config| {
        for peer in &mut config.peers {
            peer.next_hop = NextHopMode::SelfAddress;
        }
    });
    assert_eq!(net.next_hops(2, "10.65.1.0/26"), [address(2)]);
    assert_eq!(net.peer(1, "n3").established_count, 1);
}

// ---- choice ---------------------------------------------------------------------------------------------------------

#[test]
fn equal_paths_through_two_racks_are_used_together() {
    let mut net = Net::new();
    let mut config = speaker_config(1, 64512);
    config.peers = vec![peer_config(2, 64602), peer_config(3, 64603)];
    net.add(config);
    for node in [2, 3] {
        let mut config = speaker_config(node, 64600 + u32::from(node));
        originate(&mut config, &["10.0.0.0/8"]);
        config.peers.push(peer_config(1, 64512));
        net.add(config);
    }
    net.converge();
    assert_eq!(net.next_hops(0, "10.0.0.0/8"), [address(2), address(3)]);
    let route = net.route(0, "10.0.0.0/8").expect("known");
    assert!(route.paths.iter().all(|path| path.used));
    assert_eq!(route.paths[0].step, Some(Step::RouterId));
    // One goes: a single replacement, no gap.
    net.nodes[0].changes.clear();
    net.configure(1, |config| config.originate.clear());
    assert_eq!(net.next_hops(0, "10.0.0.0/8"), [address(3)]);
    assert_eq!(net.nodes[0].changes.len(), 1);
}

// ---- policy ---------------------------------------------------------------------------------------------------------

fn reject(text: &str) -> Arc<Policy> {
    Arc::new(Policy {
        rules: vec![Rule::reject(vec![Condition::PrefixIn(
            [prefix(text)].into_iter().collect(),
        )])],
        default: Verdict::Accept,
    })
}

#[test]
fn a_new_import_policy_applies_to_what_is_there_and_keeps_what_it_rejects() {
    let mut net = mesh(3);
    net.configure(0, |config| config.peers[0].import = reject("10.65.2.0/26"));
    assert!(!net.nodes[0].kernel.contains_key(&prefix("10.65.2.0/26")));
    assert_eq!(
        only_path(&net, 0, "10.65.2.0/26").unusable,
        Some(Unusable::RejectedByPolicy)
    );
    assert_eq!(
        (
            net.peer(0, "n2").families[0].received,
            net.peer(0, "n2").families[0].accepted
        ),
        (1, 0)
    );
    net.configure(0, |config| config.peers[0].import = net::accept_all());
    assert_eq!(net.next_hops(0, "10.65.2.0/26"), [address(2)]);
    assert_eq!(net.peer(0, "n2").established_count, 1);
}

#[test]
fn a_new_export_policy_for_one_of_a_group_resends_to_that_peer_alone() {
    let mut net = star(4);
    net.delivered.clear();
    net.configure(0, |config| config.peers[0].export = reject("10.65.3.0/26"));
    assert_eq!(withdrawals(&net, 1, "10.65.3.0/26"), 1);
    assert!(net.route(1, "10.65.3.0/26").is_none());
    assert!(net.route(1, "10.65.4.0/26").is_some());
    for other in 2..=4 {
        assert_eq!(net.updates_to(other), 0);
    }
    net.configure(0, |config| config.peers[0].export = net::accept_all());
    assert!(net.route(1, "10.65.3.0/26").is_some());
    assert_eq!(
        net.nodes[0].speaker.snapshot(net.now).tables[0].update_groups,
        1
    );
}

#[test]
fn a_new_export_policy_for_a_whole_group_sends_the_difference_alone() {
    let mut net = star(3);
    net.delivered.clear();
    net.configure(0, |config| {
        for peer in &mut config.peers {
            peer.export = reject("10.65.3.0/26");
        }
    });
    assert_eq!((net.updates_to(1), net.updates_to(3)), (1, 1));
    assert_eq!(withdrawals(&net, 1, "10.65.3.0/26"), 1);
    assert_eq!(net.updates_to(2), 0);
}

#[test]
fn policies_change_what_passes() {
    let mut net = mesh(2);
    let tag = Community::new(64512, 7);
    net.configure(0, |config| {
        config.peers[0].export = Arc::new(Policy {
            rules: vec![Rule {
                conditions: vec![Condition::Source(SmallVec::from_slice(&[
                    SourceKind::Local,
                ]))],
                actions: vec![
                    Action::AddCommunity(tag),
                    Action::SetLocalPref(LocalPref(300)),
                ],
                verdict: None,
            }],
            default: Verdict::Accept,
        });
    });
    let path = only_path(&net, 1, "10.65.1.0/26");
    assert!(path.attributes.communities.contains(&tag));
    assert_eq!(path.attributes.local_pref, Some(LocalPref(300)));
}

// ---- configuration --------------------------------------------------------------------------------------------------

#[test]
fn a_peer_that_is_no_longer_configured_leaves_without_disturbing_others() {
    let mut net = mesh(3);
    net.configure(0, |config| config.peers.retain(|peer| peer.name != "n2"));
    assert!(net.route(0, "10.65.2.0/26").is_none());
    assert_eq!(net.nodes[0].speaker.snapshot(net.now).peers.len(), 1);
    net.configure(0, |config| config.peers.push(peer_config(2, 64512)));
    net.advance(120 * SECOND);
    net.assert_established(0, "n2");
    assert_eq!(net.next_hops(0, "10.65.2.0/26"), [address(2)]);
    assert_eq!(net.peer(0, "n3").established_count, 1);
}

#[test]
fn a_disabled_peer_is_told_why_and_comes_back_when_enabled() {
    let mut net = mesh(2);
    net.configure(0, |config| {
        config.peers[0].enabled = false;
        config.peers[0].shutdown_text = Some("maintenance".to_owned());
    });
    assert!(net.route(0, "10.65.2.0/26").is_none());
    assert!(net.route(1, "10.65.1.0/26").is_none());
    assert!(
        net.peer(1, "n1")
            .last_error
            .expect("an error")
            .contains("maintenance")
    );
    net.configure(0, |config| config.peers[0].enabled = true);
    net.advance(120 * SECOND);
    assert_eq!(net.next_hops(0, "10.65.2.0/26"), [address(2)]);
}

#[test]
fn callers_from_a_range_become_peers_and_are_forgotten_when_they_left() {
    let mut net = Net::new();
    let mut reflector = speaker_config(1, 64512);
    let mut range = peer_config(1, 64512);
    range.name = "clients".to_owned();
    range.remote = Remote::Range(prefix("192.0.2.0/24"));
    (range.route_reflector_client, range.dynamic_limit) = (true, 2);
    range.graceful_restart = None;
    reflector.peers.push(range);
    net.add(reflector);
    for client in 2..=4 {
        net.add(client_config(client));
    }
    net.converge();
    let known = |net: &Net| net.nodes[0].speaker.snapshot(net.now).peers.len();
    assert_eq!(known(&net), 2);
    assert_eq!(net.next_hops(1, "10.65.3.0/26"), [address(3)]);
    net.configure(1, |config| config.peers.clear());
    assert_eq!(known(&net), 1);
    assert!(net.route(2, "10.65.2.0/26").is_none());
    // There is room for the third now.
    net.advance(120 * SECOND);
    assert_eq!(known(&net), 2);
    assert_eq!(net.next_hops(2, "10.65.4.0/26"), [address(4)]);
}

#[test]
fn callers_from_a_range_that_say_nothing_keep_only_so_many_others_out() {
    let mut config = speaker_config(1, 64512);
    let mut range = peer_config(1, 64512);
    range.name = "clients".to_owned();
    range.remote = Remote::Range(prefix("192.0.2.0/24"));
    (range.dynamic_limit, range.half_open_limit) = (10, 2);
    config.peers.push(range);
    let now = Instant::now();
    let mut speaker = Speaker::new(config, 1, now);
    let local = SocketAddr::new(address(1), 179);
    let mut call = |client: u8| speaker.accept((address(client), 50_000).into(), local, now);
    let Accepted::Peer(silent, direction) = call(2) else {
        panic!("there is room for two");
    };
    assert!(matches!(call(3), Accepted::Peer(..)));
    assert!(matches!(call(4), Accepted::Refused(None)));
    // One of them leaves, and its place is another's.
    speaker.handle_closed(silent, direction, now);
    while speaker.poll_output().is_some() {}
    let mut call = |client: u8| speaker.accept((address(client), 50_000).into(), local, now);
    assert!(matches!(call(4), Accepted::Peer(..)));
    assert!(matches!(call(5), Accepted::Refused(None)));
}

#[test]
fn callers_from_a_range_with_sessions_leave_room_for_those_without() {
    let mut net = Net::new();
    let mut reflector = speaker_config(1, 64512);
    let mut range = peer_config(1, 64512);
    range.name = "clients".to_owned();
    range.remote = Remote::Range(prefix("192.0.2.0/24"));
    (range.route_reflector_client, range.half_open_limit) = (true, 1);
    reflector.peers.push(range);
    net.add(reflector);
    for client in 2..=4 {
        net.add(client_config(client));
    }
    net.converge();
    net.advance(120 * SECOND);
    assert_eq!(net.nodes[0].speaker.snapshot(net.now).peers.len(), 3);
    for client in 2..=4 {
        net.assert_established(0, &format!("clients-{}", address(client)));
    }
}

#[test]
fn too_many_prefixes_end_the_session() {
    let mut net = mesh(2);
    net.configure(0, |config| {
        config.peers[0].maximum_prefixes = Some(MaximumPrefixes {
            limit: 2,
            action: LimitAction::Close,
        });
    });
    net.configure(1, |config| originate(config, &["10.1.0.0/24"]));
    net.assert_established(0, "n2");
    net.configure(1, |config| originate(config, &["10.2.0.0/24"]));
    assert_ne!(net.peer(0, "n2").state, State::Established);
    assert!(
        net.nodes[0]
            .kernel
            .keys()
            .all(|prefix| *prefix == net::prefix("10.65.1.0/26"))
    );
    let now = net.now;
    assert!(net.speaker(0).clear("n2", Clear::Hard, now));
}

#[test]
fn prefixes_kept_of_an_ended_session_do_not_count_towards_the_limit() {
    let mut net = mesh(2);
    net.configure(0, |config| {
        config.peers[0].maximum_prefixes = Some(MaximumPrefixes {
            limit: 2,
            action: LimitAction::Close,
        });
    });
    net.configure(1, |config| originate(config, &["10.1.0.0/24"]));
    net.cut(0, 1);
    net.configure(1, |config| {
        config.originate.clear();
        originate(config, &["10.2.0.0/24", "10.3.0.0/24"]);
    });
    net.join(0, 1);
    net.advance(60 * SECOND);
    net.assert_established(0, "n2");
    assert_eq!(net.peer(0, "n2").established_count, 2);
    assert_eq!(net.next_hops(0, "10.3.0.0/24"), [address(2)]);
}

#[test]
fn a_dump_in_slices_finds_what_a_dump_at_once_does() {
    let mut net = star(3);
    for node in [0, 1] {
        net.configure(node, |config| {
            originate(config, &["2001:db8:1::/64", "10.1.0.0/24", "10.1.0.0/26"]);
        });
    }
    let whole = super::snapshot::RouteQuery::default();
    let inside = super::snapshot::RouteQuery {
        prefix: Some(prefix("10.1.0.0/16")),
        matching: super::snapshot::Matching::Longer,
        limit: Some(1),
        ..whole.clone()
    };
    for (query, count) in [(whole, 6), (inside, 1)] {
        let speaker = &net.nodes[0].speaker;
        let at_once = speaker.routes(&query);
        let mut dump = super::RouteDump::new(query);
        while speaker.dump(&mut dump, 1) {}
        let prefixes = |routes: &[super::snapshot::RouteInfo]| -> Vec<_> {
            routes.iter().map(|route| route.prefix).collect()
        };
        let sliced = dump.into_routes();
        assert_eq!(prefixes(&sliced), prefixes(&at_once));
        assert_eq!(sliced.len(), count);
        assert!(sliced.is_sorted_by_key(|route| route.prefix));
    }
}

#[test]
fn a_peer_is_covered_when_all_it_teaches_is_taught_by_those_that_stay() {
    let mut net = star(2);
    let named = |names: &[&str]| -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    };
    let uncovered = |net: &Net, leaving: &[&str], staying: &[&str]| {
        net.nodes[0]
            .speaker
            .uncovered(&named(leaving), &named(staying))
    };
    assert_eq!(uncovered(&net, &["n2"], &["n3"]), named(&["n2"]));
    net.configure(2, |config| originate(config, &["10.65.2.0/26"]));
    assert_eq!(uncovered(&net, &["n2"], &["n3"]), named(&[]));
    assert_eq!(uncovered(&net, &["n2", "n3"], &[]), named(&["n2", "n3"]));
    // What is only kept for a return covers nothing.
    net.cut(0, 2);
    assert_eq!(uncovered(&net, &["n2"], &["n3"]), named(&["n2"]));
}

#[test]
fn an_update_keeps_a_session_alive_that_has_not_been_worked_on_since() {
    let mut net = mesh(2);
    let hold_time = net.peer(0, "n2").hold_time.unwrap();
    let mut now = net.now;
    let speaker = net.speaker(0);
    let peer = speaker.peer_named("n2").unwrap();
    let direction = Direction::ALL
        .into_iter()
        .find(|direction| is_session(speaker, peer, *direction))
        .unwrap();
    for _ in 0..3 {
        now += hold_time * 2 / 3;
        let update = Message::Update(Update::default());
        speaker.handle_message(peer, direction, update, now);
        // The deadline of before is over: whoever looks at it must know what was heard since.
        speaker.handle_timeout(now + hold_time / 2);
        assert!(is_session(speaker, peer, direction));
    }
    speaker.handle_timeout(now + hold_time);
    assert!(!is_session(speaker, peer, direction));
}

#[test]
fn of_several_updates_of_a_peer_between_those_of_others_the_latest_keeps_its_session_alive() {
    let mut net = mesh(3);
    let hold_time = net.peer(0, "n2").hold_time.unwrap();
    let began = net.now;
    let speaker = net.speaker(0);
    let [n2, n3] = ["n2", "n3"].map(|name| {
        let peer = speaker.peer_named(name).unwrap();
        let mut ways = Direction::ALL.into_iter();
        let way = ways.find(|way| is_session(speaker, peer, *way)).unwrap();
        (peer, way)
    });
    let later = began + hold_time * 2 / 3;
    for ((peer, way), at) in [(n2, began), (n3, began), (n2, later), (n3, later)] {
        speaker.handle_message(peer, way, Message::Update(Update::default()), at);
    }
    speaker.handle_timeout(began + hold_time * 5 / 4);
    assert!(
        [n2, n3]
            .iter()
            .all(|(peer, way)| is_session(speaker, *peer, *way))
    );
}

fn is_session(speaker: &Speaker, peer: PeerId, direction: Direction) -> bool {
    let slot = speaker.known(peer).unwrap();
    speaker.is_up(slot, direction)
}

// ---- telling --------------------------------------------------------------------------------------------------------

#[test]
fn a_change_that_is_undone_before_anyone_was_told_tells_nothing() {
    let mut net = mesh(2);
    net.delivered.clear();
    let config = net.nodes[0].speaker.config().clone();
    let mut changed = config.clone();
    originate(&mut changed, &["10.9.0.0/24"]);
    let now = net.now;
    net.speaker(0).configure(changed, now);
    net.speaker(0).configure(config, now);
    net.settle();
    assert_eq!(net.updates_to(1), 0);
}

#[test]
fn a_slow_peer_is_told_of_a_prefix_once_and_holds_up_nobody() {
    let mut net = star(3);
    net.nodes[1].slow = true;
    // More than a window's worth, so that the slow one really stops.
    let many: Vec<String> = (0..20_000_u32)
        .map(|n| format!("10.{}.{}.{}/32", 128 + (n >> 16), n >> 8 & 255, n & 255))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    net.budget = 5000;
    net.configure(2, |config| originate(config, &many));
    net.delivered.clear();
    for local_pref in 200..230 {
        net.configure(2, |config| {
            let mut route = Originate::new(prefix("10.99.0.0/24"));
            route.local_pref = Some(LocalPref(local_pref));
            config
                .originate
                .retain(|route| route.prefix != prefix("10.99.0.0/24"));
            config.originate.push(route);
        });
        assert_eq!(
            net.nodes[3].kernel[&prefix("10.99.0.0/24")].local_pref,
            LocalPref(local_pref)
        );
    }
    net.read_on(1);
    assert_eq!(announcements(&net, 1, "10.99.0.0/24").len(), 1);
    assert_eq!(net.routes(1).len(), 20_000 + 4);
}

#[test]
fn a_peer_that_stopped_reading_costs_memory_by_prefix() {
    let mut net = star(3);
    net.nodes[1].slow = true;
    for change in 0..600_u16 {
        net.configure(2, |config| {
            let shared = prefix(&format!("10.99.{}.0/24", change % 5));
            config.originate.retain(|route| route.prefix != shared);
            if change % 7 != 0 {
                let mut route = Originate::new(shared);
                route.communities = vec![Community::new(1, change)];
                config.originate.push(route);
            }
        });
    }
    assert!(
        net.peer(0, "n2").families[0].lag < 40,
        "{}",
        net.peer(0, "n2").families[0].lag
    );
    net.delivered.clear();
    net.read_on(1);
    assert!(net.updates_to(1) <= 9);
    let known = |node: usize| -> BTreeSet<String> {
        net.routes(node)
            .iter()
            .map(|route| route.prefix.to_string())
            .collect()
    };
    assert_eq!(known(1), known(3));
}

#[test]
fn a_peer_can_be_told_everything_anew() {
    let mut net = star(2);
    net.delivered.clear();
    let now = net.now;
    assert!(net.speaker(0).clear("n2", Clear::SoftOut, now));
    net.settle();
    assert_eq!(announcements(&net, 1, "10.65.3.0/26").len(), 1);
    assert_eq!(net.updates_to(2), 0);
}

#[test]
fn everything_is_given_back_when_every_peer_has_left() {
    let mut net = star(3);
    net.configure(0, |config| config.peers.clear());
    let snapshot = net.nodes[0].speaker.snapshot(net.now);
    assert_eq!(snapshot.attribute_sets, 0);
    assert_eq!(
        (
            snapshot.tables[0].prefixes,
            snapshot.tables[0].paths,
            snapshot.tables[0].update_groups
        ),
        (0, 0, 0)
    );
}

#[test]
fn a_prefix_that_was_an_aggregate_and_is_originated_now_stays() {
    use super::config::Aggregate;
    let mut net = star(1);
    let summary = || Aggregate {
        prefix: prefix("10.0.0.0/8"),
        summary_only: false,
        communities: Vec::new(),
        large_communities: Vec::new(),
        local_pref: None,
        med: None,
    };
    // As an aggregate it leads nowhere by itself.
    let drops = |net: &Net| net.nodes[0].kernel[&prefix("10.0.0.0/8")].discard;
    net.configure(0, |config| config.aggregates.push(summary()));
    assert!(net.route(1, "10.0.0.0/8").is_some());
    assert!(drops(&net));
    net.configure(0, |config| {
        config.aggregates.clear();
        originate(config, &["10.0.0.0/8"]);
    });
    assert!(net.route(1, "10.0.0.0/8").is_some());
    assert!(!drops(&net));
    net.configure(0, |config| {
        config.originate.clear();
        config.aggregates.push(summary());
    });
    assert!(net.route(1, "10.0.0.0/8").is_some());
    net.configure(0, |config| config.aggregates.clear());
    assert!(net.route(1, "10.0.0.0/8").is_none());
}

// ---- places ---------------------------------------------------------------------------------------------------------

#[test]
fn callers_that_come_and_go_use_up_no_slots_while_the_tables_have_much_to_decide() {
    let mut net = Net::new();
    let mut config = speaker_config(1, 64512);
    originate(&mut config, &["10.0.0.0/24"]);
    let mut range = peer_config(2, 64512);
    (range.remote, range.dynamic_limit) = (Remote::Range(prefix("192.0.2.0/24")), 500);
    config.peers.push(range);
    net.add(config);
    let now = net.now;
    let local = SocketAddr::new(address(1), 179);
    let speaker = net.speaker(0);
    for caller in 2..200 {
        let remote = SocketAddr::new(address(caller), 40_000);
        let Accepted::Peer(peer, direction) = speaker.accept(remote, local, now) else {
            panic!("it may call");
        };
        speaker.handle_connected(peer, direction, local, remote, now);
        speaker.handle_closed(peer, direction, now);
        while speaker.poll_output().is_some() {}
    }
    assert_eq!(speaker.neighbours.len(), 2);
}

#[test]
fn a_default_route_of_our_own_and_one_that_is_only_told_go_together() {
    let mut net = star(1);
    net.configure(0, |config| {
        originate(config, &["0.0.0.0/0"]);
        config.peers[0].default_originate = true;
    });
    assert!(net.route(1, "0.0.0.0/0").is_some());
    net.configure(0, |config| {
        config.originate.clear();
        config.peers[0].default_originate = false;
    });
    assert!(net.route(1, "0.0.0.0/0").is_none());
    assert_eq!(net.nodes[0].speaker.tables.ipv4.table.fresh_prefixes(0), 0);
}
