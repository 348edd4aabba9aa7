//! Restarts of peers and of our own (RFC 4724, RFC 8538, RFC 9494).

use super::net::{Net, address, originate, peer_config, prefix, speaker_config};
use super::{SECOND, client_config, only_path, star};
use crate::asn::Asn;
use crate::codec::{Capability, Community, GracefulRestartCapability, Message};
use crate::family::Family;
use crate::fsm::State;
use crate::speaker::config::{LongLived, Remote, SpeakerConfig};
use crate::speaker::snapshot::Retention;

/// Restarts a node whose forwarding goes on, with another configuration.
fn restart(net: &mut Net, node: usize, change: impl FnOnce(&mut SpeakerConfig)) {
    let mut config = net.nodes[node].speaker.config().clone();
    config.restarting = true;
    change(&mut config);
    net.restart(node, config);
}

#[test]
fn routes_of_a_lost_peer_stay_until_it_is_back_and_nobody_else_notices() {
    let mut net = star(2);
    net.cut(0, 1);
    assert_eq!(net.peer(0, "n2").families[0].retention, Retention::Stale);
    assert_eq!(net.next_hops(2, "10.65.2.0/26"), [address(2)]);
    net.delivered.clear();
    net.join(0, 1);
    net.advance(60 * SECOND);
    net.assert_established(0, "n2");
    assert_eq!(net.peer(0, "n2").families[0].retention, Retention::None);
    assert_eq!(net.updates_to(2), 0);
}

#[test]
fn a_route_that_did_not_come_back_goes_at_end_of_rib() {
    let mut net = star(2);
    net.configure(1, |config| originate(config, &["10.1.0.0/24"]));
    net.cut(0, 1);
    net.configure(1, |config| config.originate.truncate(1));
    assert!(net.route(2, "10.1.0.0/24").is_some());
    net.join(0, 1);
    net.advance(60 * SECOND);
    assert!(net.route(2, "10.1.0.0/24").is_none());
    assert!(net.route(2, "10.65.2.0/26").is_some());
}

#[test]
fn routes_of_a_peer_that_stays_away_go_at_its_restart_time() {
    let mut net = star(2);
    net.cut(0, 1);
    net.advance(119 * SECOND);
    assert!(net.route(2, "10.65.2.0/26").is_some());
    net.advance(2 * SECOND);
    assert!(net.route(2, "10.65.2.0/26").is_none());
    assert!(net.route(0, "10.65.2.0/26").is_none());
}

#[test]
fn long_lived_stale_routes_are_the_last_choice_and_go_in_the_end() {
    let mut net = Net::new();
    let long_lived = Some(LongLived {
        stale_time: 1000 * SECOND,
        partial_deployment: false,
    });
    for (node, others) in [(1, vec![2, 3]), (2, vec![1]), (3, vec![1])] {
        let mut config = speaker_config(node, 64512);
        for other in others {
            let mut peer = peer_config(other, 64512);
            (peer.long_lived, peer.route_reflector_client) = (long_lived, node == 1);
            config.peers.push(peer);
        }
        net.add(config);
    }
    net.configure(1, |config| originate(config, &["10.1.0.0/24"]));
    net.converge();
    net.cut(0, 1);
    net.advance(121 * SECOND);
    assert_eq!(
        net.peer(0, "n2").families[0].retention,
        Retention::LongLivedStale
    );
    let path = only_path(&net, 2, "10.1.0.0/24");
    assert!(path.attributes.communities.contains(&Community::LLGR_STALE));
    net.advance(1001 * SECOND);
    assert!(net.route(2, "10.1.0.0/24").is_none());
}

