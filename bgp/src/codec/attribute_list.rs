//! The attributes of an UPDATE, read as RFC 7606 has it: a table says for each type which flags
//! it must have and what becomes of the message if it is malformed.
//!
//! Reading never stops at a malformed value. It stops where the next attribute cannot be found,
//! and even then the prefixes behind the list still can be.

use std::net::Ipv4Addr;

use bytes::Bytes;

use super::CodecContext;
use super::as_path::{AsPath, AsPathError, AsPathRules};
use super::attribute::{
    Aggregator, LocalPref, Med, Origin, PartialBits, PathAttributes, UnknownAttribute,
};
use super::community::{
    Community, CommunitySet, ExtendedCommunity, Ipv6ExtendedCommunity, LargeCommunity,
};
use super::error::{AttributeFault, DecodeError, EncodeError, FaultAction, FaultKind};
use super::iana::{AttributeCode as Code, AttributeFlags as Flags};
use super::mp_nlri::{MpError, MpReach, MpUnreach};
use crate::asn::Asn;
use crate::family::{Afi, Family, FamilySet, Safi};
use crate::router_id::RouterId;

const WELL_KNOWN: Flags = Flags::TRANSITIVE;
const TRANSITIVE: Flags = Flags::OPTIONAL.union(Flags::TRANSITIVE);
const NON_TRANSITIVE: Flags = Flags::OPTIONAL;

/// How an attribute must look and what happens when it does not.
struct Rule {
    /// Optional and transitive bit; the other bits may be anything (RFC 7606 §3 c).
    flags: Flags,
    /// Answer to a malformed value. Wrong flags are always treat-as-withdraw.
    on_malformed: FaultAction,
}

/// The types whose values are read. Others are passed on or dropped by their flags alone.
const fn rule(code: Code) -> Option<Rule> {
    use FaultAction::{AttributeDiscard, TreatAsWithdraw};
    let (flags, on_malformed) = match code {
        Code::ORIGIN | Code::AS_PATH | Code::NEXT_HOP | Code::LOCAL_PREF => {
            (WELL_KNOWN, TreatAsWithdraw)
        }
        Code::ATOMIC_AGGREGATE => (WELL_KNOWN, AttributeDiscard),
        Code::MULTI_EXIT_DISC | Code::ORIGINATOR_ID | Code::CLUSTER_LIST => {
            (NON_TRANSITIVE, TreatAsWithdraw)
        }
        Code::AGGREGATOR | Code::AS4_PATH | Code::AS4_AGGREGATOR => (TRANSITIVE, AttributeDiscard),
        Code::COMMUNITIES
        | Code::EXTENDED_COMMUNITIES
        | Code::IPV6_EXTENDED_COMMUNITIES
        | Code::LARGE_COMMUNITIES
        | Code::ONLY_TO_CUSTOMER => (TRANSITIVE, TreatAsWithdraw),
        _ => return None,
    };
    Some(Rule {
        flags,
        on_malformed,
    })
}

/// An attribute as it lies in the message.
#[derive(Clone, Copy)]
struct Raw<'a> {
    flags: Flags,
    code: Code,
    value: &'a [u8],
    /// Header and value.
    octets: &'a [u8],
}

impl<'a> Raw<'a> {
    /// Takes the first attribute off `octets`, or names the one that is cut off.
    fn split(octets: &'a [u8]) -> Result<(Self, &'a [u8]), Code> {
        let (&[flags, code], after) = octets.split_first_chunk().ok_or(Code(0))?;
        let code = Code(code);
        let flags = Flags::from_bits_retain(flags);
        let (length, after) = if flags.contains(Flags::EXTENDED_LENGTH) {
            let (&length, after) = after.split_first_chunk().ok_or(code)?;
            (usize::from(u16::from_be_bytes(length)), after)
        } else {
            let (&length, after) = after.split_first().ok_or(code)?;
            (usize::from(length), after)
        };
        let (value, rest) = after.split_at_checked(length).ok_or(code)?;
        let (own, _) = octets
            .split_at_checked(octets.len() - rest.len())
            .ok_or(code)?;
        let raw = Self {
            flags,
            code,
            value,
            octets: own,
        };
        Ok((raw, rest))
    }

    fn mp_error(&self, reason: &'static str) -> DecodeError {
        DecodeError::MpNlri {
            code: self.code,
            reason,
            attribute: Bytes::copy_from_slice(self.octets),
        }
    }
}

