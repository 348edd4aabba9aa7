//! UPDATE (RFC 4271 §4.3), read as RFC 7606 demands.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::CodecContext;
use super::attribute::{NextHop, PathAttributes};
use super::attribute_list::AttributeList;
use super::decoder::Remembered;
use super::error::{AttributeFault, DecodeError, FaultAction, FaultKind};
use super::iana::AttributeCode;
use super::nlri::{self, NlriError};
use crate::family::{Family, FamilySet};
use crate::prefix::Prefix;

/// Path Identifier (RFC 7911): tells the paths of one prefix from one peer apart. Zero is as good
/// as any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u32);

/// A prefix as an UPDATE names it. Prefix and path identifier together are what a withdrawal must
/// repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nlri {
    /// The prefix.
    pub prefix: Prefix,
    /// Its path, where ADD-PATH was negotiated.
    pub path_id: Option<PathId>,
}

impl From<Prefix> for Nlri {
    fn from(prefix: Prefix) -> Self {
        Self {
            prefix,
            path_id: None,
        }
    }
}

impl fmt::Display for Nlri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path_id {
            Some(PathId(id)) => write!(f, "{} path {id}", self.prefix),
            None => self.prefix.fmt(f),
        }
    }
}

/// Prefixes announced with one next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The next hop, syntactically valid; whether it is usable is for the route's owner to say.
    pub next_hop: NextHop,
    /// The prefixes, all of one family, never none.
    pub nlri: Vec<Nlri>,
}

/// An UPDATE with every malformed attribute already dealt with: to be applied by withdrawing
/// `withdrawn`, then announcing `announced` with `attributes`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    /// Prefixes of both families that are gone. Holds the announced ones too where a fault made
    /// the whole UPDATE a withdrawal.
    pub withdrawn: Vec<Nlri>,
    /// Prefixes that are new or changed: at most one list from the NLRI field and one from
    /// MP_REACH_NLRI. Empty where `attributes` is `None`.
    pub announced: SmallVec<[Announcement; 1]>,
    /// Attributes of all of `announced`. `Some` exactly if that is not empty.
    pub attributes: Option<Arc<PathAttributes>>,
    /// The message is the End-of-RIB marker of this family (RFC 4724 §2), and says nothing else.
    pub end_of_rib: Option<Family>,
    /// Families given up for the rest of the session because of a malformed multiprotocol attribute.
    pub disabled: FamilySet,
    /// What was wrong with the attributes.
    pub faults: Vec<AttributeFault>,
    /// The whole message as it came, where something was wrong with it: to be shown, not to be read.
    pub malformed: Option<Bytes>,
}

impl Update {
    /// Whether a fault turned the announcements into withdrawals.
    #[must_use]
    pub fn was_treated_as_withdraw(&self) -> bool {
        self.faults
            .iter()
            .any(|fault| fault.action == FaultAction::TreatAsWithdraw)
    }

