//! The speaker under test, its neighbours as tables that are told things, and what they announced last.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use margay_bgp::asn::Asn;
use margay_bgp::codec::{
    AddPath, AddPathMode, Capability, CodecContext, Community, HoldTime, KEEPALIVE, LocalPref,
    Message, NextHop, Nlri, Open, PathAttributes, PathId, RefreshKind, RouteRefresh,
    attributes_block, decode, encode_announcements, encode_end_of_rib, encode_withdrawals, framing,
};
use margay_bgp::family::{Family, FamilySet};
use margay_bgp::fsm::{Direction, State as SessionState};
use margay_bgp::policy::{Action, Condition, Policy, Rule, Verdict};
use margay_bgp::prefix::Prefix;
use margay_bgp::rib::{NextHopInterest, NextHopState, Reach, RouteNextHop};
use margay_bgp::router_id::RouterId;
use margay_bgp::speaker::config::{AddPathSend, PeerConfig, Remote, SpeakerConfig};
use margay_bgp::speaker::snapshot::RouteQuery;
use margay_bgp::speaker::{Accepted, Clear, Output, PeerId, Speaker, TableEvent};

pub(crate) const OWN_ASN: u32 = 64_512;
pub(crate) const OWN_ID: u32 = 0xc000_0201;
pub(crate) const CLUSTER: u32 = 0x0a00_0009;

/// Places a neighbour may have.
pub(crate) const PLACES: usize = 6;
/// Next hops there are, in either family.
pub(crate) const HOPS: u8 = 3;
/// Prefixes there are; the first half is IPv4.
pub(crate) const ROUTES: u8 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of this AS.
    External(u32),
    Client,
    Internal,
}

/// A neighbour as configured, on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub(crate) kind: Kind,
    /// It sends several paths of a prefix.
    pub(crate) sends_paths: bool,
    /// It is told several paths of a prefix, and which.
    pub(crate) told: Option<AddPathSend>,
    /// It says and hears where a refresh begins and ends.
    pub(crate) enhanced: bool,
    pub(crate) import: u8,
    pub(crate) export: u8,
}

/// Two of the neighbours are in one AS, so that their MEDs are compared.
pub(crate) const FIRST: [Neighbour; PLACES] = {
    const fn neighbour(
        kind: Kind,
        sends_paths: bool,
        told: Option<AddPathSend>,
        enhanced: bool,
    ) -> Neighbour {
        Neighbour {
            kind,
            sends_paths,
            told,
            enhanced,
            import: 0,
            export: 0,
        }
    }
    const TWO: Option<AddPathSend> = Some(AddPathSend::Best(NonZeroU8::new(2).unwrap()));
    [
        neighbour(Kind::External(64_600), false, None, false),
        neighbour(Kind::External(64_601), true, Some(AddPathSend::All), true),
        neighbour(Kind::External(64_600), false, None, true),
        neighbour(Kind::Client, true, None, false),
        neighbour(Kind::Client, false, TWO, true),
        neighbour(Kind::Internal, true, Some(AddPathSend::All), false),
    ]
};

/// What a neighbour was told and was not told to forget, by prefix and path identifier.
pub(crate) type Held = BTreeMap<(Prefix, Option<PathId>), (PathAttributes, NextHop)>;

/// The same without identifiers, which depend on what was before: what each prefix comes with, in some order.
pub(crate) type Table = BTreeMap<Prefix, Vec<String>>;

/// One path as it is compared.
pub(crate) fn shown(attributes: &PathAttributes, next_hop: &NextHop) -> String {
    format!("{attributes:?} {next_hop:?}")
}

/// Whoever forwards: the next hops of each prefix.
pub(crate) type Forwarding = BTreeMap<Prefix, Vec<IpAddr>>;

/// What does not change during a life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) maximum_paths: usize,
    pub(crate) relax: bool,
    /// Next hops count only while they are reached.
    pub(crate) tracking: bool,
}

