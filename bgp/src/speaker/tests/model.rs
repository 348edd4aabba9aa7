//! Whatever happens, the outcome is that of a fresh start.

use std::collections::BTreeSet;
use std::num::NonZeroU8;
use std::sync::Arc;

use proptest::prelude::*;

use super::net::{self, Net, originate, peer_config, prefix, speaker_config};
use super::watcher::Watcher;
use super::{SECOND, reject, star};
use crate::asn::Asn;
use crate::codec::{Community, LocalPref, Role};
use crate::fsm::State;
use crate::policy::{Action, Condition, Policy, Rule, Verdict};
use crate::speaker::Clear;
use crate::speaker::config::{
    AddPathSend, Aggregate, GracefulRestart, LocalAsMode, LongLived, NextHopMode, Originate,
    RemovePrivateAs, SpeakerConfig,
};

/// One thing that happens to a star of a reflector (node 0) and three clients.
#[derive(Clone, Debug)]
enum Happening {
    Announce {
        client: usize,
        route: u8,
        local_pref: u8,
        community: u8,
    },
    Withdraw {
        client: usize,
        route: u8,
    },
    Export {
        client: usize,
        policy: u8,
    },
    /// All export policies change at once, each to its neighbour's.
    Shift,
    Import {
        client: usize,
        policy: u8,
    },
    Reset {
        client: usize,
    },
    Cut {
        client: usize,
    },
    Heal {
        client: usize,
    },
    Slow {
        client: usize,
    },
    /// Either side of a session tells everything again, or wants to be told.
    Refresh {
        client: usize,
        of_client: bool,
        inwards: bool,
    },
    /// How many paths of a prefix the client is told.
    Paths {
        client: usize,
        mode: u8,
    },
    /// One of the options of what is told and believed.
    Option {
        client: usize,
        option: u8,
        value: u8,
    },
    Wait {
        seconds: u8,
    },
}

fn any_step() -> impl Strategy<Value = Happening> {
    let client = 1_usize..4;
    prop_oneof![
        4 => (client.clone(), 0_u8..6, 0_u8..3, 0_u8..3)
            .prop_map(|(client, route, local_pref, community)| Happening::Announce { client, route, local_pref, community }),
        3 => (client.clone(), 0_u8..6).prop_map(|(client, route)| Happening::Withdraw { client, route }),
        1 => (client.clone(), 0_u8..4).prop_map(|(client, policy)| Happening::Export { client, policy }),
        1 => (client.clone(), 0_u8..4).prop_map(|(client, policy)| Happening::Import { client, policy }),
        1 => Just(Happening::Shift),
        1 => client.clone().prop_map(|client| Happening::Reset { client }),
        1 => client.clone().prop_map(|client| Happening::Cut { client }),
        1 => client.clone().prop_map(|client| Happening::Heal { client }),
        1 => client.clone().prop_map(|client| Happening::Slow { client }),
        1 => (client.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(client, of_client, inwards)| Happening::Refresh { client, of_client, inwards }),
        1 => (client, 0_u8..4).prop_map(|(client, mode)| Happening::Paths { client, mode }),
        3 => (1_usize..4, 0_u8..11, 0_u8..4)
            .prop_map(|(client, option, value)| Happening::Option { client, option, value }),
        1 => (0_u8..40).prop_map(|seconds| Happening::Wait { seconds }),
    ]
}

/// Policies to choose from: everything, without one route, with a community, with another preference.
fn policy(number: u8) -> Arc<Policy> {
    let action = |action| {
        Arc::new(Policy {
            rules: vec![Rule {
                conditions: vec![Condition::PrefixNotIn(
                    [prefix("10.9.2.0/24")].into_iter().collect(),
                )],
                actions: vec![action],
                verdict: None,
            }],
            default: Verdict::Accept,
        })
    };
    match number {
        0 => net::accept_all(),
        1 => reject("10.9.1.0/24"),
        2 => action(Action::AddCommunity(Community::new(1, 1))),
        _ => action(Action::SetLocalPref(LocalPref(150))),
    }
}

