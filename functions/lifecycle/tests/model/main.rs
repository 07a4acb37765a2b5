//! A property test of the function against a model of the repository.
//!
//! Branches are pushed, deleted and renamed; other writers edit triggers; events are lost,
//! doubled, late and out of order; calls fail and are throttled; and two functions run
//! concurrently, with each of their calls released one by one, so that anything may happen
//! between any two. Then the disturbances end, each function's schedule runs once, and:
//!
//! 1. the triggers are the desired ones: exactly one owned trigger covers each live selected
//!    branch, none covers another branch, and a further run writes nothing;
//! 2. foreign triggers are as their owners left them;
//! 3. update saw every tip, without its own schedule;
//! 4. every later push fires exactly one owned trigger.
//!
//! Names that the functions cannot use are pushed among the others. The bucket of artifacts is
//! shared: artifacts of another account are there, which update's schedule neither replaces nor
//! deletes, and that account's schedule leaves those of this one.
//!
//! The service's writes have no precondition. A write over triggers that its writer has not
//! read ("blind") may undo the changes since its read: the foreign triggers changed since
//! then are excused from 2, and a case with a blind write is excused from 3. The test counts
//! the excused cases and fails if they are too many.

#![expect(
    clippy::unwrap_used,
    reason = "a failed setup fails its test by panicking"
)]

mod driver;
mod repository_model;
mod shared_bucket;

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};

use driver::{CallFate, run};

/// Index of a branch in [`BRANCHES`].
pub(crate) type Branch = usize;

/// Branch names: some differ only in case and slashes, one is long, one is excluded.
pub(crate) const BRANCHES: [&str; 16] = [
    "main",
    "a/b",
    "a-b",
    "A/b",
    "A-B",
    "feature/login",
    "feature/login2",
    "release/1.0",
    "release/1.1",
    "日本",
    "日",
    "x",
    "y",
    "z",
    "hotfix/a-very-long-name-that-goes-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-until-it-is-cut",
    "wip/not-meant",
];

/// The branch that `BRANCHES_EXCLUDE` names.
pub(crate) const EXCLUDED: Branch = 15;

/// Names that a push can make and the functions cannot use.
pub(crate) const ODD_NAMES: [&str; 2] = ["HEAD", "-x"];

/// One step of a case.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// A branch is pushed; created if missing.
    Push(Branch),
    /// All branches from this one on are pushed.
    PushAll(Branch),
    /// A branch is deleted.
    Delete(Branch),
    /// All branches from this one on are deleted.
    DeleteFrom(Branch),
    /// A branch is renamed.
    Rename(Branch, Branch),
    /// A branch is pushed whose name cannot be used.
    PushOdd(usize),
    /// Another account writes an artifact under the branch's key in the shared bucket.
    WriteForeignArtifact(Branch),
    /// Another writer sets a foreign trigger, in this form.
    SetForeign(usize, usize),
    /// Another writer removes a foreign trigger.
    RemoveForeign(usize),
    /// Another writer edits an owned trigger.
    Spoil(usize, usize),
    /// Another writer removes all triggers.
    Clear,
    /// An event is lost.
    Lose(usize),
    /// An event is doubled.
    Double(usize),
    /// An event is queued for a function, which handles it when idle.
    Deliver(usize, usize),
    /// A function's schedule is due.
    Schedule(usize),
    /// A waiting call is released with this fate.
    Step(usize, CallFate),
    /// Waiting calls are released and served.
    Steps(usize),
    /// Time passes.
    Wait,
}

fn op() -> impl Strategy<Value = Op> {
    let branch = || 0..BRANCHES.len();
    let fate = prop_oneof![
        12 => Just(CallFate::Pass),
        1 => Just(CallFate::Throttle),
        1 => Just(CallFate::Lose),
        1 => Just(CallFate::LoseAnswer),
        1 => Just(CallFate::Deny),
    ];
    prop_oneof![
        8 => branch().prop_map(Op::Push),
        1 => branch().prop_map(Op::PushAll),
        4 => branch().prop_map(Op::Delete),
        1 => branch().prop_map(Op::DeleteFrom),
        2 => (branch(), branch()).prop_map(|(from, to)| Op::Rename(from, to)),
        2 => (0..3_usize, 0..4_usize).prop_map(|(which, form)| Op::SetForeign(which, form)),
        1 => (0..3_usize).prop_map(Op::RemoveForeign),
        2 => (0..8_usize, 0..5_usize).prop_map(|(which, how)| Op::Spoil(which, how)),
        1 => Just(Op::Clear),
        1 => (0..ODD_NAMES.len()).prop_map(Op::PushOdd),
        1 => branch().prop_map(Op::WriteForeignArtifact),
        2 => (0..8_usize).prop_map(Op::Lose),
        2 => (0..8_usize).prop_map(Op::Double),
        10 => (0..8_usize, 0..2_usize).prop_map(|(event, to)| Op::Deliver(event, to)),
        1 => (0..2_usize).prop_map(Op::Schedule),
        24 => (0..4_usize, fate).prop_map(|(call, fate)| Op::Step(call, fate)),
        4 => (1..40_usize).prop_map(Op::Steps),
        2 => Just(Op::Wait),
    ]
}

#[test]
fn after_any_disturbance_the_triggers_are_the_desired_ones_and_no_push_is_missed() {
    let cases: u32 = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(1200);
    let seeds = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/model/main.proptest-regressions"
    );
    let mut runner = TestRunner::new(Config {
        cases,
        source_file: Some(file!()),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(seeds))),
        ..Config::default()
    });
    let (ran, blind, excused, writes, second) = (
        Cell::new(0),
        Cell::new(0),
        Cell::new(0),
        Cell::new(0),
        Cell::new(0),
    );
    let count = |cell: &Cell<u32>, by: u32| cell.set(cell.get() + by);
    runner
        .run(&proptest::collection::vec(op(), 1..120), |ops| {
            let summary = run(&ops)?;
            count(&ran, 1);
            count(&blind, u32::from(summary.blind > 0));
            count(&excused, u32::from(summary.excused > 0));
            count(&writes, summary.writes);
            count(&second, u32::from(summary.concurrent));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    println!(
        "{} cases: {} writes; two functions concurrently in {}, blind writes in {}, foreign triggers \
         excused in {}",
        ran.get(),
        writes.get(),
        second.get(),
        blind.get(),
        excused.get()
    );
    assert!(ran.get() >= cases, "every case must run");
    assert!(
        blind.get() * 3 < ran.get(),
        "most cases must be without a blind write"
    );
    assert!(
        excused.get() * 10 < ran.get(),
        "nearly all cases must check every foreign trigger"
    );
    assert!(
        second.get() * 4 > ran.get(),
        "two functions must often run concurrently"
    );
}
