//! Every attribute type with every combination of flags, in many lengths and values, at every place of the list: what
//! becomes of session, routes and attribute is what a table says that was written from RFC 7606 and not from the codec.

use std::ops::RangeInclusive;

use margay_bgp::codec::{AttributeCode, CodecContext, Message, Notification, Update, decode};
use margay_bgp::family::FamilySet;

use crate::{external, internal, update_message};

/// What is to become of one more attribute in an announcement that is otherwise good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The route is used, with the attribute if we know it.
    Used,
    /// The route is used and carries the attribute as it came, marked as partial.
    PassedOn,
    /// The route is used without the attribute (RFC 7606 "attribute discard", or not ours to keep).
    Dropped,
    /// The route is withdrawn, the session stays.
    Withdrawn,
    /// The session ends with 3/9.
    Reset,
}

const OPTIONAL: u8 = 0x80;
const TRANSITIVE: u8 = 0x40;
const EXTENDED: u8 = 0x10;

/// Lengths around every limit of the attributes' own, and beyond what one octet counts.
const LENGTHS: [usize; 24] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 16, 19, 20, 21, 24, 36, 40, 41, 255, 256, 260,
];

/// The fate by the RFCs. Values are one octet, repeated.
fn fate(code: u8, flags: u8, length: usize, fill: u8, context: &CodecContext) -> Fate {
    let is_external = context.peer_is_external;
    let wide = context.four_octet_as;
    let pair = flags & (OPTIONAL | TRANSITIVE);
    let whole = |unit: usize| length > 0 && length.is_multiple_of(unit);
    let (expected, good) = match code {
        // Codes of 3 and more mean nothing.
        1 => (0x40, length == 1 && fill < 3),
        // Zero is no kind of segment, one is AS_SET (RFC 9774), 255 is no kind either. An external path begins with
        // the peer's AS, which an empty one does not.
        2 => (0x40, length == 0 && !is_external),
        3 => (0x40, length == 4),
        4 => (0x80, length == 4),
        5 | 9 | 10 if is_external => return Fate::Dropped,
        5 => (0x40, length == 4),
        9 => (0x80, length == 4 && fill != 0),
        10 => (0x80, whole(4) && fill != 0),
        8 => (0xc0, whole(4)),
        16 => (0xc0, whole(8)),
        25 => (0xc0, whole(20)),
        32 => (0xc0, whole(12)),
        35 => (0xc0, length == 4),
        // Discarded, not withdrawn, where malformed; flags are another matter (RFC 7606 §3 c).
        6 | 7 if pair != if code == 6 { 0x40 } else { 0xc0 } => return Fate::Withdrawn,
        6 if length != 0 => return Fate::Dropped,
        7 if length != if wide { 8 } else { 6 } || fill == 0 => return Fate::Dropped,
        6 | 7 => return Fate::Used,
        // A peer with four-octet numbers must not send them, and whatever it sends is let go (RFC 6793 §4.1).
        17 | 18 if wide => return Fate::Dropped,
        17 | 18 if pair != 0xc0 => return Fate::Withdrawn,
        // A set of one member is whole with six octets, and withdraws (RFC 9774 §3). What else one repeated octet makes is
        // malformed, or about an AGGREGATOR that is not there.
        17 if fill == 1 && length >= 6 => return Fate::Withdrawn,
        17 | 18 => return Fate::Dropped,
        14 | 15 => {
            // Families 0/0, 257/1 and 65535/255 were not negotiated: nothing behind their names is read.
            return if pair != 0x80 || length < 3 {
                Fate::Reset
            } else {
                Fate::Dropped
            };
        }
        // AIGP is optional and non-transitive, and not enabled (RFC 7311 §3): any form of it is let go.
        // Link state belongs to a family we do not speak (RFC 9552 §8.2.2).
        26 | 29 => return Fate::Dropped,
        _ if pair & OPTIONAL == 0 => return Fate::Withdrawn,
        _ if pair & TRANSITIVE == 0 => return Fate::Dropped,
        _ => return Fate::PassedOn,
    };
    if pair == expected && good {
        Fate::Used
    } else {
        Fate::Withdrawn
    }
}

/// One attribute; the length has two octets where the flags say so.
fn attribute(code: u8, flags: u8, length: usize, fill: u8) -> Vec<u8> {
    let mut octets = vec![flags, code];
    if flags & EXTENDED == 0 {
        octets.push(u8::try_from(length).unwrap());
    } else {
        octets.extend(u16::try_from(length).unwrap().to_be_bytes());
    }
    octets.resize(octets.len() + length, fill);
    octets
}

