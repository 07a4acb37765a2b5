//! Cases that every [`CodeCommit`](crate::codecommit::CodeCommit) passes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::codecommit_setup::CodeCommitSetup;
use super::differences::{
    differences_have_pages_and_a_limit, differences_name_both_sides,
    differences_of_a_missing_commit_are_refused,
};
use super::triggers::{
    malformed_triggers_are_refused, triggers_are_replaced_as_a_set,
    triggers_beyond_the_quotas_are_refused,
};
use super::{assert_fails, run_cases};
use crate::codecommit::{BlobAdmission, MAX_BLOB_BYTES, Unlimited, all_branches, all_repositories};
use crate::error::ErrorKind;
use crate::git::ObjectId;
use crate::git::object::{EntryMode, TreeListing};
use crate::name::{BlobId, BranchName, CommitId, RepositoryName};
use crate::testkit::Entry;

/// Runs the suite.
pub async fn codecommit(setup: &dyn CodeCommitSetup) {
    run_cases!(
        setup,
        setup.skipped(),
        [
            repositories_are_listed_and_described,
            a_repository_is_created_once,
            the_default_branch_must_exist,
            branches_are_listed_and_have_tips,
            a_commit_has_its_tree_parents_and_message,
            a_folder_is_one_level_of_the_tree,
            a_blob_is_read_once_it_is_admitted,
            a_large_blob_is_refused,
            an_error_names_the_missing_object,
            differences_name_both_sides,
            differences_have_pages_and_a_limit,
            differences_of_a_missing_commit_are_refused,
            triggers_are_replaced_as_a_set,
            triggers_beyond_the_quotas_are_refused,
            malformed_triggers_are_refused,
        ]
    );
}

fn branch(name: &str) -> BranchName {
    BranchName::new(name).expect("the suite's branches are legal")
}

async fn repositories_are_listed_and_described(setup: &dyn CodeCommitSetup) {
    let service = setup.codecommit();
    let mut created = BTreeSet::new();
    for _ in 0..3 {
        created.insert(setup.repository().await);
    }
    let listed = all_repositories(service).await.expect("a list succeeds");
    let listed: BTreeSet<_> = listed.into_iter().collect();
    assert!(listed.is_superset(&created), "{created:?} in {listed:?}");

    let repository = created.first().expect("three were created");
    let empty = service
        .get_repository(repository)
        .await
        .expect("it is there");
    assert_eq!(empty.name, *repository);
    assert_eq!(empty.default_branch, None, "an empty repository has none");
    let suffix = format!(":{repository}");
    assert!(empty.arn.starts_with("arn:aws:codecommit:") && empty.arn.ends_with(&suffix));
    let path = format!("/v1/repos/{repository}");
    assert!(
        empty.clone_url_http.ends_with(&path),
        "{}",
        empty.clone_url_http
    );

    setup
        .commit(repository, "trunk", &[("a", Entry::file("a"))])
        .await;
    let filled = service
        .get_repository(repository)
        .await
        .expect("it is there");
    assert_eq!(filled.default_branch.as_deref(), Some("trunk"));
}

async fn a_repository_is_created_once(setup: &dyn CodeCommitSetup) {
    let service = setup.codecommit();
    // Made from the name of a new repository, so that no other run has used it.
    let name = format!("{}-created", setup.repository().await);
    let name = RepositoryName::new(&name).expect("a legal name");
    let created = service.create_repository(&name).await;
    let created = created.expect("the name is new");
    assert_eq!(created.name, name);
    assert_eq!(created.default_branch, None, "it is empty");
    let described = service.get_repository(&name).await;
    assert_eq!(described.expect("it is there"), created);
    let again = service.create_repository(&name).await;
    assert_fails(again, ErrorKind::Conflict, name.as_str());
    setup
        .commit(&name, "main", &[("a", Entry::file("a"))])
        .await;
    let again = service.create_repository(&name).await;
    assert_fails(again, ErrorKind::Conflict, name.as_str());
    let kept = all_branches(service, &name).await.expect("it is there");
    assert_eq!(
        kept.branches,
        [branch("main")],
        "existing branches are kept"
    );
}

async fn the_default_branch_must_exist(setup: &dyn CodeCommitSetup) {
    let service = setup.codecommit();
    let repository = setup.repository().await;
    for name in ["first", "feature/ü"] {
        setup
            .commit(&repository, name, &[("a", Entry::file("a"))])
            .await;
    }
    let update = async |name: &str| {
        service
            .update_default_branch(&repository, &branch(name))
            .await
    };
    let now = async || {
        let described = service.get_repository(&repository).await;
        described.expect("it is there").default_branch
    };
    update("feature/ü").await.expect("the branch is there");
    assert_eq!(now().await.as_deref(), Some("feature/ü"));
    update("feature/ü")
        .await
        .expect("setting the same branch again succeeds");
    assert_fails(update("none").await, ErrorKind::NotFound, "none");
    assert_eq!(now().await.as_deref(), Some("feature/ü"));
    let gone = RepositoryName::new("no-such-repository").expect("a legal name");
    let update = service.update_default_branch(&gone, &branch("first")).await;
    assert_fails(update, ErrorKind::NotFound, gone.as_str());
}

