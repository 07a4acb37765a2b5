//! Templates of keys and of pipelines' names.

use branchline_core::arn::Origin;
use branchline_core::name::{BranchName, CommitId, ObjectKey, PipelineName, RepositoryName};
use branchline_core::{Error, ErrorKind, Result};
use sha2::{Digest as _, Sha256};

use crate::ref_kind::{NamedKind, RefKind};

/// A text with placeholders, such as `{repository}/{branch}.zip`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTemplate(String);

const REPOSITORY: &str = "{repository}";
const BRANCH: &str = "{branch}";
const TAG: &str = "{tag}";
const REF: &str = "{ref}";
const COMMIT: &str = "{commit}";
const ACCOUNT: &str = "{account}";
const REGION: &str = "{region}";
const SLUG: &str = "{slug}";

/// Placeholders of a key.
const KEY_PLACEHOLDERS: [&str; 7] = [REPOSITORY, BRANCH, TAG, REF, COMMIT, ACCOUNT, REGION];

/// Placeholders of a pipeline's name.
const PIPELINE_PLACEHOLDERS: [&str; 7] = [REPOSITORY, BRANCH, TAG, COMMIT, ACCOUNT, REGION, SLUG];

/// Maximum length of a pipeline's name, in characters (CodePipeline API reference).
const MAX_PIPELINE_NAME: usize = 100;

/// Maximum length of `{slug}`, in characters.
const MAX_SLUG: usize = 63;

/// Number of hexadecimal digits of the hash that keeps shortened and changed names apart.
const HASH_DIGITS: usize = 8;

/// Relation of a key to a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyMatch {
    /// The template cannot make the key.
    Foreign,
    /// The template can make the key for this repository.
    Of(RepositoryName),
    /// The template can make the key, which does not tell the repository.
    OfAny,
}

/// Values of the placeholders.
#[derive(Debug, Clone, Copy)]
pub struct TemplateValues<'a> {
    /// The repository.
    pub repository: &'a RepositoryName,
    /// The branch, or the name that stands for a tag or commit.
    pub branch: &'a BranchName,
    /// The kind of what the name stands for.
    pub kind: &'a RefKind,
    /// The commit; `None` where the template has none.
    pub commit: Option<CommitId>,
    /// Account and region of the function, if known.
    pub origin: Option<&'a Origin>,
}

impl KeyTemplate {
    /// Parses the template of an object's key.
    pub fn object_key(text: &str) -> Result<Self> {
        let template = Self::new(text, &KEY_PLACEHOLDERS)?;
        template.sample(|filled| ObjectKey::new(filled).map(drop))?;
        if template.0.starts_with('/') {
            return Err(Error::new(
                ErrorKind::Config,
                "a key that starts with `/` has an empty first folder",
            ));
        }
        Ok(template)
    }

    /// Parses the template of a pipeline's name.
    pub fn parse_pipeline_name(text: &str) -> Result<Self> {
        let template = Self::new(text, &PIPELINE_PLACEHOLDERS)?;
        template.sample(|filled| PipelineName::new(filled).map(drop))?;
        Ok(template)
    }

    pub(crate) fn default_key() -> Self {
        Self("{repository}/{branch}.zip".to_owned())
    }

