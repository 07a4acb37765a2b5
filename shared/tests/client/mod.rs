//! The SDK's clients over an HTTP server with prepared answers, and retrying services over
//! failing ones.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails the test by panicking"
)]

mod blob;
mod canned_http_server;
mod configuration;
mod connections;
mod errors;
mod lost_answers;
mod memory;
mod roles;
mod wire;
