//! Copies of packs on the disk: what they save, and what they take.

use std::collections::BTreeSet;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use branchline_core::ErrorKind;
use branchline_core::git::HashKind;
use branchline_core::git::pack::PackLimits;
use branchline_core::pack_cache::PackCache;
use branchline_core::remote::s3_bundle::{BundleOptions, BundleRemote};
use branchline_core::remote::{PackRequest, Remote};
use branchline_core::storage::ObjectStore;
use tempfile::TempDir;

use crate::remote::s3_bundle::check_bundle;
use crate::remote::s3_bundle_fixture::{World, collect, fetch_all, mirror_all};
use branchline_test_support::repo::{Repo, history};

/// Parts may be that short.
pub(crate) const LEAST: usize = 2000;

/// A bucket, and a disk with copies.
pub(crate) struct Disk {
    pub(crate) world: World,
    dir: TempDir,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self {
            world: World::new(LEAST),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.path().join("copies")
    }

    /// What another function opens over the same bucket, with copies or none.
    pub(crate) fn opened(&self, prefix: &str, copies: Option<PackCache>) -> BundleRemote {
        let options = BundleOptions {
            part_bytes: LEAST,
            copies: copies.map(Arc::new),
            ..self.world.options()
        };
        self.world.remote_with(prefix, options)
    }

    /// The same, over a store that may fail.
    pub(crate) fn over(&self, store: Arc<dyn ObjectStore>, prefix: &str) -> BundleRemote {
        let options = BundleOptions {
            part_bytes: LEAST,
            copies: Some(Arc::new(PackCache::open(&self.folder()).unwrap())),
            ..self.world.options()
        };
        self.world.remote_over(store, prefix, options)
    }

    /// A function's remote, on this disk.
    pub(crate) fn remote(&self, prefix: &str) -> BundleRemote {
        self.opened(prefix, Some(PackCache::open(&self.folder()).unwrap()))
    }

    /// All files with their lengths.
    pub(crate) fn files(&self) -> Vec<(PathBuf, u64)> {
        files(&self.folder())
    }

    pub(crate) fn taken(&self) -> u64 {
        self.files().iter().map(|(_, size)| size).sum()
    }

    /// Those of records, or of segments.
    pub(crate) fn of_kind(&self, extension: &str) -> Vec<PathBuf> {
        let files = self.files().into_iter().map(|(path, _)| path);
        files
            .filter(|path| path.extension().is_some_and(|found| found == extension))
            .collect()
    }

    /// The bundle of a ref, which must be one that git takes.
    pub(crate) async fn check(&self, repo: &Repo, prefix: &str, branch: &str) -> Vec<u8> {
        let id = repo.id(branch).to_string();
        let key = format!("{prefix}/refs/heads/{branch}/{id}.bundle");
        let bundle = self.world.get(&key).await;
        check_bundle(&bundle, &id, Some(repo));
        bundle.to_vec()
    }

    /// How often a method was called, and how many bytes that carried.
    fn traffic(&self, name: &str) -> (usize, u64) {
        let traffic = self.world.store.traffic();
        (traffic.count(name), traffic.bytes(name))
    }
}

fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.path(), entry.metadata().unwrap().len())
        })
        .collect();
    files.sort();
    files
}

/// A repository of one branch, with a history.
pub(crate) fn repository() -> Repo {
    let repo = Repo::new(HashKind::Sha1);
    repo.input(&["fast-import", "--quiet"], &history(0, 30, 20));
    repo.git(&["update-ref", "-d", "refs/heads/side"]);
    repo
}

/// Another commit on a branch, of one small file.
pub(crate) fn commit(repo: &Repo, branch: &str, number: usize) {
    let change = format!(
        "commit refs/heads/{branch}\ncommitter C <c@x> {} +0000\ndata 1\nx\n\
         from refs/heads/main^0\nM 100644 inline small\ndata 2\n{:02}\n",
        1_700_000_000 + number,
        number % 100
    );
    repo.input(&["fast-import", "--quiet", "--force"], change.as_bytes());
}

/// The pack in a bundle.
fn pack(bundle: &[u8]) -> &[u8] {
    let end = bundle.windows(2).position(|two| two == b"\n\n").unwrap();
    &bundle[end + 2..]
}

