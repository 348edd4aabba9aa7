//! NOTIFICATION (RFC 4271 §4.5), shutdown communication (RFC 9003) and hard reset (RFC 8538).

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::error::DecodeError;
use super::iana::{ErrorCode, MessageType};
use super::{CodecContext, HEADER_LEN, framing};
use crate::family::Family;

/// The last message of a session: why it ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Notification {
    /// Code and subcode, which may be unknown ones.
    pub code: ErrorCode,
    /// What the code says belongs here; not to be trusted further than logging it.
    pub data: Bytes,
}

impl Notification {
    /// A notification without data.
    #[must_use]
    pub const fn new(code: ErrorCode) -> Self {
        Self {
            code,
            data: Bytes::new(),
        }
    }

    /// A notification with data.
    #[must_use]
    pub const fn with_data(code: ErrorCode, data: Bytes) -> Self {
        Self { code, data }
    }

    /// Administrative shutdown or reset with a text for the operator at the other end, cut at a
    /// character boundary to the 255 octets RFC 9003 allows. Without text the data is empty,
    /// which every implementation understands.
    #[must_use]
    pub fn with_text(code: ErrorCode, text: &str) -> Self {
        let cut = (0..=text.len().min(255))
            .rev()
            .find(|&at| text.is_char_boundary(at));
        let text = cut.and_then(|cut| text.get(..cut)).unwrap_or_default();
        let Ok(length @ 1..) = u8::try_from(text.len()) else {
            return Self::new(code);
        };
        let mut data = BytesMut::with_capacity(1 + text.len());
        data.put_u8(length);
        data.put_slice(text.as_bytes());
        Self::with_data(code, data.freeze())
    }

    /// Maximum number of prefixes reached: which family, and what the limit is (RFC 4486 §4).
    #[must_use]
    pub fn maximum_prefixes(family: Family, limit: u32) -> Self {
        let mut data = BytesMut::with_capacity(7);
        data.put_u16(family.afi.0);
        data.put_u8(family.safi.0);
        data.put_u32(limit);
        Self::with_data(ErrorCode::MAXIMUM_PREFIXES, data.freeze())
    }

    /// This notification wrapped in a Hard Reset, which asks a peer that keeps routes through
    /// NOTIFICATIONs not to (RFC 8538 §3.1).
    #[must_use]
    pub fn into_hard_reset(self) -> Self {
        let mut data = BytesMut::with_capacity(2 + self.data.len());
        data.put_u8(self.code.code);
        data.put_u8(self.code.subcode);
        data.put_slice(&self.data);
        Self::with_data(ErrorCode::HARD_RESET, data.freeze())
    }

    /// The notification inside a Hard Reset; `None` where this is none or holds nothing.
    #[must_use]
    pub fn hard_reset_cause(&self) -> Option<Self> {
        if self.code != ErrorCode::HARD_RESET {
            return None;
        }
        let (&[code, subcode], _) = self.data.split_first_chunk()?;
        Some(Self::with_data(
            ErrorCode::new(code, subcode),
            self.data.slice(2..),
        ))
    }

    /// The text of an administrative shutdown or reset, also inside a Hard Reset. `None` where
    /// there is none, where its length disagrees with the data and where it is no UTF-8: then the
    /// data is only fit to be logged raw (RFC 9003 §2).
    #[must_use]
    pub fn text(&self) -> Option<String> {
        match self.code {
            ErrorCode::HARD_RESET => self.hard_reset_cause()?.shutdown_text(),
            _ => self.shutdown_text(),
        }
    }

    /// Reads what follows the header.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let Some((&[code, subcode], data)) = body.split_first_chunk() else {
            return Err(DecodeError::Frame(HEADER_LEN + body.len()));
        };
        Ok(Self::with_data(
            ErrorCode::new(code, subcode),
            Bytes::copy_from_slice(data),
        ))
    }

    /// Appends the message to `out`. Data that does not fit is cut off: what it is about is often
    /// an attribute longer than the peer takes.
    pub fn encode(&self, context: &CodecContext, out: &mut BytesMut) {
        let start = framing::start(MessageType::Notification, out);
        out.put_u8(self.code.code);
        out.put_u8(self.code.subcode);
        let room = context.max_send_len() - (HEADER_LEN + 2);
        out.put_slice(self.data.get(..room).unwrap_or(&self.data));
        framing::finish(start, out);
    }

    fn shutdown_text(&self) -> Option<String> {
        if !matches!(
            self.code,
            ErrorCode::ADMINISTRATIVE_SHUTDOWN | ErrorCode::ADMINISTRATIVE_RESET
        ) {
            return None;
        }
        let (&length @ 1.., rest) = self.data.split_first()? else {
            return None;
        };
        let text = rest.get(..usize::from(length))?;
        Some(std::str::from_utf8(text).ok()?.to_owned())
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(cause) = self.hard_reset_cause() {
            write!(f, " because of {}", cause.code)?;
        }
        match self.text() {
            // The text is the peer's: escaped, so it cannot forge lines of a log.
            Some(text) => write!(f, ": {text:?}"),
            None if self.data.is_empty() => Ok(()),
            None => write!(f, ", data {:02x?}", &*self.data),
        }
    }
}
