//! RFC 3339 times as the records carry them, in UTC and whole seconds when written.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: i64 = 86_400;

/// `2026-01-02T03:04:05Z`.
pub(super) fn format(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
        .cast_signed();
    let (year, month, day) = date_of(seconds.div_euclid(DAY));
    let rest = seconds.rem_euclid(DAY);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Reads what [`format()`] and Go write: fractions of a second and offsets are understood. `None` for anything else and for times
/// before 1970.
pub(super) fn parse(text: &str) -> Option<SystemTime> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let days = days_of(date.next()??, date.next()??, date.next()??)?;
    let zone_at = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at_checked(zone_at)?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let seconds = {
        let mut parts = clock.splitn(3, ':').map(|part| part.parse::<i64>().ok());
        parts.next()?? * 3600 + parts.next()?? * 60 + parts.next()??
    };
    let nanoseconds: u64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let (sign, hours) = zone.split_at_checked(1)?;
            let (hours, minutes) = hours.split_once(':')?;
            let offset = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
            if sign == "-" { -offset } else { offset }
        }
    };
    let seconds = days
        .checked_mul(DAY)?
        .checked_add(seconds)?
        .checked_sub(offset)?;
    UNIX_EPOCH
        .checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))?
        .checked_add(Duration::from_nanos(nanoseconds))
}

// Howard Hinnant's civil_from_days and days_from_civil, with years that start in March so that a leap day is a year's last.

fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (
        year + era * 400 + i64::from(month <= 2),
        month,
        of_year - (153 * shifted + 2) / 5 + 1,
    )
}

fn days_of(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || !(0..=9999).contains(&year) {
        return None;
    }
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let shifted = (month + 9) % 12;
    let of_year = (153 * shifted + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_are_written_and_read() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_323_045, "2026-01-02T03:04:05Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(format(time), text);
            assert_eq!(parse(text), Some(time));
        }
    }

    #[test]
    fn offsets_and_fractions_are_understood() {
        let time = UNIX_EPOCH + Duration::from_secs(1_767_323_045);
        assert_eq!(parse("2026-01-02T05:04:05+02:00"), Some(time));
        assert_eq!(
            parse("2026-01-02T03:04:05.25Z"),
            Some(time + Duration::from_millis(250))
        );
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "now",
            "2026-01-02",
            "2026-13-02T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-01-02T03:04:05",
            "9-9T1:1Zé",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
