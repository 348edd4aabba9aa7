//! What can happen to a neighbour: the events of RFC 4271 §8.1.
//!
//! | RFC 4271 | here |
//! |---|---|
//! | 1 ManualStart, 3–7 AutomaticStart… | [`Event::Start`]; passive and damped starts follow from the configuration |
//! | 2 ManualStop, 8 AutomaticStop | [`Event::Stop`], [`Event::Reset`], [`Event::PrefixLimit`] |
//! | 9 ConnectRetryTimer, 10 HoldTimer, 13 IdleHoldTimer, 29 SendHoldTimer (RFC 9687) | `Peer::handle_timeout` |
//! | 11 KeepaliveTimer | the connection task sends KEEPALIVEs on the schedule of `PeerOutput::UseContext` |
//! | 12 and 20 DelayOpenTimer | `Peer::handle_timeout` and [`Event::Message`], where the configuration asks for the delay |
//! | 14 TcpConnection_Valid, 15 Tcp_CR_Invalid | decided before a connection is handed over, see `Peer::admit` |
//! | 16 Tcp_CR_Acked, 17 TcpConnectionConfirmed | [`Event::ConnectionUp`] |
//! | 18 TcpConnectionFails | [`Event::ConnectionFailed`], [`Event::ConnectionClosed`] |
//! | 19 BGPOpen, 24 NotifMsgVerErr, 25 NotifMsg, 26 KeepAliveMsg, 27 UpdateMsg | [`Event::Message`] |
//! | 21 BGPHeaderErr, 22 BGPOpenMsgErr, 28 UpdateMsgErr | [`Event::Malformed`] |
//! | 23 OpenCollisionDump | raised inside, see `collision.rs` |

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::codec::{DecodeError, Message};
use crate::family::Family;

/// Who opened a TCP connection. A neighbour has at most one connection of each direction.
///
/// Of two incoming ones neither ranks higher: the second place is for a caller beside an Established incoming connection, which
/// has to prove itself before the session gives way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// We dialled.
    Outgoing,
    /// The neighbour dialled.
    Incoming,
    /// The neighbour dialled once more.
    SecondIncoming,
}

impl Direction {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Outgoing, Self::Incoming, Self::SecondIncoming];

    /// Whether the neighbour dialled.
    #[must_use]
    pub const fn is_incoming(self) -> bool {
        matches!(self, Self::Incoming | Self::SecondIncoming)
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outgoing => "outgoing",
            Self::Incoming | Self::SecondIncoming => "incoming",
        })
    }
}

/// How an Established session, or the attempt at one, is ended from this side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Close TCP and say nothing: a peer that helps our graceful restart keeps our routes (RFC 4724 §4.2).
    Silent,
    /// Administrative shutdown, 6/2, with a text for the operator there (RFC 9003).
    Administrative {
        /// Read by people; cut to 255 octets at a character.
        text: Option<String>,
    },
    /// The neighbour is no longer configured, 6/3.
    Deconfigured,
    /// Administrative reset, 6/4.
    AdministrativeReset {
        /// Read by people; cut to 255 octets at a character.
        text: Option<String>,
        /// Wrap it in a Hard Reset (RFC 8538 §3), so that the peer keeps nothing.
        hard: bool,
    },
    /// Another change of configuration, 6/6.
    ConfigurationChange,
    /// BFD says the path is down, 6/10 (RFC 9384).
    BfdDown {
        /// It may be the neighbour's control plane alone that failed, so its routes stay if it asked for that
        /// (RFC 5882 §4.3.2).
        keep_routes: bool,
    },
}

/// One thing that happened.
#[derive(Debug)]
pub enum Event {
    /// Run the session from now on.
    Start,
    /// End it and stay Idle until [`Event::Start`].
    Stop(Shutdown),
    /// End it and begin anew at once.
    Reset(Shutdown),
    /// The peer announced more prefixes than allowed: 6/1, then rest.
    PrefixLimit {
        /// Of which family there were too many.
        family: Family,
        /// The limit it exceeded.
        limit: u32,
        /// How long to rest; until [`Event::Start`] where absent.
        restart: Option<Duration>,
    },
    /// A TCP connection stands. For [`Direction::Incoming`] only after `Peer::admit` agreed; an earlier incoming
    /// connection was closed by whoever hands over the new one.
    ConnectionUp {
        /// Who opened it.
        direction: Direction,
        /// Our end.
        local: SocketAddr,
        /// The neighbour's end.
        remote: SocketAddr,
    },
    /// Dialling failed.
    ConnectionFailed {
        /// Always outgoing in practice.
        direction: Direction,
    },
    /// A connection ended, by FIN, RST or an error of the socket.
    ConnectionClosed {
        /// Who had opened it.
        direction: Direction,
    },
    /// A well-formed message came.
    Message {
        /// On which connection.
        direction: Direction,
        /// What it says.
        message: Message,
    },
    /// Octets came that are no message.
    Malformed {
        /// On which connection.
        direction: Direction,
        /// What is wrong with them, and so which NOTIFICATION answers.
        error: DecodeError,
    },
    /// Ask the peer for its routes again, where it answers such questions (RFC 2918).
    AskAgain,
    /// The kernel took octets we had to send: the peer reads.
    BytesAccepted {
        /// On which connection.
        direction: Direction,
    },
    /// Octets of the peer arrived but were not handed over as messages yet: it is alive and we are slow.
    Heard {
        /// On which connection.
        direction: Direction,
    },
}
