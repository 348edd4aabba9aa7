//! Reading the messages of one connection.
//!
//! Who tells a table says the same attributes in one UPDATE after the other, and a node's every change has those of the one
//! before. What they came to is therefore remembered, as octets and as a value: the same octets again are compared, not read,
//! and the routes of both messages share one value, which interning finds equal at a glance.

use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;

use super::{
    CodecContext, DecodeError, HEADER_LEN, Message, MessageType, Notification, Open,
    PathAttributes, RouteRefresh, Update, framing,
};

/// Longer lists are rare, and a thousand connections remember one each.
const REMEMBERED_LEN: usize = 512;

/// Reads messages that mean the same: of one connection, from one OPEN on.
#[derive(Debug, Default)]
pub struct Decoder {
    context: CodecContext,
    latest: Remembered,
}

impl Decoder {
    /// Nothing is remembered yet.
    #[must_use]
    pub fn new(context: CodecContext) -> Self {
        Self {
            context,
            latest: Remembered::default(),
        }
    }

    /// How messages are read.
    #[must_use]
    pub const fn context(&self) -> &CodecContext {
        &self.context
    }

    /// Reads one whole message, as [`framing`] delivers it. What comes out does not depend on earlier messages.
    ///
    /// # Errors
    /// The session does not survive this message; the error makes the NOTIFICATION that says so.
    pub fn decode(&mut self, message: &[u8]) -> Result<Message, DecodeError> {
        let context = &self.context;
        let (message_type, body) = match framing::peek(message, context.max_receive_len())? {
            Some((message_type, length)) if length == message.len() => {
                match message.split_at_checked(HEADER_LEN) {
                    Some((_, body)) => (message_type, body),
                    None => return Err(DecodeError::Frame(message.len())),
                }
            }
            _ => return Err(DecodeError::Frame(message.len())),
        };
        Ok(match message_type {
            MessageType::Open => Message::Open(Open::decode(body)?),
            MessageType::Update => {
                let mut update = Update::decode(body, context, &mut self.latest)?;
                if !update.faults.is_empty() {
                    update.malformed = Some(Bytes::copy_from_slice(message));
                }
                Message::Update(update)
            }
            MessageType::Notification => Message::Notification(Notification::decode(body)?),
            MessageType::Keepalive => Message::Keepalive,
            MessageType::RouteRefresh => {
                Message::RouteRefresh(RouteRefresh::decode(message, context)?)
            }
        })
    }
}

/// Reads one whole message, as [`framing`] delivers it.
///
/// # Errors
/// As [`Decoder::decode`].
pub fn decode(message: &[u8], context: &CodecContext) -> Result<Message, DecodeError> {
    Decoder::new(*context).decode(message)
}

/// The latest attributes of prefixes in the NLRI field that nothing was wrong with. Attributes that hold prefixes themselves,
/// the multiprotocol ones, are never the same twice and not remembered.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    octets: Vec<u8>,
    read: Option<(Arc<PathAttributes>, Ipv4Addr)>,
}

impl Remembered {
    /// What these octets came to the last time.
    pub(super) fn recall(&self, octets: &[u8]) -> Option<(&Arc<PathAttributes>, Ipv4Addr)> {
        let (attributes, next_hop) = self.read.as_ref()?;
        (self.octets == octets).then_some((attributes, *next_hop))
    }

    /// Keeps what octets came to, in the place of what was kept before.
    pub(super) fn keep(
        &mut self,
        octets: &[u8],
        attributes: &Arc<PathAttributes>,
        next_hop: Ipv4Addr,
    ) {
        if octets.len() <= REMEMBERED_LEN {
            self.octets.clear();
            self.octets.extend_from_slice(octets);
            self.read = Some((Arc::clone(attributes), next_hop));
        }
    }
}
