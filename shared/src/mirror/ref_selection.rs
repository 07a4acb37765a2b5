//! Patterns that select refs. Pure.

use bstr::{BStr, BString, ByteSlice};

use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;
use crate::mirror::stale_ref::is_stale;
use crate::remote::{LFS_RECORD_REF, STALE_PREFIX};

/// Ref names and patterns with one `*`, as in git's refspecs: the star matches any characters,
/// slashes too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefSelection(Vec<(BString, Option<BString>)>);

impl Default for RefSelection {
    /// All branches and tags.
    fn default() -> Self {
        Self(vec![
            ("refs/heads/".into(), Some("".into())),
            ("refs/tags/".into(), Some("".into())),
        ])
    }
}

impl RefSelection {
    /// Validates patterns such as `refs/heads/*`, `refs/heads/main` or `refs/notes/*`.
    ///
    /// # Errors
    /// `Config`, naming the pattern: a pattern starts with `refs/`, is a legal name, and has at
    /// most one `*`. An empty list is an error too.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut parts = Vec::new();
        for pattern in patterns {
            let sample = pattern.replacen('*', "x", 1);
            let legal = sample.starts_with("refs/")
                && gix_validate::reference::name(sample.as_bytes().as_bstr()).is_ok();
            if !legal {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!(
                        "`{}` is not a ref name or pattern",
                        escaped_excerpt(pattern.as_bytes())
                    ),
                )
                .with_hint("write full names, such as `refs/heads/main`, or `refs/heads/*`"));
            }
            parts.push(match pattern.split_once('*') {
                Some((start, end)) => (start.into(), Some(end.into())),
                None => (pattern.into(), None),
            });
        }
        if parts.is_empty() {
            return Err(
                Error::new(ErrorKind::Config, "an empty list selects no refs")
                    .with_hint("leave it out to select all branches and tags"),
            );
        }
        Ok(Self(parts))
    }

    /// Returns true if a ref is selected. The record of a server's LFS objects never is, because it
    /// belongs to that server.
    pub fn selects(&self, name: &BStr) -> bool {
        let mut patterns = self.0.iter();
        name != LFS_RECORD_REF
            && patterns.any(|(start, end)| pattern_selects(start, end.as_ref(), name))
    }

    /// Returns true if a ref may be deleted because the source does not have it: it is selected,
    /// and was not set aside, unless a pattern names `refs/stale/`.
    pub(super) fn prunes(&self, name: &BStr) -> bool {
        let names_stale = |(start, end): &(BString, Option<BString>)| {
            start.starts_with(STALE_PREFIX.as_bytes()) && pattern_selects(start, end.as_ref(), name)
        };
        self.selects(name) && (!is_stale(name) || self.0.iter().any(names_stale))
    }

    /// Returns prefixes, sorted, one of which each selected name has.
    pub fn prefixes(&self) -> Vec<BString> {
        let mut prefixes: Vec<BString> = self.0.iter().map(|(start, _)| start.clone()).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        prefixes
    }
}

/// Returns true if a pattern, split at its star, selects a ref.
fn pattern_selects(start: &BString, end: Option<&BString>, name: &BStr) -> bool {
    match end {
        None => name == start,
        Some(end) => {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_matches_any_characters_and_occurs_once() {
        let selection =
            RefSelection::new(["refs/heads/*", "refs/tags/v*-rc", "refs/notes/commits"]).unwrap();
        let selects = |name: &str| selection.selects(name.into());
        assert!(selects("refs/heads/a/b"));
        assert!(selects("refs/tags/v1-rc") && !selects("refs/tags/v-r"));
        assert!(selects("refs/notes/commits") && !selects("refs/notes/commits2"));
        assert!(!selects("refs/head") && !selects("refs/pull/1/head"));
        assert!(selection.prunes("refs/heads/a".into()));
        let everything = RefSelection::new(["refs/*"]).unwrap();
        assert!(everything.prunes("refs/notes/x".into()));
        let stale = "refs/stale/heads/a".into();
        assert!(everything.selects(stale) && !everything.prunes(stale));
        let named = RefSelection::new(["refs/*", "refs/stale/*"]).unwrap();
        assert!(named.prunes(stale), "it is named");
        for bad in [
            "",
            "*",
            "heads/*",
            "refs/**",
            "refs/a b",
            "refs/../x",
            "refs/a.lock",
        ] {
            let error = RefSelection::new([bad]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "`{bad}` must be rejected");
        }
        assert!(RefSelection::new([]).is_err());
    }
}
