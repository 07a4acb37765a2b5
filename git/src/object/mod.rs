//! Objects: kinds, ids, references to other objects, and the loose form.
//!
//! Commits, trees and tags are parsed by `gix-object`, and stricter where a hostile peer
//! could use what it accepts: see [`tree_entries`].

mod loose;

mod commit_fields;
mod tree_listing;

use std::fmt;

use bstr::ByteSlice;
use gix_hash::{Hasher, hasher};
use gix_object::{CommitRefIter, TagRefIter, TreeRefIter, commit, tag};

pub use commit_fields::{Commit, Signature};
pub use tree_listing::{EntryMode, ListedEntry, TreeListing, tree_id};

use crate::error::Result;
use crate::{HashKind, ObjectId, corrupt};

pub(crate) use loose::parse_loose_header;
pub use loose::{decode_loose, encode_loose, loose_path};

/// The type of an object.
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
    /// Returns git's name of the type, as in the header of an object.
    pub fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Tree => "tree",
            Self::Blob => "blob",
            Self::Tag => "tag",
        }
    }

    /// Returns the type that git calls `name`.
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

impl From<gix_object::Kind> for ObjectKind {
    fn from(kind: gix_object::Kind) -> Self {
        match kind {
            gix_object::Kind::Commit => Self::Commit,
            gix_object::Kind::Tree => Self::Tree,
            gix_object::Kind::Blob => Self::Blob,
            gix_object::Kind::Tag => Self::Tag,
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Computes the id of an object whose content arrives in pieces.
///
/// SHA-1 is computed with collision detection, as git does.
pub struct ObjectHasher(Hasher);

impl ObjectHasher {
    /// Starts an object of type `kind` with `size` bytes of content.
    pub fn new(hash: HashKind, kind: ObjectKind, size: u64) -> Self {
        let mut inner = hasher(hash);
        inner.update(format!("{kind} {size}\0").as_bytes());
        Self(inner)
    }

    /// Adds the next bytes of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the id.
    ///
    /// # Errors
    /// `Corrupt` when the content is one half of a SHA-1 collision attack.
    pub fn finish(self) -> Result<ObjectId> {
        self.0
            .try_finalize()
            .map_err(|error| corrupt("an object is part of a SHA-1 collision").with_source(error))
    }
}

/// Computes the id of an object whose content is in memory.
pub fn id_of(hash: HashKind, kind: ObjectKind, content: &[u8]) -> Result<ObjectId> {
    let mut hasher = ObjectHasher::new(hash, kind, content.len() as u64);
    hasher.update(content);
    hasher.finish()
}

/// A reference from one object to another that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// A commit's parent.
    Parent(ObjectId),
    /// A commit's tree, or a tree in a tree.
    Tree(ObjectId),
    /// A file or symbolic link in a tree.
    Blob(ObjectId),
    /// The object that a tag names, and its type.
    Target(ObjectId, ObjectKind),
}

impl Reference {
    /// Returns the id that is referred to.
    pub fn id(self) -> ObjectId {
        match self {
            Self::Parent(id) | Self::Tree(id) | Self::Blob(id) | Self::Target(id, _) => id,
        }
    }

    /// Returns the type that the referred object must have.
    pub fn kind(self) -> ObjectKind {
        match self {
            Self::Parent(_) => ObjectKind::Commit,
            Self::Tree(_) => ObjectKind::Tree,
            Self::Blob(_) => ObjectKind::Blob,
            Self::Target(_, kind) => kind,
        }
    }
}

/// Calls `found` with each object that an object of type `kind` needs. The commits of
/// submodules are not needed.
///
/// # Errors
/// `Corrupt` when `content` does not have the format of `kind`.
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
        ObjectKind::Commit => commit_references(hash, content, found),
        ObjectKind::Tag => {
            let mut tokens = TagRefIter::from_bytes(content, hash);
            match (tokens.next(), tokens.next()) {
                (Some(Ok(tag::ref_iter::Token::Target { id })), Some(Ok(kind))) => {
                    let tag::ref_iter::Token::TargetKind(kind) = kind else {
                        return Err(corrupt("a tag has no `type` line"));
                    };
                    found(Reference::Target(id, kind.into()));
                    Ok(())
                }
                _ => Err(corrupt(format!(
                    "a tag does not start with an id of {hash} and a type of object"
                ))),
            }
        }
    }
}

