//! Where the parts of a repository lie, and what its configuration says.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bstr::{BString, ByteSlice as _};

use super::durable_fs::failed;
use crate::error::{Error, ErrorKind, Result};
use crate::git::HashKind;

/// How far alternates may lead on, as in git.
const MAX_ALTERNATES: usize = 5;

/// A repository that was found.
#[derive(Debug, Clone)]
pub(super) struct GitDir {
    /// Where `HEAD` lies.
    pub(super) git: PathBuf,
    /// Where all else lies; another place only in a linked working tree.
    pub(super) common: PathBuf,
    /// Whether nothing is checked out.
    pub(super) bare: bool,
    pub(super) hash: HashKind,
    /// Where objects lie: its own folder first.
    pub(super) objects: Vec<PathBuf>,
    /// What happens to a branch that is checked out.
    pub(super) deny_current: bool,
}

/// Reads a file; `None` when there is none.
pub(super) fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(failed("reading", path, error)),
    }
}

pub(super) fn is_not_found(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
    )
}

fn config_error(path: &Path, what: &str) -> Error {
    let message = format!("the repository at `{}` {what}", path.display());
    Error::new(ErrorKind::Config, message)
}

impl GitDir {
    /// The repository at a path, or in its `.git`; `None` when there is none.
    ///
    /// # Errors
    /// `Config` for a repository of a kind that this does not read.
    pub(super) fn find(path: &Path) -> Result<Option<Self>> {
        for candidate in [path.join(".git"), path.to_owned()] {
            let git = match read_file(&candidate)? {
                Some(text) => {
                    let Some(to) = text.strip_prefix(b"gitdir:") else {
                        continue;
                    };
                    let to = to.trim().to_path().map_err(|error| {
                        config_error(path, "names a folder that is not UTF-8").with_source(error)
                    })?;
                    candidate.parent().unwrap_or(path).join(to)
                }
                None => candidate,
            };
            if let Some(layout) = Self::at(&git)? {
                return Ok(Some(layout));
            }
        }
        Ok(None)
    }

