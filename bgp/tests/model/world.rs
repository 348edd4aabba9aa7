//! The speaker under test, its neighbours as tables that are told things, and what they announced last.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
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
use margay_bgp::fsm::Direction;
use margay_bgp::policy::{Action, Condition, Policy, Rule, Verdict};
use margay_bgp::prefix::Prefix;
use margay_bgp::router_id::RouterId;
use margay_bgp::speaker::config::{PeerConfig, Remote, SpeakerConfig};
use margay_bgp::speaker::{Accepted, Output, PeerId, Speaker};

pub(crate) const OWN_ASN: u32 = 64_512;
pub(crate) const OWN_ID: u32 = 0xc000_0201;
pub(crate) const CLUSTER: u32 = 0x0a00_0009;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of this AS.
    External(u32),
    Client,
    Internal,
}

/// Two of the neighbours are in one AS, so that their MEDs are compared.
pub(crate) const KINDS: [Kind; 6] = [
    Kind::External(64_600),
    Kind::External(64_601),
    Kind::External(64_600),
    Kind::Client,
    Kind::Client,
    Kind::Internal,
];

/// What a neighbour was told and was not told to forget.
pub(crate) type Held = BTreeMap<Prefix, (PathAttributes, NextHop)>;

/// All that the outcome may depend on.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// By neighbour, prefix and path identifier.
    pub(crate) announced: BTreeMap<(usize, Prefix, u8), (PathAttributes, NextHop)>,
    pub(crate) import: [u8; KINDS.len()],
    pub(crate) export: [u8; KINDS.len()],
}

struct End {
    peer: PeerId,
    direction: Direction,
    /// How the speaker reads it.
    context: CodecContext,
    held: Held,
    paused: bool,
    unread: usize,
}

pub(crate) struct World {
    speaker: Speaker,
    now: Instant,
    budget: usize,
    state: State,
    ends: Vec<Option<End>>,
}

pub(crate) fn prefix(route: u8) -> Prefix {
    format!("10.{route}.0.0/16").parse().unwrap()
}

pub(crate) const fn own_address() -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 1)
}

pub(crate) fn id_of(who: usize) -> u32 {
    OWN_ID + 1 + u32::try_from(who).unwrap()
}

/// Every second neighbour sends several paths of a prefix.
const fn sends_paths(who: usize) -> bool {
    who % 2 == 1
}