    fn new(text: &str, placeholders: &[&str]) -> Result<Self> {
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let mut known = placeholders.iter();
            let Some(known) = known.find(|known| rest[at..].starts_with(**known)) else {
                let shown: Vec<String> = placeholders
                    .iter()
                    .map(|name| format!("`{name}`"))
                    .collect();
                return Err(Error::new(
                    ErrorKind::Config,
                    format!(
                        "`{}` has a placeholder other than {}",
                        text.escape_debug(),
                        shown.join(", ")
                    ),
                ));
            };
            rest = &rest[at + known.len()..];
        }
        Ok(Self(text.to_owned()))
    }

    /// Checks the template with short values.
    fn sample(&self, check: impl FnOnce(&str) -> Result<()>) -> Result<()> {
        check(&self.fill("r", "b", &RefKind::Branch, "c", None))
    }

    fn fill(
        &self,
        repository: &str,
        branch: &str,
        kind: &RefKind,
        commit: &str,
        origin: Option<&Origin>,
    ) -> String {
        let account = origin.map_or("a", |origin| &origin.account);
        let region = origin.map_or("r", |origin| &origin.region);
        // Last the names, because of all values only they can contain a brace, which stands back
        // until all are in.
        self.0
            .replace(REPOSITORY, repository)
            .replace(COMMIT, commit)
            .replace(ACCOUNT, account)
            .replace(REGION, region)
            .replace(SLUG, &slug(branch))
            .replace(REF, &kind.path(branch).replace('{', "\u{0}"))
            .replace(TAG, &kind.tag_or(branch).replace('{', "\u{0}"))
            .replace(BRANCH, branch)
            .replace('\u{0}', "{")
    }

    fn has(&self, placeholder: &str) -> bool {
        self.0.contains(placeholder)
    }

    /// Returns true when keys depend on the commit.
    pub fn has_commit(&self) -> bool {
        self.has(COMMIT)
    }

    /// Returns true when keys depend on the branch.
    pub fn has_branch(&self) -> bool {
        [BRANCH, TAG, REF].iter().any(|name| self.has(name))
    }

    /// Returns true when there is a placeholder.
    pub fn has_placeholders(&self) -> bool {
        let mut all = KEY_PLACEHOLDERS.iter().chain([&SLUG]);
        all.any(|placeholder| self.has(placeholder))
    }

    /// Returns true when all keys of `repository` are in a folder of its name.
    pub(crate) fn is_below(&self, repository: &RepositoryName) -> bool {
        let own_folder = format!("{repository}/");
        self.0.starts_with("{repository}/") || self.0.starts_with(&own_folder)
    }

    /// Returns the text before the first placeholder.
    pub fn literal_start(&self) -> &str {
        self.0.split('{').next().unwrap_or_default()
    }

    /// Returns the text before the repository's name, if the name is the first thing that
    /// differs between keys and a folder of its own; else `None`.
    pub(crate) fn above_repositories(&self, origin: Option<&Origin>) -> Option<String> {
        let (above, below) = self.0.split_once(REPOSITORY)?;
        let mut above = above.to_owned();
        if let Some(origin) = origin {
            above = above.replace(ACCOUNT, &origin.account);
            above = above.replace(REGION, &origin.region);
        }
        (below.starts_with('/') && !above.contains('{')).then_some(above)
    }

    /// Returns the text that the keys of all branches of `repository` begin with.
    pub(crate) fn start_of_repository(
        &self,
        repository: &RepositoryName,
        origin: Option<&Origin>,
    ) -> String {
        let variable = [BRANCH, TAG, REF, COMMIT];
        let ends = variable.iter().filter_map(|name| self.0.find(name));
        let end = ends.min().unwrap_or(self.0.len());
        let start = Self(self.0[..end].to_owned());
        start.fill(repository.as_str(), "", &RefKind::Branch, "", origin)
    }

    /// Returns the text that the keys of everything of a kind in `repository` begin with, before
    /// its name; `None` if the name is not the first part of a key that varies in a repository.
    pub(crate) fn start_of_kind(
        &self,
        repository: &RepositoryName,
        kind: NamedKind,
        origin: Option<&Origin>,
    ) -> Option<String> {
        let variable = [BRANCH, TAG, REF, COMMIT];
        let found = variable
            .iter()
            .filter_map(|name| Some((self.0.find(name)?, *name)));
        let (_, first) = found.min()?;
        let folder = match first {
            BRANCH => kind.folder_of_names(),
            REF => kind.folder_of_refs(),
            TAG => kind.folder_of_tags(),
            _ => return None,
        };
        let start = self.start_of_repository(repository, origin);
        Some(format!("{start}{folder}"))
    }

    fn check_origin(&self, origin: Option<&Origin>) -> Result<()> {
        if origin.is_none() && (self.has(ACCOUNT) || self.has(REGION)) {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "`{}` needs the function's account, which is not known",
                    self.0
                ),
            )
            .with_hint("Lambda provides it; an emulator does not"));
        }
        Ok(())
    }

    /// Returns the key for these values.
    pub fn key_of(&self, values: &TemplateValues<'_>) -> Result<ObjectKey> {
        self.check_origin(values.origin)?;
        let branch = values.branch;
        let commit = values.commit.map(|id| id.to_string()).unwrap_or_default();
        let repository = values.repository.as_str();
        let key = self.fill(
            repository,
            branch.as_str(),
            values.kind,
            &commit,
            values.origin,
        );
        ObjectKey::new(&key).map_err(|error| {
            Error::new(
                ErrorKind::Config,
                format!("`ARTIFACT_KEY` for branch `{branch}`: {error}"),
            )
        })
    }

    /// Returns the key for any commit of something of `kind` whose name is `branch`, with
    /// `{commit}` in place of the id.
    pub fn pattern_of(
        &self,
        repository: &RepositoryName,
        branch: &BranchName,
        kind: &RefKind,
        origin: Option<&Origin>,
    ) -> String {
        self.fill(repository.as_str(), branch.as_str(), kind, COMMIT, origin)
    }

    /// Compares `key` with the keys that this template can make.
    pub(crate) fn match_key(&self, key: &str, origin: Option<&Origin>) -> KeyMatch {
        self.named_repository(key, origin)
            .unwrap_or(KeyMatch::Foreign)
    }

    fn named_repository(&self, key: &str, origin: Option<&Origin>) -> Option<KeyMatch> {
        let start = |text: &str| {
            let account = origin.map_or(ACCOUNT, |origin| &origin.account);
            let region = origin.map_or(REGION, |origin| &origin.region);
            text.replace(ACCOUNT, account).replace(REGION, region)
        };
        let end = self.0.rsplit('}').next().unwrap_or_default();
        let rest = key.strip_suffix(end)?;
        let Some((before, after)) = self.0.split_once(REPOSITORY) else {
            return rest
                .starts_with(self.literal_start())
                .then_some(KeyMatch::OfAny);
        };
        let before = start(before);
        // The text after a `{branch}` or `{commit}` can be anything.
        let rest = match before.split_once('{') {
            Some((literal, _)) => {
                return rest.starts_with(literal).then_some(KeyMatch::OfAny);
            }
            None => rest.strip_prefix(before.as_str())?,
        };
        // Other characters than a slash may be a part of the repository's name.
        if !after.starts_with('/') {
            return Some(KeyMatch::OfAny);
        }
        let separator = after.split('{').next().unwrap_or_default();
        let (name, _) = rest.split_once(separator)?;
        RepositoryName::new(name).ok().map(KeyMatch::Of)
    }

    /// Returns the pipeline for these values.
    ///
    /// Characters of a branch's name that a pipeline's name cannot contain, such as `/`, become
    /// `-`, and a hash of the name follows, so that no two branches have one pipeline. A name of
    /// more than 100 characters is shortened in the same way.
    pub fn pipeline_name(&self, values: &TemplateValues<'_>) -> Result<PipelineName> {
        self.check_origin(values.origin)?;
        let branch = values.branch;
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '@' | '_' | '-');
        let legal_part = |name: &str| {
            let part = name.replace(|c| !legal(c), "-");
            if part == name {
                return part;
            }
            format!("{part}-{}", short_hash(name))
        };
        let branch_part = legal_part(branch.as_str());
        let tag_part = legal_part(values.kind.tag_or(branch.as_str()));
        let commit = values.commit.map(|id| id.to_string()).unwrap_or_default();
        let repository = values.repository.as_str();
        let fill = |branch: &str| {
            // `{slug}` is made from the branch's own name.
            let template = self.0.replace(SLUG, &slug(values.branch.as_str()));
            let template = Self(template.replace(TAG, &tag_part));
            template.fill(repository, branch, values.kind, &commit, values.origin)
        };
        let mut name = fill(&branch_part);
        if name.len() > MAX_PIPELINE_NAME {
            let hash = short_hash(&fill(branch.as_str()));
            name.truncate(MAX_PIPELINE_NAME - HASH_DIGITS - 1);
            name = format!("{name}-{hash}");
        }
        PipelineName::new(&name).map_err(|error| {
            Error::new(
                ErrorKind::Config,
                format!("`PIPELINE_NAME` for branch `{branch}`: {error}"),
            )
        })
    }
}

