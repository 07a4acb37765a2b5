//! The settings of the `update` function, read once at init.

use branchline_core::archive::ReadMethod;
use branchline_core::aws::HttpSettings;
use branchline_core::event_bus::BusName;
use branchline_core::git::escaped_excerpt;
use branchline_core::name::{BucketName, KmsKey, PipelineName};
use branchline_core::pattern::{BranchPatterns, RepositoryPatterns};
use branchline_core::settings::Settings;
use branchline_core::storage::Encryption;
use branchline_core::{Error, ErrorKind, Result};

use crate::filters::PipelineFilters;
use crate::key_template::KeyTemplate;
use crate::lfs::LfsLocation;
use crate::variable::PipelineVariable;

/// Minimum of the function's memory, in MiB: 64 for the program and what it always holds, three
/// times the largest file of CodeCommit's API, and half of the memory for reading by git.
const MIN_FUNCTION_MEMORY_MIB: u32 = 192;

/// Default of `CODECOMMIT_CONCURRENCY`.
const DEFAULT_CONCURRENCY: u32 = 32;

/// Parts of a result that go back to the pull request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResultSettings {
    /// `PULL_REQUEST_COMMENT`: whether a comment says how the pipeline ended.
    pub comment: bool,
    /// `PULL_REQUEST_APPROVAL`: whether success approves, and failure revokes the approval.
    pub approval: bool,
}

impl ResultSettings {
    /// Returns whether nothing goes back.
    pub(crate) fn is_off(self) -> bool {
        !self.comment && !self.approval
    }
}

