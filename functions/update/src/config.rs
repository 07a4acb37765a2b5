//! The settings of the `update` function, read once at init.

use branchline_core::aws::HttpSettings;
use branchline_core::name::{
    BranchName, BucketName, CommitId, KmsKey, ObjectKey, PipelineName, RepositoryName,
};
use branchline_core::pattern::{BranchPatterns, RepositoryPatterns};
use branchline_core::settings::Settings;
use branchline_core::storage::Encryption;
use branchline_core::{Error, ErrorKind, Result};

/// Default of `CODECOMMIT_CONCURRENCY`.
const DEFAULT_CONCURRENCY: u32 = 32;

/// Settings of the update function.
#[derive(Debug, Clone)]
pub struct Config {
    /// `BRANCHES_INCLUDE`, `BRANCHES_EXCLUDE`: the branches to archive.
    pub branches: BranchPatterns,
    /// `REPOSITORIES`: the repositories that a schedule covers.
    pub repositories: RepositoryPatterns,
    /// `ARTIFACT_BUCKET`: the bucket of the artifacts.
    pub bucket: BucketName,
    /// `ARTIFACT_KEY`: the keys of the artifacts.
    pub key: KeyTemplate,
    /// `ARCHIVE_PREFIX`: as `git archive --prefix`.
    pub prefix: String,
    /// `ARCHIVE_COMMIT_INFO`: whether `commit_info.json` is added.
    pub commit_info: bool,
    /// `PIPELINE_NAME`: the pipeline to start; `None` starts nothing.
    pub pipeline: Option<KeyTemplate>,
    /// `PIPELINE_SOURCE_ACTION`: the action that is pinned.
    pub source_action: String,
    /// `PIPELINE_PIN`: the revision that the action is pinned to; `None` depends on the key.
    pub pin: Option<RevisionPin>,
    /// `PIPELINE_VARIABLES`: whether `REPOSITORY_NAME`, `BRANCH_NAME` and `COMMIT_ID` are passed.
    pub variables: bool,
    /// `DELETE_ARTIFACTS`: whether the schedule marks artifacts of missing branches deleted.
    pub delete_artifacts: bool,
    /// `KMS_KEY_ID`: the key that encrypts artifacts.
    pub kms_key_id: Option<String>,
    /// `SSE` and `KMS_KEY_ID`: encryption of all objects.
    pub encryption: Encryption,
    /// `CODECOMMIT_CONCURRENCY`: maximum number of concurrent requests to CodeCommit.
    pub concurrency: u32,
    /// The function's memory, in bytes.
    pub function_memory: usize,
    /// The proxies of the environment, for git.
    pub http: HttpSettings,
}

/// Revision that a pipeline's source action is pinned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevisionPin {
    /// The object's key and version.
    KeyAndVersion,
    /// The object's version; the configuration of the action names the key.
    Version,
    /// Nothing: the action reads the newest version.
    None,
}

