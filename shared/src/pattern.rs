//! Selection of branches and repositories by comma-separated globs to include and to
//! exclude.
//!
//! A glob matches the whole name; `*` and `?` stop at `/`, `**` does not (git's
//! `wildmatch` with `WM_PATHNAME`, as `git for-each-ref` and `.gitignore` have it).

use bstr::ByteSlice as _;
use gix_glob::wildmatch;
use gix_glob::wildmatch::Mode;

use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;
use crate::name::{BranchName, RepositoryName};
use crate::settings::Settings;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Glob(String);

impl Glob {
    fn matches(&self, name: &str) -> bool {
        // In `wildmatch`, `**` crosses slashes only where it is a whole path segment.
        wildmatch(
            self.0.as_bytes().as_bstr(),
            name.as_bytes().as_bstr(),
            Mode::NO_MATCH_SLASH_LITERAL,
        )
    }
}

/// Globs that include and globs that exclude; exclusion wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patterns {
    include: Vec<Glob>,
    exclude: Vec<Glob>,
}

impl Patterns {
    /// Parses two comma-separated lists. An empty `include` includes nothing.
    ///
    /// Errors: `Config` for an unfinished `[` or a `\` at the end.
    pub fn new(include: &str, exclude: &str) -> Result<Self> {
        Ok(Self {
            include: parse(include)?,
            exclude: parse(exclude)?,
        })
    }

    fn matches(&self, name: &str) -> bool {
        self.include.iter().any(|glob| glob.matches(name))
            && !self.exclude.iter().any(|glob| glob.matches(name))
    }
}

fn parse(list: &str) -> Result<Vec<Glob>> {
    let globs = list
        .split(',')
        .map(str::trim)
        .filter(|glob| !glob.is_empty());
    globs
        .map(|glob| {
            let rule = if glob.len() > 512 {
                "it is longer than 512 bytes"
            } else if has_open_bracket(glob) {
                "a `[` has no `]`"
            } else if (glob.len() - glob.trim_end_matches('\\').len()) % 2 == 1 {
                "the last `\\` escapes no character"
            } else {
                return Ok(Glob(glob.to_owned()));
            };
            Err(Error::new(
                ErrorKind::Config,
                format!(
                    "`{}` is not a valid glob: {rule}",
                    escaped_excerpt(glob.as_bytes())
                ),
            ))
        })
        .collect()
}

fn has_open_bracket(glob: &str) -> bool {
    let mut rest = glob.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => {
                rest.next();
            }
            '[' => {
                // A `]` directly after `[`, `[!` or `[^` is a member of the class.
                let mut class = rest.as_str();
                class = class.strip_prefix(['!', '^']).unwrap_or(class);
                class = class.strip_prefix(']').unwrap_or(class);
                let Some(end) = class.find(']') else {
                    return true;
                };
                rest = class[end + 1..].chars();
            }
            _ => {}
        }
    }
    false
}

/// Selected branches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchPatterns(Patterns);

impl BranchPatterns {
    /// Parses `BRANCHES_INCLUDE` and `BRANCHES_EXCLUDE`.
    pub fn new(include: &str, exclude: &str) -> Result<Self> {
        Patterns::new(include, exclude).map(Self)
    }

    /// Reads `BRANCHES_INCLUDE` and `BRANCHES_EXCLUDE`; an error names its variable.
    pub fn read(settings: &Settings) -> Result<Self> {
        // Each list is parsed on its own first, so that an error names the right variable.
        settings.optional("BRANCHES_INCLUDE", |globs| Self::new(globs, ""))?;
        settings.optional("BRANCHES_EXCLUDE", |globs| Self::new("", globs))?;
        let include = settings.get("BRANCHES_INCLUDE").unwrap_or("**");
        Self::new(
            include,
            settings.get("BRANCHES_EXCLUDE").unwrap_or_default(),
        )
    }

    /// Returns whether the branch is selected.
    pub fn matches(&self, branch: &BranchName) -> bool {
        self.0.matches(branch.as_str())
    }
}

impl Default for BranchPatterns {
    /// Selects all branches.
    fn default() -> Self {
        Self::new("**", "").expect("because `**` is a glob")
    }
}

/// Selected repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryPatterns(Patterns);

impl RepositoryPatterns {
    /// Parses `REPOSITORIES`.
    pub fn new(include: &str) -> Result<Self> {
        Patterns::new(include, "").map(Self)
    }

    /// Returns whether the repository is selected.
    pub fn matches(&self, repository: &RepositoryName) -> bool {
        self.0.matches(repository.as_str())
    }

    /// Returns whether the repository is named in full.
    pub fn names(&self, repository: &RepositoryName) -> bool {
        let mut include = self.0.include.iter();
        include.any(|glob| glob.0 == repository.as_str())
    }
}

impl Default for RepositoryPatterns {
    /// Selects all repositories.
    fn default() -> Self {
        Self::new("*").expect("because `*` is a glob")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(include: &str, exclude: &str, branch: &str) -> bool {
        let patterns = BranchPatterns::new(include, exclude).expect("the globs are valid");
        patterns.matches(&BranchName::new(branch).expect("the branch is valid"))
    }

    #[test]
    fn one_star_stops_at_a_slash_and_two_stars_do_not() {
        assert!(matches("feature/*", "", "feature/x"));
        assert!(!matches("feature/*", "", "feature/x/y"));
        assert!(matches("feature/**", "", "feature/x/y"));
        assert!(!matches("*", "", "feature/x"));
        assert!(matches("**", "", "feature/x"));
        assert!(matches("**", "", "main"));
        assert!(matches("**/x", "", "a/b/x"));
    }

    #[test]
    fn exclusion_wins_and_lists_are_trimmed() {
        assert!(matches(" main , release/* ", "", "main"));
        assert!(!matches("**", "main,wip/**", "main"));
        assert!(!matches("**", "main,wip/**", "wip/a/b"));
        assert!(!matches("", "", "main"), "an empty list includes nothing");
    }

    #[test]
    fn character_classes_match_as_in_git() {
        assert!(matches("v[0-9]", "", "v1"));
        assert!(!matches("v[!0-9]", "", "v1"));
        assert!(!matches("ma?n", "", "ma/n"));
    }

    #[test]
    fn an_invalid_glob_is_refused_with_its_rule() {
        for (glob, rule) in [("a[b", "`[` has no `]`"), ("a\\", "escapes no character")] {
            let error = BranchPatterns::new(glob, "").expect_err("the glob is broken");
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(rule), "{error}");
        }
    }
}
