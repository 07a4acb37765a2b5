//! `objects/info/packs`: which packs there are, and which ones are on their way out.
//!
//! Git reads lines that start with `P ` and passes over all others (`http.c`,
//! `http_get_info_packs`). So what branchline knows beyond that stands in lines of other
//! kinds of the same file, where it changes together with the list:
//!
//! | line | meaning |
//! |---|---|
//! | `P pack-<id>.pack` | a pack |
//! | `N <objects> <bytes> pack-<id>.pack` | how many objects and bytes that pack has |
//! | `S <seconds> pack-<id>.pack` | not listed any more since then: its objects are in others |
//! | `D <seconds> pack-<id>.pack` | the same, and its files were deleted then |
//!
//! Times are seconds since the epoch. A pack without `N` was written by something else;
//! it is never merged away.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bstr::ByteSlice;

use crate::error::Result;
use crate::git::ObjectId;
use crate::git::dumb_http::{pack_name, parse_info_packs};

/// How large a pack is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackSize {
    pub(super) objects: u64,
    pub(super) bytes: u64,
}

/// A pack that is not listed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    /// Its files are there for those who read the list before that time.
    Superseded(i64),
    /// Its files were deleted then.
    Deleted(i64),
}

/// The list of packs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct PackList {
    /// The packs, newest first.
    pub(super) packs: Vec<ObjectId>,
    /// Their sizes, as far as they are known.
    pub(super) sizes: BTreeMap<ObjectId, PackSize>,
    /// Packs whose objects are all in listed ones.
    pub(super) gone: BTreeMap<ObjectId, Gone>,
}

impl PackList {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let mut list = Self::default();
        for id in parse_info_packs(bytes)? {
            if !list.packs.contains(&id) {
                list.packs.push(id);
            }
        }
        for line in bytes.lines() {
            list.parse_extension_line(line);
        }
        let Self { packs, sizes, gone } = &mut list;
        sizes.retain(|id, _| packs.contains(id));
        gone.retain(|id, _| !packs.contains(id));
        Ok(list)
    }

    /// Takes in a line of branchline's own; what is none is passed over, as git does.
    fn parse_extension_line(&mut self, line: &[u8]) -> Option<()> {
        let mut words = line.to_str().ok()?.split(' ');
        let kind = words.next()?;
        let first = words.next()?;
        match kind {
            "N" => {
                let (objects, bytes) = (first.parse().ok()?, words.next()?.parse().ok()?);
                let id = pack_id(words.next()?)?;
                self.sizes.insert(id, PackSize { objects, bytes });
            }
            "S" | "D" => {
                let time = first.parse().ok()?;
                let id = pack_id(words.next()?)?;
                let gone = match kind {
                    "S" => Gone::Superseded(time),
                    _ => Gone::Deleted(time),
                };
                self.gone.insert(id, gone);
            }
            _ => {}
        }
        Some(())
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = String::new();
        for id in &self.packs {
            let _ = writeln!(out, "P {}", pack_name(*id));
        }
        for (id, PackSize { objects, bytes }) in &self.sizes {
            let _ = writeln!(out, "N {objects} {bytes} {}", pack_name(*id));
        }
        for (id, gone) in &self.gone {
            let (kind, time) = match gone {
                Gone::Superseded(time) => ('S', time),
                Gone::Deleted(time) => ('D', time),
            };
            let _ = writeln!(out, "{kind} {time} {}", pack_name(*id));
        }
        out.push('\n');
        out.into_bytes()
    }

    /// Whether all objects of that pack are in listed ones.
    pub(super) fn supersedes(&self, id: ObjectId) -> bool {
        self.packs.contains(&id) || self.gone.contains_key(&id)
    }

    /// Lists a pack, which has all objects of `instead_of`.
    pub(super) fn add(&mut self, id: ObjectId, size: PackSize, instead_of: &[ObjectId], now: i64) {
        for old in instead_of {
            if let Some(at) = self.packs.iter().position(|other| other == old) {
                self.packs.remove(at);
                self.sizes.remove(old);
                self.gone.insert(*old, Gone::Superseded(now));
            }
        }
        if !self.supersedes(id) {
            self.packs.insert(0, id);
            self.sizes.insert(id, size);
        }
    }

    /// Packs whose files nobody needs any more: superseded for longer than `grace`.
    pub(super) fn expired(&self, now: i64, grace: i64) -> Vec<ObjectId> {
        let overdue = |gone: &Gone| match gone {
            Gone::Superseded(since) => now.saturating_sub(*since) > grace,
            Gone::Deleted(_) => false,
        };
        let found = self.gone.iter().filter(|(_, gone)| overdue(gone));
        found.map(|(id, _)| *id).collect()
    }

    /// Notes that the files of a pack are deleted.
    pub(super) fn deleted(&mut self, id: ObjectId, now: i64) {
        if let Some(gone) = self.gone.get_mut(&id) {
            *gone = Gone::Deleted(now);
        }
    }

    /// Forgets packs whose files were deleted longer ago than `grace`.
    pub(super) fn drop_deleted(&mut self, now: i64, grace: i64) {
        self.gone.retain(|_, gone| match gone {
            Gone::Superseded(_) => true,
            Gone::Deleted(since) => now.saturating_sub(*since) <= grace,
        });
    }
}

fn pack_id(name: &str) -> Option<ObjectId> {
    let hex = name.strip_prefix("pack-")?.strip_suffix(".pack")?;
    ObjectId::from_hex(hex.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> ObjectId {
        ObjectId::from_bytes_or_panic(&[n; 20])
    }

    fn size(objects: u64) -> PackSize {
        PackSize { objects, bytes: 1 }
    }

    #[test]
    fn a_list_comes_back_and_git_sees_its_packs_alone() {
        let mut list = PackList::default();
        list.add(id(1), size(1), &[], 5);
        list.add(id(2), size(2), &[], 6);
        list.add(id(3), size(3), &[id(1)], 7);
        assert_eq!(list.packs, [id(3), id(2)], "the newest one first");
        assert!(list.supersedes(id(1)) && !list.supersedes(id(4)));
        let bytes = list.write();
        assert_eq!(PackList::parse(&bytes).unwrap(), list);
        assert_eq!(parse_info_packs(&bytes).unwrap(), [id(3), id(2)]);
        list.add(id(1), size(1), &[], 8);
        assert_eq!(list.packs.len(), 2, "what is covered is not listed again");
    }

    #[test]
    fn what_is_superseded_is_kept_for_the_grace_period_and_remembered_for_another() {
        let mut list = PackList::default();
        list.add(id(1), size(1), &[], 0);
        list.add(id(2), size(2), &[id(1)], 1000);
        assert!(list.expired(1100, 100).is_empty());
        assert_eq!(list.expired(1101, 100), [id(1)]);
        list.deleted(id(1), 1101);
        assert!(list.expired(5000, 100).is_empty(), "it is deleted once");
        list.drop_deleted(1201, 100);
        assert!(
            list.supersedes(id(1)),
            "a late reader of the old list still looks it up"
        );
        list.drop_deleted(1202, 100);
        assert!(!list.supersedes(id(1)));
    }

    #[test]
    fn lines_of_others_are_passed_over() {
        let hex = id(9);
        let text =
            format!("P pack-{hex}.pack\nX y\nN 1\nS x pack-{hex}.pack\nN 1 2 pack-z.pack\n\n");
        let list = PackList::parse(text.as_bytes()).unwrap();
        assert_eq!(list.packs, [hex]);
        assert!(list.sizes.is_empty() && list.gone.is_empty());
        assert!(PackList::parse(b"P pack-../x.pack\n").is_err());
    }
}
