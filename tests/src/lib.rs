//! What the end-to-end tests, the demo and the benchmarks share: a development server
//! with the real functions on it, real git, and a comparison with `git archive`.

pub mod bundle_push;
pub mod compare;
pub mod environment;
pub mod git;
pub mod http_backend;
pub mod iam_recorder;
pub mod moto;
pub mod template;
