//! A development server with the real functions on it, set up the way that the product is
//! used: a versioned bucket, a pipeline that reads it, and repositories whose triggers the
//! lifecycle function keeps.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use branchline_core::codecommit::Trigger;
use branchline_dev::account::Account;
use branchline_dev::aws_json::ApiError;
use branchline_dev::codecommit::Limits;
use branchline_dev::delivery::EventRule;
use branchline_dev::faults::{Rule, Service};
use branchline_dev::lambda::{FunctionConfig, FunctionRef, Invoked, Outcome};
use branchline_dev::pipeline::Execution;
use branchline_dev::s3::store::{PublicAccess, Versioning};
use branchline_dev::server::{Options, Server};
use branchline_dev::whole_flow;
use serde_json::{Value, json};

use branchline_test_support::git;

/// The bucket that artifacts go to.
pub const BUCKET: &str = "artifacts";
/// The pipeline that is started.
pub const PIPELINE: &str = "deploy";
/// The name of the function that archives.
pub const UPDATE: &str = "update";
/// The name of the function that keeps triggers.
pub const LIFECYCLE: &str = "lifecycle";
/// The name of the function that mirrors.
pub const MIGRATION: &str = "migration";

/// Differences of an environment from the default one.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Further environment variables of the update function, or other values.
    pub update: Vec<(&'static str, String)>,
    /// Further environment variables of the lifecycle function, or other values.
    pub lifecycle: Vec<(&'static str, String)>,
    /// The migration function's environment variables; without it when `None`.
    pub migration: Option<Vec<(&'static str, String)>>,
    /// Memory size of the update function, in MiB; 512 when `None`.
    pub update_memory_mib: Option<u32>,
    /// Data folder of the server; a temporary folder when `None`.
    pub data: Option<PathBuf>,
    /// Faults from the start.
    pub faults: Vec<Rule>,
    /// Longest run of an invocation.
    pub timeout: Duration,
    /// Factor of the delays between retries of asynchronous invocations.
    pub retry_delay_scale: f64,
    /// The folder with the bootstraps.
    pub bootstraps: PathBuf,
    /// Rules of EventBridge.
    pub event_rules: Vec<EventRule>,
    /// Further functions.
    pub functions: Vec<FunctionConfig>,
    /// CodeCommit's quotas and page sizes.
    pub codecommit_limits: Limits,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            update: Vec::new(),
            lifecycle: Vec::new(),
            migration: None,
            update_memory_mib: None,
            data: None,
            faults: Vec::new(),
            timeout: Duration::from_mins(1),
            retry_delay_scale: 0.001,
            bootstraps: built_programs(),
            event_rules: vec![EventRule {
                function: LIFECYCLE.to_owned(),
                events: ["referenceCreated", "referenceDeleted"]
                    .map(str::to_owned)
                    .into(),
            }],
            functions: Vec::new(),
            codecommit_limits: Limits::default(),
        }
    }
}

impl Setup {
    fn function(
        &self,
        name: &str,
        defaults: &[(&str, String)],
        variables: &[(&str, String)],
    ) -> Result<FunctionConfig> {
        let bootstrap = self.bootstraps.join(name);
        if !bootstrap.is_file() {
            bail!(
                "{} is missing; run `cargo build --workspace --bins`",
                bootstrap.display()
            );
        }
        let mut function = FunctionConfig::new(name, bootstrap);
        function.timeout = self.timeout;
        function.stack = Some(whole_flow::STACK.to_owned());
        // Of two values for one name the later one wins.
        let all = defaults.iter().chain(variables);
        function.environment = all
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        Ok(function)
    }
}

/// The folder that cargo puts programs into: above that of this very program.
pub fn built_programs() -> PathBuf {
    let own = std::env::current_exe().expect("because the system knows this program's path");
    let folder = own.parent().expect("because a program is in a folder");
    if folder.ends_with("deps") {
        return folder
            .parent()
            .expect("because `deps` is in a folder")
            .to_owned();
    }
    folder.to_owned()
}

/// A running development server, ready for pushes.
pub struct TestEnvironment {
    /// The server.
    pub server: Server,
    programs: PathBuf,
    calls: AtomicU64,
}

