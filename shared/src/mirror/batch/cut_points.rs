//! The commits at which a history is cut into batches. Pure.
//!
//! The cut points are those of the script that AWS documents for incremental migrations to
//! CodeCommit (user guide, "Migrate a repository incrementally"), so that each can complete a
//! migration that the other started.

use std::collections::HashSet;

use crate::git::ObjectId;
use crate::remote::CommitGraph;

/// A commit whose parents are being walked.
struct Frame {
    commit: ObjectId,
    // Number of commits: itself, and the linear history skipped after it.
    own: u64,
    // Parents still to be walked, last first.
    parents: Vec<ObjectId>,
    // Commits of the parents that are not in a batch yet, with the size of each.
    pending: Vec<(ObjectId, u64)>,
}

struct Walk<'a> {
    history: &'a CommitGraph,
    max_commits: u64,
    walked: HashSet<ObjectId>,
    cuts: Vec<ObjectId>,
}

/// Returns the commits at which `history` is cut, in the order in which they are pushed: a batch
/// is about `max_commits` commits from one to the next.
///
/// `starts` are the commit of `HEAD`, then those of the branches sorted by name. Parents that
/// `history` does not have are ignored.
pub(super) fn cut_points(
    history: &CommitGraph,
    starts: &[ObjectId],
    max_commits: u64,
) -> Vec<ObjectId> {
    let mut walk = Walk {
        history,
        max_commits: max_commits.max(1),
        walked: HashSet::new(),
        cuts: Vec::new(),
    };
    for start in starts {
        // The rest of each start is a batch of its own.
        let rest = walk.run(*start);
        walk.cuts.extend(rest.into_iter().map(|(commit, _)| commit));
    }
    walk.cuts
}

