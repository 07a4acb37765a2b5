//! The functions of a deployed stack: their settings, and contexts in which their decisions are
//! made at a terminal.
//!
//! | module | job |
//! |---|---|
//! | `find` | finds the functions among those of the account |
//! | `start` | `branchline start` |
//! | `triggers` | `branchline triggers` |

mod find;
pub(crate) mod start;
pub(crate) mod triggers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use branchline_core::arn::ArnParts;
use branchline_core::aws::Aws;
use branchline_core::codecommit::client::SdkCodeCommit;
use branchline_core::codecommit::{CodeCommit, all_repositories};
use branchline_core::function::client::SdkFunctions;
use branchline_core::function::{DeployedFunction, FunctionArn, all_functions};
use branchline_core::kms::KeyPolicies;
use branchline_core::kms::client::SdkKeyPolicies;
use branchline_core::lambda::FunctionContext as _;
use branchline_core::name::RepositoryName;
use branchline_core::pattern::RepositoryPatterns;
use branchline_core::pipeline::Pipelines;
use branchline_core::pipeline::client::SdkPipelines;
use branchline_core::retry::{RetryPolicy, Retrying};
use branchline_core::settings::Settings;
use branchline_core::storage::ObjectStore;
use branchline_core::storage::client::SdkObjectStore;
use branchline_core::trigger::Policy;
use branchline_core::{Error, ErrorKind, Result};
use clap::Args;

use self::find::StackFunctions;
use crate::invocation::Invocation;
use crate::remotes::TerminalRemotes;

/// Maximum number of concurrent requests to each service.
const CONCURRENT_REQUESTS: usize = 16;

/// Time in which the state of one repository is read.
const READ_LIMIT: Duration = Duration::from_mins(15);

/// The settings that suffice to know a stack without its functions.
const ENOUGH_SETTINGS: [&str; 2] = ["ARTIFACT_BUCKET", "UPDATE_FUNCTION_ARN"];

/// Arguments that choose a stack.
#[derive(Debug, Clone, Args)]
pub(crate) struct StackArgs {
    /// Name of the stack, or of one of its functions; by default the only stack of the region.
    #[arg(long, value_name = "NAME")]
    pub(crate) stack: Option<String>,
    #[command(flatten)]
    pub(crate) account: AccountArgs,
}

/// Arguments that choose account, region and settings.
#[derive(Debug, Clone, Args)]
pub(crate) struct AccountArgs {
    /// Profile of AWS; that of the environment by default.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Region; that of the profile or environment by default.
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// Setting of the functions in place of the deployed one; may be repeated. With
    /// `ARTIFACT_BUCKET` and `UPDATE_FUNCTION_ARN`, no stack is needed.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A deployed stack, or settings in its place.
pub(crate) struct Stack {
    aws: Aws,
    functions: StackFunctions,
    overrides: BTreeMap<String, String>,
    /// All functions of the region; `None` if they were not listed.
    deployed: Option<Vec<DeployedFunction>>,
}

impl Stack {
    /// Finds the stack that the arguments name.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Config` if there are several and none is named.
    pub(crate) async fn open(
        remotes: &TerminalRemotes,
        name: Option<&str>,
        account: &AccountArgs,
    ) -> Result<Self> {
        let (profile, region) = (account.profile.as_deref(), account.region.as_deref());
        let aws = remotes.aws(profile, region).await?;
        let overrides: BTreeMap<_, _> = account.settings.iter().cloned().collect();
        let is_enough = ENOUGH_SETTINGS
            .iter()
            .all(|name| overrides.contains_key(*name));
        if is_enough && name.is_none() {
            return Ok(Self {
                aws,
                functions: StackFunctions::default(),
                overrides,
                deployed: None,
            });
        }
        let inventory = Retrying::new(SdkFunctions::new(&aws), policy());
        let deployed = all_functions(&inventory).await?;
        let functions = find::find(&inventory, &deployed, name, aws.region()).await?;
        Ok(Self {
            aws,
            functions,
            overrides,
            deployed: Some(deployed),
        })
    }

    /// Returns the name of the stack; `None` for settings in place of one.
    pub(crate) fn name(&self) -> Option<&str> {
        self.functions.name()
    }

    /// Returns the configuration of AWS.
    fn aws(&self) -> &Aws {
        &self.aws
    }

    /// Returns the region.
    pub(crate) fn region(&self) -> &str {
        self.aws.region()
    }

    /// Returns the function `update`, if it is deployed.
    pub(crate) fn update_function(&self) -> Option<&DeployedFunction> {
        self.functions.update.as_ref()
    }

    /// Returns true unless `arn` is of a function in this account and region that is not deployed.
    pub(crate) fn may_exist(&self, arn: &str) -> bool {
        let (Some(deployed), Ok(arn)) = (&self.deployed, FunctionArn::new(arn)) else {
            return true;
        };
        let Some(own) = deployed.first().map(|function| &function.arn) else {
            return false;
        };
        let is_here = arn.account() == own.account() && arn.region() == own.region();
        !is_here
            || deployed
                .iter()
                .any(|function| function.arn.is_same_function(arn.as_str()))
    }

    /// Returns the settings of a function, with those of the arguments in their place.
    fn settings(&self, function: Option<&DeployedFunction>) -> BTreeMap<String, String> {
        let mut settings = function.map_or_else(
            || BTreeMap::from([("AWS_REGION".to_owned(), self.region().to_owned())]),
            |function| function.environment.clone(),
        );
        settings.extend(self.overrides.clone());
        settings
    }

