//! Compares the archives of branchline and git for the same commit, entry by entry.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, even outside of a `#[test]` function"
)]

mod attributes;
mod compare;
mod content;
mod describe;
mod fake_codecommit;
mod faults;
mod from_odb;
mod git;
mod git_differences;
mod history;
mod large;
mod large_faults;
mod lfs;
mod memory;
mod property;
mod read_methods;
mod reuse;
mod reuse_faults;
mod reuse_fixture;
mod scale;
mod submodules;
mod trees;