impl TestEnvironment {
    /// Starts the server with the functions, the bucket and the pipeline.
    pub async fn start(setup: Setup) -> Result<Self> {
        let options = Options {
            data: setup.data.clone(),
            faults: setup.faults.clone(),
            retry_delay_scale: setup.retry_delay_scale,
            codecommit_limits: setup.codecommit_limits,
            event_rules: setup.event_rules.clone(),
            ..Options::default()
        };
        let account = Account::new(&options.account_id, &options.region);
        let defaults = [
            ("ARTIFACT_BUCKET", BUCKET.to_owned()),
            ("PIPELINE_NAME", PIPELINE.to_owned()),
            // Tests commit at fixed times, so that all of their branches are older than the stack.
            ("EXISTING_BRANCHES", "start".to_owned()),
        ];
        let mut update = setup.function(UPDATE, &defaults, &setup.update)?;
        update.memory_mb = setup.update_memory_mib.unwrap_or(update.memory_mb);
        let defaults = [("UPDATE_FUNCTION_ARN", account.function_arn(UPDATE))];
        let mut lifecycle = setup.function(LIFECYCLE, &defaults, &setup.lifecycle)?;
        // Because two writers of one repository's triggers would overwrite each other.
        lifecycle.reserved_concurrency = Some(1);
        let mut functions = vec![update, lifecycle];
        if let Some(variables) = &setup.migration {
            functions.push(setup.function(MIGRATION, &[], variables)?);
        }
        let server = Server::start(Options {
            functions: [functions, setup.functions].concat(),
            ..options
        })
        .await?;
        let stage = Self {
            server,
            programs: built_programs(),
            calls: AtomicU64::new(0),
        };
        stage.prepare()?;
        Ok(stage)
    }

    fn prepare(&self) -> Result<()> {
        if self.server.store().bucket(BUCKET).is_err() {
            let region = &self.server.account().region;
            let bucket = self
                .server
                .store()
                .create_bucket(BUCKET, region)
                .map_err(explain)?;
            bucket
                .set_versioning(Versioning::Enabled)
                .map_err(explain)?;
        }
        let known = |pipeline: &Value| pipeline["name"] == PIPELINE;
        let list = self.pipelines("ListPipelines", &json!({}))?;
        if !list["pipelines"]
            .as_array()
            .is_some_and(|list| list.iter().any(known))
        {
            self.pipelines(
                "CreatePipeline",
                &pipeline(PIPELINE, "key/of/no/object.zip"),
            )?;
        }
        Ok(())
    }

    /// Calls an operation of CodePipeline.
    pub fn pipelines(&self, operation: &str, input: &Value) -> Result<Value> {
        let principal = &self.server.credentials().principal_arn;
        self.server
            .pipelines()
            .call(operation, input, principal)
            .map_err(api_error)
    }

    /// Calls an operation of CodeCommit.
    pub async fn codecommit(&self, operation: &str, input: Value) -> Result<Value> {
        let principal = &self.server.credentials().principal_arn;
        self.server
            .codecommit()
            .call(operation, input, principal)
            .await
            .map_err(api_error)
    }

    /// Creates a repository, whose triggers `lifecycle` will create.
    pub async fn create_repository(&self, name: &str) -> Result<()> {
        let input = json!({ "repositoryName": name });
        self.codecommit("CreateRepository", input).await.map(drop)
    }

    /// The triggers of a repository.
    pub fn triggers(&self, name: &str) -> Vec<Trigger> {
        let set = self.server.codecommit().triggers(name);
        set.map(|set| set.triggers).unwrap_or_default()
    }

    /// Every ref of a repository with its id, as git prints them.
    pub fn refs(&self, name: &str) -> Result<String> {
        let folder = self.server.codecommit().repository_dir(name);
        let folder = folder.ok_or_else(|| anyhow!("there is no repository `{name}`"))?;
        git::git(
            &folder,
            ["for-each-ref", "--format=%(objectname) %(refname)"],
        )
    }

    /// The URL that git reaches a repository by.
    pub fn clone_url(&self, name: &str) -> String {
        self.server.codecommit().clone_url(name)
    }

    /// A git command that can sign in to the server, as a user sets it up.
    pub fn git(&self, folder: &Path) -> Command {
        let mut command = git::command(folder);
        self.sign_in(&mut command);
        command
    }

    /// Returns a command that runs `branchline` in a folder, with the server's credentials.
    pub fn branchline(&self, home: &Path) -> Command {
        let mut command = Command::new(self.programs.join("branchline"));
        git::make_hermetic(&mut command, home);
        command.current_dir(home);
        self.sign_in(&mut command);
        command
    }

