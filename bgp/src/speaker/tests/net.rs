//! Several speakers joined by an in-memory network on an invented clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::asn::Asn;
use crate::codec::{
    self, CodecContext, Message, NextHop, Nlri, PathAttributes, RefreshKind, framing,
};
use crate::family::Family;
use crate::fsm::{Direction, State};
use crate::policy::Policy;
use crate::prefix::Prefix;
use crate::rib::{BestRoute, RouteChange};
use crate::speaker::config::{Originate, PeerConfig, Remote, SpeakerConfig};
use crate::speaker::snapshot::{PeerSnapshot, RouteInfo, RouteQuery};
use crate::speaker::{Accepted, Output, PeerId, Speaker, TableEvent};

/// One end of a connection.
#[derive(Debug)]
struct End {
    node: usize,
    peer: PeerId,
    direction: Direction,
    context: CodecContext,
    buffer: BytesMut,
    keepalive: Option<(Duration, Instant)>,
    held: Held,
}

/// What one end was told over this connection and not told to forget, as the octets say it: before any policy of its own.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) paths: BTreeMap<Nlri, (PathAttributes, NextHop)>,
    /// Families whose routes are told anew, and what has not come again.
    stale: BTreeMap<Family, BTreeSet<Nlri>>,
    /// It asked for everything of these families, and that has not begun.
    pub(super) awaited: BTreeSet<Family>,
}

impl Held {
    pub(super) fn take(&mut self, message: &Message) {
        match message {
            Message::Update(update) => {
                for nlri in &update.withdrawn {
                    self.paths.remove(nlri);
                }
                for announcement in &update.announced {
                    for nlri in &announcement.nlri {
                        if let Some(stale) = self.stale.get_mut(&nlri.prefix.family()) {
                            stale.remove(nlri);
                        }
                        let attributes = update.attributes.as_deref().cloned().expect("attributes");
                        self.paths
                            .insert(*nlri, (attributes, announcement.next_hop));
                    }
                }
            }
            Message::RouteRefresh(refresh) => {
                let family = refresh.family;
                match refresh.kind {
                    RefreshKind::Begin => {
                        self.awaited.remove(&family);
                        let of_family = self.paths.keys().copied();
                        let stale = of_family.filter(|nlri| nlri.prefix.family() == family);
                        self.stale.insert(family, stale.collect());
                    }
                    RefreshKind::End => {
                        let stale = self.stale.remove(&family).unwrap_or_default();
                        self.paths.retain(|nlri, _| !stale.contains(nlri));
                    }
                    RefreshKind::Request | RefreshKind::Other(_) => {}
                }
            }
            Message::Open(_) | Message::Notification(_) | Message::Keepalive => {}
        }
    }

    /// It asks for everything again: it keeps what it has until that begins, or has lost it.
    fn ask(&mut self, family: Family, enhanced: bool) {
        if enhanced {
            self.awaited.insert(family);
        } else {
            self.paths.retain(|nlri, _| nlri.prefix.family() != family);
        }
    }
}

#[derive(Debug)]
struct Connection {
    ends: [End; 2],
    open: bool,
}

#[derive(Debug)]
enum Flight {
    Octets {
        connection: usize,
        to: usize,
        octets: Bytes,
    },
    Closed {
        connection: usize,
        to: usize,
    },
}

pub(super) struct Node {
    pub(super) speaker: Speaker,
    pub(super) address: IpAddr,
    /// What its kernel would hold.
    pub(super) kernel: BTreeMap<Prefix, BestRoute>,
    /// Prefixes of an earlier life that this one has not spoken of: they go when its table is complete.
    inherited: BTreeSet<Prefix>,
    pub(super) changes: Vec<RouteChange>,
    pub(super) complete: usize,
    /// How many changes it had when the last of its tables was complete.
    pub(super) changes_when_complete: usize,
    pub(super) states: Vec<(Arc<str>, State)>,
    /// Octets sent to it are not acknowledged: it reads slowly.
    pub(super) slow: bool,
    /// What is not acknowledged yet: sender, its peer, direction, octets.
    unread: Vec<(usize, PeerId, Direction, usize)>,
}