impl Walk<'_> {
    fn parents(&self, commit: ObjectId) -> &[ObjectId] {
        self.history.get(&commit).map_or(&[], AsRef::as_ref)
    }

    /// Walks the ancestors of `start`; returns those that are not in a batch yet. Uses a stack of
    /// its own, because histories are deeper than the thread's.
    fn run(&mut self, start: ObjectId) -> Vec<(ObjectId, u64)> {
        let mut stack: Vec<Frame> = Vec::new();
        let mut next = Some(start);
        loop {
            let mut done = match next.take() {
                Some(commit) if self.walked.contains(&commit) => Vec::new(),
                Some(commit) => {
                    let frame = self.enter(commit);
                    stack.push(frame);
                    Vec::new()
                }
                None => {
                    let Some(frame) = stack.pop() else {
                        return Vec::new();
                    };
                    self.walked.insert(frame.commit);
                    let staged = self.stage(frame.commit, frame.own, &frame.pending);
                    if stack.is_empty() {
                        return staged;
                    }
                    staged
                }
            };
            match stack.last_mut() {
                None => return done,
                Some(frame) => {
                    frame.pending.append(&mut done);
                    next = frame.parents.pop();
                }
            }
        }
    }

    fn enter(&mut self, commit: ObjectId) -> Frame {
        let mut parents: Vec<ObjectId> = self.parents(commit).to_vec();
        parents.reverse();
        let mut own = 1;
        if let [parent] = parents[..] {
            let (ancestor, skipped) = self.skip(parent);
            own += skipped;
            parents = vec![ancestor];
        }
        Frame {
            commit,
            own,
            parents,
            pending: Vec::new(),
        }
    }

    /// Skips linear history: up to a merge, a root commit, a walked commit, or the size of a
    /// batch.
    fn skip(&mut self, mut commit: ObjectId) -> (ObjectId, u64) {
        let mut skipped = 0;
        while skipped < self.max_commits && !self.walked.contains(&commit) {
            let [parent] = *self.parents(commit) else {
                break;
            };
            skipped += 1;
            self.walked.insert(commit);
            commit = parent;
        }
        (commit, skipped)
    }

    /// Turns the pending commits and this one into one batch, several, or none yet; returns those
    /// that remain pending.
    fn stage(
        &mut self,
        commit: ObjectId,
        own: u64,
        pending: &[(ObjectId, u64)],
    ) -> Vec<(ObjectId, u64)> {
        let combined = own + pending.iter().map(|(_, count)| count).sum::<u64>();
        if combined < self.max_commits {
            return vec![(commit, combined)];
        }
        // 5 % more are tolerated, as in the script.
        if combined * 20 <= self.max_commits * 21 {
            self.cuts.push(commit);
            return Vec::new();
        }
        self.cuts.extend(pending.iter().map(|(commit, _)| *commit));
        if own >= self.max_commits {
            self.cuts.push(commit);
            return Vec::new();
        }
        vec![(commit, own)]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: u32) -> ObjectId {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        ObjectId::from_bytes_or_panic(&bytes)
    }

    fn history(commits: &[(u32, &[u32])]) -> CommitGraph {
        commits
            .iter()
            .map(|(commit, parents)| (id(*commit), parents.iter().copied().map(id).collect()))
            .collect()
    }

    fn linear(count: u32) -> CommitGraph {
        (1..=count)
            .map(|n| {
                let parent = (n > 1).then(|| id(n - 1));
                (id(n), parent.into_iter().collect())
            })
            .collect()
    }

    /// Cut points that the script printed for linear histories.
    #[test]
    fn linear_histories_are_cut_where_the_script_cuts_them() {
        for (count, max_commits, expected) in [
            (3, 10, &[3][..]),
            (10, 10, &[10]),
            (11, 10, &[1, 11]),
            (20, 10, &[9, 20]),
            (21, 10, &[10, 21]),
            (22, 10, &[1, 11, 22]),
            (25, 10, &[3, 14, 25]),
            (45, 10, &[1, 12, 23, 34, 45]),
            (100, 20, &[16, 37, 58, 79, 100]),
        ] {
            let found = cut_points(&linear(count), &[id(count)], max_commits);
            let expected: Vec<_> = expected.iter().copied().map(id).collect();
            assert_eq!(
                found, expected,
                "{count} commits in batches of {max_commits}"
            );
        }
    }

    /// Cut points that the script printed for a history with a merge and a release branch.
    #[test]
    fn merges_are_cut_where_the_script_cuts_them() {
        // m1..m9 are 1..9, s1..s4 are 11..14, M1 is 20, r1 and r2 are 31 and 32.
        let merged = history(&[
            (1, &[]),
            (2, &[1]),
            (3, &[2]),
            (11, &[3]),
            (12, &[11]),
            (13, &[12]),
            (14, &[13]),
            (4, &[3]),
            (5, &[4]),
            (20, &[5, 14]),
            (6, &[20]),
            (7, &[6]),
            (8, &[7]),
            (9, &[8]),
            (31, &[7]),
            (32, &[31]),
        ]);
        let starts = [9, 9, 32, 14].map(id);
        for (max_commits, expected) in [
            (3, &[1, 5, 14, 20, 9, 32][..]),
            (4, &[1, 5, 14, 20, 9, 32]),
            (5, &[5, 20, 9, 32]),
            (6, &[5, 14, 9, 32]),
        ] {
            let expected: Vec<_> = expected.iter().copied().map(id).collect();
            assert_eq!(
                cut_points(&merged, &starts, max_commits),
                expected,
                "batches of {max_commits}"
            );
        }
    }

    #[test]
    fn a_long_history_does_not_overflow_the_stack() {
        let mut history = CommitGraph::new();
        history.insert(id(0), Box::default());
        for n in 1..300_000 {
            // All commits are merges, so that none is skipped.
            let parents = [id(n - 1), id(n.saturating_sub(2))];
            history.insert(id(n), parents.into());
        }
        assert!(!cut_points(&history, &[id(299_999)], 1000).is_empty());
    }

    /// The script's algorithm, recursive as in the original.
    struct Model<'a> {
        history: &'a CommitGraph,
        max_commits: u64,
        walked: HashSet<ObjectId>,
        cuts: Vec<ObjectId>,
    }

    impl Model<'_> {
        fn migrate(&mut self, commit: ObjectId) -> Vec<(ObjectId, u64)> {
            if self.walked.contains(&commit) {
                return Vec::new();
            }
            let parents = self.history[&commit].clone();
            let mut pending = Vec::new();
            let mut count = 1;
            if parents.len() > 1 {
                for parent in &parents {
                    pending.extend(self.migrate(*parent));
                }
            } else if let Some(parent) = parents.first() {
                let mut at = *parent;
                let mut skipped = 0;
                while self.history[&at].len() == 1
                    && skipped < self.max_commits
                    && !self.walked.contains(&at)
                {
                    skipped += 1;
                    self.walked.insert(at);
                    at = self.history[&at][0];
                }
                count += skipped;
                pending.extend(self.migrate(at));
            }
            self.walked.insert(commit);
            let sum: u64 = pending.iter().map(|(_, count)| count).sum();
            if count + sum < self.max_commits {
                return vec![(commit, count + sum)];
            }
            #[expect(
                clippy::cast_precision_loss,
                reason = "the script uses floating point too"
            )]
            if (count + sum) as f64 <= self.max_commits as f64 + self.max_commits as f64 * 0.05 {
                self.cuts.push(commit);
                return Vec::new();
            }
            self.cuts.extend(pending.iter().map(|(commit, _)| *commit));
            if count >= self.max_commits {
                self.cuts.push(commit);
                return Vec::new();
            }
            vec![(commit, count)]
        }
    }

    proptest! {
        #[test]
        fn random_histories_are_cut_as_the_script_cuts_them(
            shape in proptest::collection::vec((0_u32..6, 0_u32..6, 0_u32..8), 1..80),
            branches in proptest::collection::vec(0_usize..80, 1..5),
            max_commits in 1_u64..30,
        ) {
            let mut history = CommitGraph::new();
            for (n, (first, second, kind)) in (0_u32..).zip(&shape) {
                let parents: Box<[ObjectId]> = match kind {
                    _ if n == 0 => Box::default(),
                    0 => Box::default(),
                    1 | 2 => [id(n.saturating_sub(1 + first)), id(n.saturating_sub(1 + second))].into(),
                    _ => [id(n - 1)].into(),
                };
                history.insert(id(n), parents);
            }
            let starts: Vec<_> = branches
                .iter()
                .map(|at| id(u32::try_from(at % shape.len()).unwrap()))
                .collect();
            let mut model = Model {
                history: &history,
                max_commits,
                walked: HashSet::new(),
                cuts: Vec::new(),
            };
            for start in &starts {
                let rest = model.migrate(*start);
                model.cuts.extend(rest.into_iter().map(|(commit, _)| commit));
            }
            prop_assert_eq!(cut_points(&history, &starts, max_commits), model.cuts);
        }
    }
}
