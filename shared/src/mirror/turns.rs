//! Runs work concurrently, but one item after the other where items have one key, such as a target.

use std::collections::{HashMap, VecDeque};

use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt as _};

/// Runs `work` for each item, at most `max_concurrent` at once, and returns the results in the
/// order of the items. Items of one `key` run one after the other in their order, because
/// concurrent pushes to one target conflict.
///
/// Work starts before `items` has ended.
pub async fn run_in_turns<T, R, W>(
    items: impl Stream<Item = T>,
    key: impl Fn(&T) -> String,
    max_concurrent: usize,
    mut work: impl FnMut(usize, T) -> W,
) -> Vec<R>
where
    W: Future<Output = R>,
{
    let mut items = std::pin::pin!(items.fuse());
    let mut waiting: HashMap<String, VecDeque<(usize, T)>> = HashMap::new();
    // Keys of items that can start, in the order of the items.
    let mut ready: VecDeque<String> = VecDeque::new();
    let mut running = FuturesUnordered::new();
    let mut results = Vec::new();
    let (mut count, mut has_ended) = (0, false);
    let mut start = |index, key: String, item| {
        let work = work(index, item);
        async move { (index, key, work.await) }
    };
    loop {
        while running.len() < max_concurrent.max(1)
            && let Some(key) = ready.pop_front()
        {
            let next = waiting.get_mut(&key).and_then(VecDeque::pop_front);
            if let Some((index, item)) = next {
                running.push(start(index, key, item));
            }
        }
        tokio::select! {
            item = items.next(), if !has_ended => match item {
                None => has_ended = true,
                Some(item) => {
                    let key = key(&item);
                    // The key stays in `waiting` as long as one of its items is running.
                    let queue = waiting.entry(key.clone()).or_insert_with(|| {
                        ready.push_back(key);
                        VecDeque::new()
                    });
                    queue.push_back((count, item));
                    count += 1;
                }
            },
            Some((index, key, result)) = running.next(), if !running.is_empty() => {
                results.push((index, result));
                if waiting.get(&key).is_some_and(VecDeque::is_empty) {
                    waiting.remove(&key);
                } else {
                    ready.push_back(key);
                }
            }
            else => break,
        }
    }
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::stream;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn items_of_one_key_run_in_turns_and_others_concurrently() {
        let running = RefCell::new(Vec::new());
        let most = RefCell::new(0);
        let items = ["a1", "a2", "b1", "c1", "a3"];
        let results = run_in_turns(
            stream::iter(items),
            |item| item[..1].to_owned(),
            2,
            |index, item| {
                let (running, most) = (&running, &most);
                async move {
                    assert!(
                        running
                            .borrow()
                            .iter()
                            .all(|other: &&str| other[..1] != item[..1]),
                        "{item} runs beside another item of its key"
                    );
                    running.borrow_mut().push(item);
                    let now = running.borrow().len();
                    let highest = now.max(*most.borrow());
                    *most.borrow_mut() = highest;
                    for _ in 0..=index {
                        tokio::task::yield_now().await;
                    }
                    running.borrow_mut().retain(|other| *other != item);
                    format!("{index}{item}")
                }
            },
        )
        .await;
        assert_eq!(results, ["0a1", "1a2", "2b1", "3c1", "4a3"]);
        assert_eq!(*most.borrow(), 2);
    }

    #[tokio::test]
    async fn work_starts_before_the_items_have_ended() {
        let (started, wait) = oneshot::channel();
        let started = RefCell::new(Some(started));
        // The second item comes after the first one has run.
        let items = stream::iter([1]).chain(stream::once(async {
            wait.await.unwrap();
            2
        }));
        let results = run_in_turns(
            items,
            |_| String::new(),
            1,
            |_, item| {
                let started = started.borrow_mut().take();
                async move {
                    if let Some(started) = started {
                        started.send(()).unwrap();
                    }
                    item
                }
            },
        )
        .await;
        assert_eq!(results, [1, 2]);
    }
}
