//! Arguments of `%(describe:..)`.

use bstr::{BString, ByteSlice as _};

use super::arguments::{argument, flag};
use crate::archive::history::DescribeOptions;

/// Minimum number of digits of an abbreviated id that git accepts.
const MIN_DIGITS: u32 = 4;

/// Maximum number of digits of an abbreviated id.
const MAX_DIGITS: u32 = 64;

/// A `%(describe)` of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::archive) enum DescribePlaceholder {
    /// With options that git understands.
    Valid(DescribeOptions),
    /// Not expanded. As in git, no other one of the archive is.
    Malformed,
}

/// Text of the first `%(describe)` of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::archive) enum Described<'a> {
    /// The nearest tag; empty if no tag is found.
    As(&'a str),
    /// Unchanged, because an earlier file of the archive has one.
    Unchanged,
    /// Nothing, because the history is not known.
    Unknown,
}

impl DescribePlaceholder {
    /// Parses the text after `(describe`; returns the placeholder and the number of bytes from
    /// the closing parenthesis on.
    pub(super) fn parse(text: &[u8]) -> Option<(Self, usize)> {
        let mut options = DescribeOptions::default();
        let mut rest = text;
        if let Some(arguments) = text.strip_prefix(b":") {
            rest = arguments;
            loop {
                if let Some(tags) = flag(&mut rest, "tags") {
                    options.tags = tags;
                } else if let Some((value, after)) = argument(rest, "abbrev") {
                    options.abbreviated = Some(digits(value?)?);
                    rest = after;
                } else if let Some((value, after)) = argument(rest, "exclude") {
                    options.exclude.push(pattern(value?)?);
                    rest = after;
                } else if let Some((value, after)) = argument(rest, "match") {
                    options.include.push(pattern(value?)?);
                    rest = after;
                } else {
                    break;
                }
            }
        }
        rest.starts_with(b")")
            .then_some((Self::Valid(options), rest.len()))
    }
}

fn pattern(value: &[u8]) -> Option<BString> {
    (!value.is_empty()).then(|| value.into())
}

/// Parses a number of digits as `git describe --abbrev` does.
fn digits(value: &[u8]) -> Option<u32> {
    let number = value.trim_start();
    let is_negative = number.starts_with(b"-");
    let number = number
        .strip_prefix(b"-")
        .or_else(|| number.strip_prefix(b"+"))
        .unwrap_or(number);
    if number.is_empty() || !number.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = number.to_str().ok()?.parse().unwrap_or(u32::MAX);
    Some(match number {
        0 => 0,
        _ if is_negative => MIN_DIGITS,
        number => number.clamp(MIN_DIGITS, MAX_DIGITS),
    })
}