/// A set of attribute types.
#[derive(Default)]
struct CodeSet([u128; 2]);

impl CodeSet {
    /// Adds a type; false if it was there.
    fn insert(&mut self, code: Code) -> bool {
        let [low, high] = &mut self.0;
        let half = if code.0 < 128 { low } else { high };
        let bit = 1 << (code.0 & 127);
        let new = *half & bit == 0;
        *half |= bit;
        new
    }

    fn contains(&self, code: Code) -> bool {
        let [low, high] = self.0;
        let half = if code.0 < 128 { low } else { high };
        half & 1 << (code.0 & 127) != 0
    }
}

/// Everything an attribute list says.
#[derive(Default)]
pub(crate) struct AttributeList<'a> {
    /// The attributes proper, AS4_PATH and AS4_AGGREGATOR worked in.
    pub(crate) attributes: PathAttributes,
    pub(crate) next_hop: Option<Ipv4Addr>,
    pub(crate) mp_reach: Option<(MpReach<'a>, &'a [u8])>,
    pub(crate) mp_unreach: Option<(MpUnreach<'a>, &'a [u8])>,
    pub(crate) faults: Vec<AttributeFault>,
    /// Families whose attribute could not be read.
    pub(crate) disabled: FamilySet,
    seen: CodeSet,
    /// MP_REACH_NLRI of a family not negotiated was there.
    foreign_reach: bool,
    withdraw: bool,
    count: usize,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<Aggregator>,
}

impl<'a> AttributeList<'a> {
    /// Reads the list. Missing attributes are not missed yet: that depends on the prefixes.
    pub(crate) fn decode(
        mut octets: &'a [u8],
        context: &CodecContext,
    ) -> Result<Self, DecodeError> {
        let mut list = Self::default();
        while !octets.is_empty() {
            match Raw::split(octets) {
                Ok((raw, rest)) => {
                    list.take(raw, context)?;
                    octets = rest;
                }
                Err(code) => {
                    list.count += 1;
                    list.fault(code, FaultKind::Overrun, FaultAction::TreatAsWithdraw);
                    break;
                }
            }
        }
        list.merge_four_octet();
        Ok(list)
    }

    /// Whether the announced prefixes count as withdrawn.
    pub(crate) const fn treat_as_withdraw(&self) -> bool {
        self.withdraw
    }

    /// Whether there is an attribute that is not MP_UNREACH_NLRI.
    pub(crate) fn has_more_than_unreach(&self) -> bool {
        self.count > usize::from(self.seen.contains(Code::MP_UNREACH_NLRI))
    }

    /// Whether prefixes were announced in a family not negotiated.
    pub(crate) const fn has_foreign_reach(&self) -> bool {
        self.foreign_reach
    }

    pub(crate) fn fault(&mut self, code: Code, kind: FaultKind, action: FaultAction) {
        self.withdraw |= action == FaultAction::TreatAsWithdraw;
        self.faults.push(AttributeFault { code, kind, action });
    }

    /// Checks what every announcement must have (RFC 7606 §3 d) and fills in what internal peers
    /// may leave out.
    pub(crate) fn require_mandatory(&mut self, ipv4_nlri: bool, context: &CodecContext) {
        let wanted = [
            (Code::ORIGIN, true),
            (Code::AS_PATH, true),
            (Code::NEXT_HOP, ipv4_nlri),
        ];
        for (code, wanted) in wanted {
            if wanted && !self.seen.contains(code) {
                self.fault(code, FaultKind::Missing, FaultAction::TreatAsWithdraw);
            }
        }
        if !self.withdraw
            && let Some(expected) = context.enforce_first_as
            && self.attributes.as_path.first() != Some(expected)
        {
            self.fault(
                Code::AS_PATH,
                FaultKind::FirstAs,
                FaultAction::TreatAsWithdraw,
            );
        }
        if !context.peer_is_external {
            self.attributes.local_pref.get_or_insert_default();
        }
    }

