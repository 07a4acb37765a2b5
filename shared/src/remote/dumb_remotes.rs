//! Repositories in the layout `dumb` that were opened before, in a file of the cache.
//!
//! Each line is the bucket and the prefix of one, the latest last. The file only decides which
//! request is sent ahead of its use ([`layout`](super::layout)), so that a missing, outdated or
//! damaged file costs one request.

use std::path::PathBuf;

use crate::name::{BucketName, KeyPrefix};

/// Maximum number of repositories in the file.
const MAX_REMOTES: usize = 256;

/// The file of repositories in the layout `dumb`.
#[derive(Debug, Clone)]
pub(super) struct DumbRemotes {
    path: PathBuf,
}

impl DumbRemotes {
    /// Uses the file at `path`, which need not exist.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Returns whether the file has a repository.
    pub(super) fn contains(&self, bucket: &BucketName, prefix: &KeyPrefix) -> bool {
        let line = line(bucket, prefix);
        self.read().lines().any(|found| found == line)
    }

    /// Adds a repository. Failures are ignored.
    pub(super) fn insert(&self, bucket: &BucketName, prefix: &KeyPrefix) {
        let line = line(bucket, prefix);
        let text = self.read();
        let mut lines: Vec<&str> = text.lines().filter(|found| *found != line).collect();
        lines.push(&line);
        let first = lines.len().saturating_sub(MAX_REMOTES);
        let text = lines[first..].join("\n") + "\n";
        // Renamed, so that other processes read a whole file.
        let temporary = self.path.with_extension(std::process::id().to_string());
        let written =
            std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &self.path));
        if let Err(error) = written {
            tracing::debug!(%error, "the layout of a repository was not recorded");
            let _ = std::fs::remove_file(&temporary);
        }
    }

    fn read(&self) -> String {
        std::fs::read_to_string(&self.path).unwrap_or_default()
    }
}

fn line(bucket: &BucketName, prefix: &KeyPrefix) -> String {
    format!("{bucket}/{}", prefix.as_str().escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_repositories_are_kept_and_a_damaged_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let remotes = DumbRemotes::new(folder.path().join("dumb-remotes"));
        let bucket = BucketName::new("bucket").unwrap();
        let prefix = |n: usize| KeyPrefix::new(&format!("team/{n}")).unwrap();
        assert!(!remotes.contains(&bucket, &prefix(0)));
        std::fs::write(&remotes.path, b"\xff\xfe").unwrap();
        for n in (0..=MAX_REMOTES).chain([1]) {
            remotes.insert(&bucket, &prefix(n));
        }
        assert!(!remotes.contains(&bucket, &prefix(0)), "the oldest one");
        for n in 1..=MAX_REMOTES {
            assert!(remotes.contains(&bucket, &prefix(n)), "{n}");
        }
        assert_eq!(remotes.read().lines().count(), MAX_REMOTES);
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, 1, "no temporary file is left");
    }
}