    /// Reads what follows the header, in the order RFC 7606 demands: every list of prefixes is
    /// read before any of them is acted upon, since a fault further on decides what that is.
    pub(super) fn decode(
        body: &[u8],
        context: &CodecContext,
        latest: &mut Remembered,
    ) -> Result<Self, DecodeError> {
        let lengths = DecodeError::AttributeList("lengths contradict the message's");
        let (withdrawn_field, rest) = split_length(body).ok_or_else(|| lengths.clone())?;
        let (attribute_octets, nlri_field) = split_length(rest).ok_or(lengths)?;

        let mut update = Self::default();
        read_field(
            withdrawn_field,
            "withdrawn routes",
            context,
            &mut update.withdrawn,
        )?;
        if attribute_octets.is_empty() && nlri_field.is_empty() {
            if withdrawn_field.is_empty() && context.families.has(Family::IPV4_UNICAST) {
                update.end_of_rib = Some(Family::IPV4_UNICAST);
            }
            return Ok(update);
        }

        if let Some((attributes, next_hop)) = latest.recall(attribute_octets) {
            let mut classic = Vec::new();
            read_field(nlri_field, "NLRI", context, &mut classic)?;
            if !classic.is_empty() {
                update.attributes = Some(Arc::clone(attributes));
                update.announce(NextHop::V4(next_hop), classic);
                return Ok(update);
            }
        }

        let mut list = AttributeList::decode(attribute_octets, context)?;
        let unreach = list.mp_unreach.take();
        if let Some((unreach, octets)) = unreach {
            let code = AttributeCode::MP_UNREACH_NLRI;
            read_mp(
                code,
                unreach.family,
                unreach.nlri,
                octets,
                context,
                &mut update.withdrawn,
            )
            .or_else(|error| list.disable(code, &family_octets(unreach.family), context, error))?;
        }
        let mut multiprotocol = Vec::new();
        let reach = list.mp_reach.take();
        if let Some((reach, octets)) = reach {
            let code = AttributeCode::MP_REACH_NLRI;
            read_mp(
                code,
                reach.family,
                reach.nlri,
                octets,
                context,
                &mut multiprotocol,
            )
            .or_else(|error| list.disable(code, &family_octets(reach.family), context, error))?;
        }
        let mut classic = Vec::new();
        read_field(nlri_field, "NLRI", context, &mut classic)?;
        if !nlri_field.is_empty() && classic.is_empty() {
            let kind = FaultKind::Family(Family::IPV4_UNICAST);
            list.fault(AttributeCode::NEXT_HOP, kind, FaultAction::AttributeDiscard);
        }

        if !classic.is_empty() || !multiprotocol.is_empty() {
            list.require_mandatory(!classic.is_empty(), context);
        } else if list.treat_as_withdraw()
            && list.has_more_than_unreach()
            && nlri_field.is_empty()
            && !list.has_foreign_reach()
            && list.disabled.is_empty()
        {
            // Whatever the attributes were about cannot be found to be withdrawn (RFC 7606 §5.2).
            // Prefixes of a family we do not speak were found, if not read, and are no loss; a family that is disabled loses
            // all it has, and that is the stronger action (§3).
            return Err(DecodeError::AttributeList(
                "malformed attributes without prefixes",
            ));
        }
        if list.treat_as_withdraw() {
            update.withdraw_too([&mut classic, &mut multiprotocol]);
        }
        if let Some((reach, _)) = reach {
            update.announce(reach.next_hop, multiprotocol);
        }
        if let Some(next_hop) = list.next_hop {
            update.announce(NextHop::V4(next_hop), classic);
        }
        if let Some((unreach, _)) = unreach
            && unreach.nlri.is_empty()
            && withdrawn_field.is_empty()
            && nlri_field.is_empty()
            && !list.has_more_than_unreach()
        {
            update.end_of_rib = Some(unreach.family);
        }
        if !update.announced.is_empty() {
            let attributes = Arc::new(list.attributes);
            if let (Some(next_hop), None, None) = (list.next_hop, reach, unreach)
                && list.faults.is_empty()
            {
                latest.keep(attribute_octets, &attributes, next_hop);
            }
            update.attributes = Some(attributes);
        }
        update.disabled = list.disabled;
        update.faults = list.faults;
        Ok(update)
    }

    /// Makes announcements withdrawals. Where there are many, they must not be there twice.
    fn withdraw_too(&mut self, lists: [&mut Vec<Nlri>; 2]) {
        for list in lists {
            if self.withdrawn.is_empty() {
                std::mem::swap(&mut self.withdrawn, list);
            } else {
                self.withdrawn.reserve_exact(list.len());
                self.withdrawn.append(list);
            }
        }
    }

    fn announce(&mut self, next_hop: NextHop, nlri: Vec<Nlri>) {
        if !nlri.is_empty() {
            self.announced.push(Announcement { next_hop, nlri });
        }
    }
}

fn family_octets(family: Family) -> [u8; 3] {
    let [high, low] = family.afi.0.to_be_bytes();
    [high, low, family.safi.0]
}

/// Splits octets behind a two-octet length into what it counts and the rest.
fn split_length(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = octets.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(length)))
}

/// Reads one of the two IPv4 fields; on a session without IPv4 unicast only to see that it is
/// well-formed.
fn read_field(
    octets: &[u8],
    name: &'static str,
    context: &CodecContext,
    out: &mut Vec<Nlri>,
) -> Result<(), DecodeError> {
    if octets.is_empty() {
        return Ok(());
    }
    let family = Family::IPV4_UNICAST;
    let path_ids = context.add_path_receive.has(family);
    nlri::read(family, octets, path_ids, out).map_err(|_| DecodeError::NetworkField(name))?;
    if !context.families.has(family) {
        out.clear();
    }
    Ok(())
}

fn read_mp(
    code: AttributeCode,
    family: Family,
    octets: &[u8],
    attribute: &[u8],
    context: &CodecContext,
    out: &mut Vec<Nlri>,
) -> Result<(), DecodeError> {
    let path_ids = context.add_path_receive.has(family);
    let before = out.len();
    nlri::read(family, octets, path_ids, out).map_err(|error: NlriError| {
        // The error may cost no more than the family: nothing of this list counts.
        out.truncate(before);
        DecodeError::MpNlri {
            code,
            reason: error.reason(),
            attribute: Bytes::copy_from_slice(attribute),
        }
    })
}