    fn take(&mut self, raw: Raw<'a>, context: &CodecContext) -> Result<(), DecodeError> {
        use FaultAction::{AttributeDiscard, TreatAsWithdraw};
        self.count += 1;
        let Raw {
            flags, code, value, ..
        } = raw;
        let is_mp = matches!(code, Code::MP_REACH_NLRI | Code::MP_UNREACH_NLRI);
        if !self.seen.insert(code) {
            if is_mp {
                return Err(DecodeError::AttributeList(
                    "multiprotocol attribute repeated",
                ));
            }
            self.fault(code, FaultKind::Duplicate, AttributeDiscard);
            return Ok(());
        }
        let unexpected = match code {
            Code::LOCAL_PREF | Code::ORIGINATOR_ID | Code::CLUSTER_LIST => context.peer_is_external,
            Code::AS4_PATH | Code::AS4_AGGREGATOR => context.four_octet_as,
            Code::AIGP | Code::BGP_LS => true,
            _ => false,
        };
        if unexpected {
            self.fault(code, FaultKind::Unexpected, AttributeDiscard);
            return Ok(());
        }
        let kind = flags & TRANSITIVE;
        if is_mp {
            let taken = if kind == NON_TRANSITIVE {
                self.take_mp(raw, context)
            } else {
                Err(raw.mp_error("wrong flags"))
            };
            return taken.or_else(|error| self.disable(code, value, context, error));
        }
        let Some(rule) = rule(code) else {
            match kind {
                TRANSITIVE => self.pass_on(code, value),
                NON_TRANSITIVE => {}
                _ if context.strict_attributes => {
                    let attribute = Bytes::copy_from_slice(raw.octets);
                    return Err(DecodeError::UnrecognisedWellKnown(attribute));
                }
                // Departs from RFC 7606 §3 b and RFC 4271 §6.3, which end the session: BIRD and
                // FRR withdraw too, and the routes are as unusable either way.
                _ => self.fault(code, FaultKind::UnrecognisedWellKnown, TreatAsWithdraw),
            }
            return Ok(());
        };
        if kind != rule.flags {
            self.fault(code, FaultKind::Flags, TreatAsWithdraw);
        } else if let Err(kind) = self.take_value(code, value, context) {
            // Deprecated sets withdraw wherever they are (RFC 9774 §3).
            let is_set = kind == FaultKind::AsSet;
            let action = if is_set {
                TreatAsWithdraw
            } else {
                rule.on_malformed
            };
            self.fault(code, kind, action);
        } else if flags.contains(Flags::PARTIAL) {
            self.attributes.partial |= PartialBits::of(code);
        }
        Ok(())
    }

    /// Gives up the family of a multiprotocol attribute instead of the session, where that is configured and the family can
    /// still be read.
    pub(crate) fn disable(
        &mut self,
        code: Code,
        value: &[u8],
        context: &CodecContext,
        error: DecodeError,
    ) -> Result<(), DecodeError> {
        let Some((&[high, low, safi], _)) = value.split_first_chunk() else {
            return Err(error);
        };
        let family = Family::new(Afi(u16::from_be_bytes([high, low])), Safi(safi));
        if !context.afi_safi_disable || !context.families.has(family) {
            return Err(error);
        }
        self.disabled |= FamilySet::of(family);
        self.fault(code, FaultKind::Multiprotocol, FaultAction::DisableFamily);
        Ok(())
    }

    fn take_mp(&mut self, raw: Raw<'a>, context: &CodecContext) -> Result<(), DecodeError> {
        let error = if raw.code == Code::MP_REACH_NLRI {
            match MpReach::decode(raw.value, context) {
                Ok(reach) => {
                    self.mp_reach = Some((reach, raw.octets));
                    return Ok(());
                }
                Err(error) => error,
            }
        } else {
            match MpUnreach::decode(raw.value, context) {
                Ok(unreach) => {
                    self.mp_unreach = Some((unreach, raw.octets));
                    return Ok(());
                }
                Err(error) => error,
            }
        };
        match error {
            MpError::Malformed(reason) => Err(raw.mp_error(reason)),
            // Whether an attribute of fewer than five octets is well-formed is then moot.
            MpError::NotNegotiated(family) => {
                self.foreign_reach |= raw.code == Code::MP_REACH_NLRI;
                self.fault(
                    raw.code,
                    FaultKind::Family(family),
                    FaultAction::AttributeDiscard,
                );
                Ok(())
            }
        }
    }

    /// Keeps a transitive attribute nobody here understands, marked as such (RFC 4271 §5).
    fn pass_on(&mut self, code: Code, value: &[u8]) {
        let unknown = &mut self.attributes.unknown;
        let index = unknown.partition_point(|other| other.code < code);
        unknown.insert(
            index,
            UnknownAttribute {
                code,
                flags: TRANSITIVE | Flags::PARTIAL,
                value: Bytes::copy_from_slice(value),
            },
        );
    }

