//! The object database against `git rev-list`, `git pack-objects` and `git index-pack`.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use branchline_core::git::object::{ObjectKind, id_of, loose_path};
use branchline_core::git::odb::{
    Database, DatabaseOptions, LooseObjects, PackOptions, StoredPack, commit_graph, fetch,
    pack_objects, reachable_objects,
};
use branchline_core::git::pack::{Bases as _, Index, PackBytes, PackLimits};
use branchline_core::git::{ErrorKind, HashKind, ObjectId, Result};
use branchline_core::remote::{PackBody, PackRequest};
use bytes::Bytes;
use futures_util::StreamExt as _;

use branchline_test_support::repo::Repo;

/// Counts the ranges that are read.
#[derive(Default)]
pub(crate) struct Reads {
    pub requests: AtomicU64,
    pub bytes: AtomicU64,
    pub ranges: Mutex<Vec<Range<u64>>>,
}

struct Counted(Bytes, Arc<Reads>);

#[async_trait]
impl PackBytes for Counted {
    async fn read_range(&self, range: Range<u64>) -> Result<Bytes> {
        self.1.requests.fetch_add(1, Ordering::Relaxed);
        let length = range.end - range.start;
        self.1.bytes.fetch_add(length, Ordering::Relaxed);
        self.1.ranges.lock().unwrap().push(range.clone());
        self.0.read_range(range).await
    }
}

pub(crate) struct Folder(pub PathBuf);

#[async_trait]
impl LooseObjects for Folder {
    async fn open(&self, id: ObjectId) -> Result<Option<PackBody>> {
        let Ok(bytes) = std::fs::read(self.0.join(loose_path(id))) else {
            return Ok(None);
        };
        // In small chunks, some of them empty.
        let pieces: Vec<_> = bytes
            .chunks(1000)
            .flat_map(|piece| [Bytes::copy_from_slice(piece), Bytes::new()])
            .map(Ok)
            .collect();
        Ok(Some(Box::pin(futures_util::stream::iter(pieces))))
    }
}

/// Reads the packs of a repository, the largest first.
pub(crate) fn packs(repo: &Repo) -> Vec<(Bytes, Index)> {
    let folder = std::fs::read_dir(repo.path.join("objects/pack")).unwrap();
    let mut packs: Vec<_> = folder
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "pack"))
        .map(|path| {
            let index = std::fs::read(path.with_extension("idx")).unwrap();
            let index = Index::parse(repo.hash, index.into()).unwrap();
            (Bytes::from(std::fs::read(path).unwrap()), index)
        })
        .collect();
    packs.sort_by_key(|(bytes, index)| (std::cmp::Reverse(bytes.len()), index.pack_id()));
    packs
}

pub(crate) fn database(
    hash: HashKind,
    packs: Vec<(Bytes, Index)>,
    loose: Option<Arc<dyn LooseObjects>>,
    options: DatabaseOptions,
) -> (Arc<Database>, Arc<Reads>) {
    let reads = Arc::new(Reads::default());
    let packs = packs.into_iter().map(|(bytes, index)| StoredPack {
        index,
        size_bytes: bytes.len() as u64,
        bytes: Arc::new(Counted(bytes, Arc::clone(&reads))),
    });
    let database = Database::new(hash, packs, loose, options).unwrap();
    (Arc::new(database), reads)
}

pub(crate) fn open(repo: &Repo) -> Arc<Database> {
    let loose = Arc::new(Folder(repo.path.join("objects")));
    let options = DatabaseOptions {
        limits: PackLimits::default().with_memory(4 << 20),
        block_bytes: 32 << 10,
    };
    database(repo.hash, packs(repo), Some(loose), options).0
}

pub(crate) async fn all(mut body: PackBody) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    while let Some(piece) = body.next().await {
        out.extend_from_slice(&piece?);
    }
    Ok(out)
}

