//! The directory of the pack cache, and the limits of its size.

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::manifest;
use super::segment::{SegmentId, broken};
use crate::git::ObjectId;
use crate::os::{self, is_transient};

/// Upper bound of the cache, independent of the disk.
const MAX_CACHE_BYTES: u64 = 4 << 30;
/// Divisor of the disk space that would be free without the cache: the quotient may be used.
const FREE_SPACE_DIVISOR: u64 = 4;
/// Maximum number of cached packs.
pub(super) const MAX_PACKS: usize = 512;
/// Age after which a file that no record names counts as left behind.
const ORPHAN_AGE: Duration = Duration::from_hours(1);

/// Directory of a pack cache, and its size limit.
pub(super) struct CacheDir {
    pub(super) path: PathBuf,
    max_bytes: u64,
}

/// Files in the directory, and the space that they use.
#[derive(Default)]
struct DirUsage {
    /// Records: path, time of the last use, length in bytes, segments.
    records: Vec<(PathBuf, SystemTime, u64, Vec<SegmentId>)>,
    /// Lengths of all files in bytes.
    sizes: HashMap<PathBuf, u64>,
    /// Files that no record names, with their times of modification: a writer may be about
    /// to record them, or they were left behind.
    unrecorded: Vec<(PathBuf, SystemTime)>,
}

impl CacheDir {
    /// Opens the directory, and creates it if it is missing.
    ///
    /// # Errors
    /// When another user owns it or may access it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        match os::create_private_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if !os::is_private_dir(&path.symlink_metadata()?) {
            return Err(broken("not a directory owned by this user only"));
        }
        Ok(Self {
            path: path.to_owned(),
            max_bytes: MAX_CACHE_BYTES,
        })
    }

    /// Returns this directory, limited to `max_bytes`.
    pub(super) fn with_max_bytes(&self, max_bytes: u64) -> Self {
        Self {
            path: self.path.clone(),
            max_bytes,
        }
    }

    /// Evicts the least recently used packs until `bytes` more fit; returns whether they do.
    pub(super) fn evict_for(&self, bytes: u64) -> io::Result<bool> {
        let mut usage = self.usage()?;
        for (path, modified) in std::mem::take(&mut usage.unrecorded) {
            if modified.elapsed().is_ok_and(|age| age > ORPHAN_AGE) {
                usage.remove(&path);
            }
        }
        let mut used = usage.total_bytes();
        let allowed = self.allowed(used)?;
        if bytes > allowed {
            return Ok(false);
        }
        usage.records.sort_by_key(|(_, last_used, ..)| *last_used);
        let mut oldest = usage.records.clone().into_iter();
        while used > allowed - bytes || usage.records.len() >= MAX_PACKS {
            let Some((path, ..)) = oldest.next() else {
                return Ok(false);
            };
            used -= usage.remove_record(&path);
        }
        Ok(true)
    }

    /// Whether `bytes` would fit into an empty cache.
    pub(super) fn fits(&self, bytes: u64) -> bool {
        let used = self.usage().map(|usage| usage.total_bytes());
        let allowed = used.and_then(|used| self.allowed(used));
        allowed.is_ok_and(|allowed| bytes <= allowed)
    }

    /// Returns the number of bytes that the cache may use, of which it uses `used` now.
    fn allowed(&self, used: u64) -> io::Result<u64> {
        Ok(allowed(self.max_bytes, os::free_bytes(&self.path)?, used))
    }

    /// Removes a pack, and the segments that no other pack shares.
    pub(super) fn remove(&self, pack: ObjectId) {
        if let Ok(mut usage) = self.usage() {
            usage.remove_record(&manifest::path(&self.path, pack));
        }
    }

    fn usage(&self) -> io::Result<DirUsage> {
        let mut usage = DirUsage::default();
        let mut unrecorded = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let path = entry?.path();
            // Another process may have removed it since it was listed.
            let Ok(found) = path.symlink_metadata() else {
                continue;
            };
            usage.sizes.insert(path.clone(), found.len());
            let extension = path.extension().and_then(|extension| extension.to_str());
            if extension != Some(manifest::EXTENSION) {
                unrecorded.push((path, modified(&found)));
                continue;
            }
            match manifest::read_segments(&path) {
                Ok(segments) => {
                    let record = (path, modified(&found), found.len(), segments);
                    usage.records.push(record);
                }
                Err(error) if is_transient(&error) => return Err(error),
                // Records are renamed into place whole, so a partial one is corrupt.
                Err(_) => {
                    usage.remove(&path);
                }
            }
        }
        let recorded: HashSet<String> = usage
            .records
            .iter()
            .flat_map(|(.., segments)| segments.iter().map(SegmentId::file_name))
            .collect();
        unrecorded.retain(|(path, _)| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_none_or(|name| !recorded.contains(name))
        });
        usage.unrecorded = unrecorded;
        Ok(usage)
    }
}

/// Returns the number of bytes that a cache of `max_bytes` may use on a disk of which it
/// uses `used` bytes and `free` are free.
fn allowed(max_bytes: u64, free: u64, used: u64) -> u64 {
    max_bytes.min(free.saturating_add(used) / FREE_SPACE_DIVISOR)
}

fn modified(found: &Metadata) -> SystemTime {
    found.modified().unwrap_or(SystemTime::UNIX_EPOCH)
}

impl DirUsage {
    fn total_bytes(&self) -> u64 {
        self.sizes.values().sum()
    }

    /// Removes a file; returns the number of bytes freed.
    fn remove(&mut self, path: &Path) -> u64 {
        // A file that could not be removed still uses its space.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => 0,
            _ => self.sizes.remove(path).unwrap_or(0),
        }
    }

    /// Removes a pack, and the segments that no other pack shares; returns the number of
    /// bytes freed.
    fn remove_record(&mut self, path: &Path) -> u64 {
        let Some(at) = self.records.iter().position(|(other, ..)| other == path) else {
            return self.remove(path);
        };
        // The record first, because a record must never name a missing segment.
        let mut freed = self.remove(path);
        let (.., segments) = self.records.remove(at);
        for segment in segments {
            let mut others = self.records.iter();
            if !others.any(|(.., others)| others.iter().any(|other| other.name == segment.name)) {
                let directory = path.parent().unwrap_or(Path::new(""));
                freed += self.remove(&directory.join(segment.file_name()));
            }
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_uses_a_quarter_of_the_space_that_is_free_without_it() {
        let mib = 1 << 20;
        assert_eq!(
            allowed(MAX_CACHE_BYTES, 512 * mib, 0),
            128 * mib,
            "Lambda's usual /tmp"
        );
        assert_eq!(
            allowed(MAX_CACHE_BYTES, 384 * mib, 128 * mib),
            128 * mib,
            "a full cache"
        );
        assert_eq!(
            allowed(MAX_CACHE_BYTES, 0, 100 * mib),
            25 * mib,
            "a disk that other files have filled"
        );
        assert_eq!(allowed(MAX_CACHE_BYTES, u64::MAX, 0), MAX_CACHE_BYTES);
    }
}
