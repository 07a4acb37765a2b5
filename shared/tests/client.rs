//! The SDK's clients over an HTTP server with prepared answers, and retrying services over
//! failing ones.

#![expect(
    clippy::unwrap_used,
    reason = "what sets a test up fails it by panicking"
)]

#[path = "client/blob.rs"]
mod blob;
#[path = "client/canned.rs"]
mod canned;
#[path = "client/configuration.rs"]
mod configuration;
#[path = "client/errors.rs"]
mod errors;
#[path = "client/lost_answers.rs"]
mod lost_answers;
#[path = "client/memory.rs"]
mod memory;
#[path = "client/wire.rs"]
mod wire;