#[test]
fn long_lived_stale_routes_go_sooner_where_they_are_to_be_kept_for_less() {
    let mut net = Net::new();
    for (node, other) in [(1, 2), (2, 1)] {
        let mut config = speaker_config(node, 64512);
        let mut peer = peer_config(other, 64512);
        peer.long_lived = Some(LongLived {
            stale_time: 100_000 * SECOND,
            partial_deployment: false,
        });
        config.peers.push(peer);
        net.add(config);
    }
    net.configure(1, |config| originate(config, &["10.1.0.0/24"]));
    net.converge();
    net.cut(0, 1);
    net.advance(300 * SECOND);
    assert!(net.route(0, "10.1.0.0/24").is_some());
    net.configure(0, |config| {
        config.peers[0].long_lived = Some(LongLived {
            stale_time: 60 * SECOND,
            partial_deployment: false,
        });
    });
    net.advance(30 * SECOND);
    assert!(net.route(0, "10.1.0.0/24").is_some());
    net.advance(31 * SECOND);
    assert!(net.route(0, "10.1.0.0/24").is_none());
}

#[test]
fn g13_a_restarted_speaker_says_nothing_until_it_has_heard_everyone() {
    let mut net = star(2);
    net.nodes[2].changes.clear();
    let mut config = net.nodes[0].speaker.config().clone();
    config.restarting = true;
    net.cut(0, 1);
    net.restart(0, config);
    net.nodes[0].changes.clear();
    net.advance(15 * SECOND);
    // Client 2 cannot call yet, so nothing is selected, and client 3 forwards by what it was told before.
    net.assert_established(0, "n3");
    assert!(net.nodes[0].changes.is_empty());
    assert_eq!(net.nodes[0].complete, 0);
    assert_eq!(net.next_hops(2, "10.65.2.0/26"), [address(2)]);
    net.join(0, 1);
    net.advance(60 * SECOND);
    assert_eq!(net.nodes[0].complete, 2);
    assert_eq!(net.next_hops(0, "10.65.2.0/26"), [address(2)]);
    // Not one change reached the forwarding of client 3 in all this.
    assert!(
        net.nodes[2].changes.is_empty(),
        "{:?}",
        net.nodes[2].changes
    );
}

/// Graceful restart as the OPENs delivered to a node say it.
fn restarts_told(net: &Net, node: usize) -> Vec<GracefulRestartCapability> {
    let opens = net.delivered.iter().filter_map(|(to, message)| {
        let Message::Open(open) = message else {
            return None;
        };
        (*to == node).then_some(open)
    });
    opens
        .flat_map(|open| &open.capabilities)
        .filter_map(|capability| {
            if let Capability::GracefulRestart(restart) = capability {
                Some(restart.clone())
            } else {
                None
            }
        })
        .collect()
}

#[test]
fn g13_a_speaker_killed_again_within_its_deferral_says_so_again_and_costs_nobody_a_route() {
    let mut net = star(2);
    net.cut(0, 1);
    net.nodes[2].changes.clear();
    net.nodes[0].changes.clear();
    // Client 2 is awaited and does not come, so each life ends before anything was selected.
    for _ in 0..3 {
        net.delivered.clear();
        restart(&mut net, 0, |_| ());
        net.advance(15 * SECOND);
        net.assert_established(0, "n3");
        let told = restarts_told(&net, 2);
        assert!(!told.is_empty());
        for restart in told {
            assert!(restart.restarting && restart.notification);
            assert!(restart.families.iter().all(|family| family.forwarding));
        }
        assert!(net.nodes[0].changes.is_empty());
        assert_eq!(net.nodes[0].complete, 0);
        assert_eq!(net.updates_to(2), 0);
        assert_eq!(net.peer(2, "n1").families[0].retention, Retention::Stale);
    }
    assert_eq!(net.next_hops(2, "10.65.2.0/26"), [address(2)]);
    net.join(0, 1);
    net.advance(60 * SECOND);
    assert_eq!(net.nodes[0].complete, 2);
    for (node, route) in [(0, "10.65.2.0/26"), (2, "10.65.2.0/26")] {
        assert_eq!(net.next_hops(node, route), [address(2)]);
    }
    assert_eq!(net.next_hops(0, "10.65.3.0/26"), [address(3)]);
    assert!(
        net.nodes[2].changes.is_empty(),
        "{:?}",
        net.nodes[2].changes
    );
    assert_eq!(net.peer(2, "n1").families[0].retention, Retention::None);
}

