//! Padding and cutting of a placeholder's text: `%<(n)`, `%>(n)`, `%><(n)` and others.

use bstr::ByteSlice as _;

/// Maximum width that git accepts, in columns.
const MAX_WIDTH: i64 = 16 * 1024;

/// Width of git's output without a terminal, in columns.
const TERMINAL_COLUMNS: i64 = 80;

/// Padding of the next placeholder.
#[derive(Clone, Copy)]
pub(super) struct Padding {
    side: Side,
    // Number of columns or, with `to_column`, the column at which the text ends.
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

impl Padding {
    /// Parses `<(n,trunc)` and the other placeholders of this kind; returns the padding and
    /// the length of the placeholder.
    pub(super) fn parse(format: &[u8]) -> Option<(Self, usize)> {
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
        let limits = -MAX_WIDTH..=MAX_WIDTH;
        let mut width = leading_number(&rest[..end]).filter(|width| limits.contains(width))?;
        // A negative column counts from the right edge of the terminal.
        if width < 0 && to_column {
            width += TERMINAL_COLUMNS;
            to_column = width != 0;
        } else if width == 0 {
            return None;
        }
        if width < 0 {
            return None;
        }
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
        let padding = Self {
            side,
            width,
            to_column,
            cut,
        };
        Some((padding, format.len() - rest.len() + close + 1))
    }

    /// Returns the number of columns for a text at the end of `out`.
    pub(super) fn columns(self, out: &[u8]) -> i64 {
        if !self.to_column {
            return self.width;
        }
        let line = out.rfind_byte(b'\n').map_or(0, |feed| feed + 1);
        self.width - width(&out[line..])
    }

    /// Appends `text` to `out`, padded to a number of columns.
    pub(super) fn append(self, out: &mut Vec<u8>, text: &[u8], mut columns: i64) {
        let text_width = width(text);
        if self.side == Side::LeftAndSteal {
            while text_width > columns && out.len() > 1 && out.last() == Some(&b' ') {
                out.pop();
                columns += 1;
            }
        }
        if text_width > columns {
            let cut = text_width - (columns - 2);
            match self.cut {
                Cut::No => out.extend_from_slice(text),
                Cut::Start => out.extend(replaced(text, 0, cut)),
                Cut::Middle => out.extend(replaced(text, columns / 2 - 1, cut)),
                Cut::End => out.extend(replaced(text, columns - 2, cut)),
            }
            return;
        }
        let free = usize::try_from(columns - text_width).unwrap_or(0);
        let before = match self.side {
            Side::Right => 0,
            Side::Left | Side::LeftAndSteal => free,
            Side::Both => free / 2,
        };
        out.resize(out.len() + before, b' ');
        out.extend_from_slice(text);
        out.resize(out.len() + free - before, b' ');
    }
}

/// Parses the number at the start, as C's `strtol` does.
fn leading_number(text: &[u8]) -> Option<i64> {
    let text = text.trim_start();
    let signed = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let digits = text[signed..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    text[..signed + digits].to_str().ok()?.parse().ok()
}

/// Returns the columns of `text` on a terminal: none for combining marks, two for wide East
/// Asian letters and emoji.
fn width(text: &[u8]) -> i64 {
    text.to_str_lossy().chars().map(columns).sum()
}

/// Returns the columns of a letter on a terminal.
pub(super) fn columns(letter: char) -> i64 {
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

/// Replaces `cut` columns of `text`, from column `from` on, by `..`.
fn replaced(text: &[u8], from: i64, cut: i64) -> Vec<u8> {
    let mut out = String::new();
    let mut at = 0;
    let mut marked = false;
    for letter in text.to_str_lossy().chars() {
        // Letters without a width, such as line feeds, are never cut.
        if columns(letter) > 0 && at >= from && at < from + cut {
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
