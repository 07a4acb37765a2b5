//! Git's formats and wire protocol against git itself.

#![expect(
    clippy::unwrap_used,
    reason = "what helps a test may fail it where it stands"
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
mod repo;
mod server;
mod tls;
mod unbounded_answers;