#[test]
fn a_speaker_that_never_completes_is_not_helped_for_ever() {
    let mut net = star(2);
    net.cut(0, 1);
    for _ in 0..12 {
        restart(&mut net, 0, |_| ());
        net.advance(15 * SECOND);
    }
    // Three minutes after the first loss, however often it came back.
    assert!(net.next_hops(2, "10.65.2.0/26").is_empty());
}

#[test]
fn a_restarted_speaker_gives_a_peer_that_stays_away_a_short_grace() {
    let mut net = star(2);
    net.cut(0, 1);
    restart(&mut net, 0, |_| ());
    net.nodes[2].changes.clear();
    net.advance(19 * SECOND);
    assert_eq!(net.nodes[0].complete, 0);
    net.advance(2 * SECOND);
    assert_eq!(net.nodes[0].complete, 2);
    // Client 3 lost what went through the absent one, and nothing else.
    assert!(net.route(2, "10.65.2.0/26").is_none());
    assert_eq!(net.nodes[2].changes.len(), 1);
}

#[test]
fn g13_a_restarted_speaker_waits_no_longer_than_the_deferral() {
    let mut net = star(2);
    net.cut(0, 1);
    restart(&mut net, 0, |config| {
        (config.selection_deferral, config.connect_grace) = (90 * SECOND, 200 * SECOND);
    });
    net.advance(89 * SECOND);
    assert_eq!(net.nodes[0].complete, 0);
    net.advance(2 * SECOND);
    assert_eq!(net.nodes[0].complete, 2);
}

#[test]
fn a_restarted_speaker_waits_ten_seconds_for_whoever_never_says_how_next_hops_are_reached() {
    // Nobody in this net answers questions about next hops.
    let mut net = star(1);
    restart(&mut net, 0, |config| config.next_hop_tracking = true);
    net.advance(9 * SECOND);
    net.assert_established(0, "n2");
    // The family without routes waits for nothing.
    assert!(net.nodes[0].complete < 2);
    net.advance(15 * SECOND);
    assert_eq!(net.nodes[0].complete, 2);
}

#[test]
fn a_restarted_speaker_awaits_callers_from_a_range_for_the_grace() {
    let mut net = Net::new();
    let mut reflector = speaker_config(1, 64512);
    let mut range = peer_config(1, 64512);
    range.name = "clients".to_owned();
    range.remote = Remote::Range(prefix("192.0.2.0/24"));
    range.route_reflector_client = true;
    reflector.peers.push(range);
    net.add(reflector);
    for client in 2..=3 {
        net.add(client_config(client));
    }
    net.converge();
    net.cut(0, 1);
    restart(&mut net, 0, |_| ());
    net.nodes[2].changes.clear();
    net.advance(10 * SECOND);
    net.assert_established(0, "clients-192.0.2.3");
    assert_eq!(net.nodes[0].complete, 0);
    net.join(0, 1);
    net.advance(11 * SECOND);
    assert_eq!(net.nodes[0].complete, 2);
    assert_eq!(net.next_hops(2, "10.65.2.0/26"), [address(2)]);
    assert!(net.nodes[2].changes.is_empty());
}

#[test]
fn g14_two_that_restart_at_once_do_not_wait_for_each_other_and_lose_nothing() {
    let mut net = star(1);
    let mut config = net.nodes[1].speaker.config().clone();
    config.restarting = true;
    net.restart(1, config);
    let mut config = net.nodes[0].speaker.config().clone();
    config.restarting = true;
    net.restart(0, config);
    net.nodes[0].changes.clear();
    net.advance(10 * SECOND);
    assert_eq!(net.nodes[0].complete, 2);
    assert_eq!(net.nodes[1].complete, 2);
    assert_eq!(net.next_hops(0, "10.65.2.0/26"), [address(2)]);
}