/// All that the outcome may depend on.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) options: Options,
    pub(crate) neighbours: [Option<Neighbour>; PLACES],
    /// By neighbour, prefix and path identifier.
    pub(crate) announced: BTreeMap<(usize, Prefix, u8), (PathAttributes, NextHop)>,
    /// What it costs to reach each next hop.
    pub(crate) reach: [Option<u32>; HOPS as usize],
}

impl State {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            options,
            neighbours: FIRST.map(Some),
            announced: BTreeMap::new(),
            reach: [Some(0); HOPS as usize],
        }
    }

    /// What it costs to reach this next hop; nothing where it is out of reach.
    pub(crate) fn metric(&self, next_hop: IpAddr) -> Option<u32> {
        if !self.options.tracking {
            return Some(0);
        }
        let number = (0..HOPS).find(|number| {
            [hop(*number, prefix(0)), hop(*number, prefix(ROUTES - 1))]
                .iter()
                .any(|hop| hop.addr() == next_hop)
        });
        self.reach[usize::from(number.unwrap())]
    }
}

struct End {
    peer: PeerId,
    direction: Direction,
    /// How the speaker reads it.
    context: CodecContext,
    external: bool,
    held: Held,
    /// Families in which it is told everything anew, and what it has not been told again.
    refreshing: BTreeMap<Family, BTreeSet<(Prefix, Option<PathId>)>>,
    paused: bool,
    unread: usize,
    /// How often it was asked to say everything again.
    asked: Vec<Family>,
}

pub(crate) struct World {
    speaker: Speaker,
    now: Instant,
    budget: usize,
    state: State,
    ends: Vec<Option<End>>,
    forwarding: Forwarding,
    watched: BTreeSet<RouteNextHop>,
    /// Sessions may end: the configuration changes.
    changing: bool,
}

pub(crate) fn prefix(route: u8) -> Prefix {
    let text = if route < ROUTES / 2 {
        format!("10.{route}.0.0/16")
    } else {
        format!("2001:db8:{route}::/48")
    };
    text.parse().unwrap()
}

pub(crate) fn family_of(prefix: Prefix) -> Family {
    if prefix.addr().is_ipv4() {
        Family::IPV4_UNICAST
    } else {
        Family::IPV6_UNICAST
    }
}

/// A next hop for this prefix.
pub(crate) fn hop(number: u8, of: Prefix) -> NextHop {
    if of.addr().is_ipv4() {
        NextHop::V4([198, 51, 100, 1 + number].into())
    } else {
        let address = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1 + u16::from(number));
        NextHop::from(IpAddr::V6(address))
    }
}

pub(crate) const fn own_address() -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 1)
}

/// How the speaker calls itself as a next hop.
pub(crate) fn own_hop(of: Prefix) -> NextHop {
    if of.addr().is_ipv4() {
        NextHop::V4(own_address())
    } else {
        NextHop::from("2001:db8::1".parse::<IpAddr>().unwrap())
    }
}

pub(crate) fn id_of(who: usize) -> u32 {
    OWN_ID + 1 + u32::try_from(who).unwrap()
}

const fn asn_of(kind: Kind) -> u32 {
    match kind {
        Kind::External(asn) => asn,
        Kind::Client | Kind::Internal => OWN_ASN,
    }
}

/// The prefixes policies know by name, one of each family.
pub(crate) const REJECTED_IN: [u8; 2] = [1, 5];
pub(crate) const REJECTED_OUT: [u8; 2] = [2, 6];

fn policy(number: u8, rejected: [u8; 2], action: Action) -> Arc<Policy> {
    let rule = match number {
        0 => return Arc::new(Policy::accept_all()),
        1 => Rule {
            conditions: vec![Condition::PrefixIn(
                rejected.into_iter().map(prefix).collect(),
            )],
            actions: vec![],
            verdict: Some(Verdict::Reject),
        },
        _ => Rule {
            conditions: vec![],
            actions: vec![action],
            verdict: None,
        },
    };
    Arc::new(Policy {
        rules: vec![rule],
        default: Verdict::Accept,
    })
}

