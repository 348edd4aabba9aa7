//! UPDATEs of every shape that no sweep of single attributes makes: multiprotocol attributes of negotiated families, lengths
//! that overrun, attributes twice, paths of any segments, and random lists with random damage. What becomes of them is what
//! the reference says.

use std::collections::BTreeMap;

use margay_bgp::asn::Asn;
use margay_bgp::codec::{CodecContext, Decoder, decode};
use margay_bgp::family::FamilySet;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::reference::{self, Verdict, hold_against_reference};
use crate::{external, internal, update_message};

/// An attribute to be written, right or wrong.
#[derive(Clone, Debug)]
struct Attribute {
    flags: u8,
    code: u8,
    value: Vec<u8>,
    /// What the length field says, where that is not so.
    claimed: Option<usize>,
}

fn one(flags: u8, code: u8, value: impl Into<Vec<u8>>) -> Attribute {
    Attribute {
        flags,
        code,
        value: value.into(),
        claimed: None,
    }
}

impl Attribute {
    fn write(&self, out: &mut Vec<u8>) {
        let length = self.claimed.unwrap_or(self.value.len());
        let long = self.flags & 0x10 != 0 || self.value.len() > 255;
        out.extend([self.flags | u8::from(long) << 4, self.code]);
        if long {
            out.extend(u16::try_from(length).unwrap().to_be_bytes());
        } else {
            out.push(u8::try_from(length.min(255)).unwrap());
        }
        out.extend(&self.value);
    }
}

fn list_of(attributes: &[Attribute]) -> Vec<u8> {
    let mut octets = Vec::new();
    attributes.iter().for_each(|one| one.write(&mut octets));
    octets
}

/// Sessions that differ in all that changes the reading.
fn sessions() -> Vec<CodecContext> {
    let external = external();
    vec![
        internal(),
        external,
        CodecContext {
            four_octet_as: false,
            allow_as_set: true,
            ..external
        },
        CodecContext {
            four_octet_as: false,
            enforce_first_as: None,
            ..external
        },
        CodecContext {
            add_path_receive: FamilySet::all(),
            ..internal()
        },
        CodecContext {
            add_path_receive: FamilySet::IPV6_UNICAST,
            extended_next_hop: true,
            ..internal()
        },
        CodecContext {
            afi_safi_disable: true,
            ..external
        },
        CodecContext {
            families: FamilySet::IPV6_UNICAST,
            strict_attributes: true,
            ..external
        },
    ]
}

/// ORIGIN, AS_PATH and NEXT_HOP of AS 64600.
fn usual(context: &CodecContext) -> Vec<Attribute> {
    let mut path = vec![2, 1];
    if context.four_octet_as {
        path.extend([0, 0]);
    }
    path.extend([0xfc, 0x58]);
    vec![
        one(0x40, 1, [0]),
        one(0x40, 2, path),
        one(0x40, 3, [192, 0, 2, 1]),
    ]
}

/// 10.65.0.0/26 as the session's peer writes it.
fn classic(context: &CodecContext) -> Vec<u8> {
    let mut octets = vec![0, 0, 0, 7];
    octets.truncate(4 * usize::from(context.add_path_receive.contains(FamilySet::IPV4_UNICAST)));
    octets.extend([26, 10, 65, 0, 0]);
    octets
}

/// Compares, and counts what became of the messages.
#[derive(Default)]
struct Judge {
    fates: BTreeMap<&'static str, usize>,
    /// That of a connection which has heard everything before.
    decoder: Decoder,
}

impl Judge {
    #[track_caller]
    fn judge(&mut self, octets: &[u8], context: &CodecContext) {
        let result = decode(octets, context);
        hold_against_reference(octets, context, &result);
        if self.decoder.context() != context {
            self.decoder = Decoder::new(*context);
        }
        for _ in 0..2 {
            let again = self.decoder.decode(octets);
            assert_eq!(again, result, "after other messages: {octets:02x?}");
        }
        let fate = match reference::seen(&result) {
            Verdict::Reset(_) => "reset",
            Verdict::Read(reading) if reading.treated_as_withdraw => "withdrawn",
            Verdict::Read(reading) if reading.disabled != [false; 2] => "disabled",
            Verdict::Read(reading) if reading.announced.is_empty() => "nothing announced",
            Verdict::Read(_) => "used",
        };
        *self.fates.entry(fate).or_default() += 1;
    }

