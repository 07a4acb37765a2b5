//! Runs that only say what they would do.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::artifact::S3Location;

/// Artifacts that a plan would have written by now.
#[derive(Debug, Default)]
pub(crate) struct Plan(Mutex<HashSet<S3Location>>);

impl Plan {
    /// Adds an artifact; returns false if it was added before.
    pub(crate) fn add(&self, location: &S3Location) -> bool {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        written.insert(location.clone())
    }
}

/// Limits of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    /// The function's deadline.
    pub(crate) deadline: Instant,
    /// Set if nothing is written.
    pub(crate) plan: Option<&'a Plan>,
}
