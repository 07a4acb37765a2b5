//! The `HEAD` that a target gets. Pure.

use bstr::BString;

use crate::remote::{Head, Refs};

/// Branches that `HEAD` names if neither the source's nor the target's own `HEAD` does.
const USUAL_BRANCHES: [&str; 2] = ["refs/heads/main", "refs/heads/master"];

/// Returns the `HEAD` of a target with the refs `after`: the `source`'s if its branch is there,
/// else the target's `current` one if its branch is there, `main`, `master`, or the first branch.
///
/// Without any branch, `HEAD` is the source's, or stays.
pub(super) fn wanted_head(
    source: Option<&Head>,
    after: &Refs,
    current: Option<&Head>,
) -> Option<Head> {
    let is_there = |head: &&Head| match head {
        Head::Symbolic(name) => after.contains_key(name),
        Head::Detached(_) => true,
    };
    let usual = || {
        let mut usual = USUAL_BRANCHES.into_iter().map(BString::from);
        let first = || first_branch(after).cloned();
        let name = usual.find(|name| after.contains_key(name)).or_else(first);
        name.map(Head::Symbolic)
    };
    let unborn = || {
        let unborn = source.or(current).cloned();
        unborn.unwrap_or_else(|| Head::Symbolic(USUAL_BRANCHES[0].into()))
    };
    let is_born = source.filter(is_there).or(current.filter(is_there));
    is_born.cloned().or_else(usual).or_else(|| Some(unborn()))
}

/// Returns the first branch by name.
fn first_branch(refs: &Refs) -> Option<&BString> {
    let (name, _) = refs.range(BString::from("refs/heads/")..).next()?;
    name.starts_with(b"refs/heads/").then_some(name)
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
