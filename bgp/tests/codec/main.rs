//! The codec against octets: worked examples, every fault of the attribute table, properties, and the same messages read by a reference.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a helper that panics fails the test that called it, which is what it is for"
)]

mod examples;
mod faults;
mod opens;
mod properties;
#[path = "../reference/mod.rs"]
mod reference;
mod shapes;
mod sweep;
mod values;

use std::fs;

use margay_bgp::asn::Asn;
use margay_bgp::codec::{CodecContext, Message, Update, decode};
use margay_bgp::family::FamilySet;

/// The message of a file under `tests/bytes`: hexadecimal digits, spaces and `#` comments.
#[track_caller]
fn bytes_of(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/bytes/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let digits: Vec<u8> = text
        .lines()
        .map(|line| line.split('#').next().unwrap())
        .flat_map(str::chars)
        .filter(|character| !character.is_whitespace())
        .map(|digit| u8::try_from(digit.to_digit(16).expect("hexadecimal digit")).unwrap())
        .collect();
    digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// An internal peer that agreed to both families and four-octet AS numbers.
fn internal() -> CodecContext {
    CodecContext {
        four_octet_as: true,
        families: FamilySet::all(),
        ..CodecContext::before_open()
    }
}

/// The external peer of the fault table, AS 64600.
fn external() -> CodecContext {
    CodecContext {
        peer_is_external: true,
        enforce_first_as: Some(Asn(64600)),
        ..internal()
    }
}

/// A message around `body`.
fn message(number: u8, body: &[u8]) -> Vec<u8> {
    let mut octets = vec![0xff; 16];
    octets.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    octets.push(number);
    octets.extend(body);
    octets
}

/// An UPDATE of these three parts.
fn update_message(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(u16::try_from(withdrawn.len()).unwrap().to_be_bytes());
    body.extend(withdrawn);
    body.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
    body.extend(attributes);
    body.extend(nlri);
    message(2, &body)
}

#[track_caller]
fn decode_update(octets: &[u8], context: &CodecContext) -> Update {
    match decode(octets, context) {
        Ok(Message::Update(update)) => update,
        other => panic!("expected an UPDATE, got {other:?}"),
    }
}
