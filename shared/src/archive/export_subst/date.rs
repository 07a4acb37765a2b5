//! Dates of commits in the formats of `git log`.

use jiff::Timestamp;
use jiff::tz::Offset;

/// Formats the date of a [`Signature`](crate::git::object::Signature) as ISO 8601, as git's `%cI`;
/// `None` when the date is not valid.
pub fn strict_iso_date(date: &str) -> Option<String> {
    format_date(date, b'I')
}

/// Formats `text` (`1484167798 -0800`) as the placeholder `form` (`%ad`: `d`); `None` when the
/// date is not valid.
pub(super) fn format_date(text: &str, form: u8) -> Option<String> {
    let (seconds, zone) = text.split_once(' ').unwrap_or((text, "+0000"));
    let seconds: i64 = seconds.parse().ok()?;
    if form == b't' {
        return Some(seconds.to_string());
    }
    // As in git, +0530 is the number 530: hours times 100, plus minutes.
    let zone: i32 = zone.trim().parse().unwrap_or(0);
    // A zone of more than four digits is not valid.
    let zone = if (-9999..=9999).contains(&zone) {
        zone
    } else {
        0
    };
    let offset = Offset::from_seconds((zone / 100 * 60 + zone % 100) * 60).unwrap_or(Offset::UTC);
    let at = offset.to_datetime(Timestamp::from_second(seconds).ok()?);
    let sign = if zone < 0 { '-' } else { '+' };
    let (hours, minutes) = (zone.abs() / 100, zone.abs() % 100);
    Some(match form {
        b'D' => format!(
            "{} {sign}{hours:02}{minutes:02}",
            at.strftime("%a, %-d %b %Y %H:%M:%S")
        ),
        b'i' => format!(
            "{} {sign}{hours:02}{minutes:02}",
            at.strftime("%Y-%m-%d %H:%M:%S")
        ),
        b'I' if zone == 0 => format!("{}Z", at.strftime("%Y-%m-%dT%H:%M:%S")),
        b'I' => format!(
            "{}{sign}{hours:02}:{minutes:02}",
            at.strftime("%Y-%m-%dT%H:%M:%S")
        ),
        b's' => at.strftime("%Y-%m-%d").to_string(),
        _ => format!(
            "{} {sign}{hours:02}{minutes:02}",
            at.strftime("%a %b %-d %H:%M:%S %Y")
        ),
    })
}
