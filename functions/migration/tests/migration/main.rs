//! Tests of the `migration` function over a bucket in memory and repositories in temporary
//! directories.

#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "shared with the tests of git's formats, which use more"
)]
#[path = "../../../../shared/tests/git/repo.rs"]
mod repo;

mod deadline;
mod fixture;
mod mappings;