/// Settings of the update function.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a setting of its own"
)]
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
    /// `ARCHIVE_EXPORT_IGNORE`: whether `export-ignore` is respected.
    pub export_ignore: bool,
    /// `ARCHIVE_LFS`: the objects that replace pointers of git LFS; `None` archives the pointers.
    pub lfs: Option<LfsLocation>,
    /// `ARCHIVE_SUBMODULES`: whether the content of submodules is archived.
    pub submodules: bool,
    /// `ARCHIVE_SOURCE`: the way to read a commit that is archived in full.
    pub read_method: ReadMethod,
    /// `PIPELINE_NAME`: the pipeline to start; `None` starts nothing.
    pub pipeline: Option<KeyTemplate>,
    /// `TRIGGERS`: the pipelines to start, chosen by filters.
    pub triggers: Option<PipelineFilters>,
    /// `PIPELINE_SOURCE`: the place that the source action reads.
    pub source: PipelineSource,
    /// `PIPELINE_SOURCE_ACTION`: the action that is pinned.
    pub source_action: String,
    /// `PIPELINE_PIN`: the revision that the action is pinned to; `None` depends on the key.
    pub pin: Option<RevisionPin>,
    /// `PIPELINE_VARIABLES`: the variables that are passed.
    pub variables: Vec<PipelineVariable>,
    /// `PIPELINE_MISSING`: the effect of a pipeline that does not exist.
    pub missing_pipeline: MissingPipeline,
    /// `CUSTOM_DATA`: the effect of the custom data of triggers.
    pub custom_data: CustomData,
    /// `EXISTING_BRANCHES`: the effect of branches that are older than the stack.
    pub existing_branches: ExistingBranches,
    /// `PULL_REQUEST_COMMENT`, `PULL_REQUEST_APPROVAL`: results on pull requests.
    pub results: ResultSettings,
    /// `EVENT_BUS_NAME`: the bus of the function's own events; `None` puts none.
    pub event_bus: Option<BusName>,
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
        settings.require_function_memory_mib(MIN_FUNCTION_MEMORY_MIB)?;
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
            export_ignore: settings.flag("ARCHIVE_EXPORT_IGNORE", true)?,
            lfs: settings.optional("ARCHIVE_LFS", LfsLocation::new)?,
            submodules: settings.flag("ARCHIVE_SUBMODULES", false)?,
            read_method: settings
                .optional("ARCHIVE_SOURCE", ReadMethod::new)?
                .unwrap_or_default(),
            pipeline: settings.optional("PIPELINE_NAME", KeyTemplate::parse_pipeline_name)?,
            triggers: settings.optional("TRIGGERS", PipelineFilters::parse)?,
            source: settings
                .optional("PIPELINE_SOURCE", PipelineSource::new)?
                .unwrap_or_default(),
            source_action: settings
                .optional("PIPELINE_SOURCE_ACTION", |name| {
                    action_name(name).map(str::to_owned)
                })?
                .unwrap_or_else(|| "Source".to_owned()),
            pin: settings.optional("PIPELINE_PIN", RevisionPin::new)?,
            variables: settings
                .optional("PIPELINE_VARIABLES", PipelineVariable::parse_list)?
                .unwrap_or_default(),
            missing_pipeline: settings
                .optional("PIPELINE_MISSING", MissingPipeline::new)?
                .unwrap_or_default(),
            custom_data: settings
                .optional("CUSTOM_DATA", CustomData::new)?
                .unwrap_or_default(),
            existing_branches: settings
                .optional("EXISTING_BRANCHES", ExistingBranches::new)?
                .unwrap_or_default(),
            results: ResultSettings {
                comment: settings.flag("PULL_REQUEST_COMMENT", false)?,
                approval: settings.flag("PULL_REQUEST_APPROVAL", false)?,
            },
            event_bus: settings.optional("EVENT_BUS_NAME", BusName::new)?,
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
        if self.source == PipelineSource::CodeCommit && self.pin.is_some() {
            return Err(Error::new(
                ErrorKind::Config,
                "`PIPELINE_PIN` is set, but `PIPELINE_SOURCE` is `codecommit`, whose revision is \
                 always the commit",
            )
            .with_hint("leave `PIPELINE_PIN` out, or set `PIPELINE_SOURCE` to `s3`"));
        }
        if self.delete_artifacts && !self.key.has_branch() {
            return Err(Error::new(
                ErrorKind::Config,
                "`DELETE_ARTIFACTS` is `true`, but `ARTIFACT_KEY` has no `{branch}`: the artifact of \
                 a missing branch cannot be distinguished from that of another",
            )
            .with_hint("put `{branch}` into `ARTIFACT_KEY`, or set `DELETE_ARTIFACTS` to `false`"));
        }
        if let Some(triggers) = &self.triggers {
            self.check_triggers(triggers)?;
        }
        if (self.pipeline.is_some() || self.triggers.is_some())
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

    fn check_triggers(&self, triggers: &PipelineFilters) -> Result<()> {
        if self.pipeline.is_some() {
            return Err(Error::new(
                ErrorKind::Config,
                "`TRIGGERS` and `PIPELINE_NAME` are both set, and each says which pipeline is started",
            )
            .with_hint("move the pipeline of `PIPELINE_NAME` into `TRIGGERS`, or leave one out"));
        }
        if triggers.any_file_paths() && self.key.has_commit() {
            return Err(Error::new(
                ErrorKind::Config,
                "`TRIGGERS` has `filePaths`, but `ARTIFACT_KEY` has `{commit}`: a push is compared \
                 with the commit of the branch's artifact, which then has no key of its own",
            )
            .with_hint(
                "take `{commit}` out of `ARTIFACT_KEY`; a pipeline is pinned to a version",
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

/// Place that a pipeline's source action reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PipelineSource {
    /// `s3`: the archive in S3.
    #[default]
    S3,
    /// `codecommit`: the commit in CodeCommit; a marker takes the place of the archive.
    CodeCommit,
}

impl PipelineSource {
    fn new(text: &str) -> Result<Self> {
        match text {
            "s3" => Ok(Self::S3),
            "codecommit" => Ok(Self::CodeCommit),
            other => Err(Error::new(
                ErrorKind::Config,
                format!("`{}` is not `s3` or `codecommit`", other.escape_debug()),
            )),
        }
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

/// Effect of the custom data of triggers, which everyone who may set a trigger can write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CustomData {
    /// `own`: they may choose keys in the folder of their repository, and nothing else.
    #[default]
    Own,
    /// `ignore`: they have no effect.
    Ignore,
    /// `trust`: they may choose bucket, key and pipeline.
    Trust,
}

impl CustomData {
    fn new(text: &str) -> Result<Self> {
        match text {
            "own" => Ok(Self::Own),
            "ignore" => Ok(Self::Ignore),
            "trust" => Ok(Self::Trust),
            other => Err(Error::new(
                ErrorKind::Config,
                format!(
                    "`{}` is not `own`, `ignore` or `trust`",
                    other.escape_debug()
                ),
            )),
        }
    }
}

/// Effect of a pipeline that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissingPipeline {
    /// `fail`: the branch fails.
    #[default]
    Fail,
    /// `skip`: the artifact is uploaded, and the next schedule tries again.
    Skip,
}

impl MissingPipeline {
    fn new(text: &str) -> Result<Self> {
        match text {
            "fail" => Ok(Self::Fail),
            "skip" => Ok(Self::Skip),
            other => Err(Error::new(
                ErrorKind::Config,
                format!("`{}` is not `fail` or `skip`", other.escape_debug()),
            )),
        }
    }
}

/// Effect of branches that are older than the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExistingBranches {
    /// `archive`: they are archived, and the first push to each starts its pipeline.
    #[default]
    Archive,
    /// `start`: they are like new branches.
    Start,
    /// `ignore`: the first push to each archives it.
    Ignore,
}

impl ExistingBranches {
    fn new(text: &str) -> Result<Self> {
        match text {
            "archive" => Ok(Self::Archive),
            "start" => Ok(Self::Start),
            "ignore" => Ok(Self::Ignore),
            other => Err(Error::new(
                ErrorKind::Config,
                format!(
                    "`{}` is not `archive`, `start` or `ignore`",
                    other.escape_debug()
                ),
            )),
        }
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
                escaped_excerpt(text.as_bytes())
            ),
        )
    })
}
