//! Deltas: an object as copies from a base and insertions.

use crate::corrupt;
use crate::error::Result;

/// The most bytes of the two sizes at the start of a delta.
pub(crate) const MAX_SIZES: usize = 20;

/// Reads the sizes at the start of a delta: of its base, of its result, and the length of
/// both in bytes.
pub(crate) fn sizes(delta: &[u8]) -> Result<(u64, u64, usize)> {
    let (base, first) = size(delta)?;
    let (result, second) = size(&delta[first..])?;
    Ok((base, result, first + second))
}

fn size(bytes: &[u8]) -> Result<(u64, usize)> {
    let mut size = 0_u64;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        let shift = u32::try_from(at * 7).expect("because at most ten bytes are read");
        if bits.leading_zeros() < shift {
            break;
        }
        size |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok((size, at + 1));
        }
    }
    Err(corrupt("a delta does not start with two sizes"))
}

/// Applies a delta, passes its result to `piece` in parts, and returns the size of the
/// result. Allocates nothing.
///
/// # Errors
/// `Corrupt` when the delta is broken, or when the size of its base or of its result does not
/// match.
pub fn apply<'a>(base: &'a [u8], delta: &'a [u8], mut piece: impl FnMut(&'a [u8])) -> Result<u64> {
    let (base_size, result_size, at) = sizes(delta)?;
    if base_size != base.len() as u64 {
        return Err(corrupt("the size of a delta's base does not match"));
    }
    let broken = || corrupt("a delta is broken");
    let mut rest = &delta[at..];
    let mut made = 0_u64;
    while let Some((&command, tail)) = rest.split_first() {
        rest = tail;
        let bytes = if command & 0x80 != 0 {
            let mut offset = 0_usize;
            let mut length = 0_usize;
            for bit in 0..7 {
                if command & (1 << bit) == 0 {
                    continue;
                }
                let (&byte, tail) = rest.split_first().ok_or_else(broken)?;
                rest = tail;
                if bit < 4 {
                    offset |= usize::from(byte) << (8 * bit);
                } else {
                    length |= usize::from(byte) << (8 * (bit - 4));
                }
            }
            if length == 0 {
                length = 0x10000;
            }
            base.get(offset..offset.checked_add(length).ok_or_else(broken)?)
                .ok_or_else(broken)?
        } else {
            if command == 0 {
                return Err(broken());
            }
            let (bytes, tail) = rest
                .split_at_checked(usize::from(command))
                .ok_or_else(broken)?;
            rest = tail;
            bytes
        };
        made += bytes.len() as u64;
        if made > result_size {
            return Err(broken());
        }
        piece(bytes);
    }
    if made == result_size {
        Ok(made)
    } else {
        Err(broken())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn made(base: &[u8], delta: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        apply(base, delta, |piece| out.extend_from_slice(piece))?;
        Ok(out)
    }

    #[test]
    fn a_result_consists_of_copies_and_insertions() {
        // Copy 3 from 1, insert "xy", copy 2 from 0.
        let delta = b"\x05\x07\x91\x01\x03\x02xy\x90\x02";
        assert_eq!(made(b"abcde", delta).unwrap(), b"bcdxyab");
        let base = vec![7; 0x10000];
        let copy_base = b"\x80\x80\x04\x80\x80\x04\x80";
        assert_eq!(
            made(&base, copy_base).unwrap(),
            base,
            "length 0 means 64 KiB"
        );
    }

    #[test]
    fn contradictory_deltas_are_corrupt() {
        let cases: [&[u8]; 9] = [
            b"",
            b"\x05",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x01",
            b"\x04\x01\x90\x01",     // wrong size of the base
            b"\x05\x01\x90\x02",     // result too long
            b"\x05\x03\x90\x02",     // result too short
            b"\x05\x02\x91\x04\x02", // beyond the base
            b"\x05\x01\x00",         // reserved
            b"\x05\x05\x05ab",       // cut off
        ];
        for delta in cases {
            assert_eq!(
                made(b"abcde", delta).unwrap_err().kind(),
                ErrorKind::Corrupt
            );
        }
    }
}
