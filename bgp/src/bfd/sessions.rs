//! All sessions of a speaker: whose packet it is, who is due, who is on the way out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::SessionConfig;
use super::packet::{ControlPacket, PACKET_LEN, PacketError};
use super::session::{Report, Session};

/// What is to be done, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output<K> {
    /// A session begins: make a socket of its own for it, with a source port from 49152 on (RFC 5881 §4).
    Open {
        /// Which.
        session: u32,
        /// Where to, and from.
        config: SessionConfig,
    },
    /// Send this from the session's socket, with TTL 255.
    Send {
        /// Which.
        session: u32,
        /// The datagram.
        octets: [u8; PACKET_LEN],
    },
    /// The session is over.
    Close {
        /// Which.
        session: u32,
    },
    /// News for whoever asked for the session.
    Report {
        /// By the name it was asked for.
        key: K,
        /// What is new.
        report: Report,
    },
    /// The first of a session's packets that came from too far away, and was dropped as all of them are: worth a word, since
    /// the path looks like one over which nothing comes.
    TooFar {
        /// Who sent it.
        remote: IpAddr,
        /// The TTL it came with.
        ttl: u8,
        /// The smallest one allowed.
        least: u8,
    },
}

/// Where a datagram came from and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its source address.
    pub source: IpAddr,
    /// The address it was sent to, where known.
    pub destination: Option<IpAddr>,
    /// The interface it came by, as its index.
    pub interface: u32,
    /// The TTL or hop limit it arrived with, where known.
    pub ttl: Option<u8>,
    /// It came to the port of multihop sessions.
    pub multihop: bool,
}

/// Datagrams since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Taken by a session.
    pub received: u64,
    /// Handed out to be sent.
    pub sent: u64,
    /// Dropped: no packet of version 1, or one that contradicts itself.
    pub malformed: u64,
    /// Dropped: to be authenticated.
    pub authenticated: u64,
    /// Dropped: came too far. What a router passed on to the port of one hop mostly does not get here: the kernel drops it.
    pub ttl: u64,
    /// Dropped: for no session.
    pub unknown: u64,
    /// Changes of sessions' states.
    pub transitions: u64,
    /// Paths that were up and ended, by nobody's will.
    pub losses: u64,
}

#[derive(Debug)]
struct Entry<K> {
    session: Session,
    /// Nothing for a session that only says goodbye.
    key: Option<K>,
    /// Changes of its state that were counted.
    counted: u64,
    /// When it is forgotten.
    until: Option<Instant>,
    /// When it will be looked at next; its real deadline may be later.
    deadline: Option<Instant>,
    /// It was told that packets come from too far away.
    too_far: bool,
}

/// Every session, by names of the caller's.
#[derive(Debug)]
pub struct Sessions<K> {
    entries: BTreeMap<u32, Entry<K>>,
    keys: BTreeMap<K, u32>,
    /// For packets that do not know our discriminator yet. Nobody outside can add to it.
    addresses: FxHashMap<(IpAddr, bool), SmallVec<[u32; 1]>>,
    timers: BTreeSet<(Instant, u32)>,
    outputs: VecDeque<Output<K>>,
    random: SmallRng,
    counters: Counters,
}