#[test]
fn a_restarted_speaker_hears_out_a_peer_without_graceful_restart() {
    let mut net = star(1);
    net.configure(1, |config| config.peers[0].graceful_restart = None);
    net.advance(20 * SECOND);
    restart(&mut net, 0, |_| ());
    net.nodes[0].changes.clear();
    net.advance(20 * SECOND);
    net.assert_established(0, "n2");
    assert_eq!(net.nodes[0].complete, 2);
    // The kernel's routes of the earlier life may go once the table is complete, so the peer's must be known by then.
    assert_eq!(net.next_hops(0, "10.65.2.0/26"), [address(2)]);
    let node = &net.nodes[0];
    assert_eq!(node.changes_when_complete, node.changes.len());
}

#[test]
fn a_peer_disabled_while_selection_is_deferred_is_awaited_no_more() {
    let mut net = star(2);
    net.cut(0, 1);
    restart(&mut net, 0, |_| ());
    net.advance(SECOND);
    assert_eq!(net.nodes[0].complete, 0);
    net.configure(0, |config| config.peers[0].enabled = false);
    net.advance(10 * SECOND);
    net.assert_established(0, "n3");
    assert_eq!(net.nodes[0].complete, 2);
}

#[test]
fn a_family_taken_from_a_peer_while_selection_is_deferred_is_awaited_no_more() {
    let mut net = star(2);
    net.cut(0, 1);
    restart(&mut net, 0, |_| ());
    net.advance(10 * SECOND);
    net.assert_established(0, "n3");
    assert_eq!(net.nodes[0].complete, 0);
    net.configure(0, |config| {
        config.peers[0].families = vec![Family::IPV4_UNICAST];
    });
    assert_eq!(net.nodes[0].complete, 1);
}

#[test]
fn a_peer_that_never_dials_is_found_within_seconds_of_its_return() {
    // The reflector is passive; it is away for long, but not for longer than its routes are kept.
    let mut net = star(2);
    net.cut(0, 1);
    net.advance(100 * SECOND);
    net.join(0, 1);
    net.advance(5 * SECOND);
    net.assert_established(1, "n1");
}

#[test]
fn a_restarted_speaker_dials_the_peers_it_usually_waits_for() {
    let mut net = star(2);
    net.cut(0, 1);
    net.advance(30 * SECOND);
    net.join(0, 1);
    restart(&mut net, 0, |_| ());
    net.settle();
    net.assert_established(0, "n2");
    net.assert_established(0, "n3");
}

#[test]
fn disabling_a_peer_that_is_away_removes_exactly_its_routes() {
    let mut net = star(3);
    net.cut(0, 1);
    assert!(net.route(2, "10.65.2.0/26").is_some());
    net.configure(0, |config| config.peers[0].enabled = false);
    assert_eq!(net.peer(0, "n2").families[0].retention, Retention::None);
    for node in [0, 2, 3] {
        assert!(net.route(node, "10.65.2.0/26").is_none());
    }
    assert!(net.route(3, "10.65.3.0/26").is_some());
}

#[test]
fn a_peer_that_is_away_and_gets_another_as_loses_its_routes() {
    let mut net = star(2);
    net.cut(0, 1);
    net.configure(0, |config| config.peers[0].asn = Asn(64999).into());
    assert!(net.route(0, "10.65.2.0/26").is_none());
    assert!(net.route(2, "10.65.2.0/26").is_none());
}

#[test]
fn a_corrected_peer_is_tried_at_once() {
    let mut net = star(1);
    net.configure(0, |config| {
        (config.peers[0].asn, config.peers[0].passive) = (Asn(64999).into(), false);
    });
    net.advance(300 * SECOND);
    assert_ne!(net.peer(0, "n2").state, State::Established);
    net.configure(0, |config| config.peers[0].asn = Asn(64512).into());
    net.assert_established(0, "n2");
}