/// Returns a branch's name in lower case, with `-` in place of everything but letters and
/// digits, shortened to 63 characters.
fn slug(branch: &str) -> String {
    let lower = branch.to_lowercase();
    let replaced = lower.chars().map(|c| {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            c
        } else {
            '-'
        }
    });
    replaced.take(MAX_SLUG).collect()
}

fn short_hash(text: &str) -> String {
    let mut digits = hex::encode(Sha256::digest(text));
    digits.truncate(HASH_DIGITS);
    digits
}

#[cfg(test)]
mod tests {
    use branchline_core::name::TagName;

    use super::*;

    fn repository() -> RepositoryName {
        RepositoryName::new("demo").expect("it is valid")
    }

    fn pipeline(template: &str, branch: &str) -> String {
        let template = KeyTemplate::parse_pipeline_name(template).expect("it is valid");
        let name = template.pipeline_name(&TemplateValues {
            repository: &repository(),
            branch: &BranchName::new(branch).expect("it is valid"),
            kind: &RefKind::Branch,
            commit: None,
            origin: None,
        });
        name.expect("the name is valid").to_string()
    }

    #[test]
    fn no_two_branches_have_one_pipeline_unless_their_slugs_are_equal() {
        assert_eq!(pipeline("deploy-{branch}", "main"), "deploy-main");
        let slash = pipeline("deploy-{branch}", "feature/foo");
        assert!(slash.starts_with("deploy-feature-foo-"), "{slash}");
        assert_eq!(slash.len(), "deploy-feature-foo-".len() + HASH_DIGITS);
        assert_ne!(slash, pipeline("deploy-{branch}", "feature-foo"));
        assert_ne!(slash, pipeline("deploy-{branch}", "feature+foo"));
        assert_eq!(pipeline("x-{slug}", "Feature/Ü1"), "x-feature--1");
        assert_eq!(pipeline("{slug}", &"a".repeat(200)), "a".repeat(MAX_SLUG));
    }

