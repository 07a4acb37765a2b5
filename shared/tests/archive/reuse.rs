//! Archives that are made from the archive of another commit equal those of a full run.

use std::collections::BTreeMap;
use std::sync::Arc;

use branchline_core::archive::ExtraFile;
use branchline_core::name::CommitId;
use branchline_core::storage::ObjectStore;
use branchline_core::testkit::{Entry, MemoryStore};

use super::compare::same;
use super::fake_codecommit::Disk;
use super::faults::{noise, request};
use super::git::{Item, Repo};
use super::history::{Files, Random, history};
use super::reuse_fixture::{ReuseFixture, bucket, build_at, bytes, previous};

/// Returns the changes from one commit's files to another's.
fn changes<'a>(before: &'a Files, after: &'a Files) -> Vec<(&'a str, Entry)> {
    let removed = before.keys().filter(|path| !after.contains_key(*path));
    let removed = removed.map(|path| (path.as_str(), Entry::Removed));
    let changed = after
        .iter()
        .filter(|(path, entry)| before.get(*path) != Some(entry));
    let changed = changed.map(|(path, entry)| (path.as_str(), entry.clone()));
    removed.chain(changed).collect()
}

/// "An archive that is made from that of another commit has the bytes of a full run."
#[tokio::test]
async fn in_random_histories_a_reused_archive_equals_a_full_one() {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut reused = 0;
    for seed in 0..200 {
        let fixture = ReuseFixture::new();
        let store: Arc<dyn ObjectStore> = Arc::new(fixture.store.clone());
        let mut random = Random::new(seed);
        let prefix = ["", "p/", "deep/x-"][random.below(3)];
        let with_extra = random.below(3) == 0;
        let mut commits: Vec<CommitId> = Vec::new();
        let steps = history(seed);
        for (number, step) in steps.iter().enumerate() {
            let parents: Vec<_> = step.parents.iter().map(|&at| commits[at]).collect();
            let nothing = Files::new();
            let before = step
                .parents
                .first()
                .map_or(&nothing, |&at| &steps[at].files);
            let commit = fixture.commit(&parents, &changes(before, &step.files));
            let mut request = fixture.request(commit).await;
            prefix.clone_into(&mut request.prefix);
            if with_extra {
                request.extra_files = vec![ExtraFile {
                    path: format!("{prefix}a.txt"),
                    bytes: format!("{commit}\n").into(),
                    executable: false,
                }];
            }
            let full = build_at(&*fixture.codecommit, &store, "full.zip", &request).await;
            let full = full.unwrap();
            let wanted = fixture.bytes("full.zip");
            assert_eq!(full.summary.reused_files, 0);

            // From the archive before, so that each one is made from a reused one, and from any.
            let name = format!("{number}.zip");
            let bases = match number {
                0 => vec![None],
                _ => vec![Some(random.below(number)), Some(number - 1)],
            };
            for base in bases {
                request.previous = match base {
                    None => None,
                    Some(base) => {
                        let known = fixture
                            .previous(&format!("{base}.zip"), commits[base])
                            .await;
                        Some(Arc::new(known))
                    }
                };
                let built = build_at(&*fixture.codecommit, &store, &name, &request).await;
                let built = built.unwrap();
                assert!(
                    fixture.bytes(&name) == wanted,
                    "history {seed}: commit {number} from {base:?} equals a full run: {:?}",
                    built.full_run
                );
                assert_eq!(built.summary.files, full.summary.files);
                assert_eq!(built.summary.entries, full.summary.entries);
                match built.full_run {
                    None => reused += usize::from(base.is_some()),
                    Some(reason) => *reasons.entry(reason).or_default() += 1,
                }
            }
            commits.push(commit);
        }
        assert_eq!(fixture.store.uploads(), Vec::<String>::new());
    }
    let full: usize = reasons.values().sum();
    assert!(reused > full, "{reused} were reused; others: {reasons:#?}");
    let damaged = reasons.keys().any(|reason| reason.contains("damaged"));
    let odd = reasons.keys().any(|reason| reason.contains("do not match"));
    assert!(!damaged && !odd, "no archive is damaged: {reasons:#?}");
}

