//! The development server: AWS CodeCommit, S3, CodePipeline and Lambda on a laptop, over
//! real git repositories, in one process.
//!
//! Layers, each using only those below it:
//!
//! 1. [`server`]: one port, every request to its service; starts and stops the rest.
//! 2. [`delivery`]: triggers and EventBridge events, to functions and pipelines.
//! 3. [`lambda`], [`pipeline`]: run functions and pipelines.
//! 4. [`codecommit`], [`git_http`], [`s3`], [`secrets`]: store repositories, objects and secrets.
//! 5. [`faults`]: counts every request, and decides which of them go wrong.
//! 6. [`account`], [`aws_json`], [`event`], `http_body`, [`ref_observer`]: types that all of them share.
//!
//! [`cli`] and [`log`] are the user interface; [`whole_flow`] is the content of a server that they
//! start with everything, and `installed_functions` finds its functions.
//!
//! The server uses core's formats and names, never its decisions: it behaves as AWS does.

pub mod account;
pub mod aws_json;
pub mod cli;
pub mod codecommit;
pub mod delivery;
pub mod event;
pub mod faults;
pub mod git_http;
mod http_body;
mod installed_functions;
pub mod kms;
pub mod lambda;
pub mod log;
pub mod pipeline;
pub mod ref_observer;
pub mod s3;
pub mod secrets;
pub mod server;
pub mod whole_flow;
