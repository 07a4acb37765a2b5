//! Encodes a tar as `git archive` does: ustar with pax headers for what does not fit.

use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::object::EntryMode;

const RECORD_BYTES: usize = 512;
const BLOCK_BYTES: u64 = 20 * 512;

/// The largest number that an octal field of 11 digits holds.
const MAX_OCTAL_11: u64 = 0o77_777_777_777;

/// The fields of a ustar header: start and length.
const NAME: (usize, usize) = (0, 100);
const MODE: (usize, usize) = (100, 8);
const UID: (usize, usize) = (108, 8);
const GID: (usize, usize) = (116, 8);
const SIZE: (usize, usize) = (124, 12);
const MTIME: (usize, usize) = (136, 12);
const CHECKSUM: (usize, usize) = (148, 8);
const TYPE: usize = 156;
const LINK_NAME: (usize, usize) = (157, 100);
const MAGIC: (usize, usize) = (257, 8);
const USER: (usize, usize) = (265, 32);
const GROUP: (usize, usize) = (297, 32);
const DEVICE_MAJOR: (usize, usize) = (329, 8);
const DEVICE_MINOR: (usize, usize) = (337, 8);
const PREFIX: (usize, usize) = (345, 155);

/// Writes the records of a tar into a buffer.
#[derive(Debug)]
pub(super) struct TarWriter {
    time: u64,
    written: u64,
    buffer: Vec<u8>,
}

/// One header.
struct Header([u8; RECORD_BYTES]);

impl Header {
    fn new(kind: u8) -> Self {
        let mut header = Self([0; RECORD_BYTES]);
        header.0[TYPE] = kind;
        header
    }

    fn set(&mut self, (start, length): (usize, usize), bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(length)];
        self.0[start..start + bytes.len()].copy_from_slice(bytes);
    }

    fn set_octal(&mut self, field: (usize, usize), value: u64) {
        let digits = field.1 - 1;
        self.set(field, format!("{value:0digits$o}").as_bytes());
    }

    /// Sets the fields that all headers have, and the checksum.
    fn finish(mut self, mode: u32, size: u64, time: u64) -> [u8; RECORD_BYTES] {
        self.set_octal(MODE, u64::from(mode & 0o7777));
        self.set_octal(SIZE, size);
        self.set_octal(MTIME, time);
        self.set_octal(UID, 0);
        self.set_octal(GID, 0);
        self.set(USER, b"root");
        self.set(GROUP, b"root");
        self.set_octal(DEVICE_MAJOR, 0);
        self.set_octal(DEVICE_MINOR, 0);
        self.set(MAGIC, b"ustar\x0000");
        self.set(CHECKSUM, b"        ");
        let sum: u64 = self.0.iter().map(|byte| u64::from(*byte)).sum();
        self.set(CHECKSUM, format!("{sum:07o}\0").as_bytes());
        self.0
    }
}

/// Returns a record of a pax header, `<length> <name>=<value>\n`.
fn pax_record(name: &str, value: &[u8]) -> Vec<u8> {
    let rest = name.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} {name}=").into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

/// Returns the length of the part of `path` that goes into the prefix field.
fn prefix_length(path: &[u8]) -> usize {
    let mut at = path.len();
    if at > 1 && path[at - 1] == b'/' {
        at -= 1;
    }
    at = at.min(PREFIX.1);
    loop {
        at -= 1;
        if at == 0 || path[at] == b'/' {
            return at;
        }
    }
}

impl TarWriter {
    /// Starts a tar whose entries are dated `time`, in seconds since 1970, with the id of a commit
    /// as its comment.
    pub(super) fn new(time: i64, comment: Option<ObjectId>) -> Self {
        let time = u64::try_from(time).unwrap_or_default();
        let mut tar = Self {
            time: time.min(MAX_OCTAL_11),
            written: 0,
            buffer: Vec::new(),
        };
        let mut records = Vec::new();
        if let Some(comment) = comment {
            records.extend(pax_record("comment", comment.to_string().as_bytes()));
        }
        if time > MAX_OCTAL_11 {
            records.extend(pax_record("mtime", time.to_string().as_bytes()));
        }
        if !records.is_empty() {
            let mut header = Header::new(b'g');
            header.set(NAME, b"pax_global_header");
            tar.add_header(header, 0o666, records.len() as u64);
            tar.append(&records);
            tar.pad();
        }
        tar
    }

