//! What the RFCs make of an UPDATE, read the slow way: written from their tables, sharing no code with the codec, and
//! collecting everything that is wrong where the codec stops at the first. The codec's tests, the sweep of the speaker and
//! the fuzz targets hold the codec against it.
//!
//! RFC 4271 §4.3 and §6.3, 4760, 6793, 7606, 7607, 7911, 8950, 9774. Messages must be framed: 19 octets of header at least.

use std::collections::{BTreeMap, BTreeSet};

use margay_bgp::codec::{
    CodecContext, DecodeError, Message, NextHop, Nlri, Notification, PartialBits, PathAttributes,
    SegmentKind,
};
use margay_bgp::family::{Family, FamilySet};

/// What the OPENs settled, as far as it changes the reading. Families in the order IPv4, IPv6.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    families: [bool; 2],
    path_ids: [bool; 2],
    four_octet_as: bool,
    ipv4_over_ipv6: bool,
    external: bool,
    first_as: Option<u32>,
    sets: bool,
    strict: bool,
    disables: bool,
}

/// What becomes of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The session ends, with one of these codes and subcodes.
    Reset(BTreeSet<(u8, u8)>),
    /// The message counts.
    Read(Box<Reading>),
}

/// What a message says that counts.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Reading {
    /// What is gone, by a fault of the attributes or because the peer says so.
    pub(crate) withdrawn: BTreeSet<Path>,
    /// What is there, and by which next hop.
    pub(crate) announced: BTreeSet<(Path, Hop)>,
    /// Of all that is announced; nothing where nothing is.
    pub(crate) attributes: Attributes,
    /// The family whose table is complete, 0 for IPv4.
    pub(crate) end_of_rib: Option<usize>,
    /// Families given up.
    pub(crate) disabled: [bool; 2],
    /// Announced prefixes count as withdrawn.
    pub(crate) treated_as_withdraw: bool,
}

/// A prefix and its path identifier. The address is left-aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Path {
    /// 0 for IPv4, 1 for IPv6.
    pub(crate) family: usize,
    /// Bits that count.
    pub(crate) length: u8,
    /// The bits, from the highest on.
    pub(crate) bits: u128,
    /// The path identifier, where there is one.
    pub(crate) id: Option<u32>,
}

/// A next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hop {
    /// An IPv4 address.
    Four(u32),
    /// A global and a link-local IPv6 address.
    Six(Option<u128>, Option<u128>),
}

/// Segments: whether it is a set, and its members; adjacent sequences are one.
pub(crate) type Segments = Vec<(bool, Vec<u32>)>;

/// The attributes that count.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Attributes {
    /// ORIGIN.
    pub(crate) origin: u8,
    /// AS_PATH, AS4_PATH worked in.
    pub(crate) path: Segments,
    /// MULTI_EXIT_DISC.
    pub(crate) med: Option<u32>,
    /// LOCAL_PREF.
    pub(crate) local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub(crate) atomic_aggregate: bool,
    /// AGGREGATOR: AS and address.
    pub(crate) aggregator: Option<(u32, u32)>,
    /// COMMUNITIES.
    pub(crate) communities: BTreeSet<u32>,
    /// ORIGINATOR_ID.
    pub(crate) originator: Option<u32>,
    /// CLUSTER_LIST.
    pub(crate) clusters: Vec<u32>,
    /// EXTENDED_COMMUNITIES.
    pub(crate) extended: BTreeSet<u64>,
    /// IPV6_EXTENDED_COMMUNITIES.
    pub(crate) ipv6_extended: BTreeSet<[u8; 20]>,
    /// LARGE_COMMUNITIES.
    pub(crate) large: BTreeSet<[u32; 3]>,
    /// ONLY_TO_CUSTOMER.
    pub(crate) only_to_customer: Option<u32>,
    /// What nobody here knows and everybody is told, by type.
    pub(crate) unknown: BTreeMap<u8, Vec<u8>>,
    /// Types that came with the Partial bit.
    pub(crate) partial: BTreeSet<u8>,
}

/// What a malformed attribute costs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Discard,
    Withdraw,
}

