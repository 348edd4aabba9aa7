//! Walks and fills: what a peer is told while its group finds out what it tells, and of a walk that began for another one.

use std::sync::Arc;

use super::net::{Net, originate, prefix};
use super::{reject, star};
use crate::codec::{Community, Message, RefreshKind, RouteRefresh};
use crate::family::Family;
use crate::fsm::Direction;
use crate::policy::{Action, Condition, Policy, Rule, Verdict};
use crate::speaker::Clear;
use crate::speaker::config::{Aggregate, SpeakerConfig};

/// More than is looked at in one go, by far.
fn many() -> Vec<String> {
    (0..2000_u32)
        .map(|number| format!("10.128.{}.{}/32", number >> 8, number & 255))
        .collect()
}

fn without_many() -> Arc<Policy> {
    let set = many().iter().map(|text| prefix(text)).collect();
    Arc::new(Policy {
        rules: vec![Rule::reject(vec![Condition::PrefixIn(set)])],
        default: Verdict::Accept,
    })
}

/// A reflector and three clients, of which the last has [`many`] routes. The first is told everything, the others nothing.
fn table() -> Net {
    let mut net = star(3);
    net.budget = 5000;
    net.configure(0, |config| {
        for peer in config.peers.iter_mut().skip(1) {
            peer.export = Arc::new(Policy::reject_all());
        }
    });
    net.configure(3, |config| {
        let many = many();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        originate(config, &many);
    });
    net.budget = 7;
    net.delivered.clear();
    net
}

/// When messages like these were delivered to a node.
fn deliveries(net: &Net, node: usize, wanted: impl Fn(&Message) -> bool) -> Vec<usize> {
    let delivered = (0..).zip(&net.delivered);
    delivered
        .filter(|(_, (to, message))| *to == node && wanted(message))
        .map(|(at, _)| at)
        .collect()
}

fn announcements(net: &Net, node: usize, within: &str) -> Vec<usize> {
    let within = prefix(within);
    deliveries(net, node, |message| {
        matches!(message, Message::Update(update) if update
            .announced
            .iter()
            .flat_map(|announced| &announced.nlri)
            .any(|nlri| within.contains(nlri.prefix)))
    })
}

fn ends_of_rib(net: &Net, node: usize) -> Vec<usize> {
    deliveries(
        net,
        node,
        |message| matches!(message, Message::Update(update) if update.end_of_rib == Some(Family::IPV4_UNICAST)),
    )
}

fn markers(net: &Net, node: usize, kind: RefreshKind) -> Vec<usize> {
    let family = Family::IPV4_UNICAST;
    let marker = Message::RouteRefresh(RouteRefresh { family, kind });
    deliveries(net, node, |message| *message == marker)
}

fn refresh(net: &mut Net, node: usize) {
    let now = net.now;
    net.speaker(node).clear("n1", Clear::SoftIn, now);
    net.settle();
}

/// The second client is switched off, and the reflector is to dial it.
fn second_off(net: &mut Net) {
    net.configure(0, |config| {
        (config.peers[1].passive, config.peers[1].enabled) = (false, false);
    });
    net.delivered.clear();
}

// ---- fills ----------------------------------------------------------------------------------------------------------

#[test]
fn a_peer_that_joins_a_group_whose_policy_just_changed_hears_nothing_that_is_forbidden_now() {
    let mut net = table();
    net.configure(0, |config| {
        config.peers[0].export = without_many();
        config.peers[1].export = without_many();
    });
    assert_eq!(announcements(&net, 2, "10.128.0.0/16"), []);
    assert_eq!(announcements(&net, 2, "10.65.2.0/26").len(), 1);
    assert_eq!(net.peer(2, "n1").families[0].received, 2);
    let groups = net.nodes[0].speaker.snapshot(net.now).tables[0].update_groups;
    assert_eq!(groups, 2);
}

#[test]
fn a_session_that_comes_up_while_a_group_fills_anew_hears_nothing_that_is_forbidden_now() {
    let mut net = table();
    second_off(&mut net);
    net.configure(0, |config| {
        config.peers[0].export = without_many();
        (config.peers[1].enabled, config.peers[1].export) = (true, without_many());
    });
    net.assert_established(2, "n1");
    assert_eq!(announcements(&net, 2, "10.128.0.0/16"), []);
    assert_eq!(announcements(&net, 2, "10.65.2.0/26").len(), 1);
    assert_eq!(ends_of_rib(&net, 2).len(), 1);
}

#[test]
fn what_an_aggregate_keeps_back_is_not_told_to_a_session_that_comes_up_meanwhile() {
    let mut net = table();
    second_off(&mut net);
    net.configure(0, |config| {
        config.aggregates.push(Aggregate {
            summary_only: true,
            ..Aggregate::new(prefix("10.128.0.0/16"))
        });
        let accepting = Arc::clone(&config.peers[0].export);
        (config.peers[1].enabled, config.peers[1].export) = (true, accepting);
    });
    net.assert_established(2, "n1");
    assert_eq!(net.peer(2, "n1").families[0].received, 3);
    assert_eq!(announcements(&net, 2, "10.128.0.0/16").len(), 1);
}