    /// A sweep in which something never happens is none.
    #[track_caller]
    fn saw(&self, fates: &[&str]) {
        for fate in fates {
            assert!(
                self.fates.get(fate) > Some(&100),
                "{fate}: {:?}",
                self.fates
            );
        }
    }
}

/// Lists of prefixes of a family, whole and broken.
fn lists(family: u8, with_id: bool) -> Vec<Vec<u8>> {
    let id: &[u8] = if with_id { &[0, 0, 0, 9] } else { &[] };
    let most = if family == 1 { 32 } else { 128 };
    let prefix = |length: u8| {
        let address = vec![0x2a; usize::from(length.div_ceil(8))];
        [id, &[length], &address].concat()
    };
    let whole = [prefix(24), prefix(0), prefix(most)].concat();
    let cut = whole[..whole.len() - 1].to_vec();
    vec![
        vec![],
        prefix(17),
        whole,
        cut,
        [prefix(8), prefix(most + 1)].concat(),
        [prefix(8), prefix(255)].concat(),
        [prefix(16), vec![0, 0]].concat(),
        vec![24],
    ]
}

#[test]
fn every_form_of_mp_reach_is_read_as_the_reference_reads_it() {
    const NEXT_HOPS: [usize; 14] = [0, 1, 4, 5, 12, 15, 16, 17, 24, 31, 32, 33, 48, 255];
    let mut judge = Judge::default();
    for context in sessions() {
        for (afi, safi) in [(0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1)] {
            let with_id = afi < 3 && context.add_path_receive.bits() & afi != 0;
            for (turn, (length, list)) in NEXT_HOPS
                .into_iter()
                .flat_map(|length| {
                    lists(afi, with_id)
                        .into_iter()
                        .map(move |list| (length, list))
                })
                .enumerate()
            {
                // Global, link-local and nothing by turns.
                let first = [0x20, 0xfe, 0][turn % 3];
                let mut next_hop: Vec<u8> =
                    [first, 0x80].into_iter().cycle().take(length).collect();
                if let Some(second) = next_hop.get_mut(16..18) {
                    second.copy_from_slice(&[[0xfe, 0x80], [0x20, 1]][turn % 2]);
                }
                let mut value = vec![0, afi, safi, u8::try_from(length).unwrap()];
                value.extend(next_hop);
                value.push([0, 1, 255][turn % 3]);
                value.extend(list);
                for flags in [0x80, 0x90, 0xa0, 0xc0, 0x40] {
                    for missing in 0..3_u8 {
                        let mut attributes = usual(&context);
                        attributes.retain(|one| one.code != missing);
                        attributes.insert(
                            (turn + usize::from(missing)) % attributes.len(),
                            one(flags, 14, value.clone()),
                        );
                        let with_classic = (turn + usize::from(flags >> 4)) % 2 == 0;
                        let nlri = if with_classic {
                            classic(&context)
                        } else {
                            vec![]
                        };
                        judge.judge(&update_message(&[], &list_of(&attributes), &nlri), &context);
                    }
                }
            }
        }
    }
    judge.saw(&[
        "reset",
        "withdrawn",
        "disabled",
        "used",
        "nothing announced",
    ]);
}