pub(super) struct Net {
    pub(super) now: Instant,
    pub(super) nodes: Vec<Node>,
    connections: Vec<Connection>,
    flights: VecDeque<Flight>,
    /// Pairs that cannot reach each other.
    cut: Vec<(usize, usize)>,
    /// Pairs between which everything waits, as TCP does while packets are lost.
    held: Vec<(usize, usize)>,
    waiting: VecDeque<Flight>,
    /// Some octets arrive changed: the state of the generator that picks them.
    pub(super) corruption: Option<u64>,
    /// Every message delivered, as receiver and message.
    pub(super) delivered: Vec<(usize, Message)>,
    pub(super) budget: usize,
}

pub(super) fn address(node: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, node))
}

pub(super) fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

pub(super) fn accept_all() -> Arc<Policy> {
    Arc::new(Policy::accept_all())
}

pub(super) fn speaker_config(node: u8, asn: u32) -> SpeakerConfig {
    let IpAddr::V4(id) = address(node) else {
        unreachable!("addresses of nodes are IPv4")
    };
    SpeakerConfig::new(Asn(asn), id.try_into().expect("not zero"))
}

pub(super) fn peer_config(node: u8, asn: u32) -> PeerConfig {
    let remote = Remote::Address(SocketAddr::new(address(node), 179));
    PeerConfig::new(
        format!("n{node}"),
        remote,
        Asn(asn),
        accept_all(),
        accept_all(),
    )
}

pub(super) fn originate(config: &mut SpeakerConfig, prefixes: &[&str]) {
    config
        .originate
        .extend(prefixes.iter().map(|text| Originate::new(prefix(text))));
}

impl Net {
    pub(super) fn new() -> Self {
        Self {
            now: Instant::now(),
            nodes: Vec::new(),
            connections: Vec::new(),
            flights: VecDeque::new(),
            cut: Vec::new(),
            held: Vec::new(),
            waiting: VecDeque::new(),
            corruption: None,
            delivered: Vec::new(),
            budget: 7,
        }
    }

    /// Node `n` has address 192.0.2.`n`+1.
    pub(super) fn add(&mut self, config: SpeakerConfig) -> usize {
        let address = IpAddr::V4(config.router_id.addr());
        let seed = self.nodes.len() as u64 + 1;
        self.nodes.push(Node {
            speaker: Speaker::new(config, seed, self.now),
            address,
            kernel: BTreeMap::new(),
            inherited: BTreeSet::new(),
            changes: Vec::new(),
            complete: 0,
            changes_when_complete: 0,
            states: Vec::new(),
            slow: false,
            unread: Vec::new(),
        });
        self.nodes.len() - 1
    }

    pub(super) fn speaker(&mut self, node: usize) -> &mut Speaker {
        &mut self.nodes[node].speaker
    }

    pub(super) fn configure(&mut self, node: usize, change: impl FnOnce(&mut SpeakerConfig)) {
        let mut config = self.nodes[node].speaker.config().clone();
        change(&mut config);
        self.nodes[node].speaker.configure(config, self.now);
        self.settle();
    }

    fn node_of(&self, address: IpAddr) -> Option<usize> {
        self.nodes.iter().position(|node| node.address == address)
    }

    /// Replaces a node's speaker by a fresh one without a word to anyone; its connections break.
    pub(super) fn restart(&mut self, node: usize, config: SpeakerConfig) {
        self.start_anew(node, config);
        self.break_connections(
            |ends| ends[0].node == node || ends[1].node == node,
            Some(node),
        );
    }

    fn start_anew(&mut self, node: usize, config: SpeakerConfig) {
        let now = self.now;
        let node = &mut self.nodes[node];
        node.speaker = Speaker::new(config, 99, now);
        node.complete = 0;
        node.inherited = node.kernel.keys().copied().collect();
    }

