//! Environment of the end-to-end tests, the demo and the benchmarks: a development server
//! with the real functions on it, and a comparison of artifacts with `git archive`.

pub mod bundle_push;
pub mod compare;
pub mod environment;
pub mod iam_recorder;
pub mod template;
