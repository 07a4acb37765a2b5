//! The execution environments of all functions: kept warm, started when busy, limited.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::environment::{Call, Environment, trace_of};
use super::function::{FunctionConfig, FunctionRef};
use super::{Invoked, Outcome};
use crate::account::{Account, Credentials};
use crate::faults::Faults;

/// Settings of the host.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// `AWS_ENDPOINT_URL` of the functions: the server's own URL.
    pub endpoint: String,
    /// Folder of the functions' output.
    pub data: PathBuf,
    /// Maximum number of environments of a function without reserved concurrency.
    pub unreserved_concurrency: u32,
    /// Injected faults, which are reported with the invocation that they hit.
    pub faults: Arc<Faults>,
}

/// Reason why an invocation did not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvokeError {
    /// The function does not exist.
    NotFound(String),
    /// All environments that the function may have are busy; `true`: because of a reserve.
    Throttled(bool),
    /// The host is shutting down.
    ShuttingDown,
}

/// A function, the credentials of its role, and its environments.
struct Function {
    config: FunctionConfig,
    credentials: Credentials,
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Environment>,
    busy: u32,
}

struct Inner {
    account: Account,
    options: HostOptions,
    functions: Mutex<BTreeMap<String, Arc<Function>>>,
    running: TaskTracker,
    stop: CancellationToken,
}

/// Runs functions.
#[derive(Clone)]
pub struct LambdaHost(Arc<Inner>);

/// Slot of a busy environment; freed on drop.
struct ConcurrencySlot(Arc<Function>);

impl Drop for ConcurrencySlot {
    fn drop(&mut self) {
        let mut pool = lock(&self.0.pool);
        pool.busy = pool.busy.saturating_sub(1);
    }
}

impl LambdaHost {
    /// Creates a host without functions.
    pub fn new(account: Account, options: HostOptions) -> std::io::Result<Self> {
        std::fs::create_dir_all(options.data.join("logs"))?;
        // Left by a server that was killed.
        let temporary = temporary(&options.data);
        if temporary.exists() {
            std::fs::remove_dir_all(&temporary)?;
        }
        std::fs::create_dir(&temporary)?;
        Ok(Self(Arc::new(Inner {
            account,
            options,
            functions: Mutex::default(),
            running: TaskTracker::new(),
            stop: CancellationToken::new(),
        })))
    }

    /// Adds a function, or replaces the one of that name: warm environments of the replaced
    /// function serve no more invocations. Its role gets credentials of its own.
    ///
    /// Errors: a sentence that names the wrong part of the definition.
    pub fn add(&self, mut config: FunctionConfig) -> Result<(), String> {
        config.validate()?;
        config.bootstrap = std::path::absolute(&config.bootstrap)
            .map_err(|error| format!("{}: {error}", config.bootstrap.display()))?;
        let account = &self.0.account;
        let credentials = Credentials::of_session(format!(
            "arn:aws:sts::{}:assumed-role/{name}-role/{name}",
            account.id,
            name = config.name
        ));
        account.add(credentials.clone());
        let function = Arc::new(Function {
            credentials,
            pool: Mutex::default(),
            config,
        });
        lock(&self.0.functions).insert(function.config.name.clone(), function);
        Ok(())
    }

    /// Returns the definitions, by name.
    pub fn functions(&self) -> Vec<FunctionConfig> {
        lock(&self.0.functions)
            .values()
            .map(|function| function.config.clone())
            .collect()
    }

    /// Returns the definition of one function.
    pub fn function(&self, name: &str) -> Option<FunctionConfig> {
        self.find(name).map(|function| function.config.clone())
    }

    /// Returns the ARN of the principal as which a function calls AWS.
    pub fn principal_of(&self, name: &str) -> Option<String> {
        self.find(name)
            .map(|function| function.credentials.principal_arn.clone())
    }

    /// Returns the account of the functions.
    pub fn account(&self) -> &Account {
        &self.0.account
    }

    fn find(&self, name: &str) -> Option<Arc<Function>> {
        lock(&self.0.functions).get(name).cloned()
    }

    /// Invokes a function and waits for the result. The invocation continues if the caller
    /// disconnects, as it does at AWS.
    pub async fn invoke(
        &self,
        function: &FunctionRef,
        payload: Bytes,
        request_id: String,
    ) -> Result<Invoked, InvokeError> {
        let found = self
            .find(&function.name)
            .ok_or_else(|| InvokeError::NotFound(function.arn(&self.0.account)))?;
        if self.0.running.is_closed() {
            return Err(InvokeError::ShuttingDown);
        }
        let (place, warm) = self.take_place(&found)?;
        let call = Call {
            request_id,
            payload,
            function_arn: function.arn(&self.0.account),
            timeout: found.config.timeout,
            memory_mb: found.config.memory_mb,
        };
        let host = self.clone();
        let task = self.0.running.spawn(async move {
            // Dropping an environment kills its process.
            tokio::select! {
                () = host.0.stop.cancelled() => None,
                invoked = host.run(place, warm, call) => Some(invoked),
            }
        });
        match task.await {
            Ok(Some(invoked)) => Ok(invoked),
            _ => Err(InvokeError::ShuttingDown),
        }
    }

    fn take_place(
        &self,
        function: &Arc<Function>,
    ) -> Result<(ConcurrencySlot, Option<Environment>), InvokeError> {
        let reserved = function.config.reserved_concurrency;
        let limit = reserved.unwrap_or(self.0.options.unreserved_concurrency);
        let mut pool = lock(&function.pool);
        if pool.busy >= limit {
            return Err(InvokeError::Throttled(reserved.is_some()));
        }
        pool.busy += 1;
        let mut warm = None;
        while let Some(mut environment) = pool.idle.pop() {
            if environment.is_alive() {
                warm = Some(environment);
                break;
            }
        }
        Ok((ConcurrencySlot(Arc::clone(function)), warm))
    }

