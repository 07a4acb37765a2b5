//! The pack cache: requests that it saves, and space that it uses.

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
use crate::remote::s3_bundle_fixture::{BundleFixture, collect, fetch_all, mirror_all};
use branchline_test_support::repo::{Repo, history};

/// Minimum size of a part in these tests.
pub(crate) const MIN_PART_BYTES: usize = 2000;

/// A bucket, and a disk with a pack cache.
pub(crate) struct Disk {
    pub(crate) world: BundleFixture,
    dir: TempDir,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self {
            world: BundleFixture::new(MIN_PART_BYTES),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Returns the directory of the cache.
    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// Opens a remote over the same bucket, with this cache or none.
    pub(crate) fn opened(&self, prefix: &str, cache: Option<PackCache>) -> BundleRemote {
        let options = BundleOptions {
            min_part_bytes: MIN_PART_BYTES,
            pack_cache: cache.map(Arc::new),
            ..self.world.options()
        };
        self.world.remote_with(prefix, options)
    }

    /// Opens a remote with this disk's cache, over a store that may fail.
    pub(crate) fn over(&self, store: Arc<dyn ObjectStore>, prefix: &str) -> BundleRemote {
        let options = BundleOptions {
            min_part_bytes: MIN_PART_BYTES,
            pack_cache: Some(Arc::new(PackCache::open(&self.folder()).unwrap())),
            ..self.world.options()
        };
        self.world.remote_over(store, prefix, options)
    }

    /// Opens a remote with this disk's cache, as a new process does.
    pub(crate) fn remote(&self, prefix: &str) -> BundleRemote {
        self.opened(prefix, Some(PackCache::open(&self.folder()).unwrap()))
    }

    /// Lists the files of the cache with their lengths.
    pub(crate) fn files(&self) -> Vec<(PathBuf, u64)> {
        files(&self.folder())
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.files().iter().map(|(_, size)| size).sum()
    }

    /// Lists the records (`copy`) or the segments (`entries`).
    pub(crate) fn of_kind(&self, extension: &str) -> Vec<PathBuf> {
        let files = self.files().into_iter().map(|(path, _)| path);
        files
            .filter(|path| path.extension().is_some_and(|found| found == extension))
            .collect()
    }

    /// Reads the bundle of a branch, and checks it with git.
    pub(crate) async fn check(&self, repo: &Repo, prefix: &str, branch: &str) -> Vec<u8> {
        let id = repo.id(branch).to_string();
        let key = format!("{prefix}/refs/heads/{branch}/{id}.bundle");
        let bundle = self.world.get(&key).await;
        check_bundle(&bundle, &id, Some(repo));
        bundle.to_vec()
    }

    /// Returns the number of calls of a method, and the number of transferred bytes.
    fn traffic(&self, name: &str) -> (usize, u64) {
        let traffic = self.world.store.traffic();
        (traffic.count(name), traffic.bytes(name))
    }
}

/// Lists the files of the folder, without those that are removed meanwhile.
fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.unwrap();
            Some((entry.path(), entry.metadata().ok()?.len()))
        })
        .collect();
    files.sort();
    files
}

/// Creates a repository with a history on one branch.
pub(crate) fn repository() -> Repo {
    let repo = Repo::new(HashKind::Sha1);
    repo.input(&["fast-import", "--quiet"], &history(0, 30, 20));
    repo.git(&["update-ref", "-d", "refs/heads/side"]);
    repo
}

/// Adds a commit of one small file to a branch.
pub(crate) fn commit(repo: &Repo, branch: &str, number: usize) {
    let change = format!(
        "commit refs/heads/{branch}\ncommitter C <c@x> {} +0000\ndata 1\nx\n\
         from refs/heads/main^0\nM 100644 inline small\ndata 2\n{:02}\n",
        1_700_000_000 + number,
        number % 100
    );
    repo.input(&["fast-import", "--quiet", "--force"], change.as_bytes());
}

/// Returns the pack in a bundle.
fn pack(bundle: &[u8]) -> &[u8] {
    let end = bundle.windows(2).position(|two| two == b"\n\n").unwrap();
    &bundle[end + 2..]
}

#[tokio::test]
async fn a_push_onto_a_cached_pack_reads_only_header_and_trailer_of_the_bundle() {
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
            "get", // the refs, and HEAD
            "get",
            "get", // header and trailer of the old bundle
            "put",
            "list", // the lock, and whether the ref is unchanged
            "create_upload",
            "upload_part",
            "upload_part_copy",
            "upload_part",
            "head", // whether the copied bundle was replaced
            "put",
            "complete_upload", // the lock names the upload, which then publishes
            "put",
            "list", // whether the lock is ours and the ref has moved
            "delete",
            "delete", // the old bundle, and the lock
            "list",   // of temporary objects
        ];
        calls.sort_unstable();
        expected.sort_unstable();
        assert_eq!(calls, expected);
    }
}

