//! Settings from environment variables; each error names the variable.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;

/// Environment variables of a function.
///
/// An empty variable counts as missing, because CloudFormation cannot leave one out.
#[derive(Clone, Default)]
pub struct Settings(BTreeMap<String, String>);

impl fmt::Debug for Settings {
    /// Shows only the names, because values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Settings {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        let own = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        Self(own.collect())
    }
}

impl Settings {
    /// Returns the trimmed text of a variable; `None` if missing or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
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
