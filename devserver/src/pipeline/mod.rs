//! CodePipeline, enough to start and watch executions.
//!
//! - [`PipelineService`]: the operations.
//! - `model`: pipelines and executions, as stored and as sent.
//! - `validate`: the checks of requests.
//! - `execution`: an execution's source stage: fetch the artifact, read it, or fail.
//! - [`cbor`]: the protocol `smithy-rpc-v2-cbor`, which newer clients prefer.
//!
//! Only sources are executed; an execution succeeds once its artifacts were fetched and
//! read. Later stages are not simulated.

mod artifact;
pub mod cbor;
mod execution;
mod model;
mod service;
mod state;
mod validate;

pub use artifact::{Artifact, ArtifactError, Artifacts};
pub use model::{Execution, FetchedSource, Status};
pub use service::{PipelineOptions, PipelineService};
