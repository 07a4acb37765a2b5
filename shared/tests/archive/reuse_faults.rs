//! Previous archives that are damaged, foreign or gone, and failing calls: the result is the
//! archive of a full run, or a clean error.

use std::sync::Arc;

use branchline_core::ErrorKind;
use branchline_core::archive::{Built, PreviousArchive};
use branchline_core::codecommit::CodeCommit;
use branchline_core::name::CommitId;
use branchline_core::storage::ObjectStore;
use branchline_core::testkit::{Entry, Failing, FaultPlan, When};
use bytes::Bytes;

use super::compare::{Seen, entries};
use super::faults::noise;
use super::reuse_fixture::{ReuseFixture, build_at};

const MODULE: &str = "0123456789012345678901234567890123456789";

/// Two commits, and the archives of both by full runs.
struct Two {
    fixture: ReuseFixture,
    first: CommitId,
    second: CommitId,
    previous: PreviousArchive,
    wanted: Bytes,
    entries: (Vec<Seen>, Vec<u8>),
}

impl Two {
    async fn new(files: &[(&str, Entry)], changes: &[(&str, Entry)]) -> Self {
        let fixture = ReuseFixture::new();
        let first = fixture.commit(&[], files);
        fixture.build("first.zip", first, None).await;
        let previous = fixture.previous("first.zip", first).await;
        let second = fixture.commit(&[first], changes);
        fixture.build("wanted.zip", second, None).await;
        let wanted = fixture.bytes("wanted.zip");
        Self {
            fixture,
            first,
            second,
            previous,
            entries: entries(&wanted),
            wanted,
        }
    }

    async fn small() -> Self {
        let module = CommitId::new(MODULE).unwrap();
        let files = [
            (
                ".gitattributes",
                Entry::file("*.crlf text eol=crlf\n*.s export-subst\n"),
            ),
            (
                "a",
                Entry::file("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"),
            ),
            ("b.crlf", Entry::file("1\n2\n")),
            ("c.s", Entry::file("$Format:%H$")),
            ("d/e", Entry::executable("#!/bin/sh\n")),
            ("d/f", Entry::symlink("e")),
            ("d/module", Entry::Submodule(module)),
            ("g", Entry::file("g")),
        ];
        Self::new(&files, &[("g", Entry::file("changed"))]).await
    }

    /// Builds the second archive from `previous`; asserts that it is the wanted one.
    async fn build(&self, previous: PreviousArchive) -> Built {
        let built = self
            .fixture
            .build("new.zip", self.second, Some(previous))
            .await;
        let equal = self.fixture.bytes("new.zip") == self.wanted;
        assert!(
            equal,
            "the archive is that of a full run: {:?}",
            built.full_run
        );
        built
    }

    /// Builds from a previous archive with these bytes; asserts that the entries are those of
    /// a full run.
    async fn entries_from(&self, body: Bytes) -> Built {
        self.fixture.put("odd.zip", body, &self.previous).await;
        let odd = self.fixture.previous("odd.zip", self.first).await;
        let built = self.fixture.build("new.zip", self.second, Some(odd)).await;
        let made = entries(&self.fixture.bytes("new.zip"));
        assert!(
            made == self.entries,
            "the entries are those of a full run: {built:?}"
        );
        built
    }

    /// Builds from a previous archive with these bytes.
    async fn build_from(&self, body: Bytes) -> Built {
        self.fixture.put("odd.zip", body, &self.previous).await;
        let odd = self.fixture.previous("odd.zip", self.first).await;
        self.build(odd).await
    }
}

async fn reason(two: &Two, previous: PreviousArchive) -> String {
    two.build(previous).await.full_run.unwrap_or_default()
}

/// "Whatever is wrong with an artifact, the next one has the content of its own commit."
#[tokio::test]
async fn whichever_byte_of_an_artifact_is_changed_the_archive_is_right() {
    let two = Two::small().await;
    let body = two.fixture.bytes("first.zip");
    assert_eq!(two.build_from(body.clone()).await.full_run, None);
    // Compared by entries, because the unused bits at the end of deflated data may change
    // without an effect.
    let mut noticed = 0;
    for at in 0..body.len() {
        for bit in [0x01, 0x20, 0x80] {
            let mut damaged = body.to_vec();
            damaged[at] ^= bit;
            noticed += usize::from(two.entries_from(damaged.into()).await.full_run.is_some());
        }
    }
    // Times and other fields of the headers are written again, and not read.
    assert!(noticed > body.len(), "{noticed} of {}", body.len() * 3);
}