#[tokio::test]
async fn a_push_on_a_pack_that_is_here_reads_of_it_only_what_proves_it() {
    let disk = Disk::new();
    let repo = repository();
    mirror_all(&repo, &disk.remote("r")).await.unwrap();
    for number in 0..3 {
        commit(&repo, "main", number);
        let calls = disk.world.store.traffic().calls().len();
        let (_, before) = disk.traffic("get");
        mirror_all(&repo, &disk.remote("r")).await.unwrap();
        let (_, after) = disk.traffic("get");
        let mut calls = disk.world.store.traffic().calls().split_off(calls);
        let bundle = disk.check(&repo, "r", "main").await;
        assert_eq!(
            after - before,
            4096 + 20 + "refs/heads/main".len() as u64,
            "the start and the end of the old bundle, and HEAD, of {}",
            bundle.len()
        );
        let mut expected = vec![
            "list",
            "get", // what there is, and HEAD
            "get",
            "get", // what proves the copy
            "put",
            "list", // the lock, and whether all is as it was
            "create_upload",
            "upload_part",
            "upload_part_copy",
            "upload_part",
            "head", // whether what was copied still is what was read
            "put",
            "complete_upload", // the lock names the upload, which publishes
            "put",
            "list", // whether the lock is ours and the ref has moved
            "delete",
            "delete", // the old bundle, and the lock
        ];
        calls.sort_unstable();
        expected.sort_unstable();
        assert_eq!(calls, expected);
    }
}