/// Formats wants and haves as lines for git's standard input.
pub(crate) fn lines(wants: &[ObjectId], haves: &[ObjectId]) -> Vec<u8> {
    let wants = wants.iter().map(ObjectId::to_string);
    let haves = haves.iter().map(|id| format!("^{id}"));
    let lines: Vec<_> = wants.chain(haves).chain([String::new()]).collect();
    lines.join("\n").into_bytes()
}

/// Lists the objects by `git rev-list`.
pub(crate) fn listed(repo: &Repo, wants: &[ObjectId], haves: &[ObjectId]) -> BTreeSet<ObjectId> {
    let args = ["rev-list", "--objects", "--no-object-names", "--stdin"];
    let out = repo.input(&args, &lines(wants, haves));
    let ids = out.split(|&byte| byte == b'\n').filter(|l| !l.is_empty());
    ids.map(|hex| ObjectId::from_hex(hex).unwrap()).collect()
}

/// A history of unusual objects: an octopus, moved directories and files, submodules, an empty
/// tree, a change of a file's type, tags of tags, of trees and of blobs, commits without a common
/// ancestor, and dates that go backwards.
const MORE: &str = "\
commit refs/heads/other\ncommitter C <c@x> 1600000900 +0000\ndata 1\nx
M 100644 inline a/b/c/deep\ndata 5\ndeep\n
M 100644 inline a/b/top\ndata 4\ntop\n
M 160000 1111111111111111111111111111111111111111 sub

commit refs/heads/other\ncommitter C <c@x> 1500000000 +0000\ndata 1\nx
R a/b moved/below/there
M 100755 inline moved/exec\ndata 4\ntop\n

commit refs/heads/other\ncommitter C <c@x> 1600000100 +0000\ndata 1\nx
D sub
R moved/below/there/c/deep file
M 120000 inline moved/exec\ndata 4\ntop\n

commit refs/heads/emptied\ncommitter C <c@x> 1600000050 +0000\ndata 1\nx
from refs/heads/other
deleteall

commit refs/heads/octopus\ncommitter C <c@x> 1600000000 +0000\ndata 1\nx
from refs/heads/main
merge refs/heads/other
merge refs/heads/emptied
merge refs/heads/side
M 100644 inline octopus\ndata 1\no

commit refs/heads/same\ncommitter C <c@x> 1600000000 +0000\ndata 1\nx
from refs/heads/octopus

";

pub(crate) fn rich(hash: HashKind) -> Repo {
    let repo = Repo::with_history(hash, 60, 14);
    let more = match hash {
        HashKind::Sha256 => MORE.replace(&"1".repeat(40), &"1".repeat(64)),
        _ => MORE.to_owned(),
    };
    let start = "reset refs/heads/main\nfrom refs/heads/main^0\n\nreset refs/heads/side\nfrom refs/heads/side^0\n\n";
    repo.input(
        &["fast-import", "--quiet"],
        [start, &more].concat().as_bytes(),
    );
    repo.git(&["tag", "-a", "tree", "-m", "t", "main~3^{tree}"]);
    repo.git(&["tag", "-a", "blob", "-m", "b", "main:link"]);
    repo.git(&["tag", "-a", "of-tree", "-m", "b", "tree"]);
    repo.git(&["tag", "plain-tree", "octopus^{tree}"]);
    repo
}

