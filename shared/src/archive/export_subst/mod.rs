//! `export-subst`: replaces `$Format:..$` in a file by the output of `git log --format` for the
//! archived commit.
//!
//! | placeholder | becomes |
//! |---|---|
//! | `%H %T %P` | the ids of commit, tree and parents |
//! | `%h %t %p` | their first 7 digits; git uses more in a repository of many objects, but the API does not return their number |
//! | `%an %ae %al %at %ad %aD %ai %aI %as`, the same with `c` | the author's, the committer's |
//! | `%aN %aE %aL`, `%cN %cE %cL` | as the small letters: no `.mailmap` is read |
//! | `%ar %ah`, `%cr %ch` | the date as `%ad`: "3 days ago" would differ from one run to the next |
//! | `%s %f %b %B` | subject, subject as a file name, body, whole message |
//! | `%e` | nothing: the API returns the message in UTF-8 |
//! | `%d %D` | nothing: decorations need the repository's refs at that moment |
//! | `%(describe..)` | nothing: it needs the tags and the history (git expands only the first one) |
//! | `%(trailers..)`, `%S`, `%N` | unchanged (git, too, leaves `%S` and `%N`) |
//! | `%G?` | `N` without a signature, `E` with one, which cannot be checked without keys |
//! | `%GG %GS %GK %GF %GP`, `%GT` | nothing; `undefined` |
//! | `%gD %gd %gs %gn %gN %ge %gE` | nothing: there is no reflog |
//! | `%m` | `>` |
//! | `%n %% %x00` | line feed, percent sign, the byte |
//! | `%C(..)`, `%Cred ..` | nothing: an archive has no colours |
//! | `%<(n,trunc)`, `%>(..)`, `%><(..)`, `%>>(..)`, `%<|(n)` .. | pads and cuts the next placeholder |
//! | `%w(..)` | nothing: text is not wrapped |
//! | `%+x`, `%-x`, `% x` | as git: a line feed or space before what is not empty, none before what is |
//!
//! Any other text is unchanged, as with git.

mod date;
mod padding;

use bstr::ByteSlice as _;

use self::date::format_date;
use self::padding::Padding;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::object::{Commit, Signature};

/// Number of hexadecimal digits of an abbreviated id.
const ABBREVIATED_DIGITS: usize = 7;

/// Maximum growth of a file by placeholders, in bytes, because a few letters can request a
/// width of 16 KiB.
const MAX_GROWTH_BYTES: usize = 16 << 20;

/// Expands all placeholders of `bytes`; `None` when there are none.
///
/// # Errors
/// `FileTooLarge` when the result is more than 16 MiB larger than `bytes`.
pub(super) fn expand(bytes: &[u8], commit: &Commit) -> Result<Option<Vec<u8>>> {
    const START: &[u8] = b"$Format:";
    let mut out = Vec::new();
    let mut rest = bytes;
    let limit = bytes.len().saturating_add(MAX_GROWTH_BYTES);
    while let Some(start) = rest.find(START) {
        let format = &rest[start + START.len()..];
        let Some(end) = format.find_byte(b'$') else {
            break;
        };
        out.extend_from_slice(&rest[..start]);
        // A NUL ends the format, because git handles it as a C string.
        let ends_at = format[..end].find_byte(0).unwrap_or(end);
        Expansion {
            commit,
            out: &mut out,
            padding: None,
            max_bytes: limit,
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

/// Expands the formats of one file.
struct Expansion<'a> {
    commit: &'a Commit,
    // The whole file so far, because padding to a column depends on the current line.
    out: &'a mut Vec<u8>,
    padding: Option<Padding>,
    max_bytes: usize,
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
            if self.out.len() > self.max_bytes {
                return Err(Error::new(
                    ErrorKind::FileTooLarge,
                    "a file grows by more than 16 MiB when its `$Format:$` is expanded",
                ));
            }
        }
        self.out.extend_from_slice(format);
        Ok(())
    }

    /// Expands the placeholder after a `%`; returns its length, or 0 when it is unknown.
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
        let Some(padding) = self.padding else {
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
        self.padding = None;
        padding.append(self.out, &text);
        taken
    }

    /// Expands one placeholder into `text`; returns its length, or 0 when it is unknown.
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
            b'<' | b'>' => {
                let Some((padding, length)) = Padding::parse(format) else {
                    return 0;
                };
                self.padding = Some(padding);
                return length;
            }
            b'H' => put(&commit.id.to_string()),
            b'T' => put(&commit.tree.to_string()),
            b'h' => put(&abbreviated(&commit.id)),
            b't' => put(&abbreviated(&commit.tree)),
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
                    Some(b'?') if commit.extra_headers.contains("gpgsig") => put("E"),
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
            b's' => put(&commit.subject()),
            b'f' => text.extend(file_name(commit.first_line())),
            b'b' => put(commit.body()),
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
}

fn abbreviated(id: &ObjectId) -> String {
    id.to_hex_with_len(ABBREVIATED_DIGITS).to_string()
}

/// Returns the length of `%C(..)`, or of one of the four names without parentheses.
fn colour(format: &[u8]) -> usize {
    if format.get(1) == Some(&b'(') {
        return format.find_byte(b')').map_or(0, |end| end + 1);
    }
    ["red", "green", "blue", "reset"]
        .iter()
        .find(|name| format[1..].starts_with(name.as_bytes()))
        .map_or(0, |name| name.len() + 1)
}

/// Returns the length of `%w(..)`.
fn wrapping(format: &[u8]) -> usize {
    if format.get(1) != Some(&b'(') {
        return 0;
    }
    format.find_byte(b')').map_or(0, |end| end + 1)
}

/// Expands `%an` and the others of this kind; returns the length, or 0 when it is unknown.
fn person(who: &Signature, part: Option<&u8>, text: &mut Vec<u8>) -> usize {
    let Some(&part) = part else { return 0 };
    let local = who.email.split('@').next().unwrap_or_default();
    match part {
        b'n' | b'N' => text.extend_from_slice(who.name.as_bytes()),
        b'e' | b'E' => text.extend_from_slice(who.email.as_bytes()),
        b'l' | b'L' => text.extend_from_slice(local.as_bytes()),
        b't' | b'd' | b'D' | b'r' | b'i' => {
            text.extend_from_slice(format_date(&who.date, part).unwrap_or_default().as_bytes());
        }
        b'I' | b's' | b'h' => match format_date(&who.date, part) {
            Some(date) => text.extend_from_slice(date.as_bytes()),
            None => return 0,
        },
        _ => return 0,
    }
    2
}

/// Formats the first line of a message as a file name: other characters than letters, digits,
/// `.` and `_` become `-`.
fn file_name(line: &str) -> Vec<u8> {
    let line = line.as_bytes();
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
