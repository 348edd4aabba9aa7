//! ROUTE-REFRESH (RFC 2918) and its bounds (RFC 7313).

use bytes::{BufMut, Bytes, BytesMut};

use super::error::DecodeError;
use super::iana::MessageType;
use super::{CodecContext, HEADER_LEN, framing};
use crate::family::{Afi, Family, Safi};

/// What a ROUTE-REFRESH says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefreshKind {
    /// Send me everything again.
    Request,
    /// BoRR: what follows is everything.
    Begin,
    /// EoRR: that was everything.
    End,
    /// Another subtype; ignored.
    Other(u8),
}

/// A ROUTE-REFRESH message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteRefresh {
    /// The family it is about, which need not be one we negotiated.
    pub family: Family,
    /// What it says about it. Always `Request` on a session without enhanced route refresh,
    /// where the octet is reserved.
    pub kind: RefreshKind,
}

impl RouteRefresh {
    /// Reads a whole message; its length is at least 23. What follows the four octets is an
    /// outbound route filter (RFC 5291), which nobody was offered and which is ignored.
    pub(crate) fn decode(message: &[u8], context: &CodecContext) -> Result<Self, DecodeError> {
        let body = message
            .get(HEADER_LEN..)
            .and_then(<[u8]>::split_first_chunk);
        let Some((&[afi_high, afi_low, subtype, safi], rest)) = body else {
            return Err(DecodeError::Frame(message.len()));
        };
        let kind = match subtype {
            _ if !context.enhanced_route_refresh => RefreshKind::Request,
            0 => RefreshKind::Request,
            1 => RefreshKind::Begin,
            2 => RefreshKind::End,
            other => RefreshKind::Other(other),
        };
        if matches!(kind, RefreshKind::Begin | RefreshKind::End) && !rest.is_empty() {
            return Err(DecodeError::RouteRefreshLength(Bytes::copy_from_slice(
                message,
            )));
        }
        Ok(Self {
            family: Family::new(Afi(u16::from_be_bytes([afi_high, afi_low])), Safi(safi)),
            kind,
        })
    }

    /// Appends the message to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = framing::start(MessageType::RouteRefresh, out);
        out.put_u16(self.family.afi.0);
        out.put_u8(match self.kind {
            RefreshKind::Request => 0,
            RefreshKind::Begin => 1,
            RefreshKind::End => 2,
            RefreshKind::Other(subtype) => subtype,
        });
        out.put_u8(self.family.safi.0);
        framing::finish(start, out);
    }
}
