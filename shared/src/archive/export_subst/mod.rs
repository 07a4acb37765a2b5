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
//! | `%(trailers..)` | the trailers of the message, with all options of git |
//! | `%e` | the encoding that the commit names; the API returns the message in UTF-8 without one |
//! | `%d %D %(decorate..)` | the refs that name the commit, as in [`History`](super::History) |
//! | `%(describe..)` | the nearest tag, with all options of git; as in git only the first one of an archive, and the others are unchanged |
//! | `%S`, `%N` | unchanged, as in git |
//! | `%G?` | `N` without a signature, `E` with one, which cannot be checked without keys |
//! | `%GG %GS %GK %GF %GP`, `%GT` | nothing; `undefined` |
//! | `%gD %gd %gs %gn %gN %ge %gE` | nothing: there is no reflog |
//! | `%m` | `>` |
//! | `%n %% %x00` | line feed, percent sign, the byte |
//! | `%C(..)`, `%Cred ..` | nothing: an archive has no colours |
//! | `%<(n,trunc)`, `%>(..)`, `%><(..)`, `%>>(..)`, `%<|(n)` .. | pads and cuts the next placeholder |
//! | `%w(width,indent,indent)` | wraps the text after it |
//! | `%+x`, `%-x`, `% x` | as git: a line feed or space before what is not empty, none before what is |
//!
//! Any other text is unchanged, as with git. Without a [`History`](super::History) the
//! placeholders that need one become nothing.

mod arguments;
mod date;
mod decorations;
mod describe;
mod padding;
mod trailers;
mod wrap;

use bstr::ByteSlice as _;

use self::arguments::literal;
use self::date::format_date;
pub use self::date::strict_iso_date;
use self::decorations::DecorationOptions;
pub(super) use self::decorations::Decorations;
pub(super) use self::describe::{DescribePlaceholder, Described};
use self::padding::Padding;
use self::trailers::TrailerOptions;
use self::wrap::Wrapping;
use super::encoding::encode_as;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::object::{Commit, Signature};

/// Number of hexadecimal digits of an abbreviated id.
const ABBREVIATED_DIGITS: usize = 7;

/// Maximum growth of a file by placeholders, in bytes, because a few letters can request a
/// width of 16 KiB.
const MAX_GROWTH_BYTES: usize = 16 << 20;

/// Everything that placeholders become.
#[derive(Debug, Clone, Copy)]
pub(super) struct SubstitutionContext<'a> {
    pub(super) commit: &'a Commit,
    /// The refs that name the commit; `None` if they are not known.
    pub(super) decorations: Option<&'a Decorations>,
    /// The first `%(describe)` of the file.
    pub(super) described: Described<'a>,
}

/// Needs of a file for more than its commit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct SubstitutionNeeds {
    /// The file has `%d` or the like.
    pub(super) decorations: bool,
    /// The first `%(describe)` of the file.
    pub(super) describe: Option<DescribePlaceholder>,
}

/// Returns what the placeholders of `bytes` need.
pub(super) fn needs(bytes: &[u8], commit: &Commit) -> Result<SubstitutionNeeds> {
    let context = SubstitutionContext {
        commit,
        decorations: None,
        described: Described::Unknown,
    };
    let mut found = SubstitutionNeeds::default();
    expand_into(bytes, context, &mut found)?;
    Ok(found)
}

/// Expands all placeholders of `bytes`; `None` when there are none.
///
/// # Errors
/// `FileTooLarge` when the result is more than 16 MiB larger than `bytes`.
pub(super) fn expand(bytes: &[u8], context: SubstitutionContext<'_>) -> Result<Option<Vec<u8>>> {
    expand_into(bytes, context, &mut SubstitutionNeeds::default())
}

fn expand_into(
    bytes: &[u8],
    context: SubstitutionContext<'_>,
    needs: &mut SubstitutionNeeds,
) -> Result<Option<Vec<u8>>> {
    const START: &[u8] = b"$Format:";
    let mut out = Vec::new();
    let mut rest = bytes;
    let max_bytes = bytes.len().saturating_add(MAX_GROWTH_BYTES);
    while let Some(start) = rest.find(START) {
        let format = &rest[start + START.len()..];
        let Some(end) = format.find_byte(b'$') else {
            break;
        };
        out.extend_from_slice(&rest[..start]);
        // A NUL ends the format, because git handles it as a C string.
        let ends_at = format[..end].find_byte(0).unwrap_or(end);
        let mut expansion = Expansion {
            context,
            needs: &mut *needs,
            wrap_start: out.len(),
            out: std::mem::take(&mut out),
            padding: None,
            wrapping: Wrapping::default(),
            reads_commit: false,
            max_bytes,
        };
        expansion.run(&format[..ends_at])?;
        out = expansion.finish();
        rest = &format[end + 1..];
    }
    if rest.len() == bytes.len() {
        return Ok(None);
    }
    out.extend_from_slice(rest);
    Ok(Some(out))
}

