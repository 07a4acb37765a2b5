//! Wrapping of text: `%w(width,indent,indent)`.

use bstr::ByteSlice as _;

use super::padding::columns;

/// Maximum width and indent that git accepts, in columns.
const MAX_COLUMNS: u64 = 16 * 1024;

/// Wrapping of the text from `start` of the output on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Wrapping {
    // 0 does not wrap.
    width: usize,
    first_indent: usize,
    indent: usize,
}

impl Wrapping {
    /// Parses `w(..)`; returns the wrapping and the length of the placeholder.
    pub(super) fn parse(format: &[u8]) -> Option<(Self, usize)> {
        let inside = format.strip_prefix(b"w(")?;
        let end = inside.find_byte(b')')?;
        let inside = &inside[..end];
        let mut wrapping = Self::default();
        if end > 0 {
            let (width, rest) = number(inside)?;
            wrapping.width = width;
            let mut rest = rest;
            if let Some(after) = rest.strip_prefix(b",") {
                (wrapping.first_indent, rest) = number(after)?;
                if let Some(after) = rest.strip_prefix(b",") {
                    (wrapping.indent, rest) = number(after)?;
                }
            }
            if !rest.is_empty() {
                return None;
            }
        }
        Some((wrapping, "w(".len() + end + 1))
    }

    /// Appends `text`, wrapped, to `out`, and stops when that has more than `max_bytes`.
    pub(super) fn append(self, out: &mut Vec<u8>, text: &[u8], max_bytes: usize) {
        // git ends the text at a NUL.
        let text = &text[..text.find_byte(0).unwrap_or(text.len())];
        if self.width == 0 {
            let mut indent = self.first_indent;
            for line in text.lines_with_terminator() {
                out.resize(out.len() + indent, b' ');
                out.extend_from_slice(line);
                indent = self.indent;
                if out.len() > max_bytes {
                    break;
                }
            }
            return;
        }
        let start = out.len();
        if !self.fill(out, text, true, max_bytes) {
            out.truncate(start);
            self.fill(out, text, false, max_bytes);
        }
    }

    /// Fills lines with the words of `text`, whose bytes are columns unless `is_utf8`; returns
    /// false if the text is not UTF-8.
    fn fill(self, out: &mut Vec<u8>, text: &[u8], is_utf8: bool, max_bytes: usize) -> bool {
        let byte_at = |at: usize| text.get(at).copied();
        let columns_of = |indent: usize| i64::try_from(indent).unwrap_or(i64::MAX);
        let width = columns_of(self.width);
        let mut indent = self.first_indent;
        let mut column = columns_of(indent);
        let (mut line, mut at) = (0, 0);
        // Start of the last white space of the line.
        let mut space: Option<usize> = None;
        while out.len() <= max_bytes {
            at += escape_length(&text[at..]);
            let byte = byte_at(at);
            if byte.is_some_and(|byte| !is_space(byte)) {
                let (letter, length) = bstr::decode_utf8(&text[at..]);
                match letter {
                    Some(letter) if is_utf8 => {
                        column += letter_columns(letter);
                        at += length;
                    }
                    None if is_utf8 => return false,
                    _ => {
                        column += 1;
                        at += 1;
                    }
                }
                continue;
            }
            let mut break_at = space;
            if column <= width || space.is_none() {
                if byte.is_none() && at == line {
                    return true;
                }
                let from = space.unwrap_or_else(|| {
                    out.resize(out.len() + indent, b' ');
                    line
                });
                out.extend_from_slice(&text[from..at]);
                let Some(byte) = byte else {
                    return true;
                };
                let mut ends_line = false;
                let mut next = at;
                if byte == b'\t' {
                    column |= 7;
                } else if byte == b'\n' {
                    next += 1;
                    match byte_at(next) {
                        Some(b'\n') => {
                            out.push(b'\n');
                            ends_line = true;
                        }
                        Some(byte) if byte.is_ascii_alphanumeric() => out.push(b' '),
                        _ => ends_line = true,
                    }
                }
                space = Some(next);
                break_at = space;
                if !ends_line {
                    column += 1;
                    at += 1;
                    continue;
                }
            }
            out.push(b'\n');
            let from = break_at.unwrap_or(at);
            at = from + usize::from(byte_at(from).is_some_and(is_space));
            line = at;
            space = None;
            indent = self.indent;
            column = columns_of(indent);
        }
        true
    }
}

/// Parses a number at the start, as C's `strtoul` does; without digits it is 0.
fn number(text: &[u8]) -> Option<(usize, &[u8])> {
    let trimmed = text.trim_start();
    let sign = usize::from(matches!(trimmed.first(), Some(b'+' | b'-')));
    let digits = trimmed[sign..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    if digits == 0 {
        return Some((0, text));
    }
    let end = sign + digits;
    let value = trimmed[sign..end].to_str().ok()?.parse::<u64>();
    let value = value.ok().filter(|value| *value <= MAX_COLUMNS)?;
    // A negative number is a very large one.
    if value > 0 && trimmed.first() == Some(&b'-') {
        return None;
    }
    Some((usize::try_from(value).ok()?, &trimmed[end..]))
}

/// Returns the length of the escape sequences for colours at the start of `text`.
fn escape_length(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(rest) = text[at..].strip_prefix(b"\x1b[") {
        let is_part = |byte: &&u8| byte.is_ascii_digit() || **byte == b';';
        let digits = rest.iter().take_while(is_part).count();
        if rest.get(digits) != Some(&b'm') {
            break;
        }
        at += 2 + digits + 1;
    }
    at
}

/// Returns the columns of a letter; git subtracts one for a control character.
fn letter_columns(letter: char) -> i64 {
    if letter.is_control() {
        -1
    } else {
        columns(letter)
    }
}

/// Returns whether git takes the byte for white space.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}
