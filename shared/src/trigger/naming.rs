//! Names of owned triggers: `<prefix>-<readable part>-<8 hexadecimal digits>`.
//!
//! The first four digits are a hash of the trigger's purpose, so that branches with equal
//! readable parts have different names. The last four are a hash of everything before them.
//! The name alone identifies a trigger as owned, even if the rest was edited or another
//! function is called. So triggers that call a former update function are replaced, and a
//! foreign trigger that shares only the prefix (`branchline-nightly-20240101`) is left alone.
//!
//! The hash includes the prefix: triggers of a former `TRIGGER_PREFIX` are foreign, and must
//! be removed by hand.

use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;

/// Maximum length of a trigger's name (CodeCommit user guide, "Quotas").
const MAX_NAME_BYTES: usize = 100;

/// Hexadecimal digits of the two hashes together.
const HASH_DIGITS: usize = 8;

fn is_legal(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// Start of the names of owned triggers: 1 to 40 of `[A-Za-z0-9._-]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriggerPrefix(Box<str>);

impl TriggerPrefix {
    /// Validates `text`.
    ///
    /// # Errors
    /// `Config`, with the rule that is broken.
    pub fn new(text: &str) -> Result<Self> {
        let rule = if text.is_empty() || text.len() > 40 {
            "it must have 1 to 40 characters"
        } else if !text.chars().all(is_legal) {
            "only letters, digits, `.`, `_` and `-` are allowed"
        } else {
            return Ok(Self(text.into()));
        };
        Err(Error::new(
            ErrorKind::Config,
            format!(
                "`{}` cannot start a trigger's name: {rule}",
                escaped_excerpt(text.as_bytes())
            ),
        ))
    }

    /// Returns the prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns true if a trigger of this name is owned.
    pub fn is_ours(&self, name: &str) -> bool {
        let own = || {
            let (head, tag) = name.rsplit_once('-')?;
            let readable = head.strip_prefix(self.as_str())?.strip_prefix('-')?;
            let (identity, check) = tag.split_at_checked(HASH_DIGITS / 2)?;
            Some(!readable.is_empty() && check == self.check(readable, identity))
        };
        own().unwrap_or(false)
    }

    /// Returns the name of the trigger for one branch. `salt` is 0, or counts up while the name
    /// collides with another branch's.
    pub fn of_branch(&self, branch: &str, salt: u32) -> String {
        self.name(branch, &["branch", branch, &salt.to_string()])
    }

    /// Returns the name of the `number`th trigger for several branches.
    pub fn of_group(&self, number: usize) -> String {
        self.name(&format!("group-{number}"), &["group", &number.to_string()])
    }

    /// Returns the name of the trigger for all branches.
    pub fn of_all(&self) -> String {
        self.name("all-branches", &["all"])
    }

    fn name(&self, text: &str, identity: &[&str]) -> String {
        let max_bytes = MAX_NAME_BYTES - self.0.len() - HASH_DIGITS - 2;
        let mut readable = String::with_capacity(max_bytes);
        for c in text.chars() {
            let c = if is_legal(c) { c } else { '-' };
            if readable.len() == max_bytes {
                break;
            }
            if c != '-' || !(readable.is_empty() || readable.ends_with('-')) {
                readable.push(c);
            }
        }
        readable.truncate(readable.trim_end_matches('-').len());
        if readable.is_empty() {
            readable.push_str("branch");
        }
        let identity = short_hash(identity);
        let check = self.check(&readable, &identity);
        format!("{}-{readable}-{identity}{check}", self.0)
    }

    fn check(&self, readable: &str, identity: &str) -> String {
        short_hash(&["name", self.as_str(), readable, identity])
    }
}

impl Default for TriggerPrefix {
    /// `branchline`.
    fn default() -> Self {
        Self("branchline".into())
    }
}

fn short_hash(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        // NUL is a separator, because no part has one.
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hex::encode(&hash.finalize()[..HASH_DIGITS / 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_readable() {
        let prefix = TriggerPrefix::default();
        let readable = |branch: &str| {
            let name = prefix.of_branch(branch, 0);
            name[..name.len() - HASH_DIGITS].to_owned()
        };
        assert_eq!(readable("feature/login"), "branchline-feature-login-");
        assert_eq!(readable("main"), "branchline-main-");
        assert_eq!(readable("a//é b"), "branchline-a-b-");
        assert_eq!(readable("日本"), "branchline-branch-");
        assert_eq!(readable("Release_1.0-rc"), "branchline-Release_1.0-rc-");
    }

    #[test]
    fn names_are_legal_and_not_too_long() {
        let longest = TriggerPrefix::new(&"p".repeat(40)).expect("because the prefix is valid");
        for prefix in [TriggerPrefix::default(), longest] {
            for branch in ["x", &"long/".repeat(51), &"é".repeat(256), "-", "..."] {
                let name = prefix.of_branch(branch, 0);
                assert!((1..=MAX_NAME_BYTES).contains(&name.len()), "{name}");
                assert!(name.chars().all(is_legal), "{name}");
                assert!(prefix.is_ours(&name), "{name}");
            }
        }
    }

    #[test]
    fn branches_with_equal_readable_parts_have_different_names_whatever_the_case() {
        let prefix = TriggerPrefix::default();
        let long = "x".repeat(200);
        let alike = [
            "a/b",
            "a-b",
            "a b",
            "A/b",
            "A-B",
            "a/b/",
            "日",
            "本",
            &long,
            &format!("{long}y"),
        ];
        let mut names: Vec<_> = alike
            .iter()
            .map(|branch| prefix.of_branch(branch, 0).to_lowercase())
            .collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), alike.len());
        assert_ne!(prefix.of_branch("group-1", 0), prefix.of_group(1));
        assert_ne!(prefix.of_branch("all-branches", 0), prefix.of_all());
    }

    #[test]
    fn a_name_that_shares_only_the_prefix_is_foreign() {
        let prefix = TriggerPrefix::default();
        let ours = prefix.of_branch("main", 0);
        let edited = format!("{}x", &ours[..ours.len() - 1]);
        for foreign in [
            "branchline",
            "branchline-",
            "branchline-main",
            "branchline-nightly-20240101",
            "branchline-notify-deadbeef",
            "branchline--deadbeef",
            "other-main-1a2b3c4d",
            "branchline-é-1a2b3c4é",
            &edited,
            &ours.to_uppercase(),
            &format!("{ours}-2"),
            &ours.replace("main", "Main"),
        ] {
            assert!(!prefix.is_ours(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_prefix_that_starts_with_another_does_not_own_its_triggers() {
        let short = TriggerPrefix::new("team").expect("because the prefix is valid");
        let long = TriggerPrefix::new("team-a").expect("because the prefix is valid");
        assert!(!short.is_ours(&long.of_branch("x", 0)));
        assert!(!long.is_ours(&short.of_branch("a-x", 0)));
    }

    #[test]
    fn an_illegal_prefix_is_refused() {
        for bad in ["", "a b", "a,b", "é", &"x".repeat(41)] {
            let error = TriggerPrefix::new(bad).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::Config);
        }
    }
}