#[test]
fn the_end_of_the_table_is_said_after_what_a_new_policy_permits() {
    let mut net = table();
    net.configure(0, |config| config.peers[0].export = without_many());
    second_off(&mut net);
    net.configure(0, |config| {
        let accepting = Arc::new(Policy::accept_all());
        config.peers[0].export = Arc::clone(&accepting);
        (config.peers[1].enabled, config.peers[1].export) = (true, accepting);
    });
    net.assert_established(2, "n1");
    let told = announcements(&net, 2, "10.128.0.0/16");
    assert!(!told.is_empty());
    assert!(told.last() < ends_of_rib(&net, 2).first());
}

#[test]
fn the_end_of_the_table_is_said_after_what_a_policy_permits_that_changed_during_the_walk() {
    let mut net = table();
    net.configure(3, |config| originate(config, &["10.2.0.0/24"]));
    second_off(&mut net);
    net.nodes[2].slow = true;
    net.configure(0, |config| {
        config.peers[0].export = Arc::new(Policy::reject_all());
        (config.peers[1].enabled, config.peers[1].export) = (true, reject("10.2.0.0/24"));
    });
    assert!(ends_of_rib(&net, 2).is_empty());
    net.configure(0, |config| {
        config.peers[1].export = Arc::new(Policy::accept_all())
    });
    net.read_on(2);
    let told = announcements(&net, 2, "10.2.0.0/24");
    assert_eq!((told.len(), ends_of_rib(&net, 2).len()), (1, 1));
    assert!(told < ends_of_rib(&net, 2));
}

#[test]
fn what_earlier_policies_did_is_forgotten() {
    let mut net = star(1);
    net.configure(0, |config| originate(config, &["10.0.0.0/24"]));
    for value in 0..20 {
        net.configure(0, |config| {
            config.peers[0].export = Arc::new(Policy {
                rules: vec![Rule {
                    conditions: vec![],
                    actions: vec![Action::AddCommunity(Community::new(7, value))],
                    verdict: None,
                }],
                default: Verdict::Accept,
            });
        });
    }
    let groups: Vec<_> = net.nodes[0].speaker.tables.ipv4.groups().collect();
    let [(_, group)] = groups[..] else {
        panic!("one peer, one group");
    };
    assert_eq!(group.distinct_actions(), 2);
}

// ---- walks ----------------------------------------------------------------------------------------------------------

/// [`table`], with everybody told everything, in which the first client is on a walk that it does not read, and something came
/// since that walk began.
fn walked() -> Net {
    let mut net = table();
    net.budget = 5000;
    net.configure(0, |config| {
        let accepting = Arc::clone(&config.peers[0].export);
        for peer in &mut config.peers {
            peer.export = Arc::clone(&accepting);
        }
    });
    net.nodes[1].slow = true;
    refresh(&mut net, 1);
    net.configure(3, |config| originate(config, &["10.2.0.0/24"]));
    net.delivered.clear();
    net
}

#[test]
fn a_refresh_that_joins_a_walk_ends_after_what_came_since_that_began() {
    let mut net = walked();
    net.nodes[2].changes.clear();
    refresh(&mut net, 2);
    let end = markers(&net, 2, RefreshKind::End);
    assert_eq!(
        (markers(&net, 2, RefreshKind::Begin).len(), end.len()),
        (1, 1)
    );
    let told = announcements(&net, 2, "10.2.0.0/24");
    assert_eq!(told.len(), 1);
    assert!(told < end);
    // So it was not missing for a moment.
    assert_eq!(net.nodes[2].changes, []);
}

#[test]
fn a_session_that_joins_a_walk_is_told_the_end_after_what_came_since_that_began() {
    let mut net = walked();
    second_off(&mut net);
    net.configure(0, |config| config.peers[1].enabled = true);
    net.assert_established(2, "n1");
    let told = announcements(&net, 2, "10.2.0.0/24");
    assert_eq!(told.len(), 1);
    assert!(told < ends_of_rib(&net, 2));
}

#[test]
fn a_refresh_asked_for_during_a_walk_is_not_forgotten_when_the_peer_moves() {
    let mut net = walked();
    refresh(&mut net, 1);
    net.configure(0, |config| config.peers[0].export = without_many());
    net.read_on(1);
    for kind in [RefreshKind::Begin, RefreshKind::End] {
        assert_eq!(markers(&net, 1, kind).len(), 2, "{kind:?}");
    }
    assert_eq!(net.peer(1, "n1").families[0].received, 3);
}

#[test]
fn a_refresh_by_whoever_the_whole_table_is_from_is_done_in_slices() {
    let mut net = star(1);
    net.budget = 50_000;
    net.configure(1, |config: &mut SpeakerConfig| {
        let many: Vec<String> = (0..33_000_u32)
            .map(|number| format!("10.128.{}.{}/32", number >> 8, number & 255))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        originate(config, &many);
    });
    net.delivered.clear();
    let now = net.now;
    let speaker = net.speaker(0);
    let peer = speaker.peer_named("n2").expect("it is there");
    let request = Message::RouteRefresh(RouteRefresh {
        family: Family::IPV4_UNICAST,
        kind: RefreshKind::Request,
    });
    speaker.handle_message(peer, Direction::Incoming, request, now);
    let mut rounds = 0;
    while speaker.work(2048, now) {
        rounds += 1;
    }
    assert!(rounds >= 2, "{rounds}");
    net.settle();
    assert_eq!(markers(&net, 1, RefreshKind::End).len(), 1);
    assert_eq!(announcements(&net, 1, "10.128.0.0/16"), []);
}
