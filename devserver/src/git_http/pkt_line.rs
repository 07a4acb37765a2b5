//! pkt-lines: four hexadecimal digits of length, then the payload; `0000` is a flush.

/// Maximum payload of a line, in bytes.
pub(super) const MAX_PAYLOAD_BYTES: usize = 65516;

/// First packet of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    Flush,
    Line(&'a [u8]),
}

/// A length that protocol version 0 does not define.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLength;

/// Parses the first packet of `buffer`: the packet and its length in bytes;
/// `None` when it is incomplete.
pub(super) fn take(buffer: &[u8]) -> Result<Option<(Packet<'_>, usize)>, BadLength> {
    let Some(digits) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(BadLength);
    }
    let length = std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| usize::from_str_radix(digits, 16).ok())
        .ok_or(BadLength)?;
    match length {
        0 => Ok(Some((Packet::Flush, 4))),
        1..=3 => Err(BadLength),
        _ if length - 4 > MAX_PAYLOAD_BYTES => Err(BadLength),
        _ => Ok(buffer
            .get(4..length)
            .map(|payload| (Packet::Line(payload), length))),
    }
}

/// Appends a line; `payload` must fit into one.
pub(super) fn write(out: &mut Vec<u8>, payload: &[u8]) {
    debug_assert!(
        payload.len() <= MAX_PAYLOAD_BYTES,
        "a line holds at most 65516 bytes"
    );
    out.extend_from_slice(format!("{:04x}", payload.len() + 4).as_bytes());
    out.extend_from_slice(payload);
}

/// Appends a flush.
pub(super) fn flush(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0000");
}

/// Appends `payload` on a channel of side-band-64k, in as many lines as it needs.
pub(super) fn write_band(out: &mut Vec<u8>, band: u8, payload: &[u8]) {
    for part in payload.chunks(MAX_PAYLOAD_BYTES - 1) {
        out.extend_from_slice(format!("{:04x}", part.len() + 5).as_bytes());
        out.push(band);
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_back_as_written_and_incomplete_ones_wait() {
        let mut out = Vec::new();
        write(&mut out, b"hello\n");
        flush(&mut out);
        assert_eq!(out, b"000ahello\n0000");
        assert_eq!(take(&out), Ok(Some((Packet::Line(b"hello\n"), 10))));
        assert_eq!(take(&out[10..]), Ok(Some((Packet::Flush, 4))));
        for length in 0..10 {
            assert_eq!(
                take(&out[..length]),
                Ok(None),
                "{length} bytes are not a line yet"
            );
        }
    }

    #[test]
    fn invalid_line_lengths_are_refused() {
        for bad in [&b"0001"[..], b"0003", b"+010", b"fff1", b"zzzz", b"PACK"] {
            assert_eq!(take(bad), Err(BadLength), "{bad:?}");
        }
    }

    #[test]
    fn a_long_report_is_split_into_lines_of_the_band() {
        let mut out = Vec::new();
        write_band(&mut out, 1, &vec![b'x'; MAX_PAYLOAD_BYTES]);
        let Ok(Some((Packet::Line(first), used))) = take(&out) else {
            panic!("the first line is whole");
        };
        assert_eq!((first[0], first.len()), (1, MAX_PAYLOAD_BYTES));
        assert_eq!(take(&out[used..]), Ok(Some((Packet::Line(b"\x01x"), 6))));
    }
}
