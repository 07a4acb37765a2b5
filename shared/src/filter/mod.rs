//! Filters of pushes, tags and pull requests, in the form of a pipeline's `gitConfiguration`
//! (CodePipeline user guide, "Filter triggers on code push or pull requests").
//!
//! | module | job |
//! |---|---|
//! | `configuration` | parses the JSON list of pipelines, and checks CodePipeline's limits |
//! | `criteria` | includes and excludes, and the decision over changed paths |
//! | `glob` | the patterns (user guide, "Working with glob patterns in syntax") |
//!
//! Excludes are applied before includes; all parts of one filter must match, and one filter of
//! several suffices. Nothing here makes a request.

mod configuration;
mod criteria;
mod glob;

pub use configuration::{
    PipelineTrigger, PullRequestEvent, PullRequestFilter, PushFilter, parse_triggers,
};
pub use criteria::{Criteria, PathMatch};
pub use glob::{Glob, MAX_GLOB_CHARS};

#[cfg(test)]
mod examples;
#[cfg(test)]
mod properties;
