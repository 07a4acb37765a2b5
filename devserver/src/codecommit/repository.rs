//! One repository: a bare git repository, and in its folder one file with what
//! CodeCommit knows about it.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use branchline_core::codecommit::{Trigger, TriggerSet};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::git::{self, GitError};
use super::objects::{MAX_METADATA_BYTES, ObjectType, Objects, ReadObject};
use super::tree;
use crate::ref_observer::RefUpdate;

/// Name of the metadata file in the repository's folder.
const METADATA: &str = "branchline.json";

/// Number of commits whose trees are cached, so that a walk of one commit resolves it once.
const MAX_CACHED_TREES: usize = 1024;

/// Metadata of a repository, stored besides objects and refs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) id: String,
    pub(crate) description: Option<String>,
    pub(crate) kms_key_id: Option<String>,
    /// Milliseconds since the epoch.
    pub(crate) created_ms: i64,
    /// Milliseconds since the epoch.
    pub(crate) modified_ms: i64,
    pub(crate) default_branch: Option<String>,
    pub(crate) configuration_id: String,
    pub(crate) triggers: Vec<Trigger>,
}

impl Metadata {
    fn new(description: Option<String>, kms_key_id: Option<String>) -> Self {
        let now = Timestamp::now().as_millisecond();
        Self {
            id: uuid::Uuid::new_v4().to_string(),
            description,
            kms_key_id,
            created_ms: now,
            modified_ms: now,
            default_branch: None,
            configuration_id: uuid::Uuid::new_v4().to_string(),
            triggers: Vec::new(),
        }
    }
}

/// An open repository.
#[derive(Debug)]
pub(crate) struct Repository {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) objects: Arc<Objects>,
    metadata: RwLock<Metadata>,
    /// Held while refs change, so that before and after can be compared.
    pub(crate) refs_lock: Arc<tokio::sync::Mutex<()>>,
    trees: Mutex<HashMap<String, String>>,
}

impl Repository {
    /// Creates the repository `name` in `parent`, atomically.
    pub(crate) async fn create(
        parent: &Path,
        name: &str,
        description: Option<String>,
        kms_key_id: Option<String>,
    ) -> Result<Self, GitError> {
        let draft = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(parent)
            .map_err(|error| GitError::new("init", error))?;
        let mut init = git::command(draft.path());
        init.args([
            "init",
            "--quiet",
            "--bare",
            "--template=",
            "--initial-branch=main",
        ]);
        init.args(["--object-format=sha1"]);
        git::run("init", &mut init).await?;
        let metadata = Metadata::new(description, kms_key_id);
        let dir = parent.join(format!("{name}.git"));
        write_metadata(draft.path(), &metadata)
            .and_then(|()| std::fs::rename(draft.path(), &dir))
            .map_err(|error| GitError::new("init", error))?;
        // The folder was moved: there is nothing left to remove.
        let _ = draft.keep();
        Ok(Self::with_metadata(name.to_owned(), dir, metadata))
    }

    /// Opens the repository in `dir`; a bare repository without metadata is
    /// adopted.
    pub(crate) fn open(name: String, dir: PathBuf) -> std::io::Result<Self> {
        for entry in std::fs::read_dir(dir.join("objects"))? {
            let entry = entry?;
            let file_name = entry.file_name();
            // The quarantine of a push that was running when the server was killed.
            if file_name.to_string_lossy().starts_with("tmp_objdir-") {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        let metadata = match std::fs::read(dir.join(METADATA)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                let file = dir.join(METADATA);
                std::io::Error::other(format!("{}: {error}", file.display()))
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut metadata = Metadata::new(None, None);
                metadata.default_branch = adopted_default_branch(&dir);
                write_metadata(&dir, &metadata)?;
                metadata
            }
            Err(error) => return Err(error),
        };
        Ok(Self::with_metadata(name, dir, metadata))
    }

    fn with_metadata(name: String, dir: PathBuf, metadata: Metadata) -> Self {
        Self {
            name,
            objects: Objects::new(dir.clone()),
            dir,
            metadata: RwLock::new(metadata),
            refs_lock: Arc::default(),
            trees: Mutex::default(),
        }
    }

    pub(crate) fn metadata(&self) -> Metadata {
        let metadata = self.metadata.read();
        metadata.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn default_branch(&self) -> Option<String> {
        let metadata = self.metadata.read();
        let metadata = metadata.unwrap_or_else(PoisonError::into_inner);
        metadata.default_branch.clone()
    }

    pub(crate) fn triggers(&self) -> TriggerSet {
        let metadata = self.metadata.read();
        let metadata = metadata.unwrap_or_else(PoisonError::into_inner);
        TriggerSet {
            configuration_id: metadata.configuration_id.clone(),
            triggers: metadata.triggers.clone(),
        }
    }

    /// Changes the metadata; it is on disk when this returns.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Metadata)) -> Result<(), GitError> {
        let mut held = self
            .metadata
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let mut next = held.clone();
        change(&mut next);
        next.modified_ms = Timestamp::now().as_millisecond();
        write_metadata(&self.dir, &next).map_err(|error| GitError::new("metadata", error))?;
        *held = next;
        Ok(())
    }

    /// Returns all refs and the objects that they name.
    pub(crate) async fn refs(&self) -> Result<BTreeMap<String, String>, GitError> {
        let mut command = git::command(&self.dir);
        command.args(["for-each-ref", "--format=%(objectname) %(refname)"]);
        let output = git::run("for-each-ref", &mut command).await?;
        Ok(String::from_utf8_lossy(&output)
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(id, name)| (name.to_owned(), id.to_owned()))
            .collect())
    }