const MALFORMED_LIST: (u8, u8) = (3, 1);
const UNKNOWN_WELL_KNOWN: (u8, u8) = (3, 2);
const OPTIONAL_ATTRIBUTE: (u8, u8) = (3, 9);
const NETWORK_FIELD: (u8, u8) = (3, 10);

fn number(octets: &[u8]) -> u32 {
    octets
        .iter()
        .fold(0, |number, octet| number << 8 | u32::from(*octet))
}

fn wide(octets: &[u8]) -> u128 {
    octets
        .iter()
        .fold(0, |number, octet| number << 8 | u128::from(*octet))
}

/// So many octets and the rest.
fn take(octets: &[u8], count: usize) -> Option<(&[u8], &[u8])> {
    (octets.len() >= count).then(|| octets.split_at(count))
}

/// A field behind its length of two octets, and the rest.
fn counted(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = take(octets, 2)?;
    take(rest, number(length) as usize)
}

/// A list of prefixes; none where it is malformed.
fn prefixes(mut octets: &[u8], family: usize, with_id: bool) -> Option<Vec<Path>> {
    let most = [32, 128][family];
    let mut list = Vec::new();
    while !octets.is_empty() {
        let mut id = None;
        if with_id {
            let (head, rest) = take(octets, 4)?;
            id = Some(number(head));
            octets = rest;
        }
        let (length, rest) = take(octets, 1)?;
        let length = length[0];
        if length > most {
            return None;
        }
        let count = usize::from(length).div_ceil(8);
        let (address, rest) = take(rest, count)?;
        octets = rest;
        let mut bits = 0_u128;
        for index in 0..usize::from(length) {
            if address[index / 8] & 0x80 >> (index % 8) != 0 {
                bits |= 1 << (127 - index);
            }
        }
        list.push(Path {
            family,
            length,
            bits,
            id,
        });
    }
    Some(list)
}

/// Flags, type and value of the first attribute, and the rest.
fn attribute(list: &[u8]) -> Option<(u8, u8, &[u8], &[u8])> {
    let (head, rest) = take(list, 2)?;
    let width = if head[0] & 0x10 == 0 { 1 } else { 2 };
    let (length, rest) = take(rest, width)?;
    let (value, rest) = take(rest, number(length) as usize)?;
    Some((head[0], head[1], value, rest))
}

fn is_link_local(address: u128) -> bool {
    address >> 118 == 0xfe80 >> 6
}

/// The next hop of MP_REACH_NLRI.
fn hop(octets: &[u8], family: usize, session: &Session) -> Option<Hop> {
    if family == 0 && octets.len() == 4 {
        return Some(Hop::Four(number(octets)));
    }
    if family == 0 && !session.ipv4_over_ipv6 {
        return None;
    }
    let (first, second) = match octets.len() {
        16 => (wide(octets), None),
        32 => (wide(&octets[..16]), Some(wide(&octets[16..]))),
        _ => return None,
    };
    let second = second.filter(|address| is_link_local(*address));
    Some(match (first, second) {
        (first, second) if is_link_local(first) => Hop::Six(None, second.or(Some(first))),
        (0, Some(second)) => Hop::Six(None, Some(second)),
        (first, second) => Hop::Six(Some(first), second),
    })
}

/// A path of segments as the attribute `code` may hold it.
fn segments(mut value: &[u8], code: u8, session: &Session) -> Result<Segments, Fault> {
    let malformed = if code == 17 {
        Fault::Discard
    } else {
        Fault::Withdraw
    };
    let octets_each = if code == 17 || session.four_octet_as {
        4
    } else {
        2
    };
    let mut path = Segments::new();
    let mut worst = None;
    while !value.is_empty() {
        let whole = take(value, 2)
            .and_then(|(head, rest)| Some((head, take(rest, usize::from(head[1]) * octets_each)?)));
        let Some((head, (members, rest))) = whole else {
            worst = worst.or(Some(malformed));
            break;
        };
        value = rest;
        let members: Vec<u32> = members.chunks(octets_each).map(number).collect();
        match head[0] {
            3 | 4 if code == 17 => continue,
            1 | 4 if !session.sets => worst = Some(Fault::Withdraw),
            1 | 2 if !members.is_empty() && !members.contains(&0) => {}
            _ => worst = worst.or(Some(malformed)),
        }
        match path.last_mut() {
            Some((false, last)) if head[0] == 2 => last.extend(members),
            _ => path.push((head[0] == 1, members)),
        }
    }
    if code == 17 && path.is_empty() {
        worst = worst.or(Some(malformed));
    }
    worst.map_or(Ok(path), Err)
}

