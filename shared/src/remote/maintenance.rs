//! Examination, repair and upkeep of repositories in S3.
//!
//! An [`Examination`] is made of lists of keys, and of at most one more request for each ref in
//! doubt. A fix reads again what it changes, under the lock of the ref or with a precondition, and
//! changes nothing if the problem has gone meanwhile.

use async_trait::async_trait;
use bstr::{BStr, BString};

use super::{Leftovers, Refs, has_branch};
use crate::error::{Error, ErrorKind, Result};
use crate::git::{ObjectId, escaped_excerpt};

/// State of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examination {
    /// `bundle` or `dumb`.
    pub layout: &'static str,
    /// Ref that `HEAD` names; `None` if it names none.
    pub head: Option<BString>,
    /// All refs, in the order of their names.
    pub refs: Vec<ExaminedRef>,
    /// Problems, in the order in which they are fixed.
    pub problems: Vec<Problem>,
}

/// A ref of an examined repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExaminedRef {
    /// Full name.
    pub name: BString,
    /// Id that the ref names; of several bundles that of the newest.
    pub id: ObjectId,
    /// Number of its bundles; 1 in other layouts.
    pub bundles: usize,
    /// The ref must not be deleted or rewound.
    pub protected: bool,
    /// An archive (`repo.zip`) is stored beside it.
    pub has_archive: bool,
    /// Age of its lock in seconds.
    pub lock_age_seconds: Option<i64>,
}

/// A problem of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Kind of the problem.
    pub kind: ProblemKind,
    /// Refs that have it.
    pub refs: Vec<BString>,
    /// Ids of the bundles of the ref, the newest first, if it has several.
    pub bundles: Vec<ObjectId>,
    /// Description in one line.
    pub message: String,
}

/// Kinds of problems, in the order in which they are fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemKind {
    /// A killed client left its lock.
    StaleLock,
    /// A ref has several bundles, after an interrupted push or concurrent ones.
    SeveralBundles,
    /// A bundle cannot be read.
    UnreadableBundle,
    /// Refs whose names cannot exist together, such as `a` and `a/b`.
    RefsInTheWay,
    /// `HEAD` is missing, cannot be read, or names a branch that does not exist.
    Head,
    /// A listed pack is missing.
    MissingPack,
    /// Refs of another layout are stored below the same prefix.
    MixedLayouts,
    /// Bundles use different hash functions.
    MixedHashes,
}

impl ProblemKind {
    /// Returns the name of the kind.
    pub fn name(self) -> &'static str {
        match self {
            Self::StaleLock => "stale-lock",
            Self::SeveralBundles => "several-bundles",
            Self::UnreadableBundle => "unreadable-bundle",
            Self::RefsInTheWay => "refs-in-the-way",
            Self::Head => "head",
            Self::MissingPack => "missing-pack",
            Self::MixedLayouts => "mixed-layouts",
            Self::MixedHashes => "mixed-hashes",
        }
    }
}

/// Choices of fixes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FixChoices {
    /// Branch that `HEAD` is to name; `main`, `master` or the first one if `None`.
    pub head: Option<BString>,
    /// First digits of the ids of bundles to keep. For other refs the newest bundle that descends
    /// from the most others is kept.
    pub keep: Vec<String>,
    /// Deletes the other bundles instead of keeping them under other names.
    pub delete_others: bool,
    /// Refs to set aside where names are in each other's way. For others the older side is set
    /// aside.
    pub set_aside: Vec<BString>,
}

/// Result of a garbage collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Garbage {
    /// Number of temporary objects of killed runs that were deleted.
    pub leftovers: u64,
    /// Number of packs that were merged into one.
    pub merged_packs: usize,
    /// Number of objects that no ref needs, and that are in no pack any more.
    pub pruned_objects: usize,
    /// Number of packs that are listed now.
    pub packs: usize,
}

/// Upkeep of a repository.
#[async_trait]
pub trait Maintenance: Send + Sync {
    /// Examines the repository. Writes nothing.
    async fn examine(&self) -> Result<Examination>;

    /// Fixes one problem; returns the description of the change.
    ///
    /// # Errors
    /// `Config` for a problem that cannot be fixed, `Conflict` if another client is writing.
    async fn fix(&self, problem: &Problem, choices: &FixChoices) -> Result<String>;