    fn take_value(
        &mut self,
        code: Code,
        value: &[u8],
        context: &CodecContext,
    ) -> Result<(), FaultKind> {
        let to = &mut self.attributes;
        match code {
            Code::ORIGIN => {
                let [origin] = fixed(value)?;
                to.origin = Origin::from_u8(origin).ok_or(FaultKind::Value)?;
            }
            Code::AS_PATH => {
                let rules = AsPathRules {
                    four_octet: context.four_octet_as,
                    allow_sets: context.allow_as_set,
                    skip_confederations: false,
                };
                to.as_path = AsPath::decode(value, rules).map_err(path_fault)?;
            }
            Code::AS4_PATH => {
                let rules = AsPathRules {
                    four_octet: true,
                    allow_sets: context.allow_as_set,
                    skip_confederations: true,
                };
                let path = AsPath::decode(value, rules).map_err(path_fault)?;
                if path.is_empty() {
                    return Err(FaultKind::Length);
                }
                self.as4_path = Some(path);
            }
            Code::NEXT_HOP => self.next_hop = Some(Ipv4Addr::from(fixed(value)?)),
            Code::MULTI_EXIT_DISC => to.med = Some(Med(u32::from_be_bytes(fixed(value)?))),
            Code::LOCAL_PREF => to.local_pref = Some(LocalPref(u32::from_be_bytes(fixed(value)?))),
            Code::ATOMIC_AGGREGATE => {
                let [] = fixed(value)?;
                to.atomic_aggregate = true;
            }
            Code::AGGREGATOR if !context.four_octet_as => {
                let [high, low, addr @ ..] = fixed::<6>(value)?;
                to.aggregator = Some(aggregator([0, 0, high, low], addr)?);
            }
            Code::AGGREGATOR => {
                let [a, b, c, d, addr @ ..] = fixed::<8>(value)?;
                to.aggregator = Some(aggregator([a, b, c, d], addr)?);
            }
            Code::AS4_AGGREGATOR => {
                let [a, b, c, d, addr @ ..] = fixed::<8>(value)?;
                self.as4_aggregator = Some(aggregator([a, b, c, d], addr)?);
            }
            Code::COMMUNITIES => {
                to.communities = set(value, |octets| Community(u32::from_be_bytes(octets)))?
            }
            // Identifiers of zero have no owner; RFC 7606 leaves them open, and they are taken for
            // what any other impossible value is.
            Code::ORIGINATOR_ID => {
                let id = RouterId::new(u32::from_be_bytes(fixed(value)?));
                to.originator_id = Some(id.ok_or(FaultKind::Value)?);
            }
            Code::CLUSTER_LIST => {
                let ids = chunks(value)?
                    .iter()
                    .map(|&id| RouterId::new(u32::from_be_bytes(id)));
                to.cluster_list = ids.collect::<Option<_>>().ok_or(FaultKind::Value)?;
            }
            Code::EXTENDED_COMMUNITIES => {
                to.extended_communities = set(value, |octets| {
                    ExtendedCommunity(u64::from_be_bytes(octets))
                })?;
            }
            Code::IPV6_EXTENDED_COMMUNITIES => {
                to.ipv6_extended_communities = set(value, Ipv6ExtendedCommunity)?
            }
            Code::LARGE_COMMUNITIES => {
                to.large_communities = set(value, LargeCommunity::from_octets)?
            }
            Code::ONLY_TO_CUSTOMER => {
                to.only_to_customer = Some(Asn(u32::from_be_bytes(fixed(value)?)))
            }
            // `rule` lists no other.
            _ => {}
        }
        Ok(())
    }

    /// RFC 6793 §4.2.3, once all attributes are known.
    fn merge_four_octet(&mut self) {
        let to = &mut self.attributes;
        if let (Some(aggregator), Some(four_octet)) = (&mut to.aggregator, self.as4_aggregator) {
            if aggregator.asn != Asn::AS_TRANS {
                // A two-octet speaker aggregated after the four-octet attributes were made: they
                // are about one of the routes it put together.
                return;
            }
            *aggregator = four_octet;
        }
        if let Some(as4_path) = self.as4_path.take() {
            to.as_path = std::mem::take(&mut to.as_path).merge(&as4_path);
        }
    }
}

/// A value of exactly so many octets.
fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], FaultKind> {
    value.try_into().map_err(|_| FaultKind::Length)
}

