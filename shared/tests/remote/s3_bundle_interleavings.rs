//! Concurrent pushes in every order, with a writer that crashes and locks that expire at every
//! point.
//!
//! The next call of a writer depends only on the answers that it got. So two orders that result
//! in the same bucket and in the same answers for each writer have the same continuations, and
//! only one of them is followed: the tests walk the graph of such states, whose edges are single
//! calls.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::remote::s3_bundle_fixture::BundleFixture;
use crate::remote::s3_bundle_interleaving_harness::{Call, Gate, WriterResult, judge, start};

/// State of the bucket in terms that are equal in every run, because locks hold random words.
#[derive(Default, Hash)]
struct History {
    /// Writer of each key, the answers that the writer had got, and the time.
    objects: BTreeMap<String, (usize, u64, bool)>,
    writers: Vec<Writer>,
    /// Whether earlier writes are old.
    aged: bool,
}

/// State of a writer.
#[derive(Debug, Clone, Copy, Default, Hash)]
struct Writer {
    /// Answers that the writer got.
    seen: u64,
    /// Calls that wait for their turn.
    waiting: usize,
    reported: Option<WriterResult>,
    dead: bool,
}

/// A writer's gate: it opens for one call at a time.
struct Turnstile {
    writer: usize,
    turns: Semaphore,
    history: Arc<Mutex<History>>,
}

#[async_trait]
impl Gate for Turnstile {
    async fn pass(&self) {
        self.history.lock().unwrap().writers[self.writer].waiting += 1;
        self.turns.acquire().await.unwrap().forget();
        self.history.lock().unwrap().writers[self.writer].waiting -= 1;
    }

    fn executed(&self, call: Call<'_>) {
        let History {
            objects,
            writers,
            aged,
        } = &mut *self.history.lock().unwrap();
        let seen = &mut writers[self.writer].seen;
        let keys: Vec<_> = call.keys.iter().map(|key| key.as_str()).collect();
        let found: Vec<_> = keys.iter().map(|key| objects.get(*key)).collect();
        let failed = format!("{:?}", call.failed);
        let mut hasher = DefaultHasher::new();
        (*seen, call.name, &keys, found, failed).hash(&mut hasher);
        *seen = hasher.finish();
        let Some(key) = keys.first().filter(|_| call.failed.is_none()) else {
            return;
        };
        match call.name {
            "put" | "complete_upload" => {
                let written = (self.writer, *seen, *aged);
                objects.insert((*key).to_owned(), written);
            }
            "delete" => {
                objects.remove(*key);
            }
            _ => {}
        }
    }
}

/// Possible next event.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// The writer's next call is executed.
    Turn(usize),
    /// The writer crashes.
    Death(usize),
    /// All locks expire.
    Age,
}

/// Writers that wait at their gates.
struct Stage {
    world: BundleFixture,
    gates: Vec<Arc<Turnstile>>,
    history: Arc<Mutex<History>>,
}

impl Stage {
    async fn new(python: &[bool]) -> Self {
        let world = BundleFixture::new(5 << 20);
        let history = Arc::new(Mutex::new(History {
            writers: vec![Writer::default(); python.len()],
            ..History::default()
        }));
        let gates: Vec<_> = (0..python.len())
            .map(|writer| {
                Arc::new(Turnstile {
                    writer,
                    turns: Semaphore::new(0),
                    history: Arc::clone(&history),
                })
            })
            .collect();
        let writers = start(&world, python, |number| gates[number].clone()).await;
        for (number, writer) in writers.into_iter().enumerate() {
            let history = Arc::clone(&history);
            tokio::spawn(async move {
                let reported = writer.await;
                history.lock().unwrap().writers[number].reported = Some(reported);
            });
        }
        let stage = Self {
            world,
            gates,
            history,
        };
        stage.settle().await;
        stage
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap()
    }

    /// Waits until every writer is at its gate, or has ended.
    async fn settle(&self) {
        for _ in 0..100_000 {
            // All pending work is a task of this thread.
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            let mut writers = self.history().writers.clone().into_iter();
            if writers.all(|writer| writer.waiting > 0 || writer.reported.is_some()) {
                return;
            }
        }
        panic!("a writer neither ends nor asks for anything");
    }

    async fn happen(&self, event: Event) {
        match event {
            Event::Turn(writer) => {
                self.gates[writer].turns.add_permits(1);
                tokio::task::yield_now().await;
                self.settle().await;
            }
            // The gate stays closed, so that no pending call continues.
            Event::Death(writer) => self.history().writers[writer].dead = true,
            Event::Age => {
                self.history().aged = true;
                self.world.clock.fetch_add(1000, Ordering::Relaxed);
            }
        }
    }

    /// Lists the possible events; none when all writers have ended. With `harsh`, one writer
    /// crashes and locks expire once.
    fn next(&self, harsh: bool) -> Vec<Event> {
        let writers = 0..self.gates.len();
        let alive: Vec<_> = writers.filter(|at| self.is_at_work(*at)).collect();
        let history = self.history();
        let mut next: Vec<_> = alive.iter().copied().map(Event::Turn).collect();
        if harsh && !next.is_empty() {
            next.extend((!history.aged).then_some(Event::Age));
            if !history.writers.iter().any(|writer| writer.dead) {
                next.extend(alive.into_iter().map(Event::Death));
            }
        }
        next
    }

    fn is_at_work(&self, writer: usize) -> bool {
        let writer = self.history().writers[writer];
        writer.reported.is_none() && !writer.dead
    }