#[test]
fn every_cut_of_the_multiprotocol_attributes_is_read_as_the_reference_reads_it() {
    let mut judge = Judge::default();
    for context in sessions() {
        for (code, afi) in [(14, 1), (14, 2), (15, 1), (15, 2)] {
            let with_id = context.add_path_receive.bits() & afi != 0;
            for list in lists(afi, with_id) {
                let mut value = vec![0, afi, 1];
                if code == 14 {
                    let length = if afi == 1 && !context.extended_next_hop {
                        4
                    } else {
                        16
                    };
                    value.push(length);
                    value.extend(vec![0x20; usize::from(length)]);
                    value.push(0);
                }
                value.extend(list);
                for end in 0..=value.len() {
                    for (flags, alone) in [(0x80, true), (0x80, false), (0xc0, true), (0x90, false)]
                    {
                        let cut = one(flags, code, &value[..end]);
                        let mut attributes = vec![cut];
                        if !alone {
                            attributes.extend(usual(&context));
                        }
                        judge.judge(&update_message(&[], &list_of(&attributes), &[]), &context);
                    }
                }
            }
        }
    }
    judge.saw(&[
        "reset",
        "withdrawn",
        "disabled",
        "used",
        "nothing announced",
    ]);
}

/// What lists are made of here: every type that is read, some that are not, right and wrong.
fn pool() -> Vec<Attribute> {
    let mut reach = vec![0, 2, 1, 16];
    reach.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    reach.extend([48, 0x20, 1, 0xd, 0xb8, 0, 2]);
    let unreach = [0, 2, 1, 48, 0x20, 1, 0xd, 0xb8, 0, 3];
    vec![
        one(0x40, 1, [1]),
        one(0x40, 1, [3]),
        one(0xc0, 1, [0]),
        one(0x40, 2, []),
        one(0x40, 2, [2, 1, 0, 0, 0xfc, 0x58]),
        one(0x40, 2, [2, 2, 0xfc, 0x58, 0x5b, 0xa0]),
        one(0x40, 3, [192, 0, 2, 2]),
        one(0x40, 3, [192, 0, 2]),
        one(0x80, 4, [0, 0, 0, 9]),
        one(0x80, 4, []),
        one(0x40, 5, [0, 0, 0, 200]),
        one(0x40, 5, [0]),
        one(0x40, 6, []),
        one(0x40, 6, [1]),
        one(0xc0, 7, [0x5b, 0xa0, 192, 0, 2, 9]),
        one(0xe0, 7, [0, 1, 0, 0, 192, 0, 2, 9]),
        one(0xc0, 7, [0; 8]),
        one(0xc0, 8, [0, 1, 0, 2, 0, 1, 0, 2]),
        one(0xe0, 8, [0, 1, 0]),
        one(0x80, 9, [192, 0, 2, 3]),
        one(0x80, 10, [192, 0, 2, 3, 192, 0, 2, 4]),
        one(0x80, 10, [0; 4]),
        one(0x80, 14, reach),
        one(0x80, 15, unreach),
        one(0x80, 15, [0, 1, 1]),
        one(0x80, 14, [0, 25, 70]),
        one(0xc0, 16, [0, 2, 0, 1, 0, 0, 0, 9]),
        one(0xc0, 17, [2, 1, 0, 1, 0, 0]),
        one(0xc0, 17, [3, 1, 0, 0, 0, 1, 2, 1, 0, 2, 0, 0]),
        one(0xc0, 17, [5, 1, 0, 0, 0, 1, 1, 1, 0, 2, 0, 0]),
        one(0xc0, 18, [0, 1, 0, 0, 192, 0, 2, 10]),
        one(0xc0, 25, [7; 20]),
        one(0x80, 26, [1]),
        one(0xe0, 32, [1; 24]),
        one(0xc0, 32, [1; 13]),
        one(0xc0, 35, [0, 0, 0xfc, 0x58]),
        one(0xc0, 40, [1, 2]),
        one(0xd0, 99, [1; 3]),
        one(0xe0, 99, []),
        one(0x80, 200, [1]),
        one(0x40, 201, [1]),
    ]
}