/// A value of members of so many octets, at least one.
fn chunks<const N: usize>(value: &[u8]) -> Result<&[[u8; N]], FaultKind> {
    match value.as_chunks() {
        (members @ [_, ..], []) => Ok(members),
        _ => Err(FaultKind::Length),
    }
}

fn set<const N: usize, T: Ord>(
    value: &[u8],
    member: impl Fn([u8; N]) -> T,
) -> Result<CommunitySet<T>, FaultKind> {
    Ok(chunks(value)?
        .iter()
        .map(|&octets| member(octets))
        .collect())
}

fn aggregator(asn: [u8; 4], addr: [u8; 4]) -> Result<Aggregator, FaultKind> {
    let asn = Asn(u32::from_be_bytes(asn));
    if asn.is_reserved_zero() {
        return Err(FaultKind::Value);
    }
    Ok(Aggregator {
        asn,
        addr: Ipv4Addr::from(addr),
    })
}

const fn path_fault(error: AsPathError) -> FaultKind {
    match error {
        AsPathError::Overrun | AsPathError::EmptySegment => FaultKind::Length,
        AsPathError::SegmentType(_) | AsPathError::Zero | AsPathError::Confederation => {
            FaultKind::Value
        }
        AsPathError::Set => FaultKind::AsSet,
    }
}

/// Attributes as they are sent to every peer with the same context, ready to be put into any
/// number of messages. Made once per attribute set and context by [`attributes_block`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributesBlock {
    octets: Bytes,
    /// Where NEXT_HOP belongs: behind ORIGIN and AS_PATH.
    next_hop_at: usize,
}

impl AttributesBlock {
    /// Octets of the attributes, without next hop.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "ORIGIN and AS_PATH are always there"
    )]
    pub const fn len(&self) -> usize {
        self.octets.len()
    }

    /// The attributes before and behind NEXT_HOP.
    pub(crate) fn parts(&self) -> (&[u8], &[u8]) {
        self.octets
            .split_at_checked(self.next_hop_at)
            .unwrap_or((&self.octets, &[]))
    }
}

/// Writes attributes for peers with this context: ascending by type, LOCAL_PREF and the
/// reflection attributes to internal peers only, AS numbers as wide as agreed, with AS4_PATH and
/// AS4_AGGREGATOR where two octets are too few.
///
/// # Errors
/// An attribute exceeds 65535 octets.
pub fn attributes_block(
    attributes: &PathAttributes,
    context: &CodecContext,
) -> Result<AttributesBlock, EncodeError> {
    let mut writer = Writer {
        out: Vec::with_capacity(128),
        unknown: &attributes.unknown,
        partial: attributes.partial,
    };
    let internal = !context.peer_is_external;
    let wide = context.four_octet_as;

    writer.attribute(Code::ORIGIN, WELL_KNOWN, |out| {
        out.push(attributes.origin as u8)
    })?;
    writer.attribute(Code::AS_PATH, WELL_KNOWN, |out| {
        attributes.as_path.encode(wide, out)
    })?;
    let next_hop_at = writer.out.len();
    if let Some(Med(med)) = attributes.med {
        writer.attribute(Code::MULTI_EXIT_DISC, NON_TRANSITIVE, |out| {
            out.extend(med.to_be_bytes())
        })?;
    }
    if internal {
        // Some take a route without for malformed, whatever the RFC lets them assume.
        let LocalPref(value) = attributes.local_pref.unwrap_or_default();
        writer.attribute(Code::LOCAL_PREF, WELL_KNOWN, |out| {
            out.extend(value.to_be_bytes())
        })?;
    }
    if attributes.atomic_aggregate {
        writer.attribute(Code::ATOMIC_AGGREGATE, WELL_KNOWN, |_| {})?;
    }
    if let Some(Aggregator { asn, addr }) = attributes.aggregator {
        writer.attribute(Code::AGGREGATOR, TRANSITIVE, |out| {
            if wide {
                out.extend(asn.0.to_be_bytes());
            } else {
                out.extend(asn.to_two_octets().to_be_bytes());
            }
            out.extend(addr.octets());
        })?;
    }
    writer.list(
        Code::COMMUNITIES,
        TRANSITIVE,
        &attributes.communities,
        |member| member.0.to_be_bytes(),
    )?;
    if internal {
        if let Some(id) = attributes.originator_id {
            writer.attribute(Code::ORIGINATOR_ID, NON_TRANSITIVE, |out| {
                out.extend(id.get().to_be_bytes())
            })?;
        }
        writer.list(
            Code::CLUSTER_LIST,
            NON_TRANSITIVE,
            &attributes.cluster_list,
            |id| id.get().to_be_bytes(),
        )?;
    }
    writer.list(
        Code::EXTENDED_COMMUNITIES,
        TRANSITIVE,
        &attributes.extended_communities,
        |member| member.0.to_be_bytes(),
    )?;
    if !wide && attributes.as_path.needs_four_octets() {
        writer.attribute(Code::AS4_PATH, TRANSITIVE, |out| {
            attributes.as_path.encode(true, out)
        })?;
    }
    if let Some(Aggregator { asn, addr }) = attributes.aggregator
        && !wide
        && !asn.is_two_octet()
    {
        writer.attribute(Code::AS4_AGGREGATOR, TRANSITIVE, |out| {
            out.extend(asn.0.to_be_bytes());
            out.extend(addr.octets());
        })?;
    }
    writer.list(
        Code::IPV6_EXTENDED_COMMUNITIES,
        TRANSITIVE,
        &attributes.ipv6_extended_communities,
        |member| member.0,
    )?;
    writer.list(
        Code::LARGE_COMMUNITIES,
        TRANSITIVE,
        &attributes.large_communities,
        |member| member.to_octets(),
    )?;
    if let Some(Asn(asn)) = attributes.only_to_customer {
        writer.attribute(Code::ONLY_TO_CUSTOMER, TRANSITIVE, |out| {
            out.extend(asn.to_be_bytes())
        })?;
    }
    writer.unknown_below(None)?;
    Ok(AttributesBlock {
        octets: writer.out.into(),
        next_hop_at,
    })
}

