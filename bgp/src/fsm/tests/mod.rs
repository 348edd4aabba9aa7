//! The machine on an invented clock.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test picks out the outputs it is about"
)]

mod collision;
mod held;
mod negotiation;
mod property;
mod restart;
mod table;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    Admission, Direction, DownReason, Event, LocalIdentity, Negotiated, Peer, PeerOutput,
    PeerWarning, Shutdown, State,
};
use crate::asn::Asn;
use crate::codec::{
    Capability, ErrorCode, GracefulRestartCapability, GracefulRestartFamily, HoldTime, Message,
    Notification, Open, Update,
};
use crate::family::Family;
use crate::policy::Policy;
use crate::router_id::RouterId;
use crate::speaker::config::{PeerConfig, Remote};

pub(super) use Direction::{Incoming, Outgoing, SecondIncoming};

pub(super) const US: Asn = Asn(64512);
pub(super) const THEM: Asn = Asn(64600);
pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn id(number: u32) -> RouterId {
    RouterId::new(number).expect("not zero")
}

pub(super) fn identity() -> LocalIdentity {
    LocalIdentity {
        asn: US,
        router_id: id(100),
        restarting: false,
        forwarding_preserved: false,
    }
}

pub(super) fn config() -> PeerConfig {
    let remote = Remote::Address("192.0.2.2:179".parse().expect("an address"));
    let policy = Arc::new(Policy::accept_all());
    PeerConfig::new("peer", remote, THEM, Arc::clone(&policy), policy)
}

/// The neighbour's OPEN with the capabilities every modern speaker sends.
pub(super) fn their_open() -> Open {
    Open {
        contradicting_as: None,
        asn: THEM,
        hold_time: HoldTime::default(),
        router_id: id(200),
        capabilities: vec![
            Capability::Multiprotocol(Family::IPV4_UNICAST),
            Capability::Multiprotocol(Family::IPV6_UNICAST),
            Capability::RouteRefresh,
            Capability::FourOctetAs(THEM),
        ],
    }
}

/// The neighbour's OPEN with graceful restart for IPv4.
pub(super) fn graceful_open(notification: bool) -> Open {
    let mut open = their_open();
    open.capabilities
        .push(Capability::GracefulRestart(GracefulRestartCapability {
            restarting: false,
            notification,
            restart_time: 120,
            families: vec![GracefulRestartFamily {
                family: Family::IPV4_UNICAST,
                forwarding: true,
            }],
        }));
    open
}

/// A peer, its clock and everything it asked for since the last look.
#[derive(Debug)]
pub(super) struct Lab {
    pub(super) peer: Peer,
    pub(super) now: Instant,
    pub(super) outputs: Vec<PeerOutput>,
}

impl Lab {
    pub(super) fn new(config: PeerConfig) -> Self {
        let now = Instant::now();
        let peer = Peer::new(Arc::new(config), identity(), 7, now);
        Self {
            peer,
            now,
            outputs: Vec::new(),
        }
    }

    /// Started and dialling.
    pub(super) fn connecting() -> Self {
        let mut lab = Self::new(config());
        lab.event(Event::Start);
        assert_eq!(lab.peer.state(), State::Connect);
        lab
    }

    /// Waiting for the pause after a failed attempt.
    pub(super) fn active() -> Self {
        let mut lab = Self::connecting();
        lab.event(Event::ConnectionFailed {
            direction: Outgoing,
        });
        assert_eq!(lab.peer.state(), State::Active);
        lab.outputs.clear();
        lab
    }

    pub(super) fn open_sent() -> Self {
        let mut lab = Self::connecting();
        lab.up(Outgoing);
        assert_eq!(lab.peer.state(), State::OpenSent);
        lab.outputs.clear();
        lab
    }

    pub(super) fn open_confirm() -> Self {
        Self::confirmed_with(config(), their_open())
    }

    pub(super) fn confirmed_with(config: PeerConfig, open: Open) -> Self {
        let mut lab = Self::new(config);
        lab.event(Event::Start);
        lab.up(Outgoing);
        lab.message(Outgoing, Message::Open(open));
        assert_eq!(lab.peer.state(), State::OpenConfirm, "{:?}", lab.outputs);
        lab.outputs.clear();
        lab
    }

    pub(super) fn established() -> Self {
        Self::established_with(config(), their_open())
    }

    pub(super) fn established_with(config: PeerConfig, open: Open) -> Self {
        let mut lab = Self::confirmed_with(config, open);
        lab.message(Outgoing, Message::Keepalive);
        assert_eq!(lab.peer.state(), State::Established);
        lab.outputs.clear();
        lab
    }

