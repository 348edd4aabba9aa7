//! Whatever arrives for BFD is read without panic, and what is read can be written and reads the same. Two ends live through
//! any loss, delay, forgery and change of timers, and are Up again when all that is over.

#![no_main]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use margay_bgp::bfd::{Arrival, ControlPacket, Output, SessionConfig, Sessions, State};
use margay_bgp_fuzz::Choices;

struct Link {
    ends: [Sessions<u8>; 2],
    now: Instant,
    lossy: bool,
}

fn address(end: usize) -> IpAddr {
    [IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])][end]
}

fn config(end: usize, interval: u16) -> SessionConfig {
    let interval = Duration::from_millis(u64::from(interval) * 10 + 10);
    SessionConfig {
        remote: address(1 - end),
        scope: 0,
        local: Some(address(end)),
        min_tx: interval,
        min_rx: interval,
        multiplier: 3,
        multihop: None,
    }
}

impl Link {
    fn arrive(&mut self, end: usize, octets: &[u8]) {
        let arrival = Arrival {
            source: address(1 - end),
            destination: Some(address(end)),
            interface: 1,
            ttl: Some(255),
            multihop: false,
        };
        self.ends[end].handle_datagram(&arrival, octets, self.now);
    }

    /// Carries what both ends say, for a while.
    fn run(&mut self, time: Duration, choices: &mut Choices<'_>) {
        let until = self.now + time;
        for _ in 0..5_000 {
            for end in 0..2 {
                self.ends[end].handle_timeout(self.now);
            }
            loop {
                let mut carried = false;
                for end in 0..2 {
                    while let Some(output) = self.ends[end].poll_output() {
                        if let Output::Send { octets, .. } = output {
                            carried = true;
                            if !self.lossy || choices.flag() {
                                self.arrive(1 - end, &octets);
                            }
                        }
                    }
                }
                if !carried {
                    break;
                }
            }
            let next = self.ends.iter().filter_map(Sessions::poll_timeout).min();
            let next = next.expect("a session always has something to do");
            if next > until {
                self.now = until;
                return;
            }
            // What just arrived may have made something due at once.
            self.now = self.now.max(next);
        }
        panic!("no rest");
    }
}

fuzz_target!(|data: &[u8]| {
    if let Ok(packet) = ControlPacket::decode(data) {
        let written = packet.encode();
        assert_eq!(ControlPacket::decode(&written).as_ref(), Ok(&packet));
    }
    let mut choices = Choices::new(data);
    let mut link = Link {
        ends: [Sessions::new(1), Sessions::new(2)],
        now: Instant::now(),
        lossy: false,
    };
    for end in 0..2 {
        link.ends[end].configure(7, config(end, 9), link.now);
    }
    for _ in 0..20 {
        if choices.is_empty() {
            break;
        }
        let end = usize::from(choices.below(2));
        match choices.below(5) {
            0 => {
                let octets = choices.octets(40).to_vec();
                link.arrive(end, &octets);
            }
            1 => {
                let interval = choices.below(100);
                link.ends[end].configure(7, config(end, interval), link.now);
            }
            2 => link.lossy = !link.lossy,
            3 => {
                // Started anew, it knows nothing.
                link.ends[end] = Sessions::new(u64::from(choices.octet()));
                link.ends[end].configure(7, config(end, 9), link.now);
            }
            _ => {
                let time = Duration::from_millis(u64::from(choices.octet()) * 10);
                link.run(time, &mut choices);
            }
        }
    }
    link.lossy = false;
    link.run(Duration::from_secs(12), &mut choices);
    for end in &link.ends {
        let status = end.status(7).expect("it is configured");
        assert_eq!(status.state, State::Up, "{status:?}");
    }
});
