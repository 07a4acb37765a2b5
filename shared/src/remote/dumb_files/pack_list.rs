//! `objects/info/packs`: the list of packs, and of superseded packs.
//!
//! Git reads lines that start with `P ` and ignores all others (`http.c`,
//! `http_get_info_packs`). branchline adds lines of other kinds to the file, so that they
//! change together with the list:
//!
//! | line | meaning |
//! |---|---|
//! | `P pack-<id>.pack` | a pack |
//! | `N <objects> <bytes> pack-<id>.pack` | number of objects and bytes of that pack |
//! | `S <seconds> pack-<id>.pack` | superseded since then: its objects are in listed packs |
//! | `D <seconds> pack-<id>.pack` | superseded, and its files were deleted then |
//! | `G <seconds> pack-<id>.pack` | pruned since then: objects that no ref needed are in no listed pack |
//! | `X <seconds> pack-<id>.pack` | pruned, and its files were deleted then |
//! | `U <seconds>` | a push then depended on stored objects that need not be reachable |
//!
//! Times are seconds since the epoch. A pack without `N` was written by another program and
//! is never merged.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bstr::ByteSlice;

use crate::error::Result;
use crate::git::ObjectId;
use crate::git::dumb_http::{pack_name, parse_info_packs};

/// Size of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::remote) struct PackSize {
    pub(in crate::remote) objects: u64,
    pub(in crate::remote) bytes: u64,
}

/// State of a superseded pack, with the time of its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::remote) enum SupersededPack {
    /// The files are kept for readers of an older list.
    Kept(i64),
    /// The files are deleted.
    Deleted(i64),
}

/// List of packs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::remote) struct PackList {
    /// Listed packs, newest first.
    pub(in crate::remote) packs: Vec<ObjectId>,
    /// Sizes of listed packs, where known.
    pub(in crate::remote) sizes: BTreeMap<ObjectId, PackSize>,
    /// Packs whose objects are all in listed packs.
    pub(in crate::remote) superseded: BTreeMap<ObjectId, SupersededPack>,
    /// Packs with objects that are in no listed pack, because no ref needed them.
    pub(in crate::remote) pruned: BTreeMap<ObjectId, SupersededPack>,
    /// Time of the last push that depended on stored objects without knowing that they are
    /// reachable.
    pub(in crate::remote) used: Option<i64>,
}

impl PackList {
    pub(in crate::remote) fn parse(bytes: &[u8]) -> Result<Self> {
        let mut list = Self::default();
        for id in parse_info_packs(bytes)? {
            if !list.packs.contains(&id) {
                list.packs.push(id);
            }
        }
        for line in bytes.lines() {
            list.parse_extension_line(line);
        }
        let Self {
            packs,
            sizes,
            superseded,
            pruned,
            used: _,
        } = &mut list;
        sizes.retain(|id, _| packs.contains(id));
        superseded.retain(|id, _| !packs.contains(id));
        pruned.retain(|id, _| !packs.contains(id) && !superseded.contains_key(id));
        Ok(list)
    }

