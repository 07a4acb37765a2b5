//! The core of branchline: AWS CodeCommit, S3 and CodePipeline as small traits in
//! plain types, and everything that is decided over them.
//!
//! Layers, each using only those below it:
//!
//! 1. [`archive`], [`trigger`], [`mirror`]: what the functions do.
//! 2. [`remote`]: places that hold refs and objects.
//! 3. [`codecommit`], [`storage`], [`pipeline`], [`function`], [`secret`], [`event_bus`], [`kms`]: the services as traits; the
//!    AWS SDK is seen only inside their `client` modules, and in [`aws`], which
//!    configures it.
//! 4. [`event`]: what the functions are asked; [`git`]: git's formats and wire protocol.
//! 5. [`filter`], [`pattern`], [`metrics`], [`retry`], [`settings`], [`name`], [`arn`], [`error`]: words.
//!
//! Nothing here reads the environment, the home folder or the terminal: callers pass
//! values in. The one exception is [`aws::Aws::load`], which only programs call.

pub mod answer;
pub mod archive;
pub mod arn;
pub mod aws;
pub mod background;
pub mod blocking;
pub mod codecommit;
pub mod error;
pub mod event;
pub mod event_bus;
pub mod filter;
pub mod function;
pub mod kms;
#[cfg(feature = "lambda")]
pub mod lambda;
pub mod lfs;
#[cfg(feature = "lambda")]
mod log;
pub mod metrics;
pub mod mirror;
pub mod name;
pub mod os;
pub mod pack_cache;
pub mod pattern;
pub mod pipeline;
pub mod remote;
pub mod retry;
pub mod role;
pub mod secret;
pub mod settings;
pub mod storage;
#[cfg(feature = "testkit")]
pub mod testkit;
pub mod trigger;

pub use error::{Error, ErrorKind, Result};

/// Git's formats and protocols, which know no AWS crate. Under this name because callers of
/// the core then need no dependency of their own for them.
pub use branchline_git as git;
