//! The short messages the machine sends by itself, and what the neighbour's NOTIFICATIONs mean for the next attempt.

use bytes::{Bytes, BytesMut};

use super::event::Shutdown;
use super::state::State;
use crate::codec::{
    CodecContext, ErrorCode, HEADER_LEN, KEEPALIVE, Message, Notification, Open, RefreshKind,
    RouteRefresh,
};
use crate::family::Family;

/// What an orderly end says.
pub(super) struct Notice {
    pub(super) notification: Notification,
    /// The peer shall keep nothing: to be wrapped in a Hard Reset where it knows that (RFC 8538 §3).
    pub(super) hard: bool,
    /// Routes may outlive it here.
    pub(super) may_keep_routes: bool,
}

/// The NOTIFICATION of an orderly end; none where it is silent.
///
/// RFC 8538 §5 advises which subcodes to wrap: those after which the session does not come back by itself.
pub(super) fn shutdown(shutdown: &Shutdown) -> Option<Notice> {
    let (notification, hard, may_keep_routes) = match shutdown {
        Shutdown::Silent => return None,
        Shutdown::Administrative { text } => (
            with_text(ErrorCode::ADMINISTRATIVE_SHUTDOWN, text.as_deref()),
            true,
            false,
        ),
        Shutdown::Deconfigured => (Notification::new(ErrorCode::PEER_DECONFIGURED), true, false),
        Shutdown::AdministrativeReset { text, hard } => (
            with_text(ErrorCode::ADMINISTRATIVE_RESET, text.as_deref()),
            *hard,
            true,
        ),
        Shutdown::ConfigurationChange => (
            Notification::new(ErrorCode::OTHER_CONFIGURATION_CHANGE),
            false,
            true,
        ),
        Shutdown::BfdDown { keep_routes } => {
            (Notification::new(ErrorCode::BFD_DOWN), false, *keep_routes)
        }
    };
    Some(Notice {
        notification,
        hard,
        may_keep_routes,
    })
}

fn with_text(code: ErrorCode, text: Option<&str>) -> Notification {
    Notification::with_text(code, text.unwrap_or_default())
}

/// 5/1, 5/2 or 5/3: a message that its state does not know (RFC 6608 §4).
pub(super) fn unexpected_message(state: State, message: &Message) -> Notification {
    let code = match state {
        State::OpenSent => ErrorCode::UNEXPECTED_IN_OPEN_SENT,
        State::OpenConfirm => ErrorCode::UNEXPECTED_IN_OPEN_CONFIRM,
        State::Established => ErrorCode::UNEXPECTED_IN_ESTABLISHED,
        State::Idle | State::Active | State::Connect => ErrorCode::FSM_UNSPECIFIC,
    };
    Notification::with_data(
        code,
        Bytes::copy_from_slice(&[message.message_type() as u8]),
    )
}

/// What a NOTIFICATION of the neighbour means for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Another connection won.
    Collision,
    /// It starts over and is back at once.
    Reset,
    /// It wants no session for now.
    Ceased,
    /// Something of ours is wrong in its eyes, or its hold timer ran out.
    Error,
}

/// Reads a NOTIFICATION of the neighbour, also inside a Hard Reset.
pub(super) fn meaning(notification: &Notification) -> Meaning {
    let code = notification
        .hard_reset_cause()
        .map_or(notification.code, |cause| cause.code);
    match code {
        ErrorCode::CONNECTION_COLLISION => Meaning::Collision,
        ErrorCode::ADMINISTRATIVE_RESET | ErrorCode::OTHER_CONFIGURATION_CHANGE => Meaning::Reset,
        ErrorCode::MAXIMUM_PREFIXES
        | ErrorCode::ADMINISTRATIVE_SHUTDOWN
        | ErrorCode::PEER_DECONFIGURED
        | ErrorCode::CONNECTION_REJECTED
        | ErrorCode::OUT_OF_RESOURCES => Meaning::Ceased,
        _ => Meaning::Error,
    }
}

/// Whether the neighbour could not cope with the optional parameters of our OPEN: 2/4 from speakers older than RFC 5492,
/// 2/7 from some that took its predecessor literally.
pub(super) fn refuses_capabilities(notification: &Notification) -> bool {
    matches!(
        notification.code,
        ErrorCode::UNSUPPORTED_OPTIONAL_PARAMETER | ErrorCode::UNSUPPORTED_CAPABILITY
    )
}

/// Whether routes must not outlive it (RFC 8538 §3).
pub(super) fn is_hard_reset(notification: &Notification) -> bool {
    notification.code == ErrorCode::HARD_RESET
}

/// An OPEN on the wire.
pub(super) fn open(open: &Open) -> Bytes {
    let mut out = BytesMut::with_capacity(256);
    if open.encode(&mut out).is_err() {
        // Capabilities longer than a message: more than any configuration yields. Without them an OPEN always fits.
        let bare = Open {
            capabilities: Vec::new(),
            ..open.clone()
        };
        drop(bare.encode(&mut out));
    }
    out.freeze()
}

/// A NOTIFICATION on the wire. It keeps to the length every peer takes.
pub(super) fn encode(notification: &Notification) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER_LEN + 2 + notification.data.len());
    notification.encode(&CodecContext::before_open(), &mut out);
    out.freeze()
}

/// A request for all routes of a family, on the wire.
pub(super) fn refresh(family: Family) -> Bytes {
    let mut out = BytesMut::new();
    let kind = RefreshKind::Request;
    RouteRefresh { family, kind }.encode(&mut out);
    out.freeze()
}

/// A KEEPALIVE on the wire.
pub(super) const fn keepalive() -> Bytes {
    Bytes::from_static(&KEEPALIVE)
}