fn add_path(mode: u8) -> Option<AddPathSend> {
    match mode {
        0 => None,
        1 => Some(AddPathSend::All),
        count => NonZeroU8::new(count - 1).map(AddPathSend::Best),
    }
}

/// Restarts are short, so that routes become long-lived stale within a test. The last client knows nothing of restarts.
fn restart_quickly(net: &mut Net) {
    let graceful = GracefulRestart {
        restart_time: 10 * SECOND,
        stale_time: 20 * SECOND,
    };
    let long_lived = LongLived {
        stale_time: 60 * SECOND,
        partial_deployment: false,
    };
    for node in 0..4 {
        net.configure(node, |config| {
            for peer in &mut config.peers {
                peer.graceful_restart = (node != 3).then_some(graceful);
                peer.long_lived = (node != 3).then_some(long_lived);
            }
        });
    }
    net.converge();
}

/// Every client that reads holds what the reflector takes it to hold.
fn check_held(net: &Net) -> Result<(), TestCaseError> {
    for client in 1..4_usize {
        let name = format!("n{}", client + 1);
        let told = net.peer(0, &name);
        let known = net.peer(client, "n1");
        let up = told.state == State::Established && known.state == State::Established;
        if up && !net.nodes[client].slow {
            let (advertised, received) = (told.families[0].advertised, known.families[0].received);
            prop_assert_eq!(advertised, received, "client {}", client);
            let held = net.held(client, 0).expect("a connection");
            let prefixes: BTreeSet<_> = held.paths.keys().map(|nlri| nlri.prefix).collect();
            prop_assert_eq!(net.told(0, &name), prefixes, "client {}", client);
            prop_assert!(
                held.awaited.is_empty(),
                "client {} asked for {:?}",
                client,
                held.awaited
            );
        }
    }
    Ok(())
}

/// What every client was told, as the octets said it. Identifiers of paths keep what was before.
fn told_to_clients(net: &Net) -> Vec<String> {
    let mut told = Vec::new();
    for client in 1..4 {
        let held = net.held(client, 0).expect("a connection");
        for (nlri, (attributes, next_hop)) in &held.paths {
            let prefix = nlri.prefix;
            told.push(format!(
                "{client} told {prefix} {attributes:?} {next_hop:?}"
            ));
        }
    }
    told
}

fn set_option(config: &mut SpeakerConfig, peer: usize, option: u8, value: u8) {
    let on = value % 2 == 1;
    let peer = &mut config.peers[peer];
    match option {
        0 => peer.default_originate = on,
        1 => peer.drain = on,
        2 => config.drain = on,
        3 => config.client_to_client = on,
        4 => {
            config.aggregates = (value > 0)
                .then(|| Aggregate {
                    summary_only: value > 1,
                    ..Aggregate::new(prefix("10.9.0.0/16"))
                })
                .into_iter()
                .collect();
        }
        5 => {
            peer.next_hop = match value {
                0 => NextHopMode::Auto,
                1 => NextHopMode::SelfAddress,
                2 => NextHopMode::ForceSelf,
                _ => NextHopMode::Keep,
            };
        }
        6 => {
            peer.remove_private_as = match value {
                0 => None,
                1 => Some(RemovePrivateAs::IfAllPrivate),
                2 => Some(RemovePrivateAs::All),
                _ => Some(RemovePrivateAs::Replace),
            };
        }
        7 => peer.as_override = on,
        10 => {
            let default = prefix("0.0.0.0/0");
            config.originate.retain(|route| route.prefix != default);
            config.originate.extend(on.then(|| Originate::new(default)));
        }
        8 => {
            peer.role = match value {
                0 => None,
                1 => Some(Role::Provider),
                2 => Some(Role::Peer),
                _ => Some(Role::Customer),
            };
        }
        _ => {
            peer.local_as_mode = match value {
                0 => LocalAsMode::Session,
                1 => LocalAsMode::Prepend,
                2 => LocalAsMode::NoPrepend,
                _ => LocalAsMode::ReplaceAs,
            };
        }
    }
}