#[test]
fn a_repeated_attribute_costs_what_the_reference_says_wherever_it_stands() {
    let mut judge = Judge::default();
    for context in sessions() {
        for first in pool() {
            for second in pool() {
                for place in 0..4 {
                    let mut attributes = usual(&context);
                    if place % 2 == 0 {
                        attributes.retain(|one| one.code != first.code);
                    }
                    attributes.insert(place.min(attributes.len()), first.clone());
                    attributes.insert((place + 2) % attributes.len(), second.clone());
                    let list = list_of(&attributes);
                    let nlri = if place < 2 { classic(&context) } else { vec![] };
                    judge.judge(&update_message(&[], &list, &nlri), &context);
                }
            }
        }
    }
    judge.saw(&["reset", "withdrawn", "used", "nothing announced"]);
}

#[test]
fn a_length_that_is_wrong_costs_what_the_reference_says_wherever_it_stands() {
    let mut judge = Judge::default();
    for context in sessions() {
        for extra in pool() {
            for place in 0..4 {
                let mut attributes = usual(&context);
                attributes.insert(place, extra.clone());
                for claimed in (0..26).chain([255, 256, 4000, 65_535]) {
                    let mut list = attributes.clone();
                    list[place].claimed = Some(claimed);
                    if claimed > 255 {
                        list[place].flags |= 0x10;
                    }
                    let nlri = if claimed % 2 == 0 {
                        classic(&context)
                    } else {
                        vec![]
                    };
                    judge.judge(&update_message(&[], &list_of(&list), &nlri), &context);
                }
            }
        }
    }
    judge.saw(&["reset", "withdrawn", "used", "nothing announced"]);
}

/// The list ends at any octet, and what follows is prefixes, or the message's own lengths contradict each other.
#[test]
fn a_list_that_ends_anywhere_costs_what_the_reference_says() {
    let mut judge = Judge::default();
    for context in sessions() {
        let mut attributes = usual(&context);
        attributes.extend(pool().into_iter().filter(|one| one.code > 15));
        let list = list_of(&attributes);
        for end in 0..=list.len() {
            for withdrawn in [vec![], classic(&context), vec![33, 1, 2, 3, 4, 5]] {
                let whole = update_message(&withdrawn, &list, &classic(&context));
                judge.judge(
                    &update_message(&withdrawn, &list[..end], &classic(&context)),
                    &context,
                );
                judge.judge(&update_message(&withdrawn, &list[..end], &[]), &context);
                for field in [19, 21 + withdrawn.len()] {
                    let mut wrong = whole.clone();
                    wrong[field..field + 2]
                        .copy_from_slice(&u16::try_from(end).unwrap().to_be_bytes());
                    judge.judge(&wrong, &context);
                }
            }
        }
    }
    judge.saw(&["reset", "withdrawn", "used"]);
}

#[test]
fn paths_of_any_segments_are_read_as_the_reference_reads_them() {
    let mut judge = Judge::default();
    for context in sessions() {
        for code in [2, 17] {
            let width = if context.four_octet_as || code == 17 {
                4
            } else {
                2
            };
            let mut segments = vec![vec![]];
            for kind in 0..6_u8 {
                for count in 0..3_u8 {
                    let mut segment = vec![kind, count];
                    for member in 0..count {
                        // A member of zero at the end of every second kind.
                        let asn: u32 = if member == 1 && kind % 2 == 0 {
                            0
                        } else {
                            64_600
                        };
                        segment.extend(&asn.to_be_bytes()[4 - width..]);
                    }
                    segments.push(segment);
                }
            }
            for first in &segments {
                for second in &segments {
                    for tail in [&[][..], &[2], &[2, 1], &[2, 1, 0]] {
                        let path = [first, second, tail].concat();
                        let mut attributes = usual(&context);
                        attributes.retain(|one| one.code != code);
                        attributes.push(one(if code == 2 { 0x40 } else { 0xc0 }, code, path));
                        let list = list_of(&attributes);
                        judge.judge(&update_message(&[], &list, &classic(&context)), &context);
                    }
                }
            }
        }
    }
    judge.saw(&["withdrawn", "used"]);
}

