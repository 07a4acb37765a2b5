//! Tests of the `update` function's promises, with services in memory.

mod contents;
mod costs;
mod events;
mod existing;
mod filters;
mod filters_healing;
mod filters_model;
mod fixture;
mod flow;
mod healing;
mod markers;
mod model;
mod model_runs;
mod ownership;
mod pipeline_check;
mod plan;
mod pull_requests;
mod pull_requests_model;
mod refusals;
mod results;
mod reuse;
mod schedule;
mod snapshots;
mod submodules;
mod tags;
mod variables;
