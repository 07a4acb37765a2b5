//! Conformance suites over the services in memory and over moto.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails the test by panicking"
)]

mod memory;
mod moto;