impl Config {
    /// Reads the environment variables of `settings`; an error names its variable.
    pub fn read(settings: &Settings) -> Result<Self> {
        let key = settings.optional("ARTIFACT_KEY", KeyTemplate::object_key)?;
        let kms_key_id = settings.optional("KMS_KEY_ID", |key| {
            let key = KmsKey::new(key)?.check_region(settings.function_region())?;
            Ok(key.to_string())
        })?;
        let config = Self {
            branches: BranchPatterns::read(settings)?,
            repositories: settings
                .optional("REPOSITORIES", RepositoryPatterns::new)?
                .unwrap_or_default(),
            bucket: settings.required(
                "ARTIFACT_BUCKET",
                "the name of a versioned S3 bucket",
                BucketName::new,
            )?,
            key: key.unwrap_or_else(KeyTemplate::default_key),
            prefix: settings
                .optional("ARCHIVE_PREFIX", |prefix| {
                    archive_prefix(prefix).map(str::to_owned)
                })?
                .unwrap_or_default(),
            commit_info: settings.flag("ARCHIVE_COMMIT_INFO", false)?,
            pipeline: settings.optional("PIPELINE_NAME", KeyTemplate::parse_pipeline_name)?,
            source_action: settings
                .optional("PIPELINE_SOURCE_ACTION", |name| {
                    action_name(name).map(str::to_owned)
                })?
                .unwrap_or_else(|| "Source".to_owned()),
            pin: settings.optional("PIPELINE_PIN", RevisionPin::new)?,
            variables: settings.flag("PIPELINE_VARIABLES", false)?,
            delete_artifacts: settings.flag("DELETE_ARTIFACTS", false)?,
            encryption: Encryption::new(settings.get("SSE"), kms_key_id.clone())?,
            kms_key_id,
            concurrency: settings.number(
                "CODECOMMIT_CONCURRENCY",
                DEFAULT_CONCURRENCY,
                1..=1000,
            )?,
            function_memory: settings.function_memory_mib()? as usize * 1024 * 1024,
            http: HttpSettings::read(settings),
        };
        config.check()?;
        Ok(config)
    }

    /// Rejects contradictory settings.
    fn check(&self) -> Result<()> {
        if self.delete_artifacts && !self.key.has_branch() {
            return Err(Error::new(
                ErrorKind::Config,
                "`DELETE_ARTIFACTS` is `true`, but `ARTIFACT_KEY` has no `{branch}`: the artifact of \
                 a missing branch cannot be distinguished from that of another",
            )
            .with_hint("put `{branch}` into `ARTIFACT_KEY`, or set `DELETE_ARTIFACTS` to `false`"));
        }
        if self.pipeline.is_some()
            && self.pin == Some(RevisionPin::Version)
            && self.key.has_commit()
        {
            return Err(Error::new(
                ErrorKind::Config,
                "`PIPELINE_PIN` is `version`, but `ARTIFACT_KEY` has `{commit}`: the key that the \
                 source action is configured with is never written to",
            )
            .with_hint(
                "set `PIPELINE_PIN` to `key-and-version`, or take `{commit}` out of `ARTIFACT_KEY`",
            ));
        }
        Ok(())
    }

    /// Returns the pin of the source action for artifacts at `key`.
    pub fn pin_for(&self, key: &KeyTemplate) -> RevisionPin {
        self.pin.unwrap_or(if key.has_placeholders() {
            RevisionPin::KeyAndVersion
        } else {
            RevisionPin::Version
        })
    }
}

impl RevisionPin {
    fn new(text: &str) -> Result<Self> {
        match text {
            "key-and-version" => Ok(Self::KeyAndVersion),
            "version" => Ok(Self::Version),
            "none" => Ok(Self::None),
            other => Err(Error::new(
                ErrorKind::Config,
                format!(
                    "`{}` is not `key-and-version`, `version` or `none`",
                    other.escape_debug()
                ),
            )),
        }
    }
}

/// A text with the placeholders `{repository}`, `{branch}` and `{commit}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTemplate(String);

const PLACEHOLDERS: [&str; 3] = ["{repository}", "{branch}", "{commit}"];

impl KeyTemplate {
    /// Parses the template of an object's key.
    pub fn object_key(text: &str) -> Result<Self> {
        let template = Self::new(text)?;
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
        let template = Self::new(text)?;
        template.sample(|filled| PipelineName::new(filled).map(drop))?;
        Ok(template)
    }

    fn default_key() -> Self {
        Self("{repository}/{branch}.zip".to_owned())
    }