/// Expands one format.
struct Expansion<'a, 'n> {
    context: SubstitutionContext<'a>,
    needs: &'n mut SubstitutionNeeds,
    // The whole file so far, because padding to a column depends on the current line.
    out: Vec<u8>,
    padding: Option<Padding>,
    wrapping: Wrapping,
    // Position from which on text is wrapped.
    wrap_start: usize,
    // A placeholder needed the text of the commit. git then writes in the commit's encoding.
    reads_commit: bool,
    max_bytes: usize,
}

impl Expansion<'_, '_> {
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
            self.check_size()?;
        }
        self.out.extend_from_slice(format);
        let mut out = std::mem::take(&mut self.out);
        self.rewrap(&mut out, Wrapping::default());
        self.out = out;
        self.check_size()
    }

    fn check_size(&self) -> Result<()> {
        if self.out.len() <= self.max_bytes {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::FileTooLarge,
            "a file grows by more than 16 MiB when its `$Format:$` is expanded",
        ))
    }

    /// Returns the file so far.
    fn finish(self) -> Vec<u8> {
        let encoding = commit_encoding(self.context.commit).filter(|_| self.reads_commit);
        let encoded = encoding.and_then(|name| encode_as(name, &self.out));
        encoded.unwrap_or(self.out)
    }

    /// Wraps the text since the last wrapping, and begins another one.
    fn rewrap(&mut self, out: &mut Vec<u8>, wrapping: Wrapping) {
        if wrapping == self.wrapping {
            return;
        }
        if self.wrap_start < out.len() {
            let text = out.split_off(self.wrap_start);
            self.wrapping.append(out, &text, self.max_bytes);
        }
        self.wrap_start = out.len();
        self.wrapping = wrapping;
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
            let start = start.min(self.out.len());
            self.out.splice(start..start, before_full.iter().copied());
        }
        taken + 1
    }

    fn padded(&mut self, format: &[u8]) -> usize {
        let Some(padding) = self.padding else {
            let mut out = std::mem::take(&mut self.out);
            let taken = self.format_placeholder(format, &mut out);
            self.out = out;
            return taken;
        };
        let columns = padding.columns(&self.out);
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
        // A padded padding sets side and cut, but not the number of columns.
        if let Some(padding) = self.padding.take() {
            padding.append(&mut self.out, &text, columns);
        }
        taken
    }

    /// Expands one placeholder at the end of `text`; returns its length, or 0 when it is
    /// unknown.
    fn format_placeholder(&mut self, format: &[u8], text: &mut Vec<u8>) -> usize {
        let commit = self.context.commit;
        let Some(&letter) = format.first() else {
            return 0;
        };
        match letter {
            b'n' | b'x' => {
                let taken = literal(format, text);
                self.reads_commit |= taken == 0;
                return taken;
            }
            b'C' => return colour(format),
            b'w' => {
                let Some((wrapping, taken)) = Wrapping::parse(format) else {
                    return 0;
                };
                self.rewrap(text, wrapping);
                return taken;
            }
            b'<' | b'>' => {
                let Some((padding, length)) = Padding::parse(format) else {
                    return 0;
                };
                self.padding = Some(padding);
                return length;
            }
            b'(' => return self.named(format, text),
            b'd' => self.decorate(&DecorationOptions::default(), text),
            b'D' => self.decorate(&DecorationOptions::without_parentheses(), text),
            b'g' => {
                return match format.get(1) {
                    Some(b'D' | b'd' | b's' | b'n' | b'N' | b'e' | b'E') => 2,
                    _ => 0,
                };
            }
            b'G' => return signature(commit, format, text),
            b'S' | b'N' => return 0,
            b'm' => text.push(b'>'),
            b'H' => put(text, &commit.id.to_string()),
            b'T' => put(text, &commit.tree.to_string()),
            b'h' => put(text, &abbreviated(&commit.id)),
            b't' => put(text, &abbreviated(&commit.tree)),
            b'P' => {
                let ids: Vec<_> = commit.parents.iter().map(ToString::to_string).collect();
                put(text, &ids.join(" "));
            }
            b'p' => {
                let ids: Vec<_> = commit.parents.iter().map(abbreviated).collect();
                put(text, &ids.join(" "));
            }
            _ => {
                self.reads_commit = true;
                return message_part(commit, format, text);
            }
        }
        1
    }

    /// Expands `(name:..)`.
    fn named(&mut self, format: &[u8], text: &mut Vec<u8>) -> usize {
        if let Some(arguments) = format.strip_prefix(b"(describe") {
            return self.describe(format.len(), arguments, text);
        }
        if let Some(arguments) = format.strip_prefix(b"(decorate") {
            let Some((options, rest)) = DecorationOptions::parse(arguments) else {
                return 0;
            };
            self.decorate(&options, text);
            return format.len() - rest.len() + 1;
        }
        self.reads_commit = true;
        if let Some(arguments) = format.strip_prefix(b"(trailers") {
            let Some((options, rest)) = TrailerOptions::parse(arguments) else {
                return 0;
            };
            let message = self.context.commit.message_from_subject();
            options.append(message.as_bytes(), text, self.max_bytes);
            return format.len() - rest.len() + 1;
        }
        0
    }

    fn decorate(&mut self, options: &DecorationOptions, text: &mut Vec<u8>) {
        self.needs.decorations = true;
        if let Some(decorations) = self.context.decorations {
            decorations.append(options, text, self.max_bytes);
        }
    }

    /// Expands `%(describe..)`, whose text after the word is `arguments`.
    fn describe(&mut self, format_bytes: usize, arguments: &[u8], text: &mut Vec<u8>) -> usize {
        let placeholder = DescribePlaceholder::parse(arguments);
        let length = |rest_bytes: usize| format_bytes - rest_bytes + 1;
        let (found, rest_bytes) = match placeholder {
            Some((found, rest_bytes)) => (found, Some(rest_bytes)),
            None => (DescribePlaceholder::Malformed, None),
        };
        let is_first = self.needs.describe.is_none();
        if is_first {
            self.needs.describe = Some(found);
        }
        match (self.context.described, rest_bytes) {
            (Described::As(name), Some(rest_bytes)) if is_first => {
                put(text, name);
                length(rest_bytes)
            }
            (Described::Unknown, Some(rest_bytes)) => length(rest_bytes),
            _ => 0,
        }
    }
}

