//! Error type of the HTTP bodies of all services.

/// Error of a request's or answer's body.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
