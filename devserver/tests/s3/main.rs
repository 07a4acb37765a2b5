//! S3 of the development server, asked by the AWS SDK for Rust and by plain sockets.

#![expect(
    clippy::unwrap_used,
    reason = "a test may panic, and its helpers are tests too"
)]

mod access;
mod bodies;
mod lists;
mod multipart;
mod objects;
mod races;
mod support;
mod versions;