#[tokio::test]
async fn the_index_of_a_copy_is_the_one_that_git_makes_of_the_pack() {
    for hash in [HashKind::Sha1, HashKind::Sha256] {
        let disk = Disk::new();
        let repo = Repo::with_history(hash, 12, 20);
        mirror_all(&repo, &disk.remote("r")).await.unwrap();
        commit(&repo, "main", 1);
        repo.input(&["fast-import", "--quiet"], &history(100, 3, 20));
        mirror_all(&repo, &disk.remote("r")).await.unwrap();
        // Read whole, by one that has no copies.
        let folder = tempfile::tempdir().unwrap();
        let copies = PackCache::open(&folder.path().join("c")).unwrap();
        let reader = disk.opened("r", Some(copies));
        commit(&repo, "main", 2);
        mirror_all(&repo, &reader).await.unwrap();
        let mut seen = 0;
        let folders = [disk.folder(), folder.path().join("c")];
        let records: BTreeSet<PathBuf> = folders
            .iter()
            .flat_map(|folder| files(folder))
            .map(|(path, _)| path)
            .filter(|path| path.extension().is_some_and(|found| found == "copy"))
            .collect();
        let mut indexes = std::collections::BTreeMap::new();
        for (key, _) in disk.world.objects().await {
            if key.ends_with(".bundle") {
                let bundle = disk.world.get(&key).await;
                let pack = pack(&bundle);
                let trailer = hex(&pack[pack.len() - hash.len_in_bytes()..]);
                indexes.insert(trailer, Repo::new(hash).index_pack(pack, false));
            }
        }
        for record in records {
            let name = record.file_stem().unwrap().to_str().unwrap().to_owned();
            let Some(expected) = indexes.get(&name) else {
                continue; // Of a bundle that is not there any more.
            };
            let bytes = std::fs::read(record).unwrap();
            let start = bytes.len() - expected.len();
            assert!(bytes[start..] == **expected, "the index of {name}");
            seen += 1;
        }
        assert!(seen >= 3, "{seen} were compared");
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[tokio::test]
async fn a_bundle_that_was_read_whole_need_not_be_read_again() {
    // The second one holds no pack of that size.
    for memory in [128 << 20, 256 << 10] {
        let disk = Disk::new();
        let repo = repository();
        // Written by a function on another disk.
        mirror_all(&repo, &disk.opened("r", None)).await.unwrap();
        let size = disk.world.objects().await.values().max().copied().unwrap();
        assert!(size > 64 << 10, "a quarter of the memory");
        let open = || {
            let options = BundleOptions {
                part_bytes: LEAST,
                copies: Some(Arc::new(PackCache::open(&disk.folder()).unwrap())),
                limits: PackLimits::default().with_memory(memory),
                ..disk.world.options()
            };
            disk.world.remote_with("r", options)
        };
        let mut read = Vec::new();
        for number in 1..=2 {
            commit(&repo, "main", number);
            let (_, before) = disk.traffic("get");
            mirror_all(&repo, &open()).await.unwrap();
            let (_, after) = disk.traffic("get");
            read.push(after - before);
        }
        assert!(read[0] > size, "it is read");
        // Where little is held, some of it is read back to make sense of deltas.
        assert!(read[0] < size * 3 / 2, "once, not {} bytes", read[0]);
        assert!(read[1] < 5000, "{} bytes are read again", read[1]);
        disk.check(&repo, "r", "main").await;
    }
}

#[tokio::test]
async fn a_source_sends_what_is_here() {
    let disk = Disk::new();
    let repo = repository();
    mirror_all(&repo, &disk.remote("r")).await.unwrap();
    let id = repo.id("main");
    let source = disk.remote("r").source(&[]).await.unwrap();
    let (_, before) = disk.traffic("get");
    for haves in [vec![], vec![repo.id("main~3")]] {
        let wanted = PackRequest {
            wants: vec![id],
            haves,
            thin: false,
            offset_deltas: true,
        };
        let pack = collect(source.fetch(&wanted).await.unwrap()).await.unwrap();
        repo.index_pack(&pack, false);
    }
    let (_, after) = disk.traffic("get");
    assert!(after - before < 9000, "{} bytes are read", after - before);
    assert_eq!(fetch_all(&disk.remote("r")).await.refs(), repo.refs());
}

#[tokio::test]
async fn refs_of_one_history_share_what_they_have_in_common() {
    let disk = Disk::new();
    let repo = repository();
    for n in 0..20 {
        commit(&repo, &format!("topic-{n}"), n);
    }
    mirror_all(&repo, &disk.remote("r")).await.unwrap();
    let bundles: u64 = disk.world.objects().await.values().sum();
    let one = bundles / 21;
    let segments = disk.of_kind("entries");
    let entries: u64 = segments
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum();
    assert!(entries < 2 * one, "{entries} bytes for 21 packs of {one}");
    // Each is as good as any other.
    let (_, before) = disk.traffic("get");
    for n in 0..20 {
        repo.git(&["branch", "-f", "main", &format!("topic-{n}")]);
        commit(&repo, &format!("topic-{n}"), 100 + n);
    }
    mirror_all(&repo, &disk.remote("r")).await.unwrap();
    let (_, after) = disk.traffic("get");
    // The starts of bundles, and no bundle.
    assert!(after - before < 3 * one, "{} bytes", after - before);
    for n in 0..20 {
        disk.check(&repo, "r", &format!("topic-{n}")).await;
    }
}

#[tokio::test]
async fn many_pushes_leave_few_files() {
    let disk = Disk::new();
    let repo = repository();
    for number in 0..40 {
        mirror_all(&repo, &disk.remote("r")).await.unwrap();
        commit(&repo, "main", number);
    }
    mirror_all(&repo, &disk.remote("r")).await.unwrap();
    disk.check(&repo, "r", "main").await;
    // What was replaced has no copy any more.
    let [newest] = &disk.of_kind("copy")[..] else {
        panic!("one bundle, one copy: {:?}", disk.files());
    };
    let record = std::fs::read(newest).unwrap();
    let segments = record["branchline copy 1\n".len()];
    assert!((2..=16).contains(&segments), "{segments} segments");
    let (_, before) = disk.traffic("get");
    commit(&repo, "main", 50);
    mirror_all(&repo, &disk.remote("r")).await.unwrap();
    let (_, after) = disk.traffic("get");
    assert!(after - before < 5000, "the copy still serves");
}

#[tokio::test]
async fn copies_take_no_more_than_they_may_and_the_oldest_go_first() {
    let disk = Disk::new();
    let repo = repository();
    mirror_all(&repo, &disk.remote("one")).await.unwrap();
    let one = disk.taken();
    // Room for two and a half, and for what is written ahead.
    let bound = one * 5 / 2 + (1 << 20);
    let bounded = |prefix: &str| {
        let copies = PackCache::open(&disk.folder())
            .unwrap()
            .with_max_bytes(bound);
        disk.opened(prefix, Some(copies))
    };
    for (number, prefix) in ["two", "one", "three", "one", "four"]
        .into_iter()
        .enumerate()
    {
        // Other history each time: nothing is shared.
        repo.input(
            &["fast-import", "--quiet"],
            &history(100 * (number + 1), 6, 20),
        );
        mirror_all(&repo, &bounded(prefix)).await.unwrap();
        disk.check(&repo, prefix, "main").await;
        assert!(disk.taken() <= bound, "{} of {bound}", disk.taken());
    }
    // A folder of which nothing may be taken is as good as none.
    let none = PackCache::open(&disk.dir.path().join("none"))
        .unwrap()
        .with_max_bytes(0);
    let remote = disk.opened("none", Some(none));
    mirror_all(&repo, &remote).await.unwrap();
    commit(&repo, "main", 1);
    mirror_all(&repo, &remote).await.unwrap();
    disk.check(&repo, "none", "main").await;
    assert!(files(&disk.dir.path().join("none")).is_empty());
}

#[test]
fn the_folder_and_its_files_are_this_users_alone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("new");
    PackCache::open(&folder).unwrap();
    let mode = folder.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let open = dir.path().join("open");
    std::fs::DirBuilder::new()
        .mode(0o755)
        .create(&open)
        .unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&folder, &link).unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for bad in [open, link, file, dir.path().join("no/parent")] {
        let error = PackCache::open(&bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(bad.to_str().unwrap()), "{error}");
    }
}

#[tokio::test]
async fn files_of_copies_are_readable_by_nobody_else() {
    let disk = Disk::new();
    mirror_all(&repository(), &disk.remote("r")).await.unwrap();
    assert!(disk.files().len() >= 2);
    for (path, _) in disk.files() {
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
}
