//! What happened to peers, as `margay events` tells it.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use margay_bgp::codec;
use margay_bgp::fsm::DownCause;
use margay_bgp::speaker::events::{PeerEvent, PeerEventKind};
use margay_bgp::speaker::snapshot;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::unix::OwnedWriteHalf;

use super::answer::{ErrorCount, Event, Notification, Offence, Reply};
use super::control::{self, Control};
use crate::routing::NotRunning;

/// How often a follower looks whether the speaker is another one by now.
const LOOK: Duration = Duration::from_secs(30);

/// The events behind a number, and the number of the last one looked at.
pub(super) async fn after(
    control: &Control,
    after: u64,
    peer: &Option<String>,
) -> Result<(Vec<Event>, u64), NotRunning> {
    let clock = Clock::now();
    let events = control.routing.events(after).await?;
    let last = events.last().map_or(after, |event| event.sequence);
    let shown = events
        .iter()
        .filter(|event| peer.as_ref().is_none_or(|name| *event.peer == **name))
        .map(|event| shown(event, &clock))
        .collect();
    Ok((shown, last))
}

/// Tells events, one a line, until the other end closes.
pub(super) async fn follow(
    control: &Control,
    mut from: u64,
    peer: Option<String>,
    read: &mut (impl AsyncRead + Unpin),
    write: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let mut octet = [0];
    loop {
        let latest = control.routing.latest_event();
        let reply = match after(control, from, &peer).await {
            Ok((events, last)) => {
                from = last;
                Reply::Ok(serde_json::to_value(events).map_err(io::Error::other)?)
            }
            Err(NotRunning) => Reply::Error("the BGP speaker does not run".into()),
        };
        // Whoever writes nothing for a while is still heard; an answer without events only says so.
        control::say(write, &reply).await?;
        if matches!(reply, Reply::Error(_)) {
            return Ok(());
        }
        let news = async {
            match latest {
                Some(mut latest) => {
                    // Ended: the next look says so.
                    let _ = latest.wait_for(|latest| *latest > from).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = news => {}
            () = tokio::time::sleep(LOOK) => {}
            read = read.read(&mut octet) => match read {
                Ok(0) | Err(_) => return Ok(()),
                Ok(_) => {}
            },
        }
    }
}

/// Translates the speaker's clock, which knows no date.
struct Clock {
    instant: Instant,
    time: SystemTime,
}

impl Clock {
    fn now() -> Self {
        Self {
            instant: Instant::now(),
            time: SystemTime::now(),
        }
    }

    fn date(&self, at: Instant) -> String {
        let ago = self.instant.saturating_duration_since(at);
        let time = self.time.checked_sub(ago).unwrap_or(UNIX_EPOCH);
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil(days);
        format!(
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            second / 3600,
            second / 60 % 60,
            second % 60,
            since.subsec_millis()
        )
    }
}

/// The date of a day since 1970 in the Gregorian calendar, counted from the first of March, where leap days come last.
const fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400;
    (if month <= 2 { year + 1 } else { year }, month, day)
}

fn shown(event: &PeerEvent, clock: &Clock) -> Event {
    let mut shown = Event {
        sequence: event.sequence,
        time: clock.date(event.at),
        peer: event.peer.to_string(),
        address: event.address.ip().to_string(),
        by: event.kind.by().map(|by| by.name().into()),
        ..Event::default()
    };
    match &event.kind {
        PeerEventKind::State { from, to, cause } => {
            shown.kind = "state".into();
            shown.from = Some(from.name().into());
            shown.to = Some(to.name().into());
            if let Some(cause) = cause {
                shown.reason = Some(cause.to_string());
                shown.notification = notification(cause);
            }
        }
        PeerEventKind::Malformed {
            reason,
            action,
            prefixes,
            octets,
            length,
            more,
        } => {
            shown.kind = "malformed".into();
            shown.reason = Some(reason.clone());
            shown.action = Some(action.name().into());
            shown.prefixes = prefixes.iter().map(ToString::to_string).collect();
            shown.octets = Some(hex(octets));
            shown.length = Some(*length);
            shown.more = Some(*more);
        }
        PeerEventKind::Warning(_) => {
            shown.kind = "warning".into();
            shown.reason = Some(event.kind.to_string());
        }
        PeerEventKind::Path {
            from,
            to,
            diagnostic,
            ..
        } => {
            shown.kind = "path".into();
            shown.from = Some(from.name().into());
            shown.to = Some(to.name().into());
            shown.reason = Some(diagnostic.to_string());
        }
        PeerEventKind::Removed(why) => {
            shown.kind = "removed".into();
            shown.reason = Some(why.to_string());
        }
    }
    shown
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "other causes have no NOTIFICATION"
)]
fn notification(cause: &DownCause) -> Option<Notification> {
    let (received, said): (bool, &codec::Notification) = match cause {
        DownCause::NotificationSent(said) => (false, said),
        DownCause::NotificationReceived(said) => (true, said),
        _ => return None,
    };
    Some(Notification {
        received,
        code: said.code.code,
        subcode: said.code.subcode,
        name: said.code.to_string(),
        text: said.text(),
        data: hex(&said.data),
    })
}

