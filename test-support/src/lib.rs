//! Tools of the workspace's tests, benchmarks and demo: git in one hermetic environment,
//! repositories of a known shape, and servers that record requests and misbehave on demand.
//!
//! | module | holds |
//! |---|---|
//! | [`git`] | the one git command, and functions that run it |
//! | [`repo`] | a bare repository in a temporary folder, and a history to fill it |
//! | [`http`] | requests as a test server receives them, and the loop that accepts them |
//! | [`http_backend`] | `git http-backend` as it is, for measurements |
//! | [`file_server`] | the files of a repository behind a plain web server |
//! | [`git_server`] | `git http-backend` with a log of requests and with faults |
//! | [`lfs_server`] | a strict LFS server with faults |
//! | [`git_remote`] | a repository as a source of core's, read by git itself (feature `remote`) |
//! | [`wrapped_remote`] | remotes and credentials that are changed or recorded (feature `remote`) |
//! | [`running_program`] | a program that runs beside a test |
//! | [`moto`] | moto's S3, Secrets Manager and SSM |
//!
//! Helpers panic where a test would have to fail; what programs use returns an error.

pub mod file_server;
pub mod git;
#[cfg(feature = "remote")]
pub mod git_remote;
pub mod git_server;
pub mod http;
pub mod http_backend;
pub mod lfs_server;
pub mod moto;
pub mod repo;
pub mod running_program;
#[cfg(feature = "remote")]
pub mod wrapped_remote;
