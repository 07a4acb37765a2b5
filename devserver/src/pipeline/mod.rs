//! CodePipeline, enough to start and watch executions.
//!
//! - [`PipelineService`]: the operations.
//! - `model`: pipelines and executions, as stored and as sent.
//! - `validate`: the checks of requests.
//! - `execution`: an execution's source stage: fetch the artifact or find the commit, or fail.
//! - `action`: executions of actions.
//! - `notices`: the events of executions.
//! - [`cbor`]: the protocol `smithy-rpc-v2-cbor`, which newer clients prefer.
//!
//! Only sources are executed; an execution succeeds once its artifacts were fetched and
//! read, and its commits were found. Later stages are not simulated.

mod action;
mod artifact;
pub mod cbor;
mod execution;
mod model;
mod notices;
mod service;
mod state;
mod validate;

pub use artifact::{Artifact, ArtifactError, Artifacts, Commits, SourceCommit};
pub use execution::Sources;
pub use model::{Execution, FetchedCommit, FetchedSource, SourceFailure, Status};
pub use service::{PipelineOptions, PipelineService};