    fn new(text: &str) -> Result<Self> {
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let Some(known) = PLACEHOLDERS
                .iter()
                .find(|known| rest[at..].starts_with(**known))
            else {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!(
                        "`{}` has a placeholder other than `{{repository}}`, `{{branch}}` and `{{commit}}`",
                        text.escape_debug()
                    ),
                ));
            };
            rest = &rest[at + known.len()..];
        }
        Ok(Self(text.to_owned()))
    }

    /// Checks the template with short values.
    fn sample(&self, check: impl FnOnce(&str) -> Result<()>) -> Result<()> {
        check(&self.fill("r", "b", "c"))
    }

    fn fill(&self, repository: &str, branch: &str, commit: &str) -> String {
        // Last the branch, because of all values only a branch's name can contain a brace.
        self.0
            .replace("{repository}", repository)
            .replace("{commit}", commit)
            .replace("{branch}", branch)
    }

    fn has(&self, placeholder: &str) -> bool {
        self.0.contains(placeholder)
    }

    /// Returns true when keys depend on the commit.
    pub fn has_commit(&self) -> bool {
        self.has("{commit}")
    }

    /// Returns true when keys depend on the branch.
    pub fn has_branch(&self) -> bool {
        self.has("{branch}")
    }

    /// Returns true when there is a placeholder.
    pub fn has_placeholders(&self) -> bool {
        PLACEHOLDERS.iter().any(|placeholder| self.has(placeholder))
    }

    /// Returns the text before the first placeholder.
    pub fn literal_start(&self) -> &str {
        self.0.split('{').next().unwrap_or_default()
    }

    /// Returns the key for `commit` of `branch`.
    pub fn key_of(
        &self,
        repository: &RepositoryName,
        branch: &BranchName,
        commit: Option<CommitId>,
    ) -> Result<ObjectKey> {
        let commit = commit.map(|id| id.to_string()).unwrap_or_default();
        let key = self.fill(repository.as_str(), branch.as_str(), &commit);
        ObjectKey::new(&key).map_err(|error| {
            Error::new(
                ErrorKind::Config,
                format!("`ARTIFACT_KEY` for branch `{branch}`: {error}"),
            )
        })
    }

    /// Returns the key for any commit of `branch`, with `{commit}` in place of the id.
    pub fn pattern_of(&self, repository: &RepositoryName, branch: &BranchName) -> String {
        self.fill(repository.as_str(), branch.as_str(), "{commit}")
    }

    /// Returns the pipeline for `commit` of `branch`. Characters of a branch's name that a
    /// pipeline's name cannot contain, such as `/`, become `-`.
    pub fn pipeline_name(
        &self,
        repository: &RepositoryName,
        branch: &BranchName,
        commit: CommitId,
    ) -> Result<PipelineName> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '@' | '_' | '-');
        let branch_part = branch.as_str().replace(|c| !legal(c), "-");
        let name = self.fill(repository.as_str(), &branch_part, &commit.to_string());
        PipelineName::new(&name).map_err(|error| {
            Error::new(
                ErrorKind::Config,
                format!("`PIPELINE_NAME` for branch `{branch}`: {error}"),
            )
        })
    }
}

/// Checks a prefix of entry names, so that an archive unpacks inside the target folder.
fn archive_prefix(text: &str) -> Result<&str> {
    let escapes = text.starts_with('/')
        || text.contains('\\')
        || text.chars().any(char::is_control)
        || text.split('/').any(|part| matches!(part, "." | ".."));
    if escapes || text.len() > 1024 {
        return Err(Error::new(
            ErrorKind::Config,
            format!("`{}` must be a relative path", text.escape_debug()),
        ));
    }
    Ok(text)
}

/// Checks an action's name: 1 to 100 of `[A-Za-z0-9.@_-]`, as for a pipeline.
fn action_name(text: &str) -> Result<&str> {
    PipelineName::new(text).map(|_| text).map_err(|_| {
        Error::new(
            ErrorKind::Config,
            format!(
                "`{}` must be an action name: 1 to 100 letters, digits, `.`, `@`, `_` and `-`",
                text.chars().take(80).collect::<String>().escape_debug()
            ),
        )
    })
}