fn put(text: &mut Vec<u8>, value: &str) {
    text.extend_from_slice(value.as_bytes());
}

/// Returns the encoding that a commit names, unless that is UTF-8.
fn commit_encoding(commit: &Commit) -> Option<&str> {
    let mut lines = commit.extra_headers.lines();
    let name = lines.find_map(|line| line.strip_prefix("encoding "))?;
    let is_utf8 = name.eq_ignore_ascii_case("utf-8") || name.eq_ignore_ascii_case("utf8");
    (!is_utf8).then_some(name)
}

/// Expands `%G?` and the others of this kind.
fn signature(commit: &Commit, format: &[u8], text: &mut Vec<u8>) -> usize {
    match format.get(1) {
        Some(b'?') if commit.extra_headers.contains("gpgsig") => put(text, "E"),
        Some(b'?') => put(text, "N"),
        Some(b'T') => put(text, "undefined"),
        Some(b'G' | b'S' | b'K' | b'F' | b'P') => {}
        _ => return 0,
    }
    2
}

/// Expands a placeholder of the text of a commit.
fn message_part(commit: &Commit, format: &[u8], text: &mut Vec<u8>) -> usize {
    match format[0] {
        b'a' => return person(&commit.author, format.get(1), text),
        b'c' => return person(&commit.committer, format.get(1), text),
        b'e' => {
            let mut lines = commit.extra_headers.lines();
            let name = lines.find_map(|line| line.strip_prefix("encoding "));
            put(text, name.unwrap_or_default());
        }
        b'B' => put(text, &commit.message),
        b's' => put(text, &commit.subject()),
        b'f' => text.extend(file_name(commit.first_line())),
        b'b' => put(text, commit.body()),
        _ => return 0,
    }
    1
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
