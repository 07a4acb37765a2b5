//! One level of a tree with names as text, whether an API or an object database served it.

use std::cmp::Ordering;

pub use gix_object::tree::EntryKind as EntryMode;
use gix_object::tree::name_order;

use super::{ObjectKind, id_of, tree_entries};
use crate::error::Result;
use crate::{HashKind, ObjectId};

/// An entry of a [`TreeListing`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedEntry {
    /// One path segment. Bytes that are not UTF-8 are U+FFFD.
    pub name: String,
    /// The mode; [`EntryMode::Commit`] is a submodule.
    pub mode: EntryMode,
    /// The id of the tree, the blob or the submodule's commit.
    pub id: ObjectId,
}

impl ListedEntry {
    /// Makes an entry of a listing.
    pub fn new(name: impl Into<String>, mode: EntryMode, id: ObjectId) -> Self {
        Self {
            name: name.into(),
            mode,
            id,
        }
    }

    /// Compares names in git's order of a tree: a folder's name counts as ending in `/`.
    pub fn git_order(&self, other: &Self) -> Ordering {
        let is_tree = |entry: &Self| entry.mode == EntryMode::Tree;
        let (name, other_name) = (self.name.as_bytes(), other.name.as_bytes());
        name_order(name, is_tree(self), other_name, is_tree(other))
    }
}

/// The entries of one tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeListing {
    /// The id of the tree.
    pub id: ObjectId,
    /// The entries, in any order.
    pub entries: Vec<ListedEntry>,
}

impl TreeListing {
    /// Decodes the content of the tree `id`. Modes that git no longer writes are read as
    /// git reads them: 100664 as 100644.
    ///
    /// # Errors
    /// `Corrupt` when `content` is not in the format of a tree.
    pub fn decode(id: ObjectId, content: &[u8]) -> Result<Self> {
        let mut entries = Vec::new();
        tree_entries(id.kind(), content, |entry| {
            let name = String::from_utf8_lossy(entry.name);
            entries.push(ListedEntry::new(name, mode_of(entry.mode), entry.id));
        })?;
        Ok(Self { id, entries })
    }
}

fn mode_of(bits: u32) -> EntryMode {
    match bits & 0o170_000 {
        0o040_000 => EntryMode::Tree,
        0o160_000 => EntryMode::Commit,
        0o120_000 => EntryMode::Link,
        _ if bits & 0o100 != 0 => EntryMode::BlobExecutable,
        _ => EntryMode::Blob,
    }
}

/// Computes the id of the tree with `entries`, which are in git's order.
///
/// # Errors
/// `Corrupt` when the content is part of a SHA-1 collision.
pub fn tree_id(hash: HashKind, entries: &[ListedEntry]) -> Result<ObjectId> {
    let mut content = Vec::new();
    for entry in entries {
        content.extend_from_slice(entry.mode.as_octal_str());
        content.push(b' ');
        content.extend_from_slice(entry.name.as_bytes());
        content.push(0);
        content.extend_from_slice(entry.id.as_slice());
    }
    id_of(hash, ObjectKind::Tree, &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoded_tree_in_git_order_has_its_own_id() {
        let blob = ObjectId::empty_blob(HashKind::Sha1);
        let tree = ObjectId::empty_tree(HashKind::Sha1);
        let entry = |name: &str, mode| ListedEntry::new(name, mode, blob);
        let mut entries = vec![
            ListedEntry::new("a", EntryMode::Tree, tree),
            entry("a.b", EntryMode::BlobExecutable),
            entry("a0", EntryMode::Link),
            entry("lib", EntryMode::Commit),
            entry("a-", EntryMode::Blob),
        ];
        entries.sort_by(ListedEntry::git_order);
        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["a-", "a.b", "a", "a0", "lib"]);
        let mut content = Vec::new();
        for entry in &entries {
            let mode = entry.mode.as_octal_str();
            content.extend_from_slice(format!("{mode} {}\0", entry.name).as_bytes());
            content.extend_from_slice(entry.id.as_slice());
        }
        let id = id_of(HashKind::Sha1, ObjectKind::Tree, &content).unwrap();
        let listing = TreeListing::decode(id, &content).unwrap();
        assert_eq!(listing.entries, entries);
        assert_eq!(tree_id(HashKind::Sha1, &entries).unwrap(), id);
    }

    #[test]
    fn modes_of_old_trees_are_read_as_git_reads_them() {
        let modes = [0o100_664, 0o100_755, 0o644, 0o120_777].map(mode_of);
        assert_eq!(
            modes,
            [
                EntryMode::Blob,
                EntryMode::BlobExecutable,
                EntryMode::Blob,
                EntryMode::Link
            ]
        );
    }
}
