//! Capabilities (RFC 5492). Known ones are values; unknown ones keep code and octets, which is
//! all a peer's list needs to be shown.

use bytes::Bytes;
use nom::bytes::complete::take;
use nom::combinator::{all_consuming, opt, rest};
use nom::multi::{length_data, many0};
use nom::number::complete::{be_u8, be_u16, be_u24, be_u32};
use nom::{IResult, Parser};

use super::error::EncodeError;
use super::iana::capability_code as code;
use crate::asn::Asn;
use crate::family::{Afi, Family, Safi};

/// One capability of an OPEN.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Capability {
    /// Routes of this family (RFC 4760 §8). An OPEN without any means IPv4 unicast.
    Multiprotocol(Family),
    /// ROUTE-REFRESH is understood (RFC 2918). Its pre-standard code 128 reads as this.
    RouteRefresh,
    /// Families whose next hop may be of another AFI (RFC 8950).
    ExtendedNextHop(Vec<ExtendedNextHop>),
    /// Messages of up to 65535 octets are taken (RFC 8654).
    ExtendedMessage,
    /// The sender's role on the session (RFC 9234).
    Role(Role),
    /// Graceful restart (RFC 4724, RFC 8538).
    GracefulRestart(GracefulRestartCapability),
    /// The sender's AS number in four octets (RFC 6793).
    FourOctetAs(Asn),
    /// Several paths per prefix (RFC 7911). Tuples with an unknown mode are left out.
    AddPath(Vec<AddPath>),
    /// BoRR and EoRR are understood (RFC 7313).
    EnhancedRouteRefresh,
    /// Long-lived graceful restart (RFC 9494). Means nothing without `GracefulRestart`.
    LongLivedGracefulRestart(Vec<LongLivedFamily>),
    /// The sender's names, for people.
    Fqdn {
        /// Host name.
        host: String,
        /// Domain name, empty where the sender left it out.
        domain: String,
    },
    /// A link-local address alone is a good IPv6 next hop.
    LinkLocalNextHop,
    /// Any other.
    Unknown {
        /// Capability code.
        code: u8,
        /// Its value.
        data: Bytes,
    },
}

/// One tuple of the extended next hop capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExtendedNextHop {
    /// The prefixes' family.
    pub family: Family,
    /// The AFI their next hop may have.
    pub next_hop_afi: Afi,
}

/// BGP roles (RFC 9234 §3): what the sender is to the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Provider of transit.
    Provider,
    /// Route server.
    RouteServer,
    /// Client of a route server.
    RouteServerClient,
    /// Customer of transit.
    Customer,
    /// Peer without transit either way.
    Peer,
    /// A number the registry did not assign.
    Other(u8),
}

impl Role {
    /// Whether two speakers with these roles agree on what they are to each other.
    #[must_use]
    pub const fn fits(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Provider, Self::Customer)
                | (Self::Customer, Self::Provider)
                | (Self::RouteServer, Self::RouteServerClient)
                | (Self::RouteServerClient, Self::RouteServer)
                | (Self::Peer, Self::Peer)
        )
    }
}

/// Value of the graceful restart capability.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct GracefulRestartCapability {
    /// R: the sender has restarted and waits for our End-of-RIB.
    pub restarting: bool,
    /// N: NOTIFICATION and hold timer expiry keep routes too (RFC 8538).
    pub notification: bool,
    /// Seconds until the sender expects to be back, 0 to 4095.
    pub restart_time: u16,
    /// Families whose routes shall be kept. None at all means the sender only promises
    /// End-of-RIB.
    pub families: Vec<GracefulRestartFamily>,
}

/// One family of the graceful restart capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GracefulRestartFamily {
    /// The family.
    pub family: Family,
    /// F: the sender kept forwarding through its last restart.
    pub forwarding: bool,
}

/// One family of the long-lived graceful restart capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LongLivedFamily {
    /// The family.
    pub family: Family,
    /// F: the sender kept forwarding through its last restart.
    pub forwarding: bool,
    /// Seconds routes shall be kept after the restart time ran out, 0 to 16777215.
    pub stale_time: u32,
}

/// One tuple of the ADD-PATH capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddPath {
    /// The family.
    pub family: Family,
    /// The direction.
    pub mode: AddPathMode,
}

/// What the sender of an ADD-PATH tuple offers to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddPathMode {
    /// Receive several paths.
    Receive,
    /// Send several paths.
    Send,
    /// Both.
    Both,
}

impl AddPathMode {
    /// Whether the sender of the tuple takes several paths.
    #[must_use]
    pub const fn receives(self) -> bool {
        matches!(self, Self::Receive | Self::Both)
    }

    /// Whether the sender of the tuple wants to send several paths.
    #[must_use]
    pub const fn sends(self) -> bool {
        matches!(self, Self::Send | Self::Both)
    }
}

/// What nom reports when octets do not fit; only that they do not is of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl<I> nom::error::ParseError<I> for Malformed {
    fn from_error_kind(_: I, _: nom::error::ErrorKind) -> Self {
        Self
    }

    fn append(_: I, _: nom::error::ErrorKind, other: Self) -> Self {
        other
    }
}

