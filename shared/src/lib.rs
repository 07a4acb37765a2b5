//! The core of branchline: AWS CodeCommit, S3 and CodePipeline as small traits in
//! plain types, and everything that is decided over them.
//!
//! Layers, each using only those below it:
//!
//! 1. [`archive`], [`trigger`]: what the functions do.
//! 2. [`codecommit`], [`storage`], [`pipeline`], [`function`]: the services as traits; the
//!    AWS SDK is seen only inside their `client` modules, and in [`aws`], which
//!    configures it.
//! 3. [`event`]: what the functions are asked; [`git`]: git's formats and wire protocol.
//! 4. [`pattern`], [`retry`], [`setting`], [`name`], [`error`]: words.
//!
//! Nothing here reads the environment, the home folder or the terminal: callers pass
//! values in. The one exception is [`aws::Aws::load`], which only programs call.

pub mod archive;
pub mod aws;
pub mod codecommit;
pub mod error;
pub mod event;
pub mod function;
pub mod git;
#[cfg(feature = "lambda")]
pub mod lambda;
pub mod name;
pub mod pattern;
pub mod pipeline;
pub mod retry;
pub mod setting;
pub mod storage;
#[cfg(feature = "testkit")]
pub mod testkit;
pub mod trigger;

pub use error::{Error, ErrorKind, Result};
