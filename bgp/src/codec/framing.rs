//! Whole messages out of a byte stream (RFC 4271 §4.1, §6.1).
//!
//! The header is judged as soon as its 19 octets are there, so a peer that announces a length we
//! will not take is refused before a single octet of the body is waited for or stored.

use bytes::{BufMut, Bytes, BytesMut};

use super::error::DecodeError;
use super::iana::MessageType;
use super::{HEADER_LEN, MAX_LEN};

const MARKER: [u8; 16] = [0xff; 16];

/// One whole message, header included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub message_type: MessageType,
    /// Its octets: what [`decode`](super::decode) takes.
    pub octets: Bytes,
}

/// Type and length of the message `octets` start with; `None` while its header is incomplete.
/// The message itself may still be on its way.
///
/// `max_len` is the longest message taken apart from OPEN and KEEPALIVE, whose limits no
/// negotiation changes (RFC 8654 §3).
///
/// # Errors
/// The header is one no session survives.
pub fn peek(octets: &[u8], max_len: usize) -> Result<Option<(MessageType, usize)>, DecodeError> {
    let Some((header, _)) = octets.split_first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let [marker @ .., high, low, number] = *header;
    if marker != MARKER {
        return Err(DecodeError::Marker);
    }
    let wire_length = u16::from_be_bytes([high, low]);
    let length = usize::from(wire_length);
    if !(HEADER_LEN..=max_len).contains(&length) {
        return Err(DecodeError::MessageLength(wire_length));
    }
    let message_type = MessageType::from_u8(number).ok_or(DecodeError::MessageType(number))?;
    let longest = match message_type {
        MessageType::Open => MAX_LEN,
        MessageType::Keepalive => HEADER_LEN,
        MessageType::Update | MessageType::Notification | MessageType::RouteRefresh => max_len,
    };
    if !(message_type.min_len()..=longest).contains(&length) {
        return Err(DecodeError::MessageLength(wire_length));
    }
    Ok(Some((message_type, length)))
}

/// Takes the first message off `buffer`; `None` until it is there as a whole. What follows it
/// stays in the buffer. `max_len` as in [`peek`].
///
/// # Errors
/// The header is one no session survives. The buffer is left as it is.
pub fn split(buffer: &mut BytesMut, max_len: usize) -> Result<Option<Frame>, DecodeError> {
    let Some((message_type, length)) = peek(buffer, max_len)? else {
        return Ok(None);
    };
    if buffer.len() < length {
        // One allocation for the rest of the message, however it trickles in.
        buffer.reserve(length - buffer.len());
        return Ok(None);
    }
    Ok(Some(Frame {
        message_type,
        octets: buffer.split_to(length).freeze(),
    }))
}

/// Starts a message at the end of `out`; its length is filled in by [`finish`].
pub(crate) fn start(message_type: MessageType, out: &mut BytesMut) -> usize {
    let position = out.len();
    out.put_slice(&MARKER);
    out.put_u16(0);
    out.put_u8(message_type as u8);
    position
}

/// Fills in the length of the message that starts at `position` and ends with `out`. The caller
/// has kept to the limit; a longer message would be cut off by its own length field.
pub(crate) fn finish(position: usize, out: &mut BytesMut) {
    let length = out.len() - position;
    debug_assert!(
        length <= super::EXTENDED_MAX_LEN,
        "message of {length} octets"
    );
    put_length(out, position + MARKER.len(), length);
}

/// Overwrites the two octets at `position` with `length`.
pub(crate) fn put_length(out: &mut [u8], position: usize, length: usize) {
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    if let Some(field) = out.get_mut(position..).and_then(<[u8]>::first_chunk_mut) {
        *field = length.to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;
    use crate::codec::EXTENDED_MAX_LEN;

    fn header(length: u16, number: u8) -> Vec<u8> {
        let mut octets = vec![0xff; 16];
        octets.extend(length.to_be_bytes());
        octets.push(number);
        octets
    }

    #[test]
    fn a_marker_that_is_not_all_ones_is_refused() {
        let mut octets = header(19, 4);
        octets[7] = 0xfe;
        assert_eq!(peek(&octets, MAX_LEN), Err(DecodeError::Marker));
    }

    #[test]
    fn lengths_outside_the_bounds_are_refused_with_the_header_alone() {
        let refused = |length, number, max| {
            assert_eq!(
                peek(&header(length, number), max),
                Err(DecodeError::MessageLength(length)),
                "length {length} type {number}"
            );
        };
        for length in [0, 18, 4097, 65535] {
            for number in 1..=5 {
                refused(length, number, MAX_LEN);
            }
        }
        refused(22, 2, MAX_LEN);
        refused(28, 1, MAX_LEN);
        refused(20, 3, MAX_LEN);
        refused(22, 5, MAX_LEN);
        refused(20, 4, EXTENDED_MAX_LEN);
        refused(4097, 1, EXTENDED_MAX_LEN);
    }

    #[test]
    fn lengths_within_the_bounds_are_accepted() {
        assert_eq!(
            peek(&header(65535, 2), EXTENDED_MAX_LEN),
            Ok(Some((MessageType::Update, 65535)))
        );
        assert_eq!(
            peek(&header(4096, 1), MAX_LEN),
            Ok(Some((MessageType::Open, 4096)))
        );
        assert_eq!(
            peek(&header(19, 4), MAX_LEN),
            Ok(Some((MessageType::Keepalive, 19)))
        );
    }

    #[test]
    fn unknown_types_are_refused() {
        for number in [0, 6, 9, 255] {
            assert_eq!(
                peek(&header(19, number), MAX_LEN),
                Err(DecodeError::MessageType(number))
            );
        }
    }

    #[test]
    fn frames_do_not_depend_on_how_the_stream_is_cut() {
        let keepalive = hex!("ffffffffffffffffffffffffffffffff 0013 04");
        let refresh = hex!("ffffffffffffffffffffffffffffffff 0017 05 0001 00 01");
        let stream = [&keepalive[..], &refresh, &keepalive, &keepalive].concat();
        for chunk in 1..stream.len() {
            let mut buffer = BytesMut::new();
            let mut frames = Vec::new();
            for part in stream.chunks(chunk) {
                buffer.put_slice(part);
                while let Some(frame) = split(&mut buffer, MAX_LEN).unwrap() {
                    frames.push(frame.octets);
                }
            }
            assert_eq!(frames.concat(), stream, "chunks of {chunk}");
            assert_eq!(frames.len(), 4);
            assert!(buffer.is_empty());
        }
    }
}
