//! Settings from environment variables; each error names the variable.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;

/// Environment variables of a function.
///
/// An empty variable counts as missing, because CloudFormation cannot leave one out.
#[derive(Clone, Default)]
pub struct Settings {
    variables: BTreeMap<String, String>,
    // Names that were read, set or not: the settings that the function has.
    known: Arc<Mutex<BTreeSet<String>>>,
}

impl fmt::Debug for Settings {
    /// Shows only the names, because values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Settings {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        let own = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        Self {
            variables: own.collect(),
            known: Arc::default(),
        }
    }
}

impl Settings {
    /// Returns the trimmed text of a variable; `None` if missing or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.lock().insert(name.to_owned());
        self.value(name)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(|text| text.trim())
            .filter(|text| !text.is_empty())
    }

    /// Reads an optional variable with `read`.
    ///
    /// # Errors
    /// `Config`, naming the variable, if `read` fails.
    pub fn optional<T>(
        &self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T>,
    ) -> Result<Option<T>> {
        self.get(name)
            .map(|text| read(text).map_err(|error| invalid(name, &error)))
            .transpose()
    }

    /// Reads a required variable with `read`; `meaning` describes the value in the error's hint.
    ///
    /// # Errors
    /// `Config`, naming the variable, if it is missing or `read` fails.
    pub fn required<T>(
        &self,
        name: &str,
        meaning: &str,
        read: impl FnOnce(&str) -> Result<T>,
    ) -> Result<T> {
        self.optional(name, read)?.ok_or_else(|| {
            Error::new(ErrorKind::Config, format!("`{name}` is not set")).with_hint(format!(
                "set the environment variable `{name}` to {meaning}"
            ))
        })
    }

    /// Reads `true` or `false`; `default` if missing.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(other) => Err(unreadable(name, other, "it must be `true` or `false`")),
        }
    }

    /// Reads a whole number in `range`; `default` if missing.
    pub fn number(&self, name: &str, default: u32, range: RangeInclusive<u32>) -> Result<u32> {
        let Some(text) = self.get(name) else {
            return Ok(default);
        };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => {
                let rule = format!(
                    "it must be a number from {} to {}",
                    range.start(),
                    range.end()
                );
                Err(unreadable(name, text, &rule))
            }
        }
    }

    /// Returns the region that the function runs in (`AWS_REGION`).
    pub fn function_region(&self) -> Option<&str> {
        self.get("AWS_REGION")
    }

    /// Returns the function's memory in MiB (`AWS_LAMBDA_FUNCTION_MEMORY_SIZE`); Lambda's default
    /// of 128 if missing.
    pub fn function_memory_mib(&self) -> Result<u32> {
        self.number("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", 128, 1..=1_000_000)
    }

    /// Fails if Lambda reports less memory than `min_mib`.
    ///
    /// # Errors
    /// `Config`, naming Lambda's variable.
    pub fn require_function_memory_mib(&self, min_mib: u32) -> Result<()> {
        const NAME: &str = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE";
        let memory = self.function_memory_mib()?;
        if self.get(NAME).is_none() || memory >= min_mib {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Config,
            format!("`{NAME}` is {memory}: the function has too little memory"),
        )
        .with_hint(format!("give it at least {min_mib} MB")))
    }

    /// Returns the variables that were read and are set, with their values. Lambda's own variables
    /// are left out, and so are the values of proxies, which may contain passwords.
    pub fn in_force(&self) -> BTreeMap<String, String> {
        let known = self.lock();
        let is_shown = |name: &&String| !name.starts_with("AWS_LAMBDA_");
        let set = known.iter().filter(is_shown).filter_map(|name| {
            let value = self.value(name)?;
            let is_proxy = name.to_ascii_lowercase().ends_with("_proxy");
            let value = if is_proxy { "(set)" } else { value };
            Some((name.clone(), value.to_owned()))
        });
        set.collect()
    }

    /// Returns the variables that nothing has read and whose names are close to one that was,
    /// together with that one.
    pub fn misspelled(&self) -> Vec<(String, String)> {
        let known = self.lock();
        let unknown = self.variables.keys().filter(|name| {
            // Lambda and the SDK have variables of their own.
            !known.contains(*name) && !name.starts_with("AWS_") && !name.starts_with("LAMBDA_")
        });
        let closest = unknown.filter_map(|name| {
            let upper = name.to_ascii_uppercase();
            let near = known
                .iter()
                .filter(|known| known.len() >= MIN_COMPARED_LENGTH);
            let near = near.map(|known| (edit_distance(&upper, known), known));
            let (distance, known) = near.min()?;
            (distance <= known.len() / 4).then(|| (name.clone(), known.clone()))
        });
        closest.collect()
    }
}

