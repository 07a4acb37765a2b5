//! A property test of filters by paths against a plain model.
//!
//! Two services and common code are changed, reverted and rewritten, and a tag is moved; events
//! arrive, late, doubled or never; schedules run. Whenever the function runs, a pipeline is started
//! if and only if one of its files differs between the commit that was started last and the tip, and
//! the pipeline of the tag if and only if it was started last at another commit.

use std::collections::BTreeMap;

use branchline_core::name::CommitId;
use branchline_core::testkit::{CommitText, Entry};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::json;

use crate::filters::{fixture, started};
use crate::fixture::*;

const TRIGGERS: &str = r#"[
  {"pipeline": "web", "gitConfiguration": {"sourceActionName": "Source", "push": [
    {"branches": {"includes": ["main"]},
     "filePaths": {"includes": ["web/**", "common/**"], "excludes": ["**/*.md"]}}]}},
  {"pipeline": "api", "gitConfiguration": {"sourceActionName": "Source", "push": [
    {"branches": {"includes": ["main"]}, "filePaths": {"includes": ["api/**", "common/**"]}}]}},
  {"pipeline": "release", "gitConfiguration": {"sourceActionName": "Source", "push": [
    {"tags": {"includes": ["v*"]}}]}}]"#;

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
}

impl Model {
    fn new() -> Self {
        let pipelines = ["web", "api", "release"].map(|name| (name, "Source"));
        let fixture = fixture(TRIGGERS, &pipelines);
        let tree: Tree = PATHS.iter().map(|path| (*path, 0)).collect();
        let files: Vec<(&str, Entry)> = tree
            .iter()
            .map(|(path, content)| (*path, Entry::file([*content])))
            .collect();
        let commit = fixture.codecommit.commit(&repository(), "main", &files);
        Self {
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

    async fn run(
        &mut self,
        event: serde_json::Value,
        is_current: bool,
    ) -> Result<(), TestCaseError> {
        let before = started(&self.fixture).len();
        self.fixture
            .send(event)
            .await
            .map_err(|failure| TestCaseError::fail(failure.message().to_owned()))?;
        let mut now = started(&self.fixture).split_off(before);
        now.sort();
        let tree = &self.commits[self.tip].1;
        let mut expected = Vec::new();
        for (pipeline, paths) in PIPELINES {
            let differs = |last: &Tree| {
                let mut relevant = PATHS.iter().zip(paths).filter(|(_, counts)| *counts);
                relevant.any(|(path, _)| last.get(path) != tree.get(path))
            };
            if is_current && self.last.get(pipeline).is_none_or(differs) {
                expected.push(pipeline.to_owned());
                self.last.insert(pipeline, tree.clone());
            }
        }
        expected.sort();
        prop_assert_eq!(now, expected, "tip {}", self.tip);
        Ok(())
    }

    /// Sends an event of the tag.
    async fn tag_event(&mut self, named: usize) -> Result<(), TestCaseError> {
        let before = started(&self.fixture).len();
        let named = self.commits[named].0.to_string();
        let event = records(&[json!({"ref": "refs/tags/v1", "commit": named})]);
        self.fixture
            .send(event)
            .await
            .map_err(|failure| TestCaseError::fail(failure.message().to_owned()))?;
        let now = started(&self.fixture).split_off(before);
        let is_due = self.tag.is_some() && self.tag != self.released;
        let expected: &[&str] = if is_due { &["release"] } else { &[] };
        prop_assert_eq!(now, expected);
        if is_due {
            self.released = self.tag;
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
                self.run(event.clone(), true).await?;
                self.run(event, true).await?;
            }
            Op::LateEvent(at) => {
                let at = at % self.commits.len();
                let event = moved("main", self.commits[at].0);
                self.run(event, at == self.tip).await?;
            }
            Op::Schedule => self.run(json!({"schedule": true}), true).await?,
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
            Op::TagEvent(at) => self.tag_event(at % self.commits.len()).await?,
        }
        Ok(())
    }
}

#[test]
fn a_pipeline_starts_if_and_only_if_its_files_differ_from_those_of_its_last_start() {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(150);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let ops = proptest::collection::vec(op(), 1..25);
    let result = runner.run(&ops, |ops| {
        runtime.block_on(async {
            let mut model = Model::new();
            for op in &ops {
                model.apply(op).await?;
            }
            model.run(json!({"schedule": true}), true).await
        })
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
