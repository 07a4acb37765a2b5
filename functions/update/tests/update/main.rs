//! Tests of the `update` function's promises, with services in memory.

mod fixture;
mod flow;
mod healing;
mod ownership;
mod refusals;
mod schedule;
mod snapshots;
