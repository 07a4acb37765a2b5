//! Bundles, versions 2 and 3 (`gitformat-bundle`): the header; the pack that follows is
//! read by [`crate::pack`].

use bstr::{BString, ByteSlice};

use crate::error::{Error, ErrorKind, Result};
use crate::{HashKind, ObjectId, corrupt, escaped_excerpt, split_id};

/// The longest header that is read, in bytes: about 600,000 refs.
pub const MAX_HEADER_BYTES: usize = 64 * 1024 * 1024;

/// The header of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The hash function of the ids.
    pub hash: HashKind,
    /// The filter by which objects were omitted (`@filter=`, version 3).
    pub filter: Option<BString>,
    /// The commits that the reader must have, each with its subject.
    pub prerequisites: Vec<(ObjectId, BString)>,
    /// The refs of the bundle. Names (`HEAD`, `refs/heads/x`) are read as the writer chose
    /// them, and not validated.
    pub refs: Vec<(ObjectId, BString)>,
}

impl Header {
    /// Creates an empty header for the hash function `hash`.
    pub fn new(hash: HashKind) -> Self {
        Self {
            hash,
            filter: None,
            prerequisites: Vec::new(),
            refs: Vec::new(),
        }
    }

    /// Writes the header as git does: version 2 for SHA-1 without a filter, else version 3.
    ///
    /// # Errors
    /// `Config` when a name or subject contains a newline.
    pub fn write(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        if self.hash == HashKind::Sha1 && self.filter.is_none() {
            out.extend_from_slice(b"# v2 git bundle\n");
        } else {
            out.extend_from_slice(b"# v3 git bundle\n");
            out.extend_from_slice(format!("@object-format={}\n", self.hash).as_bytes());
            if let Some(filter) = &self.filter {
                out.extend_from_slice(b"@filter=");
                out.extend_from_slice(check_single_line(filter)?);
                out.push(b'\n');
            }
        }
        for (id, subject) in &self.prerequisites {
            out.extend_from_slice(format!("-{id} ").as_bytes());
            out.extend_from_slice(check_single_line(subject)?);
            out.push(b'\n');
        }
        for (id, name) in &self.refs {
            out.extend_from_slice(format!("{id} ").as_bytes());
            out.extend_from_slice(check_single_line(name)?);
            out.push(b'\n');
        }
        out.push(b'\n');
        Ok(out)
    }

    /// Reads a header and its length in bytes, after which the pack starts; `None` when
    /// more bytes are needed.
    ///
    /// # Errors
    /// `Corrupt` for bytes that are not a bundle's, and for a header without an end within
    /// [`MAX_HEADER_BYTES`].
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>> {
        let mut lines = Lines { bytes, at: 0 };
        let Some(signature) = lines.next_line()? else {
            return Ok(None);
        };
        let version_3 = match signature {
            b"# v2 git bundle" => false,
            b"# v3 git bundle" => true,
            _ => {
                let shown = escaped_excerpt(signature);
                return Err(corrupt(format!(
                    "expected the signature of a bundle, found `{shown}`"
                )));
            }
        };
        let mut header = Self::new(HashKind::Sha1);
        while let Some(line) = lines.next_line()? {
            if line.is_empty() {
                return Ok(Some((header, lines.at)));
            }
            if let Some(capability) = line.strip_prefix(b"@") {
                if !version_3 || !header.refs.is_empty() || !header.prerequisites.is_empty() {
                    return Err(corrupt("a bundle has a capability after its first ref"));
                }
                header.capability(capability)?;
            } else if let Some(line) = line.strip_prefix(b"-") {
                // Git itself writes a prerequisite with an empty subject without a space.
                let (id, subject) = match line.find_byte(b' ') {
                    Some(_) => split_id(line, b' ')?,
                    None => (super::parse_id(line)?, &b""[..]),
                };
                header.check_hash_function(id)?;
                header.prerequisites.push((id, subject.into()));
            } else {
                let (id, name) = split_id(line, b' ')?;
                header.check_hash_function(id)?;
                header.refs.push((id, name.into()));
            }
        }
        Ok(None)
    }

    fn capability(&mut self, line: &[u8]) -> Result<()> {
        let (key, value) = line.split_once_str("=").unwrap_or((line, b""));
        match (key, value) {
            (b"object-format", b"sha1") => self.hash = HashKind::Sha1,
            (b"object-format", b"sha256") => self.hash = HashKind::Sha256,
            (b"filter", value) => self.filter = Some(value.into()),
            _ => {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!(
                        "a bundle requires the unknown capability `{}`",
                        escaped_excerpt(line)
                    ),
                )
                .with_hint("it was written by a newer git"));
            }
        }
        Ok(())
    }

    fn check_hash_function(&self, id: ObjectId) -> Result<()> {
        if id.kind() == self.hash {
            Ok(())
        } else {
            Err(corrupt(format!(
                "a bundle of {} contains the id {id} of another hash function",
                self.hash
            )))
        }
    }
}

fn check_single_line(text: &BString) -> Result<&[u8]> {
    if text.contains(&b'\n') {
        let message = format!("`{}` contains a newline", escaped_excerpt(text));
        return Err(Error::new(ErrorKind::Config, message));
    }
    Ok(text)
}

struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    fn next_line(&mut self) -> Result<Option<&'a [u8]>> {
        let rest = &self.bytes[self.at..];
        if let Some(end) = rest.find_byte(b'\n') {
            self.at += end + 1;
            return Ok(Some(&rest[..end]));
        }
        if self.bytes.len() > MAX_HEADER_BYTES || (self.at == 0 && rest.len() > 64) {
            return Err(corrupt(
                "the header of a bundle does not end within its limit",
            ));
        }
        Ok(None)
    }
}
