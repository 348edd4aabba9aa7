//! A BMP collector with a socket of its own, which reads all it is told at once.
//!
//! Probes show that it was told everything: it hears of the tables in turns, so between two of the witness's probes each table
//! had its turn. What is told of the witness and of probes is left out.

use std::io::{ErrorKind, Read as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use margay_bgp::bmp::Collector;
use margay_bgp::prefix::Prefix;

use super::super::Lab;
use super::super::monitoring::{Told, of, read};
use super::{PATIENCE, WITNESS, probe_of};

/// A connection of the speaker to a collector.
pub(super) struct Listening {
    stream: TcpStream,
    /// What was heard and is no whole message yet.
    incoming: Vec<u8>,
    /// What a case has not read yet.
    told: Vec<u8>,
    /// The last IPv4 probe of the witness in each table: before policy, after it, and the best ones.
    seen: [Option<u32>; 3],
}

impl Listening {
    fn new(stream: TcpStream, collector: &Collector) -> Self {
        stream.set_nonblocking(true).unwrap();
        let tables = [
            collector.pre_policy,
            collector.post_policy,
            collector.loc_rib,
        ];
        Self {
            stream,
            incoming: Vec::new(),
            told: Vec::new(),
            seen: tables.map(|wanted| wanted.then_some(0)),
        }
    }

    /// Whether it was told of the probe in every table.
    pub(super) fn has(&self, serial: u32) -> bool {
        self.seen.iter().flatten().all(|seen| *seen >= serial)
    }

    pub(super) fn listen(&mut self) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(octets) => self.incoming.extend_from_slice(&buffer[..octets]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("the collector is left: {error}"),
            }
        }
        while let Some(length) = self.incoming.get(1..5) {
            let length = u32::from_be_bytes(length.try_into().unwrap());
            let length = usize::try_from(length).unwrap();
            if self.incoming.len() < length {
                return;
            }
            let message: Vec<u8> = self.incoming.drain(..length).collect();
            self.note(&message);
            self.told.extend(message);
        }
    }

    fn note(&mut self, message: &[u8]) {
        for told in read(message) {
            let Told::Routes(whose, announced, _) = &told else {
                continue;
            };
            let table = match (whose.kind, whose.post_policy) {
                (3, _) => 2,
                _ if !is_witness(&told) => continue,
                (_, post_policy) => usize::from(post_policy),
            };
            for name in announced {
                if let (Some((0, serial)), Some(seen)) = (probe(name), &mut self.seen[table]) {
                    *seen = serial.max(*seen);
                }
            }
        }
    }
}

/// Which probe a route is, by its name.
fn probe(name: &str) -> Option<(usize, u32)> {
    let prefix = name.split_whitespace().next().unwrap();
    probe_of(prefix.parse::<Prefix>().unwrap())
}

fn is_witness(told: &Told) -> bool {
    let (_, last, _) = WITNESS;
    of(told).is_some_and(|whose| whose.address == format!("192.0.2.{last}"))
}

/// What is left of a message without the witness and probes.
pub(in super::super) fn sift(mut told: Told) -> Option<Told> {
    if is_witness(&told) {
        return None;
    }
    if let Told::Routes(_, announced, withdrawn) = &mut told {
        announced.retain(|name| probe(name).is_none());
        withdrawn.retain(|name| probe(name).is_none());
        if announced.is_empty() && withdrawn.is_empty() {
            return None;
        }
    }
    Some(told)
}

impl Lab {
    /// The speaker is told of the collector, and connects.
    pub(in super::super) fn wire_monitored(&mut self, collector: &Collector) {
        self.wire().place.enter();
        let listener = TcpListener::bind(collector.address).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.wire_configure(|config| config.monitoring.push(collector.clone()));
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) => assert!(
                    error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline,
                    "the collector is not dialled: {error}"
                ),
            }
            self.attend(Instant::now() + Duration::from_millis(5), &[], |_| false);
        };
        self.wire().collector = Some(Listening::new(stream, collector));
    }

    /// All that the collector was told since last asked.
    pub(in super::super) fn wire_monitor_octets(&mut self) -> Vec<u8> {
        self.barrier(WITNESS.0);
        let collector = self.wire().collector.as_mut().unwrap();
        std::mem::take(&mut collector.told)
    }
}