fn config(state: &State) -> SpeakerConfig {
    let mut config = SpeakerConfig::new(Asn(OWN_ASN), RouterId::new(OWN_ID).unwrap());
    config.cluster_id = RouterId::new(CLUSTER);
    config.maximum_paths = state.options.maximum_paths;
    config.multipath_relax = state.options.relax;
    config.next_hop_tracking = state.options.tracking;
    for (who, neighbour) in state.neighbours.iter().enumerate() {
        let Some(neighbour) = neighbour else {
            continue;
        };
        let remote = SocketAddr::new(IpAddr::V4(id_of(who).into()), 179);
        let mut peer = PeerConfig::new(
            format!("n{who}"),
            Remote::Address(remote),
            Asn(asn_of(neighbour.kind)),
            policy(
                neighbour.import,
                REJECTED_IN,
                Action::SetLocalPref(LocalPref(102)),
            ),
            policy(
                neighbour.export,
                REJECTED_OUT,
                Action::AddCommunity(Community::new(7, 7)),
            ),
        );
        peer.passive = true;
        peer.route_reflector_client = neighbour.kind == Kind::Client;
        peer.add_path_receive = neighbour.sends_paths;
        peer.add_path_send = neighbour.told;
        peer.next_hop_address = Some(own_hop(prefix(ROUTES - 1)).addr());
        peer.idle_hold = Duration::from_millis(1);
        peer.idle_hold_max = Duration::from_millis(1);
        // The rule of RFC 4724 would keep what the model forgets.
        peer.graceful_restart = None;
        config.peers.push(peer);
    }
    config
}

impl World {
    /// Every session is up; nothing is announced.
    pub(crate) fn new(options: Options, budget: usize) -> Self {
        Self::of(State::new(options), budget)
    }

    /// A speaker that starts with this state around it.
    pub(crate) fn of(state: State, budget: usize) -> Self {
        let now = Instant::now();
        let mut world = Self {
            speaker: Speaker::new(config(&state), 7, now),
            now,
            budget,
            state: State {
                announced: BTreeMap::new(),
                ..state
            },
            ends: (0..PLACES).map(|_| None).collect(),
            forwarding: Forwarding::new(),
            watched: BTreeSet::new(),
            changing: false,
        };
        world.everyone_connects();
        for ((who, prefix, id), (attributes, next_hop)) in state.announced {
            world.announce(who, prefix, id, attributes, next_hop);
        }
        world
    }

    pub(crate) const fn state(&self) -> &State {
        &self.state
    }

    /// Everyone leaves the configuration: nothing of anybody is left. Tells what memory the speaker still holds.
    pub(crate) fn everyone_leaves(&mut self) -> usize {
        self.configure(|state| state.neighbours = [None; PLACES]);
        let snapshot = self.speaker.snapshot(self.now);
        let left: usize = snapshot
            .tables
            .iter()
            .map(|table| table.prefixes + table.paths)
            .sum();
        assert_eq!(
            (left, snapshot.attribute_sets),
            (0, 0),
            "{:?}",
            snapshot.tables
        );
        assert_eq!(self.forwarding, Forwarding::new());
        assert_eq!(self.watched, BTreeSet::new());
        let memory = snapshot.memory;
        memory.prefixes + memory.paths + memory.attributes + memory.groups
    }

    /// Everyone is there again and says what it said.
    pub(crate) fn everyone_returns(&mut self, state: State) {
        self.configure(|own| {
            own.neighbours = state.neighbours;
            own.reach = state.reach;
        });
        for ((who, prefix, id), (attributes, next_hop)) in state.announced {
            self.announce(who, prefix, id, attributes, next_hop);
        }
    }

    pub(crate) const fn forwarding(&self) -> &Forwarding {
        &self.forwarding
    }

    /// What the neighbour holds, identifiers aside.
    pub(crate) fn held_by(&self, who: usize) -> Table {
        let mut table = Table::new();
        let end = self.ends[who].as_ref();
        for ((prefix, _), (attributes, next_hop)) in end.map(|end| &end.held).into_iter().flatten()
        {
            let paths = table.entry(*prefix).or_default();
            paths.push(shown(attributes, next_hop));
            paths.sort();
        }
        table
    }