type Parsed<'a, T> = IResult<&'a [u8], T, Malformed>;

/// Reads a whole value, nothing left over.
fn whole<'a, T>(
    parser: impl Parser<&'a [u8], Output = T, Error = Malformed>,
    value: &'a [u8],
) -> Result<T, Malformed> {
    all_consuming(parser)
        .parse(value)
        .map(|(_, parsed)| parsed)
        .map_err(|_| Malformed)
}

/// AFI and SAFI without anything between them.
fn family(input: &[u8]) -> Parsed<'_, Family> {
    (be_u16, be_u8)
        .map(|(afi, safi)| Family::new(Afi(afi), Safi(safi)))
        .parse(input)
}

/// AFI, a reserved octet, SAFI.
fn multiprotocol(input: &[u8]) -> Parsed<'_, Family> {
    (be_u16, be_u8, be_u8)
        .map(|(afi, _, safi)| Family::new(Afi(afi), Safi(safi)))
        .parse(input)
}

/// AFI, SAFI in two octets, AFI of the next hop; `None` for a SAFI no other field could hold.
fn extended_next_hop(input: &[u8]) -> Parsed<'_, Option<ExtendedNextHop>> {
    (be_u16, be_u16, be_u16)
        .map(|(afi, safi, next_hop_afi)| {
            Some(ExtendedNextHop {
                family: Family::new(Afi(afi), Safi(u8::try_from(safi).ok()?)),
                next_hop_afi: Afi(next_hop_afi),
            })
        })
        .parse(input)
}

fn graceful_restart(input: &[u8]) -> Parsed<'_, GracefulRestartCapability> {
    let one_family = (family, be_u8).map(|(family, flags)| GracefulRestartFamily {
        family,
        forwarding: flags & 0x80 != 0,
    });
    (be_u16, many0(one_family))
        .map(|(head, families)| GracefulRestartCapability {
            restarting: head & 0x8000 != 0,
            notification: head & 0x4000 != 0,
            restart_time: head & 0x0fff,
            families,
        })
        .parse(input)
}

fn long_lived_family(input: &[u8]) -> Parsed<'_, LongLivedFamily> {
    (family, be_u8, be_u24)
        .map(|(family, flags, stale_time)| LongLivedFamily {
            family,
            forwarding: flags & 0x80 != 0,
            stale_time,
        })
        .parse(input)
}

fn add_path(input: &[u8]) -> Parsed<'_, Option<AddPath>> {
    (family, be_u8)
        .map(|(family, mode)| {
            let mode = match mode {
                1 => AddPathMode::Receive,
                2 => AddPathMode::Send,
                3 => AddPathMode::Both,
                _ => return None,
            };
            Some(AddPath { family, mode })
        })
        .parse(input)
}

/// BIRD leaves the domain out altogether.
fn fqdn(value: &[u8]) -> Option<Capability> {
    let parser = (
        length_data(be_u8::<&[u8], Malformed>),
        opt(length_data(be_u8)),
        rest,
    );
    let (host, domain, _) = whole(parser, value).ok()?;
    let text = |octets: &[u8]| std::str::from_utf8(octets).map(str::to_owned).ok();
    Some(Capability::Fqdn {
        host: text(host)?,
        domain: text(domain.unwrap_or_default())?,
    })
}

/// Code and value of the next capability of a parameter.
fn tlv(input: &[u8]) -> Parsed<'_, (u8, &[u8])> {
    let (input, (number, len)) = (be_u8, be_u8).parse(input)?;
    let (input, value) = take(len).parse(input)?;
    Ok((input, (number, value)))
}

impl Capability {
    /// Reads the value of an optional parameter of type Capabilities.
    pub(crate) fn decode_all(mut input: &[u8], out: &mut Vec<Self>) -> Result<(), Malformed> {
        while !input.is_empty() {
            let (rest, (number, value)) = tlv(input).map_err(|_| Malformed)?;
            out.push(Self::decode(number, value)?);
            input = rest;
        }
        Ok(())
    }

    fn decode(number: u8, value: &[u8]) -> Result<Self, Malformed> {
        let empty = |capability| {
            if value.is_empty() {
                Ok(capability)
            } else {
                Err(Malformed)
            }
        };
        let unknown = || Self::Unknown {
            code: number,
            data: Bytes::copy_from_slice(value),
        };
        match number {
            code::MULTIPROTOCOL => whole(multiprotocol, value).map(Self::Multiprotocol),
            code::ROUTE_REFRESH | code::ROUTE_REFRESH_CISCO => empty(Self::RouteRefresh),
            code::EXTENDED_NEXT_HOP => whole(many0(extended_next_hop), value)
                .map(|tuples| Self::ExtendedNextHop(tuples.into_iter().flatten().collect())),
            code::EXTENDED_MESSAGE => empty(Self::ExtendedMessage),
            code::ROLE => whole(be_u8, value).map(|role| Self::Role(Role::from_u8(role))),
            code::GRACEFUL_RESTART => whole(graceful_restart, value).map(Self::GracefulRestart),
            code::FOUR_OCTET_AS => whole(be_u32, value).map(|asn| Self::FourOctetAs(Asn(asn))),
            code::ADD_PATH => whole(many0(add_path), value)
                .map(|tuples| Self::AddPath(tuples.into_iter().flatten().collect())),
            code::ENHANCED_ROUTE_REFRESH => empty(Self::EnhancedRouteRefresh),
            code::LONG_LIVED_GRACEFUL_RESTART => {
                whole(many0(long_lived_family), value).map(Self::LongLivedGracefulRestart)
            }
            // Drafts: what does not look as expected may be another draft's idea of the code.
            code::FQDN => Ok(fqdn(value).unwrap_or_else(unknown)),
            code::LINK_LOCAL_NEXT_HOP if value.is_empty() => Ok(Self::LinkLocalNextHop),
            _ => Ok(unknown()),
        }
    }

