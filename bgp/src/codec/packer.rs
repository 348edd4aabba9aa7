//! UPDATEs out of routes: as many prefixes as fit into each message, the attributes copied from a
//! block that was encoded once.
//!
//! IPv4 prefixes with an IPv4 next hop go into the fields RFC 4271 has for them, everything else
//! into the multiprotocol attributes, which come first (RFC 7606 §5.1). A message holds prefixes of one kind
//! only. All functions append to `out` and leave it as it was when they err.

use bytes::{BufMut, BytesMut};

use super::attribute::{NextHop, PathAttributes};
use super::attribute_list::{AttributesBlock, attributes_block};
use super::error::EncodeError;
use super::iana::{AttributeCode, AttributeFlags, MessageType};
use super::update::{Nlri, Update};
use super::{CodecContext, HEADER_LEN, framing, mp_nlri, nlri as list};
use crate::family::Family;

/// Flags, type and two octets of length: a multiprotocol attribute until its size is known.
const MP_HEADER_LEN: usize = 4;

/// Appends UPDATEs that announce `nlri` with the attributes of `block`.
///
/// # Errors
/// The attributes are too long for this peer, the next hop cannot be sent, or a prefix is of
/// another family or wrongly with or without path identifier.
pub fn encode_announcements(
    block: &AttributesBlock,
    next_hop: NextHop,
    family: Family,
    nlri: impl IntoIterator<Item = Nlri>,
    context: &CodecContext,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    Announcer::new(block, next_hop, family, context)?.encode(nlri, context, out)
}

/// UPDATEs that announce, but for their prefixes: for whoever announces more with the same attributes later.
#[derive(Clone, Debug)]
pub(crate) struct Announcer {
    family: Family,
    /// What every message holds up to its prefixes, behind the header.
    prelude: Vec<u8>,
    /// What follows the prefixes, where they go into an attribute.
    behind: Option<AttributesBlock>,
}

impl Announcer {
    /// # Errors
    /// The attributes are too long for any message, or the next hop cannot be sent.
    pub(crate) fn new(
        block: &AttributesBlock,
        next_hop: NextHop,
        family: Family,
        context: &CodecContext,
    ) -> Result<Self, EncodeError> {
        let (head, tail) = block.parts();
        let mut prelude = Vec::with_capacity(16 + head.len() + tail.len());
        prelude.put_u16(0);
        let behind = match (family, next_hop) {
            (Family::IPV4_UNICAST, NextHop::V4(addr)) => {
                let length = block.len() + 7;
                prelude.put_u16(
                    u16::try_from(length).map_err(|_| EncodeError::AttributesTooLong { length })?,
                );
                prelude.put_slice(head);
                prelude.put_slice(&[
                    AttributeFlags::TRANSITIVE.bits(),
                    AttributeCode::NEXT_HOP.0,
                    4,
                ]);
                prelude.put_u32(addr.to_bits());
                prelude.put_slice(tail);
                None
            }
            _ => {
                prelude.put_u16(0);
                put_mp_header(AttributeCode::MP_REACH_NLRI, &mut prelude);
                mp_nlri::write_reach(family, next_hop, context, &mut prelude)?;
                Some(block.clone())
            }
        };
        let announcer = Self {
            family,
            prelude,
            behind,
        };
        room(&announcer.prelude, announcer.place(), family, context)?;
        Ok(announcer)
    }

    fn place(&self) -> Place<'_> {
        match &self.behind {
            None => Place::NlriField,
            Some(block) => {
                let (head, tail) = block.parts();
                Place::Attribute { head, tail }
            }
        }
    }

    /// Appends UPDATEs for these prefixes.
    ///
    /// # Errors
    /// A prefix is of another family or wrongly with or without path identifier.
    pub(crate) fn encode(
        &self,
        nlri: impl IntoIterator<Item = Nlri>,
        context: &CodecContext,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        pack(&self.prelude, self.place(), self.family, nlri, context, out)
    }
}

/// Appends UPDATEs that withdraw `nlri`.
///
/// # Errors
/// A prefix is of another family or wrongly with or without path identifier.
pub fn encode_withdrawals(
    family: Family,
    nlri: impl IntoIterator<Item = Nlri>,
    context: &CodecContext,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let mut prelude = Vec::with_capacity(16);
    prelude.put_u16(0);
    let place = if family == Family::IPV4_UNICAST {
        Place::WithdrawnField
    } else {
        prelude.put_u16(0);
        put_mp_header(AttributeCode::MP_UNREACH_NLRI, &mut prelude);
        prelude.put_u16(family.afi.0);
        prelude.put_u8(family.safi.0);
        Place::Attribute {
            head: &[],
            tail: &[],
        }
    };
    pack(&prelude, place, family, nlri, context, out)
}

/// Appends the End-of-RIB marker of `family` (RFC 4724 §2): an empty UPDATE for IPv4 unicast,
/// whatever way its prefixes were sent, an empty MP_UNREACH_NLRI for others.
pub fn encode_end_of_rib(family: Family, out: &mut BytesMut) {
    let start = framing::start(MessageType::Update, out);
    out.put_u16(0);
    if family == Family::IPV4_UNICAST {
        out.put_u16(0);
    } else {
        out.put_u16(6);
        out.put_slice(&[
            AttributeFlags::OPTIONAL.bits(),
            AttributeCode::MP_UNREACH_NLRI.0,
            3,
        ]);
        out.put_u16(family.afi.0);
        out.put_u8(family.safi.0);
    }
    framing::finish(start, out);
}