    /// Returns the names of all branches, sorted by their bytes.
    pub(crate) async fn branches(&self) -> Result<Vec<String>, GitError> {
        let mut command = git::command(&self.dir);
        command.args([
            "for-each-ref",
            "--format=%(refname:lstrip=2)",
            "refs/heads/",
        ]);
        let output = git::run("for-each-ref", &mut command).await?;
        let mut names: Vec<String> = String::from_utf8_lossy(&output)
            .lines()
            .map(str::to_owned)
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Resolves `spec` to the id of a commit and of its tree.
    pub(crate) async fn commit_and_tree(
        &self,
        spec: &str,
    ) -> Result<Option<(String, String)>, GitError> {
        let is_id = super::objects::is_object_id(spec);
        if is_id {
            let trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(tree) = trees.get(spec) {
                return Ok(Some((spec.to_owned(), tree.clone())));
            }
        }
        let peeled = format!("{spec}^{{commit}}");
        let ReadObject::Object(commit) = self.objects.read(&peeled, MAX_METADATA_BYTES).await?
        else {
            return Ok(None);
        };
        let tree = tree::commit_tree(&commit.data).ok_or_else(|| {
            GitError::new(
                "cat-file",
                format!("object {} is not a valid commit", commit.id),
            )
        })?;
        if is_id {
            let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
            if trees.len() >= MAX_CACHED_TREES {
                trees.clear();
            }
            trees.insert(spec.to_owned(), tree.clone());
        }
        Ok(Some((commit.id, tree)))
    }

    /// Returns the raw tree at `path` below the tree `root`; `None` if there is no folder.
    pub(crate) async fn folder(
        &self,
        root: &str,
        path: &str,
    ) -> Result<Option<(String, Vec<u8>)>, GitError> {
        if path.contains('\n') {
            return self.folder_by_steps(root, path).await;
        }
        let spec = if path.is_empty() {
            root.to_owned()
        } else {
            format!("{root}:{path}")
        };
        self.tree(&spec).await
    }

    /// Like [`folder`](Self::folder), for a path that `cat-file`'s input cannot carry.
    async fn folder_by_steps(
        &self,
        root: &str,
        path: &str,
    ) -> Result<Option<(String, Vec<u8>)>, GitError> {
        let mut found = self.tree(root).await?;
        for part in path.split('/') {
            let Some((_, data)) = found else {
                return Ok(None);
            };
            let entries = tree::parse_tree(&data).map_err(|why| GitError::new("cat-file", why))?;
            let next = entries
                .iter()
                .find(|entry| entry.name == part.as_bytes() && entry.mode == tree::Mode::Tree);
            found = match next.map(tree::Entry::id) {
                Some(id) => self.tree(&id).await?,
                None => None,
            };
        }
        Ok(found)
    }

    async fn tree(&self, spec: &str) -> Result<Option<(String, Vec<u8>)>, GitError> {
        match self.objects.read(spec, MAX_METADATA_BYTES).await? {
            ReadObject::Object(object) if object.kind == ObjectType::Tree => {
                Ok(Some((object.id, object.data)))
            }
            ReadObject::TooLarge(ObjectType::Tree, size) => Err(GitError::new(
                "cat-file",
                format!("the tree {spec} has {size} bytes"),
            )),
            _ => Ok(None),
        }
    }

    /// Makes `branch` the default branch, in `HEAD` and in the metadata.
    pub(crate) async fn set_default_branch(&self, branch: &str) -> Result<(), GitError> {
        let mut command = git::command(&self.dir);
        command.args(["symbolic-ref", "HEAD", &format!("refs/heads/{branch}")]);
        git::run("symbolic-ref", &mut command).await?;
        self.update(|metadata| metadata.default_branch = Some(branch.to_owned()))
    }
}

/// Compares the refs `before` and `after`, by name.
pub(crate) fn ref_changes(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> Vec<RefUpdate> {
    let mut updates: Vec<RefUpdate> = after
        .iter()
        .filter(|(name, id)| before.get(*name) != Some(id))
        .map(|(name, id)| RefUpdate {
            name: name.clone(),
            old: before.get(name).cloned(),
            new: Some(id.clone()),
        })
        .collect();
    let deleted = before.iter().filter(|(name, _)| !after.contains_key(*name));
    updates.extend(deleted.map(|(name, id)| RefUpdate {
        name: name.clone(),
        old: Some(id.clone()),
        new: None,
    }));
    updates.sort_by(|a, b| a.name.cmp(&b.name));
    updates
}

/// Chooses the default branch when a repository gets its first branches:
/// `main`, else `master`, else the first by name.
pub(crate) fn first_default_branch(updates: &[RefUpdate]) -> Option<String> {
    let created: Vec<&str> = updates
        .iter()
        .filter(|update| update.new.is_some())
        .filter_map(|update| update.name.strip_prefix("refs/heads/"))
        .collect();
    ["main", "master"]
        .into_iter()
        .find(|name| created.contains(name))
        .or_else(|| created.first().copied())
        .map(str::to_owned)
}

fn write_metadata(dir: &Path, metadata: &Metadata) -> std::io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    serde_json::to_writer_pretty(file.as_file_mut(), metadata)?;
    file.as_file_mut().write_all(b"\n")?;
    file.as_file().sync_all()?;
    file.persist(dir.join(METADATA))
        .map_err(|error| error.error)?;
    Ok(())
}

fn adopted_default_branch(dir: &Path) -> Option<String> {
    let head = std::fs::read_to_string(dir.join("HEAD")).ok()?;
    let branch = head.trim_end().strip_prefix("ref: refs/heads/")?.to_owned();
    let loose = dir.join("refs/heads").join(&branch).is_file();
    let packed = || {
        let packed = std::fs::read_to_string(dir.join("packed-refs")).unwrap_or_default();
        let end = format!(" refs/heads/{branch}");
        packed.lines().any(|line| line.ends_with(&end))
    };
    (loose || packed()).then_some(branch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refs(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = list
            .iter()
            .map(|(name, id)| ((*name).to_owned(), (*id).to_owned()));
        owned.collect()
    }

    #[test]
    fn only_refs_whose_value_differs_are_changes() {
        let before = refs(&[
            ("refs/heads/a", "1"),
            ("refs/heads/b", "1"),
            ("refs/heads/c", "1"),
        ]);
        let after = refs(&[
            ("refs/heads/a", "1"),
            ("refs/heads/b", "2"),
            ("refs/tags/t", "3"),
        ]);
        let changes: Vec<String> = ref_changes(&before, &after)
            .iter()
            .map(|u| format!("{} {:?} {:?}", u.name, u.old, u.new))
            .collect();
        assert_eq!(
            changes,
            [
                r#"refs/heads/b Some("1") Some("2")"#,
                r#"refs/heads/c Some("1") None"#,
                r#"refs/tags/t None Some("3")"#
            ]
        );
    }

    #[test]
    fn main_is_preferred_as_the_first_default_branch_and_tags_are_ignored() {
        let created = |names: &[&str]| {
            let after: BTreeMap<String, String> = names
                .iter()
                .map(|name| ((*name).to_owned(), "1".to_owned()))
                .collect();
            first_default_branch(&ref_changes(&BTreeMap::new(), &after))
        };
        assert_eq!(
            created(&["refs/heads/a", "refs/heads/main"]).as_deref(),
            Some("main")
        );
        assert_eq!(
            created(&["refs/heads/a", "refs/heads/master"]).as_deref(),
            Some("master")
        );
        assert_eq!(
            created(&["refs/heads/b", "refs/heads/a"]).as_deref(),
            Some("a")
        );
        assert_eq!(created(&["refs/tags/main"]), None);
    }
}
