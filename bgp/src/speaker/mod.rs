//! Every peer and table behind one face.

pub mod config;
pub mod snapshot;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::codec::error::DecodeError;
use crate::codec::{CodecContext, Message};
use crate::family::Family;
use crate::fsm::{Direction, State};
use crate::rib::RouteChange;
use config::{PeerConfig, SpeakerConfig};
use snapshot::{RouteInfo, RouteQuery, SpeakerSnapshot};

/// A neighbour the speaker knows at present. An id is not used again for another neighbour while events for the old one
/// may still be on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(u32);

/// What the speaker asks of its surroundings.
#[derive(Debug)]
pub enum Output {
    /// Dial the neighbour; answered by [`Speaker::handle_connected`] or [`Speaker::handle_connect_failed`].
    Connect {
        /// Whom.
        peer: PeerId,
        /// Where.
        remote: SocketAddr,
        /// Source address, password, TTL and all else the socket needs.
        config: Arc<PeerConfig>,
    },
    /// Write these octets in this order, and report them with [`Speaker::handle_written`] once the kernel took them.
    Send {
        /// To whom.
        peer: PeerId,
        /// On which connection.
        direction: Direction,
        /// Whole messages; the same buffers may be queued for other peers as well.
        chunks: Vec<Bytes>,
    },
    /// Close a connection, or give up dialling it. Nothing more is to be reported of it.
    Close {
        /// Whose.
        peer: PeerId,
        /// Which.
        direction: Direction,
        /// Write out what is queued and let the peer read it before the socket goes.
        linger: bool,
    },
    /// How messages are read from here on; a connection waits for this after it passed up an OPEN.
    UseContext {
        /// Whose.
        peer: PeerId,
        /// Which connection.
        direction: Direction,
        /// How to decode.
        context: CodecContext,
        /// Send a KEEPALIVE so often, the first one an interval from now; none where absent.
        keepalive_interval: Option<Duration>,
    },
    /// The configuration of a neighbour with a connection changed in what concerns its socket (its password, say).
    Reconfigured {
        /// Whose.
        peer: PeerId,
        /// What holds now.
        config: Arc<PeerConfig>,
    },
    /// The state people see changed.
    PeerStateChanged {
        /// Whose.
        peer: PeerId,
        /// Its name.
        name: Arc<str>,
        /// Before.
        from: State,
        /// Now.
        to: State,
    },
    /// The neighbour is no longer known; forget what is kept for it.
    PeerRemoved {
        /// Which.
        peer: PeerId,
    },
}

/// News of the tables for whoever forwards packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableEvent {
    /// These prefixes are routed differently now. Each is the latest state of its prefix.
    Changes(Vec<RouteChange>),
    /// The table is complete for the first time: what a kernel holds of an earlier life and was not among the changes
    /// may be removed. Comes once per family; at once for a speaker that was not [restarting](SpeakerConfig::restarting).
    Complete(Family),
}

/// What an operator may ask for one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Clear {
    /// End the session and start it anew.
    Hard,
    /// Evaluate the import policy anew, on what the peer announced.
    SoftIn,
    /// Tell the peer everything anew.
    SoftOut,
}

/// How the whole speaker stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpeakerShutdown {
    /// Say nothing, so that peers keep forwarding to us while we restart (RFC 4724 §4).
    KeepForwarding,
    /// Say Cease, with a text for the operators there; peers drop our routes.
    Cease {
        /// Read by people (RFC 9003).
        text: Option<String>,
    },
}

/// What becomes of an accepted connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It belongs to this peer. Drain [`Speaker::poll_output`], which may ask to close an earlier connection, then say
    /// [`Speaker::handle_connected`] with [`Direction::Incoming`].
    Peer(PeerId),
    /// Write these octets, if any, and close it.
    Refused(Option<Bytes>),
}

/// Every peer and table of one BGP speaker.
#[derive(Debug)]
pub struct Speaker {
    config: SpeakerConfig,
}