/// Stores the objects of a repository in one `form`: loose, packed, or both.
pub(crate) fn lay(repo: &Repo, form: &str) {
    let unpack = || {
        for (bytes, _) in packs(repo) {
            let folder = repo.path.join("objects/pack");
            for entry in std::fs::read_dir(&folder).unwrap() {
                std::fs::remove_file(entry.unwrap().path()).unwrap();
            }
            repo.input(&["unpack-objects", "-q"], &bytes);
        }
    };
    match form {
        "loose" => {
            repo.git(&["repack", "-adfq"]);
            unpack();
        }
        "offsets" => {
            repo.git(&["repack", "-adfq"]);
        }
        "ids" => {
            repo.git(&["config", "repack.useDeltaBaseOffset", "false"]);
            repo.git(&["repack", "-adfq"]);
        }
        "several" | "mixed" => {
            repo.git(&["repack", "-adfq"]);
            unpack();
            // Overlapping packs, each with its own deltas.
            for revisions in ["main~40", "main~20", "side", "main~1\n^main~30", "octopus"] {
                let args = ["pack-objects", "--revs", "-q", "objects/pack/pack"];
                let input = format!("{revisions}\n");
                repo.input(&args, input.as_bytes());
            }
            if form == "several" {
                repo.git(&["repack", "-dq"]);
            }
            repo.git(&["prune-packed", "-q"]);
        }
        other => panic!("unknown form `{other}`"),
    }
}

/// Pairs of wants and haves.
const PAIRS: [(&[&str], &[&str]); 15] = [
    (&["main"], &[]),
    (&["main", "side", "nested", "of-tree", "blob"], &[]),
    (&["main"], &["main~1"]),
    (&["main"], &["main~7", "side~2"]),
    (&["nested"], &["main"]),
    (&["v1", "nested"], &["light"]),
    (&["nested"], &["v1"]),
    (&["octopus"], &["main"]),
    (&["octopus", "main", "same"], &["other", "main~9"]),
    (&["other"], &["other~1"]),
    (&["other~1"], &["other~2"]),
    (&["emptied"], &["main"]),
    (&["plain-tree"], &[]),
    (&["main"], &["main"]),
    (&["octopus", "tree"], &["main~30", "emptied", "blob"]),
];

/// Asserts that a pack has the objects that git lists, and that git accepts it.
async fn sends_what_git_lists(hash: HashKind, form: &str) {
    let repo = rich(hash);
    lay(&repo, form);
    let database = open(&repo);
    for (at, (want, have)) in PAIRS.into_iter().enumerate() {
        let what = format!("{hash} {form}: {want:?} without {have:?}");
        let wants: Vec<_> = want.iter().map(|name| repo.id(name)).collect();
        let mut haves: Vec<_> = have.iter().map(|name| repo.id(name)).collect();
        let expected = listed(&repo, &wants, &haves);
        // A have that the source does not know changes nothing.
        haves.push(id_of(hash, ObjectKind::Commit, b"stranger").unwrap());
        let found = reachable_objects(&database, &wants, &haves).await.unwrap();
        let ids: BTreeSet<_> = found.objects.iter().copied().collect();
        assert_eq!(ids.len(), found.objects.len(), "{what}: each once");
        let sent_too_much: Vec<_> = ids.difference(&expected).collect();
        let left_out: Vec<_> = expected.difference(&ids).collect();
        assert!(
            sent_too_much.is_empty() && left_out.is_empty(),
            "{what}: {sent_too_much:?} {left_out:?}"
        );
        // Each form is combined with each kind of pack, for some of the pairs.
        let ways = [(false, false), (true, false), (true, true), (false, true)];
        let (thin, offset_deltas) = ways[(at + form.len()) % ways.len()];
        let wanted = PackRequest {
            wants: wants.clone(),
            haves: haves.clone(),
            thin,
            offset_deltas,
        };
        let body = fetch(&database, &wanted).await.unwrap();
        let bytes = all(body).await.unwrap();
        taken(&repo, &bytes, &wants, &haves[..have.len()], thin, &what);
    }
}

#[tokio::test]
async fn loose_objects_are_sent_as_git_lists_them() {
    sends_what_git_lists(HashKind::Sha1, "loose").await;
}

#[tokio::test]
async fn a_pack_of_offset_deltas_is_sent_as_git_lists_it() {
    sends_what_git_lists(HashKind::Sha1, "offsets").await;
}

#[tokio::test]
async fn a_pack_of_deltas_by_id_is_sent_as_git_lists_it() {
    sends_what_git_lists(HashKind::Sha1, "ids").await;
}

