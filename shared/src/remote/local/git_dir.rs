//! The directories of a repository, and the settings that decide how it may be used.

use std::fs;
use std::path::{Path, PathBuf};

use bstr::{BString, ByteSlice as _};

use super::config::RepositoryConfig;
use super::files::{config_error, read_file};
use crate::error::Result;
use crate::git::HashKind;

/// Maximum nesting of alternates, as in git.
const MAX_ALTERNATES: usize = 5;

/// A repository's directories and settings.
#[derive(Debug, Clone)]
pub(super) struct GitDir {
    /// The directory with `HEAD` (`GIT_DIR`).
    pub(super) git: PathBuf,
    /// The directory with everything else (`GIT_COMMON_DIR`); differs only in a linked working
    /// tree.
    pub(super) common: PathBuf,
    /// No branch is checked out.
    pub(super) bare: bool,
    pub(super) hash: HashKind,
    /// Object directories: the repository's own first, then its alternates.
    pub(super) objects: Vec<PathBuf>,
    /// Rejects updates of a branch that is checked out (`receive.denyCurrentBranch`).
    pub(super) deny_current: bool,
}

impl GitDir {
    /// Finds the repository at a path, or in its `.git`; `None` if there is none.
    ///
    /// # Errors
    /// `Config` for a repository that cannot be used: shallow, partial, or of an unknown format.
    pub(super) fn find(path: &Path) -> Result<Option<Self>> {
        for candidate in [path.join(".git"), path.to_owned()] {
            let git = match read_file(&candidate)? {
                Some(text) => {
                    let Some(to) = text.strip_prefix(b"gitdir:") else {
                        continue;
                    };
                    let to = to.trim().to_path().map_err(|error| {
                        config_error(path, "names a directory that is not UTF-8").with_source(error)
                    })?;
                    candidate.parent().unwrap_or(path).join(to)
                }
                None => candidate,
            };
            if let Some(git_dir) = Self::at(&git)? {
                return Ok(Some(git_dir));
            }
        }
        Ok(None)
    }

    fn at(git: &Path) -> Result<Option<Self>> {
        let common = match read_file(&git.join("commondir"))? {
            Some(text) => git.join(text.trim().to_path_lossy()),
            None => git.to_owned(),
        };
        let is_repository = git.join("HEAD").is_file()
            && common.join("objects").is_dir()
            && common.join("refs").is_dir();
        if !is_repository {
            return Ok(None);
        }
        let config = RepositoryConfig::read(git, &common.join("config"))?;
        let hash = config.object_format()?;
        if read_file(&common.join("shallow"))?.is_some_and(|text| !text.trim().is_empty()) {
            return Err(config_error(git, "is shallow: its history is cut off")
                .with_hint("run `git fetch --unshallow` in it first"));
        }
        let is_dot_git = git.file_name().is_some_and(|name| name == ".git");
        // A linked working tree is never bare, even if `core.bare` is set.
        let bare = common == git && config.bare()?.unwrap_or(!is_dot_git);
        let deny_current = config.denies_current_branch();
        let mut objects = Vec::new();
        alternates(&common.join("objects"), &mut objects, 0)?;
        Ok(Some(Self {
            git: git.to_owned(),
            common,
            bare,
            hash,
            objects,
            deny_current,
        }))
    }

    /// Reads `lfs.url` of the repository's configuration.
    pub(super) fn lfs_url(&self) -> Result<Option<String>> {
        let config = RepositoryConfig::read(&self.git, &self.common.join("config"))?;
        Ok(config.lfs_url())
    }

    /// The directory that new objects are written to.
    pub(super) fn own_objects(&self) -> PathBuf {
        self.common.join("objects")
    }

    /// Reads the branches that are checked out, here and in linked working trees.
    pub(super) fn checked_out(&self) -> Result<Vec<BString>> {
        let mut heads = Vec::new();
        if !self.bare {
            heads.push(self.common.join("HEAD"));
            heads.push(self.git.join("HEAD"));
        }
        if let Ok(trees) = fs::read_dir(self.common.join("worktrees")) {
            heads.extend(trees.flatten().map(|tree| tree.path().join("HEAD")));
        }
        let mut branches = Vec::new();
        for head in heads {
            let Some(text) = read_file(&head)? else {
                continue;
            };
            if let Some(name) = text.strip_prefix(b"ref:") {
                branches.push(BString::from(name.trim()));
            }
        }
        Ok(branches)
    }
}

/// Adds an object directory and its alternates to `found`.
fn alternates(directory: &Path, found: &mut Vec<PathBuf>, depth: usize) -> Result<()> {
    if depth > MAX_ALTERNATES || found.iter().any(|known| known == directory) {
        return Ok(());
    }
    let text = read_file(&directory.join("info/alternates"))?.unwrap_or_default();
    found.push(directory.to_owned());
    for line in text.lines() {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let alternate = directory.join(line.to_path_lossy());
        if !alternate.is_dir() {
            let shown = alternate.display();
            return Err(config_error(
                directory,
                &format!("borrows objects from `{shown}`, which does not exist"),
            ));
        }
        alternates(&alternate, found, depth + 1)?;
    }
    Ok(())
}
