//! Prefetch of packs during the push before.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use branchline_core::git::HashKind;
use branchline_core::git::ObjectId;
use branchline_core::mirror::{self, BatchLimits, MirrorOptions};
use branchline_core::remote::local::LocalRepository;
use branchline_core::remote::{
    BatchPolicy, CommitGraph, PackBody, PackRequest, Push, PushReport, RefOutcome, Remote,
    Snapshot, Source, Target, TargetCapabilities,
};
use branchline_core::{Error, ErrorKind, Result};
use bstr::BString;

use super::batch::linear;
use super::local::{at, local};
use super::push_by_size::noise;
use branchline_test_support::repo::Repo;

/// Events in order.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<&'static str>>>);

impl Events {
    fn note(&self, event: &'static str) {
        self.0.lock().unwrap().push(event);
    }

    fn all(&self) -> String {
        self.0.lock().unwrap().join(" ")
    }
}

/// A repository that records its calls, and processes received packs slowly.
struct RecordingRemote {
    inner: LocalRepository,
    events: Events,
    /// Number of the push that it rejects.
    refuses: Option<usize>,
    /// Number of the pack request that fails.
    fails: Option<usize>,
}

impl RecordingRemote {
    fn new(inner: LocalRepository, events: &Events) -> Self {
        Self {
            inner,
            events: events.clone(),
            refuses: None,
            fails: None,
        }
    }
}

impl fmt::Display for RecordingRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Remote for RecordingRemote {
    async fn source(&self, prefixes: &[BString]) -> Result<Box<dyn Source>> {
        Ok(Box::new(RecordingSource {
            inner: self.inner.source(prefixes).await?,
            events: self.events.clone(),
            fails: self.fails,
        }))
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        Ok(Box::new(RecordingTarget {
            inner: self.inner.target().await?,
            events: self.events.clone(),
            refuses: self.refuses,
            pushes: 0,
        }))
    }
}

struct RecordingSource {
    inner: Box<dyn Source>,
    events: Events,
    fails: Option<usize>,
}

#[async_trait]
impl Source for RecordingSource {
    fn snapshot(&self) -> &Snapshot {
        self.inner.snapshot()
    }

    async fn fetch(&self, wanted: &PackRequest) -> Result<PackBody> {
        self.events.note("fetch");
        let asked = self.events.all().matches("fetch").count();
        if self.fails == Some(asked) {
            return Err(Error::new(ErrorKind::Transport, "hung up"));
        }
        self.inner.fetch(wanted).await
    }

    fn has_cheap_history(&self) -> bool {
        self.inner.has_cheap_history()
    }

    async fn commit_graph(
        &self,
        wants: &[ObjectId],
        haves: &[ObjectId],
    ) -> Result<Option<CommitGraph>> {
        self.inner.commit_graph(wants, haves).await
    }
}

struct RecordingTarget {
    inner: Box<dyn Target>,
    events: Events,
    refuses: Option<usize>,
    pushes: usize,
}

#[async_trait]
impl Target for RecordingTarget {
    fn snapshot(&self) -> &Snapshot {
        self.inner.snapshot()
    }

    fn capabilities(&self) -> TargetCapabilities {
        TargetCapabilities {
            batches: BatchPolicy::ByCommits,
            ..self.inner.capabilities()
        }
    }

    async fn haves(&self) -> Result<Vec<ObjectId>> {
        self.inner.haves().await
    }

    async fn push(&mut self, push: Push) -> Result<PushReport> {
        self.events.note("push");
        self.pushes += 1;
        let report = if self.refuses == Some(self.pushes) {
            let changes = push.changes.iter();
            let mut pack = push.pack;
            while let Some(pack) = &mut pack
                && pack.chunk().await?.is_some()
            {}
            PushReport {
                refs: changes
                    .map(|change| {
                        let no = RefOutcome::Rejected("no".to_owned());
                        (change.name.clone(), no)
                    })
                    .collect(),
                ..PushReport::default()
            }
        } else {
            self.inner.push(push).await?
        };
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.events.note("pushed");
        Ok(report)
    }
}

/// Mirrors in batches of `commits` commits; returns the events.
async fn run(
    source: &Repo,
    commits: u64,
    change: impl Fn(&mut RecordingRemote, &mut RecordingRemote),
) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.git");
    let events = Events::default();
    let mut from = RecordingRemote::new(local(&source.path), &events);
    let mut to = RecordingRemote::new(local(&path), &events);
    change(&mut from, &mut to);
    let batch = BatchLimits {
        commits,
        ..BatchLimits::default()
    };
    let options = MirrorOptions {
        batch,
        ..MirrorOptions::default()
    };
    let outcome = mirror::mirror(&from, &to, &options, None).await.unwrap();
    assert!(outcome.complete && outcome.rejected.is_empty());
    let target = at(&path, HashKind::Sha1);
    assert_eq!(target.refs(), source.refs());
    target.fsck();
    events.all()
}

#[tokio::test(start_paused = true)]
async fn the_next_batch_is_requested_during_the_push_before() {
    let events = run(&linear(58), 20, |_, _| {}).await;
    let expected = "fetch push fetch pushed push fetch pushed push pushed";
    assert_eq!(events, expected, "each pack must be requested once");
}

#[tokio::test(start_paused = true)]
async fn a_prefetched_pack_is_not_used_after_a_rejected_batch() {
    let events = run(&linear(58), 20, |_, to| to.refuses = Some(1)).await;
    let expected = "fetch push fetch pushed fetch push fetch pushed push pushed";
    assert_eq!(
        events, expected,
        "the first batch must be pushed with the second one"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_prefetch_is_retried() {
    let events = run(&linear(58), 20, |from, _| from.fails = Some(2)).await;
    let expected = "fetch push fetch pushed fetch push fetch pushed push pushed";
    assert_eq!(events, expected, "in another attempt");
}

#[tokio::test(start_paused = true)]
async fn no_pack_is_prefetched_during_the_push_of_a_large_one() {
    let events = run(&noise(4, 2 << 20), 1, |_, _| {}).await;
    assert_eq!(events, ["fetch push pushed"; 4].join(" "));
}
