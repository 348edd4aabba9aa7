//! Collectors beside tables that are larger than what may pend for them.

use std::time::Duration;

use super::net::{Net, originate};
use super::watcher::Watcher;
use super::{reject, star};
use crate::bmp::{Collector, MonitorOutput};

#[test]
fn a_collector_may_read_at_its_own_pace_however_many_paths_prefixes_have() {
    let mut net = star(5);
    net.budget = 5000;
    let many: Vec<String> = (0..1000_u32)
        .map(|number| format!("10.128.{}.{}/32", number >> 8, number & 255))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for client in 1..=5 {
        net.configure(client, |config| originate(config, &many));
    }
    let now = net.now;
    let speaker = net.speaker(0);
    let collector = Collector::new("127.0.0.1:11019".parse().expect("an address"));
    let id = speaker.start_monitoring(&collector, Duration::ZERO, now);
    for _ in 0..1000 {
        match speaker.poll_monitor(id, now) {
            MonitorOutput::Octets(_) => {}
            MonitorOutput::Idle => return,
            MonitorOutput::Overflow => panic!("nothing changed, and yet it is behind"),
        }
    }
    panic!("never idle");
}

#[test]
fn what_peers_are_told_is_told_whole_and_then_as_it_changes() {
    let mut net = star(3);
    net.configure(1, |config| {
        originate(config, &["10.9.0.0/24", "10.9.1.0/24"])
    });
    net.settle();
    let mut watcher = Watcher::start(&mut net);
    watcher.read(&mut net);
    watcher.check(&net, 3).unwrap();
    // Of two families each.
    assert_eq!([1, 2, 3].map(|client| watcher.ends(client)), [2; 3]);
    let told = |watcher: &Watcher, client| {
        let paths = watcher.paths(client).expect("a session");
        let prefixes: Vec<_> = paths.iter().map(|nlri| nlri.prefix.to_string()).collect();
        prefixes
            .into_iter()
            .filter(|prefix| prefix.starts_with("10.9."))
            .collect::<Vec<_>>()
    };
    assert_eq!(told(&watcher, 2), ["10.9.0.0/24", "10.9.1.0/24"]);
    assert!(told(&watcher, 1).is_empty(), "its own routes");
    // Another policy for one of them puts it into another group.
    net.configure(0, |config| config.peers[1].export = reject("10.9.1.0/24"));
    net.settle();
    watcher.read(&mut net);
    assert_eq!(told(&watcher, 2), ["10.9.0.0/24"]);
    assert_eq!(told(&watcher, 3), ["10.9.0.0/24", "10.9.1.0/24"]);
    // A session that ends takes what was told in it along.
    net.cut(0, 2);
    watcher.read(&mut net);
    assert_eq!(watcher.paths(2), None);
    net.join(0, 2);
    net.converge();
    watcher.read(&mut net);
    watcher.check(&net, 3).unwrap();
    assert_eq!(told(&watcher, 2), ["10.9.0.0/24"]);
}

#[test]
fn a_collector_that_reads_nothing_of_what_peers_are_told_keeps_an_entry_a_prefix() {
    let mut net = star(3);
    let mut watcher = Watcher::start(&mut net);
    let names: Vec<String> = (0..50)
        .map(|number| format!("10.9.{number}.0/24"))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    watcher.read(&mut net);
    let told = |net: &Net| net.nodes[0].speaker.snapshot(net.now).memory.groups;
    let before = told(&net);
    for round in 0..200 {
        net.configure(1, |config| {
            config.originate.clear();
            originate(config, if round % 2 == 0 { &names } else { &[] });
        });
        net.settle();
    }
    let after = told(&net);
    assert!(after < before + 8 * 1024, "{before} octets became {after}");
    watcher.read(&mut net);
    watcher.check(&net, 3).unwrap();
}
