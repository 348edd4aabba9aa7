//! Every peer and table behind one face.

pub mod config;
pub mod snapshot;

use std::net::{IpAddr, SocketAddr};
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
