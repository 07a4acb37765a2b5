//! Trailers of a message: `%(trailers:..)`, as git finds and prints them without a configuration.

use bstr::ByteSlice as _;

use super::arguments::{argument, expanded, flag};
use super::wrap::is_space;

/// Lines by which git recognizes a block of trailers that also has other lines.
const GENERATED_PREFIXES: [&[u8]; 2] = [b"Signed-off-by: ", b"(cherry picked from commit "];

/// Line below which git ignores a message.
const CUT_LINE: &[u8] = b"# ------------------------ >8 ------------------------\n";

/// Options of `%(trailers)`.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of the placeholder"
)]
pub(super) struct TrailerOptions<'a> {
    // Keys to print; all if empty.
    keys: Vec<&'a [u8]>,
    only: bool,
    unfold: bool,
    key_only: bool,
    value_only: bool,
    separator: Option<Vec<u8>>,
    key_value_separator: Option<Vec<u8>>,
}

/// A line of the block of trailers.
struct Item {
    // `None` for a line that is not a trailer.
    key: Option<Vec<u8>>,
    value: Vec<u8>,
}

impl<'a> TrailerOptions<'a> {
    /// Parses the text after `(trailers`; returns the options and the text from the closing
    /// parenthesis on.
    pub(super) fn parse(text: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut options = Self::default();
        let Some(mut rest) = text.strip_prefix(b":") else {
            return text.starts_with(b")").then_some((options, text));
        };
        while rest.first() != Some(&b')') {
            if let Some((key, after)) = argument(rest, "key") {
                let key = key?;
                options.keys.push(key.strip_suffix(b":").unwrap_or(key));
                options.only = true;
                rest = after;
            } else if let Some((value, after)) = argument(rest, "separator") {
                options.separator = Some(expanded(value.unwrap_or_default()));
                rest = after;
            } else if let Some((value, after)) = argument(rest, "key_value_separator") {
                options.key_value_separator = Some(expanded(value.unwrap_or_default()));
                rest = after;
            } else if let Some(only) = flag(&mut rest, "only") {
                options.only = only;
            } else if let Some(unfold) = flag(&mut rest, "unfold") {
                options.unfold = unfold;
            } else if let Some(key_only) = flag(&mut rest, "keyonly") {
                options.key_only = key_only;
            } else {
                options.value_only = flag(&mut rest, "valueonly")?;
            }
        }
        Some((options, rest))
    }

    fn is_default(&self) -> bool {
        !self.only
            && !self.unfold
            && !self.key_only
            && !self.value_only
            && self.keys.is_empty()
            && self.separator.is_none()
            && self.key_value_separator.is_none()
    }

    /// Appends the trailers of `message` to `out`, and stops when that has more than `max_bytes`.
    pub(super) fn append(&self, message: &[u8], out: &mut Vec<u8>, max_bytes: usize) {
        let message = &message[..end_of_message(message)];
        let block = &message[start_of_block(message)..];
        if self.is_default() {
            out.extend_from_slice(block);
            return;
        }
        let start = out.len();
        for item in self.items(block) {
            if out.len() > max_bytes {
                break;
            }
            let is_first = out.len() == start;
            let separator = self.separator.as_ref().filter(|_| !is_first);
            let Some(key) = &item.key else {
                out.extend(separator.into_iter().flatten());
                out.extend_from_slice(&item.value);
                if self.separator.is_some() {
                    while out.last().is_some_and(|byte| is_space(*byte)) {
                        out.pop();
                    }
                } else {
                    out.push(b'\n');
                }
                continue;
            };
            let is_key = |other: &&[u8]| key.eq_ignore_ascii_case(other);
            if !self.keys.is_empty() && !self.keys.iter().any(is_key) {
                continue;
            }
            out.extend(separator.into_iter().flatten());
            if !self.value_only {
                out.extend_from_slice(key);
            }
            if !self.key_only && !self.value_only {
                let separator = self.key_value_separator.as_deref();
                out.extend_from_slice(separator.unwrap_or(b": "));
            }
            if !self.key_only {
                out.extend_from_slice(&item.value);
            }
            if self.separator.is_none() {
                out.push(b'\n');
            }
        }
    }

