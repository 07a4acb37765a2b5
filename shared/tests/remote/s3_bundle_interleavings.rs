//! Pushes at the same time in every order there is, with a writer that dies and locks that
//! grow old at every point.
//!
//! What a writer does next follows from the answers that it got. So two orders that left
//! the bucket the same and gave each writer the same answers have the same futures, and
//! only one of them is followed: what is walked through is the graph of such places, and
//! each edge of it is one call of one writer.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::remote::s3_bundle_fixture::World;
use crate::remote::s3_bundle_interleaving_harness::{Call, Gate, Told, judge, start};

/// What has happened, in terms that are the same in every run: locks hold random words.
#[derive(Default, Hash)]
struct History {
    /// Who wrote what lies under a key, what that writer had seen then, and when.
    objects: BTreeMap<String, (usize, u64, bool)>,
    writers: Vec<Writer>,
    /// Whether what was written before is old.
    aged: bool,
}

/// Where a writer is.
#[derive(Debug, Clone, Copy, Default, Hash)]
struct Writer {
    /// The answers that it got.
    seen: u64,
    /// Its calls that wait for their turn.
    waiting: usize,
    told: Option<Told>,
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

/// What can happen next.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// That writer's next call is executed.
    Turn(usize),
    /// That writer dies.
    Death(usize),
    /// All locks are old now.
    Age,
}

/// Writers that stand at their gates.
struct Stage {
    world: World,
    gates: Vec<Arc<Turnstile>>,
    history: Arc<Mutex<History>>,
}

impl Stage {
    async fn new(python: &[bool]) -> Self {
        let world = World::new(5 << 20);
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
                let told = writer.await;
                history.lock().unwrap().writers[number].told = Some(told);
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

    /// Waits until every writer stands at its gate, or has ended.
    async fn settle(&self) {
        for _ in 0..100_000 {
            // All that is under way is a task of this thread.
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            let mut writers = self.history().writers.clone().into_iter();
            if writers.all(|one| one.waiting > 0 || one.told.is_some()) {
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
            // Its gate opens no more: nothing that it began goes on.
            Event::Death(writer) => self.history().writers[writer].dead = true,
            Event::Age => {
                self.history().aged = true;
                self.world.clock.fetch_add(1000, Ordering::Relaxed);
            }
        }
    }

    /// What can happen now. One writer dies, and locks grow old once, where that is
    /// `harsh`; nothing when all have ended.
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
        writer.told.is_none() && !writer.dead
    }

    fn told(&self) -> Vec<Option<Told>> {
        let history = self.history();
        history.writers.iter().map(|writer| writer.told).collect()
    }

    /// What decides all that can still happen.
    fn place(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.history().hash(&mut hasher);
        hasher.finish()
    }
}

/// Which orders are followed.
#[derive(Debug, Clone, Copy)]
struct Orders<'a> {
    /// The writers: the Python client's, or ours.
    python: &'a [bool],
    /// One writer dies, and all locks grow old once, at every point.
    harsh: bool,
    /// How often a writer that has not ended is left for another one.
    switches: usize,
}

/// What was found on the way through all orders.
#[derive(Debug, Default)]
struct Walk {
    places: HashSet<(u64, Option<usize>, usize)>,
    /// Orders that were followed to a place where somebody was before, or to an end.
    orders: usize,
    /// How often so many writers were told that they had won.
    won: BTreeMap<usize, usize>,
}

impl Orders<'_> {
    /// Follows all of them. How often so many writers were told that they had won.
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

    /// Follows one order, and from its end the first way that leads on, as long as that
    /// leads to places where nobody was; the other ways on from those are left open.
    async fn follow_one(self, order: Vec<Event>, walk: &mut Walk, open: &mut Vec<Vec<Event>>) {
        let stage = Stage::new(self.python).await;
        let mut at = At::default();
        for event in &order {
            at.follow(&stage, *event);
            stage.happen(*event).await;
        }
        let mut order = order;
        loop {
            // Where all orders are followed, it does not matter who was at work last.
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
                let told = stage.told();
                let won = told.iter().filter(|told| **told == Some(Told::Ok));
                *walk.won.entry(won.count()).or_default() += 1;
                if let Err(error) = judge(&stage.world, &told, self.python).await {
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

/// Who was at work last, and how often one was left before it had ended.
#[derive(Debug, Clone, Copy, Default)]
struct At {
    last: Option<usize>,
    switches: usize,
}

impl At {
    /// How often one was left, when that happens next.
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

/// All orders.
fn all(python: &[bool]) -> Orders<'_> {
    Orders {
        python,
        harsh: false,
        switches: usize::MAX,
    }
}

/// All orders of two, with deaths and locks that grow old.
fn harsh(python: &[bool]) -> BTreeMap<usize, usize> {
    Orders {
        harsh: true,
        ..all(python)
    }
    .follow()
}

#[test]
fn of_two_of_ours_at_most_one_wins_though_one_dies_and_locks_grow_old() {
    let won = harsh(&[false, false]);
    assert!(won.keys().eq(&[0, 1]), "{won:?}");
}

#[test]
fn nothing_is_lost_beside_a_python_client_though_one_dies_and_locks_grow_old() {
    // It holds a lock that nobody can tell to be another one's: where that was taken over,
    // both have won, and both have their ref.
    let won = harsh(&[false, true]);
    assert!(won.keys().eq(&[0, 1, 2]), "{won:?}");
    harsh(&[true, true]);
}

/// "Of several concurrent pushes to a ref of a bundle remote one wins, in every order."
#[test]
fn of_three_with_python_clients_one_wins_in_every_order() {
    for python in [[false, true, true], [false, false, true]] {
        let won = all(&python).follow();
        assert!(won.keys().eq(&[1]), "{won:?}");
    }
}

/// All orders with `BRANCHLINE_ALL_ORDERS`, which takes some minutes; else those in which a
/// writer is left for another one three times.
#[test]
fn of_three_of_ours_one_wins_in_every_order() {
    let python = [false; 3];
    let switches = match std::env::var_os("BRANCHLINE_ALL_ORDERS") {
        Some(_) => usize::MAX,
        None => 3,
    };
    let won = Orders {
        switches,
        ..all(&python)
    }
    .follow();
    assert!(won.keys().eq(&[1]), "{won:?}");
}