    /// The code it is announced with.
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Self::Multiprotocol(_) => code::MULTIPROTOCOL,
            Self::RouteRefresh => code::ROUTE_REFRESH,
            Self::ExtendedNextHop(_) => code::EXTENDED_NEXT_HOP,
            Self::ExtendedMessage => code::EXTENDED_MESSAGE,
            Self::Role(_) => code::ROLE,
            Self::GracefulRestart(_) => code::GRACEFUL_RESTART,
            Self::FourOctetAs(_) => code::FOUR_OCTET_AS,
            Self::AddPath(_) => code::ADD_PATH,
            Self::EnhancedRouteRefresh => code::ENHANCED_ROUTE_REFRESH,
            Self::LongLivedGracefulRestart(_) => code::LONG_LIVED_GRACEFUL_RESTART,
            Self::Fqdn { .. } => code::FQDN,
            Self::LinkLocalNextHop => code::LINK_LOCAL_NEXT_HOP,
            Self::Unknown { code, .. } => *code,
        }
    }

    /// Appends code, length and value: what an OPEN lists, and what a NOTIFICATION about a
    /// missing capability holds (RFC 5492 §3).
    ///
    /// # Errors
    /// The value exceeds 255 octets.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let family = |family: Family, out: &mut Vec<u8>| {
            out.extend(family.afi.0.to_be_bytes());
            out.push(family.safi.0);
        };
        let forwarding = |kept| if kept { 0x80 } else { 0 };
        out.extend([self.code(), 0]);
        let start = out.len();
        match self {
            Self::Multiprotocol(Family { afi, safi }) => {
                out.extend(afi.0.to_be_bytes());
                out.extend([0, safi.0]);
            }
            Self::RouteRefresh
            | Self::ExtendedMessage
            | Self::EnhancedRouteRefresh
            | Self::LinkLocalNextHop => {}
            Self::ExtendedNextHop(tuples) => {
                for tuple in tuples {
                    out.extend(tuple.family.afi.0.to_be_bytes());
                    out.extend([0, tuple.family.safi.0]);
                    out.extend(tuple.next_hop_afi.0.to_be_bytes());
                }
            }
            Self::Role(role) => out.push(role.to_u8()),
            Self::GracefulRestart(value) => {
                let flags = u16::from(value.restarting) << 15 | u16::from(value.notification) << 14;
                out.extend((flags | value.restart_time.min(0x0fff)).to_be_bytes());
                for entry in &value.families {
                    family(entry.family, out);
                    out.push(forwarding(entry.forwarding));
                }
            }
            Self::FourOctetAs(asn) => out.extend(asn.0.to_be_bytes()),
            Self::AddPath(tuples) => {
                for tuple in tuples {
                    family(tuple.family, out);
                    out.push(match tuple.mode {
                        AddPathMode::Receive => 1,
                        AddPathMode::Send => 2,
                        AddPathMode::Both => 3,
                    });
                }
            }
            Self::LongLivedGracefulRestart(families) => {
                for entry in families {
                    family(entry.family, out);
                    let [_, time @ ..] = entry.stale_time.min(0x00ff_ffff).to_be_bytes();
                    out.push(forwarding(entry.forwarding));
                    out.extend(time);
                }
            }
            Self::Fqdn { host, domain } => {
                for name in [host, domain] {
                    out.push(
                        u8::try_from(name.len()).map_err(|_| EncodeError::TooLong("host name"))?,
                    );
                    out.extend(name.as_bytes());
                }
            }
            Self::Unknown { data, .. } => out.extend(data),
        }
        let length =
            u8::try_from(out.len() - start).map_err(|_| EncodeError::TooLong("capability"))?;
        if let Some(field) = out.get_mut(start - 1) {
            *field = length;
        }
        Ok(())
    }
}

impl Role {
    const fn from_u8(number: u8) -> Self {
        match number {
            0 => Self::Provider,
            1 => Self::RouteServer,
            2 => Self::RouteServerClient,
            3 => Self::Customer,
            4 => Self::Peer,
            other => Self::Other(other),
        }
    }

    const fn to_u8(self) -> u8 {
        match self {
            Self::Provider => 0,
            Self::RouteServer => 1,
            Self::RouteServerClient => 2,
            Self::Customer => 3,
            Self::Peer => 4,
            Self::Other(other) => other,
        }
    }
}