    fn at(git: &Path) -> Result<Option<Self>> {
        let common = match read_file(&git.join("commondir"))? {
            Some(text) => git.join(text.trim().to_path_lossy()),
            None => git.to_owned(),
        };
        let is_one = git.join("HEAD").is_file()
            && common.join("objects").is_dir()
            && common.join("refs").is_dir();
        if !is_one {
            return Ok(None);
        }
        let config = GitConfig::read(&common.join("config"))?;
        let hash = config.check(git)?;
        if read_file(&common.join("shallow"))?.is_some_and(|text| !text.trim().is_empty()) {
            return Err(config_error(git, "is shallow: its history is cut off")
                .with_hint("run `git fetch --unshallow` in it first"));
        }
        let is_dot_git = git.file_name().is_some_and(|name| name == ".git");
        let bare = match config.get("core.bare") {
            Some(value) => is_true(value),
            None => !is_dot_git && common == git,
        };
        // A linked working tree is one, whatever the repository is.
        let bare = bare && common == git;
        let deny_current = match config.get("receive.denycurrentbranch") {
            Some(value) => {
                !value.eq_ignore_ascii_case(b"warn")
                    && !value.eq_ignore_ascii_case(b"ignore")
                    && !is_false(value)
            }
            None => true,
        };
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

    /// Where objects are written.
    pub(super) fn own_objects(&self) -> PathBuf {
        self.common.join("objects")
    }

    /// The branches that are checked out, here and in linked working trees.
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

/// Adds a folder of objects, and those that it names.
fn alternates(folder: &Path, found: &mut Vec<PathBuf>, depth: usize) -> Result<()> {
    if depth > MAX_ALTERNATES || found.iter().any(|known| known == folder) {
        return Ok(());
    }
    let text = read_file(&folder.join("info/alternates"))?.unwrap_or_default();
    found.push(folder.to_owned());
    for line in text.lines() {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let other = folder.join(line.to_path_lossy());
        if !other.is_dir() {
            let shown = other.display();
            return Err(config_error(
                folder,
                &format!("borrows objects from `{shown}`, which is not there"),
            ));
        }
        alternates(&other, found, depth + 1)?;
    }
    Ok(())
}

/// A configuration file: the last value of each variable. Includes are not followed: what
/// matters here git writes into the file itself.
struct GitConfig(BTreeMap<String, Vec<u8>>);

impl GitConfig {
    fn read(path: &Path) -> Result<Self> {
        Ok(Self::parse(&read_file(path)?.unwrap_or_default()))
    }

    fn parse(text: &[u8]) -> Self {
        let mut values = BTreeMap::new();
        let mut section = String::new();
        for line in text.replace("\\\n", "").lines() {
            let mut line = line.trim();
            if let Some(rest) = line.strip_prefix(b"[") {
                let Some(end) = rest.find_byte(b']') else {
                    continue;
                };
                section = rest[..end].to_str_lossy().to_ascii_lowercase();
                line = rest[end + 1..].trim();
            }
            if line.is_empty() || line.starts_with(b"#") || line.starts_with(b";") {
                continue;
            }
            let (key, value) = match line.split_once_str("=") {
                Some((key, value)) => (key.trim(), plain(value.trim())),
                None => (line, b"true".to_vec()),
            };
            let key = key.to_str_lossy().to_ascii_lowercase();
            values.insert(format!("{section}.{key}"), value);
        }
        Self(values)
    }

    fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    /// The hash function, of a repository that can be read.
    fn check(&self, git: &Path) -> Result<HashKind> {
        let version = self.get("core.repositoryformatversion").unwrap_or(b"0");
        if version != b"0" && version != b"1" {
            return Err(config_error(git, "has a format that is not known here"));
        }
        let storage = self.get("extensions.refstorage").unwrap_or(b"files");
        if storage != b"files" {
            let storage = storage.to_str_lossy();
            let what = format!("keeps its refs as `{storage}`, and only `files` is known here");
            return Err(config_error(git, &what)
                .with_hint("run `git refs migrate --ref-format=files` in it first"));
        }
        let promises = |(key, value): (&String, &Vec<u8>)| {
            key.starts_with("remote ") && key.ends_with(".promisor") && is_true(value)
        };
        if self.get("extensions.partialclone").is_some() || self.0.iter().any(promises) {
            return Err(config_error(git, "is a partial clone: objects are missing")
                .with_hint("run `git fetch --refetch --no-filter` in it first"));
        }
        let known = [
            "objectformat",
            "refstorage",
            "noop",
            "noop-v1",
            "worktreeconfig",
            "preciousobjects",
            "relativeworktrees",
        ];
        for key in self.0.keys() {
            let extension = key.strip_prefix("extensions.");
            if version == b"1" && extension.is_some_and(|name| !known.contains(&name)) {
                let what = format!("has `{key}` set, which is not known here");
                return Err(config_error(git, &what));
            }
        }
        match self.get("extensions.objectformat") {
            None | Some(b"sha1") => Ok(HashKind::Sha1),
            Some(b"sha256") => Ok(HashKind::Sha256),
            Some(other) => {
                let what = format!("has ids of `{}`", other.to_str_lossy());
                Err(config_error(git, &what))
            }
        }
    }
}

/// A value without quotes, escapes and comments.
fn plain(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut quoted = false;
    let mut bytes = value.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'#' | b';' if !quoted => break,
            b'\\' => match bytes.next() {
                Some(b'n') => out.push(b'\n'),
                Some(b't') => out.push(b'\t'),
                Some(other) => out.push(*other),
                None => {}
            },
            _ => out.push(byte),
        }
    }
    if !quoted && !value.ends_with(b"\"") {
        out.truncate(out.trim_end().len());
    }
    out
}

fn is_true(value: &[u8]) -> bool {
    ["true", "yes", "on", "1"]
        .iter()
        .any(|word| value.eq_ignore_ascii_case(word.as_bytes()))
}

fn is_false(value: &[u8]) -> bool {
    ["false", "no", "off", "0", ""]
        .iter()
        .any(|word| value.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_read_as_git_reads_them() {
        let config = GitConfig::parse(
            b"# c\n[core]\n\tbare = true ; c\n[Extensions] ObjectFormat = \"sha256\"\n\
              [receive]\n denyCurrentBranch\n[remote \"a\"]\n url = \"x # y\" # z\n",
        );
        assert_eq!(config.get("core.bare"), Some(&b"true"[..]));
        assert_eq!(config.get("extensions.objectformat"), Some(&b"sha256"[..]));
        assert_eq!(config.get("receive.denycurrentbranch"), Some(&b"true"[..]));
        assert_eq!(config.get("remote \"a\".url"), Some(&b"x # y"[..]));
        assert_eq!(config.check(Path::new("/r")).unwrap(), HashKind::Sha256);
        for text in [
            "[core]\nrepositoryformatversion = 2",
            "[extensions]\nrefstorage = reftable",
            "[extensions]\npartialclone = origin",
            "[remote \"origin\"]\npromisor = true",
            "[core]\nrepositoryformatversion = 1\n[extensions]\nnew = 1",
            "[extensions]\nobjectformat = md5",
        ] {
            let error = GitConfig::parse(text.as_bytes())
                .check(Path::new("/r"))
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{text}");
        }
    }
}
