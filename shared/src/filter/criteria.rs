//! Includes and excludes of one kind of name, and the decision over changed paths.

use super::glob::Glob;

/// Globs that include and globs that exclude; exclusion wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Criteria {
    /// Globs of which one must match; all names are included without any.
    pub includes: Vec<Glob>,
    /// Globs of which none may match.
    pub excludes: Vec<Glob>,
}

impl Criteria {
    /// Returns whether `text` is included and not excluded.
    pub fn matches(&self, text: &str) -> bool {
        let any = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(text));
        !any(&self.excludes) && (self.includes.is_empty() || any(&self.includes))
    }
}

/// Decision of a trigger over a change whose branch is known and whose paths are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch<'a> {
    /// The trigger starts nothing.
    Never,
    /// The trigger starts its pipeline, whatever the paths are.
    Always,
    /// The trigger starts its pipeline if one of these accepts one of the paths.
    Paths(Vec<&'a Criteria>),
}

impl<'a> PathMatch<'a> {
    /// Combines the file paths of the filters that match the branch, of which one suffices.
    pub(super) fn of_any(file_paths: impl Iterator<Item = Option<&'a Criteria>>) -> Self {
        let mut paths = Vec::new();
        for criteria in file_paths {
            match criteria {
                None => return Self::Always,
                Some(criteria) => paths.push(criteria),
            }
        }
        if paths.is_empty() {
            return Self::Never;
        }
        Self::Paths(paths)
    }

    /// Returns whether a change at `path` starts the pipeline.
    pub fn accepts(&self, path: &str) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Paths(paths) => paths.iter().any(|criteria| criteria.matches(path)),
        }
    }
}