#[tokio::test]
async fn a_truncated_or_longer_artifact_is_not_reused() {
    let two = Two::small().await;
    let body = two.fixture.bytes("first.zip");
    for length in 0..body.len() {
        let built = two.build_from(body.slice(..length)).await;
        assert!(built.full_run.is_some(), "{length} of {} bytes", body.len());
    }
    for (start, end) in [(&b"x"[..], &b""[..]), (b"", b"x"), (b"PK\x03\x04", b"")] {
        let longer = [start, &body, end].concat();
        let built = two.build_from(longer.into()).await;
        assert!(built.full_run.is_some(), "{start:?} {end:?}");
    }
    let doubled = [&body[..], &body].concat();
    assert!(two.build_from(doubled.into()).await.full_run.is_some());
}

#[tokio::test]
async fn a_swapped_or_tampered_artifact_is_not_reused() {
    let two = Two::small().await;
    let swapped = two.build_from(two.wanted.clone()).await.full_run;
    let wanted = "the previous archive is damaged: it does not end in the id of its commit";
    assert_eq!(swapped.as_deref(), Some(wanted));

    // A valid archive, with other content, under the first commit's id.
    for changes in [
        &[("a", Entry::file("tampered"))][..],
        &[
            ("a", Entry::file("tampered")),
            ("d/e", Entry::file("#!/bin/sh\n")),
        ],
        &[("new", Entry::file("added"))],
        &[("d/module", Entry::Removed)],
        &[("d/f", Entry::Removed)],
        &[("a", Entry::Removed), ("z", Entry::file("a"))],
    ] {
        let tampered = two.fixture.commit(&[two.first], changes);
        two.fixture.build("tampered.zip", tampered, None).await;
        let mut body = two.fixture.bytes("tampered.zip").to_vec();
        let comment = body.len() - 40;
        body[comment..].copy_from_slice(two.first.to_string().as_bytes());
        let reason = two.build_from(body.into()).await.full_run;
        assert!(reason.is_some(), "{changes:?} are noticed");
    }
}

/// The differences leave out what changed between the recorded commit and the archived one.
#[tokio::test]
async fn files_that_the_differences_leave_out_are_noticed() {
    let files = [
        ("a", Entry::file("a")),
        ("b/c", Entry::file("c")),
        ("b/d", Entry::file("d")),
    ];
    for changes in [
        ("a", Entry::file("other")),
        ("b/c", Entry::Removed),
        ("b/e/f", Entry::file("new")),
        ("b/d", Entry::executable("d")),
    ] {
        let two = Two::new(&files, &[("g", Entry::file("g")), changes.clone()]).await;
        let middle = two
            .fixture
            .commit(&[two.first], std::slice::from_ref(&changes));
        let mut body = two.fixture.bytes("first.zip").to_vec();
        let comment = body.len() - 40;
        body[comment..].copy_from_slice(middle.to_string().as_bytes());
        two.fixture.put("odd.zip", body.into(), &two.previous).await;
        let odd = two.fixture.previous("odd.zip", middle).await;
        let reason = reason(&two, odd).await;
        assert!(
            reason.contains("not the tree of the commit"),
            "{changes:?}: {reason}"
        );
    }
}

