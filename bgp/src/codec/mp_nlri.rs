//! MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760 §3, §4), their next hops (RFC 2545, RFC 8950).
//!
//! Both are split here into what they are made of; the prefixes stay octets until the whole
//! UPDATE is known to be worth reading them.

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::BufMut;
use nom::bytes::complete::take;
use nom::combinator::rest;
use nom::multi::length_data;
use nom::number::complete::{be_u8, be_u16};
use nom::{IResult, Parser};

use super::CodecContext;
use super::attribute::NextHop;
use super::capability::Malformed;
use super::error::EncodeError;
use crate::family::{Afi, Family, Safi};

/// MP_REACH_NLRI of a negotiated family.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MpReach<'a> {
    pub(crate) family: Family,
    pub(crate) next_hop: NextHop,
    pub(crate) nlri: &'a [u8],
}

/// MP_UNREACH_NLRI of a negotiated family.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MpUnreach<'a> {
    pub(crate) family: Family,
    pub(crate) nlri: &'a [u8],
}

/// Why an attribute is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MpError {
    /// It cannot be read.
    Malformed(&'static str),
    /// We did not agree on this family, so what it holds is none of our business.
    NotNegotiated(Family),
}

fn family(input: &[u8]) -> IResult<&[u8], Family, Malformed> {
    (be_u16, be_u8)
        .map(|(afi, safi)| Family::new(Afi(afi), Safi(safi)))
        .parse(input)
}

fn negotiated<'a>(value: &'a [u8], context: &CodecContext) -> Result<(Family, &'a [u8]), MpError> {
    let (after, family) =
        family(value).map_err(|_| MpError::Malformed("shorter than its family"))?;
    if context.families.has(family) {
        Ok((family, after))
    } else {
        Err(MpError::NotNegotiated(family))
    }
}

impl<'a> MpReach<'a> {
    pub(crate) fn decode(value: &'a [u8], context: &CodecContext) -> Result<Self, MpError> {
        let (family, after) = negotiated(value, context)?;
        // The octet after the next hop was the number of SNPAs once; whatever it says is ignored.
        let parsed: IResult<_, _, Malformed> =
            (length_data(be_u8), take(1_usize), rest).parse(after);
        let (_, (next_hop, _, nlri)) =
            parsed.map_err(|_| MpError::Malformed("next hop overruns the attribute"))?;
        let next_hop = match (family, next_hop.len()) {
            (Family::IPV4_UNICAST, 4) => next_hop
                .first_chunk::<4>()
                .map(|&octets| NextHop::V4(Ipv4Addr::from(octets))),
            (Family::IPV4_UNICAST, _) if !context.extended_next_hop => None,
            _ => read_ipv6(next_hop),
        };
        Ok(Self {
            family,
            next_hop: next_hop.ok_or(MpError::Malformed("next hop length"))?,
            nlri,
        })
    }
}

impl<'a> MpUnreach<'a> {
    pub(crate) fn decode(value: &'a [u8], context: &CodecContext) -> Result<Self, MpError> {
        negotiated(value, context).map(|(family, nlri)| Self { family, nlri })
    }
}

/// One or two addresses. Speakers disagree on how to say "link-local only": alone, twice, or
/// behind an unspecified address. All three are understood, and a second address that is not
/// link-local is ignored.
fn read_ipv6(octets: &[u8]) -> Option<NextHop> {
    let (addresses, []) = octets.as_chunks::<16>() else {
        return None;
    };
    let (first, second) = match *addresses {
        [first] => (Ipv6Addr::from(first), None),
        [first, second] => (Ipv6Addr::from(first), Some(Ipv6Addr::from(second))),
        _ => return None,
    };
    let link_local = second.filter(Ipv6Addr::is_unicast_link_local);
    Some(if first.is_unicast_link_local() {
        NextHop::V6 {
            global: None,
            link_local: link_local.or(Some(first)),
        }
    } else if first.is_unspecified() && link_local.is_some() {
        NextHop::V6 {
            global: None,
            link_local,
        }
    } else {
        NextHop::V6 {
            global: Some(first),
            link_local,
        }
    })
}

/// Appends the value of MP_REACH_NLRI up to where the prefixes start.
pub(crate) fn write_reach(
    family: Family,
    next_hop: NextHop,
    context: &CodecContext,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let refused = EncodeError::NextHop { next_hop, family };
    out.put_u16(family.afi.0);
    out.put_u8(family.safi.0);
    match next_hop {
        NextHop::V6 { .. } if family == Family::IPV4_UNICAST && !context.extended_next_hop => {
            return Err(refused);
        }
        NextHop::V4(addr) if family == Family::IPV4_UNICAST => {
            out.put_u8(4);
            out.put_u32(addr.to_bits());
        }
        NextHop::V4(_)
        | NextHop::V6 {
            global: None,
            link_local: None,
        } => return Err(refused),
        NextHop::V6 {
            global: Some(global),
            link_local: None,
        } => {
            out.put_u8(16);
            out.put_u128(global.to_bits());
        }
        NextHop::V6 {
            global: None,
            link_local: Some(link_local),
        } if context.link_local_next_hop => {
            out.put_u8(16);
            out.put_u128(link_local.to_bits());
        }
        // Twice rather than behind `::`, which some take for the address to resolve.
        NextHop::V6 {
            global,
            link_local: Some(link_local),
        } => {
            out.put_u8(32);
            out.put_u128(global.unwrap_or(link_local).to_bits());
            out.put_u128(link_local.to_bits());
        }
    }
    out.put_u8(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(addresses: &[&str]) -> Option<NextHop> {
        let octets: Vec<u8> = addresses
            .iter()
            .flat_map(|addr| addr.parse::<Ipv6Addr>().unwrap().octets())
            .collect();
        read_ipv6(&octets)
    }

    fn v6(global: Option<&str>, link_local: Option<&str>) -> Option<NextHop> {
        let parse = |text: &str| text.parse().unwrap();
        Some(NextHop::V6 {
            global: global.map(parse),
            link_local: link_local.map(parse),
        })
    }

    #[test]
    fn every_dialect_of_link_local_next_hops_is_understood() {
        assert_eq!(read(&["fe80::1"]), v6(None, Some("fe80::1")));
        assert_eq!(read(&["fe80::1", "fe80::1"]), v6(None, Some("fe80::1")));
        assert_eq!(read(&["::", "fe80::1"]), v6(None, Some("fe80::1")));
        assert_eq!(read(&["fe80::1", "::"]), v6(None, Some("fe80::1")));
        assert_eq!(
            read(&["2001:db8::1", "fe80::1"]),
            v6(Some("2001:db8::1"), Some("fe80::1"))
        );
        assert_eq!(
            read(&["2001:db8::1", "2001:db8::2"]),
            v6(Some("2001:db8::1"), None)
        );
        assert_eq!(
            read(&["::ffff:192.0.2.1"]),
            v6(Some("::ffff:192.0.2.1"), None)
        );
        assert_eq!(read(&[]), None);
        assert_eq!(read(&["::", "::", "::"]), None);
    }
}
