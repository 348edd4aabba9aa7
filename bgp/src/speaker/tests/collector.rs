//! Collectors beside tables that are larger than what may pend for them.

use std::time::Duration;

use super::net::originate;
use super::star;
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