async fn branches_are_listed_and_have_tips(setup: &dyn CodeCommitSetup) {
    let service = setup.codecommit();
    let repository = setup.repository().await;
    let none = all_branches(service, &repository).await;
    assert_eq!(none.expect("a list succeeds").branches, []);
    let names = ["main", "feature/x", "feature/y", "a.b_c-d", "ü"];
    for name in names {
        let tip = setup
            .commit(&repository, name, &[("a", Entry::file(name))])
            .await;
        let read = service.get_branch(&repository, &branch(name)).await;
        assert_eq!(read.expect("the branch is there"), tip);
    }
    let mut expected = names.map(branch);
    expected.sort();
    let listed = all_branches(service, &repository).await;
    assert_eq!(listed.expect("a list succeeds").branches, expected);
    let moved = setup
        .commit(&repository, "main", &[("b", Entry::file("b"))])
        .await;
    let read = service.get_branch(&repository, &branch("main")).await;
    assert_eq!(read.expect("the branch is there"), moved, "the tip moves");
    setup.delete_branch(&repository, "feature/x").await;
    let read = service.get_branch(&repository, &branch("feature/x")).await;
    assert_fails(read, ErrorKind::NotFound, "feature/x");
}

async fn a_commit_has_its_tree_parents_and_message(setup: &dyn CodeCommitSetup) {
    let service = setup.codecommit();
    let repository = setup.repository().await;
    let first = setup
        .commit(&repository, "main", &[("a", Entry::file("1"))])
        .await;
    let second = setup
        .commit(&repository, "main", &[("a", Entry::file("2"))])
        .await;
    let root = service.get_commit(&repository, first).await;
    let root = root.expect("the commit is there");
    assert_eq!(root.id, first.object_id());
    assert_eq!(root.parents, Vec::<ObjectId>::new());
    let child = service.get_commit(&repository, second).await;
    let child = child.expect("the commit is there");
    assert_eq!(child.parents, [first.object_id()]);
    assert_ne!(child.tree, root.tree);
    assert!(!child.message.is_empty());
    let (seconds, zone) = child
        .author
        .date
        .split_once(' ')
        .expect("a date is seconds and zone");
    assert!(
        seconds.parse::<i64>().is_ok() && zone.len() == 5,
        "{}",
        child.author.date
    );
    assert!(!child.committer.name.is_empty() && !child.committer.email.is_empty());
    let folder = service.get_folder(&repository, second, "").await;
    assert_eq!(folder.expect("the root is there").id, child.tree);
}

async fn a_folder_is_one_level_of_the_tree(setup: &dyn CodeCommitSetup) {
    let service = setup.codecommit();
    let repository = setup.repository().await;
    let module = CommitId::new("0123456789012345678901234567890123456789").expect("an id");
    let commit = setup
        .commit(
            &repository,
            "main",
            &[
                ("a.txt", Entry::file("same")),
                ("run", Entry::executable("#!/bin/sh\n")),
                ("link", Entry::symlink("a.txt")),
                ("lib", Entry::Submodule(module)),
                ("src/a.txt", Entry::file("same")),
                ("src/deep/er/b c.txt", Entry::file("deep")),
                ("src/link", Entry::symlink("deep")),
                ("src/vendor/lib", Entry::Submodule(module)),
            ],
        )
        .await;
    let root = service.get_folder(&repository, commit, "").await;
    let root = root.expect("the root is there");
    assert_eq!(
        modes_by_name(&root),
        [
            ("a.txt", EntryMode::Blob),
            ("lib", EntryMode::Commit),
            ("link", EntryMode::Link),
            ("run", EntryMode::BlobExecutable),
            ("src", EntryMode::Tree),
        ]
    );
    assert_eq!(id_of(&root, "lib"), module.object_id());

    let src = service.get_folder(&repository, commit, "src").await;
    let src = src.expect("the folder is there");
    assert_eq!(src.id, id_of(&root, "src"), "the folder's own tree id");
    assert_eq!(
        modes_by_name(&src),
        [
            ("a.txt", EntryMode::Blob),
            ("deep", EntryMode::Tree),
            ("link", EntryMode::Link),
            ("vendor", EntryMode::Tree),
        ],
        "names, not paths"
    );
    assert_eq!(
        id_of(&src, "a.txt"),
        id_of(&root, "a.txt"),
        "same bytes, same id"
    );
    let link = service
        .get_blob(&repository, id_of(&root, "link").into(), &Unlimited)
        .await;
    assert_eq!(
        link.expect("the blob is there"),
        "a.txt",
        "a link's blob is its target"
    );

    let deep = service.get_folder(&repository, commit, "src/deep/er").await;
    let deep = deep.expect("the folder is there");
    assert_eq!(modes_by_name(&deep), [("b c.txt", EntryMode::Blob)]);
    let vendor = service.get_folder(&repository, commit, "src/vendor").await;
    let vendor = vendor.expect("the folder is there");
    assert_eq!(modes_by_name(&vendor), [("lib", EntryMode::Commit)]);
    assert_eq!(id_of(&vendor, "lib"), module.object_id());
}