    pub(super) fn event(&mut self, event: Event) {
        self.peer.handle_event(self.now, event);
        self.drain();
    }

    pub(super) fn message(&mut self, direction: Direction, message: Message) {
        self.event(Event::Message { direction, message });
    }

    pub(super) fn notification(&mut self, direction: Direction, code: ErrorCode) {
        self.message(direction, Message::Notification(Notification::new(code)));
    }

    pub(super) fn up(&mut self, direction: Direction) {
        self.event(Event::ConnectionUp {
            direction,
            local: "192.0.2.1:1000".parse::<SocketAddr>().expect("an address"),
            remote: "192.0.2.2:179".parse::<SocketAddr>().expect("an address"),
        });
    }

    pub(super) fn closed(&mut self, direction: Direction) {
        self.event(Event::ConnectionClosed { direction });
    }

    pub(super) fn stop(&mut self, text: Option<&str>) {
        self.event(Event::Stop(Shutdown::Administrative {
            text: text.map(str::to_owned),
        }));
    }

    /// Lets time pass, waking the peer whenever it asked for it.
    pub(super) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        let mut woken = 0;
        while let Some(at) = self.peer.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.peer.handle_timeout(self.now);
            self.drain();
            woken += 1;
            // No pause is shorter than a tenth of a second, less jitter, and few timers run at once.
            assert!(woken < 100 + 40 * time.as_secs(), "woken without end");
        }
        self.now = end;
    }

    fn drain(&mut self) {
        while let Some(output) = self.peer.poll_output() {
            self.outputs.push(output);
        }
    }

    pub(super) fn take(&mut self) -> Vec<PeerOutput> {
        std::mem::take(&mut self.outputs)
    }

    /// Types of the messages sent on a connection.
    pub(super) fn sent(&self, direction: Direction) -> Vec<u8> {
        self.octets(direction).map(|octets| octets[18]).collect()
    }

    fn octets(&self, wanted: Direction) -> impl Iterator<Item = &[u8]> {
        self.outputs.iter().filter_map(move |output| match output {
            PeerOutput::Send { direction, bytes } if *direction == wanted => Some(&bytes[..]),
            _ => None,
        })
    }

    /// Code, subcode and data of the NOTIFICATION sent on a connection.
    pub(super) fn notified(&self, direction: Direction) -> Option<(u8, u8, Vec<u8>)> {
        self.octets(direction)
            .find(|octets| octets[18] == 3)
            .map(|octets| (octets[19], octets[20], octets[21..].to_vec()))
    }

    #[track_caller]
    pub(super) fn assert_notified(&self, direction: Direction, code: ErrorCode) {
        let sent = self
            .notified(direction)
            .map(|(code, subcode, _)| ErrorCode::new(code, subcode));
        assert_eq!(sent, Some(code), "{:?}", self.outputs);
        assert_eq!(self.closes(direction), Some(true), "the peer shall read it");
    }

    /// Whether a connection was closed, and if so, whether lingering.
    pub(super) fn closes(&self, wanted: Direction) -> Option<bool> {
        self.outputs.iter().find_map(|output| match output {
            PeerOutput::Close { direction, linger } if *direction == wanted => Some(*linger),
            _ => None,
        })
    }

    pub(super) fn connects(&self) -> usize {
        self.outputs
            .iter()
            .filter(|output| matches!(output, PeerOutput::Connect))
            .count()
    }

    pub(super) fn down(&self) -> Option<&DownReason> {
        self.outputs.iter().find_map(|output| match output {
            PeerOutput::Down(reason) => Some(reason),
            _ => None,
        })
    }

    #[track_caller]
    pub(super) fn negotiated(&self) -> &Negotiated {
        self.peer.established().expect("a session")
    }

    #[track_caller]
    pub(super) fn assert_state(&self, state: State) {
        assert_eq!(self.peer.state(), state, "{:?}", self.outputs);
    }
}

pub(super) fn update() -> Message {
    Message::Update(Update::default())
}

/// Seconds until the next attempt to connect.
pub(super) fn pause_before_connect(lab: &mut Lab) -> f64 {
    lab.outputs.clear();
    let begin = lab.now;
    for _ in 0..10_000 {
        lab.wait(Duration::from_millis(100));
        if lab.connects() > 0 {
            return (lab.now - begin).as_secs_f64();
        }
    }
    panic!("no attempt within 1000 s");
}

pub(super) fn admits(lab: &Lab) -> bool {
    admitted(lab).is_some()
}

/// In which place an incoming connection would be taken now.
pub(super) fn admitted(lab: &Lab) -> Option<Direction> {
    match lab.peer.admit(lab.now) {
        Admission::Accept(direction) => Some(direction),
        _ => None,
    }
}
