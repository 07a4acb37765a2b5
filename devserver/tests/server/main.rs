//! The server as its clients see it: through the AWS SDK, git, raw sockets and its own
//! program.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers fail their test; clippy's exception knows only the tests"
)]

mod cbor;
mod delivery;
mod faults;
mod lambda;
mod pipeline;
mod program;
mod queue;
mod support;