impl Update {
    /// Appends this UPDATE, cut into messages that hold one kind of prefixes each: withdrawals,
    /// announcements, End-of-RIB.
    ///
    /// # Errors
    /// As [`encode_announcements`].
    pub fn encode(&self, context: &CodecContext, out: &mut BytesMut) -> Result<(), EncodeError> {
        let start = out.len();
        self.encode_parts(context, out)
            .inspect_err(|_| out.truncate(start))
    }

    fn encode_parts(&self, context: &CodecContext, out: &mut BytesMut) -> Result<(), EncodeError> {
        for family in Family::ALL {
            let of_family = |nlri: &&Nlri| nlri.prefix.family() == family;
            encode_withdrawals(
                family,
                self.withdrawn.iter().filter(of_family).copied(),
                context,
                out,
            )?;
        }
        let none = PathAttributes::default();
        let block = attributes_block(self.attributes.as_deref().unwrap_or(&none), context)?;
        for announcement in &self.announced {
            let Some(first) = announcement.nlri.first() else {
                continue;
            };
            let (family, nlri) = (first.prefix.family(), announcement.nlri.iter().copied());
            encode_announcements(&block, announcement.next_hop, family, nlri, context, out)?;
        }
        if let Some(family) = self.end_of_rib {
            encode_end_of_rib(family, out);
        }
        Ok(())
    }
}

/// Where the prefixes of a message go, and what follows them.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// The end of the message.
    NlriField,
    /// The start of the message.
    WithdrawnField,
    /// A multiprotocol attribute, followed by the others in two parts.
    Attribute { head: &'a [u8], tail: &'a [u8] },
}

fn put_mp_header(code: AttributeCode, out: &mut Vec<u8>) {
    out.put_u8((AttributeFlags::OPTIONAL | AttributeFlags::EXTENDED_LENGTH).bits());
    out.put_u8(code.0);
    out.put_u16(0);
}

/// Where the prefixes of a message must end; there is room for one at least.
fn room(
    prelude: &[u8],
    place: Place<'_>,
    family: Family,
    context: &CodecContext,
) -> Result<usize, EncodeError> {
    let behind = match place {
        Place::NlriField => 0,
        Place::WithdrawnField => 2,
        Place::Attribute { head, tail } => head.len() + tail.len(),
    };
    let longest = list::max_encoded_len(family, context.sends_path_ids(family));
    let fits = |end: &usize| HEADER_LEN + prelude.len() + longest <= *end;
    let end = context.max_send_len().checked_sub(behind).filter(fits);
    end.ok_or(EncodeError::AttributesTooLong {
        length: prelude.len() + behind,
    })
}

fn pack(
    prelude: &[u8],
    place: Place<'_>,
    family: Family,
    nlri: impl IntoIterator<Item = Nlri>,
    context: &CodecContext,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let path_ids = context.sends_path_ids(family);
    let end = room(prelude, place, family, context)?;
    let origin = out.len();
    let mut start = None;
    for nlri in nlri {
        if nlri.prefix.family() != family || nlri.path_id.is_some() != path_ids {
            out.truncate(origin);
            return Err(EncodeError::Nlri(nlri));
        }
        if let Some(position) = start
            && out.len() - position + list::encoded_len(&nlri) > end
        {
            close(position, place, out);
            start = None;
        }
        if start.is_none() {
            let position = framing::start(MessageType::Update, out);
            out.put_slice(prelude);
            start = Some(position);
        }
        list::write(&nlri, out);
    }
    if let Some(position) = start {
        close(position, place, out);
    }
    Ok(())
}

/// Completes the message that starts at `position`: what follows its prefixes and every length.
fn close(position: usize, place: Place<'_>, out: &mut BytesMut) {
    let body = position + HEADER_LEN;
    match place {
        Place::NlriField => {}
        Place::WithdrawnField => {
            let length = out.len() - body - 2;
            framing::put_length(out, body, length);
            out.put_u16(0);
        }
        Place::Attribute { head, tail } => {
            let attribute = body + 4;
            let value = attribute + MP_HEADER_LEN;
            let length = out.len() - value;
            if let Ok(short) = u8::try_from(length) {
                // Old speakers expect the short form where it does.
                out.copy_within(value.., value - 1);
                out.truncate(out.len() - 1);
                if let Some([flags, _, field]) =
                    out.get_mut(attribute..).and_then(<[u8]>::first_chunk_mut)
                {
                    *flags &= !AttributeFlags::EXTENDED_LENGTH.bits();
                    *field = short;
                }
            } else {
                framing::put_length(out, value - 2, length);
            }
            out.put_slice(head);
            out.put_slice(tail);
            let length = out.len() - attribute;
            framing::put_length(out, body + 2, length);
        }
    }
    framing::finish(position, out);
}
