//! However a stream of octets is cut on its way, the same messages come out of it, the same error ends it, and the same octets
//! are left; nothing is read twice, and what is read does not depend on what was read before.
//!
//! The first two octets choose the context, the third how many of the following ones are sizes of pieces; the rest is the
//! stream. Markers are put in where the fourth octet says so, or nothing would ever be framed.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use margay_bgp::codec::{DecodeError, Decoder, Frame, decode, framing};
use margay_bgp_fuzz::{Choices, context};

/// Frames, the error that ended them, and what is left.
fn frames(
    octets: &[u8],
    mut sizes: impl Iterator<Item = usize>,
    max_len: usize,
) -> (Vec<Frame>, Option<DecodeError>, BytesMut) {
    let (mut buffer, mut rest, mut list) = (BytesMut::new(), octets, Vec::new());
    loop {
        let size = sizes.next().unwrap_or(rest.len()).min(rest.len());
        let (piece, behind) = rest.split_at(size);
        rest = behind;
        buffer.extend_from_slice(piece);
        loop {
            match framing::split(&mut buffer, max_len) {
                Ok(None) => break,
                Ok(Some(frame)) => list.push(frame),
                Err(error) => {
                    buffer.extend_from_slice(rest);
                    return (list, Some(error), buffer);
                }
            }
        }
        if rest.is_empty() {
            return (list, None, buffer);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let [high, low, count, marked, rest @ ..] = data else {
        return;
    };
    let context = context(u16::from_be_bytes([*high, *low]));
    let (sizes, body) = rest.split_at(usize::from(*count).min(rest.len()));
    // Whole messages of lengths the input chooses, unless the octets are to stand as they are.
    let mut octets = Vec::new();
    let mut choices = Choices::new(body);
    if marked & 1 == 0 {
        while !choices.is_empty() {
            octets.extend([0xff; 16]);
            let (kind, lie) = (choices.octet() % 6, choices.octet());
            let own = choices.octets(255);
            let length = own.len() + 19 + if lie == 1 { 1 } else { 0 };
            octets.extend(u16::try_from(length).expect("short").to_be_bytes());
            octets.push(kind);
            octets.extend(own);
        }
    } else {
        octets.extend(body);
    }
    let max_len = context.max_receive_len();
    let whole = frames(&octets, std::iter::empty(), max_len);
    let cut = frames(
        &octets,
        sizes.iter().map(|size| usize::from(*size)),
        max_len,
    );
    let single = frames(&octets, std::iter::repeat_n(1, octets.len()), max_len);
    assert_eq!(whole, cut);
    assert_eq!(whole, single);
    let read: usize = whole.0.iter().map(|frame| frame.octets.len()).sum();
    assert_eq!(
        read + whole.2.len(),
        octets.len(),
        "octets lost or read twice"
    );
    let mut decoder = Decoder::new(context);
    for frame in &whole.0 {
        assert_eq!(
            decoder.decode(&frame.octets),
            decode(&frame.octets, &context),
            "what was read before matters"
        );
    }
});