#[tokio::test]
async fn overlapping_packs_are_sent_as_git_lists_them() {
    sends_what_git_lists(HashKind::Sha1, "several").await;
}

#[tokio::test]
async fn packs_and_loose_objects_are_sent_as_git_lists_them() {
    sends_what_git_lists(HashKind::Sha1, "mixed").await;
}

#[tokio::test]
async fn objects_of_sha256_are_sent_as_git_lists_them() {
    sends_what_git_lists(HashKind::Sha256, "mixed").await;
}

/// Has git index a pack in a repository with the haves, and checks that it then has the wants.
fn taken(
    source: &Repo,
    pack: &[u8],
    wants: &[ObjectId],
    haves: &[ObjectId],
    thin: bool,
    what: &str,
) {
    let receiver = Repo::new(source.hash);
    if !haves.is_empty() {
        let args = ["pack-objects", "--revs", "-q", "--stdout"];
        let before = source.input(&args, &lines(haves, &[]));
        receiver.input(&["index-pack", "--stdin", "--strict"], &before);
    }
    let mut args = vec!["index-pack", "--stdin", "--strict"];
    args.extend(thin.then_some("--fix-thin"));
    let (ok, _, error) = receiver.run(&args, pack);
    assert!(ok, "{what}: {error}");
    for (at, id) in wants.iter().chain(haves).enumerate() {
        let name = format!("refs/all/{at}");
        receiver.git(&["update-ref", &name, &id.to_string()]);
    }
    receiver.fsck();
}

#[tokio::test]
async fn histories_are_in_order_and_complete() {
    let repo = rich(HashKind::Sha1);
    let database = open(&repo);
    for (want, have) in PAIRS {
        let wants: Vec<_> = want.iter().map(|name| repo.id(name)).collect();
        let haves: Vec<_> = have.iter().map(|name| repo.id(name)).collect();
        let commits = commit_graph(&database, &wants, &haves).await.unwrap();
        let mut args = vec!["rev-list", "--parents"];
        args.extend(
            want.iter()
                .filter(|name| !name.contains("tree") && **name != "blob"),
        );
        args.push("--not");
        args.extend(have.iter().filter(|name| **name != "blob"));
        let expected: BTreeSet<String> = if args[2] == "--not" {
            BTreeSet::new()
        } else {
            repo.git(&args).lines().map(str::to_owned).collect()
        };
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let ours: BTreeSet<_> = commits.iter().map(|commit| commit.id).collect();
        for commit in &commits {
            let mut line = vec![commit.id.to_string()];
            for parent in &commit.parents {
                assert!(
                    seen.contains(parent) || !ours.contains(parent),
                    "parents must precede children"
                );
                line.push(parent.to_string());
            }
            seen.insert(commit.id);
            found.insert(line.join(" "));
            assert_eq!(repo.id(&format!("{}^{{tree}}", commit.id)), commit.tree);
            let time = repo.git(&["show", "-s", "--format=%ct", &commit.id.to_string()]);
            assert_eq!(commit.time.to_string(), time);
        }
        assert_eq!(found, expected, "{want:?} without {have:?}");
    }
    let tag = repo.id("nested");
    let peeled = database.peel(tag).await.unwrap();
    assert_eq!(peeled, (repo.id("main"), ObjectKind::Commit));
    let peeled = database.peel(repo.id("of-tree")).await.unwrap();
    assert_eq!(peeled, (repo.id("main~3^{tree}"), ObjectKind::Tree));
    let stranger = id_of(HashKind::Sha1, ObjectKind::Blob, b"stranger").unwrap();
    let error = database.peel(stranger).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!database.contains(stranger).await.unwrap());
    assert!(database.base(stranger).await.unwrap().is_none());
}