    /// Nothing passes between two nodes, and their connections break.
    pub(super) fn cut(&mut self, a: usize, b: usize) {
        self.cut.push((a, b));
        let between = |ends: &[End; 2]| {
            (ends[0].node, ends[1].node) == (a, b) || (ends[0].node, ends[1].node) == (b, a)
        };
        self.break_connections(between, None);
        self.settle();
    }

    pub(super) fn join(&mut self, a: usize, b: usize) {
        self.cut.retain(|pair| *pair != (a, b) && *pair != (b, a));
    }

    /// A node loses power and starts anew: nobody is told, and nobody's connection ends by itself.
    pub(super) fn lose_power(&mut self, node: usize, config: SpeakerConfig) {
        self.start_anew(node, config);
        for connection in &mut self.connections {
            if connection.ends.iter().any(|end| end.node == node) {
                connection
                    .ends
                    .iter_mut()
                    .filter(|end| end.node == node)
                    .for_each(|end| {
                        (end.peer, end.keepalive) = (PeerId(u32::MAX), None);
                    });
            }
        }
    }

    /// From here on nothing arrives between two nodes, and neither is told.
    pub(super) fn hold(&mut self, a: usize, b: usize) {
        self.held.push((a, b));
    }

    /// What waited arrives.
    pub(super) fn release(&mut self, a: usize, b: usize) {
        self.held.retain(|pair| *pair != (a, b) && *pair != (b, a));
        let waiting = std::mem::take(&mut self.waiting);
        self.flights.extend(waiting);
        self.settle();
    }

    fn is_held(&self, flight: &Flight) -> bool {
        let (Flight::Octets { connection, .. } | Flight::Closed { connection, .. }) = flight;
        let [a, b] = &self.connections[*connection].ends;
        self.held.contains(&(a.node, b.node)) || self.held.contains(&(b.node, a.node))
    }