fn happen(net: &mut Net, step: &Happening) {
    match *step {
        Happening::Announce {
            client,
            route,
            local_pref,
            community,
        } => net.configure(client, |config| {
            let prefix = prefix(&format!("10.9.{route}.0/24"));
            config.originate.retain(|route| route.prefix != prefix);
            let mut route = Originate::new(prefix);
            route.local_pref = Some(LocalPref(100 + u32::from(local_pref)));
            route.communities = vec![Community::new(9, u16::from(community))];
            config.originate.push(route);
        }),
        Happening::Withdraw { client, route } => net.configure(client, |config| {
            let prefix = prefix(&format!("10.9.{route}.0/24"));
            config.originate.retain(|route| route.prefix != prefix);
        }),
        Happening::Export {
            client,
            policy: number,
        } => {
            net.configure(0, |config| config.peers[client - 1].export = policy(number));
        }
        Happening::Import {
            client,
            policy: number,
        } => {
            net.configure(0, |config| config.peers[client - 1].import = policy(number));
        }
        Happening::Shift => net.configure(0, |config| {
            let first = Arc::clone(&config.peers[0].export);
            for number in 1..config.peers.len() {
                config.peers[number - 1].export = Arc::clone(&config.peers[number].export);
            }
            if let Some(last) = config.peers.last_mut() {
                last.export = first;
            }
        }),
        Happening::Reset { client } => {
            let (name, now) = (format!("n{}", client + 1), net.now);
            net.speaker(0).clear(&name, Clear::Hard, now);
            net.settle();
        }
        Happening::Cut { client } => net.cut(0, client),
        Happening::Heal { client } => net.join(0, client),
        Happening::Slow { client } => {
            net.nodes[client].slow = !net.nodes[client].slow;
            if !net.nodes[client].slow {
                net.read_on(client);
            }
        }
        Happening::Refresh {
            client,
            of_client,
            inwards,
        } => {
            let (node, name) = if of_client {
                (client, "n1".to_owned())
            } else {
                (0, format!("n{}", client + 1))
            };
            let clear = if inwards {
                Clear::SoftIn
            } else {
                Clear::SoftOut
            };
            let now = net.now;
            net.speaker(node).clear(&name, clear, now);
            net.settle();
        }
        Happening::Paths { client, mode } => net.configure(0, |config| {
            config.peers[client - 1].add_path_send = add_path(mode);
        }),
        Happening::Option {
            client,
            option,
            value,
        } => net.configure(0, |config| set_option(config, client - 1, option, value)),
        Happening::Wait { seconds } => net.advance(u32::from(seconds) * SECOND),
    }
}

/// What every node knows and would forward by, without what differs between lives: ids and times.
pub(super) fn picture(net: &Net) -> Vec<String> {
    let mut picture = Vec::new();
    for (number, node) in net.nodes.iter().enumerate() {
        for route in net.routes(number) {
            for path in &route.paths {
                picture.push(format!(
                    "{number} {} {} {:?} {:?} best={} used={} {:?} {:?}",
                    route.prefix,
                    path.source,
                    path.attributes,
                    path.next_hop,
                    path.best,
                    path.used,
                    path.step,
                    path.unusable,
                ));
            }
            picture.push(format!(
                "{number} {} to {:?}",
                route.prefix, route.advertised_to
            ));
        }
        for (prefix, best) in &node.kernel {
            picture.push(format!(
                "{number} kernel {prefix} {:?} {:?}",
                best.next_hops, best.local_pref
            ));
        }
    }
    picture.sort();
    picture
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn after_any_sequence_every_peer_holds_what_a_fresh_speaker_would_send(
        steps in prop::collection::vec(any_step(), 1..30),
    ) {
        outcome_is_that_of_a_fresh_start(star(3), &steps)?;
    }

    /// The same among ASs: each client is one of its own, and is shown another than its reflector's.
    #[test]
    fn after_any_sequence_every_other_as_holds_what_a_fresh_speaker_would_send(
        steps in prop::collection::vec(any_step(), 1..30),
    ) {
        // Identifiers of paths keep what was before, and between ASs nothing else tells two paths of one neighbour apart.
        let steps: Vec<_> = steps
            .into_iter()
            .filter(|step| !matches!(step, Happening::Paths { .. }))
            .collect();
        outcome_is_that_of_a_fresh_start(external_star(), &steps)?;
    }
}

