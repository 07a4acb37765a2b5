//! The server: one port for all services; starts and stops them.

mod adapters;
mod body;
mod classify;
mod control;
mod credentials;
mod data_folder;
mod dispatch;
mod resource;
mod sts;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::account::{Account, Credentials};
use crate::codecommit::{CodeCommitService, Limits};
use crate::delivery::{Delivery, EventRule};
use crate::faults::{Faults, RequestLog, Rule};
use crate::git_http::GitHttp;
use crate::kms::KmsService;
use crate::lambda::{
    AsyncInvocations, FunctionConfig, HostOptions, LambdaApi, LambdaHost, QueueOptions,
};
use crate::pipeline::{PipelineOptions, PipelineService, Sources};
use crate::s3::store::{Durability, PublicAccess};
use crate::s3::{self, Store};
use crate::secrets::SecretService;

pub use data_folder::ENVIRONMENT_FILE;

use control::Control;
use dispatch::Dispatcher;

/// Time that running requests and invocations have when the server stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// Settings of the server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Data folder; `None`: a temporary folder that is deleted with the server.
    pub data: Option<PathBuf>,
    /// Program that git runs as `credential-helper`; with it, the data folder's
    /// [`ENVIRONMENT_FILE`] has the variables that clients need.
    pub credential_helper: Option<PathBuf>,
    /// Port on 127.0.0.1; with 0 that of the data folder's last server, or one that the system
    /// chooses.
    pub port: u16,
    /// Account number, 12 digits.
    pub account_id: String,
    /// The region.
    pub region: String,
    /// The functions.
    pub functions: Vec<FunctionConfig>,
    /// Rules of the default event bus.
    pub event_rules: Vec<EventRule>,
    /// Buckets with public read, and whether they may also be listed.
    pub public_buckets: Vec<(String, PublicAccess)>,
    /// Faults from the start.
    pub faults: Vec<Rule>,
    /// Seed of all faults; `None`: a random one.
    pub seed: Option<u64>,
    /// Factor of all delays of asynchronous invocations.
    pub retry_delay_scale: f64,
    /// Maximum number of environments of a function without reserved concurrency.
    pub unreserved_concurrency: u32,
    /// Maximum number of concurrent executions of one pipeline.
    pub max_concurrent_executions: Option<usize>,
    /// CodeCommit's quotas and page sizes.
    pub codecommit_limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data: None,
            credential_helper: None,
            port: 0,
            account_id: "123456789012".into(),
            region: "us-east-1".into(),
            functions: Vec::new(),
            event_rules: Vec::new(),
            public_buckets: Vec::new(),
            faults: Vec::new(),
            seed: None,
            retry_delay_scale: 1.0,
            unreserved_concurrency: 10,
            max_concurrent_executions: None,
            codecommit_limits: Limits::default(),
        }
    }
}

/// A running server. Dropping it ends it at once; [`shutdown`](Self::shutdown) ends it in
/// order.
pub struct Server {
    address: SocketAddr,
    account: Account,
    credentials: Credentials,
    store: Store,
    codecommit: CodeCommitService,
    lambda: LambdaHost,
    queue: AsyncInvocations,
    delivery: Delivery,
    pipelines: PipelineService,
    kms: KmsService,
    secrets: SecretService,
    faults: Arc<Faults>,
    requests: RequestLog,
    data: PathBuf,
    connections: TaskTracker,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
    _temporary: Option<tempfile::TempDir>,
}

impl Server {
    /// Starts the server. When this returns, it accepts requests.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let (data, temporary) = data_folder::create(options.data.as_deref())?;
        let durability = match temporary {
            Some(_) => Durability::System,
            None => Durability::Disk,
        };
        let listener = data_folder::listen(options.port, &data).await?;
        let address = listener.local_addr()?;
        let endpoint = format!("http://{address}");

        let account = Account::new(&options.account_id, &options.region);
        let credentials = credentials::load_or_create(&data, &options.account_id)
            .with_context(|| format!("keeping credentials in {}", data.display()))?;
        account.add(credentials.clone());