/// Calls `found` with the tree and the parents of a commit.
///
/// `gix-object` reports a broken `parent` line, which is refused, and a broken `author` line,
/// which git accepts in old commits, by one error. So it is given the lines before `author`.
fn commit_references(
    hash: HashKind,
    content: &[u8],
    mut found: impl FnMut(Reference),
) -> Result<()> {
    let is_reference = |line: &&[u8]| line.starts_with(b"tree ") || line.starts_with(b"parent ");
    let lines = content.lines_with_terminator().take_while(is_reference);
    let header = &content[..lines.map(<[u8]>::len).sum()];
    let mut has_tree = false;
    for token in CommitRefIter::from_bytes(header, hash) {
        match token {
            Ok(commit::ref_iter::Token::Tree { id }) => {
                has_tree = true;
                found(Reference::Tree(id));
            }
            Ok(commit::ref_iter::Token::Parent { id }) => found(Reference::Parent(id)),
            _ => {
                return Err(corrupt(format!(
                    "a commit has a `tree` or `parent` line without an id of {hash}"
                )));
            }
        }
    }
    if has_tree {
        Ok(())
    } else {
        Err(corrupt("a commit does not start with a `tree` line"))
    }
}

/// An entry of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeEntry<'a> {
    /// The mode, as in `0o100644`.
    pub mode: u32,
    /// The name, one path segment.
    pub name: &'a [u8],
    /// The id of the blob, tree, or submodule's commit.
    pub id: ObjectId,
}

/// Calls `found` with each entry of a tree.
///
/// # Errors
/// `Corrupt` when `content` does not have the format of a tree, and for entries that
/// `gix-object` accepts and git does not write: a mode of no digits or of more than 16 bits,
/// an empty name, a name with `/`.
pub fn tree_entries<'a>(
    hash: HashKind,
    content: &'a [u8],
    mut found: impl FnMut(TreeEntry<'a>),
) -> Result<()> {
    let broken = |what: &str| corrupt(format!("a tree is broken: {what}"));
    let mut entries = TreeRefIter::from_bytes(content, hash);
    let mut start = 0;
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|_| broken("an entry has no octal mode, or is cut off"))?;
        match content[start..].find_byte(b' ') {
            Some(1..=6) => {}
            Some(7) if content[start] == b'0' => {}
            _ => return Err(broken("a mode has no digits, or more than six")),
        }
        let name = entry.filename.as_bytes();
        if name.is_empty() || name.contains(&b'/') {
            return Err(broken("a name is empty or contains a slash"));
        }
        found(TreeEntry {
            mode: entry.mode.value().into(),
            name,
            id: entry.oid.to_owned(),
        });
        start = entries.offset_to_next_entry(content);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_match_gits() {
        let id = id_of(HashKind::Sha1, ObjectKind::Blob, b"hello\n").unwrap();
        assert_eq!(id.to_string(), "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(loose_path(id), "ce/013625030ba8dba906f756967f9e9ca394464a");
        let empty = id_of(HashKind::Sha256, ObjectKind::Tree, b"").unwrap();
        assert_eq!(empty, ObjectId::empty_tree(HashKind::Sha256));
    }

    #[test]
    fn a_commit_with_a_broken_author_is_read_and_one_with_a_broken_parent_is_corrupt() {
        let id = "1".repeat(40);
        let read = |text: &str| {
            let mut ids = 0;
            let commit = ObjectKind::Commit;
            references(HashKind::Sha1, commit, text.as_bytes(), |_| ids += 1).map(|()| ids)
        };
        let broken_author = format!("tree {id}\nparent {id}\nauthor nobody\n\n");
        assert_eq!(read(&broken_author).unwrap(), 2);
        for text in [
            format!("tree {id}\nparent {}\n", &id[1..]),
            format!("tree {id}\nparent {}\n", "1".repeat(64)),
            format!("parent {id}\n"),
            String::new(),
        ] {
            let kind = read(&text).unwrap_err().kind();
            assert_eq!(kind, crate::ErrorKind::Corrupt, "{text}");
        }
    }

    #[test]
    fn modes_and_names_that_git_does_not_write_are_corrupt() {
        let read = |start: &[u8]| {
            let content = [start, &[0x11; 20]].concat();
            let mut modes = Vec::new();
            tree_entries(HashKind::Sha1, &content, |entry| modes.push(entry.mode)).map(|()| modes)
        };
        assert_eq!(read(b"100644 a\0").unwrap(), [0o100_644]);
        assert_eq!(
            read(b"0100644 a\0").unwrap(),
            [0o100_644],
            "old zero padding"
        );
        for start in [
            &b" a\0"[..],
            b"1040000 a\0",
            b"00100644 a\0",
            b"10064x a\0",
            b"100644 \0",
            b"100644 a/b\0",
            b"100644 a",
        ] {
            let kind = read(start).unwrap_err().kind();
            assert_eq!(kind, crate::ErrorKind::Corrupt, "{}", start.escape_ascii());
        }
    }
}
