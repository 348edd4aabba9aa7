//! The control packet (RFC 5880 §4.1).
//!
//! ```text
//!  0                   1                   2                   3
//! |Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
//! |                       My Discriminator                        |
//! |                      Your Discriminator                       |
//! |                    Desired Min TX Interval                    |
//! |                   Required Min RX Interval                    |
//! |                 Required Min Echo RX Interval                 |
//! ```

use std::fmt;
use std::time::Duration;

use nom::IResult;
use nom::Parser as _;
use nom::number::complete::{be_u8, be_u32};
use thiserror::Error;

/// Octets of a packet without authentication.
pub const PACKET_LEN: usize = 24;

const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const CONTROL_PLANE_INDEPENDENT: u8 = 0x08;
const AUTHENTICATION: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// State of a session (RFC 5880 §4.1, Sta).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Taken down by an operator or a configuration: says nothing of the path.
    AdminDown,
    /// The path does not carry packets, or nobody answers yet.
    #[default]
    Down,
    /// The other end is heard and does not hear us yet, as far as we know.
    Init,
    /// Both ends hear each other.
    Up,
}

impl State {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }

    /// The name used in RFC 5880.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AdminDown => "AdminDown",
            Self::Down => "Down",
            Self::Init => "Init",
            Self::Up => "Up",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why a session changed its state last: five bits of the
/// [registry](https://www.iana.org/assignments/bfd-parameters/bfd-parameters.xhtml#bfd-parameters-1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// No diagnostic.
    pub const NONE: Self = Self(0);
    /// Nothing was heard for the detection time.
    pub const DETECTION_TIME_EXPIRED: Self = Self(1);
    /// The other end says that it is down.
    pub const NEIGHBOR_SIGNALED_DOWN: Self = Self(3);
    /// Taken down on purpose.
    pub const ADMINISTRATIVELY_DOWN: Self = Self(7);
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            9 => "mis-connectivity defect",
            other => return write!(f, "diagnostic {other}"),
        })
    }
}

/// A control packet that passed the checks of RFC 5880 §6.8.6 which need no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlPacket {
    /// Why the sender's session changed last.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// P: answer at once with F.
    pub poll: bool,
    /// F: the answer.
    pub is_final: bool,
    /// C: the sender's BFD outlives its control plane.
    pub control_plane_independent: bool,
    /// D: the sender wants no periodic packets while both are Up.
    pub demand: bool,
    /// How many missing packets of the sender mean that it is gone; never 0.
    pub multiplier: u8,
    /// The sender's session; never 0.
    pub my_discriminator: u32,
    /// Our session, as far as the sender knows it; 0 only in Down and AdminDown.
    pub your_discriminator: u32,
    /// How often the sender wants to send, in microseconds on the wire.
    pub desired_min_tx: Duration,
    /// How often the sender can receive; zero means that it wants no periodic packets at all.
    pub required_min_rx: Duration,
}

/// Why a datagram is no packet for anyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PacketError {
    /// Fewer octets than a packet has, or than it says.
    #[error("too short")]
    Short,
    /// Another version than 1.
    #[error("version {0}")]
    Version(u8),
    /// It is to be authenticated, and no session here is.
    #[error("authenticated")]
    Authenticated,
    /// Detect Mult is zero.
    #[error("detection multiplier 0")]
    Multiplier,
    /// The bit reserved for multipoint is set.
    #[error("multipoint")]
    Multipoint,
    /// My Discriminator is zero.
    #[error("no discriminator")]
    NoDiscriminator,
    /// Your Discriminator is zero although the sender heard of us.
    #[error("{0} without our discriminator")]
    Unaddressed(State),
}

struct Raw {
    first: u8,
    second: u8,
    multiplier: u8,
    length: u8,
    my_discriminator: u32,
    your_discriminator: u32,
    desired_min_tx: u32,
    required_min_rx: u32,
}

fn raw(octets: &[u8]) -> IResult<&[u8], Raw> {
    let (rest, (first, second, multiplier, length)) =
        (be_u8, be_u8, be_u8, be_u8).parse_complete(octets)?;
    let (rest, (my_discriminator, your_discriminator)) = (be_u32, be_u32).parse_complete(rest)?;
    let (rest, (desired_min_tx, required_min_rx, _echo)) =
        (be_u32, be_u32, be_u32).parse_complete(rest)?;
    let raw = Raw {
        first,
        second,
        multiplier,
        length,
        my_discriminator,
        your_discriminator,
        desired_min_tx,
        required_min_rx,
    };
    Ok((rest, raw))
}

impl ControlPacket {
    /// Reads a datagram's payload, with the checks of RFC 5880 §6.8.6 in their order.
    ///
    /// # Errors
    /// It is to be dropped, for this reason.
    pub fn decode(octets: &[u8]) -> Result<Self, PacketError> {
        let (_, raw) = raw(octets).map_err(|_| PacketError::Short)?;
        let version = raw.first >> 5;
        if version != VERSION {
            return Err(PacketError::Version(version));
        }
        let flag = |bit: u8| raw.second & bit != 0;
        let length = usize::from(raw.length);
        if length < PACKET_LEN
            || flag(AUTHENTICATION) && length < PACKET_LEN + 2
            || length > octets.len()
        {
            return Err(PacketError::Short);
        }
        if raw.multiplier == 0 {
            return Err(PacketError::Multiplier);
        }
        if flag(MULTIPOINT) {
            return Err(PacketError::Multipoint);
        }
        if raw.my_discriminator == 0 {
            return Err(PacketError::NoDiscriminator);
        }
        let state = State::from_bits(raw.second >> 6);
        if raw.your_discriminator == 0 && !matches!(state, State::Down | State::AdminDown) {
            return Err(PacketError::Unaddressed(state));
        }
        if flag(AUTHENTICATION) {
            return Err(PacketError::Authenticated);
        }
        Ok(Self {
            diagnostic: Diagnostic(raw.first & 0x1f),
            state,
            poll: flag(POLL),
            is_final: flag(FINAL),
            control_plane_independent: flag(CONTROL_PLANE_INDEPENDENT),
            demand: flag(DEMAND),
            multiplier: raw.multiplier,
            my_discriminator: raw.my_discriminator,
            your_discriminator: raw.your_discriminator,
            desired_min_tx: Duration::from_micros(u64::from(raw.desired_min_tx)),
            required_min_rx: Duration::from_micros(u64::from(raw.required_min_rx)),
        })
    }

    /// The packet on the wire. Required Min Echo RX Interval is zero: no echo packets are taken.
    #[must_use]
    pub fn encode(&self) -> [u8; PACKET_LEN] {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let first = VERSION << 5 | self.diagnostic.0 & 0x1f;
        let second = self.state.bits() << 6
            | flag(self.poll, POLL)
            | flag(self.is_final, FINAL)
            | flag(self.control_plane_independent, CONTROL_PLANE_INDEPENDENT)
            | flag(self.demand, DEMAND);
        let words = [
            u32::from_be_bytes([first, second, self.multiplier, 24]),
            self.my_discriminator,
            self.your_discriminator,
            micros(self.desired_min_tx),
            micros(self.required_min_rx),
            0,
        ];
        let mut octets = [0; PACKET_LEN];
        for (place, word) in octets.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        octets
    }
}

fn micros(interval: Duration) -> u32 {
    u32::try_from(interval.as_micros()).unwrap_or(u32::MAX)
}