    /// One octet in some of what arrives is another.
    fn corrupt(&mut self, octets: &Bytes) -> Bytes {
        let Some(state) = &mut self.corruption else {
            return octets.clone();
        };
        let mut next = |limit: usize| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            usize::try_from(*state % limit as u64).expect("below the limit")
        };
        if next(4) != 0 {
            return octets.clone();
        }
        let mut changed = octets.to_vec();
        let at = next(changed.len());
        changed[at] ^= 1 << next(8);
        changed.into()
    }

    fn break_connections(&mut self, which: impl Fn(&[End; 2]) -> bool, silent: Option<usize>) {
        for index in 0..self.connections.len() {
            if self.connections[index].open && which(&self.connections[index].ends) {
                self.connections[index].open = false;
                for end in 0..2 {
                    let End {
                        node,
                        peer,
                        direction,
                        ..
                    } = self.connections[index].ends[end];
                    if silent != Some(node) {
                        self.nodes[node]
                            .speaker
                            .handle_closed(peer, direction, self.now);
                    }
                }
            }
        }
    }

    fn find_end(&self, node: usize, peer: PeerId, direction: Direction) -> Option<(usize, usize)> {
        self.connections
            .iter()
            .enumerate()
            .rev()
            .find_map(|(index, connection)| {
                let end = connection.ends.iter().position(|end| {
                    (end.node, end.peer, end.direction) == (node, peer, direction)
                })?;
                connection.open.then_some((index, end))
            })
    }

    /// Runs until nothing happens any more without time passing.
    pub(super) fn settle(&mut self) {
        for _ in 0..200_000 {
            let mut busy = false;
            for node in 0..self.nodes.len() {
                busy |= self.drain(node);
                let (budget, now) = (self.budget, self.now);
                busy |= self.nodes[node].speaker.work(budget, now);
                busy |= self.drain(node);
            }
            if let Some(flight) = self.flights.pop_front() {
                if self.is_held(&flight) {
                    self.waiting.push_back(flight);
                } else {
                    self.land(flight);
                }
                busy = true;
            }
            if !busy {
                return;
            }
        }
        panic!("the network does not come to rest");
    }

    /// Lets time pass.
    pub(super) fn advance(&mut self, duration: Duration) {
        let until = self.now + duration;
        self.settle();
        loop {
            let timers = self
                .nodes
                .iter()
                .filter_map(|node| node.speaker.poll_timeout());
            let keepalives = self
                .connections
                .iter()
                .filter(|connection| connection.open)
                .flat_map(|connection| &connection.ends)
                .filter_map(|end| end.keepalive.map(|(_, next)| next));
            let next = timers.chain(keepalives).min().unwrap_or(until);
            if next > until {
                break;
            }
            self.now = self.now.max(next);
            let now = self.now;
            for index in 0..self.connections.len() {
                for end in 0..2 {
                    let connection = &mut self.connections[index];
                    if !connection.open {
                        continue;
                    }
                    if let Some((interval, next)) = &mut connection.ends[end].keepalive
                        && *next <= now
                    {
                        *next = now + *interval;
                        let (node, peer, direction) = {
                            let end = &connection.ends[end];
                            (end.node, end.peer, end.direction)
                        };
                        let reader = connection.ends[1 - end].node;
                        if !self.nodes[reader].slow {
                            self.nodes[node]
                                .speaker
                                .handle_written(peer, direction, 0, now);
                        }
                        let octets = Bytes::from_static(&codec::KEEPALIVE);
                        self.flights.push_back(Flight::Octets {
                            connection: index,
                            to: 1 - end,
                            octets,
                        });
                    }
                }
            }
            for node in &mut self.nodes {
                node.speaker.handle_timeout(now);
            }
            self.settle();
            if next >= until {
                break;
            }
        }
        self.now = until;
    }

    fn drain(&mut self, node: usize) -> bool {
        let mut busy = false;
        while let Some(output) = self.nodes[node].speaker.poll_output() {
            busy = true;
            self.obey(node, output);
        }
        while let Some(event) = self.nodes[node].speaker.poll_table_event(3) {
            busy = true;
            let node = &mut self.nodes[node];
            match event {
                TableEvent::Changes(changes) => {
                    for change in &changes {
                        node.inherited.remove(&change.prefix);
                        match &change.best {
                            Some(best) => node.kernel.insert(change.prefix, best.clone()),
                            None => node.kernel.remove(&change.prefix),
                        };
                    }
                    node.changes.extend(changes);
                }
                TableEvent::Complete(family) => {
                    let (gone, left) = std::mem::take(&mut node.inherited)
                        .into_iter()
                        .partition(|prefix| prefix.family() == family);
                    node.inherited = left;
                    let gone: BTreeSet<Prefix> = gone;
                    node.kernel.retain(|prefix, _| !gone.contains(prefix));
                    node.complete += 1;
                    node.changes_when_complete = node.changes.len();
                }
            }
        }
        busy
    }

    fn obey(&mut self, node: usize, output: Output) {
        let now = self.now;
        match output {
            Output::Connect {
                peer,
                remote,
                config,
            } => {
                let from = SocketAddr::new(self.nodes[node].address, 40_000);
                let target = self.node_of(remote.ip()).filter(|target| {
                    ![&self.cut, &self.held].iter().any(|pairs| {
                        pairs.contains(&(node, *target)) || pairs.contains(&(*target, node))
                    })
                });
                assert!(config.can_dial());
                let Some(target) = target else {
                    self.nodes[node].speaker.handle_connect_failed(peer, now);
                    return;
                };
                match self.nodes[target].speaker.accept(from, remote, now) {
                    Accepted::Peer(other, incoming) => {
                        self.drain(target);
                        let end = |node, peer, direction| End {
                            node,
                            peer,
                            direction,
                            context: CodecContext::before_open(),
                            buffer: BytesMut::new(),
                            keepalive: None,
                            held: Held::default(),
                        };
                        self.connections.push(Connection {
                            ends: [
                                end(node, peer, Direction::Outgoing),
                                end(target, other, incoming),
                            ],
                            open: true,
                        });
                        self.nodes[target]
                            .speaker
                            .handle_connected(other, incoming, remote, from, now);
                        self.nodes[node].speaker.handle_connected(
                            peer,
                            Direction::Outgoing,
                            from,
                            remote,
                            now,
                        );
                    }
                    Accepted::Refused(_) => {
                        self.nodes[node].speaker.handle_connected(
                            peer,
                            Direction::Outgoing,
                            from,
                            remote,
                            now,
                        );
                        self.drain(node);
                        self.nodes[node]
                            .speaker
                            .handle_closed(peer, Direction::Outgoing, now);
                    }
                }
            }
            Output::Send {
                peer,
                direction,
                chunks,
            } => {
                let octets: usize = chunks.iter().map(Bytes::len).sum();
                if let Some((connection, end)) = self.find_end(node, peer, direction) {
                    let to = 1 - end;
                    let reader = self.connections[connection].ends[to].node;
                    if self.nodes[reader].slow {
                        self.nodes[reader]
                            .unread
                            .push((node, peer, direction, octets));
                    } else {
                        self.nodes[node]
                            .speaker
                            .handle_written(peer, direction, octets, now);
                    }
                    for octets in chunks {
                        self.flights.push_back(Flight::Octets {
                            connection,
                            to,
                            octets,
                        });
                    }
                }
            }
            Output::Close {
                peer, direction, ..
            } => {
                if let Some((connection, end)) = self.find_end(node, peer, direction) {
                    // What was written before still arrives; the close comes behind it.
                    self.flights.push_back(Flight::Closed {
                        connection,
                        to: 1 - end,
                    });
                    self.connections[connection].ends[end].keepalive = None;
                    self.connections[connection].ends[end].peer = PeerId(u32::MAX);
                }
            }
            Output::UseContext {
                peer,
                direction,
                context,
                keepalive_interval,
            } => {
                if let Some((connection, end)) = self.find_end(node, peer, direction) {
                    let end = &mut self.connections[connection].ends[end];
                    end.context = context;
                    end.keepalive = keepalive_interval.map(|interval| (interval, now + interval));
                }
            }
            Output::PeerWarning { .. } => {}
            Output::PeerStateChanged { name, to, .. } => self.nodes[node].states.push((name, to)),
            Output::Reconfigured { .. } | Output::Watch { .. } | Output::PeerRemoved { .. } => {}
        }
    }

    /// A slow reader catches up.
    pub(super) fn read_on(&mut self, node: usize) {
        self.nodes[node].slow = false;
        for (sender, peer, direction, octets) in std::mem::take(&mut self.nodes[node].unread) {
            self.nodes[sender]
                .speaker
                .handle_written(peer, direction, octets, self.now);
        }
        self.settle();
    }

    fn land(&mut self, flight: Flight) {
        let now = self.now;
        match flight {
            Flight::Octets {
                connection,
                to,
                octets,
            } => {
                if !self.connections[connection].open {
                    return;
                }
                let octets = self.corrupt(&octets);
                self.connections[connection].ends[to]
                    .buffer
                    .extend_from_slice(&octets);
                loop {
                    let end = &mut self.connections[connection].ends[to];
                    let (node, peer, direction) = (end.node, end.peer, end.direction);
                    let message = framing::split(&mut end.buffer, end.context.max_receive_len())
                        .and_then(|frame| {
                            frame
                                .map(|frame| codec::decode(&frame.octets, &end.context))
                                .transpose()
                        });
                    let message = match message {
                        Ok(Some(message)) => message,
                        Ok(None) => break,
                        Err(error) => {
                            assert!(self.corruption.is_some(), "malformed: {error}");
                            end.buffer.clear();
                            self.nodes[node]
                                .speaker
                                .handle_malformed(peer, direction, error, now);
                            self.drain(node);
                            break;
                        }
                    };
                    let ends = &mut self.connections[connection].ends;
                    ends[to].held.take(&message);
                    if let Message::RouteRefresh(refresh) = &message
                        && refresh.kind == RefreshKind::Request
                    {
                        let enhanced = ends[to].context.enhanced_route_refresh;
                        ends[1 - to].held.ask(refresh.family, enhanced);
                    }
                    self.delivered.push((node, message.clone()));
                    self.nodes[node]
                        .speaker
                        .handle_message(peer, direction, message, now);
                    self.drain(node);
                }
            }
            Flight::Closed { connection, to } => {
                if std::mem::take(&mut self.connections[connection].open) {
                    let End {
                        node,
                        peer,
                        direction,
                        ..
                    } = self.connections[connection].ends[to];
                    self.nodes[node].speaker.handle_closed(peer, direction, now);
                }
            }
        }
    }

    // ---- what is asserted -----------------------------------------------------------------------------------------

    /// Lets every session come up.
    pub(super) fn converge(&mut self) {
        self.settle();
        self.advance(Duration::from_secs(12));
    }

    pub(super) fn peer(&self, node: usize, name: &str) -> PeerSnapshot {
        let snapshot = self.nodes[node].speaker.snapshot(self.now);
        let found = snapshot.peers.into_iter().find(|peer| *peer.name == *name);
        found.unwrap_or_else(|| panic!("node {node} has no peer {name}"))
    }

    #[track_caller]
    pub(super) fn assert_established(&self, node: usize, name: &str) {
        assert_eq!(
            self.peer(node, name).state,
            State::Established,
            "{:?}",
            self.peer(node, name).last_error
        );
    }

    /// What `node` was told over the connection it has with `other`.
    pub(super) fn held(&self, node: usize, other: usize) -> Option<&Held> {
        let open = self
            .connections
            .iter()
            .rev()
            .filter(|connection| connection.open);
        open.filter_map(|connection| {
            let [a, b] = &connection.ends;
            match (a.node, b.node) {
                (first, second) if (first, second) == (node, other) => Some(a),
                (first, second) if (first, second) == (other, node) => Some(b),
                _ => None,
            }
        })
        .find(|end| end.keepalive.is_some())
        .map(|end| &end.held)
    }

    /// The prefixes `node` takes its peer of this name to hold.
    pub(super) fn told(&self, node: usize, peer: &str) -> BTreeSet<Prefix> {
        let query = RouteQuery {
            to_peer: Some(peer.to_owned()),
            ..RouteQuery::default()
        };
        let routes = self.nodes[node].speaker.routes(&query);
        routes.into_iter().map(|route| route.prefix).collect()
    }

    pub(super) fn routes(&self, node: usize) -> Vec<RouteInfo> {
        self.nodes[node].speaker.routes(&RouteQuery {
            with_advertised: true,
            ..RouteQuery::default()
        })
    }

    pub(super) fn route(&self, node: usize, text: &str) -> Option<RouteInfo> {
        let query = RouteQuery {
            prefix: Some(prefix(text)),
            with_advertised: true,
            ..RouteQuery::default()
        };
        self.nodes[node].speaker.routes(&query).pop()
    }

    /// Where the kernel of `node` would send packets for a prefix.
    pub(super) fn next_hops(&self, node: usize, text: &str) -> Vec<IpAddr> {
        let best = self.nodes[node].kernel.get(&prefix(text));
        best.map_or_else(Vec::new, |best| {
            best.next_hops
                .iter()
                .map(|next_hop| next_hop.address)
                .collect()
        })
    }

    pub(super) fn updates_to(&self, node: usize) -> usize {
        let is_update = |(to, message): &&(usize, Message)| {
            *to == node && matches!(message, Message::Update(_))
        };
        self.delivered.iter().filter(is_update).count()
    }
}