#[tokio::test]
async fn the_index_of_a_cached_pack_equals_that_of_git_index_pack() {
    for hash in [HashKind::Sha1, HashKind::Sha256] {
        let disk = Disk::new();
        let repo = Repo::with_history(hash, 12, 20);
        mirror_all(&repo, &disk.remote("r")).await.unwrap();
        commit(&repo, "main", 1);
        repo.input(&["fast-import", "--quiet"], &history(100, 3, 20));
        mirror_all(&repo, &disk.remote("r")).await.unwrap();
        // A reader with an empty cache reads everything.
        let folder = tempfile::tempdir().unwrap();
        let cache = PackCache::open(&folder.path().join("c")).unwrap();
        let reader = disk.opened("r", Some(cache));
        commit(&repo, "main", 2);
        mirror_all(&repo, &reader).await.unwrap();
        let mut compared = 0;
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
                continue; // Its bundle was deleted.
            };
            let bytes = std::fs::read(record).unwrap();
            let start = bytes.len() - expected.len();
            assert!(bytes[start..] == **expected, "the index of {name}");
            compared += 1;
        }
        assert!(compared >= 3, "{compared} were compared");
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
async fn a_bundle_that_was_read_once_is_not_read_again() {
    // With the second limit the pack does not fit into memory.
    for memory in [128 << 20, 256 << 10] {
        let disk = Disk::new();
        let repo = repository();
        // Written by a process without this cache.
        mirror_all(&repo, &disk.opened("r", None)).await.unwrap();
        let size = disk.world.objects().await.values().max().copied().unwrap();
        assert!(size > 64 << 10, "a quarter of the memory");
        let open = || {
            let options = BundleOptions {
                min_part_bytes: MIN_PART_BYTES,
                pack_cache: Some(Arc::new(PackCache::open(&disk.folder()).unwrap())),
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
        assert!(read[0] > size, "the first push reads the bundle");
        // With little memory, bases of deltas are read again.
        assert!(
            read[0] < size * 3 / 2,
            "the bundle is read once, not {} bytes",
            read[0]
        );
        assert!(read[1] < 5000, "{} bytes are read again", read[1]);
        disk.check(&repo, "r", "main").await;
    }
}

#[tokio::test]
async fn a_source_serves_fetches_from_the_cache() {
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
async fn packs_of_branches_with_a_common_history_share_segments() {
    let disk = Disk::new();
    let repo = repository();
    for n in 0..20 {
        commit(&repo, &format!("topic-{n}"), n);
    }
    mirror_all(&repo, &disk.remote("r")).await.unwrap();
    let bundles: u64 = disk.world.objects().await.values().sum();
    let bundle = bundles / 21;
    let segments = disk.of_kind("entries");
    let entries: u64 = segments
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum();
    assert!(
        entries < 2 * bundle,
        "{entries} bytes for 21 packs of {bundle}"
    );
    // Each of the packs is usable.
    let (_, before) = disk.traffic("get");
    for n in 0..20 {
        repo.git(&["branch", "-f", "main", &format!("topic-{n}")]);
        commit(&repo, &format!("topic-{n}"), 100 + n);
    }
    mirror_all(&repo, &disk.remote("r")).await.unwrap();
    let (_, after) = disk.traffic("get");
    // Only headers and trailers of the bundles are read.
    assert!(after - before < 3 * bundle, "{} bytes", after - before);
    for n in 0..20 {
        disk.check(&repo, "r", &format!("topic-{n}")).await;
    }
}

#[tokio::test]
async fn many_pushes_leave_one_record_and_few_segments() {
    let disk = Disk::new();
    let repo = repository();
    for number in 0..40 {
        mirror_all(&repo, &disk.remote("r")).await.unwrap();
        commit(&repo, "main", number);
    }
    mirror_all(&repo, &disk.remote("r")).await.unwrap();
    disk.check(&repo, "r", "main").await;
    // Packs of replaced bundles were removed.
    let [newest] = &disk.of_kind("copy")[..] else {
        panic!("one bundle has one cached pack: {:?}", disk.files());
    };
    let record = std::fs::read(newest).unwrap();
    let segments = record["branchline copy 1\n".len()];
    assert!((2..=16).contains(&segments), "{segments} segments");
    let (_, before) = disk.traffic("get");
    commit(&repo, "main", 50);
    mirror_all(&repo, &disk.remote("r")).await.unwrap();
    let (_, after) = disk.traffic("get");
    assert!(after - before < 5000, "the merged pack is still usable");
}

#[tokio::test]
async fn the_cache_keeps_to_its_limit_and_evicts_the_least_recently_used() {
    let disk = Disk::new();
    let repo = repository();
    mirror_all(&repo, &disk.remote("one")).await.unwrap();
    let pack = disk.used_bytes();
    // Space for two and a half packs, and for the space that a writer reserves.
    let bound = pack * 5 / 2 + (1 << 20);
    let bounded = |prefix: &str| {
        let cache = PackCache::open(&disk.folder())
            .unwrap()
            .with_max_bytes(bound);
        disk.opened(prefix, Some(cache))
    };
    for (number, prefix) in ["two", "one", "three", "one", "four"]
        .into_iter()
        .enumerate()
    {
        // A different history each time, so that no segment is shared.
        repo.input(
            &["fast-import", "--quiet"],
            &history(100 * (number + 1), 6, 20),
        );
        mirror_all(&repo, &bounded(prefix)).await.unwrap();
        disk.check(&repo, prefix, "main").await;
        assert!(
            disk.used_bytes() <= bound,
            "{} of {bound}",
            disk.used_bytes()
        );
    }
    // With a limit of 0 bytes pushes work as without a cache.
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
fn a_directory_that_others_may_access_is_refused() {
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
async fn files_of_the_cache_are_readable_only_by_this_user() {
    let disk = Disk::new();
    mirror_all(&repository(), &disk.remote("r")).await.unwrap();
    assert!(disk.files().len() >= 2);
    for (path, _) in disk.files() {
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
}
