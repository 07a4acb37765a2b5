//! Our archive against git's: the same commit, asked of both, compared entry by entry.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, even outside of a `#[test]` function"
)]

mod attributes;
mod compare;
mod content;
mod double;
mod faults;
mod git;
mod memory;
mod property;
mod scale;
mod trees;
