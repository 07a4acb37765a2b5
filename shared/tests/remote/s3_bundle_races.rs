//! Concurrent pushes in random orders of their requests: ours and the Python client's, with
//! writers that crash and locks that expire at any point.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use proptest::prelude::*;

use crate::remote::s3_bundle_fixture::BundleFixture;
use crate::remote::s3_bundle_interleaving_harness::{Gate, Writer, WriterResult, judge, start};

/// Pending once: the scheduler polls a writer once for each step.
struct Step(bool);

impl Future for Step {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            Poll::Ready(())
        } else {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    }
}

struct Once;

#[async_trait]
impl Gate for Once {
    async fn pass(&self) {
        Step(false).await;
    }
}

#[derive(Debug, Clone, Copy)]
enum Turn {
    /// The writer's next request is executed.
    Step(usize),
    /// The writer crashes.
    Kill(usize),
    /// All locks that are not renewed expire.
    Age,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    // Several requests of one writer in a row, so that the others may wait at any point.
    let run = (0..3_usize, prop_oneof![1..4_usize, 1..40_usize])
        .prop_map(|(writer, steps)| vec![Turn::Step(writer); steps]);
    let turn = prop_oneof![
        8 => run,
        1 => (0..3_usize).prop_map(|writer| vec![Turn::Kill(writer)]),
        3 => Just(vec![Turn::Age]),
    ];
    prop::collection::vec(turn, 0..24).prop_map(|turns| turns.concat())
}

/// Runs the writers by these turns, and then until they end.
async fn play(
    world: &BundleFixture,
    mut writers: Vec<Option<Writer>>,
    turns: &[Turn],
) -> Vec<Option<WriterResult>> {
    let mut reported = vec![None; writers.len()];
    let mut context = Context::from_waker(Waker::noop());
    let mut turns = turns.iter().copied();
    let mut round = 0;
    let mut quiet = 0;
    while writers.iter().any(Option::is_some) {
        let turn = turns.next().unwrap_or_else(|| {
            round += 1;
            Turn::Step(round % writers.len())
        });
        match turn {
            Turn::Age => {
                world.clock.fetch_add(1000, Ordering::Relaxed);
            }
            Turn::Kill(writer) => {
                // Its requests end with it. Its destructors are not awaited, because a killed
                // process runs none.
                if let Some(writer) = writers.get_mut(writer).and_then(Option::take) {
                    std::mem::forget(writer);
                }
            }
            Turn::Step(writer) => {
                let Some(slot) = writers.get_mut(writer) else {
                    continue;
                };
                let Some(future) = slot else { continue };
                if let Poll::Ready(answer) = future.as_mut().poll(&mut context) {
                    reported[writer] = Some(answer);
                    *slot = None;
                    quiet = 0;
                }
            }
        }
        // Tasks that a writer started make progress, too.
        tokio::task::yield_now().await;
        quiet += 1;
        assert!(quiet < 10_000, "a writer never ends");
    }
    reported
}

/// Plays the turns and checks the result; returns the number of writers that reported success.
fn case(python_writers: &[bool], turns: &[Turn]) -> Result<usize, TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(false)
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = BundleFixture::new(5 << 20);
        let writers = start(&world, python_writers, |_| Arc::new(Once)).await;
        let reported = play(&world, writers.into_iter().map(Some).collect(), turns).await;
        judge(&world, &reported, python_writers).await?;
        Ok(reported
            .iter()
            .filter(|reported| **reported == Some(WriterResult::Ok))
            .count())
    })
}

proptest! {
    #[test]
    fn at_most_one_push_of_ours_wins_in_any_order(turns in turns(), writers in 2..4_usize) {
        case(&vec![false; writers], &turns)?;
    }

    #[test]
    fn no_acknowledged_push_is_lost_alongside_the_python_client(
        turns in turns(),
        others in 1..3_usize,
    ) {
        let mut python = vec![false; others];
        python.push(true);
        case(&python, &turns)?;
    }

    #[test]
    fn two_python_clients_alongside_ours_lose_no_bundle_that_can_be_kept(turns in turns()) {
        case(&[true, false, true], &turns)?;
    }
}

/// The Python client considers a live lock of ours abandoned, and crashes at any point.
#[test]
fn a_stolen_lock_of_a_live_owner_does_not_make_a_second_winner() {
    for ours in 0..34 {
        for python in 0..14 {
            let mut turns = vec![Turn::Step(0); ours];
            turns.push(Turn::Age);
            turns.extend(vec![Turn::Step(1); python]);
            turns.extend(vec![Turn::Step(0); 80]);
            turns.extend(vec![Turn::Step(1); 40]);
            let won = case(&[false, true], &turns)
                .unwrap_or_else(|error| panic!("{ours} and {python} steps: {error}"));
            assert!(won <= 1, "both have won after {ours} and {python} steps");
        }
    }
}
