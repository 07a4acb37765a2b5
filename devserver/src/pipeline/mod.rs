//! CodePipeline, enough to start and watch executions.
//!
//! - [`PipelineService`]: the operations.
//! - `model`: what is kept, and the shapes it has on the wire.
//! - `validate`: what CodePipeline refuses.
//! - `execution`: an execution's source stage: fetch the artifact, read it, or fail.
//! - [`cbor`]: the protocol `smithy-rpc-v2-cbor`, which newer clients prefer.
//!
//! Only sources are carried out; an execution succeeds once its artifacts were fetched and
//! read. What later stages would do with them is not simulated.

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