#[expect(
    unused_variables,
    clippy::unimplemented,
    clippy::missing_const_for_fn,
    clippy::needless_pass_by_ref_mut,
    reason = "the face comes before the body"
)]
impl Speaker {
    /// A speaker that starts every enabled peer. `seed` feeds jitter and hashing.
    #[must_use]
    pub fn new(config: SpeakerConfig, seed: u64, now: Instant) -> Self {
        unimplemented!()
    }

    /// What the speaker was told to be.
    #[must_use]
    pub fn config(&self) -> &SpeakerConfig {
        &self.config
    }

    /// Takes a new configuration and touches only what differs.
    pub fn configure(&mut self, config: SpeakerConfig, now: Instant) {
        unimplemented!()
    }

    /// Whose connection a newly accepted one is: the peer of that address, else a new one of the narrowest range that
    /// holds it. Nothing where nobody is expected from there; close it then. Follow with [`Speaker::handle_connected`].
    pub fn accept(
        &mut self,
        remote: SocketAddr,
        local: SocketAddr,
        now: Instant,
    ) -> Accepted {
        unimplemented!()
    }

    /// The configuration of a neighbour that is known.
    #[must_use]
    pub fn peer_config(&self, peer: PeerId) -> Option<&Arc<PeerConfig>> {
        unimplemented!()
    }

    /// A TCP connection stands.
    pub fn handle_connected(
        &mut self,
        peer: PeerId,
        direction: Direction,
        local: SocketAddr,
        remote: SocketAddr,
        now: Instant,
    ) {
        unimplemented!()
    }

    /// Dialling failed.
    pub fn handle_connect_failed(&mut self, peer: PeerId, now: Instant) {
        unimplemented!()
    }

    /// A connection ended, by FIN, RST or an error of the socket.
    pub fn handle_closed(&mut self, peer: PeerId, direction: Direction, now: Instant) {
        unimplemented!()
    }

    /// A well-formed message came.
    pub fn handle_message(
        &mut self,
        peer: PeerId,
        direction: Direction,
        message: Message,
        now: Instant,
    ) {
        unimplemented!()
    }

    /// Octets came that are no message.
    pub fn handle_malformed(
        &mut self,
        peer: PeerId,
        direction: Direction,
        error: DecodeError,
        now: Instant,
    ) {
        unimplemented!()
    }

    /// The peer was heard but what it said is not handed over yet.
    pub fn handle_heard(&mut self, peer: PeerId, direction: Direction, now: Instant) {
        unimplemented!()
    }

    /// The kernel took `octets` of what [`Output::Send`] asked to write. More follows once little is left.
    pub fn handle_written(
        &mut self,
        peer: PeerId,
        direction: Direction,
        octets: usize,
        now: Instant,
    ) {
        unimplemented!()
    }

    /// Deadlines that passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        unimplemented!()
    }

    /// When to call [`Speaker::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        unimplemented!()
    }

    /// The next thing to do; call until there is none, after every `handle_*` and [`Speaker::work`].
    pub fn poll_output(&mut self) -> Option<Output> {
        unimplemented!()
    }

    /// News for whoever forwards, at most `maximum` changes. Ask only when they can be taken: until then changes of one
    /// prefix are joined.
    pub fn poll_table_event(&mut self, maximum: usize) -> Option<TableEvent> {
        unimplemented!()
    }

    /// Works on what the events left to do: about `budget` prefixes are decided, and as many told. True while more is
    /// left; look after sockets in between.
    pub fn work(&mut self, budget: usize, now: Instant) -> bool {
        unimplemented!()
    }

    /// Clears the peer of this name, or every dynamic peer of the range of this name. False where there is none.
    pub fn clear(&mut self, name: &str, clear: Clear, now: Instant) -> bool {
        unimplemented!()
    }

    /// Ends every session for good.
    pub fn shutdown(&mut self, how: &SpeakerShutdown, now: Instant) {
        unimplemented!()
    }

    /// The speaker at this moment.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> SpeakerSnapshot {
        unimplemented!()
    }

    /// What is known of the prefixes asked for, in order of prefix.
    #[must_use]
    pub fn routes(&self, query: &RouteQuery) -> Vec<RouteInfo> {
        unimplemented!()
    }
}