    fn reported(&self) -> Vec<Option<WriterResult>> {
        let history = self.history();
        history
            .writers
            .iter()
            .map(|writer| writer.reported)
            .collect()
    }

    /// Returns the state that determines all continuations.
    fn place(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.history().hash(&mut hasher);
        hasher.finish()
    }
}

/// Orders to follow.
#[derive(Debug, Clone, Copy)]
struct Orders<'a> {
    /// Kinds of the writers: the Python client's, or ours.
    python: &'a [bool],
    /// Whether a writer crashes, and all locks expire once, at every point.
    harsh: bool,
    /// Maximum number of switches away from a writer that has not ended.
    switches: usize,
}

/// Results of all orders.
#[derive(Debug, Default)]
struct Walk {
    places: HashSet<(u64, Option<usize>, usize)>,
    /// Number of orders that were followed to a known state or to an end.
    orders: usize,
    /// Number of orders by the number of writers that reported success.
    won: BTreeMap<usize, usize>,
}

impl Orders<'_> {
    /// Follows all orders; returns their number by the number of writers that reported success.
    fn follow(self) -> BTreeMap<usize, usize> {
        let mut walk = Walk::default();
        let mut open: Vec<Vec<Event>> = vec![Vec::new()];
        while let Some(order) = open.pop() {
            walk.orders += 1;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            runtime.block_on(self.follow_one(order, &mut walk, &mut open));
        }
        let (places, orders) = (walk.places.len(), walk.orders);
        println!(
            "{self:?}: {places} places, {orders} orders, winners: {:?}",
            walk.won
        );
        walk.won
    }

    /// Follows one order, and from its end the first event of each new state; the other events
    /// of these states are left open.
    async fn follow_one(self, order: Vec<Event>, walk: &mut Walk, open: &mut Vec<Vec<Event>>) {
        let stage = Stage::new(self.python).await;
        let mut at = At::default();
        for event in &order {
            at.follow(&stage, *event);
            stage.happen(*event).await;
        }
        let mut order = order;
        loop {
            // The last writer does not matter if all orders are followed.
            let (last, switches) = match self.switches {
                usize::MAX => (None, 0),
                _ => (at.last, at.switches),
            };
            if !walk.places.insert((stage.place(), last, switches)) {
                return;
            }
            let next = stage.next(self.harsh).into_iter();
            let mut next = next.filter(|event| at.after(&stage, *event) <= self.switches);
            let Some(first) = next.next() else {
                let reported = stage.reported();
                let won = reported
                    .iter()
                    .filter(|reported| **reported == Some(WriterResult::Ok));
                *walk.won.entry(won.count()).or_default() += 1;
                if let Err(error) = judge(&stage.world, &reported, self.python).await {
                    panic!("in the order {order:?}: {error}");
                }
                return;
            };
            for other in next {
                let mut way = order.clone();
                way.push(other);
                open.push(way);
            }
            at.follow(&stage, first);
            order.push(first);
            stage.happen(first).await;
        }
    }
}

/// Last writer, and the number of switches away from writers that had not ended.
#[derive(Debug, Clone, Copy, Default)]
struct At {
    last: Option<usize>,
    switches: usize,
}

impl At {
    /// Returns the number of switches after the event.
    fn after(self, stage: &Stage, event: Event) -> usize {
        let Event::Turn(writer) = event else {
            return self.switches;
        };
        let left = self.last.filter(|last| *last != writer);
        self.switches + usize::from(left.is_some_and(|last| stage.is_at_work(last)))
    }

    fn follow(&mut self, stage: &Stage, event: Event) {
        self.switches = self.after(stage, event);
        if let Event::Turn(writer) = event {
            self.last = Some(writer);
        }
    }
}

/// Every order of the calls, without crashes and expired locks.
fn every_order(python: &[bool]) -> Orders<'_> {
    Orders {
        python,
        harsh: false,
        switches: usize::MAX,
    }
}

/// All orders of two writers, with crashes and locks that expire.
fn follow_with_crashes(python: &[bool]) -> BTreeMap<usize, usize> {
    Orders {
        harsh: true,
        ..every_order(python)
    }
    .follow()
}

#[test]
fn of_two_pushes_of_ours_at_most_one_wins_despite_a_crash_and_expired_locks() {
    let won = follow_with_crashes(&[false, false]);
    assert!(won.keys().eq(&[0, 1]), "{won:?}");
}

#[test]
fn no_commit_is_lost_alongside_a_python_client_despite_a_crash_and_expired_locks() {
    // The Python client's lock has no owner: if it was taken over, both writers report success,
    // and both have a ref.
    let won = follow_with_crashes(&[false, true]);
    assert!(won.keys().eq(&[0, 1, 2]), "{won:?}");
    follow_with_crashes(&[true, true]);
}

/// "Of several concurrent pushes to a ref of a bundle remote one wins, in every order."
#[test]
fn of_three_pushes_with_python_clients_one_wins_in_every_order() {
    for python in [[false, true, true], [false, false, true]] {
        let won = every_order(&python).follow();
        assert!(won.keys().eq(&[1]), "{won:?}");
    }
}

/// All orders with `BRANCHLINE_ALL_ORDERS`, which takes some minutes; otherwise those with at
/// most three switches away from a writer.
#[test]
fn of_three_pushes_of_ours_one_wins_in_every_order() {
    let python = [false; 3];
    let switches = match std::env::var_os("BRANCHLINE_ALL_ORDERS") {
        Some(_) => usize::MAX,
        None => 3,
    };
    let won = Orders {
        switches,
        ..every_order(&python)
    }
    .follow();
    assert!(won.keys().eq(&[1]), "{won:?}");
}
