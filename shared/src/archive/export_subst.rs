//! `export-subst`: replaces `$Format:..$` in a file by what `git log --format` prints for
//! the archived commit.
//!
//! | placeholder | becomes |
//! |---|---|
//! | `%H %T %P` | the ids of commit, tree and parents |
//! | `%h %t %p` | their first 7 digits; git takes more in a repository of many objects, and its size is not told by the API |
//! | `%an %ae %al %at %ad %aD %ai %aI %as`, the same with `c` | the author's, the committer's |
//! | `%aN %aE %aL`, `%cN %cE %cL` | as the small letters: no `.mailmap` is read |
//! | `%ar %ah`, `%cr %ch` | the date as `%ad`: "3 days ago" would differ from one run to the next |
//! | `%s %f %b %B` | subject, subject as a file name, body, whole message |
//! | `%e` | nothing: the API tells the message in UTF-8 |
//! | `%d %D` | nothing: decorations need the repository's refs at that moment |
//! | `%(describe..)` | nothing: it needs the tags and the history (git expands only the first one) |
//! | `%(trailers..)`, `%S`, `%N` | left as it stands (git, too, leaves `%S` and `%N`) |
//! | `%G?` | `N` without a signature, `E` with one: it cannot be checked without keys |
//! | `%GG %GS %GK %GF %GP`, `%GT` | nothing; `undefined` |
//! | `%gD %gd %gs %gn %gN %ge %gE` | nothing: there is no reflog |
//! | `%m` | `>` |
//! | `%n %% %x00` | line feed, percent sign, the byte |
//! | `%C(..)`, `%Cred ..` | nothing: an archive has no colours |
//! | `%<(n,trunc)`, `%>(..)`, `%><(..)`, `%>>(..)`, `%<|(n)` .. | pads and cuts the next placeholder |
//! | `%w(..)` | nothing: text is not wrapped |
//! | `%+x`, `%-x`, `% x` | as git: a line feed or space before what is not empty, none before what is |
//!
//! Anything else stays as it stands, as with git.

use bstr::ByteSlice as _;
use jiff::Timestamp;
use jiff::tz::Offset;

use crate::codecommit::{Commit, Signature};
use crate::error::{Error, ErrorKind, Result};

/// What git allows as a width.
const MAX_WIDTH: i64 = 16 * 1024;

/// How many digits stand for an id.
const ABBREVIATED: usize = 7;

/// The most bytes that placeholders may add to a file: a few letters can ask for a width
/// of 16 KiB.
const MAX_GROWTH: usize = 16 << 20;

/// Expands all placeholders of `bytes`; `None` when there are none.
///
/// Errors: `FileTooLarge` when the result has 16 MiB more than `bytes`.
pub(super) fn expand(bytes: &[u8], commit: &Commit) -> Result<Option<Vec<u8>>> {
    const START: &[u8] = b"$Format:";
    let mut out = Vec::new();
    let mut rest = bytes;
    let limit = bytes.len().saturating_add(MAX_GROWTH);
    while let Some(start) = rest.find(START) {
        let format = &rest[start + START.len()..];
        let Some(end) = format.find_byte(b'$') else {
            break;
        };
        out.extend_from_slice(&rest[..start]);
        // git's formats are C strings.
        let ends_at = format[..end].find_byte(0).unwrap_or(end);
        Expansion {
            commit,
            out: &mut out,
            pad: None,
            limit,
        }
        .run(&format[..ends_at])?;
        rest = &format[end + 1..];
    }
    if rest.len() == bytes.len() {
        return Ok(None);
    }
    out.extend_from_slice(rest);
    Ok(Some(out))
}

/// How the next placeholder is padded.
#[derive(Clone, Copy)]
struct Pad {
    side: Side,
    // Columns; or, when `to_column`, the column to reach.
    width: i64,
    to_column: bool,
    cut: Cut,
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Right,
    Left,
    Both,
    LeftAndSteal,
}

#[derive(Clone, Copy)]
enum Cut {
    No,
    End,
    Start,
    Middle,
}

