//! Merges of two commits, by git itself: their base, the merged tree, and its conflicts.

use std::collections::{BTreeMap, BTreeSet};

use super::differences;
use super::git::{self, GitError};
use super::repository::Repository;

/// The name of an author that the caller does not give, and the limit of one that it does.
const MAX_NAME_CHARS: usize = 256;

/// Resolution of conflicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strategy {
    /// A conflict is an error.
    None,
    /// The source's side wins.
    AcceptSource,
    /// The destination's side wins.
    AcceptDestination,
    /// Changes of different lines are merged.
    Automerge,
}

/// Granularity of conflicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConflictLevel {
    /// Both sides changed one file.
    File,
    /// Both sides changed the same lines.
    Line,
}

/// One version of a conflicting file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileVersion {
    /// Octal mode, `100644`.
    pub(super) mode: String,
    /// Id of the blob or commit.
    pub(super) id: String,
}

/// A file that both sides changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Conflict {
    pub(super) base: Option<FileVersion>,
    pub(super) destination: Option<FileVersion>,
    pub(super) source: Option<FileVersion>,
}

/// Result of a merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Merged {
    /// Tree with all that could be merged.
    pub(super) tree: String,
    /// Conflicts by path.
    pub(super) conflicts: BTreeMap<String, Conflict>,
}

/// Returns the best common ancestor of two commits; `None` for unrelated histories.
pub(super) async fn merge_base(
    repository: &Repository,
    one: &str,
    other: &str,
) -> Result<Option<String>, GitError> {
    let mut command = git::command(&repository.dir);
    command.args(["merge-base", one, other]);
    let output = command.output().await;
    let output = output.map_err(|error| GitError::new("merge-base", error))?;
    let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.status.code() {
        Some(0) => Ok(Some(found)),
        Some(1) if found.is_empty() => Ok(None),
        _ => Err(GitError::new(
            "merge-base",
            git::error_lines(&output.stderr),
        )),
    }
}

/// Merges `source` into `destination` without changing a ref.
pub(super) async fn merge(
    repository: &Repository,
    destination: &str,
    source: &str,
    level: ConflictLevel,
    strategy: Strategy,
) -> Result<Merged, GitError> {
    let mut command = git::command(&repository.dir);
    command.args(["merge-tree", "--write-tree", "-z", "--no-messages"]);
    command.arg("--allow-unrelated-histories");
    match strategy {
        Strategy::AcceptSource => {
            command.args(["-X", "theirs"]);
        }
        Strategy::AcceptDestination => {
            command.args(["-X", "ours"]);
        }
        Strategy::None | Strategy::Automerge => {}
    }
    command.args([destination, source]);
    let output = command.output().await;
    let output = output.map_err(|error| GitError::new("merge-tree", error))?;
    if !matches!(output.status.code(), Some(0 | 1)) {
        return Err(GitError::new(
            "merge-tree",
            git::error_lines(&output.stderr),
        ));
    }
    let mut merged = parse_merge(&output.stdout)
        .ok_or_else(|| GitError::new("merge-tree", "its output has no shape"))?;
    if level == ConflictLevel::File && strategy == Strategy::None {
        let base = merge_base(repository, destination, source).await?;
        if let Some(base) = base {
            add_files_of_both(repository, &base, destination, source, &mut merged).await?;
        }
    }
    Ok(merged)
}

/// Adds the files that both sides changed since `base`, even in different lines.
async fn add_files_of_both(
    repository: &Repository,
    base: &str,
    destination: &str,
    source: &str,
    merged: &mut Merged,
) -> Result<(), GitError> {
    let ours = differences::diff(repository, base, destination).await?;
    let theirs = differences::diff(repository, base, source).await?;
    let mut ours: BTreeMap<String, _> = ours
        .into_iter()
        .filter_map(|(before, after)| {
            let path = after.as_ref().or(before.as_ref())?.path.clone();
            Some((path, (before, after)))
        })
        .collect();
    let version = |side: differences::Side| FileVersion {
        mode: side.mode,
        id: side.id,
    };
    for (before, after) in theirs {
        let Some(path) = after.as_ref().or(before.as_ref()).map(|side| &side.path) else {
            continue;
        };
        let Some((_, our)) = ours.remove(path) else {
            continue;
        };
        // Both made the same change.
        if our == after {
            continue;
        }
        let path = path.clone();
        merged.conflicts.entry(path).or_insert_with(|| Conflict {
            base: before.map(version),
            destination: our.map(version),
            source: after.map(version),
        });
    }
    Ok(())
}

