//! Tests of the `migration` function over a bucket in memory and repositories in temporary
//! directories.

mod deadline;
mod fixture;
mod mappings;
mod snapshots;