#[tokio::test]
async fn an_artifact_of_another_key_commit_writer_or_setting_is_not_reused() {
    let two = Two::small().await;
    let previous = || two.previous.clone();
    let record = two.previous.record.clone().unwrap();

    let mut none = previous();
    none.record = None;
    assert!(reason(&two, none).await.contains("no record"));
    let mut future = previous();
    future.record = Some(record.replacen("1;", "2;", 1));
    assert!(reason(&two, future).await.contains("no record"));
    let mut other = previous();
    let writer = &record.split(';').nth(1).unwrap();
    other.record = Some(record.replace(writer, "0011223344556677"));
    assert!(reason(&two, other).await.contains("by another version"));
    let mut sum = previous();
    let known = record.split(';').nth(2).unwrap();
    sum.record = Some(record.replace(known, &"5a".repeat(32)));
    assert!(reason(&two, sum).await.contains("not those of its commit"));

    let mut replaced = previous();
    replaced.etag = branchline_core::storage::ETag::new("\"other\"").unwrap();
    assert!(reason(&two, replaced).await.contains("was replaced"));
    let mut gone = previous();
    gone.key = super::reuse_fixture::key("none.zip");
    assert!(reason(&two, gone).await.contains("cannot be read"));
    let mut unknown = previous();
    unknown.commit = CommitId::new(&"5b".repeat(20)).unwrap();
    assert!(reason(&two, unknown).await.contains("cannot be compared"));
    let mut wrong = previous();
    wrong.commit = two.second;
    assert!(reason(&two, wrong).await.contains("id of its commit"));

    let mut request = two.fixture.request(two.second).await;
    request.prefix = "other/".into();
    request.previous = Some(Arc::new(previous()));
    let store: Arc<dyn ObjectStore> = Arc::new(two.fixture.store.clone());
    let built = build_at(&*two.fixture.codecommit, &store, "p.zip", &request).await;
    let reason = built.unwrap().full_run.unwrap();
    assert!(reason.contains("other settings"), "{reason}");
}

#[tokio::test]
async fn the_reason_of_a_full_run_names_what_changed() {
    let files = |rules: &str| {
        vec![
            (".gitattributes", Entry::file(rules)),
            ("a.txt", Entry::file("a\n")),
            ("b.txt", Entry::file("b\n")),
            ("c.log", Entry::file("c\n")),
            ("d/e.log", Entry::file("e\n")),
            ("d/f.txt", Entry::file("f\n")),
        ]
    };
    let ignore = "*.log export-ignore\n";
    let file = |text: &str| Entry::file(text);
    for (rules, changes, wanted) in [
        (
            "",
            vec![
                ("a.txt", file("1")),
                ("b.txt", file("2")),
                ("d/f.txt", file("3")),
                ("x", file("x")),
            ],
            "more than half of the files changed",
        ),
        (
            "",
            vec![(".gitattributes", file("*.txt text eol=crlf\n"))],
            "the attributes of unchanged files changed",
        ),
        (
            "",
            vec![(".gitattributes", file(ignore))],
            "the attributes of unchanged files changed",
        ),
        (
            ignore,
            vec![(".gitattributes", Entry::Removed)],
            "may archive files that were not archived",
        ),
        (
            ignore,
            vec![("d/f.txt", Entry::Removed)],
            "a folder lost its last file",
        ),
        (
            "",
            vec![(".gitattributes", file("*.md export-ignore\n"))],
            "",
        ),
        (
            ignore,
            vec![("c.log", file("other")), ("d/g.log", file("new"))],
            "",
        ),
        (ignore, vec![("g/h.log", file("new"))], ""),
        (
            "",
            vec![("d/e.log", Entry::Removed), ("d/f.txt", Entry::Removed)],
            "",
        ),
    ] {
        let two = Two::new(&files(rules), &changes).await;
        let reason = reason(&two, two.previous.clone()).await;
        let is_wanted = reason.contains(wanted) && reason.is_empty() == wanted.is_empty();
        assert!(
            is_wanted,
            "{rules:?}, {changes:?}: `{reason}`, not `{wanted}`"
        );
    }
}