    /// Protects a ref against deletion and force, or removes the protection. Returns whether that
    /// was a change.
    ///
    /// # Errors
    /// `NotFound` for a missing ref; `Config` in a layout without protection.
    async fn set_protected(&self, name: &BStr, protected: bool) -> Result<bool>;

    /// Lets `HEAD` name a ref. Returns whether that was a change.
    ///
    /// # Errors
    /// `NotFound` for a missing ref.
    async fn set_head(&self, name: &BStr) -> Result<bool>;

    /// Deletes temporary objects, and merges packs where the layout has them.
    async fn collect_garbage(&self, which: Leftovers) -> Result<Garbage>;
}

/// Returns the error of a ref that does not exist.
pub(super) fn missing_ref(name: &BStr, remote: &dyn std::fmt::Display) -> Error {
    let message = format!("`{}` does not exist at {remote}", escaped_excerpt(name));
    Error::new(ErrorKind::NotFound, message).with_hint("`git ls-remote` lists the refs")
}

/// Returns the error of a problem that needs a decision beyond this repository.
pub(super) fn cannot_fix(problem: &Problem) -> Error {
    let hint = match problem.kind {
        ProblemKind::UnreadableBundle => "delete the ref, and push it again",
        ProblemKind::MissingPack => "restore the object from a version or a backup of the bucket",
        _ => "move the keys of one of the repositories to another prefix",
    };
    Error::new(ErrorKind::Config, problem.message.clone()).with_hint(hint)
}

/// Checks the ref that `HEAD` names. A repository without branches may have any.
pub(super) fn head_problem(head: Option<&BString>, refs: &Refs) -> Option<Problem> {
    let message = match head {
        Some(name) if refs.contains_key(name) || !has_branch(refs) => return None,
        None if !has_branch(refs) => return None,
        Some(name) => format!(
            "`HEAD` names `{}`, which does not exist",
            escaped_excerpt(name)
        ),
        None => "`HEAD` is missing or names no ref".to_owned(),
    };
    Some(Problem {
        kind: ProblemKind::Head,
        refs: head.cloned().into_iter().collect(),
        bundles: Vec::new(),
        message,
    })
}

/// Finds refs whose names cannot exist together: each that is also a folder of refs, with these.
pub(super) fn conflicting_names(refs: &Refs) -> Vec<Problem> {
    let mut problems = Vec::new();
    for name in refs.keys() {
        let folder = BString::from([name.as_slice(), b"/"].concat());
        let below = refs.range(folder.clone()..).map(|(below, _)| below);
        let below: Vec<&BString> = below
            .take_while(|below| below.starts_with(&folder))
            .collect();
        let Some(first) = below.first() else {
            continue;
        };
        let others = match below.len() {
            1 => String::new(),
            count => format!(" and {} others", count - 1),
        };
        problems.push(Problem {
            kind: ProblemKind::RefsInTheWay,
            message: format!(
                "git cannot store `{name}` together with `{first}`{others}, and a clone leaves \
                 refs out"
            ),
            refs: std::iter::once(name).chain(below).cloned().collect(),
            bundles: Vec::new(),
        });
    }
    problems
}

/// Returns the refs of a problem to set aside: those that were chosen, else the older side. `age`
/// returns the time of a ref's last change, and whether the ref is protected.
///
/// # Errors
/// `Config` when both sides are protected.
pub(super) fn side_to_set_aside(
    refs: &[BString],
    choices: &FixChoices,
    state: impl Fn(&BString) -> (i64, bool),
) -> Result<Vec<BString>> {
    let chosen: Vec<BString> = refs
        .iter()
        .filter(|name| choices.set_aside.contains(name))
        .cloned()
        .collect();
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let Some((folder, below)) = refs.split_first() else {
        return Ok(Vec::new());
    };
    let newest_below = below.iter().map(|name| state(name).0).max();
    let is_below_protected = below.iter().any(|name| state(name).1);
    let (time, is_protected) = state(folder);
    match (is_protected, is_below_protected) {
        (true, true) => {
            let message = format!("`{folder}` and a ref below it are protected");
            Err(Error::new(ErrorKind::Config, message).with_hint(
                "remove one protection by `git-s3 unprotect`, or name the ref to set aside",
            ))
        }
        (true, false) => Ok(below.to_vec()),
        (false, false) if Some(time) > newest_below => Ok(below.to_vec()),
        (false, _) => Ok(vec![folder.clone()]),
    }
}

