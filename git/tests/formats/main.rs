//! Git's formats against git itself, and against bytes that no git writes.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may fail the test at once"
)]

mod dependencies;
mod files;
mod fuzz;
mod large_pack_bench;
mod malformed_packs;
mod pack;
mod unbounded_answers;
