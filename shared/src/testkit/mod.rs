//! Services in memory with real semantics, failures on demand, and the conformance suites
//! that every implementation of a service trait passes.
//!
//! The services in memory are stricter than AWS (pages of two, lists out of order on demand),
//! so that code that passes over them works over AWS.

mod call_log;
mod codecommit;
pub mod conformance;
mod event_bus;
mod faults;
mod faults_store;
mod functions;
mod killed_fs;
mod pipelines;
mod pull_request_store;
mod pull_requests;
mod repository;
mod reviews;
mod store;

pub use call_log::CallLog;
pub use codecommit::{CodeCommitOptions, MemoryCodeCommit};
pub use event_bus::MemoryEventBus;
pub use faults::{Failing, FaultPlan, When};
pub use functions::MemoryFunctions;
pub use killed_fs::KilledFs;
pub use pipelines::{Execution, MemoryPipelines, PipelineOptions};
pub use repository::{CommitText, Entry};
pub use reviews::{MemoryExecutions, MemoryReviews};
pub use store::{MemoryStore, MemoryStoreOptions, StoredVersion};
