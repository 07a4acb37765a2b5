//! S3 of the development server, called by the AWS SDK for Rust and through plain sockets.

#![expect(
    clippy::unwrap_used,
    reason = "a test may panic, and its helpers are tests too"
)]

mod access;
mod bodies;
mod copies;
mod lists;
mod multipart;
mod objects;
mod races;
mod support;
mod tags;
mod versions;
