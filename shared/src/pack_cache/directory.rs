//! The folder that copies lie in, and how much of the disk they may take.

use std::collections::{HashMap, HashSet};
use std::fs::{DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::manifest;
use super::segment::{SegmentId, broken, is_transient};
use crate::git::ObjectId;

/// The most that copies take, whatever the disk has.
const MOST: u64 = 4 << 30;
/// What part of the space that would be free without them they may take.
const SHARE: u64 = 4;
/// The most copies there are.
const MOST_COPIES: usize = 512;
/// A file that belongs to no copy so long after it was written was left behind.
const ORPHAN_AGE: Duration = Duration::from_hours(1);

/// The folder.
pub(super) struct CacheDir {
    pub(super) path: PathBuf,
    most: u64,
}

/// What lies in the folder.
#[derive(Default)]
struct DirUsage {
    /// Records, with when each was used last, its length, and its segments.
    records: Vec<(PathBuf, SystemTime, u64, Vec<SegmentId>)>,
    /// All files with their lengths.
    sizes: HashMap<PathBuf, u64>,
    /// Those that a record may come to name, or that were left behind.
    loose: Vec<(PathBuf, SystemTime)>,
}

impl CacheDir {
    /// The folder, created if it is not there.
    ///
    /// # Errors
    /// When it is not this user's alone.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let found = path.symlink_metadata()?;
        let is_ours = found.uid() == rustix::process::geteuid().as_raw();
        if !found.is_dir() || !is_ours || found.mode() & 0o077 != 0 {
            return Err(broken("it is no folder of this user alone"));
        }
        Ok(Self {
            path: path.to_owned(),
            most: MOST,
        })
    }

    /// The same, with another bound.
    pub(super) fn holding(&self, most: u64) -> Self {
        Self {
            path: self.path.clone(),
            most,
        }
    }

    /// Makes room for so many bytes more: what was not used for the longest goes. Whether
    /// there is room.
    pub(super) fn evict_for(&self, bytes: u64) -> io::Result<bool> {
        let mut contents = self.contents()?;
        for (path, modified) in std::mem::take(&mut contents.loose) {
            if modified.elapsed().is_ok_and(|age| age > ORPHAN_AGE) {
                contents.remove(&path);
            }
        }
        let mut held = contents.held();
        let allowed = self.allowed(held)?;
        if bytes > allowed {
            return Ok(false);
        }
        contents.records.sort_by_key(|(_, used, ..)| *used);
        let mut oldest = contents.records.clone().into_iter();
        while held > allowed - bytes || contents.records.len() >= MOST_COPIES {
            let Some((path, ..)) = oldest.next() else {
                return Ok(false);
            };
            held -= contents.remove_record(&path);
        }
        Ok(true)
    }

    /// Whether so many bytes would have room if nothing else were here.
    pub(super) fn fits(&self, bytes: u64) -> bool {
        let held = self.contents().map(|contents| contents.held());
        let room = held.and_then(|held| self.allowed(held));
        room.is_ok_and(|room| bytes <= room)
    }

    /// How much copies may take, of which `held` are there.
    fn allowed(&self, held: u64) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.path)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        Ok(allowed(self.most, free, held))
    }

    /// Removes a copy, and what no other one needs.
    pub(super) fn remove(&self, pack: ObjectId) {
        if let Ok(mut contents) = self.contents() {
            contents.remove_record(&manifest::path(&self.path, pack));
        }
    }

    fn contents(&self) -> io::Result<DirUsage> {
        let mut contents = DirUsage::default();
        let mut loose = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let path = entry?.path();
            // Others may remove what was listed.
            let Ok(found) = path.symlink_metadata() else {
                continue;
            };
            contents.sizes.insert(path.clone(), found.len());
            let extension = path.extension().and_then(|extension| extension.to_str());
            if extension != Some(manifest::EXTENSION) {
                loose.push((path, modified(&found)));
                continue;
            }
            match manifest::read_segments(&path) {
                Ok(segments) => {
                    let one = (path, modified(&found), found.len(), segments);
                    contents.records.push(one);
                }
                Err(error) if is_transient(&error) => return Err(error),
                // No copy is ever seen half written.
                Err(_) => {
                    contents.remove(&path);
                }
            }
        }
        let needed: HashSet<String> = contents
            .records
            .iter()
            .flat_map(|(.., segments)| segments.iter().map(SegmentId::file_name))
            .collect();
        loose.retain(|(path, _)| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_none_or(|name| !needed.contains(name))
        });
        contents.loose = loose;
        Ok(contents)
    }
}

/// How much copies may take of a disk on which they take `held` and leave `free`.
fn allowed(most: u64, free: u64, held: u64) -> u64 {
    most.min(free.saturating_add(held) / SHARE)
}

fn modified(found: &Metadata) -> SystemTime {
    found.modified().unwrap_or(SystemTime::UNIX_EPOCH)
}

impl DirUsage {
    fn held(&self) -> u64 {
        self.sizes.values().sum()
    }

    /// Removes a file; how much of the disk is free by that.
    fn remove(&mut self, path: &Path) -> u64 {
        // One that stays goes on being counted.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => 0,
            _ => self.sizes.remove(path).unwrap_or(0),
        }
    }

    /// Removes a copy, and what no other one needs; how much of the disk is free by that.
    fn remove_record(&mut self, path: &Path) -> u64 {
        let Some(at) = self.records.iter().position(|(other, ..)| other == path) else {
            return self.remove(path);
        };
        // The record first: none is to name what is not there.
        let mut freed = self.remove(path);
        let (.., segments) = self.records.remove(at);
        for segment in segments {
            let mut others = self.records.iter();
            if !others.any(|(.., others)| others.iter().any(|other| other.name == segment.name)) {
                let folder = path.parent().unwrap_or(Path::new(""));
                freed += self.remove(&folder.join(segment.file_name()));
            }
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_take_a_quarter_of_what_would_be_free_without_them() {
        let mib = 1 << 20;
        assert_eq!(
            allowed(MOST, 512 * mib, 0),
            128 * mib,
            "Lambda's usual /tmp"
        );
        assert_eq!(
            allowed(MOST, 384 * mib, 128 * mib),
            128 * mib,
            "full of copies"
        );
        assert_eq!(
            allowed(MOST, 0, 100 * mib),
            25 * mib,
            "others need the disk"
        );
        assert_eq!(allowed(MOST, u64::MAX, 0), MOST);
    }
}
