//! Lists of prefixes (RFC 4271 §4.3, RFC 7911 §3): the innermost loop of receiving a table.

use bytes::{BufMut, BytesMut};

use super::update::{Nlri, PathId};
use crate::family::Family;
use crate::prefix::{Ipv4Prefix, Ipv6Prefix, Prefix};

/// Most octets a prefix takes apart from its path identifier: length and IPv6 address.
const MAX_PREFIX_LEN: usize = 1 + 16;

/// Why a list cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NlriError {
    /// More bits than the address has.
    TooLong,
    /// The last prefix goes past the end.
    Overrun,
}

impl NlriError {
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "prefix longer than its address",
            Self::Overrun => "prefix list cut off",
        }
    }
}

/// Appends the prefixes of a list to `out`. Bits behind the length are ignored as RFC 4271 §4.3
/// has it. After an error `out` holds what came before it.
///
/// `family` is IPv4 or IPv6 unicast; of others there is nothing to be known about the form of
/// their NLRI, and callers do not ask.
pub(crate) fn read(
    family: Family,
    octets: &[u8],
    path_ids: bool,
    out: &mut Vec<Nlri>,
) -> Result<(), NlriError> {
    // A /24 takes four octets and a /48 seven; longer lists of shorter prefixes grow once, and by no more than they need.
    let id_len = if path_ids { 4 } else { 0 };
    match family {
        Family::IPV4_UNICAST => {
            out.reserve_exact(octets.len().div_ceil(4 + id_len));
            read_list::<4>(octets, path_ids, out, |bits, len| {
                Prefix::V4(Ipv4Prefix::masked(u32::from_be_bytes(bits), len))
            })
        }
        _ => {
            out.reserve_exact(octets.len().div_ceil(7 + id_len));
            read_list::<16>(octets, path_ids, out, |bits, len| {
                Prefix::V6(Ipv6Prefix::masked(u128::from_be_bytes(bits), len))
            })
        }
    }
}

#[inline]
fn read_list<const N: usize>(
    mut octets: &[u8],
    path_ids: bool,
    out: &mut Vec<Nlri>,
    prefix: impl Fn([u8; N], u8) -> Prefix,
) -> Result<(), NlriError> {
    while !octets.is_empty() {
        if out.len() == out.capacity() {
            out.reserve_exact(count(octets, path_ids));
        }
        let mut path_id = None;
        if path_ids {
            let (&id, rest) = octets.split_first_chunk().ok_or(NlriError::Overrun)?;
            path_id = Some(PathId(u32::from_be_bytes(id)));
            octets = rest;
        }
        let (&len, rest) = octets.split_first().ok_or(NlriError::Overrun)?;
        if usize::from(len) > N * 8 {
            return Err(NlriError::TooLong);
        }
        let (address, rest) = rest
            .split_at_checked(usize::from(len.div_ceil(8)))
            .map(|(address, after)| {
                (
                    rest.first_chunk()
                        .copied()
                        .unwrap_or_else(|| padded(address)),
                    after,
                )
            })
            .ok_or(NlriError::Overrun)?;
        // Far from the end a whole address was read, into the next prefix; the mask drops that.
        out.push(Nlri {
            prefix: prefix(address, len),
            path_id,
        });
        octets = rest;
    }
    Ok(())
}

/// How many prefixes a list begins with that end in it.
#[cold]
fn count(mut octets: &[u8], path_ids: bool) -> usize {
    let id_len = if path_ids { 4 } else { 0 };
    let mut count = 0;
    while let Some(len) = octets.get(id_len)
        && let Some(rest) = octets.get(id_len + 1 + usize::from(len.div_ceil(8))..)
    {
        octets = rest;
        count += 1;
    }
    count
}

/// The octets followed by zeros.
fn padded<const N: usize>(octets: &[u8]) -> [u8; N] {
    let mut address = [0; N];
    for (to, from) in address.iter_mut().zip(octets) {
        *to = *from;
    }
    address
}

/// Octets the prefix takes in a list.
pub(crate) fn encoded_len(nlri: &Nlri) -> usize {
    let id_len = if nlri.path_id.is_some() { 4 } else { 0 };
    id_len + 1 + usize::from(nlri.prefix.len().div_ceil(8))
}

