//! What is written is read as it was meant, however it is cut on the way; and where attributes of it are damaged, only
//! the routes of that message suffer, as the reference says they must (`tests/reference`).
//!
//! Also the other way round: what is read of a damaged message can be written, and then says the same for ever
//! (`encode(decode(x))` is a normal form).

#![no_main]

use std::collections::BTreeSet;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use margay_bgp::codec::{
    CodecContext, EncodeError, Message, NextHop, Nlri, Update, attributes_block, decode,
    encode_announcements, encode_end_of_rib, encode_withdrawals, framing,
};
use margay_bgp::family::Family;
use margay_bgp_fuzz::{Choices, hold_against_reference, judge};

/// The UPDATEs of `octets`, which arrive in pieces of sizes the input chooses.
fn receive(octets: &[u8], context: &CodecContext, choices: &mut Choices<'_>) -> Vec<Update> {
    let mut updates = Vec::new();
    let mut buffer = BytesMut::new();
    let mut rest = octets;
    while !rest.is_empty() {
        let size = match choices.octet() {
            0 => rest.len(),
            size => usize::from(size).min(rest.len()),
        };
        let (piece, later) = rest.split_at(size);
        rest = later;
        buffer.extend_from_slice(piece);
        while let Some(frame) =
            framing::split(&mut buffer, context.max_receive_len()).expect("written messages")
        {
            assert!(frame.octets.len() <= context.max_send_len());
            judge(&frame.octets, context.add_path_send);
            match decode(&frame.octets, context) {
                Ok(Message::Update(update)) => {
                    assert!(update.faults.is_empty(), "{:?}", update.faults);
                    updates.push(update);
                }
                other => panic!("expected an UPDATE, got {other:?}"),
            }
        }
    }
    assert!(buffer.is_empty(), "half a message");
    updates
}

fn announced(update: &Update) -> impl Iterator<Item = Nlri> {
    update
        .announced
        .iter()
        .flat_map(|one| one.nlri.iter().copied())
}

/// Damages one attribute of an announcement: its flags, its type, its value, or its own length with the block's adjusted; or
/// says it twice, elsewhere, not at all, or with a length that is not its own.
fn damage(message: &mut Vec<u8>, choices: &mut Choices<'_>) -> Option<u8> {
    if !types(message).1 {
        // What is where is no longer known.
        return None;
    }
    let mut at = 23;
    let end = 23 + usize::from(u16::from_be_bytes([message[21], message[22]]));
    let mut spans = Vec::new();
    while at < end {
        let long = message[at] & 0x10 != 0;
        let (header, size) = if long {
            (
                4,
                usize::from(u16::from_be_bytes([message[at + 2], message[at + 3]])),
            )
        } else {
            (3, usize::from(message[at + 2]))
        };
        spans.push((at, header, size));
        at += header + size;
    }
    let (at, header, size) = *spans.get(usize::from(choices.octet()) % spans.len().max(1))?;
    let code = message[at + 1];
    match choices.below(9) {
        // The length's width is part of the framing; it stays.
        0 => message[at] = choices.octet() & 0xef | message[at] & 0x10,
        1 => message[at + 1] = choices.octet(),
        2 if size > 0 => {
            let place = at + header + usize::from(choices.octet()) % size;
            message[place] = choices.octet();
        }
        3 if header == 3 && size > 0 => {
            message.remove(at + header + size - 1);
            message[at + 2] -= 1;
            adjust(message, -1);
        }
        4 if header == 3 && size < 255 => {
            message.insert(at + header + size, choices.octet());
            message[at + 2] += 1;
            adjust(message, 1);
        }
        5 if message.len() + header + size < 4096 => {
            let again = message[at..at + header + size].to_vec();
            let (place, ..) = spans[usize::from(choices.octet()) % spans.len()];
            message.splice(place..place, again);
            adjust(message, i16::try_from(header + size).expect("short"));
        }
        6 => {
            message.drain(at..at + header + size);
            adjust(message, -i16::try_from(header + size).expect("short"));
        }
        7 => {
            let moved: Vec<u8> = message.drain(at..at + header + size).collect();
            message.splice(23..23, moved);
        }
        8 => message[at + header - 1] = choices.octet(),
        _ => {}
    }
    Some(code)
}

