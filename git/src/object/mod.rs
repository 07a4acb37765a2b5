//! Objects: their kinds, their ids, what they refer to, and the loose form.

mod commit_fields;
mod tree_listing;

use std::fmt;
use std::io::Write as _;

use bstr::ByteSlice;
use flate2::{Decompress, FlushDecompress, Status};
use gix_hash::{Hasher, hasher};

pub use commit_fields::{Commit, Signature};
pub use tree_listing::{EntryMode, ListedEntry, TreeListing, tree_id};

use crate::error::Result;
use crate::{HashKind, ObjectId, corrupt, escaped_excerpt, parse_id};

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A commit.
    Commit,
    /// A tree.
    Tree,
    /// A blob.
    Blob,
    /// An annotated tag.
    Tag,
}

impl ObjectKind {
    /// Git's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Tree => "tree",
            Self::Blob => "blob",
            Self::Tag => "tag",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"commit" => Some(Self::Commit),
            b"tree" => Some(Self::Tree),
            b"blob" => Some(Self::Blob),
            b"tag" => Some(Self::Tag),
            _ => None,
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Computes an object's id while its content goes by.
///
/// SHA-1 is computed with collision detection, as git does.
pub struct ObjectHasher(Hasher);

impl ObjectHasher {
    /// Starts an object of that kind and size.
    pub fn new(hash: HashKind, kind: ObjectKind, size: u64) -> Self {
        let mut inner = hasher(hash);
        inner.update(format!("{kind} {size}\0").as_bytes());
        Self(inner)
    }

    /// Takes in the next bytes of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The id.
    ///
    /// # Errors
    /// `Corrupt` when the content is one half of a SHA-1 collision attack.
    pub fn finish(self) -> Result<ObjectId> {
        self.0
            .try_finalize()
            .map_err(|error| corrupt("an object is part of a SHA-1 collision").with_source(error))
    }
}

/// The id of an object that is held whole.
pub fn id_of(hash: HashKind, kind: ObjectKind, content: &[u8]) -> Result<ObjectId> {
    let mut hasher = ObjectHasher::new(hash, kind, content.len() as u64);
    hasher.update(content);
    hasher.finish()
}

/// An object that another one needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// A commit's parent.
    Parent(ObjectId),
    /// A commit's tree, or a folder in a tree.
    Tree(ObjectId),
    /// A file or symbolic link in a tree.
    Blob(ObjectId),
    /// What a tag names.
    Target(ObjectId, ObjectKind),
}

impl Reference {
    /// The id that is referred to.
    pub fn id(self) -> ObjectId {
        match self {
            Self::Parent(id) | Self::Tree(id) | Self::Blob(id) | Self::Target(id, _) => id,
        }
    }

    /// What must lie under that id.
    pub fn kind(self) -> ObjectKind {
        match self {
            Self::Parent(_) => ObjectKind::Commit,
            Self::Tree(_) => ObjectKind::Tree,
            Self::Blob(_) => ObjectKind::Blob,
            Self::Target(_, kind) => kind,
        }
    }
}

/// Calls `found` with each object that this one needs. Submodules are not needed.
///
/// # Errors
/// `Corrupt` when the content is not of that kind's format.
pub fn references(
    hash: HashKind,
    kind: ObjectKind,
    content: &[u8],
    mut found: impl FnMut(Reference),
) -> Result<()> {
    match kind {
        ObjectKind::Blob => Ok(()),
        ObjectKind::Tree => tree_entries(hash, content, |entry| match entry.mode {
            0o40000 => found(Reference::Tree(entry.id)),
            0o160_000 => {}
            _ => found(Reference::Blob(entry.id)),
        }),
        ObjectKind::Commit => {
            let mut lines = content.split(|&byte| byte == b'\n');
            found(Reference::Tree(header_id(
                hash,
                kind,
                b"tree ",
                lines.next(),
            )?));
            for line in lines {
                if !line.starts_with(b"parent ") {
                    break;
                }
                found(Reference::Parent(header_id(
                    hash,
                    kind,
                    b"parent ",
                    Some(line),
                )?));
            }
            Ok(())
        }
        ObjectKind::Tag => {
            let mut lines = content.split(|&byte| byte == b'\n');
            let id = header_id(hash, kind, b"object ", lines.next())?;
            let name = lines
                .next()
                .and_then(|line| line.strip_prefix(b"type "))
                .unwrap_or_default();
            let target = ObjectKind::from_name(name)
                .ok_or_else(|| corrupt("a tag does not say what it names"))?;
            found(Reference::Target(id, target));
            Ok(())
        }
    }
}

