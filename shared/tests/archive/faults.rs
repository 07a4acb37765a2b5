//! Failures: of each call, by wrong listings of the service, by the deadline, and by a dropped
//! future.

use std::sync::Arc;
use std::time::{Duration, Instant};

use branchline_core::ErrorKind;
use branchline_core::archive::{
    ArchiveDestination, ArchiveRequest, Built, ExtraFile, WriteSink, build, write,
};
use branchline_core::git::ObjectId;
use branchline_core::git::object::{EntryMode, ListedEntry, TreeListing};
use branchline_core::name::{BucketName, ObjectKey, RepositoryName};
use branchline_core::storage::{ObjectStore, Precondition, PutOptions};

use super::compare::same;
use super::fake_codecommit::{Disk, Memory};
use super::git::{Item, Repo};

pub(crate) fn target() -> ArchiveDestination {
    ArchiveDestination {
        bucket: BucketName::new("bucket").unwrap(),
        key: ObjectKey::new("r/main.zip").unwrap(),
        options: PutOptions::default(),
        files_metadata: Some("files".into()),
        record_metadata: None,
    }
}

pub(crate) fn request(disk: &Disk, commit: &str) -> ArchiveRequest {
    ArchiveRequest::new(disk.commit(commit))
}

pub(crate) fn repository() -> RepositoryName {
    RepositoryName::new("r").unwrap()
}

/// Bytes that do not shrink.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        noise.extend((state ^ (state >> 29)).to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

async fn into(disk: &Disk, store: &Arc<Memory>, commit: &str) -> branchline_core::Result<Built> {
    let store: Arc<dyn ObjectStore> = Arc::clone(store) as _;
    let request = request(disk, commit);
    build(disk, &repository(), &store, &request, &target()).await
}

fn large() -> (Repo, String) {
    let repo = Repo::new();
    let blobs: Vec<Vec<u8>> = (0..4).map(|n| noise(n, 3 << 19)).collect();
    let commit = repo.commit(
        b"large\n",
        &[
            (b".gitattributes", Item::File(b"*.x export-ignore\n")),
            (b"a/0", Item::File(&blobs[0])),
            (b"a/1", Item::File(&blobs[1])),
            (b"b/2", Item::File(&blobs[2])),
            (b"b/3", Item::File(&blobs[3])),
            (b"c", Item::File(b"small")),
        ],
    );
    (repo, commit)
}

#[tokio::test]
async fn a_small_archive_is_one_put_and_a_large_one_an_upload_of_parts() {
    let repo = Repo::new();
    let commit = repo.files(&[("a", b"1")]);
    let store = Arc::new(Memory::default());
    let built = into(&Disk::new(repo.path()), &store, &commit)
        .await
        .unwrap();
    assert_eq!(*store.calls.lock().unwrap(), ["put"]);
    assert_eq!(
        (
            built.summary.files,
            built.summary.entries,
            built.store_requests
        ),
        (1, 1, 1)
    );

    let (repo, commit) = large();
    let store = Arc::new(Memory {
        latency_ms: 20,
        ..Memory::default()
    });
    let built = into(&Disk::new(repo.path()), &store, &commit)
        .await
        .unwrap();
    assert_eq!(
        *store.calls.lock().unwrap(),
        ["create", "part", "part", "complete"]
    );
    assert_eq!(built.store_requests, 4);
    assert!(store.most_parts.load(std::sync::atomic::Ordering::SeqCst) <= 2);
    let objects = store.objects.lock().unwrap();
    let (zip, _) = &objects["r/main.zip"];
    assert_eq!(zip.len() as u64, built.summary.size_bytes);
    same(zip, &repo.archive("", &commit));
}