struct Expansion<'a> {
    commit: &'a Commit,
    // All of the file so far: padding to a column looks back.
    out: &'a mut Vec<u8>,
    pad: Option<Pad>,
    // How long the file may become.
    limit: usize,
}

impl Expansion<'_> {
    fn run(&mut self, mut format: &[u8]) -> Result<()> {
        while let Some(percent) = format.find_byte(b'%') {
            self.out.extend_from_slice(&format[..percent]);
            format = &format[percent + 1..];
            if let Some(rest) = format.strip_prefix(b"%") {
                self.out.push(b'%');
                format = rest;
                continue;
            }
            match self.item(format) {
                0 => self.out.push(b'%'),
                taken => format = &format[taken..],
            }
            if self.out.len() > self.limit {
                return Err(Error::new(
                    ErrorKind::FileTooLarge,
                    "the `$Format:$` of a file makes more than 16 MiB",
                ));
            }
        }
        self.out.extend_from_slice(format);
        Ok(())
    }

    /// Expands what follows a `%`; returns how many bytes it took, 0 when it is unknown.
    fn item(&mut self, format: &[u8]) -> usize {
        let (before_full, before_empty): (&[u8], bool) = match format.first() {
            Some(b'+') => (b"\n", false),
            Some(b' ') => (b" ", false),
            Some(b'-') => (b"", true),
            _ => return self.padded(format),
        };
        if format.get(1) == Some(&b'w') {
            return 0;
        }
        let start = self.out.len();
        let taken = self.padded(&format[1..]);
        if self.out.len() == start && before_empty {
            while self.out.last() == Some(&b'\n') {
                self.out.pop();
            }
        } else if self.out.len() != start {
            self.out.splice(start..start, before_full.iter().copied());
        }
        taken + 1
    }

    fn padded(&mut self, format: &[u8]) -> usize {
        let Some(pad) = self.pad else {
            let mut text = Vec::new();
            let taken = self.format_placeholder(format, &mut text);
            self.out.extend_from_slice(&text);
            return taken;
        };
        let mut text = Vec::new();
        let mut taken = 0;
        loop {
            let colour = format.get(taken) == Some(&b'C');
            taken += self.format_placeholder(&format[taken..], &mut text);
            if !colour || format.get(taken) != Some(&b'%') {
                break;
            }
            taken += 1;
        }
        self.pad = None;
        self.put_padded(pad, &text);
        taken
    }

    fn put_padded(&mut self, pad: Pad, text: &[u8]) {
        let mut columns = pad.width;
        if pad.to_column {
            let line = self.out.rfind_byte(b'\n').map_or(0, |feed| feed + 1);
            columns -= width(&self.out[line..]);
        }
        let wide = width(text);
        if pad.side == Side::LeftAndSteal {
            while wide > columns && self.out.len() > 1 && self.out.last() == Some(&b' ') {
                self.out.pop();
                columns += 1;
            }
        }
        if wide > columns {
            let gone = wide - (columns - 2);
            match pad.cut {
                Cut::No => self.out.extend_from_slice(text),
                Cut::Start => self.out.extend(replaced(text, 0, gone)),
                Cut::Middle => self.out.extend(replaced(text, columns / 2 - 1, gone)),
                Cut::End => self.out.extend(replaced(text, columns - 2, gone)),
            }
            return;
        }
        let free = usize::try_from(columns - wide).unwrap_or(0);
        let before = match pad.side {
            Side::Right => 0,
            Side::Left | Side::LeftAndSteal => free,
            Side::Both => free / 2,
        };
        self.out.resize(self.out.len() + before, b' ');
        self.out.extend_from_slice(text);
        self.out.resize(self.out.len() + free - before, b' ');
    }

    /// Expands one placeholder into `text`.
    fn format_placeholder(&mut self, format: &[u8], text: &mut Vec<u8>) -> usize {
        let commit = self.commit;
        let Some(&letter) = format.first() else {
            return 0;
        };
        let mut put = |value: &str| text.extend_from_slice(value.as_bytes());
        match letter {
            b'n' => put("\n"),
            b'x' => {
                let byte = format.get(1..3).and_then(|digits| hex::decode(digits).ok());
                let Some(byte) = byte else { return 0 };
                text.extend(byte);
                return 3;
            }
            b'C' => return colour(format),
            b'w' => return wrapping(format),
            b'<' | b'>' => return self.padding(format).unwrap_or(0),
            b'H' => put(&commit.commit_id.to_string()),
            b'T' => put(&commit.tree_id.to_string()),
            b'h' => put(&abbreviated(&commit.commit_id)),
            b't' => put(&abbreviated(&commit.tree_id)),
            b'P' => {
                let ids: Vec<_> = commit.parents.iter().map(ToString::to_string).collect();
                put(&ids.join(" "));
            }
            b'p' => {
                let ids: Vec<_> = commit.parents.iter().map(abbreviated).collect();
                put(&ids.join(" "));
            }
            b'm' => put(">"),
            b'd' | b'D' | b'e' => {}
            b'g' => {
                return match format.get(1) {
                    Some(b'D' | b'd' | b's' | b'n' | b'N' | b'e' | b'E') => 2,
                    _ => 0,
                };
            }
            b'G' => {
                match format.get(1) {
                    Some(b'?') if commit.additional_data.contains("gpgsig") => put("E"),
                    Some(b'?') => put("N"),
                    Some(b'T') => put("undefined"),
                    Some(b'G' | b'S' | b'K' | b'F' | b'P') => {}
                    _ => return 0,
                }
                return 2;
            }
            b'a' => return person(&commit.author, format.get(1), text),
            b'c' => return person(&commit.committer, format.get(1), text),
            b'B' => put(&commit.message),
            b's' => text.extend(subject(&commit.message).0),
            b'f' => text.extend(file_name(&commit.message)),
            b'b' => put(subject(&commit.message).1),
            b'(' if format.starts_with(b"(describe") => {
                return match (format.get(9), format.find_byte(b')')) {
                    (Some(b')' | b':'), Some(end)) => end + 1,
                    _ => 0,
                };
            }
            _ => return 0,
        }
        1
    }

    /// Reads `<(n,trunc)` and its kin.
    fn padding(&mut self, format: &[u8]) -> Option<usize> {
        let (side, mut rest) = match format {
            [b'<', rest @ ..] => (Side::Right, rest),
            [b'>', b'<', rest @ ..] => (Side::Both, rest),
            [b'>', b'>', rest @ ..] => (Side::LeftAndSteal, rest),
            [_, rest @ ..] => (Side::Left, rest),
            [] => return None,
        };
        let mut to_column = false;
        if let Some(after) = rest.strip_prefix(b"|") {
            (to_column, rest) = (true, after);
        }
        let rest = rest.strip_prefix(b"(")?;
        let end = rest.find_byteset(b",)")?;
        // Columns from the right edge of the terminal: there is none.
        let width = leading_number(&rest[..end]).filter(|width| (1..=MAX_WIDTH).contains(width))?;
        let mut close = end;
        let mut cut = Cut::No;
        if rest[end] == b',' {
            close += rest[end..].find_byte(b')')?;
            cut = match &rest[end + 1..close] {
                b"trunc" => Cut::End,
                b"ltrunc" => Cut::Start,
                b"mtrunc" => Cut::Middle,
                _ => return None,
            };
        }
        self.pad = Some(Pad {
            side,
            width,
            to_column,
            cut,
        });
        Some(format.len() - rest.len() + close + 1)
    }
}

