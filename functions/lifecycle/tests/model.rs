//! The function against a model, under everything that may happen to it.
//!
//! Branches are pushed, deleted and renamed; triggers are edited by others; events are
//! lost, doubled, late and out of order; calls fail and are throttled; and two functions
//! work at once, each call of theirs let through one by one, so that anything may happen
//! between any two. Afterwards all is quiet, each function's schedule runs once, and:
//!
//! 1. the triggers are the wanted ones: each live branch that is meant is watched by
//!    exactly one of ours, nothing else is, and a further run has nothing to do;
//! 2. foreign triggers are as their owners left them;
//! 3. update saw every tip, without its own schedule;
//! 4. every later push fires exactly one of our triggers.
//!
//! The service's writes have no precondition. A write that replaces what its writer has
//! not read ("blind") may undo what came in between: for exactly the foreign triggers
//! that were touched in between, 2 is not asked; nor is 3 where any write was blind. The
//! test counts how often that is so, so that it cannot become the rule.

#![expect(
    clippy::unwrap_used,
    reason = "what sets a test up fails it by panicking"
)]

#[path = "model/driver.rs"]
mod driver;
#[path = "model/world.rs"]
mod world;

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};

use driver::{CallFate, run};

/// A branch, by its number.
pub(crate) type Branch = usize;

/// The branches there may be: alike but for case and slashes, long, and one not meant.
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

/// The branch that is not meant.
pub(crate) const NOT_MEANT: Branch = 15;

/// What happens.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// A branch is pushed; made if it is not there.
    Push(Branch),
    /// Many are, in one push.
    PushAll(Branch),
    /// A branch is deleted.
    Delete(Branch),
    /// All from this one on are.
    DeleteFrom(Branch),
    /// A branch gets another name.
    Rename(Branch, Branch),
    /// Someone sets a foreign trigger, in this form.
    SetForeign(usize, usize),
    /// Someone removes a foreign trigger.
    RemoveForeign(usize),
    /// Someone spoils one of ours.
    Spoil(usize, usize),
    /// Someone replaces the whole set by nothing.
    Clear,
    /// An event is lost.
    Lose(usize),
    /// An event is doubled.
    Double(usize),
    /// An event reaches a function, which takes it when it is idle.
    Deliver(usize, usize),
    /// A function's schedule is due.
    Schedule(usize),
    /// A waiting call is let through, or not.
    Step(usize, CallFate),
    /// Many are let through.
    Steps(usize),
    /// Time passes.
    Wait,
}

fn op() -> impl Strategy<Value = Op> {
    let branch = || 0..BRANCHES.len();
    let verdict = prop_oneof![
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
        2 => (0..8_usize).prop_map(Op::Lose),
        2 => (0..8_usize).prop_map(Op::Double),
        10 => (0..8_usize, 0..2_usize).prop_map(|(event, to)| Op::Deliver(event, to)),
        1 => (0..2_usize).prop_map(Op::Schedule),
        24 => (0..4_usize, verdict).prop_map(|(call, verdict)| Op::Step(call, verdict)),
        4 => (1..40_usize).prop_map(Op::Steps),
        2 => Just(Op::Wait),
    ]
}

#[test]
fn after_any_disturbance_triggers_are_what_branches_need_and_no_push_was_missed() {
    let cases: u32 = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(1200);
    let seeds = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/model.proptest-regressions"
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
            count(&second, u32::from(summary.at_once));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    println!(
        "{} cases: {} writes; two functions at once in {}, blind writes in {}, foreign triggers \
         excused in {}",
        ran.get(),
        writes.get(),
        second.get(),
        blind.get(),
        excused.get()
    );
    assert!(ran.get() >= cases, "every case ran");
    assert!(
        blind.get() * 3 < ran.get(),
        "most cases are asked everything"
    );
    assert!(
        excused.get() * 10 < ran.get(),
        "nearly all are asked for every foreign trigger"
    );
    assert!(second.get() * 4 > ran.get(), "two functions meet often");
}