    /// Returns the settings of `lifecycle`.
    fn lifecycle_settings(&self) -> Settings {
        let mut settings = self.settings(self.functions.lifecycle.as_ref());
        if let Some(update) = &self.functions.update {
            let arn = || update.arn.as_str().to_owned();
            settings
                .entry("UPDATE_FUNCTION_ARN".to_owned())
                .or_insert_with(arn);
        }
        settings.into_iter().collect()
    }

    /// Returns the ARN of `update`, which triggers call.
    fn update_arn(&self) -> Result<FunctionArn> {
        Ok(self.policy()?.destination)
    }

    /// Returns the policy by which `lifecycle` makes triggers.
    pub(crate) fn policy(&self) -> Result<Policy> {
        let read = Policy::read(&self.lifecycle_settings());
        read.map_err(|error| of_function(error, self.functions.lifecycle.as_ref(), "lifecycle"))
    }

    /// Returns the settings of `update`.
    pub(crate) fn update_config(&self) -> Result<branchline_update::Config> {
        let settings = self.settings(self.functions.update.as_ref());
        let read = branchline_update::Config::read(&settings.into_iter().collect());
        read.map_err(|error| of_function(error, self.functions.update.as_ref(), "update"))
    }

    /// Makes a context of `update` with the credentials of the terminal.
    pub(crate) fn update_context(&self) -> Result<branchline_update::Context> {
        let context = branchline_update::Context::new(
            self.update_config()?,
            self.codecommit(),
            self.store(),
            self.pipelines(),
        );
        context.record_function(&self.update_arn()?);
        Ok(context)
    }

    /// Makes a context of `lifecycle` with the credentials of the terminal.
    fn lifecycle_context(&self) -> Result<branchline_lifecycle::Context> {
        let config = branchline_lifecycle::Config::read(&self.lifecycle_settings());
        let config = config
            .map_err(|error| of_function(error, self.functions.lifecycle.as_ref(), "lifecycle"))?;
        config.check_region(self.region())?;
        let functions = Retrying::new(SdkFunctions::new(&self.aws), policy());
        let functions = Arc::new(functions);
        Ok(branchline_lifecycle::Context::new(
            config,
            self.codecommit(),
            functions,
        ))
    }

    /// Makes a client of CodeCommit.
    pub(crate) fn codecommit(&self) -> Arc<dyn CodeCommit> {
        Arc::new(Retrying::new(SdkCodeCommit::new(&self.aws), policy()))
    }

    /// Makes a client of S3.
    pub(crate) fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::new(Retrying::new(SdkObjectStore::new(&self.aws), policy()))
    }

    /// Makes a client of CodePipeline.
    pub(crate) fn pipelines(&self) -> Arc<dyn Pipelines> {
        Arc::new(Retrying::new(SdkPipelines::new(&self.aws), policy()))
    }

    /// Makes a client of KMS.
    pub(crate) fn key_policies(&self) -> impl KeyPolicies {
        SdkKeyPolicies::new(&self.aws)
    }

    /// Returns the named repositories; without names those that `patterns` select.
    pub(crate) async fn repositories(
        &self,
        names: &[String],
        patterns: &RepositoryPatterns,
    ) -> Result<Vec<RepositoryName>> {
        if !names.is_empty() {
            return names.iter().map(|name| RepositoryName::new(name)).collect();
        }
        let mut all = all_repositories(&*self.codecommit()).await?;
        all.retain(|name| patterns.matches(name));
        Ok(all)
    }
}

/// Returns the time until which the state of one repository is read.
pub(crate) fn deadline() -> Instant {
    Instant::now() + READ_LIMIT
}

fn policy() -> RetryPolicy {
    RetryPolicy::new(CONCURRENT_REQUESTS)
}

/// Says that a setting which is not valid is that of a function.
fn of_function(error: Error, function: Option<&DeployedFunction>, name: &str) -> Error {
    match function {
        Some(function) => error.context(format!("settings of function `{}`", function.name)),
        None => error.context(format!("settings of `{name}`")),
    }
}

/// Returns the last part of an ARN's resource, such as the name of a function.
pub(crate) fn name_in_arn(arn: &str) -> &str {
    let resource = ArnParts::split(arn).map_or(arn, |parts| parts.resource);
    resource.rsplit([':', '/']).next().unwrap_or(resource)
}

/// Opens the stack that the arguments choose.
pub(crate) async fn open(invocation: &Invocation, args: &StackArgs) -> Result<Stack> {
    let remotes = TerminalRemotes::new(invocation)?;
    let opened = Stack::open(&remotes, args.stack.as_deref(), &args.account).await;
    explained(opened, &args.account).await
}

/// Explains a failure about credentials.
pub(crate) async fn explained<T>(result: Result<T>, account: &AccountArgs) -> Result<T> {
    match result {
        Ok(value) => Ok(value),
        Err(error) => Err(crate::failure::explain(error, account.profile.as_deref()).await),
    }
}

/// Returns the error for a stack that is not there.
fn not_found(message: String) -> Error {
    Error::new(ErrorKind::NotFound, message).with_hint(
        "name the region by `--region`, the stack by `--stack`, or its settings by `--env \
         ARTIFACT_BUCKET=..` and `--env UPDATE_FUNCTION_ARN=..`",
    )
}