fn hops(path: &Segments) -> usize {
    let each = path
        .iter()
        .map(|(set, members)| if *set { 1 } else { members.len() });
    each.sum()
}

/// RFC 6793 §4.2.3: as much of the front of `old` as `new` does not have, then `new`.
fn merged(old: &Segments, new: &Segments) -> Segments {
    let Some(mut left) = hops(old).checked_sub(hops(new)) else {
        return old.clone();
    };
    let mut path = Segments::new();
    for (set, members) in old {
        if left == 0 {
            break;
        }
        let count = if *set {
            members.len()
        } else {
            members.len().min(left)
        };
        left -= if *set { 1 } else { count };
        path.push((*set, members[..count].to_vec()));
    }
    for (set, members) in new {
        match path.last_mut() {
            Some((false, last)) if !set => last.extend(members),
            _ => path.push((*set, members.clone())),
        }
    }
    path
}

/// Members of so many octets, at least one.
fn members(value: &[u8], each: usize) -> Result<Vec<&[u8]>, Fault> {
    if value.is_empty() || !value.len().is_multiple_of(each) {
        return Err(Fault::Withdraw);
    }
    Ok(value.chunks(each).collect())
}

/// A value of so many octets.
fn exactly(value: &[u8], count: usize) -> Result<&[u8], Fault> {
    if value.len() == count {
        Ok(value)
    } else {
        Err(Fault::Withdraw)
    }
}

/// What is read on the way through the list.
#[derive(Default)]
struct Walk {
    attributes: Attributes,
    next_hop: Option<u32>,
    as4_path: Option<Segments>,
    as4_aggregator: Option<(u32, u32)>,
    reach: Option<(Hop, Vec<Path>)>,
    unreach: Option<(usize, Vec<Path>)>,
    /// MP_REACH_NLRI is there for a family that was not negotiated.
    foreign: bool,
    withdraw: bool,
    disabled: [bool; 2],
    seen: BTreeSet<u8>,
    /// Attributes that are not the first MP_UNREACH_NLRI.
    others: usize,
    resets: BTreeSet<(u8, u8)>,
}

impl Walk {
    fn take(&mut self, flags: u8, code: u8, value: &[u8], session: &Session) {
        let first = self.seen.insert(code);
        self.others += usize::from(code != 15 || !first);
        let is_mp = matches!(code, 14 | 15);
        if !first {
            if is_mp {
                self.resets.insert(MALFORMED_LIST);
            }
            return;
        }
        let pair = flags & 0xc0;
        if is_mp {
            return self.multiprotocol(pair, code, value, session);
        }
        let expected = match code {
            5 | 9 | 10 if session.external => return,
            17 | 18 if session.four_octet_as => return,
            26 | 29 => return,
            1 | 2 | 3 | 5 | 6 => 0x40,
            4 | 9 | 10 => 0x80,
            7 | 8 | 16 | 17 | 18 | 25 | 32 | 35 => 0xc0,
            _ => {
                match pair {
                    0xc0 => drop(self.attributes.unknown.insert(code, value.to_vec())),
                    0x80 => {}
                    _ if session.strict => drop(self.resets.insert(UNKNOWN_WELL_KNOWN)),
                    _ => self.withdraw = true,
                }
                return;
            }
        };
        if pair != expected {
            self.withdraw = true;
            return;
        }
        match self.value(code, value, session) {
            Ok(()) if flags & 0x20 != 0 && matches!(code, 7 | 8 | 16 | 25 | 32 | 35) => {
                self.attributes.partial.insert(code);
            }
            Ok(()) | Err(Fault::Discard) => {}
            Err(Fault::Withdraw) => self.withdraw = true,
        }
    }

