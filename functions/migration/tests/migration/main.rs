//! What the `migration` function promises, over a bucket in memory and repositories in
//! temporary folders.

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