/// Histories of real repositories: each reused archive is compared with `git archive`, entry by entry.
#[tokio::test]
async fn in_random_histories_a_reused_archive_equals_git_archive() {
    let mut reused = 0;
    for seed in 1000..1016 {
        let repo = Repo::new();
        let memory = MemoryStore::new();
        memory.create_bucket(&bucket(), false);
        let store: Arc<dyn ObjectStore> = Arc::new(memory.clone());
        let mut last: Option<CommitId> = None;
        for step in history(seed) {
            let items: Vec<_> = step
                .files
                .iter()
                .map(|(path, entry)| {
                    let item = match entry {
                        Entry::File(content) => Item::File(content),
                        Entry::Executable(content) => Item::Executable(content),
                        Entry::Symlink(target) => Item::Link(target.as_bytes()),
                        Entry::Submodule(_) => Item::Submodule,
                        Entry::Removed => panic!("a commit has no removed files"),
                    };
                    (path.as_bytes(), item)
                })
                .collect();
            let commit = repo.commit(b"random\n", &items);
            let disk = Disk::new(repo.path());
            let mut request = request(&disk, &commit);
            if let Some(last) = last {
                request.previous = Some(Arc::new(previous(&memory, "a.zip", last).await));
            }
            let built = build_at(&disk, &store, "a.zip", &request).await;
            let built = built.unwrap_or_else(|error| panic!("{}", error.report()));
            reused += usize::from(last.is_some() && built.full_run.is_none());
            same(&bytes(&memory, "a.zip"), &repo.archive("", &commit));
            assert_eq!(
                built.summary.requests,
                disk.calls.lock().unwrap().len() as u64,
                "the requests are counted"
            );
            last = Some(CommitId::new(&commit).unwrap());
        }
    }
    assert!(reused > 32, "{reused} of 64 were reused");
}

#[tokio::test]
async fn one_changed_file_of_9000_takes_three_requests_to_codecommit() {
    let fixture = ReuseFixture::with_page(400);
    let paths: Vec<String> = (0..9000)
        .map(|n| format!("folder{}/sub{}/file{n}.txt", n % 30, n % 300))
        .collect();
    let mut files: Vec<_> = paths
        .iter()
        .map(|path| (path.as_str(), Entry::file(format!("content of {path}\n"))))
        .collect();
    files.push((".gitattributes", Entry::file("*.txt text=auto\n")));
    let first = fixture.commit(&[], &files);
    let full = fixture.build("a.zip", first, None).await;
    assert!(full.summary.requests > 9000);

    let second = fixture.commit(&[first], &[(&paths[4711], Entry::file("changed\n"))]);
    let previous = fixture.previous("a.zip", first).await;
    let traffic = fixture.codecommit.traffic();
    let before = traffic.calls().len();
    let built = fixture.build("b.zip", second, Some(previous)).await;
    assert_eq!(built.full_run, None);
    assert_eq!(built.summary.reused_files, 9000);
    assert_eq!(built.summary.requests, 3);
    assert_eq!(
        traffic.calls()[before..],
        ["get_commit", "get_differences", "get_blob", "get_blob"],
        "the differences, the attributes, and the changed file"
    );
    let ranges = fixture.store.traffic().count("get");
    let megabytes = built.summary.size_bytes.div_ceil(2 * 1024 * 1024);
    assert_eq!(ranges as u64, megabytes, "each range is read once");
    fixture.build("full.zip", second, None).await;
    assert!(fixture.bytes("b.zip") == fixture.bytes("full.zip"));
}

/// Large entries and many parts: entries span ranges, and headers are split between them.
#[tokio::test]
async fn entries_over_several_ranges_and_parts_are_copied() {
    let fixture = ReuseFixture::with_page(400);
    let contents: Vec<Vec<u8>> = (0..9)
        .map(|n| {
            noise(
                n,
                (1 << 21) + usize::try_from(n).unwrap() * 37_411 - 120_000,
            )
        })
        .collect();
    let names: Vec<String> = (0..9).map(|n| format!("d/{n}")).collect();
    let mut files: Vec<_> = names
        .iter()
        .zip(&contents)
        .map(|(name, content)| (name.as_str(), Entry::file(content)))
        .collect();
    let small: Vec<String> = (0..40_000)
        .map(|n| format!("s/{}/{n:0>60}", n % 7))
        .collect();
    files.extend(small.iter().map(|name| (name.as_str(), Entry::file("s"))));
    let first = fixture.commit(&[], &files);
    fixture.build("a.zip", first, None).await;
    let previous = fixture.previous("a.zip", first).await;
    let changes = [
        ("d/4", Entry::file("small now")),
        ("d/10", Entry::file(noise(77, 1 << 20))),
        ("s/3/x", Entry::symlink("y")),
    ];
    let second = fixture.commit(&[first], &changes);
    let built = fixture.build("b.zip", second, Some(previous)).await;
    assert_eq!(built.full_run, None);
    fixture.build("full.zip", second, None).await;
    assert!(fixture.bytes("b.zip") == fixture.bytes("full.zip"));
    assert!(
        built.summary.peak_held_bytes <= 16 << 20,
        "{} bytes are held",
        built.summary.peak_held_bytes
    );
}
