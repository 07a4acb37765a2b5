//! The `HEAD` that a target gets. Pure.

use bstr::BString;

use crate::remote::{Head, Refs};

/// Start of the names of branches.
const BRANCH_PREFIX: &str = "refs/heads/";

/// Branches that `HEAD` names if neither the source's nor the target's own `HEAD` does.
const USUAL_BRANCHES: [&str; 2] = ["refs/heads/main", "refs/heads/master"];

/// The names of the refs that a target has.
pub(super) trait BranchNames {
    /// Returns whether there is a ref of this name.
    fn has(&self, name: &BString) -> bool;

    /// Returns the first branch by name.
    fn first_branch(&self) -> Option<&BString>;
}

impl BranchNames for Refs {
    fn has(&self, name: &BString) -> bool {
        self.contains_key(name)
    }

    fn first_branch(&self) -> Option<&BString> {
        branches(self).next()
    }
}

/// Returns the names of all branches, sorted.
pub(super) fn branches(refs: &Refs) -> impl Iterator<Item = &BString> {
    refs.range(BString::from(BRANCH_PREFIX)..)
        .map(|(name, _)| name)
        .take_while(|name| name.starts_with(BRANCH_PREFIX.as_bytes()))
}

/// Returns the `HEAD` of a target with the refs `after`: the `source`'s if its branch is there,
/// else the target's `current` one if its branch is there, `main`, `master`, or the first branch.
///
/// Without any branch, `HEAD` is the source's, or stays.
pub(super) fn wanted_head(
    source: Option<&Head>,
    after: &dyn BranchNames,
    current: Option<&Head>,
) -> Option<Head> {
    let is_there = |head: &&Head| match head {
        Head::Symbolic(name) => after.has(name),
        Head::Detached(_) => true,
    };
    let usual = || {
        let mut usual = USUAL_BRANCHES.into_iter().map(BString::from);
        let first = || after.first_branch().cloned();
        let name = usual.find(|name| after.has(name)).or_else(first);
        name.map(Head::Symbolic)
    };
    let unborn = || {
        let unborn = source.or(current).cloned();
        unborn.unwrap_or_else(|| Head::Symbolic(USUAL_BRANCHES[0].into()))
    };
    let is_born = source.filter(is_there).or(current.filter(is_there));
    is_born.cloned().or_else(usual).or_else(|| Some(unborn()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::HashKind;
    use crate::remote::RefValue;

    #[test]
    fn head_names_a_branch_that_is_there() {
        let target = RefValue {
            id: HashKind::Sha1.null(),
            peeled: None,
        };
        let names = |names: &[&str]| -> Refs {
            let names = names.iter().map(|name| ((*name).into(), target));
            names.collect()
        };
        let symbolic = |name: &str| Head::Symbolic(format!("refs/heads/{name}").into());
        for (source, current, branches, expected) in [
            (Some("a"), Some("b"), &["a", "b", "main"][..], "a"),
            (Some("gone"), Some("b"), &["a", "b", "main"], "b"),
            (None, Some("b"), &["a", "b", "main"], "b"),
            (Some("gone"), Some("gone"), &["a", "main", "master"], "main"),
            (Some("gone"), None, &["a", "master"], "master"),
            (None, None, &["b", "c"], "b"),
            (Some("trunk"), None, &[], "trunk"),
            (Some("trunk"), Some("b"), &[], "trunk"),
            (None, Some("b"), &[], "b"),
            (None, None, &[], "main"),
        ] {
            let refs: Vec<String> = branches.iter().map(|b| format!("refs/heads/{b}")).collect();
            let refs: Vec<&str> = refs.iter().map(String::as_str).collect();
            let mut refs = names(&refs);
            refs.extend(names(&["refs/a", "refs/tags/v1", "refs/stale/heads/a"]));
            let (source, current) = (source.map(symbolic), current.map(symbolic));
            let found = wanted_head(source.as_ref(), &refs, current.as_ref());
            assert_eq!(found, Some(symbolic(expected)), "{source:?} {current:?}");
        }
        let detached = Head::Detached(HashKind::Sha1.null());
        let refs = names(&["refs/heads/main"]);
        let found = wanted_head(Some(&detached), &refs, Some(&symbolic("main")));
        assert_eq!(found, Some(detached));
    }
}