fn policy(number: u8, rejected: u8, action: Action) -> Arc<Policy> {
    let rule = match number {
        0 => return Arc::new(Policy::accept_all()),
        1 => Rule {
            conditions: vec![Condition::PrefixIn(
                [prefix(rejected)].into_iter().collect(),
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
    for (who, kind) in KINDS.into_iter().enumerate() {
        let asn = match kind {
            Kind::External(asn) => asn,
            Kind::Client | Kind::Internal => OWN_ASN,
        };
        let remote = SocketAddr::new(IpAddr::V4(id_of(who).into()), 179);
        let mut peer = PeerConfig::new(
            format!("n{who}"),
            Remote::Address(remote),
            Asn(asn),
            policy(state.import[who], 1, Action::SetLocalPref(LocalPref(102))),
            policy(
                state.export[who],
                2,
                Action::AddCommunity(Community::new(7, 7)),
            ),
        );
        peer.passive = true;
        peer.route_reflector_client = kind == Kind::Client;
        peer.add_path_receive = sends_paths(who);
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
    pub(crate) fn new(budget: usize) -> Self {
        Self::of(State::default(), budget)
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
            ends: (0..KINDS.len()).map(|_| None).collect(),
        };
        for who in 0..KINDS.len() {
            world.establish(who);
        }
        for ((who, prefix, id), (attributes, next_hop)) in state.announced {
            world.announce(who, prefix, id, attributes, next_hop);
        }
        world
    }

    pub(crate) const fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn held_by(&self, who: usize) -> &Held {
        &self.ends[who].as_ref().unwrap().held
    }

    fn establish(&mut self, who: usize) {
        let remote = SocketAddr::new(IpAddr::V4(id_of(who).into()), 40_000);
        let local = SocketAddr::new(IpAddr::V4(own_address()), 179);
        let Accepted::Peer(peer, direction) = self.speaker.accept(remote, local, self.now) else {
            panic!("n{who} is refused");
        };
        self.ends[who] = Some(End {
            peer,
            direction,
            context: CodecContext::before_open(),
            held: Held::new(),
            paused: false,
            unread: 0,
        });
        self.speaker
            .handle_connected(peer, direction, local, remote, self.now);
        self.settle();
        let asn = match KINDS[who] {
            Kind::External(asn) => asn,
            Kind::Client | Kind::Internal => OWN_ASN,
        };
        let mut capabilities = vec![
            Capability::Multiprotocol(Family::IPV4_UNICAST),
            Capability::FourOctetAs(Asn(asn)),
            Capability::RouteRefresh,
        ];
        if sends_paths(who) {
            capabilities.push(Capability::AddPath(vec![AddPath {
                family: Family::IPV4_UNICAST,
                mode: AddPathMode::Send,
            }]));
        }
        let open = Open {
            contradicting_as: None,
            asn: Asn(asn),
            hold_time: HoldTime::from_secs(0).unwrap(),
            router_id: RouterId::new(id_of(who)).unwrap(),
            capabilities,
        };
        let mut out = BytesMut::new();
        open.encode(&mut out).unwrap();
        out.extend_from_slice(&KEEPALIVE);
        encode_end_of_rib(Family::IPV4_UNICAST, &mut out);
        self.say(who, out);
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

    /// How the neighbour writes.
    fn writing(&self, who: usize) -> CodecContext {
        let mut ids = FamilySet::empty();
        ids.set(FamilySet::IPV4_UNICAST, sends_paths(who));
        CodecContext {
            four_octet_as: true,
            families: FamilySet::IPV4_UNICAST,
            add_path_send: ids,
            peer_is_external: matches!(KINDS[who], Kind::External(_)),
            ..CodecContext::default()
        }
    }

    fn nlri(who: usize, prefix: Prefix, id: u8) -> (Nlri, u8) {
        let id = if sends_paths(who) { id } else { 0 };
        let path_id = sends_paths(who).then(|| PathId(u32::from(id)));
        (Nlri { prefix, path_id }, id)
    }

    pub(crate) fn announce(
        &mut self,
        who: usize,
        prefix: Prefix,
        id: u8,
        attributes: PathAttributes,
        next_hop: NextHop,
    ) {
        let context = self.writing(who);
        let (nlri, id) = Self::nlri(who, prefix, id);
        let block = attributes_block(&attributes, &context).unwrap();
        let mut out = BytesMut::new();
        encode_announcements(
            &block,
            next_hop,
            Family::IPV4_UNICAST,
            [nlri],
            &context,
            &mut out,
        )
        .unwrap();
        self.state
            .announced
            .insert((who, prefix, id), (attributes, next_hop));
        self.say(who, out);
    }

    pub(crate) fn withdraw(&mut self, who: usize, prefix: Prefix, id: u8) {
        let (nlri, id) = Self::nlri(who, prefix, id);
        let mut out = BytesMut::new();
        encode_withdrawals(Family::IPV4_UNICAST, [nlri], &self.writing(who), &mut out).unwrap();
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

    pub(crate) fn refresh(&mut self, who: usize) {
        let mut out = BytesMut::new();
        RouteRefresh {
            family: Family::IPV4_UNICAST,
            kind: RefreshKind::Request,
        }
        .encode(&mut out);
        self.say(who, out);
    }

    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut State)) {
        change(&mut self.state);
        self.speaker.configure(config(&self.state), self.now);
        self.settle();
    }

    pub(crate) fn pause(&mut self, who: usize) {
        let end = self.ends[who].as_mut().unwrap();
        end.paused = !end.paused;
        if !end.paused {
            self.read_on(who);
        }
    }

    fn read_on(&mut self, who: usize) {
        let end = self.ends[who].as_mut().unwrap();
        end.paused = false;
        let (peer, direction, octets) = (end.peer, end.direction, std::mem::take(&mut end.unread));
        self.speaker
            .handle_written(peer, direction, octets, self.now);
        self.settle();
    }

    pub(crate) fn everyone_reads(&mut self) {
        for who in 0..KINDS.len() {
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
            while self.speaker.poll_table_event(5).is_some() {
                busy = true;
            }
            if !busy {
                return;
            }
        }
        panic!("the speaker does not come to rest");
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
                let who = self
                    .ends
                    .iter()
                    .position(|end| end.as_ref().is_some_and(|end| end.peer == peer));
                let Some(who) = who else {
                    return;
                };
                let reading = self.writing(who);
                let end = self.ends[who].as_mut().unwrap();
                let mut octets = BytesMut::new();
                chunks
                    .iter()
                    .for_each(|chunk| octets.extend_from_slice(chunk));
                let size = octets.len();
                let reading = CodecContext {
                    add_path_send: FamilySet::empty(),
                    ..reading
                };
                while let Some(frame) = framing::split(&mut octets, 65_535).unwrap() {
                    match decode(&frame.octets, &reading).unwrap() {
                        Message::Update(update) => end.hear(&update),
                        Message::Notification(notification) => panic!("{notification:?}"),
                        Message::Open(_) | Message::Keepalive | Message::RouteRefresh(_) => {}
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
                assert!(self.end_of(peer).is_none(), "a session ended by itself");
            }
            _ => {}
        }
    }
}

impl End {
    fn hear(&mut self, update: &margay_bgp::codec::Update) {
        assert_eq!(update.faults, []);
        for nlri in &update.withdrawn {
            self.held.remove(&nlri.prefix);
        }
        for announcement in &update.announced {
            for nlri in &announcement.nlri {
                let attributes = update.attributes.as_deref().cloned().unwrap();
                self.held
                    .insert(nlri.prefix, (attributes, announcement.next_hop));
            }
        }
    }
}
