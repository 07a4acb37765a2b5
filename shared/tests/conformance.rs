//! Conformance suites over the services in memory and over moto.

#![expect(
    clippy::unwrap_used,
    reason = "what sets a test up fails it by panicking"
)]

#[path = "conformance/memory.rs"]
mod memory;
#[path = "conformance/moto.rs"]
mod moto;