    fn value(&mut self, code: u8, value: &[u8], session: &Session) -> Result<(), Fault> {
        let to = &mut self.attributes;
        match code {
            1 if value.len() == 1 && value[0] < 3 => to.origin = value[0],
            1 => return Err(Fault::Withdraw),
            2 => to.path = segments(value, 2, session)?,
            3 => self.next_hop = Some(number(exactly(value, 4)?)),
            4 => to.med = Some(number(exactly(value, 4)?)),
            5 => to.local_pref = Some(number(exactly(value, 4)?)),
            6 if value.is_empty() => to.atomic_aggregate = true,
            6 => return Err(Fault::Discard),
            7 | 18 => {
                let width = if code == 18 || session.four_octet_as {
                    4
                } else {
                    2
                };
                if value.len() != width + 4 || number(&value[..width]) == 0 {
                    return Err(Fault::Discard);
                }
                let both = Some((number(&value[..width]), number(&value[width..])));
                if code == 7 {
                    to.aggregator = both;
                } else {
                    self.as4_aggregator = both;
                }
            }
            8 => to.communities = members(value, 4)?.into_iter().map(number).collect(),
            9 | 10 => {
                let ids: Vec<u32> = members(value, 4)?.into_iter().map(number).collect();
                if ids.contains(&0) || code == 9 && ids.len() != 1 {
                    return Err(Fault::Withdraw);
                }
                if code == 9 {
                    to.originator = Some(ids[0]);
                } else {
                    to.clusters = ids;
                }
            }
            16 => {
                let each = members(value, 8)?.into_iter();
                to.extended = each
                    .map(|octets| {
                        u64::from(number(&octets[..4])) << 32 | u64::from(number(&octets[4..]))
                    })
                    .collect();
            }
            17 => self.as4_path = Some(segments(value, 17, session)?),
            25 => {
                let each = members(value, 20)?.into_iter();
                to.ipv6_extended = each.map(|octets| octets.try_into().unwrap()).collect();
            }
            32 => {
                let each = members(value, 12)?.into_iter();
                to.large = each
                    .map(|octets| [0, 4, 8].map(|at| number(&octets[at..at + 4])))
                    .collect();
            }
            _ => to.only_to_customer = Some(number(exactly(value, 4)?)),
        }
        Ok(())
    }

    fn multiprotocol(&mut self, pair: u8, code: u8, value: &[u8], session: &Session) {
        let family = take(value, 3);
        let known = match family {
            Some(([0, 1, 1], _)) if session.families[0] => Some(0),
            Some(([0, 2, 1], _)) if session.families[1] => Some(1),
            _ => None,
        };
        let read = match (family, known) {
            _ if pair != 0x80 => None,
            (None, _) => None,
            (Some(_), None) => {
                self.foreign |= code == 14;
                return;
            }
            (Some((_, rest)), Some(family)) if code == 15 => {
                let list = prefixes(rest, family, session.path_ids[family]);
                list.map(|list| self.unreach = Some((family, list)))
            }
            (Some((_, rest)), Some(family)) => {
                reach(rest, family, session).map(|(hop, list)| self.reach = Some((hop, list)))
            }
        };
        match (read, known) {
            (Some(()), _) => {}
            (None, Some(family)) if session.disables => self.disabled[family] = true,
            (None, _) => drop(self.resets.insert(OPTIONAL_ATTRIBUTE)),
        }
    }

    fn merge(&mut self) {
        let to = &mut self.attributes;
        if let (Some((asn, _)), Some(four_octet)) = (to.aggregator, self.as4_aggregator) {
            if asn != 23_456 {
                return;
            }
            to.aggregator = Some(four_octet);
        }
        if let Some(new) = &self.as4_path {
            to.path = merged(&to.path, new);
        }
    }
}

/// What follows the family in MP_REACH_NLRI.
fn reach(octets: &[u8], family: usize, session: &Session) -> Option<(Hop, Vec<Path>)> {
    let (length, rest) = take(octets, 1)?;
    let (address, rest) = take(rest, usize::from(length[0]))?;
    let (_reserved, nlri) = take(rest, 1)?;
    let hop = hop(address, family, session)?;
    Some((hop, prefixes(nlri, family, session.path_ids[family])?))
}