    #[test]
    fn a_pipeline_name_of_more_than_100_characters_is_shortened_with_a_hash() {
        let first = pipeline("deploy-{branch}", &"a".repeat(200));
        let second = pipeline("deploy-{branch}", &format!("{}b", "a".repeat(199)));
        assert_eq!((first.len(), second.len()), (100, 100));
        assert_ne!(first, second);
    }

    #[test]
    fn a_tag_has_a_key_and_a_pipeline_of_its_own() {
        let tag = RefKind::Tag(TagName::new("v1/{branch}").expect("it is valid"));
        let name = tag.placeholder_branch().expect("it is valid");
        let values = TemplateValues {
            repository: &repository(),
            branch: &name,
            kind: &tag,
            commit: None,
            origin: None,
        };
        for (template, key) in [
            ("{repository}/{branch}.zip", "demo/tag/v1/{branch}.zip"),
            ("{repository}/{ref}.zip", "demo/tags/v1/{branch}.zip"),
            ("{repository}/{tag}.zip", "demo/v1/{branch}.zip"),
        ] {
            let template = KeyTemplate::object_key(template).expect("it is valid");
            let made = template.key_of(&values).expect("it is valid");
            assert_eq!(made.as_str(), key);
        }
        let main = BranchName::new("main").expect("it is valid");
        let values = TemplateValues {
            branch: &main,
            kind: &RefKind::Branch,
            ..values
        };
        let template = KeyTemplate::object_key("{ref}/{tag}").expect("it is valid");
        let made = template.key_of(&values).expect("it is valid");
        assert_eq!(made.as_str(), "heads/main/main");
        assert_eq!(pipeline("release-{tag}", "main"), "release-main");
    }

    #[test]
    fn a_key_is_recognised_by_its_template() {
        let found = |template: &str, key: &str| {
            let template = KeyTemplate::object_key(template).expect("it is valid");
            let origin = Origin {
                account: "111122223333".into(),
                region: "eu-west-1".into(),
            };
            template.match_key(key, Some(&origin))
        };
        let demo = KeyMatch::Of(repository());
        assert_eq!(found("{repository}/{branch}.zip", "demo/a/b.zip"), demo);
        assert_eq!(
            found("{repository}/{branch}.zip", "demo/a/b.txt"),
            KeyMatch::Foreign
        );
        assert_eq!(
            found("{repository}/{branch}.zip", "file.zip"),
            KeyMatch::Foreign
        );
        assert_eq!(
            found("x/{repository}-{branch}.zip", "x/demo-a.zip"),
            KeyMatch::OfAny,
            "the repository may be `demo` or `demo-a`"
        );
        assert_eq!(
            found("x/{repository}/{branch}", "y/demo/a"),
            KeyMatch::Foreign
        );
        let own = "{account}/{region}/{repository}/{branch}.zip";
        assert_eq!(found(own, "111122223333/eu-west-1/demo/a.zip"), demo);
        assert_eq!(
            found(own, "111122223333/us-east-1/demo/a.zip"),
            KeyMatch::Foreign
        );
        assert_eq!(found("all/{branch}.zip", "all/a.zip"), KeyMatch::OfAny);
        assert_eq!(found("all/{branch}.zip", "some/a.zip"), KeyMatch::Foreign);
    }

    #[test]
    fn own_keys_are_below_the_name_of_their_repository() {
        for (template, is_below) in [
            ("{repository}/{branch}.zip", true),
            ("demo/x.zip", true),
            ("demo-2/x.zip", false),
            ("demo", false),
            ("prod/{branch}.zip", false),
            ("{branch}/{repository}/x.zip", false),
        ] {
            let template = KeyTemplate::object_key(template).expect("it is valid");
            assert_eq!(template.is_below(&repository()), is_below, "{template:?}");
        }
    }
}
