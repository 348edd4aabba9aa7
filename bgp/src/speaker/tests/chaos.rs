//! Long misfortune: restarts, partitions, lost power, damage on the way, all at once and again and again. In the end every
//! table is what a network that never had any of it holds.

use super::model::picture;
use super::net::{Net, address, originate, peer_config, prefix, speaker_config};
use super::{SECOND, mesh, reject, star};
use crate::fsm::State;
use crate::speaker::Clear;
use crate::speaker::config::{Originate, SpeakerConfig};

/// A small generator: the same misfortunes every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("below the limit")
    }
}

/// After peace for longer than any timer, the network holds what a fresh one of the same configurations does.
#[track_caller]
fn assert_as_fresh(net: &mut Net) {
    net.advance(700 * SECOND);
    let mut fresh = Net::new();
    for node in &net.nodes {
        let mut config = node.speaker.config().clone();
        config.restarting = false;
        fresh.add(config);
    }
    fresh.converge();
    fresh.advance(700 * SECOND);
    let (had, wanted) = (picture(net), picture(&fresh));
    let extra: Vec<_> = had.iter().filter(|line| !wanted.contains(line)).collect();
    let missing: Vec<_> = wanted.iter().filter(|line| !had.contains(line)).collect();
    assert!(
        extra.is_empty() && missing.is_empty(),
        "extra {extra:#?}\nmissing {missing:#?}"
    );
    for node in &net.nodes {
        let snapshot = node.speaker.snapshot(net.now);
        assert!(
            snapshot
                .tables
                .iter()
                .all(|table| table.pending_decisions == 0)
        );
    }
}

fn restarted(net: &Net, node: usize) -> SpeakerConfig {
    let mut config = net.nodes[node].speaker.config().clone();
    config.restarting = true;
    config
}

/// A node announces one of a few prefixes more, or one less.
fn churn(net: &mut Net, dice: &mut Dice) {
    let node = dice.below(net.nodes.len());
    let extra = prefix(&format!("10.9.{}.0/24", dice.below(6)));
    net.configure(node, |config| {
        let before = config.originate.len();
        config.originate.retain(|route| route.prefix != extra);
        if config.originate.len() == before {
            config.originate.push(Originate::new(extra));
        }
    });
}

#[test]
fn nodes_killed_and_restarted_every_twenty_seconds_under_churn() {
    for seed in 1..6 {
        let mut dice = Dice(seed);
        let mut net = star(4);
        for _ in 0..15 {
            let node = dice.below(net.nodes.len());
            let config = restarted(&net, node);
            if dice.below(3) == 0 {
                net.lose_power(node, config);
            } else {
                net.restart(node, config);
            }
            for _ in 0..dice.below(6) {
                churn(&mut net, &mut dice);
                net.advance(SECOND * u32::try_from(dice.below(5)).expect("small"));
            }
            net.advance(20 * SECOND);
        }
        assert_as_fresh(&mut net);
    }
}

#[test]
fn partitions_around_every_timer() {
    // Shorter and longer than hold, restart and stale times, and just beside each.
    for seconds in [
        5, 59, 61, 89, 91, 119, 121, 179, 181, 209, 211, 269, 271, 400,
    ] {
        let mut dice = Dice(seconds);
        let mut net = mesh(4);
        net.hold(0, 1);
        churn(&mut net, &mut dice);
        net.hold(0, 2);
        for _ in 0..3 {
            net.advance(SECOND * u32::try_from(seconds).expect("small") / 3);
            churn(&mut net, &mut dice);
        }
        net.release(0, 1);
        churn(&mut net, &mut dice);
        net.advance(SECOND * 2);
        net.release(0, 2);
        assert_as_fresh(&mut net);
    }
}

#[test]
fn a_partition_shorter_than_the_hold_time_is_noticed_by_nobody() {
    let mut net = mesh(3);
    net.nodes[1].changes.clear();
    net.nodes[1].states.clear();
    net.hold(0, 1);
    net.advance(55 * SECOND);
    net.release(0, 1);
    net.advance(300 * SECOND);
    assert_eq!(net.nodes[1].states, []);
    assert_eq!(net.nodes[1].changes, []);
}

/// Two reflectors, nodes 0 and 1, and clients of both.
fn pair(clients: u8) -> Net {
    let mut net = Net::new();
    for reflector in [1, 2] {
        let mut config = speaker_config(reflector, 64_512);
        config.peers.push(peer_config(3 - reflector, 64_512));
        for client in 3..3 + clients {
            let mut peer = peer_config(client, 64_512);
            (peer.route_reflector_client, peer.passive) = (true, true);
            config.peers.push(peer);
        }
        net.add(config);
    }
    for client in 3..3 + clients {
        let mut config = speaker_config(client, 64_512);
        originate(&mut config, &[&format!("10.65.{client}.0/26")]);
        config
            .peers
            .extend([peer_config(1, 64_512), peer_config(2, 64_512)]);
        net.add(config);
    }
    net.converge();
    net
}