fn contexts() -> impl Strategy<Value = CodecContext> {
    (any::<[bool; 9]>(), 1..=3_u8, 0..=3_u8).prop_map(
        |(
            [
                wide,
                enhe,
                local,
                external,
                first,
                sets,
                strict,
                disables,
                long,
            ],
            families,
            ids,
        )| CodecContext {
            four_octet_as: wide,
            families: FamilySet::from_bits_truncate(families),
            add_path_receive: FamilySet::from_bits_truncate(ids),
            extended_message_receive: long,
            extended_next_hop: enhe,
            link_local_next_hop: local,
            peer_is_external: external,
            enforce_first_as: first.then_some(Asn(64_600)),
            allow_as_set: sets,
            strict_attributes: strict,
            afi_safi_disable: disables,
            ..CodecContext::default()
        },
    )
}

/// Attributes that are as likely to be right as wrong.
fn any_attribute() -> impl Strategy<Value = Attribute> {
    let known = select(pool());
    let segments = vec(
        (
            0..6_u8,
            vec(prop_oneof![Just(0_u32), Just(23_456), 1..70_000_u32], 0..4),
        ),
        0..4,
    );
    let path = (any::<bool>(), any::<bool>(), segments).prop_map(|(new, wide, segments)| {
        let width = if new || wide { 4 } else { 2 };
        let mut value = Vec::new();
        for (kind, members) in segments {
            // Mostly sequences.
            let kind = if kind > 3 { 2 } else { kind };
            value.extend([kind, u8::try_from(members.len()).unwrap()]);
            members
                .iter()
                .for_each(|asn| value.extend(&asn.to_be_bytes()[4 - width..]));
        }
        if new {
            one(0xc0, 17, value)
        } else {
            one(0x40, 2, value)
        }
    });
    let anything = (any::<u8>(), any::<u8>(), vec(any::<u8>(), 0..40))
        .prop_map(|(flags, code, value)| one(flags & 0xf0, code, value));
    prop_oneof![6 => known, 2 => path, 1 => anything]
}

/// Prefixes mostly as they should be; the path identifier is there as the first octet says.
fn any_list() -> impl Strategy<Value = Vec<u8>> {
    vec((any::<bool>(), 0..=40_u8, any::<[u8; 5]>()), 0..4).prop_map(|prefixes| {
        let mut octets = Vec::new();
        for (with_id, length, address) in prefixes {
            let length = if length > 33 { 24 } else { length };
            if with_id {
                octets.extend([0, 0, 0, 1]);
            }
            octets.push(length);
            octets.extend(&address[..usize::from(length.div_ceil(8))]);
        }
        octets
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn lists_of_anything_with_any_damage_are_read_as_the_reference_reads_them(
        context in contexts(),
        begins_well in any::<bool>(),
        mut attributes in vec(any_attribute(), 0..8),
        withdrawn in prop_oneof![3 => Just(vec![]), 1 => any_list()],
        nlri in prop_oneof![1 => Just(vec![]), 2 => any_list()],
        damage in vec((any::<Index>(), any::<u8>(), 0..8_u8), 0..3),
        flips in vec((any::<Index>(), any::<u8>()), 0..2),
    ) {
        if begins_well {
            attributes.splice(0..0, usual(&context));
        }
        for (place, value, kind) in damage {
            if attributes.is_empty() {
                break;
            }
            let place = place.index(attributes.len());
            let at = &mut attributes[place];
            match kind {
                0 => at.flags ^= 1 << (value & 7),
                1 => at.code = value,
                2 => at.claimed = Some(usize::from(value)),
                3 => at.value.push(value),
                4 => drop(at.value.pop()),
                5 => drop(attributes.remove(place)),
                6 => {
                    let again = at.clone();
                    attributes.push(again);
                }
                _ => attributes.rotate_left(place),
            }
        }
        let mut octets = update_message(&withdrawn, &list_of(&attributes), &nlri);
        for (at, value) in flips {
            let at = 19 + at.index(octets.len() - 19);
            octets[at] = value;
        }
        hold_against_reference(&octets, &context, &decode(&octets, &context));
    }
}
