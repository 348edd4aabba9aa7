//! OPEN (RFC 4271 §4.2), with optional parameters in both framings (RFC 9072).

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::capability::Capability;
use super::error::{DecodeError, EncodeError};
use super::iana::MessageType;
use super::{MAX_LEN, framing};
use crate::asn::Asn;
use crate::router_id::RouterId;

/// Hold Time: none, or at least three seconds (RFC 4271 §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldTime(u16);

impl HoldTime {
    /// Zero: neither hold timer nor KEEPALIVEs.
    pub const NONE: Self = Self(0);

    /// The hold time of so many seconds; `None` for one and two.
    #[must_use]
    pub const fn from_secs(seconds: u16) -> Option<Self> {
        match seconds {
            1 | 2 => None,
            seconds => Some(Self(seconds)),
        }
    }

    /// Whole seconds.
    #[must_use]
    pub const fn as_secs(self) -> u16 {
        self.0
    }

    /// The time, `None` where there is no hold timer.
    #[must_use]
    pub const fn duration(self) -> Option<Duration> {
        match self.0 {
            0 => None,
            seconds => Some(Duration::from_secs(seconds as u64)),
        }
    }
}

impl Default for HoldTime {
    /// 90 seconds, the suggestion of RFC 4271 §10.
    fn default() -> Self {
        Self(90)
    }
}

/// An OPEN message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Open {
    /// The sender's AS number: that of the four-octet capability if there is one, else My
    /// Autonomous System. On sending, the capability must be in the list to be sent.
    pub asn: Asn,
    /// My Autonomous System, where it is neither the capability's number nor AS_TRANS: the sender contradicts itself.
    pub contradicting_as: Option<u16>,
    /// The hold time the sender proposes.
    pub hold_time: HoldTime,
    /// The sender's BGP Identifier.
    pub router_id: RouterId,
    /// Its capabilities in the order sent, of all capability parameters together.
    pub capabilities: Vec<Capability>,
}

/// The only version there is.
const VERSION: u8 = 4;
/// Optional parameter type of RFC 5492.
const CAPABILITIES: u8 = 2;
/// In place of the first parameter's type: lengths have two octets from here on (RFC 9072 §2).
const EXTENDED: u8 = 255;

impl Open {
    /// Reads what follows the header.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let Some((
            &[
                version,
                as_high,
                as_low,
                hold_high,
                hold_low,
                id @ ..,
                opt_len,
            ],
            parameters,
        )) = body.split_first_chunk::<10>()
        else {
            return Err(DecodeError::Open("cut off"));
        };
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        // None takes less than two octets, so that this is room for all and the list never grows.
        let mut capabilities = Vec::with_capacity(parameters.len() / 2);
        read_parameters(opt_len, parameters, &mut capabilities)?;
        capabilities.shrink_to_fit();

        let my_as = u16::from_be_bytes([as_high, as_low]);
        let mut asn = Asn(u32::from(my_as));
        for capability in &capabilities {
            if let Capability::FourOctetAs(four_octet_asn) = capability {
                asn = *four_octet_asn;
            }
        }
        // AS_TRANS stands in the old field for a number that does not fit there; it is nobody's own.
        if asn.is_reserved_zero() || asn == Asn::AS_TRANS {
            return Err(DecodeError::PeerAs(asn.0));
        }
        let router_id = RouterId::new(u32::from_be_bytes(id)).ok_or(DecodeError::RouterId)?;
        let seconds = u16::from_be_bytes([hold_high, hold_low]);
        let hold_time = HoldTime::from_secs(seconds).ok_or(DecodeError::HoldTime(seconds))?;
        let contradicts = my_as != asn.to_two_octets() && Asn(u32::from(my_as)) != Asn::AS_TRANS;
        Ok(Self {
            asn,
            contradicting_as: contradicts.then_some(my_as),
            hold_time,
            router_id,
            capabilities,
        })
    }

    /// Appends the message to `out`. The extended framing of RFC 9072 is used only where nothing
    /// else works, because older speakers refuse it.
    ///
    /// # Errors
    /// A capability exceeds 255 octets, or the message 4096. `out` is left as it was.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        let mut capabilities = Vec::new();
        for capability in &self.capabilities {
            capability.encode(&mut capabilities)?;
        }
        let start = out.len();
        framing::start(MessageType::Open, out);
        out.put_u8(VERSION);
        out.put_u16(
            self.contradicting_as
                .unwrap_or_else(|| self.asn.to_two_octets()),
        );
        out.put_u16(self.hold_time.as_secs());
        out.put_u32(self.router_id.get());
        let parameter_len = if capabilities.is_empty() {
            0
        } else {
            capabilities.len() + 2
        };
        if let Ok(opt_len) = u8::try_from(parameter_len) {
            out.put_u8(opt_len);
            if opt_len > 0 {
                out.put_u8(CAPABILITIES);
                out.put_u8(opt_len - 2);
            }
        } else {
            let length = u16::try_from(capabilities.len()).unwrap_or(u16::MAX);
            out.put_u8(EXTENDED);
            out.put_u8(EXTENDED);
            out.put_u16(length.saturating_add(3));
            out.put_u8(CAPABILITIES);
            out.put_u16(length);
        }
        out.put_slice(&capabilities);
        if out.len() - start > MAX_LEN {
            out.truncate(start);
            return Err(EncodeError::TooLong("OPEN"));
        }
        framing::finish(start, out);
        Ok(())
    }
}

/// Reads the optional parameters in whichever of the two framings they come.
fn read_parameters(
    opt_len: u8,
    octets: &[u8],
    out: &mut Vec<Capability>,
) -> Result<(), DecodeError> {
    let extended = opt_len != 0 && octets.first() == Some(&EXTENDED);
    let mut parameters = if extended {
        match octets.split_first_chunk() {
            Some((&[_, high, low], rest))
                if usize::from(u16::from_be_bytes([high, low])) == rest.len() =>
            {
                rest
            }
            _ => return Err(DecodeError::Open("extended parameter length")),
        }
    } else if octets.len() == usize::from(opt_len) {
        octets
    } else {
        return Err(DecodeError::Open("parameter length"));
    };
    // Framing is judged before types: a length that lies makes every later type a guess.
    let mut unknown = None;
    while let Some((&kind, rest)) = parameters.split_first() {
        let split = if extended {
            rest.split_first_chunk().and_then(|(&length, rest)| {
                rest.split_at_checked(usize::from(u16::from_be_bytes(length)))
            })
        } else {
            rest.split_first()
                .and_then(|(&length, rest)| rest.split_at_checked(usize::from(length)))
        };
        let (value, rest) = split.ok_or(DecodeError::Open("parameter overruns the message"))?;
        if kind == CAPABILITIES {
            Capability::decode_all(value, out)
                .map_err(|_| DecodeError::Open("malformed capability"))?;
        } else if unknown.is_none() {
            let length = parameters.len() - rest.len();
            unknown = parameters.get(..length).map(Bytes::copy_from_slice);
        }
        parameters = rest;
    }
    match unknown {
        Some(parameter) => Err(DecodeError::OptionalParameter(parameter)),
        None => Ok(()),
    }
}