/// Writes attributes in ascending order, the unknown ones at their places between the known.
struct Writer<'a> {
    out: Vec<u8>,
    unknown: &'a [UnknownAttribute],
    partial: PartialBits,
}

impl Writer<'_> {
    fn attribute(
        &mut self,
        code: Code,
        flags: Flags,
        value: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), EncodeError> {
        self.unknown_below(Some(code))?;
        let bit = PartialBits::of(code);
        let partial = if !bit.is_empty() && self.partial.contains(bit) {
            Flags::PARTIAL
        } else {
            Flags::empty()
        };
        put_attribute(&mut self.out, code, flags | partial, value)
    }

    /// An attribute that is a list; nothing where the list is empty.
    fn list<T, const N: usize>(
        &mut self,
        code: Code,
        flags: Flags,
        members: &[T],
        octets: impl Fn(&T) -> [u8; N],
    ) -> Result<(), EncodeError> {
        if members.is_empty() {
            return Ok(());
        }
        self.attribute(code, flags, |out| {
            for member in members {
                out.extend_from_slice(&octets(member));
            }
        })
    }

    /// The unknown attributes before `code`, or all that are left.
    fn unknown_below(&mut self, code: Option<Code>) -> Result<(), EncodeError> {
        while let Some((next, rest)) = self.unknown.split_first() {
            if code.is_some_and(|code| next.code >= code) {
                break;
            }
            self.unknown = rest;
            put_attribute(&mut self.out, next.code, next.flags, |out| {
                out.extend(&next.value)
            })?;
        }
        Ok(())
    }
}

/// Appends an attribute, with a length of two octets only where it needs them.
fn put_attribute(
    out: &mut Vec<u8>,
    code: Code,
    flags: Flags,
    value: impl FnOnce(&mut Vec<u8>),
) -> Result<(), EncodeError> {
    let start = out.len();
    out.extend([flags.difference(Flags::EXTENDED_LENGTH).bits(), code.0, 0]);
    let value_start = out.len();
    value(out);
    let length = out.len() - value_start;
    if let Ok(short) = u8::try_from(length) {
        if let Some(field) = out.get_mut(value_start - 1) {
            *field = short;
        }
        return Ok(());
    }
    let [high, low] = u16::try_from(length)
        .map_err(|_| EncodeError::TooLong("attribute"))?
        .to_be_bytes();
    if let Some(header) = out
        .get_mut(start..value_start)
        .and_then(<[u8]>::first_chunk_mut::<3>)
    {
        *header = [(flags | Flags::EXTENDED_LENGTH).bits(), code.0, high];
    }
    out.insert(value_start, low);
    Ok(())
}
