//! Git's formats and wire protocol against git itself.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails the test by panicking"
)]

mod fetch;
mod files;
mod fuzz;
mod hostile_servers;
mod http;
mod large_pack_bench;
mod malformed_packs;
mod pack;
mod push;
mod tls;
mod unbounded_answers;
