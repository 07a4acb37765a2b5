//! Test suites of the service traits, for every implementation.
//!
//! Each suite runs over a small setup trait that makes buckets, commits and pipelines, and
//! panics in a case that fails. A setup lists the cases that its service is known to fail,
//! with the reasons.

mod codecommit;
mod codecommit_setup;
mod differences;
mod object_store;
mod pipelines;
mod triggers;

use std::fmt::Debug;

pub use codecommit::codecommit;
pub use codecommit_setup::CodeCommitSetup;
pub use object_store::{StoreSetup, object_store};
pub use pipelines::{PipelinesSetup, pipelines};

use crate::error::{ErrorKind, Result};

/// Runs cases in sequence; prints the name of each case first.
macro_rules! run_cases {
    ($setup:expr, $skipped:expr, [$($case:ident),* $(,)?]) => {{
        let skipped: &[&str] = $skipped;
        for name in skipped {
            assert!(
                [$(stringify!($case)),*].contains(name),
                "`{name}` is skipped but is not a case of this suite"
            );
        }
        $(
            if skipped.contains(&stringify!($case)) {
                eprintln!("conformance: {} skipped", stringify!($case));
            } else {
                eprintln!("conformance: {}", stringify!($case));
                $case($setup).await;
            }
        )*
    }};
}
use run_cases;

/// Asserts that a call failed with an error of `kind`, whose message names `thing`.
#[track_caller]
fn assert_fails<T: Debug>(result: Result<T>, kind: ErrorKind, thing: &str) {
    let error = result.expect_err("the call must fail");
    assert_eq!(error.kind(), kind, "{}", error.report());
    assert!(
        error.to_string().contains(thing),
        "the message must name `{thing}`: {error}"
    );
}