/// Reads an UPDATE, header included.
pub(crate) fn read(message: &[u8], session: &Session) -> Verdict {
    let parts =
        counted(&message[19..]).and_then(|(withdrawn, rest)| Some((withdrawn, counted(rest)?)));
    let Some((withdrawn, (mut list, nlri))) = parts else {
        return Verdict::Reset([MALFORMED_LIST].into());
    };
    let mut reading = Reading::default();
    let mut walk = Walk::default();
    let mut field = |octets: &[u8]| {
        let list = prefixes(octets, 0, session.path_ids[0]);
        if list.is_none() {
            walk.resets.insert(NETWORK_FIELD);
        }
        list.filter(|_| session.families[0]).unwrap_or_default()
    };
    reading.withdrawn.extend(field(withdrawn));
    let classic = field(nlri);
    let no_attributes = list.is_empty();
    while !list.is_empty() {
        let Some((flags, code, value, rest)) = attribute(list) else {
            walk.withdraw = true;
            walk.others += 1;
            break;
        };
        walk.take(flags, code, value, session);
        list = rest;
    }
    walk.merge();

    let multiprotocol = walk.reach.take();
    let has_prefixes = !classic.is_empty()
        || multiprotocol
            .as_ref()
            .is_some_and(|(_, list)| !list.is_empty());
    if has_prefixes {
        walk.withdraw |= !walk.seen.contains(&1) || !walk.seen.contains(&2);
        walk.withdraw |= !classic.is_empty() && !walk.seen.contains(&3);
        if let Some(expected) = session.first_as {
            let first = walk.attributes.path.first();
            walk.withdraw |= !first.is_some_and(|(set, members)| !set && members[0] == expected);
        }
        if !session.external {
            walk.attributes.local_pref.get_or_insert(100);
        }
    } else if walk.withdraw
        && walk.others > 0
        && nlri.is_empty()
        && !walk.foreign
        && walk.disabled == [false; 2]
    {
        walk.resets.insert(MALFORMED_LIST);
    }
    if !walk.resets.is_empty() {
        return Verdict::Reset(walk.resets);
    }

    let mut only_unreach = None;
    if let Some((family, list)) = walk.unreach {
        if list.is_empty() && walk.others == 0 && withdrawn.is_empty() && nlri.is_empty() {
            only_unreach = Some(family);
        }
        reading.withdrawn.extend(list);
    }
    if no_attributes && withdrawn.is_empty() && nlri.is_empty() && session.families[0] {
        only_unreach = Some(0);
    }
    reading.end_of_rib = only_unreach;
    reading.disabled = walk.disabled;
    reading.treated_as_withdraw = walk.withdraw;
    let next_hop = walk.next_hop.map(Hop::Four);
    let lists = [next_hop.map(|hop| (hop, classic.clone())), multiprotocol];
    if walk.withdraw {
        reading.withdrawn.extend(classic);
    }
    for (hop, list) in lists.into_iter().flatten() {
        if walk.withdraw {
            reading.withdrawn.extend(list);
        } else {
            reading
                .announced
                .extend(list.into_iter().map(|path| (path, hop)));
        }
    }
    if !reading.announced.is_empty() {
        reading.attributes = walk.attributes;
    }
    Verdict::Read(Box::new(reading))
}

// From here on the crate's types, to be compared with the above.

impl From<&CodecContext> for Session {
    fn from(context: &CodecContext) -> Self {
        let both = |set: FamilySet| [set.has(Family::IPV4_UNICAST), set.has(Family::IPV6_UNICAST)];
        Self {
            families: both(context.families),
            path_ids: both(context.add_path_receive),
            four_octet_as: context.four_octet_as,
            ipv4_over_ipv6: context.extended_next_hop,
            external: context.peer_is_external,
            first_as: context.enforce_first_as.map(|asn| asn.0),
            sets: context.allow_as_set,
            strict: context.strict_attributes,
            disables: context.afi_safi_disable,
        }
    }
}

impl From<&Nlri> for Path {
    fn from(nlri: &Nlri) -> Self {
        let (family, bits) = match nlri.prefix.addr() {
            std::net::IpAddr::V4(address) => (0, u128::from(address.to_bits()) << 96),
            std::net::IpAddr::V6(address) => (1, address.to_bits()),
        };
        Self {
            family,
            length: nlri.prefix.len(),
            bits,
            id: nlri.path_id.map(|id| id.0),
        }
    }
}