    /// What the speaker takes the neighbour to hold: the prefixes, and how many paths of each family.
    pub(crate) fn told_to(&self, who: usize) -> (BTreeSet<Prefix>, [usize; 2]) {
        let query = RouteQuery {
            to_peer: Some(format!("n{who}")),
            ..RouteQuery::default()
        };
        let prefixes = self.speaker.routes(&query);
        let snapshot = self.speaker.snapshot(self.now);
        let name = format!("n{who}");
        let peer = snapshot.peers.iter().find(|peer| *peer.name == *name);
        let families = peer.map_or(&[][..], |peer| &peer.families);
        let advertised = Family::ALL.map(|family| {
            let of = families.iter().find(|known| known.family == family);
            of.map_or(0, |of| of.advertised)
        });
        let prefixes = prefixes.into_iter().map(|route| route.prefix).collect();
        (prefixes, advertised)
    }

    /// Everyone who is configured and not connected connects.
    fn everyone_connects(&mut self) {
        for who in 0..PLACES {
            if self.state.neighbours[who].is_some() && self.ends[who].is_none() {
                self.establish(who);
            }
        }
    }

    fn establish(&mut self, who: usize) {
        let neighbour = self.state.neighbours[who].unwrap();
        let remote = SocketAddr::new(IpAddr::V4(id_of(who).into()), 40_000);
        let local = SocketAddr::new(IpAddr::V4(own_address()), 179);
        let Accepted::Peer(peer, direction) = self.speaker.accept(remote, local, self.now) else {
            panic!("n{who} is refused");
        };
        self.ends[who] = Some(End {
            peer,
            direction,
            context: CodecContext::before_open(),
            external: matches!(neighbour.kind, Kind::External(_)),
            held: Held::new(),
            refreshing: BTreeMap::new(),
            paused: false,
            unread: 0,
            asked: Vec::new(),
        });
        self.speaker
            .handle_connected(peer, direction, local, remote, self.now);
        self.settle();
        let mut capabilities: Vec<Capability> = Family::ALL.map(Capability::Multiprotocol).to_vec();
        capabilities.push(Capability::FourOctetAs(Asn(asn_of(neighbour.kind))));
        capabilities.push(Capability::RouteRefresh);
        if neighbour.enhanced {
            capabilities.push(Capability::EnhancedRouteRefresh);
        }
        let mode = match (neighbour.sends_paths, neighbour.told.is_some()) {
            (true, true) => Some(AddPathMode::Both),
            (true, false) => Some(AddPathMode::Send),
            (false, true) => Some(AddPathMode::Receive),
            (false, false) => None,
        };
        if let Some(mode) = mode {
            let both = Family::ALL.map(|family| AddPath { family, mode });
            capabilities.push(Capability::AddPath(both.to_vec()));
        }
        let open = Open {
            contradicting_as: None,
            asn: Asn(asn_of(neighbour.kind)),
            hold_time: HoldTime::from_secs(0).unwrap(),
            router_id: RouterId::new(id_of(who)).unwrap(),
            capabilities,
        };
        let mut out = BytesMut::new();
        open.encode(&mut out).unwrap();
        out.extend_from_slice(&KEEPALIVE);
        for family in Family::ALL {
            encode_end_of_rib(family, &mut out);
        }
        self.say(who, out);
        let snapshot = self.speaker.snapshot(self.now);
        let name = format!("n{who}");
        let state = snapshot.peers.iter().find(|peer| *peer.name == *name);
        assert_eq!(state.unwrap().state, SessionState::Established);
    }

    /// The neighbour says whole messages.
    fn say(&mut self, who: usize, mut octets: BytesMut) {
        let end = self.ends[who].as_ref().unwrap();
        let (peer, direction) = (end.peer, end.direction);
        while let Some(frame) = framing::split(&mut octets, 65_535).unwrap() {
            let context = self.ends[who].as_ref().unwrap().context;
            let message = decode(&frame.octets, &context).unwrap();
            if let Message::Update(update) = &message {
                assert_eq!(update.faults, []);
            }
            self.speaker
                .handle_message(peer, direction, message, self.now);
            self.settle();
        }
    }

