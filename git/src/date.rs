//! Dates as the options of git's commands take them, such as `--mtime=yesterday`.

use std::time::Duration;

use gix_date::Zoned;

use crate::error::{Error, ErrorKind, Result};
use crate::escaped_excerpt;

/// A point in time, in a time zone, from which relative dates are counted.
#[derive(Debug, Clone)]
pub struct LocalTime(Zoned);

impl LocalTime {
    /// Reads the system's clock and its time zone.
    pub fn now() -> Self {
        Self(Zoned::now())
    }

    /// Makes a time in UTC, of a number of seconds since 1970.
    pub fn utc(seconds: i64) -> Self {
        let epoch: Zoned = "1970-01-01T00:00:00[UTC]"
            .parse()
            .expect("because it is a valid date");
        let distance = Duration::from_secs(seconds.unsigned_abs());
        let moved = if seconds < 0 {
            epoch.checked_sub(distance)
        } else {
            epoch.checked_add(distance)
        };
        Self(moved.unwrap_or(epoch))
    }

    /// Returns the seconds since 1970.
    pub fn seconds(&self) -> i64 {
        self.0.timestamp().as_second()
    }

    /// Parses a date as `git archive --mtime` does, and returns its seconds since 1970: seconds
    /// after `@`, the formats in which git prints dates, ISO 8601, a day alone (at this time of the
    /// day), `yesterday`, or a distance such as `2.weeks.ago`. A date without a zone is one of this
    /// time's zone.
    ///
    /// # Errors
    /// `Config` for a text that is not a date. (Git takes it for this time.)
    pub fn parse(&self, text: &str) -> Result<i64> {
        if let Some(seconds) = self.parse_without_zone(text) {
            return Ok(seconds);
        }
        let parsed = gix_date::parse(text, Some(self.0.clone()));
        parsed.map(|time| time.seconds).map_err(|_| {
            let shown = escaped_excerpt(text.as_bytes());
            Error::new(ErrorKind::Config, format!("'{shown}' is not a date"))
                .with_hint("give one as in `2026-01-31 12:00:00 +0000`, or seconds: `@1700000000`")
        })
    }

    /// Parses `2026-01-31`, `2026-01-31 12:00` and `2026-01-31T12:00:00`.
    fn parse_without_zone(&self, text: &str) -> Option<i64> {
        let (date, time) = match text.split_once([' ', 'T']) {
            Some((date, time)) => (date, Some(time)),
            None => (text, None),
        };
        let [year, month, day] = numbers(date, '-')?.try_into().ok()?;
        if date.len() != "2026-01-31".len() {
            return None;
        }
        let mut fields = (self.0.with())
            .year(year)
            .month(i8::try_from(month).ok()?)
            .day(i8::try_from(day).ok()?);
        if let Some(time) = time {
            let time = numbers(time, ':')?;
            let &[hour, minute, ref second @ ..] = time.as_slice() else {
                return None;
            };
            let second = match second {
                [] => 0,
                [second] => *second,
                _ => return None,
            };
            fields = fields
                .hour(i8::try_from(hour).ok()?)
                .minute(i8::try_from(minute).ok()?)
                .second(i8::try_from(second).ok()?);
        }
        let found = fields.build().ok()?;
        Some(found.timestamp().as_second())
    }
}

/// Parses digits between separators.
fn numbers(text: &str, separator: char) -> Option<Vec<i16>> {
    let parts = text.split(separator);
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    parts
        .map(|part| part.parse().ok().filter(|_| is_number(part)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use branchline_test_support::git;

    use super::*;

    /// Returns the seconds that git's approxidate finds, which `GIT_TEST_DATE_NOW` does not reach.
    fn as_git(folder: &Path, text: &str) -> i64 {
        let option = format!("--since={text}");
        let found = git::git(folder, ["rev-parse", &option]).unwrap();
        found.trim_start_matches("--max-age=").parse().unwrap()
    }

    #[test]
    fn dates_are_those_of_git() {
        let folder = tempfile::tempdir().unwrap();
        git::init(folder.path()).unwrap();
        for text in [
            "@0 +0000",
            "@1700000000",
            "1700000000",
            "@1700000000 +0100",
            "1700000000 -0230",
            "2026-01-31",
            "2026-01-31 12:00",
            "2026-01-31 12:34:56",
            "2026-01-31T12:34:56",
            "2026-01-31T12:34:56Z",
            "2026-01-31T12:34:56+01:00",
            "2026-01-31 12:34:56 -0530",
            "20260131T123456",
            "Sat Jan 31 12:34:56 2026 +0100",
            "Sat, 31 Jan 2026 12:34:56 +0100",
            "now",
            "yesterday",
            "2 days ago",
            "3.weeks.ago",
            "1 month ago",
            "last year",
            "two hours 5 minutes ago",
        ] {
            // Without a zone, git reads the local one, which is UTC in `git`.
            let before = LocalTime::utc(LocalTime::now().seconds());
            let expected = as_git(folder.path(), text);
            let found = before.parse(text).unwrap();
            assert!(
                (expected - 2..=expected).contains(&found),
                "{text}: {found}, and git finds {expected}"
            );
        }
    }

    #[test]
    fn a_text_that_is_not_a_date_is_refused() {
        let now = LocalTime::utc(1_700_000_000);
        assert_eq!(now.seconds(), 1_700_000_000);
        assert_eq!(LocalTime::utc(-5).seconds(), -5);
        for text in ["", "garbage", "2026-13-01", "2026-02-30", "@", "-", "\0"] {
            let error = now.parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{text:?}");
        }
    }
}
