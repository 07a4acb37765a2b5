//! Arguments and environment of the process.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

/// Arguments, environment variables and paths of a process.
#[derive(Clone)]
pub struct Invocation {
    /// Arguments; the first is the name of the program.
    pub arguments: Vec<OsString>,
    /// Environment variables.
    pub variables: HashMap<OsString, OsString>,
    /// Path of the program file, if the system knows it.
    pub program: Option<PathBuf>,
}

impl fmt::Debug for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Variables may be secrets.
        f.debug_struct("Invocation")
            .field("arguments", &self.arguments)
            .finish_non_exhaustive()
    }
}

impl Invocation {
    /// Reads the arguments and the environment of this process.
    pub fn of_this_process() -> Self {
        Self {
            arguments: std::env::args_os().collect(),
            variables: std::env::vars_os().collect(),
            program: std::env::current_exe().ok(),
        }
    }

    /// Returns a variable that is not empty.
    pub(crate) fn variable(&self, name: &str) -> Option<&OsStr> {
        let value = self.variables.get(OsStr::new(name))?;
        (!value.is_empty()).then_some(value)
    }

    /// Returns a variable that is UTF-8 and not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.variable(name)?.to_str()
    }

    /// Returns a base directory of the XDG specification: the absolute path in `variable`, or
    /// `below_home` in the home directory.
    pub(crate) fn base_directory(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        let named = self.variable(variable).map(PathBuf::from);
        named.filter(|path| path.is_absolute()).or_else(|| {
            let home = PathBuf::from(self.variable("HOME")?);
            home.is_absolute().then(|| home.join(below_home))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Invocation {
        let variables = variables.iter();
        Invocation {
            arguments: Vec::new(),
            variables: variables
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            program: None,
        }
    }

    #[test]
    fn a_base_directory_is_below_the_home_unless_an_absolute_path_is_set() {
        let cache = |variables: &[_]| with(variables).base_directory("XDG_CACHE_HOME", ".cache");
        assert_eq!(cache(&[("HOME", "/h")]), Some("/h/.cache".into()));
        let both = [("HOME", "/h"), ("XDG_CACHE_HOME", "/c")];
        assert_eq!(cache(&both), Some("/c".into()));
        let relative = [("HOME", "/h"), ("XDG_CACHE_HOME", "c")];
        assert_eq!(cache(&relative), Some("/h/.cache".into()));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "")]), None);
    }
}
