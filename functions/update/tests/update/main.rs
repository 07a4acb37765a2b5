//! Tests of the `update` function's promises, with services in memory.

mod existing;
mod fixture;
mod flow;
mod healing;
mod model;
mod ownership;
mod plan;
mod refusals;
mod reuse;
mod schedule;
mod snapshots;