/// Returns the branch for a `HEAD` that names none: the chosen one, else `main`, `master`, or the
/// first one.
///
/// # Errors
/// `NotFound` when the chosen one does not exist.
pub(super) fn branch_for_head(
    refs: &Refs,
    chosen: Option<&BString>,
    remote: &dyn std::fmt::Display,
) -> Result<Option<BString>> {
    if let Some(name) = chosen {
        return if refs.contains_key(name) {
            Ok(Some(name.clone()))
        } else {
            Err(missing_ref(name.as_ref(), remote))
        };
    }
    let usual = ["refs/heads/main", "refs/heads/master"].map(BString::from);
    let usual = usual.into_iter().find(|name| refs.contains_key(name));
    let first = refs.keys().find(|name| name.starts_with(b"refs/heads/"));
    Ok(usual.or_else(|| first.cloned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::HashKind;
    use crate::remote::RefValue;

    fn refs(names: &[&str]) -> Refs {
        let value = RefValue {
            id: HashKind::Sha1.null(),
            peeled: None,
        };
        names.iter().map(|name| ((*name).into(), value)).collect()
    }

    #[test]
    fn a_head_must_name_a_ref_once_there_is_a_branch() {
        let main = BString::from("refs/heads/main");
        for (head, names, is_problem) in [
            (Some(&main), &["refs/heads/main"][..], false),
            (Some(&main), &["refs/heads/other"], true),
            (Some(&main), &["refs/tags/v1"], false),
            (None, &["refs/heads/main"], true),
            (None, &[], false),
        ] {
            let found = head_problem(head, &refs(names));
            assert_eq!(found.is_some(), is_problem, "{head:?} {names:?}");
        }
    }

    #[test]
    fn each_ref_that_is_a_folder_of_refs_is_a_problem() {
        let found = conflicting_names(&refs(&[
            "refs/heads/a",
            "refs/heads/a-b",
            "refs/heads/a/b",
            "refs/heads/a/c",
            "refs/tags/a",
        ]));
        let [problem] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(
            problem.refs,
            ["refs/heads/a", "refs/heads/a/b", "refs/heads/a/c"]
        );
        assert!(conflicting_names(&refs(&["refs/heads/a", "refs/heads/ab"])).is_empty());
    }

    #[test]
    fn the_older_side_is_set_aside_unless_it_is_protected_or_another_is_chosen() {
        let names = ["refs/heads/a", "refs/heads/a/b"].map(BString::from);
        let side = |state: [(i64, bool); 2], choices: &FixChoices| {
            let at = |name: &BString| state[usize::from(*name == names[1])];
            side_to_set_aside(&names, choices, at)
                .map(|side| side.len() == 1 && side[0] == names[0])
        };
        let free = FixChoices::default();
        let chosen = FixChoices {
            set_aside: vec![names[1].clone()],
            ..FixChoices::default()
        };
        assert!(side([(1, false), (2, false)], &free).unwrap());
        assert!(!side([(2, false), (1, false)], &free).unwrap());
        assert!(!side([(1, true), (2, false)], &free).unwrap());
        assert!(side([(2, false), (1, true)], &free).unwrap());
        assert!(side([(1, true), (1, true)], &free).is_err());
        assert!(!side([(1, false), (2, false)], &chosen).unwrap());
    }

    #[test]
    fn the_usual_branches_come_first() {
        let choose = |names: &[&str], chosen: Option<&str>| {
            let chosen = chosen.map(BString::from);
            branch_for_head(&refs(names), chosen.as_ref(), &"s3://b/p").map(Option::unwrap)
        };
        let names = ["refs/heads/a", "refs/heads/master", "refs/heads/main"];
        assert_eq!(choose(&names, None).unwrap(), "refs/heads/main");
        assert_eq!(choose(&names[..2], None).unwrap(), "refs/heads/master");
        assert_eq!(choose(&names[..1], None).unwrap(), "refs/heads/a");
        assert_eq!(
            choose(&names, Some("refs/heads/a")).unwrap(),
            "refs/heads/a"
        );
        assert!(choose(&names, Some("refs/heads/b")).is_err());
    }
}