/// A good announcement with `one` at the given place of its list, in the stead of its namesake.
fn announcement(one: &[u8], place: usize, context: &CodecContext) -> Vec<u8> {
    const WIDE: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xfc, 0x58];
    const NARROW: &[u8] = &[0x40, 2, 4, 2, 1, 0xfc, 0x58];
    let good: [&[u8]; 4] = [
        &[0x40, 1, 1, 0],
        if context.four_octet_as { WIDE } else { NARROW },
        &[0x40, 3, 4, 192, 0, 2, 1],
        &[0xc0, 8, 4, 0xfc, 0x58, 0, 1],
    ];
    let mut list: Vec<&[u8]> = good.into_iter().filter(|good| good[1] != one[1]).collect();
    list.insert(place.min(list.len()), one);
    let id: &[u8] = if context.add_path_receive.is_empty() {
        &[]
    } else {
        &[0, 0, 0, 7]
    };
    update_message(&[], &list.concat(), &[id, &[26, 10, 65, 0, 0]].concat())
}

fn observed(update: &Update, code: u8) -> Fate {
    let announced: usize = update.announced.iter().map(|one| one.nlri.len()).sum();
    if announced == 0 {
        assert_eq!(
            update.withdrawn.len(),
            1,
            "the prefix was forgotten: {update:?}"
        );
        assert_eq!(update.attributes, None);
        return Fate::Withdrawn;
    }
    assert_eq!((announced, update.withdrawn.len()), (1, 0), "{update:?}");
    let attributes = update.attributes.as_ref().unwrap();
    let known = match code {
        1..=3 => true,
        4 => attributes.med.is_some(),
        5 => attributes.local_pref.is_some(),
        6 => attributes.atomic_aggregate,
        7 => attributes.aggregator.is_some(),
        8 => !attributes.communities.is_empty(),
        9 => attributes.originator_id.is_some(),
        10 => !attributes.cluster_list.is_empty(),
        16 => !attributes.extended_communities.is_empty(),
        25 => !attributes.ipv6_extended_communities.is_empty(),
        32 => !attributes.large_communities.is_empty(),
        35 => attributes.only_to_customer.is_some(),
        _ => false,
    };
    let passed = attributes
        .unknown
        .iter()
        .any(|unknown| unknown.code == AttributeCode(code));
    match (known, passed) {
        (true, false) => Fate::Used,
        (false, true) => Fate::PassedOn,
        (false, false) => Fate::Dropped,
        (true, true) => panic!("{code} is kept twice"),
    }
}

fn sweep(codes: RangeInclusive<u8>, context: &CodecContext) {
    let mut wrong = Vec::new();
    for code in codes {
        for flags in (0..=255_u8).step_by(16) {
            for length in LENGTHS {
                if length > 255 && flags & EXTENDED == 0 {
                    continue;
                }
                for fill in [0, 1, 255] {
                    let expected = fate(code, flags, length, fill, context);
                    // The low bits mean nothing, whatever they are.
                    let noisy = flags | (code ^ fill) & 0x0f;
                    let one = attribute(code, noisy, length, fill);
                    for place in 0..5 {
                        let octets = announcement(&one, place, context);
                        let seen = match decode(&octets, context) {
                            Ok(Message::Update(update)) => observed(&update, code),
                            Ok(other) => panic!("{other:?}"),
                            Err(error) => {
                                let code = Notification::from(&error).code;
                                assert_eq!((code.code, code.subcode), (3, 9), "{error}");
                                Fate::Reset
                            }
                        };
                        if seen != expected {
                            wrong.push(format!(
                                "type {code} flags {flags:#x} length {length} of {fill:#x} at {place}: {seen:?}, not {expected:?}"
                            ));
                            break;
                        }
                    }
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} cases:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_attribute_in_every_form_from_an_external_peer() {
    sweep(0..=255, &external());
}

#[test]
fn every_attribute_in_every_form_from_an_internal_peer() {
    sweep(0..=255, &internal());
}

#[test]
fn every_attribute_in_every_form_from_an_external_peer_of_two_octet_numbers_that_names_its_paths() {
    // The types above know no AS numbers.
    sweep(
        0..=19,
        &CodecContext {
            four_octet_as: false,
            add_path_receive: FamilySet::all(),
            ..external()
        },
    );
}

#[test]
fn every_attribute_in_every_form_from_an_internal_peer_of_two_octet_numbers() {
    sweep(
        0..=19,
        &CodecContext {
            four_octet_as: false,
            ..internal()
        },
    );
}
