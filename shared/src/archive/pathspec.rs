//! Pathspecs (`gitglossary`): the paths that an archive is limited to.

use bstr::ByteSlice as _;
use gix_glob::wildmatch;
use gix_glob::wildmatch::Mode;

use crate::error::{Error, ErrorKind, Result};

/// The paths of an archive. Without a pathspec all paths are selected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PathSelection {
    included: Vec<Pathspec>,
    excluded: Vec<Pathspec>,
}

/// One pathspec.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pathspec {
    /// As it was given, for messages.
    text: String,
    pattern: String,
    has_wildcards: bool,
    mode: Mode,
}

impl PathSelection {
    /// Parses pathspecs, with the magic `top`, `glob`, `literal`, `icase` and `exclude`.
    ///
    /// # Errors
    /// `Config` for other magic, and for a path outside of the tree.
    pub fn new(pathspecs: &[String]) -> Result<Self> {
        let mut selection = Self::default();
        for text in pathspecs {
            let (pathspec, is_excluded) = Pathspec::parse(text)?;
            let list = match is_excluded {
                true => &mut selection.excluded,
                false => &mut selection.included,
            };
            list.push(pathspec);
        }
        Ok(selection)
    }

    /// Returns whether `path` is selected, and records in `used` the pathspecs that match.
    pub(super) fn selects(&self, path: &str, used: &mut Vec<bool>) -> bool {
        used.resize(self.included.len(), false);
        let mut is_included = self.included.is_empty();
        for (pathspec, used) in self.included.iter().zip(used) {
            if pathspec.matches(path) {
                is_included = true;
                *used = true;
            }
        }
        is_included && !self.excluded.iter().any(|pathspec| pathspec.matches(path))
    }

    /// Checks that each pathspec has selected a path.
    ///
    /// # Errors
    /// `Config`, in git's words.
    pub(super) fn check_used(&self, used: &[bool]) -> Result<()> {
        for (at, pathspec) in self.included.iter().enumerate() {
            if !used.get(at).copied().unwrap_or_default() {
                let message = format!("pathspec '{}' did not match any files", pathspec.text);
                return Err(Error::new(ErrorKind::Config, message));
            }
        }
        Ok(())
    }
}

impl Pathspec {
    /// Parses a pathspec; returns whether it excludes.
    fn parse(text: &str) -> Result<(Self, bool)> {
        let mut mode = Mode::empty();
        let (mut is_excluded, mut is_literal) = (false, false);
        let mut pattern = text;
        if let Some(rest) = text.strip_prefix(":(") {
            let unclosed = || {
                refused(format!(
                    "Missing ')' at the end of pathspec magic in '{text}'"
                ))
            };
            let (words, rest) = rest.split_once(')').ok_or_else(unclosed)?;
            pattern = rest;
            for word in words.split(',') {
                match word {
                    "" | "top" => {}
                    "glob" => mode |= Mode::NO_MATCH_SLASH_LITERAL,
                    "literal" => is_literal = true,
                    "icase" => mode |= Mode::IGNORE_CASE,
                    "exclude" => is_excluded = true,
                    _ => {
                        let message = format!("Unsupported pathspec magic '{word}' in '{text}'");
                        return Err(refused(message)
                            .with_hint("use `top`, `glob`, `literal`, `icase` or `exclude`"));
                    }
                }
            }
        } else if let Some(short) = text.strip_prefix(':') {
            pattern = short.trim_start_matches(['/', '!', '^']);
            is_excluded = short[..short.len() - pattern.len()].contains(['!', '^']);
            pattern = pattern.strip_prefix(':').unwrap_or(pattern);
        }
        let is_outside = pattern.starts_with('/') || pattern.split('/').any(|part| part == "..");
        if is_outside {
            return Err(refused(format!("'{text}' is outside repository")));
        }
        let pattern = pattern.strip_prefix("./").unwrap_or(pattern);
        let pattern = match pattern {
            "." => "",
            pattern => pattern,
        };
        let pathspec = Self {
            text: text.to_owned(),
            pattern: pattern.to_owned(),
            has_wildcards: !is_literal && pattern.contains(['*', '?', '[', '\\']),
            mode,
        };
        Ok((pathspec, is_excluded))
    }

    fn matches(&self, path: &str) -> bool {
        let pattern = self.pattern.as_str();
        let ignores_case = self.mode.contains(Mode::IGNORE_CASE);
        let is_equal = |left: &str, right: &str| match ignores_case {
            true => left.eq_ignore_ascii_case(right),
            false => left == right,
        };
        // A path, or a directory above it.
        let directory = pattern.strip_suffix('/').unwrap_or(pattern);
        let is_below = path.as_bytes().get(directory.len()) == Some(&b'/')
            && path.is_char_boundary(directory.len())
            && is_equal(&path[..directory.len()], directory);
        if pattern.is_empty() || is_equal(path, pattern) || is_below {
            return true;
        }
        self.has_wildcards
            && wildmatch(
                pattern.as_bytes().as_bstr(),
                path.as_bytes().as_bstr(),
                self.mode,
            )
    }
}

fn refused(message: String) -> Error {
    Error::new(ErrorKind::Config, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(pathspecs: &[&str]) -> Vec<&'static str> {
        let pathspecs: Vec<String> = pathspecs.iter().map(|text| (*text).to_owned()).collect();
        let selection = PathSelection::new(&pathspecs).unwrap();
        let paths = ["a", "a.c", "d/a.c", "d/e/b.c", "de/f", "[x]"];
        let mut used = Vec::new();
        paths
            .into_iter()
            .filter(|path| selection.selects(path, &mut used))
            .collect()
    }

    #[test]
    fn paths_are_selected_as_by_git() {
        assert_eq!(selected(&[]).len(), 6);
        assert_eq!(selected(&["d"]), ["d/a.c", "d/e/b.c"]);
        assert_eq!(selected(&["d/"]), ["d/a.c", "d/e/b.c"]);
        assert_eq!(selected(&["a"]), ["a"]);
        assert_eq!(selected(&["*.c"]), ["a.c", "d/a.c", "d/e/b.c"]);
        assert_eq!(selected(&[":(glob)*.c"]), ["a.c"]);
        assert_eq!(selected(&[":(glob)**/*.c"]), ["a.c", "d/a.c", "d/e/b.c"]);
        assert_eq!(selected(&[":(literal)[x]"]), ["[x]"]);
        assert_eq!(selected(&[":(icase)A.C"]), ["a.c"]);
        assert_eq!(selected(&["d", ":!d/e"]), ["d/a.c"]);
        assert_eq!(selected(&[":/d/e"]), ["d/e/b.c"]);
        assert_eq!(selected(&[".", ":(exclude)*.c"]), ["a", "de/f", "[x]"]);
    }

    #[test]
    fn a_pathspec_that_selects_nothing_is_an_error() {
        let selection = PathSelection::new(&["a".to_owned(), "b".to_owned()]).unwrap();
        let mut used = Vec::new();
        assert!(selection.selects("a", &mut used));
        let error = selection.check_used(&used).unwrap_err();
        assert_eq!(error.to_string(), "pathspec 'b' did not match any files");
        for text in [":(attr:x)a", "../a", "/a", ":(top"] {
            assert!(PathSelection::new(&[text.to_owned()]).is_err(), "{text}");
        }
    }
}
