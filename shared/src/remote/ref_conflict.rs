//! Conflicts between ref names (git's directory/file conflicts). Pure.

use bstr::{BStr, BString, ByteSlice as _};

use super::Refs;

/// Returns a ref that cannot exist together with `name`: `a` conflicts with `a/b`.
pub(crate) fn conflicting_ref<'a>(refs: &'a Refs, name: &BStr) -> Option<&'a BStr> {
    let mut parents = name.find_iter("/").map(|end| name[..end].as_bstr());
    let parent = parents.find_map(|parent| refs.get_key_value(parent));
    let directory = BString::from([name.as_bytes(), b"/"].concat());
    let child = || {
        let next = refs.range(directory.clone()..).next();
        next.filter(|(child, _)| child.starts_with(&directory))
    };
    parent.or_else(child).map(|(other, _)| other.as_bstr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::HashKind;
    use crate::remote::RefTarget;

    #[test]
    fn a_ref_conflicts_with_its_parents_and_its_children_only() {
        let target = RefTarget {
            id: HashKind::Sha1.null(),
            peeled: None,
        };
        let refs = Refs::from([
            ("refs/heads/a".into(), target),
            ("refs/heads/b/c".into(), target),
        ]);
        for (name, expected) in [
            ("refs/heads/a", None),
            ("refs/heads/a/b", Some("refs/heads/a")),
            ("refs/heads/a/b/c", Some("refs/heads/a")),
            ("refs/heads/a-b", None),
            ("refs/heads/b", Some("refs/heads/b/c")),
            ("refs/heads/b/c", None),
            ("refs/heads/b/d", None),
        ] {
            let found = conflicting_ref(&refs, name.into());
            assert_eq!(found, expected.map(BStr::new), "{name}");
        }
    }
}
