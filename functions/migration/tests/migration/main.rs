//! What the `migration` function promises, over a bucket in memory and repositories in
//! temporary folders.

mod deadline;
mod fixture;
mod mappings;
mod snapshots;
