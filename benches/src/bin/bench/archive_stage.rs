//! The update function on a development server, at a distance, and the cost of its runs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use branchline_benches::results::Row;
use branchline_benches::throttled_proxy::{Speed, ThrottledProxy};
use branchline_dev::faults::{Fault, Rule, Service, When};
use branchline_tests::compare;
use branchline_tests::environment::{Setup, TestEnvironment, UPDATE};
use serde_json::json;

/// The repository on the server.
const NAME: &str = "measured";

/// Distance of CodeCommit.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Distance {
    /// Each answer is this many milliseconds late.
    Answers(u64),
    /// A link, whose round trips also delay new connections.
    Link(Speed),
}

/// Settings of a stage.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StageOptions<'a> {
    /// Folder of the bootstraps.
    pub(crate) bootstraps: &'a Path,
    /// Value of `ARCHIVE_SOURCE`.
    pub(crate) source: &'a str,
    /// Maximum number of requests in flight.
    pub(crate) concurrency: u32,
    pub(crate) distance: Distance,
}

/// A server with one repository, and a function that has been started.
pub(crate) struct ArchiveStage {
    stage: TestEnvironment,
    link: Option<ThrottledProxy>,
    /// Time from the start of the function to its first event.
    pub(crate) init: Duration,
}

/// Cost of one run of the function.
pub(crate) struct Run {
    pub(crate) wall: Duration,
    pub(crate) requests: u64,
    /// Bytes that came over the link; 0 without one.
    pub(crate) received: u64,
    pub(crate) in_flight: u64,
    pub(crate) peak: u64,
}

impl Run {
    /// Returns the run as a row of the results.
    pub(crate) fn row(&self, name: impl Into<String>) -> Row {
        Row {
            name: name.into(),
            requests: Some(self.requests),
            wall: self.wall,
            peak_bytes: Some(self.peak),
            bytes: (self.received > 0).then_some(self.received),
        }
    }
}

impl ArchiveStage {
    /// Starts a server and the function, and pushes the tip of `repository`.
    pub(crate) async fn open(options: StageOptions<'_>, repository: &Path) -> Result<Self> {
        let link = match options.distance {
            Distance::Answers(_) => None,
            Distance::Link(speed) => Some(ThrottledProxy::open(speed).await?),
        };
        let mut update = vec![
            ("CODECOMMIT_CONCURRENCY", options.concurrency.to_string()),
            ("ARCHIVE_SOURCE", options.source.to_owned()),
        ];
        let endpoint = link.as_ref().map(ThrottledProxy::endpoint);
        update.extend(endpoint.map(|endpoint| ("AWS_ENDPOINT_URL_CODECOMMIT", endpoint)));
        let stage = TestEnvironment::start(Setup {
            update,
            // No trigger, so that the measured run is the first.
            lifecycle: vec![("BRANCHES_EXCLUDE", "**".to_owned())],
            bootstraps: options.bootstraps.to_owned(),
            timeout: Duration::from_mins(15),
            ..Setup::default()
        })
        .await?;
        if let Some(link) = &link {
            link.lead_to(&stage.server.endpoint())?;
        }
        let input = json!({ "repositoryName": NAME });
        stage.codecommit("CreateRepository", input).await?;
        // A first run for a branch that is not there warms the environment and its connection.
        let warm = stage
            .invoke(UPDATE, &json!({ "repository": NAME, "branch": "nothing" }))
            .await?;
        let stage = Self {
            stage,
            link,
            init: warm.init.context("the first run was a cold start")?,
        };
        stage.push(repository).await?;
        match (options.distance, &stage.link) {
            (Distance::Answers(milliseconds), _) => stage.delay_answers(milliseconds),
            (_, Some(link)) => {
                let codecommit = stage.stage.server.codecommit();
                codecommit.set_base_url(&link.endpoint());
            }
            (_, None) => {}
        }
        Ok(stage)
    }

    fn delay_answers(&self, milliseconds: u64) {
        for service in [Service::CodeCommit, Service::Git] {
            self.stage.server.faults().add(Rule {
                service: Some(service),
                operation: None,
                fault: Fault::Latency(milliseconds),
                when: When::Always,
            });
        }
    }

    /// Pushes the tip of `repository` to `main`.
    pub(crate) async fn push(&self, repository: &Path) -> Result<()> {
        let refspec = "HEAD:refs/heads/main";
        self.stage.push(repository, NAME, &[refspec]).await?;
        // Lifecycle gets an event of the push.
        self.stage.wait_until_idle().await
    }

    /// Sends the event of a push of `commit`, which was pushed, and compares the archive with
    /// that of git.
    pub(crate) async fn archive(&self, repository: &Path, commit: &str) -> Result<Run> {
        let stage = &self.stage;
        let received = || self.link.as_ref().map_or(0, |link| link.carried().1);
        let (before, known) = (received(), stage.executions().len());
        stage.server.requests().reset();
        let event = json!({ "repository": NAME, "branch": "main", "commit": commit });
        let run = stage.invoke(UPDATE, &event).await?;
        let requests =
            [Service::CodeCommit, Service::Git].map(|service| stage.requests_of(UPDATE, service));
        let made = Run {
            wall: run.duration,
            requests: requests.iter().sum(),
            received: received() - before,
            in_flight: stage.server.requests().max_in_flight(Service::CodeCommit),
            peak: run
                .max_memory_bytes
                .context("the system reports no peak memory")?,
        };
        stage.wait_until_idle().await?;
        let executions = stage.executions();
        ensure!(
            executions.len() == known + 1,
            "it failed: {:?}",
            run.outcome
        );
        let last = executions.last().context("there is one more")?;
        compare::with_git_archive(&stage.source_of(last)?, repository, commit)?;
        Ok(made)
    }

    /// Stops the server.
    pub(crate) async fn close(self) {
        self.stage.server.shutdown().await;
    }
}