    fn items(&self, block: &[u8]) -> Vec<Item> {
        let mut lines: Vec<Vec<u8>> = Vec::new();
        let mut continues = false;
        for line in block.lines_with_terminator() {
            if continues
                && line.first().is_some_and(|byte| is_space(*byte))
                && let Some(last) = lines.last_mut()
            {
                last.extend_from_slice(line);
                continue;
            }
            continues = separator_of(line).is_some_and(|at| at > 0);
            lines.push(line.to_vec());
        }
        let mut items = Vec::new();
        for line in lines {
            if line.starts_with(b"#") {
                continue;
            }
            if let Some(at) = separator_of(&line).filter(|at| *at > 0) {
                let value = &line[at + 1..];
                let value = if self.unfold {
                    unfolded(trimmed(value))
                } else {
                    trimmed(value).to_vec()
                };
                items.push(Item {
                    key: Some(trimmed(&line[..at]).to_vec()),
                    value,
                });
            } else if !self.only {
                let value = line.strip_suffix(b"\n").unwrap_or(&line).to_vec();
                items.push(Item { key: None, value });
            }
        }
        items
    }
}

fn trimmed(text: &[u8]) -> &[u8] {
    text.trim_with(|letter| matches!(letter, ' ' | '\t' | '\n' | '\r'))
}

/// Joins the lines of a value.
fn unfolded(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\n' {
            out.push(byte);
            continue;
        }
        while bytes.next_if(|byte| is_space(*byte)).is_some() {}
        out.push(b' ');
    }
    trimmed(&out).to_vec()
}

/// Returns the position of the colon after the key of a trailer, if the line has one.
fn separator_of(line: &[u8]) -> Option<usize> {
    let mut has_space = false;
    for (at, &byte) in line.iter().enumerate() {
        match byte {
            b':' => return Some(at),
            b'-' if !has_space => {}
            _ if !has_space && byte.is_ascii_alphanumeric() => {}
            b' ' | b'\t' if at > 0 => has_space = true,
            _ => return None,
        }
    }
    None
}

fn is_blank(line: &[u8]) -> bool {
    line.iter().all(|byte| is_space(*byte))
}

/// Returns the length of a message without the comments, empty lines and conflicts at its end.
fn end_of_message(message: &[u8]) -> usize {
    let mut cutoff = message.len();
    if message.starts_with(CUT_LINE) {
        cutoff = 0;
    } else if let Some(at) = message.find([b"\n", CUT_LINE].concat()) {
        cutoff = at + 1;
    }
    // 0 is none, as in git: a line at the start does not count.
    let mut end = 0;
    let mut in_conflicts = false;
    let mut at = 0;
    while at < cutoff {
        let line = &message[at..];
        let next = line
            .find_byte(b'\n')
            .map_or(message.len(), |feed| at + feed + 1);
        let starts_conflicts = line.starts_with(b"Conflicts:\n");
        if starts_conflicts || line.starts_with(b"#") || line.starts_with(b"\n") {
            in_conflicts |= starts_conflicts;
            if end == 0 {
                end = at;
            }
        } else if !(in_conflicts && line.starts_with(b"\t")) && end > 0 {
            end = 0;
            in_conflicts = false;
        }
        at = next;
    }
    if end > 0 { end } else { cutoff }
}

/// Returns the position of the first line of the trailers; the end if there are none.
fn start_of_block(message: &[u8]) -> usize {
    let mut starts: Vec<usize> = Vec::new();
    let mut at = 0;
    for line in message.lines_with_terminator() {
        starts.push(at);
        at += line.len();
    }
    let line_of = |number: usize| {
        let end = starts.get(number + 1).copied().unwrap_or(message.len());
        &message[starts[number]..end]
    };
    // The first paragraph is the title.
    let title = (0..starts.len()).find(|number| {
        let line = line_of(*number);
        !line.starts_with(b"#") && is_blank(line)
    });
    let title = title.unwrap_or(starts.len());
    let (mut only_spaces, mut is_generated) = (true, false);
    let (mut trailers, mut others, mut continuations) = (0, 0, 0);
    for number in (title..starts.len()).rev() {
        let line = line_of(number);
        if line.starts_with(b"#") {
            others += continuations;
            continuations = 0;
            continue;
        }
        if is_blank(line) {
            if only_spaces {
                continue;
            }
            others += continuations;
            let is_block =
                (is_generated && trailers * 3 >= others) || (trailers > 0 && others == 0);
            return if is_block {
                starts[number] + line.len()
            } else {
                message.len()
            };
        }
        only_spaces = false;
        if GENERATED_PREFIXES
            .iter()
            .any(|start| line.starts_with(start))
        {
            trailers += 1;
            continuations = 0;
            is_generated = true;
        } else if is_space(line[0]) {
            continuations += 1;
        } else if separator_of(line).is_some_and(|at| at > 0) {
            trailers += 1;
            continuations = 0;
        } else {
            others += 1 + continuations;
            continuations = 0;
        }
    }
    message.len()
}