/// Types of the attributes that can be found in the list, and whether it adds up.
fn types(message: &[u8]) -> (BTreeSet<u8>, bool) {
    let end = 23 + usize::from(u16::from_be_bytes([message[21], message[22]]));
    let (mut at, mut types) = (23, BTreeSet::new());
    while at + 4 < end {
        let long = message[at] & 0x10 != 0;
        let (header, size) = if long {
            (
                4,
                usize::from(u16::from_be_bytes([message[at + 2], message[at + 3]])),
            )
        } else {
            (3, usize::from(message[at + 2]))
        };
        types.insert(message[at + 1]);
        at += header + size;
    }
    (types, at == end)
}

/// The message grew or shrank by so many octets of attributes.
fn adjust(message: &mut [u8], by: i16) {
    for field in [16, 21] {
        let length = u16::from_be_bytes([message[field], message[field + 1]]);
        message[field..field + 2].copy_from_slice(&length.wrapping_add_signed(by).to_be_bytes());
    }
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let context = CodecContext {
        families: margay_bgp::family::FamilySet::all(),
        enforce_first_as: None,
        ..choices.context()
    };
    let family = if choices.flag() {
        Family::IPV6_UNICAST
    } else {
        Family::IPV4_UNICAST
    };
    let mut out = BytesMut::new();
    match choices.below(8) {
        0 => {
            encode_end_of_rib(family, &mut out);
            let updates = receive(&out, &context, &mut choices);
            assert_eq!(updates.len(), 1);
            assert_eq!(updates[0].end_of_rib, Some(family));
        }
        1 => {
            let nlri = choices.nlri(family, &context, 256);
            encode_withdrawals(family, nlri.iter().copied(), &context, &mut out)
                .expect("prefixes of one family");
            let updates = receive(&out, &context, &mut choices);
            let received: Vec<Nlri> = updates
                .into_iter()
                .flat_map(|update| update.withdrawn)
                .collect();
            assert_eq!(received, nlri);
        }
        _ => {
            let attributes = choices.attributes();
            let next_hop = choices.next_hop(family, &context);
            let nlri = choices.nlri(family, &context, 64);
            let Ok(block) = attributes_block(&attributes, &context) else {
                return;
            };
            match encode_announcements(
                &block,
                next_hop,
                family,
                nlri.iter().copied(),
                &context,
                &mut out,
            ) {
                Ok(()) => {}
                Err(EncodeError::AttributesTooLong { .. }) => return,
                Err(error) => panic!("{error}"),
            }
            let mut expected = attributes;
            if context.peer_is_external {
                expected.local_pref = None;
                expected.originator_id = None;
                expected.cluster_list.clear();
            }
            let updates = receive(&out, &context, &mut choices);
            let mut received = Vec::new();
            for update in &updates {
                assert_eq!(update.attributes.as_deref(), Some(&expected));
                assert!(update.announced.iter().all(|one| one.next_hop == next_hop));
                received.extend(announced(update));
            }
            assert_eq!(received, nlri);

            let first = usize::from(u16::from_be_bytes([out[16], out[17]]));
            let mut message = out[..first].to_vec();
            let mut codes = BTreeSet::new();
            for _ in 0..=choices.below(3) {
                codes.extend(damage(&mut message, &mut choices));
            }
            let result = decode(&message, &context);
            hold_against_reference(&message, &context, &result);
            let Ok(Message::Update(update)) = result else {
                return;
            };
            if update.was_treated_as_withdraw() {
                assert!(
                    update.announced.is_empty(),
                    "a malformed announcement was used"
                );
            }
            // Damage to the attributes that carry no prefixes leaves every prefix known: used or withdrawn, none else.
            let classic = family == Family::IPV4_UNICAST && matches!(next_hop, NextHop::V4(_));
            codes.extend(types(&message).0);
            if classic && !codes.iter().any(|code| matches!(code, 14 | 15)) {
                let mut left: Vec<Nlri> = announced(&update)
                    .chain(update.withdrawn.iter().copied())
                    .collect();
                let mut whole: Vec<Nlri> = announced(&updates[0]).collect();
                for list in [&mut left, &mut whole] {
                    list.sort_unstable();
                    list.dedup();
                }
                assert_eq!(left, whole, "prefixes were forgotten or made up");
            }
            let mut normal = BytesMut::new();
            match Message::Update(update).encode(&context, &mut normal) {
                Ok(()) => {}
                Err(EncodeError::AttributesTooLong { .. }) => return,
                Err(error) => panic!("{error}"),
            }
            let mut again = BytesMut::new();
            for update in receive(&normal, &context, &mut choices) {
                Message::Update(update)
                    .encode(&context, &mut again)
                    .expect("it was written before");
            }
            assert_eq!(normal, again, "not a normal form");
        }
    }
});
