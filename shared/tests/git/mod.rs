//! Git's protocol over real connections, against git's own server and hostile ones.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may fail the test at once"
)]

mod fetch;
mod hostile_servers;
mod http;
mod push;
mod safety;
mod tls;
