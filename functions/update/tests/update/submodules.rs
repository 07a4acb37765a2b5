//! Content of submodules (`ARCHIVE_SUBMODULES`).

use branchline_core::ErrorKind;
use branchline_core::name::{CommitId, RepositoryName};
use branchline_core::testkit::{Entry, FaultPlan, When};
use branchline_update::handle;

use crate::fixture::{UpdateFixture, files, moved, outcomes, repository, soon};

fn named(name: &str) -> RepositoryName {
    RepositoryName::new(name).expect("it is valid")
}

fn modules(entries: &[(&str, &str)]) -> Entry {
    let section = |(path, url): &(&str, &str)| {
        format!("[submodule \"{path}\"]\n\tpath = {path}\n\turl = {url}\n")
    };
    Entry::file(entries.iter().map(section).collect::<String>())
}

/// Commits a repository with a nested submodule; returns the fixture and the commit.
fn nested() -> (UpdateFixture, CommitId) {
    let fixture = UpdateFixture::new(&[("ARCHIVE_SUBMODULES", "true")]);
    for name in ["library", "deep"] {
        fixture.codecommit.add_repository(&named(name));
    }
    let commit = |name: &str, files: &[(&str, Entry)]| {
        fixture.codecommit.commit(&named(name), "main", files)
    };
    let deep = commit(
        "deep",
        &[
            ("d.txt", Entry::file("deep")),
            ("run", Entry::executable("x")),
        ],
    );
    let library = commit(
        "library",
        &[
            (
                ".gitattributes",
                Entry::file("* export-subst\nsecret export-ignore\n"),
            ),
            (".gitmodules", modules(&[("in/deep", "codecommit://deep")])),
            ("id", Entry::file("$Format:%H$")),
            ("in/deep", Entry::Submodule(deep)),
            ("secret", Entry::file("s")),
        ],
    );
    let tip = fixture.codecommit.commit(
        &repository(),
        "main",
        &[
            (".gitattributes", Entry::file("*.txt export-ignore\n")),
            (".gitmodules", modules(&[("libs/one", "../library")])),
            ("README", Entry::file("hello")),
            ("a.txt", Entry::file("ignored here only")),
            ("libs/one", Entry::Submodule(library)),
        ],
    );
    (fixture, tip)
}

#[tokio::test]
async fn submodules_are_archived_with_their_own_attributes_and_commits() {
    let (mut fixture, tip) = nested();
    let results = fixture.results(moved("main", tip)).await;
    assert_eq!(outcomes(&results), [("main", "started")]);
    let zip = files(&fixture.latest("demo/main.zip"));
    let names: Vec<&str> = zip.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            ".gitattributes",
            ".gitmodules",
            "README",
            "libs/",
            "libs/one/",
            "libs/one/.gitattributes",
            "libs/one/.gitmodules",
            "libs/one/id",
            "libs/one/in/",
            "libs/one/in/deep/",
            "libs/one/in/deep/d.txt",
            "libs/one/in/deep/run",
        ]
    );
    assert_eq!(zip["libs/one/in/deep/d.txt"], "deep");
    assert_eq!(zip["libs/one/id"].len(), 40);
    assert_ne!(
        zip["libs/one/id"],
        tip.to_string(),
        "the submodule has its own commit"
    );
    // A change beside the submodule has the whole archive made again.
    let change = [("README", Entry::file("changed"))];
    let next = fixture.codecommit.commit(&repository(), "main", &change);
    fixture.results(moved("main", next)).await;
    let zip = files(&fixture.latest("demo/main.zip"));
    assert_eq!(zip["README"], "changed");
    assert_eq!(zip["libs/one/in/deep/d.txt"], "deep");
    fixture.settings.remove("ARCHIVE_SUBMODULES");
    fixture.results(moved("main", next)).await;
    let zip = files(&fixture.latest("demo/main.zip"));
    assert!(
        !zip.contains_key("libs/one/id"),
        "submodules are empty folders again"
    );
}

#[tokio::test]
async fn circles_foreign_hosts_and_unknown_commits_are_named_with_the_path() {
    let unknown = CommitId::new(&"1".repeat(40)).expect("it is valid");
    for (url, submodule, kind, part) in [
        (
            "https://example.com/x.git",
            None,
            ErrorKind::Config,
            "is not a CodeCommit repository",
        ),
        ("../demo", None, ErrorKind::Config, "is in a circle"),
        (
            "../library",
            Some(unknown),
            ErrorKind::NotFound,
            "push the commit",
        ),
        (
            "../missing",
            Some(unknown),
            ErrorKind::NotFound,
            "`missing`",
        ),
        ("", Some(unknown), ErrorKind::Config, "has no `url`"),
    ] {
        let fixture = UpdateFixture::new(&[("ARCHIVE_SUBMODULES", "true")]);
        fixture.codecommit.add_repository(&named("library"));
        let files = [("a", Entry::file("1"))];
        fixture.codecommit.commit(&named("library"), "main", &files);
        let first = fixture.codecommit.commit(&repository(), "main", &files);
        let mut files = vec![("sub/one", Entry::Submodule(submodule.unwrap_or(first)))];
        if !url.is_empty() {
            files.push((".gitmodules", modules(&[("sub/one", url)])));
        }
        let tip = fixture.codecommit.commit(&repository(), "main", &files);
        let failure = fixture.failure(moved("main", tip)).await;
        let message = failure.message();
        assert_eq!(failure.kind(), kind, "{message}");
        assert!(message.contains("submodule `sub/one`"), "{message}");
        assert!(message.contains(part), "{part}: {message}");
        assert_eq!(fixture.versions("demo/main.zip").len(), 0);
        fixture.assert_no_upload_is_left();
    }
}

#[tokio::test]
async fn each_failing_call_leaves_nothing_and_the_next_run_archives_the_submodules() {
    let calls = {
        let (fixture, tip) = nested();
        let plan = FaultPlan::new();
        let run = handle(fixture.failing_context(&plan), moved("main", tip), soon()).await;
        run.expect("nothing fails");
        plan.calls()
    };
    assert!(calls.len() > 15, "{calls:?}");
    for nth in 1..=calls.len() {
        let (fixture, tip) = nested();
        let plan = FaultPlan::new();
        plan.fail(nth, ErrorKind::AccessDenied, When::Before);
        let run = handle(fixture.failing_context(&plan), moved("main", tip), soon()).await;
        fixture.assert_no_upload_is_left();
        if run.is_ok() {
            // Only what saves time may be denied.
            assert!(fixture.versions("demo/main.zip").len() == 1, "call {nth}");
        }
        fixture.results(moved("main", tip)).await;
        let zip = files(&fixture.latest("demo/main.zip"));
        assert_eq!(zip["libs/one/in/deep/d.txt"], "deep", "call {nth}");
    }
}