fn header_id(
    hash: HashKind,
    kind: ObjectKind,
    word: &[u8],
    line: Option<&[u8]>,
) -> Result<ObjectId> {
    let hex = line
        .and_then(|line| line.strip_prefix(word))
        .ok_or_else(|| {
            corrupt(format!(
                "a {kind} lacks its line `{}`",
                escaped_excerpt(word)
            ))
        })?;
    let id = parse_id(hex)?;
    if id.kind() == hash {
        Ok(id)
    } else {
        Err(corrupt(format!("a {kind} names an id of another hash")))
    }
}

/// One line of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeEntry<'a> {
    /// Its mode, as in `0o100644`.
    pub mode: u32,
    /// Its name, one path segment.
    pub name: &'a [u8],
    /// What it names.
    pub id: ObjectId,
}

/// Calls `found` with each entry of a tree.
///
/// # Errors
/// `Corrupt` when the content is not a tree's, or a name holds `/` or is empty.
pub fn tree_entries<'a>(
    hash: HashKind,
    content: &'a [u8],
    mut found: impl FnMut(TreeEntry<'a>),
) -> Result<()> {
    let broken = |what: &str| corrupt(format!("a tree is broken: {what}"));
    let length = hash.len_in_bytes();
    let mut rest = content;
    while !rest.is_empty() {
        let space = rest
            .find_byte(b' ')
            .filter(|at| (1..=7).contains(at))
            .ok_or_else(|| broken("an entry has no mode"))?;
        let mode = rest[..space].iter().try_fold(0_u32, |mode, digit| {
            matches!(digit, b'0'..=b'7').then(|| mode * 8 + u32::from(digit - b'0'))
        });
        let mode = mode.ok_or_else(|| broken("a mode is not octal"))?;
        rest = &rest[space + 1..];
        let end = rest
            .find_byte(0)
            .ok_or_else(|| broken("an entry has no name"))?;
        let name = &rest[..end];
        if name.is_empty() || name.contains(&b'/') {
            return Err(broken("a name is empty or holds a slash"));
        }
        rest = &rest[end + 1..];
        if rest.len() < length {
            return Err(broken("an id is cut off"));
        }
        let id = ObjectId::from_bytes_or_panic(&rest[..length]);
        rest = &rest[length..];
        found(TreeEntry { mode, name, id });
    }
    Ok(())
}

/// The path of a loose object below `objects/`: two digits, a slash, the others.
pub fn loose_path(id: ObjectId) -> String {
    let hex = id.to_string();
    format!("{}/{}", &hex[..2], &hex[2..])
}

/// The bytes of a loose object.
pub fn encode_loose(kind: ObjectKind, content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder
        .write_all(format!("{kind} {}\0", content.len()).as_bytes())
        .and_then(|()| encoder.write_all(content))
        .and_then(|()| encoder.finish())
        .expect("because a Vec takes all that is written")
}

/// Reads a loose object of at most `limit` bytes of content, and verifies that it is the
/// one of that id.
pub fn decode_loose(id: ObjectId, bytes: &[u8], limit: usize) -> Result<(ObjectKind, Vec<u8>)> {
    let broken = |what: &str| corrupt(format!("loose object {id} is broken: {what}"));
    let mut inflate = Decompress::new(true);
    let mut out = Vec::with_capacity(1024);
    let whole = limit.saturating_add(64);
    loop {
        let before = (inflate.total_in(), out.len());
        let input = &bytes[usize::try_from(inflate.total_in()).unwrap_or(bytes.len())..];
        let status = inflate
            .decompress_vec(input, &mut out, FlushDecompress::None)
            .map_err(|error| broken("zlib").with_source(error))?;
        if status == Status::StreamEnd {
            break;
        }
        if out.len() > whole {
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
    let end = out
        .iter()
        .take(40)
        .position(|&byte| byte == 0)
        .ok_or_else(|| broken("it has no header"))?;
    let mut words = out[..end].splitn(2, |&byte| byte == b' ');
    let kind = words
        .next()
        .and_then(ObjectKind::from_name)
        .ok_or_else(|| broken("it has no kind"))?;
    let size = words.next().unwrap_or_default().to_vec();
    let content = out.split_off(end + 1);
    if content.len() > limit {
        return Err(broken("it is larger than the limit"));
    }
    if size != content.len().to_string().into_bytes() {
        return Err(broken("its size is another"));
    }
    if id_of(id.kind(), kind, &content)? != id {
        return Err(broken("its content is another"));
    }
    Ok((kind, content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn ids_are_gits() {
        let id = id_of(HashKind::Sha1, ObjectKind::Blob, b"hello\n").unwrap();
        assert_eq!(id.to_string(), "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(loose_path(id), "ce/013625030ba8dba906f756967f9e9ca394464a");
        let empty = id_of(HashKind::Sha256, ObjectKind::Tree, b"").unwrap();
        assert_eq!(empty, ObjectId::empty_tree(HashKind::Sha256));
    }

    #[test]
    fn loose_objects_come_back_and_changed_ones_do_not() {
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