#[tokio::test]
async fn a_file_copied_from_an_unchanged_directory_is_sent_as_git_may_do() {
    let repo = Repo::new(HashKind::Sha1);
    let script = "\
commit refs/heads/main\ncommitter C <c@x> 1 +0000\ndata 1\nx
M 100644 inline kept/file\ndata 3\nabc
M 100644 inline other/else\ndata 3\ndef

commit refs/heads/main\ncommitter C <c@x> 2 +0000\ndata 1\nx
C kept/file other/copy

";
    repo.input(&["fast-import", "--quiet"], script.as_bytes());
    let (wants, haves) = ([repo.id("main")], [repo.id("main~1")]);
    let found = reachable_objects(&open(&repo), &wants, &haves)
        .await
        .unwrap();
    let ours: BTreeSet<_> = found.objects.into_iter().collect();
    let mut expected = listed(&repo, &wants, &haves);
    expected.insert(repo.id("main:kept/file"));
    assert_eq!(
        ours, expected,
        "only the copied file may be sent in addition"
    );
    let args = [
        "pack-objects",
        "--revs",
        "--thin",
        "--sparse",
        "--stdout",
        "-q",
    ];
    let pack = repo.input(&args, &lines(&wants, &haves));
    let count = u32::from_be_bytes(*pack[8..].first_chunk().unwrap());
    assert_eq!(
        count as usize,
        ours.len(),
        "git's sparse walk must list equal objects"
    );
}

#[tokio::test]
async fn walks_read_each_part_of_a_pack_about_once() {
    let repo = Repo::with_history(HashKind::Sha1, 400, 60);
    lay(&repo, "offsets");
    let packs = packs(&repo);
    let size = packs[0].0.len() as u64;
    let tips = repo.git(&["for-each-ref", "--format=%(objectname)"]);
    let tips: Vec<_> = tips.lines().map(|hex| repo.id(hex)).collect();
    let block = 64 << 10;
    let options = DatabaseOptions {
        limits: PackLimits::default().with_memory(64 << 20),
        block_bytes: block,
    };
    let (database, reads) = database(repo.hash, packs, None, options);
    let found = reachable_objects(&database, &tips, &[]).await.unwrap();
    let walked = reads.requests.swap(0, Ordering::Relaxed);
    assert!(
        walked <= size.div_ceil(block),
        "{walked} requests for {size} bytes"
    );
    let body = pack_objects(&database, found.objects, PackOptions::default()).unwrap();
    let sent = all(body).await.unwrap();
    let copied = reads.requests.swap(0, Ordering::Relaxed);
    assert!(
        copied <= 2 + size / (4 << 20),
        "{copied} requests for {size} bytes, of which {} were sent",
        sent.len()
    );

    let newest = reachable_objects(&database, &[repo.id("main")], &[repo.id("main~1")])
        .await
        .unwrap();
    assert!(newest.objects.len() < 100);
    assert_eq!(
        reads.requests.load(Ordering::Relaxed),
        0,
        "cached blocks must not be read again"
    );
}

#[tokio::test]
async fn a_missing_object_is_named() {
    let repo = rich(HashKind::Sha1);
    let tip = repo.id("main");
    for revision in ["main:link", "main~5^{tree}", "main~9", "main:d0/e0"] {
        let id = repo.id(revision);
        let mut ids = listed(&repo, &[tip], &[]);
        ids.remove(&id);
        let ids: Vec<_> = ids.into_iter().collect();
        let bytes = repo.input(&["pack-objects", "--stdout", "-q"], &lines(&ids, &[]));
        let folder = Repo::new(repo.hash);
        let out = folder.input(&["index-pack", "--stdin"], &bytes);
        assert!(!out.is_empty());
        let error = reachable_objects(&open(&folder), &[tip], &[])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{revision}");
        assert!(error.to_string().contains(&id.to_string()), "{error}");
    }
    let stranger = id_of(HashKind::Sha1, ObjectKind::Commit, b"stranger").unwrap();
    let error = reachable_objects(&open(&repo), &[stranger], &[])
        .await
        .unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::NotFound,
        "a missing want must be named"
    );
}