    /// The neighbour's own context: what the speaker sends it receives, and the other way round.
    fn context_of(end: &End) -> CodecContext {
        CodecContext {
            four_octet_as: true,
            families: FamilySet::all(),
            add_path_send: end.context.add_path_receive,
            add_path_receive: end.context.add_path_send,
            enhanced_route_refresh: end.context.enhanced_route_refresh,
            peer_is_external: end.external,
            ..CodecContext::default()
        }
    }

    fn context(&self, who: usize) -> CodecContext {
        Self::context_of(self.ends[who].as_ref().unwrap())
    }

    fn nlri(&self, who: usize, prefix: Prefix, id: u8) -> (Nlri, u8) {
        let with_id = self.context(who).sends_path_ids(family_of(prefix));
        let id = if with_id { id } else { 0 };
        let path_id = with_id.then(|| PathId(u32::from(id)));
        (Nlri { prefix, path_id }, id)
    }

    /// Whether the neighbour is there to say anything.
    pub(crate) fn is_there(&self, who: usize) -> bool {
        self.ends[who].is_some()
    }

    pub(crate) fn announce(
        &mut self,
        who: usize,
        prefix: Prefix,
        id: u8,
        attributes: PathAttributes,
        next_hop: NextHop,
    ) {
        let (_, id) = self.nlri(who, prefix, id);
        self.state
            .announced
            .insert((who, prefix, id), (attributes, next_hop));
        self.announce_again(who, prefix, id);
    }

    fn announce_again(&mut self, who: usize, prefix: Prefix, id: u8) {
        let context = self.context(who);
        let (nlri, id) = self.nlri(who, prefix, id);
        let (attributes, next_hop) = &self.state.announced[&(who, prefix, id)];
        let block = attributes_block(attributes, &context).unwrap();
        let mut out = BytesMut::new();
        let family = family_of(prefix);
        encode_announcements(&block, *next_hop, family, [nlri], &context, &mut out).unwrap();
        self.say(who, out);
    }

    pub(crate) fn withdraw(&mut self, who: usize, prefix: Prefix, id: u8) {
        let (nlri, id) = self.nlri(who, prefix, id);
        let mut out = BytesMut::new();
        let context = self.context(who);
        encode_withdrawals(family_of(prefix), [nlri], &context, &mut out).unwrap();
        self.state.announced.remove(&(who, prefix, id));
        self.say(who, out);
    }

    pub(crate) fn reset(&mut self, who: usize) {
        let end = self.ends[who].take().unwrap();
        self.state.announced.retain(|(by, ..), _| *by != who);
        self.speaker
            .handle_closed(end.peer, end.direction, self.now);
        self.settle();
        self.wait(1);
        self.establish(who);
    }

    fn refresh_message(&mut self, who: usize, family: Family, kind: RefreshKind) {
        let mut out = BytesMut::new();
        RouteRefresh { family, kind }.encode(&mut out);
        self.say(who, out);
    }

    /// The neighbour asks to be told everything again. Who hears where that begins keeps what it has until then; the others
    /// have lost it.
    pub(crate) fn refresh(&mut self, who: usize, family: Family) {
        let end = self.ends[who].as_mut().unwrap();
        if !end.context.enhanced_route_refresh {
            end.forget(family);
        }
        self.refresh_message(who, family, RefreshKind::Request);
        let end = self.ends[who].as_ref().unwrap();
        assert!(end.paused || end.refreshing.is_empty(), "no end of refresh");
    }

    /// An operator has the neighbour told everything again: it had lost it.
    pub(crate) fn tell_again(&mut self, who: usize) {
        let end = self.ends[who].as_mut().unwrap();
        Family::ALL
            .into_iter()
            .for_each(|family| end.forget(family));
        self.speaker
            .clear(&format!("n{who}"), Clear::SoftOut, self.now);
        self.settle();
    }

