//! The promises of the service traits as test suites, for every implementation.
//!
//! Each suite runs over a small setup trait that makes buckets, commits and pipelines; it
//! panics with the promise that is broken. A setup names the cases that its service is
//! known to fail, with the reason next to the list.

mod codecommit;
mod object_store;
mod pipelines;

use std::fmt::Debug;

pub use codecommit::{CodeCommitSetup, codecommit};
pub use object_store::{StoreSetup, object_store};
pub use pipelines::{PipelinesSetup, pipelines};

use crate::error::{ErrorKind, Result};

/// Runs cases one after the other; a panic is preceded by its case's name.
macro_rules! run_cases {
    ($setup:expr, $skipped:expr, [$($case:ident),* $(,)?]) => {{
        let skipped: &[&str] = $skipped;
        for name in skipped {
            assert!(
                [$(stringify!($case)),*].contains(name),
                "`{name}` is skipped but is no case of this suite"
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

/// Asserts that a call failed with an error of this kind, whose message names `thing`.
#[track_caller]
fn assert_fails<T: Debug>(result: Result<T>, kind: ErrorKind, thing: &str) {
    let error = result.expect_err("the call must fail");
    assert_eq!(error.kind(), kind, "{}", error.report());
    assert!(
        error.to_string().contains(thing),
        "the message must name `{thing}`: {error}"
    );
}