#[test]
fn a_pair_of_reflectors_restarted_in_turn_then_together_costs_no_client_a_route() {
    let mut net = pair(4);
    for client in 2..6 {
        assert_eq!(net.nodes[client].kernel.len(), 4);
        net.nodes[client].changes.clear();
    }
    for _ in 0..3 {
        for reflector in [0, 1] {
            let config = restarted(&net, reflector);
            net.restart(reflector, config);
            net.advance(45 * SECOND);
        }
        let both = [restarted(&net, 0), restarted(&net, 1)];
        for (reflector, config) in both.into_iter().enumerate() {
            net.restart(reflector, config);
        }
        net.advance(60 * SECOND);
    }
    for client in 2..6_usize {
        let lost: Vec<_> = net.nodes[client]
            .changes
            .iter()
            .filter(|change| change.best.is_none())
            .collect();
        assert!(lost.is_empty(), "client {client}: {lost:#?}");
        for other in (3..7_u8).filter(|other| usize::from(*other) != client + 1) {
            assert_eq!(
                net.next_hops(client, &format!("10.65.{other}.0/26")),
                [address(other)]
            );
        }
    }
    assert_as_fresh(&mut net);
}

#[test]
fn a_prefix_everyone_flaps_a_hundred_times_a_second() {
    let mut net = star(8);
    let flapping = prefix("10.9.0.0/24");
    let before = net.nodes[0].speaker.snapshot(net.now).memory.groups;
    for turn in 0..300_usize {
        let client = 1 + turn % 8;
        net.configure(client, |config| {
            let had = config.originate.len();
            config.originate.retain(|route| route.prefix != flapping);
            if config.originate.len() == had {
                config.originate.push(Originate::new(flapping));
            }
        });
        net.advance(SECOND / 100);
    }
    // Memory goes by prefix, not by event.
    let after = net.nodes[0].speaker.snapshot(net.now).memory.groups;
    assert!(after < before + 4096, "{before} octets became {after}");
    for client in 1..9 {
        net.assert_established(0, &format!("n{}", client + 1));
    }
    assert_as_fresh(&mut net);
}

#[test]
fn a_policy_that_changes_every_second_over_thousands_of_routes() {
    let mut net = star(3);
    net.budget = 500;
    net.configure(1, |config| {
        let routes = (0..3000_u32).map(|number| {
            let text = format!("10.{}.{}.0/24", 100 + number / 256, number % 256);
            Originate::new(prefix(&text))
        });
        config.originate.extend(routes);
    });
    for turn in 0..12 {
        net.configure(0, |config| {
            config.peers[1].export = if turn % 2 == 0 {
                reject("10.105.7.0/24")
            } else {
                super::net::accept_all()
            };
            config.peers[0].import = if turn % 3 == 0 {
                reject("10.104.1.0/24")
            } else {
                super::net::accept_all()
            };
        });
        net.advance(SECOND);
    }
    assert_as_fresh(&mut net);
}

#[test]
fn a_peer_deleted_and_added_again_within_a_moment() {
    for gap in [0, 1, 50, 99] {
        let mut net = star(3);
        for _ in 0..5 {
            let mut taken = None;
            net.configure(0, |config| taken = Some(config.peers.remove(1)));
            net.advance(SECOND * gap / 1000);
            net.configure(0, |config| {
                config.peers.insert(1, taken.expect("it was there"))
            });
            net.advance(SECOND * 3);
        }
        assert_as_fresh(&mut net);
    }
}

#[test]
fn octets_damaged_on_the_way_end_sessions_and_nothing_else() {
    for seed in 1..8 {
        let mut dice = Dice(seed);
        let mut net = star(3);
        net.corruption = Some(seed);
        for _ in 0..30 {
            churn(&mut net, &mut dice);
            net.advance(SECOND * 3);
        }
        net.corruption = None;
        // What was damaged and still made sense is believed until the neighbour says it anew.
        for node in 0..net.nodes.len() {
            for peer in net.nodes[node].speaker.config().peers.clone() {
                let now = net.now;
                net.speaker(node).clear(&peer.name, Clear::Hard, now);
                net.settle();
            }
        }
        assert_as_fresh(&mut net);
        for client in 2..5 {
            assert_eq!(net.peer(0, &format!("n{client}")).state, State::Established);
        }
    }
}
