//! IAM roles that a mapping may name: their ARNs, and the list of those that are allowed.
//! [`client`] assumes them.

#[cfg(feature = "roles")]
pub mod client;

use std::fmt;

use crate::arn::ArnParts;
use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;

/// ARN of a role: `arn:<partition>:iam::<account>:role/<path and name>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoleArn(Box<str>);

impl RoleArn {
    /// Validates `text`. Errors: `Config`, naming the part that is wrong.
    pub fn new(text: &str) -> Result<Self> {
        match broken_rule(text, |_| false) {
            None => Ok(Self(text.into())),
            Some(rule) => Err(invalid(text, rule)),
        }
    }

    /// Returns the ARN as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoleArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Roles that may be assumed: ARNs, in whose names `*` is any text, as in a policy of IAM.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RolePatterns(Vec<Box<str>>);

impl RolePatterns {
    /// Reads comma-separated ARNs. Errors: `Config`, naming the ARN and the part that is wrong.
    pub fn new(text: &str) -> Result<Self> {
        let patterns = text.split(',').map(str::trim);
        let patterns = patterns.map(
            |pattern| match broken_rule(pattern, |letter| letter == '*') {
                None => Ok(pattern.into()),
                Some(rule) => Err(invalid(pattern, rule)),
            },
        );
        Ok(Self(patterns.collect::<Result<_>>()?))
    }

    /// Returns whether a pattern matches `role`.
    pub fn allow(&self, role: &RoleArn) -> bool {
        self.0.iter().any(|pattern| matches(pattern, role.as_str()))
    }
}

fn invalid(text: &str, rule: &str) -> Error {
    let shown = escaped_excerpt(text.as_bytes());
    Error::new(
        ErrorKind::Config,
        format!("`{shown}` is not an ARN of a role: {rule}"),
    )
}

/// Returns the rule of ARNs that `text` breaks, if any. Names may have the letters of IAM and
/// those that `also` allows.
fn broken_rule(text: &str, also: fn(char) -> bool) -> Option<&'static str> {
    let Some(arn) = ArnParts::split(text) else {
        return Some("it must be `arn:aws:iam::<account>:role/<name>`");
    };
    let name = arn.resource.strip_prefix("role/");
    let is_legal =
        |letter: char| letter.is_ascii_alphanumeric() || "+=.@_/-".contains(letter) || also(letter);
    if !arn.is_of_aws() {
        Some("it must start with `arn:aws:`")
    } else if arn.service != "iam" || !arn.region.is_empty() || name.is_none() {
        Some("it must be `arn:aws:iam::<account>:role/<name>`")
    } else if !arn.has_account() {
        Some("its account must have 12 digits")
    } else if name.is_none_or(|name| name.is_empty() || !name.chars().all(is_legal))
        || text.len() > 2048
    {
        Some("its name is empty, too long, or has an invalid character")
    } else {
        None
    }
}

/// Returns whether `pattern`, in which `*` is any text, matches the whole of `text`.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        // The earliest place leaves the most for the other parts.
        let Some((_, after)) = rest.split_once(part) else {
            return false;
        };
        rest = after;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = "arn:aws:iam::111122223333:role/mirror/reader";

    #[test]
    fn only_an_arn_of_a_role_is_accepted() {
        for good in [ROLE, "arn:aws-cn:iam::111122223333:role/a+=.@_-"] {
            assert_eq!(RoleArn::new(good).expect("it is an ARN").as_str(), good);
        }
        for (bad, part) in [
            ("reader", "arn:aws:iam::<account>"),
            ("arn:gcp:iam::111122223333:role/r", "start with"),
            ("arn:aws:iam::1111:role/r", "12 digits"),
            ("arn:aws:iam::*:role/r", "12 digits"),
            ("arn:aws:iam::111122223333:user/r", "role/<name>"),
            ("arn:aws:sts::111122223333:role/r", "role/<name>"),
            ("arn:aws:iam::111122223333:role/", "name is empty"),
            ("arn:aws:iam::111122223333:role/r*", "invalid character"),
            ("arn:aws:iam::111122223333:role/r s", "invalid character"),
        ] {
            let error = RoleArn::new(bad).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn roles_are_allowed_as_a_policy_of_iam_would() {
        let allows = |patterns: &str, role: &str| {
            let patterns = RolePatterns::new(patterns).expect("they are valid");
            patterns.allow(&RoleArn::new(role).expect("it is valid"))
        };
        let of = |name: &str| format!("arn:aws:iam::111122223333:role/{name}");
        for (pattern, name, wanted) in [
            ("reader", "reader", true),
            ("reader", "reader2", false),
            ("reader", "team/reader", false),
            ("*", "team/reader", true),
            ("mirror-*", "mirror-a", true),
            ("mirror-*", "mirror", false),
            ("*-reader", "a-reader", true),
            ("*-reader", "a-reader-b", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("aa*aa", "aaa", false),
        ] {
            assert_eq!(allows(&of(pattern), &of(name)), wanted, "{pattern}: {name}");
        }
        let two = format!("{}, {}", of("a"), of("b"));
        assert!(allows(&two, &of("b")), "each of a list");
        let elsewhere = "arn:aws:iam::444455556666:role/a";
        assert!(!allows(&two, elsewhere), "the account is part of the role");
        assert!(!RolePatterns::default().allow(&RoleArn::new(ROLE).expect("it is valid")));
        for bad in ["", "arn:aws:iam::*:role/r", &format!("{ROLE},")] {
            let error = RolePatterns::new(bad).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::Config);
        }
    }
}