    /// An operator has the neighbour say everything again. One that can say where it begins and ends has less to say than
    /// before, if `less`.
    pub(crate) fn ask_again(&mut self, who: usize, less: bool) {
        self.speaker
            .clear(&format!("n{who}"), Clear::SoftIn, self.now);
        self.settle();
        let end = self.ends[who].as_mut().unwrap();
        let (mut asked, enhanced) = (
            std::mem::take(&mut end.asked),
            end.context.enhanced_route_refresh,
        );
        asked.sort();
        assert_eq!(asked, Family::ALL, "n{who} was not asked");
        for family in asked {
            if enhanced {
                self.refresh_message(who, family, RefreshKind::Begin);
                let is_kept =
                    |prefix: Prefix| !less || prefix.to_string().contains(['0', '2', '6']);
                self.state.announced.retain(|(by, prefix, _), _| {
                    *by != who || family_of(*prefix) != family || is_kept(*prefix)
                });
            }
            let keys: Vec<_> = self.state.announced.keys().copied().collect();
            for (by, prefix, id) in keys {
                if by == who && family_of(prefix) == family {
                    self.announce_again(who, prefix, id);
                }
            }
            if enhanced {
                self.refresh_message(who, family, RefreshKind::End);
            }
        }
    }

    /// The configuration changes; whose session that ends connects anew.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut State)) {
        change(&mut self.state);
        self.changing = true;
        self.speaker.configure(config(&self.state), self.now);
        self.settle();
        self.changing = false;
        let ends = &self.ends;
        self.state
            .announced
            .retain(|(who, ..), _| ends[*who].is_some());
        self.wait(1);
        self.everyone_connects();
    }

    /// Whoever forwards reaches a next hop otherwise, or not at all.
    pub(crate) fn reach(&mut self, number: u8, metric: Option<u32>) {
        self.state.reach[usize::from(number)] = metric;
        let watched = self.watched.clone();
        let moved: Vec<NextHopState> = watched
            .into_iter()
            .filter(|watched| {
                [prefix(0), prefix(ROUTES - 1)]
                    .map(|of| hop(number, of).addr())
                    .contains(&watched.address)
            })
            .map(|next_hop| self.answer(next_hop))
            .collect();
        self.speaker.handle_next_hops(&moved);
        self.settle();
    }

    fn answer(&self, next_hop: RouteNextHop) -> NextHopState {
        let reach = self.state.metric(next_hop.address).map(|metric| Reach {
            metric,
            via_default: false,
        });
        NextHopState { next_hop, reach }
    }

    pub(crate) fn pause(&mut self, who: usize) {
        let end = self.ends[who].as_mut().unwrap();
        end.paused = !end.paused;
        if !end.paused {
            self.read_on(who);
        }
    }

    fn read_on(&mut self, who: usize) {
        let Some(end) = self.ends[who].as_mut() else {
            return;
        };
        end.paused = false;
        let (peer, direction, octets) = (end.peer, end.direction, std::mem::take(&mut end.unread));
        self.speaker
            .handle_written(peer, direction, octets, self.now);
        self.settle();
        let end = self.ends[who].as_ref().unwrap();
        assert!(end.refreshing.is_empty(), "no end of refresh");
    }

    pub(crate) fn everyone_reads(&mut self) {
        for who in 0..PLACES {
            self.read_on(who);
        }
    }

    pub(crate) fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.speaker.handle_timeout(self.now);
        self.settle();
    }

    fn settle(&mut self) {
        for _ in 0..100_000 {
            let mut busy = self.speaker.work(self.budget, self.now);
            while let Some(output) = self.speaker.poll_output() {
                busy = true;
                self.obey(output);
            }
            while let Some(event) = self.speaker.poll_table_event(5) {
                busy = true;
                self.forward(event);
            }
            while let Some(interest) = self.speaker.poll_next_hop() {
                busy = true;
                match interest {
                    NextHopInterest::Watch(next_hop) => {
                        self.watched.insert(next_hop);
                        let answer = self.answer(next_hop);
                        self.speaker.handle_next_hops(&[answer]);
                    }
                    NextHopInterest::Forget(next_hop) => {
                        assert!(
                            self.watched.remove(&next_hop),
                            "{next_hop:?} is not watched"
                        );
                    }
                }
            }
            if !busy {
                return;
            }
        }
        panic!("the speaker does not come to rest");
    }

    fn forward(&mut self, event: TableEvent) {
        let TableEvent::Changes(changes) = event else {
            return;
        };
        for change in changes {
            match change.best {
                None => drop(self.forwarding.remove(&change.prefix)),
                Some(best) => {
                    let mut hops: Vec<IpAddr> =
                        best.next_hops.iter().map(|hop| hop.address).collect();
                    hops.sort();
                    self.forwarding.insert(change.prefix, hops);
                }
            }
        }
    }

    fn end_of(&mut self, peer: PeerId) -> Option<&mut End> {
        self.ends.iter_mut().flatten().find(|end| end.peer == peer)
    }

    fn obey(&mut self, output: Output) {
        let now = self.now;
        match output {
            Output::Send {
                peer,
                chunks,
                direction,
            } => {
                let changing = self.changing;
                let Some(end) = self.end_of(peer) else {
                    return;
                };
                let mut octets = BytesMut::new();
                chunks
                    .iter()
                    .for_each(|chunk| octets.extend_from_slice(chunk));
                let size = octets.len();
                let reading = Self::context_of(end);
                while let Some(frame) = framing::split(&mut octets, 65_535).unwrap() {
                    match decode(&frame.octets, &reading).unwrap() {
                        Message::Update(update) => end.hear(&update),
                        Message::RouteRefresh(refresh) => end.hear_refresh(refresh),
                        Message::Notification(notification) => {
                            assert!(changing, "{notification:?}");
                        }
                        Message::Open(_) | Message::Keepalive => {}
                    }
                }
                if end.paused {
                    end.unread += size;
                } else {
                    self.speaker.handle_written(peer, direction, size, now);
                }
            }
            Output::UseContext { peer, context, .. } => {
                if let Some(end) = self.end_of(peer) {
                    end.context = context;
                }
            }
            Output::Close { peer, .. } => {
                let ended = self
                    .ends
                    .iter_mut()
                    .find(|end| end.as_ref().is_some_and(|end| end.peer == peer));
                if let Some(ended) = ended {
                    assert!(self.changing, "a session ended by itself");
                    *ended = None;
                }
            }
            _ => {}
        }
    }
}