/// Octets the longest prefix of a family takes in a list.
pub(crate) const fn max_encoded_len(family: Family, path_ids: bool) -> usize {
    let id_len = if path_ids { 4 } else { 0 };
    let address_len = match family {
        Family::IPV4_UNICAST => 4,
        _ => 16,
    };
    id_len + 1 + address_len
}

/// Appends one prefix, its path identifier included if it has one.
#[inline]
pub(crate) fn write(nlri: &Nlri, out: &mut BytesMut) {
    if let Some(PathId(id)) = nlri.path_id {
        out.put_u32(id);
    }
    // The whole address first and the excess taken back: copies of a fixed size are moves, those
    // of a variable one are calls.
    let len = nlri.prefix.len();
    let mut octets = [len; MAX_PREFIX_LEN];
    let excess = match nlri.prefix {
        Prefix::V4(prefix) => {
            let [_, address @ ..] = &mut octets;
            if let Some(address) = address.first_chunk_mut() {
                *address = prefix.bits().to_be_bytes();
            }
            out.put_slice(
                octets
                    .first_chunk::<5>()
                    .map_or(&[], |octets| octets.as_slice()),
            );
            4 - len.div_ceil(8)
        }
        Prefix::V6(prefix) => {
            let [_, address @ ..] = &mut octets;
            *address = prefix.bits().to_be_bytes();
            out.put_slice(&octets);
            16 - len.div_ceil(8)
        }
    };
    out.truncate(out.len() - usize::from(excess));
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;

    fn list(family: Family, octets: &[u8], path_ids: bool) -> Result<Vec<String>, NlriError> {
        let mut out = Vec::new();
        read(family, octets, path_ids, &mut out)?;
        Ok(out.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn ipv4_lists_are_read_to_their_last_octet() {
        let octets = hex!("1a0a410000 1a0a410040 190a410180 100a42 00");
        assert_eq!(
            list(Family::IPV4_UNICAST, &octets, false).unwrap(),
            [
                "10.65.0.0/26",
                "10.65.0.64/26",
                "10.65.1.128/25",
                "10.66.0.0/16",
                "0.0.0.0/0"
            ]
        );
    }

    #[test]
    fn path_identifiers_precede_each_prefix() {
        assert_eq!(
            list(
                Family::IPV4_UNICAST,
                &hex!("00000007 1a0a410000 00000000 00"),
                true
            )
            .unwrap(),
            ["10.65.0.0/26 path 7", "0.0.0.0/0 path 0"]
        );
        assert_eq!(
            list(Family::IPV4_UNICAST, &hex!("000000"), true),
            Err(NlriError::Overrun)
        );
    }

    #[test]
    fn the_shortest_prefixes_take_no_more_room_than_they_need() {
        for path_ids in [false, true] {
            let one = if path_ids { &[0; 5][..] } else { &[0] };
            let octets = one.repeat(4000);
            let mut out = Vec::new();
            read(Family::IPV4_UNICAST, &octets, path_ids, &mut out).unwrap();
            assert_eq!((out.len(), out.capacity()), (4000, 4000));
            // Behind others, as withdrawals of both kinds are, too.
            read(Family::IPV6_UNICAST, &octets, path_ids, &mut out).unwrap();
            assert_eq!((out.len(), out.capacity()), (8000, 8000));
        }
        let mut out = Vec::new();
        let cut_off = [&[0; 100][..], &[24, 1]].concat();
        let error = read(Family::IPV4_UNICAST, &cut_off, false, &mut out);
        assert_eq!(error, Err(NlriError::Overrun));
        assert_eq!(out.len(), 100);
    }

    #[test]
    fn host_bits_are_masked() {
        assert_eq!(
            list(Family::IPV4_UNICAST, &hex!("09 ffff"), false).unwrap(),
            ["255.128.0.0/9"]
        );
        assert_eq!(
            list(Family::IPV6_UNICAST, &hex!("03 ff"), false).unwrap(),
            ["e000::/3"]
        );
    }

    #[test]
    fn too_long_and_cut_off_prefixes_are_refused() {
        assert_eq!(
            list(Family::IPV4_UNICAST, &hex!("21 0a00000000"), false),
            Err(NlriError::TooLong)
        );
        assert_eq!(
            list(Family::IPV6_UNICAST, &[129; 40], false),
            Err(NlriError::TooLong)
        );
        assert_eq!(
            list(Family::IPV4_UNICAST, &hex!("18 0a00"), false),
            Err(NlriError::Overrun)
        );
    }
}
