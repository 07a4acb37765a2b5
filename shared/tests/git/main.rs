//! Git's formats and wire protocol against git itself.

#![expect(
    clippy::unwrap_used,
    reason = "what helps a test may fail it where it stands"
)]

mod endless;
mod fetch;
mod files;
mod fuzz;
mod harm;
mod hostile;
mod http;
mod pack;
mod push;
mod repo;
mod server;
mod size;
mod tls;
