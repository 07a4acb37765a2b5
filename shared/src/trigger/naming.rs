//! The names of our triggers: `<prefix>-<readable part>-<8 hexadecimal digits>`.
//!
//! The first four digits are a hash of what the trigger is for, so that branches that
//! read alike have different names. The last four are a hash of all that precedes them:
//! a name tells by itself that it is ours, whatever else of the trigger was edited, and
//! whichever function it calls. So triggers that call a former update function are found
//! and replaced, and a foreign trigger whose name only starts like ours
//! (`branchline-nightly-20240101`) is left alone.
//!
//! The prefix is part of that hash: triggers of a former `TRIGGER_PREFIX` are foreign, and
//! are to be removed by hand.

use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind, Result};

/// The longest name of a trigger (CodeCommit user guide, "Quotas").
pub const MAX_NAME: usize = 100;

/// Hexadecimal digits of the two hashes together.
const TAG: usize = 8;

fn is_legal(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// What the names of our triggers start with: 1 to 40 of `[A-Za-z0-9._-]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriggerPrefix(Box<str>);

impl TriggerPrefix {
    /// Validates `text`. Errors: `Config`.
    pub fn new(text: &str) -> Result<Self> {
        let rule = if text.is_empty() || text.len() > 40 {
            "it must have 1 to 40 characters"
        } else if !text.chars().all(is_legal) {
            "only letters, digits, `.`, `_` and `-` are allowed"
        } else {
            return Ok(Self(text.into()));
        };
        let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
        Err(Error::new(
            ErrorKind::Config,
            format!("`{shown}` cannot start a trigger's name: {rule}"),
        ))
    }

    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a trigger of this name is ours.
    pub fn is_ours(&self, name: &str) -> bool {
        let own = || {
            let (head, tag) = name.rsplit_once('-')?;
            let readable = head.strip_prefix(self.as_str())?.strip_prefix('-')?;
            let (identity, check) = tag.split_at_checked(TAG / 2)?;
            Some(!readable.is_empty() && check == self.check(readable, identity))
        };
        own().unwrap_or(false)
    }

    /// The name of the trigger for one branch. `salt` is 0, or counts up for a branch
    /// whose name would otherwise be another's.
    pub fn of_branch(&self, branch: &str, salt: u32) -> String {
        self.name(branch, &["branch", branch, &salt.to_string()])
    }

    /// The name of the `number`th trigger for several branches.
    pub fn of_group(&self, number: usize) -> String {
        self.name(&format!("group-{number}"), &["group", &number.to_string()])
    }

    /// The name of the trigger for all branches.
    pub fn of_all(&self) -> String {
        self.name("all-branches", &["all"])
    }

    fn name(&self, text: &str, identity: &[&str]) -> String {
        let room = MAX_NAME - self.0.len() - TAG - 2;
        let mut readable = String::with_capacity(room);
        for c in text.chars() {
            let c = if is_legal(c) { c } else { '-' };
            if readable.len() == room {
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
        // No part has a NUL, so that no two lists of parts run together alike.
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hex::encode(&hash.finalize()[..TAG / 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_readable() {
        let prefix = TriggerPrefix::default();
        let readable = |branch: &str| {
            let name = prefix.of_branch(branch, 0);
            name[..name.len() - TAG].to_owned()
        };
        assert_eq!(readable("feature/login"), "branchline-feature-login-");
        assert_eq!(readable("main"), "branchline-main-");
        assert_eq!(readable("a//é b"), "branchline-a-b-");
        assert_eq!(readable("日本"), "branchline-branch-");
        assert_eq!(readable("Release_1.0-rc"), "branchline-Release_1.0-rc-");
    }

    #[test]
    fn names_are_legal_and_not_too_long() {
        let longest = TriggerPrefix::new(&"p".repeat(40)).expect("it is valid");
        for prefix in [TriggerPrefix::default(), longest] {
            for branch in ["x", &"long/".repeat(51), &"é".repeat(256), "-", "..."] {
                let name = prefix.of_branch(branch, 0);
                assert!((1..=MAX_NAME).contains(&name.len()), "{name}");
                assert!(name.chars().all(is_legal), "{name}");
                assert!(prefix.is_ours(&name), "{name}");
            }
        }
    }

    #[test]
    fn branches_that_read_alike_have_different_names_whatever_the_case() {
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
    fn a_name_that_only_starts_like_ours_is_foreign() {
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
    fn two_deployments_do_not_take_each_others_triggers_even_if_one_prefix_starts_the_other() {
        let short = TriggerPrefix::new("team").expect("it is valid");
        let long = TriggerPrefix::new("team-a").expect("it is valid");
        assert!(!short.is_ours(&long.of_branch("x", 0)));
        assert!(!long.is_ours(&short.of_branch("a-x", 0)));
    }

    #[test]
    fn a_prefix_that_no_trigger_may_have_is_refused() {
        for bad in ["", "a b", "a,b", "é", &"x".repeat(41)] {
            let error = TriggerPrefix::new(bad).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::Config);
        }
    }
}
