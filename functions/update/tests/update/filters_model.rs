//! A property test of filters against a plain model.
//!
//! Two services and common code are changed, reverted and rewritten, a tag is moved, and pull
//! requests are opened, pushed to, merged and closed; events arrive, late, doubled or never;
//! schedules run, each after a plan that says what it does. Whenever the function runs, a pipeline
//! is started if and only if one of its files differs between the commit that was started last and
//! the tip, the pipeline of the tag if and only if it was started last at another commit, and the
//! pipelines of a pull request as `pull_requests_model` says.

use std::collections::BTreeMap;

use branchline_core::name::CommitId;
use branchline_core::testkit::{CommitText, Entry};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::{Value, json};

use crate::filters::{fixture, started};
use crate::fixture::*;
use crate::model_runs::run_model;
use crate::pull_requests_model::{PullOp, Pulls};

const TRIGGERS: &str = r#"[
  {"pipeline": "web", "gitConfiguration": {"sourceActionName": "Source", "push": [
    {"branches": {"includes": ["main"]},
     "filePaths": {"includes": ["web/**", "common/**"], "excludes": ["**/*.md"]}}]}},
  {"pipeline": "api", "gitConfiguration": {"sourceActionName": "Source", "push": [
    {"branches": {"includes": ["main"]}, "filePaths": {"includes": ["api/**", "common/**"]}}]}},
  {"pipeline": "release", "gitConfiguration": {"sourceActionName": "Source", "push": [
    {"tags": {"includes": ["v*"]}}]}},
  {"pipeline": "check", "gitConfiguration": {"sourceActionName": "Source", "pullRequest": [
    {"events": ["OPEN", "UPDATED"], "branches": {"includes": ["trunk"]},
     "filePaths": {"includes": ["src/**"]}}]}},
  {"pipeline": "clean-up", "gitConfiguration": {"sourceActionName": "Source", "pullRequest": [
    {"events": ["CLOSED"], "branches": {"includes": ["trunk"]}}]}}]"#;

const PATHS: [&str; 5] = ["web/a", "api/a", "common/a", "docs/a", "web/a.md"];

/// Pipelines, and the paths that start them.
const PIPELINES: [(&str, [bool; 5]); 2] = [
    ("web", [true, false, true, false, false]),
    ("api", [false, true, true, false, false]),
];

#[derive(Debug, Clone)]
enum Op {
    /// Writes one of three contents to a file.
    Write(usize, u8),
    /// Removes a file.
    Remove(usize),
    /// Moves the branch back to an earlier commit.
    Reset(usize),
    /// The event of the tip arrives.
    Event,
    /// The event of an earlier commit arrives.
    LateEvent(usize),
    /// A schedule runs.
    Schedule,
    /// The tag is created, or moved to a commit.
    Tag(usize),
    /// The tag is deleted.
    Untag,
    /// An event of the tag arrives, which may name any commit.
    TagEvent(usize),
    /// Something about pull requests.
    Pull(PullOp),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..PATHS.len(), 0..3_u8).prop_map(|(path, content)| Op::Write(path, content)),
        2 => (0..PATHS.len()).prop_map(Op::Remove),
        1 => (0..8_usize).prop_map(Op::Reset),
        5 => Just(Op::Event),
        1 => (0..8_usize).prop_map(Op::LateEvent),
        2 => Just(Op::Schedule),
        2 => (0..8_usize).prop_map(Op::Tag),
        1 => Just(Op::Untag),
        3 => (0..8_usize).prop_map(Op::TagEvent),
        10 => PullOp::any().prop_map(Op::Pull),
    ]
}

type Tree = BTreeMap<&'static str, u8>;

struct Model {
    fixture: UpdateFixture,
    commits: Vec<(CommitId, Tree)>,
    tip: usize,
    /// Tree of the last start of each pipeline.
    last: BTreeMap<&'static str, Tree>,
    /// Commit of the tag, and that of its last start.
    tag: Option<usize>,
    released: Option<usize>,
    pulls: Pulls,
}

impl Model {
    fn new() -> Self {
        let pipelines = ["web", "api", "release", "check", "clean-up"].map(|name| (name, "Source"));
        let fixture = fixture(TRIGGERS, &pipelines);
        let tree: Tree = PATHS.iter().map(|path| (*path, 0)).collect();
        let files: Vec<(&str, Entry)> = tree
            .iter()
            .map(|(path, content)| (*path, Entry::file([*content])))
            .collect();
        let commit = fixture.codecommit.commit(&repository(), "main", &files);
        Self {
            pulls: Pulls::new(&fixture),
            fixture,
            commits: vec![(commit, tree)],
            tip: 0,
            last: BTreeMap::new(),
            tag: None,
            released: None,
        }
    }

    fn commit(&mut self, path: &'static str, content: Option<u8>) {
        let (parent, mut tree) = self.commits[self.tip].clone();
        let entry = if let Some(content) = content {
            tree.insert(path, content);
            Entry::file([content])
        } else {
            tree.remove(path);
            Entry::Removed
        };
        // The number of commits makes equal trees different commits.
        let text = CommitText::new(format!("{}\n", self.commits.len()));
        let commit = self.fixture.codecommit.commit_on(
            &repository(),
            "main",
            &[parent],
            &[(path, entry)],
            &text,
        );
        self.commits.push((commit, tree));
        self.tip = self.commits.len() - 1;
    }