/// Fails each call once, in a way that is retried by the whole run, and in a way that a full
/// run may avoid.
#[tokio::test]
async fn whichever_call_fails_nothing_is_left_and_the_next_run_succeeds() {
    let blobs: Vec<Vec<u8>> = (0..4).map(|n| noise(n, 9 << 18)).collect();
    let files = [
        (".gitattributes", Entry::file("c export-subst\n")),
        ("a", Entry::file(&blobs[0])),
        ("b", Entry::file(&blobs[1])),
        ("c", Entry::file("$Format:%H$")),
        ("d", Entry::file(&blobs[2])),
    ];
    let two = Two::new(&files, &[("b", Entry::file(&blobs[3]))]).await;
    let request = {
        let mut request = two.fixture.request(two.second).await;
        request.previous = Some(Arc::new(two.previous.clone()));
        request
    };
    let run = |faults: &FaultPlan| {
        let codecommit: Arc<dyn CodeCommit> =
            Arc::new(Failing::new(Arc::clone(&two.fixture.codecommit), faults));
        let store = Arc::new(two.fixture.store.clone());
        let store: Arc<dyn ObjectStore> = Arc::new(Failing::new(store, faults));
        let request = request.clone();
        async move { build_at(&*codecommit, &store, "new.zip", &request).await }
    };
    let plan = FaultPlan::new();
    assert_eq!(run(&plan).await.unwrap().full_run, None);
    let calls = plan.calls();
    assert!(calls.len() > 12, "{calls:?}");
    let (mut failed, mut full) = (0, 0);
    let mut lost = 0;
    for nth in 1..=calls.len() {
        for kind in [ErrorKind::Transport, ErrorKind::AccessDenied] {
            for when in [When::Before, When::After] {
                let plan = FaultPlan::new();
                plan.fail(nth, kind, when);
                let result = run(&plan).await;
                // The order of concurrent calls differs between runs.
                let made = plan.calls();
                let call = made.get(nth - 1).copied().unwrap_or("none");
                let what = format!("call {nth} ({call}), {kind}, {when:?}");
                match result {
                    Ok(_) if call == "none" => {}
                    Ok(built) => {
                        assert!(built.full_run.is_some(), "{what}: nothing is swallowed");
                        let equal = two.fixture.bytes("new.zip") == two.wanted;
                        assert!(equal, "{what}: the archive is right");
                        full += 1;
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), kind, "{what}: {}", error.report());
                        failed += 1;
                    }
                }
                // An upload whose creation was not answered has no id by which it is aborted.
                if call == "create_upload" && when == When::After {
                    lost += 1;
                }
                let left = two.fixture.store.uploads().len();
                assert_eq!(left, lost, "{what}: no other upload is left");
                if (kind, when) == (ErrorKind::Transport, When::Before) {
                    let plan = FaultPlan::new();
                    assert_eq!(run(&plan).await.unwrap().full_run, None, "{what}");
                    assert!(two.fixture.bytes("new.zip") == two.wanted, "{what}");
                }
            }
        }
    }
    assert!(failed > 0 && full > 0, "{failed} failed, {full} were full");
}

/// The archive is abandoned at each call in turn.
#[tokio::test]
async fn wherever_a_run_is_dropped_nothing_is_left() {
    let blobs: Vec<Vec<u8>> = (0..4).map(|n| noise(n, 3 << 20)).collect();
    let files = [
        ("a", Entry::file(&blobs[0])),
        ("b", Entry::file(&blobs[1])),
        ("c", Entry::file(&blobs[2])),
    ];
    let two = Two::new(&files, &[("b", Entry::file(&blobs[3]))]).await;
    let store = &two.fixture.store;
    let before = store.traffic().calls().len();
    two.build(two.previous.clone()).await;
    let calls = store.traffic().calls().len() - before;
    for nth in 1..=calls {
        let (dropped, drops) = tokio::sync::oneshot::channel::<()>();
        let at = store.traffic().calls().len() + nth;
        store.traffic().before_call(at, move || {
            let _ = dropped.send(());
        });
        store
            .traffic()
            .set_latency(std::time::Duration::from_millis(2));
        let run = two
            .fixture
            .build("dropped.zip", two.second, Some(two.previous.clone()));
        tokio::select! {
            biased;
            _ = drops => {}
            _ = run => panic!("call {nth} of {calls} is made"),
        }
        store.traffic().set_latency(std::time::Duration::ZERO);
        // The upload is aborted in the background.
        for _ in 0..200 {
            if store.uploads().is_empty() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(store.uploads(), Vec::<String>::new(), "call {nth}");
    }
}