/// Minimum length of a name that others are compared with: shorter ones are close to too many.
const MIN_COMPARED_LENGTH: usize = 6;

/// Returns the number of letters that are inserted, deleted or replaced between two texts
/// (Levenshtein distance).
fn edit_distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut above_left = line;
        let mut left = line + 1;
        let mut next = vec![left];
        for (above, known) in row.iter().skip(1).zip(&other) {
            let replaced = above_left + usize::from(letter != *known);
            left = replaced.min(above + 1).min(left + 1);
            above_left = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// The error of a variable whose reader failed with `error`.
fn invalid(name: &str, error: &Error) -> Error {
    Error::new(ErrorKind::Config, format!("`{name}` is not valid: {error}"))
}

fn unreadable(name: &str, text: &str, rule: &str) -> Error {
    Error::new(
        ErrorKind::Config,
        format!(
            "`{name}` is not valid: `{}`: {rule}",
            escaped_excerpt(text.as_bytes())
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_close_to_a_setting_is_found() {
        let variables = [
            ("PIPELIN_NAME", "deploy"),
            ("branches_include", "main"),
            ("MIGRATION_MEMORY_SIZE", "64"),
            ("PATH", "/bin"),
            ("HOME", "/"),
            ("AWS_REGIO", "x"),
            ("TRIGGER_PREFIX", "x"),
            ("SSL", "x"),
        ];
        let settings: Settings = variables.into_iter().collect();
        for name in [
            "PIPELINE_NAME",
            "BRANCHES_INCLUDE",
            "MIGRATION_MEMORY_MIB",
            "SSE",
            "AWS_REGION",
        ] {
            assert_eq!(settings.get(name), None);
        }
        let found = settings.misspelled();
        let found: Vec<_> = found
            .iter()
            .map(|(name, known)| (name.as_str(), known.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("MIGRATION_MEMORY_SIZE", "MIGRATION_MEMORY_MIB"),
                ("PIPELIN_NAME", "PIPELINE_NAME"),
                ("branches_include", "BRANCHES_INCLUDE"),
            ]
        );
    }

    #[test]
    fn the_settings_in_force_are_those_that_are_set_and_read() {
        let variables = [
            ("PIPELINE_NAME", "deploy"),
            ("HTTPS_PROXY", "http://user:password@proxy:3128"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("EMPTY", " "),
        ];
        let settings: Settings = variables.into_iter().collect();
        for name in ["PIPELINE_NAME", "HTTPS_PROXY", "EMPTY", "MISSING"] {
            settings.get(name);
        }
        let expected = [("HTTPS_PROXY", "(set)"), ("PIPELINE_NAME", "deploy")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(settings.in_force(), expected.into());
    }

    #[test]
    fn distances_count_inserted_deleted_and_replaced_letters() {
        for (one, other, distance) in [
            ("", "", 0),
            ("ab", "", 2),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("same", "same", 0),
        ] {
            assert_eq!(edit_distance(one, other), distance, "{one} {other}");
        }
    }

    #[test]
    fn an_error_names_its_variable() {
        let settings: Settings = [("FLAG", "yes"), ("COUNT", "0"), ("EMPTY", " ")]
            .into_iter()
            .collect();
        let text = |result: Result<()>| result.expect_err("the value is not valid").report();
        assert_eq!(
            text(settings.flag("FLAG", false).map(drop)),
            "`FLAG` is not valid: `yes`: it must be `true` or `false`"
        );
        assert_eq!(
            text(settings.number("COUNT", 4, 1..=9).map(drop)),
            "`COUNT` is not valid: `0`: it must be a number from 1 to 9"
        );
        assert_eq!(
            text(settings.required("EMPTY", "a name", |_| Ok(()))),
            "`EMPTY` is not set; hint: set the environment variable `EMPTY` to a name"
        );
        assert_eq!(
            settings
                .number("MISSING", 4, 1..=9)
                .expect("because the default applies"),
            4
        );
        assert!(
            !format!("{settings:?}").contains("yes"),
            "values must not be logged"
        );
    }
}