fn modes_by_name(listing: &TreeListing) -> Vec<(&str, EntryMode)> {
    let entries = listing.entries.iter();
    let mut modes: Vec<_> = entries.map(|e| (e.name.as_str(), e.mode)).collect();
    modes.sort_unstable();
    modes
}

fn id_of(listing: &TreeListing, name: &str) -> ObjectId {
    let found = listing.entries.iter().find(|entry| entry.name == name);
    found.expect("the entry is listed").id
}

#[derive(Default)]
struct Counting {
    calls: AtomicU64,
    bytes: AtomicU64,
}

#[async_trait]
impl BlobAdmission for Counting {
    async fn admit(&self, size_bytes: u64) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.bytes.fetch_add(size_bytes, Ordering::SeqCst);
        tokio::task::yield_now().await;
    }
}

async fn blob_at(
    setup: &dyn CodeCommitSetup,
    repository: &RepositoryName,
    content: Bytes,
) -> BlobId {
    let changes = [("blob", Entry::File(content))];
    let commit = setup.commit(repository, "main", &changes).await;
    let folder = setup.codecommit().get_folder(repository, commit, "").await;
    BlobId::from(id_of(&folder.expect("the root is there"), "blob"))
}

async fn a_blob_is_read_once_it_is_admitted(setup: &dyn CodeCommitSetup) {
    let service = setup.codecommit();
    let repository = setup.repository().await;
    let all_bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for content in [
        Bytes::new(),
        Bytes::from_static(b"\0\r\n\xff"),
        all_bytes.into(),
    ] {
        let blob = blob_at(setup, &repository, content.clone()).await;
        let admission = Counting::default();
        let read = service.get_blob(&repository, blob, &admission).await;
        assert_eq!(read.expect("the blob is there"), content);
        assert_eq!(admission.calls.load(Ordering::SeqCst), 1, "admitted once");
        let bytes = admission.bytes.load(Ordering::SeqCst);
        let size = content.len() as u64;
        assert!(
            (size..size + 64).contains(&bytes),
            "{size} bytes were admitted as {bytes}"
        );
    }
}

async fn a_large_blob_is_refused(setup: &dyn CodeCommitSetup) {
    let service = setup.codecommit();
    let repository = setup.repository().await;
    let largest = usize::try_from(MAX_BLOB_BYTES).expect("6 MiB fit");
    let blob = blob_at(setup, &repository, vec![b'x'; largest].into()).await;
    let read = service.get_blob(&repository, blob, &Unlimited).await;
    assert_eq!(read.expect("6 MiB are served").len(), largest);
    let blob = blob_at(setup, &repository, vec![b'x'; largest + 1].into()).await;
    let read = service.get_blob(&repository, blob, &Unlimited).await;
    assert_fails(read, ErrorKind::FileTooLarge, &blob.to_string());
}

async fn an_error_names_the_missing_object(setup: &dyn CodeCommitSetup) {
    let service = setup.codecommit();
    let repository = setup.repository().await;
    let commit = setup
        .commit(&repository, "main", &[("a", Entry::file("a"))])
        .await;
    let id = "1234567890123456789012345678901234567890";
    let (no_commit, no_blob) = (
        CommitId::new(id).expect("an id"),
        BlobId::new(id).expect("an id"),
    );
    let kind = ErrorKind::NotFound;
    let read = service.get_branch(&repository, &branch("none")).await;
    assert_fails(read, kind, "none");
    assert_fails(service.get_commit(&repository, no_commit).await, kind, id);
    assert_fails(
        service.get_folder(&repository, no_commit, "").await,
        kind,
        id,
    );
    let read = service.get_folder(&repository, commit, "no/folder").await;
    assert_fails(read, kind, "no/folder");
    let read = service.get_folder(&repository, commit, "a").await;
    assert_fails(read, kind, "`a`");
    let read = service.get_blob(&repository, no_blob, &Unlimited).await;
    assert_fails(read, kind, id);

    let empty = setup.repository().await;
    assert_fails(service.get_folder(&empty, no_commit, "").await, kind, id);

    let gone = RepositoryName::new("no-such-repository").expect("a legal name");
    let name = gone.as_str();
    assert_fails(service.get_repository(&gone).await, kind, name);
    assert_fails(service.list_branches(&gone, None).await, kind, name);
    assert_fails(service.get_branch(&gone, &branch("main")).await, kind, name);
    assert_fails(service.get_commit(&gone, commit).await, kind, name);
    assert_fails(service.get_folder(&gone, commit, "").await, kind, name);
    assert_fails(
        service.get_blob(&gone, no_blob, &Unlimited).await,
        kind,
        name,
    );
    assert_fails(service.get_triggers(&gone).await, kind, name);
    assert_fails(service.put_triggers(&gone, &[]).await, kind, name);
}