/// Three ASs that know each other by a fourth.
fn external_star() -> Net {
    let mut net = Net::new();
    let mut middle = speaker_config(1, 64512);
    for client in 2..5 {
        let mut peer = peer_config(client, 64600 + u32::from(client));
        (peer.passive, peer.local_asn) = (true, Some(Asn(65000)));
        middle.peers.push(peer);
    }
    net.add(middle);
    for client in 2..5 {
        let mut config = speaker_config(client, 64600 + u32::from(client));
        originate(&mut config, &[&format!("10.65.{client}.0/26")]);
        config.peers.push(peer_config(1, 65000));
        net.add(config);
    }
    net.converge();
    net
}

fn outcome_is_that_of_a_fresh_start(
    mut net: Net,
    steps: &[Happening],
) -> Result<(), TestCaseError> {
    // What a client hears never beats what it has itself; otherwise preferences that differ between reflector and
    // clients have more than one stable outcome (RFC 4264), and the order of events decides between them.
    for client in 1..4 {
        net.configure(client, |config| {
            config.peers[0].import = Arc::new(Policy {
                rules: vec![Rule {
                    conditions: vec![],
                    actions: vec![Action::SetLocalPref(LocalPref(1))],
                    verdict: None,
                }],
                default: Verdict::Accept,
            });
        });
    }
    restart_quickly(&mut net);
    // One reads along, one now and then, one chunk at a time, and one comes late.
    let (mut prompt, mut slow) = (Watcher::start(&mut net), Watcher::start(&mut net));
    for step in steps {
        happen(&mut net, step);
        check_held(&net)?;
        prompt.read(&mut net);
        prompt.check(&net, 3).map_err(TestCaseError::fail)?;
        slow.read_some(&mut net);
    }
    for client in 1..4 {
        net.join(0, client);
        net.read_on(client);
    }
    net.advance(400 * SECOND);
    let late = Watcher::start(&mut net);
    for mut watcher in [prompt, slow, late] {
        watcher.read(&mut net);
        watcher.check(&net, 3).map_err(TestCaseError::fail)?;
    }
    let mut fresh = Net::new();
    for node in &net.nodes {
        fresh.add(node.speaker.config().clone());
    }
    fresh.converge();
    fresh.advance(400 * SECOND);
    let (mut had, mut wanted) = (picture(&net), picture(&fresh));
    had.extend(told_to_clients(&net));
    wanted.extend(told_to_clients(&fresh));
    let extra: Vec<_> = had.iter().filter(|line| !wanted.contains(line)).collect();
    let missing: Vec<_> = wanted.iter().filter(|line| !had.contains(line)).collect();
    prop_assert!(
        extra.is_empty() && missing.is_empty(),
        "extra {extra:#?}\nmissing {missing:#?}"
    );
    let counts = |net: &Net| {
        let snapshot = net.nodes[0].speaker.snapshot(net.now);
        (snapshot.attribute_sets, snapshot.tables[0].clone())
    };
    prop_assert_eq!(counts(&net), counts(&fresh));
    Ok(())
}
