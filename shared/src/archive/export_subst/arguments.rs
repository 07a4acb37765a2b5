//! Arguments of placeholders: `%(name:argument,argument=value)`.

use bstr::ByteSlice as _;

/// Parses the argument `name` or `name=value` at the start of `text`; returns the value and the
/// text after the comma, or from the closing parenthesis on. `None` if another text is there.
pub(super) fn argument<'a>(text: &'a [u8], name: &str) -> Option<(Option<&'a [u8]>, &'a [u8])> {
    let rest = text.strip_prefix(name.as_bytes())?;
    let (value, rest) = match rest.strip_prefix(b"=") {
        Some(after) => {
            let end = after.find_byteset(b",)").unwrap_or(after.len());
            (Some(&after[..end]), &after[end..])
        }
        None => (None, rest),
    };
    match rest.first()? {
        b',' => Some((value, &rest[1..])),
        b')' => Some((value, rest)),
        _ => None,
    }
}

/// Parses the flag `name` at the start of `text`, and moves `text` behind it; `None` for another
/// argument and for a value that is not a boolean. As in git, such a value is passed over.
pub(super) fn flag(text: &mut &[u8], name: &str) -> Option<bool> {
    let (value, rest) = argument(text, name)?;
    *text = rest;
    value.map_or(Some(true), boolean)
}

/// Parses a boolean as git's configuration does.
fn boolean(value: &[u8]) -> Option<bool> {
    let is_one_of = |words: &[&str]| {
        let mut words = words.iter();
        words.any(|word| value.eq_ignore_ascii_case(word.as_bytes()))
    };
    if is_one_of(&["true", "yes", "on"]) {
        return Some(true);
    }
    if is_one_of(&["", "false", "no", "off"]) {
        return Some(false);
    }
    let (number, factor) = match value.split_last()? {
        (b'k' | b'K', number) => (number, 1 << 10),
        (b'm' | b'M', number) => (number, 1 << 20),
        (b'g' | b'G', number) => (number, 1 << 30),
        _ => (value, 1),
    };
    let number: i64 = number.to_str().ok()?.parse().ok()?;
    let number = i32::try_from(number.checked_mul(factor)?).ok()?;
    Some(number != 0)
}

/// Expands `%n`, `%x41` and `%%` in the value of an argument.
pub(super) fn expanded(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = value;
    while let Some(percent) = rest.find_byte(b'%') {
        out.extend_from_slice(&rest[..percent]);
        rest = &rest[percent + 1..];
        if let Some(after) = rest.strip_prefix(b"%") {
            out.push(b'%');
            rest = after;
            continue;
        }
        match literal(rest, &mut out) {
            0 => out.push(b'%'),
            length => rest = &rest[length..],
        }
    }
    out.extend_from_slice(rest);
    out
}

/// Expands `n` and `x41`, which follow a percent sign; returns the length, or 0 for another text.
pub(super) fn literal(format: &[u8], out: &mut Vec<u8>) -> usize {
    match format.first() {
        Some(b'n') => {
            out.push(b'\n');
            1
        }
        Some(b'x') => {
            let digits = format.get(1..3);
            let byte = digits.and_then(|digits| hex::decode(digits).ok());
            let length = if byte.is_some() { 3 } else { 0 };
            out.extend(byte.into_iter().flatten());
            length
        }
        _ => 0,
    }
}
