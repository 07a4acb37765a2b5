//! Names under which refs are set aside. Pure.

use bstr::{BStr, BString, ByteSlice as _};

use super::{Refs, STALE_PREFIX};
use crate::git::ObjectId;

/// Returns true if a ref was set aside.
pub(crate) fn is_stale(name: &BStr) -> bool {
    name.starts_with(STALE_PREFIX.as_bytes())
}

/// Returns the name under which the ref `name`, which is at `id`, is set aside:
/// `refs/stale/heads/a` for `refs/heads/a`. A number follows the part of the name that is in the
/// way of one of the refs `taken`. A ref that was set aside at `id` before keeps its name.
pub(crate) fn stale_name(taken: &Refs, name: &BStr, id: ObjectId) -> BString {
    let rest = name.strip_prefix(b"refs/").unwrap_or(name);
    let mut stale = BString::from([STALE_PREFIX.as_bytes(), rest].concat());
    while let Some(end) = taken_part(taken, stale.as_ref(), id) {
        let mut number = 2;
        stale = loop {
            let numbered = [&stale[..end], format!("-{number}").as_bytes()].concat();
            let end_of_number = numbered.len();
            let candidate = BString::from([&numbered, &stale[end..]].concat());
            match taken_part(taken, candidate.as_ref(), id) {
                Some(end) if end <= end_of_number => number += 1,
                _ => break candidate,
            }
        };
    }
    stale
}

/// Returns the length of the part of a name that is another ref, or a folder of refs; `None` if
/// the name is free, or taken by a ref at `id`.
fn taken_part(taken: &Refs, name: &BStr, id: ObjectId) -> Option<usize> {
    let mut ends = name.find_iter("/");
    if let Some(end) = ends.find(|end| taken.contains_key(name[..*end].as_bstr())) {
        return Some(end);
    }
    let directory = BString::from([name.as_bytes(), b"/"].concat());
    let next = taken.range(directory.clone()..).next();
    let is_folder = next.is_some_and(|(next, _)| next.starts_with(&directory));
    let is_other = taken.get(name).is_some_and(|target| target.id != id);
    (is_folder || is_other).then_some(name.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::HashKind;
    use crate::remote::RefValue;

    #[test]
    fn a_stale_name_has_a_number_where_it_is_taken() {
        let id = HashKind::Sha1.null();
        let other = ObjectId::from_bytes_or_panic(&[7; 20]);
        let refs = |names: &[&str]| -> Refs {
            let target = RefValue {
                id: other,
                peeled: None,
            };
            let names = names.iter().map(|name| ((*name).into(), target));
            names.collect()
        };
        for (taken, name, expected) in [
            (&[][..], "refs/heads/a", "refs/stale/heads/a"),
            (&[], "refs/tags/v1", "refs/stale/tags/v1"),
            (
                &["refs/stale/heads/b"],
                "refs/heads/a",
                "refs/stale/heads/a",
            ),
            (
                &["refs/stale/heads/a"],
                "refs/heads/a",
                "refs/stale/heads/a-2",
            ),
            (
                &["refs/stale/heads/a", "refs/stale/heads/a-2/x"],
                "refs/heads/a",
                "refs/stale/heads/a-3",
            ),
            (
                &["refs/stale/heads/a/b"],
                "refs/heads/a",
                "refs/stale/heads/a-2",
            ),
            (
                &["refs/stale/heads/a"],
                "refs/heads/a/b",
                "refs/stale/heads/a-2/b",
            ),
            (
                &["refs/stale/heads/a", "refs/stale/heads/a-2/b"],
                "refs/heads/a/b/c",
                "refs/stale/heads/a-2/b-2/c",
            ),
        ] {
            let found = stale_name(&refs(taken), name.into(), id);
            assert_eq!(found, expected, "{name} beside {taken:?}");
        }
        let taken = refs(&["refs/stale/heads/a"]);
        let again = stale_name(&taken, "refs/heads/a".into(), other);
        assert_eq!(again, "refs/stale/heads/a", "it was set aside before");
    }
}