impl From<NextHop> for Hop {
    fn from(next_hop: NextHop) -> Self {
        match next_hop {
            NextHop::V4(address) => Self::Four(address.to_bits()),
            NextHop::V6 { global, link_local } => Self::Six(
                global.map(|address| address.to_bits()),
                link_local.map(|address| address.to_bits()),
            ),
        }
    }
}

impl From<&PathAttributes> for Attributes {
    fn from(of: &PathAttributes) -> Self {
        let bits = [
            (PartialBits::AGGREGATOR, 7),
            (PartialBits::COMMUNITIES, 8),
            (PartialBits::EXTENDED_COMMUNITIES, 16),
            (PartialBits::IPV6_EXTENDED_COMMUNITIES, 25),
            (PartialBits::LARGE_COMMUNITIES, 32),
            (PartialBits::ONLY_TO_CUSTOMER, 35),
        ];
        Self {
            origin: of.origin as u8,
            path: of
                .as_path
                .segments()
                .map(|(kind, members)| {
                    let members = members.iter().map(|asn| asn.0).collect();
                    (kind == SegmentKind::Set, members)
                })
                .collect(),
            med: of.med.map(|med| med.0),
            local_pref: of.local_pref.map(|value| value.0),
            atomic_aggregate: of.atomic_aggregate,
            aggregator: of
                .aggregator
                .map(|aggregator| (aggregator.asn.0, aggregator.addr.to_bits())),
            communities: of.communities.iter().map(|one| one.0).collect(),
            originator: of.originator_id.map(|id| id.get()),
            clusters: of.cluster_list.iter().map(|id| id.get()).collect(),
            extended: of.extended_communities.iter().map(|one| one.0).collect(),
            ipv6_extended: of
                .ipv6_extended_communities
                .iter()
                .map(|one| one.0)
                .collect(),
            large: of
                .large_communities
                .iter()
                .map(|one| [one.asn.0, one.data1, one.data2])
                .collect(),
            only_to_customer: of.only_to_customer.map(|asn| asn.0),
            unknown: of
                .unknown
                .iter()
                .map(|one| (one.code.0, one.value.to_vec()))
                .collect(),
            partial: bits
                .into_iter()
                .filter(|(bit, _)| of.partial.contains(*bit))
                .map(|(_, code)| code)
                .collect(),
        }
    }
}

/// What the codec makes of the message, in the reference's words.
///
/// # Panics
/// It is no UPDATE.
pub(crate) fn seen(result: &Result<Message, DecodeError>) -> Verdict {
    let update = match result {
        Ok(Message::Update(update)) => update,
        Ok(other) => panic!("{other:?}"),
        Err(error) => {
            let code = Notification::from(error).code;
            return Verdict::Reset([(code.code, code.subcode)].into());
        }
    };
    let announced = update.announced.iter().flat_map(|one| {
        one.nlri
            .iter()
            .map(|nlri| (Path::from(nlri), Hop::from(one.next_hop)))
    });
    Verdict::Read(Box::new(Reading {
        withdrawn: update.withdrawn.iter().map(Path::from).collect(),
        announced: announced.collect(),
        attributes: update
            .attributes
            .as_deref()
            .map(Attributes::from)
            .unwrap_or_default(),
        end_of_rib: update
            .end_of_rib
            .map(|family| usize::from(family == Family::IPV6_UNICAST)),
        disabled: [Family::IPV4_UNICAST, Family::IPV6_UNICAST]
            .map(|family| update.disabled.has(family)),
        treated_as_withdraw: update.was_treated_as_withdraw(),
    }))
}

/// # Panics
/// The codec reads the UPDATE otherwise than the reference.
#[track_caller]
pub(crate) fn hold_against_reference(
    octets: &[u8],
    context: &CodecContext,
    result: &Result<Message, DecodeError>,
) {
    let expected = read(octets, &context.into());
    let seen = seen(result);
    assert!(
        expected.allows(&seen),
        "{octets:02x?}\nin {context:?}\nis {expected:?}\nfor the reference, and\n   {seen:?}"
    );
}

impl Verdict {
    /// Whether the codec's verdict is one this allows: of several reasons to end the session it names one.
    pub(crate) fn allows(&self, seen: &Self) -> bool {
        match (self, seen) {
            (Self::Reset(reasons), Self::Reset(named)) => named.is_subset(reasons),
            _ => self == seen,
        }
    }
}
