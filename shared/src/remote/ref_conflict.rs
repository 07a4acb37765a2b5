//! Conflicts between ref names (git's directory/file conflicts). Pure.

use bstr::{BStr, BString, ByteSlice as _};

use super::Refs;

/// Returns a ref that cannot exist together with `name`: `a` conflicts with `a/b`.
pub(crate) fn conflicting_ref<'a>(refs: &'a Refs, name: &BStr) -> Option<&'a BStr> {
    conflicting_refs(refs, name).next()
}

/// Returns all refs that cannot exist together with `name`, shorter names first.
pub(crate) fn conflicting_refs<'a>(
    refs: &'a Refs,
    name: &BStr,
) -> impl Iterator<Item = &'a BStr> + use<'a> {
    let parents: Vec<&BStr> = name
        .find_iter("/")
        .filter_map(|end| refs.get_key_value(name[..end].as_bstr()))
        .map(|(parent, _)| parent.as_bstr())
        .collect();
    let directory = BString::from([name.as_bytes(), b"/"].concat());
    let children = refs
        .range(directory.clone()..)
        .map(|(child, _)| child.as_bstr())
        .take_while(move |child| child.starts_with(&directory));
    parents.into_iter().chain(children)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::HashKind;
    use crate::remote::RefValue;

    #[test]
    fn a_ref_conflicts_with_its_parents_and_its_children_only() {
        let target = RefValue {
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
