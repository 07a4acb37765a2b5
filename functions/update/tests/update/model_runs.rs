//! Runs of models: random operations, shrunk to few where one fails.

use std::fmt::Debug;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

/// Number of cases, unless `PROPTEST_CASES` has another one.
const CASES: u32 = 150;

/// Runs a model over lists of fewer than `max_ops` operations; panics with `what` and the shortest
/// list that fails.
pub(crate) fn run_model<Op: Debug>(
    what: &str,
    op: impl Strategy<Value = Op>,
    max_ops: usize,
    run: &impl AsyncFn(&[Op]) -> Result<(), TestCaseError>,
) {
    let cases = std::env::var("PROPTEST_CASES").ok();
    let cases = cases.and_then(|cases| cases.parse().ok());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let mut runner = TestRunner::new(Config {
        cases: cases.unwrap_or(CASES),
        failure_persistence: None,
        ..Config::default()
    });
    let ops = proptest::collection::vec(op, 1..max_ops);
    let result = runner.run(&ops, |ops| runtime.block_on(run(&ops)));
    result.unwrap_or_else(|error| panic!("{what}: {error}"));
}
