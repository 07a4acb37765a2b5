//! CodeCommit in memory, under a retry policy, and compared with git.

use std::sync::Arc;
use std::time::Duration;

use branchline_core::codecommit::{CodeCommit, Unlimited};
use branchline_core::name::{BranchName, CommitId, RepositoryName};
use branchline_core::retry::{RetryPolicy, Retrying};
use branchline_core::testkit::{CommitText, Entry, MemoryCodeCommit};

fn repository() -> RepositoryName {
    RepositoryName::new("repo").unwrap()
}

#[tokio::test(start_paused = true)]
async fn all_blobs_of_a_throttled_service_are_read() {
    let memory = Arc::new(MemoryCodeCommit::new());
    let repository = repository();
    let names: Vec<String> = (0..300).map(|n| format!("file-{n}")).collect();
    let files: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), Entry::file(name)))
        .collect();
    let commit = memory.commit(&repository, "main", &files);
    let folder = memory.get_folder(&repository, commit, "").await.unwrap();
    memory.traffic().set_latency(Duration::from_millis(10));
    memory.traffic().set_max_in_flight(Some(5));
    let client = Retrying::new(Arc::clone(&memory), RetryPolicy::new(32));
    let calls = folder.entries.iter().map(|entry| {
        let (client, repository, blob) = (&client, &repository, entry.id.into());
        async move {
            (
                &entry.name,
                client.get_blob(repository, blob, &Unlimited).await,
            )
        }
    });
    for (name, read) in futures_util::future::join_all(calls).await {
        assert_eq!(read.unwrap(), name.as_bytes());
    }
    let (calls, throttled) = client.policy().limiter().request_and_throttle_counts();
    assert!(throttled > 0, "the service did throttle");
    assert!(
        calls < 900,
        "{calls} calls for 300 blobs: the limit came down"
    );
    assert_eq!(memory.traffic().peak(), 5);
    assert!(client.policy().limiter().limit() < 16);
}

#[tokio::test]
async fn a_hook_writes_before_a_planned_call() {
    let memory = Arc::new(MemoryCodeCommit::new());
    let repository = repository();
    let first = memory.commit(&repository, "main", &[("a", Entry::file("1"))]);
    let (writer, name) = (Arc::clone(&memory), repository.clone());
    memory.traffic().before("get_branch", 2, move || {
        writer.commit(&name, "main", &[("a", Entry::file("2"))]);
    });
    let branch = BranchName::new("main").unwrap();
    assert_eq!(
        memory.get_branch(&repository, &branch).await.unwrap(),
        first
    );
    assert_ne!(
        memory.get_branch(&repository, &branch).await.unwrap(),
        first
    );
    assert_eq!(memory.traffic().calls(), ["get_branch", "get_branch"]);
}

/// Runs git without user or system configuration.
fn git(dir: &std::path::Path, arguments: &[&str], input: &[u8]) -> String {
    let mut git = branchline_test_support::git::command(dir);
    let output = branchline_test_support::git::run_with_input(git.args(arguments), input).unwrap();
    String::from_utf8(output).unwrap().trim().to_owned()
}

#[tokio::test]
async fn commits_in_memory_have_the_ids_of_git() {
    let module = "0123456789012345678901234567890123456789";
    let memory = MemoryCodeCommit::new();
    let repository = repository();
    memory.commit_as(
        &repository,
        "main",
        &[
            ("a.txt", Entry::file("a\n")),
            ("a/b", Entry::file("")),
            ("a-b", Entry::file("sorts between `a` and `a/`")),
            ("gone/soon", Entry::file("x")),
            ("run", Entry::executable("#!/bin/sh\n")),
        ],
        &CommitText::new("first\n"),
    );
    let tip = memory.commit_as(
        &repository,
        "main",
        &[
            ("link", Entry::symlink("a.txt")),
            ("gone/soon", Entry::Removed),
            ("ü/lib", Entry::Submodule(CommitId::new(module).unwrap())),
        ],
        &CommitText::new("second\n\nwith a body\n"),
    );
    let person = "A U Thor <author@example.com> 1112911993 -0700";
    let data = |text: &str| format!("data {}\n{text}\n", text.len());
    let file =
        |mode: &str, path: &str, text: &str| format!("M {mode} inline {path}\n{}", data(text));
    let script = [
        format!(
            "commit refs/heads/main\nauthor {person}\ncommitter {person}\n{}",
            data("first\n")
        ),
        file("100644", "a.txt", "a\n"),
        file("100644", "a/b", ""),
        file("100644", "a-b", "sorts between `a` and `a/`"),
        file("100644", "gone/soon", "x"),
        file("100755", "run", "#!/bin/sh\n"),
        format!(
            "\ncommit refs/heads/main\nauthor {person}\ncommitter {person}\n{}",
            data("second\n\nwith a body\n")
        ),
        file("120000", "link", "a.txt"),
        "D gone/soon\n".to_owned(),
        format!("M 160000 {module} ü/lib\n\n"),
    ];
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "-q", "--bare"], b"");
    git(
        dir.path(),
        &["fast-import", "--quiet"],
        script.concat().as_bytes(),
    );
    assert_eq!(
        git(dir.path(), &["rev-parse", "main"], b""),
        tip.to_string()
    );

    let listed = git(
        dir.path(),
        &["-c", "core.quotePath=false", "ls-tree", "main"],
        b"",
    );
    let folder = memory.get_folder(&repository, tip, "").await.unwrap();
    let entries = folder.entries.iter();
    let mut ours: Vec<String> = entries.map(|e| format!("{}\t{}", e.id, e.name)).collect();
    ours.sort();
    let mut gits: Vec<_> = listed
        .lines()
        .map(|line| line.splitn(3, ' ').nth(2).unwrap())
        .collect();
    gits.sort_unstable();
    assert_eq!(ours, gits, "and so have their trees and blobs");
}