    async fn run(&self, place: ConcurrencySlot, warm: Option<Environment>, call: Call) -> Invoked {
        let function = Arc::clone(&place.0);
        let config = &function.config;
        let request_id = call.request_id.clone();
        let environment = if let Some(environment) = warm {
            Ok(environment)
        } else {
            let log = self.log_file(&config.name);
            let command = |api: &str, folder: &Path| self.command(&function, api, folder);
            let temporary = temporary(&self.0.options.data);
            Environment::start(command, &config.name, &log, &temporary, &request_id).await
        };
        let invoked = match environment {
            Ok(environment) => {
                let (invoked, environment) = environment.invoke(call).await;
                if let Some(environment) = environment {
                    let current = self.find(&config.name);
                    let replaced = !current.is_some_and(|f| Arc::ptr_eq(&f, &function));
                    if replaced || self.0.running.is_closed() {
                        environment.stop().await;
                    } else {
                        lock(&function.pool).idle.push(environment);
                    }
                }
                invoked
            }
            Err((failure, log_tail)) => Invoked {
                request_id,
                outcome: Outcome::Failed(failure),
                log_tail,
                duration: std::time::Duration::ZERO,
                init: None,
                max_memory_bytes: None,
            },
        };
        // Freed before the caller gets the result, so that its next call finds a slot.
        drop(place);
        report(config, &invoked);
        report_faults(config, &self.0.options.faults, &invoked.request_id);
        invoked
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.0
            .options
            .data
            .join("logs")
            .join(Path::new(name).with_extension("log"))
    }

    fn command(&self, function: &Function, runtime_api: &str, temporary: &Path) -> Command {
        let Function {
            config,
            credentials,
            ..
        } = function;
        let account = &self.0.account;
        let root = config.bootstrap.parent().unwrap_or(Path::new("/"));
        let mut command = Command::new(&config.bootstrap);
        command.env_clear().current_dir(root);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command
            .env("TZ", "UTC")
            .env("TMPDIR", temporary)
            .env("AWS_ENDPOINT_URL", &self.0.options.endpoint)
            .envs(&config.environment)
            .env("AWS_LAMBDA_RUNTIME_API", runtime_api)
            .env("AWS_LAMBDA_FUNCTION_NAME", &config.name)
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env(
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
                config.memory_mb.to_string(),
            )
            .env("AWS_LAMBDA_LOG_FORMAT", "Text")
            .env(
                "AWS_LAMBDA_LOG_GROUP_NAME",
                format!("/aws/lambda/{}", config.name),
            )
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "branchline-dev")
            .env("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
            .env("AWS_EXECUTION_ENV", "AWS_Lambda_provided.al2023")
            .env("AWS_REGION", &account.region)
            .env("AWS_DEFAULT_REGION", &account.region)
            .env("AWS_ACCESS_KEY_ID", &credentials.access_key_id)
            .env("AWS_SECRET_ACCESS_KEY", &credentials.secret_access_key)
            .env("LAMBDA_TASK_ROOT", root)
            .env("_HANDLER", "bootstrap");
        if let Some(token) = &credentials.session_token {
            command.env("AWS_SESSION_TOKEN", token);
        }
        command
    }

    /// Stops accepting invocations, waits a moment for the running ones, kills the
    /// rest, and ends the idle processes.
    pub async fn shutdown(&self, grace: std::time::Duration) {
        self.0.running.close();
        let _ = tokio::time::timeout(grace, self.0.running.wait()).await;
        self.0.stop.cancel();
        self.0.running.wait().await;
        let functions: Vec<_> = lock(&self.0.functions).values().cloned().collect();
        let mut stopping = tokio::task::JoinSet::new();
        for function in functions {
            let idle = std::mem::take(&mut lock(&function.pool).idle);
            for environment in idle {
                stopping.spawn(environment.stop());
            }
        }
        while stopping.join_next().await.is_some() {}
    }
}

/// Returns the folder of the environments' temporary files.
fn temporary(data: &Path) -> PathBuf {
    data.join("tmp")
}

fn report(config: &FunctionConfig, invoked: &Invoked) {
    let duration_ms = u64::try_from(invoked.duration.as_millis()).unwrap_or(u64::MAX);
    let init_ms = invoked
        .init
        .map(|init| u64::try_from(init.as_millis()).unwrap_or(u64::MAX));
    let name = &config.name;
    let request_id = &invoked.request_id;
    match &invoked.outcome {
        Outcome::Answer(_) => tracing::info!(
            function.name = name,
            invocation.request_id = request_id,
            duration_ms,
            init_ms,
            "invoked `{name}`: ok"
        ),
        Outcome::Failed(failure) => tracing::warn!(
            function.name = name,
            invocation.request_id = request_id,
            duration_ms,
            init_ms,
            error.r#type = failure.error_type,
            "invoked `{name}`: {}: {}",
            failure.error_type,
            failure.message
        ),
    }
}

/// Logs how often each fault hit the requests of an invocation.
fn report_faults(config: &FunctionConfig, faults: &Faults, request_id: &str) {
    let counts = faults.take_counts(&trace_of(request_id));
    if counts.is_empty() {
        return;
    }
    let counts: Vec<String> = counts
        .into_iter()
        .map(|(fault, count)| format!("{fault} ({count})"))
        .collect();
    tracing::info!(
        function.name = config.name,
        invocation.request_id = request_id,
        "faults in this invocation of `{}`: {}",
        config.name,
        counts.join(", ")
    );
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