    /// Parses a branchline extension line; ignores others, as git does.
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
            "S" | "D" | "G" | "X" => {
                let time = first.parse().ok()?;
                let id = pack_id(words.next()?)?;
                let state = match kind {
                    "S" | "G" => SupersededPack::Kept(time),
                    _ => SupersededPack::Deleted(time),
                };
                match kind {
                    "S" | "D" => self.superseded.insert(id, state),
                    _ => self.pruned.insert(id, state),
                };
            }
            "U" => self.used = Some(first.parse().ok()?),
            _ => {}
        }
        Some(())
    }

    pub(in crate::remote) fn write(&self) -> Vec<u8> {
        let mut out = String::new();
        for id in &self.packs {
            let _ = writeln!(out, "P {}", pack_name(*id));
        }
        for (id, PackSize { objects, bytes }) in &self.sizes {
            let _ = writeln!(out, "N {objects} {bytes} {}", pack_name(*id));
        }
        for (packs, kept, deleted) in [(&self.superseded, 'S', 'D'), (&self.pruned, 'G', 'X')] {
            for (id, state) in packs {
                let (kind, time) = match state {
                    SupersededPack::Kept(time) => (kept, time),
                    SupersededPack::Deleted(time) => (deleted, time),
                };
                let _ = writeln!(out, "{kind} {time} {}", pack_name(*id));
            }
        }
        if let Some(time) = self.used {
            let _ = writeln!(out, "U {time}");
        }
        out.push('\n');
        out.into_bytes()
    }

    /// Returns whether listed packs contain all objects of that pack.
    pub(in crate::remote) fn covers(&self, id: ObjectId) -> bool {
        self.packs.contains(&id) || self.superseded.contains_key(&id)
    }

    /// Lists a pack, which supersedes `old`, because it has all their objects. It may be one of
    /// them, or superseded itself, because merged packs can have the bytes of an earlier one.
    pub(in crate::remote) fn add(
        &mut self,
        id: ObjectId,
        size: PackSize,
        old: &[ObjectId],
        now: i64,
    ) {
        for old in old.iter().filter(|old| **old != id) {
            if let Some(at) = self.packs.iter().position(|listed| listed == old) {
                self.packs.remove(at);
                self.sizes.remove(old);
                self.superseded.insert(*old, SupersededPack::Kept(now));
                // Those that have its objects may be among `old`.
                self.superseded.remove(&id);
            }
        }
        if !self.covers(id) {
            self.packs.insert(0, id);
            self.sizes.insert(id, size);
            self.pruned.remove(&id);
        }
    }

    /// Lists a pack, if there is one, in place of `old`, some of whose objects it does not have.
    pub(in crate::remote) fn prune(
        &mut self,
        new: Option<(ObjectId, PackSize)>,
        old: &[ObjectId],
        now: i64,
    ) {
        let kept = new.map(|(id, _)| id);
        for id in old.iter().filter(|id| Some(**id) != kept) {
            self.packs.retain(|listed| listed != id);
            self.sizes.remove(id);
            self.pruned.insert(*id, SupersededPack::Kept(now));
        }
        // Their objects were in `old`, which need not be in listed packs now.
        let superseded = std::mem::take(&mut self.superseded);
        self.pruned.extend(superseded);
        if let Some((id, size)) = new {
            self.pruned.remove(&id);
            self.add(id, size, &[], now);
        }
    }

    /// Records that a pack was written, and is not listed.
    pub(in crate::remote) fn prune_unlisted(&mut self, id: ObjectId, now: i64) {
        self.pruned.insert(id, SupersededPack::Kept(now));
    }

    /// Returns whether files of this pack may be deleted at any time, so that a pack of this id
    /// must not be listed. `grace` is in seconds.
    pub(in crate::remote) fn is_being_deleted(&self, id: ObjectId, now: i64, grace: i64) -> bool {
        self.pruned.get(&id).is_some_and(|state| match state {
            // By a client with this list, which may be as old as half of the time.
            SupersededPack::Kept(since) => now.saturating_sub(*since) > grace / 2,
            SupersededPack::Deleted(_) => true,
        })
    }

    /// Returns packs superseded or pruned longer ago than `grace`, in seconds.
    pub(in crate::remote) fn expired(&self, now: i64, grace: i64) -> Vec<ObjectId> {
        let is_expired = |state: &SupersededPack| match state {
            SupersededPack::Kept(since) => now.saturating_sub(*since) > grace,
            SupersededPack::Deleted(_) => false,
        };
        let found = self.superseded.iter().chain(&self.pruned);
        let found = found.filter(|(_, state)| is_expired(state));
        found.map(|(id, _)| *id).collect()
    }

    /// Records that the files of a pack are deleted.
    pub(in crate::remote) fn mark_deleted(&mut self, id: ObjectId, now: i64) {
        for packs in [&mut self.superseded, &mut self.pruned] {
            if let Some(state) = packs.get_mut(&id) {
                *state = SupersededPack::Deleted(now);
            }
        }
    }

    /// Removes packs whose files were deleted longer ago than `grace`, in seconds.
    pub(in crate::remote) fn drop_deleted(&mut self, now: i64, grace: i64) {
        for packs in [&mut self.superseded, &mut self.pruned] {
            packs.retain(|_, state| match state {
                SupersededPack::Kept(_) => true,
                SupersededPack::Deleted(since) => now.saturating_sub(*since) <= grace,
            });
        }
        self.used = self
            .used
            .filter(|since| now.saturating_sub(*since) <= grace);
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
    fn a_list_is_parsed_back_and_git_reads_only_its_packs() {
        let mut list = PackList::default();
        list.add(id(1), size(1), &[], 5);
        list.add(id(2), size(2), &[], 6);
        list.add(id(3), size(3), &[id(1)], 7);
        assert_eq!(list.packs, [id(3), id(2)], "the newest one first");
        assert!(list.covers(id(1)) && !list.covers(id(4)));
        let bytes = list.write();
        assert_eq!(PackList::parse(&bytes).unwrap(), list);
        assert_eq!(parse_info_packs(&bytes).unwrap(), [id(3), id(2)]);
        list.add(id(1), size(1), &[], 8);
        assert_eq!(list.packs.len(), 2, "a covered pack is not listed again");
    }

    #[test]
    fn a_pack_that_equals_a_merged_or_a_superseded_one_is_listed() {
        let mut list = PackList::default();
        list.add(id(1), size(3), &[], 0);
        list.add(id(2), size(2), &[], 0);
        list.add(id(1), size(3), &[id(1), id(2)], 1);
        assert_eq!(list.packs, [id(1)], "it has the objects of both");
        list.add(id(3), size(4), &[id(1)], 2);
        list.add(id(1), size(3), &[id(3)], 3);
        assert_eq!(list.packs, [id(1)], "the objects are in a listed pack");
        assert_eq!(
            list.superseded.keys().copied().collect::<Vec<_>>(),
            [id(2), id(3)]
        );
        assert_eq!(PackList::parse(&list.write()).unwrap(), list);
    }

    #[test]
    fn a_superseded_pack_is_kept_for_the_grace_period_and_listed_for_another() {
        let mut list = PackList::default();
        list.add(id(1), size(1), &[], 0);
        list.add(id(2), size(2), &[id(1)], 1000);
        assert!(list.expired(1100, 100).is_empty());
        assert_eq!(list.expired(1101, 100), [id(1)]);
        list.mark_deleted(id(1), 1101);
        assert!(list.expired(5000, 100).is_empty(), "a pack is deleted once");
        list.drop_deleted(1201, 100);
        assert!(
            list.covers(id(1)),
            "a writer that read the old list checks it"
        );
        list.drop_deleted(1202, 100);
        assert!(!list.covers(id(1)));
    }

    #[test]
    fn a_pruned_pack_covers_nothing_and_is_not_reused_while_it_is_deleted() {
        let mut list = PackList::default();
        list.add(id(1), size(1), &[], 0);
        list.add(id(2), size(2), &[], 0);
        list.add(id(3), size(3), &[id(1)], 5);
        list.prune(Some((id(4), size(1))), &[id(2), id(3)], 1000);
        assert_eq!(list.packs, [id(4)]);
        list.used = Some(1000);
        assert_eq!(PackList::parse(&list.write()).unwrap(), list);
        for old in [1, 2, 3] {
            assert!(!list.covers(id(old)), "its objects need not be stored");
        }
        assert_eq!(list.expired(1050, 100), [id(1)]);
        assert!(!list.is_being_deleted(id(2), 1050, 100));
        assert!(list.is_being_deleted(id(2), 1051, 100));
        let mut again = list.clone();
        again.add(id(2), size(2), &[], 1050);
        assert!(again.packs.contains(&id(2)) && !again.pruned.contains_key(&id(2)));
        list.mark_deleted(id(2), 1101);
        assert!(list.is_being_deleted(id(2), 1102, 100));
        list.drop_deleted(1202, 100);
        assert!(!list.is_being_deleted(id(2), 1202, 100));
        assert_eq!(list.used, None, "a use is forgotten after the grace period");
        list.prune(None, &[id(4)], 2000);
        assert!(list.packs.is_empty() && list.sizes.is_empty());
    }

    #[test]
    fn a_pack_that_is_kept_whole_stays_listed() {
        let mut list = PackList::default();
        list.add(id(1), size(1), &[], 0);
        list.add(id(2), size(2), &[], 0);
        list.prune(Some((id(1), size(1))), &[id(1), id(2)], 5);
        assert_eq!(list.packs, [id(1)]);
        assert_eq!(list.pruned.keys().copied().collect::<Vec<_>>(), [id(2)]);
    }

    #[test]
    fn lines_of_other_programs_are_ignored() {
        let hex = id(9);
        let text =
            format!("P pack-{hex}.pack\nX y\nN 1\nS x pack-{hex}.pack\nN 1 2 pack-z.pack\n\n");
        let list = PackList::parse(text.as_bytes()).unwrap();
        assert_eq!(list.packs, [hex]);
        assert!(list.sizes.is_empty() && list.superseded.is_empty());
        assert!(PackList::parse(b"P pack-../x.pack\n").is_err());
    }
}