impl<K: Ord + Copy> Sessions<K> {
    /// No session. `seed` feeds jitter and discriminators.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            keys: BTreeMap::new(),
            addresses: FxHashMap::default(),
            timers: BTreeSet::new(),
            outputs: VecDeque::new(),
            random: SmallRng::seed_from_u64(seed),
            counters: Counters::default(),
        }
    }

    /// Runs a session as configured. One that runs already over the same path goes on, with other timers where they changed.
    pub fn configure(&mut self, key: K, config: SessionConfig, now: Instant) {
        if let Some(id) = self.keys.get(&key).copied() {
            if let Some(entry) = self.entries.get_mut(&id)
                && entry.session.config().same_path(&config)
            {
                entry.too_far &= entry.session.config().multihop == config.multihop;
                if *entry.session.config() != config && entry.session.reconfigure(config) {
                    self.send(id, false, now);
                }
                self.after(id);
                return;
            }
            self.remove(key, now);
        }
        // One that says goodbye over the same path would contradict its successor.
        let leaving: SmallVec<[u32; 1]> = self
            .at(config.remote, config.multihop.is_some())
            .filter(|(_, entry)| entry.key.is_none() && entry.session.config().same_path(&config))
            .map(|(id, _)| id)
            .collect();
        leaving.into_iter().for_each(|id| self.forget(id));
        let id = loop {
            let id = self.random.random_range(1..=u32::MAX);
            if !self.entries.contains_key(&id) {
                break id;
            }
        };
        let session = Session::new(config, id, now, &mut self.random);
        let entry = Entry {
            session,
            key: Some(key),
            counted: 0,
            until: None,
            deadline: None,
            too_far: false,
        };
        self.entries.insert(id, entry);
        self.keys.insert(key, id);
        self.addresses
            .entry((config.remote, config.multihop.is_some()))
            .or_default()
            .push(id);
        self.outputs.push_back(Output::Open {
            session: id,
            config,
        });
        self.after(id);
    }

    /// Ends a session: the other end is told that this says nothing of the path, for as long as it takes to hear it.
    pub fn remove(&mut self, key: K, now: Instant) {
        let Some(id) = self.keys.remove(&key) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let heard = entry.session.status().remote_discriminator != 0;
        entry.until = Some(now + entry.session.patience_of_peer());
        entry.key = None;
        entry.session.take_down();
        if heard {
            self.send(id, false, now);
            self.after(id);
        } else {
            self.forget(id);
        }
    }

    /// Ends every session with one packet each; there is no time for more.
    pub fn remove_all(&mut self, now: Instant) {
        let keys: Vec<K> = self.keys.keys().copied().collect();
        for key in keys {
            self.remove(key, now);
        }
    }

    fn forget(&mut self, id: u32) {
        let Some(entry) = self.entries.remove(&id) else {
            return;
        };
        let config = entry.session.config();
        let place = (config.remote, config.multihop.is_some());
        if let Some(there) = self.addresses.get_mut(&place) {
            there.retain(|other| *other != id);
            if there.is_empty() {
                self.addresses.remove(&place);
            }
        }
        if let Some(deadline) = entry.deadline {
            self.timers.remove(&(deadline, id));
        }
        self.outputs.push_back(Output::Close { session: id });
    }

    fn at(&self, remote: IpAddr, multihop: bool) -> impl Iterator<Item = (u32, &Entry<K>)> {
        self.addresses
            .get(&(remote, multihop))
            .into_iter()
            .flatten()
            .filter_map(|id| Some((*id, self.entries.get(id)?)))
    }

    /// Takes in a datagram.
    pub fn handle_datagram(&mut self, arrival: &Arrival, octets: &[u8], now: Instant) {
        let packet = match ControlPacket::decode(octets) {
            Ok(packet) => packet,
            Err(PacketError::Authenticated) => {
                self.counters.authenticated += 1;
                return;
            }
            Err(_) => {
                self.counters.malformed += 1;
                return;
            }
        };
        let Some(id) = self.whose(arrival, &packet) else {
            self.counters.unknown += 1;
            return;
        };
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let least = entry.session.config().least_ttl();
        if arrival.ttl.is_none_or(|ttl| ttl < least) {
            self.counters.ttl += 1;
            if let (Some(ttl), false) = (arrival.ttl, std::mem::replace(&mut entry.too_far, true)) {
                self.outputs.push_back(Output::TooFar {
                    remote: arrival.source,
                    ttl,
                    least,
                });
            }
            return;
        }
        self.counters.received += 1;
        let answer = entry.session.receive(&packet, now);
        if answer.is_final {
            self.send(id, true, now);
        }
        if answer.periodic {
            self.send(id, false, now);
        }
        self.after(id);
    }

    /// The session a packet is for: the one it names, else the one with its sender. A name alone is not enough, since it can
    /// be guessed by whoever may send from elsewhere.
    fn whose(&self, arrival: &Arrival, packet: &ControlPacket) -> Option<u32> {
        let fits = |config: &SessionConfig| {
            config.remote == arrival.source
                && config.multihop.is_some() == arrival.multihop
                && (config.scope == 0 || config.scope == arrival.interface)
                && config.local.is_none_or(|local| {
                    arrival
                        .destination
                        .is_none_or(|destination| destination == local)
                })
        };
        match packet.your_discriminator {
            0 => self
                .at(arrival.source, arrival.multihop)
                .find(|(_, entry)| entry.key.is_some() && fits(entry.session.config()))
                .map(|(id, _)| id),
            id => self
                .entries
                .get(&id)
                .filter(|entry| fits(entry.session.config()))
                .map(|_| id),
        }
    }

    fn send(&mut self, id: u32, is_final: bool, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let packet = entry.session.packet(is_final, now, &mut self.random);
        self.counters.sent += 1;
        self.outputs.push_back(Output::Send {
            session: id,
            octets: packet.encode(),
        });
    }

    /// Tells what is new of a session and notes when it wants to be woken.
    fn after(&mut self, id: u32) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if let Some(key) = entry.key
            && let Some(report) = entry.session.report()
        {
            self.counters.losses += u64::from(report.loss.is_some());
            self.counters.transitions += report.status.transitions - entry.counted;
            entry.counted = report.status.transitions;
            self.outputs.push_back(Output::Report { key, report });
        }
        let next = entry
            .session
            .deadline()
            .into_iter()
            .chain(entry.until)
            .min();
        let Some(next) = next else {
            return;
        };
        // A later deadline is found out when the earlier one passes: detection moves with every packet.
        if entry.deadline.is_none_or(|set| next < set) {
            if let Some(set) = entry.deadline.replace(next) {
                self.timers.remove(&(set, id));
            }
            self.timers.insert((next, id));
        }
    }

    /// Acts on deadlines that passed. Hand over every datagram that came before them first: a packet that waits to be read
    /// is not a packet that is missing.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((deadline, id)) = self.timers.first().copied() {
            if deadline > now {
                break;
            }
            self.timers.pop_first();
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            entry.deadline = None;
            if entry.until.is_some_and(|until| until <= now) {
                self.forget(id);
                continue;
            }
            if entry.session.expire(now) {
                self.send(id, false, now);
            }
            self.after(id);
        }
    }

    /// When to call [`Sessions::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(deadline, _)| *deadline)
    }

    /// The next thing to do; call until there is none.
    pub fn poll_output(&mut self) -> Option<Output<K>> {
        self.outputs.pop_front()
    }

    /// What was counted.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// How the session of this name stands.
    #[must_use]
    pub fn status(&self, key: K) -> Option<super::Status> {
        let id = self.keys.get(&key)?;
        Some(self.entries.get(id)?.session.status())
    }
}