        let faults = Arc::new(Faults::new(options.seed.unwrap_or_else(rand::random)));
        for rule in &options.faults {
            faults.add(rule.clone());
        }
        // Opened first, because it locks the folder against other servers.
        let store =
            Store::open_with(&data.join("s3"), durability).context("opening the buckets")?;
        let (lambda, queue) = open_lambda(&options, &account, &endpoint, &data, &faults)?;
        let delivery = Delivery::open(
            account.clone(),
            Arc::clone(&faults),
            queue.clone(),
            &options.event_rules,
            &data.join("events"),
        )
        .context("opening the event buses")?;
        let codecommit = open_codecommit(&options, &account, &delivery, &endpoint, &data)?;
        for (bucket, access) in &options.public_buckets {
            store.set_public_access(bucket, *access);
        }
        let sources = sources(&store, &codecommit);
        let pipelines = open_pipelines(&options, &account, sources, &delivery, &data)?;
        let kms = KmsService::open(account.clone(), &data).context("opening the keys")?;
        let secrets = SecretService::open(account.clone(), &data.join("secrets"))
            .context("opening the secrets")?;

        let requests = RequestLog::default();
        let dispatcher = Dispatcher {
            account: account.clone(),
            faults: Arc::clone(&faults),
            log: requests.clone(),
            control: Control {
                faults: Arc::clone(&faults),
                log: requests.clone(),
                queue: queue.clone(),
                delivery: delivery.clone(),
                lambda: lambda.clone(),
                pipelines: pipelines.clone(),
                about: json!({
                    "endpoint": endpoint,
                    "accountId": account.id,
                    "region": account.region,
                    "seed": faults.seed(),
                    "data": data,
                }),
            },
            codecommit: Arc::new(codecommit.clone()),
            pipelines: pipelines.clone(),
            kms: kms.clone(),
            delivery: delivery.clone(),
            secrets: secrets.clone(),
            lambda: LambdaApi::new(lambda.clone(), queue.clone()),
            git: Arc::new(GitHttp::new(codecommit.clone(), account.clone())),
            s3: Arc::new(s3::service(store.clone(), account.clone())),
        };
        data_folder::write_port(&data, address.port())?;
        // Written before the first answer, so that no client reads that of an earlier server.
        if let Some(program) = &options.credential_helper {
            let region = &account.region;
            data_folder::write_environment(&data, &endpoint, region, &credentials, program)?;
        }
        let stop = CancellationToken::new();
        let connections = TaskTracker::new();
        let accepting = accept(listener, dispatcher, stop.clone(), connections.clone());
        connections.spawn(accepting);
        resume(&queue)?;
        Ok(Self {
            address,
            account,
            credentials,
            store,
            codecommit,
            lambda,
            queue,
            delivery,
            pipelines,
            kms,
            secrets,
            faults,
            requests,
            data,
            connections,
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
            _temporary: temporary,
        })
    }

    /// Returns the URL of the server, `http://127.0.0.1:3000`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the simulated account.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Returns the credentials of the account's developer.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Returns the store of buckets.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the service of repositories.
    pub fn codecommit(&self) -> &CodeCommitService {
        &self.codecommit
    }

    /// Returns the host of functions.
    pub fn lambda(&self) -> &LambdaHost {
        &self.lambda
    }

    /// Returns the asynchronous invocations and dead letters.
    pub fn queue(&self) -> &AsyncInvocations {
        &self.queue
    }

    /// Returns the delivery of events; also a
    /// [`RefObserver`](crate::ref_observer::RefObserver).
    pub fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    /// Returns the service of pipelines.
    pub fn pipelines(&self) -> &PipelineService {
        &self.pipelines
    }

    /// Returns KMS.
    pub fn kms(&self) -> &KmsService {
        &self.kms
    }

    /// Returns the service of secrets and parameters.
    pub fn secrets(&self) -> &SecretService {
        &self.secrets
    }

    /// Returns the active faults.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Returns the counts of requests so far.
    pub fn requests(&self) -> &RequestLog {
        &self.requests
    }

    /// Returns the data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Waits until no event, invocation or execution is running; returns whether that happened
    /// within `limit`.
    pub async fn wait_until_idle(&self, limit: Duration) -> bool {
        let idle = async {
            // Each stage can feed the next, so two checks in a row must agree.
            let mut quiet = 0;
            while quiet < 2 {
                let pending =
                    self.delivery.pending() + self.queue.pending() + self.pipelines.pending();
                quiet = if pending == 0 { quiet + 1 } else { 0 };
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(limit, idle).await.is_ok()
    }

    /// Stops the server: first the sources of work, then the functions (which may still call the
    /// services for a moment), then the services.
    pub async fn shutdown(self) {
        self.delivery.shutdown().await;
        self.queue.shutdown().await;
        self.lambda.shutdown(SHUTDOWN_GRACE).await;
        self.pipelines.shutdown().await;
        self.stop.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}

/// Opens the repositories, whose changes are delivered.
fn open_codecommit(
    options: &Options,
    account: &Account,
    delivery: &Delivery,
    endpoint: &str,
    data: &Path,
) -> anyhow::Result<CodeCommitService> {
    let codecommit = CodeCommitService::open_with(
        data.join("codecommit"),
        account.clone(),
        Arc::new(delivery.clone()),
        options.codecommit_limits,
    )
    .context("opening the repositories")?;
    codecommit.set_base_url(endpoint);
    codecommit.set_trigger_tester(Arc::new(delivery.clone()));
    codecommit.set_event_sink(Arc::new(delivery.clone()));
    delivery.set_source(Arc::new(codecommit.clone()));
    Ok(codecommit)
}

/// Returns the places that source actions read.
fn sources(store: &Store, codecommit: &CodeCommitService) -> Sources {
    Sources {
        artifacts: Arc::new(store.clone()),
        commits: Arc::new(codecommit.clone()),
    }
}

/// Opens the pipelines, whose events are delivered, and which events may start.
fn open_pipelines(
    options: &Options,
    account: &Account,
    sources: Sources,
    delivery: &Delivery,
    data: &Path,
) -> anyhow::Result<PipelineService> {
    let pipelines = PipelineService::open(
        account.clone(),
        PipelineOptions {
            data: data.join("codepipeline"),
            max_concurrent_executions: options.max_concurrent_executions,
        },
        sources,
        Arc::new(delivery.clone()),
    )
    .context("opening the pipelines")?;
    delivery.set_pipelines(Box::new(pipelines.starter()));
    Ok(pipelines)
}

/// Delivers the events of an earlier run.
fn resume(queue: &AsyncInvocations) -> anyhow::Result<()> {
    let waiting = queue.resume().context("reading the queue")?;
    if waiting > 0 {
        tracing::info!("{waiting} events of an earlier run are delivered");
    }
    Ok(())
}

/// Opens the functions and their queue.
fn open_lambda(
    options: &Options,
    account: &Account,
    endpoint: &str,
    data: &Path,
    faults: &Arc<Faults>,
) -> anyhow::Result<(LambdaHost, AsyncInvocations)> {
    let lambda = LambdaHost::new(
        account.clone(),
        HostOptions {
            endpoint: endpoint.to_owned(),
            data: data.join("lambda"),
            unreserved_concurrency: options.unreserved_concurrency,
            faults: Arc::clone(faults),
        },
    )?;
    for function in &options.functions {
        lambda.add(function.clone()).map_err(anyhow::Error::msg)?;
    }
    let queue = AsyncInvocations::open(
        lambda.clone(),
        QueueOptions {
            data: data.join("lambda"),
            delay_scale: options.retry_delay_scale,
        },
    )
    .context("opening the queue of asynchronous invocations")?;
    Ok((lambda, queue))
}

async fn accept(
    listener: TcpListener,
    dispatcher: Dispatcher,
    stop: CancellationToken,
    connections: TaskTracker,
) {
    let dispatcher = Arc::new(dispatcher);
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // The process is probably out of file descriptors: wait until some are
                    // free.
                    tracing::warn!("a connection could not be accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let _ = stream.set_nodelay(true);
        let dispatcher = Arc::clone(&dispatcher);
        let stop = stop.clone();
        connections.spawn(async move {
            let service = hyper::service::service_fn(|request| {
                let dispatcher = Arc::clone(&dispatcher);
                async move { dispatcher.call(request).await }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => return,
                () = stop.cancelled() => {}
            }
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(SHUTDOWN_GRACE, connection).await;
        });
    }
}
