//! A plain model of pull requests from `feature` into `trunk`.
//!
//! The pipeline `check` is started if and only if an open pull request is at another commit than its
//! artifact, and a file of `src` differs between its merge base and this commit. The pipeline
//! `clean-up` is started once, when a pull request with an artifact is found closed; its artifact is
//! then deleted.

use branchline_core::name::{CommitId, PullRequestId};
use branchline_core::testkit::{CommitText, Entry};
use proptest::prelude::*;
use serde_json::Value;

use crate::fixture::*;
use crate::pull_requests::event;

const FILES: [&str; 2] = ["src/a", "docs/a"];

/// Contents of `FILES`.
type Files = [u8; 2];

/// Operation of the model.
#[derive(Debug, Clone)]
pub(crate) enum PullOp {
    /// A commit on the source branch sets a file to one of three contents.
    Push(usize, u8),
    /// A pull request is opened, unless one is open.
    Open,
    /// The open pull request is closed, or merged.
    Close { is_merged: bool },
    /// An event of any pull request arrives: of its creation, of a push, or of its end.
    Event { number: usize, name: usize },
}

impl PullOp {
    pub(crate) fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            4 => (0..FILES.len(), 0..3_u8).prop_map(|(file, content)| Self::Push(file, content)),
            2 => Just(Self::Open),
            1 => any::<bool>().prop_map(|is_merged| Self::Close { is_merged }),
            5 => (0..4_usize, 0..3_usize).prop_map(|(number, name)| Self::Event { number, name }),
        ]
    }
}

/// A pull request.
#[derive(Debug)]
struct Pull {
    id: PullRequestId,
    is_closed: bool,
    /// Commit of the artifact.
    archived: Option<CommitId>,
}

/// Pull requests of a repository.
#[derive(Debug)]
pub(crate) struct Pulls {
    all: Vec<Pull>,
    /// Tip of the source branch.
    source: (CommitId, Files),
    /// Files of the best common ancestor of both branches.
    base: Files,
    commits: usize,
}

fn commit(
    fixture: &UpdateFixture,
    branch: &str,
    parents: &[CommitId],
    files: Files,
    number: usize,
) -> CommitId {
    let changes: Vec<(&str, Entry)> = FILES
        .iter()
        .zip(files)
        .map(|(path, content)| (*path, Entry::file([content])))
        .collect();
    // The number of commits makes equal trees different commits.
    let text = CommitText::new(format!("{branch} {number}\n"));
    let service = &fixture.codecommit;
    service.commit_on(&repository(), branch, parents, &changes, &text)
}

impl Pulls {
    pub(crate) fn new(fixture: &UpdateFixture) -> Self {
        let files = [0, 0];
        let root = commit(fixture, "trunk", &[], files, 0);
        let service = &fixture.codecommit;
        service.set_branch(&repository(), "feature", root);
        Self {
            all: Vec::new(),
            source: (root, files),
            base: files,
            commits: 1,
        }
    }

    /// Applies an operation; returns an event to send, and the pipelines that it starts.
    pub(crate) fn apply(
        &mut self,
        fixture: &UpdateFixture,
        op: &PullOp,
    ) -> Option<(Value, Vec<String>)> {
        let open = self.all.iter().position(|pull| !pull.is_closed);
        match (op, open) {
            (PullOp::Push(file, content), _) => {
                let (tip, mut files) = self.source;
                files[*file] = *content;
                self.commits += 1;
                let tip = commit(fixture, "feature", &[tip], files, self.commits);
                self.source = (tip, files);
            }
            (PullOp::Open, None) => {
                let service = &fixture.codecommit;
                self.all.push(Pull {
                    id: service.open_pull_request(&repository(), "feature", "trunk"),
                    is_closed: false,
                    archived: None,
                });
            }
            (PullOp::Close { is_merged }, Some(at)) => {
                let (tip, files) = self.source;
                let pull = &mut self.all[at];
                pull.is_closed = true;
                let service = &fixture.codecommit;
                service.close_pull_request(&pull.id, *is_merged);
                if *is_merged {
                    service.set_branch(&repository(), "trunk", tip);
                    self.base = files;
                }
            }
            (PullOp::Event { number, name }, _) => {
                let at = number.checked_rem(self.all.len())?;
                let pull = &self.all[at];
                let status = if pull.is_closed { "Closed" } else { "Open" };
                // The end of an open pull request has no event.
                let names = [
                    "pullRequestCreated",
                    "pullRequestSourceBranchUpdated",
                    "pullRequestStatusChanged",
                ];
                let name = names[if pull.is_closed { *name } else { name % 2 }];
                let event = event(&pull.id, name, status);
                return Some((event, self.start(at)));
            }
            (PullOp::Open | PullOp::Close { .. }, _) => {}
        }
        None
    }

    /// Returns the pipelines that a run starts for a pull request, and records them.
    fn start(&mut self, at: usize) -> Vec<String> {
        let (source, base) = (self.source, self.base);
        let pull = &mut self.all[at];
        if pull.is_closed {
            let was_archived = pull.archived.take().is_some();
            return Vec::from_iter(was_archived.then(|| "clean-up".to_owned()));
        }
        let (tip, files) = source;
        if pull.archived.replace(tip) == Some(tip) {
            return Vec::new();
        }
        Vec::from_iter((files[0] != base[0]).then(|| "check".to_owned()))
    }

    /// Returns the pipelines that a schedule starts, and records them.
    pub(crate) fn start_all(&mut self) -> Vec<String> {
        let all = 0..self.all.len();
        all.flat_map(|at| self.start(at)).collect()
    }

    /// Returns the keys of all pull requests, with the commit of the artifact that is there.
    pub(crate) fn artifacts(&self) -> impl Iterator<Item = (String, Option<CommitId>)> + '_ {
        let all = self.all.iter();
        all.map(|pull| (format!("demo/pull/{}.zip", pull.id), pull.archived))
    }
}