fn hex(octets: &Bytes) -> String {
    format!("{octets:x}")
}

pub(super) fn error_count(count: snapshot::ErrorCount) -> ErrorCount {
    ErrorCount {
        class: count.class.name().into(),
        attribute: count.attribute.map(|code| code.to_string()),
        reason: count.reason.into(),
        action: count.action.name().into(),
        count: count.count,
    }
}

pub(super) fn offence(offence: snapshot::OffenceSnapshot) -> Offence {
    Offence {
        ago: offence.ago.as_secs(),
        reason: offence.reason,
        action: offence.action.name().into(),
        prefixes: offence.prefixes.iter().map(ToString::to_string).collect(),
        octets: hex(&offence.octets),
        length: offence.length,
    }
}

#[cfg(test)]
mod tests {
    use margay_bgp::speaker::errors::ErrorAction;

    use super::*;

    #[test]
    fn days_become_dates_across_leap_days() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(11_017), (2000, 3, 1));
        assert_eq!(civil(20_819), (2027, 1, 1));
    }

    #[test]
    fn a_shutdown_is_told_with_its_text_and_whose_it_was() {
        let said = codec::Notification::with_text(
            codec::ErrorCode::ADMINISTRATIVE_SHUTDOWN,
            "maintenance",
        );
        let event = PeerEvent {
            sequence: 7,
            at: Instant::now(),
            peer: "tor".into(),
            address: "10.0.0.1:179".parse().expect("an address"),
            kind: PeerEventKind::State {
                from: margay_bgp::fsm::State::Established,
                to: margay_bgp::fsm::State::Idle,
                cause: Some(DownCause::NotificationReceived(said)),
            },
        };
        let shown = shown(&event, &Clock::now());
        assert_eq!(shown.by.as_deref(), Some("peer"));
        let notification = shown.notification.expect("there is one");
        assert_eq!((notification.code, notification.subcode), (6, 2));
        assert_eq!(notification.text.as_deref(), Some("maintenance"));
        assert!(notification.received);
    }

    #[test]
    fn a_message_that_was_cut_is_told_with_its_length_and_how_many_had_no_event() {
        let event = PeerEvent {
            sequence: 8,
            at: Instant::now(),
            peer: "tor".into(),
            address: "10.0.0.1:179".parse().expect("an address"),
            kind: PeerEventKind::Malformed {
                reason: "ORIGIN: invalid value".into(),
                action: ErrorAction::DisableFamily,
                prefixes: Vec::new(),
                octets: Bytes::from_static(&[0xff; 4]),
                length: 5000,
                more: 3,
            },
        };
        let shown = serde_json::to_value(shown(&event, &Clock::now())).expect("plain values");
        assert_eq!(shown["octets"], "ffffffff");
        assert_eq!(
            (&shown["length"], &shown["more"]),
            (&5000.into(), &3.into())
        );
        assert_eq!(
            (&shown["by"], &shown["action"]),
            (&"peer".into(), &"disable-family".into())
        );
    }
}