    /// Returns the pipelines of the branch that a run at its tip starts, and records them.
    fn start_branch(&mut self) -> Vec<String> {
        let tree = &self.commits[self.tip].1;
        let mut expected = Vec::new();
        for (pipeline, paths) in PIPELINES {
            let differs = |last: &Tree| {
                let mut relevant = PATHS.iter().zip(paths).filter(|(_, counts)| *counts);
                relevant.any(|(path, _)| last.get(path) != tree.get(path))
            };
            if self.last.get(pipeline).is_none_or(differs) {
                expected.push(pipeline.to_owned());
                self.last.insert(pipeline, tree.clone());
            }
        }
        expected
    }

    /// Returns the pipelines of the tag that a run starts, and records them.
    fn start_tag(&mut self) -> Vec<String> {
        let is_due = self.tag.is_some() && self.tag != self.released;
        if is_due {
            self.released = self.tag;
        }
        Vec::from_iter(is_due.then(|| "release".to_owned()))
    }

    /// Sends an event, which starts these pipelines and no others; returns the answer.
    async fn send(&self, event: Value, mut expected: Vec<String>) -> Result<Value, TestCaseError> {
        let before = started(&self.fixture).len();
        let answer = self.fixture.send(event.clone()).await;
        let answer = answer.map_err(|failure| TestCaseError::fail(failure.message().to_owned()))?;
        let mut now = started(&self.fixture).split_off(before);
        now.sort();
        expected.sort();
        prop_assert_eq!(now, expected, "tip {}: {}", self.tip, event);
        Ok(serde_json::to_value(answer).expect("it serialises"))
    }

    /// Runs a schedule, which makes up for all lost events, after a plan of it.
    async fn schedule(&mut self) -> Result<(), TestCaseError> {
        let writes = self.fixture.store.journal();
        let plan = json!({"schedule": true, "plan": true});
        let planned = self.send(plan, Vec::new()).await?;
        prop_assert_eq!(
            self.fixture.store.journal(),
            writes,
            "a plan writes nothing"
        );
        let mut expected = self.start_branch();
        expected.extend(self.start_tag());
        expected.extend(self.pulls.start_all());
        let done = self.send(json!({"schedule": true}), expected).await?;
        prop_assert_eq!(&planned["counts"], &done["counts"], "{}", done);
        Ok(())
    }

    /// Checks that the artifacts of pull requests are those of the open ones.
    fn check_artifacts(&self) -> Result<(), TestCaseError> {
        for (key, commit) in self.pulls.artifacts() {
            let versions = self.fixture.versions(&key);
            let live = versions.last().filter(|version| version.body.is_some());
            let found = live.map(|version| version.metadata.user["branchline-commit"].clone());
            prop_assert_eq!(found, commit.map(|commit| commit.to_string()), "{}", key);
        }
        Ok(())
    }

    async fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match *op {
            Op::Write(path, content) => self.commit(PATHS[path], Some(content)),
            Op::Remove(path) => self.commit(PATHS[path], None),
            Op::Reset(at) => {
                self.tip = at % self.commits.len();
                let commit = self.commits[self.tip].0;
                self.fixture
                    .codecommit
                    .set_branch(&repository(), "main", commit);
            }
            Op::Event => {
                let event = moved("main", self.commits[self.tip].0);
                let expected = self.start_branch();
                self.send(event.clone(), expected).await?;
                self.send(event, Vec::new()).await?;
            }
            Op::LateEvent(at) => {
                let at = at % self.commits.len();
                let event = moved("main", self.commits[at].0);
                let is_current = at == self.tip;
                let expected = if is_current {
                    self.start_branch()
                } else {
                    Vec::new()
                };
                self.send(event, expected).await?;
            }
            Op::Schedule => self.schedule().await?,
            Op::Tag(at) => {
                let at = at % self.commits.len();
                let commit = self.commits[at].0;
                self.fixture.codecommit.set_tag(&repository(), "v1", commit);
                self.tag = Some(at);
            }
            Op::Untag => {
                self.fixture.codecommit.delete_tag(&repository(), "v1");
                self.tag = None;
            }
            Op::TagEvent(at) => {
                let named = self.commits[at % self.commits.len()].0.to_string();
                let event = records(&[json!({"ref": "refs/tags/v1", "commit": named})]);
                let expected = self.start_tag();
                self.send(event, expected).await?;
            }
            Op::Pull(ref op) => {
                if let Some((event, expected)) = self.pulls.apply(&self.fixture, op) {
                    self.send(event, expected).await?;
                }
            }
        }
        Ok(())
    }
}

#[test]
fn a_pipeline_starts_if_and_only_if_what_it_watches_differs_from_its_last_start() {
    run_model("filters", op(), 25, &async |ops: &[Op]| {
        let mut model = Model::new();
        for op in ops {
            model.apply(op).await?;
        }
        model.schedule().await?;
        model.check_artifacts()
    });
}