/// Reads `<tree> NUL`, then `<mode> SP <id> SP <stage> TAB <path> NUL` for each version of a
/// conflicting file.
fn parse_merge(output: &[u8]) -> Option<Merged> {
    let text = String::from_utf8_lossy(output);
    let mut records = text.split('\0').filter(|record| !record.is_empty());
    let tree = records.next()?.trim().to_owned();
    if !super::objects::is_object_id(&tree) {
        return None;
    }
    let mut conflicts: BTreeMap<String, Conflict> = BTreeMap::new();
    for record in records {
        let (head, path) = record.split_once('\t')?;
        let words: Vec<&str> = head.split(' ').collect();
        let [mode, id, stage] = words.as_slice() else {
            return None;
        };
        let version = Some(FileVersion {
            mode: (*mode).to_owned(),
            id: (*id).to_owned(),
        });
        let conflict = conflicts.entry(path.to_owned()).or_default();
        match *stage {
            "1" => conflict.base = version,
            "2" => conflict.destination = version,
            "3" => conflict.source = version,
            _ => return None,
        }
    }
    Some(Merged { tree, conflicts })
}

/// Author of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) name: String,
    pub(super) email: String,
}

impl Person {
    /// Returns the person that a principal's ARN names.
    pub(super) fn of_principal(arn: &str) -> Self {
        let name = arn.rsplit(['/', ':']).next().unwrap_or(arn);
        Self {
            name: name.to_owned(),
            email: String::new(),
        }
    }

    /// Returns whether the name has at most 256 characters.
    pub(super) fn has_short_name(&self) -> bool {
        self.name.chars().count() <= MAX_NAME_CHARS
    }
}

/// Writes a commit object and returns its id.
pub(super) async fn commit(
    repository: &Repository,
    tree: &str,
    parents: &[&str],
    person: &Person,
    message: &str,
) -> Result<String, GitError> {
    let mut command = git::command(&repository.dir);
    command
        .env("GIT_AUTHOR_NAME", &person.name)
        .env("GIT_AUTHOR_EMAIL", &person.email)
        .env("GIT_COMMITTER_NAME", &person.name)
        .env("GIT_COMMITTER_EMAIL", &person.email)
        .args(["commit-tree", tree, "-F", "-"]);
    // A commit may have one parent once only.
    let mut seen = BTreeSet::new();
    for parent in parents.iter().filter(|parent| seen.insert(**parent)) {
        command.args(["-p", parent]);
    }
    let output = git::run_with_input("commit-tree", &mut command, message.as_bytes()).await?;
    Ok(String::from_utf8_lossy(&output).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_is_read_with_the_versions_of_its_conflicts() {
        let (tree, blob) = ("1".repeat(40), "2".repeat(40));
        let clean = parse_merge(format!("{tree}\0").as_bytes()).unwrap();
        assert_eq!(clean.tree, tree);
        assert!(clean.conflicts.is_empty());
        let output =
            format!("{tree}\0100644 {blob} 1\ta b\0100644 {blob} 2\ta b\0100755 {blob} 3\ta b\0");
        let merged = parse_merge(output.as_bytes()).unwrap();
        let conflict = &merged.conflicts["a b"];
        assert_eq!(conflict.source.as_ref().unwrap().mode, "100755");
        assert!(conflict.base.is_some() && conflict.destination.is_some());
        for broken in ["", "x\0", &format!("{tree}\0100644 {blob}\ta\0")] {
            assert_eq!(parse_merge(broken.as_bytes()), None, "{broken:?}");
        }
    }
}
