//! Cases of the differences between two commits.

use std::sync::atomic::AtomicU64;

use super::assert_fails;
use super::codecommit_setup::CodeCommitSetup;
use crate::codecommit::{CodeCommit, Difference, DifferenceSide, differences_up_to};
use crate::error::ErrorKind;
use crate::name::{CommitId, RepositoryName};
use crate::testkit::Entry;

const MODULE: &str = "0123456789012345678901234567890123456789";

/// Returns the differences as text, ordered by path.
async fn differences(
    service: &dyn CodeCommit,
    repository: &RepositoryName,
    before: CommitId,
    after: CommitId,
) -> Vec<String> {
    let requests = AtomicU64::new(0);
    let read = differences_up_to(service, repository, before, after, 1000, &requests).await;
    let read = read.expect("the commits are there");
    let mut lines: Vec<_> = read
        .expect("there are fewer")
        .iter()
        .map(|Difference { before, after }| {
            let side = |side: &Option<DifferenceSide>| {
                side.as_ref().map_or("-".to_owned(), |side| {
                    let id = side.id.to_hex_with_len(7);
                    format!("{} {} {id}", side.path, side.mode.as_octal_str())
                })
            };
            format!("{} > {}", side(before), side(after))
        })
        .collect();
    lines.sort_unstable();
    lines
}

pub(super) async fn differences_name_both_sides(setup: &dyn CodeCommitSetup) {
    let service = setup.codecommit();
    let repository = setup.repository().await;
    let module = CommitId::new(MODULE).expect("an id");
    let first = setup
        .commit(
            &repository,
            "main",
            &[
                ("changed", Entry::file("1\n")),
                ("moved", Entry::file("moved\n")),
                ("run", Entry::file("#!/bin/sh\n")),
                ("same/a", Entry::file("same\n")),
                ("type", Entry::file("a\n")),
                ("lib", Entry::Submodule(module)),
            ],
        )
        .await;
    let other = CommitId::new(&"1".repeat(40)).expect("an id");
    let second = setup
        .commit(
            &repository,
            "main",
            &[
                ("changed", Entry::file("2\n")),
                ("moved", Entry::Removed),
                ("to/moved é", Entry::file("moved\n")),
                ("run", Entry::executable("#!/bin/sh\n")),
                ("type", Entry::symlink("same")),
                ("lib", Entry::Submodule(other)),
            ],
        )
        .await;
    let listed = differences(service, &repository, first, second).await;
    assert_eq!(
        listed,
        [
            "- > to/moved é 100644 5494772",
            "changed 100644 d00491f > changed 100644 0cfbf08",
            "lib 160000 0123456 > lib 160000 1111111",
            "moved 100644 5494772 > -",
            "run 100644 1a24852 > run 100755 1a24852",
            "type 100644 7898192 > type 120000 5a66c00",
        ]
    );
    let back = differences(service, &repository, second, first).await;
    assert_eq!(back.len(), listed.len());
    let none = differences(service, &repository, second, second).await;
    assert_eq!(none, Vec::<String>::new());
}

pub(super) async fn differences_have_pages_and_a_limit(setup: &dyn CodeCommitSetup) {
    let service = setup.codecommit();
    let repository = setup.repository().await;
    let first = setup
        .commit(&repository, "main", &[("a", Entry::file("a"))])
        .await;
    let names: Vec<String> = (0..450).map(|n| format!("f/{n:03}")).collect();
    let added: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), Entry::file(name)))
        .collect();
    let second = setup.commit(&repository, "main", &added).await;
    let listed = differences(service, &repository, first, second).await;
    let shown: Vec<_> = listed.iter().map(|line| &line[4..9]).collect();
    assert_eq!(shown, names);
    let requests = AtomicU64::new(0);
    let limited = differences_up_to(service, &repository, first, second, 449, &requests).await;
    assert_eq!(limited.expect("the commits are there"), None);
}

pub(super) async fn differences_of_a_missing_commit_are_refused(setup: &dyn CodeCommitSetup) {
    let service = setup.codecommit();
    let repository = setup.repository().await;
    let commit = setup
        .commit(&repository, "main", &[("a", Entry::file("a"))])
        .await;
    let missing = CommitId::new(MODULE).expect("an id");
    for (before, after) in [(missing, commit), (commit, missing)] {
        let read = service.get_differences(&repository, before, after, None);
        assert_fails(read.await, ErrorKind::NotFound, MODULE);
    }
    let gone = RepositoryName::new("no-such-repository").expect("a legal name");
    let read = service.get_differences(&gone, commit, commit, None).await;
    assert_fails(read, ErrorKind::NotFound, gone.as_str());
}