    fn add_header(&mut self, header: Header, mode: u32, size: u64) {
        let header = header.finish(mode, size, self.time);
        self.append(&header);
    }

    /// Adds the header of an entry, whose content follows. `content` is the target of a link.
    ///
    /// # Errors
    /// `Internal` for a path of no bytes.
    pub(super) fn add_entry(
        &mut self,
        path: &str,
        mode: EntryMode,
        id: ObjectId,
        size: u64,
        content: &[u8],
    ) -> Result<()> {
        if path.is_empty() {
            return Err(Error::new(ErrorKind::Internal, "an entry has no path"));
        }
        let (kind, bits) = match mode {
            EntryMode::Tree | EntryMode::Commit => (b'5', 0o775),
            EntryMode::Link => (b'2', 0o777),
            EntryMode::Blob => (b'0', 0o664),
            EntryMode::BlobExecutable => (b'0', 0o775),
        };
        let mut header = Header::new(kind);
        let mut records = Vec::new();
        let path = path.as_bytes();
        if path.len() > NAME.1 {
            let prefix = prefix_length(path);
            let rest = path.len() - prefix - 1;
            if prefix > 0 && rest <= NAME.1 {
                header.set(PREFIX, &path[..prefix]);
                header.set(NAME, &path[prefix + 1..]);
            } else {
                header.set(NAME, format!("{id}.data").as_bytes());
                records.extend(pax_record("path", path));
            }
        } else {
            header.set(NAME, path);
        }
        if mode == EntryMode::Link {
            if content.len() > LINK_NAME.1 {
                header.set(LINK_NAME, format!("see {id}.paxheader").as_bytes());
                records.extend(pax_record("linkpath", content));
            } else {
                header.set(LINK_NAME, content);
            }
        }
        let mut shown = if kind == b'0' { size } else { 0 };
        if shown > MAX_OCTAL_11 {
            records.extend(pax_record("size", shown.to_string().as_bytes()));
            shown = 0;
        }
        if !records.is_empty() {
            let mut extended = Header::new(b'x');
            extended.set(NAME, format!("{id}.paxheader").as_bytes());
            self.add_header(extended, 0o666, records.len() as u64);
            self.append(&records);
            self.pad();
        }
        self.add_header(header, bits, shown);
        Ok(())
    }

    /// Adds content.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.written += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
    }

    /// Ends the content of an entry.
    pub(super) fn pad(&mut self) {
        let used = usize::try_from(self.written % RECORD_BYTES as u64).unwrap_or_default();
        if used > 0 {
            self.append(&[0; RECORD_BYTES][used..]);
        }
    }

    /// Ends the tar: at least two empty records, up to the end of a block.
    pub(super) fn finish(&mut self) {
        let mut rest = BLOCK_BYTES - self.written % BLOCK_BYTES;
        if rest < 2 * RECORD_BYTES as u64 {
            rest += BLOCK_BYTES;
        }
        let rest = usize::try_from(rest).unwrap_or_default();
        self.append(&vec![0; rest]);
    }

    /// Takes the bytes that were written.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// Returns the number of bytes that were written and not taken.
    pub(super) fn waiting(&self) -> usize {
        self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_pax_record_counts_itself() {
        for length in [1, 50, 89, 90, 91, 985, 986, 987] {
            let record = pax_record("path", &vec![b'x'; length]);
            let text = String::from_utf8(record.clone()).unwrap();
            let (said, _) = text.split_once(' ').unwrap();
            assert_eq!(said.parse::<usize>().unwrap(), record.len());
        }
    }
}