impl End {
    fn forget(&mut self, family: Family) {
        self.held
            .retain(|(prefix, _), _| family_of(*prefix) != family);
    }

    fn hear(&mut self, update: &margay_bgp::codec::Update) {
        assert_eq!(update.faults, []);
        for nlri in &update.withdrawn {
            self.held.remove(&(nlri.prefix, nlri.path_id));
        }
        for announcement in &update.announced {
            for nlri in &announcement.nlri {
                let key = (nlri.prefix, nlri.path_id);
                if let Some(stale) = self.refreshing.get_mut(&family_of(nlri.prefix)) {
                    stale.remove(&key);
                }
                let attributes = update.attributes.as_deref().cloned().unwrap();
                self.held.insert(key, (attributes, announcement.next_hop));
            }
        }
    }

    /// RFC 7313 §4.2, as the receiver of everything.
    fn hear_refresh(&mut self, refresh: RouteRefresh) {
        let family = refresh.family;
        match refresh.kind {
            RefreshKind::Request => self.asked.push(family),
            RefreshKind::Begin => {
                let held = self.held.keys().copied();
                let stale = held.filter(|(prefix, _)| family_of(*prefix) == family);
                self.refreshing.insert(family, stale.collect());
            }
            RefreshKind::End => {
                let stale = self.refreshing.remove(&family).expect("a refresh began");
                self.held.retain(|key, _| !stale.contains(key));
            }
            RefreshKind::Other(_) => {}
        }
    }
}