#[tokio::test]
async fn whichever_call_fails_nothing_is_left_and_the_next_run_succeeds() {
    let (repo, commit) = large();
    let clean = Disk::new(repo.path());
    let store = Arc::new(Memory::default());
    into(&clean, &store, &commit).await.unwrap();
    let requests = clean.calls.lock().unwrap().len();
    let store_requests = store.calls.lock().unwrap().len();
    assert_eq!(
        (requests, store_requests),
        (3 + 1 + 5, 4),
        "folders, rules and blobs"
    );

    for k in 0..requests + store_requests {
        let mut disk = Disk::new(repo.path());
        let mut store = Memory::default();
        if k < requests {
            disk.fails = Some(k);
        } else {
            store.fails = Some(k - requests);
        }
        let store = Arc::new(store);
        let error = into(&disk, &store, &commit)
            .await
            .expect_err("a call failed");
        assert_eq!(
            error.kind(),
            ErrorKind::AccessDenied,
            "call {k}: {}",
            error.report()
        );
        assert!(error.to_string().contains("broken on purpose"), "{error}");
        assert!(
            store.objects.lock().unwrap().is_empty(),
            "call {k}: no object"
        );
        assert!(
            store.uploads.lock().unwrap().is_empty(),
            "call {k}: no upload"
        );

        disk.fails = None;
        let store = Arc::new(Memory::default());
        into(&disk, &store, &commit)
            .await
            .expect("nothing fails now");
        assert_eq!(store.objects.lock().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_precondition_that_does_not_hold_leaves_the_object_alone() {
    for (repo, commit) in [large(), {
        let repo = Repo::new();
        let commit = repo.files(&[("a", b"1")]);
        (repo, commit)
    }] {
        let disk = Disk::new(repo.path());
        let store = Arc::new(Memory::default());
        store.objects.lock().unwrap().insert(
            "r/main.zip".into(),
            (b"before".as_slice().into(), PutOptions::default()),
        );
        let dynamic: Arc<dyn ObjectStore> = Arc::clone(&store) as _;
        let mut target = target();
        target.options.precondition = Precondition::Absent;
        let error = build(
            &disk,
            &repository(),
            &dynamic,
            &request(&disk, &commit),
            &target,
        )
        .await
        .expect_err("the object is there");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(&*store.objects.lock().unwrap()["r/main.zip"].0, b"before");
        assert!(
            store.uploads.lock().unwrap().is_empty(),
            "no upload is left"
        );
    }
}

#[tokio::test]
async fn a_file_that_the_api_refuses_is_named_and_nothing_is_written() {
    let repo = Repo::new();
    let commit = repo.files(&[
        ("a/small", &noise(1, 6 << 20)),
        ("b/too large", &vec![0; (6 << 20) + 1]),
    ]);
    let store = Arc::new(Memory::default());
    let error = into(&Disk::new(repo.path()), &store, &commit)
        .await
        .expect_err("too large");
    assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    assert!(error.to_string().contains("`b/too large`"), "{error}");
    assert!(store.objects.lock().unwrap().is_empty());
    assert!(store.uploads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_deadline_ends_the_upload() {
    let (repo, commit) = large();
    let disk = Disk::new(repo.path());
    let store = Arc::new(Memory::default());
    store.stuck.store(true, std::sync::atomic::Ordering::SeqCst);
    let dynamic: Arc<dyn ObjectStore> = Arc::clone(&store) as _;
    let mut request = request(&disk, &commit);
    request.deadline = Some(Instant::now() + Duration::from_secs(3));
    let error = build(&disk, &repository(), &dynamic, &request, &target())
        .await
        .expect_err("stuck");
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(
        store.uploads.lock().unwrap().is_empty(),
        "the upload was aborted"
    );
    assert!(
        store
            .calls
            .lock()
            .unwrap()
            .iter()
            .any(|call| call == "abort")
    );
}

#[tokio::test]
async fn a_dropped_build_leaves_no_upload() {
    let (repo, commit) = large();
    let disk = Disk::new(repo.path());
    let store = Arc::new(Memory::default());
    store.stuck.store(true, std::sync::atomic::Ordering::SeqCst);
    let dynamic: Arc<dyn ObjectStore> = Arc::clone(&store) as _;
    {
        let request = request(&disk, &commit);
        let target = target();
        let repository = repository();
        let building = build(&disk, &repository, &dynamic, &request, &target);
        let seen = async {
            while !store
                .calls
                .lock()
                .unwrap()
                .iter()
                .any(|call| call == "part")
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            _ = building => panic!("parts never arrive"),
            () = seen => {}
        }
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(
        store.uploads.lock().unwrap().is_empty(),
        "the upload was aborted"
    );
}

/// The store has created the upload, but the build ends before the response arrives.
#[tokio::test]
async fn an_upload_whose_id_has_not_arrived_is_aborted() {
    let (repo, commit) = large();
    let late = || {
        Arc::new(Memory {
            creation_ms: 1500,
            ..Memory::default()
        })
    };
    let made = |store: &Arc<Memory>| {
        let calls = store.calls.lock().unwrap();
        calls.iter().any(|call| call == "create")
    };
    let disk = Disk::new(repo.path());
    let (mut request, repository, target) = (request(&disk, &commit), repository(), target());

    let store = late();
    let dynamic: Arc<dyn ObjectStore> = Arc::clone(&store) as _;
    tokio::select! {
        _ = build(&disk, &repository, &dynamic, &request, &target) => panic!("the answer takes longer"),
        () = async {
            while !made(&store) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } => {}
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(
        store.uploads.lock().unwrap().is_empty(),
        "the build was dropped"
    );

    let store = late();
    let dynamic: Arc<dyn ObjectStore> = Arc::clone(&store) as _;
    let build = async {
        request.deadline = Some(Instant::now() + Duration::from_secs(1));
        build(&disk, &repository, &dynamic, &request, &target).await
    };
    let error = build.await.expect_err("time is up");
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(made(&store), "the upload was begun in time");
    assert!(store.uploads.lock().unwrap().is_empty(), "time was up");
}

fn object() -> ObjectId {
    ObjectId::from_hex(b"d00491fd7e5bb6fa28c517a0bb32b8b506539d4d").unwrap()
}

/// Archives a commit whose root listing is changed by `change`; returns the error.
async fn refused(change: impl FnOnce(&mut TreeListing)) -> String {
    let repo = Repo::new();
    let commit = repo.files(&[("a", b"1"), ("sub/b", b"2")]);
    let mut disk = Disk::new(repo.path());
    let mut listing = TreeListing {
        id: disk.commit(&commit).tree,
        entries: vec![ListedEntry::new("ok", EntryMode::Blob, object())],
    };
    change(&mut listing);
    disk.wrong_listings.insert(String::new(), listing);
    let sink = WriteSink::new(Vec::new());
    let error = write(&disk, &repository(), &request(&disk, &commit), &sink)
        .await
        .expect_err("it is refused");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report());
    assert!(sink.into_inner().is_empty(), "nothing was written");
    error.report()
}

/// "Entry names that would escape a target folder (`..`, absolute) cannot come from git;
/// assert that they are refused all the same."
#[tokio::test]
async fn names_outside_of_the_target_folder_are_refused() {
    for name in [
        "..",
        ".",
        "",
        "/etc/passwd",
        "a/../../b",
        "a\0b",
        ".git",
        ".GIT",
        ".Git",
    ] {
        for mode in [EntryMode::Blob, EntryMode::Tree, EntryMode::Commit] {
            let entry = ListedEntry::new(name, mode, object());
            refused(|listing| listing.entries.push(entry)).await;
        }
    }
    let duplicate = ListedEntry::new("ok", EntryMode::Tree, object());
    let error = refused(|listing| listing.entries.push(duplicate)).await;
    assert!(error.contains("two entries named `ok`"), "{error}");
    let not_utf8 = ListedEntry::new("\u{fffd}", EntryMode::Blob, object());
    let error = refused(|listing| listing.entries.push(not_utf8)).await;
    assert!(error.contains("not UTF-8"), "{error}");
    let error = refused(|listing| {
        let itself = ListedEntry::new("round", EntryMode::Tree, listing.id);
        listing.entries.push(itself);
    })
    .await;
    assert!(error.contains("contains itself"), "{error}");
}

#[tokio::test]
async fn a_name_that_is_not_utf8_is_refused_with_its_folder() {
    let repo = Repo::new();
    let commit = repo.commit(b"x\n", &[(b"dir/caf\xe9", Item::File(b"1"))]);
    let disk = Disk::new(repo.path());
    let sink = WriteSink::new(Vec::new());
    let error = write(&disk, &repository(), &request(&disk, &commit), &sink)
        .await
        .expect_err("not UTF-8");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(
        error
            .report()
            .contains("`/dir` has an entry whose name is not UTF-8")
    );
}

#[tokio::test]
async fn prefixes_and_extra_files_stay_inside_and_replace_files_of_their_path() {
    let repo = Repo::new();
    let commit = repo.files(&[("a", b"1"), ("commit_info.json", b"theirs"), ("z", b"3")]);
    let disk = Disk::new(repo.path());
    let mut good = request(&disk, &commit);
    good.extra_files = vec![ExtraFile {
        path: "commit_info.json".into(),
        bytes: b"{}".as_slice().into(),
        executable: false,
    }];
    let sink = WriteSink::new(Vec::new());
    write(&disk, &repository(), &good, &sink).await.unwrap();
    let (seen, _) = super::compare::entries(&sink.into_inner());
    let names: Vec<_> = seen.iter().map(|seen| &*seen.name).collect();
    assert_eq!(names, ["a", "z", "commit_info.json"]);
    assert_eq!(seen[2].bytes, b"{}");
    assert_eq!(
        disk.calls.lock().unwrap().len(),
        3,
        "a replaced file is not fetched"
    );

    for bad in ["../x", "/x", "a//b", "x/../../y", "."] {
        let mut request = good.clone();
        request.prefix = bad.into();
        let sink = WriteSink::new(Vec::new());
        let error = write(&disk, &repository(), &request, &sink)
            .await
            .expect_err(bad);
        assert_eq!(error.kind(), ErrorKind::Config);
        let mut request = good.clone();
        request.extra_files[0].path = bad.into();
        let error = write(&disk, &repository(), &request, &sink)
            .await
            .expect_err(bad);
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}

#[tokio::test]
async fn a_format_that_expands_to_gigabytes_is_refused() {
    let repo = Repo::new();
    let bomb = format!("$Format:{}$", "%<(16384)%n".repeat(100_000));
    let attributes = b"bomb export-subst\n".as_slice();
    let commit = repo.files(&[(".gitattributes", attributes), ("bomb", bomb.as_bytes())]);
    let disk = Disk::new(repo.path());
    let sink = WriteSink::new(Vec::new());
    let error = write(&disk, &repository(), &request(&disk, &commit), &sink)
        .await
        .expect_err("it would be 1.6 GB");
    assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    assert!(error.report().contains("16 MiB"), "{}", error.report());
}
