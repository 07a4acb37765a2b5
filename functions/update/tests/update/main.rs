//! What the `update` function promises, over services in memory.

mod fixture;
mod flow;
mod healing;
mod refusals;
mod schedule;
mod snapshots;