    /// Gives a command the server's credentials, for AWS clients and for git.
    pub fn sign_in(&self, command: &mut Command) {
        let credentials = self.server.credentials();
        let helper = self.programs.join("branchline-dev");
        command
            .env("AWS_ENDPOINT_URL", self.server.endpoint())
            .env("AWS_REGION", &self.server.account().region)
            .env("AWS_DEFAULT_REGION", &self.server.account().region)
            .env("AWS_ACCESS_KEY_ID", &credentials.access_key_id)
            .env("AWS_SECRET_ACCESS_KEY", &credentials.secret_access_key)
            .env_remove("AWS_SESSION_TOKEN")
            .env_remove("AWS_PROFILE")
            .env("GIT_CONFIG_COUNT", "2")
            .env("GIT_CONFIG_KEY_0", "credential.helper")
            .env(
                "GIT_CONFIG_VALUE_0",
                format!("!'{}' credential-helper", helper.display()),
            )
            .env("GIT_CONFIG_KEY_1", "credential.UseHttpPath")
            .env("GIT_CONFIG_VALUE_1", "true");
    }

    /// Pushes to a repository of the server.
    pub async fn push(&self, folder: &Path, name: &str, refspecs: &[&str]) -> Result<()> {
        let mut command = self.git(folder);
        command
            .args(["push", "--quiet", &self.clone_url(name)])
            .args(refspecs);
        // The server runs on this very runtime.
        tokio::task::spawn_blocking(move || git::run(&mut command))
            .await?
            .map(drop)
    }

    /// Calls the update function by hand and waits for its answer.
    pub async fn update(&self, event: &Value) -> Result<Value, Value> {
        self.call(UPDATE, event).await
    }

    /// Calls a function by hand and waits for its answer, or its error.
    pub async fn call(&self, function: &str, event: &Value) -> Result<Value, Value> {
        let invoked = self
            .invoke(function, event)
            .await
            .map_err(|error| json!(error.to_string()))?;
        let read = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or_default();
        match invoked.outcome {
            Outcome::Answer(answer) => Ok(read(&answer)),
            Outcome::Failed(failure) => Err(read(&failure.payload)),
        }
    }

    /// Calls a function by hand and waits for the record of its run.
    pub async fn invoke(&self, function: &str, event: &Value) -> Result<Invoked> {
        let function = FunctionRef {
            name: function.to_owned(),
            qualifier: None,
        };
        let payload = event.to_string().into_bytes().into();
        let id = format!("by-hand-{}", self.calls.fetch_add(1, Ordering::Relaxed));
        let invoked = self.server.lambda().invoke(&function, payload, id).await;
        invoked.map_err(|error| anyhow!("{error:?}"))
    }

    /// Waits until no event and no execution is pending.
    pub async fn wait_until_idle(&self) -> Result<()> {
        if !self.server.wait_until_idle(Duration::from_mins(2)).await {
            bail!("events or executions are still under way after two minutes");
        }
        Ok(())
    }

    /// Makes a bucket that everyone may read, for stock git to clone from.
    pub fn create_public_bucket(&self, name: &str) -> Result<()> {
        let store = self.server.store();
        let region = &self.server.account().region;
        store.create_bucket(name, region).map_err(explain)?;
        store.set_public_access(name, PublicAccess::ReadAndList);
        Ok(())
    }

    /// The requests of a function to a service so far.
    pub fn requests_of(&self, function: &str, service: Service) -> u64 {
        let principal = self.server.lambda().principal_of(function);
        let lines = self.server.requests().lines();
        let own = lines
            .iter()
            .filter(|line| line.service == service && line.principal == principal);
        own.map(|line| line.count).sum()
    }

    /// The executions so far, oldest first.
    pub fn executions(&self) -> Vec<Execution> {
        let mut executions = self.server.pipelines().executions();
        executions.sort_by(|one, other| one.started.total_cmp(&other.started));
        executions
    }

    /// The bytes that an execution's source action read.
    pub fn source_of(&self, execution: &Execution) -> Result<Vec<u8>> {
        let [source] = execution.sources.as_slice() else {
            bail!(
                "execution {} has read no source: {:?}",
                execution.id,
                execution.status_summary
            );
        };
        let (_, bytes) = self
            .server
            .store()
            .get_bytes(&source.bucket, &source.key, source.version_id.as_deref())
            .map_err(explain)?;
        Ok(bytes.to_vec())
    }
}

/// A pipeline of type V2 that reads one object, pinned when the execution is started.
pub fn pipeline(name: &str, key: &str) -> Value {
    let role = "arn:aws:iam::123456789012:role/pipeline";
    let mut input = whole_flow::pipeline(name, BUCKET, role);
    input["pipeline"]["stages"][0]["actions"][0]["configuration"]["S3ObjectKey"] = key.into();
    input
}

fn api_error(ApiError { code, message, .. }: ApiError) -> anyhow::Error {
    anyhow!("{code}: {message}")
}

fn explain(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}
