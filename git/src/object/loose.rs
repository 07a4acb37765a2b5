//! Loose objects: one zlib stream for each object.

use std::io::Write as _;

use bstr::ByteSlice as _;
use flate2::{Decompress, FlushDecompress, Status};
use gix_object::decode;

use super::{ObjectKind, id_of};
use crate::error::Result;
use crate::{ObjectId, corrupt};

/// The longest header in bytes: a type, a space, twenty digits and a zero byte.
const MAX_HEADER_BYTES: usize = 32;

/// Returns the path of a loose object below `objects/`: two digits of its id, a slash, and
/// the others.
pub fn loose_path(id: ObjectId) -> String {
    let hex = id.to_string();
    format!("{}/{}", &hex[..2], &hex[2..])
}

/// Returns the bytes of a loose object.
pub fn encode_loose(kind: ObjectKind, content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder
        .write_all(format!("{kind} {}\0", content.len()).as_bytes())
        .and_then(|()| encoder.write_all(content))
        .and_then(|()| encoder.finish())
        .expect("because writing to a Vec cannot fail")
}

/// Reads the header of an inflated loose object: its type, its size, and the length of the
/// header in bytes. `None` when more bytes are needed.
///
/// # Errors
/// `Corrupt` for a header that git does not write, as one whose size has a sign or leading
/// zeros.
pub(crate) fn parse_loose_header(bytes: &[u8]) -> Result<Option<(ObjectKind, u64, usize)>> {
    let broken = || corrupt("a loose object does not start with a type and a size");
    let start = &bytes[..bytes.len().min(MAX_HEADER_BYTES)];
    let Some(end) = start.find_byte(0) else {
        return if start.len() < MAX_HEADER_BYTES {
            Ok(None)
        } else {
            Err(broken())
        };
    };
    let header = &start[..=end];
    let (kind, size, length) = decode::loose_header(header).map_err(|_| broken())?;
    let kind = ObjectKind::from(kind);
    if format!("{kind} {size}\0").as_bytes() != header {
        return Err(broken());
    }
    Ok(Some((kind, size, length)))
}

/// Reads a loose object of at most `max_bytes` bytes of content, and verifies that it has
/// the id `id`.
pub fn decode_loose(id: ObjectId, bytes: &[u8], max_bytes: usize) -> Result<(ObjectKind, Vec<u8>)> {
    let broken = |what: &str| corrupt(format!("loose object {id} is broken: {what}"));
    let mut inflate = Decompress::new(true);
    let mut out = Vec::with_capacity(1024);
    let max_inflated = max_bytes.saturating_add(64);
    loop {
        let before = (inflate.total_in(), out.len());
        let input = &bytes[usize::try_from(inflate.total_in()).unwrap_or(bytes.len())..];
        let status = inflate
            .decompress_vec(input, &mut out, FlushDecompress::None)
            .map_err(|error| broken("zlib").with_source(error))?;
        if status == Status::StreamEnd {
            break;
        }
        if out.len() > max_inflated {
            return Err(broken("it is larger than the limit"));
        }
        if out.len() == out.capacity() {
            out.reserve(out.len());
        } else if before == (inflate.total_in(), out.len()) {
            return Err(broken("it is cut off"));
        }
    }
    if inflate.total_in() != bytes.len() as u64 {
        return Err(broken("bytes follow its end"));
    }
    let header = parse_loose_header(&out).map_err(|error| error.context(format!("object {id}")))?;
    let (kind, size, length) = header.ok_or_else(|| broken("it has no header"))?;
    let content = out.split_off(length);
    if content.len() > max_bytes {
        return Err(broken("it is larger than the limit"));
    }
    if size != content.len() as u64 {
        return Err(broken("its size does not match its header"));
    }
    if id_of(id.kind(), kind, &content)? != id {
        return Err(broken("its content does not match its id"));
    }
    Ok((kind, content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, HashKind};

    #[test]
    fn a_loose_object_is_read_back_and_a_changed_one_is_corrupt() {
        let content = b"hello\n".repeat(10_000);
        let id = id_of(HashKind::Sha1, ObjectKind::Blob, &content).unwrap();
        let bytes = encode_loose(ObjectKind::Blob, &content);
        let read = decode_loose(id, &bytes, content.len()).unwrap();
        assert_eq!(read, (ObjectKind::Blob, content.clone()));
        let fails = |bytes: &[u8], limit| decode_loose(id, bytes, limit).unwrap_err().kind();
        assert_eq!(fails(&bytes, 1000), ErrorKind::Corrupt);
        assert_eq!(
            fails(&bytes[..bytes.len() - 1], usize::MAX),
            ErrorKind::Corrupt
        );
        assert_eq!(fails(b"", usize::MAX), ErrorKind::Corrupt);
        let more = [&bytes[..], b"x"].concat();
        assert_eq!(fails(&more, usize::MAX), ErrorKind::Corrupt);
        let other = encode_loose(ObjectKind::Tag, &content);
        assert_eq!(fails(&other, usize::MAX), ErrorKind::Corrupt);
    }
}