fn abbreviated(id: &impl ToString) -> String {
    let mut text = id.to_string();
    text.truncate(ABBREVIATED);
    text
}

/// `%C(..)` and the four names that need no parentheses.
fn colour(format: &[u8]) -> usize {
    if format.get(1) == Some(&b'(') {
        return format.find_byte(b')').map_or(0, |end| end + 1);
    }
    ["red", "green", "blue", "reset"]
        .iter()
        .find(|name| format[1..].starts_with(name.as_bytes()))
        .map_or(0, |name| name.len() + 1)
}

fn wrapping(format: &[u8]) -> usize {
    if format.get(1) != Some(&b'(') {
        return 0;
    }
    format.find_byte(b')').map_or(0, |end| end + 1)
}

/// The number at the start, as C's `strtol` reads it.
fn leading_number(text: &[u8]) -> Option<i64> {
    let text = text.trim_start();
    let signed = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let digits = text[signed..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    text[..signed + digits].to_str().ok()?.parse().ok()
}

fn person(who: &Signature, part: Option<&u8>, text: &mut Vec<u8>) -> usize {
    let Some(&part) = part else { return 0 };
    let local = who.email.split('@').next().unwrap_or_default();
    match part {
        b'n' | b'N' => text.extend_from_slice(who.name.as_bytes()),
        b'e' | b'E' => text.extend_from_slice(who.email.as_bytes()),
        b'l' | b'L' => text.extend_from_slice(local.as_bytes()),
        b't' | b'd' | b'D' | b'r' | b'i' => {
            text.extend_from_slice(date(&who.date, part).unwrap_or_default().as_bytes());
        }
        b'I' | b's' | b'h' => match date(&who.date, part) {
            Some(date) => text.extend_from_slice(date.as_bytes()),
            None => return 0,
        },
        _ => return 0,
    }
    2
}

/// Seconds since the epoch, of `1484167798 -0800`.
pub(super) fn seconds(date: &str) -> Option<i64> {
    date.split(' ').next()?.parse().ok()
}

fn date(text: &str, form: u8) -> Option<String> {
    let (seconds, zone) = text.split_once(' ').unwrap_or((text, "+0000"));
    let seconds: i64 = seconds.parse().ok()?;
    if form == b't' {
        return Some(seconds.to_string());
    }
    // +0530 is 530 for git: hours times hundred, and minutes.
    let zone: i32 = zone.trim().parse().unwrap_or(0);
    // No place on earth is further off.
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

/// The subject (the first lines up to an empty one, joined) and the body.
pub(super) fn subject(message: &str) -> (Vec<u8>, &str) {
    let mut rest = skip_empty_lines(message);
    let mut lines = Vec::new();
    while !rest.is_empty() {
        let (line, after) = split_line(rest);
        let line = line.trim_end_matches(is_space);
        if line.is_empty() {
            break;
        }
        lines.push(line);
        rest = after;
    }
    (lines.join(" ").into_bytes(), skip_empty_lines(rest))
}

fn skip_empty_lines(mut text: &str) -> &str {
    while !text.is_empty() {
        let (line, after) = split_line(text);
        if !line.trim_end_matches(is_space).is_empty() {
            break;
        }
        text = after;
    }
    text
}

fn split_line(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}

fn is_space(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | '\n' | '\r')
}

/// The first line of the subject with everything unusual made a `-`.
fn file_name(message: &str) -> Vec<u8> {
    let line = split_line(skip_empty_lines(message)).0.as_bytes();
    let mut name: Vec<u8> = Vec::new();
    let mut gap = false;
    let mut at = 0;
    while at < line.len() {
        let byte = line[at];
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_') {
            if gap && !name.is_empty() {
                name.push(b'-');
            }
            gap = false;
            name.push(byte);
            while byte == b'.' && line.get(at + 1) == Some(&b'.') {
                at += 1;
            }
        } else {
            gap = true;
        }
        at += 1;
    }
    while matches!(name.last(), Some(b'.' | b'-')) {
        name.pop();
    }
    name
}

/// The columns that `text` takes on a terminal: none for combining marks, two for wide
/// East Asian letters and emoji.
fn width(text: &[u8]) -> i64 {
    text.to_str_lossy().chars().map(columns).sum()
}

fn columns(letter: char) -> i64 {
    match u32::from(letter) {
        0..0x20 | 0x7f..0xa0 | 0x300..=0x36f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// `text` with `gone` columns from column `from` on replaced by `..`.
fn replaced(text: &[u8], from: i64, gone: i64) -> Vec<u8> {
    let mut out = String::new();
    let mut at = 0;
    let mut marked = false;
    for letter in text.to_str_lossy().chars() {
        if at >= from && at < from + gone {
            if !marked {
                out.push_str("..");
                marked = true;
            }
        } else {
            out.push(letter);
        }
        at += columns(letter);
    }
    out.into_bytes()
}
